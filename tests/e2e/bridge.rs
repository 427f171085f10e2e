//! The HTTP bridge: clients speak WebSocket, the API behind wsteady speaks HTTP (contract,
//! section 5). The API is ours and writes down every call; each test ends with the laws that hold
//! over all calls ([`check_calls`]): one at a time, in order, none left out, repeats by their key.
//!
//! B is ws2api, the bridge that this one replaces; D numbers its defects:
//!
//! | defect | test |
//! | --- | --- |
//! | B-D1 a second client with an id takes over | `b_d1_…`, two of them |
//! | B-D2 ids that climb out of the API's URL | `b_d2_…` |
//! | B-D3 anyone may push and read statistics | `b_d3_…`, two of them |
//! | B-D4 Pongs without their payload | `b_d4_…` |
//! | B-D5 the API learns nothing of the client | `b_d5_…`, two of them |
//! | B-D6 a count of connections that only grows | `b_d6_…` |
//! | B-D7 no DELETE at shutdown, no heartbeat, storms | `b_d7_…`, three of them |
//! | B-D8 a push before the client is registered | `b_d8_…` |
//! | B-D9 no binary, no close, no look, no limits | `b_d9_…`, four of them |
//! | B-F4 empty and failed answers are messages | `an_answer_is_one_message_…`, `failed_…` |
//! | B-F5 sixteen calls at a time, out of order | `a_thousand_messages_…` |
//!
//! V and B with a number are rows of the threat model.

use crate::support::api::{Api, Call, ERROR_PAGE, Reply, check_calls, echo};
use crate::support::frames::{BINARY, CLOSE, CONTINUE, Frame, PING, PONG, TEXT};
use crate::support::proxy::Proxy;
use crate::support::raw::{Head, Next, Raw, handshake};
use crate::support::rng::Rng;
use crate::support::{until, until_true};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);

/// Long enough to see that something does not happen.
const A_WHILE: Duration = Duration::from_millis(400);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// wsteady before these APIs; `changes` win over what is set here.
fn bridge(apis: &[&Api], changes: Value) -> Proxy {
    bridge_to(apis.iter().map(|api| api.url()).collect(), changes)
}

pub(crate) fn bridge_to(urls: Vec<String>, changes: Value) -> Proxy {
    bridge_through(&[], urls, changes)
}

/// By way of another program.
pub(crate) fn bridge_through(through: &[String], urls: Vec<String>, mut changes: Value) -> Proxy {
    let pool = &mut changes["pools"]["main"];
    pool["kind"] = json!("bridge");
    for (group, key, value) in [
        // So that a test's end finds no connection that is only kept.
        ("connections", "min", json!(0)),
        ("connections", "idle", json!("300ms")),
        ("timeouts", "response", json!("2s")),
        // A client that just waits for the API must not have to answer Pings meanwhile.
        ("timeouts", "ping", json!("30s")),
    ] {
        if pool[group][key].is_null() {
            pool[group][key] = value;
        }
    }
    Proxy::start_through(through, &urls, changes)
}

fn finish(proxy: Proxy, apis: &[&Api]) {
    proxy.finish();
    check_calls(apis);
}

fn join(proxy: &Proxy, id: &str) -> Raw {
    Raw::open(proxy.address, &format!("/{id}"), "")
}

fn say(client: &mut Raw, text: &str) {
    assert!(client.send_frame(&Frame::masked(TEXT, text.as_bytes())));
}

/// The next message, which must be a text.
fn hear(client: &mut Raw) -> String {
    let frame = client.frame(WAIT);
    assert_eq!(frame.opcode, TEXT, "{frame:?}");
    String::from_utf8(frame.payload).unwrap()
}

/// Closes from the client's side, and waits for the answer.
fn leave(mut client: Raw, code: u16, reason: &str) {
    client.send_frame(&Frame::close(code, reason).with_key([9, 8, 7, 6]));
    assert_eq!(client.close_code(WAIT), code);
    client.end(WAIT);
}

/// The status of the answer to an upgrade, and its head and body.
fn knock(proxy: &Proxy, target: &str, more: &str) -> Answer {
    let mut client = Raw::connect(proxy.address);
    client.send(handshake(target, more).as_bytes());
    Answer::read(&mut client)
}

struct Answer {
    status: u16,
    head: Head,
    body: String,
}

impl Answer {
    fn read(raw: &mut Raw) -> Answer {
        let head = raw.head(WAIT);
        let body = match head.status() {
            101 => Vec::new(),
            _ => raw.body(&head, WAIT),
        };
        Answer {
            status: head.status(),
            body: String::from_utf8_lossy(&body).into_owned(),
            head,
        }
    }
}

/// A plain request: what the API says to wsteady.
fn tell(address: SocketAddr, request: &str, headers: &str, body: &[u8]) -> Answer {
    let mut raw = Raw::connect(address);
    raw.send(&plain(request, headers, body));
    Answer::read(&mut raw)
}

fn plain(request: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = match body.len() {
        0 if request.starts_with("GET ") => String::new(),
        length => format!("Content-Length: {length}\r\n"),
    };
    let head = format!("{request} HTTP/1.1\r\nHost: proxy.test\r\n{headers}{length}\r\n");
    [head.as_bytes(), body].concat()
}

fn push(proxy: &Proxy, id: &str, text: &str) -> u16 {
    tell(proxy.address, &format!("POST /{id}"), "", text.as_bytes()).status
}

const OCTETS: &str = "Content-Type: application/octet-stream\r\n";
const LOOK: &str = "Accept: application/json\r\n";

// ---- Coming in ----

