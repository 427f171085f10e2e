//! One direction of one connection, cut into what can be passed on and what must be answered.

use super::frame::{self, Header, Opcode, ProtocolError, Sender};
use super::mask;
use super::utf8::Utf8;

pub use super::frame::ControlPayload;

/// The state of one direction between two reads: where in a frame and in a message it stands.
/// Small and `Copy`, because there are two per session. After an error it must not be used again.
#[derive(Clone, Copy, Debug)]
pub struct Scanner {
    frame_left: u64,
    message_len: u64,
    fragments: u32,
    /// The key of the frame, turned to the phase of its next byte.
    mask: [u8; 4],
    utf8: Utf8,
    from: Sender,
    deflate: bool,
    /// The message that has begun and not ended.
    message: Option<Kind>,
    /// Whether the data frame that began last ends its message.
    fin: bool,
}

/// What a client may send. Servers' messages stream at any length and are not limited here.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of payload of one message, all fragments together; more is 1009.
    pub message_max: u64,
    /// Frames of one message; more is 1009. Empty fragments are free for who sends them and not
    /// for who keeps account of them.
    pub fragments_max: u32,
    /// Whether uncompressed text is checked.
    pub utf8: bool,
}

/// What stands at the start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, or an incomplete header or control frame, of at most 131 bytes: to be kept, and
    /// looked at again with more bytes behind it.
    More,
    /// The first `len` bytes belong to one data frame, its header included if it begins here, and
    /// are to be passed on as they are. The scanner stands behind them.
    Data {
        len: usize,
        begins_message: bool,
        begins_frame: bool,
        /// These bytes are the last of their message.
        ends_message: bool,
        /// The message is text, compressed or not.
        text: bool,
    },
    /// The first `len` bytes are a whole control frame. The scanner stands behind it.
    Control {
        len: usize,
        opcode: Opcode,
        payload: ControlPayload,
    },
}

impl Scanner {
    /// At the start of a connection. `deflate`: permessage-deflate was negotiated.
    pub const fn new(from: Sender, deflate: bool) -> Scanner {
        Scanner {
            frame_left: 0,
            message_len: 0,
            fragments: 0,
            mask: [0; 4],
            utf8: Utf8::new(),
            from,
            deflate,
            message: None,
            fin: true,
        }
    }

    /// Says what stands at the start of `input`, which is not changed: masked bytes stay masked.
    ///
    /// Errors: 1002 for what breaks the framing; from a client also 1007 for text that can't become
    /// UTF-8, 1009 for too many fragments or a message over the limit, all as soon as known.
    #[inline]
    pub fn step(&mut self, input: &[u8], limits: &Limits) -> Result<Step, ProtocolError> {
        if self.frame_left > 0 {
            return if input.is_empty() {
                Ok(Step::More)
            } else {
                self.pass(input, None, limits)
            };
        }
        match frame::parse(input, self.from, self.deflate) {
            Ok(None) => self.judge_incomplete(input, limits),
            Ok(Some(header)) if header.opcode.is_control() => Ok(take_control(input, &header)),
            Ok(Some(header)) => {
                self.begin(&header, limits)?;
                self.pass(input, Some(&header), limits)
            }
            Err(error) => Err(self.first_fault(input, limits, error)),
        }
    }

    /// Whether the next byte begins a frame: a control frame may be put in here.
    #[inline]
    pub fn at_frame_boundary(&self) -> bool {
        self.frame_left == 0
    }

    /// Whether the next byte begins a message (or is of a control frame between messages).
    #[inline]
    pub fn at_message_boundary(&self) -> bool {
        self.message.is_none()
    }

    /// Bytes of payload that the current data frame still lacks.
    #[inline]
    pub fn frame_left(&self) -> u64 {
        self.frame_left
    }

    /// Bytes of payload of the message, all of the current frame's included as soon as its header
    /// was seen. At a message boundary: of the message that ended last.
    #[inline]
    pub fn message_len(&self) -> u64 {
        self.message_len
    }

    /// Passes on what is there of the current frame, with its header if it begins here.
    #[inline]
    fn pass(
        &mut self,
        input: &[u8],
        begun: Option<&Header>,
        limits: &Limits,
    ) -> Result<Step, ProtocolError> {
        let header_len = begun.map_or(0, |header| usize::from(header.header_len));
        let there = input.len() - header_len;
        // Compared as u64: on a 32-bit host a frame can be longer than a usize.
        let len = if self.frame_left < there as u64 {
            self.frame_left as usize
        } else {
            there
        };
        let kind = self.message.unwrap_or(Kind::Binary);
        self.frame_left -= len as u64;
        let ends_message = self.fin && self.frame_left == 0;
        if kind == Kind::Checked && limits.utf8 {
            self.check_text(&input[header_len..header_len + len])?;
            if ends_message && self.utf8.finish().is_err() {
                return Err(NOT_UTF8);
            }
        }
        if self.from == Sender::Client {
            self.mask = mask::rotate(self.mask, len & 3);
        }
        if ends_message {
            self.message = None;
        }
        Ok(Step::Data {
            len: header_len + len,
            begins_message: begun.is_some_and(|header| header.opcode != Opcode::Continuation),
            begins_frame: begun.is_some(),
            ends_message,
            text: kind != Kind::Binary,
        })
    }

