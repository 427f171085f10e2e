//! An HTTP API that records what it is asked and answers as its script says.
//!
//! One thread per connection, in plain std: it reads requests the strict way, so that a request
//! that is not quite right is a fault of the test, and not something that a lenient library hid.

use super::raw::Head;
use super::tls::{self, Pipe};
use super::{SOON, free_port, until};
use rustls::ServerConfig;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub target: String,
    pub head: Head,
    pub body: Vec<u8>,
    /// When all of it was there.
    pub at: Instant,
    /// When its answer began to leave; never, where there was none.
    pub answered: Option<Instant>,
    /// Of the connection it came on; counted from 0 for each API.
    pub connection: usize,
}

impl Call {
    /// The last segment of the path: the ClientId.
    pub fn id(&self) -> &str {
        let path = self.target.split('?').next().unwrap_or("");
        path.rsplit('/').next().unwrap_or("")
    }

    pub fn header(&self, name: &str) -> &str {
        self.head.header(name).unwrap_or("")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn is(&self, method: &str) -> bool {
        self.method == method
    }

    /// The session, and the message's number in it: both are in the key, `"<session>-<n>"`.
    pub fn key(&self) -> (String, u64) {
        let key = self.header("idempotency-key");
        let bare = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
        let parts = bare.and_then(|key| key.rsplit_once('-'));
        let (session, number) = parts.unwrap_or_else(|| panic!("Idempotency-Key: {key}"));
        (session.to_owned(), number.parse().expect("a number"))
    }
}

/// What the API does about a call.
pub struct Reply {
    manner: Manner,
    delay: Duration,
    /// The connection ends behind the answer.
    closing: bool,
    then: Option<Box<dyn FnOnce() + Send>>,
}

enum Manner {
    Answer {
        status: u16,
        headers: String,
        body: Vec<u8>,
    },
    /// Exactly these bytes.
    Bytes(Vec<u8>),
    /// These bytes, one each such time.
    Trickle(Vec<u8>, Duration),
    Cut,
    Reset,
    Hang,
}

impl Reply {
    fn new(manner: Manner) -> Reply {
        Reply {
            manner,
            delay: Duration::ZERO,
            closing: false,
            then: None,
        }
    }

    pub fn answer(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Reply {
        Reply::new(Manner::Answer {
            status,
            headers: headers.to_owned(),
            body: body.as_ref().to_vec(),
        })
    }

    /// 200 and a text.
    pub fn text(body: impl AsRef<[u8]>) -> Reply {
        Reply::answer(200, "Content-Type: text/plain; charset=utf-8\r\n", body)
    }

    pub fn binary(body: impl AsRef<[u8]>) -> Reply {
        Reply::answer(200, "Content-Type: application/octet-stream\r\n", body)
    }

    /// What a GET and a DELETE want to hear.
    pub fn ok() -> Reply {
        Reply::text("ok")
    }

    /// 200 and nothing to say.
    pub fn empty() -> Reply {
        Reply::answer(200, "", "")
    }

    /// A failure, with an error page that no client may ever see.
    pub fn status(status: u16) -> Reply {
        Reply::answer(status, "Content-Type: text/html\r\n", ERROR_PAGE)
    }

    pub fn bytes(bytes: impl AsRef<[u8]>) -> Reply {
        Reply::new(Manner::Bytes(bytes.as_ref().to_vec()))
    }

    pub fn trickle(bytes: impl AsRef<[u8]>, every: Duration) -> Reply {
        Reply::new(Manner::Trickle(bytes.as_ref().to_vec(), every))
    }

    /// The connection ends without an answer, by FIN.
    pub fn cut() -> Reply {
        Reply::new(Manner::Cut)
    }

    /// The same by RST.
    pub fn reset() -> Reply {
        Reply::new(Manner::Reset)
    }

    /// Never an answer; the connection stays.
    pub fn hang() -> Reply {
        Reply::new(Manner::Hang)
    }

    pub fn after(mut self, delay: Duration) -> Reply {
        self.delay = delay;
        self
    }

    pub fn closing(mut self) -> Reply {
        self.closing = true;
        self
    }

    /// Done right behind the answer.
    pub fn then(mut self, action: impl FnOnce() + Send + 'static) -> Reply {
        self.then = Some(Box::new(action));
        self
    }
}

/// What stands in every failed answer.
pub const ERROR_PAGE: &str = "<html>internal secrets of the API</html>";

type Script = dyn Fn(&Call) -> Reply + Send + Sync;

pub struct Api {
    pub address: SocketAddr,
    seal: Option<Arc<ServerConfig>>,
    script: Arc<Script>,
    book: Arc<Mutex<Book>>,
    running: Option<Running>,
}

/// What was seen, over all lives of the API.
#[derive(Default)]
struct Book {
    /// In order of arrival.
    calls: Vec<Call>,
    faults: Vec<String>,
    connections: usize,
    open: usize,
    open_most: usize,
}

struct Running {
    alive: Arc<AtomicBool>,
    acceptor: JoinHandle<()>,
    streams: Arc<Mutex<Vec<Weak<TcpStream>>>>,
}

impl Api {
    /// An API whose every answer is the script's.
    pub fn start(script: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Api {
        Api::start_sealed(tls::on().then(tls::our_server), script)
    }

    /// With TLS or without it, whatever the run.
    pub fn start_sealed(
        seal: Option<Arc<ServerConfig>>,
        script: impl Fn(&Call) -> Reply + Send + Sync + 'static,
    ) -> Api {
        let mut api = Api {
            // Its own for good: nobody else may get it while the API is down.
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())),
            seal,
            script: Arc::new(script),
            book: Arc::default(),
            running: None,
        };
        api.revive();
        api
    }

