//! A cipher in TLS's place: it hides nothing and notices everything. A record that is lost, repeated,
//! moved or changed is an error at the other end, and so is one of another connection.

use crate::edge::{Engine, Fault, Opened};
use crate::kit::Prng;
use crate::shard::Destination;

/// Who speaks in records, in one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fashion {
    seed: u64,
    pub clients: bool,
    servers: Servers,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Servers {
    #[default]
    Plain,
    Mixed,
    Sealed,
}

impl Fashion {
    /// That of a seed: half of all runs have nothing of it.
    pub fn of(seed: u64) -> Fashion {
        let mut rng = Prng::from_u64(seed ^ 0x746f_7921);
        let (clients, servers) = match rng.below(8) {
            0..=3 => (false, Servers::Plain),
            4 => (true, Servers::Plain),
            5 => (false, Servers::Sealed),
            6 => (true, Servers::Sealed),
            _ => (true, Servers::Mixed),
        };
        Fashion {
            seed,
            clients,
            servers,
        }
    }

    /// Whether the server of this number speaks in records.
    pub fn seals(&self, server: u16) -> bool {
        match self.servers {
            Servers::Plain => false,
            Servers::Mixed => mix(self.seed ^ u64::from(server)) & 1 == 0,
            Servers::Sealed => true,
        }
    }

    /// Whether connections to servers take the time of a handshake, some of them at least.
    pub fn seals_servers(&self) -> bool {
        self.servers != Servers::Plain
    }
}

/// The proxy's side.
pub struct Toy {
    fashion: Fashion,
    rng: Prng,
}

impl Toy {
    pub fn new(fashion: Fashion, shard: usize) -> Toy {
        let rng = Prng::from_u64(fashion.seed.wrapping_mul(77) + shard as u64);
        Toy { fashion, rng }
    }
}

impl Engine for Toy {
    type Session = Session;

    fn welcome(&mut self, _: u32) -> Option<Session> {
        self.fashion
            .clients
            .then(|| Session::server(&mut self.rng, true))
    }

    fn call(&mut self, to: &Destination<'_>) -> Result<Option<Session>, Fault> {
        let seals = self.fashion.seals(to.address.port());
        Ok(seals.then(|| Session::client(&mut self.rng)))
    }

    fn open(
        &mut self,
        session: &mut Session,
        sealed: &mut [u8],
        words: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Opened, Fault> {
        session.open(&mut self.rng, sealed, words, out)
    }

    fn seal(
        &mut self,
        session: &mut Session,
        _: &mut [u8],
        words: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        session.seal(&mut self.rng, words, out);
        Ok(())
    }

    fn part(&mut self, session: &mut Session, _: &mut [u8], out: &mut Vec<u8>) {
        session.part(out);
    }
}

/// One side of one connection.
pub struct Session {
    serves: bool,
    stage: Stage,
    /// What this side has added to the key, and the key.
    nonce: u64,
    key: u64,
    /// The chain that it shows is one to believe.
    good: bool,
    sent: Way,
    got: Way,
    /// A change of keys was asked for, and not answered yet.
    pub asks: bool,
}

/// What counts the records of one direction.
#[derive(Clone, Copy, Default)]
struct Way {
    number: u64,
    epoch: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is the client's turn to speak.
    Begin,
    /// The server's chain is awaited.
    Chain,
    /// The client's last word of the handshake is.
    Done,
    Open,
}

impl Session {
    pub fn client(rng: &mut Prng) -> Session {
        Session::new(rng, false, true)
    }

    pub fn server(rng: &mut Prng, good: bool) -> Session {
        Session::new(rng, true, good)
    }