#[test]
fn the_apis_answer_to_get_decides_who_comes_in() {
    // B02. Name of the row, which is the ClientId; answer; status for the client.
    type Row = (&'static str, fn() -> Reply, &'static [u16]);
    let rows: Vec<Row> = vec![
        ("ok", Reply::ok, &[101]),
        (
            "html",
            || Reply::answer(200, "Content-Type: text/html\r\n", "ok"),
            &[101],
        ),
        (
            "chunked",
            || Reply::bytes(chunked("2\r\nok\r\n0\r\n\r\n")),
            &[101],
        ),
        ("empty", Reply::empty, &[403]),
        ("upper", || Reply::text("OK"), &[403]),
        ("line", || Reply::text("ok\n"), &[403]),
        ("longer", || Reply::text("okay"), &[403]),
        ("other", || Reply::text("no"), &[403]),
        ("201", || Reply::answer(201, "", "ok"), &[403]),
        ("204", || Reply::bytes("HTTP/1.1 204 N\r\n\r\n"), &[403]),
        ("400", || Reply::status(400), &[400]),
        ("401", || Reply::status(401), &[401]),
        ("403", || Reply::status(403), &[403]),
        ("404", || Reply::status(404), &[404]),
        ("429", || Reply::status(429), &[429]),
        (
            "302",
            || Reply::answer(302, "Location: /ok\r\n", "ok"),
            &[502],
        ),
        ("500", || Reply::status(500), &[502]),
        ("503", || Reply::status(503), &[502]),
        (
            "101",
            || Reply::bytes("HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
            &[502],
        ),
        ("cut", Reply::cut, &[502, 504]),
        ("reset", Reply::reset, &[502, 504]),
        ("hang", Reply::hang, &[502, 504]),
    ];
    let answers: HashMap<&str, fn() -> Reply> = rows
        .iter()
        .map(|(name, reply, _)| (*name, *reply))
        .collect();
    let api = Api::start(move |call| match call.method.as_str() {
        "GET" => answers[call.id()](),
        _ => Reply::ok(),
    });
    // The breaker is not what this is about.
    let breaker = json!({ "threshold": 1000 });
    let timeouts = json!({ "response": "1s" });
    let pool = json!({ "breaker": breaker, "timeouts": timeouts });
    let proxy = bridge(&[&api], json!({ "pools": { "main": pool } }));
    let mut inside = 0;
    for (name, _, statuses) in &rows {
        let answer = knock(&proxy, &format!("/{name}"), "");
        assert!(
            statuses.contains(&answer.status),
            "{name}: {}",
            answer.status
        );
        assert!(!answer.body.contains(ERROR_PAGE), "{name}: {}", answer.body);
        inside += usize::from(answer.status == 101);
    }
    // Who was never in needs no good-bye.
    let gone = api.wait("DELETE", inside);
    std::thread::sleep(A_WHILE);
    assert_eq!(api.count("DELETE"), inside, "{gone:?}");
    finish(proxy, &[&api]);
}

fn chunked(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

#[test]
fn an_api_server_that_fails_is_passed_over_for_the_next() {
    let bad = Api::start(|call| match call.id() {
        "500" => Reply::status(500),
        "503" => Reply::status(503),
        "302" if call.is("GET") => Reply::answer(302, "Location: /elsewhere\r\n", ""),
        // As an answer to a message it would end it.
        "302" => Reply::status(500),
        "reset" => Reply::reset(),
        _ => Reply::cut(),
    });
    let good = Api::echo();
    let proxy = bridge(&[&bad, &good], json!({}));
    for id in ["500", "503", "302", "reset", "cut", "500", "cut"] {
        let mut client = join(&proxy, id);
        say(&mut client, "hello");
        assert_eq!(hear(&mut client), "hello");
        leave(client, 1000, "");
        good.wait("DELETE", 1);
    }
    assert!(bad.count("GET") > 0, "the bad one was never asked");
    assert!(bad.calls().iter().all(|call| call.id() != "elsewhere"));
    // A 4xx is an answer: nobody else is asked.
    let strict = Api::start(|_| Reply::status(401));
    let other = Api::start(|_| Reply::status(401));
    let second = bridge(&[&strict, &other], json!({}));
    assert_eq!(knock(&second, "/c1", "").status, 401);
    assert_eq!(strict.calls().len() + other.calls().len(), 1);
    finish(second, &[&strict, &other]);
    finish(proxy, &[&bad, &good]);
}

#[test]
fn b_d5_the_api_hears_who_comes() {
    // Neither headers nor cookies nor address nor query reached it: all had to be in the id.
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({}));
    let more = "Cookie: sid=42\r\nAuthorization: Bearer t\r\nX-Custom: a, b\r\n\
        Origin: http://chat.test\r\nUser-Agent: e2e\r\nX-Secret: s\r\nConnection: X-Secret\r\n\
        X-Wsteady-Session: forged\r\nX-Wsteady-Close: 4000\r\nX-Forwarded-For: 6.6.6.6\r\n\
        Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n";
    let mut client = Raw::open(proxy.address, "/c1?room=7&x=%2F%20y", more);
    say(&mut client, "hello");
    assert_eq!(hear(&mut client), "hello");
    leave(client, 1000, "");
    api.wait("DELETE", 1);
    let calls = api.calls();
    let [get, post, delete] = &calls[..] else {
        panic!("{calls:?}")
    };
    assert_eq!(get.target, "/c1?room=7&x=%2F%20y");
    for (name, value) in [
        ("cookie", "sid=42"),
        ("authorization", "Bearer t"),
        ("x-custom", "a, b"),
        ("origin", "http://chat.test"),
        ("user-agent", "e2e"),
    ] {
        assert_eq!(get.header(name), value, "{name}");
    }
    // V20, V21: what the connection alone was told, what is of the upgrade, what was forged.
    for name in [
        "x-secret",
        "upgrade",
        "sec-websocket-key",
        "sec-websocket-version",
        "forwarded",
        "x-real-ip",
        "x-wsteady-close",
    ] {
        assert!(get.head.all(name).is_empty(), "{name}: {get:?}");
    }
    for call in [get, post, delete] {
        assert_eq!(
            call.header("host"),
            api.address.to_string(),
            "the API's own name"
        );
        assert_eq!(call.head.all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(
            call.header("x-wsteady-session"),
            get.header("x-wsteady-session")
        );
    }
    assert_eq!(post.target, "/c1", "only the GET has the query");
    assert_eq!(delete.target, "/c1");
    assert_eq!(post.key(), (get.header("x-wsteady-session").to_owned(), 0));
    finish(proxy, &[&api]);
}

#[test]
fn b_d5_the_api_chooses_the_subprotocol() {
    let api = Api::start(|call| match (call.method.as_str(), call.id()) {
        ("GET", "none") => Reply::ok(),
        ("GET", choice) => {
            Reply::answer(200, &format!("Sec-WebSocket-Protocol: {choice}\r\n"), "ok")
        }
        _ => Reply::ok(),
    });
    let proxy = bridge(&[&api], json!({}));
    let offer = "Sec-WebSocket-Protocol: chat.v1, chat.v2\r\n";
    for (id, more, answer) in [
        ("chat.v2", offer, Some("chat.v2")),
        ("chat.v1", offer, Some("chat.v1")),
        ("none", offer, None),
        // A client must fail the connection if it is given what it did not offer (RFC 6455 4.1).
        ("chat.v3", offer, None),
        ("chat.v2", "", None),
    ] {
        let found = knock(&proxy, &format!("/{id}"), more);
        assert_eq!(found.status, 101, "{id}");
        assert_eq!(
            found.head.header("sec-websocket-protocol"),
            answer,
            "{id}, {more:?}"
        );
        let heard = api.calls_by("GET").pop().unwrap();
        assert_eq!(
            heard.header("sec-websocket-protocol").is_empty(),
            more.is_empty()
        );
        // Its id is free when its DELETE is done.
        api.wait("DELETE", api.count("GET"));
    }
    finish(proxy, &[&api]);
}

#[test]
fn deflate_is_never_agreed_upon_with_an_api_behind() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({}));
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let answer = knock(&proxy, "/c1", offer);
    assert_eq!(answer.status, 101);
    assert_eq!(answer.head.header("sec-websocket-extensions"), None);
    assert_eq!(api.calls()[0].header("sec-websocket-extensions"), "");
    finish(proxy, &[&api]);
}

#[test]
fn calls_go_below_the_apis_url() {
    let api = Api::echo();
    let proxy = bridge_to(vec![format!("{}v2/chat/", api.url())], json!({}));
    let mut client = Raw::open(proxy.address, "/c1?x=1", "");
    say(&mut client, "hello");
    assert_eq!(hear(&mut client), "hello");
    leave(client, 1000, "");
    api.wait("DELETE", 1);
    let targets: Vec<String> = api.calls().into_iter().map(|call| call.target).collect();
    assert_eq!(targets, ["/v2/chat/c1?x=1", "/v2/chat/c1", "/v2/chat/c1"]);
    finish(proxy, &[&api]);
}

#[test]
fn b04_a_client_that_left_before_the_ok_gets_one_delete() {
    let api = Api::start(|call| match (call.method.as_str(), call.id()) {
        ("GET", "refused") => Reply::status(403).after(ms(400)),
        ("GET", _) => Reply::ok().after(ms(400)),
        _ => Reply::ok(),
    });
    let proxy = bridge(&[&api], json!({}));
    for (id, reset) in [("fin", false), ("rst", true), ("refused", true)] {
        let mut client = Raw::connect(proxy.address);
        client.send(handshake(&format!("/{id}"), "").as_bytes());
        until_true(WAIT, "its GET", || {
            api.calls_by("GET").iter().any(|call| call.id() == id)
        });
        if reset { client.reset() } else { drop(client) }
    }
    api.wait("DELETE", 2);
    std::thread::sleep(A_WHILE + A_WHILE);
    let mut gone: Vec<_> = api.calls_by("DELETE");
    gone.sort_by(|a, b| a.id().cmp(b.id()));
    let gone: Vec<_> = gone
        .iter()
        .map(|call| (call.id(), call.header("x-wsteady-close")))
        .collect();
    // Who was refused has never been there.
    assert_eq!(gone, [("fin", "1006"), ("rst", "1006")]);
    finish(proxy, &[&api]);
}

#[test]
fn b_d2_an_id_that_could_mean_anything_else_is_refused_and_the_api_hears_nothing() {
    // ws2api decoded ids and pasted them into its URL. V18, V19; B19 of the threat model.
    let long = [b"/".to_vec(), vec![b'x'; 129]].concat();
    let bad: Vec<&[u8]> = vec![
        b"/",
        b"//",
        b"//c1",
        b"/c1/",
        b"/c1/x",
        b"/./c1",
        b"/.",
        b"/..",
        b"/../admin",
        b"/..;/admin",
        b"/%2e",
        b"/%2e%2e",
        b"/%2e%2e/admin",
        b"/%2e%2e%2fadmin",
        b"/a%2fb",
        b"/a%5cb",
        b"/%00",
        b"/%c0%ae%c0%ae/admin",
        b"/c1%3Fadmin=1",
        b"/c1%23",
        b"/c1%20x",
        b"/%63%31",
        b"/a%0d%0aX-Role:%20admin",
        b"/a%0aX-Role:admin",
        b"/c1;/../x",
        b"/c1;x=1",
        b"/c1#x",
        b"/c1#",
        b"/\\c1",
        b"/\\..\\admin",
        b"/c1\\..\\x",
        b"/a,b",
        b"/a!",
        b"/a$b",
        b"/a&b",
        b"/a'b",
        b"/a\"b",
        b"/(a)",
        b"/a|b",
        b"/<a>",
        b"/{a}",
        b"/[a]",
        b"/a^b",
        b"/a`b",
        "/\u{e4}".as_bytes(),
        b"/\xff\xfe",
        b"/a\rb",
        b"/a\0b",
        b"/a\x1b[2J",
        b"/a\tb",
        b"/a\x7fb",
        b"c1",
        b"*",
        b"/c1/../c1",
        b"/c1/?x",
        b"/?c1",
        &long,
    ];
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({}));
    let good = handshake("TARGET", "");
    let post = String::from_utf8(plain("POST TARGET", "", b"x")).unwrap();
    let delete = String::from_utf8(plain("DELETE TARGET", "", b"")).unwrap();
    for target in bad {
        for request in [&good, &post, &delete] {
            let (before, after) = request.split_once("TARGET").unwrap();
            let mut raw = Raw::connect(proxy.address);
            raw.send(&[before.as_bytes(), target, after.as_bytes()].concat());
            let status = raw.head(WAIT).status();
            assert_eq!(status, 400, "{before}{}", target.escape_ascii());
        }
    }
    assert_eq!(api.calls().len(), 0, "{:?}", api.calls());
    finish(proxy, &[&api]);
}

