//! Everything outside of the shards.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use super::coverage::EVENTS;
use super::laws::Ledger;
use super::line::Line;
use super::origin::Origin;
use super::visitor::Visitor;
use crate::fleet::Fleet;
use crate::fleet::health::Expect;
use crate::session::{House, Settings};
use crate::shard::{Dialled, Got, Token};
use crate::sim::above::Above;
use crate::sim::codec;
use crate::sim::ground::{Ground, Kernel, Scene};

/// The world of one run. It is handed from shard to shard, whoever has its turn.
pub struct World {
    ground: Ground,
    /// One per server.
    pub origins: Vec<Origin>,
    /// Connections to them, in the order in which they came to be.
    pub lines: Vec<Line>,
    /// Clients, in the order in which they came.
    pub visitors: Vec<Visitor>,
    /// What they have asked for.
    pub requests: Vec<Request>,
    /// What the origins have answered, asked or not.
    pub answers: Vec<Answer>,
    pub settings: Vec<Settings>,
    pub house: House,
    /// Shares its counts with those of the shards.
    pub fleet: Fleet,
    pub laws: Ledger,
    /// Faults are on, and visitors ask.
    pub wild: bool,
    pub talking: bool,
}

/// The kernel of its shards.
pub type HttpSim = Above<Kernel<World>>;

/// A request, as its client sent it, and what became of it.
pub struct Request {
    pub pool: usize,
    pub verb: Verb,
    /// HTTP/1.1.
    pub modern: bool,
    /// Another may follow it.
    pub keeps: bool,
    /// It asks for a 100.
    pub expects: bool,
    pub body: Vec<u8>,
    pub chunked: bool,
    /// Its chunks break off in nonsense.
    pub broken: bool,
    /// Where it stands in its client's stream.
    pub begins: u64,
    pub head_ends: u64,
    pub ends: u64,
    pub since: u64,
    /// When the proxy had read all of it.
    pub came_at: Option<u64>,
    /// The lines that have carried something of it, and how many all of it.
    pub lines: Vec<usize>,
    pub wholes: u32,
    /// When the last of it was taken by a server's kernel.
    pub carried_at: u64,
    /// The proxy has read something of an answer to it.
    pub heard: bool,
    /// The answer that the proxy has read to its end.
    pub whole_answer: Option<usize>,
    /// When its answer had gone to the client whole.
    pub answered_at: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    Head,
    Post,
    Put,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Head => "HEAD",
            Verb::Post => "POST",
            Verb::Put => "PUT",
        }
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Request {
            verb,
            modern,
            keeps,
            body,
            chunked,
            broken,
            lines,
            heard,
            whole_answer,
            since,
            ..
        } = self;
        write!(
            to,
            "{verb:?} since {since}, modern {modern}, keeps {keeps}, chunked {chunked}, broken {broken}, \
             {} bytes, on lines {lines:?}, heard {heard}, answered by {whole_answer:?}",
            body.len()
        )
    }
}

/// An answer on its way through the proxy.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The request that its origin had in mind, and the one that the proxy must take it for.
    pub meant_for: Option<usize>,
    pub bound: Option<usize>,
    pub status: u16,
    pub body: Vec<u8>,
    /// A proxy that reads it to the letter can't pass it on.
    pub nonsense: bool,
    /// Where it begins and ends in its line's stream; no end: with the connection.
    pub begins: u64,
    pub ends: Option<u64>,
    /// Where its body begins.
    pub body_begins: u64,
    /// Nothing but the end of its line tells that it is over.
    pub endless: bool,
    /// Its line may be used again behind it.
    pub keeps: bool,
}

impl World {
    pub fn new(
        seed: u64,
        shards: usize,
        settings: Vec<Settings>,
        fleet: Fleet,
        house: House,
    ) -> World {
        World {
            ground: Ground::new(seed ^ SALT, shards, EVENTS),
            origins: fleet.servers.iter().map(Origin::new).collect(),
            lines: Vec::new(),
            visitors: Vec::new(),
            requests: Vec::new(),
            answers: Vec::new(),
            laws: Ledger::new(shards, fleet.servers.len()),
            settings,
            house,
            fleet,
            wild: true,
            talking: true,
        }
    }
}

