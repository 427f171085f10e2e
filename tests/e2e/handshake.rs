//! The opening handshake on both legs, as bytes. Numbers K and V are those of the threat model:
//! K for cases, V for classes of attack. Sources: RFC 6455 section 4, RFC 9112.

use crate::support::frames::{Frame, TEXT};
use crate::support::proxy::Proxy;
use crate::support::raw::{ACCEPT, End, KEY, Next, Origin, Raw, Served, echo_origin, handshake};
use crate::support::{free_port, until_true};
use serde_json::json;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);

/// A request head of these lines.
fn request(lines: &[&str]) -> Vec<u8> {
    (lines.join("\r\n") + "\r\n\r\n").into_bytes()
}

/// A good upgrade whose line starting with `name` is replaced by `line`; an empty one is left out.
fn upgrade_with(name: &str, line: &str) -> Vec<u8> {
    let good = handshake("/", "");
    let lines = good.trim_end().split("\r\n");
    let changed = lines.map(|one| if one.starts_with(name) { line } else { one });
    request(&changed.filter(|one| !one.is_empty()).collect::<Vec<_>>())
}

fn upgrade_and(more: &str) -> Vec<u8> {
    handshake("/", more).into_bytes()
}

/// What must be refused before any server hears of it: name, bytes, the statuses that will do.
fn refused() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    let version = |value: &str| {
        upgrade_with(
            "Sec-WebSocket-Version",
            &format!("Sec-WebSocket-Version: {value}"),
        )
    };
    let host = |line: &str| upgrade_with("Host", line);
    let hidden = "GET /internal HTTP/1.1\r\nHost: x\r\n\r\n";
    vec![
        ("K03 version 12", version("12"), &[426]),
        ("K03 version 14", version("14"), &[426]),
        ("V5 version 7, hybi draft", version("7"), &[426]),
        (
            "V1 version 777 and a hidden request behind it",
            [version("777"), hidden.into()].concat(),
            &[426],
        ),
        (
            "K03 no version",
            upgrade_with("Sec-WebSocket-Version", ""),
            &[400],
        ),
        ("K03 version 13, 8", version("13, 8"), &[400]),
        (
            "K03 version twice",
            upgrade_and("Sec-WebSocket-Version: 13\r\n"),
            &[400],
        ),
        (
            "K03 two versions",
            upgrade_and("Sec-WebSocket-Version: 8\r\n"),
            &[400],
        ),
        ("no key", upgrade_with("Sec-WebSocket-Key", ""), &[400]),
        (
            "key twice",
            upgrade_and(&format!("Sec-WebSocket-Key: {KEY}\r\n")),
            &[400],
        ),
        (
            "key of 15 bytes",
            upgrade_with(
                "Sec-WebSocket-Key",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j",
            ),
            &[400],
        ),
        (
            "key that is no base64",
            upgrade_with(
                "Sec-WebSocket-Key",
                "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==",
            ),
            &[400],
        ),
        (
            "V3 upgrade with a body",
            [
                upgrade_and(&format!("Content-Length: {}\r\n", hidden.len())),
                hidden.into(),
            ]
            .concat(),
            &[400],
        ),
        (
            "V3 upgrade with a chunked body",
            [
                upgrade_and("Transfer-Encoding: chunked\r\n"),
                b"0\r\n\r\n".to_vec(),
            ]
            .concat(),
            &[400],
        ),
        (
            "V2 POST that asks for an upgrade",
            upgrade_with("GET", "POST /health HTTP/1.1"),
            &[400, 404, 405],
        ),
        (
            "V4 upgrade to h2c",
            [
                upgrade_with(
                    "Upgrade",
                    "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
                ),
                hidden.into(),
            ]
            .concat(),
            &[400, 404, 426],
        ),
        (
            "V4 upgrade to foo",
            upgrade_with("Upgrade", "Upgrade: foo"),
            &[400, 404, 426],
        ),
        (
            "V4 CONNECT",
            request(&["CONNECT x:80 HTTP/1.1", "Host: x:80"]),
            &[405],
        ),
        (
            "V5 draft 75: no key, no version",
            request(&[
                "GET / HTTP/1.1",
                "Host: x",
                "Upgrade: WebSocket",
                "Connection: Upgrade",
                "Origin: http://x",
            ]),
            &[400, 426],
        ),
        (
            "HTTP/1.0",
            upgrade_with("GET", "GET / HTTP/1.0"),
            &[400, 404, 426, 505],
        ),
        ("V22 two Hosts", upgrade_and("Host: other.test\r\n"), &[400]),
        (
            "V22 two equal Hosts",
            upgrade_and("Host: proxy.test\r\n"),
            &[400],
        ),
        (
            "V22 absolute target of another host",
            upgrade_with("GET", "GET http://evil.test/ HTTP/1.1"),
            &[400],
        ),
        ("V22 Host a@b", host("Host: a@b"), &[400]),
        ("V22 Host a/b", host("Host: a/b"), &[400]),
        ("V22 Host a:99999", host("Host: a:99999"), &[400]),
        ("V22 Host with a space", host("Host: a b"), &[400]),
        ("V22 no Host", host(""), &[400]),
        ("V11 empty field name", upgrade_and(": x\r\n"), &[400]),
        (
            "V11 space before the colon",
            upgrade_and("X-A : a\r\n"),
            &[400],
        ),
        (
            "V11 NUL in a field name",
            upgrade_and("X\0Y: 1\r\n"),
            &[400],
        ),
        (
            "V11 bare CR in a value",
            upgrade_and("X-A: a\rb\r\n"),
            &[400],
        ),
        (
            "V11 line without a colon",
            upgrade_and("nonsense\r\n"),
            &[400],
        ),
        ("V11 folded line", upgrade_and("X-A: a\r\n b\r\n"), &[400]),
        (
            "V11 space before the first field",
            upgrade_with("Host", " X-A: a\r\nHost: proxy.test"),
            &[400],
        ),
        (
            "V12 bare LF",
            handshake("/", "").replace("\r\n", "\n").into_bytes(),
            &[400],
        ),
        (
            "V18 fragment in the target",
            upgrade_with("GET", "GET /c1#x HTTP/1.1"),
            &[400],
        ),
        (
            "V19 raw CR in the target",
            upgrade_with("GET", "GET /a\rb HTTP/1.1"),
            &[400],
        ),
        (
            "V25 a field of 20 KiB",
            upgrade_and(&format!("X-A: {}\r\n", "a".repeat(20_000))),
            &[431],
        ),
        (
            "V25 2,000 fields",
            upgrade_and(&"X-A: a\r\n".repeat(2_000)),
            &[431],
        ),
    ]
}

