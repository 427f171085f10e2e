//! One thread of clients: its poller, its connections, its schedule.

use super::Plan;
use super::connection::{Connection, Desk, Next};
use super::push::{Lent, Pushers};
use super::tally::Tally;
use crate::run::{Clock, Shared};
use crate::sys;
use crate::timer::{TIMER, Timer};
use crate::units::nanos;
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

/// Runs thread `index` of the plan to its end.
///
/// # Errors
/// Only what keeps the whole thread from working; connections' errors are counted.
pub fn run(plan: &Plan, index: usize, shared: &Shared) -> io::Result<Tally> {
    sys::own_descriptor_table();
    let mut worker = Worker::new(plan, index, shared.clock)?;
    while worker.stage != Stage::Done {
        worker.turn(shared)?;
    }
    worker.finish();
    Ok(worker.desk.tally)
}

struct Worker {
    index: usize,
    poll: Poll,
    events: Option<Events>,
    timer: Timer,
    connections: Vec<Connection>,
    /// Those that dial or upgrade, oldest first, with their deadlines.
    greeting: VecDeque<(u64, usize)>,
    again: Vec<usize>,
    desk: Desk,
    stage: Stage,
    /// When messages began to flow.
    start: u64,
    /// When the stage ends at the latest.
    deadline: u64,
    /// Connections that were told to send, in a closed loop.
    begun: usize,
    /// Messages of the schedule that were sent, and where the next one goes.
    scheduled: u64,
    turn_of: usize,
    schedule_done: bool,
    pinged: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Connections are being opened.
    Opening,
    /// Ours are open; other threads' may not be.
    Waiting,
    Traffic,
    /// Nothing new is sent; echoes are waited for.
    Draining,
    Closing,
    Done,
}

