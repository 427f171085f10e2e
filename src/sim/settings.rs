//! What the pools of a run are told of how sessions behave, from first to last.

use std::sync::Arc;

use super::guise;
use super::world::World;
use crate::fleet::{Balance, Charter, Kind, Pool, Terms};
use crate::kit::{Prng, Rate};
use crate::session::{Confirm, House, Settings};
use crate::shard::{Mail, Rules};

/// All settings that a pool has had. A session may still go by earlier ones (its deadline ran, or
/// its shard had not heard), so a law allows what any of them allows.
pub struct Course(Vec<Settings>);

impl Course {
    pub fn new(first: Settings) -> Course {
        Course(vec![first])
    }

    pub fn change(&mut self, other: Settings) {
        self.0.push(other);
    }

    /// Those that hold now.
    pub fn now(&self) -> &Settings {
        self.0.last().expect("there is a first")
    }

    pub fn ever(&self, is: impl Fn(&Settings) -> bool) -> bool {
        self.0.iter().any(is)
    }

    pub fn least<T: Ord>(&self, of: impl Fn(&Settings) -> T) -> T {
        self.0.iter().map(of).min().expect("there is a first")
    }

    pub fn most<T: Ord>(&self, of: impl Fn(&Settings) -> T) -> T {
        self.0.iter().map(of).max().expect("there is a first")
    }
}

impl World {
    /// The limits of a run, for all clients.
    pub fn house(&self) -> House {
        House {
            message_max: self.message_max as u64,
            handshake: 3_000,
            message_time: 20_000,
            pings: 0,
            per_address: self.laws.crowd.limit(),
            trusted: guise::trusted(),
            ..House::default()
        }
    }

    /// The configuration is read again: other settings for one pool, and perhaps other ways to
    /// choose, other bounds, another patience with its servers.
    pub fn reload(&mut self) {
        self.coverage.reloads += 1;
        let pool = self.rng.below(self.settings.len() as u32) as usize;
        let mut other = any(&mut self.rng);
        other.connect = self.settings[pool].now().connect;
        if !self.fickle {
            // In most runs what is promised stays, and with it the laws are as strict as can be.
            let now = self.settings[pool].now();
            (other.confirm, other.overflow_close) = (now.confirm, now.overflow_close);
        }
        self.settings[pool].change(other);
        let mut charter = Charter {
            pools: self.fleet.pools.clone(),
            routes: self.fleet.routes.clone(),
            terms: Vec::new(),
        };
        charter.pools[pool].balance = balance(&mut self.rng);
        let rate = &mut charter.pools[pool].connect_rate;
        *rate = Arc::new(Rate::new(connect_rate(&mut self.rng)));
        let threshold = threshold(&mut self.rng);
        let terms = self.fleet.servers.iter().map(|server| Terms {
            prefix: String::new(),
            threshold,
            cooldown: server.cooldown,
        });
        charter.terms = terms.collect();
        self.fleet.adopt(&charter);
        self.laws.crowd.change(&mut self.rng);
        let rules = Rules {
            charter,
            house: self.house(),
            settings: self
                .settings
                .iter()
                .map(|pool| pool.now().clone())
                .collect(),
        };
        if self.rng.chance(1, 2) {
            let door = self.rng.below(self.doors.len() as u32) as usize;
            let until = self.now + u64::from(self.rng.below(300));
            self.doors[door].mail.delay(until);
        }
        self.tell_all(&Mail::Rules(Arc::new(rules)));
    }
}

/// Settings of a pool, by chance.
pub fn any(rng: &mut Prng) -> Settings {
    let confirm = [
        Confirm::Received,
        Confirm::Received,
        Confirm::Processed,
        Confirm::Written,
    ];
    Settings {
        buffer: [8 << 10, 64 << 10, 400 << 10][rng.below(3) as usize],
        hold: 5_000 + rng.below(3_000),
        admit: 1_500,
        confirm: confirm[rng.below(4) as usize],
        overflow_close: rng.chance(1, 8),
        atomic: [1_000, 8 << 10, 64 << 10][rng.below(3) as usize],
        replay_attempts: 3,
        barrier_delay: 10 + rng.below(60),
        barrier_bytes: [2 << 10, 64 << 10][rng.below(2) as usize],
        connect: 500,
        handshake: 1_200,
        ping: 1_500 + rng.below(500),
        pong: 2_000,
        close: 800,
        ..Settings::default()
    }
}

/// How a pool chooses, by chance.
pub fn balance(rng: &mut Prng) -> Balance {
    [
        Balance::RoundRobin,
        Balance::Random,
        Balance::LeastConnections,
    ][rng.below(3) as usize]
}

pub fn connect_rate(rng: &mut Prng) -> u32 {
    [0, 0, 30][rng.below(3) as usize]
}

pub fn threshold(rng: &mut Prng) -> u32 {
    [0, 3, 10][rng.below(3) as usize]
}

/// A pool without servers.
pub fn pool(name: String, rng: &mut Prng) -> Pool {
    Pool {
        balance: balance(rng),
        connect_rate: Arc::new(Rate::new(connect_rate(rng))),
        ..Pool::new(&name, Kind::WebSocket)
    }
}
