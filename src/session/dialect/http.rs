//! The HTTP dialect: a server is asked something and answers once; then it may be asked again.

use std::io::Write;

use super::{Asks, Call, Dial, Dialect, Head, Heard, Reply, Terms};
use crate::kit::Prng;
use crate::session::visit::DRAIN;
use crate::session::vocab::Loss;
use crate::wire::body::{Body, BodyStep};
use crate::wire::compose::HeadWriter;
use crate::wire::head::{self, HeadLimits, Response};

/// One connection over which calls are made, one at a time.
pub struct Http {
    /// The answer whose body is arriving.
    reading: Option<Box<Reading>>,
    /// Answers are passed on as they come, and not collected.
    streams: bool,
    /// The body that is passing through.
    flow: Option<Body>,
    /// HEAD was asked: there is no body, whatever the head says.
    head_only: bool,
    body_max: u64,
    head_max: u32,
    /// Bytes of the response head that were looked at already.
    seen: u32,
    interim: u8,
}

struct Reading {
    reply: Reply,
    body: Body,
}

impl Http {
    /// A connection on which nothing was asked yet. Bounds in bytes.
    pub fn new(head_max: usize, body_max: u64) -> Http {
        Http {
            reading: None,
            streams: false,
            flow: None,
            head_only: false,
            body_max,
            head_max: head_max as u32,
            seen: 0,
            interim: 0,
        }
    }

    /// The answer to one call.
    fn hear_reply(&mut self, input: &[u8]) -> (usize, Heard) {
        if self.reading.is_some() {
            return self.hear_body(input);
        }
        if self.flow.is_some() {
            return self.hear_flow(input);
        }
        let limits = HeadLimits::new(self.head_max as usize);
        let end = match head::end(input, self.seen as usize, &limits) {
            Ok(Some(end)) => end,
            Ok(None) => {
                self.seen = input.len() as u32;
                return (0, Heard::More);
            }
            Err(_) => return (input.len(), Heard::Broken(Loss::Protocol)),
        };
        self.seen = 0;
        match self.read_head(&input[..end], &limits) {
            Some(heard) => (end, heard),
            None => (input.len(), Heard::Broken(Loss::Protocol)),
        }
    }

    /// `None`: the server breaks the protocol, or answers an upgrade that nobody asked for (V2).
    fn read_head(&mut self, head: &[u8], limits: &HeadLimits) -> Option<Heard> {
        let response = Response::parse(head, limits).ok()?;
        if response.status == 101 {
            return None;
        }
        if response.status < 200 {
            self.interim += 1;
            return (self.interim <= INTERIM_MAX).then_some(Heard::Nothing);
        }
        self.interim = 0;
        let method = if self.head_only { "HEAD" } else { "POST" };
        let body = Body::of_response(method, &response).ok()?;
        if self.streams {
            return Some(self.begin_flow(&response, body));
        }
        let headers = &response.headers;
        let is_binary = |value: &str| {
            let kind = value.split(';').next().unwrap_or_default().trim();
            kind.eq_ignore_ascii_case(BINARY)
        };
        let reply = Reply {
            status: response.status,
            binary: headers.get_str("content-type").is_some_and(is_binary),
            protocol: headers.get_str("sec-websocket-protocol").map(str::to_owned),
            // Encoded bytes are not the message; we ask for none and undo none.
            encoded: headers
                .members("content-encoding")
                .any(|coding| !coding.eq_ignore_ascii_case(b"identity")),
            body: Vec::new(),
            too_long: false,
            keep: response.keeps_alive() && !body.is_until_close(),
            drains: headers.get(DRAIN).is_some(),
        };
        if body.length().is_some_and(|length| length > self.body_max) {
            return Some(Heard::Reply(Box::new(reply.abandoned())));
        }
        if body.is_done() {
            return Some(Heard::Reply(Box::new(reply)));
        }
        self.reading = Some(Box::new(Reading { reply, body }));
        Some(Heard::Nothing)
    }