#[test]
fn bad_upgrades_are_refused_before_any_server_hears_of_them() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    for (name, bytes, statuses) in refused() {
        let mut client = Raw::connect(proxy.address);
        client.send(&bytes);
        let head = client
            .try_head(WAIT)
            .unwrap_or_else(|| panic!("{name}: no answer"));
        assert!(statuses.contains(&head.status()), "{name}: {}", head.first);
        if head.status() == 426 && statuses == [426] {
            assert_eq!(head.header("sec-websocket-version"), Some("13"), "{name}");
        }
        client.end(WAIT);
        let rest = String::from_utf8_lossy(&client.pending).into_owned();
        assert!(
            !rest.contains("HTTP/1.1"),
            "{name}: a second answer: {rest}"
        );
        assert_eq!(origin.connections(), 0, "{name}: a server heard of it");
    }
    proxy.finish();
}

#[test]
fn good_upgrades_in_all_their_spellings_are_taken() {
    // W-D2, R-D10: what Firefox sends was refused.
    let rows = [
        (
            "K05 Firefox",
            upgrade_with("Connection", "Connection: keep-alive, Upgrade"),
        ),
        (
            "K05 UPGRADE",
            upgrade_with("Connection", "Connection: UPGRADE"),
        ),
        (
            "K05 WebSocket",
            upgrade_with("Upgrade", "Upgrade: WebSocket"),
        ),
        ("K05 two lines", upgrade_and("Connection: keep-alive\r\n")),
        (
            "K14 Content-Length: 0",
            upgrade_and("Content-Length: 0\r\n"),
        ),
        ("names in small letters", {
            let good = handshake("/", "");
            good.replace("Sec-WebSocket-", "sec-websocket-")
                .into_bytes()
        }),
        (
            "an absolute target",
            upgrade_with("GET", "GET http://proxy.test/ HTTP/1.1"),
        ),
    ];
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    for (name, bytes) in rows {
        let mut client = Raw::connect(proxy.address);
        client.send(&bytes);
        let head = client
            .try_head(WAIT)
            .unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!(head.status(), 101, "{name}");
        assert_eq!(head.header("sec-websocket-accept"), Some(ACCEPT), "{name}");
        client.send_frame(&Frame::masked(TEXT, b"there"));
        assert_eq!(client.frame(WAIT), Frame::new(TEXT, b"there"), "{name}");
    }
    proxy.finish();
}

