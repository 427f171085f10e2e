//! The messages from the client that no server has confirmed, and at once the upstream's send queue.

use crate::kit::{Chain, Chunks, Spot};
use crate::wire::frame::{self, Opcode, Sender, peek_len};
use crate::wire::mask;

/// Frames in the bytes in which a server will get them. `confirmed <= sent <= end`: what is
/// confirmed has left the chain, `sent` is a cursor in it, a replay sets the cursor to the front.
/// There is no index of messages: frames are read again where a boundary is asked for.
pub struct Journal {
    chain: Chain,
    sent_spot: Spot,
    /// Bytes of the chain that the present upstream's kernel has taken.
    sent: u32,
    /// Bytes of the frame under the cursor that were not sent yet; 0 at a frame boundary.
    sent_frame_left: u32,
    /// Complete messages before the cursor.
    sent_messages: u32,
    /// Complete messages in the chain.
    messages: u32,
    /// Bytes of the chain that belong to complete messages.
    complete: u32,
    /// Bytes of the last frame that have not arrived yet.
    tail_left: u32,
    /// Whether the message goes on behind the frame under (or just before) the cursor.
    sent_open: bool,
    /// Messages confirmed since the session began.
    confirmed: u64,
}

/// The first message held, as a call needs to know it.
pub struct First {
    pub opcode: Opcode,
    /// Bytes without headers.
    pub payload: usize,
    /// Bytes with them.
    pub bytes: usize,
}

impl Journal {
    /// An empty journal; owns nothing.
    pub const fn new() -> Journal {
        Journal {
            chain: Chain::new(),
            sent_spot: Spot::FRONT,
            sent: 0,
            sent_frame_left: 0,
            sent_messages: 0,
            messages: 0,
            complete: 0,
            tail_left: 0,
            sent_open: false,
            confirmed: 0,
        }
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.chain.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.chain.is_empty()
    }

    /// Bytes that the present upstream has not been given.
    pub fn unsent(&self) -> usize {
        self.chain.len() - self.sent as usize
    }

    /// Complete messages that are not confirmed.
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// Messages confirmed since the session began; also the number of the first one held.
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// The number of messages of the session that lie wholly before the cursor.
    pub fn sent_number(&self) -> u64 {
        self.confirmed + u64::from(self.sent_messages)
    }

    /// The number of complete messages of the session.
    pub fn end_number(&self) -> u64 {
        self.confirmed + u64::from(self.messages)
    }

    /// Bytes of the message that is still arriving.
    pub fn unfinished(&self) -> usize {
        self.chain.len() - self.complete as usize
    }

    /// Whether the next byte to send begins a frame.
    pub fn sent_at_frame(&self) -> bool {
        self.sent_frame_left == 0
    }

    /// Whether the next byte to send begins a message.
    pub fn sent_at_message(&self) -> bool {
        self.sent_frame_left == 0 && !self.sent_open
    }

    /// Whether the last byte held ends a frame.
    pub fn ends_at_frame(&self) -> bool {
        self.tail_left == 0
    }

    /// Appends a piece of a data frame. `frame_left` bytes of that frame are still to come.
    pub fn append(
        &mut self,
        bytes: &[u8],
        frame_left: u64,
        ends_message: bool,
        chunks: &mut Chunks,
    ) {
        debug_assert!(!ends_message || frame_left == 0);
        chunks.push(&mut self.chain, bytes);
        self.tail_left = frame_left as u32;
        if ends_message {
            self.messages += 1;
            self.complete = self.chain.len() as u32;
        }
    }

