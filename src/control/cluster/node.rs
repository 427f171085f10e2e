//! Another node, as far as we know it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use log::{info, warn};

use super::line::Errand;
use crate::kit::{Key, Tick};

/// One address at which another node takes pushes.
pub(super) struct Node {
    pub address: SocketAddr,
    /// It stands in the configuration as it is.
    pub listed: bool,
    /// No name has it any more: it is asked for as long as it answers, for it may still have clients.
    pub left: bool,
    pub state: State,
    pub since: Tick,
    /// All connections to it, and those of them that rest.
    pub lines: Vec<Key>,
    pub idle: Vec<Key>,
    /// It says that it drains: it takes no new connections, and answers on those that stand.
    pub drains: bool,
    /// Since when it has refused a connection, though others stand. If it neither drains nor
    /// answers, it is dying: a process closes its listeners first.
    pub refuses_since: Option<Tick>,
    /// Requests that wait for a connection.
    pub queue: VecDeque<Errand>,
    /// When it is asked how it is, if nothing is heard of it before.
    pub check_at: Tick,
}

/// What was last heard of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing yet.
    New,
    Up,
    /// Nobody listens there.
    Refused,
    /// It does not answer, or can't be reached.
    Silent,
    /// It answers, but not as a node of this cluster.
    Strange,
    /// It is this one.
    Own,
}

impl State {
    /// All of them.
    pub const ALL: [State; 6] = [
        State::New,
        State::Up,
        State::Refused,
        State::Silent,
        State::Strange,
        State::Own,
    ];

    /// As metrics and the admin API have it.
    pub fn name(self) -> &'static str {
        match self {
            State::New => "new",
            State::Up => "up",
            State::Refused => "refused",
            State::Silent => "silent",
            State::Strange => "strange",
            State::Own => "self",
        }
    }
}

impl Node {
    pub fn new(address: SocketAddr, listed: bool, now: Tick) -> Node {
        Node {
            address,
            listed,
            left: false,
            state: State::New,
            since: now,
            lines: Vec::new(),
            idle: Vec::new(),
            drains: false,
            refuses_since: None,
            queue: VecDeque::new(),
            check_at: now,
        }
    }

    /// Whether nobody needs to know it any more.
    pub fn is_over(&self) -> bool {
        self.left && self.state != State::Up && self.lines.is_empty() && self.queue.is_empty()
    }

    /// Whether a new connection to it need not be tried.
    pub fn is_closed(&self) -> bool {
        self.drains || self.refuses_since.is_some()
    }

    /// When it is dead, if it says nothing.
    pub fn dies_at(&self) -> Option<Tick> {
        let since = self.refuses_since.filter(|_| !self.drains)?;
        Some(since.after(DYING))
    }

    /// What was heard of it. True: that is new.
    pub fn become_(&mut self, state: State, now: Tick) -> bool {
        let pause = match state {
            State::Silent => TRIAL_PAUSE,
            _ => CHECK_PAUSE,
        };
        self.check_at = now.after(pause);
        if self.state == state {
            return false;
        }
        let peer = self.address;
        match state {
            State::New => {}
            State::Up => info!(peer:% = peer; "peer up"),
            State::Own => info!(peer:% = peer; "peer is this node itself: left out"),
            State::Refused => warn!(peer:% = peer; "peer refuses connections: it has no clients"),
            State::Silent => {
                warn!(peer:% = peer; "peer silent: pushes for clients that nobody else has get 503");
            }
            State::Strange => {
                warn!(peer:% = peer; "peer answers as no node of this cluster: compare cluster.token, cluster.peers and push.path there");
            }
        }
        self.state = state;
        self.since = now;
        true
    }
}

/// A node of which nothing was heard for so long is asked how it is, in ms.
const CHECK_PAUSE: u32 = 5_000;

/// One that refuses connections answers on those that stand within so many ms, or is dying.
const DYING: u32 = 50;

/// One that is silent, so often.
pub(super) const TRIAL_PAUSE: u32 = 1_000;
