use super::super::head::{HeadLimits, tests::lines};
use super::*;

fn of_request(text: &str) -> Body {
    let head = lines(text);
    let request = Request::parse(&head, &HeadLimits::default()).unwrap();
    Body::of_request(&request).unwrap()
}

fn of_response(method: &str, text: &str) -> Result<Body, HeadError> {
    let head = lines(text);
    Body::of_response(
        method,
        &Response::parse(&head, &HeadLimits::default()).unwrap(),
    )
}

fn chunked() -> Body {
    of_request("POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked")
}

/// What a decoder makes of a stream that comes in segments of `by` bytes: the payload, and how many
/// bytes the body took if it ended; or the status of the error and the bytes read until then.
fn decode(mut body: Body, stream: &[u8], by: usize) -> Result<(Vec<u8>, Option<usize>), u16> {
    let mut payload = Vec::new();
    let mut taken = 0;
    for segment in stream.chunks(by) {
        let mut rest = segment;
        loop {
            let len = match body.step(rest).map_err(|error| error.status)? {
                BodyStep::More => break,
                BodyStep::Done(len) => return Ok((payload, Some(taken + len))),
                BodyStep::Skip(len) => len,
                BodyStep::Data(range) => {
                    assert_eq!(range.start, 0);
                    payload.extend_from_slice(&rest[range.clone()]);
                    range.end
                }
            };
            assert!(len > 0, "a step moves");
            taken += len;
            rest = &rest[len..];
        }
        assert!(rest.is_empty(), "nothing is kept");
    }
    let done = matches!(body.step(b""), Ok(BodyStep::Done(0)));
    Ok((payload, done.then_some(taken)))
}

const CHUNKS: &[(&str, &str)] = &[
    ("0\r\n\r\n", ""),
    ("5\r\nhello\r\n0\r\n\r\n", "hello"),
    (
        "0005\r\nhello\r\nA\r\n0123456789\r\n000\r\n\r\n",
        "hello0123456789",
    ),
    (
        "5;a\r\nhello\r\n0;b=c;d = \"e;\\\"\\\\\" ; f\r\n\r\n",
        "hello",
    ),
    ("1\r\n\n\r\n1\r\n\r\r\n0\r\n\r\n", "\n\r"),
    // H09: trailers are dropped, whatever they claim.
    (
        "1\r\nx\r\n0\r\nContent-Length: 5\r\nHost: b\r\nX:\r\n\r\n",
        "x",
    ),
];

#[test]
fn chunks_decode_alike_in_any_segments_and_end_where_they_end() {
    for (text, payload) in CHUNKS {
        let stream = format!("{text}GET /next HTTP/1.1\r\n");
        for by in 1..=stream.len() {
            let decoded = decode(chunked(), stream.as_bytes(), by);
            assert_eq!(
                decoded,
                Ok((payload.as_bytes().to_vec(), Some(text.len()))),
                "{text:?}"
            );
        }
        for len in 0..text.len() {
            let (_, end) = decode(chunked(), &text.as_bytes()[..len], 3).expect("legal so far");
            assert_eq!(end, None, "{text:?}, a prefix of {len}");
        }
    }
}

/// What is refused, and after how many bytes that must be known.
const BAD: &[(&str, &str, usize)] = &[
    ("V9 17 digits", "FFFFFFFFFFFFFFFF1\r\n", 17),
    ("V9 zeros", "00000000000000000\r\n", 17),
    ("V9 sign", "-1\r\n", 1),
    ("V9 plus", "+1\r\n", 1),
    ("V9 hex mark", "0x5\r\n", 2),
    ("V9 blank before", " 5\r\n", 1),
    ("V9 blank behind", "5 \r\n", 2),
    ("V9 blank before an extension", "5 ;a\r\n", 2),
    ("V9 empty", "\r\n", 1),
    ("V9 empty with an extension", ";a\r\n", 1),
    ("V10 bare LF", "5\nhello", 2),
    ("V10 bare LF in an extension", "5;\nhello", 3),
    ("V10 bare LF behind an extension", "5;a\nhello", 4),
    ("V10 two CRs", "5\r\r;x", 3),
    ("V10 CR in an extension", "5;a\rb", 5),
    ("V10 LF in quotes", "5;a=\"\n", 6),
    ("V10 CR in quotes", "5;a=\"\r\n", 6),
    ("V10 no name", "5;\r\n", 3),
    ("V10 quote for a name", "5;\"a\"\r\n", 3),
    ("V10 two semicolons", "5;;", 3),
    ("V10 last LF", "0\r\n\n", 4),
    ("V10 no CRLF behind data", "5\r\nhelloX", 9),
    ("V10 LF behind data", "5\r\nhello\n", 9),
    ("V10 too much data", "5\r\nhello!\r\n", 9),
    ("V10 CR X behind data", "5\r\nhello\rX", 10),
    ("trailer without name", "0\r\n: x\r\n", 4),
    ("folded trailer", "0\r\nX: y\r\n z\r\n", 10),
    ("trailer without colon", "0\r\nX\r\n", 5),
    ("bare CR in a trailer", "0\r\nX: \ry", 8),
    ("bare CR at the end", "0\r\n\rX", 5),
];

