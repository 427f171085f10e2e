//! What so many connections need: sockets, descriptors, ports and memory.

use std::collections::BTreeSet;

use super::Options;
use crate::control::config::{PoolConfig, PoolKind};
use crate::net::table::table_for;

/// What the checks compare with.
pub(super) struct Need {
    pub clients: u64,
    pub loops: u64,
    /// Sockets of clients and to servers.
    pub sockets: u64,
}

impl Need {
    pub fn of(options: &Options) -> Need {
        let clients = options.connections;
        let pools = &options.config.pools;
        // Which client goes to which pool isn't known: all could go to one whose sessions take two.
        let own = match pools.iter().any(|pool| pool.kind == PoolKind::Websocket) {
            true => clients,
            false => 0,
        };
        let shared: u64 = pools.iter().map(shared_connections).sum();
        Need {
            clients,
            loops: options.config.loops.count() as u64,
            sockets: clients.saturating_add(own).saturating_add(shared),
        }
    }

    /// Descriptors that each table must hold if there are so many tables.
    pub fn descriptors(&self, tables: u64) -> u64 {
        let share = self.sockets.div_ceil(tables.max(1));
        let uneven = if tables > 1 { share / UNEVEN } else { 0 };
        table_for(share + uneven).max(share + uneven + DESCRIPTORS_BESIDE)
    }

    /// Bytes while nobody says anything: ours, and the kernel's for the sockets.
    pub fn resting_bytes(&self) -> u64 {
        let ours = self.clients.saturating_mul(SESSION_BYTES);
        let kernel = self.sockets.saturating_mul(SOCKET_BYTES);
        ours.saturating_add(kernel).saturating_add(BASE_BYTES)
    }

    /// Clients that fit into so many bytes.
    pub fn clients_in(&self, bytes: u64) -> u64 {
        let per_client = self.resting_bytes().saturating_sub(BASE_BYTES) / self.clients.max(1);
        bytes.saturating_sub(BASE_BYTES) / per_client.max(1)
    }
}

pub(super) fn title(options: &Options) -> String {
    let need = Need::of(options);
    let assumed = match options.is_assumed {
        true => "\nWithout a configuration a WebSocket pool is assumed: two sockets per session.",
        false => "",
    };
    let (loops, plural) = (need.loops, if need.loops == 1 { "" } else { "s" });
    format!(
        "{} connections, {} sockets, {loops} loop{plural}{assumed}",
        need.clients, need.sockets
    )
}

/// Connections that a bridge or an HTTP pool keeps at most.
fn shared_connections(pool: &PoolConfig) -> u64 {
    let each = pool.connections.map_or(0, |own| u64::from(own.max));
    pool.servers.len() as u64 * each
}

/// Connections to one server of a pool, at most. After the loss of one, the others have its share.
pub(super) fn connections_per_server(pool: &PoolConfig, clients: u64) -> u64 {
    match pool.connections {
        Some(own) => u64::from(own.max),
        None => clients.div_ceil(addresses(pool).saturating_sub(1).max(1)),
    }
}

/// Servers with an address of their own. A name counts as one, for how many it has isn't known here.
pub(super) fn addresses(pool: &PoolConfig) -> u64 {
    let places = pool
        .servers
        .iter()
        .map(|server| (&server.url.host, server.url.port));
    places.collect::<BTreeSet<_>>().len() as u64
}

/// An idle session: at most 512 bytes (`scripts/bench-proxy` measures it), and as much again for its
/// request head, which a browser's cookies make longer and other clients shorter.
const SESSION_BYTES: u64 = 1024;

/// What Linux 6.18 takes for an idle TCP socket, measured.
const SOCKET_BYTES: u64 = 4270;

/// Program, stacks, listeners, the admin server.
const BASE_BYTES: u64 = 64 << 20;

/// The kernel spreads 250,000 connections over 56 listeners within 2 %; one in 20 is on the safe side.
const UNEVEN: u64 = 20;

/// Listeners, pollers, log, probes, scrapes, and connections that are just being closed: in the reserve of a large table.
const DESCRIPTORS_BESIDE: u64 = 512;