#[test]
fn an_id_is_taken_as_it_stands() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({}));
    let long = "x".repeat(128);
    let good = [
        "a",
        "0",
        "-",
        "_",
        "~",
        "...",
        "a.b",
        "user:7@host=x+*",
        "..a",
        "*",
        "metrics",
        &long,
    ];
    for id in good {
        let mut client = join(&proxy, id);
        say(&mut client, id);
        assert_eq!(hear(&mut client), id);
        assert_eq!(push(&proxy, id, "pushed"), 200, "{id}");
        assert_eq!(hear(&mut client), "pushed");
        leave(client, 1000, "");
        until_true(WAIT, "its calls", || {
            let calls = api.calls();
            ["GET", "POST", "DELETE"].iter().all(|method| {
                calls
                    .iter()
                    .any(|call| call.is(method) && call.target == format!("/{id}"))
            })
        });
    }
    // Ids are compared byte by byte.
    let upper = join(&proxy, "Case");
    let lower = join(&proxy, "case");
    drop((upper, lower));
    finish(proxy, &[&api]);
}

#[test]
fn b03_what_is_no_upgrade_never_reaches_the_api() {
    // ws2api asked the API first, and then saw that nobody wanted to upgrade.
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({}));
    for (request, headers, status, must_have) in [
        ("GET /c1", "", 426, "upgrade"),
        ("GET /c1?x=1", "Accept: text/html\r\n", 426, "upgrade"),
        ("PUT /c1", "", 405, "allow"),
        ("PATCH /c1", "", 405, "allow"),
        ("OPTIONS /c1", "", 405, "allow"),
        ("TRACE /c1", "", 405, "allow"),
        ("PROPFIND /c1", "", 405, "allow"),
    ] {
        let answer = tell(proxy.address, request, headers, b"");
        assert_eq!(answer.status, status, "{request}, {headers:?}");
        // RFC 9110 15.5.22 and 15.5.6 want them.
        assert!(
            answer.head.header(must_have).is_some(),
            "{request}: {:?}",
            answer.head
        );
    }
    assert_eq!(api.calls().len(), 0);
    finish(proxy, &[&api]);
}

// ---- Messages ----

#[test]
fn an_answer_is_one_message_and_an_empty_one_is_none() {
    let api = Api::welcome(|call| match call.text().as_str() {
        "nothing" => Reply::empty(),
        "204" => Reply::bytes("HTTP/1.1 204 N\r\n\r\n"),
        "created" => Reply::answer(201, "", "201"),
        "json" => Reply::answer(200, "Content-Type: application/json\r\n", r#"{"a":1}"#),
        "as binary" => Reply::answer(
            200,
            "Content-Type: Application/Octet-Stream; x=y\r\n",
            [0xFF, 0],
        ),
        "as text" => Reply::text("\u{fc}"),
        _ => echo(call),
    });
    let proxy = bridge(&[&api], json!({}));
    let mut client = join(&proxy, "c1");
    let long = vec![b'l'; 300_000];
    type Row<'a> = (u8, &'a [u8], Option<(u8, &'a [u8])>);
    let rows: [Row<'_>; 11] = [
        (TEXT, b"hello", Some((TEXT, b"hello"))),
        (BINARY, b"\xff\0\r\n", Some((BINARY, b"\xff\0\r\n"))),
        (TEXT, b"nothing", None),
        (BINARY, b"nothing", None),
        (TEXT, b"204", None),
        (TEXT, b"", None),
        (TEXT, b"created", Some((TEXT, b"201"))),
        (TEXT, b"json", Some((TEXT, br#"{"a":1}"#))),
        // The answer's type decides, not the question's.
        (TEXT, b"as binary", Some((BINARY, b"\xff\0"))),
        (BINARY, b"as text", Some((TEXT, "\u{fc}".as_bytes()))),
        (BINARY, &long, Some((BINARY, &long))),
    ];
    for (opcode, message, answer) in rows {
        client.send_frame(&Frame::masked(opcode, message));
        if let Some((opcode, payload)) = answer {
            assert_eq!(client.frame(WAIT), Frame::new(opcode, payload));
        }
        // If nothing was due, this is the next thing that comes.
        say(&mut client, "and then");
        assert_eq!(hear(&mut client), "and then");
    }
    for (call, (opcode, message, _)) in api.calls_by("POST").iter().step_by(2).zip(rows) {
        let kind = match opcode {
            TEXT => "text/plain; charset=utf-8",
            _ => "application/octet-stream",
        };
        assert_eq!(call.header("content-type"), kind);
        assert_eq!(call.body, message);
    }
    drop(client);
    finish(proxy, &[&api]);
}

#[test]
fn b_d9_binary_messages_are_calls_like_any_other() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({}));
    let mut client = join(&proxy, "c1");
    let every_byte: Vec<u8> = (0..=255).collect();
    client.send_frame(&Frame::masked(BINARY, &every_byte));
    assert_eq!(client.frame(WAIT), Frame::new(BINARY, &every_byte));
    drop(client);
    finish(proxy, &[&api]);
}

#[test]
fn a_message_in_pieces_is_one_call() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({}));
    let mut client = join(&proxy, "c1");
    client.send_frame(&Frame::masked(TEXT, b"one ").unfinished());
    client.send_frame(&Frame::masked(CONTINUE, b"two ").unfinished());
    client.send_frame(&Frame::masked(PING, b"between"));
    // Cut inside a character.
    client.send_frame(&Frame::masked(CONTINUE, b"\xc3").unfinished());
    client.send_frame(&Frame::masked(CONTINUE, b"\xbc"));
    assert_eq!(hear(&mut client), "one two \u{fc}");
    assert_eq!(api.count("POST"), 1);
    drop(client);
    finish(proxy, &[&api]);
}

#[test]
fn b_d4_a_pong_has_its_pings_payload() {
    // Also while a call is under way.
    let api = Api::welcome(|call| echo(call).after(ms(500)));
    let proxy = bridge(&[&api], json!({}));
    let mut client = join(&proxy, "c1");
    say(&mut client, "slow");
    for payload in [&b"1"[..], b"", b"are you there", &[7; 125]] {
        client.send_frame(&Frame::masked(PING, payload));
        assert_eq!(client.next(WAIT), Next::Frame(Frame::new(PONG, payload)));
    }
    assert_eq!(hear(&mut client), "slow");
    drop(client);
    finish(proxy, &[&api]);
}

#[test]
fn what_no_client_may_send_is_no_call() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({}));
    for (id, frame, code) in [
        ("utf8", Frame::masked(TEXT, b"\xff\xfe"), 1007),
        ("long", Frame::masked(BINARY, &vec![1; (1 << 20) + 1]), 1009),
        ("naked", Frame::new(TEXT, b"no mask"), 1002),
    ] {
        let mut client = join(&proxy, id);
        client.send_frame(&frame);
        assert_eq!(client.close_code(WAIT), code, "{id}");
    }
    api.wait("DELETE", 3);
    assert_eq!(api.count("POST"), 0);
    finish(proxy, &[&api]);
}

#[test]
fn failed_calls_are_counted_not_repeated_and_say_nothing_to_the_client() {
    // 3xx, 4xx, too long, no UTF-8 (V45, B21). A body that never ends is cut off at the limit.
    const MAX: usize = 1 << 20;
    let endless = || "Z".repeat(MAX + 1);
    let api = Api::welcome(move |call| match call.text().as_str() {
        "301" => Reply::answer(301, "Location: /moved\r\n", "moved"),
        "307" => Reply::answer(307, "Location: /moved\r\n", "moved"),
        "length" => Reply::text(endless()),
        "declared" => Reply::bytes("HTTP/1.1 200 S\r\nContent-Length: 1073741824\r\n\r\nZ"),
        "chunks" => Reply::bytes(chunked(&format!("{:x}\r\n{}\r\n", MAX + 1, endless()))),
        "to the end" => Reply::bytes(format!("HTTP/1.1 200 S\r\n\r\n{}", endless())).closing(),
        "no UTF-8" => Reply::text(b"\xff\xfe"),
        "cut character" => Reply::text(b"a\xc3"),
        "just fits" => Reply::text("Z".repeat(MAX)),
        text => match text.parse() {
            Ok(status) => Reply::status(status),
            Err(_) => echo(call),
        },
    });
    let proxy = bridge(&[&api], json!({}));
    let mut client = join(&proxy, "c1");
    let bad = [
        "301",
        "307",
        "400",
        "401",
        "403",
        "404",
        "409",
        "422",
        "429",
        "length",
        "declared",
        "chunks",
        "to the end",
        "no UTF-8",
        "cut character",
    ];
    for row in bad {
        say(&mut client, row);
        let next = format!("after {row}");
        say(&mut client, &next);
        assert_eq!(hear(&mut client), next);
    }
    say(&mut client, "just fits");
    assert_eq!(hear(&mut client).len(), MAX);
    let posts = api.calls_by("POST");
    for row in bad {
        let asked = posts.iter().filter(|call| call.text() == row).count();
        assert_eq!(asked, 1, "{row}");
    }
    assert!(
        posts.iter().all(|call| call.id() == "c1"),
        "redirects are not followed"
    );
    let failed = proxy.count("wsteady_requests_failed_total", &[("pool", "main")]);
    assert!(failed >= bad.len() as u64, "{failed}");
    drop(client);
    finish(proxy, &[&api]);
}

