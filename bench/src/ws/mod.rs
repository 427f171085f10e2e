//! Clients that check what comes back, and the thread that measures meanwhile.

mod check;
mod connection;
pub mod push;
mod report;
mod tally;
mod worker;

use crate::frame;
use crate::process::{self, Sample};
use crate::sys;
use crate::units::{self, nanos};
use indicatif::{ProgressBar, ProgressStyle};
use report::{Measured, Report};
use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};
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
    /// ws://host:port/path
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
    // The first sample comes before the first connect.
    let before = args.proxy_pid.map(Sample::read).transpose()?;
    let shared = Shared::new(plan.threads);
    let (sums, measured) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads)
            .map(|index| {
                let (plan, shared) = (&plan, &shared);
                scope.spawn(move || {
                    let tally = worker::run(plan, index, shared);
                    // However it ended: nobody waits for a thread that is gone.
                    shared.gone.fetch_add(1, Release);
                    tally
                })
            })
            .collect();
        let measured = measure(&plan, &shared, before, args);
        shared.failed.store(measured.is_err(), Release);
        shared.close.store(true, Release);
        let mut sums = Tally::new();
        for thread in threads {
            sums.add(
                &thread
                    .join()
                    .map_err(|_| io::Error::other("a thread died"))??,
            );
        }
        Ok::<_, io::Error>((sums, measured?))
    })?;
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

/// Samples the process and the counters at the window's edges while the workers work.
fn measure(
    plan: &Plan,
    shared: &Shared,
    before: Option<Sample>,
    args: &Args,
) -> io::Result<Measured> {
    let bar = Bar::new(args.quiet);
    let sample = || args.proxy_pid.map(Sample::read).transpose();
    let mut measured = Measured {
        before,
        ..Measured::default()
    };
    let opening = Instant::now();
    while shared.sum(|one| &one.opened) + shared.sum(|one| &one.failed) < plan.total.into() {
        bar.opening(shared, plan);
        shared.check()?;
        std::thread::sleep(Duration::from_millis(1));
    }
    measured.connect_seconds = opening.elapsed().as_secs_f64();
    let start = shared.clock.now();
    shared.start.store(start, Release);
    let (from, until) = plan.window(start);
    let over = |now| now >= until || shared.draining.load(Relaxed) == plan.threads;
    bar.wait(shared, plan, start, |now| now >= from || over(now))?;
    // Processor time is read on its own: to walk a process's memory disturbs it.
    let cpu = || args.proxy_pid.map(process::cpu).transpose();
    let (cpu_from, echoes_from, time_from) = (cpu()?, shared.echoes(), shared.clock.now());
    bar.wait(shared, plan, start, over)?;
    let (cpu_until, echoes_until, time_until) = (cpu()?, shared.echoes(), shared.clock.now());
    measured.steady = sample()?;
    measured.steady_connections = shared
        .sum(|one| &one.opened)
        .saturating_sub(shared.sum(|one| &one.closed));
    measured.window_seconds = (time_until - time_from) as f64 / 1e9;
    measured.window_echoes = echoes_until - echoes_from;
    measured.cpu = cpu_from
        .zip(cpu_until)
        .map(|(from, until)| (until.0 - from.0, until.1 - from.1));
    shared.close.store(true, Release);
    while shared.gone.load(Relaxed) < plan.threads {
        std::thread::sleep(Duration::from_millis(1));
    }
    measured.after = sample()?;
    Ok(measured)
}

/// What is to be done, worked out from the arguments; the same for all threads.
#[derive(Clone)]
pub struct Plan {
    pub target: SocketAddr,
    /// For the Host header.
    pub host: String,
    path: String,
    /// What the ids of this run's clients have in common, if each has one.
    nonce: Option<u64>,
    /// Messages go to the proxy over HTTP and come back by WebSocket.
    pub push: Option<push::How>,
    pub total: u32,
    pub threads: usize,
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
    warmup: Duration,
    duration: Option<Duration>,
    source_addresses: Option<u32>,
}

