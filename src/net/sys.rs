//! The only unsafe code: what the kernel offers and no safe wrapper has.

#![allow(unsafe_code)]

pub mod trace;

use std::fs::{metadata, read_dir};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileTypeExt;

use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

/// Gives the calling thread a descriptor table of its own, a copy of the present one: no lock on
/// accept and close, and `RLIMIT_NOFILE` counts for it alone. `None` where the kernel refuses, as
/// under a container's seccomp profile.
pub fn own_descriptors() -> Option<OwnTable> {
    // SAFETY: descriptors that safe code holds stay what they are, for the copy has the same numbers.
    // Those that are opened from here on are only used by this thread: a shard never hands a socket
    // to another one, and wakers were made before.
    let own = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES) };
    own.ok().map(|()| OwnTable { _here: PhantomData })
}

/// The calling thread's own descriptor table. It can't be sent to another thread.
pub struct OwnTable {
    _here: PhantomData<*const ()>,
}

impl OwnTable {
    /// Lets go of what was inherited and has another side, which waits for the end when the rest of
    /// the program closes it: sockets, pipes and terminals, all but stdout and stderr. Files stay, for
    /// a logger may write to one from here, and so does what the kernel made for this process alone:
    /// the wakers.
    ///
    /// The numbers stay taken, by something that can neither be read nor written: a logger or a signal
    /// handler that still knows one gets an error, and never a client's socket.
    ///
    /// Call it before this thread has opened anything: that would be let go as well.
    ///
    /// # Errors
    /// Those of reading `/proc/thread-self/fd` and of dup(2); then what is left stays open.
    pub fn let_go_of_inherited(self) -> io::Result<()> {
        let nothing = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let mut inherited: Vec<RawFd> = Vec::new();
        for entry in read_dir(INHERITED)? {
            let name = entry?.file_name();
            inherited.extend(name.to_str().and_then(|name| name.parse::<RawFd>().ok()));
        }
        let kept = [libc::STDOUT_FILENO, libc::STDERR_FILENO];
        for number in inherited {
            if kept.contains(&number) || !has_another_side(number) {
                continue;
            }
            // SAFETY: both numbers are open in this thread's own table. Whoever owns the second one
            // has it in another table, where nothing changes: this thread has opened no socket yet.
            let result = unsafe { libc::dup3(nothing.as_raw_fd(), number, libc::O_CLOEXEC) };
            if result < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

/// Of the calling thread's table. What can't be looked at is gone already: the list's own descriptor.
fn has_another_side(number: RawFd) -> bool {
    metadata(format!("{INHERITED}/{number}")).is_ok_and(|found| {
        let kind = found.file_type();
        kind.is_socket() || kind.is_fifo() || kind.is_char_device()
    })
}

/// Leaves all signals that are meant for the process to its other threads. Handlers mostly write to a
/// pipe by its number, which means something else in a table of one's own. What is meant for a thread
/// still comes: faults, and the samples of a profile.
pub fn leave_signals_to_others() {
    let own = [
        libc::SIGABRT,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGPROF,
        libc::SIGSEGV,
        libc::SIGSYS,
        libc::SIGTRAP,
    ];
    // SAFETY: all zeros are a valid set; the calls write to it, then read it, and change the mask of
    // the calling thread alone. They fail for signals that do not exist, which these do.
    unsafe {
        let mut others: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut others);
        for signal in own {
            libc::sigdelset(&raw mut others, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const others, std::ptr::null_mut());
    }
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
pub fn random(into: &mut [u8]) -> io::Result<()> {
    use std::io::Read;
    std::fs::File::open("/dev/urandom")?.read_exact(into)
}

/// Lets `connect` choose the local port (ip(7), IP_BIND_ADDRESS_NO_PORT): it knows the destination,
/// so that each server has all ports of each source address.
///
/// Errors: those of setsockopt(2).
pub fn bind_address_no_port(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// How many bytes the kernel takes that it can't send yet (tcp(7), TCP_NOTSENT_LOWAT). It tells of
/// room whenever half of them have gone, and else only when a third of its buffer has: megabytes.
///
/// Errors: those of setsockopt(2).
pub fn set_unsent_max(socket: &impl AsFd, bytes: u32) -> io::Result<()> {
    let bytes = bytes.min(i32::MAX as u32) as libc::c_int;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes)
}

fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
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
        Err(io::Error::last_os_error())
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

/// The calling thread's descriptors (proc(5)), where `/proc/self` would have the first thread's.
const INHERITED: &str = "/proc/thread-self/fd";
