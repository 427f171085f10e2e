//! Heads of HTTP/1.1 messages (RFC 9112), read strictly. What could be read in two ways is refused:
//! every such case has been somebody's request smuggling.

use memchr::{memchr, memchr3_iter};
use std::net::Ipv6Addr;

pub use super::compose::{HeadWriter, Refused, reason_phrase, simple_response};

/// What a head may weigh. More is 431.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head, start line and last empty line included.
    pub bytes_max: usize,
    /// Header lines.
    pub headers_max: usize,
    /// Bytes of a header's name.
    pub name_max: usize,
    /// Bytes of a header's value.
    pub value_max: usize,
}

impl HeadLimits {
    /// Limits for heads of at most `bytes_max`. 100 lines are what common servers take, and
    /// a value may fill the head; no registered name is longer than 40 bytes.
    pub const fn new(bytes_max: usize) -> HeadLimits {
        HeadLimits {
            bytes_max,
            headers_max: 100,
            name_max: 128,
            value_max: bytes_max,
        }
    }
}

impl Default for HeadLimits {
    fn default() -> HeadLimits {
        HeadLimits::new(16 * 1024)
    }
}

/// Why a message is refused, and with which HTTP status: 4xx and 5xx to a client for its request,
/// 502 for what a server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadError {
    pub status: u16,
    pub reason: &'static str,
}

impl HeadError {
    /// An error with its status.
    pub const fn new(status: u16, reason: &'static str) -> HeadError {
        HeadError { status, reason }
    }

    /// The same fault, found in a server's answer.
    const fn of_server(self) -> HeadError {
        HeadError {
            status: 502,
            reason: self.reason,
        }
    }
}

/// Finds the end of the head at the start of `bytes`: how many bytes it has, its last empty line
/// included; `None` if it goes on. `from` is how many bytes were looked at before, so that a head
/// that comes byte by byte costs linear time.
///
/// Errors as soon as seen: 431 for a head over `bytes_max`, 400 for a line end other than CRLF, a
/// NUL, or an empty line in front.
pub fn end(bytes: &[u8], from: usize, limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
    let window = &bytes[..bytes.len().min(limits.bytes_max)];
    // One byte back: a CR that was the last byte is only judged by what follows it.
    let start = from.min(window.len()).saturating_sub(1);
    for at in memchr3_iter(b'\r', b'\n', 0, &window[start..]).map(|at| start + at) {
        match window[at] {
            b'\r' if window.get(at + 1).is_some_and(|next| *next != b'\n') => {
                return Err(HeadError::new(400, "bare CR in head"));
            }
            b'\r' => {}
            b'\n' if at == 0 || window[at - 1] != b'\r' => {
                return Err(HeadError::new(400, "bare LF in head"));
            }
            b'\n' if at == 1 => return Err(HeadError::new(400, "empty start line")),
            b'\n' if window[..=at].ends_with(b"\r\n\r\n") => return Ok(Some(at + 1)),
            b'\n' => {}
            _ => return Err(HeadError::new(400, "NUL in head")),
        }
    }
    if bytes.len() >= limits.bytes_max {
        Err(TOO_LARGE)
    } else {
        Ok(None)
    }
}

/// A request's head.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Path and query, byte for byte, or `*`. Of an absolute target that agrees with Host, the part
    /// behind the authority.
    pub target: &'a str,
    /// The n of HTTP/1.n: 0 or 1.
    pub minor_version: u8,
    pub headers: Headers<'a>,
}

impl<'a> Request<'a> {
    /// Reads a complete head, as [`end`] has cut it off.
    ///
    /// Errors: 400 for what breaks the grammar or is ambiguous, 405 for CONNECT and TRACE, 431 for
    /// what is over the limits, 501 for an unknown transfer coding, 505 for another version.
    pub fn parse(head: &'a [u8], limits: &HeadLimits) -> Result<Request<'a>, HeadError> {
        let (line, fields) = split(head, limits)?;
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(HeadError::new(400, "request line is not three words"));
        };
        // The version first: a speaker of another protocol is best told so.
        let minor_version = minor_version(version)?;
        let method = check_method(method)?;
        let headers = Headers::parse(fields, limits)?;
        let host = check_host(&headers, minor_version)?;
        let target = check_target(target, method, host)?;
        let chunked = headers.is_chunked()?;
        if chunked && minor_version == 0 {
            return Err(HeadError::new(400, "transfer coding in HTTP/1.0"));
        }
        if headers.content_length()?.is_some() && chunked {
            return Err(HeadError::new(400, "both length and transfer coding"));
        }
        Ok(Request {
            method,
            target,
            minor_version,
            headers,
        })
    }

