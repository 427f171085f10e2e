//! What the four older proxies got wrong with sessions, and where it is tested.
//!
//! I: a Go library for interruptible proxies; W: a Go balancer. D numbers their defects, "step"
//! the steps of their failover. Those that need a test of their own stand below; the others:
//!
//! | defect | test |
//! | --- | --- |
//! | I-D4, I-D5 types, boundaries | `frames::i_d4_…`, `frames::frames_pass_…` |
//! | I-D10 subprotocols | `handshake::the_servers_choice_of_subprotocol_…` |
//! | I-D11 no pings, no limits | `frames::w_d10_…`, `frames::r05_…` |
//! | I step 3 any Close is a failure | `frames::f10_…` |
//! | I step 7 overflow stops reading for ever | `failover::f17_…`, `failover::f18_…` |
//! | W-D1 deflate refused | `handshake::deflate_is_offered_…`, `real::chromium` |
//! | W-D2 `keep-alive, Upgrade` refused | `handshake::good_upgrades_…` |
//! | W-D3 2xx or a wrong accept key crashes | `handshake::k07_…`, `k08_…`, `replay::f08_f21_…` |
//! | W-D4 deadlock under load | `failover::w_d4_…` |
//! | W-D8 connections of failed clients stay | `handshake::k17_…` |
//! | W-D10 no limits, no deadlines | `frames::w_d10_…`, `frames::r05_…` |
//! | W-D13 no shutdown | `shutdown::*` |
//! | W-D14 hop-by-hop fields | `handshake::v20_…` |
//! | W step 2 close codes ignored | `failover::closes_whose_codes_…`, `abnormal_codes_…` below |
//! | W steps 5, 6 one pass, no wait | `failover::f16_…`, `replay::f22_…` |
//! | W step 8 messages lost in the kernel | `failover::f14_…` |
//! | W step 10 second negotiation ignored | `replay::a_redial_offers_…` |

use crate::support::frames::{BINARY, CLOSE, Frame, TEXT};
use crate::support::proxy::Proxy;
use crate::support::raw::{Next, Origin, Raw, echo_origin, handshake};
use crate::support::{free_port, until_true};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);

fn session(proxy: &Proxy, origin: &Origin) -> (Raw, Raw) {
    let mut client = Raw::connect(proxy.address);
    client.send(handshake("/", "").as_bytes());
    let (server, _) = origin.adopt("");
    assert_eq!(client.head(WAIT).status(), 101);
    (client, server)
}

fn stage(changes: Value) -> (Proxy, Origin) {
    let origin = Origin::bind();
    (Proxy::start(&[origin.url()], changes), origin)
}

#[test]
fn i_d1_i_d2_a_session_that_is_over_is_closed_on_both_sides_and_forgotten() {
    let (proxy, origin) = stage(json!({}));
    for _ in 0..10 {
        let (mut client, mut server) = session(&proxy, &origin);
        client.send_frame(&Frame::masked(CLOSE, &1000u16.to_be_bytes()));
        assert_eq!(client.close_code(WAIT), 1000);
        client.end(WAIT);
        assert_eq!(server.frame(WAIT).close_code().0, 1000);
        server.send_frame(&Frame::new(CLOSE, &1000u16.to_be_bytes()));
        server.end(WAIT);
    }
    // I-F7: a server served one client in its life.
    assert_eq!(proxy.count("wsteady_connections_opened_total", &[]), 10);
    proxy.finish();
}

#[test]
fn i_d3_what_was_kept_is_delivered_by_itself_whole_and_apart() {
    // Steps 8 to 13: nothing came until the client spoke again; the message that woke it was
    // thrown away; all were glued into one text; a server that spoke first wiped them; later ones
    // were cut up; a second outage mixed old and new.
    let (proxy, origin) = stage(json!({}));
    let (mut client, server) = session(&proxy, &origin);
    let mut server = Some(server);
    for outage in 0..3u8 {
        drop(server.take());
        let (mut waiting, head) = origin.next();
        let kept = [
            Frame::masked(TEXT, &[b'A' + outage; 4]),
            Frame::masked(BINARY, &[outage; 55]),
            Frame::masked(TEXT, b""),
        ];
        kept.iter()
            .for_each(|frame| assert!(client.send_frame(frame)));
        until_true(WAIT, "three kept", || {
            proxy.count("wsteady_messages_journaled", &[]) == 3
        });
        waiting.accept(&head, "");
        waiting.send_frame(&Frame::new(TEXT, b"I speak first"));
        for frame in &kept {
            assert_eq!(&waiting.frame(WAIT), frame, "outage {outage}");
        }
        assert_eq!(client.frame(WAIT).payload, b"I speak first");
        let long = Frame::masked(BINARY, &[b'l'; 5000]);
        client.send_frame(&long);
        assert_eq!(waiting.frame(WAIT), long, "outage {outage}");
        // Confirmed before the next outage, so that each begins with nothing.
        until_true(WAIT, "all confirmed", || {
            waiting.silent(Duration::from_millis(1));
            while let Some((frame, length)) = Frame::parse(&waiting.pending) {
                waiting.pending.drain(..length);
                waiting.send_frame(&Frame::new(10, &frame.payload));
            }
            proxy.count("wsteady_messages_journaled", &[]) == 0
        });
        server = Some(waiting);
    }
    drop((client, server));
    proxy.finish();
}

#[test]
fn i_d6_servers_by_address_and_by_name_can_be_dialled() {
    let origin = echo_origin();
    let by_name = format!("ws://localhost:{}", origin.address.port());
    for url in [origin.url(), by_name] {
        let proxy = Proxy::start(&[url], json!({}));
        let mut client = Raw::open(proxy.address, "/", "");
        client.send_frame(&Frame::masked(TEXT, b"x"));
        assert_eq!(client.frame(WAIT).payload, b"x");
        drop(client);
        proxy.finish();
    }
}

