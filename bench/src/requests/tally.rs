//! What a thread counts. Threads share nothing while they run; sums are made at the end.

use crate::reasons::Reasons;
use hdrhistogram::Histogram;

/// One thread's counts, or the sum of several.
pub struct Tally {
    pub opened: u64,
    pub connect_failed: u64,
    /// Connections that were opened again, because the server had closed them.
    pub reopened: u64,
    pub sent: u64,
    /// Good answers.
    pub answered: u64,
    /// Answers with another status than 200.
    pub refused: u64,
    /// Answers of another length, or not what was asked for.
    pub damaged: u64,
    /// Answers to another connection's request.
    pub crossed: u64,
    /// Answers to an earlier request of the same connection.
    pub stale: u64,
    /// Requests whose connection ended before their answer did.
    pub cut: u64,
    /// Requests that were still waiting when the run was over.
    pub unanswered: u64,
    /// Connections that ended for good.
    pub closed: u64,
    /// Nanoseconds from when a request was due to its answer's last byte, of those due in the window.
    pub latency: Histogram<u64>,
    /// Nanoseconds from when a request was due until it was sent.
    pub lateness: Histogram<u64>,
    /// Nanoseconds that a connect took.
    pub connect: Histogram<u64>,
    /// Which requests count in `latency`: those due in `[from, until)`.
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
            connect_failed: 0,
            reopened: 0,
            sent: 0,
            answered: 0,
            refused: 0,
            damaged: 0,
            crossed: 0,
            stale: 0,
            cut: 0,
            unanswered: 0,
            closed: 0,
            latency: histogram(),
            lateness: histogram(),
            connect: histogram(),
            window: (u64::MAX, u64::MAX),
            reasons: Reasons::default(),
        }
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
        self.connect_failed += other.connect_failed;
        self.reopened += other.reopened;
        self.sent += other.sent;
        self.answered += other.answered;
        self.refused += other.refused;
        self.damaged += other.damaged;
        self.crossed += other.crossed;
        self.stale += other.stale;
        self.cut += other.cut;
        self.unanswered += other.unanswered;
        self.closed += other.closed;
        let same = "histograms with the same bounds";
        self.latency.add(&other.latency).expect(same);
        self.lateness.add(&other.lateness).expect(same);
        self.connect.add(&other.connect).expect(same);
        self.reasons.add(&other.reasons);
    }
}

/// Longer ones count as a minute.
const LATENCY_MAX: u64 = 60_000_000_000;
