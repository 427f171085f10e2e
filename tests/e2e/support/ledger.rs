//! The ledger: whether anything was lost, invented, repeated, reordered or mixed up.
//!
//! Each message says who sent it and carries a checksum; each server logs what it had; each client
//! remembers what it sent and got. [`Checker`] reads all logs once and compares. The letters I1 to
//! I8 name its rules:
//! - I1 what the client sent is in some server's log; I2 nothing else is;
//! - I3 every log is a gap-free run, and begins where the one before ended, or earlier;
//! - I4 what two servers had is no more than was replayed;
//! - I5 the client got from each server a prefix of what that sent, and all of it after a FIN or a
//!   Close, in the servers' order; I6 its Pings are answered; I7 no session sees another's bytes;
//! - I8 a server that was given up gets nothing new: it would show as an overlap that was never
//!   replayed (I4) or as an answer of an earlier server (I5).

use super::crc32c::crc32c;
use super::rng::Rng;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// What one message says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub run: u32,
    pub session: u32,
    pub sequence: u64,
}

/// A message as it goes over the wire: stamp, length, checksum, filling. The text ones are UTF-8.
pub fn compose(stamp: Stamp, text: bool, size: usize) -> Vec<u8> {
    let mut rng = Rng::new(stamp.sequence << 32 | u64::from(stamp.session));
    let mut filling = Vec::with_capacity(size + 8);
    while filling.len() < size {
        let eight = rng.next().to_le_bytes();
        // Every text byte below 0x40 above the space: printable, and never part of a code point.
        filling.extend(eight.map(|byte| if text { 0x20 + (byte & 0x3F) } else { byte }));
    }
    filling.truncate(size);
    let head = head(stamp, filling.len());
    let crc = crc32c(&[head.as_bytes(), &[u8::from(text)], &filling]);
    [head.as_bytes(), format!(" {crc:08x} ").as_bytes(), &filling].concat()
}

fn head(stamp: Stamp, length: usize) -> String {
    format!(
        "W1 {:08x} {} u {} {length}",
        stamp.run, stamp.session, stamp.sequence
    )
}

/// The stamp of a message whose length, type and bytes are what they were.
pub fn verify(bytes: &[u8], text: bool) -> Result<Stamp, String> {
    let broken = || {
        format!(
            "no message of ours: {}",
            bytes[..bytes.len().min(60)].escape_ascii()
        )
    };
    let words: Vec<&[u8]> = bytes.splitn(8, |byte| *byte == b' ').collect();
    let [_, run, session, _, sequence, _, crc, filling] = words[..] else {
        return Err(broken());
    };
    let word = |word: &[u8]| {
        std::str::from_utf8(word)
            .map(str::to_owned)
            .map_err(|_| broken())
    };
    let stamp = Stamp {
        run: u32::from_str_radix(&word(run)?, 16).map_err(|_| broken())?,
        session: word(session)?.parse().map_err(|_| broken())?,
        sequence: word(sequence)?.parse().map_err(|_| broken())?,
    };
    let head = head(stamp, filling.len());
    let found = crc32c(&[head.as_bytes(), &[u8::from(text)], filling]);
    // The head is composed anew, so that its direction and length are under the checksum, too.
    if bytes.starts_with(head.as_bytes()) && format!("{found:08x}").as_bytes() == crc {
        Ok(stamp)
    } else {
        Err(broken())
    }
}

/// What one client did and saw; a client library's word, not the proxy's.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub session: u32,
    /// Messages that the client library accepted, numbered from 0.
    pub accepted: u64,
    /// Per server connection, in the order seen, how many messages came from it.
    pub received: Vec<(String, u64)>,
    /// What the client itself found wrong (I2, I5, I6, I7).
    pub faults: Vec<String>,
    /// The Close that the proxy sent, if it did, and 1006 for an end without one.
    pub closed: Option<u16>,
    /// Its slowest Pong, ms.
    pub pong_ms: u128,
}

/// One fault that a test struck.
#[derive(Clone, Debug)]
pub struct Struck {
    pub what: String,
    /// Whether any message was unconfirmed then: a fault on an empty window proves nothing.
    pub unconfirmed: bool,
}

