//! The parameters of permessage-deflate (RFC 7692 section 7.1). Messages pass through as they are, so
//! both legs must agree on the same parameters. Only for a valve that asks is a message inflated: each
//! stands alone, so that it takes nothing but its own bytes.

use flate2::{Decompress, FlushDecompress, Status};

use super::frame::ProtocolError;
use super::head::{Headers, is_token_byte};

/// Parameters of one offer or answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deflate {
    pub server_no_context_takeover: bool,
    pub client_no_context_takeover: bool,
    /// Bits of the server's window, 8 to 15.
    pub server_max_window_bits: Option<u8>,
    /// Bits of the client's window, 8 to 15. An offer may name it without a value; an answer can't.
    pub client_max_window_bits: Option<Option<u8>>,
}

/// Why a server's answer can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It keeps its context over messages, which can't move to another server: dial again without
    /// the extension.
    ContextTakeover,
    /// It answers what was not offered, or breaks the grammar.
    Illegal,
}

impl Deflate {
    /// What we offer a server: the windows as they are, and both `no_context_takeover`, so that
    /// each message stands alone and can be replayed to another server.
    pub fn offer_line(&self) -> String {
        self.line()
    }

    /// What the client's 101 says: the server's windows, and both `no_context_takeover`.
    pub fn answer_line(&self) -> String {
        self.line()
    }

    /// Whether this answer of another server can stand in for the one that the client was given:
    /// equal windows, but the server's own may be smaller, which any client can inflate.
    pub fn stands_for(&self, agreed: &Deflate) -> bool {
        self.server_bits() <= agreed.server_bits() && self.client_bits() == agreed.client_bits()
    }

    fn line(&self) -> String {
        let mut line = String::from(
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        );
        if let Some(bits) = self.server_max_window_bits {
            line.push_str(&format!("; server_max_window_bits={bits}"));
        }
        match self.client_max_window_bits {
            None => {}
            Some(None) => line.push_str("; client_max_window_bits"),
            Some(Some(bits)) => line.push_str(&format!("; client_max_window_bits={bits}")),
        }
        line
    }

    fn server_bits(&self) -> u8 {
        self.server_max_window_bits.unwrap_or(WINDOW_BITS_MAX)
    }

    fn client_bits(&self) -> u8 {
        self.client_max_window_bits
            .flatten()
            .unwrap_or(WINDOW_BITS_MAX)
    }

    /// Takes a parameter in. Errors if it is unknown, repeated or has a bad value.
    fn set(&mut self, name: &[u8], value: Option<&[u8]>) -> Result<(), Bad> {
        match (name, value) {
            (b"server_no_context_takeover", None) => set_once(&mut self.server_no_context_takeover),
            (b"client_no_context_takeover", None) => set_once(&mut self.client_no_context_takeover),
            (b"server_max_window_bits", Some(value)) if self.server_max_window_bits.is_none() => {
                self.server_max_window_bits = Some(window_bits(value)?);
                Ok(())
            }
            (b"client_max_window_bits", value) if self.client_max_window_bits.is_none() => {
                self.client_max_window_bits = Some(value.map(window_bits).transpose()?);
                Ok(())
            }
            _ => Err(Bad),
        }
    }
}

/// The first valid offer in all lines of `Sec-WebSocket-Extensions`. Offers of other extensions,
/// and those with a bad, unknown or repeated parameter, are declined; a line is read up to the
/// first byte that breaks the grammar. Linear in the length of the lines (V25).
pub fn first_offer(headers: &Headers<'_>) -> Option<Deflate> {
    headers.all(HEADER).find_map(|line| {
        Extensions::new(line)
            .map_while(Result::ok)
            .find_map(|extension| match extension {
                Extension::Deflate(Ok(offer)) => Some(offer),
                Extension::Deflate(Err(Bad)) | Extension::Other => None,
            })
    })
}

/// Whether an answer names any extension: after no offer, that is a fault of the server.
pub fn is_answered(headers: &Headers<'_>) -> bool {
    headers.get(HEADER).is_some()
}

/// A server's answer to our offer; `None` if it declines.
///
/// Errors: see [`Refusal`].
pub fn answer(headers: &Headers<'_>, offered: &Deflate) -> Result<Option<Deflate>, Refusal> {
    let mut extensions = headers.all(HEADER).flat_map(Extensions::new);
    let agreed = match (extensions.next(), extensions.next()) {
        (None, _) => return Ok(None),
        (Some(Ok(Extension::Deflate(Ok(agreed)))), None) => agreed,
        _ => return Err(Refusal::Illegal),
    };
    // RFC 7692 7.1.2.1: a server may limit its window unasked, but must not exceed what was asked.
    let server_ok = match (
        offered.server_max_window_bits,
        agreed.server_max_window_bits,
    ) {
        (None, _) => true,
        (Some(asked), Some(bits)) => bits <= asked,
        (Some(_), None) => false,
    };
    // 7.1.2.2: the client's window is limited only if it said it can do that, and by a number.
    let client_ok = match (
        offered.client_max_window_bits,
        agreed.client_max_window_bits,
    ) {
        (_, None) => true,
        (Some(asked), Some(Some(bits))) => bits <= asked.unwrap_or(WINDOW_BITS_MAX),
        (None, Some(_)) | (Some(_), Some(None)) => false,
    };
    if !(server_ok && client_ok) {
        return Err(Refusal::Illegal);
    }
    if !agreed.server_no_context_takeover {
        return Err(Refusal::ContextTakeover);
    }
    Ok(Some(agreed))
}

