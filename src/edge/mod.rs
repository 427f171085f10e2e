//! Knows what wraps a connection: TLS, and the header by which a proxy says for whom it is.
//! Imports: std, slab, log, ring, rustls, rustls_native_certs, x509_cert, humantime, crate::kit, crate::wire, crate::fleet, crate::shard.
//! Never: mio, std::net::Tcp, std::time::Instant, crate::session, crate::net, crate::control, crate::sim.
//!
//! A [`Layer`] is an `Io` on an `Io`: the shard above reads and writes what people say, the kernel (or
//! the simulator) below carries what is sealed. What seals is an [`Engine`]: rustls in `tls`, with keys
//! that `forge` makes of files, and something much simpler in the simulator.
//!
//! **Invariant:** a connection that needs none of this is the one below, with nothing in between; and
//! one that rests keeps no buffer.

#[cfg(feature = "tls")]
pub mod blocking;
#[cfg(feature = "tls")]
pub mod cert;
#[cfg(feature = "tls")]
mod cipher;
mod counts;
#[cfg(feature = "tls")]
pub mod forge;
#[cfg(feature = "tls")]
mod judge;
#[cfg(feature = "tls")]
pub mod keys;
mod layer;
mod line;
mod memory;
mod porch;
#[cfg(all(test, feature = "tls"))]
pub(crate) mod test_papers;
#[cfg(feature = "tls")]
pub mod tls;

use std::convert::Infallible;
use std::fmt;

pub use self::counts::{Counts, Ending, Side};
pub use self::layer::{Layer, Port, Socket};
use crate::shard::Destination;

/// What turns words into records, and back. Its sessions are plain data to everybody else.
pub trait Engine {
    /// One side of one connection.
    type Session;

    /// For a client of the listener of this number. `None`: it speaks in the clear.
    ///
    /// # Errors
    /// What is wrong with the listener's keys: its client must not speak in the clear for that.
    fn welcome(&mut self, listener: u32) -> Result<Option<Self::Session>, Fault>;

    /// For a connection to a server. `None`: in the clear.
    ///
    /// # Errors
    /// What is wrong with its name or its keys.
    fn call(&mut self, to: &Destination<'_>) -> Result<Option<Self::Session>, Fault>;

    /// Takes whole records from the front of `sealed`. What they say goes behind `words`, what is to be
    /// sent for them behind `out`, also beside an error. Called with nothing, it begins.
    ///
    /// # Errors
    /// What the other side has done wrong. Nothing is to be asked of this session any more.
    fn open(
        &mut self,
        session: &mut Self::Session,
        sealed: &mut [u8],
        words: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Opened, Fault>;

    /// Puts the records for these words, at most 16 KiB of them, behind `out`. `kept` is what the last
    /// [`open`](Engine::open) has left of its bytes.
    ///
    /// # Errors
    /// This connection has carried all that its keys may.
    fn seal(
        &mut self,
        session: &mut Self::Session,
        kept: &mut [u8],
        words: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Fault>;

    /// Whether its handshake was cut short by a ticket.
    fn is_resumed(&self, _session: &Self::Session) -> bool {
        false
    }

    /// Puts our last word behind `out`: nothing follows. `kept` as there.
    fn part(&mut self, session: &mut Self::Session, kept: &mut [u8], out: &mut Vec<u8>);
}

/// How far records have brought a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opened {
    /// Bytes that are done with.
    pub used: usize,
    /// The handshake is over: words may go both ways.
    pub ready: bool,
    /// The other side has said its last word.
    pub parted: bool,
}

/// Why a connection can't be wrapped, or has to end.
#[derive(Debug)]
pub struct Fault(pub String);

impl fmt::Display for Fault {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

/// The engine of a build without TLS: everything is in the clear.
pub struct Clear;

impl Engine for Clear {
    type Session = Infallible;

    fn welcome(&mut self, _: u32) -> Result<Option<Infallible>, Fault> {
        Ok(None)
    }

    fn call(&mut self, _: &Destination<'_>) -> Result<Option<Infallible>, Fault> {
        Ok(None)
    }

    fn open(
        &mut self,
        session: &mut Infallible,
        _: &mut [u8],
        _: &mut Vec<u8>,
        _: &mut Vec<u8>,
    ) -> Result<Opened, Fault> {
        match *session {}
    }

    fn seal(
        &mut self,
        session: &mut Infallible,
        _: &mut [u8],
        _: &[u8],
        _: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        match *session {}
    }

    fn part(&mut self, session: &mut Infallible, _: &mut [u8], _: &mut Vec<u8>) {
        match *session {}
    }
}
