//! The laws of clients and pushers, and bounds over what the shards hold. A broken law is a panic
//! that begins with `law`.

use std::collections::{BTreeMap, BTreeSet};

use super::nodes::{ELSEWHERE, MARK};
use super::people::{Guest, IDS, Person};
use super::pusher::{Push, Verb};
use super::world::{BridgeSim, World};
use crate::session::dialect::Tongue;
use crate::session::{Confirm, End, Phase};
use crate::shard::Shard;
use crate::sim::pipe::Far;
use crate::sim::valves::Dress;

/// What is known of all sessions.
#[derive(Default)]
pub struct Ledger {
    pub sessions: BTreeMap<u128, Log>,
    pub by_guest: BTreeMap<usize, u128>,
    /// Closes that were pushed: to which ClientId, with which code.
    pub dismissals: BTreeSet<(usize, u16)>,
    /// The shards were told to stop, at the latest then.
    pub drain_ends: Option<u64>,
    /// What a stream has of each session: the numbers of its messages.
    #[cfg(feature = "nats")]
    pub stream: BTreeMap<u128, Vec<u64>>,
    pub healed_at: Option<u64>,
    /// The line that the proxy has closed last.
    pub closed: Option<usize>,
    /// When a shard has asked last for connections to a server that are its by right.
    pub rights: BTreeMap<(u16, usize), u64>,
}

/// One session, as the APIs and its client saw it.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub guest: usize,
    pub id: usize,
    /// The status of the last answer to its GET; and whether that was the ok.
    pub status: Option<u16>,
    pub admitted: bool,
    /// POSTs begun, and answered with less than 500.
    pub begun: u64,
    pub answered: u64,
    /// At `written`: POSTs whose head alone was taken since the last whole one, or that may have been
    /// lost unseen with a connection.
    pub cut: u64,
    /// Its DELETE was begun; its ok was read.
    pub deleting: bool,
    pub over: bool,
    /// Messages that answers hold for the client, and when they were read.
    pub expected: Vec<((u32, u32), u64)>,
    /// The last moment at which an answer below 500 was read.
    pub progress_at: u64,
    /// Since when only its DELETE is left; when it was buried.
    pub finishing_at: Option<u64>,
    pub gone_at: Option<u64>,
    pub held: bool,
}

type Shards = [Shard<BridgeSim, Tongue>];

impl World {
    /// The proxy has closed somebody's connection.
    pub fn leave_person(&mut self, person: usize) {
        let now = self.now;
        if let Person::Guest(guest) = &mut self.people[person] {
            guest.closed_at = Some(now);
            guest.leaving_at.get_or_insert(now);
        }
    }

    /// A client was refused as HTTP.
    pub fn on_refused(&self, me: usize, guest: &Guest, status: u16) {
        let log = self
            .laws
            .by_guest
            .get(&me)
            .map(|id| &self.laws.sessions[id]);
        let said = log.and_then(|log| log.status);
        let legal = match status {
            403 if said.is_some_and(|said| (200..300).contains(&said)) => true,
            400..=499 => said == Some(status),
            502..=504 => true,
            _ => false,
        };
        assert!(legal, "law: guest {me} got {status}, the API said {said:?}");
        assert!(
            !log.is_some_and(|log| log.admitted),
            "law: guest {me}, {}, was refused with {status} behind an ok",
            IDS[guest.id]
        );
    }

    /// The next answer to one of its messages.
    pub fn on_answer_delivered(&mut self, me: usize, guest: &mut Guest, message: (u32, u32)) {
        let log = &self.laws.sessions[&self.laws.by_guest[&me]];
        let next = log.expected.get(guest.answers).map(|(next, _)| *next);
        assert_eq!(
            Some(message),
            next,
            "law: guest {me} gets answers in order, each once"
        );
        guest.answers += 1;
    }

    pub fn on_push_delivered(&mut self, me: usize, guest: &Guest, pusher: usize, n: u32) {
        let Person::Pusher(from) = &mut self.people[pusher] else {
            panic!("law: guest {me} got a push of nobody");
        };
        let push = from.pushes.get_mut(n as usize);
        let push = push.unwrap_or_else(|| panic!("law: guest {me} got a push {n} of the future"));
        assert!(push.is_for(guest), "law: guest {me} got another's push");
        let once = push.delivered.insert(me);
        assert!(once, "law: guest {me} got push {n} once more");
        let alone = push.verb == Verb::Broadcast || push.delivered.len() == 1;
        assert!(alone, "law: guest {me} got push {n}, as another did");
        let early = push.at < guest.open_at;
        self.hit("push: delivered");
        if early {
            self.hit("push: before the 101");
            if self.dress == Dress::Both {
                self.hit("valve: a push before the 101");
            }
        }
    }

