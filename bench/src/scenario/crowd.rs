//! One thread of a scenario's clients, who come, talk, leave and come again as its phases say.

use super::board::Board;
use super::clients::{Clients, Over};
use super::dues::{Due, Dues};
use super::file::{Act, Phase, Scenario, Traffic};
use crate::sys;
use crate::timer::{TIMER, Timer};
use crate::units::nanos;
use crate::ws::Plan;
use crate::ws::connection::{Desk, Next};
use crate::ws::tally::Tally;
use mio::{Events, Poll};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

/// What a thread found out.
pub struct Outcome {
    pub tally: Tally,
    /// Messages under way on connections that were ended on purpose.
    pub abandoned: u64,
}

/// Runs thread `index` to its end.
///
/// # Errors
/// Only what keeps the whole thread from working; connections' errors are counted.
pub fn run(plan: &Plan, scenario: &Scenario, index: usize, board: &Board) -> io::Result<Outcome> {
    sys::own_descriptor_table();
    let mut crowd = Crowd::new(plan, scenario, index, board)?;
    while crowd.stage != Stage::Done {
        crowd.turn()?;
    }
    Ok(crowd.finish())
}

struct Crowd<'a> {
    scenario: &'a Scenario,
    board: &'a Board,
    index: usize,
    poll: Poll,
    events: Option<Events>,
    timer: Timer,
    clients: Clients,
    desk: Desk,
    again: Vec<usize>,
    /// Places whose clients are to be dialled, the most urgent first.
    dials: BinaryHeap<Reverse<(u64, u32)>>,
    /// Those that dial or upgrade, and those that close, oldest first, with their deadlines.
    greeting: VecDeque<(u64, usize, u32)>,
    leaving: VecDeque<(u64, usize, u32)>,
    /// Messages that each client owes by itself.
    sends: Dues,
    stage: Stage,
    traffic: Traffic,
    /// Of the phase: what of its schedules is done.
    cursor: Cursor,
    abandoned: u64,
    write_at: u64,
    /// When the stage ends at the latest.
    deadline: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Before the first phase.
    Waiting,
    /// Within the phase of this number.
    Phase(usize),
    /// Nothing new is sent; echoes are waited for.
    Draining,
    Closing,
    Done,
}

#[derive(Default)]
struct Cursor {
    /// Places of a ramp or a burst, or clients that left.
    done: usize,
    /// Messages of a rate.
    sent: u64,
    next_open: usize,
    /// When slow readers read again.
    sip_at: u64,
}

impl<'a> Crowd<'a> {
    fn new(
        plan: &Plan,
        scenario: &'a Scenario,
        index: usize,
        board: &'a Board,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer = Timer::new(&poll)?;
        let mut tally = Tally::new();
        tally.window = (0, u64::MAX);
        let share = plan.shape.share(index);
        let desk = Desk {
            plan: plan.clone(),
            clock: board.clock,
            tally,
            pushers: None,
            sending: false,
            outstanding: 0,
            input: vec![0; INPUT_BYTES].into(),
            output: vec![0; plan.size + crate::frame::HEADER_MAX].into(),
        };
        Ok(Self {
            scenario,
            board,
            index,
            poll,
            events: Some(Events::with_capacity(EVENTS_MAX)),
            timer,
            clients: Clients::new(share, index, plan.shape.threads),
            desk,
            again: Vec::new(),
            dials: BinaryHeap::with_capacity(share),
            greeting: VecDeque::new(),
            leaving: VecDeque::new(),
            sends: Dues::with_capacity(share),
            stage: Stage::Waiting,
            traffic: Traffic::Rest,
            cursor: Cursor::default(),
            abandoned: 0,
            write_at: board.start + SECOND,
            deadline: u64::MAX,
        })
    }

