//! The loop that asks the other nodes: connections that stay, one request at a time on each.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use log::{info, warn};

use super::line::{Errand, Event, Line};
use super::names::{Found, Names};
use super::node::{Node, State, TRIAL_PAUSE};
use super::owners::Owners;
use super::quest::{Doubts, Outcome, Quest, Said, Step};
use super::standing::{Row, Standing};
use crate::kit::{Key, Slots, Tick};
use crate::net::Net;
use crate::session::Pushed;
use crate::shard::{Asker, Io, Kind, Mail, Push, PushVerb, Ready, Token};
use crate::wire::head::HeadWriter;

/// All that the thread has.
pub(super) struct Ring {
    net: Net,
    terms: Terms,
    standing: Arc<Standing>,
    names: Names,
    /// What each name was last resolved to; `None`: it never was.
    resolved: Vec<Option<Vec<SocketAddr>>>,
    troubled: Vec<bool>,
    nodes: Slots<Node>,
    lines: Slots<Line>,
    quests: Slots<Task>,
    owners: Owners,
    /// Looks that have found the client, and when they wait no more for the others.
    hurried: VecDeque<(Tick, Key)>,
    /// What is to be told to quests when nobody is in the middle of one.
    said: VecDeque<(Key, Key, Said)>,
    /// More addresses than there may be nodes: some can't be asked.
    crowded: bool,
    changed: bool,
    now: Tick,
    ready: Vec<Ready>,
    mail: Vec<Mail>,
    scratch: Vec<u8>,
}

/// What holds for all requests.
pub(super) struct Terms {
    /// What stands before a ClientId.
    pub path: String,
    /// Who we are.
    pub mark: String,
    /// `Bearer …`, if there is a token.
    pub authorization: Option<String>,
    /// In ms.
    pub timeout: u32,
}

/// A push under way.
struct Task {
    quest: Quest,
    push: Box<Push>,
    from: Asker,
    hurried: bool,
}

impl Ring {
    pub fn new(
        mut net: Net,
        terms: Terms,
        standing: Arc<Standing>,
        listed: &[SocketAddr],
        names: Names,
    ) -> Ring {
        let now = net.now().tick;
        let mut ring = Ring {
            net,
            terms,
            standing,
            resolved: vec![None; names.hosts.len()],
            troubled: vec![false; names.hosts.len()],
            names,
            nodes: Slots::with_capacity(NODES_MAX),
            lines: Slots::with_capacity(0),
            quests: Slots::with_capacity(0),
            owners: Owners::default(),
            hurried: VecDeque::new(),
            said: VecDeque::new(),
            crowded: false,
            changed: true,
            now,
            ready: Vec::new(),
            mail: Vec::new(),
            scratch: vec![0; SCRATCH],
        };
        for address in listed {
            ring.meet(*address, true);
        }
        ring
    }

    /// One pass: what has come, then what is due. False: it is to end.
    pub fn turn(&mut self) -> bool {
        let wait = self.next_due().map(|due| due.since(self.now));
        self.ready.clear();
        self.net.poll(wait, &mut self.ready);
        self.now = self.net.now().tick;
        // First what is over: nothing new is to go where it can't arrive.
        for at in 0..self.ready.len() {
            if let Some(Kind::Upstream(line)) = self.ready[at].token.kind() {
                self.on_line(line);
            }
        }
        self.net.take_mail(&mut self.mail);
        for mail in std::mem::take(&mut self.mail) {
            match mail {
                Mail::Push { push, from } => self.begin(push, from),
                Mail::Stop => return false,
                other => debug_assert!(false, "{other:?} is for a loop"),
            }
        }
        while let Ok(found) = self.names.found.try_recv() {
            self.settle(found);
        }
        self.on_time();
        self.tell_quests();
        if std::mem::take(&mut self.changed) {
            self.publish();
        }
        true
    }

    // Pushes.

