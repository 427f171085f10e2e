//! One thread that pushes: each push at its time, to a node of its own choice, for a client of its
//! own choice, whatever became of the ones before.

use super::chance::Chance;
use super::judge::{Answer, Push};
use super::marks::{Mark, Marks};
use super::{Node, Plan};
use crate::check::Label;
use crate::link::{Filled, Link};
use crate::reasons::Reasons;
use crate::run::{Progress, Shared};
use crate::timer::{TIMER, Timer};
use crate::units::nanos;
use crate::{http, sys};
use hdrhistogram::Histogram;
use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

/// What a thread of pushes brings home.
pub struct Sent {
    /// Number `index + place x pushers` is at `place`.
    pub pushes: Vec<Push>,
    pub marks: Vec<Mark>,
    /// Pushes that a node took no connection for; another got them.
    pub refused: u64,
    /// Nanoseconds from when a push was due until it was given to a connection or to a queue: the
    /// tool's own delay.
    pub lateness: Histogram<u64>,
    pub reasons: Reasons,
}

/// Pushes until the window is over and all is answered.
///
/// # Errors
/// What keeps the whole thread from working.
pub fn run(plan: &Plan, index: usize, shared: &Shared) -> io::Result<Sent> {
    sys::own_descriptor_table();
    let progress = &shared.progress[plan.clients.threads + index];
    let mut pusher = Pusher::new(plan, index, shared)?;
    loop {
        // Who looks on must have seen the window's end: a thread that is gone before has failed.
        if shared.failed.load(Acquire) || (pusher.is_done() && shared.close.load(Acquire)) {
            break;
        }
        pusher.turn(shared, progress)?;
    }
    Ok(pusher.finish())
}

struct Pusher<'a> {
    plan: &'a Plan,
    index: usize,
    poll: Poll,
    events: Option<Events>,
    timer: Timer,
    wires: Slab<Wire>,
    nodes: Vec<Towards>,
    /// What is under way, oldest first: deadline, wire, push.
    deadlines: VecDeque<(u64, usize, usize)>,
    chance: Chance,
    marks: Option<Marks>,
    /// When pushes begin and end; 0 until that is known.
    start: u64,
    until: u64,
    now: u64,
    answered: u64,
    schedule_done: bool,
    request: Vec<u8>,
    sent: Sent,
}

/// One connection, with one push under way at most.
struct Wire {
    link: Link,
    node: usize,
    /// It stands: what is lost on it may have arrived.
    connected: bool,
    push: Option<usize>,
    /// The start of an answer whose rest has not come.
    answer: Vec<u8>,
}

/// What a thread has towards a node.
#[derive(Default)]
struct Towards {
    idle: Vec<usize>,
    wires: usize,
    /// Pushes that found all connections busy.
    waiting: VecDeque<usize>,
    /// It took no connection: it is left alone until then.
    down_until: u64,
}

impl<'a> Pusher<'a> {
    fn new(plan: &'a Plan, index: usize, shared: &Shared) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer = Timer::new(&poll)?;
        // One thread writes down what all are told.
        let marks = plan.mark_file.as_deref().filter(|_| index == 0);
        Ok(Self {
            plan,
            index,
            poll,
            events: Some(Events::with_capacity(EVENTS_MAX)),
            timer,
            wires: Slab::new(),
            nodes: plan.nodes.iter().map(|_| Towards::default()).collect(),
            deadlines: VecDeque::new(),
            chance: Chance::new(plan.seed, plan.clients.threads + index),
            marks: marks.map(Marks::new),
            start: 0,
            until: u64::MAX,
            now: shared.clock.now(),
            answered: 0,
            schedule_done: false,
            request: Vec::new(),
            sent: Sent {
                pushes: Vec::new(),
                marks: Vec::new(),
                refused: 0,
                lateness: super::report::histogram(),
                reasons: Reasons::default(),
            },
        })
    }

    fn is_done(&self) -> bool {
        self.schedule_done && self.answered == self.sent.pushes.len() as u64
    }

