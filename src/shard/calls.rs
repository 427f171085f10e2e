//! Calls: connections that are lent out for one answer at a time, and rest on a shelf in between.

use std::collections::VecDeque;

use super::chores::QUEUE_PAUSE;
use super::directory::Seat;
use super::{
    Asker, Bits, Client, Dialled, Io, Kind, Mail, Push, PushVerb, Pushed, Shard, State, Token,
    Upstream,
};
use crate::fleet::balance::{NoChoice, Wish, fingerprint};
use crate::fleet::{Balance, Pool, Spread};
use crate::kit::{Chain, Key, Tick};
use crate::session::{CallTo, Dialect, Event, Loss, Nobody, Session, Terms};

/// Connections that carry no call now, by server.
#[derive(Default)]
pub(super) struct Shelf {
    idle: Vec<Vec<Rest>>,
    /// Sessions whose call waits for a connection to become free, by pool.
    waiting: Vec<Line>,
    /// How many of them, also while their line is being served.
    waiting_in: Vec<u32>,
    /// Clients that are not read because so many calls of their pool wait, in their order.
    crowds: Vec<VecDeque<Key>>,
    /// A connection has become free since they were looked at.
    freed: bool,
    /// Servers that have failed since their last success: that one is told, the others need not be.
    soured: Vec<bool>,
    /// Connections on the shelf.
    count: usize,
    /// Connections of this shard to each server, those that carry something included.
    stands: Vec<u32>,
}

/// Who waits, and at which server.
type Line = VecDeque<(Key, u16)>;

struct Rest {
    upstream: Key,
    since: Tick,
}

impl Shelf {
    pub(super) fn new(servers: usize, pools: usize) -> Shelf {
        Shelf {
            waiting: vec![Line::new(); pools],
            waiting_in: vec![0; pools],
            crowds: vec![VecDeque::new(); pools],
            idle: (0..servers).map(|_| Vec::new()).collect(),
            soured: vec![false; servers],
            stands: vec![0; servers],
            ..Shelf::default()
        }
    }

    /// Another server has come; its connections are there to be had.
    pub(super) fn join(&mut self) {
        self.idle.push(Vec::new());
        self.soured.push(false);
        self.stands.push(0);
        self.freed = true;
    }

    /// There are so many pools now.
    pub(super) fn grow(&mut self, pools: usize) {
        self.waiting.resize(pools, Line::new());
        self.waiting_in.resize(pools, 0);
        self.crowds.resize(pools, VecDeque::new());
    }

    /// How many servers it has room for.
    pub(super) fn servers(&self) -> usize {
        debug_assert_eq!(self.idle.len(), self.soured.len());
        self.idle.len()
    }

    /// Whether somebody waits for what is there now.
    pub(super) fn is_wanted(&self) -> bool {
        self.freed && self.has_waiting()
    }

    /// Whether calls wait for a connection, or clients for those.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting_in.iter().any(|count| *count > 0)
            || self.crowds.iter().any(|crowd| !crowd.is_empty())
    }

    /// Calls of one pool that wait.
    pub(super) fn waits(&self, pool: u16) -> u32 {
        self.waiting_in[usize::from(pool)]
    }

    /// Whether a client's message would wait behind very many, or behind clients who came before.
    pub(super) fn is_crowded(&self, pool: u16, line_max: u32) -> bool {
        self.waits(pool) >= line_max || !self.crowds[usize::from(pool)].is_empty()
    }

    /// The client stands behind all others who are not read.
    pub(super) fn crowd(&mut self, pool: u16, key: Key) {
        self.crowds[usize::from(pool)].push_back(key);
    }

    pub(super) fn next_of_crowd(&mut self, pool: u16) -> Option<Key> {
        self.crowds[usize::from(pool)].pop_front()
    }

    /// A connection was closed, or came back.
    pub(super) fn free(&mut self) {
        self.freed = true;
    }

    /// A connection to this server has begun.
    pub(super) fn begins(&mut self, server: u16) {
        self.stands[usize::from(server)] += 1;
    }

    /// It is over.
    pub(super) fn ends(&mut self, server: u16) {
        self.stands[usize::from(server)] -= 1;
        self.freed = true;
    }

    /// How many there are on this shard.
    pub(super) fn stands(&self, server: u16) -> u32 {
        self.stands
            .get(usize::from(server))
            .map_or(0, |count| *count)
    }

    /// Whether a success is news.
    pub(super) fn is_news(&mut self, server: u16, failed: bool) -> bool {
        let soured = &mut self.soured[usize::from(server)];
        std::mem::replace(soured, failed) || failed
    }
}

