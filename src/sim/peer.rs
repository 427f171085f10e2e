//! The peers: servers that log what they read, and clients that number what they send.

use std::collections::VecDeque;

use tungstenite::handshake::derive_accept_key;

use super::codec::{self, Frames, Item};
use super::pipe::Far;
use super::valves::{CHANGED, Dress};
use super::world::World;

/// A server process.
#[derive(Clone, Debug, Default)]
pub struct Server {
    pub pool: usize,
    /// It asks to confirm by itself.
    pub processes: bool,
    pub down_until: u64,
    pub stopped_until: u64,
    pub black_until: u64,
    pub slow_connect_until: u64,
    /// How it answers upgrades until then.
    pub answer: Answering,
    pub answer_until: u64,
    pub pong: Ponging,
    pub pong_until: u64,
}

/// How a server answers an upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answering {
    #[default]
    Well,
    Status(u16),
    WrongAccept,
    Slow,
    HangUp,
}

/// How it answers Pings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ponging {
    #[default]
    AtOnce,
    Late,
    Never,
}

/// One connection to a server, as the process behind it sees it.
#[derive(Default)]
pub struct Upstream {
    pub conn: usize,
    pub server: usize,
    pub state: Stage,
    pub session: u128,
    pub client: usize,
    /// `X-Wsteady-Next`, and how many messages were read and dealt with since.
    pub first: u64,
    pub count: u64,
    pub processed: u64,
    pub processes: bool,
    head: Vec<u8>,
    answer_at: u64,
    key: String,
    frames: Frames,
    out: VecDeque<u8>,
    /// Bytes ever put into `out`: offsets in the stream to the proxy.
    put: u64,
    /// Messages sent: where each begins and ends, and its length.
    pub sent: Vec<(u64, u64, usize)>,
    /// Confirmations sent: where each ends, and what it confirms.
    pub acks: Vec<(u64, u64)>,
    pong_due: Option<(u64, Vec<u8>)>,
    /// It broke the protocol there: what follows means nothing.
    pub bad_at: Option<u64>,
    /// It read the Close of a move.
    pub moved: bool,
    /// It ended in a way that may be a message's fault.
    pub abnormal: bool,
    pub close_sent: bool,
    pub close_read: bool,
    /// The 101 ends there.
    pub welcome_at: Option<u64>,
    /// For the law of silence.
    pub taken: u64,
    pub quiet_since: u64,
    pub over_since: u64,
    /// A Ping that it has read and not answered.
    asked: Option<u64>,
    pub ended: bool,
    /// Dialled then.
    pub since: u64,
}

/// Where a connection of a server stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    #[default]
    Hello,
    Deciding,
    Open,
    /// What is queued goes out, then FIN.
    Ending,
}

impl Upstream {
    pub fn new(conn: usize, server: usize, since: u64) -> Upstream {
        Upstream {
            conn,
            server,
            since,
            ..Upstream::default()
        }
    }

    fn queue(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
        self.put += bytes.len() as u64;
    }

    fn step(&mut self, me: usize, world: &mut World) {
        let mut buffer = [0; 32 << 10];
        let reads = if world.rng.chance(1, 5) {
            0
        } else {
            1 + world.rng.below(3)
        };
        for _ in 0..reads {
            let max = [300, 32 << 10, 32 << 10][world.rng.below(3) as usize];
            let count = world.conns[self.conn].hear(&mut buffer[..max]);
            if count == 0 {
                break;
            }
            match self.state {
                Stage::Hello => self.head.extend_from_slice(&buffer[..count]),
                Stage::Deciding | Stage::Open | Stage::Ending => self.frames.push(&buffer[..count]),
            }
        }
        match self.state {
            Stage::Hello => self.hear_hello(me, world),
            Stage::Deciding if self.answer_at <= world.now => self.answer(me, world),
            Stage::Deciding => {}
            Stage::Open => self.converse(me, world),
            Stage::Ending => {}
        }
        self.flush(world);
        let conn = &mut world.conns[self.conn];
        let gone = conn.outward.reset || conn.is_heard_out();
        if gone || (self.state == Stage::Ending && self.out.is_empty()) {
            conn.hang_up();
            self.ended = true;
        }
    }

