//! Several nodes: a push at any of them reaches its client on whichever has him, and 404 is said
//! only if none has.

use crate::bridge::{bridge_through, bridge_to};
use crate::support::api::Api;
use crate::support::frames::{CLOSE, Frame, TEXT};
use crate::support::hosts::Hosts;
use crate::support::proxy::Proxy;
use crate::support::raw::{Head, Raw};
use crate::support::{free_port, until, until_true};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);

/// As the nodes of these tests have it.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(500);

/// Nodes with a bridge to the same API, each with all of them in its list unless there is a bus.
pub(crate) struct Nodes {
    pub nodes: Vec<Proxy>,
    api: Api,
}

impl Nodes {
    pub fn start(count: usize, changes: &Value) -> Nodes {
        let api = Api::echo();
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let peers: Vec<String> = ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let nodes = ports.iter().map(|port| {
            let mut changes = changes.clone();
            changes["listen"] = json!(format!("127.0.0.1:{port}"));
            let own = &changes["cluster"];
            if own["peers"].is_null() && own["bus"].is_null() {
                changes["cluster"]["peers"] = json!(peers);
            }
            changes["cluster"]["timeout"] = json!("500ms");
            bridge_to(vec![api.url()], changes)
        });
        let nodes = nodes.collect();
        Nodes { nodes, api }
    }

    pub fn join(&self, node: usize, id: &str) -> Raw {
        Raw::open(self.nodes[node].address, &format!("/{id}"), "")
    }

    pub fn push(&self, node: usize, id: &str, text: &str) -> (u16, String) {
        let answer = tell(self.nodes[node].address, &format!("POST /{id}"), "", text);
        (answer.status, answer.body)
    }

    /// Stops a node, and waits until all of its threads stand.
    pub fn halt(&self, node: usize) {
        let node = &self.nodes[node];
        node.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", node.pid().as_raw_nonzero());
        until_true(WAIT, "all threads to stand", || {
            let stands = |task: std::fs::DirEntry| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.rsplit_once(") ")
                    .is_some_and(|(_, rest)| rest.starts_with('T'))
            };
            std::fs::read_dir(&tasks).unwrap().flatten().all(stands)
        });
    }

    /// Waits until a node sees so many others in this state.
    pub fn see(&self, node: usize, state: &str, count: usize) {
        let what = format!("node {node} to see {count} {state}");
        let mut last = Value::Null;
        until_true(WAIT, &what, || {
            let now = self.nodes[node].admin("GET", "/v1/cluster", None).json();
            if now != last {
                eprintln!("node {node}: {now}");
                last = now;
            }
            let peers = last["peers"].as_array().expect("a list");
            peers.iter().filter(|peer| peer["state"] == state).count() == count
        });
    }

    pub fn finish(self) {
        self.nodes.into_iter().for_each(Proxy::finish);
        drop(self.api);
    }
}

pub(crate) struct Answer {
    pub status: u16,
    head: Head,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }
}

pub(crate) fn tell(
    address: SocketAddr,
    request: &str,
    headers: &str,
    body: impl AsRef<[u8]>,
) -> Answer {
    let body = body.as_ref();
    let mut raw = Raw::connect(address);
    let length = match request.starts_with("GET ") {
        true => String::new(),
        false => format!("Content-Length: {}\r\n", body.len()),
    };
    let head = format!("{request} HTTP/1.1\r\nHost: proxy.test\r\n{headers}{length}\r\n");
    raw.send(&[head.as_bytes(), body].concat());
    let head = raw.head(WAIT);
    let body = raw.body(&head, WAIT);
    Answer {
        status: head.status(),
        body: String::from_utf8_lossy(&body).into_owned(),
        head,
    }
}

pub(crate) fn hear(client: &mut Raw) -> String {
    let frame = client.frame(WAIT);
    assert_eq!(frame.opcode, TEXT, "{frame:?}");
    String::from_utf8(frame.payload).unwrap()
}

pub(crate) fn leave(mut client: Raw) {
    client.send_frame(&Frame::close(1000, "").with_key([9, 8, 7, 6]));
    assert_eq!(client.close_code(WAIT), 1000);
}

pub(crate) const LOOK: &str = "Accept: application/json\r\n";

