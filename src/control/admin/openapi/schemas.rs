//! The shapes of what is sent and answered. Objects have no other fields than these, so that a field
//! that is added without being described is found.

use serde_json::{Map, Value, json};

use crate::control::admin::sessions::PHASES;
use crate::control::cluster::State;
use crate::control::config::WEIGHT_MAX;
use crate::session::Phase;

/// All of them, by name.
pub(super) fn all() -> Value {
    let groups = [common(), servers(), sessions(), stats(), balancers()];
    Value::Object(groups.into_iter().flatten().collect())
}

/// A reference to one of them.
pub(super) fn named(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

pub(super) fn list_of(name: &str) -> Value {
    json!({ "type": "array", "items": named(name) })
}

pub(super) fn text() -> Value {
    json!({ "type": "string" })
}

fn common() -> Map<String, Value> {
    let peer = json!({
        "address": text(),
        "state": { "enum": State::ALL.map(State::name) },
        "seconds": count(),
    });
    let cluster = json!({
        "kind": { "enum": ["alone", "peers"] },
        "node": { "type": ["string", "null"] },
        "peers": { "type": "array", "items": object(peer, json!({})) },
        "unresolved": { "type": "array", "items": text() },
    });
    group([
        ("Cluster", object(cluster, json!({}))),
        ("Error", object(json!({ "error": text() }), json!({}))),
        ("Accept", object(json!({ "paused": truth() }), json!({}))),
    ])
}

fn servers() -> Map<String, Value> {
    let state = ["enabled", "disabled", "draining", "gone"];
    let server = json!({
        "id": text(),
        "pool": text(),
        "url": text(),
        "address": text(),
        "state": { "enum": state },
        "weight": weight(),
        "connections": count(),
    });
    // They are missing if a loop was too busy to count them, and of a server that is removed.
    let numbers = json!({
        "healthy": truth(),
        "breaker": { "enum": ["open", "closed"] },
        "sessions": count(),
        "sessions_total": count(),
        "failures_total": count(),
    });
    let mut change = object(
        json!({}),
        json!({ "state": { "enum": &state[..3] }, "weight": weight() }),
    );
    change["minProperties"] = json!(1);
    let some = json!({ "type": "string", "minLength": 1 });
    let new = object(
        json!({ "pool": some, "url": { "type": "string", "pattern": URLS } }),
        json!({ "id": some, "weight": weight() }),
    );
    let pool = json!({
        "name": text(),
        "kind": { "enum": KINDS },
        "balance": { "enum": [
            "round-robin", "random", "least-connections", "hash", "adaptive",
        ] },
        "servers": { "type": "array", "items": text() },
        "usable": count(),
        "messages": named("Messages"),
    });
    let of = |field: &str, item: &str| object(json!({ field: list_of(item) }), json!({}));
    group([
        ("Server", object(server, numbers)),
        ("Servers", of("servers", "Server")),
        ("ServerChange", change),
        ("NewServer", new),
        ("Pool", object(pool, json!({}))),
        ("Pools", of("pools", "Pool")),
    ])
}

fn sessions() -> Map<String, Value> {
    let session = json!({
        "id": named("SessionId"),
        "client": text(),
        "path": text(),
        "pool": or_null("string"),
        "server": or_null("string"),
        "state": { "enum": PHASES.map(Phase::name) },
        "opened": { "type": "string", "format": "date-time" },
        "failovers": count(),
        "messages_up": count(),
        "messages_down": count(),
        "journal_bytes": count(),
    });
    let client = object(
        json!({ "address": text(), "connected": truth() }),
        json!({}),
    );
    let mut upstream = object(
        json!({ "server": text(), "url": text(), "address": text(), "connected": truth() }),
        json!({}),
    );
    upstream["type"] = json!(["object", "null"]);
    let more = json!({
        "age_seconds": seconds(),
        "waiting_seconds": { "type": ["number", "null"], "minimum": 0 },
        "confirmed": count(),
        "unconfirmed": count(),
        "legs": object(json!({ "client": client, "upstream": upstream }), json!({})),
    });
    let mut detail = session.clone();
    if let (Some(all), Value::Object(more)) = (detail.as_object_mut(), more) {
        all.extend(more);
    }
    let page = json!({ "sessions": list_of("Session"), "next": or_null("string") });
    let did = |what: &str| {
        let fields = json!({ "id": named("SessionId"), what: { "const": true } });
        object(fields, json!({}))
    };
    group([
        (
            "SessionId",
            json!({
                "type": "string",
                "pattern": "^[0-9a-fA-F]{32}$",
                "description": "As in `X-Wsteady-Session`.",
            }),
        ),
        ("Session", object(session, json!({}))),
        ("SessionDetail", object(detail, json!({}))),
        ("Sessions", object(page, json!({}))),
        ("Aborted", did("aborted")),
        ("Moving", did("moving")),
    ])
}

fn stats() -> Map<String, Value> {
    let counts = |names: &[&str]| {
        let fields = names.iter().map(|name| (name.to_string(), count()));
        object(Value::Object(fields.collect()), json!({}))
    };
    let messages = [
        "up",
        "down",
        "confirmed",
        "journaled",
        "replayed",
        "unconfirmed",
        "failovers",
        "sessions_held",
    ];
    let quantiles = json!({
        "count": count(), "p50": seconds(), "p99": seconds(), "max": seconds(),
    });
    let connections = json!({
        "opened": count(),
        "closed": count(),
        "active": count(),
        "denied": { "type": "object", "additionalProperties": count() },
    });
    let each_loop = json!({
        "loop": count(),
        "clients": count(),
        "upstreams": count(),
        "timers": count(),
        "turns": count(),
        "busy_seconds": seconds(),
        "buffer_bytes": count(),
    });
    let stats = json!({
        "version": text(),
        "uptime_seconds": seconds(),
        "paused": truth(),
        "draining": truth(),
        "connections": object(connections, json!({})),
        "sessions": counts(&["active", "total"]),
        "messages": named("Messages"),
        "requests": counts(&["started", "failed", "succeeded"]),
        "hold_seconds": named("Quantiles"),
        "relay_seconds": named("Quantiles"),
        "buffer_bytes": count(),
        "kept_bytes": count(),
        "memory_limit_bytes": count(),
        "viewers": count(),
        "faults": count(),
        "loops": { "type": "array", "items": object(each_loop, json!({})) },
    });
    let event = json!({
        "event": { "enum": [
            "history", "stats", "servers", "held", "resumed", "ended", "server", "silent",
        ] },
        // JSON.
        "data": text(),
    });
    group([
        (
            "Event",
            object(event, json!({ "id": text(), "retry": count() })),
        ),
        ("Stats", object(stats, json!({}))),
        ("Messages", counts(&messages)),
        ("Quantiles", object(quantiles, json!({}))),
    ])
}

/// wsbalancer's.
fn balancers() -> Map<String, Value> {
    let result = object(
        json!({ "result": { "enum": ["success", "failed"] } }),
        json!({ "reason": text() }),
    );
    let backend = json!({
        "url": text(),
        "id": text(),
        "activeConnections": count(),
        "enabled": truth(),
        "tripped": truth(),
        "totalConnections": count(),
        "totalFailures": count(),
    });
    let list = |item: Value| json!({ "type": ["array", "null"], "items": item });
    let settings = json!({
        "id": text(),
        "ping-time": text(),
        "read-buffer-size": count(),
        "write-buffer-size": count(),
        "breaker-threshold": { "type": "integer" },
        "handshake-timeout": text(),
        "pass-headers": list(text()),
        "abnormal-close-codes": list(count()),
    });
    let mut config = settings.clone();
    config["url"] = text();
    let session = json!({
        "id": named("SessionId"),
        "uri": text(),
        "backendId": text(),
        "reconnects": count(),
        "msgsReceived": count(),
        "msgsSent": count(),
    });
    group([
        ("Result", result),
        ("Backend", object(backend, json!({}))),
        ("NewBackend", object(json!({ "url": text() }), settings)),
        ("BackendConfig", object(json!({}), config)),
        ("BackendSession", object(session, json!({}))),
        ("Frontend", object(json!({ "id": text() }), json!({}))),
    ])
}

fn group<const N: usize>(schemas: [(&str, Value); N]) -> Map<String, Value> {
    let schemas = schemas.into_iter();
    schemas
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

/// With these fields in any case, and those perhaps.
fn object(required: Value, optional: Value) -> Value {
    let fields = |value: Value| match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let (mut all, more) = (fields(required), fields(optional));
    let names: Vec<String> = all.keys().cloned().collect();
    all.extend(more);
    json!({
        "type": "object",
        "properties": all,
        "required": names,
        "additionalProperties": false,
    })
}

fn truth() -> Value {
    json!({ "type": "boolean" })
}

fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn seconds() -> Value {
    json!({ "type": "number", "minimum": 0 })
}

fn weight() -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": WEIGHT_MAX })
}

fn or_null(kind: &str) -> Value {
    json!({ "type": [kind, "null"] })
}

/// What pools of this build are, and how their servers' URLs begin.
#[cfg(not(feature = "nats"))]
const KINDS: &[&str] = &["websocket", "bridge", "http"];
#[cfg(feature = "nats")]
const KINDS: &[&str] = &["websocket", "bridge", "http", "nats"];
#[cfg(not(feature = "nats"))]
const URLS: &str = "^(ws|http)://[!-~]+$";
#[cfg(feature = "nats")]
const URLS: &str = "^(ws|http|nats)://[!-~]+$";
