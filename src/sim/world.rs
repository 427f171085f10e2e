//! Everything outside of the shards: time, sockets, peers, mail; and the [`Io`] that lies about it.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use super::above::{self, Above, Below};
use super::crowd;
use super::guise::{Guise, LOCAL};
use super::laws::{Coverage, Ledger};
use super::peer::{Client, Server, Upstream};
use super::pipe::{Conn, Far};
use super::post::Letterbox;
use super::settings::Course;
use super::sightings::Sightings;
use super::valves::Dress;
use crate::fleet::{Fleet, ServerState};
use crate::kit::{Prng, Tick};
use crate::session::Settings;
use crate::shard::{
    Accept, Answer, Destination, Dialled, Got, Io, Kind, Mail, Now, Put, Ready, Token,
};

/// The world of one run. It is handed from shard to shard, whoever has its turn.
pub struct World {
    pub now: u64,
    /// The tick at which the world began: sometimes just before ticks wrap.
    pub base: u32,
    pub rng: Prng,
    pub conns: Vec<Conn>,
    /// Connections with at least one open end.
    pub live: Vec<usize>,
    pub servers: Vec<Server>,
    /// Control's copy: shares its counts with those of the shards.
    pub fleet: Fleet,
    /// Servers below this number were there from the start.
    founders: usize,
    /// Servers that are to be gone when they have no connection any more.
    pub leaving: Vec<u16>,
    pub clients: Vec<Client>,
    /// Connections to servers, in the order in which they came to be.
    pub upstreams: Vec<Upstream>,
    pub doors: Vec<Door>,
    /// By pool.
    pub settings: Vec<Course>,
    pub dress: Vec<Dress>,
    pub guise: Guise,
    pub message_max: usize,
    pub laws: Ledger,
    pub coverage: Coverage,
    /// The configuration is read again now and then, in every other run; in half of those what
    /// clients are promised changes, too.
    pub reloads: bool,
    pub fickle: bool,
    /// Faults are on, and peers talk.
    pub wild: bool,
    pub talking: bool,
    /// Since when there are no faults any more.
    pub healed_at: Option<u64>,
    /// So much the next accepts and dials fail for want of descriptors.
    pub exhausted: u32,
    /// Until then who comes gets one of the last descriptors.
    pub scarce_until: u64,
    pub denials: BTreeMap<u16, u32>,
    pub trace: u64,
    events: VecDeque<String>,
}

/// Where a shard meets the world.
#[derive(Default)]
pub struct Door {
    pub waiting: VecDeque<usize>,
    /// Since when somebody is here whose header has not come, and who.
    pub guests: Vec<(u64, usize)>,
    pub edge: bool,
    pub closed: bool,
    pub mail: Letterbox,
    /// Servers that its shard has just read to be gone, and knew to be gone before this turn.
    going: Vec<u16>,
    gone: Vec<u16>,
}

impl World {
    pub fn new(
        seed: u64,
        shards: usize,
        servers: Vec<Server>,
        settings: Vec<Settings>,
        fleet: Fleet,
    ) -> World {
        let mut rng = Prng::from_u64(seed ^ 0x0073_696d);
        let base = if rng.chance(1, 2) {
            u32::MAX - rng.below(30_000)
        } else {
            rng.below(1_000)
        };
        World {
            now: 0,
            base,
            rng,
            conns: Vec::new(),
            live: Vec::new(),
            servers,
            founders: fleet.servers.len(),
            fleet,
            leaving: Vec::new(),
            clients: Vec::new(),
            upstreams: Vec::new(),
            doors: (0..shards).map(|_| Door::default()).collect(),
            dress: vec![Dress::Bare; settings.len()],
            settings: settings.into_iter().map(Course::new).collect(),
            guise: Guise::of(seed),
            message_max: 256 << 10,
            laws: Ledger::default(),
            coverage: Coverage {
                edge: Sightings::of(above::EVENTS),
                ..Coverage::default()
            },
            reloads: seed.is_multiple_of(2),
            fickle: seed.is_multiple_of(4),
            wild: true,
            talking: true,
            healed_at: None,
            exhausted: 0,
            scarce_until: 0,
            denials: BTreeMap::new(),
            trace: seed,
            events: VecDeque::new(),
        }
    }

