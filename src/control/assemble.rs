//! From a configuration to what loops run on: numbers, addresses, milliseconds.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::admin::SERVERS_MAX;
use super::config::{
    self, Config, HashBy, HealthConfig, OnDuplicate, PoolConfig, PoolKind, RouteConfig,
    ServerConfig, Target,
};
use super::resolver::{Lookup, Name};
use crate::fleet::{self, Balance, Breaker, Fleet, Pool, Route, Server};
use crate::kit::Rate;
use crate::session::{self, Confirm, House, Settings};

/// What loops run on.
pub struct Assembly {
    /// Pools, servers and routes.
    pub fleet: Fleet,
    /// Limits for all clients.
    pub house: House,
    /// One per pool.
    pub settings: Vec<Settings>,
    /// Servers whose addresses may change.
    pub names: Vec<Name>,
}

/// Resolves names and units.
///
/// Errors: a server name that has no address, or more servers than a number of 16 bits can name.
pub fn assemble(config: &Config, lookup: &Lookup) -> Result<Assembly, String> {
    let mut assembly = Assembly {
        fleet: Fleet::default(),
        house: house_of(config),
        settings: config.pools.iter().map(settings_of).collect(),
        names: Vec::new(),
    };
    for pool in &config.pools {
        add_pool(&mut assembly, pool, lookup)?;
    }
    let number = |name: &str| config.pools.iter().position(|pool| pool.name == name);
    assembly.fleet.routes = routes_of(config, |name| number(name).map(|number| number as u16))?;
    Ok(assembly)
}

/// The routes, to pools of these numbers.
///
/// Errors: one of them has none.
pub(super) fn routes_of(
    config: &Config,
    number: impl Fn(&str) -> Option<u16>,
) -> Result<Vec<Route>, String> {
    let route = |route: &RouteConfig| {
        let pool = number(&route.pool);
        let pool = pool.ok_or_else(|| format!("route to unknown pool {}", route.pool))?;
        Ok(Route {
            path: route.path.clone(),
            host: route.host.clone(),
            upgrade: route.upgrade,
            pool,
        })
    };
    config.routes.iter().map(route).collect()
}

fn add_pool(assembly: &mut Assembly, config: &PoolConfig, lookup: &Lookup) -> Result<(), String> {
    let fleet = &mut assembly.fleet;
    let number = fleet.pools.len() as u16;
    fleet.pools.push(pool_of(config));
    for server in &config.servers {
        let mut name = Name::new(mould(config, server, number), &server.url, config.dns);
        let addresses = resolve(server, lookup)?;
        if let [only] = addresses[..] {
            name.plain = Some(only.ip());
        }
        for address in addresses {
            if fleet.servers.len() >= SERVERS_MAX {
                return Err(format!("more than {SERVERS_MAX} servers"));
            }
            let place = name.server_at(address);
            name.enter(address, fleet.join(place));
        }
        if server.url.is_named() && !config.dns.is_zero() {
            assembly.names.push(name);
        }
    }
    Ok(())
}

pub(super) fn pool_of(config: &PoolConfig) -> Pool {
    Pool {
        announce: config.proxy_protocol.map(|header| match header {
            config::ProxyHeader::V1 => fleet::ProxyProtocol::V1,
            config::ProxyHeader::V2 => fleet::ProxyProtocol::V2,
        }),
        name: config.name.clone(),
        members: Vec::new(),
        balance: match config.balance {
            config::Balance::RoundRobin => Balance::RoundRobin,
            config::Balance::Random => Balance::Random,
            config::Balance::LeastConnections => Balance::LeastConnections,
            config::Balance::Hash => Balance::Hash,
            config::Balance::Adaptive => Balance::Adaptive,
        },
        connect_rate: Arc::new(Rate::new(config.connect_rate)),
        sources: config.source_addresses.clone(),
        fixed: config.target == Target::Fixed,
        kind: kind_of(config.kind),
        connections: connections_of(config),
        health: config.health.as_ref().map(health_of),
        retired: false,
        spread: match &config.hash {
            HashBy::Id => fleet::Spread::Id,
            HashBy::Address => fleet::Spread::Address,
            HashBy::Header(name) => fleet::Spread::Header(name.clone()),
        },
    }
}

pub(super) fn kind_of(kind: PoolKind) -> fleet::Kind {
    match kind {
        PoolKind::Websocket => fleet::Kind::WebSocket,
        PoolKind::Bridge => fleet::Kind::Bridge,
        PoolKind::Http => fleet::Kind::Http,
        #[cfg(feature = "nats")]
        PoolKind::Nats => fleet::Kind::Bridge,
    }
}

