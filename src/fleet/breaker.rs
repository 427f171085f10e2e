//! The circuit breaker of one server: so many failures in a row, a pause, one trial.

use crate::kit::Tick;

/// Kept by the server's home loop alone; the others only learn whether it is open.
#[derive(Clone, Debug)]
pub struct Breaker {
    threshold: u32,
    failures: u32,
    last_loss: Option<Tick>,
    open: bool,
}

impl Breaker {
    /// Closed. A threshold of 0 never opens.
    pub fn new(threshold: u32) -> Breaker {
        Breaker {
            threshold,
            failures: 0,
            last_loss: None,
            open: false,
        }
    }

    /// A closed one with the same threshold.
    pub fn renewed(&self) -> Breaker {
        Breaker::new(self.threshold)
    }

    /// From now on this many failures open it. One that is open stays so, unless it is never to be.
    pub fn set_threshold(&mut self, threshold: u32) {
        self.threshold = threshold;
        self.open &= self.can_open();
    }

    /// Failures in a row that open it; 0: never.
    pub fn threshold(&self) -> u32 {
        self.threshold
    }

    /// Whether anything opens it.
    pub fn can_open(&self) -> bool {
        self.threshold > 0
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// A dial or handshake failed. True if that opens it, or makes an open one wait again.
    pub fn on_failure(&mut self) -> bool {
        self.failures = self.failures.saturating_add(1);
        let trips = self.can_open() && self.failures >= self.threshold;
        self.open |= trips;
        trips
    }

    /// Connections were lost: one failure a second, however many sessions they carried.
    pub fn on_lost_connection(&mut self, now: Tick) -> bool {
        if self.last_loss.is_some_and(|last| now.since(last) < 1_000) {
            return false;
        }
        self.last_loss = Some(now);
        self.on_failure()
    }

    /// A correct handshake. True if that closes it.
    pub fn on_success(&mut self) -> bool {
        self.failures = 0;
        std::mem::replace(&mut self.open, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_at_the_threshold_and_closes_by_success() {
        let mut breaker = Breaker::new(3);
        assert!(!breaker.on_failure());
        assert!(!breaker.on_failure());
        assert!(!breaker.on_success());
        assert!(!breaker.on_failure() && !breaker.on_failure());
        assert!(breaker.on_failure() && breaker.is_open());
        assert!(breaker.on_failure(), "a failed trial makes it wait again");
        assert!(breaker.on_success() && !breaker.is_open());
    }

    #[test]
    fn a_crash_with_many_sessions_is_one_failure() {
        let mut breaker = Breaker::new(2);
        for n in 0..100_000u32 {
            assert!(!breaker.on_lost_connection(Tick(5_000 + n / 1_000)));
        }
        assert!(breaker.on_lost_connection(Tick(6_100)));
    }

    #[test]
    fn a_threshold_of_zero_never_opens() {
        let mut breaker = Breaker::new(0);
        assert!((0..1_000).all(|_| !breaker.on_failure()));
    }
}
