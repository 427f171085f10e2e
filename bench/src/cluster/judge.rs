//! What became of a push, worked out when all is over. Threads only write down what they saw; what
//! counts as lost, twice or wrongly refused is decided here, and nothing here knows a socket.

use std::ops::Range;

/// A push, as the thread knows it that sent it. Times are nanoseconds since the start of the run.
#[derive(Clone, Copy, Debug)]
pub struct Push {
    /// `None`: an id that is nowhere.
    pub client: Option<u32>,
    pub due: u64,
    /// When it was answered, or given up.
    pub until: u64,
    pub answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Status(u16),
    /// 200, but not with `ok`, or what is no answer at all.
    Nonsense,
    /// The connection ended while the push was under way: it may have arrived.
    Cut,
    /// The connection lives, and says nothing.
    Silent,
    /// No node took a connection: it was never sent.
    Unsent,
}

/// A message that came to a client.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The push's number.
    pub push: u64,
    pub client: u32,
    pub at: u64,
}

/// A time in which a client was connected: from its 101 until it noticed the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub client: u32,
    pub time: Range<u64>,
}

/// Where a push's client was around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Connected all the time, from well before the push was due until well after its answer.
    Steady,
    /// Connecting, gone, or about to be one of both.
    Moving,
    /// It does not exist.
    Nowhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// 200, and it came once.
    Delivered,
    /// 404, and it did not come.
    NotFound,
    /// 503, and it did not come.
    Refused,
    /// 200, and it never came.
    Lost,
    /// It came more than once.
    Twice,
    /// It came, though the answer was 404 or 503.
    Denied,
    /// It came to somebody else.
    Astray,
    /// A connection was lost before the answer: the pusher's, or, with 502 and 504, the node's to another.
    Cut,
    /// No answer, and no reason for that.
    Silent,
    /// Nobody to send it to.
    Unsent,
    /// Another answer.
    Odd,
}

/// One push's story.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    pub place: Place,
    pub fate: Fate,
    pub due: u64,
    /// When the answer had come, if one came.
    pub answered: Option<u64>,
    /// When its client had it first.
    pub arrived: Option<u64>,
    /// Something was done to the nodes around that time.
    pub disturbed: bool,
}

impl Verdict {
    /// What may not happen, whatever is done to the nodes, but for those cases that `disturbed`
    /// excuses: who lost a connection to a dead node cannot know what it had done.
    pub fn is_fault(&self) -> bool {
        match (self.place, self.fate) {
            (_, Fate::Twice | Fate::Denied | Fate::Astray | Fate::Silent | Fate::Odd) => true,
            (Place::Nowhere, Fate::NotFound) | (_, Fate::Delivered) => false,
            (Place::Nowhere | Place::Steady, Fate::Lost) => true,
            (Place::Steady, Fate::NotFound | Fate::Refused) => true,
            (Place::Nowhere, Fate::Refused) => true,
            (Place::Moving, Fate::Lost | Fate::NotFound | Fate::Refused) => false,
            (_, Fate::Cut | Fate::Unsent) => !self.disturbed,
        }
    }
}

/// All that was seen.
pub struct Book {
    /// By their numbers.
    pub pushes: Vec<Push>,
    arrivals: Vec<Arrival>,
    spans: Vec<Span>,
    /// When something was done to the nodes.
    marks: Vec<u64>,
    slack: Slack,
}

/// How exactly is looked; nanoseconds.
#[derive(Clone, Copy)]
pub struct Slack {
    /// How long before and behind a push a client must have been there to count as steady, and how
    /// late a mark may be.
    pub margin: u64,
    /// How long behind a mark what happens comes of it: a dead process needs a while to close its sockets.
    pub settle: u64,
}

impl Book {
    pub fn new(
        pushes: Vec<Push>,
        mut arrivals: Vec<Arrival>,
        mut spans: Vec<Span>,
        marks: Vec<u64>,
        slack: Slack,
    ) -> Self {
        arrivals.sort_unstable_by_key(|arrival| (arrival.push, arrival.at));
        spans.sort_unstable_by_key(|span| (span.client, span.time.start));
        Self {
            pushes,
            arrivals,
            spans,
            marks,
            slack,
        }
    }

