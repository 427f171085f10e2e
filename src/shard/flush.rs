//! Writing: one `writev` per leg and turn.

use std::io::IoSlice;

use super::{Bits, Io, Put, Shard, settings_of};
use crate::kit::{Key, Spot};
use crate::session::{Dialect, Event, Phase, Place};

impl<I: Io, D: Dialect> Shard<I, D> {
    /// Writes what the turn has left to be written. Writing may wake more: that is written, too, a
    /// few times; the rest waits for the next turn.
    pub(super) fn flush(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if self.lists.flush_upstreams.is_empty() && self.lists.flush_clients.is_empty() {
                return;
            }
            let mut keys = std::mem::take(&mut self.lists.spare);
            std::mem::swap(&mut keys, &mut self.lists.flush_upstreams);
            for key in keys.drain(..) {
                if let Some(upstream) = self.upstreams.get_mut(key)
                    && upstream.bits.contains(Bits::DIRTY)
                {
                    upstream.bits.remove(Bits::DIRTY);
                    self.write_upstream(key);
                }
            }
            std::mem::swap(&mut keys, &mut self.lists.flush_clients);
            for key in keys.drain(..) {
                if let Some(client) = self.clients.get_mut(key) {
                    client.bits.remove(Bits::DIRTY);
                    self.write_client(key);
                    self.perform(key);
                }
            }
            self.lists.spare = keys;
        }
    }

    /// Writes to a client's server at once, if anything waits for it. Its mark stays on the list and
    /// finds nothing left to do.
    pub(super) fn write_rider(&mut self, key: Key) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        let upstream = client.upstream;
        if let Some(slot) = self.upstreams.get_mut(upstream)
            && slot.bits.contains(Bits::DIRTY)
        {
            slot.bits.remove(Bits::DIRTY);
            self.write_upstream(upstream);
        }
    }

    pub(super) fn mark_client(&mut self, key: Key) {
        if let Some(client) = self.clients.get_mut(key)
            && !client.bits.contains(Bits::DIRTY)
            && client.socket.is_some()
        {
            client.bits.insert(Bits::DIRTY);
            self.lists.flush_clients.push(key);
        }
    }

    pub(super) fn mark_upstream(&mut self, key: Key) {
        if let Some(upstream) = self.upstreams.get_mut(key)
            && !upstream.bits.contains(Bits::DIRTY)
        {
            upstream.bits.insert(Bits::DIRTY);
            self.lists.flush_upstreams.push(key);
        }
    }

    /// Writes what is queued for the client, then the direct parts of the scratch buffer; only what
    /// the socket refuses of these is copied.
    pub(super) fn write_client(&mut self, key: Key) {
        let Some(client) = self.clients.get_mut(key) else {
            self.core.means.direct.clear();
            return;
        };
        let core = &mut self.core;
        let mut broken = false;
        while client.bits.contains(Bits::WRITABLE)
            && (client.session.has_output() || !core.means.direct.is_empty())
        {
            let Some(socket) = &mut client.socket else {
                break;
            };
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            let mut total = 0;
            let queued = client.session.output(&core.means.chunks);
            let direct = core
                .means
                .direct
                .iter()
                .map(|range| &self.scratch[range.clone()]);
            for (slot, bytes) in slices.iter_mut().zip(queued.chain(direct)) {
                *slot = IoSlice::new(bytes);
                (count, total) = (count + 1, total + bytes.len());
            }
            let taken = match self.io.write(socket, &slices[..count]) {
                Put::Bytes(taken) => taken,
                Put::Wait => 0,
                Put::Broken => {
                    broken = true;
                    break;
                }
            };
            client.bits.set(Bits::WRITABLE, taken == total);
            let queued = taken.min(client.session.held_output());
            client
                .session
                .output_taken(queued, core.now, &mut core.means.chunks);
            drop_direct(&mut core.means.direct, taken - queued);
        }
        for range in core.means.direct.drain(..) {
            client
                .session
                .output_refused(&self.scratch[range], &mut core.means.chunks);
        }
        let upstream = client.upstream;
        if broken {
            // The end itself is seen by a read: what the client had sent before comes first.
            client.bits.remove(Bits::WRITABLE);
            client.bits.insert(Bits::READABLE);
            client.bits.insert(Bits::ENDED);
            client.bits.insert(Bits::JOINED);
            return self.again_client(key);
        }
        if !client.session.has_output() && client.session.awaits_drain() {
            core.with(&mut client.session, &[], |session, ctx| {
                session.on(Event::ClientDrained, ctx);
            });
        }
        if client.session.wants_upstream()
            && let Some(upstream_slot) = self.upstreams.get_mut(upstream)
            && upstream_slot.bits.contains(Bits::STALLED)
        {
            upstream_slot.bits.remove(Bits::STALLED);
            self.again_upstream(upstream);
        }
    }

    /// Writes to the server: what must go first, the journal, and the control frames where a frame
    /// boundary allows them.
    pub(super) fn write_upstream(&mut self, key: Key) {
        for _ in 0..WRITES_MAX {
            let Some(upstream) = self.upstreams.get_mut(key) else {
                return;
            };
            let rider = upstream.rider;
            if rider.is_none() {
                return;
            }
            let Some(client) = self.clients.get_mut(rider) else {
                return self.fault(rider);
            };
            if !upstream.bits.contains(Bits::DONE) {
                return;
            }
            if !upstream.bits.contains(Bits::WRITABLE) {
                // Put off, but its client does not go on: what it waits for is there to be read.
                let over = upstream.bits.contains(Bits::ENDED | Bits::READABLE);
                if over && client.session.phase() != Phase::Open {
                    self.again_upstream(key);
                }
                return;
            }
            let core = &mut self.core;
            let settings = settings_of(client.session.pool(), &core.settings, &core.nobodys);
            let parcel = &mut core.parcel;
            client.session.compose(
                &upstream.dialect,
                core.now,
                settings,
                &mut core.means.rng,
                parcel,
            );
            let owed = !upstream.spill.is_empty() || !parcel.control.is_empty();
            let unsent = || {
                client
                    .session
                    .sendable(parcel.fenced, &core.means.chunks)
                    .next()
            };
            if !owed && unsent().is_none() {
                return;
            }

            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            let mut put = |bytes| {
                // One place is left for control frames behind the journal.
                let fits = count < SLICES_MAX - 1;
                if fits {
                    slices[count] = IoSlice::new(bytes);
                    count += 1;
                }
                fits
            };
            let (mut spill, mut journal, mut control) = (0, 0, parcel.control.len());
            let mut whole = true;
            for bytes in core.means.chunks.slices(&upstream.spill, Spot::FRONT) {
                whole &= put(bytes);
                spill += if whole { bytes.len() } else { 0 };
            }
            if control > 0 && parcel.place == Place::Before {
                whole &= put(&parcel.control);
            }
            for bytes in client.session.sendable(parcel.fenced, &core.means.chunks) {
                whole &= put(bytes);
                if !whole {
                    break;
                }
                journal += bytes.len();
            }
            if control > 0 && parcel.place == Place::After {
                if whole {
                    slices[count] = IoSlice::new(&parcel.control);
                    count += 1;
                } else {
                    control = 0;
                }
            }
            let total = spill + control + journal;
            debug_assert!(total > 0, "nothing to write");
            let taken = match self.io.write(&mut upstream.socket, &slices[..count]) {
                Put::Bytes(taken) => taken,
                Put::Wait => {
                    upstream.bits.remove(Bits::WRITABLE);
                    return;
                }
                Put::Broken => {
                    // As for clients: what it had said before it died is read first.
                    upstream.bits.remove(Bits::WRITABLE);
                    upstream.bits.insert(Bits::READABLE);
                    upstream.bits.insert(Bits::ENDED);
                    return self.again_upstream(key);
                }
            };
            upstream.bits.set(Bits::WRITABLE, taken == total);
            let sent = Taken::new(taken, spill, control, journal, parcel.place);
            core.means
                .chunks
                .drop_front(&mut upstream.spill, sent.spill);
            if sent.control > 0 {
                let rest = &parcel.control[sent.control..];
                core.means.chunks.push(&mut upstream.spill, rest);
            }
            let all = upstream.spill.is_empty();
            self.account(rider, &sent);
            if sent.spill > 0
                && self
                    .clients
                    .get(rider)
                    .is_some_and(|one| one.session.is_bridged())
            {
                self.tell(rider, Event::Uploaded { all });
            }
            if taken < total {
                return;
            }
        }
        self.mark_upstream(key);
    }

    /// Tells the session what left.
    fn account(&mut self, rider: Key, sent: &Taken) {
        let Some(client) = self.clients.get_mut(rider) else {
            return;
        };
        let (ping, close) = (self.core.parcel.ping, self.core.parcel.close);
        self.core.with(&mut client.session, &[], |session, ctx| {
            // The control frames stood before the journal, or behind it: each is told in its turn.
            if sent.control > 0 {
                session.pong_taken();
            }
            if sent.journal > 0 {
                session.on(
                    Event::Sent {
                        count: sent.journal,
                    },
                    ctx,
                );
            }
            if sent.control > 0
                && let Some(number) = ping
            {
                session.on(Event::Pinged { number }, ctx);
            }
            if sent.control > 0 && close {
                session.on(Event::Farewelled, ctx);
            }
        });
        self.perform(rider);
    }
}

