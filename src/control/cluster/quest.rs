//! One push on its way through the other nodes: whom to ask, and what their answers come to. Pure:
//! answers in, the next step out.
//!
//! ```text
//!            cached owner                      found
//!   begin ─────────────────> Giving <────────────────────── Looking <── begin
//!                              │  404 or refused, of a guess ──> ^
//!                              v                                 v
//!                            answer                     nobody, or not sure
//! ```
//!
//! **Invariant:** a push is given to one node, and to another one only after the first has said that
//! it was not delivered, or can't have heard of it.

use crate::kit::Key;
use crate::session::{Pushed, Reached};

/// How far one push has come.
#[derive(Debug)]
pub struct Quest {
    stage: Stage,
    /// It only asks who is there: the first that knows has answered it.
    looks: bool,
    /// A look may follow a gift that came to nothing.
    may_look: bool,
}

#[derive(Debug)]
enum Stage {
    /// Nodes are asked whether they have the client.
    Looking {
        open: Vec<Key>,
        doubts: Doubts,
        found: Option<Found>,
    },
    /// One has the push.
    Giving { to: Key },
    /// All have it, and say whom they have reached.
    Spreading { open: Vec<Key>, reached: Reached },
}

/// The node that has the client, and for how long.
#[derive(Debug)]
struct Found {
    node: Key,
    seconds: f64,
}

/// Nodes that may have the client, for all we know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doubts {
    /// They did not answer, or can't be asked.
    pub silent: usize,
    /// They answered as no node should: 403, say.
    pub strange: usize,
}

/// What became of a question to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Answer {
        status: u16,
        body: Box<str>,
    },
    /// Nobody listens there, so it has no clients either.
    Refused,
    /// It can't have heard the question.
    Unheard,
    /// It may have, and did not answer.
    Silent,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Wait for the others.
    Wait,
    /// Wait for the others, but no longer than a moment: one has the client.
    Hurry,
    /// Give the push to this node.
    Give(Key),
    /// Forget who was thought to have the client, and [`look`](Quest::look) for him.
    Look,
    /// It is over.
    Done(Outcome, Pushed),
}

/// How it ended, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A node has done what was wanted.
    Done,
    /// A node that has the client did not do it.
    Refused,
    /// Nobody has the client.
    Unknown,
    /// Nobody that could be asked has the client.
    Unasked,
    /// A node got it, and did not say what became of it.
    Unsure,
    /// Too many others are under way.
    Full,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Outcome; 6] = [
        Outcome::Done,
        Outcome::Refused,
        Outcome::Unknown,
        Outcome::Unasked,
        Outcome::Unsure,
        Outcome::Full,
    ];

    /// The word for it in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Refused => "refused",
            Outcome::Unknown => "unknown",
            Outcome::Unasked => "unasked",
            Outcome::Unsure => "unsure",
            Outcome::Full => "full",
        }
    }
}

impl Quest {
    /// A push for a client whose node is not known: to be [looked](Quest::look) for.
    pub fn new(looks: bool) -> Quest {
        let stage = Stage::Looking {
            open: Vec::new(),
            doubts: Doubts::default(),
            found: None,
        };
        Quest {
            stage,
            looks,
            may_look: false,
        }
    }

    /// A push for a client who was at this node a moment ago.
    pub fn guess(to: Key) -> Quest {
        Quest {
            stage: Stage::Giving { to },
            looks: false,
            may_look: true,
        }
    }

    /// All these nodes are asked whether they have the client; some can't be.
    pub fn look(&mut self, open: Vec<Key>, doubts: Doubts) -> Step {
        self.may_look = false;
        let found = None;
        self.stage = Stage::Looking {
            open,
            doubts,
            found,
        };
        self.settle()
    }

    /// A broadcast, which all these nodes get; some can't be asked.
    pub fn spread(&mut self, open: Vec<Key>, doubts: Doubts) -> Step {
        let reached = Reached {
            unasked: (doubts.silent + doubts.strange) as u64,
            ..Reached::default()
        };
        self.stage = Stage::Spreading { open, reached };
        self.settle()
    }

