//! The other way to the other nodes: requests and answers over NATS. Each client that is connected is a
//! subject; the node that has it answers, and where nobody listens the server says so.
//!
//! Node to node there are three kinds of subject, all below the prefix: `push.<id>` for one client,
//! `all` for broadcasts, `here` by which nodes know of each other.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use log::{info, warn};

use super::node::State;
use super::quest::{Outcome, answer, reached_by};
use super::standing::{Row, Standing};
use crate::control::admin::Desk;
use crate::control::config::{BusConfig, Secret};
use crate::control::nats::link::{Link, Msg, Terms};
use crate::fleet::Kind;
use crate::net::Elsewhere;
use crate::session::{Push, PushVerb, Pushed, Reached};
use crate::shard::news::{Happened, Notice, Notify};
use crate::shard::{Answer, Asker, Mail};
use crate::wire::nats::{self, Headers};

/// The way to the bus's thread.
#[derive(Clone)]
pub(super) struct Way(Sender<Order>);

/// The other end.
pub(super) struct Orders(Receiver<Order>);

/// What its thread is told. Who comes and goes must not be missed, so its queue has no bound: it is as
/// long as clients come faster than a thread notes it; pushes are counted before ([`Standing::enter`]).
enum Order {
    Push {
        push: Box<Push>,
        from: Asker,
    },
    Opened {
        session: u128,
        pool: String,
        target: String,
    },
    Ended {
        session: u128,
    },
    /// What became of a push of another node.
    Pushed {
        ticket: u64,
        pushed: Pushed,
    },
    Stop,
}

pub(super) fn way() -> (Way, Orders) {
    let (sender, orders) = unbounded();
    (Way(sender), Orders(orders))
}

impl Way {
    /// Where pushes that were let in go.
    pub fn elsewhere(&self) -> Elsewhere {
        let sender = self.0.clone();
        // An error: the bus has stopped, and nobody waits for answers any more.
        Arc::new(move |push, from| drop(sender.send(Order::Push { push, from })))
    }

    /// What tells it of clients.
    pub fn notify(&self) -> Notify {
        let sender = self.0.clone();
        Arc::new(move |notice: Notice| {
            let session = notice.session;
            let order = match notice.what {
                Happened::Opened { target } => Order::Opened {
                    session,
                    pool: notice.pool,
                    target,
                },
                Happened::Ended { .. } => Order::Ended { session },
                Happened::Bound { .. }
                | Happened::Lost { .. }
                | Happened::Replayed { .. }
                | Happened::Moved => return,
            };
            // An error: the bus has stopped.
            let _ = sender.send(order);
        })
    }

    /// Takes what became of a push, if it was another node's; gives back any other answer.
    pub fn take(&self, ticket: u64, answer: Answer) -> Option<Answer> {
        match answer {
            Answer::Pushed(pushed) if ticket & OURS != 0 && ticket >> 63 == 0 => {
                let _ = self.0.send(Order::Pushed { ticket, pushed });
                None
            }
            other => Some(other),
        }
    }

    /// Ends it.
    pub fn stop(&self) {
        let _ = self.0.send(Order::Stop);
    }
}

/// Starts its thread.
///
/// # Errors
/// A thread could not be started.
pub(super) fn start(
    config: &BusConfig,
    timeout: Duration,
    orders: Orders,
    standing: Arc<Standing>,
    desk: Arc<Desk>,
) -> io::Result<JoinHandle<()>> {
    let reveal = |secret: &Option<Secret>| secret.as_ref().map(|one| one.reveal().to_owned());
    let terms = Terms {
        name: format!("wsteady {}", standing.mark),
        servers: config
            .nats
            .iter()
            .map(|one| (one.host.clone(), one.port))
            .collect(),
        user: config.user.clone(),
        password: reveal(&config.password),
        token: reveal(&config.token),
    };
    let (sender, messages) = bounded(WINDOW);
    // An error: the bus has stopped.
    let link = Link::start(terms, Box::new(move |message| drop(sender.send(message))))?;
    let inbox = format!("{}.reply.{}", config.prefix, standing.mark);
    let all = link.subscribe(&format!("{}.all", config.prefix), None);
    let here = link.subscribe(&format!("{}.here", config.prefix), None);
    let replies = link.subscribe(&format!("{inbox}.*"), None);
    let bus = Bus {
        prefix: config.prefix.clone(),
        inbox,
        timeout,
        link,
        standing,
        desk,
        sids: Sids { all, here, replies },
        sessions: HashMap::new(),
        ids: HashMap::new(),
        nodes: BTreeMap::new(),
        asked: HashMap::new(),
        due: VecDeque::new(),
        inward: HashMap::new(),
        inward_due: VecDeque::new(),
        next: 0,
        stood: 0,
        back_since: None,
        down_since: None,
        is_down: false,
        greet_at: Instant::now(),
    };
    thread::Builder::new()
        .name("cluster".to_string())
        .spawn(move || bus.run(&orders.0, messages))
}

