//! Frames and closes on an open session, as bytes. Numbers R and V are those of the threat model:
//! R for cases, V for classes of attack. Source: RFC 6455 sections 5 and 7.

use crate::support::client::{Crowd, Habit};
use crate::support::frames::{BINARY, CLOSE, CONTINUE, Frame, PING, PONG, TEXT, hex};
use crate::support::proxy::Proxy;
use crate::support::raw::{Next, Origin, Raw, Served, echo_frames, echo_origin, handshake};
use crate::support::rng::Rng;
use crate::support::until_true;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);
const CAP: usize = 1 << 20;

fn echo_proxy(changes: Value) -> (Served, Proxy) {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], changes);
    (origin, proxy)
}

/// One session with a server that the test plays.
fn pair(changes: Value) -> (Proxy, Raw, Raw) {
    let origin = Origin::bind();
    let proxy = Proxy::start(&[origin.url()], changes);
    let (client, server) = open_both(&proxy, &origin, "", "");
    (proxy, client, server)
}

fn open_both(proxy: &Proxy, origin: &Origin, offer: &str, answer: &str) -> (Raw, Raw) {
    let mut client = Raw::connect(proxy.address);
    client.send(handshake("/", offer).as_bytes());
    let (server, _) = origin.adopt(answer);
    assert_eq!(client.head(WAIT).status(), 101);
    (client, server)
}

const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
                       client_no_context_takeover\r\n";

#[test]
fn r05_r18_messages_of_every_length_pass_in_any_segments() {
    let (_origin, proxy) = echo_proxy(json!({}));
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, CAP] {
        for opcode in [TEXT, BINARY] {
            let payload: Vec<u8> = (0..length).map(|at| b'a' + (at % 23) as u8).collect();
            let bytes = Frame::masked(opcode, &payload).bytes();
            for segment in [bytes.len(), 1, 2, 3, 7] {
                // A segment of a byte costs a system call on each side.
                if bytes.len() / segment > 2000 {
                    continue;
                }
                let mut client = Raw::open(proxy.address, "/", "");
                for part in bytes.chunks(segment) {
                    client.send(part);
                }
                let frame = client.frame(WAIT);
                assert!(
                    frame == Frame::new(opcode, &payload),
                    "{length} by {segment}: {frame:?}"
                );
            }
        }
    }
    let mut client = Raw::open(proxy.address, "/", "");
    client.send_frame(&Frame::masked(BINARY, &vec![0; CAP + 1]));
    assert_eq!(client.close_code(WAIT), 1009);
    drop(client);
    proxy.finish();
}