#[test]
fn a_push_at_any_node_reaches_its_client_and_nobody_else() {
    let nodes = Nodes::start(3, &json!({}));
    let mut clients: Vec<Raw> = (0..3).map(|n| nodes.join(n, &format!("c{n}"))).collect();
    for at in 0..3 {
        for (to, client) in clients.iter_mut().enumerate() {
            // Twice: the second one knows where to go.
            for text in [format!("{at} to {to}"), format!("{at} to {to} again")] {
                assert_eq!(nodes.push(at, &format!("c{to}"), &text), (200, "ok".into()));
                assert_eq!(hear(client), text);
            }
        }
        assert_eq!(
            nodes.push(at, "nobody", "x"),
            (404, "not connected\n".into())
        );
    }
    // A look, and what is wrong with a message, come from the other node as they are.
    let address = nodes.nodes[0].address;
    let look = tell(address, "GET /c1", LOOK, "");
    assert_eq!(
        (look.status, look.header("content-type")),
        (200, Some("application/json"))
    );
    let seen: Value = serde_json::from_str(&look.body).unwrap();
    assert_eq!(seen["messages_down"], 6, "{seen}");
    assert_eq!(tell(address, "GET /nobody", LOOK, "").status, 404);
    let long = "x".repeat(1 << 20);
    assert_eq!(nodes.push(0, "c1", &long), (200, "ok".into()));
    assert_eq!(hear(&mut clients[1]).len(), long.len());
    // And so does the end.
    let closed = tell(address, "DELETE /c2", "X-Wsteady-Close: 4001\r\n", "go");
    assert_eq!((closed.status, &*closed.body), (200, "ok"));
    assert_eq!(clients[2].close_code(WAIT), 4001);
    clients.pop();
    until_true(WAIT, "c2 to be nowhere", || {
        nodes.push(0, "c2", "x").0 == 404
    });
    // Who is here costs nobody else anything.
    let asked = |node: usize| nodes.nodes[node].count("wsteady_cluster_pushes_total", &[]);
    let before = asked(0);
    assert_eq!(nodes.push(0, "c0", "home").0, 200);
    assert_eq!(hear(&mut clients[0]), "home");
    assert_eq!(asked(0), before);
    let done = [("outcome", "done")];
    assert!(nodes.nodes[0].count("wsteady_cluster_pushes_total", &done) >= 7);
    // Each has found itself in its list, and left itself out.
    (0..3).for_each(|node| nodes.see(node, "self", 1));
    (0..3).for_each(|node| nodes.see(node, "up", 2));
    clients.into_iter().for_each(leave);
    nodes.finish();
}

#[test]
fn a_client_that_moves_is_found_where_he_is_now() {
    let nodes = Nodes::start(3, &json!({}));
    let mut client = nodes.join(0, "c");
    for round in 0..6 {
        let text = format!("round {round}");
        assert_eq!(nodes.push(2, "c", &text).0, 200, "{round}");
        assert_eq!(hear(&mut client), text);
        leave(client);
        client = nodes.join((round + 1) % 2, "c");
    }
    // At two nodes at once: the one that he came to last.
    let mut newer = nodes.join(1, "c");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(nodes.push(2, "c", "newer").0, 200);
    assert_eq!(hear(&mut newer), "newer");
    assert!(client.silent(Duration::from_millis(200)), "not to both");
    leave(client);
    leave(newer);
    nodes.finish();
}

