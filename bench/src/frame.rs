//! WebSocket frames (RFC 6455, 5.2), read in pieces and in place.

use std::ops::Range;

/// Which peer's frames are read: a client's are masked, a server's are not (RFC 6455, 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
}

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The longest header: two bytes, eight of length, four of mask.
pub const HEADER_MAX: usize = 14;
/// The longest payload of a control frame (RFC 6455, 5.5).
pub const CONTROL_MAX: usize = 125;

/// The first two to fourteen bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub fin: bool,
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    pub payload_bytes: u64,
}

/// Why the peer must be closed with 1002.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A reserved bit, though no extension was agreed on.
    ReservedBit,
    /// An opcode that no one has defined.
    ReservedOpcode,
    /// A server's frame has a mask, or a client's has none.
    Mask,
    /// A length in more bytes than it needs, or with its highest bit set.
    Length,
    /// A control frame in fragments or longer than 125 bytes.
    Control,
    /// A continuation of nothing, or a message within a message.
    Sequence,
}

impl Header {
    pub fn is_control(&self) -> bool {
        self.opcode >= CLOSE
    }

    /// Reads a header from the start of `bytes` and says how long it is; `None` if it is cut.
    ///
    /// # Errors
    /// What no later byte can mend.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let &[first, second, ..] = bytes else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(FrameError::ReservedBit);
        }
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        if !matches!(opcode, CONTINUATION..=BINARY | CLOSE..=PONG) {
            return Err(FrameError::ReservedOpcode);
        }
        let short = second & 0x7f;
        if opcode >= CLOSE && (!fin || usize::from(short) > CONTROL_MAX) {
            return Err(FrameError::Control);
        }
        let Some((payload_bytes, length_end)) = parse_length(bytes, short)? else {
            return Ok(None);
        };
        let masked = second & 0x80 != 0;
        let header_bytes = length_end + if masked { 4 } else { 0 };
        if bytes.len() < header_bytes {
            return Ok(None);
        }
        let mask = masked.then(|| {
            let key = &bytes[length_end..header_bytes];
            [key[0], key[1], key[2], key[3]]
        });
        Ok(Some((
            Self {
                fin,
                opcode,
                mask,
                payload_bytes,
            },
            header_bytes,
        )))
    }

    /// Bytes that `write` will use.
    pub fn encoded_bytes(&self) -> usize {
        let length = match self.payload_bytes {
            0..=125 => 2,
            126..=0xffff => 4,
            _ => 10,
        };
        length + if self.mask.is_some() { 4 } else { 0 }
    }

    /// Writes the header to the start of `out`, which has room for it, and returns its length.
    pub fn write(&self, out: &mut [u8]) -> usize {
        out[0] = u8::from(self.fin) << 7 | self.opcode;
        let masked = u8::from(self.mask.is_some()) << 7;
        let mut at = match self.payload_bytes {
            short @ 0..=125 => {
                out[1] = masked | short as u8;
                2
            }
            medium @ 126..=0xffff => {
                out[1] = masked | 126;
                out[2..4].copy_from_slice(&(medium as u16).to_be_bytes());
                4
            }
            long => {
                out[1] = masked | 127;
                out[2..10].copy_from_slice(&long.to_be_bytes());
                10
            }
        };
        if let Some(key) = self.mask {
            out[at..at + 4].copy_from_slice(&key);
            at += 4;
        }
        at
    }
}

/// The payload's length and where it ends in `bytes`.
fn parse_length(bytes: &[u8], short: u8) -> Result<Option<(u64, usize)>, FrameError> {
    match short {
        126 => {
            let Some(&[high, low]) = bytes.get(2..4) else {
                return Ok(None);
            };
            let length = u16::from_be_bytes([high, low]);
            // The shortest form is demanded, else two parsers may disagree (RFC 6455, 5.2).
            if length < 126 {
                return Err(FrameError::Length);
            }
            Ok(Some((length.into(), 4)))
        }
        127 => {
            let Some(long) = bytes.get(2..10) else {
                return Ok(None);
            };
            let length = long
                .iter()
                .fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            if length <= 0xffff || length >> 63 == 1 {
                return Err(FrameError::Length);
            }
            Ok(Some((length, 10)))
        }
        _ => Ok(Some((short.into(), 2))),
    }
}

