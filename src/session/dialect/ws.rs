//! The WebSocket dialect: a server is asked to upgrade, then frames pass through as they are.

use super::{Accepted, Answer, Dial, Dialect, Heard, Piece};
use crate::kit::Prng;
use crate::session::vocab::Loss;
use crate::wire::body::{Body, BodyStep};
use crate::wire::compose::HeadWriter;
use crate::wire::deflate::{self, Deflate, Refusal};
use crate::wire::frame::{ControlBytes, Opcode, Sender, control};
use crate::wire::head::{self, HeadLimits, Response};
use crate::wire::scan::{Limits, Scanner, Step};
use crate::wire::{close, upgrade};

/// One WebSocket conversation with a server.
pub struct Ws {
    scanner: Scanner,
    /// Present until the 101.
    hello: Option<Box<Hello>>,
}

struct Hello {
    key: String,
    protocol: Option<Box<str>>,
    deflate: Option<Deflate>,
    pass: Vec<String>,
    head_max: usize,
    first: bool,
    /// Bytes of the response head that were looked at already.
    seen: usize,
    interim: u8,
    /// A refusal whose body is still arriving.
    answer: Option<(Answering, Body)>,
}

struct Answering {
    status: u16,
    head: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Dialect for Ws {
    fn open(dial: Dial<'_>, rng: &mut Prng, first_bytes: &mut Vec<u8>) -> Ws {
        let key = upgrade::key(rng.next_u128().to_be_bytes());
        let deflate = dial.kept.deflate.filter(|_| !dial.plain);
        let target = if dial.fixed { "" } else { dial.kept.target() };
        let request = upgrade::dial_request(
            dial.prefix,
            target,
            dial.kept.lines(),
            &key,
            dial.kept.protocol(),
            deflate.as_ref(),
            dial.extra,
        );
        // The serialiser refuses control bytes; a kept head was checked when it was read, so an
        // error here would be ours: the server then gets nothing and the attempt times out.
        if let Ok(request) = request {
            first_bytes.extend_from_slice(&request);
        }
        Ws {
            scanner: Scanner::new(Sender::Server, false),
            hello: Some(Box::new(Hello {
                key,
                protocol: dial.kept.protocol().map(Box::from),
                deflate,
                pass: dial.pass.to_vec(),
                head_max: dial.head_max,
                first: dial.first,
                seen: 0,
                interim: 0,
                answer: None,
            })),
        }
    }

    #[inline]
    fn hear(&mut self, input: &[u8]) -> (usize, Heard) {
        match &mut self.hello {
            None => self.hear_frame(input),
            Some(hello) => {
                let (used, heard) = hello.hear(input);
                if let Heard::Ready(accepted) = &heard {
                    self.scanner = Scanner::new(Sender::Server, accepted.deflate.is_some());
                    self.hello = None;
                }
                (used, heard)
            }
        }
    }

    fn hear_end(&mut self) -> Heard {
        match self.hello.as_mut().and_then(|hello| hello.answer.take()) {
            Some((answering, body)) if body.is_until_close() => answering.refuse(),
            _ => Heard::Broken(Loss::Fin),
        }
    }

    fn ping(&self, number: u64, rng: &mut Prng) -> ControlBytes {
        control(Opcode::Ping, &number.to_be_bytes(), Some(rng.mask_key()))
    }

    fn pong(&self, payload: &[u8], rng: &mut Prng) -> ControlBytes {
        control(Opcode::Pong, payload, Some(rng.mask_key()))
    }

    fn close(&self, code: u16, reason: &str, rng: &mut Prng) -> ControlBytes {
        control(
            Opcode::Close,
            &close::payload(code, reason),
            Some(rng.mask_key()),
        )
    }

    fn is_whole(&self) -> bool {
        self.hello.is_none() && self.scanner.at_message_boundary()
    }
}

impl Ws {
    #[inline]
    fn hear_frame(&mut self, input: &[u8]) -> (usize, Heard) {
        match self.scanner.step(input, &SERVER_LIMITS) {
            Ok(Step::More) => (0, Heard::More),
            Ok(Step::Data {
                len,
                begins_message,
                ends_message,
                ..
            }) => (
                len,
                Heard::Piece(Piece {
                    begins: begins_message,
                    ends: ends_message,
                    ends_frame: self.scanner.at_frame_boundary(),
                    announced: self.scanner.message_len(),
                }),
            ),
            Ok(Step::Control {
                len,
                opcode,
                payload,
            }) => {
                let heard = match opcode {
                    Opcode::Ping => Heard::Ping(payload),
                    Opcode::Close => match close::parse(&payload) {
                        Ok(said) => Heard::Closed(said.map(|(code, text)| (code, text.into()))),
                        Err(_) => Heard::Broken(Loss::Protocol),
                    },
                    _ => read_pong(&payload),
                };
                (len, heard)
            }
            Err(_) => (input.len(), Heard::Broken(Loss::Protocol)),
        }
    }
}

/// A barrier's Pong carries eight bytes; an unsolicited one of a server that confirms what it has
/// processed carries `wsteady:<n>`. Anything else is not meant for us.
fn read_pong(payload: &[u8]) -> Heard {
    if let Ok(number) = <[u8; 8]>::try_from(payload) {
        return Heard::Received(u64::from_be_bytes(number));
    }
    payload
        .strip_prefix(b"wsteady:")
        .filter(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .map_or(Heard::Nothing, Heard::Processed)
}

impl Hello {
    fn hear(&mut self, input: &[u8]) -> (usize, Heard) {
        if self.answer.is_some() {
            return self.hear_body(input);
        }
        let limits = HeadLimits::new(self.head_max);
        let end = match head::end(input, self.seen, &limits) {
            Ok(Some(end)) => end,
            Ok(None) => {
                self.seen = input.len();
                return (0, Heard::More);
            }
            Err(_) => return (input.len(), Heard::Failed),
        };
        self.seen = 0;
        let Ok(response) = Response::parse(&input[..end], &limits) else {
            return (end, Heard::Failed);
        };
        let heard = match response.status {
            101 => self.switched(&response),
            100..=199 if self.interim < INTERIM_MAX => {
                self.interim += 1;
                Heard::Nothing
            }
            300..=499 => self.refused(&response),
            _ => Heard::Failed,
        };
        (end, heard)
    }

    fn switched(&mut self, response: &Response) -> Heard {
        // A reconnect is told apart below from a wrong answer: another choice is a refusal then.
        let offered = if self.first {
            self.protocol.as_deref().unwrap_or_default()
        } else {
            response
                .headers
                .get_str("sec-websocket-protocol")
                .unwrap_or_default()
        };
        let accepted = match upgrade::check_101(response, &self.key, offered) {
            Ok(accepted) => accepted,
            Err(_) => return Heard::Failed,
        };
        let answered = match &self.deflate {
            Some(offer) => deflate::answer(&response.headers, offer),
            None if deflate::is_answered(&response.headers) => Err(Refusal::Illegal),
            None => Ok(None),
        };
        let deflate = match answered {
            Ok(deflate) => deflate,
            Err(_) if self.first && self.deflate.is_some() => return Heard::Unsuitable,
            Err(_) if self.first => return Heard::Failed,
            Err(_) => return Heard::Differs,
        };
        if !self.first {
            let same_protocol = accepted.protocol.as_deref() == self.protocol.as_deref();
            let same_deflate = match (&deflate, &self.deflate) {
                (Some(now), Some(agreed)) => now.stands_for(agreed),
                (None, None) => true,
                _ => false,
            };
            if !(same_protocol && same_deflate) {
                return Heard::Differs;
            }
        }
        let pass = response.headers.iter().filter(|(name, _)| {
            self.pass
                .iter()
                .any(|wanted| wanted.eq_ignore_ascii_case(name))
        });
        Heard::Ready(Box::new(Accepted {
            protocol: accepted.protocol,
            deflate,
            processed: accepted.confirm_processed,
            pass: pass
                .map(|(name, value)| (name.to_string(), value.to_vec()))
                .collect(),
        }))
    }

    fn refused(&mut self, response: &Response) -> Heard {
        let answering = Answering {
            status: response.status,
            head: response
                .headers
                .iter()
                .filter(|(name, _)| !head::is_hop_by_hop(name) && !is_framing(name))
                .filter(|(name, _)| !response.headers.has_token("connection", name))
                .map(|(name, value)| (name.to_string(), value.to_vec()))
                .collect(),
            body: Vec::new(),
        };
        // On a reconnect nobody is there to read why.
        if !self.first {
            return Heard::Refused(Box::new(Answer {
                status: response.status,
                response: Vec::new(),
            }));
        }
        match Body::of_response("GET", response) {
            Ok(body) if body.is_done() => answering.refuse(),
            Ok(body) => {
                self.answer = Some((answering, body));
                Heard::Nothing
            }
            Err(_) => Heard::Failed,
        }
    }

    fn hear_body(&mut self, input: &[u8]) -> (usize, Heard) {
        let Some((answering, body)) = &mut self.answer else {
            return (0, Heard::More);
        };
        let (used, done) = match body.step(input) {
            Ok(BodyStep::Data(range)) => {
                answering.body.extend_from_slice(&input[range.clone()]);
                (range.end, false)
            }
            Ok(BodyStep::Skip(skipped)) => (skipped, false),
            Ok(BodyStep::More) => return (0, Heard::More),
            Ok(BodyStep::Done(used)) => (used, true),
            Err(_) => return (input.len(), Heard::Failed),
        };
        if answering.body.len() > ANSWER_MAX {
            return (input.len(), Heard::Failed);
        }
        if !done && !body.is_done() {
            return (used, Heard::Nothing);
        }
        let whole = self.answer.take();
        (
            used,
            whole.map_or(Heard::Failed, |(answering, _)| answering.refuse()),
        )
    }
}

impl Answering {
    fn refuse(self) -> Heard {
        let mut response = Vec::with_capacity(256 + self.body.len());
        let mut head = HeadWriter::new(&mut response);
        let mut written = head.status_line(self.status);
        for (name, value) in &self.head {
            written = written.and_then(|()| head.header(name, value));
        }
        let length = self.body.len().to_string();
        written = written
            .and_then(|()| head.header("Content-Length", length.as_bytes()))
            .and_then(|()| head.header("Connection", b"close"));
        if written.is_err() {
            return Heard::Failed;
        }
        head.end();
        response.extend_from_slice(&self.body);
        Heard::Refused(Box::new(Answer {
            status: self.status,
            response,
        }))
    }
}

fn is_framing(name: &str) -> bool {
    [
        "content-length",
        "transfer-encoding",
        "connection",
        "trailer",
    ]
    .iter()
    .any(|framing| framing.eq_ignore_ascii_case(name))
}

/// A server's messages stream at any length (CONTRACT 4).
const SERVER_LIMITS: Limits = Limits {
    message_max: u64::MAX,
    fragments_max: u32::MAX,
    utf8: false,
};

/// Interim responses that a server may send before its answer (THREATS V16).
const INTERIM_MAX: u8 = 8;

/// Bytes of a refusal's body that the client gets (CONTRACT 4).
const ANSWER_MAX: usize = 64 << 10;
