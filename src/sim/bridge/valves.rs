//! Valves of the simulated bridge. What becomes of a message follows from its number alone, as in
//! WebSocket pools; what goes down is never answered.

use std::sync::Arc;

use super::people::Guest;
use super::world::World;
use crate::session::valve::{Direction, Fitting, MakeValve, Message, Valve, Verdict, Wants};
use crate::sim::codec;
use crate::sim::valves::{Dress, Fate, answered, fate, goes_on, passing};

/// The valve of a bridge so dressed.
pub fn fittings(dress: Dress) -> Arc<[Fitting]> {
    let wants = match dress {
        Dress::Bare => return Arc::new([]),
        Dress::Up => Wants::UP,
        Dress::Both => Wants::UP | Wants::DOWN,
    };
    let make: MakeValve = Arc::new(move |_| Some(Box::new(Warden { wants, next: 0 })));
    Arc::new([Fitting { pool: None, make }])
}

struct Warden {
    wants: Wants,
    next: u32,
}

impl Valve for Warden {
    fn wants(&self) -> Wants {
        self.wants
    }

    /// A broken law closes the client for no reason, which is another broken law.
    fn on(&mut self, message: &Message<'_>) -> Verdict {
        let up = message.direction == Direction::Up;
        let (who, n) = match codec::recognise(message.payload, message.text) {
            Ok(known) => known,
            Err(_) if !up && [b"No", b"ok"].iter().any(|it| *it == message.payload) => {
                return Verdict::Pass;
            }
            Err(error) => panic!("law: a valve sees whole messages: {error}"),
        };
        if up {
            assert_eq!(n, self.next, "law: a valve sees each message once");
            self.next += 1;
        }
        let length = message.payload.len();
        match fate(n) {
            Fate::Pass => Verdict::Pass,
            Fate::Change => Verdict::Change(codec::content(who | CHANGED, n, length * 2 / 3)),
            Fate::Answer if up => Verdict::Answer {
                text: codec::is_text(n),
                payload: codec::content(who | ANSWERED, n, length / 3),
            },
            Fate::Drop | Fate::Answer => Verdict::Drop,
        }
    }
}

impl World {
    /// How many of a guest's first messages go on to the API.
    pub fn passing(&self, sent: u32) -> u64 {
        match self.dress {
            Dress::Bare => sent.into(),
            Dress::Up | Dress::Both => passing(sent.into()),
        }
    }

    /// The API has a message of a guest: its place among those that go on.
    pub fn on_passed_up(&mut self, guest: usize, from: u32, n: u32) -> u64 {
        let changed = from & CHANGED != 0;
        assert_eq!((from & !CHANGED) as usize, guest, "law: its bytes");
        if self.dress == Dress::Bare {
            assert!(!changed, "law: nobody changes message {n}");
            return n.into();
        }
        assert!(goes_on(n), "law: message {n} was stopped by a valve");
        assert_eq!(changed, fate(n) == Fate::Change, "law: a valve's {n}");
        self.hit("valve: a message goes on");
        passing(n.into())
    }

    /// Whether a client gets message `n` of somebody: the two short ones have no number.
    pub fn goes_down(&self, n: u32) -> bool {
        self.dress != Dress::Both || goes_on(n)
    }

    /// A guest has read this: who has sent it. None: its valve has answered.
    pub fn on_passed_down(
        &mut self,
        me: usize,
        guest: &mut Guest,
        from: u32,
        n: u32,
    ) -> Option<u32> {
        if from & ANSWERED != 0 {
            assert_eq!((from & !ANSWERED) as usize, me, "law: its own valve's");
            assert_eq!(fate(n), Fate::Answer, "law: an answer to {n}");
            assert_eq!(answered(n.into()), guest.warned, "law: answers in order");
            guest.warned += 1;
            self.hit("valve: an answer");
            return None;
        }
        let changed = from & CHANGED != 0;
        let wanted = self.dress == Dress::Both && fate(n) == Fate::Change;
        assert_eq!(changed, wanted, "law: a valve's {n} of {from:x}");
        assert!(self.goes_down(n), "law: {n} of {from:x} was stopped");
        Some(from & !CHANGED)
    }

    /// All is healed and quiet: each answer of its valve is there.
    pub fn check_warned(&self, me: usize, guest: &Guest) {
        let due = match self.dress {
            Dress::Bare => 0,
            Dress::Up | Dress::Both => answered(guest.next.into()),
        };
        assert_eq!(guest.warned, due, "law: a valve's answers to guest {me}");
    }
}

/// The bit of a sender's number that says that a valve has changed its message, or answered it.
const CHANGED: u32 = 0x2000_0000;
const ANSWERED: u32 = 0x1000_0000;
