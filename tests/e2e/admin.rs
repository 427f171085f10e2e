//! The admin address as other programs use it: metrics, health, lists, and what it refuses.

use crate::support::http;
use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, echo_origin};
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;

/// The names of the contract that this version has, and their types.
const NAMES: [(&str, &str); 25] = [
    ("wsteady_connections_opened_total", "counter"),
    ("wsteady_connections_closed_total", "counter"),
    ("wsteady_connections_denied_total", "counter"),
    ("wsteady_connections_active", "gauge"),
    ("wsteady_sessions_active", "gauge"),
    ("wsteady_sessions_total", "counter"),
    ("wsteady_sessions_held", "gauge"),
    ("wsteady_failovers_total", "counter"),
    ("wsteady_hold_seconds", "histogram"),
    ("wsteady_messages_total", "counter"),
    ("wsteady_message_bytes", "histogram"),
    ("wsteady_messages_confirmed_total", "counter"),
    ("wsteady_messages_journaled", "gauge"),
    ("wsteady_messages_replayed_total", "counter"),
    ("wsteady_messages_unconfirmed_total", "counter"),
    ("wsteady_relay_seconds", "histogram"),
    ("wsteady_buffer_bytes", "gauge"),
    ("wsteady_memory_limit_bytes", "gauge"),
    ("wsteady_server_up", "gauge"),
    ("wsteady_breaker_open", "gauge"),
    ("wsteady_loop_busy_seconds_total", "counter"),
    ("process_open_fds", "gauge"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_cpu_seconds_total", "counter"),
    ("process_start_time_seconds", "gauge"),
];

#[test]
fn every_metric_is_there_from_the_start_with_type_and_help() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    let answer = proxy.admin("GET", "/metrics", None);
    assert!(
        answer
            .head
            .to_ascii_lowercase()
            .contains("content-type: text/plain"),
        "{}",
        answer.head
    );
    for (name, kind) in NAMES {
        assert!(
            answer.body.contains(&format!("# TYPE {name} {kind}\n")),
            "{name} is no {kind}"
        );
        assert!(
            answer.body.contains(&format!("# HELP {name} ")),
            "{name} has no help"
        );
        let sample = |line: &str| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{', '_']))
        };
        assert!(answer.body.lines().any(sample), "{name} has no sample");
    }
    assert_eq!(
        proxy.count("wsteady_server_up", &[("pool", "main"), ("server", "b1")]),
        1
    );
    assert_eq!(proxy.count("wsteady_memory_limit_bytes", &[]), 64 << 20);

    proxy.finish();
}

#[test]
fn health_says_alive_and_ready_and_no_longer_ready() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    assert_eq!(proxy.admin("GET", "/healthz", None).status, 200);
    assert_eq!(proxy.admin("GET", "/readyz", None).status, 200);
    proxy.admin("PATCH", "/v1/servers/b1", Some(r#"{"state": "disabled"}"#));
    assert_eq!(
        proxy.admin("GET", "/readyz", None).status,
        503,
        "no usable server"
    );
    assert_eq!(proxy.admin("GET", "/healthz", None).status, 200);
    proxy.finish();
}

#[test]
fn servers_and_sessions_are_listed_page_by_page() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    let clients: Vec<Raw> = (0..25)
        .map(|_| Raw::open(proxy.address, "/room", ""))
        .collect();
    let servers = proxy.admin("GET", "/v1/servers", None).json();
    let server = &servers["servers"][0];
    assert_eq!(server["id"], "b1");
    assert_eq!(server["pool"], "main");
    assert_eq!(server["url"], origin.url());
    assert_eq!(server["state"], "enabled");
    assert_eq!(server["sessions"], 25);
    let mut seen = HashSet::new();
    let mut after = String::new();
    for _ in 0..10 {
        let page = proxy
            .admin("GET", &format!("/v1/sessions?limit=10{after}"), None)
            .json();
        let sessions = page["sessions"].as_array().unwrap();
        assert!(sessions.len() <= 10);
        for session in sessions {
            assert_eq!(session["path"], "/room");
            assert_eq!(session["pool"], "main");
            assert_eq!(session["server"], "b1");
            assert_eq!(session["failovers"], 0);
            assert!(
                seen.insert(session["id"].as_str().unwrap().to_owned()),
                "listed twice"
            );
        }
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    assert_eq!(seen.len(), 25);
    drop(clients);
    proxy.finish();
}

#[test]
fn s01_what_a_page_in_a_browser_could_send_is_refused() {
    // V41: DNS rebinding, forms, foreign origins, links.
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    let send = |head: String| {
        let mut raw = Raw::plain(proxy.admin);
        raw.send(head.as_bytes());
        raw.head(Duration::from_secs(10)).status()
    };
    let here = proxy.admin;
    let body = r#"{"state": "disabled"}"#;
    let patch = |host: &str, more: &str| {
        let length = body.len();
        format!(
            "PATCH /v1/servers/b1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             Content-Length: {length}\r\n{more}\r\n{body}"
        )
    };
    let json = "Content-Type: application/json\r\n";
    assert_eq!(
        send(patch("evil.test", json)),
        421,
        "a name that was bent to us"
    );
    assert_eq!(
        send(patch(&here.to_string(), "Content-Type: text/plain\r\n")),
        415
    );
    assert_eq!(send(patch(&here.to_string(), "")), 415);
    let foreign = format!("{json}Origin: http://evil.test\r\n");
    assert_eq!(send(patch(&here.to_string(), &foreign)), 403);
    assert_eq!(
        proxy.admin("GET", "/v1/servers/b1/failover", None).status,
        405
    );
    let unknown = proxy.admin("PATCH", "/v1/servers/nobody", Some(body));
    assert_eq!(unknown.status, 404);
    assert!(unknown.json()["error"].is_string(), "{}", unknown.body);
    let wrong = proxy.admin("PATCH", "/v1/servers/b1", Some(r#"{"state": "gone"}"#));
    assert_eq!(wrong.status, 400, "{}", wrong.body);
    assert_eq!(http::get(here, "/nothing").unwrap().status, 404);
    let state = proxy.admin("GET", "/v1/servers", None).json()["servers"][0]["state"].clone();
    assert_eq!(state, "enabled", "none of these has changed it");
    proxy.finish();
}
