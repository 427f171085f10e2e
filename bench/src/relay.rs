//! The floor: the cheapest relay that epoll allows. It accepts, connects, and copies; it parses
//! nothing. What a proxy costs above it is the price of what the proxy does.

use crate::accept::{ACCEPTS_MAX, Acceptor};
use crate::link::{Filled, Link};
use crate::sys;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use std::io;
use std::net::{Shutdown, SocketAddr};

/// Copy bytes between clients and one server, nothing else: the floor for proxies.
///
/// One thread, edge-triggered epoll, one 64 KiB buffer for all connections, no parsing. A
/// connection at rest costs some 50 bytes. It prints `listening on ADDR` once it does.
#[derive(clap::Args)]
pub struct Args {
    /// Address to accept on; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Server that every connection is relayed to
    #[arg(long, value_name = "ADDR")]
    to: SocketAddr,
    /// Run on this core only
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
}

/// Relays until the process is ended.
///
/// # Errors
/// The address is taken, the core does not exist.
pub fn run(args: &Args) -> io::Result<()> {
    sys::pin(args.cpu)?;
    sys::raise_descriptor_limit();
    let mut relay = Relay::new(args.listen, args.to)?;
    println!("listening on {}", relay.acceptor.listener().local_addr()?);
    loop {
        relay.turn()?;
    }
}

struct Relay {
    poll: Poll,
    events: Option<Events>,
    acceptor: Acceptor,
    to: SocketAddr,
    pairs: Slab<Pair>,
    /// Sides whose budget ended before their input did.
    again: Vec<Token>,
    scratch: Box<[u8]>,
}

/// A client and its server; `sides[CLIENT]`, `sides[SERVER]`.
struct Pair {
    sides: [Link; 2],
    connected: bool,
    ended: [bool; 2],
}

impl Relay {
    fn new(listen: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut acceptor = Acceptor::new(sys::listen(listen)?);
        poll.registry()
            .register(acceptor.listener(), LISTENER, Interest::READABLE)?;
        let (pairs, again) = (Slab::new(), Vec::new());
        let events = Some(Events::with_capacity(EVENTS_MAX));
        let scratch = vec![0; SCRATCH_BYTES].into();
        Ok(Self {
            poll,
            events,
            acceptor,
            to,
            pairs,
            again,
            scratch,
        })
    }

    fn turn(&mut self) -> io::Result<()> {
        let rest = if self.again.is_empty() {
            None
        } else {
            Some(std::time::Duration::ZERO)
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
            self.guarded(token, |relay| relay.pump(token));
        }
        for event in &events {
            match event.token() {
                LISTENER => self.acceptor.on_event(),
                token => self.guarded(token, |relay| relay.on_event(token, event)),
            }
        }
        self.events = Some(events);
        // Last, so that no event of this turn can meet a newcomer in a slot that was freed.
        for _ in 0..ACCEPTS_MAX {
            let Some(client) = self.acceptor.next() else {
                break;
            };
            // No route to the server: the client sees its connection end, others go on.
            let _ = self.admit(client);
        }
        Ok(())
    }

    /// Runs `work` and buries the pair if it failed or is over.
    fn guarded(&mut self, token: Token, work: impl FnOnce(&mut Self) -> io::Result<bool>) {
        let (key, _) = place(token);
        if self.pairs.contains(key) && !work(self).unwrap_or(false) {
            self.pairs.remove(key);
        }
    }

