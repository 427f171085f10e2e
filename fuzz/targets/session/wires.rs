//! What goes over the wires, read by rules of its own: nothing here asks the session what it meant.

use wsteady::wire::frame::{Opcode, Sender, peek_len};
use wsteady::wire::head::{self, HeadLimits};
use wsteady::wire::scan::{Limits, Scanner, Step};

/// All that a client has said, taken apart without judging it: what a server may get of it.
#[derive(Default)]
pub struct Source {
    log: Vec<u8>,
    at: usize,
    /// Past the request head; then: at a byte that begins or continues a frame.
    greeted: bool,
    /// Behind a Close, or what can't be read.
    done: bool,
    data_left: u64,
    ends: bool,
    /// The bytes of all data frames, and where in them messages end.
    pub data: Vec<u8>,
    pub message_ends: Vec<usize>,
}

impl Source {
    /// The session was given these bytes.
    pub fn said(&mut self, bytes: &[u8]) {
        self.log.extend_from_slice(bytes);
        if !self.greeted {
            let Ok(Some(end)) = head::end(&self.log, 0, &HeadLimits::default()) else {
                return;
            };
            (self.greeted, self.at) = (true, end);
        }
        while !self.done && self.at < self.log.len() {
            if !self.take_one() {
                return;
            }
        }
    }

    fn take_one(&mut self) -> bool {
        let rest = &self.log[self.at..];
        if self.data_left == 0 {
            let seen = &rest[..rest.len().min(14)];
            let Some((head, payload, fin, opcode)) = peek_len(seen).filter(|at| at.0 <= rest.len())
            else {
                // With 14 bytes every header is whole: this one is none.
                self.done = rest.len() >= 14;
                return false;
            };
            if opcode.is_control() {
                self.done = opcode == Opcode::Close;
                let whole = (head as u64).saturating_add(payload);
                if whole > rest.len() as u64 {
                    self.done = false;
                    return false;
                }
                self.at += whole as usize;
                return true;
            }
            self.data.extend_from_slice(&rest[..head]);
            (self.data_left, self.ends) = (payload, fin);
            self.at += head;
        }
        let rest = &self.log[self.at..];
        let take = rest
            .len()
            .min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
        self.data.extend_from_slice(&rest[..take]);
        self.at += take;
        self.data_left -= take as u64;
        if self.data_left == 0 && self.ends {
            self.message_ends.push(self.data.len());
        }
        true
    }

    /// Where message number `number` begins.
    pub fn begin_of(&self, number: u64) -> usize {
        match number {
            0 => 0,
            n => self.message_ends[n as usize - 1],
        }
    }
}

/// One direction behind a handshake: frames must be legal, and nothing may follow a Close.
pub struct Stream {
    log: Vec<u8>,
    at: usize,
    scanner: Scanner,
    greeted: bool,
    closed: bool,
    /// The bytes of all data frames, and where in them messages end.
    pub data: Vec<u8>,
    pub message_ends: Vec<usize>,
    /// Payloads of Pings.
    pub pings: Vec<Vec<u8>>,
    /// The status of a response that is no 101; behind it no frames follow.
    pub refused: bool,
}

impl Stream {
    pub fn new(from: Sender) -> Stream {
        Stream {
            log: Vec::new(),
            at: 0,
            scanner: Scanner::new(from, true),
            greeted: false,
            closed: false,
            data: Vec::new(),
            message_ends: Vec::new(),
            pings: Vec::new(),
            refused: false,
        }
    }

    /// The kernel took these bytes.
    pub fn took(&mut self, bytes: &[u8]) {
        self.log.extend_from_slice(bytes);
        if !self.greeted {
            let end = head::end(&self.log, 0, &BIG).expect("a head of ours is legal");
            let Some(end) = end else { return };
            (self.greeted, self.at) = (true, end);
            self.refused = self.log.starts_with(b"HTTP/1.1 ") && &self.log[9..12] != b"101";
        }
        while !self.refused && self.at < self.log.len() {
            assert!(
                !self.closed,
                "something follows a Close: {:?}",
                &self.log[self.at..]
            );
            let rest = &self.log[self.at..];
            match self.scanner.step(rest, &LIMITS).expect("legal frames") {
                Step::More => return,
                Step::Data {
                    len, ends_message, ..
                } => {
                    self.data.extend_from_slice(&rest[..len]);
                    self.at += len;
                    if ends_message {
                        self.message_ends.push(self.data.len());
                    }
                }
                Step::Control {
                    len,
                    opcode,
                    payload,
                } => {
                    self.at += len;
                    self.closed = opcode == Opcode::Close;
                    if opcode == Opcode::Ping {
                        self.pings.push(payload.to_vec());
                    }
                }
            }
        }
    }

    /// The head that came first, once it is whole.
    pub fn head(&self) -> Option<&[u8]> {
        let end = head::end(&self.log, 0, &BIG).ok()??;
        Some(&self.log[..end])
    }
}

const BIG: HeadLimits = HeadLimits {
    bytes_max: 16_000,
    headers_max: 100,
    name_max: 100,
    value_max: 8_000,
};

const LIMITS: Limits = Limits {
    message_max: u64::MAX,
    fragments_max: u32::MAX,
    utf8: true,
};
