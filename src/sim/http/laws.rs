//! The laws of choice, of bounds and of health, looked at after every turn. A broken law is a panic
//! that begins with `law`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::world::{HttpSim, World};
use crate::fleet::ServerState;
use crate::kit::Tick;
use crate::session::Phase;
use crate::session::dialect::Tongue;
use crate::shard::Shard;
use crate::sim::pipe::Far;
use crate::sim::press::Press;

/// What is known of all that happened.
#[derive(Default)]
pub struct Ledger {
    /// The last moment at which somebody had a reason to fail.
    pub trouble_at: u64,
    /// Others have the memory.
    pub press: Press,
    /// The shards were told to stop.
    pub draining: bool,
    /// When a drain's time is over: what is unread then is lost.
    pub stops_at: Option<u64>,
    /// Answers to requests that the proxy has read whole, and those below 500.
    pub whole_answers: u64,
    pub well_answered: u64,
    /// Requests that were sent away in this turn because too many waited.
    pub busy: Vec<usize>,
    /// Lines that were chosen in this turn.
    chosen: usize,
    /// Requests that waited after the last turns, by pool: places are given back with the next look.
    waited: VecDeque<(u64, Vec<BTreeSet<u128>>)>,
    /// Clients for whom something was queued after the last turn: nobody knows since when.
    pub owed: BTreeSet<usize>,
    /// Visitors whose connection is known to be broken, and since when.
    broken: BTreeMap<usize, u64>,
    /// Servers that were chosen in this turn, by which shard, and the line.
    choices: Vec<(usize, usize, usize)>,
    /// What each shard knew of each server after its last turn.
    views: Vec<Vec<View>>,
    /// Attempts that failed at each server, and when the last one did.
    failed: Vec<(u64, u64)>,
}

/// A server, as a shard sees it.
#[derive(Clone, Copy, Debug)]
struct View {
    allowed: bool,
    healthy: bool,
    usable: bool,
    tripped: Option<Tick>,
}

type Shards = [Shard<HttpSim, Tongue>];

impl Ledger {
    pub fn new(shards: usize, servers: usize) -> Ledger {
        let view = View {
            allowed: true,
            healthy: true,
            usable: true,
            tripped: None,
        };
        Ledger {
            views: vec![vec![view; servers]; shards],
            failed: vec![(0, 0); servers],
            ..Ledger::default()
        }
    }
}

impl World {
    /// A shard has dialled this server.
    pub fn on_choice(&mut self, shard: usize, server: usize, line: usize) {
        self.laws.choices.push((shard, server, line));
    }

    /// A request goes out on a line that rested.
    pub fn on_reuse(&mut self, line: usize) {
        let place = &self.lines[line];
        let (shard, server) = (self.conns[place.conn].shard, place.server);
        self.on_choice(shard, server, line);
    }

    /// Before a turn of the shard at `at`: time has gone on.
    pub fn look(&mut self, at: usize, shards: &Shards) {
        self.laws.views[at] = self.view(&shards[at]);
    }

    fn view(&self, shard: &Shard<HttpSim, Tongue>) -> Vec<View> {
        let tick = Tick(self.tick());
        let servers = shard.fleet().servers.iter();
        let views = servers.map(|place| View {
            allowed: place.state == ServerState::Enabled,
            healthy: place.healthy,
            usable: place.is_usable(tick),
            tripped: place.tripped,
        });
        views.collect()
    }

    /// After each turn of the shard at `at`.
    pub fn check_turn(&mut self, at: usize, shards: &Shards) {
        shards[at].check_invariants();
        self.count_failures(shards);
        self.check_choices(at, &shards[at]);
        self.check_connections();
        self.check_queues(shards);
        self.check_sessions(&shards[at]);
        self.check_probes();
    }

    fn count_failures(&mut self, shards: &Shards) {
        let now = self.now;
        for (server, failed) in self.laws.failed.iter_mut().enumerate() {
            let counts = shards.iter().map(|shard| &shard.stats().servers[server]);
            let count = counts.map(|counts| counts.failures).sum();
            if count != failed.0 {
                *failed = (count, now);
            }
        }
    }

    /// Whether a breaker may have opened and closed in one turn: where servers are sealed, a dial fails
    /// and another succeeds in the same.
    fn may_have_tripped(&self, server: usize) -> bool {
        let sealed = self.guise.fashion.seals(server as u16);
        sealed && self.now <= self.laws.failed[server].1 + MAIL_MAX
    }

