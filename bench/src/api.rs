//! An HTTP API as one behind a bridge is: it admits every client and sends messages back. Behind an
//! HTTP pool, GET is answered with as much as is asked for.

use crate::accept::{ACCEPTS_MAX, Acceptor};
use crate::check::{LABEL_BYTES, Label};
use crate::link::{Filled, Link};
use crate::tls::{self, Host};
use crate::{http, sys, threads, units};
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Run an HTTP/1.1 API for bridges and HTTP pools, which sends every message back.
///
/// On any path, GET and DELETE are answered `ok`, and POST with its own body and Content-Type.
/// With --body, GET is answered with so many bytes that depend on the label of `http`'s request.
/// Connections are kept; each answer is one write. It prints `listening on ADDR` once it does.
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
    /// Answer each POST after a random time between these, in steps of 1 ms (say 5ms..20ms)
    #[arg(long, value_name = "MIN..MAX", value_parser = latency)]
    latency: Option<Latency>,
    /// Answer POST with an empty body: there is nothing for the client
    #[arg(long)]
    silent: bool,
    /// Answer GET with so many bytes instead of `ok`, at least 32 (then it admits no bridged client)
    #[arg(long, value_name = "BYTES", value_parser = body_size)]
    body: Option<usize>,
    #[command(flatten)]
    tls: tls::ServerArgs,
}

/// Serves until the process is ended.
///
/// # Errors
/// The address is taken, the core does not exist.
pub fn run(args: &Args) -> io::Result<()> {
    let manners = Manners {
        latency: args.latency,
        silent: args.silent,
        body: args.body,
    };
    let tls = args.tls.plan()?;
    threads::serve(args.listen, args.threads, args.cpu, move |listen| {
        Server::new(listen, manners, tls.clone())
    })
}

/// How requests are answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    latency: Option<Latency>,
    silent: bool,
    body: Option<usize>,
}

#[cfg(test)]
impl Manners {
    /// GET is answered with so many bytes.
    pub fn with_body(bytes: usize) -> Self {
        Self {
            body: Some(bytes),
            ..Self::default()
        }
    }
}

/// The shortest and the longest delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Latency {
    min: Duration,
    max: Duration,
}

fn latency(text: &str) -> Result<Latency, String> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    let (min, max) = (units::time(min)?, units::time(max)?);
    if min > max {
        return Err("the first time must not be the longer one".to_string());
    }
    Ok(Latency { min, max })
}

fn body_size(text: &str) -> Result<usize, String> {
    let size = units::size(text)?;
    if size < LABEL_BYTES {
        return Err(format!("it must be at least {LABEL_BYTES}"));
    }
    Ok(size)
}

/// One thread's listener and connections.
pub struct Server {
    poll: Poll,
    events: Option<Events>,
    acceptor: Acceptor,
    tls: Option<Host>,
    connections: Slab<Connection>,
    again: Vec<Token>,
    /// When held answers are due. An entry may outlive its connection: a look too many is all.
    due: BinaryHeap<Reverse<(Instant, Token)>>,
    desk: Desk,
}

