//! What every dialect must keep, whatever it speaks: a test for the proxy's own and for those of
//! others. It panics where a dialect breaks the law, and says how.
//!
//! ```
//! use wsteady::session::dialect::conformance::{Sample, check_hearing};
//! use wsteady::session::dialect::http::Http;
//!
//! let answer = Sample::whole("an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
//! check_hearing(|| Http::new(1_024, 100), &[answer]);
//! ```

use std::net::{IpAddr, Ipv4Addr};

use super::{Asks, Call, CallTo, Dialect, Heard};
use crate::kit::Prng;

/// What a server says to a conversation that has just begun.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// Then the server ends its side.
    pub ends: bool,
    /// The bytes say all that is waited for: what stands behind them is none of it.
    pub whole: bool,
}

impl Sample {
    /// All that is waited for.
    pub fn whole(name: &'static str, bytes: impl Into<Vec<u8>>) -> Sample {
        Sample {
            name,
            bytes: bytes.into(),
            ends: false,
            whole: true,
        }
    }

    /// Something behind which more may come.
    pub fn open(name: &'static str, bytes: impl Into<Vec<u8>>) -> Sample {
        Sample {
            whole: false,
            ..Sample::whole(name, bytes)
        }
    }

    /// What is complete only when the server has ended its side.
    pub fn ended(name: &'static str, bytes: impl Into<Vec<u8>>) -> Sample {
        Sample {
            ends: true,
            ..Sample::open(name, bytes)
        }
    }
}

/// Holds a dialect to what [`Dialect::hear`] promises: the same is heard however the network has cut
/// it; nothing is used that is not there; nothing behind the end is touched; and garbage ends the
/// conversation, without a panic and without a loop. `begin` gives it as it is when the first byte of
/// a sample comes: behind a call, where it makes calls.
///
/// # Panics
/// It does not keep that.
pub fn check_hearing<D: Dialect>(begin: impl Fn() -> D, samples: &[Sample]) {
    for sample in samples {
        let whole = listen(begin(), &sample.bytes, sample.bytes.len(), sample.ends);
        assert!(
            !whole.heard.is_empty(),
            "{}: nothing was heard in it",
            sample.name
        );
        for step in 1..sample.bytes.len() {
            let pieces = listen(begin(), &sample.bytes, step, sample.ends);
            assert_eq!(pieces, whole, "{} in pieces of {step}", sample.name);
        }
        if sample.whole {
            let behind = [&sample.bytes[..], b"PONG\r\n\x89\x00HTTP/1.1 200 OK\r\n"].concat();
            let more = listen_to_first(begin(), &behind);
            assert_eq!(
                more,
                sample.bytes.len(),
                "{}: what stands behind it was touched",
                sample.name
            );
        }
        spoil(&begin, sample);
    }
    for garbage in garbage() {
        let heard = listen(begin(), &garbage, READ, false);
        let over = heard.over;
        assert!(over, "{:?}… is not broken", &garbage[..16]);
    }
}

/// Holds a dialect to what [`Dialect::call`] promises: what is there stays, the body stands in it once
/// and as it is, and the same call is the same bytes. `begin` gives a connection without a call yet.
///
/// # Panics
/// It does not keep that.
pub fn check_calls<D: Dialect>(begin: impl Fn() -> D) {
    let to = CallTo {
        prefix: "/",
        authority: "api.example:80",
    };
    let body = b"\x00\r\n\r\nPING\r\nits body\xff";
    let length = body.len();
    let number = 7;
    let asks = [
        Asks::Admission {
            target: "a.b?c=d",
            protocol: Some("chat"),
        },
        Asks::Message {
            binary: true,
            length,
            number,
        },
        Asks::Message {
            binary: false,
            length,
            number,
        },
        Asks::Farewell { code: 1001, length },
    ];
    for asks in asks {
        let call = Call {
            to: &to,
            client_id: "a.b",
            session: 11,
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            lines: b"",
            asks,
        };
        let written = |before: &[u8]| {
            let mut out = before.to_vec();
            let mut put = |out: &mut Vec<u8>| {
                if !matches!(asks, Asks::Admission { .. }) {
                    out.extend_from_slice(body);
                }
            };
            let said = begin().call(&call, &mut put, &mut out);
            assert!(said.is_some(), "no words for {asks:?}");
            assert!(
                out.starts_with(before),
                "{asks:?} has changed what was there"
            );
            out.split_off(before.len())
        };
        let (once, again) = (written(b""), written(b"before"));
        assert!(!once.is_empty(), "{asks:?} without a byte");
        let hits = |bytes: &[u8]| bytes.windows(length).filter(|part| part == body).count();
        let wanted = usize::from(!matches!(asks, Asks::Admission { .. }));
        assert_eq!(hits(&once), wanted, "the body in {asks:?}");
        assert_eq!(hits(&again), wanted, "the body in {asks:?}, said again");
    }
}

