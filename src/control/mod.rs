//! Knows the operator: configuration, command line, log, admin server, metrics, the demo.
//! Imports: std, clap, clap_complete, clap_mangen, hdrhistogram, serde, serde_json, serde-saphyr, humantime, ipnet, strsim, log, crossbeam-channel, signal-hook, rustix, socket2, tungstenite, backtrace, flate2, inferno, prost, crate::Proxy, crate::edge, crate::fleet, crate::kit, crate::net, crate::session, crate::shard, crate::wire.
//! Never: mio, crate::sim.
//!
//! **Invariant:** nothing here stands in the way of a message: a loop never waits for this room.

pub mod admin;
pub mod assemble;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod demo;
pub mod generate;
#[cfg(feature = "tls")]
pub mod locksmith;
pub mod log;
#[cfg(feature = "nats")]
pub mod nats;
pub mod notify;
pub mod preflight;
pub mod profile;
pub mod recruiter;
pub mod reload;
pub mod report;
pub mod resolver;
pub mod switchboard;
pub mod vitals;
pub mod watch;
