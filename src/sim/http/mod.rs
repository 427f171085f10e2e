//! HTTP pools in a world of their own: shards between clients and servers that speak HTTP and break
//! off wherever it hurts, and the probes of the servers' health. The laws hold all the same.

mod coverage;
mod decoder;
mod faults;
mod laws;
mod line;
mod origin;
mod tap;
mod visitor;
mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use self::world::{HttpSim, World};
use super::above::Setup;
use super::ground::Kernel;
use super::guise::{self, Guise};
use super::pipe::Far;
use super::press::Press;
use super::sightings::Sightings;
use crate::fleet::health::{Expect, Health, Vitals};
use crate::fleet::{
    Balance, Breaker, Connections, Fleet, Kind as Serves, Pool, Route, Server as Place,
};
use crate::kit::{Budget, Prng, Quota};
use crate::session::dialect::Tongue;
use crate::session::{House, Kind, Settings};
use crate::shard::{Mail, Plan, Shard};

/// What a run has shown.
#[derive(Clone, Debug, Default)]
pub struct HttpReport {
    /// The same for the same seed and steps.
    pub trace: u64,
    pub coverage: Sightings,
}

/// Runs one seed. Panics if a law is broken; what came last is then printed, unless `quiet`.
pub fn run_http(seed: u64, steps: u32, quiet: bool) -> HttpReport {
    let mut run = Run::new(seed, quiet);
    for step in 0..steps {
        run.step = step;
        run.world().strike();
        run.come();
        run.turn();
    }
    run.settle();
    run.come_again();
    run.part();
    run.leave()
}

struct Run {
    seed: u64,
    step: u32,
    quiet: bool,
    world: Option<Box<World>>,
    shards: Vec<Shard<HttpSim, Tongue>>,
    running: Vec<bool>,
    memory: Arc<Budget>,
    connections: Arc<Budget>,
    crowd: usize,
}

