//! One wrapped connection: its session, and the few bytes that wait on either side of it.

use std::io::IoSlice;

use super::{Engine, Fault};
use crate::shard::{Got, Io, Put, Token};

/// A connection that is not simply the one below.
pub(super) struct Line<S, T> {
    pub socket: S,
    /// What its events are told under.
    pub token: Token,
    pub stage: Stage,
    /// `None`: in the clear, behind or before a PROXY header.
    pub session: Option<T>,
    /// The beginning of a record whose rest has not come.
    pub sealed: Vec<u8>,
    /// Words that nobody has read yet.
    pub words: Vec<u8>,
    /// What the kernel did not take: nothing goes before it.
    pub owed: Vec<u8>,
    /// What is in `sealed` has not been looked at: it came behind a PROXY header.
    pub fresh: bool,
    /// The other side has said its last word.
    pub parted: bool,
    /// FIN follows what is owed.
    pub shut: bool,
    /// Whoever could be told why it failed: the server's id, or `None` for a client's.
    pub server: Option<Box<str>>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// TCP does not stand yet.
    Dialling,
    /// The handshake is going on.
    Greeting,
    /// Words go both ways.
    Open,
    /// Nobody has it any more; it goes when what is owed has.
    Leaving,
    Failed,
}

/// What the shard gets of a read, and what it has to be told by itself.
pub(super) struct Taken {
    pub got: Got,
    /// There may be more that the kernel will not tell of.
    pub again: bool,
}

/// Buffers that all connections of a loop share.
pub(super) struct Buffers {
    /// What comes from below.
    pub inbox: Box<[u8]>,
    /// What goes down.
    pub out: Vec<u8>,
    /// What goes up.
    pub words: Vec<u8>,
    /// Words that are to be one record.
    pub draft: Vec<u8>,
}

impl Buffers {
    pub fn new() -> Buffers {
        Buffers {
            inbox: vec![0; INBOX].into_boxed_slice(),
            out: Vec::with_capacity(RECORD_MAX + OVERHEAD),
            words: Vec::with_capacity(INBOX),
            draft: Vec::with_capacity(RECORD_MAX),
        }
    }
}

impl<S, T> Line<S, T> {
    pub fn new(socket: S, token: Token, stage: Stage, session: Option<T>) -> Line<S, T> {
        Line {
            socket,
            token,
            stage,
            session,
            sealed: Vec::new(),
            words: Vec::new(),
            owed: Vec::new(),
            fresh: false,
            parted: false,
            shut: false,
            server: None,
        }
    }

    /// Bytes of buffers that it keeps.
    pub fn held(&self) -> usize {
        self.sealed.capacity() + self.words.capacity() + self.owed.capacity()
    }

    /// Reads records and opens them until they say something or the kernel has no more: whoever is told
    /// of nothing else would not read again, and a FIN behind a ticket would be seen by nobody.
    ///
    /// # Errors
    /// The other side has done something wrong. It was told; what it had said before is in
    /// `buffers.words`.
    pub fn receive<I, E>(
        &mut self,
        io: &mut I,
        engine: &mut E,
        buffers: &mut Buffers,
    ) -> Result<Taken, Fault>
    where
        I: Io<Socket = S>,
        E: Engine<Session = T>,
    {
        let Buffers {
            inbox, out, words, ..
        } = buffers;
        words.clear();
        let Some(session) = &mut self.session else {
            return Ok(Taken {
                got: Got::Wait,
                again: false,
            });
        };
        loop {
            let kept = self.sealed.len();
            if kept >= KEPT_MAX {
                return Err(Fault("a handshake message of more than 64 KiB".into()));
            }
            let got = match std::mem::take(&mut self.fresh) {
                true => Got::Bytes(0),
                false => io.read(&mut self.socket, &mut inbox[kept..]),
            };
            let Got::Bytes(new) = got else {
                return Ok(Taken { got, again: false });
            };
            inbox[..kept].copy_from_slice(&self.sealed);
            let end = kept + new;
            out.clear();
            let opened = engine.open(session, &mut inbox[..end], words, out);
            let forgets = planted!(UpdateUnanswered) && self.stage == Stage::Open;
            let forgets = forgets && words.is_empty();
            if !(out.is_empty() || forgets) {
                send(io, &mut self.socket, &mut self.owed, out);
            }
            let opened = opened?;
            keep(&mut self.sealed, &inbox[opened.used..end]);
            self.parted |= opened.parted;
            if opened.parted && planted!(LastWordsLost) {
                words.clear();
            }
            if opened.ready && self.stage == Stage::Greeting {
                self.stage = Stage::Open;
            }
            if !words.is_empty() || self.parted {
                let got = match words.len() {
                    0 => Got::End,
                    count => Got::Bytes(count),
                };
                // As much as was asked for: there may be more, of which the kernel does not tell again.
                let again = end == inbox.len();
                return Ok(Taken { got, again });
            }
        }
    }