#[test]
fn answers_in_every_framing_are_understood() {
    let rows: [(&str, &str, bool, Option<&str>); 9] = [
        (
            "chunks",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            false,
            Some("abcde"),
        ),
        (
            "extensions and trailers",
            "Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
            false,
            Some("abc"),
        ),
        (
            "no chunk",
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            false,
            None,
        ),
        ("to the end", "\r\nabc", true, Some("abc")),
        ("nothing to the end", "\r\n", true, None),
        (
            "close",
            "Connection: close\r\nContent-Length: 3\r\n\r\nabc",
            true,
            Some("abc"),
        ),
        ("case", "CONTENT-LENGTH:3\r\n\r\nabc", false, Some("abc")),
        (
            "says close and stays",
            "Connection: close\r\nContent-Length: 3\r\n\r\nabc",
            false,
            Some("abc"),
        ),
        ("zero", "Content-Length: 0\r\n\r\n", false, None),
    ];
    let starts = [
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\nHTTP/1.1 200 \r\n",
    ];
    let api = Api::welcome(move |call| {
        let text = call.text();
        let Some((start, name)) = text.split_once(' ') else {
            return echo(call);
        };
        let (_, rest, closing, _) = rows.iter().find(|row| row.0 == name).unwrap();
        let start = starts[start.parse::<usize>().unwrap()];
        let reply = Reply::bytes(format!("{start}{rest}"));
        if *closing { reply.closing() } else { reply }
    });
    let proxy = bridge(&[&api], json!({}));
    let mut client = join(&proxy, "c1");
    for start in 0..starts.len() {
        for (name, _, _, answer) in &rows {
            say(&mut client, &format!("{start} {name}"));
            say(&mut client, "next");
            if let Some(answer) = answer {
                assert_eq!(&hear(&mut client), answer, "{start} {name}");
            }
            assert_eq!(hear(&mut client), "next", "{start} {name}");
        }
    }
    // One call for each: nothing was taken for a failure and repeated.
    assert_eq!(api.count("POST"), starts.len() * rows.len() * 2);
    drop(client);
    finish(proxy, &[&api]);
}

#[test]
fn v16_bytes_behind_an_answer_are_nobodys_answer() {
    let api = Api::welcome(|call| match call.text().as_str() {
        "poison" => Reply::bytes(
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother",
        ),
        _ => echo(call),
    });
    let proxy = bridge(&[&api], json!({}));
    let (mut bad, mut good) = (join(&proxy, "bad"), join(&proxy, "good"));
    for round in 0..5 {
        say(&mut bad, "poison");
        assert_eq!(hear(&mut bad), "a");
        say(&mut good, &format!("good {round}"));
        say(&mut bad, &format!("bad {round}"));
        assert_eq!(hear(&mut good), format!("good {round}"));
        assert_eq!(hear(&mut bad), format!("bad {round}"));
    }
    drop((bad, good));
    finish(proxy, &[&api]);
}

/// The first call of each message goes wrong in the way that its text says.
fn failing_once() -> impl Fn(&Call) -> Reply {
    let seen = Mutex::new(HashSet::new());
    move |call| {
        if !seen.lock().unwrap().insert(call.key()) {
            return echo(call);
        }
        let long = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun";
        match call.text().as_str() {
            "cut" => Reply::cut(),
            "reset" => Reply::reset(),
            "half a head" => Reply::bytes("HTTP/1.1 200 OK\r\nConte").closing(),
            "half a body" => Reply::bytes(long).closing(),
            "half a chunk" => Reply::bytes(chunked("5\r\nbe")).closing(),
            "no HTTP" => Reply::bytes("SSH-2.0-OpenSSH_9.9\r\n").closing(),
            "hang" => Reply::hang(),
            "hang in the body" => Reply::bytes(long),
            "trickle" => Reply::trickle(long, ms(50)),
            text => match text.parse() {
                Ok(status) => Reply::status(status),
                Err(_) => echo(call),
            },
        }
    }
}

#[test]
fn a_message_without_an_answer_is_sent_again_under_its_key_and_nothing_overtakes_it() {
    let api = Api::welcome(failing_once());
    let timeouts = json!({ "response": "700ms" });
    let proxy = bridge(
        &[&api],
        json!({ "pools": { "main": { "timeouts": timeouts } }, "session": { "hold": "10s" } }),
    );
    let mut client = join(&proxy, "c1");
    let bad = [
        "500",
        "502",
        "503",
        "504",
        "599",
        "cut",
        "reset",
        "half a head",
        "half a body",
        "half a chunk",
        "no HTTP",
        "hang",
        "hang in the body",
        "trickle",
    ];
    // All at once, so that each one has others behind it while it fails.
    for row in bad {
        say(&mut client, row);
        say(&mut client, &format!("after {row}"));
    }
    for row in bad {
        assert_eq!(hear(&mut client), row);
        assert_eq!(hear(&mut client), format!("after {row}"));
    }
    let mut tries: HashMap<u64, usize> = HashMap::new();
    for call in api.calls_by("POST") {
        *tries.entry(call.key().1).or_default() += 1;
    }
    for (at, row) in bad.iter().enumerate() {
        let at = at as u64 * 2;
        assert_eq!((tries[&at], tries[&(at + 1)]), (2, 1), "{row}");
    }
    drop(client);
    finish(proxy, &[&api]);
}

#[test]
fn a_message_that_one_server_refuses_goes_to_the_next() {
    let sick = Arc::new(Mutex::new(false));
    let ill = Arc::clone(&sick);
    let one = Api::welcome(move |call| {
        if *ill.lock().unwrap() {
            Reply::status(503)
        } else {
            echo(call)
        }
    });
    let two = Api::echo();
    let proxy = bridge(&[&one, &two], json!({}));
    let mut clients: Vec<Raw> = (0..4).map(|id| join(&proxy, &format!("c{id}"))).collect();
    *sick.lock().unwrap() = true;
    for round in 0..5 {
        for client in &mut clients {
            say(client, &format!("round {round}"));
            assert_eq!(hear(client), format!("round {round}"));
        }
    }
    drop(clients);
    finish(proxy, &[&one, &two]);
}

#[test]
fn a_thousand_messages_through_a_slow_and_moody_api_keep_their_order() {
    // B-F5: ws2api had 49 inversions in 100.
    let rng = Mutex::new(Rng::from_environment());
    let api = Api::welcome(move |call| {
        let delay = rng.lock().unwrap().below(4);
        echo(call).after(ms(delay))
    });
    let proxy = bridge(&[&api], json!({}));
    let mut clients = [join(&proxy, "c1"), join(&proxy, "c2")];
    for number in 0..1000 {
        clients
            .iter_mut()
            .for_each(|client| say(client, &format!("{number}")));
    }
    for number in 0..1000 {
        for client in &mut clients {
            assert_eq!(hear(client), format!("{number}"));
        }
    }
    assert_eq!(api.count("POST"), 2000, "no repeats without a failure");
    drop(clients);
    finish(proxy, &[&api]);
}

#[test]
fn an_api_that_dies_and_comes_back_has_every_message_once() {
    // It keeps, with its state, the last key of each client and what it answered: a repeat gets
    // the same answer and changes nothing. That is all an API needs for exactly once.
    #[derive(Default)]
    struct State {
        last: HashMap<String, (String, String)>,
        done: Vec<String>,
    }
    let state = Arc::new(Mutex::new(State::default()));
    let shop = Arc::clone(&state);
    let mut api = Api::welcome(move |call| {
        let key = call.header("idempotency-key").to_owned();
        let mut shop = shop.lock().unwrap();
        let known = shop.last.get(call.id()).filter(|(last, _)| *last == key);
        let answer = match known {
            Some((_, answer)) => answer.clone(),
            None => {
                shop.done.push(call.text());
                let answer = format!("done {}", call.text());
                shop.last
                    .insert(call.id().to_owned(), (key, answer.clone()));
                answer
            }
        };
        Reply::text(answer).after(ms(3))
    });
    let proxy = bridge(&[&api], json!({ "session": { "hold": "20s" } }));
    let mut client = join(&proxy, "c1");
    for number in 0..600 {
        match number {
            100 | 300 | 500 => api.kill(),
            200 | 400 => api.revive(),
            _ => {}
        }
        say(&mut client, &format!("{number}"));
        std::thread::sleep(ms(5));
    }
    std::thread::sleep(Duration::from_secs(2));
    api.revive();
    let expected: Vec<String> = (0..600).map(|number| format!("{number}")).collect();
    for number in &expected {
        let frame = client.frame(Duration::from_secs(20));
        assert_eq!(
            String::from_utf8_lossy(&frame.payload),
            format!("done {number}")
        );
    }
    assert_eq!(state.lock().unwrap().done, expected);
    let repeats = api.count("POST") - expected.len();
    assert!(repeats <= 3, "{repeats} repeats for three deaths");
    drop(client);
    finish(proxy, &[&api]);
}

#[test]
fn b07_when_the_hold_is_over_the_client_is_closed_and_all_that_is_left_is_counted() {
    let api = Api::welcome(|_| Reply::status(500));
    let proxy = bridge(&[&api], json!({ "session": { "hold": "1s" } }));
    let mut client = join(&proxy, "c1");
    let started = Instant::now();
    for text in ["one", "two", "three"] {
        say(&mut client, text);
    }
    let frame = client.frame(WAIT);
    assert_eq!(
        frame.opcode, CLOSE,
        "an error page is no message: {frame:?}"
    );
    assert_eq!(frame.close_code().0, 1013);
    assert!(started.elapsed() >= ms(900), "{:?}", started.elapsed());
    let gone = api.wait("DELETE", 1);
    assert_eq!(gone[0].header("x-wsteady-close"), "1013");
    let posts = api.calls_by("POST");
    assert!(posts.len() >= 2, "it was tried again");
    assert!(
        posts.iter().all(|call| call.text() == "one"),
        "a later one overtook: {posts:?}"
    );
    assert_eq!(proxy.count("wsteady_messages_unconfirmed_total", &[]), 3);
    drop(client);
    finish(proxy, &[&api]);
}

