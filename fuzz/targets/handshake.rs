//! Handshakes and bodies: any segmentation gives the same answer, nothing that ends a line is
//! smuggled into what is written, and what is written reads back as what was meant.
//!
//! Input: one byte that says what the rest is, one that seeds the cuts, then HTTP.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use wsteady::kit::Prng;
use wsteady::session::dialect::ws::Ws;
use wsteady::session::{Dial, Dialect, Heard, Kept};
use wsteady::wire::body::{Body, BodyStep};
use wsteady::wire::deflate::{self, Deflate};
use wsteady::wire::head::{self, HeadError, HeadLimits, Request, Response};
use wsteady::wire::upgrade::{self, Asked, Forward, Upgrade};

fuzz_target!(|input: &[u8]| {
    let [flags, seed, bytes @ ..] = input else {
        return;
    };
    let mut cuts = Cuts(u32::from(*seed));
    match flags & 1 {
        0 => on_request(bytes, flags & 2 != 0, &mut cuts),
        _ => on_response(bytes, flags >> 1, &mut cuts),
    }
});

/// Lengths of segments: from a seed, so that an input repeats. Seed 0: one byte each.
struct Cuts(u32);

impl Cuts {
    fn next(&mut self) -> usize {
        if self.0 == 0 {
            return 1;
        }
        self.0 = self.0.wrapping_mul(1_103_515_245).wrapping_add(12_345) | 1;
        1 + (self.0 >> 16) as usize % 60
    }
}

fn limits() -> HeadLimits {
    HeadLimits {
        bytes_max: 2_000,
        headers_max: 20,
        name_max: 60,
        value_max: 600,
    }
}

/// Where the head ends, looked for as segments arrive.
fn end_of_head(bytes: &[u8], cuts: &mut Cuts) -> Result<Option<usize>, HeadError> {
    let whole = head::end(bytes, 0, &limits());
    let (mut seen, mut there) = (0, 0);
    let found = loop {
        if there == bytes.len() {
            break head::end(bytes, seen, &limits());
        }
        there = bytes.len().min(there + cuts.next());
        match head::end(&bytes[..there], seen, &limits()) {
            Ok(None) => seen = there,
            found => break found,
        }
    };
    assert_eq!(found, whole, "the end of a head depends on the segments");
    whole
}

fn on_request(bytes: &[u8], trusted: bool, cuts: &mut Cuts) {
    let Ok(Some(end)) = end_of_head(bytes, cuts) else {
        return;
    };
    let Ok(request) = Request::parse(&bytes[..end], &limits()) else {
        return;
    };
    assert!(!request.target.contains(['\r', '\n', ' ', '#']));
    if let Ok(body) = Body::of_request(&request) {
        check_body(body, &bytes[end..], cuts);
    }
    match upgrade::read(&request) {
        Ok(Asked::Upgrade(asked)) => check_dial(&request, &asked, trusted),
        Ok(Asked::Plain) => {}
        Err(error) => {
            let refusal = upgrade::refusal(&error);
            let end = head::end(&refusal, 0, &BIG).expect("ours").expect("whole");
            let read = Response::parse(&refusal[..end], &BIG).expect("a refusal can be read");
            assert_eq!(read.status, error.status);
        }
    }
}

