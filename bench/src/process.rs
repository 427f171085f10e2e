//! What Linux says about another process (proc(5)).

use std::io;

/// Processor time, memory and size of one process at one moment.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Sample {
    /// Seconds of all its threads in user space, in steps of 10 ms.
    pub user_seconds: f64,
    /// Seconds of all its threads in the kernel, in steps of 10 ms.
    pub system_seconds: f64,
    /// Bytes that belong to nobody else: heap and stacks.
    pub anonymous_bytes: u64,
    /// Resident bytes, shared ones divided by those who share them.
    pub pss_bytes: u64,
    pub threads: u64,
}

impl Sample {
    /// Reads the process.
    ///
    /// # Errors
    /// There is no such process, or it belongs to somebody else.
    pub fn read(pid: u32) -> io::Result<Self> {
        let (user_seconds, system_seconds) = cpu(pid)?;
        let rollup = proc_file(pid, "smaps_rollup")?;
        let status = proc_file(pid, "status")?;
        Ok(Self {
            user_seconds,
            system_seconds,
            anonymous_bytes: line(&rollup, "Anonymous:") * 1024,
            pss_bytes: line(&rollup, "Pss:") * 1024,
            threads: line(&status, "Threads:"),
        })
    }
}

/// Only the processor times, which cost the process nothing to be asked for: user, system.
///
/// # Errors
/// There is no such process.
pub fn cpu(pid: u32) -> io::Result<(f64, f64)> {
    let stat = proc_file(pid, "stat")?;
    times(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood")))
}

/// Bytes of heap and stacks, without the walk through all pages that [`Sample::read`] costs the process.
///
/// # Errors
/// There is no such process, or it has ended and nobody has asked how.
pub fn anonymous_bytes(pid: u32) -> io::Result<u64> {
    let status = proc_file(pid, "status")?;
    if !status.contains("RssAnon:") {
        return Err(io::Error::other(format!("process {pid} has ended")));
    }
    Ok(line(&status, "RssAnon:") * 1024)
}

/// Fields 14 and 15 of a stat line, which count all threads, those that ended, too.
fn times(stat: &str) -> Option<(f64, f64)> {
    // The name in field 2 may hold blanks and parentheses; nothing behind it does.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    let mut seconds = || {
        fields
            .next()?
            .parse::<u64>()
            .ok()
            .map(|ticks| ticks as f64 / per_second)
    };
    Some((seconds()?, seconds()?))
}

/// The number behind `name`, 0 if this kernel has no such line.
pub fn line(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn proc_file(pid: u32, name: &str) -> io::Result<String> {
    let path = format!("/proc/{pid}/{name}");
    std::fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_name_does_not_shift_the_fields() {
        let stat = "7 (a) R (b c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 5 6";
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(times(stat), Some((250.0 / per_second, 50.0 / per_second)));
        assert_eq!(times("7 (cut) S 1 2"), None);
    }

    #[test]
    fn work_and_memory_of_this_process_are_seen() {
        let pid = std::process::id();
        let before = Sample::read(pid).unwrap();
        let block = std::hint::black_box(vec![1_u8; 32 << 20]);
        let started = std::time::Instant::now();
        let mut sum = 0_u64;
        while started.elapsed().as_millis() < 60 {
            sum += block.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
        std::hint::black_box(sum);
        let after = Sample::read(pid).unwrap();
        let cpu = |sample: &Sample| sample.user_seconds + sample.system_seconds;
        assert!(cpu(&after) > cpu(&before));
        assert!(after.anonymous_bytes >= before.anonymous_bytes + (30 << 20));
        assert!(after.pss_bytes > 0 && after.threads > 0);
        assert!(Sample::read(0).is_err());
    }
}
