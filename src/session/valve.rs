//! Valves: an embedder's code in the way of messages, and the loop's store of them. A session holds
//! a key of its row of valves, as it holds handles of chunks: it stays plain data.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bitflags::bitflags;

use super::Session;
use crate::kit::{Key, Slots};
use crate::wire::{close, deflate};

/// Sees whole messages of one session, and decides what becomes of each.
///
/// The valves of a session stand in a row between its client and its server, in the order in which
/// they were given to the proxy: a message from the client meets the first one first, a message from
/// the server the last one first. What one makes of a message is what the next one sees.
///
/// It runs on the loop of its session and is made there, so that it need not be `Send`. While it
/// runs, all sessions of that loop wait: it must not block. One that panics, or whose row has used
/// more than its share of time ([`TIME_MAX`]), ends its own session with Close 1011.
pub trait Valve {
    /// What it asks for; asked once, when the session begins. What no valve of a row asks for passes
    /// as if there were none.
    fn wants(&self) -> Wants {
        Wants::all()
    }

    /// Decides about a message. Each is shown once, a replay to another server shows none again.
    fn on(&mut self, message: &Message<'_>) -> Verdict;

    /// What log lines call it.
    fn name(&self) -> &'static str {
        std::any::type_name::<Self>()
    }
}

impl<F: FnMut(&Message<'_>) -> Verdict> Valve for F {
    fn on(&mut self, message: &Message<'_>) -> Verdict {
        self(message)
    }
}

bitflags! {
    /// What a valve asks for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Wants: u8 {
        /// Messages from the client.
        const UP = 1 << 0;
        /// Messages from the server.
        const DOWN = 1 << 1;
        /// Compressed messages inflated, up to `limits.message`; else they are shown as they are.
        const INFLATED = 1 << 2;
    }
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// A whole message, without frames and masks.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub direction: Direction,
    /// Text, else binary.
    pub text: bool,
    /// The payload is still compressed: the valve has not asked for [`Wants::INFLATED`].
    pub compressed: bool,
    /// At most `limits.message` bytes. Text of a client is UTF-8 unless compressed; what servers call
    /// text is not checked.
    pub payload: &'a [u8],
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on as it is.
    Pass,
    /// It goes on with this payload, uncompressed, as the same type. Text must be UTF-8, and nothing
    /// longer than `limits.message`: else the session is closed with 1011.
    Change(Vec<u8>),
    /// It goes nowhere, and whoever sent it does not hear of that.
    Drop,
    /// It goes nowhere, and whoever sent it gets this message; no valve sees that one. Text must be
    /// UTF-8, and nothing longer than `limits.message`.
    Answer { text: bool, payload: Vec<u8> },
    /// It goes nowhere, and the session ends: the client is closed with this code and reason (cut at
    /// 123 bytes), the server gets what came before and the same Close. The code is one that may
    /// stand in a Close (RFC 6455 7.4): 1000 to 1003, 1007 to 1014, 3000 to 4999.
    Close(u16, String),
}

/// Makes a valve for a session that has just been let in, or none for this one.
pub type MakeValve = Arc<dyn Fn(&Arrival<'_>) -> Option<Box<dyn Valve>> + Send + Sync>;

/// Which sessions get which valve.
#[derive(Clone)]
pub struct Fitting {
    /// The name of a pool; all pools for `None`.
    pub pool: Option<String>,
    pub make: MakeValve,
}

/// A session that begins: what a valve may be made by.
pub struct Arrival<'a> {
    session: &'a Session,
    pool: &'a str,
}

impl Arrival<'_> {
    /// The random 128-bit id; `X-Wsteady-Session` in 32 hexadecimal digits.
    pub fn session(&self) -> u128 {
        self.session.id()
    }

    /// The name of its pool.
    pub fn pool(&self) -> &str {
        self.pool
    }

    /// The client's address.
    pub fn client(&self) -> SocketAddr {
        self.session.peer()
    }

    /// Path and query that the client asked for.
    pub fn target(&self) -> String {
        self.session.target()
    }

    /// The subprotocol that was agreed.
    pub fn protocol(&self) -> Option<&str> {
        self.session.kept().and_then(|kept| kept.protocol())
    }

    /// The first request header of this name, as servers get it.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.session.kept_header(name)
    }
}

