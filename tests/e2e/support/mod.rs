//! What the end-to-end tests stand on: processes, raw sockets, recording peers, the ledger.

pub mod api;
pub mod client;
pub mod crc32c;
pub mod example;
pub mod field;
pub mod frames;
pub mod hosts;
pub mod http;
pub mod ledger;
pub mod metrics;
pub mod netns;
pub mod peer;
pub mod proxy;
pub mod raw;
pub mod rng;
pub mod tls;
pub mod window;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a thing that happens at once on an idle machine may take on a busy one.
pub const SOON: Duration = Duration::from_secs(10);

/// Looks every few milliseconds until `look` sees something; panics after `limit`.
pub fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} in vain for: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// [`until`] for a plain condition.
pub fn until_true(limit: Duration, what: &str, mut look: impl FnMut() -> bool) {
    until(limit, what, || look().then_some(()));
}

/// Tests that need most of the machine take turns.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A loopback port that nobody listens on.
///
/// It lies below the kernel's ephemeral range (32768 on, which is looked at), so that no outgoing
/// connection of a test that runs beside this one can take it while its server is down. Each process starts elsewhere
/// and counts up, so that no two tests are given the same one.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u32 = range.split_whitespace().next().unwrap().parse().unwrap();
    assert!(
        first >= PORT_FIRST + PORTS,
        "net.ipv4.ip_local_port_range begins at {first}, so that connections take the tests' ports; \
         for the tests: sysctl -w net.ipv4.ip_local_port_range='32768 60999'"
    );
    let start = std::process::id().wrapping_mul(149) % PORTS;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(PORT_FIRST + (start + step) % PORTS).expect("below 32768");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

const PORT_FIRST: u32 = 12_000;
const PORTS: u32 = 20_000;

/// A directory of one test; it stays for a look when the test fails.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wsteady-e2e-{}-{step}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch { path }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("logs are kept in {}", self.path.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
