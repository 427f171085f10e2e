//! Knows how to lie: virtual time, faulty sockets, peers that die, and the laws that hold all the same.
//! Imports: std, ipnet, tungstenite, crate::kit, crate::session, crate::fleet, crate::shard, crate::edge.
//! Never: mio, std::net::Tcp, std::time, crate::wire, crate::net, crate::control.
//!
//! The other [`Io`](crate::shard::Io): one or two shards in one world, everything from one seed. The
//! peers speak a WebSocket of their own, so that they can't err together with the proxy.
//!
//! **Invariant:** no clock, no thread, no socket; the same seed gives the same run.

mod above;
mod bridge;
mod codec;
mod crowd;
mod end;
mod faults;
mod ground;
mod guise;
mod head;
mod herald;
mod http;
mod laws;
mod peer;
mod pipe;
mod post;
mod press;
mod settings;
mod sightings;
mod toy;
mod valves;
mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use self::above::Setup;
#[cfg(feature = "nats")]
pub use self::bridge::run_nats;
pub use self::bridge::{BridgeReport, run_bridge};
use self::crowd::Crowd;
use self::guise::Guise;
pub use self::http::{HttpReport, run_http};
pub use self::laws::Coverage;
use self::peer::Server;
pub use self::sightings::Sightings;
use self::world::{Kernel, Sim, World};
use crate::fleet::{Breaker, Fleet, Pool, Route, Server as Place};
use crate::kit::{Budget, Prng, Quota};
use crate::session::dialect::ws::Ws;
use crate::session::{Confirm, Settings};
use crate::shard::news::{Happened, Notice};
use crate::shard::{Mail, Plan, Shard};

/// What a run has shown.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The same for the same seed and steps.
    pub trace: u64,
    pub coverage: Coverage,
}

/// Runs one seed. Panics if a law is broken; what came last is then printed, unless `quiet`.
pub fn run(seed: u64, steps: u32, quiet: bool) -> Report {
    let mut run = Run::new(seed, quiet);
    for step in 0..steps {
        run.step = step;
        run.world().strike();
        run.come_and_go();
        run.turn();
    }
    run.settle();
    run.part();
    run.leave()
}

struct Run {
    seed: u64,
    step: u32,
    quiet: bool,
    world: Option<Box<World>>,
    shards: Vec<Shard<Sim, Ws>>,
    running: Vec<bool>,
    memory: Arc<Budget>,
    connections: Arc<Budget>,
    quota: Arc<Quota>,
    crowd: usize,
    /// What a watcher is told.
    notices: Arc<Mutex<Vec<Notice>>>,
}

impl Run {
    fn new(seed: u64, quiet: bool) -> Run {
        let mut rng = Prng::from_u64(seed);
        let shards = 1 + rng.below(2) as usize;
        let mut settings: Vec<Settings> = (0..1 + rng.below(2))
            .map(|_| settings::any(&mut rng))
            .collect();
        (settings.iter_mut()).for_each(|one| one.connect = guise::connect(seed));
        let (mut fleet, servers) = fleet(&settings, &mut rng);
        for (number, pool) in fleet.pools.iter_mut().enumerate() {
            pool.announce = Guise::announces(seed, number);
        }
        let mut world = World::new(seed, shards, servers, settings.clone(), fleet.clone());
        world.dress = valves::dress(seed, settings.len());
        world.laws.squeezed = rng.chance(1, 5);
        world.coverage.squeezes += u64::from(world.laws.squeezed);
        let memory = Arc::new(Budget::new(if world.laws.squeezed { 500 } else { 600_000 }));
        world.laws.crowd = Crowd::new(memory.clone(), &mut rng);
        let connections = Arc::new(Budget::new(1_000));
        let quota = Arc::<Quota>::default();
        let busy = Arc::new(AtomicUsize::new(shards));
        let plan = |index: usize| Plan {
            index,
            shards,
            listeners: 1,
            fleet: fleet.clone(),
            house: world.house(),
            settings: settings.clone(),
            memory: memory.clone(),
            memory_step: 16,
            connections: connections.clone(),
            quota: quota.clone(),
            busy: busy.clone(),
            secret: (seed, 7),
            read_vitals: |_| None,
            capacity: 8,
            line_max: 2,
            ended_max: 1,
            walk_max: 1,
            rng: Prng::from_u64(seed.wrapping_mul(31) + index as u64),
        };
        let setup = || Setup {
            fashion: world.guise.fashion,
            announced: world.guise.announced,
            house: world.house(),
            memory: memory.clone(),
            tight: world.laws.squeezed,
        };
        let fittings = valves::fittings(&world.dress);
        let notices = Arc::<Mutex<Vec<Notice>>>::default();
        let shards: Vec<_> = (0..shards)
            .map(|index| {
                let kernel = Kernel::new(index, world.base);
                let mut shard = Shard::new(plan(index), Sim::new(index, kernel, setup()));
                shard.fit(fittings.clone(), valves::clock);
                let told = notices.clone();
                shard.notify(Arc::new(move |notice| {
                    told.lock().expect("nobody panics with it").push(notice);
                }));
                shard
            })
            .collect();
        let running = vec![true; shards.len()];
        let crowd = 1 + rng.below(9) as usize;
        Run {
            seed,
            step: 0,
            quiet,
            world: Some(Box::new(world)),
            shards,
            running,
            memory,
            connections,
            quota,
            crowd,
            notices,
        }
    }

