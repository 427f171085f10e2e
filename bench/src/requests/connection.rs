//! One kept connection: it dials, asks, checks what comes, and asks again.

use super::tally::Tally;
use super::{Method, Plan};
use crate::check::{Arrival, Label};
use crate::http;
use crate::link::{Filled, Link};
use crate::run::Clock;
use mio::event::Event;
use std::collections::VecDeque;
use std::io::{self, Write};

/// What all connections of a thread use: one at a time, so that none owns a buffer.
pub struct Desk {
    pub plan: Plan,
    pub clock: Clock,
    pub tally: Tally,
    /// Whether an answer is followed by the next request at once.
    pub sending: bool,
    /// Requests that are under way.
    pub outstanding: u64,
    /// Connections that may take the schedule's next request; some may be gone meanwhile.
    pub free: VecDeque<usize>,
    pub input: Box<[u8]>,
    /// The request that is being sent.
    pub output: Vec<u8>,
}

pub struct Connection {
    /// `None` once it is over.
    link: Option<Link>,
    stage: Stage,
    /// Among the thread's own.
    local: usize,
    number: u32,
    sent: u64,
    /// The start of an answer whose rest has not come.
    kept: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Dialling { since: u64, again: bool },
    Idle,
    Asked(Label),
    Over,
}

/// What the thread does with the connection next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Wait,
    /// Its turn is over, its input is not.
    Again,
    /// The server has closed it, and more is to be asked.
    Redial,
}

/// How one exchange ends that should have gone well.
enum Fault {
    Io(io::Error),
    /// It ended too early.
    Cut(&'static str),
    /// No answer, or not one.
    Wrong(&'static str),
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
            Self::Cut(reason) | Self::Wrong(reason) => formatter.write_str(reason),
        }
    }
}

impl Connection {
    /// The place of one that is to be dialled.
    pub fn new(local: usize, number: u32) -> Self {
        Self {
            link: None,
            stage: Stage::Over,
            local,
            number,
            sent: 0,
            kept: Vec::new(),
        }
    }

    /// Its socket was told to connect, or could not be.
    pub fn dialled(&mut self, link: io::Result<Link>, again: bool, desk: &mut Desk) {
        debug_assert!(self.link.is_none() && self.kept.is_empty());
        let since = desk.clock.now();
        self.stage = Stage::Dialling { since, again };
        match link {
            Ok(link) => self.link = Some(link),
            Err(error) => self.fail(&error.into(), desk),
        }
    }

    pub fn is_dialling(&self) -> bool {
        matches!(self.stage, Stage::Dialling { .. })
    }

    /// It can take a request.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Nothing more will come of it: it has ended, or has asked all it was to ask.
    pub fn is_done(&self, limit: u64) -> bool {
        self.stage == Stage::Over || (self.is_idle() && self.sent >= limit)
    }

    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Takes an event of the poller, or goes on where the last turn ended.
    pub fn serve(&mut self, event: Option<&Event>, desk: &mut Desk) -> Next {
        if self.link.is_none() {
            return Next::Wait;
        }
        match self.work(event, desk) {
            Ok(next) => next,
            Err(fault) => {
                let first = matches!(self.stage, Stage::Dialling { .. });
                self.fail(&fault, desk);
                // A server that can't be reached is left alone; one that hangs up is asked again.
                if first { Next::Wait } else { self.redial(desk) }
            }
        }
    }

    /// Sends the next request, which was due at `due`; what is wrong with its answer shows later.
    pub fn ask(&mut self, due: u64, desk: &mut Desk) {
        debug_assert!(self.is_idle() && self.kept.is_empty());
        let label = Label {
            connection: self.number,
            sequence: self.sent,
            due,
        };
        self.sent += 1;
        desk.tally.sent += 1;
        desk.outstanding += 1;
        self.stage = Stage::Asked(label);
        write_request(&mut desk.output, label, &desk.plan);
        let Some(link) = &mut self.link else { return };
        // An error is met again by the read, where a connection that must be dialled again is known.
        if let Err(error) = link.send(&desk.output) {
            desk.tally.reasons.count(&format!("sending: {error}"));
        }
    }

