//! What an operator and his scripts do all at once: changes and reads in parallel, wsbalancer's
//! routes, lists of many sessions.

use crate::support::frames::{Frame, TEXT};
use crate::support::http;
use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, echo_origin, handshake};
use crate::support::{SOON, until_true};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Barrier;
use std::time::Duration;

/// Such clients answer no Ping.
fn patience() -> Value {
    json!({ "pools": { "main": { "timeouts": { "ping": "10m" } } } })
}

fn rows(list: &Value) -> &Vec<Value> {
    list.as_array().expect("a list")
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field}: {row}"))
}

/// At most 64 connections are answered at a time: so many threads, each with several requests.
const OPERATORS: usize = 40;

#[test]
fn changes_and_reads_in_parallel_agree_with_what_is_read_afterwards() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], patience());
    let begin = Barrier::new(OPERATORS);
    let change = |method: &str, path: &str, body: Value| {
        let answer = proxy.admin(method, path, Some(&body.to_string()));
        assert!(
            matches!(answer.status, 200 | 201),
            "{path}: {}",
            answer.body
        );
        answer.json()
    };
    // Each has a server of its own and changes it; all of them change the first server's weight.
    let wanted: HashMap<String, (String, u64)> = std::thread::scope(|scope| {
        let operators = (0..OPERATORS).map(|at| {
            let (proxy, begin) = (&proxy, &begin);
            scope.spawn(move || {
                begin.wait();
                let id = format!("s{at}");
                let url = format!("ws://127.0.0.1:{}", 20_000 + at);
                let new = json!({ "pool": "main", "url": url, "id": id, "weight": at });
                let added = change("POST", "/v1/servers", new);
                assert_eq!(text(&added["servers"][0], "id"), id);
                let path = format!("/v1/servers/{id}");
                let state = ["enabled", "disabled", "draining"][at % 3];
                change("PATCH", "/v1/servers/b1", json!({ "weight": 1 + at }));
                read(proxy);
                let changed = change("PATCH", &path, json!({ "state": state, "weight": 2 * at }));
                assert_eq!(
                    (text(&changed, "state"), &changed["weight"]),
                    (state, &json!(2 * at))
                );
                read(proxy);
                if at % 4 == 3 {
                    let gone = proxy.admin("DELETE", &path, None);
                    assert_eq!(gone.status, 200, "{}", gone.body);
                    return None;
                }
                Some((id, (state.to_string(), 2 * at as u64)))
            })
        });
        let operators: Vec<_> = operators.collect();
        let done = operators
            .into_iter()
            .map(|one| one.join().expect("an operator"));
        done.flatten().collect()
    });
    let list = proxy.admin("GET", "/v1/servers", None).json();
    let found = rows(&list["servers"]).iter().map(|row| {
        let weight = row["weight"].as_u64().expect("a weight");
        (
            text(row, "id").to_string(),
            (text(row, "state").to_string(), weight),
        )
    });
    let mut found: HashMap<_, _> = found.collect();
    let (_, weight) = found.remove("b1").expect("the first server");
    assert!(
        (1..=OPERATORS as u64).contains(&weight),
        "somebody's: {weight}"
    );
    assert_eq!(found, wanted);
    // What loops do agrees with it: all others are out, so that every session goes to the first.
    for id in wanted.keys() {
        change(
            "PATCH",
            &format!("/v1/servers/{id}"),
            json!({ "state": "disabled" }),
        );
    }
    let clients: Vec<Raw> = (0..20).map(|_| Raw::open(proxy.address, "/", "")).collect();
    assert_eq!(
        proxy.admin("GET", "/v1/servers/b1", None).json()["sessions"],
        20
    );
    drop(clients);
    proxy.finish();
}

/// What is read while others change it is whole.
fn read(proxy: &Proxy) {
    for path in ["/v1/servers", "/v1/stats", "/v1/pools", "/backend/list"] {
        let answer = proxy.admin("GET", path, None);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json();
    }
    proxy.metrics();
}

