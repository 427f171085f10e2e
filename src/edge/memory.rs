//! What the buffers of a loop's lines hold, within the bound of all memory.

use std::sync::Arc;

use super::line::RECORD_MAX;
use crate::kit::Budget;

/// What lines keep in buffers, leased like the shard's own bytes.
pub(super) struct Memory {
    budget: Arc<Budget>,
    /// Bytes of one unit.
    unit: usize,
    held: usize,
    /// In units; less than is held while the overdraft is used.
    leased: usize,
}

impl Memory {
    /// Holds nothing; `budget` is in units of so many bytes.
    pub fn new(budget: Arc<Budget>, unit: usize) -> Memory {
        Memory {
            budget,
            unit,
            held: 0,
            leased: 0,
        }
    }

    /// Bytes.
    pub fn held(&self) -> usize {
        self.held
    }

    /// A buffer holds so many bytes more, which can't be helped.
    pub fn hold(&mut self, bytes: usize) {
        self.change(0, bytes);
    }

    /// Whether there is room for one record more.
    pub fn room(&self) -> bool {
        let wanted = (self.held + RECORD_MAX).saturating_sub(OVERDRAFT);
        // What other loops write to is looked at last.
        wanted <= self.leased * self.unit
            || wanted <= (self.leased + self.budget.left() as usize) * self.unit
    }

    /// A buffer holds so many bytes now, and not as many as before. False: there was no room for them.
    pub fn change(&mut self, before: usize, now: usize) -> bool {
        self.held = self.held + now - before;
        let wanted = self.held.div_ceil(self.unit);
        // Nothing is leased ahead: a shard that waits for room might wait for just that.
        if wanted > self.leased {
            self.leased += self.budget.lease((wanted - self.leased) as u64) as usize;
        } else if wanted < self.leased {
            self.budget.give_back((self.leased - wanted) as u64);
            self.leased = wanted;
        }
        now <= before || self.held <= self.leased * self.unit + OVERDRAFT
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.budget.give_back(self.leased as u64);
    }
}

/// What the lines of a loop may hold beyond `limits.memory`, in bytes. Whoever reads or writes makes
/// room, but needs some for what was begun: without any, a full memory would never empty itself.
const OVERDRAFT: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: usize = 1_024;

    #[test]
    fn what_is_held_is_leased_and_no_more() {
        let budget = Arc::new(Budget::new(100));
        let mut memory = Memory::new(budget.clone(), UNIT);
        let steps = [
            (0, 1, 99),
            (1, 1_025, 98),
            (1_025, 1_000, 99),
            (1_000, 0, 100),
        ];
        for (before, now, left) in steps {
            assert!(memory.change(before, now));
            assert_eq!(budget.left(), left, "{before} to {now}");
        }
        memory.hold(5 * UNIT);
        drop(memory);
        assert_eq!(budget.left(), 100);
    }

    #[test]
    fn a_little_may_be_held_beyond_the_bound() {
        let budget = Arc::new(Budget::new(10));
        let mut memory = Memory::new(budget.clone(), UNIT);
        assert!(memory.change(0, 10 * UNIT + OVERDRAFT));
        assert!(!memory.room());
        assert!(!memory.change(0, 1), "and no more");
        assert!(memory.change(RECORD_MAX + 1, 0), "less is always well");
        assert!(memory.room());
        // What others give back is leased when something changes.
        budget.resize(20);
        assert!(memory.change(0, 10 * UNIT));
        assert_eq!(budget.left(), 0);
    }
}
