//! Knows one core's share: keys, queues, deadlines, budgets, pairs, accounts.
//! Imports: std, bitflags, hdrhistogram, log, crate::kit, crate::session, crate::fleet.
//! Never: mio, std::net::Tcp, std::time, crate::wire, crate::net, crate::sim, crate::control.
//!
//! One thread, one poll, one slab of clients, one of upstreams, one chunk store, one timer wheel, one
//! scratch buffer. A [`turn`](Shard::turn) is nine calls and nothing else.
//!
//! **Invariant:** nothing is shared but what is leased in steps; no lock, no allocation and no clock
//! is touched per relayed message.

mod admission;
mod calls;
mod cast;
mod chores;
pub mod directory;
mod dispatch;
mod flush;
pub mod io;
pub mod mail;
pub mod news;
pub mod pair;
mod permits;
mod probe;
mod questions;
mod queue;
mod read;
mod roster;
pub mod rules;
mod sources;
pub mod stats;
pub mod token;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

pub use self::io::{Accept, Announce, Destination, Dialled, Got, Io, Now, Put, Ready};
pub use self::mail::{Answer, Asker, Filter, Mail, Push, PushVerb, Pushed, Reached};
pub use self::pair::{Bits, Client, Upstream};
pub use self::rules::Rules;
pub use self::stats::{SessionRow, Snapshot, Stats};
pub use self::token::{Kind, Token};
use crate::fleet::Fleet;
use crate::kit::chain::CHUNK;
use crate::kit::{Budget, Chunks, Key, Prng, Quota, Slots, Tick, Timer, Wheel};
pub use crate::session::House;
use crate::session::valve::Fitting;
use crate::session::{
    Action, Ctx, Dialect, End, Event, Loss, Means, Parcel, Phase, Session, Settings,
};

/// One core's share of the proxy, over a kernel `I` and a dialect `D`.
pub struct Shard<I: Io, D: Dialect> {
    /// The world. Public for the simulator, which owns both sides.
    pub io: I,
    index: usize,
    shards: usize,
    line_max: u32,
    ended_max: usize,
    walk_max: usize,
    listeners: u32,
    clients: Slots<Client<I::Socket>>,
    upstreams: Slots<Upstream<I::Socket, D>>,
    core: Core,
    fleet: Fleet,
    wheel: Wheel<Owner>,
    scratch: Box<[u8]>,
    lists: Lists,
    chores: chores::Chores,
    /// By pool.
    queues: Vec<queue::Queue>,
    shelf: calls::Shelf,
    permits: permits::Permits,
    casts: cast::Casts,
    directory: directory::Directory,
    /// Mail to itself.
    notes: Vec<Mail>,
    teller: news::Teller,
    /// Of the servers whose home this is.
    probes: Vec<probe::Probe>,
    read_vitals: fn(&[u8]) -> Option<crate::fleet::Vitals>,
    connections: Arc<Budget>,
    door: admission::Door,
    sources: sources::Sources,
    busy: Arc<AtomicUsize>,
    ready: Vec<Ready>,
    mails: Vec<Mail>,
    due: Vec<Owner>,
    doing: Vec<Action>,
    state: State,
}

/// What every session may use, whatever its slot.
struct Core {
    now: Tick,
    means: Means,
    settings: Vec<Settings>,
    nobodys: Settings,
    stats: Stats,
    parcel: Parcel,
    first_bytes: Vec<u8>,
}

/// Slots that something is to be done for, each at most once per list.
#[derive(Default)]
struct Lists {
    read_clients: Vec<Key>,
    read_upstreams: Vec<Key>,
    flush_clients: Vec<Key>,
    flush_upstreams: Vec<Key>,
    /// Connections that ended, in order.
    ended: VecDeque<Kind>,
    graves: Vec<Key>,
    /// Listeners that may hold more than one turn accepts.
    accept: Vec<u32>,
    /// Taken in turn with the lists above, so that none of them allocates twice.
    spare: Vec<Key>,
}

/// Whose timer it is: a client's, or nobody's, which is the chores'. There is one per session, so it
/// is no enum.
type Owner = Key;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// Listeners are closed; sessions are being closed one by one.
    Draining,
    /// Nothing is left to do here.
    Stopped,
}