#[test]
fn wsbalancers_scripts_find_what_they_know() {
    let (one, two) = (echo_origin(), echo_origin());
    let proxy = Proxy::start(&[one.url(), two.url()], patience());
    let post = |path: &str| {
        let answer = proxy.admin("POST", path, None);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    };
    let get = |path: &str| proxy.admin("GET", path, None).json();
    let (success, needless) = (
        json!({ "result": "success" }),
        json!({ "result": "success", "reason": "NoActionRequired" }),
    );
    // More than a page of them.
    let mut clients: Vec<Raw> = (0..1_500)
        .map(|at| Raw::open(proxy.address, &format!("/room/{at}?x=1"), ""))
        .collect();
    let list = get("/session/list");
    let ids: HashSet<&str> = rows(&list).iter().map(|row| text(row, "id")).collect();
    let uris: HashSet<&str> = rows(&list).iter().map(|row| text(row, "uri")).collect();
    assert_eq!(
        (rows(&list).len(), ids.len(), uris.len()),
        (1_500, 1_500, 1_500)
    );
    assert!(uris.contains("/room/1499?x=1"));
    // A server is emptied, and everybody goes on.
    assert_eq!(post("/backend/disable/b1"), success);
    assert_eq!(post("/backend/failover/b1"), success);
    until_true(SOON, "all at the other server", || {
        let backends = get("/backend/list");
        let active = |at: usize| backends[at]["activeConnections"].as_u64();
        assert_eq!(text(&backends[1], "id"), "b1", "disabled ones last");
        (active(0), active(1)) == (Some(1_500), Some(0))
    });
    assert_eq!(post("/backend/failover/b1"), needless);
    for client in clients.iter_mut().step_by(100) {
        client.send_frame(&Frame::new(TEXT, b"still here").with_key([1, 2, 3, 4]));
        assert_eq!(client.frame(SOON).payload, b"still here");
    }
    let moved = get("/session/list");
    assert!(
        rows(&moved)
            .iter()
            .all(|row| text(row, "backendId") == "b2")
    );
    let reconnects = rows(&moved)
        .iter()
        .filter_map(|row| row["reconnects"].as_u64());
    assert!(
        (700..=800).contains(&reconnects.sum::<u64>()),
        "half of them, once each"
    );
    // One is ended by hand.
    let first = rows(&moved)
        .iter()
        .find(|row| text(row, "uri") == "/room/0?x=1");
    let abort = format!("/session/abort/{}", text(first.expect("the first"), "id"));
    assert_eq!(post(&abort), success);
    assert_eq!(clients[0].close_code(SOON), 1000);
    drop(clients.remove(0));
    until_true(SOON, "it is forgotten", || post(&abort) == needless);
    // No new ones for a while.
    let frontend = get("/frontend/list");
    let id = text(&frontend[0], "id").to_string();
    assert_eq!(post(&format!("/frontend/pause/{id}")), success);
    let mut refused = Raw::connect(proxy.address);
    refused.send(handshake("/", "").as_bytes());
    assert_eq!(refused.head(SOON).status(), 503);
    assert_eq!(post(&format!("/frontend/resume/{id}")), success);
    drop(Raw::open(proxy.address, "/", ""));
    // A server comes and goes.
    let three = echo_origin();
    let wanted = json!({ "url": three.url(), "id": "b3", "ping-time": "1m" }).to_string();
    let added = proxy.admin("POST", "/backend/add", Some(&wanted)).json();
    assert_eq!(added["result"], "success", "{added}");
    assert_eq!(text(&get("/backend/config/b3"), "url"), three.url());
    assert_eq!(post("/backend/delete/b3"), success);
    assert_eq!(get("/backend/config/b3"), json!({}));
    let by_get = http::get(proxy.admin, "/backend/delete/b2").unwrap();
    assert_eq!(by_get.status, 405);
    assert_eq!(text(&by_get.json(), "result"), "failed");
    drop(clients);
    proxy.finish_within(Duration::from_secs(10));
}