/// What a client must not send: name, bytes, the code it is closed with.
fn forbidden() -> Vec<(&'static str, Vec<u8>, u16)> {
    let text = |payload: &[u8]| Frame::masked(TEXT, payload).bytes();
    let close = |payload: &[u8]| Frame::masked(CLOSE, payload).bytes();
    let mut rows = vec![
        ("V26 unmasked", hex("8105 68656c6c6f"), 1002),
        ("V27 RSV1 without deflate", hex("C180 00000000"), 1002),
        ("V27 RSV2", hex("A180 00000000"), 1002),
        ("V27 RSV3", hex("9180 00000000"), 1002),
        ("V27 RSV1 on a Ping", hex("C980 00000000"), 1002),
        ("V27 opcode 3", hex("8380 00000000"), 1002),
        ("V27 opcode 7", hex("8780 00000000"), 1002),
        ("V27 opcode 11", hex("8B80 00000000"), 1002),
        ("V27 opcode 15", hex("8F80 00000000"), 1002),
        ("V28 Ping of 126", hex("89FE 007E 00000000"), 1002),
        ("V28 Ping without FIN", hex("0980 00000000"), 1002),
        ("V28 Close of one byte", hex("8881 00000000 03"), 1002),
        (
            "V29 bit 63 of the length",
            hex("82FF 8000000000000000 00000000"),
            1002,
        ),
        (
            "V29 longest length",
            hex("82FF 7FFFFFFFFFFFFFFF 00000000"),
            1009,
        ),
        (
            "V29 length 5 in 16 bits",
            hex("82FE 0005 00000000 0000000000"),
            1002,
        ),
        (
            "V29 length 5 in 64 bits",
            hex("82FF 0000000000000005 00000000 0000000000"),
            1002,
        ),
        (
            "V29 length 65535 in 64 bits",
            hex("82FF 000000000000FFFF 00000000"),
            1002,
        ),
        ("R11 continuation of nothing", hex("8081 00000000 61"), 1002),
        (
            "R11 text inside text",
            hex("0181 00000000 61 8181 00000000 62"),
            1002,
        ),
        (
            "V32 text cut inside a character",
            hex("0181 00000000 CE 8081 00000000 20"),
            1007,
        ),
        (
            "V32 text that ends inside a character",
            hex("8181 00000000 CE"),
            1007,
        ),
        ("V32 above U+10FFFF", text(&hex("F4908080")), 1007),
        ("V32 surrogate", text(&hex("EDA080")), 1007),
        ("V32 overlong", text(&hex("C080")), 1007),
        (
            "V32 reason",
            close(&[&1000u16.to_be_bytes()[..], &[0xFF]].concat()),
            1007,
        ),
        (
            "V33 reason of 124 bytes",
            close(&[&[0x03, 0xE8][..], &[b'a'; 124]].concat()),
            1002,
        ),
        (
            "the sum of the fragments above the cap",
            [
                Frame::masked(BINARY, &vec![0; CAP / 2])
                    .unfinished()
                    .bytes(),
                Frame::masked(CONTINUE, &vec![0; CAP / 2 + 1]).bytes(),
            ]
            .concat(),
            1009,
        ),
    ];
    // RFC 6455 7.4: never sent, reserved, or out of range.
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        rows.push(("V33 close code", close(&code.to_be_bytes()), 1002));
    }
    rows
}

#[test]
fn protocol_errors_of_a_client_close_it_with_the_code_the_rfc_names() {
    let (origin, proxy) = echo_proxy(json!({}));
    let before = proxy.memory_kib();
    for (name, bytes, code) in forbidden() {
        let mut client = Raw::open(proxy.address, "/", "");
        // A message that is well comes first: the session is open, and in no odd state.
        client.send_frame(&Frame::masked(TEXT, b"well"));
        assert_eq!(client.frame(WAIT), Frame::new(TEXT, b"well"), "{name}");
        client.send(&bytes);
        assert_eq!(
            client.close_code(WAIT),
            code,
            "{name}: {}",
            bytes.escape_ascii()
        );
        client.send_frame(&Frame::masked(CLOSE, &code.to_be_bytes()));
        client.end(WAIT);
    }
    // R06: lengths that are only promised cost nothing.
    let grown = proxy.memory_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB");
    drop(origin);
    proxy.finish();
}

#[test]
fn r15_valid_close_codes_pass_to_the_server_and_back() {
    let origin = Origin::bind();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    for code in (1000..=1003).chain(1007..=1014).chain([3000, 4000, 4999]) {
        let (mut client, mut server) = open_both(&proxy, &origin, "", "");
        client.send_frame(&Frame::close(code, "bye").with_key([1, 2, 3, 4]));
        // Answered at once, whatever the server does.
        assert_eq!(client.close_code(WAIT), code);
        let passed = server.frame(WAIT);
        assert_eq!(passed.close_code(), (code, "bye".to_owned()));
        assert!(passed.key.is_some(), "a frame to a server is masked");
        server.send_frame(&Frame::close(code, ""));
        server.end(WAIT);
        client.end(WAIT);
    }
    // An empty Close stays one: 1005 is never written.
    let (mut client, mut server) = open_both(&proxy, &origin, "", "");
    client.send_frame(&Frame::masked(CLOSE, b""));
    assert_eq!(client.frame(WAIT).payload, b"");
    assert_eq!(server.frame(WAIT).payload, b"");
    drop((client, server));
    proxy.finish();
}

