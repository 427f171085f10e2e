//! The bridge in a world of its own: shards between clients that speak WebSocket, APIs that speak
//! HTTP, and pushers that speak for the APIs. All of them may fail; the laws hold all the same.

mod api;
mod calls;
mod coverage;
mod faults;
mod http;
mod laws;
#[cfg(feature = "nats")]
mod nats;
mod nodes;
mod people;
mod pusher;
mod valves;
mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use self::people::{IDS, Person, Stage};
use self::world::{BridgeSim, World};
use super::above::Setup;
use super::ground::Kernel;
use super::guise::{self, Guise};
use super::pipe::Far;
use super::sightings::Sightings;
use super::valves::clock;
use crate::fleet::{Balance, Breaker, Connections, Fleet, Kind as Serves, Pool, Server as Place};
use crate::kit::{Budget, Prng, Quota};
use crate::session::dialect::Tongue;
use crate::session::{Api, Confirm, House, Kind, Settings};
use crate::shard::{Mail, Plan, Shard};

/// What a run has shown.
#[derive(Clone, Debug, Default)]
pub struct BridgeReport {
    /// The same for the same seed and steps.
    pub trace: u64,
    pub coverage: Sightings,
}

/// Runs one seed. Panics if a law is broken; what came last is then printed, unless `quiet`.
pub fn run_bridge(seed: u64, steps: u32, quiet: bool) -> BridgeReport {
    live(Run::new(seed, quiet, Api::Http), steps)
}

/// The same before NATS servers.
#[cfg(feature = "nats")]
pub fn run_nats(seed: u64, steps: u32, quiet: bool) -> BridgeReport {
    let terms = crate::session::dialect::nats::NatsTerms {
        prefix: nats::PREFIX.to_string(),
        jetstream: seed % 3 < 2,
        mark: seed,
        ..Default::default()
    };
    live(Run::new(seed, quiet, Api::Nats(Arc::new(terms))), steps)
}

fn live(mut run: Run, steps: u32) -> BridgeReport {
    for step in 0..steps {
        run.step = step;
        run.world().strike();
        run.come();
        run.turn();
    }
    run.settle();
    run.part();
    run.come_again();
    if run.world().laws.drain_ends.is_none() {
        run.rest();
    }
    run.leave()
}

struct Run {
    seed: u64,
    step: u32,
    quiet: bool,
    world: Option<Box<World>>,
    shards: Vec<Shard<BridgeSim, Tongue>>,
    running: Vec<bool>,
    memory: Arc<Budget>,
    connections: Arc<Budget>,
    crowd: usize,
}

impl Run {
    fn new(seed: u64, quiet: bool, api: Api) -> Run {
        let mut rng = Prng::from_u64(seed);
        let shards = 1 + rng.below(3) as usize;
        let settings = Settings {
            api,
            connect: guise::connect(seed),
            ..settings(&mut rng)
        };
        let mut fleet = fleet(&mut rng);
        fleet.pools[0].announce = Guise::announces(seed, 0);
        let nodes = rng.chance(1, 2);
        let apis = fleet.servers.len();
        let house = House {
            message_max: 256 << 10,
            handshake: 3_000,
            message_time: 20_000,
            pings: 0,
            hop: nodes.then(nodes::hop),
            trusted: guise::trusted(),
            ..House::default()
        };
        let mut world = World::new(seed, shards, apis, settings.clone(), fleet.clone(), house);
        world.nodes.any = nodes;
        world.guise = Guise::of(seed);
        let memory = Arc::new(Budget::new(60_000));
        let connections = Arc::new(Budget::new(1_000));
        let quota = Arc::<Quota>::default();
        let busy = Arc::new(AtomicUsize::new(shards));
        let fittings = valves::fittings(world.dress);
        let line_max = [1, 2, 64][rng.below(3) as usize];
        let walk_max = [1, 2, 256][rng.below(3) as usize];
        let plan = |index: usize| Plan {
            index,
            shards,
            listeners: 1,
            fleet: fleet.clone(),
            house: world.house.clone(),
            settings: vec![settings.clone()],
            memory: memory.clone(),
            memory_step: 16,
            connections: connections.clone(),
            quota: quota.clone(),
            busy: busy.clone(),
            secret: (seed, 7),
            read_vitals: |_| None,
            capacity: 8,
            line_max,
            ended_max: 1,
            walk_max,
            rng: Prng::from_u64(seed.wrapping_mul(31) + index as u64),
        };
        let setup = || Setup {
            fashion: world.guise.fashion,
            announced: world.guise.announced,
            house: world.house.clone(),
            memory: memory.clone(),
            tight: false,
        };
        let shards: Vec<_> = (0..shards)
            .map(|index| {
                let mut shard = Shard::new(
                    plan(index),
                    BridgeSim::new(index, Kernel::new(index, &world), setup()),
                );
                shard.fit(fittings.clone(), clock);
                shard
            })
            .collect();
        let crowd = 1 + rng.below(7) as usize;
        let running = vec![true; shards.len()];
        Run {
            seed,
            step: 0,
            quiet,
            world: Some(Box::new(world)),
            shards,
            running,
            memory,
            connections,
            crowd,
        }
    }

