//! The seam for what servers speak. A dialect turns a server's bytes into what a session
//! understands, and makes the few frames that wsteady says itself.

pub mod conformance;
pub mod http;
#[cfg(feature = "nats")]
pub mod nats;
mod tongue;
pub mod ws;

pub use self::tongue::Tongue;

use std::net::IpAddr;

use super::vocab::{Api, Loss};
use crate::kit::Prng;
use crate::wire::deflate::Deflate;
use crate::wire::frame::{ControlBytes, Opcode, control};

/// One conversation with one server. Pure: bytes in, bytes out.
pub trait Dialect: Sized {
    /// Begins a conversation; what has to be said first goes into `first_bytes`.
    fn open(dial: Dial<'_>, rng: &mut Prng, first_bytes: &mut Vec<u8>) -> Self;

    /// A connection over which calls are made; `None` if this dialect makes none.
    fn for_calls(_terms: &Terms<'_>) -> Option<Self> {
        None
    }

    /// Writes a call, with what `body` appends where its body stands. `None`: it has no words for it.
    fn call(
        &mut self,
        _call: &Call<'_>,
        _body: &mut dyn FnMut(&mut Vec<u8>),
        _out: &mut Vec<u8>,
    ) -> Option<()> {
        None
    }

    /// Hears what comes while no call is under way; what is to be said to it goes into `out`. False:
    /// no call may be made over this connection any more.
    fn rest(&mut self, _input: &[u8], _out: &mut Vec<u8>) -> bool {
        false
    }

    /// A request is being written; `head_only`: its answer has no body.
    fn asked(&mut self, _head_only: bool) {}

    /// Says what stands at the start of `input` and how many bytes of it that is. `More` with 0
    /// bytes: to be kept, and looked at again with more behind it.
    fn hear(&mut self, input: &[u8]) -> (usize, Heard);

    /// The server ended its side: some answers are complete only then.
    fn hear_end(&mut self) -> Heard;

    /// A barrier or keepalive with this number. This and the next two are said to servers that have a
    /// session's own connection, and so never by a dialect that makes calls.
    fn ping(&self, _number: u64, _rng: &mut Prng) -> ControlBytes {
        control(Opcode::Ping, &[], None)
    }

    /// The answer to the server's Ping.
    fn pong(&self, _payload: &[u8], _rng: &mut Prng) -> ControlBytes {
        control(Opcode::Pong, &[], None)
    }

    /// The end of the conversation.
    fn close(&self, _code: u16, _reason: &str, _rng: &mut Prng) -> ControlBytes {
        control(Opcode::Close, &[], None)
    }

    /// Whether the stream from the server stands between two frames.
    fn is_whole(&self) -> bool;
}

/// What a conversation begins with.
pub struct Dial<'a> {
    /// What stands before the client's target: the path of the server's URL, usually empty.
    pub prefix: &'a str,
    /// Whether the server's URL is used as it is.
    pub fixed: bool,
    /// The kept head of the client.
    pub kept: &'a Kept,
    /// The session's id, the number of the first message, and the reconnect header if there was a
    /// server before.
    pub extra: &'a [(&'a str, &'a str)],
    /// Offer no permessage-deflate, although the client has asked for it.
    pub plain: bool,
    /// A first connect: answers that refuse are wanted whole.
    pub first: bool,
    /// Response headers that are to be handed over.
    pub pass: &'a [String],
    /// Bytes that a response head may have.
    pub head_max: usize,
}

/// What holds for all calls over a connection.
pub struct Terms<'a> {
    /// Bytes that an answer's head may have, and its body.
    pub head_max: usize,
    pub body_max: u64,
    /// Answers are passed on as they come, and not collected.
    pub streams: bool,
    /// What the servers of this pool speak.
    pub api: &'a Api,
    /// The name of the pool.
    pub pool: &'a str,
}

