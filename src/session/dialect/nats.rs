//! The NATS dialect: a call is a publish, and its answer is JetStream's acknowledgement, or the PONG
//! behind it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Asks, Call, Dial, Dialect, Heard, Reply, Terms};
use crate::kit::Prng;
use crate::session::vocab::{Api, Loss};
use crate::wire::nats::{self, Delivery, Headers, Login, Said};

/// How the servers of a pool are spoken to.
#[derive(Default)]
pub struct NatsTerms {
    /// What stands before the ClientId in subjects.
    pub prefix: String,
    /// A message counts when a stream has it, and not when a server has.
    pub jetstream: bool,
    /// What servers call us.
    pub name: String,
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
    /// No other process has the same: answers for one must not come to another.
    pub mark: u64,
    /// Is given what servers complain about: that is for the operator.
    // Rule: shared, as watchers are; not called for what goes well.
    pub complain: Option<Complain>,
    /// Connections so far, and the longest message that a server takes, 0 before one has said so.
    /// Touched once for each connection, and never for a message.
    pub connections: AtomicU64,
    pub payload_max: AtomicU64,
}

/// Is told; must not block.
pub type Complain = Arc<dyn Fn(&str) + Send + Sync>;

// By hand: it holds secrets.
impl fmt::Debug for NatsTerms {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, jetstream) = (&self.prefix, self.jetstream);
        write!(to, "Nats {{ prefix: {prefix:?}, jetstream: {jetstream} }}")
    }
}

/// One connection over which calls are made, one at a time.
pub struct Nats {
    terms: Arc<NatsTerms>,
    /// CONNECT was said.
    begun: bool,
    /// Where acknowledgements come, but for the number of the call.
    inbox: String,
    /// Calls so far.
    calls: u64,
    awaits: Awaits,
    /// The server's Ping was not answered yet.
    owes: bool,
    /// The server will stop soon.
    leaves: bool,
    /// Bytes of a message, headers included, that the server takes.
    payload_max: usize,
}

/// What the answer to a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Nothing,
    /// A PONG: then that is the status. `word`: with `ok` behind it.
    Pong {
        status: u16,
        word: bool,
    },
    /// What a stream says of the message.
    Ack,
}

impl Nats {
    fn new(terms: &Arc<NatsTerms>) -> Nats {
        let number = terms.connections.fetch_add(1, Relaxed);
        // A server that is sent more than it takes may be gone before its word on that is read: what
        // another connection was told is better than nothing.
        let told = terms.payload_max.load(Relaxed);
        Nats {
            terms: terms.clone(),
            begun: false,
            inbox: format!("_INBOX.wsteady.{:016x}.{number}", terms.mark),
            calls: 0,
            awaits: Awaits::Nothing,
            owes: false,
            leaves: false,
            payload_max: if told == 0 { usize::MAX } else { told as usize },
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        let terms = &self.terms;
        let login = Login {
            name: &terms.name,
            user: terms.user.as_deref(),
            password: terms.password.as_deref(),
            token: terms.token.as_deref(),
        };
        // INFO is not waited for: nothing in it could make us say something else.
        nats::connect(&login, out);
        if terms.jetstream {
            nats::subscribe(&format!("{}.*", self.inbox), None, INBOX_SID, out);
        }
        self.begun = true;
    }

    /// What is waited for, and what else comes meanwhile.
    fn understand(&mut self, said: &Said<'_>) -> Heard {
        match said {
            Said::Info(json) => self.on_info(json),
            Said::Ping => {
                // It is answered with the next call, or at rest: a server waits minutes for that.
                self.owes = true;
                Heard::Nothing
            }
            Said::Ok => Heard::Nothing,
            Said::Pong => match self.awaits {
                Awaits::Pong { status, word } => self.reply(status, word),
                Awaits::Nothing | Awaits::Ack => Heard::Broken(Loss::Protocol),
            },
            Said::Message(message) => match self.ack(message) {
                Some(status) => self.reply(status, false),
                None => Heard::Nothing,
            },
            Said::Err(text) => {
                self.complain(text);
                if self.awaits == Awaits::Nothing {
                    return Heard::Broken(Loss::Protocol);
                }
                // Behind many of them the server closes.
                self.leaves = true;
                let too_long = text.eq_ignore_ascii_case(TOO_LONG);
                self.reply(if too_long { 413 } else { 503 }, false)
            }
        }
    }

    fn on_info(&mut self, json: &[u8]) -> Heard {
        let max = nats::json_field(json, "max_payload").and_then(nats::number);
        if let Some(max) = max.filter(|max| *max > 0) {
            self.payload_max = max as usize;
            self.terms.payload_max.store(max, Relaxed);
        }
        self.leaves |= nats::json_field(json, "ldm") == Some(b"true");
        Heard::Nothing
    }

    /// The status of the call that is under way, if this is its acknowledgement. Whoever else answers
    /// the message is not asked.
    fn ack(&self, message: &Delivery<'_>) -> Option<u16> {
        let number = self.calls.to_string();
        let of_this = message
            .subject
            .strip_prefix(self.inbox.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"."))
            .is_some_and(|rest| rest == number.as_bytes() || planted!(AckOfAnother));
        if self.awaits != Awaits::Ack || !of_this {
            return None;
        }
        if let Some(status) = message.status() {
            self.complain("no stream takes the messages: none listens to their subject");
            // 503: there is none, which may change.
            return Some(status.max(500));
        }
        if let Some(error) = nats::json_field(message.payload, "error") {
            let code = nats::json_field(error, "code").and_then(nats::number);
            let why = nats::json_field(error, "description").unwrap_or(error);
            self.complain(&String::from_utf8_lossy(why));
            // 4xx is about this message: no other server would take it.
            return Some(match code {
                Some(code @ 400..=499) => code as u16,
                _ => 503,
            });
        }
        nats::json_field(message.payload, "stream").map(|_| 200)
    }