    /// Writes down what happened: into the trace always, as words for the last few.
    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
        }
        let line = format!("{:>6} {what}", self.now);
        for chunk in line.as_bytes().chunks(8) {
            let word = chunk
                .iter()
                .fold(0u64, |word, byte| word << 8 | u64::from(*byte));
            self.mix(word);
        }
        self.events.push_back(line);
    }

    /// The last events, for a failure.
    pub fn story(&self) -> String {
        self.events.iter().cloned().collect::<Vec<_>>().join("\n")
    }

    fn mix(&mut self, word: u64) {
        self.trace = (self.trace ^ word)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23);
    }

    /// A client's connection arrives at a listener.
    pub fn connect(&mut self, client: usize) -> Option<usize> {
        let shard = self.rng.below(self.doors.len() as u32) as usize;
        if self.doors[shard].closed {
            return None;
        }
        let mut conn = Conn::new(Far::Client(client), shard, &mut self.rng);
        conn.stands = true;
        let home = crowd::address_of(client);
        if let Some(seen) = (self.guise).wrap_client(&mut conn, home, self.now, &mut self.rng) {
            self.coverage.edge.hit(seen);
        }
        self.conns.push(conn);
        let id = self.conns.len() - 1;
        self.live.push(id);
        self.doors[shard].waiting.push_back(id);
        self.doors[shard].edge = true;
        Some(id)
    }

    /// The network does its work, time goes on.
    pub fn advance(&mut self, ms: u64) {
        self.now += ms;
        for door in &mut self.doors {
            door.mail.step(self.now);
        }
        let World {
            conns,
            live,
            rng,
            now,
            coverage,
            ..
        } = self;
        live.retain(|id| {
            let conn = &mut conns[*id];
            conn.step(*now, rng);
            for seen in conn.end.iter_mut().flat_map(|end| end.seen.drain(..)) {
                coverage.edge.hit(seen);
            }
            if conn.is_over() {
                conn.bury();
            }
            !conn.is_over()
        });
    }

    fn dial(&mut self, shard: usize, to: SocketAddr, token: Token) -> Dialled<usize> {
        let server = usize::from(to.port());
        assert!(
            !self.doors[shard].gone.contains(&to.port()),
            "law: server {server} is gone, and dialled"
        );
        self.coverage.joined += u64::from(server >= self.founders);
        if self.exhausted > 0 && self.rng.chance(1, 3) {
            self.exhausted -= 1;
            return match self.rng.chance(1, 2) {
                true => Dialled::NoPort,
                false => Dialled::Exhausted,
            };
        }
        let now = self.now;
        let place = &mut self.servers[server];
        let down = place.down_until > now;
        if down && self.rng.chance(1, 4) {
            self.coverage.refused += 1;
            return Dialled::Refused;
        }
        let upstream = self.upstreams.len();
        let mut conn = Conn::new(Far::Server(upstream), shard, &mut self.rng);
        let slow = self.servers[server].slow_connect_until > now;
        let wait = if slow {
            self.rng.below(900)
        } else {
            self.rng.below(12)
        };
        let black = self.servers[server].black_until > now;
        self.coverage.slow_connects += u64::from(slow);
        self.coverage.black_holes += u64::from(black);
        self.coverage.refused += u64::from(down);
        conn.stands_at = (!black).then_some(now + u64::from(wait));
        conn.failed = down;
        conn.token = Some(token);
        let announced = self.fleet.pools[self.servers[server].pool]
            .announce
            .is_some();
        (self.guise).wrap_line(&mut conn, to.port(), announced, &mut self.rng);
        self.conns.push(conn);
        let id = self.conns.len() - 1;
        self.live.push(id);
        self.upstreams.push(Upstream::new(id, server, self.now));
        self.note(format_args!("dial server {server} as upstream {upstream}"));
        Dialled::Socket(id)
    }
}

