//! A new configuration while the shard runs.

use std::fmt;

use super::queue::Queue;
use super::{Io, Shard};
use crate::fleet::Charter;
use crate::session::{Dialect, House, Settings};

/// All that loops follow, but for servers, which come and go one by one.
#[derive(Clone, Default)]
pub struct Rules {
    /// Pools, routes, and what servers are given by their pool.
    pub charter: Charter,
    /// Limits for all clients.
    pub house: House,
    /// One per pool.
    pub settings: Vec<Settings>,
}

// Not derived: among them is a secret.
impl fmt::Debug for Rules {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Rules").finish_non_exhaustive()
    }
}

impl<I: Io, D: Dialect> Shard<I, D> {
    /// Follows these from the next event on. No session is looked at: a deadline that runs is
    /// reckoned with the new settings when it comes.
    pub(super) fn follow(&mut self, rules: &Rules) {
        let probed: Vec<_> = self
            .fleet
            .pools
            .iter()
            .map(|pool| pool.health.clone())
            .collect();
        self.fleet.adopt(&rules.charter);
        let pools = self.fleet.pools.len();
        self.core.stats.grow(pools);
        self.name_pools();
        self.shelf.grow(pools);
        self.queues.resize(pools, Queue::default());
        self.core.settings.clone_from(&rules.settings);
        let counted = self.core.means.house.per_address > 0;
        self.core.means.house.clone_from(&rules.house);
        if !counted {
            self.count_all();
        }
        self.core.means.house.push_apis = self.fleet.pushers();
        for server in 0..self.fleet.servers.len() as u16 {
            let pool = usize::from(self.fleet.servers[usize::from(server)].pool);
            let other = probed.get(pool) != Some(&self.fleet.pools[pool].health);
            if other && !self.is_gone(server) {
                self.end_probes(server);
                self.begin_probes(server);
            }
        }
        // More connections may be allowed now than before.
        self.shelf.free();
    }
}
