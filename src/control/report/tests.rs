use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::*;
use crate::fleet::Pool;
use crate::kit::Prng;

fn fleet() -> Fleet {
    let pool = |name: &str, members: &[u16]| Pool {
        members: members.to_vec(),
        ..Pool::new(name, Default::default())
    };
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let server = |id: &str, pool| Server::new(id.to_string(), "ws://h".into(), address, pool, 1);
    let mut fleet = Fleet {
        pools: vec![pool("chat", &[0, 1]), pool("q\"\\\n", &[2, 3])],
        servers: vec![
            server("a", 0),
            server("b", 0),
            server("c", 1),
            server("c", 1),
        ],
        routes: Vec::new(),
    };
    // Deleted, and added again under the same id.
    fleet.servers[2].state = ServerState::Gone;
    fleet
}

/// Loops in any state that they can be in.
fn snapshots(seed: u64) -> Vec<Snapshot> {
    let mut rng = Prng::from_u64(seed);
    let mut any = move |below: u32| u64::from(rng.below(below));
    (0..3)
        .map(|shard| {
            let mut stats = Stats::new(2, 4);
            stats.closed = any(1_000);
            stats.opened = stats.closed + any(50);
            for status in [400, 404, 418, 503] {
                stats.denied.insert(status, any(5));
            }
            for tally in &mut stats.pools {
                for _ in 0..any(40) {
                    tally.messages_up += 1;
                    tally.sizes_up.record(any(3 << 20));
                    match any(3) {
                        0 => tally.confirmed += 1,
                        1 => tally.journaled += 1,
                        _ => tally.unconfirmed[any(17) as usize] += 1,
                    }
                }
                *tally.failovers.entry("reset").or_default() += any(4);
            }
            for server in &mut stats.servers {
                server.sessions = any(9) as u32;
                server.sessions_total = any(99);
            }
            for _ in 0..any(30) {
                stats.hold.record(any(90_000)).unwrap();
                stats
                    .relay
                    .record_n(1 + any(2_000_000), 1 + any(9))
                    .unwrap();
            }
            stats.busy_micros = any(9_999_999);
            Snapshot {
                shard,
                stats,
                clients: 0,
                upstreams: 0,
                timers: 0,
                buffer_bytes: any(1 << 20),
                kept_bytes: any(1 << 20),
                tripped: vec![shard == 2, false, true, false],
                healthy: vec![true; 4],
            }
        })
        .collect()
}

/// Series and their values; panics on a line that is none, and on one that stands twice.
fn parsed(text: &str) -> BTreeMap<String, f64> {
    let mut series = BTreeMap::new();
    let (mut typed, mut helped) = (BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.split(' ');
            let (kind, name) = (words.next().unwrap(), words.next().unwrap_or_default());
            let new = match kind {
                "HELP" => helped.insert(name),
                "TYPE" => typed.insert(name),
                "EOF" => true,
                _ => panic!("{line}"),
            };
            assert!(new, "{line} stands twice");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let value = value.parse::<f64>().unwrap();
        let family = name.split('{').next().unwrap();
        let bare = |end| {
            family
                .strip_suffix(end)
                .is_some_and(|bare| typed.contains(bare))
        };
        let known = typed.contains(family)
            || ["_bucket", "_sum", "_count", "_total"]
                .into_iter()
                .any(bare);
        assert!(known, "{line} has no TYPE before it");
        let twice = series.insert(name.to_string(), value);
        assert!(twice.is_none(), "{line} stands twice");
    }
    assert_eq!(typed, helped);
    series
}

#[test]
fn the_laws_hold_at_every_scrape() {
    let fleet = fleet();
    for seed in 0..50 {
        let snapshots = snapshots(seed);
        for openmetrics in [false, true] {
            let text = metrics(&snapshots, &fleet, openmetrics, 1 << 30, None, None, &[]);
            let series = parsed(&text);
            let value = |name: &str| series[name];
            let sum = |start: &str| {
                let rows = series.iter().filter(|(name, _)| name.starts_with(start));
                rows.map(|(_, value)| value).sum::<f64>()
            };
            let active = value("wsteady_connections_active");
            let opened = value("wsteady_connections_opened_total");
            assert_eq!(opened - value("wsteady_connections_closed_total"), active);
            for pool in ["chat", "q\\\"\\\\\\n"] {
                let up = format!("wsteady_messages_total{{pool=\"{pool}\",direction=\"up\"}}");
                let of = |name: &str| sum(&format!("{name}{{pool=\"{pool}\""));
                let ended = of("wsteady_messages_confirmed_total")
                    + of("wsteady_messages_unconfirmed_total")
                    + of("wsteady_messages_journaled");
                assert_eq!(value(&up), ended, "{pool}, seed {seed}");
            }
            // Nothing is lost on the way from loops to series.
            let denied: u64 = snapshots
                .iter()
                .flat_map(|one| one.stats.denied.values())
                .sum();
            assert_eq!(sum("wsteady_connections_denied_total"), denied as f64);
            let sessions = snapshots.iter().flat_map(|one| &one.stats.servers);
            let sessions: u64 = sessions.map(|server| server.sessions_total).sum();
            assert_eq!(sum("wsteady_sessions_total"), sessions as f64);
            histograms_are_whole(&series, &snapshots);
        }
    }
}