#[test]
fn at_written_nothing_is_sent_twice() {
    let api = Api::welcome(|call| match call.text().as_str() {
        "503" => Reply::status(503),
        "cut" => Reply::cut(),
        _ => echo(call),
    });
    let proxy = bridge(&[&api], json!({ "session": { "confirm": "written" } }));
    let mut client = join(&proxy, "c1");
    for bad in ["503", "cut"] {
        say(&mut client, bad);
        say(&mut client, "next");
        assert_eq!(hear(&mut client), "next");
        let asked = api.calls_by("POST");
        assert_eq!(
            asked.iter().filter(|call| call.text() == bad).count(),
            1,
            "{bad}"
        );
    }
    drop(client);
    finish(proxy, &[&api]);
}

// ---- Leaving ----

#[test]
fn b16_the_api_hears_once_how_a_client_left() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({}));
    let close = |code, reason: &'static str| move |client: Raw| leave(client, code, reason);
    let empty = |mut client: Raw| {
        client.send_frame(&Frame::masked(CLOSE, b""));
        assert_eq!(client.close_code(WAIT), 1005);
    };
    let half = |mut client: Raw| {
        let whole = Frame::masked(TEXT, b"never finished").bytes();
        client.send(&whole[..10]);
    };
    type Leave = Box<dyn Fn(Raw)>;
    let rows: Vec<(&str, Leave, &str, &str)> = vec![
        ("own", Box::new(close(4000, "bye")), "4000", "bye"),
        (
            "utf8",
            Box::new(close(3999, "tsch\u{fc}\u{df}")),
            "3999",
            "tsch\u{fc}\u{df}",
        ),
        ("normal", Box::new(close(1000, "")), "1000", ""),
        (
            "away",
            Box::new(close(1001, "tab closed")),
            "1001",
            "tab closed",
        ),
        ("empty", Box::new(empty), "1005", ""),
        ("fin", Box::new(drop), "1006", ""),
        ("rst", Box::new(Raw::reset), "1006", ""),
        ("half", Box::new(half), "1006", ""),
    ];
    for (id, go, code, reason) in &rows {
        go(join(&proxy, id));
        let gone = until(WAIT, "its DELETE", || {
            api.calls_by("DELETE")
                .into_iter()
                .find(|call| call.id() == *id)
        });
        assert_eq!(gone.header("x-wsteady-close"), *code, "{id}");
        assert_eq!(gone.text(), *reason, "{id}");
    }
    std::thread::sleep(A_WHILE);
    assert_eq!(api.count("DELETE"), rows.len(), "exactly one each");
    finish(proxy, &[&api]);
}

#[test]
fn b16_delete_comes_after_the_last_message_is_through() {
    // The client is gone while its messages are still waiting, and the API is not at its best.
    let fail = failing_once();
    let api = Api::welcome(move |call| fail(call).after(ms(100)));
    let proxy = bridge(&[&api], json!({}));
    let ends: [fn(Raw); 2] = [|client| leave(client, 1000, ""), drop];
    for (at, end) in ends.into_iter().enumerate() {
        let mut client = join(&proxy, &format!("c{at}"));
        for text in ["one", "503", "cut", "four"] {
            say(&mut client, text);
        }
        // A FIN with unread answers becomes an RST, which may throw away what was not read yet.
        api.wait("POST", at * 6 + 1);
        end(client);
        api.wait("DELETE", at + 1);
        let calls = api.calls();
        let session = calls.last().unwrap().header("x-wsteady-session").to_owned();
        let of: Vec<&Call> = calls
            .iter()
            .filter(|call| call.header("x-wsteady-session") == session)
            .collect();
        let texts: Vec<String> = of[1..].iter().map(|call| call.text()).collect();
        assert_eq!(texts, ["one", "503", "503", "cut", "cut", "four", ""]);
    }
    assert_eq!(proxy.count("wsteady_messages_unconfirmed_total", &[]), 0);
    finish(proxy, &[&api]);
}

#[test]
fn b17_a_delete_that_fails_is_tried_again_until_one_succeeds() {
    let tries = Mutex::new(0);
    let mut api = Api::start(move |call| {
        if !call.is("DELETE") {
            return Reply::ok();
        }
        let mut tries = tries.lock().unwrap();
        *tries += 1;
        match *tries {
            1 => Reply::status(503),
            2 => Reply::cut(),
            3 => Reply::text("no"),
            4 => Reply::empty(),
            _ => Reply::ok(),
        }
    });
    let proxy = bridge(&[&api], json!({ "session": { "hold": "10s" } }));
    leave(join(&proxy, "c1"), 4000, "bye");
    let gone = api.wait("DELETE", 5);
    assert!(
        gone.iter()
            .all(|call| call.text() == "bye" && call.header("x-wsteady-close") == "4000")
    );
    std::thread::sleep(A_WHILE);
    assert_eq!(api.count("DELETE"), 5, "one succeeded");
    // The same if nobody is there at all for a while.
    let client = join(&proxy, "c2");
    api.kill();
    leave(client, 1000, "");
    std::thread::sleep(Duration::from_secs(1));
    api.revive();
    api.wait("DELETE", 6);
    finish(proxy, &[&api]);
}

#[test]
fn b17_a_delete_is_given_up_when_the_hold_is_over() {
    let mut api = Api::echo();
    let proxy = bridge(&[&api], json!({ "session": { "hold": "1s" } }));
    let client = join(&proxy, "c1");
    api.kill();
    leave(client, 1000, "");
    // It is counted, and its session is forgotten.
    until_true(WAIT, "the session to end", || {
        proxy.count("wsteady_sessions_active", &[]) == 0
    });
    assert!(proxy.count("wsteady_requests_failed_total", &[]) > 0);
    api.revive();
    // And its id is free.
    drop(join(&proxy, "c1"));
    api.wait("DELETE", 1);
    finish(proxy, &[&api]);
}

#[test]
fn b_d7_every_client_gets_its_delete_when_wsteady_stops() {
    let api = Api::welcome(|call| echo(call).after(ms(200)));
    let mut proxy = bridge(&[&api], json!({ "loops": 2 }));
    let mut clients: Vec<Raw> = (0..10).map(|id| join(&proxy, &format!("c{id}"))).collect();
    // One of them has something under way.
    say(&mut clients[0], "last words");
    api.wait("POST", 1);
    proxy.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.close_code(WAIT), 1001);
        client.send_frame(&Frame::masked(CLOSE, &1001u16.to_be_bytes()));
    }
    assert_eq!(proxy.wait_exit(WAIT).code(), Some(0), "{}", proxy.log());
    let gone = api.calls_by("DELETE");
    let ids: HashSet<&str> = gone.iter().map(Call::id).collect();
    assert_eq!((gone.len(), ids.len()), (10, 10));
    assert!(
        gone.iter()
            .all(|call| call.header("x-wsteady-close") == "1001")
    );
    check_calls(&[&api]);
}

#[test]
fn b_d7_a_client_that_is_silently_gone_is_found_out() {
    let api = Api::echo();
    let timeouts = json!({ "ping": "400ms", "pong": "400ms" });
    let proxy = bridge(
        &[&api],
        json!({ "pools": { "main": { "timeouts": timeouts } } }),
    );
    // Its kernel takes all that comes; nobody answers.
    let gone = join(&proxy, "gone");
    let mut here = join(&proxy, "here");
    let delete = until(WAIT, "a DELETE", || {
        here.silent(ms(1));
        while let Some((frame, length)) = Frame::parse(&here.pending) {
            here.pending.drain(..length);
            assert_eq!(frame.opcode, PING);
            here.send_frame(&Frame::masked(PONG, &frame.payload));
        }
        api.calls_by("DELETE").pop()
    });
    assert_eq!(
        (delete.id(), delete.header("x-wsteady-close")),
        ("gone", "1006")
    );
    say(&mut here, "still here");
    assert_eq!(hear(&mut here), "still here");
    drop((gone, here));
    finish(proxy, &[&api]);
}

#[test]
fn b_d7_a_storm_of_deletes_keeps_to_the_connections_of_the_pool() {
    let api = Api::start(|_| Reply::ok().after(ms(5)));
    let connections = json!({ "min": 0, "max": 4, "idle": "300ms" });
    let proxy = bridge(
        &[&api],
        json!({ "pools": { "main": { "connections": connections } } }),
    );
    let clients: Vec<Raw> = (0..200).map(|id| join(&proxy, &format!("c{id}"))).collect();
    clients.into_iter().for_each(Raw::reset);
    let gone = api.wait("DELETE", 200);
    let ids: HashSet<&str> = gone.iter().map(Call::id).collect();
    assert_eq!((gone.len(), ids.len()), (200, 200));
    // One may be closing, seen late by the API, while its place is taken.
    assert!(api.open_most() <= 5, "{} connections", api.open_most());
    finish(proxy, &[&api]);
}

