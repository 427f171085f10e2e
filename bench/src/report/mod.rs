//! Results as one HTML page that needs nothing but itself.

mod plot;

use crate::scenario::result::{Line, Record};
use crate::scenario::watch::{Sight, Usage};
use crate::units::{bytes, grouped};
use plot::{Curve, Plot, Unit, escape, put, svg};
use std::io;
use std::path::PathBuf;

/// Make one HTML page with plots of what `run` found.
///
/// Connections, messages, latency, memory and processor time over time, the totals, the checks,
/// and where and how it was measured. The page loads nothing.
#[derive(clap::Args)]
pub struct Args {
    /// Directories that `run` wrote, or their result.json
    #[arg(value_name = "RESULT", required = true)]
    results: Vec<PathBuf>,
    /// The page
    #[arg(long, short, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
}

/// Writes the page.
///
/// # Errors
/// A result cannot be read, the page not written.
pub fn run(args: &Args) -> io::Result<()> {
    let records = args.results.iter().map(|path| Record::read(path));
    let records: Result<Vec<_>, _> = records.collect();
    std::fs::write(&args.out, page(&records.map_err(io::Error::other)?))?;
    println!("written to {}", args.out.display());
    Ok(())
}

/// The page.
pub fn page(records: &[Record]) -> String {
    let names: Vec<_> = records.iter().map(|one| one.scenario.as_str()).collect();
    let title = escape(&names.join(", "));
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>wsteady-bench: {title}</title>\n<style>{STYLE}</style></head><body>\n"
    );
    for record in records {
        section(&mut out, record);
    }
    out.push_str("</body></html>\n");
    out
}

fn section(out: &mut String, record: &Record) {
    let verdict = if record.is_good() {
        "all checks met"
    } else {
        "checks failed"
    };
    put(
        out,
        format_args!(
            "<h1>{} <small>{verdict}</small></h1>\n",
            escape(&record.scenario)
        ),
    );
    machine(out, record);
    checks(out, record);
    totals(out, record);
    for plot in plots(record) {
        out.push_str(&svg(&plot));
    }
}

fn machine(out: &mut String, record: &Record) {
    let machine = &record.machine;
    let rows = [
        ("date", record.date.clone()),
        (
            "machine",
            format!(
                "{} x {}, {}, Linux {}",
                machine.cores,
                machine.model,
                bytes(machine.memory_bytes as f64),
                machine.kernel
            ),
        ),
        ("command", record.command.clone()),
        (
            "load",
            format!(
                "{} connections on {} threads to {}, messages of {} bytes",
                grouped(record.connections.into()),
                record.threads,
                record.url,
                grouped(record.message_bytes as u64)
            ),
        ),
    ];
    table(
        out,
        &["", ""],
        rows.map(|(name, value)| vec![name.to_string(), value]),
    );
}

fn checks(out: &mut String, record: &Record) {
    let rows = record.checks.iter().map(|check| {
        let met = if check.met { "yes" } else { "NO" };
        let (what, found, wanted) = (&check.what, &check.found, &check.wanted);
        vec![what.clone(), found.clone(), wanted.clone(), met.to_string()]
    });
    table(out, &["check", "found", "wanted", "met"], rows);
    if !record.reasons.is_empty() {
        let reasons = record.reasons.iter();
        let rows = reasons.map(|(reason, count)| vec![reason.clone(), grouped(*count)]);
        table(out, &["what connections met", "times"], rows);
    }
}

fn totals(out: &mut String, record: &Record) {
    let totals = &record.totals;
    let mut rows = vec![
        ("connections opened", grouped(totals.opened)),
        ("messages sent", grouped(totals.sent)),
        ("echoes", grouped(totals.echoes)),
        (
            "under way when their connection left",
            grouped(totals.abandoned),
        ),
        ("latency", totals.latency.to_string()),
        ("connect and upgrade", totals.connect.to_string()),
        (
            "the client's own delay, part of latency",
            totals.lateness.to_string(),
        ),
    ];
    if let Some(cpu) = totals.proxy_cpu_seconds {
        rows.push(("processor time of the proxy", format!("{cpu:.2} s")));
    }
    if let Some(each) = record.cpu_per_million() {
        rows.push(("per million echoes", format!("{each:.1} s")));
    }
    if let Some(memory) = &record.memory {
        rows.push((
            "memory of the proxy per connection",
            bytes(memory.per_connection()),
        ));
        rows.push((
            "request heads kept, not in it",
            bytes(memory.kept_bytes as f64),
        ));
        rows.push((
            "journals and queues, in it",
            bytes(memory.buffer_bytes as f64),
        ));
    }
    if let Some(peak) = &record.peak {
        rows.push((
            "memory of the proxy in user space, at most",
            bytes(peak.proxy_bytes as f64),
        ));
        rows.push((
            "the same while all clients leave at once",
            bytes(peak.leaving_bytes as f64),
        ));
        rows.push((
            "of the kernel for all processes, at most",
            bytes(peak.kernel_bytes as f64),
        ));
    }
    let rows = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_string(), value]);
    table(out, &["total", ""], rows);
    let phases = record.phases.iter().map(|phase| {
        let (from, until) = (phase.from_seconds, phase.until_seconds);
        let time = format!("{from:.0} s to {until:.0} s");
        let count = grouped(phase.latency.count);
        vec![phase.name.clone(), time, count, phase.latency.to_string()]
    });
    table(out, &["phase", "time", "echoes", "latency"], phases);
}

