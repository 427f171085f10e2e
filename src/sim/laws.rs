//! What must hold whatever fails: I1 to I8 of the ledger, over what the peers saw, and bounds over
//! what the shards hold. A broken law is a panic that begins with `law`.

use std::collections::{BTreeMap, BTreeSet};

use super::crowd::{self, Crowd};
use super::guise::LOCAL;
use super::peer::{Client, Phase as Stage, Upstream};
use super::sightings::Sightings;
use super::valves::{self, Dress};
use super::world::{Sim, World};
use crate::fleet::ServerState;
use crate::session::dialect::ws::Ws;
use crate::session::{Confirm, Phase};
use crate::shard::Shard;

/// What is known of all sessions.
#[derive(Default)]
pub struct Ledger {
    pub sessions: BTreeMap<u128, Log>,
    by_client: BTreeMap<usize, u128>,
    /// The shards were told to stop.
    pub draining: bool,
    /// `limits.memory` is so small that it may cost sessions.
    pub squeezed: bool,
    /// Who was let in, and who was not.
    pub crowd: Crowd,
    /// The last turn's view, to see changes.
    seen: BTreeMap<u128, Seen>,
}

/// One session, as its servers and its client saw it.
#[derive(Default)]
pub struct Log {
    pub client: usize,
    pub upstreams: Vec<usize>,
    /// All messages below this were read by some server on a connection that still stood, so that it
    /// could have said so; and on any connection.
    pub end: u64,
    read: u64,
    /// What may count as confirmed: read, and dealt with where a server confirms by itself.
    pub sure: u64,
    /// Closes that its servers said.
    said: Vec<(Option<u16>, String)>,
    poisoned: BTreeMap<u32, u32>,
    /// An operator ended it.
    pub aborted: bool,
    /// With valves: what each number of the session is (sender and number), and the messages of its
    /// servers that were answered.
    pub order: BTreeMap<u64, (u32, u32)>,
    pub answers: BTreeSet<(u32, u32)>,
}

#[derive(Clone, Copy)]
struct Seen {
    failovers: u32,
    hold: u32,
    held_since: Option<u64>,
    last_bound: u64,
}

/// How often each thing happened: a fault that never strikes proves nothing.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Of the layer.
    pub edge: Sightings,
    pub clients: u64,
    pub messages_up: u64,
    pub messages_down: u64,
    pub failovers: u64,
    pub losses_nonempty: u64,
    pub repeats: u64,
    pub holds_ended: u64,
    pub resumes: u64,
    pub moves_clean: u64,
    pub moves_asked: u64,
    pub kills: u64,
    pub kills_unread: u64,
    pub stops: u64,
    pub half_closes: u64,
    pub slow: u64,
    pub pongs_late: u64,
    pub pongs_missing: u64,
    pub pongs_wrong: u64,
    pub refused: u64,
    pub slow_connects: u64,
    pub black_holes: u64,
    pub bad_answers: u64,
    pub protocol_errors: u64,
    pub server_closes: u64,
    pub poison: u64,
    pub poison_ends: u64,
    pub zero_windows: u64,
    pub stalls: u64,
    pub client_ends: u64,
    pub client_pongs: u64,
    pub pongs_in_hold: u64,
    pub squeezes: u64,
    pub accepts_failed: u64,
    pub turned_away: u64,
    pub scarce: u64,
    pub presses: u64,
    pub drains: u64,
    pub joins: u64,
    pub reloads: u64,
    pub removals: u64,
    /// Dials to servers that came while the shards ran.
    pub joined: u64,
    pub shutdowns: u64,
    pub cut_streams: u64,
    /// Messages that servers read behind valves, answers of valves, and sessions that they ended.
    pub valved: u64,
    pub answers_up: u64,
    pub answers_down: u64,
    pub valve_ends: u64,
    pub closes: BTreeMap<String, u64>,
}

impl Coverage {
    /// All runs together.
    pub fn sum(all: &[Coverage]) -> Coverage {
        let edge: Vec<Sightings> = all.iter().map(|one| one.edge.clone()).collect();
        let mut total = Coverage {
            edge: Sightings::sum(&edge),
            ..Coverage::default()
        };
        for one in all {
            let mut one = one.clone();
            for ((_, sum), (_, more)) in total.rows().into_iter().zip(one.rows()) {
                *sum += *more;
            }
            for (key, count) in &one.closes {
                *total.closes.entry(key.clone()).or_default() += count;
            }
        }
        total
    }