/// One record of a server's log.
#[derive(Clone, Debug)]
pub enum Record {
    Connection {
        id: String,
        at: u64,
        session: String,
        next: u64,
        reconnect: bool,
    },
    Message {
        connection: String,
        text: bool,
        bytes: Vec<u8>,
    },
    Sent {
        connection: String,
        number: u64,
    },
    End {
        connection: String,
        sent: u64,
    },
    Other(Value),
}

/// All records of a server's log, in order. A torn last record is left out: its server died first.
pub fn records(log: &Path) -> Records {
    let file = std::fs::File::open(log).unwrap_or_else(|why| panic!("{}: {why}", log.display()));
    Records {
        file: BufReader::with_capacity(1 << 18, file),
        whole: 0,
    }
}

/// Cuts off what is left of a record that its server did not live to write: a write of many pages
/// ends where a SIGKILL meets it, and the next server's first record must stand by itself.
pub fn cut_torn(log: &Path) {
    let mut records = records(log);
    records.by_ref().for_each(drop);
    let file = std::fs::OpenOptions::new().write(true).open(log).unwrap();
    file.set_len(records.whole).unwrap();
}

pub struct Records {
    file: BufReader<std::fs::File>,
    /// Bytes of the records that were whole.
    whole: u64,
}

impl Iterator for Records {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let mut line = Vec::new();
        self.file.read_until(b'\n', &mut line).unwrap();
        if line.last() != Some(&b'\n') {
            return None;
        }
        let entry: Value = serde_json::from_slice(&line).expect("a line of JSON");
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| entry[key].as_u64().unwrap_or_default();
        let mut length = line.len();
        let record = match entry["t"].as_str().expect("a kind") {
            "conn" => Record::Connection {
                id: text("conn"),
                at: number("at"),
                session: header(&entry, "x-wsteady-session").unwrap_or_default(),
                next: header(&entry, "x-wsteady-next")
                    .and_then(|n| n.parse().ok())
                    .unwrap_or(0),
                reconnect: header(&entry, "x-balancer-reconnect").is_some(),
            },
            "msg" => {
                let mut bytes = vec![0; number("len") as usize + 1];
                self.file.read_exact(&mut bytes).ok()?;
                length += bytes.len();
                bytes.pop();
                Record::Message {
                    connection: text("conn"),
                    text: number("op") == 1,
                    bytes,
                }
            }
            "sent" => Record::Sent {
                connection: text("conn"),
                number: number("k"),
            },
            "end" => Record::End {
                connection: text("conn"),
                sent: number("k"),
            },
            _ => Record::Other(entry),
        };
        self.whole += length as u64;
        Some(record)
    }
}

/// A request header in a "dial" or "conn" record.
pub fn header(entry: &Value, name: &str) -> Option<String> {
    let headers = entry["headers"].as_array()?;
    let named = |pair: &&Value| {
        pair[0]
            .as_str()
            .is_some_and(|n| n.eq_ignore_ascii_case(name))
    };
    headers
        .iter()
        .find(named)
        .and_then(|pair| pair[1].as_str())
        .map(str::to_owned)
}

/// Reads logs, then judges. One pass: it keeps a few numbers per connection, no message.
pub struct Checker {
    run: u32,
    connections: HashMap<String, Connection>,
    verdict: Verdict,
}

/// One server connection's run of messages.
#[derive(Default)]
struct Connection {
    at: u64,
    id: String,
    proxy_session: String,
    next: u64,
    reconnect: bool,
    session: Option<u32>,
    /// First and last sequence number.
    run: Option<(u64, u64)>,
    sent: u64,
    /// How many it had sent when it ended by FIN or Close.
    ended_after: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub attempted: u64,
    pub lost: u64,
    pub unexpected: u64,
    pub duplicated: u64,
    pub overlap_max: u64,
    pub inversions: u64,
    pub cross_talk: u64,
    pub backwards: u64,
    pub faults: Vec<Struck>,
    /// The first of the findings, in words.
    pub findings: Vec<String>,
}

impl Checker {
    pub fn new(run: u32) -> Checker {
        Checker {
            run,
            connections: HashMap::new(),
            verdict: Verdict::default(),
        }
    }

    pub fn read(&mut self, log: &Path) {
        for record in records(log) {
            self.take(record);
        }
    }

