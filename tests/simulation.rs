//! The sweep: many seeds of the simulator, with all faults on.
//!
//! `SIM_SEED` begins elsewhere, `SIM_SEEDS` and `SIM_STEPS` make it wider and longer.

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use wsteady::sim::{self, Coverage};

#[test]
fn the_laws_hold() {
    let (first, seeds) = (number("SIM_SEED", 0), number("SIM_SEEDS", 256));
    let steps = number("SIM_STEPS", 3_000) as u32;
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
                    // What went before is printed by the run itself.
                    match catch_unwind(|| sim::run(seed, steps, false)) {
                        Ok(report) => runs
                            .lock()
                            .expect("no panic while held")
                            .push(report.coverage),
                        Err(_) => broken.lock().expect("no panic while held").push(seed),
                    }
                }
            });
        }
    });
    let total = Coverage::sum(&runs.into_inner().expect("no panic while held"));
    println!("{total}");
    let broken = broken.into_inner().expect("no panic while held");
    assert!(
        broken.is_empty(),
        "laws are broken by seeds {broken:?} in {steps} steps"
    );
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}
