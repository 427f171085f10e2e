use std::time::Duration;

use super::keys::SECTIONS;
use super::*;

/// The listing of the contract's section on configuration, less the route to a pool that is not shown.
const CONTRACT: &str = r#"
listen: [{ address: "0.0.0.0:8080" }]
admin: { address: "127.0.0.1:8081" }         # token: "…" needed for any address that is not loopback
loops: auto                                   # one per core
routes:                                       # first match wins, whole path segments; no match 404; none given: every pool by its kind
  - { path: /chat, host: chat.example.com, upgrade: true, pool: chat }
pools:
  chat:
    kind: websocket                           # websocket | bridge | http
    servers: [ { url: "ws://10.0.0.1:9000", id: a, weight: 1 }, { url: "ws://10.0.0.2:9000" } ]
    balance: round-robin
    target: append                            # append | fixed
    health: { path: /healthCheck, interval: 10s, expect: websocket }
    breaker: { threshold: 10, cooldown: 10s }
    connect_rate: 5000
    abnormal_close_codes: [1001, 1005, 1006, 1011, 1012, 1013]
    pass_headers: [Set-Cookie]
    block_headers: []
    timeouts: { connect: 2s, handshake: 10s, response: 60s, ping: 30s, pong: 10s, close: 5s }
    source_addresses: []                      # local addresses to dial from: each has some 64,000 ports towards one server
    dns: 30s
    # session: may stand in a pool, too, and wins there; connections: for bridge and http
session: { buffer: 5MiB, hold: 30s, admit: 5s, confirm: received, overflow: pause, atomic: 64KiB, replay_attempts: 3,
           barrier: { delay: 50ms, bytes: 64KiB }, on_duplicate: reject, reconnect_header: X-Balancer-Reconnect }
trusted_proxies: []
origins: []
limits: { memory: 4GiB, connections: 1000000, per_address: 0, header: 16KiB, message: 16MiB, handshake: 10s, socket_buffer: 0,
          fragments: 100000, message_time: 60s, pings: 100, min_rate: 500 }   # of one message (1009); of one message (1008); a second and client after a burst of 200 (1008)
push: { path: /, allow: [], token: "" }
drain: 30s
log: { level: info, format: text }
metrics: { legacy_names: false }              # ws2api's and wsbalancer's names as well
"#;

fn load(text: &str) -> Result<Loaded, Problems> {
    Sources::default().load_text(text, "w.yaml")
}

/// A pool `a` with one server, and `rest` behind its keys, from line 4 on.
fn in_pool(rest: &str) -> String {
    format!("pools:\n  a:\n    servers: [ws://h:1]\n    {rest}\n")
}

/// A pool `a` of `kind` with one server at `url`, and `rest` behind its keys, from line 5 on.
fn in_kind(kind: &str, url: &str, rest: &str) -> String {
    format!("pools:\n  a:\n    kind: {kind}\n    servers: [\"{url}\"]\n    {rest}\n")
}

/// `rest` from line 2 on, behind a pool that is right.
fn beside_pool(rest: &str) -> String {
    format!("pools: {{ a: {{ servers: [ws://h:1] }} }}\n{rest}\n")
}

fn problems(text: &str) -> Vec<String> {
    match load(text) {
        Ok(loaded) => panic!("{text} was taken as {:?}", loaded.config),
        Err(problems) => problems.iter().map(Problem::to_string).collect(),
    }
}

#[test]
fn the_contracts_listing_is_the_default() {
    let loaded = load(CONTRACT).unwrap();
    assert_eq!(loaded.warnings, vec![]);
    let config = loaded.config;
    let mut expected = Config::default();
    expected.routes.push(RouteConfig {
        path: "/chat".into(),
        host: Some("chat.example.com".into()),
        upgrade: Some(true),
        pool: "chat".into(),
    });
    let mut pool = PoolConfig::new("chat", PoolKind::Websocket, SessionConfig::default());
    pool.pass_headers.push("Set-Cookie".into());
    pool.health = Some(HealthConfig {
        path: "/healthCheck".into(),
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(2),
        rise: 1,
        fall: 2,
        expect: Expect::Websocket,
    });
    let server = |url: &str, id: &str| ServerConfig {
        url: ServerUrl::parse(url).unwrap(),
        id: id.into(),
        weight: 1,
    };
    pool.servers = vec![
        server("ws://10.0.0.1:9000", "a"),
        server("ws://10.0.0.2:9000", "10-0-0-2-9000"),
    ];
    expected.pools.push(pool);
    assert_eq!(config, expected);
    // And the same numbers, said once more without the defaults' own code.
    let (session, limits) = (&config.session, &config.limits);
    assert_eq!(
        (session.buffer, session.atomic, session.barrier.bytes),
        (5 << 20, 65536, 65536)
    );
    assert_eq!(session.hold, Duration::from_secs(30));
    assert_eq!(session.barrier.delay, Duration::from_millis(50));
    assert_eq!(
        (limits.memory, limits.message, limits.header),
        (4 << 30, 16 << 20, 16384)
    );
    assert_eq!(config.pools[0].timeouts.close, Duration::from_secs(5));
    assert_eq!(config.listen[0].address.to_string(), "0.0.0.0:8080");
}