/// What all connections use, one at a time.
struct Desk {
    manners: Manners,
    chance: Chance,
    input: Box<[u8]>,
    output: Vec<u8>,
    /// The body of an answer to GET.
    body: Vec<u8>,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// The address is taken.
    pub fn new(listen: SocketAddr, manners: Manners, tls: Option<Host>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut acceptor = Acceptor::new(sys::listen(listen)?);
        poll.registry()
            .register(acceptor.listener(), LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Some(Events::with_capacity(EVENTS_MAX)),
            acceptor,
            tls,
            connections: Slab::new(),
            again: Vec::new(),
            due: BinaryHeap::new(),
            desk: Desk {
                manners,
                chance: Chance::new(),
                input: vec![0; INPUT_BYTES].into(),
                output: Vec::new(),
                body: vec![0; manners.body.unwrap_or_default()],
            },
        })
    }

    fn patience(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let due = self.due.peek();
        let due = due.map(|Reverse((due, _))| due.saturating_duration_since(Instant::now()));
        due.into_iter().chain(self.acceptor.patience()).min()
    }

    fn release(&mut self) {
        if self.due.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(Reverse((due, token))) = self.due.peek().copied() {
            if due > now {
                return;
            }
            self.due.pop();
            self.serve(token, None);
        }
    }

    fn serve(&mut self, token: Token, event: Option<&Event>) {
        let Some(connection) = self.connections.get_mut(token.0) else {
            return;
        };
        match connection.serve(event, &mut self.desk) {
            Ok(Served::Idle) => {}
            Ok(Served::Again) => self.again.push(token),
            Ok(Served::Until(due)) => self.due.push(Reverse((due, token))),
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
        let patience = self.patience();
        let mut events = self.events.take().expect("given back in each turn");
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
        self.release();
        // Last, so that no event of this turn can meet a newcomer in a slot that was freed.
        for _ in 0..ACCEPTS_MAX {
            let Some(mut socket) = self.acceptor.next() else {
                break;
            };
            let slot = self.connections.vacant_entry();
            let (token, both) = (Token(slot.key()), Interest::READABLE | Interest::WRITABLE);
            let registered = self.poll.registry().register(&mut socket, token, both);
            let session = self.tls.as_ref().map(Host::session);
            if let Ok(link) = registered.and_then(|()| Link::with(socket, session)) {
                slot.insert(Connection::new(link));
            }
        }
        Ok(())
    }
}

struct Connection {
    link: Link,
    /// The start of a request whose rest has not come, or requests behind a held answer.
    kept: Vec<u8>,
    /// An answer that is not due yet. Nothing is read meanwhile.
    held: Option<(Instant, Vec<u8>)>,
    /// The last answer is given; so many bytes that still came were dropped.
    closing: Option<usize>,
}

enum Served {
    Idle,
    Again,
    Until(Instant),
    Over,
}

impl Connection {
    fn new(link: Link) -> Self {
        Self {
            link,
            kept: Vec::new(),
            held: None,
            closing: None,
        }
    }

    fn serve(&mut self, event: Option<&Event>, desk: &mut Desk) -> io::Result<Served> {
        if let Some(event) = event {
            self.link.on_event(event);
            if event.is_writable() {
                self.flush()?;
            }
        }
        if let Some((_, answer)) = self.held.take_if(|(due, _)| *due <= Instant::now()) {
            self.link.send(&answer)?;
            // Others may have come behind the one that waited.
            if let Some(due) = self.on_bytes(0, desk)? {
                return Ok(Served::Until(due));
            }
        }
        for _ in 0..READS_MAX {
            // Nothing more is read from a peer that does not take its answers.
            if self.link.is_clogged() || self.held.is_some() {
                return Ok(Served::Idle);
            }
            let count = match self.link.fill(&mut desk.input)? {
                Filled::Bytes(count) => count,
                Filled::Blocked => return Ok(Served::Idle),
                Filled::Ended => return Ok(Served::Over),
            };
            if let Some(dropped) = &mut self.closing {
                *dropped += count;
                if *dropped > DROPPED_MAX {
                    return Ok(Served::Over);
                }
            } else if let Some(due) = self.on_bytes(count, desk)? {
                return Ok(Served::Until(due));
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
        if clogged { self.end() } else { Ok(()) }
    }

    /// FIN behind the last answer, once it is sent: a reset could destroy it.
    fn end(&mut self) -> io::Result<()> {
        if self.closing.is_some() && self.held.is_none() && !self.link.is_clogged() {
            self.link.shut()?;
        }
        Ok(())
    }

    /// Answers what is whole and keeps the rest. When the answer is due, if it is not now.
    fn on_bytes(&mut self, count: usize, desk: &mut Desk) -> io::Result<Option<Instant>> {
        desk.output.clear();
        let mut answers = Answers {
            manners: desk.manners,
            chance: &mut desk.chance,
            out: &mut desk.output,
            body: &mut desk.body,
            close: self.closing.is_some(),
        };
        let input = &desk.input[..count];
        let delay = if self.kept.is_empty() {
            let (used, delay) = answers.to(input);
            self.kept.extend_from_slice(&input[used..]);
            delay
        } else {
            self.kept.extend_from_slice(input);
            let (used, delay) = answers.to(&self.kept);
            self.kept.drain(..used);
            delay
        };
        if answers.close && self.closing.is_none() {
            self.closing = Some(0);
            self.kept = Vec::new();
        }
        if let Some(delay) = delay {
            let due = Instant::now() + delay;
            self.held = Some((due, desk.output.clone()));
            return Ok(Some(due));
        }
        self.link.send(&desk.output)?;
        self.end()?;
        Ok(None)
    }
}

/// Writes answers, all that one read allows.
struct Answers<'a> {
    manners: Manners,
    chance: &'a mut Chance,
    out: &'a mut Vec<u8>,
    body: &'a mut [u8],
    /// The last one is written.
    close: bool,
}

impl Answers<'_> {
    /// Answers the requests in `bytes` up to one that must wait: bytes used, and its delay.
    fn to(&mut self, bytes: &[u8]) -> (usize, Option<Duration>) {
        let mut used = 0;
        while !self.close && used < bytes.len() {
            let request = match http::request(&bytes[used..]) {
                Ok(Some(request)) => request,
                Ok(None) => break,
                Err(status) => {
                    self.close = true;
                    http::answer(self.out, status, b"", b"", true);
                    break;
                }
            };
            used += request.bytes;
            self.close = request.close;
            self.one(&request);
            if request.method == "POST"
                && let Some(latency) = self.manners.latency
            {
                return (used, Some(self.chance.between(latency)));
            }
        }
        (used, None)
    }

