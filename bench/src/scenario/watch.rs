//! What is seen from outside: the watched processes, the kernel's sockets, the proxy's own metrics.

use crate::process;
use crate::{http, run};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A process with the name that scenarios and reports have for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub name: String,
    pub pid: u32,
}

/// Reads `NAME=PID`.
///
/// # Errors
/// A sentence that says what was expected.
pub fn process(text: &str) -> Result<Process, String> {
    let wrong = || format!("{text:?} is no process; write NAME=PID, say proxy=1234");
    let (name, pid) = text.split_once('=').ok_or_else(wrong)?;
    let pid = pid.parse().ok().filter(|pid| *pid > 1).ok_or_else(wrong)?;
    if name.is_empty() {
        return Err(wrong());
    }
    Ok(Process {
        name: name.to_string(),
        pid,
    })
}

/// Where a proxy says what it holds.
#[derive(Clone, Debug)]
pub struct Metrics {
    target: SocketAddr,
    host: String,
    path: String,
}

/// Reads `http://host:port/metrics`.
///
/// # Errors
/// A sentence that says what was expected.
pub fn metrics(url: &str) -> Result<Metrics, String> {
    let (target, host, path) =
        run::parse_url(url, "http").map_err(|error| error.replace("--url", "the metrics' URL"))?;
    Ok(Metrics { target, host, path })
}

/// What one process used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Since it started, in user space and in the kernel.
    pub user_seconds: f64,
    pub system_seconds: f64,
    pub anonymous_bytes: u64,
}

impl Usage {
    /// Of processor time, user space and kernel.
    pub fn seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }
}

/// All that is seen at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sight {
    /// In the order of the command line; `None` for one that is gone.
    pub processes: Vec<Option<Usage>>,
    pub kernel: Kernel,
    /// `None` if the proxy was not asked or did not answer.
    pub held: Option<Held>,
}

/// The kernel's part, of all processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    pub tcp_sockets: u64,
    /// What waits in sockets, in whole pages.
    pub tcp_buffer_bytes: u64,
    /// All the kernel's small objects, sockets among them.
    pub slab_bytes: u64,
}

/// What wsteady says that it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub connections: u64,
    pub buffer_bytes: u64,
    /// Request heads that are kept for the next server.
    pub kept_bytes: u64,
    pub failovers: u64,
    /// Sessions that have no server at this moment.
    pub sessions_held: u64,
}

/// Looks at all of them.
pub fn look(processes: &[Process], metrics: Option<&Metrics>) -> Sight {
    Sight {
        processes: processes.iter().map(|one| usage(one.pid)).collect(),
        kernel: kernel(),
        held: metrics.and_then(Metrics::ask),
    }
}

fn usage(pid: u32) -> Option<Usage> {
    let (user_seconds, system_seconds) = process::cpu(pid).ok()?;
    Some(Usage {
        user_seconds,
        system_seconds,
        anonymous_bytes: process::anonymous_bytes(pid).ok()?,
    })
}

fn kernel() -> Kernel {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (sockets, pages) = sockstat(&read("/proc/net/sockstat"));
    let page = rustix::param::page_size() as u64;
    Kernel {
        tcp_sockets: sockets,
        tcp_buffer_bytes: pages * page,
        slab_bytes: process::line(&read("/proc/meminfo"), "Slab:") * 1024,
    }
}

/// TCP sockets that exist, and pages of what waits in them.
fn sockstat(text: &str) -> (u64, u64) {
    let tcp = text.lines().find_map(|line| line.strip_prefix("TCP:"));
    let words: Vec<_> = tcp.unwrap_or_default().split_whitespace().collect();
    let value = |name| {
        let found = words.chunks_exact(2).find(|pair| pair[0] == name);
        found.and_then(|pair| pair[1].parse().ok()).unwrap_or(0)
    };
    (value("alloc"), value("mem"))
}

impl Metrics {
    /// Asks once; the answer of a proxy that is too busy is missed, not waited for.
    fn ask(&self) -> Option<Held> {
        let mut socket = TcpStream::connect_timeout(&self.target, PATIENCE).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        let (host, path) = (&self.host, &self.path);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).ok()?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 16 * 1024]);
        loop {
            let count = socket.read(&mut buffer).ok().filter(|count| *count > 0)?;
            answer.extend_from_slice(&buffer[..count]);
            if let Some(response) = http::response(&answer).ok()? {
                let text = std::str::from_utf8(response.body).ok()?;
                return (response.status == 200).then(|| Held::read(text));
            }
        }
    }
}

impl Held {
    fn read(text: &str) -> Self {
        let sum = |name: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(name));
            // Behind the name come labels or a blank, or it is another name.
            let lines = lines.filter(|rest| rest.starts_with(['{', ' ']));
            let values = lines.filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok());
            values.sum::<f64>() as u64
        };
        Self {
            connections: sum("wsteady_connections_active"),
            buffer_bytes: sum("wsteady_buffer_bytes"),
            kept_bytes: sum("wsteady_kept_bytes"),
            failovers: sum("wsteady_failovers_total"),
            sessions_held: sum("wsteady_sessions_held"),
        }
    }
}

const PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_have_names() {
        let proxy = Process {
            name: "proxy".to_string(),
            pid: 12,
        };
        assert_eq!(process("proxy=12"), Ok(proxy));
        for wrong in ["proxy", "=12", "proxy=", "proxy=x", "proxy=0", "proxy=1"] {
            assert!(process(wrong).unwrap_err().contains("NAME=PID"), "{wrong}");
        }
    }

    #[test]
    fn the_kernels_line_is_read() {
        let text = "sockets: used 9\nTCP: inuse 6 orphan 1 tw 2 alloc 81 mem 7\nUDP: inuse 1 mem 3";
        assert_eq!(sockstat(text), (81, 7));
        assert_eq!(sockstat(""), (0, 0));
    }

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let text = "# TYPE wsteady_failovers_total counter\n\
            wsteady_failovers_total{pool=\"a b\",reason=\"lost\"} 3\n\
            wsteady_failovers_total{pool=\"c\",reason=\"lost\"} 4\n\
            wsteady_buffer_bytes 4096\nwsteady_buffer_bytes_max 7\nwsteady_kept_bytes 1e3\n\
            wsteady_sessions_held{pool=\"c\"} 5\n";
        let held = Held {
            connections: 0,
            buffer_bytes: 4096,
            kept_bytes: 1000,
            failovers: 7,
            sessions_held: 5,
        };
        assert_eq!(Held::read(text), held);
    }

    #[test]
    fn a_process_that_is_gone_is_a_gap() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = Process {
            name: "gone".to_string(),
            pid: child.id(),
        };
        child.wait().unwrap();
        let own = Process {
            name: "own".to_string(),
            pid: std::process::id(),
        };
        let sight = look(&[own, gone], None);
        assert!(sight.processes[0].is_some_and(|usage| usage.anonymous_bytes > 0));
        assert_eq!(sight.processes[1], None);
    }
}
