//! End to end: the real program between real clients and real servers, on loopback.
//!
//! One module per theme; `cargo test --test e2e failover::` runs one. They are one program because
//! they mostly wait, and so can wait together. `scripts/setup-tests` installs the peers.

mod direct;
mod support;
mod frames;
mod handshake;
