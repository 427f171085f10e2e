//! What a run found out: a line for each second, what became of the pushes, and whether it was met.

use super::client::Seen;
use super::judge::{Arrival, Book, Fate, Place, Push, Slack, Span, Verdict};
use super::marks::Mark;
use super::pushes::Sent;
use super::{Home, Plan};
use crate::reasons::Reasons;
use crate::run::Measured;
use crate::units::{grouped, latency, nanos};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt;

#[derive(Serialize)]
pub struct Report {
    clients: u32,
    client_threads: usize,
    fronts: usize,
    nodes: usize,
    rate: f64,
    connect_seconds: f64,
    connect_p50_us: f64,
    connect_p99_us: f64,
    opened: u64,
    connect_failed: u64,
    /// Connections that were lost near a mark, and others.
    lost_near_marks: u64,
    lost_otherwise: u64,
    connected_at_the_end: u64,
    pushes: u64,
    /// Sent to another node, because the first one took no connection.
    sent_elsewhere: u64,
    fates: Vec<Row>,
    marks: Vec<Upset>,
    parts: Vec<Part>,
    seconds: Vec<Second>,
    /// Of the tool itself: late by, and cores in use.
    lateness_p99_us: f64,
    lateness_max_us: f64,
    own_cores: f64,
    reasons: Reasons,
    pub checks: Vec<Check>,
}

/// How many pushes had a fate, by where their clients were.
#[derive(Serialize)]
struct Row {
    fate: &'static str,
    steady: u64,
    moving: u64,
    nowhere: u64,
}

/// A mark, and whom it disturbed.
#[derive(Serialize)]
struct Upset {
    second: f64,
    text: String,
    clients_lost: u64,
    /// Until the last of them was connected again.
    seconds_until_back: Option<f64>,
}

