//! The HTTP APIs: they read requests strictly, answer well or badly, late or never.

use std::collections::VecDeque;

use super::calls::Asking;
#[cfg(not(feature = "nats"))]
use super::http::Messages as Tap;
#[cfg(feature = "nats")]
use super::nats::{Tap, Unasked};
use super::world::World;
use crate::sim::codec;
use crate::sim::ground::Reach;
use crate::sim::head::Head;

/// A server process.
#[derive(Clone, Debug, Default)]
pub struct Api {
    pub reach: Reach,
    pub stopped_until: u64,
    /// Until then most of its answers are bad.
    pub moody_until: u64,
}

/// One connection to it.
#[derive(Default)]
pub struct Line {
    pub conn: usize,
    pub api: usize,
    /// What the proxy's kernel took of requests, and what of that is under way.
    pub tap: Tap,
    pub asking: Option<Asking>,
    /// Bytes of a request were taken since the last answer was read.
    pub begun: bool,
    /// Requests over it so far.
    pub asked: u32,
    /// Since when it rests: its last answer was read then.
    pub rests_since: Option<u64>,
    /// Garbage was read: nothing that follows is understood.
    pub deaf: bool,
    /// Why nothing may ever be sent over it again.
    pub spoiled: Option<&'static str>,
    /// What the process has read, and how it will answer.
    pub(super) inbox: Tap,
    plan: Option<Plan>,
    early: bool,
    out: VecDeque<u8>,
    /// Bytes ever put into `out`.
    put: u64,
    /// Answers that the proxy has not read yet.
    pub answers: VecDeque<Answer>,
    /// FIN follows what is queued.
    ending: bool,
    pub ended: bool,
    /// It speaks NATS.
    #[cfg(feature = "nats")]
    pub unasked: Option<Unasked>,
}

/// An answer on its way to the proxy.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Where it ends in the stream; none: with the connection.
    pub ends: Option<u64>,
    /// 0: it is no answer at all.
    pub status: u16,
    /// Its body is `ok`.
    pub ok: bool,
    /// Its body is this message for the client: the sender's number, and the message's.
    pub message: Option<(u32, u32)>,
}

pub struct Plan {
    at: u64,
    /// The request: its method, and its number if it is a message.
    pub method: String,
    pub n: u32,
    pub how: How,
    /// What makes it known when it is said again, and where NATS is to answer.
    #[cfg(feature = "nats")]
    pub key: String,
    #[cfg(feature = "nats")]
    pub reply: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Ok,
    NotOk,
    Message,
    Empty,
    Status(u16),
    Never,
    Fin,
    FinInside,
}

impl Line {
    pub fn new(conn: usize, api: usize) -> Line {
        Line {
            conn,
            api,
            ..Line::default()
        }
    }

    pub fn step(&mut self, me: usize, world: &mut World) {
        self.read(world);
        if !self.ending {
            self.listen(world);
            if self.plan.as_ref().is_some_and(|plan| plan.at <= world.now)
                && let Some(plan) = self.plan.take()
            {
                self.answer(me, &plan, world);
            }
        }
        self.flush(world);
        let conn = &mut world.conns[self.conn];
        let gone = conn.outward.reset || conn.is_heard_out();
        if gone || (self.ending && self.out.is_empty()) {
            conn.hang_up();
            self.ended = true;
        }
    }

    fn read(&mut self, world: &mut World) {
        let mut buffer = [0; 16 << 10];
        for _ in 0..world.rng.below(4) {
            let max = [100, 2_000, 16 << 10][world.rng.below(3) as usize];
            let count = world.conns[self.conn].hear(&mut buffer[..max]);
            if count == 0 {
                return;
            }
            self.inbox.push(&buffer[..count]);
        }
    }