struct Bus {
    prefix: String,
    inbox: String,
    timeout: Duration,
    link: Link,
    standing: Arc<Standing>,
    desk: Arc<Desk>,
    sids: Sids,
    /// Subscriptions of sessions, and the clients behind them.
    sessions: HashMap<u128, u64>,
    ids: HashMap<u64, String>,
    /// Other nodes by their marks, and when they were last heard of.
    nodes: BTreeMap<String, Seen>,
    /// Requests of ours that wait for an answer, and when they are late.
    asked: HashMap<u64, Asked>,
    due: VecDeque<(Instant, u64)>,
    /// Requests of others that wait for a loop's.
    inward: HashMap<u64, Vec<u8>>,
    inward_due: VecDeque<(Instant, u64)>,
    next: u64,
    /// Which of its connections the link has, and since when if it is not the first.
    stood: u64,
    back_since: Option<Instant>,
    /// Since when there is none, and whether that has been told.
    down_since: Option<Instant>,
    is_down: bool,
    greet_at: Instant,
}

struct Sids {
    all: u64,
    here: u64,
    replies: u64,
}

struct Seen {
    at: Instant,
    state: State,
    since: Instant,
}

/// A push of ours.
struct Asked {
    push: Box<Push>,
    from: Asker,
    /// So many have said that the client is leaving them.
    left: u32,
    /// Of a broadcast: who has to answer yet, and what the others have said.
    open: Vec<String>,
    /// Those who are asked, too, but not waited for.
    silent: Vec<String>,
    reached: Reached,
}

impl Asked {
    /// What a broadcast has come to.
    fn sum(&self) -> Reached {
        let mut sum = self.reached;
        sum.unasked += (self.open.len() + self.silent.len()) as u64;
        sum
    }
}

impl Bus {
    fn run(mut self, orders: &Receiver<Order>, messages: Receiver<Msg>) {
        loop {
            select! {
                recv(orders) -> order => match order {
                    Ok(Order::Stop) | Err(_) => break,
                    Ok(order) => self.on_order(order),
                },
                recv(messages) -> message => match message {
                    Ok(message) => self.on_message(&message),
                    Err(_) => break,
                },
                default(self.pause()) => {}
            }
            self.on_time();
        }
        let bye = Headers::new()
            .with("Bye", "1")
            .with("Node", &self.standing.mark);
        let subject = format!("{}.here", self.prefix);
        self.link.publish(subject.as_bytes(), None, &bye.end(), &[]);
        // The link's reader may wait for a place among them, and its end is waited for.
        drop(messages);
        self.link.stop();
    }

