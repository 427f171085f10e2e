//! What a scenario found out: the file that reports are made of.

use super::crowd::{Outcome, SECOND};
use super::file::{Act, Allowed, Scenario};
use super::observe::Seen;
use super::watch::{Process, Sight};
use crate::units::{bytes, grouped, latency};
use crate::ws::tally::Tally;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

#[derive(Serialize, Deserialize)]
pub struct Record {
    pub scenario: String,
    pub url: String,
    pub command: String,
    /// When it ended.
    pub date: String,
    pub machine: Machine,
    pub connections: u32,
    pub message_bytes: usize,
    pub threads: usize,
    /// Names, in the order of each line's usages.
    pub processes: Vec<String>,
    pub phases: Vec<PhaseRecord>,
    pub totals: Totals,
    pub memory: Option<Memory>,
    pub peak: Option<Peak>,
    pub checks: Vec<Check>,
    /// What went wrong on connections.
    pub reasons: BTreeMap<String, u64>,
    /// Before the first connection.
    pub base: Sight,
    pub series: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
pub struct Machine {
    pub cores: usize,
    pub model: String,
    pub kernel: String,
    pub memory_bytes: u64,
}

#[derive(Serialize, Deserialize)]
pub struct PhaseRecord {
    pub name: String,
    pub from_seconds: f64,
    pub until_seconds: f64,
    /// Cores that the process `proxy` kept busy.
    pub proxy_cores: Option<f64>,
    /// Of a phase in which servers failed, where the proxy says how many sessions wait for one.
    pub moved: Option<Moved>,
    pub latency: Quantiles,
}

/// What a failure of servers did to sessions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    pub failovers: u64,
    /// From the failure until none waited any more, in whole seconds; `None` if some still do.
    pub seconds: Option<u64>,
}

/// At its highest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// All of the process `proxy` in user space, what it began with included, in the scenario.
    pub proxy_bytes: u64,
    /// The same behind it, while all clients leave at once.
    pub leaving_bytes: u64,
    /// By how much it grows in an hour: the slope through the last three quarters of the scenario.
    pub growth_bytes_per_hour: f64,
    /// The kernel's small objects and what waited in sockets, of the whole machine: growth since
    /// before the first connection.
    pub kernel_bytes: u64,
}

/// One second.
#[derive(Serialize, Deserialize)]
pub struct Line {
    /// It begins so many seconds after the start.
    pub second: u64,
    pub connections: u64,
    pub opened: u64,
    pub failed: u64,
    pub closed: u64,
    pub up: u64,
    pub down: u64,
    pub latency: Quantiles,
    pub connect: Quantiles,
    pub sight: Sight,
}

/// Microseconds, 0 if nothing was counted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Quantiles {
    pub count: u64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

#[derive(Serialize, Deserialize)]
pub struct Totals {
    pub opened: u64,
    pub connect_failed: u64,
    pub sent: u64,
    pub echoes: u64,
    pub lost: u64,
    /// Under way on connections that were ended on purpose.
    pub abandoned: u64,
    pub repeated: u64,
    pub disordered: u64,
    pub crossed: u64,
    pub damaged: u64,
    pub closed_early: u64,
    pub closed_badly: u64,
    pub latency: Quantiles,
    pub connect: Quantiles,
    /// From when a message was due until it was sent: the tool's own delay.
    pub lateness: Quantiles,
    /// Of the process `proxy`, while lines were made.
    pub proxy_cpu_seconds: Option<f64>,
}

/// The proxy's memory in user space at the last second with the most connections.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    pub connections: u64,
    /// Growth since before the first connection, and the parts of it that the proxy's metrics name.
    pub bytes: u64,
    pub kept_bytes: u64,
    pub buffer_bytes: u64,
}

#[derive(Serialize, Deserialize)]
pub struct Check {
    pub what: String,
    pub wanted: String,
    pub found: String,
    pub met: bool,
}

/// What is said of a run beside what it found.
pub struct Frame<'a> {
    pub name: String,
    pub url: String,
    pub scenario: &'a Scenario,
    pub threads: usize,
    pub processes: &'a [Process],
}