/// What a shard runs on.
pub type Sim = Above<Kernel>;

/// The simulator's kernel: one per shard, all over one world.
pub struct Kernel {
    pub world: Option<Box<World>>,
    index: usize,
    /// What the shard believes to be the time: it moves only when the poll had a reason to return.
    seen: u64,
    base: u32,
}

impl Kernel {
    pub fn new(index: usize, base: u32) -> Kernel {
        Kernel {
            world: None,
            index,
            seen: 0,
            base,
        }
    }

    fn world(&mut self) -> &mut World {
        self.world
            .as_mut()
            .expect("a shard has the world in its turn")
    }
}

impl Io for Kernel {
    type Socket = usize;

    fn poll(&mut self, wait: Option<u32>, ready: &mut Vec<Ready>) {
        let (index, seen) = (self.index, self.seen);
        let world = self.world();
        let World {
            conns, live, doors, ..
        } = world;
        let mut silent = None;
        for id in live.iter() {
            let conn = &mut conns[*id];
            let Some(token) = conn.token.filter(|_| conn.edge && conn.socket_open) else {
                continue;
            };
            if conn.shard != index {
                continue;
            }
            conn.edge = false;
            silent = Some(token);
            // The kernel tells an edge with all that is true at that moment.
            let broken = conn.failed || conn.inward.reset;
            let ended = conn.inward.fin_arrived || broken;
            ready.push(Ready {
                token,
                readable: conn.inward.queued() > 0 || ended,
                writable: broken || conn.outward.is_writable(),
                ended,
            });
        }
        let door = &mut doors[index];
        door.gone.append(&mut door.going);
        if std::mem::take(&mut door.edge) {
            let token = Token::listener(0);
            ready.push(Ready {
                token,
                readable: true,
                writable: false,
                ended: false,
            });
        }
        let called = silent.is_some() || !ready.is_empty() || !door.mail.is_empty();
        let over = wait.is_some_and(|ms| world.now >= seen + u64::from(ms));
        if called || over {
            self.seen = self.world().now;
        }
    }

    fn now(&mut self) -> Now {
        let tick = Tick(self.base.wrapping_add(self.seen as u32));
        Now {
            tick,
            micros: self.seen * 1_000,
        }
    }

    fn take_mail(&mut self, into: &mut Vec<Mail>) {
        let index = self.index;
        let door = &mut self.world().doors[index];
        door.mail.take(into);
        for mail in into {
            if let Mail::State { server, state } = mail
                && *state == ServerState::Gone
            {
                door.going.push(*server);
            }
        }
    }

    fn send(&mut self, shard: usize, mail: Mail) {
        self.world().doors[shard].mail.put(mail);
    }

    fn answer(&mut self, _ticket: u64, _answer: Answer) {}

    fn accept(&mut self, _listener: u32) -> Accept<usize> {
        let index = self.index;
        let world = self.world();
        if world.doors[index].waiting.is_empty() {
            return Accept::None;
        }
        if world.exhausted > 0 {
            world.exhausted -= 1;
            world.coverage.accepts_failed += 1;
            return Accept::Exhausted;
        }
        let Some(id) = world.doors[index].waiting.pop_front() else {
            return Accept::None;
        };
        world.conns[id].scarce = world.scarce_until > world.now;
        match world.conns[id].from {
            Some(from) => Accept::Socket(id, from),
            None => Accept::Failed,
        }
    }

    fn is_scarce(&self, socket: &usize) -> bool {
        let world = self
            .world
            .as_ref()
            .expect("a shard has the world in its turn");
        world.conns[*socket].scarce
    }

    fn local_address(&self, _: &usize) -> Option<SocketAddr> {
        Some(LOCAL)
    }

    fn watch(&mut self, socket: &mut usize, token: Token) -> bool {
        let index = self.index;
        let world = self.world();
        if let Some(Kind::Guest(_)) = token.kind() {
            world.coverage.edge.hit("edge: guest");
            let guest = (world.now, *socket);
            world.doors[index].guests.push(guest);
        }
        let conn = &mut world.conns[*socket];
        conn.token = Some(token);
        conn.edge = true;
        true
    }