    /// What a client gets of the answer's head; framing is written anew for it.
    fn begin_flow(&mut self, response: &Response<'_>, body: Body) -> Heard {
        let headers = &response.headers;
        let mut lines = Vec::with_capacity(512);
        let mut head = HeadWriter::new(&mut lines);
        let bodiless = self.head_only || response.status == 304;
        for (name, value) in headers.iter() {
            let nominated = headers.has_token("connection", name);
            // Without a body the length is only told, and passes.
            let framing = name.eq_ignore_ascii_case("content-length") && !bodiless;
            if !nominated && !framing && !head::is_hop_by_hop(name) {
                // Parsed values can't be refused; one that is must not reach the wire.
                let _left_out = head.header(name, value);
            }
        }
        let answer = Head {
            status: response.status,
            lines,
            length: body.length(),
            bodiless: body.is_done() && (bodiless || response.status == 204),
            ends: body.is_done(),
            keep: response.keeps_alive() && !body.is_until_close(),
        };
        if !answer.ends {
            self.flow = Some(body);
        }
        Heard::Head(Box::new(answer))
    }

    fn hear_flow(&mut self, input: &[u8]) -> (usize, Heard) {
        let Some(body) = &mut self.flow else {
            return (0, Heard::More);
        };
        let (used, heard) = match body.step(input) {
            Ok(BodyStep::Data(range)) => (
                range.end,
                Heard::Flow {
                    ends: body.is_done(),
                },
            ),
            Ok(BodyStep::Skip(skipped)) => (skipped, Heard::Nothing),
            Ok(BodyStep::More) => return (0, Heard::More),
            Ok(BodyStep::Done(used)) => (used, Heard::FlowEnd),
            Err(_) => (input.len(), Heard::Broken(Loss::Protocol)),
        };
        if body.is_done() {
            self.flow = None;
        }
        (used, heard)
    }

    fn hear_body(&mut self, input: &[u8]) -> (usize, Heard) {
        let Some(reading) = &mut self.reading else {
            return (0, Heard::More);
        };
        let (used, done) = match reading.body.step(input) {
            Ok(BodyStep::Data(range)) => {
                reading.reply.body.extend_from_slice(&input[range.clone()]);
                (range.end, false)
            }
            Ok(BodyStep::Skip(skipped)) => (skipped, false),
            Ok(BodyStep::More) => return (0, Heard::More),
            Ok(BodyStep::Done(used)) => (used, true),
            Err(_) => return (input.len(), Heard::Broken(Loss::Protocol)),
        };
        if reading.reply.body.len() as u64 > self.body_max {
            let heard = self.finish(Reply::abandoned);
            return (input.len(), heard);
        }
        if done || reading.body.is_done() {
            return (used, self.finish(|reply| reply));
        }
        (used, Heard::Nothing)
    }

    fn finish(&mut self, with: impl FnOnce(Reply) -> Reply) -> Heard {
        match self.reading.take() {
            Some(reading) => Heard::Reply(Box::new(with(reading.reply))),
            None => Heard::Nothing,
        }
    }
}

impl Reply {
    /// The rest of its body is not read: the connection is of no use any more.
    fn abandoned(self) -> Reply {
        Reply {
            body: Vec::new(),
            too_long: true,
            keep: false,
            ..self
        }
    }
}

impl Dialect for Http {
    fn open(dial: Dial<'_>, _rng: &mut Prng, _first_bytes: &mut Vec<u8>) -> Http {
        Http::new(dial.head_max, u64::MAX)
    }

    fn for_calls(terms: &Terms<'_>) -> Option<Http> {
        Some(Http {
            streams: terms.streams,
            ..Http::new(terms.head_max, terms.body_max)
        })
    }

    fn call(
        &mut self,
        call: &Call<'_>,
        body: &mut dyn FnMut(&mut Vec<u8>),
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let (method, target) = match call.asks {
            Asks::Admission { target, .. } => ("GET", target),
            Asks::Message { .. } => ("POST", call.client_id),
            Asks::Farewell { .. } => ("DELETE", call.client_id),
        };
        let mut head = HeadWriter::new(out);
        head.request_line(method, &[call.to.prefix, target].concat())
            .ok()?;
        head.header("Host", call.to.authority).ok()?;
        if let Asks::Admission { protocol, .. } = call.asks {
            if let Some(protocol) = protocol {
                head.header("Sec-WebSocket-Protocol", protocol.as_bytes())
                    .ok()?;
            }
        } else if call.lines.is_empty() {
            let peer = call.peer.to_canonical();
            let _ = write!(out, "X-Forwarded-For: {peer}\r\n");
        }
        out.extend_from_slice(call.lines);
        let session = call.session;
        match call.asks {
            Asks::Admission { .. } => {}
            Asks::Message {
                binary,
                length,
                number,
            } => {
                let kind = if binary { BINARY } else { TEXT };
                let _ = write!(
                    out,
                    "Content-Type: {kind}\r\nContent-Length: {length}\r\n\
                     Idempotency-Key: \"{session:032x}-{number}\"\r\n"
                );
            }
            Asks::Farewell { code, length } => {
                let _ = write!(
                    out,
                    "X-Wsteady-Close: {code}\r\nContent-Length: {length}\r\n"
                );
                if length > 0 {
                    let _ = write!(out, "Content-Type: {TEXT}\r\n");
                }
            }
        }
        let _ = write!(out, "X-Wsteady-Session: {session:032x}\r\n\r\n");
        body(out);
        Some(())
    }