#[test]
fn k01_the_server_sees_the_clients_request_under_a_key_of_our_own() {
    let origin = Origin::bind();
    let proxy = Proxy::start(&[format!("{}/base", origin.url())], json!({}));
    let mut client = Raw::connect(proxy.address);
    let more = "Origin: http://a.test\r\nCookie: a=b\r\nAuthorization: Basic eA==\r\n\
                X-Mine: 1\r\nX-Mine: 2\r\n";
    client.send(handshake("/room/7?x=1&y=%2f", more).as_bytes());
    let (mut server, head) = origin.adopt("");
    assert_eq!(
        client.head(WAIT).header("sec-websocket-accept"),
        Some(ACCEPT)
    );
    assert_eq!(head.first, "GET /base/room/7?x=1&y=%2f HTTP/1.1");
    assert_ne!(head.header("sec-websocket-key"), Some(KEY));
    assert_eq!(head.header("sec-websocket-version"), Some("13"));
    assert_eq!(head.header("host"), Some("proxy.test"));
    assert_eq!(head.header("origin"), Some("http://a.test"));
    assert_eq!(head.header("cookie"), Some("a=b"));
    assert_eq!(head.header("authorization"), Some("Basic eA=="));
    assert_eq!(head.all("x-mine"), ["1", "2"]);
    assert_eq!(head.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.header("x-forwarded-proto"), Some("http"));
    assert_eq!(head.header("x-forwarded-host"), Some("proxy.test"));
    assert_eq!(head.header("x-wsteady-next"), Some("0"));
    assert_eq!(head.header("x-balancer-reconnect"), None);
    assert_eq!(head.header("sec-websocket-extensions"), None);
    let id = head
        .header("x-wsteady-session")
        .expect("a session id")
        .to_owned();
    assert!(id.len() >= 22, "128 random bits in {id}");
    assert_eq!(proxy.sessions()[0]["id"], id);
    server.send_frame(&Frame::new(TEXT, b"hello"));
    assert_eq!(client.frame(WAIT), Frame::new(TEXT, b"hello"));
    drop((client, server));
    proxy.finish();
}

#[test]
fn a_fixed_target_is_the_servers_url_as_it_is() {
    let origin = Origin::bind();
    let url = format!("{}/fixed?a=b", origin.url());
    let proxy = Proxy::start(
        &[url],
        json!({ "pools": { "main": { "target": "fixed" } } }),
    );
    let mut client = Raw::connect(proxy.address);
    client.send(handshake("/else?c=d", "").as_bytes());
    let (server, head) = origin.adopt("");
    assert_eq!(head.first, "GET /fixed?a=b HTTP/1.1");
    assert_eq!(client.head(WAIT).status(), 101);
    drop((client, server));
    proxy.finish();
}

/// What a client must not be able to make a server believe.
const FORGED: &str = "X-Forwarded-For: 10.1.1.1\r\nX-Forwarded-For: 10.1.1.2\r\n\
    X-Forwarded-Proto: https\r\nX-Forwarded-Host: bank.test\r\nForwarded: for=10.1.1.1\r\n\
    X-Real-IP: 10.1.1.1\r\nX-Balancer-Reconnect: 1\r\nX-Wsteady-Session: mine\r\n\
    X-Wsteady-Next: 7\r\nx-wsteady-anything: 1\r\n";