    fn rows(&mut self) -> Vec<(&'static str, &mut u64)> {
        vec![
            ("clients", &mut self.clients),
            ("messages up", &mut self.messages_up),
            ("messages down", &mut self.messages_down),
            ("failovers", &mut self.failovers),
            ("losses nonempty", &mut self.losses_nonempty),
            ("repeats", &mut self.repeats),
            ("holds ended", &mut self.holds_ended),
            ("resumes", &mut self.resumes),
            ("moves clean", &mut self.moves_clean),
            ("moves asked", &mut self.moves_asked),
            ("kills", &mut self.kills),
            ("kills unread", &mut self.kills_unread),
            ("stops", &mut self.stops),
            ("half closes", &mut self.half_closes),
            ("slow", &mut self.slow),
            ("pongs late", &mut self.pongs_late),
            ("pongs missing", &mut self.pongs_missing),
            ("pongs wrong", &mut self.pongs_wrong),
            ("refused", &mut self.refused),
            ("slow connects", &mut self.slow_connects),
            ("black holes", &mut self.black_holes),
            ("bad answers", &mut self.bad_answers),
            ("protocol errors", &mut self.protocol_errors),
            ("server closes", &mut self.server_closes),
            ("poison", &mut self.poison),
            ("poison ends", &mut self.poison_ends),
            ("zero windows", &mut self.zero_windows),
            ("stalls in a message", &mut self.stalls),
            ("client ends", &mut self.client_ends),
            ("client pongs", &mut self.client_pongs),
            ("pongs in hold", &mut self.pongs_in_hold),
            ("squeezes", &mut self.squeezes),
            ("accepts failed", &mut self.accepts_failed),
            ("turned away", &mut self.turned_away),
            ("no descriptor left", &mut self.scarce),
            ("memory pressed", &mut self.presses),
            ("drains", &mut self.drains),
            ("servers joined", &mut self.joins),
            ("settings changed", &mut self.reloads),
            ("servers removed", &mut self.removals),
            ("dials to joined ones", &mut self.joined),
            ("shutdowns", &mut self.shutdowns),
            ("cut streams", &mut self.cut_streams),
            ("past valves", &mut self.valved),
            ("answers to servers", &mut self.answers_up),
            ("answers to clients", &mut self.answers_down),
            ("ended by valves", &mut self.valve_ends),
        ]
    }
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut copy = self.clone();
        for (name, count) in copy.rows() {
            writeln!(to, "{name:<20} {count:>10}")?;
        }
        for (key, count) in &self.closes {
            writeln!(to, "client's end: {key:<40} {count:>7}")?;
        }
        write!(to, "{}", self.edge)
    }
}

impl World {
    /// A server has read a session's upgrade.
    pub fn on_hello(&mut self, me: usize, upstream: &Upstream, reconnect: bool) {
        let Upstream {
            session,
            client,
            first,
            ..
        } = *upstream;
        self.note(format_args!(
            "upstream {me} is greeted for client {client}, next {first}"
        ));
        if !self.conns[upstream.conn].proxy_open {
            // A stopped process has woken up and reads of a connection that was left long ago.
            return;
        }
        if let Some(header) = self.conns[upstream.conn]
            .end
            .as_ref()
            .and_then(|end| end.header)
        {
            let told = (crowd::address_of(client), LOCAL);
            // For one that has left, nobody knows any more where that was.
            let left = header.is_none() && !self.conns[self.clients[client].conn].proxy_open;
            assert!(
                header == Some(told) || left,
                "law: a header names its client: {header:?}, {told:?}"
            );
        }
        let known = self.laws.by_client.insert(client, session);
        assert!(
            known.is_none_or(|known| known == session),
            "law I7: client {client} has two sessions"
        );
        let settings = &self.settings[self.clients[client].pool];
        let written = settings.ever(|one| one.confirm == Confirm::Written);
        let always = !settings.ever(|one| one.confirm != Confirm::Written);
        let log = self.laws.sessions.entry(session).or_default();
        log.client = client;
        let (mut acked, mut opened) = (0, false);
        for earlier in &log.upstreams {
            let old = &self.upstreams[*earlier];
            let conn = &self.conns[old.conn];
            assert!(
                !conn.proxy_open,
                "law I8: upstream {earlier} lives on beside {me}"
            );
            let heard = conn.inward.taken.min(old.bad_at.unwrap_or(u64::MAX));
            for (offset, number) in &old.acks {
                if *offset <= heard {
                    acked = acked.max(*number);
                }
            }
            opened |= old.welcome_at.is_some_and(|at| at <= heard);
        }
        assert!(
            // An operator's end drops what its server said last.
            written || log.aborted || first >= acked,
            "law I4: next {first} repeats {acked}, upstreams {:?}",
            log.upstreams
        );
        assert!(
            written || first <= log.end,
            "law I1: next {first}, but servers have read {}",
            log.end
        );
        assert!(
            !always || first >= log.read,
            "law: written repeats {first} of {}",
            log.read
        );
        assert_eq!(
            reconnect, opened,
            "law: the reconnect header of upstream {me}"
        );
        assert!(opened || first == 0, "law: a first connect begins at 0");
        if let Some(last) = log.upstreams.last().map(|last| &self.upstreams[*last])
            && last.moved
        {
            let end = last.first + last.count;
            assert_eq!(
                first, end,
                "law I4: a move repeats or loses, from upstream {me}"
            );
            self.coverage.moves_clean += 1;
        }
        self.coverage.repeats += log.end.saturating_sub(first);
        log.upstreams.push(me);
    }

