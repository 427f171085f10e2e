//! Several nodes of a bridge: clients on all of them, pushes to any of them, and what became of each.

mod chance;
mod client;
mod crowd;
mod judge;
mod marks;
mod pushes;
mod report;

use crate::run::{self, Measured, Shape, Shared};
use crate::{check, sys, units};
use client::Seen;
use pushes::Sent;
use report::Report;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Release};
use std::time::Duration;

/// Push to clients of several nodes through any of them, and tell what became of each push.
///
/// Clients connect to --url, each with a ClientId of its own, and come again when they lose their
/// connection. Each push goes to a random one of --nodes, for a random client or, --unknown, for an
/// id that is nowhere. A client that was connected all the time (--margin before a push was due until
/// --margin behind its answer) must get it once if it was answered 200, and the answer must be 200;
/// an unknown id must get 404. Latency counts from when a push was due. What is done to the nodes
/// meanwhile comes from --mark-file, a line for each event: it splits the run into parts, each of
/// which must keep to --p99, and it excuses connections that are lost within --settle of it. The
/// exit status is 1 if something was missed.
#[derive(clap::Args)]
pub struct Args {
    /// Where clients connect, ws://host:port/; repeat it for several, which clients take in turn: who
    /// fails at one tries the next
    #[arg(long, required = true)]
    url: Vec<String>,
    /// The nodes' addresses for pushes, by comma
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    nodes: Vec<String>,
    /// Clients, all connected at the same time
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Threads of clients; each has its own limit of open descriptors [default: as few as that allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Pushes per second
    #[arg(long, value_name = "N", default_value_t = 1000.0)]
    rate: f64,
    /// Threads that push
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pushers: u16,
    /// Connections of each such thread to each node, at most
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..))]
    push_connections: u16,
    /// Path under which the nodes take pushes (their push.path)
    #[arg(long, value_name = "PATH", default_value = "/")]
    push_path: String,
    /// Sent with each push (their push.token)
    #[arg(long, value_name = "TOKEN")]
    push_token: Option<String>,
    /// Share of pushes to ids that are nowhere, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    unknown: f64,
    /// Size of a message, at least 32
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = units::size)]
    size: usize,
    /// How long to push
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::time)]
    duration: Duration,
    /// Pushes before latency counts
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::time)]
    warmup: Duration,
    /// Let the clients come evenly over this time [default: as fast as they are taken]
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = units::time)]
    ramp: Duration,
    /// How long behind --ramp the last client may come
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::time)]
    patience: Duration,
    /// A connect and its upgrade must take no longer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::time)]
    connect_timeout: Duration,
    /// A client that lost its connection waits from none to twice MIN, doubled with each failure up to MAX
    #[arg(long, value_name = "MIN..MAX", default_value = "500ms..5s", value_parser = back_off)]
    back_off: (Duration, Duration),
    /// How long an answer is waited for
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::time)]
    answer_timeout: Duration,
    /// How long messages are waited for behind the last answer
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = units::time)]
    grace: Duration,
    /// Who was there so long before and behind a push was there all the time
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::time)]
    margin: Duration,
    /// So long behind a mark, a lost connection comes of it
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::time)]
    settle: Duration,
    /// What is done to the nodes stands here, a line for each event
    #[arg(long, value_name = "FILE")]
    mark_file: Option<PathBuf>,
    /// 99 of 100 pushes must be answered, and be with their clients, within this time
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    p99: Option<Duration>,
    /// Dial from so many loopback addresses, 127.0.0.2 and up (each has some 28,000 ports)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..65_536))]
    source_addresses: Option<u32>,
    /// Of the random numbers
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Run on this core only
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    /// Write the result here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No progress bar and no table
    #[arg(long)]
    quiet: bool,
}

fn back_off(text: &str) -> Result<(Duration, Duration), String> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    let (min, max) = (units::time(min)?, units::time(max)?);
    if min > max {
        return Err("the first time must not be the longer one".to_string());
    }
    Ok((min, max))
}

/// Runs clients and pushes, and reports; `false` if something was missed.
///
/// # Errors
/// What kept the run from taking place.
pub fn run(args: &Args) -> io::Result<bool> {
    sys::pin(args.cpu)?;
    let limit = sys::raise_descriptor_limit();
    let plan = Plan::new(args, limit).map_err(io::Error::other)?;
    let (parts, measured) = conduct(&plan, args.quiet)?;
    let report = Report::new(&plan, parts, &measured);
    if let Some(path) = &args.json {
        let mut text = serde_json::to_string_pretty(&report)?;
        text.push('\n');
        std::fs::write(path, text)?;
    }
    if !args.quiet {
        print!("{report}");
    }
    for check in report.checks.iter().filter(|check| !check.met) {
        eprintln!("wsteady-bench: {}: {}", check.what, check.found);
    }
    Ok(report.is_good())
}

/// Runs all threads: what each brought home, and what was measured meanwhile.
fn conduct(plan: &Plan, quiet: bool) -> io::Result<(Vec<Home>, Measured)> {
    // The tool watches itself: a load that takes a core away from what it measures is none.
    let watch = run::Watch {
        pid: Some(std::process::id()),
        quiet,
    };
    let pushing = AtomicUsize::new(plan.pushers);
    let work = |index: usize, shared: &Shared| match index.checked_sub(plan.clients.threads) {
        None => crowd::run(plan, index, shared, &pushing).map(Home::Seen),
        Some(index) => {
            let result = pushes::run(plan, index, shared);
            // However it ended: the clients wait for nobody who is gone.
            pushing.fetch_sub(1, AcqRel);
            if result.is_err() {
                shared.failed.store(true, Release);
            }
            result.map(Home::Sent)
        }
    };
    run::conduct(&plan.shape, watch, work)
}

