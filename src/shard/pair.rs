//! The two kinds of slots. Each side holds the other's key; neither owns the other.

use bitflags::bitflags;

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

bitflags! {
    /// What is known of a socket, and in which lists its slot stands.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Bits: u16 {
        /// Readable until a read says otherwise.
        const READABLE = 1 << 0;
        /// Writable until a write says otherwise.
        const WRITABLE = 1 << 1;
        /// The other side has ended: a short read is not the last.
        const ENDED = 1 << 2;
        /// On the list of those to be read again.
        const AGAIN = 1 << 3;
        /// On the list of those to be flushed.
        const DIRTY = 1 << 4;
        /// Not read, because its bytes have no place to go.
        const STALLED = 1 << 5;
        /// Connected, for upstreams; FIN sent, for clients.
        const DONE = 1 << 6;
        /// The session is joined to it, for upstreams; a write found it broken, for clients.
        const JOINED = 1 << 7;
        /// Its session stands in the line of calls.
        const WAITING = 1 << 8;
        /// It has one of all clients' places, for clients,
        const PLACED = 1 << 9;
        /// and one of its address's.
        const COUNTED = 1 << 10;
        /// A client that is not read while so many calls wait.
        const CROWDED = 1 << 11;
        /// A client that came when descriptors were scarce.
        const SCARCE = 1 << 12;
    }
}
