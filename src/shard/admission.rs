//! Who is let in: the bounds on how many clients may be here, and a word to those who are too many.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use log::{info, warn};

use super::{Bits, Client, Io, Shard, Token};
use crate::kit::{Key, Pressure, Quota, Tick, Timer};
use crate::session::{Asking, Dialect, Event, Session};

/// Where clients come in.
pub(super) struct Door {
    quota: Arc<Quota>,
    /// Slots of clients that are counted under another address than their peer's.
    named: BTreeMap<u32, u64>,
    /// Clients that were turned away, and may still read why.
    lobby: u32,
    /// When the log heard that descriptors are scarce.
    told: Option<Tick>,
}

/// Why a client is not let in.
#[derive(Clone, Copy)]
pub(super) struct Refusal {
    status: u16,
    reason: &'static str,
}

impl Door {
    /// Nobody has come.
    pub(super) fn new(quota: Arc<Quota>) -> Door {
        Door {
            quota,
            named: BTreeMap::new(),
            lobby: 0,
            told: None,
        }
    }
}

impl Refusal {
    /// For the session that is refused.
    pub(super) fn event(self) -> Event<'static> {
        Event::Denied {
            status: self.status,
            reason: self.reason,
        }
    }
}

impl<I: Io, D: Dialect> Shard<I, D> {
    /// Somebody has connected.
    pub(super) fn admit(&mut self, socket: I::Socket, peer: SocketAddr) {
        match self.take_place(peer.ip()) {
            Ok(mut held) => {
                held.set(Bits::SCARCE, self.io.is_scarce(&socket));
                self.begin_client(socket, peer, held);
            }
            Err(refusal) => self.turn_away(socket, peer, refusal),
        }
    }

    fn take_place(&mut self, address: IpAddr) -> Result<Bits, Refusal> {
        self.look_at_memory();
        if self.core.stats.pressure == Pressure::Critical {
            return Err(SHORT);
        }
        if self.connections.lease(1) == 0 {
            return Err(FULL);
        }
        let house = &self.core.means.house;
        if house.per_address == 0 || house.trusts(address.to_canonical()) {
            return Ok(Bits::PLACED);
        }
        if self.door.quota.take(holder(address), house.per_address) {
            return Ok(Bits::PLACED | Bits::COUNTED);
        }
        self.connections.give_back(1);
        Err(CROWDED)
    }

    /// A client's connection is gone, and with it what it has held.
    pub(super) fn leave_place(&mut self, key: Key, held: Bits, address: IpAddr) {
        if !held.contains(Bits::PLACED) {
            self.door.lobby -= 1;
        } else if !planted!(BudgetKept) {
            self.connections.give_back(1);
        }
        let named = self.door.named.remove(&key.index);
        if held.contains(Bits::COUNTED) && !planted!(QuotaKept) {
            let counted = named.unwrap_or_else(|| holder(address));
            self.door.quota.give_back(counted);
        }
    }

    /// Gives it a slot, if its socket can be watched.
    fn begin_client(&mut self, mut socket: I::Socket, peer: SocketAddr, held: Bits) -> Option<Key> {
        let key = self.clients.next_key();
        if !self.io.watch(&mut socket, Token::client(key)) {
            self.leave_place(key, held, peer.ip());
            self.core.stats.accepts_failed += 1;
            self.io.close(socket);
            return None;
        }
        let id = self.core.means.rng.next_u128();
        let session = Session::new(id, peer, self.core.now).secured(self.io.is_secure(&socket));
        let client = Client {
            session,
            socket: Some(socket),
            upstream: Key::NONE,
            timer: Timer::NONE,
            bits: Bits::WRITABLE | held,
        };
        let inserted = self.clients.insert(client);
        debug_assert_eq!(inserted, key);
        self.core.stats.opened += 1;
        if let Some(client) = self.clients.get_mut(key) {
            self.core
                .with(&mut client.session, &[], |session, ctx| session.begin(ctx));
        }
        self.perform(key);
        Some(key)
    }

    /// The client is told why, before it has asked for anything: what it asks would cost memory. It
    /// gets a slot until it has read that: to close at once would reset the connection, and destroy
    /// our words. So many may wait for that; a flood beyond it is closed without a word.
    fn turn_away(&mut self, socket: I::Socket, peer: SocketAddr, refusal: Refusal) {
        let place = self.door.lobby < LOBBY_MAX && self.core.means.chunks.room(WORDS_MAX);
        if !place {
            *self.core.stats.denied.entry(refusal.status).or_default() += 1;
            return self.io.close(socket);
        }
        self.door.lobby += 1;
        if let Some(key) = self.begin_client(socket, peer, Bits::empty()) {
            self.tell(key, refusal.event());
        }
    }