    pub fn verdicts(&self) -> impl Iterator<Item = Verdict> {
        let all = self.pushes.iter().enumerate();
        all.map(|(number, push)| self.judge(number as u64, push))
    }

    /// Messages that name no push.
    pub fn strays(&self) -> u64 {
        let known = self.pushes.len() as u64;
        let strays = self.arrivals.iter().filter(|one| one.push >= known);
        strays.count() as u64
    }

    pub fn is_disturbed(&self, time: Range<u64>) -> bool {
        self.marks.iter().any(|mark| self.reaches(*mark, &time))
    }

    /// Whether something in that time may come of what was done at the mark.
    fn reaches(&self, mark: u64, time: &Range<u64>) -> bool {
        let Slack { margin, settle } = self.slack;
        mark + settle >= time.start && mark <= time.end.saturating_add(margin)
    }

    /// Clients that were connected at that time.
    pub fn connected(&self, at: u64) -> u64 {
        let there = self.spans.iter().filter(|span| span.time.contains(&at));
        there.count() as u64
    }

    /// Connections that ended: near a mark, and while nothing was done to the nodes.
    pub fn ended(&self) -> (u64, u64) {
        let ended = self.spans.iter().filter(|span| span.time.end != u64::MAX);
        let (mut near, mut far) = (0, 0);
        for span in ended {
            let end = span.time.end;
            *(if self.is_disturbed(end..end) {
                &mut near
            } else {
                &mut far
            }) += 1;
        }
        (near, far)
    }

    /// Of the clients that lost their connection around a mark: how many, and when the last of them was
    /// back; `None` if one is not.
    pub fn upset(&self, mark: u64) -> (u64, Option<u64>) {
        let near = |span: &Span| {
            let end = span.time.end;
            end != u64::MAX && self.reaches(mark, &(end..end))
        };
        let (mut upset, mut back) = (0, Some(mark));
        for (place, span) in self.spans.iter().enumerate().filter(|(_, span)| near(span)) {
            upset += 1;
            let next = self.spans.get(place + 1);
            let next = next.filter(|next| next.client == span.client);
            back = back.zip(next).map(|(back, next)| back.max(next.time.start));
        }
        (upset, back)
    }

    fn judge(&self, number: u64, push: &Push) -> Verdict {
        let from = self.arrivals.partition_point(|one| one.push < number);
        let own = &self.arrivals[from..];
        let own = &own[..own.partition_point(|one| one.push == number)];
        let astray = own.iter().any(|one| Some(one.client) != push.client);
        let fate = match (push.answer, own.len()) {
            _ if astray => Fate::Astray,
            (_, 2..) => Fate::Twice,
            (Answer::Status(200), 1) => Fate::Delivered,
            (Answer::Status(200), _) => Fate::Lost,
            (Answer::Status(404 | 503), 1) => Fate::Denied,
            (Answer::Status(404), _) => Fate::NotFound,
            (Answer::Status(503), _) => Fate::Refused,
            // A node that asked another one, which died over it, knows no more than who was cut off.
            (Answer::Cut | Answer::Status(502 | 504), _) => Fate::Cut,
            (Answer::Status(_) | Answer::Nonsense, _) => Fate::Odd,
            (Answer::Silent, _) => Fate::Silent,
            (Answer::Unsent, _) => Fate::Unsent,
        };
        Verdict {
            place: self.place(push),
            fate,
            due: push.due,
            answered: matches!(push.answer, Answer::Status(_)).then_some(push.until),
            arrived: own.first().map(|one| one.at),
            disturbed: self.is_disturbed(push.due..push.until),
        }
    }

    /// A client whose node was killed was on its way out from then on, though it noticed later.
    fn end(&self, span: &Span) -> u64 {
        let end = span.time.end;
        let mut causes = self
            .marks
            .iter()
            .filter(|mark| end != u64::MAX && self.reaches(**mark, &(end..end)));
        causes.next().map_or(end, |mark| end.min(*mark))
    }

