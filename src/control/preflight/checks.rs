//! The limits, one function each. What each compares is in the words of its `why`.
//!
//! Not here: `vm.max_map_count`. Journals are mapped in blocks of 128 KiB, which the kernel merges
//! where they touch, and where a map is refused the allocator grows its heap instead.

use std::collections::BTreeSet;

use super::machine::{Machine, Read};
use super::need::{Need, addresses, connections_per_server};
use super::sysctls;
use super::{Check, Options, Verdict};
use crate::control::config::{Loops, PoolConfig};

/// Everything, in the order of the table.
pub(super) fn all(options: &Options, machine: &Machine) -> Vec<Check> {
    let looks = Looks {
        options,
        machine,
        need: Need::of(options),
    };
    let mut checks = vec![
        looks.own_bound(),
        looks.open_files(),
        looks.nr_open(),
        looks.file_max(),
        looks.watches(),
    ];
    looks.ports(&mut checks);
    checks.extend([
        looks.own_ports(),
        looks.port_reuse(),
        looks.backlog("net.core.somaxconn"),
        looks.syn_backlog(),
        looks.syncookies(),
        looks.tcp_memory(),
    ]);
    for name in ["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"] {
        checks.push(looks.socket_memory(name));
    }
    checks.extend(looks.socket_bounds());
    checks.extend(looks.conntrack());
    checks.push(looks.memory());
    checks.push(looks.group_memory());
    checks.push(looks.journals());
    checks.extend(looks.overcommit());
    checks.push(looks.swapping());
    checks.push(looks.threads());
    checks.push(looks.cores());
    checks
}

struct Looks<'a> {
    options: &'a Options,
    machine: &'a Machine,
    need: Need,
}