/// What a shard begins with.
pub struct Plan {
    pub index: usize,
    pub shards: usize,
    pub listeners: u32,
    pub fleet: Fleet,
    pub house: House,
    /// One per pool.
    pub settings: Vec<Settings>,
    /// `limits.memory`, in chunks; shared by all shards.
    pub memory: Arc<Budget>,
    /// Chunks leased at a time.
    pub memory_step: usize,
    /// `limits.connections`; shared by all shards.
    pub connections: Arc<Budget>,
    /// Connections of each client address; shared by all shards.
    pub quota: Arc<Quota>,
    /// Shards that have not stopped; shared by all, and all of them at the start.
    pub busy: Arc<AtomicUsize>,
    /// What ClientIds are hashed with; the same for all shards.
    pub secret: (u64, u64),
    /// Reads the JSON of a health answer, which is nothing that a shard knows.
    pub read_vitals: fn(&[u8]) -> Option<crate::fleet::Vitals>,
    /// Slots to reserve.
    pub capacity: usize,
    /// Calls of one pool that may wait before its clients are read no more; at least 1.
    pub line_max: u32,
    /// Connections that ended and are read to their end in one turn, and sessions that may wait for
    /// their pool's connect rate before more of its connections are.
    pub ended_max: usize,
    /// Clients that are told of a broadcast in one turn; at least 1.
    pub walk_max: usize,
    pub rng: Prng,
}

impl Plan {
    /// A shard that is the only one, with one listener, and with the bounds of a configuration that says
    /// nothing of them. A pool without settings has the defaults. `seed` decides session ids and masks:
    /// outside of simulations it comes from the kernel's generator.
    pub fn alone(fleet: Fleet, mut settings: Vec<Settings>, seed: [u8; 32]) -> Plan {
        settings.resize(fleet.pools.len(), Settings::default());
        let mut rng = Prng::new(seed);
        Plan {
            index: 0,
            shards: 1,
            listeners: 1,
            fleet,
            house: House::default(),
            settings,
            memory: Arc::new(Budget::new(MEMORY / CHUNK as u64)),
            memory_step: memory_step(MEMORY / CHUNK as u64, 1),
            connections: Arc::new(Budget::new(u64::from(CONNECTIONS))),
            quota: Arc::default(),
            busy: Arc::new(AtomicUsize::new(1)),
            secret: (rng.next_u64(), rng.next_u64()),
            read_vitals: |_| None,
            capacity: CAPACITY,
            line_max: LINE_MAX,
            ended_max: ENDED_MAX,
            walk_max: WALK_MAX,
            rng,
        }
    }
}

impl<I: Io, D: Dialect> Shard<I, D> {
    /// A shard that has not turned yet.
    pub fn new(plan: Plan, mut io: I) -> Shard<I, D> {
        let now = io.now().tick;
        let (servers, pools) = (plan.fleet.servers.len(), plan.fleet.pools.len());
        let stats = Stats::new(plan.fleet.pools.len(), plan.fleet.servers.len());
        let mut house = plan.house;
        house.push_apis = plan.fleet.pushers();
        let chunks = Chunks::new(plan.memory, plan.memory_step);
        let core = Core {
            now,
            means: Means::new(chunks, plan.rng, house),
            settings: plan.settings,
            nobodys: Settings::default(),
            stats,
            parcel: Parcel::default(),
            first_bytes: Vec::new(),
        };
        let mut shard = Shard {
            io,
            index: plan.index,
            shards: plan.shards,
            line_max: plan.line_max,
            ended_max: plan.ended_max,
            walk_max: plan.walk_max,
            listeners: plan.listeners,
            clients: Slots::with_capacity(plan.capacity),
            upstreams: Slots::with_capacity(plan.capacity),
            core,
            fleet: plan.fleet,
            wheel: Wheel::new(now),
            scratch: vec![0; STASH_ROOM + READ_MAX].into_boxed_slice(),
            lists: Lists {
                accept: (0..plan.listeners).collect(),
                ..Lists::default()
            },
            chores: chores::Chores::default(),
            queues: vec![queue::Queue::default(); pools],
            shelf: calls::Shelf::new(servers, pools),
            permits: permits::Permits::default(),
            casts: cast::Casts::default(),
            directory: directory::Directory::new(plan.secret),
            notes: Vec::new(),
            teller: news::Teller::default(),
            probes: Vec::new(),
            read_vitals: plan.read_vitals,
            connections: plan.connections,
            door: admission::Door::new(plan.quota),
            sources: sources::Sources::default(),
            busy: plan.busy,
            ready: Vec::new(),
            mails: Vec::new(),
            due: Vec::new(),
            doing: Vec::new(),
            state: State::Running,
        };
        for server in 0..servers {
            shard.begin_probes(server as u16);
        }
        shard
    }

