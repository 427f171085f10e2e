//! A WebSocket server that sends every message back, at any size, without holding one.

use crate::accept::{ACCEPTS_MAX, Acceptor};
use crate::link::{Filled, Link};
use crate::mirror::{Echo, HEADROOM, SCRATCH_BYTES, TAILROOM};
use crate::tls::{self, Host};
use crate::{sys, threads, upgrade};
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Run a WebSocket server that echoes every message (RFC 6455, no extensions).
///
/// Any path is accepted. Frames are unmasked in place and sent back as they arrive, so messages
/// of any size pass without being stored; a Ping is answered in the same write. It prints
/// `listening on ADDR` once it does.
#[derive(clap::Args)]
pub struct Args {
    /// Address to accept on; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Threads, each with its own listener, connections and limit of open descriptors
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Run on this core only
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    #[command(flatten)]
    tls: tls::ServerArgs,
}

/// Serves until the process is ended.
///
/// # Errors
/// The address is taken, the core does not exist.
pub fn run(args: &Args) -> io::Result<()> {
    let tls = args.tls.plan()?;
    threads::serve(args.listen, args.threads, args.cpu, move |listen| {
        Server::new(listen, tls.clone())
    })
}

pub struct Server {
    poll: Poll,
    events: Option<Events>,
    acceptor: Acceptor,
    tls: Option<Host>,
    connections: Slab<Connection>,
    again: Vec<Token>,
    scratch: Box<[u8]>,
}

struct Connection {
    link: Link,
    stage: Stage,
    echo: Echo,
}

enum Stage {
    /// The request's head, as far as it came.
    Greeting(Vec<u8>),
    Open,
    /// Our Close is sent or in the backlog; what still comes is counted and dropped.
    Closing {
        dropped: usize,
    },
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// The address is taken.
    pub fn new(listen: SocketAddr, tls: Option<Host>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut acceptor = Acceptor::new(sys::listen(listen)?);
        poll.registry()
            .register(acceptor.listener(), LISTENER, Interest::READABLE)?;
        let events = Some(Events::with_capacity(EVENTS_MAX));
        let (connections, again) = (Slab::new(), Vec::new());
        let scratch = vec![0; HEADROOM + SCRATCH_BYTES + TAILROOM].into();
        Ok(Self {
            poll,
            events,
            acceptor,
            tls,
            connections,
            again,
            scratch,
        })
    }

    fn serve(&mut self, token: Token, event: Option<&Event>) {
        let Some(connection) = self.connections.get_mut(token.0) else {
            return;
        };
        match connection.serve(event, &mut self.scratch) {
            Ok(Served::Idle) => {}
            Ok(Served::Again) => self.again.push(token),
            // A connection's error is its own end and nobody else's.
            Ok(Served::Over) | Err(_) => drop(self.connections.remove(token.0)),
        }
    }
}

impl threads::Server for Server {
    fn address(&mut self) -> io::Result<SocketAddr> {
        self.acceptor.listener().local_addr()
    }

    fn turn(&mut self) -> io::Result<()> {
        let rest = if self.again.is_empty() {
            None
        } else {
            Some(Duration::ZERO)
        };
        let patience = rest.or(self.acceptor.patience());
        let mut events = self
            .events
            .take()
            .expect("given back at the end of each turn");
        match self.poll.poll(&mut events, patience) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for token in std::mem::take(&mut self.again) {
            self.serve(token, None);
        }
        for event in &events {
            match event.token() {
                LISTENER => self.acceptor.on_event(),
                token => self.serve(token, Some(event)),
            }
        }
        self.events = Some(events);
        // Last, so that no event of this turn can meet a newcomer in a slot that was freed.
        for _ in 0..ACCEPTS_MAX {
            let Some(mut socket) = self.acceptor.next() else {
                break;
            };
            let slot = self.connections.vacant_entry();
            let token = Token(slot.key());
            let both = Interest::READABLE | Interest::WRITABLE;
            let registered = self.poll.registry().register(&mut socket, token, both);
            let session = self.tls.as_ref().map(Host::session);
            if let Ok(link) = registered.and_then(|()| Link::with(socket, session)) {
                slot.insert(Connection::new(link));
            }
        }
        Ok(())
    }
}

