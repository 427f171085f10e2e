//! Whole scenarios, small, against an echo server in this process.

use super::*;
use clap::Parser;
use std::net::SocketAddr;
use std::path::Path;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// Where an echo server listens that lives as long as the test's process.
fn server() -> SocketAddr {
    crate::echo::spawn(None)
}

/// Runs a scenario against `target`: whether all was well, and what was found.
fn play(name: &str, text: &str, target: SocketAddr, more: &str) -> (bool, Record) {
    static RUNS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let run_number = RUNS.fetch_add(1, Relaxed);
    let directory = format!("wsteady-{name}-{}-{run_number}", std::process::id());
    let out = std::env::temp_dir().join(directory);
    std::fs::create_dir_all(&out).unwrap();
    let file = out.join(format!("{name}.yaml"));
    std::fs::write(&file, text).unwrap();
    let (file, shown) = (file.display(), out.display());
    let line = format!("test {file} --url ws://{target}/ --out {shown} --quiet {more}");
    let args = Line::parse_from(line.split_whitespace()).args;
    let good = run(&args).unwrap();
    let record = Record::read(&out).unwrap();
    let log = std::fs::read(out.join("latency.hlog")).unwrap();
    assert_eq!(logged(&log), record.totals.latency.count, "the log has all");
    std::fs::remove_dir_all(&out).unwrap();
    (good, record)
}

/// Latencies in an interval log, read by the library's own reader.
fn logged(log: &[u8]) -> u64 {
    use base64::Engine;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    let mut sum = 0;
    for entry in IntervalLogIterator::new(log) {
        if let LogEntry::Interval(interval) = entry.unwrap() {
            let text = interval.encoded_histogram();
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(text)
                .unwrap();
            let histogram: hdrhistogram::Histogram<u64> =
                Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
            sum += histogram.len();
        }
    }
    sum
}

#[test]
fn clients_come_and_talk_and_all_is_counted() {
    let text = "connections: 40\ntraffic: { every: 100ms }\nphases:\n\
        - ramp: { to: 100%, over: 1s }\n- steady: { for: 1s }";
    let pid = std::process::id();
    let (good, record) = play(
        "talk",
        text,
        server(),
        &format!("--threads 3 --process proxy={pid}"),
    );
    assert!(good);
    let totals = &record.totals;
    assert_eq!((totals.opened, totals.lost), (40, 0));
    // Half a second each on average while they come, then one: some 15 messages of each.
    assert!((500..=700).contains(&totals.sent), "{}", totals.sent);
    assert_eq!(totals.sent, totals.echoes);
    assert_eq!(totals.latency.count, totals.echoes);
    assert_eq!(
        record.series.iter().map(|line| line.down).sum::<u64>(),
        totals.echoes
    );
    assert_eq!(
        record.series.iter().map(|line| line.connections).max(),
        Some(40)
    );
    assert!(record.series[0].sight.processes[0].is_some());
    // The ramp takes its time: nobody has come early.
    assert!(record.series[0].opened >= 38 && record.series[0].connections >= 38);
}

#[test]
fn a_rate_is_kept_and_a_rest_is_quiet() {
    let text = "connections: 10\nphases:\n- ramp: { to: 10, over: 200ms }\n\
        - steady: { for: 1s, traffic: { rate: 500 } }\n- steady: { for: 1s }";
    let (good, record) = play("rate", text, server(), "--threads 2");
    assert!(good);
    assert_eq!(record.totals.sent, 500);
    assert_eq!(
        record.phases[1].latency.count + record.phases[2].latency.count,
        500
    );
    assert_eq!(record.phases[0].latency.count, 0);
}

#[test]
fn a_scenario_with_tls_is_played_with_tls() {
    let server = crate::echo::spawn(Some(crate::tls::tests::host()));
    let text = "connections: 10\ntls: true\nphases:\n- ramp: { to: 10, over: 200ms }\n\
        - steady: { for: 1s, traffic: { rate: 100 } }\n\
        - slow-readers: { for: 1s, share: 50%, traffic: { rate: 100 } }";
    let (good, record) = play("tls", text, server, "--threads 2 --resume");
    assert!(good, "{record}");
    assert_eq!((record.totals.opened, record.totals.echoes), (10, 200));
}

#[test]
fn churn_storm_and_ramp_down_end_connections_on_purpose() {
    let text = "connections: 20\ntraffic: { every: 50ms }\nphases:\n\
        - ramp: { to: 100%, over: 200ms }\n- churn: { for: 1s, leave: 30 }\n\
        - reconnect-storm: { for: 1s, share: 50% }\n- ramp: { to: 5, over: 500ms }\n\
        - steady: { for: 1s }";
    let (good, record) = play("leave", text, server(), "--threads 2");
    assert!(good, "{record}");
    assert_eq!(record.totals.opened, 20 + 30 + 10);
    assert_eq!((record.totals.lost, record.totals.closed_early), (0, 0));
    let at_rest = &record.series[record.series.len() - 2];
    assert_eq!(at_rest.connections, 5);
}

#[test]
fn a_burst_is_as_many_messages_as_it_says() {
    let text = "connections: 12\nphases:\n- ramp: { to: 12, over: 200ms }\n\
        - burst: { for: 1s, share: 50%, messages: 7 }";
    let (good, record) = play("burst", text, server(), "--threads 2");
    assert!(good);
    assert_eq!((record.totals.sent, record.totals.echoes), (42, 42));
}

