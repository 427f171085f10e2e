//! HTTP pools and health checks, as bytes. Numbers H and V are those of the threat model: H for
//! cases, V for classes of attack. Sources: RFC 9110, RFC 9112.

use crate::support::free_port;
use crate::support::proxy::{Proxy, binary};
use crate::support::raw::{End, Head, Raw, handshake};
use crate::support::rng::Rng;
use crate::support::{http, until, until_true};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);

/// A message, read to the letter: what a lenient reader would repair is an error here.
#[derive(Clone, Debug)]
struct Message {
    head: Head,
    body: Vec<u8>,
    chunked: bool,
    trailers: String,
}

#[derive(Clone, Copy)]
enum Side {
    Request,
    /// To HEAD, if so.
    Answer {
        bodiless: bool,
    },
}

enum Parsed {
    More,
    Bad(String),
    /// A message of so many bytes.
    Whole(Box<Message>, usize),
    /// An answer that lasts until its connection ends.
    Endless(Box<Message>),
}

fn parse(bytes: &[u8], side: Side) -> Parsed {
    let bad = |why: &str| Parsed::Bad(format!("{why}: {}", bytes.escape_ascii()));
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Parsed::More;
    };
    let end = end + 4;
    let Ok(text) = std::str::from_utf8(&bytes[..end]) else {
        return bad("not UTF-8");
    };
    let mut lines = text[..end - 4].split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let words: Vec<&str> = first.splitn(3, ' ').collect();
    let version = match side {
        Side::Request => words.last(),
        Side::Answer { .. } => words.first(),
    };
    if words.len() < 3 || !version.is_some_and(|one| ["HTTP/1.1", "HTTP/1.0"].contains(one)) {
        return bad("first line");
    }
    let mut head = Head {
        first,
        headers: Vec::new(),
    };
    for line in lines {
        let token = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|one| one.is_ascii_graphic() && one != b':')
        };
        match line.split_once(':') {
            Some((name, value)) if token(name) && !value.contains(['\r', '\n', '\0']) => {
                let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
                head.headers.push((name, value));
            }
            _ => return bad("header line"),
        }
    }
    if matches!(side, Side::Request) && head.all("host").len() != 1 {
        return bad("one Host");
    }
    let (codings, lengths) = (head.all("transfer-encoding"), head.all("content-length"));
    let (coding, length) = (codings.first().copied(), lengths.first().copied());
    if codings.len() + lengths.len() > 1 || coding.is_some_and(|coding| coding != "chunked") {
        return bad("framing");
    }
    let empty = match side {
        Side::Request => coding.is_none() && length.is_none(),
        Side::Answer { bodiless } => bodiless || matches!(head.status(), 100..=199 | 204 | 304),
    };
    let mut message = Message {
        chunked: coding.is_some(),
        body: Vec::new(),
        trailers: String::new(),
        head: head.clone(),
    };
    if empty {
        return Parsed::Whole(Box::new(message), end);
    }
    if let Some(length) = length {
        let Ok(length) = length.parse::<usize>() else {
            return bad("length");
        };
        if bytes.len() < end + length {
            return Parsed::More;
        }
        message.body = bytes[end..end + length].to_vec();
        return Parsed::Whole(Box::new(message), end + length);
    }
    if coding.is_none() {
        message.body = bytes[end..].to_vec();
        return Parsed::Endless(Box::new(message));
    }
    let mut at = end;
    loop {
        let Some(line) = bytes[at..].windows(2).position(|two| two == b"\r\n") else {
            return Parsed::More;
        };
        let size = std::str::from_utf8(&bytes[at..at + line]).unwrap_or("?");
        let Ok(size) = usize::from_str_radix(size, 16) else {
            return bad("chunk size");
        };
        at += line + 2;
        if size == 0 {
            break;
        }
        let Some(data) = bytes.get(at..at + size + 2) else {
            return Parsed::More;
        };
        if !data.ends_with(b"\r\n") {
            return bad("chunk end");
        }
        message.body.extend_from_slice(&data[..size]);
        at += size + 2;
    }
    // What stands behind the last chunk, up to the empty line.
    if bytes[at..].starts_with(b"\r\n") {
        return Parsed::Whole(Box::new(message), at + 2);
    }
    match bytes[at..].windows(4).position(|four| four == b"\r\n\r\n") {
        Some(trailers) => {
            message.trailers = String::from_utf8_lossy(&bytes[at..at + trailers]).into_owned();
            Parsed::Whole(Box::new(message), at + trailers + 4)
        }
        None => Parsed::More,
    }
}

/// Why there was no message.
#[derive(Debug)]
enum Lack {
    /// The connection ended, or nothing came, before its first byte.
    Nothing(Option<End>),
    /// It is not whole.
    Cut(Option<End>, Vec<u8>),
    Bad(String),
}

fn read(raw: &mut Raw, side: Side, limit: Duration) -> Result<Message, Lack> {
    let found = raw.wait(limit, |bytes| match parse(bytes, side) {
        Parsed::More | Parsed::Endless(_) => None,
        other => Some(other),
    });
    match found {
        Some(Parsed::Whole(message, length)) => {
            raw.pending.drain(..length);
            Ok(*message)
        }
        Some(Parsed::Bad(why)) => Err(Lack::Bad(why)),
        _ if raw.pending.is_empty() => Err(Lack::Nothing(raw.ended())),
        _ => match parse(&raw.pending, side) {
            Parsed::Endless(message) if raw.ended() == Some(End::Fin) => {
                raw.pending.clear();
                Ok(*message)
            }
            _ => Err(Lack::Cut(raw.ended(), raw.pending.clone())),
        },
    }
}

const ANSWER: Side = Side::Answer { bodiless: false };
const HEAD_ANSWER: Side = Side::Answer { bodiless: true };

fn answer(raw: &mut Raw) -> Message {
    read(raw, ANSWER, WAIT).unwrap_or_else(|lack| panic!("no answer: {lack:?}"))
}

/// The answer to one request on a connection of its own.
fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Message {
    let mut client = Raw::connect(address);
    client.send(request.as_ref());
    answer(&mut client)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: web.test\r\n\r\n")
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: web.test\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// A server that remembers what reached it.
struct Web {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    /// With the number of its connection, from 1.
    requests: Vec<(usize, Message)>,
    /// What no client of a sane proxy can have sent.
    bad: Vec<String>,
    /// Requests that ended before they were whole.
    cut: usize,
}

impl Web {
    /// Plays `script` on each connection in a thread of its own.
    fn raw(script: impl Fn(&mut Raw, &Mutex<Seen>, usize) + Send + Sync + 'static) -> Web {
        Web::over(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    fn over(
        listener: TcpListener,
        script: impl Fn(&mut Raw, &Mutex<Seen>, usize) + Send + Sync + 'static,
    ) -> Web {
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (all, script) = (Arc::clone(&seen), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, script) = (Arc::clone(&all), Arc::clone(&script));
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.connections += 1;
                    seen.connections
                };
                std::thread::spawn(move || script(&mut Raw::over(stream), &seen, number));
            }
        });
        Web { address, seen }
    }

    /// Lets `script` answer whole requests; false ends the connection.
    fn start(script: impl Fn(&mut Raw, &Message) -> bool + Send + Sync + 'static) -> Web {
        Web::raw(move |raw, seen, number| serve(raw, seen, number, &script))
    }

    /// Says what it was asked for, and the body.
    fn echo() -> Web {
        Web::start(|raw, request| raw.send(&echoed(request)))
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    fn requests(&self) -> Vec<Message> {
        let seen = self.seen.lock().unwrap();
        seen.requests.iter().map(|(_, one)| one.clone()).collect()
    }

    /// The connections on which its requests came.
    fn carriers(&self) -> Vec<usize> {
        let seen = self.seen.lock().unwrap();
        seen.requests.iter().map(|(number, _)| *number).collect()
    }

    fn must_be_clean(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(seen.bad.is_empty(), "{:?}", seen.bad);
    }
}

fn serve(
    raw: &mut Raw,
    seen: &Mutex<Seen>,
    number: usize,
    script: &impl Fn(&mut Raw, &Message) -> bool,
) {
    loop {
        match read(raw, Side::Request, Duration::from_secs(120)) {
            Ok(request) => {
                seen.lock()
                    .unwrap()
                    .requests
                    .push((number, request.clone()));
                if !script(raw, &request) {
                    return;
                }
            }
            Err(Lack::Nothing(_)) => return,
            Err(Lack::Cut(..)) => {
                seen.lock().unwrap().cut += 1;
                return;
            }
            Err(Lack::Bad(why)) => return seen.lock().unwrap().bad.push(why),
        }
    }
}

fn echoed(request: &Message) -> Vec<u8> {
    let body = [request.head.first.as_bytes(), b"\n", &request.body].concat();
    let method = request.head.first.split(' ').next().unwrap();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let body = if method == "HEAD" { &b""[..] } else { &body };
    [head.as_bytes(), body].concat()
}