    fn begin(&mut self, push: Box<Push>, from: Asker) {
        let looks = push.verb == PushVerb::Look;
        let casts = matches!(push.verb, PushVerb::Broadcast { .. });
        let owner = match looks || casts {
            true => None,
            false => self.owners.find(&push.id, self.now),
        };
        // One that is silent is not waited for; the client may have gone to another by now.
        let owner = owner.filter(|owner| {
            let node = self.nodes.get(*owner);
            node.is_some_and(|node| node.state == State::Up)
        });
        let quest = match owner {
            Some(owner) => Quest::guess(owner),
            None => Quest::new(looks),
        };
        let key = self.quests.insert(Task {
            quest,
            push,
            from,
            hurried: false,
        });
        match owner {
            Some(owner) => self.give(key, owner),
            None if casts => self.spread(key),
            None => self.look(key),
        }
        self.tell_quests();
    }

    /// Who can be asked, and how many can't be.
    fn all(&self) -> (Vec<Key>, Doubts) {
        let mut doubts = Doubts::default();
        let mut open = Vec::new();
        for (node, place) in self.nodes.iter() {
            match place.state {
                State::Own => {}
                State::Silent => doubts.silent += 1,
                State::New | State::Up | State::Refused | State::Strange => open.push(node),
            }
        }
        // Whoever is behind a name that was never resolved can't be asked.
        doubts.silent += self.resolved.iter().filter(|one| one.is_none()).count();
        doubts.silent += usize::from(self.crowded);
        (open, doubts)
    }

    fn spread(&mut self, key: Key) {
        let (open, doubts) = self.all();
        let Some(task) = self.quests.get_mut(key) else {
            return;
        };
        match task.quest.spread(open.clone(), doubts) {
            Step::Wait => open.into_iter().for_each(|node| self.give(key, node)),
            step => self.follow(key, step),
        }
    }

    fn look(&mut self, key: Key) {
        let (open, doubts) = self.all();
        let Some(task) = self.quests.get_mut(key) else {
            return;
        };
        self.owners.forget(&task.push.id);
        let step = task.quest.look(open.clone(), doubts);
        if step != Step::Wait {
            return self.follow(key, step);
        }
        let errand = Errand {
            quest: key,
            gives: false,
            by: self.now.after(self.terms.timeout),
        };
        for node in open {
            self.ask(node, errand);
        }
    }

    fn give(&mut self, key: Key, node: Key) {
        let Some(task) = self.quests.get(key) else {
            return;
        };
        // A long message needs time of its own, at 1 MiB a second.
        let more = u32::try_from(task.push.body.len() >> 10).unwrap_or(TIME_MAX);
        let errand = Errand {
            quest: key,
            gives: true,
            by: self.now.after(self.terms.timeout + more.min(TIME_MAX)),
        };
        self.ask(node, errand);
    }

    fn follow(&mut self, key: Key, step: Step) {
        let Some(task) = self.quests.get_mut(key) else {
            return;
        };
        match step {
            Step::Wait => {}
            Step::Hurry if task.hurried => {}
            Step::Hurry => {
                task.hurried = true;
                let moment = (self.terms.timeout / HURRY_PART).max(1);
                self.hurried.push_back((self.now.after(moment), key));
            }
            Step::Give(node) => {
                self.owners.remember(&task.push.id, node, self.now);
                self.give(key, node);
            }
            Step::Look => self.look(key),
            Step::Done(outcome, pushed) => self.finish(key, outcome, pushed),
        }
    }

    fn finish(&mut self, key: Key, outcome: Outcome, pushed: Pushed) {
        let Some(task) = self.quests.remove(key) else {
            return;
        };
        if outcome != Outcome::Done {
            self.owners.forget(&task.push.id);
        }
        self.standing.leave(task.push.body.len());
        self.standing.answer(task.from, outcome, pushed);
    }

    /// Brings answers to their quests. A step may ask somebody else, who may say something at once.
    fn tell_quests(&mut self) {
        while let Some((key, node, said)) = self.said.pop_front() {
            if let Some(task) = self.quests.get_mut(key) {
                let step = task.quest.on(node, said);
                self.follow(key, step);
            }
        }
    }

    // Nodes.

