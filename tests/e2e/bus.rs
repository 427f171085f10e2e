//! Several nodes on one bus: as with peers a push at any of them reaches its client, and it is a real
//! nats-server that knows who has him.

use crate::cluster::{LOOK, Nodes, TIMEOUT, hear, leave, tell};
use crate::nats::Server;
use crate::support::frames::BINARY;
use crate::support::proxy::Proxy;
use crate::support::raw::Raw;
use crate::support::until_true;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);

/// Not at once, but long before a node that died is forgotten: what is to be true "soon".
const SHORTLY: Duration = Duration::from_secs(3);

fn bus_of(server: &Server) -> Value {
    json!({ "cluster": { "bus": { "nats": [server.url()] } } })
}

/// Nodes that have heard of each other, and believe the bus.
fn nodes_on(server: &Server, count: usize) -> Nodes {
    let nodes = Nodes::start(count, &bus_of(server));
    settle(&nodes);
    nodes
}

/// Who has come to the bus a moment ago takes nobody's silence for an answer.
fn settle(nodes: &Nodes) {
    let count = nodes.nodes.len();
    for node in 0..count {
        nodes.see(node, "up", count - 1);
        until_true(WAIT, "the first 404", || look(nodes, node, "nobody") == 404);
    }
}

fn look(nodes: &Nodes, at: usize, id: &str) -> u16 {
    tell(nodes.nodes[at].address, &format!("GET /{id}"), LOOK, "").status
}

/// A client who can be found from another node: his subscription is a moment behind his 101.
fn join(nodes: &Nodes, node: usize, id: &str) -> Raw {
    let client = nodes.join(node, id);
    let other = (node + 1) % nodes.nodes.len();
    until_true(WAIT, "the client to be subscribed", || {
        look(nodes, other, id) == 200
    });
    client
}

fn broadcast(nodes: &Nodes, at: usize, prefix: &str, text: &str) -> Value {
    let request = format!("POST /?prefix={prefix}");
    let told = tell(nodes.nodes[at].address, &request, "", text);
    assert_eq!(told.status, 200, "{}", told.body);
    serde_json::from_str(&told.body).unwrap()
}

fn reached(clients: usize, unasked: usize) -> Value {
    json!({ "clients": clients, "slow": 0, "unasked_nodes": unasked })
}

fn cluster(node: &Proxy) -> Value {
    node.admin("GET", "/v1/cluster", None).json()
}