    fn reply(&mut self, status: u16, word: bool) -> Heard {
        self.awaits = Awaits::Nothing;
        let body = if word { b"ok".to_vec() } else { Vec::new() };
        Heard::Reply(Box::new(Reply {
            status,
            body,
            keep: !self.leaves,
            ..Reply::default()
        }))
    }

    fn complain(&self, text: &str) {
        if let Some(complain) = &self.terms.complain {
            complain(text);
        }
    }
}

impl Dialect for Nats {
    fn open(_dial: Dial<'_>, _rng: &mut Prng, _first_bytes: &mut Vec<u8>) -> Nats {
        Nats::new(&Arc::default())
    }

    fn for_calls(terms: &Terms<'_>) -> Option<Nats> {
        match terms.api {
            Api::Nats(own) => Some(Nats::new(own)),
            Api::Http => None,
        }
    }

    fn call(
        &mut self,
        call: &Call<'_>,
        body: &mut dyn FnMut(&mut Vec<u8>),
        out: &mut Vec<u8>,
    ) -> Option<()> {
        debug_assert_eq!(self.awaits, Awaits::Nothing, "one call at a time");
        if !self.begun {
            self.begin(out);
        }
        if std::mem::take(&mut self.owes) && !planted!(PongForgotten) {
            out.extend_from_slice(nats::PONG.as_bytes());
        }
        self.calls += 1;
        let (word, length) = match call.asks {
            Asks::Admission { .. } => ("open", 0),
            Asks::Message { length, .. } => ("in", length),
            Asks::Farewell { length, .. } => ("close", length),
        };
        let headers = headers(call);
        if headers.len() + length > self.payload_max {
            // Said by us, in its turn: the server would end the connection.
            let status = 413;
            self.awaits = Awaits::Pong {
                status,
                word: false,
            };
            out.extend_from_slice(nats::PING.as_bytes());
            return Some(());
        }
        let mut subject = format!("{}.", self.terms.prefix).into_bytes();
        nats::put_token(call.client_id, &mut subject);
        subject.extend_from_slice(format!(".{word}").as_bytes());
        let is_message = matches!(call.asks, Asks::Message { .. });
        let acked = is_message && self.terms.jetstream;
        let reply = acked.then(|| format!("{}.{}", self.inbox, self.calls));
        let reply = reply.as_ref().map(String::as_bytes);
        nats::publish_head(&subject, reply, &headers, length, out);
        body(out);
        out.extend_from_slice(nats::LINE.as_bytes());
        if acked {
            self.awaits = Awaits::Ack;
            return Some(());
        }
        out.extend_from_slice(nats::PING.as_bytes());
        let (status, word) = (200, !is_message);
        self.awaits = Awaits::Pong { status, word };
        Some(())
    }

    fn rest(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        let mut at = 0;
        while at < input.len() {
            // A part of a line is not waited for: another connection costs little.
            let Ok(Some((used, said))) = nats::parse(&input[at..], REPLY_MAX) else {
                return false;
            };
            at += used;
            match said {
                Said::Pong | Said::Err(_) => {
                    self.understand(&said);
                    return false;
                }
                Said::Info(_) | Said::Ping | Said::Ok | Said::Message(_) => {
                    self.understand(&said);
                }
            }
        }
        if std::mem::take(&mut self.owes) && !planted!(PongForgotten) {
            out.extend_from_slice(nats::PONG.as_bytes());
        }
        !self.leaves
    }

    fn hear(&mut self, input: &[u8]) -> (usize, Heard) {
        match nats::parse(input, REPLY_MAX) {
            Ok(Some((used, said))) => (used, self.understand(&said)),
            Ok(None) => (0, Heard::More),
            Err(_) => (input.len(), Heard::Broken(Loss::Protocol)),
        }
    }

    fn hear_end(&mut self) -> Heard {
        Heard::Broken(Loss::Fin)
    }

    fn is_whole(&self) -> bool {
        self.awaits == Awaits::Nothing
    }
}

/// What an HTTP API would be told, in the same words.
fn headers(call: &Call<'_>) -> Vec<u8> {
    let session = format!("{:032x}", call.session);
    let mut headers = Headers::new();
    match call.asks {
        Asks::Admission { target, protocol } => {
            headers = headers
                .with(MSG_ID, &format!("{session}-open"))
                .with("X-Wsteady-Target", target);
            if let Some(protocol) = protocol {
                headers = headers.with("Sec-WebSocket-Protocol", protocol);
            }
        }
        Asks::Message { binary, number, .. } => {
            headers = headers
                .with(MSG_ID, &format!("{session}-{number}"))
                .with("Content-Type", if binary { BINARY } else { TEXT });
        }
        Asks::Farewell { code, .. } => {
            headers = headers
                .with(MSG_ID, &format!("{session}-close"))
                .with("X-Wsteady-Close", &code.to_string());
        }
    }
    if call.lines.is_empty() {
        let peer = call.peer.to_canonical().to_string();
        headers = headers.with("X-Forwarded-For", &peer);
    }
    headers
        .with_lines(call.lines)
        .with("X-Wsteady-Session", &session)
        .end()
}

/// By this a stream knows a message that it has already.
const MSG_ID: &str = "Nats-Msg-Id";

const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

/// The one subscription of a connection.
const INBOX_SID: u64 = 1;

/// An acknowledgement is some 50 bytes, and has the name of a stream in it.
const REPLY_MAX: usize = 16 << 10;

const TOO_LONG: &str = "Maximum Payload Violation";