/// What a thread brings home.
enum Home {
    Seen(Seen),
    Sent(Sent),
}

/// An address to connect or to push to.
pub struct Node {
    target: SocketAddr,
    /// For the Host header.
    host: String,
    /// What stands before a ClientId.
    path: String,
}

/// What is to be done, worked out from the arguments; the same for all threads.
pub struct Plan {
    fronts: Vec<Node>,
    nodes: Vec<Node>,
    /// Clients alone, on their threads.
    clients: Shape,
    /// Clients and pushes.
    shape: Shape,
    pushers: usize,
    connections: usize,
    push_path: String,
    token: Option<String>,
    rate: f64,
    unknown: f64,
    size: usize,
    ramp: Duration,
    patience: Duration,
    connect_timeout: Duration,
    back_off: (Duration, Duration),
    answer_timeout: Duration,
    grace: Duration,
    margin: Duration,
    settle: Duration,
    p99: Option<Duration>,
    mark_file: Option<PathBuf>,
    source_addresses: Option<u32>,
    seed: u64,
    /// What the ids of this run's clients have in common.
    nonce: u64,
}

impl Plan {
    fn new(args: &Args, descriptors: u64) -> Result<Self, String> {
        if args.size < check::LABEL_BYTES {
            return Err(format!("--size must be at least {}", check::LABEL_BYTES));
        }
        if args.rate.is_nan() || args.rate <= 0.0 {
            return Err("--rate must be above 0".to_string());
        }
        if !(0.0..=1.0).contains(&args.unknown) {
            return Err("--unknown must be from 0 to 1".to_string());
        }
        if !(args.push_path.starts_with('/') && args.push_path.ends_with('/')) {
            return Err("--push-path must begin and end with /".to_string());
        }
        let fronts: Vec<Node> = args
            .url
            .iter()
            .map(|url| front(url))
            .collect::<Result<_, _>>()?;
        let loopback = |front: &Node| front.target.is_ipv4() && front.target.ip().is_loopback();
        if args.source_addresses.is_some() && !fronts.iter().all(loopback) {
            return Err("--source-addresses only reach a target on 127.0.0.0/8".to_string());
        }
        // A thread's own descriptors beside its connections are few; 64 leave room for them.
        let threads = run::threads(args.clients, args.threads, 64, descriptors)?;
        let pushers = usize::from(args.pushers);
        let clients = Shape {
            total: args.clients,
            threads,
            warmup: args.warmup,
            duration: Some(args.duration),
            counted: "answers",
            doing: "pushing",
        };
        Ok(Self {
            fronts,
            nodes: args
                .nodes
                .iter()
                .map(|text| node(text))
                .collect::<Result<_, _>>()?,
            shape: Shape {
                threads: threads + pushers,
                ..clients.clone()
            },
            clients,
            pushers,
            connections: args.push_connections.into(),
            push_path: args.push_path.clone(),
            token: args.push_token.clone(),
            rate: args.rate,
            unknown: args.unknown,
            size: args.size,
            ramp: args.ramp,
            patience: args.patience,
            connect_timeout: args.connect_timeout,
            back_off: args.back_off,
            answer_timeout: args.answer_timeout,
            grace: args.grace,
            margin: args.margin,
            settle: args.settle,
            p99: args.p99,
            mark_file: args.mark_file.clone(),
            source_addresses: args.source_addresses,
            seed: args.seed,
            nonce: RandomState::new().build_hasher().finish(),
        })
    }

    fn warmup(&self) -> Duration {
        self.shape.warmup
    }

    /// Where that client connects after so many failures in a row.
    fn front(&self, number: u32, failures: u32) -> &Node {
        &self.fronts[(number as usize + failures as usize) % self.fronts.len()]
    }

    fn path(&self, front: &Node, number: u32) -> String {
        // The query that pushes do not have: a front that hashes it sends them elsewhere.
        format!("{}{}?n={number}", front.path, self.client_id(number))
    }

    /// No other run's, so that nobody is taken for its predecessor.
    fn client_id(&self, number: u32) -> String {
        format!("c{number}-{:016x}", self.nonce)
    }

    /// An id that is nowhere.
    fn nobody(&self, push: u64) -> String {
        format!("n{push}-{:016x}", self.nonce)
    }

    /// The address a client dials from.
    fn source(&self, number: u32) -> Option<Ipv4Addr> {
        let addresses = self.source_addresses?;
        let first = Ipv4Addr::LOCALHOST.to_bits() + 1;
        Some(Ipv4Addr::from_bits(first + number % addresses))
    }
}

fn front(url: &str) -> Result<Node, String> {
    let (target, host, path) = run::parse_url(url, "ws")?;
    if path.contains('?') {
        return Err("--url has no query: each client has one of its own".to_string());
    }
    let slash = if path.ends_with('/') { "" } else { "/" };
    Ok(Node {
        target,
        host,
        path: path + slash,
    })
}

fn node(text: &str) -> Result<Node, String> {
    let found = text.to_socket_addrs();
    let mut found = found.map_err(|error| format!("{text}: {error}"))?;
    let target = found
        .next()
        .ok_or_else(|| format!("{text} has no address"))?;
    Ok(Node {
        target,
        host: text.to_string(),
        path: String::new(),
    })
}

#[cfg(test)]
mod tests;
