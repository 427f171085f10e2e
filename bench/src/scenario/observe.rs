//! The thread that looks on: a line per second, latencies in a log, and orders to others in time.

use super::board::{Board, Sheet};
use super::crowd::SECOND;
use super::file::{Act, Order, Phase, Scenario, Signal};
use super::result::{Line, Quantiles};
use super::watch::{self, Metrics, Process, Sight};
use crate::units::{grouped, latency};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriter, IntervalLogWriterBuilder, Tag};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::Acquire;
use std::time::{Duration, SystemTime};

/// Who is looked at, and who is told to do what.
pub struct Scope<'a> {
    pub scenario: &'a Scenario,
    pub processes: &'a [Process],
    pub metrics: Option<&'a Metrics>,
    pub quiet: bool,
}

/// What was seen.
pub struct Seen {
    /// Before the first connection.
    pub base: Sight,
    pub lines: Vec<Line>,
    /// Of each phase.
    pub phases: Vec<Histogram<u64>>,
    /// Of all.
    pub sums: Sheet,
    /// What orders met, in words.
    pub faults: Vec<String>,
}

/// Looks on until all threads are gone, and writes latencies to `log` meanwhile.
///
/// # Errors
/// The log cannot be written.
pub fn observe(scope: &Scope, board: &Board, log: &Path) -> io::Result<Seen> {
    let base = watch::look(scope.processes, scope.metrics);
    let mut file = BufWriter::new(File::create(log)?);
    let mut serializer = V2DeflateSerializer::new();
    let epoch = SystemTime::now() + until(board.start, board);
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("Nanoseconds from when a message was due to its echo; a second each")
        .with_start_time(epoch)
        .with_base_time(epoch)
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut file, &mut serializer)?;
    let empty = Sheet::new();
    let mut observer = Observer {
        scope,
        board,
        bar: Bar::new(scope),
        orders: Orders::default(),
        sheet: Sheet::new(),
        seen: Seen {
            base,
            lines: Vec::with_capacity((scope.scenario.nanos() / SECOND) as usize + 64),
            phases: vec![empty.latency.clone(); scope.scenario.phases.len()],
            sums: empty,
            faults: Vec::new(),
        },
    };
    while board.gone.load(Acquire) < board.threads && !board.failed.load(Acquire) {
        observer.give_orders();
        let second = observer.seen.lines.len() as u64;
        if board.clock.now() >= board.start + (second + 1) * SECOND + LATE {
            observer.line(second, &mut log)?;
        }
        std::thread::sleep(PACE);
    }
    let second = observer.seen.lines.len() as u64;
    observer.line(second, &mut log)?;
    observer.orders.finish(&mut observer.seen.faults);
    Ok(observer.seen)
}

type Log<'a, 'b> = IntervalLogWriter<'a, 'b, BufWriter<File>, V2DeflateSerializer>;

struct Observer<'a> {
    scope: &'a Scope<'a>,
    board: &'a Board,
    bar: Bar,
    orders: Orders,
    sheet: Sheet,
    seen: Seen,
}

impl Observer<'_> {
    /// Gives the orders that it is time for.
    fn give_orders(&mut self) {
        let since = self.board.clock.now().saturating_sub(self.board.start);
        let phases = &self.scope.scenario.phases;
        while let Some(phase) = phases.get(self.orders.seen)
            && self.board.clock.now() >= self.board.start
            && since >= phase.from
        {
            self.orders.seen += 1;
            if let Act::Failover(order) = &phase.act
                && let Err(error) = self.orders.give(order, self.scope.processes)
            {
                self.seen.faults.push(error);
            }
        }
    }

    fn line(&mut self, second: u64, log: &mut Log) -> io::Result<()> {
        let sheet = &mut self.sheet;
        self.board.take(sheet);
        let middle = second * SECOND + SECOND / 2;
        let phases = &self.scope.scenario.phases;
        let index = phases.iter().position(|phase| middle < phase.until);
        let index = index.unwrap_or(phases.len() - 1);
        let time = Duration::from_secs(second);
        log.write_histogram(
            &sheet.latency,
            time,
            Duration::from_secs(1),
            Tag::new(phases[index].name()),
        )
        .map_err(|error| io::Error::other(error.to_string()))?;
        let before = self.seen.sums.counts;
        self.seen.sums.counts = Default::default();
        self.seen.sums.add(sheet);
        let same = "histograms with the same bounds";
        self.seen.phases[index].add(&sheet.latency).expect(same);
        let now = sheet.counts;
        self.seen.lines.push(Line {
            second,
            connections: now.open,
            opened: now.opened - before.opened,
            failed: now.failed - before.failed,
            closed: now.closed - before.closed,
            up: now.up - before.up,
            down: now.down - before.down,
            latency: Quantiles::of(&sheet.latency),
            connect: Quantiles::of(&sheet.connect),
            sight: watch::look(self.scope.processes, self.scope.metrics),
        });
        self.bar.show(second, &phases[index], &self.seen);
        Ok(())
    }
}