    /// What a node has said.
    pub fn on(&mut self, node: Key, said: Said) -> Step {
        match &mut self.stage {
            Stage::Giving { to } if *to == node => self.on_given(said),
            Stage::Giving { .. } => Step::Wait,
            Stage::Looking {
                open,
                doubts,
                found,
            } => {
                let Some(place) = open.iter().position(|one| *one == node) else {
                    return Step::Wait;
                };
                open.swap_remove(place);
                match said {
                    Said::Answer { status: 200, body } if self.looks => {
                        return Step::Done(Outcome::Done, answer(200, true, body));
                    }
                    Said::Answer { status: 200, body } => {
                        let seconds = connected_seconds(&body);
                        // Of two, the one that the client came to last: the other has not noticed
                        // yet that he is gone.
                        if found.as_ref().is_none_or(|best| seconds < best.seconds) {
                            *found = Some(Found { node, seconds });
                        }
                    }
                    // 421: it is this node itself.
                    Said::Answer {
                        status: 404 | 421, ..
                    }
                    | Said::Refused => {}
                    Said::Answer { .. } => doubts.strange += 1,
                    Said::Unheard | Said::Silent => doubts.silent += 1,
                }
                self.settle()
            }
            Stage::Spreading { open, reached } => {
                let Some(place) = open.iter().position(|one| *one == node) else {
                    return Step::Wait;
                };
                open.swap_remove(place);
                match said {
                    Said::Answer { status: 200, body } => reached.add(reached_by(&body)),
                    Said::Answer { status: 421, .. } | Said::Refused => {}
                    Said::Answer { .. } | Said::Unheard | Said::Silent => reached.unasked += 1,
                }
                self.settle()
            }
        }
    }

    /// The others have had their moment.
    pub fn hurry(&mut self) -> Step {
        match &mut self.stage {
            Stage::Looking { open, .. } => {
                open.clear();
                self.settle()
            }
            Stage::Giving { .. } | Stage::Spreading { .. } => Step::Wait,
        }
    }

    /// Whether enough is known.
    fn settle(&mut self) -> Step {
        let (open, doubts, found) = match &self.stage {
            Stage::Looking {
                open,
                doubts,
                found,
            } => (open, doubts, found),
            Stage::Spreading { open, reached } if open.is_empty() => {
                let outcome = match reached.unasked {
                    0 => Outcome::Done,
                    _ => Outcome::Unasked,
                };
                return Step::Done(outcome, Pushed::Reached(*reached));
            }
            Stage::Giving { .. } | Stage::Spreading { .. } => return Step::Wait,
        };
        match found {
            _ if !open.is_empty() && found.is_none() => Step::Wait,
            Some(_) if !open.is_empty() => Step::Hurry,
            Some(found) => {
                let to = found.node;
                self.stage = Stage::Giving { to };
                Step::Give(to)
            }
            None if *doubts == Doubts::default() => Step::Done(Outcome::Unknown, Pushed::Unknown),
            None => Step::Done(Outcome::Unasked, answer(503, false, doubts.text())),
        }
    }

    fn on_given(&mut self, said: Said) -> Step {
        match said {
            // It said so: the client has left it. If he has gone to another, a look finds him.
            Said::Answer {
                status: 404 | 421, ..
            }
            | Said::Refused
                if self.may_look =>
            {
                Step::Look
            }
            // It knew the client a moment ago, and everybody else did not.
            Said::Answer {
                status: 404 | 421, ..
            }
            | Said::Refused => Step::Done(Outcome::Unknown, Pushed::Unknown),
            Said::Answer { status, body } => {
                let outcome = match status {
                    200..=299 => Outcome::Done,
                    _ => Outcome::Refused,
                };
                let status = match status {
                    // Ours to mend, and not the API's: a wrong token.
                    401 | 403 => 503,
                    status => status,
                };
                Step::Done(outcome, answer(status, false, body))
            }
            Said::Unheard if self.may_look => Step::Look,
            Said::Unheard => {
                let text = "the node that has the client can't be reached; nothing was sent\n";
                Step::Done(Outcome::Unasked, answer(503, false, text.into()))
            }
            Said::Silent => {
                let text = "the node that has the client did not answer: the message may have \
                            been delivered\n";
                Step::Done(Outcome::Unsure, answer(504, false, text.into()))
            }
        }
    }
}

impl Doubts {
    fn text(self) -> Box<str> {
        let Doubts { silent, strange } = self;
        let nodes = |count: usize| match count {
            1 => "1 node".to_owned(),
            count => format!("{count} nodes"),
        };
        let silent = (silent > 0).then(|| format!("{} could not be asked", nodes(silent)));
        let strange = (strange > 0).then(|| format!("{} would not say", nodes(strange)));
        let parts: Vec<String> = silent.into_iter().chain(strange).collect();
        let parts = parts.join(" and ");
        format!("not connected here, and {parts}: the client may be there\n").into()
    }
}

/// What whoever pushed is told.
pub fn answer(status: u16, json: bool, body: Box<str>) -> Pushed {
    Pushed::Elsewhere { status, json, body }
}

