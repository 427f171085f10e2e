//! From a configuration to what loops run on: numbers, addresses, milliseconds.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use super::config::{self, Config, PoolConfig, ServerConfig, Target};
use crate::fleet::{Balance, Breaker, Fleet, Pool, Route, Server};
use crate::kit::Rate;
use crate::session::{Confirm, House, Settings};

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
    Ok(Assembly {
        fleet,
        house: house_of(config),
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
        },
        connect_rate: Arc::new(Rate::new(config.connect_rate)),
        sources: config.source_addresses.clone(),
        fixed: config.target == Target::Fixed,
        kind: crate::fleet::Kind::WebSocket,
        connections: crate::fleet::Connections::default(),
    });
    Ok(())
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
        kind: crate::session::Kind::WebSocket,
        response: 60_000,
        replace: false,
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

fn house_of(config: &Config) -> House {
    let limits = &config.limits;
    House {
        header_max: limits.header as usize,
        message_max: limits.message,
        fragments_max: limits.fragments,
        handshake: ms(limits.handshake),
        message_time: ms(limits.message_time),
        pings: limits.pings,
        origins: config.origins.clone(),
        trusted: config.trusted_proxies.clone(),
        push_path: "/".to_string(),
        push_allow: Vec::new(),
        push_token: None,
    }
}

/// The configuration keeps times below 24 days.
fn ms(time: Duration) -> u32 {
    time.as_millis().min(u128::from(u32::MAX / 4)) as u32
}

/// Servers that a process can name.
const SERVERS_MAX: usize = 60_000;
