//! What a shard needs of the world: time, sockets, mail. `net` gives the real one, `sim` a false one.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use super::mail::{Answer, Asker, Mail};
use super::token::Token;
use crate::fleet::ProxyProtocol;
use crate::kit::Tick;
use crate::session::Push;

/// The kernel as a type parameter: sockets of any kind, as long as they are streams of bytes.
///
/// The shard owns the sockets and calls the rest of it once a turn. Nothing here may block but
/// [`poll`](Io::poll). An address is a name that only the `Io` reads: what a server of the fleet has is
/// what [`dial`](Io::dial) gets, and clients are told apart, and told of to servers, by what
/// [`accept`](Io::accept) says.
///
/// Readiness is told by its edges, as epoll(7) does with `EPOLLET`. The shard remembers it, and asks no
/// more than it must: it has to be told again after a read that returned `Wait` or filled only a part of
/// the buffer, and after a write that took only a part. An `Io` that tells too often keeps the shard
/// awake, one that tells too seldom lets a session stand still.
///
/// `examples/unix.rs` is a small one.
pub trait Io {
    /// A connected socket, or one that is being connected.
    type Socket;

    /// Waits for something to happen, at most this long (in ms; `None`: as long as it takes), and adds
    /// to `ready` what did. Mail that has come ends it, too.
    fn poll(&mut self, wait: Option<u32>, ready: &mut Vec<Ready>);

    /// Reads the clock, which must not run backwards.
    fn now(&mut self) -> Now;

    /// Takes what other threads have sent.
    fn take_mail(&mut self, into: &mut Vec<Mail>);

    /// Sends to another shard; never called where there is one.
    fn send(&mut self, shard: usize, mail: Mail);

    /// Answers a question of the outside: mail with a ticket.
    fn answer(&mut self, ticket: u64, answer: Answer);

    /// Passes on a push for somebody who is not here; whoever asks is told by mail, or by an answer.
    /// `Some`: there is nowhere else to ask.
    fn elsewhere(&mut self, push: Box<Push>, from: Asker) -> Option<(Box<Push>, Asker)> {
        Some((push, from))
    }

    /// Takes one waiting connection of a listener. After `None` the listener is ready again when the
    /// next one waits, under [`Token::listener`].
    fn accept(&mut self, listener: u32) -> Accept<Self::Socket>;

    /// Begins to watch an accepted socket: from now on its events have this token. False: it can't be.
    fn watch(&mut self, socket: &mut Self::Socket, token: Token) -> bool;

    /// Stops listening.
    fn close_listeners(&mut self);

    /// Begins to connect, from this local address if there is one. The socket is watched under this
    /// token, and becomes writable when it stands or has failed.
    fn dial(
        &mut self,
        to: &Destination<'_>,
        from: Option<IpAddr>,
        token: Token,
    ) -> Dialled<Self::Socket>;

    /// Whether what an accepted socket carries is secret on its way: its client asked for `wss` or
    /// `https`.
    fn is_secure(&self, _socket: &Self::Socket) -> bool {
        false
    }

    /// Whether an accepted socket has one of the last descriptors, which sessions need towards servers.
    /// It is told so if it asks for a session, and may ask for one thing else.
    fn is_scarce(&self, _socket: &Self::Socket) -> bool {
        false
    }

    /// Where the client of an accepted socket has connected to, if that can be told.
    fn local_address(&self, _socket: &Self::Socket) -> Option<SocketAddr> {
        None
    }

    /// Whether a socket stands that became writable and [`ended`](Ready::ended) at once: a server that
    /// has closed already, or a dial that failed.
    fn is_connected(&mut self, socket: &mut Self::Socket) -> bool;

    /// Reads what is there.
    fn read(&mut self, socket: &mut Self::Socket, into: &mut [u8]) -> Got;

    /// Writes what the kernel takes.
    fn write(&mut self, socket: &mut Self::Socket, from: &[IoSlice<'_>]) -> Put;

    /// Sends FIN; reading goes on.
    fn shut(&mut self, socket: &mut Self::Socket);

    /// Ends a connection.
    fn close(&mut self, socket: Self::Socket);

    /// Ends a connection by RST: what the other side has read must not seem to be all.
    fn reset(&mut self, socket: Self::Socket);
}

/// Where a connection is to go, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    pub address: SocketAddr,
    /// The server's id.
    pub server: &'a str,
    /// Its URL as given.
    pub url: &'a str,
    /// The name of its pool.
    pub pool: &'a str,
    /// The first bytes are to be a PROXY header.
    pub announce: Option<Announce>,
}

/// What a PROXY header is to say.
#[derive(Clone, Copy, Debug)]
pub struct Announce {
    pub version: ProxyProtocol,
    /// The client, and where it has connected to; `None` for a connection of our own, or for one that
    /// serves many.
    pub ends: Option<(SocketAddr, SocketAddr)>,
}

/// Something happened to a socket or listener. Hints only: what counts is what a read or write
/// returns.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub token: Token,
    pub readable: bool,
    pub writable: bool,
    /// The other side has ended its stream, the connection broke, or its dial failed: a short read is
    /// not the last.
    pub ended: bool,
}

/// A reading of the clock.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub tick: Tick,
    /// Microseconds since start.
    pub micros: u64,
}

/// What a read returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    Bytes(usize),
    /// FIN.
    End,
    /// Nothing now.
    Wait,
    /// The connection is broken.
    Broken,
}

/// What a write returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Bytes(usize),
    /// Nothing now.
    Wait,
    /// The connection is broken.
    Broken,
}

/// What an accept returned.
pub enum Accept<S> {
    Socket(S, SocketAddr),
    /// Nobody waits.
    None,
    /// This one failed; others may wait.
    Failed,
    /// No descriptor or memory was left for a client. An edge-triggered listener will not tell again.
    Exhausted,
}

/// What a dial returned.
pub enum Dialled<S> {
    Socket(S),
    /// The address refused at once.
    Refused,
    /// The local address has no port left towards that server, or is none of this host's.
    NoPort,
    /// No descriptor or memory was left.
    Exhausted,
}
