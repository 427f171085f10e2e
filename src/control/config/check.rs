//! What only several values together can get wrong.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

#[cfg(feature = "nats")]
use super::ClusterConfig;
use super::keys::nearest;
use super::read::Findings;
#[cfg(feature = "tls")]
use super::tls;
use super::{
    Balance, Config, Expect, HashBy, ListenConfig, PoolConfig, PoolKind, duration_text, size_text,
};

/// Checks all relations and fills in the ids of servers that were given none.
pub(super) fn check(config: &mut Config, findings: &mut Findings) {
    check_pools(config, findings);
    check_routes(config, findings);
    check_addresses(config, findings);
    check_limits(config, findings);
    check_pushers(config, findings);
    check_cluster(config, findings);
    name_servers(&mut config.pools, findings);
    #[cfg(feature = "tls")]
    tls::check_files(config, findings);
}

fn check_pools(config: &Config, findings: &mut Findings) {
    if findings.pool_names.is_empty() && !findings.pools_unreadable {
        findings.problem_at(
            "",
            "no pool: give --backend, --api, --http or a pools section",
        );
    }
    if config.routes.is_empty() && !findings.places.contains_key("routes[0]") {
        check_wishes(&config.pools, findings);
    }
    for pool in &config.pools {
        check_connections(pool, findings);
        check_health(pool, findings);
        check_balance(pool, findings);
        #[cfg(feature = "nats")]
        check_nats(pool, &config.pools, findings);
        let path = format!("pools.{}", pool.name);
        if pool.servers.is_empty() {
            findings.warn_at(
                &path,
                "has no servers: its clients get 503 until one is added",
            );
        } else if pool.servers.iter().all(|server| server.weight == 0) {
            findings.warn_at(&path, "all weights are 0: no new session gets a server");
        }
        let routed = config.routes.iter().any(|route| route.pool == pool.name);
        if !config.routes.is_empty() && !routed {
            findings.warn_at(&path, "no route leads here: it gets no requests");
        }
    }
}

/// A probe that takes longer than the interval would be late for the next.
fn check_health(pool: &PoolConfig, findings: &mut Findings) {
    let Some(health) = &pool.health else { return };
    if health.timeout > health.interval {
        let interval = duration_text(health.interval);
        let message = format!(
            "{} is more than interval ({interval}); raise interval, or write at most {interval}",
            duration_text(health.timeout)
        );
        findings.problem_at(&format!("pools.{}.health.timeout", pool.name), &message);
    }
}

/// What clients are sent comes over one connection to these servers, made at the start.
#[cfg(feature = "nats")]
fn check_nats(pool: &PoolConfig, pools: &[PoolConfig], findings: &mut Findings) {
    if pool.kind != PoolKind::Nats {
        return;
    }
    let path = format!("pools.{}", pool.name);
    if pool.servers.is_empty() {
        findings.problem_at(
            &path,
            "has no servers; write at least one, such as nats://host:4222",
        );
    }
    if pool.nats.token.is_some() && pool.nats.user.is_some() {
        findings.warn_at(
            &format!("{path}.nats.token"),
            "beside a user; servers look at one of the two",
        );
    }
    if pool.nats.password.is_some() && pool.nats.user.is_none() {
        findings.warn_at(
            &format!("{path}.nats.password"),
            "without a user; add nats.user",
        );
    }
    if pool.nats.jetstream && pool.session.hold >= DUPLICATES {
        findings.warn_at(
            &format!("{path}.session.hold"),
            "as long as the 2m in which a stream knows a message again, unless it was given more: \
             one that is published again later is there twice",
        );
    }
    let same = |other: &&PoolConfig| {
        other.kind == PoolKind::Nats
            && other.name != pool.name
            && other.nats.prefix == pool.nats.prefix
    };
    if let Some(other) = pools.iter().find(same) {
        findings.warn_at(
            &format!("{path}.nats.prefix"),
            &format!(
                "pool {} has the same: their clients share subjects",
                other.name
            ),
        );
    }
}

