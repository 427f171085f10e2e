//! The program: command line, configuration, run.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use wsteady::control::cli::{self, Command, Run};
use wsteady::control::config::Sources;
use wsteady::control::profile::{files, heap};
use wsteady::control::reload::Reloader;
use wsteady::control::{demo, log, notify, preflight};
use wsteady::net::sys::{self, trace::Watched};
use wsteady::{Handle, Proxy, StartError};

/// Heap profiles need to hear of each block.
#[global_allocator]
static ALLOCATOR: Watched = Watched::new(heap::took, heap::gave);

fn main() -> ExitCode {
    match cli::parse_from(std::env::args_os(), std::env::vars_os()) {
        Ok(Command::Run(run)) => serve(*run),
        Ok(Command::Demo(options)) => demo::run(options),
        Ok(Command::Preflight(options)) => {
            preflight::run(&options, || sys::own_descriptors().is_some())
        }
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
    // Before any loop starts: a signal that comes early must not kill it.
    let signals = match Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]) {
        Ok(signals) => signals,
        Err(error) => return failed(&format!("signals: {error}"), 1),
    };
    let profiles = match run.profiles.start() {
        Ok(profiles) => profiles,
        Err(why) => return failed(&why, 1),
    };
    let proxy = match Proxy::start(run.config) {
        Ok(proxy) => proxy,
        Err(StartError::Config(why)) => return failed(&why, 2),
        Err(StartError::System(why)) => return failed(&why, 1),
    };
    let (handle, reloader) = (proxy.handle(), proxy.reloader());
    notify::ready();
    let heap = profiles.heap_file();
    let hup = reload_on_demand(run.sources, reloader.clone());
    std::thread::spawn(move || obey(signals, &handle, &reloader, &hup, heap.as_deref()));
    proxy.wait();
    profiles.finish();
    ::log::info!("stopped");
    log::flush();
    ExitCode::SUCCESS
}

/// Reads the configuration again whenever the other end is told so. On a thread of its own, since it
/// may wait for name servers; and one, so that what was read last is what holds.
fn reload_on_demand(sources: Sources, reloader: Arc<Reloader>) -> SyncSender<()> {
    let (hup, wishes) = sync_channel(1);
    std::thread::spawn(move || {
        for () in wishes {
            notify::reloading();
            reloader.read_again(&sources);
            notify::ready();
        }
    });
    hup
}

/// TERM drains and stops, INT or a second TERM stops at once, HUP reads the configuration again.
fn obey(
    mut signals: Signals,
    handle: &Handle,
    reloader: &Reloader,
    hup: &SyncSender<()>,
    heap: Option<&Path>,
) {
    let mut told = false;
    for signal in signals.forever() {
        match signal {
            SIGTERM if !told => {
                told = true;
                let drain = reloader.drain();
                notify::stopping(drain);
                handle.drain(drain);
            }
            SIGTERM | SIGINT => handle.stop_now(),
            SIGHUP if told => ::log::warn!("being stopped: the configuration is not read again"),
            // One that waits already will read what stands there then.
            SIGHUP => drop(hup.try_send(())),
            SIGUSR1 => files::on_signal(heap),
            _ => {}
        }
    }
}

fn failed(why: &str, code: u8) -> ExitCode {
    ::log::error!("{why}");
    log::flush();
    ExitCode::from(code)
}
