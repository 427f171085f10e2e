//! One client: it connects, checks what is pushed to it, and writes down when it was there.

use super::judge::{Arrival, Span};
use crate::check;
use crate::frame::{self, Header, Reader, Sender, Step};
use crate::link::{Filled, Link};
use crate::reasons::Reasons;
use crate::run::Clock;
use crate::upgrade;
use hdrhistogram::Histogram;
use mio::event::Event;
use std::io;

/// What the clients of a thread use, one at a time, and what they saw.
pub struct Desk {
    pub clock: Clock,
    /// Of a message.
    pub size: usize,
    pub input: Box<[u8]>,
    pub seen: Seen,
}

/// What a thread of clients brings home.
pub struct Seen {
    pub arrivals: Vec<Arrival>,
    pub spans: Vec<Span>,
    /// Messages that are none of ours, or not whole.
    pub damaged: u64,
    pub opened: u64,
    pub connect_failed: u64,
    /// From the connect to the 101, of those that came.
    pub connect: Histogram<u64>,
    pub reasons: Reasons,
}

impl Seen {
    pub fn new() -> Self {
        Self {
            arrivals: Vec::new(),
            spans: Vec::new(),
            damaged: 0,
            opened: 0,
            connect_failed: 0,
            connect: super::report::histogram(),
            reasons: Reasons::default(),
        }
    }
}

pub struct Client {
    /// `None` while it is away.
    link: Option<Link>,
    stage: Stage,
    number: u32,
    reader: Reader,
    opcode: u8,
    arrival: check::Arrival,
    /// The start of a control frame's payload whose rest has not come.
    control: Vec<u8>,
    /// Of its connections: tells a deadline of this one from one of the last.
    pub dials: u32,
    /// Connects in a row that failed.
    pub failures: u32,
    /// It was connected at least once.
    pub known: bool,
}

enum Stage {
    Away,
    Greeting(Box<Greeting>),
    Open { since: u64 },
}

struct Greeting {
    /// Empty once it is sent.
    request: String,
    accept: String,
    answer: Vec<u8>,
    since: u64,
}

/// What becomes of a client that was served.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Wait,
    /// Its turn is over, its input is not.
    Again,
    /// Its connection is over.
    Gone,
}

impl Client {
    pub fn new(number: u32) -> Self {
        Self {
            link: None,
            stage: Stage::Away,
            number,
            reader: Reader::new(Sender::Server),
            opcode: frame::BINARY,
            arrival: check::Arrival::new(),
            control: Vec::new(),
            dials: 0,
            failures: 0,
            known: false,
        }
    }