impl Looks<'_> {
    fn own_bound(&self) -> Check {
        let found = u64::from(self.options.config.limits.connections);
        let wanted = self.need.clients;
        at_least(
            "limits.connections",
            Ok(found),
            wanted,
            "wsteady itself takes no more clients than this",
            || format!("limits: {{ connections: {wanted} }} in the configuration"),
        )
    }

    fn tables(&self) -> u64 {
        match self.machine.own_tables {
            true => self.need.loops,
            false => 1,
        }
    }

    fn open_files(&self) -> Check {
        let wanted = self.need.descriptors(self.tables());
        let found = self.machine.open_files();
        let hard = found.clone().unwrap_or(0);
        let mend = || {
            let here = format!("ulimit -n {wanted} as root");
            let unit = format!("LimitNOFILE={wanted} in the unit");
            let more = self.loops_that_fit(hard);
            let more = more.map_or(String::new(), |loops| format!(", or --loops {loops}"));
            format!("{here}; {unit}{more}")
        };
        let why = match self.machine.own_tables {
            true => {
                "each loop has a descriptor table of its own; this is the limit here, \
                 a service has that of its unit"
            }
            false => {
                "all loops share one descriptor table, for the kernel refuses them their own \
                 (a container's seccomp profile does)"
            }
        };
        let mut check = at_least("RLIMIT_NOFILE (hard)", found, wanted, why, mend);
        if hard == u64::MAX {
            check.found = "unlimited".into();
        }
        check
    }

    /// The number of loops at which the limit would do.
    fn loops_that_fit(&self, hard: u64) -> Option<u64> {
        let range = self.need.loops + 1..=LOOPS_MAX;
        let mut fitting = range.filter(|loops| self.need.descriptors(*loops) <= hard);
        fitting.next().filter(|_| self.machine.own_tables)
    }

    fn nr_open(&self) -> Check {
        let wanted = self.need.descriptors(self.tables());
        self.one_number(
            "fs.nr_open",
            wanted,
            "RLIMIT_NOFILE can't be raised above it",
        )
    }

    fn file_max(&self) -> Check {
        // Descriptors of others count, too.
        let used = self.machine.list::<3>("fs.file-nr").map_or(0, |all| all[0]);
        let wanted = self.need.sockets + used + FILES_BESIDE;
        self.one_number(
            "fs.file-max",
            wanted,
            "open files of the whole host, with those that are open now",
        )
    }

    fn watches(&self) -> Check {
        let why = "each socket is watched by one epoll";
        self.one_number("fs.epoll.max_user_watches", self.need.sockets, why)
    }

    fn ports(&self, checks: &mut Vec<Check>) {
        const NAME: &str = "net.ipv4.ip_local_port_range";
        let range = self.machine.list::<2>(NAME).and_then(|[first, last]| {
            let count = last.checked_sub(first).map(|count| count + 1);
            count.ok_or_else(|| "ends before it begins".to_owned())
        });
        let range = match range {
            Ok(range) => range,
            Err(why) => return checks.push(unreadable(NAME, why)),
        };
        if self.options.is_assumed {
            return self.ports_in_all(range, checks);
        }
        for pool in &self.options.config.pools {
            checks.push(self.ports_of(pool, range));
        }
    }

    /// Without servers to count: the range must be wide, and how many of them it takes is said.
    fn ports_in_all(&self, range: u64, checks: &mut Vec<Check>) {
        let name = "net.ipv4.ip_local_port_range";
        let wanted = self.need.clients.min(PORTS_MAX);
        let why = "ports towards one server from one address";
        let mut check = at_least(name, Ok(range), wanted, why, || set_listed(name));
        check.found = format!("{range} ports");
        check.wanted = format!("{wanted} ports");
        checks.push(check);
        let pairs = self.need.clients.div_ceil(range.max(1));
        if pairs > 1 {
            checks.push(Check {
                name: "servers x source addresses".into(),
                found: "not known".into(),
                wanted: pairs.to_string(),
                verdict: Verdict::Advice,
                why: format!("each pair has {range} ports"),
                mend: "wsteady preflight --config FILE counts them".into(),
            });
        }
    }

    fn ports_of(&self, pool: &PoolConfig, range: u64) -> Check {
        let wanted = connections_per_server(pool, self.need.clients);
        let sources = pool.source_addresses.len().max(1) as u64;
        let mend = || {
            let needed = wanted.div_ceil(PORTS_MAX);
            let wide = (range < PORTS_MAX).then(|| set_listed("net.ipv4.ip_local_port_range"));
            let more = (needed > sources).then(|| {
                format!(
                    "{needed} local addresses in source_addresses of pool {}, or more servers",
                    pool.name
                )
            });
            let steps: Vec<String> = wide.into_iter().chain(more).collect();
            steps.join("; and ")
        };
        let why = match (pool.connections, addresses(pool)) {
            (Some(_), _) => "connections.max of the pool, towards each server",
            (None, 0 | 1) => "every session takes a port towards the one server",
            (None, _) => {
                "a port per session and server; when one is lost, the others get its share"
            }
        };
        let name = format!("local ports, pool {}", pool.name);
        at_least(&name, Ok(range * sources), wanted, why, mend)
    }

    /// While wsteady is down, a connection of anybody may get a port on which it listens.
    fn own_ports(&self) -> Check {
        const NAME: &str = "net.ipv4.ip_local_reserved_ports";
        let range = self
            .machine
            .list::<2>("net.ipv4.ip_local_port_range")
            .unwrap_or([0, u64::from(u16::MAX)]);
        let reserved = match self.machine.sysctl(NAME) {
            Ok(reserved) => reserved,
            Err(why) => return unreadable(NAME, why),
        };
        let config = &self.options.config;
        let addresses = config.listen.iter().map(|one| one.address);
        let ports: BTreeSet<u16> = addresses
            .chain([config.admin.address])
            .map(|address| address.port())
            .filter(|port| *port > 0 && (range[0]..=range[1]).contains(&u64::from(*port)))
            .collect();
        let open = ports.iter().filter(|port| !names_port(&reserved, **port));
        let open: Vec<String> = open.map(u16::to_string).collect();
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let or_none = |text: &str| match text {
            "" => "none".to_owned(),
            text => text.to_owned(),
        };
        let all = match reserved.as_str() {
            "" => open.join(","),
            some => format!("{some},{}", open.join(",")),
        };
        let enough = open.is_empty();
        Check {
            name: NAME.into(),
            found: or_none(&reserved),
            wanted: or_none(&ports.join(",")),
            verdict: if enough {
                Verdict::Enough
            } else {
                Verdict::Advice
            },
            why: "a connection that got one of these ports would keep wsteady from starting".into(),
            mend: if enough {
                String::new()
            } else {
                format!("sysctl -w {NAME}={all}")
            },
        }
    }

    fn port_reuse(&self) -> Check {
        const NAME: &str = "net.ipv4.tcp_tw_reuse";
        advise(
            NAME,
            self.machine.number(NAME),
            |found| found == 1,
            "a port that was closed is else not used for a minute, but towards loopback",
        )
    }

    /// What a queue of one listener must hold if all clients come at once.
    fn storm(&self) -> u64 {
        self.need.clients.div_ceil(self.need.loops).min(BACKLOG)
    }

    fn backlog(&self, name: &str) -> Check {
        let why = "clients that all come back at once wait here, a queue for each loop";
        self.one_number(name, self.storm(), why)
    }

    fn syn_backlog(&self) -> Check {
        let mut check = self.backlog("net.ipv4.tcp_max_syn_backlog");
        // With them, the kernel looks at somaxconn alone.
        let cookies = self.machine.number("net.ipv4.tcp_syncookies");
        if check.verdict == Verdict::TooSmall && cookies.is_ok_and(|cookies| cookies > 0) {
            check.verdict = Verdict::Advice;
        }
        check
    }

    fn syncookies(&self) -> Check {
        const NAME: &str = "net.ipv4.tcp_syncookies";
        advise(
            NAME,
            self.machine.number(NAME),
            |found| found > 0,
            "without them a flood of SYNs shuts clients out",
        )
    }

    fn tcp_memory(&self) -> Check {
        const NAME: &str = "net.ipv4.tcp_mem";
        let wanted = self.need.sockets;
        let found = self.machine.list::<3>(NAME);
        let shown = found.clone();
        let mend = || {
            let [low, pressure, _] = shown.clone().unwrap_or_default();
            let low = low.max(wanted / 2);
            let pressure = pressure.max(wanted / 4 * 3);
            format!("sysctl -w {NAME}=\"{low} {pressure} {wanted}\"")
        };
        let why = format!(
            "a page of {} bytes for each socket that has anything to send or to be read",
            self.machine.page
        );
        let mut check = at_least(NAME, found.clone().map(|all| all[2]), wanted, &why, mend);
        if let Ok([_, _, high]) = found {
            check.found = format!("{high} pages");
            check.wanted = format!("{wanted} pages");
        }
        check
    }

    fn socket_memory(&self, name: &'static str) -> Check {
        let found = match self.machine.list::<3>(name) {
            Ok(found) => found,
            Err(why) => return unreadable(name, why),
        };
        let [least, start, most] = found;
        let listed = sysctls::value(name);
        let start_listed = middle(listed);
        let enough = least >= SOCKET_LEAST && start >= SOCKET_LEAST && most >= SOCKET_MOST;
        let grows_alone = self.options.config.limits.socket_buffer == 0;
        let (verdict, why) = match (enough, grows_alone && start > start_listed) {
            (false, _) => (
                Verdict::TooSmall,
                "least, first and largest size of a socket's buffer: long messages would crawl",
            ),
            (true, true) => (
                Verdict::Advice,
                "the middle value is what each peer may send before anybody has looked at it",
            ),
            (true, false) => (Verdict::Enough, "least, first and largest size of a buffer"),
        };
        Check {
            name: name.into(),
            found: found.map(|one| one.to_string()).join(" "),
            wanted: match verdict {
                Verdict::TooSmall | Verdict::Advice => listed.to_owned(),
                _ => format!("{SOCKET_LEAST} {SOCKET_LEAST} {SOCKET_MOST} or more"),
            },
            verdict,
            why: why.into(),
            mend: set_listed(name),
        }
    }

    /// Only a configured size meets these: the kernel cuts it to them.
    fn socket_bounds(&self) -> Vec<Check> {
        let wanted = self.options.config.limits.socket_buffer;
        if wanted == 0 {
            return Vec::new();
        }
        let check = |name: &&str| {
            let why = "the kernel cuts limits.socket_buffer to it";
            at_least(name, self.machine.number(name), wanted, why, || {
                set(name, wanted)
            })
        };
        ["net.core.rmem_max", "net.core.wmem_max"]
            .iter()
            .map(check)
            .collect()
    }

    fn conntrack(&self) -> Option<Check> {
        const NAME: &str = "net.netfilter.nf_conntrack_max";
        if !self.machine.has(NAME) {
            return None;
        }
        let used = self.machine.number("net.netfilter.nf_conntrack_count");
        let wanted = self.need.sockets + used.unwrap_or(0);
        let why = "netfilter is loaded, and drops new connections when its table is full";
        let found = self.machine.number(NAME);
        Some(at_least(NAME, found, wanted, why, || set(NAME, wanted)))
    }

    fn memory(&self) -> Check {
        let wanted = self.need.resting_bytes();
        let found = self.machine.memory("MemAvailable");
        let room = found.clone().unwrap_or(0);
        let mut check = at_least(
            "MemAvailable",
            found.clone(),
            wanted,
            "sessions and the kernel's part of their sockets, all at rest",
            || self.no_room(room),
        );
        in_mebibytes(&mut check, found.ok(), wanted);
        check
    }

    fn no_room(&self, room: u64) -> String {
        let fit = self.need.clients_in(room);
        format!("a machine with more memory, or at most {fit} connections on this one")
    }

    fn group_memory(&self) -> Check {
        const NAME: &str = "memory of the control group";
        let wanted = self.need.resting_bytes();
        let bound = match self.machine.group_bound("memory") {
            Ok(bound) => bound,
            Err(why) => return unreadable(NAME, why),
        };
        let mebibytes = wanted.div_ceil(MIB);
        let why = "the bound counts the kernel's part, too";
        let mend =
            || format!("MemoryMax={mebibytes}M in the unit; --memory {mebibytes}m for a container");
        let mut check = at_least(NAME, Ok(bound.unwrap_or(u64::MAX)), wanted, why, mend);
        in_mebibytes(&mut check, bound, wanted);
        if bound.is_none() {
            check.found = "no bound".into();
        }
        check
    }

    fn journals(&self) -> Check {
        const NAME: &str = "limits.memory";
        let wanted = self.options.config.limits.memory;
        let (free, bound) = (
            self.machine.memory("MemAvailable"),
            self.machine.group_bound("memory"),
        );
        let free = match free {
            Ok(free) => free.min(bound.ok().flatten().unwrap_or(u64::MAX)),
            Err(why) => return unreadable(NAME, why),
        };
        let left = free.saturating_sub(self.need.resting_bytes());
        let enough = left >= wanted;
        Check {
            name: NAME.into(),
            found: format!("{} MiB are left for it", left / MIB),
            wanted: format!("{} MiB", wanted.div_ceil(MIB)),
            verdict: if enough {
                Verdict::Enough
            } else {
                Verdict::Advice
            },
            why: "journals and queues may grow to it; what the machine lacks then ends wsteady"
                .into(),
            mend: match left / MIB {
                0 => "more memory".into(),
                left => format!("--memory {left}MiB, or more memory"),
            },
        }
    }

    /// Only where the kernel counts what was promised and not what is used.
    fn overcommit(&self) -> Option<Check> {
        const NAME: &str = "vm.overcommit_memory";
        match self.machine.number(NAME) {
            Ok(2) => {}
            Ok(_) => return None,
            Err(why) => return Some(unreadable(NAME, why)),
        }
        let limits = self.machine.memory("CommitLimit");
        let used = self.machine.memory("Committed_AS");
        let left = limits.and_then(|limit| Ok(limit.saturating_sub(used?)));
        let wanted = self.need.resting_bytes();
        let why = "the kernel promises no more memory than this (vm.overcommit_memory is 2)";
        let mut check = at_least("CommitLimit", left.clone(), wanted, why, || set(NAME, 0));
        in_mebibytes(&mut check, left.ok(), wanted);
        Some(check)
    }

    fn swapping(&self) -> Check {
        const NAME: &str = "vm.swappiness";
        let swap = self.machine.memory("SwapTotal");
        let listed = sysctls::value(NAME).parse().unwrap_or(0);
        let good = |found: u64| found <= listed || swap == Ok(0);
        let why = "a loop whose memory is on disk is a dead loop";
        advise(NAME, self.machine.number(NAME), good, why)
    }

    fn threads(&self) -> Check {
        const NAME: &str = "pids of the control group";
        let wanted = self.need.loops + THREADS_BESIDE;
        let bound = match self.machine.group_bound("pids") {
            Ok(bound) => bound,
            Err(why) => return unreadable(NAME, why),
        };
        let why = "a thread per loop, and those of the admin server";
        let found = Ok(bound.unwrap_or(u64::MAX));
        let mut check = at_least(NAME, found, wanted, why, || {
            format!("TasksMax={wanted} in the unit; --pids-limit {wanted} for a container")
        });
        if bound.is_none() {
            check.found = "no bound".into();
        }
        check
    }

    fn cores(&self) -> Check {
        const NAME: &str = "cores";
        let cores = match self.machine.cores() {
            Ok(cores) => cores,
            Err(why) => return unreadable(NAME, why),
        };
        let loops = self.need.loops;
        let idle = loops < cores;
        Check {
            name: NAME.into(),
            found: cores.to_string(),
            wanted: format!("{loops} (loops)"),
            verdict: if idle {
                Verdict::Advice
            } else {
                Verdict::Enough
            },
            why: format!(
                "{} of them would carry nothing",
                cores.saturating_sub(loops)
            ),
            mend: match self.options.config.loops {
                Loops::Count(_) => "--loops auto".into(),
                Loops::Auto => format!("--loops {cores}, if no CPU quota is set"),
            },
        }
    }

    /// A setting of the list that is one number and must be large enough.
    fn one_number(&self, name: &str, wanted: u64, why: &str) -> Check {
        at_least(name, self.machine.number(name), wanted, why, || {
            let listed: u64 = sysctls::value(name).parse().unwrap_or(0);
            set(name, wanted.max(listed))
        })
    }
}

