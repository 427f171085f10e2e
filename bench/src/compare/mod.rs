//! One scenario against several proxies, in turns.

mod proxies;

use crate::scenario::result::{Memory, Record};
use crate::units::{bytes, latency};
use crate::{scenario, tls};
use proxies::{Proxy, Running, Stage};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Run a scenario against the proxies that are installed, in turns, and print medians and ratios.
///
/// Two echo servers stand behind each proxy, which is alone on its core; `server` is the first, for
/// failovers. Everything is started anew for each run. Ratios are made within a turn.
#[derive(clap::Args)]
pub struct Args {
    /// The scenario's file
    #[arg(value_name = "SCENARIO")]
    scenario: PathBuf,
    /// Which [default: those that are installed]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    proxies: Vec<Proxy>,
    /// The proxy of this project: a path, or a name in PATH
    #[arg(long, value_name = "FILE", default_value = "target/release/wsteady")]
    wsteady: PathBuf,
    /// Clients speak TLS with the proxies, as in a scenario with `tls: true`; servers do not
    #[arg(long)]
    tls: bool,
    /// Turns; medians are printed
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Instead of the file's number; shares follow
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connections: Option<u32>,
    /// Core of the proxy [default: the last one, if there are several]
    #[arg(long, value_name = "N")]
    proxy_core: Option<usize>,
    /// Core of clients and servers [default: the first one, if there are several]
    #[arg(long, value_name = "N")]
    load_core: Option<usize>,
    /// Directory for each run's result, which `report` can read
    #[arg(long, value_name = "DIR", default_value = "wsteady-bench-compare")]
    out: PathBuf,
}

/// Runs all turns and prints; `false` if a proxy could not be played against.
///
/// # Errors
/// A proxy or a server does not start.
pub fn run(args: &Args) -> io::Result<bool> {
    let bench = std::env::current_exe()?;
    let all = [Proxy::Wsteady, Proxy::Nginx, Proxy::Haproxy, Proxy::Relay];
    let installed = |proxy: &Proxy| proxy.program(&args.wsteady, &bench).is_some();
    let spoken = scenario::speaks_tls(&args.scenario).map_err(io::Error::other)?;
    let sealed = args.tls || spoken;
    let proxies: Vec<_> = if args.proxies.is_empty() {
        let fit = |proxy: &Proxy| installed(proxy) && (!sealed || proxy.has_tls());
        all.into_iter().filter(fit).collect()
    } else {
        args.proxies.clone()
    };
    if let Some(missing) = proxies.iter().find(|proxy| !installed(proxy)) {
        let what = format!("{} is not here; install or build it", missing.name());
        return Err(io::Error::other(what));
    }
    if let Some(proxy) = proxies.iter().find(|proxy| sealed && !proxy.has_tls()) {
        let what = format!("{} speaks no TLS", proxy.name());
        return Err(io::Error::other(what));
    }
    std::fs::create_dir_all(&args.out)?;
    // nginx takes relative paths for its own prefix's.
    let work = args.out.canonicalize()?;
    let pair = sealed.then(|| tls::Pair::write(&work)).transpose()?;
    let place = Place {
        bench: &bench,
        work: &work,
        pair: pair.as_ref(),
    };
    let mut results: Vec<Vec<Record>> = proxies.iter().map(|_| Vec::new()).collect();
    for turn in 1..=args.runs {
        for (proxy, records) in proxies.iter().zip(&mut results) {
            let record = play(*proxy, turn, args, &place)?;
            let p99 = latency((record.totals.latency.p99_us * 1e3) as u64);
            eprintln!("turn {turn}, {}: p99 {p99}", proxy.name());
            records.push(record);
        }
    }
    print!("{}", table(&proxies, &results));
    println!("results of each run are in {}", args.out.display());
    Ok(true)
}

/// What all runs have in common.
struct Place<'a> {
    bench: &'a Path,
    work: &'a Path,
    pair: Option<&'a tls::Pair>,
}