    fn flush(&mut self, world: &mut World) {
        let (front, _) = self.out.as_slices();
        let took = world.conns[self.conn].say(front);
        self.out.drain(..took);
    }

    fn hear_hello(&mut self, me: usize, world: &mut World) {
        let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else {
            return;
        };
        let head = String::from_utf8_lossy(&self.head[..end]).to_string();
        let rest = self.head.split_off(end + 4);
        self.head = Vec::new();
        self.frames.push(&rest);
        let header = |name: &str| {
            head.lines().skip(1).find_map(|line| {
                let (found, value) = line.split_once(": ")?;
                found.eq_ignore_ascii_case(name).then(|| value.to_string())
            })
        };
        let number = |name| header(name).and_then(|text| text.parse::<u64>().ok());
        self.key = header("Sec-WebSocket-Key").expect("law: a key in each upgrade");
        let session = header("X-Wsteady-Session").expect("law: a session in each upgrade");
        self.session = u128::from_str_radix(&session, 16).expect("law: a session id is hex");
        self.first = number("X-Wsteady-Next").expect("law: each upgrade says what comes next");
        self.client = number("X-Sim-Client").expect("law: clients' headers come through") as usize;
        self.state = Stage::Deciding;
        let slow = world.servers[self.server].answer == Answering::Slow
            && world.servers[self.server].answer_until > world.now;
        let delay = if slow {
            300 + world.rng.below(2_000)
        } else {
            world.rng.below(8)
        };
        self.answer_at = world.now + u64::from(delay);
        world.on_hello(me, self, header("X-Balancer-Reconnect").is_some());
    }

    fn answer(&mut self, me: usize, world: &mut World) {
        let server = &world.servers[self.server];
        let how = if server.answer_until > world.now {
            server.answer
        } else {
            Answering::Well
        };
        self.state = Stage::Ending;
        let mut accept = derive_accept_key(self.key.as_bytes());
        match how {
            Answering::Status(status) => {
                *world.denials.entry(status).or_default() += 1;
                world.coverage.bad_answers += 1;
                let text = format!("HTTP/1.1 {status} No\r\nContent-Length: 4\r\n\r\nno!\n");
                return self.queue(text.as_bytes());
            }
            Answering::HangUp => {
                world.coverage.bad_answers += 1;
                return;
            }
            Answering::WrongAccept => {
                world.coverage.bad_answers += 1;
                accept.replace_range(0..1, if accept.starts_with('a') { "b" } else { "a" });
            }
            Answering::Well | Answering::Slow => {
                self.state = Stage::Open;
                self.processes = server.processes;
            }
        }
        let extra = if server.processes {
            "X-Wsteady-Confirm: processed\r\n"
        } else {
            ""
        };
        let text = format!(
            "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{extra}\r\n"
        );
        self.queue(text.as_bytes());
        if self.state == Stage::Open {
            self.welcome_at = Some(self.put);
            world.note(format_args!(
                "upstream {me} says 101 to client {}",
                self.client
            ));
            // Some servers talk at once.
            if world.talking && world.rng.chance(1, 3) {
                self.talk(me, world);
            }
        }
    }

    fn converse(&mut self, me: usize, world: &mut World) {
        loop {
            match self.frames.next(true) {
                Ok(None) => break,
                Ok(Some(item)) => {
                    assert!(
                        !self.close_read,
                        "law: nothing follows our Close to a server: {item:?}"
                    );
                    self.hear(me, item, world);
                }
                Err(error) => panic!("law: upstream {me} reads only good frames: {error}"),
            }
            if self.ended || self.state != Stage::Open {
                return;
            }
        }
        if world.talking && !self.close_sent && self.out.len() < 300_000 {
            if world.rng.chance(1, 60) {
                self.talk(me, world);
            }
            if world.rng.chance(1, 100) {
                let mut bytes = Vec::new();
                codec::frame(0x89, b"hello?", None, &mut bytes);
                self.queue(&bytes);
            }
        }
        if self
            .pong_due
            .as_ref()
            .is_some_and(|(at, _)| *at <= world.now)
            && let Some((_, payload)) = self.pong_due.take()
        {
            self.pong(&payload);
        }
        if self.processes
            && !self.close_sent
            && self.processed < self.count
            && world.rng.chance(1, 4)
        {
            let left = self.count - self.processed;
            self.processed += 1 + u64::from(world.rng.below(left as u32));
            self.tell_processed(world);
        }
    }

