//! HTTP clients that check their answers.

mod connection;
mod report;
mod tally;
mod worker;

use crate::check::LABEL_BYTES;
use crate::run::{self, Shape};
use crate::tls::{self, Caller};
use crate::{sys, units};
use report::Report;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tally::Tally;

/// Send HTTP/1.1 requests over kept connections, check every answer, and measure.
///
/// The server is `wsteady-bench api --body SIZE`, or any other with --foreign. Every request names
/// its connection and its number, GET at the end of its query and POST in its body, and the
/// answer's body depends on both: one that is damaged, old or meant for somebody else is noticed
/// and makes the exit status 1.
/// Without --rate, each connection has one request under way (a closed loop). With --rate, latency
/// counts from the moment at which a request was due, and a request waits for a connection that
/// has none under way.
#[derive(clap::Args)]
pub struct Args {
    /// http://host:port/path, or https:// for TLS
    #[arg(long)]
    url: String,
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
    /// Method of the requests
    #[arg(long, default_value = "GET")]
    method: Method,
    /// Size of an answer's body, at least 32; a POST's own body has it, too [default: 64]
    #[arg(long, value_name = "BYTES", value_parser = units::size)]
    size: Option<usize>,
    /// GET the URL as it is, of any server; of an answer, the status is checked, and --size if given
    #[arg(long)]
    foreign: bool,
    /// Requests per second of all connections together
    #[arg(long, value_name = "N", conflicts_with_all = ["closed_loop", "requests"])]
    rate: Option<f64>,
    /// One request under way per connection, the next as soon as it is answered (default)
    #[arg(long)]
    closed_loop: bool,
    /// How long to measure [default: 10s, or until --requests are done]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    duration: Option<Duration>,
    /// Traffic before the measurement begins [default: 1s, none with --requests]
    #[arg(long, value_name = "TIME", value_parser = units::time)]
    warmup: Option<Duration>,
    /// Requests per connection; then it is done
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// A connect must take no longer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::time)]
    connect_timeout: Duration,
    /// How long the last answers are waited for
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::time)]
    grace: Duration,
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
    /// Answers with another status than 200 do not count as a failure of the run
    #[arg(long)]
    allow_statuses: bool,
    /// Connections that end before they have answered do not count as a failure of the run
    #[arg(long)]
    allow_closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
enum Method {
    Get,
    Post,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// Runs the clients and reports; `false` if a check failed.
///
/// # Errors
/// What kept the run from taking place.
pub fn run(args: &Args) -> io::Result<bool> {
    sys::pin(args.cpu)?;
    let limit = sys::raise_descriptor_limit();
    let plan = Plan::new(args, limit).map_err(io::Error::other)?;
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

/// What is to be done, worked out from the arguments; the same for all threads.
#[derive(Clone)]
struct Plan {
    shape: Shape,
    target: SocketAddr,
    /// For the Host header.
    host: String,
    path: String,
    tls: Option<Caller>,
    method: Method,
    /// Of an answer's body; `None` if nobody knows.
    size: Option<usize>,
    foreign: bool,
    rate: Option<f64>,
    /// Per connection; `u64::MAX` for no limit.
    requests: u64,
    connect_timeout: Duration,
    grace: Duration,
}

impl Plan {
    fn new(args: &Args, descriptors: u64) -> Result<Self, String> {
        let tls = args.tls.plan(&args.url, "http")?;
        let (target, host, path) = run::parse_url(&args.url, tls.scheme)?;
        if args.foreign && args.method == Method::Post {
            return Err("--foreign is for GET alone".to_string());
        }
        let size = args.size.or((!args.foreign).then_some(64));
        if !args.foreign && size.is_some_and(|size| size < LABEL_BYTES) {
            return Err(format!("--size must be at least {LABEL_BYTES}"));
        }
        if args.rate.is_some_and(|rate| rate.is_nan() || rate <= 0.0) {
            return Err("--rate must be above 0".to_string());
        }
        let default = args.requests.is_none().then_some(Duration::from_secs(10));
        let warmup = match args.requests {
            Some(_) => Duration::ZERO,
            None => Duration::from_secs(1),
        };
        Ok(Self {
            shape: Shape {
                total: args.connections,
                // A thread's own descriptors beside its connections are few.
                threads: run::threads(args.connections, args.threads, 64, descriptors)?,
                warmup: args.warmup.unwrap_or(warmup),
                duration: args.duration.or(default),
                counted: "answers",
                doing: "measuring",
            },
            target,
            host,
            path,
            tls: tls.tls,
            method: args.method,
            size,
            foreign: args.foreign,
            rate: args.rate,
            requests: args.requests.unwrap_or(u64::MAX),
            connect_timeout: args.connect_timeout,
            grace: args.grace,
        })
    }
}

#[cfg(test)]
mod tests;
