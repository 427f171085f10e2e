//! What the proxy's kernel took for a client: answers in the order of its requests, each byte for
//! byte, or visibly cut.

use super::decoder::{Decoder, Framing, Piece};
use super::world::{Verb, World};
use crate::sim::head::Head;

/// The stream to one client, as far as the proxy has written it.
#[derive(Default)]
pub struct Tap {
    decoder: Decoder,
    /// Where each answer ends in it.
    pub ends: Vec<u64>,
    /// The answer that is being written.
    reading: Option<Reading>,
    /// The proxy has said that it is the last one.
    closes: bool,
    /// A 100 was written, and not heeded yet.
    pub continued: bool,
    /// When the kernel took something last.
    taken_at: u64,
    /// The end was judged.
    over: bool,
}

#[derive(Clone, Debug)]
struct Reading {
    /// Its request.
    request: usize,
    /// The origin's answer; none: it is the proxy's own.
    answer: Option<usize>,
    framing: Framing,
    at: usize,
}

impl World {
    pub fn judge_person(&mut self, me: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut tap = std::mem::take(&mut self.visitors[me].tap);
        assert!(!tap.over, "law: nothing behind the end, visitor {me}");
        tap.taken_at = self.now;
        tap.decoder.push(bytes);
        loop {
            let piece = tap.decoder.next();
            let piece = piece.unwrap_or_else(|why| panic!("law: visitor {me} gets {why}"));
            match piece {
                None => break,
                Some(Piece::Head(head)) => self.judge_answer(me, &mut tap, &head),
                Some(Piece::Body(bytes)) => {
                    if let Some(reading) = &mut tap.reading {
                        self.judge_body(me, reading, &bytes);
                    }
                }
                Some(Piece::End) => {
                    if let Some(reading) = tap.reading.take() {
                        self.judge_whole(me, &reading);
                        tap.ends.push(self.written(me));
                    }
                }
            }
        }
        self.visitors[me].tap = tap;
    }

    fn written(&self, me: usize) -> u64 {
        self.conns[self.visitors[me].conn].outward.written
    }

    fn judge_answer(&mut self, me: usize, tap: &mut Tap, head: &Head) {
        assert!(
            !tap.closes,
            "law: nothing behind the last answer to visitor {me}"
        );
        let [version, status, _] = &head.start;
        assert_eq!(version, "HTTP/1.1", "law: the version of an answer");
        let status: u16 = status.parse().expect("law: a status is a number");
        let request = self.visitors[me].asked.get(tap.ends.len()).copied();
        let read = self.conns[self.visitors[me].conn].inward.taken;
        let request = request.filter(|id| self.requests[*id].begins < read);
        if request.is_none() && status == 503 && self.laws.draining && tap.ends.is_empty() {
            // Who came in the last moment is told so before it asks.
            tap.closes = true;
            let length = head
                .value("content-length")
                .and_then(|text| text.parse().ok());
            return tap
                .decoder
                .frame(Framing::Length(length.expect("law: a length")));
        }
        let request =
            request.unwrap_or_else(|| panic!("law: visitor {me} has not asked for {status}"));
        let place = &self.requests[request];
        if status < 200 {
            let wanted = status == 100 && place.expects && !tap.continued;
            assert!(wanted, "law: visitor {me} gets {status} for nothing");
            tap.continued = true;
            self.hit("client: 100");
            return tap.decoder.frame(Framing::Length(0));
        }
        tap.continued = false;
        let answer = head.value("x-answer").map(|text| text.parse::<usize>());
        let answer = answer.map(|number| number.expect("law: headers pass as they are"));
        let connection = head.value("connection");
        tap.closes = connection == Some("close");
        let bodiless = place.verb == Verb::Head || matches!(status, 204 | 304);
        let length = head.value("content-length").map(|text| text.parse());
        let framing = match (head.value("transfer-encoding"), length) {
            (None, Some(Ok(_)) | None) if bodiless => Framing::Length(0),
            (None, Some(Ok(length))) => Framing::Length(length),
            (Some("chunked"), None) if !bodiless && place.modern => Framing::Chunked,
            (None, None) if !place.modern && tap.closes => Framing::Endless,
            told => panic!("law: visitor {me} can't tell the end of {request} by {told:?}"),
        };
        for name in ["keep-alive", "x-hop", "x-trailer", "te", "upgrade"] {
            assert_eq!(head.value(name), None, "law: {name} stays behind");
        }
        let stays = place.keeps && connection != Some("close");
        let told = connection == Some("keep-alive");
        assert!(
            place.keeps || tap.closes,
            "law: {request} was to be the last"
        );
        assert!(place.modern || told == stays, "law: HTTP/1.0 is told");
        let short = self.laws.press.was_high_since(place.since);
        assert!(
            !short || tap.closes,
            "law: memory is short, and {request} is not the last"
        );
        if short && place.keeps {
            self.hit("client: last for want of memory");
        }
        if let Some(answer) = answer {
            let place = self.answers.get(answer);
            let bound = place.and_then(|answer| answer.bound);
            assert_eq!(
                bound,
                Some(request),
                "law: visitor {me} gets its own answer"
            );
            let same = self.answers[answer].status == status;
            assert!(same, "law: the status of answer {answer}");
            self.hit("client: an origin's answer");
        } else {
            self.judge_made(me, request, status, head);
            assert!(tap.closes, "law: {status} of the proxy's own is the last");
        }
        self.note(format_args!("visitor {me} gets {status} for {request}"));
        tap.decoder.frame(framing);
        tap.reading = Some(Reading {
            request,
            answer,
            framing,
            at: 0,
        });
    }