#[test]
fn v21_forwarding_headers_are_ours_unless_the_peer_is_trusted() {
    for trusted in [false, true] {
        let origin = Origin::bind();
        let peers = if trusted {
            json!(["127.0.0.0/8"])
        } else {
            json!([])
        };
        let proxy = Proxy::start(&[origin.url()], json!({ "trusted_proxies": peers }));
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/", FORGED).as_bytes());
        let (server, head) = origin.adopt("");
        assert_eq!(client.head(WAIT).status(), 101);
        let joined = head.all("x-forwarded-for").join(", ");
        if trusted {
            assert_eq!(joined, "10.1.1.1, 10.1.1.2, 127.0.0.1");
            assert_eq!(head.header("x-forwarded-proto"), Some("https"));
            assert_eq!(head.header("x-forwarded-host"), Some("bank.test"));
        } else {
            assert_eq!(joined, "127.0.0.1");
            assert_eq!(head.all("x-forwarded-proto"), ["http"]);
            assert_eq!(head.all("x-forwarded-host"), ["proxy.test"]);
            assert_eq!(head.header("forwarded"), None);
            assert_eq!(head.header("x-real-ip"), None);
        }
        assert_eq!(head.header("x-balancer-reconnect"), None);
        assert_ne!(head.header("x-wsteady-session"), Some("mine"));
        assert_eq!(head.all("x-wsteady-next"), ["0"]);
        assert_eq!(head.header("x-wsteady-anything"), None);
        drop((client, server));
        proxy.finish();
    }
}

#[test]
fn v20_what_connection_names_is_removed_and_then_ours_is_added() {
    // W-D14: hop-by-hop fields were forwarded.
    let origin = Origin::bind();
    let proxy = Proxy::start(
        &[origin.url()],
        json!({ "pools": { "main": { "block_headers": ["X-Secret"] } } }),
    );
    let mut client = Raw::connect(proxy.address);
    let good = handshake(
        "/",
        "X-Forwarded-For: 1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nCookie: a=b\r\nX-Hop: 1\r\n\
         Keep-Alive: timeout=5\r\nTE: trailers\r\nProxy-Connection: x\r\nX-Secret: 1\r\n\
         X-Stays: 1\r\n",
    );
    let named = "Connection: Upgrade, X-Forwarded-For, X-Real-IP, Cookie, X-Hop, X-Wsteady-Session";
    client.send(good.replace("Connection: Upgrade", named).as_bytes());
    let (server, head) = origin.adopt("");
    assert_eq!(client.head(WAIT).status(), 101);
    assert_eq!(head.all("x-forwarded-for"), ["127.0.0.1"]);
    let gone = [
        "x-real-ip",
        "cookie",
        "x-hop",
        "keep-alive",
        "te",
        "proxy-connection",
        "x-secret",
    ];
    for name in gone {
        assert_eq!(head.header(name), None, "{name}");
    }
    assert_eq!(head.header("x-stays"), Some("1"));
    assert!(head.header("x-wsteady-session").is_some());
    assert_eq!(head.all("connection").len(), 1, "{head:?}");
    drop((client, server));
    proxy.finish();
}

#[test]
fn k18_a_foreign_origin_is_refused_and_no_server_is_asked() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({ "origins": ["https://good.test"] }));
    let status = |more: &str| {
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/", more).as_bytes());
        client.head(WAIT).status()
    };
    let foreign = [
        ("foreign", "Origin: https://evil.test\r\n", 403),
        ("null", "Origin: null\r\n", 403),
        ("longer", "Origin: https://good.test.evil.test\r\n", 403),
        ("another scheme", "Origin: http://good.test\r\n", 403),
    ];
    for (name, more, expected) in foreign {
        assert_eq!(status(more), expected, "{name}");
    }
    let two = status("Origin: https://good.test\r\nOrigin: https://evil.test\r\n");
    assert!(matches!(two, 400 | 403), "two Origins: {two}");
    assert_eq!(origin.connections(), 0);
    assert_eq!(status("Origin: https://good.test\r\n"), 101);
    assert!(proxy.count("wsteady_connections_denied_total", &[]) >= 5);
    proxy.finish();
}

/// A server that answers each upgrade with `answer` and keeps the connection open.
fn answering(answer: &'static str) -> Served {
    Origin::bind().serve(move |raw, _| {
        raw.send(answer.as_bytes());
        raw.end(Duration::from_secs(20));
    })
}

