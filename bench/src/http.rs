//! Just enough of HTTP/1.1 (RFC 9112) for the server behind a proxy and for clients in front of it.
//! What is ambiguous is refused: a proxy that smuggles must not look as if it worked.

use std::borrow::Cow;
use std::io::Write;

/// One whole request at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub content_type: Option<&'a [u8]>,
    pub body: Cow<'a, [u8]>,
    /// No other request follows it.
    pub close: bool,
    /// Where the next one begins.
    pub bytes: usize,
}

/// One whole response at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Response<'a> {
    pub status: u16,
    pub body: &'a [u8],
    pub close: bool,
    pub bytes: usize,
}

/// Reads the first request; `None` if its end has not come.
///
/// # Errors
/// The status that refuses it; what comes after it cannot be trusted.
pub fn request(bytes: &[u8]) -> Result<Option<Request<'_>>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err("431 Request Header Fields Too Large");
        }
        Err(_) => return Err(BAD_REQUEST),
    };
    let head = Head::of(request.headers).ok_or(BAD_REQUEST)?;
    let method = request.method.unwrap_or_default();
    let target = request.path.unwrap_or_default();
    if request.version != Some(1) || head.hosts != 1 || !target.starts_with('/') {
        return Err(BAD_REQUEST);
    }
    if head.expects {
        return Err("417 Expectation Failed");
    }
    let rest = &bytes[head_bytes..];
    let body = match (head.length, head.coding) {
        (Some(_), Some(_)) => return Err(BAD_REQUEST),
        (length, None) => counted(rest, length.unwrap_or(0))?,
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => chunked(rest)?,
        (None, Some(_)) => return Err("501 Not Implemented"),
    };
    Ok(body.map(|(body, body_bytes)| Request {
        method,
        target,
        content_type: head.content_type,
        body,
        close: head.close,
        bytes: head_bytes + body_bytes,
    }))
}

/// Reads the first response; `None` if its end has not come.
///
/// # Errors
/// What is wrong with it, in words.
pub fn response(bytes: &[u8]) -> Result<Option<Response<'_>>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err("an endless response head"),
        Err(_) => return Err("a bad response head"),
    };
    let head = Head::of(response.headers).ok_or("a header that must not be repeated")?;
    // Nothing that is asked for here needs a body of unknown length.
    let (Some(length), None) = (head.length, head.coding) else {
        return Err("a response without Content-Length");
    };
    let body = usize::try_from(length).ok().filter(|l| *l <= BODY_MAX);
    let end = head_bytes + body.ok_or("an endless response")?;
    Ok(bytes.get(head_bytes..end).map(|body| Response {
        status: response.code.unwrap_or(0),
        body,
        close: head.close || response.version != Some(1),
        bytes: end,
    }))
}

/// Writes a response; without a body it has no type.
pub fn answer(out: &mut Vec<u8>, status: &str, content_type: &[u8], body: &[u8], close: bool) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_bytes());
    if !body.is_empty() {
        out.extend_from_slice(b"\r\nContent-Type: ");
        out.extend_from_slice(content_type);
    }
    if close {
        out.extend_from_slice(b"\r\nConnection: close");
    }
    write!(out, "\r\nContent-Length: {}\r\n\r\n", body.len()).expect("a Vec takes all");
    out.extend_from_slice(body);
}

/// The headers that say where a message ends and what it is.
#[derive(Default)]
struct Head<'a> {
    length: Option<u64>,
    coding: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
    hosts: usize,
    close: bool,
    expects: bool,
}

impl<'a> Head<'a> {
    /// `None` if one of them is wrong or there twice.
    fn of(headers: &[httparse::Header<'a>]) -> Option<Self> {
        let mut head = Self::default();
        for header in headers {
            let (name, value) = (header.name, header.value.trim_ascii());
            if name.eq_ignore_ascii_case("Content-Length") {
                if head.length.replace(decimal(value)?).is_some() {
                    return None;
                }
            } else if name.eq_ignore_ascii_case("Transfer-Encoding") {
                if head.coding.replace(value).is_some() {
                    return None;
                }
            } else if name.eq_ignore_ascii_case("Content-Type") {
                if head.content_type.replace(value).is_some() {
                    return None;
                }
            } else if name.eq_ignore_ascii_case("Host") {
                head.hosts += 1;
            } else if name.eq_ignore_ascii_case("Connection") {
                let mut tokens = value.split(|byte| *byte == b',');
                head.close |= tokens.any(|t| t.trim_ascii().eq_ignore_ascii_case(b"close"));
            } else if name.eq_ignore_ascii_case("Expect") {
                head.expects = true;
            }
        }
        Some(head)
    }
}

/// Digits and nothing else: `parse` alone would take a sign.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    text.parse().ok()
}

/// A body and how many bytes it took.
type Body<'a> = Option<(Cow<'a, [u8]>, usize)>;