/// One run: new servers, a new proxy, the scenario.
fn play(proxy: Proxy, turn: u32, args: &Args, place: &Place) -> io::Result<Record> {
    let Place { bench, work, pair } = *place;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let several = cores > 1;
    let load_core = args.load_core.or(several.then_some(0));
    let first = Running::echo(bench, load_core)?;
    let second = Running::echo(bench, load_core)?;
    let stage = Stage {
        wsteady: &args.wsteady,
        bench,
        work,
        core: args.proxy_core.or(several.then_some(cores - 1)),
        servers: [first.address, second.address],
        pair,
    };
    let running = proxy.start(&stage)?;
    let out = work.join(format!("{}-{turn}", proxy.name()));
    let mut command = Command::new(bench);
    command.arg("run").arg(&args.scenario).arg("--quiet");
    let scheme = if pair.is_some() { "wss" } else { "ws" };
    command.args(["--url", &format!("{scheme}://{}/", running.address)]);
    command.args(["--process", &format!("proxy={}", running.pid)]);
    command.args(["--process", &format!("server={}", first.pid)]);
    command.arg("--out").arg(&out);
    if let Some(connections) = args.connections {
        command.args(["--connections", &connections.to_string()]);
    }
    if let Some(core) = load_core {
        command.args(["--cpu", &core.to_string()]);
    }
    if let Some(metrics) = running.metrics {
        command.args(["--metrics", &format!("http://{metrics}/metrics")]);
    }
    // Checks that are not met are part of the comparison; a run that did not take place is not.
    let status = command.status()?;
    if !matches!(status.code(), Some(0 | 1)) {
        let what = format!("{}, turn {turn}: the run ended with {status}", proxy.name());
        return Err(io::Error::other(what));
    }
    Record::read(&out).map_err(io::Error::other)
}

/// A number that is compared, and how it is shown.
struct Measure {
    name: &'static str,
    of: fn(&Record) -> Option<f64>,
    shown: fn(f64) -> String,
}

const MEASURES: [Measure; 8] = [
    Measure {
        name: "latency p50",
        of: |record| Some(record.totals.latency.p50_us),
        shown: micros,
    },
    Measure {
        name: "latency p99",
        of: |record| Some(record.totals.latency.p99_us),
        shown: micros,
    },
    Measure {
        name: "latency max",
        of: |record| Some(record.totals.latency.max_us),
        shown: micros,
    },
    Measure {
        name: "connect p99",
        of: |record| Some(record.totals.connect.p99_us),
        shown: micros,
    },
    Measure {
        name: "CPU s per million echoes",
        of: Record::cpu_per_million,
        shown: |value| format!("{value:.1}"),
    },
    Measure {
        name: "memory per connection",
        of: |record| record.memory.as_ref().map(Memory::per_connection),
        shown: bytes,
    },
    Measure {
        name: "connections ended early",
        of: |record| Some(record.totals.closed_early as f64),
        shown: |value| format!("{value:.0}"),
    },
    Measure {
        name: "messages lost",
        of: |record| Some(record.totals.lost as f64),
        shown: |value| format!("{value:.0}"),
    },
];

fn micros(value: f64) -> String {
    latency((value * 1e3) as u64)
}

/// Medians, and behind them the median of the ratios to the first proxy.
fn table(proxies: &[Proxy], results: &[Vec<Record>]) -> String {
    let mut out = format!("{:26}", "median (x the first)");
    for proxy in proxies {
        out.push_str(&format!("{:>22}", proxy.name()));
    }
    out.push('\n');
    for measure in &MEASURES {
        out.push_str(&format!("{:26}", measure.name));
        for records in results {
            let values: Vec<_> = records.iter().map(measure.of).collect();
            let base: Vec<_> = results[0].iter().map(measure.of).collect();
            out.push_str(&format!("{:>22}", cell(measure, &values, &base)));
        }
        out.push('\n');
    }
    out
}

fn cell(measure: &Measure, values: &[Option<f64>], base: &[Option<f64>]) -> String {
    let Some(middle) = median(values.iter().flatten().copied().collect()) else {
        return "-".to_string();
    };
    let ratios = values.iter().zip(base).filter_map(|(value, base)| {
        let base = base.filter(|base| *base > 0.0)?;
        Some((*value)? / base)
    });
    let shown = (measure.shown)(middle);
    match median(ratios.collect()) {
        Some(ratio) => format!("{shown} (x {ratio:.2})"),
        None => shown,
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        even if even % 2 == 0 => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_made_within_a_turn() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        let measure = &MEASURES[4];
        let base = [Some(1.0), Some(10.0), Some(2.0)];
        let values = [Some(2.0), Some(20.0), Some(6.0)];
        assert_eq!(cell(measure, &values, &base), "6.0 (x 2.00)");
        assert_eq!(cell(measure, &[None, None, None], &base), "-");
        assert_eq!(cell(measure, &values, &[Some(0.0), None, None]), "6.0");
    }
}
