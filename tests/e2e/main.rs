//! End to end: the real program between real clients and real servers, on loopback.
//!
//! One module per theme; `cargo test --test e2e failover::` runs one. They are one program because
//! they mostly wait, and so can wait together. `scripts/setup-tests` installs the peers.

mod admin;
mod announced;
mod balancers;
mod bridge;
#[cfg(feature = "nats")]
mod bus;
mod chaos;
mod cli;
mod cluster;
mod dashboard;
mod deploy;
mod direct;
mod dns;
mod embed;
mod examples;
mod failover;
mod frames;
mod handshake;
mod http;
mod legacy;
mod logs;
mod metrics;
#[cfg(feature = "nats")]
mod nats;
mod older;
mod openapi;
mod operation;
mod operator;
mod overload;
mod profile;
mod real;
mod redis;
mod reload;
mod replay;
mod seams;
mod shutdown;
mod siege;
mod support;
#[cfg(feature = "tls")]
mod tls;
mod valves;
mod wss;
