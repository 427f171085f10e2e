//! What a machine says of itself: `/proc` and `/sys`, below a root that a test may choose.

use std::fs;
use std::path::{Path, PathBuf};

/// A machine, as its files show it.
pub struct Machine {
    /// `/`, or a directory with a `proc` and a `sys` in it.
    pub root: PathBuf,
    /// Bytes in a page.
    pub page: u64,
    /// Whether each loop can have a descriptor table of its own.
    pub own_tables: bool,
}

/// A value, or why it can't be known.
pub type Read<T> = Result<T, String>;

impl Machine {
    /// The machine that this process runs on.
    pub fn this(own_tables: bool) -> Machine {
        Machine {
            root: "/".into(),
            page: rustix::param::page_size() as u64,
            own_tables,
        }
    }

    /// A kernel setting as text, blanks between its words made one.
    pub fn sysctl(&self, name: &str) -> Read<String> {
        let path = format!("proc/sys/{}", name.replace('.', "/"));
        let text = self.text(&path)?;
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// A kernel setting that is one number.
    pub fn number(&self, name: &str) -> Read<u64> {
        numbers(&self.sysctl(name)?)
            .and_then(|all| <[u64; 1]>::try_from(all).ok())
            .map(|[one]| one)
            .ok_or_else(|| "not a number".to_owned())
    }

    /// A kernel setting of several numbers.
    pub fn list<const N: usize>(&self, name: &str) -> Read<[u64; N]> {
        numbers(&self.sysctl(name)?)
            .and_then(|all| all.try_into().ok())
            .ok_or_else(|| format!("not {N} numbers"))
    }

    /// Whether the kernel has a setting at all.
    pub fn has(&self, name: &str) -> bool {
        let path = format!("proc/sys/{}", name.replace('.', "/"));
        self.root.join(path).exists()
    }

    /// The hard limit of open files; wsteady raises the soft one to it. `u64::MAX`: none.
    pub fn open_files(&self) -> Read<u64> {
        let text = self.text("proc/self/limits")?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let word = line.and_then(|line| line.split_whitespace().nth(1));
        match word {
            Some("unlimited") => Ok(u64::MAX),
            word => word
                .and_then(|word| word.parse().ok())
                .ok_or_else(|| "no such line in /proc/self/limits".to_owned()),
        }
    }

    /// A line of `/proc/meminfo` in bytes.
    pub fn memory(&self, key: &str) -> Read<u64> {
        let text = self.text("proc/meminfo")?;
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.strip_prefix(':')?.trim().strip_suffix("kB"));
        number
            .and_then(|number| number.trim().parse::<u64>().ok()?.checked_mul(1024))
            .ok_or_else(|| format!("no {key} in /proc/meminfo"))
    }

    /// Cores that this process may use.
    pub fn cores(&self) -> Read<u64> {
        let text = self.text("proc/self/status")?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.and_then(count_of_ranges)
            .ok_or_else(|| "no Cpus_allowed_list in /proc/self/status".to_owned())
    }

    /// The tightest bound that the control groups around this process set: `memory` or `pids`.
    /// `None`: they set none.
    pub fn group_bound(&self, controller: &str) -> Read<Option<u64>> {
        let text = self.text("proc/self/cgroup")?;
        let mut bound = None;
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            let (bases, file) = match controllers {
                "" => (
                    &["sys/fs/cgroup", "sys/fs/cgroup/unified"][..],
                    format!("{controller}.max"),
                ),
                _ if controllers.split(',').any(|one| one == controller) => {
                    let file = match controller {
                        "memory" => "memory.limit_in_bytes".to_owned(),
                        _ => format!("{controller}.max"),
                    };
                    let base = match controller {
                        "memory" => &["sys/fs/cgroup/memory"][..],
                        _ => &["sys/fs/cgroup/pids"],
                    };
                    (base, file)
                }
                _ => continue,
            };
            for base in bases {
                bound = lower(bound, self.least_up_to(base, path, &file));
            }
        }
        Ok(bound)
    }

    /// The least number in the files of this name, from `base`/`path` up to `base`.
    fn least_up_to(&self, base: &str, path: &str, file: &str) -> Option<u64> {
        let base = self.root.join(base);
        // A group outside of the container's own view is `/../…`: only the container's root shows.
        let inner = path
            .split('/')
            .filter(|part| !part.is_empty() && *part != "..");
        let mut folder = base.clone();
        folder.extend(inner);
        let mut bound = None;
        while folder.starts_with(&base) {
            let own = fs::read_to_string(folder.join(file)).ok();
            let own = own.and_then(|text| text.trim().parse::<u64>().ok());
            bound = lower(bound, own.filter(|own| *own < UNBOUNDED));
            if !folder.pop() {
                break;
            }
        }
        bound
    }

    fn text(&self, path: &str) -> Read<String> {
        let full: PathBuf = self.root.join(Path::new(path));
        fs::read_to_string(full).map_err(|error| format!("/{path}: {error}"))
    }
}

fn numbers(text: &str) -> Option<Vec<u64>> {
    text.split(' ').map(|word| word.parse().ok()).collect()
}

fn lower(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// How many numbers `0-3,8` names.
fn count_of_ranges(text: &str) -> Option<u64> {
    let mut count = 0u64;
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        count += last.checked_sub(first)? + 1;
    }
    Some(count)
}

/// What the first version of control groups writes where there is no bound lies above.
const UNBOUNDED: u64 = 1 << 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_counted() {
        for (text, count) in [
            ("0", Some(1)),
            ("\t0-3\n", Some(4)),
            ("0-1,4,6-7", Some(5)),
            ("", None),
            ("3-1", None),
            ("a", None),
        ] {
            assert_eq!(count_of_ranges(text), count, "{text:?}");
        }
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::this(true);
        assert!(machine.open_files().unwrap() > 0);
        assert!(machine.cores().unwrap() > 0);
        assert!(machine.memory("MemAvailable").unwrap() > 0);
        assert!(machine.page >= 4096);
        machine.group_bound("memory").unwrap();
    }
}
