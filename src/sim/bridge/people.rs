//! Who connects to the proxy: clients that number what they say, and pushers that speak for the API.

use std::collections::{BTreeMap, VecDeque};

use tungstenite::handshake::derive_accept_key;

use super::api::SHORT;
use super::pusher::Pusher;
use super::world::{World, home};
use crate::sim::codec::{self, Frames, Item};

/// Somebody at a listener.
#[derive(Default)]
pub enum Person {
    /// It is being looked at.
    #[default]
    Away,
    Guest(Box<Guest>),
    Pusher(Box<Pusher>),
}

impl Person {
    pub fn is_pusher(&self) -> bool {
        matches!(self, Person::Pusher(_))
    }

    pub fn guest(&self) -> Option<&Guest> {
        match self {
            Person::Guest(guest) => Some(guest),
            Person::Pusher(_) | Person::Away => None,
        }
    }
}

/// A client of the bridge.
#[derive(Default)]
pub struct Guest {
    pub conn: usize,
    /// The number of its ClientId.
    pub id: usize,
    pub stage: Stage,
    head: Vec<u8>,
    frames: Frames,
    out: VecDeque<u8>,
    /// Messages begun.
    pub next: u32,
    /// When it came, and when it read its 101.
    pub since: u64,
    pub open_at: u64,
    /// Since when the proxy knows that it is leaving; and when its connection was closed there.
    pub leaving_at: Option<u64>,
    pub closed_at: Option<u64>,
    /// The code of its own Close (1005: none), and the Close that it has read.
    pub close_sent: Option<u16>,
    pub close_read: Option<(u16, String)>,
    pub status: Option<u16>,
    /// Answers that it has got, and the last push of each pusher.
    pub answers: usize,
    pushes: BTreeMap<u32, u32>,
    /// Answers of its valve.
    pub warned: u64,
    /// It reads hardly anything until then.
    pub slow_until: u64,
}

/// Where a guest stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// It waits for its 101.
    #[default]
    Hello,
    Open,
    /// It was refused, or has said its Close: it waits for the end.
    Leaving,
    Gone,
}

/// The ClientIds.
pub const IDS: [&str; 6] = ["anna", "b.ert", "c~3", "d:4@x", "-e_=", "*f+"];

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

impl World {
    /// A client comes and asks to be upgraded.
    pub fn add_guest(&mut self, id: usize) -> usize {
        let me = self.people.len();
        let conn = self.connect(me, home(me, false));
        let mut guest = Guest {
            conn,
            id,
            since: self.now,
            ..Guest::default()
        };
        let head = format!(
            "GET /{}?me={me} HTTP/1.1\r\nHost: bridge\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nX-Sim: {me}\r\n\r\n",
            IDS[id]
        );
        guest.out.extend(head.as_bytes());
        self.note(format_args!("guest {me} comes as {}", IDS[id]));
        let left = |other: &Person| other.guest().is_some_and(|old| old.id == id);
        if self.people.iter().any(left) {
            self.hit("client: back in time");
        }
        if self.wild && self.rng.chance(1, 5) {
            self.hit("client: early messages");
            guest.talk(me, self);
        }
        self.people.push(Person::Guest(Box::new(guest)));
        me
    }
}

