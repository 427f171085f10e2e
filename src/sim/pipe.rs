//! A connection as two kernels see it: bytes in flight, bytes in receive queues, FIN and RST.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::end::{End, Wish};
use crate::kit::Prng;
use crate::shard::Token;

/// One direction. What was written is in flight until the network delivers it; a full receive queue
/// keeps it there (a zero window), a full flight refuses the writer.
#[derive(Default)]
pub struct Pipe {
    flight: VecDeque<u8>,
    queue: VecDeque<u8>,
    pub flight_max: usize,
    pub queue_max: usize,
    /// Bytes that the writer's kernel took, and that the reader has read, since the beginning; words,
    /// where they are wrapped.
    pub written: u64,
    pub taken: u64,
    wrapped: bool,
    /// The writer sent FIN; it has arrived.
    pub fin: bool,
    pub fin_arrived: bool,
    /// An RST has arrived at the reader: its queue is still readable, then the connection is broken.
    pub reset: bool,
    /// The writer was refused something and wants to hear of new space.
    pub refused: bool,
    /// Bytes in flight that an RST has destroyed.
    pub destroyed: usize,
}

impl Pipe {
    fn new(flight_max: usize, queue_max: usize) -> Pipe {
        Pipe {
            flight_max,
            queue_max,
            ..Pipe::default()
        }
    }

    /// Takes what fits.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        // Behind FIN or RST nothing arrives.
        if self.fin || self.reset {
            return bytes.len();
        }
        let take = bytes.len().min(self.room());
        self.flight.extend(&bytes[..take]);
        if !self.wrapped {
            self.written += take as u64;
        }
        take
    }

    fn room(&self) -> usize {
        self.flight_max.saturating_sub(self.flight.len())
    }

    /// Takes all of it: what wraps words comes on top of them.
    fn push(&mut self, bytes: &[u8]) {
        if !(self.fin || self.reset) {
            self.flight.extend(bytes);
        }
    }

    /// Reads what has arrived.
    pub fn read(&mut self, into: &mut [u8]) -> usize {
        let take = into.len().min(self.queue.len());
        let (front, back) = self.queue.as_slices();
        let first = take.min(front.len());
        into[..first].copy_from_slice(&front[..first]);
        into[first..take].copy_from_slice(&back[..take - first]);
        self.queue.drain(..take);
        if !self.wrapped {
            self.taken += take as u64;
        }
        take
    }

    /// Bytes that wait to be read, and that are still under way.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    pub fn flying(&self) -> usize {
        self.flight.len()
    }

    /// A third of the buffer is free, as Linux wants before it calls a socket writable.
    pub fn is_writable(&self) -> bool {
        self.room() * 3 >= self.flight_max
    }

    /// One segment arrives.
    fn arrive(&mut self, max: usize) -> bool {
        let take = max
            .min(self.flight.len())
            .min(self.queue_max.saturating_sub(self.queue.len()));
        self.queue.extend(self.flight.drain(..take));
        take > 0
    }

    pub fn break_off(&mut self) {
        self.destroyed += self.flight.len();
        self.flight.clear();
        self.reset = true;
    }

    fn forget(&mut self) {
        (self.flight, self.queue) = (VecDeque::new(), VecDeque::new());
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Far {
    Client(usize),
    /// A connection to a server: its place in the world's list.
    Server(usize),
}

/// A connection of the proxy.
pub struct Conn {
    pub far: Far,
    pub shard: usize,
    pub token: Option<Token>,
    /// From the peer to the proxy, and back.
    pub inward: Pipe,
    pub outward: Pipe,
    /// When it will stand; `None`: it stands, or never will.
    pub stands_at: Option<u64>,
    pub stands: bool,
    pub failed: bool,
    /// What the kernel says who is there.
    pub from: Option<SocketAddr>,
    /// The shard has it, or has dialled it; it still has it; and its socket is open, which it may be
    /// for what is owed.
    pub accepted: bool,
    pub proxy_open: bool,
    pub socket_open: bool,
    /// Its descriptor is one of the last.
    pub scarce: bool,
    /// When the shard closed it, if all was to arrive that it had written.
    pub left_at: Option<u64>,
    pub peer_open: bool,
    /// The poller has something to tell of it.
    pub edge: bool,
    /// Slow: hardly anything arrives.
    pub slow_until: u64,
    /// The proxy was told that it is broken by a write.
    pub write_broken: bool,
    /// What wraps it.
    pub end: Option<Box<End>>,
    /// Bytes that are owed were seen.
    pub owed: bool,
    /// The proxy has ended it inside a handshake, as it sees that.
    pub silent: bool,
    now: u64,
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut fields = to.debug_struct("Conn");
        for (name, pipe) in [("inward", &self.inward), ("outward", &self.outward)] {
            let bytes = [pipe.flying(), pipe.queued(), pipe.destroyed];
            fields.field(name, &(bytes, pipe.fin, pipe.fin_arrived, pipe.reset));
        }
        let open = [
            self.accepted,
            self.proxy_open,
            self.socket_open,
            self.peer_open,
        ];
        fields.field("open", &open).field("end", &self.end).finish()
    }
}