fn counted(bytes: &[u8], length: u64) -> Result<Body<'_>, &'static str> {
    let length = usize::try_from(length).ok().filter(|l| *l <= BODY_MAX);
    let length = length.ok_or(TOO_LARGE)?;
    let body = bytes.get(..length);
    Ok(body.map(|body| (Cow::Borrowed(body), length)))
}

/// It is read from its start each time, which only hurts bodies of many reads. No trailers.
fn chunked(bytes: &[u8]) -> Result<Body<'_>, &'static str> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let size = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete((used, size))) => {
                at += used;
                usize::try_from(size).ok().filter(|size| *size <= BODY_MAX)
            }
            Ok(httparse::Status::Partial) if bytes.len() - at < HEAD_MAX => return Ok(None),
            _ => return Err(BAD_REQUEST),
        };
        let size = size.filter(|size| body.len() + size <= BODY_MAX);
        let size = size.ok_or(TOO_LARGE)?;
        let Some(chunk) = bytes.get(at..at + size + 2) else {
            return Ok(None);
        };
        if !chunk.ends_with(b"\r\n") {
            return Err(BAD_REQUEST);
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body.into(), at)));
        }
    }
}

const BAD_REQUEST: &str = "400 Bad Request";
const TOO_LARGE: &str = "413 Content Too Large";
/// A proxy passes its client's headers on; 64 are more than browsers send.
const HEADERS_MAX: usize = 64;
const HEAD_MAX: usize = 64 * 1024;
/// Above any message that a bridge takes.
const BODY_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const POST: &str = "POST /c1 HTTP/1.1\r\nHost: api\r\nContent-Type: text/plain\r\n";

    #[test]
    fn a_request_is_whole_only_with_its_last_byte() {
        let counted = format!("{POST}Content-Length: 5\r\n\r\nhello");
        let chunked =
            format!("{POST}Transfer-Encoding: Chunked\r\n\r\n2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n");
        for text in [counted, chunked] {
            for cut in 0..text.len() {
                assert_eq!(request(&text.as_bytes()[..cut]), Ok(None), "{cut}: {text}");
            }
            let followed = format!("{text}GET /");
            let request = request(followed.as_bytes()).unwrap().unwrap();
            assert_eq!((request.method, request.target), ("POST", "/c1"));
            assert_eq!(&*request.body, b"hello");
            assert_eq!(request.content_type, Some(&b"text/plain"[..]));
            assert_eq!((request.bytes, request.close), (text.len(), false));
        }
        let get = request(b"GET /c1?x=y HTTP/1.1\r\nhost: a\r\nConnection: x, Close\r\n\r\n");
        let get = get.unwrap().unwrap();
        assert!(get.close && get.body.is_empty() && get.content_type.is_none());
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        let cases = [
            ("Content-Length: 1\r\nContent-Length: 1\r\n\r\na", "400"),
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
                "400",
            ),
            ("Content-Length: +1\r\n\r\na", "400"),
            ("Content-Length: 1, 1\r\n\r\na", "400"),
            ("Content-Length: \r\n\r\n", "400"),
            ("Content-Length: 99999999999999999999\r\n\r\n", "400"),
            ("Content-Length: 99999999999\r\n\r\n", "413"),
            ("Transfer-Encoding: gzip, chunked\r\n\r\n", "501"),
            ("Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "400"),
            ("Transfer-Encoding: chunked\r\n\r\nx\r\n", "400"),
            (
                "Transfer-Encoding: chunked\r\n\r\nffffffffffff\r\na\r\n",
                "413",
            ),
            ("Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n", "400"),
            ("Content-Type: text/html\r\n\r\n", "400"),
            ("Host: other\r\n\r\n", "400"),
            ("Expect: 100-continue\r\nContent-Length: 1\r\n\r\n", "417"),
        ];
        for (rest, status) in cases {
            let text = format!("{POST}{rest}");
            let refused = request(text.as_bytes()).unwrap_err();
            assert!(refused.starts_with(status), "{rest:?}: {refused}");
        }
        for text in [
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(request(text.as_bytes()), Err(BAD_REQUEST), "{text:?}");
        }
        let endless = format!("{POST}A: {}", "a".repeat(HEAD_MAX));
        assert!(request(endless.as_bytes()).unwrap_err().starts_with("431"));
    }

    #[test]
    fn our_two_sides_understand_each_other_at_any_cut() {
        for (body, close) in [(&b"ok"[..], false), (b"", true)] {
            let mut text = Vec::new();
            answer(&mut text, "200 OK", b"text/plain", body, close);
            for cut in 0..text.len() {
                assert_eq!(response(&text[..cut]), Ok(None), "{cut}");
            }
            let expected = Response {
                status: 200,
                body,
                close,
                bytes: text.len(),
            };
            assert_eq!(response(&[&text[..], b"more"].concat()), Ok(Some(expected)));
        }
        for wrong in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            assert!(response(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
