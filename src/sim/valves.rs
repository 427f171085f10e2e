//! Valves of the simulated pools, and what the peers know of them: what becomes of a message follows
//! from its number alone.

use std::cell::Cell;
use std::panic::resume_unwind;
use std::sync::Arc;

use super::codec;
use super::laws::Log;
use super::peer::{Client, Upstream};
use super::world::World;
use crate::kit::Prng;
use crate::session::Confirm;
use crate::session::valve::{Direction, Fitting, MakeValve, Message, Valve, Verdict, Wants};

/// What a pool's valves ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dress {
    /// There are none.
    #[default]
    Bare,
    /// Messages from clients.
    Up,
    /// All.
    Both,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Pass,
    Change,
    Drop,
    Answer,
}

/// What a client's own valve is driven to by its message number [`LAST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Panic,
    Slow,
    Close,
}

pub fn fate(n: u32) -> Fate {
    match n % PERIOD {
        1 => Fate::Change,
        3 => Fate::Drop,
        5 => Fate::Answer,
        _ => Fate::Pass,
    }
}

/// How many of the first `sent` messages go on.
pub fn passing(sent: u64) -> u64 {
    let period = u64::from(PERIOD);
    let rest = (0..sent % period).filter(|n| goes_on(*n as u32)).count() as u64;
    sent / period * (period - 2) + rest
}

/// How many of the first `sent` messages are answered.
pub fn answered(sent: u64) -> u64 {
    (sent + u64::from(PERIOD) - 6) / u64::from(PERIOD)
}

pub fn goes_on(n: u32) -> bool {
    matches!(fate(n), Fate::Pass | Fate::Change)
}

fn trouble(client: usize) -> Trouble {
    match client % 8 {
        1 => Trouble::Panic,
        3 => Trouble::Slow,
        5 => Trouble::Close,
        _ => Trouble::None,
    }
}

/// Which pools have valves: in every fourth run.
pub fn dress(seed: u64, pools: usize) -> Vec<Dress> {
    let mut rng = Prng::from_u64(seed ^ 0x7661_6c76);
    let any = |rng: &mut Prng| [Dress::Bare, Dress::Up, Dress::Both][rng.below(3) as usize];
    (0..pools)
        .map(|_| {
            if seed % 4 == 3 {
                any(&mut rng)
            } else {
                Dress::Bare
            }
        })
        .collect()
}

/// The valves of pools so dressed: the first of a row stops messages, the second one changes them.
pub fn fittings(dress: &[Dress]) -> Arc<[Fitting]> {
    let mut fittings = Vec::new();
    for (pool, dress) in dress.iter().enumerate() {
        let wants = match dress {
            Dress::Bare => continue,
            Dress::Up => Wants::UP,
            Dress::Both => Wants::UP | Wants::DOWN,
        };
        let stop: MakeValve = Arc::new(move |_| Some(Box::new(Stopper::new(wants))));
        let change: MakeValve = Arc::new(move |_| Some(Box::new(Changer { wants })));
        for make in [stop, change] {
            let pool = Some(format!("p{pool}"));
            fittings.push(Fitting { pool, make });
        }
    }
    fittings.into()
}

thread_local! {
    static MICROS: Cell<u64> = const { Cell::new(0) };
}

/// The clock that valves are measured by.
pub fn clock() -> u64 {
    MICROS.set(MICROS.get() + 1);
    MICROS.get()
}

struct Stopper {
    wants: Wants,
    next: u32,
    /// The upstream that spoke last, and its next message.
    heard: (u32, u32),
}

impl Stopper {
    fn new(wants: Wants) -> Stopper {
        Stopper {
            wants,
            next: 0,
            heard: (0, 0),
        }
    }

    /// Each message is shown once, in order; if not, the client is closed for no reason.
    fn check(&mut self, direction: Direction, sender: u32, n: u32) {
        let due = match direction {
            Direction::Up => &mut self.next,
            Direction::Down => {
                if self.heard.0 != sender {
                    self.heard = (sender, 0);
                }
                &mut self.heard.1
            }
        };
        assert_eq!(n, *due, "law: a valve sees each message once, in order");
        *due += 1;
    }
}

