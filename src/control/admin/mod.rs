//! The operator's server: health, metrics, and an API in JSON, on an address of its own.
//!
//! It runs on threads of its own with blocking sockets and asks the loops by mail, so that whatever
//! happens here, a message never waits for it. Who may ask, and how, is decided in `guard` for all
//! routes at once, before a body is read.

mod actions;
mod balancer;
mod dashboard;
mod events;
mod guard;
mod listed;
mod message;
pub mod openapi;
mod profile;
mod routes;
mod server;
mod servers;
mod sessions;
mod stream;
mod view;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub(in crate::control) use self::actions::check_weight;
pub use self::actions::{Change, Refusal};
pub use self::events::Newsroom;
pub use self::listed::{ListedServer, ListedSession, Totals};
pub use self::message::{Request, Response};
pub use self::server::{AdminServer, serve};
pub use self::sessions::Sessions;
use super::cluster::Standing;
use super::recruiter::Recruiter;
use super::switchboard::Switchboard;
#[cfg(feature = "tls")]
use crate::edge::keys::Keyring;
use crate::fleet::{Fleet, Server, ServerState};
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
    pub memory_limit: AtomicU64,
    /// What wsbalancer would call the first listener.
    pub frontend: Option<String>,
    /// `metrics.legacy_names`.
    pub legacy_names: bool,
    /// Makes servers of what the operator says of them.
    pub recruiter: Recruiter,
    /// Tells everybody who watches.
    pub newsroom: Newsroom,
    /// The other nodes, if this one is not alone.
    pub cluster: Option<Arc<Standing>>,
    /// The admin address's own keys, and when certificates are over.
    #[cfg(feature = "tls")]
    pub keyring: Option<Arc<Keyring>>,
}

/// Why a server can't be taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// All numbers are used up, those of servers that are gone included.
    Full,
    /// A server has this id.
    Taken(String),
}

impl fmt::Display for NoPlace {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoPlace::Full => write!(
                to,
                "{SERVERS_MAX} servers have been here, and no more can be"
            ),
            NoPlace::Taken(id) => write!(to, "another server has the id {id}"),
        }
    }
}

/// Routes of somebody else on the same address, asked before our own. What comes here has passed
/// all checks: host, origin, content type, and the token but for the dashboard's paths.
pub trait Annex: Send + Sync {
    /// The answer, or `None` if the route is not the annex's.
    fn handle(&self, request: &Request) -> Option<Response>;
}

impl Desk {
    /// A desk that starts now. `memory_limit` in bytes.
    pub fn new(
        board: Arc<Switchboard>,
        fleet: Fleet,
        memory_limit: u64,
        recruiter: Recruiter,
    ) -> Desk {
        Desk {
            board,
            fleet: Mutex::new(fleet),
            started: Instant::now(),
            draining: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            memory_limit: AtomicU64::new(memory_limit),
            frontend: None,
            legacy_names: false,
            recruiter,
            newsroom: Newsroom::new(),
            cluster: None,
            #[cfg(feature = "tls")]
            keyring: None,
        }
    }

    /// Files with certificates of ours, and when those are over, in seconds since 1970.
    pub fn expiries(&self) -> Vec<(String, u64)> {
        #[cfg(feature = "tls")]
        let expiries = self.keyring.iter().flat_map(|ring| ring.expiries());
        #[cfg(not(feature = "tls"))]
        let expiries = std::iter::empty();
        expiries.collect()
    }

    /// Control's copy of the fleet. Mail about it is posted while this is held: two changes reach
    /// every loop in the order in which they were made here.
    pub fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether servers of these ids can be taken in.
    ///
    /// # Errors
    /// Why not.
    pub fn has_place(&self, fleet: &Fleet, ids: &[String]) -> Result<(), NoPlace> {
        if fleet.servers.len() + ids.len() > SERVERS_MAX {
            return Err(NoPlace::Full);
        }
        match ids.iter().find(|id| fleet.find(id).is_some()) {
            Some(id) => Err(NoPlace::Taken(id.clone())),
            None => Ok(()),
        }
    }

    /// Takes a server in on all loops, and says which number it has there.
    ///
    /// # Errors
    /// Why it can't be; then nothing has changed.
    pub fn join(&self, fleet: &mut Fleet, place: Server) -> Result<u16, NoPlace> {
        self.has_place(fleet, std::slice::from_ref(&place.id))?;
        let server = fleet.join(place.clone());
        let shards = self.board.shards();
        let home = usize::from(server) % shards;
        // Its home last: only that one speaks to the others of a server's breaker and its probes.
        for shard in (0..shards).filter(|shard| *shard != home).chain([home]) {
            let place = Box::new(place.clone());
            self.board.tell(shard, Mail::Join { server, place });
        }
        Ok(server)
    }

    /// Changes a server's state on all loops. One that is gone stays so.
    pub fn set_state(&self, fleet: &mut Fleet, server: u16, state: ServerState) {
        if fleet.set_state(server, state) {
            self.board.tell_all(|| Mail::State { server, state });
        }
    }

    /// Stops or starts taking new clients. False: it was so before.
    pub fn pause(&self, paused: bool) -> bool {
        // Under the lock, so that of two changes at once all loops and this flag know the same last.
        let fleet = self.fleet();
        let before = self.paused.swap(paused, Relaxed);
        self.board.tell_all(|| Mail::Accepting(!paused));
        drop(fleet);
        before != paused
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
                _ => None,
            })
            .collect();
        snapshots.sort_by_key(|snapshot| snapshot.shard);
        (snapshots.len() == self.board.shards()).then_some(snapshots)
    }

    /// As [`snapshots`](Desk::snapshots), for those who can't do without.
    fn counted(&self) -> Result<Vec<Snapshot>, Refusal> {
        self.snapshots().ok_or(Refusal::Silent)
    }

    /// Sums over all loops.
    ///
    /// # Errors
    /// [`Refusal::Silent`].
    pub fn totals(&self) -> Result<Totals, Refusal> {
        Ok(Totals::new(&self.counted()?))
    }
}

/// Servers that a process can name: their numbers have 16 bits and are never used again.
pub const SERVERS_MAX: usize = 60_000;

#[cfg(test)]
mod tests;