    fn world(&mut self) -> &mut World {
        self.world
            .as_mut()
            .expect("the world is here between turns")
    }

    fn come_and_go(&mut self) {
        let crowd = self.crowd;
        if self.world().laws.squeezed && self.world().reloads && self.world().rng.chance(1, 200) {
            let total = 300 + self.world().rng.below(400);
            self.memory.resize(u64::from(total));
        }
        let world = self.world();
        let open = world.live.len();
        if world.clients.len() < 60_000 && open < 2 * crowd + 2 && world.rng.chance(1, 8) {
            world.coverage.clients += 1;
            world.add_client();
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
        self.turn_shards();
    }

    fn turn_shards(&mut self) {
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
            world.check_turn(&self.shards[at]);
        }
    }

    /// Faults end. Within bounded time every session has a server or has ended, and all is there.
    fn settle(&mut self) {
        self.world().heal();
        let hold = self
            .world()
            .settings
            .iter()
            .map(|pool| pool.most(|settings| settings.hold))
            .max()
            .unwrap_or(0);
        let deadline = self.world().now + u64::from(hold) + 20_000;
        let mut calm = 0;
        while calm < 3 {
            self.step += 1;
            self.turn();
            let world = self
                .world
                .as_ref()
                .expect("the world is here between turns");
            match world.is_settled(&self.shards) {
                Ok(()) => calm += 1,
                Err(why) => {
                    calm = 0;
                    assert!(world.now < deadline, "law: healed, but {why}");
                }
            }
        }
        let world = self
            .world
            .as_ref()
            .expect("the world is here between turns");
        world.check_complete();
        world.check_counts(&self.shards);
    }

    /// All that was owed has been paid, or is not waited for any more.
    fn is_paid(&self) -> bool {
        self.shards.iter().all(|shard| shard.io.rest()[3] == 0)
    }

    /// All clients leave, or wsteady is told to stop.
    fn part(&mut self) {
        let shutdown = self.world().rng.chance(1, 2);
        let before: u64 = self.unconfirmed();
        if shutdown {
            self.world().coverage.shutdowns += 1;
            self.world().laws.draining = true;
            self.world().tell_all(&Mail::Drain { ms: 3_000 });
        } else {
            for client in self.world().live_clients() {
                let world = self.world();
                let mut peer = std::mem::take(&mut world.clients[client]);
                peer.say_close(world);
                world.clients[client] = peer;
            }
        }
        let deadline = self.world().now + 30_000;
        while self.shards.iter().any(|shard| shard.clients() > 0) {
            self.step += 1;
            self.turn();
            let rest = self.shards.iter().flat_map(|shard| shard.sessions());
            let rest: Vec<_> = rest
                .map(|one| {
                    (
                        one.peer().port(),
                        one.phase(),
                        one.journal_bytes(),
                        one.held_bytes(),
                        one.wants_client(),
                        one.held_output(),
                    )
                })
                .collect();
            assert!(
                self.world().now < deadline,
                "law: all clients have left, but not {rest:?}"
            );
        }
        assert_eq!(
            self.unconfirmed(),
            before,
            "law I1: healthy servers, but messages are lost"
        );
        if shutdown {
            while self.running.iter().any(|running| *running) {
                self.step += 1;
                self.turn();
                assert!(self.world().now < deadline, "law: a drained shard stops");
            }
        }
        while !self.is_paid() {
            self.step += 1;
            self.turn();
            let now = self.world().now;
            assert!(now < deadline, "law: debts are paid, or forgotten");
        }
        self.world
            .as_ref()
            .expect("the world is here")
            .check_counts(&self.shards);
    }

