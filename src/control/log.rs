//! Log lines: built where they happen, written by one thread, never waited for.
//!
//! Whatever a client sent can stand in a line, so every character that could end one, or that a
//! terminal would act on, is written as an escape. A full queue drops lines and counts them: a
//! disk that stalls must not stall a loop. Of one kind of line a second has only so many.

mod line;
mod quota;
mod writer;

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Sender, bounded};
use log::{LevelFilter, Log, Metadata, Record};

use super::config::{LogFormat, LogLevel};
use quota::{Quotas, Ruling};
use writer::Writer;

/// Starts the writer thread and makes it the process's log. Call once, from `main`.
///
/// # Errors
/// Another log was there before, or the thread could not be started.
pub fn init(level: LogLevel, format: LogFormat) -> Result<(), String> {
    let sink = Sink::start(format, std::io::stderr())?;
    let sink = SINK.get_or_init(|| sink);
    log::set_logger(sink).map_err(|error| error.to_string())?;
    set_level(level);
    Ok(())
}

/// Changes the level of a log that runs.
pub fn set_level(level: LogLevel) {
    log::set_max_level(match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    });
}

/// Changes the format of a log that runs, from the next line on.
pub fn set_format(format: LogFormat) {
    if let Some(sink) = SINK.get() {
        sink.shared.set_format(format);
    }
}

/// Waits until all lines so far are written, two seconds at most. For the end of the process.
pub fn flush() {
    if let Some(sink) = SINK.get() {
        sink.flush();
    }
}

/// Lines since the start that are not in the log, though their level is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// The queue was full, or stderr did not take them.
    pub lost: u64,
    /// Their kind had its lines of that second.
    pub held_back: u64,
}

/// What is missing in the log.
pub fn missing() -> Missing {
    SINK.get().map_or(Missing::default(), |sink| Missing {
        lost: sink.shared.lost.load(Relaxed),
        held_back: sink.shared.held_back.load(Relaxed),
    })
}

static SINK: OnceLock<Sink> = OnceLock::new();

/// The loops' end of the queue.
struct Sink {
    queue: Sender<Job>,
    shared: Arc<Shared>,
}

/// What the loops and the writer both know.
struct Shared {
    json: AtomicBool,
    quotas: Quotas,
    lost: AtomicU64,
    held_back: AtomicU64,
}

enum Job {
    Line(String),
    /// Lines are held back: that is to be told soon.
    Look,
    /// Answered when everything before it is written.
    Flush(Sender<()>),
}

impl Sink {
    fn start(format: LogFormat, out: impl Write + Send + 'static) -> Result<Sink, String> {
        let shared = Arc::new(Shared {
            json: AtomicBool::new(format == LogFormat::Json),
            quotas: Quotas::new(),
            lost: AtomicU64::new(0),
            held_back: AtomicU64::new(0),
        });
        let (queue, jobs) = bounded(QUEUE_LINES);
        let writer = Writer::new(out, Arc::clone(&shared));
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || writer.run(&jobs))
            .map_err(|error| format!("the log thread can't be started: {error}"))?;
        Ok(Sink { queue, shared })
    }

    fn queue(&self, line: String) {
        if self.queue.try_send(Job::Line(line)).is_err() {
            self.shared.lost.fetch_add(1, Relaxed);
        }
    }

    fn hold_back(&self, first: bool) {
        self.shared.held_back.fetch_add(1, Relaxed);
        if first {
            // With a full queue the writer is awake, and looks behind it.
            let _ = self.queue.try_send(Job::Look);
        }
    }
}

impl Shared {
    fn format(&self) -> LogFormat {
        match self.json.load(Relaxed) {
            true => LogFormat::Json,
            false => LogFormat::Text,
        }
    }

    fn set_format(&self, format: LogFormat) {
        self.json.store(format == LogFormat::Json, Relaxed);
    }
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        match self.shared.quotas.rule(record) {
            Ruling::Pass => self.queue(line::of(self.shared.format(), record, SystemTime::now())),
            Ruling::HeldBack { first } => self.hold_back(first),
        }
    }

    fn flush(&self) {
        let (done, wait) = bounded(1);
        let deadline = Instant::now() + FLUSH_TIME;
        let sent = self.queue.send_deadline(Job::Flush(done), deadline);
        if sent.is_ok() {
            // A late answer means a stalled disk; nothing better can be done than to go on.
            let _ = wait.recv_deadline(deadline);
        }
    }
}

