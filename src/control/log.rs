//! Log lines: built where they happen, written by one thread, never waited for.
//!
//! Whatever a client sent can stand in a line, so every character that could end one, or that a
//! terminal would act on, is written as an escape. A full queue drops lines and counts them: a
//! disk that stalls must not stall a loop.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::kv::{self, VisitSource, VisitValue};
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::config::{LogFormat, LogLevel};

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

/// Waits until all lines so far are written, two seconds at most. For the end of the process.
pub fn flush() {
    if let Some(sink) = SINK.get() {
        sink.flush();
    }
}

/// Lines that were dropped because the queue was full, since the start.
pub fn lost_lines() -> u64 {
    SINK.get()
        .map_or(0, |sink| sink.lost.load(Ordering::Relaxed))
}

static SINK: OnceLock<Sink> = OnceLock::new();

/// The loops' end of the queue.
struct Sink {
    queue: Sender<Job>,
    format: LogFormat,
    lost: AtomicU64,
}

enum Job {
    Line(String),
    /// Answered when everything before it is written.
    Flush(Sender<()>),
}

impl Sink {
    fn start(format: LogFormat, out: impl Write + Send + 'static) -> Result<Sink, String> {
        let (queue, jobs) = bounded(QUEUE_LINES);
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(&jobs, out))
            .map_err(|error| format!("the log thread can't be started: {error}"))?;
        Ok(Sink {
            queue,
            format,
            lost: AtomicU64::new(0),
        })
    }

    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
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
        let line = match self.format {
            LogFormat::Text => text_line(record, SystemTime::now()),
            LogFormat::Json => json_line(record, SystemTime::now()),
        };
        if self.queue.try_send(Job::Line(line)).is_err() {
            self.lose();
        }
    }

    fn flush(&self) {
        let (done, wait) = bounded(1);
        if self
            .queue
            .send_timeout(Job::Flush(done), FLUSH_TIME)
            .is_ok()
        {
            // A late answer means a stalled disk; nothing better can be done than to go on.
            let _ = wait.recv_timeout(FLUSH_TIME);
        }
    }
}

/// The writer thread: takes what waits, writes it at once, and ends when the queue is closed.
fn write_all(jobs: &Receiver<Job>, mut out: impl Write) {
    let mut batch = String::new();
    while let Ok(job) = jobs.recv() {
        let mut next = Some(job);
        let mut answer = None;
        while let Some(job) = next.take() {
            match job {
                Job::Line(line) => batch.push_str(&line),
                Job::Flush(done) => answer = Some(done),
            }
            if answer.is_none() && batch.len() < BATCH_BYTES {
                next = jobs.try_recv().ok();
            }
        }
        // Nobody is left to tell of an error on stderr.
        let _ = out.write_all(batch.as_bytes()).and_then(|()| out.flush());
        batch.clear();
        if let Some(done) = answer {
            let _ = done.try_send(());
        }
    }
}

/// `2026-01-02T03:04:05.678Z INFO wsteady::net taken address=127.0.0.1:8080`
fn text_line(record: &Record<'_>, now: SystemTime) -> String {
    let mut line = format!(
        "{} {:<5} ",
        humantime::format_rfc3339_millis(now),
        record.level().as_str()
    );
    escape(record.target(), &mut line);
    line.push(' ');
    escape(&record.args().to_string(), &mut line);
    visit(record, |key, value| {
        line.push(' ');
        escape(key, &mut line);
        line.push('=');
        let text = value.text();
        match text.bytes().all(is_bare) && !text.is_empty() {
            true => line.push_str(text),
            false => {
                line.push('"');
                escape(text, &mut line);
                line.push('"');
            }
        }
    });
    line.push('\n');
    line
}

/// One JSON object; the fields of the event stand beside `ts`, `level`, `target` and `msg`.
fn json_line(record: &Record<'_>, now: SystemTime) -> String {
    let mut line = format!(
        "{{\"ts\":\"{}\",\"level\":\"{}\",\"target\":",
        humantime::format_rfc3339_millis(now),
        json_level(record.level())
    );
    json_string(record.target(), &mut line);
    line.push_str(",\"msg\":");
    json_string(&record.args().to_string(), &mut line);
    visit(record, |key, value| {
        line.push(',');
        // A field may not stand in for one of the line's own.
        let own = ["ts", "level", "target", "msg"].contains(&key);
        json_string(
            &if own {
                format!("{key}_")
            } else {
                key.to_owned()
            },
            &mut line,
        );
        line.push(':');
        match value {
            Field::Number(text) => line.push_str(&text),
            Field::Text(text) => json_string(&text, &mut line),
        }
    });
    line.push_str("}\n");
    line
}

