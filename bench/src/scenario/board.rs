//! What threads tell the one that looks on: once a second, so that nothing is shared while they work.

use crate::run::Clock;
use crate::ws::tally::Tally;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All that threads share.
pub struct Board {
    pub clock: Clock,
    /// When the first phase begins.
    pub start: u64,
    pub threads: usize,
    /// Threads with nothing under way any more; when all are there, they close.
    pub quiet: AtomicUsize,
    pub gone: AtomicUsize,
    /// A thread failed: all end.
    pub failed: AtomicBool,
    sheets: Vec<Mutex<Sheet>>,
}

/// What one thread said last: counts since the start, and latencies since they were last taken.
pub struct Sheet {
    pub counts: Counts,
    pub latency: Histogram<u64>,
    pub connect: Histogram<u64>,
}

/// Counts since the start, but for `open`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that are open now.
    pub open: u64,
    pub opened: u64,
    pub failed: u64,
    /// Connections that ended without having been told to.
    pub closed: u64,
    pub up: u64,
    pub down: u64,
}

impl Board {
    pub fn new(threads: usize) -> Self {
        let clock = Clock::start();
        Self {
            clock,
            // Time for the threads to have started.
            start: clock.now() + START,
            threads,
            quiet: AtomicUsize::new(0),
            gone: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            sheets: (0..threads).map(|_| Mutex::new(Sheet::new())).collect(),
        }
    }

    /// Writes what thread `index` has counted, and begins its latencies anew.
    pub fn write(&self, index: usize, open: u64, tally: &mut Tally) {
        let mut sheet = lock(&self.sheets[index]);
        sheet.counts = Counts {
            open,
            opened: tally.opened,
            failed: tally.connect_failed,
            closed: tally.closed_early,
            up: tally.sent,
            down: tally.echoes,
        };
        add(&mut sheet.latency, &tally.latency);
        add(&mut sheet.connect, &tally.connect);
        tally.latency.reset();
        tally.connect.reset();
    }

    /// Takes what all have written since the last time.
    pub fn take(&self, into: &mut Sheet) {
        into.clear();
        for sheet in &self.sheets {
            let mut sheet = lock(sheet);
            into.add(&sheet);
            sheet.latency.reset();
            sheet.connect.reset();
        }
    }
}

impl Sheet {
    pub fn new() -> Self {
        let Tally {
            latency, connect, ..
        } = Tally::new();
        Self {
            counts: Counts::default(),
            latency,
            connect,
        }
    }

    fn clear(&mut self) {
        self.counts = Counts::default();
        self.latency.reset();
        self.connect.reset();
    }

    pub fn add(&mut self, other: &Self) {
        self.counts.open += other.counts.open;
        self.counts.opened += other.counts.opened;
        self.counts.failed += other.counts.failed;
        self.counts.closed += other.counts.closed;
        self.counts.up += other.counts.up;
        self.counts.down += other.counts.down;
        add(&mut self.latency, &other.latency);
        add(&mut self.connect, &other.connect);
    }
}

fn add(to: &mut Histogram<u64>, from: &Histogram<u64>) {
    to.add(from).expect("histograms with the same bounds");
}

fn lock(sheet: &Mutex<Sheet>) -> MutexGuard<'_, Sheet> {
    sheet.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nanoseconds.
const START: u64 = 100_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_taken_once_and_counts_stay() {
        let board = Board::new(2);
        let mut tally = Tally::new();
        tally.window = (0, u64::MAX);
        tally.latency(0, 5_000);
        tally.echoes = 1;
        board.write(0, 3, &mut tally);
        tally.latency(0, 6_000);
        tally.echoes = 2;
        board.write(0, 3, &mut tally);
        board.write(1, 4, &mut Tally::new());
        let mut sheet = Sheet::new();
        board.take(&mut sheet);
        assert_eq!((sheet.latency.len(), sheet.counts.down), (2, 2));
        assert_eq!(sheet.counts.open, 7);
        board.take(&mut sheet);
        assert_eq!((sheet.latency.len(), sheet.counts.down), (0, 2));
    }
}
