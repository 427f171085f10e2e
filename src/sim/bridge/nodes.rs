//! The other nodes: what is passed on to them is answered, sooner or later, as they see fit.

use super::world::World;
use crate::session::{Hop, Reached};
use crate::shard::{Asker, Mail, Push, PushVerb, Pushed};

/// The other nodes, as far as they have something to say.
#[derive(Default)]
pub struct Nodes {
    /// There are some.
    pub any: bool,
    asked: Vec<Asked>,
}

/// A push that was passed on, and when its answer comes.
struct Asked {
    push: Box<Push>,
    from: Asker,
    due: u64,
}

/// Who this node is to the others.
pub const MARK: &str = "own";

/// The nodes as the shards know them: on this machine, where pushers are.
pub fn hop() -> Hop {
    Hop {
        mark: MARK.to_string(),
        token: None,
        peers: vec![[127, 0, 0, 1].into()],
    }
}

impl World {
    pub fn pass_on(&mut self, push: Box<Push>, from: Asker) -> Option<(Box<Push>, Asker)> {
        assert!(!push.is_hop, "law: a push takes one hop");
        if !self.nodes.any {
            return Some((push, from));
        }
        let due = self.now + u64::from(self.rng.below(200));
        self.hit("push: passed on");
        self.nodes.asked.push(Asked { push, from, due });
        None
    }

    /// Answers what is due.
    pub fn step_nodes(&mut self) {
        let now = self.now;
        let all = std::mem::take(&mut self.nodes.asked);
        let (due, later) = all.into_iter().partition(|asked| asked.due <= now);
        self.nodes.asked = later;
        let due: Vec<Asked> = due;
        for asked in due {
            let pushed = self.word_of_nodes(&asked.push);
            let (shard, mail) = match asked.from {
                Asker::Seat(seat) => {
                    let key = seat.key;
                    (seat.shard, Mail::Pushed { key, pushed })
                }
                Asker::Cast(seat) => {
                    let key = seat.key;
                    (seat.shard, Mail::Reached { key, pushed })
                }
                Asker::Ticket(ticket) => panic!("law: nobody here has ticket {ticket}"),
            };
            self.doors[usize::from(shard)].mail.put(mail);
        }
    }

    fn word_of_nodes(&mut self, push: &Push) -> Pushed {
        if let PushVerb::Broadcast { .. } = push.verb {
            // Pushers know by it that others were asked.
            let unasked = 1;
            return Pushed::Reached(Reached {
                unasked,
                ..Reached::default()
            });
        }
        let status = match self.rng.below(4) {
            0 => 404,
            1 => 503,
            2 => 504,
            _ => 200,
        };
        Pushed::Elsewhere {
            status,
            json: false,
            body: ELSEWHERE.into(),
        }
    }
}

/// By this pushers know whose answer it is.
pub const ELSEWHERE: &str = "elsewhere";