    /// Sends one of the first requests unless all of them are sent.
    pub fn ask_within(&mut self, desk: &mut Desk) {
        if self.is_idle() && self.sent < desk.plan.requests {
            let now = desk.clock.now();
            self.ask(now, desk);
        }
    }

    /// Gives up, because time is over.
    pub fn expire(&mut self, desk: &mut Desk) {
        if self.is_dialling() {
            self.fail(&Fault::Cut("timed out"), desk);
        }
        if let Stage::Asked(_) = self.stage {
            desk.tally.unanswered += 1;
        }
        (self.link, self.stage) = (None, Stage::Over);
    }

    fn work(&mut self, event: Option<&Event>, desk: &mut Desk) -> Result<Next, Fault> {
        let Some(link) = &mut self.link else {
            return Ok(Next::Wait);
        };
        if let Some(event) = event {
            link.on_event(event);
            if event.is_error()
                && let Some(error) = link.socket().take_error()?
            {
                return Err(error.into());
            }
            if event.is_writable() {
                link.flush()?;
            }
            // Also behind other events: a handshake ends with something to read.
            if self.is_dialling() {
                self.connected(desk)?;
            }
        }
        if self.is_dialling() {
            return Ok(Next::Wait);
        }
        loop {
            let Some(link) = &mut self.link else {
                return Ok(Next::Wait);
            };
            let count = match link.fill(&mut desk.input)? {
                Filled::Bytes(count) => count,
                Filled::Blocked => return Ok(Next::Wait),
                Filled::Ended if self.is_idle() => return Ok(self.ended(desk)),
                Filled::Ended => return Err(Fault::Cut("ended without an answer")),
            };
            let Stage::Asked(label) = self.stage else {
                return Err(Fault::Wrong("an answer to nothing"));
            };
            // Moved out for the call: the bytes and the rest of the desk are used side by side.
            let input = std::mem::take(&mut desk.input);
            let answered = self.on_bytes(label, &input[..count], desk);
            desk.input = input;
            if let Some(close) = answered? {
                return Ok(self.go_on(close, desk));
            }
        }
    }

    fn connected(&mut self, desk: &mut Desk) -> io::Result<()> {
        let Stage::Dialling { since, again } = self.stage else {
            return Ok(());
        };
        // The event may be an older socket's, which had the same token.
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        if link.socket().peer_addr().is_err() || !link.shake()? {
            return Ok(());
        }
        self.stage = Stage::Idle;
        if again {
            desk.tally.reopened += 1;
        } else {
            desk.tally.opened += 1;
            let took = desk.clock.now() - since;
            desk.tally.connect.saturating_record(took);
        }
        self.rest(desk);
        Ok(())
    }

    /// The next request, now or when the schedule says.
    fn rest(&mut self, desk: &mut Desk) {
        if desk.sending {
            self.ask_within(desk);
        } else if desk.plan.rate.is_some() {
            desk.free.push_back(self.local);
        }
    }

    /// After an answer.
    fn go_on(&mut self, close: bool, desk: &mut Desk) -> Next {
        self.stage = Stage::Idle;
        if close {
            return self.ended(desk);
        }
        self.rest(desk);
        let more = self.link.as_ref().is_some_and(Link::is_readable);
        if more { Next::Again } else { Next::Wait }
    }

    /// The server has closed a connection that rested, as it may.
    fn ended(&mut self, desk: &mut Desk) -> Next {
        (self.link, self.stage) = (None, Stage::Over);
        self.redial(desk)
    }

    fn redial(&self, desk: &mut Desk) -> Next {
        let more = desk.sending || desk.plan.rate.is_some();
        if more && self.sent < desk.plan.requests {
            return Next::Redial;
        }
        desk.tally.closed += 1;
        Next::Wait
    }

