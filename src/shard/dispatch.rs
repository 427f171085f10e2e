//! Doing what sessions want done.

use std::io::IoSlice;

use log::{debug, info, warn};

use super::calls::hash_of;
use super::news::{News, SessionNews};
use super::{Bits, Dialled, Io, Kind, Mail, Shard, State, Token, Upstream};
use crate::fleet::Fleet;
use crate::fleet::balance::{NoChoice, Wish};
use crate::kit::{Chain, Key, Pressure, Timer};
use crate::session::{
    Action, Asking, Dial, Dialect, End, Event, Life, Loss, Nobody, Phase, Verdict,
};

impl<I: Io, D: Dialect> Shard<I, D> {
    /// Does all that the last event of this session asked for, and what that asks for in turn.
    pub(super) fn perform(&mut self, key: Key) {
        while !self.core.means.actions.is_empty() {
            let mut doing = std::mem::take(&mut self.doing);
            std::mem::swap(&mut doing, &mut self.core.means.actions);
            for action in doing.drain(..) {
                self.act(key, action);
            }
            self.doing = doing;
        }
    }

    fn act(&mut self, key: Key, action: Action) {
        match action {
            Action::Route(asking) => self.route(key, &asking),
            Action::Dial => {
                let bridged = |client: &super::Client<_>| client.session.is_bridged();
                if self.clients.get(key).is_some_and(bridged) {
                    self.begin_call(key);
                } else {
                    self.dial(key);
                }
            }
            Action::Release { keep } => self.release(key, keep),
            Action::Upload => self.upload(key),
            Action::Reserve => self.reserve(key),
            Action::Leaving => self.leaving(key),
            Action::Free => self.free_id(key),
            Action::Ask(push) => self.ask(key, push),
            Action::FlushClient => self.mark_client(key),
            Action::FlushUpstream => {
                if let Some(client) = self.clients.get(key) {
                    self.mark_upstream(client.upstream);
                }
            }
            Action::ReadClient => {
                if let Some(client) = self.clients.get_mut(key) {
                    client.bits.insert(Bits::STALLED);
                }
                self.again_client(key);
            }
            Action::HangUpUpstream { say } => self.hang_up_upstream(key, say),
            Action::ShutClient => self.shut_client(key),
            Action::HangUpClient { cut } => self.hang_up_client(key, cut),
            Action::Alarm(due) => self.set_alarm(key, due),
            Action::Report(verdict) => self.report(key, verdict),
            Action::Tell(life) => self.log(key, life),
            Action::Bury => self.lists.graves.push(key),
        }
    }

