//! Where clients stand of whom a proxy has yet to say who they are.

use std::collections::VecDeque;
use std::net::SocketAddr;

use log::{debug, warn};

use crate::kit::{Key, Slots, Tick};
use crate::shard::{Got, Io, Token};
use crate::wire::proxy::Header;

/// Connections whose PROXY header has not come, and those whose has.
pub(super) struct Porch<S> {
    waiting: Slots<Guest<S>>,
    /// In the order in which they came, with those that are gone.
    dues: VecDeque<(Tick, Key)>,
    arrived: VecDeque<(u32, Arrival<S>)>,
    told: Option<Tick>,
}

struct Guest<S> {
    socket: S,
    peer: SocketAddr,
    listener: u32,
    bytes: Vec<u8>,
}

/// Somebody who is known now.
pub(super) struct Arrival<S> {
    pub socket: S,
    pub peer: SocketAddr,
    /// What had come behind the header.
    pub bytes: Vec<u8>,
}

/// What has become of a guest.
pub(super) enum Step<S> {
    Known(Arrival<S>),
    Waits,
    Gone,
}

impl<S> Porch<S> {
    pub fn new() -> Porch<S> {
        Porch {
            waiting: Slots::with_capacity(0),
            dues: VecDeque::new(),
            arrived: VecDeque::new(),
            told: None,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Those who wait, or are waited for.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.arrived.len()
    }

    /// Somebody has connected; what he has sent already is read at once.
    pub fn enter<I: Io<Socket = S>>(
        &mut self,
        io: &mut I,
        (socket, peer, listener): (S, SocketAddr, u32),
        due: Tick,
    ) -> Step<S> {
        let mut guest = Guest {
            socket,
            peer,
            listener,
            bytes: Vec::new(),
        };
        match guest.read(io) {
            Ok(None) if self.waiting.len() < GUESTS_MAX => {
                let key = self.waiting.next_key();
                if !io.watch(&mut guest.socket, Token::guest(key)) {
                    io.close(guest.socket);
                    return Step::Gone;
                }
                self.waiting.insert(guest);
                self.dues.push_back((due, key));
                Step::Waits
            }
            Ok(Some(peer)) => Step::Known(guest.known(peer)),
            Ok(None) => {
                io.close(guest.socket);
                Step::Gone
            }
            Err(why) => {
                debug!(client:% = peer; "a connection of a proxy is closed: {why}");
                io.close(guest.socket);
                Step::Gone
            }
        }
    }

    /// Something has come from a guest. The listener that he has come to, if he is known now.
    pub fn on_ready<I: Io<Socket = S>>(&mut self, io: &mut I, key: Key) -> Option<u32> {
        let guest = self.waiting.get_mut(key)?;
        let read = guest.read(io);
        if matches!(read, Ok(None)) {
            return None;
        }
        let guest = self.waiting.remove(key)?;
        match read {
            Ok(Some(peer)) => {
                let listener = guest.listener;
                self.arrived.push_back((listener, guest.known(peer)));
                Some(listener)
            }
            Ok(None) => None,
            Err(why) => {
                debug!(client:% = guest.peer; "a connection of a proxy is closed: {why}");
                io.close(guest.socket);
                None
            }
        }
    }

    /// Somebody who was waited for.
    pub fn next(&mut self, listener: u32) -> Option<Arrival<S>> {
        let at = self.arrived.iter().position(|(at, _)| *at == listener)?;
        self.arrived.remove(at).map(|(_, arrival)| arrival)
    }

    /// When the next one has waited long enough.
    pub fn due(&mut self) -> Option<Tick> {
        while let Some((due, key)) = self.dues.front() {
            if self.waiting.get(*key).is_some() {
                return Some(*due);
            }
            self.dues.pop_front();
        }
        None
    }

    /// Who has waited long enough goes.
    pub fn expire<I: Io<Socket = S>>(&mut self, io: &mut I, now: Tick) {
        while self.due().is_some_and(|due| due.is_due(now)) {
            if let Some((_, key)) = self.dues.pop_front()
                && let Some(guest) = self.waiting.remove(key)
            {
                io.close(guest.socket);
            }
        }
    }

    /// Everybody goes: nobody is let in any more.
    pub fn clear<I: Io<Socket = S>>(&mut self, io: &mut I) {
        for (_, key) in self.dues.drain(..) {
            if let Some(guest) = self.waiting.remove(key) {
                io.close(guest.socket);
            }
        }
        for (_, arrival) in self.arrived.drain(..) {
            io.close(arrival.socket);
        }
    }

    /// Somebody comes past the proxies that may speak for others. Told once a minute: whoever may
    /// connect could fill the log.
    pub fn warn_of_stranger(&mut self, peer: SocketAddr, now: Tick) {
        if self.told.is_none_or(|told| now.since(told) >= TELL_PAUSE) {
            self.told = Some(now);
            warn!(client:% = peer; "not one of trusted_proxies, which alone may connect to a listener with proxy_protocol: closed");
        }
    }
}

impl<S> Guest<S> {
    /// Who he is; `None` while that has not come.
    fn read<I: Io<Socket = S>>(&mut self, io: &mut I) -> Result<Option<SocketAddr>, String> {
        let mut bytes = [0; ROOM];
        loop {
            let new = match io.read(&mut self.socket, &mut bytes) {
                Got::Bytes(new) => new,
                Got::Wait => return Ok(None),
                Got::End | Got::Broken => return Err("it ended before its PROXY header".into()),
            };
            self.bytes.extend_from_slice(&bytes[..new]);
            match Header::parse(&self.bytes) {
                Ok(Some(header)) => {
                    self.bytes.drain(..header.len);
                    if planted!(RequestBehindHeaderLost) {
                        self.bytes.clear();
                    }
                    return Ok(Some(header.ends.map_or(self.peer, |ends| ends.from)));
                }
                Ok(None) => {}
                Err(why) => return Err(why.to_string()),
            }
        }
    }

    fn known(self, peer: SocketAddr) -> Arrival<S> {
        Arrival {
            socket: self.socket,
            peer,
            bytes: self.bytes,
        }
    }
}

/// Of one read: a header, and mostly the request behind it.
const ROOM: usize = 4 << 10;

/// Who may wait at once, in one loop: proxies send their header with the connection.
const GUESTS_MAX: usize = 4_096;

/// Between two words about strangers, in ms.
const TELL_PAUSE: u32 = 60_000;
