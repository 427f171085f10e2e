//! The peer's end of a connection that is sealed, or begins with a PROXY header: what it says in words
//! the wire has in records, and the world knows both.

use std::collections::VecDeque;

use super::herald::{self, Herald};
use super::toy::{RECORD_MAX, Session};
use crate::kit::Prng;

/// One end. It belongs to the peer's process: while that stands still, nothing is read here.
pub struct End {
    session: Option<Session>,
    rng: Prng,
    /// What a proxy before the proxy says first, and not before then.
    preface: VecDeque<u8>,
    preface_at: u64,
    /// The proxy is to begin with a header; and what it was.
    pub awaits_header: bool,
    pub header: Option<Herald>,
    begun: bool,
    doom: Option<Doom>,
    /// Of what comes from the proxy: records that have begun, and words that nobody has read.
    sealed: Vec<u8>,
    words: VecDeque<u8>,
    /// Words that the proxy has taken for us and that we have not opened.
    promised: VecDeque<u8>,
    /// Words for the proxy: what its shard has not read; and where records end, in bytes and in words.
    said: VecDeque<u8>,
    marks: VecDeque<(u64, u64)>,
    put: u64,
    put_words: u64,
    read_words: u64,
    /// Last words: ours, and the proxy's.
    pub parted: bool,
    pub heard_part: bool,
    /// It goes without a last word.
    pub rude: bool,
    /// It asks for nothing that the answer to would reset its connection, if it has gone by then.
    pub calm: bool,
    /// It has done something that the proxy can't forgive.
    pub wrong: bool,
    /// Cuts what it says into records of few bytes.
    fine: bool,
    pub seen: Vec<&'static str>,
}

/// How a handshake ends before it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doom {
    Stalls,
    Ends,
    Resets,
    Garbage,
    Refuses,
    /// Its chain is one that nobody believes.
    Shady,
}

/// What an end wants of its kernel beside bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    End,
    Reset,
}

impl std::fmt::Debug for End {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = [&self.preface, &self.words, &self.promised, &self.said].map(VecDeque::len);
        to.debug_struct("End")
            .field("sealed", &self.is_sealed())
            .field("open", &self.is_open())
            .field("doom", &self.doom)
            .field("bytes", &bytes)
            .field("parted", &(self.parted, self.heard_part))
            .field("wrong", &(self.wrong, self.rude))
            .finish()
    }
}

impl End {
    /// Of a client, that connects through a proxy if there is a preface.
    pub fn of_client(sealed: bool, preface: Vec<u8>, rng: &mut Prng) -> End {
        let session = sealed.then(|| Session::client(rng));
        let mut end = End::new(session, rng);
        end.preface = preface.into();
        end
    }

    /// Of a server's connection.
    pub fn of_server(sealed: bool, announced: bool, doom: Option<Doom>, rng: &mut Prng) -> End {
        let session = sealed.then(|| Session::server(rng, doom != Some(Doom::Shady)));
        let mut end = End::new(session, rng);
        end.awaits_header = announced;
        end.doom = doom.filter(|_| sealed);
        end.wrong = end.doom == Some(Doom::Shady);
        end
    }

    fn new(session: Option<Session>, rng: &mut Prng) -> End {
        End {
            session,
            preface: VecDeque::new(),
            preface_at: 0,
            awaits_header: false,
            header: None,
            begun: false,
            doom: None,
            sealed: Vec::new(),
            words: VecDeque::new(),
            promised: VecDeque::new(),
            said: VecDeque::new(),
            marks: VecDeque::new(),
            put: 0,
            put_words: 0,
            read_words: 0,
            parted: false,
            heard_part: false,
            rude: false,
            calm: false,
            wrong: false,
            fine: rng.chance(1, 6),
            seen: Vec::new(),
            rng: Prng::from_u64(rng.next_u64()),
        }
    }

    /// The handshake will end so.
    pub fn doomed(mut self, doom: Option<Doom>) -> End {
        self.doom = doom.filter(|_| self.session.is_some());
        self
    }

    pub fn late_until(&mut self, at: u64) {
        self.preface_at = at;
    }

    pub fn is_sealed(&self) -> bool {
        self.session.is_some()
    }

