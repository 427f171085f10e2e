//! What the operator asks costs a loop a bounded look at its sessions, however many there are. The
//! loop is a real one; its world is a crowd of clients whose servers never answer.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use wsteady::fleet::{Fleet, Pool, Server};
use wsteady::kit::{Budget, Prng, Tick};
use wsteady::session::dialect::Tongue;
use wsteady::session::{House, Settings};
use wsteady::shard::{
    Accept, Answer, Destination, Dialled, Filter, Got, Io, Mail, Now, Plan, Put, Ready, Shard,
    Token,
};

/// Slots that one answer may look at.
const SLOTS_MAX: u32 = 20_000;

/// Clients that come all at once, ask for an upgrade, and wait.
#[derive(Default)]
struct Crowd {
    outside: u32,
    request: Vec<u8>,
    fresh: Vec<Token>,
    mails: Vec<Mail>,
    answers: Vec<Answer>,
}

/// Whether there is still something to read.
struct Socket(bool);

impl Io for Crowd {
    type Socket = Socket;

    fn poll(&mut self, _wait: Option<u32>, ready: &mut Vec<Ready>) {
        ready.extend(self.fresh.drain(..).map(|token| Ready {
            token,
            readable: true,
            writable: false,
            ended: false,
        }));
    }

    fn now(&mut self) -> Now {
        Now {
            tick: Tick(0),
            micros: 0,
        }
    }

    fn take_mail(&mut self, into: &mut Vec<Mail>) {
        into.append(&mut self.mails);
    }

    fn send(&mut self, _shard: usize, _mail: Mail) {}

    fn answer(&mut self, _ticket: u64, answer: Answer) {
        self.answers.push(answer);
    }

    fn accept(&mut self, _listener: u32) -> Accept<Socket> {
        if self.outside == 0 {
            return Accept::None;
        }
        self.outside -= 1;
        let [_, a, b, c] = self.outside.to_be_bytes();
        Accept::Socket(Socket(true), SocketAddr::from(([10, a, b, c], 4_000)))
    }

    fn watch(&mut self, _socket: &mut Socket, token: Token) -> bool {
        self.fresh.push(token);
        true
    }

    fn close_listeners(&mut self) {}

    fn dial(&mut self, _to: &Destination<'_>, _from: Option<IpAddr>, _: Token) -> Dialled<Socket> {
        Dialled::Socket(Socket(false))
    }

    fn is_connected(&mut self, _socket: &mut Socket) -> bool {
        false
    }

    fn read(&mut self, socket: &mut Socket, into: &mut [u8]) -> Got {
        if !std::mem::take(&mut socket.0) {
            return Got::Wait;
        }
        into[..self.request.len()].copy_from_slice(&self.request);
        Got::Bytes(self.request.len())
    }

    fn write(&mut self, _socket: &mut Socket, _from: &[IoSlice<'_>]) -> Put {
        Put::Wait
    }

    fn shut(&mut self, _socket: &mut Socket) {}

    fn close(&mut self, _socket: Socket) {}

    fn reset(&mut self, _socket: Socket) {}
}

/// A loop with so many sessions, whose paths have so many bytes.
struct Loop {
    shard: Shard<Crowd, Tongue>,
}

impl Loop {
    fn new(sessions: u32, path: usize) -> Loop {
        let request = format!(
            "GET /{:x<path$} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            ""
        );
        let crowd = Crowd {
            outside: sessions,
            request: request.into_bytes(),
            ..Crowd::default()
        };
        let mut shard = Shard::new(plan(), crowd);
        while shard.sessions().filter(|one| one.pool().is_some()).count() < sessions as usize {
            shard.turn();
        }
        Loop { shard }
    }

    fn turn(&mut self, mail: Mail) {
        self.shard.io.mails.push(mail);
        self.shard.turn();
    }

    fn ask(&mut self, mail: Mail) -> Answer {
        self.turn(mail);
        self.shard.io.answers.pop().expect("an answer")
    }

