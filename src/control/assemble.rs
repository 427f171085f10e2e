//! From a configuration to what loops run on: numbers, addresses, milliseconds.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::config::{
    self, Config, HashBy, HealthConfig, OnDuplicate, PoolConfig, PoolKind, ServerConfig, Target,
};
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
}

/// Resolves names and units.
///
/// Errors: a server name that has no address, or more servers than a number of 16 bits can name.
pub fn assemble(config: &Config) -> Result<Assembly, String> {
    let mut fleet = Fleet::default();
    for pool in &config.pools {
        add_pool(&mut fleet, pool)?;
    }
    fleet.routes = config
        .routes
        .iter()
        .map(|route| {
            let pool = config.pools.iter().position(|pool| pool.name == route.pool);
            let pool = pool.ok_or_else(|| format!("route to unknown pool {}", route.pool))? as u16;
            Ok(Route {
                path: route.path.clone(),
                host: route.host.clone(),
                upgrade: route.upgrade,
                pool,
            })
        })
        .collect::<Result<_, String>>()?;
    let settings = config.pools.iter().map(settings_of).collect();
    let house = house_of(config, &fleet);
    Ok(Assembly {
        fleet,
        house,
        settings,
    })
}

fn add_pool(fleet: &mut Fleet, config: &PoolConfig) -> Result<(), String> {
    let number = fleet.pools.len() as u16;
    let mut members = Vec::new();
    for server in &config.servers {
        let addresses = resolve(server)?;
        let several = addresses.len() > 1;
        for address in addresses {
            if fleet.servers.len() >= SERVERS_MAX {
                return Err(format!("more than {SERVERS_MAX} servers"));
            }
            // Each address is a server of its own.
            let id = if several {
                format!("{}@{}", server.id, address.ip())
            } else {
                server.id.clone()
            };
            let mut place = Server::new(id, server.url.to_string(), address, number, server.weight);
            place.prefix = match config.target {
                Target::Fixed if server.url.path.is_empty() => "/".to_string(),
                Target::Fixed | Target::Append => server.url.path.clone(),
            };
            place.authority = server.url.authority();
            place.breaker = Breaker::new(config.breaker.threshold);
            place.cooldown = ms(config.breaker.cooldown);
            members.push(fleet.servers.len() as u16);
            fleet.servers.push(place);
        }
    }
    fleet.pools.push(Pool {
        name: config.name.clone(),
        members,
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
        kind: match config.kind {
            PoolKind::Websocket => fleet::Kind::WebSocket,
            PoolKind::Bridge => fleet::Kind::Bridge,
            PoolKind::Http => fleet::Kind::Http,
        },
        connections: connections_of(config),
        health: config.health.as_ref().map(health_of),
        spread: match &config.hash {
            HashBy::Id => fleet::Spread::Id,
            HashBy::Address => fleet::Spread::Address,
            HashBy::Header(name) => fleet::Spread::Header(name.clone()),
        },
    });
    Ok(())
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

fn resolve(server: &ServerConfig) -> Result<Vec<SocketAddr>, String> {
    let name = server.url.authority();
    let failed = |why: String| format!("server {}: {name}: {why}", server.id);
    let found = name
        .to_socket_addrs()
        .map_err(|error| failed(error.to_string()))?;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(failed("has no address".to_string()));
    }
    Ok(addresses)
}

fn settings_of(pool: &PoolConfig) -> Settings {
    let session = &pool.session;
    let timeouts = &pool.timeouts;
    Settings {
        kind: match pool.kind {
            PoolKind::Websocket => session::Kind::WebSocket,
            PoolKind::Bridge => session::Kind::Bridge,
            PoolKind::Http => session::Kind::Http,
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

fn house_of(config: &Config, fleet: &Fleet) -> House {
    let (limits, push) = (&config.limits, &config.push);
    House {
        header_max: limits.header as usize,
        message_max: limits.message,
        fragments_max: limits.fragments,
        handshake: ms(limits.handshake),
        message_time: ms(limits.message_time),
        pings: limits.pings,
        origins: config.origins.clone(),
        trusted: config.trusted_proxies.clone(),
        push_path: push.path.clone(),
        push_allow: pushers(config, fleet),
        push_token: push.token.as_ref().map(|token| token.reveal().to_string()),
    }
}

/// Who may push: whoever the operator allows, and the APIs themselves.
fn pushers(config: &Config, fleet: &Fleet) -> Vec<IpNet> {
    let is_bridge =
        |server: &&Server| fleet.pools[server.pool as usize].kind == fleet::Kind::Bridge;
    let apis = fleet.servers.iter().filter(is_bridge);
    let mut allowed = config.push.allow.clone();
    allowed.extend(apis.map(|server| IpNet::from(server.address.ip())));
    allowed.sort();
    allowed.dedup();
    allowed
}

/// The configuration keeps times below 24 days.
fn ms(time: Duration) -> u32 {
    time.as_millis().min(u128::from(u32::MAX / 4)) as u32
}

/// Servers that a process can name.
const SERVERS_MAX: usize = 60_000;

#[cfg(test)]
mod tests {
    use super::super::config::Sources;
    use super::*;

    fn assembled(text: &str) -> Assembly {
        let config = Sources::default().load_text(text, "w.yaml").unwrap().config;
        assemble(&config).unwrap()
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
        assert_eq!(allowed, ["10.0.0.0/8", "127.0.0.2/32"]);
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
