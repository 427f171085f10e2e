//! Connections to servers: what the proxy asks on them, in the order in which its kernel took it, and
//! what it has read of the answers.

use std::collections::VecDeque;

use super::decoder::{Decoder, Framing, Piece};
use super::origin::Process;
use super::world::{Verb, World};
use crate::shard::Got;
use crate::sim::head::Head;

/// One connection to a server.
#[derive(Default)]
pub struct Line {
    pub conn: usize,
    pub server: usize,
    pub since: u64,
    tap: Decoder,
    /// The request that is under way: its first bytes were taken, its answer was not read.
    pub call: Option<Call>,
    /// Calls over it so far.
    pub calls: u32,
    /// It was chosen although another server should have been.
    pub wrong: Option<String>,
    /// Why nothing may ever be sent over it again.
    pub spoiled: Option<&'static str>,
    /// It has carried a probe.
    pub probe: bool,
    /// Answers that the proxy has not read to their ends.
    pub answers: VecDeque<usize>,
    /// Whoever answers at the other end.
    pub process: Process,
}

/// A request on a line.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// Its number, once its head was taken; none: a probe.
    pub request: Option<usize>,
    pub verb: Option<Verb>,
    /// Where its head ends in the line's stream; and its body.
    pub head_ends: Option<u64>,
    pub ends: Option<u64>,
    /// The key of a WebSocket upgrade.
    pub key: Option<String>,
    /// Bytes of its body so far.
    at: usize,
}

impl Line {
    pub fn new(conn: usize, server: usize, since: u64) -> Line {
        Line {
            conn,
            server,
            since,
            ..Line::default()
        }
    }
}

impl World {
    /// The poll has told the proxy what has arrived here.
    pub fn see_line(&mut self, line: usize) {
        let conn = &self.conns[self.lines[line].conn];
        let why = if conn.unread() > 0 {
            "bytes that nobody had asked for"
        } else if conn.stands && (conn.inward.fin_arrived || conn.inward.reset) {
            "its end"
        } else {
            return;
        };
        let place = &self.lines[line];
        if place.call.is_none() && place.calls > 0 && place.spoiled.is_none() {
            self.note(format_args!("line {line} shows {why} at rest"));
            self.hit("line: seen to speak or end at rest");
            self.lines[line].spoiled = Some(why);
        }
    }

    /// The kernel took bytes for a server.
    pub fn judge_line(&mut self, line: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let now = self.now;
        let place = &mut self.lines[line];
        if let Some(why) = place.spoiled {
            panic!("law: nothing is sent on line {line}, which has shown {why}");
        }
        let whole = place.call.as_ref().is_some_and(|call| call.ends.is_some());
        assert!(!whole, "law: line {line}: one request at a time");
        if place.call.is_none() {
            place.call = Some(Call::default());
            place.calls += 1;
            if place.calls > 1 {
                self.on_reuse(line);
            }
        }
        let mut tap = std::mem::take(&mut self.lines[line].tap);
        tap.push(bytes);
        loop {
            let piece = tap.next();
            let piece = piece.unwrap_or_else(|why| panic!("law: line {line} carries {why}"));
            let written = self.conns[self.lines[line].conn].outward.written;
            match piece {
                None => break,
                Some(Piece::Head(head)) => {
                    let framing = self.judge_head(line, &head);
                    tap.frame(framing);
                    // Where it ends exactly does not matter: nothing follows a body too early.
                    self.call(line).head_ends = Some(written);
                }
                Some(Piece::Body(bytes)) => self.judge_upload(line, &bytes),
                Some(Piece::End) => {
                    self.call(line).ends = Some(written);
                    self.judge_uploaded(line);
                    assert!(tap.is_between(), "law: nothing follows a request");
                }
            }
        }
        self.lines[line].tap = tap;
        if let Some(request) = self.call(line).request {
            self.requests[request].carried_at = now;
        }
    }

    fn call(&mut self, line: usize) -> &mut Call {
        self.lines[line].call.as_mut().expect("it was begun")
    }

