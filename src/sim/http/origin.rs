//! The servers: they answer well or badly, too early, late or never.

use std::collections::VecDeque;

use tungstenite::handshake::derive_accept_key;

use super::line::{Call, Line};
use super::world::{Answer, DOWNWARD, Verb, World, stuff};
use crate::fleet::Server;
use crate::fleet::health::Expect;
use crate::sim::ground::Reach;

/// A server.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub reach: Reach,
    pub stopped_until: u64,
    /// Until then most of its answers are bad.
    pub moody_until: u64,
    /// Its probes fail, since then and until then.
    pub sick_since: u64,
    pub sick_until: u64,
    /// Its probes may fail for some other reason up to here.
    pub harmed_until: u64,
    /// When nobody could look last, for want of descriptors.
    pub unseen_at: u64,
    /// Its connections die while they rest.
    pub pool: usize,
}

impl Origin {
    pub fn new(place: &Server) -> Origin {
        Origin {
            pool: usize::from(place.pool),
            ..Origin::default()
        }
    }

    pub fn is_sick(&self, now: u64) -> bool {
        self.sick_until > now
    }
}

/// What a server's process does on one connection.
#[derive(Default)]
pub struct Process {
    plan: Option<Plan>,
    /// The call that it has a plan for, by its number on the line.
    planned: u32,
    out: VecDeque<u8>,
    /// Bytes ever put into `out`.
    put: u64,
    /// It says something only now and then.
    drips: bool,
    /// It says nothing any more before that.
    mute_until: u64,
    /// FIN follows what is queued, or RST.
    ending: bool,
    resetting: bool,
    pub ended: bool,
}

struct Plan {
    at: u64,
    call: Call,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Well,
    Status(u16),
    Bodiless(u16),
    Never,
    FinInstead,
    Cut,
    CutHead,
    Mute,
    Nonsense,
    BadChunk,
}

impl Line {
    /// One moment of its process.
    pub fn step(&mut self, me: usize, world: &mut World) {
        self.read(world);
        if !self.process.ending && !self.process.resetting {
            self.listen(me, world);
            let due = |plan: &Plan| plan.at <= world.now;
            if self.process.plan.as_ref().is_some_and(due)
                && let Some(plan) = self.process.plan.take()
            {
                self.answer(me, &plan, world);
            }
        }
        self.flush(world);
        let empty = self.process.out.is_empty();
        let conn = &mut world.conns[self.conn];
        let gone = conn.outward.reset || conn.is_heard_out();
        if self.process.resetting && empty {
            conn.reset_proxy();
            self.process.ended = true;
        } else if gone || (self.process.ending && empty) {
            conn.hang_up();
            self.process.ended = true;
        }
    }

    /// A server that has no use for the rest of a request does not read it.
    fn read(&mut self, world: &mut World) {
        let mut buffer = [0; 16 << 10];
        for _ in 0..world.rng.below(4) {
            let max = [100, 2_000, 16 << 10][world.rng.below(3) as usize];
            if world.conns[self.conn].hear(&mut buffer[..max]) == 0 {
                return;
            }
        }
    }

    fn listen(&mut self, me: usize, world: &mut World) {
        let Some(call) = &self.call else { return };
        let taken = world.conns[self.conn].outward.taken;
        if self.process.planned == self.calls || call.head_ends.is_none_or(|ends| ends > taken) {
            return;
        }
        let whole = call.ends.is_some_and(|ends| ends <= taken);
        if whole {
            self.process.planned = self.calls;
            self.process.plan = Some(self.make_plan(call.clone(), world));
        } else if world.wild && world.rng.chance(1, 150) {
            // Now and then somebody answers before it has read everything.
            world.hit("answer: early");
            world.note(format_args!("line {me} answers early"));
            self.process.planned = self.calls;
            let how = [How::Status(413), How::Well, How::Bodiless(204), How::Mute];
            self.process.plan = Some(Plan {
                at: world.now,
                call: call.clone(),
                how: how[world.rng.below(4) as usize],
            });
        }
    }

