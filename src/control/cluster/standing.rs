//! What the rest of the program sees of the cluster, and what loops go through to get there.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::node::State;
use super::quest::{Outcome, answer};
use crate::control::switchboard::Switchboard;
use crate::net::Post;
use crate::session::{Pushed, Reached};
use crate::shard::{Answer, Asker, Mail};

/// Counters, states, and the way back to whoever pushed.
pub struct Standing {
    /// Who this node is to the others: 32 random digits.
    pub mark: String,
    /// `peers` or `bus`.
    pub kind: &'static str,
    post: Arc<Post>,
    board: Arc<Switchboard>,
    outcomes: [AtomicU64; Outcome::ALL.len()],
    pushes: AtomicUsize,
    bytes: AtomicUsize,
    /// Rows of the view: loops take no lock.
    nodes: AtomicUsize,
    view: Mutex<View>,
}

/// What was last seen of the other nodes.
#[derive(Clone, Debug)]
pub struct View {
    pub rows: Vec<Row>,
    /// Names that have never been resolved.
    pub unresolved: Vec<String>,
    pub at: Instant,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// A peer's address, or on a bus a node's mark.
    pub name: String,
    pub state: State,
    /// It had been so for so long.
    pub seconds: u32,
}

impl Standing {
    pub fn new(
        mark: String,
        kind: &'static str,
        post: Arc<Post>,
        board: Arc<Switchboard>,
    ) -> Standing {
        Standing {
            mark,
            kind,
            post,
            board,
            outcomes: Default::default(),
            pushes: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            nodes: AtomicUsize::new(0),
            view: Mutex::new(View {
                rows: Vec::new(),
                unresolved: Vec::new(),
                at: Instant::now(),
            }),
        }
    }

    /// Lets a push in, on the loop's thread. False: too many are under way.
    pub fn enter(&self, bytes: usize) -> bool {
        let pushes = self.pushes.fetch_add(1, Relaxed);
        let before = self.bytes.fetch_add(bytes, Relaxed);
        // One alone may be of any size: `limits.message` is its bound.
        let fits = pushes == 0 || (pushes < PUSHES_MAX && before + bytes <= BYTES_MAX);
        if !fits {
            self.leave(bytes);
        }
        fits
    }

    /// It is over.
    pub fn leave(&self, bytes: usize) {
        self.pushes.fetch_sub(1, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    /// Tells whoever pushed, and counts.
    pub fn answer(&self, to: Asker, outcome: Outcome, pushed: Pushed) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
        match to {
            Asker::Seat(seat) => {
                let key = seat.key;
                let shard = usize::from(seat.shard);
                self.post.send(shard, Mail::Pushed { key, pushed });
            }
            Asker::Cast(seat) => {
                let key = seat.key;
                let shard = usize::from(seat.shard);
                self.post.send(shard, Mail::Reached { key, pushed });
            }
            Asker::Ticket(ticket) => self.board.answer(ticket, Answer::Pushed(pushed)),
        }
    }

    /// As [`answer`](Standing::answer), for one that could not be let in.
    pub fn turn_away(&self, to: Asker) {
        if let Asker::Cast(_) = to {
            let unasked = self.nodes.load(Relaxed) as u64;
            let reached = Reached {
                unasked,
                ..Reached::default()
            };
            return self.answer(to, Outcome::Full, Pushed::Reached(reached));
        }
        let text = "not connected here, and too many others are looked for; try again\n";
        self.answer(to, Outcome::Full, answer(503, false, text.into()));
    }

    /// How many pushes have ended like this.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Relaxed)
    }

    pub(super) fn publish(&self, rows: Vec<Row>, unresolved: Vec<String>) {
        self.nodes.store(rows.len(), Relaxed);
        *self.locked() = View {
            rows,
            unresolved,
            at: Instant::now(),
        };
    }

    /// The other nodes.
    pub fn view(&self) -> View {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pushes under way: more than a thousand a second with every one as late as `timeout` allows.
const PUSHES_MAX: usize = 4_096;

/// Bytes of their messages, beside `limits.memory`.
const BYTES_MAX: usize = 64 << 20;
