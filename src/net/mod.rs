//! Knows Linux: every syscall and every descriptor of a shard, and the clock.
//! Imports: mio, socket2, rustix, libc, crossbeam-channel, log, std, crate::kit, crate::shard.
//! Never: crate::session, crate::wire, crate::fleet, crate::control, crate::sim.
//!
//! **Invariant:** no policy. What a socket means, and what follows from its end, is not known here.

pub mod clock;
pub mod host;
pub mod listen;
pub mod poller;
pub mod socket;
pub mod sys;
pub mod table;
mod waker;

pub use self::clock::Clock;
pub use self::host::{Host, Inbox, Post};
pub use self::poller::{Elsewhere, Net, Outside};