/// Undoes the compression of a whole message that stands alone (RFC 7692 section 7.2.2).
///
/// Errors: 1007 if it is no such message, 1009 as soon as it has more than `max` bytes.
pub fn inflate(payload: &[u8], max: usize) -> Result<Vec<u8>, ProtocolError> {
    let mut inflater = Decompress::new(false);
    let mut plain = Vec::new();
    for mut input in [payload, TAIL] {
        loop {
            if plain.len() > max {
                return Err(TOO_BIG);
            }
            if plain.len() == plain.capacity() {
                // One byte beyond the limit shows that it is passed.
                let more = plain.len().max(INFLATED_MIN).min(max - plain.len() + 1);
                plain.reserve_exact(more);
            }
            let before = inflater.total_in();
            let status = inflater
                .decompress_vec(input, &mut plain, FlushDecompress::Sync)
                .map_err(|_| NOT_DEFLATED)?;
            let used = (inflater.total_in() - before) as usize;
            input = &input[used..];
            let stuck = used == 0 && plain.len() < plain.capacity();
            match status {
                // A last block (7.2.3.4): what stands behind it says nothing.
                Status::StreamEnd if plain.len() > max => return Err(TOO_BIG),
                Status::StreamEnd => return Ok(plain),
                _ if stuck && input.is_empty() => break,
                _ if stuck => return Err(NOT_DEFLATED),
                Status::Ok | Status::BufError => {}
            }
        }
    }
    Ok(plain)
}

/// A parameter that is unknown, repeated or has a bad value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bad;

/// A line that breaks the grammar of RFC 6455 section 9.1; the rest of it can't be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Malformed;

/// One member of an extension line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    Deflate(Result<Deflate, Bad>),
    Other,
}

/// The members of one line. Each byte is looked at a fixed number of times.
struct Extensions<'a> {
    rest: &'a [u8],
}

impl<'a> Extensions<'a> {
    fn new(line: &'a [u8]) -> Extensions<'a> {
        Extensions { rest: line }
    }

    /// `token *( ";" token [ "=" ( token / quoted-string ) ] )`
    fn extension(&mut self) -> Result<Extension, Malformed> {
        let is_deflate = self.token()?.eq_ignore_ascii_case(NAME);
        let mut deflate = Ok(Deflate::default());
        while self.eat(b';') {
            let name = self.token()?;
            let value = if self.eat(b'=') {
                Some(self.value()?)
            } else {
                None
            };
            if let Ok(parameters) = &mut deflate {
                // The first bad parameter spoils the offer; the rest is read only to get past it.
                deflate = parameters.set(name, value).map(|()| *parameters);
            }
        }
        let ends = self.rest.is_empty() || self.rest[0] == b',';
        match (ends, is_deflate) {
            (false, _) => Err(Malformed),
            (true, true) => Ok(Extension::Deflate(deflate)),
            (true, false) => Ok(Extension::Other),
        }
    }

    fn token(&mut self) -> Result<&'a [u8], Malformed> {
        let rest = self.rest.trim_ascii_start();
        let len = rest.iter().take_while(|byte| is_token_byte(**byte)).count();
        let (token, rest) = rest.split_at(len);
        self.rest = rest.trim_ascii_start();
        if token.is_empty() {
            Err(Malformed)
        } else {
            Ok(token)
        }
    }

    /// A token, or what stands between quotes. Escapes are skipped and not undone: no value that
    /// needs one is legal, so that it will be refused as it is.
    fn value(&mut self) -> Result<&'a [u8], Malformed> {
        let Some(quoted) = self.rest.trim_ascii_start().strip_prefix(b"\"") else {
            return self.token();
        };
        let mut escaped = false;
        let end = quoted.iter().position(|byte| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        });
        let end = end.ok_or(Malformed)?;
        self.rest = quoted[end + 1..].trim_ascii_start();
        Ok(&quoted[..end])
    }

    fn eat(&mut self, byte: u8) -> bool {
        let Some(rest) = self.rest.strip_prefix(&[byte]) else {
            return false;
        };
        self.rest = rest;
        true
    }
}

impl Iterator for Extensions<'_> {
    type Item = Result<Extension, Malformed>;

    fn next(&mut self) -> Option<Result<Extension, Malformed>> {
        // Empty members of a list mean nothing (RFC 9110 section 5.6.1).
        let start = self
            .rest
            .iter()
            .position(|byte| !matches!(byte, b',' | b' ' | b'\t'))?;
        self.rest = &self.rest[start..];
        let extension = self.extension();
        if extension.is_err() {
            self.rest = &[];
        }
        Some(extension)
    }
}

/// A flag may be given once.
fn set_once(flag: &mut bool) -> Result<(), Bad> {
    if std::mem::replace(flag, true) {
        Err(Bad)
    } else {
        Ok(())
    }
}

/// 8 to 15 without leading zeros (RFC 7692 section 7.1.2).
fn window_bits(value: &[u8]) -> Result<u8, Bad> {
    match value {
        [digit @ b'8'..=b'9'] => Ok(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Ok(10 + digit - b'0'),
        _ => Err(Bad),
    }
}

/// What a sender has taken off the end of a message (RFC 7692 section 7.2.1).
const TAIL: &[u8] = &[0, 0, 0xFF, 0xFF];

/// Bytes that an inflated message is given at first.
const INFLATED_MIN: usize = 1 << 10;

const NOT_DEFLATED: ProtocolError = ProtocolError::new(1007, "a message that can't be inflated");
const TOO_BIG: ProtocolError = ProtocolError::new(1009, "message too big");

/// The window of a peer that is told nothing else.
const WINDOW_BITS_MAX: u8 = 15;

const NAME: &[u8] = b"permessage-deflate";
const HEADER: &str = "sec-websocket-extensions";

#[cfg(test)]
mod tests;
