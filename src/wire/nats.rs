//! The NATS client protocol: what a server says, and how it is spoken to.
//!
//! Lines that end in CR LF; a message has its payload, of a length that its line tells, behind it.

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// JSON about itself.
    Info(&'a [u8]),
    Message(Delivery<'a>),
    Ping,
    Pong,
    Ok,
    /// Something was wrong; often the connection ends behind it.
    Err(&'a str),
}

/// A message for one of our subscriptions. Subjects are bytes: whoever publishes may name any as the
/// one for answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    pub subject: &'a [u8],
    /// The number that the subscription was given.
    pub sid: u64,
    /// Where an answer is waited for.
    pub reply: Option<&'a [u8]>,
    /// The block of headers; empty without any.
    pub headers: &'a [u8],
    pub payload: &'a [u8],
}

/// What stands there is not NATS, or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

/// Reads what stands at the start of `input`, and says how many bytes that is. `None`: more is needed.
/// `payload_max` bounds a message, headers included.
///
/// # Errors
/// It can't become a line of the protocol, whatever follows.
pub fn parse(input: &[u8], payload_max: usize) -> Result<Option<(usize, Said<'_>)>, Broken> {
    let Some(end) = memchr::memchr(b'\n', &input[..input.len().min(INFO_MAX)]) else {
        return begun_well(input).map(|()| None);
    };
    let line = input[..end].strip_suffix(b"\r").ok_or(LINE_END)?;
    let name_end = line.iter().position(|byte| is_blank(*byte));
    let (name, rest) = line.split_at(name_end.unwrap_or(line.len()));
    let rest = rest.trim_ascii();
    let is_info = name.eq_ignore_ascii_case(b"INFO");
    if end > LINE_MAX && !is_info {
        return Err(TOO_LONG);
    }
    let has_headers = name.eq_ignore_ascii_case(b"HMSG");
    let said = if has_headers || name.eq_ignore_ascii_case(b"MSG") {
        return parse_message(input, (rest, end + 1), has_headers, payload_max);
    } else if is_info {
        Said::Info(rest)
    } else if name.eq_ignore_ascii_case(b"-ERR") {
        let text = rest.strip_prefix(b"'").unwrap_or(rest);
        let text = text.strip_suffix(b"'").unwrap_or(text);
        Said::Err(std::str::from_utf8(text).unwrap_or("an error that is not UTF-8"))
    } else if name.len() < line.len() {
        return Err(UNKNOWN);
    } else if name.eq_ignore_ascii_case(b"PING") {
        Said::Ping
    } else if name.eq_ignore_ascii_case(b"PONG") {
        Said::Pong
    } else if name.eq_ignore_ascii_case(b"+OK") {
        Said::Ok
    } else {
        return Err(UNKNOWN);
    };
    Ok(Some((end + 1, said)))
}

/// A line that has not ended may still become one.
fn begun_well(input: &[u8]) -> Result<(), Broken> {
    let begins = |name: &&[u8]| {
        let both = name.len().min(input.len());
        name[..both].eq_ignore_ascii_case(&input[..both])
    };
    let found = NAMES.iter().find(|name| begins(name)).ok_or(UNKNOWN)?;
    let max = if *found == NAMES[0] {
        INFO_MAX
    } else {
        LINE_MAX
    };
    match input.len() > max {
        true => Err(TOO_LONG),
        false => Ok(()),
    }
}

/// `MSG <subject> <sid> [reply] <bytes>`, `HMSG <subject> <sid> [reply] <header bytes> <all bytes>`.
fn parse_message<'a>(
    input: &'a [u8],
    (line, from): (&'a [u8], usize),
    has_headers: bool,
    payload_max: usize,
) -> Result<Option<(usize, Said<'a>)>, Broken> {
    let mut words = [&b""[..]; WORDS_MAX];
    let mut count = 0;
    for word in line
        .split(|byte| is_blank(*byte))
        .filter(|word| !word.is_empty())
    {
        *words.get_mut(count).ok_or(WORDS)? = word;
        count += 1;
    }
    let numbers = 1 + usize::from(has_headers);
    let reply = match count.checked_sub(2 + numbers) {
        Some(0) => None,
        Some(1) => Some(words[2]),
        _ => return Err(WORDS),
    };
    let sid = number(words[1]).ok_or(WORDS)?;
    let all = number(words[count - 1]).ok_or(WORDS)? as usize;
    let head = match has_headers {
        true => number(words[count - 2]).ok_or(WORDS)? as usize,
        false => 0,
    };
    if all > payload_max || head > all {
        return Err(PAYLOAD);
    }
    let end = from + all;
    let tail = input.get(end..).unwrap_or_default();
    if tail.len() < 2 {
        return match tail.first() {
            None | Some(b'\r') => Ok(None),
            Some(_) => Err(LINE_END),
        };
    }
    if !tail.starts_with(b"\r\n") {
        return Err(LINE_END);
    }
    let message = Delivery {
        subject: words[0],
        sid,
        reply,
        headers: &input[from..from + head],
        payload: &input[from + head..end],
    };
    Ok(Some((end + 2, Said::Message(message))))
}

impl<'a> Delivery<'a> {
    /// The value of a header, whatever the case of its name. The block is the publisher's: what can't
    /// be read in it is not there.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let mut lines = self.headers.split(|byte| *byte == b'\n').skip(1);
        lines.find_map(|line| {
            let at = memchr::memchr(b':', line)?;
            let (found, value) = (line[..at].trim_ascii(), line[at + 1..].trim_ascii());
            let same = found.eq_ignore_ascii_case(name.as_bytes());
            same.then(|| std::str::from_utf8(value).ok()).flatten()
        })
    }

    /// What the server says of a request instead of an answer: 503 if nobody listens.
    pub fn status(&self) -> Option<u16> {
        let line = self.headers.split(|byte| *byte == b'\n').next()?;
        let status = line.strip_prefix(VERSION.as_bytes())?.trim_ascii();
        std::str::from_utf8(status.get(..3)?).ok()?.parse().ok()
    }
}

