//! What an operator who watches is told when it happens: losses, resumptions, changes of servers.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Io, Shard};
use crate::fleet::{Fleet, ServerState};
use crate::kit::Tick;
use crate::session::{Dialect, Life, Loss, Session};

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

/// Something in the life of a session, for an embedder's watcher. Of each session that its client
/// was let into: first `Opened`, last `Ended`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The random 128-bit id; `X-Wsteady-Session` in 32 hexadecimal digits.
    pub session: u128,
    /// The client's address.
    pub client: SocketAddr,
    /// The name of its pool.
    pub pool: String,
    /// The id of the server that it has, or had last. `None` on a bridge, whose calls go here and
    /// there.
    pub server: Option<String>,
    /// Messages that its servers were to get so far (in `Ended` without the unconfirmed ones), and
    /// that its client was to get.
    pub messages_up: u64,
    pub messages_down: u64,
    /// Servers that it has lost or left so far.
    pub failovers: u32,
    /// Notices before this one that found the watcher's queue full, since the last one told.
    pub missed: u64,
    pub what: Happened,
}

/// What has happened to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happened {
    /// The client was let in; path and query.
    Opened { target: String },
    /// A server has it: the first, or the next after so many milliseconds without one.
    Bound { held_ms: u32 },
    /// Its server is gone, for the reason of `wsteady_failovers_total`: it waits for the next.
    Lost { reason: &'static str },
    /// So many messages are sent to the server that it was bound to just now, which the last one may
    /// have had already.
    Replayed { messages: u32 },
    /// It has left its server, as an operator wanted: it waits for the next.
    Moved,
    /// It is over, for the reason in the log's line; so many messages were never confirmed.
    Ended {
        reason: &'static str,
        unconfirmed: u32,
    },
}

/// Is told of each notice; must not block.
pub type Notify = Arc<dyn Fn(Notice) + Send + Sync>;

/// Tells the watcher, and of sessions only so much: the counters are exact, and a server that dies
/// with 100,000 sessions must not be followed by 100,000 letters.
#[derive(Default)]
pub(super) struct Teller {
    watcher: Option<Watcher>,
    notifies: Vec<Notify>,
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

    /// What a watcher of sessions wants to know of this.
    pub(super) fn notice(&self, fleet: &Fleet, session: &Session, life: &Life) {
        // Who was never let in has no life to be watched.
        if self.notifies.is_empty() || !session.was_opened() {
            return;
        }
        for what in happened(session, life).into_iter().flatten() {
            let server = session.server().filter(|_| !session.is_bridged());
            let server = server.map(|server| fleet.servers[usize::from(server)].id.clone());
            let pool = session.pool().map(usize::from);
            let notice = Notice {
                session: session.id(),
                client: session.peer(),
                pool: pool.map_or(String::new(), |pool| fleet.pools[pool].name.clone()),
                server,
                messages_up: session.messages_up(),
                messages_down: session.messages_down(),
                failovers: session.failovers(),
                missed: 0,
                what,
            };
            for notify in &self.notifies {
                notify(notice.clone());
            }
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

    /// One more who is told of sessions from now on.
    pub fn notify(&mut self, notify: Notify) {
        self.teller.notifies.push(notify);
    }

    /// Tells of a server, if this is its home: all loops know, one speaks.
    pub(super) fn tell_at_home(&self, server: u16, news: News) {
        if usize::from(server) % self.shards == self.index {
            self.teller.tell(news);
        }
    }
}

/// What an event is to a watcher: nothing, or one thing or two.
fn happened(session: &Session, life: &Life) -> [Option<Happened>; 2] {
    // Calls bind a session to nobody.
    let bound = |held_ms| (!session.is_bridged()).then_some(Happened::Bound { held_ms });
    match *life {
        Life::Opened => {
            let target = session.target();
            [Some(Happened::Opened { target }), bound(0)]
        }
        Life::Lost(Loss::Moved) => [Some(Happened::Moved), None],
        Life::Lost(loss) => {
            let reason = loss.name();
            [Some(Happened::Lost { reason }), None]
        }
        Life::Resumed { held_ms, replayed } => {
            let replay = Happened::Replayed { messages: replayed };
            [bound(held_ms), (replayed > 0).then_some(replay)]
        }
        Life::Ended { end, unconfirmed } => {
            let reason = end.name();
            [
                Some(Happened::Ended {
                    reason,
                    unconfirmed,
                }),
                None,
            ]
        }
        Life::Failed(_) | Life::GivenUp { .. } | Life::ValveFailed(_) | Life::Denied { .. } => {
            [None, None]
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