    pub fn take(&mut self, record: Record) {
        match record {
            Record::Connection {
                id,
                at,
                session: proxy_session,
                next,
                reconnect,
            } => {
                let known = Connection {
                    at,
                    id: id.clone(),
                    proxy_session,
                    next,
                    reconnect,
                    ..Connection::default()
                };
                self.connections.insert(id, known);
            }
            Record::Message {
                connection,
                text,
                bytes,
            } => self.message(&connection, text, &bytes),
            Record::Sent { connection, number } => self.of(&connection).sent = number + 1,
            Record::End { connection, sent } => self.of(&connection).ended_after = Some(sent),
            Record::Other(_) => {}
        }
    }

    fn of(&mut self, id: &str) -> &mut Connection {
        self.connections
            .get_mut(id)
            .expect("a connection is logged before what it carries")
    }

    fn message(&mut self, id: &str, text: bool, bytes: &[u8]) {
        let stamp = match verify(bytes, text) {
            Ok(stamp) if stamp.run == self.run => stamp,
            Ok(stamp) => {
                return self
                    .verdict
                    .unexpected(format!("{id}: of another run: {stamp:?}"));
            }
            Err(why) => return self.verdict.unexpected(format!("{id}: {why}")),
        };
        let connection = self
            .connections
            .get_mut(id)
            .expect("a connection is logged before its messages");
        let owner = *connection.session.get_or_insert(stamp.session);
        if owner != stamp.session {
            return self
                .verdict
                .mixed(format!("{id} of session {owner} carried {stamp:?}"));
        }
        match connection.run {
            None => connection.run = Some((stamp.sequence, stamp.sequence)),
            Some((_, last)) if stamp.sequence <= last => {
                self.verdict
                    .disorder(format!("{id}: {} after {last}", stamp.sequence));
            }
            Some((first, last)) => {
                let missing = stamp.sequence - last - 1;
                self.verdict
                    .loss(missing, || format!("{id}: {} after {last}", stamp.sequence));
                connection.run = Some((first, stamp.sequence));
            }
        }
    }

    /// Compares the logs with what the clients did. `replayed` is the proxy's own count of
    /// repeats, their upper bound (I4).
    pub fn judge(mut self, histories: &[History], faults: Vec<Struck>, replayed: u64) -> Verdict {
        let mut sessions: HashMap<u32, Vec<Connection>> = HashMap::new();
        let mut names: HashMap<String, u32> = HashMap::new();
        // Also servers that died before they had a message.
        let mut first_seen: HashMap<String, u64> = HashMap::new();
        for connection in self.connections.values() {
            let seen = first_seen.entry(connection.proxy_session.clone());
            let at = seen.or_insert(connection.at);
            *at = connection.at.min(*at);
        }
        for connection in std::mem::take(&mut self.connections).into_values() {
            let Some(session) = connection.session else {
                continue;
            };
            let named = connection.proxy_session.clone();
            if !named.is_empty() && *names.entry(named).or_insert(session) != session {
                let name = &connection.proxy_session;
                self.verdict
                    .mixed(format!("{name} named two sessions, one of them {session}"));
            }
            sessions.entry(session).or_default().push(connection);
        }
        for history in histories {
            let mut adopted = sessions.remove(&history.session).unwrap_or_default();
            adopted.sort_by_key(|connection| connection.at);
            self.upwards(history, &adopted, &first_seen);
            self.downwards(history, &adopted);
        }
        for session in sessions.keys() {
            self.verdict
                .unexpected(format!("session {session} had no client"));
        }
        let Verdict { duplicated, .. } = self.verdict;
        if duplicated > replayed {
            self.verdict
                .disorder(format!("I4: {duplicated} repeats, {replayed} replayed"));
        }
        self.verdict.faults = faults;
        self.verdict
    }