#[test]
fn a_push_at_any_node_reaches_its_client_and_nobody_else() {
    let server = Server::start("");
    let nodes = nodes_on(&server, 3);
    let mut clients: Vec<Raw> = (0..3).map(|n| join(&nodes, n, &format!("c{n}"))).collect();
    for at in 0..3 {
        for (to, client) in clients.iter_mut().enumerate() {
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
    let address = nodes.nodes[0].address;
    let seen = tell(address, "GET /c1", LOOK, "");
    assert_eq!(seen.status, 200);
    let seen: Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(seen["messages_down"], 6, "{seen}");
    assert_eq!(look(&nodes, 0, "nobody"), 404);
    // Bytes stay bytes, and text must be text, whoever looks at it.
    let octets = "Content-Type: application/octet-stream\r\n";
    let bytes = b"\xff\0\r\nMSG \xc3";
    assert_eq!(tell(address, "POST /c1", octets, bytes).status, 200);
    let frame = clients[1].frame(WAIT);
    assert_eq!((frame.opcode, &frame.payload[..]), (BINARY, &bytes[..]));
    assert_eq!(tell(address, "POST /c1", "", bytes).status, 400);
    // As long as a NATS server takes it; here at home there is no such limit.
    let long = "x".repeat((1 << 20) - (4 << 10));
    assert_eq!(nodes.push(0, "c1", &long), (200, "ok".into()));
    assert_eq!(hear(&mut clients[1]).len(), long.len());
    let longer = long + "x";
    assert_eq!(nodes.push(0, "c1", &longer).0, 413);
    assert_eq!(nodes.push(1, "c1", &longer).0, 200);
    assert_eq!(hear(&mut clients[1]).len(), longer.len());
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
    clients.into_iter().for_each(leave);
    nodes.finish();
}

#[test]
fn nodes_know_of_each_other_and_not_of_those_with_another_prefix() {
    let server = Server::start("authorization: { user: me, password: \"s3cret\" }");
    let mut own = bus_of(&server);
    own["cluster"]["bus"]["user"] = json!("me");
    own["cluster"]["bus"]["password"] = json!("s3cret");
    let nodes = Nodes::start(2, &own);
    own["cluster"]["bus"]["prefix"] = json!("other.app");
    let others = Nodes::start(2, &own);
    let stranger = Nodes::start(1, &bus_of(&server));
    for all in [&nodes, &others] {
        all.see(0, "up", 1);
        all.see(1, "up", 1);
        let [one, two] = [0, 1].map(|node| cluster(&all.nodes[node]));
        assert_eq!(one["kind"], "bus", "{one}");
        assert_eq!(one["peers"].as_array().unwrap().len(), 1, "{one}");
        assert_eq!(one["peers"][0]["address"], two["node"], "{one}\n{two}");
        assert!(!all.nodes[0].log().contains("s3cret"));
        settle(all);
    }
    let mut client = join(&nodes, 0, "c");
    assert_eq!(others.push(0, "c", "x").0, 404);
    assert_eq!(broadcast(&others, 0, "", "x"), reached(0, 0));
    // Whom the server doesn't let in says so to those who push, and in the log.
    let (status, body) = stranger.push(0, "c", "x");
    assert_eq!(status, 503, "{body}");
    until_true(WAIT, "the server's words", || {
        let log = stranger.nodes[0].log();
        log.contains("Authorization Violation")
    });
    assert_eq!(nodes.push(1, "c", "y").0, 200);
    assert_eq!(hear(&mut client), "y");
    leave(client);
    // Who stops says good-bye.
    let mut gone = others;
    gone.nodes.pop().unwrap().finish();
    until_true(SHORTLY, "him to be forgotten", || {
        cluster(&gone.nodes[0])["peers"] == json!([])
    });
    [gone, stranger, nodes].into_iter().for_each(Nodes::finish);
}

#[test]
fn ids_are_no_syntax_of_subjects() {
    let server = Server::start("");
    let nodes = nodes_on(&server, 2);
    let long = "=".repeat(128);
    let ids = [
        "a.b", "a", "b", "*", "**", "~", "=", "=2A", "=2a", "a.*", "...", "+@:_-", "A", &long,
    ];
    let mut clients = ids.map(|id| nodes.join(0, id));
    for (id, client) in ids.iter().zip(&mut clients) {
        until_true(WAIT, id, || look(&nodes, 1, id) == 200);
        assert_eq!(nodes.push(1, id, id).0, 200, "{id}");
        assert_eq!(hear(client), *id);
    }
    for id in ["c", "a.c", "a.", ".a", "=2E", "***", "B"] {
        assert_eq!(nodes.push(1, id, "x").0, 404, "{id}");
    }
    for client in &mut clients {
        assert!(client.silent(Duration::from_millis(20)), "its own alone");
    }
    clients.into_iter().for_each(leave);
    nodes.finish();
}

#[test]
fn a_broadcast_reaches_the_clients_of_all_nodes() {
    let server = Server::start("");
    let nodes = nodes_on(&server, 3);
    let mut clients: Vec<Raw> = (0..6)
        .map(|n| nodes.join(n % 3, &format!("a{n}")))
        .collect();
    let mut other = nodes.join(1, "b");
    assert_eq!(broadcast(&nodes, 1, "a", "all"), reached(6, 0));
    for client in &mut clients {
        assert_eq!(hear(client), "all");
        assert!(client.silent(Duration::from_millis(100)), "once");
    }
    assert!(other.silent(Duration::from_millis(100)));
    assert_eq!(broadcast(&nodes, 2, "", "everybody"), reached(7, 0));
    assert_eq!(hear(&mut other), "everybody");
    assert_eq!(broadcast(&nodes, 0, "nobody", "x"), reached(0, 0));
    // Too long for the bus: those who are here have it, and the others are counted.
    let long = "x".repeat(1 << 20);
    assert_eq!(broadcast(&nodes, 0, "a", &long), reached(2, 2));
    for client in [0, 3] {
        assert_eq!(hear(&mut clients[client]).len(), 9);
        assert_eq!(hear(&mut clients[client]).len(), long.len());
    }
    nodes.halt(2);
    let begun = Instant::now();
    assert_eq!(broadcast(&nodes, 0, "", "more"), reached(5, 1));
    assert!(begun.elapsed() < TIMEOUT * 4, "{:?}", begun.elapsed());
    nodes.nodes[2].signal(Signal::CONT);
    assert_eq!(hear(&mut other), "more");
    drop((clients, other));
    nodes.finish();
}

#[test]
fn who_dies_takes_his_clients_with_him_and_nobody_elses() {
    let server = Server::start("");
    let mut nodes = nodes_on(&server, 3);
    let mut clients: Vec<Raw> = (0..3).map(|n| join(&nodes, n, &format!("c{n}"))).collect();
    nodes.nodes[2].signal(Signal::KILL);
    // His subscriptions go with his connection.
    until_true(SHORTLY, "404 for his", || {
        nodes.push(0, "c2", "gone").0 == 404
    });
    for number in 0..20 {
        let text = number.to_string();
        assert_eq!(nodes.push(0, "c1", &text).0, 200);
        assert_eq!(hear(&mut clients[1]), text);
        assert_eq!(nodes.push(1, "c2", "gone").0, 404);
    }
    nodes.see(0, "silent", 1);
    nodes.see(1, "silent", 1);
    nodes.nodes[2].restart();
    let mut back = join(&nodes, 2, "c2");
    assert_eq!(nodes.push(0, "c2", "back").0, 200);
    assert_eq!(hear(&mut back), "back");
    // By a new mark.
    nodes.see(0, "up", 2);
    drop((clients, back));
    nodes.finish();
}

#[test]
fn who_hangs_is_waited_for_by_those_alone_who_want_his_clients() {
    let server = Server::start("");
    let nodes = nodes_on(&server, 3);
    let mut clients: Vec<Raw> = (0..3).map(|n| join(&nodes, n, &format!("c{n}"))).collect();
    nodes.halt(2);
    let begun = Instant::now();
    let (status, body) = nodes.push(0, "c2", "late");
    let waited = begun.elapsed();
    assert_eq!(status, 504, "{body}");
    assert!(body.contains("may have been delivered"), "{body}");
    assert!((TIMEOUT..TIMEOUT * 3).contains(&waited), "{waited:?}");
    assert_eq!(look(&nodes, 1, "c2"), 503);
    let begun = Instant::now();
    for number in 0..20 {
        assert_eq!(nodes.push(1, "c0", &number.to_string()).0, 200);
        assert_eq!(hear(&mut clients[0]), number.to_string());
        assert_eq!(nodes.push(0, "nobody", "x").0, 404);
    }
    assert!(begun.elapsed() < TIMEOUT * 10, "{:?}", begun.elapsed());
    nodes.see(0, "silent", 1);
    nodes.nodes[2].signal(Signal::CONT);
    // What he was given he delivers, once.
    assert_eq!(hear(&mut clients[2]), "late");
    assert!(clients[2].silent(Duration::from_millis(200)), "once");
    nodes.see(0, "up", 2);
    assert_eq!(nodes.push(0, "c2", "back").0, 200);
    assert_eq!(hear(&mut clients[2]), "back");
    drop(clients);
    nodes.finish();
}

#[test]
fn without_the_bus_pushes_at_home_go_on_and_others_are_told_to_try_again() {
    let mut server = Server::start("");
    let nodes = nodes_on(&server, 3);
    let mut clients: Vec<Raw> = (0..3).map(|n| join(&nodes, n, &format!("c{n}"))).collect();
    server.kill();
    until_true(SHORTLY, "the loss to be noticed", || {
        nodes.push(0, "c1", "x").0 == 503
    });
    let begun = Instant::now();
    for number in 0..20 {
        assert_eq!(nodes.push(0, "c0", &number.to_string()).0, 200);
        assert_eq!(hear(&mut clients[0]), number.to_string());
        let elsewhere = tell(nodes.nodes[0].address, "POST /c1", "", "x");
        assert_eq!(
            (elsewhere.status, elsewhere.header("retry-after")),
            (503, Some("1")),
            "{}",
            elsewhere.body
        );
        assert_eq!(look(&nodes, 0, "nobody"), 503);
        assert_eq!(broadcast(&nodes, 0, "nobody", "x"), reached(0, 2));
    }
    assert!(begun.elapsed() < TIMEOUT * 10, "{:?}", begun.elapsed());
    // Clients come and go meanwhile.
    let mut new = nodes.join(1, "new");
    leave(clients.pop().unwrap());
    server.start_again();
    until_true(WAIT, "the bus to be back", || {
        // Never 404: he is there.
        let status = nodes.push(0, "c1", "back").0;
        assert!([200, 503].contains(&status), "{status}");
        status == 200
    });
    assert_eq!(hear(&mut clients[1]), "back");
    until_true(WAIT, "the new one to be found", || {
        let status = nodes.push(0, "new", "hello").0;
        assert!([200, 503].contains(&status), "{status}");
        status == 200
    });
    assert_eq!(hear(&mut new), "hello");
    // Those who are nowhere are known to be so when all have had time to say whom they have.
    for gone in ["nobody", "c2"] {
        until_true(WAIT, "404", || nodes.push(0, gone, "x").0 == 404);
    }
    (0..3).for_each(|node| nodes.see(node, "up", 2));
    assert_eq!(broadcast(&nodes, 0, "", "all"), reached(3, 0));
    drop((clients, new));
    nodes.finish();
}

#[test]
fn a_bus_that_is_back_at_once_makes_nobody_absent() {
    let mut server = Server::start("");
    let nodes = nodes_on(&server, 3);
    let clients: Vec<Raw> = (0..90)
        .map(|n| nodes.join(1 + n % 2, &format!("c{n}")))
        .collect();
    until_true(WAIT, "all to be subscribed", || {
        (0..90).all(|n| look(&nodes, 0, &format!("c{n}")) == 200)
    });
    for _ in 0..3 {
        server.kill_and_start();
        let begun = Instant::now();
        let mut found = 0;
        // As long as somebody may be on his way back.
        while begun.elapsed() < Duration::from_secs(2) {
            let status = look(&nodes, 0, &format!("c{}", found % 90));
            assert!([200, 503].contains(&status), "{status}, though he is there");
            found += usize::from(status == 200);
        }
        assert!(found > 0, "nobody was found again");
    }
    drop(clients);
    nodes.finish();
}

#[test]
fn of_two_nodes_with_the_same_client_one_gets_it() {
    let server = Server::start("");
    let nodes = nodes_on(&server, 3);
    let mut twins: Vec<Raw> = (0..2).map(|n| join(&nodes, n, "c")).collect();
    // The second was found while the first was there.
    std::thread::sleep(Duration::from_millis(100));
    for number in 0..40 {
        assert_eq!(nodes.push(2, "c", &number.to_string()).0, 200);
    }
    let heard = |client: &mut Raw| {
        let mut all = Vec::new();
        while !client.silent(Duration::from_millis(200)) {
            all.push(hear(client).parse::<usize>().unwrap());
        }
        all
    };
    let mut all = heard(&mut twins[0]);
    all.extend(heard(&mut twins[1]));
    all.sort_unstable();
    assert_eq!(all, (0..40).collect::<Vec<_>>());
    // Where he has left it is the other's, at once.
    leave(twins.pop().unwrap());
    for number in 0..20 {
        assert_eq!(nodes.push(2, "c", &number.to_string()).0, 200);
        assert_eq!(hear(&mut twins[0]), number.to_string());
    }
    drop(twins);
    nodes.finish();
}

/// As with peers, but it is the bus that dies, too.
#[test]
fn under_faults_no_push_comes_twice_and_none_that_was_taken_is_missing() {
    let mut server = Server::start("");
    let mut nodes = nodes_on(&server, 3);
    let mut clients: Vec<Raw> = (0..4)
        .map(|n| join(&nodes, n % 2, &format!("c{n}")))
        .collect();
    let addresses = [0, 1].map(|node| nodes.nodes[node].address);
    let pushers: Vec<_> = (0..4)
        .map(|to| {
            std::thread::spawn(move || {
                let push = |number: usize| {
                    let text = number.to_string();
                    let answer = tell(addresses[number % 2], &format!("POST /c{to}"), "", &text);
                    std::thread::sleep(Duration::from_millis(10));
                    (number, answer.status)
                };
                (0..200).map(push).collect::<Vec<_>>()
            })
        })
        .collect();
    for _ in 0..3 {
        nodes.halt(2);
        server.kill_and_start();
        std::thread::sleep(Duration::from_millis(300));
        nodes.nodes[2].signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(300));
        nodes.nodes[2].restart();
    }
    for (to, pusher) in pushers.into_iter().enumerate() {
        let answers = pusher.join().expect("a pusher");
        let mut heard = Vec::new();
        while !clients[to].silent(Duration::from_millis(500)) {
            heard.push(hear(&mut clients[to]).parse::<usize>().unwrap());
        }
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
        assert!(taken > 100, "c{to}: {taken} of 200");
    }
    clients.into_iter().for_each(leave);
    nodes.finish();
}
