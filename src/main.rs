//! The program: command line, configuration, run.

use std::process::ExitCode;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use wsteady::control::cli::{self, Command, Run};
use wsteady::control::{demo, log, notify, preflight};
use wsteady::net::sys;
use wsteady::{Proxy, StartError};

fn main() -> ExitCode {
    match cli::parse_from(std::env::args_os(), std::env::vars_os()) {
        Ok(Command::Run(run)) => serve(*run),
        Ok(Command::Demo(options)) => demo::run(options),
        Ok(Command::Preflight(options)) => preflight::run(&options, sys::own_descriptors),
        Ok(Command::Check { text, warnings, .. }) => {
            for warning in &warnings {
                eprintln!("warning: {warning}");
            }
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(exit) => exit.report(),
    }
}

fn serve(run: Run) -> ExitCode {
    if let Err(error) = log::init(run.config.log.level, run.config.log.format) {
        eprintln!("wsteady: {error}");
        return ExitCode::from(1);
    }
    for warning in &run.warnings {
        ::log::warn!("{warning}");
    }
    let drain = run.config.drain;
    // Before any loop starts: a signal that comes early must not kill it.
    let signals = match Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]) {
        Ok(signals) => signals,
        Err(error) => return failed(&format!("signals: {error}"), 1),
    };
    let proxy = match Proxy::start(run.config) {
        Ok(proxy) => proxy,
        Err(StartError::Config(why)) => return failed(&why, 2),
        Err(StartError::System(why)) => return failed(&why, 1),
    };
    let stopper = proxy.stopper();
    notify::ready();
    std::thread::spawn(move || obey(signals, drain, &stopper));
    proxy.wait();
    ::log::info!("stopped");
    log::flush();
    ExitCode::SUCCESS
}

/// TERM drains and stops, INT or a second TERM stops at once.
fn obey(mut signals: Signals, drain: Duration, stopper: &wsteady::Stopper) {
    let mut told = false;
    for signal in signals.forever() {
        match signal {
            SIGTERM if !told => {
                told = true;
                notify::stopping(drain);
                stopper.drain(drain);
            }
            SIGTERM | SIGINT => stopper.stop_now(),
            SIGHUP => ::log::warn!("reading the configuration again is not supported yet"),
            SIGUSR1 => ::log::warn!("a heap profile is not supported yet"),
            _ => {}
        }
    }
}

fn failed(why: &str, code: u8) -> ExitCode {
    ::log::error!("{why}");
    log::flush();
    ExitCode::from(code)
}
