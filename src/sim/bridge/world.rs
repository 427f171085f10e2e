//! Everything outside of the shards, and the [`Io`] that lies about it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use super::BridgeCoverage;
use super::api::{Api, Line};
use super::laws::Ledger;
use super::people::Person;
use crate::fleet::{Fleet, ServerState};
use crate::kit::{Prng, Tick};
use crate::session::Settings;
use crate::shard::{Accept, Answer, Dialled, Got, Io, Mail, Now, Put, Ready, Token};
use crate::sim::pipe::{Conn, Far};
use crate::sim::post::Letterbox;

/// The world of one run. It is handed from shard to shard, whoever has its turn.
pub struct World {
    pub now: u64,
    /// The tick at which the world began: sometimes just before ticks wrap.
    base: u32,
    pub rng: Prng,
    pub conns: Vec<Conn>,
    /// Connections with at least one open end.
    pub live: Vec<usize>,
    pub apis: Vec<Api>,
    /// Connections to them, in the order in which they came to be.
    pub lines: Vec<Line>,
    /// Clients and pushers, in the order in which they came.
    pub people: Vec<Person>,
    pub doors: Vec<Door>,
    pub settings: Settings,
    /// Control's copy: shares its counts with those of the shards.
    pub fleet: Fleet,
    /// APIs below this number were there from the start.
    founders: usize,
    /// APIs that are to be gone when they have no connection any more.
    pub leaving: Vec<u16>,
    pub laws: Ledger,
    pub coverage: BridgeCoverage,
    /// Faults are on, and peers talk.
    pub wild: bool,
    pub talking: bool,
    /// So many dials fail for want of descriptors.
    pub exhausted: u32,
    /// Dials in this turn of a shard.
    dials: u32,
    pub trace: u64,
    events: VecDeque<String>,
}

/// Where a shard meets the world.
#[derive(Default)]
pub struct Door {
    waiting: VecDeque<usize>,
    edge: bool,
    pub mail: Letterbox,
    /// Servers that its shard has just read to be gone, and knew to be gone before this turn.
    going: Vec<u16>,
    gone: Vec<u16>,
}

impl World {
    pub fn new(seed: u64, shards: usize, apis: usize, settings: Settings, fleet: Fleet) -> World {
        let mut rng = Prng::from_u64(seed ^ 0x6272_6964_6765);
        let late = u32::MAX - rng.below(30_000);
        let base = [late, rng.below(1_000)][rng.below(2) as usize];
        World {
            now: 0,
            base,
            rng,
            conns: Vec::new(),
            live: Vec::new(),
            apis: vec![Api::default(); apis],
            lines: Vec::new(),
            people: Vec::new(),
            doors: (0..shards).map(|_| Door::default()).collect(),
            settings,
            founders: fleet.servers.len(),
            fleet,
            leaving: Vec::new(),
            laws: Ledger::default(),
            coverage: BridgeCoverage::default(),
            wild: true,
            talking: true,
            exhausted: 0,
            dials: 0,
            trace: seed,
            events: VecDeque::new(),
        }
    }

    pub fn hit(&mut self, name: &'static str) {
        self.coverage.hit(name);
    }

