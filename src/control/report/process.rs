//! `process_*`: what Linux knows of this process (proc(5)). What can't be read is left out.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use super::{COUNTER, GAUGE, Page};

pub(super) fn write(page: &mut Page) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(ticks) = cpu_ticks(&stat) {
        page.single(
            "process_cpu_seconds_total",
            COUNTER,
            "User and system CPU time.",
            seconds(ticks),
        );
    }
    if let Some(start) = start_seconds(&stat) {
        page.single(
            "process_start_time_seconds",
            GAUGE,
            "When the process started, since the epoch.",
            start,
        );
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let sizes = [
        ("process_resident_memory_bytes", "VmRSS:", "Memory in RAM."),
        ("process_virtual_memory_bytes", "VmSize:", "Address space."),
    ];
    for (name, key, help) in sizes {
        if let Some(bytes) = kib(&status, key) {
            page.single(name, GAUGE, help, bytes);
        }
    }
    let tables = tables();
    if let Some(open) = tables.iter().map(|table| count(table)).sum::<Option<u64>>() {
        page.single(
            "process_open_fds",
            GAUGE,
            "Open descriptors in the tables of all loops and of the rest.",
            open,
        );
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        page.single(
            "process_max_fds",
            GAUGE,
            "Descriptors that fit into all those tables together.",
            limit.saturating_mul(tables.len() as u64),
        );
    }
}

/// The descriptor tables of this process: the one of the main thread, and one for each loop that
/// could get its own. `RLIMIT_NOFILE` counts for each.
fn tables() -> Vec<PathBuf> {
    let mut tables = vec![PathBuf::from("/proc/self/fd")];
    // A descriptor that was opened after all loops had started is in a loop's table only if that
    // table is ours. (kcmp(2) would say so directly, but containers forbid it.)
    let Ok(probe) = UnixDatagram::unbound() else {
        return tables;
    };
    let number = probe.as_raw_fd().to_string();
    let mark = fs::read_link(tables[0].join(&number)).ok();
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    for task in tasks.flatten().map(|task| task.path()) {
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
        let table = task.join("fd");
        let is_ours = fs::read_link(table.join(&number)).ok() == mark;
        if name.starts_with(LOOP_NAME) && !is_ours {
            tables.push(table);
        }
    }
    tables
}

/// Descriptors of a table.
fn count(table: &Path) -> Option<u64> {
    // Since Linux 6.2 the directory's size is the count; before it is 0, and 100,000 names are read.
    match fs::metadata(table).ok()?.len() {
        0 => Some(fs::read_dir(table).ok()?.count() as u64),
        size => Some(size),
    }
}

/// User and system time of all threads, also of those that have ended.
fn cpu_ticks(stat: &str) -> Option<u64> {
    Some(field(stat, 14)? + field(stat, 15)?)
}

fn start_seconds(stat: &str) -> Option<f64> {
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot = system
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + seconds(field(stat, 22)?))
}

/// A field of /proc/self/stat, counted from 1 as proc(5) does. The second one, the command's name in
/// parentheses, may hold blanks.
fn field(stat: &str, number: usize) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(')')?;
    let text = behind.split_whitespace().nth(number - 3)?;
    text.parse().ok()
}

/// A line of /proc/self/status in bytes.
fn kib(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let number = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    number.checked_mul(1024)
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND
}

/// The unit of times in /proc, `USER_HZ`: part of the kernel's ABI, and 100 wherever Rust runs.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the threads of loops are called, with a number behind it.
const LOOP_NAME: &str = "shard-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_a_name_with_parentheses() {
        let stat = "7 (a) b ) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 9 0 12345 6 7\n";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(field(stat, 22), Some(12_345));
        assert_eq!(field(stat, 40), None);
        assert_eq!(cpu_ticks(""), None);
        assert_eq!(
            kib("VmSize:\t 10 kB\nVmRSS:\t   3 kB\n", "VmRSS:"),
            Some(3072)
        );
        assert_eq!(kib("VmRSS:\t   3 kB\n", "VmSize:"), None);
    }

    #[test]
    fn a_loop_that_shares_our_table_is_not_counted_twice() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("shard-99".to_string());
        let shard = thread.spawn(move || wait.recv().is_err()).unwrap();
        let ours = Path::new("/proc/self/fd");
        assert_eq!(tables(), [ours]);
        let before = count(ours).unwrap();
        let _more: Vec<_> = (0..64).map(|_| UnixDatagram::unbound().unwrap()).collect();
        assert!(
            count(ours).unwrap() >= before + 32,
            "other tests close a few meanwhile"
        );
        drop(done);
        shard.join().unwrap();
    }
}
