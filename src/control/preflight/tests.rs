//! Preflight on machines that are directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::control::config::Sources;

/// A machine on which 250,000 WebSocket sessions fit, four loops on four cores.
const GOOD: &[(&str, &str)] = &[
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max open files            1024                 1048576              files     \n\
         Max locked memory         8388608              8388608              bytes     \n",
    ),
    (
        "proc/self/status",
        "Name:\twsteady\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3\n",
    ),
    ("proc/self/cgroup", "0::/system.slice/wsteady.service\n"),
    (
        "proc/meminfo",
        "MemTotal:       32000000 kB\nMemFree:         1000000 kB\nMemAvailable:   16000000 kB\n\
         SwapTotal:       2000000 kB\nCommitLimit:    18000000 kB\nCommitted_AS:    1000000 kB\n",
    ),
    ("proc/sys/fs/nr_open", "1048576\n"),
    ("proc/sys/fs/file-max", "2466183\n"),
    ("proc/sys/fs/file-nr", "2176\t0\t2466183\n"),
    ("proc/sys/fs/epoll/max_user_watches", "5491533\n"),
    ("proc/sys/net/core/somaxconn", "65535\n"),
    ("proc/sys/net/core/rmem_max", "212992\n"),
    ("proc/sys/net/core/wmem_max", "212992\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "1024\t65535\n"),
    ("proc/sys/net/ipv4/ip_local_reserved_ports", "8080-8081\n"),
    ("proc/sys/net/ipv4/tcp_tw_reuse", "1\n"),
    ("proc/sys/net/ipv4/tcp_max_syn_backlog", "65535\n"),
    ("proc/sys/net/ipv4/tcp_syncookies", "1\n"),
    ("proc/sys/net/ipv4/tcp_mem", "287901\t383869\t575802\n"),
    ("proc/sys/net/ipv4/tcp_rmem", "4096\t16384\t4194304\n"),
    ("proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304\n"),
    ("proc/sys/vm/overcommit_memory", "0\n"),
    ("proc/sys/vm/swappiness", "10\n"),
    (
        "sys/fs/cgroup/system.slice/wsteady.service/memory.max",
        "max\n",
    ),
    (
        "sys/fs/cgroup/system.slice/wsteady.service/pids.max",
        "4915\n",
    ),
];

struct Fake(PathBuf);

