//! Numbers that threads share: counters with one writer, and budgets that are leased in steps.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
    left: AtomicU64,
    total: u64,
}

impl Budget {
    /// A budget of `total` units, nothing of it leased.
    pub fn new(total: u64) -> Budget {
        Budget {
            left: AtomicU64::new(total),
            total,
        }
    }

    /// Takes up to `step` units; returns how many there were.
    pub fn lease(&self, step: u64) -> u64 {
        let mut got = 0;
        let _ = self.left.fetch_update(Relaxed, Relaxed, |left| {
            got = left.min(step);
            (got > 0).then(|| left - got)
        });
        got
    }

    /// Gives units back.
    pub fn give_back(&self, units: u64) {
        let before = self.left.fetch_add(units, Relaxed);
        debug_assert!(
            before + units <= self.total,
            "more given back than was leased"
        );
    }

    /// Units that nobody holds.
    pub fn left(&self) -> u64 {
        self.left.load(Relaxed)
    }

    /// All units.
    pub fn total(&self) -> u64 {
        self.total
    }
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

    /// Takes one event at `now_ms`. `Err` says after how many milliseconds to ask again.
    pub fn take(&self, now_ms: u64) -> Result<(), u32> {
        if self.interval_us == 0 {
            return Ok(());
        }
        let now_us = now_ms * 1_000;
        let mut wait_us = 0;
        let taken = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            // Never further ahead than the burst: if it is, the clock (of 32 bits) has wrapped.
            let ahead = full_at.saturating_sub(now_us);
            let full_at = if ahead > self.burst_us && !planted!(RateWraps) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
