//! Metrics as text, for Prometheus (text format 0.0.4) and OpenMetrics 1.0.
//!
//! Every series that can be known is there from the start, at zero: a rate over a counter that
//! appears with its first event misses that event. All numbers of one answer come from one copy per
//! loop, so that the laws between them hold at every scrape.

mod legacy;
mod process;

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use hdrhistogram::Histogram;

use crate::control::cluster::{Outcome, Standing, State};
use crate::control::log;
use crate::fleet::{Fleet, Kind, Server, ServerState};
use crate::session::valve::VERDICTS;
use crate::session::{End, Loss, Sizes, Tally, Times};
use crate::shard::stats::{ServerStats, Snapshot, Stats};

pub use legacy::frontend_of;

/// All metrics. `memory_limit` in bytes; `frontend`: with the older proxies' names as well, and this
/// for wsbalancer's label. `standing`: of the cluster, if there is one. `expiries`: files with
/// certificates, and when those are over, in seconds since 1970.
///
/// Laws: `opened - closed = active`; per pool, `messages{up} = confirmed + unconfirmed + journaled`.
pub fn metrics(
    snapshots: &[Snapshot],
    fleet: &Fleet,
    openmetrics: bool,
    memory_limit: u64,
    frontend: Option<&str>,
    standing: Option<&Standing>,
    expiries: &[(String, u64)],
) -> String {
    let mut page = Page {
        out: String::with_capacity(16 * 1024),
        openmetrics,
        name: "",
    };
    let sums = Sums::new(snapshots, fleet);
    page.family(
        "wsteady_build_info",
        GAUGE,
        "Always 1; the labels say what runs.",
    );
    page.sample(&[("version", &env!("CARGO_PKG_VERSION"))], 1);
    connections(&mut page, &sums);
    sessions(&mut page, &sums, fleet);
    messages(&mut page, &sums, fleet);
    times_and_sizes(&mut page, &sums);
    servers(&mut page, &sums, fleet);
    cluster(&mut page, standing);
    certificates(&mut page, expiries);
    loops(&mut page, snapshots, memory_limit);
    log_lines(&mut page);
    process::write(&mut page);
    if let Some(frontend) = frontend {
        legacy::write(&mut page, &sums, fleet, frontend);
    }
    if openmetrics {
        page.out.push_str("# EOF\n");
    }
    page.out
}

/// Whether new sessions may go to a server: the operator wants it, its probes are good, and its
/// breaker is closed.
pub fn is_up(place: &Server, number: u16, snapshots: &[Snapshot]) -> bool {
    place.state == ServerState::Enabled
        && place.weight > 0
        && is_healthy(number, snapshots)
        && !is_open(number, snapshots)
}

/// Whether a server's probes are good; one that nobody probes is healthy. As with breakers, the
/// first loop that knows better counts.
pub fn is_healthy(number: u16, snapshots: &[Snapshot]) -> bool {
    let place = usize::from(number);
    let mut known = snapshots.iter().map(|snapshot| snapshot.healthy.get(place));
    known.all(|healthy| healthy.copied().unwrap_or(true))
}

/// Whether a server's breaker is open. Loops learn it from its home loop a moment later than each
/// other; the first one that knows counts.
pub fn is_open(number: u16, snapshots: &[Snapshot]) -> bool {
    let place = usize::from(number);
    let mut known = snapshots.iter().map(|snapshot| snapshot.tripped.get(place));
    known.any(|open| open.copied().unwrap_or(false))
}

/// A server's counts over all loops.
pub fn server_count(number: u16, snapshots: &[Snapshot]) -> ServerStats {
    let mut sum = ServerStats::default();
    let place = usize::from(number);
    for count in snapshots
        .iter()
        .filter_map(|snapshot| snapshot.stats.servers.get(place))
    {
        sum.sessions += count.sessions;
        sum.sessions_total += count.sessions_total;
        sum.failures += count.failures;
    }
    sum
}

