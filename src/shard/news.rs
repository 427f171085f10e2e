//! What an operator who watches is told when it happens: losses, resumptions, changes of servers.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Io, Shard};
use crate::fleet::ServerState;
use crate::kit::Tick;
use crate::session::Dialect;

/// Something to be told at once. A server's own news come from its home loop alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A session has lost its server and waits for the next.
    Held(SessionNews),
    /// The next server has it: after so long, with so many messages sent again.
    Resumed {
        session: SessionNews,
        held_ms: u32,
        replayed: u32,
    },
    /// A session ended for want of a server or of memory, or not all of its messages were confirmed.
    Ended {
        session: SessionNews,
        unconfirmed: u32,
    },
    Breaker {
        server: u16,
        open: bool,
    },
    Health {
        server: u16,
        healthy: bool,
    },
    State {
        server: u16,
        state: ServerState,
    },
    Weight {
        server: u16,
        weight: u32,
    },
    Joined {
        server: u16,
    },
}

/// The session that news are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionNews {
    pub id: u128,
    pub client: SocketAddr,
    pub pool: Option<u16>,
    pub server: Option<u16>,
    /// Why; empty where there is nothing to explain.
    pub reason: &'static str,
}

/// Is told; must not block.
pub type Watcher = Arc<dyn Fn(News) + Send + Sync>;

/// Tells the watcher, and of sessions only so much: the counters are exact, and a server that dies
/// with 100,000 sessions must not be followed by 100,000 letters.
#[derive(Default)]
pub(super) struct Teller {
    watcher: Option<Watcher>,
    /// Of [`SESSIONS_MAX`], this loop's.
    share: u32,
    since: Option<Tick>,
    told: u32,
}

impl Teller {
    /// News of a server.
    pub(super) fn tell(&self, news: News) {
        if let Some(watcher) = &self.watcher {
            watcher(news);
        }
    }

    /// News of a session, unless there were too many within this second.
    pub(super) fn tell_of_session(&mut self, now: Tick, news: News) {
        if self.since.is_none_or(|since| now.since(since) >= 1_000) {
            (self.since, self.told) = (Some(now), 0);
        }
        if self.told < self.share {
            self.told += 1;
            self.tell(news);
        }
    }
}

impl<I: Io, D: Dialect> Shard<I, D> {
    /// Whom to tell from now on.
    pub fn watch(&mut self, watcher: Watcher) {
        self.teller.watcher = Some(watcher);
        self.teller.share = (SESSIONS_MAX / self.shards as u32).max(1);
    }

    /// Tells of a server, if this is its home: all loops know, one speaks.
    pub(super) fn tell_at_home(&self, server: u16, news: News) {
        if usize::from(server) % self.shards == self.index {
            self.teller.tell(news);
        }
    }
}

/// Sessions that all loops together tell of in a second: what a person can still read.
const SESSIONS_MAX: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn sessions_are_told_of_up_to_a_limit_per_second_and_servers_always() {
        let told = Arc::<Mutex<Vec<News>>>::default();
        let theirs = Arc::clone(&told);
        let mut teller = Teller {
            watcher: Some(Arc::new(move |news| theirs.lock().unwrap().push(news))),
            share: 50,
            ..Teller::default()
        };
        let held = News::Held(SessionNews {
            id: 1,
            client: SocketAddr::from(([127, 0, 0, 1], 1)),
            pool: None,
            server: None,
            reason: "reset",
        });
        let breaker = News::Breaker {
            server: 0,
            open: true,
        };
        // Half a second that passes the wrap of the clock, and then another second.
        for (now, each) in [(Tick(u32::MAX - 100), 40), (Tick(400), 40), (Tick(900), 7)] {
            (0..each).for_each(|_| teller.tell_of_session(now, held.clone()));
            teller.tell(breaker.clone());
        }
        let told = told.lock().unwrap();
        let breakers = told.iter().filter(|news| **news == breaker).count();
        assert_eq!(breakers, 3);
        assert_eq!(told.len() - breakers, 50 + 7);
    }
}