    /// Nobody is asked whom the operator, the probes or the breaker speak against, while there is
    /// somebody else.
    fn check_choices(&mut self, at: usize, shard: &Shard<HttpSim, Tongue>) {
        let views = self.view(shard);
        let before = std::mem::replace(&mut self.laws.views[at], views);
        self.laws.chosen = self.laws.choices.len();
        for (_, server, line) in std::mem::take(&mut self.laws.choices) {
            let views = &self.laws.views[at];
            let members = &shard.fleet().pools[self.origins[server].pool].members;
            let both =
                |server: usize, is: fn(&View) -> bool| is(&before[server]) && is(&views[server]);
            let other = members.iter().map(|id| usize::from(*id));
            let mut other = other.filter(|other| *other != server);
            let other = other
                .find(|other| both(*other, |view| view.usable) && !self.may_have_tripped(*other));
            // Good news in the turn itself may have let it be chosen.
            let same = before[server].tripped == views[server].tripped;
            let against = both(server, |view| !view.healthy)
                || (same && both(server, |view| view.allowed && view.healthy && !view.usable));
            let why = if both(server, |view| !view.allowed) {
                "the operator forbids it".to_string()
            } else if against && let Some(other) = other {
                format!("server {other} is usable, {server} is {:?}", views[server])
            } else {
                continue;
            };
            let called = self.lines[line].call.as_ref();
            assert!(
                called.is_none_or(|call| call.request.is_none()),
                "law: {called:?} is not for server {server}: {why}"
            );
            self.lines[line].wrong = Some(why);
        }
    }

    /// The fleet's counts are the connections that there are, and never more than allowed.
    fn check_connections(&mut self) {
        let mut counts = vec![0; self.origins.len()];
        for conn in self.open_ends() {
            if let Far::Server(line) = conn.far {
                counts[self.lines[line].server] += 1;
            }
        }
        for (server, count) in counts.into_iter().enumerate() {
            let counted = self.fleet.servers[server].shared.connections();
            let granted = self.granted(server as u16);
            if granted > 0 {
                self.hit("shelf: a permit on its way");
            }
            let pool = &self.fleet.pools[self.origins[server].pool];
            let told = counted - granted;
            // One more may carry a probe, and never two.
            let probes = u32::from(pool.health.is_some());
            assert!(
                (told..=told + probes).contains(&count),
                "law: {count} connections to server {server}, {told} counted, {probes} probe"
            );
            let max = pool.connections.max;
            assert!(counted <= max, "law: at most {max} connections to {server}");
            if told == max {
                self.hit("shelf: all connections taken");
            }
        }
    }

    /// Only so many wait, and nobody is sent away while fewer do.
    fn check_queues(&mut self, shards: &Shards) {
        let mut waiting = vec![BTreeSet::new(); self.fleet.pools.len()];
        for session in shards.iter().flat_map(|shard| shard.sessions()) {
            if let Some(pool) = session.pool()
                && session.phase() == Phase::Serving
                && session.wants_call()
            {
                waiting[usize::from(pool)].insert(session.id());
            }
        }
        let now = self.now;
        let waited = &mut self.laws.waited;
        waited.push_back((now, waiting));
        while waited.len() > LOOKS && waited[0].0 + QUEUE_SLACK < now {
            waited.pop_front();
        }
        let begun = std::mem::take(&mut self.laws.chosen);
        for request in std::mem::take(&mut self.laws.busy) {
            let pool = self.requests[request].pool;
            let queue = self.fleet.pools[pool].connections.queue as usize;
            let looks = self.laws.waited.iter().map(|(_, waited)| &waited[pool]);
            let most = looks.flatten().collect::<BTreeSet<_>>().len() + begun;
            self.hit("request: sent away from a full queue");
            assert!(
                most + SAME_TURN >= queue,
                "law: {request} was sent away, but {most} of {queue} wait"
            );
        }
        for server in 0..self.origins.len() {
            let queue = self.fleet.pools[self.origins[server].pool]
                .connections
                .queue;
            let told = self.fleet.servers[server].shared.waiting();
            // And as many for whom one rests, on another shard perhaps.
            let max = self.fleet.pools[self.origins[server].pool].connections.max;
            assert!(told <= queue + max, "law: {told} wait for server {server}");
            if told > 0 {
                self.hit("request: waits for a connection");
            }
        }
    }

    /// Memory per exchange is bounded, whatever the sizes of bodies.
    fn check_sessions(&mut self, shard: &Shard<HttpSim, Tongue>) {
        let mut full = false;
        let first = shard.sessions().map(|one| usize::from(one.peer().port()));
        let here: BTreeSet<usize> = first.collect();
        self.laws.owed.retain(|me| !here.contains(me));
        for session in shard.sessions() {
            let held = session.held_bytes();
            if session.has_output() {
                self.laws.owed.insert(usize::from(session.peer().port()));
            }
            assert!(
                held <= HELD_MAX,
                "law: {held} bytes held for {}",
                session.peer()
            );
            full |= session.held_output() > HELD_MAX / 6;
        }
        if full {
            self.hit("client: holds up its server");
        }
        self.check_broken(shard);
        for tally in &shard.stats().pools {
            let ended = tally.requests_failed + tally.requests_succeeded;
            let started = tally.requests_started;
            assert!(ended <= started, "law: {ended} of {started} requests ended");
            let under_way = (started - ended) as usize;
            assert!(
                under_way <= shard.clients(),
                "law: {under_way} requests are under way"
            );
        }
    }