    /// An API that lets everybody in and out; the script answers messages.
    pub fn welcome(script: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Api {
        Api::start(move |call| match call.method.as_str() {
            "POST" => script(call),
            _ => Reply::ok(),
        })
    }

    /// One that answers each message by itself.
    pub fn echo() -> Api {
        Api::welcome(echo)
    }

    pub fn url(&self) -> String {
        let scheme = if self.seal.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/", self.address)
    }

    /// As if its process had died: nothing more is answered, every connection ends.
    pub fn kill(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        running.alive.store(false, Ordering::SeqCst);
        // Wakes the acceptor, so that the port is free when this returns.
        let _ = TcpStream::connect(self.address);
        running.acceptor.join().expect("the acceptor");
        for stream in running.streams.lock().unwrap().iter() {
            if let Some(stream) = stream.upgrade() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Starts it again on its port, with the same script and the same book.
    pub fn revive(&mut self) {
        assert!(self.running.is_none());
        // Another test's child has what was open when it was forked, the probe of this port too, until
        // it becomes another program.
        let limit = Duration::from_secs(5);
        let listener = until(limit, "its own port", || {
            TcpListener::bind(self.address).ok()
        });
        let alive = Arc::new(AtomicBool::new(true));
        let streams = Arc::default();
        let line = Line {
            seal: self.seal.clone(),
            script: Arc::clone(&self.script),
            book: Arc::clone(&self.book),
            alive: Arc::clone(&alive),
            streams: Arc::clone(&streams),
        };
        self.running = Some(Running {
            alive,
            acceptor: std::thread::spawn(move || line.accept(&listener)),
            streams,
        });
    }

    /// All calls in order of arrival. Panics if one of them was malformed.
    pub fn calls(&self) -> Vec<Call> {
        let book = self.book.lock().unwrap();
        assert!(book.faults.is_empty(), "{:?}", book.faults);
        book.calls.clone()
    }

    pub fn calls_by(&self, method: &str) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.is(method));
        calls
    }

    /// How often it was called by that method.
    pub fn count(&self, method: &str) -> usize {
        let book = self.book.lock().unwrap();
        book.calls.iter().filter(|call| call.is(method)).count()
    }

    /// Waits for so many calls by that method, and gives them.
    pub fn wait(&self, method: &str, count: usize) -> Vec<Call> {
        let what = format!("{count} x {method}");
        until(SOON, &what, || {
            (self.count(method) >= count).then(|| self.calls_by(method))
        })
    }

    /// Connections that stood at the same time, at most.
    pub fn open_most(&self) -> usize {
        self.book.lock().unwrap().open_most
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A message comes back as what it was.
pub fn echo(call: &Call) -> Reply {
    if call.header("content-type") == "application/octet-stream" {
        Reply::binary(&call.body)
    } else {
        Reply::text(&call.body)
    }
}

/// What a thread of the API needs.
#[derive(Clone)]
struct Line {
    seal: Option<Arc<ServerConfig>>,
    script: Arc<Script>,
    book: Arc<Mutex<Book>>,
    alive: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<Weak<TcpStream>>>>,
}

impl Line {
    fn accept(&self, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            if !self.is_alive() {
                return;
            }
            stream.set_nodelay(true).unwrap();
            let stream = Arc::new(stream);
            self.streams.lock().unwrap().push(Arc::downgrade(&stream));
            let number = {
                let mut book = self.book.lock().unwrap();
                book.connections += 1;
                book.open += 1;
                book.open_most = book.open_most.max(book.open);
                book.connections - 1
            };
            let line = self.clone();
            std::thread::spawn(move || {
                line.serve(Pipe::accept(stream, line.seal.as_ref()), number);
                line.book.lock().unwrap().open -= 1;
            });
        }
    }

    fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    fn serve(&self, stream: Pipe, connection: usize) {
        let mut reader = Reader {
            stream,
            pending: Vec::new(),
        };
        loop {
            let call = match reader.call(connection) {
                Ok(Some(call)) => call,
                Ok(None) => return,
                Err(fault) => return self.book.lock().unwrap().faults.push(fault),
            };
            let place = {
                let mut book = self.book.lock().unwrap();
                book.calls.push(call.clone());
                book.calls.len() - 1
            };
            let reply = (self.script)(&call);
            std::thread::sleep(reply.delay);
            if !self.is_alive() || !self.play(reply, &mut reader, place) {
                return;
            }
        }
    }

    /// False: the connection is over.
    fn play(&self, reply: Reply, reader: &mut Reader, place: usize) -> bool {
        let stream = &mut reader.stream;
        let sent = match reply.manner {
            Manner::Cut => return false,
            Manner::Reset => {
                let linger = Some(Duration::ZERO);
                let _ = socket2::SockRef::from(stream.tcp()).set_linger(linger);
                stream.break_off();
                return false;
            }
            Manner::Hang => {
                while reader.more() {}
                return false;
            }
            Manner::Answer {
                status,
                headers,
                body,
            } => {
                self.answered(place);
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status} S\r\n{headers}Content-Length: {length}\r\n\r\n");
                stream.write_all(&[head.as_bytes(), &body].concat())
            }
            Manner::Bytes(bytes) => {
                self.answered(place);
                stream.write_all(&bytes)
            }
            Manner::Trickle(bytes, every) => bytes.iter().try_for_each(|byte| {
                std::thread::sleep(every);
                stream.write_all(&[*byte])
            }),
        };
        if let Some(action) = reply.then {
            action();
        }
        sent.is_ok() && !reply.closing
    }

    /// Before the first byte leaves: what the caller does about it comes later for sure.
    fn answered(&self, place: usize) {
        self.book.lock().unwrap().calls[place].answered = Some(Instant::now());
    }
}

struct Reader {
    stream: Pipe,
    pending: Vec<u8>,
}

impl Reader {
    /// The next request; `None` at the end. A request that is cut off is none.
    fn call(&mut self, connection: usize) -> Result<Option<Call>, String> {
        let end = loop {
            let found = self.pending.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(at) = found {
                break at + 4;
            }
            if !self.more() {
                return Ok(None);
            }
        };
        let text = String::from_utf8_lossy(&self.pending[..end]).into_owned();
        let (method, target, head) =
            read_head(&text).ok_or_else(|| format!("malformed: {text:?}"))?;
        let lengths = head.all("content-length");
        let length: usize = match lengths.as_slice() {
            [] if method != "POST" => 0,
            [length] => length
                .parse()
                .map_err(|_| format!("its length: {text:?}"))?,
            _ => return Err(format!("{} lengths: {text:?}", lengths.len())),
        };
        // wsteady has the whole message before it calls, so there is nothing to cut into chunks.
        if head.header("transfer-encoding").is_some() || head.all("host").len() != 1 {
            return Err(format!("encoded, or not one Host: {text:?}"));
        }
        while self.pending.len() < end + length {
            if !self.more() {
                return Ok(None);
            }
        }
        let body = self.pending[end..end + length].to_vec();
        self.pending.drain(..end + length);
        Ok(Some(Call {
            method,
            target,
            head,
            body,
            at: Instant::now(),
            answered: None,
            connection,
        }))
    }