    fn judge_body(&self, me: usize, reading: &mut Reading, bytes: &[u8]) {
        if let Some(answer) = reading.answer {
            let body = &self.answers[answer].body;
            let at = reading.at;
            let same = body.get(at..at + bytes.len()) == Some(bytes);
            assert!(
                same,
                "law: answer {answer} to visitor {me}, byte for byte, at {at}"
            );
        }
        reading.at += bytes.len();
    }

    /// To its client this answer is all there.
    fn judge_whole(&mut self, me: usize, reading: &Reading) {
        let now = self.now;
        if let Some(number) = reading.answer {
            let answer = &self.answers[number];
            let bodiless = self.requests[reading.request].verb == Verb::Head;
            assert!(
                bodiless || reading.at == answer.body.len(),
                "law: answer {number} to visitor {me} seems whole with {} bytes of {}",
                reading.at,
                answer.body.len()
            );
            let whole = self.requests[reading.request].whole_answer == Some(number);
            let cut = answer.ends == Some(u64::MAX);
            // What is told by a length may be all there before its line shows the end.
            assert!(
                whole && !cut,
                "law: answer {number} to visitor {me} was cut"
            );
            self.hit(match reading.framing {
                Framing::Length(_) => "client: whole by its length",
                Framing::Chunked => "client: whole by its last chunk",
                Framing::Endless => "client: whole by its end",
            });
        }
        self.requests[reading.request].answered_at = Some(now);
    }

    /// An answer that the proxy has made itself needs a reason.
    fn judge_made(&mut self, me: usize, request: usize, status: u16, head: &Head) {
        let place = &self.requests[request];
        // A slow client is told late, and what it has said behind its time was dropped.
        let by = place.since + u64::from(self.house.handshake);
        let in_time = place.came_at.is_some_and(|at| at < by);
        let whole = place.whole_answer;
        assert_eq!(
            whole, None,
            "law: {status} for {request}, which was answered"
        );
        let trouble = self.wild || self.now < self.laws.trouble_at + 6_000;
        let waited = self.now - place.since;
        let legal = match status {
            400 => place.broken,
            408 => !in_time,
            502 => trouble,
            504 => {
                let line = place.lines.last().map(|line| &self.lines[*line]);
                let on = line.filter(|line| self.conns[line.conn].proxy_open);
                let response = u64::from(self.settings[place.pool].response);
                let silent = self.now - place.carried_at;
                let long = place.body.len() > LONG;
                // While it takes nothing of what came before, its server is not read.
                let slow = self.visitors[me].slow_until >= place.since;
                (trouble || long || slow) && (on.is_none() || silent + 50 >= response)
            }
            503 if self.laws.draining => true,
            503 => {
                assert!(head.value("retry-after").is_some(), "law: 503 says when");
                let patient = waited + 50 >= u64::from(self.settings[place.pool].admit);
                if !patient && !self.laws.owed.contains(&me) {
                    self.laws.busy.push(request);
                }
                true
            }
            _ => false,
        };
        assert!(
            legal,
            "law: visitor {me} got {status} for {request}: {place:?}"
        );
        self.hit(match status {
            400 => "client: 400",
            408 => "client: 408",
            502 => "client: 502",
            503 => "client: 503",
            _ => "client: 504",
        });
    }