/// The duplicate window of a stream that was given none.
#[cfg(feature = "nats")]
const DUPLICATES: std::time::Duration = std::time::Duration::from_secs(120);

/// Ways of balancing that lack what they go by.
fn check_balance(pool: &PoolConfig, findings: &mut Findings) {
    let path = format!("pools.{}", pool.name);
    if pool.balance == Balance::Adaptive {
        let lacks = match &pool.health {
            None => {
                Some("without health, it is like round-robin; add health: { expect: json-status }")
            }
            Some(health) => match health.expect {
                Expect::Tcp | Expect::Websocket => Some(
                    "these probes get no JSON, so it is like round-robin; write expect: json-status",
                ),
                Expect::Status | Expect::JsonStatus => None,
            },
        };
        if let Some(lacks) = lacks {
            findings.warn_at(&format!("{path}.balance"), lacks);
        }
    }
    let by_header = matches!(pool.hash, HashBy::Header(_));
    if pool.balance == Balance::Hash && by_header && pool.kind.is_bridge() {
        findings.warn_at(
            &format!("{path}.hash"),
            "a bridge's calls after the first don't have it: all go to one server; write id",
        );
    }
}

/// Without routes a request goes to the one pool whose kind wants it.
fn check_wishes(pools: &[PoolConfig], findings: &mut Findings) {
    for upgrades in [true, false] {
        let mut wanting = pools
            .iter()
            .filter(|pool| pool.kind.wants_upgrades() == upgrades);
        if let (Some(first), Some(second)) = (wanting.next(), wanting.next()) {
            let message = format!(
                "pools {} and {} want the same requests; add routes",
                first.name, second.name
            );
            findings.problem_at("pools", &message);
        }
    }
}

fn check_connections(pool: &PoolConfig, findings: &mut Findings) {
    let Some(connections) = &pool.connections else {
        return;
    };
    let (min, max) = (connections.min, connections.max);
    if min > max {
        let message = format!("{min} is more than max ({max}); raise max, or write at most {max}");
        findings.problem_at(&format!("pools.{}.connections.min", pool.name), &message);
    }
}

fn check_routes(config: &Config, findings: &mut Findings) {
    for (index, route) in config.routes.iter().enumerate() {
        let path = findings.item_path("routes", index);
        let known = &findings.pool_names;
        if !route.pool.is_empty() && !known.contains(&route.pool) {
            let message = match nearest(&route.pool, known.iter().map(String::as_str)) {
                Some(near) => format!("no pool {:?}; did you mean `{near}`?", route.pool),
                None => format!(
                    "no pool {:?}; the pools are: {}",
                    route.pool,
                    known.join(", ")
                ),
            };
            findings.problem_at(&format!("{path}.pool"), &message);
        }
        let kind = config.pool(&route.pool).map(|pool| pool.kind);
        // A bridge takes both: its clients' upgrades and its API's pushes.
        let unwanted = match (route.upgrade, kind) {
            (Some(true), Some(PoolKind::Http)) => Some("takes no upgrades; write upgrade: false"),
            (Some(false), Some(PoolKind::Websocket)) => {
                Some("takes upgrades alone; write upgrade: true")
            }
            _ => None,
        };
        if let Some(unwanted) = unwanted {
            let message = format!("pool {} {unwanted}, or leave it out", route.pool);
            findings.warn_at(&format!("{path}.upgrade"), &message);
        }
        let same = |other: &&super::RouteConfig| {
            (&other.path, &other.host, other.upgrade) == (&route.path, &route.host, route.upgrade)
        };
        if config.routes[..index].iter().any(|earlier| same(&earlier)) {
            findings.warn_at(
                &path,
                "an earlier route takes the same requests: never used",
            );
        }
    }
}

