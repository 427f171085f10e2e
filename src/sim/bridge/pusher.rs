//! The API's own client: it pushes to clients of the bridge, closes them, and asks for them.

use std::collections::{BTreeSet, VecDeque};

use super::DRAIN;
use super::http::Messages;
use super::nodes::MARK;
use super::people::{Guest, IDS, PUSHES, Person, Stage};
use super::world::{World, home};
use crate::sim::codec;

/// One connection of it.
#[derive(Default)]
pub struct Pusher {
    pub conn: usize,
    pub stage: Stage,
    inbox: Messages,
    out: VecDeque<u8>,
    pub pushes: Vec<Push>,
    /// How many of them were answered.
    answered: usize,
    /// So many requests at a time.
    depth: usize,
    /// It is another node: it goes on asking, now and then, and to the end of a drain.
    node: bool,
    asked_at: u64,
    /// An answer has kept the connection for it.
    known: bool,
}

/// A request to the proxy.
pub struct Push {
    pub verb: Verb,
    /// A ClientId, or what one begins with.
    pub name: &'static str,
    pub at: u64,
    /// It comes from another node.
    pub hop: Option<&'static str>,
    /// Another node has answered it.
    pub elsewhere: bool,
    /// Its status, and when it was read.
    pub answer: Option<(u16, u64)>,
    /// Whom a broadcast could not be given; they are not named.
    pub slow: u64,
    /// The guests that have it.
    pub delivered: BTreeSet<usize>,
}