    fn meet(&mut self, address: SocketAddr, listed: bool) {
        let known = self.nodes.iter().find(|(_, one)| one.address == address);
        let known = known.map(|(key, _)| key);
        if let Some(node) = known.and_then(|key| self.nodes.get_mut(key)) {
            node.left = false;
            if node.state == State::Own && !node.listed {
                // Its address may be another's by now.
                self.changed |= node.become_(State::New, self.now);
            }
            return;
        }
        if self.nodes.len() >= NODES_MAX {
            if !std::mem::replace(&mut self.crowded, true) {
                warn!(
                    "more than {NODES_MAX} peers: those beyond are not asked, and pushes for clients that nobody else has get 503"
                );
            }
            return;
        }
        self.nodes.insert(Node::new(address, listed, self.now));
        self.changed = true;
    }

    /// What a name was resolved to, or why not.
    fn settle(&mut self, found: Found) {
        let (name, host) = (found.name, self.names.hosts[found.name].clone());
        let addresses = match found.addresses {
            Ok(addresses) if !addresses.is_empty() => addresses,
            failed => {
                // Nothing changes: name servers may be wrong, and clients are still where they are.
                if !std::mem::replace(&mut self.troubled[name], true) {
                    let why = failed
                        .err()
                        .map_or("it has no address".into(), |why| why.to_string());
                    warn!(name = host; "peers not resolved: {why}");
                }
                return;
            }
        };
        if std::mem::replace(&mut self.troubled[name], false) {
            info!(name = host; "peers resolved again");
        }
        self.crowded = false;
        self.resolved[name] = Some(addresses.clone());
        for address in &addresses {
            self.meet(*address, false);
        }
        let named: Vec<SocketAddr> = self.resolved.iter().flatten().flatten().copied().collect();
        let keys: Vec<Key> = self.nodes.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(node) = self.nodes.get_mut(key) {
                node.left = !node.listed && !named.contains(&node.address);
                if node.left && node.state == State::New {
                    node.state = State::Refused;
                }
            }
        }
        self.changed = true;
    }

    /// Asks a node, now or when a connection is free.
    fn ask(&mut self, key: Key, errand: Errand) {
        let Some(node) = self.nodes.get_mut(key) else {
            return self.say(errand, key, Said::Unheard);
        };
        if node.queue.len() >= QUEUE_MAX {
            return self.say(errand, key, Said::Unheard);
        }
        node.queue.push_back(errand);
        self.serve(key);
    }

    /// Begins as many of a node's requests as there are connections for.
    fn serve(&mut self, key: Key) {
        while let Some(node) = self.nodes.get_mut(key) {
            let Some(mut errand) = node.queue.front().copied() else {
                return;
            };
            if node.idle.is_empty() && (node.is_closed() || node.lines.len() >= LINES_MAX) {
                return;
            }
            node.queue.pop_front();
            let (address, idle) = (node.address, node.idle.pop());
            let Some(request) = self.compose(&errand, address) else {
                // Somebody else has answered it meanwhile.
                if let (Some(line), Some(node)) = (idle, self.nodes.get_mut(key)) {
                    node.idle.push(line);
                }
                continue;
            };
            match idle {
                Some(line) => {
                    // Its time begins here, however short it had to wait.
                    let least = self.now.after(self.terms.timeout);
                    if errand.by.is_before(least) {
                        errand.by = least;
                    }
                    if let Some(line) = self.lines.get_mut(line) {
                        line.begin(errand, request, &mut self.net);
                    }
                }
                None => self.dial(key, address, errand, request),
            }
        }
    }

    fn dial(&mut self, key: Key, address: SocketAddr, errand: Errand, request: Vec<u8>) {
        let token = Token::upstream(self.lines.next_key());
        match self.net.call_on(address, token) {
            Ok(socket) => {
                let line = self.lines.insert(Line::new(key, socket, errand, request));
                if let Some(node) = self.nodes.get_mut(key) {
                    node.lines.push(line);
                }
            }
            Err(why) => {
                let refused = why.kind() == std::io::ErrorKind::ConnectionRefused;
                self.unmade(key, errand, refused);
            }
        }
    }

    fn unmade(&mut self, key: Key, errand: Errand, refused: bool) {
        if refused && self.has_standing(key, Key::NONE) {
            // Its last clients may still be to be had, on the connections that stand.
            if let Some(node) = self.nodes.get_mut(key) {
                node.refuses_since.get_or_insert(self.now);
                node.queue.push_front(errand);
            }
            return;
        }
        let said = match refused {
            true => {
                self.heard(key, State::Refused);
                Said::Refused
            }
            false => {
                self.silence(key);
                Said::Unheard
            }
        };
        self.say(errand, key, said);
    }

    /// Whether a node has a connection that stands, beside this one.
    fn has_standing(&self, node: Key, beside: Key) -> bool {
        let lines = self.nodes.get(node).map_or(&[][..], |node| &node.lines);
        let mut others = lines.iter().filter(|line| **line != beside);
        others.any(|line| self.lines.get(*line).is_some_and(Line::stands))
    }

    fn say(&mut self, errand: Errand, node: Key, said: Said) {
        if !errand.quest.is_none() {
            self.said.push_back((errand.quest, node, said));
        }
    }

    fn heard(&mut self, key: Key, state: State) {
        if let Some(node) = self.nodes.get_mut(key) {
            self.changed |= node.become_(state, self.now);
        }
    }

    /// It does not answer: whoever waits for it waits no more.
    fn silence(&mut self, key: Key) {
        self.heard(key, State::Silent);
        let Some(node) = self.nodes.get_mut(key) else {
            return;
        };
        let waiting = std::mem::take(&mut node.queue);
        for line in std::mem::take(&mut node.idle) {
            self.hang_up(line);
        }
        for errand in waiting {
            self.say(errand, key, Said::Unheard);
        }
    }

    // Connections.

    fn on_line(&mut self, key: Key) {
        // An answer may have the end of the connection behind it.
        while let Some(line) = self.lines.get_mut(key) {
            let node = line.node;
            match line.on_ready(&mut self.scratch, &mut self.net) {
                Event::Nothing => {
                    if line.rests() {
                        line.rests_since = self.now;
                        if let Some(node) = self.nodes.get_mut(node)
                            && !node.idle.contains(&key)
                        {
                            node.idle.push(key);
                        }
                        self.serve(node);
                    }
                    return;
                }
                Event::Answer {
                    errand,
                    status,
                    body,
                    keep,
                    drains,
                } => {
                    if let Some(node) = self.nodes.get_mut(node) {
                        node.drains |= drains;
                        node.refuses_since = None;
                    }
                    if !keep {
                        self.hang_up(key);
                    }
                    self.answered(node, errand, status, &body);
                    if !keep {
                        self.serve(node);
                    }
                }
                Event::Unmade { errand, refused } => {
                    self.hang_up(key);
                    self.unmade(node, errand, refused);
                    self.serve(node);
                }
                Event::Lost {
                    errand,
                    sent,
                    stale,
                } => {
                    self.hang_up(key);
                    if stale && !errand.gives {
                        self.ask(node, errand);
                    } else {
                        let said = match sent || !errand.gives {
                            true => Said::Silent,
                            false => Said::Unheard,
                        };
                        self.say(errand, node, said);
                    }
                    self.serve(node);
                }
                Event::Ended => {
                    self.hang_up(key);
                    self.serve(node);
                }
            }
        }
    }

    fn answered(&mut self, node: Key, errand: Errand, status: u16, body: &[u8]) {
        let state = match status {
            421 => State::Own,
            401 | 403 => State::Strange,
            200 | 404 | 503 => State::Up,
            _ if errand.gives => State::Up,
            _ => State::Strange,
        };
        self.heard(node, state);
        let body = String::from_utf8_lossy(body).into();
        self.say(errand, node, Said::Answer { status, body });
    }

    fn hang_up(&mut self, key: Key) {
        let Some(line) = self.lines.remove(key) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(line.node) {
            node.lines.retain(|one| *one != key);
            node.idle.retain(|one| *one != key);
        }
        let stands = self.has_standing(line.node, Key::NONE);
        if let Some(node) = self.nodes.get_mut(line.node) {
            node.drains &= stands;
            node.refuses_since = node.refuses_since.filter(|_| stands);
        }
        line.close(&mut self.net);
    }

    // Time.

    fn next_due(&self) -> Option<Tick> {
        let errands = self.lines.iter().map(|(_, line)| line.due());
        let queues = self.nodes.iter().filter_map(|(_, node)| node.queue.front());
        let queues = queues.map(|errand| errand.by);
        let checks = self.nodes.iter().map(|(_, node)| node.check_at);
        let deaths = self
            .nodes
            .iter()
            .filter(|(_, node)| self.is_waited_for(node));
        let deaths = deaths.filter_map(|(_, node)| node.dies_at());
        let hurried = self.hurried.front().map(|(due, _)| *due);
        let all = errands
            .chain(queues)
            .chain(checks)
            .chain(deaths)
            .chain(hurried);
        all.reduce(Tick::min)
    }

    fn on_time(&mut self) {
        while let Some((due, key)) = self.hurried.front().copied()
            && due.is_due(self.now)
        {
            self.hurried.pop_front();
            if let Some(task) = self.quests.get_mut(key) {
                let step = task.quest.hurry();
                self.follow(key, step);
            }
        }
        let late = self
            .lines
            .iter()
            .filter(|(_, line)| line.due().is_due(self.now));
        let late: Vec<Key> = late.map(|(key, _)| key).collect();
        for key in late {
            let Some(line) = self.lines.get(key) else {
                continue;
            };
            let (node, errand, sent) = (line.node, line.errand().copied(), line.is_sent());
            let Some(errand) = errand else {
                // One is kept: a node that drains answers on it, and takes no other.
                if self.has_standing(node, key) {
                    self.hang_up(key);
                } else if let Some(line) = self.lines.get_mut(key) {
                    line.rests_since = self.now;
                }
                continue;
            };
            self.hang_up(key);
            self.silence(node);
            let said = match sent {
                true => Said::Silent,
                false => Said::Unheard,
            };
            self.say(errand, node, said);
        }
        let nodes: Vec<Key> = self.nodes.iter().map(|(key, _)| key).collect();
        for key in nodes {
            self.look_at(key);
        }
    }

    /// Whether there are requests that would not be missed with it.
    fn is_waited_for(&self, node: &Node) -> bool {
        let mut lines = node.lines.iter().filter_map(|line| self.lines.get(*line));
        !node.queue.is_empty() || lines.any(|line| !line.gives())
    }

    /// It refuses connections, and says nothing on those that stand. Only what it may have taken is
    /// waited for.
    fn bury(&mut self, key: Key) {
        let Some(node) = self.nodes.get_mut(key) else {
            return;
        };
        let mut waiting = std::mem::take(&mut node.queue);
        let lines = node.lines.clone();
        for one in lines {
            if let Some(line) = self.lines.get(one).filter(|line| !line.gives()) {
                waiting.extend(line.errand().copied());
                self.hang_up(one);
            }
        }
        for errand in waiting {
            self.say(errand, key, Said::Refused);
        }
        self.heard(key, State::Refused);
    }

    /// A node's requests that have waited too long, and the node itself.
    fn look_at(&mut self, key: Key) {
        let dies_at = self.nodes.get(key).and_then(Node::dies_at);
        if dies_at.is_some_and(|due| due.is_due(self.now)) {
            self.bury(key);
        }
        while let Some(node) = self.nodes.get_mut(key)
            && let Some(errand) = node.queue.front().copied()
            && errand.by.is_due(self.now)
        {
            node.queue.pop_front();
            self.say(errand, key, Said::Unheard);
        }
        let Some(node) = self.nodes.get_mut(key) else {
            return;
        };
        if node.is_over() {
            info!(peer:% = node.address; "peer gone");
            self.nodes.remove(key);
            self.changed = true;
            return;
        }
        if node.check_at.is_due(self.now) {
            let pause = self.terms.timeout.max(TRIAL_PAUSE);
            node.check_at = self.now.after(pause);
            if node.state != State::Own {
                let errand = Errand {
                    quest: Key::NONE,
                    gives: false,
                    by: self.now.after(self.terms.timeout),
                };
                self.ask(key, errand);
            }
        }
    }

    fn publish(&self) {
        let rows = self.nodes.iter().map(|(_, node)| Row {
            name: node.address.to_string(),
            state: node.state,
            seconds: self.now.since(node.since) / 1_000,
        });
        let unresolved = self.names.hosts.iter().zip(&self.resolved);
        let unresolved = unresolved.filter(|(_, found)| found.is_none());
        let unresolved = unresolved.map(|(host, _)| host.clone());
        self.standing.publish(rows.collect(), unresolved.collect());
    }

    /// The request of an errand; `None`: nobody waits for its answer any more.
    fn compose(&self, errand: &Errand, to: SocketAddr) -> Option<Vec<u8>> {
        let task = match errand.quest.is_none() {
            true => None,
            false => Some(self.quests.get(errand.quest)?),
        };
        let push = task.map(|task| &*task.push);
        let id = push.map_or(NOBODY, |push| &push.id);
        let verb = push.filter(|_| errand.gives).map(|push| &push.verb);
        let before = match verb {
            Some(PushVerb::Broadcast { .. }) => "?prefix=",
            _ => "",
        };
        let target = [&self.terms.path, before, id].concat();
        let method = match verb {
            None | Some(PushVerb::Look) => "GET",
            Some(PushVerb::Message { .. } | PushVerb::Broadcast { .. }) => "POST",
            Some(PushVerb::Close { .. }) => "DELETE",
        };
        let body = push
            .filter(|_| errand.gives)
            .map_or(&[][..], |push| &push.body);
        let mut out = Vec::with_capacity(512 + body.len());
        let mut head = HeadWriter::new(&mut out);
        let written = head
            .request_line(method, &target)
            .and_then(|()| head.header("Host", to.to_string()))
            .and_then(|()| head.header("X-Wsteady-Hop", &self.terms.mark))
            .and_then(|()| match &self.terms.authorization {
                Some(token) => head.header("Authorization", token),
                None => Ok(()),
            })
            .and_then(|()| match verb {
                None | Some(PushVerb::Look) => head.header("Accept", "application/json"),
                Some(PushVerb::Message { binary: true } | PushVerb::Broadcast { binary: true }) => {
                    head.header("Content-Type", "application/octet-stream")
                }
                Some(
                    PushVerb::Message { binary: false } | PushVerb::Broadcast { binary: false },
                ) => head.header("Content-Type", "text/plain; charset=utf-8"),
                Some(PushVerb::Close { code }) => head.header("X-Wsteady-Close", code.to_string()),
            })
            .and_then(|()| match method {
                "GET" => Ok(()),
                _ => head.header("Content-Length", body.len().to_string()),
            });
        // Ids, paths and tokens were checked when they came.
        debug_assert!(written.is_ok(), "{target}");
        head.end();
        out.extend_from_slice(body);
        Some(out)
    }
}

/// Whom a node is asked about when the question is only whether it answers: an id that may be
/// somebody's, but that does not matter.
const NOBODY: &str = "~";

/// A look that has found the client waits for the others for a hundredth of `timeout`, 10 ms: who is
/// there answers in one, and a node that is just dying must not hold up everybody's pushes.
const HURRY_PART: u32 = 100;

/// Connections to one node.
const LINES_MAX: usize = 8;

/// Requests that wait for one of them: at 1,000 a second and connection, an eighth of a second.
const QUEUE_MAX: usize = 1_024;

/// Far beyond what asking all of them is good for.
const NODES_MAX: usize = 256;

/// As `wire` reads heads and `session` texts: what is left in the socket is read next.
const SCRATCH: usize = 16 << 10;

/// An hour, in ms: no message takes longer.
const TIME_MAX: u32 = 3_600_000;
