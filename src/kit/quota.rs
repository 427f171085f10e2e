//! How many places each of many holders has, for all loops together.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Places by holder; a holder is a number. Asked when somebody comes or goes, and never in between, so
/// that locks do: each is for a part of all holders. Who holds nothing is not in it.
pub struct Quota {
    /// Trees: holders may choose their numbers, and find none that are slow to look up; and a tree
    /// grows by a leaf, where a table would copy itself under the lock.
    parts: [Mutex<BTreeMap<u64, u32>>; PARTS],
}

impl Quota {
    /// Nobody holds anything.
    pub fn new() -> Quota {
        Quota {
            parts: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Takes a place if the holder has fewer than `limit`; whether it did.
    pub fn take(&self, holder: u64, limit: u32) -> bool {
        let mut part = self.part(holder);
        let held = part.get(&holder).copied().unwrap_or(0);
        if held < limit {
            part.insert(holder, held + 1);
        }
        held < limit
    }

    /// Gives a place back.
    pub fn give_back(&self, holder: u64) {
        let mut part = self.part(holder);
        match part.get_mut(&holder) {
            Some(held) if *held > 1 => *held -= 1,
            Some(_) => drop(part.remove(&holder)),
            None => debug_assert!(false, "more given back than was taken"),
        }
    }

    /// How many hold something.
    pub fn holders(&self) -> usize {
        let all = self.parts.iter();
        all.map(|part| lock(part).len()).sum()
    }

    fn part(&self, holder: u64) -> MutexGuard<'_, BTreeMap<u64, u32>> {
        // Neighbours differ in few bits: a product spreads them (Fibonacci hashing).
        let mixed = holder.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        lock(&self.parts[(mixed >> (64 - PARTS.ilog2())) as usize])
    }
}

impl Default for Quota {
    fn default() -> Quota {
        Quota::new()
    }
}

/// A loop that panicked left numbers that are right, or off by one.
fn lock(part: &Mutex<BTreeMap<u64, u32>>) -> MutexGuard<'_, BTreeMap<u64, u32>> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Some for each loop of a large machine: two rarely want the same one at once.
const PARTS: usize = 64;

const _: () = assert!(PARTS.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_holder_has_its_own_places() {
        let quota = Quota::new();
        assert!(quota.take(1, 2) && quota.take(1, 2) && !quota.take(1, 2));
        assert!(quota.take(2, 2), "somebody else");
        assert!(quota.take(1, 3), "the limit was raised");
        for limit in [2, 1, 0] {
            assert!(!quota.take(1, limit), "who has more keeps it");
        }
        quota.give_back(1);
        quota.give_back(1);
        assert!(quota.take(1, 2) && !quota.take(1, 2));
        for holder in [1, 1, 2] {
            quota.give_back(holder);
        }
        assert_eq!(quota.holders(), 0, "who holds nothing takes no memory");
    }

    #[test]
    fn no_thread_sees_more_than_the_limit() {
        let (quota, here) = (Quota::new(), std::sync::atomic::AtomicU32::new(0));
        let order = std::sync::atomic::Ordering::SeqCst;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if quota.take(7, 2) {
                            assert!(here.fetch_add(1, order) < 2);
                            here.fetch_sub(1, order);
                            quota.give_back(7);
                        }
                    }
                });
            }
        });
        assert_eq!(quota.holders(), 0);
    }

    #[test]
    fn neighbours_are_spread_over_the_parts() {
        let quota = Quota::new();
        for holder in 0..6_400 {
            assert!(quota.take(holder, 1));
        }
        let fullest = quota.parts.iter().map(|part| lock(part).len()).max();
        assert!(
            fullest < Some(200),
            "{fullest:?} of 6400 in one of 64 parts"
        );
    }
}
