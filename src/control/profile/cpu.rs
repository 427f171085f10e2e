//! CPU time: a sample for each ten milliseconds that wsteady computes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::ring::Ring;
use super::{Kind, Profile};
use crate::net::sys::trace::Sampler;

/// A CPU profile that is being made; dropping it ends the sampling.
pub struct Recording {
    sampler: Sampler,
    stacks: BTreeMap<Box<[usize]>, u64>,
    began: Instant,
    date: SystemTime,
}

/// Who has a CPU profile made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// `--cpuprofile`, for as long as wsteady runs.
    Run,
    /// A request to the admin address.
    Request,
}

/// Why no CPU profile begins.
#[derive(Debug)]
pub enum Refusal {
    /// There is one timer, and one profile at a time.
    Busy(Owner),
    System(std::io::Error),
}

impl Recording {
    /// Begins to sample all threads.
    ///
    /// # Errors
    /// Another profile is being made, or the kernel gives no timer.
    pub fn start(owner: Owner) -> Result<Recording, Refusal> {
        let mut current = owner_of_all();
        if let Some(other) = *current {
            return Err(Refusal::Busy(other));
        }
        // A signal that came late has left its stack here.
        RING.empty(|_, _| {});
        LOST.store(0, Relaxed);
        let sampler = Sampler::start(PERIOD, record).map_err(Refusal::System)?;
        *current = Some(owner);
        Ok(Recording {
            sampler,
            stacks: BTreeMap::new(),
            began: Instant::now(),
            date: SystemTime::now(),
        })
    }

    /// Takes over what was sampled since the last time: to be called every [`COLLECT`].
    pub fn collect(&mut self) {
        // It could be read at the start; who can't be followed now is not sampled.
        let _ = self.sampler.follow();
        let stacks = &mut self.stacks;
        RING.empty(|stack, weight| {
            let has_room = stacks.len() < STACKS_MAX;
            match stacks.get_mut(stack) {
                Some(count) => *count += u64::from(weight),
                None if has_room => drop(stacks.insert(stack.into(), weight.into())),
                None => drop(LOST.fetch_add(weight.into(), Relaxed)),
            }
        });
    }

    /// What was sampled up to now. Samples that were lost count for a stack without frames, so that
    /// the sum is right.
    pub fn finish(mut self) -> Profile {
        self.collect();
        let mut counts = std::mem::take(&mut self.stacks);
        let lost = LOST.load(Relaxed);
        if lost > 0 {
            *counts.entry(Box::default()).or_default() += lost;
        }
        let period = PERIOD.as_nanos() as u64;
        let numbers = |count: u64| vec![count, count * period];
        Profile {
            kinds: &KINDS,
            period: (KINDS[1], period),
            stacks: counts
                .into_iter()
                .map(|(stack, count)| (stack, numbers(count)))
                .collect(),
            is_called: false,
            began: self.date,
            length: self.began.elapsed(),
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        *owner_of_all() = None;
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Busy(Owner::Run) => to.write_str(
                "a CPU profile is being made for --cpuprofile until wsteady ends, and there is one at a time; restart without it",
            ),
            Refusal::Busy(Owner::Request) => to.write_str(
                "a CPU profile is being made for another request, and there is one at a time; ask again when it is over",
            ),
            Refusal::System(error) => write!(to, "the kernel gives no profiling timer: {error}"),
        }
    }
}

/// How often a recording must be collected: some samples on each of a hundred cores.
pub const COLLECT: Duration = Duration::from_millis(50);

/// Runs in a signal handler.
fn record(stack: &[usize], weight: u32) {
    if !RING.put(stack, weight) {
        LOST.fetch_add(weight.into(), Relaxed);
    }
}

fn owner_of_all() -> std::sync::MutexGuard<'static, Option<Owner>> {
    OWNER.lock().unwrap_or_else(PoisonError::into_inner)
}

static OWNER: Mutex<Option<Owner>> = Mutex::new(None);
static RING: Ring<PLACES> = Ring::new();
static LOST: AtomicU64 = AtomicU64::new(0);

/// Stacks between two collections: 5 of each of 200 cores. 512 KiB, untouched until the first profile.
const PLACES: usize = 1_024;

/// As Go has it: often enough for a run of seconds, rare enough to cost nothing.
const PERIOD: Duration = Duration::from_millis(10);

/// Different stacks of one profile: some hundred are usual; 6 MiB.
const STACKS_MAX: usize = 10_000;

const KINDS: [Kind; 2] = [
    Kind {
        name: "samples",
        unit: "count",
    },
    Kind {
        name: "cpu",
        unit: "nanoseconds",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes for that long, in a function with a name.
    #[inline(never)]
    fn computing_for_a_test(time: Duration) -> u64 {
        let end = Instant::now() + time;
        let mut sum = 0_u64;
        while Instant::now() < end {
            sum = (0..1_000).fold(sum, |sum, n| std::hint::black_box(sum.wrapping_mul(31) + n));
        }
        sum
    }

    // One test: there is one profile at a time, and tests run side by side.
    #[test]
    fn a_recording_has_what_computes_and_is_alone() {
        let mut recording = Recording::start(Owner::Request).expect("the first");
        for owner in [Owner::Run, Owner::Request] {
            let refused = Recording::start(owner).err();
            assert!(matches!(refused, Some(Refusal::Busy(Owner::Request))));
        }
        for _ in 0..10 {
            std::hint::black_box(computing_for_a_test(COLLECT));
            recording.collect();
        }
        let profile = recording.finish();
        assert!(profile.length >= 10 * COLLECT);
        let svg = profile.flame().expect("samples");
        let svg = String::from_utf8(svg).expect("text");
        assert!(svg.contains("computing_for_a_test"), "{svg}");
        for numbers in profile.stacks.values() {
            assert_eq!(numbers[1], numbers[0] * 10_000_000);
        }
        drop(Recording::start(Owner::Run).expect("the next, when the first is over"));
    }
}