fn histograms_are_whole(series: &BTreeMap<String, f64>, snapshots: &[Snapshot]) {
    let holds: u64 = snapshots.iter().map(|one| one.stats.hold.len()).sum();
    assert_eq!(series["wsteady_hold_seconds_count"], holds as f64);
    let relays: u64 = snapshots.iter().map(|one| one.stats.relay.len()).sum();
    assert_eq!(series["wsteady_relay_seconds_count"], relays as f64);
    for name in [
        "wsteady_hold_seconds",
        "wsteady_relay_seconds",
        "wsteady_message_bytes",
    ] {
        let start = format!("{name}_bucket{{");
        let buckets = series
            .iter()
            .filter(|(series, _)| series.starts_with(&start));
        let mut by_direction: BTreeMap<bool, Vec<(f64, f64)>> = BTreeMap::new();
        for (series, count) in buckets {
            let (_, bound) = series.split_once("le=\"").unwrap();
            let bound = bound.trim_end_matches("\"}").parse::<f64>().unwrap();
            let row = by_direction.entry(series.contains("\"up\"")).or_default();
            row.push((bound, *count));
        }
        for (_, mut row) in by_direction {
            row.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(
                row.windows(2).all(|pair| pair[0].1 <= pair[1].1),
                "{name} falls: {row:?}"
            );
            assert!(row.last().unwrap().0.is_infinite());
        }
    }
}

#[test]
fn every_name_is_there_from_the_start() {
    let mut fleet = fleet();
    fleet.servers.truncate(2);
    fleet.pools.truncate(1);
    let nothing = Snapshot {
        shard: 0,
        stats: Stats::new(1, 2),
        clients: 0,
        upstreams: 0,
        timers: 0,
        buffer_bytes: 0,
        kept_bytes: 0,
        tripped: vec![false; 2],
        healthy: vec![true; 2],
    };
    let text = metrics(&[nothing], &fleet, false, 4096, None, None, &[]);
    let series = parsed(&text);
    let zero = [
        "wsteady_connections_opened_total",
        "wsteady_connections_closed_total",
        "wsteady_connections_active",
        "wsteady_connections_denied_total{reason=\"unavailable\"}",
        "wsteady_sessions_active{pool=\"chat\",server=\"a\"}",
        "wsteady_sessions_total{pool=\"chat\",server=\"b\"}",
        "wsteady_sessions_held{pool=\"chat\"}",
        "wsteady_hold_seconds_count",
        "wsteady_hold_seconds_sum",
        "wsteady_messages_total{pool=\"chat\",direction=\"up\"}",
        "wsteady_messages_total{pool=\"chat\",direction=\"down\"}",
        "wsteady_message_bytes_count{direction=\"down\"}",
        "wsteady_messages_confirmed_total{pool=\"chat\"}",
        "wsteady_messages_journaled{pool=\"chat\"}",
        "wsteady_messages_replayed_total{pool=\"chat\"}",
        "wsteady_relay_seconds_count",
        "wsteady_buffer_bytes",
        "wsteady_breaker_open{pool=\"chat\",server=\"a\"}",
        "wsteady_loop_busy_seconds_total{loop=\"0\"}",
    ];
    for name in zero {
        assert_eq!(series.get(name), Some(&0.0), "{name}");
    }
    for end in End::ALL {
        let reason = end.name();
        let name =
            format!("wsteady_messages_unconfirmed_total{{pool=\"chat\",reason=\"{reason}\"}}");
        assert_eq!(series.get(&name), Some(&0.0), "{name}");
    }
    for reason in LOSSES.map(Loss::name) {
        let name = format!("wsteady_failovers_total{{pool=\"chat\",reason=\"{reason}\"}}");
        assert_eq!(series.get(&name), Some(&0.0), "{name}");
    }
    assert_eq!(series["wsteady_memory_limit_bytes"], 4096.0);
    assert_eq!(series["wsteady_server_up{pool=\"chat\",server=\"a\"}"], 1.0);
    for name in ["started_total", "failed_total", "succeeded_total"] {
        assert!(text.contains(&format!("# TYPE wsteady_requests_{name} counter\n")));
    }
    assert!(text.contains("# TYPE wsteady_request_seconds histogram\n"));
    let process = [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ];
    for name in process {
        assert!(series[name] >= 0.0, "{name}");
    }
    assert!(series["process_resident_memory_bytes"] > 1e5);
    assert!(series["process_max_fds"] >= series["process_open_fds"]);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let age = now.as_secs_f64() - series["process_start_time_seconds"];
    assert!((-2.0..86_400.0).contains(&age), "{age} s old");
}