    /// Sessions that begin from now on get these valves. `clock` gives microseconds and never goes
    /// back.
    pub fn fit(&mut self, fittings: Arc<[Fitting]>, clock: fn() -> u64) {
        self.core.means.valves.fit(fittings, clock);
        self.name_pools();
    }

    /// Valves are told what pools are called.
    fn name_pools(&mut self) {
        let names = self.fleet.pools.iter().map(|pool| pool.name.as_str());
        self.core.means.valves.name_pools(names);
    }

    /// One pass of the loop. False: the shard has stopped.
    pub fn turn(&mut self) -> bool {
        let wait = self.wait();
        self.ready.clear();
        self.io.poll(wait, &mut self.ready);
        let began = self.io.now();
        self.core.now = began.tick;
        self.drop_spoiled();
        self.take_mail();
        self.serve_ready();
        self.fire_timers();
        self.accept();
        self.flush();
        self.bury();
        self.publish(began);
        !self.is_over()
    }

    /// How many clients have a slot.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// The sessions, for the simulator's laws.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.clients.iter().map(|(_, client)| &client.session)
    }

    /// The servers as this shard sees them, for the simulator's laws.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// All counts.
    pub fn stats(&self) -> &Stats {
        &self.core.stats
    }

    /// What must always hold between two turns; run in tests.
    pub fn check_invariants(&self) {
        self.core.means.chunks.check_invariants();
        self.check_roster();
        self.check_line();
        self.check_sweeps();
        self.check_ended();
        let mut joined = 0;
        for (key, client) in self.clients.iter() {
            client.session.check_invariants();
            if let Some(upstream) = self.upstreams.get(client.upstream) {
                assert_eq!(upstream.rider, key, "a pair is symmetric");
                joined += 1;
            } else {
                assert!(client.upstream.is_none(), "a client holds a dead key");
                let phase = client.session.phase();
                let needs = matches!(phase, Phase::Open | Phase::Moving | Phase::Finishing)
                    && !client.session.is_bridged();
                assert!(!needs, "a session is {phase:?} without an upstream");
            }
            assert_eq!(client.socket.is_some(), client.session.has_client());
            assert!(
                client.session.phase() != Phase::Over,
                "an ended session was not buried"
            );
        }
        let resting = self
            .upstreams
            .iter()
            .filter(|(_, slot)| slot.rider.is_none() || slot.rider == probe::PROBE);
        let resting = resting.count();
        assert_eq!(
            joined + resting,
            self.upstreams.len(),
            "an upstream without a rider"
        );
        let sockets = self
            .clients
            .iter()
            .filter(|(_, client)| client.socket.is_some())
            .count();
        let stats = &self.core.stats;
        assert_eq!(
            stats.opened - stats.closed,
            sockets as u64,
            "opened - closed = active"
        );
        for tally in &stats.pools {
            let unconfirmed: u64 = tally.unconfirmed.iter().sum();
            let sum = tally.confirmed + unconfirmed + tally.journaled;
            assert_eq!(
                tally.messages_up, sum,
                "up = confirmed + unconfirmed + journaled"
            );
        }
        if self.clients.is_empty() {
            assert!(
                self.core.means.valves.is_empty(),
                "an empty shard holds valves"
            );
            // A probe's request waits for its connection.
            let mut upstreams = self.upstreams.iter();
            let probing = upstreams.any(|(_, slot)| slot.rider == probe::PROBE);
            assert!(
                self.core.means.chunks.used() == 0 || probing,
                "an empty shard holds chunks"
            );
            assert!(
                self.wheel.len() <= usize::from(self.chores.is_armed()),
                "… or timers"
            );
        }
    }

    /// How long the poll may wait.
    fn wait(&self) -> Option<u32> {
        let lists = &self.lists;
        let busy = !(lists.read_clients.is_empty()
            && lists.read_upstreams.is_empty()
            && lists.flush_clients.is_empty()
            && lists.flush_upstreams.is_empty()
            && lists.accept.is_empty()
            && lists.ended.is_empty()
            && self.notes.is_empty()
            && !self.shelf.is_wanted());
        if busy {
            Some(0)
        } else {
            self.wheel.next_in(self.core.now)
        }
    }

    fn serve_ready(&mut self) {
        // Servers first: what they confirm makes room for what clients send.
        for at in 0..self.ready.len() {
            let ready = self.ready[at];
            if let Some(Kind::Upstream(key)) = ready.token.kind() {
                self.upstream_ready(key, ready);
            }
        }
        for at in 0..self.ready.len() {
            let ready = self.ready[at];
            match ready.token.kind() {
                Some(Kind::Client(key)) => self.client_ready(key, ready),
                Some(Kind::Listener(listener)) => {
                    if !self.lists.accept.contains(&listener) {
                        self.lists.accept.push(listener);
                    }
                }
                Some(Kind::Upstream(_) | Kind::Guest(_) | Kind::Mail) | None => {}
            }
        }
        self.read_again();
        self.read_ended();
    }

    fn fire_timers(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.turn(self.core.now, &mut due);
        for owner in due.drain(..) {
            if owner.is_none() {
                self.do_chores();
                continue;
            }
            let Some(client) = self.clients.get_mut(owner) else {
                self.core.stats.stale += 1;
                continue;
            };
            client.timer = Timer::NONE;
            self.read_before_due(owner);
            self.tell(owner, Event::Due);
        }
        self.due = due;
    }

    fn accept(&mut self) {
        let mut listeners = std::mem::take(&mut self.lists.accept);
        listeners.retain(|listener| self.accept_from(*listener));
        // Only now: a listener that met its limit is re-armed by a timer, which pushes here.
        listeners.append(&mut self.lists.accept);
        self.lists.accept = listeners;
    }

    /// Accepts from one listener; true if more may wait.
    fn accept_from(&mut self, listener: u32) -> bool {
        for _ in 0..ACCEPTS_MAX {
            if self.state != State::Running {
                return false;
            }
            match self.io.accept(listener) {
                Accept::Socket(socket, peer) => self.admit(socket, peer),
                Accept::None => return false,
                Accept::Failed => self.core.stats.accepts_failed += 1,
                Accept::Exhausted => {
                    // Its edge will not come again, even when descriptors are free.
                    self.core.stats.accepts_failed += 1;
                    self.chores.rearm_listener(listener);
                    self.want_chores(LISTENER_PAUSE);
                    return false;
                }
            }
        }
        true
    }

    fn bury(&mut self) {
        let mut graves = std::mem::take(&mut self.lists.graves);
        for key in graves.drain(..) {
            let Some(client) = self.clients.remove(key) else {
                continue;
            };
            debug_assert!(client.socket.is_none() && client.upstream.is_none());
            if client.session.was_opened() {
                let kept = client.session.kept_bytes() as u64;
                self.core.stats.kept_bytes = self.core.stats.kept_bytes.saturating_sub(kept);
            }
            if !client.timer.is_none() && !planted!(TimerLeft) {
                self.wheel.disarm(client.timer);
            }
        }
        self.lists.graves = graves;
    }

    fn publish(&mut self, began: Now) {
        let stats = &mut self.core.stats;
        let ended = self.io.now();
        let took = ended.micros.saturating_sub(began.micros);
        stats.busy_micros += took;
        stats.turns += 1;
        let relayed = stats.relayed();
        let new = relayed - self.chores.relayed;
        if new > 0 {
            self.chores.relayed = relayed;
            stats.relay.saturating_record_n(took.max(1), new);
        }
        if self.core.means.chunks.is_loose() && !self.chores.is_armed() {
            self.want_chores(chores::TRIM_PAUSE);
        }
    }

    /// Tells a session what happened, and does what it wants done.
    fn tell(&mut self, key: Key, event: Event<'_>) {
        let Some(client) = self.clients.get_mut(key) else {
            self.core.stats.stale += 1;
            return;
        };
        self.core.with(&mut client.session, &[], |session, ctx| {
            session.on(event, ctx)
        });
        self.perform(key);
    }

    /// A mistake of ours: it costs one session, not the process (STYLE 6).
    #[cold]
    fn fault(&mut self, key: Key) {
        debug_assert!(false, "a dead pair");
        self.core.stats.faults += 1;
        self.tell(key, Event::Stop(End::Fault));
    }
}