    /// Whether the client means to send another request on this connection (RFC 9112 section 9.3).
    pub fn keeps_alive(&self) -> bool {
        keeps_alive(&self.headers, self.minor_version)
    }
}

/// A response's head.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    /// 100 to 599.
    pub status: u16,
    /// The reason phrase; it means nothing (RFC 9112 section 4) and may hold any byte above 0x7F.
    pub reason: &'a [u8],
    /// The n of HTTP/1.n: 0 or 1.
    pub minor_version: u8,
    pub headers: Headers<'a>,
}

impl<'a> Response<'a> {
    /// Reads a complete head, as [`end`] has cut it off. All errors are 502.
    pub fn parse(head: &'a [u8], limits: &HeadLimits) -> Result<Response<'a>, HeadError> {
        Response::read(head, limits).map_err(HeadError::of_server)
    }

    /// Whether the server takes another request on this connection.
    pub fn keeps_alive(&self) -> bool {
        keeps_alive(&self.headers, self.minor_version)
    }

    fn read(head: &'a [u8], limits: &HeadLimits) -> Result<Response<'a>, HeadError> {
        let (line, fields) = split(head, limits)?;
        let bad = HeadError::new(502, "status line");
        let (version, rest) = line.split_first_chunk::<8>().ok_or(bad)?;
        let minor_version = minor_version(version)?;
        // The space behind the status is left out by some servers that send no reason.
        let (status, reason) = match rest {
            [b' ', a, b, c] => ([*a, *b, *c], &b""[..]),
            [b' ', a, b, c, b' ', reason @ ..] => ([*a, *b, *c], reason),
            _ => return Err(bad),
        };
        if !status.iter().all(u8::is_ascii_digit) || !reason.iter().all(|byte| is_value_byte(*byte))
        {
            return Err(bad);
        }
        let status = status
            .iter()
            .fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
        if !(100..600).contains(&status) {
            return Err(bad);
        }
        let headers = Headers::parse(fields, limits)?;
        Ok(Response {
            status,
            reason,
            minor_version,
            headers,
        })
    }
}

/// The header lines of a head, in their order.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    lines: Vec<httparse::Header<'a>>,
}

impl<'a> Headers<'a> {
    /// Reads header lines up to the empty line, which must be the last bytes of `fields`.
    fn parse(fields: &'a [u8], limits: &HeadLimits) -> Result<Headers<'a>, HeadError> {
        // Every line ends in LF, as `end` has made sure; the last one is empty.
        let count = memchr::memchr_iter(b'\n', fields).count() - 1;
        if count > limits.headers_max {
            return Err(HeadError::new(431, "too many header lines"));
        }
        let mut lines = vec![httparse::EMPTY_HEADER; count];
        match httparse::parse_headers(fields, &mut lines) {
            // A line that is not one header (a folded one, say) must not be lost in silence.
            Ok(httparse::Status::Complete((used, read)))
                if used == fields.len() && read.len() == count => {}
            _ => return Err(HeadError::new(400, "header line")),
        }
        let headers = Headers { lines };
        for (name, value) in headers.iter() {
            if name.is_empty() || !name.bytes().all(is_token_byte) {
                return Err(HeadError::new(400, "header name"));
            }
            if name.len() > limits.name_max || value.len() > limits.value_max {
                return Err(HeadError::new(431, "header too long"));
            }
            if !value.iter().all(|byte| is_value_byte(*byte)) {
                return Err(HeadError::new(400, "header value"));
            }
        }
        Ok(headers)
    }

    /// All lines: name as sent, value without the blanks around it.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + '_ {
        self.lines.iter().map(|line| (line.name, line.value))
    }

    /// The value of the first line of that name.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// The value of the first line of that name, if it is visible ASCII and blanks.
    pub fn get_str(&self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(ascii)
    }