/// A call about a client.
pub struct Call<'a> {
    pub to: &'a CallTo<'a>,
    /// The ClientId, of the grammar in CONTRACT 5.
    pub client_id: &'a str,
    /// The session's id.
    pub session: u128,
    /// Where the client is.
    pub peer: IpAddr,
    /// Kept header lines, ready for HTTP; if there are none, the peer says where the client is.
    pub lines: &'a [u8],
    pub asks: Asks<'a>,
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks<'a> {
    /// Whether the client may come in: yes is 200 and `ok`.
    Admission {
        /// Its ClientId, and the query if there is one.
        target: &'a str,
        /// The subprotocols that it offers.
        protocol: Option<&'a str>,
    },
    /// To take a message, which is the body: yes is any 2xx.
    Message {
        binary: bool,
        /// Bytes of the body.
        length: usize,
        /// Counts the session's messages from 0; the same whenever it is said again.
        number: u64,
    },
    /// To know that the client has left, the body being the reason: yes is 2xx and `ok`.
    Farewell {
        /// Of its Close; 1005 without one, 1006 if it was lost.
        code: u16,
        /// Bytes of the body.
        length: usize,
    },
}

/// Where a call goes.
pub struct CallTo<'a> {
    /// Path of the server's URL; ends in a slash.
    pub prefix: &'a str,
    /// Host and port.
    pub authority: &'a str,
}

/// What is kept of a client's request, so that the next server can be asked the same. In one piece,
/// for there is one per session.
#[derive(Debug, Default)]
pub struct Kept {
    /// Target, subprotocols, key and header lines, without anything between them.
    text: Box<[u8]>,
    target_len: u32,
    protocol_len: u32,
    key_len: u8,
    /// What was offered of permessage-deflate; once agreed, exactly that.
    pub deflate: Option<Deflate>,
}

impl Kept {
    /// Keeps a target and header lines.
    pub fn new(target: &str, lines: &[u8]) -> Kept {
        let mut kept = Kept::default();
        kept.set(target, lines);
        kept
    }

    /// Keeps what an upgrade asks for, too.
    pub fn ask(&mut self, protocols: &str, key: &str, deflate: Option<Deflate>) {
        let [target, _, _, lines] = self.parts();
        *self = Kept::made(
            [target, protocols.as_bytes(), key.as_bytes(), lines],
            deflate,
        );
    }

    /// The request target.
    pub fn target(&self) -> &str {
        let [target, ..] = self.parts();
        words(target)
    }

    /// The subprotocols offered; once a server has chosen, that one alone.
    pub fn protocol(&self) -> Option<&str> {
        let [_, protocol, ..] = self.parts();
        (!protocol.is_empty()).then(|| words(protocol))
    }

    /// Header lines, ready for the wire.
    pub fn lines(&self) -> &[u8] {
        let [.., lines] = self.parts();
        lines
    }

    /// Whether the client waits for a 101: its Sec-WebSocket-Key was not taken.
    pub fn has_key(&self) -> bool {
        self.key_len > 0
    }

    /// Takes another target and other lines.
    pub fn set(&mut self, target: &str, lines: &[u8]) {
        let [_, protocol, key, _] = self.parts();
        *self = Kept::made([target.as_bytes(), protocol, key, lines], self.deflate);
    }

    /// Takes another subprotocol, or none.
    pub fn set_protocol(&mut self, protocol: Option<&str>) {
        let [target, _, key, lines] = self.parts();
        let protocol = protocol.unwrap_or_default().as_bytes();
        *self = Kept::made([target, protocol, key, lines], self.deflate);
    }

    /// The client's key, which is needed once; empty if it was taken.
    pub fn take_key(&mut self) -> String {
        let [target, protocol, key, lines] = self.parts();
        let taken = words(key).to_string();
        *self = Kept::made([target, protocol, b"", lines], self.deflate);
        taken
    }

    /// Bytes, its own included.
    pub fn bytes(&self) -> usize {
        size_of::<Kept>() + self.text.len()
    }

    fn parts(&self) -> [&[u8]; 4] {
        let (target, rest) = self.text.split_at(self.target_len as usize);
        let (protocol, rest) = rest.split_at(self.protocol_len as usize);
        let (key, lines) = rest.split_at(usize::from(self.key_len));
        [target, protocol, key, lines]
    }

    fn made(parts: [&[u8]; 4], deflate: Option<Deflate>) -> Kept {
        Kept {
            text: parts.concat().into_boxed_slice(),
            target_len: parts[0].len() as u32,
            protocol_len: parts[1].len() as u32,
            // A key has 24 bytes (wire refuses others).
            key_len: parts[2].len() as u8,
            deflate,
        }
    }
}

