//! The only unsafe code: what the kernel offers and no safe wrapper has.

#![allow(unsafe_code)]

use rustix::thread::UnshareFlags;

/// Gives the calling thread a descriptor table of its own, a copy of the present one: no lock on
/// accept and close, and `RLIMIT_NOFILE` counts for it alone. False where the kernel refuses, as
/// under a container's seccomp profile.
pub fn own_descriptors() -> bool {
    // SAFETY: descriptors that safe code holds stay what they are, for the copy has the same numbers.
    // Those that are opened from here on are only used by this thread: a shard never hands a socket
    // to another one, and pollers and wakers were made before.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES) }.is_ok()
}

/// Raises the soft limit of descriptors to the hard one; returns the limit in force.
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    now.unwrap_or(u64::MAX)
}

/// Fills a buffer from the kernel's generator.
///
/// Errors: those of opening and reading `/dev/urandom`.
pub fn random(into: &mut [u8]) -> std::io::Result<()> {
    use std::io::Read;
    std::fs::File::open("/dev/urandom")?.read_exact(into)
}