/// The raw value of a name at the top of a JSON object: as much of JSON as INFO and the
/// acknowledgements of JetStream need, without taking anything apart that nobody asks for.
pub fn json_field<'a>(json: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (mut at, mut depth) = (0, 0_u32);
    let (mut key, mut value) = (None, None);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                let end = string_end(json, at)?;
                if depth == 1 && value.is_none() {
                    key = Some(&json[at + 1..end - 1]);
                }
                at = end;
                continue;
            }
            b':' if depth == 1 && value.is_none() => value = Some(at + 1),
            b',' | b'}' if depth == 1 => {
                if let (Some(key), Some(from)) = (key.take(), value.take())
                    && key == name.as_bytes()
                {
                    return Some(json[from..at].trim_ascii());
                }
                depth -= u32::from(*byte == b'}');
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += 1;
    }
    None
}

/// Behind the closing quote of the string that begins there.
fn string_end(json: &[u8], from: usize) -> Option<usize> {
    let mut at = from + 1;
    loop {
        match json.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// A whole number as JSON and the protocol have it.
pub fn number(text: &[u8]) -> Option<u64> {
    let digits = (1..=DIGITS_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    digits
        .then(|| std::str::from_utf8(text).ok()?.parse().ok())
        .flatten()
}

/// Who says CONNECT.
#[derive(Clone, Copy, Debug, Default)]
pub struct Login<'a> {
    /// What the server's operator sees.
    pub name: &'a str,
    pub user: Option<&'a str>,
    pub password: Option<&'a str>,
    pub token: Option<&'a str>,
}

/// The first line of a client. Headers are needed; nothing of one's own comes back.
pub fn connect(login: &Login<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\
          \"echo\":false,\"protocol\":1,\"lang\":\"rust\",\"version\":",
    );
    put_json(env!("CARGO_PKG_VERSION"), out);
    let fields = [
        ("name", Some(login.name)),
        ("user", login.user),
        ("pass", login.password),
        ("auth_token", login.token),
    ];
    for (field, value) in fields {
        if let Some(value) = value {
            out.push(b',');
            put_json(field, out);
            out.push(b':');
            put_json(value, out);
        }
    }
    out.extend_from_slice(b"}\r\n");
}

fn put_json(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Asks for what is published to a subject; of a queue group one member gets it.
pub fn subscribe(subject: &str, group: Option<&str>, sid: u64, out: &mut Vec<u8>) {
    debug_assert!(!subject.contains([' ', '\r', '\n']), "{subject:?}");
    let group = group.map_or(String::new(), |group| format!(" {group}"));
    out.extend_from_slice(format!("SUB {subject}{group} {sid}\r\n").as_bytes());
}

/// Asks for it no longer.
pub fn unsubscribe(sid: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("UNSUB {sid}\r\n").as_bytes());
}

/// Publishes; `headers` is a block of [`Headers`], or empty.
pub fn publish(
    subject: &[u8],
    reply: Option<&[u8]>,
    headers: &[u8],
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    publish_head(subject, reply, headers, payload.len(), out);
    out.extend_from_slice(payload);
    out.extend_from_slice(LINE.as_bytes());
}

/// All of a publish that stands before its payload; behind that comes [`LINE`].
pub fn publish_head(
    subject: &[u8],
    reply: Option<&[u8]>,
    headers: &[u8],
    payload: usize,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(if headers.is_empty() {
        b"PUB "
    } else {
        b"HPUB "
    });
    out.extend_from_slice(subject);
    out.push(b' ');
    if let Some(reply) = reply {
        out.extend_from_slice(reply);
        out.push(b' ');
    }
    if !headers.is_empty() {
        out.extend_from_slice(format!("{} ", headers.len()).as_bytes());
    }
    let all = headers.len() + payload;
    out.extend_from_slice(format!("{all}\r\n").as_bytes());
    out.extend_from_slice(headers);
}

/// A block of headers that is being written.
pub struct Headers(Vec<u8>);

impl Headers {
    /// Without any yet.
    pub fn new() -> Headers {
        Headers(format!("{VERSION}\r\n").into_bytes())
    }

    /// One more. A byte that would end the line becomes a space.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Headers {
        let harmless = |byte: u8| if byte.is_ascii_control() { b' ' } else { byte };
        self.0.extend(name.bytes().map(harmless));
        self.0.extend_from_slice(b": ");
        self.0.extend(value.bytes().map(harmless));
        self.0.extend_from_slice(LINE.as_bytes());
        self
    }

    /// Lines that stand as HTTP has them, each with its end.
    #[must_use]
    pub fn with_lines(mut self, lines: &[u8]) -> Headers {
        debug_assert!(lines.is_empty() || lines.ends_with(LINE.as_bytes()));
        self.0.extend_from_slice(lines);
        self
    }

    /// The block.
    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(LINE.as_bytes());
        self.0
    }
}

