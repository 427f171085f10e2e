//! Connections to a server are counted for the whole process. A shard that has none left, and calls
//! that wait, asks the others; one of them closes a connection and hands over the right to open one.
//! An even share is each shard's by right. What one has beyond it moves only when it rests: given away
//! whenever a line is empty for a moment, it would be asked back a moment later.

use super::{Io, Mail, Shard, State};
use crate::kit::{Key, Tick};
use crate::session::Dialect;

/// What this shard owes to others, and what it was given.
#[derive(Default)]
pub(super) struct Permits {
    owed: Vec<Debt>,
    /// Servers to which a connection may be opened, counted already.
    granted: Vec<u16>,
    /// When the others were asked last.
    asked: Vec<(u16, Tick)>,
}

impl Permits {
    /// What was granted was taken, or returned.
    pub(super) fn is_settled(&self) -> bool {
        self.granted.is_empty()
    }
}

/// Another shard has less than its even share.
struct Debt {
    server: u16,
    shard: u16,
    since: Tick,
}

impl<I: Io, D: Dialect> Shard<I, D> {
    /// All connections to this server are taken: the other shards are asked for one, if one of them
    /// may have one to give.
    pub(super) fn ask_for_permit(&mut self, server: u16) {
        let now = self.core.now;
        let by_right = self.shelf.stands(server) < self.even_share(server).max(1);
        if !by_right && !self.fleet.servers[usize::from(server)].shared.has_resting() {
            return;
        }
        let asked = &mut self.permits.asked;
        asked.retain(|(_, at)| now.since(*at) < ASK_PAUSE);
        if asked.iter().any(|(one, _)| *one == server) {
            return;
        }
        asked.push((server, now));
        let from = self.index as u16;
        for shard in (0..self.shards).filter(|shard| *shard != self.index) {
            let wish = Mail::Permit {
                server,
                from,
                by_right,
            };
            self.io.send(shard, wish);
        }
    }

    /// Another shard needs a connection: one that rests here, or `by_right` the next one that would.
    pub(super) fn on_permit_wanted(&mut self, server: u16, from: u16, by_right: bool) {
        let spare = by_right && self.has_spare(server);
        let rests = self.rests_since(server) >= REST;
        if (spare || rests)
            && let Some(upstream) = self.take_idle(server)
        {
            return self.hand_over(upstream, from);
        }
        if !by_right {
            return;
        }
        let known = |debt: &Debt| (debt.server, debt.shard) == (server, from);
        if !self.permits.owed.iter().any(known) {
            let since = self.core.now;
            self.permits.owed.push(Debt {
                server,
                shard: from,
                since,
            });
        }
    }

    /// The shard that gets the permit of a connection whose call is over. `waits`: calls of this
    /// shard want it as well, and each move costs a new connection.
    pub(super) fn creditor(&mut self, server: u16, waits: bool) -> Option<u16> {
        if self.permits.owed.is_empty() || !self.has_spare(server) {
            return None;
        }
        let now = self.core.now;
        let owed = &mut self.permits.owed;
        owed.retain(|debt| now.since(debt.since) < DEBT_LIFE);
        let due = |debt: &Debt| !waits || now.since(debt.since) >= MOVE_PAUSE;
        let place = owed
            .iter()
            .position(|debt| debt.server == server && due(debt))?;
        Some(owed.remove(place).shard)
    }

    /// Whether this shard has more connections to a server than an even share of all. Where calls
    /// wait everywhere, the even shares stay where they are: moving them would cost each shard
    /// connections, and help none.
    fn has_spare(&self, server: u16) -> bool {
        self.shelf.stands(server) > self.even_share(server) || planted!(ShareGiven)
    }

    fn even_share(&self, server: u16) -> u32 {
        let place = self.fleet.servers.get(usize::from(server));
        let pool = place.map(|place| &self.fleet.pools[usize::from(place.pool)]);
        pool.map_or(0, |pool| pool.connections.max / self.shards as u32)
    }

    /// Closes a connection; its permit goes to another shard.
    pub(super) fn hand_over(&mut self, upstream: Key, to: u16) {
        let Some(slot) = self.upstreams.get(upstream) else {
            return;
        };
        let server = slot.server;
        // Counted once more, so that nobody takes it on the way.
        self.fleet.servers[usize::from(server)].shared.connected();
        self.drop_upstream(upstream);
        self.post(usize::from(to), Mail::Granted { server });
    }

    /// A connection may be opened here.
    pub(super) fn on_granted(&mut self, server: u16) {
        self.permits.granted.push(server);
        if self.state == State::Stopped || !self.shelf.has_waiting() {
            return self.return_permits();
        }
        self.shelf.free();
    }

    /// Whether a connection may be opened to this server, and is counted already.
    pub(super) fn take_granted(&mut self, server: u16) -> bool {
        let granted = &mut self.permits.granted;
        let place = granted.iter().position(|one| *one == server);
        place.map(|place| granted.swap_remove(place)).is_some()
    }

    /// What nobody here had a use for is free for all.
    pub(super) fn return_permits(&mut self) {
        for server in self.permits.granted.drain(..) {
            self.fleet.servers[usize::from(server)]
                .shared
                .disconnected();
        }
    }
}

/// How often the others are asked for a connection to one server, in ms.
const ASK_PAUSE: u32 = 20;

/// How long calls that wait here keep a connection from another shard, in ms: moving one costs a
/// new connection.
const MOVE_PAUSE: u32 = 100;

/// What rests for so long, in ms, is not needed where it is.
const REST: u32 = 10;

/// What was asked for so long ago, in ms, is not wanted any more.
const DEBT_LIFE: u32 = 1_000;
