//! Frame headers and control frames (RFC 6455 section 5).

use super::mask;
use std::ops::Deref;

/// What a frame is (RFC 6455 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xA,
}

impl Opcode {
    /// Whether it is Close, Ping or Pong, which may stand between the fragments of a message.
    #[inline]
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }

    /// The opcode of a frame's first byte; `None` if it is reserved.
    #[inline]
    const fn of(first: u8) -> Option<Opcode> {
        Some(match first & 0x0F {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xA => Opcode::Pong,
            _ => return None,
        })
    }
}

/// Who sent the bytes: a client must mask, a server must not (RFC 6455 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Client,
    Server,
}

/// A complete, legal frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub fin: bool,
    /// The message is compressed (RFC 7692 section 6).
    pub rsv1: bool,
    pub opcode: Opcode,
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload, below 2^63.
    pub payload_len: u64,
    /// Bytes of this header, mask included: 2 to 14.
    pub header_len: u8,
}

/// The peer broke the protocol. `code` is the close code that says so (RFC 6455 section 7.4.1):
/// 1002, 1007, 1008 or 1009.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolError {
    pub code: u16,
    pub reason: &'static str,
}

impl ProtocolError {
    /// An error with its close code.
    #[inline]
    pub const fn new(code: u16, reason: &'static str) -> ProtocolError {
        ProtocolError { code, reason }
    }
}

/// Reads the header at the start of `bytes`; `None` if it is incomplete and legal so far.
/// `deflate` says whether permessage-deflate was negotiated, which gives RSV1 a meaning.
///
/// An illegal header is refused at the first byte that makes it so, not when it is complete: an
/// attacker must not be able to park half a bad one. What depends on the frames before (whether a
/// continuation has something to continue) is the scanner's to judge.
#[inline]
pub fn parse(bytes: &[u8], from: Sender, deflate: bool) -> Result<Option<Header>, ProtocolError> {
    let Some(&first) = bytes.first() else {
        return Ok(None);
    };
    let opcode = check_first(first, deflate)?;
    let Some(&second) = bytes.get(1) else {
        return Ok(None);
    };
    check_second(second, opcode, from)?;
    let Some(payload_len) = payload_len(second, &bytes[2..])? else {
        return Ok(None);
    };
    let mask_at = 2 + extended_len(second);
    let mask = if second & MASKED == 0 {
        None
    } else if let Some(key) = bytes[mask_at..].first_chunk::<4>() {
        Some(*key)
    } else {
        return Ok(None);
    };
    Ok(Some(Header {
        fin: first & FIN != 0,
        rsv1: first & RSV1 != 0,
        opcode,
        mask,
        payload_len,
        header_len: (mask_at + if mask.is_some() { 4 } else { 0 }) as u8,
    }))
}

/// Reads again a header that [`parse`] has accepted before, without checking anything: header
/// length, payload length, fin and opcode. `None` if `head` ends before the length does; 14 bytes
/// are always enough.
#[inline]
pub fn peek_len(head: &[u8]) -> Option<(usize, u64, bool, Opcode)> {
    let [first, second, rest @ ..] = head else {
        return None;
    };
    let payload_len = match second & LENGTH {
        126 => u64::from(u16::from_be_bytes(*rest.first_chunk()?)),
        127 => u64::from_be_bytes(*rest.first_chunk()?),
        short => u64::from(short),
    };
    let mask_len = if second & MASKED == 0 { 0 } else { 4 };
    let header_len = 2 + extended_len(*second) + mask_len;
    Some((
        header_len,
        payload_len,
        first & FIN != 0,
        Opcode::of(*first)?,
    ))
}

/// What can be said of a header that is still incomplete, but was found legal by [`parse`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Glimpse {
    pub opcode: Opcode,
    /// Known before the mask is: a frame over the limit is refused without waiting for its key.
    pub payload_len: Option<u64>,
}

/// Looks at an incomplete header; `None` if there is not even a first byte.
pub(super) fn glimpse(bytes: &[u8]) -> Option<Glimpse> {
    let opcode = Opcode::of(*bytes.first()?)?;
    let payload_len = peek_len(bytes).map(|(_, payload_len, _, _)| payload_len);
    Some(Glimpse {
        opcode,
        payload_len,
    })
}

/// An encoded header.
#[derive(Clone, Copy, Debug)]
pub struct HeaderBytes {
    bytes: [u8; HEADER_MAX],
    len: u8,
}

