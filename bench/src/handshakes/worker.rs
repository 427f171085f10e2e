//! One thread of clients that come and go.

use crate::run::{Clock, Shared};
use crate::units::nanos;
use crate::ws::Plan;
use crate::ws::connection::{Connection, Desk, Next};
use crate::ws::tally::Tally;
use crate::{frame, sys};
use mio::{Events, Interest, Poll, Token};
use std::io;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

/// Runs thread `index` of the plan to its end.
///
/// # Errors
/// Only what keeps the whole thread from working; connections' errors are counted.
pub fn run(plan: &Plan, index: usize, shared: &Shared) -> io::Result<Tally> {
    sys::own_descriptor_table();
    let mut worker = Worker::new(plan, index, shared.clock)?;
    let mut events = Events::with_capacity(EVENTS_MAX);
    while !shared.close.load(Acquire) && !shared.failed.load(Acquire) {
        worker.turn(&mut events)?;
        let (tally, progress) = (&worker.desk.tally, &shared.progress[index]);
        progress.opened.store(tally.opened, Relaxed);
        progress.done.store(tally.opened, Relaxed);
        progress.failed.store(tally.connect_failed, Relaxed);
    }
    Ok(worker.desk.tally)
}

struct Worker {
    poll: Poll,
    places: Vec<Place>,
    again: Vec<usize>,
    desk: Desk,
    next_number: u32,
}

struct Place {
    /// `None` if nobody is to come any more.
    connection: Option<Connection>,
    /// When it was dialled.
    since: u64,
}

impl Worker {
    fn new(plan: &Plan, index: usize, clock: Clock) -> io::Result<Self> {
        let mut worker = Self {
            poll: Poll::new()?,
            places: Vec::new(),
            again: Vec::new(),
            desk: Desk {
                plan: plan.clone(),
                clock,
                tally: Tally::new(),
                pushers: None,
                sending: false,
                outstanding: 0,
                input: vec![0; INPUT_BYTES].into(),
                output: vec![0; plan.size + frame::HEADER_MAX].into(),
            },
            next_number: index as u32,
        };
        for place in 0..plan.shape.share(index) {
            worker.places.push(Place {
                connection: None,
                since: 0,
            });
            worker.dial(place);
        }
        Ok(worker)
    }

    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        let patience = if self.again.is_empty() {
            PATIENCE
        } else {
            Duration::ZERO
        };
        match self.poll.poll(events, Some(patience)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for place in std::mem::take(&mut self.again) {
            self.serve(place, None);
        }
        for event in events.iter() {
            self.serve(event.token().0, Some(event));
        }
        // Behind the events, so that none of an old socket is left for a new one.
        for place in 0..self.places.len() {
            self.go_on(place);
        }
        Ok(())
    }

    fn serve(&mut self, place: usize, event: Option<&mio::event::Event>) {
        let Some(connection) = &mut self.places[place].connection else {
            return;
        };
        if connection.serve(event, &mut self.desk) == Next::Again {
            self.again.push(place);
        }
        // Who has come goes at once.
        connection.close(&mut self.desk);
    }

    /// The next one, where one has gone as it should; the end of one that takes too long.
    fn go_on(&mut self, place: usize) {
        let Place { connection, since } = &mut self.places[place];
        let Some(one) = connection else { return };
        if self.desk.clock.now() - *since > nanos(self.desk.plan.connect_timeout) {
            one.expire(&mut self.desk);
        }
        if !one.is_over() {
            return;
        }
        if one.is_closed() {
            self.dial(place);
        } else {
            *connection = None;
        }
    }

    fn dial(&mut self, place: usize) {
        let number = self.next_number;
        self.next_number += self.desk.plan.shape.threads as u32;
        let since = self.desk.clock.now();
        let source = self.desk.plan.source(number);
        let link = sys::connect(self.desk.plan.target, source).and_then(|mut socket| {
            let both = Interest::READABLE | Interest::WRITABLE;
            let registry = self.poll.registry();
            registry.register(&mut socket, Token(place), both)?;
            self.desk.plan.link(socket)
        });
        let connection = match link {
            Ok(link) => Some(Connection::dialled(number, link, since, &self.desk)),
            Err(error) => {
                self.desk.tally.connect_failed(&error.to_string());
                None
            }
        };
        self.places[place] = Place { connection, since };
    }
}

const EVENTS_MAX: usize = 1024;
const INPUT_BYTES: usize = 64 * 1024;
/// How late the end of the window may be noticed.
const PATIENCE: Duration = Duration::from_millis(20);