    fn tell_processed(&mut self, world: &mut World) {
        let number = self.first + self.processed;
        world.on_processed(self.session, number);
        let mut bytes = Vec::new();
        codec::frame(
            0x8a,
            format!("wsteady:{number}").as_bytes(),
            None,
            &mut bytes,
        );
        self.queue(&bytes);
        self.acks.push((self.put, number));
    }

    fn hear(&mut self, me: usize, item: Item, world: &mut World) {
        match item {
            // What comes behind its own Close it throws away, as most libraries do.
            Item::Message(..) if self.close_sent => {}
            Item::Message(payload, text) => {
                let length = payload.len();
                let who = codec::recognise(&payload, text);
                let (client, n) =
                    who.unwrap_or_else(|error| panic!("law I2: upstream {me}: {error}"));
                let pool = world.clients[self.client].pool;
                let theirs = if world.dress[pool] == Dress::Bare {
                    assert_eq!(
                        client as usize, self.client,
                        "law I7: foreign bytes at upstream {me}"
                    );
                    world.on_message(me, self, u64::from(n), length);
                    Some(n)
                } else {
                    let theirs = world.on_valved_up(self, client, n);
                    world.on_message(me, self, self.first + self.count, length);
                    theirs
                };
                self.count += 1;
                let poison = world.clients[self.client].poison.filter(|_| world.wild);
                if let Some(n) = theirs.filter(|n| poison == Some(u64::from(*n))) {
                    self.die_of_poison(n, world);
                } else if world.talking && !self.close_sent && world.rng.chance(1, 5) {
                    self.talk(me, world);
                }
            }
            Item::Ping(payload) => self.on_ping(payload, world),
            Item::Pong(_) => {}
            Item::Close(code, reason) => {
                let conn = &world.conns[self.conn];
                let more = conn.on_way_down();
                assert!(
                    more == 0 && !self.frames.is_cut(),
                    "law: nothing follows our Close to {me}"
                );
                self.close_read = true;
                // Behind a Close of its own it has read nothing any more.
                self.moved = reason == "moved" && code == Some(1000) && !self.close_sent;
                world.note(format_args!("upstream {me} reads Close {code:?} {reason}"));
                if !self.close_sent {
                    let mut bytes = Vec::new();
                    codec::close(code, "", None, &mut bytes);
                    self.queue(&bytes);
                    self.close_sent = true;
                    world.on_close_reply(self);
                }
                self.state = Stage::Ending;
            }
        }
    }

    fn die_of_poison(&mut self, n: u32, world: &mut World) {
        world.on_poison(self.session, n);
        self.abnormal = true;
        self.ended = true;
        match world.rng.below(3) {
            0 => world.conns[self.conn].reset_proxy(),
            1 => {
                // It has read all that there was: FIN.
                let mut sink = [0; 4096];
                while world.conns[self.conn].hear(&mut sink) > 0 {}
                world.conns[self.conn].end_peer();
            }
            _ => {
                self.ended = false;
                self.say_close(Some(1011), "poison", world);
            }
        }
    }

    fn on_ping(&mut self, payload: Vec<u8>, world: &mut World) {
        let server = &world.servers[self.server];
        let how = if server.pong_until > world.now {
            server.pong
        } else {
            Ponging::AtOnce
        };
        match how {
            Ponging::AtOnce => self.pong(&payload),
            Ponging::Late => {
                self.asked = <[u8; 8]>::try_from(&*payload).ok().map(u64::from_be_bytes);
                world.coverage.pongs_late += 1;
                let at = world.now + 30 + u64::from(world.rng.below(700));
                self.pong_due = Some((at, payload));
            }
            Ponging::Never => {
                self.asked = <[u8; 8]>::try_from(&*payload).ok().map(u64::from_be_bytes);
                world.coverage.pongs_missing += 1;
            }
        }
    }

