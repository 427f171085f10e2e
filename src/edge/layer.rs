//! The `Io` that a shard sees, on the one that carries it.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use log::warn;
use slab::Slab;

use super::counts::{Clerk, Counts};
use super::line::{Buffers, Line, Stage};
use super::memory::Memory;
use super::porch::{Porch, Step};
use super::{Engine, Fault};
use crate::fleet::ProxyProtocol;
use crate::kit::{Budget, Tick};
use crate::shard::{
    Accept, Answer, Asker, Destination, Dialled, Got, House, Io, Kind, Mail, Now, Push, Put, Ready,
    Token,
};
use crate::wire::proxy::{self, Ends};

/// An [`Io`] whose connections may be sealed, and may begin with a PROXY header.
pub struct Layer<I: Io, E: Engine> {
    io: I,
    engine: E,
    ports: Vec<Port>,
    house: House,
    lines: Slab<Box<Line<I::Socket, E::Session>>>,
    /// Lines whose events are for us first: in a handshake, or with bytes that are owed.
    attended: HashMap<Token, u32>,
    /// What is told of by us, at the next poll.
    told: Vec<Ready>,
    /// Lines that nobody has any more, and until when they may pay what they owe.
    leaving: VecDeque<(Tick, Token)>,
    /// Lines that may write again when there is memory.
    starved: Vec<Token>,
    porch: Porch<I::Socket>,
    buffers: Buffers,
    memory: Memory,
    clerk: Clerk,
}

/// What is special about a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Connections begin with a PROXY header.
    pub announced: bool,
}

/// A connection as the shard has it.
pub enum Socket<S> {
    /// The one below.
    Plain(S),
    /// One of ours, by its number.
    Line(u32),
}

impl<I: Io, E: Engine> Layer<I, E> {
    /// A layer over this one. `ports` are those of its listeners, in their order; what its buffers hold
    /// counts in `memory`, whose units have so many bytes.
    pub fn new(
        io: I,
        engine: E,
        ports: Vec<Port>,
        house: House,
        memory: (Arc<Budget>, usize),
    ) -> Layer<I, E> {
        let (budget, unit) = memory;
        Layer {
            io,
            engine,
            ports,
            house,
            lines: Slab::new(),
            attended: HashMap::new(),
            told: Vec::new(),
            leaving: VecDeque::new(),
            starved: Vec::new(),
            porch: Porch::new(),
            buffers: Buffers::new(),
            memory: Memory::new(budget, unit),
            clerk: Clerk::default(),
        }
    }

    /// Counts here what becomes of it.
    #[must_use]
    pub fn counted(mut self, counts: Arc<Counts>) -> Self {
        self.clerk.counts = counts;
        self
    }

    /// The one below.
    pub fn below(&mut self) -> &mut I {
        &mut self.io
    }

    /// Lines that there are.
    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    /// Bytes that their buffers hold.
    pub fn held(&self) -> usize {
        self.memory.held()
    }

    /// What is still to be done: lines, bytes that they hold, those that are attended, that nobody has
    /// any more, and connections whose header has not come.
    pub fn rest(&self) -> [usize; 5] {
        let held = self.lines.iter().map(|(_, line)| line.held()).sum();
        debug_assert_eq!(self.memory.held(), held, "each byte is counted once");
        let leaving = self.leaving.iter().map(|(_, token)| token);
        let leaving = leaving.filter(|token| self.attended.contains_key(token));
        [
            self.lines.len(),
            held,
            self.attended.len(),
            leaving.count(),
            self.porch.len(),
        ]
    }

    /// The socket below this one.
    pub fn beneath<'a>(&'a self, socket: &'a Socket<I::Socket>) -> &'a I::Socket {
        match socket {
            Socket::Plain(socket) => socket,
            Socket::Line(number) => &self.lines[*number as usize].socket,
        }
    }

    /// Whether the kernel has yet to take some of what was written here.
    pub fn owes(&self, socket: &Socket<I::Socket>) -> bool {
        match socket {
            Socket::Plain(_) => false,
            Socket::Line(number) => !self.lines[*number as usize].owed.is_empty(),
        }
    }