    fn judge_head(&mut self, line: usize, head: &Head) -> Framing {
        let [method, target, version] = &head.start;
        assert_eq!(version, "HTTP/1.1", "law: the version of a request");
        let server = self.lines[line].server;
        let place = &self.fleet.servers[server];
        let pool = &self.fleet.pools[usize::from(place.pool)];
        if let Some(health) = &pool.health
            && *target == health.path
        {
            assert_eq!(method, "GET", "law: probes are GETs");
            assert_eq!(head.value("host"), Some(&*place.authority), "law: Host");
            let key = head.value("sec-websocket-key").map(str::to_string);
            self.call(line).key = key;
            self.lines[line].probe = true;
            assert_eq!(self.lines[line].calls, 1, "law: a probe has its own line");
            return Framing::Length(0);
        }
        assert!(!self.lines[line].probe, "law: nothing follows a probe");
        let path = target.strip_prefix(&*place.prefix);
        let path = path.unwrap_or_else(|| panic!("law: a target below the URL: {target}"));
        let want = format!("/p{}/", place.pool);
        let id = path.strip_prefix(&*want).and_then(|id| id.parse().ok());
        let id: usize = id.unwrap_or_else(|| panic!("law: {target} at server {server}"));
        let request = &self.requests[id];
        assert_eq!(method, request.verb.name(), "law: request {id}'s method");
        assert_eq!(head.value("x-sim"), Some(&*id.to_string()), "law: headers");
        let host = if request.modern {
            "sim"
        } else {
            &place.authority
        };
        assert_eq!(head.value("host"), Some(host), "law: Host of request {id}");
        assert_eq!(head.value("x-forwarded-for"), Some("10.1.0.1"), "law: from");
        for name in ["connection", "keep-alive", "x-hop", "expect", "te"] {
            assert_eq!(head.value(name), None, "law: {name} stays behind");
        }
        let length = head.value("content-length").map(|text| text.parse());
        let framing = match (head.value("transfer-encoding"), length) {
            (Some("chunked"), None) if request.chunked => Framing::Chunked,
            (None, Some(Ok(length))) if length == request.body.len() && !request.chunked => {
                Framing::Length(length)
            }
            (None, None) if request.body.is_empty() && !request.chunked => Framing::Length(0),
            told => panic!("law: request {id} is framed as it came, not by {told:?}"),
        };
        self.judge_carried(line, id);
        let verb = self.requests[id].verb;
        self.note(format_args!("line {line} carries {} {id}", verb.name()));
        let call = self.call(line);
        (call.request, call.verb) = (Some(id), Some(verb));
        framing
    }

    /// Whether this request may be on this line.
    fn judge_carried(&mut self, line: usize, id: usize) {
        let request = &mut self.requests[id];
        let again = !request.lines.is_empty();
        if again {
            let harmless = request.verb != Verb::Post;
            let lines = &request.lines;
            assert!(harmless, "law: POST {id} on line {line} behind {lines:?}");
            assert!(
                !request.heard,
                "law: request {id} is not asked again once something of an answer was read"
            );
        }
        assert!(
            request.whole_answer.is_none() && request.answered_at.is_none(),
            "law: request {id} was answered"
        );
        request.lines.push(line);
        if again {
            self.hit("request: asked again");
        }
        if let Some(why) = self.lines[line].wrong.take() {
            panic!("law: request {id} is not for this server: {why}");
        }
        if self.lines[line].calls > 1 {
            self.hit("request: on a line that rested");
        }
        // The others that may still carry it must be gone.
        let others = self.requests[id].lines.clone();
        for other in others.into_iter().filter(|other| *other != line) {
            let open = self.conns[self.lines[other].conn].proxy_open;
            assert!(!open, "law: request {id} is on lines {other} and {line}");
        }
    }

    fn judge_upload(&mut self, line: usize, bytes: &[u8]) {
        let Call { request, at, .. } = self.call(line).clone();
        let id = request.expect("probes have no body");
        let body = &self.requests[id].body;
        let same = body.get(at..at + bytes.len()) == Some(bytes);
        assert!(same, "law: request {id}'s body, byte for byte, at {at}");
        self.call(line).at += bytes.len();
    }

