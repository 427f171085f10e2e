//! Kernel settings for many connections: the one list from which preflight, `wsteady generate
//! sysctl` and `sysctl/60-wsteady.conf` come.

/// A setting and its reason.
pub struct Sysctl {
    pub name: &'static str,
    pub value: &'static str,
    /// One sentence or two, in one line.
    pub why: &'static str,
}

/// The settings, in the order of the file.
pub const SYSCTLS: &[Sysctl] = &[
    Sysctl {
        name: "net.core.somaxconn",
        value: "65535",
        why: "A reconnect storm waits here instead of being dropped; listen(2) asks for as much.",
    },
    Sysctl {
        name: "net.ipv4.tcp_max_syn_backlog",
        value: "65535",
        why: "The same for handshakes that are not complete.",
    },
    Sysctl {
        name: "net.ipv4.tcp_syncookies",
        value: "1",
        why: "Stay up when even that is full.",
    },
    Sysctl {
        name: "net.ipv4.ip_local_port_range",
        value: "1024 65535",
        why: "Each server takes one local port per session and source address: the wider, the more sessions.",
    },
    Sysctl {
        name: "net.ipv4.ip_local_reserved_ports",
        value: "8080,8081",
        why: "wsteady's own ports, which that range has in it: who borrows one keeps wsteady from starting.",
    },
    Sysctl {
        name: "net.ipv4.tcp_tw_reuse",
        value: "1",
        why: "The side that closes keeps the port for a minute: let new connections take it earlier.",
    },
    Sysctl {
        name: "net.ipv4.tcp_rmem",
        value: "4096 16384 4194304",
        why: "Sockets start small (the middle value) and grow only if a peer is slow or far away.",
    },
    Sysctl {
        name: "net.ipv4.tcp_wmem",
        value: "4096 16384 4194304",
        why: "The same for what is sent.",
    },
    Sysctl {
        name: "fs.epoll.max_user_watches",
        value: "4000000",
        why: "Two sockets per session, one watch each; the default is some 230,000 per GiB of memory.",
    },
    Sysctl {
        name: "fs.nr_open",
        value: "2500000",
        why: "A process, or here a loop, may open as many as its RLIMIT_NOFILE says, and that at most this.",
    },
    Sysctl {
        name: "fs.file-max",
        value: "4000000",
        why: "The same for the whole host.",
    },
    Sysctl {
        name: "vm.swappiness",
        value: "10",
        why: "A swapped loop is a dead loop.",
    },
];

/// The value of a setting in the list.
pub(super) fn value(name: &str) -> &'static str {
    let found = SYSCTLS.iter().find(|one| one.name == name);
    found.expect("checks name settings of the list").value
}

/// The file for `/etc/sysctl.d`.
pub fn drop_in() -> String {
    let mut text = HEADER.to_owned();
    for one in SYSCTLS {
        text += &format!("\n# {}\n{} = {}\n", one.why, one.name, one.value);
    }
    text
}

const HEADER: &str = "\
# Kernel settings for a host that runs wsteady with many connections (`wsteady generate sysctl`).
# `wsteady preflight` says which of them this host needs. Take out what would lower a value that it
# has already. Load with `sysctl -p FILE`, or put it into /etc/sysctl.d.
";

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_file_in_the_repository_is_this_list() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/sysctl/60-wsteady.conf");
        let text = fs::read_to_string(file).unwrap();
        assert_eq!(
            text,
            drop_in(),
            "wsteady generate sysctl > sysctl/60-wsteady.conf"
        );
    }

    #[test]
    fn scripts_set_nothing_else() {
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
            {
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = fs::read_to_string(&path).unwrap();
                for (name, value) in settings(&text) {
                    let own = SYSCTLS.iter().find(|one| one.name == name);
                    let own = own.map(|one| one.value);
                    assert_eq!(own, Some(value.as_str()), "{name} in {}", path.display());
                    seen += 1;
                }
            }
        }
        assert!(seen > 0, "the Kubernetes manifest has one");
    }

    /// `name=value`, `name = value`, and the pairs of a Kubernetes manifest.
    fn settings(text: &str) -> Vec<(String, String)> {
        let is_setting = |word: &str| {
            let known = ["net.core.", "net.ipv4.", "fs.", "vm."];
            known.iter().any(|prefix| word.starts_with(prefix))
                && word.bytes().all(|byte| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
                })
        };
        let lines = text.lines().map(|line| line.trim().trim_start_matches('#'));
        let found = lines.filter_map(|line| {
            if let Some(rest) = line.trim().strip_prefix("- { name: ") {
                let (name, value) = rest.split_once(", value: ")?;
                let value = value.trim_end_matches('}').trim().trim_matches('"');
                return Some((name, value));
            }
            let (name, value) = line.split_once('=')?;
            let name = name.split_whitespace().next_back()?;
            Some((name, value.trim().trim_matches(['"', '\''])))
        });
        let known = found.filter(|(name, _)| is_setting(name));
        known
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn the_reader_of_scripts_sees_each_form() {
        let text = "sudo sysctl -w vm.swappiness=10\n# fs.nr_open = 5\n  - { name: net.ipv4.x, value: \"1 2\" }\nx=3\n";
        let pairs = [
            ("vm.swappiness", "10"),
            ("fs.nr_open", "5"),
            ("net.ipv4.x", "1 2"),
        ];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(settings(text), pairs);
    }
}