    /// How long a turn with this mail takes, in the middle.
    fn time(&mut self, mail: impl Fn() -> Mail) -> Duration {
        let turns = (0..21).map(|_| {
            let begun = Instant::now();
            self.turn(mail());
            begun.elapsed()
        });
        let mut turns: Vec<Duration> = turns.collect();
        turns.sort();
        turns[turns.len() / 2]
    }
}

fn plan() -> Plan {
    let address = SocketAddr::from(([10, 0, 0, 1], 9000));
    let pool = Pool {
        members: vec![0],
        ..Pool::new("chat", Default::default())
    };
    Plan {
        index: 0,
        shards: 1,
        listeners: 1,
        fleet: Fleet {
            pools: vec![pool],
            servers: vec![Server::new("a".into(), "ws://a".into(), address, 0, 1)],
            routes: Vec::new(),
        },
        house: House::default(),
        settings: vec![Settings::default()],
        memory: Arc::new(Budget::new(1 << 20)),
        memory_step: 512,
        connections: Arc::new(Budget::new(1 << 20)),
        quota: Arc::default(),
        busy: Arc::new(AtomicUsize::new(1)),
        secret: (1, 2),
        read_vitals: |_| None,
        capacity: 1_024,
        line_max: 64,
        ended_max: 32,
        walk_max: 256,
        rng: Prng::from_u64(1),
    }
}

/// Nobody's id.
const NOBODY: u128 = 7;

fn list(from: u32, limit: usize) -> Mail {
    let filter = Filter {
        from,
        limit,
        ..Filter::default()
    };
    Mail::List { ticket: 0, filter }
}

fn search(from: u32, text: &str) -> Mail {
    let filter = Filter {
        from,
        limit: 1_000,
        text: Some(text.to_string()),
        ..Filter::default()
    };
    Mail::List { ticket: 0, filter }
}

fn find(from: u32) -> Mail {
    let filter = Filter {
        from,
        limit: 1,
        id: Some(NOBODY),
        ..Filter::default()
    };
    Mail::List { ticket: 0, filter }
}

fn abort(from: u32) -> Mail {
    Mail::AbortSession {
        ticket: 0,
        id: NOBODY,
        from,
    }
}

/// Asks from the first slot to the last; gives how many rows came, and how many answers.
fn walk(one: &mut Loop, mail: impl Fn(u32) -> Mail) -> (usize, usize) {
    let (mut from, mut rows, mut answers) = (0, 0, 0);
    loop {
        let next = match one.ask(mail(from)) {
            Answer::Sessions { rows: page, next } => {
                rows += page.len();
                next
            }
            Answer::Further(next) => Some(next),
            Answer::Done(found) => {
                assert!(!found, "nobody is found");
                None
            }
            Answer::Snapshot(_) | Answer::Pushed(_) => panic!("not asked for"),
        };
        answers += 1;
        let Some(next) = next else {
            return (rows, answers);
        };
        assert!(next > from, "it goes on");
        assert!(next - from <= SLOTS_MAX, "{} slots at once", next - from);
        from = next;
    }
}

#[test]
fn no_answer_looks_at_more_slots_than_it_may() {
    let mut one = Loop::new(50_000, 10);
    // So many are taken; the slab has room for more, which is looked at as well.
    for (what, mail) in [("find", find as fn(u32) -> Mail), ("abort", abort)] {
        let (rows, answers) = walk(&mut one, mail);
        assert_eq!(rows, 0, "{what}");
        assert!((3..=4).contains(&answers), "{what}: {answers}");
    }
    assert_eq!(walk(&mut one, |from| list(from, 1_000)).0, 50_000);
    assert_eq!(walk(&mut one, |from| search(from, "xxx")).0, 50_000);
    assert_eq!(walk(&mut one, |from| search(from, "y")).0, 0);
}

#[test]
fn no_answer_copies_or_searches_more_bytes_of_paths_than_it_may() {
    const PATH: usize = 8 << 10;
    const BYTES_MAX: usize = 256 << 10;
    let mut one = Loop::new(200, PATH);
    for mail in [list(0, 1_000), search(0, "xxx")] {
        let Answer::Sessions { rows, next } = one.ask(mail) else {
            panic!("no page");
        };
        let bytes: usize = rows.iter().map(|row| row.path.len()).sum();
        assert!(
            (BYTES_MAX - PATH..BYTES_MAX + PATH).contains(&bytes),
            "{bytes}"
        );
        assert!(next.is_some());
    }
    let (rows, answers) = walk(&mut one, |from| search(from, "y"));
    assert_eq!((rows, answers), (0, 200 * PATH / BYTES_MAX + 1));
    assert_eq!(walk(&mut one, |from| list(from, 1_000)).0, 200);
}

/// By hand: `cargo test --release --test questions -- --ignored --nocapture`.
#[test]
#[ignore = "it measures, and needs a release build"]
fn what_a_question_costs_with_20_000_sessions() {
    let mut one = Loop::new(SLOTS_MAX, 10);
    let idle = one.time(|| Mail::Accepting(true));
    println!("nothing asked: {idle:?}");
    for (what, mail) in [
        (
            "all counters",
            (|| Mail::Count { ticket: 0 }) as fn() -> Mail,
        ),
        ("a page of 1,000 sessions", || list(0, 1_000)),
        ("a look for an id that nobody has", || find(0)),
        ("an abort of nobody", || abort(0)),
        ("a search without a find", || search(0, "y")),
    ] {
        println!("{what}: {:?}", one.time(mail));
    }
}
