//! The log: what a blocked pipe, a full disk or a hostile client can do to it, and to the sessions.

use crate::support::frames::{BINARY, Frame};
use crate::support::proxy::Proxy;
use crate::support::raw::{Next, Raw, echo_origin, handshake};
use crate::support::{SOON, Scratch, until, until_true};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A shell that becomes wsteady, with its stderr led elsewhere.
fn stderr_to(path: &Path) -> Vec<String> {
    let script = format!("exec \"$0\" \"$@\" 2>{}", path.display());
    ["sh", "-c", &script].map(str::to_owned).into()
}

/// One message and its echo.
fn echo(client: &mut Raw) -> Duration {
    let begun = Instant::now();
    client.send_frame(&Frame::masked(BINARY, b"are you there"));
    assert!(matches!(client.next(SOON), Next::Frame(frame) if frame.payload == b"are you there"));
    begun.elapsed()
}

/// A session of no messages, from its 101 to the end of its connection.
fn pass_through(address: SocketAddr) {
    let mut client = Raw::open(address, "/passing", "");
    client.send_frame(&Frame::close(1000, "").with_key([1, 2, 3, 4]));
    client.end(SOON);
}

/// Passers-by from two threads, as fast as they can, until told to stop; and their count.
fn crowd(
    address: SocketAddr,
    stop: &Arc<AtomicBool>,
    count: &Arc<AtomicU64>,
) -> Vec<std::thread::JoinHandle<()>> {
    let pass = |_| {
        let (stop, count) = (Arc::clone(stop), Arc::clone(count));
        std::thread::spawn(move || {
            while !stop.load(Relaxed) {
                pass_through(address);
                count.fetch_add(1, Relaxed);
            }
        })
    };
    (0..2).map(pass).collect()
}

/// The lines that a reader has had so far, as JSON.
type Lines = Arc<Mutex<Vec<Value>>>;

/// Reads until the end, in a thread of its own.
fn read_lines(pipe: File) -> Lines {
    let lines = Lines::default();
    let theirs = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let line = line.expect("UTF-8");
            let value = serde_json::from_str(&line).unwrap_or_else(|why| panic!("{why}: {line}"));
            theirs.lock().unwrap().push(value);
        }
    });
    lines
}

fn count_of(lines: &Lines, wanted: impl Fn(&Value) -> bool) -> u64 {
    let lines = lines.lock().unwrap();
    lines.iter().filter(|line| wanted(line)).count() as u64
}

/// The lines that such a message says are missing.
fn told(lines: &Lines, message: &str) -> u64 {
    let lines = lines.lock().unwrap();
    let told = lines.iter().filter(|line| line["msg"] == message);
    told.filter_map(|line| line["lines"].as_u64()).sum()
}

fn make_fifo(dir: &Scratch) -> PathBuf {
    let fifo = dir.file("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    fifo
}

#[test]
fn a_blocked_pipe_costs_lines_and_no_message() {
    let origin = echo_origin();
    let dir = Scratch::new("logs");
    let fifo = make_fifo(&dir);
    // Both ends, so that wsteady does not wait for a reader; nobody reads yet.
    let both = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&fifo)
        .unwrap();
    let changes = json!({ "log": { "format": "json" } });
    let proxy = Proxy::start_through(&stderr_to(&fifo), &[origin.url()], changes);
    let pipe = OpenOptions::new().read(true).open(&fifo).unwrap();
    drop(both);
    let (stop, passed) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let crowd = crowd(proxy.address, &stop, &passed);
    let mut client = Raw::open(proxy.address, "/", "");
    let mut slowest = Duration::ZERO;
    let lost = || proxy.count("wsteady_log_lines_lost_total", &[]);
    // Pipe and queue are full, and lines go on to be lost.
    until_true(Duration::from_secs(90), "lines to be lost", || {
        slowest = slowest.max(echo(&mut client));
        lost() > 500
    });
    stop.store(true, Relaxed);
    crowd.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(slowest < Duration::from_secs(2), "an echo took {slowest:?}");
    drop(client);
    until_true(SOON, "all to have left", || {
        proxy.count("wsteady_connections_active", &[]) == 0
    });

    let lines = read_lines(pipe);
    let sessions = passed.load(Relaxed) + 1;
    until(SOON, "each line to be there or counted", || {
        let (lost, held_back) = (
            lost(),
            proxy.count("wsteady_log_lines_held_back_total", &[]),
        );
        let written = count_of(&lines, |line| line["target"] == "session");
        let told = (told(&lines, "lines lost"), told(&lines, "lines held back"));
        // One when it opened, one when it ended.
        let whole = written + lost + held_back == 2 * sessions;
        (whole && told == (lost, held_back)).then_some(())
    });
    proxy.finish();
    assert!(
        count_of(&lines, |line| line["msg"] == "stopped") == 1,
        "the end is logged again"
    );
}