    fn make_plan(&self, call: Call, world: &mut World) -> Plan {
        let moody = world.origins[self.server].moody_until > world.now;
        let good = !world.wild || !world.rng.chance(if moody { 3 } else { 1 }, 5);
        let how = if good {
            let statuses = [200, 200, 201, 404];
            match world.rng.below(8) {
                0 => How::Bodiless([204, 304][world.rng.below(2) as usize]),
                1 => How::Status(statuses[world.rng.below(4) as usize]),
                _ => How::Well,
            }
        } else {
            let bad = [
                How::Status(500),
                How::Status(503),
                How::Never,
                How::FinInstead,
                How::Cut,
                How::Cut,
                How::CutHead,
                How::Mute,
                How::Nonsense,
                How::BadChunk,
            ];
            world.laws.trouble_at = world.now;
            bad[world.rng.below(bad.len() as u32) as usize]
        };
        // Probes have faults of their own.
        let slow = world.wild && call.request.is_some() && world.rng.chance(1, 15);
        if slow {
            world.hit("answer: late");
        }
        let delay = world.rng.below(if slow { 2_500 } else { 6 });
        if slow {
            world.laws.trouble_at = world.now + u64::from(delay);
        }
        Plan {
            at: world.now + u64::from(delay),
            call,
            how,
        }
    }

    fn answer(&mut self, me: usize, plan: &Plan, world: &mut World) {
        let Some(request) = plan.call.request else {
            return self.answer_probe(me, &plan.call, world);
        };
        world.note(format_args!("line {me} answers {request}: {:?}", plan.how));
        let status = match plan.how {
            How::Status(status) | How::Bodiless(status) => status,
            _ => 200,
        };
        match plan.how {
            How::Never => world.hit("answer: never"),
            How::FinInstead => {
                world.hit("answer: fin instead");
                self.process.ending = true;
            }
            How::Nonsense => self.talk_nonsense(Some(request), world),
            How::Well | How::Status(_) | How::Bodiless(_) => {
                if status >= 500 {
                    world.hit("answer: 5xx");
                }
                self.say(Some((request, plan.call.verb)), status, plan.how, world);
                self.misbehave(world);
            }
            How::Cut | How::CutHead | How::Mute | How::BadChunk => {
                self.say(Some((request, plan.call.verb)), status, plan.how, world);
            }
        }
    }

