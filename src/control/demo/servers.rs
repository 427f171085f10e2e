//! Servers that repeat what they hear, and that can be killed and revived on the same port.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tungstenite::{Error, Message, WebSocket};

/// What the servers of a demo speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    WebSocket,
    /// The HTTP API of a bridge: GET and DELETE are `ok`, a POST is answered with its body.
    Api,
}

/// An echo server on a loopback port of its own. Text comes back behind its name
/// (`alpha: hello`), binary as it is. It says nothing by itself.
pub struct EchoServer {
    name: &'static str,
    speech: Speech,
    address: SocketAddr,
    messages: Arc<AtomicU64>,
    run: Mutex<Option<Run>>,
    /// Bound, never listening: a dead server refuses dials, and nobody else gets its port.
    _port: Socket,
}

impl EchoServer {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port, descriptor or thread is left.
    pub fn start(name: &'static str, speech: Speech) -> io::Result<EchoServer> {
        let port = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = port.local_addr()?.as_socket();
        let address = address.expect("a socket that was bound to an IPv4 address has one");
        let server = EchoServer {
            name,
            speech,
            address,
            messages: Arc::default(),
            run: Mutex::default(),
            _port: port,
        };
        server.revive()?;
        Ok(server)
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn speech(&self) -> Speech {
        self.speech
    }

    /// The same for its whole life, dead or alive.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn is_alive(&self) -> bool {
        lock(&self.run).is_some()
    }

    /// Connections that stand now, handshakes included.
    pub fn connections(&self) -> usize {
        let run = lock(&self.run);
        run.as_ref()
            .map_or(0, |run| lock(&run.shared.lines).open.len())
    }

    /// Messages heard, since the start and over all its lives.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Closes the port and resets every connection, in the middle of whatever it did: the peers
    /// see what `kill -9` shows them of a process with unread data. Returns when all of that has
    /// happened. False if it was dead already.
    pub fn kill(&self) -> bool {
        let Some(run) = lock(&self.run).take() else {
            return false;
        };
        run.end();
        true
    }

    /// Listens again, on the port it had. False if it was alive.
    ///
    /// # Errors
    /// No descriptor or thread is left.
    pub fn revive(&self) -> io::Result<bool> {
        let mut run = lock(&self.run);
        if run.is_some() {
            return Ok(false);
        }
        let listener = bind(self.address)?;
        listener.listen(BACKLOG)?;
        *run = Some(Run::start(Arc::new(Shared {
            name: self.name,
            speech: self.speech,
            listener: listener.into(),
            dead: AtomicBool::new(false),
            lines: Mutex::default(),
            messages: Arc::clone(&self.messages),
        }))?);
        Ok(true)
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One life, from `revive` to `kill`.
struct Run {
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

/// What the threads of one life have in common.
struct Shared {
    name: &'static str,
    speech: Speech,
    listener: TcpListener,
    dead: AtomicBool,
    lines: Mutex<Lines>,
    messages: Arc<AtomicU64>,
}

#[derive(Default)]
struct Lines {
    next: u64,
    open: HashMap<u64, Line>,
}

/// A connection, and the thread that serves it.
struct Line {
    stream: Arc<TcpStream>,
    thread: JoinHandle<()>,
}

impl Run {
    fn start(shared: Arc<Shared>) -> io::Result<Run> {
        let theirs = Arc::clone(&shared);
        let acceptor = thread::Builder::new()
            .name(format!("demo {}", shared.name))
            .spawn(move || accept_all(&theirs))?;
        Ok(Run { shared, acceptor })
    }

    fn end(self) {
        self.shared.dead.store(true, Ordering::Release);
        // Wakes the accept (with EINVAL, on Linux). The acceptor is waited for before the lines
        // are taken: none can be added behind our back.
        let _ = SockRef::from(&self.shared.listener).shutdown(Shutdown::Both);
        let _ = self.acceptor.join();
        let lines = std::mem::take(&mut lock(&self.shared.lines).open);
        for line in lines.into_values() {
            // With SO_LINGER 0 the last close of a socket sends RST. Only its reading half is
            // shut, to wake the thread: shutting both would say FIN first, like a polite server.
            let _ = SockRef::from(&*line.stream).set_linger(Some(Duration::ZERO));
            let _ = line.stream.shutdown(Shutdown::Read);
            drop(line.stream);
            let _ = line.thread.join();
        }
    }
}

fn accept_all(shared: &Arc<Shared>) {
    loop {
        let accepted = shared.listener.accept();
        if shared.dead.load(Ordering::Acquire) {
            return;
        }
        match accepted {
            Ok((stream, _)) => add_line(shared, stream),
            // Out of descriptors, say: what is refused now may go well in a moment.
            Err(_) => thread::sleep(ACCEPT_PAUSE),
        }
    }
}

/// Gives a connection its thread. Beyond the limit, or without a thread, it is dropped.
fn add_line(shared: &Arc<Shared>, stream: TcpStream) {
    // The lock is kept until the line is in: its thread, which takes it out, can't come first.
    let mut lines = lock(&shared.lines);
    if lines.open.len() >= LINES_MAX {
        return;
    }
    let number = lines.next;
    lines.next += 1;
    let stream = Arc::new(stream);
    let (theirs, their_stream) = (Arc::clone(shared), Arc::clone(&stream));
    let spawned = thread::Builder::new()
        .name(format!("demo {} {number}", shared.name))
        .spawn(move || {
            // Every error ends the connection, and that is all that can be done about it.
            let _ = match theirs.speech {
                Speech::WebSocket => serve(&theirs, &their_stream),
                Speech::Api => serve_calls(&theirs, &their_stream).map_err(Error::Io),
            };
            lock(&theirs.lines).open.remove(&number);
        });
    if let Ok(thread) = spawned {
        lines.open.insert(number, Line { stream, thread });
    }
}

fn serve(shared: &Shared, stream: &TcpStream) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_PATIENCE))?;
    stream.set_read_timeout(Some(HANDSHAKE_PATIENCE))?;
    let Ok(mut socket) = tungstenite::accept(stream) else {
        return Ok(());
    };
    stream.set_read_timeout(None)?;
    loop {
        let message = socket.read()?;
        // A shut reading half still gives what had come before: the dead don't answer that.
        if shared.dead.load(Ordering::Acquire) {
            return Ok(());
        }
        let reply = match message {
            Message::Text(text) => Message::text(format!("{}: {text}", shared.name)),
            Message::Binary(_) => message,
            // tungstenite answers Pings and Closes with its next read, so a Pong never overtakes
            // the replies to the messages before its Ping.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => continue,
        };
        // Counted before the answer: who reads the answer finds its message counted.
        shared.messages.fetch_add(1, Ordering::Relaxed);
        answer(shared, &mut socket, reply)?;
    }
}

