//! Knows nothing but space and time: slots, chunks, timers, ticks, chance and counters.
//! Imports: slab, rand_chacha, rand_core, std.
//! Never: mio, std::net, std::time, log, crate::wire, crate::session, crate::fleet, crate::shard, crate::net, crate::sim, crate::control.
//!
//! **Invariant:** nothing here does I/O, reads a clock or knows what its bytes mean.

pub mod cell;
pub mod chain;
pub mod pressure;
pub mod prng;
pub mod quota;
pub mod slots;
pub mod tick;
pub mod wheel;

pub use cell::{Budget, Count, Rate};
pub use chain::{Chain, Chunks, Spot};
pub use pressure::Pressure;
pub use prng::Prng;
pub use quota::Quota;
pub use slots::{Key, Slots};
pub use tick::Tick;
pub use wheel::{Timer, Wheel};
