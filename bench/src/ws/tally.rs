//! What a thread counts. Threads share nothing while they run; sums are made at the end.

use crate::check::Verdict;
use crate::reasons::Reasons;
use hdrhistogram::Histogram;

/// One thread's counts, or the sum of several.
pub struct Tally {
    pub opened: u64,
    /// Of these, those whose TLS session went on from an earlier one.
    pub resumed: u64,
    pub connect_failed: u64,
    pub sent: u64,
    /// Messages that came back, in whatever order.
    pub echoes: u64,
    pub repeated: u64,
    pub disordered: u64,
    pub crossed: u64,
    /// Not one of our messages, or not whole.
    pub damaged: u64,
    /// Never came back; known at the end.
    pub lost: u64,
    /// Connections that ended while they should have been open.
    pub closed_early: u64,
    /// Closing handshakes that did not come to their end.
    pub closed_badly: u64,
    pub closed_clean: u64,
    /// Pushes that were answered `ok`, and those that were not.
    pub pushed: u64,
    pub push_failed: u64,
    pub pings_sent: u64,
    pub pongs: u64,
    pub pings_answered: u64,
    /// Nanoseconds from when a message was due to its echo, of those due in the window.
    pub latency: Histogram<u64>,
    /// Nanoseconds from when a message was due until it was sent: the tool's own delay.
    pub lateness: Histogram<u64>,
    /// Nanoseconds from when a message was due until its push was answered.
    pub push: Histogram<u64>,
    /// Nanoseconds from the connect to the complete 101.
    pub connect: Histogram<u64>,
    /// Which messages count in `latency`: those due in `[from, until)`.
    pub window: (u64, u64),
    pub reasons: Reasons,
}

impl Tally {
    pub fn new() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LATENCY_MAX, 3).expect("constant bounds that are valid")
        };
        Self {
            opened: 0,
            resumed: 0,
            connect_failed: 0,
            sent: 0,
            echoes: 0,
            repeated: 0,
            disordered: 0,
            crossed: 0,
            damaged: 0,
            lost: 0,
            closed_early: 0,
            closed_badly: 0,
            closed_clean: 0,
            pushed: 0,
            push_failed: 0,
            pings_sent: 0,
            pongs: 0,
            pings_answered: 0,
            latency: histogram(),
            lateness: histogram(),
            push: histogram(),
            connect: histogram(),
            window: (u64::MAX, u64::MAX),
            reasons: Reasons::default(),
        }
    }

    pub fn opened(&mut self, nanos: u64) {
        self.opened += 1;
        self.connect.saturating_record(nanos);
    }

    pub fn connect_failed(&mut self, reason: &str) {
        self.connect_failed += 1;
        self.reasons.count(&format!("connect: {reason}"));
    }

    pub fn closed_early(&mut self, reason: &str) {
        self.closed_early += 1;
        self.reasons.count(reason);
    }

    pub fn closed_badly(&mut self, reason: &str) {
        self.closed_badly += 1;
        self.reasons.count(&format!("closing: {reason}"));
    }

    pub fn pushed(&mut self, due: u64, now: u64) {
        self.pushed += 1;
        if (self.window.0..self.window.1).contains(&due) {
            self.push.saturating_record(now.saturating_sub(due));
        }
    }

    pub fn push_failed(&mut self, reason: &str) {
        self.push_failed += 1;
        self.reasons.count(&format!("push: {reason}"));
    }

    /// Counts a verdict; `true` if a message came back that was still out.
    pub fn judged(&mut self, verdict: Verdict) -> bool {
        let new = match verdict {
            Verdict::Good | Verdict::Ahead { .. } => true,
            Verdict::Late => {
                self.disordered += 1;
                true
            }
            Verdict::Repeat => {
                self.repeated += 1;
                false
            }
            Verdict::Crossed => {
                self.crossed += 1;
                false
            }
            Verdict::Unknown => {
                self.damaged += 1;
                false
            }
        };
        self.echoes += u64::from(new);
        new
    }

    pub fn latency(&mut self, due: u64, now: u64) {
        if (self.window.0..self.window.1).contains(&due) {
            self.latency.saturating_record(now.saturating_sub(due));
        }
    }

    pub fn lateness(&mut self, due: u64, now: u64) {
        if (self.window.0..self.window.1).contains(&due) {
            self.lateness.saturating_record(now.saturating_sub(due));
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.resumed += other.resumed;
        self.connect_failed += other.connect_failed;
        self.sent += other.sent;
        self.echoes += other.echoes;
        self.repeated += other.repeated;
        self.disordered += other.disordered;
        self.crossed += other.crossed;
        self.damaged += other.damaged;
        self.lost += other.lost;
        self.closed_early += other.closed_early;
        self.closed_badly += other.closed_badly;
        self.closed_clean += other.closed_clean;
        self.pushed += other.pushed;
        self.push_failed += other.push_failed;
        self.pings_sent += other.pings_sent;
        self.pongs += other.pongs;
        self.pings_answered += other.pings_answered;
        let same = "histograms with the same bounds";
        self.latency.add(&other.latency).expect(same);
        self.lateness.add(&other.lateness).expect(same);
        self.push.add(&other.push).expect(same);
        self.connect.add(&other.connect).expect(same);
        self.reasons.add(&other.reasons);
    }
}

/// Longer ones count as a minute.
const LATENCY_MAX: u64 = 60_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_has_its_count() {
        let mut tally = Tally::new();
        assert!(tally.judged(Verdict::Good));
        assert!(tally.judged(Verdict::Ahead { missing: 1 }));
        assert!(tally.judged(Verdict::Late));
        assert!(!tally.judged(Verdict::Repeat));
        assert!(!tally.judged(Verdict::Crossed));
        assert!(!tally.judged(Verdict::Unknown));
        let counts = (
            tally.echoes,
            tally.disordered,
            tally.repeated,
            tally.crossed,
            tally.damaged,
        );
        assert_eq!(counts, (3, 1, 1, 1, 1));
    }

    #[test]
    fn a_message_counts_by_when_it_was_due_not_by_when_it_came() {
        let mut tally = Tally::new();
        tally.window = (1_000, 2_000);
        tally.latency(999, 1_500);
        tally.latency(1_999, 50_000);
        tally.latency(2_000, 2_001);
        assert_eq!(tally.latency.len(), 1);
        assert!(tally.latency.max() >= 48_000);
    }
}
