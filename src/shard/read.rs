//! Reading: from a socket into the scratch buffer, from there to whoever understands it.

use std::io::IoSlice;

use super::chores::QUEUE_PAUSE;
use super::probe::PROBE;
use super::{
    BROKEN, Bits, CLIENT_ROOM, Got, Io, Kind, Put, READ_MAX, Ready, STASH_ROOM, Shard, State,
    settings_of,
};
use crate::kit::{Key, Spot};
use crate::session::{Action, Dialect, Event, Heard, Loss, Phase};

impl<I: Io, D: Dialect> Shard<I, D> {
    pub(super) fn client_ready(&mut self, key: Key, ready: Ready) {
        let Some(client) = self.clients.get_mut(key) else {
            self.core.stats.stale += 1;
            return;
        };
        if ready.readable || ready.ended {
            client.bits.insert(Bits::READABLE);
        }
        if ready.ended {
            client.bits.insert(Bits::ENDED);
            self.lists.ended.push_back(Kind::Client(key));
        }
        if ready.writable && !client.bits.contains(Bits::WRITABLE) {
            client.bits.insert(Bits::WRITABLE);
            self.mark_client(key);
        }
        if ready.readable && !ready.ended {
            self.read_client(key);
        }
    }

    pub(super) fn upstream_ready(&mut self, key: Key, ready: Ready) {
        let Some(upstream) = self.upstreams.get_mut(key) else {
            self.core.stats.stale += 1;
            return;
        };
        let rider = upstream.rider;
        if rider == PROBE {
            return self.probe_ready(key, ready);
        }
        if rider.is_none() {
            if ready.ended || (ready.readable && !self.hear_at_rest(key)) {
                self.drop_upstream(key);
            }
            return;
        }
        if ready.readable || ready.ended {
            upstream.bits.insert(Bits::READABLE);
        }
        if ready.ended {
            upstream.bits.insert(Bits::ENDED);
        }
        if !upstream.bits.contains(Bits::DONE) {
            if !(ready.writable || ready.ended) {
                return;
            }
            // Linux tells of a refused connection by an error beside the writability.
            if ready.ended && !self.io.is_connected(&mut upstream.socket) {
                return self.tell(rider, Event::UpstreamLost(Loss::Refused));
            }
            upstream.bits.insert(Bits::DONE);
            self.tell(rider, Event::Connected);
        }
        if ready.writable
            && let Some(upstream) = self.upstreams.get_mut(key)
            && !upstream.bits.contains(Bits::WRITABLE)
        {
            upstream.bits.insert(Bits::WRITABLE);
            self.mark_upstream(key);
        }
        if ready.ended {
            self.lists.ended.push_back(Kind::Upstream(key));
        } else if ready.readable {
            self.read_upstream(key);
        }
    }

    /// Reads what ended to its end, a few a turn: to close a socket takes the kernel as long as some
    /// messages take, and a server that dies with very many sessions must not keep the others waiting.
    pub(super) fn read_ended(&mut self) {
        for _ in 0..self.ended_max {
            match self.lists.ended.pop_front() {
                Some(_) if planted!(EndedForgotten) => {}
                Some(Kind::Client(key)) => self.read_client(key),
                Some(Kind::Upstream(key)) => {
                    let rests = |key| Some(self.upstreams.get(key)?.rider.is_none());
                    match rests(key) {
                        Some(true) => self.drop_upstream(key),
                        _ if self.put_off(key) => {}
                        _ => self.read_upstream(key),
                    }
                }
                _ => return,
            }
        }
    }

    /// A connection that ended will be looked at; run in tests.
    pub(super) fn check_ended(&self) {
        for (key, upstream) in self.upstreams.iter() {
            let bits = upstream.bits;
            let waits = bits.contains(Bits::ENDED | Bits::READABLE | Bits::DONE)
                && !(bits.contains(Bits::AGAIN) || bits.contains(Bits::STALLED))
                && self.clients.get(upstream.rider).is_some();
            let listed = |one: &Kind| matches!(one, Kind::Upstream(one) if *one == key);
            assert!(
                !waits
                    || self.lists.ended.iter().any(listed)
                    || self.is_put_off(key)
                    || self.chores.is_squeezed(key),
                "nobody will notice that {key:?} has ended"
            );
        }
    }