impl Record {
    pub fn new(frame: &Frame, outcomes: &[Outcome], seen: Seen) -> Self {
        let mut sums = Tally::new();
        for outcome in outcomes {
            sums.add(&outcome.tally);
        }
        let abandoned = outcomes.iter().map(|one| one.abandoned).sum();
        let proxy = frame.processes.iter().position(|one| one.name == "proxy");
        // What a line has was seen a little after its second: behind the last one clients leave.
        let whole = (frame.scenario.nanos() / SECOND).saturating_sub(1).max(1);
        let memory = proxy.and_then(|index| Memory::at_most(index, whole, &seen));
        let totals = Totals::new(&sums, abandoned, &seen, proxy);
        let peak = proxy.and_then(|index| Peak::of(index, whole, &seen));
        let mut checks = checks(frame.scenario, &totals, memory.as_ref(), peak.as_ref());
        if frame.scenario.limits.all_connected {
            checks.push(all_connected(frame.scenario.connections, &seen.lines));
        }
        checks.extend(seen.faults.iter().map(|fault| Check {
            what: "orders".to_string(),
            wanted: "carried out".to_string(),
            found: fault.clone(),
            met: false,
        }));
        let phases = frame.scenario.phases.iter().zip(&seen.phases);
        Self {
            scenario: frame.name.clone(),
            url: frame.url.clone(),
            command: command(),
            date: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            machine: Machine::here(),
            connections: frame.scenario.connections,
            message_bytes: frame.scenario.message,
            threads: frame.threads,
            processes: frame.processes.iter().map(|one| one.name.clone()).collect(),
            phases: phases
                .map(|(phase, latency)| PhaseRecord {
                    name: phase.name().to_string(),
                    from_seconds: phase.from as f64 / 1e9,
                    until_seconds: phase.until as f64 / 1e9,
                    proxy_cores: proxy
                        .and_then(|index| cores(index, &seen, phase.from, phase.until)),
                    moved: matches!(phase.act, Act::Failover(_))
                        .then(|| Moved::of(&seen, phase.from, phase.until))
                        .flatten(),
                    latency: Quantiles::of(latency),
                })
                .collect(),
            totals,
            memory,
            peak,
            checks,
            reasons: sums
                .reasons
                .iter()
                .map(|(why, n)| (why.clone(), *n))
                .collect(),
            base: seen.base,
            series: seen.lines,
        }
    }

    /// Reads `result.json`, or the one in a directory.
    ///
    /// # Errors
    /// There is none, or it is something else.
    pub fn read(path: &Path) -> Result<Self, String> {
        let path = if path.is_dir() {
            path.join(RESULT)
        } else {
            path.to_path_buf()
        };
        let shown = path.display();
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{shown}: {error}"))?;
        serde_json::from_str(&text)
            .map_err(|error| format!("{shown}: no result of `wsteady-bench run`: {error}"))
    }

    /// Writes it into a directory; says where.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, directory: &Path) -> std::io::Result<PathBuf> {
        let path = directory.join(RESULT);
        let mut text = serde_json::to_string(self)?;
        text.push('\n');
        std::fs::write(&path, text)?;
        Ok(path)
    }

    pub fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.met)
    }

    /// CPU seconds of the proxy per million echoes, connects and all.
    pub fn cpu_per_million(&self) -> Option<f64> {
        let echoes = self.totals.echoes as f64;
        let cpu = self.totals.proxy_cpu_seconds?;
        (echoes > 0.0).then(|| cpu / echoes * 1e6)
    }
}

impl Quantiles {
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let micros = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            p50_us: micros(0.5),
            p90_us: micros(0.9),
            p99_us: micros(0.99),
            p999_us: micros(0.999),
            max_us: micros(1.0),
        }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |micros: f64| latency((micros * 1e3) as u64);
        write!(
            out,
            "p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            show(self.p50_us),
            show(self.p90_us),
            show(self.p99_us),
            show(self.p999_us),
            show(self.max_us)
        )
    }
}