    fn asked(&mut self, head_only: bool) {
        self.head_only = head_only;
    }

    fn hear(&mut self, input: &[u8]) -> (usize, Heard) {
        self.hear_reply(input)
    }

    fn hear_end(&mut self) -> Heard {
        match &self.reading {
            Some(reading) if reading.body.is_until_close() => self.finish(|reply| reply),
            _ if self.flow.take().is_some_and(|body| body.is_until_close()) => Heard::FlowEnd,
            _ => Heard::Broken(Loss::Fin),
        }
    }

    fn is_whole(&self) -> bool {
        self.reading.is_none() && self.flow.is_none()
    }
}

/// Interim responses before an answer (THREATS V16).
const INTERIM_MAX: u8 = 8;

const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

#[cfg(test)]
mod tests {
    use super::*;

    /// All replies in `bytes`, given in pieces of `step`; how it ended, if it did.
    fn hear(bytes: &[u8], step: usize, then_end: bool) -> (Vec<Reply>, bool) {
        let mut http = Http::new(1_024, 100);
        let (mut replies, mut kept, mut broken) = (Vec::new(), Vec::new(), false);
        let mut take = |heard, broken: &mut bool| match heard {
            Heard::Reply(reply) => replies.push(*reply),
            Heard::Broken(_) => *broken = true,
            _ => {}
        };
        for piece in bytes.chunks(step) {
            kept.extend_from_slice(piece);
            while !kept.is_empty() && !broken {
                let (used, heard) = http.hear(&kept);
                if matches!(heard, Heard::More) {
                    break;
                }
                kept.drain(..used);
                take(heard, &mut broken);
            }
        }
        if then_end && !broken {
            take(http.hear_end(), &mut broken);
        }
        (replies, broken)
    }

    #[test]
    fn answers_are_the_same_however_they_are_cut() {
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let long = "HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/octet-stream\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        // Bytes, then the end of the stream; status, body, binary, too long, keep; broken.
        type Row<'a> = (&'a str, bool, &'a [(u16, &'a str, bool, bool, bool)], bool);
        let rows: &[Row<'_>] = &[
            (ok, false, &[(200, "ok", false, false, true)], false),
            (chunked, false, &[(200, "abc", true, false, true)], false),
            (
                "HTTP/1.1 204 No Content\r\n\r\n",
                false,
                &[(204, "", false, false, true)],
                false,
            ),
            (
                "HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                false,
                &[(503, "", false, false, false)],
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\n\r\nall of it",
                true,
                &[(200, "all of it", false, false, false)],
                false,
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                false,
                &[(200, "", false, false, true)],
                false,
            ),
            (long, false, &[(200, "", false, true, false)], false),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
                true,
                &[],
                true,
            ),
            (
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
                false,
                &[],
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
                false,
                &[],
                true,
            ),
            ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", false, &[], true),
            ("SSH-2.0-OpenSSH\r\n\r\n", false, &[], true),
        ];
        for (bytes, then_end, want, broken) in rows {
            for step in 1..=bytes.len() {
                let (replies, broke) = hear(bytes.as_bytes(), step, *then_end);
                assert_eq!(broke, *broken, "{bytes:?} in pieces of {step}");
                let got: Vec<_> = replies
                    .iter()
                    .map(|r| {
                        (
                            r.status,
                            std::str::from_utf8(&r.body).unwrap(),
                            r.binary,
                            r.too_long,
                            r.keep,
                        )
                    })
                    .collect();
                assert_eq!(got, *want, "{bytes:?} in pieces of {step}");
            }
        }
    }
}
