//! Scenarios: what many clients do over time, from a file, and what it did to a proxy.

mod board;
mod clients;
mod crowd;
mod dues;
mod file;
mod observe;
pub mod result;
pub mod watch;

use crate::ws::{self, Plan};
use crate::{sys, tls, units};
use board::Board;
use crowd::Outcome;
use file::{Act, Order, Scenario};
use observe::{Scope, Seen};
use result::{Frame, Record};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

/// Run a scenario: clients that come, talk, leave and come again as a YAML file says.
///
/// Each line of the result is a second: connections, messages, latency, and processor time and
/// memory of the watched processes. Latency counts from when a message, or a client, was due.
/// The exit status is 1 if a check failed. Examples are in bench/scenarios.
#[derive(clap::Args)]
pub struct Args {
    /// The scenario's file
    #[arg(value_name = "SCENARIO")]
    scenario: PathBuf,
    /// ws://host:port/path, or wss:// for TLS
    #[arg(long)]
    url: String,
    /// Give each connection a ClientId of its own, behind the URL's path: /c0-5f0c…
    #[arg(long)]
    bridge: bool,
    /// Instead of the file's number; shares follow
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connections: Option<u32>,
    /// Threads; each has its own limit of open descriptors [default: as few as that allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Run on this core only
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    /// A process to watch, and its name in scenarios and reports; `proxy` is the one that is measured
    #[arg(long, value_name = "NAME=PID", value_parser = watch::process)]
    process: Vec<watch::Process>,
    /// Where wsteady says what it holds: http://host:port/metrics
    #[arg(long, value_name = "URL", value_parser = watch::metrics)]
    metrics: Option<watch::Metrics>,
    /// A connect and its upgrade must take no longer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::time)]
    connect_timeout: Duration,
    /// How long the last echoes are waited for
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::time)]
    grace: Duration,
    /// Dial from so many loopback addresses, 127.0.0.2 and up (each has some 28,000 ports)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..65_536))]
    source_addresses: Option<u32>,
    #[command(flatten)]
    tls: tls::ClientArgs,
    /// Directory for result.json and latency.hlog
    #[arg(long, value_name = "DIR", default_value = "wsteady-bench-result")]
    out: PathBuf,
    /// No progress bar and no table
    #[arg(long)]
    quiet: bool,
}

/// Runs the scenario and writes what it found; `false` if a check failed.
///
/// # Errors
/// What kept the run from taking place.
pub fn run(args: &Args) -> io::Result<bool> {
    let scenario = Scenario::read(&args.scenario, args.connections).map_err(io::Error::other)?;
    check_orders(&scenario, &args.process).map_err(io::Error::other)?;
    sys::pin(args.cpu)?;
    let limit = sys::raise_descriptor_limit();
    let plan = Plan::of(&clients(args, &scenario), limit).map_err(io::Error::other)?;
    std::fs::create_dir_all(&args.out)?;
    let (outcomes, seen) = conduct(args, &scenario, &plan)?;
    let frame = Frame {
        name: name(args),
        url: args.url.clone(),
        scenario: &scenario,
        threads: plan.shape.threads,
        processes: &args.process,
    };
    let record = Record::new(&frame, &outcomes, seen);
    let path = record.write(&args.out)?;
    if !args.quiet {
        print!("{record}");
        println!("written to   {}", path.display());
    }
    for check in record.checks.iter().filter(|check| !check.met) {
        let (what, found, wanted) = (&check.what, &check.found, &check.wanted);
        eprintln!("wsteady-bench: {what}: {found}, not {wanted}");
    }
    Ok(record.is_good())
}

fn clients(args: &Args, scenario: &Scenario) -> ws::Clients {
    ws::Clients {
        url: args.url.clone(),
        bridge: args.bridge,
        connections: scenario.connections,
        threads: args.threads,
        size: scenario.message,
        text: scenario.text,
        connect_timeout: args.connect_timeout,
        grace: args.grace,
        source_addresses: args.source_addresses,
        tls: if scenario.tls {
            args.tls.with_tls()
        } else {
            args.tls.clone()
        },
    }
}

/// Whether the clients of the scenario in this file speak TLS.
///
/// # Errors
/// It is no scenario.
pub fn speaks_tls(file: &Path) -> Result<bool, String> {
    Ok(Scenario::read(file, None)?.tls)
}

/// The file's name without its ending.
fn name(args: &Args) -> String {
    let stem = args.scenario.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

/// Whoever is to get a signal must be known before the run, not in the middle of it.
fn check_orders(scenario: &Scenario, processes: &[watch::Process]) -> Result<(), String> {
    for phase in &scenario.phases {
        if let Act::Failover(Order::Signal { to, .. }) = &phase.act {
            observe::pid(to, processes)?;
        }
    }
    Ok(())
}

/// Runs the threads and looks on.
fn conduct(args: &Args, scenario: &Scenario, plan: &Plan) -> io::Result<(Vec<Outcome>, Seen)> {
    let scope = Scope {
        scenario,
        processes: &args.process,
        metrics: args.metrics.as_ref(),
        quiet: args.quiet,
    };
    let board = Board::new(plan.shape.threads);
    std::thread::scope(|threads| {
        let board = &board;
        let work = move |index| {
            let result = crowd::run(plan, scenario, index, board);
            board.failed.fetch_or(result.is_err(), Release);
            result
        };
        let crowds: Vec<_> = (0..plan.shape.threads)
            .map(|index| threads.spawn(move || work(index)))
            .collect();
        let seen = observe::observe(&scope, board, &args.out.join("latency.hlog"));
        board.failed.fetch_or(seen.is_err(), Relaxed);
        let mut outcomes = Vec::with_capacity(crowds.len());
        for crowd in crowds {
            let died = |_| io::Error::other("a thread died");
            outcomes.push(crowd.join().map_err(died)??);
        }
        Ok((outcomes, seen?))
    })
}

#[cfg(test)]
mod tests;
