//! One thread of clients: its poller, its connections, its schedule.

use super::Plan;
use super::connection::{Connection, Desk, Next};
use super::tally::Tally;
use crate::link::Link;
use crate::run::{Clock, Shared};
use crate::sys;
use crate::timer::{TIMER, Timer};
use crate::tls::Caller;
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
    for connection in &mut worker.connections {
        connection.expire(&mut worker.desk);
    }
    Ok(worker.desk.tally)
}

struct Worker {
    index: usize,
    poll: Poll,
    events: Option<Events>,
    timer: Timer,
    connections: Vec<Connection>,
    /// Those that dial for the first time, oldest first, with their deadlines.
    dialling: VecDeque<(u64, usize)>,
    again: Vec<usize>,
    redial: Vec<usize>,
    desk: Desk,
    stage: Stage,
    /// When requests began to flow.
    start: u64,
    /// When the stage ends at the latest.
    deadline: u64,
    /// Requests of the schedule that were sent.
    scheduled: u64,
    schedule_done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Connections are being opened.
    Opening,
    /// Ours are open; other threads' may not be.
    Waiting,
    Traffic,
    /// Nothing new is sent; answers are waited for.
    Draining,
    Done,
}

impl Worker {
    fn new(plan: &Plan, index: usize, clock: Clock) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer = Timer::new(&poll)?;
        let desk = Desk {
            plan: plan.clone(),
            clock,
            tally: Tally::new(),
            sending: false,
            outstanding: 0,
            free: VecDeque::new(),
            input: vec![0; INPUT_BYTES].into(),
            output: Vec::new(),
        };
        Ok(Self {
            index,
            poll,
            events: Some(Events::with_capacity(EVENTS_MAX)),
            timer,
            connections: Vec::with_capacity(plan.shape.share(index)),
            dialling: VecDeque::new(),
            again: Vec::new(),
            redial: Vec::new(),
            desk,
            stage: Stage::Opening,
            start: 0,
            deadline: u64::MAX,
            scheduled: 0,
            schedule_done: false,
        })
    }

    fn turn(&mut self, shared: &Shared) -> io::Result<()> {
        let mut events = self.events.take().expect("given back in each turn");
        match self.poll.poll(&mut events, Some(self.patience())) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for local in std::mem::take(&mut self.again) {
            let next = self.connections[local].serve(None, &mut self.desk);
            self.note(local, &next);
        }
        for event in &events {
            if event.token() == TIMER {
                self.timer.on_event();
                continue;
            }
            let local = event.token().0;
            let next = self.connections[local].serve(Some(event), &mut self.desk);
            self.note(local, &next);
        }
        self.events = Some(events);
        // Behind the events, so that none of an old socket is left for a new one.
        for local in std::mem::take(&mut self.redial) {
            self.dial(local, true);
        }
        let now = self.desk.clock.now();
        self.advance(now, shared);
        self.publish(shared);
        Ok(())
    }

    fn note(&mut self, local: usize, next: &Next) {
        match next {
            Next::Wait => {}
            Next::Again => self.again.push(local),
            Next::Redial => self.redial.push(local),
        }
    }

    /// The longest sleep. In a closed loop it never ends one: the next answer does.
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
                let next = self.send_due(now);
                self.timer.arm(next, now);
                if self.traffic_is_over(now) || shared.failed.load(Acquire) {
                    self.desk.sending = false;
                    self.deadline = now + nanos(self.desk.plan.grace);
                    self.stage = Stage::Draining;
                    shared.draining.fetch_add(1, Release);
                }
            }
            // Threads close together, so that the last answers meet no teardown of others.
            Stage::Draining if self.desk.outstanding == 0 || now >= self.deadline => {
                if shared.close.load(Acquire) {
                    self.stage = Stage::Done;
                }
            }
            Stage::Draining | Stage::Done => {}
        }
    }

    fn publish(&self, shared: &Shared) {
        let (progress, tally) = (&shared.progress[self.index], &self.desk.tally);
        progress.opened.store(tally.opened, Relaxed);
        progress.failed.store(tally.connect_failed, Relaxed);
        progress.done.store(tally.answered, Relaxed);
        progress.closed.store(tally.closed, Relaxed);
    }

    /// Dials the next ones, gives up those that take too long, and sees when all is open or failed.
    fn open_more(&mut self, now: u64) {
        while let Some((deadline, local)) = self.dialling.front().copied() {
            let dialling = self.connections[local].is_dialling();
            if dialling && now < deadline {
                break;
            }
            if dialling {
                self.connections[local].expire(&mut self.desk);
            }
            self.dialling.pop_front();
        }
        let share = self.desk.plan.shape.share(self.index);
        while self.connections.len() < share && self.dialling.len() < DIALLING_MAX {
            let local = self.connections.len();
            let number = self.desk.plan.shape.number(local, self.index);
            self.connections.push(Connection::new(local, number));
            let deadline = self.desk.clock.now() + nanos(self.desk.plan.connect_timeout);
            self.dial(local, false);
            self.dialling.push_back((deadline, local));
        }
        if self.connections.len() == share && self.dialling.is_empty() {
            self.stage = Stage::Waiting;
        }
    }

    fn dial(&mut self, local: usize, again: bool) {
        let link = sys::connect(self.desk.plan.target, None).and_then(|mut socket| {
            let both = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            registry.register(&mut socket, Token(local), both)?;
            Link::with(socket, self.desk.plan.tls.as_ref().map(Caller::session))
        });
        self.connections[local].dialled(link, again, &mut self.desk);
    }

    fn begin(&mut self, start: u64) {
        self.stage = Stage::Traffic;
        // The schedule's first turn must not wait for the poller.
        self.timer.overdue = true;
        self.start = start;
        self.desk.tally.window = self.desk.plan.shape.window(start);
        self.desk.sending = self.desk.plan.rate.is_none();
        if self.desk.sending {
            for connection in &mut self.connections {
                connection.ask_within(&mut self.desk);
            }
        }
    }

    /// Sends what the schedule owes, as far as connections are free; when the next one is due.
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
            // The next answer frees a connection; the delay counts as latency.
            let connection = self.next_free()?;
            let sent = self.desk.clock.now();
            self.desk.tally.lateness(due, sent);
            self.connections[connection].ask(due, &mut self.desk);
            self.scheduled += 1;
        }
        self.timer.overdue = true;
        None
    }

    fn next_free(&mut self) -> Option<usize> {
        while let Some(local) = self.desk.free.pop_front() {
            if self.connections[local].is_idle() {
                return Some(local);
            }
        }
        None
    }

    fn traffic_is_over(&self, now: u64) -> bool {
        let plan = &self.desk.plan;
        let until = self.desk.tally.window.1;
        if now >= until {
            // What was due in time is sent even if late: left out, a slow server would look fast.
            let alive = self.connections.iter().any(|one| !one.is_over());
            let owed = plan.rate.is_some() && !self.schedule_done && alive;
            return !owed || now - until >= nanos(plan.grace);
        }
        let all_done = || {
            let mut all = self.connections.iter();
            all.all(|one| one.is_done(plan.requests))
        };
        self.desk.outstanding == 0 && all_done()
    }
}

const EVENTS_MAX: usize = 1024;
const INPUT_BYTES: usize = 64 * 1024;
/// Connects under way at once in a thread: far below the usual listen backlog of 4,096.
const DIALLING_MAX: usize = 256;
/// Requests in one turn before sockets are read again.
const SENDS_MAX: usize = 256;