    /// What may be sent now, from the cursor on. `fenced`: not beyond the message under the cursor.
    pub fn sendable<'a>(
        &self,
        fenced: bool,
        chunks: &'a Chunks,
    ) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut left = if fenced {
            self.message_left(chunks)
        } else {
            self.unsent()
        };
        let spot = self.spot();
        chunks.slices(&self.chain, spot).map_while(move |slice| {
            let take = slice.len().min(left);
            left -= take;
            (take > 0).then(|| &slice[..take])
        })
    }

    /// Moves the cursor over `n` bytes that the kernel took.
    pub fn advance(&mut self, n: usize, chunks: &Chunks) {
        debug_assert!(n <= self.unsent(), "sent {n} of {}", self.unsent());
        let target = self.sent + n as u32;
        if target as usize == self.chain.len() && self.tail_left == 0 {
            // The common case needs no walk: what is known of the end is true of the cursor.
            self.sent_spot = chunks.advance(&self.chain, self.spot(), n);
            (self.sent, self.sent_frame_left) = (target, 0);
            self.sent_messages = self.messages;
            self.sent_open = self.complete != target;
            return;
        }
        while self.sent < target {
            if self.sent_frame_left == 0 {
                let (frame, fin) = self.frame_at(self.spot(), chunks);
                self.sent_frame_left = frame as u32;
                self.sent_open = !fin;
            }
            let step = self.sent_frame_left.min(target - self.sent);
            self.sent_spot = chunks.advance(&self.chain, self.spot(), step as usize);
            self.sent += step;
            self.sent_frame_left -= step;
            self.sent_messages += u32::from(self.sent_at_message());
        }
    }

    /// Takes everything up to message number `upto` as confirmed. It was sent completely.
    pub fn confirm(&mut self, upto: u64, chunks: &mut Chunks) -> u32 {
        let count = upto.saturating_sub(self.confirmed) as u32;
        debug_assert!(count <= self.sent_messages, "confirming more than was sent");
        if count == 0 {
            return 0;
        }
        let bytes = if count == self.messages {
            self.complete as usize
        } else {
            (0..count).fold(0, |at, _| at + self.message_at(at, chunks).unwrap_or(0))
        };
        self.drop_front(bytes, chunks);
        self.confirmed = upto;
        self.messages -= count;
        self.sent_messages -= count;
        count
    }

    /// Takes all that was wholly handed over as confirmed (`confirm: written`).
    pub fn confirm_sent(&mut self, chunks: &mut Chunks) -> u32 {
        self.confirm(self.sent_number(), chunks)
    }

    /// Sends everything that is held once more, to a new upstream. Returns how many messages of it
    /// the old one may have had.
    pub fn replay(&mut self) -> u32 {
        let repeats = self.sent_messages;
        if planted!(ReplayFromSent) && self.sent_at_message() {
            return repeats;
        }
        (self.sent, self.sent_spot, self.sent_frame_left) = (0, Spot::FRONT, 0);
        (self.sent_messages, self.sent_open) = (0, false);
        repeats
    }

    /// Drops the message that never arrived whole. False if a part of its last frame was sent: then
    /// the stream to the server is cut and cannot be ended by a Close.
    pub fn drop_unfinished(&mut self, chunks: &mut Chunks) -> bool {
        if self.sent <= self.complete {
            chunks.truncate(&mut self.chain, self.complete as usize);
            self.tail_left = 0;
            if self.sent == self.complete {
                self.sent_spot = chunks.advance(&self.chain, Spot::FRONT, self.sent as usize);
                self.sent_frame_left = 0;
                self.sent_open = false;
            }
            return true;
        }
        if self.sent_frame_left > 0 {
            return false;
        }
        // Whole frames of it have left; the rest must not, for nothing could follow a cut frame.
        chunks.truncate(&mut self.chain, self.sent as usize);
        self.tail_left = 0;
        true
    }

    /// Whether the first unconfirmed message was wholly handed to the present upstream.
    pub fn first_was_sent(&self, chunks: &Chunks) -> bool {
        self.sent_messages > 0
            && self
                .message_at(0, chunks)
                .is_some_and(|len| len <= self.sent as usize)
    }

    /// The first message, if one is complete.
    pub fn first(&self, chunks: &Chunks) -> Option<First> {
        let bytes = self.message_at(0, chunks)?;
        let (mut at, mut payload, mut spot, mut opcode) = (0, 0, Spot::FRONT, None);
        while at < bytes {
            let mut head = [0; 14];
            let got = chunks.peek(&self.chain, spot, &mut head);
            let (header, length, _, kind) = peek_len(&head[..got])?;
            opcode.get_or_insert(kind);
            payload += length as usize;
            at += header + length as usize;
            spot = chunks.advance(&self.chain, spot, header + length as usize);
        }
        let opcode = opcode?;
        Some(First {
            opcode,
            payload,
            bytes,
        })
    }

    /// Appends the payload of the first message to `out`, unmasked and in one piece.
    pub fn read_first(&self, chunks: &Chunks, out: &mut Vec<u8>) {
        let Some(whole) = self.message_at(0, chunks) else {
            return;
        };
        let (mut at, mut spot) = (0, Spot::FRONT);
        while at < whole {
            let mut head = [0; 14];
            let got = chunks.peek(&self.chain, spot, &mut head);
            let Ok(Some(header)) = frame::parse(&head[..got], Sender::Client, false) else {
                debug_assert!(false, "a journal holds only what was checked");
                return;
            };
            let (skip, length) = (usize::from(header.header_len), header.payload_len as usize);
            spot = chunks.advance(&self.chain, spot, skip);
            let begin = out.len();
            out.resize(begin + length, 0);
            chunks.peek(&self.chain, spot, &mut out[begin..]);
            mask::apply(&mut out[begin..], header.mask.unwrap_or_default());
            spot = chunks.advance(&self.chain, spot, length);
            at += skip + length;
        }
    }

    /// Gives all chunks back; returns how many complete messages were still unconfirmed.
    pub fn clear(&mut self, chunks: &mut Chunks) -> u32 {
        chunks.clear(&mut self.chain);
        let lost = self.messages;
        *self = Journal {
            confirmed: self.confirmed,
            ..Journal::new()
        };
        lost
    }

    /// What must always hold.
    pub fn check_invariants(&self) {
        assert!(self.sent as usize <= self.chain.len());
        assert!(self.complete as usize <= self.chain.len());
        assert!(self.sent_messages <= self.messages);
        assert!(self.sent > 0 || self.sent_frame_left == 0);
        assert!(self.messages == 0 || self.complete > 0);
    }

    fn drop_front(&mut self, bytes: usize, chunks: &mut Chunks) {
        debug_assert!(bytes <= self.sent as usize, "confirmed before it was sent");
        chunks.drop_front(&mut self.chain, bytes);
        self.sent -= bytes as u32;
        self.complete -= bytes as u32;
        if self.sent == 0 {
            self.sent_spot = Spot::FRONT;
        }
    }

    /// At the front there is no byte before the cursor that could hold its place.
    fn spot(&self) -> Spot {
        if self.sent == 0 {
            Spot::FRONT
        } else {
            self.sent_spot
        }
    }

    /// Length of the frame at a spot, header included, and whether it ends its message.
    fn frame_at(&self, spot: Spot, chunks: &Chunks) -> (u64, bool) {
        let mut head = [0; 14];
        let got = chunks.peek(&self.chain, spot, &mut head);
        let (header, payload, fin, _) =
            peek_len(&head[..got]).expect("a journal holds only whole headers");
        (header as u64 + payload, fin)
    }

    /// Length of the complete message that begins `at` bytes from the front.
    fn message_at(&self, at: usize, chunks: &Chunks) -> Option<usize> {
        let mut end = at;
        let mut spot = chunks.advance(&self.chain, Spot::FRONT, at);
        loop {
            if end >= self.complete as usize {
                return None;
            }
            let (frame, fin) = self.frame_at(spot, chunks);
            end += frame as usize;
            if fin {
                return Some(end - at);
            }
            spot = chunks.advance(&self.chain, spot, frame as usize);
        }
    }

    /// Bytes from the cursor to the end of the message it stands in; 0 between messages.
    fn message_left(&self, chunks: &Chunks) -> usize {
        if self.sent_at_message() {
            return 0;
        }
        if self.sent >= self.complete {
            return self.unsent();
        }
        let mut left = self.sent_frame_left as usize;
        let mut open = self.sent_open;
        let mut spot = chunks.advance(&self.chain, self.spot(), left);
        while open {
            let (frame, fin) = self.frame_at(spot, chunks);
            left += frame as usize;
            spot = chunks.advance(&self.chain, spot, frame as usize);
            open = !fin;
        }
        left
    }
}

