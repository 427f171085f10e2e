//! Requests and answers on their way through.

use super::*;

#[test]
fn requests_reach_the_server_with_all_that_is_theirs() {
    let web = Web::echo();
    let proxy = Proxy::start(
        &[format!("{}/base", web.url())],
        json!({ "pools": { "main": { "kind": "http", "connections": { "min": 0, "idle": "1s" },
            "block_headers": ["X-Blocked"] } } }),
    );
    let target = "/a/b%2Fc;d=1?x=1&y=%2f&z=a+b??/'()";
    for method in [
        "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "FOO",
    ] {
        let mut client = Raw::connect(proxy.address);
        client.send(
            format!(
                "{method} {target} HTTP/1.1\r\nHost: Web.test:8080\r\nAccept: a\r\nX-Two: 1\r\n\
                 Cookie: a=b; c=\"d\"\r\nX-Two: 2\r\nAuthorization: Basic eA==\r\nX-Empty:\r\n\
                 Accept-Encoding: gzip\r\nUser-Agent: t\r\nX-Mine: nominated\r\nX-Blocked: 1\r\n\
                 Connection: X-Mine, X-Real-IP, X-Forwarded-For\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
                 Proxy-Connection: keep-alive\r\nProxy-Authorization: x\r\nUpgrade: h2c\r\n\
                 HTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                 X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
                 Forwarded: for=10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\nX-Wsteady-Session: 1\r\n\
                 X-Balancer-Reconnect: 1\r\nx_forwarded_for: 9.9.9.9\r\n\r\n"
            )
            .as_bytes(),
        );
        let side = if method == "HEAD" {
            HEAD_ANSWER
        } else {
            ANSWER
        };
        let got = read(&mut client, side, WAIT).unwrap();
        assert_eq!(got.head.status(), 200, "{method}");
        let first = format!("{method} /base{target} HTTP/1.1");
        let length = first.len() + 1;
        assert_eq!(
            got.head.header("content-length"),
            Some(&*length.to_string()),
            "{method}"
        );
        let seen = web.requests().pop().unwrap();
        assert_eq!(seen.head.first, first);
        let mut headers = seen.head.headers.clone();
        // Said of a body that is empty, by those that usually have one.
        headers.retain(|(name, value)| (name.as_str(), value.as_str()) != ("content-length", "0"));
        let wanted = [
            ("host", "Web.test:8080"),
            ("accept", "a"),
            ("x-two", "1"),
            ("cookie", "a=b; c=\"d\""),
            ("x-two", "2"),
            ("authorization", "Basic eA=="),
            ("x-empty", ""),
            ("accept-encoding", "gzip"),
            ("user-agent", "t"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "Web.test:8080"),
        ];
        let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(headers, wanted, "{method}");
    }
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn h15_what_trusted_proxies_say_is_kept_and_appended_to() {
    let web = Web::echo();
    let proxy = proxy_with(
        &[&web],
        json!({}),
        json!({ "trusted_proxies": ["127.0.0.0/8"] }),
    );
    ask(
        proxy.address,
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nForwarded: for=x\r\nX-Real-IP: 1.2.3.4\r\n\r\n",
    );
    let head = web.requests().pop().unwrap().head;
    let rows = [
        ("x-forwarded-for", "10.0.0.1, 10.0.0.2, 127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "b"),
        ("forwarded", "for=x"),
        ("x-real-ip", "1.2.3.4"),
        ("host", "a"),
    ];
    for (name, value) in rows {
        assert_eq!(head.all(name), [value], "{name}");
    }
    proxy.finish();
}

#[test]
fn answers_reach_the_client_with_all_that_is_theirs() {
    let web = Web::start(|raw, _| {
        raw.send(
            b"HTTP/1.1 207 My Own\r\nSet-Cookie: a=1\r\nServer: s\r\nSet-Cookie: b=2\r\nX-Hop: 1\r\n\
              Connection: X-Hop, keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\n\
              Trailer: X-T\r\nUpgrade: h2c\r\nContent-Encoding: gzip\r\nETag: \"\xC3\xA4\"\r\n\
              Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 3\r\nX-Empty: \r\n\r\nabc",
        )
    });
    let proxy = proxy(&[&web]);
    let got = ask(proxy.address, get("/"));
    assert_eq!((got.head.status(), got.body.as_slice()), (207, &b"abc"[..]));
    let wanted = [
        ("set-cookie", "a=1"),
        ("server", "s"),
        ("set-cookie", "b=2"),
        ("content-encoding", "gzip"),
        ("etag", "\"\u{e4}\""),
        ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("x-empty", ""),
        ("content-length", "3"),
    ];
    assert_eq!(
        got.head.headers,
        wanted.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    proxy.finish();
}

#[test]
fn bodies_pass_both_ways_byte_for_byte() {
    // The answer's framing is asked for in the path; its body is the request's.
    let web = Web::start(|raw, request| {
        let body = &request.body;
        let say = |head: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").into_bytes();
        let (bytes, stay) = match request.head.first.split(' ').nth(1) {
            Some("/length") => {
                let head = say(&format!("Content-Length: {}", body.len()));
                ([head, body.clone()].concat(), true)
            }
            Some("/chunks") => {
                let head = say("Transfer-Encoding: chunked");
                ([head, chunked(body, 1 + body.len() / 7)].concat(), true)
            }
            _ => ([say("X-A: endless"), body.clone()].concat(), false),
        };
        raw.send(&bytes) && stay
    });
    let proxy = proxy(&[&web]);
    for length in [0, 1, 2, 4_095, 65_536, 70_001, 3_000_000] {
        let body = noise(length);
        for path in ["/length", "/chunks", "/endless"] {
            for (in_chunks, modern) in [(false, true), (true, true), (false, false)] {
                let version = if modern { "HTTP/1.1" } else { "HTTP/1.0" };
                let framing = if in_chunks {
                    "Transfer-Encoding: chunked".to_owned()
                } else {
                    format!("Content-Length: {length}")
                };
                let head = format!("PUT {path} {version}\r\nHost: h\r\n{framing}\r\n\r\n");
                let sent = if in_chunks {
                    chunked(&body, 1 + length / 5)
                } else {
                    body.clone()
                };
                let mut client = Raw::connect(proxy.address);
                let mut stream = client.stream.try_clone().unwrap();
                let bytes = [head.into_bytes(), sent].concat();
                // Both ways at once: the answer may begin before the request has ended.
                let writer = std::thread::spawn(move || {
                    let _ = std::io::Write::write_all(&mut stream, &bytes);
                });
                let name = format!("{length} {path} in chunks: {in_chunks}, {version}");
                let got =
                    read(&mut client, ANSWER, WAIT).unwrap_or_else(|why| panic!("{name}: {why:?}"));
                assert!(got.body == body, "{name}");
                assert!(modern || !got.chunked, "{name}");
                writer.join().unwrap();
                let seen = web.requests().pop().unwrap();
                assert!(seen.body == body, "{name}");
            }
        }
    }
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn answers_without_a_body_have_none() {
    // Path, status line and headers; what must be left of Content-Length.
    let rows = [
        ("/204", "204 No Content\r\n", None),
        (
            "/304",
            "304 Not Modified\r\nContent-Length: 77\r\nETag: \"e\"\r\n",
            Some("77"),
        ),
        ("/304b", "304 Not Modified\r\n", None),
        ("/head", "200 OK\r\nContent-Length: 1234\r\n", Some("1234")),
        (
            "/headchunked",
            "200 OK\r\nTransfer-Encoding: chunked\r\n",
            None,
        ),
        ("/headnone", "200 OK\r\n", None),
        ("/empty", "200 OK\r\nContent-Length: 0\r\n", Some("0")),
    ];
    let web = Web::start(move |raw, request| {
        let path = request.head.first.split(' ').nth(1).unwrap();
        match rows.iter().find(|(one, ..)| *one == path) {
            Some((_, head, _)) => raw.send(format!("HTTP/1.1 {head}\r\n").as_bytes()),
            None => raw.send(&ok(path)),
        }
    });
    let proxy = proxy(&[&web]);
    for (path, head, length) in rows {
        let mut client = Raw::connect(proxy.address);
        let method = if path.starts_with("/head") {
            "HEAD"
        } else {
            "GET"
        };
        // The next request's answer shows where this one's has ended.
        client.send(
            format!(
                "{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n{}",
                get("/next")
            )
            .as_bytes(),
        );
        let side = if method == "HEAD" {
            HEAD_ANSWER
        } else {
            ANSWER
        };
        let got = read(&mut client, side, WAIT).unwrap_or_else(|why| panic!("{path}: {why:?}"));
        assert_eq!(got.head.status().to_string(), head[..3], "{path}");
        assert_eq!(got.head.header("content-length"), length, "{path}");
        assert_eq!(got.body, b"", "{path}");
        assert_eq!(answer(&mut client).body, b"/next", "{path}");
    }
    proxy.finish();
}

#[test]
fn http_1_0_clients_are_served() {
    let web = Web::start(|raw, request| {
        if request.head.first.contains("/chunks") {
            return raw.send(
                &[
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                    &chunked(b"abcdef", 2)[..],
                ]
                .concat(),
            );
        }
        raw.send(&echoed(request))
    });
    let proxy = proxy(&[&web]);
    // Without Host, too: the server is asked in HTTP/1.1 and must get one.
    let got = ask(proxy.address, "GET /a HTTP/1.0\r\n\r\n");
    assert_eq!(got.body, b"GET /a HTTP/1.1\n");
    let mut client = Raw::connect(proxy.address);
    client.send(b"GET /chunks HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n");
    let got = answer(&mut client);
    assert!(!got.chunked && got.body == b"abcdef", "{got:?}");
    // The length was not known: the end of the connection tells it.
    assert_eq!(client.end(WAIT), End::Fin);
    let mut client = Raw::connect(proxy.address);
    for path in ["/1", "/2"] {
        client.send(
            format!("GET {path} HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n").as_bytes(),
        );
        let got = answer(&mut client);
        assert_eq!(got.head.header("connection"), Some("keep-alive"));
        assert_eq!(got.body, format!("GET {path} HTTP/1.1\n").as_bytes());
    }
    client.send(b"GET /3 HTTP/1.0\r\nHost: h\r\n\r\n");
    assert_eq!(answer(&mut client).body, b"GET /3 HTTP/1.1\n");
    assert_eq!(client.end(WAIT), End::Fin);
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn h10_who_expects_100_gets_it_or_the_answer() {
    let web = Web::echo();
    let proxy = proxy(&[&web]);
    let head = "POST /e HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n";
    let mut client = Raw::connect(proxy.address);
    client.send(head.as_bytes());
    assert_eq!(client.head(WAIT).status(), 100);
    client.send(b"hello");
    assert_eq!(answer(&mut client).body, b"POST /e HTTP/1.1\nhello");
    // The body without waiting; then the next request is understood as one.
    client.send(format!("{head}hello{}", get("/n")).as_bytes());
    let mut first = answer(&mut client);
    if first.head.status() == 100 {
        first = answer(&mut client);
    }
    assert_eq!(first.body, b"POST /e HTTP/1.1\nhello");
    assert_eq!(answer(&mut client).body, b"GET /n HTTP/1.1\n");
    assert!(
        web.requests()
            .iter()
            .all(|one| one.head.header("expect").is_none())
    );
    let before = web.requests().len();
    let mut client = Raw::connect(proxy.address);
    client.send(b"POST /e HTTP/1.1\r\nHost: h\r\nExpect: x\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.head(WAIT).status(), 417);
    client.end(WAIT);
    assert_eq!(web.requests().len(), before);
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn h21_pipelined_requests_are_answered_in_order_up_to_the_bad_one() {
    let web = Web::echo();
    let proxy = proxy(&[&web]);
    let mut client = Raw::connect(proxy.address);
    let mut all: String = (0..100).map(|n| get(&format!("/{n}"))).collect();
    all += "GET /bad HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n";
    all += &get("/never");
    client.send(all.as_bytes());
    for n in 0..100 {
        assert_eq!(
            answer(&mut client).body,
            format!("GET /{n} HTTP/1.1\n").as_bytes()
        );
    }
    assert_eq!(answer(&mut client).head.status(), 400);
    assert_eq!(client.end(WAIT), End::Fin);
    assert!(client.pending.is_empty());
    assert_eq!(web.requests().len(), 100);
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn h08_bodies_of_get_are_bodies_and_the_next_request_is_the_next() {
    let web = Web::echo();
    let proxy = proxy(&[&web]);
    let hidden = get("/hidden");
    let mut client = Raw::connect(proxy.address);
    for method in ["GET", "HEAD", "DELETE"] {
        client.send(
            format!(
                "{method} /x HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{hidden}{}",
                hidden.len(),
                get("/next")
            )
            .as_bytes(),
        );
        let side = if method == "HEAD" {
            HEAD_ANSWER
        } else {
            ANSWER
        };
        assert_eq!(read(&mut client, side, WAIT).unwrap().head.status(), 200);
        assert_eq!(
            answer(&mut client).body,
            b"GET /next HTTP/1.1\n",
            "{method}"
        );
    }
    let seen = web.requests();
    assert_eq!(seen.len(), 6);
    assert!(
        seen.iter()
            .step_by(2)
            .all(|one| one.body == hidden.as_bytes())
    );
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn h09_trailers_are_dropped_both_ways() {
    let trailers = "Content-Length: 3\r\nHost: evil\r\nAuthorization: x\r\nTransfer-Encoding: chunked\r\nX-T: 1\r\n";
    let web = Web::start(move |raw, _| {
        raw.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n{trailers}\r\n").as_bytes())
    });
    let proxy = proxy(&[&web]);
    let mut client = Raw::connect(proxy.address);
    for _ in 0..2 {
        client.send(format!("POST /t HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n{trailers}\r\n").as_bytes());
        let got = answer(&mut client);
        assert_eq!(
            (got.body.as_slice(), got.trailers.as_str()),
            (&b"ab"[..], "")
        );
    }
    for seen in web.requests() {
        assert_eq!(
            (seen.body.as_slice(), seen.trailers.as_str()),
            (&b"abc"[..], "")
        );
        assert_eq!(seen.head.header("authorization"), None);
    }
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn a_servers_connection_is_used_again_only_if_it_is_clean() {
    // Path; whether the next request may come on the same connection.
    let rows = [
        ("/plain", true),
        ("/chunks", true),
        ("/204", true),
        ("/500", true),
        ("/close", false),
        ("/old", false),
        ("/endless", false),
        ("/stray", false),
        ("/late", false),
    ];
    let web = Web::start(|raw, request| {
        let path = request.head.first.split(' ').nth(1).unwrap();
        let stay = path != "/endless";
        let bytes: &[u8] = match path {
            "/chunks" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "/204" => b"HTTP/1.1 204 N\r\n\r\n",
            "/500" => b"HTTP/1.1 500 N\r\nContent-Length: 0\r\n\r\n",
            "/close" => b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\nok",
            "/old" => b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "/endless" => b"HTTP/1.1 200 OK\r\n\r\nok",
            "/stray" => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        let sent = raw.send(bytes);
        if path == "/late" {
            std::thread::sleep(Duration::from_millis(100));
            raw.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        }
        sent && stay
    });
    // One connection at a time: what is not used again is closed.
    let proxy = proxy_with(
        &[&web],
        json!({ "connections": { "min": 0, "max": 1, "idle": "1s" } }),
        json!({ "loops": 1 }),
    );
    for (path, again) in rows {
        let mut client = Raw::connect(proxy.address);
        client.send(get(path).as_bytes());
        let got = read(&mut client, ANSWER, WAIT).unwrap();
        assert!(got.body == b"ok" || got.body.is_empty(), "{path}");
        std::thread::sleep(Duration::from_millis(300));
        client.send(get("/plain").as_bytes());
        let got = answer(&mut client);
        assert_eq!(got.body, b"ok", "{path}");
        let carriers = web.carriers();
        let [.., first, second] = carriers.as_slice() else {
            panic!()
        };
        assert_eq!(first == second, again, "{path}");
    }
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn h11_an_early_answer_leaves_no_connection_that_is_used_again() {
    // Answers when it has the head, and reads on.
    let web = Web::raw(|raw, seen, number| {
        while let Some(head) = raw.try_head(Duration::from_secs(20)) {
            let length: u64 = head
                .header("content-length")
                .unwrap_or("0")
                .parse()
                .unwrap();
            let early = Message {
                head,
                body: Vec::new(),
                chunked: false,
                trailers: String::new(),
            };
            seen.lock().unwrap().requests.push((number, early));
            let status = if length > 0 { "413 Too Much" } else { "200 OK" };
            raw.send(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno").as_bytes());
            if length > 0 {
                // What is left of the body is not a request.
                raw.wait(Duration::from_secs(20), |_| None::<()>);
            }
        }
    });
    let proxy = proxy_with(
        &[&web],
        json!({ "connections": { "min": 0, "max": 2, "idle": "1s" } }),
        json!({ "loops": 1 }),
    );
    for cut in [0, 1, 100_000] {
        let body = noise(10 << 20);
        let bytes = post("/big", &body);
        let mut client = Raw::connect(proxy.address);
        let head = bytes.len() - body.len();
        client.send(&bytes[..head + cut]);
        let got = answer(&mut client);
        assert_eq!(
            (got.head.status(), got.body.as_slice()),
            (413, &b"no"[..]),
            "{cut}"
        );
        assert_eq!(got.head.header("connection"), Some("close"), "{cut}");
        // The rest is drained or refused, and never taken for a request.
        client.send(&bytes[head + cut..]);
        client.send(get("/after").as_bytes());
        match read(&mut client, ANSWER, WAIT) {
            Ok(next) => assert_eq!(next.body, b"no", "{cut}"),
            Err(Lack::Nothing(Some(_))) => {}
            Err(other) => panic!("{cut}: {other:?}"),
        }
        let other = ask(proxy.address, get("/other"));
        assert_eq!(other.head.status(), 200, "{cut}");
        // What came behind an early answer never came on its connection.
        let mut spoilt = HashSet::new();
        let seen = web.requests();
        for (number, request) in web.carriers().into_iter().zip(&seen) {
            let first = request.head.first.as_str();
            assert!(!spoilt.contains(&number), "{first} on connection {number}");
            if first == "POST /big HTTP/1.1" {
                spoilt.insert(number);
            } else {
                assert!(first.starts_with("GET /"), "{first}");
            }
        }
    }
    proxy.finish();
}

#[test]
fn h13_what_failed_before_any_answer_is_tried_elsewhere_if_that_does_no_harm() {
    // One server takes each request and ends; the other answers.
    let bad = Web::start(|_, _| false);
    let good = Web::echo();
    let proxy = proxy(&[&bad, &good]);
    let rows: [(&str, &str, bool); 7] = [
        ("GET", "", true),
        ("HEAD", "", true),
        ("OPTIONS", "", true),
        ("PUT", "", true),
        ("DELETE", "", true),
        ("POST", "hello", false),
        ("PATCH", "hello", false),
    ];
    for (method, body, again) in rows {
        let (mut passed, mut failed) = (0, 0);
        let before = (bad.requests().len(), good.requests().len());
        for _ in 0..8 {
            let mut client = Raw::connect(proxy.address);
            let length = body.len();
            client.send(format!("{method} /{method} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes());
            let side = if method == "HEAD" {
                HEAD_ANSWER
            } else {
                ANSWER
            };
            match read(&mut client, side, WAIT).unwrap().head.status() {
                200 => passed += 1,
                502 => failed += 1,
                other => panic!("{method}: {other}"),
            }
        }
        let met = bad.requests().len() - before.0;
        assert!(met > 0, "{method}: nobody met the bad server");
        assert_eq!(failed, if again { 0 } else { met }, "{method}");
        assert_eq!(good.requests().len() - before.1, passed, "{method}");
        assert_eq!(passed + failed, 8, "{method}");
    }
    proxy.finish();
}

#[test]
fn h13_a_kept_connection_that_the_server_closes_as_it_is_asked_costs_no_get() {
    // Answers once per connection, and ends when it is asked again, without a word.
    let web = Web::raw(|raw, seen, number| {
        let asked = AtomicUsize::new(0);
        serve(raw, seen, number, &|raw: &mut Raw, request: &Message| {
            asked.fetch_add(1, SeqCst) == 0 && raw.send(&echoed(request))
        });
    });
    let other = Web::echo();
    let proxy = proxy_with(&[&web, &other], json!({}), json!({ "loops": 1 }));
    for n in 0..12 {
        let got = ask(proxy.address, get(&format!("/{n}")));
        assert_eq!(got.body, format!("GET /{n} HTTP/1.1\n").as_bytes());
    }
    proxy.finish();
}

#[test]
fn a_post_goes_on_to_another_server_if_the_first_never_heard_of_it() {
    let good = Web::echo();
    let urls = [format!("http://127.0.0.1:{}", free_port()), good.url()];
    let proxy = proxy_of("http", &urls, json!({}), json!({}));
    for _ in 0..6 {
        let got = ask(proxy.address, post("/p", b"hello"));
        assert_eq!(got.body, b"POST /p HTTP/1.1\nhello");
    }
    assert_eq!(good.requests().len(), 6);
    good.must_be_clean();
    proxy.finish();
}

#[test]
fn a_body_that_came_with_its_head_goes_on_with_it() {
    let web = Web::raw(|raw, seen, number| {
        loop {
            let some = |bytes: &[u8]| (!bytes.is_empty()).then(|| bytes.to_vec());
            let Some(first) = raw.wait(Duration::from_secs(120), some) else {
                return;
            };
            let Ok(request) = read(raw, Side::Request, WAIT) else {
                return;
            };
            let mut seen = seen.lock().unwrap();
            if !matches!(parse(&first, Side::Request), Parsed::Whole(..)) {
                seen.bad.push(first.escape_ascii().to_string());
            }
            seen.requests.push((number, request.clone()));
            raw.send(&echoed(&request));
        }
    });
    let proxy = proxy_with(&[&web], json!({ "connections": { "max": 1 } }), json!({}));
    let mut client = Raw::connect(proxy.address);
    // It opens the connection: what waits for that is not of interest here.
    client.send(get("/").as_bytes());
    assert_eq!(answer(&mut client).body, b"GET / HTTP/1.1\n");
    let body = [b'b'; 3000];
    for n in 0..20 {
        client.send(&post(&format!("/{n}"), &body));
        let expected = format!("POST /{n} HTTP/1.1\n{}", body.escape_ascii());
        assert_eq!(answer(&mut client).body, expected.as_bytes());
    }
    web.must_be_clean();
    // What comes later goes later, and what comes behind it is the next request.
    let two = [post("/a", &body), post("/b", b"hello")].concat();
    let (start, rest) = two.split_at(1000);
    client.send(start);
    std::thread::sleep(Duration::from_millis(50));
    client.send(rest);
    assert_eq!(answer(&mut client).body.len(), 3017);
    assert_eq!(answer(&mut client).body, b"POST /b HTTP/1.1\nhello");
    assert_eq!(web.connections(), 1);
    proxy.finish();
}

#[test]
fn a_server_that_dies_inside_its_answer_leaves_no_proper_end() {
    let rows: [(&str, &[u8]); 5] = [
        (
            "/length",
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        ),
        (
            "/chunks",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ),
        (
            "/chunk",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
        ),
        (
            "/wrong",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
        ),
        (
            "/last",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        ),
    ];
    let web = Web::start(move |raw, request| {
        let path = request.head.first.split(' ').nth(1).unwrap();
        raw.send(rows.iter().find(|(one, _)| *one == path).unwrap().1);
        std::thread::sleep(Duration::from_millis(100));
        false
    });
    let proxy = proxy(&[&web]);
    for (path, _) in rows {
        let mut client = Raw::connect(proxy.address);
        client.send([get(path), get("/length")].concat().as_bytes());
        match read(&mut client, ANSWER, WAIT) {
            Err(Lack::Cut(Some(_), bytes)) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                assert!(text.contains("abc"), "{path}: {text}");
                assert_eq!(text.matches("HTTP/1.1").count(), 1, "{path}: {text}");
            }
            // Head, chunk and fault came in one piece: nothing of it was passed on.
            Err(Lack::Nothing(Some(_))) if path == "/wrong" => {}
            other => panic!("{path}: {other:?}"),
        }
    }
    // Each is counted once, and as what it was.
    let counts = ["started", "failed", "succeeded"]
        .map(|what| proxy.count(&format!("wsteady_requests_{what}_total"), &[]));
    assert_eq!(counts, [5, 5, 0]);
    proxy.finish();
}

#[test]
fn a_client_of_http_1_0_sees_by_a_reset_that_its_answer_is_cut() {
    let web = Web::start(|raw, _| {
        raw.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        std::thread::sleep(Duration::from_millis(100));
        false
    });
    let proxy = proxy(&[&web]);
    let mut client = Raw::connect(proxy.address);
    client.send(b"GET / HTTP/1.0\r\n\r\n");
    // Without a length, a FIN would be the end of all of it.
    assert_eq!(client.end(WAIT), End::Reset);
    proxy.finish();
}

#[test]
fn a_client_that_ends_its_side_gets_all_that_it_has_asked_for() {
    let web = Web::echo();
    let proxy = proxy(&[&web]);
    // Body and FIN come while there is no connection to the server yet.
    let body = noise(40_000);
    let mut client = Raw::connect(proxy.address);
    client.send(&post("/p", &body));
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let got = answer(&mut client);
    assert_eq!(got.body, [&b"POST /p HTTP/1.1\n"[..], &body].concat());
    assert_eq!(client.end(WAIT), End::Fin);
    proxy.finish();
}

#[test]
fn a_server_that_falls_silent_inside_its_answer_is_given_up() {
    let web = Web::start(|raw, _| {
        raw.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        raw.wait(Duration::from_secs(30), |_| None::<()>);
        false
    });
    let proxy = proxy_with(
        &[&web],
        json!({ "timeouts": { "response": "500ms" } }),
        json!({}),
    );
    let mut client = Raw::connect(proxy.address);
    client.send(get("/").as_bytes());
    match read(&mut client, ANSWER, WAIT) {
        Err(Lack::Cut(Some(_), bytes)) => assert!(bytes.ends_with(b"\r\n\r\nabc")),
        other => panic!("{other:?}"),
    }
    proxy.finish();
}

#[test]
fn a_client_that_leaves_takes_its_servers_connection_with_it() {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    let web = Web::raw(move |raw, seen, number| {
        let Some(head) = raw.try_head(WAIT) else {
            return;
        };
        let message = Message {
            head,
            body: Vec::new(),
            chunked: false,
            trailers: String::new(),
        };
        let first = message.head.first.clone();
        seen.lock().unwrap().requests.push((number, message));
        if first.contains("/answer") {
            if first.contains("/later") {
                std::thread::sleep(Duration::from_millis(300));
            }
            raw.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        } else if first.contains("/plain") {
            raw.send(&ok("ok"));
        }
        raw.wait(WAIT, |_| None::<()>);
        count.fetch_add(usize::from(raw.ended().is_some()), SeqCst);
    });
    let proxy = proxy_with(
        &[&web],
        json!({ "timeouts": { "response": "20s" } }),
        json!({}),
    );
    // Before an answer, inside one, inside the request's own body; and behind a FIN, which alone
    // might only say that nothing more is asked.
    let requests = [
        get("/wait").into_bytes(),
        get("/answer").into_bytes(),
        post("/upload", b"hello")[..62].to_vec(),
        get("/answer/later").into_bytes(),
    ];
    for (number, request) in requests.iter().enumerate() {
        let client = {
            let mut client = Raw::connect(proxy.address);
            client.send(request);
            client
        };
        until_true(WAIT, "the request at the server", || {
            web.requests().len() == number + 1
        });
        if number == 0 {
            client.reset();
        } else {
            drop(client);
        }
        until_true(WAIT, "the end of the server's connection", || {
            ended.load(SeqCst) == number + 1
        });
    }
    assert_eq!(ask(proxy.address, get("/plain")).body, b"ok");
    assert_eq!(web.carriers(), [1, 2, 3, 4, 5]);
    proxy.finish();
}

#[test]
fn a_server_that_refuses_an_upload_and_closes_is_heard() {
    // Reads nothing of the body, so that its end is a reset.
    let web = Web::raw(|raw, _, _| {
        if raw.try_head(WAIT).is_some() {
            raw.send(b"HTTP/1.1 413 Too Much\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno");
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let proxy = proxy(&[&web]);
    for _ in 0..5 {
        let mut client = Raw::connect(proxy.address);
        let mut stream = client.stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            let _ = std::io::Write::write_all(&mut stream, &post("/big", &noise(4 << 20)));
        });
        let got = answer(&mut client);
        assert_eq!((got.head.status(), got.body.as_slice()), (413, &b"no"[..]));
        assert_eq!(got.head.header("connection"), Some("close"));
        client.end(WAIT);
        writer.join().unwrap();
    }
    proxy.finish();
}

#[test]
fn a_request_that_does_not_arrive_is_408() {
    let web = Web::echo();
    let proxy = proxy_with(
        &[&web],
        json!({}),
        json!({ "limits": { "handshake": "500ms" } }),
    );
    let whole = post("/slow", b"hello");
    for cut in [20, whole.len() - 2] {
        let mut client = Raw::connect(proxy.address);
        client.send(&whole[..cut]);
        assert_eq!(answer(&mut client).head.status(), 408, "{cut}");
        assert_eq!(client.end(WAIT), End::Fin);
    }
    // Silence between requests is no fault: the connection just ends.
    let mut client = Raw::connect(proxy.address);
    client.send(get("/").as_bytes());
    answer(&mut client);
    client.end(WAIT);
    assert!(client.pending.is_empty());
    assert!(
        web.requests()
            .iter()
            .all(|one| one.head.first == "GET / HTTP/1.1")
    );
    proxy.finish();
}

/// So many bytes each 100 ms, until someone ends it.
fn trickle(raw: &mut Raw, bytes: &[u8], each: usize) -> bool {
    bytes.chunks(each).all(|piece| {
        std::thread::sleep(Duration::from_millis(100));
        raw.silent(Duration::from_millis(1)) && raw.send(piece)
    })
}

#[test]
fn o11_an_upload_that_trickles_is_408_and_one_that_is_slow_is_not() {
    let web = Web::echo();
    let limits = |rate: u32| json!({ "limits": { "handshake": "1s", "min_rate": rate } });
    // Ten bytes a second each 100 ms are in time, one by one; only together they are too slow.
    for (rate, each, bytes, status) in [(500, 1, 100, 408), (500, 200, 6_000, 200), (0, 1, 25, 200)]
    {
        let proxy = proxy_with(&[&web], json!({}), limits(rate));
        let whole = post("/slow", &vec![b'x'; bytes]);
        let head = whole.len() - bytes;
        let mut client = Raw::connect(proxy.address);
        client.send(&whole[..head]);
        let all = trickle(&mut client, &whole[head..], each);
        assert_eq!(all, status == 200, "{rate} {each}");
        assert_eq!(answer(&mut client).head.status(), status, "{rate} {each}");
        drop(client);
        proxy.finish();
    }
}

#[test]
fn pushes_may_be_pipelined_too() {
    let urls = [format!("http://127.0.0.1:{}/", free_port())];
    let proxy = proxy_of("bridge", &urls, json!({}), json!({}));
    let mut client = Raw::connect(proxy.address);
    let look = "GET /nobody HTTP/1.1\r\nHost: h\r\nAccept: application/json\r\n\r\n";
    let push = "POST /nobody HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi";
    client.send([look, push, look, push, push, look].concat().as_bytes());
    for _ in 0..6 {
        assert_eq!(answer(&mut client).head.status(), 404);
    }
    assert!(client.silent(Duration::from_millis(200)));
    drop(client);
    proxy.finish();
}

#[test]
fn nobody_to_ask_is_502_503_or_504() {
    // Refused.
    let proxy = proxy_of(
        "http",
        &[format!("http://127.0.0.1:{}", free_port())],
        json!({}),
        json!({}),
    );
    assert_eq!(ask(proxy.address, get("/")).head.status(), 502);
    proxy.finish();
    // Silent; a POST that was heard, and a GET that might be repeated, too.
    let web = Web::start(|raw, _| {
        raw.wait(Duration::from_secs(30), |_| None::<()>);
        false
    });
    let proxy = proxy_with(
        &[&web],
        json!({ "timeouts": { "response": "500ms" } }),
        json!({}),
    );
    assert_eq!(ask(proxy.address, get("/")).head.status(), 504);
    assert_eq!(ask(proxy.address, post("/", b"x")).head.status(), 504);
    assert_eq!(web.requests().len(), 2);
    proxy.finish();
}

#[test]
fn a_full_queue_is_503_with_retry_after() {
    let hold = Arc::new(AtomicBool::new(true));
    let held = Arc::clone(&hold);
    let web = Web::start(move |raw, request| {
        while held.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        raw.send(&echoed(request))
    });
    let proxy = proxy_with(
        &[&web],
        json!({ "connections": { "min": 0, "max": 2, "idle": "1s", "queue": 3 }, "timeouts": { "response": "20s" } }),
        json!({ "session": { "admit": "20s" } }),
    );
    let mut clients: Vec<Raw> = (0..5)
        .map(|n| {
            let mut client = Raw::connect(proxy.address);
            client.send(get(&format!("/{n}")).as_bytes());
            std::thread::sleep(Duration::from_millis(50));
            client
        })
        .collect();
    until_true(WAIT, "two requests at the server", || {
        web.requests().len() == 2
    });
    for _ in 0..3 {
        let got = ask(proxy.address, get("/more"));
        assert_eq!(got.head.status(), 503);
        assert!(got.head.header("retry-after").is_some(), "{got:?}");
    }
    assert_eq!((web.connections(), web.requests().len()), (2, 2));
    hold.store(false, SeqCst);
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(
            answer(client).body,
            format!("GET /{n} HTTP/1.1\n").as_bytes()
        );
    }
    assert_eq!(web.requests().len(), 5);
    proxy.finish();
}

#[test]
fn loops_share_a_servers_one_connection() {
    let web = Web::start(|raw, request| {
        std::thread::sleep(Duration::from_millis(2));
        raw.send(&echoed(request))
    });
    let pool = json!({ "connections": { "max": 1, "queue": 100 } });
    let proxy = proxy_with(&[&web], pool, json!({ "loops": 4 }));
    let (address, end) = (proxy.address, Instant::now() + Duration::from_secs(3));
    let clients: Vec<_> = (0..16)
        .map(|name| {
            std::thread::spawn(move || {
                let mut client = Raw::connect(address);
                let mut answers = 0;
                while Instant::now() < end {
                    client.send(get(&format!("/{name}/{answers}")).as_bytes());
                    let want = format!("GET /{name}/{answers} HTTP/1.1\n");
                    assert_eq!(answer(&mut client).body, want.as_bytes());
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    let answers: Vec<usize> = clients.into_iter().map(|one| one.join().unwrap()).collect();
    // It goes round: no loop keeps it to itself while others wait.
    assert!(*answers.iter().min().unwrap() >= 3, "{answers:?}");
    web.must_be_clean();
    proxy.finish();
}

#[test]
fn a_request_under_way_is_listed_with_its_path() {
    let web = Web::start(|raw, request| {
        raw.silent(Duration::from_secs(2));
        raw.send(&echoed(request))
    });
    let proxy = proxy(&[&web]);
    let mut client = Raw::connect(proxy.address);
    client.send(get("/some/page?x=1").as_bytes());
    let listed = until(WAIT, "a request under way", || {
        let list = http::get(proxy.admin, "/v1/sessions").unwrap().json();
        list["sessions"].as_array().unwrap().first().cloned()
    });
    assert_eq!(listed["path"], "/some/page?x=1");
    assert_eq!(answer(&mut client).body, b"GET /some/page?x=1 HTTP/1.1\n");
    proxy.finish();
}

#[test]
fn a_client_that_takes_nothing_does_not_speak_against_the_server() {
    let web = Web::start(|raw, request| {
        if request.head.first.contains("/large") {
            raw.send(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n");
            let piece = vec![b'x'; 1 << 20];
            return (0..64).all(|_| raw.send(&piece));
        }
        raw.send(&echoed(request))
    });
    let proxy = proxy_with(
        &[&web],
        json!({
            "timeouts": { "response": "500ms" },
            "breaker": { "threshold": 1, "cooldown": "60s" },
        }),
        json!({}),
    );
    let mut slow = Raw::connect(proxy.address);
    slow.send(get("/large").as_bytes());
    until_true(WAIT, "the end of the answer", || {
        proxy.count("wsteady_requests_failed_total", &[]) > 0
    });
    let list = http::get(proxy.admin, "/v1/servers").unwrap().json();
    assert_eq!(list["servers"][0]["breaker"], "closed");
    assert_eq!(ask(proxy.address, get("/")).head.status(), 200);
    proxy.finish();
}