/// What was made of bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Record {
    /// Events in words; payload that passes is joined, for where it is cut means nothing.
    heard: Vec<String>,
    /// It said that the conversation has failed.
    over: bool,
}

impl Record {
    fn take(&mut self, heard: &Heard, bytes: &[u8]) {
        match heard {
            Heard::More | Heard::Nothing => {}
            Heard::Piece(piece) => self.pass(bytes, piece.ends),
            Heard::Flow { ends } => self.pass(bytes, *ends),
            Heard::FlowEnd => self.pass(b"", true),
            Heard::Broken(_) | Heard::Failed => {
                self.over = true;
                self.heard.push("over".to_string());
            }
            other => self.heard.push(format!("{other:?}")),
        }
    }

    fn pass(&mut self, bytes: &[u8], ends: bool) {
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self.heard.last_mut().filter(|last| last.starts_with('<')) {
            Some(last) if !last.ends_with('>') => last.push_str(&text),
            _ => self.heard.push(format!("<{text}")),
        }
        if let Some(last) = self.heard.last_mut().filter(|_| ends) {
            last.push('>');
        }
    }
}

/// Tells a dialect all bytes in pieces, as a loop does: what it leaves is kept for the next.
fn listen<D: Dialect>(mut dialect: D, bytes: &[u8], step: usize, ends: bool) -> Record {
    let mut record = Record::default();
    let mut kept = Vec::new();
    for piece in bytes.chunks(step.max(1)) {
        kept.extend_from_slice(piece);
        let mut left = steps_max(kept.len());
        while !kept.is_empty() {
            let (used, heard) = dialect.hear(&kept);
            assert!(used <= kept.len(), "{used} of {} bytes used", kept.len());
            if matches!(heard, Heard::More) {
                assert_eq!(used, 0, "more is wanted, and {used} bytes are taken");
                break;
            }
            left = left
                .checked_sub(1)
                .unwrap_or_else(|| panic!("endless: {heard:?}"));
            record.take(&heard, &kept[..used]);
            kept.drain(..used);
            if record.over {
                return record;
            }
        }
    }
    if ends {
        record.take(&dialect.hear_end(), b"");
    }
    record
}

/// How many bytes are used up to and with the event that ends it.
fn listen_to_first<D: Dialect>(mut dialect: D, bytes: &[u8]) -> usize {
    let mut at = 0;
    for _ in 0..steps_max(bytes.len()) {
        let (used, heard) = dialect.hear(&bytes[at..]);
        at += used;
        let done = match heard {
            Heard::Piece(piece) => piece.ends,
            Heard::Flow { ends } => ends,
            Heard::Head(head) => head.ends,
            Heard::More | Heard::Nothing => false,
            _ => true,
        };
        if done {
            break;
        }
    }
    at
}

/// Bytes that were changed on their way are heard as something, or as nothing; never for ever.
fn spoil<D: Dialect>(begin: &impl Fn() -> D, sample: &Sample) {
    let mut rng = Prng::from_u64(sample.bytes.len() as u64);
    for _ in 0..SPOILS {
        let mut bytes = sample.bytes.clone();
        for _ in 0..=rng.below(3) {
            let at = rng.below(bytes.len() as u32) as usize;
            match rng.below(4) {
                0 => bytes[at] ^= 1 << rng.below(8),
                1 => bytes[at] = rng.below(256) as u8,
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, b"\r\n 0\xff"[rng.below(5) as usize]),
            }
        }
        let step = 1 + rng.below(bytes.len() as u32) as usize;
        let one = listen(begin(), &bytes, step, true);
        let all = listen(begin(), &bytes, bytes.len(), true);
        assert_eq!(one, all, "{} spoiled to {bytes:?}", sample.name);
    }
}

/// What nobody says, and more of it than any head may have.
fn garbage() -> Vec<Vec<u8>> {
    let mut rng = Prng::from_u64(1);
    let noise: Vec<u8> = (0..GARBAGE).map(|_| rng.below(256) as u8).collect();
    let same = |byte: u8| vec![byte; GARBAGE];
    vec![
        noise,
        same(0),
        same(0xff),
        same(b'x'),
        same(b' '),
        same(b'\n'),
    ]
}

fn steps_max(bytes: usize) -> usize {
    2 * bytes + 16
}

/// More than a read, and than what a loop keeps of what it has read.
const GARBAGE: usize = 256 << 10;
const READ: usize = 64 << 10;