impl Valve for Stopper {
    fn wants(&self) -> Wants {
        self.wants
    }

    fn on(&mut self, message: &Message<'_>) -> Verdict {
        let (who, n) = codec::recognise(message.payload, message.text)
            .unwrap_or_else(|error| panic!("law: a valve sees whole messages: {error}"));
        let sender = who & !CHANGED;
        self.check(message.direction, sender, n);
        if message.direction == Direction::Up && n == LAST {
            match trouble(sender as usize) {
                Trouble::None => {}
                // Without a word on stderr.
                Trouble::Panic => resume_unwind(Box::new("a valve")),
                Trouble::Slow => MICROS.set(MICROS.get() + 1_500_000),
                Trouble::Close => return Verdict::Close(4321, "enough".into()),
            }
        }
        match fate(n) {
            Fate::Drop => Verdict::Drop,
            Fate::Answer => Verdict::Answer {
                text: codec::is_text(n),
                payload: codec::content(sender | ANSWER, n, message.payload.len() / 3),
            },
            Fate::Pass | Fate::Change => Verdict::Pass,
        }
    }
}

struct Changer {
    wants: Wants,
}

impl Valve for Changer {
    fn wants(&self) -> Wants {
        self.wants
    }

    fn on(&mut self, message: &Message<'_>) -> Verdict {
        let Ok((sender, n)) = codec::recognise(message.payload, message.text) else {
            panic!("law: a valve sees whole messages");
        };
        match fate(n) {
            Fate::Change => {
                let length = message.payload.len() * (1 + n as usize % 5) / 4;
                Verdict::Change(codec::content(sender | CHANGED, n, length))
            }
            Fate::Pass | Fate::Drop | Fate::Answer => Verdict::Pass,
        }
    }
}

impl World {
    /// A server has read a message that came past valves. Its number in the session: the same message
    /// at each server. Says which of the client's it is, if it is one.
    pub fn on_valved_up(&mut self, upstream: &Upstream, who: u32, n: u32) -> Option<u32> {
        let (client, next) = (upstream.client, upstream.first + upstream.count);
        let pool = self.clients[client].pool;
        let written = self.settings[pool].ever(|one| one.confirm == Confirm::Written);
        let answer = who & ANSWER != 0;
        if answer {
            let asker = (who & !ANSWER) as usize;
            let log = self.laws.sessions.get(&upstream.session);
            let own = log.is_none_or(|log| log.upstreams.contains(&asker));
            assert!(own, "law I7: the answer to another's server");
            assert_eq!(self.dress[pool], Dress::Both, "law: nobody answers servers");
            assert_eq!(fate(n), Fate::Answer, "law: an answer to {n}");
        } else {
            let changed = who & CHANGED != 0;
            assert_eq!((who & !CHANGED) as usize, client, "law I7: foreign bytes");
            assert!(goes_on(n), "law: message {n} was stopped by a valve");
            assert_eq!(changed, fate(n) == Fate::Change, "law: a valve's {n}");
            let sent = self.clients[client].ends.len();
            assert!((n as usize) < sent, "law I2: message {n} was never sent");
            let over = trouble(client) != Trouble::None && n >= LAST;
            assert!(!over, "law: a valve that failed lets {n} pass");
        }
        self.coverage.answers_up += u64::from(answer);
        self.coverage.valved += 1;
        let Some(log) = self.laws.sessions.get_mut(&upstream.session) else {
            return (!answer).then_some(n);
        };
        let Log { order, answers, .. } = log;
        match order.get(&next) {
            Some(known) => assert_eq!(*known, (who, n), "law: message {next} is what it was"),
            None => {
                let contiguous = order.len() as u64 == next;
                assert!(
                    contiguous || written,
                    "law I3: message {next} comes too soon"
                );
                let mut theirs = order.values().filter(|(who, _)| who & ANSWER == 0);
                if answer {
                    let first = answers.insert((who & !ANSWER, n));
                    assert!(first, "law: an answer to {n} came twice");
                } else if !written {
                    let rank = theirs.count() as u64;
                    assert_eq!(passing(n.into()), rank, "law I3: {n} is not the next");
                } else {
                    let fresh = theirs.all(|(_, known)| *known != n);
                    assert!(fresh, "law: message {n} has two numbers");
                }
                order.insert(next, (who, n));
            }
        }
        (!answer).then_some(n)
    }

