//! A proxy with what an embedder adds to it.

use std::sync::Arc;

use crate::control::admin::Annex;
use crate::control::config::Config;
use crate::control::resolver::{self, Lookup};
use crate::control::watch::Watch;
use crate::net::Net;
use crate::proxy::{Proxy, Runner, StartError};
use crate::session::Dialect;
use crate::session::dialect::Tongue;
use crate::session::valve::{Arrival, Fitting, Valve};
use crate::shard::news::Notice;

/// A proxy that has not started: [`Proxy::builder`].
pub struct Builder {
    pub(crate) config: Config,
    pub(crate) annex: Option<Arc<dyn Annex>>,
    pub(crate) lookup: Lookup,
    pub(crate) fittings: Vec<Fitting>,
    pub(crate) watches: Vec<Watch>,
    pub(crate) run: fn(&Runner, usize, Net),
}

impl Builder {
    pub(crate) fn new(config: Config) -> Builder {
        Builder {
            config,
            annex: None,
            lookup: resolver::system(),
            fittings: Vec::new(),
            watches: Vec::new(),
            run: Runner::run::<Tongue>,
        }
    }

    /// A valve for the sessions of a pool: `make` is called once for each, on its loop, when its
    /// client is let in; `None` leaves this session alone. The order of calls is the order in which a
    /// client's messages meet the valves. Pools of kind `http` have messages of no session.
    #[must_use]
    pub fn valve<F>(self, pool: &str, make: F) -> Builder
    where
        F: Fn(&Arrival<'_>) -> Option<Box<dyn Valve>> + Send + Sync + 'static,
    {
        self.fit(Some(pool.to_string()), make)
    }

    /// As [`valve`](Builder::valve), for the sessions of all pools, also of those that a later
    /// configuration brings.
    #[must_use]
    pub fn valve_everywhere<F>(self, make: F) -> Builder
    where
        F: Fn(&Arrival<'_>) -> Option<Box<dyn Valve>> + Send + Sync + 'static,
    {
        self.fit(None, make)
    }

    /// Tells of every session's life, in order, on a thread of its own: a watcher that is slow or
    /// panics harms nobody. 65,536 notices wait for it; what finds the queue full is counted in
    /// [`Notice::missed`] of the next one.
    #[must_use]
    pub fn watch(mut self, watch: impl FnMut(&Notice) + Send + 'static) -> Builder {
        self.watches.push(Box::new(watch));
        self
    }

    /// Another language for servers: one's own [`Dialect`], as `examples/redis.rs` has one. All
    /// connections to servers speak it, of every pool; an enum that falls back on
    /// [`Tongue`] for some of them is what the proxy itself does.
    #[must_use]
    pub fn dialect<D: Dialect + 'static>(mut self) -> Builder {
        self.run = Runner::run::<D>;
        self
    }

    /// Pages of one's own at the admin address.
    #[must_use]
    pub fn annex(mut self, annex: Arc<dyn Annex>) -> Builder {
        self.annex = Some(annex);
        self
    }

    /// Another way to the addresses of server names than the system's.
    #[must_use]
    pub fn lookup(mut self, lookup: Lookup) -> Builder {
        self.lookup = lookup;
        self
    }

    /// Starts it: see [`Proxy::start`].
    ///
    /// # Errors
    /// As there; `Config` also for a valve of a pool that the configuration does not have.
    pub fn start(self) -> Result<Proxy, StartError> {
        let names: Vec<&str> = self.config.pools.iter().map(|pool| &*pool.name).collect();
        let wanted = self.fittings.iter().flat_map(|one| &one.pool);
        for pool in wanted {
            if !names.contains(&pool.as_str()) {
                let there = names.join(", ");
                let why = format!("a valve for unknown pool {pool:?}; there is {there}");
                return Err(StartError::Config(why));
            }
        }
        Proxy::build(self)
    }

    fn fit<F>(mut self, pool: Option<String>, make: F) -> Builder
    where
        F: Fn(&Arrival<'_>) -> Option<Box<dyn Valve>> + Send + Sync + 'static,
    {
        let make = Arc::new(make);
        self.fittings.push(Fitting { pool, make });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valve_for_a_pool_that_is_not_there_is_an_error() {
        let mut config = Config::with_backends(&["ws://127.0.0.1:9".to_string()]).unwrap();
        config.listen[0].address = "127.0.0.1:0".parse().unwrap();
        config.admin.address = "127.0.0.1:0".parse().unwrap();
        let started = Proxy::builder(config).valve("chat", |_| None).start();
        let why = started.err().expect("there is no such pool").to_string();
        assert_eq!(why, "a valve for unknown pool \"chat\"; there is default");
    }
}