#[test]
fn a_broadcast_reaches_the_clients_of_all_nodes() {
    let nodes = Nodes::start(3, &json!({}));
    let mut clients: Vec<Raw> = (0..6)
        .map(|n| nodes.join(n % 3, &format!("a{n}")))
        .collect();
    let mut other = nodes.join(1, "b");
    let told = tell(nodes.nodes[1].address, "POST /?prefix=a", "", "all");
    assert_eq!(
        (told.status, told.body.trim()),
        (200, r#"{"clients":6,"slow":0,"unasked_nodes":0}"#)
    );
    for client in &mut clients {
        assert_eq!(hear(client), "all");
        assert!(client.silent(Duration::from_millis(100)), "once");
    }
    assert!(other.silent(Duration::from_millis(100)));
    nodes.halt(2);
    let told = tell(nodes.nodes[0].address, "POST /?prefix=", "", "more");
    nodes.nodes[2].signal(Signal::CONT);
    assert_eq!(
        (told.status, told.body.trim()),
        (200, r#"{"clients":5,"slow":0,"unasked_nodes":1}"#)
    );
    assert_eq!(hear(&mut other), "more");
    drop((clients, other));
    nodes.finish();
}

#[test]
fn who_dies_takes_his_clients_with_him_and_nobody_elses() {
    let mut nodes = Nodes::start(3, &json!({}));
    let mut clients: Vec<Raw> = (0..3).map(|n| nodes.join(n, &format!("c{n}"))).collect();
    for (to, client) in clients.iter_mut().enumerate() {
        assert_eq!(nodes.push(0, &format!("c{to}"), "hello").0, 200);
        assert_eq!(hear(client), "hello");
    }
    nodes.nodes[2].signal(Signal::KILL);
    // Until all of it is gone, a push may be sent on a connection that still stands: 504.
    nodes.nodes[2].wait_exit(WAIT);
    // What was known of him is forgotten at once.
    assert_eq!(nodes.push(0, "c2", "gone").0, 404);
    assert_eq!(nodes.push(0, "c1", "still").0, 200);
    assert_eq!(hear(&mut clients[1]), "still");
    nodes.see(0, "refused", 1);
    // He comes back, and his clients with him.
    nodes.nodes[2].restart();
    let mut back = nodes.join(2, "c2");
    assert_eq!(nodes.push(0, "c2", "back").0, 200);
    assert_eq!(hear(&mut back), "back");
    nodes.see(0, "up", 2);
    drop((clients, back));
    nodes.finish();
}

/// New connections are refused from the first moment on, but the others find his clients to the last.
#[test]
fn who_drains_answers_for_his_clients_to_the_last() {
    let mut nodes = Nodes::start(3, &json!({ "drain": "4s" }));
    let mut clients: Vec<Option<Raw>> = (0..30)
        .map(|n| Some(nodes.join(2, &format!("c{n}"))))
        .collect();
    for node in [0, 1] {
        assert_eq!(nodes.push(node, "c0", "hello").0, 200);
        assert_eq!(hear(clients[0].as_mut().unwrap()), "hello");
    }
    // Now one connection of each of the others is left.
    std::thread::sleep(Duration::from_millis(1_500));
    nodes.nodes[2].signal(Signal::TERM);
    let address = nodes.nodes[2].address;
    until_true(WAIT, "closed doors", || {
        TcpStream::connect(address).is_err()
    });
    let (mut heard, mut told) = (0, 0);
    while clients.iter().any(Option::is_some) {
        for (n, slot) in clients.iter_mut().enumerate() {
            let Some(client) = slot else { continue };
            let (status, body) = nodes.push(n % 2, &format!("c{n}"), "still");
            if status == 200 {
                assert_eq!(hear(client), "still");
                heard += 1;
                continue;
            }
            assert_eq!(status, 404, "{body}");
            let close = client.frame(Duration::from_millis(500));
            assert_eq!(close.opcode, CLOSE, "c{n} got 404, and {close:?}");
            told += 1;
            *slot = None;
        }
    }
    assert!(heard > 100 && told == 30, "{heard} heard, {told} told");
    let limit = Duration::from_secs(10);
    assert_eq!(nodes.nodes[2].wait_exit(limit).code(), Some(0));
    nodes.see(0, "refused", 1);
    nodes.nodes.pop();
    nodes.finish();
}

/// A killed process closes its listeners first and its connections last; who drains does the first,
/// too, but says so, and is waited for.
#[test]
fn who_refuses_and_says_nothing_is_dying() {
    for (drains, status) in [(false, 404), (true, 503)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap().to_string();
        let nodes = Nodes::start(1, &json!({ "cluster": { "peers": [peer] } }));
        // It answers once, and is silent then.
        let (stream, _) = listener.accept().unwrap();
        let mut asked = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            asked.read_line(&mut line).unwrap();
        }
        let says = if drains { "X-Wsteady-Drain: 1\r\n" } else { "" };
        let answer = format!("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n{says}\r\n");
        asked.get_mut().write_all(answer.as_bytes()).unwrap();
        nodes.see(0, "up", 1);
        drop(listener);
        // The first asks on the connection that stands, the second finds none.
        let pusher = nodes.nodes[0].address;
        let begun = Instant::now();
        let pushes = [1, 2].map(|n| {
            let push = move || tell(pusher, &format!("POST /n{n}"), "", "x").status;
            std::thread::spawn(push)
        });
        let answers = pushes.map(|push| push.join().unwrap());
        let took = begun.elapsed();
        assert_eq!(answers, [status; 2], "drains: {drains}, {took:?}");
        assert_eq!(took >= TIMEOUT, drains, "drains: {drains}, {took:?}");
        nodes.see(0, if drains { "silent" } else { "refused" }, 1);
        nodes.finish();
    }
}

#[test]
fn who_hangs_is_not_waited_for_twice() {
    let nodes = Nodes::start(3, &json!({}));
    let mut clients: Vec<Raw> = (0..3).map(|n| nodes.join(n, &format!("c{n}"))).collect();
    nodes.see(0, "up", 2);
    nodes.halt(2);
    // He may have it: nobody knows, until he is known to hang.
    let (status, body) = nodes.push(0, "nobody", "x");
    assert_eq!(
        (status, &*body),
        (
            503,
            "not connected here, and 1 node could not be asked: the client may be there\n"
        )
    );
    nodes.see(0, "silent", 1);
    let begun = Instant::now();
    for number in 0..50 {
        let answer = tell(nodes.nodes[0].address, &format!("POST /n{number}"), "", "x");
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (503, Some("1"))
        );
    }
    assert!(
        begun.elapsed() < TIMEOUT * 25,
        "{:?} for 50: each has waited",
        begun.elapsed()
    );
    // The others are found as before.
    assert_eq!(nodes.push(0, "c1", "you").0, 200);
    assert_eq!(hear(&mut clients[1]), "you");
    assert_eq!(nodes.push(0, "c2", "x").0, 503);
    nodes.nodes[2].signal(Signal::CONT);
    nodes.see(0, "up", 2);
    assert_eq!(nodes.push(0, "nobody", "x").0, 404);
    assert_eq!(nodes.push(0, "c2", "back").0, 200);
    assert_eq!(hear(&mut clients[2]), "back");
    clients.into_iter().for_each(leave);
    nodes.finish();
}

