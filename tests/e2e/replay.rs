//! What is replayed, to the byte: the test plays the servers itself. Numbers F are the cases of
//! the threat model.

use crate::support::frames::{BINARY, CLOSE, CONTINUE, Frame, PING, PONG, TEXT};
use crate::support::proxy::Proxy;
use crate::support::raw::{End, Head, Next, Origin, Raw, handshake};
use crate::support::{SOON, free_port, until_true};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);

/// A proxy before one origin that stands for all servers: each dial is the next one of them.
struct Stage {
    proxy: Proxy,
    origin: Origin,
}

impl Stage {
    fn new(changes: Value) -> Stage {
        let origin = Origin::bind();
        let proxy = Proxy::start(&[origin.url()], changes);
        Stage { proxy, origin }
    }

    /// A session and its first server, which answers no barrier unless a test does.
    fn open(&self) -> (Raw, Raw) {
        self.open_with("", "")
    }

    fn open_with(&self, offer: &str, answer: &str) -> (Raw, Raw) {
        let mut client = Raw::connect(self.proxy.address);
        client.send(handshake("/", offer).as_bytes());
        let (mut server, _) = self.origin.adopt(answer);
        server.answers = false;
        assert_eq!(client.head(WAIT).status(), 101);
        (client, server)
    }

    /// The server that a session moves to.
    fn adopt(&self) -> (Raw, Head) {
        let (mut server, head) = self.origin.adopt("");
        server.answers = false;
        assert_eq!(head.header("x-balancer-reconnect"), Some("1"));
        (server, head)
    }

    fn count(&self, name: &str) -> u64 {
        self.proxy.count(name, &[])
    }

    fn wait_confirmed(&self) {
        until_true(SOON, "all to be confirmed", || {
            self.count("wsteady_messages_journaled") == 0
        });
    }
}

/// Takes a barrier without answering it: data frames up to the next Ping, and its payload.
fn up_to_ping(server: &mut Raw) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut data = Vec::new();
    loop {
        match server.next(WAIT) {
            Next::Frame(frame) if frame.opcode == PING => return (data, frame.payload),
            Next::Frame(frame) => data.push(frame.payload),
            other => panic!("no barrier, {other:?}"),
        }
    }
}

fn send_numbers(client: &mut Raw, range: std::ops::Range<usize>) {
    for number in range {
        client.send_frame(&Frame::masked(TEXT, number.to_string().as_bytes()));
    }
}

fn expect_numbers(server: &mut Raw, range: std::ops::Range<usize>) {
    for number in range {
        assert_eq!(server.frame(WAIT).payload, number.to_string().as_bytes());
    }
}

/// Long enough deadlines that only what a test does ends a connection.
fn patient() -> Value {
    json!({ "pools": { "main": { "timeouts": { "ping": "30s", "pong": "30s" } } } })
}

#[test]
fn a_barrier_counts_messages_and_its_pong_confirms_them() {
    let stage = Stage::new(patient());
    let (mut client, mut server) = stage.open();
    send_numbers(&mut client, 0..3);
    let (data, barrier) = up_to_ping(&mut server);
    assert_eq!(data, [b"0", b"1", b"2"]);
    assert_eq!(barrier, 3u64.to_be_bytes());
    assert_eq!(stage.count("wsteady_messages_journaled"), 3);
    // F35: an unknown payload is ignored, and so is an old number.
    for payload in [&b"nonsense"[..], b"", &0u64.to_be_bytes()] {
        server.send_frame(&Frame::new(PONG, payload));
    }
    send_numbers(&mut client, 3..5);
    expect_numbers(&mut server, 3..5);
    assert_eq!(
        stage.count("wsteady_messages_journaled"),
        5,
        "only one barrier at a time"
    );
    server.send_frame(&Frame::new(PONG, &barrier));
    until_true(SOON, "three of them confirmed", || {
        stage.count("wsteady_messages_journaled") == 2
    });
    let (_, barrier) = up_to_ping(&mut server);
    assert_eq!(barrier, 5u64.to_be_bytes());
    // Unconfirmed: exactly those come again.
    server.reset();
    let (mut server, head) = stage.adopt();
    assert_eq!(head.header("x-wsteady-next"), Some("3"));
    expect_numbers(&mut server, 3..5);
    assert_eq!(stage.count("wsteady_messages_replayed_total"), 2);
    drop((client, server));
    stage.proxy.finish();
}