fn check_addresses(config: &Config, findings: &mut Findings) {
    let admin = &config.admin;
    let guarded = admin.token.is_some() || admin.asks_for_certificates();
    if !admin.address.ip().is_loopback() && !guarded {
        let message = format!(
            "{} is not loopback; write 127.0.0.1:{}, or give admin.token (WSTEADY_ADMIN_TOKEN)",
            admin.address,
            admin.address.port()
        );
        findings.problem_at("admin.address", &message);
    }
    for (index, listen) in config.listen.iter().enumerate() {
        let path = findings.item_path("listen", index);
        let mut others = config.listen[..index].iter().map(|other| other.address);
        if let Some(other) = others.find(|other| overlap(*other, listen.address)) {
            let message = format!(
                "{} takes the same port as {other}; write another",
                listen.address
            );
            findings.problem_at(&path, &message);
        }
        if listen.proxy_protocol
            && config.trusted_proxies.is_empty()
            && !findings.places.contains_key("trusted_proxies[0]")
        {
            let path = format!("{path}.proxy_protocol");
            findings.problem_at(
                &path,
                "only trusted_proxies may connect here, and there are none; list the addresses of \
                 your proxies there",
            );
        }
        if overlap(admin.address, listen.address) {
            let message = format!(
                "{} takes the same port as the admin address {}; write another",
                listen.address, admin.address
            );
            findings.problem_at(&path, &message);
        }
    }
    // An item that could not be read was complained about already.
    if config.listen.is_empty() && !findings.places.contains_key("listen[0]") {
        findings.problem_at(
            "listen",
            "is empty; write at least one address, such as :8080",
        );
    }
}

/// Whether two listeners would want the same connections. Port 0 becomes a free one.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let any = |address: SocketAddr| address.ip().is_unspecified();
    // Linux's `[::]` takes IPv4 connections as well.
    let both = |address: SocketAddr| any(address) && address.is_ipv6();
    let same_family = one.is_ipv4() == other.is_ipv4();
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip()
            || both(one)
            || both(other)
            || same_family && (any(one) || any(other)))
}

/// Bounds that can't be used up are allowed: small machines lower `memory` and leave the rest.
fn check_limits(config: &Config, findings: &mut Findings) {
    let limits = &config.limits;
    if limits.message > limits.memory {
        let message = format!(
            "{} is more than limits.memory ({}): a message of that size can't get through",
            size_text(limits.message),
            size_text(limits.memory)
        );
        findings.warn_at("limits.message", &message);
    }
    for pool in &config.pools {
        if pool.session.buffer > limits.memory {
            let message = format!(
                "{} is more than limits.memory ({}), which is reached first",
                size_text(pool.session.buffer),
                size_text(limits.memory)
            );
            findings.warn_at(&format!("pools.{}.session.buffer", pool.name), &message);
        }
    }
}

/// A push counts as coming from whom a trusted peer names.
fn check_pushers(config: &Config, findings: &mut Findings) {
    let everybody = config
        .trusted_proxies
        .iter()
        .any(|net| net.prefix_len() == 0);
    let bridges = config.pools.iter().any(|pool| pool.kind.is_bridge());
    if everybody && bridges && config.push.token.is_none() {
        findings.warn_at(
            "trusted_proxies",
            "everybody is believed about where a push comes from, so everybody can push; list \
             your proxies, or give push.token",
        );
    }
}