impl Totals {
    fn new(sums: &Tally, abandoned: u64, seen: &Seen, proxy: Option<usize>) -> Self {
        Self {
            opened: sums.opened,
            connect_failed: sums.connect_failed,
            sent: sums.sent,
            echoes: sums.echoes,
            lost: sums.lost,
            abandoned,
            repeated: sums.repeated,
            disordered: sums.disordered,
            crossed: sums.crossed,
            damaged: sums.damaged,
            closed_early: sums.closed_early,
            closed_badly: sums.closed_badly,
            latency: Quantiles::of(&seen.sums.latency),
            connect: Quantiles::of(&seen.sums.connect),
            lateness: Quantiles::of(&sums.lateness),
            proxy_cpu_seconds: proxy.and_then(|index| cpu_seconds(index, seen)),
        }
    }
}

/// From the first sight of a process to the last.
fn cpu_seconds(index: usize, seen: &Seen) -> Option<f64> {
    let first = seen.base.processes[index]?;
    let mut lines = seen.lines.iter().rev();
    let last = lines.find_map(|line| line.sight.processes[index])?;
    Some(last.seconds() - first.seconds())
}

/// Cores that a process kept busy from one time to another, in nanoseconds since the start.
fn cores(index: usize, seen: &Seen, from: u64, until: u64) -> Option<f64> {
    let within = |line: &&Line| (from / SECOND..until / SECOND).contains(&line.second);
    let mut lines = seen.lines.iter().filter(within);
    let (first, last) = (lines.next()?, lines.next_back()?);
    let spent = |line: &Line| Some(line.sight.processes[index]?.seconds());
    Some((spent(last)? - spent(first)?) / (last.second - first.second) as f64)
}

impl Moved {
    /// In one phase; `None` if nothing failed, or nobody said so.
    fn of(seen: &Seen, from: u64, until: u64) -> Option<Self> {
        let (from, until) = (from / SECOND, until / SECOND);
        let now = |line: &Line| line.sight.held.unwrap_or_default();
        // A line's second is over when the proxy is looked at.
        let at = |line: &Line| line.second + 1;
        let lines = || seen.lines.iter().filter(|line| line.sight.held.is_some());
        let before = lines().rfind(|line| at(line) < from)?;
        let within = || lines().filter(|line| (from..until).contains(&at(line)));
        let last = within().next_back()?;
        let waited = within().rfind(|line| now(line).sessions_held > 0);
        let failovers = now(last).failovers - now(before).failovers;
        (failovers > 0 || waited.is_some()).then(|| Self {
            failovers,
            seconds: (now(last).sessions_held == 0)
                .then(|| waited.map_or(0, |line| at(line) + 1 - from)),
        })
    }
}

impl Peak {
    fn of(proxy: usize, end: u64, seen: &Seen) -> Option<Self> {
        let own = |line: &Line| Some(line.sight.processes[proxy]?.anonymous_bytes);
        let within = seen.lines.iter().filter(|line| line.second < end);
        let behind = seen.lines.iter().filter(|line| line.second >= end);
        let kernel = |sight: &Sight| sight.kernel.slab_bytes + sight.kernel.tcp_buffer_bytes;
        let most = seen.lines.iter().map(|line| kernel(&line.sight)).max()?;
        Some(Self {
            proxy_bytes: within.filter_map(own).max()?,
            leaving_bytes: behind.filter_map(own).max().unwrap_or(0),
            growth_bytes_per_hour: slope(
                (seen.lines.iter())
                    .filter(|line| (end / 4..end).contains(&line.second))
                    .filter_map(|line| Some((line.second as f64, own(line)? as f64))),
            ) * 3600.0,
            kernel_bytes: most.saturating_sub(kernel(&seen.base)),
        })
    }
}

/// Of the straight line through points, by least squares; 0 for fewer than two.
fn slope(points: impl Iterator<Item = (f64, f64)>) -> f64 {
    let points: Vec<_> = points.collect();
    let count = points.len() as f64;
    let sum = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>();
    let (x, y) = (sum(|point| point.0) / count, sum(|point| point.1) / count);
    let (mut both, mut square) = (0.0, 0.0);
    for point in &points {
        both += (point.0 - x) * (point.1 - y);
        square += (point.0 - x).powi(2);
    }
    if square > 0.0 { both / square } else { 0.0 }
}