    /// A server has read a whole message.
    pub fn on_message(&mut self, me: usize, upstream: &Upstream, n: u64, length: usize) {
        let next = upstream.first + upstream.count;
        assert_eq!(
            n, next,
            "law I3: upstream {me} of client {} reads a gap",
            upstream.client
        );
        let client = &self.clients[upstream.client];
        let sent = n < client.ends.len() as u64 || self.dress[client.pool] != Dress::Bare;
        assert!(sent, "law I2: message {n} was never sent");
        self.coverage.messages_up += 1;
        let open = self.conns[upstream.conn].proxy_open;
        let Some(log) = self.laws.sessions.get_mut(&upstream.session) else {
            return;
        };
        log.read = log.read.max(n + 1);
        if open {
            log.end = log.end.max(n + 1);
        }
        if open && !upstream.processes {
            log.sure = log.sure.max(n + 1);
        }
        self.trace = self.trace.rotate_left(5) ^ (n << 32 | length as u64);
    }

    /// A server that confirms by itself has dealt with so many.
    pub fn on_processed(&mut self, session: u128, number: u64) {
        if let Some(log) = self.laws.sessions.get_mut(&session) {
            log.sure = log.sure.max(number);
        }
    }

    pub fn on_poison(&mut self, session: u128, n: u32) {
        self.coverage.poison += 1;
        let Some(log) = self.laws.sessions.get_mut(&session) else {
            return;
        };
        let kills = log.poisoned.entry(n).or_default();
        *kills += 1;
        // Losses count against the first unconfirmed message, which may be an earlier one at first.
        assert!(
            *kills <= KILLS_MAX,
            "law: message {n} has killed {kills} servers"
        );
    }

    pub fn on_server_close(&mut self, session: u128, code: Option<u16>, reason: &str) {
        self.coverage.server_closes += 1;
        if let Some(log) = self.laws.sessions.get_mut(&session) {
            log.said.push((code, reason.to_string()));
        }
    }

    pub fn on_close_reply(&mut self, _upstream: &Upstream) {}

    /// A client has read a whole message.
    pub fn on_down(&mut self, me: usize, client: &mut Client, upstream: usize, n: u32) {
        let last = client.got.last().map_or(0, |(last, _)| *last);
        assert!(
            upstream >= last,
            "law I5: client {me} hears of {upstream} after {last}"
        );
        if client.got.is_empty() || upstream != last {
            client.got.push((upstream, 0));
        }
        let (_, got) = client.got.last_mut().expect("just pushed");
        assert_eq!(
            n, *got,
            "law I5: client {me} misses a message of upstream {upstream}"
        );
        *got += 1;
        assert_eq!(
            self.upstreams[upstream].client, me,
            "law I7: client {me} gets foreign messages"
        );
        assert!(
            (n as usize) < self.upstreams[upstream].sent.len(),
            "law I2: nobody sent it"
        );
        self.coverage.messages_down += 1;
    }

