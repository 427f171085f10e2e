//! The programs under `examples/`.

use super::root;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The program of this name. `cargo test` builds it; `cargo test --test e2e` does not.
pub fn example(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).expect("target/debug/deps/e2e");
        let folder = profile.join("examples");
        let sources = newest(&root().join("src")).max(newest(&root().join("examples")));
        let is_new = |name| changed(&folder.join(name)).is_some_and(|built| built >= sources);
        if !NAMES.into_iter().all(is_new) {
            let release = profile.ends_with("release").then_some("--release");
            let built = Command::new(env!("CARGO"))
                .args(["build", "--quiet", "--offline", "--examples"])
                .args(release)
                .arg("--target-dir")
                .arg(profile.parent().expect("target/debug"))
                .current_dir(root())
                .status();
            assert!(built.is_ok_and(|status| status.success()), "they build");
        }
        folder
    });
    folder.join(name)
}

/// All that are explained: one for each depth, those with valves, and the one with a dialect.
pub const NAMES: [&str; 7] = [
    "embed",
    "unix",
    "session",
    "redact",
    "rate_limit",
    "ocpp_log",
    "redis",
];

fn changed(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|data| data.modified()).ok()
}

/// When the last of the files below was changed.
fn newest(folder: &Path) -> SystemTime {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let times = entries.filter_map(|entry| match entry.path() {
        path if path.is_dir() => Some(newest(&path)),
        path => changed(&path),
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}
