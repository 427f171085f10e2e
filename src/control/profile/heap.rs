//! The heap: who holds it, and who has taken how much, from one sample per 512 KiB taken.
//!
//! Each thread counts down the bytes that it takes; a block that reaches zero is remembered with
//! its stack until it is given back. The distances are random, so that a block of any size is drawn
//! with a known chance, and counts for as many as it stands for.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::{Kind, Profile};
use crate::net::sys::trace::{self, FRAMES_MAX};

/// A block was taken: for [`trace::Watched`].
#[inline]
pub fn took(address: usize, bytes: usize) {
    let left = LEFT.get().wrapping_sub(bytes as isize);
    LEFT.set(left);
    if left < 0 {
        sample(address, bytes);
    }
}

/// A block is about to be given back: for [`trace::Watched`].
#[inline]
pub fn gave(address: usize) {
    if MARKS[mark_of(address)].load(Relaxed) > 0 {
        forget(address);
    }
}

/// What is held now, and what was taken up to now. `None`: this program's allocator does not tell.
pub fn profile() -> Option<Profile> {
    if !WATCHED.load(Relaxed) {
        return None;
    }
    let stacks = inside(|| {
        BOOK.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .numbers()
    });
    Some(Profile {
        kinds: &KINDS,
        period: (PERIOD, RATE as u64),
        stacks: stacks.unwrap_or_default(),
        is_called: true,
        began: SystemTime::now(),
        length: Duration::ZERO,
    })
}

/// Does what should not be seen in the profile: making it takes more than wsteady at rest.
pub(super) fn unseen<T>(work: impl FnOnce() -> T) -> T {
    let left = LEFT.replace(isize::MAX);
    let done = work();
    LEFT.set(left);
    done
}

#[cold]
fn sample(address: usize, bytes: usize) {
    WATCHED.store(true, Relaxed);
    inside(|| {
        let seed = SEED.get();
        SEED.set(next_seed(if seed == 0 { seed_of(address) } else { seed }));
        LEFT.set(distance(SEED.get()));
        // A thread's first block only draws the distance: its end was not chance.
        if seed != 0 {
            let mut frames = [0; FRAMES_MAX];
            let count = trace::stack(&mut frames);
            let mut book = BOOK.lock().unwrap_or_else(PoisonError::into_inner);
            if book.write(address, bytes, &frames[..count]) {
                MARKS[mark_of(address)].fetch_add(1, Relaxed);
            }
        }
    });
}

#[cold]
fn forget(address: usize) {
    inside(|| {
        let mut book = BOOK.lock().unwrap_or_else(PoisonError::into_inner);
        if book.strike(address) {
            MARKS[mark_of(address)].fetch_sub(1, Relaxed);
        }
    });
}

/// What the book itself takes is not written into it: the lock is held by this thread already.
fn inside<T>(work: impl FnOnce() -> T) -> Option<T> {
    if INSIDE.replace(true) {
        return None;
    }
    let done = work();
    INSIDE.set(false);
    Some(done)
}

/// All samples.
struct Book {
    stacks: BTreeMap<Box<[usize]>, u16>,
    tallies: Vec<Tally>,
    /// By address: what is held.
    blocks: BTreeMap<usize, Block>,
}

/// What came of one stack, as far as samples tell.
#[derive(Clone, Copy, Default)]
struct Tally {
    took: Amount,
    gave: Amount,
}

#[derive(Clone, Copy, Default)]
struct Amount {
    objects: f64,
    bytes: f64,
}

struct Block {
    stack: u16,
    stands_for: Amount,
}

impl Book {
    const fn new() -> Book {
        Book {
            stacks: BTreeMap::new(),
            tallies: Vec::new(),
            blocks: BTreeMap::new(),
        }
    }

    /// False if the book is full.
    fn write(&mut self, address: usize, bytes: usize, stack: &[usize]) -> bool {
        if self.blocks.len() >= BLOCKS_MAX {
            return false;
        }
        let stack = self.number_of(stack);
        let stands_for = Amount::of(bytes);
        self.tallies[usize::from(stack)].took.add(stands_for);
        let before = self.blocks.insert(address, Block { stack, stands_for });
        debug_assert!(before.is_none(), "{address:x} was taken twice");
        true
    }

    /// False if the address is not in it.
    fn strike(&mut self, address: usize) -> bool {
        let Some(block) = self.blocks.remove(&address) else {
            return false;
        };
        self.tallies[usize::from(block.stack)]
            .gave
            .add(block.stands_for);
        true
    }

    /// Stacks beyond [`STACKS_MAX`] count together, as one without frames.
    fn number_of(&mut self, stack: &[usize]) -> u16 {
        if let Some(number) = self.stacks.get(stack) {
            return *number;
        }
        let next = self.tallies.len();
        let stack = if next < STACKS_MAX { stack } else { &[] };
        let number = *self.stacks.entry(stack.into()).or_insert(next as u16);
        if usize::from(number) == next {
            self.tallies.push(Tally::default());
        }
        number
    }

