//! What is ambiguous, from either side.

use super::*;

enum Want {
    /// One of these statuses, then the end; no whole request reached the server.
    Refused(&'static [u16]),
    /// These requests reached the server, and no others: first line and body.
    Passed(Vec<(&'static str, Vec<u8>)>),
}
use Want::{Passed, Refused};

const BAD: Want = Refused(&[400]);

/// The classes V3 to V22 as far as they are requests to an HTTP pool.
fn attacks() -> Vec<(String, Vec<u8>, Want)> {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n";
    let with = |lines: &str, body: &str| {
        format!("POST /a HTTP/1.1\r\nHost: h\r\n{lines}\r\n{body}").into_bytes()
    };
    let line = |first: &str| format!("{first}\r\nHost: h\r\n\r\n").into_bytes();
    let once = |first: &'static str, body: &str| Passed(vec![(first, body.as_bytes().to_vec())]);
    let mut rows: Vec<(String, Vec<u8>, Want)> = Vec::new();
    let mut add =
        |name: &str, bytes: Vec<u8>, want: Want| rows.push((name.to_owned(), bytes, want));

    add(
        "V3 upgrade with a body",
        handshake("/a", &format!("Content-Length: {}\r\n", hidden.len())).into_bytes(),
        BAD,
    );
    add(
        "V4 upgrade to h2c",
        with(
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\n",
            "",
        ),
        once("POST /a HTTP/1.1", ""),
    );
    add(
        "V4 upgrade to foo",
        with("Upgrade: foo\r\nConnection: Upgrade\r\n", ""),
        once("POST /a HTTP/1.1", ""),
    );
    add(
        "V4 an upgrade where nobody takes any",
        handshake("/a", "").into_bytes(),
        once("GET /a HTTP/1.1", ""),
    );
    add("V4 CONNECT", line("CONNECT x:80 HTTP/1.1"), Refused(&[405]));
    add("H22 TRACE", line("TRACE / HTTP/1.1"), Refused(&[405]));

    // V6: both lengths.
    add(
        "V6 CL.TE",
        with(
            "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\nG",
        ),
        BAD,
    );
    add(
        "V6 TE.CL",
        with(
            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
            &format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()),
        ),
        BAD,
    );
    add(
        "V6 CL 0 and TE",
        with(
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            hidden,
        ),
        BAD,
    );

    // V7: codings.
    let chunk = "5\r\nhello\r\n0\r\n\r\n";
    for good in ["chunked", "CHUNKED", " \tchunked \t"] {
        add(
            &format!("V7 {good:?}"),
            with(&format!("Transfer-Encoding:{good}\r\n"), chunk),
            once("POST /a HTTP/1.1", "hello"),
        );
    }
    let codings = [
        "chunked\x0b",
        "\x0bchunked",
        "chunked\x0c",
        ",chunked",
        "chunked,",
        "chunked, identity",
        "identity, chunked",
        "chunked, chunked",
        "chunked;q=1",
        "\"chunked\"",
        "chunked\0",
        "chun ked",
        "ch\u{fc}nked",
        "",
        "[chunked]",
        "chunked\tx",
        "chunked x",
        "=chunked",
    ];
    for bad in codings {
        add(
            &format!("V7 {bad:?}"),
            with(&format!("Transfer-Encoding: {bad}\r\n"), chunk),
            BAD,
        );
        add(
            &format!("V7 {bad:?} beside a length"),
            with(
                &format!("Content-Length: 4\r\nTransfer-Encoding: {bad}\r\n"),
                chunk,
            ),
            BAD,
        );
    }
    for unknown in [
        "xchunked",
        "chunkedx",
        "identity",
        "gzip",
        "chunke",
        "cow",
        "'chunked'",
    ] {
        add(
            &format!("V7 {unknown:?}"),
            with(&format!("Transfer-Encoding: {unknown}\r\n"), chunk),
            Refused(&[400, 501]),
        );
    }
    for (name, lines) in [
        (
            "two codings",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        ),
        (
            "two equal codings",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ),
        ("folded", "Transfer-Encoding:\r\n chunked\r\n"),
        ("folded by tab", "Transfer-Encoding:\r\n\tchunked\r\n"),
        ("space before the colon", "Transfer-Encoding : chunked\r\n"),
        ("tab before the colon", "Transfer-Encoding\t: chunked\r\n"),
        ("space before the name", " Transfer-Encoding: chunked\r\n"),
        ("NUL in the name", "Transfer-Enco\0ding: chunked\r\n"),
        (
            "CR before the name",
            "X: y\r\rTransfer-Encoding: chunked\r\n",
        ),
        ("LF before the name", "X: y\nTransfer-Encoding: chunked\r\n"),
        (
            "high byte in the name",
            "Transfer-Encoding\u{a0}: chunked\r\n",
        ),
        ("no name", ": chunked\r\n"),
    ] {
        add(&format!("V7 {name}"), with(lines, chunk), BAD);
    }

    // V8: lengths.
    for bad in [
        "",
        "+5",
        "-0",
        "-5",
        "0x5",
        "5_0",
        "5 5",
        "5, 6",
        "5,5",
        "5,",
        "00000000000000000005",
        "99999999999999999999",
        "5.0",
        "5e0",
        "\u{665}",
        "five",
        "5;",
        "\"5\"",
        "5\x0b",
    ] {
        add(
            &format!("V8 {bad:?}"),
            with(&format!("Content-Length: {bad}\r\n"), "hello"),
            BAD,
        );
    }
    for (name, lines) in [
        ("two", "Content-Length: 5\r\nContent-Length: 6\r\n"),
        ("two equal", "Content-Length: 5\r\nContent-Length: 5\r\n"),
        ("space before the colon", "Content-Length : 5\r\n"),
        ("folded", "Content-Length:\r\n 5\r\n"),
    ] {
        add(&format!("V8 {name}"), with(lines, "hello"), BAD);
    }
    add(
        "V8 leading zeroes",
        with("Content-Length: 005\r\n", "hello"),
        once("POST /a HTTP/1.1", "hello"),
    );

    // V9, V10: chunks.
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(300));
    for (name, body) in [
        ("V9 17 digits", "FFFFFFFFFFFFFFFF1\r\nhello\r\n0\r\n\r\n"),
        ("V9 -1", "-1\r\nhello\r\n0\r\n\r\n"),
        ("V9 +5", "+5\r\nhello\r\n0\r\n\r\n"),
        ("V9 0x5", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("V9 5_0", "5_0\r\nhello\r\n0\r\n\r\n"),
        ("V9 space in front", " 5\r\nhello\r\n0\r\n\r\n"),
        ("V9 space behind", "5 \r\nhello\r\n0\r\n\r\n"),
        ("V9 empty line", "\r\nhello\r\n0\r\n\r\n"),
        ("V9 no digit", "G\r\nhello\r\n0\r\n\r\n"),
        ("V10 bare LF behind an extension", "5;\nhello\r\n0\r\n\r\n"),
        ("V10 bare LF behind a size", "5\nhello\r\n0\r\n\r\n"),
        ("V10 two CRs", "5\r\r;x\nhello\r\n0\r\n\r\n"),
        ("V10 bare LF at the end", "0\r\n\n"),
        ("V10 bare LF behind data", "5\r\nhello\n0\r\n\r\n"),
        ("V10 data longer than said", "5\r\nhelloo\r\n0\r\n\r\n"),
        ("V10 two bytes for CRLF", "5\r\nhelloXX0\r\n\r\n"),
        (
            "V10 control in an extension",
            "5;a\x01b\r\nhello\r\n0\r\n\r\n",
        ),
        ("V10 long extension", &long),
        (
            "V10 trailer without colon",
            "5\r\nhello\r\n0\r\nnonsense\r\n\r\n",
        ),
        ("V10 trailer with LF", "5\r\nhello\r\n0\r\nX: y\n\r\n"),
    ] {
        add(name, with("Transfer-Encoding: chunked\r\n", body), BAD);
    }
    add(
        "V10 extensions are dropped",
        with(
            "Transfer-Encoding: chunked\r\n",
            "5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n",
        ),
        once("POST /a HTTP/1.1", "hello"),
    );
    add(
        "V9 16 digits",
        with(
            "Transfer-Encoding: chunked\r\n",
            "0000000000000005\r\nhello\r\n0\r\n\r\n",
        ),
        once("POST /a HTTP/1.1", "hello"),
    );

    // V11: fields.
    for lines in [
        ": x\r\n",
        "X : a\r\n",
        "X\0Y: 1\r\n",
        "X: a\rb\r\n",
        "X: a\0b\r\n",
        "nonsense\r\n",
        "X: a\r\n b\r\n",
        "X: a\r\n\tb\r\n",
        "\r\rX: 1\r\n",
        "X(): 1\r\n",
        "X: a\x7fb\r\n",
    ] {
        add(&format!("V11 {lines:?}"), with(lines, ""), BAD);
    }
    add(
        "V11 space before the first field",
        b"GET / HTTP/1.1\r\n X: a\r\nHost: h\r\n\r\n".to_vec(),
        BAD,
    );
    add("V11 CR before a name", with("X: y\r\n\rZ: 1\r\n", ""), BAD);

    // V12: line ends.
    add("V12 LF alone", b"GET / HTTP/1.1\nHost: h\n\n".to_vec(), BAD);
    add(
        "V12 CR alone",
        b"GET / HTTP/1.1\rHost: h\r\r\n\r\n".to_vec(),
        BAD,
    );
    add(
        "V12 the last line",
        b"GET / HTTP/1.1\r\nHost: h\r\n\n".to_vec(),
        BAD,
    );

    // V13, H07: versions.
    add(
        "V13 chunks in HTTP/1.0",
        b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        BAD,
    );
    add(
        "V13 no length is no body",
        [with("", ""), get("/b").into_bytes()].concat(),
        Passed(vec![
            ("POST /a HTTP/1.1", vec![]),
            ("GET /b HTTP/1.1", vec![]),
        ]),
    );
    for version in [
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/0.9",
        "http/1.1",
        "HTTP/01.1",
        "HTTP/1.01",
        "HTTP/1",
        "HTTP1.1",
        "HTTP/1.1x",
        "HTP/1.1",
        "HTTP/+1.1",
    ] {
        add(
            &format!("H07 {version}"),
            line(&format!("GET / {version}")),
            Refused(&[400, 505]),
        );
    }
    add("H07 HTTP/0.9", b"GET /\r\n\r\n".to_vec(), BAD);
    add("H07 two blanks", line("GET  / HTTP/1.1"), BAD);
    add("H07 a tab", line("GET\t/\tHTTP/1.1"), BAD);
    add("H07 a blank behind", line("GET / HTTP/1.1 "), BAD);
    add(
        "H07 the preface of HTTP/2",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        Refused(&[400, 505]),
    );

    // V14: a request inside a DELETE's chunks stays there.
    let inside = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    add(
        "V14 DELETE with chunks",
        [
            &b"DELETE /c1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
            inside.as_bytes(),
        ]
        .concat(),
        once("DELETE /c1 HTTP/1.1", hidden),
    );
    // V15: other expectations.
    add(
        "V15 unknown expectation",
        with("Expect: 100-continue, x\r\nContent-Length: 5\r\n", "hello"),
        Refused(&[417]),
    );

    // V17: sizes.
    add(
        "V17 a name of 270 bytes",
        with(&format!("{}: 1\r\n", "Content-Length".repeat(20)), ""),
        Refused(&[431]),
    );
    add(
        "V17 a head of 20 KiB",
        with(&format!("X: {}\r\n", "a".repeat(20_000)), ""),
        Refused(&[431]),
    );
    add(
        "V17 500 fields",
        with(&"X: a\r\n".repeat(500), ""),
        Refused(&[431]),
    );
    add(
        "V17 a target of 20 KiB",
        line(&format!("GET /{} HTTP/1.1", "a".repeat(20_000))),
        Refused(&[414, 431]),
    );

    // V18, V19: targets, byte for byte or not at all.
    for bad in [
        "/../admin",
        "/a/../b",
        "/a/./b",
        "/..",
        "/c1#x",
        "/%00",
        "/a%00b",
        "/\\c1",
        "/a%0d%0aX-Role:%20admin",
        "/a%0Ab",
        "/a\rb",
        "/a\x01b",
        "/a\x7f",
        "/\u{fc}",
        "admin",
        "*",
        "",
        "http://h",
        "ftp://h/",
        "//h:80@x/../a",
        "/%2e%2e/admin",
        "/%2E./admin",
        "/a;/../b",
    ] {
        let want = if bad == "http://h" {
            once("GET / HTTP/1.1", "")
        } else {
            BAD
        };
        add(
            &format!("V18 {bad:?}"),
            line(&format!("GET {bad} HTTP/1.1")),
            want,
        );
    }
    for (target, first) in [
        ("/a%2fb", "GET /a%2fb HTTP/1.1"),
        ("//c1", "GET //c1 HTTP/1.1"),
        ("/c1;x=1/y", "GET /c1;x=1/y HTTP/1.1"),
        ("/%c0%ae/x", "GET /%c0%ae/x HTTP/1.1"),
        ("/a?b=/../c", "GET /a?b=/../c HTTP/1.1"),
        ("/%zz", "GET /%zz HTTP/1.1"),
        ("http://h/abs?x", "GET /abs?x HTTP/1.1"),
    ] {
        add(
            &format!("V18 {target:?}"),
            line(&format!("GET {target} HTTP/1.1")),
            once(first, ""),
        );
    }

    // V22: hosts.
    for (name, head) in [
        ("two", "GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n"),
        ("two equal", "GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n"),
        (
            "another than the target's",
            "GET http://evil/ HTTP/1.1\r\nHost: h\r\n\r\n",
        ),
        ("user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
        ("slash", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        ("port", "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n"),
        ("blank", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        ("list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        ("empty", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        ("none", "GET / HTTP/1.1\r\nX: y\r\n\r\n"),
    ] {
        add(&format!("V22 {name}"), head.as_bytes().to_vec(), BAD);
    }
    rows
}

#[test]
fn v6_to_v22_nothing_ambiguous_gets_through_and_nobody_gets_anothers_answer() {
    let web = Web::echo();
    // One connection to the server: whatever one client leaves in it would hit the next.
    let proxy = proxy_with(
        &[&web],
        json!({ "connections": { "min": 0, "max": 1, "idle": "1s" } }),
        json!({}),
    );
    let mut wrong: Vec<String> = Vec::new();
    for (number, (name, bytes, want)) in attacks().into_iter().enumerate() {
        let before = web.requests().len();
        let mut client = Raw::connect(proxy.address);
        client.send(&bytes);
        match &want {
            Refused(statuses) => match read(&mut client, ANSWER, WAIT) {
                Ok(got) if statuses.contains(&got.head.status()) => {
                    client.end(WAIT);
                    if !client.pending.is_empty() {
                        wrong.push(format!(
                            "{name}: and then {}",
                            client.pending.escape_ascii()
                        ));
                    }
                }
                other => wrong.push(format!("{name}: {other:?}")),
            },
            Passed(all) => {
                for (first, body) in all {
                    let expected = [first.as_bytes(), b"\n", body].concat();
                    match read(&mut client, ANSWER, WAIT) {
                        Ok(got) if got.head.status() == 200 && got.body == expected => {}
                        other => wrong.push(format!("{name}: {other:?}")),
                    }
                }
                if !client.pending.is_empty() {
                    wrong.push(format!(
                        "{name}: and then {}",
                        client.pending.escape_ascii()
                    ));
                }
            }
        }
        drop(client);
        // The next one's answer is its own.
        let path = format!("/next-{number}");
        let got = ask(proxy.address, get(&path));
        if got.body != format!("GET {path} HTTP/1.1\n").as_bytes() {
            wrong.push(format!("{name}: the next client got {got:?}"));
        }
        let mut reached: Vec<(String, Vec<u8>)> = web
            .requests()
            .split_off(before)
            .into_iter()
            .map(|one| (one.head.first, one.body))
            .collect();
        reached.pop();
        let expected: Vec<(String, Vec<u8>)> = match want {
            Refused(_) => Vec::new(),
            Passed(all) => all
                .into_iter()
                .map(|(first, body)| (first.to_owned(), body))
                .collect(),
        };
        if reached != expected {
            wrong.push(format!("{name}: the server got {reached:?}"));
        }
        let bad = std::mem::take(&mut web.seen.lock().unwrap().bad);
        if !bad.is_empty() {
            wrong.push(format!("{name}: the server could not read {bad:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    proxy.finish();
}

#[test]
fn answers_that_are_ambiguous_are_502() {
    let many = "HTTP/1.1 100 Continue\r\n\r\n".repeat(9)
        + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let few = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".repeat(8)
        + "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(40_000));
    let with = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\nok");
    let rows: Vec<(String, u16)> = [
        with("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"),
        with("Content-Length: 2\r\nContent-Length: 2\r\n"),
        with("Content-Length: 2\r\nContent-Length: 3\r\n"),
        with("Content-Length: 2, 2\r\n"),
        with("Content-Length: +2\r\n"),
        with("Content-Length: -1\r\n"),
        with("Content-Length:\r\n"),
        with("Content-Length: 99999999999999999999\r\n"),
        with("Transfer-Encoding: gzip, chunked\r\n"),
        with("Transfer-Encoding: xchunked\r\n"),
        with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        with("Transfer-Encoding:\x0bchunked\r\n"),
        with("Transfer-Encoding : chunked\r\n"),
        with("X: a\r\n folded\r\n"),
        with("X: a\rb\r\n"),
        with("X: a\0b\r\n"),
        with("nonsense\r\n"),
        with(": x\r\n"),
        with("X: a\nSet-Cookie: evil\r\n"),
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok".to_owned(),
        "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
            .to_owned(),
        "HTTP/1.1 204 N\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "SSH-2.0-OpenSSH_9\r\n\r\n".to_owned(),
        "okay".to_owned(),
        many,
        long,
    ]
    .into_iter()
    .map(|bytes| (bytes, 502))
    .chain([
        (few, 200),
        (with("Connection: close\r\nContent-Length: 2\r\n"), 200),
    ])
    .collect();
    let said = rows.clone();
    let web = Web::start(move |raw, request| {
        let path = request.head.first.split(' ').nth(1).unwrap();
        let row: usize = path[1..].parse().unwrap();
        raw.send(said[row].0.as_bytes());
        std::thread::sleep(Duration::from_millis(30));
        false
    });
    let proxy = proxy(&[&web]);
    let mut wrong = Vec::new();
    for (number, (bytes, status)) in rows.iter().enumerate() {
        // A POST is not tried again, a GET may be.
        for request in [
            get(&format!("/{number}")).into_bytes(),
            post(&format!("/{number}"), b"x"),
        ] {
            let mut client = Raw::connect(proxy.address);
            client.send(&request);
            let got = read(&mut client, ANSWER, WAIT)
                .map(|got| (got.head.status(), got.head.header("set-cookie").is_some()));
            if got.as_ref().ok() != Some(&(*status, false)) {
                wrong.push(format!("{:?}: {got:?}", &bytes[..bytes.len().min(200)]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    proxy.finish();
}

#[test]
fn h12_whatever_a_server_adds_the_second_answer_is_the_second_requests() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let rows: [(&str, &str, String); 6] = [
        (
            "GET",
            "behind a length",
            format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{evil}"),
        ),
        (
            "GET",
            "behind chunks",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{evil}"
            ),
        ),
        (
            "GET",
            "204 with a body",
            format!(
                "HTTP/1.1 204 N\r\nContent-Length: {}\r\n\r\n{evil}",
                evil.len()
            ),
        ),
        (
            "GET",
            "304 with a body",
            format!(
                "HTTP/1.1 304 N\r\nContent-Length: {}\r\n\r\n{evil}",
                evil.len()
            ),
        ),
        (
            "HEAD",
            "HEAD with a body",
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{evil}",
                evil.len()
            ),
        ),
        (
            "GET",
            "a 1xx behind",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 100 Continue\r\n\r\n"
                .to_owned(),
        ),
    ];
    let said = rows.clone();
    let web = Web::start(move |raw, request| {
        let path = request.head.first.split(' ').nth(1).unwrap();
        match path[1..].parse::<usize>() {
            Ok(row) => raw.send(said[row].2.as_bytes()),
            Err(_) => raw.send(&ok("second")),
        }
    });
    let proxy = proxy_with(
        &[&web],
        json!({ "connections": { "min": 0, "max": 1, "idle": "1s" } }),
        json!({}),
    );
    for (number, (method, name, _)) in rows.iter().enumerate() {
        let mut client = Raw::connect(proxy.address);
        // Behind each other, and at once by another client.
        client.send(
            format!(
                "{method} /{number} HTTP/1.1\r\nHost: h\r\n\r\n{}",
                get("/second")
            )
            .as_bytes(),
        );
        let side = if *method == "HEAD" {
            HEAD_ANSWER
        } else {
            ANSWER
        };
        read(&mut client, side, WAIT).unwrap_or_else(|why| panic!("{name}: {why:?}"));
        assert_eq!(answer(&mut client).body, b"second", "{name}");
        assert_eq!(ask(proxy.address, get("/second")).body, b"second", "{name}");
    }
    web.must_be_clean();
    proxy.finish();
}