/// Who passes pushes on must be known: by a token, or by where it is.
fn check_cluster(config: &Config, findings: &mut Findings) {
    let Some(cluster) = &config.cluster else {
        return;
    };
    let unread = findings.places.contains_key("cluster.peers[0]");
    if cluster.peers.is_empty() && findings.places.contains_key("cluster.peers") && !unread {
        findings.problem_at(
            "cluster.peers",
            "is empty; write the push addresses of the other nodes, or leave cluster out",
        );
    }
    #[cfg(feature = "nats")]
    check_bus(cluster, findings);
    let named = cluster
        .peers
        .iter()
        .position(|peer| peer.literal().is_none());
    if let (Some(named), None) = (named, &cluster.token) {
        let path = findings.item_path("cluster.peers", named);
        let message = format!(
            "{} is a name, and whoever has its address could pass pushes on; give cluster.token, \
             the same on all nodes, or write addresses",
            cluster.peers[named]
        );
        findings.problem_at(&path, &message);
    }
    if cluster.timeout > TIMEOUT_MAX {
        let message = format!(
            "{} is longer than anybody waits for a push; write at most {}",
            duration_text(cluster.timeout),
            duration_text(TIMEOUT_MAX)
        );
        findings.problem_at("cluster.timeout", &message);
    }
    if !cluster.peers.is_empty() && !config.listen.iter().any(ListenConfig::is_plain) {
        findings.warn_at(
            "cluster.peers",
            "other nodes pass pushes on in the clear and without a PROXY header, and no listener here \
             takes them so; add one",
        );
    }
    let takes_pushes = |kind: PoolKind| !matches!(kind, PoolKind::Websocket | PoolKind::Http);
    let bridges = config.pools.iter().any(|pool| takes_pushes(pool.kind));
    if !bridges && !config.pools.is_empty() {
        findings.warn_at(
            "cluster",
            "there is no pool of kind bridge, so there are no pushes to pass on",
        );
    }
}

/// There is one way to the other nodes.
#[cfg(feature = "nats")]
fn check_bus(cluster: &ClusterConfig, findings: &mut Findings) {
    let Some(bus) = &cluster.bus else { return };
    if findings.places.contains_key("cluster.peers") {
        findings.problem_at(
            "cluster.bus",
            "stands beside cluster.peers; nodes ask each other or meet on a bus, leave one of them out",
        );
    }
    if cluster.token.is_some() {
        findings.problem_at(
            "cluster.token",
            "is shown to peers, and there are none; a bus has its own: cluster.bus.token",
        );
    }
    if bus.nats.is_empty() && !findings.places.contains_key("cluster.bus.nats[0]") {
        findings.problem_at(
            "cluster.bus.nats",
            "is empty; write at least one server, such as nats://10.0.0.5:4222",
        );
    }
    if bus.token.is_some() && bus.user.is_some() {
        findings.problem_at(
            "cluster.bus.token",
            "stands beside a user; NATS takes one of them, leave the other out",
        );
    }
    if bus.password.is_some() && bus.user.is_none() {
        findings.problem_at(
            "cluster.bus.password",
            "without a user; add cluster.bus.user",
        );
    }
}

/// Ids given by the operator are theirs; the others take what is still free, in the file's order.
fn name_servers(pools: &mut [PoolConfig], findings: &mut Findings) {
    let mut taken: HashMap<String, String> = HashMap::new();
    for pool in pools.iter() {
        for (index, server) in pool.servers.iter().enumerate() {
            let path = findings.item_path(&format!("pools.{}.servers", pool.name), index);
            if server.id.is_empty() {
                continue;
            }
            if let Some(first) = taken.get(&server.id) {
                let message = format!("{:?} is taken by {first}; write another", server.id);
                findings.problem_at(&format!("{path}.id"), &message);
                continue;
            }
            taken.insert(server.id.clone(), path);
        }
    }
    for pool in pools {
        for (index, server) in pool.servers.iter_mut().enumerate() {
            if !server.id.is_empty() {
                continue;
            }
            let path = findings.item_path(&format!("pools.{}.servers", pool.name), index);
            let plain = server.url.default_id();
            let longer = format!("{}.{plain}", pool.name);
            let free = [plain, longer]
                .into_iter()
                .find(|id| !taken.contains_key(id));
            let Some(id) = free else {
                let message = format!("{} is here twice; give each an id", server.url);
                findings.problem_at(&path, &message);
                continue;
            };
            taken.insert(id.clone(), path);
            server.id = id;
        }
    }
}

/// Of `cluster.timeout`: an API that pushes gives up about then, too.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