    fn listen(&mut self, world: &mut World) {
        if self.plan.is_some() {
            return;
        }
        // The tap has judged it already: here it can only be good.
        let head = self.inbox.head().expect("law: requests are well formed");
        if let Some((head, true)) = head
            && head.start[0] == "POST"
            && head.value("content-length").is_some_and(|n| n.len() > 3)
            && world.wild
            && world.rng.chance(1, 6)
        {
            // Now and then somebody answers before it has read everything.
            self.early = true;
            world.hit("answer: before the request was read");
            let how = [How::Status(413), How::Empty, How::Status(503)][world.rng.below(3) as usize];
            self.plan = Some(Plan {
                at: world.now,
                method: "POST".into(),
                n: 0,
                how,
                #[cfg(feature = "nats")]
                key: String::new(),
                #[cfg(feature = "nats")]
                reply: None,
            });
            return;
        }
        let whole = self.inbox.next().expect("law: requests are well formed");
        if let Some((head, body)) = whole
            && !std::mem::take(&mut self.early)
        {
            self.plan = Some(self.make_plan(&head, &body, world));
        }
    }

    fn make_plan(&self, head: &Head, body: &[u8], world: &mut World) -> Plan {
        let method = head.start[0].clone();
        let text = head
            .value("content-type")
            .is_some_and(|kind| kind.starts_with("text/"));
        let n = codec::recognise(body, text).map_or(0, |(_, n)| n);
        let moody = world.apis[self.api].moody_until > world.now;
        let good = !world.wild || !world.rng.chance(if moody { 3 } else { 1 }, 5);
        let how = if good {
            match (&*method, world.rng.below(3)) {
                ("POST", 0) => How::Empty,
                ("POST", _) => How::Message,
                _ => How::Ok,
            }
        } else {
            let bad = [
                How::NotOk,
                How::Status([400, 403, 404, 302][world.rng.below(4) as usize]),
                How::Status([500, 502, 503][world.rng.below(3) as usize]),
                How::Status(503),
                How::Never,
                How::Fin,
                How::FinInside,
            ];
            bad[world.rng.below(bad.len() as u32) as usize]
        };
        let slow = world.wild && world.rng.chance(1, 12);
        if slow {
            world.hit("answer: slow");
        }
        let delay = world.rng.below(if slow { 2_500 } else { 6 });
        Plan {
            at: world.now + u64::from(delay),
            method,
            n,
            how,
            #[cfg(feature = "nats")]
            key: head
                .value("idempotency-key")
                .unwrap_or_default()
                .to_string(),
            #[cfg(feature = "nats")]
            reply: head.value("reply").map(str::to_string),
        }
    }

    fn answer(&mut self, me: usize, plan: &Plan, world: &mut World) {
        #[cfg(feature = "nats")]
        if self.unasked.is_some() {
            self.answer_in_nats(me, plan, world);
            return self.misbehave(world);
        }
        let n = plan.n;
        world.note(format_args!(
            "line {me} answers {} {n} with {:?}",
            plan.method, plan.how
        ));
        let (status, body) = match plan.how {
            How::Never => return world.hit("answer: never"),
            How::Fin => {
                world.hit("answer: fin instead");
                self.ending = true;
                return;
            }
            How::FinInside => {
                world.hit("answer: fin inside");
                self.ending = true;
                let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok";
                let cut = 1 + world.rng.below(text.len() as u32) as usize;
                return self.queue(&text[..cut]);
            }
            How::Ok => (200, b"ok".to_vec()),
            How::NotOk => (200, b"No".to_vec()),
            How::Empty => ([200, 204][world.rng.below(2) as usize], Vec::new()),
            How::Status(status) => (status, b"so it is".to_vec()),
            How::Message => {
                let length = [30, 300, 9_000][world.rng.below(3) as usize];
                let length = world.rng.below(length) as usize;
                (200, codec::content(ANSWERS + me as u32, n, length))
            }
        };
        let message = (plan.how == How::Message).then_some((ANSWERS + me as u32, n));
        let binary = message.is_some() && !codec::is_text(n);
        world.hit(match (plan.how, status) {
            (How::Ok, _) => "answer: ok",
            (How::NotOk, _) => "answer: not ok",
            (How::Empty, _) => "answer: empty",
            (How::Message, _) if binary => "answer: binary",
            (How::Message, _) => "answer: message",
            (_, 500..) => "answer: 5xx",
            _ => "answer: 4xx",
        });
        // Whatever it was meant for: it may come to be the answer to something else.
        let message = match plan.how {
            How::NotOk => Some((SHORT, 0)),
            How::Ok => Some((SHORT, 1)),
            _ => message,
        };
        let answer = Answer {
            ends: Some(0),
            status,
            ok: body == b"ok",
            message,
        };
        self.say(answer, &body, binary, world);
        self.misbehave(world);
    }

