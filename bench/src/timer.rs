//! A timer of nanoseconds in the poller; epoll's own sleeps in milliseconds.

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

pub struct Timer {
    fd: OwnedFd,
    armed: Option<u64>,
    /// More is due than one turn may do.
    pub overdue: bool,
}

impl Timer {
    /// Registers it as [`TIMER`].
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(poll: &Poll) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        poll.registry()
            .register(&mut SourceFd(&fd.as_raw_fd()), TIMER, Interest::READABLE)?;
        Ok(Self {
            fd,
            armed: None,
            overdue: false,
        })
    }

    /// It went off.
    pub fn on_event(&mut self) {
        self.armed = None;
    }

    /// Wakes the poller at `due`. Setting it again also clears the last expiry, so that it is
    /// never read.
    pub fn arm(&mut self, due: Option<u64>, now: u64) {
        let Some(due) = due else { return };
        if self.armed == Some(due) {
            return;
        }
        let wait = due.saturating_sub(now).max(1);
        let it_value = Timespec {
            tv_sec: (wait / 1_000_000_000) as i64,
            tv_nsec: (wait % 1_000_000_000) as i64,
        };
        let it_interval = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let spec = Itimerspec {
            it_interval,
            it_value,
        };
        // It fails only for values out of range, and then the poller's own sleep still ends.
        let set = timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec);
        debug_assert!(set.is_ok());
        self.armed = Some(due);
    }
}

pub const TIMER: Token = Token(usize::MAX);