/// What all servers of one entry have in common; their addresses are found later.
pub(super) fn mould(pool: &PoolConfig, server: &ServerConfig, number: u16) -> Server {
    let (url, nowhere) = (&server.url, (Ipv4Addr::UNSPECIFIED, server.url.port));
    let id = server.id.clone();
    let mut place = Server::new(id, url.to_string(), nowhere.into(), number, server.weight);
    place.prefix = match pool.target {
        Target::Fixed if url.path.is_empty() => "/".to_string(),
        Target::Fixed | Target::Append => url.path.clone(),
    };
    place.authority = url.authority();
    place.breaker = Breaker::new(pool.breaker.threshold);
    place.cooldown = ms(pool.breaker.cooldown);
    place
}

fn health_of(health: &HealthConfig) -> fleet::Health {
    fleet::Health {
        path: health.path.clone(),
        interval: ms(health.interval),
        timeout: ms(health.timeout),
        rise: health.rise,
        fall: health.fall,
        expect: match health.expect {
            config::Expect::Status => fleet::Expect::Status,
            config::Expect::JsonStatus => fleet::Expect::JsonStatus,
            config::Expect::Tcp => fleet::Expect::Tcp,
            config::Expect::Websocket => fleet::Expect::WebSocket,
        },
    }
}

fn connections_of(pool: &PoolConfig) -> fleet::Connections {
    let Some(shared) = &pool.connections else {
        return fleet::Connections::default();
    };
    fleet::Connections {
        min: shared.min,
        max: shared.max,
        idle: ms(shared.idle),
        queue: shared.queue.unwrap_or(u32::MAX),
    }
}

pub(super) fn resolve(server: &ServerConfig, lookup: &Lookup) -> Result<Vec<SocketAddr>, String> {
    let url = &server.url;
    if let Ok(ip) = url.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, url.port)]);
    }
    let failed = |why: &str| format!("server {}: {}: {why}", server.id, url.authority());
    let found = lookup(&url.host, url.port).map_err(|error| failed(&error.to_string()))?;
    let addresses = BTreeSet::from_iter(found);
    match addresses.is_empty() {
        true => Err(failed("has no address")),
        false => Ok(addresses.into_iter().collect()),
    }
}

pub(super) fn settings_of(pool: &PoolConfig) -> Settings {
    let session = &pool.session;
    let timeouts = &pool.timeouts;
    Settings {
        kind: match pool.kind {
            PoolKind::Websocket => session::Kind::WebSocket,
            PoolKind::Bridge => session::Kind::Bridge,
            PoolKind::Http => session::Kind::Http,
            #[cfg(feature = "nats")]
            PoolKind::Nats => session::Kind::Bridge,
        },
        api: match pool.kind {
            PoolKind::Websocket | PoolKind::Bridge | PoolKind::Http => session::Api::Http,
            #[cfg(feature = "nats")]
            PoolKind::Nats => super::nats::api_of(pool),
        },
        response: ms(timeouts.response),
        full_status: pool.connections.map_or(503, |shared| shared.full_status),
        replace: session.on_duplicate == OnDuplicate::Replace,
        buffer: session.buffer as usize,
        hold: ms(session.hold),
        admit: ms(session.admit),
        confirm: match session.confirm {
            config::Confirm::Written => Confirm::Written,
            config::Confirm::Received => Confirm::Received,
            config::Confirm::Processed => Confirm::Processed,
        },
        overflow_close: session.overflow == config::Overflow::Close,
        atomic: session.atomic as usize,
        replay_attempts: session.replay_attempts.min(255) as u8,
        barrier_delay: ms(session.barrier.delay),
        barrier_bytes: session.barrier.bytes as usize,
        reconnect_header: session.reconnect_header.clone(),
        abnormal: pool.abnormal_close_codes.clone(),
        pass_headers: pool.pass_headers.clone(),
        block_headers: pool.block_headers.clone(),
        connect: ms(timeouts.connect),
        handshake: ms(timeouts.handshake),
        ping: ms(timeouts.ping),
        pong: ms(timeouts.pong),
        close: ms(timeouts.close),
    }
}

pub(super) fn house_of(config: &Config) -> House {
    let (limits, push) = (&config.limits, &config.push);
    House {
        header_max: limits.header as usize,
        message_max: limits.message,
        fragments_max: limits.fragments,
        handshake: ms(limits.handshake),
        message_time: ms(limits.message_time),
        pings: limits.pings,
        per_address: limits.per_address,
        min_rate: limits.min_rate,
        origins: config.origins.clone(),
        trusted: config.trusted_proxies.clone(),
        push_path: push.path.clone(),
        push_allow: push.allow.clone(),
        // Each shard has its own list, by its fleet.
        push_apis: Vec::new(),
        push_token: push.token.as_ref().map(|token| token.reveal().to_string()),
        // What a process knows of its cluster stays as long as it runs: see `reload`.
        hop: None,
    }
}

/// The configuration keeps times below 24 days.
fn ms(time: Duration) -> u32 {
    time.as_millis().min(u128::from(u32::MAX / 4)) as u32
}

#[cfg(test)]
mod tests {
    use super::super::config::Sources;
    use super::super::resolver;
    use super::*;