/// Masks or unmasks `bytes`, whose first byte is the `phase`-th of its payload (RFC 6455, 5.3).
pub fn mask(bytes: &mut [u8], key: [u8; 4], phase: u64) {
    let mut turned = key;
    turned.rotate_left((phase % 4) as usize);
    // Eight at a time; the compiler makes vectors of it.
    let wide = u64::from_ne_bytes(std::array::from_fn(|index| turned[index % 4]));
    let (eights, rest) = bytes.as_chunks_mut::<8>();
    for eight in eights {
        *eight = (u64::from_ne_bytes(*eight) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(turned.iter().cycle()) {
        *byte ^= key;
    }
}

/// Reads one peer's frames from any segmentation, without keeping payload.
pub struct Reader {
    header: Header,
    /// Payload of the open frame that has not come yet.
    left: u64,
    /// The start of a header whose rest has not come.
    spill: [u8; HEADER_MAX],
    spilled: u8,
    sender: Sender,
    /// A message was begun and has not ended: only continuations may follow.
    in_message: bool,
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// All that is there has been read.
    NeedMore,
    /// A frame begins; its payload, if it has one, follows as `Payload`.
    Begin(Header),
    /// Some payload, in the buffer that was passed; `phase` is its offset in the frame.
    Payload {
        range: Range<usize>,
        phase: u64,
        last: bool,
    },
}

impl Reader {
    pub fn new(sender: Sender) -> Self {
        let header = Header {
            fin: true,
            opcode: BINARY,
            mask: None,
            payload_bytes: 0,
        };
        let (spill, spilled) = ([0; HEADER_MAX], 0);
        Self {
            header,
            left: 0,
            spill,
            spilled,
            sender,
            in_message: false,
        }
    }

    /// The frame that was begun last.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Reads on in `bytes` from `*at`, which it moves.
    ///
    /// # Errors
    /// The peer broke the protocol; nothing after it can be trusted.
    pub fn step(&mut self, bytes: &[u8], at: &mut usize) -> Result<Step, FrameError> {
        if self.left > 0 {
            return Ok(self.payload(bytes.len(), at));
        }
        let Some(header) = self.next_header(bytes, at)? else {
            return Ok(Step::NeedMore);
        };
        self.check(&header)?;
        self.header = header;
        self.left = header.payload_bytes;
        Ok(Step::Begin(header))
    }

    fn payload(&mut self, end: usize, at: &mut usize) -> Step {
        let there = end - *at;
        if there == 0 {
            return Step::NeedMore;
        }
        let count = usize::try_from(self.left).map_or(there, |left| left.min(there));
        let phase = self.header.payload_bytes - self.left;
        let range = *at..*at + count;
        *at += count;
        self.left -= count as u64;
        Step::Payload {
            range,
            phase,
            last: self.left == 0,
        }
    }

    fn next_header(&mut self, bytes: &[u8], at: &mut usize) -> Result<Option<Header>, FrameError> {
        let rest = &bytes[*at..];
        let had = usize::from(self.spilled);
        if had == 0
            && let Some((header, used)) = Header::parse(rest)?
        {
            *at += used;
            return Ok(Some(header));
        }
        let taken = rest.len().min(HEADER_MAX - had);
        self.spill[had..had + taken].copy_from_slice(&rest[..taken]);
        match Header::parse(&self.spill[..had + taken])? {
            Some((header, used)) => {
                debug_assert!(used > had, "a complete header would not have been kept");
                *at += used - had;
                self.spilled = 0;
                Ok(Some(header))
            }
            None => {
                *at += taken;
                self.spilled = (had + taken) as u8;
                Ok(None)
            }
        }
    }

    /// What one header alone cannot show: the right mask, and its place in a message.
    fn check(&mut self, header: &Header) -> Result<(), FrameError> {
        if header.mask.is_some() != (self.sender == Sender::Client) {
            return Err(FrameError::Mask);
        }
        if header.is_control() {
            return Ok(());
        }
        if (header.opcode == CONTINUATION) != self.in_message {
            return Err(FrameError::Sequence);
        }
        self.in_message = !header.fin;
        Ok(())
    }
}

/// The code in a Close's payload, `None` if it has none (RFC 6455, 5.5.1 and 7.4).
///
/// # Errors
/// The code to answer with: 1002 for a bad code, 1007 for a reason that is no text.
pub fn close_code(payload: &[u8]) -> Result<Option<u16>, u16> {
    match payload {
        [] => Ok(None),
        [_] => Err(1002),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(1002);
            }
            std::str::from_utf8(reason)
                .map(|_| Some(code))
                .map_err(|_| 1007)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tungstenite::protocol::frame::{Frame, FrameHeader};

    fn header(opcode: u8, payload_bytes: u64, mask: Option<[u8; 4]>) -> Header {
        Header {
            fin: true,
            opcode,
            mask,
            payload_bytes,
        }
    }

    /// A frame as an independent implementation writes it.
    fn oracle(opcode: u8, fin: bool, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
        let header = FrameHeader {
            is_final: fin,
            opcode: opcode.into(),
            mask: key,
            ..FrameHeader::default()
        };
        let mut out = Vec::new();
        Frame::from_payload(header, payload.to_vec().into())
            .format(&mut out)
            .unwrap();
        out
    }

    #[test]
    fn headers_are_those_of_an_independent_codec() {
        for length in [0, 1, 125, 126, 127, 0xffff, 0x1_0000, 5 << 20] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let ours = header(BINARY, length, mask);
                let mut bytes = [0; HEADER_MAX];
                let used = ours.write(&mut bytes);
                assert_eq!(used, ours.encoded_bytes());
                let mut theirs = Vec::new();
                let format = FrameHeader {
                    is_final: true,
                    opcode: BINARY.into(),
                    mask,
                    ..FrameHeader::default()
                };
                format.format(length, &mut theirs).unwrap();
                assert_eq!(bytes[..used], theirs[..], "{length}");
                for cut in 0..used {
                    assert_eq!(
                        Header::parse(&bytes[..cut]),
                        Ok(None),
                        "{length} cut at {cut}"
                    );
                }
                assert_eq!(Header::parse(&bytes), Ok(Some((ours, used))));
            }
        }
    }

    #[test]
    fn masking_is_its_own_inverse_in_any_phase() {
        let key = [0x11, 0x22, 0x33, 0x44];
        for length in 0..40 {
            let plain: Vec<u8> = (0..length).collect();
            let mut bytes = plain.clone();
            for (index, byte) in bytes.iter_mut().enumerate() {
                *byte ^= key[index % 4];
            }
            for split in 0..=bytes.len() {
                let mut pieces = bytes.clone();
                let (left, right) = pieces.split_at_mut(split);
                mask(left, key, 0);
                mask(right, key, split as u64);
                assert_eq!(pieces, plain, "{length} split at {split}");
            }
        }
    }

    /// Reads all of `pieces` and returns the headers and the unmasked payload of all frames.
    fn read(sender: Sender, pieces: &[&[u8]]) -> Result<(Vec<Header>, Vec<u8>), FrameError> {
        let mut reader = Reader::new(sender);
        let (mut headers, mut payload) = (Vec::new(), Vec::new());
        for piece in pieces {
            let mut piece = piece.to_vec();
            let mut at = 0;
            loop {
                match reader.step(&piece, &mut at)? {
                    Step::NeedMore => break,
                    Step::Begin(header) => headers.push(header),
                    Step::Payload { range, phase, .. } => {
                        let bytes = &mut piece[range];
                        mask(bytes, reader.header().mask.unwrap_or_default(), phase);
                        payload.extend_from_slice(bytes);
                    }
                }
            }
            assert_eq!(at, piece.len());
        }
        Ok((headers, payload))
    }

    #[test]
    fn any_segmentation_gives_the_same_frames() {
        let key = Some([9, 8, 7, 6]);
        let mut stream = oracle(TEXT, false, b"Hel", key);
        stream.extend(oracle(PING, true, b"now", key));
        stream.extend(oracle(CONTINUATION, true, &[b'x'; 300], key));
        stream.extend(oracle(BINARY, true, b"", key));
        let whole = read(Sender::Client, &[&stream]).unwrap();
        assert_eq!(whole.0.len(), 4);
        assert_eq!(whole.1.len(), 306);
        assert!(whole.1.starts_with(b"Helnowxxx"));
        for split in 0..=stream.len() {
            let (left, right) = stream.split_at(split);
            assert_eq!(
                read(Sender::Client, &[left, right]).unwrap(),
                whole,
                "split at {split}"
            );
        }
        let bytewise: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(read(Sender::Client, &bytewise).unwrap(), whole);
    }

    #[test]
    fn what_the_rfc_forbids_is_refused_with_its_reason() {
        use FrameError::*;
        let cases: [(&[u8], FrameError); 11] = [
            (&[0xc2, 0x00], ReservedBit),
            (&[0x83, 0x00], ReservedOpcode),
            (&[0x8b, 0x00], ReservedOpcode),
            (&[0x09, 0x00], Control),
            (&[0x89, 0x7e, 0, 126], Control),
            (&[0x82, 0x7e, 0, 125], Length),
            (&[0x82, 0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0xff], Length),
            (&[0x82, 0x7f, 0x80, 0, 0, 0, 0, 1, 0, 0], Length),
            (&[0x82, 0x80, 1, 2, 3, 4], Mask),
            (&[0x80, 0x00], Sequence),
            (&[0x02, 0x00, 0x82, 0x00], Sequence),
        ];
        for (bytes, error) in cases {
            assert_eq!(read(Sender::Server, &[bytes]), Err(error), "{bytes:02x?}");
        }
        assert_eq!(read(Sender::Client, &[&[0x82, 0x00]]), Err(Mask));
    }

    #[test]
    fn close_payloads_are_judged() {
        assert_eq!(close_code(&[]), Ok(None));
        assert_eq!(close_code(&[0x03, 0xe8, b'b', b'y', b'e']), Ok(Some(1000)));
        assert_eq!(close_code(&[0x03]), Err(1002));
        for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000] {
            assert_eq!(close_code(&code.to_be_bytes()), Err(1002), "{code}");
        }
        assert_eq!(close_code(&[0x03, 0xe8, 0xff]), Err(1007));
    }
}
