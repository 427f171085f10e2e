//! Who waits for a pool's connect rate: the loss of one server must not knock over the others.

use std::collections::VecDeque;

use super::chores::QUEUE_PAUSE;
use super::{Bits, Io, Shard};
use crate::kit::Key;
use crate::session::{Dialect, Event, Phase};

/// Those of one pool.
#[derive(Clone, Default)]
pub(super) struct Queue {
    /// Sessions that wait for their turn; who waited longest is first.
    held: VecDeque<Key>,
    /// Connections that ended, whose sessions would only join the others.
    ended: VecDeque<Key>,
}

impl<I: Io, D: Dialect> Shard<I, D> {
    /// The session waits for its turn.
    pub(super) fn queue_up(&mut self, key: Key, pool: u16) {
        self.queues[usize::from(pool)].held.push_back(key);
        self.want_chores(QUEUE_PAUSE);
        self.call(key, Event::Queued);
    }

    /// Whether this connection, which ended, is looked at later: as long as enough sessions wait for
    /// their turn, to notice that one more will have to is work that keeps others waiting. Until then
    /// nothing is written to it: the answer would be a reset.
    pub(super) fn put_off(&mut self, key: Key) -> bool {
        let Some(upstream) = self.upstreams.get_mut(key) else {
            return false;
        };
        let pool = self.fleet.servers[usize::from(upstream.server)].pool;
        let client = self.clients.get(upstream.rider);
        let joins = client.is_some_and(|client| {
            client.session.phase() == Phase::Open && !client.session.is_bridged()
        });
        let queue = &mut self.queues[usize::from(pool)];
        if !joins || queue.held.len() < self.ended_max {
            return false;
        }
        upstream.bits.remove(Bits::WRITABLE);
        queue.ended.push_back(key);
        true
    }

    pub(super) fn serve_queues(&mut self) {
        for pool in 0..self.queues.len() {
            self.serve_queue(pool);
            self.read_put_off(pool);
        }
        let waits = |queue: &Queue| !(queue.held.is_empty() && queue.ended.is_empty());
        if self.queues.iter().any(waits) {
            self.want_chores(QUEUE_PAUSE);
        }
    }

    /// Whether it is listed as one that is to be read to its end.
    pub(super) fn is_put_off(&self, key: Key) -> bool {
        self.queues.iter().any(|queue| queue.ended.contains(&key))
    }

    fn serve_queue(&mut self, pool: usize) {
        for _ in 0..self.queues[pool].held.len() {
            let Some(key) = self.queues[pool].held.pop_front() else {
                break;
            };
            let before = self.queues[pool].held.len();
            // It may find its pool's rate used up again: then it stands at the end of the queue, and
            // so would all behind it. It goes back to the front: who waited longest is first.
            self.dial(key);
            self.perform(key);
            let held = &mut self.queues[pool].held;
            if held.len() > before {
                let back = held.pop_back();
                if planted!(QueueLoses) {
                    break;
                }
                held.extend(back);
                held.rotate_right(1);
                break;
            }
        }
    }

    fn read_put_off(&mut self, pool: usize) {
        for _ in 0..self.ended_max {
            let queue = &mut self.queues[pool];
            if queue.held.len() >= self.ended_max {
                return;
            }
            match queue.ended.pop_front() {
                Some(_) if planted!(PutOffForgotten) => {}
                Some(key) => self.read_upstream(key),
                None => return,
            }
        }
    }
}