    fn pong(&mut self, payload: &[u8]) {
        self.asked = None;
        if self.close_sent {
            return;
        }
        let mut bytes = Vec::new();
        codec::frame(0x8a, payload, None, &mut bytes);
        self.queue(&bytes);
        if let Ok(number) = <[u8; 8]>::try_from(payload)
            && !self.processes
        {
            self.acks.push((self.put, u64::from_be_bytes(number)));
        }
    }

    /// A numbered message to the client.
    pub fn talk(&mut self, me: usize, world: &mut World) {
        if self.out.len() > 300_000 {
            return;
        }
        let length = match world.rng.below(40) {
            0 => world.rng.below(200 << 10),
            1..=3 => world.rng.below(20_000),
            4..=9 => world.rng.below(3_000),
            _ => world.rng.below(200),
        } as usize;
        let n = self.sent.len() as u32;
        let payload = codec::content(me as u32, n, length);
        let between =
            |rng: &mut crate::kit::Prng| rng.chance(1, 3).then(|| (0x89, b"between".to_vec()));
        let bytes = codec::message(&payload, codec::is_text(n), false, between, &mut world.rng);
        let begins = self.put;
        self.queue(&bytes);
        self.sent.push((begins, self.put, payload.len()));
    }

    /// Its own Close.
    pub fn say_close(&mut self, code: Option<u16>, reason: &str, world: &mut World) {
        if self.close_sent || self.state != Stage::Open {
            return;
        }
        let mut bytes = Vec::new();
        codec::close(code, reason, None, &mut bytes);
        self.queue(&bytes);
        self.close_sent = true;
        self.abnormal |= code == Some(1011);
        world.note(format_args!("upstream {} says Close {code:?}", self.conn));
        world.on_server_close(self.session, code, reason);
    }

    /// It sends bytes that it should not.
    pub fn misbehave(&mut self, bytes: &[u8]) {
        if self.close_sent || self.state != Stage::Open {
            return;
        }
        self.bad_at.get_or_insert(self.put);
        self.abnormal = true;
        self.queue(bytes);
        // It says no more, and waits for us to notice.
        self.close_sent = true;
    }

    /// What its kernel did not get is lost.
    pub fn drop_queue(&mut self) {
        self.out.clear();
    }

    /// Something that must be ignored.
    pub fn babble(&mut self, world: &mut World) {
        if self.close_sent || self.state != Stage::Open {
            return;
        }
        let mut bytes = Vec::new();
        match world.rng.below(4) {
            0 => codec::frame(0x8a, b"unknown", None, &mut bytes),
            1 => codec::frame(0x8a, b"wsteady:x", None, &mut bytes),
            2 => codec::frame(0x8a, b"", None, &mut bytes),
            _ => {
                // While another is asked for: a number that was sent, perhaps, but not read.
                let number = self.first + self.count + 1 + u64::from(world.rng.below(2));
                if self.asked.is_some_and(|asked| asked != number) {
                    // If it was not even sent, that breaks the protocol.
                    self.bad_at.get_or_insert(self.put);
                    self.abnormal = true;
                    codec::frame(0x8a, &number.to_be_bytes(), None, &mut bytes);
                }
            }
        }
        self.queue(&bytes);
    }
}