    /// Writes an answer in one of the ways in which its end can be told.
    fn say(&mut self, to: Option<(usize, Option<Verb>)>, status: u16, how: How, world: &mut World) {
        let begins = self.process.put;
        let number = world.answers.len();
        let verb = to.and_then(|(_, verb)| verb);
        let bodiless = verb == Some(Verb::Head) || matches!(status, 204 | 304);
        let mut text = Vec::new();
        if world.rng.chance(1, 8) {
            world.hit("answer: interim");
            for _ in 0..1 + world.rng.below(3) {
                text.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
            }
        }
        let length = match world.rng.below(12) {
            0 => 0,
            1..=6 => world.rng.below(300),
            7..=9 => world.rng.below(20_000),
            _ => world.rng.below(400_000),
        };
        let body = stuff(DOWNWARD | number as u32, length as usize);
        let how = if bodiless && how == How::BadChunk {
            How::Well
        } else {
            how
        };
        let old = how != How::BadChunk && world.rng.chance(1, 10);
        let mut keeps = !old;
        let version = if old { "1.0" } else { "1.1" };
        text.extend_from_slice(format!("HTTP/{version} {status} So\r\n").as_bytes());
        text.extend_from_slice(format!("X-Answer: {number}\r\n").as_bytes());
        if old {
            world.hit("answer: of HTTP/1.0");
            if world.rng.chance(1, 2) {
                text.extend_from_slice(b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\n");
                keeps = true;
            }
        } else if world.rng.chance(1, 10) {
            world.hit("answer: says close");
            text.extend_from_slice(b"Connection: close\r\n");
            keeps = false;
        }
        let way = match how {
            How::BadChunk => 0,
            _ => world.rng.below(8),
        };
        let (mut ends, mut whole) = (Some(0), true);
        let head = begins + text.len() as u64;
        match way {
            _ if status == 204 => {
                world.hit("answer: 204 or 304");
                text.extend_from_slice(b"\r\n");
            }
            _ if bodiless => {
                world.hit("answer: bodiless");
                if world.rng.chance(2, 3) {
                    text.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
                }
                text.extend_from_slice(b"\r\n");
            }
            0 | 1 if !old => {
                world.hit("answer: chunked");
                text.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                let size = [10, 1_000, 70_000][world.rng.below(3) as usize];
                let flaw = world.rng.below(1 + body.len() as u32 / size as u32) as usize;
                for (at, piece) in body.chunks(size).enumerate() {
                    if how == How::BadChunk && at == flaw {
                        break;
                    }
                    let extra = ["", "", ";a=1"][world.rng.below(3) as usize];
                    text.extend_from_slice(format!("{:X}{extra}\r\n", piece.len()).as_bytes());
                    text.extend_from_slice(piece);
                    text.extend_from_slice(b"\r\n");
                }
                if how == How::BadChunk {
                    world.hit("answer: bad chunk");
                    whole = false;
                    text.extend_from_slice(b"-1\r\nX\r\n0\r\n\r\n");
                } else {
                    let trailer = ["", "", "X-Trailer: 1\r\n"][world.rng.below(3) as usize];
                    text.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
                }
            }
            2 if !matches!(how, How::Cut | How::Mute) || !body.is_empty() => {
                world.hit("answer: up to the end");
                text.extend_from_slice(b"\r\n");
                text.extend_from_slice(&body);
                (ends, keeps) = (None, false);
                self.process.ending = true;
            }
            _ => {
                text.extend_from_slice(format!("Content-Length: {length}\r\n\r\n").as_bytes());
                text.extend_from_slice(&body);
            }
        }
        let full = text.len();
        let blank = text[(head - begins) as usize - 2..].windows(4);
        let blank = blank.take_while(|four| four != b"\r\n\r\n").count() as u64;
        let body_begins = head + 2 + blank;
        match how {
            How::Cut | How::Mute => {
                // In the body, if there is one: in its last byte, if need be.
                let from = (head - begins) as usize + 40;
                let span = full.saturating_sub(from).max(1) as u32;
                let cut = full.saturating_sub(1 + world.rng.below(span) as usize);
                text.truncate(cut.max(1));
                whole = false;
                self.cut(how, ends.is_none(), world);
            }
            How::CutHead => {
                text.truncate(world.rng.below((head - begins) as u32).max(1) as usize);
                whole = false;
                self.cut(how, false, world);
            }
            _ => {}
        }
        self.queue(&text);
        self.process.drips = world.wild && world.rng.chance(1, 6);
        let answer = Answer {
            meant_for: to.map(|(request, _)| request),
            bound: None,
            status,
            body: if bodiless { Vec::new() } else { body },
            nonsense: false,
            begins,
            endless: ends.is_none(),
            ends: match whole {
                true => ends.map(|_| self.process.put),
                false => Some(u64::MAX),
            },
            body_begins,
            keeps,
        };
        self.answers.push_back(number);
        world.answers.push(answer);
    }

    /// The rest of an answer never comes.
    fn cut(&mut self, how: How, endless: bool, world: &mut World) {
        self.process.ending = false;
        if how == How::Mute {
            return world.hit("answer: silent inside");
        }
        // Without a length the end of the connection is the end of the answer.
        if endless || world.rng.chance(1, 2) {
            world.hit("answer: reset inside");
            self.process.resetting = true;
        } else {
            world.hit("answer: fin inside");
            self.process.ending = true;
        }
    }

    fn talk_nonsense(&mut self, request: Option<usize>, world: &mut World) {
        world.hit("answer: nonsense");
        let interims = "HTTP/1.1 100 Continue\r\n\r\n".repeat(9);
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n";
        let texts = [
            format!("{ok}Transfer-Encoding: chunked\r\n\r\nok"),
            format!("{ok}Content-Length: 3\r\n\r\nokk"),
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_string(),
            "%!nonsense\r\n\r\n".to_string(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
                .to_string(),
            format!("{interims}{ok}\r\nok"),
        ];
        let text = &texts[world.rng.below(texts.len() as u32) as usize];
        self.stray(request, text.as_bytes(), 0, world);
    }

    /// What some servers do behind an answer.
    fn misbehave(&mut self, world: &mut World) {
        if !world.wild || self.process.ending {
            return;
        }
        match world.rng.below(40) {
            0 => {
                world.hit("fault: closed behind an answer");
                self.process.ending = true;
            }
            1 | 2 => {
                world.hit("fault: stray bytes behind an answer");
                self.speak_unasked(world);
            }
            _ => {}
        }
    }

    /// Bytes that nobody has asked for. What looks like an answer is the last that it says: if it were
    /// asked in that moment, nobody could tell the next answer from the one that it owes.
    pub fn speak_unasked(&mut self, world: &mut World) {
        match world.rng.below(3) {
            0 => self.talk_nonsense(None, world),
            1 => {
                let number = world.answers.len();
                let text = format!(
                    "HTTP/1.1 503 Stray\r\nX-Answer: {number}\r\nContent-Length: 0\r\n\r\n"
                );
                self.stray(None, text.as_bytes(), 503, world);
                self.process.ending = true;
            }
            _ => {
                self.say(None, 200, How::Well, world);
                self.process.ending = true;
            }
        }
    }

    fn stray(&mut self, meant_for: Option<usize>, text: &[u8], status: u16, world: &mut World) {
        let begins = self.process.put;
        self.queue(text);
        self.answers.push_back(world.answers.len());
        world.answers.push(Answer {
            meant_for,
            bound: None,
            status,
            body: Vec::new(),
            nonsense: status == 0,
            begins,
            ends: Some(self.process.put),
            body_begins: self.process.put,
            endless: false,
            keeps: true,
        });
    }

    fn answer_probe(&mut self, me: usize, call: &Call, world: &mut World) {
        let sick = world.origins[self.server].is_sick(world.now);
        let pool = world.origins[self.server].pool;
        let health = world.fleet.pools[pool].health.clone();
        let expect = health.expect("it was probed").expect;
        world.note(format_args!("line {me} answers a probe, sick: {sick}"));
        let body = |status: u16| {
            format!("HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{{\"status\":{status}}}")
        };
        let text = match (sick, expect) {
            (false, Expect::WebSocket) => {
                let accept = derive_accept_key(call.key.as_deref().unwrap_or_default().as_bytes());
                format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                     Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
                )
            }
            (false, _) => body(200),
            (true, _) => match world.rng.below(5) {
                0 => {
                    world.hit("probe: never answered");
                    return;
                }
                1 => {
                    self.process.ending = true;
                    return;
                }
                2 if expect == Expect::JsonStatus => body(503),
                3 => "%!nonsense\r\n\r\n".to_string(),
                _ => "HTTP/1.1 500 Sick\r\nContent-Length: 0\r\n\r\n".to_string(),
            },
        };
        world.hit(if sick { "probe: bad" } else { "probe: good" });
        self.queue(text.as_bytes());
    }

    /// Whether it rests, as its process sees it.
    pub fn is_at_rest(&self) -> bool {
        let quiet = self.call.is_none() && self.calls > 0 && self.process.out.is_empty();
        quiet && !self.process.ended && !self.process.ending && !self.process.resetting
    }

    /// Whether its end, now, would look like the end of an answer that is not all there.
    pub fn is_cut_unseen(&self, world: &World) -> bool {
        let unsaid = !self.process.out.is_empty();
        let cut = |answer: &usize| {
            let answer = &world.answers[*answer];
            answer.endless && (unsaid || answer.ends.is_some())
        };
        self.answers.iter().any(cut)
    }

    pub fn hang_up(&mut self) {
        self.process.ending = true;
    }

    fn queue(&mut self, bytes: &[u8]) {
        self.process.out.extend(bytes);
        self.process.put += bytes.len() as u64;
    }

    fn flush(&mut self, world: &mut World) {
        if self.process.mute_until > world.now {
            return;
        }
        let (front, _) = self.process.out.as_slices();
        let max = match world.wild && self.process.drips {
            true => {
                if world.rng.chance(1, 20) {
                    self.process.mute_until = world.now + u64::from(world.rng.below(300));
                }
                front.len().min(1 + world.rng.below(2_000) as usize)
            }
            false => front.len(),
        };
        let took = world.conns[self.conn].say(&front[..max]);
        self.process.out.drain(..took);
    }
}
