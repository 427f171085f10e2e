//! The loops' numbers as JSON.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{Desk, ListedServer, Totals};
use crate::control::report;
use crate::fleet::{Balance, Fleet, Kind, ServerState};
use crate::session::Tally;
use crate::shard::stats::{Snapshot, Stats};

/// Everything as one picture.
pub(super) fn stats(desk: &Desk, snapshots: &[Snapshot]) -> Value {
    let sum = |of: fn(&Snapshot) -> u64| snapshots.iter().map(of).sum::<u64>();
    let mut denied: BTreeMap<String, u64> = BTreeMap::new();
    for (status, count) in snapshots.iter().flat_map(|snapshot| &snapshot.stats.denied) {
        *denied.entry(status.to_string()).or_default() += count;
    }
    let totals = Totals::new(snapshots);
    let tallies = snapshots.iter().flat_map(|snapshot| &snapshot.stats.pools);
    let served = |of: fn(&Stats) -> u64| snapshots.iter().map(|one| of(&one.stats)).sum::<u64>();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": desk.started.elapsed().as_secs_f64(),
        "paused": desk.paused.load(Relaxed),
        "draining": desk.draining.load(Relaxed),
        "connections": {
            "opened": totals.opened,
            "closed": totals.closed,
            "active": totals.live,
            "denied": denied,
        },
        "sessions": {
            "active": served(|stats| {
                stats.servers.iter().map(|server| u64::from(server.sessions)).sum()
            }),
            "total": served(|stats| {
                stats.servers.iter().map(|server| server.sessions_total).sum()
            }),
        },
        "messages": messages(&totals),
        "requests": requests(tallies),
        "hold_seconds": quantiles(snapshots, |stats| &stats.hold, 1e-3),
        "relay_seconds": quantiles(snapshots, |stats| &stats.relay, 1e-6),
        "buffer_bytes": sum(|snapshot| snapshot.buffer_bytes),
        "kept_bytes": sum(|snapshot| snapshot.kept_bytes),
        "memory_limit_bytes": desk.memory_limit.load(Relaxed),
        "viewers": desk.newsroom.viewers(),
        "faults": sum(|snapshot| snapshot.stats.faults),
        "loops": snapshots.iter().map(each_loop).collect::<Vec<_>>(),
    })
}

/// The other nodes: what was last heard of each, and for how many seconds it has been so.
pub(super) fn cluster(desk: &Desk) -> Value {
    let Some(standing) = &desk.cluster else {
        return json!({ "kind": "alone", "node": null, "peers": [], "unresolved": [] });
    };
    let view = standing.view();
    let more = view.at.elapsed().as_secs();
    let peers = view.rows.iter().map(|row| {
        json!({
            "address": row.name,
            "state": row.state.name(),
            "seconds": u64::from(row.seconds) + more,
        })
    });
    json!({
        "kind": standing.kind,
        "node": standing.mark,
        "peers": peers.collect::<Vec<_>>(),
        "unresolved": view.unresolved,
    })
}

pub(super) fn pools(desk: &Desk, snapshots: &[Snapshot]) -> Value {
    let fleet = desk.fleet();
    let here = fleet.pools.iter().enumerate();
    let here = here.filter(|(_, pool)| !pool.retired);
    let pools = here.map(|(number, pool)| {
        let live = pool.members.iter().filter(|id| {
            let place = &fleet.servers[usize::from(**id)];
            place.state != ServerState::Gone
        });
        let live: Vec<u16> = live.copied().collect();
        let usable = live
            .iter()
            .filter(|id| report::is_up(&fleet.servers[usize::from(**id)], **id, snapshots));
        let names = live
            .iter()
            .map(|id| fleet.servers[usize::from(*id)].id.as_str());
        let tallies = snapshots
            .iter()
            .filter_map(|snapshot| snapshot.stats.pool(number));
        json!({
            "name": pool.name,
            "kind": match live.first() {
                Some(id) if speaks_nats(&fleet.servers[usize::from(*id)].url) => "nats",
                _ => kind_name(pool.kind),
            },
            "balance": balance_name(pool.balance),
            "servers": names.collect::<Vec<_>>(),
            "usable": usable.count(),
            "messages": messages(&Totals::of_tallies(tallies)),
        })
    });
    json!({ "pools": pools.collect::<Vec<_>>() })
}

