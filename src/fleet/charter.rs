//! What a configuration says of a fleet, but for who is in it: that can change while it runs.

use std::sync::Arc;

use super::pools::{Fleet, Pool, Route};

/// Pools, routes and terms of one configuration, each in the order of the fleet's numbers.
#[derive(Clone, Default)]
pub struct Charter {
    /// At least as many as the fleet has; those beyond are new. Their members mean nothing.
    pub pools: Vec<Pool>,
    /// First match wins.
    pub routes: Vec<Route>,
    /// One for each server of the fleet, those that are gone included.
    pub terms: Vec<Terms>,
}

/// What a server is given by its pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What stands before the client's target.
    pub prefix: String,
    /// Failures in a row that open its breaker; 0: never.
    pub threshold: u32,
    /// How long that stays open, in ms.
    pub cooldown: u32,
}

impl Fleet {
    /// Lives by this charter from now on. Who is in the fleet, what the operator wants of each, and
    /// what has been seen of them stays.
    pub fn adopt(&mut self, charter: &Charter) {
        debug_assert!(charter.pools.len() >= self.pools.len(), "a number is lost");
        for (number, pool) in charter.pools.iter().enumerate() {
            match self.pools.get_mut(number) {
                Some(place) => {
                    let members = std::mem::take(&mut place.members);
                    *place = Pool {
                        members,
                        ..pool.clone()
                    };
                }
                None => self.pools.push(Pool {
                    members: Vec::new(),
                    ..pool.clone()
                }),
            }
        }
        self.routes.clone_from(&charter.routes);
        for (place, terms) in self.servers.iter_mut().zip(&charter.terms) {
            place.prefix.clone_from(&terms.prefix);
            place.breaker.set_threshold(terms.threshold);
            place.cooldown = terms.cooldown;
            if !place.breaker.can_open() {
                place.set_tripped(None);
            }
            let pool = &self.pools[usize::from(place.pool)];
            if pool.health.is_none() {
                // Nobody would ever say otherwise.
                (place.healthy, place.share) = (true, 100);
            }
        }
    }
}

impl Pool {
    /// The same pool under other settings: what loops count together goes on, where it can.
    pub fn heir_of(self, before: &Pool) -> Pool {
        let connect_rate = match self.connect_rate.is_same(&before.connect_rate) {
            true => Arc::clone(&before.connect_rate),
            false => self.connect_rate,
        };
        Pool {
            connect_rate,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pools::tests::{pool, server};
    use super::super::{Expect, Health, ServerState};
    use super::*;
    use crate::kit::{Rate, Tick};

    fn terms(threshold: u32) -> Terms {
        Terms {
            prefix: "/new".into(),
            threshold,
            cooldown: 7,
        }
    }

    #[test]
    fn who_is_there_and_what_was_seen_stays() {
        let mut fleet = Fleet {
            pools: vec![pool("a")],
            ..Fleet::default()
        };
        for _ in 0..3 {
            fleet.join(server(4));
        }
        fleet.set_state(0, ServerState::Gone);
        fleet.set_state(1, ServerState::Draining);
        fleet.servers[1].healthy = false;
        fleet.servers[1].set_tripped(Some(Tick(9)));
        let mut probed = pool("a");
        probed.health = Some(Health {
            path: "/".into(),
            interval: 1,
            timeout: 1,
            rise: 1,
            fall: 1,
            expect: Expect::Tcp,
        });
        let charter = |first: Pool, threshold| Charter {
            pools: vec![first, pool("b")],
            routes: Vec::new(),
            terms: vec![terms(threshold); 3],
        };
        fleet.adopt(&charter(probed, 2));
        assert_eq!(fleet.pools[0].members, [1, 2]);
        assert!(fleet.pools[1].members.is_empty());
        let place = &fleet.servers[1];
        assert_eq!((place.state, place.weight), (ServerState::Draining, 4));
        assert_eq!((place.prefix.as_str(), place.cooldown), ("/new", 7));
        assert!(!place.healthy && place.tripped.is_some());
        // Without probes and breaker nobody can be kept out by what they once said.
        fleet.adopt(&charter(pool("a"), 0));
        let place = &fleet.servers[1];
        assert!(place.healthy && place.tripped.is_none());
    }

    #[test]
    fn an_unchanged_rate_goes_on() {
        let (mut old, mut new) = (pool("a"), pool("a"));
        old.connect_rate = Arc::new(Rate::new(5));
        new.connect_rate = Arc::new(Rate::new(5));
        let heir = new.clone().heir_of(&old);
        assert!(Arc::ptr_eq(&heir.connect_rate, &old.connect_rate));
        new.connect_rate = Arc::new(Rate::new(6));
        let heir = new.heir_of(&old);
        assert!(!Arc::ptr_eq(&heir.connect_rate, &old.connect_rate));
    }

    #[test]
    fn a_retired_pool_gets_no_request() {
        let mut fleet = Fleet {
            pools: vec![pool("a"), pool("b")],
            ..Fleet::default()
        };
        assert_eq!(fleet.route("/", "h", true), Some(0));
        fleet.pools[0].retired = true;
        assert_eq!(fleet.route("/", "h", true), Some(1));
        fleet.pools[1].retired = true;
        assert_eq!(fleet.route("/", "h", true), None);
    }
}
