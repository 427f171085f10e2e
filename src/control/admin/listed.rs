//! Servers, sessions and sums as they are listed: by their names, and over all loops.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::control::report;
use crate::fleet::{Fleet, ServerState};
use crate::session::{Phase, Tally};
use crate::shard::stats::{SessionRow, Snapshot};

/// A server, with what all loops count of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedServer {
    /// Its name in metrics, logs and actions.
    pub id: String,
    /// The name of its pool.
    pub pool: String,
    /// As given.
    pub url: String,
    /// Where it is dialled.
    pub address: SocketAddr,
    /// What is wanted of it.
    pub state: ServerState,
    /// Its share of new sessions beside the others' weights; 0 takes none.
    pub weight: u32,
    /// Whether its probes are good; true if nobody probes it.
    pub healthy: bool,
    /// Whether its breaker keeps sessions away from it.
    pub breaker_open: bool,
    /// Sessions that it serves now. Those of a bridge have no server of their own.
    pub sessions: u32,
    /// Sessions that it has begun to serve, since it came.
    pub sessions_total: u64,
    /// Failed attempts and lost connections, since it came.
    pub failures_total: u64,
    /// Connections to it where sessions share them: in bridges and HTTP pools.
    pub connections: u32,
}

/// A session, with the names of its pool and its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedSession {
    /// 32 hexadecimal digits: what servers see as `X-Wsteady-Session`.
    pub id: String,
    /// The client's address.
    pub client: SocketAddr,
    /// What the client asked for, with its query.
    pub path: String,
    /// The name of its pool.
    pub pool: Option<String>,
    /// The id of its server. `None` while it has none, and on a bridge.
    pub server: Option<String>,
    /// Where in its life it is: `Open`, or `Held` without a server, in most cases.
    pub state: Phase,
    /// When it began, to some milliseconds.
    pub opened: SystemTime,
    /// Servers that it has lost or left.
    pub failovers: u32,
    /// Complete messages from its client.
    pub messages_up: u64,
    /// Complete messages to its client.
    pub messages_down: u64,
    /// What its journal holds of messages that are not confirmed, in bytes.
    pub journal_bytes: u64,
}

/// Sums over all loops since the start; `live`, `held` and `journaled` are those of this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Client connections accepted.
    pub opened: u64,
    /// Client connections that have ended.
    pub closed: u64,
    /// Client connections now: opened less closed. One that has not asked for anything yet is one,
    /// too, and no session.
    pub live: u64,
    /// Sessions that wait for a server.
    pub held: u64,
    /// Complete messages from clients.
    pub messages_up: u64,
    /// Complete messages to clients.
    pub messages_down: u64,
    /// Messages from clients that servers have confirmed.
    pub confirmed: u64,
    /// Messages from clients that are not confirmed yet.
    pub journaled: u64,
    /// Messages that were sent once more to another server.
    pub replayed: u64,
    /// Messages from clients whose sessions ended before they were confirmed.
    pub unconfirmed: u64,
    /// Servers that sessions have lost or left.
    pub failovers: u64,
}

impl ListedServer {
    /// The server of that number, as these copies know it.
    pub(super) fn new(fleet: &Fleet, number: u16, snapshots: &[Snapshot]) -> ListedServer {
        let place = &fleet.servers[usize::from(number)];
        let count = report::server_count(number, snapshots);
        ListedServer {
            id: place.id.clone(),
            pool: fleet.pools[usize::from(place.pool)].name.clone(),
            url: place.url.clone(),
            address: place.address,
            state: place.state,
            weight: place.weight,
            healthy: report::is_healthy(number, snapshots),
            breaker_open: report::is_open(number, snapshots),
            sessions: count.sessions,
            sessions_total: count.sessions_total,
            failures_total: count.failures,
            connections: place.shared.connections(),
        }
    }
}

impl ListedSession {
    pub(super) fn new(fleet: &Fleet, row: &SessionRow) -> ListedSession {
        let pool = row.pool.and_then(|pool| fleet.pools.get(usize::from(pool)));
        let server = row
            .server
            .and_then(|server| fleet.servers.get(usize::from(server)));
        ListedSession {
            id: format!("{:032x}", row.id),
            client: row.client,
            path: row.path.clone(),
            pool: pool.map(|pool| pool.name.clone()),
            server: server.map(|server| server.id.clone()),
            state: row.phase,
            opened: SystemTime::now() - Duration::from_millis(u64::from(row.age)),
            failovers: row.failovers,
            messages_up: row.messages_up,
            messages_down: row.messages_down,
            journal_bytes: row.journal_bytes,
        }
    }
}

impl Totals {
    pub(super) fn new(snapshots: &[Snapshot]) -> Totals {
        let tallies = snapshots.iter().flat_map(|snapshot| &snapshot.stats.pools);
        let mut totals = Totals::of_tallies(tallies);
        for snapshot in snapshots {
            totals.opened += snapshot.stats.opened;
            totals.closed += snapshot.stats.closed;
        }
        totals.live = totals.opened.saturating_sub(totals.closed);
        totals
    }

    /// What pools count: all but the connections.
    pub(super) fn of_tallies<'a>(tallies: impl Iterator<Item = &'a Tally>) -> Totals {
        let mut totals = Totals::default();
        for tally in tallies {
            totals.held += tally.held;
            totals.messages_up += tally.messages_up;
            totals.messages_down += tally.messages_down;
            totals.confirmed += tally.confirmed;
            totals.journaled += tally.journaled;
            totals.replayed += tally.replayed;
            totals.unconfirmed += tally.unconfirmed.iter().sum::<u64>();
            totals.failovers += tally.failovers.values().sum::<u64>();
        }
        totals
    }
}