#[test]
fn a_breaker_that_one_loop_knows_to_be_open_counts_and_a_deleted_server_does_not() {
    let series = parsed(&metrics(&snapshots(1), &fleet(), false, 1, None, None, &[]));
    let up = |pool: &str, id: &str| {
        series[&format!("wsteady_server_up{{pool=\"{pool}\",server=\"{id}\"}}")]
    };
    let open = |pool: &str, id: &str| {
        series[&format!("wsteady_breaker_open{{pool=\"{pool}\",server=\"{id}\"}}")]
    };
    assert_eq!((up("chat", "a"), open("chat", "a")), (0.0, 1.0));
    assert_eq!((up("chat", "b"), open("chat", "b")), (1.0, 0.0));
    // Number 2 is gone and tripped, number 3 has its id.
    let odd = "q\\\"\\\\\\n";
    assert_eq!((up(odd, "c"), open(odd, "c")), (1.0, 0.0));
}

#[test]
fn of_a_server_that_is_gone_the_counters_stay() {
    let mut fleet = fleet();
    fleet.servers[1].state = ServerState::Gone;
    let mut snapshots = snapshots(3);
    let names = |snapshots: &[Snapshot]| {
        let series = parsed(&metrics(snapshots, &fleet, false, 1, None, None, &[]));
        let of_it = series
            .into_keys()
            .filter(|name| name.contains("server=\"b\""));
        of_it
            .map(|name| name.split('{').next().unwrap().to_string())
            .collect::<Vec<_>>()
    };
    let gauges = [
        "wsteady_breaker_open",
        "wsteady_server_up",
        "wsteady_sessions_active",
    ];
    let counters = ["wsteady_server_failures_total", "wsteady_sessions_total"];
    let has_gauges = |names: &[String]| gauges.iter().all(|one| names.iter().any(|n| n == one));
    snapshots[1].stats.servers[1].sessions = 1;
    assert!(
        has_gauges(&names(&snapshots)),
        "its last session still moves"
    );
    for snapshot in &mut snapshots {
        snapshot.stats.servers[1].sessions = 0;
    }
    assert_eq!(names(&snapshots), counters);
}

#[test]
fn what_lies_on_a_bound_lies_below_it() {
    let mut snapshot = snapshots(1).remove(0);
    snapshot.stats = Stats::new(2, 4);
    for ms in [1, 250, 1_000, 1_001, 60_000, 3_000_000] {
        snapshot.stats.hold.record(ms).unwrap();
    }
    for size in [16, 17, 1 << 20, (1 << 20) + 1] {
        snapshot.stats.tally(Some(0)).sizes_up.record(size);
    }
    let series = parsed(&metrics(&[snapshot], &fleet(), false, 1, None, None, &[]));
    let rows = [
        ("wsteady_hold_seconds_bucket{le=\"0.001\"}", 1.0),
        ("wsteady_hold_seconds_bucket{le=\"0.25\"}", 2.0),
        // 1001 ms is not told apart from 1000: two digits are kept.
        ("wsteady_hold_seconds_bucket{le=\"1.0\"}", 4.0),
        ("wsteady_hold_seconds_bucket{le=\"60.0\"}", 5.0),
        ("wsteady_hold_seconds_bucket{le=\"+Inf\"}", 6.0),
        (
            "wsteady_message_bytes_bucket{direction=\"up\",le=\"16.0\"}",
            1.0,
        ),
        (
            "wsteady_message_bytes_bucket{direction=\"up\",le=\"32.0\"}",
            2.0,
        ),
        (
            "wsteady_message_bytes_bucket{direction=\"up\",le=\"1048576.0\"}",
            3.0,
        ),
        (
            "wsteady_message_bytes_bucket{direction=\"up\",le=\"+Inf\"}",
            4.0,
        ),
        (
            "wsteady_message_bytes_sum{direction=\"up\"}",
            33.0 + 2_097_153.0,
        ),
    ];
    for (name, count) in rows {
        assert_eq!(series.get(name), Some(&count), "{name}");
    }
    let sum = series["wsteady_hold_seconds_sum"];
    assert!((sum / 3_062.252 - 1.0).abs() < 0.01, "{sum}");
}