    fn pause(&self) -> Duration {
        let now = Instant::now();
        let dues = [self.due.front(), self.inward_due.front()];
        let dues = dues.into_iter().flatten().map(|(at, _)| *at);
        let next = dues.chain([self.greet_at]).min().unwrap_or(now);
        next.saturating_duration_since(now)
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Push { push, from } => self.ask(push, from),
            Order::Opened {
                session,
                pool,
                target,
            } => {
                let fleet = self.desk.fleet();
                let mut pools = fleet.pools.iter();
                if !pools.any(|one| one.name == pool && one.kind == Kind::Bridge) {
                    return;
                }
                drop(fleet);
                let path = target.split('?').next().unwrap_or_default();
                let id = path.strip_prefix('/').unwrap_or(path);
                if id.is_empty() {
                    return;
                }
                // In a group: of two nodes that have the same client, one gets it.
                let sid = self.link.subscribe(&self.subject_of(id), Some(GROUP));
                self.sessions.insert(session, sid);
                self.ids.insert(sid, id.to_owned());
            }
            Order::Ended { session } => {
                if let Some(sid) = self.sessions.remove(&session) {
                    self.link.unsubscribe(sid);
                    self.ids.remove(&sid);
                }
            }
            Order::Pushed { ticket, pushed } => self.on_pushed(ticket, pushed),
            Order::Stop => {}
        }
    }

    fn subject_of(&self, id: &str) -> String {
        let mut subject = format!("{}.push.", self.prefix).into_bytes();
        nats::put_token(id, &mut subject);
        String::from_utf8_lossy(&subject).into_owned()
    }

    // Pushes of ours.

    fn ask(&mut self, push: Box<Push>, from: Asker) {
        let number = self.next;
        self.next = (number + 1) & (OURS - 1);
        let mut asked = Asked {
            push,
            from,
            left: 0,
            open: Vec::new(),
            silent: Vec::new(),
            reached: Reached::default(),
        };
        if let PushVerb::Broadcast { .. } = asked.push.verb {
            for (node, seen) in &self.nodes {
                let list = match seen.state == State::Up {
                    true => &mut asked.open,
                    false => &mut asked.silent,
                };
                list.push(node.clone());
            }
        }
        let sent = self.send(number, &asked);
        self.asked.insert(number, asked);
        if let Err(pushed) = sent {
            return self.finish(number, Outcome::Unasked, pushed);
        }
        self.due.push_back((Instant::now() + self.timeout, number));
        self.settle_cast(number);
    }

    fn send(&self, number: u64, asked: &Asked) -> Result<(), Pushed> {
        let push = &asked.push;
        let head = Headers::new().with("Node", &self.standing.mark);
        let (subject, head) = match push.verb {
            PushVerb::Message { binary } => (
                self.subject_of(&push.id),
                head.with("Verb", "push").with("Binary", flag(binary)),
            ),
            PushVerb::Close { code } => {
                let head = head.with("Verb", "close");
                (
                    self.subject_of(&push.id),
                    head.with("Code", &code.to_string()),
                )
            }
            PushVerb::Look => (self.subject_of(&push.id), head.with("Verb", "look")),
            PushVerb::Broadcast { binary } => {
                let head = head.with("Verb", "cast").with("Prefix", &push.id);
                (
                    format!("{}.all", self.prefix),
                    head.with("Binary", flag(binary)),
                )
            }
        };
        // Of a broadcast the loops have said already whom they reached: it is answered with a sum.
        let unsent = |status, words: &str, nodes: usize| match push.verb {
            PushVerb::Broadcast { .. } => Pushed::Reached(Reached {
                unasked: nodes as u64,
                ..Reached::default()
            }),
            _ => answer(status, false, words.into()),
        };
        if push.body.len() > PAYLOAD_MAX {
            return Err(unsent(413, LONG, self.nodes.len()));
        }
        let reply = format!("{}.{number}", self.inbox);
        let reply = Some(reply.as_bytes());
        match self
            .link
            .publish(subject.as_bytes(), reply, &head.end(), &push.body)
        {
            true => Ok(()),
            // Without the bus nobody knows how many there are.
            false => Err(unsent(503, DOWN, self.nodes.len().max(1))),
        }
    }

    /// An answer to one of ours, or the server's word that there will be none.
    fn on_reply(&mut self, message: &Msg) {
        let number = message.subject.rsplit(|byte| *byte == b'.').next();
        let number = number.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        let Some(number) = number else { return };
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        let body: Box<str> = String::from_utf8_lossy(&message.payload).into();
        if let PushVerb::Broadcast { .. } = asked.push.verb {
            if message.status() == Some(503) {
                // Nobody listens; whoever was here a moment ago is not.
                return self.give_up_cast(number);
            }
            let node = message.header("Node").unwrap_or_default();
            asked.open.retain(|one| one != node);
            asked.silent.retain(|one| one != node);
            asked.reached.add(reached_by(&body));
            return self.settle_cast(number);
        }
        if message.status() == Some(503) {
            self.notice_link();
            let young = |since: Instant| since.elapsed() < YOUTH;
            return match !self.back_since.is_some_and(young) {
                true => self.finish(number, Outcome::Unknown, Pushed::Unknown),
                false => self.finish(number, Outcome::Unasked, answer(503, false, YOUNG.into())),
            };
        }
        let status = message
            .header("Answer")
            .and_then(|status| status.parse().ok());
        let json = message.header("Json") == Some("1");
        match status.unwrap_or(502) {
            // It was there when the server chose who gets this, and another may have it.
            404 if asked.left < LEFT_MAX => {
                asked.left += 1;
                let Some(asked) = self.asked.get(&number) else {
                    return;
                };
                if let Err(pushed) = self.send(number, asked) {
                    self.finish(number, Outcome::Unasked, pushed);
                }
            }
            404 => self.finish(number, Outcome::Unknown, Pushed::Unknown),
            status @ 200..=299 => self.finish(number, Outcome::Done, answer(status, json, body)),
            status => self.finish(number, Outcome::Refused, answer(status, json, body)),
        }
    }

    /// Another connection than before: the others may be on their way back, too. Not so the first one,
    /// by which this node comes to those who are there.
    fn notice_link(&mut self) {
        let stood = self.link.stood();
        if self.stood != stood {
            self.stood = stood;
            self.back_since = (stood > 1).then(Instant::now);
        }
    }

    fn settle_cast(&mut self, number: u64) {
        let Some(asked) = self.asked.get(&number) else {
            return;
        };
        let cast = matches!(asked.push.verb, PushVerb::Broadcast { .. });
        if cast && asked.open.is_empty() {
            let reached = asked.sum();
            self.finish(number, Outcome::Done, Pushed::Reached(reached));
        }
    }

    fn give_up_cast(&mut self, number: u64) {
        let Some(asked) = self.asked.get(&number) else {
            return;
        };
        let reached = asked.sum();
        self.finish(number, Outcome::Unasked, Pushed::Reached(reached));
    }

    fn finish(&mut self, number: u64, outcome: Outcome, pushed: Pushed) {
        if let Some(asked) = self.asked.remove(&number) {
            self.standing.leave(asked.push.body.len());
            self.standing.answer(asked.from, outcome, pushed);
        }
    }

    // Pushes of others.

    fn on_message(&mut self, message: &Msg) {
        if message.sid == self.sids.replies {
            self.on_reply(message);
        } else if message.sid == self.sids.here {
            self.on_greeting(message);
        } else {
            self.on_request(message);
        }
    }

    fn on_request(&mut self, message: &Msg) {
        let Some(reply) = &message.reply else { return };
        let binary = message.header("Binary") == Some("1");
        let (id, verb) = match (message.header("Verb"), self.ids.get(&message.sid)) {
            (Some("cast"), _) if message.sid == self.sids.all => {
                let prefix = message.header("Prefix").unwrap_or_default();
                (prefix.to_owned(), PushVerb::Broadcast { binary })
            }
            (Some("push"), Some(id)) => (id.clone(), PushVerb::Message { binary }),
            (Some("look"), Some(id)) => (id.clone(), PushVerb::Look),
            (Some("close"), Some(id)) => {
                let code = message.header("Code").and_then(|code| code.parse().ok());
                let code = code.filter(|code| crate::wire::close::is_sendable(*code));
                let code = code.unwrap_or(1000);
                (id.clone(), PushVerb::Close { code })
            }
            (_, None) => return self.reply(reply, 404, false, b"not connected\n"),
            (_, Some(_)) => return self.reply(reply, 400, false, b"no such verb\n"),
        };
        let text = !matches!(
            verb,
            PushVerb::Message { binary: true } | PushVerb::Broadcast { binary: true }
        );
        if text && std::str::from_utf8(&message.payload).is_err() {
            return self.reply(reply, 400, false, b"the text is not UTF-8\n");
        }
        let number = self.next;
        self.next = (number + 1) & (OURS - 1);
        self.inward.insert(number, reply.clone());
        self.inward_due
            .push_back((Instant::now() + INWARD_MAX, number));
        let push = Box::new(Push {
            id: id.into(),
            verb,
            is_hop: true,
            body: message.payload.clone(),
        });
        let from = Asker::Ticket(OURS | number);
        self.desk.board.tell(0, Mail::Push { push, from });
    }

    fn on_pushed(&mut self, ticket: u64, pushed: Pushed) {
        let Some(reply) = self.inward.remove(&(ticket & !OURS)) else {
            return;
        };
        let (status, json, body) = pushed.spoken();
        self.reply(&reply, status, json, body.as_bytes());
    }

    fn reply(&self, to: &[u8], status: u16, json: bool, body: &[u8]) {
        let head = Headers::new()
            .with("Answer", &status.to_string())
            .with("Json", flag(json))
            .with("Node", &self.standing.mark);
        self.link.publish(to, None, &head.end(), body);
    }

    // Who is there.

    fn on_greeting(&mut self, message: &Msg) {
        let Some(node) = message.header("Node").map(str::to_owned) else {
            return;
        };
        let now = Instant::now();
        if message.header("Bye").is_some() {
            if self.nodes.remove(&node).is_some() {
                info!(node = node; "node leaves");
                self.publish();
            }
            return;
        }
        let known = self.nodes.get_mut(&node);
        let new = known.as_ref().is_none_or(|seen| seen.state != State::Up);
        if new && self.nodes.len() >= NODES_MAX {
            return;
        }
        let since = match self.nodes.get(&node) {
            Some(seen) if !new => seen.since,
            _ => now,
        };
        if new {
            info!(node = node; "node up");
        }
        let state = State::Up;
        self.nodes.insert(
            node,
            Seen {
                at: now,
                state,
                since,
            },
        );
        if new {
            self.publish();
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        while let Some((at, number)) = self.due.front().copied()
            && at <= now
        {
            self.due.pop_front();
            self.late(number);
        }
        while let Some((at, number)) = self.inward_due.front().copied()
            && at <= now
        {
            self.inward_due.pop_front();
            self.inward.remove(&number);
        }
        if self.greet_at <= now {
            self.greet(now);
        }
    }

    fn late(&mut self, number: u64) {
        let Some(asked) = self.asked.get(&number) else {
            return;
        };
        match asked.push.verb {
            PushVerb::Broadcast { .. } => self.give_up_cast(number),
            PushVerb::Look => {
                self.finish(number, Outcome::Unasked, answer(503, false, SILENT.into()));
            }
            PushVerb::Message { .. } | PushVerb::Close { .. } => {
                self.finish(number, Outcome::Unsure, answer(504, false, UNSURE.into()));
            }
        }
    }

    fn greet(&mut self, now: Instant) {
        self.notice_link();
        let up = self.link.is_up();
        self.tell_state(up, now);
        // Whoever is back says so soon.
        self.greet_at = now + if up { GREETING } else { LOOK };
        if up {
            let head = Headers::new().with("Node", &self.standing.mark).end();
            let subject = format!("{}.here", self.prefix);
            self.link.publish(subject.as_bytes(), None, &head, &[]);
        }
        let mut changed = false;
        for (node, seen) in &mut self.nodes {
            let late = now.saturating_duration_since(seen.at) >= GREETING * 3;
            if late && seen.state == State::Up {
                (seen.state, seen.since, changed) = (State::Silent, now, true);
                warn!(node = node.as_str(); "node silent");
            }
        }
        let before = self.nodes.len();
        self.nodes
            .retain(|_, seen| now.saturating_duration_since(seen.at) < FORGET);
        if changed || before != self.nodes.len() {
            self.publish();
        }
    }

    /// A short outage is the link's alone to tell.
    fn tell_state(&mut self, up: bool, now: Instant) {
        let since = *self.down_since.get_or_insert(now);
        if up {
            self.down_since = None;
        }
        let is_down = !up && now.saturating_duration_since(since) >= GREETING;
        if self.is_down && up {
            info!("bus up");
        } else if !self.is_down && is_down {
            warn!("bus down: pushes for clients who are not here get 503");
        }
        self.is_down = is_down;
    }

    fn publish(&self) {
        let rows = self.nodes.iter().map(|(node, seen)| Row {
            name: node.clone(),
            state: seen.state,
            seconds: seen.since.elapsed().as_secs() as u32,
        });
        self.standing.publish(rows.collect(), Vec::new());
    }
}

