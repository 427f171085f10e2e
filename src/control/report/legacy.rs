//! The older proxies' names of what wsteady counts: wsbalancer's where there are WebSocket pools,
//! ws2api's where there are bridges. Asked for by `metrics.legacy_names`.

use std::fmt::Display;
use std::net::SocketAddr;

use super::{Buckets, COUNTER, Fleet, GAUGE, HISTOGRAM, Kind, Label, Page, Sums, Tally, with};
use crate::session::Sizes;

/// What wsbalancer calls a listener: its address, with dashes for all signs. All IPv4 addresses
/// were written as none.
pub fn frontend_of(listen: SocketAddr) -> String {
    let all = listen.is_ipv4() && listen.ip().is_unspecified();
    let text = match all {
        true => format!(":{}", listen.port()),
        false => listen.to_string(),
    };
    text.replace(|one: char| !one.is_ascii_alphanumeric(), "-")
}

/// Both programs' metrics, as far as there are pools that have them.
pub(super) fn write(page: &mut Page, sums: &Sums<'_>, fleet: &Fleet, frontend: &str) {
    let has = |kind| fleet.pools.iter().any(|pool| pool.kind == kind);
    if has(Kind::WebSocket) {
        wsbalancer(page, sums, fleet, frontend);
    }
    if has(Kind::Bridge) {
        ws2api(page, sums, fleet);
    }
}

fn wsbalancer(page: &mut Page, sums: &Sums<'_>, fleet: &Fleet, frontend: &str) {
    let rows = || {
        let kind = |number: u16| {
            let place = &fleet.servers[usize::from(number)];
            fleet.pools[usize::from(place.pool)].kind
        };
        let own = sums.servers.iter();
        own.filter(move |row| kind(row.number) == Kind::WebSocket)
    };
    page.older(
        "wsbalancer_new_session",
        COUNTER,
        "As wsbalancer has it: wsteady_sessions_total.",
    );
    for row in rows() {
        let [_, (_, server)] = row.labels(fleet);
        let labels: [Label<'_>; 2] = [("frontend", &frontend), ("backend", server)];
        page.sample(&labels, row.count.sessions_total);
    }
    page.older(
        "wsbalancer_active_sessions",
        GAUGE,
        "As wsbalancer has it: wsteady_sessions_active.",
    );
    for row in rows() {
        let [_, (_, server)] = row.labels(fleet);
        let labels: [Label<'_>; 2] = [("frontend", &frontend), ("backend", server)];
        page.sample(&labels, row.count.sessions);
    }
    page.older(
        "wsbalancer_message_size",
        HISTOGRAM,
        "As wsbalancer has it, but for all backends together: wsteady_message_bytes.",
    );
    type Part = fn(&Tally) -> &Sizes;
    let directions: [(&str, Part); 2] = [
        ("f2b", |tally| &tally.sizes_up),
        ("b2f", |tally| &tally.sizes_down),
    ];
    for (direction, sizes) in directions {
        let mut all = Buckets::new(Sizes::bounds(), 1.0);
        for tally in tallies(sums, fleet, Kind::WebSocket) {
            for (place, count) in sizes(tally).buckets.iter().enumerate() {
                all.put(place, *count);
            }
            all.sum += sizes(tally).sum as f64;
        }
        let labels: [Label<'_>; 3] = [
            ("direction", &direction),
            ("frontend", &frontend),
            ("backend", &""),
        ];
        size_histogram(page, &labels, &all);
    }
}

/// wsbalancer's buckets, of which only the last has another bound: 4096 and not 5120.
fn size_histogram(page: &mut Page, labels: &[Label<'_>], all: &Buckets) {
    let mut count = 0;
    for (bound, here) in &all.counts {
        count += here;
        let bytes = *bound as u64;
        if (128..=4096).contains(&bytes) {
            // Without the point that OpenMetrics wants: so wsbalancer's Go has it.
            let bound: &dyn Display = if page.openmetrics {
                &format!("{bound:?}")
            } else {
                &bytes
            };
            page.line("_bucket", &with(labels, ("le", bound)), count);
        }
    }
    count += all.beyond;
    page.line("_bucket", &with(labels, ("le", &"+Inf")), count);
    page.line("_sum", labels, all.sum);
    page.line("_count", labels, count);
}

fn ws2api(page: &mut Page, sums: &Sums<'_>, fleet: &Fleet) {
    let sum = |of: fn(&Tally) -> u64| tallies(sums, fleet, Kind::Bridge).map(of).sum::<u64>();
    let (opened, active) = (sum(|tally| tally.bridged_total), sum(|tally| tally.bridged));
    let denied: u64 = sums.stats().flat_map(|stats| stats.denied.values()).sum();
    let families = [
        ("connections_opened", COUNTER, "clients of bridges", opened),
        (
            "connections_closed",
            COUNTER,
            "clients of bridges that have left",
            opened.saturating_sub(active),
        ),
        (
            "active_connections",
            GAUGE,
            "clients of bridges now",
            active,
        ),
        (
            "connections_denied",
            COUNTER,
            "wsteady_connections_denied_total",
            denied,
        ),
        (
            "requests_started",
            COUNTER,
            "wsteady_requests_started_total",
            sum(|tally| tally.requests_started),
        ),
        (
            "requests_failed",
            COUNTER,
            "wsteady_requests_failed_total",
            sum(|tally| tally.requests_failed),
        ),
        (
            "requests_succeeded",
            COUNTER,
            "wsteady_requests_succeeded_total",
            sum(|tally| tally.requests_succeeded),
        ),
        (
            "messages_dropped",
            COUNTER,
            "wsteady_messages_unconfirmed_total",
            sum(|tally| tally.unconfirmed.iter().sum()),
        ),
    ];
    for (name, kind, means, value) in families {
        page.older(name, kind, &format!("As ws2api has it: {means}."));
        page.sample(&[], value);
    }
}

/// The counts of all pools of a kind.
fn tallies<'a>(
    sums: &'a Sums<'_>,
    fleet: &'a Fleet,
    kind: Kind,
) -> impl Iterator<Item = &'a Tally> {
    let pools = fleet.pools.iter().enumerate();
    let own = pools.filter(move |(_, pool)| pool.kind == kind);
    own.flat_map(|(number, _)| sums.tallies(number))
}

impl Page {
    /// Begins a metric of an older proxy, whose counters are not called `_total`; OpenMetrics
    /// has no counters but those that are.
    fn older(&mut self, name: &'static str, kind: &str, help: &str) {
        let kind = match self.openmetrics && kind == COUNTER {
            true => "unknown",
            false => kind,
        };
        self.begin(name, name, kind, help);
    }
}
