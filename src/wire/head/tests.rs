use super::*;

const LIMITS: HeadLimits = HeadLimits {
    bytes_max: 2000,
    headers_max: 8,
    name_max: 40,
    value_max: 300,
};

/// A head of lines that are separated by `|` here and end in CRLF.
pub(crate) fn lines(text: &str) -> Vec<u8> {
    format!("{}\r\n\r\n", text.replace('|', "\r\n")).into_bytes()
}

fn status_of(head: &[u8]) -> u16 {
    Request::parse(head, &LIMITS).map_or_else(|error| error.status, |_| 200)
}

const GOOD: &[&str] = &[
    "GET / HTTP/1.1|Host: a",
    "GET / HTTP/1.0",
    "GET /room/7?x=1&y=%20;z HTTP/1.1|host: a.b-c_d:8080|X-Empty:|X:\ty ",
    "OPTIONS * HTTP/1.1|Host: [::1]:80",
    "GET http://A.b:80/x?y HTTP/1.1|Host: a.b:80",
    "POST / HTTP/1.1|Host: a|Content-Length: 5",
    "POST / HTTP/1.1|Host: a|Transfer-Encoding: Chunked",
    "FOO /../%2e%2e//;a HTTP/1.1|Host: a|Content-Length: 0",
];

#[test]
fn every_prefix_of_every_good_head_is_incomplete() {
    for text in GOOD {
        let head = lines(text);
        let mut followed = head.clone();
        followed.extend_from_slice(b"GET /next HTTP/1.1\n\n\0");
        for len in 0..head.len() {
            for from in 0..=len {
                assert_eq!(
                    end(&head[..len], from, &LIMITS),
                    Ok(None),
                    "{text} {len} {from}"
                );
                assert_eq!(
                    end(&followed, from, &LIMITS),
                    Ok(Some(head.len())),
                    "{text} {from}"
                );
            }
            assert!(
                Request::parse(&head[..len], &LIMITS).is_err(),
                "{text} {len}"
            );
        }
        assert_eq!(status_of(&head), 200, "{text}");
    }
}