fn connections(page: &mut Page, sums: &Sums<'_>) {
    let (opened, closed) = (sums.of(|stats| stats.opened), sums.of(|stats| stats.closed));
    page.single(
        "wsteady_connections_opened_total",
        COUNTER,
        "Client connections accepted.",
        opened,
    );
    page.single(
        "wsteady_connections_closed_total",
        COUNTER,
        "Client connections that have ended.",
        closed,
    );
    page.single(
        "wsteady_connections_active",
        GAUGE,
        "Client connections now: opened less closed.",
        opened.saturating_sub(closed),
    );
    let mut denied: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, reason) in DENIALS {
        denied.insert(reason, 0);
    }
    for (status, count) in sums.stats().flat_map(|stats| &stats.denied) {
        let known = DENIALS.iter().find(|(known, _)| known == status);
        // What servers answer goes to the client as it is, and may be any status.
        let reason = known.map_or("other", |(_, reason)| reason);
        *denied.entry(reason).or_default() += count;
    }
    page.family(
        "wsteady_connections_denied_total",
        COUNTER,
        "Clients turned away with an HTTP status.",
    );
    for (reason, count) in denied {
        page.sample(&[("reason", &reason)], count);
    }
    page.single(
        "wsteady_accepts_failed_total",
        COUNTER,
        "Accepts that failed for want of descriptors or memory.",
        sums.of(|stats| stats.accepts_failed),
    );
}

fn sessions(page: &mut Page, sums: &Sums<'_>, fleet: &Fleet) {
    page.family(
        "wsteady_sessions_active",
        GAUGE,
        "Sessions that a server serves now.",
    );
    for row in sums.present() {
        page.sample(&row.labels(fleet), row.count.sessions);
    }
    // A session of a bridge has no server of its own.
    for (number, pool) in fleet.pools.iter().enumerate() {
        if pool.kind == Kind::Bridge {
            let open: u64 = sums.tallies(number).map(|tally| tally.bridged).sum();
            page.sample(&[("pool", &pool.name), ("server", &"")], open);
        }
    }
    page.family(
        "wsteady_sessions_total",
        COUNTER,
        "Sessions that a server has begun to serve, first or after another.",
    );
    for row in &sums.servers {
        page.sample(&row.labels(fleet), row.count.sessions_total);
    }
    page.family(
        "wsteady_sessions_held",
        GAUGE,
        "Sessions without a server, waiting for one.",
    );
    sums.per_pool(page, fleet, |tally| tally.held);
    page.family(
        "wsteady_failovers_total",
        COUNTER,
        "Servers that sessions lost or left, by the reason.",
    );
    for (number, pool) in fleet.pools.iter().enumerate() {
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        reasons.extend(LOSSES.map(|loss| (loss.name(), 0)));
        for (reason, count) in sums.tallies(number).flat_map(|tally| &tally.failovers) {
            *reasons.entry(reason).or_default() += count;
        }
        for (reason, count) in reasons {
            page.sample(&[("pool", &pool.name), ("reason", &reason)], count);
        }
    }
}