fn table(out: &mut String, heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    out.push_str("<table>");
    if heads.iter().any(|head| !head.is_empty()) {
        out.push_str("<tr>");
        for head in heads {
            put(out, format_args!("<th>{head}</th>"));
        }
        out.push_str("</tr>\n");
    }
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            put(out, format_args!("<td>{}</td>", escape(&cell)));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n");
}

fn plots(record: &Record) -> Vec<Plot<'_>> {
    let curve = |name, value: &dyn Fn(&Line) -> Option<f64>| Curve {
        name,
        values: record.series.iter().map(value).collect(),
    };
    let count = |name, value: fn(&Line) -> u64| curve(name, &|line| Some(value(line) as f64));
    let quantile = |name, value: fn(&Line) -> f64| {
        curve(name, &|line| (line.latency.count > 0).then(|| value(line)))
    };
    let phases = record.phases.iter();
    let phases: Vec<_> = phases
        .map(|phase| (phase.name.as_str(), phase.from_seconds, phase.until_seconds))
        .collect();
    let plot = |title, unit, lines, logarithmic| Plot {
        title,
        unit,
        lines,
        phases: phases.clone(),
        logarithmic,
    };
    let mut plots = vec![
        plot(
            "Connections",
            Unit::Count,
            vec![count("open", |line| line.connections)],
            false,
        ),
        plot(
            "Messages per second",
            Unit::Count,
            vec![
                count("to the proxy", |line| line.up),
                count("back", |line| line.down),
            ],
            false,
        ),
        plot(
            "Latency, from when a message was due",
            Unit::Micros,
            vec![
                quantile("p50", |line| line.latency.p50_us),
                quantile("p90", |line| line.latency.p90_us),
                quantile("p99", |line| line.latency.p99_us),
                quantile("p99.9", |line| line.latency.p999_us),
                quantile("max", |line| line.latency.max_us),
            ],
            true,
        ),
        plot(
            "Connections per second",
            Unit::Count,
            vec![
                count("opened", |line| line.opened),
                count("failed", |line| line.failed),
                count("ended early", |line| line.closed),
            ],
            false,
        ),
    ];
    if !record.processes.is_empty() {
        plots.push(plot(
            "Processor time, per cent of a core",
            Unit::Percent,
            cpu(record),
            false,
        ));
    }
    plots.push(plot("Memory", Unit::Bytes, memory(record), false));
    plots
}

/// Of each process, from second to second.
fn cpu(record: &Record) -> Vec<Curve<'_>> {
    let used = |usage: &Usage| usage.user_seconds + usage.system_seconds;
    let of = |index: usize| {
        let mut before = seen(&record.base, index);
        let lines = record.series.iter();
        lines
            .map(|line| {
                let now = seen(&line.sight, index);
                let both = before.zip(now);
                before = now;
                // Time is counted in steps of 10 ms: a little less than before is rounding.
                both.map(|(before, now)| (used(&now) - used(&before)).max(0.0) * 100.0)
            })
            .collect()
    };
    let names = record.processes.iter().enumerate();
    names
        .map(|(index, name)| Curve {
            name,
            values: of(index),
        })
        .collect()
}

fn seen(sight: &Sight, index: usize) -> Option<Usage> {
    sight.processes.get(index).copied().flatten()
}

/// Of each process in user space, and of the kernel what grew since before the first connection.
fn memory(record: &Record) -> Vec<Curve<'_>> {
    let names = record.processes.iter().enumerate();
    let mut curves: Vec<_> = names
        .map(|(index, name)| Curve {
            name,
            values: (record.series.iter())
                .map(|line| Some(seen(&line.sight, index)?.anonymous_bytes as f64))
                .collect(),
        })
        .collect();
    let base = record.base.kernel;
    let kernel = |value: fn(&Line) -> u64, base: u64| {
        let lines = record.series.iter();
        lines
            .map(|line| Some(value(line).saturating_sub(base) as f64))
            .collect()
    };
    curves.push(Curve {
        name: "kernel objects",
        values: kernel(|line| line.sight.kernel.slab_bytes, base.slab_bytes),
    });
    curves.push(Curve {
        name: "in sockets",
        values: kernel(
            |line| line.sight.kernel.tcp_buffer_bytes,
            base.tcp_buffer_bytes,
        ),
    });
    curves
}

const STYLE: &str = "
body { font: 15px/1.45 system-ui, sans-serif; max-width: 900px; margin: 2em auto; padding: 0 1em;
  color: #222; background: #fff }
small { font-weight: normal; color: #666 }
table { border-collapse: collapse; margin: 1em 0 }
td, th { text-align: left; padding: .15em .8em .15em 0; border-bottom: 1px solid #ddd;
  vertical-align: top }
figure { margin: 1.5em 0 }
figcaption { font-weight: bold }
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif; fill: #444 }
.even { fill: #f4f6f8 } .odd { fill: #e9edf1 }
.grid { stroke: #cdd3d8; fill: none } .line { fill: none; stroke-width: 1.6 }
.end { text-anchor: end } .middle { text-anchor: middle }
";