    /// Whether words go both ways here, as far as we know.
    pub fn stands(&self, socket: &Socket<I::Socket>) -> bool {
        match socket {
            Socket::Plain(_) => true,
            Socket::Line(number) => self.lines[*number as usize].stage == Stage::Open,
        }
    }

    /// For when the shard has stopped: those who have left may still pay what they owe. Waits for so many
    /// ms at most; whether somebody is left.
    pub fn linger(&mut self, wait: u32) -> bool {
        if !self.leaving.is_empty() {
            self.poll(Some(wait), &mut Vec::new());
        }
        !self.leaving.is_empty()
    }

    /// Whoever comes, as the shard gets him.
    fn wrap(
        &mut self,
        listener: u32,
        socket: I::Socket,
        peer: SocketAddr,
        bytes: Vec<u8>,
    ) -> Accept<Socket<I::Socket>> {
        let session = match self.engine.welcome(listener) {
            Ok(session) => session,
            Err(fault) => {
                warn!(listener; "TLS: {fault}");
                self.io.close(socket);
                return Accept::Failed;
            }
        };
        if session.is_none() && bytes.is_empty() {
            return Accept::Socket(Socket::Plain(socket), peer);
        }
        let stage = match session {
            Some(_) => Stage::Greeting,
            None => Stage::Open,
        };
        let mut line = Line::new(socket, Token::NOBODY, stage, session);
        match line.session {
            Some(_) => (line.fresh, line.sealed) = (!bytes.is_empty(), bytes),
            None => line.words = bytes,
        }
        self.memory.hold(line.held());
        let number = self.lines.insert(Box::new(line)) as u32;
        Accept::Socket(Socket::Line(number), peer)
    }

    /// Takes one of a listener whose connections begin with a header.
    fn accept_announced(&mut self, listener: u32) -> Accept<Socket<I::Socket>> {
        for _ in 0..ENTRIES_MAX {
            if let Some(arrival) = self.porch.next(listener) {
                return self.wrap(listener, arrival.socket, arrival.peer, arrival.bytes);
            }
            let (socket, peer) = match self.io.accept(listener) {
                Accept::Socket(socket, peer) => (socket, peer),
                Accept::None => return Accept::None,
                Accept::Failed => return Accept::Failed,
                Accept::Exhausted => return Accept::Exhausted,
            };
            let now = self.io.now().tick;
            if !self.house.trusts(peer.ip().to_canonical()) && !planted!(HeaderBelieved) {
                self.porch.warn_of_stranger(peer, now);
                self.io.close(socket);
                continue;
            }
            let due = now.after(self.house.handshake);
            match self
                .porch
                .enter(&mut self.io, (socket, peer, listener), due)
            {
                Step::Known(arrival) => {
                    return self.wrap(listener, arrival.socket, arrival.peer, arrival.bytes);
                }
                Step::Waits | Step::Gone => {}
            }
        }
        self.told.push(readable(Token::listener(listener)));
        Accept::None
    }

    /// Looks first at what is ours of what has happened.
    fn attend(&mut self, ready: &mut Vec<Ready>, from: usize) {
        let mut at = from;
        let mut steps = 0;
        for index in from..ready.len() {
            let mut one = ready[index];
            let tell = match one.token.kind() {
                Some(Kind::Guest(key)) => {
                    if let Some(listener) = self.porch.on_ready(&mut self.io, key) {
                        self.told.push(readable(Token::listener(listener)));
                    }
                    false
                }
                _ => match self.attended.get(&one.token) {
                    None => true,
                    Some(number) => self.on_line(*number, &mut one, &mut steps),
                },
            };
            if tell {
                ready[at] = one;
                at += 1;
            }
        }
        ready.truncate(at);
    }

