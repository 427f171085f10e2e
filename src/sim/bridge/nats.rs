//! NATS servers in the place of HTTP APIs: the peers' own reading of what a client publishes, told in
//! the words of requests, so that the same laws hold for both.

use std::collections::VecDeque;

use super::api::{Answer, Line, Plan};
use super::http::Messages;
use super::world::World;
use crate::session::{Api, Confirm, Settings};
use crate::sim::head::Head;

/// What the proxy says on a line, cut into calls.
pub enum Tap {
    Http(Messages),
    Nats(Requests),
}

impl Default for Tap {
    fn default() -> Tap {
        Tap::Http(Messages::default())
    }
}

impl Tap {
    pub fn push(&mut self, bytes: &[u8]) {
        match self {
            Tap::Http(http) => http.push(bytes),
            Tap::Nats(nats) => nats.bytes.extend_from_slice(bytes),
        }
    }

    /// Whether it stands between two calls.
    pub fn is_between(&self) -> bool {
        match self {
            Tap::Http(http) => http.is_between(),
            Tap::Nats(nats) => nats.bytes.is_empty() && nats.head.is_none(),
        }
    }

    /// The head of the call that is being read, once it is there. True: it was not asked before.
    pub fn head(&mut self) -> Result<Option<(&Head, bool)>, String> {
        match self {
            Tap::Http(http) => http.head(),
            Tap::Nats(nats) => nats.read_head(),
        }
    }

    /// The next whole call.
    pub fn next(&mut self) -> Result<Option<(Head, Vec<u8>)>, String> {
        match self {
            Tap::Http(http) => http.next(),
            Tap::Nats(nats) => nats.next(),
        }
    }

    /// Drops PONGs that stand before anything else: how many, and whether nothing is left but perhaps
    /// a part of another.
    pub fn drop_pongs(&mut self) -> Option<(u32, bool)> {
        let Tap::Nats(nats) = self else { return None };
        let mut count = 0;
        while nats.head.is_none() && nats.bytes.starts_with(PONG) {
            nats.bytes.drain(..PONG.len());
            count += 1;
        }
        let rest = nats.head.is_none() && nats.connected && PONG.starts_with(&nats.bytes);
        Some((count, rest))
    }
}

/// Calls in the protocol of NATS.
#[derive(Default)]
pub struct Requests {
    /// What stands before a ClientId in an HTTP API's targets, and its name.
    place: (String, String),
    bytes: Vec<u8>,
    connected: bool,
    /// Where answers come, without its last token.
    inbox: Option<String>,
    head: Option<(Head, usize)>,
}

impl Requests {
    pub fn of(prefix: &str, authority: &str) -> Requests {
        Requests {
            place: (prefix.to_string(), authority.to_string()),
            ..Requests::default()
        }
    }

