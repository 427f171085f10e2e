//! The clients: they ask one after the other or all at once, send slowly, read slowly, and leave when
//! they like.

use std::collections::VecDeque;

use super::tap::Tap;
use super::world::{Request, UPWARD, Verb, World, home, stuff};
use crate::kit::Prng;

/// One connection of a client.
#[derive(Default)]
pub struct Visitor {
    pub conn: usize,
    /// It speaks HTTP/1.1.
    modern: bool,
    /// So many requests at a time.
    depth: usize,
    out: VecDeque<u8>,
    put: u64,
    /// A body that waits for its 100, and how long.
    held: Option<(Vec<u8>, u64)>,
    /// Its requests, in their order.
    pub asked: Vec<usize>,
    /// It asks for nothing more.
    last: bool,
    /// It reads hardly anything, sends hardly anything, or nothing at all, until then.
    pub slow_until: u64,
    pub lazy_until: u64,
    pub stalled_until: u64,
    /// It has sent FIN, and reads on; or it is gone.
    pub half: bool,
    pub gone: bool,
    /// What it gets.
    pub tap: Tap,
}

impl World {
    pub fn add_visitor(&mut self) {
        let me = self.visitors.len();
        let conn = self.connect(me, home(me));
        let modern = self.rng.chance(5, 6);
        let depth = [1, 1, 2, 5][self.rng.below(4) as usize];
        let mut visitor = Visitor {
            conn,
            modern,
            depth: if modern { depth } else { 1 },
            ..Visitor::default()
        };
        if self.rng.chance(1, 8) {
            visitor.lazy_until = self.now + u64::from(self.rng.below(5_000));
        }
        if self.rng.chance(1, 8) {
            visitor.slow_until = self.now + u64::from(self.rng.below(5_000));
        }
        self.note(format_args!("visitor {me} comes"));
        self.visitors.push(visitor);
    }
}

impl Visitor {
    pub fn step(&mut self, me: usize, world: &mut World) {
        if self.gone {
            return;
        }
        self.read(world);
        let waiting = self.asked.len() - self.seen(world);
        let free = self.held.is_none() && !self.last && !self.half && waiting < self.depth;
        if free && world.talking && world.rng.chance(1, 12) {
            if waiting > 0 {
                world.hit("visitor: pipelines");
            }
            self.ask(me, world);
        }
        self.send_held(world);
        self.send(world);
        if world.wild && world.rng.chance(1, 300) {
            self.leave(me, world);
        }
        let conn = &mut world.conns[self.conn];
        if !self.gone && (conn.outward.reset || conn.is_heard_out()) {
            conn.hang_up();
            self.go(me, world);
        }
    }

    /// Answers that it has read whole.
    pub fn seen(&self, world: &World) -> usize {
        let taken = world.conns[self.conn].outward.taken;
        self.tap.ends.iter().filter(|ends| **ends <= taken).count()
    }

    /// Whether it has nothing under way.
    pub fn is_idle(&self, world: &World) -> bool {
        self.gone || (self.out.is_empty() && self.asked.len() == self.seen(world))
    }

    fn read(&mut self, world: &mut World) {
        let mut buffer = [0; 16 << 10];
        let slow = self.slow_until > world.now;
        for _ in 0..world.rng.below(5) {
            let max = if slow { 300 } else { buffer.len() };
            if world.conns[self.conn].hear(&mut buffer[..max]) == 0 {
                return;
            }
        }
    }

    fn ask(&mut self, me: usize, world: &mut World) {
        let id = world.requests.len();
        let mut request = self.make_request(id, &mut world.rng);
        request.since = world.now;
        let pools = world.fleet.pools.len() as u32;
        request.pool = world.rng.below(pools) as usize;
        self.last |= !request.keeps || request.broken;
        let (head, body) = self.write(id, &request, &mut world.rng);
        request.begins = self.put;
        self.put += head.len() as u64;
        request.head_ends = self.put;
        self.put += body.len() as u64;
        request.ends = self.put;
        self.out.extend(head.as_bytes());
        world.hit(match (request.verb, request.modern) {
            (_, false) => "visitor: asks in HTTP/1.0",
            (Verb::Get, _) => "visitor: asks GET",
            (Verb::Head, _) => "visitor: asks HEAD",
            (Verb::Post, _) => "visitor: asks POST",
            (Verb::Put, _) => "visitor: asks PUT",
        });
        if request.expects && world.rng.chance(4, 5) {
            world.hit("visitor: waits for 100");
            self.held = Some((body, world.now + 400));
        } else {
            self.out.extend(body);
        }
        if request.broken {
            world.hit("visitor: sends a bad chunk");
        }
        world.note(format_args!(
            "visitor {me} asks {} {id}",
            request.verb.name()
        ));
        self.asked.push(id);
        world.requests.push(request);
    }

    fn make_request(&self, id: usize, rng: &mut Prng) -> Request {
        let verb = match rng.below(10) {
            0..=3 => Verb::Get,
            4 => Verb::Head,
            5..=7 => Verb::Post,
            _ => Verb::Put,
        };
        let full = matches!(verb, Verb::Post | Verb::Put) || rng.chance(1, 30);
        let length = match rng.below(12) {
            _ if !full => 0,
            0 | 1 => 0,
            2..=6 => rng.below(300),
            7..=9 => rng.below(20_000),
            _ => rng.below(400_000),
        };
        let chunked = self.modern && full && rng.chance(1, 3);
        Request {
            pool: 0,
            verb,
            modern: self.modern,
            keeps: rng.chance(7, 8),
            expects: self.modern && self.depth == 1 && length > 0 && rng.chance(1, 4),
            body: stuff(UPWARD | id as u32, length as usize),
            chunked,
            broken: chunked && rng.chance(1, 15),
            begins: 0,
            head_ends: 0,
            ends: 0,
            since: 0,
            lines: Vec::new(),
            wholes: 0,
            carried_at: 0,
            heard: false,
            whole_answer: None,
            came_at: None,
            answered_at: None,
        }
    }