    /// Something has happened to a line that is attended. Whether the shard hears of it, and what.
    fn on_line(&mut self, number: u32, one: &mut Ready, steps: &mut usize) -> bool {
        let Some(line) = self.lines.get_mut(number as usize) else {
            return true;
        };
        let held = line.held();
        let mut tell = false;
        if line.stage == Stage::Dialling {
            if !(one.writable || one.ended) {
                return false;
            }
            if !self.io.is_connected(&mut line.socket) {
                line.stage = Stage::Failed;
            } else if line.pay(&mut self.io) {
                if let Err(fault) = line.begin(&mut self.io, &mut self.engine, &mut self.buffers) {
                    self.clerk.blame(line, &fault, self.io.now().tick);
                }
                tell = line.stage == Stage::Open;
            } else {
                line.stage = Stage::Failed;
            }
        } else if !line.owed.is_empty() && (one.writable || one.ended) && !line.pay(&mut self.io) {
            // A read says what has become of it.
            one.ended = true;
        }
        match line.stage {
            Stage::Greeting if *steps >= STEPS_MAX => {
                // Handshakes are work: those who speak already come first.
                self.told.push(*one);
            }
            Stage::Greeting => {
                *steps += 1;
                tell = self.greet(number);
                one.writable |= tell;
                one.readable |= tell;
            }
            Stage::Open => {
                tell = true;
                one.writable &= line.owed.is_empty();
            }
            Stage::Leaving => {
                let over = line.owed.is_empty();
                self.memory.change(held, line.held());
                if over {
                    self.let_go(number);
                }
                return false;
            }
            Stage::Dialling | Stage::Failed => {}
        }
        let Some(line) = self.lines.get_mut(number as usize) else {
            return false;
        };
        let fits = self.memory.change(held, line.held());
        if line.stage == Stage::Greeting && !fits {
            let fault = Fault("memory is short".into());
            self.clerk.blame(line, &fault, self.io.now().tick);
        }
        if line.stage == Stage::Failed {
            (one.readable, one.writable, one.ended) = (true, true, true);
            tell = true;
        }
        let done = line.owed.is_empty() && line.stage == Stage::Open;
        if done || line.stage == Stage::Failed {
            self.attended.remove(&one.token);
        }
        tell
    }

    /// Goes on with a handshake. Whether it is over, and well.
    fn greet(&mut self, number: u32) -> bool {
        let Some(line) = self.lines.get_mut(number as usize) else {
            return false;
        };
        let received = line.receive(&mut self.io, &mut self.engine, &mut self.buffers);
        let words = &self.buffers.words;
        let got = match received {
            Ok(taken) => taken.got,
            Err(fault) => {
                self.clerk.blame(line, &fault, self.io.now().tick);
                // What was said before it went wrong was said.
                line.words.extend_from_slice(words);
                return false;
            }
        };
        let over = matches!(got, Got::End | Got::Broken);
        // A server that has gone already has taken nothing: whoever knows that can ask another.
        let gone = line.server.is_some() || line.stage != Stage::Open;
        if over && gone {
            let fault = Fault("it ended inside the TLS handshake".into());
            self.clerk.blame(line, &fault, self.io.now().tick);
            return false;
        }
        // What was said with the last word of the handshake.
        if !planted!(WordsLost) {
            line.words.extend_from_slice(words);
        }
        let open = line.stage == Stage::Open;
        if let Some(session) = &line.session
            && open
        {
            self.clerk.greeted(line, self.engine.is_resumed(session));
        }
        open
    }

    fn read_line(&mut self, number: u32, into: &mut [u8]) -> Got {
        let line = &mut self.lines[number as usize];
        if !line.words.is_empty() {
            let held = line.held();
            let count = line.words.len().min(into.len());
            into[..count].copy_from_slice(&line.words[..count]);
            line.words.drain(..count);
            if line.words.is_empty() {
                line.words = Vec::new();
            }
            self.memory.change(held, line.held());
            // The kernel may have told of what is behind it already.
            if !planted!(AgainForgotten) {
                self.told.push(readable(line.token));
            }
            return Got::Bytes(count);
        }
        match line.stage {
            Stage::Failed => return Got::Broken,
            Stage::Open if line.session.is_none() => {
                return self.io.read(&mut line.socket, into);
            }
            Stage::Open if line.parted => return Got::End,
            Stage::Open => {}
            Stage::Dialling | Stage::Greeting | Stage::Leaving => return Got::Wait,
        }
        let held = line.held();
        let received = line.receive(&mut self.io, &mut self.engine, &mut self.buffers);
        let mut again = None;
        let mut got = match received {
            Ok(taken) => {
                if taken.again || line.parted {
                    again = Some(line.parted);
                }
                match taken.got {
                    // Nobody who was sure that this was all has ended it so (RFC 8446, section 6.1).
                    Got::End if !line.parted && !planted!(CutIsEnd) => Got::Broken,
                    got => got,
                }
            }
            Err(fault) => {
                self.clerk.blame(line, &fault, self.io.now().tick);
                again = Some(true);
                match self.buffers.words.len() {
                    0 => Got::Broken,
                    count => Got::Bytes(count),
                }
            }
        };
        if let Got::Bytes(count) = got {
            let fits = count.min(into.len());
            let (now, later) = self.buffers.words.split_at(fits);
            into[..fits].copy_from_slice(now);
            if !later.is_empty() {
                line.words.extend_from_slice(later);
                again = Some(again.unwrap_or(false));
            }
            got = Got::Bytes(fits);
        }
        if let Some(over) = again.filter(|_| !planted!(AgainForgotten)) {
            self.told.push(Ready {
                ended: over,
                ..readable(line.token)
            });
        }
        if !line.owed.is_empty() {
            self.attended.insert(line.token, number);
        }
        let kept = line.held();
        if !self.memory.change(held, kept) {
            line.stage = Stage::Failed;
            self.told.push(ended(line.token));
        }
        got
    }

