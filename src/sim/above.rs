//! What a shard of the simulator runs on: the layer, over a false kernel. Here the worlds are told what
//! passes between the shard and everybody else, in words, however they travel.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::guise::STRANGER;
use super::pipe::Conn;
use super::toy::{Fashion, Toy};
use crate::edge::{Layer, Port, Socket};
use crate::kit::Budget;
use crate::kit::chain::CHUNK;
use crate::session::House;
use crate::shard::{
    Accept, Answer, Asker, Destination, Dialled, Got, Io, Mail, Now, Push, Put, Ready, Token,
};

/// A false kernel, whose sockets are the numbers of its connections.
pub trait Below: Io<Socket = usize> {
    fn conn(&mut self, id: usize) -> &mut Conn;

    /// Since when somebody is here whose header has not come, and who.
    fn guests(&mut self) -> &mut Vec<(u64, usize)>;

    /// Where the client of this connection comes from, whoever has brought it here.
    fn home_of(&mut self, id: usize) -> SocketAddr;

    fn hit(&mut self, name: &'static str);

    /// The shard has it now.
    fn on_accepted(&mut self, id: usize);

    fn on_read(&mut self, id: usize, got: Got);

    /// These words were taken, and perhaps no more.
    fn on_written(&mut self, id: usize, words: &[u8], refused: bool);

    /// Nothing follows.
    fn on_shut(&mut self, id: usize);

    /// The shard is about to close it, and has.
    fn on_closing(&mut self, id: usize);

    fn on_closed(&mut self, id: usize);
}

/// The layer, seen from above.
pub struct Above<K: Below> {
    layer: Layer<K, Toy>,
    /// How long a header may take, in ms.
    handshake: u32,
    /// Memory is so short that connections may end for it.
    tight: bool,
}

/// How the layer of a run is set up.
pub struct Setup {
    pub fashion: Fashion,
    /// The listener's connections begin with a header.
    pub announced: bool,
    pub house: House,
    pub memory: Arc<Budget>,
    pub tight: bool,
}

impl<K: Below> Above<K> {
    pub fn new(index: usize, kernel: K, setup: Setup) -> Above<K> {
        let toy = Toy::new(setup.fashion, index);
        let ports = vec![Port {
            announced: setup.announced,
        }];
        let memory = (setup.memory, CHUNK);
        Above {
            handshake: setup.house.handshake,
            layer: Layer::new(kernel, toy, ports, setup.house, memory),
            tight: setup.tight,
        }
    }

    pub fn kernel(&mut self) -> &mut K {
        self.layer.below()
    }

    /// What its layer still has to do.
    pub fn rest(&self) -> [usize; 5] {
        self.layer.rest()
    }

    /// Its shard has stopped.
    pub fn linger(&mut self) {
        self.layer.linger(0);
    }

    fn id(&self, socket: &Socket<usize>) -> usize {
        *self.layer.beneath(socket)
    }

    /// Whether bytes are owed on it changes now and then.
    fn look_at_debts(&mut self, id: usize, owes: bool) {
        let conn = self.kernel().conn(id);
        if conn.owed != owes {
            conn.owed = owes;
            self.kernel()
                .hit(if owes { "edge: owed" } else { "edge: paid" });
        }
    }

    /// Who closes inside a handshake says no last word.
    fn note_silence(&mut self, id: usize, socket: &Socket<usize>) {
        let stands = self.layer.stands(socket);
        self.kernel().conn(id).silent |= !stands;
    }

    /// Who does not say for whom he has come is not waited for.
    fn judge_guests(&mut self) {
        let mut guests = std::mem::take(self.kernel().guests());
        guests.retain(|(_, id)| {
            let conn = self.kernel().conn(*id);
            conn.socket_open && !conn.accepted
        });
        let now = self.now().micros / 1_000;
        if let Some((since, id)) = guests.first() {
            let waits = now.saturating_sub(*since);
            assert!(
                waits < u64::from(self.handshake) + GUEST_SLACK,
                "law: connection {id} has said nothing for {waits} ms, and is here"
            );
        }
        *self.kernel().guests() = guests;
    }

    fn judge_read(&mut self, id: usize, words: &[u8], got: Got) {
        let tight = self.tight;
        let conn = self.kernel().conn(id);
        let seen = conn.visible();
        let Some(end) = &mut conn.end else { return };
        let far = conn.far;
        match got {
            Got::Bytes(count) => {
                end.judge_read(words);
                conn.inward.taken += count as u64;
                assert!(conn.inward.taken <= seen, "law: {far:?} has said that");
            }
            Got::End => {
                assert!(
                    end.parted || !end.is_sealed(),
                    "law: {far:?} was cut off, which is no end"
                );
                let parted = if end.is_sealed() {
                    "edge: parted"
                } else {
                    "edge: end in the clear"
                };
                let left = end.unread();
                assert!(left == 0, "law: {far:?} ends with {left} bytes unread");
                self.kernel().hit(parted);
            }
            Got::Broken => {
                let sound = !conn.is_harmed() && !tight;
                assert!(!sound, "law: nothing has broken {far:?}");
                let left = seen - conn.inward.taken;
                assert!(
                    left == 0 || tight,
                    "law: {far:?} breaks with {left} bytes unread"
                );
                if !conn.inward.reset {
                    self.kernel().hit("edge: cut off");
                }
            }
            Got::Wait => {}
        }
    }
}

impl<K: Below> Io for Above<K> {
    type Socket = Socket<usize>;