    fn turn(&mut self) -> io::Result<()> {
        let mut events = self.events.take().expect("given back in each turn");
        let busy = !self.again.is_empty() || self.timer.overdue;
        let patience = if busy { Duration::ZERO } else { PATIENCE };
        match self.poll.poll(&mut events, Some(patience)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for place in std::mem::take(&mut self.again) {
            let next = self.clients.serve(place, None, &mut self.desk);
            self.settle(place, next);
        }
        for event in &events {
            if event.token() == TIMER {
                self.timer.on_event();
                continue;
            }
            let place = event.token().0;
            let next = self.clients.serve(place, Some(event), &mut self.desk);
            self.settle(place, next);
        }
        self.events = Some(events);
        let now = self.desk.clock.now();
        self.advance(now);
        if now >= self.write_at {
            self.write(now);
        }
        Ok(())
    }

    /// Sees what became of a client that was served.
    fn settle(&mut self, place: usize, next: Next) {
        if next == Next::Again {
            self.again.push(place);
        }
        if self.clients.has_opened(place) {
            self.schedule(place, self.desk.clock.now());
        }
        if let Some(over) = self.clients.bury(place) {
            self.after(place, over);
        }
    }

    /// Counts what a connection that is over has lost, and lets its client come again.
    fn after(&mut self, place: usize, over: Over) {
        let now = self.desk.clock.now();
        // What was missing at the end was counted as lost already.
        let counts = u64::from(self.stage != Stage::Closing);
        match over {
            Over::Left { lost } => {
                self.abandoned += lost * counts;
                self.come_again(place, now);
            }
            Over::Ended { lost } => {
                self.desk.tally.lost += lost * counts;
                if let Some(after) = self.scenario.reconnect {
                    self.come_again(place, now + nanos(after));
                }
            }
        }
    }

    /// Its first message is due as soon as it is connected.
    fn schedule(&mut self, place: usize, due: u64) {
        if let Traffic::Every(_) = self.traffic {
            let number = self.clients.number(place);
            self.sends.push(Due {
                at: due,
                due,
                place: place as u32,
                number,
            });
        }
    }

    fn come_again(&mut self, place: usize, due: u64) {
        if matches!(self.stage, Stage::Phase(_)) && self.clients.is_wanted(place) {
            self.dials.push(Reverse((due, place as u32)));
        }
    }

    fn advance(&mut self, now: u64) {
        if self.board.failed.load(Relaxed) {
            self.stage = Stage::Done;
        }
        self.expire(now);
        match self.stage {
            Stage::Waiting | Stage::Phase(_) => self.go_on(now),
            Stage::Draining => {
                if self.desk.outstanding == 0 || now >= self.deadline {
                    self.settle_all();
                    self.board.quiet.fetch_add(1, Relaxed);
                    self.deadline = now + nanos(self.desk.plan.grace);
                    self.stage = Stage::Closing;
                }
            }
            Stage::Closing => self.close_all(now),
            Stage::Done => {}
        }
    }

    /// Enters the phase that it is time for, and does what is due in it.
    fn go_on(&mut self, now: u64) {
        let board = self.board;
        let scenario = self.scenario;
        let Some(since) = now.checked_sub(board.start) else {
            self.timer.arm(Some(board.start), now);
            return;
        };
        let phases = &scenario.phases;
        let due = phases.iter().position(|phase| since < phase.until);
        let due = due.unwrap_or(phases.len());
        let mut index = match self.stage {
            Stage::Phase(index) => index,
            _ => self.begin_phase(0, now),
        };
        // One after another, though a thread came too late for some: each leaves its mark.
        while index < due {
            self.end_phase(&phases[index], now);
            index = self.begin_phase(index + 1, now);
        }
        let Some(phase) = phases.get(index) else {
            for Reverse((due, _)) in self.dials.drain() {
                if due <= now {
                    self.desk.tally.connect_failed("not dialled in time");
                }
            }
            self.sends.clear();
            self.deadline = now + nanos(self.desk.plan.grace);
            self.stage = Stage::Draining;
            return;
        };
        self.timer.overdue = false;
        let next = [
            self.act(phase, now),
            self.dial_due(now),
            self.send_due(now),
            self.rate_due(phase, now),
            Some(board.start + phase.until),
        ];
        self.timer.arm(next.into_iter().flatten().min(), now);
    }

    /// Enters the phase of this number, if there is one; the number again.
    fn begin_phase(&mut self, index: usize, now: u64) -> usize {
        self.stage = Stage::Phase(index);
        self.cursor = Cursor::default();
        let Some(phase) = self.scenario.phases.get(index) else {
            return index;
        };
        if self.traffic != phase.traffic {
            self.traffic = phase.traffic;
            self.spread(now);
        }
        match phase.act {
            Act::SlowReaders { share, .. } => self.clients.pause(share),
            Act::ReconnectStorm { share } => {
                for place in self.clients.drop_share(share, &mut self.desk) {
                    self.settle(place, Next::Wait);
                }
            }
            _ => {}
        }
        index
    }

    fn end_phase(&mut self, phase: &Phase, now: u64) {
        // What was due in it is done even if late: left out, a slow peer would look fast.
        let end = self.board.start + phase.until - 1;
        loop {
            self.timer.overdue = false;
            self.act(phase, end);
            self.send_due(end);
            self.rate_due(phase, end);
            if !self.timer.overdue {
                break;
            }
        }
        if let Act::SlowReaders { .. } = phase.act {
            self.again.extend(self.clients.resume(now));
        }
    }

    /// Gives each client its turn, evenly over the interval.
    fn spread(&mut self, now: u64) {
        self.sends.clear();
        let Traffic::Every(interval) = self.traffic else {
            return;
        };
        let open = self.clients.open().max(1);
        let mut turn = 0;
        for place in 0..self.clients.places() {
            if self.clients.is_open(place) {
                let after = u128::from(interval) * turn / u128::from(open);
                self.schedule(place, now + after as u64);
                turn += 1;
            }
        }
    }

    /// Does what the phase's act owes; when the next of it is due.
    fn act(&mut self, phase: &Phase, now: u64) -> Option<u64> {
        let from = self.board.start + phase.from;
        match phase.act {
            Act::Ramp { from: low, to } => self.ramp(phase, low, to, now),
            Act::Churn { leave } => self.churn(from, leave, now),
            Act::Burst { share, messages } => self.burst(from, share, messages),
            Act::SlowReaders { share, read } => self.sip(share, read, now),
            Act::Steady | Act::Failover(_) | Act::ReconnectStorm { .. } => None,
        }
    }

    /// Lets the clients between the two numbers come, or leave, in order.
    fn ramp(&mut self, phase: &Phase, from: u32, to: u32, now: u64) -> Option<u64> {
        let (low, high) = (from.min(to), from.max(to));
        let time = u128::from(phase.until - phase.from);
        for _ in 0..TURN_MAX {
            let place = self.clients.place_from(low) + self.cursor.done;
            let shape = &self.desk.plan.shape;
            let number = shape.number(place, self.index);
            if number >= high {
                return None;
            }
            let after = time * u128::from(number - low) / u128::from(high - low);
            let due = self.board.start + phase.from + after as u64;
            if due > now {
                return Some(due);
            }
            self.cursor.done += 1;
            if to > from {
                self.clients.want(place, true);
                self.dials.push(Reverse((due, place as u32)));
            } else {
                self.clients.want(place, false);
                self.leave(place, now);
            }
        }
        self.timer.overdue = true;
        None
    }

    fn churn(&mut self, from: u64, leave: f64, now: u64) -> Option<u64> {
        for _ in 0..TURN_MAX {
            let turn = self.cursor.done * self.board.threads + self.index;
            let due = from + (turn as f64 * 1e9 / leave) as u64;
            if due > now {
                return Some(due);
            }
            self.cursor.done += 1;
            if let Some(place) = self.next_open() {
                self.leave(place, now);
            }
        }
        self.timer.overdue = true;
        None
    }

    fn burst(&mut self, due: u64, share: f64, messages: u32) -> Option<u64> {
        let end = self.clients.share(share);
        let stop = end.min(self.cursor.done + BURST_TURN);
        for place in self.cursor.done..stop {
            for _ in 0..messages {
                self.send(place, due);
            }
        }
        self.cursor.done = stop;
        self.timer.overdue |= stop < end;
        None
    }

    fn sip(&mut self, share: f64, read: usize, now: u64) -> Option<u64> {
        if read == 0 {
            return None;
        }
        if now >= self.cursor.sip_at {
            self.cursor.sip_at = now + SECOND / SIPS;
            for place in 0..self.clients.share(share) {
                let bytes = read / SIPS as usize;
                self.clients.sip(place, bytes, &mut self.desk);
                self.settle(place, Next::Wait);
            }
        }
        Some(self.cursor.sip_at)
    }

    fn leave(&mut self, place: usize, now: u64) {
        if self.clients.leave(place, &mut self.desk) {
            let number = self.clients.number(place);
            self.leaving.push_back((now + CLOSE, place, number));
            self.settle(place, Next::Wait);
        }
    }

    /// Dials who is due, as many at once as a listener's queue can take.
    fn dial_due(&mut self, now: u64) -> Option<u64> {
        while self.greeting.len() < GREETING_MAX {
            let Reverse((due, place)) = *self.dials.peek()?;
            if due > now {
                return Some(due);
            }
            self.dials.pop();
            let place = place as usize;
            if !self.clients.is_wanted(place) || !self.clients.is_away(place) {
                continue;
            }
            let dialled = self
                .clients
                .dial(place, due, self.poll.registry(), &self.desk);
            match dialled {
                Ok(()) => {
                    let deadline = now + nanos(self.desk.plan.connect_timeout);
                    let number = self.clients.number(place);
                    self.greeting.push_back((deadline, place, number));
                }
                Err(error) => {
                    self.desk.tally.connect_failed(&error.to_string());
                    if let Some(after) = self.scenario.reconnect {
                        self.come_again(place, now + nanos(after));
                    }
                }
            }
        }
        None
    }

    /// Sends what clients owe by themselves; when the next message is due.
    fn send_due(&mut self, now: u64) -> Option<u64> {
        let Traffic::Every(interval) = self.traffic else {
            return None;
        };
        for _ in 0..TURN_MAX {
            let mut next = self.sends.peek()?;
            if next.at > now {
                return Some(next.at);
            }
            self.sends.pop();
            let place = next.place as usize;
            if !self.clients.is_open(place) || self.clients.number(place) != next.number {
                continue;
            }
            // A peer that does not read delays the message, and the delay counts as latency.
            if self.clients.is_clogged(place) {
                next.at = now + CLOGGED;
                self.sends.push(next);
                continue;
            }
            let due = next.due + interval;
            self.sends.push(Due {
                at: due,
                due,
                ..next
            });
            self.send(place, next.due);
        }
        self.timer.overdue = true;
        None
    }

    /// Sends what a rate owes, to one client after the other.
    fn rate_due(&mut self, phase: &Phase, now: u64) -> Option<u64> {
        let Traffic::Rate(rate) = phase.traffic else {
            return None;
        };
        for _ in 0..TURN_MAX {
            let turn = self.cursor.sent * self.board.threads as u64 + self.index as u64;
            let due = self.board.start + phase.from + (turn as f64 * 1e9 / rate) as u64;
            if due > now {
                return Some(due);
            }
            // Before anybody has come, the schedule owes nothing.
            if let Some(place) = self.next_open() {
                if self.clients.is_clogged(place) {
                    return Some(now + CLOGGED);
                }
                self.send(place, due);
            }
            self.cursor.sent += 1;
        }
        self.timer.overdue = true;
        None
    }

    fn send(&mut self, place: usize, due: u64) {
        if self.clients.is_open(place) {
            self.desk.tally.lateness(due, self.desk.clock.now());
            self.clients.send(place, due, &mut self.desk);
            self.settle(place, Next::Wait);
        }
    }

    fn next_open(&mut self) -> Option<usize> {
        let places = self.clients.places();
        let found = (0..places)
            .map(|step| (self.cursor.next_open + step) % places)
            .find(|place| self.clients.is_open(*place));
        self.cursor.next_open = found.map_or(0, |place| place + 1);
        found
    }

    /// Ends those whose handshake takes too long, the opening or the closing one.
    fn expire(&mut self, now: u64) {
        while let Some((deadline, place, number)) = self.greeting.front().copied() {
            let waits = self.clients.number(place) == number && self.clients.is_greeting(place);
            if waits && now < deadline {
                break;
            }
            self.greeting.pop_front();
            if waits {
                self.clients.expire(place, &mut self.desk);
                self.settle(place, Next::Wait);
            }
        }
        while let Some((deadline, place, number)) = self.leaving.front().copied() {
            let waits = self.clients.number(place) == number && self.clients.is_leaving(place);
            if waits && now < deadline {
                break;
            }
            self.leaving.pop_front();
            if waits {
                self.clients.expire(place, &mut self.desk);
                self.settle(place, Next::Wait);
            }
        }
    }

    /// What is still under way now is lost, not abandoned.
    fn settle_all(&mut self) {
        for place in 0..self.clients.places() {
            if self.clients.is_open(place) {
                self.desk.tally.lost += self.clients.lost(place);
            }
        }
    }

    /// Closes, once no thread has anything under way, so that the last echoes meet no teardown.
    fn close_all(&mut self, now: u64) {
        let quiet = self.board.quiet.load(Relaxed) == self.board.threads;
        if self.cursor.done == CLOSED {
            if self.clients.all_away() || now >= self.deadline {
                self.stage = Stage::Done;
            }
        } else if quiet || now >= self.deadline {
            self.clients.close_all(&mut self.desk);
            self.cursor.done = CLOSED;
            self.deadline = now + CLOSE;
            for place in 0..self.clients.places() {
                self.settle(place, Next::Wait);
            }
        }
    }

    fn write(&mut self, now: u64) {
        let open = self.clients.open();
        self.board.write(self.index, open, &mut self.desk.tally);
        while self.write_at <= now {
            self.write_at += SECOND;
        }
    }

    fn finish(mut self) -> Outcome {
        for place in 0..self.clients.places() {
            self.clients.expire(place, &mut self.desk);
        }
        let open = self.clients.open();
        self.board.write(self.index, open, &mut self.desk.tally);
        self.board.gone.fetch_add(1, Release);
        Outcome {
            tally: self.desk.tally,
            abandoned: self.abandoned,
        }
    }
}

pub const SECOND: u64 = 1_000_000_000;
/// The longest sleep: much less than what a line of the series may be late.
const PATIENCE: Duration = Duration::from_millis(20);
const EVENTS_MAX: usize = 1024;
const INPUT_BYTES: usize = 64 * 1024;
/// Handshakes under way at once in a thread: far below the usual listen backlog of 4,096.
const GREETING_MAX: usize = 256;
/// Messages, dials or leaves in one turn before sockets are read again.
const TURN_MAX: usize = 256;
/// Clients of a burst in one turn.
const BURST_TURN: usize = 64;
/// How often slow readers read in a second.
const SIPS: u64 = 10;
/// When a client is looked at again whose peer does not read, in nanoseconds.
const CLOGGED: u64 = 1_000_000;
/// How long a closing handshake is waited for, in nanoseconds.
const CLOSE: u64 = 30_000_000_000;
/// The cursor, once all were told to close.
const CLOSED: usize = usize::MAX;