/// Targets, subprotocols and keys are visible ASCII (wire refuses others).
fn words(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// What a dialect understood.
#[derive(Debug)]
pub enum Heard {
    /// An incomplete something.
    More,
    /// Something of no consequence.
    Nothing,
    /// The server takes the session.
    Ready(Box<Accepted>),
    /// The server refuses, as HTTP: 3xx or 4xx.
    Refused(Box<Answer>),
    /// It answered, but not well: 5xx, 2xx, a wrong 101.
    Failed,
    /// It accepted an extension without what a replay needs: dial again without.
    Unsuitable,
    /// It chose a subprotocol or extension that the client does not have.
    Differs,
    /// The answer to a call, whole.
    Reply(Box<Reply>),
    /// The head of an answer that is passed on.
    Head(Box<Head>),
    /// Bytes of its body; the last ones?
    Flow { ends: bool },
    /// Its body has ended, and these bytes are none of it.
    FlowEnd,
    /// A piece of a message, to be passed on as it is.
    Piece(Piece),
    /// The server's Ping.
    Ping(crate::wire::frame::ControlPayload),
    /// A Pong with a number: everything before it was received.
    Received(u64),
    /// The application dealt with so many messages of the session.
    Processed(u64),
    /// The server's Close; `None` stands for no code (1005).
    Closed(Option<(u16, Box<str>)>),
    /// The connection must end.
    Broken(Loss),
}

/// A piece of a message from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The message begins here.
    pub begins: bool,
    /// The message ends here.
    pub ends: bool,
    /// A frame ends here: control frames may follow.
    pub ends_frame: bool,
    /// Payload bytes of the message so far, as far as its headers have announced them.
    pub announced: u64,
}

/// What a server's 101 said.
#[derive(Debug, Default)]
pub struct Accepted {
    /// The subprotocol it chose.
    pub protocol: Option<String>,
    /// The extension that was agreed.
    pub deflate: Option<Deflate>,
    /// It will confirm each message when it was processed.
    pub processed: bool,
    /// Headers for the client.
    pub pass: Vec<(String, Vec<u8>)>,
}

/// The head of an answer that is passed on to a client.
#[derive(Debug, Default)]
pub struct Head {
    /// 200 to 599.
    pub status: u16,
    /// Header lines, without what belongs to the server's connection or frames the body.
    pub lines: Vec<u8>,
    /// Bytes of the body, if they were told.
    pub length: Option<u64>,
    /// There can't be a body (HEAD, 204, 304).
    pub bodiless: bool,
    /// There is none, or it is empty.
    pub ends: bool,
    /// Another request may follow on the server's connection.
    pub keep: bool,
}

/// The answer of an API to one call.
#[derive(Debug, Default)]
pub struct Reply {
    /// 200 to 599.
    pub status: u16,
    /// Its type is `application/octet-stream`.
    pub binary: bool,
    /// The subprotocol that it names.
    pub protocol: Option<String>,
    /// The body is compressed, or otherwise no message as it stands.
    pub encoded: bool,
    pub body: Vec<u8>,
    /// The body was longer than a message may be, and was not read.
    pub too_long: bool,
    /// Another call may follow on this connection.
    pub keep: bool,
    /// It comes from a node that drains: there will be no other connection.
    pub drains: bool,
}

/// A complete HTTP answer that refuses.
#[derive(Debug, Default)]
pub struct Answer {
    /// 300 to 499.
    pub status: u16,
    /// The whole response, ready for the client; empty on a reconnect, where nobody gets it.
    pub response: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_changes_part_by_part() {
        let mut kept = Kept::new("/a?b", b"X: 1\r\n");
        assert_eq!((kept.protocol(), kept.has_key()), (None, false));
        kept.ask("chat, v2", "dGhlIHNhbXBsZSBub25jZQ==", None);
        assert_eq!((kept.target(), kept.lines()), ("/a?b", &b"X: 1\r\n"[..]));
        assert_eq!((kept.protocol(), kept.has_key()), (Some("chat, v2"), true));
        kept.set("/c", b"");
        assert_eq!((kept.target(), kept.lines()), ("/c", &b""[..]));
        assert_eq!(kept.protocol(), Some("chat, v2"));
        assert_eq!(kept.take_key(), "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(kept.take_key(), "");
        kept.set_protocol(Some("v2"));
        assert_eq!((kept.target(), kept.protocol()), ("/c", Some("v2")));
        kept.set_protocol(None);
        assert_eq!(kept.bytes(), size_of::<Kept>() + 2);
    }
}
