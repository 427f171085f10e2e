//! Messages that can be recognised, and the judge of what comes back.

use std::ops::Range;

/// Bytes of a message that name it; what is longer is filler that depends on them.
pub const LABEL_BYTES: usize = 32;

/// What a message says of itself: who sent it, which one it is, and when it was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    pub connection: u32,
    /// Counted from 0 on each connection.
    pub sequence: u64,
    /// Nanoseconds since the start of the run at which it was meant to be sent.
    pub due: u64,
}

impl Label {
    /// Printable, so that the same message may travel as text: 8, 12 and 12 hex digits.
    pub fn encode(self) -> [u8; LABEL_BYTES] {
        let mut out = [0; LABEL_BYTES];
        hex(&mut out[..8], self.connection.into());
        hex(&mut out[8..20], self.sequence);
        hex(&mut out[20..], self.due);
        out
    }

    /// Reads what `encode` wrote.
    pub fn decode(bytes: &[u8; LABEL_BYTES]) -> Option<Self> {
        let connection = unhex(&bytes[..8])? as u32;
        Some(Self {
            connection,
            sequence: unhex(&bytes[8..20])?,
            due: unhex(&bytes[20..])?,
        })
    }

    /// Where this message's filler begins in the endless pattern. Neighbours differ, so that a
    /// label over another message's body is noticed.
    fn filler_start(self) -> usize {
        let mixed = u64::from(self.connection) * 7 + self.sequence + self.due;
        (mixed % PERIOD as u64) as usize
    }

    /// Writes the message to `out`, whose length is the message's.
    pub fn write(self, out: &mut [u8]) {
        let (label, filler) = out.split_at_mut(LABEL_BYTES);
        label.copy_from_slice(&self.encode());
        let mut at = self.filler_start();
        for piece in filler.chunks_mut(PATTERN.len() - PERIOD) {
            piece.copy_from_slice(&PATTERN[at..at + piece.len()]);
            at = (at + piece.len()) % PERIOD;
        }
    }
}

/// Reads one message as it arrives, without storing more than its label.
pub struct Arrival {
    label: [u8; LABEL_BYTES],
    seen: usize,
    damaged: bool,
    /// Decoded once, when the label is complete.
    decoded: Option<Label>,
}

impl Arrival {
    pub fn new() -> Self {
        Self {
            label: [0; LABEL_BYTES],
            seen: 0,
            damaged: false,
            decoded: None,
        }
    }

    pub fn feed(&mut self, mut bytes: &[u8]) {
        if self.seen < LABEL_BYTES {
            let (head, rest) = bytes.split_at(bytes.len().min(LABEL_BYTES - self.seen));
            self.label[self.seen..self.seen + head.len()].copy_from_slice(head);
            self.seen += head.len();
            bytes = rest;
            if self.seen == LABEL_BYTES {
                self.decoded = Label::decode(&self.label);
            }
        }
        let Some(label) = self.decoded else {
            self.seen += bytes.len();
            return;
        };
        while !bytes.is_empty() {
            let at = (label.filler_start() + self.seen - LABEL_BYTES) % PERIOD;
            let (piece, rest) = bytes.split_at(bytes.len().min(PATTERN.len() - PERIOD));
            self.damaged |= *piece != PATTERN[at..at + piece.len()];
            self.seen += piece.len();
            bytes = rest;
        }
    }

    /// The message ends: its label, or `None` if it isn't one of ours, whole and `size` long.
    pub fn finish(&mut self, size: usize) -> Option<Label> {
        let whole = self.seen == size && !self.damaged;
        let label = self.decoded.filter(|_| whole);
        (self.seen, self.damaged, self.decoded) = (0, false, None);
        label
    }
}

/// What one echo means for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The one that was due.
    Good,
    /// Sent by us, but after ones that have not come: so many are missing now.
    Ahead { missing: u64 },
    /// One that was missing: it was overtaken, not lost.
    Late,
    /// It came before.
    Repeat,
    /// Another connection's message.
    Crossed,
    /// No message that was ever sent.
    Unknown,
}

/// The order in which one connection's echoes must come.
pub struct Sequence {
    connection: u32,
    /// The echo that is due.
    next: u64,
    /// Those that were overtaken. Empty, and without heap, while all is well.
    missing: Vec<Range<u64>>,
}

impl Sequence {
    pub fn new(connection: u32) -> Self {
        Self {
            connection,
            next: 0,
            missing: Vec::new(),
        }
    }

    /// Judges an echo, `sent` messages having been sent so far.
    pub fn see(&mut self, label: Label, sent: u64) -> Verdict {
        if label.connection != self.connection {
            return Verdict::Crossed;
        }
        if label.sequence >= sent {
            return Verdict::Unknown;
        }
        if label.sequence >= self.next {
            let missing = label.sequence - self.next;
            if missing > 0 {
                self.missing.push(self.next..label.sequence);
            }
            self.next = label.sequence + 1;
            return if missing > 0 {
                Verdict::Ahead { missing }
            } else {
                Verdict::Good
            };
        }
        if self.take_missing(label.sequence) {
            Verdict::Late
        } else {
            Verdict::Repeat
        }
    }

    fn take_missing(&mut self, sequence: u64) -> bool {
        let Some(index) = self
            .missing
            .iter()
            .position(|range| range.contains(&sequence))
        else {
            return false;
        };
        let range = self.missing.swap_remove(index);
        let halves = [range.start..sequence, sequence + 1..range.end];
        self.missing
            .extend(halves.into_iter().filter(|half| !half.is_empty()));
        true
    }