#[test]
fn f10_a_servers_normal_close_reaches_the_client_unchanged() {
    // I, step 3: any Close was taken for a failure. W-F11, R-F10: each became 1000.
    let origin = Origin::bind();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    for (code, reason) in [
        (1000, "done"),
        (1008, ""),
        (3000, "a"),
        (4000, "kicked"),
        (4999, "é"),
    ] {
        let (mut client, mut server) = open_both(&proxy, &origin, "", "");
        server.send_frame(&Frame::close(code, reason));
        let answer = server.frame(WAIT);
        assert_eq!(answer.close_code().0, code);
        assert_eq!(client.frame(WAIT).close_code(), (code, reason.to_owned()));
        client.send_frame(&Frame::masked(CLOSE, &code.to_be_bytes()));
        server.end(WAIT);
        client.end(WAIT);
        assert!(
            origin.try_next(Duration::from_millis(50)).is_none(),
            "no failover"
        );
    }
    proxy.finish();
}

#[test]
fn frames_pass_with_their_masks_and_fragments() {
    // I-D5: fragments became messages, and long messages pieces.
    let (proxy, mut client, mut server) = pair(json!({}));
    let long = vec![b'l'; 70_000];
    let frames = [
        Frame::masked(TEXT, b"one")
            .with_key([9, 8, 7, 6])
            .unfinished(),
        Frame::masked(CONTINUE, b"")
            .with_key([1, 1, 1, 1])
            .unfinished(),
        Frame::masked(CONTINUE, b"two").with_key([0, 0, 0, 0]),
        Frame::masked(BINARY, b"").with_key([5, 5, 5, 5]),
        Frame::masked(BINARY, &long).with_key([0xFF, 0, 0xFF, 0]),
    ];
    frames
        .iter()
        .for_each(|frame| assert!(client.send_frame(frame)));
    for frame in &frames {
        assert_eq!(&server.frame(WAIT), frame);
    }
    let down = [
        Frame::new(BINARY, b"one").unfinished(),
        Frame::new(CONTINUE, b"two").unfinished(),
        Frame::new(CONTINUE, b""),
        Frame::new(TEXT, &long),
    ];
    down.iter()
        .for_each(|frame| assert!(server.send_frame(frame)));
    for frame in &down {
        assert_eq!(&client.frame(WAIT), frame);
    }
    drop((client, server));
    proxy.finish();
}

#[test]
fn r13_pings_are_answered_here_and_pongs_go_nowhere() {
    // B-D4: Pongs came without their payload.
    let (proxy, mut client, mut server) = pair(json!({}));
    client.send_frame(&Frame::masked(TEXT, b"half").unfinished());
    client.send_frame(&Frame::masked(PING, b"between the fragments"));
    client.send_frame(&Frame::masked(PONG, b"unasked"));
    client.send_frame(&Frame::masked(CONTINUE, b"whole"));
    let Next::Frame(pong) = client.next(WAIT) else {
        panic!("no Pong")
    };
    assert_eq!(pong, Frame::new(PONG, b"between the fragments"));
    assert_eq!(server.frame(WAIT).payload, b"half");
    assert_eq!(server.frame(WAIT).payload, b"whole");
    server.send_frame(&Frame::new(PING, b"from the server"));
    until_true(WAIT, "a Pong to the server", || match server.next(WAIT) {
        Next::Frame(frame) if frame.opcode == PONG => {
            assert_eq!(frame.payload, b"from the server");
            assert!(frame.key.is_some());
            true
        }
        // Barriers may come before it.
        Next::Frame(frame) => frame.opcode != PING && panic!("{frame:?}"),
        other => panic!("{other:?}"),
    });
    assert!(
        client.silent(Duration::from_millis(200)),
        "{:?}",
        client.pending
    );
    drop((client, server));
    proxy.finish();
}

