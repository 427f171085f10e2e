//! A network of its own for one server, whose cable can be pulled.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A network namespace joined to ours by a veth pair. Needs root and `ip`.
pub struct Cable {
    name: String,
    /// The address inside.
    pub inside: String,
}

impl Cable {
    /// None where namespaces are not to be had: without root, or in a container without the right.
    pub fn lay() -> Option<Cable> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = (std::process::id() * 8 + NEXT.fetch_add(1, Ordering::Relaxed)) % 16_000;
        // 10.213.0.0/18 in nets of four addresses.
        let (third, fourth) = (number / 64, number % 64 * 4);
        let cable = Cable {
            name: format!("wst{number}"),
            inside: format!("10.213.{third}.{}", fourth + 2),
        };
        let (name, inside) = (&cable.name, &cable.inside);
        let steps = [
            format!("netns add {name}"),
            format!("link add {name}a type veth peer name {name}b netns {name}"),
            format!("addr add 10.213.{third}.{}/30 dev {name}a", fourth + 1),
            format!("link set {name}a up"),
            format!("-n {name} addr add {inside}/30 dev {name}b"),
            format!("-n {name} link set {name}b up"),
            format!("-n {name} link set lo up"),
        ];
        steps.iter().all(|step| ip(step)).then_some(cable)
    }

    /// The words before a program that shall run inside.
    pub fn enter(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// The far end goes dark: our routes stay, packets are lost, and nobody says so.
    pub fn pull(&self) {
        assert!(ip(&format!("-n {0} link set {0}b down", self.name)));
    }

    pub fn plug(&self) {
        assert!(ip(&format!("-n {0} link set {0}b up", self.name)));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // The pair dies with the namespace.
        ip(&format!("link del {}a", self.name));
        ip(&format!("netns del {}", self.name));
    }
}

fn ip(words: &str) -> bool {
    let status = Command::new("ip")
        .args(words.split(' '))
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
