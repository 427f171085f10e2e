//! From a scalar's text to its value. Every error says what the text is not and what to write.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
#[cfg(feature = "tls")]
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::model::Words;
use super::{HashBy, Loops, PeerConfig, Secret};

/// Reads `5MiB`, `64k`, `1.5GiB`, `10MB` or plain bytes. `KiB`, `K` and their like count in 1024s,
/// as nginx's and HAProxy's do; `kB`, `MB` and so on in 1000s.
///
/// # Errors
/// A sentence for the operator.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size; write 64KiB, 5MiB or a number of bytes");
    let text_trimmed = text.trim();
    let split = text_trimmed
        .find(|one: char| !one.is_ascii_digit() && one != '.')
        .unwrap_or(text_trimmed.len());
    let (number, unit) = text_trimmed.split_at(split);
    let unit = unit.trim_start().to_ascii_lowercase();
    let (_, scale) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Nine digits behind the point are enough for TiB and can't overflow u128.
    if whole.is_empty() || whole.len() > 19 || fraction.is_empty() || fraction.len() > 9 {
        return Err(wrong());
    }
    let digits = |part: &str| part.parse::<u128>().map_err(|_| wrong());
    let tenths = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| wrong())?);
    let bytes =
        digits(whole)? * u128::from(*scale) + digits(fraction)? * u128::from(*scale) / tenths;
    u64::try_from(bytes).map_err(|_| wrong())
}

/// The shortest text that [`parse_size`] reads as the same number of bytes.
pub fn size_text(bytes: u64) -> String {
    let exact = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = exact
        .iter()
        .find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    match unit {
        Some((name, shift)) => format!("{}{name}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// Reads `30s`, `50ms`, `1m 30s` or `0`, in whole milliseconds, at most 24 days.
///
/// # Errors
/// A sentence for the operator.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{text:?} has no unit; write {text}s or {text}ms"));
    }
    let time = humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is not a time; write 30s, 50ms or 1m 30s"))?;
    if time.subsec_nanos() % 1_000_000 != 0 {
        return Err(format!(
            "{text:?} is finer than a millisecond; write whole milliseconds"
        ));
    }
    match time <= TIME_MAX {
        true => Ok(time),
        false => Err(format!("{text:?} is too long; 24 days is the most")),
    }
}

/// The text of a time that [`parse_duration`] reads back.
pub fn duration_text(time: Duration) -> String {
    match time.is_zero() {
        true => "0".into(),
        false => humantime::format_duration(time).to_string(),
    }
}

/// A time that must pass for the setting to work at all.
pub(super) fn some_time(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be more than 0".into()),
        time => Ok(time),
    }
}

/// The time between two questions to somebody else's machine; 0 for one question alone.
pub(super) fn pause(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        time if time > Duration::ZERO && time < PAUSE_MIN => Err(format!(
            "must be at least {}, or 0 for never",
            duration_text(PAUSE_MIN)
        )),
        time => Ok(time),
    }
}

/// A size of at least `least` and at most `most` bytes.
pub(super) fn size_within(least: u64, most: u64) -> impl Fn(&str) -> Result<u64, String> {
    move |text| match parse_size(text)? {
        size if size < least => Err(format!("must be at least {}", size_text(least))),
        size if size > most => Err(format!("must be at most {}", size_text(most))),
        size => Ok(size),
    }
}

/// A whole number of at least `least` and at most `most`.
pub(super) fn number_within(least: u32, most: u32) -> impl Fn(&str) -> Result<u32, String> {
    move |text| match text.parse::<u32>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Ok(_) if most == u32::MAX => Err(format!("must be at least {least}")),
        Ok(_) => Err(format!("must be {least} to {most}")),
        Err(_) => Err(format!(
            "{text:?} is not a whole number; write {least} or more"
        )),
    }
}

/// One word of a fixed list.
pub(super) fn word<T: Words>(text: &str) -> Result<T, String> {
    let found = T::WORDS.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        format!("{text:?} is not known; write {}", either(&words))
    })
}

/// `a`, `a or b`, `a, b or c`.
fn either(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).into(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{text:?} is not known; write true or false")),
    }
}

pub(super) fn loops(text: &str) -> Result<Loops, String> {
    match text.parse::<usize>() {
        _ if text == "auto" => Ok(Loops::Auto),
        Ok(count) if (1..=LOOPS_MAX).contains(&count) => Ok(Loops::Count(count)),
        _ => Err(format!(
            "{text:?} is not known; write auto or 1 to {LOOPS_MAX}"
        )),
    }
}

