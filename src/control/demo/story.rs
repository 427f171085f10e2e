//! What happened in the demo, told from what the loops count.
//!
//! The loops keep no history for us: a session's row says how often it has failed over, a
//! histogram says how long each hold was, a counter says how many messages were sent again. Two
//! looks a moment apart, and the difference is a move.
//!
//! **Invariant:** every number here is one that a loop counted. Where sessions moved between the
//! same two looks, whose hold was whose can't be known, and the move names all of them.

use std::collections::{HashMap, VecDeque};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::session::Phase;
use crate::shard::stats::{SessionRow, Snapshot};

/// What all loops said within one look.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub rows: Vec<SessionRow>,
    /// Holds that ended: milliseconds and how many, ascending. Above 255 ms within 1 %.
    pub holds: Vec<(u64, u64)>,
    /// Messages sent once more, since the start.
    pub replayed: u64,
    /// Messages that no server has confirmed yet.
    pub journaled: u64,
}

impl Look {
    pub fn new(rows: Vec<SessionRow>, snapshots: &[Snapshot]) -> Look {
        let mut look = Look {
            rows,
            ..Look::default()
        };
        let mut holds = std::collections::BTreeMap::new();
        for snapshot in snapshots {
            for value in recorded(&snapshot.stats.hold) {
                *holds.entry(value.0).or_insert(0) += value.1;
            }
            for tally in &snapshot.stats.pools {
                look.replayed += tally.replayed;
                look.journaled += tally.journaled;
            }
        }
        look.holds = holds.into_iter().collect();
        look
    }

    /// The servers' numbers in [`SessionRow`] count in the order of the configuration.
    pub fn sessions_json(&self, names: &[&'static str]) -> Value {
        let row = |row: &SessionRow| {
            json!({
                "id": format!("{:032x}", row.id),
                "client": row.client.to_string(),
                "path": row.path,
                "server": row.server.and_then(|server| names.get(usize::from(server))),
                "state": row.phase.name(),
                "age_ms": row.age,
                "failovers": row.failovers,
                "messages_up": row.messages_up,
                "messages_down": row.messages_down,
                "journal_bytes": row.journal_bytes,
            })
        };
        self.rows.iter().map(row).collect()
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Killed(&'static str),
    Revived(&'static str),
    Moved(Move),
}

/// Sessions that got another server between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Move {
    pub steps: Vec<Step>,
    /// The shortest and the longest of their holds. `None`: what the loops had counted was not
    /// these sessions' alone.
    pub hold_ms: Option<(u64, u64)>,
    /// Messages sent again, by all of them together.
    pub replayed: u64,
}

/// One session's part in a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub session: u128,
    /// `None`: nobody had looked while it was there.
    pub from: Option<u16>,
    pub to: u16,
}

/// An event with its place in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Counted from 1, never twice.
    pub number: u64,
    /// Milliseconds since the demo began.
    pub at_ms: u64,
    pub event: Event,
}

/// All that happened, the oldest forgotten first; and the latest look.
#[derive(Default)]
pub struct Story {
    pub entries: VecDeque<Entry>,
    pub look: Look,
    told: u64,
    seen: HashMap<u128, Seen>,
    /// Moves whose holds have not been counted yet.
    open: Move,
    /// Failovers in `open`: each has its hold.
    owed: u64,
    /// Holds without their moves, in milliseconds.
    spare: Vec<u64>,
    /// Looks that `open` or `spare` has waited for its other half.
    waited: u32,
    /// Of the messages sent again, those that some move has told of.
    replayed: u64,
}

/// What is remembered of a session between looks.
struct Seen {
    server: Option<u16>,
    failovers: u32,
}

impl Story {
    /// Notes what somebody did.
    pub fn tell(&mut self, at_ms: u64, event: Event) {
        self.told += 1;
        self.entries.push_back(Entry {
            number: self.told,
            at_ms,
            event,
        });
        if self.entries.len() > ENTRIES_MAX {
            self.entries.pop_front();
        }
    }

