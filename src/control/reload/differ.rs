//! What one configuration has that another has not.

use std::net::SocketAddr;
use std::time::Duration;

use crate::control::config::{Config, ListenConfig, PoolConfig, ServerConfig};

/// From the old configuration to the new one.
#[derive(Default)]
pub(super) struct Difference<'a> {
    /// Servers that are new, or have another URL.
    pub coming: Vec<(&'a PoolConfig, &'a ServerConfig)>,
    /// Pool and id of servers that are no more, or have another URL.
    pub leaving: Vec<(&'a str, &'a str)>,
    /// Servers whose weight is another.
    pub reweighed: Vec<(&'a PoolConfig, &'a ServerConfig)>,
    /// Pools that are no more.
    pub retired: Vec<&'a str>,
    /// Pools whose `dns` was that.
    pub repaced: Vec<(&'a PoolConfig, Duration)>,
    /// What else differs, in words: sections, pools and their keys.
    pub sections: Vec<String>,
}

/// Takes what can't change while wsteady runs from the old one, and names those keys.
pub(super) fn keep_fixed(old: &Config, mut new: Config) -> (Config, Vec<&'static str>) {
    let mut waiting = Vec::new();
    fn keep<T: PartialEq + Clone>(
        waiting: &mut Vec<&'static str>,
        key: &'static str,
        old: &T,
        new: &mut T,
    ) {
        if old != new {
            waiting.push(key);
            new.clone_from(old);
        }
    }
    // Keys are asked for with each connection; the rest of a listener is there from the start.
    if fixed_of(&old.listen) != fixed_of(&new.listen) {
        keep(&mut waiting, "listen", &old.listen, &mut new.listen);
    }
    keep(&mut waiting, "admin", &old.admin, &mut new.admin);
    keep(&mut waiting, "loops", &old.loops, &mut new.loops);
    keep(&mut waiting, "cluster", &old.cluster, &mut new.cluster);
    let (was, is) = (&old.limits.socket_buffer, &mut new.limits.socket_buffer);
    keep(&mut waiting, "limits.socket_buffer", was, is);
    keep(&mut waiting, "metrics", &old.metrics, &mut new.metrics);
    (new, waiting)
}

/// What can't change of listeners.
fn fixed_of(listen: &[ListenConfig]) -> Vec<(SocketAddr, bool)> {
    let fixed = |one: &ListenConfig| (one.address, one.proxy_protocol);
    listen.iter().map(fixed).collect()
}

impl<'a> Difference<'a> {
    pub(super) fn between(old: &'a Config, new: &'a Config) -> Difference<'a> {
        let mut difference = Difference::default();
        for pool in &old.pools {
            if new.pool(&pool.name).is_none() {
                difference.retired.push(&pool.name);
                difference
                    .sections
                    .push(format!("pool {} leaves", pool.name));
            }
        }
        for pool in &new.pools {
            match old.pool(&pool.name) {
                Some(was) => difference.compare(was, pool),
                None => {
                    difference
                        .sections
                        .push(format!("pool {} joins", pool.name));
                    let all = pool.servers.iter().map(|server| (pool, server));
                    difference.coming.extend(all);
                }
            }
        }
        let sections = [
            ("listen", old.listen != new.listen),
            ("routes", old.routes != new.routes),
            (
                "trusted_proxies",
                old.trusted_proxies != new.trusted_proxies,
            ),
            ("origins", old.origins != new.origins),
            ("limits", old.limits != new.limits),
            ("push", old.push != new.push),
            ("drain", old.drain != new.drain),
            ("log", old.log != new.log),
        ];
        let other = sections.into_iter().filter(|(_, other)| *other);
        difference
            .sections
            .extend(other.map(|(name, _)| name.to_owned()));
        difference
    }

    /// A pool that is in both.
    fn compare(&mut self, old: &'a PoolConfig, new: &'a PoolConfig) {
        let find = |pool: &'a PoolConfig, id: &str| pool.servers.iter().find(|one| one.id == id);
        for server in &new.servers {
            match find(old, &server.id) {
                Some(was) if is_same(old, was, new, server) => {
                    if was.weight != server.weight {
                        self.sections
                            .push(format!("server {}: weight {}", server.id, server.weight));
                        self.reweighed.push((new, server));
                    }
                }
                _ => self.coming.push((new, server)),
            }
        }
        for was in &old.servers {
            if find(new, &was.id).is_none_or(|server| !is_same(old, was, new, server)) {
                self.leaving.push((&old.name, &was.id));
            }
        }
        if old.dns != new.dns {
            self.repaced.push((new, old.dns));
        }
        let keys = [
            (
                "balance",
                (old.balance, &old.hash) != (new.balance, &new.hash),
            ),
            ("target", old.target != new.target),
            ("health", old.health != new.health),
            ("breaker", old.breaker != new.breaker),
            ("connect_rate", old.connect_rate != new.connect_rate),
            (
                "abnormal_close_codes",
                old.abnormal_close_codes != new.abnormal_close_codes,
            ),
            ("pass_headers", old.pass_headers != new.pass_headers),
            ("block_headers", old.block_headers != new.block_headers),
            ("timeouts", old.timeouts != new.timeouts),
            (
                "source_addresses",
                old.source_addresses != new.source_addresses,
            ),
            #[cfg(feature = "tls")]
            ("tls", old.tls != new.tls),
            ("proxy_protocol", old.proxy_protocol != new.proxy_protocol),
            ("dns", old.dns != new.dns),
            ("connections", old.connections != new.connections),
            ("session", old.session != new.session),
        ];
        let other: Vec<&str> = keys
            .into_iter()
            .filter_map(|(name, other)| other.then_some(name))
            .collect();
        if !other.is_empty() {
            self.sections
                .push(format!("pool {}: {}", new.name, other.join(", ")));
        }
    }
}

/// Whether both mean the same place. `target` has a word in how a URL without a path is kept.
fn is_same(pool: &PoolConfig, was: &ServerConfig, new: &PoolConfig, is: &ServerConfig) -> bool {
    let (was, is) = (&was.url, &is.url);
    let bare = |path: &str| path.is_empty() || path == "/";
    let same_path =
        was.path == is.path || (pool.target != new.target && bare(&was.path) && bare(&is.path));
    same_path && (was.scheme, &was.host, was.port) == (is.scheme, &is.host, is.port)
}
