//! More clients than there is room for: by address, by memory, by descriptors. O01 to O12 of the
//! threat model, scaled down: hundreds where that counts in thousands, seconds for minutes.
//! What such crowds cost those who are inside is measured by `scripts/bench-herd`.

use crate::support::frames::{BINARY, Frame, TEXT};
use crate::support::peer::{Kind, Peer};
use crate::support::proxy::Proxy;
use crate::support::raw::{End, Head, Next, Origin, Raw, echo_frames, echo_origin, handshake};
use crate::support::{until, until_true};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(15);

/// Nobody is asked for a sign of life here.
fn calm(mut changes: Value) -> Value {
    changes["pools"]["main"]["timeouts"] = json!({ "ping": "60s", "pong": "10s", "close": "1s" });
    changes
}

/// A server that has many threads to start may take its time.
fn patient(changes: Value) -> Value {
    let mut changes = calm(changes);
    changes["pools"]["main"]["timeouts"]["handshake"] = json!("20s");
    changes["session"] = json!({ "admit": "20s" });
    changes
}

fn connect_from(source: [u8; 4], proxy: &Proxy) -> Raw {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let source = SocketAddr::from((Ipv4Addr::from(source), 0));
    socket.bind(&source.into()).unwrap();
    socket.connect(&proxy.address.into()).unwrap();
    Raw::over(socket.into())
}

/// Asks for a session.
fn ask(mut client: Raw, more: &str) -> (Raw, Head) {
    client.send(handshake("/", more).as_bytes());
    let head = client.head(WAIT);
    (client, head)
}

fn must_echo(client: &mut Raw) {
    client.send_frame(&Frame::masked(TEXT, b"still there?"));
    assert_eq!(client.frame(WAIT).payload, b"still there?");
}

/// Turned away, and told when to come again and why; the connection ends in order.
fn must_be_refused(mut client: Raw, head: &Head, status: u16, why: &str) {
    assert_eq!(head.status(), status, "{head:?}");
    assert_eq!(head.header("retry-after"), Some("1"), "{head:?}");
    let body = client.body(head, WAIT);
    assert_eq!(String::from_utf8_lossy(&body).trim(), why);
    assert_eq!(client.end(WAIT), End::Fin, "no reset destroys the answer");
}

const CROWDED: &str = "too many connections from your address";

#[test]
fn an_address_has_so_many_connections_and_no_more() {
    let origin = echo_origin();
    let changes = calm(json!({ "limits": { "per_address": 3 } }));
    let proxy = Proxy::start(&[origin.url()], changes);
    let mut inside: Vec<Raw> = (0..3).map(|_| Raw::open(proxy.address, "/", "")).collect();
    // Over all loops together, and whatever they are.
    for _ in 0..8 {
        let (client, head) = ask(Raw::connect(proxy.address), "");
        must_be_refused(client, &head, 429, CROWDED);
    }
    let denied = proxy.count(
        "wsteady_connections_denied_total",
        &[("reason", "too_many")],
    );
    assert_eq!(denied, 8);
    let (mut neighbour, head) = ask(connect_from([127, 0, 0, 2], &proxy), "");
    assert_eq!(head.status(), 101, "another address");
    must_echo(&mut neighbour);
    inside.iter_mut().for_each(must_echo);

    drop(inside.pop());
    let (mut next, head) = until(WAIT, "a place that was given back", || {
        let (client, head) = ask(Raw::connect(proxy.address), "");
        (head.status() == 101).then_some((client, head))
    });
    assert_eq!(head.status(), 101);
    must_echo(&mut next);
    inside.push(next);

    // Less than are here: they stay. None: all may come. Some: those who came meanwhile count.
    for (limit, status) in [(1, 429), (0, 101), (3, 429)] {
        proxy.reload(|config| config["limits"]["per_address"] = json!(limit));
        until_true(WAIT, "the new limit", || {
            let (client, head) = ask(Raw::connect(proxy.address), "");
            let same = head.status() == status;
            if same && status == 101 {
                inside.push(client);
            }
            same
        });
        inside.iter_mut().for_each(must_echo);
    }
    drop((inside, neighbour));
    proxy.finish();
}