/// Some seconds of a busy process; about 1 MiB of usual lines.
const QUEUE_LINES: usize = 4096;

/// How long the end of the process may wait for its log.
const FLUSH_TIME: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A writer that keeps everything, and stands still while its gate is locked.
    #[derive(Clone, Default)]
    struct Gate(Arc<Mutex<Vec<u8>>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(gate: &Gate) -> String {
        String::from_utf8(gate.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_stalled_writer_costs_lines_and_no_time() {
        let gate = Gate::default();
        let sink = Sink::start(LogFormat::Text, gate.clone()).unwrap();
        let stalled = gate.0.lock().unwrap();
        let sent = QUEUE_LINES * 2;
        for number in 0..sent {
            sink.queue(format!("{number:05}{}\n", "x".repeat(100)));
        }
        let lost = sink.shared.lost.load(Relaxed);
        // The writer holds one batch beside the full queue.
        assert!(lost > 0 && lost as usize <= QUEUE_LINES, "{lost}");
        drop(stalled);
        sink.flush();
        let written = written(&gate);
        let (told, lines): (Vec<&str>, Vec<&str>) = written
            .lines()
            .partition(|line| line.contains("lines lost"));
        assert_eq!(lines.len() + lost as usize, sent);
        assert!(lines.is_sorted(), "lines keep their order");
        let ends = |line: &&str| line.ends_with(&format!("WARN  log lines lost lines={lost}"));
        assert!(told.len() == 1 && told.iter().all(ends), "{told:?}");
    }

    /// Logs so many lines of one kind, all within a second or two.
    fn log_many(sink: &Sink, count: u64) {
        log::set_max_level(LevelFilter::Info);
        for _ in 0..count {
            log::info!(logger: sink, "ended");
        }
    }

    /// Lines of that kind that were written, and how many are said to be held back.
    fn written_and_told(gate: &Gate) -> (u64, u64) {
        let lines = written(gate);
        let lines = lines.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            match line["msg"].as_str().unwrap() {
                "ended" => (1, 0),
                "lines held back" if line["kind"] == "ended" => {
                    (0, line["lines"].as_u64().unwrap())
                }
                other => panic!("{other}"),
            }
        });
        lines.fold((0, 0), |sum, line| (sum.0 + line.0, sum.1 + line.1))
    }

    const MANY: u64 = quota::LINES_MAX as u64 * 2 + 500;

    #[test]
    fn what_is_held_back_is_told_when_its_second_is_over() {
        let gate = Gate::default();
        let sink = Sink::start(LogFormat::Json, gate.clone()).unwrap();
        log_many(&sink, MANY);
        // Nothing else is logged, and nothing flushed: the writer must look of its own accord.
        let deadline = Instant::now() + Duration::from_secs(10);
        while sink.shared.quotas.is_owing() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let (lines, told) = written_and_told(&gate);
        assert!(told > 0 && lines + told == MANY, "{lines}, {told}");
        assert_eq!(sink.shared.held_back.load(Relaxed), told);
    }

    #[test]
    fn what_is_held_back_at_the_end_is_told_at_once() {
        let gate = Gate::default();
        let sink = Sink::start(LogFormat::Json, gate.clone()).unwrap();
        log_many(&sink, MANY);
        sink.flush();
        let (lines, told) = written_and_told(&gate);
        assert!(told > 0 && lines + told == MANY, "{lines}, {told}");
    }

    #[test]
    fn the_format_changes_with_the_next_line() {
        let gate = Gate::default();
        let sink = Sink::start(LogFormat::Text, gate.clone()).unwrap();
        log::set_max_level(LevelFilter::Info);
        for format in [LogFormat::Text, LogFormat::Json, LogFormat::Text] {
            sink.shared.set_format(format);
            sink.log(&Record::builder().args(format_args!("here")).build());
        }
        sink.flush();
        let is_json = |line: &str| line.starts_with('{');
        let found: Vec<bool> = written(&gate).lines().map(is_json).collect();
        assert_eq!(found, [false, true, false]);
    }
}