    fn one(&mut self, request: &http::Request<'_>) {
        let (status, body) = match request.method {
            "POST" if self.manners.silent => ("200 OK", &b""[..]),
            "POST" => ("200 OK", &*request.body),
            "GET" if self.manners.body.is_some() => {
                label(request.target).write(self.body);
                ("200 OK", &*self.body)
            }
            "GET" | "DELETE" => ("200 OK", &b"ok"[..]),
            // Its answer must not have a body, so HEAD is among these, too.
            _ => (
                "405 Method Not Allowed\r\nAllow: GET, POST, DELETE",
                &b""[..],
            ),
        };
        let own = request.content_type.filter(|_| request.method == "POST");
        let content_type = own.unwrap_or(b"text/plain; charset=utf-8");
        http::answer(self.out, status, content_type, body, request.close);
    }
}

/// The label at the end of a target, or one that nobody expects.
fn label(target: &str) -> Label {
    let last = target.as_bytes().last_chunk();
    last.and_then(Label::decode).unwrap_or(Label {
        connection: u32::MAX,
        sequence: 0,
        due: 0,
    })
}

/// Xorshift: a delay needs no better.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        // The standard library's own seeds; 0 would stay 0.
        Self(RandomState::new().build_hasher().finish() | 1)
    }

    fn between(&mut self, latency: Latency) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let span = units::nanos(latency.max - latency.min);
        latency.min + Duration::from_nanos(self.0 % span.saturating_add(1))
    }
}

const LISTENER: Token = Token(usize::MAX);
const EVENTS_MAX: usize = 1024;
const INPUT_BYTES: usize = 64 * 1024;
const READS_MAX: usize = 16;
/// What a peer may still say after its last answer before it is cut off.
const DROPPED_MAX: usize = 1 << 20;

/// A server on a thread of its own that lives as long as the test's process.
#[cfg(test)]
pub fn spawn(manners: Manners) -> SocketAddr {
    spawn_with(manners, None)
}