#[test]
fn behind_our_own_proxy_a_client_counts_by_the_address_that_the_proxy_names() {
    let origin = echo_origin();
    let changes = calm(json!({
        "limits": { "per_address": 2 }, "trusted_proxies": ["127.0.0.1"],
    }));
    let proxy = Proxy::start(&[origin.url()], changes);
    let from = |address: &str| {
        let line = format!("X-Forwarded-For: {address}\r\n");
        ask(Raw::connect(proxy.address), &line)
    };
    let mut inside = Vec::new();
    for address in [
        "203.0.113.7",
        "203.0.113.7",
        "203.0.113.8",
        "2001:db8::1",
        "2001:db8::2",
    ] {
        let (client, head) = from(address);
        assert_eq!(head.status(), 101, "{address}");
        inside.push(client);
    }
    for address in [
        "203.0.113.7",
        "8.8.8.8, 203.0.113.7, 127.0.0.1",
        "2001:db8::3",
    ] {
        let (client, head) = from(address);
        must_be_refused(client, &head, 429, CROWDED);
    }
    // One that names nobody is our own.
    for _ in 0..4 {
        inside.push(Raw::open(proxy.address, "/", ""));
    }
    drop(inside.remove(0));
    until_true(WAIT, "a place that was given back", || {
        let (client, head) = from("203.0.113.7");
        inside.push(client);
        head.status() == 101
    });
    drop(inside);
    proxy.finish();
}

#[test]
fn with_too_little_memory_new_clients_get_503_and_those_inside_go_on() {
    let awake = Arc::new(AtomicBool::new(false));
    let wakes = Arc::clone(&awake);
    let origin = Origin::bind().serve(move |raw, head| {
        raw.accept(head, "");
        while head.first.contains("/stuck") && !wakes.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        echo_frames(raw);
    });
    let changes = calm(json!({ "loops": 1, "session": { "buffer": "64MiB" } }));
    let proxy = Proxy::start(&[origin.url()], changes);
    let pressure = || proxy.count("wsteady_memory_pressure", &[]);
    let mut inside = Raw::open(proxy.address, "/", "");
    let mut waiting = Raw::connect(proxy.address);
    let mut greedy = Raw::open(proxy.address, "/stuck", "");
    assert_eq!(pressure(), 0);
    // Its server reads none of it: 63 of 67 MB wait to be confirmed.
    let large = Frame::masked(BINARY, &vec![7; 1_000_000]);
    for _ in 0..63 {
        assert!(greedy.send_frame(&large));
    }
    until_true(WAIT, "all to be held", || {
        proxy.count("wsteady_messages_journaled", &[]) == 63
    });
    assert_eq!(pressure(), 2);
    let (client, head) = ask(Raw::connect(proxy.address), "");
    must_be_refused(client, &head, 503, "memory is short");
    must_echo(&mut inside);
    // Who had connected before, but had not asked.
    waiting.send(handshake("/", "").as_bytes());
    let head = waiting.head(WAIT);
    must_be_refused(waiting, &head, 503, "memory is short");
    // Its client leaves; its server gets all of it.
    drop(greedy);
    awake.store(true, Relaxed);
    until_true(WAIT, "room for new clients", || {
        let (_, head) = ask(Raw::connect(proxy.address), "");
        head.status() == 101
    });
    assert_eq!(pressure(), 0);
    let said = |what: &str| {
        proxy
            .log()
            .lines()
            .filter(|line| line.contains(what))
            .count()
    };
    // The log has a thread of its own.
    until_true(WAIT, "the log", || said("memory is no longer short") > 0);
    assert_eq!(said("memory is no longer short"), 1);
    assert_eq!(said("memory is very short"), 1, "once, and not per client");
    drop(inside);
    proxy.finish();
}