#[test]
fn what_its_node_got_and_did_not_answer_goes_to_no_other() {
    let nodes = Nodes::start(2, &json!({}));
    let mut client = nodes.join(1, "c");
    assert_eq!(nodes.push(0, "c", "one").0, 200);
    assert_eq!(hear(&mut client), "one");
    nodes.halt(1);
    // It is known where he is, so the message is on its way there.
    let (status, body) = nodes.push(0, "c", "two");
    assert_eq!(status, 504, "{body}");
    assert!(body.contains("may have been delivered"), "{body}");
    nodes.nodes[1].signal(Signal::CONT);
    assert_eq!(hear(&mut client), "two");
    assert!(client.silent(Duration::from_millis(300)), "once");
    leave(client);
    nodes.finish();
}

#[test]
fn only_nodes_pass_pushes_on() {
    // 127.0.0.1 is in the list; pushes from there would be taken anyway, but for the mark.
    let mark = |value: &str| format!("X-Wsteady-Hop: {value}\r\n");
    let nodes = Nodes::start(2, &json!({}));
    let client = nodes.join(0, "c");
    let address = nodes.nodes[0].address;
    assert_eq!(tell(address, "GET /c", &(mark("x") + LOOK), "").status, 200);
    // A hop goes no further: the other node has no such client, and is not asked.
    assert_eq!(
        tell(nodes.nodes[1].address, "GET /c", &(mark("x") + LOOK), "").status,
        404
    );
    let forwarded = mark("x") + LOOK + "X-Forwarded-For: 127.0.0.1\r\n";
    assert_eq!(tell(address, "GET /c", &forwarded, "").status, 403);
    let own = nodes.nodes[0].admin("GET", "/v1/cluster", None).json();
    let own = mark(own["node"].as_str().expect("a mark")) + LOOK;
    assert_eq!(tell(address, "GET /c", &own, "").status, 421);
    leave(client);
    nodes.finish();

    let elsewhere = json!({ "cluster": { "peers": ["127.0.0.9:1"] } });
    let nodes = Nodes::start(1, &elsewhere);
    let refused = tell(nodes.nodes[0].address, "GET /c", &(mark("x") + LOOK), "");
    assert_eq!(
        (refused.status, refused.body.contains("no node")),
        (403, true),
        "{}",
        refused.body
    );
    assert_eq!(tell(nodes.nodes[0].address, "GET /c", LOOK, "").status, 404);
    nodes.finish();

    // Without a cluster nobody is a node.
    let api = Api::echo();
    let alone = bridge_to(vec![api.url()], json!({}));
    assert_eq!(
        tell(alone.address, "GET /c", &(mark("x") + LOOK), "").status,
        403
    );
    assert_eq!(
        alone.admin("GET", "/v1/cluster", None).json()["kind"],
        "alone"
    );
    alone.finish();
}

