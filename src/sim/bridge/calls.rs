//! The laws of calls: what the proxy asks of the APIs, in the order in which its kernel took it, and
//! what it has read of their answers.

use super::api::{Answer, SHORT};
use super::laws::Log;
use super::people::{IDS, Stage};
use super::world::World;
use crate::session::Confirm;
use crate::shard::Got;
use crate::sim::codec;
use crate::sim::head::Head;

/// A call that is under way: its head was taken, its answer was not read, its connection is open.
#[derive(Clone, Debug)]
pub struct Asking {
    pub session: u128,
    pub verb: Verb,
    /// The number of the message.
    pub n: u64,
    /// All of it was taken.
    whole: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    Post,
    Delete,
}

impl World {
    /// The poll has told the proxy what has arrived on this line.
    pub fn see_line(&mut self, line: usize) {
        let conn = &self.conns[self.lines[line].conn];
        let why = if conn.unread() > 0 {
            "bytes that nobody had asked for"
        } else if conn.stands && (conn.inward.fin_arrived || conn.inward.reset) {
            "its end"
        } else {
            return;
        };
        #[cfg(feature = "nats")]
        {
            let seen = conn.visible();
            let ended = conn.inward.fin_arrived || conn.inward.reset;
            if !ended && self.lines[line].is_harmless(seen) {
                return;
            }
        }
        if !self.lines[line].begun && self.lines[line].spoiled.is_none() {
            self.note(format_args!("line {line} shows {why} at rest"));
            self.hit("fault: stray bytes seen");
            self.lines[line].spoiled = Some(why);
        }
    }

    /// The kernel took bytes of a request.
    pub fn judge_line(&mut self, line: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let place = &mut self.lines[line];
        if let Some(why) = place.spoiled {
            panic!("law: nothing is sent on line {line}, which has shown {why}");
        }
        let whole = place.asking.as_ref().is_some_and(|asking| asking.whole);
        assert!(!whole, "law: line {line}: one call at a time");
        place.tap.push(bytes);
        #[cfg(feature = "nats")]
        if self.judge_pongs(line) {
            return;
        }
        let place = &mut self.lines[line];
        if !place.begun {
            (place.begun, place.rests_since) = (true, None);
            place.asked += 1;
        }
        let mut tap = std::mem::take(&mut place.tap);
        let head = tap
            .head()
            .unwrap_or_else(|error| panic!("law: line {line} carries good requests: {error}"));
        if let Some((head, true)) = head {
            let asking = self.judge_head(line, head);
            self.lines[line].asking = Some(asking);
        }
        let whole = tap.next().expect("its head was good");
        if let Some((head, body)) = whole {
            assert!(tap.is_between(), "law: nothing follows a request");
            self.judge_body(line, &head, &body);
        }
        self.lines[line].tap = tap;
    }

    /// PONGs may stand before a call, and alone at rest. True: there is nothing else.
    #[cfg(feature = "nats")]
    fn judge_pongs(&mut self, line: usize) -> bool {
        let place = &mut self.lines[line];
        let Some((count, rest)) = place.tap.drop_pongs() else {
            return false;
        };
        if count > 0 {
            let unasked = place.unasked.as_mut().expect("it speaks NATS");
            let owed = unasked.owed_since.take().is_some();
            assert!(owed && count == 1, "law: a PONG for each PING, line {line}");
            self.hit(if rest {
                "nats: pong at rest"
            } else {
                "nats: pong before a call"
            });
        }
        rest && !self.lines[line].begun
    }

    fn judge_head(&mut self, line: usize, head: &Head) -> Asking {
        let [method, target, version] = &head.start;
        assert_eq!(version, "HTTP/1.1", "law: the version of a request");
        let api = &self.fleet.servers[self.lines[line].api];
        assert_eq!(
            head.value("host"),
            Some(&*api.authority),
            "law: Host is the API's"
        );
        let path = target.strip_prefix(&*api.prefix);
        let path = path.unwrap_or_else(|| panic!("law: a target below the URL: {target}"));
        let (name, query) = path.split_once('?').unwrap_or((path, ""));
        let session = head.value("x-wsteady-session").unwrap_or_default();
        assert_eq!(session.len(), 32, "law: a session in each call");
        let session = u128::from_str_radix(session, 16).expect("law: a session id is hex");
        let from = head.value("x-forwarded-for");
        assert_eq!(from, Some("10.1.0.1"), "law: where the client is");
        if method == "GET" {
            self.meet(session, name, query);
        }
        let log = self.laws.sessions.get(&session);
        let log = log.unwrap_or_else(|| panic!("law: {method} of a session without a GET"));
        assert_eq!(name, IDS[log.id], "law: a session keeps its ClientId");
        let guest = log.guest;
        self.judge_alone(line, log.id);
        if self.lines[line].asked > 1 {
            self.hit("call: on a connection that rested");
        }
        let (verb, n) = match &**method {
            "GET" => (Verb::Get, self.judge_get(session)),
            "POST" => (Verb::Post, self.judge_post(session, head)),
            "DELETE" => (Verb::Delete, self.judge_delete(session, head)),
            other => panic!("law: a call is GET, POST or DELETE: {other}"),
        };
        self.note(format_args!(
            "line {line} carries {method} {n} of guest {guest}, {name}"
        ));
        Asking {
            session,
            verb,
            n,
            whole: false,
        }
    }