    fn new(rng: &mut Prng, serves: bool, good: bool) -> Session {
        Session {
            serves,
            stage: Stage::Begin,
            nonce: rng.next_u64(),
            key: 0,
            good,
            sent: Way::default(),
            got: Way::default(),
            asks: false,
        }
    }

    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Takes whole records; called with nothing, a client begins.
    pub fn open(
        &mut self,
        rng: &mut Prng,
        sealed: &mut [u8],
        words: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Opened, Fault> {
        let mut opened = Opened::default();
        if !self.serves && self.stage == Stage::Begin {
            self.greet(rng, out);
        }
        while let Some(fixed) = sealed.get(opened.used..opened.used + FIXED) {
            let (kind, size) = (fixed[0], u16::from_be_bytes([fixed[1], fixed[2]]));
            if !(PART..=ALERT).contains(&kind) || usize::from(size) > RECORD_MAX + CHECK {
                return Err(self.refuse("no record", out));
            }
            let from = opened.used + FIXED;
            let Some(payload) = sealed.get_mut(from..from + usize::from(size)) else {
                break;
            };
            opened.used = from + payload.len();
            let Some(payload) = self.uncover(kind, payload) else {
                return Err(self.refuse("a record of something else", out));
            };
            if kind == WORDS && self.is_open() {
                words.extend_from_slice(payload);
            } else if let Err(why) = self.hear(kind, payload, rng, out) {
                return Err(self.refuse(why, out));
            }
            if kind == PART {
                (opened.parted, opened.used) = (true, sealed.len());
            }
        }
        opened.ready = self.is_open();
        Ok(opened)
    }

    /// A record that is not words.
    fn hear(
        &mut self,
        kind: u8,
        payload: &[u8],
        rng: &mut Prng,
        out: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        match (kind, self.stage) {
            (HELLO, Stage::Begin) if self.serves => {
                self.learn(payload)?;
                let nonce = self.nonce.to_be_bytes();
                let key = std::mem::take(&mut self.key);
                self.record(HELLO, &nonce, out);
                self.key = key;
                self.show_chain(rng, out);
                self.stage = Stage::Done;
            }
            (HELLO, Stage::Chain) if !self.serves && self.key == 0 => self.learn(payload)?,
            (CHAIN, Stage::Chain) if self.key != 0 => {
                if payload.contains(&BAD) {
                    return Err("a chain that nobody believes");
                }
            }
            (DONE, Stage::Chain) if self.key != 0 => {
                self.record(DONE, &[], out);
                self.stage = Stage::Open;
            }
            (DONE, Stage::Done) => {
                self.stage = Stage::Open;
                for _ in 0..rng.below(3) {
                    self.ticket(out);
                }
            }
            (TICKET, Stage::Open) | (PART, _) => {}
            (UPDATE, Stage::Open) => {
                self.got.epoch += 1;
                match payload {
                    [0] if self.asks => self.asks = false,
                    [1] => self.update(false, out),
                    _ => return Err("an answer to nothing"),
                }
            }
            (ALERT, _) => return Err("the other side has given up"),
            _ => return Err("a record out of its turn"),
        }
        Ok(())
    }

    fn greet(&mut self, rng: &mut Prng, out: &mut Vec<u8>) {
        let mut hello = self.nonce.to_be_bytes().to_vec();
        hello.resize(8 + rng.below(400) as usize, 7);
        self.record(HELLO, &hello, out);
        self.stage = Stage::Chain;
    }

    fn learn(&mut self, hello: &[u8]) -> Result<(), &'static str> {
        let nonce = hello.get(..8).and_then(|eight| eight.try_into().ok());
        let theirs = u64::from_be_bytes(nonce.ok_or("a short hello")?);
        self.key = mix(theirs ^ self.nonce) | 1;
        Ok(())
    }

    /// Mostly small, now and then more than a kernel takes at once.
    fn show_chain(&mut self, rng: &mut Prng, out: &mut Vec<u8>) {
        let size = [2_000, 2_000, 2_000, 2_000, 2_000, 45_000][rng.below(6) as usize];
        let chain = vec![if self.good { 0 } else { BAD }; 1 + rng.below(size) as usize];
        for piece in chain.chunks(RECORD_MAX) {
            self.record(CHAIN, piece, out);
        }
        self.record(DONE, &[], out);
    }

    /// A record that says nothing to anybody.
    pub fn ticket(&mut self, out: &mut Vec<u8>) {
        self.record(TICKET, &[3; 90], out);
    }

    /// Other keys from here on; the other side may be asked to do the same.
    pub fn update(&mut self, asks: bool, out: &mut Vec<u8>) {
        self.record(UPDATE, &[u8::from(asks)], out);
        self.sent.epoch += 1;
        self.asks |= asks;
    }

    pub fn seal(&mut self, rng: &mut Prng, words: &[u8], out: &mut Vec<u8>) {
        if !self.asks && rng.chance(1, 100) {
            self.update(true, out);
        }
        self.record(WORDS, words, out);
    }

    /// The last word.
    pub fn part(&mut self, out: &mut Vec<u8>) {
        self.record(PART, &[], out);
    }

    pub fn refuse(&mut self, why: &str, out: &mut Vec<u8>) -> Fault {
        self.record(ALERT, &[], out);
        Fault(why.to_string())
    }

    fn record(&mut self, kind: u8, payload: &[u8], out: &mut Vec<u8>) {
        let pad = pad(self.key, self.serves, self.sent);
        self.sent.number += 1;
        out.push(kind);
        out.extend_from_slice(&((payload.len() + CHECK) as u16).to_be_bytes());
        let from = out.len();
        out.extend_from_slice(payload);
        let check = check(payload, pad ^ u64::from(kind));
        cover(&mut out[from..], pad);
        out.extend_from_slice(&check);
    }