    fn turn(&mut self, shared: &Shared, progress: &Progress) -> io::Result<()> {
        let mut events = self.events.take().expect("given back in each turn");
        let patience = if self.timer.overdue {
            Duration::ZERO
        } else {
            PATIENCE
        };
        match self.poll.poll(&mut events, Some(patience)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        self.now = shared.clock.now();
        for event in &events {
            match event.token() {
                TIMER => self.timer.on_event(),
                Token(key) => self.on_event(key, event),
            }
        }
        self.events = Some(events);
        self.now = shared.clock.now();
        self.expire();
        if let Some(marks) = &mut self.marks {
            marks.look(self.now);
        }
        if self.start == 0 {
            self.start = shared.start.load(Acquire);
            self.until = self.plan.shape.window(self.start).1;
            if self.start != 0 && self.index == 0 {
                // For whoever does something to the nodes and wants to know from when on.
                eprintln!("all clients are there: pushing");
            }
        }
        if self.start != 0 && !self.schedule_done {
            let next = self.push_due(shared);
            self.timer.arm(next, self.now);
        }
        progress.done.store(self.answered, Relaxed);
        Ok(())
    }

    /// Pushes what the schedule owes; when the next one is due.
    fn push_due(&mut self, shared: &Shared) -> Option<u64> {
        self.timer.overdue = false;
        for _ in 0..PUSHES_MAX {
            let number = self.number(self.sent.pushes.len());
            let due = self.start + (number as f64 * 1e9 / self.plan.rate) as u64;
            if due >= self.until {
                self.schedule_done = true;
                return None;
            }
            self.now = shared.clock.now();
            if due > self.now {
                return Some(due);
            }
            self.sent.lateness.saturating_record(self.now - due);
            let unknown = self.chance.share() < self.plan.unknown;
            let client = self.chance.below(self.plan.clients.total as usize) as u32;
            self.sent.pushes.push(Push {
                client: (!unknown).then_some(client),
                due,
                until: u64::MAX,
                answer: Answer::Unsent,
            });
            self.choose(self.sent.pushes.len() - 1);
        }
        self.timer.overdue = true;
        None
    }

    fn number(&self, place: usize) -> u64 {
        (place * self.plan.pushers + self.index) as u64
    }

    /// Gives a push to a node that is not known to be down, and that has a connection for it, if there is
    /// one: who pushes does not queue at a node that hangs.
    fn choose(&mut self, push: usize) {
        let (now, most) = (self.now, self.plan.connections);
        let is_up = |node: &Towards| node.down_until <= now;
        let is_free = |node: &Towards| is_up(node) && (!node.idle.is_empty() || node.wires < most);
        let choice = self.pick(is_free).or_else(|| self.pick(is_up));
        let Some(node) = choice else {
            return self.answer(push, Answer::Unsent);
        };
        if let Some(key) = self.nodes[node].idle.pop() {
            self.send(key, push);
        } else if self.nodes[node].wires < most {
            self.dial(node, push);
        } else {
            self.nodes[node].waiting.push_back(push);
        }
    }

    /// One of the nodes that will do, each as likely as the other.
    fn pick(&mut self, will_do: impl Fn(&Towards) -> bool) -> Option<usize> {
        let count = self.nodes.iter().filter(|node| will_do(node)).count();
        let choice = (count > 0).then(|| self.chance.below(count))?;
        let mut good = (0..self.nodes.len()).filter(|node| will_do(&self.nodes[*node]));
        good.nth(choice)
    }

    fn dial(&mut self, node: usize, push: usize) {
        let entry = self.wires.vacant_entry();
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = sys::connect(self.plan.nodes[node].target, None).and_then(|mut socket| {
            let token = Token(entry.key());
            self.poll.registry().register(&mut socket, token, both)?;
            Ok(Link::new(socket))
        });
        match registered {
            Ok(link) => {
                let key = entry.key();
                entry.insert(Wire {
                    link,
                    node,
                    connected: false,
                    push: None,
                    answer: Vec::new(),
                });
                self.nodes[node].wires += 1;
                self.send(key, push);
            }
            Err(error) => {
                self.refused(node, &error.to_string());
                self.choose(push);
            }
        }
    }

    /// The node took no connection.
    fn refused(&mut self, node: usize, reason: &str) {
        self.sent.refused += 1;
        self.sent.reasons.count(&format!("push not sent: {reason}"));
        self.nodes[node].down_until = self.now + DOWN;
        for push in std::mem::take(&mut self.nodes[node].waiting) {
            self.choose(push);
        }
    }

    fn send(&mut self, key: usize, push: usize) {
        let number = self.number(push);
        let Push { client, due, .. } = self.sent.pushes[push];
        let wire = &mut self.wires[key];
        let id = match client {
            Some(client) => self.plan.client_id(client),
            None => self.plan.nobody(number),
        };
        let label = Label {
            connection: client.unwrap_or(u32::MAX),
            sequence: number,
            due,
        };
        write_request(
            &mut self.request,
            self.plan,
            &self.plan.nodes[wire.node],
            &id,
            label,
        );
        wire.push = Some(push);
        wire.answer.clear();
        let sent = wire.link.send(&self.request);
        let deadline = self.now + nanos(self.plan.answer_timeout);
        self.deadlines.push_back((deadline, key, push));
        if let Err(error) = sent {
            self.lose(key, &error.to_string());
        }
    }

    fn on_event(&mut self, key: usize, event: &Event) {
        if !self.wires.contains(key) {
            return;
        }
        if let Err(reason) = self.listen(key, event) {
            self.lose(key, &reason);
        }
    }

    /// Reads an answer; an error, in words, is the end of the connection.
    fn listen(&mut self, key: usize, event: &Event) -> Result<(), String> {
        let told = |error: io::Error| error.to_string();
        let wire = &mut self.wires[key];
        wire.link.on_event(event);
        if event.is_error()
            && let Some(error) = wire.link.socket().take_error().map_err(told)?
        {
            return Err(told(error));
        }
        if event.is_writable() {
            wire.connected = true;
            wire.link.flush().map_err(told)?;
        }
        let mut input = [0; 4096];
        loop {
            match wire.link.fill(&mut input).map_err(told)? {
                Filled::Blocked => return Ok(()),
                Filled::Ended => return Err("the connection ended".to_string()),
                Filled::Bytes(_) if wire.push.is_none() => {
                    return Err("an answer to nothing".to_string());
                }
                Filled::Bytes(count) => wire.answer.extend_from_slice(&input[..count]),
            }
            let Some(answer) = http::response(&wire.answer)? else {
                continue;
            };
            if answer.bytes < wire.answer.len() {
                return Err("more than one answer".to_string());
            }
            let what = match (answer.status, answer.body) {
                (200, b"ok") => Answer::Status(200),
                (200, _) => Answer::Nonsense,
                (status, _) => Answer::Status(status),
            };
            if !matches!(what, Answer::Status(200 | 404)) {
                let status = answer.status;
                self.sent.reasons.count(&format!("push: status {status}"));
            }
            let close = answer.close;
            let push = wire.push.take().expect("looked at above");
            self.answer(push, what);
            if close {
                self.drop_wire(key);
            } else {
                self.rest(key);
            }
            return Ok(());
        }
    }

    /// A connection has nothing to do: it takes what waits, or waits itself.
    fn rest(&mut self, key: usize) {
        let node = self.wires[key].node;
        match self.nodes[node].waiting.pop_front() {
            Some(push) => self.send(key, push),
            None => self.nodes[node].idle.push(key),
        }
    }

    /// A connection has failed. What was under way on it is not sent again if it may have arrived.
    fn lose(&mut self, key: usize, reason: &str) {
        let wire = self.drop_wire(key);
        match wire.push {
            Some(push) if wire.connected => {
                self.sent.reasons.count(&format!("push cut: {reason}"));
                self.answer(push, Answer::Cut);
            }
            Some(push) => {
                self.refused(wire.node, reason);
                self.choose(push);
            }
            None => {}
        }
    }

    fn drop_wire(&mut self, key: usize) -> Wire {
        let wire = self.wires.remove(key);
        let node = &mut self.nodes[wire.node];
        node.idle.retain(|idle| *idle != key);
        node.wires -= 1;
        // Others may wait for a connection that will not come back.
        if node.wires == 0 {
            for push in std::mem::take(&mut node.waiting) {
                self.choose(push);
            }
        }
        wire
    }

    fn answer(&mut self, push: usize, answer: Answer) {
        let push = &mut self.sent.pushes[push];
        debug_assert_eq!(push.until, u64::MAX, "answered twice");
        (push.until, push.answer) = (self.now, answer);
        self.answered += 1;
    }

    fn expire(&mut self) {
        while let Some((deadline, key, push)) = self.deadlines.front().copied() {
            let under_way = |wire: &Wire| wire.push == Some(push);
            let is_under_way = self.wires.get(key).is_some_and(under_way);
            if is_under_way && self.now < deadline {
                return;
            }
            self.deadlines.pop_front();
            if is_under_way {
                self.drop_wire(key);
                self.sent.reasons.count("push: no answer in time");
                self.answer(push, Answer::Silent);
            }
        }
    }

    fn finish(mut self) -> Sent {
        self.sent.marks = self.marks.map_or(Vec::new(), |marks| marks.seen);
        self.sent
    }
}

fn write_request(out: &mut Vec<u8>, plan: &Plan, node: &Node, id: &str, label: Label) {
    let (path, host, size) = (&plan.push_path, &node.host, plan.size);
    let token = plan.token.as_ref();
    let token = token.map_or(String::new(), |t| format!("Authorization: Bearer {t}\r\n"));
    let head = format!(
        "POST {path}{id} HTTP/1.1\r\nHost: {host}\r\n{token}Content-Type: application/octet-stream\r\n\
         Content-Length: {size}\r\n\r\n"
    );
    out.clear();
    out.extend_from_slice(head.as_bytes());
    out.resize(head.len() + size, 0);
    label.write(&mut out[head.len()..]);
}

const EVENTS_MAX: usize = 1024;
/// Pushes in one turn before answers are read again.
const PUSHES_MAX: usize = 64;
/// A node that took no connection is tried again after this, in nanoseconds.
const DOWN: u64 = 500_000_000;
/// The longest sleep: the mark file is looked at in between.
const PATIENCE: Duration = Duration::from_millis(10);
