//! Servers that the operator adds while wsteady runs: each becomes what one of its pool's
//! configuration would be.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::admin::{Desk, NoPlace, Refusal, check_weight};
use super::assemble;
use super::config::PoolConfig;
#[cfg(feature = "tls")]
use super::locksmith::Locksmith;
use super::resolver::{Lookup, Name, Names};
use crate::fleet::{Fleet, ServerState};

/// Knows what servers of each pool have in common.
pub struct Recruiter {
    pools: Mutex<Arc<Vec<PoolConfig>>>,
    lookup: Lookup,
    names: Names,
    #[cfg(feature = "tls")]
    locksmith: Option<Arc<Locksmith>>,
}

/// What the operator wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recruit {
    /// The name of its pool.
    pub pool: String,
    /// As in the configuration: `ws://host:port/…` or `http://host:port/…`, by the pool's kind.
    pub url: String,
    /// None: made of the URL, as for a configured one.
    pub id: Option<String>,
    /// 0 to 65,535. None: 1, or what it has if it is there.
    pub weight: Option<u32>,
}

impl Recruit {
    /// The server at this URL, for the pool of this name; id and weight as for a configured one.
    pub fn new(pool: &str, url: &str) -> Recruit {
        Recruit {
            pool: pool.to_string(),
            url: url.to_string(),
            ..Recruit::default()
        }
    }
}

/// What has become of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Recruited {
    /// One for each address.
    pub servers: Vec<u16>,
    /// They have come by this.
    pub new: bool,
}

impl Recruiter {
    /// For the pools of a configuration. Names are resolved by `lookup` now, and by the
    /// resolver behind `names` from then on.
    pub fn new(pools: Vec<PoolConfig>, lookup: Lookup, names: Names) -> Recruiter {
        Recruiter {
            pools: Mutex::new(Arc::new(pools)),
            lookup,
            names,
            #[cfg(feature = "tls")]
            locksmith: None,
        }
    }

    /// Who makes keys for pools that get their first server with TLS.
    #[cfg(feature = "tls")]
    pub fn with_locksmith(mut self, locksmith: Arc<Locksmith>) -> Recruiter {
        self.locksmith = Some(locksmith);
        self
    }

    /// The configuration has these pools now.
    pub fn set_pools(&self, pools: Vec<PoolConfig>) {
        *self.lock() = Arc::new(pools);
    }

    /// The pools of the configuration.
    pub fn pools(&self) -> Arc<Vec<PoolConfig>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Vec<PoolConfig>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a server in on all loops, or finds it there. A name is resolved first, which may block
    /// for as long as the system's resolver likes.
    ///
    /// # Errors
    /// Why not; then nothing has changed.
    pub fn recruit(&self, desk: &Desk, wanted: &Recruit) -> Result<Recruited, Refusal> {
        let pools = self.pools();
        let pool = pools.iter().find(|pool| pool.name == wanted.pool);
        let pool = pool.ok_or_else(|| no_pool(&pools, &wanted.pool))?;
        let weight = wanted.weight.unwrap_or(1);
        check_weight(weight)?;
        let server = pool
            .server(&wanted.url, wanted.id.as_deref(), weight)
            .map_err(Refusal::Wrong)?;
        #[cfg(feature = "tls")]
        if let (true, Some(locksmith)) = (server.url.scheme.is_secure(), &self.locksmith) {
            locksmith.call_for(&pool.name).map_err(Refusal::Wrong)?;
        }
        // Before the fleet is locked: other changes need not wait for a name server.
        let addresses = assemble::resolve(&server, &self.lookup).map_err(Refusal::Unresolved)?;
        let mut fleet = desk.fleet();
        let number = fleet.pools.iter().position(|place| place.name == pool.name);
        // It may have left the configuration meanwhile.
        let number = number.filter(|number| !fleet.pools[*number].retired);
        let number = number.ok_or_else(|| no_pool(&pools, &wanted.pool))?;
        let mut ids = vec![server.id.clone()];
        if wanted.id.is_none() {
            ids.push(format!("{}.{}", pool.name, server.id));
        }
        let url = server.url.to_string();
        for id in &ids {
            let (same, other) = namesakes(&fleet, id, number, &url);
            if !same.is_empty() {
                return recognised(&fleet, same, wanted);
            }
            if other {
                continue;
            }
            let mut mould = assemble::mould(pool, &server, number as u16);
            mould.id.clone_from(id);
            let mut name = Name::new(mould, &server.url, pool.dns);
            let servers = enter(desk, &mut fleet, &mut name, &addresses)?;
            drop(fleet);
            if server.url.is_named() && !pool.dns.is_zero() {
                self.names.follow(name);
            }
            return Ok(Recruited { servers, new: true });
        }
        let id = ids.join(" and ");
        Err(Refusal::Conflict(format!(
            "other servers have the id {id}; give this one an \"id\" of its own"
        )))
    }
}

fn no_pool(pools: &[PoolConfig], name: &str) -> Refusal {
    let known: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
    Refusal::Wrong(format!("no pool {name:?}; there is {}", known.join(", ")))
}

/// The live servers that such a request has made, or would make; and whether others are in its way.
fn namesakes(fleet: &Fleet, id: &str, pool: usize, url: &str) -> (Vec<u16>, bool) {
    let of_this_id = |theirs: &str| match theirs.strip_prefix(id) {
        Some(rest) => rest.is_empty() || rest.starts_with('@'),
        None => false,
    };
    let live = fleet.servers.iter().enumerate();
    let mut live = live.filter(|(_, place)| place.state != ServerState::Gone);
    let (mut same, mut other) = (Vec::new(), false);
    for (number, place) in live.by_ref().filter(|(_, place)| of_this_id(&place.id)) {
        if usize::from(place.pool) == pool && place.url == url {
            same.push(number as u16);
        } else {
            other |= place.id == id;
        }
    }
    (same, other)
}

/// The same request once more is no mistake, unless it says something else of the weight.
fn recognised(fleet: &Fleet, servers: Vec<u16>, wanted: &Recruit) -> Result<Recruited, Refusal> {
    for server in &servers {
        let place = &fleet.servers[usize::from(*server)];
        if wanted.weight.is_some_and(|weight| weight != place.weight) {
            return Err(Refusal::Conflict(format!(
                "server {:?} is there with weight {}; PATCH it to change that",
                place.id, place.weight
            )));
        }
    }
    Ok(Recruited {
        servers,
        new: false,
    })
}

/// All of its addresses, or none.
fn enter(
    desk: &Desk,
    fleet: &mut Fleet,
    name: &mut Name,
    addresses: &[SocketAddr],
) -> Result<Vec<u16>, Refusal> {
    if let [only] = addresses {
        name.plain = Some(only.ip());
    }
    let places = addresses.iter().map(|address| name.server_at(*address));
    let places: Vec<_> = places.collect();
    let ids: Vec<String> = places.iter().map(|place| place.id.clone()).collect();
    let refused = |why: NoPlace| Refusal::Conflict(why.to_string());
    desk.has_place(fleet, &ids).map_err(refused)?;
    let mut servers = Vec::new();
    for place in places {
        let address = place.address;
        let server = desk.join(fleet, place).map_err(refused)?;
        name.enter(address, server);
        servers.push(server);
    }
    Ok(servers)
}