    /// I1 to I4 for one session, over its connections in adoption order.
    fn upwards(
        &mut self,
        history: &History,
        adopted: &[Connection],
        first_seen: &HashMap<String, u64>,
    ) {
        let verdict = &mut self.verdict;
        verdict.attempted += history.accepted;
        let mut due = 0;
        for (index, connection) in adopted.iter().enumerate() {
            let id = &connection.id;
            let (first, last) = connection
                .run
                .expect("it has a session, so it had a message");
            if connection.next != first {
                let said = connection.next;
                verdict.disorder(format!(
                    "{id} began with {first}, X-Wsteady-Next said {said}"
                ));
            }
            let is_only = index == 0 && first == 0 && adopted.len() == 1;
            let met = &connection.proxy_session;
            let had_another = !met.is_empty() && first_seen[met] < connection.at;
            if connection.reconnect && is_only && !had_another {
                verdict.disorder(format!("{id}: reconnect header on a session's only server"));
            }
            if !connection.reconnect && index > 0 {
                verdict.disorder(format!("{id}: no reconnect header on a second server"));
            }
            verdict.loss(first.saturating_sub(due), || {
                format!("{id} began at {first}, due {due}")
            });
            let overlap = due.saturating_sub(first).min(last + 1 - first);
            verdict.duplicated += overlap;
            verdict.overlap_max = verdict.overlap_max.max(overlap);
            due = due.max(last + 1);
        }
        let session = history.session;
        if due > history.accepted {
            let accepted = history.accepted;
            verdict.unexpected(format!(
                "session {session}: {due} arrived, {accepted} were sent"
            ));
        }
        verdict.loss(history.accepted.saturating_sub(due), || {
            format!("session {session}: {due} of {} arrived", history.accepted)
        });
    }

    /// I5 for one session; what its client found by itself is counted here as well.
    fn downwards(&mut self, history: &History, adopted: &[Connection]) {
        let verdict = &mut self.verdict;
        let session = history.session;
        for fault in &history.faults {
            verdict.backwards(format!("session {session}: {fault}"));
        }
        let mut order = adopted.iter();
        for (id, count) in &history.received {
            let Some(connection) = order.find(|connection| connection.id == *id) else {
                verdict.mixed(format!(
                    "session {session} heard {id}: foreign or out of turn"
                ));
                continue;
            };
            if *count > connection.sent {
                let sent = connection.sent;
                verdict.backwards(format!("{id} sent {sent}, session {session} got {count}"));
            }
        }
        if history.closed.is_some() {
            return;
        }
        for connection in adopted {
            let got = history.received.iter().find(|(id, _)| *id == connection.id);
            let got = got.map_or(0, |(_, count)| *count);
            if connection.ended_after.is_some_and(|sent| sent != got) {
                let id = &connection.id;
                verdict.backwards(format!(
                    "{id} ended in order, of its last some are missing: {got}"
                ));
            }
        }
    }
}

impl Verdict {
    fn loss(&mut self, count: u64, what: impl FnOnce() -> String) {
        if count > 0 {
            self.lost += count;
            self.note(format!("lost {count}: {}", what()));
        }
    }

    fn unexpected(&mut self, what: String) {
        self.unexpected += 1;
        self.note(what);
    }

    fn disorder(&mut self, what: String) {
        self.inversions += 1;
        self.note(what);
    }

    fn mixed(&mut self, what: String) {
        self.cross_talk += 1;
        self.note(what);
    }

    fn backwards(&mut self, what: String) {
        self.backwards += 1;
        self.note(what);
    }

    fn note(&mut self, what: String) {
        if self.findings.len() < FINDINGS {
            self.findings.push(what);
        }
    }

    /// Panics, with all numbers, unless every rule held.
    pub fn must_be_clean(&self) {
        eprintln!("{self}");
        assert_eq!(self.lost, 0, "{self}");
        self.must_be_clean_but_for_loss();
    }

    /// The same where the proxy closed clients with messages undelivered: it counted those.
    pub fn must_be_clean_but_for_loss(&self) {
        let bad = self.unexpected + self.inversions + self.cross_talk + self.backwards;
        assert_eq!(bad, 0, "{self}");
        assert!(self.attempted > 0, "nothing was sent: {self}");
    }