impl Plan {
    fn new(args: &Args, push: Option<push::How>, descriptors: u64) -> Result<Self, String> {
        let (target, host, path) = parse_url(&args.url)?;
        if args.size < check::LABEL_BYTES {
            return Err(format!("--size must be at least {}", check::LABEL_BYTES));
        }
        if args.rate.is_some_and(|rate| rate.is_nan() || rate <= 0.0) {
            return Err("--rate must be above 0".to_string());
        }
        if args.source_addresses.is_some() && !(target.is_ipv4() && target.ip().is_loopback()) {
            return Err("--source-addresses only reach a target on 127.0.0.0/8".to_string());
        }
        if args.at_once.is_some() && args.messages.is_none() && !args.idle {
            return Err("--at-once needs --messages or --idle".to_string());
        }
        let pushers = push.as_ref().map_or(0, |push| push.connections as u64);
        // A thread's own descriptors beside its connections are few; 64 leave room for them.
        let room = descriptors.saturating_sub(64 + pushers).max(1);
        let needed = u64::from(args.connections).div_ceil(room);
        let threads = args.threads.map_or(needed, u64::from);
        if threads < needed {
            let limit = format!("{descriptors} descriptors per thread");
            return Err(format!("{limit}: --threads must be at least {needed}"));
        }
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
            nonce: (args.bridge || push.is_some()).then(nonce),
            push,
            total: args.connections,
            threads: (threads as usize).min(args.connections as usize),
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
            warmup: args.warmup.unwrap_or(warmup),
            duration: args.duration.or(default),
            source_addresses: args.source_addresses,
        })
    }

    /// Connections of thread `index`.
    pub fn share(&self, index: usize) -> usize {
        let total = self.total as usize;
        total / self.threads + usize::from(index < total % self.threads)
    }

    /// The number, among all, of a thread's own `local`-th connection.
    pub fn number(&self, local: usize, index: usize) -> u32 {
        (local * self.threads + index) as u32
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

    /// When that connection is to be dialled.
    pub fn opening(&self, local: usize, index: usize) -> u64 {
        let number = u128::from(self.number(local, index));
        (self.ramp.as_nanos() * number / u128::from(self.total)) as u64
    }

    /// The address it is dialled from.
    pub fn source(&self, number: u32) -> Option<Ipv4Addr> {
        let addresses = self.source_addresses?;
        Some(Ipv4Addr::from_bits(
            Ipv4Addr::LOCALHOST.to_bits() + 1 + number % addresses,
        ))
    }

    /// From when to when messages are measured, if they began to flow at `start`.
    pub fn window(&self, start: u64) -> (u64, u64) {
        let from = start.saturating_add(nanos(self.warmup));
        (
            from,
            self.duration
                .map_or(u64::MAX, |time| from.saturating_add(nanos(time))),
        )
    }
}

/// A number nobody else has, from the standard library's random seeds.
fn nonce() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The target, the Host header and the path of `ws://host:port/path`.
fn parse_url(url: &str) -> Result<(SocketAddr, String, String), String> {
    let rest = url
        .strip_prefix("ws://")
        .ok_or("--url must begin with ws://")?;
    let split = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(split);
    let path = if path.starts_with('/') {
        path.to_string()
    } else {
        format!("/{path}")
    };
    if path
        .bytes()
        .chain(host.bytes())
        .any(|byte| byte <= b' ' || byte == b'#' || byte >= 0x7f)
    {
        return Err("--url has a character that must be percent-encoded".to_string());
    }
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port {
        host.to_string()
    } else {
        format!("{host}:80")
    };
    let mut found = address
        .to_socket_addrs()
        .map_err(|error| format!("{address}: {error}"))?;
    let target = found
        .next()
        .ok_or_else(|| format!("{address} has no address"))?;
    Ok((target, host.to_string(), path))
}