    /// Enters a data frame.
    #[inline]
    fn begin(&mut self, header: &Header, limits: &Limits) -> Result<(), ProtocolError> {
        self.check_order(header.opcode)?;
        self.check_caps(header.opcode, header.payload_len, limits)?;
        if header.opcode == Opcode::Continuation {
            self.message_len = self.message_len.saturating_add(header.payload_len);
            self.fragments = self.fragments.saturating_add(1);
        } else {
            self.message = Some(Kind::of(header, self.from));
            self.message_len = header.payload_len;
            self.fragments = 1;
            self.utf8 = Utf8::new();
        }
        self.fin = header.fin;
        self.frame_left = header.payload_len;
        self.mask = header.mask.unwrap_or_default();
        Ok(())
    }

    /// An incomplete header may already be wrong: its opcode is the first thing known, its length
    /// stands before its mask.
    #[cold]
    fn judge_incomplete(&self, input: &[u8], limits: &Limits) -> Result<Step, ProtocolError> {
        if let Some(seen) = frame::glimpse(input)
            && !seen.opcode.is_control()
        {
            self.check_order(seen.opcode)?;
            self.check_caps(seen.opcode, seen.payload_len.unwrap_or(0), limits)?;
        }
        Ok(Step::More)
    }

    /// Of a header with several faults the one that shows first is told, byte for byte: which close
    /// code a client gets must not depend on how the network cut its header.
    #[cold]
    fn first_fault(&self, input: &[u8], limits: &Limits, last: ProtocolError) -> ProtocolError {
        (1..=input.len().min(frame::HEADER_MAX))
            .find_map(|len| {
                let seen = &input[..len];
                frame::parse(seen, self.from, self.deflate)
                    .and_then(|_| self.judge_incomplete(seen, limits))
                    .err()
            })
            .unwrap_or(last)
    }

    /// RFC 6455 section 5.4: a continuation continues something, nothing else may come between.
    #[inline]
    fn check_order(&self, opcode: Opcode) -> Result<(), ProtocolError> {
        match (opcode == Opcode::Continuation, self.message.is_some()) {
            (true, false) => Err(ProtocolError::new(1002, "continuation of nothing")),
            (false, true) => Err(ProtocolError::new(1002, "message inside a message")),
            (true, true) | (false, false) => Ok(()),
        }
    }

    /// The limits of a client's message, judged before any of the frame's payload is taken.
    #[inline]
    fn check_caps(
        &self,
        opcode: Opcode,
        payload_len: u64,
        limits: &Limits,
    ) -> Result<(), ProtocolError> {
        if self.from == Sender::Server {
            return Ok(());
        }
        let (before, fragments) = match opcode {
            Opcode::Continuation => (self.message_len, self.fragments),
            _ => (0, 0),
        };
        // In the order in which the header shows it: first its opcode, then its length.
        if fragments >= limits.fragments_max {
            return Err(ProtocolError::new(1009, "too many fragments"));
        }
        if before.saturating_add(payload_len) > limits.message_max {
            return Err(ProtocolError::new(1009, "message too big"));
        }
        Ok(())
    }

    /// Checks masked text without writing to it. Most text is ASCII, which the mask can't hide: it
    /// is judged in place.
    #[inline]
    fn check_text(&mut self, masked: &[u8]) -> Result<(), ProtocolError> {
        // The block's length is a multiple of four: each block starts in the same phase.
        for block in masked.chunks(TEXT_BLOCK) {
            if !(self.utf8.is_whole() && mask::is_ascii(block, self.mask)) {
                self.check_block(block)?;
            }
        }
        Ok(())
    }

    /// Unmasks a block on the stack; apart, so that ASCII doesn't pay for clearing the stack.
    #[inline(never)]
    fn check_block(&mut self, masked: &[u8]) -> Result<(), ProtocolError> {
        let mut plain = [0; TEXT_BLOCK];
        let plain = &mut plain[..masked.len()];
        plain.copy_from_slice(masked);
        mask::apply(plain, self.mask);
        self.utf8.push(plain).map_err(|_| NOT_UTF8)
    }
}

/// What the current message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Binary,
    /// Text whose bytes are checked: a client's, not compressed.
    Checked,
    /// Text that passes unchecked.
    Unchecked,
}

impl Kind {
    #[inline]
    fn of(header: &Header, from: Sender) -> Kind {
        match (header.opcode == Opcode::Text, from) {
            (false, _) => Kind::Binary,
            (true, Sender::Client) if !header.rsv1 => Kind::Checked,
            (true, _) => Kind::Unchecked,
        }
    }
}

/// A control frame is taken whole or not at all.
fn take_control(input: &[u8], header: &Header) -> Step {
    let start = usize::from(header.header_len);
    // At most 125: `parse` has refused longer ones.
    let len = start + header.payload_len as usize;
    match input.get(start..len) {
        None => Step::More,
        Some(payload) => Step::Control {
            len,
            opcode: header.opcode,
            payload: ControlPayload::unmask(payload, header.mask),
        },
    }
}

/// Bytes unmasked at a time: large enough for the vector code, small enough for any stack.
const TEXT_BLOCK: usize = 1024;

const NOT_UTF8: ProtocolError = ProtocolError::new(1007, "text is not UTF-8");

const _: () = assert!(size_of::<Scanner>() <= 32);
const _: () = assert!(TEXT_BLOCK.is_multiple_of(4));

#[cfg(test)]
mod tests;