#[test]
fn a_client_that_comes_back_waits_for_the_end_of_its_last_session() {
    let first = Mutex::new(true);
    let api = Api::start(move |call| {
        let slow = call.is("DELETE") && std::mem::replace(&mut *first.lock().unwrap(), false);
        Reply::ok().after(if slow { ms(800) } else { ms(0) })
    });
    let proxy = bridge(&[&api], json!({}));
    leave(join(&proxy, "c1"), 1000, "");
    api.wait("DELETE", 1);
    // Upgraded once the DELETE is done: the laws at the end look at the times.
    let again = join(&proxy, "c1");
    let methods: Vec<String> = api.calls().into_iter().map(|call| call.method).collect();
    assert_eq!(methods, ["GET", "DELETE", "GET"]);
    drop(again);
    finish(proxy, &[&api]);
}

#[test]
fn a_client_that_comes_back_waits_no_longer_than_admit() {
    let first = Mutex::new(true);
    let api = Api::start(move |call| {
        let stuck = call.is("DELETE") && std::mem::replace(&mut *first.lock().unwrap(), false);
        if stuck { Reply::hang() } else { Reply::ok() }
    });
    let proxy = bridge(&[&api], json!({ "session": { "admit": "500ms" } }));
    leave(join(&proxy, "c1"), 1000, "");
    api.wait("DELETE", 1);
    let answer = knock(&proxy, "/c1", "");
    assert_eq!(answer.status, 503);
    assert!(
        answer.head.header("retry-after").is_some(),
        "{:?}",
        answer.head
    );
    assert_eq!(api.count("GET"), 1, "the API was not asked");
    // The DELETE is tried again when its time is up (2 s), then the id is free.
    api.wait("DELETE", 2);
    until_true(WAIT, "the id to be free", || {
        knock(&proxy, "/c1", "").status == 101
    });
    api.wait("DELETE", 3);
    finish(proxy, &[&api]);
}

// ---- Two clients, one id ----

#[test]
fn b_d1_b18_a_second_client_with_an_id_is_sent_away_and_the_first_stays_reachable() {
    // ws2api let the second take over; when either left, nobody could be reached any more (V24).
    let api = Api::start(|call| match (call.method.as_str(), call.id()) {
        ("GET", "slow") => Reply::ok().after(ms(500)),
        ("POST", _) => echo(call),
        _ => Reply::ok(),
    });
    let proxy = bridge(&[&api], json!({ "loops": 4 }));
    let mut first = join(&proxy, "c1");
    // From all loops: connections are spread over them.
    for _ in 0..8 {
        let mut second = join(&proxy, "c1");
        let frame = second.frame(WAIT);
        assert_eq!(frame.opcode, CLOSE, "{frame:?}");
        assert_eq!(frame.close_code().0, 1008);
        second.send_frame(&Frame::masked(CLOSE, &1008u16.to_be_bytes()));
        second.end(WAIT);
        assert_eq!(push(&proxy, "c1", "to the first"), 200);
        assert_eq!(hear(&mut first), "to the first");
        say(&mut first, "from the first");
        assert_eq!(hear(&mut first), "from the first");
    }
    assert_eq!(
        (api.count("GET"), api.count("DELETE")),
        (1, 0),
        "the API was not bothered"
    );
    // An id is taken from the moment that the API is asked.
    let mut early = Raw::connect(proxy.address);
    early.send(handshake("/slow", "").as_bytes());
    api.wait("GET", 2);
    assert_eq!(join(&proxy, "slow").close_code(WAIT), 1008);
    assert_eq!(early.head(WAIT).status(), 101);
    // Free again once it has left.
    leave(first, 1000, "");
    api.wait("DELETE", 1);
    assert_eq!(push(&proxy, "c1", "nobody"), 404);
    drop((join(&proxy, "c1"), early));
    finish(proxy, &[&api]);
}

#[test]
fn b_d1_b18_with_replace_the_new_client_takes_the_id_after_the_old_ones_delete() {
    let api = Api::start(|call| match call.method.as_str() {
        "POST" => echo(call).after(ms(50)),
        "DELETE" => Reply::ok().after(ms(50)),
        _ => Reply::ok(),
    });
    let proxy = bridge(
        &[&api],
        json!({ "loops": 4, "session": { "on_duplicate": "replace" } }),
    );
    let mut old = join(&proxy, "c1");
    for round in 0..8 {
        say(&mut old, &format!("last of {round}"));
        api.wait("POST", round * 2 + 1);
        let mut new = join(&proxy, "c1");
        // Whether the answer to its last message still reaches the old one is left open.
        let close = until(WAIT, "the Close", || {
            Some(old.frame(WAIT)).filter(|frame| frame.opcode == CLOSE)
        });
        assert_eq!(close.close_code(), (4409, "replaced".to_owned()));
        old.send_frame(&Frame::close(4409, "").with_key([1; 4]));
        old.end(WAIT);
        // The end of the old one takes nothing from the new one.
        assert_eq!(push(&proxy, "c1", "to the new"), 200);
        assert_eq!(hear(&mut new), "to the new");
        say(&mut new, "from the new");
        assert_eq!(hear(&mut new), "from the new");
        old = new;
    }
    let calls = api.calls();
    let (mut sessions, mut story) = (Vec::new(), String::new());
    for call in &calls {
        sessions.push(call.header("x-wsteady-session"));
        story += &call.method[..1];
        if call.is("DELETE") {
            assert_eq!(
                (call.header("x-wsteady-close"), call.text().as_str()),
                ("4409", "replaced")
            );
        }
    }
    sessions.dedup();
    assert_eq!(sessions.len(), 9, "each client is a session");
    assert_eq!(story, format!("G{}", "PDGP".repeat(8)));
    drop(old);
    finish(proxy, &[&api]);
}

// ---- The API speaks first ----

#[test]
fn with_replace_the_newest_of_those_who_wait_is_let_in() {
    let api = Api::start(|call| match call.method.as_str() {
        "POST" => echo(call),
        "DELETE" => Reply::ok().after(ms(500)),
        _ => Reply::ok(),
    });
    let proxy = bridge(
        &[&api],
        json!({ "loops": 4, "session": { "on_duplicate": "replace" } }),
    );
    let mut old = join(&proxy, "c1");
    let mut waiting: Vec<Raw> = Vec::new();
    for _ in 0..4 {
        let mut next = Raw::connect(proxy.address);
        next.send(handshake("/c1", "").as_bytes());
        // In this order, whatever loop each is on.
        next.silent(ms(50));
        waiting.push(next);
    }
    assert_eq!(old.close_code(WAIT), 4409);
    old.send_frame(&Frame::close(4409, "").with_key([1; 4]));
    let mut newest = waiting.pop().expect("four");
    for mut displaced in waiting {
        assert_eq!(displaced.head(WAIT).status(), 101);
        assert_eq!(displaced.close_code(WAIT), 4409);
    }
    assert_eq!(newest.head(WAIT).status(), 101);
    say(&mut newest, "hello");
    assert_eq!(hear(&mut newest), "hello");
    let gets = api.calls_by("GET");
    assert_eq!(gets.len(), 2, "who was displaced was never asked for");
    drop(newest);
    finish(proxy, &[&api]);
}

#[test]
fn b10_b_d9_pushes_arrive_or_say_why_not() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({}));
    let mut client = join(&proxy, "c1");
    let (fits, long) = (vec![b'x'; 1 << 20], vec![b'x'; (1 << 20) + 1]);
    let text = "Content-Type: text/plain; charset=utf-8\r\n";
    let json = "Content-Type: application/json\r\n";
    let octets = "Content-Type: Application/Octet-Stream; x=y\r\n";
    let bad = b"a\xff";
    // Target, headers, body, status, what comes to c1.
    type Row<'a> = (&'a str, &'a str, &'a [u8], u16, Option<u8>);
    let rows: Vec<Row<'_>> = vec![
        ("/c1", text, b"hello", 200, Some(TEXT)),
        ("/c1", "", b"hello", 200, Some(TEXT)),
        ("/c1", json, br#"{"a":1}"#, 200, Some(TEXT)),
        ("/c1", text, "\u{fc}".as_bytes(), 200, Some(TEXT)),
        ("/c1?x=1", text, b"a query is nothing", 200, Some(TEXT)),
        ("/c1", OCTETS, b"\xff\0\xfe", 200, Some(BINARY)),
        ("/c1", octets, b"\xff", 200, Some(BINARY)),
        ("/c1", text, &fits, 200, Some(TEXT)),
        ("/c1", OCTETS, &fits, 200, Some(BINARY)),
        ("/c1", text, bad, 400, None),
        ("/c1", "", bad, 400, None),
        ("/c1", json, bad, 400, None),
        ("/c1", text, &long, 413, None),
        ("/c1", OCTETS, &long, 413, None),
        ("/c2", text, b"hello", 404, None),
        ("/C1", text, b"hello", 404, None),
        ("/c11", text, b"hello", 404, None),
    ];
    for (target, headers, body, status, arrives) in rows {
        let row = format!("{target}, {headers:?}, {} bytes", body.len());
        let answer = tell(proxy.address, &format!("POST {target}"), headers, body);
        assert_eq!(answer.status, status, "{row}");
        if let Some(opcode) = arrives {
            assert_eq!(answer.body, "ok", "{row}");
            assert_eq!(client.frame(WAIT), Frame::new(opcode, body), "{row}");
        }
    }
    // In chunks, too, and bounded then as well.
    let chunks = |body: &[u8]| {
        let head = "POST /c1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let size = format!("{:x}\r\n", body.len());
        let mut raw = Raw::connect(proxy.address);
        raw.send(&[head.as_bytes(), size.as_bytes(), body, b"\r\n0\r\n\r\n"].concat());
        raw.head(WAIT).status()
    };
    assert_eq!(chunks(b"in chunks"), 200);
    assert_eq!(hear(&mut client), "in chunks");
    assert_eq!(chunks(&long), 413);
    // B15: what the client says to it is an ordinary message.
    say(&mut client, "and I say");
    assert_eq!(hear(&mut client), "and I say");
    drop(client);
    finish(proxy, &[&api]);
}

