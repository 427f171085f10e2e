//! Asks the loops once a second and makes rates of their counts.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::Item;
use crate::control::admin::{Desk, servers, view};
use crate::session::Times;
use crate::shard::stats::Snapshot;

/// What one look at the loops says.
pub(super) struct Sample {
    /// As `/v1/stats`, with `recent` beside it.
    pub(super) stats: Value,
    /// As `/v1/servers`.
    pub(super) servers: Value,
    pub(super) row: Row,
}

/// The numbers of one second, in the order of [`COLUMNS`].
pub(super) type Row = Vec<Value>;

/// What a row of the history has.
pub(super) const COLUMNS: [&str; 16] = [
    "time",
    "seconds",
    "connections",
    "sessions",
    "held",
    "up_per_second",
    "down_per_second",
    "requests_per_second",
    "failovers",
    "unconfirmed",
    "relay_p50",
    "relay_p99",
    "request_p50",
    "request_p99",
    "buffer_bytes",
    "busy",
];

/// Looks until `ended` is dropped.
pub(super) fn run(desk: &Desk, room: &Sender<Item>, ended: &Receiver<()>) {
    let mut before = Look::at(desk);
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(PERIOD) {
        let item = match Look::at(desk) {
            Some(look) => {
                let sample = before.as_ref().map(|before| look.since(before));
                before = Some(look);
                sample.map(|sample| Item::Sample(Box::new(sample)))
            }
            None => Some(Item::Silence),
        };
        // A room that is too busy for it misses a second.
        let _ = item.map(|item| room.try_send(item));
    }
}

/// All counts at one moment.
struct Look {
    at: Instant,
    stats: Value,
    servers: Value,
    relay: Option<Histogram<u64>>,
    requests: Times,
    busy_micros: Vec<u64>,
}

impl Look {
    /// `None` if a loop does not answer.
    fn at(desk: &Desk) -> Option<Look> {
        let snapshots = desk.snapshots()?;
        let busy = |one: &Snapshot| one.stats.busy_micros;
        Some(Look {
            at: Instant::now(),
            stats: view::stats(desk, &snapshots),
            servers: servers::all(desk, &snapshots),
            relay: view::merged(&snapshots, |stats| &stats.relay),
            requests: request_times(&snapshots),
            busy_micros: snapshots.iter().map(busy).collect(),
        })
    }

    fn count(&self, path: &str) -> u64 {
        let found = self.stats.pointer(path).and_then(Value::as_u64);
        debug_assert!(found.is_some(), "{path}");
        found.unwrap_or(0)
    }

    fn since(&self, before: &Look) -> Sample {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let grown = |path| self.count(path).saturating_sub(before.count(path));
        let rate = |path| rounded(grown(path) as f64 / seconds.max(1e-3));
        let [relay_p50, relay_p99] = self.relay_quantiles(before);
        let [request_p50, request_p99] = request_quantiles(&self.requests, &before.requests);
        let loops: Vec<f64> = self
            .busy_micros
            .iter()
            .zip(&before.busy_micros)
            .map(|(now, then)| now.saturating_sub(*then) as f64 * 1e-6 / seconds.max(1e-3))
            .map(|share| rounded(share.min(1.0)))
            .collect();
        let row: [Value; COLUMNS.len()] = [
            json!(unix_ms()),
            json!(rounded(seconds)),
            json!(self.count("/connections/active")),
            json!(self.count("/sessions/active")),
            json!(self.count("/messages/sessions_held")),
            json!(rate("/messages/up")),
            json!(rate("/messages/down")),
            json!(rate("/requests/started")),
            json!(grown("/messages/failovers")),
            json!(grown("/messages/unconfirmed")),
            relay_p50,
            relay_p99,
            request_p50,
            request_p99,
            json!(self.count("/buffer_bytes")),
            json!(loops.iter().copied().fold(0.0, f64::max)),
        ];
        let names = COLUMNS.iter().map(|name| name.to_string());
        let mut recent: Map<String, Value> = names.zip(row.iter().cloned()).collect();
        recent.insert("loops_busy".to_string(), json!(loops));
        let mut stats = self.stats.clone();
        stats["recent"] = Value::Object(recent);
        Sample {
            stats,
            servers: self.servers.clone(),
            row: row.to_vec(),
        }
    }

    /// Of what was relayed since then, in seconds; null if nothing was.
    fn relay_quantiles(&self, before: &Look) -> [Value; 2] {
        let (Some(now), Some(then)) = (&self.relay, &before.relay) else {
            return [Value::Null, Value::Null];
        };
        let mut fresh = now.clone();
        if fresh.subtract(then).is_err() || fresh.is_empty() {
            return [Value::Null, Value::Null];
        }
        [0.5, 0.99].map(|part| json!(fresh.value_at_quantile(part) as f64 * 1e-6))
    }
}

/// Of calls that have ended since then, in seconds: the upper bounds of the histogram's buckets.
fn request_quantiles(now: &Times, then: &Times) -> [Value; 2] {
    let pairs = now.buckets.iter().zip(then.buckets);
    let fresh: Vec<u64> = pairs.map(|(now, then)| now.saturating_sub(then)).collect();
    let all: u64 = fresh.iter().sum();
    [0.5, 0.99].map(|part| {
        let rank = (all as f64 * part).ceil() as u64;
        let mut below = 0;
        let found = fresh.iter().zip(Times::bounds()).find(|(count, _)| {
            below += **count;
            below >= rank
        });
        match found {
            _ if all == 0 => Value::Null,
            Some((_, bound)) => json!(bound as f64 * 1e-3),
            // Beyond the last bound: a minute and more.
            None => json!(Times::bounds().last().map(|bound| bound as f64 * 1e-3)),
        }
    })
}

fn request_times(snapshots: &[Snapshot]) -> Times {
    let mut sum = Times::default();
    for tally in snapshots.iter().flat_map(|one| &one.stats.pools) {
        for (place, count) in tally.request_times.buckets.iter().enumerate() {
            sum.buckets[place] += count;
        }
    }
    sum
}

/// Three digits behind the point are enough to look at.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// From one look to the next.
const PERIOD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_calls_are_those_of_the_last_second() {
        let mut then = Times::default();
        (0..1_000).for_each(|_| then.record(60_000));
        let mut now = then.clone();
        assert_eq!(request_quantiles(&now, &then), [Value::Null, Value::Null]);
        (0..98).for_each(|_| now.record(3));
        (0..2).for_each(|_| now.record(100));
        let wanted = [json!(0.004), json!(0.128)];
        assert_eq!(request_quantiles(&now, &then), wanted);
        (0..1_000).for_each(|_| now.record(1_000_000));
        let wanted = [json!(65.536), json!(65.536)];
        assert_eq!(request_quantiles(&now, &then), wanted);
    }
}