/// Whether a list such as `80,8000-8010` has this port.
fn names_port(list: &str, port: u16) -> bool {
    list.split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let ends = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
        ends.is_some_and(|(first, last)| (first..=last).contains(&port))
    })
}

fn at_least(
    name: &str,
    found: Read<u64>,
    wanted: u64,
    why: &str,
    mend: impl FnOnce() -> String,
) -> Check {
    let found = match found {
        Ok(found) => found,
        Err(error) => return unreadable(name, error),
    };
    let enough = found >= wanted;
    Check {
        name: name.into(),
        found: found.to_string(),
        wanted: wanted.to_string(),
        verdict: if enough {
            Verdict::Enough
        } else {
            Verdict::TooSmall
        },
        why: why.into(),
        mend: if enough { String::new() } else { mend() },
    }
}

/// A setting of the list that is better so, whatever the number of connections.
fn advise(name: &str, found: Read<u64>, good: impl Fn(u64) -> bool, why: &str) -> Check {
    let found = match found {
        Ok(found) => found,
        Err(error) => return unreadable(name, error),
    };
    let good = good(found);
    Check {
        name: name.into(),
        found: found.to_string(),
        wanted: sysctls::value(name).into(),
        verdict: if good {
            Verdict::Enough
        } else {
            Verdict::Advice
        },
        why: why.into(),
        mend: if good {
            String::new()
        } else {
            set_listed(name)
        },
    }
}