#[test]
fn pushes_on_one_connection_arrive_in_order() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({ "loops": 4 }));
    let mut client = join(&proxy, "c1");
    let mut raw = Raw::connect(proxy.address);
    let all: Vec<u8> = (0..300)
        .flat_map(|n| plain("POST /c1", "", format!("{n}").as_bytes()))
        .collect();
    raw.send(&all);
    for number in 0..300 {
        assert_eq!(hear(&mut client), format!("{number}"));
    }
    for number in 0..300 {
        let answer = Answer::read(&mut raw);
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, "ok"),
            "{number}"
        );
    }
    drop((client, raw));
    finish(proxy, &[&api]);
}

#[test]
fn pushes_find_their_client_on_any_loop() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({ "loops": 4 }));
    let mut clients: Vec<Raw> = (0..16).map(|id| join(&proxy, &format!("c{id}"))).collect();
    // Each connection may land on another loop than the client's.
    for round in 0..8 {
        for (id, client) in clients.iter_mut().enumerate() {
            let text = format!("{round} for {id}");
            assert_eq!(push(&proxy, &format!("c{id}"), &text), 200);
            assert_eq!(hear(client), text);
            let look = tell(proxy.address, &format!("GET /c{id}"), LOOK, b"");
            assert_eq!(look.status, 200);
        }
    }
    for (id, client) in clients.iter_mut().enumerate() {
        assert_eq!(
            tell(proxy.address, &format!("DELETE /c{id}"), "", b"").status,
            200
        );
        assert_eq!(client.close_code(WAIT), 1000);
    }
    drop(clients);
    finish(proxy, &[&api]);
}

#[test]
fn a_broadcast_reaches_all_whose_id_begins_so_on_all_loops() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({ "loops": 4 }));
    let names = (0..600).map(|id| format!("{}-{id}", ["red", "blue"][id % 2]));
    let mut clients: Vec<(String, Raw)> = names.map(|id| (id.clone(), join(&proxy, &id))).collect();
    let cast = |prefix: &str, text: &str| {
        let answer = tell(
            proxy.address,
            &format!("POST /?prefix={prefix}"),
            "",
            text.as_bytes(),
        );
        (answer.status, answer.body)
    };
    let reached = |clients: u32| {
        let json = format!("{{\"clients\":{clients},\"slow\":0,\"unasked_nodes\":0}}\n");
        (200, json)
    };
    assert_eq!(cast("", "for all"), reached(600));
    assert_eq!(cast("red-", "for red"), reached(300));
    assert_eq!(cast("blue-1", "for some"), reached(56));
    assert_eq!(cast("green", "for nobody"), reached(0));
    for (id, client) in &mut clients {
        assert_eq!(hear(client), "for all", "{id}");
        if id.starts_with("red-") {
            assert_eq!(hear(client), "for red", "{id}");
        }
        if id.starts_with("blue-1") {
            assert_eq!(hear(client), "for some", "{id}");
        }
        // Nothing else is between.
        assert_eq!(push(&proxy, id, "last"), 200);
        assert_eq!(hear(client), "last", "{id}");
    }
    assert_eq!(cast("a/b", "x").0, 400);
    let other = |request: &str| tell(proxy.address, request, "", b"x").status;
    assert_eq!(
        other("POST /?other=1"),
        400,
        "a typing error is no broadcast"
    );
    assert_eq!(other("DELETE /?prefix=red"), 400);
    drop(clients);
    finish(proxy, &[&api]);
}

#[test]
fn b_d8_b11_a_push_right_behind_the_ok_arrives() {
    // The API says `ok`, and a welcome at once, from another connection: the client may not be
    // upgraded yet, on a loop that knows nothing of it.
    let address = Arc::new(OnceLock::new());
    let statuses = Arc::new(Mutex::new(Vec::new()));
    let (proxy_at, heard) = (Arc::clone(&address), Arc::clone(&statuses));
    let api = Api::start(move |call| {
        if !call.is("GET") {
            return Reply::ok();
        }
        let (request, text) = (
            format!("POST /{}", call.id()),
            format!("welcome {}", call.id()),
        );
        let (proxy_at, heard) = (Arc::clone(&proxy_at), Arc::clone(&heard));
        Reply::ok().then(move || {
            let answer = tell(*proxy_at.get().unwrap(), &request, "", text.as_bytes());
            heard.lock().unwrap().push(answer.status);
        })
    });
    let proxy = bridge(&[&api], json!({ "loops": 4 }));
    address.set(proxy.address).unwrap();
    for id in 0..100 {
        let mut client = join(&proxy, &format!("c{id}"));
        assert_eq!(hear(&mut client), format!("welcome c{id}"));
    }
    until_true(WAIT, "all pushes answered", || {
        statuses.lock().unwrap().len() == 100
    });
    assert!(statuses.lock().unwrap().iter().all(|status| *status == 200));
    finish(proxy, &[&api]);
}

#[test]
fn b_d9_the_api_can_close_a_client() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({}));
    for (id, headers, reason, code) in [
        ("plain", "", "", 1000),
        ("why", "", "you know why", 1000),
        ("own", "X-Wsteady-Close: 4001\r\n", "banned", 4001),
        (
            "utf8",
            "X-Wsteady-Close: 4999\r\n",
            "tsch\u{fc}\u{df}",
            4999,
        ),
    ] {
        let mut client = join(&proxy, id);
        // What was queued before comes before.
        assert_eq!(push(&proxy, id, "before"), 200);
        let answer = tell(
            proxy.address,
            &format!("DELETE /{id}"),
            headers,
            reason.as_bytes(),
        );
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{id}");
        assert_eq!(hear(&mut client), "before");
        assert_eq!(
            client.frame(WAIT).close_code(),
            (code, reason.to_owned()),
            "{id}"
        );
        client.send_frame(&Frame::close(code, "").with_key([1; 4]));
        client.end(WAIT);
        let gone = until(WAIT, "its DELETE", || {
            api.calls_by("DELETE")
                .into_iter()
                .find(|call| call.id() == id)
        });
        assert_eq!(gone.header("x-wsteady-close"), code.to_string(), "{id}");
        assert_eq!(gone.text(), reason, "{id}");
        assert_eq!(
            tell(proxy.address, &format!("DELETE /{id}"), "", b"").status,
            404,
            "{id}"
        );
    }
    // Codes that may never be on the wire (RFC 6455 7.4.1), and reasons that don't fit (5.5).
    let mut client = join(&proxy, "c1");
    let long = "x".repeat(124);
    for (headers, reason) in [
        ("X-Wsteady-Close: 1005\r\n", ""),
        ("X-Wsteady-Close: 1006\r\n", ""),
        ("X-Wsteady-Close: 1015\r\n", ""),
        ("X-Wsteady-Close: 999\r\n", ""),
        ("X-Wsteady-Close: 70000\r\n", ""),
        ("X-Wsteady-Close: soon\r\n", ""),
        ("", &long),
    ] {
        let answer = tell(proxy.address, "DELETE /c1", headers, reason.as_bytes());
        assert_eq!(answer.status, 400, "{headers:?}, {reason:?}");
    }
    say(&mut client, "still here");
    assert_eq!(hear(&mut client), "still here");
    drop(client);
    finish(proxy, &[&api]);
}

#[test]
fn b_d9_the_api_can_ask_who_is_connected() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({}));
    let mut client = join(&proxy, "c1");
    say(&mut client, "hello");
    assert_eq!(hear(&mut client), "hello");
    let accepts = [LOOK, "Accept: application/json, text/plain;q=0.5\r\n"];
    for accept in accepts {
        let answer = tell(proxy.address, "GET /c1", accept, b"");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.head.header("content-type"), Some("application/json"));
        let seen: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(seen["session"], api.calls()[0].header("x-wsteady-session"));
        assert!(
            seen["address"].as_str().unwrap().contains("127.0.0.1"),
            "{seen}"
        );
    }
    assert_eq!(tell(proxy.address, "GET /c2", LOOK, b"").status, 404);
    assert_eq!(api.count("GET"), 1, "wsteady knows by itself");
    drop(client);
    finish(proxy, &[&api]);
}

#[test]
fn b12_b_d9_a_client_too_slow_for_its_pushes_is_said_to_be() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({ "session": { "buffer": "256KiB" } }));
    let mut client = join(&proxy, "c1");
    let text = |number: usize| format!("{number} {}", "x".repeat(60_000));
    let mut taken = 0;
    // The kernels' buffers take some megabytes first.
    let refused = loop {
        let answer = tell(proxy.address, "POST /c1", "", text(taken).as_bytes());
        if answer.status != 200 {
            break answer;
        }
        taken += 1;
        assert!(taken < 2000, "120 MB and no end");
    };
    assert_eq!(refused.status, 503);
    assert!(
        refused.head.header("retry-after").is_some(),
        "{:?}",
        refused.head
    );
    // The client is slow, not lost: what was taken is delivered, then more is taken.
    for number in 0..taken {
        assert_eq!(hear(&mut client), text(number));
    }
    assert_eq!(push(&proxy, "c1", "more"), 200);
    assert_eq!(hear(&mut client), "more");
    drop(client);
    finish(proxy, &[&api]);
}