    fn write(&self, id: usize, request: &Request, rng: &mut Prng) -> (String, Vec<u8>) {
        let version = if request.modern { "1.1" } else { "1.0" };
        let name = request.verb.name();
        let mut head = format!(
            "{name} /p{}/{id} HTTP/{version}\r\nX-Sim: {id}\r\n",
            request.pool
        );
        match (request.modern, request.keeps) {
            (true, true) => head.push_str("Host: sim\r\n"),
            (true, false) => head.push_str("Host: sim\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n"),
            (false, true) => head.push_str("Connection: keep-alive\r\n"),
            (false, false) => {}
        }
        if request.expects {
            head.push_str("Expect: 100-continue\r\n");
        }
        let mut body = Vec::new();
        if request.chunked {
            head.push_str("Transfer-Encoding: chunked\r\n\r\n");
            let size = [7, 900, 50_000][rng.below(3) as usize];
            let pieces = 1 + request.body.len() as u32 / size as u32;
            let flaw = rng.below(pieces) as usize;
            for (at, piece) in request.body.chunks(size).enumerate() {
                if request.broken && at == flaw {
                    break;
                }
                body.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                body.extend_from_slice(piece);
                body.extend_from_slice(b"\r\n");
            }
            let end: &[u8] = match (request.broken, rng.below(3)) {
                (true, _) => b"0x5\r\nhello\r\n0\r\n\r\n",
                (false, 0) => b"0;last=1\r\nX-Trailer: 1\r\n\r\n",
                (false, _) => b"0\r\n\r\n",
            };
            body.extend_from_slice(end);
        } else if !request.body.is_empty() || matches!(request.verb, Verb::Post | Verb::Put) {
            head.push_str(&format!("Content-Length: {}\r\n\r\n", request.body.len()));
            body.extend_from_slice(&request.body);
        } else {
            head.push_str("\r\n");
        }
        (head, body)
    }

    fn send_held(&mut self, world: &mut World) {
        let answered = self.seen(world) == self.asked.len();
        let Some((_, until)) = &self.held else { return };
        if self.tap.continued || answered || *until <= world.now {
            self.tap.continued = false;
            let (body, _) = self.held.take().expect("it was looked at");
            // It sends what it has announced, asked for or not.
            self.out.extend(body);
        }
    }

    fn send(&mut self, world: &mut World) {
        if self.stalled_until > world.now || self.half {
            return;
        }
        let (front, _) = self.out.as_slices();
        if world.wild && front.len() > 1 && world.rng.chance(1, 100) {
            world.hit("visitor: stalls inside");
            let took = world.conns[self.conn].say(&front[..front.len() / 2]);
            self.out.drain(..took);
            self.stalled_until = world.now + u64::from(world.rng.below(6_000));
            return;
        }
        let max = match self.lazy_until > world.now {
            true => front.len().min(world.rng.below(400) as usize),
            false => front.len(),
        };
        let took = world.conns[self.conn].say(&front[..max]);
        self.out.drain(..took);
    }

    /// It leaves, or loses its pace.
    fn leave(&mut self, me: usize, world: &mut World) {
        if !world.conns[self.conn].accepted {
            return;
        }
        let inside = self.asked.len() > self.seen(world);
        match world.rng.below(8) {
            0 => {
                world.hit(if inside {
                    "visitor: resets inside"
                } else {
                    "visitor: resets"
                });
                if world.rng.chance(1, 3) {
                    world.conns[self.conn].spoil();
                }
                world.conns[self.conn].reset_proxy();
                self.go(me, world);
            }
            1 => {
                world.hit(if inside {
                    "visitor: ends inside"
                } else {
                    "visitor: ends"
                });
                world.conns[self.conn].hang_up();
                self.go(me, world);
            }
            2 | 3 if !self.half => {
                let cut = !self.out.is_empty() || self.held.is_some();
                world.hit(match cut {
                    true => "visitor: half-closes inside a request",
                    false => "visitor: half-closes",
                });
                world.note(format_args!("visitor {me} half-closes"));
                world.conns[self.conn].half_close();
                self.half = true;
                self.out.clear();
                self.held = None;
            }
            4 => {
                world.hit("visitor: stalls");
                self.stalled_until = world.now + u64::from(world.rng.below(6_000));
            }
            5 => self.lazy_until = world.now + u64::from(world.rng.below(6_000)),
            6 => {
                world.hit("visitor: reads slowly");
                self.slow_until = world.now + u64::from(world.rng.below(6_000));
            }
            _ => self.last = true,
        }
    }

    fn go(&mut self, me: usize, world: &mut World) {
        world.note(format_args!("visitor {me} is gone"));
        self.gone = true;
        self.out.clear();
    }

    /// It has asked for all it wanted.
    pub fn hang_up(&mut self, world: &mut World) {
        world.conns[self.conn].hang_up();
        self.gone = true;
    }
}
