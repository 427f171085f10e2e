//! A rolling deploy by the admin API alone, under load.

use crate::support::client::Habit;
use crate::support::field::Field;
use crate::support::peer::{Kind, Peer};
use crate::support::proxy::{Proxy, patient};
use crate::support::raw::{Origin, Raw, echo_origin, handshake};
use crate::support::{SOON, turn, until_true};
use serde_json::{Value, json};
use std::time::Duration;

/// Ids of the servers that are there, and their sessions.
fn servers(proxy: &Proxy) -> Vec<(String, u64)> {
    let list = proxy.admin("GET", "/v1/servers", None).json();
    let row = |server: &Value| {
        let id = server["id"].as_str().expect("an id").to_owned();
        (id, server["sessions"].as_u64().expect("a number"))
    };
    list["servers"]
        .as_array()
        .expect("a list")
        .iter()
        .map(row)
        .collect()
}

/// Far more than it takes until all sessions have left a server.
const EMPTY: Duration = Duration::from_secs(30);

/// Each server gets a successor, its sessions move there or to the others, and it is gone.
#[test]
fn three_servers_are_replaced_under_1000_busy_sessions() {
    let _turn = turn();
    let old: Vec<Peer> = ["b1", "b2", "b3"]
        .map(|name| Peer::start(Kind::Python, name, &[]))
        .into();
    let habit = Habit {
        every: Duration::from_millis(500),
        ahead: 8,
        ..Habit::default()
    };
    let mut field = Field::over(old, patient(json!({})), 1_000, &habit);
    field.crowd.send_more(2_000);
    for at in 0..3 {
        let sent = field.crowd.sent();
        let new = Peer::start(Kind::Python, ["n1", "n2", "n3"][at], &[]);
        let wanted = json!({ "pool": "main", "url": new.url(), "id": format!("new-{at}") });
        let added = field
            .proxy
            .admin("POST", "/v1/servers", Some(&wanted.to_string()));
        assert_eq!(added.status, 201, "{}", added.body);
        field.peers.push(new);
        let (leaving, sessions) = servers(&field.proxy)[0].clone();
        assert!(sessions >= 300, "{leaving} has {sessions} sessions to lose");
        let path = format!("/v1/servers/{leaving}");
        let drained = field
            .proxy
            .admin("PATCH", &path, Some(r#"{"state":"draining"}"#));
        assert_eq!(drained.status, 200);
        until_true(EMPTY, "an empty server", || servers(&field.proxy)[0].1 == 0);
        assert_eq!(field.proxy.admin("DELETE", &path, None).status, 200);
        // Nothing of wsteady's goes there any more.
        field.peers[at].kill();
        let meanwhile = field.crowd.sent() - sent;
        assert!(meanwhile >= 500, "only {meanwhile} messages meanwhile");
        // Whoever has moved speaks before the next server leaves.
        field.crowd.send_more(1_000);
    }
    let left = servers(&field.proxy);
    assert_eq!(
        left.iter().map(|(id, _)| &**id).collect::<Vec<_>>(),
        ["new-0", "new-1", "new-2"]
    );
    // The last ones are on their way: they have left a server and are not at the next.
    until_true(EMPTY, "a server for each session", || {
        let sessions = |(_, sessions): (String, u64)| sessions;
        servers(&field.proxy).into_iter().map(sessions).sum::<u64>() == 1_000
    });
    let count = |name| field.proxy.count(name, &[]);
    assert!(
        count("wsteady_failovers_total") >= 1_000,
        "each moved once or more"
    );
    assert_eq!(count("wsteady_messages_replayed_total"), 0);
    assert_eq!(count("wsteady_messages_unconfirmed_total"), 0);
    let verdict = field.conclude();
    assert_eq!(verdict.duplicated, 0, "{verdict}");
}

/// Without a drain before it, a deletion moves the sessions just as well.
#[test]
fn a_deleted_server_is_left_by_its_sessions() {
    let habit = Habit {
        ahead: 20,
        ..Habit::default()
    };
    let mut field = Field::start(
        &[Kind::Python, Kind::Node],
        &[],
        patient(json!({})),
        50,
        &habit,
    );
    std::thread::sleep(Duration::from_secs(1));
    let gone = servers(&field.proxy)[0].0.clone();
    let path = format!("/v1/servers/{gone}");
    assert_eq!(field.proxy.admin("DELETE", &path, None).status, 200);
    until_true(EMPTY, "all sessions at the other", || {
        servers(&field.proxy)[0].1 == 50
    });
    field.peers[0].kill();
    let verdict = field.conclude();
    assert_eq!(verdict.duplicated, 0, "{verdict}");
}

/// Whoever is on the way to a server that is being left never arrives there.
#[test]
fn a_handshake_under_way_is_given_up_when_its_server_drains() {
    let (slow, other) = (Origin::bind(), echo_origin());
    let times = json!({
        "pools": { "main": { "timeouts": { "handshake": "2m" } } },
        "session": { "admit": "2m" },
    });
    let proxy = Proxy::start(&[slow.url(), other.url()], patient(times));
    let mut clients: Vec<Raw> = (0..4)
        .map(|_| {
            let mut client = Raw::connect(proxy.address);
            assert!(client.send(handshake("/", "").as_bytes()));
            client
        })
        .collect();
    let (mut unanswered, _) = slow.next();
    let drained = proxy.admin("PATCH", "/v1/servers/b1", Some(r#"{"state":"draining"}"#));
    assert_eq!(drained.status, 200);
    for client in &mut clients {
        assert_eq!(client.head(SOON).status(), 101);
    }
    unanswered.end(SOON);
    drop(clients);
    proxy.finish();
}
