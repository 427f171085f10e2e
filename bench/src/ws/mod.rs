//! Clients that check what comes back, and the thread that measures meanwhile.

pub mod connection;
pub mod push;
mod report;
pub mod tally;
mod worker;

use crate::link::Link;
use crate::run::{self, Shape};
use crate::tls::{self, Caller};
use crate::units;
use crate::{check, frame, sys};
use mio::net::TcpStream;
use report::Report;
use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tally::Tally;

/// Open WebSocket connections, send messages, check every echo, and measure.
///
/// Every message names its connection and its number, and its body depends on both: a lost,
/// repeated, overtaken, damaged or misdirected echo is noticed and makes the exit status 1.
/// Without --rate, each connection has one message under way (a closed loop). With --rate,
/// latency counts from the moment at which a message was due, so that a stall of the server is
/// seen by all messages that it delayed.
#[derive(clap::Args)]
pub struct Args {
    /// ws://host:port/path, or wss:// for TLS
    #[arg(long)]
    url: String,
    /// Give each connection a ClientId of its own, behind the URL's path: /c0-5f0c…
    #[arg(long)]
    bridge: bool,
    /// Connections, all open at the same time
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Threads; each has its own limit of open descriptors [default: as few as that allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Run on this core only
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    /// Size of a message's payload, at least 32
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = units::size)]
    size: usize,
    /// Send text instead of binary messages
    #[arg(long)]
    text: bool,
    /// Messages per second of all connections together
    #[arg(long, value_name = "N", conflicts_with_all = ["closed_loop", "messages", "idle"])]
    rate: Option<f64>,
    /// One message under way per connection, the next as soon as it is back (default)
    #[arg(long)]
    closed_loop: bool,
    /// How long to measure [default: 10s, or until --messages are done]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    duration: Option<Duration>,
    /// Traffic before the measurement begins [default: 1s, none with --messages]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    warmup: Option<Duration>,
    /// Open the connections evenly over this time [default: as fast as they are taken]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    ramp: Option<Duration>,
    /// Messages per connection; then it is done (or, with --idle, rests)
    #[arg(long, value_name = "N")]
    messages: Option<u64>,
    /// Send --messages (1) on each connection, then rest for the duration
    #[arg(long)]
    idle: bool,
    /// So many connections of a thread send --messages at the same time, then others [default: all]
    #[arg(long, value_name = "N", conflicts_with = "rate",
          value_parser = clap::value_parser!(u32).range(1..))]
    at_once: Option<u32>,
    /// Send a Ping on each connection this often
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    ping_every: Option<Duration>,
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
    /// Process to watch: its processor time and memory are part of the result
    #[arg(long, value_name = "PID")]
    proxy_pid: Option<u32>,
    /// Write the result here, too; every name in it is unique
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No progress bar and no table
    #[arg(long)]
    quiet: bool,
    /// Failed connects do not count as a failure of the run
    #[arg(long)]
    allow_connect_failures: bool,
    /// Lost messages do not count as a failure of the run
    #[arg(long)]
    allow_loss: bool,
    /// Repeated messages do not count as a failure of the run
    #[arg(long)]
    allow_repeats: bool,
    /// Messages out of order do not count as a failure of the run
    #[arg(long)]
    allow_disorder: bool,
    /// Connections that end early do not count as a failure of the run
    #[arg(long)]
    allow_closed: bool,
}

/// Runs the clients and reports; `false` if a check failed.
///
/// # Errors
/// What kept the run from taking place.
pub fn run(args: &Args) -> io::Result<bool> {
    run_with(args, None)
}