impl<I: Io, D: Dialect> Shard<I, D> {
    /// Begins the session's next call, if it is its turn: who has waited longer for a connection of
    /// this pool comes first, or else a session with much to say would keep one for itself.
    pub(super) fn begin_call(&mut self, key: Key) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        if client.bits.contains(Bits::WAITING) {
            // It keeps its place.
            return;
        }
        let pool = client.session.pool();
        let waits = pool.is_some_and(|pool| self.shelf.waiting_in[usize::from(pool)] > 0);
        if let Some(server) = self.find_connection(key, waits) {
            self.wait_at(key, server);
        }
    }

    /// Picks a server for the session's next call and a connection to it. One that has all the
    /// connections that it may have is passed over. `waits`: others are before it. Returns where it
    /// is to wait, if there is none.
    fn find_connection(&mut self, key: Key, waits: bool) -> Option<u16> {
        let client = self.clients.get(key)?;
        let (session, now) = (&client.session, self.core.now);
        let pool = session.pool()?;
        if !session.wants_call() || !client.upstream.is_none() {
            return None;
        }
        let attempt = session.attempt();
        let mut tried = attempt.map_or_else(Vec::new, |attempt| attempt.tried.clone());
        let desperate = attempt.is_some_and(|attempt| now.since(attempt.since) > 0);
        let hash = hash_of(&self.fleet.pools[usize::from(pool)], session);
        // The first choice, if it has no connection left.
        let mut full = None;
        loop {
            let wish = Wish {
                tried: &tried,
                last: None,
                hash,
                // One that is only full is better than one that is ill.
                desperate: desperate && full.is_none(),
            };
            let server = match (
                self.fleet.choose(pool, wish, now, &mut self.core.means.rng),
                full,
            ) {
                (Ok(server), _) => server,
                (Err(_), Some(first)) => return Some(first),
                (Err(none), None) => {
                    let nobody = match none {
                        NoChoice::AllTried => Nobody::AllTried,
                        NoChoice::NoneUsable => Nobody::NoneUsable,
                        NoChoice::Empty => Nobody::Empty,
                    };
                    self.call(key, Event::NoServer(nobody));
                    return None;
                }
            };
            if waits {
                return Some(server);
            }
            if let Some(upstream) = self.take_idle(server) {
                self.call(key, Event::Dialling { server });
                self.call(key, Event::Connected);
                self.put_call(key, upstream);
                return None;
            }
            let max = self.fleet.pools[usize::from(pool)].connections.max;
            let shared = &self.fleet.servers[usize::from(server)].shared;
            if shared.try_connect(max) || self.take_granted(server) {
                self.dial_for_call(key, pool, server);
                return None;
            }
            self.ask_for_permit(server);
            full = full.or(Some(server));
            tried.push(server);
        }
    }

    /// The session stands in line, unless too many do.
    fn wait_at(&mut self, key: Key, server: u16) {
        let place = &self.fleet.servers[usize::from(server)];
        let queue = self.fleet.pools[usize::from(place.pool)].connections.queue;
        if !place.shared.try_wait(queue) {
            return self.call(key, Event::NoServer(Nobody::Busy));
        }
        let pool = usize::from(place.pool);
        self.shelf.waiting_in[pool] += 1;
        self.shelf.waiting[pool].push_back((key, server));
        if let Some(client) = self.clients.get_mut(key) {
            client.bits.insert(Bits::WAITING);
        }
        self.want_chores(QUEUE_PAUSE);
    }

    /// What must always hold of the line; run in tests.
    pub(super) fn check_line(&self) {
        let mut places = vec![0; self.fleet.pools.len()];
        for (key, server) in self.shelf.waiting.iter().flatten() {
            places[usize::from(self.fleet.servers[usize::from(*server)].pool)] += 1;
            if let Some(client) = self.clients.get(*key) {
                assert!(client.bits.contains(Bits::WAITING), "in the line unknown");
            }
        }
        assert_eq!(places, self.shelf.waiting_in, "places by pool");
        let here = self.clients.iter();
        let marked = here.filter(|(_, client)| client.bits.contains(Bits::WAITING));
        let lined = |key: &Key| self.clients.get(*key).is_some();
        let keys = self.shelf.waiting.iter().flatten().map(|(key, _)| key);
        assert_eq!(marked.count(), keys.filter(|key| lined(key)).count());
        assert!(self.permits.is_settled(), "a permit is kept for nobody");
        for key in self.shelf.crowds.iter().flatten() {
            assert!(
                self.shelf.has_waiting() && self.chores.is_armed(),
                "{key:?} is forgotten"
            );
        }
    }

    /// What a request's body has brought goes to its server.
    pub(super) fn upload(&mut self, key: Key) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let upstream = client.upstream;
        if let Some(slot) = self.upstreams.get_mut(upstream) {
            let mut part = client.session.take_upload();
            self.core.means.chunks.join(&mut slot.spill, &mut part);
            self.mark_upstream(upstream);
        }
    }

    fn dial_for_call(&mut self, key: Key, pool: u16, server: u16) {
        let now = self.core.now;
        let head_max = self.core.means.house.header_max;
        let body_max = self.core.means.house.message_max;
        let place = &self.fleet.servers[usize::from(server)];
        place.take_trial(now);
        let token = Token::upstream(self.upstreams.next_key());
        let dialled = self.dial_from_any(server, None, token);
        if !matches!(dialled, Dialled::Socket(_)) {
            self.fleet.servers[usize::from(server)]
                .shared
                .disconnected();
        }
        self.call(key, Event::Dialling { server });
        let socket = match dialled {
            Dialled::Socket(socket) => socket,
            Dialled::Refused => return self.call(key, Event::UpstreamLost(Loss::Refused)),
            Dialled::NoPort | Dialled::Exhausted => {
                return self.call(key, Event::UpstreamLost(Loss::Exhausted));
            }
        };
        let served = &self.fleet.pools[usize::from(pool)];
        let terms = Terms {
            head_max,
            body_max,
            streams: served.kind == crate::fleet::Kind::Http,
            api: &self.core.settings[usize::from(pool)].api,
            pool: &served.name,
        };
        let Some(dialect) = D::for_calls(&terms) else {
            self.fleet.servers[usize::from(server)]
                .shared
                .disconnected();
            self.io.close(socket);
            return self.call(key, Event::UpstreamLost(Loss::Exhausted));
        };
        let inserted = self.upstreams.insert(Upstream {
            dialect,
            socket,
            rider: key,
            server,
            bits: Bits::default(),
            stash: Chain::new(),
            spill: Chain::new(),
        });
        debug_assert_eq!(token.kind(), Some(Kind::Upstream(inserted)));
        self.shelf.begins(server);
        self.put_call(key, inserted);
    }

    /// Writes the call into the connection's queue.
    fn put_call(&mut self, key: Key, upstream: Key) {
        let (Some(client), Some(slot)) =
            (self.clients.get_mut(key), self.upstreams.get_mut(upstream))
        else {
            return;
        };
        (client.upstream, slot.rider) = (upstream, key);
        let asks_head = client.session.asks_head() && !planted!(HeadHasBody);
        slot.dialect.asked(asks_head);
        let core = &mut self.core;
        let place = &self.fleet.servers[usize::from(slot.server)];
        let to = CallTo {
            prefix: &place.prefix,
            authority: &place.authority,
        };
        core.first_bytes.clear();
        let bytes = &mut core.first_bytes;
        let said = client
            .session
            .compose_call(&mut slot.dialect, &to, &core.means.chunks, bytes);
        let need = bytes.len() + client.session.stashed();
        if said && slot.bits.contains(Bits::DONE) && core.means.chunks.room(need) {
            client.session.compose_upload(&mut core.means.chunks, bytes);
        }
        let fits = said && core.means.chunks.room(core.first_bytes.len());
        if fits {
            core.means.chunks.push(&mut slot.spill, &core.first_bytes);
        }
        if core.first_bytes.capacity() > FIRST_BYTES_MAX {
            core.first_bytes = Vec::new();
        }
        if !fits {
            return self.call(key, Event::UpstreamLost(Loss::Exhausted));
        }
        self.mark_upstream(upstream);
    }

    /// The call is over: its connection rests, if nothing is left over of it.
    pub(super) fn release(&mut self, key: Key, keep: bool) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let upstream = std::mem::replace(&mut client.upstream, Key::NONE);
        let Some(slot) = self.upstreams.get_mut(upstream) else {
            return;
        };
        slot.rider = Key::NONE;
        let server = usize::from(slot.server);
        // What is unread, unwritten or unasked for would be taken for the next call's.
        let said = slot.spill.is_empty() && slot.stash.is_empty();
        let clean =
            keep && said && !slot.bits.contains(Bits::ENDED) && !slot.bits.contains(Bits::READABLE);
        let clean = clean || (keep && planted!(DirtyReused));
        let place = &self.fleet.servers[server];
        let left = place.state.is_left();
        let waits = self.shelf.waiting_in[usize::from(place.pool)] > 0;
        if let Some(shard) = self.creditor(server as u16, waits) {
            return self.hand_over(upstream, shard);
        }
        if !clean || left || self.state != State::Running {
            return self.drop_upstream(upstream);
        }
        let since = self.core.now;
        self.shelf.idle[server].push(Rest { upstream, since });
        self.shelf.count += 1;
        self.fleet.servers[server].shared.rests();
        self.shelf.free();
        self.want_chores(SHELF_PAUSE);
    }

    /// A connection to this server that rests; the last one used is the first one taken.
    pub(super) fn take_idle(&mut self, server: u16) -> Option<Key> {
        // Another shard may ask for one of a server that nobody has told us of yet.
        let idle = self.shelf.idle.get_mut(usize::from(server))?;
        while let Some(rest) = idle.pop() {
            self.shelf.count -= 1;
            self.fleet.servers[usize::from(server)].shared.awakes();
            if self.upstreams.get(rest.upstream).is_some() {
                return Some(rest.upstream);
            }
        }
        None
    }

    /// For how long the one that rests longest has done so, in ms; 0 if none rests.
    pub(super) fn rests_since(&self, server: u16) -> u32 {
        let idle = self.shelf.idle.get(usize::from(server));
        let lives = |rest: &&Rest| self.upstreams.get(rest.upstream).is_some();
        let oldest = idle.and_then(|idle| idle.iter().find(lives));
        oldest.map_or(0, |rest| self.core.now.since(rest.since))
    }

    /// A connection that rests has something to say: that can't be an answer.
    pub(super) fn drop_upstream(&mut self, upstream: Key) {
        let Some(mut slot) = self.upstreams.remove(upstream) else {
            return;
        };
        debug_assert!(slot.rider.is_none());
        self.core.means.chunks.clear(&mut slot.stash);
        self.core.means.chunks.clear(&mut slot.spill);
        if !planted!(PermitKept) {
            self.fleet.servers[usize::from(slot.server)]
                .shared
                .disconnected();
        }
        self.io.close(slot.socket);
        self.shelf.ends(slot.server);
    }

    /// Connections that rest and have something to say that their dialect does not know of go before
    /// anything else is done in a turn: a call that took one would have that for its answer (THREATS V16).
    pub(super) fn drop_spoiled(&mut self) {
        if self.shelf.count == 0 || planted!(SpoiledTaken) {
            return;
        }
        for at in 0..self.ready.len() {
            let ready = self.ready[at];
            if let Some(Kind::Upstream(key)) = ready.token.kind()
                && (ready.readable || ready.ended)
                && self
                    .upstreams
                    .get(key)
                    .is_some_and(|slot| slot.rider.is_none())
                && (ready.ended || !self.hear_at_rest(key))
            {
                self.drop_upstream(key);
            }
        }
    }

    /// Those whose call waits for a connection, each pool's in their order. They keep their places, or
    /// somebody who comes in between could take them; who has gone, or given up, has none.
    pub(super) fn serve_waiting(&mut self) {
        self.shelf.freed = false;
        for pool in 0..self.shelf.waiting.len() {
            if self.shelf.waiting_in[pool] > 0 {
                self.serve_line(pool);
            }
            self.read_crowd(pool as u16);
        }
        self.return_permits();
        if self.shelf.has_waiting() {
            self.want_chores(QUEUE_PAUSE);
        }
    }

    /// From its front, as far as there are connections: a long line is not walked.
    fn serve_line(&mut self, pool: usize) {
        let mut line = std::mem::take(&mut self.shelf.waiting[pool]);
        while let Some((key, server)) = line.pop_front() {
            let client = self.clients.get_mut(key);
            let wants = client.is_some_and(|client| {
                client.bits.remove(Bits::WAITING);
                client.session.wants_call()
            });
            let none = wants && self.find_connection(key, false).is_some();
            if none && !planted!(WaitingLost) {
                // Nor is there one for those behind it.
                if let Some(client) = self.clients.get_mut(key) {
                    client.bits.insert(Bits::WAITING);
                }
                line.push_front((key, server));
                break;
            }
            self.leave_line(key, server);
        }
        line.append(&mut self.shelf.waiting[pool]);
        self.shelf.waiting[pool] = line;
    }

    /// Where places are few, those who do not want theirs any more are not waited for.
    pub(super) fn weed_lines(&mut self) {
        for pool in 0..self.shelf.waiting.len() {
            let bounded = self.fleet.pools[pool].connections.queue < u32::MAX;
            if bounded && (1..=WEED_MAX).contains(&self.shelf.waiting[pool].len()) {
                self.weed(pool);
            }
        }
    }

    fn weed(&mut self, pool: usize) {
        let wants = |client: &Client<I::Socket>| client.session.wants_call();
        let stays = |key: Key| self.clients.get(key).is_some_and(wants);
        let mut gone = Vec::new();
        self.shelf.waiting[pool].retain(|(key, server)| {
            let stays = stays(*key);
            if !stays {
                gone.push((*key, *server));
            }
            stays
        });
        for (key, server) in gone {
            if let Some(client) = self.clients.get_mut(key) {
                client.bits.remove(Bits::WAITING);
            }
            self.leave_line(key, server);
        }
    }

    fn leave_line(&mut self, key: Key, server: u16) {
        let place = &self.fleet.servers[usize::from(server)];
        place.shared.waited();
        self.shelf.waiting_in[usize::from(place.pool)] -= 1;
        self.perform(key);
    }

    /// Closes what has rested for too long, but for the few that are to stay.
    pub(super) fn tidy_shelf(&mut self) {
        let now = self.core.now;
        for server in 0..self.shelf.idle.len() {
            let place = &self.fleet.servers[server];
            let keep = self.fleet.pools[usize::from(place.pool)].connections;
            let left = place.state.is_left();
            let mut idle = std::mem::take(&mut self.shelf.idle[server]);
            idle.retain(|rest| {
                if self.upstreams.get(rest.upstream).is_none() {
                    self.shelf.count -= 1;
                    self.fleet.servers[server].shared.awakes();
                    return false;
                }
                let spare = self.fleet.servers[server].shared.connections() > keep.min;
                let old = now.since(rest.since) >= keep.idle && spare;
                if old || left {
                    self.shelf.count -= 1;
                    self.fleet.servers[server].shared.awakes();
                    self.drop_upstream(rest.upstream);
                }
                !(old || left)
            });
            self.shelf.idle[server] = idle;
        }
        if self.shelf.count > 0 {
            self.want_chores(SHELF_PAUSE);
        }
    }

    /// Nothing rests any more: the shard stops.
    pub(super) fn clear_shelf(&mut self) {
        for server in 0..self.shelf.idle.len() {
            while let Some(upstream) = self.take_idle(server as u16) {
                self.drop_upstream(upstream);
            }
        }
    }

    // The directory: who has which ClientId.

    pub(super) fn seat(&self, key: Key) -> Seat {
        Seat {
            shard: self.index as u16,
            key,
        }
    }

    /// The number of the session's ClientId, and its home.
    fn home_of(&self, id: &str) -> (u64, usize) {
        let number = self.directory.number(id);
        (number, (number % self.shards as u64) as usize)
    }

    pub(super) fn reserve(&mut self, key: Key) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        let pool = client.session.pool().map_or(0, usize::from);
        let replace = self.core.settings[pool].replace;
        let (id, home) = self.home_of(client.session.client_id());
        let seat = self.seat(key);
        self.post(home, Mail::Reserve { id, seat, replace });
    }

    pub(super) fn leaving(&mut self, key: Key) {
        if let Some(client) = self.clients.get(key) {
            let (id, home) = self.home_of(client.session.client_id());
            let seat = self.seat(key);
            self.post(home, Mail::Leaving { id, seat });
        }
    }

    pub(super) fn free_id(&mut self, key: Key) {
        if let Some(client) = self.clients.get(key) {
            let (id, home) = self.home_of(client.session.client_id());
            let seat = self.seat(key);
            self.post(home, Mail::Free { id, seat });
        }
    }

    pub(super) fn ask(&mut self, key: Key, push: Box<Push>) {
        self.pass_push(push, Asker::Seat(self.seat(key)));
    }

    /// To the id's home; there the push goes on to the client's shard, or to wherever else he may be.
    pub(super) fn pass_push(&mut self, push: Box<Push>, from: Asker) {
        if matches!(push.verb, PushVerb::Broadcast { .. }) {
            return self.cast(push, from);
        }
        let (id, home) = self.home_of(&push.id);
        if home != self.index {
            return self.post(home, Mail::Push { push, from });
        }
        if let Some(Seat { shard, key }) = self.directory.find(id) {
            return self.post(usize::from(shard), Mail::Deliver { key, push, from });
        }
        self.pass_on(push, from);
    }

    /// He is not here.
    fn pass_on(&mut self, push: Box<Push>, from: Asker) {
        let unasked = match push.is_hop && !planted!(HopGoesOn) {
            true => Some((push, from)),
            false => self.io.elsewhere(push, from),
        };
        if unasked.is_some() {
            self.answer_push(from, Pushed::Unknown);
        }
    }

    /// At the client's.
    pub(super) fn deliver(&mut self, key: Key, push: Box<Push>, from: Asker) {
        match self.push_to(key, &push) {
            // He is about to leave, or gone, and may have come to another node by now.
            Pushed::Unknown if !planted!(LeaverNotPassedOn) => self.pass_on(push, from),
            pushed => self.answer_push(from, pushed),
        }
    }

    /// Gives it to the client, if it is here.
    pub(super) fn push_to(&mut self, key: Key, push: &Push) -> Pushed {
        let pushed = match self.clients.get_mut(key) {
            Some(client) => self.core.with(&mut client.session, &[], |session, ctx| {
                session.on_push(push, ctx)
            }),
            None => Pushed::Unknown,
        };
        self.perform(key);
        pushed
    }

    /// A reserved id whose session has ended meanwhile goes back.
    pub(super) fn reserved(&mut self, id: u64, key: Key) {
        if self.clients.get(key).is_some() {
            return self.tell(key, Event::Reserved);
        }
        let home = (id % self.shards as u64) as usize;
        let seat = self.seat(key);
        self.post(home, Mail::Free { id, seat });
    }

    /// Sends to any shard; to this one by its own list, read with the next turn's mail.
    pub(super) fn post(&mut self, shard: usize, mail: Mail) {
        if shard == self.index {
            self.notes.push(mail);
        } else {
            self.io.send(shard, mail);
        }
    }
}

/// Lines up to this long are looked through for those who have gone, where `connections.queue`
/// counts them.
const WEED_MAX: usize = 256;

/// What tells this client from others, where its pool wants to know.
pub(super) fn hash_of(pool: &Pool, session: &Session) -> u64 {
    if pool.balance != Balance::Hash {
        return 0;
    }
    match &pool.spread {
        Spread::Id => fingerprint(session.first_segment().as_bytes()),
        Spread::Address => fingerprint(session.peer().ip().to_string().as_bytes()),
        Spread::Header(name) => fingerprint(session.kept_header(name).unwrap_or_default()),
    }
}

/// How often the shelf is looked over, in ms.
const SHELF_PAUSE: u32 = 1_000;

/// A buffer for calls that has grown beyond this is not kept.
const FIRST_BYTES_MAX: usize = 256 << 10;
