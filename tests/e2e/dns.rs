//! Server names whose addresses change while sessions are under way.

use crate::support::client::Habit;
use crate::support::field::{Field, HEALED};
use crate::support::hosts::Hosts;
use crate::support::http;
use crate::support::peer::{Kind, Peer};
use crate::support::proxy::Proxy;
use crate::support::raw::{Origin, Raw};
use crate::support::{until, until_true};
use serde_json::json;
use std::time::Duration;

const NAME: &str = "servers.test";

/// Ids, states and sessions, as `/v1/servers` has them.
fn servers(proxy: &Proxy) -> Vec<(String, String, u64)> {
    let list = proxy.admin("GET", "/v1/servers", None).json();
    let servers = list["servers"].as_array().expect("a list");
    let row = |server: &serde_json::Value| {
        let text = |key: &str| server[key].as_str().expect("text").to_owned();
        let sessions = server["sessions"].as_u64().expect("a number");
        (text("id"), text("state"), sessions)
    };
    servers.iter().map(row).collect()
}

fn wait_for(proxy: &Proxy, wanted: &[(&str, &str)]) {
    let mut seen = Vec::new();
    let what = format!("{wanted:?}");
    until_true(HEALED, &what, || {
        let now = servers(proxy);
        if now != seen {
            eprintln!("servers: {now:?}");
            seen = now;
        }
        let seen = seen.iter().map(|(id, state, _)| (&**id, &**state));
        seen.eq(wanted.iter().copied())
    });
}

fn sessions_of(proxy: &Proxy, id: &str) -> u64 {
    let servers = servers(proxy);
    let of = servers.iter().find(|(found, _, _)| found == id);
    of.map_or(0, |(_, _, sessions)| *sessions)
}

#[test]
fn addresses_join_drain_and_come_back_and_no_session_loses_anything() {
    let hosts = Hosts::new();
    hosts.set(NAME, &["127.0.0.2"]);
    let first = Peer::start_at(Kind::Python, "b1", "127.0.0.2", &[], &[]);
    let second = first.start_beside("b2", "127.0.0.3");
    let changes = json!({ "pools": { "main": { "dns": "100ms" } } });
    let proxy = Proxy::start_through(&hosts.words(), &[first.url_at(NAME)], changes);
    assert_eq!(servers(&proxy), [("b1".into(), "enabled".into(), 0)]);
    let habit = Habit {
        every: Duration::from_millis(5),
        ..Habit::default()
    };
    let field = Field::behind(proxy, vec![first, second], 6, &habit);
    let proxy = &field.proxy;
    field.crowd.send_more(200);
    assert_eq!(sessions_of(proxy, "b1"), 6);

    // A new address takes new sessions, and has its series from the first scrape on.
    hosts.set(NAME, &["127.0.0.2", "127.0.0.3"]);
    wait_for(proxy, &[("b1", "enabled"), ("b1@127.0.0.3", "enabled")]);
    let labels = [("pool", "main"), ("server", "b1@127.0.0.3")];
    assert_eq!(proxy.count("wsteady_server_up", &labels), 1);
    let more: Vec<Raw> = (0..8)
        .map(|_| Raw::open(proxy.address, "/idle", ""))
        .collect();
    let new = sessions_of(proxy, "b1@127.0.0.3");
    assert!((2..=6).contains(&new), "by turns in each loop: {new}");
    drop(more);

    // One that leaves is drained: its sessions move, and then it is nobody's server any more.
    field.crowd.send_more(200);
    hosts.set(NAME, &["127.0.0.3"]);
    wait_for(proxy, &[("b1@127.0.0.3", "enabled")]);
    until_true(HEALED, "all to have moved", || {
        sessions_of(proxy, "b1@127.0.0.3") == 6
    });
    let text = proxy.admin("GET", "/metrics", None).body;
    assert!(!text.contains("wsteady_server_up{pool=\"main\",server=\"b1\"}"));
    assert!(text.contains("wsteady_sessions_total{pool=\"main\",server=\"b1\"} "));
    assert_eq!(proxy.admin("GET", "/v1/servers/b1", None).status, 404);
    assert_eq!(proxy.admin("GET", "/readyz", None).status, 200);
    field.crowd.send_more(200);

    // It comes back under its old name, and the other one leaves.
    hosts.set(NAME, &["127.0.0.2", "127.0.0.3"]);
    wait_for(proxy, &[("b1@127.0.0.3", "enabled"), ("b1", "enabled")]);
    hosts.set(NAME, &["127.0.0.2"]);
    wait_for(proxy, &[("b1", "enabled")]);
    field.crowd.send_more(200);
    assert_eq!(sessions_of(proxy, "b1"), 6);

    // A name that can't be resolved any more changes nothing, and is told of once.
    hosts.set(NAME, &[]);
    let said = || proxy.log().matches("not resolved").count();
    until_true(HEALED, "a line of it", || said() > 0);
    field.crowd.send_more(200);
    assert_eq!((said(), sessions_of(proxy, "b1")), (1, 6));
    hosts.set(NAME, &["127.0.0.2"]);
    until_true(HEALED, "the end of it", || {
        proxy.log().contains("resolved again")
    });

    assert_eq!(proxy.count("wsteady_messages_replayed_total", &[]), 0);
    assert_eq!(proxy.count("wsteady_messages_unconfirmed_total", &[]), 0);
    assert_eq!(
        proxy.count("wsteady_failovers_total", &[("reason", "moved")]),
        12
    );
    field.conclude();
}