/// The same, with messages that are pushed instead of sent.
fn run_with(args: &Args, push: Option<push::How>) -> io::Result<bool> {
    sys::pin(args.cpu)?;
    let limit = sys::raise_descriptor_limit();
    let plan = Plan::new(args, push, limit).map_err(io::Error::other)?;
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

/// Clients of a scenario.
pub struct Clients {
    pub url: String,
    pub bridge: bool,
    pub connections: u32,
    pub threads: Option<u16>,
    pub size: usize,
    pub text: bool,
    pub connect_timeout: Duration,
    pub grace: Duration,
    pub source_addresses: Option<u32>,
    pub tls: tls::ClientArgs,
}

fn check_sources(target: SocketAddr, sources: Option<u32>) -> Result<(), String> {
    if sources.is_some() && !(target.is_ipv4() && target.ip().is_loopback()) {
        return Err("--source-addresses only reach a target on 127.0.0.0/8".to_string());
    }
    Ok(())
}

/// What is to be done, worked out from the arguments; the same for all threads.
#[derive(Clone)]
pub struct Plan {
    pub target: SocketAddr,
    /// For the Host header.
    pub host: String,
    path: String,
    pub tls: Option<Caller>,
    /// What the ids of this run's clients have in common, if each has one.
    nonce: Option<u64>,
    /// Messages go to the proxy over HTTP and come back by WebSocket.
    pub push: Option<push::How>,
    pub shape: Shape,
    pub size: usize,
    pub opcode: u8,
    pub rate: Option<f64>,
    /// Per connection; `u64::MAX` for no limit.
    pub messages: u64,
    pub idle: bool,
    /// Per thread; `u64::MAX` for all.
    pub at_once: u64,
    pub ping_every: Option<Duration>,
    pub connect_timeout: Duration,
    pub grace: Duration,
    ramp: Duration,
    source_addresses: Option<u32>,
}

impl Plan {
    fn new(args: &Args, push: Option<push::How>, descriptors: u64) -> Result<Self, String> {
        let tls = args.tls.plan(&args.url, "ws")?;
        let (target, host, path) = run::parse_url(&args.url, tls.scheme)?;
        if args.size < check::LABEL_BYTES {
            return Err(format!("--size must be at least {}", check::LABEL_BYTES));
        }
        if args.rate.is_some_and(|rate| rate.is_nan() || rate <= 0.0) {
            return Err("--rate must be above 0".to_string());
        }
        check_sources(target, args.source_addresses)?;
        if args.at_once.is_some() && args.messages.is_none() && !args.idle {
            return Err("--at-once needs --messages or --idle".to_string());
        }
        let pushers = push.as_ref().map_or(0, |push| push.connections as u64);
        // A thread's own descriptors beside its connections are few; 64 leave room for them.
        let threads = run::threads(args.connections, args.threads, 64 + pushers, descriptors)?;
        let limited = args.messages.is_some() && !args.idle;
        let default = (!limited).then_some(Duration::from_secs(10));
        let warmup = if limited {
            Duration::ZERO
        } else {
            Duration::from_secs(1)
        };
        Ok(Self {
            target,
            host,
            path,
            tls: tls.tls,
            nonce: (args.bridge || push.is_some()).then(nonce),
            push,
            shape: Shape {
                total: args.connections,
                threads,
                warmup: args.warmup.unwrap_or(warmup),
                duration: args.duration.or(default),
                counted: "echoes",
                doing: if args.idle { "resting" } else { "measuring" },
            },
            size: args.size,
            opcode: if args.text {
                frame::TEXT
            } else {
                frame::BINARY
            },
            rate: args.rate,
            messages: args
                .messages
                .unwrap_or(if args.idle { 1 } else { u64::MAX }),
            idle: args.idle,
            at_once: args.at_once.map_or(u64::MAX, u64::from),
            ping_every: args.ping_every.filter(|interval| !interval.is_zero()),
            connect_timeout: args.connect_timeout,
            grace: args.grace,
            ramp: args.ramp.unwrap_or_default(),
            source_addresses: args.source_addresses,
        })
    }

    /// The plan of clients that send by a schedule of somebody else's.
    ///
    /// # Errors
    /// The URL is none, or there are too few threads.
    pub fn of(clients: &Clients, descriptors: u64) -> Result<Self, String> {
        let tls = clients.tls.plan(&clients.url, "ws")?;
        let (target, host, path) = run::parse_url(&clients.url, tls.scheme)?;
        check_sources(target, clients.source_addresses)?;
        let threads = run::threads(clients.connections, clients.threads, 64, descriptors)?;
        Ok(Self {
            target,
            host,
            path,
            tls: tls.tls,
            nonce: clients.bridge.then(nonce),
            push: None,
            shape: Shape {
                total: clients.connections,
                threads,
                warmup: Duration::ZERO,
                duration: None,
                counted: "echoes",
                doing: "running",
            },
            size: clients.size,
            opcode: if clients.text {
                frame::TEXT
            } else {
                frame::BINARY
            },
            rate: None,
            messages: u64::MAX,
            idle: false,
            at_once: u64::MAX,
            ping_every: None,
            connect_timeout: clients.connect_timeout,
            grace: clients.grace,
            ramp: Duration::ZERO,
            source_addresses: clients.source_addresses,
        })
    }

    /// What a connection asks for: the URL's path, with its own id if it is bridged.
    pub fn path(&self, number: u32) -> Cow<'_, str> {
        if self.nonce.is_none() {
            return Cow::Borrowed(&self.path);
        }
        let split = self.path.find('?').unwrap_or(self.path.len());
        let (path, query) = self.path.split_at(split);
        let slash = if path.ends_with('/') { "" } else { "/" };
        format!("{path}{slash}{}{query}", self.client_id(number)).into()
    }

    /// A bridged client's name: no other run's, so that nobody is taken for its predecessor.
    pub fn client_id(&self, number: u32) -> String {
        format!("c{number}-{:016x}", self.nonce.unwrap_or_default())
    }

    /// A socket with what is to be on it.
    ///
    /// # Errors
    /// A TLS session could not be made.
    pub fn link(&self, socket: TcpStream) -> io::Result<Link> {
        Link::with(socket, self.tls.as_ref().map(Caller::session))
    }

    /// When that connection is to be dialled.
    pub fn opening(&self, local: usize, index: usize) -> u64 {
        let number = u128::from(self.shape.number(local, index));
        (self.ramp.as_nanos() * number / u128::from(self.shape.total)) as u64
    }

    /// The address it is dialled from.
    pub fn source(&self, number: u32) -> Option<Ipv4Addr> {
        let addresses = self.source_addresses?;
        Some(Ipv4Addr::from_bits(
            Ipv4Addr::LOCALHOST.to_bits() + 1 + number % addresses,
        ))
    }
}

/// A number nobody else has, from the standard library's random seeds.
fn nonce() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod bridge_tests;
#[cfg(test)]
mod tests;