fn json_level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// A field's value: bare in JSON, or a string.
enum Field {
    Number(String),
    Text(String),
}

impl Field {
    fn text(&self) -> &str {
        match self {
            Field::Number(text) | Field::Text(text) => text,
        }
    }
}

impl<'v> VisitValue<'v> for Field {
    fn visit_any(&mut self, value: kv::Value<'_>) -> Result<(), kv::Error> {
        *self = Field::Text(value.to_string());
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        *self = Field::Number(value.to_string());
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        *self = Field::Number(value.to_string());
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        // JSON has no word for these.
        *self = match value.is_finite() {
            true => Field::Number(value.to_string()),
            false => Field::Text(value.to_string()),
        };
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        *self = Field::Number(value.to_string());
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        *self = Field::Text(value.to_owned());
        Ok(())
    }
}

fn visit(record: &Record<'_>, each: impl FnMut(&str, Field)) {
    struct Walk<F>(F);
    impl<'kvs, F: FnMut(&str, Field)> VisitSource<'kvs> for Walk<F> {
        fn visit_pair(
            &mut self,
            key: kv::Key<'kvs>,
            value: kv::Value<'kvs>,
        ) -> Result<(), kv::Error> {
            let mut field = Field::Text(String::new());
            value.visit(&mut field)?;
            (self.0)(key.as_str(), field);
            Ok(())
        }
    }
    // A value whose Display fails leaves out the fields behind it, not the line.
    let _ = record.key_values().visit(&mut Walk(each));
}

/// Writes `text` so that it can neither end the line nor steer a terminal, and so that no two
/// texts look the same: a backslash and a quote are escaped, too.
fn escape(text: &str, line: &mut String) {
    for one in clipped(text) {
        let wrote = match one {
            '\\' => line.write_str("\\\\"),
            '"' => line.write_str("\\\""),
            _ if !is_unsafe(one) => line.write_char(one),
            _ if (one as u32) < 0x100 => write!(line, "\\x{:02X}", one as u32),
            _ => write!(line, "\\u{{{:X}}}", one as u32),
        };
        wrote.expect("a String takes everything");
    }
    if text.len() > TEXT_BYTES_MAX {
        line.push_str(CLIP_MARK);
    }
}

/// A JSON string (RFC 8259, 7). More is escaped than JSON needs: it may end up on a terminal.
fn json_string(text: &str, line: &mut String) {
    line.push('"');
    for one in clipped(text) {
        let wrote = match one {
            '\\' => line.write_str("\\\\"),
            '"' => line.write_str("\\\""),
            // All that is unsafe lies below U+10000, so it is one UTF-16 unit.
            _ if is_unsafe(one) => write!(line, "\\u{:04x}", one as u32),
            _ => line.write_char(one),
        };
        wrote.expect("a String takes everything");
    }
    if text.len() > TEXT_BYTES_MAX {
        line.push_str(CLIP_MARK);
    }
    line.push('"');
}

/// The characters that begin within the first [`TEXT_BYTES_MAX`] bytes.
fn clipped(text: &str) -> impl Iterator<Item = char> {
    text.char_indices()
        .take_while(|(at, _)| *at < TEXT_BYTES_MAX)
        .map(|(_, one)| one)
}

/// Controls (C0, DEL, C1), line and paragraph separators, and marks that reorder what a reader
/// sees ("Trojan Source", CVE-2021-42574).
fn is_unsafe(one: char) -> bool {
    let reorders =
        matches!(one, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    one.is_control() || reorders || matches!(one, '\u{2028}' | '\u{2029}' | '\u{FEFF}')
}

/// A byte of a value that needs no quotes.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=')
}

/// Some seconds of a busy process; about 1 MiB of usual lines.
const QUEUE_LINES: usize = 4096;

/// One `write` for so much, so that a burst costs few system calls.
const BATCH_BYTES: usize = 64 << 10;

/// Of each text in a line. A Close reason has 123 bytes, a useful path rarely more than this.
const TEXT_BYTES_MAX: usize = 2048;

/// Stands where a text was cut.
const CLIP_MARK: &str = "[…]";