fn messages(page: &mut Page, sums: &Sums<'_>, fleet: &Fleet) {
    page.family(
        "wsteady_messages_total",
        COUNTER,
        "Complete messages, up (from clients) and down (to them).",
    );
    for (number, pool) in fleet.pools.iter().enumerate() {
        let count = |of: fn(&Tally) -> u64| sums.tallies(number).map(of).sum::<u64>();
        let up = count(|tally| tally.messages_up);
        let down = count(|tally| tally.messages_down);
        page.sample(&[("pool", &pool.name), ("direction", &"up")], up);
        page.sample(&[("pool", &pool.name), ("direction", &"down")], down);
    }
    page.family(
        "wsteady_messages_confirmed_total",
        COUNTER,
        "Messages from clients that servers have confirmed.",
    );
    sums.per_pool(page, fleet, |tally| tally.confirmed);
    page.family(
        "wsteady_messages_journaled",
        GAUGE,
        "Messages from clients that are not confirmed yet.",
    );
    sums.per_pool(page, fleet, |tally| tally.journaled);
    page.family(
        "wsteady_messages_replayed_total",
        COUNTER,
        "Messages sent once more to another server: the upper bound of repeats.",
    );
    sums.per_pool(page, fleet, |tally| tally.replayed);
    page.family(
        "wsteady_messages_unconfirmed_total",
        COUNTER,
        "Messages from clients that ended unconfirmed, by what ended their session.",
    );
    for (number, pool) in fleet.pools.iter().enumerate() {
        for end in End::ALL {
            let counts = sums
                .tallies(number)
                .map(|tally| tally.unconfirmed[end.index()]);
            let labels: [Label<'_>; 2] = [("pool", &pool.name), ("reason", &end.name())];
            page.sample(&labels, counts.sum::<u64>());
        }
    }
    page.family(
        "wsteady_valve_messages_total",
        COUNTER,
        "Messages shown to valves, by what came of it.",
    );
    for (number, pool) in fleet.pools.iter().enumerate() {
        for (place, verdict) in VERDICTS.iter().enumerate() {
            let counts = sums.tallies(number).map(|tally| tally.verdicts[place]);
            let labels: [Label<'_>; 2] = [("pool", &pool.name), ("verdict", verdict)];
            page.sample(&labels, counts.sum::<u64>());
        }
    }
    requests(page, sums, fleet);
}

/// Of the pools that are asked by requests: bridges and HTTP pools.
fn requests(page: &mut Page, sums: &Sums<'_>, fleet: &Fleet) {
    type Count = fn(&Tally) -> u64;
    let families: [(&'static str, &str, Count); 3] = [
        (
            "wsteady_requests_started_total",
            "Requests begun.",
            |tally| tally.requests_started,
        ),
        (
            "wsteady_requests_failed_total",
            "Requests without an answer, or with one that is no success.",
            |tally| tally.requests_failed,
        ),
        (
            "wsteady_requests_succeeded_total",
            "Requests that succeeded.",
            |tally| tally.requests_succeeded,
        ),
    ];
    let pools = || {
        let all = fleet.pools.iter().enumerate();
        all.filter(|(_, pool)| pool.kind != Kind::WebSocket)
    };
    for (name, help, count) in families {
        page.family(name, COUNTER, help);
        for (number, pool) in pools() {
            let total: u64 = sums.tallies(number).map(count).sum();
            page.sample(&[("pool", &pool.name)], total);
        }
    }
    page.family(
        "wsteady_request_seconds",
        HISTOGRAM,
        "Time from a request to its answer.",
    );
    for (number, pool) in pools() {
        let mut buckets = Buckets::new(Times::bounds(), 1_000.0);
        for times in sums.tallies(number).map(|tally| &tally.request_times) {
            for (place, count) in times.buckets.iter().enumerate() {
                buckets.put(place, *count);
            }
            buckets.sum += times.sum as f64 / 1e3;
        }
        page.histogram(&[("pool", &pool.name)], &buckets);
    }
}

fn times_and_sizes(page: &mut Page, sums: &Sums<'_>) {
    page.family(
        "wsteady_hold_seconds",
        HISTOGRAM,
        "Time that sessions were without a server; one observation per failover.",
    );
    let hold = Buckets::of_times(sums, |stats| &stats.hold, 1_000, &HOLD_BOUNDS_MS);
    page.histogram(&[], &hold);
    page.family(
        "wsteady_relay_seconds",
        HISTOGRAM,
        "Time from read to written, of messages relayed at once.",
    );
    let relay = Buckets::of_times(sums, |stats| &stats.relay, 1_000_000, &RELAY_BOUNDS_US);
    page.histogram(&[], &relay);
    page.family(
        "wsteady_message_bytes",
        HISTOGRAM,
        "Payload of messages, up (from clients) and down (to them).",
    );
    let up = Buckets::of_sizes(sums, |tally| &tally.sizes_up);
    page.histogram(&[("direction", &"up")], &up);
    let down = Buckets::of_sizes(sums, |tally| &tally.sizes_down);
    page.histogram(&[("direction", &"down")], &down);
}

fn servers(page: &mut Page, sums: &Sums<'_>, fleet: &Fleet) {
    page.family(
        "wsteady_server_up",
        GAUGE,
        "Whether new sessions may go to a server.",
    );
    for row in sums.present() {
        page.sample(&row.labels(fleet), u8::from(row.up));
    }
    page.family(
        "wsteady_breaker_open",
        GAUGE,
        "Whether a server's breaker is open.",
    );
    for row in sums.present() {
        page.sample(&row.labels(fleet), u8::from(row.open));
    }
    page.family(
        "wsteady_server_failures_total",
        COUNTER,
        "Failed attempts at a server and connections to it that were lost.",
    );
    for row in &sums.servers {
        page.sample(&row.labels(fleet), row.count.failures);
    }
}

/// Without a cluster all of it is 0.
fn cluster(page: &mut Page, standing: Option<&Standing>) {
    page.family(
        "wsteady_cluster_pushes_total",
        COUNTER,
        "Pushes for nobody here, by what came of asking the other nodes.",
    );
    for outcome in Outcome::ALL {
        let count = standing.map_or(0, |standing| standing.count(outcome));
        page.sample(&[("outcome", &outcome.name())], count);
    }
    page.family(
        "wsteady_cluster_peers",
        GAUGE,
        "Other nodes, by what was last heard of them.",
    );
    let rows = standing.map_or(Vec::new(), |standing| standing.view().rows);
    for state in State::ALL {
        let count = rows.iter().filter(|row| row.state == state).count();
        page.sample(&[("state", &state.name())], count);
    }
}

fn certificates(page: &mut Page, expiries: &[(String, u64)]) {
    page.family(
        "wsteady_tls_certificate_expiry_seconds",
        GAUGE,
        "When a certificate is over, since the epoch; of a file with several, the first.",
    );
    for (file, seconds) in expiries {
        page.sample(&[("file", file)], seconds);
    }
}

fn loops(page: &mut Page, snapshots: &[Snapshot], memory_limit: u64) {
    let sum = |of: fn(&Snapshot) -> u64| snapshots.iter().map(of).sum::<u64>();
    page.single(
        "wsteady_buffer_bytes",
        GAUGE,
        "Memory of all journals and queues.",
        sum(|snapshot| snapshot.buffer_bytes),
    );
    page.single(
        "wsteady_memory_limit_bytes",
        GAUGE,
        "What all journals and queues may take.",
        memory_limit,
    );
    let pressure = snapshots.iter().map(|one| one.stats.pressure as u64).max();
    page.single(
        "wsteady_memory_pressure",
        GAUGE,
        "How short memory is: 0 not, 1 plain HTTP connections end with their answers, 2 new clients get 503.",
        pressure.unwrap_or(0),
    );
    page.single(
        "wsteady_kept_bytes",
        GAUGE,
        "Memory of the request heads kept for the next server.",
        sum(|snapshot| snapshot.kept_bytes),
    );
    page.single(
        "wsteady_faults_total",
        COUNTER,
        "Mistakes of wsteady's own that cost a session.",
        sum(|snapshot| snapshot.stats.faults),
    );
    page.single(
        "wsteady_stale_events_total",
        COUNTER,
        "Events that came after what they were for had ended; normal.",
        sum(|snapshot| snapshot.stats.stale),
    );
    page.family(
        "wsteady_loop_busy_seconds_total",
        COUNTER,
        "Time that a loop has not spent waiting.",
    );
    for snapshot in snapshots {
        let busy = snapshot.stats.busy_micros as f64 * 1e-6;
        page.sample(&[("loop", &snapshot.shard)], busy);
    }
    page.family("wsteady_loop_turns_total", COUNTER, "Turns of a loop.");
    for snapshot in snapshots {
        page.sample(&[("loop", &snapshot.shard)], snapshot.stats.turns);
    }
}

fn log_lines(page: &mut Page) {
    let missing = log::missing();
    page.single(
        "wsteady_log_lines_lost_total",
        COUNTER,
        "Log lines that stderr did not take in time, or not at all.",
        missing.lost,
    );
    page.single(
        "wsteady_log_lines_held_back_total",
        COUNTER,
        "Log lines above what one kind of them may have in a second.",
        missing.held_back,
    );
}

/// The loops' numbers, brought together.
struct Sums<'a> {
    snapshots: &'a [Snapshot],
    servers: Vec<Row>,
}

/// The series of one server: of one pool and id, that is. A deleted server and a later one of the
/// same id share it; two series of the same labels would void the whole answer. The counters of one
/// that is gone stay, as counters must not fall; of a gauge there is nothing more to say.
struct Row {
    number: u16,
    present: bool,
    count: ServerStats,
    up: bool,
    open: bool,
}

impl<'a> Sums<'a> {
    fn new(snapshots: &'a [Snapshot], fleet: &Fleet) -> Sums<'a> {
        let mut rows: BTreeMap<(u16, &str), Row> = BTreeMap::new();
        for (number, place) in fleet.servers.iter().enumerate() {
            let number = number as u16;
            let count = server_count(number, snapshots);
            let gone = place.state == ServerState::Gone;
            let up = is_up(place, number, snapshots);
            let open = !gone && is_open(number, snapshots);
            let row = rows.entry((place.pool, &place.id)).or_insert(Row {
                number,
                present: false,
                count: ServerStats::default(),
                up: false,
                open: false,
            });
            row.count.sessions += count.sessions;
            row.count.sessions_total += count.sessions_total;
            row.count.failures += count.failures;
            (row.up, row.open) = (row.up || up, row.open || open);
            // Deleted at once, it may have sessions for a while.
            row.present |= !gone || count.sessions > 0;
        }
        Sums {
            snapshots,
            servers: rows.into_values().collect(),
        }
    }

    /// Servers that are there.
    fn present(&self) -> impl Iterator<Item = &Row> {
        self.servers.iter().filter(|row| row.present)
    }

    fn stats(&self) -> impl Iterator<Item = &'a Stats> + '_ {
        self.snapshots.iter().map(|snapshot| &snapshot.stats)
    }

    fn of(&self, number: fn(&Stats) -> u64) -> u64 {
        self.stats().map(number).sum()
    }

    /// A pool's tallies, one per loop.
    fn tallies(&self, pool: usize) -> impl Iterator<Item = &'a Tally> + '_ {
        self.stats().filter_map(move |stats| stats.pool(pool))
    }

    fn per_pool(&self, page: &mut Page, fleet: &Fleet, number: fn(&Tally) -> u64) {
        for (place, pool) in fleet.pools.iter().enumerate() {
            let sum = self.tallies(place).map(number).sum::<u64>();
            page.sample(&[("pool", &pool.name)], sum);
        }
    }
}

impl Row {
    fn labels<'a>(&self, fleet: &'a Fleet) -> [Label<'a>; 2] {
        let place = &fleet.servers[usize::from(self.number)];
        let pool = &fleet.pools[usize::from(place.pool)];
        [("pool", &pool.name), ("server", &place.id)]
    }
}

/// A histogram as it is written: counts up to each bound, not cumulated.
struct Buckets {
    /// Bounds in the unit of the metric, and what lies up to them.
    counts: Vec<(f64, u64)>,
    /// What lies beyond the last bound.
    beyond: u64,
    sum: f64,
}

impl Buckets {
    /// From histograms that count in parts of a second, `per_second` of them.
    fn of_times(
        sums: &Sums<'_>,
        of: fn(&Stats) -> &Histogram<u64>,
        per_second: u32,
        bounds: &[u64],
    ) -> Buckets {
        let mut buckets = Buckets::new(bounds.iter().copied(), f64::from(per_second));
        let mut sum = 0.0;
        for histogram in sums.stats().map(of) {
            for step in histogram.iter_recorded() {
                let (value, count) = (step.value_iterated_to(), step.count_at_value());
                // Values are only known to two digits. The least that it may have been keeps what
                // lies on a bound below it; the middle keeps the sum true.
                let place =
                    bounds.partition_point(|bound| *bound < histogram.lowest_equivalent(value));
                buckets.put(place, count);
                sum += histogram.median_equivalent(value) as f64 * count as f64;
            }
        }
        buckets.sum = sum / f64::from(per_second);
        buckets
    }

    fn of_sizes(sums: &Sums<'_>, of: fn(&Tally) -> &Sizes) -> Buckets {
        let mut buckets = Buckets::new(Sizes::bounds(), 1.0);
        for sizes in sums.stats().flat_map(|stats| &stats.pools).map(of) {
            for (place, count) in sizes.buckets.iter().enumerate() {
                buckets.put(place, *count);
            }
            buckets.sum += sizes.sum as f64;
        }
        buckets
    }

    fn new(bounds: impl Iterator<Item = u64>, unit: f64) -> Buckets {
        Buckets {
            counts: bounds.map(|bound| (bound as f64 / unit, 0)).collect(),
            beyond: 0,
            sum: 0.0,
        }
    }

    fn put(&mut self, place: usize, count: u64) {
        let slot = self.counts.get_mut(place).map(|(_, slot)| slot);
        *slot.unwrap_or(&mut self.beyond) += count;
    }
}

/// A label's name and value.
type Label<'a> = (&'static str, &'a dyn Display);

/// The text that is being written.
struct Page {
    out: String,
    openmetrics: bool,
    /// The metric that was begun last.
    name: &'static str,
}

impl Page {
    /// Begins a metric; its samples follow.
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        debug_assert_eq!(kind == COUNTER, name.ends_with("_total"), "{name}");
        // In OpenMetrics a counter's name is without the suffix of its sample.
        let family = match self.openmetrics {
            true => name.strip_suffix("_total").unwrap_or(name),
            false => name,
        };
        self.begin(name, family, kind, help);
    }

    /// The lines above a metric's samples.
    fn begin(&mut self, name: &'static str, family: &str, kind: &str, help: &str) {
        let out = &mut self.out;
        // Writing to a string can't fail.
        let _ = writeln!(out, "# HELP {family} {help}\n# TYPE {family} {kind}");
        self.name = name;
    }

    /// A metric of one sample.
    fn single(&mut self, name: &'static str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    /// A sample of the metric that was begun last.
    fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.line("", labels, value);
    }

    /// All series of a histogram.
    fn histogram(&mut self, labels: &[Label<'_>], buckets: &Buckets) {
        let mut count = 0;
        for (bound, here) in &buckets.counts {
            count += here;
            // `{:?}` keeps the point of a whole number, as OpenMetrics wants it.
            let bound = format!("{bound:?}");
            let labels: Vec<Label<'_>> = with(labels, ("le", &bound));
            self.line("_bucket", &labels, count);
        }
        count += buckets.beyond;
        let labels_and_end = with(labels, ("le", &"+Inf"));
        self.line("_bucket", &labels_and_end, count);
        self.line("_sum", labels, buckets.sum);
        self.line("_count", labels, count);
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], value: impl Display) {
        let (out, name) = (&mut self.out, self.name);
        let _ = write!(out, "{name}{suffix}");
        for (place, (label, text)) in labels.iter().enumerate() {
            let before = if place == 0 { '{' } else { ',' };
            let _ = write!(out, "{before}{label}=\"{}\"", escaped(&text.to_string()));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(out, "{after} {value}");
    }
}

fn with<'a>(labels: &[Label<'a>], more: Label<'a>) -> Vec<Label<'a>> {
    labels.iter().copied().chain([more]).collect()
}

/// A label's value as it stands between quotes, in both formats.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    text.replace('\n', "\\n")
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";
const HISTOGRAM: &str = "histogram";

/// What clients are turned away with, and what it is called here.
const DENIALS: [(u16, &str); 15] = [
    (400, "bad_request"),
    (403, "forbidden"),
    (404, "not_found"),
    (405, "method"),
    (408, "too_slow"),
    (413, "too_large"),
    (426, "no_upgrade"),
    (429, "too_many"),
    (431, "head_too_large"),
    (501, "not_implemented"),
    (502, "bad_gateway"),
    (503, "unavailable"),
    (504, "gateway_timeout"),
    (505, "http_version"),
    (0, "other"),
];

/// One of each name.
const LOSSES: [Loss; 9] = [
    Loss::Fin,
    Loss::Reset,
    Loss::Protocol,
    Loss::Close(1001),
    Loss::Silent,
    Loss::Refused,
    Loss::TimedOut,
    Loss::Exhausted,
    Loss::Moved,
];

/// From a failover within the host to the end of any sensible `session.hold`.
const HOLD_BOUNDS_MS: [u64; 14] = [
    1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000,
];

/// From one system call to what a person notices.
const RELAY_BOUNDS_US: [u64; 15] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
    1_000_000,
];

#[cfg(test)]
mod tests;
