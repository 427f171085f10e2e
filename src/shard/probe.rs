//! Health checks: probes ride on upstreams like anybody else, but for the fleet. Each server is
//! probed by its home loop, all of them at once, and the verdict goes to all others by mail.

use std::io::IoSlice;

use log::{info, warn};

use super::news::News;
use super::{
    Bits, Dialled, Got, Io, Kind, Mail, READ_MAX, Ready, STASH_ROOM, Shard, Token, Upstream,
};
use crate::fleet::health::{Expect, Trend, Vitals};
use crate::kit::{Chain, Key, Spot, Tick};
use crate::session::{Api, Dial, Dialect, Heard, Kept, Terms, probe_request};

/// Who rides on a probe's upstream: nobody's client.
pub(super) const PROBE: Key = Key {
    index: u32::MAX,
    generation: 1,
};

/// The probes of one server.
pub(super) struct Probe {
    server: u16,
    /// Under way, or none.
    upstream: Key,
    /// When the next one begins, or the present one is given up.
    due: Tick,
    trend: Trend,
}

impl Probe {
    /// The first one is due at once. Servers that nobody has probed yet are held healthy.
    pub(super) fn new(server: u16, healthy: bool, now: Tick) -> Probe {
        Probe {
            server,
            upstream: Key::NONE,
            due: now,
            trend: Trend::of(healthy),
        }
    }
}

impl<I: Io, D: Dialect> Shard<I, D> {
    /// Begins what is due, gives up what is late.
    pub(super) fn probe(&mut self) {
        let now = self.core.now;
        for at in 0..self.probes.len() {
            if self.probes[at].due.is_due(now) {
                if self.probes[at].upstream.is_none() {
                    self.begin_probe(at);
                } else if !planted!(ProbeHangs) {
                    self.end_probe(at, false, None);
                }
            }
            let wait = self.probes[at].due.since(now);
            self.want_chores(wait.min(PROBE_PAUSE_MAX));
        }
    }

    fn begin_probe(&mut self, at: usize) {
        let now = self.core.now;
        let server = self.probes[at].server;
        let place = &self.fleet.servers[usize::from(server)];
        let pool = &self.fleet.pools[usize::from(place.pool)];
        let Some(health) = &pool.health else { return };
        self.probes[at].due = now.after(health.timeout);
        let token = Token::upstream(self.upstreams.next_key());
        let interval = health.interval;
        let socket = match self.dial_from_any(server, None, token) {
            Dialled::Socket(socket) => socket,
            Dialled::Refused => return self.end_probe(at, false, None),
            // That says something of this machine, and nothing of the server.
            Dialled::NoPort | Dialled::Exhausted if !planted!(WantBlamed) => {
                self.probes[at].due = now.after(interval);
                return;
            }
            Dialled::NoPort | Dialled::Exhausted => return self.end_probe(at, false, None),
        };
        let place = &self.fleet.servers[usize::from(server)];
        let pool = &self.fleet.pools[usize::from(place.pool)];
        let Some(health) = &pool.health else { return };
        let core = &mut self.core;
        core.first_bytes.clear();
        let dialect = match health.expect {
            Expect::WebSocket => {
                let kept = Kept::new("", format!("Host: {}\r\n", place.authority).as_bytes());
                let dial = Dial {
                    prefix: &health.path,
                    fixed: true,
                    kept: &kept,
                    extra: &[],
                    plain: true,
                    first: false,
                    pass: &[],
                    head_max: core.means.house.header_max,
                };
                Some(D::open(dial, &mut core.means.rng, &mut core.first_bytes))
            }
            Expect::Status | Expect::JsonStatus | Expect::Tcp => {
                probe_request(&health.path, &place.authority, &mut core.first_bytes);
                D::for_calls(&Terms {
                    head_max: core.means.house.header_max,
                    body_max: BODY_MAX,
                    streams: false,
                    api: &Api::Http,
                    pool: &pool.name,
                })
            }
        };
        let Some(dialect) = dialect.filter(|_| core.means.chunks.room(core.first_bytes.len()))
        else {
            // No memory, or a world without calls.
            self.io.close(socket);
            self.probes[at].due = now.after(health.interval);
            return;
        };
        let mut spill = Chain::new();
        core.means.chunks.push(&mut spill, &core.first_bytes);
        let inserted = self.upstreams.insert(Upstream {
            dialect,
            socket,
            rider: PROBE,
            server,
            bits: Bits::default(),
            stash: Chain::new(),
            spill,
        });
        debug_assert_eq!(token.kind(), Some(Kind::Upstream(inserted)));
        self.probes[at].upstream = inserted;
    }

    /// Something happened to a probe's connection.
    pub(super) fn probe_ready(&mut self, key: Key, ready: Ready) {
        let Some(at) = self.probes.iter().position(|probe| probe.upstream == key) else {
            return;
        };
        let Some(slot) = self.upstreams.get_mut(key) else {
            return;
        };
        if !slot.bits.contains(Bits::DONE) {
            if !(ready.writable || ready.ended) {
                return;
            }
            if !self.io.is_connected(&mut slot.socket) {
                return self.end_probe(at, false, None);
            }
            slot.bits.insert(Bits::DONE);
            let pool = self.fleet.servers[usize::from(slot.server)].pool;
            let health = self.fleet.pools[usize::from(pool)].health.as_ref();
            if health.is_some_and(|health| health.expect == Expect::Tcp) {
                return self.end_probe(at, true, None);
            }
            // One small request into an empty socket: it fits, or the time-out ends it.
            let chunks = &mut self.core.means.chunks;
            let parts: Vec<IoSlice<'_>> = chunks
                .slices(&slot.spill, Spot::FRONT)
                .map(IoSlice::new)
                .collect();
            self.io.write(&mut slot.socket, &parts);
            chunks.clear(&mut slot.spill);
        }
        if ready.readable || ready.ended {
            self.read_probe(at, key);
        }
    }