    fn place(&self, push: &Push) -> Place {
        let Some(client) = push.client else {
            return Place::Nowhere;
        };
        let margin = self.slack.margin;
        let since = push.due.saturating_sub(margin);
        // The last of its connections that began early enough.
        let next =
            (self.spans).partition_point(|span| (span.client, span.time.start) <= (client, since));
        let span = next.checked_sub(1).map(|last| &self.spans[last]);
        let until = push.until.saturating_add(margin);
        let there = |span: &Span| span.client == client && self.end(span) > until;
        if span.is_some_and(there) {
            Place::Steady
        } else {
            Place::Moving
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Answer = Answer::Status(200);
    const SLACK: Slack = Slack {
        margin: 100,
        settle: 300,
    };

    fn push(client: u32, due: u64, until: u64, answer: Answer) -> Push {
        Push {
            client: Some(client),
            due,
            until,
            answer,
        }
    }

    fn arrival(push: u64, client: u32, at: u64) -> Arrival {
        Arrival { push, client, at }
    }

    fn span(client: u32, time: Range<u64>) -> Span {
        Span { client, time }
    }

    /// Client 1 is there all the time, client 2 comes at 1,000, leaves at 2,000, is back at 3,000.
    fn book(
        pushes: Vec<Push>,
        arrivals: Vec<Arrival>,
        marks: Vec<u64>,
    ) -> Vec<(Place, Fate, bool)> {
        let spans = vec![
            span(2, 3_000..u64::MAX),
            span(1, 0..u64::MAX),
            span(2, 1_000..2_000),
        ];
        let book = Book::new(pushes, arrivals, spans, marks, SLACK);
        let told = |one: Verdict| (one.place, one.fate, one.is_fault());
        book.verdicts().map(told).collect()
    }

    fn one(push: Push, arrivals: &[u64]) -> (Place, Fate, bool) {
        let client = push.client.unwrap_or(1);
        let arrivals = arrivals.iter().map(|at| arrival(0, client, *at)).collect();
        book(vec![push], arrivals, Vec::new())[0]
    }

    #[test]
    fn answers_and_arrivals_make_the_fate_of_a_steady_client() {
        for (answer, arrivals, fate, fault) in [
            (OK, &[520][..], Fate::Delivered, false),
            (OK, &[], Fate::Lost, true),
            (OK, &[520, 530], Fate::Twice, true),
            (Answer::Status(404), &[], Fate::NotFound, true),
            (Answer::Status(404), &[520], Fate::Denied, true),
            (Answer::Status(404), &[520, 530], Fate::Twice, true),
            (Answer::Status(503), &[], Fate::Refused, true),
            (Answer::Status(503), &[520], Fate::Denied, true),
            (Answer::Status(403), &[], Fate::Odd, true),
            (Answer::Status(502), &[520], Fate::Cut, true),
            (Answer::Nonsense, &[520], Fate::Odd, true),
            (Answer::Cut, &[], Fate::Cut, true),
            (Answer::Cut, &[520], Fate::Cut, true),
            (Answer::Cut, &[520, 530], Fate::Twice, true),
            (Answer::Silent, &[], Fate::Silent, true),
            (Answer::Unsent, &[], Fate::Unsent, true),
        ] {
            let found = one(push(1, 500, 510, answer), arrivals);
            assert_eq!(
                found,
                (Place::Steady, fate, fault),
                "{answer:?} {arrivals:?}"
            );
        }
    }

    #[test]
    fn an_id_that_is_nowhere_wants_its_404() {
        for (answer, fate, fault) in [
            (Answer::Status(404), Fate::NotFound, false),
            (OK, Fate::Lost, true),
            (Answer::Status(503), Fate::Refused, true),
        ] {
            let nowhere = Push {
                client: None,
                ..push(0, 500, 510, answer)
            };
            assert_eq!(one(nowhere, &[]), (Place::Nowhere, fate, fault));
        }
        let nowhere = Push {
            client: None,
            ..push(0, 500, 510, OK)
        };
        assert_eq!(one(nowhere, &[520]), (Place::Nowhere, Fate::Astray, true));
    }

    #[test]
    fn a_client_is_steady_with_a_margin_on_both_sides() {
        for (due, until, place) in [
            (500, 510, Place::Moving),
            (1_099, 1_110, Place::Moving),
            (1_100, 1_110, Place::Steady),
            (1_500, 1_899, Place::Steady),
            (1_500, 1_900, Place::Moving),
            (2_500, 2_510, Place::Moving),
            // There at both ends, and gone in between.
            (1_900, 3_200, Place::Moving),
            (3_100, 3_110, Place::Steady),
        ] {
            let found = one(push(2, due, until, OK), &[until]);
            assert_eq!(found, (place, Fate::Delivered, false), "{due}..{until}");
        }
    }

    #[test]
    fn of_a_moving_client_only_lies_and_repeats_are_faults() {
        for (answer, arrivals, fault) in [
            (OK, &[][..], false),
            (Answer::Status(404), &[], false),
            (Answer::Status(503), &[], false),
            (OK, &[2_520, 3_010], true),
            (Answer::Status(404), &[3_010], true),
            (Answer::Silent, &[], true),
        ] {
            let found = one(push(2, 2_500, 2_510, answer), arrivals);
            assert_eq!((found.0, found.2), (Place::Moving, fault), "{answer:?}");
        }
    }

    #[test]
    fn a_mark_excuses_cut_connections_near_it_and_nothing_else() {
        let pushes = vec![
            push(1, 500, 510, Answer::Cut),
            push(1, 500, 510, Answer::Unsent),
            push(1, 500, 510, OK),
            push(1, 500, 510, Answer::Status(404)),
            push(1, 950, 960, Answer::Cut),
        ];
        let faults = |marks| {
            let verdicts = book(pushes.clone(), Vec::new(), marks);
            verdicts.iter().map(|one| one.2).collect::<Vec<_>>()
        };
        assert_eq!(faults(vec![]), [true; 5]);
        assert_eq!(faults(vec![600]), [false, false, true, true, true]);
        assert_eq!(faults(vec![401]), [false, false, true, true, true]);
        assert_eq!(faults(vec![200]), [false, false, true, true, true]);
        assert_eq!(faults(vec![199]), [true; 5]);
        assert_eq!(faults(vec![611]), [true; 5]);
        assert_eq!(faults(vec![700]), [true, true, true, true, false]);
    }

    #[test]
    fn who_was_on_a_dead_node_moves_from_the_mark_on() {
        // Client 2 notices at 2,000 what was done at 1,750.
        let place = |due, marks: &[u64]| {
            let told = book(
                vec![push(2, due, due + 10, Answer::Status(404))],
                vec![],
                marks.to_vec(),
            );
            told[0].0
        };
        assert_eq!(place(1_700, &[]), Place::Steady);
        assert_eq!(place(1_700, &[1_750]), Place::Moving);
        assert_eq!(place(1_600, &[1_750]), Place::Steady);
        assert_eq!(place(1_700, &[1_690]), Place::Steady, "too long ago");
    }

    #[test]
    fn messages_of_others_and_of_nobody_are_noticed() {
        let pushes = vec![push(1, 500, 510, OK), push(1, 500, 510, OK)];
        let arrivals = vec![arrival(1, 2, 520), arrival(0, 1, 520), arrival(7, 1, 1)];
        let found = book(pushes.clone(), arrivals.clone(), Vec::new());
        assert_eq!((found[0].1, found[1].1), (Fate::Delivered, Fate::Astray));
        let book = Book::new(pushes, arrivals, Vec::new(), Vec::new(), SLACK);
        assert_eq!(book.strays(), 1);
    }

    #[test]
    fn ends_count_by_whether_something_was_done_then() {
        let spans = vec![span(1, 0..500), span(2, 0..900), span(3, 0..u64::MAX)];
        let book = Book::new(Vec::new(), Vec::new(), spans, vec![510], SLACK);
        assert_eq!(book.ended(), (1, 1));
        assert_eq!((book.connected(499), book.connected(500)), (3, 2));
        assert_eq!(book.upset(510), (1, None));
        let spans = vec![
            span(1, 0..500),
            span(1, 700..u64::MAX),
            span(2, 0..u64::MAX),
        ];
        let book = Book::new(Vec::new(), Vec::new(), spans, vec![510], SLACK);
        assert_eq!(
            (book.upset(510), book.upset(910)),
            ((1, Some(700)), (0, Some(910)))
        );
    }
}