    /// The values of all lines of that name, in their order.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's {
        self.iter()
            .filter(move |(line, _)| line.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The value of the only line of that name: `Ok(None)` if there is none.
    ///
    /// Errors with `twice` if there are several.
    pub fn only(&self, name: &str, twice: HeadError) -> Result<Option<&'a [u8]>, HeadError> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            Err(twice)
        } else {
            Ok(first)
        }
    }

    /// The members of a comma list that may go over several lines (RFC 9110 section 5.6.1), without
    /// the blanks around them; empty ones are left out.
    pub fn members<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's {
        self.all(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(|member| member.trim_ascii())
            .filter(|member| !member.is_empty())
    }

    /// Whether a comma list has a member, case aside.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.members(name)
            .any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Content-Length (RFC 9112 section 6.2). Repeats are refused even if equal, signs, blanks and
    /// lists are (V8). Errors: 400.
    pub fn content_length(&self) -> Result<Option<u64>, HeadError> {
        let bad = HeadError::new(400, "content length");
        let Some(value) = self.only("content-length", bad)? else {
            return Ok(None);
        };
        // 19 digits always fit 64 bits.
        if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
            return Err(bad);
        }
        Ok(Some(
            value
                .iter()
                .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')),
        ))
    }

    /// Whether the body is chunked. `chunked` alone, in a single line, is understood (V7). Errors:
    /// 501 for one coding that we don't know, 400 for anything else.
    pub fn is_chunked(&self) -> Result<bool, HeadError> {
        let bad = HeadError::new(400, "transfer coding");
        match self.only("transfer-encoding", bad)? {
            None => Ok(false),
            Some(value) if value.eq_ignore_ascii_case(b"chunked") => Ok(true),
            Some(value) if is_token(value) => Err(HeadError::new(501, "unknown transfer coding")),
            Some(_) => Err(bad),
        }
    }
}

/// Whether a header belongs to one connection and is never passed on (RFC 9110 section 7.6.1, and
/// what older proxies treat so). Headers that `Connection` names belong to it, too.
pub fn is_hop_by_hop(name: &str) -> bool {
    const NAMES: [&str; 11] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        // RFC 7540 section 3.2.1: half of an upgrade to HTTP/2, which must not reach a server.
        "http2-settings",
    ];
    NAMES.iter().any(|known| alike(name, known))
}

/// Whether two names are the same to a server: case aside, and with `_` taken for `-`, because CGI
/// and its heirs can't tell these apart.
pub(super) fn alike(name: &str, known: &str) -> bool {
    let fold = |byte: u8| {
        if byte == b'_' {
            b'-'
        } else {
            byte.to_ascii_lowercase()
        }
    };
    name.len() == known.len() && name.bytes().map(fold).eq(known.bytes().map(fold))
}

/// Whether bytes are a token (RFC 9110 section 5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

/// Whether a byte may stand in a token.
#[inline]
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a byte may stand in a header's value: no control byte but the tab.
#[inline]
pub(super) fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7F)
}

/// Whether a byte may stand in a request target. No control byte and nothing above 0x7E, since
/// servers disagree on them; no `#`, at which some cut; no `\`, which some take for a slash (V18).
#[inline]
pub(super) fn is_target_byte(byte: u8) -> bool {
    (0x21..=0x7E).contains(&byte) && byte != b'#' && byte != b'\\'
}

/// A value as text, if it is visible ASCII and blanks.
pub(super) fn ascii(value: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(value).ok()?;
    text.bytes()
        .all(|byte| (0x20..0x7F).contains(&byte))
        .then_some(text)
}

/// The start line and the rest of a complete head.
fn split<'a>(head: &'a [u8], limits: &HeadLimits) -> Result<(&'a [u8], &'a [u8]), HeadError> {
    // Looked at again as a whole: whoever calls must not be able to skip the check of line ends.
    if end(head, 0, limits)? != Some(head.len()) {
        return Err(HeadError::new(400, "incomplete head"));
    }
    let at = memchr(b'\n', head).ok_or(HeadError::new(400, "incomplete head"))?;
    Ok((&head[..at - 1], &head[at + 1..]))
}

