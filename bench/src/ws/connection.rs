//! One client connection: it dials, upgrades, talks, checks, and closes.

use super::Plan;
use super::push::{Lent, Pushers};
use super::tally::Tally;
use crate::check::{Arrival, Label, Sequence};
use crate::frame::{self, Header, Reader, Sender, Step};
use crate::link::{Filled, Link};
use crate::run::Clock;
use crate::upgrade;
use mio::event::Event;
use std::io;

/// What all connections of a thread use: one at a time, so that none owns a buffer.
pub struct Desk {
    pub plan: Plan,
    pub clock: Clock,
    pub tally: Tally,
    /// If messages take the other way.
    pub pushers: Option<Pushers>,
    /// Whether an echo is answered with the next message.
    pub sending: bool,
    /// Messages that may still come back.
    pub outstanding: u64,
    pub input: Box<[u8]>,
    pub output: Box<[u8]>,
}

pub struct Connection {
    /// `None` once it is over.
    link: Option<Link>,
    stage: Stage,
    number: u32,
    mask: [u8; 4],
    reader: Reader,
    /// Opcode of the message that is arriving.
    opcode: u8,
    arrival: Arrival,
    sequence: Sequence,
    sent: u64,
    /// The start of a control frame's payload whose rest has not come.
    control: Vec<u8>,
    /// The number of the Ping that waits for its Pong.
    ping: Option<u64>,
    /// Its client does not read.
    paused: bool,
    /// Latency counts from here on: what waited for a paused client says nothing about its peer.
    counts_from: u64,
}

enum Stage {
    Greeting(Box<Greeting>),
    Open,
    /// Our Close is on its way; `answered` once the peer's has come.
    Closing {
        answered: bool,
    },
}

struct Greeting {
    /// Empty once it is sent.
    request: String,
    accept: String,
    answer: Vec<u8>,
    since: u64,
}

/// What the thread does with the connection next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Wait,
    /// Its turn is over, its input is not.
    Again,
}

/// How a connection ends that should have gone on.
enum Fault {
    Io(io::Error),
    Refused(String),
    Told(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(formatter, "{error}"),
            Self::Refused(reason) | Self::Told(reason) => formatter.write_str(reason),
        }
    }
}

impl Connection {
    /// A connection whose socket was told to connect, and since when it should have been.
    pub fn dialled(number: u32, link: Link, since: u64, desk: &Desk) -> Self {
        let (request, accept) = upgrade::request(&desk.plan.host, &desk.plan.path(number));
        let greeting = Greeting {
            request,
            accept,
            answer: Vec::new(),
            since,
        };
        Self::new(number, Some(link), Stage::Greeting(Box::new(greeting)))
    }

    /// The place of one that could not even be dialled.
    pub fn stillborn(number: u32) -> Self {
        Self::new(number, None, Stage::Closing { answered: false })
    }

    fn new(number: u32, link: Option<Link>, stage: Stage) -> Self {
        Self {
            link,
            stage,
            number,
            // Fixed for the connection's life but different from its neighbours' (the RFC wants
            // fresh ones against hostile scripts in browsers; there are none here).
            mask: (number.wrapping_add(1))
                .wrapping_mul(0x9e37_79b9)
                .to_be_bytes(),
            reader: Reader::new(Sender::Server),
            opcode: frame::BINARY,
            arrival: Arrival::new(),
            sequence: Sequence::new(number),
            sent: 0,
            control: Vec::new(),
            ping: None,
            paused: false,
            counts_from: 0,
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open) && self.link.is_some()
    }

    pub fn is_over(&self) -> bool {
        self.link.is_none()
    }

    /// It is over, and ended as it should.
    pub fn is_closed(&self) -> bool {
        self.is_over() && matches!(self.stage, Stage::Closing { answered: true })
    }

    pub fn is_greeting(&self) -> bool {
        matches!(self.stage, Stage::Greeting(_)) && self.link.is_some()
    }

    pub fn backlog_bytes(&self) -> usize {
        self.link.as_ref().map_or(0, Link::backlog_bytes)
    }

    /// Messages that have not come back.
    pub fn lost(&self) -> u64 {
        self.sequence.lost(self.sent)
    }

    /// Takes an event of the poller, or goes on where the last turn ended.
    pub fn serve(&mut self, event: Option<&Event>, desk: &mut Desk) -> Next {
        if self.is_over() {
            return Next::Wait;
        }
        match self.work(event, desk) {
            Ok(next) => next,
            Err(fault) => {
                self.fail(&fault, desk);
                Next::Wait
            }
        }
    }

