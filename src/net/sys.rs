//! The only unsafe code: what the kernel offers and no safe wrapper has.

#![allow(unsafe_code)]

pub mod trace;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

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
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() {
        limit.maximum
    } else {
        limit.current
    };
    now.unwrap_or(u64::MAX)
}

/// Fills a buffer from the kernel's generator.
///
/// Errors: those of opening and reading `/dev/urandom`.
pub fn random(into: &mut [u8]) -> std::io::Result<()> {
    use std::io::Read;
    std::fs::File::open("/dev/urandom")?.read_exact(into)
}

/// Lets `connect` choose the local port (ip(7), IP_BIND_ADDRESS_NO_PORT): it knows the destination,
/// so that each server has all ports of each source address.
///
/// Errors: those of setsockopt(2).
pub fn bind_address_no_port(socket: &impl AsFd) -> std::io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// How many bytes the kernel takes that it can't send yet (tcp(7), TCP_NOTSENT_LOWAT). It tells of
/// room whenever half of them have gone, and else only when a third of its buffer has: megabytes.
///
/// Errors: those of setsockopt(2).
pub fn set_unsent_max(socket: &impl AsFd, bytes: u32) -> std::io::Result<()> {
    let bytes = bytes.min(i32::MAX as u32) as libc::c_int;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes)
}

fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> std::io::Result<()> {
    let descriptor: BorrowedFd<'_> = socket.as_fd();
    // SAFETY: the descriptor is borrowed and so is open; the value is a live c_int of the given size.
    let result = unsafe {
        libc::setsockopt(
            descriptor.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Lets the allocator map blocks of 128 KiB and more by themselves, always: what a burst took can
/// then go back to the system. By default the threshold grows with the first such block freed.
pub fn fix_mapping_threshold() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt(3) sets a number; it is called before any other thread of ours runs.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}