    /// Writes down what happened: into the trace always, as words for the last few.
    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
        }
        let line = format!("{:>6} {what}", self.now);
        for byte in line.bytes() {
            self.mix(u64::from(byte));
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

    /// Somebody's connection arrives at a listener.
    pub fn connect(&mut self, person: usize) -> usize {
        let shard = self.rng.below(self.doors.len() as u32) as usize;
        let mut conn = Conn::new(Far::Client(person), shard, &mut self.rng);
        conn.stands = true;
        self.conns.push(conn);
        let id = self.conns.len() - 1;
        self.live.push(id);
        self.doors[shard].waiting.push_back(id);
        self.doors[shard].edge = true;
        id
    }

    /// The network does its work, time goes on.
    pub fn advance(&mut self, ms: u64) {
        self.now += ms;
        self.dials = 0;
        for door in &mut self.doors {
            door.mail.step(self.now);
        }
        let World {
            conns,
            live,
            rng,
            now,
            ..
        } = self;
        live.retain(|id| {
            let conn = &mut conns[*id];
            conn.step(*now, rng);
            if conn.is_over() {
                conn.bury();
            }
            !conn.is_over()
        });
    }

    fn dial(&mut self, shard: usize, to: SocketAddr, token: Token) -> Dialled<usize> {
        self.dials += 1;
        assert!(self.dials < DIALS_MAX, "law: a turn ends: no end of dials");
        if self.exhausted > 0 {
            self.exhausted -= 1;
            self.hit("fault: exhausted");
            return Dialled::Exhausted;
        }
        let (api, now) = (usize::from(to.port()), self.now);
        let gone = self.doors[shard].gone.contains(&to.port());
        assert!(!gone, "law: api {api} is gone, and dialled");
        if api >= self.founders {
            self.hit("call: at an api that joined");
        }
        let Api {
            down_until,
            refuses,
            black_until,
            slow_until,
            ..
        } = self.apis[api];
        let down = down_until > now;
        if down && refuses {
            self.hit("fault: refused at once");
            return Dialled::Refused;
        }
        let line = self.lines.len();
        let mut conn = Conn::new(Far::Server(line), shard, &mut self.rng);
        let (black, slow) = (black_until > now, slow_until > now);
        let wait = self.rng.below(if slow { 900 } else { 8 });
        for (fault, name) in [
            (black, "fault: black hole"),
            (slow, "fault: slow connect"),
            (down, "fault: refused later"),
        ] {
            if fault {
                self.hit(name);
            }
        }
        conn.stands_at = (!black).then_some(now + u64::from(wait));
        conn.failed = down;
        conn.token = Some(token);
        self.conns.push(conn);
        let id = self.conns.len() - 1;
        self.live.push(id);
        self.lines.push(Line::new(id, api));
        self.note(format_args!("line {line} to api {api} is dialled"));
        Dialled::Socket(id)
    }

    /// Permits for this server that are in the mail.
    pub fn granted(&self, api: u16) -> u32 {
        let mails = self.doors.iter().flat_map(|door| door.mail.iter());
        let permit = |mail: &&Mail| matches!(mail, Mail::Granted { server } if *server == api);
        mails.filter(permit).count() as u32
    }

    pub fn tell_all(&mut self, mail: &Mail) {
        for door in &mut self.doors {
            door.mail.tell(mail.clone(), self.now);
        }
    }

    /// As control does: of one that is gone nothing more is said.
    pub fn set_state(&mut self, server: u16, state: ServerState) {
        if self.fleet.set_state(server, state) {
            self.tell_all(&Mail::State { server, state });
        }
    }

    pub fn is_gone(&self, api: usize) -> bool {
        self.fleet.servers[api].state == ServerState::Gone
    }

    /// Connections whose proxy's end is open.
    pub fn open_ends(&self) -> impl Iterator<Item = &Conn> {
        let conns = self.live.iter().map(|id| &self.conns[*id]);
        conns.filter(|conn| conn.proxy_open && conn.token.is_some())
    }
}

/// The simulator's kernel: one per shard, all over one world.
pub struct BridgeSim {
    pub world: Option<Box<World>>,
    index: usize,
    /// What the shard believes to be the time: it moves only when the poll had a reason to return.
    seen: u64,
    base: u32,
}

impl BridgeSim {
    pub fn new(index: usize, world: &World) -> BridgeSim {
        BridgeSim {
            world: None,
            index,
            seen: 0,
            base: world.base,
        }
    }

    fn world(&mut self) -> &mut World {
        self.world
            .as_mut()
            .expect("a shard has the world in its turn")
    }
}

impl Io for BridgeSim {
    type Socket = usize;

    fn poll(&mut self, wait: Option<u32>, ready: &mut Vec<Ready>) {
        let (index, seen) = (self.index, self.seen);
        let world = self.world();
        let mut lines = Vec::new();
        for id in &world.live {
            let conn = &mut world.conns[*id];
            let Some(token) = conn.token.filter(|_| conn.edge && conn.proxy_open) else {
                continue;
            };
            if conn.shard != index {
                continue;
            }
            conn.edge = false;
            // The kernel tells an edge with all that is true at that moment.
            let broken = conn.failed || conn.inward.reset;
            let ended = conn.inward.fin_arrived || broken;
            ready.push(Ready {
                token,
                readable: conn.inward.queued() > 0 || ended,
                writable: broken || conn.outward.is_writable(),
                ended,
            });
            if let Far::Server(line) = conn.far {
                lines.push(line);
            }
        }
        for line in lines {
            world.on_visible(line);
        }
        let door = &mut world.doors[index];
        door.gone.append(&mut door.going);
        if std::mem::take(&mut door.edge) {
            ready.push(Ready {
                token: Token::listener(0),
                readable: true,
                writable: false,
                ended: false,
            });
        }
        let called = !ready.is_empty() || !door.mail.is_empty();
        let over = wait.is_some_and(|ms| world.now >= seen + u64::from(ms));
        if called || over {
            self.seen = self.world().now;
        }
    }

