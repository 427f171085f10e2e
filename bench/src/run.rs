//! What runs of all kinds share: threads that begin and end together, one that measures
//! meanwhile, and progress on a terminal.

use crate::process::{self, Sample};
use crate::units::{self, nanos};
use indicatif::{ProgressBar, ProgressStyle};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

/// How many connections there are, on how many threads, and how long it takes.
#[derive(Clone)]
pub struct Shape {
    pub total: u32,
    pub threads: usize,
    pub warmup: Duration,
    /// Until all is done, if none is given.
    pub duration: Option<Duration>,
    /// What is counted, in the plural.
    pub counted: &'static str,
    /// What the window is spent with.
    pub doing: &'static str,
}

impl Shape {
    /// Connections of thread `index`.
    pub fn share(&self, index: usize) -> usize {
        let total = self.total as usize;
        total / self.threads + usize::from(index < total % self.threads)
    }

    /// The number, among all, of a thread's own `local`-th connection.
    pub fn number(&self, local: usize, index: usize) -> u32 {
        (local * self.threads + index) as u32
    }

    /// From when to when is measured, if traffic began to flow at `start`.
    pub fn window(&self, start: u64) -> (u64, u64) {
        let from = start.saturating_add(nanos(self.warmup));
        (
            from,
            self.duration
                .map_or(u64::MAX, |time| from.saturating_add(nanos(time))),
        )
    }
}

/// Threads for so many connections: as few as their descriptors allow, or as many as were asked
/// for. `spare` are a thread's descriptors that no connection may have.
///
/// # Errors
/// Too few were asked for.
pub fn threads(
    connections: u32,
    asked: Option<u16>,
    spare: u64,
    descriptors: u64,
) -> Result<usize, String> {
    let room = descriptors.saturating_sub(spare).max(1);
    let needed = u64::from(connections).div_ceil(room);
    let threads = asked.map_or(needed, u64::from);
    if threads < needed {
        let limit = format!("{descriptors} descriptors per thread");
        return Err(format!("{limit}: --threads must be at least {needed}"));
    }
    Ok((threads as usize).min(connections as usize))
}

/// Who looks on.
#[derive(Clone, Copy)]
pub struct Watch {
    /// The process whose processor time and memory are measured.
    pub pid: Option<u32>,
    pub quiet: bool,
}

/// What the measuring thread saw.
#[derive(Default)]
pub struct Measured {
    pub before: Option<Sample>,
    /// At the end of the window, all connections open.
    pub steady: Option<Sample>,
    pub after: Option<Sample>,
    pub steady_connections: u64,
    pub connect_seconds: f64,
    pub window_seconds: f64,
    pub window_count: u64,
    /// Seconds of the watched process in the window: user, system.
    pub cpu: Option<(f64, f64)>,
}

/// Runs `work` on each thread and measures: what each brought home, and what was seen.
///
/// # Errors
/// What kept the run from taking place.
pub fn conduct<T: Send>(
    shape: &Shape,
    watch: Watch,
    work: impl Fn(usize, &Shared) -> io::Result<T> + Sync,
) -> io::Result<(Vec<T>, Measured)> {
    // The first sample comes before the first connect.
    let before = watch.pid.map(Sample::read).transpose()?;
    let shared = Shared::new(shape.threads);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..shape.threads)
            .map(|index| {
                let (work, shared) = (&work, &shared);
                scope.spawn(move || {
                    let result = work(index, shared);
                    // However it ended: nobody waits for a thread that is gone.
                    shared.gone.fetch_add(1, Release);
                    result
                })
            })
            .collect();
        let measured = measure(shape, &shared, before, watch);
        shared.failed.store(measured.is_err(), Release);
        shared.close.store(true, Release);
        let mut all = Vec::with_capacity(threads.len());
        for thread in threads {
            let died = |_| io::Error::other("a thread died");
            all.push(thread.join().map_err(died)??);
        }
        Ok((all, measured?))
    })
}

