//! Bodies of HTTP/1.1 messages: where they end (RFC 9112 section 6) and what is payload in them.

use super::head::{HeadError, Request, Response, is_token_byte, is_value_byte};
use std::ops::Range;

/// The decoder of one body. It keeps no bytes: whatever it says, the caller is done with them.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    state: State,
    /// The status of its errors: 400 for a request's body, 502 for a response's.
    blame: u16,
}

/// What stands at the start of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyStep {
    /// These bytes of the input are payload. The decoder stands behind them; it starts at 0.
    Data(Range<usize>),
    /// So many bytes are framing and mean nothing to anybody else.
    Skip(usize),
    /// The input is empty and the body goes on.
    More,
    /// The body has ended, with so many bytes of framing more. What follows is the next message.
    Done(usize),
}

impl Body {
    /// The body of a request: none, a length, or chunks; never up to the end of the connection
    /// (RFC 9112 section 6.3, V13).
    ///
    /// Errors: 400 or 501, for a head that [`Request::parse`] would have refused.
    pub fn of_request(request: &Request<'_>) -> Result<Body, HeadError> {
        let headers = &request.headers;
        let state = match (headers.is_chunked()?, headers.content_length()?) {
            (true, None) => State::SIZE,
            (false, length) => State::Length(length.unwrap_or(0)),
            (true, Some(_)) => return Err(HeadError::new(400, TWO_LENGTHS)),
        };
        Ok(Body { state, blame: 400 })
    }

    /// The body of the response to a request of that method. It must not be asked about a 101 to an
    /// upgrade, behind which no HTTP follows.
    ///
    /// Errors: 502 if the framing is ambiguous, even where there can't be a body.
    pub fn of_response(method: &str, response: &Response<'_>) -> Result<Body, HeadError> {
        let blame = |error: HeadError| HeadError::new(502, error.reason);
        let chunked = response.headers.is_chunked().map_err(blame)?;
        let length = response.headers.content_length().map_err(blame)?;
        if chunked && length.is_some() {
            return Err(HeadError::new(502, TWO_LENGTHS));
        }
        if chunked && response.minor_version == 0 {
            return Err(HeadError::new(502, "transfer coding in HTTP/1.0"));
        }
        let bodiless = method == "HEAD" || matches!(response.status, 100..=199 | 204 | 304);
        let state = match length {
            _ if bodiless => State::Length(0),
            _ if chunked => State::SIZE,
            Some(length) => State::Length(length),
            None => State::UntilClose,
        };
        Ok(Body { state, blame: 502 })
    }

    /// The length if the head told it; `None` for chunks and for a body that ends with its
    /// connection. Once bytes were read: what is left.
    pub fn length(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// Whether the body lasts until the connection ends.
    pub fn is_until_close(&self) -> bool {
        matches!(self.state, State::UntilClose)
    }

    /// Whether all of it was read.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Length(0))
    }

    /// The connection has ended. Errors if the body had not, and so is cut.
    pub fn close(&self) -> Result<(), HeadError> {
        if self.is_done() || self.is_until_close() {
            return Ok(());
        }
        Err(HeadError::new(self.blame, "body cut off"))
    }

    /// Says what stands at the start of `input`, and moves behind it. All of `input` may be gone
    /// through by calling again with the rest; nothing must be kept for the next read.
    ///
    /// Errors: chunk framing that is not to the letter (V9, V10), or too much of it.
    pub fn step(&mut self, input: &[u8]) -> Result<BodyStep, HeadError> {
        match &mut self.state {
            State::Length(0) => Ok(BodyStep::Done(0)),
            State::UntilClose | State::Length(_) | State::Data(_) if input.is_empty() => {
                Ok(BodyStep::More)
            }
            State::UntilClose => Ok(BodyStep::Data(0..input.len())),
            State::Length(left) => Ok(BodyStep::Data(0..take(left, input.len()))),
            State::Data(left) => {
                let len = take(left, input.len());
                if *left == 0 {
                    self.state = State::DataEnd;
                }
                Ok(BodyStep::Data(0..len))
            }
            _ => self.framing(input),
        }
    }

    /// Goes through framing up to the next payload.
    fn framing(&mut self, input: &[u8]) -> Result<BodyStep, HeadError> {
        for (at, byte) in input.iter().enumerate() {
            let next = self.state.after(*byte);
            self.state = next.map_err(|reason| HeadError::new(self.blame, reason))?;
            match self.state {
                State::Length(_) => return Ok(BodyStep::Done(at + 1)),
                State::Data(_) => return Ok(BodyStep::Skip(at + 1)),
                _ => {}
            }
        }
        Ok(if input.is_empty() {
            BodyStep::More
        } else {
            BodyStep::Skip(input.len())
        })
    }
}

/// Where in its body a decoder stands. Sizes of the chunked kind follow RFC 9112 section 7.1:
///
/// ```text
/// Size -> (Name -> Extension <-> Quoted -> ..) -> SizeEnd -> Data -> DataEnd -> DataEndLf -> Size
/// Size 0 ->                              .. -> SizeEnd -> Trailer.. -> End -> Length(0)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Bytes left; none left is the end of a body of any kind.
    Length(u64),
    UntilClose,
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind a semicolon: an extension's name must come.
    Name {
        size: u64,
        spent: u16,
    },
    Extension {
        size: u64,
        spent: u16,
    },
    Quoted {
        size: u64,
        spent: u16,
        escaped: bool,
    },
    /// Behind the CR of the size line.
    SizeEnd {
        size: u64,
    },
    Data(u64),
    DataEnd,
    DataEndLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    TrailerStart {
        spent: u16,
    },
    TrailerName {
        spent: u16,
    },
    TrailerValue {
        spent: u16,
    },
    TrailerEnd {
        spent: u16,
    },
    End,
}