    pub fn doom(&self) -> Option<Doom> {
        self.doom
    }

    /// Whether it only stands there.
    pub fn stalls(&self) -> bool {
        self.doom == Some(Doom::Stalls) && self.wrong
    }

    /// Whether words may go both ways, as far as this end knows.
    pub fn is_open(&self) -> bool {
        let sealed = self.session.as_ref().is_some_and(|one| !one.is_open());
        self.preface.is_empty() && !sealed && !self.awaits_header
    }

    /// Whether nothing is owed on either side: no change of keys that nobody has answered.
    pub fn is_settled(&self) -> bool {
        !self.session.as_ref().is_some_and(|session| session.asks)
    }

    /// A moment of its own: goes on with a handshake, opens what has come. What is to be sent goes
    /// behind `out`.
    pub fn step(&mut self, now: u64, inbox: &mut VecDeque<u8>, out: &mut Vec<u8>) -> Wish {
        if !self.preface.is_empty() {
            if now < self.preface_at {
                return Wish::Nothing;
            }
            let cut = self.rng.chance(1, 4);
            let left = self.preface.len();
            let piece = if cut {
                1 + self.rng.below(left as u32) as usize
            } else {
                left
            };
            out.extend(self.preface.drain(..piece));
            if !self.preface.is_empty() {
                return Wish::Nothing;
            }
        }
        match self.meet_doom(out) {
            Some(Wish::Nothing) => return Wish::Nothing,
            Some(wish) => return wish,
            None => {}
        }
        let begins = self.session.is_some() && !std::mem::replace(&mut self.begun, true);
        if self.words.len() < WORDS_MAX && (begins || !inbox.is_empty()) {
            self.sealed.extend(inbox.drain(..));
            self.open(out);
        }
        Wish::Nothing
    }

    /// What the doom of this moment is, once the handshake has begun.
    fn meet_doom(&mut self, out: &mut Vec<u8>) -> Option<Wish> {
        let doom = self.doom?;
        let open = self.session.as_ref().is_none_or(Session::is_open);
        if doom == Doom::Shady || open || !self.begun {
            return None;
        }
        if doom == Doom::Stalls && self.wrong {
            return Some(Wish::Nothing);
        }
        if self.rng.chance(1, 2) {
            return None;
        }
        self.wrong = true;
        if doom != Doom::Stalls {
            self.doom = None;
        }
        let session = self.session.as_mut()?;
        let wish = match doom {
            Doom::Stalls => {
                self.seen.push("edge: stalled handshake");
                // It has been said: from here on it only stands there.
                return Some(Wish::Nothing);
            }
            Doom::Ends => Wish::End,
            Doom::Resets => Wish::Reset,
            Doom::Garbage => {
                out.extend_from_slice(b"GET / HTTP/1.1\r\nHost: plain\r\n\r\n");
                Wish::Nothing
            }
            Doom::Refuses | Doom::Shady => {
                session.refuse("no", out);
                Wish::Nothing
            }
        };
        self.seen.push("edge: handshake failed");
        Some(wish)
    }

    fn open(&mut self, out: &mut Vec<u8>) {
        if self.awaits_header {
            let Some((len, herald)) = herald::read(&self.sealed) else {
                return;
            };
            self.sealed.drain(..len);
            (self.awaits_header, self.header) = (false, Some(herald));
            self.seen.push("edge: announced to a server");
        }
        let mut words = Vec::new();
        match &mut self.session {
            None => words.append(&mut self.sealed),
            Some(session) => {
                let was_open = session.is_open();
                let opened = session.open(&mut self.rng, &mut self.sealed, &mut words, out);
                match opened {
                    Ok(opened) => {
                        self.sealed.drain(..opened.used);
                        assert!(
                            !self.heard_part || words.is_empty(),
                            "law: nothing follows the last word"
                        );
                        self.heard_part |= opened.parted;
                        if opened.ready && !was_open {
                            self.seen.push("edge: handshake done");
                        }
                        if opened.ready && self.rng.chance(1, 60) {
                            self.seen.push("edge: records without words");
                            match self.rng.below(2) {
                                0 => session.ticket(out),
                                _ if session.asks || self.calm => {}
                                _ => session.update(true, out),
                            }
                        }
                    }
                    Err(why) => {
                        assert!(
                            self.wrong || self.doom.is_some(),
                            "law: good records, but {why}"
                        );
                        (self.wrong, self.parted) = (true, true);
                        self.sealed.clear();
                    }
                }
            }
        }
        for word in &words {
            let promised = self.promised.pop_front();
            assert_eq!(
                promised,
                Some(*word),
                "law: words arrive as they were written"
            );
        }
        self.words.extend(words);
    }

