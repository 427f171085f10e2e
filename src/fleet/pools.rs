//! Pools, their servers, and which requests go to which pool.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::balance::{self, Balance, NoChoice, Spread, Wish};
use super::breaker::Breaker;
use super::health::Health;
use crate::kit::{Prng, Rate, Tick};

/// All pools, as one loop sees them.
#[derive(Clone, Default)]
pub struct Fleet {
    /// In the order of the configuration; a session keeps the number.
    pub pools: Vec<Pool>,
    /// All servers of all pools; a number is never used again.
    pub servers: Vec<Server>,
    /// First match wins; none at all: everything goes to the first pool.
    pub routes: Vec<Route>,
}

/// Servers that can stand in for each other.
#[derive(Clone)]
pub struct Pool {
    /// Its name in the configuration.
    pub name: String,
    /// Numbers of its servers.
    pub members: Vec<u16>,
    /// How one is chosen.
    pub balance: Balance,
    /// Reconnects a second, for all loops together.
    pub connect_rate: Arc<Rate>,
    /// Local addresses to dial from, taken in turn.
    pub sources: Vec<IpAddr>,
    /// Connections to its servers begin with a PROXY header of this version.
    pub announce: Option<ProxyProtocol>,
    /// The server URL is used as it is.
    pub fixed: bool,
    /// What its servers are.
    pub kind: Kind,
    /// Connections to each of its servers, where they are shared by turns.
    pub connections: Connections,
    /// How its servers are probed, if they are.
    pub health: Option<Health>,
    /// What `hash` balances by.
    pub spread: Spread,
    /// It has left the configuration: no request goes there any more. Its number stays taken, and
    /// is its again when it comes back.
    pub retired: bool,
}

impl Pool {
    /// A pool without servers and without choices of its own.
    pub fn new(name: &str, kind: Kind) -> Pool {
        Pool {
            name: name.to_string(),
            members: Vec::new(),
            balance: Balance::RoundRobin,
            connect_rate: Arc::new(Rate::new(0)),
            sources: Vec::new(),
            announce: None,
            fixed: false,
            kind,
            connections: Connections::default(),
            health: None,
            spread: Spread::default(),
            retired: false,
        }
    }
}

/// What the servers of a pool are; decides which requests it serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Upgrades are tunnelled.
    #[default]
    WebSocket,
    /// Upgrades become calls; plain requests are pushes.
    Bridge,
    /// Plain requests are proxied.
    Http,
}

/// How a PROXY header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// How many connections to one server are kept, for the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// So many stay, however idle.
    pub min: u32,
    /// Never more.
    pub max: u32,
    /// The others are closed after so many ms of rest.
    pub idle: u32,
    /// Requests that may wait for one.
    pub queue: u32,
}

impl Default for Connections {
    /// What a bridge has.
    fn default() -> Connections {
        Connections {
            min: 1,
            max: 1_000,
            idle: 30_000,
            queue: u32::MAX,
        }
    }
}

/// One upstream address.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its id in metrics and admin API.
    pub id: String,
    /// Its id in the configuration: the same, but for one of several addresses of a name.
    pub entry: String,
    /// Its URL as given.
    pub url: String,
    /// Where to dial.
    pub address: SocketAddr,
    /// What stands before the client's target.
    pub prefix: String,
    /// Host and port, as `Host` has them.
    pub authority: String,
    /// Number of its pool.
    pub pool: u16,
    /// Its share; 0 takes no new sessions.
    pub weight: u32,
    /// What holds for it.
    pub state: ServerState,
    /// What the operator wants of it, if it is nobody else who has it drained. Control's alone.
    pub wish: ServerState,
    /// What its probes say.
    pub healthy: bool,
    /// The part of its weight that counts under `adaptive`, in percent.
    pub share: u32,
    /// Open since then, as its home loop has told.
    pub tripped: Option<Tick>,
    /// How long it stays open, in ms.
    pub cooldown: u32,
    /// The breaker itself; only the home loop's copy counts.
    pub breaker: Breaker,
    /// What all loops count together.
    pub shared: Arc<Shared>,
    /// Round-robin credit.
    pub credit: i64,
}

/// What is wanted of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerState {
    /// Takes sessions.
    #[default]
    Enabled,
    /// No new ones; the old ones stay.
    Disabled,
    /// No new ones; the old ones move.
    Draining,
    /// Deleted, for ever: its number stays taken.
    Gone,
}

impl ServerState {
    /// As the admin API says it.
    pub fn name(self) -> &'static str {
        match self {
            ServerState::Enabled => "enabled",
            ServerState::Disabled => "disabled",
            ServerState::Draining => "draining",
            ServerState::Gone => "gone",
        }
    }

    /// Whether it is to have no connections any more: its sessions move, and none rests there.
    pub fn is_left(self) -> bool {
        matches!(self, ServerState::Draining | ServerState::Gone)
    }
}

