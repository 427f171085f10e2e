//! Clients and servers that send exactly the bytes they are told to.

use super::frames::{CLOSE, Frame, PING, PONG};
use super::tls::{self, Pipe};
use rustls::{ClientConfig, ServerConfig};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The key and the accept value of RFC 6455 1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A handshake to `path` with more header lines, each ended by CRLF.
pub fn handshake(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: proxy.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

/// What came next on a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Frame(Frame),
    End(End),
    Silence,
}

/// Status or request line, and headers.
#[derive(Clone, Debug)]
pub struct Head {
    pub first: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Head {
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap_or("").to_owned();
        let split = |line: &str| {
            let (name, value) = line
                .split_once(':')
                .unwrap_or_else(|| panic!("header {line:?}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Head {
            first,
            headers: lines.map(split).collect(),
        }
    }

    pub fn status(&self) -> u16 {
        let code = self
            .first
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok());
        code.unwrap_or_else(|| panic!("no status line: {:?}", self.first))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = |(found, _): &&(String, String)| found.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .filter(named)
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// One side of a connection, with what was read and not yet taken.
pub struct Raw {
    pub stream: Pipe,
    pub pending: Vec<u8>,
    /// Whether [`Raw::frame`] answers Pings. A server whose messages shall stay unconfirmed doesn't.
    pub answers: bool,
    ended: Option<End>,
}

impl Raw {
    /// A client of wsteady, sealed in the run with TLS.
    pub fn connect(address: SocketAddr) -> Raw {
        Raw::try_connect(address).expect("a connection")
    }

    /// `None`: it was refused.
    pub fn try_connect(address: SocketAddr) -> Option<Raw> {
        let tcp = TcpStream::connect(address).ok()?;
        Some(match tls::on() {
            true => Raw::seal(tcp, &tls::our_client(), "localhost"),
            false => Raw::over(tcp),
        })
    }

    /// Sealed so, whatever the run.
    pub fn sealed(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Raw {
        Raw::seal(TcpStream::connect(address).unwrap(), config, name)
    }

    fn seal(tcp: TcpStream, config: &Arc<ClientConfig>, name: &str) -> Raw {
        tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Raw::on(Pipe::connect(tcp, config, name))
    }

    /// In the clear, whatever the run.
    pub fn plain(address: SocketAddr) -> Raw {
        Raw::over(TcpStream::connect(address).unwrap())
    }

    pub fn over(stream: TcpStream) -> Raw {
        Raw::on(stream.into())
    }

    pub fn on(stream: Pipe) -> Raw {
        stream.set_nodelay(true).unwrap();
        // A peer that stopped reading must not hang the test.
        stream
            .set_write_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Raw {
            stream,
            pending: Vec::new(),
            answers: true,
            ended: None,
        }
    }

    /// Connects and upgrades; panics if the answer isn't a correct 101.
    pub fn open(address: SocketAddr, path: &str, more: &str) -> Raw {
        let mut raw = Raw::connect(address);
        raw.upgrade(path, more);
        raw
    }

    /// Upgrades; panics if the answer isn't a correct 101.
    pub fn upgrade(&mut self, path: &str, more: &str) {
        self.send(handshake(path, more).as_bytes());
        let head = self.head(Duration::from_secs(10));
        assert_eq!(head.status(), 101, "{head:?}");
        assert_eq!(head.header("sec-websocket-accept"), Some(ACCEPT));
    }

    /// Writes; that the peer has gone is for the reading side to find.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub fn send_frame(&mut self, frame: &Frame) -> bool {
        self.send(&frame.bytes())
    }

    /// The next head; panics if none comes in time.
    pub fn head(&mut self, limit: Duration) -> Head {
        self.try_head(limit).unwrap_or_else(|| {
            panic!(
                "no head, {:?}, but {:?}",
                self.ended,
                self.pending.escape_ascii().to_string()
            )
        })
    }

    pub fn try_head(&mut self, limit: Duration) -> Option<Head> {
        let end = self.wait(limit, |bytes| {
            bytes
                .windows(4)
                .position(|four| four == b"\r\n\r\n")
                .map(|at| at + 4)
        })?;
        let head: Vec<u8> = self.pending.drain(..end).collect();
        Some(Head::parse(&String::from_utf8_lossy(&head)))
    }

    /// The body of an answer with Content-Length, or up to the end of the stream.
    pub fn body(&mut self, head: &Head, limit: Duration) -> Vec<u8> {
        let length = head
            .header("content-length")
            .and_then(|length| length.parse().ok());
        let length = length.unwrap_or(usize::MAX);
        self.wait(limit, |bytes| (bytes.len() >= length).then_some(()));
        let length = length.min(self.pending.len());
        self.pending.drain(..length).collect()
    }

    /// The next frame, whatever it is.
    pub fn next(&mut self, limit: Duration) -> Next {
        match self.wait(limit, Frame::parse) {
            Some((frame, length)) => {
                self.pending.drain(..length);
                Next::Frame(frame)
            }
            None => self.ended.map_or(Next::Silence, Next::End),
        }
    }

    /// The next data frame or Close; Pongs and Pings on the way are passed over, Pings perhaps answered.
    pub fn frame(&mut self, limit: Duration) -> Frame {
        let deadline = Instant::now() + limit;
        loop {
            match self.next(deadline.saturating_duration_since(Instant::now())) {
                Next::Frame(ping) if ping.opcode == PING => {
                    if self.answers {
                        self.answer(&ping);
                    }
                }
                Next::Frame(pong) if pong.opcode == PONG => {}
                Next::Frame(frame) => return frame,
                other => panic!(
                    "a frame was due, but {other:?}; {} bytes",
                    self.pending.len()
                ),
            }
        }
    }

    fn answer(&mut self, ping: &Frame) {
        // A client's frames are masked, and so were those it answers if we are the server.
        let pong = Frame::new(PONG, &ping.payload);
        let pong = if ping.key.is_none() {
            pong.with_key([1, 2, 3, 4])
        } else {
            pong
        };
        self.send_frame(&pong);
    }

    /// The code with which the peer closes within `limit`; data before it is passed over.
    pub fn close_code(&mut self, limit: Duration) -> u16 {
        let deadline = Instant::now() + limit;
        loop {
            let frame = self.frame(deadline.saturating_duration_since(Instant::now()));
            if frame.opcode == CLOSE {
                return frame.close_code().0;
            }
        }
    }

    /// Reads to the end of the stream; panics if it doesn't end in time.
    pub fn end(&mut self, limit: Duration) -> End {
        self.wait(limit, |_| None::<()>);
        self.ended
            .unwrap_or_else(|| panic!("the stream has not ended after {limit:?}"))
    }

    /// True if nothing at all comes within `limit`.
    pub fn silent(&mut self, limit: Duration) -> bool {
        self.wait(limit, |bytes| (!bytes.is_empty()).then_some(()))
            .is_none()
            && self.ended.is_none()
    }

    /// How the stream has ended, as far as was read.
    pub fn ended(&self) -> Option<End> {
        self.ended
    }

    /// Reads until `look` sees something in what was read and not yet taken.
    pub fn wait<T>(&mut self, limit: Duration, look: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0; 1 << 16];
        loop {
            if let Some(found) = look(&self.pending) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.ended.is_some() || left.is_zero() {
                return None;
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            match self.stream.read(&mut buffer) {
                Ok(0) => self.ended = Some(End::Fin),
                Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
                Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.ended = Some(End::Reset),
            }
        }
    }

    /// Closes with RST.
    pub fn reset(mut self) {
        let linger = Some(Duration::ZERO);
        socket2::SockRef::from(&self.stream)
            .set_linger(linger)
            .unwrap();
        self.stream.break_off();
    }

    /// Ends our direction alone.
    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// As a server: answers the handshake in `head` with 101 and more header lines.
    pub fn accept(&mut self, head: &Head, more: &str) {
        let key = head
            .header("sec-websocket-key")
            .expect("an upgrade has a key");
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        self.send(
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{more}\r\n"
            )
            .as_bytes(),
        );
    }
}

/// A server whose connections the test plays itself.
pub struct Origin {
    listener: TcpListener,
    pub address: SocketAddr,
    seal: Option<Arc<ServerConfig>>,
}

impl Origin {
    pub fn bind() -> Origin {
        Origin::over(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// One on another's port, at this address.
    pub fn bind_at(ip: &str, other: &Origin) -> Origin {
        Origin::over(TcpListener::bind((ip, other.address.port())).unwrap())
    }

    fn over(listener: TcpListener) -> Origin {
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        Origin {
            listener,
            address,
            seal: tls::on().then(tls::our_server),
        }
    }

    /// One that speaks TLS so, whatever the run.
    pub fn sealed(seal: Arc<ServerConfig>) -> Origin {
        Origin {
            seal: Some(seal),
            ..Origin::bind()
        }
    }

    pub fn url(&self) -> String {
        url(self.seal.is_some(), self.address)
    }

    /// The next connection, if one comes in time.
    pub fn try_next(&self, limit: Duration) -> Option<Raw> {
        let deadline = Instant::now() + limit;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    return Some(Raw::on(Pipe::accept(stream, self.seal.as_ref())));
                }
                Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                Err(_) => return None,
            }
        }
    }

    /// The next connection and its request head.
    pub fn next(&self) -> (Raw, Head) {
        loop {
            let mut raw = self.try_next(Duration::from_secs(10)).expect("a dial");
            // A dial for a client that left before it stood ends without a byte.
            if let Some(head) = raw.try_head(Duration::from_secs(5)) {
                return (raw, head);
            }
        }
    }

    /// The next connection, upgraded.
    pub fn adopt(&self, more: &str) -> (Raw, Head) {
        let (mut raw, head) = self.next();
        raw.accept(&head, more);
        (raw, head)
    }

    /// Plays `script` on each connection in a thread of its own, and remembers each head.
    pub fn serve(self, script: impl Fn(&mut Raw, &Head) + Send + Sync + 'static) -> Served {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let served = Served {
            address: self.address,
            sealed: self.seal.is_some(),
            seen: Arc::clone(&seen),
        };
        let script = Arc::new(script);
        self.listener.set_nonblocking(false).unwrap();
        std::thread::spawn(move || {
            for stream in self.listener.incoming().flatten() {
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                let stream = Pipe::accept(stream, self.seal.as_ref());
                seen.lock().unwrap().connections += 1;
                std::thread::spawn(move || {
                    let mut raw = Raw::on(stream);
                    if let Some(head) = raw.try_head(Duration::from_secs(20)) {
                        seen.lock().unwrap().heads.push(head.clone());
                        script(&mut raw, &head);
                    }
                    // What else came on this connection, to its end: smuggled bytes would.
                    let _ = raw.wait(Duration::from_secs(5), |_| None::<()>);
                    seen.lock().unwrap().left.extend_from_slice(&raw.pending);
                });
            }
        });
        served
    }
}

