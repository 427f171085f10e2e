//! What is done now and then, and for whom nobody waits: queues, sweeps, mail, the drain.

use std::sync::atomic::Ordering::Relaxed;

use log::info;

use super::{Answer, Bits, CLIENT_ROOM, Io, Mail, Shard, State};
use crate::kit::{Key, Tick, Timer};
use crate::session::{Dialect, End, Event, Loss, Mover, Phase, Session};

/// What waits to be done.
pub(super) struct Chores {
    timer: Timer,
    due: Tick,
    /// New clients are taken.
    pub accepting: bool,
    /// Sockets that were not read for want of memory, and since when, at which count of confirmed
    /// messages.
    squeezed_clients: Vec<Key>,
    squeezed_upstreams: Vec<Key>,
    squeezed_since: Option<(Tick, u64)>,
    sweeps: Vec<Sweep>,
    listeners: Vec<u32>,
    drain: Option<Drain>,
    /// Messages counted at the end of the last turn.
    pub relayed: u64,
}

/// A walk over all clients for those of one server.
struct Sweep {
    server: u16,
    mover: Mover,
    from: u32,
    /// When it begins again: sessions may have had nowhere to go.
    again_at: Option<Tick>,
    /// It has seen all once, and there was somewhere to go.
    passed: bool,
}

/// The end: of n sessions the i-th is closed at i x ms / n.
struct Drain {
    since: Tick,
    ms: u32,
    total: u32,
    stopped: u32,
    from: u32,
    /// All sessions here are over, and so is this shard when the others have none either.
    waits: bool,
}

impl Default for Chores {
    fn default() -> Chores {
        Chores {
            timer: Timer::NONE,
            due: Tick(0),
            accepting: true,
            squeezed_clients: Vec::new(),
            squeezed_upstreams: Vec::new(),
            squeezed_since: None,
            sweeps: Vec::new(),
            listeners: Vec::new(),
            drain: None,
            relayed: 0,
        }
    }
}

impl Chores {
    pub(super) fn is_armed(&self) -> bool {
        !self.timer.is_none()
    }

    /// Whether this upstream waits for memory.
    pub(super) fn is_squeezed(&self, upstream: Key) -> bool {
        self.squeezed_upstreams.contains(&upstream)
    }

    pub(super) fn rearm_listener(&mut self, listener: u32) {
        if !self.listeners.contains(&listener) {
            self.listeners.push(listener);
        }
    }
}

impl<I: Io, D: Dialect> Shard<I, D> {
    /// Sees to it that chores are looked at within `ms`.
    pub(super) fn want_chores(&mut self, ms: u32) {
        let due = self.core.now.after(ms);
        if self.chores.timer.is_none() {
            self.chores.timer = self.wheel.arm(due, Key::NONE);
        } else if due.is_before(self.chores.due) {
            self.wheel.move_to(self.chores.timer, due);
        } else {
            return;
        }
        self.chores.due = due;
    }

    pub(super) fn do_chores(&mut self) {
        self.chores.timer = Timer::NONE;
        let listeners = std::mem::take(&mut self.chores.listeners);
        self.lists.accept.extend(listeners);
        if self.core.means.chunks.is_loose() {
            self.core.means.chunks.trim();
        }
        self.serve_queues();
        self.probe();
        self.tidy_shelf();
        self.weed_lines();
        self.serve_waiting();
        self.relieve();
        self.walk_on();
        self.sweep();
        self.go_on_draining();
    }

    pub(super) fn take_mail(&mut self) {
        let mut mails = std::mem::take(&mut self.mails);
        self.io.take_mail(&mut mails);
        for mail in mails.drain(..) {
            self.read_mail(mail);
        }
        self.mails = mails;
        while !self.notes.is_empty() {
            for mail in std::mem::take(&mut self.notes) {
                self.read_mail(mail);
            }
        }
        if self.shelf.is_wanted() {
            self.serve_waiting();
        }
    }