#[test]
fn slow_readers_get_all_in_the_end_and_are_not_measured_meanwhile() {
    let text = "connections: 4\nmessage: 1KiB\nphases:\n- ramp: { to: 4, over: 200ms }\n\
        - slow-readers: { for: 1s, share: 50%, traffic: { rate: 400 } }\n\
        - slow-readers: { for: 1s, share: 50%, read: 1KiB, traffic: { rate: 400 } }\n\
        - steady: { for: 500ms }";
    let (good, record) = play("slow", text, server(), "--threads 1");
    assert!(good, "{record}");
    assert_eq!((record.totals.sent, record.totals.echoes), (800, 800));
    assert_eq!(record.totals.latency.count, 400, "those of the other half");
    // While half of them read nothing, half of the echoes wait.
    assert!(record.series[0].down < 250, "{}", record.series[0].down);
}

/// A server in a process of its own can be killed; all clients notice and come again too late.
#[test]
fn a_failover_reaches_the_named_process() {
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let text = "connections: 4\nphases:\n- ramp: { to: 4, over: 200ms }\n\
        - failover: { for: 1s, signal: KILL, to: server }";
    let more = format!("--process server={}", child.id());
    let (good, record) = play("failover", text, server(), &more);
    assert!(good && !child.wait().unwrap().success());
    assert_eq!(
        record.series.last().unwrap().sight.processes[0].map(|_| ()),
        None
    );
}

#[test]
fn who_is_sent_away_comes_again_and_is_counted() {
    let text = "connections: 3\nreconnect: 100ms\nallow: [connect-failures]\nphases:\n\
        - ramp: { to: 3, over: 100ms }\n- steady: { for: 1s }";
    // Nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let (good, record) = play("refused", text, address, "");
    assert!(good);
    assert!(
        (15..=36).contains(&record.totals.connect_failed),
        "{record}"
    );
    let strict = text.replace("allow: [connect-failures]\n", "");
    assert!(!play("strict", &strict, address, "").0);
}

#[test]
fn a_limit_that_is_not_met_fails_the_run() {
    let text = "connections: 2\nlimits: { p99: 1ns }\ntraffic: { every: 50ms }\nphases:\n\
        - ramp: { to: 2, over: 300ms }";
    let (good, record) = play("limit", text, server(), "");
    let broken: Vec<_> = record.checks.iter().filter(|check| !check.met).collect();
    assert!(!good && broken.len() == 1 && broken[0].what == "latency p99");
}

#[test]
fn whoever_is_missing_is_noticed() {
    let text = "connections: 4\nlimits: { all_connected: true }\nphases:\n\
        - ramp: { to: 3, over: 300ms }\n- steady: { for: 1s }";
    let (good, record) = play("missing", text, server(), "");
    let broken: Vec<_> = record.checks.iter().filter(|check| !check.met).collect();
    assert!(!good && broken.len() == 1 && broken[0].found == "3");
    assert!(play("all", &text.replace("to: 3", "to: 4"), server(), "").0);
}

/// Even a thread that has no time until a phase is over does what was due in it.
#[test]
fn what_was_due_at_the_end_of_a_phase_is_done() {
    for brief in ["1us", "1ms"] {
        let text = format!(
            "connections: 3000\nphases:\n- ramp: {{ to: 100%, over: {brief} }}\n\
             - steady: {{ for: {brief}, traffic: {{ rate: 400000 }} }}\n- steady: {{ for: 1s }}"
        );
        let (good, record) = play("end", &text, server(), "--threads 2");
        assert!(good);
        assert_eq!(record.totals.opened, 3000, "{brief}");
    }
}

#[test]
fn a_signal_to_nobody_is_refused_before_the_run() {
    let text = "connections: 1\nphases:\n- ramp: { to: 1, over: 1s }\n\
        - failover: { for: 1s, signal: KILL, to: server }";
    let scenario = Scenario::parse(text, None).unwrap();
    let error = check_orders(&scenario, &[]).unwrap_err();
    assert!(error.contains("--process server=PID"), "{error}");
}

/// The examples that people are given, each with few clients, all at the same time.
#[test]
fn all_examples_run() {
    let target = server();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let more = format!("--connections 20 --process server={}", child.id());
    let paths = std::fs::read_dir(directory).unwrap();
    let paths: Vec<_> = paths.map(|entry| entry.unwrap().path()).collect();
    assert!(paths.len() >= 7);
    std::thread::scope(|threads| {
        for path in &paths {
            let more = more.as_str();
            threads.spawn(move || {
                let name = path.file_stem().unwrap().to_str().unwrap();
                let text = std::fs::read_to_string(path).unwrap();
                let (good, record) = play(name, &text, target, more);
                assert!(good && record.totals.echoes > 0, "{name}:\n{record}");
            });
        }
    });
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_report_needs_nothing_but_itself() {
    let text = "connections: 4\ntraffic: { every: 50ms }\nphases:\n\
        - ramp: { to: 4, over: 200ms }\n- steady: { for: 1s }";
    let pid = std::process::id();
    let more = format!("--process proxy={pid}");
    let (_, record) = play("report", text, server(), &more);
    let page = crate::report::page(&[record]);
    for outside in ["src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("<svg").count(), 6);
    assert_eq!(page.matches("</svg>").count(), 6);
    for part in [
        "Connections",
        "p99.9",
        "kernel objects",
        "messages lost",
        "steady",
    ] {
        assert!(page.contains(part), "{part}");
    }
}