enum Served {
    Idle,
    Again,
    Over,
}

impl Connection {
    fn new(link: Link) -> Self {
        Self {
            link,
            stage: Stage::Greeting(Vec::new()),
            echo: Echo::new(),
        }
    }

    fn serve(&mut self, event: Option<&Event>, scratch: &mut [u8]) -> io::Result<Served> {
        if let Some(event) = event {
            self.link.on_event(event);
            if event.is_writable() {
                self.flush()?;
            }
        }
        for _ in 0..READS_MAX {
            // Nothing more is read from a peer that does not take its echoes.
            if self.link.is_clogged() {
                return Ok(Served::Idle);
            }
            let count = match self
                .link
                .fill(&mut scratch[HEADROOM..HEADROOM + SCRATCH_BYTES])?
            {
                Filled::Bytes(count) => count,
                Filled::Blocked => return Ok(Served::Idle),
                Filled::Ended => return Ok(Served::Over),
            };
            if !self.on_bytes(scratch, count)? {
                return Ok(Served::Over);
            }
            if !self.link.is_readable() {
                return Ok(Served::Idle);
            }
        }
        Ok(Served::Again)
    }

    fn flush(&mut self) -> io::Result<()> {
        let clogged = self.link.is_clogged();
        self.link.flush()?;
        if clogged && !self.link.is_clogged() && matches!(self.stage, Stage::Closing { .. }) {
            self.link.shut()?;
        }
        Ok(())
    }

    /// `false` when the connection is over.
    fn on_bytes(&mut self, scratch: &mut [u8], count: usize) -> io::Result<bool> {
        match &mut self.stage {
            Stage::Greeting(head) => {
                head.extend_from_slice(&scratch[HEADROOM..HEADROOM + count]);
                let (early, response) = match upgrade::answer(head) {
                    upgrade::Request::Partial => return Ok(true),
                    upgrade::Request::Refuse { response } => {
                        self.link.send(response.as_bytes())?;
                        return self.close();
                    }
                    upgrade::Request::Upgrade {
                        head_bytes,
                        response,
                    } => (head.split_off(head_bytes), response),
                };
                self.stage = Stage::Open;
                self.link.send(response.as_bytes())?;
                scratch[HEADROOM..HEADROOM + early.len()].copy_from_slice(&early);
                self.echo(scratch, early.len())
            }
            Stage::Open => self.echo(scratch, count),
            Stage::Closing { dropped } => {
                *dropped += count;
                Ok(*dropped < DROPPED_MAX)
            }
        }
    }

    fn echo(&mut self, scratch: &mut [u8], count: usize) -> io::Result<bool> {
        let (range, closing) = self.echo.turn(scratch, count);
        self.link.send(&scratch[range])?;
        if closing { self.close() } else { Ok(true) }
    }

    /// The server closes TCP first (RFC 6455, 7.1.1), by FIN: a reset could destroy the Close.
    fn close(&mut self) -> io::Result<bool> {
        self.stage = Stage::Closing { dropped: 0 };
        if !self.link.is_clogged() {
            self.link.shut()?;
        }
        Ok(true)
    }
}

const LISTENER: Token = Token(usize::MAX);
const EVENTS_MAX: usize = 1024;
const READS_MAX: usize = 16;
/// What a peer may still say after our Close before it is cut off.
const DROPPED_MAX: usize = 1 << 20;

/// A server on a thread of its own that lives as long as the test's process.
#[cfg(test)]
pub fn spawn(tls: Option<Host>) -> SocketAddr {
    let mut server = Server::new("127.0.0.1:0".parse().unwrap(), tls).unwrap();
    let address = threads::Server::address(&mut server).unwrap();
    std::thread::spawn(move || while threads::Server::turn(&mut server).is_ok() {});
    address
}
