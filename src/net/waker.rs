//! Wakes a loop from any thread: an eventfd, which each descriptor table has under the same number.
//!
//! mio's own waker comes with its poller, which would have to be made where the waker is, and would
//! stay open there when the loop has ended.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::event::{EventfdFlags, eventfd};

/// What a loop's poller watches, and others write to.
pub struct Waker {
    event: OwnedFd,
}

impl Waker {
    /// One that nobody watches yet.
    ///
    /// Errors: those of eventfd(2).
    pub fn new() -> io::Result<Waker> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker { event })
    }

    /// From now on each [`wake`](Waker::wake) is an event of this token.
    ///
    /// Errors: those of epoll_ctl(2).
    pub fn watch(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let event = self.event.as_raw_fd();
        registry.register(&mut SourceFd(&event), token, Interest::READABLE)
    }

    /// Wakes the loop, or keeps it from going to sleep.
    ///
    /// Errors: those of write(2).
    pub fn wake(&self) -> io::Result<()> {
        // The poller is edge-triggered: each write is an event, and the sum, never read, ends far
        // beyond any number of them.
        rustix::io::write(&self.event, &1_u64.to_ne_bytes())?;
        Ok(())
    }

    /// How often it has woken since this was asked last.
    #[cfg(test)]
    pub fn count(&self) -> u64 {
        let mut sum = [0; 8];
        // There is nothing to be read if it has not.
        rustix::io::read(&self.event, &mut sum).map_or(0, |_| u64::from_ne_bytes(sum))
    }
}