    fn unconfirmed(&self) -> u64 {
        let pools = self.shards.iter().flat_map(|shard| &shard.stats().pools);
        pools
            .map(|tally| tally.unconfirmed.iter().sum::<u64>())
            .sum()
    }

    /// Nothing is left behind.
    fn leave(mut self) -> Report {
        for shard in &self.shards {
            shard.check_invariants();
            let stats = shard.stats();
            assert_eq!(stats.faults, 0, "law: no dead pair");
            let losses = stats
                .pools
                .iter()
                .flat_map(|tally| tally.failovers.values());
            assert_eq!(
                stats.hold.len(),
                losses.sum::<u64>(),
                "law: one hold observed for each failover"
            );
        }
        check_notices(&self.notices.lock().expect("nobody panics with it"));
        assert_eq!(self.world().open_ends(), 0, "law: no socket is left open");
        for shard in &self.shards {
            assert_eq!(shard.io.rest(), [0; 5], "law: the layer is empty");
        }
        let left = self.connections.left();
        assert_eq!(
            left,
            self.connections.total(),
            "law: connections are given back"
        );
        assert_eq!(self.quota.holders(), 0, "law: no address is counted");
        self.shards.clear();
        assert_eq!(
            self.memory.left(),
            self.memory.total(),
            "law: memory is given back"
        );
        let world = self.world();
        Report {
            trace: world.trace,
            coverage: world.coverage.clone(),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.quiet {
            eprintln!("seed {} failed in step {}", self.seed, self.step);
            // A panic inside of a turn leaves the world with its shard.
            let inside = self
                .shards
                .iter_mut()
                .find_map(|shard| shard.io.kernel().world.take());
            if let Some(world) = self.world.take().or(inside) {
                eprintln!("{}", world.story());
            }
        }
    }
}

/// Each session that was opened ends, once and last; it has one server after the other, and none
/// before it is told so.
fn check_notices(notices: &[Notice]) {
    // Bound, and ended.
    let mut lives: BTreeMap<u128, (bool, bool)> = BTreeMap::new();
    for notice in notices {
        let begins = matches!(notice.what, Happened::Opened { .. });
        let known = lives.get(&notice.session).copied();
        assert_eq!(begins, known.is_none(), "law: first of all {notice:?}");
        let (bound, ended) = known.unwrap_or_default();
        assert!(!ended, "law: nothing follows an end: {notice:?}");
        let next = match notice.what {
            Happened::Opened { .. } => (false, false),
            Happened::Bound { .. } => {
                assert!(!bound, "law: one server at a time: {notice:?}");
                (true, false)
            }
            Happened::Lost { .. } | Happened::Moved => {
                assert!(bound, "law: it had no server: {notice:?}");
                (false, false)
            }
            Happened::Replayed { messages } => {
                assert!(bound && messages > 0, "law: a replay to a server");
                (bound, false)
            }
            Happened::Ended { .. } => (bound, true),
        };
        lives.insert(notice.session, next);
    }
    let open = lives.values().filter(|(_, ended)| !ended).count();
    assert_eq!(open, 0, "law: sessions whose end nobody was told of");
}

/// Pools of one to three servers; the port of an address is the server's number.
fn fleet(settings: &[Settings], rng: &mut Prng) -> (Fleet, Vec<Server>) {
    let mut fleet = Fleet::default();
    let mut servers = Vec::new();
    for (pool, settings) in settings.iter().enumerate() {
        let mut members = Vec::new();
        let threshold = settings::threshold(rng);
        for n in 0..1 + rng.below(3) {
            let id = fleet.servers.len() as u16;
            let address = SocketAddr::from(([10, 0, 0, 1], id));
            let name = format!("s{pool}-{n}");
            let mut place = Place::new(name.clone(), name, address, pool as u16, 1);
            place.breaker = Breaker::new(threshold);
            place.cooldown = 1_500;
            fleet.servers.push(place);
            let processes = settings.confirm == Confirm::Processed && rng.chance(2, 3);
            servers.push(Server {
                pool,
                processes,
                ..Server::default()
            });
            members.push(id);
        }
        fleet.pools.push(Pool {
            members,
            ..settings::pool(format!("p{pool}"), rng)
        });
        let path = format!("/p{pool}");
        fleet.routes.push(Route {
            path,
            upgrade: None,
            host: None,
            pool: pool as u16,
        });
    }
    (fleet, servers)
}
