//! The opening handshake (RFC 6455 section 4), as a server towards clients and as a client towards
//! servers.

use super::compose::{HeadWriter, Refused, simple_response};
use super::deflate::{self, Deflate};
use super::head::{HeadError, Headers, Request, Response, alike, ascii, is_hop_by_hop, is_token};
use std::net::IpAddr;
use tungstenite::handshake::derive_accept_key;

/// What a request asks for.
#[derive(Clone, Debug)]
pub enum Asked<'a> {
    Upgrade(Upgrade<'a>),
    /// Anything else; upgrades to other protocols are served as if they hadn't asked (V4).
    Plain,
}

/// A correct request for a WebSocket.
#[derive(Clone, Debug)]
pub struct Upgrade<'a> {
    /// The client's key, to be answered with [`accept`].
    pub key: &'a str,
    /// The subprotocols it offers, in its order and separated by `, `; empty if none.
    pub protocols: String,
    /// The first offer of permessage-deflate that is valid.
    pub deflate: Option<Deflate>,
    /// Its `Origin`, unchanged.
    pub origin: Option<&'a str>,
}

/// Tells an upgrade to a WebSocket from other requests.
///
/// Errors: 400 for a malformed upgrade, 426 for another version than 13; [`refusal`] makes the
/// responses. A request that only looks like an upgrade must not pass as plain either: the server
/// behind might take it for one (V1, V2).
pub fn read<'a>(request: &Request<'a>) -> Result<Asked<'a>, HeadError> {
    let headers = &request.headers;
    if request.method != "GET" || !headers.has_token("upgrade", "websocket") {
        return Ok(Asked::Plain);
    }
    if request.minor_version == 0 {
        return Err(HeadError::new(400, "upgrade in HTTP/1.0"));
    }
    if !headers.has_token("connection", "upgrade") {
        return Err(HeadError::new(400, "upgrade without connection upgrade"));
    }
    // A body would be read as frames by us and as a body by somebody else, or the other way (V3).
    if headers.is_chunked()? || headers.content_length()?.unwrap_or(0) > 0 {
        return Err(HeadError::new(400, "upgrade with a body"));
    }
    check_version(headers)?;
    Ok(Asked::Upgrade(Upgrade {
        key: read_key(headers)?,
        protocols: read_protocols(headers)?,
        deflate: deflate::first_offer(headers),
        origin: read_origin(headers)?,
    }))
}

/// The response to a head that was refused, after which the connection is closed. 426 names the
/// version we speak (RFC 6455 section 4.4), 405 the methods that
/// are passed on at all (RFC 9110 section 15.5.6), 429 and 503 when to ask again (10.2.3).
pub fn refusal(error: &HeadError) -> Vec<u8> {
    let upgrade: &[(&str, &str)] = &[
        ("Connection", "close, Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
    ];
    let extra = match error.status {
        426 => upgrade,
        429 | 503 => &[("Retry-After", "1")],
        405 => &[("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")],
        _ => &[],
    };
    simple_response(error.status, error.reason, extra)
}

/// Whether an upgrade may come from this origin. An empty list allows all; no origin at all is not
/// a browser and so not a foreign page (V23). `null` must be listed like any other.
pub fn origin_allowed(origin: Option<&str>, allowed: &[String]) -> bool {
    let Some(origin) = origin else {
        return true;
    };
    allowed.is_empty()
        || allowed
            .iter()
            .any(|known| known.eq_ignore_ascii_case(origin))
}

/// What a request's headers become on the way to a server.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    /// The address at the other end of the client's connection.
    pub peer: IpAddr,
    /// Whether that is one of our own proxies, whose word on addresses counts.
    pub trusted: bool,
    /// Whether the client's connection to us is encrypted.
    pub https: bool,
    /// Names of headers that servers must not see.
    pub block: &'a [String],
    /// The name of the header that marks reconnects; a client's own is removed.
    pub reconnect_header: &'a str,
}

