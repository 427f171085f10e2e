//! The sweep: many seeds of the simulator, with all faults on.
//!
//! `SIM_SEED` begins elsewhere, `SIM_SEEDS` and `SIM_STEPS` make it wider and longer.

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use wsteady::sim::{self, Coverage, Sightings};

#[test]
fn the_laws_hold() {
    let runs = sweep(256, 3_000, |seed, steps| {
        sim::run(seed, steps, false).coverage
    });
    let total = Coverage::sum(&runs);
    println!("{total}");
    if runs.len() >= 256 {
        let missing = total.edge.missing();
        assert!(missing.is_empty(), "never: {missing:?}");
    }
}

#[test]
fn the_bridge_keeps_its_laws() {
    let runs = sweep(256, 2_000, |seed, steps| {
        let report = sim::run_bridge(seed, steps, false);
        if seed.is_multiple_of(16) {
            let again = sim::run_bridge(seed, steps, false);
            assert_eq!(report.trace, again.trace, "law: same seed, same trace");
        }
        report.coverage
    });
    let count = runs.len();
    let total = Sightings::sum(&runs);
    println!("{total}");
    // A sweep that was made smaller need not see everything.
    if count >= 256 {
        assert!(total.missing().is_empty(), "never: {:?}", total.missing());
    }
}

#[cfg(feature = "nats")]
#[test]
fn the_bridge_keeps_its_laws_before_nats() {
    let runs = sweep(256, 2_000, |seed, steps| {
        let report = sim::run_nats(seed, steps, false);
        if seed.is_multiple_of(16) {
            let again = sim::run_nats(seed, steps, false);
            assert_eq!(report.trace, again.trace, "law: same seed, same trace");
        }
        report.coverage
    });
    let count = runs.len();
    let total = Sightings::sum(&runs);
    println!("{total}");
    if count >= 256 {
        assert!(total.missing().is_empty(), "never: {:?}", total.missing());
    }
}

#[test]
fn the_http_pools_keep_their_laws() {
    let runs = sweep(128, 2_000, |seed, steps| {
        let report = sim::run_http(seed, steps, false);
        if seed.is_multiple_of(16) {
            let again = sim::run_http(seed, steps, false);
            assert_eq!(report.trace, again.trace, "law: same seed, same trace");
        }
        report.coverage
    });
    let count = runs.len();
    let total = Sightings::sum(&runs);
    println!("{total}");
    if count >= 128 {
        assert!(total.missing().is_empty(), "never: {:?}", total.missing());
    }
}

/// Runs all seeds in two threads. What went before a failure is printed by the run itself.
fn sweep<T: Send>(seeds: u64, steps: u64, run: impl Fn(u64, u32) -> T + Sync) -> Vec<T> {
    let (first, seeds) = (number("SIM_SEED", 0), number("SIM_SEEDS", seeds));
    let steps = number("SIM_STEPS", steps) as u32;
    let next = AtomicU64::new(first);
    let (runs, broken) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let run = std::panic::AssertUnwindSafe(|| run(seed, steps));
                    match catch_unwind(run) {
                        Ok(coverage) => runs.lock().expect("no panic while held").push(coverage),
                        Err(_) => broken.lock().expect("no panic while held").push(seed),
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().expect("no panic while held");
    assert!(
        broken.is_empty(),
        "laws are broken by seeds {broken:?} in {steps} steps"
    );
    runs.into_inner().expect("no panic while held")
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}
