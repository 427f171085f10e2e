//! Clients that only come and go: what handshakes cost a proxy.

mod worker;

use crate::process::Sample;
use crate::reasons::Reasons;
use crate::run::{self, Measured};
use crate::units::{grouped, latency};
use crate::ws::tally::Tally;
use crate::ws::{self, Plan};
use crate::{check, sys, tls, units};
use serde::Serialize;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Connect, upgrade and close over and over, and measure what it costs.
///
/// A handshake is all of it: TCP, TLS if it is asked for, the upgrade, and a clean close. As soon as
/// one is over, the next begins. A place whose connection fails stays empty, so that a server that
/// refuses is not stormed, and makes the exit status 1.
#[derive(clap::Args)]
pub struct Args {
    /// ws://host:port/path, or wss:// for TLS
    #[arg(long)]
    url: String,
    /// Handshakes under way at the same time
    #[arg(long, value_name = "N", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    at_once: u32,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Run on this core only
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    /// How long to measure
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::time)]
    duration: Duration,
    /// Handshakes before the measurement begins
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::time)]
    warmup: Duration,
    /// One handshake must take no longer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::time)]
    connect_timeout: Duration,
    /// Dial from so many loopback addresses, 127.0.0.2 and up (each has some 28,000 ports)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..65_536))]
    source_addresses: Option<u32>,
    #[command(flatten)]
    tls: tls::ClientArgs,
    /// Process to watch: its processor time is part of the result
    #[arg(long, value_name = "PID")]
    proxy_pid: Option<u32>,
    /// Write the result here, too; every name in it is unique
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No progress bar and no table
    #[arg(long)]
    quiet: bool,
}

/// Runs the clients and reports; `false` if one of them failed.
///
/// # Errors
/// What kept the run from taking place.
pub fn run(args: &Args) -> io::Result<bool> {
    sys::pin(args.cpu)?;
    let limit = sys::raise_descriptor_limit();
    let mut plan = Plan::of(&clients(args), limit).map_err(io::Error::other)?;
    plan.shape.warmup = args.warmup;
    plan.shape.duration = Some(args.duration);
    plan.shape.counted = "handshakes";
    plan.shape.doing = "measuring";
    let watch = run::Watch {
        pid: args.proxy_pid,
        quiet: args.quiet,
    };
    let work = |index, shared: &run::Shared| worker::run(&plan, index, shared);
    let (tallies, measured) = run::conduct(&plan.shape, watch, work)?;
    let mut sums = Tally::new();
    for tally in &tallies {
        sums.add(tally);
    }
    let report = Report::new(args, &plan, &sums, &measured);
    if let Some(path) = &args.json {
        let mut text = serde_json::to_string_pretty(&report)?;
        text.push('\n');
        std::fs::write(path, text)?;
    }
    if !args.quiet {
        println!("{report}");
    }
    for fault in &report.faults {
        eprintln!("wsteady-bench: {fault}");
    }
    Ok(report.faults.is_empty())
}

fn clients(args: &Args) -> ws::Clients {
    ws::Clients {
        url: args.url.clone(),
        bridge: false,
        connections: args.at_once,
        threads: Some(args.threads),
        size: check::LABEL_BYTES,
        text: false,
        connect_timeout: args.connect_timeout,
        grace: args.connect_timeout,
        source_addresses: args.source_addresses,
        tls: args.tls.clone(),
    }
}

/// The result.
#[derive(Serialize)]
struct Report {
    url: String,
    tls: bool,
    at_once: u32,
    window_seconds: f64,
    window_handshakes: u64,
    handshakes_per_second: f64,
    /// Of all, from the connect to the complete 101.
    handshake_p50_us: f64,
    handshake_p99_us: f64,
    handshakes_total: u64,
    /// Of these, those whose TLS session went on from an earlier one.
    resumed: u64,
    proxy_cpu_seconds: Option<f64>,
    proxy_cpu_seconds_per_10000: Option<f64>,
    /// How the process was after it.
    process: Option<Sample>,
    reasons: Reasons,
    faults: Vec<String>,
}

