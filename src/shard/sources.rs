//! Where to dial from. Each local address has some 64,000 ports towards one server.

use std::net::IpAddr;

use log::warn;

use super::{Announce, Destination, Dialled, Io, Shard, Token};
use crate::kit::{Key, Tick};
use crate::session::Dialect;

/// Whose turn it is, and when the operator heard last that there are too few.
#[derive(Default)]
pub(super) struct Sources {
    turn: usize,
    told: Option<Tick>,
}

impl Sources {
    /// The next address; none: the kernel picks one.
    fn next(&mut self, sources: &[IpAddr]) -> Option<IpAddr> {
        self.turn = self.turn.wrapping_add(1);
        sources.get(self.turn % sources.len().max(1)).copied()
    }
}

impl<I: Io, D: Dialect> Shard<I, D> {
    /// Begins to connect to a server, for one client or for many. Where one local address has no port
    /// left, the next may have.
    pub(super) fn dial_from_any(
        &mut self,
        server: u16,
        client: Option<Key>,
        token: Token,
    ) -> Dialled<I::Socket> {
        let place = &self.fleet.servers[usize::from(server)];
        let pool = &self.fleet.pools[usize::from(place.pool)];
        let sources = &pool.sources;
        let client = client.and_then(|key| self.clients.get(key));
        let ends = || {
            let client = client?;
            let to = self.io.local_address(client.socket.as_ref()?)?;
            Some((client.session.peer(), to))
        };
        let announce = pool.announce.map(|version| {
            let ends = ends();
            Announce { version, ends }
        });
        let to = Destination {
            address: place.address,
            server: &place.id,
            url: &place.url,
            pool: &pool.name,
            announce,
        };
        for _ in 0..sources.len().clamp(1, TRIES_MAX) {
            let source = self.sources.next(sources);
            match self.io.dial(&to, source, token) {
                Dialled::NoPort => {}
                other => return other,
            }
        }
        self.tell_of_ports(server);
        Dialled::NoPort
    }

    fn tell_of_ports(&mut self, server: u16) {
        let now = self.core.now;
        let lately = |told: Tick| now.since(told) < TELL_PAUSE;
        if self.sources.told.is_some_and(lately) {
            return;
        }
        self.sources.told = Some(now);
        let place = &self.fleet.servers[usize::from(server)];
        let pool = self.fleet.pools[usize::from(place.pool)].name.as_str();
        warn!(
            pool, server = place.id.as_str();
            "no local port is free towards this server: add addresses of this host to source_addresses \
             of the pool, or widen net.ipv4.ip_local_port_range"
        );
    }
}

/// Addresses that one dial tries: the session's next attempt begins with those behind them.
const TRIES_MAX: usize = 4;

/// Between two words about ports, in ms.
const TELL_PAUSE: u32 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_turns() {
        let pool = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 3]].map(IpAddr::from);
        let mut sources = Sources::default();
        let got: Vec<IpAddr> = (0..6).filter_map(|_| sources.next(&pool)).collect();
        let rest: Vec<IpAddr> = got[..3].to_vec();
        assert_eq!(got[3..], rest);
        assert!(pool.iter().all(|address| rest.contains(address)));
        assert_eq!(sources.next(&[]), None);
    }
}