/// A local address with its port. `:8080` and `*:8080` are all IPv4 addresses, `[::]:8080` all
/// addresses of both families, as Linux has it.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let wrong = || {
        format!("{text:?} is not an address with a port; write 127.0.0.1:8080, [::1]:8080 or :8080")
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let all_digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let known = match host {
        "" | "*" => Some(Ipv4Addr::UNSPECIFIED),
        "localhost" => Some(Ipv4Addr::LOCALHOST),
        _ => None,
    };
    match (known, port.parse::<u16>()) {
        (Some(ip), Ok(port)) if all_digits => Ok((ip, port).into()),
        (None, Ok(_)) if all_digits => text.parse().map_err(|_| wrong()),
        (_, Err(_)) if all_digits => Err(format!("port {port} is too big; 65535 is the most")),
        _ => Err(wrong()),
    }
}

/// Another node's address with its port, or a name with it.
pub(super) fn peer(text: &str) -> Result<PeerConfig, String> {
    let wrong = || {
        format!(
            "{text:?} is not a host with a port; write 10.0.0.2:8080, [fd00::2]:8080 or wsteady.internal:8080"
        )
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0);
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let host = match inner {
        Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => address,
        None if is_host_name(host) => host,
        _ => return Err(wrong()),
    };
    Ok(PeerConfig {
        host: host.to_ascii_lowercase(),
        port: port.ok_or_else(wrong)?,
    })
}

/// `nats://host:port`, with NATS' own port if there is none.
#[cfg(feature = "nats")]
pub(super) fn nats_server(text: &str) -> Result<PeerConfig, String> {
    let wrong = || format!("{text:?} is not a NATS server; write nats://10.0.0.5:4222");
    let rest = text.strip_prefix("nats://").ok_or_else(wrong)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err("has a user in its URL; write cluster.bus.user and password".into());
    }
    let bare = rest.ends_with(']') || !rest.contains(':');
    let full = if bare {
        format!("{rest}:4222")
    } else {
        rest.to_string()
    };
    peer(&full).map_err(|_| wrong())
}

pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an IP address; write 10.0.0.1"))
}

/// `10.0.0.0/8`, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let network = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network =
        network.map_err(|_| format!("{text:?} is not a network; write 10.0.0.0/8 or 10.0.0.1"))?;
    Ok(network.trunc())
}

/// An `Origin` as browsers write it (RFC 6454, 6.2): lower case, no default port, no path.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    if lower == "null" {
        return Ok(lower);
    }
    let wrong = || format!("{text:?} is not an origin; write https://example.com");
    let (scheme, rest) = lower.split_once("://").ok_or_else(wrong)?;
    let alone = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic());
    if scheme.is_empty() || !alone || rest.contains(['/', '?', '#', '@', '*', ',']) {
        return Err(wrong());
    }
    let default_port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let rest = rest.strip_suffix(default_port).unwrap_or(rest);
    Ok(format!("{scheme}://{rest}"))
}

/// A field name (RFC 9110, 5.1).
pub(super) fn header_name(text: &str) -> Result<String, String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match !text.is_empty() && text.bytes().all(token) {
        true => Ok(text.into()),
        false => Err(format!(
            "{text:?} is not a header name; write letters, digits and dashes"
        )),
    }
}

/// A header name that wsteady does not write itself in a handshake. Passing or inventing one of
/// those would let a server or an operator break the framing of every connection.
pub(super) fn free_header_name(text: &str) -> Result<String, String> {
    let name = header_name(text)?;
    let lower = name.to_ascii_lowercase();
    let own = OWN_HEADERS.contains(&lower.as_str())
        || ["sec-websocket-", "x-wsteady-", "proxy-"]
            .iter()
            .any(|start| lower.starts_with(start));
    match own {
        true => Err(format!(
            "{text:?} is written by wsteady itself; name another header"
        )),
        false => Ok(name),
    }
}

/// A header name that a request can do without.
pub(super) fn blockable_header_name(text: &str) -> Result<String, String> {
    match text.eq_ignore_ascii_case("host") {
        true => Err("every request needs its Host header; name another".into()),
        false => header_name(text),
    }
}

/// A close code that a server's Close, or its absence, can stand for (RFC 6455, 7.4).
pub(super) fn close_code(text: &str) -> Result<u16, String> {
    let code = text.parse::<u16>().ok();
    let valid = |code: &u16| matches!(code, 1000..=1003 | 1005..=1015 | 3000..=4999);
    code.filter(valid).ok_or_else(|| {
        format!("{text:?} is not a close code; write 1000 to 1015 but for 1004, or 3000 to 4999")
    })
}

/// What `balance: hash` goes by.
pub(super) fn hash_by(text: &str) -> Result<HashBy, String> {
    match text {
        "id" => Ok(HashBy::Id),
        "address" => Ok(HashBy::Address),
        _ => match text.strip_prefix("header:") {
            Some(name) => header_name(name).map(HashBy::Header),
            None => Err(format!(
                "{text:?} is not known; write id, address or header:NAME"
            )),
        },
    }
}