    /// A client has read a message that came past valves: the number that it has among those of its
    /// upstream, if it is none of the answers.
    pub fn on_valved_down(
        &mut self,
        me: usize,
        client: &mut Client,
        who: u32,
        n: u32,
    ) -> Option<u32> {
        if who & ANSWER != 0 {
            self.coverage.answers_down += 1;
            assert_eq!(
                (who & !ANSWER) as usize,
                me,
                "law I7: another client's answer"
            );
            assert_eq!(fate(n), Fate::Answer, "law: an answer to {n}");
            let due = answered(n.into());
            assert_eq!(
                client.answers, due,
                "law: the answer to {n} is not the next"
            );
            client.answers += 1;
            return None;
        }
        if self.dress[client.pool] != Dress::Both {
            assert_eq!(who & CHANGED, 0, "law: nobody changes this message");
            return Some(n);
        }
        assert!(goes_on(n), "law: message {n} was stopped by a valve");
        let changed = who & CHANGED != 0;
        assert_eq!(changed, fate(n) == Fate::Change, "law: a valve's {n}");
        let sent = self.upstreams[(who & !CHANGED) as usize].sent.len();
        assert!((n as usize) < sent, "law I2: nobody sent it");
        Some(passing(n.into()) as u32)
    }

    /// Whether a valve may have closed this client so.
    pub fn is_closed_by_valve(&mut self, me: usize, client: &Client, code: u16) -> bool {
        self.coverage.valve_ends += 1;
        let driven = match trouble(me) {
            Trouble::None => false,
            Trouble::Panic | Trouble::Slow => code == 1011,
            Trouble::Close => code == 4321,
        };
        self.dress[client.pool] != Dress::Bare && driven && client.ends.len() > LAST as usize
    }

    /// All is healed and quiet: what valves let pass, and what they answered, is there.
    pub fn check_valved(&self, log: &Log, written: bool) {
        let client = &self.clients[log.client];
        let sent = client.ends.len() as u64;
        let me = log.client;
        assert_eq!(
            client.answers,
            answered(sent),
            "law: answers to client {me}"
        );
        if written {
            return;
        }
        let want = passing(sent) + log.answers.len() as u64;
        assert_eq!(log.end, want, "law I1: client {me} with valves");
        if self.dress[client.pool] != Dress::Both {
            return;
        }
        for upstream in &log.upstreams {
            let peer = &self.upstreams[*upstream];
            let heard = self.conns[peer.conn].inward.taken;
            let heard = heard.min(peer.bad_at.unwrap_or(u64::MAX));
            let whole = peer.sent.iter().filter(|(_, end, _)| *end <= heard).count() as u32;
            let lost = (0..whole).filter(|n| fate(*n) == Fate::Answer);
            let lost = lost.filter(|n| !log.answers.contains(&(*upstream as u32, *n)));
            assert_eq!(lost.count(), 0, "law: answers to upstream {upstream}");
        }
    }
}

/// The bit of a sender's number that says that a valve has changed its message, or answered it.
pub const CHANGED: u32 = 0x8000_0000;
pub const ANSWER: u32 = 0x4000_0000;

/// Fates repeat after so many messages.
const PERIOD: u32 = 7;

/// The message of a client at which its valve may fail.
const LAST: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_are_counted_as_they_come() {
        let (mut go, mut answers) = (0, 0);
        for n in 0..100 {
            assert_eq!(
                (passing(n.into()), answered(n.into())),
                (go, answers),
                "{n}"
            );
            go += u64::from(goes_on(n));
            answers += u64::from(fate(n) == Fate::Answer);
        }
    }
}
