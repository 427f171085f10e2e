//! The threads: a shard each, with its own descriptors, its own listeners and a mailbox.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::AcqRel;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use log::warn;

use super::clock::Clock;
use super::poller::{Net, Outside};
use super::waker::Waker;
use super::{listen, sys};
use crate::shard::Mail;

/// The mailboxes of all shards, for anybody.
pub struct Post {
    boxes: Vec<Mailbox>,
}

/// Where a thread's mail comes out.
pub type Inbox = Receiver<Mail>;

struct Mailbox {
    sender: Sender<Mail>,
    waker: Waker,
    /// The shard was woken, and has not looked since: more mail need not wake it again.
    woken: AtomicBool,
}

/// Mailboxes and their wakers, made before any shard starts: a waker made afterwards would, in another
/// descriptor table, be the number of somebody's socket.
pub struct Host {
    inboxes: Vec<Receiver<Mail>>,
    post: Arc<Post>,
    clock: Clock,
}

impl Host {
    /// Prepares so many shards.
    pub fn new(shards: usize, clock: Clock) -> io::Result<Host> {
        let mut inboxes = Vec::with_capacity(shards);
        let mut boxes = Vec::with_capacity(shards);
        for _ in 0..shards {
            // Bounded by `send`: a bounded channel would take the memory of a full box at once.
            let (sender, inbox) = unbounded();
            inboxes.push(inbox);
            boxes.push(Mailbox {
                sender,
                waker: Waker::new()?,
                woken: AtomicBool::new(false),
            });
        }
        Ok(Host {
            inboxes,
            post: Arc::new(Post { boxes }),
            clock,
        })
    }

    /// The mailboxes.
    pub fn post(&self) -> Arc<Post> {
        self.post.clone()
    }

    /// Starts one thread per shard, which listens on all addresses and then runs until `run` returns.
    /// Returns the threads and the addresses with their real ports.
    pub fn start<F>(
        self,
        addresses: &[SocketAddr],
        outside: Outside,
        run: F,
    ) -> io::Result<(Vec<JoinHandle<()>>, Vec<SocketAddr>)>
    where
        F: Fn(usize, Net) + Clone + Send + 'static,
    {
        for address in addresses {
            let named =
                |error| io::Error::new(io::Error::kind(&error), format!("{address}: {error}"));
            listen::probe(*address).map_err(named)?;
        }
        let mut threads = Vec::new();
        let mut bound = addresses.to_vec();
        for (index, inbox) in self.inboxes.into_iter().enumerate() {
            let (report, result) = bounded(1);
            let (clock, post, outside) = (self.clock, self.post.clone(), outside.clone());
            let (wanted, run) = (bound.clone(), run.clone());
            let body = move || {
                own_table(index);
                let begun = Net::new(index, clock, inbox, post, outside)
                    .and_then(|net| listening(net, &wanted));
                let (net, bound) = match begun {
                    Ok(begun) => begun,
                    Err(error) => return drop(report.send(Err(error))),
                };
                // Nobody waits for the report any more only if the start was given up.
                let _ = report.send(Ok(bound));
                run(index, net);
            };
            threads.push(
                std::thread::Builder::new()
                    .name(format!("shard-{index}"))
                    .spawn(body)?,
            );
            // The first one finds the ports; the others share them.
            match result.recv() {
                Ok(Ok(found)) => bound = found,
                Ok(Err(error)) => {
                    self.post.stop();
                    return Err(error);
                }
                Err(_) => return Err(io::Error::other("a shard ended before it began")),
            }
        }
        Ok((threads, bound))
    }
}

/// A descriptor table of the loop's own, without what the rest of the program may want to close, and no
/// signal handler that would look for it.
fn own_table(index: usize) {
    let first = index == 0;
    sys::leave_signals_to_others();
    match sys::own_descriptors() {
        Some(table) => {
            if let Err(error) = table.let_go_of_inherited()
                && first
            {
                warn!("what is open now stays open until the loops stop: {error}");
            }
        }
        None if first => warn!(
            "the kernel refuses descriptor tables per loop: the limit of open files counts for all"
        ),
        None => {}
    }
}

/// Opens the listeners, and says at which addresses.
fn listening(mut net: Net, wanted: &[SocketAddr]) -> io::Result<(Net, Vec<SocketAddr>)> {
    let mut bound = Vec::new();
    for address in wanted {
        let listener = listen::open(*address)?;
        bound.push(listener.local_addr()?);
        net.listen(listener)?;
    }
    Ok((net, bound))
}

impl Post {
    /// A mailbox of number 0 for a thread that is no shard, and its other end.
    ///
    /// Errors: those of eventfd(2).
    pub fn alone(clock: Clock) -> io::Result<(Arc<Post>, Inbox)> {
        let mut host = Host::new(1, clock)?;
        let inbox = host.inboxes.pop().expect("there is one");
        Ok((host.post, inbox))
    }

    /// Puts a mail into a shard's box. A full box loses it, and says so: mails are verdicts and
    /// questions, never messages of sessions. A server that has come is not lost: all that come after
    /// it are known by their numbers.
    pub fn send(&self, shard: usize, mail: Mail) {
        let Some(to) = self.boxes.get(shard) else {
            return;
        };
        if to.sender.len() >= INBOX_MAX && !matches!(mail, Mail::Join { .. }) {
            return warn!("the mailbox of shard {shard} is full");
        }
        // An error: it has stopped.
        if to.sender.send(mail).is_ok()
            && !to.woken.swap(true, AcqRel)
            && let Err(error) = to.waker.wake()
        {
            warn!("waking shard {shard}: {error}");
        }
    }

    /// What wakes this shard.
    pub(super) fn waker(&self, shard: usize) -> Option<&Waker> {
        self.boxes.get(shard).map(|to| &to.waker)
    }

    /// The shard is about to look into its box: it sees what was put there by whoever did not wake
    /// it, and is woken by whoever comes later.
    pub fn looks(&self, shard: usize) {
        if let Some(to) = self.boxes.get(shard) {
            to.woken.swap(false, AcqRel);
        }
    }

    /// Wakes a shard once more: it has left mail in its box.
    pub fn wake(&self, shard: usize) {
        if let Some(waker) = self.waker(shard) {
            let _ = waker.wake();
        }
    }

    fn stop(&self) {
        for shard in 0..self.boxes.len() {
            self.send(shard, Mail::Stop);
        }
    }
}

/// Mails that may wait for a shard.
const INBOX_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_woken_once_until_it_looks() {
        let host = Host::new(2, Clock::start()).unwrap();
        let post = host.post();
        let send = |count: usize| (0..count).for_each(|_| post.send(1, Mail::Accepting(true)));
        let woken = || [0, 1].map(|shard| post.waker(shard).unwrap().count());
        send(3);
        assert_eq!(woken(), [0, 1], "once for three mails");
        send(2);
        assert_eq!(woken(), [0, 0], "it has not looked yet");
        post.looks(1);
        assert_eq!(woken(), [0, 0], "to look wakes nobody");
        send(2);
        assert_eq!(woken(), [0, 1], "once more, for it has looked");
        post.looks(1);
        post.wake(1);
        assert_eq!(woken(), [0, 1], "it has left mail in its box");
        send(1);
        assert_eq!(woken(), [0, 1], "a mail more, and it may sleep already");
        assert_eq!(host.inboxes[1].len(), 8);
    }
}