    /// The first call of a session.
    fn meet(&mut self, session: u128, name: &str, query: &str) {
        let guest = query.strip_prefix("me=").and_then(|text| text.parse().ok());
        let guest: usize = guest.unwrap_or_else(|| panic!("law: the client's query: {query}"));
        let place = self.people[guest].guest().expect("law: guests ask");
        let id = place.id;
        assert_eq!(name, IDS[id], "law: the ClientId is the client's");
        let known = self.laws.by_guest.insert(guest, session);
        let same = known.is_none_or(|known| known == session);
        assert!(same, "law: a client has one session");
        let since = place.since;
        let waited = |other: &Log| other.id == id && other.gone_at.is_some_and(|at| at > since);
        if self.laws.sessions.values().any(waited) {
            self.hit("session: waited for its id");
        }
        let now = self.now;
        self.laws.sessions.entry(session).or_insert_with(|| Log {
            guest,
            id,
            progress_at: now,
            ..Log::default()
        });
    }

    /// All calls of one ClientId are serial, over all connections that are open.
    fn judge_alone(&self, line: usize, id: usize) {
        for (other, place) in self.lines.iter().enumerate() {
            let Some(asking) = place.asking.as_ref().filter(|_| other != line) else {
                continue;
            };
            let open = self.conns[place.conn].proxy_open;
            let theirs = self.laws.sessions[&asking.session].id;
            assert!(
                !open || theirs != id,
                "law: {} has {asking:?} under way on line {other} beside line {line}",
                IDS[id]
            );
        }
    }

    fn judge_get(&mut self, session: u128) -> u64 {
        self.hit("call: get");
        let log = &self.laws.sessions[&session];
        assert!(!log.admitted, "law: no GET behind an ok");
        for (id, other) in &self.laws.sessions {
            let open = other.admitted && !other.over && other.gone_at.is_none();
            let same = other.id == log.id && *id != session;
            assert!(
                !(open && same),
                "law: {} is open twice: guests {} and {}",
                IDS[log.id],
                other.guest,
                log.guest
            );
        }
        0
    }

    fn judge_post(&mut self, session: u128, head: &Head) -> u64 {
        self.hit("call: post");
        let written = self.settings.now().confirm == Confirm::Written;
        let log = self.log(session);
        let guest = log.guest;
        assert!(log.admitted, "law: no POST of guest {guest} before an ok");
        assert!(
            !log.deleting,
            "law: no POST of guest {guest} behind its DELETE"
        );
        let n = log.answered;
        if written {
            // Until its body is there, nobody knows which one it is.
            log.cut += 1;
            return n;
        }
        let again = log.begun > n;
        log.begun = n + 1;
        let want = format!("\"{session:032x}-{n}\"");
        let key = head.value("idempotency-key").unwrap_or_default();
        assert_eq!(
            key, want,
            "law: POSTs of guest {guest} are numbered in order"
        );
        if again {
            self.hit("call: again");
        }
        n
    }

    fn judge_delete(&mut self, session: u128, head: &Head) -> u64 {
        self.hit("call: delete");
        let (now, hold) = (self.now, u64::from(self.settings.least(|one| one.hold)));
        let written = self.settings.now().confirm == Confirm::Written;
        let code = head
            .value("x-wsteady-close")
            .and_then(|text| text.parse::<u16>().ok());
        let code = code.expect("law: a DELETE says the code");
        let log = self.log(session);
        log.deleting = true;
        let Log {
            guest,
            id,
            admitted,
            over,
            answered,
            begun,
            cut,
            progress_at,
            ..
        } = *log;
        assert!(admitted, "law: no DELETE of guest {guest} before an ok");
        assert!(!over, "law: one DELETE of guest {guest} that succeeds");
        let tired = now >= progress_at + hold;
        let place = self.people[guest].guest().expect("guests stay");
        let harmed = self.conns[place.conn].is_harmed();
        let lost = place.stage == Stage::Gone || place.slow_until > 0 || harmed;
        let pushed = self.laws.dismissals.contains(&(id, code));
        let legal = match code {
            1006 => lost,
            4409 => self.settings.now().replace,
            1013 => tired,
            1001 => self.laws.drain_ends.is_some(),
            code => place.close_sent == Some(code) || pushed,
        };
        assert!(legal, "law: guest {guest} was not closed with {code}");
        let count = if written { begun + cut } else { answered };
        let sent = self.passing(place.next);
        if place.close_sent == Some(code) && !pushed {
            assert!(
                count >= sent || tired,
                "law: DELETE of guest {guest} behind {count} of {sent} POSTs"
            );
        }
        u64::from(code)
    }

