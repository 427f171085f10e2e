//! A thread's places for clients: who has a connection, and in which state it is.

use crate::sys;
use crate::ws::connection::{Connection, Desk, Next};
use mio::event::Event;
use mio::{Interest, Registry, Token};
use std::io;

pub struct Clients {
    places: Vec<Place>,
    open: u64,
    thread: usize,
    threads: usize,
    /// The next connection's number: no two of a run have the same, so that no message of one is
    /// taken for its successor's.
    next_number: u32,
}

struct Place {
    connection: Option<Connection>,
    number: u32,
    state: State,
    /// Somebody should be here.
    wanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Away,
    Greeting,
    Open,
    /// Told to end.
    Leaving,
}

/// How a connection ended, and messages that never came back.
#[derive(Debug, PartialEq, Eq)]
pub enum Over {
    /// It was told to.
    Left {
        lost: u64,
    },
    Ended {
        lost: u64,
    },
}

impl Clients {
    pub fn new(places: usize, thread: usize, threads: usize) -> Self {
        let place = || Place {
            connection: None,
            number: 0,
            state: State::Away,
            wanted: false,
        };
        Self {
            places: (0..places).map(|_| place()).collect(),
            open: 0,
            thread,
            threads,
            next_number: thread as u32,
        }
    }

    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// Connections that are open.
    pub fn open(&self) -> u64 {
        self.open
    }

    /// The number of the connection here, or of the last one.
    pub fn number(&self, place: usize) -> u32 {
        self.places[place].number
    }

    /// The first place whose client's number, among all threads', is not below this.
    pub fn place_from(&self, number: u32) -> usize {
        (number as usize)
            .saturating_sub(self.thread)
            .div_ceil(self.threads)
    }

    /// How many of the places are so large a share.
    pub fn share(&self, share: f64) -> usize {
        (self.places.len() as f64 * share).round() as usize
    }

    pub fn want(&mut self, place: usize, wanted: bool) {
        self.places[place].wanted = wanted;
    }

    pub fn is_wanted(&self, place: usize) -> bool {
        self.places[place].wanted
    }

    pub fn is_open(&self, place: usize) -> bool {
        self.places[place].state == State::Open
    }

    pub fn is_away(&self, place: usize) -> bool {
        self.places[place].state == State::Away
    }

    pub fn is_greeting(&self, place: usize) -> bool {
        self.places[place].state == State::Greeting
    }

    pub fn is_leaving(&self, place: usize) -> bool {
        self.places[place].state == State::Leaving
    }

    pub fn all_away(&self) -> bool {
        self.places.iter().all(|place| place.state == State::Away)
    }

    /// More waits for the socket than a client would let wait.
    pub fn is_clogged(&self, place: usize) -> bool {
        let connection = self.places[place].connection.as_ref();
        connection.is_some_and(|one| one.backlog_bytes() > BACKLOG_MAX)
    }

    /// Messages that have not come back.
    pub fn lost(&self, place: usize) -> u64 {
        let connection = self.places[place].connection.as_ref();
        connection.map_or(0, Connection::lost)
    }

    /// Begins to connect a new client, who was due at `due`.
    ///
    /// # Errors
    /// No address or descriptor is left, or nobody listens.
    pub fn dial(
        &mut self,
        place: usize,
        due: u64,
        registry: &Registry,
        desk: &Desk,
    ) -> io::Result<()> {
        let number = self.next_number;
        self.next_number += self.threads as u32;
        let mut socket = sys::connect(desk.plan.target, desk.plan.source(number))?;
        let both = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut socket, Token(place), both)?;
        let link = desk.plan.link(socket)?;
        let place = &mut self.places[place];
        debug_assert!(place.connection.is_none());
        place.connection = Some(Connection::dialled(number, link, due, desk));
        place.number = number;
        place.state = State::Greeting;
        Ok(())
    }

    pub fn serve(&mut self, place: usize, event: Option<&Event>, desk: &mut Desk) -> Next {
        match &mut self.places[place].connection {
            Some(connection) => connection.serve(event, desk),
            None => Next::Wait,
        }
    }

    /// Whether its handshake has just come to its end.
    pub fn has_opened(&mut self, place: usize) -> bool {
        let place = &mut self.places[place];
        let open = place.connection.as_ref().is_some_and(Connection::is_open);
        let opened = open && place.state == State::Greeting;
        if opened {
            place.state = State::Open;
            self.open += 1;
        }
        opened
    }

    /// Clears the place of a connection that is over.
    pub fn bury(&mut self, place: usize) -> Option<Over> {
        let place = &mut self.places[place];
        let connection = place.connection.take_if(|one| one.is_over())?;
        let lost = connection.lost();
        self.open -= u64::from(place.state == State::Open);
        let state = std::mem::replace(&mut place.state, State::Away);
        Some(if state == State::Leaving {
            Over::Left { lost }
        } else {
            Over::Ended { lost }
        })
    }

    pub fn send(&mut self, place: usize, due: u64, desk: &mut Desk) {
        if let Some(connection) = &mut self.places[place].connection {
            connection.send_message(due, desk);
        }
    }

    /// Begins to close an open one; `false` if there is none.
    pub fn leave(&mut self, place: usize, desk: &mut Desk) -> bool {
        let place = &mut self.places[place];
        let Some(connection) = &mut place.connection else {
            return false;
        };
        if place.state != State::Open {
            return false;
        }
        place.state = State::Leaving;
        self.open -= 1;
        connection.close(desk);
        true
    }

    pub fn close_all(&mut self, desk: &mut Desk) {
        for place in 0..self.places.len() {
            self.leave(place, desk);
        }
    }

    /// Drops the connections of a share without a word; says whose.
    pub fn drop_share(&mut self, share: f64, desk: &mut Desk) -> Vec<usize> {
        let mut dropped = Vec::new();
        for place in 0..self.share(share) {
            let one = &mut self.places[place];
            if let Some(connection) = &mut one.connection
                && one.state == State::Open
            {
                one.state = State::Leaving;
                self.open -= 1;
                connection.abandon(desk);
                dropped.push(place);
            }
        }
        dropped
    }

    /// Lets a share read nothing.
    pub fn pause(&mut self, share: f64) {
        let places = self.share(share);
        for place in &mut self.places[..places] {
            if let Some(connection) = &mut place.connection
                && place.state == State::Open
            {
                connection.pause();
            }
        }
    }

    /// Lets all read again; says who has what to read.
    pub fn resume(&mut self, now: u64) -> impl Iterator<Item = usize> {
        let all = self.places.iter_mut().enumerate();
        all.filter_map(move |(index, place)| {
            let connection = place.connection.as_mut()?;
            connection.is_paused().then(|| {
                connection.resume(now);
                index
            })
        })
    }

    /// Lets a paused one read so many bytes.
    pub fn sip(&mut self, place: usize, bytes: usize, desk: &mut Desk) {
        if let Some(connection) = &mut self.places[place].connection
            && connection.is_paused()
        {
            connection.sip(bytes, desk);
        }
    }

    /// Gives up, because time is over.
    pub fn expire(&mut self, place: usize, desk: &mut Desk) {
        if let Some(connection) = &mut self.places[place].connection {
            connection.expire(desk);
        }
    }
}

/// Above it a connection's schedule waits.
const BACKLOG_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_numbers_of_threads_interleave() {
        let clients = Clients::new(10, 2, 4);
        for (number, place) in [(0, 0), (2, 0), (3, 1), (6, 1), (7, 2)] {
            assert_eq!(clients.place_from(number), place, "{number}");
        }
        assert_eq!((clients.share(0.25), clients.share(1.0)), (3, 10));
    }
}