impl Run {
    fn new(seed: u64, quiet: bool) -> Run {
        let mut rng = Prng::from_u64(seed);
        let shards = 1 + rng.below(3) as usize;
        let mut settings: Vec<Settings> =
            (0..1 + rng.below(2)).map(|_| settings(&mut rng)).collect();
        (settings.iter_mut()).for_each(|one| one.connect = guise::connect(seed));
        let mut fleet = fleet(settings.len() as u16, &mut rng);
        for (number, pool) in fleet.pools.iter_mut().enumerate() {
            pool.announce = Guise::announces(seed, number);
            pool.health = pool
                .health
                .take()
                .map(|health| guise::patient(seed, health));
        }
        let house = House {
            // Shorter than an answer may take, or longer.
            handshake: [700, 2_000][rng.below(2) as usize],
            message_time: 20_000,
            min_rate: [0, 500, 5_000][rng.below(3) as usize],
            trusted: guise::trusted(),
            ..House::default()
        };
        let mut world = World::new(seed, shards, settings.clone(), fleet.clone(), house);
        world.guise = Guise::of(seed);
        let memory = Arc::new(Budget::new(600_000));
        world.laws.press = Press::new(memory.clone());
        let connections = Arc::new(Budget::new(1_000));
        let quota = Arc::<Quota>::default();
        let busy = Arc::new(AtomicUsize::new(shards));
        let plan = |index: usize| Plan {
            index,
            shards,
            listeners: 1,
            fleet: fleet.clone(),
            house: world.house.clone(),
            settings: settings.clone(),
            memory: memory.clone(),
            memory_step: 16,
            connections: connections.clone(),
            quota: quota.clone(),
            busy: busy.clone(),
            secret: (seed, 7),
            read_vitals,
            capacity: 8,
            line_max: 2,
            ended_max: 1,
            walk_max: 1,
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
                Shard::new(
                    plan(index),
                    HttpSim::new(index, Kernel::new(index, &world), setup()),
                )
            })
            .collect();
        let crowd = 1 + rng.below(16) as usize;
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
        let here = world.live.iter().filter(|id| match world.conns[**id].far {
            Far::Client(me) => !world.visitors[me].gone,
            Far::Server(_) => false,
        });
        if here.count() < crowd && world.rng.chance(1, 6) {
            world.add_visitor();
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
        for at in 0..self.shards.len() {
            if !self.running[at] {
                let io = &mut self.shards[at].io;
                io.kernel().world = self.world.take();
                io.linger();
                self.world = io.kernel().world.take();
                continue;
            }
            let world = self.world.as_mut().expect("the world is here");
            world.look(at, &self.shards);
            let shard = &mut self.shards[at];
            shard.io.kernel().world = self.world.take();
            self.running[at] = shard.turn();
            self.world = shard.io.kernel().world.take();
            let world = self.world.as_mut().expect("the shard gives the world back");
            world.check_turn(at, &self.shards);
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

    /// Faults end. Within bounded time all that was asked is answered, or its connection has ended.
    fn settle(&mut self) {
        self.world().heal();
        self.until(40_000, "healed", |run| {
            let world = run.world.as_ref().expect("it is here");
            world.is_settled(&run.shards)
        });
        self.check_counts();
    }

    /// All is well: whoever comes is served.
    fn come_again(&mut self) {
        let well_at = self.world().laws.trouble_at + 6_000;
        self.until(8_000, "time goes on", |run| {
            let now = run.world.as_ref().expect("it is here").now;
            (now > well_at).then_some(()).ok_or("it is early".into())
        });
        self.world().talking = true;
        for _ in 0..100 {
            self.come();
            self.turn();
        }
        self.world().talking = false;
        self.until(40_000, "all is well", |run| {
            let world = run.world.as_ref().expect("it is here");
            world.is_settled(&run.shards)
        });
        self.check_counts();
    }

    /// Each request was counted once, as what it was.
    fn check_counts(&mut self) {
        let tallies = self.shards.iter().flat_map(|shard| &shard.stats().pools);
        let (mut started, mut failed, mut succeeded) = (0, 0, 0);
        for tally in tallies {
            started += tally.requests_started;
            failed += tally.requests_failed;
            succeeded += tally.requests_succeeded;
        }
        assert_eq!(
            started,
            failed + succeeded,
            "law: started = failed + succeeded"
        );
        let well = self.world().laws.well_answered;
        assert_eq!(
            succeeded, well,
            "law: whole answers below 500 are successes"
        );
    }

    /// The clients leave, or wsteady is told to stop.
    fn part(&mut self) {
        if self.world().rng.chance(1, 2) {
            let now = self.world().now;
            self.world().laws.draining = true;
            self.world().laws.stops_at = Some(now + 3_000);
            self.world().talking = self.world().rng.chance(1, 2);
            self.world().hit("run: drained");
            self.world().tell_all(&Mail::Drain { ms: 3_000 });
            return self.until(6_000, "a drained shard stops", |run| {
                let running = run.running.contains(&true);
                (!running).then_some(()).ok_or("one has not".into())
            });
        }
        for me in 0..self.world().visitors.len() {
            let world = self.world();
            let mut visitor = std::mem::take(&mut world.visitors[me]);
            visitor.hang_up(world);
            world.visitors[me] = visitor;
        }
        self.until(5_000, "all have left", |run| {
            let mut sessions = run.shards.iter().flat_map(|shard| shard.sessions());
            let left = sessions.next().map(|one| (one.peer(), one.phase()));
            left.map_or(Ok(()), |left| Err(format!("{left:?} has not")))
        });
        self.until(5_500, "all is at rest", |run| {
            let world = run.world.as_ref().expect("it is here");
            let mut places = world.fleet.servers.iter();
            let busy = places.find(|place| {
                let pool = &world.fleet.pools[usize::from(place.pool)];
                place.shared.connections() > pool.connections.min
            });
            busy.map_or(Ok(()), |place| Err(format!("{} has too many", place.id)))
        });
        self.world().hit("shelf: emptied");
    }

    /// Nothing is left behind.
    fn leave(mut self) -> HttpReport {
        self.world().tell_all(&Mail::Stop);
        self.turn();
        let deadline = self.world().now + 10_000;
        while self.shards.iter().any(|shard| shard.io.rest()[3] > 0) {
            self.turn();
            let now = self.world().now;
            assert!(now < deadline, "law: debts are paid, or forgotten");
        }
        for shard in &self.shards {
            shard.check_invariants();
            assert_eq!(shard.stats().faults, 0, "law: no dead pair");
            assert_eq!(shard.io.rest(), [0; 5], "law: the layer is empty");
        }
        let open = self.world().open_sockets().map(|conn| conn.far).next();
        assert_eq!(open, None, "law: no socket is left open");
        let world = self.world();
        for (server, place) in world.fleet.servers.iter().enumerate() {
            // A permit may be on its way to a shard that has stopped.
            let left = place.shared.connections() - world.granted(server as u16);
            assert_eq!(left, 0, "law: permits are given back");
            assert_eq!(place.shared.waiting(), 0, "law: nobody waits");
        }
        let left = self.connections.left();
        assert_eq!(left, self.connections.total(), "law: places are given back");
        self.shards.clear();
        let left = self.memory.left();
        assert_eq!(left, self.memory.total(), "law: memory is given back");
        let world = self.world();
        HttpReport {
            trace: world.trace,
            coverage: world.coverage.clone(),
        }
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
                for pool in &world.fleet.pools {
                    eprintln!(
                        "{:?} {:?} {:?}",
                        pool.connections, pool.health, pool.balance
                    );
                }
            }
            eprintln!("seed {} failed in step {}", self.seed, self.step);
        }
    }
}