impl Fake {
    fn new(changes: &[(&str, &str)]) -> Fake {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wsteady-preflight-{}-{step}", std::process::id());
        let fake = Fake(std::env::temp_dir().join(name));
        for (path, text) in GOOD.iter().chain(changes) {
            let path = fake.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fake
    }

    fn machine(&self) -> Machine {
        Machine {
            root: self.0.clone(),
            page: 4096,
            own_tables: true,
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Four loops, five servers: enough ports for 250,000 sessions when one of them is lost.
const SERVERS: &str = "pools: { chat: { servers: [ws://a, ws://b, ws://c, ws://d, ws://e] } }\n";

fn options(connections: u64, yaml: &str) -> Options {
    let text = format!("loops: 4\n{yaml}");
    let loaded = Sources::default().load_text(&text, "test");
    Options {
        connections,
        config: Box::new(loaded.unwrap_or_else(|why| panic!("{why}")).config),
        is_assumed: false,
        json: false,
        warnings: Vec::new(),
    }
}

fn of<'a>(report: &'a Report, name: &str) -> &'a Check {
    let found = report.checks().iter().find(|check| check.name == name);
    found.unwrap_or_else(|| panic!("no {name}: {}", report.table()))
}

#[test]
fn a_good_machine_is_good() {
    let fake = Fake::new(&[]);
    let report = examine(&options(250_000, SERVERS), &fake.machine());
    for check in report.checks() {
        assert_eq!(
            check.verdict,
            Verdict::Enough,
            "{check:?}\n{}",
            report.table()
        );
        assert_eq!(
            (check.name.is_empty(), check.found.is_empty()),
            (false, false)
        );
    }
    assert_eq!(report.too_small(), 0);
    assert!(
        report.table().ends_with("\nNo limit is too small.\n"),
        "{}",
        report.table()
    );
    assert_eq!(report.json()["enough"], true);
}

#[test]
fn every_setting_of_the_list_is_looked_at() {
    let fake = Fake::new(&[]);
    let mut with = options(250_000, SERVERS);
    with.is_assumed = true;
    let report = examine(&with, &fake.machine());
    for one in SYSCTLS {
        of(&report, one.name);
    }
    // And with the list's values nothing is to be said of it.
    let values = SYSCTLS.iter().map(|one| {
        let path = format!("proc/sys/{}", one.name.replace('.', "/"));
        (path, one.value)
    });
    let values: Vec<(String, &str)> = values.collect();
    let values: Vec<(&str, &str)> = values
        .iter()
        .map(|(path, value)| (path.as_str(), *value))
        .collect();
    let fake = Fake::new(&values);
    let report = examine(&with, &fake.machine());
    for one in SYSCTLS {
        assert_eq!(
            of(&report, one.name).verdict,
            Verdict::Enough,
            "{}",
            one.name
        );
    }
}

#[test]
fn each_limit_that_is_too_small_is_named_with_what_mends_it() {
    use Verdict::{Advice, TooSmall};
    type Row<'a> = (&'a str, &'a str, &'a str, Verdict, &'a str, &'a str);
    let table: &[Row<'_>] = &[
        (
            "proc/self/limits",
            "Max open files            1024                 20000                files     \n",
            "RLIMIT_NOFILE (hard)",
            TooSmall,
            "132274",
            "ulimit -n 132274 as root; LimitNOFILE=132274 in the unit, or --loops 28",
        ),
        (
            "proc/sys/fs/nr_open",
            "65536\n",
            "fs.nr_open",
            TooSmall,
            "132274",
            "sysctl -w fs.nr_open=2500000",
        ),
        (
            "proc/sys/fs/file-max",
            "500000\n",
            "fs.file-max",
            TooSmall,
            "503200",
            "sysctl -w fs.file-max=4000000",
        ),
        (
            "proc/sys/fs/epoll/max_user_watches",
            "400000\n",
            "fs.epoll.max_user_watches",
            TooSmall,
            "500000",
            "sysctl -w fs.epoll.max_user_watches=4000000",
        ),
        (
            "proc/sys/net/ipv4/ip_local_port_range",
            "32768\t60999\n",
            "local ports, pool chat",
            TooSmall,
            "62500",
            "sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"",
        ),
        (
            "proc/sys/net/core/somaxconn",
            "4096\n",
            "net.core.somaxconn",
            TooSmall,
            "62500",
            "sysctl -w net.core.somaxconn=65535",
        ),
        (
            "proc/sys/net/ipv4/tcp_max_syn_backlog",
            "4096\n",
            "net.ipv4.tcp_max_syn_backlog",
            Advice,
            "62500",
            "sysctl -w net.ipv4.tcp_max_syn_backlog=65535",
        ),
        (
            "proc/sys/net/ipv4/tcp_syncookies",
            "0\n",
            "net.ipv4.tcp_syncookies",
            Advice,
            "1",
            "sysctl -w net.ipv4.tcp_syncookies=1",
        ),
        (
            "proc/sys/net/ipv4/tcp_tw_reuse",
            "2\n",
            "net.ipv4.tcp_tw_reuse",
            Advice,
            "1",
            "sysctl -w net.ipv4.tcp_tw_reuse=1",
        ),
        (
            "proc/sys/net/ipv4/ip_local_reserved_ports",
            "80,8081\n",
            "net.ipv4.ip_local_reserved_ports",
            Advice,
            "8080,8081",
            "sysctl -w net.ipv4.ip_local_reserved_ports=80,8081,8080",
        ),
        (
            "proc/sys/net/ipv4/tcp_mem",
            "45000\t60000\t90000\n",
            "net.ipv4.tcp_mem",
            TooSmall,
            "500000 pages",
            "sysctl -w net.ipv4.tcp_mem=\"250000 375000 500000\"",
        ),
        (
            "proc/sys/net/ipv4/tcp_rmem",
            "4096\t131072\t33554432\n",
            "net.ipv4.tcp_rmem",
            Advice,
            "4096 16384 4194304",
            "sysctl -w net.ipv4.tcp_rmem=\"4096 16384 4194304\"",
        ),
        (
            "proc/sys/net/ipv4/tcp_wmem",
            "4096\t4096\t16384\n",
            "net.ipv4.tcp_wmem",
            TooSmall,
            "4096 16384 4194304",
            "sysctl -w net.ipv4.tcp_wmem=\"4096 16384 4194304\"",
        ),
        (
            "proc/sys/net/netfilter/nf_conntrack_max",
            "262144\n",
            "net.netfilter.nf_conntrack_max",
            TooSmall,
            "500000",
            "sysctl -w net.netfilter.nf_conntrack_max=500000",
        ),
        (
            "proc/meminfo",
            "MemAvailable:    1000000 kB\nSwapTotal: 0 kB\n",
            "MemAvailable",
            TooSmall,
            "2345 MiB",
            "a machine with more memory, or at most 100051 connections on this one",
        ),
        (
            "proc/meminfo",
            "MemAvailable:    4000000 kB\nSwapTotal: 0 kB\n",
            "limits.memory",
            Advice,
            "4096 MiB",
            "--memory 1562MiB, or more memory",
        ),
        (
            "sys/fs/cgroup/system.slice/memory.max",
            "1073741824\n",
            "memory of the control group",
            TooSmall,
            "2345 MiB",
            "MemoryMax=2345M in the unit; --memory 2345m for a container",
        ),
        (
            "sys/fs/cgroup/system.slice/wsteady.service/pids.max",
            "64\n",
            "pids of the control group",
            TooSmall,
            "84",
            "TasksMax=84 in the unit; --pids-limit 84 for a container",
        ),
        (
            "proc/sys/vm/swappiness",
            "60\n",
            "vm.swappiness",
            Advice,
            "10",
            "sysctl -w vm.swappiness=10",
        ),
        (
            "proc/self/status",
            "Cpus_allowed_list:\t0-7\n",
            "cores",
            Advice,
            "4 (loops)",
            "--loops auto",
        ),
    ];
    for (path, text, name, verdict, wanted, mend) in table {
        let fake = Fake::new(&[(path, text)]);
        let report = examine(&options(250_000, SERVERS), &fake.machine());
        let check = of(&report, name);
        assert_eq!(check.verdict, *verdict, "{check:?}");
        assert_eq!(
            (check.wanted.as_str(), check.mend.as_str()),
            (*wanted, *mend),
            "{name}"
        );
        assert!(report.table().contains(mend), "{name}");
        assert_eq!(
            report.too_small() > 0,
            *verdict == TooSmall,
            "{name}: {}",
            report.table()
        );
        assert!(!check.why.is_empty());
    }
}

#[test]
fn fewer_connections_need_less() {
    let fake = Fake::new(&[
        (
            "proc/self/limits",
            "Max open files            1024                 20000                files     \n",
        ),
        ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
        ("proc/sys/net/core/somaxconn", "4096\n"),
        ("proc/sys/net/ipv4/tcp_mem", "45000\t60000\t90000\n"),
    ]);
    let report = examine(&options(10_000, SERVERS), &fake.machine());
    assert_eq!(report.too_small(), 0, "{}", report.table());
}

#[test]
fn pools_decide_how_many_sockets_and_ports_there_are() {
    let fake = Fake::new(&[]);
    let sockets = |yaml: &str| {
        let report = examine(&options(100_000, yaml), &fake.machine());
        of(&report, "fs.epoll.max_user_watches").wanted.clone()
    };
    assert_eq!(sockets("pools: { a: { servers: [ws://a] } }"), "200000");
    let bridge =
        "pools: { a: { kind: bridge, servers: [http://a/, http://b/], connections: { max: 50 } } }";
    assert_eq!(sockets(bridge), "100100");
    let both = "pools: { a: { servers: [ws://a] }, w: { kind: http, servers: [http://a] } }";
    assert_eq!(sockets(both), "200003");

    let ports = |yaml: &str| {
        let report = examine(&options(100_000, yaml), &fake.machine());
        let check = of(&report, "local ports, pool a");
        (
            check.found.clone(),
            check.wanted.clone(),
            check.mend.clone(),
        )
    };
    let one = ports("pools: { a: { servers: [ws://a] } }");
    let more = "2 local addresses in source_addresses of pool a, or more servers";
    assert_eq!(one, ("64512".into(), "100000".into(), more.into()));
    // Of two, one may be lost; two ids of one address are one.
    assert_eq!(
        ports("pools: { a: { servers: [ws://a, ws://b] } }").1,
        "100000"
    );
    let twice = "pools: { a: { servers: [{ url: ws://a, id: x }, { url: ws://a, id: y }] } }";
    assert_eq!(ports(twice).1, "100000");
    assert_eq!(
        ports("pools: { a: { servers: [ws://a, ws://b, ws://c] } }").1,
        "50000"
    );
    let sources = "pools: { a: { servers: [ws://a], source_addresses: [10.0.0.1, 10.0.0.2] } }";
    assert_eq!(
        ports(sources),
        ("129024".into(), "100000".into(), String::new())
    );
    assert_eq!(ports(bridge).1, "50");
}

#[test]
fn without_a_configuration_servers_are_not_guessed() {
    let fake = Fake::new(&[]);
    let mut assumed = options(250_000, "pools: { default: { servers: [ws://h] } }");
    assumed.is_assumed = true;
    let report = examine(&assumed, &fake.machine());
    assert_eq!(report.too_small(), 0, "{}", report.table());
    let check = of(&report, "servers x source addresses");
    assert_eq!(
        (check.verdict, check.found.as_str(), check.wanted.as_str()),
        (Verdict::Advice, "not known", "4")
    );
    assert!(report.table().contains("is assumed"));
}

#[test]
fn what_cannot_be_read_is_said_and_not_counted_as_too_small() {
    let empty = Fake(std::env::temp_dir().join(format!("wsteady-empty-{}", std::process::id())));
    let report = examine(&options(250_000, SERVERS), &empty.machine());
    assert_eq!(report.too_small(), 0);
    let unread = report
        .checks()
        .iter()
        .filter(|check| check.verdict == Verdict::Unreadable);
    // All but what stands in the configuration.
    assert_eq!(
        unread.count(),
        report.checks().len() - 1,
        "{}",
        report.table()
    );
    let open_files = of(&report, "RLIMIT_NOFILE (hard)");
    assert_eq!(open_files.found, "?");
    assert!(
        open_files.wanted.starts_with("/proc/self/limits: "),
        "{open_files:?}"
    );
    assert!(report.table().contains(" could not be read."));

    let odd = Fake::new(&[
        ("proc/sys/net/core/somaxconn", "lots\n"),
        ("proc/sys/net/ipv4/tcp_mem", "1 2\n"),
        ("proc/meminfo", "MemAvailable: some\n"),
        ("proc/sys/net/ipv4/ip_local_port_range", "2 1\n"),
    ]);
    let report = examine(&options(250_000, SERVERS), &odd.machine());
    for name in [
        "net.core.somaxconn",
        "net.ipv4.tcp_mem",
        "MemAvailable",
        "limits.memory",
        "net.ipv4.ip_local_port_range",
    ] {
        assert_eq!(of(&report, name).verdict, Verdict::Unreadable, "{name}");
    }
}

#[test]
fn one_table_for_all_loops_needs_all_descriptors() {
    let fake = Fake::new(&[]);
    let mut machine = fake.machine();
    machine.own_tables = false;
    let report = examine(&options(600_000, SERVERS), &machine);
    let check = of(&report, "RLIMIT_NOFILE (hard)");
    assert_eq!(
        (check.verdict, check.wanted.as_str()),
        (Verdict::TooSmall, "1201024")
    );
    assert!(
        check.why.contains("share") && !check.mend.contains("--loops"),
        "{check:?}"
    );
    assert_eq!(of(&report, "fs.nr_open").verdict, Verdict::TooSmall);
}

#[test]
fn no_limit_of_open_files_is_enough() {
    let fake = Fake::new(&[(
        "proc/self/limits",
        "Max open files            1024                 unlimited            files     \n",
    )]);
    let report = examine(&options(250_000, SERVERS), &fake.machine());
    let check = of(&report, "RLIMIT_NOFILE (hard)");
    assert_eq!(
        (check.verdict, check.found.as_str()),
        (Verdict::Enough, "unlimited")
    );
}

#[test]
fn what_the_configuration_bounds_itself_is_seen() {
    let fake = Fake::new(&[]);
    let yaml =
        format!("{SERVERS}limits: {{ connections: 1000, socket_buffer: 1MiB, memory: 8GiB }}\n");
    let report = examine(&options(2000, &yaml), &fake.machine());
    let rows = [
        (
            "limits.connections",
            "limits: { connections: 2000 } in the configuration",
        ),
        ("net.core.rmem_max", "sysctl -w net.core.rmem_max=1048576"),
        ("net.core.wmem_max", "sysctl -w net.core.wmem_max=1048576"),
    ];
    for (name, mend) in rows {
        let check = of(&report, name);
        assert_eq!(
            (check.verdict, check.mend.as_str()),
            (Verdict::TooSmall, mend)
        );
    }
    assert_eq!(report.too_small(), 3, "{}", report.table());
}

#[test]
fn a_kernel_that_counts_promises_is_asked_what_is_left() {
    let fake = Fake::new(&[
        ("proc/sys/vm/overcommit_memory", "2\n"),
        (
            "proc/meminfo",
            "MemAvailable:   16000000 kB\nSwapTotal: 0 kB\nCommitLimit: 2000000 kB\nCommitted_AS: 1000000 kB\n",
        ),
    ]);
    let report = examine(&options(250_000, SERVERS), &fake.machine());
    let check = of(&report, "CommitLimit");
    assert_eq!(
        (check.verdict, check.mend.as_str()),
        (Verdict::TooSmall, "sysctl -w vm.overcommit_memory=0")
    );
}

#[test]
fn the_tightest_control_group_of_either_version_counts() {
    let bound = |changes: &[(&str, &str)]| {
        let fake = Fake::new(changes);
        fake.machine().group_bound("memory").unwrap()
    };
    assert_eq!(bound(&[]), None);
    let nested = [
        ("sys/fs/cgroup/system.slice/memory.max", "3000\n"),
        (
            "sys/fs/cgroup/system.slice/wsteady.service/memory.max",
            "5000\n",
        ),
    ];
    assert_eq!(bound(&nested), Some(3000));
    let first = [
        ("proc/self/cgroup", "8:pids:/\n4:memory:/app\n0::/\n"),
        ("sys/fs/cgroup/memory/app/memory.limit_in_bytes", "7000\n"),
        (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        ),
    ];
    assert_eq!(bound(&first), Some(7000));
    // In a container: the group's own files are at the root, its path leads outside.
    let inside = [
        ("proc/self/cgroup", "0::/../../outside\n"),
        ("sys/fs/cgroup/memory.max", "9000\n"),
        ("sys/fs/memory.max", "1\n"),
    ];
    assert_eq!(bound(&inside), Some(9000));
}

#[test]
fn the_table_is_for_people_and_the_object_for_programs() {
    let fake = Fake::new(&[("proc/sys/net/core/somaxconn", "4096\n")]);
    let report = examine(&options(250_000, SERVERS), &fake.machine());
    let table = report.table();
    assert!(
        table.starts_with("250000 connections, 500000 sockets, 4 loops\n\n"),
        "{table}"
    );
    assert!(table.contains("\nOne limit is too small.\n"), "{table}");
    let wide = table.lines().find(|line| line.trim_end() != *line);
    assert_eq!(wide, None, "no blanks at the end of a line");
    let json = report.json();
    assert_eq!(
        (&json["connections"], &json["enough"]),
        (&250_000.into(), &false.into())
    );
    let bad: Vec<&Value> = json["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["verdict"] == "too small")
        .collect();
    assert_eq!(bad.len(), 1);
    assert_eq!(bad[0]["limit"], "net.core.somaxconn");
    assert_eq!(bad[0]["found"], "4096");
    assert!(Path::new(&fake.0).exists());
}