    fn read_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Verdict { server, verdict } => self.judge(server, verdict),
            Mail::Breaker { server, since } => {
                if let Some(place) = self.fleet.servers.get_mut(usize::from(server)) {
                    // What was said before it was given up altogether may come after.
                    place.set_tripped(since.filter(|_| place.breaker.can_open()));
                }
            }
            Mail::Reserve { id, seat, replace } => {
                for (shard, mail) in self.directory.reserve(id, seat, replace) {
                    self.post(usize::from(shard), mail);
                }
            }
            Mail::Leaving { id, seat } => self.directory.leaving(id, seat),
            Mail::Free { id, seat } => {
                let answer = self.directory.free(id, seat);
                self.post_answer(answer);
            }
            Mail::Reserved { id, key } => self.reserved(id, key),
            Mail::Taken { key } => self.tell(key, Event::Taken),
            Mail::Evict { key } => self.tell(key, Event::Evicted),
            Mail::Cast { push, asker } => self.begin_walk(push, asker),
            Mail::Reached { key, pushed } => self.add_up(key, pushed),
            Mail::Push { push, from } => self.pass_push(push, from),
            Mail::Deliver { key, push, from } => self.deliver(key, push, from),
            Mail::Pushed { key, pushed } => self.tell(key, Event::Pushed(pushed)),
            Mail::Permit {
                server,
                from,
                by_right,
            } => self.on_permit_wanted(server, from, by_right),
            Mail::Granted { server } => self.on_granted(server),
            Mail::Health {
                server,
                healthy,
                share,
            } => self.set_health(server, healthy, share),
            Mail::Rules(rules) => self.follow(&rules),
            Mail::Join { server, place } => self.join(server, *place),
            Mail::State { server, state } => self.set_state(server, state),
            Mail::Weight { server, weight } => self.set_weight(server, weight),
            Mail::Reset { server } => self.reset_breaker(server),
            Mail::FailOver { server } => self.begin_sweep(server, Mover::Failover),
            Mail::MoveSession { ticket, id, from } => {
                self.tell_one(ticket, id, from, Event::Move(Mover::Failover));
            }
            Mail::AbortSession { ticket, id, from } => {
                self.tell_one(ticket, id, from, Event::Stop(End::Aborted));
            }
            Mail::Accepting(accepting) => self.chores.accepting = accepting,
            Mail::Count { ticket } => {
                self.look_at_memory();
                let snapshot = Box::new(self.snapshot());
                self.io.answer(ticket, Answer::Snapshot(snapshot));
            }
            Mail::List { ticket, filter } => {
                let (rows, next) = self.list(&filter);
                self.io.answer(ticket, Answer::Sessions { rows, next });
            }
            Mail::Drain { ms } => self.begin_drain(ms),
            Mail::Stop => self.stop(),
        }
    }

    /// Nothing rests, nothing is asked, no more sessions.
    fn stop(&mut self) {
        if self.state == State::Stopped {
            return;
        }
        self.clear_shelf();
        self.stop_probes();
        self.state = State::Stopped;
        if self.chores.drain.take().is_none_or(|drain| !drain.waits) {
            self.busy.fetch_sub(1, Relaxed);
        }
    }

    /// Whether this shard's turns are over.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Stopped
    }

    fn post_answer(&mut self, answer: Option<(u16, Mail)>) {
        if let Some((shard, mail)) = answer {
            self.post(usize::from(shard), mail);
        }
    }

    /// Nobody is moved from this server any more by a drain.
    pub(super) fn end_drain(&mut self, server: u16) {
        self.chores
            .sweeps
            .retain(|sweep| sweep.server != server || sweep.mover != Mover::Drain);
    }

    pub(super) fn begin_sweep(&mut self, server: u16, mover: Mover) {
        self.chores.sweeps.push(Sweep {
            server,
            mover,
            from: 0,
            again_at: None,
            passed: false,
        });
        self.want_chores(0);
    }

    /// Walks on, a bounded number of sessions at a time.
    fn sweep(&mut self) {
        let now = self.core.now;
        let mut sweeps = std::mem::take(&mut self.chores.sweeps);
        sweeps.retain_mut(|sweep| {
            if sweep.again_at.is_some_and(|at| !at.is_due(now)) {
                self.want_chores(SWEEP_PAUSE);
                return true;
            }
            sweep.again_at = None;
            if sweep.mover == Mover::Drain && self.is_deserted(sweep.server) {
                // Of one that is gone this is the end; to others a connection may be on its way.
                (sweep.from, sweep.again_at) = (0, Some(now.after(SWEEP_PAUSE)));
                self.want_chores(SWEEP_PAUSE);
                return !self.is_gone(sweep.server);
            }
            // Draining sessions leave only when there is somewhere to go.
            let somewhere =
                sweep.mover == Mover::Failover || self.fleet.has_other(sweep.server, now);
            for _ in 0..SWEEP_MAX {
                let next = self.clients.next_from(sweep.from);
                let Some((key, client)) = next.filter(|_| somewhere) else {
                    if sweep.mover == Mover::Failover {
                        return false;
                    }
                    sweep.passed |= somewhere;
                    (sweep.from, sweep.again_at) = (0, Some(now.after(SWEEP_PAUSE)));
                    self.want_chores(SWEEP_PAUSE);
                    return true;
                };
                sweep.from = key.index + 1;
                if self.leads_to(client.upstream, sweep.server) {
                    self.tell(key, Event::Move(sweep.mover));
                }
            }
            self.want_chores(1);
            true
        });
        sweeps.append(&mut self.chores.sweeps);
        self.chores.sweeps = sweeps;
    }

    fn leads_to(&self, upstream: Key, server: u16) -> bool {
        let upstream = self.upstreams.get(upstream);
        upstream.is_some_and(|upstream| upstream.server == server)
    }

    /// Once all were seen, no session is on its way to a server that is being left; run in tests.
    pub(super) fn check_sweeps(&self) {
        let passed = |sweep: &&Sweep| sweep.passed && sweep.mover == Mover::Drain;
        for sweep in self.chores.sweeps.iter().filter(passed) {
            let on_its_way = |session: &Session| {
                matches!(session.phase(), Phase::Admitting | Phase::Held) && !session.is_bridged()
            };
            let late = self.clients.iter().find(|(_, client)| {
                on_its_way(&client.session) && self.leads_to(client.upstream, sweep.server)
            });
            assert!(
                late.is_none(),
                "{:?} is on its way to server {}, which is being left",
                late.map(|(key, _)| key),
                sweep.server
            );
        }
    }

    pub(super) fn squeeze_client(&mut self, key: Key) {
        self.chores.squeezed_clients.push(key);
        self.begin_squeeze();
    }

    pub(super) fn squeeze_upstream(&mut self, key: Key) {
        self.chores.squeezed_upstreams.push(key);
        self.begin_squeeze();
    }

    fn begin_squeeze(&mut self) {
        if self.chores.squeezed_since.is_none() {
            self.chores.squeezed_since = Some((self.core.now, self.confirmed()));
        }
        self.want_chores(SQUEEZE_PAUSE);
    }

    fn confirmed(&self) -> u64 {
        self.core
            .stats
            .pools
            .iter()
            .map(|tally| tally.confirmed)
            .sum()
    }

    /// Reads on where memory was short. If it stays short and nothing moves, the session with the
    /// largest unfinished message, or else the one that holds most, has to go (CONTRACT 2).
    fn relieve(&mut self) {
        let Some((since, confirmed)) = self.chores.squeezed_since else {
            return;
        };
        if self.chores.squeezed_clients.is_empty() && self.chores.squeezed_upstreams.is_empty() {
            self.chores.squeezed_since = None;
            return;
        }
        if self.confirmed() != confirmed {
            self.chores.squeezed_since = Some((self.core.now, self.confirmed()));
        } else if self.core.now.since(since) >= SQUEEZE_MAX
            && !self.core.means.chunks.room(CLIENT_ROOM)
        {
            self.shed();
            self.chores.squeezed_since = Some((self.core.now, confirmed));
        }
        for key in std::mem::take(&mut self.chores.squeezed_upstreams) {
            self.again_upstream(key);
        }
        for key in std::mem::take(&mut self.chores.squeezed_clients) {
            if let Some(client) = self.clients.get_mut(key) {
                client.bits.insert(Bits::STALLED);
            }
            self.again_client(key);
        }
        self.want_chores(SQUEEZE_PAUSE);
    }

    fn shed(&mut self) {
        let size = |key: &Key| {
            let session = self.clients.get(*key).map(|client| &client.session);
            session.map_or((0, 0), |session| {
                (session.unfinished_bytes(), session.held_bytes())
            })
        };
        let largest = self.clients.iter().map(|(key, _)| key).max_by_key(size);
        if let Some(key) = largest.filter(|key| size(key).1 > 0) {
            self.tell(key, Event::Stop(End::Memory));
        }
    }

    fn begin_drain(&mut self, ms: u32) {
        if self.state != State::Running {
            return;
        }
        info!(clients = self.clients.len(), ms; "draining");
        self.lists.accept = (0..self.listeners).collect();
        // Who waits in a listener's queue would be reset with it: they are taken, and told 503.
        for listener in std::mem::take(&mut self.lists.accept) {
            self.accept_from(listener);
        }
        self.state = State::Draining;
        self.io.close_listeners();
        let total = self.clients.len() as u32;
        let since = self.core.now;
        self.chores.drain = Some(Drain {
            since,
            ms,
            total,
            stopped: 0,
            from: 0,
            waits: false,
        });
        self.go_on_draining();
    }

    fn go_on_draining(&mut self) {
        let now = self.core.now;
        let ended = self.chores.drain.is_some() && self.has_no_session();
        let Some(drain) = &mut self.chores.drain else {
            return;
        };
        if ended && !std::mem::replace(&mut drain.waits, true) {
            self.busy.fetch_sub(1, Relaxed);
        }
        // The last ones need time for their Close, before the deadline.
        let window = drain.ms - (drain.ms / 4).min(DRAIN_MARGIN);
        let elapsed = now.since(drain.since);
        let late = elapsed >= window;
        let wanted = u64::from(drain.total) * u64::from(elapsed) / u64::from(window.max(1));
        // The others may still have a word to say to this one: ids whose home it is, permits that
        // were on their way, and what other nodes ask here of clients that are there.
        let all_ended = drain.waits && self.busy.load(Relaxed) == 0;
        if elapsed >= drain.ms || all_ended {
            self.stop();
            return self.stop_all();
        }
        if late && let Some(drain) = &mut self.chores.drain {
            // Whoever was passed over, or came in the last moment, has its turn now.
            drain.from = 0;
        }
        while let Some(drain) = &mut self.chores.drain {
            if !late && u64::from(drain.stopped) >= wanted {
                break;
            }
            let Some((key, client)) = self.clients.next_from(drain.from) else {
                break;
            };
            drain.from = key.index + 1;
            let session = &client.session;
            // Those without a server wait for one to the deadline, and so do other nodes.
            let stays = !late && session.phase() == Phase::Held || session.is_node();
            if !(stays || session.is_leaving()) {
                drain.stopped += 1;
                self.tell(key, Event::Stop(End::Shutdown));
            }
        }
        self.want_chores(DRAIN_PAUSE);
    }

    /// Whether all that is left are connections of other nodes on which nothing is under way.
    fn has_no_session(&self) -> bool {
        let mut left = self.clients.iter().map(|(_, client)| &client.session);
        left.all(|one| {
            one.phase() == Phase::Over || one.is_node() && one.phase() == Phase::Greeting
        })
    }

    /// The deadline is here: what is left is counted as unconfirmed.
    fn stop_all(&mut self) {
        let keys: Vec<Key> = self.clients.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.tell(key, Event::Stop(End::Shutdown));
            self.tell(key, Event::Stop(End::Fault));
        }
        self.flush();
        // Whoever has not taken his last words by now won't.
        let keys: Vec<Key> = self.clients.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.tell(key, Event::ClientLost(Loss::Silent));
        }
    }

    /// Lets a moving session see whether it may leave now.
    pub(super) fn nudge(&mut self, key: Key) {
        if let Some(client) = self.clients.get_mut(key) {
            self.core
                .with(&mut client.session, &[], |session, ctx| session.nudge(ctx));
            self.perform(key);
        }
    }
}

/// How often sessions that wait for their turn are looked at, in ms.
pub(super) const QUEUE_PAUSE: u32 = 5;

/// How often memory is looked at while it is short, and after how long somebody has to go.
const SQUEEZE_PAUSE: u32 = 20;
const SQUEEZE_MAX: u32 = 1_000;

/// How long memory that a burst took is kept for the next one, in ms.
pub(super) const TRIM_PAUSE: u32 = 1_000;

/// Clients looked at per chore, and the pause before draining ones are asked again.
const SWEEP_MAX: usize = 2_000;
const SWEEP_PAUSE: u32 = 1_000;

/// How often a drain goes on, and the end of its time that is kept for the last Closes, in ms.
const DRAIN_PAUSE: u32 = 10;
const DRAIN_MARGIN: u32 = 1_000;
