//! Who comes in: clients of few addresses, of which each has its bound; and memory that others of the
//! process take. The law: who finds a place is let in, who finds none is told so, and nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::pipe::Far;
use super::press::Press;
use super::world::{Sim, World};
use crate::kit::pressure::{CRITICAL, CRITICAL_LEAVE};
use crate::kit::{Budget, Prng};
use crate::session::Phase;
use crate::session::dialect::ws::Ws;
use crate::shard::Shard;

/// The bounds of a run, and whom they met.
#[derive(Default)]
pub struct Crowd {
    pub press: Press,
    /// All that `limits.per_address` was: a shard may not have heard of the last.
    limits: Vec<u32>,
    /// In this turn.
    arrivals: Vec<Arrival>,
    refused: BTreeSet<usize>,
}

/// Somebody was accepted, while so many of his address were here, and so much memory was leased.
struct Arrival {
    client: usize,
    standing: u32,
    percent: u64,
}

impl Crowd {
    pub fn new(memory: Arc<Budget>, rng: &mut Prng) -> Crowd {
        Crowd {
            press: Press::new(memory),
            limits: vec![any_limit(rng)],
            ..Crowd::default()
        }
    }

    /// Connections of one address, from now on.
    pub fn limit(&self) -> u32 {
        self.limits.last().copied().unwrap_or(0)
    }

    pub fn change(&mut self, rng: &mut Prng) {
        if rng.chance(1, 3) {
            self.limits.push(any_limit(rng));
        }
    }

    /// Whether this client was turned away.
    pub fn has_refused(&self, client: usize) -> bool {
        self.refused.contains(&client)
    }

    /// Whether one more may be let in beside so many, and whether he must be.
    fn has_place(&self, standing: u32, percent: u64) -> (bool, bool) {
        let room = |limit: &u32| *limit == 0 || standing < *limit;
        let may = self.limits.iter().any(room) && percent < CRITICAL;
        let must = self.limits.iter().all(room) && percent < CRITICAL_LEAVE;
        (may, must)
    }
}

impl World {
    /// Other loops, say, take most of the memory that is left.
    pub fn press(&mut self, until: u64) {
        if self.laws.squeezed {
            return;
        }
        let percent = 75 + u64::from(self.rng.below(21));
        self.laws.crowd.press.begin(percent, self.now, until);
        self.coverage.presses += 1;
        self.note(format_args!("{percent} % of memory are leased"));
    }

    /// A shard has accepted this client.
    pub fn on_arrival(&mut self, client: usize) {
        let crowd = &self.laws.crowd;
        let home = address_of(client).ip();
        let stands = |id: &&usize| match self.conns[**id].far {
            Far::Client(other) => {
                let here = self.conns[**id].proxy_open && self.conns[**id].accepted;
                here && address_of(other).ip() == home && !crowd.has_refused(other)
            }
            Far::Server(_) => false,
        };
        let arrival = Arrival {
            client,
            standing: self.live.iter().filter(stands).count() as u32,
            percent: crowd.press.percent(),
        };
        self.laws.crowd.arrivals.push(arrival);
    }

    /// Each that came in this turn was let in, or told why not.
    pub fn check_arrivals(&mut self, shard: &Shard<Sim, Ws>) {
        // Those turned away in this turn stood there for those who came behind them.
        let mut gone: BTreeMap<_, u32> = BTreeMap::new();
        for arrival in std::mem::take(&mut self.laws.crowd.arrivals) {
            let Arrival {
                client,
                standing,
                percent,
            } = arrival;
            let port = client as u16;
            let mut sessions = shard.sessions();
            let session = sessions.find(|session| session.peer().port() == port);
            let phase = session.map(|session| session.phase());
            let refused = phase == Some(Phase::Parting);
            let gone = gone.entry(address_of(client).ip()).or_default();
            let standing = standing - *gone;
            let (may, must) = self.laws.crowd.has_place(standing, percent);
            let scene = format!("{standing} stand, {percent} % are leased, {phase:?}");
            assert!(phase.is_some(), "law: client {client} gets a word: {scene}");
            assert!(may || refused, "law: client {client} is too many: {scene}");
            assert!(
                !must || !refused,
                "law: client {client} has a place: {scene}"
            );
            if refused {
                *gone += 1;
                self.coverage.turned_away += 1;
                self.laws.crowd.refused.insert(client);
            }
        }
    }
}

/// The port names the client, so that a law can tell whose session it is.
pub fn address_of(client: usize) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, (client % HOMES) as u8], client as u16))
}

fn any_limit(rng: &mut Prng) -> u32 {
    [0, 0, 1, 3][rng.below(4) as usize]
}

/// Addresses of clients.
const HOMES: usize = 3;