impl Conn {
    pub fn new(far: Far, shard: usize, rng: &mut Prng) -> Conn {
        let mut size = || [2_000, 16_000, 64_000, 200_000][rng.below(4) as usize];
        Conn {
            far,
            shard,
            token: None,
            inward: Pipe::new(size(), size()),
            outward: Pipe::new(size(), size()),
            stands_at: None,
            stands: false,
            failed: false,
            from: None,
            accepted: matches!(far, Far::Server(_)),
            proxy_open: true,
            socket_open: true,
            scarce: false,
            left_at: None,
            peer_open: true,
            edge: false,
            slow_until: 0,
            write_broken: false,
            end: None,
            owed: false,
            silent: false,
            now: 0,
        }
    }

    /// From here on its peer's words are wrapped.
    pub fn wrap(&mut self, end: End) {
        (self.inward.wrapped, self.outward.wrapped) = (true, true);
        self.end = Some(Box::new(end));
    }

    /// The network does its work for one moment.
    pub fn step(&mut self, now: u64, rng: &mut Prng) {
        self.now = now;
        if let Some(at) = self.stands_at
            && at <= now
        {
            self.stands_at = None;
            self.stands = !self.failed;
            self.edge = true;
        }
        if !self.stands {
            return;
        }
        self.carry_inward(now, rng);
        self.carry_outward(now, rng);
    }