#[test]
fn k07_refusals_are_relayed_and_failures_become_502() {
    // W-D3: 2xx crashed the older proxy.
    let rows: [(&'static str, u16); 8] = [
        (
            "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 4\r\n\r\nmove",
            302,
        ),
        (
            "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno",
            401,
        ),
        (
            "HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
            404,
        ),
        (
            "HTTP/1.1 426 Old\r\nSec-WebSocket-Version: 8\r\nContent-Length: 0\r\n\r\n",
            426,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
        ("HTTP/1.1 204 Empty\r\n\r\n", 502),
        ("HTTP/1.1 500 Bad\r\nContent-Length: 3\r\n\r\nbad", 502),
        (
            "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nRetry-After: 9\r\n\r\nbusy",
            502,
        ),
    ];
    for (answer, expected) in rows {
        let origin = answering(answer);
        let proxy = Proxy::start(&[origin.url()], json!({}));
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/", "").as_bytes());
        client.send(b"GET /internal HTTP/1.1\r\nHost: x\r\n\r\n");
        let head = client.head(WAIT);
        assert_eq!(head.status(), expected, "{answer}");
        let body = String::from_utf8(client.body(&head, WAIT)).unwrap();
        match expected {
            302 => assert_eq!(
                (head.header("location"), body.as_str()),
                (Some("/login"), "move")
            ),
            401 => {
                assert_eq!(
                    (head.header("www-authenticate"), body.as_str()),
                    (Some("Basic"), "no")
                );
            }
            404 => assert!(body.contains("no"), "{body:?}"),
            426 => {}
            // S07: what a server says of its failure is not for strangers.
            _ => assert!(!body.contains("bad") && !body.contains("busy"), "{body}"),
        }
        until_true(WAIT, "one dial", || origin.connections() == 1);
        proxy.finish();
        let left = String::from_utf8_lossy(&origin.left()).into_owned();
        assert!(!left.contains("internal"), "{answer}: smuggled {left}");
    }
}

#[test]
fn k08_a_101_that_is_no_correct_upgrade_is_502_and_its_connection_ends() {
    // W-D3: a wrong accept key killed the older proxy.
    let good = "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    let rows = [
        ("no accept", format!("{good}\r\n")),
        (
            "another key's accept",
            format!("{good}Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"),
        ),
        (
            "no Upgrade",
            "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nACCEPT\r\n".to_owned(),
        ),
        (
            "no Connection",
            "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nACCEPT\r\n".to_owned(),
        ),
        (
            "other Upgrade",
            "HTTP/1.1 101 S\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nACCEPT\r\n".into(),
        ),
        (
            "Transfer-Encoding",
            format!("{good}ACCEPTTransfer-Encoding: chunked\r\n\r\n"),
        ),
        (
            "unasked subprotocol",
            format!("{good}ACCEPTSec-WebSocket-Protocol: chat\r\n\r\n"),
        ),
        (
            "unasked extension",
            format!("{good}ACCEPTSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
        ),
        (
            "S10 CR in a value",
            format!("{good}ACCEPTSet-Cookie: a\rX: b\r\n\r\n"),
        ),
        ("no HTTP", "nonsense\r\n\r\n".to_owned()),
    ];
    for (name, answer) in rows {
        let origin = Origin::bind().serve(move |raw, head| {
            let key = head.header("sec-websocket-key").unwrap();
            let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
            let line = format!("Sec-WebSocket-Accept: {accept}\r\n");
            raw.send(answer.replace("ACCEPT", &line).as_bytes());
            // That it ends is seen by the count of descriptors when the proxy finishes.
            raw.end(Duration::from_secs(60));
        });
        let proxy = Proxy::start(&[origin.url()], json!({}));
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/", "").as_bytes());
        assert_eq!(client.head(WAIT).status(), 502, "{name}");
        proxy.finish();
    }
}

#[test]
fn interim_answers_are_skipped_eight_at_most() {
    for (count, expected) in [(8, 101), (9, 502)] {
        let origin = Origin::bind().serve(move |raw, head| {
            raw.send(
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
                    .repeat(count)
                    .as_bytes(),
            );
            raw.accept(head, "");
        });
        let proxy = Proxy::start(&[origin.url()], json!({}));
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/", "").as_bytes());
        assert_eq!(
            client.head(WAIT).status(),
            expected,
            "{count} interim answers"
        );
        drop(client);
        proxy.finish();
    }
}

#[test]
fn a_first_connect_tries_each_server_once() {
    let bad = answering("HTTP/1.1 500 Bad\r\nContent-Length: 0\r\n\r\n");
    let gone = format!("ws://127.0.0.1:{}", free_port());
    let good = echo_origin();
    let proxy = Proxy::start(&[bad.url(), gone.clone(), good.url()], json!({}));
    for _ in 0..6 {
        let mut client = Raw::open(proxy.address, "/", "");
        client.send_frame(&Frame::masked(TEXT, b"x"));
        assert_eq!(client.frame(WAIT), Frame::new(TEXT, b"x"));
    }
    assert!(
        bad.connections() <= 6,
        "once for each client: {}",
        bad.connections()
    );
    assert!(
        bad.connections() >= 1,
        "round-robin never came to the first"
    );
    // Retried elsewhere, it is still a first connect.
    for head in good.heads() {
        assert_eq!(head.header("x-wsteady-next"), Some("0"));
        assert_eq!(head.header("x-balancer-reconnect"), None);
    }
    proxy.finish();
    // Answered, but none well: at once; no back-off, no waiting for `admit`.
    let proxy = Proxy::start(&[bad.url(), gone], json!({ "session": { "admit": "20s" } }));
    let started = Instant::now();
    let mut client = Raw::connect(proxy.address);
    client.send(handshake("/", "").as_bytes());
    assert_eq!(client.head(WAIT).status(), 502);
    assert!(started.elapsed() < Duration::from_secs(5));
    proxy.finish();
}

#[test]
fn who_finds_no_server_waits_for_one_and_then_gets_502_or_504() {
    let port = free_port();
    let proxy = Proxy::start(&[format!("ws://127.0.0.1:{port}")], json!({}));
    let started = Instant::now();
    let mut client = Raw::connect(proxy.address);
    client.send(handshake("/", "").as_bytes());
    assert_eq!(client.head(WAIT).status(), 502);
    // Clocks of whole milliseconds.
    let waited = started.elapsed();
    assert!(
        waited >= Duration::from_millis(1_998),
        "admit is 2 s: {waited:?}"
    );
    proxy.finish();
    let silent = Origin::bind();
    let times = json!({ "pools": { "main": { "timeouts": { "handshake": "500ms" } } } });
    let proxy = Proxy::start(&[silent.url()], times);
    let mut client = Raw::connect(proxy.address);
    client.send(handshake("/", "").as_bytes());
    assert_eq!(client.head(WAIT).status(), 504);
    proxy.finish();
}

#[test]
fn a_paused_proxy_says_503_and_keeps_its_sessions() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    let mut old = Raw::open(proxy.address, "/", "");
    assert_eq!(
        proxy
            .admin("POST", "/v1/accept", Some(r#"{"paused": true}"#))
            .status,
        200
    );
    let mut client = Raw::connect(proxy.address);
    client.send(handshake("/", "").as_bytes());
    assert_eq!(client.head(WAIT).status(), 503);
    old.send_frame(&Frame::masked(TEXT, b"still here"));
    assert_eq!(old.frame(WAIT), Frame::new(TEXT, b"still here"));
    assert_eq!(
        proxy
            .admin("POST", "/v1/accept", Some(r#"{"paused": false}"#))
            .status,
        200
    );
    drop(Raw::open(proxy.address, "/", ""));
    drop((old, client));
    proxy.finish();
}

#[test]
fn k11_frames_behind_the_request_are_delivered_once_after_the_101() {
    let origin = Origin::bind();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    let mut client = Raw::connect(proxy.address);
    let frames: Vec<u8> = [b"one", b"two", b"six"]
        .iter()
        .flat_map(|body| Frame::masked(TEXT, *body).bytes())
        .collect();
    client.send(&[handshake("/", "").as_bytes(), &frames].concat());
    let (mut server, head) = origin.next();
    assert!(
        server.silent(Duration::from_millis(300)),
        "data before the 101: {:?}",
        server.pending
    );
    server.accept(&head, "");
    assert_eq!(client.head(WAIT).status(), 101);
    for body in [b"one", b"two", b"six"] {
        assert_eq!(server.frame(WAIT).payload, body);
    }
    drop((client, server));
    proxy.finish();
}

#[test]
fn k15_v40_of_two_upgrades_in_one_segment_only_the_first_counts() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    let mut client = Raw::connect(proxy.address);
    client.send((handshake("/first", "") + &handshake("/second", "")).as_bytes());
    assert_eq!(client.head(WAIT).status(), 101);
    // The second is no frame: "G" has a reserved bit and a reserved opcode.
    assert_eq!(client.close_code(WAIT), 1002);
    drop(client);
    proxy.finish();
    assert_eq!(origin.connections(), 1);
    assert!(!String::from_utf8_lossy(&origin.left()).contains("second"));
}

#[test]
fn k17_v40_a_client_that_resets_while_we_dial_leaves_nothing_behind() {
    // W-D8: connections of clients that failed stayed for ever.
    let origin = Origin::bind();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    for _ in 0..20 {
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/", "").as_bytes());
        let (mut server, _) = origin.next();
        client.reset();
        server.end(WAIT);
    }
    // The answer crosses the reset.
    for _ in 0..20 {
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/", "").as_bytes());
        let (mut server, head) = origin.next();
        server.accept(&head, "");
        client.reset();
        // A Close 1001 may come first; the end must.
        server.send_frame(&Frame::close(1001, ""));
        server.end(WAIT);
    }
    proxy.finish();
}

#[test]
fn v25_a_head_is_parsed_once_and_capped_and_must_come_in_time() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    // Byte by byte, and 15 KiB that a backtracking parser would chew on.
    let hard = format!(
        "Sec-WebSocket-Extensions: a; b=\"{}\r\n",
        "\\c".repeat(7_000)
    );
    let mut client = Raw::connect(proxy.address);
    let started = Instant::now();
    for byte in handshake("/", &hard).as_bytes() {
        client.send(&[*byte]);
    }
    let status = client.head(WAIT).status();
    assert!(matches!(status, 101 | 400), "{status}");
    assert!(started.elapsed() < Duration::from_secs(5));
    // An endless head is cut off at the cap.
    let mut endless = Raw::connect(proxy.address);
    endless.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ");
    for _ in 0..70 {
        endless.send(&[b'x'; 1024]);
    }
    assert_eq!(endless.try_head(WAIT).map(|head| head.status()), Some(431));
    // One that stops half way is ended by `limits.handshake`, 2 s here.
    let mut slow = Raw::connect(proxy.address);
    slow.send(b"GET / HTTP/1.1\r\nHost:");
    let started = Instant::now();
    slow.end(WAIT);
    let took = started.elapsed();
    assert!(took > Duration::from_millis(1500), "{took:?}");
    // So is one of which each byte comes in time.
    let mut trickle = Raw::connect(proxy.address);
    let started = Instant::now();
    let ended = handshake("/", "").bytes().any(|byte| {
        trickle.send(&[byte]);
        std::thread::sleep(Duration::from_millis(50));
        !matches!(trickle.next(Duration::from_millis(1)), Next::Silence)
    });
    assert!(
        ended && started.elapsed() < Duration::from_secs(6),
        "{:?}",
        started.elapsed()
    );
    drop((client, endless));
    proxy.finish();
}

#[test]
fn headers_that_the_pool_passes_reach_the_client_and_others_do_not() {
    let origin = Origin::bind();
    let pass = json!({ "pools": { "main": { "pass_headers": ["Set-Cookie", "X-Room"] } } });
    let proxy = Proxy::start(&[origin.url()], pass);
    let mut client = Raw::connect(proxy.address);
    client.send(handshake("/", "").as_bytes());
    let more = "Set-Cookie: a=1\r\nset-cookie: b=2\r\nX-Room: 7\r\nX-Internal: 10.0.0.9\r\n\
                Server: secret/1.0\r\n";
    let (server, _) = origin.adopt(more);
    let head = client.head(WAIT);
    assert_eq!(head.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(head.header("x-room"), Some("7"));
    assert_eq!(head.header("x-internal"), None);
    assert_eq!(head.header("server"), None);
    drop((client, server));
    proxy.finish();
}

#[test]
fn the_servers_choice_of_subprotocol_is_the_clients_answer() {
    // I-D10: several offers were refused, a single one was taken for the server.
    let origin = Origin::bind();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    for (offer, answer) in [
        ("chat, v2", Some("v2")),
        ("chat", None),
        ("chat", Some("chat")),
    ] {
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/", &format!("Sec-WebSocket-Protocol: {offer}\r\n")).as_bytes());
        let more = answer.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
        let (server, head) = origin.adopt(&more.unwrap_or_default());
        assert_eq!(head.header("sec-websocket-protocol"), Some(offer));
        assert_eq!(client.head(WAIT).header("sec-websocket-protocol"), answer);
        drop((client, server));
    }
    proxy.finish();
}

/// The parameters of an extension header, in any order.
fn parameters(value: &str) -> Vec<String> {
    let mut found: Vec<_> = value
        .split(';')
        .map(|part| part.trim().to_owned())
        .collect();
    found.sort();
    found
}

#[test]
fn deflate_is_offered_without_context_and_only_if_the_client_offers_it() {
    // W-D1: any client that offered permessage-deflate got 502, and ten of them broke the pool.
    let origin = Origin::bind();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    let mut client = Raw::connect(proxy.address);
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits; server_max_window_bits=10, x-other\r\n";
    client.send(handshake("/", offer).as_bytes());
    let (server, head) = origin.adopt(
        "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
         server_max_window_bits=10\r\n",
    );
    let upstream = head.header("sec-websocket-extensions").expect("an offer");
    assert_eq!(
        parameters(upstream),
        [
            "client_max_window_bits",
            "client_no_context_takeover",
            "permessage-deflate",
            "server_max_window_bits=10",
            "server_no_context_takeover"
        ]
    );
    let answer = client.head(WAIT);
    assert_eq!(
        parameters(
            answer
                .header("sec-websocket-extensions")
                .expect("an answer")
        ),
        [
            "client_no_context_takeover",
            "permessage-deflate",
            "server_max_window_bits=10",
            "server_no_context_takeover"
        ]
    );
    drop((client, server));
    // A server that doesn't take it: no extension for the client.
    let mut client = Raw::connect(proxy.address);
    client.send(handshake("/", "Sec-WebSocket-Extensions: permessage-deflate\r\n").as_bytes());
    let (server, _) = origin.adopt("");
    assert_eq!(client.head(WAIT).header("sec-websocket-extensions"), None);
    drop((client, server));
    proxy.finish();
}

#[test]
fn a_server_that_would_keep_its_context_is_dialled_again_without_deflate() {
    // V34: so is one whose parameters are nonsense.
    let bad = [
        "permessage-deflate",
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=99",
        "permessage-deflate; server_no_context_takeover; unknown=1",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    ];
    for answer in bad {
        let origin = Origin::bind();
        let proxy = Proxy::start(&[origin.url()], json!({}));
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/", "Sec-WebSocket-Extensions: permessage-deflate\r\n").as_bytes());
        let (mut first, _) = origin.adopt(&format!("Sec-WebSocket-Extensions: {answer}\r\n"));
        let (second, head) = origin.adopt("");
        assert_eq!(head.header("sec-websocket-extensions"), None, "{answer}");
        assert_eq!(
            head.header("x-balancer-reconnect"),
            None,
            "still a first connect"
        );
        first.end(WAIT);
        let head = client.head(WAIT);
        assert_eq!(
            (head.status(), head.header("sec-websocket-extensions")),
            (101, None)
        );
        drop((client, second));
        proxy.finish();
    }
}

#[test]
fn v34_bad_deflate_offers_of_a_client_are_not_offered_upstream() {
    let bad = [
        "permessage-deflate; server_max_window_bits=99",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_no_context_takeover=1",
        "permessage-deflate; what=1",
        "x-webkit-deflate-frame",
    ];
    let origin = Origin::bind();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    for offer in bad {
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/", &format!("Sec-WebSocket-Extensions: {offer}\r\n")).as_bytes());
        let (server, head) = origin.adopt("");
        assert_eq!(head.header("sec-websocket-extensions"), None, "{offer}");
        assert_eq!(client.head(WAIT).status(), 101, "{offer}");
        drop((client, server));
    }
    proxy.finish();
}

#[test]
fn v1_a_connection_whose_upgrade_failed_is_not_used_again() {
    let proxy_origin = answering("HTTP/1.1 426 Old\r\nContent-Length: 0\r\n\r\n");
    let proxy = Proxy::start(&[proxy_origin.url()], json!({}));
    for round in 1..=3 {
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/", "").as_bytes());
        assert_eq!(client.head(WAIT).status(), 426);
        assert_eq!(proxy_origin.connections(), round);
        // The answer came, then the proxy ends the client's connection, too.
        assert_eq!(client.end(WAIT), End::Fin);
    }
    proxy.finish();
}