    fn world(&mut self) -> &mut World {
        self.world
            .as_mut()
            .expect("the world is here between turns")
    }

    fn come(&mut self) {
        let crowd = self.crowd;
        let world = self.world();
        let count = |world: &World, pushers: bool| {
            let people = world.live.iter().filter(|id| match world.conns[**id].far {
                Far::Client(person) => world.people[person].is_pusher() == pushers,
                Far::Server(_) => false,
            });
            people.count()
        };
        if count(world, false) < crowd && world.rng.chance(1, 8) {
            let id = world.rng.below(IDS.len() as u32) as usize;
            world.add_guest(id);
        }
        if count(world, true) < 3 && world.rng.chance(1, 30) {
            world.add_pusher();
        }
    }

    /// Time passes, the network and the peers act, each shard takes a turn, the laws are looked at.
    fn turn(&mut self) {
        let world = self.world();
        let ms = match world.rng.below(20) {
            0..=6 => 0,
            7..=15 => 1 + world.rng.below(4),
            16..=18 => world.rng.below(60),
            _ => world.rng.below(200),
        };
        world.advance(u64::from(ms));
        world.step_peers();
        world.step_nodes();
        for at in 0..self.shards.len() {
            if !self.running[at] {
                let io = &mut self.shards[at].io;
                io.kernel().world = self.world.take();
                io.linger();
                self.world = io.kernel().world.take();
                continue;
            }
            let shard = &mut self.shards[at];
            shard.io.kernel().world = self.world.take();
            self.running[at] = shard.turn();
            self.world = shard.io.kernel().world.take();
            let world = self.world.as_mut().expect("the shard gives the world back");
            world.check_turn(&self.shards[at], &self.shards);
        }
    }

    /// Turns until it holds; within so many ms it must.
    fn until(&mut self, ms: u64, law: &str, holds: impl Fn(&Run) -> Result<(), String>) {
        let deadline = self.world().now + ms;
        let mut calm = 0;
        while calm < 3 {
            self.step += 1;
            self.turn();
            match holds(self) {
                Ok(()) => calm += 1,
                Err(why) => {
                    calm = 0;
                    assert!(self.world().now < deadline, "law: {law}, but {why}");
                }
            }
        }
    }

    /// Faults end. Within bounded time all is said, and answered.
    fn settle(&mut self) {
        self.world().heal();
        let hold = u64::from(self.world().settings.most(|one| one.hold));
        self.until(hold + 15_000, "healed", |run| {
            let world = run.world.as_ref().expect("it is here");
            world.is_settled(&run.shards)
        });
        self.world().check_complete();
    }