    /// What became of a push.
    pub fn on_push_answered(&mut self, me: usize, push: &mut Push, status: u16, body: &[u8]) {
        let nodes = self.nodes.any;
        match push.hop {
            Some(MARK) if nodes && status == 421 => return self.hit("push: 421, of this node"),
            Some(_) if !nodes && status == 403 => return self.hit("push: 403, of no node"),
            Some(mark) => assert!(
                nodes && mark != MARK || status == 408,
                "law: pusher {me} got {status} for a push of node {mark}"
            ),
            None => {}
        }
        if body == ELSEWHERE.as_bytes() {
            assert!(nodes && push.hop.is_none(), "law: a push takes one hop");
            push.elsewhere = true;
            return self.must_be_nowhere(me, push, status);
        }
        match (push.verb, status) {
            (Verb::Message, 200) => self.hit("push: 200"),
            (Verb::Broadcast, 200) => return self.judge_broadcast(me, push, body),
            (Verb::Message, 503) => self.hit("push: 503"),
            (Verb::Close(_), 200) => self.hit("push: close"),
            (Verb::Look, 200) => {
                self.hit("push: look");
                self.judge_look(push.name, body);
            }
            (_, 404) => {
                self.hit("push: 404");
                let asked = !nodes || push.hop.is_some();
                assert!(
                    asked,
                    "law: pusher {me} got 404, and no other node was asked"
                );
                self.must_be_nowhere(me, push, 404);
            }
            // A node that asked in the last moment of a drain.
            (_, 503) if push.hop.is_some() && self.laws.drain_ends.is_some() => {}
            // Its connection was slow, and the time for a request had begun with the last answer.
            (_, 408) => {}
            (verb, status) => panic!("law: pusher {me} got {status} for {verb:?}"),
        }
        if (push.verb, status) != (Verb::Look, 200) && status == 200 {
            assert_eq!(body, b"ok", "law: a push that succeeds says so");
        }
    }

    fn must_be_nowhere(&self, me: usize, push: &Push, status: u16) {
        let there = |one: &Person| one.guest().is_some_and(|guest| self.is_there(guest, push));
        let there = self.people.iter().position(there);
        assert_eq!(
            there, None,
            "law: pusher {me} got {status} with a guest there"
        );
    }

    /// A node's connection has ended in a drain: no client is left.
    pub fn must_be_empty(&self, me: usize) {
        let mut guests = self.people.iter().filter_map(Person::guest);
        let there = guests.find(|guest| {
            let conn = &self.conns[guest.conn];
            guest.is_open() && conn.peer_open && conn.proxy_open && guest.leaving_at.is_none()
        });
        let there = there.map(|guest| IDS[guest.id]);
        assert_eq!(there, None, "law: node {me} was sent away before a guest");
    }

    /// Whether this client was connected since before the push and still is.
    fn is_there(&self, guest: &Guest, push: &Push) -> bool {
        let conn = &self.conns[guest.conn];
        let intact = conn.peer_open && conn.proxy_open && guest.leaving_at.is_none();
        push.is_for(guest) && guest.is_open() && intact && guest.open_at < push.at
    }

    /// All who are there were told, or are slow.
    fn judge_broadcast(&mut self, me: usize, push: &mut Push, body: &[u8]) {
        let text = std::str::from_utf8(body).expect("law: JSON is text");
        let number = |name: &str| -> u64 {
            let (_, rest) = text
                .split_once(&format!("\"{name}\":"))
                .expect("law: it is there");
            let digits = rest.split(|one: char| !one.is_ascii_digit()).next();
            digits
                .and_then(|digits| digits.parse().ok())
                .expect("law: a number")
        };
        let (clients, slow) = (number("clients"), number("slow"));
        let others = u64::from(self.nodes.any && push.hop.is_none());
        let asked = number("unasked_nodes");
        assert_eq!(
            asked, others,
            "law: all nodes are asked, by the first alone"
        );
        let guests = self.people.iter().filter_map(Person::guest);
        let there = guests.filter(|guest| self.is_there(guest, push)).count() as u64;
        assert!(
            there <= clients + slow,
            "law: pusher {me}: {there} are there, and {text:?}"
        );
        push.slow = slow;
        self.hit(if slow > 0 {
            "push: broadcast, some slow"
        } else {
            "push: broadcast"
        });
        if clients > 1 {
            self.hit("push: broadcast to several");
        }
    }