    fn read_head(&mut self) -> Result<Option<(&Head, bool)>, String> {
        while self.head.is_none() {
            let Some(end) = find(&self.bytes, b"\r\n") else {
                break;
            };
            let line = String::from_utf8(self.bytes[..end].to_vec()).map_err(|_| "no UTF-8")?;
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["CONNECT", json] if !self.connected => {
                    let wants = [
                        "\"headers\":true",
                        "\"no_responders\":true",
                        "\"verbose\":false",
                    ];
                    if !wants.iter().all(|want| json.contains(want)) {
                        return Err(format!("a greeting of {json}"));
                    }
                    self.connected = true;
                }
                _ if !self.connected => return Err(format!("{line:?} before CONNECT")),
                ["SUB", inbox, "1"] if self.inbox.is_none() => {
                    let inbox = inbox.strip_suffix(".*").ok_or("an inbox of one answer")?;
                    self.inbox = Some(inbox.to_string());
                }
                ["PONG"] => {}
                ["HPUB", subject, headers, all] => {
                    return self.publish(end + 2, subject, None, [headers, all]);
                }
                ["HPUB", subject, reply, headers, all] => {
                    let reply = Some(reply.to_string());
                    return self.publish(end + 2, subject, reply, [headers, all]);
                }
                _ => return Err(format!("a line {line:?}")),
            }
            self.bytes.drain(..end + 2);
        }
        Ok(self.head.as_ref().map(|(head, _)| (head, false)))
    }

    /// Reads a publish whose line ends there.
    fn publish(
        &mut self,
        from: usize,
        subject: &str,
        reply: Option<String>,
        [headers, all]: [&str; 2],
    ) -> Result<Option<(&Head, bool)>, String> {
        let number = |text: &str| {
            text.parse::<usize>()
                .map_err(|_| format!("a length {text}"))
        };
        let (headers, all) = (number(headers)?, number(all)?);
        let length = all.checked_sub(headers).ok_or("headers longer than all")?;
        let Some(block) = self.bytes.get(from..from + headers) else {
            return Ok(None);
        };
        let block = String::from_utf8(block.to_vec()).map_err(|_| "no UTF-8")?;
        let lines = block
            .strip_prefix("NATS/1.0\r\n")
            .and_then(|rest| rest.strip_suffix("\r\n\r\n"));
        let lines = lines.ok_or(format!("headers of {block:?}"))?;
        let [own, id, word] = subject.split('.').collect::<Vec<_>>()[..] else {
            return Err(format!("a subject {subject}"));
        };
        if own != PREFIX {
            return Err(format!("a subject {subject}"));
        }
        if let Some(reply) = &reply {
            let (inbox, number) = reply.rsplit_once('.').ok_or("a reply of one word")?;
            let counted = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            if self.inbox.as_deref() != Some(inbox) || !counted || word != "in" {
                return Err(format!("{word} asks for an answer at {reply}"));
            }
        }
        let target = |lines: &str| {
            let line = lines
                .split("\r\n")
                .find_map(|line| line.strip_prefix("X-Wsteady-Target: "));
            line.map(str::to_string).ok_or("no target")
        };
        let (method, target) = match word {
            "open" => ("GET", target(lines)?),
            "in" => ("POST", decoded(id)?),
            "close" => ("DELETE", decoded(id)?),
            other => return Err(format!("{other} of a client")),
        };
        let same = target.split('?').next() == Some(&*decoded(id)?);
        if !same {
            return Err(format!("{target} is not {subject}"));
        }
        let (prefix, authority) = &self.place;
        let mut text = format!("{method} {prefix}{target} HTTP/1.1\r\nHost: {authority}");
        for line in lines.split("\r\n") {
            text.push_str("\r\n");
            match line.strip_prefix("Nats-Msg-Id: ") {
                Some(id) => text.push_str(&format!("Idempotency-Key: \"{id}\"")),
                None => text.push_str(line),
            }
        }
        if let Some(reply) = reply {
            text.push_str(&format!("\r\nReply: {reply}"));
        }
        self.bytes.drain(..from + headers);
        self.head = Some((Head::read(text.as_bytes())?, length));
        Ok(self.head.as_ref().map(|(head, _)| (head, true)))
    }

    fn next(&mut self) -> Result<Option<(Head, Vec<u8>)>, String> {
        self.read_head()?;
        let Some((head, length)) = &self.head else {
            return Ok(None);
        };
        // Where no stream answers, a PONG does.
        let tail: &[u8] = match head.value("reply") {
            Some(_) => b"\r\n",
            None => b"\r\nPING\r\n",
        };
        let Some(found) = self.bytes.get(*length..length + tail.len()) else {
            return Ok(None);
        };
        if found != tail {
            return Err(format!(
                "{:?} behind a message",
                String::from_utf8_lossy(found)
            ));
        }
        let body = self.bytes[..*length].to_vec();
        self.bytes.drain(..length + tail.len());
        Ok(self.head.take().map(|(head, _)| (head, body)))
    }
}

/// What servers say without being asked: where their Pings end, and where what nobody may say begins.
#[derive(Default)]
pub struct Unasked {
    pub pings: VecDeque<u64>,
    pub bad_from: Option<u64>,
    /// Calls over the line when it read the first Ping that was not answered.
    pub owed_since: Option<u32>,
}

impl Line {
    /// The line of a server that speaks NATS.
    pub fn in_nats(mut self, prefix: &str, authority: &str) -> Line {
        self.tap = Tap::Nats(Requests::of(prefix, authority));
        self.inbox = Tap::Nats(Requests::of(prefix, authority));
        self.unasked = Some(Unasked::default());
        self
    }

