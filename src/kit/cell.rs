//! Numbers that threads share: counters with one writer, and budgets that are leased in steps.

use std::sync::atomic::{
    AtomicI64, AtomicU64,
    Ordering::{AcqRel, Relaxed},
};

/// A counter with one writer and any number of readers. A relaxed load and store compile to a plain
/// `inc`; `fetch_add` would lock the bus for nothing.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only the owning thread may call it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// What it stands at.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A total that is handed out in steps: `limits.memory` in chunks, say. Loops lease a step, count it
/// down for themselves and give it back; the shared number is never touched per message.
pub struct Budget {
    /// Below zero after a cut to less than what is leased, until enough has come back.
    left: AtomicI64,
    total: AtomicU64,
    /// The largest total so far: never is more left.
    most: AtomicU64,
}

impl Budget {
    /// A budget of `total` units, nothing of it leased.
    pub fn new(total: u64) -> Budget {
        Budget {
            left: AtomicI64::new(units(total)),
            total: AtomicU64::new(total),
            most: AtomicU64::new(total),
        }
    }

    /// Takes up to `step` units; returns how many there were.
    pub fn lease(&self, step: u64) -> u64 {
        let mut got = 0;
        let _ = self.left.fetch_update(Relaxed, Relaxed, |left| {
            got = left.clamp(0, units(step));
            (got > 0).then(|| left - got)
        });
        got.unsigned_abs()
    }

    /// Gives units back.
    pub fn give_back(&self, count: u64) {
        let before = self.left.fetch_add(units(count), AcqRel);
        // Not the present total: it may have been cut in between.
        debug_assert!(
            before + units(count) <= units(self.most.load(Relaxed)),
            "more given back than was leased"
        );
    }

    /// From now on there are so many units. What is leased beyond that is not taken away, but
    /// nobody gets any before it has come back. Only one thread may call it.
    pub fn resize(&self, total: u64) {
        let grown = units(total) - units(self.total.swap(total, Relaxed));
        self.most.fetch_max(total, Relaxed);
        self.left.fetch_add(grown, AcqRel);
    }

    /// Units that nobody holds.
    pub fn left(&self) -> u64 {
        self.left.load(Relaxed).max(0).unsigned_abs()
    }

    /// How much of it is leased, in percent.
    pub fn percent(&self) -> u64 {
        let total = self.total().max(1);
        total.saturating_sub(self.left()) * 100 / total
    }

    /// All units.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }
}

/// No budget is so large that this would cut it.
fn units(count: u64) -> i64 {
    count.min(i64::MAX as u64) as i64
}

/// So many events a second, for all loops together: the generic cell rate algorithm. It keeps one
/// number, the moment (in microseconds) at which the bucket would be full again.
pub struct Rate {
    full_at: AtomicU64,
    interval_us: u64,
    burst_us: u64,
}

impl Rate {
    /// `per_second` events, of which a tenth of a second's worth may come at once: a herd is spread,
    /// a few reconnects never wait. 0 means no bound.
    pub fn new(per_second: u32) -> Rate {
        let interval_us = if per_second == 0 {
            0
        } else {
            1_000_000 / u64::from(per_second).min(1_000_000)
        };
        Rate {
            full_at: AtomicU64::new(0),
            interval_us,
            burst_us: (interval_us * 10).max(100_000),
        }
    }

    /// Whether both allow as much.
    pub fn is_same(&self, other: &Rate) -> bool {
        self.interval_us == other.interval_us
    }

    /// Takes one event at `now_ms`. `Err` says after how many milliseconds to ask again.
    pub fn take(&self, now_ms: u64) -> Result<(), u32> {
        if self.interval_us == 0 {
            return Ok(());
        }
        let now_us = now_ms * 1_000;
        let mut wait_us = 0;
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            // Ahead of the burst is what another loop has taken that read its clock later. Far
            // ahead of it: the clock (of 32 bits) has wrapped.
            let ahead = full_at.saturating_sub(now_us);
            let full_at = if ahead > self.burst_us + LATE_US && !planted!(RateWraps) {
                now_us
            } else {
                full_at
            };
            let next = full_at.max(now_us) + self.interval_us;
            wait_us = (next - now_us).saturating_sub(self.burst_us);
            (wait_us == 0).then_some(next)
        });
        taken.map(|_| ()).map_err(|_| (wait_us / 1_000 + 1) as u32)
    }
}

/// No loop's turn takes that long, in microseconds.
const LATE_US: u64 = 600_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_holds_for_loops_whose_clocks_were_read_at_different_times() {
        let rate = Rate::new(1_000);
        let mut taken = 0;
        for now in (10_000..11_000).step_by(10) {
            // One loop is in the middle of a long turn.
            for clock in [now, now - 300, now - 2_000] {
                while rate.take(clock).is_ok() {
                    taken += 1;
                }
            }
        }
        assert!((1_000..=1_100).contains(&taken), "{taken} in a second");
    }

    #[test]
    fn a_budget_is_never_exceeded() {
        let budget = Budget::new(10);
        assert_eq!(budget.lease(4), 4);
        assert_eq!(budget.lease(4), 4);
        assert_eq!(budget.lease(4), 2);
        assert_eq!(budget.lease(4), 0);
        budget.give_back(3);
        assert_eq!((budget.left(), budget.lease(9)), (3, 3));
    }

    #[test]
    fn a_budget_that_is_cut_gives_nothing_before_enough_has_come_back() {
        let budget = Budget::new(10);
        assert_eq!(budget.lease(8), 8);
        budget.resize(5);
        assert_eq!((budget.lease(1), budget.left(), budget.total()), (0, 0, 5));
        budget.give_back(4);
        assert_eq!((budget.lease(9), budget.left()), (1, 0));
        budget.resize(7);
        assert_eq!((budget.left(), budget.lease(9)), (2, 2));
        assert_eq!(budget.percent(), 100);
        budget.give_back(7);
        assert_eq!((budget.left(), budget.percent()), (7, 0));
        budget.lease(3);
        assert_eq!(budget.percent(), 42);
    }

    #[test]
    fn a_budget_is_resized_while_others_use_it() {
        let budget = Budget::new(1_000);
        std::thread::scope(|scope| {
            let user = || {
                for _ in 0..100_000 {
                    budget.give_back(budget.lease(7));
                }
            };
            let users = [scope.spawn(user), scope.spawn(user)];
            for total in (10..1_000).cycle() {
                budget.resize(total);
                if users.iter().all(|user| user.is_finished()) {
                    break;
                }
            }
        });
        assert_eq!(budget.left(), budget.total());
    }

    #[test]
    fn a_rate_is_kept_over_time_and_allows_a_burst() {
        let rate = Rate::new(1_000);
        let mut taken = 0;
        for now in 0..2_000u64 {
            while rate.take(5_000 + now).is_ok() {
                taken += 1;
            }
        }
        assert!(
            (2_000..=2_101).contains(&taken),
            "{taken} events in 2 s at 1000/s"
        );
        assert!(Rate::new(0).take(0).is_ok());
    }
}
