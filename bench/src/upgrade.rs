//! The opening handshake (RFC 6455, 4), as the server and as the client.

use tungstenite::handshake::derive_accept_key;

/// The longest head that either side takes.
pub const HEAD_MAX: usize = 16 * 1024;

/// What a server makes of the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// The head is not complete.
    Partial,
    /// Answer with these bytes; frames begin at `head_bytes`.
    Upgrade { head_bytes: usize, response: String },
    /// Answer with these bytes and close.
    Refuse { response: &'static str },
}

/// Reads a client's request. Any path is fine.
pub fn answer(bytes: &[u8]) -> Request {
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Request::Partial,
        _ => {
            return Request::Refuse {
                response: BAD_REQUEST,
            };
        }
    };
    let value = |name: &str| one_value(request.headers, name);
    let upgrades = request.method == Some("GET")
        && request.version == Some(1)
        && has_token(request.headers, "Upgrade", "websocket")
        && has_token(request.headers, "Connection", "Upgrade");
    if upgrades && value("Sec-WebSocket-Version") != Some(b"13") {
        return Request::Refuse {
            response: WRONG_VERSION,
        };
    }
    match value("Sec-WebSocket-Key") {
        Some(key) if upgrades && key.len() == 24 => {
            let response = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                derive_accept_key(key)
            );
            Request::Upgrade {
                head_bytes,
                response,
            }
        }
        _ => Request::Refuse {
            response: BAD_REQUEST,
        },
    }
}

/// What a client makes of the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Response {
    Partial,
    /// Upgraded; frames begin at `head_bytes`.
    Open {
        head_bytes: usize,
    },
    /// No upgrade, and why.
    Refused {
        reason: String,
    },
}

/// Reads the server's answer to a request whose key leads to `accept`.
pub fn judge(bytes: &[u8], accept: &str) -> Response {
    let refused = |reason: &str| Response::Refused {
        reason: reason.to_string(),
    };
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Response::Partial,
        Ok(httparse::Status::Partial) => return refused("an endless response head"),
        Err(error) => return refused(&format!("a bad response head: {error}")),
    };
    match response.code {
        Some(101) => {}
        code => return refused(&format!("status {}", code.unwrap_or(0))),
    }
    if !has_token(response.headers, "Upgrade", "websocket")
        || !has_token(response.headers, "Connection", "Upgrade")
    {
        return refused("a 101 that upgrades to something else");
    }
    if one_value(response.headers, "Sec-WebSocket-Accept") != Some(accept.as_bytes()) {
        return refused("a wrong Sec-WebSocket-Accept");
    }
    // None was offered, so whatever comes here was invented.
    if response
        .headers
        .iter()
        .any(|h| h.name.eq_ignore_ascii_case("Sec-WebSocket-Extensions"))
    {
        return refused("an extension that was not offered");
    }
    Response::Open { head_bytes }
}

/// A request for `path` at `host`, and the accept value that must answer it.
pub fn request(host: &str, path: &str) -> (String, String) {
    let key = tungstenite::handshake::client::generate_key();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    (request, derive_accept_key(key.as_bytes()))
}

/// The value of a header that must occur exactly once.
fn one_value<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a [u8]> {
    let mut values = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case(name));
    let first = values.next()?;
    values.next().is_none().then(|| first.value.trim_ascii())
}

/// Whether a comma-separated header, which may be repeated, has this token in any case.
fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case(name))
        .flat_map(|header| header.value.split(|byte| *byte == b','))
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

const BAD_REQUEST: &str =
    "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
const WRONG_VERSION: &str = "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\n\
    Connection: close\r\nContent-Length: 0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_two_sides_understand_each_other_at_any_cut() {
        let (request, accept) = request("localhost:1", "/a?b=c");
        for cut in 0..request.len() {
            assert_eq!(
                answer(&request.as_bytes()[..cut]),
                Request::Partial,
                "{cut}"
            );
        }
        let Request::Upgrade {
            head_bytes,
            response,
        } = answer(request.as_bytes())
        else {
            panic!("refused");
        };
        assert_eq!(head_bytes, request.len());
        for cut in 0..response.len() {
            assert_eq!(
                judge(&response.as_bytes()[..cut], &accept),
                Response::Partial,
                "{cut}"
            );
        }
        let open = Response::Open {
            head_bytes: response.len(),
        };
        assert_eq!(judge(format!("{response}\x01").as_bytes(), &accept), open);
        let other = judge(response.as_bytes(), "AAAA");
        assert!(matches!(other, Response::Refused { .. }));
    }

    #[test]
    fn the_example_of_the_rfc_is_answered_as_there() {
        let request = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: WebSocket\r\n\
            Connection: keep-alive, upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Version: 13\r\n\r\n";
        let Request::Upgrade { response, .. } = answer(request.as_bytes()) else {
            panic!("refused");
        };
        assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        let old = request.replace("Version: 13", "Version: 8");
        assert_eq!(
            answer(old.as_bytes()),
            Request::Refuse {
                response: WRONG_VERSION
            }
        );
        for broken in [
            request.replace("GET", "POST"),
            request.replace("Upgrade: WebSocket\r\n", ""),
            request.replace("keep-alive, upgrade", "keep-alive"),
            request.replace("dGhl", ""),
            request.replace("HTTP/1.1", "HTTP/1.0"),
            "\0\0\0\0 nonsense\r\n\r\n".to_string(),
        ] {
            assert_eq!(
                answer(broken.as_bytes()),
                Request::Refuse {
                    response: BAD_REQUEST
                }
            );
        }
        let long = format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(HEAD_MAX));
        assert_eq!(
            answer(long.as_bytes()),
            Request::Refuse {
                response: BAD_REQUEST
            }
        );
    }

    #[test]
    fn a_refusal_says_its_status() {
        let refusal = judge(b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "x");
        assert_eq!(
            refusal,
            Response::Refused {
                reason: "status 502".to_string()
            }
        );
    }
}
