//! A configuration read again while sessions go on: what differs from the one before is applied,
//! and what the operator has changed since by the admin API stays.

mod differ;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use log::{error, info, warn};

use self::differ::Difference;
use super::admin::{Desk, SERVERS_MAX};
use super::assemble;
use super::config::{Config, Loaded, PoolConfig, ServerConfig, Sources};
#[cfg(feature = "tls")]
use super::locksmith::{Cut, Locksmith};
use super::log as own_log;
use super::resolver::{Lookup, Name, Names};
use crate::fleet::{Charter, Fleet, Pool, Server, ServerState, Terms};
use crate::kit::Budget;
use crate::kit::chain::CHUNK;
use crate::session::{Hop, Settings};
use crate::shard::{Mail, Rules};

/// Applies configurations to what runs. `apply` must come in the order in which they were read.
pub struct Reloader {
    desk: Arc<Desk>,
    lookup: Lookup,
    names: Names,
    memory: Arc<Budget>,
    connections: Arc<Budget>,
    drain_ms: AtomicU64,
    #[cfg(feature = "tls")]
    locksmith: Option<Arc<Locksmith>>,
    state: Mutex<State>,
}

/// What was applied last.
struct State {
    config: Config,
    /// By the fleet's numbers of pools, those that are retired included.
    settings: Vec<Settings>,
    hop: Option<Hop>,
}

/// What has become of a new configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// What is different now, in words.
    pub changed: Vec<String>,
    /// Keys whose new values wait for a restart.
    pub waiting: Vec<&'static str>,
}

/// A server that is to come, with its addresses.
struct Newcomer<'a> {
    pool: &'a PoolConfig,
    server: &'a ServerConfig,
    addresses: Vec<SocketAddr>,
}

impl Newcomer<'_> {
    /// What becomes of it in the pool of this number.
    fn name(&self, pool: u16) -> Name {
        let mould = assemble::mould(self.pool, self.server, pool);
        let mut name = Name::new(mould, &self.server.url, self.pool.dns);
        if let [only] = self.addresses[..] {
            name.plain = Some(only.ip());
        }
        name
    }

    /// The ids that it takes: those of its addresses, and its own.
    fn ids(&self, name: &Name) -> Vec<String> {
        let all = self.addresses.iter();
        let ids = all.map(|address| name.server_at(*address).id);
        ids.chain([self.server.id.clone()]).collect()
    }
}

impl Reloader {
    /// For loops that run under this configuration, with these settings of its pools.
    pub fn new(
        desk: Arc<Desk>,
        (lookup, names): (Lookup, Names),
        (memory, connections): (Arc<Budget>, Arc<Budget>),
        config: Config,
        (settings, hop): (Vec<Settings>, Option<Hop>),
    ) -> Reloader {
        Reloader {
            desk,
            lookup,
            names,
            memory,
            connections,
            drain_ms: AtomicU64::new(config.drain.as_millis() as u64),
            #[cfg(feature = "tls")]
            locksmith: None,
            state: Mutex::new(State {
                config,
                settings,
                hop,
            }),
        }
    }

    /// Who makes new keys of each configuration.
    #[cfg(feature = "tls")]
    pub fn with_locksmith(mut self, locksmith: Arc<Locksmith>) -> Reloader {
        self.locksmith = Some(locksmith);
        self
    }

