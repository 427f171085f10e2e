//! Who has which ClientId. Each id has a home shard, by a keyed hash, that knows the owner: a push
//! lands on any shard and finds its client by two mails, without a lock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hasher;

use super::mail::Mail;
use crate::kit::Key;

/// A client's slot on some shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub shard: u16,
    pub key: Key,
}

/// The ids whose home is this shard.
pub(super) struct Directory {
    secret: (u64, u64),
    /// A tree: it grows by a leaf, where a table would copy itself under all clients at once.
    owners: BTreeMap<u64, Owner>,
    waiting: HashMap<u64, VecDeque<Seat>>,
}

/// A seat, and whether its last calls are under way, so that who comes next waits for them: in 8
/// bytes, for there is one per client. 15 bits of shard, 24 of index, 24 of generation, one of leaving.
#[derive(Clone, Copy)]
struct Owner(u64);

impl Owner {
    fn new(seat: Seat, leaving: bool) -> Owner {
        let Key { index, generation } = seat.key;
        debug_assert!(index < 1 << 24 && generation < 1 << 24 && seat.shard < 1 << 15);
        let place = u64::from(seat.shard) << 24 | u64::from(index & 0xff_ffff);
        Owner((place << 24 | u64::from(generation)) << 1 | u64::from(leaving))
    }

    fn seat(self) -> Seat {
        let part = |shift: u32| (self.0 >> shift) as u32 & 0xff_ffff;
        Seat {
            shard: (self.0 >> 49) as u16,
            key: Key {
                index: part(25),
                generation: part(1),
            },
        }
    }

    fn is_leaving(self) -> bool {
        self.0 & 1 == 1
    }
}

impl Directory {
    /// Empty. The secret is the same for all shards, and known to nobody who could choose ids that
    /// collide (THREATS V39).
    pub fn new(secret: (u64, u64)) -> Directory {
        Directory {
            secret,
            owners: BTreeMap::new(),
            waiting: HashMap::new(),
        }
    }

    /// The number of an id. With 64 bits, a million ids collide once in 37 million such processes.
    pub fn number(&self, id: &str) -> u64 {
        // Deprecated in favour of a hasher whose keys nobody can choose; all shards need the same.
        #[expect(deprecated)]
        let mut hasher = std::hash::SipHasher::new_with_keys(self.secret.0, self.secret.1);
        hasher.write(id.as_bytes());
        hasher.finish()
    }

    /// Who has it now.
    pub fn find(&self, id: u64) -> Option<Seat> {
        self.owners.get(&id).map(|owner| owner.seat())
    }

    /// A session wants an id; what is to be sent to whom. Who is to replace the owner replaces those
    /// that wait for it, too.
    pub fn reserve(&mut self, id: u64, seat: Seat, replace: bool) -> Vec<(u16, Mail)> {
        let Some(owner) = self.owners.get(&id) else {
            return vec![self.give(id, seat)];
        };
        if !owner.is_leaving() && !replace {
            return vec![(seat.shard, Mail::Taken { key: seat.key })];
        }
        let old = (!owner.is_leaving()).then(|| owner.seat());
        let queue = self.waiting.entry(id).or_default();
        let mut evicted: Vec<Seat> = old.into_iter().collect();
        if replace {
            evicted.extend(queue.drain(..));
        }
        queue.push_back(seat);
        let evict = |old: Seat| (old.shard, Mail::Evict { key: old.key });
        evicted.into_iter().map(evict).collect()
    }

    /// The owner has begun to leave. Only the owner can say so (THREATS V24).
    pub fn leaving(&mut self, id: u64, seat: Seat) {
        if let Some(owner) = self.owners.get_mut(&id)
            && owner.seat() == seat
        {
            *owner = Owner::new(seat, true);
        }
    }

    /// The owner has left: who has waited longest is next. Or somebody waits no more: given to him,
    /// the id would seem to be taken until he has given it back.
    pub fn free(&mut self, id: u64, seat: Seat) -> Option<(u16, Mail)> {
        if self
            .owners
            .get(&id)
            .is_none_or(|owner| owner.seat() != seat)
        {
            let queue = self.waiting.get_mut(&id)?;
            queue.retain(|waiting| *waiting != seat);
            if queue.is_empty() {
                self.waiting.remove(&id);
            }
            return None;
        }
        self.owners.remove(&id);
        let queue = self.waiting.get_mut(&id)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&id);
        }
        next.map(|next| self.give(id, next))
    }

    fn give(&mut self, id: u64, seat: Seat) -> (u16, Mail) {
        self.owners.insert(id, Owner::new(seat, false));
        (seat.shard, Mail::Reserved { id, key: seat.key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(index: u32) -> Seat {
        let key = Key {
            index,
            generation: 1,
        };
        Seat { shard: 3, key }
    }

    #[test]
    fn an_id_has_one_owner_and_passes_on_in_turn() {
        let mut directory = Directory::new((1, 2));
        let id = directory.number("alice");
        assert_ne!(id, Directory::new((1, 3)).number("alice"));
        let reserved = |answer: Option<(u16, Mail)>, who: u32| {
            let key = seat(who).key;
            assert!(
                matches!(answer, Some((3, Mail::Reserved { key: got, .. })) if got == key),
                "{who}"
            );
        };
        let evicted = |answers: &[(u16, Mail)], who: &[u32]| {
            let keys: Vec<Key> = who.iter().map(|who| seat(*who).key).collect();
            let told = answers.iter().map(|(shard, mail)| match mail {
                Mail::Evict { key } if *shard == 3 => *key,
                other => panic!("{other:?}"),
            });
            assert_eq!(told.collect::<Vec<Key>>(), keys);
        };
        reserved(directory.reserve(id, seat(1), false).pop(), 1);
        assert!(matches!(
            directory.reserve(id, seat(2), false)[..],
            [(3, Mail::Taken { .. })]
        ));
        evicted(&directory.reserve(id, seat(6), true), &[1]);
        // The owner is told once more: it may have been told before it was the owner.
        evicted(&directory.reserve(id, seat(3), true), &[1, 6]);
        assert_eq!(directory.find(id), Some(seat(1)), "until it has left");
        directory.leaving(id, seat(2));
        assert!(directory.free(id, seat(2)).is_none(), "not the owner");
        directory.leaving(id, seat(1));
        assert!(directory.reserve(id, seat(4), false).is_empty(), "it waits");
        assert!(directory.reserve(id, seat(5), false).is_empty());
        assert!(directory.free(id, seat(5)).is_none(), "it waits no more");
        reserved(directory.free(id, seat(1)), 3);
        reserved(directory.free(id, seat(3)), 4);
        assert!(directory.free(id, seat(4)).is_none());
        assert_eq!(directory.find(id), None);
        assert!(directory.waiting.is_empty());
    }
}
