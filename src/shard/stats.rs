//! What a shard counts. Plain numbers with one writer; they leave as one copy per question.

use std::net::SocketAddr;

use hdrhistogram::Histogram;

use crate::kit::Pressure;
use crate::session::{Phase, Tally};

/// Counts of one shard.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Client connections accepted, and ended.
    pub opened: u64,
    pub closed: u64,
    /// Clients turned away, by HTTP status.
    pub denied: std::collections::BTreeMap<u16, u64>,
    /// One per pool, and one for clients that have none yet.
    pub pools: Vec<Tally>,
    /// One per server.
    pub servers: Vec<ServerStats>,
    /// Keys from the kernel or a timer that named nothing any more: normal.
    pub stale: u64,
    /// Mistakes of ours that cost a session.
    pub faults: u64,
    /// Accepts that failed for want of descriptors or memory.
    pub accepts_failed: u64,
    /// Time not spent waiting, in µs.
    pub busy_micros: u64,
    pub turns: u64,
    /// Heap bytes of kept request heads.
    pub kept_bytes: u64,
    /// How short memory is; a gauge.
    pub pressure: Pressure,
    /// From read to written, in µs; one entry per turn that relayed, weighted with its messages.
    pub relay: Histogram<u64>,
    /// How long sessions were without a server, in ms; one per failover, when its hold is over.
    pub hold: Histogram<u64>,
}

/// Counts of one server on one shard.
#[derive(Clone, Debug, Default)]
pub struct ServerStats {
    /// Sessions that it serves now.
    pub sessions: u32,
    /// Sessions that it has begun to serve.
    pub sessions_total: u64,
    /// Failed attempts and lost connections.
    pub failures: u64,
}

/// All of it, with what must be looked up at that moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub shard: usize,
    pub stats: Stats,
    pub clients: usize,
    pub upstreams: usize,
    pub timers: usize,
    /// Bytes of chunks in use.
    pub buffer_bytes: u64,
    /// Heap bytes of kept request heads.
    pub kept_bytes: u64,
    /// The servers whose breakers let nobody through now, as this shard knows them.
    pub tripped: Vec<bool>,
    /// The servers whose probes are good, or that nobody probes.
    pub healthy: Vec<bool>,
}

/// A session, as the admin API lists it.
#[derive(Clone, Debug)]
pub struct SessionRow {
    pub id: u128,
    pub client: SocketAddr,
    pub path: String,
    pub pool: Option<u16>,
    pub server: Option<u16>,
    pub phase: Phase,
    /// Milliseconds since it began.
    pub age: u32,
    pub failovers: u32,
    pub messages_up: u64,
    pub messages_down: u64,
    pub journal_bytes: u64,
    /// Messages that servers have confirmed.
    pub confirmed: u64,
    /// Whether its client is still connected.
    pub has_client: bool,
    /// Milliseconds since it began to look for a server, while it does.
    pub waiting: Option<u32>,
}

impl Stats {
    /// All zero.
    pub fn new(pools: usize, servers: usize) -> Stats {
        // Bounds are constants that hdrhistogram accepts: 1 µs to 60 s, and to an hour in ms.
        let histogram = |high| Histogram::new_with_bounds(1, high, 2).expect("legal bounds");
        Stats {
            opened: 0,
            closed: 0,
            denied: Default::default(),
            pools: vec![Tally::default(); pools + 1],
            servers: vec![ServerStats::default(); servers],
            stale: 0,
            faults: 0,
            accepts_failed: 0,
            busy_micros: 0,
            turns: 0,
            kept_bytes: 0,
            pressure: Pressure::Low,
            relay: histogram(60_000_000),
            hold: histogram(3_600_000),
        }
    }

    /// There are so many pools now; there were not more before.
    pub fn grow(&mut self, pools: usize) {
        let nobodys = self.pools.len() - 1;
        let new = (nobodys..pools).map(|_| Tally::default());
        self.pools.splice(nobodys..nobodys, new);
    }

    /// The counts of a pool, if this copy was made when it was there.
    pub fn pool(&self, number: usize) -> Option<&Tally> {
        let (_nobodys, pools) = self.pools.split_last()?;
        pools.get(number)
    }

    /// Another server has come.
    pub fn join(&mut self) {
        self.servers.push(ServerStats::default());
    }

    /// The counts of a pool; of no pool for `None`.
    pub fn tally(&mut self, pool: Option<u16>) -> &mut Tally {
        let last = self.pools.len() - 1;
        &mut self.pools[pool.map_or(last, usize::from).min(last)]
    }

    /// Messages relayed so far, both ways.
    pub fn relayed(&self) -> u64 {
        self.pools
            .iter()
            .map(|tally| tally.messages_up + tally.messages_down)
            .sum()
    }
}