    /// What has come in time counts, though it waits among those that ended: who is read now has not
    /// been silent.
    pub(super) fn read_before_due(&mut self, key: Key) {
        let waits = |bits: Bits| bits.contains(Bits::ENDED | Bits::READABLE);
        let Some(client) = self.clients.get(key) else {
            return;
        };
        let upstream = client.upstream;
        let core = &self.core;
        let settings = settings_of(client.session.pool(), &core.settings, &core.nobodys);
        let judged = client.session.judges_server(core.now, settings);
        if waits(client.bits) {
            self.read_client(key);
        }
        if judged && (self.upstreams.get(upstream)).is_some_and(|upstream| waits(upstream.bits)) {
            self.read_upstream(upstream);
        }
    }

    /// Goes on with those who were not read to their end in the last turn.
    pub(super) fn read_again(&mut self) {
        let mut keys = std::mem::take(&mut self.lists.read_upstreams);
        for key in keys.drain(..) {
            if let Some(upstream) = self.upstreams.get_mut(key) {
                upstream.bits.remove(Bits::AGAIN);
                self.read_upstream(key);
            }
        }
        // What was put on the list meanwhile waits for the next turn.
        keys.append(&mut self.lists.read_upstreams);
        self.lists.read_upstreams = keys;
        let mut keys = std::mem::take(&mut self.lists.read_clients);
        for key in keys.drain(..) {
            if let Some(client) = self.clients.get_mut(key) {
                client.bits.remove(Bits::AGAIN);
                self.read_client(key);
            }
        }
        keys.append(&mut self.lists.read_clients);
        self.lists.read_clients = keys;
    }

    pub(super) fn again_client(&mut self, key: Key) {
        if let Some(client) = self.clients.get_mut(key)
            && !client.bits.contains(Bits::AGAIN)
            && client.socket.is_some()
        {
            client.bits.insert(Bits::AGAIN);
            self.lists.read_clients.push(key);
        }
    }

    pub(super) fn again_upstream(&mut self, key: Key) {
        if let Some(upstream) = self.upstreams.get_mut(key)
            && !upstream.bits.contains(Bits::AGAIN)
        {
            upstream.bits.insert(Bits::AGAIN);
            self.lists.read_upstreams.push(key);
        }
    }

    pub(super) fn read_client(&mut self, key: Key) {
        if !self.stand_back(key) {
            self.read_on(key);
        }
    }

    /// While very many calls wait for connections, clients of their pool are not read: what they sent
    /// costs nothing where it is, and is dealt with in one go when its turn comes. Whoever has ended
    /// is not kept waiting, for nothing follows him.
    fn stand_back(&mut self, key: Key) -> bool {
        let Some(client) = self.clients.get_mut(key) else {
            return false;
        };
        let over = client.bits.intersects(Bits::ENDED | Bits::JOINED);
        if over || self.state != State::Running {
            return false;
        }
        if client.bits.contains(Bits::CROWDED) {
            return true;
        }
        let pool = client
            .session
            .pool()
            .filter(|_| client.session.may_stand_back());
        let Some(pool) = pool else { return false };
        if !self.shelf.is_crowded(pool, self.line_max) {
            return false;
        }
        client.bits.insert(Bits::CROWDED);
        client.session.squeeze_client(true, self.core.now);
        self.shelf.crowd(pool, key);
        self.want_chores(QUEUE_PAUSE);
        true
    }

    /// Those who stood back, as many as may wait now.
    pub(super) fn read_crowd(&mut self, pool: u16) {
        if planted!(CrowdForgotten) {
            return;
        }
        for _ in 0..self.line_max {
            let crowded = self.shelf.waits(pool) >= self.line_max;
            if crowded && self.state == State::Running {
                return;
            }
            let Some(key) = self.shelf.next_of_crowd(pool) else {
                return;
            };
            if let Some(client) = self.clients.get_mut(key)
                && client.bits.contains(Bits::CROWDED)
            {
                client.bits.remove(Bits::CROWDED);
                self.read_on(key);
            }
        }
    }