/// Samples the process and the counters at the window's edges while the workers work.
fn measure(
    shape: &Shape,
    shared: &Shared,
    before: Option<Sample>,
    watch: Watch,
) -> io::Result<Measured> {
    let bar = Bar::new(watch.quiet);
    let sample = || watch.pid.map(Sample::read).transpose();
    let mut measured = Measured {
        before,
        ..Measured::default()
    };
    let opening = Instant::now();
    while shared.sum(|one| &one.opened) + shared.sum(|one| &one.failed) < shape.total.into() {
        bar.opening(shared, shape);
        shared.check()?;
        std::thread::sleep(Duration::from_millis(1));
    }
    measured.connect_seconds = opening.elapsed().as_secs_f64();
    let start = shared.clock.now();
    shared.start.store(start, Release);
    let (from, until) = shape.window(start);
    let over = |now| now >= until || shared.draining.load(Relaxed) == shape.threads;
    bar.wait(shared, shape, start, |now| now >= from || over(now))?;
    // Processor time is read on its own: to walk a process's memory disturbs it.
    let cpu = || watch.pid.map(process::cpu).transpose();
    let (cpu_from, count_from, time_from) = (cpu()?, shared.done(), shared.clock.now());
    bar.wait(shared, shape, start, over)?;
    let (cpu_until, count_until, time_until) = (cpu()?, shared.done(), shared.clock.now());
    measured.steady = sample()?;
    measured.steady_connections = shared
        .sum(|one| &one.opened)
        .saturating_sub(shared.sum(|one| &one.closed));
    measured.window_seconds = (time_until - time_from) as f64 / 1e9;
    measured.window_count = count_until - count_from;
    measured.cpu = cpu_from
        .zip(cpu_until)
        .map(|(from, until)| (until.0 - from.0, until.1 - from.1));
    shared.close.store(true, Release);
    while shared.gone.load(Relaxed) < shape.threads {
        std::thread::sleep(Duration::from_millis(1));
    }
    measured.after = sample()?;
    Ok(measured)
}

/// Time since the run began, the same for all threads.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds.
    pub fn now(&self) -> u64 {
        nanos(self.0.elapsed())
    }
}

/// The few words that threads share.
pub struct Shared {
    pub clock: Clock,
    /// When traffic may flow; 0 until then.
    pub start: AtomicU64,
    /// Threads whose traffic is over.
    pub draining: AtomicUsize,
    /// The last sample is taken: connections may be closed.
    pub close: AtomicBool,
    /// The run cannot be finished: whatever a thread is doing, it ends.
    pub failed: AtomicBool,
    gone: AtomicUsize,
    pub progress: Vec<Progress>,
}

/// One thread's counters, written by it alone. A cache line each.
#[derive(Default)]
#[repr(align(64))]
pub struct Progress {
    pub opened: AtomicU64,
    pub failed: AtomicU64,
    pub closed: AtomicU64,
    /// What is counted in the window.
    pub done: AtomicU64,
}

impl Shared {
    fn new(threads: usize) -> Self {
        Self {
            clock: Clock::start(),
            start: AtomicU64::new(0),
            draining: AtomicUsize::new(0),
            close: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            gone: AtomicUsize::new(0),
            progress: (0..threads).map(|_| Progress::default()).collect(),
        }
    }

    fn sum(&self, counter: impl Fn(&Progress) -> &AtomicU64) -> u64 {
        self.progress
            .iter()
            .map(|one| counter(one).load(Relaxed))
            .sum()
    }

    fn done(&self) -> u64 {
        self.sum(|one| &one.done)
    }

    /// A thread that is gone before the end has failed; its error comes with the join.
    fn check(&self) -> io::Result<()> {
        if self.gone.load(Relaxed) > 0 {
            return Err(io::Error::other("a thread ended early"));
        }
        Ok(())
    }
}

/// Progress on a terminal; nothing anywhere else.
struct Bar(ProgressBar);

impl Bar {
    fn new(quiet: bool) -> Self {
        let bar = if quiet {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(0)
        };
        let style = ProgressStyle::with_template("{prefix:10} [{bar:40}] {msg}");
        bar.set_style(style.expect("a constant template").progress_chars("=> "));
        Self(bar)
    }