#[test]
fn f35_a_pong_that_claims_the_future_is_a_fault_and_trims_nothing() {
    let stage = Stage::new(patient());
    let (mut client, mut server) = stage.open();
    send_numbers(&mut client, 0..2);
    up_to_ping(&mut server);
    server.send_frame(&Frame::new(PONG, &3u64.to_be_bytes()));
    server.end(WAIT);
    let (mut server, head) = stage.adopt();
    assert_eq!(head.header("x-wsteady-next"), Some("0"));
    expect_numbers(&mut server, 0..2);
    drop((client, server));
    stage.proxy.finish();
}

#[test]
fn f35_a_server_that_never_answers_a_barrier_is_dead_whatever_it_says_else() {
    let stage = Stage::new(json!({}));
    let (mut client, mut server) = stage.open();
    send_numbers(&mut client, 0..2);
    // Bytes from it restart the deadline six times at most; Pongs it owes us don't come.
    let started = Instant::now();
    while server.stream.peer_addr().is_ok() && started.elapsed() < Duration::from_secs(30) {
        if !server.send_frame(&Frame::new(TEXT, b"chatter")) {
            break;
        }
        if let Next::End(_) = server.next(Duration::from_millis(200)) {
            break;
        }
    }
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "it lives on without a Pong"
    );
    let (mut server, _) = stage.adopt();
    expect_numbers(&mut server, 0..2);
    drop((client, server));
    stage.proxy.finish();
}

#[test]
fn f02_half_a_message_to_a_dead_server_comes_whole_to_the_next() {
    let stage = Stage::new(patient());
    let (mut client, mut server) = stage.open();
    let long = vec![b'l'; 200 << 10];
    let frame = Frame::masked(BINARY, &long);
    let bytes = frame.bytes();
    client.send(&bytes[..bytes.len() / 2]);
    until_true(SOON, "half of it", || {
        server.next(Duration::from_millis(10));
        server.pending.len() > 50 << 10
    });
    server.reset();
    client.send(&bytes[bytes.len() / 2..]);
    let (mut server, head) = stage.adopt();
    assert_eq!(head.header("x-wsteady-next"), Some("0"));
    assert_eq!(server.frame(WAIT), frame);
    assert!(
        matches!(server.next(WAIT), Next::Frame(ping) if ping.opcode == PING),
        "once"
    );
    drop((client, server));
    stage.proxy.finish();
}

#[test]
fn f06_fragments_on_both_sides_of_a_failover_are_one_message() {
    let stage = Stage::new(patient());
    let (mut client, mut server) = stage.open();
    let part = vec![b'p'; 20_000];
    client.send_frame(&Frame::masked(BINARY, &part).unfinished());
    assert_eq!(server.frame(WAIT).payload, part);
    server.reset();
    let (mut server, _) = stage.adopt();
    client.send_frame(&Frame::masked(CONTINUE, &part).unfinished());
    client.send_frame(&Frame::masked(CONTINUE, b"end"));
    let parts = [server.frame(WAIT), server.frame(WAIT), server.frame(WAIT)];
    assert_eq!(
        parts.each_ref().map(|one| one.opcode),
        [BINARY, CONTINUE, CONTINUE]
    );
    assert_eq!(parts.each_ref().map(|one| one.fin), [false, false, true]);
    assert_eq!(parts[2].payload, b"end");
    drop((client, server));
    stage.proxy.finish();
}

