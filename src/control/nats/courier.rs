//! From NATS to clients. For each pool a thread with a link: it subscribes to the `.out` of each client
//! that is connected, and pushes what comes there as an API would.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select, unbounded};
use log::warn;

use super::link::{Link, Msg, Terms};
use crate::control::config::{Config, PoolConfig, PoolKind, Secret};
use crate::shard::mail::{Answer, Asker, Mail, Push, PushVerb, Pushed};
use crate::shard::news::{Happened, Notice, Notify};
use crate::wire::close;
use crate::wire::nats::{self, Headers};

/// The couriers of all pools of kind nats.
pub struct Couriers {
    ways: Arc<[Way]>,
    threads: Vec<JoinHandle<()>>,
}

/// The way to one of them.
struct Way {
    pool: String,
    orders: Sender<Order>,
}

/// What a courier is told by the loops. Nothing of this may be missed, so its queue has no bound: it is
/// as long as sessions come and go faster than a thread notes it.
enum Order {
    Opened {
        session: u128,
        id: String,
    },
    Ended {
        session: u128,
    },
    /// What became of a push.
    Pushed(u64, Pushed),
    Stop,
}

/// Puts mail into a loop's box.
pub type Post = Arc<dyn Fn(Mail) + Send + Sync>;

impl Couriers {
    /// Starts them. `post` goes to any one loop, always the same: so order is kept.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(config: &Config, post: &Post) -> io::Result<Couriers> {
        let (mut ways, mut threads) = (Vec::new(), Vec::new());
        let pools = config
            .pools
            .iter()
            .filter(|pool| pool.kind == PoolKind::Nats);
        for (number, pool) in pools.enumerate() {
            let (orders, told) = unbounded();
            let (sender, messages) = bounded(QUEUE);
            // An error: the courier has stopped.
            let on_message = Box::new(move |message| drop(sender.send(message)));
            let courier = Courier {
                pool: pool.name.clone(),
                prefix: pool.nats.prefix.clone(),
                message_max: config.limits.message,
                link: Link::start(terms_of(pool), on_message)?,
                post: post.clone(),
                sessions: HashMap::new(),
                ids: HashMap::new(),
                pending: VecDeque::new(),
                waiting: 0,
                next: MINE | ((number as u64) << POOL_SHIFT),
                lost: Lost::default(),
            };
            threads.push(
                thread::Builder::new()
                    .name("courier".to_string())
                    .spawn(move || courier.run(&told, &messages))?,
            );
            let pool = pool.name.clone();
            ways.push(Way { pool, orders });
        }
        Ok(Couriers {
            ways: ways.into(),
            threads,
        })
    }

    /// What tells them of sessions; `None` if there are none of them.
    pub fn notify(&self) -> Option<Notify> {
        let ways = self.ways.clone();
        let notify = move |notice: Notice| {
            let session = notice.session;
            let order = match notice.what {
                Happened::Opened { target } => Order::Opened {
                    session,
                    id: id_of(&target).to_string(),
                },
                Happened::Ended { .. } => Order::Ended { session },
                Happened::Bound { .. }
                | Happened::Lost { .. }
                | Happened::Replayed { .. }
                | Happened::Moved => return,
            };
            if let Some(way) = ways.iter().find(|way| way.pool == notice.pool) {
                let _ = way.orders.send(order);
            }
        };
        (!self.ways.is_empty()).then(|| Arc::new(notify) as Notify)
    }

    /// Takes what became of a push, if it was one of theirs; gives back any other answer.
    pub fn answers(&self) -> impl Fn(u64, Answer) -> Option<Answer> + Send + Sync + 'static {
        let ways = self.ways.clone();
        move |ticket, answer| {
            let number = (ticket & !MINE) >> POOL_SHIFT;
            let way = ways.get(number as usize).filter(|_| ticket & MINE != 0);
            match (way, answer) {
                (Some(way), Answer::Pushed(pushed)) => {
                    let _ = way.orders.send(Order::Pushed(ticket, pushed));
                    None
                }
                (_, answer) => Some(answer),
            }
        }
    }

    /// No client is there any more.
    pub fn finish(self) {
        for way in self.ways.iter() {
            let _ = way.orders.send(Order::Stop);
        }
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// The ClientId of a request target.
fn id_of(target: &str) -> &str {
    let path = target.split('?').next().unwrap_or_default();
    path.strip_prefix('/').unwrap_or(path)
}

fn terms_of(pool: &PoolConfig) -> Terms {
    let reveal = |secret: &Option<Secret>| secret.as_ref().map(|one| one.reveal().to_string());
    let servers = pool.servers.iter();
    Terms {
        name: format!("wsteady {}", pool.name),
        servers: servers
            .map(|one| (one.url.host.clone(), one.url.port))
            .collect(),
        user: pool.nats.user.clone(),
        password: reveal(&pool.nats.password),
        token: reveal(&pool.nats.token),
    }
}

/// One pool's thread.
struct Courier {
    pool: String,
    prefix: String,
    message_max: u64,
    link: Link,
    post: Post,
    /// Subscriptions of sessions, and the clients behind them.
    sessions: HashMap<u128, u64>,
    ids: HashMap<u64, String>,
    /// Pushes that were not answered yet, in their order.
    pending: VecDeque<Pending>,
    /// Bytes of them.
    waiting: usize,
    /// The next ticket.
    next: u64,
    lost: Lost,
}

struct Pending {
    ticket: u64,
    reply: Option<Vec<u8>>,
    since: Instant,
    bytes: usize,
    answered: bool,
}

/// Messages that reached nobody and whose sender did not ask.
#[derive(Default)]
struct Lost {
    count: u64,
    why: &'static str,
    told: Option<Instant>,
}

/// What became of a message: the `Status` of the answer, and its words.
struct Outcome {
    status: &'static str,
    says: &'static str,
}

impl Courier {
    fn run(mut self, told: &Receiver<Order>, messages: &Receiver<Msg>) {
        loop {
            // As many as wait for a client's loop at a time; the others wait in their connection.
            let open = self.pending.len() < WINDOW && self.waiting < WAITING_MAX;
            let none = never();
            select! {
                recv(told) -> order => match order {
                    Ok(Order::Stop) | Err(_) => break,
                    Ok(order) => self.on_order(order),
                },
                recv(if open { messages } else { &none }) -> message => match message {
                    Ok(message) => self.on_message(message),
                    Err(_) => break,
                },
                default(LOOK_PAUSE) => {}
            }
            self.look();
        }
        self.tell_lost();
        self.link.stop();
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Opened { session, id } => {
                let mut subject = format!("{}.", self.prefix).into_bytes();
                nats::put_token(&id, &mut subject);
                subject.extend_from_slice(b".out");
                let sid = self
                    .link
                    .subscribe(&String::from_utf8_lossy(&subject), None);
                self.sessions.insert(session, sid);
                self.ids.insert(sid, id);
            }
            Order::Ended { session } => {
                if let Some(sid) = self.sessions.remove(&session) {
                    self.link.unsubscribe(sid);
                    self.ids.remove(&sid);
                }
            }
            Order::Pushed(ticket, pushed) => self.on_pushed(ticket, &pushed),
            Order::Stop => {}
        }
    }

    fn on_message(&mut self, message: Msg) {
        let Some(id) = self.ids.get(&message.sid) else {
            return self.answer(message.reply.as_deref(), &UNKNOWN);
        };
        let verb = match self.verb_of(&message) {
            Ok(verb) => verb,
            Err(outcome) => return self.answer(message.reply.as_deref(), &outcome),
        };
        let bytes = message.payload.len();
        self.waiting += bytes;
        let push = Box::new(Push {
            id: id.as_str().into(),
            verb,
            // It is subscribed to where the client is: nobody else need be asked.
            is_hop: true,
            body: message.payload,
        });
        let ticket = self.next;
        self.next = (ticket & !COUNT) | (ticket.wrapping_add(1) & COUNT);
        self.pending.push_back(Pending {
            ticket,
            reply: message.reply,
            since: Instant::now(),
            bytes,
            answered: false,
        });
        let from = Asker::Ticket(ticket);
        (self.post)(Mail::Push { push, from });
    }

    /// What is wanted, by the same rules as `POST` and `DELETE` have.
    fn verb_of(&self, message: &Msg) -> Result<PushVerb, Outcome> {
        let refused = |says| Outcome {
            status: "refused",
            says,
        };
        if message.payload.len() as u64 > self.message_max {
            return Err(refused("longer than limits.message"));
        }
        let is_text = || std::str::from_utf8(&message.payload).is_ok();
        if let Some(code) = message.header("X-Wsteady-Close") {
            let code = code.parse().ok().filter(|code| close::is_sendable(*code));
            let code = code.ok_or(refused("X-Wsteady-Close is no close code"))?;
            if message.payload.len() > REASON_MAX || !is_text() {
                return Err(refused("a reason is UTF-8, and has at most 123 bytes"));
            }
            return Ok(PushVerb::Close { code });
        }
        let kind = message.header("Content-Type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let binary = kind.eq_ignore_ascii_case("application/octet-stream");
        if !binary && !is_text() {
            return Err(refused("the text is not UTF-8"));
        }
        Ok(PushVerb::Message { binary })
    }

    fn on_pushed(&mut self, ticket: u64, pushed: &Pushed) {
        let Some(pending) = self.pending.iter_mut().find(|one| one.ticket == ticket) else {
            return;
        };
        pending.answered = true;
        let reply = pending.reply.take();
        let outcome = match pushed {
            Pushed::Done => DONE,
            Pushed::Slow => SLOW,
            // Answers to what no courier asks.
            Pushed::Elsewhere { .. } | Pushed::Seen { .. } | Pushed::Reached(_) => UNKNOWN,
            Pushed::Unknown => UNKNOWN,
        };
        self.answer(reply.as_deref(), &outcome);
    }

    /// Whoever asked is told; what reached nobody is counted.
    fn answer(&mut self, reply: Option<&[u8]>, outcome: &Outcome) {
        if let Some(reply) = reply {
            let headers = Headers::new().with("Status", outcome.status).end();
            self.link
                .publish(reply, None, &headers, outcome.says.as_bytes());
        } else if outcome.status != DONE.status {
            self.lost.count += 1;
            self.lost.why = outcome.says;
        }
    }

    /// Gives up what no loop has answered, and says what was lost.
    fn look(&mut self) {
        while let Some(first) = self.pending.front() {
            let late = first.since.elapsed() >= ANSWER_MAX;
            if !first.answered && !late {
                break;
            }
            if let Some(first) = self.pending.pop_front() {
                self.waiting -= first.bytes;
                if !first.answered {
                    self.answer(first.reply.as_deref(), &SILENT);
                }
            }
        }
        let due = self
            .lost
            .told
            .is_none_or(|told| told.elapsed() >= TELL_PAUSE);
        if self.lost.count > 0 && due {
            self.tell_lost();
        }
    }

    fn tell_lost(&mut self) {
        let lost = std::mem::take(&mut self.lost);
        if lost.count > 0 {
            let (pool, count, last) = (self.pool.as_str(), lost.count, lost.why);
            warn!(pool = pool, messages = count, last = last; "messages from NATS reached nobody");
        }
        self.lost.told = Some(Instant::now());
    }
}

const DONE: Outcome = Outcome {
    status: "ok",
    says: "ok",
};
const UNKNOWN: Outcome = Outcome {
    status: "not connected",
    says: "not connected",
};
const SLOW: Outcome = Outcome {
    status: "slow",
    says: "the client is too slow",
};
const SILENT: Outcome = Outcome {
    status: "slow",
    says: "a loop does not answer",
};

/// Messages on their way to loops, and their bytes: far less than a loop's box takes. What waits for
/// these waits in its connection, but for a few.
const WINDOW: usize = 4_096;
const WAITING_MAX: usize = 16 << 20;
const QUEUE: usize = 64;

/// A loop answers within a turn, or has lost the mail.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// The log says at most so often what was lost.
const TELL_PAUSE: Duration = Duration::from_secs(10);

/// As for a reason that comes by HTTP: a Close's payload without the code.
const REASON_MAX: usize = 123;

/// A ticket: the mark that it is a courier's, the pool's number, and a count.
const MINE: u64 = 1 << 63;
const POOL_SHIFT: u32 = 40;
const COUNT: u64 = (1 << POOL_SHIFT) - 1;