/// The time between two marks.
#[derive(Serialize)]
struct Part {
    since: String,
    seconds: f64,
    pushes: u64,
    faults: u64,
    /// Of steady clients: until a push was answered, and until its client had it.
    answer: Times,
    message: Times,
    /// Of ids that are nowhere, until the 404.
    nowhere: Times,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Times {
    count: u64,
    p50: u64,
    p99: u64,
    max: u64,
}

#[derive(Default, Serialize)]
struct Second {
    second: u64,
    connected: u64,
    pushes: u64,
    delivered: u64,
    nowhere: u64,
    /// For clients that came or went.
    moving: u64,
    /// Cut and unsent ones that a mark excuses.
    excused: u64,
    faults: u64,
    answer: Times,
    message: Times,
}

/// What had to be met.
#[derive(Serialize)]
pub struct Check {
    pub met: bool,
    pub what: String,
    pub found: String,
}

impl Report {
    pub fn new(plan: &Plan, parts: Vec<Home>, measured: &Measured) -> Self {
        let (mut seen, mut sent) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Home::Seen(one) => seen.push(one),
                Home::Sent(one) => sent.push(one),
            }
        }
        let seen = sum_seen(seen);
        let (book, sent) = make_book(plan, seen.arrivals, seen.spans, sent);
        let start = book.pushes.first().map_or(0, |push| push.due);
        let end = start + plan.shape.duration.map_or(0, nanos) + nanos(plan.warmup());
        let mut count = Count::new(start, &sent.marks, end, nanos(plan.warmup()));
        for verdict in book.verdicts() {
            count.see(&verdict, &book);
        }
        count.close_second(&book);
        let (near, far) = book.ended();
        let mut reasons = seen.reasons;
        reasons.add(&sent.reasons);
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let mut report = Self {
            clients: plan.clients.total,
            client_threads: plan.clients.threads,
            fronts: plan.fronts.len(),
            nodes: plan.nodes.len(),
            rate: plan.rate,
            connect_seconds: measured.connect_seconds,
            connect_p50_us: micros(seen.connect.value_at_quantile(0.5)),
            connect_p99_us: micros(seen.connect.value_at_quantile(0.99)),
            opened: seen.opened,
            connect_failed: seen.connect_failed,
            lost_near_marks: near,
            lost_otherwise: far,
            connected_at_the_end: book.connected(u64::MAX - 1),
            pushes: book.pushes.len() as u64,
            sent_elsewhere: sent.refused,
            fates: count.rows(),
            marks: upsets(&sent.marks, start, &book),
            parts: count.parts(),
            seconds: count.seconds,
            lateness_p99_us: micros(sent.lateness.value_at_quantile(0.99)),
            lateness_max_us: micros(sent.lateness.max()),
            own_cores: (measured.cpu).map_or(0.0, |(user, system)| {
                (user + system) / measured.window_seconds
            }),
            reasons,
            checks: Vec::new(),
        };
        report.check(seen.damaged + book.strays(), plan);
        report
    }

    pub fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.met)
    }

    fn check(&mut self, damaged: u64, plan: &Plan) {
        let mut checks = Vec::new();
        let mut none = |what: &str, found: u64| {
            checks.push(Check {
                met: found == 0,
                what: what.to_string(),
                found: grouped(found),
            });
        };
        let all = |row: &Row| row.steady + row.moving + row.nowhere;
        let row = |fate: Fate| {
            let row = self.fates.iter().find(|row| row.fate == word(fate));
            row.expect("each fate has a row")
        };
        none("200, but never came (lost)", row(Fate::Lost).steady);
        none("came more than once", all(row(Fate::Twice)));
        none(
            "came, though the answer was 404 or 503",
            all(row(Fate::Denied)),
        );
        none("came to another client", all(row(Fate::Astray)));
        none(
            "404 for a client that was there",
            row(Fate::NotFound).steady,
        );
        none("503 for a client that was there", row(Fate::Refused).steady);
        none("200 for an id that is nowhere", row(Fate::Lost).nowhere);
        none("503 for an id that is nowhere", row(Fate::Refused).nowhere);
        none("no answer", all(row(Fate::Silent)));
        none("other answers", all(row(Fate::Odd)));
        let excused: u64 = self.seconds.iter().map(|second| second.excused).sum();
        let cut = all(row(Fate::Cut)) + all(row(Fate::Unsent)) - excused;
        none(
            "cut, 502, 504 or unsent, though nothing was done to a node",
            cut,
        );
        none(
            "connections lost, though nothing was done to a node",
            self.lost_otherwise,
        );
        none("damaged messages, or of no push", damaged);
        let away = u64::from(self.clients).saturating_sub(self.connected_at_the_end);
        none("clients that are away at the end", away);
        if let Some(limit) = plan.p99.map(nanos) {
            for part in &self.parts {
                for (what, times) in [
                    ("answer", part.answer),
                    ("message", part.message),
                    ("404", part.nowhere),
                ] {
                    if times.count > 0 {
                        checks.push(Check {
                            met: times.p99 <= limit,
                            what: format!("p99 until the {what} since {:?}", part.since),
                            found: format!("{} of {}", latency(times.p99), latency(limit)),
                        });
                    }
                }
            }
        }
        self.checks = checks;
    }
}

/// Sums over verdicts, which come in the order in which they were due.
struct Count {
    start: u64,
    rows: Vec<(Fate, [u64; 3])>,
    parts: Vec<Open>,
    /// Latency counts from here on.
    counts_from: u64,
    now: Second,
    answers: Vec<u64>,
    messages: Vec<u64>,
    seconds: Vec<Second>,
}

/// A part while it is counted.
struct Open {
    since: String,
    from: u64,
    until: u64,
    pushes: u64,
    faults: u64,
    answer: Histogram<u64>,
    message: Histogram<u64>,
    nowhere: Histogram<u64>,
}

impl Count {
    fn new(start: u64, marks: &[Mark], end: u64, warmup: u64) -> Self {
        let within = marks.iter().filter(|mark| (start..end).contains(&mark.at));
        let mut parts = vec![Open::new("the start", start)];
        for mark in within {
            let last = parts.last_mut().expect("there is one from the start");
            last.until = mark.at;
            parts.push(Open::new(&mark.text, mark.at));
        }
        parts.last_mut().expect("there is one from the start").until = end;
        Self {
            start,
            rows: FATES.iter().map(|fate| (*fate, [0; 3])).collect(),
            parts,
            counts_from: start + warmup,
            now: Second::default(),
            answers: Vec::new(),
            messages: Vec::new(),
            seconds: Vec::new(),
        }
    }

