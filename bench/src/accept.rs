//! Accepting under edge-triggered epoll.

use mio::net::{TcpListener, TcpStream};
use std::io::ErrorKind;
use std::time::Duration;

/// Accepted sockets per turn, so that a wave of newcomers does not starve those who are here.
pub const ACCEPTS_MAX: usize = 64;

/// A listener that remembers that somebody waits: its edge does not come twice.
pub struct Acceptor {
    listener: TcpListener,
    waiting: bool,
    starved: bool,
}

impl Acceptor {
    pub fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            waiting: false,
            starved: false,
        }
    }

    pub fn listener(&mut self) -> &mut TcpListener {
        &mut self.listener
    }

    pub fn on_event(&mut self) {
        self.waiting = true;
    }

    /// How long the poller may sleep: not at all while somebody waits, a moment while there is
    /// no descriptor for them (Linux says nothing when one becomes free).
    pub fn patience(&self) -> Option<Duration> {
        match (self.waiting, self.starved) {
            (false, _) => None,
            (true, false) => Some(Duration::ZERO),
            (true, true) => Some(Duration::from_millis(10)),
        }
    }

    /// The next newcomer, if there is one.
    pub fn next(&mut self) -> Option<TcpStream> {
        while self.waiting {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    self.starved = false;
                    return Some(socket);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.waiting = false,
                // The peer was gone before we looked (accept(2)); the next may be there.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    self.starved = true;
                    return None;
                }
            }
        }
        None
    }
}
