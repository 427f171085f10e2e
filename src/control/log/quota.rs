//! How many lines of one kind a second may have: a server that dies with 100,000 sessions must not
//! be followed by 100,000 lines. What is held back is counted, and told once the second is over.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use log::Record;

/// The quotas of all kinds. Loops share them without waiting for each other.
pub(super) struct Quotas {
    begun: Instant,
    slots: [Slot; KINDS_MAX],
}

/// The lines that one place in the code writes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind {
    file: &'static str,
    line: u32,
    /// What they say, if it is always the same.
    says: Option<&'static str>,
}

/// One kind, once a line of it has come.
#[derive(Default)]
struct Slot {
    kind: OnceLock<Kind>,
    /// The second of the last line in the upper half, lines in that second in the lower one.
    window: AtomicU64,
    held_back: AtomicU64,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    Pass,
    HeldBack {
        /// Nobody knows yet that lines of this kind are held back.
        first: bool,
    },
}

impl Quotas {
    pub fn new() -> Quotas {
        Quotas {
            begun: Instant::now(),
            slots: std::array::from_fn(|_| Slot::default()),
        }
    }

    /// Counts a line towards its kind's quota.
    pub fn rule(&self, record: &Record<'_>) -> Ruling {
        self.rule_at(self.second(), record)
    }

    /// Seconds since the start, from 1 on.
    pub fn second(&self) -> u32 {
        self.begun.elapsed().as_secs() as u32 + 1
    }

    /// The kinds of which lines were held back before this second: a number, a name and a count.
    pub fn owed(&self, second: u32) -> impl Iterator<Item = (usize, String, u64)> {
        let over = move |slot: &&Slot| (slot.window.load(Relaxed) >> 32) < u64::from(second);
        let slots = self.slots.iter().enumerate();
        slots
            .filter(move |(_, slot)| over(slot))
            .filter_map(|(number, slot)| {
                let held_back = slot.held_back.load(Relaxed);
                let kind = slot.kind.get().filter(|_| held_back > 0)?;
                Some((number, kind.name(), held_back))
            })
    }

    /// Whether there will be something to tell.
    pub fn is_owing(&self) -> bool {
        self.slots
            .iter()
            .any(|slot| slot.held_back.load(Relaxed) > 0)
    }

    /// So many of a kind have been told.
    pub fn told(&self, number: usize, lines: u64) {
        self.slots[number].held_back.fetch_sub(lines, Relaxed);
    }

    fn rule_at(&self, second: u32, record: &Record<'_>) -> Ruling {
        let Some(slot) = Kind::of(record).and_then(|kind| self.slot(kind)) else {
            return Ruling::Pass;
        };
        if slot.take(second) {
            return Ruling::Pass;
        }
        let first = slot.held_back.fetch_add(1, Relaxed) == 0;
        Ruling::HeldBack { first }
    }

    /// The slot of a kind, taken for it if it has none. `None`: all are taken.
    fn slot(&self, kind: Kind) -> Option<&Slot> {
        let start = kind.line as usize;
        let mut probes = (0..KINDS_MAX).map(|step| &self.slots[(start + step) % KINDS_MAX]);
        probes.find(|slot| *slot.kind.get_or_init(|| kind) == kind)
    }
}

impl Kind {
    /// `None` of a record that was not made by one of `log`'s macros.
    fn of(record: &Record<'_>) -> Option<Kind> {
        Some(Kind {
            file: record.file_static()?,
            line: record.line()?,
            says: record.args().as_str(),
        })
    }

    fn name(self) -> String {
        let place = || format!("{}:{}", self.file, self.line);
        self.says.map_or_else(place, str::to_owned)
    }
}

impl Slot {
    /// One line more in this second, if the quota has it.
    fn take(&self, second: u32) -> bool {
        let taken = self.window.fetch_update(Relaxed, Relaxed, |window| {
            // A thread that was late by a moment must not begin the last second anew.
            let since = (window >> 32).max(u64::from(second));
            let lines = match window >> 32 == since {
                true => window as u32 + 1,
                false => 1,
            };
            (lines <= LINES_MAX).then_some(since << 32 | u64::from(lines))
        });
        taken.is_ok()
    }
}

/// Of one kind in a second, over all loops: 200 kB of usual lines, and more than a person reads.
pub(super) const LINES_MAX: u32 = 1_000;

/// Twice the places that write a line. Those beyond it have no quota.
const KINDS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(quotas: &Quotas, second: u32, line: u32, says: std::fmt::Arguments<'_>) -> Ruling {
        let mut record = Record::builder();
        record.file_static(Some("a.rs")).line(Some(line)).args(says);
        quotas.rule_at(second, &record.build())
    }

    #[test]
    fn a_kind_has_its_quota_in_each_second_and_others_have_their_own() {
        let quotas = Quotas::new();
        let held_back = |first| Ruling::HeldBack { first };
        for second in [1, 2, 9] {
            for _ in 0..LINES_MAX {
                assert_eq!(
                    rule(&quotas, second, 7, format_args!("ended")),
                    Ruling::Pass
                );
            }
            assert_eq!(
                rule(&quotas, second, 7, format_args!("ended")),
                held_back(true)
            );
            // Late by a moment: it is still the second that has begun.
            assert_eq!(
                rule(&quotas, second - 1, 7, format_args!("ended")),
                held_back(false)
            );
            // The same slot, and another kind.
            let other = 7 + KINDS_MAX as u32;
            assert_eq!(
                rule(&quotas, second, other, format_args!("lost")),
                Ruling::Pass
            );
            assert_eq!(quotas.owed(second).count(), 0, "the second is not over");
            let owed: Vec<_> = quotas.owed(second + 1).collect();
            assert_eq!(owed, [(7, "ended".to_owned(), 2)]);
            quotas.told(7, 2);
            assert!(!quotas.is_owing());
        }
    }

    #[test]
    fn what_says_something_else_each_time_is_named_by_its_place() {
        let quotas = Quotas::new();
        for number in 0..=LINES_MAX {
            rule(&quotas, 1, 3, format_args!("poll: {number}"));
        }
        let owed: Vec<_> = quotas.owed(2).collect();
        assert_eq!(owed, [(3, "a.rs:3".to_owned(), 1)]);
    }

    #[test]
    fn kinds_beyond_the_table_pass() {
        let quotas = Quotas::new();
        for line in 0..KINDS_MAX as u32 + 1 {
            for _ in 0..LINES_MAX {
                rule(&quotas, 1, line, format_args!("x"));
            }
        }
        assert_eq!(
            rule(&quotas, 1, KINDS_MAX as u32, format_args!("x")),
            Ruling::Pass
        );
        assert_ne!(rule(&quotas, 1, 0, format_args!("x")), Ruling::Pass);
    }
}
