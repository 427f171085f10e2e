//! Who may ask, and how. Decided on the head alone, for every route.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::message::{Request, Response};
use crate::wire::head;

/// Checks a request's head; `has_body` says whether a body is announced.
///
/// # Errors
/// The response that refuses it: 421 for a Host by which a browser was led here (DNS rebinding),
/// 403 for another page's Origin, 401 without the token, 400 for a token where logs would keep it,
/// 415 for a change that a plain form of another page could have sent.
pub(super) fn check(
    request: &head::Request<'_>,
    has_body: bool,
    token: Option<&str>,
) -> Result<(), Response> {
    let headers = &request.headers;
    let (path, query) = split_target(request.target);
    let host = headers.get_str("host");
    // The parser lets only HTTP/1.0 do without a Host: plain health checkers, never a browser.
    if host.is_some_and(|host| !is_own_host(host)) {
        let reason = "Host must be an IP address or localhost";
        return Err(Response::error(421, reason));
    }
    let mut origins = headers.all("origin");
    if let Some(origin) = origins.next() {
        let same = is_same_origin(origin, host.unwrap_or_default());
        if !same || origins.next().is_some() {
            return Err(Response::error(403, "foreign Origin"));
        }
    }
    let token = token.filter(|_| !OPEN_PATHS.contains(&path));
    if token.is_some_and(|token| !bears(headers, token)) {
        let refused = Response::error(401, "a bearer token is needed");
        return Err(refused.with("WWW-Authenticate", "Bearer"));
    }
    if TOKEN_PARAMS
        .iter()
        .any(|name| Request::has_param(query, name))
    {
        let reason = "a token never stands in a URL: send Authorization: Bearer";
        return Err(Response::error(400, reason));
    }
    let changes = !matches!(request.method, "GET" | "HEAD");
    if changes && has_body && !is_json(headers) {
        let reason = "a body must be Content-Type: application/json";
        return Err(Response::error(415, reason));
    }
    Ok(())
}

/// Path and query of a target.
pub(super) fn split_target(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

/// An address, or the one name that no stranger's DNS can answer for.
fn is_own_host(host: &str) -> bool {
    let (name, _) = split_authority(host);
    let address = match name.strip_prefix('[') {
        Some(inner) => inner.trim_end_matches(']').parse::<Ipv6Addr>().is_ok(),
        None => name.parse::<Ipv4Addr>().is_ok(),
    };
    address || name.eq_ignore_ascii_case("localhost")
}

/// Whether an Origin (RFC 6454 section 7) is the address that was asked. `null` is nobody's.
fn is_same_origin(origin: &[u8], host: &str) -> bool {
    let Some((scheme, authority)) = std::str::from_utf8(origin)
        .ok()
        .and_then(|origin| origin.split_once("://"))
    else {
        return false;
    };
    let usual = match scheme {
        "http" => "80",
        "https" => "443",
        _ => return false,
    };
    let full = |authority| {
        let (name, port) = split_authority(authority);
        (name.to_ascii_lowercase(), port.unwrap_or(usual).to_string())
    };
    full(authority) == full(host)
}

/// Name and port; the brackets of an IPv6 address stay. An empty port is none.
fn split_authority(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (name, Some(port).filter(|port| !port.is_empty()))
        }
        // The colon is one of an IPv6 address.
        _ => (authority, None),
    }
}

/// Whether the one Authorization header bears the token (RFC 6750 section 2.1).
fn bears(headers: &head::Headers<'_>, token: &str) -> bool {
    let mut lines = headers.all("authorization");
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return false;
    };
    let (scheme, given) = match line.iter().position(|byte| *byte == b' ') {
        Some(at) => (&line[..at], line[at..].trim_ascii()),
        None => return false,
    };
    scheme.eq_ignore_ascii_case(b"bearer") && is_same_secret(given, token.as_bytes())
}

/// Compares in a time that depends on the length of what was given alone (S02).
pub(super) fn is_same_secret(given: &[u8], wanted: &[u8]) -> bool {
    if wanted.is_empty() {
        return false;
    }
    let mut difference = given.len() ^ wanted.len();
    for (at, byte) in given.iter().enumerate() {
        difference |= usize::from(byte ^ wanted[at % wanted.len()]);
    }
    // The compiler must not find out that it could have stopped earlier.
    std::hint::black_box(difference) == 0
}

/// Whether the one Content-Type is JSON. A page of somebody else can't send that without asking
/// first (a CORS preflight), and we never answer those.
fn is_json(headers: &head::Headers<'_>) -> bool {
    let mut lines = headers.all("content-type");
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return false;
    };
    let kind = line.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// Served without the token: checks of health, and the dashboard's files, which hold nothing but
/// what everybody can read in the source. A browser can't send a token before it has a page.
pub(super) const OPEN_PATHS: [&str; 6] = [
    "/healthz",
    "/readyz",
    "/",
    "/dashboard",
    "/dashboard.css",
    "/dashboard.js",
];

/// Names under which tokens have been put into URLs, where proxies and histories keep them.
const TOKEN_PARAMS: [&str; 3] = ["token", "access_token", "authorization"];