#[test]
fn each_mistake_has_its_message_and_place() {
    let table: &[(String, &str)] = &[
        (
            String::new(),
            "w.yaml:1:1: no pool: give --backend, --api, --http or a pools section",
        ),
        (
            "pools: {}".into(),
            "w.yaml:1:1: no pool: give --backend, --api, --http or a pools section",
        ),
        ("pools: [\n".into(), "w.yaml:"),
        (
            beside_pool("sesion: {}"),
            "w.yaml:2:1: sesion: unknown key; did you mean `session`?",
        ),
        (
            beside_pool("session: { holt: 3s }"),
            "w.yaml:2:12: session.holt: unknown key; did you mean `hold`?",
        ),
        (
            beside_pool("zzz: 1"),
            "w.yaml:2:1: zzz: unknown key; known here: listen, admin, loops, routes, pools, session, trusted_proxies, origins, limits, push, cluster, drain, log, metrics",
        ),
        (
            beside_pool("drain: 3s\ndrain: 4s"),
            "w.yaml:3:1: `drain` stands here twice, first in line 2",
        ),
        (
            beside_pool("drain:"),
            "w.yaml:2:6: drain: has no value; write one, or leave the key out",
        ),
        (
            beside_pool("drain: [3s]"),
            "w.yaml:2:8: drain: is a list; write one value",
        ),
        (
            beside_pool("session: 3"),
            "w.yaml:2:10: session: must be a map of these keys: buffer, hold, admit, confirm, overflow, atomic, replay_attempts, barrier, on_duplicate, reconnect_header",
        ),
        (
            beside_pool("session: { hold: 30 }"),
            "w.yaml:2:18: session.hold: \"30\" has no unit; write 30s or 30ms",
        ),
        (
            beside_pool("session: { hold: soon }"),
            "w.yaml:2:18: session.hold: \"soon\" is not a time; write 30s, 50ms or 1m 30s",
        ),
        (
            beside_pool("session: { hold: 10us }"),
            "w.yaml:2:18: session.hold: \"10us\" is finer than a millisecond; write whole milliseconds",
        ),
        (
            beside_pool("session: { hold: 25days }"),
            "w.yaml:2:18: session.hold: \"25days\" is too long; 24 days is the most",
        ),
        (
            beside_pool("session: { buffer: lots }"),
            "w.yaml:2:20: session.buffer: \"lots\" is not a size; write 64KiB, 5MiB or a number of bytes",
        ),
        (
            beside_pool("session: { buffer: 0 }"),
            "w.yaml:2:20: session.buffer: must be at least 1KiB",
        ),
        (
            beside_pool("session: { confirm: recieved }"),
            "w.yaml:2:21: session.confirm: \"recieved\" is not known; write written, received or processed",
        ),
        (
            beside_pool("session: { replay_attempts: 0 }"),
            "w.yaml:2:29: session.replay_attempts: must be at least 1",
        ),
        (
            beside_pool("session: { on_duplicate: both }"),
            "w.yaml:2:26: session.on_duplicate: \"both\" is not known; write reject or replace",
        ),
        (
            beside_pool("session: { reconnect_header: Upgrade }"),
            "w.yaml:2:30: session.reconnect_header: \"Upgrade\" is written by wsteady itself; name another header",
        ),
        (
            beside_pool("session: { reconnect_header: \"a b\" }"),
            "w.yaml:2:30: session.reconnect_header: \"a b\" is not a header name; write letters, digits and dashes",
        ),
        (
            beside_pool("limits: { memory: 1023KiB }"),
            "w.yaml:2:19: limits.memory: must be at least 1MiB",
        ),
        (
            beside_pool("limits: { header: 2MiB }"),
            "w.yaml:2:19: limits.header: must be at most 1MiB",
        ),
        (
            beside_pool("limits: { connections: 0 }"),
            "w.yaml:2:24: limits.connections: must be at least 1",
        ),
        (
            beside_pool("limits: { pings: -1 }"),
            "w.yaml:2:18: limits.pings: \"-1\" is not a whole number; write 1 or more",
        ),
        (
            beside_pool("limits: { handshake: 0 }"),
            "w.yaml:2:22: limits.handshake: must be more than 0",
        ),
        (
            beside_pool("push: { path: /push }"),
            "w.yaml:2:15: push.path: \"/push\" is not a path that begins and ends with a slash; write /_push/",
        ),
        (
            beside_pool("push: { path: push/ }"),
            "w.yaml:2:15: push.path: \"push/\" is not a path that begins and ends with a slash; write /_push/",
        ),
        (
            beside_pool("push: { path: \"/a?b/\" }"),
            "w.yaml:2:15: push.path: \"/a?b/\" is not a path that begins and ends with a slash; write /_push/",
        ),
        (
            beside_pool("push: { token: \"a b\" }"),
            "w.yaml:2:16: push.token: has characters that no header can carry; write letters, digits, signs",
        ),
        (
            beside_pool("push: { allow: [example.com] }"),
            "w.yaml:2:17: push.allow[0]: \"example.com\" is not a network; write 10.0.0.0/8 or 10.0.0.1",
        ),
        (
            beside_pool("metrics: { legacy_names: on }"),
            "w.yaml:2:26: metrics.legacy_names: \"on\" is not known; write true or false",
        ),
        (
            beside_pool("log: { level: loud }"),
            "w.yaml:2:15: log.level: \"loud\" is not known; write error, warn, info, debug or trace",
        ),
        (
            beside_pool("loops: 0"),
            "w.yaml:2:8: loops: \"0\" is not known; write auto or 1 to 1024",
        ),
        (
            beside_pool("trusted_proxies: [10.0.0.0/33]"),
            "w.yaml:2:19: trusted_proxies[0]: \"10.0.0.0/33\" is not a network; write 10.0.0.0/8 or 10.0.0.1",
        ),
        (
            beside_pool("trusted_proxies: 10.0.0.1"),
            "w.yaml:2:18: trusted_proxies: must be a list; write [ … ]",
        ),
        (
            beside_pool("origins: [example.com]"),
            "w.yaml:2:11: origins[0]: \"example.com\" is not an origin; write https://example.com",
        ),
        (
            beside_pool("listen: [\"8080\"]"),
            "w.yaml:2:10: listen[0]: \"8080\" is not an address with a port; write 127.0.0.1:8080, [::1]:8080 or :8080",
        ),
        (
            beside_pool("listen: [\":80800\"]"),
            "w.yaml:2:10: listen[0]: port 80800 is too big; 65535 is the most",
        ),
        (
            beside_pool("listen: []"),
            "w.yaml:2:9: listen: is empty; write at least one address, such as :8080",
        ),
        (
            beside_pool("listen: [{}]"),
            "w.yaml:2:10: listen[0].address: is missing; write the address to listen on",
        ),
        (
            beside_pool("listen: [\":8080\", \"127.0.0.1:8080\"]"),
            "w.yaml:2:19: listen[1]: 127.0.0.1:8080 takes the same port as 0.0.0.0:8080; write another",
        ),
        (
            beside_pool("listen: [\"[::]:8081\"]"),
            "w.yaml:2:10: listen[0]: [::]:8081 takes the same port as the admin address 127.0.0.1:8081; write another",
        ),
        (
            beside_pool("admin: { address: \":8081\" }"),
            "w.yaml:2:19: admin.address: 0.0.0.0:8081 is not loopback; write 127.0.0.1:8081, or give admin.token (WSTEADY_ADMIN_TOKEN)",
        ),
        (
            beside_pool("admin: { token: \"***\" }"),
            "w.yaml:2:17: admin.token: is the mask that `wsteady check` prints; write the token itself",
        ),
        (
            beside_pool("routes: [{ path: /x }]"),
            "w.yaml:2:10: routes[0].pool: is missing; write the pool that takes these requests",
        ),
        (
            beside_pool("routes: [{ path: x, pool: a }]"),
            "w.yaml:2:18: routes[0].path: \"x\" is not a path; write /chat",
        ),
        (
            beside_pool("routes: [{ pool: a, host: \"h:80\" }]"),
            "w.yaml:2:27: routes[0].host: \"h:80\" is not a host; write chat.example.com, without a port",
        ),
        (
            beside_pool("routes: [{ pool: a, upgrade: maybe }]"),
            "w.yaml:2:30: routes[0].upgrade: \"maybe\" is not known; write true or false",
        ),
        (
            beside_pool("routes: [{ pool: b }]"),
            "w.yaml:2:18: routes[0].pool: no pool \"b\"; the pools are: a",
        ),
        (
            "pools: { chat: { servers: [ws://h:1] } }\nroutes: [{ pool: chut }]".into(),
            "w.yaml:2:18: routes[0].pool: no pool \"chut\"; did you mean `chat`?",
        ),
        (
            "pools: { a: { servers: [ws://h:1] }, b: { servers: [ws://i:1] } }".into(),
            "w.yaml:1:8: pools: pools a and b want the same requests; add routes",
        ),
        (
            "pools: { a: { servers: [ws://h:1] }, b: { kind: bridge, servers: [http://i/] } }"
                .into(),
            "w.yaml:1:8: pools: pools a and b want the same requests; add routes",
        ),
        (
            "pools: { a: { kind: http }, b: { servers: [ws://h:1] }, c: { kind: http } }".into(),
            "w.yaml:1:8: pools: pools a and c want the same requests; add routes",
        ),
        (
            "pools: { \"a b\": { servers: [ws://h:1] } }".into(),
            "w.yaml:1:10: pools.a b: \"a b\" is not a name; write 1 to 128 letters, digits and - . _ ~ : @",
        ),
        (
            "pools: [a]".into(),
            "w.yaml:1:8: pools: must be a map of pools by their names",
        ),
        (
            in_pool("kind: tcp"),
            "w.yaml:4:11: pools.a.kind: \"tcp\" is not known; write websocket, bridge or http",
        ),
        (
            in_kind("tcp", "tcp://h", "target: none"),
            "w.yaml:3:11: pools.a.kind: \"tcp\" is not known; write websocket, bridge or http",
        ),
        (
            in_kind("bridge", "http://h/", "target: fixed"),
            "w.yaml:5:13: pools.a.target: \"fixed\" is for pools of kind websocket, not bridge; write append",
        ),
        (
            in_kind("http", "http://h", "target: fixed"),
            "w.yaml:5:13: pools.a.target: \"fixed\" is for pools of kind websocket, not http; write append",
        ),
        (
            in_pool("health: { path: x }"),
            "w.yaml:4:21: pools.a.health.path: \"x\" is not a path that begins with a slash; write /healthCheck",
        ),
        (
            in_pool("health: { path: \"/a b\" }"),
            "w.yaml:4:21: pools.a.health.path: \"/a b\" is not a path that begins with a slash; write /healthCheck",
        ),
        (
            in_pool("health: true"),
            "w.yaml:4:13: pools.a.health: must be a map of these keys: path, interval, timeout, rise, fall, expect",
        ),
        (
            in_pool("health: { intervall: 5s }"),
            "w.yaml:4:15: pools.a.health.intervall: unknown key; did you mean `interval`?",
        ),
        (
            in_pool("health: { interval: 0 }"),
            "w.yaml:4:25: pools.a.health.interval: must be more than 0",
        ),
        (
            in_pool("health: { timeout: 11s }"),
            "w.yaml:4:24: pools.a.health.timeout: 11s is more than interval (10s); raise interval, or write at most 10s",
        ),
        (
            in_pool("health: { interval: 1s }"),
            "w.yaml:4:13: pools.a.health.timeout: 2s is more than interval (1s); raise interval, or write at most 1s",
        ),
        (
            in_pool("health: { rise: 0 }"),
            "w.yaml:4:21: pools.a.health.rise: must be 1 to 255",
        ),
        (
            in_pool("health: { fall: 256 }"),
            "w.yaml:4:21: pools.a.health.fall: must be 1 to 255",
        ),
        (
            in_pool("health: { expect: http }"),
            "w.yaml:4:23: pools.a.health.expect: \"http\" is not known; write status, json-status, tcp or websocket",
        ),
        (
            in_kind("http", "http://h", "health: { expect: websocket }"),
            "w.yaml:5:23: pools.a.health.expect: \"websocket\" is for pools of kind websocket, not http; write status, json-status or tcp",
        ),
        (
            in_kind("bridge", "http://h/", "health: { expect: websocket }"),
            "w.yaml:5:23: pools.a.health.expect: \"websocket\" is for pools of kind websocket, not bridge; write status, json-status or tcp",
        ),
        (
            in_pool("connections: { max: 3 }"),
            "w.yaml:4:18: pools.a.connections: a pool of kind websocket shares none: each session has its own; leave the key out",
        ),
        (
            in_kind("http", "http://h", "connections: { max: 0 }"),
            "w.yaml:5:25: pools.a.connections.max: must be at least 1",
        ),
        (
            in_kind("http", "http://h", "connections: { min: 4 }"),
            "w.yaml:5:25: pools.a.connections.min: 4 is more than max (3); raise max, or write at most 3",
        ),
        (
            in_kind("bridge", "http://h/", "connections: { max: 7, min: 8 }"),
            "w.yaml:5:33: pools.a.connections.min: 8 is more than max (7); raise max, or write at most 7",
        ),
        (
            in_kind("bridge", "http://h/", "connections: { queue: 8 }"),
            "w.yaml:5:27: pools.a.connections.queue: a message waits in its journal; there is no queue; leave the key out",
        ),
        (
            in_kind("bridge", "http://h/", "connections: { full_status: 429 }"),
            "w.yaml:5:33: pools.a.connections.full_status: a message waits in its journal; there is no queue; leave the key out",
        ),
        (
            in_kind("http", "http://h", "connections: { full_status: 500 }"),
            "w.yaml:5:33: pools.a.connections.full_status: \"500\" is not known; write 503 or 429",
        ),
        (
            in_kind("http", "http://h", "connections: { queue: all }"),
            "w.yaml:5:27: pools.a.connections.queue: \"all\" is not a whole number; write 0 or more",
        ),
        (
            in_kind("http", "http://h", "connections: { idle: 0 }"),
            "w.yaml:5:26: pools.a.connections.idle: must be more than 0",
        ),
        (
            in_kind("http", "http://h", "connections: { maxx: 3 }"),
            "w.yaml:5:20: pools.a.connections.maxx: unknown key; did you mean `max`?",
        ),
        (
            in_pool("balance: best"),
            "w.yaml:4:14: pools.a.balance: \"best\" is not known; write round-robin, random, least-connections, hash or adaptive",
        ),
        (
            in_pool("balance: best\n    hash: id"),
            "w.yaml:4:14: pools.a.balance: \"best\" is not known; write round-robin, random, least-connections, hash or adaptive",
        ),
        (
            in_pool("hash: address"),
            "w.yaml:4:11: pools.a.hash: only balance: hash looks at it, not round-robin; write balance: hash, or leave the key out",
        ),
        (
            in_pool("balance: adaptive\n    hash: id"),
            "w.yaml:5:11: pools.a.hash: only balance: hash looks at it, not adaptive; write balance: hash, or leave the key out",
        ),
        (
            in_pool("balance: hash\n    hash: ip"),
            "w.yaml:5:11: pools.a.hash: \"ip\" is not known; write id, address or header:NAME",
        ),
        (
            in_pool("balance: hash\n    hash: \"header:\""),
            "w.yaml:5:11: pools.a.hash: \"\" is not a header name; write letters, digits and dashes",
        ),
        (
            in_pool("balance: hash\n    hash: \"header:X Y\""),
            "w.yaml:5:11: pools.a.hash: \"X Y\" is not a header name; write letters, digits and dashes",
        ),
        (
            in_pool("balanse: random"),
            "w.yaml:4:5: pools.a.balanse: unknown key; did you mean `balance`?",
        ),
        (
            in_pool("target: appended"),
            "w.yaml:4:13: pools.a.target: \"appended\" is not known; write append or fixed",
        ),
        (
            in_pool("dns: 5ms"),
            "w.yaml:4:10: pools.a.dns: must be at least 100ms, or 0 for never",
        ),
        (
            in_pool("timeouts: { response: 0 }"),
            "w.yaml:4:27: pools.a.timeouts.response: must be more than 0",
        ),
        (
            in_pool("timeouts: { ping: 0 }"),
            "w.yaml:4:23: pools.a.timeouts.ping: must be more than 0",
        ),
        (
            in_pool("breaker: { threshold: 0 }"),
            "w.yaml:4:27: pools.a.breaker.threshold: must be at least 1",
        ),
        (
            in_pool("connect_rate: 0"),
            "w.yaml:4:19: pools.a.connect_rate: must be at least 1",
        ),
        (
            in_pool("connect_rate: 1_000"),
            "w.yaml:4:19: pools.a.connect_rate: \"1_000\" is not a whole number; write 1 or more",
        ),
        (
            in_pool("abnormal_close_codes: [1001, 1004]"),
            "w.yaml:4:34: pools.a.abnormal_close_codes[1]: \"1004\" is not a close code; write 1000 to 1015 but for 1004, or 3000 to 4999",
        ),
        (
            in_pool("abnormal_close_codes: [2000]"),
            "w.yaml:4:28: pools.a.abnormal_close_codes[0]: \"2000\" is not a close code; write 1000 to 1015 but for 1004, or 3000 to 4999",
        ),
        (
            in_pool("pass_headers: [Sec-WebSocket-Protocol]"),
            "w.yaml:4:20: pools.a.pass_headers[0]: \"Sec-WebSocket-Protocol\" is written by wsteady itself; name another header",
        ),
        (
            in_pool("block_headers: [\"X:Y\"]"),
            "w.yaml:4:21: pools.a.block_headers[0]: \"X:Y\" is not a header name; write letters, digits and dashes",
        ),
        (
            in_pool("block_headers: [host]"),
            "w.yaml:4:21: pools.a.block_headers[0]: every request needs its Host header; name another",
        ),
        (
            in_pool("source_addresses: [lo]"),
            "w.yaml:4:24: pools.a.source_addresses[0]: \"lo\" is not an IP address; write 10.0.0.1",
        ),
        (
            in_pool("session: { hold: never }"),
            "w.yaml:4:22: pools.a.session.hold: \"never\" is not a time; write 30s, 50ms or 1m 30s",
        ),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in table {
        let mut found = problems(text);
        if cfg!(feature = "nats") {
            // Such a build knows one kind more.
            let fewer =
                |one: &mut String| *one = one.replace("bridge, http or nats", "bridge or http");
            found.iter_mut().for_each(fewer);
        }
        // What follows a bare `w.yaml:` are YAML's own words, the crate's affair.
        let right = match expected.ends_with(':') {
            true => found[0].starts_with(expected),
            false => found == [*expected],
        };
        if !right {
            wrong.push(format!("{text}\n  {found:#?}\n  {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_bad_cluster_has_its_message() {
    let table = [
        (
            "cluster: {}",
            "cluster.peers: is missing; write the push addresses of the other nodes: [\"10.0.0.2:8080\"]",
        ),
        (
            "cluster: { peers: [] }",
            "cluster.peers: is empty; write the push addresses of the other nodes, or leave cluster out",
        ),
        (
            "cluster: { peers: [\"10.0.0.2\"] }",
            "cluster.peers[0]: \"10.0.0.2\" is not a host with a port; write 10.0.0.2:8080, [fd00::2]:8080 or wsteady.internal:8080",
        ),
        (
            "cluster: { peers: [\"10.0.0.2:0\"] }",
            "cluster.peers[0]: \"10.0.0.2:0\" is not a host with a port; write 10.0.0.2:8080, [fd00::2]:8080 or wsteady.internal:8080",
        ),
        (
            "cluster: { peers: [\"fd00::2:80\"] }",
            "cluster.peers[0]: \"fd00::2:80\" is not a host with a port; write 10.0.0.2:8080, [fd00::2]:8080 or wsteady.internal:8080",
        ),
        (
            "cluster: { peers: [\"10.0.0.2:1\", \"w.internal:80\"] }",
            "cluster.peers[1]: w.internal:80 is a name, and whoever has its address could pass pushes on; give cluster.token, the same on all nodes, or write addresses",
        ),
        (
            "cluster: { peers: [\"10.0.0.2:1\"], timeout: 2m }",
            "cluster.timeout: 2m is longer than anybody waits for a push; write at most 1m",
        ),
        (
            "cluster: { peers: [\"10.0.0.2:1\"], timeout: 0 }",
            "cluster.timeout: must be more than 0",
        ),
        (
            "cluster: { peers: [\"10.0.0.2:1\"], tokn: a }",
            "cluster.tokn: unknown key; did you mean `token`?",
        ),
        #[cfg(not(feature = "nats"))]
        (
            "cluster: 3",
            "cluster: must be a map of these keys: peers, token, timeout, dns",
        ),
        #[cfg(feature = "nats")]
        (
            "cluster: 3",
            "cluster: must be a map of these keys: peers, bus, token, timeout, dns",
        ),
    ];
    for (text, message) in table {
        let found = problems(&beside_pool(text));
        let last = found.first().expect("a problem");
        assert!(last.ends_with(message), "{text}: {found:?}");
        assert!(last.starts_with("w.yaml:2:"), "{text}: {found:?}");
    }
}

#[cfg(feature = "nats")]
#[test]
fn each_bad_bus_has_its_message() {
    let table = [
        (
            "{}",
            "cluster.bus.nats: is missing; write at least one server: [\"nats://10.0.0.5:4222\"]",
        ),
        (
            "{ nats: [] }",
            "cluster.bus.nats: is empty; write at least one server, such as nats://10.0.0.5:4222",
        ),
        (
            "{ nats: [\"10.0.0.5:4222\"] }",
            "cluster.bus.nats[0]: \"10.0.0.5:4222\" is not a NATS server; write nats://10.0.0.5:4222",
        ),
        (
            "{ nats: [\"nats://me:pw@h:1\"] }",
            "cluster.bus.nats[0]: has a user in its URL; write cluster.bus.user and password",
        ),
        (
            "{ nats: [\"nats://h\"], prefix: \"a b\" }",
            "cluster.bus.prefix: \"a b\" begins no subject; write letters, digits, - and _, with dots between words, 128 at most",
        ),
        (
            "{ nats: [\"nats://h\"], password: x }",
            "cluster.bus.password: without a user; add cluster.bus.user",
        ),
        (
            "{ nats: [\"nats://h\"], user: a, token: x }",
            "cluster.bus.token: stands beside a user; NATS takes one of them, leave the other out",
        ),
        (
            "{ nats: [\"nats://h\"] }, peers: [\"10.0.0.2:1\"]",
            "cluster.bus: stands beside cluster.peers; nodes ask each other or meet on a bus, leave one of them out",
        ),
        (
            "{ nats: [\"nats://h\"] }, token: x",
            "cluster.token: is shown to peers, and there are none; a bus has its own: cluster.bus.token",
        ),
    ];
    for (text, message) in table {
        let found = problems(&beside_pool(&format!("cluster: {{ bus: {text} }}")));
        let last = found.first().expect("a problem");
        assert!(last.ends_with(message), "{text}: {found:?}");
    }
}

/// A cluster that meets on a bus.
#[cfg(feature = "nats")]
const BUS: &str = "cluster: { bus: { nats: [nats://H, \"nats://[::1]:4223/\"], prefix: a.b, user: me, password: opensesame }, timeout: 2s }
pools: { a: { kind: bridge, servers: [http://h/] } }";

#[cfg(feature = "nats")]
#[test]
fn a_bus_is_read_and_explained() {
    let loaded = load(BUS).unwrap();
    assert_eq!(loaded.warnings, vec![]);
    let cluster = loaded.config.cluster.as_ref().unwrap();
    let bus = cluster.bus.as_ref().unwrap();
    let servers = bus.nats.iter().map(ToString::to_string);
    assert!(servers.eq(["h:4222", "[::1]:4223"]));
    assert_eq!((&*bus.prefix, cluster.timeout.as_secs()), ("a.b", 2));
    let page = explain(&loaded.config);
    assert!(
        page.contains("over NATS (h:4222, [::1]:4223), within 2s"),
        "{page}"
    );
    let shown = [page, format!("{:?}", loaded.config)].concat();
    assert!(!shown.contains("opensesame"), "{shown}");
    let plain = BUS.replace(", password: opensesame", "");
    let config = load(&plain).unwrap().config;
    assert_eq!(load(&explain(&config)).unwrap().config, config);
}

#[test]
fn a_cluster_is_explained() {
    let text = "cluster: { peers: [\"W.internal:80\", \"10.0.0.2:8080\"], token: opensesame }\n\
                pools: { a: { kind: bridge, servers: [http://h/] } }";
    let loaded = load(text).unwrap();
    assert_eq!(loaded.warnings, vec![]);
    let cluster = loaded.config.cluster.as_ref().expect("a cluster");
    let literal = cluster.peers.iter().map(|peer| peer.literal().is_some());
    assert!(literal.eq([false, true]));
    let page = explain(&loaded.config);
    for line in [
        "# A push for a client who is not here is passed on to w.internal:80, 10.0.0.2:8080, within 1s; theirs are taken with the token.",
        "# Names of peers are resolved again every 5s; each address is a peer.",
    ] {
        assert!(page.contains(line), "{page}");
    }
    assert!(!page.contains("opensesame"));
    let alone = load(&beside_pool("cluster: { peers: [\"10.0.0.2:8080\"] }")).unwrap();
    assert!(
        alone.warnings[0]
            .to_string()
            .contains("no pool of kind bridge")
    );
}

#[test]
fn each_bad_server_has_its_message_and_place() {
    let table: &[(&str, &str)] = &[
        (
            "- { id: x }",
            "4:7: pools.a.servers[0].url: is missing; write ws://host:port",
        ),
        (
            "- localhost",
            "4:7: pools.a.servers[0]: \"localhost\" is not a URL; write ws://host:port",
        ),
        (
            "- ftp://h",
            "4:7: pools.a.servers[0]: \"ftp://h\" has an unknown scheme; write ws://host:port",
        ),
        (
            "- http://h",
            "4:7: pools.a.servers[0]: \"http://h\" does not fit a pool of kind websocket; write ws://",
        ),
        #[cfg(feature = "tls")]
        (
            "- https://h",
            "4:7: pools.a.servers[0]: \"https://h\" does not fit a pool of kind websocket; write wss://",
        ),
        (
            "- ws://",
            "4:7: pools.a.servers[0]: \"ws://\" has no valid host; write ws://host:port",
        ),
        (
            "- \"ws://[::1:9\"",
            "4:7: pools.a.servers[0]: \"ws://[::1:9\" has no valid host; write ws://host:port",
        ),
        (
            "- ws://h:0",
            "4:7: pools.a.servers[0]: \"ws://h:0\" has no valid port; write ws://host:port",
        ),
        (
            "- ws://h:+1",
            "4:7: pools.a.servers[0]: \"ws://h:+1\" has no valid port; write ws://host:port",
        ),
        (
            "- ws://u:p@h",
            "4:7: pools.a.servers[0]: \"ws://u:p@h\" has a user, which is not sent; write ws://host:port",
        ),
        (
            "- \"ws://h/#x\"",
            "4:7: pools.a.servers[0]: \"ws://h/#x\" has a fragment, which servers never see; write ws://host:port",
        ),
        (
            "- \"ws://h/a b\"",
            "4:7: pools.a.servers[0]: \"ws://h/a b\" has a space or another byte that no URL has; write ws://host:port",
        ),
        (
            "- ws://h/?x=1",
            "4:7: pools.a.servers[0]: \"ws://h/?x=1\" has a query; that needs `target: fixed`",
        ),
        (
            "- { url: ws://h, weigth: 2 }",
            "4:22: pools.a.servers[0].weigth: unknown key; did you mean `weight`?",
        ),
        (
            "- { url: ws://h, weight: 70000 }",
            "4:30: pools.a.servers[0].weight: must be 0 to 65535",
        ),
        (
            "- { url: ws://h, id: a/b }",
            "4:26: pools.a.servers[0].id: \"a/b\" is not a name; write 1 to 128 letters, digits and - . _ ~ : @",
        ),
        (
            "- { url: ws://h, id: x }\n    - { url: ws://i, id: x }",
            "5:26: pools.a.servers[1].id: \"x\" is taken by pools.a.servers[0]; write another",
        ),
        (
            "- ws://h\n    - ws://h\n    - ws://H:80",
            "6:7: pools.a.servers[2]: ws://h:80 is here twice; give each an id",
        ),
    ];
    for (servers, expected) in table {
        let text = format!("pools:\n  a:\n    servers:\n    {servers}\n");
        assert_eq!(problems(&text), [format!("w.yaml:{expected}")], "{text}");
    }
}

#[test]
fn each_bad_server_of_a_bridge_or_http_pool_has_its_message() {
    let table: &[(&str, &str, &str)] = &[
        (
            "bridge",
            "ws://h/",
            "does not fit a pool of kind bridge; write http://",
        ),
        #[cfg(feature = "tls")]
        (
            "bridge",
            "wss://h/",
            "does not fit a pool of kind bridge; write https://",
        ),
        (
            "bridge",
            "localhost",
            "is not a URL; write http://host:port/",
        ),
        (
            "bridge",
            "http://h:1",
            "does not end in `/`, and the ClientId goes behind it; write http://h:1/",
        ),
        (
            "bridge",
            "http://h/api",
            "does not end in `/`, and the ClientId goes behind it; write http://h/api/",
        ),
        (
            "bridge",
            "http://h/?x=/",
            "has a query, but the ClientId goes behind it; write http://host:port/",
        ),
        (
            "http",
            "ws://h",
            "does not fit a pool of kind http; write http://",
        ),
        #[cfg(feature = "tls")]
        (
            "http",
            "wss://h",
            "does not fit a pool of kind http; write https://",
        ),
        (
            "http",
            "http://h:0",
            "has no valid port; write http://host:port",
        ),
        (
            "http",
            "http://h?x=1",
            "has a query, but the client's target goes behind it; write http://host:port",
        ),
    ];
    for (kind, url, expected) in table {
        let expected = format!("w.yaml:4:15: pools.a.servers[0]: {url:?} {expected}");
        assert_eq!(
            problems(&in_kind(kind, url, "")),
            [expected],
            "{kind} {url}"
        );
    }
    assert_eq!(
        problems("pools: { a: { kind: bridge, servers: [{ id: x }] } }"),
        ["w.yaml:1:39: pools.a.servers[0].url: is missing; write http://host:port/"]
    );
}

#[test]
fn all_mistakes_come_at_once_in_the_files_order() {
    let text = "drain: x\npools:\n  a:\n    kind: websocket\n    servers:\n      - bad\n      - { url: ws://h, id: z }\n      \
                - { url: ws://i, id: z }\n    timeouts: { pin: 3s, pong: never }\nroutes: [{ pool: c }]\n";
    assert_eq!(
        problems(text),
        [
            "w.yaml:1:8: drain: \"x\" is not a time; write 30s, 50ms or 1m 30s",
            "w.yaml:6:9: pools.a.servers[0]: \"bad\" is not a URL; write ws://host:port",
            "w.yaml:8:28: pools.a.servers[2].id: \"z\" is taken by pools.a.servers[1]; write another",
            "w.yaml:9:17: pools.a.timeouts.pin: unknown key; did you mean `ping`?",
            "w.yaml:9:32: pools.a.timeouts.pong: \"never\" is not a time; write 30s, 50ms or 1m 30s",
            "w.yaml:10:18: routes[0].pool: no pool \"c\"; the pools are: a",
        ]
    );
}

#[test]
fn sizes_are_read_and_written() {
    let table: &[(&str, Option<u64>)] = &[
        ("0", Some(0)),
        ("5MiB", Some(5 << 20)),
        ("5 MiB", Some(5 << 20)),
        ("64KiB", Some(64 << 10)),
        ("64k", Some(64 << 10)),
        ("1G", Some(1 << 30)),
        ("10MB", Some(10_000_000)),
        ("1.5GiB", Some(3 << 29)),
        ("65536", Some(65536)),
        ("12B", Some(12)),
        ("16777215TiB", Some(16_777_215 << 40)),
        ("16777216TiB", None),
        ("", None),
        ("KiB", None),
        ("1.KiB", None),
        ("1.2.3KiB", None),
        ("-1", None),
        ("1e3", None),
        ("1 000", None),
        ("99999999999999999999", None),
    ];
    for (text, size) in table {
        assert_eq!(parse_size(text).ok(), *size, "{text}");
        if let Some(size) = size {
            assert_eq!(parse_size(&size_text(*size)), Ok(*size));
        }
    }
    assert_eq!(size_text(5 << 20), "5MiB");
    assert_eq!(size_text(1000), "1000");
}

#[test]
fn times_are_read_and_written() {
    for (text, millis) in [
        ("0", 0),
        ("50ms", 50),
        ("1m 30s", 90_000),
        ("1h", 3_600_000),
        ("1s500ms", 1500),
    ] {
        let time = Duration::from_millis(millis);
        assert_eq!(parse_duration(text), Ok(time), "{text}");
        assert_eq!(parse_duration(&duration_text(time)), Ok(time), "{text}");
    }
}

#[test]
fn scalars_keep_their_spelling() {
    let text = "pools: { no: { servers: [ { url: ws://h, id: 007 }, { url: ws://i, id: 1e3 }, { url: ws://j, id: off } ] } }";
    let pools = load(text).unwrap().config.pools;
    assert_eq!(pools[0].name, "no");
    let ids: Vec<&str> = pools[0]
        .servers
        .iter()
        .map(|server| server.id.as_str())
        .collect();
    assert_eq!(ids, ["007", "1e3", "off"]);
}

#[test]
fn a_pools_session_wins_key_by_key() {
    let text = "session: { hold: 9s, buffer: 1MiB, barrier: { delay: 7ms } }\n\
                pools: { a: { servers: [ws://h], session: { hold: 3s, barrier: { bytes: 1KiB } } } }";
    let config = load(text).unwrap().config;
    let (all, own) = (&config.session, &config.pools[0].session);
    assert_eq!(
        (all.hold, own.hold),
        (Duration::from_secs(9), Duration::from_secs(3))
    );
    assert_eq!(own.buffer, 1 << 20);
    assert_eq!(
        own.barrier,
        BarrierConfig {
            delay: Duration::from_millis(7),
            bytes: 1 << 10
        }
    );
    assert_eq!(all.barrier.bytes, 64 << 10);
}

#[test]
fn urls_fit_their_target() {
    let table = [
        ("append", "ws://H.example:9000", "h.example", 9000, ""),
        ("append", "ws://h/", "h", 80, ""),
        ("append", "WS://h/base/", "h", 80, "/base"),
        ("fixed", "ws://h", "h", 80, "/"),
        ("fixed", "ws://h/base/?x=1", "h", 80, "/base/?x=1"),
        ("fixed", "ws://h?x=1", "h", 80, "/?x=1"),
        ("append", "ws://[::1]:9", "::1", 9, ""),
    ];
    for (target, url, host, port, path) in table {
        let text = format!("pools: {{ a: {{ target: {target}, servers: [\"{url}\"] }} }}");
        let server = load(&text).unwrap().config.pools[0].servers[0].clone();
        let expected = ServerUrl {
            scheme: Scheme::Ws,
            host: host.into(),
            port,
            path: path.into(),
        };
        assert_eq!(server.url, expected, "{url}");
        let id = format!("{}-{port}", host.replace(['.', ':'], "-"));
        assert_eq!(server.id, id);
    }
}

#[test]
fn urls_fit_their_kind() {
    let table = [
        ("bridge", "http://h/", "h", 80, "/"),
        (
            "bridge",
            "http://H.example:9000/api/",
            "h.example",
            9000,
            "/api/",
        ),
        ("http", "http://h:9", "h", 9, ""),
        ("http", "HTTP://h/", "h", 80, ""),
        ("http", "http://h/base/", "h", 80, "/base"),
        ("http", "http://[::1]:9/base", "::1", 9, "/base"),
    ];
    for (kind, url, host, port, path) in table {
        let server = load(&in_kind(kind, url, "")).unwrap().config.pools[0].servers[0].clone();
        let expected = ServerUrl {
            scheme: Scheme::Http,
            host: host.into(),
            port,
            path: path.into(),
        };
        assert_eq!(server.url, expected, "{url}");
    }
}

#[test]
fn connections_have_defaults_by_kind() {
    let table = [
        ("websocket", "ws://h", "", None),
        ("bridge", "http://h/", "", Some((1, 1000, 30, None))),
        ("http", "http://h", "", Some((1, 3, 3, Some(10)))),
        (
            "bridge",
            "http://h/",
            "connections: { min: 0, max: 9 }",
            Some((0, 9, 30, None)),
        ),
        (
            "http",
            "http://h",
            "connections: { min: 7, max: 7, idle: 9s, queue: 0 }",
            Some((7, 7, 9, Some(0))),
        ),
    ];
    for (kind, url, rest, expected) in table {
        let config = load(&in_kind(kind, url, rest)).unwrap().config;
        let found = config.pools[0]
            .connections
            .map(|own| (own.min, own.max, own.idle.as_secs(), own.queue));
        assert_eq!(found, expected, "{kind} {rest}");
    }
}

#[test]
fn probes_have_defaults_by_kind() {
    let table = [
        ("websocket", "ws://h", "", None),
        (
            "websocket",
            "ws://h",
            "health: {}",
            Some((1, 2, Expect::Websocket)),
        ),
        (
            "bridge",
            "http://h/",
            "health: { fall: 255 }",
            Some((1, 255, Expect::Status)),
        ),
        ("http", "http://h", "health:", Some((1, 2, Expect::Status))),
        (
            "http",
            "http://h",
            "health: { rise: 9, interval: 2s, expect: json-status }",
            Some((9, 2, Expect::JsonStatus)),
        ),
        (
            "websocket",
            "ws://h",
            "health: { expect: tcp }",
            Some((1, 2, Expect::Tcp)),
        ),
    ];
    for (kind, url, rest, expected) in table {
        let loaded = load(&in_kind(kind, url, rest)).unwrap();
        let health = loaded.config.pools[0].health.as_ref();
        let found = health.map(|one| (one.rise, one.fall, one.expect));
        assert_eq!(found, expected, "{kind} {rest}");
        let path = health.map(|one| one.path.as_str());
        assert_eq!(path, expected.map(|_| "/healthCheck"), "{kind} {rest}");
    }
}

#[test]
fn clients_are_told_apart_by_what_hash_says() {
    let table = [
        ("balance: hash", HashBy::Id),
        ("balance: hash, hash: id", HashBy::Id),
        ("balance: hash, hash: address", HashBy::Address),
        (
            "balance: hash, hash: \"header:X-Id\"",
            HashBy::Header("X-Id".into()),
        ),
        (
            "hash: header:cookie, balance: hash",
            HashBy::Header("cookie".into()),
        ),
    ];
    for (keys, expected) in table {
        let loaded = load(&format!("pools: {{ a: {{ servers: [ws://h], {keys} }} }}")).unwrap();
        assert_eq!(loaded.warnings, []);
        let pool = &loaded.config.pools[0];
        assert_eq!(
            (pool.balance, &pool.hash),
            (Balance::Hash, &expected),
            "{keys}"
        );
    }
}

#[test]
fn balancing_by_what_is_not_there_is_a_warning() {
    let table = [
        (
            in_pool("balance: adaptive"),
            "w.yaml:4:14: pools.a.balance: without health, it is like round-robin; add health: { expect: json-status }",
        ),
        (
            in_pool("balance: adaptive\n    health: {}"),
            "w.yaml:4:14: pools.a.balance: these probes get no JSON, so it is like round-robin; write expect: json-status",
        ),
        (
            in_pool("balance: adaptive\n    health: { expect: json-status }"),
            "",
        ),
        (
            in_kind("bridge", "http://h/", "balance: hash\n    hash: header:X"),
            "w.yaml:6:11: pools.a.hash: a bridge's calls after the first don't have it: all go to one server; write id",
        ),
    ];
    for (text, expected) in table {
        let warnings = load(&text).unwrap().warnings;
        let found: Vec<String> = warnings.iter().map(Problem::to_string).collect();
        assert_eq!(found.join("\n"), expected, "{text}");
    }
}

#[test]
fn an_explanation_tells_of_probes_and_shares() {
    let sentences = |keys: &str| explain(&load(&in_pool(keys)).unwrap().config);
    let rows = [
        ("", "#   Servers are not probed.\n"),
        (
            "balance: hash",
            "#   Clients with the same first segment of their path get the same server.\n",
        ),
        (
            "balance: hash\n    hash: header:X-A",
            "#   Clients with the same header X-A get the same server.\n",
        ),
        (
            "balance: adaptive",
            "#   A server's share follows what cpu and memory in its health answer leave free.\n",
        ),
        (
            "health: { expect: json-status, path: /h, fall: 1, rise: 3 }",
            "#   Each server is probed every 10s: GET /h must be answered with 2xx and JSON whose status is 200 within 2s.\n\
             #   Of failed probes, one and it gets no new sessions; of good ones, 3 in a row and it gets them again.\n",
        ),
        (
            "health: { expect: tcp }",
            ": it must take a connection within 2s.\n",
        ),
        (
            "health: {}",
            ": an upgrade of /healthCheck must succeed within 2s.\n",
        ),
    ];
    for (keys, part) in rows {
        let page = sentences(keys);
        assert!(page.contains(part), "{keys}: {page}");
    }
}

#[test]
fn kinds_that_want_different_requests_need_no_routes() {
    for first in [
        "a: { servers: [ws://h] }",
        "a: { kind: bridge, servers: [http://h/] }",
    ] {
        let text = format!("pools: {{ {first}, b: {{ kind: http, servers: [http://i] }} }}");
        let loaded = load(&text).unwrap();
        assert_eq!(loaded.config.pools.len(), 2);
        assert_eq!(loaded.warnings, []);
    }
}

#[test]
fn pushes_have_a_place_of_their_own_beside_an_http_pool() {
    let (bridge, both) = (
        "pools: { a: { kind: bridge } }",
        "pools: { a: { kind: bridge }, b: { kind: http } }",
    );
    let table = [
        (bridge, "", "/"),
        (bridge, "push: { path: /p/q/ }", "/p/q/"),
        (both, "", "/_push/"),
        (both, "push: { allow: [] }", "/_push/"),
        (both, "push: { path: / }", "/"),
    ];
    for (pools, push, expected) in table {
        let config = load(&format!("{pools}\n{push}\n")).unwrap().config;
        assert_eq!(config.push.path, expected, "{pools} {push}");
    }
    let text = beside_pool("push: { allow: [10.1.2.3/8, \"::1\"], token: opensesame }");
    let push = load(&text).unwrap().config.push;
    let allowed: Vec<String> = push.allow.iter().map(ToString::to_string).collect();
    assert_eq!(allowed, ["10.0.0.0/8", "::1/128"]);
    assert_eq!(push.token.unwrap().reveal(), "opensesame");
}

#[test]
fn default_ids_give_way_to_given_ones() {
    let text = "pools:\n  a: { servers: [ws://1.2.3.4:5, { url: ws://x, id: 1-2-3-4-5 }] }\n  \
                b: { servers: [ws://1.2.3.4:5, ws://6.6.6.6:6] }\n\
                routes: [{ path: /a, pool: a }, { pool: b }]";
    let config = load(text).unwrap().config;
    let ids = config
        .pools
        .iter()
        .flat_map(|pool| &pool.servers)
        .map(|server| server.id.as_str());
    assert_eq!(
        ids.collect::<Vec<_>>(),
        ["a.1-2-3-4-5", "1-2-3-4-5", "b.1-2-3-4-5", "6-6-6-6-6"]
    );
}

#[test]
fn addresses_and_origins_are_made_plain() {
    let text = beside_pool(
        "listen: [\":80\", { address: \"[::1]:81\" }, \"localhost:82\", \"*:83\", \":0\", \":0\"]\n\
         trusted_proxies: [10.1.2.3/8, \"::1\"]\norigins: [\"https://A.example:443\", \"http://b:8080\", \"null\"]",
    );
    let config = load(&text).unwrap().config;
    let listen: Vec<String> = config
        .listen
        .iter()
        .map(|one| one.address.to_string())
        .collect();
    assert_eq!(
        listen,
        [
            "0.0.0.0:80",
            "[::1]:81",
            "127.0.0.1:82",
            "0.0.0.0:83",
            "0.0.0.0:0",
            "0.0.0.0:0"
        ]
    );
    let proxies: Vec<String> = config
        .trusted_proxies
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(proxies, ["10.0.0.0/8", "::1/128"]);
    assert_eq!(
        config.origins,
        ["https://a.example", "http://b:8080", "null"]
    );
}

#[test]
fn what_is_hardly_meant_is_a_warning() {
    let text = "pools: { a: { servers: [] }, b: { servers: [{ url: ws://h, weight: 0 }] } }\n\
                routes: [{ path: /x/, pool: b }, { path: /x, pool: b }]\nlimits: { memory: 1MiB }";
    let warnings: Vec<String> = load(text)
        .unwrap()
        .warnings
        .iter()
        .map(Problem::to_string)
        .collect();
    assert_eq!(
        warnings,
        [
            "w.yaml:1:13: pools.a: has no servers: its clients get 503 until one is added",
            "w.yaml:1:13: pools.a: no route leads here: it gets no requests",
            "w.yaml:1:33: pools.b: all weights are 0: no new session gets a server",
            "w.yaml:2:34: routes[1]: an earlier route takes the same requests: never used",
            "w.yaml:3:9: limits.message: 16MiB is more than limits.memory (1MiB): a message of that size can't get through",
            "w.yaml:1:13: pools.a.session.buffer: 5MiB is more than limits.memory (1MiB), which is reached first",
            "w.yaml:1:33: pools.b.session.buffer: 5MiB is more than limits.memory (1MiB), which is reached first",
        ]
    );
}

#[test]
fn a_route_that_its_pool_does_not_want_is_a_warning() {
    let text = "pools: { a: { servers: [ws://h] }, b: { kind: http, servers: [http://h:1] } }\n\
                routes: [{ path: /x, upgrade: true, pool: b }, { path: /y, upgrade: false, pool: a },\n  \
                { path: /z, upgrade: false, pool: b }, { upgrade: true, pool: a }, { pool: b }]";
    let loaded = load(text).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(Problem::to_string).collect();
    assert_eq!(
        warnings,
        [
            "w.yaml:2:31: routes[0].upgrade: pool b takes no upgrades; write upgrade: false, or leave it out",
            "w.yaml:2:69: routes[1].upgrade: pool a takes upgrades alone; write upgrade: true, or leave it out",
        ]
    );
    let upgrades = loaded.config.routes.iter().map(|route| route.upgrade);
    let expected = [Some(true), Some(false), Some(false), Some(true), None];
    assert!(upgrades.eq(expected));
}

/// Both kinds that share connections, with every key of theirs.
const SHARING: &str = "session: { on_duplicate: replace }\npush: { path: /p/, allow: [10.0.0.0/8, \"::1\"] }\n\
    cluster: { peers: [\"10.0.0.2:8080\", \"[fd00::2]:81\"], timeout: 2s, dns: 0 }\n\
    pools:\n  api: { kind: bridge, servers: [\"http://h/x/\"], timeouts: { response: 5s }, connections: { min: 0, max: 9, idle: 1m } }\n  \
    web: { kind: http, servers: [\"http://i/y/\"], balance: hash, hash: \"header:X-Id\", \
    health: { path: \"/h?a=1\", interval: 1m, timeout: 1s, rise: 3, fall: 4, expect: json-status }, connections: { min: 2, max: 4, idle: 5s, queue: 0, full_status: 429 }, session: { on_duplicate: reject } }\n";

#[cfg(feature = "nats")]
const NATS: &str = "pools: { bus: { kind: nats, servers: [nats://H, \"nats://[::1]:4223/\"], health: {}, \
    nats: { prefix: a.b-c, jetstream: true, user: me } } }";

/// What it has is read back, and what is wrong in it says what would be right.
#[cfg(feature = "nats")]
#[test]
fn a_pool_of_kind_nats_is_read() {
    let pool = load(NATS).unwrap().config.pools.remove(0);
    let urls = pool.servers.iter().map(|server| server.url.to_string());
    assert!(urls.eq(["nats://h:4222", "nats://[::1]:4223"]));
    assert_eq!((&*pool.nats.prefix, pool.nats.jetstream), ("a.b-c", true));
    assert_eq!(pool.health.unwrap().expect, Expect::Tcp);
    assert_eq!(pool.connections.unwrap().max, 1_000);
    let config = load(NATS).unwrap().config;
    let page = explain(&config);
    assert_eq!(load(&page).unwrap().config, config, "{page}");
    let secret = NATS.replace(
        "user: me",
        "user: me, password: opensesame, token: opensesame",
    );
    let config = load(&secret).unwrap().config;
    let shown = [explain(&config), format!("{config:?}")].concat();
    assert!(!shown.contains("opensesame"), "{shown}");
    let rows = [
        ("nats://H", "nats://h/a", "subjects begin with nats.prefix"),
        ("nats://H", "http://h/", "write nats://"),
        ("a.b-c", "a..b", "begins no subject"),
        ("a.b-c", "\"a.>\"", "begins no subject"),
        ("a.b-c", "\"$SYS\"", "begins no subject"),
        ("health: {}", "health: { expect: status }", "write tcp"),
        ("health: {}", "target: fixed", "write append"),
        (
            "health: {}",
            "connections: { queue: 1 }",
            "waits in its journal",
        ),
        (
            "jetstream: true",
            "jetstrem: true",
            "did you mean `jetstream`",
        ),
        ("jetstream: true", "jetstream: yes", "jetstream"),
        ("kind: nats, ", "", "kind websocket"),
        (
            "[nats://H, \"nats://[::1]:4223/\"]",
            "[]",
            "write at least one",
        ),
    ];
    for (right, wrong, says) in rows {
        let text = NATS.replacen(right, wrong, 1);
        let why = load(&text).expect_err(&text).to_string();
        assert!(why.contains(says), "{why:?} does not say {says:?}");
    }
    let plain = "pools: { a: { servers: [ws://h], nats: { prefix: x } } }";
    let why = load(plain).unwrap_err().to_string();
    assert!(
        why.contains("for pools of kind nats, not websocket"),
        "{why}"
    );
    let patient = NATS.replace("health: {}", "session: { hold: 2m }");
    let warnings = load(&patient).unwrap().warnings;
    assert!(
        warnings[0].to_string().contains("there twice"),
        "{warnings:?}"
    );
    let doubtful = NATS.replace("user: me", "password: x");
    let warnings = load(&doubtful).unwrap().warnings;
    assert!(
        warnings[0].to_string().contains("add nats.user"),
        "{warnings:?}"
    );
}

#[cfg(not(feature = "nats"))]
#[test]
fn a_build_without_nats_says_which_has_it() {
    let text = "pools: { a: { kind: nats, servers: [nats://h:4222], nats: { prefix: x } } }";
    let why = load(text).unwrap_err().to_string();
    assert!(why.contains("w.yaml:1:21: pools.a.kind: "), "{why}");
    assert_eq!(why.matches("--features nats").count(), 2, "{why}");
}

#[cfg(not(feature = "tls"))]
#[test]
fn a_build_without_tls_says_so() {
    let rows = [
        (
            beside_pool("listen: [{ address: \":1\", tls: {} }]"),
            "2:24: listen[0].tls",
        ),
        (beside_pool("admin: { tls: {} }"), "2:10: admin.tls"),
        (in_pool("tls: {}"), "4:5: pools.a.tls"),
        (in_kind("http", "https://h", ""), "write http://"),
        (in_kind("websocket", "wss://h", ""), "write ws://"),
    ];
    for (text, says) in rows {
        let why = load(&text).unwrap_err().to_string();
        assert!(
            why.contains(says) && why.contains("this build has no TLS"),
            "{why}"
        );
    }
}

#[test]
fn a_header_is_taken_from_somebody_alone() {
    let listen = "listen: [{ address: \":1\", proxy_protocol: true }]";
    let why = problems(&beside_pool(listen)).concat();
    let says = "w.yaml:2:43: listen[0].proxy_protocol: only trusted_proxies may connect here, and \
                there are none; list the addresses of your proxies there";
    assert_eq!(why, says);
    let text = format!("{listen}\ntrusted_proxies: [10.0.0.1]");
    let config = load(&beside_pool(&text)).unwrap().config;
    assert!(config.listen[0].proxy_protocol);
    let why = problems(&in_pool("proxy_protocol: v3")).concat();
    assert!(
        why.ends_with("pools.a.proxy_protocol: \"v3\" is not known; write v1 or v2"),
        "{why}"
    );
    let config = load(&in_pool("proxy_protocol: v2")).unwrap().config;
    assert_eq!(config.pools[0].proxy_protocol, Some(ProxyHeader::V2));
    assert_eq!(load(&explain(&config)).unwrap().config, config);
}

#[test]
fn nodes_need_a_listener_that_speaks_as_they_do() {
    let text = "listen: [{ address: \":1\", proxy_protocol: true }]\ntrusted_proxies: [10.0.0.1]\n\
                cluster: { peers: [\"10.0.0.2:1\"] }\n\
                pools: { a: { kind: bridge, servers: [\"http://h/\"] } }\n";
    let warnings = load(text).unwrap().warnings;
    assert!(
        warnings[0]
            .to_string()
            .contains("no listener here takes them so"),
        "{warnings:?}"
    );
    let text = text.replace("proxy_protocol: true }", "proxy_protocol: true }, \":2\"");
    assert_eq!(load(&text).unwrap().warnings, vec![]);
}

#[test]
fn an_explanation_reads_back() {
    let rich = "listen: [\"[::]:90\", \"127.0.0.1:91\"]\nloops: 3\ndrain: 0\nlog: { level: warn, format: json }\n\
                session: { hold: 0, confirm: processed, overflow: close, barrier: { delay: 0, bytes: 1 } }\n\
                trusted_proxies: [10.0.0.0/8]\norigins: [https://a]\nlimits: { memory: 1234567, socket_buffer: 4KiB }\n\
                pools:\n  \"007\": { target: fixed, servers: [ws://h/x?y=1], balance: random, pass_headers: [Set-Cookie],\n    \
                block_headers: [X-A], source_addresses: [10.0.0.1], dns: 0, abnormal_close_codes: [4000, 1006, 1006],\n    \
                timeouts: { ping: 1m 30s }, session: { confirm: written } }\n  b: { servers: [] }\n\
                routes: [{ path: /a/b/, host: H, upgrade: true, pool: \"007\" }, { pool: b }]";
    let two = "pools: { a: { kind: http, servers: [http://h] }, b: { kind: bridge, servers: [http://h/] } }";
    for text in [CONTRACT, rich, SHARING, two] {
        let config = load(text).unwrap().config;
        let page = explain(&config);
        assert_eq!(load(&page).unwrap().config, config, "{page}");
    }
}

#[test]
fn an_explanation_shows_no_token() {
    let text = beside_pool(
        "admin: { address: \":8081\", token: opensesame }\npush: { token: opensesame }",
    );
    let config = load(&text).unwrap().config;
    assert_eq!(config.admin.token.as_ref().unwrap().reveal(), "opensesame");
    assert!(!explain(&config).contains("opensesame"));
    assert!(explain(&config).contains("token: \"***\""));
    assert!(!format!("{config:?}").contains("opensesame"));
}

#[test]
fn an_explanation_has_every_supported_key() {
    let texts = [
        CONTRACT,
        SHARING,
        "pools: { a: { servers: [ws://h:1], proxy_protocol: v2 } }",
        #[cfg(feature = "nats")]
        NATS,
        #[cfg(feature = "nats")]
        BUS,
    ];
    let page = texts
        .map(|text| explain(&load(text).unwrap().config))
        .concat();
    #[cfg(feature = "tls")]
    let page = [page, super::tls::tests::explained()].concat();
    for key in SECTIONS.iter().flat_map(|(_, section)| section.keys) {
        assert!(page.contains(&format!("{key}:")), "{key}");
    }
}

#[test]
fn the_documentation_has_every_key() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let page = std::fs::read_to_string(file).unwrap();
    for (path, section) in SECTIONS {
        let heading = if path.is_empty() {
            "## The whole".to_owned()
        } else {
            format!("## `{path}`")
        };
        let start = page
            .find(&heading)
            .unwrap_or_else(|| panic!("no heading {heading}"));
        let rest = &page[start + 3..];
        let part = &rest[..rest.find("\n## ").unwrap_or(rest.len())];
        for key in section.keys.iter().chain(section.later) {
            assert!(
                part.contains(&format!("| `{key}` |")),
                "{key} is not under {heading}"
            );
        }
    }
}

#[test]
fn a_file_that_can_not_be_read_is_named() {
    let missing = Sources::from_file("/nonexistent/w.yaml")
        .load()
        .unwrap_err()
        .to_string();
    assert!(
        missing.starts_with("/nonexistent/w.yaml: can't be read: "),
        "{missing}"
    );
}

#[test]
fn no_bytes_panic_the_reader() {
    // Prefixes of a real file, and the whole with one bracket too many.
    for end in (0..CONTRACT.len())
        .step_by(3)
        .filter(|end| CONTRACT.is_char_boundary(*end))
    {
        let _ = load(&CONTRACT[..end]);
        let _ = load(&format!("{}]{}", &CONTRACT[..end], &CONTRACT[end..]));
    }
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n";
    assert!(load(bomb).is_err());
    assert!(load(&"[".repeat(100_000)).is_err());
}

#[test]
fn the_generated_configuration_has_every_key() {
    let text = crate::control::generate::config();
    for (path, section) in SECTIONS {
        for key in section.keys {
            let shown = text.contains(&format!("{key}: ")) || text.contains(&format!("{key}:\n"));
            assert!(shown, "{path}: {key}");
        }
    }
}