#[test]
fn the_last_address_keeps_its_sessions_and_the_operator_his_word() {
    let hosts = Hosts::new();
    hosts.set(NAME, &["127.0.0.4"]);
    let peer = Peer::start_at(Kind::Python, "b1", "127.0.0.4", &[], &[]);
    // The client of this test answers no Ping.
    let changes = json!({ "pools": { "main": { "dns": "100ms", "timeouts": { "ping": "1m" } } } });
    let proxy = Proxy::start_through(&hosts.words(), &[peer.url_at(NAME)], changes);
    let client = Raw::open(proxy.address, "/", "");

    // While nobody else may be used, a session stays at an address that has left.
    hosts.set(NAME, &["127.0.0.4", "127.0.0.5"]);
    wait_for(&proxy, &[("b1", "enabled"), ("b1@127.0.0.5", "enabled")]);
    let state = r#"{"state": "disabled"}"#;
    proxy.admin("PATCH", "/v1/servers/b1%40127.0.0.5", Some(state));
    hosts.set(NAME, &["127.0.0.5"]);
    let stays = [("b1", "draining"), ("b1@127.0.0.5", "disabled")];
    wait_for(&proxy, &stays);
    std::thread::sleep(Duration::from_millis(2500));
    wait_for(&proxy, &stays);
    assert_eq!(sessions_of(&proxy, "b1"), 1);
    drop(client);
    wait_for(&proxy, &[("b1@127.0.0.5", "disabled")]);

    // What the operator said of it outlives its absence.
    hosts.set(NAME, &["127.0.0.4", "127.0.0.5"]);
    let back = [("b1@127.0.0.5", "disabled"), ("b1", "enabled")];
    wait_for(&proxy, &back);
    let client = Raw::open(proxy.address, "/", "");
    assert_eq!(sessions_of(&proxy, "b1"), 1);
    proxy.admin("PATCH", "/v1/servers/b1", Some(state));
    hosts.set(NAME, &["127.0.0.5"]);
    let left = [("b1@127.0.0.5", "disabled"), ("b1", "draining")];
    wait_for(&proxy, &left);
    hosts.set(NAME, &["127.0.0.4", "127.0.0.5"]);
    let back = [("b1@127.0.0.5", "disabled"), ("b1", "disabled")];
    wait_for(&proxy, &back);
    drop(client);
    proxy.finish();
}

#[test]
fn calls_go_to_the_new_address_and_the_old_one_keeps_no_connection() {
    let hosts = Hosts::new();
    hosts.set(NAME, &["127.0.0.1"]);
    let origin = Origin::bind();
    let (port, there) = (origin.address.port(), Origin::bind_at("127.0.0.6", &origin));
    let (here, there) = (answer("here", origin), answer("there", there));
    let changes = json!({ "pools": { "main": {
        "kind": "http", "dns": "100ms", "connections": { "min": 2, "idle": "30s" },
    } } });
    let url = format!("http://{NAME}:{port}");
    let proxy = Proxy::start_through(&hosts.words(), &[url], changes);
    let ask = || http::get(proxy.address, "/").unwrap().body;
    assert_eq!(ask(), "here");
    let open = || {
        let server = proxy.admin("GET", "/v1/servers/b1", None);
        (server.status == 200).then(|| server.json()["connections"].as_u64().unwrap())
    };
    assert_eq!(open(), Some(1), "it rests");
    hosts.set(NAME, &["127.0.0.6"]);
    until(HEALED, "it to be closed", || open().is_none().then_some(()));
    assert_eq!(ask(), "there");
    assert_eq!((here.heads().len(), there.heads().len()), (1, 1));
    proxy.finish();
}

/// A server that says who it is, on connections that stay.
fn answer(name: &'static str, origin: Origin) -> crate::support::raw::Served {
    origin.serve(move |raw, _| {
        let length = name.len();
        raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}").as_bytes());
    })
}