    /// The first words of a server.
    pub fn greet(&mut self, world: &mut World) {
        let more = "\"nats://10.0.0.1:4222\",".repeat(world.rng.below(40) as usize);
        let info = format!(
            "INFO {{\"server_id\":\"N{}\",\"headers\":true,\"max_payload\":1048576,\"connect_urls\":[{more}\"\"]}} \r\n",
            self.api
        );
        self.queue(info.as_bytes());
    }

    /// Carries out a plan.
    pub fn answer_in_nats(&mut self, me: usize, plan: &Plan, world: &mut World) {
        use super::api::How;
        let acked = plan.reply.is_some();
        world.note(format_args!(
            "line {me} answers {} {} in NATS with {:?}",
            plan.method, plan.n, plan.how
        ));
        if world.rng.chance(1, 8) {
            self.ping(world);
        }
        let session = plan.key.rsplit_once('-').map(|(session, _)| session);
        let session =
            session.and_then(|text| u128::from_str_radix(text.trim_matches('"'), 16).ok());
        // A stream may have the message, though its word never comes.
        let taken = match plan.how {
            How::Ok | How::Empty | How::Message | How::NotOk => true,
            How::Never | How::Fin | How::FinInside => world.rng.chance(1, 2),
            How::Status(_) => false,
        };
        let mut repeated = false;
        if let (true, true, Some(session)) = (taken, acked, session) {
            repeated = !world.take_into_stream(session, u64::from(plan.n));
        }
        let status = match plan.how {
            How::Never => {
                world.hit(if taken && acked {
                    "nats: an ack lost"
                } else {
                    "answer: never"
                });
                return;
            }
            How::Fin => {
                world.hit("answer: fin instead");
                return self.hang_up();
            }
            How::FinInside => {
                world.hit("answer: fin inside");
                self.queue(if acked { b"MSG _INBOX.wst" } else { b"PON" });
                return self.hang_up();
            }
            How::Status(status) => status,
            How::Ok | How::Empty | How::Message | How::NotOk => 200,
        };
        let Some(reply) = &plan.reply else {
            if status >= 300 {
                return self.say_err("Permissions Violation for Publish", world);
            }
            world.hit("answer: ok");
            self.queue(b"PONG\r\n");
            return self.answered(200, plan.method != "POST");
        };
        if world.rng.chance(1, 6) {
            self.say_beside(reply, world);
        }
        let text = match status {
            200 => {
                world.hit("answer: ok");
                if repeated {
                    world.hit("nats: known already");
                }
                let extra = if repeated { ",\"duplicate\": true" } else { "" };
                message(
                    reply,
                    &format!("{{\"stream\":\"S\", \"seq\":{}{extra}}}", plan.n + 1),
                )
            }
            500.. => match world.rng.below(3) {
                0 => return self.say_err("Authorization Violation", world),
                1 => {
                    world.hit("nats: nobody listens");
                    format!("HMSG {reply} 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n")
                }
                _ => {
                    world.hit("answer: 5xx");
                    let error = "{\"code\":503,\"err_code\":10077,\"description\":\"no space\"}";
                    message(
                        reply,
                        &format!("{{\"error\":{error},\"stream\":\"S\",\"seq\":0}}"),
                    )
                }
            },
            status => {
                world.hit("answer: 4xx");
                let error = format!("{{\"code\":{status},\"description\":\"too long\"}}");
                message(reply, &format!("{{\"error\":{error}}}"))
            }
        };
        self.queue(text.as_bytes());
        // Redirections are no word of streams.
        let status = if (300..400).contains(&status) {
            503
        } else {
            status
        };
        self.answered(status, false);
    }

    /// What comes to the inbox, and is no answer to this.
    fn say_beside(&mut self, reply: &str, world: &mut World) {
        world.hit("nats: an ack of another message");
        let (inbox, number) = reply.rsplit_once('.').unwrap_or_default();
        let number: u64 = number.parse().unwrap_or_default();
        let text = match world.rng.below(2) {
            0 => message(
                &format!("{inbox}.{}", number + 7),
                "{\"stream\":\"S\",\"seq\":3}",
            ),
            _ => message(reply, "a service has heard it, too"),
        };
        self.queue(text.as_bytes());
    }

