//! How wsteady ends: TERM drains, INT and a second TERM stop at once. P03 of the threat model.

use crate::support::frames::{CLOSE, Frame, TEXT};
use crate::support::peer::{Kind, Peer};
use crate::support::proxy::{Proxy, patient};
use crate::support::raw::{Origin, Raw, echo_origin, handshake};
use crate::support::{turn, until_true};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(15);

#[test]
fn term_closes_sessions_with_1001_spread_over_the_drain_time_and_ends_with_0() {
    // W-D13: no signal was handled. R-F12, B-D7: clients were simply cut off.
    let origin = echo_origin();
    let mut proxy = Proxy::start(&[origin.url()], json!({ "drain": "8s" }));
    let clients: Vec<Raw> = (0..20).map(|_| Raw::open(proxy.address, "/", "")).collect();
    proxy.signal(Signal::TERM);
    let started = Instant::now();
    let closing = clients.into_iter().map(|mut client| {
        std::thread::spawn(move || {
            let code = client.close_code(WAIT);
            let after = started.elapsed();
            client.send_frame(&Frame::masked(CLOSE, &code.to_be_bytes()));
            client.end(WAIT);
            (code, after)
        })
    });
    let closing: Vec<_> = closing.collect();
    until_true(WAIT, "new clients to be refused", || {
        let Some(mut client) = Raw::try_connect(proxy.address) else {
            return true;
        };
        client.send(handshake("/", "").as_bytes());
        client
            .try_head(Duration::from_secs(1))
            .is_none_or(|head| head.status() == 503)
    });
    let mut closes: Vec<_> = closing.into_iter().map(|one| one.join().unwrap()).collect();
    closes.sort_by_key(|(_, after)| *after);
    assert!(closes.iter().all(|(code, _)| *code == 1001), "{closes:?}");
    // The i-th of 20 at i x 8 s / 20: not in one heap.
    let early = closes
        .iter()
        .filter(|(_, after)| *after < Duration::from_secs(3))
        .count();
    assert!((3..=12).contains(&early), "{closes:?}");
    assert!(closes[19].1 > Duration::from_secs(4), "{closes:?}");
    assert_eq!(proxy.wait_exit(WAIT).code(), Some(0), "{}", proxy.log());
    assert!(
        started.elapsed() < Duration::from_secs(14),
        "drain and a little"
    );
}

#[test]
fn a_message_under_way_is_finished_before_the_1001() {
    let origin = Origin::bind();
    let mut proxy = Proxy::start(&[origin.url()], json!({ "drain": "2s" }));
    let mut client = Raw::connect(proxy.address);
    client.send(handshake("/", "").as_bytes());
    let (mut server, _) = origin.adopt("");
    assert_eq!(client.head(WAIT).status(), 101);
    server.send_frame(&Frame::new(TEXT, b"first half, ").unfinished());
    proxy.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    server.send_frame(&Frame::new(0, b"second half"));
    let mut whole = Vec::new();
    loop {
        let frame = client.frame(WAIT);
        if frame.opcode == CLOSE {
            assert_eq!(frame.close_code().0, 1001);
            break;
        }
        whole.extend(frame.payload);
    }
    assert_eq!(whole, b"first half, second half");
    drop((client, server));
    assert_eq!(proxy.wait_exit(WAIT).code(), Some(0));
}

#[test]
fn a_held_session_waits_for_its_server_to_the_deadline() {
    let origin = Origin::bind();
    let mut proxy = Proxy::start(&[origin.url()], json!({ "drain": "3s" }));
    let mut client = Raw::connect(proxy.address);
    client.send(handshake("/", "").as_bytes());
    let (server, _) = origin.adopt("");
    assert_eq!(client.head(WAIT).status(), 101);
    drop(server);
    // Dialled, but not answered: held.
    let (mut late, head) = origin.next();
    client.send_frame(&Frame::masked(TEXT, b"kept"));
    proxy.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    late.accept(&head, "");
    assert_eq!(late.frame(WAIT).payload, b"kept");
    assert_eq!(client.close_code(WAIT), 1001);
    drop((client, late));
    assert_eq!(proxy.wait_exit(WAIT).code(), Some(0));
}