    /// Takes in the next look, and tells of the moves since the last one.
    pub fn observe(&mut self, at_ms: u64, look: Look) {
        self.spare.extend(new_holds(&self.look.holds, &look.holds));
        for row in &look.rows {
            self.compare(row);
        }
        let live: std::collections::HashSet<u128> = look.rows.iter().map(|row| row.id).collect();
        self.seen.retain(|id, _| live.contains(id));
        self.look = look;
        self.settle(at_ms);
        debug_assert!(self.owed > 0 || self.open.steps.is_empty());
    }

    fn compare(&mut self, row: &SessionRow) {
        // While it is held, a row may name the server that is dialled: not yet its own.
        if !matches!(row.phase, Phase::Open | Phase::Moving) {
            return;
        }
        let now = Seen {
            server: row.server,
            failovers: row.failovers,
        };
        let before = self.seen.insert(row.id, now);
        let failovers = before.as_ref().map_or(0, |seen| seen.failovers);
        if let (Some(to), true) = (row.server, row.failovers > failovers) {
            self.owed += u64::from(row.failovers - failovers);
            self.open.steps.push(Step {
                session: row.id,
                from: before.and_then(|seen| seen.server),
                to,
            });
        }
    }

    /// Joins moves and holds. Rows and counters are asked for one after the other, so either can
    /// be a look ahead; what stays alone longer belongs to a session that ended at that moment.
    fn settle(&mut self, at_ms: u64) {
        if self.owed == 0 && self.spare.is_empty() {
            // A session that was resumed and ended between two looks replayed, too.
            self.replayed = self.look.replayed;
            return;
        }
        let whole = self.spare.len() as u64 == self.owed;
        self.waited += 1;
        if !whole && self.waited < LOOKS_PATIENCE {
            return;
        }
        self.waited = 0;
        let mut holds = std::mem::take(&mut self.spare);
        if !whole {
            holds.clear();
        }
        let steps = std::mem::take(&mut self.open).steps;
        let replayed = self.look.replayed.saturating_sub(self.replayed);
        self.replayed = self.look.replayed;
        self.owed = 0;
        if !steps.is_empty() {
            let span = holds.iter().min().copied().zip(holds.iter().max().copied());
            let event = Event::Moved(Move {
                steps,
                hold_ms: span,
                replayed,
            });
            self.tell(at_ms, event);
        }
    }
}

impl Entry {
    /// As the page reads it.
    pub fn json(&self, names: &[&'static str]) -> Value {
        let name = |server: u16| names.get(usize::from(server)).copied();
        let mut value = json!({"number": self.number, "at_ms": self.at_ms});
        let more = match &self.event {
            Event::Killed(server) => json!({"kind": "killed", "server": server}),
            Event::Revived(server) => json!({"kind": "revived", "server": server}),
            Event::Moved(moved) => {
                let step = |step: &Step| {
                    json!({
                        "session": format!("{:032x}", step.session),
                        "from": step.from.and_then(name),
                        "to": name(step.to),
                    })
                };
                json!({
                    "kind": "moved",
                    "sessions": moved.steps.iter().map(step).collect::<Vec<_>>(),
                    "hold_ms_min": moved.hold_ms.map(|span| span.0),
                    "hold_ms": moved.hold_ms.map(|span| span.1),
                    "replayed": moved.replayed,
                })
            }
        };
        if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
            value.extend(more);
        }
        value
    }
}

/// The values of a histogram with their counts, ascending.
fn recorded(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram
        .iter_recorded()
        .map(|value| (value.value_iterated_to(), value.count_at_value()))
        .collect()
}

/// The values that were added between two looks at the same histogram.
fn new_holds(before: &[(u64, u64)], after: &[(u64, u64)]) -> Vec<u64> {
    let before: HashMap<u64, u64> = before.iter().copied().collect();
    let mut new = Vec::new();
    for (value, count) in after {
        let old = before.get(value).copied().unwrap_or(0);
        let added = count.saturating_sub(old).min(SPARE_MAX);
        new.extend(std::iter::repeat_n(*value, added as usize));
    }
    new
}

/// Entries that are kept: an hour of a busy finger.
const ENTRIES_MAX: usize = 500;

/// Looks after which a half that is alone is told or dropped as it is: three tenths of a second.
const LOOKS_PATIENCE: u32 = 3;

/// Holds of one length that one look takes in: more sessions than a demo ever has.
const SPARE_MAX: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u128, phase: Phase, server: Option<u16>, failovers: u32) -> SessionRow {
        SessionRow {
            id,
            client: "127.0.0.1:9".parse().unwrap(),
            path: "/demo/x".into(),
            pool: Some(0),
            server,
            phase,
            age: 5,
            failovers,
            messages_up: 1,
            messages_down: 2,
            journal_bytes: 3,
            confirmed: 3,
            has_client: true,
            waiting: None,
        }
    }

    fn look(rows: Vec<SessionRow>, holds: &[(u64, u64)], replayed: u64) -> Look {
        Look {
            rows,
            holds: holds.to_vec(),
            replayed,
            journaled: 0,
        }
    }

    fn moves(story: &Story) -> Vec<Move> {
        let moved = |entry: &Entry| match &entry.event {
            Event::Moved(moved) => Some(moved.clone()),
            Event::Killed(_) | Event::Revived(_) => None,
        };
        story.entries.iter().filter_map(moved).collect()
    }

    fn step(session: u128, from: Option<u16>, to: u16) -> Step {
        Step { session, from, to }
    }

    #[test]
    fn a_session_that_waits_and_moves() {
        let mut story = Story::default();
        story.observe(0, look(vec![row(7, Phase::Open, Some(0), 0)], &[], 0));
        // Held: the dialled server is not its own yet.
        story.observe(100, look(vec![row(7, Phase::Held, Some(0), 1)], &[], 0));
        story.observe(200, look(vec![row(7, Phase::Held, Some(1), 1)], &[], 0));
        assert_eq!(moves(&story), []);
        story.observe(
            300,
            look(vec![row(7, Phase::Open, Some(1), 1)], &[(210, 1)], 3),
        );
        let moved = Move {
            steps: vec![step(7, Some(0), 1)],
            hold_ms: Some((210, 210)),
            replayed: 3,
        };
        assert_eq!(moves(&story), [moved]);
        assert_eq!((story.entries[0].number, story.entries[0].at_ms), (1, 300));
        story.observe(
            400,
            look(vec![row(7, Phase::Open, Some(1), 1)], &[(210, 1)], 3),
        );
        assert_eq!(moves(&story).len(), 1, "told once");
    }

    #[test]
    fn numbers_that_come_a_look_later_still_find_their_move() {
        for rows_first in [true, false] {
            let mut story = Story::default();
            let (old, new) = (
                row(7, Phase::Open, Some(0), 0),
                row(7, Phase::Open, Some(1), 1),
            );
            story.observe(0, look(vec![old.clone()], &[(5, 1)], 9));
            story.observe(100, look(vec![old.clone()], &[(5, 1)], 9));
            story.observe(200, look(vec![old.clone()], &[(5, 1)], 9));
            story.observe(300, look(vec![old.clone()], &[(5, 1)], 9));
            assert_eq!(
                moves(&story),
                [],
                "a hold before the first look is nobody's"
            );
            let half = match rows_first {
                true => look(vec![new.clone()], &[(5, 1)], 9),
                false => look(vec![old], &[(5, 2)], 10),
            };
            story.observe(400, half);
            assert_eq!(moves(&story), [], "rows first: {rows_first}");
            story.observe(500, look(vec![new], &[(5, 2)], 10));
            let moved = Move {
                steps: vec![step(7, Some(0), 1)],
                hold_ms: Some((5, 5)),
                replayed: 1,
            };
            assert_eq!(moves(&story), [moved], "rows first: {rows_first}");
            assert_eq!((story.owed, story.waited), (0, 0));
        }
    }

    #[test]
    fn sessions_that_moved_together_are_told_together() {
        let mut story = Story::default();
        let rows = |server, failovers| {
            vec![
                row(1, Phase::Open, Some(server), failovers),
                row(2, Phase::Open, Some(server), failovers),
            ]
        };
        story.observe(0, look(rows(1, 0), &[], 0));
        story.observe(100, look(rows(0, 1), &[(1, 1), (4, 1)], 11));
        let moved = Move {
            steps: vec![step(1, Some(1), 0), step(2, Some(1), 0)],
            hold_ms: Some((1, 4)),
            replayed: 11,
        };
        assert_eq!(moves(&story), [moved]);
        // Both back, one of them through two failovers between the looks.
        let back = vec![
            row(1, Phase::Open, Some(1), 2),
            row(2, Phase::Open, Some(0), 3),
        ];
        story.observe(200, look(back, &[(1, 2), (4, 2), (9, 1)], 12));
        assert_eq!(moves(&story)[1].hold_ms, Some((1, 9)));
        assert_eq!(moves(&story)[1].replayed, 1);
        assert_eq!(moves(&story)[1].steps[1], step(2, Some(0), 0));
    }

    #[test]
    fn a_half_that_stays_alone_is_not_given_to_another() {
        let mut story = Story::default();
        story.observe(0, look(vec![row(1, Phase::Open, Some(0), 0)], &[], 0));
        // A session came, was held and left between two looks.
        for at in 1..=3 {
            story.observe(
                at * 100,
                look(vec![row(1, Phase::Open, Some(0), 0)], &[(900, 1)], 5),
            );
        }
        story.observe(
            400,
            look(vec![row(1, Phase::Open, Some(0), 0)], &[(900, 1)], 5),
        );
        story.observe(
            500,
            look(
                vec![row(1, Phase::Open, Some(1), 1)],
                &[(2, 1), (900, 1)],
                6,
            ),
        );
        assert_eq!(moves(&story)[0].hold_ms, Some((2, 2)));
        assert_eq!(moves(&story)[0].replayed, 1);
        // And a move whose hold nobody counted says so.
        for at in 6..=8 {
            let rows = vec![row(1, Phase::Open, Some(0), 2)];
            story.observe(at * 100, look(rows, &[(2, 1), (900, 1)], 6));
        }
        assert_eq!(moves(&story)[1].hold_ms, None);
    }

    #[test]
    fn a_look_sums_all_loops_and_json_says_it() {
        let mut snapshots = Vec::new();
        for shard in 0..2 {
            let mut stats = crate::shard::stats::Stats::new(1, 2);
            stats.hold.record(40 + shard as u64).unwrap();
            stats.hold.record(40).unwrap();
            stats.tally(Some(0)).replayed = 3;
            stats.tally(Some(0)).journaled = 1;
            snapshots.push(Snapshot {
                shard,
                stats,
                clients: 0,
                upstreams: 0,
                timers: 0,
                buffer_bytes: 0,
                kept_bytes: 0,
                tripped: vec![],
                healthy: vec![],
            });
        }
        let look = Look::new(vec![row(255, Phase::Held, None, 1)], &snapshots);
        assert_eq!(look.holds, [(40, 3), (41, 1)]);
        assert_eq!((look.replayed, look.journaled), (6, 2));
        let value = look.sessions_json(&["alpha", "beta"]);
        assert_eq!(value[0]["id"], "000000000000000000000000000000ff");
        assert_eq!(value[0]["server"], Value::Null);
        assert_eq!(value[0]["state"], "held");
        let mut story = Story::default();
        story.tell(5, Event::Killed("alpha"));
        let moved = Move {
            steps: vec![step(255, Some(0), 1)],
            hold_ms: Some((1, 2)),
            replayed: 4,
        };
        story.tell(6, Event::Moved(moved));
        assert_eq!(
            story.entries[0].json(&["alpha", "beta"]),
            json!({"number": 1, "at_ms": 5, "kind": "killed", "server": "alpha"})
        );
        let value = story.entries[1].json(&["alpha", "beta"]);
        assert_eq!(value["sessions"][0]["from"], "alpha");
        assert_eq!(value["sessions"][0]["to"], "beta");
        assert_eq!(
            (&value["hold_ms"], &value["replayed"]),
            (&json!(2), &json!(4))
        );
    }

    #[test]
    fn it_forgets_the_oldest() {
        let mut story = Story::default();
        for at in 0..ENTRIES_MAX as u64 + 3 {
            story.tell(at, Event::Revived("beta"));
        }
        assert_eq!(story.entries.len(), ENTRIES_MAX);
        assert_eq!(story.entries[0].number, 4);
    }
}