/// The header lines that a server gets of a request, each with its CRLF: the client's own, `Host`
/// included, less what is between it and us or could deceive the server; then the `X-Forwarded-*`.
/// Kept for the life of a session, they make its reconnects say what its first connect said.
///
/// Framing goes with the body and is not in here: no `Content-Length`, `Transfer-Encoding` or
/// `Expect`.
pub fn kept_lines(request: &Request<'_>, forward: &Forward<'_>) -> Vec<u8> {
    let mut lines = Vec::with_capacity(512);
    let mut head = HeadWriter::new(&mut lines);
    // Sorted, since comparing each with each would be the client's to make expensive.
    let mut nominated: Vec<Vec<u8>> = request
        .headers
        .members("connection")
        .map(<[u8]>::to_ascii_lowercase)
        .collect();
    nominated.sort_unstable();
    let is_nominated = |name: &str| {
        // Host can't belong to the connection: without it, the request would be another one.
        !name.eq_ignore_ascii_case("host")
            && nominated
                .binary_search(&name.to_ascii_lowercase().into_bytes())
                .is_ok()
    };
    for (name, value) in request.headers.iter() {
        if !is_removed(name, forward) && !is_nominated(name) {
            write(&mut head, name, value);
        }
    }
    let told = |name: &str| -> Vec<&[u8]> {
        let heard = forward.trusted && !is_nominated(name);
        request
            .headers
            .all(name)
            .filter(|value| heard && !value.is_empty())
            .collect()
    };
    let mut addresses = told("x-forwarded-for");
    // A client on a dual-stack socket is the IPv4 address that its server knows.
    let peer = forward.peer.to_canonical().to_string();
    addresses.push(peer.as_bytes());
    write(&mut head, "X-Forwarded-For", &addresses.join(&b", "[..]));

    let scheme: &[u8] = if forward.https { b"https" } else { b"http" };
    let proto = told("x-forwarded-proto").first().copied().unwrap_or(scheme);
    write(&mut head, "X-Forwarded-Proto", proto);
    let host = told("x-forwarded-host")
        .first()
        .copied()
        .or(request.headers.get("host"));
    if let Some(host) = host {
        write(&mut head, "X-Forwarded-Host", host);
    }
    lines
}

/// The request that opens a WebSocket at a server: `target_prefix` (of the server's URL) and
/// `target` (the client's path and query) are put together as they are; `kept` is what
/// [`kept_lines`] made; `extra` are headers of our own.
///
/// Errors if a part could end its line.
pub fn dial_request(
    target_prefix: &str,
    target: &str,
    kept: &[u8],
    key: &str,
    protocol: Option<&str>,
    deflate: Option<&Deflate>,
    extra: &[(&str, &str)],
) -> Result<Vec<u8>, Refused> {
    debug_assert!(
        kept.is_empty() || kept.ends_with(b"\r\n"),
        "whole lines are kept"
    );
    debug_assert!(!kept.starts_with(b"\r\n") && !kept.windows(4).any(|at| at == b"\r\n\r\n"));
    let mut out = Vec::with_capacity(kept.len() + 512);
    HeadWriter::new(&mut out).request_line("GET", &[target_prefix, target].concat())?;
    out.extend_from_slice(kept);
    let mut head = HeadWriter::new(&mut out);
    head.header("Connection", "Upgrade")?;
    head.header("Upgrade", "websocket")?;
    head.header("Sec-WebSocket-Version", "13")?;
    head.header("Sec-WebSocket-Key", key)?;
    if let Some(protocol) = protocol.filter(|protocol| !protocol.is_empty()) {
        head.header("Sec-WebSocket-Protocol", protocol)?;
    }
    if let Some(deflate) = deflate {
        head.header("Sec-WebSocket-Extensions", deflate.offer_line())?;
    }
    for (name, value) in extra {
        head.header(name, value)?;
    }
    head.end();
    Ok(out)
}