/// One call after the other. Nothing but the proxy dials here: what it never sends is not understood.
fn serve_calls(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut length, mut binary) = (String::new(), 0, false);
        if reader.by_ref().take(HEAD_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let post = line.starts_with("POST ");
        loop {
            let mut header = String::new();
            reader.by_ref().take(HEAD_MAX).read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(": ") else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().map_err(io::Error::other)?,
                "content-type" => binary = value == "application/octet-stream",
                _ => {}
            }
        }
        let mut body = Vec::new();
        reader.by_ref().take(length).read_to_end(&mut body)?;
        if shared.dead.load(Ordering::Acquire) {
            return Ok(());
        }
        let kind = if binary {
            "application/octet-stream"
        } else {
            "text/plain; charset=utf-8"
        };
        let body = match (post, binary) {
            (false, _) => b"ok".to_vec(),
            (true, false) => [shared.name.as_bytes(), b": ", &body].concat(),
            (true, true) => body,
        };
        shared
            .messages
            .fetch_add(u64::from(post), Ordering::Relaxed);
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut writer = stream;
        writer.write_all(&[head.as_bytes(), &body].concat())?;
    }
}

/// Writes a reply, however slow its reader is, unless the server is killed meanwhile.
fn answer(
    shared: &Shared,
    socket: &mut WebSocket<&TcpStream>,
    reply: Message,
) -> Result<(), Error> {
    let mut result = socket.send(reply);
    while let Err(Error::Io(error)) = &result {
        let slow = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        if !slow || shared.dead.load(Ordering::Acquire) {
            break;
        }
        // Nothing is lost by a write that timed out: tungstenite keeps the rest of it.
        result = socket.flush();
    }
    result
}

/// A socket bound there; several may be, as long as one alone listens.
fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// These locks guard maps and options that are whole at every moment, so a panic of another
/// thread is no reason to follow it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connections of one server. A demo has a handful; a runaway client shall not take all threads.
const LINES_MAX: usize = 256;

/// Dials that may wait for their accept.
const BACKLOG: i32 = 128;

/// How long a blocked write sleeps before it looks whether the server was killed.
const WRITE_PATIENCE: Duration = Duration::from_millis(200);

