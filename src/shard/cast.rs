//! Broadcasts: a message for every client of a bridge whose ClientId begins in some way. Each shard
//! walks through its own clients, a few at a time; the one that was asked adds up whom they reached.
//!
//! **Invariant:** broadcasts are walked in the order in which they came, one after the other: no client
//! gets a later one first, and none gets one twice.

use std::collections::VecDeque;
use std::sync::Arc;

use super::directory::Seat;
use super::{Asker, Io, Mail, Push, Pushed, Reached, Shard};
use crate::kit::{Key, Slots};
use crate::session::{Dialect, Session};

/// Broadcasts that are not over.
pub(super) struct Casts {
    /// Asked of this shard.
    asked: Slots<Sum>,
    /// To be told to clients of this shard.
    walks: VecDeque<Walk>,
}

/// Who has asked, how many have yet to say whom they reached, and what the others said.
struct Sum {
    asker: Asker,
    awaited: usize,
    reached: Reached,
}

struct Walk {
    push: Arc<Push>,
    asker: Asker,
    /// The next slot.
    from: u32,
    reached: Reached,
}

impl Default for Casts {
    fn default() -> Casts {
        Casts {
            asked: Slots::with_capacity(0),
            walks: VecDeque::new(),
        }
    }
}

impl<I: Io, D: Dialect> Shard<I, D> {
    /// To all shards, and to wherever else clients may be.
    pub(super) fn cast(&mut self, push: Box<Push>, asker: Asker) {
        let sum = Sum {
            asker,
            awaited: self.shards,
            reached: Reached::default(),
        };
        let key = self.casts.asked.insert(sum);
        let here = Asker::Cast(self.seat(key));
        let spread = Arc::new((*push).clone());
        if !push.is_hop
            && self.io.elsewhere(push, here).is_none()
            && let Some(sum) = self.casts.asked.get_mut(key)
        {
            sum.awaited += 1;
        }
        for shard in 0..self.shards {
            let (push, asker) = (spread.clone(), here);
            self.post(shard, Mail::Cast { push, asker });
        }
    }

    /// To the clients of this shard.
    pub(super) fn begin_walk(&mut self, push: Arc<Push>, asker: Asker) {
        self.casts.walks.push_back(Walk {
            push,
            asker,
            from: 0,
            reached: Reached::default(),
        });
        if self.casts.walks.len() == 1 {
            self.walk_on();
        }
    }

    /// Tells the next few clients.
    pub(super) fn walk_on(&mut self) {
        let Some(mut walk) = self.casts.walks.pop_front() else {
            return;
        };
        let end = walk.from.saturating_add(SLOTS_MAX).min(self.clients.end());
        let most = (BYTES_MAX / walk.push.body.len().max(1)).clamp(1, self.walk_max);
        let within = self.clients.within(walk.from..end);
        let meant = within.filter(|(_, client)| is_meant(&client.session, &walk.push.id));
        let keys: Vec<Key> = meant.map(|(key, _)| key).take(most).collect();
        for key in &keys {
            match self.push_to(*key, &walk.push) {
                Pushed::Done => walk.reached.clients += 1,
                Pushed::Slow => walk.reached.slow += 1,
                // It is on its way out.
                _ => {}
            }
        }
        walk.from = match keys.last() {
            Some(last) if keys.len() == most => last.index + 1,
            _ => end,
        };
        if planted!(CastRepeats) && keys.len() == most {
            walk.from -= 1;
        }
        if walk.from >= self.clients.end() {
            self.answer_push(walk.asker, Pushed::Reached(walk.reached));
        } else {
            self.casts.walks.push_front(walk);
        }
        if !self.casts.walks.is_empty() {
            self.want_chores(PAUSE);
        }
    }

    /// A shard, or whoever passed it on, says whom it reached.
    pub(super) fn add_up(&mut self, key: Key, pushed: Pushed) {
        let Some(sum) = self.casts.asked.get_mut(key) else {
            return;
        };
        sum.awaited -= 1;
        if let Pushed::Reached(reached) = pushed {
            sum.reached.add(reached);
        }
        if sum.awaited == 0
            && let Some(Sum { asker, reached, .. }) = self.casts.asked.remove(key)
        {
            self.answer_push(asker, Pushed::Reached(reached));
        }
    }

    pub(super) fn answer_push(&mut self, asker: Asker, pushed: Pushed) {
        match asker {
            Asker::Seat(Seat { shard, key }) => {
                self.post(usize::from(shard), Mail::Pushed { key, pushed });
            }
            Asker::Cast(Seat { shard, key }) => {
                self.post(usize::from(shard), Mail::Reached { key, pushed });
            }
            Asker::Ticket(ticket) => self.io.answer(ticket, super::Answer::Pushed(pushed)),
        }
    }
}

fn is_meant(session: &Session, prefix: &str) -> bool {
    session.is_bridged() && session.client_id().starts_with(prefix)
}

/// Of one turn: bytes of messages, slots looked at.
const BYTES_MAX: usize = 1 << 20;
const SLOTS_MAX: u32 = 20_000;

/// Between two turns of a walk, in ms: messages of others come first.
const PAUSE: u32 = 1;