    /// A client has the Pong to its Ping.
    pub fn on_client_pong(&mut self, me: usize) {
        self.coverage.client_pongs += 1;
        let seen = self
            .laws
            .by_client
            .get(&me)
            .and_then(|id| self.laws.seen.get(id));
        let held = seen.is_some_and(|seen| seen.held_since.is_some());
        self.coverage.pongs_in_hold += u64::from(held);
    }

    /// A client was turned away.
    pub fn on_denied(&mut self, status: &str, scarce: bool) {
        self.coverage.scarce += u64::from(scarce);
        *self
            .coverage
            .closes
            .entry(format!("HTTP {status}"))
            .or_default() += 1;
    }

    /// A client has read a Close: somebody must have had a reason.
    pub fn on_client_close(&mut self, me: usize, client: &Client, code: Option<u16>, reason: &str) {
        let key = match (client.close_sent, reason) {
            (Some(_), _) => "reply".to_string(),
            (None, "") => format!("{}", code.unwrap_or(1005)),
            (None, reason) => format!("{} {reason}", code.unwrap_or(1005)),
        };
        *self.coverage.closes.entry(key).or_default() += 1;
        assert!(
            !client.is_open_message() || client.close_sent.is_some() || code != Some(1000),
            "law: client {me} is closed inside a message"
        );
        let log = self
            .laws
            .by_client
            .get(&me)
            .and_then(|id| self.laws.sessions.get(id));
        if client.close_sent.is_some_and(|sent| sent == code) || client.faulty {
            return;
        }
        let Some(log) = log else {
            panic!("law: client {me} is closed with {code:?} by nobody")
        };
        let settings = &self.settings[client.pool];
        let unbound = self
            .laws
            .seen
            .get(&self.laws.by_client[&me])
            .map_or(0, |seen| seen.last_bound);
        let blamed = log
            .upstreams
            .iter()
            .filter(|id| self.upstreams[**id].abnormal)
            .count();
        let legal = match (code.unwrap_or(1005), reason) {
            (1001, "shutting down") => self.laws.draining,
            (1000, "") if log.aborted => true,
            (1013, "no server within hold time") => {
                self.coverage.holds_ended += 1;
                let healthy = self.healed_at.map_or(0, |at| self.now - at);
                healthy < 4_900
                    && self.now - unbound + 2 >= u64::from(settings.least(|one| one.hold))
            }
            (1013, "memory") => self.laws.squeezed,
            (1013, "buffer full") => {
                // Answers to servers have no other bound.
                let answers = self.dress[client.pool] == Dress::Both;
                settings.ever(|one| one.overflow_close) || answers
            }
            (1013, "nothing processed within hold time") => {
                settings.ever(|one| one.confirm == Confirm::Processed)
            }
            (1008, "refused on reconnect") => self.denials.keys().any(|status| *status < 500),
            (1011, "server lost inside a message") => {
                self.coverage.cut_streams += 1;
                self.dress[client.pool] != Dress::Both
                    && (self.laws.squeezed
                        || self.was_streaming(log, settings.least(|one| one.atomic)))
            }
            (1011, "message not accepted by any server") => {
                self.coverage.poison_ends += 1;
                blamed >= usize::from(settings.least(|one| one.replay_attempts))
            }
            (1011, "servers break the protocol") => blamed > 10,
            (code @ 1011, "valve failed") | (code @ 4321, "enough") => {
                self.is_closed_by_valve(me, client, code)
            }
            _ => log
                .said
                .iter()
                .any(|(said, why)| *said == code && why == reason),
        };
        assert!(
            legal,
            "law I6: client {me} is closed with {code:?} {reason:?} for no reason"
        );
    }

    /// Whether its last server died inside a message too long to be collected.
    fn was_streaming(&self, log: &Log, atomic: usize) -> bool {
        let Some(last) = log.upstreams.last().map(|last| &self.upstreams[*last]) else {
            return false;
        };
        let taken = self.conns[last.conn].inward.taken;
        last.sent
            .iter()
            .any(|(begin, end, length)| *begin < taken && taken < *end && *length > atomic)
    }

