//! HTTP/1.1 on blocking sockets: one thread accepts, one per connection serves.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use log::warn;

use super::guard;
use super::message::{Pieces, Request, Response};
use super::stream::Stream;
use super::{Annex, Desk, balancer, events, routes};
use crate::wire::body::{Body, BodyStep};
use crate::wire::head::{self, HeadError, HeadLimits, HeadWriter};

/// A server that runs until it is stopped or dropped.
pub struct AdminServer {
    house: Arc<House>,
    accepting: Option<JoinHandle<()>>,
    _events: events::Running,
}

/// Serves on threads of its own. With a token, all but `/healthz` and `/readyz` ask for it.
///
/// # Errors
/// The accepting thread could not be started.
pub fn serve(
    listener: TcpListener,
    desk: Arc<Desk>,
    token: Option<String>,
    annex: Option<Arc<dyn Annex>>,
) -> io::Result<AdminServer> {
    let running = events::start(&desk)?;
    let house = Arc::new(House {
        listener,
        desk,
        token,
        annex,
        stopping: AtomicBool::new(false),
        guests: Mutex::default(),
        left: Condvar::new(),
    });
    let theirs = Arc::clone(&house);
    let accepting = thread::Builder::new()
        .name("admin".to_string())
        .spawn(move || accept(&theirs))?;
    Ok(AdminServer {
        house,
        accepting: Some(accepting),
        _events: running,
    })
}