impl Guest {
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open && self.close_sent.is_none()
    }

    pub fn step(&mut self, me: usize, world: &mut World) {
        if self.stage == Stage::Gone {
            return;
        }
        self.read(me, world);
        if self.is_open() && world.talking && self.out.len() < 100_000 && world.rng.chance(1, 25) {
            for _ in 0..1 + world.rng.below(4) {
                self.talk(me, world);
            }
        }
        if world.wild && world.rng.chance(1, 250) {
            self.leave(me, world);
        }
        if self.stage == Stage::Gone {
            return;
        }
        let (front, _) = self.out.as_slices();
        let took = world.conns[self.conn].say(front);
        self.out.drain(..took);
        let conn = &mut world.conns[self.conn];
        if conn.outward.reset || conn.is_heard_out() {
            conn.hang_up();
            self.go(me, world);
        }
    }

    /// Bytes that have not left yet.
    pub fn unsent(&self) -> usize {
        self.out.len()
    }

    fn read(&mut self, me: usize, world: &mut World) {
        let mut buffer = [0; 8 << 10];
        let slow = self.slow_until > world.now;
        for _ in 0..world.rng.below(4) {
            let max = if slow { 3 } else { buffer.len() };
            let count = world.conns[self.conn].hear(&mut buffer[..max]);
            if count == 0 {
                return;
            }
            if self.stage == Stage::Hello {
                self.head.extend_from_slice(&buffer[..count]);
                self.hear_answer(me, world);
            } else {
                self.frames.push(&buffer[..count]);
            }
            if self.status == Some(101) {
                self.hear(me, world);
            }
        }
    }

    fn hear_answer(&mut self, me: usize, world: &mut World) {
        let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else {
            return;
        };
        let rest = self.head.split_off(end + 4);
        let head = String::from_utf8(std::mem::take(&mut self.head)).expect("law: heads are text");
        let status = head.get(9..12).and_then(|digits| digits.parse().ok());
        let status = status.unwrap_or_else(|| panic!("law: guest {me} got {head:?}"));
        self.status = Some(status);
        world.note(format_args!("guest {me} reads {status}"));
        if status == 101 {
            let accept = derive_accept_key(KEY.as_bytes());
            let line = format!("Sec-WebSocket-Accept: {accept}\r\n");
            assert!(head.contains(&line), "law: the accept of our key");
            (self.stage, self.open_at) = (Stage::Open, world.now);
            self.frames.push(&rest);
            world.hit("client: open");
        } else {
            world.hit("client: refused");
            self.stage = Stage::Leaving;
            world.on_refused(me, self, status);
        }
    }

    fn hear(&mut self, me: usize, world: &mut World) {
        loop {
            match self.frames.next(false) {
                Ok(None) => return,
                Ok(Some(item)) => {
                    let over = self.close_read.is_some();
                    assert!(!over, "law: nothing follows a Close: {item:?}");
                    self.hear_item(me, item, world);
                }
                Err(error) => panic!("law: guest {me} reads only good frames: {error}"),
            }
        }
    }

    fn hear_item(&mut self, me: usize, item: Item, world: &mut World) {
        match item {
            Item::Message(bytes, text) => self.hear_message(me, &bytes, text, world),
            Item::Ping(payload) => {
                if self.close_sent.is_none() {
                    let mut frame = Vec::new();
                    codec::frame(0x8a, &payload, Some(world.rng.mask_key()), &mut frame);
                    self.out.extend(frame);
                }
            }
            Item::Pong(_) => {}
            Item::Close(code, reason) => {
                world.note(format_args!("guest {me} reads Close {code:?} {reason}"));
                self.close_read = Some((code.unwrap_or(1005), reason));
                world.on_guest_closed(me, self);
                if self.close_sent.is_none() {
                    self.say_close(code, world);
                    // It is the proxy's Close: this is but the reply.
                    self.close_sent = None;
                    self.stage = Stage::Leaving;
                }
            }
        }
    }

    fn hear_message(&mut self, me: usize, bytes: &[u8], text: bool, world: &mut World) {
        let short = [b"No", b"ok"].iter().position(|short| *short == bytes);
        let (from, n) = match short {
            Some(n) => (SHORT, n as u32),
            None => {
                let (from, n) = codec::recognise(bytes, text).unwrap_or_else(|error| {
                    panic!("law: guest {me} reads whole messages: {error}")
                });
                match world.on_passed_down(me, self, from, n) {
                    Some(from) => (from, n),
                    None => return,
                }
            }
        };
        if from & PUSHES == 0 {
            return world.on_answer_delivered(me, self, (from, n));
        }
        let last = self.pushes.insert(from, n);
        assert!(
            last.is_none_or(|last| last < n),
            "law: guest {me}: push {n} of {from:x} behind {last:?}"
        );
        world.on_push_delivered(me, self, (from - PUSHES) as usize, n);
    }

    /// A numbered message, sometimes in fragments with a Ping between.
    pub fn talk(&mut self, me: usize, world: &mut World) {
        let length = match world.rng.below(30) {
            0 => world.rng.below(60_000),
            1..=3 => world.rng.below(5_000),
            _ => world.rng.below(200),
        };
        let payload = codec::content(me as u32, self.next, length as usize);
        let between = |rng: &mut crate::kit::Prng| rng.chance(1, 3).then(|| (0x89, b"?".to_vec()));
        let text = codec::is_text(self.next);
        let bytes = codec::message(&payload, text, true, between, &mut world.rng);
        if bytes[0] & 0x80 == 0 {
            world.hit("client: fragments");
        }
        self.out.extend(bytes);
        self.next += 1;
        world.hit("message: taken");
    }

    /// It leaves, in one way or another.
    fn leave(&mut self, me: usize, world: &mut World) {
        let early = self.stage == Stage::Hello;
        if !world.conns[self.conn].accepted {
            return;
        }
        match world.rng.below(5) {
            0 | 1 if early => {
                world.hit("client: reset before its 101");
                world.conns[self.conn].reset_proxy();
                self.go(me, world);
            }
            _ if early => {
                world.hit("client: fin before its 101");
                world.conns[self.conn].end_peer();
                self.go(me, world);
            }
            0 => {
                world.hit("client: reset");
                world.conns[self.conn].reset_proxy();
                self.go(me, world);
            }
            1 if world.rng.chance(1, 3) => {
                world.conns[self.conn].spoil();
                self.bid_farewell(me, world);
            }
            1 => {
                world.hit("client: fin");
                world.conns[self.conn].hang_up();
                self.go(me, world);
            }
            2 if self.slow_until < world.now => {
                world.hit("client: slow");
                self.slow_until = world.now + u64::from(world.rng.below(6_000));
            }
            _ => self.bid_farewell(me, world),
        }
    }

    /// Its own Close.
    pub fn bid_farewell(&mut self, me: usize, world: &mut World) {
        if !self.is_open() {
            return;
        }
        world.hit("client: close");
        let code = [Some(1000), Some(4001), None][world.rng.below(3) as usize];
        world.note(format_args!("guest {me} says Close {code:?}"));
        self.say_close(code, world);
    }

    fn say_close(&mut self, code: Option<u16>, world: &mut World) {
        let mut frame = Vec::new();
        codec::close(code, "", Some(world.rng.mask_key()), &mut frame);
        self.out.extend(frame);
        self.close_sent = Some(code.unwrap_or(1005));
    }

    fn go(&mut self, me: usize, world: &mut World) {
        world.note(format_args!("guest {me} is gone"));
        if self.status.is_some() && self.close_read.is_none() && self.close_sent.is_none() {
            world.hit("session: ended unasked");
        }
        self.stage = Stage::Gone;
    }
}

/// Senders of pushes: this, and the number of the person.
pub const PUSHES: u32 = 0x8000_0000;