/// A server that plays its script until the process ends.
pub struct Served {
    pub address: SocketAddr,
    sealed: bool,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    heads: Vec<Head>,
    left: Vec<u8>,
}

impl Served {
    pub fn url(&self) -> String {
        url(self.sealed, self.address)
    }

    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    pub fn heads(&self) -> Vec<Head> {
        self.seen.lock().unwrap().heads.clone()
    }

    /// All bytes that came and that no script took.
    pub fn left(&self) -> Vec<u8> {
        self.seen.lock().unwrap().left.clone()
    }
}

fn url(sealed: bool, address: SocketAddr) -> String {
    let scheme = if sealed { "wss" } else { "ws" };
    format!("{scheme}://{address}")
}

/// A server that takes each upgrade and echoes frames as they come, byte for byte but unmasked.
pub fn echo_origin() -> Served {
    Origin::bind().serve(|raw, head| {
        raw.accept(head, "");
        echo_frames(raw);
    })
}

/// Echoes frames until the end; a Close is answered and a Ping, too.
pub fn echo_frames(raw: &mut Raw) {
    while let Next::Frame(mut frame) = raw.next(Duration::from_secs(60)) {
        frame.key = None;
        if frame.opcode == PING {
            frame.opcode = PONG;
        } else if frame.opcode == PONG {
            continue;
        }
        let over = frame.opcode == CLOSE;
        if !raw.send_frame(&frame) || over {
            return;
        }
    }
}