    /// All clients leave; each DELETE arrives.
    fn part(&mut self) {
        let lost = self.unconfirmed();
        self.each_guest(|guest, me, world| guest.bid_farewell(me, world));
        self.until(15_000, "all clients have left", |run| run.is_empty(true));
        assert_eq!(self.unconfirmed(), lost, "law: nothing is lost any more");
        let world = self.world();
        for log in world.laws.sessions.values() {
            let told = log.over || !log.admitted || log.finishing_at < world.laws.healed_at;
            assert!(told, "law: DELETE of guest {}", log.guest);
        }
    }

    /// Every ClientId is free.
    fn come_again(&mut self) {
        let first = self.world().people.len();
        for id in 0..IDS.len() {
            self.world().add_guest(id);
        }
        self.until(5_000, "all ids are free", |run| {
            let world = run.world.as_ref().expect("it is here");
            let mut guests = world.people[first..].iter().filter_map(Person::guest);
            match guests.find(|guest| !guest.is_open()) {
                None => Ok(()),
                Some(guest) => Err(format!(
                    "{} got {:?}, {:?}",
                    IDS[guest.id], guest.status, guest.close_read
                )),
            }
        });
        if self.world().rng.chance(1, 2) {
            let world = self.world();
            world.laws.drain_ends = Some(world.now + u64::from(DRAIN));
            world.tell_all(&Mail::Drain { ms: DRAIN });
        } else {
            self.each_guest(|guest, me, world| guest.bid_farewell(me, world));
        }
        self.until(15_000, "all have left again", |run| {
            let draining = run
                .world
                .as_ref()
                .is_some_and(|world| world.laws.drain_ends.is_some());
            if draining && run.running.contains(&true) {
                return Err("a drained shard has not stopped".to_string());
            }
            run.is_empty(!draining)
        });
    }

    /// Connections that nobody needs are closed, but for the few that are to stay.
    fn rest(&mut self) {
        let kept = self.world().fleet.pools[0].connections;
        self.until(u64::from(kept.idle) + 3_000, "all is at rest", |run| {
            let world = run.world.as_ref().expect("it is here");
            let mut servers = world.fleet.servers.iter();
            let busy = servers.find(|place| {
                let left = place.state.is_left();
                place.shared.connections() > if left { 0 } else { kept.min }
            });
            busy.map_or(Ok(()), |place| Err(format!("{} has too many", place.id)))
        });
        self.world().hit("shelf: emptied");
        for person in 0..self.world().people.len() {
            let world = self.world();
            let mut one = std::mem::take(&mut world.people[person]);
            if let Person::Pusher(pusher) = &mut one {
                pusher.hang_up(world);
            }
            world.people[person] = one;
        }
        self.until(5_000, "pushers have left", |run| run.is_empty(false));
    }

    /// Nothing is left behind.
    fn leave(mut self) -> BridgeReport {
        self.world().tell_all(&Mail::Stop);
        self.turn();
        let deadline = self.world().now + 10_000;
        while self.shards.iter().any(|shard| shard.io.rest()[3] > 0) {
            self.turn();
            let now = self.world().now;
            assert!(now < deadline, "law: debts are paid, or forgotten");
        }
        let drained = self.world().laws.drain_ends.is_some();
        for shard in &self.shards {
            shard.check_invariants();
            assert_eq!(shard.stats().faults, 0, "law: no dead pair");
            let [lines, _, _, leaving, guests] = shard.io.rest();
            assert_eq!(
                [leaving, guests],
                [0; 2],
                "law: nobody is left in the layer"
            );
            assert!(
                drained || lines == 0,
                "law: {lines} lines are left in the layer"
            );
        }
        let tallies = || self.shards.iter().map(|shard| &shard.stats().pools[0]);
        let begun: u64 = tallies().map(|tally| tally.requests_started).sum();
        let ended: u64 = tallies()
            .map(|tally| tally.requests_failed + tally.requests_succeeded)
            .sum();
        assert_eq!(begun, ended, "law: each call ends once");
        // A drained shard takes what rests on its shelf with it.
        let resting = |far| drained && matches!(far, Far::Server(_));
        let open: Vec<Far> = self.world().open_sockets().map(|conn| conn.far).collect();
        let open = open.into_iter().find(|far| !resting(*far));
        assert_eq!(open, None, "law: no socket is left open");
        let left = self.connections.left();
        assert_eq!(left, self.connections.total(), "law: places are given back");
        self.shards.clear();
        let left = self.memory.left();
        assert_eq!(left, self.memory.total(), "law: memory is given back");
        let world = self.world();
        BridgeReport {
            trace: world.trace,
            coverage: world.coverage.clone(),
        }
    }

