//! A proxy whose WebSocket sessions outlive their connections.
//!
//! ```no_run
//! use wsteady::{Config, Proxy};
//!
//! let servers = ["ws://10.0.0.1:9000".to_string(), "ws://10.0.0.2:9000".to_string()];
//! let config = Config::with_backends(&servers).expect("two good URLs");
//! let proxy = Proxy::start(config).expect("free addresses");
//! println!("{} servers", proxy.handle().servers().expect("answers").len());
//! proxy.wait();
//! ```
//!
//! A [`Handle`] is what the rest of a program has of its proxy. A [`shard::Shard`] runs on any
//! [`shard::Io`], and a [`session::Session`] on none: `docs/embedding.md`.
//!
//! One sentence to remember: wire knows bytes, session knows one conversation, fleet knows the
//! servers, shard knows one core's share, net knows Linux, edge
//! knows what wraps a connection, control knows the operator, sim knows how
//! to lie, kit knows nothing but space and time.

#![deny(unsafe_code)]

/// Whether a bug is planted (see `planted`); never, and for free, in a build without the feature.
macro_rules! planted {
    ($bug:ident) => {{
        #[cfg(feature = "planted")]
        let planted = crate::planted::on(crate::planted::Bug::$bug);
        #[cfg(not(feature = "planted"))]
        let planted = false;
        planted
    }};
}

mod builder;
pub mod control;
pub mod edge;
pub mod fleet;
mod handle;
pub mod kit;
pub mod net;
#[cfg(feature = "planted")]
pub mod planted;
mod proxy;
pub mod session;
pub mod shard;
pub mod sim;
#[cfg(test)]
mod tidy;
pub mod wire;

pub use builder::Builder;
pub use control::admin::{ListedServer, ListedSession, Refusal, Sessions, Totals};
pub use control::config::Config;
pub use control::recruiter::Recruit;
pub use fleet::ServerState;
pub use handle::Handle;
pub use proxy::{Proxy, StartError};
pub use session::Reached;
pub use session::valve::{Arrival, Direction, Message, Valve, Verdict, Wants};
pub use shard::news::{Happened, Notice};