    /// Lets the session act without doing what it wants: for use inside `perform`.
    pub(super) fn call(&mut self, key: Key, event: Event<'_>) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        self.core.with(&mut client.session, &[], |session, ctx| {
            session.on(event, ctx)
        });
    }

    fn route(&mut self, key: Key, asking: &Asking) {
        let bridge = self.fleet.bridge().filter(|_| {
            let push = &self.core.means.house.push_path;
            // A path of its own, or all plain requests that no route leads elsewhere.
            !asking.upgrade && push != "/" && asking.path.starts_with(push.as_str())
        });
        let pool = bridge.or_else(|| self.fleet.route(&asking.path, &asking.host, asking.upgrade));
        let event = match pool {
            _ if !self.takes(asking.upgrade, pool) => Event::Denied {
                status: 503,
                reason: "no new clients are taken now",
            },
            Some(pool) => match self.let_in(key, asking) {
                Ok(()) => {
                    self.join_pool(key, pool);
                    Event::Routed
                }
                Err(refusal) => refusal.event(),
            },
            None => Event::Denied {
                status: 404,
                reason: "no route",
            },
        };
        self.call(key, event);
    }

    fn join_pool(&mut self, key: Key, pool: u16) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        client.session.join(pool);
        if self.state == State::Draining {
            // A node that asks for the last clients here can't come again: the listeners are closed.
            client.session.answer_in_drain();
        } else if self.core.stats.pressure >= Pressure::High || client.bits.contains(Bits::SCARCE) {
            client.session.end_with_answer();
        }
    }

    /// Whether such a request is served now. A drain still answers what is no session; a pause of
    /// accepting still lets an API speak to the clients that are here.
    fn takes(&self, upgrade: bool, pool: Option<u16>) -> bool {
        let push =
            |pool: u16| self.fleet.pools[usize::from(pool)].kind == crate::fleet::Kind::Bridge;
        match self.state {
            State::Running => self.chores.accepting || (!upgrade && pool.is_some_and(push)),
            State::Draining => !upgrade,
            State::Stopped => false,
        }
    }

    /// Picks a server for the session and begins to connect.
    pub(super) fn dial(&mut self, key: Key) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        let (session, now) = (&client.session, self.core.now);
        let (Some(pool), Some(attempt)) = (session.pool(), session.attempt()) else {
            return;
        };
        if !client.upstream.is_none() {
            return;
        }
        let held = session.phase() == Phase::Held;
        let wish = Wish {
            tried: &attempt.tried,
            last: session.server().filter(|_| held),
            hash: hash_of(&self.fleet.pools[usize::from(pool)], session),
            desperate: now.since(attempt.since) > 0,
        };
        let server = match self.fleet.choose(pool, wish, now, &mut self.core.means.rng) {
            Ok(server) => server,
            Err(none) => {
                let nobody = match none {
                    NoChoice::AllTried => Nobody::AllTried,
                    NoChoice::NoneUsable => Nobody::NoneUsable,
                    NoChoice::Empty => Nobody::Empty,
                };
                return self.call(key, Event::NoServer(nobody));
            }
        };
        // Reconnects only: the loss of one server must not knock over the others.
        let rate = &self.fleet.pools[usize::from(pool)].connect_rate;
        if held && let Err(_wait) = rate.take(u64::from(now.0)) {
            return self.queue_up(key, pool);
        }
        self.connect(key, pool, server);
    }

    fn connect(&mut self, key: Key, pool: u16, server: u16) {
        let now = self.core.now;
        self.fleet.servers[usize::from(server)].take_trial(now);
        self.call(key, Event::Dialling { server });
        let token = Token::upstream(self.upstreams.next_key());
        let socket = match self.dial_from_any(server, Some(key), token) {
            Dialled::Socket(socket) => socket,
            Dialled::Refused => return self.call(key, Event::UpstreamLost(Loss::Refused)),
            Dialled::NoPort | Dialled::Exhausted => {
                return self.call(key, Event::UpstreamLost(Loss::Exhausted));
            }
        };
        let place = &self.fleet.servers[usize::from(server)];
        let Some(client) = self.clients.get_mut(key) else {
            return self.io.close(socket);
        };
        let (session, core) = (&client.session, &mut self.core);
        let (Some(kept), Some(attempt)) = (session.kept(), session.attempt()) else {
            return self.io.close(socket);
        };
        let settings = &core.settings[usize::from(pool)];
        let id = format!("{:032x}", session.id());
        let next = attempt_number(session);
        let mut extra = vec![
            ("X-Wsteady-Session", id.as_str()),
            ("X-Wsteady-Next", &next),
        ];
        let first = session.phase() == Phase::Admitting;
        if !first {
            extra.push((&settings.reconnect_header, "1"));
        }
        let dial = Dial {
            prefix: &place.prefix,
            fixed: self.fleet.pools[usize::from(pool)].fixed,
            kept,
            extra: &extra,
            plain: attempt.plain,
            first,
            pass: &settings.pass_headers,
            head_max: core.means.house.header_max,
        };
        core.first_bytes.clear();
        let dialect = D::open(dial, &mut core.means.rng, &mut core.first_bytes);
        let mut spill = Chain::new();
        // One head is small beside the reserve that clients' messages leave.
        if core.means.chunks.room(core.first_bytes.len()) {
            core.means.chunks.push(&mut spill, &core.first_bytes);
        }
        place.shared.connected();
        let upstream = Upstream {
            dialect,
            socket,
            rider: key,
            server,
            bits: Bits::default(),
            stash: Chain::new(),
            spill,
        };
        let inserted = self.upstreams.insert(upstream);
        debug_assert_eq!(token.kind(), Some(Kind::Upstream(inserted)));
        client.upstream = inserted;
        self.shelf.begins(server);
    }

    /// Lets go of the upstream, with a Close if there is a place for one.
    pub(super) fn hang_up_upstream(&mut self, key: Key, say: Option<u16>) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let upstream = std::mem::replace(&mut client.upstream, Key::NONE);
        if planted!(PairKept) {
            client.upstream = upstream;
        }
        let Some(mut upstream) = self.upstreams.remove(upstream) else {
            return;
        };
        if let Some(code) = say
            && upstream.bits.contains(Bits::JOINED)
            && upstream.spill.is_empty()
        {
            let frame = upstream.dialect.close(code, "", &mut self.core.means.rng);
            // Once, and without waiting: it is a courtesy to a server that is being left.
            self.io.write(&mut upstream.socket, &[IoSlice::new(&frame)]);
        }
        if !planted!(ChunkLeaked) {
            self.core.means.chunks.clear(&mut upstream.stash);
        }
        self.core.means.chunks.clear(&mut upstream.spill);
        let server = usize::from(upstream.server);
        self.fleet.servers[server].shared.disconnected();
        if upstream.bits.contains(Bits::JOINED) {
            self.core.stats.servers[server].sessions -= 1;
        }
        self.shelf.ends(upstream.server);
        if planted!(OldUpstreamKept) {
            return;
        }
        self.io.close(upstream.socket);
    }

    fn shut_client(&mut self, key: Key) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        if !client.bits.contains(Bits::DONE)
            && let Some(socket) = &mut client.socket
        {
            client.bits.insert(Bits::DONE);
            self.io.shut(socket);
            self.again_client(key);
        }
    }

    fn hang_up_client(&mut self, key: Key, cut: bool) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let upstream = client.upstream;
        if let Some(socket) = client.socket.take() {
            if cut {
                self.io.reset(socket);
            } else {
                self.io.close(socket);
            }
            self.core.stats.closed += 1;
            let (held, address) = (client.bits, client.session.peer().ip());
            self.leave_place(key, held, address);
        }
        // What was queued for it is gone: its server, not read for that, is read again.
        if let Some(slot) = self.upstreams.get_mut(upstream)
            && slot.bits.contains(Bits::STALLED)
        {
            slot.bits.remove(Bits::STALLED);
            self.again_upstream(upstream);
        }
    }

    fn set_alarm(&mut self, key: Key, due: crate::kit::Tick) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        if client.timer.is_none() {
            client.timer = self.wheel.arm(due, key);
        } else {
            self.wheel.move_to(client.timer, due);
        }
        debug_assert_ne!(client.timer, Timer::NONE);
    }

    /// Passes a verdict to the server's home loop.
    fn report(&mut self, key: Key, verdict: Verdict) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let Some(server) = client.session.server() else {
            return;
        };
        // Asked of the pool: the session may be at its next request already.
        let pool = self.fleet.servers[usize::from(server)].pool;
        let bridged = self.fleet.pools[usize::from(pool)].kind != crate::fleet::Kind::WebSocket;
        if bridged {
            let failed = verdict != Verdict::Success;
            let tripped = self.fleet.servers[usize::from(server)].tripped.is_some();
            if !self.shelf.is_news(server, failed) && !tripped {
                return;
            }
        }
        let stats = &mut self.core.stats.servers[usize::from(server)];
        match verdict {
            Verdict::Success if bridged => {}
            Verdict::Success => {
                if let Some(upstream) = self.upstreams.get_mut(client.upstream) {
                    upstream.bits.insert(Bits::JOINED);
                    stats.sessions += 1;
                    stats.sessions_total += 1;
                }
            }
            Verdict::Failure | Verdict::LostConnection => stats.failures += 1,
        }
        let home = usize::from(server) % self.shards;
        if home == self.index {
            self.judge(server, verdict);
        } else {
            self.io.send(home, Mail::Verdict { server, verdict });
        }
    }

    /// At home: what all loops saw of this server decides its breaker.
    pub(super) fn judge(&mut self, server: u16, verdict: Verdict) {
        let now = self.core.now;
        let Some(place) = self.fleet.servers.get_mut(usize::from(server)) else {
            return;
        };
        let changed = match verdict {
            Verdict::Success => place.breaker.on_success(),
            Verdict::Failure => place.breaker.on_failure(),
            Verdict::LostConnection => place.breaker.on_lost_connection(now),
        };
        if !changed {
            return;
        }
        let since = place.breaker.is_open().then_some(now);
        let was = place.tripped.is_some();
        if was != since.is_some() {
            match since {
                Some(_) => warn!(server = place.id.as_str(); "breaker opened"),
                None => info!(server = place.id.as_str(); "breaker closed"),
            }
            let open = since.is_some();
            self.teller.tell(News::Breaker { server, open });
        }
        place.set_tripped(since);
        for shard in (0..self.shards).filter(|shard| *shard != self.index) {
            self.io.send(shard, Mail::Breaker { server, since });
        }
    }

    /// One line per event in a session's life.
    fn log(&mut self, key: Key, life: Life) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        let session = &client.session;
        self.teller.notice(&self.fleet, session, &life);
        let id = format!("{:032x}", session.id());
        let peer = session.peer().to_string();
        let [pool, server] = places(&self.fleet, session);
        match life {
            Life::Opened => {
                self.core.stats.kept_bytes += session.kept_bytes() as u64;
                let path = session.target();
                let path = path.as_str();
                info!(target: "session", session = id.as_str(), client = peer.as_str(), pool, server, path; "opened");
            }
            Life::Lost(loss) => {
                let (reason, journal) = (loss.name(), session.journal_bytes());
                info!(target: "session", session = id.as_str(), client = peer.as_str(), pool, server, reason, journal; "server lost");
                let news = News::Held(news_of(session, reason));
                self.teller.tell_of_session(self.core.now, news);
            }
            Life::Failed(loss) => {
                let reason = loss.name();
                debug!(target: "session", session = id.as_str(), client = peer.as_str(), pool, server, reason; "attempt failed");
            }
            Life::Resumed { held_ms, replayed } => {
                self.core.stats.hold.saturating_record(u64::from(held_ms));
                info!(target: "session", session = id.as_str(), client = peer.as_str(), pool, server, held_ms, replayed; "resumed");
                let news = News::Resumed {
                    session: news_of(session, ""),
                    held_ms,
                    replayed,
                };
                self.teller.tell_of_session(self.core.now, news);
            }
            // What became of the session is in the line of its end.
            Life::GivenUp { held_ms } => self.core.stats.hold.saturating_record(u64::from(held_ms)),
            Life::ValveFailed(failure) => {
                let (valve, why) = (failure.valve, failure.why);
                warn!(target: "session", session = id.as_str(), client = peer.as_str(), pool, server, valve, why; "valve failed");
            }
            Life::Denied { status } => {
                *self.core.stats.denied.entry(status).or_default() += 1;
                debug!(target: "session", client = peer.as_str(), pool, status; "denied");
            }
            Life::Ended { end, unconfirmed } => {
                self.log_end(key, &id, &peer, end, unconfirmed);
            }
        }
    }

    fn log_end(&mut self, key: Key, id: &str, peer: &str, end: End, unconfirmed: u32) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        let session = &client.session;
        if session.pool().is_none() {
            return debug!(target: "session", client = peer; "left without asking");
        }
        let [pool, server] = places(&self.fleet, session);
        let (reason, said) = (end.name(), end.says());
        let (up, down) = (session.messages_up(), session.messages_down());
        let failovers = session.failovers();
        let ms = self.core.now.since(session.opened());
        if unconfirmed > 0 {
            warn!(target: "session", session = id, client = peer, pool, server, reason, said, ms, up, down, failovers, unconfirmed; "ended");
        } else {
            info!(target: "session", session = id, client = peer, pool, server, reason, said, ms, up, down, failovers, unconfirmed; "ended");
        }
        if unconfirmed > 0 || matches!(end, End::Hold | End::Refused | End::Poison | End::Memory) {
            let news = News::Ended {
                session: news_of(session, reason),
                unconfirmed,
            };
            self.teller.tell_of_session(self.core.now, news);
        }
    }
}

/// What a session's pool and its last server are called.
fn places<'a>(fleet: &'a Fleet, session: &crate::session::Session) -> [&'a str; 2] {
    let pool = |pool| fleet.pools[usize::from(pool)].name.as_str();
    let server = |server| fleet.servers[usize::from(server)].id.as_str();
    [
        session.pool().map_or("-", pool),
        session.server().map_or("-", server),
    ]
}

fn news_of(session: &crate::session::Session, reason: &'static str) -> SessionNews {
    SessionNews {
        id: session.id(),
        client: session.peer(),
        pool: session.pool(),
        server: session.server(),
        reason,
    }
}

/// `X-Wsteady-Next`: the number of the first message that the connection will carry.
fn attempt_number(session: &crate::session::Session) -> String {
    let wrong = u64::from(planted!(NextOffByOne) && session.journal_bytes() > 0);
    (session.confirmed() + wrong).to_string()
}