/// Whom a node has reached, as its answer to a broadcast says.
pub fn reached_by(body: &str) -> Reached {
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let count = |name: &str| json[name].as_u64().unwrap_or(0);
    Reached {
        clients: count("clients"),
        slow: count("slow"),
        unasked: count("unasked_nodes"),
    }
}

/// How long a node has had a client, as its answer to a look says.
fn connected_seconds(body: &str) -> f64 {
    let json = serde_json::from_str::<serde_json::Value>(body);
    let seconds = json
        .ok()
        .and_then(|json| json["connected_seconds"].as_f64());
    seconds.unwrap_or(f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(index: u32) -> Key {
        let generation = 1;
        Key { index, generation }
    }

    fn said(status: u16) -> Said {
        let body = "".into();
        Said::Answer { status, body }
    }

    fn has(seconds: f64) -> Said {
        let body = format!("{{\"connected_seconds\":{seconds}}}").into();
        Said::Answer { status: 200, body }
    }

    /// The first letter of a step, and a number with it.
    fn told(step: &Step) -> String {
        match step {
            Step::Wait => "wait".into(),
            Step::Hurry => "hurry".into(),
            Step::Give(to) => format!("give {}", to.index),
            Step::Look => "look".into(),
            Step::Done(outcome, Pushed::Unknown) => format!("{} 404", outcome.name()),
            Step::Done(outcome, Pushed::Elsewhere { status, .. }) => {
                format!("{} {status}", outcome.name())
            }
            Step::Done(_, other) => panic!("{other:?}"),
        }
    }

    /// Nodes 0 to 2 are asked, and so many more can't be: what each says, and the steps.
    #[test]
    fn a_look_comes_to_what_all_nodes_together_say() {
        use Said::{Refused, Silent, Unheard};
        type Row<'a> = (usize, [Said; 3], [&'a str; 3]);
        let rows: [Row<'_>; 12] = [
            (
                0,
                [said(404), said(404), said(404)],
                ["wait", "wait", "unknown 404"],
            ),
            (
                0,
                [said(404), Refused, said(421)],
                ["wait", "wait", "unknown 404"],
            ),
            (
                1,
                [said(404), Refused, said(404)],
                ["wait", "wait", "unasked 503"],
            ),
            (
                0,
                [Silent, said(404), said(404)],
                ["wait", "wait", "unasked 503"],
            ),
            (
                0,
                [said(404), said(404), Unheard],
                ["wait", "wait", "unasked 503"],
            ),
            (
                0,
                [said(503), said(404), said(404)],
                ["wait", "wait", "unasked 503"],
            ),
            (
                0,
                [said(404), said(403), said(404)],
                ["wait", "wait", "unasked 503"],
            ),
            // Found: what the others do not say does not matter.
            (1, [Silent, said(500), has(7.0)], ["wait", "wait", "give 2"]),
            (
                0,
                [said(404), has(7.0), said(404)],
                ["wait", "hurry", "give 1"],
            ),
            (0, [has(7.0), Silent, Refused], ["hurry", "hurry", "give 0"]),
            // Twice: the client came last to the one that has had it for the shortest time.
            (
                0,
                [has(7.0), has(2.5), said(404)],
                ["hurry", "hurry", "give 1"],
            ),
            (
                0,
                [has(2.5), said(200), has(7.0)],
                ["hurry", "hurry", "give 0"],
            ),
        ];
        for (silent, answers, steps) in rows {
            let mut quest = Quest::new(false);
            let open = [0, 1, 2].map(node).to_vec();
            let doubts = Doubts { silent, strange: 0 };
            let first = quest.look(open, doubts);
            assert_eq!(first, Step::Wait);
            for (at, (answer, step)) in answers.iter().zip(steps).enumerate() {
                let got = quest.on(node(at as u32), answer.clone());
                assert_eq!(told(&got), step, "{answers:?}, answer {at}");
            }
        }
    }

    #[test]
    fn with_nobody_to_ask_it_is_over_at_once() {
        let mut quest = Quest::new(false);
        assert_eq!(told(&quest.look(vec![], Doubts::default())), "unknown 404");
        let silent = Doubts {
            silent: 2,
            strange: 0,
        };
        let Step::Done(Outcome::Unasked, Pushed::Elsewhere { body, .. }) =
            Quest::new(false).look(vec![], silent)
        else {
            panic!("nobody was asked");
        };
        let text = "not connected here, and 2 nodes could not be asked: the client may be there\n";
        assert_eq!(&*body, text);
        let both = Doubts {
            silent: 1,
            strange: 1,
        };
        assert!(
            both.text()
                .contains("1 node could not be asked and 1 node would not say")
        );
    }

    #[test]
    fn a_broadcast_adds_up_whom_all_have_reached() {
        let told = |clients: u64, slow: u64| {
            let body = format!("{{\"clients\":{clients},\"slow\":{slow},\"unasked_nodes\":0}}\n");
            let body = body.into();
            Said::Answer { status: 200, body }
        };
        let rows = [
            ([told(2, 1), told(40, 0), Said::Refused], 0, (42, 1, 0)),
            ([told(2, 0), said(421), Said::Silent], 0, (2, 0, 1)),
            ([said(503), Said::Unheard, told(7, 7)], 2, (7, 7, 4)),
        ];
        for (answers, silent, (clients, slow, unasked)) in rows {
            let mut quest = Quest::new(false);
            let doubts = Doubts { silent, strange: 0 };
            assert_eq!(
                quest.spread([0, 1, 2].map(node).to_vec(), doubts),
                Step::Wait
            );
            let mut last = Step::Wait;
            for (at, answer) in answers.into_iter().enumerate() {
                assert_eq!(last, Step::Wait);
                last = quest.on(node(at as u32), answer);
            }
            let reached = Reached {
                clients,
                slow,
                unasked,
            };
            let outcome = match unasked {
                0 => Outcome::Done,
                _ => Outcome::Unasked,
            };
            assert_eq!(last, Step::Done(outcome, Pushed::Reached(reached)));
        }
    }

    #[test]
    fn a_question_is_answered_by_the_first_that_knows() {
        let mut quest = Quest::new(true);
        quest.look(vec![node(0), node(1)], Doubts::default());
        let Step::Done(Outcome::Done, Pushed::Elsewhere { status, json, body }) =
            quest.on(node(1), has(1.5))
        else {
            panic!("it is known");
        };
        assert_eq!(
            (status, json, &*body),
            (200, true, "{\"connected_seconds\":1.5}")
        );
    }

    #[test]
    fn whoever_is_late_is_left_out_once_one_has_the_client() {
        let mut quest = Quest::new(false);
        quest.look([0, 1, 2].map(node).to_vec(), Doubts::default());
        assert_eq!(quest.on(node(1), has(1.0)), Step::Hurry);
        assert_eq!(quest.hurry(), Step::Give(node(1)));
        // A late answer of another, and one of a stranger, change nothing.
        assert_eq!(quest.on(node(0), has(0.1)), Step::Wait);
        assert_eq!(quest.on(node(9), said(200)), Step::Wait);
        assert_eq!(quest.hurry(), Step::Wait);
        assert_eq!(told(&quest.on(node(1), said(200))), "done 200");
    }

    /// The answer of the node that got the push: of a guess, and of one that was found by a look.
    #[test]
    fn a_push_that_was_given_is_never_given_to_another_in_doubt() {
        let rows = [
            (said(200), "done 200", "done 200"),
            (said(404), "look", "unknown 404"),
            (said(421), "look", "unknown 404"),
            (Said::Refused, "look", "unknown 404"),
            (Said::Unheard, "look", "unasked 503"),
            (Said::Silent, "unsure 504", "unsure 504"),
            (said(503), "refused 503", "refused 503"),
            (said(413), "refused 413", "refused 413"),
            (said(403), "refused 503", "refused 503"),
        ];
        for (answer, of_guess, of_found) in rows {
            let mut guess = Quest::guess(node(0));
            assert_eq!(
                told(&guess.on(node(0), answer.clone())),
                of_guess,
                "{answer:?}"
            );
            let mut found = Quest::new(false);
            found.look(vec![node(0)], Doubts::default());
            assert_eq!(found.on(node(0), has(1.0)), Step::Give(node(0)));
            assert_eq!(
                told(&found.on(node(0), answer.clone())),
                of_found,
                "{answer:?}"
            );
        }
    }

    #[test]
    fn a_wrong_guess_looks_once_and_no_more() {
        let mut quest = Quest::guess(node(0));
        assert_eq!(quest.on(node(0), said(404)), Step::Look);
        assert_eq!(
            quest.look(vec![node(0), node(1)], Doubts::default()),
            Step::Wait
        );
        assert_eq!(quest.on(node(0), said(404)), Step::Wait);
        assert_eq!(quest.on(node(1), has(0.5)), Step::Give(node(1)));
        assert_eq!(told(&quest.on(node(1), said(404))), "unknown 404");
    }
}
