//! A request and its response, as routes see them.

use std::fmt;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

/// A request that was read completely and has passed the guard.
#[derive(Clone, Debug)]
pub struct Request {
    /// As sent: methods are case-sensitive (RFC 9110 section 9.1).
    pub method: String,
    /// Up to the question mark, not decoded.
    pub path: String,
    /// Behind the question mark, not decoded; empty if there is none.
    pub query: String,
    /// In their order; bytes that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Who asks.
    pub peer: SocketAddr,
}

/// What is answered.
#[derive(Debug)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
    /// More headers; they win over those that are always there.
    pub headers: Vec<(&'static str, String)>,
    /// What follows the body, if nobody knows yet how much that is.
    pub(super) pieces: Option<Pieces>,
}

/// Parts of a body, made one by one while they are sent.
pub(super) struct Pieces(Box<dyn Iterator<Item = Piece>>);

/// After an error nothing comes: the answer breaks off, and whoever reads it can tell.
pub(super) type Piece = Result<Vec<u8>, Response>;

impl Pieces {
    pub(super) fn new(pieces: impl Iterator<Item = Piece> + 'static) -> Pieces {
        Pieces(Box::new(pieces))
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        self.0.next()
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Pieces")
    }
}

impl Request {
    /// The value of the first header of that name, case aside.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(given, _)| given.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The query's parameters, decoded, each of them known and given once.
    ///
    /// # Errors
    /// 400, naming the parameter.
    pub(super) fn params(&self, known: &[&str]) -> Result<Vec<(String, String)>, Response> {
        let mut params: Vec<(String, String)> = Vec::new();
        for (name, value) in pairs(&self.query) {
            let (Some(name), Some(value)) = (name, value) else {
                return Err(Response::error(400, "the query is not valid UTF-8"));
            };
            if !known.contains(&name.as_str()) {
                return Err(unknown("parameter", &name, known));
            }
            if params.iter().any(|(given, _)| *given == name) {
                return Err(Response::error(
                    400,
                    format!("parameter {name:?} stands twice"),
                ));
            }
            params.push((name, value));
        }
        Ok(params)
    }

    /// Whether a parameter of that name stands in the query, whatever its value.
    pub(super) fn has_param(query: &str, name: &str) -> bool {
        pairs(query).any(|(given, _)| given.is_some_and(|given| given.eq_ignore_ascii_case(name)))
    }

    /// The fields of the body, each of them known. No body counts as no fields.
    ///
    /// # Errors
    /// 400 for what is no JSON object, or has a field that nobody asked for.
    pub(super) fn fields(&self, known: &[&str]) -> Result<Map<String, Value>, Response> {
        if self.body.is_empty() {
            return Ok(Map::new());
        }
        let value = serde_json::from_slice(&self.body)
            .map_err(|error| Response::error(400, format!("the body is not JSON: {error}")))?;
        let Value::Object(fields) = value else {
            return Err(Response::error(400, "the body must be a JSON object"));
        };
        match fields.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(unknown("field", name, known)),
            None => Ok(fields),
        }
    }
}

impl Response {
    /// JSON, with a line end for people with a terminal.
    pub fn json(status: u16, value: Value) -> Response {
        Response::new(status, "application/json", format!("{value}\n"))
    }

    /// A page. It may run its own scripts, ask this address and open WebSockets, and stand in no
    /// other page's frame: its buttons are not to be clicked by accident.
    pub fn html(page: String) -> Response {
        let mut response = Response::new(200, "text/html; charset=utf-8", page);
        response
            .headers
            .push(("Content-Security-Policy", PAGE_POLICY.to_string()));
        response
    }

    /// Whether more of it comes until the connection ends.
    pub(super) fn is_stream(&self) -> bool {
        self.content_type == super::events::CONTENT_TYPE
    }

    /// Plain text.
    pub fn text(status: u16, text: impl Into<String>) -> Response {
        Response::new(status, "text/plain; charset=utf-8", text.into())
    }

    /// What is wrong, in JSON.
    pub(super) fn error(status: u16, reason: impl Into<String>) -> Response {
        Response::json(status, json!({ "error": reason.into() }))
    }

    pub(super) fn new(status: u16, content_type: &'static str, body: String) -> Response {
        Response {
            status,
            content_type,
            body: body.into_bytes(),
            headers: Vec::new(),
            pieces: None,
        }
    }

    /// JSON that is made while it is sent.
    pub(super) fn pieces(pieces: Pieces) -> Response {
        let mut response = Response::new(200, "application/json", String::new());
        response.pieces = Some(pieces);
        response
    }

    /// What an error says.
    pub(super) fn reason(&self) -> String {
        let value: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        value["error"].as_str().unwrap_or_default().to_owned()
    }

    /// The value of a header beyond those that are always there.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(given, _)| *given == name);
        found.map(|(_, value)| value.as_str())
    }

    /// With one header more.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }
}

/// Names and values of a query, decoded; `None` for what is not UTF-8 then.
fn pairs(query: &str) -> impl Iterator<Item = (Option<String>, Option<String>)> + '_ {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
}

/// Text with its percent-encoding undone (RFC 3986 section 2.1); an incomplete one stays as it is.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|byte| (*byte as char).to_digit(16));
        rest = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                &tail[2..]
            }
            _ => {
                out.push(*first);
                tail
            }
        };
    }
    String::from_utf8(out).ok()
}

/// 400, with the names that would have been right.
fn unknown(what: &str, name: &str, known: &[&str]) -> Response {
    let known = match known {
        [] => "none is known here".to_string(),
        _ => format!("known: {}", known.join(", ")),
    };
    Response::error(400, format!("unknown {what} {name:?}; {known}"))
}

/// No resource of anybody else, no frame, no form that leaves.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; \
    style-src 'unsafe-inline'; img-src data:; connect-src 'self' ws:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";