/// The same with TLS, if there is to be any.
#[cfg(test)]
pub fn spawn_with(manners: Manners, tls: Option<Host>) -> SocketAddr {
    let mut server = Server::new("127.0.0.1:0".parse().unwrap(), manners, tls).unwrap();
    let address = threads::Server::address(&mut server).unwrap();
    std::thread::spawn(move || {
        loop {
            threads::Server::turn(&mut server).unwrap();
        }
    });
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn post(body: &str) -> String {
        let length = body.len();
        format!(
            "POST /c1 HTTP/1.1\r\nHost: a\r\nContent-Type: x/y\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    }

    /// What comes back for `pieces`, until the server ends the connection.
    fn talk(manners: Manners, pieces: &[&[u8]]) -> String {
        let mut socket = TcpStream::connect(spawn(manners)).unwrap();
        socket.set_nodelay(true).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        for piece in pieces {
            socket.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut heard = String::new();
        socket.read_to_string(&mut heard).unwrap();
        heard
    }

    /// The bodies of these answers; all of them are 200.
    fn bodies(mut heard: &str) -> Vec<String> {
        let mut bodies = Vec::new();
        while let Some(answer) = http::response(heard.as_bytes()).unwrap() {
            assert_eq!(answer.status, 200, "{heard}");
            bodies.push(String::from_utf8(answer.body.to_vec()).unwrap());
            heard = &heard[answer.bytes..];
        }
        assert_eq!(heard, "");
        bodies
    }

    fn script() -> String {
        let large = "z".repeat(200_000);
        let get = "GET /c1?a=b HTTP/1.1\r\nHost: a\r\n\r\n";
        let delete = "DELETE /c1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        format!("{get}{}{}{delete}", post("hello"), post(&large))
    }

    #[test]
    fn requests_are_answered_in_order_however_they_come() {
        let script = script();
        let expected = ["ok", "hello", &"z".repeat(200_000), "ok"];
        let pieces: Vec<&[u8]> = script.as_bytes().chunks(9_001).collect();
        let latency = latency("1ms..20ms").unwrap();
        let slow = Manners {
            latency: Some(latency),
            ..Manners::default()
        };
        for manners in [Manners::default(), slow] {
            assert_eq!(bodies(&talk(manners, &pieces)), expected);
            assert_eq!(bodies(&talk(manners, &[script.as_bytes()])), expected);
        }
        let silent = Manners {
            silent: true,
            ..Manners::default()
        };
        let heard = talk(silent, &[script.as_bytes()]);
        assert_eq!(bodies(&heard), ["ok", "", "", "ok"]);
    }

    #[test]
    fn the_type_goes_back_and_refusals_end_the_connection() {
        let asked = format!("{}HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET /", post("hi"));
        let heard = talk(Manners::default(), &[asked.as_bytes(), b" HTTP/3\r\n\r\n"]);
        let answers: Vec<_> = heard.split("HTTP/1.1 ").skip(1).collect();
        assert!(answers[0].contains("\r\nContent-Type: x/y\r\n"), "{heard}");
        assert!(answers[1].starts_with("405 ") && !answers[1].contains("close"));
        assert!(answers[2].starts_with("400 ") && answers[2].contains("Connection: close"));
    }

    #[test]
    fn a_get_brings_the_message_that_its_target_names() {
        let manners = Manners::with_body(body_size("1KiB").unwrap());
        let label = Label {
            connection: 7,
            sequence: 1 << 33,
            due: 9,
        };
        let name = String::from_utf8(label.encode().to_vec()).unwrap();
        let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n");
        let named = get(&format!("/x?a=b&{name}"));
        let asked = format!("{named}\r\n{}Connection: close\r\n\r\n", get("/x"));
        let bodies = bodies(&talk(manners, &[asked.as_bytes()]));
        let mut expected = vec![0; 1024];
        label.write(&mut expected);
        assert_eq!(bodies[0].as_bytes(), expected);
        assert_eq!((bodies.len(), bodies[1].len()), (2, 1024));
        assert!(body_size("31").is_err());
    }

    #[test]
    fn a_delay_is_within_its_bounds() {
        let bounds = latency("30ms..40ms").unwrap();
        let mut chance = Chance::new();
        let drawn: Vec<_> = (0..1000).map(|_| chance.between(bounds)).collect();
        assert!(drawn.iter().all(|d| (bounds.min..=bounds.max).contains(d)));
        assert!(drawn.iter().any(|delay| *delay != drawn[0]));
        let manners = Manners {
            latency: Some(bounds),
            ..Manners::default()
        };
        let since = Instant::now();
        let asked = post("x").replace("Host", "Connection: close\r\nHost");
        assert_eq!(bodies(&talk(manners, &[asked.as_bytes()])), ["x"]);
        assert!(since.elapsed() >= bounds.min);
        assert_eq!(latency("5ms").unwrap(), latency("5ms..5ms").unwrap());
        assert!(latency("2s..1s").is_err() && latency("1..2").is_err());
    }
}