/// The n of `HTTP/1.n`. A well-formed other version is 505, anything else 400.
fn minor_version(version: &[u8]) -> Result<u8, HeadError> {
    match version {
        b"HTTP/1.1" => Ok(1),
        b"HTTP/1.0" => Ok(0),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            Err(HeadError::new(505, "HTTP version"))
        }
        _ => Err(HeadError::new(400, "HTTP version")),
    }
}

/// A method is a token. CONNECT would open a tunnel and TRACE give away what proxies have added;
/// in any case, because not every server minds it.
fn check_method(method: &[u8]) -> Result<&str, HeadError> {
    let bad = HeadError::new(400, "method");
    if !is_token(method) || method.len() > METHOD_MAX {
        return Err(bad);
    }
    let method = std::str::from_utf8(method).map_err(|_| bad)?;
    if method.eq_ignore_ascii_case("CONNECT") || method.eq_ignore_ascii_case("TRACE") {
        return Err(HeadError::new(405, "method"));
    }
    Ok(method)
}

/// One valid Host; HTTP/1.0 may do without (RFC 9112 section 3.2).
fn check_host<'a>(headers: &Headers<'a>, minor: u8) -> Result<Option<&'a [u8]>, HeadError> {
    let host = headers.only("host", HeadError::new(400, "several hosts"))?;
    match host {
        None if minor == 0 => Ok(None),
        None => Err(HeadError::new(400, "no host")),
        Some(host) if is_authority(host) => Ok(Some(host)),
        Some(_) => Err(HeadError::new(400, "host")),
    }
}

/// `host[:port]`, the host a name or an address. Narrower than RFC 3986: no user, no percent.
fn is_authority(host: &[u8]) -> bool {
    let Some(host) = ascii(host) else {
        return false;
    };
    let (name_ok, port) = if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        (address.parse::<Ipv6Addr>().is_ok(), port)
    } else {
        let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
        let name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        (!name.is_empty() && name.bytes().all(name_byte), port)
    };
    let port_ok = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => {
            digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit())
                // An empty port is legal (RFC 3986 section 3.2.3) and means the default.
                && (digits.is_empty() || digits.parse::<u16>().is_ok())
        }
    };
    name_ok && port_ok
}

/// Path and query of the target (RFC 9112 section 3.2), or `*` for OPTIONS.
fn check_target<'a>(
    target: &'a [u8],
    method: &str,
    host: Option<&[u8]>,
) -> Result<&'a str, HeadError> {
    let bad = HeadError::new(400, "request target");
    if !target.iter().all(|byte| is_target_byte(*byte)) || hides_control(target) {
        return Err(bad);
    }
    let target = std::str::from_utf8(target).map_err(|_| bad)?;
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(target);
    }
    let (scheme, rest) = target.split_once("://").ok_or(bad)?;
    let schemes = ["http", "https", "ws", "wss"];
    if !schemes
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known))
    {
        return Err(bad);
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !host.is_some_and(|host| host.eq_ignore_ascii_case(authority.as_bytes())) {
        return Err(HeadError::new(400, "target and host differ"));
    }
    match path.as_bytes().first() {
        None => Ok("/"),
        Some(b'/') => Ok(path),
        Some(_) => Err(bad),
    }
}

/// Whether a target holds an encoded NUL, CR or LF, which no honest client sends and which becomes
/// a new header line in a server that decodes too early (V19).
fn hides_control(target: &[u8]) -> bool {
    let encoded = |at: usize| match target.get(at + 1..at + 3) {
        Some(code) => [b"00", b"0a", b"0d"]
            .iter()
            .any(|bad| code.eq_ignore_ascii_case(*bad)),
        None => false,
    };
    memchr::memchr_iter(b'%', target).any(encoded)
}

/// HTTP/1.1 keeps a connection unless told otherwise, HTTP/1.0 only if told so.
fn keeps_alive(headers: &Headers<'_>, minor_version: u8) -> bool {
    !headers.has_token("connection", "close")
        && (minor_version == 1 || headers.has_token("connection", "keep-alive"))
}

/// Bytes of the longest method; the longest registered one has 18 (UPDATEREDIRECTREF 17).
const METHOD_MAX: usize = 32;

const TOO_LARGE: HeadError = HeadError::new(431, "head too large");

#[cfg(test)]
pub(super) mod tests;