    fn judge_look(&self, name: &str, body: &[u8]) {
        let text = std::str::from_utf8(body).expect("law: JSON is text");
        let session = text
            .strip_prefix("{\"session\":\"")
            .and_then(|rest| rest.get(..32));
        let session = session.and_then(|hex| u128::from_str_radix(hex, 16).ok());
        let session = session.unwrap_or_else(|| panic!("law: a session in {text}"));
        if let Some(log) = self.laws.sessions.get(&session) {
            assert_eq!(IDS[log.id], name, "law: {name} is somebody else");
        }
    }

    /// The client has read the proxy's Close: all that was promised came before it.
    pub fn on_guest_closed(&mut self, me: usize, guest: &Guest) {
        let (code, reason) = guest.close_read.as_ref().expect("it was read");
        let code = *code;
        let until = guest.leaving_at.unwrap_or(self.now);
        if guest.close_sent.is_none() {
            match code {
                1008 if reason == "already connected" => return self.on_duplicate(me, guest),
                4409 => {
                    assert!(self.settings.now().replace, "law: nobody is replaced here");
                    self.hit("closed: replaced");
                }
                1013 => self.hit("closed: hold"),
                1001 => {
                    assert!(
                        self.laws.drain_ends.is_some(),
                        "law: guest {me} was closed with 1001"
                    );
                    self.hit("closed: shutdown");
                }
                _ => {
                    let pushed = self.laws.dismissals.contains(&(guest.id, code));
                    assert!(pushed, "law: guest {me} was closed with {code} {reason}");
                    self.hit("closed: by a push");
                }
            }
        }
        if let Some(session) = self.laws.by_guest.get(&me) {
            let expected = &self.laws.sessions[session].expected;
            let due = expected.iter().filter(|(_, at)| *at < until).count();
            assert!(
                guest.answers >= due,
                "law: guest {me} got {} of {due} answers before its Close",
                guest.answers
            );
        }
        for (pusher, n, push, at) in self.taken_pushes() {
            let owed = push.is_for(guest) && guest.open_at < push.at && at < until;
            assert!(
                !owed || push.delivered.contains(&me),
                "law: guest {me} was closed before push {n} of {pusher}"
            );
        }
    }

    /// Sent away because its ClientId was taken: somebody must have had it.
    fn on_duplicate(&mut self, me: usize, guest: &Guest) {
        self.hit("closed: duplicate");
        assert!(!self.settings.now().replace, "law: here the newer one wins");
        let others = self.people.iter().enumerate();
        let mut others = others.filter_map(|(at, one)| Some((at, one.guest()?)));
        let there = others.any(|(at, other)| {
            let left = other.closed_at.is_some_and(|closed| closed < guest.since);
            at != me && other.id == guest.id && other.since <= self.now && !left
        });
        assert!(there, "law: guest {me} is no duplicate of anybody");
    }

    /// Pushes of messages that were answered with 200, and when; not of those who were slow.
    fn taken_pushes(&self) -> impl Iterator<Item = (usize, usize, &Push, u64)> {
        let people = self.people.iter().enumerate();
        let pushers = people.filter_map(|(at, one)| match one {
            Person::Pusher(pusher) => Some((at, pusher)),
            Person::Guest(_) | Person::Away => None,
        });
        let all = pushers.flat_map(|(at, pusher)| {
            let pushes = pusher.pushes.iter().enumerate();
            pushes.map(move |(n, push)| (at, n, push))
        });
        all.filter_map(|(at, n, push)| match push.answer {
            Some((200, when)) if self.goes_down(n as u32) && !push.elsewhere => match push.verb {
                Verb::Message => Some((at, n, push, when)),
                Verb::Broadcast if push.slow == 0 => Some((at, n, push, when)),
                _ => None,
            },
            _ => None,
        })
    }