    /// Words for the proxy, as many as there is room for; the records go behind `out`.
    pub fn say(&mut self, words: &[u8], room: usize, out: &mut Vec<u8>) -> usize {
        let words = &words[..words.len().min(room)];
        if self.wrong || self.parted {
            return words.len();
        }
        if !self.is_open() {
            return 0;
        }
        let mut left = words;
        while !left.is_empty() {
            let max = if self.fine { 50 } else { RECORD_MAX as u32 };
            let size = match self.rng.below(4) {
                0 => 1 + self.rng.below(max) as usize,
                _ => max as usize,
            };
            let (piece, rest) = left.split_at(size.min(left.len()));
            let from = out.len();
            match &mut self.session {
                None => out.extend_from_slice(piece),
                Some(session) => session.seal(&mut self.rng, piece, out),
            }
            self.put_words += piece.len() as u64;
            self.marks
                .push_back((self.put + (out.len() - from) as u64, self.put_words));
            self.put += (out.len() - from) as u64;
            left = rest;
        }
        self.said.extend(words);
        words.len()
    }

    /// Bytes without words go out.
    pub fn count(&mut self, bytes: usize) {
        self.put += bytes as u64;
    }

    /// Words that the peer's process reads.
    pub fn hear(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.words.len());
        for (slot, word) in into.iter_mut().zip(self.words.drain(..count)) {
            *slot = word;
        }
        count
    }

    /// Words that its process has not read.
    pub fn unheard(&self) -> usize {
        self.words.len()
    }

    /// Words that the proxy may know of, when so many bytes have not arrived there, or never will.
    pub fn visible(&self, lost: u64) -> u64 {
        if !self.is_sealed() {
            return self.put_words.saturating_sub(lost);
        }
        let arrived = self.put.saturating_sub(lost);
        let marks = self.marks.iter().take_while(|(at, _)| *at <= arrived);
        marks.last().map_or(self.read_words, |(_, words)| *words)
    }

    /// The last word; nothing follows it.
    pub fn part(&mut self, out: &mut Vec<u8>) {
        let open = self.is_open();
        if let Some(session) = self
            .session
            .as_mut()
            .filter(|_| open && !self.parted && !self.rude)
        {
            self.parted = true;
            session.part(out);
            if self.rng.chance(1, 8) {
                // Nobody should, and nobody is to be heard who does.
                self.seen.push("edge: more behind the last word");
                session.ticket(out);
            }
        }
    }

    /// It goes where there is nothing to understand.
    pub fn spoil(&mut self, out: &mut Vec<u8>) {
        self.wrong = true;
        self.seen.push("edge: no record");
        match self.rng.below(2) {
            0 => out.extend_from_slice(b"plain words in place of a record"),
            // Long enough to be believed, and of nobody.
            _ => out.extend_from_slice(&[24, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        }
    }

    /// The proxy has taken words for us.
    pub fn promise(&mut self, words: &[u8]) {
        self.promised.extend(words);
    }

    pub fn owed(&self) -> usize {
        self.promised.len()
    }

    /// The proxy's shard has read these.
    pub fn judge_read(&mut self, words: &[u8]) {
        assert!(words.len() <= self.said.len(), "law: nobody has said that");
        for (word, said) in words.iter().zip(self.said.drain(..words.len())) {
            assert_eq!(*word, said, "law: words are read as they were said");
        }
        self.read_words += words.len() as u64;
        while (self.marks.front()).is_some_and(|(_, words)| *words <= self.read_words) {
            self.marks.pop_front();
        }
    }

    /// Words that the proxy's shard has not read.
    pub fn unread(&self) -> usize {
        self.said.len()
    }
}

/// Words that its process leaves lying before it reads on.
const WORDS_MAX: usize = 20_000;