    fn write_line(&mut self, number: u32, from: &[IoSlice<'_>]) -> Put {
        let line = &mut self.lines[number as usize];
        match line.stage {
            Stage::Failed => return Put::Broken,
            Stage::Open if line.owed.is_empty() => {}
            _ => return Put::Wait,
        }
        if line.session.is_some() && !self.memory.room() {
            self.starved.push(line.token);
            return Put::Wait;
        }
        let held = line.held();
        let put = line.transmit(&mut self.io, &mut self.engine, &mut self.buffers, from);
        if !line.owed.is_empty() {
            self.memory.change(held, line.held());
            self.attended.insert(line.token, number);
        }
        if line.stage == Stage::Failed {
            self.told.push(ended(line.token));
        }
        put
    }

    /// The shard has no use for it any more.
    fn leave(&mut self, number: u32) {
        let line = &mut self.lines[number as usize];
        let held = line.held();
        if line.stage == Stage::Open && !line.shut {
            line.part(&mut self.io, &mut self.engine, &mut self.buffers);
        }
        let pays = line.stage == Stage::Open || line.stage == Stage::Greeting;
        // Who can't be reached any more owes nothing.
        let pays = pays && line.pay(&mut self.io);
        let pays = pays && !planted!(DebtsForgotten);
        self.memory.change(held, line.held());
        let held = line.held();
        if line.owed.is_empty() || !pays || self.leaving.len() >= LEAVING_MAX {
            return self.let_go(number);
        }
        line.stage = Stage::Leaving;
        (line.sealed, line.words) = (Vec::new(), Vec::new());
        self.memory.change(held, line.held());
        self.attended.insert(line.token, number);
        let due = self.io.now().tick.after(LEAVE_TIME);
        self.leaving.push_back((due, line.token));
    }

    fn let_go(&mut self, number: u32) {
        let Some(mut line) = self.take(number) else {
            return;
        };
        // What is left unread there makes the kernel reset the connection, which destroys what is on
        // its way. Nobody but us knows that it is no words.
        if line.session.is_some() && matches!(line.stage, Stage::Open | Stage::Leaving) {
            for _ in 0..SWEEPS_MAX {
                match self.io.read(&mut line.socket, &mut self.buffers.inbox) {
                    Got::Bytes(_) => {}
                    Got::Wait | Got::End | Got::Broken => break,
                }
            }
        }
        self.io.close(line.socket);
    }

    fn take(&mut self, number: u32) -> Option<Box<Line<I::Socket, E::Session>>> {
        let line = self.lines.try_remove(number as usize)?;
        self.memory.change(line.held(), 0);
        self.attended.remove(&line.token);
        Some(line)
    }

    /// How long a poll may take, beside what the shard wants.
    fn patience(&mut self) -> Option<u32> {
        if !self.told.is_empty() {
            return Some(0);
        }
        let starved = (!self.starved.is_empty()).then_some(STARVED_PAUSE);
        if self.leaving.is_empty() && self.porch.is_empty() {
            return starved;
        }
        let now = self.io.now().tick;
        let due = self.leaving.front().map(|(due, _)| *due);
        [due, self.porch.due()]
            .into_iter()
            .flatten()
            .map(|due| if due.is_due(now) { 0 } else { due.since(now) })
            .chain(starved)
            .min()
    }

    fn expire(&mut self) {
        for token in std::mem::take(&mut self.starved) {
            self.told.push(Ready {
                token,
                readable: false,
                writable: true,
                ended: false,
            });
        }
        if self.leaving.is_empty() && self.porch.is_empty() {
            return;
        }
        let now = self.io.now().tick;
        while let Some((due, token)) = self.leaving.front().copied() {
            match self.attended.get(&token) {
                Some(_) if !due.is_due(now) => break,
                Some(_) if planted!(LineKept) => {}
                Some(number) => self.let_go(*number),
                None => {}
            }
            self.leaving.pop_front();
        }
        if !planted!(GuestStays) {
            self.porch.expire(&mut self.io, now);
        }
    }
}

impl<I: Io, E: Engine> Io for Layer<I, E> {
    type Socket = Socket<I::Socket>;