    /// How long a drain takes now. Never waits for a reload.
    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms.load(Relaxed))
    }

    /// Reads the configuration again and applies it. What has become of it is in the log.
    pub fn read_again(&self, sources: &Sources) {
        let loaded = match sources.load() {
            Ok(loaded) => loaded,
            Err(problems) => {
                problems.iter().for_each(|problem| error!("{problem}"));
                return error!("the configuration is wrong: nothing has changed");
            }
        };
        let Loaded {
            config,
            warnings,
            older,
        } = loaded;
        let notes = older.into_iter().flat_map(|older| older.notes);
        for warning in warnings.into_iter().chain(notes) {
            warn!("{warning}");
        }
        match self.apply(config) {
            Ok(reloaded) => reloaded.tell(),
            Err(why) => error!("{why}: nothing has changed"),
        }
    }

    /// Applies the difference between the configuration of before and this one. Blocks while new
    /// server names are resolved.
    ///
    /// # Errors
    /// Why not; then nothing has changed.
    pub fn apply(&self, config: Config) -> Result<Reloaded, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State {
            config: before,
            settings,
            hop,
        } = &mut *state;
        let (config, waiting) = differ::keep_fixed(before, config);
        #[cfg(feature = "nats")]
        super::nats::check_reload(before, &config)?;
        let difference = Difference::between(before, &config);
        #[cfg(feature = "tls")]
        let cut = self.locksmith.as_ref().map(|one| one.cut(&config));
        #[cfg(feature = "tls")]
        let cut = cut.transpose()?;
        let newcomers = self.resolved(&difference)?;
        let mut fleet = self.desk.fleet();
        // Under the lock: a drain that begins now finds all told, or nothing.
        if self.desk.draining.load(Relaxed) {
            return Err("wsteady is being stopped".into());
        }
        let numbers = Numbers::find(&fleet, &config)?;
        let leaving = leaving(&fleet, &difference);
        let newcomers = without_adopted(&fleet, newcomers, &numbers, &leaving)?;
        let changed = words(&fleet, &difference, &newcomers, &leaving);
        // Before loops hear of servers that need them.
        #[cfg(feature = "tls")]
        let changed = self.with_keys(changed, &config, cut);

        if changed.is_empty() {
            return Ok(Reloaded { changed, waiting });
        }
        let mut rules = rules_of(&fleet, &config, &numbers, settings);
        rules.house.hop.clone_from(hop);
        let rules = Arc::new(rules);
        settings.clone_from(&rules.settings);
        fleet.adopt(&rules.charter);
        self.desk.board.tell_all(|| Mail::Rules(rules.clone()));
        self.exchange(&mut fleet, &newcomers, &leaving, &numbers)?;
        self.reweigh(&mut fleet, &difference, &numbers);
        self.keep_pace(&fleet, &difference, &numbers);
        drop(fleet);
        self.set_limits(&config);
        self.desk.recruiter.set_pools(config.pools.clone());
        own_log::set_level(config.log.level);
        own_log::set_format(config.log.format);
        *before = config;
        Ok(Reloaded { changed, waiting })
    }

    /// Hands new keys out, and adds that to what has changed if their files have.
    #[cfg(feature = "tls")]
    fn with_keys(&self, changed: Vec<String>, config: &Config, cut: Option<Cut>) -> Vec<String> {
        let cut = self.locksmith.as_ref().zip(cut);
        let other = cut.is_some_and(|(locksmith, cut)| locksmith.hand_out(config, cut));
        let word = other.then(|| "certificates and keys".to_owned());
        changed.into_iter().chain(word).collect()
    }

    /// The addresses of all that are to come, before anything is changed or locked.
    fn resolved<'a>(&self, difference: &Difference<'a>) -> Result<Vec<Newcomer<'a>>, String> {
        let newcomer = |(pool, server): &(&'a PoolConfig, &'a ServerConfig)| {
            let addresses = assemble::resolve(server, &self.lookup)?;
            Ok(Newcomer {
                pool,
                server,
                addresses,
            })
        };
        difference.coming.iter().map(newcomer).collect()
    }

    /// Who comes again under the same id makes place first; the others leave once there is somewhere
    /// to go.
    fn exchange(
        &self,
        fleet: &mut Fleet,
        newcomers: &[Newcomer<'_>],
        leaving: &[u16],
        numbers: &Numbers,
    ) -> Result<(), String> {
        let comes_again = |server: &u16| {
            let entry = &fleet.servers[usize::from(*server)].entry;
            newcomers.iter().any(|new| new.server.id == *entry)
        };
        let (again, away): (Vec<u16>, Vec<u16>) = leaving.iter().partition(|one| comes_again(one));
        self.let_go(fleet, &again);
        for newcomer in newcomers {
            self.take_in(fleet, newcomer, numbers.of(newcomer.pool))?;
        }
        self.let_go(fleet, &away);
        Ok(())
    }

    fn let_go(&self, fleet: &mut Fleet, servers: &[u16]) {
        for server in servers {
            let place = &fleet.servers[usize::from(*server)];
            self.names.dismiss(place.pool, &place.entry);
            self.desk.set_state(fleet, *server, ServerState::Gone);
        }
    }

    fn take_in(&self, fleet: &mut Fleet, new: &Newcomer<'_>, pool: u16) -> Result<(), String> {
        let mut name = new.name(pool);
        for address in &new.addresses {
            let place = name.server_at(*address);
            let server = self
                .desk
                .join(fleet, place)
                .map_err(|why| format!("server {}: {why}", new.server.id))?;
            name.enter(*address, server);
        }
        if new.server.url.is_named() && !new.pool.dns.is_zero() {
            self.names.follow(name);
        }
        Ok(())
    }

    /// Weights that the file has changed; one that it has not may be the operator's by now.
    fn reweigh(&self, fleet: &mut Fleet, difference: &Difference<'_>, numbers: &Numbers) {
        for (pool, server) in &difference.reweighed {
            let pool = numbers.of(pool);
            let all = fleet.servers.iter_mut().enumerate();
            let named = all.filter(|(_, place)| {
                let live = place.state != ServerState::Gone;
                live && place.pool == pool && place.entry == server.id
            });
            for (number, place) in named {
                place.weight = server.weight;
                let (server, weight) = (number as u16, server.weight);
                self.desk.board.tell_all(|| Mail::Weight { server, weight });
            }
        }
    }

    /// Names of pools whose `dns` has changed are followed at another pace, from now on, or no more.
    fn keep_pace(&self, fleet: &Fleet, difference: &Difference<'_>, numbers: &Numbers) {
        for (pool, was) in &difference.repaced {
            let number = numbers.of(pool);
            if !was.is_zero() && !pool.dns.is_zero() {
                self.names.set_pace(number, pool.dns);
                continue;
            }
            for server in pool.servers.iter().filter(|server| server.url.is_named()) {
                self.names.unfollow(number, &server.id);
                if !pool.dns.is_zero() {
                    let mould = assemble::mould(pool, server, number);
                    self.names
                        .follow(Name::of(mould, &server.url, pool.dns, fleet));
                }
            }
        }
    }

    fn set_limits(&self, config: &Config) {
        let limits = &config.limits;
        self.memory.resize(limits.memory / CHUNK as u64);
        self.connections.resize(u64::from(limits.connections));
        self.desk.memory_limit.store(limits.memory, Relaxed);
        self.drain_ms
            .store(config.drain.as_millis() as u64, Relaxed);
    }
}