    fn see(&mut self, verdict: &Verdict, book: &Book) {
        let second = (verdict.due - self.start) / SECOND;
        while self.now.second < second {
            self.close_second(book);
        }
        let row = self.rows.iter_mut().find(|(fate, _)| *fate == verdict.fate);
        row.expect("each fate has a row").1[verdict.place as usize] += 1;
        let part = self.parts.iter_mut().rfind(|part| part.from <= verdict.due);
        let part = part.expect("the first begins at the start");
        let fault = verdict.is_fault();
        self.now.pushes += 1;
        part.pushes += 1;
        part.faults += u64::from(fault);
        match (verdict.place, verdict.fate) {
            _ if fault => self.now.faults += 1,
            (_, Fate::Cut | Fate::Unsent) => self.now.excused += 1,
            (Place::Steady, _) => self.now.delivered += 1,
            (Place::Moving, _) => self.now.moving += 1,
            (Place::Nowhere, _) => self.now.nowhere += 1,
        }
        if verdict.due < self.counts_from || verdict.place == Place::Moving {
            return;
        }
        let took = |at: Option<u64>| at.map(|at| at.saturating_sub(verdict.due));
        if let Some(time) = took(verdict.answered) {
            let steady = verdict.place == Place::Steady;
            let histogram = if steady {
                &mut part.answer
            } else {
                &mut part.nowhere
            };
            histogram.saturating_record(time);
            self.answers.push(time);
        }
        if let Some(time) = took(verdict.arrived) {
            part.message.saturating_record(time);
            self.messages.push(time);
        }
    }

    fn close_second(&mut self, book: &Book) {
        let second = self.now.second;
        let mut closed = std::mem::take(&mut self.now);
        closed.connected = book.connected(self.start + (second + 1) * SECOND);
        closed.answer = Times::of(&mut self.answers);
        closed.message = Times::of(&mut self.messages);
        self.seconds.push(closed);
        self.now.second = second + 1;
    }

    fn rows(&self) -> Vec<Row> {
        let row = |(fate, [steady, moving, nowhere]): &(Fate, [u64; 3])| Row {
            fate: word(*fate),
            steady: *steady,
            moving: *moving,
            nowhere: *nowhere,
        };
        self.rows.iter().map(row).collect()
    }

    fn parts(&self) -> Vec<Part> {
        let part = |open: &Open| Part {
            since: open.since.clone(),
            seconds: open.until.saturating_sub(open.from) as f64 / 1e9,
            pushes: open.pushes,
            faults: open.faults,
            answer: Times::from(&open.answer),
            message: Times::from(&open.message),
            nowhere: Times::from(&open.nowhere),
        };
        self.parts.iter().map(part).collect()
    }
}

impl Open {
    fn new(since: &str, from: u64) -> Self {
        Self {
            since: since.to_string(),
            from,
            until: from,
            pushes: 0,
            faults: 0,
            answer: histogram(),
            message: histogram(),
            nowhere: histogram(),
        }
    }
}

impl Times {
    /// Empties the list.
    fn of(times: &mut Vec<u64>) -> Self {
        times.sort_unstable();
        // The first that no more than the rest of a hundred is above.
        let at = |share: usize| {
            let place = (times.len() * share).div_ceil(100);
            times.get(place.saturating_sub(1)).copied().unwrap_or(0)
        };
        let found = Self {
            count: times.len() as u64,
            p50: at(50),
            p99: at(99),
            max: at(100),
        };
        times.clear();
        found
    }

    fn from(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            max: histogram.max(),
        }
    }
}

fn sum_seen(seen: Vec<Seen>) -> Seen {
    let mut sum = Seen::new();
    for one in seen {
        sum.arrivals.extend(one.arrivals);
        sum.spans.extend(one.spans);
        sum.damaged += one.damaged;
        sum.opened += one.opened;
        sum.connect_failed += one.connect_failed;
        sum.connect.add(&one.connect).expect("the same bounds");
        sum.reasons.add(&one.reasons);
    }
    sum
}