/// Spoiled copies of each sample.
const SPOILS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::dialect::http::Http;
    use crate::session::dialect::ws::Ws;
    use crate::session::dialect::{Dial, Kept};
    use crate::wire::upgrade;

    #[test]
    fn http_conforms() {
        let samples = [
            Sample::whole("empty", "HTTP/1.1 204 No Content\r\n\r\n"),
            Sample::whole("ok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            Sample::whole(
                "interim",
                "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 503 B\r\nContent-Length: 0\r\n\r\n",
            ),
            Sample::whole(
                "chunked",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n",
            ),
            Sample::ended("to the end", "HTTP/1.0 200 OK\r\n\r\nall of it"),
        ];
        check_hearing(|| Http::new(1_024, 100), &samples);
        check_calls(|| Http::new(1_024, 100));
    }

    #[test]
    fn websocket_conforms() {
        let begin = || {
            let kept = Kept::new("/a", b"Host: h\r\n");
            let dial = Dial {
                prefix: "",
                fixed: false,
                kept: &kept,
                extra: &[],
                plain: true,
                first: true,
                pass: &[],
                head_max: 1_024,
            };
            let mut first = Vec::new();
            (Ws::open(dial, &mut Prng::from_u64(1), &mut first), first)
        };
        // The same seed has the same key, and so the same answer.
        let asked = String::from_utf8(begin().1).unwrap();
        let key = asked
            .split("\r\n")
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
        let hello = upgrade::switching(key.unwrap(), None, None, &[]);
        let then = |frames: &[u8]| [&hello[..], frames].concat();
        let samples = [
            Sample::whole("hello", then(b"")),
            Sample::open("text", then(b"\x81\x02hi\x89\x01!\x8a\x00")),
            Sample::open(
                "fragments",
                then(b"\x02\x01a\x89\x00\x00\x00\x03bcd\x80\x00"),
            ),
            Sample::open("close", then(b"\x81\x00\x88\x05\x03\xe8bye")),
            Sample::whole("refused", "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"),
            Sample::whole("failed", "HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n"),
        ];
        check_hearing(|| begin().0, &samples);
    }

    #[cfg(feature = "nats")]
    #[test]
    fn nats_conforms() {
        use crate::session::dialect::nats::{Nats, NatsTerms};
        use crate::session::dialect::{Call, Terms};
        use crate::session::vocab::Api;

        let fresh = |jetstream: bool| {
            let api = Api::Nats(std::sync::Arc::new(NatsTerms {
                prefix: "w".into(),
                jetstream,
                ..NatsTerms::default()
            }));
            let terms = Terms {
                head_max: 1_024,
                body_max: 100,
                streams: false,
                api: &api,
                pool: "p",
            };
            Nats::for_calls(&terms).expect("it makes calls")
        };
        let asked = |jetstream: bool| {
            let mut nats = fresh(jetstream);
            let call = Call {
                to: &CallTo {
                    prefix: "/",
                    authority: "h:1",
                },
                client_id: "a",
                session: 1,
                peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
                lines: b"",
                asks: Asks::Message {
                    binary: false,
                    length: 0,
                    number: 0,
                },
            };
            nats.call(&call, &mut |_| {}, &mut Vec::new())
                .expect("words");
            nats
        };
        let info = "INFO {\"max_payload\":1048576,\"ldm\":false} \r\n";
        let inbox = "_INBOX.wsteady.0000000000000000.0";
        let to = |number: u32, payload: &str| {
            format!("MSG {inbox}.{number} 1 {}\r\n{payload}\r\n", payload.len())
        };
        check_hearing(
            || asked(false),
            &[
                Sample::whole("pong", format!("{info}PING\r\nPONG\r\n")),
                Sample::whole("error", "-ERR 'Authorization Violation'\r\n"),
                Sample::whole("too long", "-ERR 'Maximum Payload Violation'\r\n"),
            ],
        );
        let ack = to(1, "{\"stream\":\"S\",\"seq\":1}");
        let other = to(2, "{\"stream\":\"S\",\"seq\":9}");
        let error = to(1, "{\"error\":{\"code\":400,\"description\":\"no\"}}");
        check_hearing(
            || asked(true),
            &[
                Sample::whole("ack", format!("{info}{ack}")),
                Sample::whole("ack behind another", format!("PING\r\n{other}{ack}")),
                Sample::whole("refused", error),
                Sample::whole(
                    "nobody",
                    format!("HMSG {inbox}.1 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"),
                ),
                Sample::whole("pong", "PONG\r\n"),
            ],
        );
        check_calls(|| fresh(false));
        check_calls(|| fresh(true));
    }
}