    fn opening(&self, shared: &Shared, shape: &Shape) {
        let (opened, failed) = (shared.sum(|one| &one.opened), shared.sum(|one| &one.failed));
        self.0.set_prefix("connecting");
        self.0.set_length(shape.total.into());
        self.0.set_position(opened + failed);
        self.0
            .set_message(format!("{} open, {failed} failed", units::grouped(opened)));
    }

    /// Waits for `over`, looking often enough to meet the window's edge within a millisecond.
    fn wait(
        &self,
        shared: &Shared,
        shape: &Shape,
        start: u64,
        over: impl Fn(u64) -> bool,
    ) -> io::Result<()> {
        let (_, until) = shape.window(start);
        let (mut seen, mut since) = (shared.done(), shared.clock.now());
        while !over(shared.clock.now()) {
            shared.check()?;
            let now = shared.clock.now();
            if now - since >= 200_000_000 {
                let done = shared.done();
                let rate = (done - seen) as f64 * 1e9 / (now - since) as f64;
                self.0.set_prefix(shape.doing);
                self.0.set_length(until.saturating_sub(start) / 1_000_000);
                self.0.set_position((now - start) / 1_000_000);
                let rate = units::grouped(rate as u64);
                self.0.set_message(format!("{rate} {}/s", shape.counted));
                (seen, since) = (done, now);
            }
            let left = until.saturating_sub(now).max(100_000);
            std::thread::sleep(Duration::from_nanos(left).min(Duration::from_millis(5)));
        }
        Ok(())
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The target, the Host header and the path of `scheme://host:port/path`.
///
/// # Errors
/// It is no such URL, or its host has no address.
pub fn parse_url(url: &str, scheme: &str) -> Result<(SocketAddr, String, String), String> {
    let rest = url
        .strip_prefix(scheme)
        .and_then(|rest| rest.strip_prefix("://"))
        .ok_or_else(|| format!("--url must begin with {scheme}://"))?;
    let split = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(split);
    let path = if path.starts_with('/') {
        path.to_string()
    } else {
        format!("/{path}")
    };
    if path
        .bytes()
        .chain(host.bytes())
        .any(|byte| byte <= b' ' || byte == b'#' || byte >= 0x7f)
    {
        return Err("--url has a character that must be percent-encoded".to_string());
    }
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port {
        host.to_string()
    } else {
        let port = if matches!(scheme, "wss" | "https") {
            443
        } else {
            80
        };
        format!("{host}:{port}")
    };
    let mut found = address
        .to_socket_addrs()
        .map_err(|error| format!("{address}: {error}"))?;
    let target = found
        .next()
        .ok_or_else(|| format!("{address} has no address"))?;
    Ok((target, host.to_string(), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let parts = parse_url("ws://127.0.0.1:9000/a/b?c=d", "ws").unwrap();
        assert_eq!(parts.0, "127.0.0.1:9000".parse().unwrap());
        assert_eq!(
            (parts.1.as_str(), parts.2.as_str()),
            ("127.0.0.1:9000", "/a/b?c=d")
        );
        assert_eq!(parse_url("http://[::1]:7?x", "http").unwrap().2, "/?x");
        assert_eq!(parse_url("ws://127.0.0.1", "ws").unwrap().0.port(), 80);
        for wrong in [
            "http://127.0.0.1",
            "ws:/127.0.0.1",
            "ws://127.0.0.1:1/a b",
            "ws://127.0.0.1:1/\r\nX: y",
        ] {
            assert!(parse_url(wrong, "ws").is_err(), "{wrong}");
        }
    }

    #[test]
    fn threads_are_as_few_as_descriptors_allow() {
        assert_eq!(threads(100_000, None, 64, 20_000), Ok(6));
        assert_eq!(threads(100_000, Some(9), 64, 20_000), Ok(9));
        assert!(threads(100_000, Some(5), 64, 20_000).is_err());
        assert_eq!(threads(3, Some(9), 64, 20_000), Ok(3), "none is idle");
    }
}
