//! RFC 6455 frames in the plainest way: the tests' own reading of the RFC, not the proxy's.

pub const CONTINUE: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    /// RSV1 to RSV3 as they stand in the first byte: 0x40 is RSV1.
    pub rsv: u8,
    pub opcode: u8,
    pub key: Option<[u8; 4]>,
    pub payload: Vec<u8>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = &self.payload[..self.payload.len().min(40)];
        write!(
            out,
            "Frame(fin {}, rsv {:#x}, opcode {}, masked {}, {} bytes: {})",
            self.fin,
            self.rsv,
            self.opcode,
            self.key.is_some(),
            self.payload.len(),
            start.escape_ascii()
        )
    }
}

impl Frame {
    pub fn new(opcode: u8, payload: &[u8]) -> Frame {
        Frame {
            fin: true,
            rsv: 0,
            opcode,
            key: None,
            payload: payload.to_vec(),
        }
    }

    /// As a client sends it.
    pub fn masked(opcode: u8, payload: &[u8]) -> Frame {
        Frame::new(opcode, payload).with_key([0x37, 0xFA, 0x21, 0x3D])
    }

    pub fn close(code: u16, reason: &str) -> Frame {
        Frame::new(CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat())
    }

    pub fn with_key(mut self, key: [u8; 4]) -> Frame {
        self.key = Some(key);
        self
    }

    pub fn unfinished(mut self) -> Frame {
        self.fin = false;
        self
    }

    pub fn with_rsv1(mut self) -> Frame {
        self.rsv = 0x40;
        self
    }

    /// The code and reason of a Close; an empty one is 1005 (RFC 6455 7.1.5).
    pub fn close_code(&self) -> (u16, String) {
        assert_eq!(self.opcode, CLOSE, "{self:?}");
        match self.payload.as_slice() {
            [] => (1005, String::new()),
            [high, low, reason @ ..] => {
                let reason = String::from_utf8(reason.to_vec()).expect("a reason is UTF-8");
                (u16::from_be_bytes([*high, *low]), reason)
            }
            [_] => panic!("a Close of one byte"),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let fin = if self.fin { 0x80 } else { 0 };
        let mask = if self.key.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![fin | self.rsv | self.opcode];
        match self.payload.len() {
            length @ 0..=125 => bytes.push(mask | length as u8),
            length @ 126..=0xFFFF => {
                bytes.push(mask | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                bytes.push(mask | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        if let Some(key) = self.key {
            bytes.extend_from_slice(&key);
            bytes.extend(
                self.payload
                    .iter()
                    .zip(key.iter().cycle())
                    .map(|(byte, key)| byte ^ key),
            );
        } else {
            bytes.extend_from_slice(&self.payload);
        }
        bytes
    }

    /// The frame at the start of `bytes` and its length there, once all of it has come.
    pub fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        let (length, mut at) = match second & 0x7F {
            126 => (
                u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
                4,
            ),
            127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
            short => (u64::from(short), 2),
        };
        let key: Option<[u8; 4]> = if second & 0x80 != 0 {
            at += 4;
            Some(bytes.get(at - 4..at)?.try_into().ok()?)
        } else {
            None
        };
        let end = at + usize::try_from(length).ok()?;
        let mut payload = bytes.get(at..end)?.to_vec();
        if let Some(key) = key {
            for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
                *byte ^= key;
            }
        }
        let (fin, rsv, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0F);
        Some((
            Frame {
                fin,
                rsv,
                opcode,
                key,
                payload,
            },
            end,
        ))
    }
}

/// Bytes from hex with spaces, as the tables of attacks write them.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let nibble = |digit: u8| (digit as char).to_digit(16).expect("a hex digit") as u8;
    digits
        .chunks(2)
        .map(|pair| nibble(pair[0]) << 4 | nibble(pair[1]))
        .collect()
}

#[test]
fn frames_come_back() {
    for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
        for frame in [
            Frame::new(TEXT, &vec![7; length]),
            Frame::masked(BINARY, &vec![9; length]),
        ] {
            let bytes = frame.bytes();
            assert_eq!(Frame::parse(&bytes), Some((frame, bytes.len())));
            assert_eq!(Frame::parse(&bytes[..bytes.len() - 1]), None);
        }
    }
    // RFC 6455 5.7: a masked "Hello".
    assert_eq!(
        Frame::masked(TEXT, b"Hello").bytes(),
        hex("8185 37fa213d 7f9f4d5158")
    );
}
