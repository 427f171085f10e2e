//! One connection to another node: a request, its answer, the next request.

use std::io::IoSlice;

use crate::kit::{Key, Tick};
use crate::net::Net;
use crate::session::Heard;
use crate::session::dialect::Dialect;
use crate::session::dialect::http::Http;
use crate::shard::{Got, Io, Put};

/// A connection, and what is under way on it.
pub(super) struct Line {
    pub node: Key,
    socket: Option<<Net as Io>::Socket>,
    http: Http,
    out: Vec<u8>,
    put: usize,
    input: Vec<u8>,
    errand: Option<Errand>,
    stands: bool,
    /// It has had an answer before: the other side may be closing it just now.
    used: bool,
    pub rests_since: Tick,
}

/// A request to a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Errand {
    /// Whose it is; [`Key::NONE`] for one that only asks how the node is.
    pub quest: Key,
    /// It hands the push over; else it looks for the client.
    pub gives: bool,
    pub by: Tick,
}

/// What has happened on a line.
pub(super) enum Event {
    Nothing,
    Answer {
        errand: Errand,
        status: u16,
        body: Vec<u8>,
        /// Another request may follow.
        keep: bool,
        /// The node takes no other connection.
        drains: bool,
    },
    /// The connection could not be had; refused: nobody listens there.
    Unmade {
        errand: Errand,
        refused: bool,
    },
    /// It was lost under a request.
    Lost {
        errand: Errand,
        /// All of the request was sent.
        sent: bool,
        /// It may have been lost before the request was, and a look may be had anew.
        stale: bool,
    },
    /// It was lost in between.
    Ended,
}

impl Line {
    /// A line that is being dialled, for this request.
    pub fn new(node: Key, socket: <Net as Io>::Socket, errand: Errand, out: Vec<u8>) -> Line {
        Line {
            node,
            socket: Some(socket),
            http: Http::new(HEAD_MAX, BODY_MAX),
            out,
            put: 0,
            input: Vec::new(),
            errand: Some(errand),
            stands: false,
            used: false,
            rests_since: errand.by,
        }
    }

    pub fn errand(&self) -> Option<&Errand> {
        self.errand.as_ref()
    }

    /// Whether it waits for the next request.
    pub fn rests(&self) -> bool {
        self.errand.is_none()
    }

    /// Whether it hands a push over.
    pub fn gives(&self) -> bool {
        self.errand.is_some_and(|errand| errand.gives)
    }

    /// Whether it was had.
    pub fn stands(&self) -> bool {
        self.stands
    }

    /// Sends the next request.
    pub fn begin(&mut self, errand: Errand, out: Vec<u8>, net: &mut Net) {
        debug_assert!(self.rests() && self.stands, "one at a time");
        self.errand = Some(errand);
        (self.out, self.put) = (out, 0);
        // What fails shows itself as the end of the stream.
        self.write(net);
    }

    /// Something happened to its socket.
    pub fn on_ready(&mut self, scratch: &mut [u8], net: &mut Net) -> Event {
        let Some(socket) = &mut self.socket else {
            return Event::Nothing;
        };
        if !self.stands {
            if let Err(why) = net.fate(socket) {
                if why.kind() == std::io::ErrorKind::NotConnected {
                    return Event::Nothing;
                }
                let refused = why.kind() == std::io::ErrorKind::ConnectionRefused;
                return match self.errand.take() {
                    Some(errand) => Event::Unmade { errand, refused },
                    None => Event::Ended,
                };
            }
            self.stands = true;
        }
        self.write(net);
        self.read(scratch, net)
    }

    fn write(&mut self, net: &mut Net) {
        let Some(socket) = &mut self.socket else {
            return;
        };
        while self.put < self.out.len() {
            match net.write(socket, &[IoSlice::new(&self.out[self.put..])]) {
                Put::Bytes(count) => self.put += count,
                Put::Wait | Put::Broken => return,
            }
        }
    }

    fn read(&mut self, scratch: &mut [u8], net: &mut Net) -> Event {
        loop {
            let Some(socket) = &mut self.socket else {
                return Event::Nothing;
            };
            match net.read(socket, scratch) {
                Got::Bytes(count) => {
                    self.input.extend_from_slice(&scratch[..count]);
                    match self.hear() {
                        Event::Nothing => {}
                        event => return event,
                    }
                }
                Got::Wait => return Event::Nothing,
                Got::End => {
                    return match self.http.hear_end() {
                        Heard::Reply(reply) => self.answered(*reply),
                        _ => self.lost(),
                    };
                }
                Got::Broken => return self.lost(),
            }
        }
    }

    fn hear(&mut self) -> Event {
        // Nobody was asked: whatever that is, it is no answer to the next request.
        if self.errand.is_none() {
            return Event::Ended;
        }
        while !self.input.is_empty() {
            let (used, heard) = self.http.hear(&self.input);
            self.input.drain(..used);
            match heard {
                Heard::More => return Event::Nothing,
                Heard::Reply(reply) => return self.answered(*reply),
                Heard::Broken(_) => return self.lost(),
                _ => {}
            }
        }
        Event::Nothing
    }

    fn answered(&mut self, reply: crate::session::dialect::Reply) -> Event {
        let Some(errand) = self.errand.take() else {
            return Event::Ended;
        };
        // One that answers before it was told all takes no more.
        let whole = self.put == self.out.len() && self.input.is_empty();
        self.used = true;
        self.out = Vec::new();
        Event::Answer {
            errand,
            status: reply.status,
            body: reply.body,
            keep: reply.keep && whole,
            drains: reply.drains,
        }
    }

    /// Its connection is of no use any more.
    fn lost(&mut self) -> Event {
        let silent = self.input.is_empty() && self.http.is_whole();
        match self.errand.take() {
            Some(errand) => Event::Lost {
                errand,
                sent: self.is_sent(),
                stale: self.used && silent,
            },
            None => Event::Ended,
        }
    }

    /// Whether the other side may have all of the request.
    pub fn is_sent(&self) -> bool {
        self.put == self.out.len() && self.stands
    }

    /// When its request is late, or its rest long enough.
    pub fn due(&self) -> Tick {
        match &self.errand {
            Some(errand) => errand.by,
            None => self.rests_since.after(REST_MAX),
        }
    }

    /// Takes it apart: the socket is to be closed.
    pub fn close(mut self, net: &mut Net) {
        if let Some(socket) = self.socket.take() {
            net.close(socket);
        }
    }
}

/// Of an answer's head: a node's own is a tenth of it.
const HEAD_MAX: usize = 4 << 10;

/// Of its body: a look's JSON has some 200 bytes, a refusal's text fewer.
const BODY_MAX: u64 = 16 << 10;

/// A connection that rests so long is closed, in ms, if there is another.
const REST_MAX: u32 = 1_000;
