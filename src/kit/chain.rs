//! Queues of bytes that own nothing while they are empty: handles into one store of chunks.

use std::sync::Arc;

use super::cell::Budget;

/// A queue: first chunk, last chunk, length. 12 bytes at rest, and no memory anywhere else.
/// It must be emptied through its store ([`Chunks::clear`]): dropping the handle leaks the chunks.
#[derive(Debug)]
pub struct Chain {
    head: u32,
    tail: u32,
    len: u32,
}

impl Chain {
    /// An empty queue.
    pub const fn new() -> Chain {
        Chain {
            head: NIL,
            tail: NIL,
            len: 0,
        }
    }

    /// Bytes in the queue.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether nothing is queued.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Default for Chain {
    fn default() -> Chain {
        Chain::new()
    }
}

/// A place inside a chain: before the byte at `offset` of `chunk`. It stays good while bytes are
/// pushed behind it and dropped before it, as long as the byte just before it is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    chunk: u32,
    offset: u16,
}

impl Spot {
    /// The place before everything, also of an empty chain.
    pub const FRONT: Spot = Spot {
        chunk: NIL,
        offset: 0,
    };
}

/// Where the bytes of a chunk are, and which chunk follows it in its chain.
struct Slot {
    next: u32,
    start: u16,
    end: u16,
}

/// A block of chunks. It has memory only while one of them is in use, or might soon be.
struct Block {
    bytes: Option<Box<[u8]>>,
    /// First of its free chunks; the last one used is the next one taken, for it is in cache.
    free: u32,
    used: u32,
}

/// The store of one loop. All its chunks together never exceed what it has leased from the budget.
/// Chunks come in blocks, taken from the first block that has one: so the last blocks empty
/// themselves, and their memory goes back whole.
pub struct Chunks {
    slots: Vec<Slot>,
    blocks: Vec<Block>,
    /// No block before this one has a free chunk.
    open: usize,
    /// Blocks that have memory.
    resident: usize,
    /// The most chunks in use since the last [`trim`](Chunks::trim).
    peak: usize,
    used: usize,
    leased: usize,
    budget: Arc<Budget>,
    step: usize,
}

impl Chunks {
    /// A store that leases from `budget` (in chunks), `step` at a time.
    pub fn new(budget: Arc<Budget>, step: usize) -> Chunks {
        debug_assert!(step > 0);
        Chunks {
            slots: Vec::new(),
            blocks: Vec::new(),
            open: 0,
            resident: 0,
            peak: 0,
            used: 0,
            leased: 0,
            budget,
            step,
        }
    }

    /// Whether there is memory that a [`trim`](Chunks::trim) may find unneeded.
    #[inline]
    pub fn is_loose(&self) -> bool {
        self.resident > 0
    }

    /// Gives back the memory of empty blocks beyond what was in use at once since the last time.
    pub fn trim(&mut self) {
        let keep = self.peak.div_ceil(PER_BLOCK);
        self.peak = self.used;
        for block in self.blocks.iter_mut().rev() {
            if self.resident <= keep {
                return;
            }
            if block.used == 0 && block.bytes.take().is_some() {
                self.resident -= 1;
            }
        }
    }

    /// Makes sure that `bytes` more can be stored, in up to four queues, without exceeding the
    /// bound; leases more if need be. False: the bound is reached.
    #[inline]
    pub fn room(&mut self, bytes: usize) -> bool {
        let wanted = self.used + bytes / CHUNK + 4;
        wanted <= self.leased || self.lease_up_to(wanted)
    }