/// A key for [`dial_request`]: 16 random bytes in base64 (RFC 6455 section 4.1), 24 characters.
pub fn key(random: [u8; 16]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(24);
    for three in random.chunks(3) {
        let word = three
            .iter()
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - three.len()));
        for digit in 0..=three.len() {
            text.push(char::from(
                ALPHABET[(word >> (18 - 6 * digit)) as usize & 63],
            ));
        }
    }
    text.push_str("==");
    text
}

/// What a server must answer to a key (RFC 6455 section 4.2.2).
pub fn accept(key: &str) -> String {
    derive_accept_key(key.as_bytes())
}

/// What a server's correct 101 says. Its extensions are for [`deflate::answer`] to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The subprotocol it chose, one of the offered.
    pub protocol: Option<String>,
    /// It opted into confirming by itself: `X-Wsteady-Confirm: processed`.
    pub confirm_processed: bool,
}

/// Judges the answer to [`dial_request`]. The tunnel opens only after a correct one (V1, V2): every
/// part that RFC 6455 section 4.1 names is looked at, and the accept must be that of our own key.
///
/// Errors: what is wrong with it.
pub fn check_101(
    response: &Response<'_>,
    key: &str,
    offered_protocols: &str,
) -> Result<Accepted, &'static str> {
    let headers = &response.headers;
    if response.status != 101 || response.minor_version == 0 {
        return Err("not a 101 of HTTP/1.1");
    }
    if !headers.has_token("upgrade", "websocket") {
        return Err("101 without upgrade");
    }
    if !headers.has_token("connection", "upgrade") {
        return Err("101 without connection upgrade");
    }
    // A 101 has no body; one that says otherwise was not made by a WebSocket server.
    let length = headers.content_length().map_err(|error| error.reason)?;
    if headers.get("transfer-encoding").is_some() || length.unwrap_or(0) > 0 {
        return Err("101 with a body");
    }
    let wrong = HeadError::new(502, "several accepts");
    match headers
        .only("sec-websocket-accept", wrong)
        .map_err(|error| error.reason)?
    {
        Some(value) if value == accept(key).as_bytes() => {}
        _ => return Err("wrong accept"),
    }
    Ok(Accepted {
        protocol: chosen(headers, offered_protocols)?,
        confirm_processed: headers.has_token("x-wsteady-confirm", "processed"),
    })
}

/// The 101 for a client: the answer to its key, what was agreed, and headers of the server that it
/// shall get. One of those that would speak for the handshake or break the head is left out.
pub fn switching(
    key: &str,
    protocol: Option<&str>,
    deflate: Option<&Deflate>,
    pass: &[(&str, &[u8])],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let mut head = HeadWriter::new(&mut out);
    let started = head.status_line(101);
    debug_assert!(started.is_ok(), "101 has three digits");
    write(&mut head, "Upgrade", b"websocket");
    write(&mut head, "Connection", b"Upgrade");
    write(&mut head, "Sec-WebSocket-Accept", accept(key).as_bytes());
    if let Some(protocol) = protocol {
        write(&mut head, "Sec-WebSocket-Protocol", protocol.as_bytes());
    }
    if let Some(deflate) = deflate {
        write(
            &mut head,
            "Sec-WebSocket-Extensions",
            deflate.answer_line().as_bytes(),
        );
    }
    for (name, value) in pass {
        let handshake = name
            .get(..14)
            .is_some_and(|n| n.eq_ignore_ascii_case("sec-websocket-"));
        if !handshake && !is_hop_by_hop(name) && !name.eq_ignore_ascii_case("content-length") {
            write(&mut head, name, value);
        }
    }
    head.end();
    out
}

/// Writes a header that was parsed or made here and so can't be refused; one that is all the same
/// must not reach the wire, and is left out.
fn write(head: &mut HeadWriter<'_>, name: &str, value: &[u8]) {
    let _left_out = head.header(name, value);
}