/// One server; without its numbers if they could not be had.
pub(super) fn server(fleet: &Fleet, number: u16, snapshots: Option<&[Snapshot]>) -> Value {
    let listed = ListedServer::new(fleet, number, snapshots.unwrap_or_default());
    let mut value = json!({
        "id": listed.id,
        "pool": listed.pool,
        "url": listed.url,
        "address": listed.address.to_string(),
        "state": listed.state.name(),
        "weight": listed.weight,
        "connections": listed.connections,
    });
    if snapshots.is_some() {
        value["healthy"] = json!(listed.healthy);
        value["breaker"] = json!(if listed.breaker_open {
            "open"
        } else {
            "closed"
        });
        value["sessions"] = json!(listed.sessions);
        value["sessions_total"] = json!(listed.sessions_total);
        value["failures_total"] = json!(listed.failures_total);
    }
    value
}

fn messages(totals: &Totals) -> Value {
    json!({
        "up": totals.messages_up,
        "down": totals.messages_down,
        "confirmed": totals.confirmed,
        "journaled": totals.journaled,
        "replayed": totals.replayed,
        "unconfirmed": totals.unconfirmed,
        "failovers": totals.failovers,
        "sessions_held": totals.held,
    })
}

/// Calls of bridges and HTTP pools.
fn requests<'a>(tallies: impl Iterator<Item = &'a Tally>) -> Value {
    let (mut started, mut failed, mut succeeded) = (0, 0, 0);
    for tally in tallies {
        started += tally.requests_started;
        failed += tally.requests_failed;
        succeeded += tally.requests_succeeded;
    }
    json!({ "started": started, "failed": failed, "succeeded": succeeded })
}

fn each_loop(snapshot: &Snapshot) -> Value {
    json!({
        "loop": snapshot.shard,
        "clients": snapshot.clients,
        "upstreams": snapshot.upstreams,
        "timers": snapshot.timers,
        "turns": snapshot.stats.turns,
        "busy_seconds": snapshot.stats.busy_micros as f64 * 1e-6,
        "buffer_bytes": snapshot.buffer_bytes,
    })
}

/// One histogram for all loops.
pub(super) fn merged(
    snapshots: &[Snapshot],
    of: fn(&Stats) -> &Histogram<u64>,
) -> Option<Histogram<u64>> {
    let mut parts = snapshots.iter().map(|snapshot| of(&snapshot.stats));
    let mut all = parts.next().cloned()?;
    for part in parts {
        // All are made with the same bounds, in one place.
        let added = all.add(part);
        debug_assert!(added.is_ok());
    }
    Some(all)
}

/// What people look at in a histogram; `unit` in seconds.
fn quantiles(snapshots: &[Snapshot], of: fn(&Stats) -> &Histogram<u64>, unit: f64) -> Value {
    let Some(all) = merged(snapshots, of) else {
        return Value::Null;
    };
    json!({
        "count": all.len(),
        "p50": all.value_at_quantile(0.5) as f64 * unit,
        "p99": all.value_at_quantile(0.99) as f64 * unit,
        "max": all.max() as f64 * unit,
    })
}

/// To loops it is a bridge like others.
fn speaks_nats(url: &str) -> bool {
    cfg!(feature = "nats") && url.starts_with("nats://")
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::WebSocket => "websocket",
        Kind::Bridge => "bridge",
        Kind::Http => "http",
    }
}

fn balance_name(balance: Balance) -> &'static str {
    match balance {
        Balance::RoundRobin => "round-robin",
        Balance::Random => "random",
        Balance::LeastConnections => "least-connections",
        Balance::Hash => "hash",
        Balance::Adaptive => "adaptive",
    }
}