/// What a probe asks for: it goes into a request line as it is.
pub(super) fn probe_path(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    match text.starts_with('/') && text.bytes().all(plain) {
        true => Ok(text.into()),
        false => Err(format!(
            "{text:?} is not a path that begins with a slash; write /healthCheck"
        )),
    }
}

/// What a request gets that finds no room.
pub(super) fn full_status(text: &str) -> Result<u16, String> {
    match text {
        "503" => Ok(503),
        "429" => Ok(429),
        _ => Err(format!("{text:?} is not known; write 503 or 429")),
    }
}

/// A whole number of 1 to 255.
pub(super) fn count(text: &str) -> Result<u8, String> {
    let number = number_within(1, 255)(text)?;
    u8::try_from(number).map_err(|_| "must be 1 to 255".into())
}

/// A prefix of a path in whole segments; a slash at its end says nothing and is dropped.
pub(super) fn route_path(text: &str) -> Result<String, String> {
    if !is_path(text) {
        return Err(format!("{text:?} is not a path; write /chat"));
    }
    match text.trim_end_matches('/') {
        "" => Ok("/".into()),
        path => Ok(path.into()),
    }
}

/// What a ClientId can follow directly.
pub(super) fn push_path(text: &str) -> Result<String, String> {
    match is_path(text) && text.ends_with('/') {
        true => Ok(text.into()),
        false => Err(format!(
            "{text:?} is not a path that begins and ends with a slash; write /_push/"
        )),
    }
}

fn is_path(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'?' && byte != b'#';
    text.starts_with('/') && text.bytes().all(plain)
}

/// A host name or address as it stands in `Host`, without its port.
pub(super) fn host(text: &str) -> Result<String, String> {
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let valid = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host_name(text),
    };
    match valid {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!(
            "{text:?} is not a host; write chat.example.com, without a port"
        )),
    }
}

/// A path of the file system, from where wsteady was started.
#[cfg(feature = "tls")]
pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    match !text.is_empty() && !text.chars().any(char::is_control) {
        true => Ok(text.into()),
        false => Err(format!(
            "{text:?} is not the path of a file; write /etc/wsteady/tls.pem"
        )),
    }
}

/// Who a server must be: a name, or an address.
#[cfg(feature = "tls")]
pub(super) fn server_name(text: &str) -> Result<String, String> {
    match is_host_name(text) || text.parse::<IpAddr>().is_ok() {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!(
            "{text:?} is not a name; write chat.example.com, without a port"
        )),
    }
}

pub(super) fn is_host_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !text.is_empty() && text.len() <= 253 && text.bytes().all(plain)
}

/// A name that stands in metrics labels and in paths of the admin API as it is.
pub(super) fn name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte);
    match (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain) {
        true => Ok(text.into()),
        false => Err(format!(
            "{text:?} is not a name; write 1 to {NAME_BYTES_MAX} letters, digits and - . _ ~ : @"
        )),
    }
}

/// What subjects begin with: words between dots, without the signs that NATS or the ids of clients
/// give a meaning.
#[cfg(feature = "nats")]
pub(super) fn nats_prefix(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let word = |word: &str| !word.is_empty() && word.bytes().all(plain);
    match text.len() <= NAME_BYTES_MAX && text.split('.').all(word) {
        true => Ok(text.into()),
        false => Err(format!(
            "{text:?} begins no subject; write letters, digits, - and _, with dots between words, \
             {NAME_BYTES_MAX} at most"
        )),
    }
}

/// A word that is sent as it stands.
#[cfg(feature = "nats")]
pub(super) fn visible(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text.into()),
        false => Err(format!(
            "{text:?} is empty, or has a space or another byte that no name has"
        )),
    }
}

/// A bearer token; the empty one means none.
pub(super) fn token(text: &str) -> Result<Option<Secret>, String> {
    match text {
        "" => Ok(None),
        // What `check` prints must not become the password when its output is used as a file.
        MASK => Err("is the mask that `wsteady check` prints; write the token itself".into()),
        _ if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(Secret::new(text))),
        // The text stays out of the message: it may be most of a secret.
        _ => Err("has characters that no header can carry; write letters, digits, signs".into()),
    }
}

/// What stands for a secret wherever a configuration is shown.
pub(super) const MASK: &str = "***";

const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
];

/// Deadlines are compared by the wrapping difference of 32-bit milliseconds, so that anything
/// beyond half of 49.7 days would lie in the past.
const TIME_MAX: Duration = Duration::from_secs(24 * 24 * 3600);

/// No name server needs to be asked more often, and none should be.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The largest machines have some 500 cores.
const LOOPS_MAX: usize = 1024;

/// As long as a ClientId; keeps metrics lines readable.
const NAME_BYTES_MAX: usize = 128;

/// Hop-by-hop headers (RFC 9110, 7.6.1) and those that frame a message or name its target.
const OWN_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