/// Only version 13, named once (K03).
fn check_version(headers: &Headers<'_>) -> Result<(), HeadError> {
    let bad = HeadError::new(400, "websocket version");
    match headers.only("sec-websocket-version", bad)? {
        Some(b"13") => Ok(()),
        Some([b'0']) => Err(OTHER_VERSION),
        Some([b'1'..=b'9', rest @ ..])
            if rest.len() <= 2 && rest.iter().all(u8::is_ascii_digit) =>
        {
            Err(OTHER_VERSION)
        }
        _ => Err(bad),
    }
}

/// One key: 16 bytes in base64.
fn read_key<'a>(headers: &Headers<'a>) -> Result<&'a str, HeadError> {
    let bad = HeadError::new(400, "websocket key");
    let key = headers
        .only("sec-websocket-key", bad)?
        .and_then(ascii)
        .ok_or(bad)?;
    let digits = key.strip_suffix("==").ok_or(bad)?;
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    if digits.len() == 22 && digits.bytes().all(is_digit) {
        Ok(key)
    } else {
        Err(bad)
    }
}

/// Tokens, each once (RFC 6455 section 4.1).
fn read_protocols(headers: &Headers<'_>) -> Result<String, HeadError> {
    let bad = HeadError::new(400, "websocket protocols");
    let mut tokens = Vec::new();
    for member in headers.members(PROTOCOL) {
        let token = ascii(member)
            .filter(|token| is_token(token.as_bytes()))
            .ok_or(bad)?;
        tokens.push(token);
    }
    let protocols = tokens.join(", ");
    // Sorted, since comparing each with each would be the client's to make expensive.
    tokens.sort_unstable();
    if tokens.windows(2).any(|pair| pair[0] == pair[1]) {
        Err(bad)
    } else {
        Ok(protocols)
    }
}

/// At most one origin (V23).
fn read_origin<'a>(headers: &Headers<'a>) -> Result<Option<&'a str>, HeadError> {
    let bad = HeadError::new(400, "origin");
    match headers.only("origin", bad)? {
        None => Ok(None),
        Some(value) => ascii(value).map(Some).ok_or(bad),
    }
}

/// The server's choice must be one of the offered, or none (RFC 6455 section 4.1, number 6).
fn chosen(headers: &Headers<'_>, offered: &str) -> Result<Option<String>, &'static str> {
    let twice = HeadError::new(502, "several protocols");
    let Some(value) = headers
        .only(PROTOCOL, twice)
        .map_err(|error| error.reason)?
    else {
        return Ok(None);
    };
    let known = offered
        .split(',')
        .map(str::trim)
        .find(|offer| offer.as_bytes() == value);
    match known {
        Some(protocol) if !protocol.is_empty() => Ok(Some(protocol.to_owned())),
        _ => Err("protocol that was not offered"),
    }
}

/// Whether a client's header goes no further.
fn is_removed(name: &str, forward: &Forward<'_>) -> bool {
    let is = |known: &&str| alike(name, known);
    is_hop_by_hop(name)
        || REMOVED.iter().any(is)
        || (!forward.trusted && TRUSTED_ONLY.iter().any(is))
        || is(&forward.reconnect_header)
        || name
            .get(..OWN_PREFIX.len())
            .is_some_and(|prefix| alike(prefix, OWN_PREFIX))
        || forward.block.iter().any(|blocked| alike(name, blocked))
}

/// What is written anew, here or with the body, and never copied.
const REMOVED: [&str; 10] = [
    "content-length",
    "expect",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    PROTOCOL,
    "sec-websocket-version",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];
/// What only our own proxies may say (V21).
const TRUSTED_ONLY: [&str; 2] = ["forwarded", "x-real-ip"];
/// Headers by which we speak to servers; a client can't set any.
const OWN_PREFIX: &str = "x-wsteady-";

const OTHER_VERSION: HeadError = HeadError::new(426, "only websocket version 13");
const PROTOCOL: &str = "sec-websocket-protocol";

#[cfg(test)]
mod tests;
