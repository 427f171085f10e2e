//! A connection as two kernels see it: bytes in flight, bytes in receive queues, FIN and RST.

use std::collections::VecDeque;

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
    /// Bytes that the writer's kernel took, and that the reader has read, since the beginning.
    pub written: u64,
    pub taken: u64,
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
        let take = bytes.len().min(self.flight_max - self.flight.len());
        self.flight.extend(&bytes[..take]);
        self.written += take as u64;
        take
    }

    /// Reads what has arrived.
    pub fn read(&mut self, into: &mut [u8]) -> usize {
        let take = into.len().min(self.queue.len());
        let (front, back) = self.queue.as_slices();
        let first = take.min(front.len());
        into[..first].copy_from_slice(&front[..first]);
        into[first..take].copy_from_slice(&back[..take - first]);
        self.queue.drain(..take);
        self.taken += take as u64;
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
        (self.flight_max - self.flight.len()) * 3 >= self.flight_max
    }

    /// One segment arrives.
    fn arrive(&mut self, max: usize) -> bool {
        let take = max
            .min(self.flight.len())
            .min(self.queue_max - self.queue.len());
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
    pub proxy_open: bool,
    pub peer_open: bool,
    /// The poller has something to tell of it.
    pub edge: bool,
    /// Slow: hardly anything arrives.
    pub slow_until: u64,
    /// The proxy was told that it is broken by a write.
    pub write_broken: bool,
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
            proxy_open: true,
            peer_open: true,
            edge: false,
            slow_until: 0,
            write_broken: false,
        }
    }

    /// The network does its work for one moment.
    pub fn step(&mut self, now: u64, rng: &mut Prng) {
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
        if !self.proxy_open {
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
        self.proxy_open = false;
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
        !self.proxy_open && !self.peer_open
    }

    pub fn bury(&mut self) {
        self.inward.forget();
        self.outward.forget();
    }
}