    fn read_on(&mut self, key: Key) {
        for _ in 0..READS_MAX {
            let Some(client) = self.clients.get_mut(key) else {
                return;
            };
            if !client.session.wants_client() {
                // A broken one that is not read would never be noticed. Where its last words count,
                // they are waited for.
                let broken = client.bits.contains(Bits::JOINED)
                    || (client.bits.contains(Bits::ENDED) && self.is_reset(key));
                if broken && !planted!(BrokenUnseen) {
                    self.tell(key, Event::ClientLost(BROKEN));
                }
                return;
            }
            let Some(socket) = &mut client.socket else {
                return;
            };
            let chunks = &mut self.core.means.chunks;
            // Whatever is read must find room: it is asked for before.
            let squeezed = !chunks.room(CLIENT_ROOM);
            client.session.squeeze_client(squeezed, self.core.now);
            if squeezed {
                return self.squeeze_client(key);
            }
            let kept = client.session.stashed().min(STASH_ROOM);
            // What was kept comes before what is new: as long as much is kept, nothing is added.
            let full = kept > STASH_ROOM - READ_MAX && !planted!(NewBeforeKept);
            let got = if client.bits.contains(Bits::READABLE) && !full {
                self.io.read(socket, &mut self.scratch[STASH_ROOM..])
            } else {
                Got::Wait
            };
            let new = match got {
                Got::Bytes(new) => new,
                Got::Wait => {
                    if !full {
                        client.bits.remove(Bits::READABLE);
                    }
                    // What was kept while nothing might be begun is dealt with now.
                    if kept == 0 || !client.bits.contains(Bits::STALLED) {
                        return;
                    }
                    0
                }
                // What came before the end is dealt with before it.
                Got::End if kept > 0 && client.bits.contains(Bits::STALLED) => 0,
                Got::End if self.is_reset(key) => {
                    return self.tell(key, Event::ClientLost(BROKEN));
                }
                Got::End => return self.tell(key, Event::ClientLost(Loss::Fin)),
                Got::Broken => return self.tell(key, Event::ClientLost(BROKEN)),
            };
            client.bits.remove(Bits::STALLED);
            let short = !full && new < READ_MAX && !client.bits.contains(Bits::ENDED);
            if short {
                client.bits.remove(Bits::READABLE);
            }
            let begin = STASH_ROOM - kept;
            client
                .session
                .unstash(&mut self.scratch[begin..STASH_ROOM], chunks);
            let bytes = &self.scratch[begin..STASH_ROOM + new];
            self.core.with(&mut client.session, bytes, |session, ctx| {
                session.on(Event::ClientBytes { bytes, kept }, ctx);
            });
            self.perform(key);
            // What was read goes on while it is in cache: a turn with many readers would have pushed
            // it out by its end. There is nothing left that it could be written together with.
            self.write_rider(key);
            if short {
                return;
            }
        }
        self.again_client(key);
    }

    /// Whether an RST has come from a client whose last words are of no use without it. A read can't
    /// tell: behind a FIN it says nothing new.
    fn is_reset(&mut self, key: Key) -> bool {
        let Some(client) = self.clients.get_mut(key) else {
            return false;
        };
        let socket = client.socket.as_mut();
        let socket = socket.filter(|_| !client.session.cares_for_rest());
        socket.is_some_and(|socket| !self.io.is_connected(socket)) && !planted!(ResetBehindFin)
    }

