//! What shards tell each other, and what the operator asks of them.

use std::sync::Arc;

use super::directory::Seat;
use super::rules::Rules;
use super::stats::{SessionRow, Snapshot};
use crate::fleet::{Server, ServerState};
use crate::kit::{Key, Tick};
use crate::session::Verdict;
pub use crate::session::{Push, PushVerb, Pushed, Reached};

/// A message to a shard.
#[derive(Clone, Debug)]
pub enum Mail {
    /// To a server's home loop: what another loop saw of it.
    Verdict {
        server: u16,
        verdict: Verdict,
    },
    /// From a server's home loop: its breaker is open since then, or closed.
    Breaker {
        server: u16,
        since: Option<Tick>,
    },
    /// To a ClientId's home: a session wants it, is about to leave it, has left it.
    Reserve {
        id: u64,
        seat: Seat,
        replace: bool,
    },
    Leaving {
        id: u64,
        seat: Seat,
    },
    Free {
        id: u64,
        seat: Seat,
    },
    /// From there: it is the session's, or somebody else's; somebody else gets it.
    Reserved {
        id: u64,
        key: Key,
    },
    Taken {
        key: Key,
    },
    Evict {
        key: Key,
    },
    /// A push: from any shard to the id's home, on to the client's shard, and what became of it.
    Push {
        push: Box<Push>,
        from: Asker,
    },
    Deliver {
        key: Key,
        push: Box<Push>,
        from: Asker,
    },
    Pushed {
        key: Key,
        pushed: Pushed,
    },
    /// A broadcast, to each shard; and whom one of them has reached.
    Cast {
        push: Arc<Push>,
        asker: Asker,
    },
    Reached {
        key: Key,
        pushed: Pushed,
    },
    /// Another shard has calls that wait for a connection to this server. `by_right`: it has less
    /// than its even share of them.
    Permit {
        server: u16,
        from: u16,
        by_right: bool,
    },
    /// A connection was closed there, so that one may be opened here; it is counted already.
    Granted {
        server: u16,
    },
    /// From a server's home loop: what its probes say.
    Health {
        server: u16,
        healthy: bool,
        share: u32,
    },
    /// Other settings, limits, pools or routes. New pools come before their servers.
    Rules(Arc<Rules>),
    /// A server has come, and has this number on all shards. It comes to its home last: what that
    /// tells the others of the server finds them in the know.
    Join {
        server: u16,
        place: Box<Server>,
    },
    /// A server's state or weight has changed.
    State {
        server: u16,
        state: ServerState,
    },
    Weight {
        server: u16,
        weight: u32,
    },
    /// Close its breaker.
    Reset {
        server: u16,
    },
    /// Move all its sessions now.
    FailOver {
        server: u16,
    },
    /// Move one session, looked for from this slot on; answered with `Answer::Done` or
    /// `Answer::Further`.
    MoveSession {
        ticket: u64,
        id: u128,
        from: u32,
    },
    /// End one session; the same.
    AbortSession {
        ticket: u64,
        id: u128,
        from: u32,
    },
    /// Take new clients, or turn them away with 503.
    Accepting(bool),
    /// All counters as one copy; answered with `Answer::Snapshot`.
    Count {
        ticket: u64,
    },
    /// A page of sessions; answered with `Answer::Sessions`.
    List {
        ticket: u64,
        filter: Filter,
    },
    /// Close all sessions within this time, then stop.
    Drain {
        ms: u32,
    },
    /// Stop now.
    Stop,
}

/// Who pushes, and is told what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A connection of the API: by `Mail::Pushed`.
    Seat(Seat),
    /// The shard where a broadcast was asked for, which adds up: by `Mail::Reached`.
    Cast(Seat),
    /// The outside: by `Answer::Pushed`, with this ticket.
    Ticket(u64),
}

/// Which sessions are asked for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub server: Option<u16>,
    /// A phase's name.
    pub state: Option<String>,
    pub id: Option<u128>,
    /// Part of its id, of its client's address or of its path.
    pub text: Option<String>,
    /// From this slot on.
    pub from: u32,
    /// At most so many.
    pub limit: usize,
}

/// A shard's answer to a question of the outside.
#[derive(Debug)]
pub enum Answer {
    /// Whether there was such a session.
    Done(bool),
    /// It is not among the slots that were looked at, but may be from this one on.
    Further(u32),
    Snapshot(Box<Snapshot>),
    /// What became of a push.
    Pushed(Pushed),
    /// A page, and the slot to go on from if there may be more.
    Sessions {
        rows: Vec<SessionRow>,
        next: Option<u32>,
    },
}
