//! The peers' own WebSocket: written apart from the proxy's, so that they can't err together.

use crate::kit::Prng;

/// What a peer reads.
#[derive(Debug)]
pub enum Item {
    /// A whole message, and whether it is text.
    Message(Vec<u8>, bool),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

/// Puts frames together.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    at: usize,
    message: Vec<u8>,
    text: bool,
    open: bool,
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether the stream stands inside a frame.
    pub fn is_cut(&self) -> bool {
        self.at < self.bytes.len()
    }

    /// Whether it stands inside a message.
    pub fn is_open(&self) -> bool {
        self.open || self.is_cut()
    }

    /// The next whole thing; an error says what is wrong with it.
    pub fn next(&mut self, masked: bool) -> Result<Option<Item>, String> {
        loop {
            let input = &self.bytes[self.at..];
            let Some((header, length)) = read_header(input, masked)? else {
                return Ok(None);
            };
            if input.len() < header + length {
                return Ok(None);
            }
            let (first, begin) = (input[0], self.at + header);
            self.at = begin + length;
            if masked {
                let key: [u8; 4] = self.bytes[begin - 4..begin].try_into().expect("four bytes");
                for (byte, key) in self.bytes[begin..self.at]
                    .iter_mut()
                    .zip(key.iter().cycle())
                {
                    *byte ^= key;
                }
            }
            let payload = &self.bytes[begin..self.at];
            let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
            match opcode {
                0..=2 => {
                    if (opcode == 0) != self.open {
                        return Err(format!(
                            "opcode {opcode} with a message open: {}",
                            self.open
                        ));
                    }
                    if opcode > 0 {
                        self.text = opcode == 1;
                    }
                    self.message.extend_from_slice(payload);
                    self.open = !fin;
                    if fin {
                        return Ok(Some(Item::Message(
                            std::mem::take(&mut self.message),
                            self.text,
                        )));
                    }
                }
                _ if !fin || length > 125 => return Err("a long or cut control frame".into()),
                8 => return read_close(payload).map(Some),
                9 => return Ok(Some(Item::Ping(payload.to_vec()))),
                10 => return Ok(Some(Item::Pong(payload.to_vec()))),
                _ => return Err(format!("opcode {opcode}")),
            }
        }
    }
}

fn read_header(input: &[u8], masked: bool) -> Result<Option<(usize, usize)>, String> {
    if input.len() < 2 {
        return Ok(None);
    }
    if input[0] & 0x70 != 0 {
        return Err(format!("reserved bits in {:02x}", input[0]));
    }
    if (input[1] & 0x80 != 0) != masked {
        return Err("a mask where none belongs, or none where one does".into());
    }
    let short = usize::from(input[1] & 0x7f);
    let wide = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let header = 2 + wide + if masked { 4 } else { 0 };
    if input.len() < header {
        return Ok(None);
    }
    let long = input[2..2 + wide]
        .iter()
        .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let length = if wide == 0 { short } else { long as usize };
    if length > 1 << 20 {
        return Err(format!("a frame of {length} bytes"));
    }
    Ok(Some((header, length)))
}

fn read_close(payload: &[u8]) -> Result<Item, String> {
    if payload.is_empty() {
        return Ok(Item::Close(None, String::new()));
    }
    if payload.len() == 1 {
        return Err("a Close of one byte".into());
    }
    let code = u16::from_be_bytes([payload[0], payload[1]]);
    let reason = std::str::from_utf8(&payload[2..]).map_err(|_| "a reason that is not UTF-8")?;
    let legal = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if !legal {
        return Err(format!("Close code {code}"));
    }
    Ok(Item::Close(Some(code), reason.to_string()))
}

/// One frame.
pub fn frame(first: u8, payload: &[u8], mask: Option<[u8; 4]>, into: &mut Vec<u8>) {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    into.push(first);
    match payload.len() {
        length @ 0..=125 => into.push(bit | length as u8),
        length @ 126..=0xffff => {
            into.push(bit | 126);
            into.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            into.push(bit | 127);
            into.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let Some(key) = mask else {
        return into.extend_from_slice(payload);
    };
    into.extend_from_slice(&key);
    into.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
}

/// A Close.
pub fn close(code: Option<u16>, reason: &str, mask: Option<[u8; 4]>, into: &mut Vec<u8>) {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
    }
    frame(0x88, &payload, mask, into);
}

/// A message in frames of random sizes, some of them empty, now and then a control frame between.
pub fn message(
    payload: &[u8],
    text: bool,
    masked: bool,
    between: impl Fn(&mut Prng) -> Option<(u8, Vec<u8>)>,
    rng: &mut Prng,
) -> Vec<u8> {
    let mut into = Vec::with_capacity(payload.len() + 64);
    let opcode = if text { 1 } else { 2 };
    let frames = if rng.chance(1, 4) {
        2 + rng.below(4)
    } else {
        1
    };
    let mut at = 0;
    for n in 0..frames {
        let last = n + 1 == frames;
        let left = payload.len() - at;
        let size = if last {
            left
        } else {
            rng.below(left as u32 + 1) as usize
        };
        let mask = masked.then(|| rng.mask_key());
        let first = if n == 0 { opcode } else { 0 } | if last { 0x80 } else { 0 };
        frame(first, &payload[at..at + size], mask, &mut into);
        at += size;
        if !last && let Some((first, payload)) = between(rng) {
            let mask = masked.then(|| rng.mask_key());
            frame(first, &payload, mask, &mut into);
        }
    }
    into
}

/// The content of message `n` of `sender`: it names itself, and all of it follows from that, so that
/// torn or foreign bytes show. ASCII, because text is checked.
pub fn content(sender: u32, n: u32, length: usize) -> Vec<u8> {
    let length = length.max(HEAD);
    let mut bytes = Vec::with_capacity(length + 8);
    bytes.extend_from_slice(format!("{sender:08x}{n:08x}{length:08x}").as_bytes());
    let mut state =
        (u64::from(sender) << 32 | u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let eight = (state & 0x3f3f_3f3f_3f3f_3f3f) + 0x2020_2020_2020_2020;
        bytes.extend_from_slice(&eight.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Whose message it is, if it is whole, unchanged and of the right type.
pub fn recognise(payload: &[u8], text: bool) -> Result<(u32, u32), String> {
    let number = |at: usize| {
        let digits = payload
            .get(at..at + 8)
            .and_then(|bytes| std::str::from_utf8(bytes).ok());
        digits.and_then(|digits| u32::from_str_radix(digits, 16).ok())
    };
    let (Some(sender), Some(n), Some(length)) = (number(0), number(8), number(16)) else {
        return Err(format!("{} bytes that nobody sent", payload.len()));
    };
    if length as usize != payload.len() {
        return Err(format!(
            "message {n} of {sender:x}: {} bytes of {length}",
            payload.len()
        ));
    }
    if content(sender, n, payload.len()) != payload {
        return Err(format!("message {n} of {sender:x} has other bytes"));
    }
    if text != is_text(n) {
        return Err(format!("message {n} of {sender:x} has changed its type"));
    }
    Ok((sender, n))
}

/// The type that message `n` has.
pub fn is_text(n: u32) -> bool {
    !n.is_multiple_of(3)
}

/// Bytes in which a message names itself.
const HEAD: usize = 24;
