//! Measures WebSocket and HTTP proxies: `relay` is the floor they are compared with, `echo` the server
//! behind them, `ws` the clients in front of them, which check every byte that comes back. `api`
//! and `push` are the two sides that a bridge has beside its clients, and `http` are the clients of
//! plain requests.
#![deny(unsafe_code)]

mod accept;
mod api;
mod check;
mod cluster;
mod compare;
mod echo;
mod frame;
mod handshakes;
mod http;
mod link;
mod mirror;
mod process;
mod reasons;
mod relay;
mod report;
mod requests;
mod run;
mod scenario;
mod sys;
mod threads;
mod timer;
mod tls;
mod units;
mod upgrade;
mod utf8;
mod ws;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Relay(args) => relay::run(&args).map(|()| true),
        Command::Echo(args) => echo::run(&args).map(|()| true),
        Command::Api(args) => api::run(&args).map(|()| true),
        Command::Ws(args) => ws::run(&args),
        Command::Http(args) => requests::run(&args),
        Command::Handshakes(args) => handshakes::run(&args),
        Command::Push(args) => ws::push::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Run(args) => scenario::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Report(args) => report::run(&args).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("wsteady-bench: {error}");
            ExitCode::from(2)
        }
    }
}

/// Load and measurement for WebSocket and HTTP proxies.
///
/// A comparison has three processes: `wsteady-bench echo` is the server, a proxy (or
/// `wsteady-bench relay`, the cheapest one there can be) stands in front of it, and
/// `wsteady-bench ws` is any number of clients. `scripts/bench-proxy` runs them for several
/// proxies in turns and writes a report. For a bridge from WebSocket to HTTP, `wsteady-bench api`
/// is the server, `ws --bridge` are the clients, `push` sends to them from the other side, and
/// `scripts/bench-bridge` compares. For HTTP, `wsteady-bench http` are the clients of `wsteady-bench
/// api --body SIZE`, through a proxy or not; the same script compares those. `handshakes` are clients that
/// come and go; `scripts/bench-tls` compares proxies with TLS. `cluster` pushes to clients of
/// several nodes; `scripts/cluster` kills one of them meanwhile. `run` plays a scenario
/// from a file, `report` makes a page of what it found, and `compare` plays it against several proxies.
#[derive(Parser)]
#[command(name = "wsteady-bench", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Relay(relay::Args),
    Echo(echo::Args),
    Api(api::Args),
    Ws(Box<ws::Args>),
    Http(Box<requests::Args>),
    Handshakes(Box<handshakes::Args>),
    Push(Box<ws::push::Args>),
    Cluster(Box<cluster::Args>),
    Run(Box<scenario::Args>),
    Report(report::Args),
    Compare(compare::Args),
}