#[test]
fn r14_v32_characters_may_be_split_anywhere_and_errors_show_at_once() {
    let (_origin, proxy) = echo_proxy(json!({}));
    let good = "aé€𝄞z".as_bytes();
    for split in 0..=good.len() {
        let mut client = Raw::open(proxy.address, "/", "");
        client.send_frame(&Frame::masked(TEXT, &good[..split]).unfinished());
        client.send_frame(&Frame::masked(CONTINUE, &good[split..]));
        let both = [client.frame(WAIT).payload, client.frame(WAIT).payload].concat();
        assert_eq!(both, good, "split at {split}");
    }
    // The frame is not complete; its first bytes are wrong already.
    for bad in ["F490", "EDA0", "C0", "FF"] {
        let mut client = Raw::open(proxy.address, "/", "");
        client.send(&[hex("81A0 00000000"), hex(bad)].concat());
        assert_eq!(client.close_code(WAIT), 1007, "{bad}");
    }
    proxy.finish();
}

#[test]
fn r21_ten_thousand_frames_in_one_write_come_back_in_order() {
    let (_origin, proxy) = echo_proxy(json!({}));
    let mut client = Raw::open(proxy.address, "/", "");
    let bytes: Vec<u8> = (0..10_000u32)
        .flat_map(|n| Frame::masked(BINARY, &n.to_be_bytes()).bytes())
        .collect();
    let mut writer = client.stream.try_clone().unwrap();
    let writing =
        std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes).unwrap());
    for number in 0..10_000u32 {
        assert_eq!(client.frame(WAIT).payload, number.to_be_bytes());
    }
    writing.join().unwrap();
    drop(client);
    proxy.finish();
}

#[test]
fn v30_floods_of_fragments_are_cut_off_by_number_and_by_time() {
    let (_origin, proxy) =
        echo_proxy(json!({ "limits": { "fragments": 1000, "message_time": "1s" } }));
    for (name, part) in [("empty", &b""[..]), ("of a byte", b"x")] {
        let mut client = Raw::open(proxy.address, "/", "");
        client.send_frame(&Frame::masked(BINARY, b"").unfinished());
        let flood = Frame::masked(CONTINUE, part)
            .unfinished()
            .bytes()
            .repeat(2_000);
        client.send(&flood);
        assert_eq!(client.close_code(WAIT), 1009, "{name}");
    }
    let mut slow = Raw::open(proxy.address, "/", "");
    let started = Instant::now();
    slow.send_frame(&Frame::masked(TEXT, b"and then").unfinished());
    let closed = loop {
        slow.send_frame(&Frame::masked(CONTINUE, b".").unfinished());
        match slow.next(Duration::from_millis(100)) {
            Next::Frame(frame) if frame.opcode == CLOSE => break frame.close_code().0,
            Next::End(end) => panic!("{end:?} without Close"),
            _ => assert!(started.elapsed() < WAIT, "a message without end"),
        }
    };
    assert_eq!(closed, 1008);
    drop(slow);
    proxy.finish();
}

#[test]
fn v31_ping_floods_are_cut_off_and_a_deaf_reader_costs_little() {
    let (_origin, proxy) = echo_proxy(json!({}));
    let ping = Frame::masked(PING, b"").bytes();
    // The burst that is allowed: every one is answered.
    let mut client = Raw::open(proxy.address, "/", "");
    client.send(&ping.repeat(150));
    for _ in 0..150 {
        let Next::Frame(pong) = client.next(WAIT) else {
            panic!("a Pong is missing")
        };
        assert_eq!(pong.opcode, PONG);
    }
    client.send(&ping.repeat(1000));
    assert_eq!(client.close_code(WAIT), 1008);
    // One that never reads is stopped too, and its Pongs pile up nowhere.
    let before = proxy.memory_kib();
    let mut deaf = Raw::open(proxy.address, "/", "");
    let flood = Frame::masked(PING, &[b'p'; 125]).bytes().repeat(1000);
    for _ in 0..20 {
        deaf.send(&flood);
    }
    deaf.close_code(WAIT);
    let grown = proxy.memory_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB");
    drop((client, deaf));
    proxy.finish();
}