    fn read_probe(&mut self, at: usize, key: Key) {
        loop {
            let Some(slot) = self.upstreams.get_mut(key) else {
                return;
            };
            let kept = slot.stash.len();
            if kept > STASH_ROOM - READ_MAX || !self.core.means.chunks.room(READ_MAX) {
                return self.end_probe(at, false, None);
            }
            let new = match self
                .io
                .read(&mut slot.socket, &mut self.scratch[STASH_ROOM..])
            {
                Got::Bytes(new) => new,
                Got::Wait => return,
                Got::End => {
                    let heard = slot.dialect.hear_end();
                    return self.judge_probe(at, heard);
                }
                Got::Broken => return self.end_probe(at, false, None),
            };
            let mut from = STASH_ROOM - kept;
            let chunks = &mut self.core.means.chunks;
            chunks.peek(
                &slot.stash,
                Spot::FRONT,
                &mut self.scratch[from..STASH_ROOM],
            );
            chunks.clear(&mut slot.stash);
            while from < STASH_ROOM + new {
                let (used, heard) = slot.dialect.hear(&self.scratch[from..STASH_ROOM + new]);
                match heard {
                    Heard::More => {
                        chunks.push(&mut slot.stash, &self.scratch[from..STASH_ROOM + new]);
                        break;
                    }
                    Heard::Nothing => from += used,
                    heard => return self.judge_probe(at, heard),
                }
            }
        }
    }

    fn judge_probe(&mut self, at: usize, heard: Heard) {
        let pool = self.fleet.servers[usize::from(self.probes[at].server)].pool;
        let expect = self.fleet.pools[usize::from(pool)]
            .health
            .as_ref()
            .map(|health| health.expect);
        match (heard, expect) {
            (Heard::Ready(_), _) => self.end_probe(at, true, None),
            (Heard::Reply(reply), expect) => {
                let good = (200..300).contains(&reply.status);
                let vitals = (self.read_vitals)(&reply.body);
                let good = match expect {
                    Some(Expect::JsonStatus) => good && vitals.is_some_and(|vitals| vitals.ok),
                    _ => good,
                };
                self.end_probe(at, good, vitals);
            }
            _ => self.end_probe(at, false, None),
        }
    }

    /// A probe is over, one way or the other.
    fn end_probe(&mut self, at: usize, good: bool, vitals: Option<Vitals>) {
        let now = self.core.now;
        let probe = &mut self.probes[at];
        let server = probe.server;
        let upstream = std::mem::replace(&mut probe.upstream, Key::NONE);
        self.drop_probe(upstream);
        let place = &self.fleet.servers[usize::from(server)];
        let pool = &self.fleet.pools[usize::from(place.pool)];
        let Some(health) = &pool.health else { return };
        let probe = &mut self.probes[at];
        probe.due = now.after(health.interval);
        let changed = probe.trend.on_probe(good, health);
        let share = vitals
            .filter(|_| good)
            .map_or(place.share, |vitals| vitals.share());
        let id = place.id.as_str();
        match changed {
            Some(true) => info!(server = id; "healthy"),
            Some(false) => warn!(server = id; "unhealthy"),
            None if share == place.share => return,
            None => {}
        }
        if let Some(healthy) = changed {
            self.teller.tell(News::Health { server, healthy });
        }
        let healthy = changed.unwrap_or(place.healthy);
        let others = (0..self.shards).filter(|shard| *shard != self.index);
        for shard in others.filter(|_| !planted!(VerdictUnsent)) {
            self.io.send(
                shard,
                Mail::Health {
                    server,
                    healthy,
                    share,
                },
            );
        }
        self.set_health(server, healthy, share);
    }

    pub(super) fn set_health(&mut self, server: u16, healthy: bool, share: u32) {
        let Some(place) = self.fleet.servers.get_mut(usize::from(server)) else {
            return;
        };
        // The last word of probes that have been given up since would stand for ever.
        if self.fleet.pools[usize::from(place.pool)].health.is_some() {
            (place.healthy, place.share) = (healthy, share);
        }
    }

    /// A server is probed from now on, if its pool is and if this is its home.
    pub(super) fn begin_probes(&mut self, server: u16) {
        let place = &self.fleet.servers[usize::from(server)];
        let probed = self.fleet.pools[usize::from(place.pool)].health.is_some();
        if probed && usize::from(server) % self.shards == self.index {
            let healthy = planted!(TrendForgets) || place.healthy;
            self.probes.push(Probe::new(server, healthy, self.core.now));
            self.want_chores(0);
        }
    }

    /// It is not asked any more.
    pub(super) fn end_probes(&mut self, server: u16) {
        let at = self.probes.iter().position(|probe| probe.server == server);
        if let Some(at) = at {
            let probe = self.probes.remove(at);
            self.drop_probe(probe.upstream);
        }
    }

    /// Nothing is asked any more: the shard stops.
    pub(super) fn stop_probes(&mut self) {
        for probe in std::mem::take(&mut self.probes) {
            self.drop_probe(probe.upstream);
        }
    }

    fn drop_probe(&mut self, upstream: Key) {
        if let Some(mut slot) = self.upstreams.remove(upstream) {
            self.core.means.chunks.clear(&mut slot.stash);
            self.core.means.chunks.clear(&mut slot.spill);
            self.io.close(slot.socket);
        }
    }
}

/// Bytes of a probe's answer that are read.
const BODY_MAX: u64 = 64 << 10;

/// Chores look at the probes at least so often, in ms.
const PROBE_PAUSE_MAX: u32 = 60_000;