    /// Appends bytes. The caller has asked for [`room`](Chunks::room).
    pub fn push(&mut self, chain: &mut Chain, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let free = match self.slots.get(chain.tail as usize) {
                Some(slot) => CHUNK - slot.end as usize,
                None => 0,
            };
            if free == 0 {
                self.grow(chain);
                continue;
            }
            let take = free.min(bytes.len());
            let slot = &mut self.slots[chain.tail as usize];
            let end = slot.end as usize;
            slot.end += take as u16;
            let block = &mut self.blocks[chain.tail as usize / PER_BLOCK];
            let room = block.bytes.as_mut().expect("a chunk in a chain has memory");
            let at = chain.tail as usize % PER_BLOCK * CHUNK + end;
            room[at..at + take].copy_from_slice(&bytes[..take]);
            chain.len += take as u32;
            bytes = &bytes[take..];
        }
    }

    /// Moves all of `other` behind `chain` without copying.
    pub fn join(&mut self, chain: &mut Chain, other: &mut Chain) {
        let other = std::mem::take(other);
        if other.head == NIL {
            return;
        }
        if chain.head == NIL {
            *chain = other;
            return;
        }
        self.slots[chain.tail as usize].next = other.head;
        chain.tail = other.tail;
        chain.len += other.len;
    }

    /// Drops the first `n` bytes.
    pub fn drop_front(&mut self, chain: &mut Chain, mut n: usize) {
        debug_assert!(n <= chain.len(), "dropping {n} of {}", chain.len());
        if n >= chain.len() {
            return self.clear(chain);
        }
        chain.len -= n as u32;
        while n > 0 {
            let slot = &mut self.slots[chain.head as usize];
            let here = (slot.end - slot.start) as usize;
            if n < here {
                slot.start += n as u16;
                return;
            }
            n -= here;
            let next = slot.next;
            self.release(chain.head);
            chain.head = next;
        }
    }

    /// Cuts the chain to its first `len` bytes.
    pub fn truncate(&mut self, chain: &mut Chain, len: usize) {
        debug_assert!(len <= chain.len());
        if len == 0 {
            return self.clear(chain);
        }
        let mut left = len;
        let mut chunk = chain.head;
        loop {
            let slot = &mut self.slots[chunk as usize];
            let here = (slot.end - slot.start) as usize;
            if left <= here {
                slot.end = slot.start + left as u16;
                let mut rest = std::mem::replace(&mut slot.next, NIL);
                while rest != NIL {
                    let next = self.slots[rest as usize].next;
                    self.release(rest);
                    rest = next;
                }
                (chain.tail, chain.len) = (chunk, len as u32);
                return;
            }
            left -= here;
            chunk = slot.next;
        }
    }

    /// Empties the chain.
    pub fn clear(&mut self, chain: &mut Chain) {
        let mut chunk = chain.head;
        while chunk != NIL {
            let next = self.slots[chunk as usize].next;
            self.release(chunk);
            chunk = next;
        }
        *chain = Chain::new();
    }

    /// The bytes from `spot` on, chunk by chunk.
    pub fn slices<'a>(
        &'a self,
        chain: &Chain,
        spot: Spot,
    ) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (mut chunk, mut offset) = self.locate(chain, spot);
        std::iter::from_fn(move || {
            loop {
                let place = chunk as usize;
                let slot = self.slots.get(place)?;
                let from = offset.unwrap_or(slot.start) as usize;
                (chunk, offset) = (slot.next, None);
                if from < slot.end as usize {
                    let at = place % PER_BLOCK * CHUNK;
                    let bytes = self.blocks[place / PER_BLOCK].bytes.as_ref()?;
                    return Some(&bytes[at + from..at + slot.end as usize]);
                }
            }
        })
    }

    /// The place `n` bytes behind `spot`. There must be as many.
    pub fn advance(&self, chain: &Chain, spot: Spot, mut n: usize) -> Spot {
        let (mut chunk, offset) = self.locate(chain, spot);
        if chunk == NIL {
            debug_assert_eq!(n, 0, "advancing in an empty chain");
            return Spot::FRONT;
        }
        let mut from = offset.unwrap_or(self.slots[chunk as usize].start);
        loop {
            let slot = &self.slots[chunk as usize];
            let here = (slot.end - from) as usize;
            if n <= here || slot.next == NIL {
                debug_assert!(n <= here, "advancing past the end");
                return Spot {
                    chunk,
                    offset: from + n as u16,
                };
            }
            n -= here;
            chunk = slot.next;
            from = self.slots[chunk as usize].start;
        }
    }

    /// Copies up to `into.len()` bytes from `spot` on; returns how many there were.
    pub fn peek(&self, chain: &Chain, spot: Spot, into: &mut [u8]) -> usize {
        let mut filled = 0;
        for slice in self.slices(chain, spot) {
            let take = slice.len().min(into.len() - filled);
            into[filled..filled + take].copy_from_slice(&slice[..take]);
            filled += take;
            if filled == into.len() {
                break;
            }
        }
        filled
    }

    /// Chunks in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// What all stores have leased of their budget, in percent.
    pub fn leased_percent(&self) -> u64 {
        self.budget.percent()
    }

    /// Bytes of memory in use, counted as whole chunks.
    pub fn used_bytes(&self) -> u64 {
        (self.used * CHUNK) as u64
    }

    /// What must always hold; run after each turn in tests.
    pub fn check_invariants(&self) {
        assert!(
            self.used <= self.leased,
            "{} chunks used, {} leased",
            self.used,
            self.leased
        );
        let used: usize = self.blocks.iter().map(|block| block.used as usize).sum();
        assert_eq!(self.used, used);
        let resident = self.blocks.iter().filter(|block| block.bytes.is_some());
        assert_eq!(self.resident, resident.count());
        let homeless = |block: &Block| block.used > 0 && block.bytes.is_none();
        assert!(!self.blocks.iter().any(homeless));
    }

    fn locate(&self, chain: &Chain, spot: Spot) -> (u32, Option<u16>) {
        if spot == Spot::FRONT {
            (chain.head, None)
        } else {
            (spot.chunk, Some(spot.offset))
        }
    }

    fn grow(&mut self, chain: &mut Chain) {
        let id = self.take();
        if chain.tail == NIL {
            chain.head = id;
        } else {
            self.slots[chain.tail as usize].next = id;
        }
        chain.tail = id;
    }

    fn take(&mut self) -> u32 {
        if self.used >= self.leased {
            self.lease_up_to(self.used + 1);
        }
        debug_assert!(
            self.used < self.leased,
            "nobody asked for room before pushing"
        );
        self.used += 1;
        self.peak = self.peak.max(self.used);
        let full = |block: &Block| block.free == NIL;
        while self.blocks.get(self.open).is_some_and(full) {
            self.open += 1;
        }
        if self.open == self.blocks.len() {
            self.add_block();
        }
        let block = &mut self.blocks[self.open];
        if block.bytes.is_none() {
            block.bytes = Some(vec![0; PER_BLOCK * CHUNK].into_boxed_slice());
            self.resident += 1;
        }
        let id = block.free;
        let slot = &mut self.slots[id as usize];
        (block.free, block.used) = (slot.next, block.used + 1);
        (slot.next, slot.start, slot.end) = (NIL, 0, 0);
        id
    }

    fn add_block(&mut self) {
        let first = self.slots.len() as u32;
        let last = first + PER_BLOCK as u32;
        let next = |id: u32| if id + 1 == last { NIL } else { id + 1 };
        let slot = |id| Slot {
            next: next(id),
            start: 0,
            end: 0,
        };
        self.slots.extend((first..last).map(slot));
        self.blocks.push(Block {
            bytes: None,
            free: first,
            used: 0,
        });
    }

    fn release(&mut self, id: u32) {
        self.used -= 1;
        let place = id as usize / PER_BLOCK;
        let block = &mut self.blocks[place];
        self.slots[id as usize].next = block.free;
        (block.free, block.used) = (id, block.used - 1);
        self.open = self.open.min(place);
        // One step is kept in hand, so that a loop at its edge does not lease and return in turns.
        if self.leased >= self.used + 2 * self.step {
            self.leased -= self.step;
            self.budget.give_back(self.step as u64);
        }
    }

    #[cold]
    fn lease_up_to(&mut self, wanted: usize) -> bool {
        while self.leased < wanted {
            let got = self.budget.lease(self.step as u64) as usize;
            if got == 0 {
                return false;
            }
            self.leased += got;
        }
        true
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.budget.give_back(self.leased as u64);
    }
}