impl Memory {
    /// Of the seconds before `end`.
    fn at_most(proxy: usize, end: u64, seen: &Seen) -> Option<Self> {
        let lines = seen.lines.iter().filter(|line| line.second < end);
        let line = lines.max_by_key(|line| line.connections)?;
        let grown = |line: &Line| {
            let now = line.sight.processes[proxy]?.anonymous_bytes;
            Some(now.saturating_sub(seen.base.processes[proxy]?.anonymous_bytes))
        };
        let held = line.sight.held.unwrap_or_default();
        (line.connections > 0).then_some(Self {
            connections: line.connections,
            bytes: grown(line)?,
            kept_bytes: held.kept_bytes,
            buffer_bytes: held.buffer_bytes,
        })
    }

    /// Without the request heads, which are as long as the clients made them.
    pub fn per_connection(&self) -> f64 {
        self.bytes.saturating_sub(self.kept_bytes) as f64 / self.connections as f64
    }
}

fn checks(
    scenario: &Scenario,
    totals: &Totals,
    memory: Option<&Memory>,
    peak: Option<&Peak>,
) -> Vec<Check> {
    use Allowed::{Closed, ConnectFailures, Disorder, Loss, Repeats};
    let none = [
        (
            "connections not opened",
            totals.connect_failed,
            Some(ConnectFailures),
        ),
        ("messages lost", totals.lost, Some(Loss)),
        ("messages repeated", totals.repeated, Some(Repeats)),
        ("messages out of order", totals.disordered, Some(Disorder)),
        ("messages to another connection", totals.crossed, None),
        ("messages damaged", totals.damaged, None),
        ("connections ended early", totals.closed_early, Some(Closed)),
        (
            "connections closed badly",
            totals.closed_badly,
            Some(Closed),
        ),
    ];
    let mut checks: Vec<_> = none
        .into_iter()
        .map(|(what, count, pardon)| {
            let allowed = pardon.is_some_and(|pardon| scenario.allows(pardon));
            Check {
                what: what.to_string(),
                wanted: if allowed { "any number" } else { "0" }.to_string(),
                found: grouped(count),
                met: allowed || count == 0,
            }
        })
        .collect();
    let limits = &scenario.limits;
    let micros = |limit: std::time::Duration| limit.as_secs_f64() * 1e6;
    let time = |micros: f64| latency((micros * 1e3) as u64);
    let size = |number: f64| bytes(number);
    let memory = memory.map_or(f64::INFINITY, Memory::per_connection);
    let whole = peak.map_or(f64::INFINITY, |peak| peak.proxy_bytes as f64);
    let growth = peak.map_or(f64::INFINITY, |peak| peak.growth_bytes_per_hour.max(0.0));
    let timed = |count, value| if count > 0 { value } else { f64::INFINITY };
    checks.extend(
        [
            limits.p99.map(|limit| {
                let found = timed(totals.latency.count, totals.latency.p99_us);
                at_most("latency p99", micros(limit), found, time)
            }),
            limits.connect.map(|limit| {
                let found = timed(totals.connect.count, totals.connect.max_us);
                at_most("slowest connect", micros(limit), found, time)
            }),
            limits
                .memory_per_connection
                .map(|limit| at_most("proxy's memory per connection", limit as f64, memory, size)),
            limits
                .memory
                .map(|limit| at_most("proxy's memory at most", limit as f64, whole, size)),
            limits
                .growth
                .map(|limit| at_most("proxy's growth in an hour", limit as f64, growth, size)),
        ]
        .into_iter()
        .flatten(),
    );
    checks
}

fn all_connected(wanted: u32, lines: &[Line]) -> Check {
    let most = lines.iter().map(|line| line.connections).max();
    let most = most.unwrap_or(0);
    Check {
        what: "connections at the same time".to_string(),
        wanted: grouped(wanted.into()),
        found: grouped(most),
        met: most >= wanted.into(),
    }
}

/// What was not measured is not below any limit.
fn at_most(what: &str, limit: f64, found: f64, shown: impl Fn(f64) -> String) -> Check {
    Check {
        what: what.to_string(),
        wanted: format!("at most {}", shown(limit)),
        found: if found.is_finite() {
            shown(found)
        } else {
            "not measured".to_string()
        },
        met: found <= limit,
    }
}

impl Machine {
    fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            model: model.map_or("unknown", |(_, model)| model).to_string(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
            memory_bytes: crate::process::line(&read("/proc/meminfo"), "MemTotal:") * 1024,
        }
    }
}