impl Default for Journal {
    fn default() -> Journal {
        Journal::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kit::{Budget, Prng};
    use crate::wire::frame::{Opcode, encode_header};

    /// A reference that keeps every message as its list of frames.
    #[derive(Default)]
    struct Model {
        bytes: Vec<u8>,
        ends: Vec<usize>,
        frame_ends: Vec<usize>,
    }

    fn chunks() -> Chunks {
        Chunks::new(Arc::new(Budget::new(1 << 20)), 64)
    }

    fn frames(rng: &mut Prng) -> Vec<Vec<u8>> {
        let count = 1 + rng.below(3);
        (0..count)
            .map(|n| {
                let len = [0, 1, 5, 130, 3_000][rng.below(5) as usize];
                let opcode = if n == 0 {
                    Opcode::Binary
                } else {
                    Opcode::Continuation
                };
                let mask = Some(rng.mask_key());
                let mut frame =
                    encode_header(n + 1 == count, false, opcode, len as u64, mask).to_vec();
                frame.extend((0..len).map(|_| rng.next_u32() as u8));
                frame
            })
            .collect()
    }

    fn flat(journal: &Journal, fenced: bool, chunks: &Chunks) -> Vec<u8> {
        journal
            .sendable(fenced, chunks)
            .flatten()
            .copied()
            .collect()
    }

    #[test]
    fn cursors_agree_with_a_model_at_every_cut() {
        for seed in 0..60 {
            let mut rng = Prng::from_u64(seed);
            let mut chunks = chunks();
            let mut journal = Journal::new();
            let mut model = Model::default();
            let (mut sent, mut dropped, mut confirmed) = (0usize, 0usize, 0u64);
            for _ in 0..300 {
                match rng.below(4) {
                    0 => {
                        let frames = frames(&mut rng);
                        let last = frames.len() - 1;
                        for (n, frame) in frames.iter().enumerate() {
                            let cut = 14.min(frame.len());
                            let left = (frame.len() - cut) as u64;
                            journal.append(
                                &frame[..cut],
                                left,
                                n == last && left == 0,
                                &mut chunks,
                            );
                            if left > 0 {
                                journal.append(&frame[cut..], 0, n == last, &mut chunks);
                            }
                            model.bytes.extend(frame);
                            model.frame_ends.push(model.bytes.len());
                        }
                        model.ends.push(model.bytes.len());
                    }
                    1 | 2 => {
                        let n = rng.below(journal.unsent() as u32 + 1) as usize;
                        journal.advance(n, &chunks);
                        sent += n;
                    }
                    _ if rng.chance(1, 8) => {
                        journal.replay();
                        sent = dropped;
                    }
                    _ => {
                        let upto = confirmed
                            + u64::from(rng.below((journal.sent_number() - confirmed) as u32 + 1));
                        journal.confirm(upto, &mut chunks);
                        confirmed = upto;
                        if upto > 0 {
                            dropped = model.ends[upto as usize - 1];
                        }
                    }
                }
                journal.check_invariants();
                assert_eq!(flat(&journal, false, &chunks), model.bytes[sent..]);
                let number = model.ends.iter().filter(|end| **end <= sent).count() as u64;
                assert_eq!(journal.sent_number(), number.max(confirmed), "seed {seed}");
                let at_message = sent == 0 || model.ends.contains(&sent);
                assert_eq!(journal.sent_at_message(), at_message, "seed {seed}");
                let at_frame = sent == 0 || model.frame_ends.contains(&sent);
                assert_eq!(journal.sent_at_frame(), at_frame);
                let fence = model
                    .ends
                    .iter()
                    .find(|end| **end >= sent)
                    .copied()
                    .unwrap_or(sent);
                let fence = if at_message { sent } else { fence };
                assert_eq!(flat(&journal, true, &chunks), model.bytes[sent..fence]);
                let first = model.ends.iter().find(|end| **end > dropped);
                let first_sent = first.is_some_and(|end| *end <= sent);
                assert_eq!(journal.first_was_sent(&chunks), first_sent);
            }
            journal.clear(&mut chunks);
            assert_eq!(chunks.used(), 0);
        }
    }

    #[test]
    fn an_unfinished_message_is_dropped_unless_its_frame_was_cut() {
        let mut chunks = chunks();
        let rows = [(0, true), (3, true), (5, false), (7, false)];
        for (send, clean) in rows {
            let mut journal = Journal::new();
            journal.append(&[0x82, 0x01, 9], 0, true, &mut chunks);
            journal.append(&[0x02, 0x09, 1, 2], 7, false, &mut chunks);
            journal.advance(send, &chunks);
            assert_eq!(journal.drop_unfinished(&mut chunks), clean, "sent {send}");
            assert_eq!(journal.clear(&mut chunks), 1);
        }
        assert_eq!(chunks.used(), 0);
    }
}