    /// The proxy closes an upstream. One that was made after all healed is left only for a client
    /// that goes, or one that the bounds of memory or of a hold make go.
    pub fn on_leave(&mut self, upstream: usize) {
        let healed = self
            .healed_at
            .is_some_and(|at| self.upstreams[upstream].since > at);
        let peer = &self.upstreams[upstream];
        if !healed
            || peer.state != super::peer::Stage::Open
            || self.laws.draining
            || self.laws.squeezed
        {
            return;
        }
        let client = &self.clients[peer.client];
        let settings = &self.settings[client.pool];
        let excused = peer.close_sent
            || peer.close_read
            || peer.ended
            || client.faulty
            || client.close_sent.is_some()
            || client.stage != Stage::Open
            || !self.conns[client.conn].proxy_open
            // Its shard heard late that the server is gone.
            || self.is_gone(peer.server)
            || settings.ever(|one| one.overflow_close || one.confirm == Confirm::Processed)
            // What it is to answer has not come yet.
            || self.conns[peer.conn].on_way_down() > 0
            // The hold may have ended just then.
            || self.now - peer.since < 1_000;
        assert!(
            excused,
            "law I9: healthy upstream {upstream} of client {} is left",
            peer.client
        );
    }

    /// A client's connection has ended without anybody's Close.
    pub fn on_client_end(&mut self, me: usize, client: &Client) {
        self.note(format_args!("client {me} sees its connection end"));
        self.coverage.cut_streams += u64::from(client.is_cut() && !client.tainted);
        let excused = client.closed
            || client.close_sent.is_some()
            || client.tainted
            || client.faulty
            || client.is_cut()
            || self.laws.draining
            || self.conns[client.conn].is_harmed()
            || (client.stage == Stage::Asking && !self.laws.crowd.has_refused(me));
        assert!(
            excused,
            "law I6: client {me} loses its connection without a Close; slow until {}, now {}",
            self.conns[client.conn].slow_until, self.now
        );
    }

    /// What must hold between two turns.
    pub fn check_turn(&mut self, shard: &Shard<Sim, Ws>) {
        shard.check_invariants();
        self.check_arrivals(shard);
        let mut seen = std::mem::take(&mut self.laws.seen);
        let held = shard.sessions().filter(|one| one.phase() == Phase::Held);
        let waiting: Vec<u16> = held.filter_map(|one| one.pool()).collect();
        for session in shard.sessions() {
            let Some(pool) = session.pool() else { continue };
            let settings = &self.settings[usize::from(pool)];
            let held = session.held_bytes();
            // A server's message that valves are to see is held whole, too.
            let down = self.dress[usize::from(pool)] == Dress::Both;
            let messages = self.message_max * if down { 2 } else { 1 };
            let bound = settings.most(|one| one.buffer) + messages + SLACK;
            assert!(
                held <= bound,
                "law: a session holds {held} of {bound} bytes"
            );
            let id = session.id();
            let first = Seen {
                failovers: 0,
                hold: 0,
                held_since: None,
                last_bound: self.now,
            };
            let old = seen.entry(id).or_insert(first);
            if session.failovers() > old.failovers {
                let new = u64::from(session.failovers() - old.failovers);
                old.failovers = session.failovers();
                self.coverage.failovers += new;
                self.coverage.losses_nonempty += u64::from(session.journal_bytes() > 0) * new;
            }
            match session.phase() {
                Phase::Held => {
                    // It may have had a server for less than a turn: then it is another hold.
                    let began = session.attempt().map_or(0, |attempt| attempt.since.0);
                    if old.hold != began {
                        (old.hold, old.held_since) = (began, None);
                    }
                    let since = *old.held_since.get_or_insert(self.now);
                    let queued = session.attempt().map_or(0, |attempt| attempt.waited) + 6_000;
                    let limit = u64::from(settings.most(|one| one.hold) + queued);
                    let attempt = session.attempt();
                    assert!(
                        self.now - since <= limit,
                        "law: a hold ends: {id:x} {attempt:?}"
                    );
                }
                Phase::Open | Phase::Moving => {
                    if old.held_since.take().is_some() {
                        self.coverage.resumes += 1;
                    }
                    old.last_bound = self.now;
                }
                Phase::Greeting
                | Phase::Serving
                | Phase::Admitting
                | Phase::Finishing
                | Phase::Parting
                | Phase::Over => {
                    old.held_since = None;
                }
            }
            if !settings.ever(|one| one.confirm == Confirm::Written) {
                let sure = self.laws.sessions.get(&id).map_or(0, |log| log.sure);
                let confirmed = session.confirmed();
                assert!(
                    confirmed <= sure,
                    "law: {confirmed} count as confirmed, {sure} were read"
                );
            }
            self.check_ping(session);
            self.check_silence(session, waiting.contains(&pool));
        }
        self.laws.seen = seen;
    }