/// Bytes of a line in the head of a call.
const HEAD_MAX: u64 = 16 << 10;

/// Time for a request head. Nothing but the proxy ought to dial here, and it is quick.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    fn dial(server: &EchoServer) -> WebSocket<TcpStream> {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = format!("ws://{}/", server.address());
        tungstenite::client(url, stream).unwrap().0
    }

    fn ask(socket: &mut WebSocket<TcpStream>, text: &str) -> String {
        socket.send(Message::text(text)).unwrap();
        socket.read().unwrap().into_text().unwrap().to_string()
    }

    fn kind(error: Error) -> ErrorKind {
        match error {
            Error::Io(error) => error.kind(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn text_gets_the_name_and_binary_stays() {
        let server = EchoServer::start("alpha", Speech::WebSocket).unwrap();
        let mut socket = dial(&server);
        assert_eq!(ask(&mut socket, "hello"), "alpha: hello");
        socket.send(Message::binary(vec![0, 255, 7])).unwrap();
        assert_eq!(socket.read().unwrap(), Message::binary(vec![0, 255, 7]));
        socket.send(Message::Ping("8 bytes.".into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong("8 bytes.".into()));
        assert_eq!(server.connections(), 1);
        assert_eq!(server.messages(), 2);
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
        wait_until(|| server.connections() == 0);
    }

    #[test]
    fn an_api_says_ok_and_repeats_messages() {
        let server = EchoServer::start("alpha", Speech::Api).unwrap();
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let calls = [
            ("GET /c1 HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n\r\nok"),
            (
                "POST /c1 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
                "\r\n\r\nalpha: hello",
            ),
            (
                "DELETE /c1 HTTP/1.1\r\nContent-Length: 3\r\n\r\nbye",
                "\r\n\r\nok",
            ),
        ];
        for (call, end) in calls {
            stream.write_all(call.as_bytes()).unwrap();
            let mut answer = String::new();
            while !answer.ends_with(end) {
                let mut piece = [0; 512];
                let count = stream.read(&mut piece).unwrap();
                assert_ne!(count, 0, "{answer}");
                answer.push_str(std::str::from_utf8(&piece[..count]).unwrap());
            }
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
        assert_eq!(server.messages(), 1);
    }

    #[test]
    fn kill_resets_what_stands_and_refuses_what_comes() {
        let server = EchoServer::start("alpha", Speech::WebSocket).unwrap();
        let (mut first, mut second) = (dial(&server), dial(&server));
        assert_eq!(ask(&mut first, "1"), "alpha: 1");
        assert!(server.kill());
        assert!(!server.kill(), "the dead don't die");
        assert!(!server.is_alive());
        assert_eq!(server.connections(), 0);
        for socket in [&mut first, &mut second] {
            assert_eq!(
                kind(socket.read().unwrap_err()),
                ErrorKind::ConnectionReset,
                "not a FIN"
            );
        }
        let refused = TcpStream::connect(server.address()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn it_comes_back_on_its_port_and_keeps_its_count() {
        let server = EchoServer::start("beta", Speech::WebSocket).unwrap();
        let address = server.address();
        for life in 1..=3 {
            assert_eq!(ask(&mut dial(&server), "x"), "beta: x");
            assert_eq!(server.messages(), life);
            assert!(server.kill());
            assert!(server.revive().unwrap());
            assert!(!server.revive().unwrap(), "it lives already");
            assert_eq!(server.address(), address);
        }
    }

    #[test]
    fn it_can_be_killed_in_the_middle_of_everything() {
        let server = EchoServer::start("alpha", Speech::WebSocket).unwrap();
        // A handshake that never ends.
        let mut half = TcpStream::connect(server.address()).unwrap();
        half.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        // A client that sends and never reads, until the server is stuck in a write.
        let mut deaf = dial(&server);
        deaf.get_ref()
            .set_write_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        let big = Message::binary(vec![1; 1 << 20]);
        let stuck = (0..200).any(|_| deaf.send(big.clone()).is_err());
        assert!(stuck, "the kernel can't take 200 MB");
        assert_eq!(server.connections(), 2);
        let begun = std::time::Instant::now();
        assert!(server.kill());
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        half.set_read_timeout(Some(PATIENCE)).unwrap();
        let error = half.read(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    fn wait_until(mut done: impl FnMut() -> bool) {
        let begun = std::time::Instant::now();
        while !done() {
            assert!(begun.elapsed() < PATIENCE, "it never happened");
            thread::sleep(Duration::from_millis(5));
        }
    }

    const PATIENCE: Duration = Duration::from_secs(5);
}
