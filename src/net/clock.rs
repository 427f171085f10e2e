//! The clock: monotonic, so that a stepped wall clock times nobody out.

use std::sync::OnceLock;
use std::time::Instant;

use crate::kit::Tick;
use crate::shard::Now;

/// Time since the process began; the same for all shards.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Clock {
        Clock {
            start: Instant::now(),
        }
    }

    /// What it shows.
    pub fn read(&self) -> Now {
        let micros = self.start.elapsed().as_micros() as u64;
        Now {
            tick: Tick((micros / 1_000) as u32),
            micros,
        }
    }
}

/// Microseconds since somebody asked first, for what a loop measures of others' code.
pub fn micros() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}