/// This process's command line.
fn command() -> String {
    std::env::args().collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = &self.totals;
        let (opened, failed) = (grouped(totals.opened), grouped(totals.connect_failed));
        writeln!(
            out,
            "connections  {opened} opened, {failed} failed; {}",
            totals.connect
        )?;
        let (sent, echoes) = (grouped(totals.sent), grouped(totals.echoes));
        let abandoned = grouped(totals.abandoned);
        writeln!(
            out,
            "messages     {sent} sent, {echoes} back, {abandoned} abandoned"
        )?;
        writeln!(out, "latency      {}", totals.latency)?;
        for phase in &self.phases {
            if phase.latency.count > 0 {
                writeln!(out, "  {:15} {}", phase.name, phase.latency)?;
                let length = phase.until_seconds - phase.from_seconds;
                let rate = grouped((phase.latency.count as f64 / length) as u64);
                match phase.proxy_cores {
                    Some(cores) => writeln!(
                        out,
                        "  {:15} {rate} a second, {cores:.2} cores of the proxy",
                        ""
                    )?,
                    None => writeln!(out, "  {:15} {rate} a second", "")?,
                }
            } else if let Some(cores) = phase.proxy_cores {
                writeln!(out, "  {:15} {cores:.2} cores of the proxy", phase.name)?;
            }
        }
        for moved in self.phases.iter().filter_map(|phase| phase.moved) {
            let count = grouped(moved.failovers);
            match moved.seconds {
                Some(seconds) => {
                    writeln!(out, "failover     {count}, the last within {seconds} s")?
                }
                None => writeln!(out, "failover     {count}, and some still wait")?,
            }
        }
        if let Some(memory) = &self.memory {
            let (each, kept) = (memory.per_connection(), memory.kept_bytes);
            let (count, kept) = (grouped(memory.connections), bytes(kept as f64));
            let each = bytes(each);
            writeln!(
                out,
                "memory       {each} per connection at {count} (request heads {kept})"
            )?;
        }
        if let Some(peak) = &self.peak {
            let proxy = bytes(peak.proxy_bytes as f64);
            let leaving = bytes(peak.leaving_bytes as f64);
            let kernel = bytes(peak.kernel_bytes as f64);
            writeln!(
                out,
                "at most      {proxy} of the proxy in user space ({leaving} while all leave at once)"
            )?;
            writeln!(out, "             {kernel} of the kernel for all processes")?;
        }
        if let Some(cpu) = totals.proxy_cpu_seconds {
            let each = self.cpu_per_million().unwrap_or_default();
            writeln!(
                out,
                "processor    {cpu:.2} s of the proxy, {each:.1} per million echoes"
            )?;
        }
        for check in &self.checks {
            let mark = if check.met { "ok  " } else { "FAIL" };
            writeln!(
                out,
                "{mark}  {}: {} ({})",
                check.what, check.found, check.wanted
            )?;
        }
        for (reason, count) in &self.reasons {
            writeln!(out, "             {}x {reason}", grouped(*count))?;
        }
        Ok(())
    }
}

const RESULT: &str = "result.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_best_line() {
        let line = |points: &[(f64, f64)]| slope(points.iter().copied());
        assert!((line(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) - 2.0).abs() < 1e-9);
        assert!((line(&[(0.0, 0.0), (1.0, 1.0), (2.0, 0.0)])).abs() < 1e-9);
        assert!(line(&[(5.0, 5.0)]).abs() < 1e-9);
        assert!(line(&[]).abs() < 1e-9);
    }

    #[test]
    fn what_was_not_measured_meets_no_limit() {
        let shown = |number: f64| number.to_string();
        assert!(at_most("x", 5.0, 5.0, shown).met);
        assert!(!at_most("x", 5.0, 5.1, shown).met);
        let missing = at_most("x", 5.0, f64::INFINITY, shown);
        assert!(!missing.met && missing.found == "not measured");
    }

    #[test]
    fn memory_is_told_without_the_kept_heads() {
        let memory = Memory {
            connections: 100,
            bytes: 90_000,
            kept_bytes: 20_000,
            buffer_bytes: 0,
        };
        assert!((memory.per_connection() - 700.0).abs() < 1e-9);
    }
}