    /// In the order of [`KINDS`].
    fn numbers(&self) -> BTreeMap<Box<[usize]>, Vec<u64>> {
        let stacks = self.stacks.iter();
        stacks
            .map(|(stack, number)| {
                let Tally { took, gave } = self.tallies[usize::from(*number)];
                let held = |took: f64, gave: f64| (took - gave).max(0.0);
                let numbers = [
                    took.objects,
                    took.bytes,
                    held(took.objects, gave.objects),
                    held(took.bytes, gave.bytes),
                ];
                let whole = numbers.map(|number| number.round() as u64).to_vec();
                (stack.clone(), whole)
            })
            .collect()
    }
}

impl Amount {
    /// What one drawn block of that size stands for: it was drawn with a chance of
    /// 1 - e^(-bytes / RATE).
    fn of(bytes: usize) -> Amount {
        let bytes = bytes.max(1) as f64;
        let objects = -1.0 / (-bytes / RATE).exp_m1();
        Amount {
            objects,
            bytes: objects * bytes,
        }
    }

    fn add(&mut self, other: Amount) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

/// Bytes up to the next sample: exponentially distributed around [`RATE`].
fn distance(seed: u64) -> isize {
    // 53 bits, as many as the number has; never zero.
    let chance = ((seed >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    (-chance.ln() * RATE) as isize
}

/// George Marsaglia's xorshift64: chance here needs to be cheap, not secret.
fn next_seed(mut seed: u64) -> u64 {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    seed
}

/// Threads differ by where their first block lies. Multiplying by an odd number spreads it.
fn seed_of(address: usize) -> u64 {
    (address as u64 | 1).wrapping_mul(SPREAD)
}

/// Where it is marked that a block is, or may be, in the book.
fn mark_of(address: usize) -> usize {
    ((address as u64).wrapping_mul(SPREAD) >> (u64::BITS - MARKS_BITS)) as usize
}

thread_local! {
    /// Bytes up to the next sample.
    static LEFT: Cell<isize> = const { Cell::new(0) };
    static SEED: Cell<u64> = const { Cell::new(0) };
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

static BOOK: Mutex<Book> = Mutex::new(Book::new());
static WATCHED: AtomicBool = AtomicBool::new(false);

/// Sampled blocks by the hash of their address. Zero: the block was not sampled, and giving it back
/// needs no lock.
static MARKS: [AtomicU16; 1 << MARKS_BITS] = [const { AtomicU16::new(0) }; 1 << MARKS_BITS];

/// 32 KiB: with a GiB held, one block of nine is looked up in vain.
const MARKS_BITS: u32 = 14;

/// The golden ratio's part of 2^64 (Knuth, volume 3, 6.4).
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Bytes from one sample to the next, on average: as Go has it.
const RATE: f64 = (512 << 10) as f64;

/// Sampled blocks held at once: 30 GiB. A mark counts no further.
const BLOCKS_MAX: usize = 60_000;
const _: () = assert!(BLOCKS_MAX <= u16::MAX as usize);

/// Different stacks: some hundred are usual.
const STACKS_MAX: usize = 5_000;

const PERIOD: Kind = Kind {
    name: "space",
    unit: "bytes",
};

const KINDS: [Kind; 4] = [
    Kind {
        name: "alloc_objects",
        unit: "count",
    },
    Kind {
        name: "alloc_space",
        unit: "bytes",
    },
    Kind {
        name: "inuse_objects",
        unit: "count",
    },
    Kind {
        name: "inuse_space",
        unit: "bytes",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_held_no_more() {
        let mut book = Book::new();
        // So large that chance has no part in it.
        let large = 100 << 20;
        assert!(book.write(1, large, &[7]) && book.write(2, large, &[7]));
        assert!(book.write(3, large, &[8]));
        assert!(book.strike(1));
        assert!(!book.strike(1) && !book.strike(9));
        let numbers = book.numbers();
        let large = large as u64;
        assert_eq!(numbers[&[7][..]], [2, 2 * large, 1, large]);
        assert_eq!(numbers[&[8][..]], [1, large, 1, large]);
        assert!(book.strike(2) && book.strike(3));
        assert!(
            book.numbers()
                .values()
                .all(|numbers| numbers[2..] == [0, 0])
        );
    }

    #[test]
    fn a_full_book_keeps_what_it_has() {
        let mut book = Book::new();
        for at in 0..BLOCKS_MAX {
            assert!(book.write(at, 1, &[at]));
        }
        assert!(!book.write(BLOCKS_MAX, 1, &[1]));
        assert!(book.strike(5) && book.write(BLOCKS_MAX, 1, &[BLOCKS_MAX]));
        assert_eq!(
            book.tallies.len(),
            STACKS_MAX + 1,
            "the rest count together"
        );
        let rest = &book.numbers()[&[][..]];
        assert!(rest[0] > 0);
    }

    #[test]
    fn samples_stand_for_what_was_taken() {
        // As `took` and `sample` do it, for blocks from much smaller to larger than the distance.
        for bytes in [100, 10_000, 500_000, 5_000_000] {
            let mut seed = seed_of(bytes);
            let mut left = distance(seed);
            let count = (3_000.0 * (RATE / bytes as f64).max(1.0)) as u64;
            let mut found = Amount::default();
            for _ in 0..count {
                left -= bytes as isize;
                if left < 0 {
                    seed = next_seed(seed);
                    left = distance(seed);
                    found.add(Amount::of(bytes));
                }
            }
            let ratio = found.objects / count as f64;
            assert!((0.9..1.1).contains(&ratio), "{bytes}: {ratio}");
        }
    }
}