/// How long the end of the process may wait for its log.
const FLUSH_TIME: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn line_of(format: LogFormat, message: &str, fields: &[(&str, kv::Value<'_>)]) -> String {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_678);
        let args = format_args!("{message}").to_string();
        let fields: Vec<(kv::Key<'_>, kv::Value<'_>)> = fields
            .iter()
            .map(|(key, value)| (kv::Key::from(*key), value.clone()))
            .collect();
        let build = |args: std::fmt::Arguments<'_>| {
            let mut builder = Record::builder();
            let builder = builder
                .level(Level::Warn)
                .target("wsteady::net")
                .key_values(&fields);
            let record = builder.args(args).build();
            match format {
                LogFormat::Text => text_line(&record, moment),
                LogFormat::Json => json_line(&record, moment),
            }
        };
        build(format_args!("{args}"))
    }

    #[test]
    fn a_line_has_time_level_target_message_and_fields() {
        let fields = [
            ("session", "0a1b".into()),
            ("moved", 3.into()),
            ("ok", true.into()),
        ];
        assert_eq!(
            line_of(LogFormat::Text, "server lost", &fields),
            "2026-01-02T03:04:05.678Z WARN  wsteady::net server lost session=0a1b moved=3 ok=true\n"
        );
        assert_eq!(
            line_of(LogFormat::Json, "server lost", &fields),
            "{\"ts\":\"2026-01-02T03:04:05.678Z\",\"level\":\"warn\",\"target\":\"wsteady::net\",\
             \"msg\":\"server lost\",\"session\":\"0a1b\",\"moved\":3,\"ok\":true}\n"
        );
    }

    #[test]
    fn nothing_a_client_sends_ends_or_forges_a_line() {
        let table = [
            ("a\nb", "\"a\\x0Ab\""),
            (
                "a\r\n2026-01-01T00:00:00.000Z INFO x y",
                "\"a\\x0D\\x0A2026-01-01T00:00:00.000Z INFO x y\"",
            ),
            ("\u{1b}[2J", "\"\\x1B[2J\""),
            ("\u{9b}2J", "\"\\x9B2J\""),
            ("x\" level=error", "\"x\\\" level=error\""),
            ("back\\slash", "\"back\\\\slash\""),
            ("a=b", "\"a=b\""),
            ("", "\"\""),
            ("\u{2028}", "\"\\u{2028}\""),
            ("\u{202e}txt", "\"\\u{202E}txt\""),
            ("grün", "\"grün\""),
            ("/chat/1", "/chat/1"),
        ];
        for (value, expected) in table {
            let line = line_of(LogFormat::Text, "m", &[("reason", value.into())]);
            let tail = line.strip_prefix("2026-01-02T03:04:05.678Z WARN  wsteady::net m reason=");
            assert_eq!(tail, Some(format!("{expected}\n").as_str()), "{value:?}");
            let line = line_of(LogFormat::Json, value, &[("reason", value.into())]);
            assert_eq!(line.lines().count(), 1, "{value:?}");
            assert!(!line.trim_end().chars().any(is_unsafe), "{line:?}");
            let json: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(json["reason"], value);
            assert_eq!(json["msg"], value);
        }
    }

    #[test]
    fn a_field_can_not_replace_the_lines_own() {
        let line = line_of(LogFormat::Json, "m", &[("level", "info".into())]);
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["level"], "warn");
        assert_eq!(json["level_"], "info");
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let long = "é".repeat(3000);
        let line = line_of(LogFormat::Text, &long, &[]);
        assert!(line.ends_with("é[…]\n"), "{}", &line[line.len() - 20..]);
        assert!(line.len() < TEXT_BYTES_MAX + 100);
    }

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

    #[test]
    fn a_stalled_writer_costs_lines_and_no_time() {
        let gate = Gate::default();
        let sink = Sink::start(LogFormat::Text, gate.clone()).unwrap();
        let send = |number: usize| {
            let line = Job::Line(format!("{number:05}{}\n", "x".repeat(100)));
            if sink.queue.try_send(line).is_err() {
                sink.lose();
            }
        };
        let stalled = gate.0.lock().unwrap();
        let sent = QUEUE_LINES * 2;
        (0..sent).for_each(send);
        let lost = sink.lost.load(Ordering::Relaxed);
        // The writer holds one batch of at most BATCH_BYTES beside the full queue.
        assert!(lost > 0 && lost as usize <= QUEUE_LINES, "{lost}");
        drop(stalled);
        sink.flush();
        let written = String::from_utf8(gate.0.lock().unwrap().clone()).unwrap();
        assert_eq!(written.lines().count() + lost as usize, sent);
        assert!(written.lines().is_sorted(), "lines keep their order");
    }
}