/// How the kernel's share of a write falls on its parts.
struct Taken {
    spill: usize,
    control: usize,
    journal: usize,
}

impl Taken {
    fn new(taken: usize, spill: usize, control: usize, journal: usize, place: Place) -> Taken {
        let of_spill = taken.min(spill);
        let left = taken - of_spill;
        let (of_control, of_journal) = match place {
            Place::Before => (left.min(control), left.saturating_sub(control)),
            Place::After => (left.saturating_sub(journal), left.min(journal)),
        };
        Taken {
            spill: of_spill,
            control: of_control,
            journal: of_journal,
        }
    }
}

/// Forgets the first `taken` bytes of the direct parts.
fn drop_direct(direct: &mut Vec<std::ops::Range<usize>>, mut taken: usize) {
    while taken > 0 {
        let Some(first) = direct.first_mut() else {
            return;
        };
        let step = taken.min(first.len());
        first.start += step;
        taken -= step;
        if first.start >= first.end {
            direct.remove(0);
        }
    }
}

/// Parts of one write: at 2 KiB a chunk, 126 KiB.
const SLICES_MAX: usize = 64;

/// Writes to one server per turn.
const WRITES_MAX: usize = 4;

/// How often flushing may wake more flushing in one turn.
const ROUNDS_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_falls_on_its_parts_in_order() {
        let rows = [
            (5, 10, 4, 20, Place::Before, (5, 0, 0)),
            (12, 10, 4, 20, Place::Before, (10, 2, 0)),
            (15, 10, 4, 20, Place::Before, (10, 4, 1)),
            (15, 10, 4, 20, Place::After, (10, 0, 5)),
            (33, 10, 4, 20, Place::After, (10, 3, 20)),
            (34, 10, 4, 20, Place::After, (10, 4, 20)),
        ];
        for (taken, spill, control, journal, place, want) in rows {
            let sent = Taken::new(taken, spill, control, journal, place);
            assert_eq!((sent.spill, sent.control, sent.journal), want);
        }
    }
}