/// A client process.
#[derive(Default)]
pub struct Client {
    pub conn: usize,
    pub pool: usize,
    pub stage: Phase,
    frames: Frames,
    head: Vec<u8>,
    out: VecDeque<u8>,
    put: u64,
    pub next: u64,
    /// Where each message ends in the stream to the proxy.
    pub ends: Vec<u64>,
    pub deaf_until: u64,
    /// It did something that may cost it its connection without a Close.
    pub tainted: bool,
    denied: bool,
    /// Its own network takes nothing, perhaps in the middle of a frame.
    mute_until: u64,
    pub faulty: bool,
    /// Pings that were not answered: number, where it ends, when.
    pub pings: VecDeque<(u32, u64, u64)>,
    pinged: u32,
    /// Since when a Ping that was read has no Pong, though nothing stands in its way.
    pub unanswered_since: u64,
    /// The upstream whose messages came last, and how many of it; of earlier ones, too.
    pub got: Vec<(usize, u32)>,
    /// Answers of valves.
    pub answers: u64,
    pub close_sent: Option<Option<u16>>,
    pub closed: bool,
    pub poison: Option<u64>,
    chatty: u32,
    size: u32,
}

/// Where a client stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Asking,
    Open,
    /// Its last bytes go out, then its process ends.
    Leaving,
    Gone,
}

impl Client {
    fn queue(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
        self.put += bytes.len() as u64;
    }

    /// Whether its stream from the proxy stands inside a frame.
    pub fn is_cut(&self) -> bool {
        self.frames.is_cut()
    }

    pub fn is_open_message(&self) -> bool {
        self.frames.is_open()
    }

    pub fn ask(me: usize, conn: usize, pool: usize, world: &mut World) -> Client {
        let mut client = Client {
            conn,
            pool,
            ..Client::default()
        };
        client.chatty = [2, 4, 10, 60][world.rng.below(4) as usize];
        client.size = world.rng.below(4);
        let text = format!(
            "GET /p{pool}/room HTTP/1.1\r\nHost: sim\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nX-Sim-Client: {me}\r\n\
             X-Wsteady-Next: 77\r\nX-Balancer-Reconnect: 1\r\n\r\n"
        );
        client.queue(text.as_bytes());
        // Some speak before they were welcomed.
        if world.talking && world.rng.chance(1, 4) {
            for _ in 0..1 + world.rng.below(3) {
                client.say(me, world);
            }
        }
        client
    }

    fn step(&mut self, me: usize, world: &mut World) {
        if self.deaf_until <= world.now {
            let mut buffer = [0; 16 << 10];
            for _ in 0..world.rng.below(12) {
                let count = world.conns[self.conn].hear(&mut buffer);
                match self.stage {
                    Phase::Asking => self.head.extend_from_slice(&buffer[..count]),
                    // The body of an answer that was no 101.
                    Phase::Leaving if self.denied => {}
                    Phase::Open | Phase::Leaving | Phase::Gone => {
                        self.frames.push(&buffer[..count])
                    }
                }
                if count < buffer.len() {
                    break;
                }
            }
            if self.stage == Phase::Asking {
                self.hear_welcome(me, world);
            }
            if self.stage == Phase::Open || self.stage == Phase::Leaving {
                self.listen(me, world);
            }
        }
        if self.stage == Phase::Open && world.talking && self.close_sent.is_none() {
            self.talk(me, world);
        }
        if self.mute_until <= world.now {
            let (front, _) = self.out.as_slices();
            let took = world.conns[self.conn].say(front);
            self.out.drain(..took);
        }
        let conn = &mut world.conns[self.conn];
        let ended = (conn.outward.reset && conn.unheard() == 0) || conn.is_heard_out();
        if ended && self.deaf_until <= world.now {
            world.on_client_end(me, self);
            world.conns[self.conn].hang_up();
            self.stage = Phase::Gone;
        } else if self.stage == Phase::Leaving && self.out.is_empty() && self.closed {
            conn.hang_up();
            self.stage = Phase::Gone;
        }
    }