    fn now(&mut self) -> Now {
        Now {
            tick: Tick(self.base.wrapping_add(self.seen as u32)),
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
        if matches!(mail, Mail::Deliver { .. }) {
            self.world().hit("push: to another shard");
        }
        self.world().doors[shard].mail.put(mail);
    }

    fn answer(&mut self, _ticket: u64, _answer: Answer) {}

    fn accept(&mut self, _listener: u32) -> Accept<usize> {
        let index = self.index;
        let world = self.world();
        let Some(id) = world.doors[index].waiting.pop_front() else {
            return Accept::None;
        };
        let Far::Client(person) = world.conns[id].far else {
            return Accept::Failed;
        };
        // The port names the person; pushers come from this machine, as they must.
        let ip = if world.people[person].is_pusher() {
            [127, 0, 0, 1]
        } else {
            [10, 1, 0, 1]
        };
        Accept::Socket(id, SocketAddr::from((ip, person as u16)))
    }

    fn watch(&mut self, socket: &mut usize, token: Token) -> bool {
        let conn = &mut self.world().conns[*socket];
        conn.token = Some(token);
        conn.edge = true;
        true
    }

    fn close_listeners(&mut self) {
        let index = self.index;
        let world = self.world();
        for id in std::mem::take(&mut world.doors[index].waiting) {
            world.conns[id].close_proxy();
            world.conns[id].outward.reset = true;
        }
    }

    fn dial(&mut self, to: SocketAddr, _from: Option<IpAddr>, token: Token) -> Dialled<usize> {
        let index = self.index;
        self.world().dial(index, to, token)
    }

    fn is_connected(&mut self, socket: &mut usize) -> bool {
        let conn = &self.world().conns[*socket];
        conn.stands && !conn.inward.reset
    }

    fn read(&mut self, socket: &mut usize, into: &mut [u8]) -> Got {
        let world = self.world();
        let conn = &mut world.conns[*socket];
        assert!(conn.proxy_open, "law: a closed socket is not read");
        let count = conn.inward.read(into);
        let got = match count {
            0 if conn.inward.reset => Got::Broken,
            0 if conn.inward.fin_arrived => Got::End,
            0 => Got::Wait,
            count => Got::Bytes(count),
        };
        let far = conn.far;
        world.mix((*socket as u64) << 32 | count as u64);
        if let Far::Server(line) = far {
            world.on_line_read(line, got);
        }
        got
    }

    fn write(&mut self, socket: &mut usize, from: &[IoSlice<'_>]) -> Put {
        let world = self.world();
        let conn = &mut world.conns[*socket];
        assert!(conn.proxy_open, "law: a closed socket is not written");
        if conn.inward.reset || !conn.stands {
            conn.write_broken = true;
            return Put::Broken;
        }
        let mut taken = Vec::new();
        for slice in from {
            let took = conn.outward.write(slice);
            taken.extend_from_slice(&slice[..took]);
            if took < slice.len() {
                conn.outward.refused = true;
                break;
            }
        }
        let (far, refused, count) = (conn.far, conn.outward.refused, taken.len());
        world.mix((*socket as u64) << 32 | 1 << 31 | count as u64);
        if let Far::Server(line) = far {
            if refused {
                world.hit("write: short");
            }
            world.on_line_written(line, &taken);
        }
        if count == 0 && refused {
            Put::Wait
        } else {
            Put::Bytes(count)
        }
    }

    fn shut(&mut self, socket: &mut usize) {
        self.world().conns[*socket].outward.fin = true;
    }

    fn close(&mut self, socket: usize) {
        let world = self.world();
        let far = world.conns[socket].far;
        world.note(format_args!("proxy closes {far:?}"));
        world.conns[socket].close_proxy();
        match far {
            Far::Server(line) => world.on_line_closed(line),
            Far::Client(person) => world.on_person_closed(person),
        }
    }
}

/// Events that a failure tells.
const EVENTS_KEPT: usize = 300;

/// More dials than that in one turn are no accident.
const DIALS_MAX: u32 = 5_000;