impl Deref for World {
    type Target = Ground;

    fn deref(&self) -> &Ground {
        &self.ground
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Ground {
        &mut self.ground
    }
}

impl Scene for World {
    fn dial(&mut self, shard: usize, to: SocketAddr, token: Token) -> Dialled<usize> {
        let (server, line) = (usize::from(to.port()), self.lines.len());
        let origin = &self.origins[server];
        let mut reach = origin.reach.clone();
        let pool = &self.fleet.pools[origin.pool];
        let wrap = (to.port(), pool.announce.is_some());
        let health = pool.health.as_ref();
        if health.is_some_and(|health| health.expect == Expect::Tcp) && origin.is_sick(self.now) {
            // There is but one way to fail such a probe.
            (reach.down_until, reach.refuses) = (self.now + 1, line.is_multiple_of(2));
        }
        let dialled = self.ground.begin_line(line, wrap, &reach, shard, token);
        match dialled {
            Dialled::Socket(id) => {
                let now = self.now;
                self.lines.push(Line::new(id, server, now));
                if self.conns[id].is_doomed() {
                    let until = now + 1_500;
                    self.laws.trouble_at = self.laws.trouble_at.max(until);
                    let harmed = &mut self.origins[server].harmed_until;
                    *harmed = until.max(*harmed);
                }
                self.note(format_args!("line {line} to server {server} is dialled"));
                self.on_choice(shard, server, line);
            }
            Dialled::Refused => self.laws.trouble_at = self.laws.trouble_at.max(self.now),
            Dialled::NoPort | Dialled::Exhausted => {
                let now = self.now;
                self.laws.trouble_at = self.laws.trouble_at.max(now);
                self.origins[server].unseen_at = now;
                // Who is well stays so; who is not has to wait.
                if !self.is_held_well(server) {
                    self.origins[server].harmed_until = self.origins[server].harmed_until.max(now);
                }
            }
        }
        dialled
    }

    /// The port names the visitor.
    fn address_of(&self, person: usize) -> SocketAddr {
        home(person)
    }

    fn on_visible(&mut self, line: usize) {
        self.see_line(line);
    }

    fn on_line_read(&mut self, line: usize, got: Got) {
        self.hear_line(line, got);
    }

    fn on_line_written(&mut self, line: usize, bytes: &[u8], refused: bool) {
        if refused {
            self.hit("write: short to a server");
        }
        self.judge_line(line, bytes);
    }

    fn on_line_closed(&mut self, line: usize) {
        self.end_line(line);
    }

    fn on_person_read(&mut self, person: usize) {
        let now = self.now;
        let visitor = &self.visitors[person];
        let taken = self.conns[visitor.conn].inward.taken;
        for request in visitor.asked.iter().rev() {
            let request = &mut self.requests[*request];
            if request.came_at.is_some() {
                break;
            }
            if request.ends <= taken {
                request.came_at = Some(now);
            }
        }
    }

    fn on_person_written(&mut self, person: usize, bytes: &[u8]) {
        self.judge_person(person, bytes);
    }

    fn on_person_shut(&mut self, person: usize) {
        self.end_person(person, false);
    }

    fn on_person_closed(&mut self, person: usize) {
        self.end_person(person, true);
    }
}

/// Where a visitor is at home.
pub fn home(me: usize) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, 1], me as u16))
}

/// So many bytes that nobody else has.
pub fn stuff(sender: u32, length: usize) -> Vec<u8> {
    let mut bytes = codec::content(sender, 0, length);
    bytes.truncate(length);
    bytes
}

/// Senders of bodies: these, and the number of the request or answer.
pub const UPWARD: u32 = 0x1000_0000;
pub const DOWNWARD: u32 = 0x2000_0000;

/// Another world, another chance, for the same seed.
const SALT: u64 = 0x0068_7474_7021;