/// Brings the pushes of all threads into the order of their numbers.
fn make_book(
    plan: &Plan,
    arrivals: Vec<Arrival>,
    spans: Vec<Span>,
    sent: Vec<Sent>,
) -> (Book, Sent) {
    let most = sent.iter().map(|one| one.pushes.len()).max().unwrap_or(0);
    let mut pushes: Vec<Push> = Vec::with_capacity(most * sent.len());
    // Each thread sends all of its own, so that only the last round can have gaps, at its end.
    for place in 0..most {
        pushes.extend(sent.iter().filter_map(|one| one.pushes.get(place)));
    }
    let mut sum = Sent {
        pushes: Vec::new(),
        marks: Vec::new(),
        refused: 0,
        lateness: histogram(),
        reasons: Reasons::default(),
    };
    for one in sent {
        sum.marks.extend(one.marks);
        sum.refused += one.refused;
        sum.lateness.add(&one.lateness).expect("the same bounds");
        sum.reasons.add(&one.reasons);
    }
    let marks = sum.marks.iter().map(|mark| mark.at).collect();
    let slack = Slack {
        margin: nanos(plan.margin),
        settle: nanos(plan.settle),
    };
    (Book::new(pushes, arrivals, spans, marks, slack), sum)
}

fn upsets(marks: &[Mark], start: u64, book: &Book) -> Vec<Upset> {
    let upset = |mark: &Mark| {
        let (clients_lost, back) = book.upset(mark.at);
        Upset {
            second: (mark.at as f64 - start as f64) / 1e9,
            text: mark.text.clone(),
            clients_lost,
            seconds_until_back: back.map(|back| (back - mark.at) as f64 / 1e9),
        }
    };
    marks.iter().map(upset).collect()
}

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX, 3).expect("constant bounds that are valid")
}

fn word(fate: Fate) -> &'static str {
    match fate {
        Fate::Delivered => "delivered once",
        Fate::NotFound => "404",
        Fate::Refused => "503",
        Fate::Lost => "200, never came",
        Fate::Twice => "came twice",
        Fate::Denied => "came in spite of 404 or 503",
        Fate::Astray => "came to another",
        Fate::Cut => "cut, 502 or 504",
        Fate::Silent => "no answer",
        Fate::Unsent => "no node took it",
        Fate::Odd => "other answers",
    }
}

const FATES: [Fate; 11] = [
    Fate::Delivered,
    Fate::NotFound,
    Fate::Refused,
    Fate::Lost,
    Fate::Twice,
    Fate::Denied,
    Fate::Astray,
    Fate::Cut,
    Fate::Silent,
    Fate::Unsent,
    Fate::Odd,
];
const SECOND: u64 = 1_000_000_000;
/// Longer ones count as a minute.
const LATENCY_MAX: u64 = 60_000_000_000;

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_seconds(out)?;
        writeln!(
            out,
            "\nclients      {} on {} threads, {} fronts; all were there after {:.1} s, 101 after {} (p50), {} (p99)",
            grouped(self.clients.into()),
            self.client_threads,
            self.fronts,
            self.connect_seconds,
            latency((self.connect_p50_us * 1e3) as u64),
            latency((self.connect_p99_us * 1e3) as u64),
        )?;
        writeln!(
            out,
            "             lost {} connections near marks, {} otherwise; {} connects failed; {} are there at the end",
            grouped(self.lost_near_marks),
            grouped(self.lost_otherwise),
            grouped(self.connect_failed),
            grouped(self.connected_at_the_end),
        )?;
        for mark in &self.marks {
            let back = match mark.seconds_until_back {
                Some(seconds) => format!("the last was back after {seconds:.1} s"),
                None => "not all came back".to_string(),
            };
            let lost = mark.clients_lost;
            write!(out, "at {:6.1} s  {}: ", mark.second, mark.text)?;
            match lost {
                0 => writeln!(out, "no client lost its connection")?,
                _ => writeln!(
                    out,
                    "{} clients lost their connection, {back}",
                    grouped(lost)
                )?,
            }
        }
        writeln!(
            out,
            "pushes       {} to {} nodes, {:.0} a second; {} had to go to another node than was meant\n",
            grouped(self.pushes),
            self.nodes,
            self.rate,
            grouped(self.sent_elsewhere),
        )?;
        writeln!(
            out,
            "{:28} {:>14} {:>14} {:>14}",
            "pushes for clients that were", "there", "coming, going", "nowhere"
        )?;
        for row in self
            .fates
            .iter()
            .filter(|row| row.steady + row.moving + row.nowhere > 0)
        {
            let (steady, moving) = (grouped(row.steady), grouped(row.moving));
            let nowhere = grouped(row.nowhere);
            writeln!(
                out,
                "{:28} {steady:>14} {moving:>14} {nowhere:>14}",
                row.fate
            )?;
        }
        self.write_parts(out)?;
        writeln!(
            out,
            "\nthis tool    {:.2} cores, late by {} (p99), {} at most",
            self.own_cores,
            latency((self.lateness_p99_us * 1e3) as u64),
            latency((self.lateness_max_us * 1e3) as u64),
        )?;
        for (reason, count) in self.reasons.iter() {
            writeln!(out, "{:>12} x {reason}", grouped(*count))?;
        }
        writeln!(out)?;
        for check in &self.checks {
            let word = if check.met { "ok" } else { "MISSED" };
            writeln!(out, "{word:<7} {}: {}", check.what, check.found)?;
        }
        Ok(())
    }
}