fn unreadable(name: &str, why: String) -> Check {
    Check {
        name: name.into(),
        found: "?".into(),
        wanted: why,
        verdict: Verdict::Unreadable,
        why: String::new(),
        mend: String::new(),
    }
}

fn in_mebibytes(check: &mut Check, found: Option<u64>, wanted: u64) {
    if let Some(found) = found {
        check.found = format!("{} MiB", found / MIB);
    }
    if check.verdict != Verdict::Unreadable {
        check.wanted = format!("{} MiB", wanted.div_ceil(MIB));
    }
}

fn set(name: &str, value: u64) -> String {
    format!("sysctl -w {name}={value}")
}

/// Sets a setting to what the list has.
fn set_listed(name: &str) -> String {
    match sysctls::value(name) {
        value if value.contains(' ') => format!("sysctl -w {name}=\"{value}\""),
        value => format!("sysctl -w {name}={value}"),
    }
}

/// The second of three numbers.
fn middle(listed: &str) -> u64 {
    let word = listed.split(' ').nth(1).unwrap_or_default();
    word.parse().unwrap_or(u64::MAX)
}

const MIB: u64 = 1 << 20;

/// What `loops` takes at most.
const LOOPS_MAX: u64 = 1024;

/// What other programs may open meanwhile.
const FILES_BESIDE: u64 = 1024;

/// The admin server's connections have threads of their own, 64 at most; and some others.
const THREADS_BESIDE: u64 = 80;

/// What wsteady asks listen(2) for.
const BACKLOG: u64 = 65_535;

/// From 1024 to 65535.
const PORTS_MAX: u64 = 64_512;

/// One page: the kernel's own least.
const SOCKET_LEAST: u64 = 4096;

/// A loop's read buffer: a socket that can't grow so far makes every longer message several reads.
const SOCKET_MOST: u64 = 64 << 10;