    /// Nothing is done for a visitor who is known to be gone.
    fn check_broken(&mut self, shard: &Shard<HttpSim, Tongue>) {
        for session in shard.sessions() {
            let me = usize::from(session.peer().port());
            let conn = &self.conns[self.visitors[me].conn];
            if !conn.inward.reset || conn.edge || !conn.proxy_open {
                continue;
            }
            let now = self.now;
            let since = *self.laws.broken.entry(me).or_insert(now);
            assert!(
                now <= since + BROKEN_SLACK,
                "law: visitor {me} is gone since {since}, and still served: {:?}",
                session.phase()
            );
        }
    }

    /// Whether all shards take a server for healthy.
    pub fn is_held_well(&self, server: usize) -> bool {
        self.laws.views.iter().all(|views| views[server].healthy)
    }

    /// What probes find is known everywhere, in time; and none of them hangs.
    fn check_probes(&mut self) {
        let now = self.now;
        for (server, origin) in self.origins.iter().enumerate() {
            let Some(health) = &self.fleet.pools[origin.pool].health else {
                continue;
            };
            let probe = u64::from(health.interval + health.timeout);
            let fallen = u64::from(health.fall + 1) * probe + PROBE_SLACK;
            let fallen = origin.sick_since.max(origin.unseen_at) + fallen;
            let risen = u64::from(health.rise + 1) * probe + PROBE_SLACK;
            let risen = origin.sick_until.max(origin.harmed_until) + risen;
            for (shard, views) in self.laws.views.iter().enumerate() {
                let healthy = views[server].healthy;
                let sick = origin.is_sick(now) && now > fallen;
                assert!(
                    !(sick && healthy),
                    "law: server {server} is sick, says shard {shard}"
                );
                let well = now > risen && !self.laws.draining;
                assert!(
                    !well || healthy,
                    "law: server {server} is well, says shard {shard}, {risen}: {origin:?}"
                );
            }
        }
        for conn in self.open_ends() {
            let Far::Server(line) = conn.far else {
                continue;
            };
            let place = &self.lines[line];
            let Some(health) = &self.fleet.pools[self.origins[place.server].pool].health else {
                continue;
            };
            let late = place.probe && now > place.since + u64::from(health.timeout) + STEP_MAX;
            assert!(!late, "law: the probe on line {line} ends in time");
        }
        let unhealthy = self
            .laws
            .views
            .iter()
            .flatten()
            .filter(|view| !view.healthy);
        if unhealthy.count() > 0 {
            self.hit("probe: a server is unhealthy");
        }
    }

    /// Whether nothing is under way any more.
    pub fn is_settled(&self, shards: &Shards) -> Result<(), String> {
        for session in shards.iter().flat_map(|shard| shard.sessions()) {
            let (me, phase) = (session.peer().port(), session.phase());
            if !matches!(phase, Phase::Greeting) || session.held_bytes() > 0 {
                let attempt = session.attempt();
                let bytes = session.held_bytes();
                return Err(format!(
                    "visitor {me} is {phase:?}, {bytes} bytes, {attempt:?}"
                ));
            }
        }
        for (me, visitor) in self.visitors.iter().enumerate() {
            let conn = &self.conns[visitor.conn];
            let busy = conn.inward.flying() + conn.on_way_down();
            if conn.peer_open && (busy > 0 || !visitor.is_idle(self)) {
                return Err(format!("visitor {me} has {busy} bytes under way: {conn:?}"));
            }
        }
        Ok(())
    }
}

/// Bytes that a session may hold: the mark above which its server is not read, one read on top of it,
/// and as much of requests that came behind the one under way.
const HELD_MAX: usize = 300 << 10;

/// So many turns of shards, and so many ms, may pass until somebody who has left has left the queue.
const LOOKS: usize = 12;

/// So many may have left the queue in the turn in which as many came: no look has seen them together.
const SAME_TURN: usize = 2;
const QUEUE_SLACK: u64 = 210;

/// Turns in which what a visitor said before it went is read.
const BROKEN_SLACK: u64 = 1_000;

/// Time for a probe's connect, a few turns, and the mail.
const PROBE_SLACK: u64 = 1_500;

/// For what one shard tells another, in ms.
const MAIL_MAX: u64 = 400;

/// One step of time, and the turn behind it.
const STEP_MAX: u64 = 450;