    /// The share of faults that struck while something was unconfirmed, percent.
    pub fn telling_faults_percent(&self) -> usize {
        let telling = self.faults.iter().filter(|fault| fault.unconfirmed).count();
        telling * 100 / self.faults.len().max(1)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ok = self.attempted.saturating_sub(self.lost);
        writeln!(
            out,
            "ledger: attempted {}, ok {ok}, lost {}, unexpected {}, duplicated {} (max overlap {}), \
             inversions {}, cross-talk {}, reverse path {}, faults {} ({} % with unconfirmed data)",
            self.attempted,
            self.lost,
            self.unexpected,
            self.duplicated,
            self.overlap_max,
            self.inversions,
            self.cross_talk,
            self.backwards,
            self.faults.len(),
            self.telling_faults_percent(),
        )?;
        for finding in &self.findings {
            writeln!(out, "  {finding}")?;
        }
        for fault in &self.faults {
            let window = if fault.unconfirmed { "with" } else { "without" };
            writeln!(out, "  fault: {} ({window} unconfirmed data)", fault.what)?;
        }
        Ok(())
    }
}

/// Findings that are spelt out; the numbers count all.
const FINDINGS: usize = 20;

mod tests {
    //! Plants each kind of fault and sees it found, and nothing else with it.
    use super::*;

    const RUN: u32 = 7;

    /// A log of connection `id`, adopted at time `at`, with these messages of session 1.
    fn connection(id: &str, at: u64, sequences: &[u64]) -> Vec<Record> {
        let mut log = vec![Record::Connection {
            id: id.to_owned(),
            at,
            session: "s1".to_owned(),
            next: sequences[0],
            reconnect: at > 1,
        }];
        log.extend(sequences.iter().map(|&sequence| message(id, 1, sequence)));
        log
    }

    fn message(id: &str, session: u32, sequence: u64) -> Record {
        let text = sequence.is_multiple_of(2);
        let bytes = compose(
            Stamp {
                run: RUN,
                session,
                sequence,
            },
            text,
            20,
        );
        Record::Message {
            connection: id.to_owned(),
            text,
            bytes,
        }
    }

    fn client(accepted: u64) -> History {
        History {
            session: 1,
            accepted,
            ..History::default()
        }
    }

    fn judge(logs: &[Vec<Record>], history: History, replayed: u64) -> Verdict {
        let mut checker = Checker::new(RUN);
        logs.iter()
            .flatten()
            .for_each(|record| checker.take(record.clone()));
        checker.judge(&[history], Vec::new(), replayed)
    }

    /// Lost, unexpected, inversions, cross-talk, reverse path.
    fn found(verdict: &Verdict) -> [u64; 5] {
        let Verdict {
            lost,
            unexpected,
            inversions,
            cross_talk,
            backwards,
            ..
        } = *verdict;
        [lost, unexpected, inversions, cross_talk, backwards]
    }

    #[test]
    fn a_clean_failover_is_clean() {
        let logs = [
            connection("a", 1, &[0, 1, 2, 3]),
            connection("b", 2, &[2, 3, 4]),
        ];
        let verdict = judge(&logs, client(5), 2);
        assert_eq!(found(&verdict), [0; 5], "{verdict}");
        assert_eq!((verdict.duplicated, verdict.overlap_max), (2, 2));
        verdict.must_be_clean();
    }

    #[test]
    fn a_loss_is_found() {
        let inside = judge(&[connection("a", 1, &[0, 1, 3, 4])], client(5), 0);
        assert_eq!(found(&inside), [1, 0, 0, 0, 0], "{inside}");
        let at_the_end = judge(&[connection("a", 1, &[0, 1, 2])], client(5), 0);
        assert_eq!(found(&at_the_end), [2, 0, 0, 0, 0], "{at_the_end}");
        let logs = [connection("a", 1, &[0, 1]), connection("b", 2, &[3, 4])];
        let between = judge(&logs, client(5), 0);
        assert_eq!(found(&between), [1, 0, 0, 0, 0], "{between}");
        let all = judge(&[], client(5), 0);
        assert_eq!(found(&all), [5, 0, 0, 0, 0], "{all}");
    }

    #[test]
    fn a_repeat_on_one_connection_is_found() {
        let verdict = judge(&[connection("a", 1, &[0, 1, 1, 2])], client(3), 9);
        assert_eq!(found(&verdict), [0, 0, 1, 0, 0], "{verdict}");
    }

    #[test]
    fn a_repeat_that_was_no_replay_is_found() {
        let logs = [
            connection("a", 1, &[0, 1, 2]),
            connection("b", 2, &[1, 2, 3]),
        ];
        assert_eq!(found(&judge(&logs, client(4), 2)), [0; 5]);
        assert_eq!(found(&judge(&logs, client(4), 1)), [0, 0, 1, 0, 0]);
    }