    fn hear_welcome(&mut self, me: usize, world: &mut World) {
        let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else {
            return;
        };
        let head = String::from_utf8_lossy(&self.head[..end]).to_string();
        let status = head.split(' ').nth(1).unwrap_or_default().to_string();
        let scarce = world.conns[self.conn].scarce;
        if status != "101" {
            world.note(format_args!("client {me} is denied: {status}"));
            world.on_denied(&status, scarce && status == "503");
            self.tainted = true;
            self.stage = Phase::Leaving;
            (self.closed, self.denied) = (true, true);
            return;
        }
        assert!(
            !scarce,
            "law: client {me} has a descriptor that servers need"
        );
        let accept = derive_accept_key(KEY.as_bytes());
        assert!(
            head.contains(&accept),
            "law: the client's 101 accepts the client's key"
        );
        self.frames.push(&self.head[end + 4..]);
        self.head = Vec::new();
        self.stage = Phase::Open;
    }

    fn listen(&mut self, me: usize, world: &mut World) {
        loop {
            let item = self.frames.next(false);
            let item =
                item.unwrap_or_else(|error| panic!("law: client {me} reads good frames: {error}"));
            let Some(item) = item else { return };
            assert!(
                !self.closed,
                "law: nothing follows the Close to client {me}: {item:?}"
            );
            match item {
                Item::Message(payload, text) => {
                    let who = codec::recognise(&payload, text);
                    let (upstream, n) =
                        who.unwrap_or_else(|error| panic!("law I5: client {me}: {error}"));
                    let n = match world.dress[self.pool] {
                        Dress::Bare => Some(n),
                        Dress::Up | Dress::Both => world.on_valved_down(me, self, upstream, n),
                    };
                    if let Some(n) = n {
                        world.on_down(me, self, (upstream & !CHANGED) as usize, n);
                    }
                }
                Item::Ping(payload) => {
                    let mut bytes = Vec::new();
                    codec::frame(0x8a, &payload, Some(world.rng.mask_key()), &mut bytes);
                    if self.close_sent.is_none() {
                        self.queue(&bytes);
                    }
                }
                Item::Pong(payload) => self.on_pong(me, &payload, world),
                Item::Close(code, reason) => {
                    world.note(format_args!("client {me} reads Close {code:?} {reason}"));
                    world.on_client_close(me, self, code, &reason);
                    self.closed = true;
                    if self.close_sent.is_none() {
                        let mut bytes = Vec::new();
                        codec::close(code, "", Some(world.rng.mask_key()), &mut bytes);
                        self.close_sent = Some(code);
                        // A client in the middle of a frame can't say Close: it ends.
                        self.queue(&bytes);
                    }
                    self.stage = Phase::Leaving;
                }
            }
        }
    }

    fn on_pong(&mut self, me: usize, payload: &[u8], world: &mut World) {
        let number = <[u8; 4]>::try_from(payload).map(u32::from_be_bytes);
        let number =
            number.unwrap_or_else(|_| panic!("law: a Pong that client {me} never asked for"));
        assert!(
            number < self.pinged,
            "law: client {me} gets the Pong of its own Ping"
        );
        world.on_client_pong(me);
        while self
            .pings
            .front()
            .is_some_and(|(first, _, _)| *first <= number)
        {
            self.pings.pop_front();
        }
    }

    fn talk(&mut self, me: usize, world: &mut World) {
        if self.out.len() < 100_000 && world.rng.chance(1, self.chatty) {
            self.say(me, world);
        }
        if world.rng.chance(1, 40) {
            let number = self.pinged;
            let mut bytes = Vec::new();
            codec::frame(
                0x89,
                &number.to_be_bytes(),
                Some(world.rng.mask_key()),
                &mut bytes,
            );
            self.queue(&bytes);
            self.pings.push_back((number, self.put, world.now));
            self.pinged += 1;
        }
        if world.wild && world.rng.chance(1, 400) {
            world.coverage.zero_windows += 1;
            self.tainted = true;
            self.deaf_until = world.now + 50 + u64::from(world.rng.below(4_000));
        }
        // So long that a server would be asked for a sign of life, and not found wanting.
        if world.wild && self.is_mid_message() && world.rng.chance(1, 300) {
            world.coverage.stalls += 1;
            self.tainted = true;
            self.mute_until = world.now + 2_000 + u64::from(world.rng.below(7_000));
        }
        if world.wild && world.rng.chance(1, 700) {
            self.leave(me, world);
        }
    }