/// The fleet's number of each pool of a configuration.
struct Numbers(BTreeMap<String, u16>);

impl Numbers {
    /// A pool's own if it was ever there, or else the next.
    ///
    /// Errors: it was there as another kind of pool.
    fn find(fleet: &Fleet, config: &Config) -> Result<Numbers, String> {
        let mut next = fleet.pools.len();
        let mut numbers = BTreeMap::new();
        for pool in &config.pools {
            let name = &pool.name;
            let known = fleet.pools.iter().position(|place| place.name == *name);
            if let Some(number) = known
                && fleet.pools[number].kind != assemble::kind_of(pool.kind)
            {
                return Err(format!(
                    "pool {name}: its kind can't change while wsteady runs; \
                     give the pool another name, or restart"
                ));
            }
            let number = known.unwrap_or(next);
            next += usize::from(known.is_none());
            let number = u16::try_from(number).map_err(|_| "too many pools".to_string())?;
            numbers.insert(name.clone(), number);
        }
        Ok(Numbers(numbers))
    }

    fn of(&self, pool: &PoolConfig) -> u16 {
        self.0[&pool.name]
    }
}

/// The numbers of those that the configuration has no more, or has with another URL. Of a pool that
/// has left these are all, whoever had brought them.
fn leaving(fleet: &Fleet, difference: &Difference<'_>) -> Vec<u16> {
    let leaves = |place: &Server| {
        let pool = fleet.pools[usize::from(place.pool)].name.as_str();
        let entry = (pool, place.entry.as_str());
        difference.leaving.contains(&entry) || difference.retired.contains(&pool)
    };
    let all = fleet.servers.iter().enumerate();
    let live = all.filter(|(_, place)| place.state != ServerState::Gone && leaves(place));
    live.map(|(number, _)| number as u16).collect()
}