#[test]
fn o01_without_descriptors_who_is_inside_goes_on_and_who_waits_is_served_later() {
    let origin = echo_origin();
    let changes = calm(json!({ "loops": 1, "limits": { "handshake": "60s" } }));
    let through = ["prlimit", "--nofile=200:200"].map(String::from);
    let proxy = Proxy::start_through(&through, &[origin.url()], changes);
    let mut inside = Raw::open(proxy.address, "/", "");
    let crowd: Vec<Raw> = (0..300).map(|_| Raw::connect(proxy.address)).collect();
    let mut last = Raw::connect(proxy.address);
    last.send(handshake("/", "").as_bytes());
    until_true(WAIT, "descriptors to run out", || {
        proxy.count("wsteady_accepts_failed_total", &[]) > 0
    });
    let (begun, busy) = (Instant::now(), cpu_ticks(&proxy));
    while begun.elapsed() < Duration::from_secs(2) {
        must_echo(&mut inside);
        std::thread::sleep(Duration::from_millis(100));
    }
    // 100 ticks a second: a loop that spins at its listener takes 200.
    let busy = cpu_ticks(&proxy) - busy;
    assert!(busy <= 20, "{busy} ticks of CPU in 2 s");
    assert!(
        last.silent(Duration::from_millis(1)),
        "it waits in the kernel"
    );
    let freed = Instant::now();
    drop(crowd);
    assert_eq!(last.head(WAIT).status(), 101, "without another SYN");
    // The listener is tried each 100 ms; the rest is the machine's.
    assert!(
        freed.elapsed() < Duration::from_secs(3),
        "{:?}",
        freed.elapsed()
    );
    must_echo(&mut inside);
    drop((inside, last));
    proxy.finish();
}

#[test]
fn v36_sessions_leave_descriptors_for_their_failover() {
    let origins = [echo_origin(), echo_origin()];
    let changes = patient(json!({ "loops": 1, "limits": { "handshake": "20s" } }));
    let through = ["prlimit", "--nofile=200:200"].map(String::from);
    let urls = [origins[0].url(), origins[1].url()];
    let proxy = Proxy::start_through(&through, &urls, changes);
    let mut inside = Vec::new();
    let (client, head) = loop {
        let (client, head) = ask(Raw::connect(proxy.address), "");
        if head.status() != 101 {
            break (client, head);
        }
        inside.push(client);
        assert!(inside.len() < 100, "a session has two");
    };
    must_be_refused(
        client,
        &head,
        503,
        "no descriptor is left for another session",
    );
    assert!(inside.len() > 60, "{}", inside.len());
    let answer = proxy.admin("POST", "/v1/servers/b1/failover", None);
    assert!(answer.status < 300, "{} {}", answer.status, answer.body);
    let moved = |reason| proxy.count("wsteady_failovers_total", &[("reason", reason)]);
    until_true(WAIT, "half of them to be moved", || {
        moved("moved") >= inside.len() as u64 / 2 - 1
    });
    assert_eq!(moved("exhausted"), 0);
    inside.iter_mut().for_each(must_echo);
    drop(inside);
    proxy.finish();
}