/// Bytes in a chunk. Small, because every session with one unconfirmed message holds one; large
/// enough that 16 KiB take eight copies.
pub const CHUNK: usize = 2048;

/// Chunks in a block: 128 KiB, which the allocator maps and unmaps by itself.
const PER_BLOCK: usize = 64;

const NIL: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::Prng;

    fn store(chunks: u64) -> Chunks {
        Chunks::new(Arc::new(Budget::new(chunks)), 4)
    }

    fn content(chunks: &Chunks, chain: &Chain, spot: Spot) -> Vec<u8> {
        chunks.slices(chain, spot).flatten().copied().collect()
    }

    #[test]
    fn behaves_as_a_plain_queue() {
        for seed in 0..20 {
            let mut rng = Prng::from_u64(seed);
            let mut chunks = store(10_000);
            let (mut chain, mut other) = (Chain::new(), Chain::new());
            let (mut model, mut other_model): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
            for step in 0..600u32 {
                let bytes: Vec<u8> = (0..rng.below(6_000)).map(|n| (n ^ step) as u8).collect();
                match rng.below(6) {
                    0 | 1 => {
                        chunks.push(&mut chain, &bytes);
                        model.extend(&bytes);
                    }
                    2 => {
                        let n = rng.below(model.len() as u32 + 1) as usize;
                        chunks.drop_front(&mut chain, n);
                        model.drain(..n);
                    }
                    3 => {
                        let n = rng.below(model.len() as u32 + 1) as usize;
                        chunks.truncate(&mut chain, n);
                        model.truncate(n);
                    }
                    4 => {
                        chunks.push(&mut other, &bytes);
                        other_model.extend(&bytes);
                    }
                    _ => {
                        chunks.join(&mut chain, &mut other);
                        model.append(&mut other_model);
                    }
                }
                assert_eq!(chain.len(), model.len());
                let n = rng.below(model.len() as u32 + 1) as usize;
                let spot = chunks.advance(&chain, Spot::FRONT, n);
                assert_eq!(content(&chunks, &chain, spot), model[n..]);
                let mut head = [0; 14];
                let got = chunks.peek(&chain, spot, &mut head);
                assert_eq!(head[..got], model[n..model.len().min(n + 14)]);
                chunks.check_invariants();
            }
            chunks.clear(&mut chain);
            chunks.clear(&mut other);
            assert_eq!(chunks.used(), 0, "an empty queue owns nothing");
            chunks.trim();
            chunks.trim();
            chunks.check_invariants();
            assert!(!chunks.is_loose(), "what a burst took goes back");
        }
    }

    #[test]
    fn keeps_to_its_budget_and_gives_back() {
        let budget = Arc::new(Budget::new(40));
        let mut chunks = Chunks::new(budget.clone(), 4);
        let mut chain = Chain::new();
        let mut stored = 0;
        while chunks.room(CHUNK) {
            chunks.push(&mut chain, &[7; CHUNK]);
            stored += 1;
        }
        assert!(
            (35..=40).contains(&stored),
            "{stored} chunks of a budget of 40"
        );
        chunks.clear(&mut chain);
        assert!(budget.left() >= 32, "{} left", budget.left());
        drop(chunks);
        assert_eq!(budget.left(), 40);
    }

    #[test]
    fn a_spot_outlives_what_is_pushed_behind_and_dropped_before() {
        let mut chunks = store(100);
        let mut chain = Chain::new();
        chunks.push(&mut chain, &[1; CHUNK]);
        let spot = chunks.advance(&chain, Spot::FRONT, CHUNK);
        chunks.push(&mut chain, &[2; 10]);
        chunks.drop_front(&mut chain, CHUNK - 1);
        assert_eq!(content(&chunks, &chain, spot), [2; 10]);
    }
}