/// Orders that were given.
#[derive(Default)]
struct Orders {
    /// Phases that were looked at.
    seen: usize,
    commands: Vec<(String, Child)>,
}

impl Orders {
    fn give(&mut self, order: &Order, processes: &[Process]) -> Result<(), String> {
        match order {
            Order::Run(command) => {
                let child = Command::new("sh")
                    .args(["-c", command])
                    .stdin(Stdio::null())
                    .spawn()
                    .map_err(|error| format!("failover: sh: {error}"))?;
                self.commands.push((command.clone(), child));
                Ok(())
            }
            Order::Signal { name, to } => {
                let pid = pid(to, processes)?;
                let pid = rustix::process::Pid::from_raw(pid as i32);
                let pid = pid.ok_or_else(|| format!("failover: {to} has no number"))?;
                rustix::process::kill_process(pid, name.number())
                    .map_err(|error| format!("failover: {name:?} to {to}: {error}"))
            }
        }
    }

    /// A command that failed is a failure of the run; one that still works is let be.
    fn finish(&mut self, faults: &mut Vec<String>) {
        for (command, child) in &mut self.commands {
            if let Ok(Some(status)) = child.try_wait()
                && !status.success()
            {
                faults.push(format!("failover: {command:?} ended with {status}"));
            }
        }
    }
}

/// The process that an order means.
///
/// # Errors
/// No process has that name.
pub fn pid(to: &str, processes: &[Process]) -> Result<u32, String> {
    if let Ok(pid) = to.parse()
        && pid > 1
    {
        return Ok(pid);
    }
    let found = processes.iter().find(|process| process.name == to);
    let found = found.map(|process| process.pid);
    found.ok_or_else(|| format!("failover: no process {to:?}; name it with --process {to}=PID"))
}

impl Signal {
    fn number(self) -> rustix::process::Signal {
        use rustix::process::Signal as Linux;
        match self {
            Self::Term => Linux::TERM,
            Self::Kill => Linux::KILL,
            Self::Int => Linux::INT,
            Self::Hup => Linux::HUP,
            Self::Stop => Linux::STOP,
            Self::Cont => Linux::CONT,
        }
    }
}

/// Progress on a terminal; nothing anywhere else.
struct Bar(ProgressBar);

impl Bar {
    fn new(scope: &Scope) -> Self {
        let bar = if scope.quiet {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(scope.scenario.nanos().div_ceil(SECOND))
        };
        let style = ProgressStyle::with_template("{prefix:15} [{bar:30}] {pos}/{len} s {msg}");
        bar.set_style(style.expect("a constant template").progress_chars("=> "));
        Self(bar)
    }

    fn show(&self, second: u64, phase: &Phase, seen: &Seen) {
        let Some(line) = seen.lines.last() else {
            return;
        };
        self.0.set_prefix(phase.name());
        self.0.set_position(second + 1);
        self.0.set_message(format!(
            "{} open, {} echoes/s, p99 {}, {} failed, {} ended early",
            grouped(line.connections),
            grouped(line.down),
            latency((line.latency.p99_us * 1e3) as u64),
            grouped(seen.sums.counts.failed),
            grouped(seen.sums.counts.closed),
        ));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn until(moment: u64, board: &Board) -> Duration {
    Duration::from_nanos(moment.saturating_sub(board.clock.now()))
}

/// How long after a second its line is made: all threads have written theirs by then.
const LATE: u64 = 300_000_000;
/// How often the clock is looked at.
const PACE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_find_their_process() {
        let processes = [watch::process("server=77").unwrap()];
        assert_eq!(pid("server", &processes), Ok(77));
        assert_eq!(pid("1234", &processes), Ok(1234));
        assert!(
            pid("api", &processes)
                .unwrap_err()
                .contains("--process api=PID")
        );
        assert!(pid("1", &processes).is_err());
    }

    #[test]
    fn a_command_that_fails_is_a_fault() {
        let mut orders = Orders::default();
        orders.give(&Order::Run("exit 3".to_string()), &[]).unwrap();
        orders.commands[0].1.wait().unwrap();
        let mut faults = Vec::new();
        orders.finish(&mut faults);
        assert!(faults[0].contains("exit 3"), "{faults:?}");
    }

    #[test]
    fn a_signal_reaches_its_process() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let processes = [Process {
            name: "server".to_string(),
            pid: child.id(),
        }];
        let order = Order::Signal {
            name: Signal::Kill,
            to: "server".to_string(),
        };
        Orders::default().give(&order, &processes).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