impl Report {
    fn new(args: &Args, plan: &Plan, sums: &Tally, measured: &Measured) -> Self {
        let micros = |quantile| sums.connect.value_at_quantile(quantile) as f64 / 1e3;
        let cpu = measured.cpu.map(|(user, system)| user + system);
        let count = measured.window_count;
        let checks = [
            (sums.connect_failed, "connections could not be opened"),
            (sums.closed_early, "connections ended early"),
            (sums.closed_badly, "connections did not close properly"),
        ];
        let faults = checks.into_iter().filter(|(count, _)| *count > 0);
        Self {
            url: args.url.clone(),
            tls: plan.tls.is_some(),
            at_once: args.at_once,
            window_seconds: measured.window_seconds,
            window_handshakes: count,
            handshakes_per_second: count as f64 / measured.window_seconds,
            handshake_p50_us: micros(0.5),
            handshake_p99_us: micros(0.99),
            handshakes_total: sums.opened,
            resumed: sums.resumed,
            proxy_cpu_seconds: cpu,
            proxy_cpu_seconds_per_10000: cpu
                .filter(|_| count > 0)
                .map(|seconds| seconds * 1e4 / count as f64),
            process: measured.after,
            reasons: sums.reasons.clone(),
            faults: faults
                .map(|(count, what)| format!("{} {what}", grouped(count)))
                .collect(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "handshakes   {} in {:.2} s: {}/s; connect and upgrade p50 {}, p99 {}\n\
             resumed      {} of {}",
            grouped(self.window_handshakes),
            self.window_seconds,
            grouped(self.handshakes_per_second as u64),
            latency((self.handshake_p50_us * 1e3) as u64),
            latency((self.handshake_p99_us * 1e3) as u64),
            grouped(self.resumed),
            grouped(self.handshakes_total),
        )?;
        if let (Some(cpu), Some(each)) = (self.proxy_cpu_seconds, self.proxy_cpu_seconds_per_10000)
        {
            write!(out, "\nprocess      {cpu:.2} CPU s: {each:.2} per 10,000")?;
        }
        for (reason, count) in self.reasons.iter() {
            write!(out, "\n             {}x {reason}", grouped(*count))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn result(line: &str) -> (bool, serde_json::Value) {
        let name = format!("wsteady-bench-{}-{}", std::process::id(), line.len());
        let path = std::env::temp_dir().join(name);
        let more = "--quiet --warmup 50ms --duration 200ms --at-once 4";
        let line = format!("test {line} {more} --json {}", path.display());
        let good = run(&Line::parse_from(line.split_whitespace()).args).unwrap();
        let json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        std::fs::remove_file(path).unwrap();
        (good, json)
    }

    #[test]
    fn clients_come_and_go_with_tls_and_without() {
        let plain = crate::echo::spawn(None);
        let sealed = crate::echo::spawn(Some(tls::tests::host()));
        for (line, resumes) in [
            (format!("--url ws://{plain}"), false),
            (format!("--url wss://{sealed}"), false),
            (format!("--url wss://{sealed} --resume"), true),
        ] {
            let (good, json) = result(&line);
            let count = |name: &str| json[name].as_u64().unwrap();
            assert!(good, "{json:#}");
            assert!(count("window_handshakes") > 10, "{json:#}");
            let (all, resumed) = (count("handshakes_total"), count("resumed"));
            // The first of each place have no ticket yet.
            let expected = if resumes { all - 4..=all - 1 } else { 0..=0 };
            assert!(expected.contains(&resumed), "{json:#}");
        }
    }

    #[test]
    fn one_that_is_refused_does_not_come_again() {
        let (good, json) = result("--url ws://127.0.0.1:1");
        assert!(!good && json["handshakes_total"] == 0, "{json:#}");
        assert_eq!(json["faults"][0], "4 connections could not be opened");
    }
}