#[test]
fn the_older_proxies_names_have_the_same_values() {
    let mut fleet = fleet();
    fleet.pools[1].kind = Kind::Bridge;
    let mut snapshots = snapshots(3);
    for (count, snapshot) in snapshots.iter_mut().enumerate() {
        let tally = &mut snapshot.stats.pools[1];
        (tally.bridged, tally.bridged_total) = (count as u64, 10);
        (tally.requests_started, tally.requests_failed) = (9, 4);
    }
    for openmetrics in [false, true] {
        let text = metrics(&snapshots, &fleet, openmetrics, 1, Some("-8080"), None, &[]);
        let series = parsed(&text);
        let labels = |server: &str| {
            (
                format!("{{frontend=\"-8080\",backend=\"{server}\"}}"),
                format!("{{pool=\"chat\",server=\"{server}\"}}"),
            )
        };
        for (old, own) in [labels("a"), labels("b")] {
            for (name, is) in [
                ("wsbalancer_new_session", "wsteady_sessions_total"),
                ("wsbalancer_active_sessions", "wsteady_sessions_active"),
            ] {
                assert_eq!(
                    series[&format!("{name}{old}")],
                    series[&format!("{is}{own}")]
                );
            }
        }
        assert!(!text.contains("backend=\"c\""), "a bridge's server");
        let size = "wsbalancer_message_size";
        let labels = "direction=\"f2b\",frontend=\"-8080\",backend=\"\"";
        let bounds: &[&str] = match openmetrics {
            false => &["128", "256", "512", "1024", "2048", "4096", "+Inf"],
            true => &[
                "128.0", "256.0", "512.0", "1024.0", "2048.0", "4096.0", "+Inf",
            ],
        };
        let mut last = 0.0;
        for bound in bounds {
            let count = series[&format!("{size}_bucket{{{labels},le=\"{bound}\"}}")];
            assert!(count >= last, "{bound}");
            last = count;
        }
        assert_eq!(series[&format!("{size}_count{{{labels}}}")], last);
        let up: u64 = snapshots
            .iter()
            .map(|one| one.stats.pools[0].messages_up)
            .sum();
        assert_eq!(last, up as f64);
        let values = [
            ("connections_opened", 30.0),
            ("connections_closed", 27.0),
            ("active_connections", 3.0),
            ("requests_started", 27.0),
            ("requests_failed", 12.0),
            ("requests_succeeded", 0.0),
        ];
        for (name, value) in values {
            assert_eq!(series[name], value, "{name}");
        }
        assert!(
            series.contains_key("connections_denied") && series.contains_key("messages_dropped")
        );
        let kind = if openmetrics { "unknown" } else { "counter" };
        assert!(text.contains(&format!("# TYPE wsbalancer_new_session {kind}\n")));
    }
    let none = metrics(&snapshots, &fleet, false, 1, None, None, &[]);
    assert!(!none.contains("wsbalancer_") && !none.contains("\nconnections_opened"));
    for (address, name) in [
        ("0.0.0.0:8080", "-8080"),
        ("127.0.0.1:80", "127-0-0-1-80"),
        ("[::1]:80", "---1--80"),
    ] {
        assert_eq!(frontend_of(address.parse().unwrap()), name);
    }
}

/// The tables of docs/metrics.md have each metric with its type and labels, and no other.
#[test]
fn the_page_about_metrics_has_them_all() {
    let mut fleet = fleet();
    fleet.pools[1].kind = Kind::Bridge;
    let text = metrics(
        &snapshots(1),
        &fleet,
        false,
        1,
        None,
        None,
        &[("tls.crt".to_owned(), 7)],
    );
    let series = parsed(&text);
    let labels = |name: &str| {
        let own = series.keys().filter(|series| {
            let family = series.split('{').next().unwrap_or_default();
            let ends = ["", "_bucket", "_sum", "_count"];
            ends.iter()
                .any(|end| family.strip_suffix(end) == Some(name))
        });
        let labels = own.flat_map(|series| series.split(['{', ',']).skip(1));
        let names = labels.filter_map(|label| label.split_once("=\"").map(|(name, _)| name));
        let names: BTreeSet<&str> = names.filter(|name| *name != "le").collect();
        names.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let found: BTreeMap<String, (String, Vec<String>)> = types
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), (kind.to_owned(), labels(name))))
        .collect();
    let page = include_str!("../../../docs/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let mut told = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, kind, labels, says, ..] = cells[..] else {
            panic!("too few cells: {row}");
        };
        let mut labels: Vec<String> = labels
            .split(", ")
            .map(|label| label.trim_matches('`').to_owned())
            .filter(|label| !label.is_empty())
            .collect();
        labels.sort();
        assert!(!says.is_empty() && cells.len() == 7, "{row}");
        let known = told.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels));
        assert!(known.is_none(), "{name} stands twice");
    }
    assert_eq!(told, found);
}

/// With Prometheus's own tool, where it is installed.
#[test]
fn promtool_has_no_complaint() {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        eprintln!("promtool is not installed: skipped");
        return;
    };
    let text = metrics(&snapshots(7), &fleet(), false, 1 << 30, None, None, &[]);
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