fn settings(rng: &mut Prng) -> Settings {
    Settings {
        kind: Kind::Http,
        response: 1_000 + rng.below(1_000),
        admit: 1_500,
        connect: 500,
        close: 800,
        ..Settings::default()
    }
}

/// Pools of one to three servers; the port of an address is the server's number.
fn fleet(pools: u16, rng: &mut Prng) -> Fleet {
    let mut fleet = Fleet::default();
    for pool in 0..pools {
        let mut members = Vec::new();
        let threshold = [0, 3, 10][rng.below(3) as usize];
        for _ in 0..1 + rng.below(3) {
            let id = fleet.servers.len() as u16;
            let address = SocketAddr::from(([10, 0, 0, 1], id));
            let mut place = Place::new(format!("s{id}"), format!("s{id}"), address, pool, 1);
            place.prefix = ["", "/v1"][rng.below(2) as usize].to_string();
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
                min: rng.below(2),
                max: [1, 2, 3, 8][rng.below(4) as usize],
                idle: 500 + rng.below(2_000),
                queue: [0, 2, 10, 10][rng.below(4) as usize],
            },
            health: health(rng),
            ..Pool::new(&format!("p{pool}"), Serves::Http)
        });
        fleet.routes.push(Route {
            path: format!("/p{pool}"),
            upgrade: None,
            host: None,
            pool,
        });
    }
    fleet
}

fn health(rng: &mut Prng) -> Option<Health> {
    let expects = [
        Expect::Status,
        Expect::JsonStatus,
        Expect::Tcp,
        Expect::WebSocket,
    ];
    let expect = expects[rng.below(4) as usize];
    let health = probes(rng, expect);
    rng.chance(3, 4).then_some(health)
}

/// Probes of that kind, by chance.
fn probes(rng: &mut Prng, expect: Expect) -> Health {
    Health {
        path: "/health".to_string(),
        interval: 200 + rng.below(300),
        timeout: 400 + rng.below(300),
        rise: 1 + rng.below(2) as u8,
        fall: 1 + rng.below(3) as u8,
        expect,
    }
}

/// Enough of JSON for the origins' answers.
fn read_vitals(body: &[u8]) -> Option<Vitals> {
    let text = std::str::from_utf8(body).ok()?;
    let status = text.strip_prefix("{\"status\":")?.strip_suffix('}')?;
    Some(Vitals {
        ok: status == "200",
        cpu: None,
        memory: None,
    })
}