    /// Lets the session speak first, if it is the one that does.
    pub fn begin<I, E>(
        &mut self,
        io: &mut I,
        engine: &mut E,
        buffers: &mut Buffers,
    ) -> Result<(), Fault>
    where
        I: Io<Socket = S>,
        E: Engine<Session = T>,
    {
        let Some(session) = &mut self.session else {
            self.stage = Stage::Open;
            return Ok(());
        };
        self.stage = Stage::Greeting;
        buffers.out.clear();
        engine.open(session, &mut [], &mut buffers.words, &mut buffers.out)?;
        self.send(io, &buffers.out);
        Ok(())
    }

    /// Seals what fits into one record after the other, until the kernel takes no more.
    pub fn transmit<I, E>(
        &mut self,
        io: &mut I,
        engine: &mut E,
        buffers: &mut Buffers,
        from: &[IoSlice<'_>],
    ) -> Put
    where
        I: Io<Socket = S>,
        E: Engine<Session = T>,
    {
        let Some(session) = &mut self.session else {
            return io.write(&mut self.socket, from);
        };
        let mut taken = 0;
        let (mut slice, mut at) = (0, 0);
        while slice < from.len() {
            let part = &from[slice][at..];
            let words = if part.len() >= RECORD_MAX {
                at += RECORD_MAX;
                &part[..RECORD_MAX]
            } else {
                let draft = &mut buffers.draft;
                draft.clear();
                while slice < from.len() && draft.len() < RECORD_MAX {
                    let part = &from[slice][at..];
                    let step = part.len().min(RECORD_MAX - draft.len());
                    draft.extend_from_slice(&part[..step]);
                    at += step;
                    if at == from[slice].len() {
                        (slice, at) = (slice + 1, 0);
                    }
                }
                &draft[..]
            };
            if words.is_empty() {
                break;
            }
            buffers.out.clear();
            if engine.seal(session, words, &mut buffers.out).is_err() {
                self.stage = Stage::Failed;
                return Put::Broken;
            }
            taken += words.len();
            match send(io, &mut self.socket, &mut self.owed, &buffers.out) {
                Sent::All => {}
                Sent::Some => break,
                Sent::Broken if taken == words.len() => return Put::Broken,
                Sent::Broken => break,
            }
        }
        Put::Bytes(taken)
    }

    /// Sends, behind what is owed.
    pub fn send<I: Io<Socket = S>>(&mut self, io: &mut I, bytes: &[u8]) {
        send(io, &mut self.socket, &mut self.owed, bytes);
    }

    /// Says the last word.
    pub fn part<I, E>(&mut self, io: &mut I, engine: &mut E, buffers: &mut Buffers)
    where
        I: Io<Socket = S>,
        E: Engine<Session = T>,
    {
        if let Some(session) = &mut self.session {
            buffers.out.clear();
            engine.part(session, &mut buffers.out);
            send(io, &mut self.socket, &mut self.owed, &buffers.out);
        }
    }

    /// Pays what is owed; false if the connection broke.
    pub fn pay<I: Io<Socket = S>>(&mut self, io: &mut I) -> bool {
        while !self.owed.is_empty() {
            match io.write(&mut self.socket, &[IoSlice::new(&self.owed)]) {
                Put::Bytes(count) if count == self.owed.len() => self.owed = Vec::new(),
                Put::Bytes(count) => {
                    self.owed.drain(..count);
                    return true;
                }
                Put::Wait => return true,
                Put::Broken => {
                    self.owed = Vec::new();
                    return false;
                }
            }
        }
        if std::mem::take(&mut self.shut) {
            io.shut(&mut self.socket);
        }
        true
    }
}

/// What has become of bytes.
enum Sent {
    All,
    /// The rest is owed.
    Some,
    /// A read will say so.
    Broken,
}

fn send<I: Io>(io: &mut I, socket: &mut I::Socket, owed: &mut Vec<u8>, bytes: &[u8]) -> Sent {
    if bytes.is_empty() {
        return Sent::All;
    }
    let mut sent = 0;
    if owed.is_empty() {
        match io.write(socket, &[IoSlice::new(bytes)]) {
            Put::Bytes(count) => sent = count,
            Put::Wait => {}
            Put::Broken => return Sent::Broken,
        }
    }
    if !planted!(OwedForgotten) {
        owed.extend_from_slice(&bytes[sent..]);
    }
    if sent == bytes.len() {
        Sent::All
    } else {
        Sent::Some
    }
}

/// Keeps just these bytes; nothing, if there are none.
fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.is_empty() || planted!(SealedLost) {
        *kept = Vec::new();
    } else {
        kept.clear();
        kept.reserve_exact(bytes.len());
        kept.extend_from_slice(bytes);
    }
}

/// Words of one record (RFC 8446, section 5.1).
pub(super) const RECORD_MAX: usize = 16 << 10;

/// What sealing adds to a record, at most (RFC 5246, section 6.2.3), with its header.
const OVERHEAD: usize = 2_048 + 5;

/// Bytes of one read: what a shard reads at once, and a record that had begun.
const INBOX: usize = (64 << 10) + RECORD_MAX + OVERHEAD;

/// Bytes without a whole message in them: a chain of certificates has so many.
const KEPT_MAX: usize = 64 << 10;