#[test]
fn v34_compressed_messages_pass_as_they_are() {
    let origin = Origin::bind();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    let (mut client, mut server) = open_both(&proxy, &origin, DEFLATE, DEFLATE);
    // Raw deflate of "Hello" (RFC 7692 7.2.3.1); then a stored block that lies about its length:
    // nobody here looks inside, and text is not checked under compression.
    for payload in [hex("f248cdc9c90700"), hex("00ffff0000ff")] {
        let up = Frame::masked(TEXT, &payload).with_rsv1();
        client.send_frame(&up);
        assert_eq!(server.frame(WAIT), up);
        let down = Frame::new(TEXT, &payload).with_rsv1();
        server.send_frame(&down);
        assert_eq!(client.frame(WAIT), down);
    }
    // Only a message's first frame may carry the bit (RFC 7692 6.1).
    client.send_frame(&Frame::masked(TEXT, b"").with_rsv1().unfinished());
    client.send_frame(&Frame::masked(CONTINUE, b"").with_rsv1());
    assert_eq!(client.close_code(WAIT), 1002);
    drop((client, server));
    proxy.finish();
}

/// What a server must not send. Each is a failover, and never reaches the client.
fn server_faults() -> Vec<(&'static str, Vec<u8>)> {
    let close = |payload: &[u8]| Frame::new(CLOSE, payload).bytes();
    vec![
        ("V26 masked frame", Frame::masked(TEXT, b"hello").bytes()),
        ("R23 Close 1005", close(&1005u16.to_be_bytes())),
        ("R23 Close 1015", close(&1015u16.to_be_bytes())),
        ("R23 Close 999", close(&999u16.to_be_bytes())),
        ("R23 reason that is no UTF-8", close(&[0x03, 0xE8, 0xFF])),
        ("R23 Close of one byte", close(&[3])),
        ("Ping of 126 bytes", hex("897E 007E")),
        ("Ping without FIN", hex("0900")),
        ("reserved bit", hex("A100")),
        ("compressed without deflate", hex("C100")),
        ("reserved opcode", hex("8300")),
        ("continuation of nothing", hex("8000")),
        ("text inside text", hex("0101 61 8101 62")),
        ("length not minimal", hex("827E 0005")),
        ("bit 63 of the length", hex("827F 8000000000000000")),
    ]
}

#[test]
fn r23_protocol_errors_of_a_server_are_failovers() {
    for (name, bytes) in server_faults() {
        let origin = Origin::bind();
        let proxy = Proxy::start(&[origin.url()], json!({}));
        let (mut client, mut first) = open_both(&proxy, &origin, "", "");
        client.send_frame(&Frame::masked(TEXT, b"before"));
        assert_eq!(first.frame(WAIT).payload, b"before", "{name}");
        first.send(&bytes);
        let (mut second, head) = origin.adopt("");
        assert_eq!(head.header("x-balancer-reconnect"), Some("1"), "{name}");
        first.end(WAIT);
        // Whether it was confirmed before the fault decides if it comes again.
        client.send_frame(&Frame::masked(TEXT, b"after"));
        let mut got = second.frame(WAIT).payload;
        if head.header("x-wsteady-next") == Some("0") {
            assert_eq!(got, b"before", "{name}");
            got = second.frame(WAIT).payload;
        }
        assert_eq!(got, b"after", "{name}");
        second.send_frame(&Frame::new(TEXT, b"only this"));
        assert_eq!(client.frame(WAIT), Frame::new(TEXT, b"only this"), "{name}");
        drop((client, second));
        proxy.finish();
    }
}

#[test]
fn v26_more_than_ten_faults_of_servers_in_a_minute_close_the_client() {
    let origin = Origin::bind().serve(|raw, head| {
        raw.accept(head, "");
        raw.send_frame(&Frame::masked(TEXT, b"masked"));
        raw.end(Duration::from_secs(20));
    });
    let proxy = Proxy::start(&[origin.url()], json!({}));
    let mut client = Raw::open(proxy.address, "/", "");
    // The back-off between the dials is at most 50 ms x 2^n, 2 s.
    assert_eq!(client.close_code(Duration::from_secs(40)), 1011);
    let faults = origin.connections();
    assert!((10..=12).contains(&faults), "{faults} faults");
    drop(client);
    proxy.finish();
}