#[test]
fn b_d3_b22_only_the_api_may_push() {
    // `X-Forwarded-For` from a peer that is no proxy of ours: somebody speaks for somebody else.
    let stranger = [
        ("", 200),
        ("X-Forwarded-For: 10.1.2.3\r\n", 403),
        ("X-Forwarded-For: 127.0.0.1\r\n", 403),
        ("X-Forwarded-For:\r\n", 403),
        ("Forwarded: for=127.0.0.1\r\n", 403),
    ];
    // From one that is: the last address that none of our proxies has counts.
    let trusted = [
        ("", 200),
        ("X-Forwarded-For: 10.1.2.3\r\n", 200),
        ("X-Forwarded-For: 10.9.9.9\r\n", 200),
        ("X-Forwarded-For: 10.2.0.1\r\n", 403),
        ("X-Forwarded-For: 127.0.0.1, 10.2.0.1\r\n", 403),
        (
            "X-Forwarded-For: 10.1.2.3\r\nX-Forwarded-For: 10.2.0.1\r\n",
            403,
        ),
        ("X-Forwarded-For: 10.2.0.1, 10.1.2.3\r\n", 200),
        // Whom we cannot make out is not the proxy itself.
        ("X-Forwarded-For: unknown\r\n", 403),
        ("X-Forwarded-For: 10.2.0.1:4711\r\n", 403),
        ("Forwarded: for=10.2.0.1\r\n", 403),
    ];
    let api = Api::echo();
    // 10.9.9.9 is a server of the pool, though one that takes no sessions.
    let servers = json!([
        { "url": api.url(), "id": "b1" },
        { "url": "http://10.9.9.9:9/", "id": "b2", "weight": 0 },
    ]);
    let more = json!({
        "trusted_proxies": ["127.0.0.0/8"],
        "push": { "allow": ["10.1.0.0/16"] },
        "pools": { "main": { "servers": servers } },
    });
    for (changes, rows) in [(json!({}), &stranger[..]), (more, &trusted[..])] {
        let proxy = bridge(&[&api], changes);
        let mut client = join(&proxy, "c1");
        for (headers, status) in rows {
            for request in ["GET /c1", "POST /c1", "POST /nobody", "DELETE /nobody"] {
                let accept = if request.starts_with("GET") { LOOK } else { "" };
                let answer = tell(proxy.address, request, &format!("{headers}{accept}"), b"");
                // Who may not ask does not even learn who is there.
                let expected = match (*status, request) {
                    (200, "POST /nobody" | "DELETE /nobody") => 404,
                    (status, _) => status,
                };
                assert_eq!(answer.status, expected, "{request} with {headers:?}");
            }
        }
        let allowed = rows.iter().filter(|(_, status)| *status == 200).count();
        for _ in 0..allowed {
            assert_eq!(hear(&mut client), "");
        }
        // Nothing else has come.
        say(&mut client, "end");
        assert_eq!(hear(&mut client), "end");
        leave(client, 1000, "");
        proxy.finish();
    }
    check_calls(&[&api]);
}

#[test]
fn b_d3_statistics_are_not_for_everybody() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({}));
    for target in [
        "/",
        "/metrics",
        "/debug/memprofile",
        "/v1/sessions",
        "/healthz",
    ] {
        for headers in ["", LOOK] {
            let answer = tell(proxy.address, &format!("GET {target}"), headers, b"");
            assert!(
                (400..500).contains(&answer.status),
                "{target}: {}",
                answer.status
            );
            assert!(
                !answer.body.contains("connections"),
                "{target}: {}",
                answer.body
            );
        }
    }
    assert_eq!(api.calls().len(), 0);
    finish(proxy, &[&api]);
}

#[test]
fn b22_a_token_is_needed_by_all_if_there_is_one() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({ "push": { "token": "s3cret" } }));
    let mut client = join(&proxy, "c1");
    for (headers, status) in [
        ("", 403),
        ("Authorization: Bearer s3cre\r\n", 403),
        ("Authorization: Bearer s3cret2\r\n", 403),
        ("Authorization: Bearer \r\n", 403),
        ("Authorization: Basic s3cret\r\n", 403),
        ("Authorization: s3cret\r\n", 403),
        (
            "X-Forwarded-For: 127.0.0.1\r\nAuthorization: Bearer s3cret\r\n",
            403,
        ),
        ("Authorization: Bearer s3cret\r\n", 200),
    ] {
        let answer = tell(proxy.address, "POST /c1", headers, b"x");
        assert_eq!(answer.status, status, "{headers:?}");
        let look = tell(proxy.address, "GET /c1", &format!("{LOOK}{headers}"), b"");
        assert_eq!(look.status, status, "{headers:?}");
    }
    assert_eq!(hear(&mut client), "x");
    assert_eq!(tell(proxy.address, "DELETE /c1", "", b"").status, 403);
    let token = "Authorization: Bearer s3cret\r\n";
    assert_eq!(tell(proxy.address, "DELETE /c1", token, b"").status, 200);
    assert_eq!(client.close_code(WAIT), 1000);
    drop(client);
    // Clients need none.
    drop(join(&proxy, "c2"));
    finish(proxy, &[&api]);
}

#[test]
fn pushes_can_have_a_path_of_their_own() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({ "push": { "path": "/_push/" } }));
    let mut client = join(&proxy, "c1");
    assert_eq!(
        tell(proxy.address, "POST /_push/c1", "", b"hello").status,
        200
    );
    assert_eq!(hear(&mut client), "hello");
    assert_eq!(tell(proxy.address, "GET /_push/c1", LOOK, b"").status, 200);
    assert_eq!(
        tell(proxy.address, "POST /_push/c2", "", b"hello").status,
        404
    );
    let other = tell(proxy.address, "POST /c1", "", b"not here").status;
    assert!((400..500).contains(&other), "{other}");
    assert_eq!(tell(proxy.address, "DELETE /_push/c1", "", b"").status, 200);
    assert_eq!(client.close_code(WAIT), 1000);
    drop(client);
    finish(proxy, &[&api]);
}

#[test]
fn v36_clients_leave_descriptors_for_the_api_and_for_its_pushes() {
    let api = Api::echo();
    let through = ["prlimit", "--nofile=200:200"].map(String::from);
    let changes = json!({ "loops": 1, "limits": { "handshake": "60s" } });
    let proxy = bridge_through(&through, vec![api.url()], changes);
    // Several ask at once, so that their GETs take what descriptors there are.
    let mut inside = Vec::new();
    let refused = 'full: loop {
        assert!(inside.len() < 200, "there are not so many");
        let mut ten: Vec<Raw> = (0..10).map(|_| Raw::connect(proxy.address)).collect();
        for (n, client) in ten.iter_mut().enumerate() {
            let id = inside.len() + n;
            client.send(handshake(&format!("/c{id}"), "").as_bytes());
        }
        for mut client in ten {
            let answer = Answer::read(&mut client);
            if answer.status != 101 {
                break 'full answer;
            }
            inside.push(client);
        }
    };
    assert_eq!(refused.status, 503);
    assert_eq!(refused.head.header("retry-after"), Some("1"));
    assert_eq!(
        refused.body, "no descriptor is left for another session",
        "{:?}",
        refused.head
    );
    // Nobody inside notices, whether he or the API speaks.
    for (n, client) in inside.iter_mut().enumerate() {
        say(client, "hello");
        assert_eq!(hear(client), "hello");
        let answer = tell(proxy.address, &format!("POST /c{n}"), "", b"from the API");
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.head.header("connection"), Some("close"));
        assert_eq!(hear(client), "from the API");
    }
    let said = "descriptors are scarce";
    until_true(WAIT, "the log", || proxy.log().contains(said));
    assert_eq!(proxy.log().matches(said).count(), 1, "once a minute");
    // With room, clients come in again.
    inside.truncate(10);
    until_true(WAIT, "room", || {
        let answer = knock(&proxy, "/again", "");
        matches!(answer.status, 101)
    });
    drop(inside);
    finish(proxy, &[&api]);
}

#[test]
fn b_d6_counts_of_clients_go_down_again() {
    let api = Api::echo();
    let proxy = bridge(&[&api], json!({}));
    let mut clients: Vec<Raw> = (0..5).map(|id| join(&proxy, &format!("c{id}"))).collect();
    for client in &mut clients {
        say(client, "hello");
        assert_eq!(hear(client), "hello");
    }
    let main = [("pool", "main")];
    let active = || proxy.count("wsteady_sessions_active", &main);
    assert_eq!(active(), 5, "clients, not calls");
    let up = [("pool", "main"), ("direction", "up")];
    assert_eq!(proxy.count("wsteady_messages_total", &up), 5);
    drop(clients);
    until_true(WAIT, "none to be left", || active() == 0);
    api.wait("DELETE", 5);
    // Five each of GET, POST and DELETE, and all went well.
    until_true(WAIT, "all calls to be counted", || {
        let count = |name: &str| proxy.count(&format!("wsteady_requests_{name}_total"), &main);
        (count("started"), count("succeeded"), count("failed")) == (15, 15, 0)
    });
    finish(proxy, &[&api]);
}