    /// After each turn.
    pub fn check_turn(&mut self, turned: &Shard<BridgeSim, Tongue>, shards: &Shards) {
        turned.check_invariants();
        let now = self.now;
        let mut there = BTreeSet::new();
        let mut open = BTreeSet::new();
        let (mut held, mut resumed) = (0, 0);
        for session in shards.iter().flat_map(|shard| shard.sessions()) {
            there.insert(session.id());
            let person = usize::from(session.peer().port());
            let leaving = session.is_leaving() || session.phase() == Phase::Finishing;
            if let Person::Guest(guest) = &mut self.people[person]
                && leaving
            {
                guest.leaving_at.get_or_insert(now);
            }
            let phase = session.phase();
            if matches!(phase, Phase::Open | Phase::Held | Phase::Finishing) {
                let alone = open.insert(session.client_id().to_string());
                assert!(alone, "law: {} is open twice", session.client_id());
            }
            let Some(log) = self.laws.sessions.get_mut(&session.id()) else {
                continue;
            };
            match phase {
                Phase::Held if !log.held => (log.held, held) = (true, held + 1),
                Phase::Open if log.held => (log.held, resumed) = (false, resumed + 1),
                Phase::Finishing => _ = log.finishing_at.get_or_insert(now),
                _ => {}
            }
        }
        (0..held).for_each(|_| self.hit("session: held"));
        (0..resumed).for_each(|_| self.hit("session: resumed"));
        self.check_gone(&there);
        self.check_connections();
        self.check_counts(shards);
    }

    /// A session that was let in ends with its DELETE, or after `hold` of trying. The end of a drain
    /// cuts off those that it closed last, if their API is slow.
    fn check_gone(&mut self, there: &BTreeSet<u128>) {
        let (now, hold) = (self.now, u64::from(self.settings.least(|one| one.hold)));
        let mut given_up = 0;
        for (id, log) in &mut self.laws.sessions {
            if log.gone_at.is_some() || there.contains(id) {
                continue;
            }
            log.gone_at = Some(now);
            if !log.admitted || log.over {
                continue;
            }
            let since = log.finishing_at.unwrap_or(now);
            let ends = self.laws.drain_ends;
            if ends.is_some_and(|end| now >= end && since + DRAIN_LAST > end) {
                continue;
            }
            given_up += 1;
            let guest = log.guest;
            assert!(
                now >= since + hold,
                "law: guest {guest} has left without a DELETE, finishing since {since}"
            );
            let healed = self.laws.healed_at.is_some_and(|at| since >= at);
            assert!(!healed, "law: all is well, but guest {guest} has no DELETE");
        }
        (0..given_up).for_each(|_| self.hit("session: gave up its delete"));
    }

    /// A shard has closed a connection for another to open one. What it gave it may ask back by right
    /// if it has less than its even share now: then connections would go round in circles.
    pub fn judge_permit(&mut self, server: u16, to: usize) {
        let closed = self.laws.closed.expect("law: it closes one before");
        let api = usize::from(server);
        assert_eq!(self.lines[closed].api, api, "law: a permit for its api");
        let giver = self.conns[self.lines[closed].conn].shard;
        let theirs = self.open_ends().filter(|conn| conn.shard == giver);
        let lines = theirs.filter_map(|conn| match conn.far {
            Far::Server(line) => Some(line),
            Far::Client(_) => None,
        });
        let kept: Vec<usize> = lines.filter(|line| self.lines[*line].api == api).collect();
        let even = self.fleet.pools[0].connections.max as usize / self.doors.len();
        let asked = self.laws.rights.get(&(server, to));
        let by_right = asked.is_some_and(|at| self.now < at + RIGHT_LIFE) && kept.len() >= even;
        let rested = |line: &usize| {
            let since = self.lines[*line].rests_since;
            since.is_some_and(|since| self.now - since >= REST)
        };
        let spare = kept.iter().chain([&closed]).any(rested);
        // One that its api has ended was nobody's to keep.
        let fell = !self.conns[self.lines[closed].conn].peer_open;
        assert!(
            by_right || spare || fell,
            "law: shard {giver} has {} of {even} connections to api {api}, and gives one to {to}",
            kept.len()
        );
        self.hit(if spare {
            "shelf: a permit that rested"
        } else {
            "shelf: a permit by right"
        });
    }