#[test]
fn i_d4_types_and_empty_messages_are_kept_both_ways() {
    // I-D4: binary became text. I-D5, R-D7: empty messages vanished, types were swapped.
    let (_origin, proxy) = echo_proxy(json!({}));
    let mut client = Raw::open(proxy.address, "/", "");
    for opcode in [BINARY, TEXT, BINARY] {
        for payload in [&b""[..], b"x", b""] {
            client.send_frame(&Frame::masked(opcode, payload));
            assert_eq!(client.frame(WAIT), Frame::new(opcode, payload));
        }
    }
    drop(client);
    proxy.finish();
}

#[test]
fn v38_sockets_that_come_and_go_never_touch_a_neighbour() {
    let origin = Origin::bind().serve(|raw, head| {
        raw.accept(head, "");
        // Named as the recording servers do it, so that the ledger's clients understand it.
        let mut number = 0;
        let id = head.header("sec-websocket-key").unwrap().to_owned();
        while let Next::Frame(frame) = raw.next(Duration::from_secs(20)) {
            match frame.opcode {
                TEXT | BINARY => {
                    let named = [format!("{id} {number} ").as_bytes(), &frame.payload].concat();
                    number += 1;
                    raw.send_frame(&Frame::new(frame.opcode, &named));
                }
                PING => {
                    raw.send_frame(&Frame::new(PONG, &frame.payload));
                }
                CLOSE => {
                    raw.send_frame(&Frame::new(CLOSE, &frame.payload));
                    return;
                }
                _ => {}
            }
        }
    });
    let proxy = Proxy::start(&[origin.url()], json!({}));
    let crowd = Crowd::start(proxy.address, 10, &Habit::default());
    let mut rng = Rng::from_environment();
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        // Batches, so that a close and the accept that takes its slot are one turn's events.
        let batch: Vec<Raw> = (0..10).map(|_| Raw::connect(proxy.address)).collect();
        for mut raw in batch {
            if rng.below(4) != 0 {
                raw.send(handshake("/churn", "").as_bytes());
            }
            if rng.below(2) == 0 {
                raw.reset();
            }
        }
    }
    crowd.hush();
    let histories = crowd.leave();
    for history in &histories {
        assert!(
            history.faults.is_empty() && history.closed.is_none(),
            "{history:?}"
        );
        assert!(history.accepted > 20, "{history:?}");
    }
    proxy.finish();
}

#[test]
fn w_d10_a_peer_that_says_nothing_is_found_out_on_either_leg() {
    // Ping after 1 s, dead after 1 s more. I-D11, R-D11: such peers stayed for ever.
    let origin = Origin::bind();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    let (mut client, mut server) = open_both(&proxy, &origin, "", "");
    // The server answers Pings, the client doesn't.
    let answering = std::thread::spawn(move || {
        echo_frames(&mut server);
        server.end(WAIT)
    });
    let Next::Frame(ping) = client.next(WAIT) else {
        panic!("no Ping")
    };
    assert_eq!(ping.opcode, PING);
    assert!(client.stream.peer_addr().is_ok());
    client.end(WAIT);
    answering.join().unwrap();
    // The client answers, the server doesn't.
    let (mut client, mut server) = open_both(&proxy, &origin, "", "");
    let answering = std::thread::spawn(move || client.frame(WAIT));
    assert!(matches!(server.next(WAIT), Next::Frame(ping) if ping.opcode == PING));
    let (mut second, head) = origin.adopt("");
    assert_eq!(head.header("x-balancer-reconnect"), Some("1"));
    second.send_frame(&Frame::new(TEXT, b"here"));
    assert_eq!(answering.join().unwrap().payload, b"here");
    server.end(WAIT);
    drop(second);
    proxy.finish();
}