/// Time since the run began, the same for all threads.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Nanoseconds.
    pub fn now(&self) -> u64 {
        nanos(self.0.elapsed())
    }
}

/// The few words that threads share.
pub struct Shared {
    pub clock: Clock,
    /// When messages may flow; 0 until then.
    pub start: AtomicU64,
    /// Threads whose traffic is over.
    pub draining: AtomicUsize,
    /// The last sample is taken: connections may be closed.
    pub close: AtomicBool,
    /// The run cannot be finished: whatever a thread is doing, it ends.
    pub failed: AtomicBool,
    gone: AtomicUsize,
    pub progress: Vec<Progress>,
}

/// One thread's counters, written by it alone. A cache line each.
#[derive(Default)]
#[repr(align(64))]
pub struct Progress {
    pub opened: AtomicU64,
    pub failed: AtomicU64,
    pub closed: AtomicU64,
    pub echoes: AtomicU64,
}

impl Shared {
    fn new(threads: usize) -> Self {
        Self {
            clock: Clock(Instant::now()),
            start: AtomicU64::new(0),
            draining: AtomicUsize::new(0),
            close: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            gone: AtomicUsize::new(0),
            progress: (0..threads).map(|_| Progress::default()).collect(),
        }
    }

    fn sum(&self, counter: impl Fn(&Progress) -> &AtomicU64) -> u64 {
        self.progress
            .iter()
            .map(|one| counter(one).load(Relaxed))
            .sum()
    }

    fn echoes(&self) -> u64 {
        self.sum(|one| &one.echoes)
    }

    /// A thread that is gone before the end has failed; its error comes with the join.
    fn check(&self) -> io::Result<()> {
        if self.gone.load(Relaxed) > 0 {
            return Err(io::Error::other("a thread ended early"));
        }
        Ok(())
    }
}

/// Progress on a terminal; nothing anywhere else.
struct Bar(ProgressBar);

impl Bar {
    fn new(quiet: bool) -> Self {
        let bar = if quiet {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(0)
        };
        let style = ProgressStyle::with_template("{prefix:10} [{bar:40}] {msg}");
        bar.set_style(style.expect("a constant template").progress_chars("=> "));
        Self(bar)
    }

    fn opening(&self, shared: &Shared, plan: &Plan) {
        let (opened, failed) = (shared.sum(|one| &one.opened), shared.sum(|one| &one.failed));
        self.0.set_prefix("connecting");
        self.0.set_length(plan.total.into());
        self.0.set_position(opened + failed);
        self.0
            .set_message(format!("{} open, {failed} failed", units::grouped(opened)));
    }

    /// Waits for `over`, looking often enough to meet the window's edge within a millisecond.
    fn wait(
        &self,
        shared: &Shared,
        plan: &Plan,
        start: u64,
        over: impl Fn(u64) -> bool,
    ) -> io::Result<()> {
        let (_, until) = plan.window(start);
        let (mut seen, mut since) = (shared.echoes(), shared.clock.now());
        while !over(shared.clock.now()) {
            shared.check()?;
            let now = shared.clock.now();
            if now - since >= 200_000_000 {
                let echoes = shared.echoes();
                let rate = (echoes - seen) as f64 * 1e9 / (now - since) as f64;
                self.0
                    .set_prefix(if plan.idle { "resting" } else { "measuring" });
                self.0.set_length(until.saturating_sub(start) / 1_000_000);
                self.0.set_position((now - start) / 1_000_000);
                self.0
                    .set_message(format!("{} echoes/s", units::grouped(rate as u64)));
                (seen, since) = (echoes, now);
            }
            let left = until.saturating_sub(now).max(100_000);
            std::thread::sleep(Duration::from_nanos(left).min(Duration::from_millis(5)));
        }
        Ok(())
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod bridge_tests;
#[cfg(test)]
mod tests;
