//! NATS, on threads of control: the way from there to clients, and what loops are told of the servers.

mod courier;
pub mod link;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use log::warn;

pub use self::courier::Couriers;
use super::config::{Config, PoolConfig, PoolKind, Secret};
use crate::session::Api;
use crate::session::dialect::nats::NatsTerms;

/// What the loops are to know of a pool of kind nats.
pub(super) fn api_of(pool: &PoolConfig) -> Api {
    let name = pool.name.clone();
    let complain = move |text: &str| {
        let pool = name.as_str();
        warn!(pool = pool, reason = text; "a NATS server does not take a message");
    };
    let reveal = |secret: &Option<Secret>| secret.as_ref().map(|one| one.reveal().to_string());
    let own = &pool.nats;
    Api::Nats(Arc::new(NatsTerms {
        prefix: own.prefix.clone(),
        jetstream: own.jetstream,
        name: format!("wsteady {}", pool.name),
        user: own.user.clone(),
        password: reveal(&own.password),
        token: reveal(&own.token),
        // The standard library's hasher begins with chance: no other process has the same.
        mark: RandomState::new().build_hasher().finish(),
        complain: Some(Arc::new(complain)),
        connections: AtomicU64::new(0),
        payload_max: AtomicU64::new(0),
    }))
}

/// What a configuration that is read again may not change.
///
/// # Errors
/// It does.
pub(super) fn check_reload(before: &Config, after: &Config) -> Result<(), String> {
    let own = |config: &Config| -> Vec<_> {
        let pools = config.pools.iter();
        let pools = pools.filter(|pool| pool.kind == PoolKind::Nats);
        pools
            .map(|pool| (pool.name.clone(), pool.nats.clone()))
            .collect()
    };
    let (was, is) = (own(before), own(after));
    let other = is.iter().find(|pool| !was.contains(pool));
    let gone = was.iter().find(|pool| !is.contains(pool));
    match other.or(gone) {
        None => Ok(()),
        Some((name, _)) => Err(format!(
            "pool {name}: pools of kind nats and their key nats need a restart"
        )),
    }
}