    fn poll(&mut self, wait: Option<u32>, ready: &mut Vec<Ready>) {
        let wait = match (wait, self.patience()) {
            (Some(wait), Some(ours)) => Some(wait.min(ours)),
            (wait, ours) => wait.or(ours),
        };
        let from = ready.len();
        ready.append(&mut self.told);
        self.io.poll(wait, ready);
        if !(self.attended.is_empty() && self.porch.is_empty()) {
            self.attend(ready, from);
        }
        self.expire();
        self.clerk.counts.hold(self.memory.held());
    }

    fn now(&mut self) -> Now {
        self.io.now()
    }

    fn take_mail(&mut self, into: &mut Vec<Mail>) {
        let from = into.len();
        self.io.take_mail(into);
        for mail in &into[from..] {
            if let Mail::Rules(rules) = mail {
                self.house.clone_from(&rules.house);
            }
        }
    }

    fn send(&mut self, shard: usize, mail: Mail) {
        self.io.send(shard, mail);
    }

    fn answer(&mut self, ticket: u64, answer: Answer) {
        self.io.answer(ticket, answer);
    }

    fn elsewhere(&mut self, push: Box<Push>, from: Asker) -> Option<(Box<Push>, Asker)> {
        self.io.elsewhere(push, from)
    }

    fn accept(&mut self, listener: u32) -> Accept<Self::Socket> {
        let port = self.ports.get(listener as usize).copied();
        if port.unwrap_or_default().announced {
            return self.accept_announced(listener);
        }
        match self.io.accept(listener) {
            Accept::Socket(socket, peer) => self.wrap(listener, socket, peer, Vec::new()),
            Accept::None => Accept::None,
            Accept::Failed => Accept::Failed,
            Accept::Exhausted => Accept::Exhausted,
        }
    }

    fn watch(&mut self, socket: &mut Self::Socket, token: Token) -> bool {
        let number = match socket {
            Socket::Plain(socket) => return self.io.watch(socket, token),
            Socket::Line(number) => *number,
        };
        let line = &mut self.lines[number as usize];
        line.token = token;
        if line.stage != Stage::Open {
            self.attended.insert(token, number);
        }
        if !(line.sealed.is_empty() && line.words.is_empty()) {
            self.told.push(readable(token));
        }
        self.io.watch(&mut line.socket, token)
    }

    fn close_listeners(&mut self) {
        self.porch.clear(&mut self.io);
        self.io.close_listeners();
    }

    fn dial(
        &mut self,
        to: &Destination<'_>,
        from: Option<IpAddr>,
        token: Token,
    ) -> Dialled<Self::Socket> {
        let session = match self.engine.call(to) {
            Ok(session) => session,
            Err(fault) => {
                warn!(server = to.server; "TLS: {fault}");
                return Dialled::Refused;
            }
        };
        let socket = match self.io.dial(to, from, token) {
            Dialled::Socket(socket) => socket,
            Dialled::Refused => return Dialled::Refused,
            Dialled::NoPort => return Dialled::NoPort,
            Dialled::Exhausted => return Dialled::Exhausted,
        };
        if session.is_none() && to.announce.is_none() {
            return Dialled::Socket(Socket::Plain(socket));
        }
        let mut line = Line::new(socket, token, Stage::Dialling, session);
        line.server = Some(to.server.into());
        if let Some(announce) = &to.announce {
            let ends = announce.ends.map(|(from, to)| Ends { from, to });
            match announce.version {
                ProxyProtocol::V1 => proxy::write_line(ends, &mut line.owed),
                ProxyProtocol::V2 => proxy::write_binary(ends, &mut line.owed),
            }
        }
        self.memory.hold(line.held());
        let number = self.lines.insert(Box::new(line)) as u32;
        self.attended.insert(token, number);
        Dialled::Socket(Socket::Line(number))
    }