    /// The proxy has sent FIN, or closed: what was not said yet never will be.
    pub fn end_person(&mut self, me: usize, closed: bool) {
        let mut tap = std::mem::take(&mut self.visitors[me].tap);
        let conn = &self.conns[self.visitors[me].conn];
        let visitor = &self.visitors[me];
        let gone = visitor.gone || !conn.peer_open || conn.inward.reset;
        let slow = self.now >= tap.taken_at + PATIENCE;
        // An answer that ends with its connection can be cut in no other way.
        let reading = tap.reading.as_ref().filter(|_| !tap.over);
        let cut = reading.is_some_and(|reading| {
            let whole = self.requests[reading.request].whole_answer.is_some();
            reading.framing == Framing::Endless && !whole
        });
        let late = self.laws.stops_at.is_some_and(|at| self.now >= at);
        if closed && conn.outward.destroyed > 0 && !gone && !slow && !cut && !late {
            let bytes = conn.outward.destroyed;
            panic!("law: {bytes} bytes for visitor {me} are destroyed by a reset");
        }
        if !tap.over {
            tap.over = true;
            let reset = closed && conn.outward.reset;
            let excused = gone || slow || self.laws.draining;
            let read = conn.inward.taken;
            self.judge_end(me, &mut tap, reset, excused, read);
        }
        self.visitors[me].tap = tap;
    }

    fn judge_end(&mut self, me: usize, tap: &mut Tap, reset: bool, excused: bool, read: u64) {
        let cut = match tap.reading.take() {
            Some(reading) if reading.framing == Framing::Endless && !reset => {
                // To its client, that was the end of it.
                self.judge_whole(me, &reading);
                tap.ends.push(self.written(me));
                false
            }
            Some(reading) => {
                let whole = self.requests[reading.request].whole_answer;
                let own = reading.answer.is_none();
                assert!(
                    excused || !(own || whole == reading.answer),
                    "law: visitor {me} gets {} bytes of answer {:?}, which was all there",
                    reading.at,
                    reading.answer
                );
                if !own {
                    self.hit("client: a cut answer");
                }
                true
            }
            None => !tap.decoder.is_between(),
        };
        let visitor = &self.visitors[me];
        let left = visitor.asked.get(tap.ends.len()).copied();
        if let Some(id) = left.filter(|_| !(cut || tap.closes || excused)) {
            let request = &self.requests[id];
            // A FIN inside of the request, or behind one before it, excuses the rest.
            let whole = request.ends <= read;
            let first = tap.ends.is_empty()
                || self.requests[visitor.asked[tap.ends.len() - 1]].answered_at
                    < Some(request.since);
            let half = visitor.half && !(whole && first);
            // What an HTTP/1.0 client would have got without a length was cut at once.
            let endless = reset && !request.modern && request.heard;
            assert!(
                !whole || half || (endless && request.whole_answer.is_none()),
                "law: visitor {me} gets no answer to {id}: {:?}",
                request
            );
        }
    }
}

/// After so many ms without a byte a client is slow: shorter than any time-out.
const PATIENCE: u64 = 700;

/// The kernels need their time for a body of so many bytes.
const LONG: usize = 50_000;