    fn poll(&mut self, wait: Option<u32>, ready: &mut Vec<Ready>) {
        self.layer.poll(wait, ready);
        self.judge_guests();
    }

    fn now(&mut self) -> Now {
        self.layer.now()
    }

    fn take_mail(&mut self, into: &mut Vec<Mail>) {
        self.layer.take_mail(into);
    }

    fn send(&mut self, shard: usize, mail: Mail) {
        self.layer.send(shard, mail);
    }

    fn answer(&mut self, ticket: u64, answer: Answer) {
        self.layer.answer(ticket, answer);
    }

    fn elsewhere(&mut self, push: Box<Push>, from: Asker) -> Option<(Box<Push>, Asker)> {
        self.layer.elsewhere(push, from)
    }

    fn accept(&mut self, listener: u32) -> Accept<Self::Socket> {
        let accept = self.layer.accept(listener);
        if let Accept::Socket(socket, peer) = &accept {
            let id = self.id(socket);
            let home = self.kernel().home_of(id);
            let from = self.kernel().conn(id).from.map(|from| from.ip());
            assert_ne!(from, Some(STRANGER.into()), "law: nobody hears a stranger");
            assert_eq!(*peer, home, "law: a client comes from where it does");
            self.kernel().on_accepted(id);
            self.kernel().conn(id).accepted = true;
        }
        accept
    }

    fn watch(&mut self, socket: &mut Self::Socket, token: Token) -> bool {
        self.layer.watch(socket, token)
    }

    fn close_listeners(&mut self) {
        self.layer.close_listeners();
    }

    fn dial(
        &mut self,
        to: &Destination<'_>,
        from: Option<IpAddr>,
        token: Token,
    ) -> Dialled<Self::Socket> {
        self.layer.dial(to, from, token)
    }

    fn is_secure(&self, socket: &Self::Socket) -> bool {
        self.layer.is_secure(socket)
    }

    fn is_scarce(&self, socket: &Self::Socket) -> bool {
        self.layer.is_scarce(socket)
    }

    fn local_address(&self, socket: &Self::Socket) -> Option<SocketAddr> {
        self.layer.local_address(socket)
    }

    fn is_connected(&mut self, socket: &mut Self::Socket) -> bool {
        let connected = self.layer.is_connected(socket);
        let id = self.id(socket);
        let tight = self.tight;
        let conn = self.kernel().conn(id);
        let sound = conn.stands && !conn.is_harmed() && !tight;
        assert!(
            connected || !sound,
            "law: nothing has broken {:?}",
            conn.far
        );
        connected
    }

    fn read(&mut self, socket: &mut Self::Socket, into: &mut [u8]) -> Got {
        let id = self.id(socket);
        let got = self.layer.read(socket, into);
        let words = match got {
            Got::Bytes(count) => &into[..count],
            Got::End | Got::Wait | Got::Broken => &[],
        };
        self.judge_read(id, words, got);
        self.kernel().on_read(id, got);
        let owes = self.layer.owes(socket);
        self.look_at_debts(id, owes);
        got
    }

    fn write(&mut self, socket: &mut Self::Socket, from: &[IoSlice<'_>]) -> Put {
        let id = self.id(socket);
        let put = self.layer.write(socket, from);
        let owes = self.layer.owes(socket);
        self.look_at_debts(id, owes);
        let count = match put {
            Put::Bytes(count) => count,
            Put::Wait => 0,
            Put::Broken => return put,
        };
        let mut words = Vec::with_capacity(count);
        for slice in from {
            let left = count - words.len();
            words.extend_from_slice(&slice[..slice.len().min(left)]);
        }
        let total: usize = from.iter().map(|slice| slice.len()).sum();
        let conn = self.kernel().conn(id);
        if let Some(end) = &mut conn.end {
            conn.outward.written += count as u64;
            end.promise(&words);
        }
        self.kernel().on_written(id, &words, count < total);
        put
    }

    fn shut(&mut self, socket: &mut Self::Socket) {
        let id = self.id(socket);
        self.note_silence(id, socket);
        self.layer.shut(socket);
        self.kernel().on_shut(id);
    }

    fn close(&mut self, socket: Self::Socket) {
        let id = self.id(&socket);
        self.note_silence(id, &socket);
        self.kernel().on_closing(id);
        let now = self.kernel().conn(id).now();
        self.kernel().conn(id).left_at = Some(now);
        self.layer.close(socket);
        let conn = self.kernel().conn(id);
        conn.proxy_open = false;
        if conn.socket_open {
            self.kernel().hit("edge: left with debts");
        }
        self.kernel().on_closed(id);
    }

    fn reset(&mut self, socket: Self::Socket) {
        let id = self.id(&socket);
        self.kernel().on_closing(id);
        self.layer.reset(socket);
        self.kernel().on_closed(id);
    }
}

/// What a sweep must have seen of the layer.
pub const EVENTS: &[&str] = &[
    "edge: announced to a server",
    "edge: cut off",
    "edge: end in the clear",
    "edge: guest",
    "edge: handshake done",
    "edge: handshake failed",
    "edge: late header",
    "edge: left with debts",
    "edge: more behind the last word",
    "edge: no record",
    "edge: owed",
    "edge: paid",
    "edge: parted",
    "edge: records without words",
    "edge: stalled handshake",
    "edge: stranger",
    "edge: wrong header",
];

/// A turn, and what it waits for.
const GUEST_SLACK: u64 = 500;