    /// The fleet's counts are the connections that there are, and never more than allowed.
    fn check_connections(&mut self) {
        let mut counts = vec![0; self.apis.len()];
        for conn in self.open_ends() {
            if let Far::Server(line) = conn.far {
                counts[self.lines[line].api] += 1;
            }
        }
        let max = self.fleet.pools[0].connections.max;
        for (api, count) in counts.into_iter().enumerate() {
            let told = self.fleet.servers[api].shared.connections();
            let granted = self.granted(api as u16);
            let counted = count + granted;
            assert_eq!(told, counted, "law: connections to api {api} are counted");
            assert!(
                counted <= max,
                "law: at most {max} connections to api {api}"
            );
            if granted > 0 {
                self.hit("shelf: a permit on its way");
            }
            if count == max {
                self.hit("shelf: all connections taken");
            }
        }
    }

    /// A message counts as confirmed as soon as its answer was read, and not before.
    fn check_counts(&self, shards: &Shards) {
        let tallies = || shards.iter().map(|shard| &shard.stats().pools[0]);
        let confirmed: u64 = tallies().map(|tally| tally.confirmed).sum();
        let refused = End::Refused.index();
        let refused: u64 = tallies().map(|tally| tally.unconfirmed[refused]).sum();
        let answered: u64 = self.laws.sessions.values().map(|log| log.answered).sum();
        let (counted, what) = match self.settings.now().confirm {
            Confirm::Received => (confirmed, "confirmed"),
            Confirm::Processed => (confirmed + refused, "confirmed or refused"),
            Confirm::Written => return,
        };
        assert_eq!(counted, answered, "law: {what} is what was answered");
    }

    /// Whether nothing is under way any more.
    pub fn is_settled(&self, shards: &Shards) -> Result<(), String> {
        for session in shards.iter().flat_map(|shard| shard.sessions()) {
            let (person, phase) = (session.peer().port(), session.phase());
            let rest = matches!(phase, Phase::Open | Phase::Greeting);
            if !rest || session.journal_bytes() > 0 || session.held_bytes() > 0 {
                return Err(format!(
                    "person {person} is {phase:?} with {} bytes, journal {}, attempt {:?}",
                    session.held_bytes(),
                    session.journal_bytes(),
                    session.attempt()
                ));
            }
        }
        for (me, person) in self.people.iter().enumerate() {
            let (conn, waiting) = match person {
                Person::Guest(guest) => (guest.conn, guest.unsent()),
                Person::Pusher(pusher) => (pusher.conn, pusher.waiting()),
                Person::Away => continue,
            };
            let conn = &self.conns[conn];
            let busy = conn.inward.flying() + conn.unread() + conn.on_way_down() + waiting;
            if conn.peer_open && busy > 0 {
                return Err(format!("person {me}: {busy} bytes or answers under way"));
            }
        }
        Ok(())
    }

    /// After all is healed and quiet: nothing is missing.
    pub fn check_complete(&self) {
        for (session, log) in &self.laws.sessions {
            let me = log.guest;
            let Some(guest) = self.people[me].guest() else {
                continue;
            };
            let conn = &self.conns[guest.conn];
            if !guest.is_open() || !conn.peer_open || !conn.proxy_open {
                continue;
            }
            let (least, most) = match self.settings.now().confirm {
                Confirm::Written => (log.begun, log.begun + log.cut),
                Confirm::Received | Confirm::Processed => (log.answered, log.answered),
            };
            let sent = self.passing(guest.next);
            assert!(
                (least..=most).contains(&sent),
                "law: {least} to {most} of {sent} messages of guest {me}, session {session:x}"
            );
            self.check_warned(me, guest);
            let due = log.expected.len();
            assert_eq!(guest.answers, due, "law: answers to guest {me}");
            for (pusher, n, push, _) in self.taken_pushes() {
                assert!(
                    push.delivered.contains(&me) || !self.is_there(guest, push),
                    "law: push {n} of {pusher} has not reached guest {me}"
                );
            }
        }
    }
}

/// What rests for so long, in ms, may go to another shard.
const REST: u64 = 10;

/// A wish that old, in ms, is forgotten: a second, and what its mail may take.
const RIGHT_LIFE: u64 = 1_500;

/// What a drain of three seconds leaves for the last DELETEs, in ms.
const DRAIN_LAST: u64 = 800;
