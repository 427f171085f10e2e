//! The search for a server: rounds, back-off and what the answers of a round add up to.

use crate::kit::{Prng, Tick};

/// One search, from the moment a session needs a server until it has one or gives up.
#[derive(Debug)]
pub struct Attempt {
    /// Servers that were tried in this round, as the fleet numbers them.
    pub tried: Vec<u16>,
    /// When the search began.
    pub since: Tick,
    /// Milliseconds in which the session waited for its turn under the pool's connect rate.
    pub waited: u32,
    /// Since when it waits for its turn, if it does.
    pub queued: Option<Tick>,
    /// When to dial again, while nothing is under way.
    pub retry_at: Option<Tick>,
    /// When the connection or handshake under way is given up.
    pub deadline: Option<Tick>,
    /// Somebody answered in this round, but not well.
    pub answered: bool,
    /// Nobody in this round did anything but refuse.
    pub all_refused: bool,
    /// The last attempt ended by a time-out.
    pub timed_out: bool,
    /// The next dial offers no extension.
    pub plain: bool,
    /// Messages that this search's server will get once more.
    pub replayed: u32,
}

impl Attempt {
    /// A search that begins now.
    pub fn new(now: Tick) -> Attempt {
        Attempt {
            tried: Vec::new(),
            since: now,
            waited: 0,
            queued: None,
            retry_at: None,
            deadline: None,
            answered: false,
            all_refused: true,
            timed_out: false,
            plain: false,
            replayed: 0,
        }
    }

    /// Begins another round: every server may be tried again.
    pub fn next_round(&mut self) {
        self.tried.clear();
        (self.answered, self.all_refused, self.plain) = (false, true, false);
    }

    /// When the search is over, if it may take `span` milliseconds; while it waits for its turn
    /// the end moves along.
    pub fn ends_at(&self, span: u32, now: Tick) -> Tick {
        let queued = self.queued.map_or(0, |since| now.since(since));
        self.since.after(
            span.saturating_add(self.waited)
                .saturating_add(queued)
                .min(Tick::FAR),
        )
    }

    /// Milliseconds that the search has lasted, turns apart.
    pub fn lasted(&self, now: Tick) -> u32 {
        now.since(self.since).saturating_sub(self.waited)
    }

    /// It is this session's turn.
    pub fn unqueue(&mut self, now: Tick) {
        if let Some(since) = self.queued.take() {
            self.waited = self.waited.saturating_add(now.since(since));
        }
    }
}

/// The pause after `failures` failed attempts in a row: full jitter under an exponential bound, so
/// that sessions that lost the same server do not come back in step.
pub fn back_off(failures: u8, rng: &mut Prng) -> u32 {
    if failures == 0 {
        return 0;
    }
    let bound = BACK_OFF_MIN << u32::from(failures - 1).min(10);
    1 + rng.below(bound.min(BACK_OFF_MAX))
}

/// First and largest bound of a pause, in ms (CONTRACT 3).
const BACK_OFF_MIN: u32 = 50;
const BACK_OFF_MAX: u32 = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_to_its_bound() {
        let mut rng = Prng::from_u64(1);
        assert_eq!(back_off(0, &mut rng), 0, "the first attempt is immediate");
        for (failures, bound) in [
            (1, 50),
            (2, 100),
            (5, 800),
            (6, 1_600),
            (7, 2_000),
            (255, 2_000),
        ] {
            let pauses: Vec<u32> = (0..500).map(|_| back_off(failures, &mut rng)).collect();
            assert!(
                pauses.iter().all(|ms| (1..=bound).contains(ms)),
                "{failures}"
            );
            assert!(
                *pauses.iter().max().unwrap() > bound * 9 / 10,
                "the whole span is used"
            );
            assert!(
                *pauses.iter().min().unwrap() <= bound / 10 + 1,
                "the whole span is used"
            );
        }
    }

    #[test]
    fn waiting_for_a_turn_does_not_count() {
        let mut attempt = Attempt::new(Tick(0));
        attempt.queued = Some(Tick(100));
        assert_eq!(attempt.ends_at(1_000, Tick(400)), Tick(1_300));
        attempt.unqueue(Tick(600));
        assert_eq!(attempt.ends_at(1_000, Tick(5_000)), Tick(1_500));
        assert_eq!(attempt.lasted(Tick(700)), 200);
    }
}