    fn assembled(text: &str) -> Assembly {
        let config = Sources::default().load_text(text, "w.yaml").unwrap().config;
        assemble(&config, &resolver::system()).unwrap()
    }

    #[test]
    fn each_kind_of_pool_is_assembled() {
        let text = "pools:\n  \
            ws: { servers: [\"ws://127.0.0.1:1/x/\"] }\n  \
            api: { kind: bridge, servers: [\"http://127.0.0.2:2/x/\", \"http://127.0.0.2:3/\"], timeouts: { response: 5s },\n    \
            session: { on_duplicate: replace }, connections: { min: 2, idle: 4s } }\n  \
            web: { kind: http, servers: [\"http://127.0.0.3:4/x/\"] }\n\
            routes: [{ path: /api, upgrade: true, pool: api }, { upgrade: false, pool: web }, { pool: ws }]\n\
            push: { allow: [10.0.0.0/8], token: opensesame }\n";
        let Assembly {
            fleet,
            house,
            settings,
            ..
        } = assembled(text);
        let kinds = fleet.pools.iter().map(|pool| pool.kind);
        assert!(kinds.eq([
            fleet::Kind::WebSocket,
            fleet::Kind::Bridge,
            fleet::Kind::Http
        ]));
        let kinds = settings.iter().map(|one| one.kind);
        assert!(kinds.eq([
            session::Kind::WebSocket,
            session::Kind::Bridge,
            session::Kind::Http
        ]));
        let behind = settings.iter().map(|one| (one.response, one.replace));
        assert!(behind.eq([(60_000, false), (5_000, true), (60_000, false)]));
        let connections = |number: usize| fleet.pools[number].connections;
        let expected = fleet::Connections {
            min: 2,
            max: 1_000,
            idle: 4_000,
            queue: u32::MAX,
        };
        assert_eq!(connections(1), expected);
        let expected = fleet::Connections {
            min: 1,
            max: 3,
            idle: 3_000,
            queue: 10,
        };
        assert_eq!(connections(2), expected);
        let places = fleet
            .servers
            .iter()
            .map(|one| (one.prefix.as_str(), one.authority.as_str()));
        assert!(places.eq([
            ("/x", "127.0.0.1:1"),
            ("/x/", "127.0.0.2:2"),
            ("/", "127.0.0.2:3"),
            ("/x", "127.0.0.3:4"),
        ]));
        let routes = fleet.routes.iter().map(|route| (route.upgrade, route.pool));
        assert!(routes.eq([(Some(true), 1), (Some(false), 2), (None, 0)]));
        assert_eq!(house.push_path, "/_push/");
        assert_eq!(house.push_token.as_deref(), Some("opensesame"));
        let allowed: Vec<String> = house.push_allow.iter().map(ToString::to_string).collect();
        assert_eq!(allowed, ["10.0.0.0/8"]);
        assert_eq!(fleet.pushers(), [Ipv4Addr::new(127, 0, 0, 2)]);
    }

    #[test]
    fn health_and_hash_are_assembled() {
        let text = "pools:\n  \
            ws: { servers: [\"ws://127.0.0.1:1\"], health: {}, balance: hash }\n  \
            web: { kind: http, servers: [\"http://127.0.0.1:2\"], balance: hash, hash: \"header:X-Id\",\n    \
            health: { path: /h?x, interval: 3s, timeout: 500ms, rise: 2, fall: 255, expect: tcp } }\n";
        let fleet = assembled(text).fleet;
        let (ws, web) = (&fleet.pools[0], &fleet.pools[1]);
        assert_eq!(
            (ws.balance, &ws.spread),
            (Balance::Hash, &fleet::Spread::Id)
        );
        let mut expected = fleet::Health {
            path: "/healthCheck".into(),
            interval: 10_000,
            timeout: 2_000,
            rise: 1,
            fall: 2,
            expect: fleet::Expect::WebSocket,
        };
        assert_eq!(ws.health.as_ref(), Some(&expected));
        (expected.path, expected.expect) = ("/h?x".into(), fleet::Expect::Tcp);
        (expected.interval, expected.timeout) = (3_000, 500);
        (expected.rise, expected.fall) = (2, 255);
        assert_eq!(web.health.as_ref(), Some(&expected));
        assert_eq!(web.spread, fleet::Spread::Header("X-Id".into()));
    }

    #[test]
    fn without_keys_the_defaults_of_both_rooms_agree() {
        let Assembly {
            fleet,
            house,
            settings,
            ..
        } = assembled("pools: { a: { kind: bridge, servers: [\"http://127.0.0.1/\"] } }");
        assert_eq!(fleet.pools[0].connections, fleet::Connections::default());
        let (own, theirs) = (&settings[0], Settings::default());
        assert_eq!(
            (own.response, own.replace),
            (theirs.response, theirs.replace)
        );
        assert_eq!(house.push_path, House::default().push_path);
        assert_eq!(house.push_token, None);
    }
}