    /// A client's Ping is answered while it reads, with or without a server.
    fn check_ping(&mut self, session: &crate::session::Session) {
        let now = self.now;
        let Some(client) = self.clients.get_mut(usize::from(session.peer().port())) else {
            return;
        };
        if client.pings.is_empty() {
            client.unanswered_since = now;
        }
        let Some((number, end, _)) = client.pings.front() else {
            return;
        };
        let conn = &self.conns[client.conn];
        let settings = &self.settings[client.pool];
        let idle = conn.on_way_down() == 0 && conn.peer_open;
        let read = conn.inward.taken >= *end;
        let excused = !idle
            || !read
            || client.stage != Stage::Open
            || client.is_cut()
            || client.close_sent.is_some()
            || session.held_bytes() * 2 >= settings.least(|one| one.buffer)
            || self.laws.squeezed
            || session.has_output()
            || !session.has_client();
        // One turn may lie between the end of a pause and the next read.
        let since = if excused {
            self.now
        } else {
            client.unanswered_since.min(self.now)
        };
        let (port, phase) = (session.peer().port(), session.phase());
        assert!(
            self.now - since < 1_000,
            "law I6: Ping {number} of client {port} has no Pong in {phase:?} since {since}, {:?}",
            (
                client.pings.front(),
                client.deaf_until,
                conn.slow_until,
                self.now,
                conn.proxy_open
            )
        );
        self.clients[usize::from(port)].unanswered_since = since;
    }

    /// A server that says nothing is left in time. Where others wait for a turn with the next server,
    /// it may be put off that one more will have to.
    fn check_silence(&mut self, session: &crate::session::Session, others_wait: bool) {
        let Some(log) = self.laws.sessions.get(&session.id()) else {
            return;
        };
        let Some(last) = log.upstreams.last() else {
            return;
        };
        let settings = &self.settings[self.clients[log.client].pool];
        let slow_client = self.conns[self.clients[log.client].conn].slow_until + 2_000 > self.now;
        let upstream = &mut self.upstreams[*last];
        let conn = &self.conns[upstream.conn];
        let joined = matches!(session.phase(), Phase::Open | Phase::Moving);
        let over = (conn.inward.fin_arrived || conn.inward.reset) && conn.unread() == 0;
        let unread = over && joined && conn.proxy_open && session.wants_upstream();
        if !unread || others_wait || self.laws.squeezed {
            upstream.over_since = self.now;
        }
        let late = self.now - upstream.over_since;
        assert!(
            late < 600,
            "law: upstream {last} ended {late} ms ago, unnoticed: held {} out {} of client {}",
            session.held_bytes(),
            session.held_output(),
            session.has_client()
        );
        let moved = conn.inward.taken != upstream.taken || conn.unread() > 0;
        if moved
            || !joined
            || !conn.proxy_open
            || !session.wants_upstream()
            || slow_client
            || session.unfinished_bytes() > 0
        {
            (upstream.taken, upstream.quiet_since) = (conn.inward.taken, self.now);
            return;
        }
        let limit = u64::from(settings.most(|one| one.ping + 2 * one.pong)) + 4_000;
        let quiet = self.now - upstream.quiet_since;
        assert!(
            quiet <= limit,
            "law: upstream {last} is silent for {quiet} ms, limit {limit}, {} unsent",
            session.journal_bytes()
        );
    }