#[test]
fn a_token_is_shown_and_asked_for() {
    let nodes = Nodes::start(
        2,
        &json!({ "cluster": { "token": "s3cret" }, "push": { "token": "api" } }),
    );
    let mut client = nodes.join(1, "c");
    let api = "Authorization: Bearer api\r\n";
    let address = nodes.nodes[0].address;
    assert_eq!(tell(address, "POST /c", "", "x").status, 403);
    assert_eq!(tell(address, "POST /c", api, "x").status, 200);
    assert_eq!(hear(&mut client), "x");
    let hop = "X-Wsteady-Hop: x\r\n";
    let there = nodes.nodes[1].address;
    assert_eq!(
        tell(there, "POST /c", &format!("{hop}{api}"), "x").status,
        403
    );
    let good = format!("{hop}Authorization: Bearer s3cret\r\n");
    assert_eq!(tell(there, "POST /c", &good, "y").status, 200);
    assert_eq!(hear(&mut client), "y");
    leave(client);
    // One that has another token is no node of this cluster, and may have the client for all we know.
    let stranger = Nodes::start(
        1,
        &json!({ "cluster": {
        "token": "other", "peers": [there.to_string()],
    } }),
    );
    let (status, body) = stranger.push(0, "nobody", "x");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("1 node would not say"), "{body}");
    stranger.see(0, "strange", 1);
    assert!(
        !stranger.nodes[0].log().contains("other"),
        "a token in the log"
    );
    stranger.finish();
    nodes.finish();
}

#[test]
fn a_name_is_all_of_its_addresses_and_they_come_and_go() {
    const NAME: &str = "nodes.test";
    let api = Api::echo();
    let hosts = Hosts::new();
    let port = free_port();
    let there = |ip: &str| {
        let changes = json!({ "listen": format!("{ip}:{port}"), "cluster": {
            "peers": ["127.0.0.1:1"], "token": "s3cret",
        } });
        bridge_to(vec![api.url()], changes)
    };
    let (one, two) = (there("127.0.0.21"), there("127.0.0.22"));
    hosts.set(NAME, &["127.0.0.21"]);
    let changes = json!({ "cluster": {
        "peers": [format!("{NAME}:{port}")], "token": "s3cret", "dns": "100ms", "timeout": "500ms",
    } });
    let node = bridge_through(&hosts.words(), vec![api.url()], changes);
    let mut clients = [(&one, "c1"), (&two, "c2")]
        .map(|(node, id)| Raw::open(node.address, &format!("/{id}"), ""));
    let push = |id: &str, text: &str| tell(node.address, &format!("POST /{id}"), "", text).status;
    assert_eq!(push("c1", "a"), 200);
    assert_eq!(push("c2", "b"), 404);
    hosts.set(NAME, &["127.0.0.21", "127.0.0.22"]);
    until_true(WAIT, "the new one to be asked", || push("c2", "b") == 200);
    assert_eq!(hear(&mut clients[1]), "b");
    // Who has left DNS may still have clients.
    hosts.set(NAME, &["127.0.0.22"]);
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(push("c1", "c"), 200);
    assert_eq!(
        (hear(&mut clients[0]), hear(&mut clients[0])),
        ("a".into(), "c".into())
    );
    // A name that is not resolved any more changes nothing.
    hosts.set(NAME, &[]);
    until(WAIT, "a line of it", || {
        node.log().contains("peers not resolved").then_some(())
    });
    assert_eq!(push("c2", "d"), 200);
    assert_eq!(push("nobody", "e"), 404);
    drop(clients);
    one.finish();
    until_true(WAIT, "the one that left to be forgotten", || {
        push("c1", "f");
        let peers = node.admin("GET", "/v1/cluster", None).json();
        peers["peers"].as_array().expect("a list").len() == 1
    });
    assert_eq!(push("c1", "f"), 404);
    two.finish();
    node.finish();
}

