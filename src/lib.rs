//! A proxy whose WebSocket sessions outlive their connections.
pub mod fleet;
pub mod kit;
#[cfg(feature = "planted")]
pub mod planted;
pub mod session;
pub mod wire;