    fn each_guest(&mut self, act: impl Fn(&mut people::Guest, usize, &mut World)) {
        for me in 0..self.world().people.len() {
            let world = self.world();
            let mut person = std::mem::take(&mut world.people[me]);
            if let Person::Guest(guest) = &mut person
                && guest.stage != Stage::Gone
            {
                act(guest, me, world);
            }
            world.people[me] = person;
        }
    }

    /// Nobody has a slot any more, pushers that rest apart.
    fn is_empty(&self, pushers: bool) -> Result<(), String> {
        let sessions = self.shards.iter().flat_map(|shard| shard.sessions());
        let mut rest = sessions.filter(|one| !(pushers && one.peer().ip().is_loopback()));
        match rest.next() {
            None => Ok(()),
            Some(one) => Err(format!(
                "{} is {:?}, {:?}",
                one.peer().port(),
                one.phase(),
                one.attempt()
            )),
        }
    }

    fn unconfirmed(&self) -> u64 {
        let tallies = self.shards.iter().map(|shard| &shard.stats().pools[0]);
        tallies.flat_map(|tally| tally.unconfirmed).sum()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.quiet {
            // A panic inside of a turn leaves the world with its shard.
            let inside = self
                .shards
                .iter_mut()
                .find_map(|shard| shard.io.kernel().world.take());
            if let Some(world) = self.world.take().or(inside) {
                eprintln!("{}", world.story());
                eprintln!("{:?}", world.settings.now());
                eprintln!("{:?}", world.fleet.pools[0].connections);
            }
            eprintln!("seed {} failed in step {}", self.seed, self.step);
        }
    }
}

fn settings(rng: &mut Prng) -> Settings {
    let confirm = [
        Confirm::Received,
        Confirm::Received,
        Confirm::Received,
        Confirm::Processed,
        Confirm::Written,
    ];
    Settings {
        kind: Kind::Bridge,
        response: 1_000 + rng.below(1_000),
        replace: rng.chance(1, 3),
        buffer: [8 << 10, 64 << 10, 400 << 10][rng.below(3) as usize],
        hold: 4_000 + rng.below(3_000),
        admit: 1_500,
        confirm: confirm[rng.below(5) as usize],
        connect: 500,
        handshake: 1_200,
        ping: 2_500 + rng.below(500),
        pong: 3_000,
        close: 800,
        ..Settings::default()
    }
}

/// One pool of one to three servers; the port of an address is the server's number.
fn fleet(rng: &mut Prng) -> Fleet {
    let mut fleet = Fleet::default();
    let mut members = Vec::new();
    let threshold = [0, 3, 10][rng.below(3) as usize];
    for id in 0..1 + rng.below(3) as u16 {
        let address = SocketAddr::from(([10, 0, 0, 1], id));
        let name = format!("api{id}");
        let mut place = Place::new(name.clone(), name, address, 0, 1);
        place.prefix = ["/", "/v1/in/"][rng.below(2) as usize].to_string();
        place.breaker = Breaker::new(threshold);
        place.cooldown = 1_500;
        fleet.servers.push(place);
        members.push(id);
    }
    let balances = [
        Balance::RoundRobin,
        Balance::Random,
        Balance::LeastConnections,
    ];
    fleet.pools.push(Pool {
        members,
        balance: balances[rng.below(3) as usize],
        connections: Connections {
            min: rng.below(3),
            max: [1, 2, 4, 1_000][rng.below(4) as usize],
            idle: 500 + rng.below(2_000),
            queue: u32::MAX,
        },
        ..Pool::new("bridge", Serves::Bridge)
    });
    fleet
}

/// How long a drain may take, in ms.
const DRAIN: u32 = 3_000;