/// User and system time of the process, in clock ticks.
fn cpu_ticks(proxy: &Proxy) -> u64 {
    let pid = proxy.pid().as_raw_nonzero();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    // proc(5): utime and stime are the 14th and 15th, the state behind the name the third.
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// So many clients whose handshakes come in one moment.
fn rush(proxy: &Proxy, count: usize) -> Vec<Raw> {
    let mut crowd: Vec<Raw> = (0..count).map(|_| Raw::connect(proxy.address)).collect();
    let head = handshake("/", "");
    for client in &mut crowd {
        assert!(client.send(head.as_bytes()));
    }
    crowd
}

#[test]
fn o04_a_thousand_handshakes_at_once_are_served_or_told_to_come_later() {
    let origin = echo_origin();
    let limits = json!({ "connections": 901, "handshake": "20s" });
    let proxy = Proxy::start(&[origin.url()], patient(json!({ "limits": limits })));
    let mut inside = Raw::open(proxy.address, "/", "");
    let mut served = Vec::new();
    let mut refused = 0;
    for mut client in rush(&proxy, 1_000) {
        // None is reset, none forgotten.
        match client.head(WAIT).status() {
            101 => served.push(client),
            503 => {
                refused += 1;
                assert_eq!(client.end(WAIT), End::Fin);
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!((served.len(), refused), (900, 100));
    must_echo(&mut inside);
    served.iter_mut().for_each(must_echo);
    drop((inside, served));
    proxy.finish();
}

#[test]
fn o05_clients_of_a_proxy_that_was_killed_all_come_again() {
    let origin = echo_origin();
    let changes = patient(json!({ "limits": { "handshake": "20s" } }));
    let mut proxy = Proxy::start(&[origin.url()], changes);
    let before: Vec<Raw> = (0..50).map(|_| Raw::open(proxy.address, "/", "")).collect();
    proxy.restart();
    for mut client in before {
        client.end(WAIT);
    }
    let mut crowd = rush(&proxy, 600);
    for client in &mut crowd {
        assert_eq!(client.head(WAIT).status(), 101);
    }
    crowd.iter_mut().for_each(must_echo);
    drop(crowd);
    proxy.finish();
}

#[test]
fn o05_sessions_of_a_server_that_was_killed_come_to_the_next_at_the_pace_that_is_allowed() {
    const RATE: usize = 150;
    let moments = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&moments);
    let next = Origin::bind().serve(move |raw, head| {
        seen.lock().unwrap().push(Instant::now());
        raw.accept(head, "");
        echo_frames(raw);
    });
    let mut first = Peer::start(Kind::Node, "first", &[]);
    let proxy = Proxy::start(
        &[first.url(), next.url()],
        calm(json!({ "loops": 4, "pools": { "main": { "connect_rate": RATE } } })),
    );
    let state = |state: &str| {
        let change = format!("{{\"state\":\"{state}\"}}");
        let answer = proxy.admin("PATCH", "/v1/servers/b2", Some(&change));
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    state("disabled");
    let mut crowd: Vec<Raw> = (0..600)
        .map(|_| Raw::open(proxy.address, "/", ""))
        .collect();
    state("enabled");
    first.kill();
    crowd.iter_mut().for_each(must_echo);
    // In no second more than a second's worth and the tenth of one that may come at once; the rest
    // is how late a thread of the server may be.
    let moments = moments.lock().unwrap();
    let most = (0..moments.len())
        .map(|from| {
            let until = moments[from] + Duration::from_secs(1);
            moments[from..].iter().filter(|at| **at < until).count()
        })
        .max();
    assert_eq!(moments.len(), 600);
    assert!(most.unwrap() <= RATE * 3 / 2, "{most:?} in one second");
    drop(moments);
    drop(crowd);
    proxy.finish();
}

#[test]
fn o06_many_that_read_nothing_stay_within_the_bound_and_others_notice_nothing() {
    let origin = Origin::bind().serve(|raw, head| {
        raw.accept(head, "");
        if !head.first.contains("/flood") {
            return echo_frames(raw);
        }
        let piece = Frame::new(BINARY, &vec![9; 500_000]).bytes();
        while raw.send(&piece) {}
    });
    let limit = 24 << 20;
    let changes = calm(json!({ "limits": { "memory": limit, "message": "4MiB" } }));
    let proxy = Proxy::start(&[origin.url()], changes);
    let mut inside: Vec<Raw> = (0..20).map(|_| Raw::open(proxy.address, "/", "")).collect();
    let flood = |_| {
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/flood", "").as_bytes());
        client
    };
    let deaf: Vec<Raw> = (0..60).map(flood).collect();
    let mut most = 0;
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        inside.iter_mut().for_each(must_echo);
        let metrics = proxy.metrics();
        let held = metrics.sum("wsteady_buffer_bytes", &[]);
        most = most.max(held);
        assert!(held <= limit, "{held} of {limit}");
    }
    assert!(most > 1 << 20, "{most} bytes are no flood");
    drop((inside, deaf));
    proxy.finish();
}

#[test]
fn o08_one_that_never_stops_sending_keeps_nobody_else_waiting() {
    let origin = echo_origin();
    let changes = calm(json!({ "loops": 1 }));
    let proxy = Proxy::start(&[origin.url()], changes);
    let mut light: Vec<Raw> = (0..50).map(|_| Raw::open(proxy.address, "/", "")).collect();
    let busy = Raw::open(proxy.address, "/", "");
    let (mut writes, mut reads) = (busy.stream.try_clone().unwrap(), busy);
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let writer = std::thread::spawn(move || {
        let piece = Frame::masked(BINARY, &vec![5; 64 << 10]).bytes();
        let mut sent = 0_u64;
        while !stop.load(Relaxed) {
            std::io::Write::write_all(&mut writes, &piece).unwrap();
            sent += 1;
        }
        sent
    });
    let reader = std::thread::spawn(move || {
        let mut got = 0_u64;
        while let Next::Frame(frame) = reads.next(Duration::from_secs(2)) {
            got += u64::from(frame.opcode == BINARY);
        }
        (got, reads)
    });
    for _ in 0..10 {
        light.iter_mut().for_each(must_echo);
    }
    over.store(true, Relaxed);
    let (sent, (got, busy)) = (writer.join().unwrap(), reader.join().unwrap());
    assert_eq!(sent, got);
    assert!(sent > 50, "{sent} messages are no flood");
    drop((light, busy));
    proxy.finish();
}

#[test]
fn o10_clients_that_trickle_their_heads_are_gone_by_the_deadline() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], calm(json!({})));
    let mut slow: Vec<Raw> = (0..200).map(|_| Raw::connect(proxy.address)).collect();
    let head = handshake("/", "");
    let begun = Instant::now();
    for byte in head.as_bytes().iter().take(15) {
        slow.iter_mut()
            .for_each(|client| assert!(client.send(&[*byte])));
        let asked = Instant::now();
        drop(Raw::open(proxy.address, "/", ""));
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?} for a good client");
        std::thread::sleep(Duration::from_millis(100));
    }
    // `limits.handshake` is 2 s here.
    for client in &mut slow {
        assert_eq!(client.head(WAIT).status(), 408);
    }
    let late = begun.elapsed();
    assert!(late < Duration::from_secs(6), "{late:?} for 2 s");
    drop(slow);
    proxy.finish();
}