    pub(super) fn read_upstream(&mut self, key: Key) {
        for _ in 0..READS_MAX {
            let Some(upstream) = self.upstreams.get_mut(key) else {
                return;
            };
            if !upstream.bits.contains(Bits::READABLE)
                || !upstream.bits.contains(Bits::DONE)
                || upstream.rider.is_none()
            {
                return;
            }
            let rider = upstream.rider;
            let Some(client) = self.clients.get_mut(rider) else {
                return self.fault(rider);
            };
            if !client.session.wants_upstream() {
                upstream.bits.insert(Bits::STALLED);
                return;
            }
            let squeezed = !self.core.means.chunks.room(READ_MAX);
            client.session.squeeze_upstream(squeezed, self.core.now);
            if squeezed {
                return self.squeeze_upstream(key);
            }
            let kept = upstream.stash.len();
            debug_assert!(kept <= STASH_ROOM);
            let new = match self
                .io
                .read(&mut upstream.socket, &mut self.scratch[STASH_ROOM..])
            {
                Got::Bytes(new) => new,
                Got::Wait => {
                    upstream.bits.remove(Bits::READABLE);
                    return;
                }
                Got::End => {
                    let heard = upstream.dialect.hear_end();
                    return self.tell(
                        rider,
                        Event::Heard {
                            heard,
                            bytes: &[],
                            at: 0,
                        },
                    );
                }
                Got::Broken => return self.tell(rider, Event::UpstreamLost(BROKEN)),
            };
            let short = new < READ_MAX
                && (!upstream.bits.contains(Bits::ENDED) || planted!(ShortReadAtEnd));
            if short {
                upstream.bits.remove(Bits::READABLE);
            }
            let begin = STASH_ROOM - kept;
            if kept > 0 {
                let chunks = &mut self.core.means.chunks;
                let into = &mut self.scratch[begin..STASH_ROOM];
                chunks.peek(&upstream.stash, Spot::FRONT, into);
                chunks.clear(&mut upstream.stash);
            }
            self.hear(key, rider, begin, STASH_ROOM + new);
            if short {
                return;
            }
        }
        self.again_upstream(key);
    }

    /// Nobody has asked: what has come would be taken for the next answer, unless the dialect knows
    /// of such things. False: the connection is of no use any more.
    pub(super) fn hear_at_rest(&mut self, key: Key) -> bool {
        let Some(upstream) = self.upstreams.get_mut(key) else {
            return true;
        };
        let into = &mut self.scratch[STASH_ROOM..];
        let new = match self.io.read(&mut upstream.socket, into) {
            Got::Bytes(new) => new,
            Got::Wait => return true,
            Got::End | Got::Broken => return false,
        };
        let reply = &mut self.core.first_bytes;
        reply.clear();
        // As much as was asked for: there may be more, of which we would not be told.
        if new == into.len() || !upstream.dialect.rest(&into[..new], reply) {
            return false;
        }
        // A few bytes into an empty socket: they fit.
        reply.is_empty()
            || self.io.write(&mut upstream.socket, &[IoSlice::new(reply)])
                == Put::Bytes(reply.len())
    }

    /// Lets the dialect make sense of what was read, and the session of that.
    fn hear(&mut self, key: Key, rider: Key, mut at: usize, end: usize) {
        let Some(client) = self.clients.get_mut(rider) else {
            return self.fault(rider);
        };
        let Some(upstream) = self.upstreams.get_mut(key) else {
            return;
        };
        while at < end {
            let (used, heard) = upstream.dialect.hear(&self.scratch[at..end]);
            if matches!(heard, Heard::More) {
                self.core
                    .means
                    .chunks
                    .push(&mut upstream.stash, &self.scratch[at..end]);
                client.session.answer_begun();
                break;
            }
            let bytes = &self.scratch[at..at + used];
            self.core
                .with(&mut client.session, &self.scratch, |session, ctx| {
                    session.on(Event::Heard { heard, bytes, at }, ctx);
                });
            at += used;
            let over = |action: &Action| {
                matches!(
                    action,
                    Action::HangUpUpstream { .. } | Action::Release { .. }
                )
            };
            if self.core.means.actions.iter().any(over) {
                // More than was asked for: this connection is never used again.
                if at < end {
                    upstream.bits.insert(Bits::ENDED);
                }
                break;
            }
        }
        if self.core.means.direct.is_empty() {
            self.perform(rider);
        } else {
            self.write_client(rider);
            self.perform(rider);
        }
        let moving = self
            .clients
            .get(rider)
            .is_some_and(|client| client.session.phase() == Phase::Moving);
        if moving {
            // A move waits for the end of a downward message, which this may have been.
            self.nudge(rider);
        }
    }
}

/// Reads of one socket per wake-up: a busy session must not starve the others (THREATS O08).
const READS_MAX: usize = 4;
