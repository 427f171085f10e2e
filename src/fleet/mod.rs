//! Knows the servers: pools, routes, whose turn it is, and who is tripped.
//! Imports: std, crate::kit.
//! Never: mio, std::net::Tcp, std::time, log, crate::wire, crate::session, crate::shard, crate::net, crate::sim, crate::control.
//!
//! Each loop has a copy, kept equal by mail; what must be decided once per server (its breaker) has a
//! home loop, and what must be counted once per process (its connections) is a shared number.
//!
//! **Invariant:** a server is named by its number, and a number is never used again.

pub mod balance;
pub mod breaker;
pub mod charter;
pub mod health;
pub mod pools;

pub use self::balance::{Balance, NoChoice, Spread};
pub use self::breaker::Breaker;
pub use self::charter::{Charter, Terms};
pub use self::health::{Expect, Health, Vitals};
pub use self::pools::{
    Connections, Fleet, Kind, Pool, ProxyProtocol, Route, Server, ServerState, Shared,
};