impl Deref for HeaderBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Writes a header with the shortest length that fits, as the RFC demands.
#[inline]
pub fn encode_header(
    fin: bool,
    rsv1: bool,
    opcode: Opcode,
    payload_len: u64,
    mask: Option<[u8; 4]>,
) -> HeaderBytes {
    debug_assert!(
        payload_len < 1 << 63,
        "the top bit of a length must be zero"
    );
    debug_assert!(!opcode.is_control() || (fin && !rsv1 && payload_len <= 125));
    let mut bytes = [0; HEADER_MAX];
    bytes[0] = opcode as u8 | if fin { FIN } else { 0 } | if rsv1 { RSV1 } else { 0 };
    let mut len = 2;
    bytes[1] = match payload_len {
        0..=125 => payload_len as u8,
        126..=0xFFFF => {
            bytes[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            len = 4;
            126
        }
        _ => {
            bytes[2..10].copy_from_slice(&payload_len.to_be_bytes());
            len = 10;
            127
        }
    };
    if let Some(key) = mask {
        bytes[1] |= MASKED;
        bytes[len..len + 4].copy_from_slice(&key);
        len += 4;
    }
    HeaderBytes {
        bytes,
        len: len as u8,
    }
}

/// The payload of a control frame, unmasked.
#[derive(Clone, Copy)]
pub struct ControlPayload {
    bytes: [u8; CONTROL_PAYLOAD_MAX],
    len: u8,
}

impl ControlPayload {
    /// Copies a payload; bytes beyond 125 are left out.
    #[inline]
    pub fn new(payload: &[u8]) -> ControlPayload {
        let len = payload.len().min(CONTROL_PAYLOAD_MAX);
        let mut bytes = [0; CONTROL_PAYLOAD_MAX];
        bytes[..len].copy_from_slice(&payload[..len]);
        ControlPayload {
            bytes,
            len: len as u8,
        }
    }

    /// Copies a payload as it came and takes its mask off.
    #[inline]
    pub(super) fn unmask(payload: &[u8], key: Option<[u8; 4]>) -> ControlPayload {
        let mut copy = ControlPayload::new(payload);
        if let Some(key) = key {
            mask::apply(&mut copy.bytes[..usize::from(copy.len)], key);
        }
        copy
    }
}

impl Default for ControlPayload {
    fn default() -> ControlPayload {
        ControlPayload::new(&[])
    }
}

impl Deref for ControlPayload {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl PartialEq for ControlPayload {
    fn eq(&self, other: &ControlPayload) -> bool {
        **self == **other
    }
}

impl Eq for ControlPayload {}

impl std::fmt::Debug for ControlPayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.escape_ascii())
    }
}

/// A whole control frame.
#[derive(Clone, Copy, Debug)]
pub struct ControlBytes {
    bytes: [u8; CONTROL_MAX],
    len: u8,
}

impl Deref for ControlBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Makes a control frame. The payload is given plain and masked here if there is a key; bytes
/// beyond 125 are left out.
pub fn control(opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) -> ControlBytes {
    debug_assert!(opcode.is_control());
    debug_assert!(payload.len() <= CONTROL_PAYLOAD_MAX);
    let payload = &payload[..payload.len().min(CONTROL_PAYLOAD_MAX)];
    let head = encode_header(true, false, opcode, payload.len() as u64, mask);
    let mut bytes = [0; CONTROL_MAX];
    let end = head.len() + payload.len();
    bytes[..head.len()].copy_from_slice(&head);
    bytes[head.len()..end].copy_from_slice(payload);
    if let Some(key) = mask {
        mask::apply(&mut bytes[head.len()..end], key);
    }
    ControlBytes {
        bytes,
        len: end as u8,
    }
}

/// RSV bits, opcode, and what a control frame's first byte must say.
#[inline]
fn check_first(first: u8, deflate: bool) -> Result<Opcode, ProtocolError> {
    if first & RSV23 != 0 {
        return Err(ProtocolError::new(1002, "reserved bit set"));
    }
    let Some(opcode) = Opcode::of(first) else {
        return Err(ProtocolError::new(1002, "reserved opcode"));
    };
    // RFC 7692 section 6.1: only the first frame of a data message carries the bit.
    let may_compress = deflate && matches!(opcode, Opcode::Text | Opcode::Binary);
    if first & RSV1 != 0 && !may_compress {
        return Err(ProtocolError::new(1002, "unexpected compression bit"));
    }
    if opcode.is_control() && first & FIN == 0 {
        return Err(ProtocolError::new(1002, "fragmented control frame"));
    }
    Ok(opcode)
}

/// Masking by role, and the short length of control frames (RFC 6455 section 5.5).
#[inline]
fn check_second(second: u8, opcode: Opcode, from: Sender) -> Result<(), ProtocolError> {
    match (from, second & MASKED != 0) {
        (Sender::Client, false) => return Err(ProtocolError::new(1002, "frame without mask")),
        (Sender::Server, true) => return Err(ProtocolError::new(1002, "masked server frame")),
        (Sender::Client, true) | (Sender::Server, false) => {}
    }
    if opcode.is_control() && second & LENGTH > 125 {
        return Err(ProtocolError::new(1002, "control frame over 125 bytes"));
    }
    Ok(())
}

/// The payload length, given the second byte and those behind it. It must be the shortest form,
/// and each form is refused at the byte after which it can't be.
#[inline]
fn payload_len(second: u8, rest: &[u8]) -> Result<Option<u64>, ProtocolError> {
    match second & LENGTH {
        126 => {
            let Some(bytes) = rest.first_chunk() else {
                return Ok(None);
            };
            let len = u16::from_be_bytes(*bytes);
            if len < 126 {
                return Err(NOT_SHORTEST);
            }
            Ok(Some(u64::from(len)))
        }
        127 => {
            if rest.first().is_some_and(|top| top & 0x80 != 0) {
                return Err(ProtocolError::new(1002, "length over 63 bits"));
            }
            // Six zero bytes leave 16 bits, for which there is the shorter form.
            if rest.first_chunk() == Some(&[0; 6]) {
                return Err(NOT_SHORTEST);
            }
            Ok(rest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)))
        }
        short => Ok(Some(u64::from(short))),
    }
}

/// Bytes of the extended length that a second byte announces.
#[inline]
const fn extended_len(second: u8) -> usize {
    match second & LENGTH {
        126 => 2,
        127 => 8,
        _ => 0,
    }
}

/// Bytes of the longest header: 2, a length of 8, a mask of 4.
pub const HEADER_MAX: usize = 14;
/// RFC 6455 section 5.5.
pub const CONTROL_PAYLOAD_MAX: usize = 125;
/// Bytes of the longest control frame: its header has no extended length.
pub const CONTROL_MAX: usize = 2 + 4 + CONTROL_PAYLOAD_MAX;

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV23: u8 = 0x30;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7F;
const NOT_SHORTEST: ProtocolError = ProtocolError::new(1002, "length not in its shortest form");

#[cfg(test)]
pub(super) mod tests;