impl State {
    const SIZE: State = State::Size { size: 0, digits: 0 };

    /// The state behind one byte of framing.
    fn after(self, byte: u8) -> Result<State, &'static str> {
        match self {
            State::Size { .. }
            | State::Name { .. }
            | State::Extension { .. }
            | State::Quoted { .. }
            | State::SizeEnd { .. } => self.after_size_line(byte),
            State::TrailerStart { .. }
            | State::TrailerName { .. }
            | State::TrailerValue { .. }
            | State::TrailerEnd { .. } => self.after_trailer(byte),
            State::DataEnd if byte == b'\r' => Ok(State::DataEndLf),
            State::DataEndLf if byte == b'\n' => Ok(State::SIZE),
            State::End if byte == b'\n' => Ok(State::Length(0)),
            State::DataEnd | State::DataEndLf | State::End => Err("chunk without its CRLF"),
            // `step` hands these out as payload and never comes here with them.
            State::Length(_) | State::UntilClose | State::Data(_) => Err("payload is no framing"),
        }
    }

    /// Sizes have 1 to 16 digits, which always fit; no blank stands around them. An extension is
    /// read by its grammar and dropped: lax readers of it have been smuggled past (V10).
    fn after_size_line(self, byte: u8) -> Result<State, &'static str> {
        match (self, byte) {
            (State::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == SIZE_DIGITS_MAX {
                    return Err("chunk size too long");
                }
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                Ok(State::Size {
                    size: size << 4 | digit,
                    digits: digits + 1,
                })
            }
            (State::Size { digits: 0, .. }, _) => Err("no chunk size"),
            (State::Size { size, .. } | State::Extension { size, .. }, b'\r') => {
                Ok(State::SizeEnd { size })
            }
            (State::Size { size, .. }, b';') => Ok(State::Name { size, spent: 1 }),
            (State::Size { .. }, _) => Err("chunk size"),
            (State::Extension { size, spent }, b';') => Ok(State::Name {
                size,
                spent: spend(spent, EXTENSION_MAX)?,
            }),
            (State::Name { size, spent }, b' ' | b'\t') => Ok(State::Name {
                size,
                spent: spend(spent, EXTENSION_MAX)?,
            }),
            (State::Name { size, spent }, _) if is_token_byte(byte) => Ok(State::Extension {
                size,
                spent: spend(spent, EXTENSION_MAX)?,
            }),
            (State::Extension { size, spent }, b'"') => {
                let spent = spend(spent, EXTENSION_MAX)?;
                Ok(State::Quoted {
                    size,
                    spent,
                    escaped: false,
                })
            }
            (State::Extension { size, spent }, _)
                if is_token_byte(byte) || matches!(byte, b'=' | b' ' | b'\t') =>
            {
                Ok(State::Extension {
                    size,
                    spent: spend(spent, EXTENSION_MAX)?,
                })
            }
            (
                State::Quoted {
                    size,
                    spent,
                    escaped,
                },
                _,
            ) if is_value_byte(byte) => {
                let spent = spend(spent, EXTENSION_MAX)?;
                Ok(match byte {
                    b'"' if !escaped => State::Extension { size, spent },
                    _ => State::Quoted {
                        size,
                        spent,
                        escaped: byte == b'\\' && !escaped,
                    },
                })
            }
            (State::SizeEnd { size: 0 }, b'\n') => Ok(State::TrailerStart { spent: 0 }),
            (State::SizeEnd { size }, b'\n') => Ok(State::Data(size)),
            (State::SizeEnd { .. }, _) => Err("bare CR in chunk line"),
            _ => Err("chunk extension"),
        }
    }

    /// Trailers are dropped: a field that a sender was refused in the head must not come in by the
    /// back door. Their lines must still be header lines, or two readers differ on the end.
    fn after_trailer(self, byte: u8) -> Result<State, &'static str> {
        match (self, byte) {
            (State::TrailerStart { .. }, b'\r') => Ok(State::End),
            (State::TrailerStart { spent } | State::TrailerName { spent }, _)
                if is_token_byte(byte) =>
            {
                Ok(State::TrailerName {
                    spent: spend(spent, TRAILERS_MAX)?,
                })
            }
            (State::TrailerName { spent }, b':') => Ok(State::TrailerValue {
                spent: spend(spent, TRAILERS_MAX)?,
            }),
            (State::TrailerValue { spent }, b'\r') => Ok(State::TrailerEnd { spent }),
            (State::TrailerValue { spent }, _) if is_value_byte(byte) => Ok(State::TrailerValue {
                spent: spend(spent, TRAILERS_MAX)?,
            }),
            (State::TrailerEnd { spent }, b'\n') => Ok(State::TrailerStart {
                spent: spend(spent, TRAILERS_MAX)?,
            }),
            _ => Err("trailer line"),
        }
    }
}

/// One byte more of what is dropped, up to a limit.
fn spend(spent: u16, max: u16) -> Result<u16, &'static str> {
    if spent < max {
        Ok(spent + 1)
    } else {
        Err("too much chunk framing")
    }
}

/// Takes what is there, and at most what is left.
fn take(left: &mut u64, there: usize) -> usize {
    let len = usize::try_from(*left).map_or(there, |left| left.min(there));
    *left -= len as u64;
    len
}

/// Digits of the largest 64-bit size.
const SIZE_DIGITS_MAX: u8 = 16;
/// Bytes of extensions in one size line (V10): endless ones cost a reader for no payload.
const EXTENSION_MAX: u16 = 256;
/// Bytes of all trailer lines.
const TRAILERS_MAX: u16 = 8 * 1024;

const TWO_LENGTHS: &str = "both length and transfer coding";

#[cfg(test)]
mod tests;