/// What a server gets of an upgrade, read again.
fn check_dial(request: &Request<'_>, asked: &Upgrade<'_>, trusted: bool) {
    let block = ["Cookie".to_string()];
    let forward = Forward {
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
        trusted,
        https: false,
        block: &block,
        reconnect_header: "X-Balancer-Reconnect",
    };
    let kept = upgrade::kept_lines(request, &forward);
    let protocol = Some(asked.protocols.as_str()).filter(|names| !names.is_empty());
    let key = upgrade::key([7; 16]);
    let extra = [("X-Wsteady-Session", "id"), ("X-Balancer-Reconnect", "1")];
    let deflate = asked.deflate.as_ref();
    let dialled =
        upgrade::dial_request("/p", request.target, &kept, &key, protocol, deflate, &extra)
            .expect("what was read can be written");

    assert_eq!(
        head::end(&dialled, 0, &BIG),
        Ok(Some(dialled.len())),
        "one head, no more"
    );
    let again = Request::parse(&dialled, &BIG).expect("what we write can be read");
    assert_eq!((again.method, again.minor_version), ("GET", 1));
    assert_eq!(again.target, format!("/p{}", request.target));
    let count = dialled.windows(2).filter(|two| *two == b"\r\n").count();
    assert_eq!(
        again.headers.iter().count(),
        count - 2,
        "a line that is no header"
    );
    for (name, value) in again.headers.iter() {
        let told = request.headers.iter().any(|(n, v)| n == name && v == value);
        let ours = OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name));
        assert!(told || ours, "{name} comes from nowhere");
        assert!(!name.eq_ignore_ascii_case("cookie"));
        let x = name.len() > 9 && name[..10].eq_ignore_ascii_case("x-wsteady-");
        assert!(!x || (name, value) == ("X-Wsteady-Session", b"id"));
    }
    for name in OURS {
        assert!(again.headers.all(name).count() <= 1, "{name} stands twice");
    }
    assert_eq!(again.headers.get("host"), request.headers.get("host"));
    assert_eq!(again.headers.get("x-balancer-reconnect"), Some(&b"1"[..]));
    let Ok(Asked::Upgrade(ask)) = upgrade::read(&again) else {
        panic!("no upgrade any more")
    };
    assert_eq!((ask.key, &ask.protocols), (key.as_str(), &asked.protocols));
    assert_eq!(ask.origin, asked.origin);
    assert_eq!(ask.deflate, asked.deflate.map(alone));
    // Kept once, a head stays as it is: the next server hears what the first one did.
    let second = Forward {
        trusted: true,
        ..forward
    };
    let lines = upgrade::kept_lines(&again, &second);
    let names = |lines: &[u8]| lines.split(|byte| *byte == b'\n').count();
    assert!(names(&lines) <= names(&kept));

    let chosen = asked
        .protocols
        .split(", ")
        .next()
        .filter(|name| !name.is_empty());
    let pass: Vec<(&str, &[u8])> = request.headers.iter().collect();
    let response = upgrade::switching(asked.key, chosen, deflate, &pass);
    let read = Response::parse(&response, &BIG).expect("our 101 can be read");
    let accepted = upgrade::check_101(&read, asked.key, &asked.protocols).expect("and is right");
    assert_eq!(accepted.protocol.as_deref(), chosen);
}

/// What we make of an offer: each message stands alone.
fn alone(offer: Deflate) -> Deflate {
    Deflate {
        server_no_context_takeover: true,
        client_no_context_takeover: true,
        ..offer
    }
}

/// All of it through the dialect, as a server's side of a conversation.
fn on_response(bytes: &[u8], flags: u8, cuts: &mut Cuts) {
    let first = flags & 1 == 0;
    let plain = flags & 2 != 0;
    let mut kept = Kept::new("/", b"Host: h\r\n");
    kept.set_protocol(Some("chat, mqtt").filter(|_| flags & 4 != 0));
    kept.deflate = Some(Deflate {
        server_max_window_bits: Some(12),
        client_max_window_bits: Some(None),
        ..Deflate::default()
    });
    let pass = ["Set-Cookie".to_string()];
    let open = || {
        let mut request = Vec::new();
        let dial = Dial {
            prefix: "",
            fixed: false,
            kept: &kept,
            extra: &[],
            plain,
            first,
            pass: &pass,
            head_max: 2_000,
        };
        let ws = Ws::open(dial, &mut Prng::from_u64(1), &mut request);
        (ws, request)
    };
    let (ws, request) = open();
    let request = Request::parse(&request, &BIG).expect("our request can be read");
    let key = request
        .headers
        .get_str("sec-websocket-key")
        .expect("has a key");
    let bytes = with_accept(bytes, &upgrade::accept(key));
    let whole = hear(ws, &bytes, &mut || usize::MAX);
    let cut = hear(open().0, &bytes, &mut || cuts.next());
    assert_eq!(whole, cut, "what is heard depends on the segments");
    let Ok(Some(end)) = end_of_head(&bytes, cuts) else {
        return;
    };
    let Ok(response) = Response::parse(&bytes[..end], &limits()) else {
        return;
    };
    if let Ok(body) = Body::of_response("GET", &response) {
        check_body(body, &bytes[end..], cuts);
    }
    let offered = kept.deflate.expect("offered");
    if let Ok(Some(agreed)) = deflate::answer(&response.headers, &offered) {
        assert!(agreed.server_no_context_takeover && agreed.server_max_window_bits <= Some(12));
        let line = agreed.answer_line();
        let head = format!("HTTP/1.1 101 S\r\nSec-WebSocket-Extensions: {line}\r\n\r\n");
        let again = Response::parse(head.as_bytes(), &BIG).expect("ours");
        assert_eq!(
            deflate::answer(&again.headers, &offered),
            Ok(Some(alone(agreed)))
        );
    }
}