/// Requests to refuse, by the row of the threat list.
const BAD: &[(&str, u16, &str)] = &[
    ("V4", 405, "CONNECT x:80 HTTP/1.1|Host: x:80"),
    ("H22", 405, "TRACE / HTTP/1.1|Host: a"),
    ("H22", 405, "connect / HTTP/1.1|Host: a"),
    (
        "V6",
        400,
        "POST / HTTP/1.1|Host: a|Content-Length: 6|Transfer-Encoding: chunked",
    ),
    (
        "V7",
        400,
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked\u{b}",
    ),
    (
        "V7",
        501,
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: xchunked",
    ),
    ("V7", 501, "POST / HTTP/1.1|Host: a|Transfer-Encoding: gzip"),
    (
        "V7",
        400,
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: ,chunked",
    ),
    (
        "V7",
        400,
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked,",
    ),
    (
        "V7",
        400,
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked, identity",
    ),
    (
        "V7",
        400,
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: gzip, chunked",
    ),
    (
        "V7",
        400,
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: \"chunked\"",
    ),
    (
        "V7",
        400,
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked;q=1",
    ),
    ("V7", 400, "POST / HTTP/1.1|Host: a|Transfer-Encoding:"),
    (
        "V7",
        400,
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked|Transfer-Encoding: chunked",
    ),
    (
        "V7",
        400,
        "POST / HTTP/1.1|Host: a|Transfer-Encoding:| chunked",
    ),
    (
        "V7",
        400,
        "POST / HTTP/1.1|Host: a|Transfer-Encoding : chunked",
    ),
    ("V8", 400, "POST / HTTP/1.1|Host: a|Content-Length:"),
    ("V8", 400, "POST / HTTP/1.1|Host: a|Content-Length: +5"),
    ("V8", 400, "POST / HTTP/1.1|Host: a|Content-Length: -0"),
    ("V8", 400, "POST / HTTP/1.1|Host: a|Content-Length: 0x5"),
    ("V8", 400, "POST / HTTP/1.1|Host: a|Content-Length: 5_0"),
    ("V8", 400, "POST / HTTP/1.1|Host: a|Content-Length: 5 5"),
    ("V8", 400, "POST / HTTP/1.1|Host: a|Content-Length: 5, 6"),
    ("V8", 400, "POST / HTTP/1.1|Host: a|Content-Length: 5, 5"),
    (
        "V8",
        400,
        "POST / HTTP/1.1|Host: a|Content-Length: 5|content-length: 5",
    ),
    (
        "V8",
        400,
        "POST / HTTP/1.1|Host: a|Content-Length: 18446744073709551616",
    ),
    (
        "V8",
        400,
        "POST / HTTP/1.1|Host: a|Content-Length: \u{0665}",
    ),
    ("V11", 400, "GET / HTTP/1.1|Host: a|: x"),
    ("V11", 400, "GET / HTTP/1.1|Host : a"),
    ("V11", 400, "GET / HTTP/1.1|Host: a|X\0Y: 1"),
    ("V11", 400, "GET / HTTP/1.1|Host: a|X: a\rb"),
    ("V11", 400, "GET / HTTP/1.1|Host: a|X: a\0b"),
    ("V11", 400, "GET / HTTP/1.1|Host: a|X: \u{7f}"),
    ("V11", 400, "GET / HTTP/1.1|Host: a|X: \u{8}"),
    ("V11", 400, "GET / HTTP/1.1|Host: a|no colon"),
    ("V11", 400, "GET / HTTP/1.1| Host: a"),
    ("V11", 400, "GET / HTTP/1.1|Host: a|X: a| folded"),
    ("V11", 400, "GET / HTTP/1.1|Host: a|X(: a"),
    ("V11", 400, "GET / HTTP/1.1|Host: a|X\u{e9}: a"),
    (
        "V13",
        400,
        "POST / HTTP/1.0|Host: a|Transfer-Encoding: chunked",
    ),
    ("V17", 431, "GET / HTTP/1.1|Host: a|a:|b:|c:|d:|e:|f:|g:|h:"),
    ("V18", 400, "GET /c1#x HTTP/1.1|Host: a"),
    ("V18", 400, "GET /%00 HTTP/1.1|Host: a"),
    ("V18", 400, "GET /\\c1 HTTP/1.1|Host: a"),
    ("V18", 400, "GET /\u{e9} HTTP/1.1|Host: a"),
    ("V18", 400, "GET /\u{7f} HTTP/1.1|Host: a"),
    ("V18", 400, "GET c1 HTTP/1.1|Host: a"),
    ("V18", 400, "GET * HTTP/1.1|Host: a"),
    ("V18", 400, "GET  HTTP/1.1|Host: a"),
    ("V19", 400, "GET /a%0d%0aX-Role:%20admin HTTP/1.1|Host: a"),
    ("V19", 400, "GET /a%0A HTTP/1.1|Host: a"),
    ("V19", 400, "GET /a\rb HTTP/1.1|Host: a"),
    ("V22", 400, "GET / HTTP/1.1|Host: a|Host: a"),
    ("V22", 400, "GET http://evil/ HTTP/1.1|Host: a"),
    ("V22", 400, "GET http://a@evil/ HTTP/1.1|Host: evil"),
    ("V22", 400, "GET http://a?x HTTP/1.1|Host: a"),
    ("V22", 400, "GET ftp://a/ HTTP/1.1|Host: a"),
    ("V22", 400, "GET http://a/ HTTP/1.0"),
    ("V22", 400, "GET / HTTP/1.1|Host: a@b"),
    ("V22", 400, "GET / HTTP/1.1|Host: a/b"),
    ("V22", 400, "GET / HTTP/1.1|Host: a:99999"),
    ("V22", 400, "GET / HTTP/1.1|Host: a:+80"),
    ("V22", 400, "GET / HTTP/1.1|Host: a:80:80"),
    ("V22", 400, "GET / HTTP/1.1|Host: a b"),
    ("V22", 400, "GET / HTTP/1.1|Host: a, b"),
    ("V22", 400, "GET / HTTP/1.1|Host: [::1"),
    ("V22", 400, "GET / HTTP/1.1|Host: [::g]"),
    ("V22", 400, "GET / HTTP/1.1|Host:"),
    ("V22", 400, "GET / HTTP/1.1|X: none"),
    ("H07", 505, "GET / HTTP/1.2|Host: a"),
    ("H07", 505, "PRI * HTTP/2.0"),
    ("H07", 400, "GET / http/1.1|Host: a"),
    ("H07", 400, "GET / HTTP/01.1|Host: a"),
    ("H07", 400, "GET /"),
    ("grammar", 400, "GET  / HTTP/1.1|Host: a"),
    ("grammar", 400, "GET /  HTTP/1.1|Host: a"),
    ("grammar", 400, " GET / HTTP/1.1|Host: a"),
    ("grammar", 400, "GET / HTTP/1.1 |Host: a"),
    ("grammar", 400, "GET\t/\tHTTP/1.1|Host: a"),
    ("grammar", 400, "G(T / HTTP/1.1|Host: a"),
    ("grammar", 400, "|GET / HTTP/1.1|Host: a"),
];