    fn fail(&mut self, fault: &Fault, desk: &mut Desk) {
        let tally = &mut desk.tally;
        let what = match self.stage {
            Stage::Dialling { again, .. } => {
                tally.connect_failed += u64::from(!again);
                tally.closed += u64::from(again);
                "connect: "
            }
            _ => "",
        };
        tally.reasons.count(&format!("{what}{fault}"));
        let asked = matches!(self.stage, Stage::Asked(_));
        desk.outstanding -= u64::from(asked);
        match fault {
            Fault::Wrong(_) => tally.damaged += 1,
            // A connection that rests may end as it likes.
            Fault::Io(_) | Fault::Cut(_) => tally.cut += u64::from(asked),
        }
        self.kept = Vec::new();
        (self.link, self.stage) = (None, Stage::Over);
    }

    /// Whether the answer is whole, and then whether the connection ends behind it.
    fn on_bytes(
        &mut self,
        label: Label,
        bytes: &[u8],
        desk: &mut Desk,
    ) -> Result<Option<bool>, Fault> {
        if self.kept.is_empty() {
            let answered = judge(label, bytes, desk)?;
            if answered.is_none() {
                self.kept.extend_from_slice(bytes);
            }
            return Ok(answered);
        }
        self.kept.extend_from_slice(bytes);
        let answered = judge(label, &self.kept, desk)?;
        if answered.is_some() {
            // Given back: a thousand connections would keep a thousand largest answers.
            self.kept = Vec::new();
        }
        Ok(answered)
    }
}

/// Checks an answer once it is whole and counts it: whether it is the last on its connection.
fn judge(label: Label, bytes: &[u8], desk: &mut Desk) -> Result<Option<bool>, Fault> {
    let Some(answer) = http::response(bytes).map_err(Fault::Wrong)? else {
        return Ok(None);
    };
    if answer.bytes < bytes.len() {
        return Err(Fault::Wrong("more than one answer"));
    }
    desk.outstanding -= 1;
    let tally = &mut desk.tally;
    if answer.status != 200 {
        tally.refused += 1;
        tally.reasons.count(&format!("status {}", answer.status));
        return Ok(Some(answer.close));
    }
    let size = desk.plan.size.unwrap_or(answer.body.len());
    if answer.body.len() != size {
        tally.damaged += 1;
        let got = answer.body.len();
        tally.reasons.count(&format!("{got} bytes, not {size}"));
        return Ok(Some(answer.close));
    }
    let mut arrival = Arrival::new();
    let found = if desk.plan.foreign {
        Some(label)
    } else {
        arrival.feed(answer.body);
        arrival.finish(size)
    };
    match found {
        Some(found) if found == label => {
            tally.answered += 1;
            tally.latency(label.due, desk.clock.now());
        }
        Some(found) if found.connection != label.connection => tally.crossed += 1,
        Some(found) if found.sequence < label.sequence => tally.stale += 1,
        Some(_) | None => tally.damaged += 1,
    }
    Ok(Some(answer.close))
}

fn write_request(out: &mut Vec<u8>, label: Label, plan: &Plan) {
    out.clear();
    let (method, path, host) = (plan.method.name(), &plan.path, &plan.host);
    let told = write!(out, "{method} {path}");
    if plan.method == Method::Get && !plan.foreign {
        out.push(if path.contains('?') { b'&' } else { b'?' });
        out.extend_from_slice(&label.encode());
    }
    let told = told.and_then(|()| {
        let agent = concat!("wsteady-bench/", env!("CARGO_PKG_VERSION"));
        let fixed = "Accept: */*\r\n";
        write!(
            out,
            " HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n{fixed}"
        )
    });
    told.expect("a Vec takes all");
    let Some(size) = plan.size.filter(|_| plan.method == Method::Post) else {
        out.extend_from_slice(b"\r\n");
        return;
    };
    let told = write!(
        out,
        "Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
    );
    told.expect("a Vec takes all");
    let start = out.len();
    out.resize(start + size, 0);
    label.write(&mut out[start..]);
}