#[test]
fn a_name_that_was_never_resolved_leaves_everybody_in_doubt() {
    let hosts = Hosts::new();
    hosts.set("other.test", &["127.0.0.1"]);
    let changes = json!({ "cluster": {
        "peers": ["nodes.test:80"], "token": "s3cret", "dns": "100ms",
    } });
    let api = Api::echo();
    let node = bridge_through(&hosts.words(), vec![api.url()], changes);
    assert_eq!(tell(node.address, "POST /c", "", "x").status, 503);
    let seen = node.admin("GET", "/v1/cluster", None).json();
    assert_eq!(seen["unresolved"], json!(["nodes.test"]));
    node.finish();
}

#[test]
fn another_cluster_waits_for_a_restart() {
    let nodes = Nodes::start(1, &json!({}));
    let said = nodes.nodes[0].reload(|config| config["cluster"]["timeout"] = json!("3s"));
    assert!(said.contains("nothing has changed"), "{said}");
    assert!(
        nodes.nodes[0]
            .log()
            .contains("changed, but not before a restart: cluster")
    );
    nodes.finish();
}

/// Pushes from many sides while nodes die, hang and come back: each is heard at most once, and heard
/// for sure if it was said to be.
#[test]
fn under_faults_no_push_comes_twice_and_none_that_was_taken_is_missing() {
    let mut nodes = Nodes::start(3, &json!({}));
    let mut clients: Vec<Raw> = (0..4)
        .map(|n| nodes.join(n % 2, &format!("c{n}")))
        .collect();
    let addresses: Vec<SocketAddr> = nodes.nodes.iter().map(|node| node.address).collect();
    let pushers: Vec<_> = (0..4)
        .map(|to| {
            let addresses = addresses.clone();
            std::thread::spawn(move || {
                let mut answers = Vec::new();
                for number in 0..150 {
                    // Never by the one that hangs: this thread would hang with it.
                    let at = addresses[number % 2];
                    let text = number.to_string();
                    let answer = tell(at, &format!("POST /c{to}"), "", &text);
                    answers.push((number, answer.status));
                    std::thread::sleep(Duration::from_millis(10));
                }
                answers
            })
        })
        .collect();
    for _ in 0..3 {
        nodes.halt(2);
        std::thread::sleep(Duration::from_millis(300));
        nodes.nodes[2].signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(100));
        nodes.nodes[2].restart();
    }
    for (to, pusher) in pushers.into_iter().enumerate() {
        let answers = pusher.join().expect("a pusher");
        let heard: Vec<usize> = std::iter::from_fn(|| {
            let waits = Duration::from_millis(500);
            (!clients[to].silent(waits)).then(|| hear(&mut clients[to]).parse().unwrap())
        })
        .collect();
        for (number, status) in &answers {
            let times = heard.iter().filter(|one| *one == number).count();
            match status {
                200 => assert_eq!(times, 1, "c{to}: {number} was taken"),
                503 => assert_eq!(times, 0, "c{to}: {number} was not taken"),
                504 => assert!(times <= 1, "c{to}: {number} came {times} times"),
                other => panic!("c{to}: {number}: {other}, though he is there"),
            }
        }
        let taken = answers.iter().filter(|(_, status)| *status == 200).count();
        assert!(taken > 100, "c{to}: {taken} of 150");
    }
    clients.into_iter().for_each(leave);
    nodes.finish();
}