    fn judge_body(&mut self, line: usize, head: &Head, body: &[u8]) {
        #[cfg(feature = "nats")]
        {
            let place = &self.lines[line];
            let owed = place.unasked.as_ref().and_then(|one| one.owed_since);
            // One that is read while a call is written is answered with the next.
            let late = owed.is_some_and(|since| place.asked > since + 1);
            assert!(!late, "law: line {line} answers Pings");
        }
        let asking = self.lines[line].asking.as_mut().expect("its head was read");
        asking.whole = true;
        let asking = asking.clone();
        let kind = head.value("content-type").unwrap_or_default().to_string();
        match asking.verb {
            Verb::Get => assert!(body.is_empty(), "law: a GET has no body"),
            Verb::Delete => {}
            Verb::Post => {
                let text = kind == "text/plain; charset=utf-8";
                assert!(text || kind == "application/octet-stream", "law: a type");
                let (from, n) = codec::recognise(body, text)
                    .unwrap_or_else(|error| panic!("law: POSTs are the client's bytes: {error}"));
                let written = self.settings.now().confirm == Confirm::Written;
                let guest = self.log(asking.session).guest;
                let n = self.on_passed_up(guest, from, n);
                let log = self.log(asking.session);
                if written {
                    // One whose connection broke while it was written may be given up.
                    log.cut -= 1;
                    let next = log.begun..=log.begun + std::mem::take(&mut log.cut);
                    assert!(next.contains(&n), "law: guest {guest}: {n} of {next:?}");
                    log.begun = n + 1;
                } else {
                    assert_eq!(n, asking.n, "law: guest {guest}: in order");
                }
            }
        }
    }

    /// The proxy has read of a line.
    pub fn hear_line(&mut self, line: usize, got: Got) {
        let conn = &self.conns[self.lines[line].conn];
        let taken = conn.inward.taken;
        if got == Got::Broken && conn.outward.flying() > 0 {
            // What the API has not even seen may have been somebody's message, written for good.
            let written = self.settings.now().confirm == Confirm::Written;
            for log in self.laws.sessions.values_mut().filter(|_| written) {
                log.cut += 1;
            }
        }
        let now = self.now;
        let place = &mut self.lines[line];
        #[cfg(feature = "nats")]
        place.pings_read(taken);
        if !place.begun || place.deaf {
            #[cfg(feature = "nats")]
            if !place.deaf && matches!(got, Got::Bytes(_)) && place.is_harmless(taken) {
                return;
            }
            if got != Got::Wait {
                place.spoiled.get_or_insert("something at rest");
            }
            return;
        }
        let Some(answer) = place.answers.front() else {
            return;
        };
        let here = match answer.ends {
            Some(ends) => ends <= taken,
            None => got == Got::End,
        };
        if !here {
            return;
        }
        let more = answer.ends.is_some_and(|ends| taken > ends);
        let answer = place.answers.pop_front().expect("it was there");
        if answer.status == 0 {
            // Not understood: nothing that follows is.
            place.deaf = true;
            return;
        }
        (place.begun, place.rests_since) = (false, Some(now));
        let asking = place.asking.take();
        let early = asking.as_ref().is_some_and(|asking| !asking.whole);
        if more {
            place.spoiled = Some("bytes behind an answer");
        } else if early {
            place.spoiled = Some("an answer to half a request");
        } else if answer.ends.is_none() {
            place.spoiled = Some("its end");
        }
        if let Some(asking) = asking {
            self.on_answered(line, &asking, &answer);
        }
    }

    fn on_answered(&mut self, line: usize, asking: &Asking, answer: &Answer) {
        let Answer {
            status,
            ok,
            message,
            ..
        } = *answer;
        let now = self.now;
        let message = message.filter(|(from, n)| *from == SHORT || self.goes_down(*n));
        self.hit("message: whole answer read");
        #[cfg(feature = "nats")]
        if asking.verb == Verb::Post && status == 200 {
            let known = self.is_in_stream(asking.session, asking.n);
            assert!(known, "law: what counts is in the stream, {}", asking.n);
        }
        let log = self.log(asking.session);
        let guest = log.guest;
        if status < 500 && asking.verb != Verb::Delete {
            log.progress_at = now;
        }
        match asking.verb {
            Verb::Get => {
                log.status = Some(status);
                log.admitted = status == 200 && ok;
            }
            Verb::Post if status < 500 => {
                log.answered += 1;
                if (200..300).contains(&status) {
                    log.expected.extend(message.map(|message| (message, now)));
                }
            }
            Verb::Post => {}
            Verb::Delete => log.over = (200..300).contains(&status) && ok,
        }
        self.note(format_args!(
            "proxy reads {status} on line {line} for {:?} {} of guest {guest}",
            asking.verb, asking.n
        ));
    }

    pub fn log(&mut self, session: u128) -> &mut Log {
        let log = self.laws.sessions.get_mut(&session);
        log.expect("a GET has introduced it")
    }
}