    /// The next numbered message.
    fn say(&mut self, me: usize, world: &mut World) {
        let length = match world.rng.below(30) {
            0 if self.size == 3 => world.rng.below(200 << 10),
            0..=2 if self.size > 1 => world.rng.below(20_000),
            3..=9 => world.rng.below(3_000),
            _ => world.rng.below(200),
        } as usize;
        let n = self.next as u32;
        let payload = codec::content(me as u32, n, length);
        let between = |rng: &mut crate::kit::Prng| rng.chance(1, 4).then(|| (0x8a, Vec::new()));
        let bytes = codec::message(&payload, codec::is_text(n), true, between, &mut world.rng);
        self.queue(&bytes);
        self.ends.push(self.put);
        self.next += 1;
    }

    /// It goes, in one of the ways in which clients go.
    fn leave(&mut self, me: usize, world: &mut World) {
        world.coverage.client_ends += 1;
        let way = world.rng.below(6);
        world.note(format_args!("client {me} leaves in way {way}"));
        self.tainted |= way != 0;
        match way {
            0 | 1 => {
                self.say_close(world);
                if world.rng.chance(1, 3) {
                    world.cross_close(me);
                }
            }
            2 => {
                self.stage = Phase::Gone;
                world.conns[self.conn].reset_proxy();
            }
            3 => {
                self.stage = Phase::Gone;
                world.conns[self.conn].end_peer();
            }
            4 => {
                // Half-close: FIN, but it goes on reading.
                world.conns[self.conn].half_close();
                self.out.clear();
                self.close_sent = Some(None);
                self.faulty = true;
            }
            _ => {
                self.faulty = true;
                self.queue(&[0x81, 0x01, b'x']);
                if world.rng.chance(1, 2) {
                    world.conns[self.conn].spoil();
                }
            }
        }
    }

    /// Whether its kernel has taken a part of a message.
    fn is_mid_message(&self) -> bool {
        let gone = self.put - self.held_back() as u64;
        self.ends.iter().rev().take(40).all(|end| *end != gone) && !self.out.is_empty()
    }

    /// Bytes that it has said and its kernel has not taken.
    pub fn held_back(&self) -> usize {
        self.out.len()
    }

    pub fn say_close(&mut self, world: &mut World) {
        if self.close_sent.is_some() || self.stage != Phase::Open {
            return;
        }
        let code = [Some(1000), Some(1001), Some(3333), None][world.rng.below(4) as usize];
        let mut bytes = Vec::new();
        codec::close(code, "", Some(world.rng.mask_key()), &mut bytes);
        self.queue(&bytes);
        self.close_sent = Some(code);
    }
}

impl World {
    /// All peers have a moment to act.
    pub fn step_peers(&mut self) {
        for at in 0..self.live.len() {
            let id = self.live[at];
            let conn = &self.conns[id];
            if !(conn.peer_open && conn.stands) {
                continue;
            }
            match conn.far {
                Far::Client(client) => {
                    let mut peer = std::mem::take(&mut self.clients[client]);
                    peer.step(client, self);
                    self.clients[client] = peer;
                }
                Far::Server(upstream) => {
                    let server = self.upstreams[upstream].server;
                    if self.servers[server].stopped_until > self.now {
                        continue;
                    }
                    self.with_upstream(upstream, |peer, world| peer.step(upstream, world));
                }
            }
        }
    }

    /// Lets one connection's process act.
    pub fn with_upstream(&mut self, upstream: usize, act: impl FnOnce(&mut Upstream, &mut World)) {
        let mut peer = std::mem::take(&mut self.upstreams[upstream]);
        act(&mut peer, self);
        self.upstreams[upstream] = peer;
    }

    /// A new client comes.
    pub fn add_client(&mut self) {
        let me = self.clients.len();
        let pools = self.settings.len() as u32;
        let pool = self.rng.below(pools) as usize;
        if let Some(conn) = self.connect(me) {
            let client = Client::ask(me, conn, pool, self);
            self.clients.push(client);
        }
    }
}

/// Any key does: what counts is the accept.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