    fn say_err(&mut self, why: &str, world: &mut World) {
        world.hit("nats: -ERR");
        self.queue(format!("-ERR '{why}'\r\n").as_bytes());
        self.answered(503, false);
        if world.rng.chance(1, 2) {
            self.hang_up();
        }
    }

    fn ping(&mut self, world: &mut World) {
        world.hit("nats: ping");
        self.queue(b"PING\r\n");
        let at = self.put();
        if let Some(unasked) = &mut self.unasked {
            unasked.pings.push_back(at);
        }
    }

    fn answered(&mut self, status: u16, ok: bool) {
        let ends = Some(self.put());
        self.answers.push_back(Answer {
            ends,
            status,
            ok,
            message: None,
        });
    }

    /// What nobody has asked for: most of it is the right of a server.
    pub fn stray_in_nats(&mut self, world: &mut World) {
        match world.rng.below(6) {
            0..=2 => return self.ping(world),
            3 => return self.greet(world),
            _ => {}
        }
        let from = self.put();
        if let Some(unasked) = &mut self.unasked {
            unasked.bad_from.get_or_insert(from);
        }
        if world.rng.chance(1, 2) {
            return self.say_err("Stale Connection", world);
        }
        self.queue(b"%!stray\r\n\r\n");
        self.answered(0, false);
    }

    /// The proxy has read so far.
    pub fn pings_read(&mut self, taken: u64) {
        let asked = self.asked;
        let Some(unasked) = &mut self.unasked else {
            return;
        };
        while unasked.pings.front().is_some_and(|end| *end <= taken) {
            unasked.pings.pop_front();
            unasked.owed_since.get_or_insert(asked);
        }
    }

    /// Whether what may be seen of it, or was, is all that a server may say at any time.
    pub fn is_harmless(&self, seen: u64) -> bool {
        let unasked = self.unasked.as_ref();
        unasked.is_some_and(|one| one.bad_from.is_none_or(|from| seen <= from))
    }
}

impl World {
    /// Where a stream has to say so, at all.
    pub fn is_in_stream(&self, session: u128, n: u64) -> bool {
        let settings = self.settings.now();
        let Api::Nats(terms) = &settings.api else {
            return true;
        };
        // At `written` it is not known which message a call carries.
        let unknown = !terms.jetstream || settings.confirm == Confirm::Written;
        let stream = self.laws.stream.get(&session);
        unknown || stream.is_some_and(|stream| stream.contains(&n))
    }

    /// A message for the stream. False: it has it already.
    fn take_into_stream(&mut self, session: u128, n: u64) -> bool {
        let guest = self.laws.sessions.get(&session).map(|log| log.guest);
        // At `written` a call that is given up may still arrive, behind those that followed it.
        let written = |one: &Settings| u32::from(one.confirm == Confirm::Written);
        let hasty = self.settings.most(written) > 0;
        let stream = self.laws.stream.entry(session).or_default();
        if stream.contains(&n) {
            return false;
        }
        let last = stream.last().copied();
        assert!(
            hasty || last.is_none_or(|last| last < n),
            "law: the stream has guest {guest:?}'s messages in order: {n} behind {last:?}"
        );
        stream.push(n);
        true
    }
}

fn message(subject: &str, payload: &str) -> String {
    format!("MSG {subject} 1 {}\r\n{payload}\r\n", payload.len())
}

/// As the documentation has it: a sign of `=` and two digits stand for a byte.
fn decoded(token: &str) -> Result<String, String> {
    let mut parts = token.split('=');
    let mut id = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or(format!("a token {token}"))?;
        let byte = u8::from_str_radix(digits, 16).map_err(|_| format!("a token {token}"))?;
        id.push(char::from(byte));
        id.push_str(rest);
    }
    match id.is_empty() || token.contains(['*', '>', '.']) {
        true => Err(format!("a token {token}")),
        false => Ok(id),
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

const PONG: &[u8] = b"PONG\r\n";

/// What subjects begin with here.
pub const PREFIX: &str = "sim";