    /// Writes an answer in one of the ways in which its end can be told.
    fn say(&mut self, mut answer: Answer, body: &[u8], binary: bool, world: &mut World) {
        let status = answer.status;
        let mut text = Vec::new();
        if world.rng.chance(1, 10) {
            world.hit("answer: interim");
            text.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        }
        text.extend_from_slice(format!("HTTP/1.1 {status} So\r\n").as_bytes());
        if binary {
            text.extend_from_slice(b"content-type: application/octet-stream\r\n");
        }
        let close = world.rng.chance(1, 12);
        if close {
            world.hit("answer: says close");
            text.extend_from_slice(b"Connection: close\r\n");
            self.ending = true;
        }
        match world.rng.below(8) {
            _ if status == 204 => text.extend_from_slice(b"\r\n"),
            0 => {
                world.hit("answer: chunked");
                text.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for piece in body.chunks(1 + body.len() / 2) {
                    text.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    text.extend_from_slice(piece);
                    text.extend_from_slice(b"\r\n");
                }
                text.extend_from_slice(b"0\r\n\r\n");
            }
            1 => {
                world.hit("answer: up to the end");
                text.extend_from_slice(b"\r\n");
                text.extend_from_slice(body);
                answer.ends = None;
                self.ending = true;
            }
            _ => {
                text.extend_from_slice(
                    format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(),
                );
                text.extend_from_slice(body);
            }
        }
        self.queue(&text);
        answer.ends = answer.ends.map(|_| self.put);
        self.answers.push_back(answer);
    }

    /// What some servers do behind an answer.
    fn misbehave(&mut self, world: &mut World) {
        if !world.wild || self.ending {
            return;
        }
        match world.rng.below(40) {
            0 => {
                world.hit("fault: closed behind an answer");
                self.ending = true;
            }
            1 => {
                world.hit("fault: stray bytes behind an answer");
                self.stray(world);
            }
            _ => {}
        }
    }

    /// Bytes that nobody has asked for; some of them look like an answer.
    pub fn stray(&mut self, world: &mut World) {
        #[cfg(feature = "nats")]
        if self.unasked.is_some() {
            return self.stray_in_nats(world);
        }
        let status = [0, 204, 503][world.rng.below(3) as usize];
        let text = match status {
            0 => "%!stray\r\n\r\n".to_string(),
            _ => format!("HTTP/1.1 {status} Stray\r\nContent-Length: 0\r\n\r\n"),
        };
        self.queue(text.as_bytes());
        self.answers.push_back(Answer {
            ends: Some(self.put),
            status,
            ok: false,
            message: None,
        });
    }

    /// Whether it rests, as its process sees it.
    pub fn is_at_rest(&self) -> bool {
        let quiet = self.inbox.is_between() && self.out.is_empty() && self.plan.is_none();
        quiet && !self.ended && !self.ending
    }

    /// Whether its end, now, would look like the end of an answer that is not all there.
    pub fn is_cut_unseen(&self) -> bool {
        !self.out.is_empty() && self.answers.iter().any(|answer| answer.ends.is_none())
    }

    pub fn hang_up(&mut self) {
        self.ending = true;
    }

    /// Bytes ever said.
    #[cfg(feature = "nats")]
    pub(super) fn put(&self) -> u64 {
        self.put
    }

    pub(super) fn queue(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
        self.put += bytes.len() as u64;
    }

    fn flush(&mut self, world: &mut World) {
        let (front, _) = self.out.as_slices();
        let max = if world.wild && world.rng.chance(1, 4) {
            front.len().min(10)
        } else {
            front.len()
        };
        let took = world.conns[self.conn].say(&front[..max]);
        self.out.drain(..took);
    }
}

/// Senders of answers' messages: this, and the number of the line.
pub const ANSWERS: u32 = 0x4000_0000;

/// The sender of the two short messages, `No` and `ok`.
pub const SHORT: u32 = 0x7fff_ffff;
