//! Names of one process's own: an `/etc/hosts` that it alone sees, and that changes under it.

use super::Scratch;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;

pub struct Hosts {
    dir: Scratch,
}

impl Hosts {
    /// No name yet.
    pub fn new() -> Hosts {
        let dir = Scratch::new("hosts");
        // A name that is not in the file is not asked for on the net.
        std::fs::write(dir.file("nsswitch.conf"), "hosts: files\n").unwrap();
        std::fs::write(dir.file("hosts"), [b'\n'; BYTES]).unwrap();
        Hosts { dir }
    }

    /// The words before a program that shall resolve by these alone. Where mounts of one's own are
    /// not to be had, the program does not start, and its test fails.
    pub fn words(&self) -> Vec<String> {
        let own = match rustix::process::geteuid().is_root() {
            true => "--mount",
            false => "--map-root-user",
        };
        let script = "mount --bind \"$1/hosts\" /etc/hosts && \
                      mount --bind \"$1/nsswitch.conf\" /etc/nsswitch.conf && shift && exec \"$@\"";
        let folder = self.dir.file("").to_str().expect("a plain path").to_owned();
        let words = ["unshare", "--mount", own, "sh", "-c", script, "sh", &folder];
        words.map(str::to_owned).to_vec()
    }

    /// From now on the name has these addresses. One write over all there was: a file that is cut off
    /// first has, for a moment, no name at all.
    pub fn set(&self, name: &str, addresses: &[&str]) {
        let mut text = String::new();
        for address in addresses {
            writeln!(text, "{address} {name}").unwrap();
        }
        assert!(text.len() <= BYTES);
        let text = format!("{text:\n<BYTES$}");
        let file = OpenOptions::new().write(true).open(self.dir.file("hosts"));
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }
}

/// The file's length, always.
const BYTES: usize = 512;
