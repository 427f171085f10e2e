//! In a process of its own, for it counts the descriptors of the whole process.

use std::time::Duration;
use wsteady::control::config::Loops;
use wsteady::{Config, Proxy};

/// What is open: the files' kinds, for a message that helps.
fn open() -> Vec<String> {
    let folder = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = folder.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let mut names: Vec<String> = links.map(|link| link.display().to_string()).collect();
    names.retain(|name| !name.contains("/proc/"));
    names.sort();
    names
}

#[test]
fn a_proxy_that_has_stopped_leaves_no_descriptor_behind() {
    let round = || {
        let mut config = Config::with_backends(&["ws://127.0.0.1:9".to_string()]).unwrap();
        config.listen[0].address = "127.0.0.1:0".parse().unwrap();
        config.admin.address = "127.0.0.1:0".parse().unwrap();
        config.loops = Loops::Count(3);
        let proxy = Proxy::start(config).unwrap();
        let during = open();
        proxy.stop(Duration::ZERO);
        during
    };
    // What is opened once for a process, by whatever part of it, is open then.
    round();
    let before = settled();
    assert!(round().len() > before.len(), "a proxy has descriptors");
    assert_eq!(settled(), before);
}

/// What stays open: the last thread to let go of a waker may not be the last that was waited for.
fn settled() -> Vec<String> {
    for _ in 0..100 {
        if !open().iter().any(|name| name.contains("anon_inode")) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    open()
}