impl Default for Headers {
    fn default() -> Headers {
        Headers::new()
    }
}

/// Writes an id as one token of a subject: letters, digits and `- _ ~ : @ +` as they stand, every
/// other byte as `=` and two hexadecimal digits. No two ids become the same token.
pub fn put_token(id: &str, out: &mut Vec<u8>) {
    debug_assert!(!id.is_empty(), "a token has a byte");
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~:@+".contains(&byte) {
            out.push(byte);
        } else {
            let digit = |four: u8| b"0123456789ABCDEF"[usize::from(four)];
            out.extend_from_slice(&[b'=', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

/// The id that a token was made of; `None`: it was made of none.
pub fn read_token(token: &[u8]) -> Option<String> {
    let mut id = Vec::with_capacity(token.len());
    let mut rest = token;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'=' {
            id.push(*byte);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        id.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = tail;
    }
    let id = String::from_utf8(id).ok().filter(|id| !id.is_empty())?;
    // Only what would be written so: one token is one id.
    let mut again = Vec::with_capacity(token.len());
    put_token(&id, &mut again);
    (again == token).then_some(id)
}

/// Whether a subject may be published to as it stands: tokens between dots, without the signs that
/// mean several subjects.
pub fn is_subject(subject: &[u8]) -> bool {
    let token = |token: &[u8]| {
        let legal = |byte: &u8| byte.is_ascii_graphic() && !b"*>".contains(byte);
        !token.is_empty() && token.iter().all(legal)
    };
    subject.len() <= SUBJECT_MAX && subject.split(|byte| *byte == b'.').all(token)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

pub const PING: &str = "PING\r\n";
pub const PONG: &str = "PONG\r\n";
/// What ends a line, and a payload.
pub const LINE: &str = "\r\n";

/// A server takes no longer line, but for INFO, which lists all servers of a cluster.
pub const LINE_MAX: usize = 4_096;
pub const INFO_MAX: usize = 32 << 10;

/// Half a line is left for the rest of it.
const SUBJECT_MAX: usize = LINE_MAX / 2;

/// Subject, number, reply and two lengths.
const WORDS_MAX: usize = 5;

/// Any `u64` of fewer digits has a place in one.
const DIGITS_MAX: usize = 19;

const VERSION: &str = "NATS/1.0";

/// INFO first: its line is longer.
const NAMES: [&[u8]; 7] = [
    b"INFO",
    b"MSG",
    b"HMSG",
    b"PING\r\n",
    b"PONG\r\n",
    b"+OK\r\n",
    b"-ERR",
];

const UNKNOWN: Broken = Broken("a line that no NATS server says");
const TOO_LONG: Broken = Broken("a line that does not end");
const LINE_END: Broken = Broken("no CR LF where one must be");
const WORDS: Broken = Broken("a message's line that can't be read");
const PAYLOAD: Broken = Broken("a message that is too long");

#[cfg(test)]
mod tests {
    use super::*;

    fn message<'a>(reply: Option<&'a [u8]>, headers: &'a [u8], payload: &'a [u8]) -> Said<'a> {
        Said::Message(Delivery {
            subject: b"w.a.out",
            sid: 7,
            reply,
            headers,
            payload,
        })
    }

    /// Lines as a server writes them, and what they say.
    fn samples() -> Vec<(Vec<u8>, Said<'static>)> {
        let plain: &[(&[u8], Said<'_>)] = &[
            (
                b"INFO {\"max_payload\":1048576} \r\n",
                Said::Info(b"{\"max_payload\":1048576}"),
            ),
            (b"PING\r\n", Said::Ping),
            (b"pong\r\n", Said::Pong),
            (b"+OK\r\n", Said::Ok),
            (
                b"-ERR 'Authorization Violation'\r\n",
                Said::Err("Authorization Violation"),
            ),
            (
                b"MSG w.a.out 7 5\r\nhello\r\n",
                message(None, b"", b"hello"),
            ),
            (
                b"MSG w.a.out\t7  _R.1 0\r\n\r\n",
                message(Some(b"_R.1"), b"", b""),
            ),
            (
                b"MSG w.a.out 7 4\r\n\r\n\r\n\r\n",
                message(None, b"", b"\r\n\r\n"),
            ),
            (
                b"HMSG w.a.out 7 _R.1 22 24\r\nNATS/1.0\r\nA: b: c \r\n\r\nhi\r\n",
                message(Some(b"_R.1"), b"NATS/1.0\r\nA: b: c \r\n\r\n", b"hi"),
            ),
            (
                b"HMSG w.a.out 7 16 16\r\nNATS/1.0 503\r\n\r\n\r\n",
                message(None, b"NATS/1.0 503\r\n\r\n", b""),
            ),
        ];
        plain
            .iter()
            .map(|(line, said)| (line.to_vec(), *said))
            .collect()
    }

    #[test]
    fn every_prefix_waits_and_the_whole_is_understood() {
        for (line, said) in samples() {
            for cut in 0..line.len() {
                assert_eq!(parse(&line[..cut], 64), Ok(None), "{cut} bytes of {line:?}");
            }
            let behind = [&line[..], b"PING\r\n"].concat();
            assert_eq!(parse(&behind, 64), Ok(Some((line.len(), said))));
        }
    }

    #[test]
    fn what_no_server_says_is_broken_at_once() {
        let endless = [b"MSG ".to_vec(), vec![b'a'; LINE_MAX]].concat();
        let endless_info = [b"INFO ".to_vec(), vec![b'a'; INFO_MAX]].concat();
        let long = [b"-ERR ".to_vec(), vec![b'a'; LINE_MAX], b"\r\n".to_vec()].concat();
        let rows: [(&[u8], Broken); 17] = [
            (b"HTTP/1.1 200 OK", UNKNOWN),
            (b"\r\n", UNKNOWN),
            (b"PING now\r\n", UNKNOWN),
            (b"PINGS\r\n", UNKNOWN),
            (b"PING\n", LINE_END),
            (b"MSG a 1 2\n", LINE_END),
            (b"MSG a 1\r\n", WORDS),
            (b"MSG a 1 b 2 3\r\n", WORDS),
            (b"MSG a x 2\r\n", WORDS),
            (b"MSG a 1 -2\r\n", WORDS),
            (b"MSG a 1 99999999999999999999\r\n", WORDS),
            (b"MSG a 1 65\r\n", PAYLOAD),
            (b"HMSG a 1 5 4\r\n", PAYLOAD),
            (b"MSG a 1 2\r\nabc", LINE_END),
            (&endless, TOO_LONG),
            (&endless_info, TOO_LONG),
            (&long, TOO_LONG),
        ];
        for (bytes, why) in rows {
            assert_eq!(
                parse(bytes, 64),
                Err(why),
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn headers_and_statuses_are_found_or_not_there() {
        let of = |headers: &'static [u8]| Delivery {
            subject: b"a",
            sid: 1,
            reply: None,
            headers,
            payload: b"",
        };
        let full = of(b"NATS/1.0\r\nX-Wsteady-Close: 4001\r\nb:\r\n\r\n");
        assert_eq!(full.header("x-wsteady-close"), Some("4001"));
        assert_eq!((full.header("b"), full.header("c")), (Some(""), None));
        assert_eq!(full.status(), None);
        assert_eq!(of(b"NATS/1.0 503\r\n\r\n").status(), Some(503));
        assert_eq!(
            of(b"NATS/1.0 408 Request Timeout\r\n\r\n").status(),
            Some(408)
        );
        for strange in [
            &b""[..],
            b"NATS/1.0",
            b"NATS/1.0 \xff\xff\xff\r\n",
            b"a\n: \xff\n",
        ] {
            let strange = of(strange);
            assert_eq!((strange.status(), strange.header("")), (None, None));
        }
    }

    #[test]
    fn json_is_read_at_its_top() {
        let json = br#" {"a" : {"x":1,"y":"}"}, "s":"q\"u,}", "b":[1,{"b":2}],"n":17 ,"t":true}"#;
        let rows: [(&str, Option<&[u8]>); 7] = [
            ("a", Some(br#"{"x":1,"y":"}"}"#)),
            ("s", Some(br#""q\"u,}""#)),
            ("b", Some(br#"[1,{"b":2}]"#)),
            ("n", Some(b"17")),
            ("t", Some(b"true")),
            ("x", None),
            ("q", None),
        ];
        for (name, value) in rows {
            assert_eq!(json_field(json, name), value, "{name}");
        }
        for cut in 0..json.len() {
            assert_eq!(json_field(&json[..cut], "t"), None);
        }
        assert_eq!(json_field(b"}{", "a"), None);
        assert_eq!(json_field(br#"["a":1]"#, "b"), None);
    }

    #[test]
    fn what_is_written_is_what_servers_read() {
        let mut out = Vec::new();
        let login = Login {
            name: "w\"1\n",
            user: Some("u"),
            password: Some("\\p"),
            token: None,
        };
        connect(&login, &mut out);
        let text = std::str::from_utf8(&out).unwrap();
        let json = text
            .strip_prefix("CONNECT ")
            .and_then(|rest| rest.strip_suffix("\r\n"));
        let json: serde_json::Value = serde_json::from_str(json.unwrap()).unwrap();
        assert_eq!(
            (&json["name"], &json["pass"]),
            (&"w\"1\n".into(), &"\\p".into())
        );
        assert_eq!(
            (&json["headers"], &json["echo"]),
            (&true.into(), &false.into())
        );
        assert_eq!(json.get("auth_token"), None);
        out.clear();
        subscribe("a.*", Some("g"), 3, &mut out);
        subscribe("a.b", None, 4, &mut out);
        unsubscribe(3, &mut out);
        publish(
            b"a.b",
            Some(b"r"),
            &Headers::new().with("A", "b\r\nC: d").end(),
            b"xy",
            &mut out,
        );
        publish(b"a.b", None, b"", b"", &mut out);
        let want = "SUB a.* g 3\r\nSUB a.b 4\r\nUNSUB 3\r\n\
                    HPUB a.b r 23 25\r\nNATS/1.0\r\nA: b  C: d\r\n\r\nxy\r\nPUB a.b 0\r\n\r\n";
        assert_eq!(
            String::from_utf8_lossy(&out),
            want.replace("23 25", "24 26")
        );
    }

    #[test]
    fn a_token_is_one_id_and_an_id_one_token() {
        let all: String = (0x20..0x7f_u8).map(char::from).collect();
        for id in [
            "a",
            "A-z0_~:@+",
            "a.b",
            "*",
            ">",
            "=",
            "=2E",
            "a b",
            "ä",
            &all,
        ] {
            let mut token = Vec::new();
            put_token(id, &mut token);
            assert!(is_subject(&token) && !token.contains(&b'.'), "{id}");
            assert_eq!(read_token(&token).as_deref(), Some(id));
        }
        let mut token = Vec::new();
        put_token("a.b=*", &mut token);
        assert_eq!(token, b"a=2Eb=3D=2A");
        for none in [
            "", "=", "=4", "=zz", "a.b", "=2e", "=41", "=FF", "=+1", "a*",
        ] {
            assert_eq!(read_token(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn a_subject_means_one() {
        let long = "a".repeat(SUBJECT_MAX + 1);
        for bad in [
            "", ".", "a..b", "a.", ".a", "a b", "a.*", "a.>", "a\r\n", "ä", &long,
        ] {
            assert!(!is_subject(bad.as_bytes()), "{bad:?}");
        }
        for good in ["a", "a.b.c", "_INBOX.x-1", "$SYS.a", &long[1..]] {
            assert!(is_subject(good.as_bytes()), "{good:?}");
        }
    }
}