impl Report {
    fn write_seconds(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{:>4} {:>8} {:>7} {:>9} {:>7} {:>6} {:>7} {:>6}  {:>10} {:>10}  {:>10} {:>10} {:>10}",
            "s",
            "clients",
            "pushes",
            "delivered",
            "nowhere",
            "moving",
            "excused",
            "FAULTS",
            "answer p50",
            "p99",
            "msg p50",
            "p99",
            "max"
        )?;
        let mut marks = self.marks.iter().peekable();
        for one in &self.seconds {
            while let Some(mark) = marks.next_if(|mark| mark.second < (one.second + 1) as f64) {
                writeln!(out, "     --- {} ({:.2} s)", mark.text, mark.second)?;
            }
            writeln!(
                out,
                "{:>4} {:>8} {:>7} {:>9} {:>7} {:>6} {:>7} {:>6}  {:>10} {:>10}  {:>10} {:>10} {:>10}",
                one.second,
                one.connected,
                one.pushes,
                one.delivered,
                one.nowhere,
                one.moving,
                one.excused,
                one.faults,
                latency(one.answer.p50),
                latency(one.answer.p99),
                latency(one.message.p50),
                latency(one.message.p99),
                latency(one.message.max),
            )?;
        }
        Ok(())
    }

    fn write_parts(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "\n{:24} {:>7} {:>9} {:>7}  {:>10} {:>10} {:>10}  {:>10} {:>10} {:>10}  {:>10}",
            "since",
            "seconds",
            "pushes",
            "FAULTS",
            "answer p50",
            "p99",
            "max",
            "msg p50",
            "p99",
            "max",
            "404 p99"
        )?;
        for part in &self.parts {
            writeln!(
                out,
                "{:24} {:>7.1} {:>9} {:>7}  {:>10} {:>10} {:>10}  {:>10} {:>10} {:>10}  {:>10}",
                part.since,
                part.seconds,
                grouped(part.pushes),
                grouped(part.faults),
                latency(part.answer.p50),
                latency(part.answer.p99),
                latency(part.answer.max),
                latency(part.message.p50),
                latency(part.message.p99),
                latency(part.message.max),
                latency(part.nowhere.p99),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_numbers_are_numbers_that_were_there() {
        let mut times: Vec<u64> = (1..=200).rev().collect();
        let found = Times::of(&mut times);
        assert_eq!((found.p50, found.p99, found.max), (100, 198, 200));
        assert!(times.is_empty());
        let none = Times::of(&mut times);
        assert_eq!((none.count, none.p99), (0, 0));
    }

    #[test]
    fn each_fate_has_one_row() {
        for fate in FATES {
            let same = FATES.iter().filter(|other| word(**other) == word(fate));
            assert_eq!(same.count(), 1);
        }
    }
}