    /// Sends or pushes the next message, which was due at `due`.
    pub fn send_message(&mut self, due: u64, desk: &mut Desk) {
        debug_assert!(self.is_open());
        let label = Label {
            connection: self.number,
            sequence: self.sent,
            due,
        };
        self.sent += 1;
        desk.tally.sent += 1;
        desk.outstanding += 1;
        if let Some(pushers) = &mut desk.pushers {
            let (plan, clock, tally) = (&desk.plan, desk.clock, &mut desk.tally);
            return pushers.push(label, &mut Lent { plan, clock, tally });
        }
        let payload_bytes = desk.plan.size as u64;
        let mask = Some(self.mask);
        let header = Header {
            fin: true,
            opcode: desk.plan.opcode,
            mask,
            payload_bytes,
        };
        let start = header.write(&mut desk.output);
        let end = start + desk.plan.size;
        label.write(&mut desk.output[start..end]);
        frame::mask(&mut desk.output[start..end], self.mask, 0);
        let sent = self.link().and_then(|link| link.send(&desk.output[..end]));
        if let Err(error) = sent {
            self.fail(&error.into(), desk);
        }
    }

    /// Sends one of the first `limit` messages unless all of them are sent.
    pub fn send_within(&mut self, limit: u64, desk: &mut Desk) {
        if self.is_open() && self.sent < limit {
            let now = desk.clock.now();
            self.send_message(now, desk);
        }
    }

    pub fn send_ping(&mut self, number: u64, desk: &mut Desk) {
        self.ping = Some(number);
        desk.tally.pings_sent += 1;
        if let Err(error) = self.send_control(frame::PING, &number.to_be_bytes()) {
            self.fail(&error.into(), desk);
        }
    }

    /// Begins the closing handshake with 1000.
    pub fn close(&mut self, desk: &mut Desk) {
        if !self.is_open() {
            return;
        }
        self.stage = Stage::Closing { answered: false };
        if let Err(error) = self.send_control(frame::CLOSE, &1000_u16.to_be_bytes()) {
            self.fail(&error.into(), desk);
        }
    }