    fn admit(&mut self, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.to)?;
        server.set_nodelay(true)?;
        let sides = [Link::new(client), Link::new(server)];
        let slot = self.pairs.vacant_entry();
        let key = slot.key();
        let pair = slot.insert(Pair {
            sides,
            connected: false,
            ended: [false; 2],
        });
        let both = Interest::READABLE | Interest::WRITABLE;
        for (side, link) in pair.sides.iter_mut().enumerate() {
            let token = Token(key * 2 + side);
            if let Err(error) = self.poll.registry().register(link.socket(), token, both) {
                self.pairs.remove(key);
                return Err(error);
            }
        }
        Ok(())
    }

    /// `false` when the pair is over.
    fn on_event(&mut self, token: Token, event: &Event) -> io::Result<bool> {
        let (key, side) = place(token);
        let pair = &mut self.pairs[key];
        pair.sides[side].on_event(event);
        if event.is_writable() {
            if side == SERVER && !pair.connected {
                if event.is_error() {
                    return Ok(false);
                }
                pair.connected = true;
            }
            pair.sides[side].flush()?;
            // What the other side said may have waited for this.
            if !pair.sides[side].is_clogged()
                && pair.sides[1 - side].is_readable()
                && !self.pump(Token(key * 2 + 1 - side))?
            {
                return Ok(false);
            }
        }
        self.pump(token)
    }

    /// Moves what one side says to the other. `false` when the pair is over.
    fn pump(&mut self, token: Token) -> io::Result<bool> {
        let (key, side) = place(token);
        let pair = &mut self.pairs[key];
        if !pair.connected || pair.ended[side] {
            return Ok(true);
        }
        let [client, server] = &mut pair.sides;
        let (from, to) = if side == CLIENT {
            (client, server)
        } else {
            (server, client)
        };
        for _ in 0..READS_MAX {
            // Reading pauses while the other side owes us its attention: memory stays bounded.
            if to.is_clogged() {
                return Ok(true);
            }
            match from.fill(&mut self.scratch)? {
                Filled::Bytes(count) => to.send(&self.scratch[..count])?,
                Filled::Blocked => return Ok(true),
                Filled::Ended => {
                    pair.ended[side] = true;
                    to.socket().shutdown(Shutdown::Write)?;
                    return Ok(!pair.ended[1 - side]);
                }
            }
            if !from.is_readable() {
                return Ok(true);
            }
        }
        self.again.push(token);
        Ok(true)
    }
}

fn place(token: Token) -> (usize, usize) {
    (token.0 / 2, token.0 % 2)
}

const CLIENT: usize = 0;
const SERVER: usize = 1;
const LISTENER: Token = Token(usize::MAX);
const EVENTS_MAX: usize = 1024;
/// Four messages of 16 KiB; above, fewer calls no longer pay for the cache they use.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Reads from one side in a turn: 1 MiB, then the others.
const READS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener as StdListener, TcpStream as StdStream};
    use std::time::Duration;

    /// A client and a server with a relay between them, which runs until its pair is over.
    fn relayed() -> (StdStream, StdStream, std::thread::JoinHandle<()>) {
        let server = StdListener::bind("127.0.0.1:0").unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut relay = Relay::new(listen, server.local_addr().unwrap()).unwrap();
        let client = StdStream::connect(relay.acceptor.listener().local_addr().unwrap()).unwrap();
        while relay.pairs.is_empty() {
            relay.turn().unwrap();
        }
        let turns = std::thread::spawn(move || {
            while !relay.pairs.is_empty() {
                relay.turn().unwrap();
            }
        });
        let (server, _) = server.accept().unwrap();
        for stream in [&client, &server] {
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
        }
        (client, server, turns)
    }

    #[test]
    fn bytes_and_half_closes_pass_in_both_directions() {
        let (mut client, mut server, turns) = relayed();
        client.write_all(b"to the server").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"to the server");
        server.write_all(b"and back").unwrap();
        drop(server);
        heard.clear();
        client.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"and back");
        turns.join().unwrap();
    }

    #[test]
    fn a_reader_that_pauses_loses_nothing() {
        let (client, mut server, turns) = relayed();
        let sent: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 253) as u8).collect();
        let copy = sent.clone();
        let writer = std::thread::spawn(move || {
            (&client).write_all(&copy).unwrap();
            client
        });
        // Long enough for every buffer on the way to fill up.
        std::thread::sleep(Duration::from_millis(300));
        assert!(!writer.is_finished(), "nothing pushed back");
        let mut heard = vec![0; sent.len()];
        server.read_exact(&mut heard).unwrap();
        assert!(heard == sent);
        drop(server);
        drop(writer.join().unwrap());
        turns.join().unwrap();
    }
}