/// Those of a session's pool; before it has one, they are nobody's.
fn settings_of<'a>(
    pool: Option<u16>,
    pools: &'a [Settings],
    nobodys: &'a Settings,
) -> &'a Settings {
    let pool = pool.and_then(|pool| pools.get(usize::from(pool)));
    pool.unwrap_or(nobodys)
}

impl Core {
    /// Lets a session act, with everything it may use.
    #[inline]
    fn with<R>(
        &mut self,
        session: &mut Session,
        input: &[u8],
        act: impl FnOnce(&mut Session, &mut Ctx<'_>) -> R,
    ) -> R {
        let pool = session.pool();
        let settings = settings_of(pool, &self.settings, &self.nobodys);
        let tally = self.stats.tally(pool);
        let mut ctx = self.means.lend(self.now, settings, tally, input);
        act(session, &mut ctx)
    }
}

/// How a connection that could not be written or read has ended.
const BROKEN: Loss = Loss::Reset;

/// Bytes of one read: large, because one buffer serves all connections of the loop.
const READ_MAX: usize = 64 << 10;

/// Room before them for what was kept of earlier reads.
const STASH_ROOM: usize = 96 << 10;

/// What must be free before a client is read: its messages leave some to what comes from servers,
/// for that must be read, Pongs above all, which give memory back.
const CLIENT_ROOM: usize = READ_MAX + (128 << 10);

/// Accepts per listener and turn: those who are served already come first.
const ACCEPTS_MAX: usize = 64;

/// Chunks that a shard leases at a time, if there are so many in all: a step is small beside its share,
/// so that no shard starves on what others hold unused.
pub fn memory_step(chunks: u64, shards: usize) -> usize {
    (chunks / (shards as u64 * 8)).clamp(1, STEP_MAX) as usize
}

/// `limits.memory` and `limits.connections` where nothing is said of them.
pub const MEMORY: u64 = 4 << 30;
pub const CONNECTIONS: u32 = 1_000_000;

/// 1 MiB: what a lease costs is nothing beside the work on so much.
const STEP_MAX: u64 = 512;

/// Slots reserved: growth copies, and the first ones should not.
const CAPACITY: usize = 1_024;

/// Calls that may wait on one loop before clients are read no more: so many keep a thousand
/// connections busy, and more would only be older when their turn comes.
const LINE_MAX: u32 = 64;

/// Connections that ended and are closed in a turn: so many cost a loop a millisecond or two.
const ENDED_MAX: usize = 32;

/// Clients that are told of a broadcast in one turn.
const WALK_MAX: usize = 256;

/// After so many ms a listener that met a limit is tried again.
const LISTENER_PAUSE: u32 = 100;

#[cfg(all(not(debug_assertions), target_pointer_width = "64"))]
const _: () = {
    use crate::session::dialect::ws::Ws;
    // A client and its upstream, over sockets that are a descriptor each (STYLE 4).
    assert!(size_of::<Client<i32>>() + size_of::<Upstream<i32, Ws>>() <= SLOTS_MAX);
};

/// Bytes of both slots of a session.
#[cfg(all(not(debug_assertions), target_pointer_width = "64"))]
const SLOTS_MAX: usize = 384;
