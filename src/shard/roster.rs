//! Servers that come and go while the shard runs.

use super::news::News;
use super::{Io, Shard};
use crate::fleet::{Server, ServerState};
use crate::session::{Dialect, Mover};

impl<I: Io, D: Dialect> Shard<I, D> {
    /// Takes a server in. All that is kept by the number of a server grows here.
    pub(super) fn join(&mut self, server: u16, place: Server) {
        let fits = usize::from(server) == self.fleet.servers.len();
        debug_assert!(fits, "server {server} comes out of turn");
        if !fits {
            // Under another number it would be another server than everywhere else.
            self.core.stats.faults += 1;
            return;
        }
        self.fleet.join(place);
        self.core.stats.join();
        // Calls that wait for a connection may have one there.
        self.shelf.join();
        self.core.means.house.push_apis = self.fleet.pushers();
        self.begin_probes(server);
        self.tell_at_home(server, News::Joined { server });
    }

    pub(super) fn set_state(&mut self, server: u16, state: ServerState) {
        let place = self.fleet.servers.get(usize::from(server));
        let was = place.map(|place| place.state);
        if !self.fleet.set_state(server, state) {
            return;
        }
        if was != Some(state) {
            self.tell_at_home(server, News::State { server, state });
        }
        self.end_drain(server);
        if state.is_left() {
            self.begin_sweep(server, Mover::Drain);
        }
        if state == ServerState::Gone {
            self.end_probes(server);
            self.core.means.house.push_apis = self.fleet.pushers();
        }
    }

    pub(super) fn set_weight(&mut self, server: u16, weight: u32) {
        let Some(place) = self.fleet.servers.get_mut(usize::from(server)) else {
            return;
        };
        if std::mem::replace(&mut place.weight, weight) != weight {
            self.tell_at_home(server, News::Weight { server, weight });
        }
    }

    /// Closes its breaker, whatever it has seen.
    pub(super) fn reset_breaker(&mut self, server: u16) {
        let Some(place) = self.fleet.servers.get_mut(usize::from(server)) else {
            return;
        };
        let was = place.tripped.is_some();
        place.breaker.on_success();
        place.set_tripped(None);
        if was {
            let open = false;
            self.tell_at_home(server, News::Breaker { server, open });
        }
    }

    /// Whether no loop has a connection to it.
    pub(super) fn is_deserted(&self, server: u16) -> bool {
        let place = self.fleet.servers.get(usize::from(server));
        place.is_none_or(|place| place.shared.connections() == 0)
    }

    pub(super) fn is_gone(&self, server: u16) -> bool {
        let place = self.fleet.servers.get(usize::from(server));
        place.is_none_or(|place| place.state == ServerState::Gone)
    }

    /// What must always hold of the servers; run in tests.
    pub(super) fn check_roster(&self) {
        let servers = self.fleet.servers.len();
        assert_eq!(self.core.stats.servers.len(), servers, "counts by server");
        assert_eq!(self.shelf.servers(), servers, "a shelf by server");
        for (pool, place) in self.fleet.pools.iter().enumerate() {
            for member in &place.members {
                let server = &self.fleet.servers[usize::from(*member)];
                assert_eq!(usize::from(server.pool), pool, "a member is its pool's");
                assert_ne!(server.state, ServerState::Gone, "a member is there");
            }
        }
    }
}
