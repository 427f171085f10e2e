//! The configuration is read again while sessions are under way.

use crate::support::client::Habit;
use crate::support::field::{Field, HEALED};
use crate::support::peer::{Kind, Peer};
use crate::support::proxy::Proxy;
use crate::support::raw::Raw;
use crate::support::until_true;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;

/// Ids, states and sessions, as `/v1/servers` has them.
fn servers(proxy: &Proxy) -> Vec<(String, String, u64)> {
    let list = proxy.admin("GET", "/v1/servers", None).json();
    let row = |server: &Value| {
        let text = |key: &str| server[key].as_str().expect("text").to_owned();
        let sessions = server["sessions"].as_u64().expect("a number");
        (text("id"), text("state"), sessions)
    };
    let servers = list["servers"].as_array().expect("a list");
    servers.iter().map(row).collect()
}

fn ids(proxy: &Proxy) -> Vec<String> {
    servers(proxy).into_iter().map(|(id, _, _)| id).collect()
}

fn busy() -> Habit {
    Habit {
        every: Duration::from_millis(20),
        ..Habit::default()
    }
}

/// Each session's times of failover, by its id.
fn failovers(proxy: &Proxy) -> Vec<(String, String, u64)> {
    let row = |session: &Value| {
        let text = |key: &str| session[key].as_str().expect("text").to_owned();
        (
            text("id"),
            text("server"),
            session["failovers"].as_u64().expect("a number"),
        )
    };
    let mut rows: Vec<_> = proxy.sessions().iter().map(row).collect();
    rows.sort();
    rows
}

#[test]
fn under_load_nobody_notices_whom_it_does_not_concern() {
    let mut field = Field::start(&[Kind::Python, Kind::Node], &[], json!({}), 60, &busy());
    field.crowd.send_more(500);
    let before = failovers(&field.proxy);
    let stayed = |proxy: &Proxy| assert_eq!(failovers(proxy), before);

    // Limits, log, settings of sessions, how servers are chosen: no session moves.
    let said = field.proxy.reload(|config| {
        config["log"] = json!({ "level": "debug", "format": "json" });
        config["limits"]["connections"] = json!(5_000);
        config["limits"]["message"] = json!("1MiB");
        config["limits"]["memory"] = json!("256MiB");
        config["pools"]["main"]["balance"] = json!("least-connections");
        config["pools"]["main"]["timeouts"]["ping"] = json!("2s");
        config["pools"]["main"]["session"] = json!({ "barrier": { "delay": "20ms" } });
    });
    assert!(
        said.contains("pool main: balance, timeouts, session; limits; log"),
        "{said}"
    );
    assert!(said.contains("{\""), "JSON from now on: {said}");
    assert_eq!(
        field.proxy.count("wsteady_memory_limit_bytes", &[]),
        256 << 20
    );
    field.crowd.send_more(500);
    stayed(&field.proxy);

    // Another server, another weight: those who are here stay where they are.
    let third = Peer::start(Kind::Python, "b3", &[]);
    let url = third.url();
    field.peers.push(third);
    let said = field.proxy.reload(|config| {
        let servers = config["pools"]["main"]["servers"].as_array_mut().unwrap();
        servers[1]["weight"] = json!(3);
        servers.push(json!({ "url": url, "id": "b3" }));
    });
    assert!(
        said.contains("server b2: weight 3; server b3 joins"),
        "{said}"
    );
    field.crowd.send_more(500);
    stayed(&field.proxy);
    assert_eq!(ids(&field.proxy), ["b1", "b2", "b3"]);

    // One leaves: its sessions move, cleanly, and the others don't.
    let said = field.proxy.reload(|config| {
        config["pools"]["main"]["servers"]
            .as_array_mut()
            .unwrap()
            .remove(0);
    });
    assert!(said.contains("server b1 leaves"), "{said}");
    until_true(HEALED, "sessions at the other two", || {
        servers(&field.proxy).iter().map(|row| row.2).sum::<u64>() == 60
            && ids(&field.proxy) == ["b2", "b3"]
    });
    let after = failovers(&field.proxy);
    for (was, is) in before.iter().zip(&after).filter(|(was, _)| was.1 != "b1") {
        assert_eq!(was, is);
    }
    field.crowd.send_more(500);
    field.peers[0].kill();
    let verdict = field.conclude();
    assert_eq!(verdict.duplicated, 0, "{verdict}");
}

#[test]
fn a_wrong_file_changes_nothing_and_says_why() {
    let field = Field::start(&[Kind::Python], &[], json!({}), 5, &busy());
    let proxy = &field.proxy;
    let before = failovers(proxy);
    let said = proxy.reload(|config| {
        config["pools"]["main"]["timeouts"]["pong"] = json!("soon");
        config["pools"]["main"]["servers"] = json!([]);
    });
    assert!(
        said.contains("the configuration is wrong: nothing has changed"),
        "{said}"
    );
    let log = proxy.log();
    assert!(log.contains("wsteady.yaml:1:"), "{log}");
    assert!(
        log.contains("pools.main.timeouts.pong") && log.contains("soon"),
        "{log}"
    );
    let said = proxy.reload_text("pools: [");
    assert!(said.contains("nothing has changed"), "{said}");
    // A name that nobody knows is as wrong, and a kind that would be another.
    let good = json!({ "url": field.peers[0].url(), "id": "b1" });
    let pool = |kind: &str, servers: Value| {
        json!({ "pools": { "main": { "kind": kind, "servers": servers } } }).to_string()
    };
    let bad = json!([good, { "url": "ws://no-such-host.invalid:1" }]);
    let said = proxy.reload_text(&pool("websocket", bad));
    assert!(
        said.contains("no-such-host.invalid") && said.contains("nothing has changed"),
        "{said}"
    );
    let said = proxy.reload_text(&pool("http", json!(["http://127.0.0.1:1/"])));
    assert!(said.contains("pool main: its kind can't change"), "{said}");
    field.crowd.send_more(100);
    assert_eq!(failovers(proxy), before);
    assert_eq!(ids(proxy), ["b1"]);
    field.conclude();
}