fn words(
    fleet: &Fleet,
    difference: &Difference<'_>,
    newcomers: &[Newcomer<'_>],
    leaving: &[u16],
) -> Vec<String> {
    let come = newcomers.iter().map(|new| &new.server.id);
    let go = leaving
        .iter()
        .map(|one| &fleet.servers[usize::from(*one)].id);
    let come = come.map(|id| format!("server {id} joins"));
    let go = go.map(|id| format!("server {id} leaves"));
    let sections = difference.sections.iter().cloned();
    sections.chain(come).chain(go).collect()
}

/// Those that nobody else has brought already.
///
/// Errors: another server has the id, or there is no place.
fn without_adopted<'a>(
    fleet: &Fleet,
    newcomers: Vec<Newcomer<'a>>,
    numbers: &Numbers,
    leaving: &[u16],
) -> Result<Vec<Newcomer<'a>>, String> {
    let stays = |number: usize, place: &Server| {
        place.state != ServerState::Gone && !leaving.contains(&(number as u16))
    };
    let all = fleet.servers.iter().enumerate();
    let staying: Vec<&Server> = all
        .filter(|(number, place)| stays(*number, place))
        .map(|(_, place)| place)
        .collect();
    let mut new: Vec<Newcomer<'a>> = Vec::new();
    let mut taken = BTreeSet::new();
    let mut count = fleet.servers.len();
    for newcomer in newcomers {
        let (id, pool) = (&newcomer.server.id, numbers.of(newcomer.pool));
        let ids = newcomer.ids(&newcomer.name(pool));
        let there = staying
            .iter()
            .find(|place| place.entry == *id || ids.contains(&place.id));
        let Some(there) = there else {
            if let Some(twice) = ids.iter().find(|id| taken.contains(*id)) {
                return Err(format!(
                    "server {id}: two servers would have the id {twice}"
                ));
            }
            count += newcomer.addresses.len();
            taken.extend(ids);
            new.push(newcomer);
            continue;
        };
        let same = (&there.entry, there.pool) == (id, pool);
        if !same || there.url != newcomer.server.url.to_string() {
            return Err(format!(
                "server {id} of pool {}: another server, {} at {}, has this id or one of its \
                 addresses'; delete that one by the admin API, or give this one another id",
                newcomer.pool.name, there.id, there.url
            ));
        }
    }
    match count > SERVERS_MAX {
        true => Err(format!("more than {SERVERS_MAX} servers")),
        false => Ok(new),
    }
}

/// What loops are to follow from now on. Of pools that have left, all stays as it was.
fn rules_of(fleet: &Fleet, config: &Config, numbers: &Numbers, before: &[Settings]) -> Rules {
    let mut pools: Vec<Pool> = fleet.pools.clone();
    let mut settings = before.to_vec();
    pools.iter_mut().for_each(|pool| pool.retired = true);
    for pool in &config.pools {
        let number = usize::from(numbers.of(pool));
        let (place, behaviour) = (assemble::pool_of(pool), assemble::settings_of(pool));
        match pools.get_mut(number) {
            Some(known) => {
                *known = place.heir_of(known);
                settings[number] = behaviour;
            }
            None => {
                pools.push(place);
                settings.push(behaviour);
            }
        }
    }
    let terms = fleet.servers.iter().map(|place| {
        let pool = &pools[usize::from(place.pool)];
        let config = config.pool(&pool.name).filter(|_| !pool.retired);
        terms_of(place, config)
    });
    // The configuration's check has found a pool for each.
    let routes = assemble::routes_of(config, |name| numbers.0.get(name).copied());
    Rules {
        charter: Charter {
            terms: terms.collect(),
            routes: routes.unwrap_or_default(),
            pools,
        },
        house: assemble::house_of(config),
        settings,
    }
}

/// What a server's pool gives it now; what it has, if that pool has left.
fn terms_of(place: &Server, pool: Option<&PoolConfig>) -> Terms {
    let as_configured = pool.and_then(|pool| {
        let server = pool
            .server(&place.url, Some(&place.entry), place.weight)
            .ok()?;
        Some(assemble::mould(pool, &server, place.pool))
    });
    let place = as_configured.as_ref().unwrap_or(place);
    Terms {
        prefix: place.prefix.clone(),
        threshold: place.breaker.threshold(),
        cooldown: place.cooldown,
    }
}

impl Reloaded {
    fn tell(&self) {
        if !self.waiting.is_empty() {
            warn!(
                "changed, but not before a restart: {}",
                self.waiting.join(", ")
            );
        }
        match self.changed.is_empty() {
            true => info!("configuration read again: nothing has changed"),
            false => info!("configuration read again: {}", self.changed.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests;
