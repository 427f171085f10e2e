//! A slab whose keys go stale: a key that outlived its slot finds nothing.

use std::ops::Range;

use slab::Slab;

/// The name of one slot. Holding it is free; what it names may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Place in the slab.
    pub index: u32,
    /// Which tenant of that place.
    pub generation: u32,
}

impl Key {
    /// A key that never names anything.
    pub const NONE: Key = Key {
        index: u32::MAX,
        generation: 0,
    };

    /// Whether this is [`Key::NONE`].
    pub fn is_none(self) -> bool {
        self == Key::NONE
    }
}

/// Slots with generations. A generation counts insertions into the whole slab, in 24 bits: a stale
/// key could be mistaken only if exactly a multiple of 16.7 million insertions later the same place
/// were taken again.
pub struct Slots<T> {
    slab: Slab<(u32, T)>,
    generation: u32,
}

impl<T> Slots<T> {
    /// An empty slab with room for `capacity` slots: growth doubles by copy, so the expected size
    /// is reserved at the start.
    pub fn with_capacity(capacity: usize) -> Slots<T> {
        Slots {
            slab: Slab::with_capacity(capacity),
            generation: 0,
        }
    }

    /// The key that the next insertion will have: a socket is watched under it before it has a slot.
    pub fn next_key(&self) -> Key {
        // Generation 0 is kept for `Key::NONE`.
        let generation = ((self.generation + 1) & Self::GENERATION_MASK).max(1);
        Key {
            index: self.slab.vacant_key() as u32,
            generation,
        }
    }

    /// Takes a slot for `value`.
    pub fn insert(&mut self, value: T) -> Key {
        let key = self.next_key();
        self.generation = key.generation;
        let index = self.slab.insert((key.generation, value));
        debug_assert_eq!(index, key.index as usize);
        key
    }

    /// Frees the slot and returns what was in it; `None` for a stale key.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let (generation, value) = self.slab.remove(key.index as usize);
        debug_assert_eq!(generation, key.generation);
        Some(value)
    }

    /// What the key names, if it is still there.
    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        match self.slab.get(key.index as usize) {
            Some((generation, value)) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// What the key names, if it is still there.
    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slab.get_mut(key.index as usize) {
            Some((generation, value)) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// How many slots are taken.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether no slot is taken.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// All taken slots, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slab.iter().map(|(index, (generation, value))| {
            (
                Key {
                    index: index as u32,
                    generation: *generation,
                },
                value,
            )
        })
    }

    /// The first taken slot at or behind a place.
    pub fn next_from(&self, index: u32) -> Option<(Key, &T)> {
        self.within(index..self.end()).next()
    }

    /// The taken slots among these places, and no look at any other.
    pub fn within(&self, places: Range<u32>) -> impl Iterator<Item = (Key, &T)> {
        places.filter_map(|index| {
            let (generation, value) = self.slab.get(index as usize)?;
            Some((
                Key {
                    index,
                    generation: *generation,
                },
                value,
            ))
        })
    }

    /// At and behind this place no slot is taken.
    pub fn end(&self) -> u32 {
        self.slab.capacity() as u32
    }

    /// Generations fit the 24 bits that a poll token leaves for them.
    pub const GENERATION_MASK: u32 = 0x00ff_ffff;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut slots = Slots::with_capacity(2);
        let a = slots.insert("a");
        assert_eq!(slots.remove(a), Some("a"));
        let b = slots.insert("b");
        assert_eq!(a.index, b.index, "the place is used again");
        assert_eq!(slots.get(a), None);
        assert_eq!(slots.remove(a), None);
        assert_eq!(slots.get(b), Some(&"b"));
        assert_eq!(slots.get(Key::NONE), None);
        assert_eq!(slots.len(), 1);
    }

    #[test]
    fn pages_through_gaps() {
        let mut slots = Slots::with_capacity(4);
        let keys: Vec<Key> = (0..4).map(|n| slots.insert(n)).collect();
        slots.remove(keys[1]);
        slots.remove(keys[2]);
        assert_eq!(
            slots.next_from(1).map(|(key, n)| (key, *n)),
            Some((keys[3], 3))
        );
        assert!(slots.next_from(4).is_none());
        let within = |places| slots.within(places).map(|(_, n)| *n).collect::<Vec<_>>();
        assert_eq!(within(0..3), [0]);
        assert_eq!(within(1..4), [3]);
        assert_eq!(within(0..slots.end() + 9), [0, 3]);
    }
}