/// Puts the accept that is right where the one of RFC 6455 section 1.3 stands: an input could not
/// guess it.
fn with_accept(bytes: &[u8], accept: &str) -> Vec<u8> {
    let sample = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    let mut out = bytes.to_vec();
    if let Some(at) = out.windows(sample.len()).position(|at| at == sample) {
        out[at..at + sample.len()].copy_from_slice(accept.as_bytes());
    }
    out
}

/// What a conversation says, so written that it can't depend on the segments.
fn hear(mut ws: Ws, bytes: &[u8], next: &mut dyn FnMut() -> usize) -> (Vec<String>, Vec<u8>) {
    let (mut said, mut data) = (Vec::new(), Vec::new());
    let (mut at, mut end) = (0, 0);
    while end < bytes.len() {
        end = bytes.len().min(end.saturating_add(next()));
        while at < end {
            let (used, heard) = ws.hear(&bytes[at..end]);
            let piece = &bytes[at..at + used];
            at += used;
            match heard {
                Heard::More => {
                    assert_eq!(used, 0);
                    break;
                }
                Heard::Nothing => {}
                Heard::Piece(piece_of) => {
                    data.extend_from_slice(piece);
                    if piece_of.ends {
                        said.push(format!(
                            "message ends at {}, {}",
                            data.len(),
                            piece_of.announced
                        ));
                    }
                }
                heard @ (Heard::Ready(_)
                | Heard::Ping(_)
                | Heard::Received(_)
                | Heard::Processed(_)) => said.push(format!("{heard:?}")),
                last => {
                    said.push(format!("{last:?}"));
                    return (said, data);
                }
            }
        }
    }
    said.push(format!("{:?}", ws.hear_end()));
    (said, data)
}

fn check_body(body: Body, bytes: &[u8], cuts: &mut Cuts) {
    let whole = read_body(body, bytes, &mut || usize::MAX);
    let cut = read_body(body, bytes, &mut || cuts.next());
    // What has passed before an error may depend on the segments.
    if whole.2 || cut.2 {
        assert_eq!(whole.2, cut.2);
    } else {
        assert_eq!(whole, cut);
    }
}

/// The payload, where the body ended, and whether it was refused.
fn read_body(
    mut body: Body,
    bytes: &[u8],
    next: &mut dyn FnMut() -> usize,
) -> (Vec<u8>, Option<usize>, bool) {
    let (mut payload, mut at, mut end) = (Vec::new(), 0, 0);
    loop {
        match body.step(&bytes[at..end]) {
            Ok(BodyStep::Data(range)) => {
                payload.extend_from_slice(&bytes[at..end][range.clone()]);
                at += range.end;
            }
            Ok(BodyStep::Skip(skipped)) => at += skipped,
            Ok(BodyStep::Done(more)) => return (payload, Some(at + more), false),
            Ok(BodyStep::More) if end == bytes.len() => return (payload, None, false),
            Ok(BodyStep::More) => end = bytes.len().min(end.saturating_add(next())),
            Err(_) => return (payload, None, true),
        }
    }
}

/// Larger than anything that we write here.
const BIG: HeadLimits = HeadLimits {
    bytes_max: 32_000,
    headers_max: 200,
    name_max: 2_000,
    value_max: 16_000,
};

/// Headers that are ours to set.
const OURS: [&str; 11] = [
    "connection",
    "upgrade",
    "sec-websocket-version",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-wsteady-session",
    "x-balancer-reconnect",
];