    /// Whether it can't come to be.
    pub fn is_doomed(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end.doom().is_some())
    }

    /// Faults are over.
    pub fn heal(&mut self) {
        self.slow_until = 0;
        if let Some(end) = &mut self.end {
            (end.rude, end.calm) = (false, true);
            end.late_until(0);
        }
    }

    /// The world's time, as far as this connection knows.
    pub fn now(&self) -> u64 {
        self.now
    }

    fn segment(&self, now: u64, rng: &mut Prng) -> usize {
        match rng.below(8) {
            _ if now < self.slow_until => [0, 0, 0, 7][rng.below(4) as usize],
            0 => 0,
            1 => 1 + rng.below(20) as usize,
            2 | 3 => 1 + rng.below(1_500) as usize,
            _ => 200_000,
        }
    }

    fn carry_inward(&mut self, now: u64, rng: &mut Prng) {
        if self.inward.flying() == 0 && !self.inward.fin {
            return;
        }
        let max = self.segment(now, rng);
        if !self.socket_open {
            // Bytes for a closed socket: its kernel answers with RST.
            if self.inward.flying() > 0 && max > 0 {
                self.inward.forget();
                self.outward.break_off();
            }
            return;
        }
        self.edge |= self.inward.arrive(max);
        let pending = self.inward.fin && !self.inward.fin_arrived && !self.inward.reset;
        if pending && self.inward.flying() == 0 && max > 0 {
            self.inward.fin_arrived = true;
            self.edge = true;
        }
    }

    fn carry_outward(&mut self, now: u64, rng: &mut Prng) {
        if self.outward.flying() == 0 && !self.outward.fin {
            return;
        }
        let max = self.segment(now, rng);
        if !self.peer_open {
            // The process is gone: its kernel answers with RST, which destroys what comes back.
            if self.outward.flying() > 0 && max > 0 {
                self.outward.forget();
                self.reset_proxy();
            }
            return;
        }
        self.outward.arrive(max);
        if self.outward.refused && self.outward.is_writable() {
            self.outward.refused = false;
            self.edge = true;
        }
        if self.outward.fin && self.outward.flying() == 0 && max > 0 {
            self.outward.fin_arrived = true;
        }
    }

    /// An RST reaches the proxy: what is in flight to it is destroyed, what has arrived is not.
    pub fn reset_proxy(&mut self) {
        if !self.inward.reset {
            self.inward.break_off();
            self.edge = true;
        }
        self.peer_open = false;
    }

    /// The peer's process says something: as much as its kernel takes.
    pub fn say(&mut self, words: &[u8]) -> usize {
        self.step_end();
        let Some(end) = &mut self.end else {
            return self.inward.write(words);
        };
        if self.inward.fin || self.inward.reset {
            return words.len();
        }
        let mut out = Vec::new();
        let count = end.say(words, self.inward.room(), &mut out);
        self.inward.push(&out);
        self.inward.written += count as u64;
        count
    }

    /// The peer's process reads.
    pub fn hear(&mut self, into: &mut [u8]) -> usize {
        self.step_end();
        let Some(end) = &mut self.end else {
            return self.outward.read(into);
        };
        let count = end.hear(into);
        self.outward.taken += count as u64;
        count
    }

    /// Words that the peer's process could read now.
    pub fn unheard(&self) -> usize {
        let words = self.end.as_ref().map(|end| end.unheard());
        words.unwrap_or(self.outward.queued())
    }

    /// Whether the peer's process has read all, up to the proxy's FIN.
    pub fn is_heard_out(&self) -> bool {
        self.outward.fin_arrived && self.outward.queued() == 0 && self.unheard() == 0
    }

    /// Words that the proxy has written and the peer's process has not read.
    pub fn on_way_down(&self) -> usize {
        match self.end {
            Some(_) => (self.outward.written - self.outward.taken) as usize,
            None => self.outward.queued() + self.outward.flying(),
        }
    }

    /// Words that the proxy's shard could have read, since the beginning.
    pub fn visible(&self) -> u64 {
        let lost = (self.inward.flying() + self.inward.destroyed) as u64;
        match &self.end {
            Some(end) => end.visible(lost),
            None => self.inward.taken + self.inward.queued() as u64,
        }
    }

    /// Words that it has not read, of those that have arrived.
    pub fn unread(&self) -> usize {
        (self.visible() - self.inward.taken) as usize
    }

    fn step_end(&mut self) {
        let Some(end) = &mut self.end else { return };
        if !(self.peer_open && self.stands) {
            return;
        }
        let mut out = Vec::new();
        let wish = end.step(self.now, &mut self.outward.queue, &mut out);
        if self.outward.fin && end.stalls() {
            // Its window may be shut: it would never hear that it was let go of.
            return self.end_peer();
        }
        self.push(&out);
        self.judge_end();
        match wish {
            Wish::Nothing => {}
            Wish::End => self.end_peer(),
            Wish::Reset => self.reset_proxy(),
        }
    }

    /// Behind the proxy's FIN: nothing that it has taken is missing, and its last word came before.
    fn judge_end(&mut self) {
        let Some(end) = &self.end else { return };
        let over = self.outward.fin_arrived && !self.outward.reset && self.outward.queued() == 0;
        if !over || end.wrong || self.inward.reset || !end.is_open() {
            return;
        }
        let late = self.left_at.is_some_and(|at| self.now >= at + LEAVE_TIME);
        let missing = end.owed();
        assert!(
            late || missing == 0,
            "law: {:?} misses {missing} bytes that were taken",
            self.far
        );
        assert!(
            late || self.silent || end.heard_part || !end.is_sealed(),
            "law: {:?} hears a last word",
            self.far
        );
    }

    /// The last word, where there is one.
    fn say_last(&mut self) {
        if let Some(end) = &mut self.end {
            let mut out = Vec::new();
            end.part(&mut out);
            self.push(&out);
        }
    }

    /// The peer's process ends as it should.
    pub fn hang_up(&mut self) {
        if self.peer_open {
            self.say_last();
            self.end_peer();
        }
    }

    /// It says nothing more, and goes on reading.
    pub fn half_close(&mut self) {
        if let Some(end) = &mut self.end {
            end.rude = false;
        }
        self.say_last();
        self.inward.fin = true;
    }

    /// It says what nobody understands.
    pub fn spoil(&mut self) {
        if let Some(end) = self
            .end
            .as_mut()
            .filter(|end| end.is_sealed() && end.is_open())
        {
            let mut out = Vec::new();
            end.spoil(&mut out);
            self.push(&out);
        }
    }

    /// What is no words goes to the proxy.
    fn push(&mut self, bytes: &[u8]) {
        if let Some(end) = self
            .end
            .as_mut()
            .filter(|_| !(self.inward.fin || self.inward.reset))
        {
            end.count(bytes.len());
            self.inward.push(bytes);
        }
    }

    /// Whether its peer has done anything for which the proxy may take it for broken.
    pub fn is_harmed(&self) -> bool {
        let end = self.end.as_ref();
        let cut = |end: &End| self.inward.fin_arrived && end.is_sealed() && !end.parted;
        self.inward.reset || self.failed || end.is_some_and(|end| end.wrong || cut(end))
    }

    /// The peer's process ends: FIN, or RST if there is something that it has not read.
    pub fn end_peer(&mut self) {
        if !self.peer_open {
            return;
        }
        self.peer_open = false;
        if self.outward.queued() > 0 || !self.stands {
            self.reset_proxy();
        } else {
            self.inward.fin = true;
        }
    }

    /// The proxy closes its socket: FIN, or RST if there is something that it has not read.
    pub fn close_proxy(&mut self) {
        (self.proxy_open, self.socket_open) = (false, false);
        self.edge = false;
        if self.inward.queued() > 0 {
            self.inward.forget();
            self.outward.break_off();
        } else {
            self.outward.fin = true;
        }
    }

    /// Nothing can happen any more.
    pub fn is_over(&self) -> bool {
        !self.socket_open && !self.peer_open
    }

    pub fn bury(&mut self) {
        self.inward.forget();
        self.outward.forget();
    }
}

/// What is owed by then never comes, in ms; less what clocks differ by.
const LEAVE_TIME: u64 = 4_900;