    /// Whether this request may begin a session: its connection may have come before memory was
    /// short, or bring somebody whom only our own proxy knows.
    pub(super) fn let_in(&mut self, key: Key, asking: &Asking) -> Result<(), Refusal> {
        self.look_at_memory();
        if asking.upgrade && self.core.stats.pressure == Pressure::Critical {
            return Err(SHORT);
        }
        let Some(client) = self.clients.get_mut(key) else {
            return Ok(());
        };
        if asking.upgrade && client.bits.contains(Bits::SCARCE) && !planted!(ScarceLetIn) {
            self.tell_of_descriptors();
            return Err(SCARCE);
        }
        let uncounted = asking.upgrade && !client.bits.contains(Bits::COUNTED);
        let trusted = |address: &IpAddr| self.core.means.house.trusts(*address);
        let named = asking.client.filter(|address| !trusted(address));
        let Some(address) = named.filter(|_| uncounted) else {
            return Ok(());
        };
        let counted = holder(address);
        if !self
            .door
            .quota
            .take(counted, self.core.means.house.per_address)
        {
            return Err(CROWDED);
        }
        client.bits.insert(Bits::COUNTED);
        self.door.named.insert(key.index, counted);
        Ok(())
    }

    fn tell_of_descriptors(&mut self) {
        let now = self.core.now;
        if self
            .door
            .told
            .is_some_and(|told| now.since(told) < TELL_PAUSE)
        {
            return;
        }
        self.door.told = Some(now);
        warn!(
            "loop" = self.index;
            "descriptors are scarce: new sessions get 503; raise RLIMIT_NOFILE (LimitNOFILE= of a unit), or loops"
        );
    }

    /// From now on clients are counted by their address: those who are here stay, and count.
    pub(super) fn count_all(&mut self) {
        let (house, mut from) = (&self.core.means.house, 0);
        while let Some((key, _)) = self.clients.next_from(from)
            && house.per_address > 0
        {
            from = key.index + 1;
            let Some(client) = self.clients.get_mut(key) else {
                continue;
            };
            let address = client.session.peer().ip();
            let held = client.bits & (Bits::PLACED | Bits::COUNTED);
            if client.socket.is_some() && held == Bits::PLACED && !house.trusts(address) {
                self.door.quota.take(holder(address), u32::MAX);
                client.bits.insert(Bits::COUNTED);
            }
        }
    }

    /// Asked for each connection and request, never for a message: what it reads is shared.
    pub(super) fn look_at_memory(&mut self) {
        let percent = self.core.means.chunks.leased_percent();
        let was = self.core.stats.pressure;
        let now = was.next(percent);
        if now == was || (now < was && planted!(PressureForever)) {
            return;
        }
        self.core.stats.pressure = now;
        let shard = self.index;
        match now {
            Pressure::Low => info!("loop" = shard, percent; "memory is no longer short"),
            Pressure::High => {
                warn!("loop" = shard, percent; "memory is short: connections of plain HTTP end with their answers");
            }
            Pressure::Critical => {
                warn!("loop" = shard, percent; "memory is very short: new clients get 503");
            }
        }
    }
}

/// The number under which an address is counted: IPv6 networks give each host a /64 of its own
/// (RFC 7421), so more of the address names nobody. IPv4 takes numbers of ::/32, which nobody has.
fn holder(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    }
}

const FULL: Refusal = Refusal {
    status: 503,
    reason: "all connections are taken",
};

const CROWDED: Refusal = Refusal {
    status: 429,
    reason: "too many connections from your address",
};

const SHORT: Refusal = Refusal {
    status: 503,
    reason: "memory is short",
};

const SCARCE: Refusal = Refusal {
    status: 503,
    reason: "no descriptor is left for another session",
};

/// Between two lines about descriptors, in ms.
const TELL_PAUSE: u32 = 60_000;

/// Clients of one loop that may read why they were turned away: for a few seconds a slot each.
const LOBBY_MAX: u32 = 256;

/// No refusal has more bytes.
const WORDS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_counted_by_what_its_host_was_given() {
        let holder = |text: &str| holder(text.parse::<IpAddr>().unwrap());
        let same = [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1", "::ffff:10.0.0.1"),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
        ];
        for (one, other) in same {
            assert_eq!(holder(one), holder(other), "{one} and {other}");
        }
        let differ = [
            ("10.0.0.1", "10.0.0.2"),
            ("2001:db8:1:2::1", "2001:db8:1:3::1"),
            ("127.0.0.1", "::1"),
        ];
        for (one, other) in differ {
            assert_ne!(holder(one), holder(other), "{one} and {other}");
        }
    }
}