    /// The payload of the next record, if that is what this is.
    fn uncover<'a>(&mut self, kind: u8, bytes: &'a mut [u8]) -> Option<&'a [u8]> {
        let pad = pad(self.key, !self.serves, self.got);
        self.got.number += 1;
        let (payload, told) = bytes.split_last_chunk_mut::<CHECK>()?;
        cover(payload, pad);
        (check(payload, pad ^ u64::from(kind)) == *told).then_some(payload)
    }
}

fn pad(key: u64, serves: bool, way: Way) -> u64 {
    mix(key ^ way.number << 1 ^ way.epoch << 40 ^ u64::from(serves))
}

fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 31).wrapping_mul(0x7fb5_d329_728e_a185);
    (word ^ word >> 27).wrapping_mul(0x81da_def4_bc2d_d44d) ^ word >> 33
}

fn cover(bytes: &mut [u8], pad: u64) {
    let pad = pad.to_ne_bytes();
    let mut eights = bytes.chunks_exact_mut(8);
    for eight in &mut eights {
        let word = u64::from_ne_bytes((&*eight).try_into().expect("eight bytes"));
        eight.copy_from_slice(&(word ^ u64::from_ne_bytes(pad)).to_ne_bytes());
    }
    for (byte, pad) in eights.into_remainder().iter_mut().zip(pad) {
        *byte ^= pad;
    }
}

fn check(bytes: &[u8], pad: u64) -> [u8; CHECK] {
    let eights = bytes.chunks_exact(8);
    let rest = eights.remainder();
    let step = |sum: u64, word: u64| {
        (sum ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    };
    let sum = eights.fold(pad ^ bytes.len() as u64, |sum, eight| {
        step(
            sum,
            u64::from_ne_bytes(eight.try_into().expect("eight bytes")),
        )
    });
    let sum = rest
        .iter()
        .fold(sum, |sum, byte| step(sum, u64::from(*byte)));
    (mix(sum) as u32).to_be_bytes()
}

const PART: u8 = 20;
const HELLO: u8 = 21;
const CHAIN: u8 = 22;
const DONE: u8 = 23;
const WORDS: u8 = 24;
const TICKET: u8 = 25;
const UPDATE: u8 = 26;
const ALERT: u8 = 27;

/// What a chain is made of that nobody believes.
const BAD: u8 = 66;

/// Kind and length; and what stands behind the payload.
const FIXED: usize = 3;
const CHECK: usize = 4;

/// Words of one record, as many as TLS has.
pub const RECORD_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sides that have greeted each other.
    fn pair(rng: &mut Prng) -> (Session, Session) {
        let (mut client, mut server) = (Session::client(rng), Session::server(rng, true));
        let (mut up, mut down, mut words) = (Vec::new(), Vec::new(), Vec::new());
        client.open(rng, &mut [], &mut words, &mut up).unwrap();
        server.open(rng, &mut up, &mut words, &mut down).unwrap();
        up.clear();
        client.open(rng, &mut down, &mut words, &mut up).unwrap();
        down.clear();
        server.open(rng, &mut up, &mut words, &mut down).unwrap();
        client.open(rng, &mut down, &mut words, &mut up).unwrap();
        assert!(client.is_open() && server.is_open() && words.is_empty());
        (client, server)
    }

    #[test]
    fn what_is_sealed_is_opened_once_and_in_order() {
        let rng = &mut Prng::from_u64(7);
        let (mut client, mut server) = pair(rng);
        let (mut first, mut second, mut back) = (Vec::new(), Vec::new(), Vec::new());
        client.seal(rng, b"one", &mut first);
        client.update(true, &mut first);
        client.seal(rng, b"two", &mut second);
        client.part(&mut second);
        let mut words = Vec::new();
        let opened = server.open(rng, &mut first.clone(), &mut words, &mut back);
        assert_eq!(opened.unwrap().used, first.len());
        assert!(
            server
                .open(rng, &mut first.clone(), &mut words, &mut back)
                .is_err()
        );
        let (mut client, mut server) = pair(rng);
        second.clear();
        client.seal(rng, b"two", &mut second);
        client.part(&mut second);
        let cut = second.len() - 1;
        words.clear();
        let opened = server.open(rng, &mut second.clone()[..cut], &mut words, &mut back);
        let opened = opened.unwrap();
        assert!(!opened.parted && words == b"two");
        let opened = server.open(
            rng,
            &mut second.clone()[opened.used..],
            &mut words,
            &mut back,
        );
        assert!(opened.unwrap().parted);
    }

    #[test]
    fn another_connections_records_are_noticed() {
        let rng = &mut Prng::from_u64(8);
        let ((mut one, _), (_, mut other)) = (pair(rng), pair(rng));
        let (mut sealed, mut words, mut out) = (Vec::new(), Vec::new(), Vec::new());
        one.seal(rng, b"words", &mut sealed);
        assert!(other.open(rng, &mut sealed, &mut words, &mut out).is_err());
    }
}
