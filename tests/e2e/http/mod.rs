//! HTTP pools and health checks, as bytes. Numbers H and V are those of the threat model: H for
//! cases, V for classes of attack. Sources: RFC 9110, RFC 9112.

mod health;
mod large;
mod passing;
mod smuggling;
mod stopping;

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

pub(super) const WAIT: Duration = Duration::from_secs(10);

/// A message, read to the letter: what a lenient reader would repair is an error here.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
    pub(super) chunked: bool,
    pub(super) trailers: String,
}

#[derive(Clone, Copy)]
pub(super) enum Side {
    Request,
    /// To HEAD, if so.
    Answer {
        bodiless: bool,
    },
}

pub(super) enum Parsed {
    More,
    Bad(String),
    /// A message of so many bytes.
    Whole(Box<Message>, usize),
    /// An answer that lasts until its connection ends.
    Endless(Box<Message>),
}

pub(super) fn parse(bytes: &[u8], side: Side) -> Parsed {
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
pub(super) enum Lack {
    /// The connection ended, or nothing came, before its first byte.
    Nothing(Option<End>),
    /// It is not whole.
    Cut(Option<End>, Vec<u8>),
    Bad(String),
}

pub(super) fn read(raw: &mut Raw, side: Side, limit: Duration) -> Result<Message, Lack> {
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

pub(super) const ANSWER: Side = Side::Answer { bodiless: false };
pub(super) const HEAD_ANSWER: Side = Side::Answer { bodiless: true };

pub(super) fn answer(raw: &mut Raw) -> Message {
    read(raw, ANSWER, WAIT).unwrap_or_else(|lack| panic!("no answer: {lack:?}"))
}

/// The answer to one request on a connection of its own.
pub(super) fn ask(address: SocketAddr, request: impl AsRef<[u8]>) -> Message {
    let mut client = Raw::connect(address);
    client.send(request.as_ref());
    answer(&mut client)
}

pub(super) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: web.test\r\n\r\n")
}

pub(super) fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: web.test\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// A server that remembers what reached it.
pub(super) struct Web {
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
pub(super) struct Seen {
    pub(super) connections: usize,
    /// With the number of its connection, from 1.
    pub(super) requests: Vec<(usize, Message)>,
    /// What no client of a sane proxy can have sent.
    pub(super) bad: Vec<String>,
    /// Requests that ended before they were whole.
    pub(super) cut: usize,
}

impl Web {
    /// Plays `script` on each connection in a thread of its own.
    pub(super) fn raw(
        script: impl Fn(&mut Raw, &Mutex<Seen>, usize) + Send + Sync + 'static,
    ) -> Web {
        Web::over(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    pub(super) fn over(
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
    pub(super) fn start(
        script: impl Fn(&mut Raw, &Message) -> bool + Send + Sync + 'static,
    ) -> Web {
        Web::raw(move |raw, seen, number| serve(raw, seen, number, &script))
    }

    /// Says what it was asked for, and the body.
    pub(super) fn echo() -> Web {
        Web::start(|raw, request| raw.send(&echoed(request)))
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    pub(super) fn requests(&self) -> Vec<Message> {
        let seen = self.seen.lock().unwrap();
        seen.requests.iter().map(|(_, one)| one.clone()).collect()
    }

    /// The connections on which its requests came.
    pub(super) fn carriers(&self) -> Vec<usize> {
        let seen = self.seen.lock().unwrap();
        seen.requests.iter().map(|(number, _)| *number).collect()
    }

    pub(super) fn must_be_clean(&self) {
        let seen = self.seen.lock().unwrap();
        assert!(seen.bad.is_empty(), "{:?}", seen.bad);
    }
}

pub(super) fn serve(
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

pub(super) fn echoed(request: &Message) -> Vec<u8> {
    let body = [request.head.first.as_bytes(), b"\n", &request.body].concat();
    let method = request.head.first.split(' ').next().unwrap();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let body = if method == "HEAD" { &b""[..] } else { &body };
    [head.as_bytes(), body].concat()
}

pub(super) fn ok(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// A proxy with one HTTP pool; `pool` holds keys of it, `rest` is merged over all.
pub(super) fn proxy_with(webs: &[&Web], pool: Value, rest: Value) -> Proxy {
    let urls: Vec<String> = webs.iter().map(|web| web.url()).collect();
    proxy_of("http", &urls, pool, rest)
}

pub(super) fn proxy_of(kind: &str, urls: &[String], pool: Value, mut rest: Value) -> Proxy {
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

pub(super) fn proxy(webs: &[&Web]) -> Proxy {
    proxy_with(webs, json!({}), json!({}))
}

/// Bytes as compression makes them: nothing in them is text, and all of them occur.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut rng = Rng::new(length as u64 + 7);
    let mut bytes = vec![0x1F, 0x8B, 8, 0];
    while bytes.len() < length {
        bytes.extend_from_slice(&rng.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(super) fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in body.chunks(size.max(1)) {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}
