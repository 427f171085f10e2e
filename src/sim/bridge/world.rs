//! Everything outside of the shards.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use super::api::{Api, Line};
use super::coverage;
use super::laws::Ledger;
use super::nodes::Nodes;
use super::people::Person;
use crate::fleet::{Fleet, ServerState};
use crate::session::Api as Spoken;
use crate::session::{House, Settings};
use crate::shard::{Asker, Dialled, Got, Mail, Push, Token};
use crate::sim::above::Above;
use crate::sim::ground::{Ground, Kernel, Scene};
use crate::sim::settings::Course;
use crate::sim::valves::{Dress, dress};

/// The world of one run. It is handed from shard to shard, whoever has its turn.
pub struct World {
    ground: Ground,
    pub apis: Vec<Api>,
    /// Connections to them, in the order in which they came to be.
    pub lines: Vec<Line>,
    /// Clients and pushers, in the order in which they came.
    pub people: Vec<Person>,
    pub settings: Course,
    pub house: House,
    /// Control's copy: shares its counts with those of the shards.
    pub fleet: Fleet,
    /// APIs below this number were there from the start.
    founders: usize,
    /// APIs that are to be gone when they have no connection any more.
    pub leaving: Vec<u16>,
    pub laws: Ledger,
    /// What its valves ask for.
    pub dress: Dress,
    pub nodes: Nodes,
    /// Faults are on, and peers talk.
    pub wild: bool,
    pub talking: bool,
}

/// The kernel of its shards.
pub type BridgeSim = Above<Kernel<World>>;

impl World {
    pub fn new(
        seed: u64,
        shards: usize,
        apis: usize,
        settings: Settings,
        fleet: Fleet,
        house: House,
    ) -> World {
        // The laws of a stream know messages by the numbers that their clients gave them.
        let worn = match settings.api {
            Spoken::Http => dress(seed, 1)[0],
            #[cfg(feature = "nats")]
            Spoken::Nats(_) => Dress::Bare,
        };
        World {
            ground: Ground::new(seed ^ SALT, shards, coverage::of(&settings.api)),
            apis: vec![Api::default(); apis],
            lines: Vec::new(),
            people: Vec::new(),
            settings: Course::new(settings),
            house,
            founders: fleet.servers.len(),
            fleet,
            leaving: Vec::new(),
            laws: Ledger::default(),
            dress: worn,
            nodes: Nodes::default(),
            wild: true,
            talking: true,
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
        let (api, line) = (usize::from(to.port()), self.lines.len());
        let gone = self.knows_gone(shard, to.port());
        assert!(!gone, "law: api {api} is gone, and dialled");
        if api >= self.founders {
            self.hit("call: at an api that joined");
        }
        let reach = &self.apis[api].reach;
        let wrap = (to.port(), self.fleet.pools[0].announce.is_some());
        let dialled = self.ground.begin_line(line, wrap, reach, shard, token);
        if let Dialled::Socket(id) = dialled {
            let new = Line::new(id, api);
            #[cfg(feature = "nats")]
            let new = match self.settings.now().api {
                Spoken::Http => new,
                Spoken::Nats(_) => {
                    let place = &self.fleet.servers[api];
                    let mut new = new.in_nats(&place.prefix, &place.authority);
                    new.greet(self);
                    new
                }
            };
            self.lines.push(new);
            self.note(format_args!("line {line} to api {api} is dialled"));
        }
        dialled
    }

    /// The port names the person; pushers come from this machine, as they must.
    fn address_of(&self, person: usize) -> SocketAddr {
        home(person, self.people[person].is_pusher())
    }

    fn on_visible(&mut self, line: usize) {
        self.see_line(line);
    }

    fn on_line_read(&mut self, line: usize, got: Got) {
        self.hear_line(line, got);
    }

    fn on_line_written(&mut self, line: usize, bytes: &[u8], refused: bool) {
        if refused {
            self.hit("write: short");
        }
        self.judge_line(line, bytes);
    }

    fn on_line_closed(&mut self, line: usize) {
        self.lines[line].asking = None;
        self.laws.closed = Some(line);
    }

    fn on_person_closed(&mut self, person: usize) {
        self.leave_person(person);
    }

    fn elsewhere(&mut self, push: Box<Push>, from: Asker) -> Option<(Box<Push>, Asker)> {
        self.pass_on(push, from)
    }

    fn on_mail(&mut self, to: usize, mail: &Mail) {
        match mail {
            Mail::Deliver { .. } => self.hit("push: to another shard"),
            Mail::Permit {
                server,
                from,
                by_right: true,
            } => {
                let asked = (*server, usize::from(*from));
                self.laws.rights.insert(asked, self.ground.now);
            }
            Mail::Granted { server } => self.judge_permit(*server, to),
            _ => {}
        }
    }
}

/// Where a person is at home.
pub fn home(person: usize, pushes: bool) -> SocketAddr {
    let ip = if pushes {
        [127, 0, 0, 1]
    } else {
        [10, 1, 0, 1]
    };
    SocketAddr::from((ip, person as u16))
}

/// Another world, another chance, for the same seed.
const SALT: u64 = 0x6272_6964_6765;