#[test]
fn bad_chunks_fail_at_the_earliest_byte() {
    for &(name, text, known) in BAD {
        for len in 0..=text.len() {
            for by in [1, 2, 100] {
                let decoded = decode(chunked(), &text.as_bytes()[..len], by);
                assert_eq!(
                    decoded.err(),
                    (len >= known).then_some(400),
                    "{name} {len} {by}"
                );
            }
        }
    }
}

#[test]
fn v10_endless_extensions_and_trailers_are_cut() {
    let endless = format!("1;{}", "a".repeat(300));
    assert_eq!(decode(chunked(), endless.as_bytes(), 7), Err(400));
    assert!(decode(chunked(), &endless.as_bytes()[..256], 7).is_ok());
    let quoted = format!("1;a=\"{}", "\\\"".repeat(200));
    assert_eq!(decode(chunked(), quoted.as_bytes(), 7), Err(400));
    let trailers = format!("0\r\n{}", "a: b\r\n".repeat(3000));
    assert_eq!(decode(chunked(), trailers.as_bytes(), 1000), Err(400));
}

#[test]
fn requests_are_framed_by_their_head() {
    let none = of_request("POST / HTTP/1.1|Host: a");
    assert_eq!(
        decode(none, b"GET", 3),
        Ok((Vec::new(), Some(0))),
        "V13: the next request"
    );
    let five = of_request("POST / HTTP/1.1|Host: a|Content-Length: 5");
    assert_eq!(five.length(), Some(5));
    for by in 1..8 {
        assert_eq!(
            decode(five, b"helloGET", by),
            Ok((b"hello".to_vec(), Some(5)))
        );
    }
    assert_eq!(decode(five, b"hell", 2), Ok((b"hell".to_vec(), None)));
    assert_eq!(five.close().expect_err("cut").status, 400);
}

#[test]
fn v16_responses_are_framed_by_method_status_and_head() {
    let (length, chunks) = ("Content-Length: 5", "Transfer-Encoding: chunked");
    let cases = [
        ("HEAD", 200, length, "none"),
        ("HEAD", 200, chunks, "none"),
        ("GET", 204, length, "none"),
        ("GET", 304, length, "none"),
        ("GET", 100, "X: y", "none"),
        ("GET", 103, length, "none"),
        ("GET", 200, length, "length"),
        ("POST", 404, chunks, "chunks"),
        ("GET", 200, "X: y", "close"),
    ];
    for (method, status, header, wanted) in cases {
        let body = of_response(method, &format!("HTTP/1.1 {status} x|{header}")).unwrap();
        let got = match (body.is_done(), body.is_until_close(), body.length()) {
            (true, ..) => "none",
            (_, true, _) => "close",
            (.., Some(5)) => "length",
            _ => "chunks",
        };
        assert_eq!(got, wanted, "{method} {status} {header}");
        assert_eq!(body.close().is_ok(), matches!(wanted, "none" | "close"));
    }
    let body = of_response("GET", "HTTP/1.0 200 x").unwrap();
    assert_eq!(decode(body, b"abc", 2), Ok((b"abc".to_vec(), None)));
}

#[test]
fn v16_ambiguous_responses_are_502() {
    let bad = [
        "HTTP/1.1 200 x|Content-Length: 5|Transfer-Encoding: chunked",
        "HTTP/1.1 304 x|Content-Length: 5|Transfer-Encoding: chunked",
        "HTTP/1.1 200 x|Content-Length: 5|Content-Length: 5",
        "HTTP/1.1 200 x|Content-Length: +5",
        "HTTP/1.1 200 x|Transfer-Encoding: gzip, chunked",
        "HTTP/1.1 200 x|Transfer-Encoding: gzip",
        "HTTP/1.0 200 x|Transfer-Encoding: chunked",
    ];
    for text in bad {
        assert_eq!(
            of_response("GET", text).expect_err(text).status,
            502,
            "{text}"
        );
    }
    let body = of_response("GET", "HTTP/1.1 200 x|Transfer-Encoding: chunked").unwrap();
    assert_eq!(decode(body, b"5\nhello", 1), Err(502));
}