#[test]
fn what_needs_a_restart_is_said_and_the_rest_is_done() {
    let peer = Peer::start(Kind::Python, "b1", &[]);
    let proxy = Proxy::start(&[peer.url()], json!({}));
    let said = proxy.reload(|config| {
        config["listen"] = json!([{ "address": "127.0.0.1:1" }]);
        config["loops"] = json!(7);
        config["drain"] = json!("1s");
    });
    assert!(said.contains("configuration read again: drain"), "{said}");
    let log = proxy.log();
    assert!(log.contains("not before a restart: listen, loops"), "{log}");
    drop(Raw::open(proxy.address, "/still-here", ""));
    proxy.finish();
}

#[test]
fn what_the_admin_api_changed_stays() {
    let peer = Peer::start(Kind::Python, "b1", &[]);
    let other = Peer::start(Kind::Node, "b2", &[]);
    let third = Peer::start(Kind::Node, "b3", &[]);
    let proxy = Proxy::start(&[peer.url(), other.url()], json!({}));
    let disable = r#"{"state":"disabled","weight":7}"#;
    assert_eq!(
        proxy.admin("PATCH", "/v1/servers/b1", Some(disable)).status,
        200
    );
    let add = json!({ "pool": "main", "url": third.url(), "id": "b3" }).to_string();
    assert_eq!(proxy.admin("POST", "/v1/servers", Some(&add)).status, 201);
    assert_eq!(proxy.admin("DELETE", "/v1/servers/b2", None).status, 200);
    proxy.reload(|config| config["pools"]["main"]["balance"] = json!("random"));
    let list = proxy.admin("GET", "/v1/servers", None).json();
    assert_eq!(list["servers"][0]["weight"], 7);
    let rows: Vec<_> = servers(&proxy)
        .into_iter()
        .map(|row| (row.0, row.1))
        .collect();
    let row = |id: &str, state: &str| (id.to_owned(), state.to_owned());
    assert_eq!(rows, [row("b1", "disabled"), row("b3", "enabled")]);
    proxy.finish();
}

#[test]
fn pools_and_routes_come_and_go() {
    let (main, chat) = (
        Peer::start(Kind::Python, "b1", &[]),
        Peer::start(Kind::Node, "c1", &[]),
    );
    let proxy = Proxy::start(&[main.url()], json!({}));
    let url = chat.url();
    proxy.reload(|config| {
        config["pools"]["chat"] = json!({ "servers": [{ "url": url, "id": "c1" }] });
        config["routes"] = json!([{ "path": "/chat", "pool": "chat" }, { "pool": "main" }]);
    });
    let session = Raw::open(proxy.address, "/chat/1", "");
    let of = |pool: &str| proxy.count("wsteady_sessions_active", &[("pool", pool)]);
    assert_eq!((of("main"), of("chat")), (0, 1));
    // Who is there stays there, though there is nowhere else to go and nobody comes any more.
    proxy.reload(|config| {
        config["pools"].as_object_mut().unwrap().remove("chat");
        config.as_object_mut().unwrap().remove("routes");
    });
    let other = Raw::open(proxy.address, "/chat/2", "");
    assert_eq!((of("main"), of("chat")), (1, 1));
    let list = proxy.admin("GET", "/v1/pools", None).json();
    assert_eq!(list["pools"].as_array().unwrap().len(), 1);
    assert_eq!(proxy.admin("GET", "/readyz", None).status, 200);
    drop((session, other));
    proxy.finish();
}

#[test]
fn the_last_of_many_counts_and_none_comes_into_a_drain() {
    let peer = Peer::start(Kind::Python, "b1", &[]);
    let mut proxy = Proxy::start(&[peer.url()], json!({ "drain": "2s" }));
    for ms in 1..=20 {
        proxy
            .reload(|config| config["pools"]["main"]["timeouts"]["ping"] = json!(format!("{ms}s")));
        proxy.signal(Signal::HUP);
        proxy.signal(Signal::HUP);
    }
    let said = proxy.reload(|config| config["limits"]["connections"] = json!(77));
    assert!(
        !said.contains("pool main"),
        "an old file was read late: {said}"
    );
    let session = Raw::open(proxy.address, "/1", "");
    proxy.signal(Signal::TERM);
    until_true(Duration::from_secs(2), "a drain", || {
        proxy.log().contains("draining")
    });
    proxy.signal(Signal::HUP);
    until_true(Duration::from_secs(2), "a refusal", || {
        proxy.log().contains("the configuration is not read again")
    });
    drop(session);
    assert_eq!(proxy.wait_exit(Duration::from_secs(10)).code(), Some(0));
}