#[test]
fn int_and_a_second_term_stop_at_once() {
    for signals in [&[Signal::INT][..], &[Signal::TERM, Signal::TERM]] {
        let origin = echo_origin();
        let mut proxy = Proxy::start(&[origin.url()], json!({ "drain": "60s" }));
        let mut client = Raw::open(proxy.address, "/", "");
        client.send_frame(&Frame::masked(TEXT, b"x"));
        assert_eq!(client.frame(WAIT).payload, b"x");
        let started = Instant::now();
        for signal in signals {
            proxy.signal(*signal);
            // Two that come together are one to the kernel.
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(proxy.wait_exit(WAIT).code(), Some(0), "{}", proxy.log());
        assert!(started.elapsed() < Duration::from_secs(3), "{signals:?}");
        client.end(WAIT);
    }
}

#[test]
fn f37_when_wsteady_itself_is_killed_clients_see_1006_and_nothing_is_corrupt() {
    use crate::support::client::Habit;
    use crate::support::ledger::Checker;
    use crate::support::peer::{Kind, Peer};
    let peer = Peer::start(Kind::Node, "b1", &[]);
    let mut proxy = Proxy::start(&[peer.url()], json!({}));
    let habit = Habit {
        every: Duration::from_millis(5),
        ..Habit::default()
    };
    let crowd = crate::support::client::Crowd::start(proxy.address, 3, &habit);
    crowd.send_more(150);
    proxy.signal(Signal::KILL);
    proxy.wait_exit(WAIT);
    std::thread::sleep(Duration::from_millis(300));
    let run = crowd.run;
    let histories = crowd.leave();
    assert!(
        histories.iter().all(|one| one.closed == Some(1006)),
        "{histories:?}"
    );
    let mut checker = Checker::new(run);
    checker.read(&peer.log());
    let verdict = checker.judge(&histories, Vec::new(), 0);
    assert_eq!(
        verdict.unexpected + verdict.inversions + verdict.cross_talk,
        0,
        "{verdict}"
    );
}

#[test]
fn five_thousand_busy_sessions_are_closed_evenly_over_the_drain_time() {
    const COUNT: u64 = 5_000;
    let _turn = turn();
    let peer = Peer::start(Kind::Node, "b1", &[]);
    // Whoever is slow to answer a Close is not waited for.
    let changes = json!({ "drain": "10s", "pools": { "main": { "timeouts": { "close": "1s" } } } });
    let mut proxy = Proxy::start(&[peer.url()], patient(changes));
    let mut crowd = proxy
        .is_believed_by(&mut Kind::Python.program("crowd"))
        .args([&proxy.url("/"), "--count", &COUNT.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(crowd.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "open");
    proxy.signal(Signal::TERM);
    let started = Instant::now();
    assert_eq!(proxy.wait_exit(2 * WAIT).code(), Some(0), "{}", proxy.log());
    let took = started.elapsed();
    assert!(took < Duration::from_secs(13), "{took:?}");
    let told: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(told["codes"], json!({ "1001": COUNT }));
    assert_eq!(told["wrong"], 0);
    assert!(told["echoed"].as_u64().unwrap() > COUNT, "{told}");
    // 500 a second, with room for a machine that does other things as well; not in one heap.
    let seconds: Vec<u64> = serde_json::from_value(told["seconds"].clone()).unwrap();
    assert!(seconds.len() >= 8, "{seconds:?}");
    assert!(
        seconds.iter().all(|count| *count < COUNT / 4),
        "{seconds:?}"
    );
    assert!(crowd.wait().unwrap().success());
}

/// The kernel takes a killed process's descriptors from the highest down: with its listeners above the
/// clients it refuses at once, and not when the last client is gone.
#[test]
fn a_killed_proxy_refuses_before_its_clients_are_gone() {
    let origin = echo_origin();
    let mut proxy = Proxy::start(&[origin.url()], json!({}));
    let clients: Vec<Raw> = (0..40).map(|_| Raw::open(proxy.address, "/", "")).collect();
    // RFC 9293's states as the kernel numbers them: 01 is open, 0A listens.
    let port = format!(":{:04X}", proxy.address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ours = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let state = fields[3];
        fields[1]
            .ends_with(&port)
            .then(|| (state, format!("socket:[{}]", fields[9])))
    });
    let ours: Vec<(&str, String)> = ours.collect();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", proxy.pid().as_raw_nonzero())).unwrap();
    let mut seen = 0;
    for task in tasks {
        let numbers = |state: &str| {
            let of_state = |name: &str| {
                ours.iter()
                    .any(|(one, socket)| *one == state && socket == name)
            };
            let all = std::fs::read_dir(task.as_ref().unwrap().path().join("fd")).unwrap();
            let all = all.flatten().filter_map(|entry| {
                let name = std::fs::read_link(entry.path()).ok()?;
                let number = entry.file_name().to_str()?.parse().ok()?;
                of_state(name.to_str()?).then_some(number)
            });
            all.collect::<Vec<u32>>()
        };
        let (open, listening) = (numbers("01"), numbers("0A"));
        if let (Some(highest), Some(lowest)) = (open.iter().max(), listening.iter().min()) {
            assert!(lowest > highest, "{listening:?} listen among {open:?}");
            seen += open.len();
        }
    }
    assert!(seen >= clients.len(), "{seen} seen of {}", clients.len());
    proxy.signal(Signal::KILL);
    proxy.wait_exit(WAIT);
}