    fn is_secure(&self, socket: &Self::Socket) -> bool {
        match socket {
            Socket::Plain(socket) => self.io.is_secure(socket),
            Socket::Line(number) => self.lines[*number as usize].session.is_some(),
        }
    }

    fn is_scarce(&self, socket: &Self::Socket) -> bool {
        match socket {
            Socket::Plain(socket) => self.io.is_scarce(socket),
            Socket::Line(number) => self.io.is_scarce(&self.lines[*number as usize].socket),
        }
    }

    fn local_address(&self, socket: &Self::Socket) -> Option<SocketAddr> {
        match socket {
            Socket::Plain(socket) => self.io.local_address(socket),
            Socket::Line(number) => self.io.local_address(&self.lines[*number as usize].socket),
        }
    }

    fn is_connected(&mut self, socket: &mut Self::Socket) -> bool {
        match socket {
            Socket::Plain(socket) => self.io.is_connected(socket),
            Socket::Line(number) => {
                let line = &mut self.lines[*number as usize];
                line.stage != Stage::Failed && self.io.is_connected(&mut line.socket)
            }
        }
    }

    #[inline]
    fn read(&mut self, socket: &mut Self::Socket, into: &mut [u8]) -> Got {
        match socket {
            Socket::Plain(socket) => self.io.read(socket, into),
            Socket::Line(number) => self.read_line(*number, into),
        }
    }

    #[inline]
    fn write(&mut self, socket: &mut Self::Socket, from: &[IoSlice<'_>]) -> Put {
        match socket {
            Socket::Plain(socket) => self.io.write(socket, from),
            Socket::Line(number) => self.write_line(*number, from),
        }
    }

    fn shut(&mut self, socket: &mut Self::Socket) {
        let number = match socket {
            Socket::Plain(socket) => return self.io.shut(socket),
            Socket::Line(number) => *number,
        };
        let line = &mut self.lines[number as usize];
        let held = line.held();
        if line.stage == Stage::Open && !line.shut {
            line.part(&mut self.io, &mut self.engine, &mut self.buffers);
        }
        line.shut = true;
        line.pay(&mut self.io);
        if !line.owed.is_empty() {
            self.attended.insert(line.token, number);
        }
        self.memory.change(held, line.held());
    }

    fn close(&mut self, socket: Self::Socket) {
        match socket {
            Socket::Plain(socket) => self.io.close(socket),
            Socket::Line(number) => self.leave(number),
        }
    }

    fn reset(&mut self, socket: Self::Socket) {
        match socket {
            Socket::Plain(socket) => self.io.reset(socket),
            Socket::Line(number) => {
                if let Some(line) = self.take(number) {
                    self.io.reset(line.socket);
                }
            }
        }
    }
}

fn readable(token: Token) -> Ready {
    Ready {
        token,
        readable: true,
        writable: false,
        ended: false,
    }
}

fn ended(token: Token) -> Ready {
    Ready {
        ended: true,
        ..readable(token)
    }
}

/// Steps of handshakes in one turn: each may be a signature, which takes as long as many messages.
const STEPS_MAX: usize = 16;

/// Connections that one accept looks at, where they begin with a header.
const ENTRIES_MAX: usize = 64;

/// For what is owed by a connection that is closed, in ms; and how many may owe at once.
const LEAVE_TIME: u32 = 5_000;
const LEAVING_MAX: usize = 4_096;

/// Reads of what nobody wants any more: a ticket, a last word, and what had come with them.
const SWEEPS_MAX: usize = 4;

/// Until who waits for memory looks again, in ms.
const STARVED_PAUSE: u32 = 20;