fn ok(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// A proxy with one HTTP pool; `pool` holds keys of it, `rest` is merged over all.
fn proxy_with(webs: &[&Web], pool: Value, rest: Value) -> Proxy {
    let urls: Vec<String> = webs.iter().map(|web| web.url()).collect();
    proxy_of("http", &urls, pool, rest)
}

fn proxy_of(kind: &str, urls: &[String], pool: Value, mut rest: Value) -> Proxy {
    let mut main = json!({ "kind": kind });
    if kind == "http" {
        // Nothing stays, so that the end of a test sees what was forgotten. Failures are many here.
        main["connections"] = json!({ "min": 0, "idle": "1s" });
        main["breaker"] = json!({ "threshold": 100_000 });
        main["timeouts"] = json!({ "response": "3s" });
    }
    for (key, value) in pool.as_object().expect("a map") {
        main[key] = value.clone();
    }
    rest["pools"] = json!({ "main": main });
    Proxy::start(urls, rest)
}

fn proxy(webs: &[&Web]) -> Proxy {
    proxy_with(webs, json!({}), json!({}))
}

/// Bytes as compression makes them: nothing in them is text, and all of them occur.
fn noise(length: usize) -> Vec<u8> {
    let mut rng = Rng::new(length as u64 + 7);
    let mut bytes = vec![0x1F, 0x8B, 8, 0];
    while bytes.len() < length {
        bytes.extend_from_slice(&rng.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in body.chunks(size.max(1)) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

#[test]
fn requests_reach_the_server_with_all_that_is_theirs() {
    let web = Web::echo();
    let proxy = Proxy::start(
        &[format!("{}/base", web.url())],
        json!({ "pools": { "main": { "kind": "http", "connections": { "min": 0, "idle": "1s" },
            "block_headers": ["X-Blocked"] } } }),
    );
    let target = "/a/b%2Fc;d=1?x=1&y=%2f&z=a+b??/'()";
    for method in [
        "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "FOO",
    ] {
        let mut client = Raw::connect(proxy.address);
        client.send(
            format!(
                "{method} {target} HTTP/1.1\r\nHost: Web.test:8080\r\nAccept: a\r\nX-Two: 1\r\n\
                 Cookie: a=b; c=\"d\"\r\nX-Two: 2\r\nAuthorization: Basic eA==\r\nX-Empty:\r\n\
                 Accept-Encoding: gzip\r\nUser-Agent: t\r\nX-Mine: nominated\r\nX-Blocked: 1\r\n\
                 Connection: X-Mine, X-Real-IP, X-Forwarded-For\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
                 Proxy-Connection: keep-alive\r\nProxy-Authorization: x\r\nUpgrade: h2c\r\n\
                 HTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                 X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
                 Forwarded: for=10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\nX-Wsteady-Session: 1\r\n\
                 X-Balancer-Reconnect: 1\r\nx_forwarded_for: 9.9.9.9\r\n\r\n"
            )
            .as_bytes(),
        );
        let side = if method == "HEAD" {
            HEAD_ANSWER
        } else {
            ANSWER
        };
        let got = read(&mut client, side, WAIT).unwrap();
        assert_eq!(got.head.status(), 200, "{method}");
        let first = format!("{method} /base{target} HTTP/1.1");
        let length = first.len() + 1;
        assert_eq!(
            got.head.header("content-length"),
            Some(&*length.to_string()),
            "{method}"
        );
        let seen = web.requests().pop().unwrap();
        assert_eq!(seen.head.first, first);
        let mut headers = seen.head.headers.clone();
        // Said of a body that is empty, by those that usually have one.
        headers.retain(|(name, value)| (name.as_str(), value.as_str()) != ("content-length", "0"));
        let wanted = [
            ("host", "Web.test:8080"),
            ("accept", "a"),
            ("x-two", "1"),
            ("cookie", "a=b; c=\"d\""),
            ("x-two", "2"),
            ("authorization", "Basic eA=="),
            ("x-empty", ""),
            ("accept-encoding", "gzip"),
            ("user-agent", "t"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "Web.test:8080"),
        ];
        let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(headers, wanted, "{method}");
    }
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn h15_what_trusted_proxies_say_is_kept_and_appended_to() {
    let web = Web::echo();
    let proxy = proxy_with(
        &[&web],
        json!({}),
        json!({ "trusted_proxies": ["127.0.0.0/8"] }),
    );
    ask(
        proxy.address,
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nForwarded: for=x\r\nX-Real-IP: 1.2.3.4\r\n\r\n",
    );
    let head = web.requests().pop().unwrap().head;
    let rows = [
        ("x-forwarded-for", "10.0.0.1, 10.0.0.2, 127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "b"),
        ("forwarded", "for=x"),
        ("x-real-ip", "1.2.3.4"),
        ("host", "a"),
    ];
    for (name, value) in rows {
        assert_eq!(head.all(name), [value], "{name}");
    }
    proxy.finish();
}

#[test]
fn answers_reach_the_client_with_all_that_is_theirs() {
    let web = Web::start(|raw, _| {
        raw.send(
            b"HTTP/1.1 207 My Own\r\nSet-Cookie: a=1\r\nServer: s\r\nSet-Cookie: b=2\r\nX-Hop: 1\r\n\
              Connection: X-Hop, keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\n\
              Trailer: X-T\r\nUpgrade: h2c\r\nContent-Encoding: gzip\r\nETag: \"\xC3\xA4\"\r\n\
              Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 3\r\nX-Empty: \r\n\r\nabc",
        )
    });
    let proxy = proxy(&[&web]);
    let got = ask(proxy.address, get("/"));
    assert_eq!((got.head.status(), got.body.as_slice()), (207, &b"abc"[..]));
    let wanted = [
        ("set-cookie", "a=1"),
        ("server", "s"),
        ("set-cookie", "b=2"),
        ("content-encoding", "gzip"),
        ("etag", "\"\u{e4}\""),
        ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("x-empty", ""),
        ("content-length", "3"),
    ];
    assert_eq!(
        got.head.headers,
        wanted.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    proxy.finish();
}

#[test]
fn bodies_pass_both_ways_byte_for_byte() {
    // The answer's framing is asked for in the path; its body is the request's.
    let web = Web::start(|raw, request| {
        let body = &request.body;
        let say = |head: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").into_bytes();
        let (bytes, stay) = match request.head.first.split(' ').nth(1) {
            Some("/length") => {
                let head = say(&format!("Content-Length: {}", body.len()));
                ([head, body.clone()].concat(), true)
            }
            Some("/chunks") => {
                let head = say("Transfer-Encoding: chunked");
                ([head, chunked(body, 1 + body.len() / 7)].concat(), true)
            }
            _ => ([say("X-A: endless"), body.clone()].concat(), false),
        };
        raw.send(&bytes) && stay
    });
    let proxy = proxy(&[&web]);
    for length in [0, 1, 2, 4_095, 65_536, 70_001, 3_000_000] {
        let body = noise(length);
        for path in ["/length", "/chunks", "/endless"] {
            for (in_chunks, modern) in [(false, true), (true, true), (false, false)] {
                let version = if modern { "HTTP/1.1" } else { "HTTP/1.0" };
                let framing = if in_chunks {
                    "Transfer-Encoding: chunked".to_owned()
                } else {
                    format!("Content-Length: {length}")
                };
                let head = format!("PUT {path} {version}\r\nHost: h\r\n{framing}\r\n\r\n");
                let sent = if in_chunks {
                    chunked(&body, 1 + length / 5)
                } else {
                    body.clone()
                };
                let mut client = Raw::connect(proxy.address);
                let mut stream = client.stream.try_clone().unwrap();
                let bytes = [head.into_bytes(), sent].concat();
                // Both ways at once: the answer may begin before the request has ended.
                let writer = std::thread::spawn(move || {
                    let _ = std::io::Write::write_all(&mut stream, &bytes);
                });
                let name = format!("{length} {path} in chunks: {in_chunks}, {version}");
                let got =
                    read(&mut client, ANSWER, WAIT).unwrap_or_else(|why| panic!("{name}: {why:?}"));
                assert!(got.body == body, "{name}");
                assert!(modern || !got.chunked, "{name}");
                writer.join().unwrap();
                let seen = web.requests().pop().unwrap();
                assert!(seen.body == body, "{name}");
            }
        }
    }
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn answers_without_a_body_have_none() {
    // Path, status line and headers; what must be left of Content-Length.
    let rows = [
        ("/204", "204 No Content\r\n", None),
        (
            "/304",
            "304 Not Modified\r\nContent-Length: 77\r\nETag: \"e\"\r\n",
            Some("77"),
        ),
        ("/304b", "304 Not Modified\r\n", None),
        ("/head", "200 OK\r\nContent-Length: 1234\r\n", Some("1234")),
        (
            "/headchunked",
            "200 OK\r\nTransfer-Encoding: chunked\r\n",
            None,
        ),
        ("/headnone", "200 OK\r\n", None),
        ("/empty", "200 OK\r\nContent-Length: 0\r\n", Some("0")),
    ];
    let web = Web::start(move |raw, request| {
        let path = request.head.first.split(' ').nth(1).unwrap();
        match rows.iter().find(|(one, ..)| *one == path) {
            Some((_, head, _)) => raw.send(format!("HTTP/1.1 {head}\r\n").as_bytes()),
            None => raw.send(&ok(path)),
        }
    });
    let proxy = proxy(&[&web]);
    for (path, head, length) in rows {
        let mut client = Raw::connect(proxy.address);
        let method = if path.starts_with("/head") {
            "HEAD"
        } else {
            "GET"
        };
        // The next request's answer shows where this one's has ended.
        client.send(
            format!(
                "{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n{}",
                get("/next")
            )
            .as_bytes(),
        );
        let side = if method == "HEAD" {
            HEAD_ANSWER
        } else {
            ANSWER
        };
        let got = read(&mut client, side, WAIT).unwrap_or_else(|why| panic!("{path}: {why:?}"));
        assert_eq!(got.head.status().to_string(), head[..3], "{path}");
        assert_eq!(got.head.header("content-length"), length, "{path}");
        assert_eq!(got.body, b"", "{path}");
        assert_eq!(answer(&mut client).body, b"/next", "{path}");
    }
    proxy.finish();
}

#[test]
fn http_1_0_clients_are_served() {
    let web = Web::start(|raw, request| {
        if request.head.first.contains("/chunks") {
            return raw.send(
                &[
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                    &chunked(b"abcdef", 2)[..],
                ]
                .concat(),
            );
        }
        raw.send(&echoed(request))
    });
    let proxy = proxy(&[&web]);
    // Without Host, too: the server is asked in HTTP/1.1 and must get one.
    let got = ask(proxy.address, "GET /a HTTP/1.0\r\n\r\n");
    assert_eq!(got.body, b"GET /a HTTP/1.1\n");
    let mut client = Raw::connect(proxy.address);
    client.send(b"GET /chunks HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n");
    let got = answer(&mut client);
    assert!(!got.chunked && got.body == b"abcdef", "{got:?}");
    // The length was not known: the end of the connection tells it.
    assert_eq!(client.end(WAIT), End::Fin);
    let mut client = Raw::connect(proxy.address);
    for path in ["/1", "/2"] {
        client.send(
            format!("GET {path} HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n").as_bytes(),
        );
        let got = answer(&mut client);
        assert_eq!(got.head.header("connection"), Some("keep-alive"));
        assert_eq!(got.body, format!("GET {path} HTTP/1.1\n").as_bytes());
    }
    client.send(b"GET /3 HTTP/1.0\r\nHost: h\r\n\r\n");
    assert_eq!(answer(&mut client).body, b"GET /3 HTTP/1.1\n");
    assert_eq!(client.end(WAIT), End::Fin);
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn h10_who_expects_100_gets_it_or_the_answer() {
    let web = Web::echo();
    let proxy = proxy(&[&web]);
    let head = "POST /e HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n";
    let mut client = Raw::connect(proxy.address);
    client.send(head.as_bytes());
    assert_eq!(client.head(WAIT).status(), 100);
    client.send(b"hello");
    assert_eq!(answer(&mut client).body, b"POST /e HTTP/1.1\nhello");
    // The body without waiting; then the next request is understood as one.
    client.send(format!("{head}hello{}", get("/n")).as_bytes());
    let mut first = answer(&mut client);
    if first.head.status() == 100 {
        first = answer(&mut client);
    }
    assert_eq!(first.body, b"POST /e HTTP/1.1\nhello");
    assert_eq!(answer(&mut client).body, b"GET /n HTTP/1.1\n");
    assert!(
        web.requests()
            .iter()
            .all(|one| one.head.header("expect").is_none())
    );
    let before = web.requests().len();
    let mut client = Raw::connect(proxy.address);
    client.send(b"POST /e HTTP/1.1\r\nHost: h\r\nExpect: x\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.head(WAIT).status(), 417);
    client.end(WAIT);
    assert_eq!(web.requests().len(), before);
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn h21_pipelined_requests_are_answered_in_order_up_to_the_bad_one() {
    let web = Web::echo();
    let proxy = proxy(&[&web]);
    let mut client = Raw::connect(proxy.address);
    let mut all: String = (0..100).map(|n| get(&format!("/{n}"))).collect();
    all += "GET /bad HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n";
    all += &get("/never");
    client.send(all.as_bytes());
    for n in 0..100 {
        assert_eq!(
            answer(&mut client).body,
            format!("GET /{n} HTTP/1.1\n").as_bytes()
        );
    }
    assert_eq!(answer(&mut client).head.status(), 400);
    assert_eq!(client.end(WAIT), End::Fin);
    assert!(client.pending.is_empty());
    assert_eq!(web.requests().len(), 100);
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn h08_bodies_of_get_are_bodies_and_the_next_request_is_the_next() {
    let web = Web::echo();
    let proxy = proxy(&[&web]);
    let hidden = get("/hidden");
    let mut client = Raw::connect(proxy.address);
    for method in ["GET", "HEAD", "DELETE"] {
        client.send(
            format!(
                "{method} /x HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{hidden}{}",
                hidden.len(),
                get("/next")
            )
            .as_bytes(),
        );
        let side = if method == "HEAD" {
            HEAD_ANSWER
        } else {
            ANSWER
        };
        assert_eq!(read(&mut client, side, WAIT).unwrap().head.status(), 200);
        assert_eq!(
            answer(&mut client).body,
            b"GET /next HTTP/1.1\n",
            "{method}"
        );
    }
    let seen = web.requests();
    assert_eq!(seen.len(), 6);
    assert!(
        seen.iter()
            .step_by(2)
            .all(|one| one.body == hidden.as_bytes())
    );
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn h09_trailers_are_dropped_both_ways() {
    let trailers = "Content-Length: 3\r\nHost: evil\r\nAuthorization: x\r\nTransfer-Encoding: chunked\r\nX-T: 1\r\n";
    let web = Web::start(move |raw, _| {
        raw.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n{trailers}\r\n").as_bytes())
    });
    let proxy = proxy(&[&web]);
    let mut client = Raw::connect(proxy.address);
    for _ in 0..2 {
        client.send(format!("POST /t HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n{trailers}\r\n").as_bytes());
        let got = answer(&mut client);
        assert_eq!(
            (got.body.as_slice(), got.trailers.as_str()),
            (&b"ab"[..], "")
        );
    }
    for seen in web.requests() {
        assert_eq!(
            (seen.body.as_slice(), seen.trailers.as_str()),
            (&b"abc"[..], "")
        );
        assert_eq!(seen.head.header("authorization"), None);
    }
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn a_servers_connection_is_used_again_only_if_it_is_clean() {
    // Path; whether the next request may come on the same connection.
    let rows = [
        ("/plain", true),
        ("/chunks", true),
        ("/204", true),
        ("/500", true),
        ("/close", false),
        ("/old", false),
        ("/endless", false),
        ("/stray", false),
        ("/late", false),
    ];
    let web = Web::start(|raw, request| {
        let path = request.head.first.split(' ').nth(1).unwrap();
        let stay = path != "/endless";
        let bytes: &[u8] = match path {
            "/chunks" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "/204" => b"HTTP/1.1 204 N\r\n\r\n",
            "/500" => b"HTTP/1.1 500 N\r\nContent-Length: 0\r\n\r\n",
            "/close" => b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok",
            "/old" => b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "/endless" => b"HTTP/1.1 200 OK\r\n\r\nok",
            "/stray" => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        let sent = raw.send(bytes);
        if path == "/late" {
            std::thread::sleep(Duration::from_millis(100));
            raw.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        }
        sent && stay
    });
    // One connection at a time: what is not used again is closed.
    let proxy = proxy_with(
        &[&web],
        json!({ "connections": { "min": 0, "max": 1, "idle": "1s" } }),
        json!({ "loops": 1 }),
    );
    for (path, again) in rows {
        let mut client = Raw::connect(proxy.address);
        client.send(get(path).as_bytes());
        let got = read(&mut client, ANSWER, WAIT).unwrap();
        assert!(got.body == b"ok" || got.body.is_empty(), "{path}");
        std::thread::sleep(Duration::from_millis(300));
        client.send(get("/plain").as_bytes());
        let got = answer(&mut client);
        assert_eq!(got.body, b"ok", "{path}");
        let carriers = web.carriers();
        let [.., first, second] = carriers.as_slice() else {
            panic!()
        };
        assert_eq!(first == second, again, "{path}");
    }
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn h11_an_early_answer_leaves_no_connection_that_is_used_again() {
    // Answers when it has the head, and reads on.
    let web = Web::raw(|raw, seen, number| {
        while let Some(head) = raw.try_head(Duration::from_secs(20)) {
            let length: u64 = head
                .header("content-length")
                .unwrap_or("0")
                .parse()
                .unwrap();
            let early = Message {
                head,
                body: Vec::new(),
                chunked: false,
                trailers: String::new(),
            };
            seen.lock().unwrap().requests.push((number, early));
            let status = if length > 0 { "413 Too Much" } else { "200 OK" };
            raw.send(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno").as_bytes());
            if length > 0 {
                // What is left of the body is not a request.
                raw.wait(Duration::from_secs(20), |_| None::<()>);
            }
        }
    });
    let proxy = proxy_with(
        &[&web],
        json!({ "connections": { "min": 0, "max": 2, "idle": "1s" } }),
        json!({ "loops": 1 }),
    );
    for cut in [0, 1, 100_000] {
        let body = noise(10 << 20);
        let bytes = post("/big", &body);
        let mut client = Raw::connect(proxy.address);
        let head = bytes.len() - body.len();
        client.send(&bytes[..head + cut]);
        let got = answer(&mut client);
        assert_eq!(
            (got.head.status(), got.body.as_slice()),
            (413, &b"no"[..]),
            "{cut}"
        );
        assert_eq!(got.head.header("connection"), Some("close"), "{cut}");
        // The rest is drained or refused, and never taken for a request.
        client.send(&bytes[head + cut..]);
        client.send(get("/after").as_bytes());
        match read(&mut client, ANSWER, WAIT) {
            Ok(next) => assert_eq!(next.body, b"no", "{cut}"),
            Err(Lack::Nothing(Some(_))) => {}
            Err(other) => panic!("{cut}: {other:?}"),
        }
        let other = ask(proxy.address, get("/other"));
        assert_eq!(other.head.status(), 200, "{cut}");
        // What came behind an early answer never came on its connection.
        let mut spoilt = HashSet::new();
        let seen = web.requests();
        for (number, request) in web.carriers().into_iter().zip(&seen) {
            let first = request.head.first.as_str();
            assert!(!spoilt.contains(&number), "{first} on connection {number}");
            if first == "POST /big HTTP/1.1" {
                spoilt.insert(number);
            } else {
                assert!(first.starts_with("GET /"), "{first}");
            }
        }
    }
    proxy.finish();
}

#[test]
fn h13_what_failed_before_any_answer_is_tried_elsewhere_if_that_does_no_harm() {
    // One server takes each request and ends; the other answers.
    let bad = Web::start(|_, _| false);
    let good = Web::echo();
    let proxy = proxy(&[&bad, &good]);
    let rows: [(&str, &str, bool); 7] = [
        ("GET", "", true),
        ("HEAD", "", true),
        ("OPTIONS", "", true),
        ("PUT", "", true),
        ("DELETE", "", true),
        ("POST", "hello", false),
        ("PATCH", "hello", false),
    ];
    for (method, body, again) in rows {
        let (mut passed, mut failed) = (0, 0);
        let before = (bad.requests().len(), good.requests().len());
        for _ in 0..8 {
            let mut client = Raw::connect(proxy.address);
            let length = body.len();
            client.send(format!("{method} /{method} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes());
            let side = if method == "HEAD" {
                HEAD_ANSWER
            } else {
                ANSWER
            };
            match read(&mut client, side, WAIT).unwrap().head.status() {
                200 => passed += 1,
                502 => failed += 1,
                other => panic!("{method}: {other}"),
            }
        }
        let met = bad.requests().len() - before.0;
        assert!(met > 0, "{method}: nobody met the bad server");
        assert_eq!(failed, if again { 0 } else { met }, "{method}");
        assert_eq!(good.requests().len() - before.1, passed, "{method}");
        assert_eq!(passed + failed, 8, "{method}");
    }
    proxy.finish();
}

#[test]
fn h13_a_kept_connection_that_the_server_closes_as_it_is_asked_costs_no_get() {
    // Answers once per connection, and ends when it is asked again, without a word.
    let web = Web::raw(|raw, seen, number| {
        let asked = AtomicUsize::new(0);
        serve(raw, seen, number, &|raw: &mut Raw, request: &Message| {
            asked.fetch_add(1, SeqCst) == 0 && raw.send(&echoed(request))
        });
    });
    let other = Web::echo();
    let proxy = proxy_with(&[&web, &other], json!({}), json!({ "loops": 1 }));
    for n in 0..12 {
        let got = ask(proxy.address, get(&format!("/{n}")));
        assert_eq!(got.body, format!("GET /{n} HTTP/1.1\n").as_bytes());
    }
    proxy.finish();
}

#[test]
fn a_post_goes_on_to_another_server_if_the_first_never_heard_of_it() {
    let good = Web::echo();
    let urls = [format!("http://127.0.0.1:{}", free_port()), good.url()];
    let proxy = proxy_of("http", &urls, json!({}), json!({}));
    for _ in 0..6 {
        let got = ask(proxy.address, post("/p", b"hello"));
        assert_eq!(got.body, b"POST /p HTTP/1.1\nhello");
    }
    assert_eq!(good.requests().len(), 6);
    good.must_be_clean();
    proxy.finish();
}

#[test]
fn a_server_that_dies_inside_its_answer_leaves_no_proper_end() {
    let rows: [(&str, &[u8]); 5] = [
        (
            "/length",
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        ),
        (
            "/chunks",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ),
        (
            "/chunk",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
        ),
        (
            "/wrong",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
        ),
        (
            "/last",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        ),
    ];
    let web = Web::start(move |raw, request| {
        let path = request.head.first.split(' ').nth(1).unwrap();
        raw.send(rows.iter().find(|(one, _)| *one == path).unwrap().1);
        std::thread::sleep(Duration::from_millis(100));
        false
    });
    let proxy = proxy(&[&web]);
    for (path, _) in rows {
        let mut client = Raw::connect(proxy.address);
        client.send([get(path), get("/length")].concat().as_bytes());
        match read(&mut client, ANSWER, WAIT) {
            Err(Lack::Cut(Some(_), bytes)) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                assert!(text.contains("abc"), "{path}: {text}");
                assert_eq!(text.matches("HTTP/1.1").count(), 1, "{path}: {text}");
            }
            // Head, chunk and fault came in one piece: nothing of it was passed on.
            Err(Lack::Nothing(Some(_))) if path == "/wrong" => {}
            other => panic!("{path}: {other:?}"),
        }
    }
    // Each is counted once, and as what it was.
    let counts = ["started", "failed", "succeeded"]
        .map(|what| proxy.count(&format!("wsteady_requests_{what}_total"), &[]));
    assert_eq!(counts, [5, 5, 0]);
    proxy.finish();
}

#[test]
fn a_client_of_http_1_0_sees_by_a_reset_that_its_answer_is_cut() {
    let web = Web::start(|raw, _| {
        raw.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        std::thread::sleep(Duration::from_millis(100));
        false
    });
    let proxy = proxy(&[&web]);
    let mut client = Raw::connect(proxy.address);
    client.send(b"GET / HTTP/1.0\r\n\r\n");
    // Without a length, a FIN would be the end of all of it.
    assert_eq!(client.end(WAIT), End::Reset);
    proxy.finish();
}

#[test]
fn a_client_that_ends_its_side_gets_all_that_it_has_asked_for() {
    let web = Web::echo();
    let proxy = proxy(&[&web]);
    // Body and FIN come while there is no connection to the server yet.
    let body = noise(40_000);
    let mut client = Raw::connect(proxy.address);
    client.send(&post("/p", &body));
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let got = answer(&mut client);
    assert_eq!(got.body, [&b"POST /p HTTP/1.1\n"[..], &body].concat());
    assert_eq!(client.end(WAIT), End::Fin);
    proxy.finish();
}

#[test]
fn a_server_that_falls_silent_inside_its_answer_is_given_up() {
    let web = Web::start(|raw, _| {
        raw.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        raw.wait(Duration::from_secs(30), |_| None::<()>);
        false
    });
    let proxy = proxy_with(
        &[&web],
        json!({ "timeouts": { "response": "500ms" } }),
        json!({}),
    );
    let mut client = Raw::connect(proxy.address);
    client.send(get("/").as_bytes());
    match read(&mut client, ANSWER, WAIT) {
        Err(Lack::Cut(Some(_), bytes)) => assert!(bytes.ends_with(b"\r\n\r\nabc")),
        other => panic!("{other:?}"),
    }
    proxy.finish();
}

#[test]
fn a_client_that_leaves_takes_its_servers_connection_with_it() {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    let web = Web::raw(move |raw, seen, number| {
        let Some(head) = raw.try_head(WAIT) else {
            return;
        };
        let message = Message {
            head,
            body: Vec::new(),
            chunked: false,
            trailers: String::new(),
        };
        let first = message.head.first.clone();
        seen.lock().unwrap().requests.push((number, message));
        if first.contains("/answer") {
            raw.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        } else if first.contains("/plain") {
            raw.send(&ok("ok"));
        }
        raw.wait(WAIT, |_| None::<()>);
        count.fetch_add(usize::from(raw.ended().is_some()), SeqCst);
    });
    let proxy = proxy_with(
        &[&web],
        json!({ "timeouts": { "response": "20s" } }),
        json!({}),
    );
    // Before an answer, inside one, and inside the request's own body.
    let requests = [
        get("/wait").into_bytes(),
        get("/answer").into_bytes(),
        post("/upload", b"hello")[..62].to_vec(),
    ];
    for (number, request) in requests.iter().enumerate() {
        let client = {
            let mut client = Raw::connect(proxy.address);
            client.send(request);
            client
        };
        until_true(WAIT, "the request at the server", || {
            web.requests().len() == number + 1
        });
        if number == 0 {
            client.reset();
        } else {
            drop(client);
        }
        until_true(WAIT, "the end of the server's connection", || {
            ended.load(SeqCst) == number + 1
        });
    }
    assert_eq!(ask(proxy.address, get("/plain")).body, b"ok");
    assert_eq!(web.carriers(), [1, 2, 3, 4]);
    proxy.finish();
}

#[test]
fn a_server_that_refuses_an_upload_and_closes_is_heard() {
    // Reads nothing of the body, so that its end is a reset.
    let web = Web::raw(|raw, _, _| {
        if raw.try_head(WAIT).is_some() {
            raw.send(b"HTTP/1.1 413 Too Much\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno");
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let proxy = proxy(&[&web]);
    for _ in 0..5 {
        let mut client = Raw::connect(proxy.address);
        let mut stream = client.stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            let _ = std::io::Write::write_all(&mut stream, &post("/big", &noise(4 << 20)));
        });
        let got = answer(&mut client);
        assert_eq!((got.head.status(), got.body.as_slice()), (413, &b"no"[..]));
        assert_eq!(got.head.header("connection"), Some("close"));
        client.end(WAIT);
        writer.join().unwrap();
    }
    proxy.finish();
}

#[test]
fn a_request_that_does_not_arrive_is_408() {
    let web = Web::echo();
    let proxy = proxy_with(
        &[&web],
        json!({}),
        json!({ "limits": { "handshake": "500ms" } }),
    );
    let whole = post("/slow", b"hello");
    for cut in [20, whole.len() - 2] {
        let mut client = Raw::connect(proxy.address);
        client.send(&whole[..cut]);
        assert_eq!(answer(&mut client).head.status(), 408, "{cut}");
        assert_eq!(client.end(WAIT), End::Fin);
    }
    // Silence between requests is no fault: the connection just ends.
    let mut client = Raw::connect(proxy.address);
    client.send(get("/").as_bytes());
    answer(&mut client);
    client.end(WAIT);
    assert!(client.pending.is_empty());
    assert!(
        web.requests()
            .iter()
            .all(|one| one.head.first == "GET / HTTP/1.1")
    );
    proxy.finish();
}

#[test]
fn pushes_may_be_pipelined_too() {
    let urls = [format!("http://127.0.0.1:{}/", free_port())];
    let proxy = proxy_of("bridge", &urls, json!({}), json!({}));
    let mut client = Raw::connect(proxy.address);
    let look = "GET /nobody HTTP/1.1\r\nHost: h\r\nAccept: application/json\r\n\r\n";
    let push = "POST /nobody HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi";
    client.send([look, push, look, push, push, look].concat().as_bytes());
    for _ in 0..6 {
        assert_eq!(answer(&mut client).head.status(), 404);
    }
    assert!(client.silent(Duration::from_millis(200)));
    drop(client);
    proxy.finish();
}

#[test]
fn nobody_to_ask_is_502_503_or_504() {
    // Refused.
    let proxy = proxy_of(
        "http",
        &[format!("http://127.0.0.1:{}", free_port())],
        json!({}),
        json!({}),
    );
    assert_eq!(ask(proxy.address, get("/")).head.status(), 502);
    proxy.finish();
    // Silent; a POST that was heard, and a GET that might be repeated, too.
    let web = Web::start(|raw, _| {
        raw.wait(Duration::from_secs(30), |_| None::<()>);
        false
    });
    let proxy = proxy_with(
        &[&web],
        json!({ "timeouts": { "response": "500ms" } }),
        json!({}),
    );
    assert_eq!(ask(proxy.address, get("/")).head.status(), 504);
    assert_eq!(ask(proxy.address, post("/", b"x")).head.status(), 504);
    assert_eq!(web.requests().len(), 2);
    proxy.finish();
}

#[test]
fn a_full_queue_is_503_with_retry_after() {
    let hold = Arc::new(AtomicBool::new(true));
    let held = Arc::clone(&hold);
    let web = Web::start(move |raw, request| {
        while held.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        raw.send(&echoed(request))
    });
    let proxy = proxy_with(
        &[&web],
        json!({ "connections": { "min": 0, "max": 2, "idle": "1s", "queue": 3 }, "timeouts": { "response": "20s" } }),
        json!({ "session": { "admit": "20s" } }),
    );
    let mut clients: Vec<Raw> = (0..5)
        .map(|n| {
            let mut client = Raw::connect(proxy.address);
            client.send(get(&format!("/{n}")).as_bytes());
            std::thread::sleep(Duration::from_millis(50));
            client
        })
        .collect();
    until_true(WAIT, "two requests at the server", || {
        web.requests().len() == 2
    });
    for _ in 0..3 {
        let got = ask(proxy.address, get("/more"));
        assert_eq!(got.head.status(), 503);
        assert!(got.head.header("retry-after").is_some(), "{got:?}");
    }
    assert_eq!((web.connections(), web.requests().len()), (2, 2));
    hold.store(false, SeqCst);
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(
            answer(client).body,
            format!("GET /{n} HTTP/1.1\n").as_bytes()
        );
    }
    assert_eq!(web.requests().len(), 5);
    proxy.finish();
}

const BIG: usize = 200 << 20;

/// The most that the proxy holds while `run` runs, KiB.
fn peak_kib(proxy: &Proxy, run: impl FnOnce() + Send) -> u64 {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            run();
            done.store(true, SeqCst);
        });
        let mut peak = 0;
        let deadline = Instant::now() + Duration::from_secs(100);
        while !done.load(SeqCst) && Instant::now() < deadline {
            peak = peak.max(proxy.memory_kib());
            std::thread::sleep(Duration::from_millis(5));
        }
        peak
    })
}

/// Reads so many bytes behind a head, and waits in between now and then.
fn read_slowly(raw: &mut Raw, mut left: usize) -> u64 {
    let mut sum = 0_u64;
    let mut buffer = vec![0; 1 << 16];
    let early = raw.pending.len();
    sum += raw.pending.drain(..).map(u64::from).sum::<u64>();
    left -= early;
    std::thread::sleep(Duration::from_secs(1));
    raw.stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut count = 0;
    while left > 0 {
        let got = std::io::Read::read(&mut raw.stream, &mut buffer).unwrap();
        assert!(got > 0, "cut with {left} bytes to come");
        left -= got;
        sum += buffer[..got].iter().map(|one| u64::from(*one)).sum::<u64>();
        count += 1;
        if count % 512 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    sum
}

#[test]
fn h20_a_slow_reader_of_200_mb_holds_little_and_slows_the_server() {
    for framing in ["length", "chunks"] {
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        let web = Web::start(move |raw, _| {
            let piece: Vec<u8> = (0..1 << 16).map(|n| n as u8).collect();
            if framing == "length" {
                raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n").as_bytes());
            } else {
                raw.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            }
            for _ in 0..BIG / piece.len() {
                let ok = if framing == "length" {
                    raw.send(&piece)
                } else {
                    raw.send(&[b"10000\r\n", &piece[..], b"\r\n"].concat())
                };
                counted.fetch_add(piece.len() as u64, SeqCst);
                if !ok {
                    return false;
                }
            }
            framing == "length" || raw.send(b"0\r\n\r\n")
        });
        let proxy = proxy_with(
            &[&web],
            json!({ "timeouts": { "response": "20s" } }),
            json!({}),
        );
        let peak = peak_kib(&proxy, || {
            let mut client = Raw::connect(proxy.address);
            client.send(get("/").as_bytes());
            client.head(WAIT);
            std::thread::sleep(Duration::from_millis(1_500));
            let ahead = sent.load(SeqCst);
            assert!(ahead < 40 << 20, "the server was let to send {ahead} bytes");
            if framing == "length" {
                let want = (BIG >> 16) as u64 * (0..1_u64 << 16).map(|n| n & 0xFF).sum::<u64>();
                assert_eq!(read_slowly(&mut client, BIG), want);
            } else {
                // Chunk for chunk, without keeping the whole.
                let mut left = BIG;
                while left > 0 {
                    let line = client
                        .wait(WAIT, |bytes| {
                            bytes.windows(2).position(|two| two == b"\r\n")
                        })
                        .expect("a chunk");
                    let size = std::str::from_utf8(&client.pending[..line])
                        .unwrap()
                        .to_owned();
                    let size = usize::from_str_radix(&size, 16).unwrap();
                    assert!(size > 0, "{left} bytes are missing");
                    client
                        .wait(WAIT, |bytes| (bytes.len() >= line + size + 4).then_some(()))
                        .unwrap();
                    client.pending.drain(..line + size + 4);
                    left -= size;
                }
            }
        });
        eprintln!("{framing}: at most {peak} KiB");
        assert!(peak < 32 << 10, "{framing}: {peak} KiB");
        proxy.finish();
    }
}

#[test]
fn an_upload_of_200_mb_holds_little_and_waits_for_the_server() {
    for in_chunks in [false, true] {
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&taken);
        let web = Web::raw(move |raw, _, _| {
            let Some(head) = raw.try_head(WAIT) else {
                return;
            };
            std::thread::sleep(Duration::from_secs(1));
            let mut left = BIG as u64;
            if head.header("content-length").is_some() {
                read_slowly(raw, BIG);
                left = 0;
            }
            while left > 0 {
                let line = raw
                    .wait(WAIT, |bytes| {
                        bytes.windows(2).position(|two| two == b"\r\n")
                    })
                    .expect("a chunk");
                let size = std::str::from_utf8(&raw.pending[..line])
                    .unwrap()
                    .to_owned();
                let size = usize::from_str_radix(&size, 16).unwrap();
                raw.wait(WAIT, |bytes| (bytes.len() >= line + size + 4).then_some(()))
                    .unwrap();
                raw.pending.drain(..line + size + 4);
                left -= size as u64;
            }
            counted.store(BIG as u64, SeqCst);
            raw.send(&ok("all"));
            raw.wait(WAIT, |_| None::<()>);
        });
        let proxy = proxy_with(
            &[&web],
            json!({ "timeouts": { "response": "20s" } }),
            json!({}),
        );
        let peak = peak_kib(&proxy, || {
            let mut client = Raw::connect(proxy.address);
            let piece = noise(1 << 16);
            let framing = if in_chunks {
                "Transfer-Encoding: chunked".to_owned()
            } else {
                format!("Content-Length: {BIG}")
            };
            client.send(format!("POST /up HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n").as_bytes());
            for _ in 0..BIG / piece.len() {
                let bytes = if in_chunks {
                    [b"10000\r\n", &piece[..], b"\r\n"].concat()
                } else {
                    piece.clone()
                };
                assert!(client.send(&bytes), "the upload was cut");
            }
            if in_chunks {
                client.send(b"0\r\n\r\n");
            }
            assert_eq!(answer(&mut client).body, b"all");
        });
        assert_eq!(taken.load(SeqCst), BIG as u64);
        eprintln!("in chunks: {in_chunks}, at most {peak} KiB");
        assert!(peak < 32 << 10, "in chunks: {in_chunks}, {peak} KiB");
        proxy.finish();
    }
}

enum Want {
    /// One of these statuses, then the end; no whole request reached the server.
    Refused(&'static [u16]),
    /// These requests reached the server, and no others: first line and body.
    Passed(Vec<(&'static str, Vec<u8>)>),
}
use Want::{Passed, Refused};

const BAD: Want = Refused(&[400]);

/// The classes V3 to V22 as far as they are requests to an HTTP pool.
fn attacks() -> Vec<(String, Vec<u8>, Want)> {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n";
    let with = |lines: &str, body: &str| {
        format!("POST /a HTTP/1.1\r\nHost: h\r\n{lines}\r\n{body}").into_bytes()
    };
    let line = |first: &str| format!("{first}\r\nHost: h\r\n\r\n").into_bytes();
    let once = |first: &'static str, body: &str| Passed(vec![(first, body.as_bytes().to_vec())]);
    let mut rows: Vec<(String, Vec<u8>, Want)> = Vec::new();
    let mut add =
        |name: &str, bytes: Vec<u8>, want: Want| rows.push((name.to_owned(), bytes, want));

    add(
        "V3 upgrade with a body",
        handshake("/a", &format!("Content-Length: {}\r\n", hidden.len())).into_bytes(),
        BAD,
    );
    add(
        "V4 upgrade to h2c",
        with(
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\n",
            "",
        ),
        once("POST /a HTTP/1.1", ""),
    );
    add(
        "V4 upgrade to foo",
        with("Upgrade: foo\r\nConnection: Upgrade\r\n", ""),
        once("POST /a HTTP/1.1", ""),
    );
    add(
        "V4 an upgrade where nobody takes any",
        handshake("/a", "").into_bytes(),
        once("GET /a HTTP/1.1", ""),
    );
    add("V4 CONNECT", line("CONNECT x:80 HTTP/1.1"), Refused(&[405]));
    add("H22 TRACE", line("TRACE / HTTP/1.1"), Refused(&[405]));

    // V6: both lengths.
    add(
        "V6 CL.TE",
        with(
            "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\nG",
        ),
        BAD,
    );
    add(
        "V6 TE.CL",
        with(
            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
            &format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()),
        ),
        BAD,
    );
    add(
        "V6 CL 0 and TE",
        with(
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            hidden,
        ),
        BAD,
    );

    // V7: codings.
    let chunk = "5\r\nhello\r\n0\r\n\r\n";
    for good in ["chunked", "CHUNKED", " \tchunked \t"] {
        add(
            &format!("V7 {good:?}"),
            with(&format!("Transfer-Encoding:{good}\r\n"), chunk),
            once("POST /a HTTP/1.1", "hello"),
        );
    }
    let codings = [
        "chunked\x0b",
        "\x0bchunked",
        "chunked\x0c",
        ",chunked",
        "chunked,",
        "chunked, identity",
        "identity, chunked",
        "chunked, chunked",
        "chunked;q=1",
        "\"chunked\"",
        "chunked\0",
        "chun ked",
        "ch\u{fc}nked",
        "",
        "[chunked]",
        "chunked\tx",
        "chunked x",
        "=chunked",
    ];
    for bad in codings {
        add(
            &format!("V7 {bad:?}"),
            with(&format!("Transfer-Encoding: {bad}\r\n"), chunk),
            BAD,
        );
        add(
            &format!("V7 {bad:?} beside a length"),
            with(
                &format!("Content-Length: 4\r\nTransfer-Encoding: {bad}\r\n"),
                chunk,
            ),
            BAD,
        );
    }
    for unknown in [
        "xchunked",
        "chunkedx",
        "identity",
        "gzip",
        "chunke",
        "cow",
        "'chunked'",
    ] {
        add(
            &format!("V7 {unknown:?}"),
            with(&format!("Transfer-Encoding: {unknown}\r\n"), chunk),
            Refused(&[400, 501]),
        );
    }
    for (name, lines) in [
        (
            "two codings",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        ),
        (
            "two equal codings",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ),
        ("folded", "Transfer-Encoding:\r\n chunked\r\n"),
        ("folded by tab", "Transfer-Encoding:\r\n\tchunked\r\n"),
        ("space before the colon", "Transfer-Encoding : chunked\r\n"),
        ("tab before the colon", "Transfer-Encoding\t: chunked\r\n"),
        ("space before the name", " Transfer-Encoding: chunked\r\n"),
        ("NUL in the name", "Transfer-Enco\0ding: chunked\r\n"),
        (
            "CR before the name",
            "X: y\r\rTransfer-Encoding: chunked\r\n",
        ),
        ("LF before the name", "X: y\nTransfer-Encoding: chunked\r\n"),
        (
            "high byte in the name",
            "Transfer-Encoding\u{a0}: chunked\r\n",
        ),
        ("no name", ": chunked\r\n"),
    ] {
        add(&format!("V7 {name}"), with(lines, chunk), BAD);
    }

    // V8: lengths.
    for bad in [
        "",
        "+5",
        "-0",
        "-5",
        "0x5",
        "5_0",
        "5 5",
        "5, 6",
        "5,5",
        "5,",
        "00000000000000000005",
        "99999999999999999999",
        "5.0",
        "5e0",
        "\u{665}",
        "five",
        "5;",
        "\"5\"",
        "5\x0b",
    ] {
        add(
            &format!("V8 {bad:?}"),
            with(&format!("Content-Length: {bad}\r\n"), "hello"),
            BAD,
        );
    }
    for (name, lines) in [
        ("two", "Content-Length: 5\r\nContent-Length: 6\r\n"),
        ("two equal", "Content-Length: 5\r\nContent-Length: 5\r\n"),
        ("space before the colon", "Content-Length : 5\r\n"),
        ("folded", "Content-Length:\r\n 5\r\n"),
    ] {
        add(&format!("V8 {name}"), with(lines, "hello"), BAD);
    }
    add(
        "V8 leading zeroes",
        with("Content-Length: 005\r\n", "hello"),
        once("POST /a HTTP/1.1", "hello"),
    );

    // V9, V10: chunks.
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(300));
    for (name, body) in [
        ("V9 17 digits", "FFFFFFFFFFFFFFFF1\r\nhello\r\n0\r\n\r\n"),
        ("V9 -1", "-1\r\nhello\r\n0\r\n\r\n"),
        ("V9 +5", "+5\r\nhello\r\n0\r\n\r\n"),
        ("V9 0x5", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("V9 5_0", "5_0\r\nhello\r\n0\r\n\r\n"),
        ("V9 space in front", " 5\r\nhello\r\n0\r\n\r\n"),
        ("V9 space behind", "5 \r\nhello\r\n0\r\n\r\n"),
        ("V9 empty line", "\r\nhello\r\n0\r\n\r\n"),
        ("V9 no digit", "G\r\nhello\r\n0\r\n\r\n"),
        ("V10 bare LF behind an extension", "5;\nhello\r\n0\r\n\r\n"),
        ("V10 bare LF behind a size", "5\nhello\r\n0\r\n\r\n"),
        ("V10 two CRs", "5\r\r;x\nhello\r\n0\r\n\r\n"),
        ("V10 bare LF at the end", "0\r\n\n"),
        ("V10 bare LF behind data", "5\r\nhello\n0\r\n\r\n"),
        ("V10 data longer than said", "5\r\nhelloo\r\n0\r\n\r\n"),
        ("V10 two bytes for CRLF", "5\r\nhelloXX0\r\n\r\n"),
        (
            "V10 control in an extension",
            "5;a\x01b\r\nhello\r\n0\r\n\r\n",
        ),
        ("V10 long extension", &long),
        (
            "V10 trailer without colon",
            "5\r\nhello\r\n0\r\nnonsense\r\n\r\n",
        ),
        ("V10 trailer with LF", "5\r\nhello\r\n0\r\nX: y\n\r\n"),
    ] {
        add(name, with("Transfer-Encoding: chunked\r\n", body), BAD);
    }
    add(
        "V10 extensions are dropped",
        with(
            "Transfer-Encoding: chunked\r\n",
            "5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n",
        ),
        once("POST /a HTTP/1.1", "hello"),
    );
    add(
        "V9 16 digits",
        with(
            "Transfer-Encoding: chunked\r\n",
            "0000000000000005\r\nhello\r\n0\r\n\r\n",
        ),
        once("POST /a HTTP/1.1", "hello"),
    );

    // V11: fields.
    for lines in [
        ": x\r\n",
        "X : a\r\n",
        "X\0Y: 1\r\n",
        "X: a\rb\r\n",
        "X: a\0b\r\n",
        "nonsense\r\n",
        "X: a\r\n b\r\n",
        "X: a\r\n\tb\r\n",
        "\r\rX: 1\r\n",
        "X(): 1\r\n",
        "X: a\x7fb\r\n",
    ] {
        add(&format!("V11 {lines:?}"), with(lines, ""), BAD);
    }
    add(
        "V11 space before the first field",
        b"GET / HTTP/1.1\r\n X: a\r\nHost: h\r\n\r\n".to_vec(),
        BAD,
    );
    add("V11 CR before a name", with("X: y\r\n\rZ: 1\r\n", ""), BAD);

    // V12: line ends.
    add("V12 LF alone", b"GET / HTTP/1.1\nHost: h\n\n".to_vec(), BAD);
    add(
        "V12 CR alone",
        b"GET / HTTP/1.1\rHost: h\r\r\n\r\n".to_vec(),
        BAD,
    );
    add(
        "V12 the last line",
        b"GET / HTTP/1.1\r\nHost: h\r\n\n".to_vec(),
        BAD,
    );

    // V13, H07: versions.
    add(
        "V13 chunks in HTTP/1.0",
        b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        BAD,
    );
    add(
        "V13 no length is no body",
        [with("", ""), get("/b").into_bytes()].concat(),
        Passed(vec![
            ("POST /a HTTP/1.1", vec![]),
            ("GET /b HTTP/1.1", vec![]),
        ]),
    );
    for version in [
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/0.9",
        "http/1.1",
        "HTTP/01.1",
        "HTTP/1.01",
        "HTTP/1",
        "HTTP1.1",
        "HTTP/1.1x",
        "HTP/1.1",
        "HTTP/+1.1",
    ] {
        add(
            &format!("H07 {version}"),
            line(&format!("GET / {version}")),
            Refused(&[400, 505]),
        );
    }
    add("H07 HTTP/0.9", b"GET /\r\n\r\n".to_vec(), BAD);
    add("H07 two blanks", line("GET  / HTTP/1.1"), BAD);
    add("H07 a tab", line("GET\t/\tHTTP/1.1"), BAD);
    add("H07 a blank behind", line("GET / HTTP/1.1 "), BAD);
    add(
        "H07 the preface of HTTP/2",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        Refused(&[400, 505]),
    );

    // V14: a request inside a DELETE's chunks stays there.
    let inside = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    add(
        "V14 DELETE with chunks",
        [
            &b"DELETE /c1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
            inside.as_bytes(),
        ]
        .concat(),
        once("DELETE /c1 HTTP/1.1", hidden),
    );
    // V15: other expectations.
    add(
        "V15 unknown expectation",
        with("Expect: 100-continue, x\r\nContent-Length: 5\r\n", "hello"),
        Refused(&[417]),
    );

    // V17: sizes.
    add(
        "V17 a name of 270 bytes",
        with(&format!("{}: 1\r\n", "Content-Length".repeat(20)), ""),
        Refused(&[431]),
    );
    add(
        "V17 a head of 20 KiB",
        with(&format!("X: {}\r\n", "a".repeat(20_000)), ""),
        Refused(&[431]),
    );
    add(
        "V17 500 fields",
        with(&"X: a\r\n".repeat(500), ""),
        Refused(&[431]),
    );
    add(
        "V17 a target of 20 KiB",
        line(&format!("GET /{} HTTP/1.1", "a".repeat(20_000))),
        Refused(&[414, 431]),
    );

    // V18, V19: targets, byte for byte or not at all.
    for bad in [
        "/../admin",
        "/a/../b",
        "/a/./b",
        "/..",
        "/c1#x",
        "/%00",
        "/a%00b",
        "/\\c1",
        "/a%0d%0aX-Role:%20admin",
        "/a%0Ab",
        "/a\rb",
        "/a\x01b",
        "/a\x7f",
        "/\u{fc}",
        "admin",
        "*",
        "",
        "http://h",
        "ftp://h/",
        "//h:80@x/../a",
        "/%2e%2e/admin",
        "/%2E./admin",
        "/a;/../b",
    ] {
        let want = if bad == "http://h" {
            once("GET / HTTP/1.1", "")
        } else {
            BAD
        };
        add(
            &format!("V18 {bad:?}"),
            line(&format!("GET {bad} HTTP/1.1")),
            want,
        );
    }
    for (target, first) in [
        ("/a%2fb", "GET /a%2fb HTTP/1.1"),
        ("//c1", "GET //c1 HTTP/1.1"),
        ("/c1;x=1/y", "GET /c1;x=1/y HTTP/1.1"),
        ("/%c0%ae/x", "GET /%c0%ae/x HTTP/1.1"),
        ("/a?b=/../c", "GET /a?b=/../c HTTP/1.1"),
        ("/%zz", "GET /%zz HTTP/1.1"),
        ("http://h/abs?x", "GET /abs?x HTTP/1.1"),
    ] {
        add(
            &format!("V18 {target:?}"),
            line(&format!("GET {target} HTTP/1.1")),
            once(first, ""),
        );
    }

    // V22: hosts.
    for (name, head) in [
        ("two", "GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n"),
        ("two equal", "GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n"),
        (
            "another than the target's",
            "GET http://evil/ HTTP/1.1\r\nHost: h\r\n\r\n",
        ),
        ("user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
        ("slash", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        ("port", "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n"),
        ("blank", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        ("list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        ("empty", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        ("none", "GET / HTTP/1.1\r\nX: y\r\n\r\n"),
    ] {
        add(&format!("V22 {name}"), head.as_bytes().to_vec(), BAD);
    }
    rows
}

#[test]
fn v6_to_v22_nothing_ambiguous_gets_through_and_nobody_gets_anothers_answer() {
    let web = Web::echo();
    // One connection to the server: whatever one client leaves in it would hit the next.
    let proxy = proxy_with(
        &[&web],
        json!({ "connections": { "min": 0, "max": 1, "idle": "1s" } }),
        json!({}),
    );
    let mut wrong: Vec<String> = Vec::new();
    for (number, (name, bytes, want)) in attacks().into_iter().enumerate() {
        let before = web.requests().len();
        let mut client = Raw::connect(proxy.address);
        client.send(&bytes);
        match &want {
            Refused(statuses) => match read(&mut client, ANSWER, WAIT) {
                Ok(got) if statuses.contains(&got.head.status()) => {
                    client.end(WAIT);
                    if !client.pending.is_empty() {
                        wrong.push(format!(
                            "{name}: and then {}",
                            client.pending.escape_ascii()
                        ));
                    }
                }
                other => wrong.push(format!("{name}: {other:?}")),
            },
            Passed(all) => {
                for (first, body) in all {
                    let expected = [first.as_bytes(), b"\n", body].concat();
                    match read(&mut client, ANSWER, WAIT) {
                        Ok(got) if got.head.status() == 200 && got.body == expected => {}
                        other => wrong.push(format!("{name}: {other:?}")),
                    }
                }
                if !client.pending.is_empty() {
                    wrong.push(format!(
                        "{name}: and then {}",
                        client.pending.escape_ascii()
                    ));
                }
            }
        }
        drop(client);
        // The next one's answer is its own.
        let path = format!("/next-{number}");
        let got = ask(proxy.address, get(&path));
        if got.body != format!("GET {path} HTTP/1.1\n").as_bytes() {
            wrong.push(format!("{name}: the next client got {got:?}"));
        }
        let mut reached: Vec<(String, Vec<u8>)> = web
            .requests()
            .split_off(before)
            .into_iter()
            .map(|one| (one.head.first, one.body))
            .collect();
        reached.pop();
        let expected: Vec<(String, Vec<u8>)> = match want {
            Refused(_) => Vec::new(),
            Passed(all) => all
                .into_iter()
                .map(|(first, body)| (first.to_owned(), body))
                .collect(),
        };
        if reached != expected {
            wrong.push(format!("{name}: the server got {reached:?}"));
        }
        let bad = std::mem::take(&mut web.seen.lock().unwrap().bad);
        if !bad.is_empty() {
            wrong.push(format!("{name}: the server could not read {bad:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    proxy.finish();
}

#[test]
fn answers_that_are_ambiguous_are_502() {
    let many = "HTTP/1.1 100 Continue\r\n\r\n".repeat(9)
        + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let few = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".repeat(8)
        + "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(40_000));
    let with = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\nok");
    let rows: Vec<(String, u16)> = [
        with("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"),
        with("Content-Length: 2\r\nContent-Length: 2\r\n"),
        with("Content-Length: 2\r\nContent-Length: 3\r\n"),
        with("Content-Length: 2, 2\r\n"),
        with("Content-Length: +2\r\n"),
        with("Content-Length: -1\r\n"),
        with("Content-Length:\r\n"),
        with("Content-Length: 99999999999999999999\r\n"),
        with("Transfer-Encoding: gzip, chunked\r\n"),
        with("Transfer-Encoding: xchunked\r\n"),
        with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        with("Transfer-Encoding:\x0bchunked\r\n"),
        with("Transfer-Encoding : chunked\r\n"),
        with("X: a\r\n folded\r\n"),
        with("X: a\rb\r\n"),
        with("X: a\0b\r\n"),
        with("nonsense\r\n"),
        with(": x\r\n"),
        with("X: a\nSet-Cookie: evil\r\n"),
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok".to_owned(),
        "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 204 N\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "SSH-2.0-OpenSSH_9\r\n\r\n".to_owned(),
        "okay".to_owned(),
        many,
        long,
    ]
    .into_iter()
    .map(|bytes| (bytes, 502))
    .chain([
        (few, 200),
        (with("Connection: close\r\nContent-Length: 2\r\n"), 200),
    ])
    .collect();
    let said = rows.clone();
    let web = Web::start(move |raw, request| {
        let path = request.head.first.split(' ').nth(1).unwrap();
        let row: usize = path[1..].parse().unwrap();
        raw.send(said[row].0.as_bytes());
        std::thread::sleep(Duration::from_millis(30));
        false
    });
    let proxy = proxy(&[&web]);
    let mut wrong = Vec::new();
    for (number, (bytes, status)) in rows.iter().enumerate() {
        // A POST is not tried again, a GET may be.
        for request in [
            get(&format!("/{number}")).into_bytes(),
            post(&format!("/{number}"), b"x"),
        ] {
            let mut client = Raw::connect(proxy.address);
            client.send(&request);
            let got = read(&mut client, ANSWER, WAIT)
                .map(|got| (got.head.status(), got.head.header("set-cookie").is_some()));
            if got.as_ref().ok() != Some(&(*status, false)) {
                wrong.push(format!("{:?}: {got:?}", &bytes[..bytes.len().min(200)]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    proxy.finish();
}

#[test]
fn h12_whatever_a_server_adds_the_second_answer_is_the_second_requests() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let rows: [(&str, &str, String); 6] = [
        (
            "GET",
            "behind a length",
            format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{evil}"),
        ),
        (
            "GET",
            "behind chunks",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{evil}"
            ),
        ),
        (
            "GET",
            "204 with a body",
            format!(
                "HTTP/1.1 204 N\r\nContent-Length: {}\r\n\r\n{evil}",
                evil.len()
            ),
        ),
        (
            "GET",
            "304 with a body",
            format!(
                "HTTP/1.1 304 N\r\nContent-Length: {}\r\n\r\n{evil}",
                evil.len()
            ),
        ),
        (
            "HEAD",
            "HEAD with a body",
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{evil}",
                evil.len()
            ),
        ),
        (
            "GET",
            "a 1xx behind",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 100 Continue\r\n\r\n"
                .to_owned(),
        ),
    ];
    let said = rows.clone();
    let web = Web::start(move |raw, request| {
        let path = request.head.first.split(' ').nth(1).unwrap();
        match path[1..].parse::<usize>() {
            Ok(row) => raw.send(said[row].2.as_bytes()),
            Err(_) => raw.send(&ok("second")),
        }
    });
    let proxy = proxy_with(
        &[&web],
        json!({ "connections": { "min": 0, "max": 1, "idle": "1s" } }),
        json!({}),
    );
    for (number, (method, name, _)) in rows.iter().enumerate() {
        let mut client = Raw::connect(proxy.address);
        // Behind each other, and at once by another client.
        client.send(
            format!(
                "{method} /{number} HTTP/1.1\r\nHost: h\r\n\r\n{}",
                get("/second")
            )
            .as_bytes(),
        );
        let side = if *method == "HEAD" {
            HEAD_ANSWER
        } else {
            ANSWER
        };
        read(&mut client, side, WAIT).unwrap_or_else(|why| panic!("{name}: {why:?}"));
        assert_eq!(answer(&mut client).body, b"second", "{name}");
        assert_eq!(ask(proxy.address, get("/second")).body, b"second", "{name}");
    }
    web.must_be_clean();
    proxy.finish();
}

/// A server whose health can be set; it says its own name.
struct Patient {
    web: Web,
    /// 0: well; 1: an error; 2: silence; 3: nonsense.
    state: Arc<AtomicUsize>,
    probes: Arc<AtomicUsize>,
}

impl Patient {
    fn start(name: &'static str, answer_when_well: &'static str) -> Patient {
        let state = Arc::new(AtomicUsize::new(0));
        let probes = Arc::new(AtomicUsize::new(0));
        let (is, count) = (Arc::clone(&state), Arc::clone(&probes));
        let web = Web::start(move |raw, request| {
            let probe = request.head.first.contains("/healthCheck");
            let upgrade = request.head.header("upgrade").is_some();
            if !probe && upgrade {
                raw.accept(&request.head, &format!("X-Name: {name}\r\n"));
                raw.wait(Duration::from_secs(60), |_| None::<()>);
                return false;
            }
            if !probe {
                return raw.send(&ok(name));
            }
            count.fetch_add(1, SeqCst);
            match is.load(SeqCst) {
                0 if upgrade => {
                    raw.accept(&request.head, "");
                    raw.wait(Duration::from_secs(2), |_| None::<()>);
                    false
                }
                0 => raw.send(&ok(answer_when_well)),
                1 => raw.send(b"HTTP/1.1 503 Ill\r\nContent-Length: 14\r\n\r\n{\"status\":200}"),
                2 => {
                    std::thread::sleep(Duration::from_secs(1));
                    false
                }
                _ => raw.send(&ok("{\"status\":500}")),
            }
        });
        Patient { web, state, probes }
    }
}

fn health(expect: &str) -> Value {
    json!({ "interval": "200ms", "timeout": "150ms", "rise": 1, "fall": 2, "expect": expect })
}

fn healthy(proxy: &Proxy, id: &str) -> bool {
    let row = proxy
        .admin("GET", &format!("/v1/servers/{id}"), None)
        .json();
    row["healthy"].as_bool().expect("a verdict")
}

/// Who answers a number of new clients, enough for all loops to have some.
fn answering(proxy: &Proxy) -> HashSet<String> {
    let names = (0..24).map(|_| {
        let got = ask(proxy.address, get("/who"));
        assert_eq!(got.head.status(), 200, "{got:?}");
        String::from_utf8(got.body).unwrap()
    });
    names.collect()
}

fn set_of(names: &[&str]) -> HashSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn an_unhealthy_http_server_is_left_alone_until_it_recovers() {
    // What is expected, what a well server says, and all that is ill.
    let rows = [
        ("status", "anything", &[1, 2][..]),
        ("json-status", "{\"status\":\"200\"}", &[1, 2, 3]),
    ];
    for (expect, well, ills) in rows {
        let (one, two) = (Patient::start("one", well), Patient::start("two", well));
        let proxy = proxy_with(
            &[&one.web, &two.web],
            json!({ "health": health(expect) }),
            json!({}),
        );
        assert_eq!(answering(&proxy), set_of(&["one", "two"]), "{expect}");
        for ill in ills {
            one.state.store(*ill, SeqCst);
            until_true(WAIT, "an unhealthy server", || !healthy(&proxy, "b1"));
            assert!(healthy(&proxy, "b2"));
            assert_eq!(answering(&proxy), set_of(&["two"]), "{expect} {ill}");
            let up = |id| proxy.count("wsteady_server_up", &[("server", id)]);
            assert_eq!((up("b1"), up("b2")), (0, 1));
            assert_eq!(http::get(proxy.admin, "/readyz").unwrap().status, 200);
            one.state.store(0, SeqCst);
            until_true(WAIT, "a healthy server", || healthy(&proxy, "b1"));
            assert_eq!(answering(&proxy), set_of(&["one", "two"]), "{expect} {ill}");
        }
        // Without any healthy one, requests still find somebody, and /readyz says so.
        for patient in [&one, &two] {
            patient.state.store(1, SeqCst);
        }
        until_true(WAIT, "nobody healthy", || {
            !healthy(&proxy, "b1") && !healthy(&proxy, "b2")
        });
        assert_eq!(http::get(proxy.admin, "/readyz").unwrap().status, 503);
        assert_eq!(answering(&proxy), set_of(&["one", "two"]), "{expect}");
        let probes = one
            .web
            .requests()
            .into_iter()
            .find(|one| one.head.first.contains("healthCheck"));
        let probe = probes.expect("a probe");
        assert_eq!(probe.head.first, "GET /healthCheck HTTP/1.1");
        assert_eq!(
            probe.head.header("host"),
            Some(&*one.web.address.to_string())
        );
        // One loop probes, not each.
        let (before, since) = (two.probes.load(SeqCst), Instant::now());
        std::thread::sleep(Duration::from_secs(1));
        let probes = two.probes.load(SeqCst) - before;
        assert!(
            probes as u128 <= since.elapsed().as_millis() / 200 + 1,
            "{probes} probes in a second"
        );
        proxy.finish();
    }
}

#[test]
fn a_server_that_takes_no_connection_is_left_alone_until_it_does() {
    let port = free_port();
    let other = Web::start(|raw, _| raw.send(&ok("two")));
    let urls = [format!("http://127.0.0.1:{port}"), other.url()];
    let proxy = proxy_of("http", &urls, json!({ "health": health("tcp") }), json!({}));
    until_true(WAIT, "an unhealthy server", || !healthy(&proxy, "b1"));
    assert_eq!(answering(&proxy), set_of(&["two"]));
    let one = Web::over(
        TcpListener::bind(("127.0.0.1", port)).unwrap(),
        |raw, seen, number| {
            serve(raw, seen, number, &|raw: &mut Raw, _: &Message| {
                raw.send(&ok("one"))
            })
        },
    );
    until_true(WAIT, "a healthy server", || healthy(&proxy, "b1"));
    assert_eq!(answering(&proxy), set_of(&["one", "two"]));
    // A probe by TCP says nothing.
    assert!(
        one.requests()
            .iter()
            .all(|request| !request.head.first.contains("healthCheck"))
    );
    one.must_be_clean();
    proxy.finish();
}

#[test]
fn an_unhealthy_websocket_server_gets_no_new_sessions_and_keeps_its_old_ones() {
    let (one, two) = (Patient::start("one", ""), Patient::start("two", ""));
    let urls = [&one, &two].map(|one| one.web.url().replace("http://", "ws://"));
    let changes = json!({ "health": { "interval": "200ms", "timeout": "150ms" }, "pass_headers": ["X-Name"] });
    let proxy = proxy_of("websocket", &urls, changes, json!({}));
    let open = || {
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/who", "").as_bytes());
        let head = client.head(WAIT);
        assert_eq!(head.status(), 101, "{head:?}");
        (head.header("x-name").unwrap().to_owned(), client)
    };
    let mut old: Vec<(String, Raw)> = (0..24).map(|_| open()).collect();
    let loops = proxy.admin("GET", "/v1/stats", None).json()["loops"].clone();
    let busy = loops
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["clients"] != 0)
        .count();
    assert_eq!(busy, 2, "both loops have clients: {loops}");
    let names = |clients: &[(String, Raw)]| {
        clients
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<HashSet<_>>()
    };
    assert_eq!(names(&old), set_of(&["one", "two"]));
    for ill in [1, 2] {
        one.state.store(ill, SeqCst);
        until_true(WAIT, "an unhealthy server", || !healthy(&proxy, "b1"));
        let new: Vec<(String, Raw)> = (0..24).map(|_| open()).collect();
        assert_eq!(names(&new), set_of(&["two"]), "{ill}");
        one.state.store(0, SeqCst);
        until_true(WAIT, "a healthy server", || healthy(&proxy, "b1"));
        let new: Vec<(String, Raw)> = (0..24).map(|_| open()).collect();
        assert_eq!(names(&new), set_of(&["one", "two"]), "{ill}");
    }
    let served = proxy.count("wsteady_failovers_total", &[]);
    assert_eq!(served, 0, "old sessions stay");
    assert!(old.iter_mut().all(|(_, client)| client.ended().is_none()));
    drop(old);
    proxy.finish();
}

#[test]
fn the_same_client_gets_the_same_server_under_hash() {
    let webs = ["one", "two", "three"].map(|name| Web::start(move |raw, _| raw.send(&ok(name))));
    let all: Vec<&Web> = webs.iter().collect();
    for hash in ["id", "header:X-Key"] {
        let proxy = proxy_with(&all, json!({ "balance": "hash", "hash": hash }), json!({}));
        let mut met = HashSet::new();
        for key in 0..12 {
            let names: HashSet<Vec<u8>> = (0..6)
                .map(|n| {
                    let (path, header) = if hash == "id" {
                        (format!("/{key}/{n}"), n)
                    } else {
                        (format!("/{n}"), key)
                    };
                    ask(
                        proxy.address,
                        format!("GET {path} HTTP/1.1\r\nHost: h\r\nx-KEY: {header}\r\n\r\n"),
                    )
                    .body
                })
                .collect();
            assert_eq!(names.len(), 1, "{hash} {key}");
            met.extend(names);
        }
        assert!(met.len() > 1, "{hash}: all went to one server");
        proxy.finish();
    }
}

#[test]
fn adaptive_follows_what_health_answers_say_is_free() {
    let busy = Patient::start("one", "{\"status\":200,\"cpu\":0.95,\"memory\":0.1}");
    let idle = Patient::start("two", "{\"status\":200,\"cpu\":0.05,\"memory\":0.1}");
    let changes = json!({ "health": health("json-status"), "balance": "adaptive" });
    let proxy = proxy_with(&[&busy.web, &idle.web], changes, json!({}));
    until_true(WAIT, "two probes each", || {
        busy.probes.load(SeqCst) > 1 && idle.probes.load(SeqCst) > 1
    });
    let count = |name: &str| {
        let names = (0..60).map(|_| ask(proxy.address, get("/who")).body);
        names.filter(|one| one == name.as_bytes()).count()
    };
    let to_busy = count("one");
    assert!(
        (1..=10).contains(&to_busy),
        "{to_busy} of 60 to the busy one"
    );
    proxy.finish();
}

#[test]
fn http_beside_backend_upgrades_go_to_one_and_the_rest_to_the_other() {
    let sockets = Patient::start("sockets", "");
    let web = Web::echo();
    let (listen, admin) = (free_port(), free_port());
    let mut child = binary()
        .args([
            "--listen",
            &format!("127.0.0.1:{listen}"),
            "--admin",
            &format!("127.0.0.1:{admin}"),
        ])
        .args(["--backend", &sockets.web.url().replace("http://", "ws://")])
        .args(["--http", &web.url()])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], listen));
    let admin = SocketAddr::from(([127, 0, 0, 1], admin));
    until(WAIT, "a ready proxy", || {
        http::get(admin, "/readyz")
            .ok()
            .filter(|answer| answer.status == 200)
    });
    let client = Raw::open(address, "/ws", "");
    let mut other = Raw::connect(address);
    for path in ["/1", "/2"] {
        other.send(get(path).as_bytes());
        assert_eq!(
            answer(&mut other).body,
            format!("GET {path} HTTP/1.1\n").as_bytes()
        );
    }
    // The connection of plain requests may still become a session.
    other.send(handshake("/later", "").as_bytes());
    assert_eq!(other.head(WAIT).status(), 101);
    let firsts = |web: &Web| {
        web.requests()
            .into_iter()
            .map(|one| one.head.first)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        firsts(&sockets.web),
        ["GET /ws HTTP/1.1", "GET /later HTTP/1.1"]
    );
    assert_eq!(firsts(&web), ["GET /1 HTTP/1.1", "GET /2 HTTP/1.1"]);
    let pools = http::get(admin, "/v1/pools").unwrap().json();
    let kinds: HashSet<&str> = pools["pools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, HashSet::from(["websocket", "http"]));
    drop((client, other));
    child.kill().unwrap();
    child.wait().unwrap();
}