#[test]
fn bad_requests_are_refused_with_the_right_status() {
    for &(row, status, text) in BAD {
        assert_eq!(status_of(&lines(text)), status, "{row}: {text:?}");
    }
}

#[test]
fn v12_line_ends_are_refused_at_the_earliest_byte() {
    let cases: [(&[u8], usize); 6] = [
        (b"GET / HTTP/1.1\nHost: a\n\n", 15),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 24),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 26),
        (b"GET / HTTP/1.1\r\r\n\r\n", 16),
        (b"GET / HTTP/1.1\r\nX: a\0", 21),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", 2),
    ];
    for (bytes, known) in cases {
        for len in 0..=bytes.len() {
            let step = end(&bytes[..len], len.saturating_sub(1), &LIMITS);
            if len < known {
                assert_eq!(step, Ok(None), "{bytes:?} {len}");
            } else if len == known {
                assert_eq!(step.expect_err("known by now").status, 400, "{bytes:?}");
            }
            assert_eq!(end(&bytes[..len], 0, &LIMITS).is_err(), len >= known);
        }
    }
}

#[test]
fn v17_v25_what_is_too_long_is_431_as_soon_as_seen() {
    let head = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 4000]].concat();
    for len in 1990..2010 {
        let step = end(&head[..len], len - 1, &LIMITS);
        assert_eq!(
            step.map_err(|error| error.status),
            if len < 2000 { Ok(None) } else { Err(431) }
        );
    }
    let whole = |line: String| lines(&format!("GET / HTTP/1.1|Host: a|{line}"));
    assert_eq!(status_of(&whole(format!("{}: x", "n".repeat(41)))), 431);
    assert_eq!(
        status_of(&whole(format!("{}Content-Length: 5", "n".repeat(270)))),
        431
    );
    assert_eq!(status_of(&whole(format!("n: {}", "x".repeat(301)))), 431);
    assert_eq!(status_of(&whole(format!("n: {}", "x".repeat(300)))), 200);
    // A head that ends in time is whole, whatever comes behind it.
    let mut exact = whole("n: x".into());
    let limits = HeadLimits {
        bytes_max: exact.len(),
        ..LIMITS
    };
    assert_eq!(end(&exact, 0, &limits), Ok(Some(exact.len())));
    exact.extend_from_slice(&[b'x'; 100]);
    assert_eq!(end(&exact, 0, &limits), Ok(Some(exact.len() - 100)));
    let limits = HeadLimits {
        bytes_max: exact.len() - 101,
        ..LIMITS
    };
    assert_eq!(
        end(&exact, 0, &limits).expect_err("one too many").status,
        431
    );
}