    /// Drops the connection without a word, as a client does whose network is gone.
    pub fn abandon(&mut self, desk: &mut Desk) {
        if self.link.take().is_some() {
            desk.outstanding = desk.outstanding.saturating_sub(self.lost());
        }
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Reads nothing until it is resumed.
    pub fn pause(&mut self) {
        self.paused = true;
        self.counts_from = u64::MAX;
    }

    /// Reads again; what waits is read by the next `serve`.
    pub fn resume(&mut self, now: u64) {
        self.paused = false;
        self.counts_from = now;
    }

    /// Reads so many bytes at most, though paused.
    pub fn sip(&mut self, bytes: usize, desk: &mut Desk) {
        let limit = bytes.clamp(1, desk.input.len());
        if self.link.is_some()
            && let Err(fault) = self.read(limit, desk)
        {
            self.fail(&fault, desk);
        }
    }

    /// Gives up, because time is over.
    pub fn expire(&mut self, desk: &mut Desk) {
        if !self.is_over() {
            self.fail(&Fault::Told("timed out".to_string()), desk);
        }
    }

    fn link(&mut self) -> io::Result<&mut Link> {
        self.link
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn work(&mut self, event: Option<&Event>, desk: &mut Desk) -> Result<Next, Fault> {
        if let Some(event) = event {
            let link = self.link()?;
            link.on_event(event);
            if event.is_error()
                && let Some(error) = link.socket().take_error()?
            {
                return Err(error.into());
            }
            if event.is_writable() {
                link.flush()?;
                self.greet()?;
            }
        }
        if self.paused {
            return Ok(Next::Wait);
        }
        for _ in 0..READS_MAX {
            if self.read(usize::MAX, desk)? == Next::Wait {
                return Ok(Next::Wait);
            }
        }
        Ok(Next::Again)
    }

    /// Reads once, `limit` bytes at most.
    fn read(&mut self, limit: usize, desk: &mut Desk) -> Result<Next, Fault> {
        let limit = limit.min(desk.input.len());
        let count = match self.link()?.fill(&mut desk.input[..limit])? {
            Filled::Bytes(count) => count,
            Filled::Blocked => return Ok(Next::Wait),
            Filled::Ended => return self.ended(desk),
        };
        // Moved out for the call: the bytes and the rest of the desk are used side by side.
        let input = std::mem::take(&mut desk.input);
        let result = self.on_bytes(&input[..count], desk);
        desk.input = input;
        result?;
        Ok(match &self.link {
            Some(link) if link.is_readable() => Next::Again,
            _ => Next::Wait,
        })
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

    /// The peer's FIN: right after both Closes, a fault at any other time.
    fn ended(&mut self, desk: &mut Desk) -> Result<Next, Fault> {
        match self.stage {
            Stage::Closing { answered: true } => {
                desk.tally.closed_clean += 1;
                self.abandon(desk);
                Ok(Next::Wait)
            }
            _ => Err(Fault::Told(
                "the connection ended without a Close".to_string(),
            )),
        }
    }

    fn fail(&mut self, fault: &Fault, desk: &mut Desk) {
        self.link = None;
        match self.stage {
            Stage::Greeting(_) => desk.tally.connect_failed(&fault.to_string()),
            Stage::Closing { .. } => desk.tally.closed_badly(&fault.to_string()),
            Stage::Open => desk.tally.closed_early(&fault.to_string()),
        }
        desk.outstanding = desk.outstanding.saturating_sub(self.lost());
    }

    fn on_bytes(&mut self, bytes: &[u8], desk: &mut Desk) -> Result<(), Fault> {
        let Stage::Greeting(greeting) = &mut self.stage else {
            return self.on_frames(bytes, desk);
        };
        greeting.answer.extend_from_slice(bytes);
        match upgrade::judge(&greeting.answer, &greeting.accept) {
            upgrade::Response::Partial => Ok(()),
            upgrade::Response::Refused { reason } => Err(Fault::Refused(reason)),
            upgrade::Response::Open { head_bytes } => {
                let early = greeting.answer.split_off(head_bytes);
                desk.tally.opened(desk.clock.now() - greeting.since);
                let resumed = self.link.as_ref().is_some_and(Link::is_resumed);
                desk.tally.resumed += u64::from(resumed);
                self.stage = Stage::Open;
                self.on_frames(&early, desk)
            }
        }
    }

    fn on_frames(&mut self, bytes: &[u8], desk: &mut Desk) -> Result<(), Fault> {
        let mut at = 0;
        loop {
            let broken =
                |error| Fault::Told(format!("a frame that breaks the protocol: {error:?}"));
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
            if self.link.is_none() {
                return Ok(());
            }
        }
    }

    fn end_frame(&mut self, header: Header, desk: &mut Desk) -> Result<(), Fault> {
        if !header.is_control() {
            if header.fin {
                self.on_message(desk);
            }
            return Ok(());
        }
        let payload = std::mem::take(&mut self.control);
        match header.opcode {
            frame::PING => {
                desk.tally.pings_answered += 1;
                // After our Close nothing more may be sent (RFC 6455, 5.5.1).
                if matches!(self.stage, Stage::Open) {
                    self.send_control(frame::PONG, &payload)?;
                }
            }
            frame::PONG => {
                if self
                    .ping
                    .is_some_and(|number| number.to_be_bytes() == *payload)
                {
                    self.ping = None;
                    desk.tally.pongs += 1;
                }
            }
            _ => return self.on_close(&payload),
        }
        Ok(())
    }

    fn on_close(&mut self, payload: &[u8]) -> Result<(), Fault> {
        if let Stage::Closing { answered } = &mut self.stage {
            *answered = true;
            return Ok(());
        }
        let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
        let said = match frame::close_code(payload) {
            Ok(Some(code)) => format!("Close {code} {reason:?}"),
            Ok(None) => "Close without a code".to_string(),
            Err(_) => format!("a malformed Close {payload:02x?}"),
        };
        // Its own Close back, as far as the socket takes it; the connection is over either way.
        let _ = self.send_control(frame::CLOSE, payload);
        let _ = self.link()?.shut();
        Err(Fault::Told(said))
    }

    fn on_message(&mut self, desk: &mut Desk) {
        let label = self.arrival.finish(desk.plan.size);
        let Some(label) = label.filter(|_| self.opcode == desk.plan.opcode) else {
            desk.tally.damaged += 1;
            return;
        };
        let now = desk.clock.now();
        let verdict = self.sequence.see(label, self.sent);
        if !desk.tally.judged(verdict) {
            return;
        }
        desk.outstanding -= 1;
        if label.due >= self.counts_from {
            desk.tally.latency(label.due, now);
        }
        if desk.sending && self.sent < desk.plan.messages {
            self.send_message(now, desk);
        }
    }

    fn send_control(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mut out = [0; frame::HEADER_MAX + frame::CONTROL_MAX];
        let mask = Some(self.mask);
        let header = Header {
            fin: true,
            opcode,
            mask,
            payload_bytes: payload.len() as u64,
        };
        let start = header.write(&mut out);
        let end = start + payload.len();
        out[start..end].copy_from_slice(payload);
        frame::mask(&mut out[start..end], self.mask, 0);
        self.link()?.send(&out[..end])
    }
}

/// Reads from one connection in a turn, then the others.
const READS_MAX: usize = 16;