    /// False at the end of the stream.
    fn more(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        loop {
            return match self.stream.read(&mut buffer) {
                Ok(0) => false,
                Ok(count) => {
                    self.pending.extend_from_slice(&buffer[..count]);
                    true
                }
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                Err(_) => false,
            };
        }
    }
}

/// Method, target and headers; `None` where RFC 9112 would not have it.
fn read_head(text: &str) -> Option<(String, String, Head)> {
    let mut lines = text.strip_suffix("\r\n\r\n")?.split("\r\n");
    let first = lines.next()?.to_owned();
    let words: Vec<&str> = first.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else {
        return None;
    };
    let split = |line: &str| {
        let (name, value) = line.split_once(':')?;
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let clean = !value.bytes().any(|byte| byte.is_ascii_control());
        (!name.is_empty() && name.bytes().all(legal) && clean)
            .then(|| (name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers = lines.map(split).collect::<Option<Vec<_>>>()?;
    let (method, target) = (method.to_owned(), target.to_owned());
    let legal = method.bytes().all(|byte| byte.is_ascii_uppercase());
    (legal && target.starts_with('/')).then_some((method, target, Head { first, headers }))
}

/// What holds in every test, over all APIs of a pool together.
///
/// - Every call tells the session and the client's address.
/// - Calls of one ClientId never overlap: one is answered before the next one comes.
/// - A session's messages come in order, none is left out, none comes after the DELETE; a repeat
///   is the same message under the same key.
/// - A DELETE that succeeded is the last one.
pub fn check_calls(apis: &[&Api]) {
    let mut calls: Vec<Call> = apis.iter().flat_map(|api| api.calls()).collect();
    calls.sort_by_key(|call| call.at);
    let mut last_of: HashMap<&str, &Call> = HashMap::new();
    let mut sessions: HashMap<&str, Vec<&Call>> = HashMap::new();
    for call in &calls {
        let session = call.header("x-wsteady-session");
        assert_eq!(session.len(), 32, "{call:?}");
        assert!(!call.header("x-forwarded-for").is_empty(), "{call:?}");
        if let Some(answered) = last_of
            .insert(call.id(), call)
            .and_then(|last| last.answered)
        {
            assert!(
                answered <= call.at,
                "called while another call was under way: {call:?}"
            );
        }
        sessions.entry(session).or_default().push(call);
    }
    sessions.values().for_each(|calls| check_session(calls));
}

fn check_session(calls: &[&Call]) {
    let mut due = 0;
    let mut last: Option<&Call> = None;
    for call in calls {
        if let Some(last) = last {
            assert!(!call.is("GET") || last.is("GET"), "{call:?} after {last:?}");
            assert!(
                !last.is("DELETE") || call.is("DELETE"),
                "{call:?} after {last:?}"
            );
        }
        if call.is("POST") {
            let (session, number) = call.key();
            assert_eq!(session, call.header("x-wsteady-session"));
            match last.filter(|last| last.is("POST") && last.key().1 == number) {
                Some(last) => assert!(is_same(last, call), "{call:?} is no repeat of {last:?}"),
                None => {
                    assert_eq!(number, due, "{call:?}");
                    due += 1;
                }
            }
        }
        last = Some(call);
    }
}

fn is_same(one: &Call, other: &Call) -> bool {
    let kind = |call: &Call| call.header("content-type").to_owned();
    one.body == other.body && one.target == other.target && kind(one) == kind(other)
}

#[test]
fn a_request_is_read_the_strict_way() {
    for (text, good) in [
        ("GET /a HTTP/1.1\r\nHost: x\r\n\r\n", true),
        ("GET /a?x=1 HTTP/1.1\r\nHost:x\r\nX-Y: \r\n\r\n", true),
        ("GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", false),
        ("GET /a HTTP/1.0\r\nHost: x\r\n\r\n", false),
        ("get /a HTTP/1.1\r\nHost: x\r\n\r\n", false),
        ("GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n", false),
        ("GET /a HTTP/1.1\r\nHost : x\r\n\r\n", false),
        ("GET /a HTTP/1.1\r\nHost: x\ny: z\r\n\r\n", false),
        ("GET /a HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", false),
    ] {
        assert_eq!(read_head(text).is_some(), good, "{text:?}");
    }
}

#[test]
fn the_api_records_answers_dies_and_lives_again() {
    let mut api = Api::echo();
    let call = |text: &str, reads: bool| {
        let mut stream = TcpStream::connect(api.address).ok()?;
        let length = text.len();
        let head = format!("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all((head + text).as_bytes()).ok()?;
        let mut buffer = [0; 500];
        let count = if reads {
            stream.read(&mut buffer).ok()?
        } else {
            0
        };
        Some(String::from_utf8_lossy(&buffer[..count]).into_owned())
    };
    assert!(call("one", true).unwrap().ends_with("\r\n\r\none"));
    assert_eq!(api.calls_by("POST")[0].text(), "one");
    let address = api.address;
    api.kill();
    assert!(TcpStream::connect(address).is_err());
    api.revive();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"DELETE /a HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let calls = api.wait("DELETE", 1);
    assert_eq!((calls[0].id(), calls[0].connection), ("a", 1));
    assert_eq!(api.calls().len(), 2);
}
