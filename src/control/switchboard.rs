//! Asks the shards, and brings their answers to whoever asked.
//!
//! A shard must never wait for an asker: its answers go into a queue by `try_send`, and a thread of
//! our own takes them from there to the one-slot channel of their question.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::shard::mail::{Answer, Mail};

/// Sends mail to shards from any thread, and collects what they answer.
pub struct Switchboard {
    shards: usize,
    post: Box<dyn Fn(usize, Mail) + Send + Sync>,
    next: AtomicU64,
    inbox: Sender<(u64, Answer)>,
    waiting: Arc<Mutex<Waiting>>,
}

/// Open questions by their ticket.
type Waiting = BTreeMap<u64, Sender<Answer>>;

impl Switchboard {
    /// A board for so many shards; `post` puts mail into the queue of one of them and must not
    /// block.
    ///
    /// # Errors
    /// Its thread could not be started.
    pub fn new(
        shards: usize,
        post: Box<dyn Fn(usize, Mail) + Send + Sync>,
    ) -> io::Result<Switchboard> {
        let (inbox, answers) = bounded(INBOX_MAX);
        let waiting = Arc::<Mutex<Waiting>>::default();
        let theirs = Arc::clone(&waiting);
        // Ends when the board, and with it the last sender, is dropped.
        thread::Builder::new()
            .name("switchboard".to_string())
            .spawn(move || connect(&answers, &theirs))?;
        Ok(Switchboard {
            shards,
            post,
            next: AtomicU64::new(1),
            inbox,
            waiting,
        })
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// Mail that needs no answer.
    pub fn tell(&self, shard: usize, mail: Mail) {
        debug_assert!(shard < self.shards);
        (self.post)(shard, mail);
    }

    /// The same to every shard.
    pub fn tell_all(&self, mail: impl Fn() -> Mail) {
        for shard in 0..self.shards {
            self.tell(shard, mail());
        }
    }

    /// A shard's answer. Never blocks: with a full queue, which takes more answers than there can
    /// be questions, the answer is dropped and its asker runs into the deadline.
    pub fn answer(&self, ticket: u64, answer: Answer) {
        let _ = self.inbox.try_send((ticket, answer));
    }

    /// Asks one shard. `None` if it has not answered within [`DEADLINE`].
    pub fn ask(&self, shard: usize, question: impl FnOnce(u64) -> Mail) -> Option<Answer> {
        self.pose(shard, question).wait(Instant::now() + DEADLINE)
    }

    /// Asks every shard at once. The answers come in the order of the shards; those of shards that
    /// have not answered within [`DEADLINE`] are missing.
    pub fn ask_all(&self, question: impl Fn(u64) -> Mail) -> Vec<Answer> {
        let deadline = Instant::now() + DEADLINE;
        let open: Vec<Open<'_>> = (0..self.shards)
            .map(|shard| self.pose(shard, &question))
            .collect();
        open.into_iter()
            .filter_map(|open| open.wait(deadline))
            .collect()
    }

    /// Takes a ticket, then asks: no answer can come before it is waited for.
    fn pose(&self, shard: usize, question: impl FnOnce(u64) -> Mail) -> Open<'_> {
        let ticket = self.next.fetch_add(1, Relaxed);
        let (sender, answer) = bounded(1);
        locked(&self.waiting).insert(ticket, sender);
        let open = Open {
            waiting: &self.waiting,
            ticket,
            answer,
        };
        self.tell(shard, question(ticket));
        open
    }
}

/// A question that was asked. Dropping it gives its ticket back, so that late answers find nobody.
struct Open<'a> {
    waiting: &'a Mutex<Waiting>,
    ticket: u64,
    answer: Receiver<Answer>,
}

impl Open<'_> {
    fn wait(self, deadline: Instant) -> Option<Answer> {
        self.answer.recv_deadline(deadline).ok()
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        locked(self.waiting).remove(&self.ticket);
    }
}

/// Takes answers to their askers, until there is no board any more.
fn connect(answers: &Receiver<(u64, Answer)>, waiting: &Mutex<Waiting>) {
    for (ticket, answer) in answers {
        // Removed at once: a second answer to the same question has nowhere to go.
        let asker = locked(waiting).remove(&ticket);
        if let Some(asker) = asker {
            let _ = asker.try_send(answer);
        }
    }
}

/// The map is whole between any two of its methods, so a panic elsewhere does not spoil it.
fn locked(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Time for a shard to answer. A turn takes milliseconds; a scrape may wait ten seconds.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// Answers under way: of 64 admin connections, each asking 64 shards.
const INBOX_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;

    type Script = Box<dyn Fn(&Switchboard, usize, u64) + Send + Sync>;

    /// A board whose shards answer as the script says, on a thread per mail.
    fn board(shards: usize, script: Script) -> Arc<Switchboard> {
        let home: Arc<OnceLock<Arc<Switchboard>>> = Arc::default();
        let script = Arc::new(script);
        let post = {
            let home = Arc::clone(&home);
            move |shard, mail| {
                let Mail::MoveSession { ticket, .. } = mail else {
                    return;
                };
                let (board, script) = (Arc::clone(home.get().unwrap()), Arc::clone(&script));
                thread::spawn(move || script(&board, shard, ticket));
            }
        };
        let board = Arc::new(Switchboard::new(shards, Box::new(post)).unwrap());
        let _ = home.set(Arc::clone(&board));
        board
    }

    fn question(ticket: u64) -> Mail {
        Mail::MoveSession {
            ticket,
            id: 7,
            from: 0,
        }
    }

    #[test]
    fn answers_come_in_the_order_of_the_shards() {
        let board = board(
            3,
            Box::new(|board, shard, ticket| {
                thread::sleep(Duration::from_millis(20 * (3 - shard as u64)));
                board.answer(ticket, Answer::Done(shard == 1));
            }),
        );
        let answers = board.ask_all(question);
        let done = answers.iter().map(|answer| match answer {
            Answer::Done(done) => *done,
            other => panic!("{other:?}"),
        });
        assert_eq!(done.collect::<Vec<_>>(), [false, true, false]);
        assert!(matches!(board.ask(1, question), Some(Answer::Done(true))));
        assert!(locked(&board.waiting).is_empty());
    }

    #[test]
    fn a_silent_shard_costs_the_deadline_once_and_its_late_answer_is_dropped() {
        let board = board(
            3,
            Box::new(|board, shard, ticket| {
                if shard == 1 {
                    thread::sleep(DEADLINE + Duration::from_millis(200));
                }
                board.answer(ticket, Answer::Done(true));
                // A shard that answers twice fills nobody's slot.
                board.answer(ticket, Answer::Done(false));
            }),
        );
        let begun = Instant::now();
        assert_eq!(board.ask_all(question).len(), 2);
        assert!(begun.elapsed() >= DEADLINE && begun.elapsed() < DEADLINE * 2);
        thread::sleep(Duration::from_millis(400));
        assert!(locked(&board.waiting).is_empty());
        assert!(matches!(board.ask(0, question), Some(Answer::Done(true))));
    }

    #[test]
    fn answering_never_blocks() {
        let board = Switchboard::new(1, Box::new(|_, _| {})).unwrap();
        // With the map locked the sorting thread stands still, and the queue fills up.
        let held = locked(&board.waiting);
        for late in 0..2 * INBOX_MAX as u64 {
            board.answer(1_000_000 + late, Answer::Done(true));
        }
        drop(held);
        assert!(board.ask(0, question).is_none());
    }
}