/// Numbers of one server that all loops share; touched per connection, never per message.
#[derive(Debug, Default)]
pub struct Shared {
    connections: AtomicU32,
    waiting: AtomicU32,
    resting: AtomicU32,
    /// When the one trial of an open breaker was taken, in ms plus one; 0: it is free.
    trial: AtomicU32,
}

impl Shared {
    /// A connection was begun.
    pub fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// A connection may be begun, and was counted: fewer than `max` stand.
    pub fn try_connect(&self, max: u32) -> bool {
        let more = |now: u32| (now < max).then_some(now + 1);
        self.connections
            .fetch_update(Relaxed, Relaxed, more)
            .is_ok()
    }

    /// A connection rests: whoever waits for it, on whatever loop, takes nobody's place.
    pub fn rests(&self) {
        self.resting.fetch_add(1, Relaxed);
    }

    /// It rests no more.
    pub fn awakes(&self) {
        self.resting.fetch_sub(1, Relaxed);
    }

    /// Whether a connection rests, on whatever loop.
    pub fn has_resting(&self) -> bool {
        self.resting.load(Relaxed) > 0
    }

    /// Somebody may wait for a connection, and was counted: fewer than `max` do, not counting those
    /// for whom one rests.
    pub fn try_wait(&self, max: u32) -> bool {
        let max = max.saturating_add(self.resting.load(Relaxed));
        let more = |now: u32| (now < max).then_some(now + 1);
        self.waiting.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// Somebody does not wait any more.
    pub fn waited(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// How many wait for a connection, over all loops.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// A connection is over.
    pub fn disconnected(&self) {
        let before = self.connections.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "more disconnects than connects");
    }

    /// Connections now, over all loops.
    pub fn connections(&self) -> u32 {
        self.connections.load(Relaxed)
    }
}

/// Which requests a pool serves.
#[derive(Clone, Debug)]
pub struct Route {
    /// A prefix of the path, by whole segments.
    pub path: String,
    /// The host, in lower case, if it matters.
    pub host: Option<String>,
    /// Upgrades alone, or plain requests alone.
    pub upgrade: Option<bool>,
    /// The pool's number.
    pub pool: u16,
}

impl Fleet {
    /// Takes a server into its pool, under the next number.
    pub fn join(&mut self, server: Server) -> u16 {
        debug_assert!(self.servers.len() < usize::from(u16::MAX), "no number left");
        debug_assert!(usize::from(server.pool) < self.pools.len());
        let number = self.servers.len() as u16;
        self.pools[usize::from(server.pool)].members.push(number);
        self.servers.push(server);
        number
    }

    /// Notes what is wanted of a server. False: it is gone, or nobody has that number.
    pub fn set_state(&mut self, server: u16, state: ServerState) -> bool {
        let Some(place) = self.servers.get_mut(usize::from(server)) else {
            return false;
        };
        if place.state == ServerState::Gone {
            return false;
        }
        place.state = state;
        if state == ServerState::Gone {
            // Servers may come and go for years: choosing looks at those alone that are there.
            let pool = &mut self.pools[usize::from(place.pool)];
            pool.members.retain(|member| *member != server);
        }
        true
    }

    /// The addresses of the APIs behind bridges, which may push.
    pub fn pushers(&self) -> Vec<IpAddr> {
        let bridges = self.pools.iter().filter(|pool| pool.kind == Kind::Bridge);
        let servers = bridges.flat_map(|pool| &pool.members);
        let address = |server: &u16| self.servers[usize::from(*server)].address.ip();
        let mut pushers: Vec<IpAddr> = servers.map(|one| address(one).to_canonical()).collect();
        pushers.sort_unstable();
        pushers.dedup();
        pushers
    }

    /// The pool for a request.
    pub fn route(&self, path: &str, host: &str, upgrade: bool) -> Option<u16> {
        if self.routes.is_empty() {
            return self.by_kind(upgrade);
        }
        self.routes
            .iter()
            .find(|route| route.matches(path, host, upgrade))
            .map(|route| route.pool)
    }

    /// Without routes: upgrades to the pool that takes them, the rest to the one that serves it.
    fn by_kind(&self, upgrade: bool) -> Option<u16> {
        let wanted = |pool: &Pool| (pool.kind == Kind::Http) != upgrade;
        let place = |wanted: &dyn Fn(&Pool) -> bool| {
            let here = |pool: &Pool| !pool.retired && wanted(pool);
            self.pools.iter().position(here)
        };
        let found = place(&wanted).or_else(|| place(&|_| true));
        found.map(|place| place as u16)
    }

    /// The pool whose clients can be pushed to.
    pub fn bridge(&self) -> Option<u16> {
        let bridge = |pool: &Pool| pool.kind == Kind::Bridge && !pool.retired;
        let found = self.pools.iter().position(bridge);
        found.map(|place| place as u16)
    }

    /// Chooses a server of a pool.
    pub fn choose(
        &mut self,
        pool: u16,
        wish: Wish<'_>,
        now: Tick,
        rng: &mut Prng,
    ) -> Result<u16, NoChoice> {
        let Fleet { pools, servers, .. } = self;
        let pool = pools.get(pool as usize).ok_or(NoChoice::Empty)?;
        balance::choose(pool.balance, &pool.members, servers, wish, now, rng)
    }

