//! Knows bytes.
//! Imports: std, httparse, tungstenite, simdutf8, memchr, flate2.
//! Never: mio, std::net::Tcp, std::time, log, crate::kit, crate::session, crate::fleet, crate::shard, crate::net, crate::control.
//!
//! Frames, masks, close codes, HTTP heads and bodies, upgrades, PROXY headers, and NATS: bytes in, bytes out.
//!
//! **Invariant:** nothing here waits, remembers a peer, reads a clock or draws a random number.
//! What a function needs beyond the bytes it is given, a mask key or a limit, is an argument; so
//! every answer depends on the bytes alone and never on how the network cut them into segments.

pub mod body;
pub mod close;
pub mod compose;
pub mod deflate;
pub mod frame;
pub mod head;
pub mod mask;
#[cfg(feature = "nats")]
pub mod nats;
pub mod proxy;
pub mod scan;
pub mod upgrade;
pub mod utf8;