    /// Its socket was told to connect.
    pub fn dialled(&mut self, link: Link, (request, accept): (String, String), now: u64) {
        self.link = Some(link);
        self.reader = Reader::new(Sender::Server);
        self.arrival = check::Arrival::new();
        self.control = Vec::new();
        self.stage = Stage::Greeting(Box::new(Greeting {
            request,
            accept,
            answer: Vec::new(),
            since: now,
        }));
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    pub fn is_greeting(&self) -> bool {
        matches!(self.stage, Stage::Greeting(_))
    }

    pub fn serve(&mut self, event: Option<&Event>, desk: &mut Desk) -> Next {
        if self.link.is_none() {
            return Next::Wait;
        }
        match self.work(event, desk) {
            Ok(next) => next,
            Err(reason) => {
                self.fail(&reason, desk);
                Next::Gone
            }
        }
    }

    /// Its connection ends here.
    pub fn fail(&mut self, reason: &str, desk: &mut Desk) {
        self.link = None;
        match std::mem::replace(&mut self.stage, Stage::Away) {
            Stage::Open { since } => {
                self.failures = 0;
                desk.seen.reasons.count(reason);
                desk.seen.spans.push(Span {
                    client: self.number,
                    time: since..desk.clock.now(),
                });
            }
            Stage::Greeting(_) | Stage::Away => {
                self.failures += 1;
                desk.seen.connect_failed += 1;
                desk.seen.reasons.count(&format!("connect: {reason}"));
            }
        }
    }

    /// The run is over: says goodbye without waiting for an answer.
    pub fn leave(&mut self, seen: &mut Seen) {
        if let Stage::Open { since } = self.stage {
            let _ = self.send_control(frame::CLOSE, &1000_u16.to_be_bytes());
            seen.spans.push(Span {
                client: self.number,
                time: since..u64::MAX,
            });
        }
        self.link = None;
        self.stage = Stage::Away;
    }

    fn link(&mut self) -> io::Result<&mut Link> {
        self.link
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn work(&mut self, event: Option<&Event>, desk: &mut Desk) -> Result<Next, String> {
        if let Some(event) = event {
            let link = self.link().map_err(told)?;
            link.on_event(event);
            if event.is_error()
                && let Some(error) = link.socket().take_error().map_err(told)?
            {
                return Err(told(error));
            }
            if event.is_writable() {
                link.flush().map_err(told)?;
                self.greet().map_err(told)?;
            }
        }
        for _ in 0..READS_MAX {
            let count = match self
                .link()
                .and_then(|link| link.fill(&mut desk.input))
                .map_err(told)?
            {
                Filled::Bytes(count) => count,
                Filled::Blocked => return Ok(Next::Wait),
                Filled::Ended => return Err("the connection ended without a Close".to_string()),
            };
            // Moved out for the call: the bytes and the rest of the desk are used side by side.
            let input = std::mem::take(&mut desk.input);
            let result = self.on_bytes(&input[..count], desk);
            desk.input = input;
            result?;
        }
        Ok(Next::Again)
    }

    /// Sends the request once the socket is connected.
    fn greet(&mut self) -> io::Result<()> {
        let Stage::Greeting(greeting) = &mut self.stage else {
            return Ok(());
        };
        let request = std::mem::take(&mut greeting.request);
        if request.is_empty() {
            return Ok(());
        }
        self.link()?.send(request.as_bytes())
    }

    fn on_bytes(&mut self, bytes: &[u8], desk: &mut Desk) -> Result<(), String> {
        let Stage::Greeting(greeting) = &mut self.stage else {
            return self.on_frames(bytes, desk);
        };
        greeting.answer.extend_from_slice(bytes);
        match upgrade::judge(&greeting.answer, &greeting.accept) {
            upgrade::Response::Partial => Ok(()),
            upgrade::Response::Refused { reason } => Err(reason),
            upgrade::Response::Open { head_bytes } => {
                let early = greeting.answer.split_off(head_bytes);
                let now = desk.clock.now();
                desk.seen.connect.saturating_record(now - greeting.since);
                desk.seen.opened += 1;
                self.stage = Stage::Open { since: now };
                (self.failures, self.known) = (0, true);
                self.on_frames(&early, desk)
            }
        }
    }

    fn on_frames(&mut self, bytes: &[u8], desk: &mut Desk) -> Result<(), String> {
        let mut at = 0;
        loop {
            let broken = |error| format!("a frame that breaks the protocol: {error:?}");
            match self.reader.step(bytes, &mut at).map_err(broken)? {
                Step::NeedMore => return Ok(()),
                Step::Begin(header) => {
                    if !header.is_control() && header.opcode != frame::CONTINUATION {
                        self.opcode = header.opcode;
                    }
                    if header.payload_bytes == 0 {
                        self.end_frame(header, desk)?;
                    }
                }
                Step::Payload { range, last, .. } => {
                    let header = *self.reader.header();
                    if header.is_control() {
                        self.control.extend_from_slice(&bytes[range]);
                    } else {
                        self.arrival.feed(&bytes[range]);
                    }
                    if last {
                        self.end_frame(header, desk)?;
                    }
                }
            }
        }
    }

    fn end_frame(&mut self, header: Header, desk: &mut Desk) -> Result<(), String> {
        if !header.is_control() {
            if header.fin {
                self.on_message(desk);
            }
            return Ok(());
        }
        let payload = std::mem::take(&mut self.control);
        match header.opcode {
            frame::PING => self.send_control(frame::PONG, &payload).map_err(told),
            frame::CLOSE => {
                let _ = self.send_control(frame::CLOSE, &payload);
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                Err(match frame::close_code(&payload) {
                    Ok(Some(code)) => format!("Close {code} {reason:?}"),
                    Ok(None) => "Close without a code".to_string(),
                    Err(_) => format!("a malformed Close {payload:02x?}"),
                })
            }
            _ => Ok(()),
        }
    }

    fn on_message(&mut self, desk: &mut Desk) {
        let label = self.arrival.finish(desk.size);
        match label.filter(|_| self.opcode == frame::BINARY) {
            // Whom the push was for stands in its own record: who got it is what counts here.
            Some(label) => desk.seen.arrivals.push(Arrival {
                push: label.sequence,
                client: self.number,
                at: desk.clock.now(),
            }),
            None => desk.seen.damaged += 1,
        }
    }

    fn send_control(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mut out = [0; frame::HEADER_MAX + frame::CONTROL_MAX];
        let mask = self.number.wrapping_mul(0x9e37_79b9).to_be_bytes();
        let header = Header {
            fin: true,
            opcode,
            mask: Some(mask),
            payload_bytes: payload.len() as u64,
        };
        let start = header.write(&mut out);
        let end = start + payload.len();
        out[start..end].copy_from_slice(payload);
        frame::mask(&mut out[start..end], mask, 0);
        self.link()?.send(&out[..end])
    }
}

fn told(error: io::Error) -> String {
    error.to_string()
}

/// Reads from one connection in a turn, then the others.
const READS_MAX: usize = 16;