/// The valves of a loop: how to make them, and those of its sessions.
pub struct Valves {
    fittings: Arc<[Fitting]>,
    /// Names of pools, by number.
    pools: Vec<String>,
    rows: Slots<Row>,
    /// Microseconds of a monotonic clock.
    clock: fn() -> u64,
    /// Where a message is put together.
    pub(super) frames: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

/// The valves of one session.
struct Row {
    seats: Vec<Seat>,
    /// Microseconds that it has had beyond its share, as of then.
    debt: u64,
    charged_at: u64,
}

struct Seat {
    valve: Box<dyn Valve>,
    wants: Wants,
}

/// What a whole row has decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Said(Verdict),
    /// It can't be inflated: the sender's fault, with the RFC's code.
    Garbled(u16),
    Failed(Failure),
}

/// A valve did what it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its name.
    pub valve: &'static str,
    pub why: &'static str,
}

impl Valves {
    /// No valves.
    pub fn none() -> Valves {
        Valves {
            fittings: Arc::new([]),
            pools: Vec::new(),
            rows: Slots::with_capacity(0),
            clock: || 0,
            frames: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// Sessions that begin from now on get these. `clock` gives microseconds and never goes back.
    pub fn fit(&mut self, fittings: Arc<[Fitting]>, clock: fn() -> u64) {
        (self.fittings, self.clock) = (fittings, clock);
    }

    /// What pools are called, by number.
    pub fn name_pools<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        self.pools = names.map(str::to_string).collect();
    }

    /// Sessions that have valves.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether no session has any.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the valves of a session; `None`: it has none. With what all of them together want.
    pub(super) fn make(&mut self, session: &Session) -> Result<Option<(Key, Wants)>, Failure> {
        let pool = session.pool().map_or(usize::MAX, usize::from);
        let Some(pool) = self.pools.get(pool).filter(|_| !self.fittings.is_empty()) else {
            return Ok(None);
        };
        let arrival = Arrival { session, pool };
        let begun = (self.clock)();
        let made = catch_unwind(AssertUnwindSafe(|| {
            let here = |fitting: &&Fitting| fitting.pool.as_ref().is_none_or(|name| name == pool);
            let made = self.fittings.iter().filter(here);
            made.filter_map(|fitting| (fitting.make)(&arrival))
                .map(|valve| Seat {
                    wants: valve.wants(),
                    valve,
                })
                .collect::<Vec<_>>()
        }));
        let seats = made.map_err(|_| Failure {
            valve: "(being made)",
            why: PANICKED,
        })?;
        if seats.is_empty() {
            return Ok(None);
        }
        let wants = seats
            .iter()
            .fold(Wants::empty(), |sum, seat| sum | seat.wants);
        let mut row = Row {
            seats,
            debt: 0,
            charged_at: begun,
        };
        // A row that is too slow already says so at its first message.
        row.charge(begun, (self.clock)());
        Ok(Some((self.rows.insert(row), wants)))
    }

    /// Lets go of a session's valves. What their ends do is no affair of anybody else's.
    pub(super) fn drop_row(&mut self, key: Key) {
        let seats = self.rows.remove(key).map_or(Vec::new(), |row| row.seats);
        for seat in seats {
            let _panicked = catch_unwind(AssertUnwindSafe(|| drop(seat)));
        }
    }

    /// Shows a message to a row, each valve in its turn. `max`: bytes that a message may have.
    pub(super) fn show(&mut self, key: Key, message: Message<'_>, max: u64) -> Outcome {
        let Some(row) = self.rows.get_mut(key) else {
            debug_assert!(false, "a session's valves are there as long as it is");
            return Outcome::Said(Verdict::Pass);
        };
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let up = message.direction == Direction::Up;
        let wanted = if up { Wants::UP } else { Wants::DOWN };
        let (mut inflated, mut changed) = (None, None);
        let mut at = (self.clock)();
        for step in 0..row.seats.len() {
            let place = if up { step } else { row.seats.len() - 1 - step };
            let seat = &mut row.seats[place];
            if !seat.wants.contains(wanted) {
                continue;
            }
            let plain = seat.wants.contains(Wants::INFLATED);
            if message.compressed && plain && inflated.is_none() && changed.is_none() {
                match inflate(&message, max) {
                    Ok(payload) => inflated = Some(payload),
                    Err(code) => return Outcome::Garbled(code),
                }
            }
            let plain = changed.as_ref().or(inflated.as_ref().filter(|_| plain));
            let shown = Message {
                compressed: message.compressed && plain.is_none(),
                payload: plain.map_or(message.payload, |payload: &Vec<u8>| payload),
                ..message
            };
            let verdict = catch_unwind(AssertUnwindSafe(|| seat.valve.on(&shown)));
            let ended = (self.clock)();
            let slow = row.charge(at, ended);
            at = ended;
            let verdict = match verdict {
                Err(_) => Err(PANICKED),
                Ok(_) if slow => Err(SLOW),
                Ok(verdict) => check(verdict, message.text, max),
            };
            match verdict {
                Ok(Verdict::Pass) => {}
                Ok(Verdict::Change(payload)) => changed = Some(payload),
                Ok(last) => return Outcome::Said(last),
                Err(why) => {
                    let valve = row.seats[place].valve.name();
                    return Outcome::Failed(Failure { valve, why });
                }
            }
        }
        Outcome::Said(changed.map_or(Verdict::Pass, Verdict::Change))
    }
}

impl Outcome {
    /// Place in [`VERDICTS`].
    pub(super) fn index(&self) -> usize {
        match self {
            Outcome::Said(Verdict::Pass) => 0,
            Outcome::Said(Verdict::Change(_)) => 1,
            Outcome::Said(Verdict::Drop) => 2,
            Outcome::Said(Verdict::Answer { .. }) => 3,
            Outcome::Said(Verdict::Close(..)) => 4,
            Outcome::Garbled(_) | Outcome::Failed(_) => 5,
        }
    }
}

impl Row {
    /// Counts a call; whether the row has had more time than it may.
    fn charge(&mut self, begun: u64, ended: u64) -> bool {
        let earned = begun.saturating_sub(self.charged_at) / SHARE;
        let took = ended.saturating_sub(begun);
        let most = self.debt.saturating_sub(earned) + took;
        (self.debt, self.charged_at) = (most - took / SHARE, ended);
        most > TIME_MAX
    }
}

fn inflate(message: &Message<'_>, max: usize) -> Result<Vec<u8>, u16> {
    let payload = deflate::inflate(message.payload, max).map_err(|error| error.code)?;
    // As it would have been checked on its way had it come uncompressed.
    let checked = message.text && message.direction == Direction::Up;
    match checked && std::str::from_utf8(&payload).is_err() {
        true => Err(1007),
        false => Ok(payload),
    }
}

/// Whether what a valve wants can be done.
fn check(verdict: Verdict, text: bool, max: usize) -> Result<Verdict, &'static str> {
    let (text, payload) = match &verdict {
        Verdict::Change(payload) => (text, payload),
        Verdict::Answer { text, payload } => (*text, payload),
        Verdict::Close(code, _) if !close::is_sendable(*code) => {
            return Err("its Close has a code that can't be sent");
        }
        Verdict::Pass | Verdict::Drop | Verdict::Close(..) => return Ok(verdict),
    };
    if payload.len() > max {
        return Err("its message is longer than limits.message");
    }
    if text && std::str::from_utf8(payload).is_err() {
        return Err("its text is not UTF-8");
    }
    Ok(verdict)
}

/// What comes of a message that valves are shown; `failed` also where it could not be inflated.
pub const VERDICTS: [&str; 6] = ["pass", "change", "drop", "answer", "close", "failed"];

/// Microseconds that the valves of a session may take at once; in the long run they may take one
/// [`SHARE`]th of the loop's time. A second is longer than any work that belongs here, and longer
/// than a busy machine lets a thread wait.
pub const TIME_MAX: u64 = 1_000_000;

/// Of the time that passes, one part in so many is a session's own for its valves.
pub const SHARE: u64 = 10;

const PANICKED: &str = "it panicked";
const SLOW: &str = "it took too much of the loop's time";

#[cfg(test)]
mod tests;