    /// Whether nothing is under way any more: all held sessions have resumed or ended, and all that
    /// clients sent has arrived.
    pub fn is_settled(&self, shards: &[Shard<Sim, Ws>]) -> Result<(), String> {
        for session in shards.iter().flat_map(|shard| shard.sessions()) {
            let port = session.peer().port();
            if session.phase() != Phase::Open || session.journal_bytes() > 0 {
                return Err(format!(
                    "client {port} is {:?}, journal {} bytes, {} confirmed, out {}",
                    session.phase(),
                    session.journal_bytes(),
                    session.confirmed(),
                    session.held_output()
                ));
            }
            if let Some(server) = session.server()
                && self.is_gone(usize::from(server))
            {
                return Err(format!("client {port} is at {server}, which is gone"));
            }
        }
        for (me, client) in self.clients.iter().enumerate() {
            let conn = &self.conns[client.conn];
            let busy = conn.inward.flying() + conn.unread() + conn.on_way_down();
            let busy = busy + client.held_back();
            if conn.peer_open && (busy > 0 || client.stage != Stage::Open) {
                return Err(format!(
                    "client {me} is {:?}, {busy} bytes under way, {:?}",
                    client.stage,
                    shards
                        .iter()
                        .flat_map(|shard| shard.sessions())
                        .find(|one| usize::from(one.peer().port()) == me)
                        .map(|one| (one.wants_client(), one.stashed(), one.held_output()))
                ));
            }
        }
        for upstream in &self.upstreams {
            let conn = &self.conns[upstream.conn];
            let busy = conn.inward.flying() + conn.unread() + conn.on_way_down();
            let asks = conn.end.as_ref().is_some_and(|end| !end.is_settled());
            if conn.peer_open && conn.proxy_open && (busy > 0 || asks) {
                return Err(format!(
                    "upstream of client {}: {busy} bytes under way",
                    upstream.client
                ));
            }
        }
        Ok(())
    }

    pub fn is_gone(&self, server: usize) -> bool {
        self.fleet.servers[server].state == ServerState::Gone
    }

    /// After all is healed and quiet: nothing is missing.
    pub fn check_complete(&self) {
        for (id, log) in &self.laws.sessions {
            let client = &self.clients[log.client];
            let conn = &self.conns[client.conn];
            if client.stage != Stage::Open || !conn.peer_open || !conn.proxy_open {
                continue;
            }
            let settings = &self.settings[client.pool];
            let written = settings.ever(|one| one.confirm == Confirm::Written);
            let dress = self.dress[client.pool];
            if dress != Dress::Bare {
                self.check_valved(log, written);
            } else if !written {
                assert_eq!(
                    log.end,
                    client.ends.len() as u64,
                    "law I1: client {} of {id:x}",
                    log.client
                );
            }
            assert!(
                client.pings.is_empty(),
                "law I6: client {} waits for a Pong",
                log.client
            );
            for upstream in &log.upstreams {
                let peer = &self.upstreams[*upstream];
                let heard = self.conns[peer.conn].inward.taken;
                let upto = |offset: u64| {
                    peer.sent
                        .iter()
                        .filter(|(_, end, _)| *end <= offset)
                        .count() as u32
                };
                // What follows a breach may have been understood or not.
                let least = upto(heard.min(peer.bad_at.unwrap_or(u64::MAX)));
                let whole = match dress {
                    Dress::Both => {
                        let passing = |sent: u32| valves::passing(sent.into()) as u32;
                        passing(least)..=passing(upto(heard))
                    }
                    Dress::Bare | Dress::Up => least..=upto(heard),
                };
                let got = client
                    .got
                    .iter()
                    .find(|(from, _)| from == upstream)
                    .map_or(0, |row| row.1);
                assert!(
                    whole.contains(&got),
                    "law I5: client {} of upstream {upstream}",
                    log.client
                );
            }
        }
    }

    /// What counts as confirmed was read, over all sessions of a pool: those that ended, too.
    pub fn check_counts(&self, shards: &[Shard<Sim, Ws>]) {
        for (pool, settings) in self.settings.iter().enumerate() {
            if settings.ever(|one| one.confirm == Confirm::Written) {
                continue;
            }
            let sum = |of: fn(&crate::session::Tally) -> u64| -> u64 {
                shards
                    .iter()
                    .map(|shard| of(&shard.stats().pools[pool]))
                    .sum()
            };
            let confirmed = sum(|tally| tally.confirmed);
            let logs = self.laws.sessions.values();
            let logs = logs.filter(|log| self.clients[log.client].pool == pool);
            let sure: u64 = logs.map(|log| log.sure).sum();
            assert!(
                confirmed <= sure,
                "law I1: {confirmed} count as confirmed, {sure} were read"
            );
        }
    }

    /// Connections that have a living proxy end.
    pub fn open_ends(&self) -> usize {
        let accepted = |id: &&usize| {
            let conn = &self.conns[**id];
            conn.socket_open && (conn.token.is_some() || conn.accepted)
        };
        self.live.iter().filter(accepted).count()
    }
}

/// One read, what was kept before it, what may be collected and queued downwards.
const SLACK: usize = 512 << 10;

/// `replay_attempts`, and some in which an earlier message was suspected.
const KILLS_MAX: u32 = 20;