impl AdminServer {
    /// Where it listens.
    ///
    /// # Errors
    /// The socket's own.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.house.listener.local_addr()
    }

    /// Accepts no more, ends all connections and waits a moment for what is being answered.
    pub fn stop(mut self) {
        self.end();
        let busy = |guests: &mut Guests| !guests.streams.is_empty();
        let guests = self.house.guests();
        // Whoever still waits for a loop then goes down with the process.
        drop(self.house.left.wait_timeout_while(guests, STOP_MAX, busy));
    }

    fn end(&mut self) {
        self.house.stopping.store(true, Relaxed);
        // On Linux this wakes a thread that waits in accept.
        let _ = rustix::net::shutdown(&self.house.listener, rustix::net::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for stream in self.house.guests().streams.values() {
            // An answer under way is still written; the next request is not read any more.
            stream.end_reading();
        }
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// What all threads of a server share.
struct House {
    listener: TcpListener,
    desk: Arc<Desk>,
    token: Option<String>,
    annex: Option<Arc<dyn Annex>>,
    stopping: AtomicBool,
    guests: Mutex<Guests>,
    /// A guest has left.
    left: Condvar,
}

/// Connections by number.
#[derive(Default)]
struct Guests {
    streams: BTreeMap<u64, Arc<Stream>>,
    next: u64,
}

impl House {
    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among the guests; dropping it gives the place back, also after a panic.
struct Seat {
    house: Arc<House>,
    number: u64,
    stream: Arc<Stream>,
    peer: SocketAddr,
    /// Beyond [`CONNECTIONS_MAX`]: told so, and sent away.
    excess: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.house.guests().streams.remove(&self.number);
        self.house.left.notify_all();
    }
}

fn accept(house: &Arc<House>) {
    while !house.stopping.load(Relaxed) {
        match house.listener.accept() {
            Ok((stream, peer)) => seat(house, stream, peer),
            Err(_) if house.stopping.load(Relaxed) => return,
            Err(error) => {
                warn!("admin: accept failed: {error}");
                // Without descriptors the next one fails at once, too.
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn seat(house: &Arc<House>, stream: TcpStream, peer: SocketAddr) {
    let seat = {
        let mut guests = house.guests();
        let present = guests.streams.len();
        if present >= CONNECTIONS_MAX + EXCESS_MAX {
            return;
        }
        let Some(stream) = Stream::new(stream, &house.desk) else {
            return;
        };
        let number = guests.next;
        guests.next += 1;
        let stream = Arc::new(stream);
        guests.streams.insert(number, Arc::clone(&stream));
        Seat {
            house: Arc::clone(house),
            number,
            stream,
            peer,
            excess: present >= CONNECTIONS_MAX,
        }
    };
    let thread = thread::Builder::new().name("admin-guest".to_string());
    if let Err(error) = thread.spawn(move || Guest::new(&seat).serve()) {
        warn!("admin: no thread for a connection: {error}");
    }
}

/// One connection.
struct Guest<'a> {
    seat: &'a Seat,
    /// Read, and not yet dealt with.
    bytes: Vec<u8>,
    /// Its last request was HTTP/1.1, so that it can read chunks.
    reads_chunks: bool,
    /// The stream is the newsroom's now.
    watches: bool,
}

/// Why a connection ends without another word.
struct Gone;

impl Guest<'_> {
    fn new(seat: &Seat) -> Guest<'_> {
        Guest {
            seat,
            bytes: Vec::new(),
            reads_chunks: false,
            watches: false,
        }
    }

    fn serve(mut self) {
        self.seat.stream.prepare(WRITE_MAX);
        if self.seat.excess && self.seat.stream.is_sealed() {
            // Before a handshake nothing can be told, and that would need a place.
            return;
        }
        if self.seat.excess {
            // Told before it asks: who says nothing must not keep a place of the few there are.
            let full = Response::error(503, "too many connections to the admin address");
            let _ = self.respond(full, false, false);
        } else {
            while let Ok(true) = self.serve_one() {}
        }
        if !self.watches {
            self.linger();
        }
    }

    /// Reads one request and answers it. `Ok(true)`: the connection takes another.
    fn serve_one(&mut self) -> Result<bool, Gone> {
        let limits = HeadLimits::default();
        let length = match self.read_head(&limits)? {
            Ok(length) => length,
            Err(error) => return self.refuse(error),
        };
        let head: Vec<u8> = self.bytes.drain(..length).collect();
        let parsed = head::Request::parse(&head, &limits)
            .and_then(|request| Ok((Body::of_request(&request)?, request)));
        let (body, request) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => return self.refuse(error),
        };
        let bodiless = request.method == "HEAD";
        self.reads_chunks = request.minor_version > 0;
        let token = self.seat.house.token.as_deref();
        if let Err(refusal) = guard::check(&request, !body.is_done(), token) {
            // Its body is not read: the connection can't go on unless there is none.
            let keeps_alive = request.keeps_alive() && body.is_done();
            let (path, _) = guard::split_target(request.target);
            let refusal = balancer::in_its_words(path, refusal);
            return self.respond(refusal, bodiless, keeps_alive);
        }
        if !body.is_done() && request.headers.has_token("expect", "100-continue") {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = match self.read_body(body)? {
            Ok(body) => body,
            Err(error) => return self.refuse(error),
        };
        let asked = owned(&request, body, self.seat.peer);
        let house = &self.seat.house;
        if asked.method == "GET" && asked.path == events::PATH {
            return self.watch(&asked, request.keeps_alive());
        }
        let annexed = house.annex.as_ref().and_then(|annex| annex.handle(&asked));
        let response = annexed.unwrap_or_else(|| {
            let is_awaited = || self.seat.stream.is_awaited();
            routes::answer(&house.desk, &asked, &is_awaited)
        });
        let response = balancer::in_its_words(&asked.path, response);
        self.respond(response, bodiless, request.keeps_alive())
    }

    /// Reads until there is a head, and says how long it is.
    fn read_head(&mut self, limits: &HeadLimits) -> Result<Result<usize, HeadError>, Gone> {
        let mut seen = 0;
        // A connection may rest between requests, but a head that has begun must come soon.
        let mut deadline = Instant::now() + IDLE_MAX;
        let mut begun = false;
        loop {
            match head::end(&self.bytes, seen, limits) {
                Ok(Some(length)) => return Ok(Ok(length)),
                Ok(None) => {}
                Err(error) => return Ok(Err(error)),
            }
            if !begun && !self.bytes.is_empty() {
                begun = true;
                deadline = Instant::now() + READ_MAX;
            }
            seen = self.bytes.len();
            match self.read(deadline)? {
                Got::Bytes => {}
                Got::Late if begun => return Ok(Err(HeadError::new(408, "head too slow"))),
                Got::Late => return Err(Gone),
            }
        }
    }

    fn read_body(&mut self, mut body: Body) -> Result<Result<Vec<u8>, HeadError>, Gone> {
        const TOO_LARGE: HeadError = HeadError::new(413, "body over 1 MiB");
        if body.length().is_some_and(|length| length > BODY_MAX as u64) {
            return Ok(Err(TOO_LARGE));
        }
        let deadline = Instant::now() + READ_MAX;
        let mut all = Vec::new();
        loop {
            let used = match body.step(&self.bytes) {
                Ok(BodyStep::Data(range)) => {
                    all.extend_from_slice(&self.bytes[range.clone()]);
                    range.end
                }
                Ok(BodyStep::Skip(length)) => length,
                Ok(BodyStep::Done(length)) => {
                    self.bytes.drain(..length);
                    return Ok(Ok(all));
                }
                Ok(BodyStep::More) => match self.read(deadline)? {
                    Got::Bytes => 0,
                    Got::Late => return Ok(Err(HeadError::new(408, "body too slow"))),
                },
                Err(error) => return Ok(Err(error)),
            };
            self.bytes.drain(..used);
            if all.len() > BODY_MAX {
                return Ok(Err(TOO_LARGE));
            }
        }
    }

    /// Reads what is there, waiting up to the deadline.
    fn read(&mut self, deadline: Instant) -> Result<Got, Gone> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Got::Late);
        }
        let mut buffer = [0; 16 * 1024];
        match self.seat.stream.read_within(left, &mut buffer) {
            Ok(0) => Err(Gone),
            Ok(count) => {
                self.bytes.extend_from_slice(&buffer[..count]);
                Ok(Got::Bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Got::Bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Got::Late),
            Err(_) => Err(Gone),
        }
    }

    /// Hands the stream over to those who watch: neither this thread nor its place is kept for it.
    fn watch(&mut self, asked: &Request, alive: bool) -> Result<bool, Gone> {
        let stream = Arc::clone(&self.seat.stream);
        let head = head_of(&events::head(), Framing::Close, false);
        match events::admit(&self.seat.house.desk, stream, head, asked) {
            Ok(()) => {
                self.watches = true;
                Err(Gone)
            }
            Err(refusal) => self.respond(refusal, false, alive),
        }
    }

    /// What can't be read can't be followed by anything.
    fn refuse(&mut self, error: HeadError) -> Result<bool, Gone> {
        let mut response = Response::error(error.status, error.reason);
        if error.status == 405 {
            // CONNECT or TRACE, refused for any target.
            response = response.with("Allow", "GET, HEAD");
        }
        self.respond(response, false, false)
    }

    fn respond(
        &mut self,
        mut response: Response,
        bodiless: bool,
        alive: bool,
    ) -> Result<bool, Gone> {
        let pieces = response.pieces.take();
        let framing = match pieces {
            None if response.is_stream() => Framing::Close,
            None => Framing::Length,
            Some(_) if self.reads_chunks => Framing::Chunks,
            Some(_) => Framing::Close,
        };
        let stopping = self.seat.house.stopping.load(Relaxed);
        let alive = alive && !stopping && framing != Framing::Close;
        let mut out = head_of(&response, framing, alive);
        if !bodiless {
            out.extend_from_slice(&response.body);
        }
        self.write(&out)?;
        if let Some(pieces) = pieces.filter(|_| !bodiless) {
            self.write_pieces(pieces, framing)?;
        }
        Ok(alive)
    }

    /// Ends the connection where a piece is missing: without the last chunk an answer isn't whole.
    fn write_pieces(&self, pieces: Pieces, framing: Framing) -> Result<(), Gone> {
        let chunk = |piece: &[u8]| {
            let size = format!("{:x}\r\n", piece.len());
            [size.as_bytes(), piece, b"\r\n"].concat()
        };
        for piece in pieces {
            let piece = piece.map_err(|_| Gone)?;
            match framing {
                // An empty chunk would be the last.
                _ if piece.is_empty() => {}
                Framing::Chunks => self.write(&chunk(&piece))?,
                Framing::Length | Framing::Close => self.write(&piece)?,
            }
        }
        match framing {
            Framing::Chunks => self.write(&chunk(b"")),
            Framing::Length | Framing::Close => Ok(()),
        }
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Gone> {
        self.seat.stream.write_all(bytes).map_err(|_| Gone)
    }

    /// Ends the stream and throws away what still comes: closing with unread bytes would send RST,
    /// which destroys an answer on its way.
    fn linger(mut self) {
        if self.seat.stream.part().is_err() {
            return;
        }
        let deadline = Instant::now() + LINGER_MAX;
        let mut thrown = 0;
        while thrown <= BODY_MAX {
            self.bytes.clear();
            match self.read(deadline) {
                Ok(Got::Bytes) => thrown += self.bytes.len(),
                Ok(Got::Late) | Err(Gone) => return,
            }
        }
    }
}

/// What a read brought.
enum Got {
    Bytes,
    /// Nothing, up to the deadline.
    Late,
}

fn owned(request: &head::Request<'_>, body: Vec<u8>, peer: SocketAddr) -> Request {
    let (path, query) = guard::split_target(request.target);
    let text = |value| String::from_utf8_lossy(value).into_owned();
    Request {
        method: request.method.to_string(),
        path: path.to_string(),
        query: query.to_string(),
        headers: request
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        body,
        peer,
    }
}

/// How the other side knows where an answer ends (RFC 9112 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    Chunks,
    /// With its connection.
    Close,
}

fn head_of(response: &Response, framing: Framing, alive: bool) -> Vec<u8> {
    let length = response.body.len().to_string();
    let (length, coding) = match framing {
        Framing::Length => (length.as_str(), ""),
        Framing::Chunks => ("", "chunked"),
        Framing::Close => ("", ""),
    };
    let usual = [
        ("Content-Type", response.content_type),
        ("Content-Length", length),
        ("Transfer-Encoding", coding),
        ("Connection", if alive { "keep-alive" } else { "close" }),
        // Numbers of now; and what is JSON is not to be guessed into a page.
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ];
    let extra = &response.headers;
    let named = |name: &str| {
        extra
            .iter()
            .any(|(given, _)| given.eq_ignore_ascii_case(name))
    };
    let usual = usual
        .into_iter()
        .filter(|(name, value)| !named(name) && !value.is_empty());
    let extra = extra.iter().map(|(name, value)| (*name, value.as_str()));

    let mut out = Vec::with_capacity(512 + response.body.len());
    let mut head = HeadWriter::new(&mut out);
    let written = head.status_line(response.status);
    debug_assert!(written.is_ok(), "status {}", response.status);
    for (name, value) in usual.chain(extra) {
        // One that could break the head is left out.
        let written = head.header(name, value);
        debug_assert!(written.is_ok(), "header {name}");
    }
    head.end();
    out
}

/// Connections at once: a scraper, a few pages, an operator's scripts. Each costs a thread.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// So many more hear why they are sent away; what comes beyond is closed at once.
const EXCESS_MAX: usize = 16;
/// Bytes of a body. The largest that a route reads has some hundred.
const BODY_MAX: usize = 1 << 20;
/// Rest between two requests: longer than the usual scrape interval of a minute.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// For a head that has begun, and for a body.
const READ_MAX: Duration = Duration::from_secs(10);
/// For each piece of an answer that the kernel does not take at once.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// For the other side to close.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// For answers under way when the server stops; a loop that hangs is given up sooner.
const STOP_MAX: Duration = Duration::from_secs(3);
