//! The loops' numbers as JSON.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::Desk;
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
    let opened = sum(|snapshot| snapshot.stats.opened);
    let closed = sum(|snapshot| snapshot.stats.closed);
    let tallies = snapshots.iter().flat_map(|snapshot| &snapshot.stats.pools);
    let served = |of: fn(&Stats) -> u64| snapshots.iter().map(|one| of(&one.stats)).sum::<u64>();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": desk.started.elapsed().as_secs_f64(),
        "paused": desk.paused.load(Relaxed),
        "draining": desk.draining.load(Relaxed),
        "connections": {
            "opened": opened,
            "closed": closed,
            "active": opened.saturating_sub(closed),
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
        "messages": messages(tallies.clone()),
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
            "kind": kind_name(pool.kind),
            "balance": balance_name(pool.balance),
            "servers": names.collect::<Vec<_>>(),
            "usable": usable.count(),
            "messages": messages(tallies),
        })
    });
    json!({ "pools": pools.collect::<Vec<_>>() })
}

/// One server; without its numbers if they could not be had.
pub(super) fn server(fleet: &Fleet, number: u16, snapshots: Option<&[Snapshot]>) -> Value {
    let place = &fleet.servers[usize::from(number)];
    let mut value = json!({
        "id": place.id,
        "pool": fleet.pools[usize::from(place.pool)].name,
        "url": place.url,
        "address": place.address.to_string(),
        "state": place.state.name(),
        "weight": place.weight,
        "connections": place.shared.connections(),
    });
    if let Some(snapshots) = snapshots {
        let open = report::is_open(number, snapshots);
        let count = report::server_count(number, snapshots);
        value["healthy"] = json!(report::is_healthy(number, snapshots));
        value["breaker"] = json!(if open { "open" } else { "closed" });
        value["sessions"] = json!(count.sessions);
        value["sessions_total"] = json!(count.sessions_total);
        value["failures_total"] = json!(count.failures);
    }
    value
}

fn messages<'a>(tallies: impl Iterator<Item = &'a Tally>) -> Value {
    let mut all = Tally::default();
    let (mut unconfirmed, mut failovers) = (0, 0);
    for tally in tallies {
        all.messages_up += tally.messages_up;
        all.messages_down += tally.messages_down;
        all.confirmed += tally.confirmed;
        all.journaled += tally.journaled;
        all.replayed += tally.replayed;
        all.held += tally.held;
        unconfirmed += tally.unconfirmed.iter().sum::<u64>();
        failovers += tally.failovers.values().sum::<u64>();
    }
    json!({
        "up": all.messages_up,
        "down": all.messages_down,
        "confirmed": all.confirmed,
        "journaled": all.journaled,
        "replayed": all.replayed,
        "unconfirmed": unconfirmed,
        "failovers": failovers,
        "sessions_held": all.held,
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