    fn close_listeners(&mut self) {
        let index = self.index;
        let world = self.world();
        world.doors[index].closed = true;
        for id in std::mem::take(&mut world.doors[index].waiting) {
            world.conns[id].close_proxy();
            world.conns[id].outward.reset = true;
        }
    }

    fn dial(
        &mut self,
        to: &Destination<'_>,
        _from: Option<IpAddr>,
        token: Token,
    ) -> Dialled<usize> {
        let index = self.index;
        self.world().dial(index, to.address, token)
    }

    fn is_connected(&mut self, socket: &mut usize) -> bool {
        let conn = &self.world().conns[*socket];
        conn.stands && !conn.inward.reset
    }

    fn read(&mut self, socket: &mut usize, into: &mut [u8]) -> Got {
        let world = self.world();
        let conn = &mut world.conns[*socket];
        assert!(conn.socket_open, "law: a closed socket is not read");
        let count = conn.inward.read(into);
        let got = match count {
            // Behind a FIN a read says nothing else, whatever came after it.
            0 if conn.inward.fin_arrived => Got::End,
            0 if conn.inward.reset => Got::Broken,
            0 => Got::Wait,
            count => Got::Bytes(count),
        };
        world.mix((*socket as u64) << 32 | count as u64);
        got
    }

    fn write(&mut self, socket: &mut usize, from: &[IoSlice<'_>]) -> Put {
        let world = self.world();
        let conn = &mut world.conns[*socket];
        assert!(conn.socket_open, "law: a closed socket is not written");
        if conn.inward.reset || !conn.stands {
            conn.write_broken = true;
            return Put::Broken;
        }
        let mut count = 0;
        for slice in from {
            let took = conn.outward.write(slice);
            count += took;
            if took < slice.len() {
                conn.outward.refused = true;
                break;
            }
        }
        let empty = count == 0 && conn.outward.refused;
        world.mix((*socket as u64) << 32 | 1 << 31 | count as u64);
        if empty { Put::Wait } else { Put::Bytes(count) }
    }

    fn shut(&mut self, socket: &mut usize) {
        self.world().conns[*socket].outward.fin = true;
    }

    fn reset(&mut self, socket: usize) {
        self.world().conns[socket].outward.break_off();
        self.close(socket);
    }

    fn close(&mut self, socket: usize) {
        let world = self.world();
        let far = world.conns[socket].far;
        world.note(format_args!("proxy closes {far:?}"));
        world.conns[socket].close_proxy();
    }
}

impl Below for Kernel {
    fn conn(&mut self, id: usize) -> &mut Conn {
        &mut self.world().conns[id]
    }

    fn guests(&mut self) -> &mut Vec<(u64, usize)> {
        let index = self.index;
        &mut self.world().doors[index].guests
    }

    fn home_of(&mut self, id: usize) -> SocketAddr {
        match self.world().conns[id].far {
            Far::Client(client) => crowd::address_of(client),
            Far::Server(upstream) => panic!("law: upstream {upstream} is not accepted"),
        }
    }

    fn hit(&mut self, name: &'static str) {
        self.world().coverage.edge.hit(name);
    }

    fn on_accepted(&mut self, id: usize) {
        if let Far::Client(client) = self.world().conns[id].far {
            self.world().on_arrival(client);
        }
    }

    fn on_read(&mut self, _: usize, _: Got) {}

    fn on_written(&mut self, _: usize, _: &[u8], _: bool) {}

    fn on_shut(&mut self, _: usize) {}

    fn on_closing(&mut self, id: usize) {
        if let Far::Server(upstream) = self.world().conns[id].far {
            self.world().on_leave(upstream);
        }
    }

    fn on_closed(&mut self, _: usize) {}
}

/// Events that a failure tells.
const EVENTS_KEPT: usize = 60;
