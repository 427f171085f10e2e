//! One thread of clients, who come, stay, and come again when they are sent away.

use super::Plan;
use super::chance::Chance;
use super::client::{Client, Desk, Next, Seen};
use crate::link::Link;
use crate::run::{Clock, Shared};
use crate::units::nanos;
use crate::{sys, upgrade};
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

/// Runs thread `index` of the clients until all that was pushed has had its time to come.
///
/// # Errors
/// What keeps the whole thread from working; clients that do not all come.
pub fn run(plan: &Plan, index: usize, shared: &Shared, pushing: &AtomicUsize) -> io::Result<Seen> {
    sys::own_descriptor_table();
    let mut crowd = Crowd::new(plan, index, shared.clock)?;
    let mut until = None;
    loop {
        crowd.turn()?;
        let now = shared.clock.now();
        let progress = &shared.progress[index];
        progress.opened.store(crowd.came, Relaxed);
        if shared.failed.load(Acquire) {
            break;
        }
        if crowd.came < crowd.clients.len() as u64 && shared.start.load(Acquire) == 0 {
            crowd.must_come(now)?;
        }
        if until.is_none() && pushing.load(Acquire) == 0 {
            until = Some(now + nanos(plan.grace));
        }
        if until.is_some_and(|until| now >= until) {
            break;
        }
    }
    Ok(crowd.finish())
}

struct Crowd<'a> {
    plan: &'a Plan,
    poll: Poll,
    events: Option<Events>,
    clients: Vec<Client>,
    /// Clients that were connected at least once.
    came: u64,
    /// Who is to be dialled, the most urgent first.
    dials: BinaryHeap<Reverse<(u64, usize)>>,
    /// Who dials or upgrades, oldest first: deadline, place, which of its dials.
    greeting: VecDeque<(u64, usize, u32)>,
    again: Vec<usize>,
    chance: Chance,
    desk: Desk,
}

impl<'a> Crowd<'a> {
    fn new(plan: &'a Plan, index: usize, clock: Clock) -> io::Result<Self> {
        let share = plan.clients.share(index);
        let number = |place| plan.clients.number(place, index);
        let ramp = plan.ramp.as_nanos();
        let due = |number: u32| (ramp * u128::from(number) / u128::from(plan.clients.total)) as u64;
        let dials = (0..share).map(|place| Reverse((due(number(place)), place)));
        Ok(Self {
            plan,
            poll: Poll::new()?,
            events: Some(Events::with_capacity(EVENTS_MAX)),
            clients: (0..share).map(|place| Client::new(number(place))).collect(),
            came: 0,
            dials: dials.collect(),
            greeting: VecDeque::new(),
            again: Vec::new(),
            chance: Chance::new(plan.seed, index),
            desk: Desk {
                clock,
                size: plan.size,
                input: vec![0; INPUT_BYTES].into(),
                seen: Seen::new(),
            },
        })
    }

    fn turn(&mut self) -> io::Result<()> {
        let mut events = self.events.take().expect("given back in each turn");
        match self.poll.poll(&mut events, Some(self.patience())) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for place in std::mem::take(&mut self.again) {
            self.serve(place, None);
        }
        for event in &events {
            self.serve(event.token().0, Some(event));
        }
        self.events = Some(events);
        self.dial_due(self.desk.clock.now());
        Ok(())
    }

    fn patience(&self) -> Duration {
        if !self.again.is_empty() {
            return Duration::ZERO;
        }
        let next = self.dials.peek().map(|Reverse((due, _))| *due);
        let next = next.filter(|_| self.greeting.len() < GREETING_MAX);
        let now = self.desk.clock.now();
        let wait = next.map(|due| Duration::from_nanos(due.saturating_sub(now)));
        wait.unwrap_or(PATIENCE).min(PATIENCE)
    }

    fn serve(&mut self, place: usize, event: Option<&Event>) {
        let client = &mut self.clients[place];
        let known = client.known;
        let next = client.serve(event, &mut self.desk);
        self.came += u64::from(!known && client.known);
        match next {
            Next::Wait => {}
            Next::Again => self.again.push(place),
            Next::Gone => self.come_again(place),
        }
    }

    fn come_again(&mut self, place: usize) {
        let (min, max) = self.plan.back_off;
        let delay = min.saturating_mul(1 << self.clients[place].failures.min(16));
        // From none to twice of it: those who were lost together do not come back together.
        let delay = (nanos(delay.min(max)) as f64 * 2.0 * self.chance.share()) as u64;
        self.dials
            .push(Reverse((self.desk.clock.now() + delay, place)));
    }

    fn dial_due(&mut self, now: u64) {
        while let Some((deadline, place, dial)) = self.greeting.front().copied() {
            let client = &self.clients[place];
            let greets = client.is_greeting() && client.dials == dial;
            if greets && now < deadline {
                break;
            }
            self.greeting.pop_front();
            if greets {
                self.clients[place].fail("timed out", &mut self.desk);
                self.come_again(place);
            }
        }
        while self.greeting.len() < GREETING_MAX
            && let Some(Reverse((due, place))) = self.dials.peek().copied()
            && due <= now
        {
            self.dials.pop();
            if let Err(error) = self.dial(place, now) {
                self.clients[place].fail(&error.to_string(), &mut self.desk);
                self.come_again(place);
            }
        }
    }

    fn dial(&mut self, place: usize, now: u64) -> io::Result<()> {
        let client = &mut self.clients[place];
        client.dials += 1;
        let number = client.number();
        let front = self.plan.front(number, client.failures);
        let mut socket = sys::connect(front.target, self.plan.source(number))?;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut socket, Token(place), both)?;
        let request = upgrade::request(&front.host, &self.plan.path(front, number));
        client.dialled(Link::new(socket), request, now);
        let deadline = now + nanos(self.plan.connect_timeout);
        self.greeting.push_back((deadline, place, client.dials));
        Ok(())
    }

    /// Before anything is pushed all clients must have come, and in reasonable time.
    fn must_come(&self, now: u64) -> io::Result<()> {
        if now < nanos(self.plan.ramp + self.plan.patience) {
            return Ok(());
        }
        let (came, all) = (self.came, self.clients.len());
        let mut text = format!("only {came} of a thread's {all} clients could connect");
        for (reason, count) in self.desk.seen.reasons.iter() {
            text += &format!("; {count} x {reason}");
        }
        Err(io::Error::other(text))
    }

    fn finish(mut self) -> Seen {
        for client in &mut self.clients {
            client.leave(&mut self.desk.seen);
        }
        self.desk.seen
    }
}

const EVENTS_MAX: usize = 1024;
const INPUT_BYTES: usize = 64 * 1024;
/// Handshakes under way at once in a thread: far below the usual listen backlog of 4,096.
const GREETING_MAX: usize = 256;
/// The longest sleep.
const PATIENCE: Duration = Duration::from_millis(20);