fn flag(is: bool) -> &'static str {
    if is { "1" } else { "0" }
}

/// Tickets of ours among those of the switchboard, which counts from 1.
const OURS: u64 = 1 << 62;

/// Of two nodes that have the same client, one gets a push.
const GROUP: &str = "wsteady";

/// Messages that wait for the thread.
const WINDOW: usize = 4_096;

/// How often nodes say that they are there; thrice missed is silent.
const GREETING: Duration = Duration::from_secs(1);

/// How often it is looked whether the bus is back.
const LOOK: Duration = Duration::from_millis(50);

/// One that was silent for so long is gone.
const FORGET: Duration = Duration::from_secs(60);

/// After its own return to the bus a node takes nobody's silence for an answer for so long: the others
/// may be on their way back, too.
const YOUTH: Duration = Duration::from_secs(3);

/// A loop answers within a turn, or has lost the mail.
const INWARD_MAX: Duration = Duration::from_secs(10);

/// How often a push may find a client who is just leaving.
const LEFT_MAX: u32 = 2;

/// Far beyond what one bus is good for.
const NODES_MAX: usize = 256;

/// A NATS server takes 1 MiB, headers included, unless it is told otherwise.
const PAYLOAD_MAX: usize = (1 << 20) - (4 << 10);

const DOWN: &str = "not connected here, and the bus is down: the client may be elsewhere\n";
const YOUNG: &str = "not connected here, and the bus was down until just now: the client may be \
                     elsewhere\n";
const SILENT: &str = "the node that has the client did not answer\n";
const UNSURE: &str = "the node that has the client did not answer: the message may have been \
                      delivered\n";
const LONG: &str = "longer than the bus takes\n";
