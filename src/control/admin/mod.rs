//! The operator's server: health, metrics, and an API in JSON, on an address of its own.
//!
//! It runs on threads of its own with blocking sockets and asks the loops by mail, so that whatever
//! happens here, a message never waits for it. Who may ask, and how, is decided in `guard` for all
//! routes at once, before a body is read.

mod guard;
mod message;
mod routes;
mod server;
mod servers;
mod sessions;
mod view;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::json;

pub use self::message::{Request, Response};
pub use self::server::{AdminServer, serve};
use super::switchboard::Switchboard;
use crate::fleet::Fleet;
use crate::shard::mail::{Answer, Mail};
use crate::shard::stats::Snapshot;

/// What the operator's requests are answered from.
pub struct Desk {
    /// The way to the loops.
    pub board: Arc<Switchboard>,
    /// Control's own copy, kept equal to what it mails. Its breakers mean nothing: only the loops
    /// know them, and a [`Snapshot`] tells.
    pub fleet: Mutex<Fleet>,
    /// When wsteady started.
    pub started: Instant,
    /// wsteady was told to stop: not ready any more.
    pub draining: AtomicBool,
    /// New clients get 503, by `POST /v1/accept`.
    pub paused: AtomicBool,
    /// `limits.memory`, in bytes.
    pub memory_limit: u64,
    /// `metrics.legacy_names`: what wsbalancer's metrics call the listener.
    pub frontend: Option<String>,
}

/// Routes of somebody else on the same address, asked before our own. What comes here has passed
/// all checks: host, origin, token, content type.
pub trait Annex: Send + Sync {
    /// The answer, or `None` if the route is not the annex's.
    fn handle(&self, request: &Request) -> Option<Response>;
}

impl Desk {
    /// A desk that starts now. `memory_limit` in bytes.
    pub fn new(board: Arc<Switchboard>, fleet: Fleet, memory_limit: u64) -> Desk {
        Desk {
            board,
            fleet: Mutex::new(fleet),
            started: Instant::now(),
            draining: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            memory_limit,
            frontend: None,
        }
    }

    /// Control's copy of the fleet. Mail about it is posted while this is held: two changes reach
    /// every loop in the order in which they were made here.
    pub fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the world that wsteady stops: `/readyz` fails from now on.
    pub fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    /// One copy of the counters of every loop, in their order. `None` if a loop does not answer:
    /// sums without it would run backwards.
    pub fn snapshots(&self) -> Option<Vec<Snapshot>> {
        let answers = self.board.ask_all(|ticket| Mail::Count { ticket });
        let mut snapshots: Vec<Snapshot> = answers
            .into_iter()
            .filter_map(|answer| match answer {
                Answer::Snapshot(snapshot) => Some(*snapshot),
                Answer::Done(_) | Answer::Sessions { .. } => None,
            })
            .collect();
        snapshots.sort_by_key(|snapshot| snapshot.shard);
        (snapshots.len() == self.board.shards()).then_some(snapshots)
    }

    /// As [`snapshots`](Desk::snapshots), with the answer for an operator who can't have them.
    fn counted(&self) -> Result<Vec<Snapshot>, Response> {
        self.snapshots().ok_or_else(Response::silent)
    }
}

impl Response {
    /// A loop has not answered in time.
    fn silent() -> Response {
        Response::json(503, json!({ "error": "a loop does not answer" }))
    }
}

#[cfg(test)]
mod tests;