#[test]
fn f03_a_message_that_its_server_did_not_finish_is_never_half_delivered() {
    for end in [End::Fin, End::Reset] {
        let stage = Stage::new(patient());
        let (mut client, mut server) = stage.open();
        server.send_frame(&Frame::new(TEXT, b"whole"));
        assert_eq!(client.frame(WAIT).payload, b"whole");
        // 60 KiB, collected: below `atomic`. Half a frame, and a fragment before it.
        let half = Frame::new(TEXT, &[b'x'; 30_000]).unfinished().bytes();
        let torn = Frame::new(CONTINUE, &[b'y'; 30_000]).bytes();
        server.send(&[&half[..], &torn[..10_000]].concat());
        assert!(client.silent(Duration::from_millis(300)), "collected first");
        match end {
            End::Fin => drop(server),
            End::Reset => server.reset(),
        }
        let (mut server, _) = stage.adopt();
        server.send_frame(&Frame::new(TEXT, b"from the second"));
        assert_eq!(client.frame(WAIT), Frame::new(TEXT, b"from the second"));
        drop((client, server));
        stage.proxy.finish();
    }
}

#[test]
fn f04_a_long_message_streams_and_dies_with_its_server() {
    let long = vec![b'x'; 300 << 10];
    // At a frame boundary a Close is possible, inside a frame it is not.
    let fragment = Frame::new(BINARY, &long).unfinished().bytes();
    let inside = Frame::new(BINARY, &vec![b'x'; 400 << 10]).bytes();
    for (name, bytes, closed) in [
        ("between", &fragment[..], true),
        ("inside", &inside[..300 << 10], false),
    ] {
        let stage = Stage::new(patient());
        let (mut client, mut server) = stage.open();
        server.send(bytes);
        until_true(SOON, "it to stream", || {
            client.next(Duration::from_millis(10));
            client.pending.len() > 200 << 10 || closed
        });
        drop(server);
        if closed {
            assert_eq!(client.close_code(WAIT), 1011, "{name}");
        } else {
            client.end(WAIT);
            assert!(Frame::parse(&client.pending).is_none(), "{name}: spliced");
        }
        // Nobody splices another server's bytes behind it.
        drop(client);
        stage.proxy.finish();
    }
}

#[test]
fn f31_what_was_read_from_a_dead_server_comes_before_the_next_ones() {
    let stage = Stage::new(patient());
    let (mut client, mut server) = stage.open();
    // More than the kernels take: the rest waits in the proxy while the client doesn't read.
    let body = vec![b'q'; 50_000];
    let mut written = 0;
    server
        .stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    while written < 400 && server.send(&Frame::new(BINARY, &body).bytes()) {
        written += 1;
    }
    server.reset();
    std::thread::sleep(Duration::from_millis(300));
    let reading = std::thread::spawn(move || {
        let mut whole = 0;
        loop {
            let frame = client.frame(WAIT);
            if frame.payload == b"second" {
                return (whole, client);
            }
            assert_eq!(frame.payload.len(), 50_000, "a torn message");
            whole += 1;
        }
    });
    let (mut server, _) = stage.adopt();
    server.send_frame(&Frame::new(TEXT, b"second"));
    let (whole, client) = reading.join().unwrap();
    assert!(whole >= 1 && whole <= written, "{whole} of {written}");
    drop((client, server));
    stage.proxy.finish();
}

