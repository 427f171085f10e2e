//! What the worlds of calls share: time, chance, sockets, mail and a memory of what happened; and the
//! [`Io`] that lies about it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::ops::DerefMut;

use super::above::{self, Below};
use super::guise::{Guise, LOCAL};
use super::pipe::{Conn, Far};
use super::post::Letterbox;
use super::sightings::Sightings;
use crate::fleet::ServerState;
use crate::kit::{Prng, Tick};
use crate::shard::{
    Accept, Answer, Asker, Destination, Dialled, Got, Io, Kind, Mail, Now, Push, Put, Ready, Token,
};

/// Under every world: what is the same in all of them.
pub struct Ground {
    pub now: u64,
    /// The tick at which the world began: sometimes just before ticks wrap.
    base: u32,
    pub rng: Prng,
    pub conns: Vec<Conn>,
    /// Connections with at least one open end.
    pub live: Vec<usize>,
    pub doors: Vec<Door>,
    pub guise: Guise,
    /// So many dials fail for want of descriptors.
    pub exhausted: u32,
    /// Dials in this turn of a shard.
    dials: u32,
    pub coverage: Sightings,
    pub trace: u64,
    events: VecDeque<String>,
}

/// Where a shard meets the world.
#[derive(Default)]
pub struct Door {
    waiting: VecDeque<usize>,
    /// Since when somebody is here whose header has not come, and who.
    guests: Vec<(u64, usize)>,
    edge: bool,
    pub mail: Letterbox,
    /// Servers that its shard has just read to be gone, and knew to be gone before this turn.
    going: Vec<u16>,
    gone: Vec<u16>,
}

/// How a server can be reached.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    pub down_until: u64,
    /// While down: it refuses at once, or some moments later.
    pub refuses: bool,
    pub black_until: u64,
    pub slow_until: u64,
}

/// A world on that ground: it is told what passes between the proxy and everybody else. Lines are the
/// connections to servers, persons are at the other end of those from clients.
pub trait Scene: DerefMut<Target = Ground> {
    fn dial(&mut self, shard: usize, to: SocketAddr, token: Token) -> Dialled<usize>;

    /// Where a person comes from.
    fn address_of(&self, person: usize) -> SocketAddr;

    /// The poll has told the proxy what has arrived on this line.
    fn on_visible(&mut self, line: usize);

    fn on_line_read(&mut self, line: usize, got: Got);

    /// The kernel took these bytes, and perhaps no more.
    fn on_line_written(&mut self, line: usize, bytes: &[u8], refused: bool);

    fn on_line_closed(&mut self, line: usize);

    /// Its connection was read.
    fn on_person_read(&mut self, _person: usize) {}

    fn on_person_written(&mut self, _person: usize, _bytes: &[u8]) {}

    /// The proxy has sent FIN.
    fn on_person_shut(&mut self, _person: usize) {}

    fn on_person_closed(&mut self, person: usize);

    /// One shard writes to another, of this number.
    fn on_mail(&mut self, _to: usize, _mail: &Mail) {}

    /// A push for somebody who is not here.
    fn elsewhere(&mut self, push: Box<Push>, from: Asker) -> Option<(Box<Push>, Asker)> {
        Some((push, from))
    }
}

impl Ground {
    pub fn new(seed: u64, shards: usize, events: &[&'static str]) -> Ground {
        let mut rng = Prng::from_u64(seed);
        let late = u32::MAX - rng.below(30_000);
        let base = [late, rng.below(1_000)][rng.below(2) as usize];
        Ground {
            now: 0,
            base,
            rng,
            conns: Vec::new(),
            live: Vec::new(),
            doors: (0..shards).map(|_| Door::default()).collect(),
            guise: Guise::default(),
            exhausted: 0,
            dials: 0,
            coverage: Sightings::of(&[events, above::EVENTS].concat()),
            trace: seed,
            events: VecDeque::new(),
        }
    }

    /// The shards' time.
    pub fn tick(&self) -> u32 {
        self.base.wrapping_add(self.now as u32)
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

    /// The connection of somebody who is at home there arrives at a listener.
    pub fn connect(&mut self, person: usize, home: SocketAddr) -> usize {
        let shard = self.rng.below(self.doors.len() as u32) as usize;
        let mut conn = Conn::new(Far::Client(person), shard, &mut self.rng);
        conn.stands = true;
        if let Some(seen) = (self.guise).wrap_client(&mut conn, home, self.now, &mut self.rng) {
            self.hit(seen);
        }
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
        let Ground {
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
                coverage.hit(seen);
            }
            if conn.is_over() {
                conn.bury();
            }
            !conn.is_over()
        });
    }

    /// A connection to a server that can be reached so, or cannot. It is `announced` by a header.
    pub fn begin_line(
        &mut self,
        line: usize,
        (server, announced): (u16, bool),
        reach: &Reach,
        shard: usize,
        token: Token,
    ) -> Dialled<usize> {
        self.dials += 1;
        assert!(self.dials < DIALS_MAX, "law: a turn ends: no end of dials");
        if self.exhausted > 0 {
            self.exhausted -= 1;
            self.hit("fault: exhausted");
            return Dialled::Exhausted;
        }
        let now = self.now;
        let down = reach.down_until > now;
        if down && reach.refuses {
            self.hit("fault: refused at once");
            return Dialled::Refused;
        }
        let mut conn = Conn::new(Far::Server(line), shard, &mut self.rng);
        let (black, slow) = (reach.black_until > now, reach.slow_until > now);
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
        (self.guise).wrap_line(&mut conn, server, announced, &mut self.rng);
        self.conns.push(conn);
        let id = self.conns.len() - 1;
        self.live.push(id);
        Dialled::Socket(id)
    }