impl Worker {
    fn new(plan: &Plan, index: usize, clock: Clock) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer = Timer::new(&poll)?;
        let how = plan.push.clone();
        let pushers = how.map(|how| Pushers::new(how, plan, &poll)).transpose()?;
        let desk = Desk {
            plan: plan.clone(),
            clock,
            tally: Tally::new(),
            pushers,
            sending: false,
            outstanding: 0,
            input: vec![0; INPUT_BYTES].into(),
            output: vec![0; plan.size + crate::frame::HEADER_MAX].into(),
        };
        Ok(Self {
            index,
            poll,
            events: Some(Events::with_capacity(EVENTS_MAX)),
            timer,
            connections: Vec::with_capacity(plan.shape.share(index)),
            greeting: VecDeque::new(),
            again: Vec::new(),
            desk,
            stage: Stage::Opening,
            start: 0,
            deadline: u64::MAX,
            begun: 0,
            scheduled: 0,
            turn_of: 0,
            schedule_done: false,
            pinged: 0,
        })
    }

    fn turn(&mut self, shared: &Shared) -> io::Result<()> {
        let mut events = self.events.take().expect("given back in each turn");
        match self.poll.poll(&mut events, Some(self.patience())) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for local in std::mem::take(&mut self.again) {
            if self.connections[local].serve(None, &mut self.desk) == Next::Again {
                self.again.push(local);
            }
        }
        for event in &events {
            if event.token() == TIMER {
                self.timer.on_event();
                continue;
            }
            if let Some(index) = Pushers::place(event.token()) {
                if let Some(pushers) = &mut self.desk.pushers {
                    let (plan, clock) = (&self.desk.plan, self.desk.clock);
                    let tally = &mut self.desk.tally;
                    pushers.on_event(index, event, &mut Lent { plan, clock, tally });
                }
                continue;
            }
            let local = event.token().0;
            if self.connections[local].serve(Some(event), &mut self.desk) == Next::Again {
                self.again.push(local);
            }
        }
        self.events = Some(events);
        let now = self.desk.clock.now();
        self.advance(now, shared);
        self.publish(shared);
        Ok(())
    }

    /// The longest sleep. In a closed loop it never ends one: the next echo does.
    fn patience(&self) -> Duration {
        let busy = !self.again.is_empty() || self.timer.overdue;
        match self.stage {
            _ if busy => Duration::ZERO,
            Stage::Opening | Stage::Waiting => Duration::from_millis(2),
            _ => Duration::from_millis(20),
        }
    }

    fn advance(&mut self, now: u64, shared: &Shared) {
        match self.stage {
            // Told to close before all were open: another thread has failed.
            Stage::Opening | Stage::Waiting if shared.failed.load(Acquire) => {
                self.stage = Stage::Done;
            }
            Stage::Opening => self.open_more(now),
            Stage::Waiting => {
                let start = shared.start.load(Acquire);
                if start != 0 {
                    self.begin(start);
                }
            }
            Stage::Traffic => {
                self.begin_more();
                let next = self
                    .send_due(now)
                    .into_iter()
                    .chain(self.ping_due(now))
                    .min();
                self.timer.arm(next, now);
                if self.traffic_is_over(now) || shared.failed.load(Acquire) {
                    self.desk.sending = false;
                    self.deadline = now + nanos(self.desk.plan.grace);
                    self.stage = Stage::Draining;
                    shared.draining.fetch_add(1, Release);
                }
            }
            // Threads close together, so that the last echoes meet no teardown of others.
            Stage::Draining if self.is_quiet() || now >= self.deadline => {
                if shared.close.load(Acquire) {
                    for connection in &mut self.connections {
                        connection.close(&mut self.desk);
                    }
                    self.deadline = now + CLOSE;
                    self.stage = Stage::Closing;
                }
            }
            Stage::Closing => {
                let over = self.connections.iter().all(Connection::is_over);
                if over || now >= self.deadline {
                    self.stage = Stage::Done;
                }
            }
            Stage::Draining | Stage::Done => {}
        }
    }

    fn publish(&self, shared: &Shared) {
        let progress = &shared.progress[self.index];
        progress.opened.store(self.desk.tally.opened, Relaxed);
        progress
            .failed
            .store(self.desk.tally.connect_failed, Relaxed);
        progress.done.store(self.desk.tally.echoes, Relaxed);
        progress.closed.store(self.desk.tally.closed_early, Relaxed);
    }

    /// Dials what is due, ends what waits too long, and sees when all is open or failed.
    fn open_more(&mut self, now: u64) {
        let connections = &self.connections;
        while let Some((deadline, local)) = self.greeting.front() {
            let greets = connections[*local].is_greeting();
            if greets && now < *deadline {
                break;
            }
            let (_, local) = self.greeting.pop_front().expect("the front was just seen");
            if greets {
                self.connections[local].expire(&mut self.desk);
                break;
            }
        }
        let share = self.desk.plan.shape.share(self.index);
        let mut next = None;
        while self.connections.len() < share && self.greeting.len() < GREETING_MAX {
            let due = self.desk.plan.opening(self.connections.len(), self.index);
            if due > now {
                next = Some(due);
                break;
            }
            self.dial();
        }
        self.timer.arm(next, now);
        if self.connections.len() == share && self.greeting.is_empty() {
            self.stage = Stage::Waiting;
        }
    }

    fn dial(&mut self) {
        let local = self.connections.len();
        let number = self.desk.plan.shape.number(local, self.index);
        let deadline = self.desk.clock.now() + nanos(self.desk.plan.connect_timeout);
        let socket = sys::connect(self.desk.plan.target, self.desk.plan.source(number));
        let registered = socket.and_then(|mut socket| {
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut socket, Token(local), both)?;
            self.desk.plan.link(socket)
        });
        match registered {
            Ok(link) => {
                let since = self.desk.clock.now();
                self.connections
                    .push(Connection::dialled(number, link, since, &self.desk));
                self.greeting.push_back((deadline, local));
            }
            Err(error) => {
                self.desk.tally.connect_failed(&error.to_string());
                self.connections.push(Connection::stillborn(number));
            }
        }
    }

    fn begin(&mut self, start: u64) {
        self.stage = Stage::Traffic;
        // The schedule's first turn must not wait for the poller.
        self.timer.overdue = true;
        self.start = start;
        self.desk.tally.window = self.desk.plan.shape.window(start);
        self.desk.sending = self.desk.plan.rate.is_none();
        self.begin_more();
    }

    /// Lets connections send their first message, as many as may at the same time. With a rate,
    /// the schedule alone sends.
    fn begin_more(&mut self) {
        let messages = self.desk.plan.messages;
        while self.desk.sending
            && self.desk.outstanding < self.desk.plan.at_once
            && let Some(connection) = self.connections.get_mut(self.begun)
        {
            connection.send_within(messages, &mut self.desk);
            self.begun += 1;
        }
    }

    /// Nothing is under way any more.
    fn is_quiet(&self) -> bool {
        let pushers = self.desk.pushers.as_ref();
        self.desk.outstanding == 0 && pushers.is_none_or(Pushers::is_idle)
    }

    /// Sends what the schedule owes; when the next message is due.
    fn send_due(&mut self, now: u64) -> Option<u64> {
        self.timer.overdue = false;
        let rate = self.desk.plan.rate?;
        for _ in 0..SENDS_MAX {
            let place = self.scheduled * self.desk.plan.shape.threads as u64 + self.index as u64;
            let due = self.start + (place as f64 * 1e9 / rate) as u64;
            if due >= self.desk.tally.window.1 {
                self.schedule_done = true;
                return None;
            }
            if due > now {
                return Some(due);
            }
            let local = self.next_open()?;
            let connection = &mut self.connections[local];
            // The schedule waits for a peer that does not read; the delay counts as latency.
            if connection.backlog_bytes() > BACKLOG_MAX {
                return Some(now + 1_000_000);
            }
            let sent = self.desk.clock.now();
            self.desk.tally.lateness(due, sent);
            connection.send_message(due, &mut self.desk);
            self.scheduled += 1;
            self.turn_of = local + 1;
        }
        self.timer.overdue = true;
        None
    }

    fn next_open(&self) -> Option<usize> {
        let count = self.connections.len();
        (0..count)
            .map(|step| (self.turn_of + step) % count)
            .find(|local| self.connections[*local].is_open())
    }

    /// Sends the Pings that are due, spread over the interval; when the next one is.
    fn ping_due(&mut self, now: u64) -> Option<u64> {
        let interval = nanos(self.desk.plan.ping_every?);
        let count = self.connections.len() as u64;
        for _ in 0..SENDS_MAX {
            let rounds = self.pinged / count.max(1);
            let within = (self.pinged % count.max(1)) as u128 * u128::from(interval);
            let due = self.start + rounds * interval + (within / u128::from(count.max(1))) as u64;
            if due > now {
                return Some(due);
            }
            let local = (self.pinged % count.max(1)) as usize;
            let connection = self.connections.get_mut(local)?;
            if connection.is_open() {
                connection.send_ping(self.pinged, &mut self.desk);
            }
            self.pinged += 1;
        }
        Some(now)
    }

    fn traffic_is_over(&self, now: u64) -> bool {
        let plan = &self.desk.plan;
        let until = self.desk.tally.window.1;
        if now >= until {
            // What was due in time is sent even if late: left out, a slow peer would look fast.
            let owed = plan.rate.is_some() && !self.schedule_done && self.next_open().is_some();
            return !owed || now - until >= nanos(plan.grace);
        }
        if self.desk.outstanding > 0 || plan.idle {
            return false;
        }
        let share = self
            .connections
            .iter()
            .filter(|connection| connection.is_open())
            .count();
        share == 0 || (plan.rate.is_none() && plan.messages != u64::MAX)
    }

    /// Ends what is left and counts what never came.
    fn finish(&mut self) {
        for connection in &mut self.connections {
            connection.expire(&mut self.desk);
            self.desk.tally.lost += connection.lost();
        }
    }
}

const EVENTS_MAX: usize = 1024;
const INPUT_BYTES: usize = 64 * 1024;
/// Handshakes under way at once in a thread: far below the usual listen backlog of 4,096.
const GREETING_MAX: usize = 256;
/// Messages or Pings in one turn before sockets are read again.
const SENDS_MAX: usize = 256;
/// Above it a connection's schedule waits.
const BACKLOG_MAX: usize = 1 << 20;
/// How long the closing handshakes are waited for, in nanoseconds.
const CLOSE: u64 = 30_000_000_000;
