//! The sweep: many seeds of the simulator, with all faults on.
//!
//! `SIM_SEED` begins elsewhere, `SIM_SEEDS` and `SIM_STEPS` make it wider and longer.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use wsteady::sim;

#[test]
fn the_laws_hold() {
    let (first, seeds, steps) = (number("SIM_SEED", 0), number("SIM_SEEDS", 256), number("SIM_STEPS", 3_000));
    let next = AtomicU64::new(first);
    let all = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let report = sim::run(seed, steps as u32, false);
                    all.lock().expect("no thread has failed").push(report.coverage);
                }
            });
        }
    });
    let all = all.into_inner().expect("no thread has failed");
    let total = sim::Coverage::sum(&all);
    println!("{total}");
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}