    /// Messages of `sent` that may still come in order.
    pub fn in_flight(&self, sent: u64) -> u64 {
        sent - self.next
    }

    /// Messages of `sent` that never came back, once nothing more is waited for.
    pub fn lost(&self, sent: u64) -> u64 {
        let missing: u64 = self
            .missing
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        missing + self.in_flight(sent)
    }
}

fn hex(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

fn unhex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |sum, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u64::from(value))
    })
}

/// The filler repeats after so many bytes: a prime, so that a shift by any power of two shows.
const PERIOD: usize = 61;

/// Long enough to compare a whole read at once from any starting point.
static PATTERN: [u8; 64 * 1024 + PERIOD] = {
    let mut pattern = [0; 64 * 1024 + PERIOD];
    let mut index = 0;
    while index < pattern.len() {
        pattern[index] = b'A' + (index % PERIOD) as u8;
        index += 1;
    }
    pattern
};

// 61 bytes from 'A' on end at '}': all printable.
const _: () = assert!(b'A' as usize + PERIOD <= 0x7e);

#[cfg(test)]
mod tests {
    use super::*;

    fn label(connection: u32, sequence: u64) -> Label {
        Label {
            connection,
            sequence,
            due: 0x0123_4567_89ab,
        }
    }

    fn message(label: Label, size: usize) -> Vec<u8> {
        let mut out = vec![0; size];
        label.write(&mut out);
        out
    }

    #[test]
    fn a_message_is_recognised_in_any_pieces() {
        for size in [32, 33, 64, 1024, 200_000] {
            let sent = label(7, 12_345_678_901);
            let bytes = message(sent, size);
            assert!(bytes.is_ascii());
            let mut arrival = Arrival::new();
            for piece in [1, 31, 32, 33, 1000, 65_536, 150_000] {
                bytes.chunks(piece).for_each(|chunk| arrival.feed(chunk));
                assert_eq!(
                    arrival.finish(size),
                    Some(sent),
                    "{size} in pieces of {piece}"
                );
            }
        }
    }

    #[test]
    fn damage_anywhere_is_noticed() {
        let bytes = message(label(3, 4), 200);
        let mut arrival = Arrival::new();
        for index in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[index] ^= 1;
            arrival.feed(&broken);
            // A changed digit may name another message, but then this is not its body.
            assert_eq!(arrival.finish(200), None, "byte {index}");
        }
        for cut in 0..200 {
            arrival.feed(&bytes[..cut]);
            assert_eq!(arrival.finish(200), None, "cut to {cut}");
        }
        let mut mixed = message(label(3, 4), 200);
        mixed[100..].copy_from_slice(&message(label(3, 5), 200)[100..]);
        arrival.feed(&mixed);
        assert_eq!(arrival.finish(200), None, "two messages in one");
    }

    /// The verdicts on echoes of connection 1 that come in this order, and the losses of 10 sent.
    fn judge(order: &[u64]) -> (Vec<Verdict>, u64) {
        let mut sequence = Sequence::new(1);
        let verdicts = order
            .iter()
            .map(|number| sequence.see(label(1, *number), 10))
            .collect();
        (verdicts, sequence.lost(10))
    }

    #[test]
    fn order_is_good_and_the_rest_is_in_flight() {
        let (verdicts, lost) = judge(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Good));
        assert_eq!(lost, 0);
        assert_eq!(judge(&[0, 1, 2]).1, 7);
    }

    #[test]
    fn a_loss_is_seen() {
        use Verdict::*;
        let (verdicts, lost) = judge(&[0, 1, 4, 5, 6, 7, 8, 9]);
        assert_eq!(verdicts[2], Ahead { missing: 2 });
        assert_eq!(lost, 2);
        assert_eq!(judge(&[0, 2, 4, 6, 8, 9]).1, 4);
        assert_eq!(judge(&[1, 2, 3, 4, 5, 6, 7, 8, 9]).1, 1);
    }

    #[test]
    fn a_repeat_is_seen() {
        use Verdict::*;
        let (verdicts, lost) = judge(&[0, 1, 1, 2, 0, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(verdicts[..6], [Good, Good, Repeat, Good, Repeat, Good]);
        assert_eq!(lost, 0);
    }

    #[test]
    fn a_swap_is_disorder_and_no_loss() {
        use Verdict::*;
        let (verdicts, lost) = judge(&[0, 2, 1, 3, 4, 5, 6, 9, 7, 8]);
        assert_eq!(verdicts[..4], [Good, Ahead { missing: 1 }, Late, Good]);
        assert_eq!(verdicts[7..], [Ahead { missing: 2 }, Late, Late]);
        assert_eq!(lost, 0);
        // One that was late once is a repeat the next time, and the middle of a gap splits it.
        let (verdicts, lost) = judge(&[0, 5, 3, 3, 1]);
        assert_eq!(verdicts[1..], [Ahead { missing: 4 }, Late, Repeat, Late]);
        assert_eq!(lost, 2 + 4);
    }

    #[test]
    fn strangers_and_inventions_are_seen() {
        let mut sequence = Sequence::new(1);
        assert_eq!(sequence.see(label(2, 0), 10), Verdict::Crossed);
        assert_eq!(sequence.see(label(1, 10), 10), Verdict::Unknown);
        assert_eq!(sequence.see(label(1, 0), 10), Verdict::Good);
    }
}