#[test]
fn f08_f21_a_redial_goes_on_over_every_kind_of_failure() {
    let stage = Stage::new(patient());
    let (mut client, mut server) = stage.open();
    send_numbers(&mut client, 0..5);
    expect_numbers(&mut server, 0..5);
    server.reset();
    // Dies between accept and 101; then 500, 503, 503; then a 101 that is none.
    stage.origin.next().0.reset();
    for status in [500, 503, 503] {
        let (mut busy, _) = stage.origin.next();
        busy.send(format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n").as_bytes());
        busy.end(WAIT);
    }
    let (mut wrong, _) = stage.origin.next();
    wrong.send(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    wrong.end(WAIT);
    send_numbers(&mut client, 5..10);
    let (mut server, head) = stage.adopt();
    assert_eq!(head.header("x-wsteady-next"), Some("0"));
    expect_numbers(&mut server, 0..10);
    drop((client, server));
    stage.proxy.finish();
}

#[test]
fn f22_when_every_server_refuses_the_client_is_closed_with_1008() {
    // W, step 6: one refusal closed the client with 1000.
    for status in [302, 401, 403, 404] {
        let stage = Stage::new(patient());
        let (mut client, mut server) = stage.open();
        send_numbers(&mut client, 0..4);
        expect_numbers(&mut server, 0..4);
        server.reset();
        let (mut refusing, _) = stage.origin.next();
        refusing.send(format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n").as_bytes());
        let frame = client.frame(WAIT);
        assert_eq!(
            frame.close_code(),
            (1008, "refused on reconnect".to_owned())
        );
        assert_eq!(stage.count("wsteady_messages_unconfirmed_total"), 4);
        drop(client);
        stage.proxy.finish();
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_no_refusal() {
    let origin = Origin::bind();
    let gone = format!("ws://127.0.0.1:{}", free_port());
    let proxy = Proxy::start(&[origin.url(), gone], patient());
    let mut client = Raw::connect(proxy.address);
    client.send(handshake("/", "").as_bytes());
    let (server, _) = origin.adopt("");
    assert_eq!(client.head(WAIT).status(), 101);
    server.reset();
    // The one that can be reached refuses; the other may come back: the hold goes on.
    for _ in 0..2 {
        let (mut refusing, _) = origin.next();
        refusing.send(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n");
    }
    let (mut server, _) = origin.adopt("");
    client.send_frame(&Frame::masked(TEXT, b"still here"));
    assert_eq!(server.frame(WAIT).payload, b"still here");
    drop((client, server));
    proxy.finish();
}

#[test]
fn a_redial_offers_what_the_client_has_and_wants_the_same_answer() {
    // W, step 10: the second answer was not compared with what the client was told.
    let offer = "Sec-WebSocket-Protocol: a, b\r\n\
                 Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let answer = "Sec-WebSocket-Protocol: b\r\nSec-WebSocket-Extensions: permessage-deflate; \
                  server_no_context_takeover; client_no_context_takeover; \
                  server_max_window_bits=12\r\n";
    for (name, other, good) in [
        ("the same", answer.to_owned(), true),
        (
            "a smaller window",
            answer.replace("bits=12", "bits=10"),
            true,
        ),
        ("another subprotocol", answer.replace("l: b", "l: a"), false),
        (
            "no subprotocol",
            answer.replace("Sec-WebSocket-Protocol: b\r\n", ""),
            false,
        ),
        (
            "no extension",
            "Sec-WebSocket-Protocol: b\r\n".to_owned(),
            false,
        ),
        (
            "a larger window",
            answer.replace("bits=12", "bits=15"),
            false,
        ),
    ] {
        let stage = Stage::new(patient());
        let (mut client, server) = stage.open_with(offer, answer);
        server.reset();
        let (mut second, head) = stage.origin.adopt(&other);
        let extension = head
            .header("sec-websocket-extensions")
            .expect("it offers the extension");
        assert!(
            extension.contains("permessage-deflate"),
            "{name}: {extension}"
        );
        assert_eq!(head.header("sec-websocket-protocol"), Some("b"), "{name}");
        if good {
            // F26: replayed compressed messages stand alone.
            let frame = Frame::masked(TEXT, &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 7, 0]).with_rsv1();
            client.send_frame(&frame);
            assert_eq!(second.frame(WAIT), frame, "{name}");
        } else {
            assert_eq!(client.close_code(WAIT), 1008, "{name}");
        }
        drop((client, second));
        stage.proxy.finish();
    }
}

#[test]
fn f24_a_clients_close_waits_for_what_it_sent_before() {
    let stage = Stage::new(patient());
    let (mut client, mut server) = stage.open();
    send_numbers(&mut client, 0..50);
    expect_numbers(&mut server, 0..50);
    server.reset();
    let (waiting, head) = stage.origin.next();
    client.send_frame(&Frame::close(1000, "bye").with_key([4, 3, 2, 1]));
    // Answered at once: the client has gone, the session has not.
    assert_eq!(client.close_code(WAIT), 1000);
    client.end(WAIT);
    assert_eq!(stage.count("wsteady_messages_journaled"), 50);
    let mut server = waiting;
    server.accept(&head, "");
    expect_numbers(&mut server, 0..50);
    assert_eq!(server.frame(WAIT).close_code(), (1000, "bye".to_owned()));
    server.send_frame(&Frame::close(1000, ""));
    server.end(WAIT);
    stage.wait_confirmed();
    assert_eq!(stage.count("wsteady_messages_unconfirmed_total"), 0);
    stage.proxy.finish();
}

#[test]
fn a_client_that_left_is_not_waited_for_beyond_hold_and_counted() {
    let stage = Stage::new(json!({ "session": { "hold": "1s" } }));
    let (mut client, mut server) = stage.open();
    send_numbers(&mut client, 0..7);
    expect_numbers(&mut server, 0..7);
    client.send_frame(&Frame::close(1000, "").with_key([0; 4]));
    let Stage { proxy, origin } = stage;
    drop((server, origin));
    until_true(SOON, "seven to be counted", || {
        proxy.count("wsteady_messages_unconfirmed_total", &[]) == 7
    });
    proxy.finish();
}

#[test]
fn a_client_whose_tcp_ends_is_a_close_1001_to_the_server() {
    let stage = Stage::new(patient());
    let (mut client, mut server) = stage.open();
    send_numbers(&mut client, 0..3);
    client.half_close();
    expect_numbers(&mut server, 0..3);
    assert_eq!(server.frame(WAIT).close_code().0, 1001);
    // Its reply confirms all before it; without one the session would look for another server.
    server.send_frame(&Frame::close(1001, ""));
    server.end(WAIT);
    drop((client, server));
    // With a frame cut off there is no place for a Close: TCP ends.
    let (mut client, mut server) = stage.open();
    client.send(&Frame::masked(BINARY, &[0; 5000]).bytes()[..3000]);
    until_true(SOON, "half a frame", || {
        server.next(Duration::from_millis(10));
        server.pending.len() > 2000
    });
    drop(client);
    server.end(WAIT);
    drop(server);
    stage.proxy.finish();
}

#[test]
fn f33_f34_replay_comes_before_anything_newer_and_starts_at_the_first_unconfirmed() {
    let stage = Stage::new(patient());
    let (mut client, mut server) = stage.open();
    send_numbers(&mut client, 0..10);
    let (data, barrier) = up_to_ping(&mut server);
    let confirmed = data.len();
    server.send_frame(&Frame::new(PONG, &barrier));
    until_true(SOON, "a first trim", || {
        stage.count("wsteady_messages_confirmed_total") >= confirmed as u64
    });
    send_numbers(&mut client, 10..40);
    server.reset();
    // The second dies after half the replay, having confirmed none of it.
    let (mut second, head) = stage.adopt();
    assert_eq!(
        head.header("x-wsteady-next"),
        Some(confirmed.to_string().as_str())
    );
    expect_numbers(&mut second, confirmed..25);
    second.reset();
    send_numbers(&mut client, 40..60);
    let (mut third, head) = stage.adopt();
    assert_eq!(
        head.header("x-wsteady-next"),
        Some(confirmed.to_string().as_str())
    );
    expect_numbers(&mut third, confirmed..60);
    drop((client, third));
    stage.proxy.finish();
}

#[test]
fn a_poisonous_message_kills_three_servers_and_no_fourth() {
    for how in ["RST", "FIN", "Close 1011"] {
        let stage = Stage::new(patient());
        let (mut client, mut server) = stage.open();
        client.send_frame(&Frame::masked(TEXT, b"poison"));
        client.send_frame(&Frame::masked(TEXT, b"innocent"));
        for round in 1..=3 {
            assert_eq!(server.frame(WAIT).payload, b"poison", "{how} {round}");
            assert_eq!(server.frame(WAIT).payload, b"innocent", "{how} {round}");
            match how {
                "RST" => server.reset(),
                "FIN" => drop(server),
                _ => {
                    server.send_frame(&Frame::close(1011, "crashed"));
                }
            }
            if round == 3 {
                break;
            }
            server = stage.adopt().0;
        }
        assert_eq!(client.close_code(WAIT), 1011, "{how}");
        assert!(
            stage.origin.try_next(Duration::from_millis(300)).is_none(),
            "{how}: a fourth"
        );
        let poison = stage.proxy.count(
            "wsteady_messages_unconfirmed_total",
            &[("pool", "main"), ("reason", "poison")],
        );
        assert!(poison >= 1, "{how}: counted {poison}");
        drop(client);
        stage.proxy.finish();
    }
}

#[test]
fn other_ends_are_no_poison() {
    // Close 1012, and a message that was not wholly written: as often as it likes.
    let stage = Stage::new(patient());
    let (mut client, mut server) = stage.open();
    client.send_frame(&Frame::masked(TEXT, b"innocent"));
    for _ in 0..5 {
        assert_eq!(server.frame(WAIT).payload, b"innocent");
        server.send_frame(&Frame::close(1012, "restart"));
        server = stage.adopt().0;
    }
    assert_eq!(server.frame(WAIT).payload, b"innocent");
    drop((client, server));
    stage.proxy.finish();
}

#[test]
fn f36_a_server_added_during_an_outage_takes_the_sessions_over() {
    let stage = Stage::new(patient());
    let (mut client, mut server) = stage.open();
    send_numbers(&mut client, 0..5);
    expect_numbers(&mut server, 0..5);
    let Stage { proxy, origin } = stage;
    drop((server, origin));
    until_true(SOON, "a hold", || {
        proxy.count("wsteady_sessions_held", &[]) == 1
    });
    let other = Origin::bind();
    let body = json!({ "pool": "main", "url": other.url(), "id": "fresh" }).to_string();
    let answer = proxy.admin("POST", "/v1/servers", Some(&body));
    if answer.status == 404 || answer.status == 405 || answer.status == 501 {
        // Adding servers is a later part of the admin API.
        eprintln!("SKIPPED: POST /v1/servers is {}", answer.status);
        return;
    }
    let (mut server, _) = other.adopt("");
    expect_numbers(&mut server, 0..5);
    assert_eq!(proxy.admin("DELETE", "/v1/servers/b1", None).status, 200);
    drop((client, server));
    proxy.finish();
}

#[test]
fn a_move_waits_for_the_barrier_and_for_the_end_of_a_downward_message() {
    let first = Origin::bind();
    let second = Origin::bind();
    let proxy = Proxy::start(&[first.url(), second.url()], patient());
    proxy.admin("PATCH", "/v1/servers/b2", Some(r#"{"state": "disabled"}"#));
    let mut client = Raw::connect(proxy.address);
    client.send(handshake("/", "").as_bytes());
    let (mut server, _) = first.adopt("");
    server.answers = false;
    assert_eq!(client.head(WAIT).status(), 101);
    proxy.admin("PATCH", "/v1/servers/b2", Some(r#"{"state": "enabled"}"#));
    send_numbers(&mut client, 0..3);
    expect_numbers(&mut server, 0..3);
    server.send_frame(&Frame::new(TEXT, b"first part, ").unfinished());
    let answer = proxy.admin("PATCH", "/v1/servers/b1", Some(r#"{"state": "draining"}"#));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let (_, barrier) = up_to_ping(&mut server);
    server.send_frame(&Frame::new(PONG, &barrier));
    assert!(
        second.try_next(Duration::from_millis(300)).is_none(),
        "its message is not finished"
    );
    send_numbers(&mut client, 3..5);
    server.send_frame(&Frame::new(CONTINUE, b"second part"));
    // New ones stay in the journal; this server gets the Close and may still speak.
    let close = server.frame(WAIT);
    assert_eq!(close.close_code(), (1000, "moved".to_owned()), "{close:?}");
    server.send_frame(&Frame::new(TEXT, b"last words"));
    server.send_frame(&Frame::close(1000, ""));
    let (mut next, head) = second.adopt("");
    assert_eq!(head.header("x-wsteady-next"), Some("3"));
    expect_numbers(&mut next, 3..5);
    let mut heard = Vec::new();
    while !heard.ends_with(b"last words") {
        heard.extend(client.frame(WAIT).payload);
    }
    assert_eq!(heard, b"first part, second partlast words");
    drop((client, next));
    proxy.finish();
}

#[test]
fn written_confirms_what_the_kernel_took() {
    let stage = Stage::new(json!({ "session": { "confirm": "written" } }));
    let (mut client, mut server) = stage.open();
    send_numbers(&mut client, 0..5);
    expect_numbers(&mut server, 0..5);
    stage.wait_confirmed();
    server.reset();
    let (mut server, head) = stage.adopt();
    assert_eq!(head.header("x-wsteady-next"), Some("5"));
    send_numbers(&mut client, 5..6);
    expect_numbers(&mut server, 5..6);
    drop((client, server));
    stage.proxy.finish();
}

#[test]
fn a_server_that_opted_in_confirms_by_its_count_alone() {
    let stage = Stage::new(json!({
        "session": { "confirm": "processed" },
        "pools": { "main": { "timeouts": { "ping": "300ms", "pong": "5s" } } },
    }));
    let (mut client, mut server) = stage.open_with("", "X-Wsteady-Confirm: processed\r\n");
    send_numbers(&mut client, 0..10);
    expect_numbers(&mut server, 0..10);
    // Only its count confirms; its Pongs to our Pings, further below, don't.
    server.send_frame(&Frame::new(PONG, b"wsteady:4"));
    until_true(SOON, "four", || {
        stage.count("wsteady_messages_journaled") == 6
    });
    let until = Instant::now() + Duration::from_secs(1);
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        if let Next::Frame(ping) = server.next(left)
            && ping.opcode == PING
        {
            server.send_frame(&Frame::new(PONG, &ping.payload));
        }
    }
    assert_eq!(stage.count("wsteady_messages_journaled"), 6);
    // A count that goes back is no news; one of the future is a fault.
    server.send_frame(&Frame::new(PONG, b"wsteady:2"));
    server.send_frame(&Frame::new(PONG, b"wsteady:11"));
    until_true(WAIT, "its end", || {
        matches!(server.next(WAIT), Next::End(_))
    });
    let (mut server, head) = stage.adopt();
    assert_eq!(head.header("x-wsteady-next"), Some("4"));
    expect_numbers(&mut server, 4..10);
    drop((client, server));
    stage.proxy.finish();
}

#[test]
fn a_client_pings_on_while_no_server_is_there() {
    let stage = Stage::new(patient());
    let (mut client, server) = stage.open();
    let Stage { proxy, origin } = stage;
    drop((server, origin));
    until_true(SOON, "a hold", || {
        proxy.count("wsteady_sessions_held", &[]) == 1
    });
    for number in 0..5u8 {
        client.send_frame(&Frame::masked(PING, &[number]));
        assert_eq!(client.next(WAIT), Next::Frame(Frame::new(PONG, &[number])));
    }
    client.send_frame(&Frame::masked(CLOSE, &1000u16.to_be_bytes()));
    assert_eq!(client.close_code(WAIT), 1000);
    drop(client);
    proxy.finish();
}
