//! What an embedder's watcher is told of sessions, on a thread of its own: no loop waits for it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, TrySendError, bounded};
use log::{error, warn};

use crate::shard::news::{Notice, Notify};

/// Is told what happens to sessions.
pub type Watch = Box<dyn FnMut(&Notice) + Send>;

/// A watcher's thread.
pub struct Watching {
    ended: Receiver<()>,
}

impl Watching {
    /// Starts a thread that tells `watch`, and gives the way to it. A full queue drops what is new,
    /// counts it, and says so in the next [`Notice`] that has room.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(mut watch: Watch) -> io::Result<(Notify, Watching)> {
        let (sender, inbox) = bounded::<Notice>(QUEUE_MAX);
        let (done, ended) = bounded(0);
        let missed = Arc::new(AtomicU64::new(0));
        let counted = missed.clone();
        thread::Builder::new()
            .name("watcher".to_string())
            .spawn(move || {
                // Dropped with the thread: who waits for its end hears of it.
                let _done = done;
                for mut notice in inbox {
                    notice.missed = counted.swap(0, Relaxed);
                    if notice.missed > 0 {
                        warn!(missed = notice.missed; "the watcher is too slow");
                    }
                    if catch_unwind(AssertUnwindSafe(|| watch(&notice))).is_err() {
                        error!("the watcher has panicked; it is told of what comes next");
                    }
                }
            })?;
        let notify: Notify = Arc::new(move |notice| {
            if let Err(TrySendError::Full(_)) = sender.try_send(notice) {
                missed.fetch_add(1, Relaxed);
            }
        });
        Ok((notify, Watching { ended }))
    }

    /// Waits until all has been told, or for two seconds: a watcher that hangs keeps nobody waiting
    /// longer. No loop must have it any more.
    pub fn finish(self) {
        if self.ended.recv_timeout(END_MAX) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            warn!("the watcher has not been told all");
        }
    }
}

/// Notices that may wait: some 20 MB, and the herd of one large server.
const QUEUE_MAX: usize = 65_536;

const END_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::news::Happened;
    use std::sync::Mutex;

    fn notice(session: u128) -> Notice {
        Notice {
            session,
            client: ([127, 0, 0, 1], 1).into(),
            pool: "p".into(),
            server: None,
            messages_up: 0,
            messages_down: 0,
            failovers: 0,
            missed: 0,
            what: Happened::Opened { target: "/".into() },
        }
    }

    #[test]
    fn a_watcher_that_panics_is_told_of_the_next() {
        let told = Arc::<Mutex<Vec<u128>>>::default();
        let theirs = told.clone();
        let (notify, watching) = Watching::start(Box::new(move |notice| {
            theirs.lock().unwrap().push(notice.session);
            assert_ne!(notice.session, 1, "a bad watcher");
        }))
        .unwrap();
        (0..4).for_each(|session| notify(notice(session)));
        drop(notify);
        watching.finish();
        assert_eq!(*told.lock().unwrap(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_watcher_that_hangs_keeps_nobody_waiting_and_hears_what_it_has_missed() {
        let (release, held) = bounded::<()>(0);
        let told = Arc::<Mutex<Vec<u64>>>::default();
        let theirs = told.clone();
        let (notify, watching) = Watching::start(Box::new(move |notice| {
            let _released = held.recv();
            theirs.lock().unwrap().push(notice.missed);
        }))
        .unwrap();
        // One may be in its hands already.
        let sent = QUEUE_MAX as u64 + 10;
        (0..sent).for_each(|session| notify(notice(session.into())));
        drop((notify, release));
        watching.finish();
        let told = told.lock().unwrap();
        let missed: u64 = told.iter().sum();
        assert_eq!(told.len() as u64 + missed, sent);
        assert!((9..=10).contains(&missed), "{missed}");
    }
}