    pub fn tell_all(&mut self, mail: &Mail) {
        for door in &mut self.doors {
            door.mail.tell(mail.clone(), self.now);
        }
    }

    /// Whether this shard has been told that the server is gone.
    pub fn knows_gone(&self, shard: usize, server: u16) -> bool {
        self.doors[shard].gone.contains(&server)
    }

    /// Permits for this server that are in the mail.
    pub fn granted(&self, server: u16) -> u32 {
        let mails = self.doors.iter().flat_map(|door| door.mail.iter());
        let permit = |mail: &&Mail| matches!(mail, Mail::Granted { server: of } if *of == server);
        mails.filter(permit).count() as u32
    }

    /// Connections whose proxy's end is open.
    pub fn open_ends(&self) -> impl Iterator<Item = &Conn> {
        let conns = self.live.iter().map(|id| &self.conns[*id]);
        conns.filter(|conn| conn.proxy_open && conn.accepted)
    }
}

impl Ground {
    /// Connections whose socket is open, whoever has it.
    pub fn open_sockets(&self) -> impl Iterator<Item = &Conn> {
        let conns = self.live.iter().map(|id| &self.conns[*id]);
        conns.filter(|conn| conn.socket_open && (conn.token.is_some() || conn.accepted))
    }

    /// Faults are over.
    pub fn calm(&mut self) {
        self.guise.calm = true;
        for conn in &mut self.conns {
            conn.heal();
        }
    }
}

/// The simulator's kernel: one per shard, all over one world.
pub struct Kernel<W> {
    pub world: Option<Box<W>>,
    index: usize,
    /// What the shard believes to be the time: it moves only when the poll had a reason to return.
    seen: u64,
    base: u32,
}

impl<W: Scene> Kernel<W> {
    pub fn new(index: usize, world: &W) -> Kernel<W> {
        Kernel {
            world: None,
            index,
            seen: 0,
            base: world.base,
        }
    }

    fn world(&mut self) -> &mut W {
        self.world
            .as_mut()
            .expect("a shard has the world in its turn")
    }
}

impl<W: Scene> Io for Kernel<W> {
    type Socket = usize;

    fn poll(&mut self, wait: Option<u32>, ready: &mut Vec<Ready>) {
        let (index, seen) = (self.index, self.seen);
        let world = self.world();
        let ground: &mut Ground = world;
        let mut lines = Vec::new();
        for id in &ground.live {
            let conn = &mut ground.conns[*id];
            let Some(token) = conn.token.filter(|_| conn.edge && conn.socket_open) else {
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
        let world = self.world();
        world.on_mail(shard, &mail);
        world.doors[shard].mail.put(mail);
    }

    fn answer(&mut self, _ticket: u64, _answer: Answer) {}

    fn elsewhere(&mut self, push: Box<Push>, from: Asker) -> Option<(Box<Push>, Asker)> {
        self.world().elsewhere(push, from)
    }

    fn accept(&mut self, _listener: u32) -> Accept<usize> {
        let index = self.index;
        let world = self.world();
        let Some(id) = world.doors[index].waiting.pop_front() else {
            return Accept::None;
        };
        match world.conns[id].from {
            Some(from) => Accept::Socket(id, from),
            None => Accept::Failed,
        }
    }

    fn local_address(&self, _: &usize) -> Option<SocketAddr> {
        Some(LOCAL)
    }

    fn watch(&mut self, socket: &mut usize, token: Token) -> bool {
        let index = self.index;
        let world = self.world();
        if let Some(Kind::Guest(_)) = token.kind() {
            world.hit("edge: guest");
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
        let ground: &mut Ground = self.world();
        for id in std::mem::take(&mut ground.doors[index].waiting) {
            ground.conns[id].close_proxy();
            ground.conns[id].outward.reset = true;
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

impl<W: Scene> Below for Kernel<W> {
    fn conn(&mut self, id: usize) -> &mut Conn {
        &mut self.world().conns[id]
    }

    fn guests(&mut self) -> &mut Vec<(u64, usize)> {
        let index = self.index;
        &mut self.world().doors[index].guests
    }

    fn home_of(&mut self, id: usize) -> SocketAddr {
        let world = self.world();
        match world.conns[id].far {
            Far::Client(person) => world.address_of(person),
            Far::Server(line) => panic!("law: line {line} is not accepted"),
        }
    }

    fn hit(&mut self, name: &'static str) {
        self.world().hit(name);
    }

    fn on_accepted(&mut self, _: usize) {}

    fn on_read(&mut self, id: usize, got: Got) {
        let world = self.world();
        let far = world.conns[id].far;
        if matches!(got, Got::End | Got::Broken) {
            let how = format!("{:?}", world.conns[id]);
            world.note(format_args!("proxy reads {got:?} of {far:?}, {how}"));
        }
        match far {
            Far::Server(line) => world.on_line_read(line, got),
            Far::Client(person) => world.on_person_read(person),
        }
    }

    fn on_written(&mut self, id: usize, words: &[u8], refused: bool) {
        let world = self.world();
        match world.conns[id].far {
            Far::Server(line) => world.on_line_written(line, words, refused),
            Far::Client(person) => world.on_person_written(person, words),
        }
    }

    fn on_shut(&mut self, id: usize) {
        let world = self.world();
        if let Far::Client(person) = world.conns[id].far {
            world.on_person_shut(person);
        }
    }

    fn on_closing(&mut self, _: usize) {}

    fn on_closed(&mut self, id: usize) {
        let world = self.world();
        match world.conns[id].far {
            Far::Server(line) => world.on_line_closed(line),
            Far::Client(person) => world.on_person_closed(person),
        }
    }
}

/// Events that a failure tells.
const EVENTS_KEPT: usize = 300;

/// More dials than that in one turn are no accident.
const DIALS_MAX: u32 = 5_000;