#[test]
fn a_full_disk_or_a_reader_that_has_gone_costs_lines_and_no_message() {
    let dir = Scratch::new("logs");
    let fifo = make_fifo(&dir);
    for path in [Path::new("/dev/full"), &fifo] {
        let origin = echo_origin();
        let reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let proxy = Proxy::start_through(&stderr_to(path), &[origin.url()], json!({}));
        drop(reader);
        let before = proxy.count("wsteady_log_lines_lost_total", &[]);
        let mut client = Raw::open(proxy.address, "/", "");
        for _ in 0..20 {
            pass_through(proxy.address);
            assert!(echo(&mut client) < Duration::from_secs(2));
        }
        drop(client);
        until_true(SOON, "every line to be counted", || {
            proxy.count("wsteady_log_lines_lost_total", &[]) - before == 2 * 21
        });
        proxy.finish();
    }
}

/// Paths that would end a line, forge one, steer a terminal or fill a disk; and whether a session
/// may have them.
fn hostile_paths() -> Vec<(Vec<u8>, bool)> {
    let taken = [
        "/\",\"level\":\"error\",\"msg\":\"forged\",\"x\":\"",
        "/a=b&session=0",
        "/{\"ts\":1}",
        &format!("/{}", "long".repeat(2000)),
    ]
    .map(|text| (text.as_bytes().to_vec(), true));
    // No request targets (RFC 9112, 3.2).
    let others = [
        &br"/\n2026-01-01T00:00:00.000Z"[..],
        br"/\u000a\x1b[2J",
        b"/%0A%0d%1b2J",
        "/\u{9b}2J".as_bytes(),
        "/\u{2028}line".as_bytes(),
        "/\u{202e}gnp.exe".as_bytes(),
        "/\u{200b}\u{e0041}".as_bytes(),
        "/grün".as_bytes(),
        b"/\x1b[31m",
        b"/a\nb",
        b"/a\rb",
        b"/a\0b",
        b"/a\x7fb",
        b"/a\tb",
        b"/\xff\xfe",
        b"/\xc3",
    ];
    let others = others.map(|bytes| (bytes.to_vec(), false));
    taken.into_iter().chain(others).collect()
}

/// Asks for each path; gives those that became sessions.
fn visit(address: SocketAddr) -> Vec<String> {
    let head = handshake("/PATH", "");
    let (before, behind) = head.split_once("/PATH").unwrap();
    let mut taken = Vec::new();
    for (path, may) in hostile_paths() {
        let mut client = Raw::connect(address);
        client.send(&[before.as_bytes(), &path, behind.as_bytes()].concat());
        let expected = if may { 101 } else { 400 };
        assert_eq!(
            client.head(SOON).status(),
            expected,
            "{}",
            path.escape_ascii()
        );
        taken.extend(String::from_utf8(path).ok().filter(|_| may));
    }
    taken
}

#[test]
fn no_request_can_forge_a_line() {
    let origin = echo_origin();
    for format in ["json", "text"] {
        let changes = json!({ "log": { "format": format, "level": "debug" } });
        let proxy = Proxy::start(&[origin.url()], changes);
        let taken = visit(proxy.address);
        until_true(SOON, "all to have left", || {
            proxy.count("wsteady_connections_active", &[]) == 0
        });
        let opened = |log: &str| {
            log.lines()
                .filter(|line| is_line_of(format, line, "opened"))
                .count()
        };
        until_true(SOON, "a line for each session", || {
            opened(&proxy.log()) == taken.len()
        });
        let log = proxy.log();
        for line in log.lines() {
            assert!(!line.chars().any(is_sly), "{line:?}");
            assert!(line.len() < 16 << 10, "{} bytes", line.len());
            must_be_a_line(format, line);
        }
        if format == "json" {
            let paths: Vec<String> = log
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap())
                .filter_map(|line| Some(line["path"].as_str()?.to_owned()))
                .collect();
            for path in &taken {
                let is_it = |logged: &String| match logged.strip_suffix("[…]") {
                    Some(start) => path.starts_with(start) && start.len() > 2000,
                    None => logged == path,
                };
                assert!(paths.iter().any(is_it), "{path:?} is not told as it was");
            }
        }
        proxy.finish();
    }
}

/// What may not stand in a line: it would end it, steer a terminal, or not be seen.
fn is_sly(one: char) -> bool {
    let hidden = [
        '\u{200b}',
        '\u{2028}',
        '\u{2029}',
        '\u{202e}',
        '\u{feff}',
        '\u{e0041}',
    ];
    one.is_control() || hidden.contains(&one)
}

const LEVELS: [&str; 3] = ["debug", "info", "warn"];

fn must_be_a_line(format: &str, line: &str) {
    if format == "json" {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
        let keys = line.as_object().unwrap().keys().take(4);
        assert_eq!(
            keys.collect::<Vec<_>>(),
            ["ts", "level", "target", "msg"],
            "{line}"
        );
        assert!(LEVELS.contains(&line["level"].as_str().unwrap()), "{line}");
    } else {
        let mut words = line.split_whitespace();
        let time = words.next().unwrap();
        assert!(time.len() == 24 && time.ends_with('Z'), "{line}");
        let level = words.next().unwrap().to_lowercase();
        assert!(LEVELS.contains(&level.as_str()), "{line}");
    }
}

fn is_line_of(format: &str, line: &str, message: &str) -> bool {
    match format {
        "json" => serde_json::from_str::<Value>(line).is_ok_and(|line| line["msg"] == message),
        _ => line.split_whitespace().nth(3) == Some(message),
    }
}