    /// Whether a session of this server would find another one.
    pub fn has_other(&self, server: u16, now: Tick) -> bool {
        let Some(of) = self.servers.get(server as usize) else {
            return false;
        };
        self.pools[of.pool as usize].members.iter().any(|id| {
            let other = &self.servers[*id as usize];
            *id != server && other.is_usable(now)
        })
    }

    /// Whether each pool has a server that may be used.
    pub fn is_ready(&self, now: Tick) -> bool {
        let mut here = self.pools.iter().filter(|pool| !pool.retired);
        here.all(|pool| {
            pool.members
                .iter()
                .any(|id| self.servers[*id as usize].is_usable(now))
        })
    }

    /// The server of that name.
    pub fn find(&self, id: &str) -> Option<u16> {
        let live = |server: &&Server| server.state != ServerState::Gone;
        self.servers
            .iter()
            .position(|server| server.id == id && live(&server))
            .map(|place| place as u16)
    }
}

impl Server {
    /// A server as the configuration gives it.
    pub fn new(id: String, url: String, address: SocketAddr, pool: u16, weight: u32) -> Server {
        Server {
            entry: id.clone(),
            id,
            url,
            address,
            prefix: String::new(),
            authority: address.to_string(),
            pool,
            weight,
            state: ServerState::Enabled,
            wish: ServerState::Enabled,
            healthy: true,
            share: 100,
            tripped: None,
            cooldown: 10_000,
            breaker: Breaker::new(10),
            shared: Arc::default(),
            credit: 0,
        }
    }

    /// The same at another address: as the configuration gives it, with counts of its own.
    pub fn another(&self, id: String, address: SocketAddr) -> Server {
        Server {
            entry: self.id.clone(),
            id,
            address,
            state: ServerState::Enabled,
            wish: ServerState::Enabled,
            healthy: true,
            share: 100,
            tripped: None,
            breaker: self.breaker.renewed(),
            shared: Arc::default(),
            credit: 0,
            ..self.clone()
        }
    }

    /// Whether new sessions may go there without being desperate.
    pub fn is_usable(&self, now: Tick) -> bool {
        self.state == ServerState::Enabled && self.weight > 0 && self.is_closed(now)
    }

    /// Whether nothing but the operator speaks against it: its probes are good, and its breaker is
    /// closed, or has its one trial to give.
    pub fn is_closed(&self, now: Tick) -> bool {
        if !self.healthy {
            return false;
        }
        let Some(since) = self.tripped else {
            return true;
        };
        if planted!(LastHopeForbidden) {
            return false;
        }
        let claimed = self.shared.trial.load(Relaxed);
        // A trial that never reported is given out again after another cooldown.
        let free = claimed == 0 || now.since(Tick(claimed - 1)) >= self.cooldown;
        now.since(since) >= self.cooldown && free
    }

    /// A tripped server is dialled: nobody else may, until that has shown something.
    pub fn take_trial(&self, now: Tick) {
        if self.tripped.is_some() {
            self.shared
                .trial
                .store(now.0.wrapping_add(1).max(1), Relaxed);
        }
    }

    /// The home loop has told: open since then, or closed.
    pub fn set_tripped(&mut self, since: Option<Tick>) {
        self.tripped = since;
        self.shared.trial.store(0, Relaxed);
    }
}

impl Route {
    fn matches(&self, path: &str, host: &str, upgrade: bool) -> bool {
        let prefix = self.path.trim_end_matches('/');
        let under = path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        under
            && self.host.as_ref().is_none_or(|wanted| wanted == host)
            && self.upgrade.is_none_or(|wanted| wanted == upgrade)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::fleet) fn server(weight: u32) -> Server {
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        Server::new("s".into(), "ws://127.0.0.1:9".into(), address, 0, weight)
    }

    pub(in crate::fleet) fn pool(name: &str) -> Pool {
        Pool::new(name, Kind::WebSocket)
    }

    #[test]
    fn routes_match_whole_segments_and_the_first_wins() {
        let route = |path: &str, host: Option<&str>, pool| Route {
            path: path.to_string(),
            host: host.map(str::to_string),
            upgrade: None,
            pool,
        };
        let fleet = Fleet {
            pools: vec![pool("a"), pool("b"), pool("c")],
            servers: Vec::new(),
            routes: vec![
                route("/chat", Some("chat.example.com"), 0),
                route("/chat/", None, 1),
                route("/", None, 2),
            ],
        };
        let rows = [
            ("/chat", "chat.example.com", 0),
            ("/chat/7", "chat.example.com", 0),
            ("/chat/7", "other", 1),
            ("/chatter", "chat.example.com", 2),
            ("/", "other", 2),
        ];
        for (path, host, pool) in rows {
            assert_eq!(fleet.route(path, host, true), Some(pool), "{path} {host}");
        }
        assert_eq!(Fleet::default().route("/", "h", true), None);
    }
}
