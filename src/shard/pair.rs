//! The two kinds of slots. Each side holds the other's key; neither owns the other.

use crate::kit::{Chain, Key, Timer};
use crate::session::Session;

/// A client's slot: the session, and its socket while there is one.
pub struct Client<S> {
    pub session: Session,
    pub socket: Option<S>,
    /// The session's upstream, if it has one.
    pub upstream: Key,
    pub timer: Timer,
    pub bits: Bits,
}

/// An upstream's slot: one connection to a server.
pub struct Upstream<S, D> {
    pub dialect: D,
    pub socket: S,
    /// The session that it serves.
    pub rider: Key,
    pub server: u16,
    pub bits: Bits,
    /// An incomplete head or frame header of the last read.
    pub stash: Chain,
    /// What must leave before anything else: the request, the rest of a control frame.
    pub spill: Chain,
}

/// What is known of a socket, and in which lists its slot stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bits {
    /// Readable until a read says otherwise.
    pub readable: bool,
    /// Writable until a write says otherwise.
    pub writable: bool,
    /// The other side has ended: a short read is not the last.
    pub ended: bool,
    /// On the list of those to be read again.
    pub again: bool,
    /// On the list of those to be flushed.
    pub dirty: bool,
    /// Not read, because its bytes have no place to go.
    pub stalled: bool,
    /// Connected, for upstreams; FIN sent, for clients.
    pub done: bool,
    /// The session is joined to it, for upstreams; a write found it broken, for clients.
    pub joined: bool,
}