#[test]
fn o12_connections_that_are_reset_at_once_leave_nothing_behind() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], calm(json!({})));
    let mut inside = Raw::open(proxy.address, "/", "");
    let before = (proxy.memory_kib(), proxy.log().lines().count());
    for round in 0..5_000 {
        let mut client = Raw::connect(proxy.address);
        if round % 2 == 0 {
            client.send(&handshake("/", "").as_bytes()[..round % 90]);
        }
        client.reset();
    }
    must_echo(&mut inside);
    drop(inside);
    let lines = proxy.log().lines().count() - before.1;
    assert!(lines < 50, "{lines} lines for nothing");
    let grown = proxy.memory_kib().saturating_sub(before.0);
    assert!(grown < 16 << 10, "{grown} KiB");
    proxy.finish();
}

#[test]
fn where_one_local_address_has_no_port_the_next_one_is_taken() {
    // 192.0.2.1 is nobody's (RFC 5737): the kernel says the same as where all ports are taken.
    let nowhere = "192.0.2.1";
    let origin = echo_origin();
    let health = json!({ "interval": "1s", "timeout": "1s" });
    let changes = |sources: &[&str]| {
        let pool = json!({ "source_addresses": sources, "health": health,
            "breaker": { "threshold": 1 } });
        calm(json!({ "pools": { "main": pool } }))
    };
    let proxy = Proxy::start(&[origin.url()], changes(&[nowhere, "127.0.0.3"]));
    for _ in 0..6 {
        must_echo(&mut Raw::open(proxy.address, "/", ""));
    }
    assert!(!proxy.log().contains("no local port"), "{}", proxy.log());
    proxy.finish();

    let proxy = Proxy::start(&[origin.url()], changes(&[nowhere]));
    for _ in 0..2 {
        let (_, head) = ask(Raw::connect(proxy.address), "");
        assert_eq!(head.status(), 502);
    }
    // Nothing of it is the server's fault.
    assert_eq!(proxy.count("wsteady_breaker_open", &[]), 0);
    assert_eq!(proxy.count("wsteady_server_up", &[]), 1);
    let log = proxy.log();
    let said = log.lines().filter(|line| line.contains("no local port"));
    let said: Vec<&str> = said.collect();
    // Each of two loops once a minute.
    assert!((1..=2).contains(&said.len()), "{said:?}");
    assert!(said[0].contains("source_addresses"), "{said:?}");
    proxy.finish();
}