#[test]
fn requests_say_what_was_sent() {
    let head = lines(GOOD[2]);
    let request = Request::parse(&head, &LIMITS).unwrap();
    assert_eq!((request.method, request.minor_version), ("GET", 1));
    assert_eq!(request.target, "/room/7?x=1&y=%20;z");
    assert_eq!(request.headers.get("HOST"), Some(&b"a.b-c_d:8080"[..]));
    assert_eq!(request.headers.get("x-empty"), Some(&b""[..]));
    assert_eq!(
        request.headers.get_str("x"),
        Some("y"),
        "blanks around a value mean nothing"
    );
    assert_eq!(request.headers.iter().count(), 3);
    let head = lines(GOOD[4]);
    assert_eq!(Request::parse(&head, &LIMITS).unwrap().target, "/x?y");
    let head = lines("GET http://a HTTP/1.1|Host: a");
    assert_eq!(Request::parse(&head, &LIMITS).unwrap().target, "/");
    assert!(Request::parse(&head, &LIMITS).unwrap().keeps_alive());
    let head = lines("GET / HTTP/1.1|Host: a|Connection: x, Close");
    assert!(!Request::parse(&head, &LIMITS).unwrap().keeps_alive());
    let head = lines(GOOD[1]);
    assert!(!Request::parse(&head, &LIMITS).unwrap().keeps_alive());
}

#[test]
fn lists_go_over_commas_and_lines() {
    let head = lines("GET / HTTP/1.1|Host: a|C: a, ,b c|c:|C:d ,\tE");
    let headers = Request::parse(&head, &LIMITS).unwrap().headers;
    assert_eq!(headers.all("c").count(), 3);
    let members: Vec<_> = headers.members("c").collect();
    assert_eq!(members, [&b"a"[..], b"b c", b"d", b"E"]);
    assert!(headers.has_token("C", "e") && headers.has_token("c", "A"));
    assert!(!headers.has_token("c", "b") && !headers.has_token("x", "a"));
}

#[test]
fn responses() {
    let read = |text: &str| {
        let head = lines(text);
        Response::parse(&head, &LIMITS).map(|r| (r.status, r.reason.to_vec(), r.minor_version))
    };
    assert_eq!(read("HTTP/1.1 200 OK|X: y"), Ok((200, b"OK".to_vec(), 1)));
    assert_eq!(
        read("HTTP/1.0 404 Not \u{e9}"),
        Ok((404, "Not \u{e9}".as_bytes().to_vec(), 0))
    );
    assert_eq!(read("HTTP/1.1 101 "), Ok((101, Vec::new(), 1)));
    assert_eq!(read("HTTP/1.1 204"), Ok((204, Vec::new(), 1)));
    let bad = [
        "HTTP/1.1 99 x",
        "HTTP/1.1 1000 x",
        "HTTP/1.1 600 x",
        "HTTP/1.1  200 x",
        "HTTP/1.1 +20 x",
        "HTTP/1.1 200x",
        "HTTP/2.0 200 x",
        "http/1.1 200 x",
        "HTTP/1.1200 x",
        "200 OK",
        "HTTP/1.1 200 \u{1}",
        "HTTP/1.1 200 OK|X : y",
        "HTTP/1.1 200 OK|X: y| z",
        "HTTP/1.1 200 OK|a:|b:|c:|d:|e:|f:|g:|h:|i:",
        // S10: a CR in a cookie.
        "HTTP/1.1 101 x|Set-Cookie: a\rb",
    ];
    for text in bad {
        assert_eq!(read(text).expect_err(text).status, 502, "{text:?}");
    }
}