    fn judge_uploaded(&mut self, line: usize) {
        let Call { request, at, .. } = self.call(line).clone();
        let Some(id) = request else { return };
        let request = &mut self.requests[id];
        assert_eq!(at, request.body.len(), "law: request {id} is whole or cut");
        assert!(!request.broken, "law: request {id} was broken off");
        request.wholes += 1;
        if request.chunked {
            self.hit("request: chunked");
        }
    }

    /// The proxy has read of a line.
    pub fn hear_line(&mut self, line: usize, got: Got) {
        if got == Got::Wait {
            return;
        }
        let taken = self.conns[self.lines[line].conn].inward.taken;
        let place = &mut self.lines[line];
        let Some(call) = &place.call else {
            place.spoiled.get_or_insert("something at rest");
            return;
        };
        let (request, uploaded) = (call.request, call.ends.is_some());
        if let (Got::Bytes(_), Some(id)) = (got, request) {
            self.requests[id].heard = true;
        }
        let Some(front) = self.lines[line].answers.front().copied() else {
            return;
        };
        let answer = &mut self.answers[front];
        if taken > answer.begins && answer.bound.is_none() {
            answer.bound = request;
            let asks_head = request.is_some_and(|id| self.requests[id].verb == Verb::Head);
            if answer.meant_for.is_none() && asks_head && !answer.nonsense {
                // Nobody had HEAD in mind; what follows the head belongs to nothing.
                (answer.ends, answer.endless) = (Some(answer.body_begins), false);
                answer.body.clear();
            }
            assert!(
                answer.meant_for.is_none() || answer.meant_for == request,
                "law: answer {front} to {:?} is read for {request:?}",
                answer.meant_for
            );
        }
        let answer = &self.answers[front];
        let here = match answer.ends {
            Some(ends) => ends <= taken,
            None => got == Got::End,
        };
        if !here || answer.nonsense {
            return;
        }
        let more = answer.ends.is_some_and(|ends| taken > ends);
        let (keeps, status) = (answer.keeps, answer.status);
        let place = &mut self.lines[line];
        place.answers.pop_front();
        place.call = None;
        if more {
            place.spoiled = Some("bytes behind an answer");
        } else if !uploaded {
            place.spoiled = Some("an answer to half a request");
        } else if !keeps {
            place.spoiled = Some("that it ends behind its answer");
        }
        self.note(format_args!("proxy has read answer {front}, {status}"));
        if let Some(id) = request {
            self.requests[id].whole_answer = Some(front);
            self.laws.whole_answers += 1;
            self.laws.well_answered += u64::from(status < 500);
            if !uploaded {
                self.hit("answer: read before the request was sent");
            }
        }
    }

    /// The proxy has closed a line.
    pub fn end_line(&mut self, line: usize) {
        let place = &self.lines[line];
        let server = place.server;
        let health = self.fleet.pools[self.origins[server].pool].health.as_ref();
        let late = health.is_some_and(|health| self.now >= place.since + u64::from(health.timeout));
        if late && (place.probe || place.calls == 0) {
            // Time may leap, and leave too little of it for a probe.
            self.origins[server].harmed_until = self.now.max(self.origins[server].harmed_until);
        }
        let place = &mut self.lines[line];
        let call = place.call.take();
        if let Some(call) = call.as_ref().filter(|call| call.request.is_some()) {
            let what = format!(
                "line {line} is closed inside {:?}, {:?} bytes",
                call.request, call.at
            );
            let whole = call.ends.is_some();
            self.note(format_args!("{what}, all asked: {whole}"));
        }
        let place = &mut self.lines[line];
        // What a head that was cut has asked for counts, too.
        let first = place.tap.first_line().unwrap_or_default().to_string();
        if call.is_some_and(|call| call.head_ends.is_none())
            && let Some(target) = first.strip_prefix("POST ")
        {
            let target = target.split(' ').next().unwrap_or_default();
            let id = target.rsplit('/').next().and_then(|id| id.parse().ok());
            let id: usize = id.expect("law: a target that was asked for");
            self.judge_carried(line, id);
        }
    }
}