#[test]
fn i_d9_an_idle_session_owns_no_buffer() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({ "session": { "buffer": "5MiB" } }));
    let mut clients: Vec<Raw> = (0..200)
        .map(|_| Raw::open(proxy.address, "/", ""))
        .collect();
    for client in &mut clients {
        client.send_frame(&Frame::masked(BINARY, &[1; 3000]));
        assert_eq!(client.frame(WAIT).payload.len(), 3000);
    }
    until_true(WAIT, "all buffers to be given back", || {
        proxy.count("wsteady_buffer_bytes", &[]) == 0
    });
    // 200 x 5 MiB would be a gigabyte.
    assert!(proxy.memory_kib() < 200 << 10, "{} KiB", proxy.memory_kib());
    drop(clients);
    proxy.finish();
}

#[test]
fn i_f10_the_first_connect_takes_no_seconds() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    let started = Instant::now();
    for _ in 0..10 {
        drop(Raw::open(proxy.address, "/", ""));
    }
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    proxy.finish();
}

#[test]
fn i_step_15_a_server_that_failed_often_is_used_again() {
    // The error budget was for a lifetime, and never came back.
    let (proxy, origin) = stage(json!({ "session": { "replay_attempts": 100 } }));
    let (mut client, server) = session(&proxy, &origin);
    let mut server = server;
    for round in 0..20u32 {
        server.reset();
        server = origin.adopt("").0;
        // Confirmed, so that the back-off starts anew.
        client.send_frame(&Frame::masked(BINARY, &round.to_be_bytes()));
        assert_eq!(server.frame(WAIT).payload, round.to_be_bytes());
        let Next::Frame(ping) = server.next(WAIT) else {
            panic!("no barrier")
        };
        server.send_frame(&Frame::new(10, &ping.payload));
        until_true(WAIT, "it to be confirmed", || {
            proxy.count("wsteady_messages_journaled", &[]) == 0
        });
    }
    drop((client, server));
    proxy.finish();
}

#[test]
fn w_d1_clients_with_deflate_trip_no_breaker() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    for _ in 0..15 {
        let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
        drop(Raw::open(proxy.address, "/", offer));
    }
    assert_eq!(proxy.count("wsteady_breaker_open", &[]), 0);
    drop(Raw::open(proxy.address, "/", ""));
    proxy.finish();
}

#[test]
fn w_d3_a_2xx_or_a_wrong_key_on_reconnect_kills_nothing() {
    let (proxy, origin) = stage(json!({}));
    let (mut client, server) = session(&proxy, &origin);
    let mut other = {
        // A neighbour that the crash took with it.
        let (neighbour, its) = session(&proxy, &origin);
        (neighbour, its)
    };
    server.reset();
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    ] {
        let (mut wrong, _) = origin.next();
        wrong.send(answer.as_bytes());
        wrong.end(WAIT);
    }
    let (mut server, _) = origin.adopt("");
    client.send_frame(&Frame::masked(TEXT, b"alive"));
    assert_eq!(server.frame(WAIT).payload, b"alive");
    other.0.send_frame(&Frame::masked(TEXT, b"so am I"));
    assert_eq!(other.1.frame(WAIT).payload, b"so am I");
    drop((client, server, other));
    proxy.finish();
}

#[test]
fn w_d11_a_client_that_leaves_while_its_session_is_held_is_let_go() {
    let (proxy, origin) = stage(json!({ "session": { "hold": "2s" } }));
    let (mut client, server) = session(&proxy, &origin);
    drop((server, origin));
    until_true(WAIT, "a hold", || {
        proxy.count("wsteady_sessions_held", &[]) == 1
    });
    for _ in 0..100 {
        client.send_frame(&Frame::masked(TEXT, &[b'x'; 1000]));
    }
    client.reset();
    until_true(WAIT, "its messages to be counted", || {
        proxy.count("wsteady_messages_unconfirmed_total", &[]) > 0
    });
    proxy.finish();
}

#[test]
fn w_step_2_abnormal_codes_are_those_that_the_pool_lists() {
    // The configured list was never looked at.
    let (proxy, origin) = stage(json!({ "pools": { "main": { "abnormal_close_codes": [4000] } } }));
    let (mut client, mut server) = session(&proxy, &origin);
    server.send_frame(&Frame::close(4000, "again"));
    let (mut server, _) = origin.adopt("");
    server.send_frame(&Frame::close(1012, "not listed"));
    assert_eq!(
        client.frame(WAIT).close_code(),
        (1012, "not listed".to_owned())
    );
    drop((client, server));
    proxy.finish();
}

#[test]
fn w_step_5_the_next_server_is_another_and_a_lost_one_is_the_last_choice() {
    let (first, second) = (Origin::bind(), Origin::bind());
    let gone = format!("ws://127.0.0.1:{}", free_port());
    let proxy = Proxy::start(&[first.url(), second.url(), gone], json!({}));
    proxy.admin("PATCH", "/v1/servers/b2", Some(r#"{"state": "disabled"}"#));
    let mut client = Raw::connect(proxy.address);
    client.send(handshake("/", "").as_bytes());
    let (server, _) = first.adopt("");
    assert_eq!(client.head(WAIT).status(), 101);
    proxy.admin("PATCH", "/v1/servers/b2", Some(r#"{"state": "enabled"}"#));
    server.reset();
    let (server, head) = second.adopt("");
    assert_eq!(head.header("x-balancer-reconnect"), Some("1"));
    drop((client, server));
    proxy.finish();
}
