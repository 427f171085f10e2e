//! HTTP heads written anew. Nothing gets into a head that could end a line in it (V19).

use super::head::{is_target_byte, is_token, is_value_byte};

/// A name or value that must not stand in a head; what was asked for has not been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// Writes a head: a start line, headers, [`HeadWriter::end`].
#[derive(Debug)]
pub struct HeadWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> HeadWriter<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> HeadWriter<'a> {
        HeadWriter { out }
    }

    /// `GET /path?query HTTP/1.1`. Errors if the method is no token, or the target is empty or
    /// holds a blank, a control byte or what the parser refuses in targets.
    pub fn request_line(&mut self, method: &str, target: &str) -> Result<(), Refused> {
        if !is_token(method.as_bytes()) || target.is_empty() || !target.bytes().all(is_target_byte)
        {
            return Err(Refused);
        }
        self.put(&[method.as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
        Ok(())
    }

    /// `HTTP/1.1 200 OK`, with our own reason phrase: a server's may be anything.
    ///
    /// Errors if the status has not three digits.
    pub fn status_line(&mut self, status: u16) -> Result<(), Refused> {
        if !(100..=999).contains(&status) {
            return Err(Refused);
        }
        let digits = [100, 10, 1].map(|unit| b'0' + (status / unit % 10) as u8);
        let reason = reason_phrase(status).as_bytes();
        self.put(&[b"HTTP/1.1 ", &digits, b" ", reason, b"\r\n"]);
        Ok(())
    }

    /// `name: value`. Errors if the name is no token or the value holds a control byte.
    pub fn header(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), Refused> {
        let value = value.as_ref();
        if !is_token(name.as_bytes()) || !value.iter().all(|byte| is_value_byte(*byte)) {
            return Err(Refused);
        }
        self.put(&[name.as_bytes(), b": ", value, b"\r\n"]);
        Ok(())
    }

    /// The empty line behind the last header.
    pub fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }

    fn put(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.out.extend_from_slice(part);
        }
    }
}

/// A complete response of our own, after which the connection is closed. `extra` headers are added;
/// they take the place of the usual `Connection`, `Content-Type` and `Content-Length` if they name
/// them. There is no `Server`: strangers needn't know what stands here.
///
/// An extra header that could break the head is left out.
pub fn simple_response(status: u16, body: &str, extra: &[(&str, &str)]) -> Vec<u8> {
    let length = body.len().to_string();
    let usual = [
        ("Connection", "close"),
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", length.as_str()),
    ];
    let named = |name: &str| {
        extra
            .iter()
            .any(|(given, _)| given.eq_ignore_ascii_case(name))
    };
    let usual = usual.iter().filter(|(name, _)| !named(name));

    let mut out = Vec::with_capacity(256 + body.len());
    let mut head = HeadWriter::new(&mut out);
    if head.status_line(status).is_err() {
        debug_assert!(false, "status {status}");
        return simple_response(500, body, extra);
    }
    for (name, value) in usual.chain(extra) {
        let written = head.header(name, value);
        debug_assert!(written.is_ok(), "header {name}");
    }
    head.end();
    out.extend_from_slice(body.as_bytes());
    out
}

/// The registered phrase of a status (RFC 9110 section 15); `Unknown` for others.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        511 => "Network Authentication Required",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v19_nothing_that_ends_a_line_gets_in() {
        let mut out = Vec::new();
        let mut head = HeadWriter::new(&mut out);
        for bad in [
            "/a\rb", "/a\nb", "/a b", "/a\0", "", "/\u{e9}", "/a#b", "/\\a",
        ] {
            assert_eq!(head.request_line("GET", bad), Err(Refused), "{bad:?}");
        }
        assert_eq!(head.request_line("GE T", "/"), Err(Refused));
        assert_eq!(head.status_line(99), Err(Refused));
        for value in ["a\r\nX: y", "a\nb", "a\rb", "a\0b", "\x1b[2J", "\x7f"] {
            assert_eq!(head.header("X", value), Err(Refused), "{value:?}");
        }
        for name in ["", "a b", "a:", "a\r\n", "\u{e9}"] {
            assert_eq!(head.header(name, "v"), Err(Refused), "{name:?}");
        }
        assert!(out.is_empty(), "what is refused leaves no trace");
    }

    #[test]
    fn heads_are_written_to_the_byte() {
        let mut out = Vec::new();
        let mut head = HeadWriter::new(&mut out);
        head.request_line("GET", "/a?b=%20").unwrap();
        head.header("Host", "h:1").unwrap();
        head.header("X", b"\xE9\tz").unwrap();
        head.end();
        assert_eq!(
            out,
            b"GET /a?b=%20 HTTP/1.1\r\nHost: h:1\r\nX: \xE9\tz\r\n\r\n"
        );
    }

    #[test]
    fn a_simple_response_is_complete() {
        let wanted = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: \
                      text/plain; charset=utf-8\r\nContent-Length: 4\r\nRetry-After: 1\r\n\r\nbusy";
        let made = simple_response(503, "busy", &[("Retry-After", "1")]);
        assert_eq!(String::from_utf8(made).unwrap(), wanted);
        let json = simple_response(200, "{}", &[("content-type", "application/json")]);
        let json = String::from_utf8(json).unwrap();
        assert_eq!(json.to_lowercase().matches("content-type").count(), 1);
    }
}