    #[test]
    fn an_inversion_is_found() {
        let verdict = judge(&[connection("a", 1, &[0, 2, 1, 3])], client(4), 0);
        // The message that came too late is missed at its place, too.
        assert_eq!(found(&verdict), [1, 0, 1, 0, 0], "{verdict}");
    }

    #[test]
    fn a_reconnect_to_the_first_server_is_found() {
        let only = connection("b", 2, &[0, 1]);
        let verdict = judge(std::slice::from_ref(&only), client(2), 0);
        assert_eq!(found(&verdict), [0, 0, 1, 0, 0], "{verdict}");
        // A server before it died without a message.
        let mut mute = connection("a", 1, &[0]);
        mute.truncate(1);
        let verdict = judge(&[mute, only], client(2), 0);
        assert_eq!(found(&verdict), [0; 5], "{verdict}");
    }

    #[test]
    fn a_wrong_number_of_the_next_message_is_found() {
        let mut log = connection("a", 1, &[0, 1]);
        let Record::Connection { next, .. } = &mut log[0] else {
            unreachable!()
        };
        *next = 1;
        assert_eq!(found(&judge(&[log], client(2), 0)), [0, 0, 1, 0, 0]);
    }

    #[test]
    fn a_foreign_message_is_found() {
        let mut log = connection("a", 1, &[0, 1]);
        log.push(message("a", 2, 0));
        let verdict = judge(&[log], client(2), 0);
        assert_eq!(found(&verdict), [0, 0, 0, 1, 0], "{verdict}");
    }

    #[test]
    fn changed_bytes_types_and_inventions_are_found() {
        let spoil = |change: fn(&mut bool, &mut Vec<u8>)| {
            let mut log = connection("a", 1, &[0, 1]);
            let Some(Record::Message { text, bytes, .. }) = log.last_mut() else {
                unreachable!()
            };
            change(text, bytes);
            found(&judge(&[log], client(2), 0))
        };
        let lost_and_strange = [1, 1, 0, 0, 0];
        assert_eq!(
            spoil(|_, bytes| *bytes.last_mut().unwrap() ^= 1),
            lost_and_strange
        );
        assert_eq!(spoil(|text, _| *text = !*text), lost_and_strange);
        assert_eq!(
            spoil(|_, bytes| bytes.truncate(bytes.len() - 1)),
            lost_and_strange
        );
        assert_eq!(spoil(|_, bytes| bytes.clear()), lost_and_strange);
        let invented = judge(&[connection("a", 1, &[0, 1, 2])], client(2), 0);
        assert_eq!(found(&invented), [0, 1, 0, 0, 0]);
    }

    #[test]
    fn the_reverse_path_is_checked() {
        let sent = |id: &str, number| Record::Sent {
            connection: id.to_owned(),
            number,
        };
        let mut one = connection("a", 1, &[0, 1]);
        one.push(sent("a", 1));
        let mut two = connection("b", 2, &[2]);
        two.push(sent("b", 0));
        let judged = |received: &[(&str, u64)], ended: Option<u64>| {
            let mut one = one.clone();
            one.extend(ended.map(|sent| Record::End {
                connection: "a".to_owned(),
                sent,
            }));
            let received = received
                .iter()
                .map(|(id, n)| (id.to_string(), *n))
                .collect();
            found(&judge(
                &[one, two.clone()],
                History {
                    received,
                    ..client(3)
                },
                0,
            ))
        };
        assert_eq!(judged(&[("a", 1), ("b", 1)], None), [0; 5]);
        assert_eq!(judged(&[("a", 2), ("b", 1)], Some(2)), [0; 5]);
        assert_eq!(
            judged(&[("a", 1), ("b", 1)], Some(2)),
            [0, 0, 0, 0, 1],
            "a FIN lost one"
        );
        assert_eq!(
            judged(&[("a", 3)], None),
            [0, 0, 0, 0, 1],
            "more than was sent"
        );
        assert_eq!(
            judged(&[("b", 1), ("a", 2)], None),
            [0, 0, 0, 1, 0],
            "out of turn"
        );
        assert_eq!(
            judged(&[("c", 1)], None),
            [0, 0, 0, 1, 0],
            "nobody's connection"
        );
    }
}