impl Push {
    /// Whether it is for this client.
    pub fn is_for(&self, guest: &Guest) -> bool {
        let name = IDS[guest.id];
        match self.verb {
            Verb::Broadcast => name.starts_with(self.name),
            _ => name == self.name,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Message,
    Broadcast,
    Close(u16),
    Look,
}

impl World {
    pub fn add_pusher(&mut self) {
        let me = self.people.len();
        let conn = self.connect(me, home(me, true));
        let depth = [1, 1, 3][self.rng.below(3) as usize];
        let node = self.nodes.any && me % 2 == 1;
        self.people.push(Person::Pusher(Box::new(Pusher {
            conn,
            depth: if node { 1 } else { depth },
            node,
            asked_at: self.now,
            ..Pusher::default()
        })));
    }
}

impl Pusher {
    pub fn step(&mut self, me: usize, world: &mut World) {
        if self.stage == Stage::Gone {
            return;
        }
        self.read(me, world);
        let more = self.pushes.len() - self.answered < self.depth;
        if more && self.out.len() < 20_000 && self.is_in_the_mood(world) {
            if self.pushes.len() > self.answered {
                world.hit("push: pipelined");
            }
            self.ask(me, world);
        }
        let (front, _) = self.out.as_slices();
        let took = world.conns[self.conn].say(front);
        self.out.drain(..took);
        if world.wild && world.rng.chance(1, 600) {
            world.conns[self.conn].hang_up();
            self.stage = Stage::Gone;
        }
        let conn = &mut world.conns[self.conn];
        if conn.outward.reset || conn.is_heard_out() {
            let early = world.laws.drain_ends.is_some_and(|ends| world.now < ends);
            if early && self.known {
                world.must_be_empty(me);
            }
            let conn = &mut world.conns[self.conn];
            conn.hang_up();
            self.stage = Stage::Gone;
        }
    }

    fn is_in_the_mood(&self, world: &mut World) -> bool {
        let draining = world.laws.drain_ends.is_some();
        if self.node && draining {
            world.hit("node: asks in a drain");
        }
        let talks = world.talking || self.node && draining;
        let check = self.node && world.now >= self.asked_at + NODE_PAUSE;
        talks && world.rng.chance(1, 12) || check
    }

    /// Requests that wait for their answers.
    pub fn waiting(&self) -> usize {
        self.pushes.len() - self.answered
    }

    pub fn hang_up(&mut self, world: &mut World) {
        world.conns[self.conn].hang_up();
        self.stage = Stage::Gone;
    }

    fn read(&mut self, me: usize, world: &mut World) {
        let mut buffer = [0; 4 << 10];
        let count = world.conns[self.conn].hear(&mut buffer);
        self.inbox.push(&buffer[..count]);
        loop {
            let next = self.inbox.next();
            let next = next.unwrap_or_else(|error| panic!("law: pusher {me} reads HTTP: {error}"));
            let Some((head, body)) = next else { return };
            let status = head.start[1].parse().expect("law: a status is a number");
            let n = self.answered;
            let draining = world.laws.drain_ends.is_some_and(|ends| world.now < ends);
            let last = head.value("connection") == Some("close");
            if draining && last && self.known {
                world.must_be_empty(me);
            }
            self.known |= self.node && !last;
            if n == self.pushes.len() && world.laws.drain_ends.is_some() && status == 503 {
                // Told that it is over although it has asked nothing.
                continue;
            }
            assert!(
                n < self.pushes.len(),
                "law: pusher {me} got {status} unasked"
            );
            self.answered += 1;
            if matches!(status, 200 | 404) {
                self.judge_drain(me, n, head.value("x-wsteady-drain").is_some(), world);
            }
            self.pushes[n].answer = Some((status, world.now));
            world.note(format_args!(
                "pusher {me} reads {status} to {:?} {n} to {}",
                self.pushes[n].verb, self.pushes[n].name
            ));
            world.on_push_answered(me, &mut self.pushes[n], status, &body);
        }
    }

    /// Other nodes are told of a drain, and nobody else is.
    fn judge_drain(&self, me: usize, n: usize, said: bool, world: &mut World) {
        let (ends, asked_at) = (world.laws.drain_ends, self.pushes[n].at);
        let began = ends.map(|ends| ends - u64::from(DRAIN));
        let may = self.pushes[n].hop.is_some() && began.is_some();
        assert!(may || !said, "law: pusher {me} is told of no drain");
        if may && began.is_some_and(|began| asked_at > began + HEARD) {
            world.hit("node: told of a drain");
            assert!(said, "law: node {me} is told of a drain");
        }
    }

    fn ask(&mut self, me: usize, world: &mut World) {
        let n = self.pushes.len() as u32;
        let id = world.rng.below(IDS.len() as u32) as usize;
        self.asked_at = world.now;
        let verb = match world.rng.below(16) {
            _ if !world.talking => Verb::Look,
            0 => Verb::Close([1000, 4001, 4002][world.rng.below(3) as usize]),
            1 => Verb::Look,
            2 => Verb::Broadcast,
            _ => Verb::Message,
        };
        let name = match verb {
            Verb::Broadcast => PREFIXES[world.rng.below(PREFIXES.len() as u32) as usize],
            _ => IDS[id],
        };
        let mut head = match verb {
            Verb::Close(code) => {
                world.laws.dismissals.insert((id, code));
                format!("DELETE /{name} HTTP/1.1\r\nHost: b\r\nX-Wsteady-Close: {code}\r\n")
            }
            Verb::Look => {
                format!("GET /{name} HTTP/1.1\r\nHost: b\r\nAccept: application/json\r\n")
            }
            Verb::Message => format!("POST /{name} HTTP/1.1\r\nHost: b\r\n"),
            Verb::Broadcast => format!("POST /?prefix={name} HTTP/1.1\r\nHost: b\r\n"),
        };
        let hop = match world.rng.below(40) {
            _ if self.node => Some("another"),
            0..=1 => Some("another"),
            2 => Some(MARK),
            _ => None,
        };
        if let Some(mark) = hop {
            head.push_str(&format!("X-Wsteady-Hop: {mark}\r\n"));
        }
        let mut body = Vec::new();
        if matches!(verb, Verb::Message | Verb::Broadcast) {
            let length = [30, 300, 6_000][world.rng.below(3) as usize];
            let length = world.rng.below(length) as usize;
            body = codec::content(PUSHES + me as u32, n, length);
            if !codec::is_text(n) {
                head.push_str("Content-Type: application/octet-stream\r\n");
            }
        }
        if body.is_empty() {
            head.push_str("\r\n");
        } else if world.rng.chance(1, 5) {
            world.hit("push: chunked");
            head.push_str(&format!(
                "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n",
                body.len()
            ));
            body.extend_from_slice(b"\r\n0\r\n\r\n");
        } else {
            head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        }
        self.out.extend(head.as_bytes());
        self.out.extend(body);
        self.pushes.push(Push {
            verb,
            name,
            at: world.now,
            hop,
            elsewhere: false,
            answer: None,
            slow: 0,
            delivered: BTreeSet::new(),
        });
        world.note(format_args!("pusher {me} asks {verb:?} {n} for {name}"));
    }
}

/// All shards know of a drain after so many ms.
const HEARD: u64 = 100;

/// How long a node asks nothing, in ms: longer than a stranger may.
const NODE_PAUSE: u64 = 5_000;

/// Everybody, one of them, some, nobody.
const PREFIXES: [&str; 5] = ["", "anna", "b.", "-", "nobody"];
