use std::time::Duration;

use super::super::*;

const FULL_YAML: &str = include_str!("../../../../tests/legacy/wsbalancer.yaml");
const SMALL_YAML: &str = include_str!("../../../../tests/legacy/wsbalancer-small.yaml");
const FULL_INI: &str = include_str!("../../../../tests/legacy/reverse-proxy.ini");
const SMALL_INI: &str = include_str!("../../../../tests/legacy/reverse-proxy-small.ini");

fn sources(variables: &[(&str, &str)]) -> Sources {
    let own = |text: &str| text.to_owned();
    let all = variables
        .iter()
        .map(|(name, value)| (own(name), own(value)));
    let mut sources = Sources::default();
    sources.put_variables(all.collect());
    sources
}

fn load(text: &str, name: &str) -> Loaded {
    with(text, name, &[])
}

fn with(text: &str, name: &str, variables: &[(&str, &str)]) -> Loaded {
    let loaded = sources(variables).load_text(text, name);
    loaded.unwrap_or_else(|problems| panic!("{text}\n{problems}"))
}

fn problems(text: &str, name: &str, variables: &[(&str, &str)]) -> Vec<String> {
    match sources(variables).load_text(text, name) {
        Ok(loaded) => panic!("{text} was taken as {:?}", loaded.config),
        Err(problems) => problems.iter().map(Problem::to_string).collect(),
    }
}

fn notes(loaded: &Loaded) -> Vec<String> {
    let older = loaded.older.as_ref().expect("an older proxy's words");
    older.notes.iter().map(Problem::to_string).collect()
}

/// What `wsteady check` prints, and whether it means the same when it is read.
fn reads_back(loaded: &Loaded) {
    let older = loaded.older.as_ref().expect("an older proxy's words");
    let page = explain(&loaded.config) + &older.page();
    let again = Sources::default().load_text(&page, "new.yaml");
    let again = again.unwrap_or_else(|problems| panic!("{page}\n{problems}"));
    assert_eq!(again.config, loaded.config, "{page}");
    assert_eq!(again.older, None);
}

#[test]
fn wsbalancers_file_means_this() {
    let loaded = load(FULL_YAML, "old.yaml");
    let mut expected = Config::default();
    expected.listen[0].address = ([0, 0, 0, 0], 9080).into();
    expected.admin.address = ([127, 0, 0, 1], 9081).into();
    expected.limits.handshake = Duration::from_secs(5);
    expected.limits.header = 65536;
    expected.session.reconnect_header = "X-Again".into();
    expected.metrics.legacy_names = true;
    let mut pool = PoolConfig::new("default", PoolKind::Websocket, expected.session.clone());
    let server = |url: &str, id: &str| ServerConfig {
        url: ServerUrl::parse(url).unwrap(),
        id: id.into(),
        weight: 1,
    };
    pool.servers = vec![
        server("ws://10.1.0.1:9000/chat", "first"),
        server("ws://chat.internal:9000", "chat-internal-9000"),
    ];
    pool.timeouts.ping = Duration::from_secs(90);
    pool.timeouts.handshake = Duration::from_millis(1500);
    pool.timeouts.connect = Duration::from_millis(1500);
    pool.breaker.threshold = 4;
    pool.abnormal_close_codes = vec![1006, 4000];
    pool.pass_headers = vec!["Set-Cookie".into()];
    pool.block_headers = vec!["X-Debug".into()];
    expected.pools.push(pool);
    assert_eq!(loaded.config, expected);
    assert_eq!(loaded.warnings, []);
    let expected = [
        "old.yaml:6:19: wite-timeout: bounds no WebSocket, in wsbalancer neither; left out",
        "old.yaml:10:19: admin.read-timeout: the admin address has fixed bounds; left out",
        "old.yaml:11:19: admin.wite-timeout: the admin address has fixed bounds; left out",
        "old.yaml:12:23: admin.max-header-bytes: the admin address has fixed bounds; left out",
        "old.yaml:13:21: read-buffer-size: a loop's sessions share one buffer; left out",
        "old.yaml:14:22: write-buffer-size: a loop's sessions share one buffer; left out",
        "old.yaml:22:12: a foreign Origin is not turned away; list yours in `origins`",
        "old.yaml:32:18: ping-time: [20s] is not [1m30s], which the first server has and wsteady takes for all servers of a pool",
        "old.yaml:31:12: handshake-timeout: [10s] is not [1500ms], which the first server has and wsteady takes for all servers of a pool",
        "old.yaml:33:26: breaker-threshold: [-1] is not [4], which the first server has and wsteady takes for all servers of a pool",
        "old.yaml:25:25: read-buffer-size: a loop's sessions share one buffer; left out",
        "old.yaml:26:26: write-buffer-size: a loop's sessions share one buffer; left out",
        "old.yaml:31:12: abnormal-close-codes: [] is not [1006, 4000], which the first server has and wsteady takes for all servers of a pool",
        "old.yaml:31:12: pass-headers: [] is not [Set-Cookie, Upgrade], which the first server has and wsteady takes for all servers of a pool",
        "old.yaml:29:21: pass-headers: Upgrade is left out: wsteady writes it itself",
        "old.yaml:16:18: block-headers: Sec-WebSocket-Extensions is left out: wsteady writes it anew in any case",
        "old.yaml:16:18: block-headers: Host is left out: wsteady writes it anew in any case",
        "old.yaml:9:14: admin: 0.0.0.0:9081 would be open to everybody; it is at 127.0.0.1:9081 instead; a token in WSTEADY_ADMIN_TOKEN opens it",
    ];
    assert_eq!(notes(&loaded), expected);
    reads_back(&loaded);
}

#[test]
fn wsbalancers_defaults_are_kept() {
    let loaded = load(SMALL_YAML, "old.yaml");
    let config = &loaded.config;
    assert_eq!(config.listen[0].address.to_string(), "0.0.0.0:8080");
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:8081");
    assert_eq!(config.limits.header, 512 << 10);
    assert_eq!(config.log.level, LogLevel::Warn);
    assert!(!config.metrics.legacy_names);
    let trusted = config.trusted_proxies.iter().map(ToString::to_string);
    assert_eq!(trusted.collect::<Vec<_>>()[1], "10.0.0.0/8");
    let pool = &config.pools[0];
    assert_eq!(pool.timeouts.ping, Duration::from_secs(600));
    assert_eq!(pool.timeouts.handshake, Duration::from_secs(10));
    assert_eq!(pool.timeouts.connect, Duration::from_secs(2));
    assert_eq!(pool.breaker.threshold, 10);
    assert_eq!(pool.abnormal_close_codes, [1001, 1005, 1006, 1011, 1013]);
    // Two servers on one port shared an id there.
    let ids = pool.servers.iter().map(|server| server.id.as_str());
    assert_eq!(
        ids.collect::<Vec<_>>(),
        ["10-1-0-1-9000", "10-1-0-1-9000-2"]
    );
    reads_back(&loaded);
    // An admin address with a token stays open.
    let mut sources = sources(&[]);
    sources.put(&["admin", "token"], "secret", "WSTEADY_ADMIN_TOKEN");
    let open = sources.load_text(SMALL_YAML, "old.yaml").unwrap().config;
    assert_eq!(open.admin.address.to_string(), "0.0.0.0:8081");
}

#[test]
fn wsbalancers_environment_is_enough() {
    let loaded = with(
        "",
        "",
        &[
            ("FE_ADDR", "127.0.0.1:7000"),
            ("FE_READ_TIMEOUT", "1m"),
            ("FE_MAX_HDR_BYTES", "1"),
            ("FE_TRUST_XFF", "true"),
            ("ADM_ADDR", "127.0.0.1:7001"),
            ("BLOCK_HEADERS", "X-A, X-B"),
            ("RECONNECT_HDR", "X-R"),
            ("ENABLE_INST", "1"),
            ("LOG_LEVEL", "ERROR"),
            ("BE_URLS", "ws://a:1, ws://b/x"),
            ("BE_URL_IDS", "one,two 2"),
            ("BE_PING_TIME", "1m"),
            ("BE_BREAKER_THRESHOLD", "-1"),
            ("BE_HANDSHAKE_TIMEOUT", "3s"),
            ("BE_PASS_HEADERS", "Set-Cookie"),
            ("BE_ABNORMAL_CLOSE_CODES", "1006,1012"),
            ("BE_RB_SIZE", "1"),
        ],
    );
    let config = &loaded.config;
    assert_eq!(config.listen[0].address.port(), 7000);
    assert_eq!(config.admin.address.port(), 7001);
    assert_eq!(config.limits.handshake, Duration::from_secs(60));
    assert_eq!(config.limits.header, 1024);
    assert_eq!(config.trusted_proxies.len(), 2);
    assert_eq!(config.session.reconnect_header, "X-R");
    assert!(config.metrics.legacy_names);
    assert_eq!(config.log.level, LogLevel::Error);
    let pool = &config.pools[0];
    assert_eq!(pool.servers[0].url.to_string(), "ws://a:1");
    assert_eq!(
        (pool.servers[0].id.as_str(), pool.servers[1].id.as_str()),
        ("one", "two-2")
    );
    assert_eq!(pool.timeouts.ping, Duration::from_secs(60));
    assert_eq!(pool.timeouts.handshake, Duration::from_secs(3));
    assert_eq!(pool.breaker.threshold, u32::MAX);
    assert_eq!(pool.pass_headers, ["Set-Cookie"]);
    assert_eq!(pool.block_headers, ["X-A", "X-B"]);
    assert_eq!(pool.abnormal_close_codes, [1006, 1012]);
    let notes = notes(&loaded);
    for note in [
        "FE_MAX_HDR_BYTES: max-header-bytes: 1 is taken as 1024",
        "LOG_LEVEL: logging-level: \"ERROR\" is taken as PANIC",
        "BE_URL_IDS: id: \"two 2\" is \"two-2\" here",
        "BE_RB_SIZE: read-buffer-size: a loop's sessions share one buffer; left out",
    ] {
        assert!(notes.iter().any(|one| one == note), "{note} in {notes:#?}");
    }
    reads_back(&loaded);
}

#[test]
fn wsbalancers_variables_lie_over_its_file_and_over_wsteadys() {
    let variables = [
        ("BE_URLS", "ws://c:3"),
        ("BE_PING_TIME", "7s"),
        ("BE_PASS_HEADERS", "X-More"),
        ("BE_ABNORMAL_CLOSE_CODES", "1012"),
        ("FE_ADDR", ":1"),
    ];
    let config = with(FULL_YAML, "old.yaml", &variables).config;
    let pool = &config.pools[0];
    assert_eq!(pool.servers.len(), 3);
    assert_eq!(pool.timeouts.ping, Duration::from_secs(7));
    assert_eq!(pool.pass_headers, ["Set-Cookie", "X-More"]);
    assert_eq!(pool.abnormal_close_codes, [1012]);
    assert_eq!(config.listen[0].address.port(), 1);
    // Over a file of wsteady's own, its defaults are none of wsbalancer's.
    let own = "pools: { a: { servers: [ws://h:1] }, b: { kind: http, servers: [http://h] } }\n\
               session: { hold: 3s }\nlog: { level: debug }\n";
    let loaded = with(
        own,
        "w.yaml",
        &[("BE_PING_TIME", "7s"), ("LOG_LEVEL", "FATAL")],
    );
    let config = &loaded.config;
    assert_eq!(config.pools[0].timeouts.ping, Duration::from_secs(7));
    assert_eq!(config.pools[1].timeouts.ping, Duration::from_secs(30));
    assert_eq!(config.limits.header, 16 << 10);
    assert_eq!(config.session.hold, Duration::from_secs(3));
    assert_eq!(config.log.level, LogLevel::Error);
    assert!(config.trusted_proxies.is_empty());
    let config = with(own, "w.yaml", &[("BE_URLS", "ws://z:9")]).config;
    assert_eq!(config.pools.len(), 1);
    assert_eq!(config.pools[0].servers[0].url.host, "z");
    assert_eq!(config.pools[0].timeouts.ping, Duration::from_secs(30));
    // Names that any program may use count only beside wsbalancer's own.
    let loaded = with(
        own,
        "w.yaml",
        &[("LOG_LEVEL", "FATAL"), ("BLOCK_HEADERS", "X")],
    );
    assert_eq!(loaded.config.log.level, LogLevel::Debug);
    assert_eq!(loaded.older, None);
}

#[test]
fn flags_lie_over_all_of_it() {
    let mut sources = sources(&[
        ("FE_ADDR", ":1"),
        ("BE_URLS", "ws://a:1"),
        ("LOG_LEVEL", "DEBUG"),
    ]);
    sources.put_listeners(&[":2".to_owned()], "--listen");
    sources.put(&["admin", "address"], "127.0.0.1:3", "--admin");
    sources.put_pools(&[FlagPool {
        kind: PoolKind::Bridge,
        urls: vec!["http://api/".into()],
        origin: "--api".into(),
    }]);
    let config = sources.load_text(FULL_YAML, "old.yaml").unwrap().config;
    assert_eq!(config.listen[0].address.port(), 2);
    assert_eq!(config.admin.address.port(), 3);
    assert_eq!(config.pools.len(), 1);
    assert_eq!(config.pools[0].kind, PoolKind::Bridge);
    assert_eq!(config.log.level, LogLevel::Debug);
}

#[test]
fn mistakes_in_wsbalancers_words_have_their_places() {
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let table: &[Row<'_>] = &[
        (
            "server: { frontend: { read-timeout: soon } }\nupstream: { backends: [{ url: ws://h }] }",
            &[],
            "old.yaml:1:37: read-timeout: \"soon\" is not a time; write 10s, 500ms or 1m30s",
        ),
        (
            "server: { frontend: { read-timeout: 10 } }\nupstream: { backends: [{ url: ws://h }] }",
            &[],
            "old.yaml:1:37: read-timeout: \"10\" has no unit; write 10s or 10ms",
        ),
        (
            "upstream: { backends: [{ url: gopher://h }] }",
            &[],
            "old.yaml:1:31: pools.default.servers[0].url: \"gopher://h\" has an unknown scheme; write ws://host:port",
        ),
        (
            "upstream: { backends: [{ id: x }] }",
            &[],
            "old.yaml:1:24: url: is missing; write ws://host:port",
        ),
        (
            "upstream: { backends: [ws://h] }",
            &[],
            "old.yaml:1:24: upstream.backends[]: must be a map of these keys: url, id, ping-time, read-buffer-size, write-buffer-size, breaker-threshold, handshake-timeout, pass-headers, abnormal-close-codes",
        ),
        (
            "upstream: { backends: [{ url: ws://h, breaker-threshold: many }] }",
            &[],
            "old.yaml:1:58: breaker-threshold: \"many\" is not a whole number",
        ),
        (
            "server: {}\ndrain: 3s\nupstream: { backends: [{ url: ws://h }] }",
            &[],
            "old.yaml:2:1: drain: is wsteady's own; a file with `server` or `upstream` is wsbalancer's alone",
        ),
        (
            "server: {}",
            &[],
            "old.yaml:1:1: no pool: give --backend, --api, --http or a pools section",
        ),
        (
            "",
            &[("BE_URLS", "ws://a,ws://b"), ("BE_URL_IDS", "one")],
            "BE_URL_IDS: has 1 ids for 2 URLs in BE_URLS",
        ),
        (
            "",
            &[("BE_URLS", "ws://a"), ("BE_PING_TIME", "-1s")],
            "BE_PING_TIME: ping-time: \"-1s\" is less than 0; write 10s or 500ms",
        ),
    ];
    for (text, variables, expected) in table {
        let name = if text.is_empty() { "" } else { "old.yaml" };
        assert_eq!(problems(text, name, variables)[0], *expected, "{text}");
    }
    // It runs with keys that it doesn't know.
    let text = "server: { frontend: { adress: \":1\" } }\nupstream: { backends: [{ url: ws://h }], policy: x }";
    let notes = notes(&load(text, "old.yaml"));
    assert_eq!(
        notes[0],
        "old.yaml:1:23: server.frontend.adress: unknown key, left out; did you mean `address`?"
    );
    assert!(
        notes[2].starts_with("old.yaml:2:42: upstream.policy: unknown key, left out;"),
        "{notes:#?}"
    );
}

#[test]
fn a_note_stays_within_its_line() {
    let text = "upstream: { backends: [{ url: ws://h }], \"a\\nlisten: []\": 1 }";
    let loaded = load(text, "old.yaml");
    assert!(notes(&loaded).iter().any(|note| note.contains('\n')));
    reads_back(&loaded);
}

#[test]
fn the_ini_means_this() {
    let loaded = load(FULL_INI, "old.ini");
    let mut expected = Config::default();
    expected.listen[0].address = ([127, 0, 0, 1], 9080).into();
    let health = |interval, timeout| HealthConfig {
        path: "/healthCheck".into(),
        interval: Duration::from_secs(interval),
        timeout: Duration::from_secs(timeout),
        rise: 1,
        fall: 1,
        expect: Expect::JsonStatus,
    };
    let server = |url: &str, id: &str| ServerConfig {
        url: ServerUrl::parse(url).unwrap(),
        id: id.into(),
        weight: 1,
    };
    let mut pool = PoolConfig::new("websocket", PoolKind::Websocket, SessionConfig::default());
    pool.health = Some(health(5, 2));
    pool.servers = vec![
        server("ws://10.2.0.1:9000", "websocket.server1"),
        server("ws://10.2.0.2:9000", "websocket.server2"),
    ];
    expected.pools.push(pool);
    let mut pool = PoolConfig::new("http", PoolKind::Http, SessionConfig::default());
    pool.balance = Balance::Random;
    pool.health = Some(health(1, 1));
    pool.servers = vec![
        server("http://10.2.0.1:8000", "http.server1"),
        server("http://10.2.0.3:8000", "http.server10"),
    ];
    pool.connections = Some(ConnectionsConfig {
        min: 2,
        max: 6,
        idle: Duration::from_secs(4),
        queue: Some(20),
        full_status: 429,
    });
    expected.pools.push(pool);
    expected.push.path = "/_push/".into();
    assert_eq!(loaded.config, expected);
    let told = "which the first server has and wsteady takes for all servers of a pool";
    let expected = [
        "old.ini:6:1: [websocket]: a foreign Origin is not turned away; list yours in `origins`"
            .to_owned(),
        format!("old.ini:23:24: max_workers: 2 is not 6, {told}"),
        format!("old.ini:13:1: min_workers: 1 is not 2, {told}"),
        format!("old.ini:13:1: worker_timeout: 3 is not 4, {told}"),
        format!("old.ini:13:1: buffer_size: 10 is not 20, {told}"),
    ];
    assert_eq!(notes(&loaded), expected);
    reads_back(&loaded);
}

#[test]
fn the_inis_defaults_are_kept() {
    // By its content alone, too.
    for name in ["old.ini", "OLD.INI", "config"] {
        let loaded = load(SMALL_INI, name);
        let config = &loaded.config;
        let connections = config.pools[1].connections.unwrap();
        assert_eq!(
            (
                connections.min,
                connections.max,
                connections.queue,
                connections.full_status
            ),
            (1, 3, Some(10), 429)
        );
        assert_eq!(connections.idle, Duration::from_secs(3));
        for pool in &config.pools {
            assert_eq!(pool.balance, Balance::Random);
            assert_eq!(pool.health, None);
        }
        // Its port is where wsteady's admin address would be.
        assert_eq!(config.listen[0].address.port(), 8081);
        assert_eq!(config.admin.address.to_string(), "127.0.0.1:8082");
        let told = notes(&loaded).pop().unwrap();
        assert_eq!(
            told,
            format!(
                "{name}:3:8: its port is that of wsteady's admin address, which is at 127.0.0.1:8082 instead"
            )
        );
        reads_back(&loaded);
    }
}

#[test]
fn mistakes_in_an_ini_have_their_places() {
    let table = [
        ("host = a", "x.ini:1:1: stands before the first [section]"),
        ("[frontend]\nhost\n", "x.ini:2:1: is no key = value"),
        (
            "[frontend\nhost = a\n",
            "x.ini:1:1: a section's name ends with ]",
        ),
        (
            "[frontend]\nhost = ::1\nhost = b\nport = 1\n",
            "x.ini:3:1: `host` stands here twice, first in line 2",
        ),
        (
            "[frontend]\nhost =\nport = 1",
            "x.ini:1:1: host: is missing in [frontend]",
        ),
        (
            "[frontend]\nhost = 127.0.0.1\nport = x\n",
            "x.ini:3:8: listen[0]: \"127.0.0.1:x\" is not an address with a port; write 127.0.0.1:8080, [::1]:8080 or :8080",
        ),
        (
            "[frontend]\nprot = 1\n",
            "x.ini:2:1: prot: unknown key; did you mean `port`?",
        ),
        (
            "[websockets]\n",
            "x.ini:1:1: websockets: unknown section; did you mean `websocket`?",
        ),
        (
            "[websocket]\n  algoritm = random\n",
            "x.ini:2:3: algoritm: unknown key; did you mean `algorithm`?",
        ),
        (
            "[websocket]\nalgorithm = best\n",
            "x.ini:2:13: algorithm: \"best\" is not known; write round-robin or random",
        ),
        (
            "[websocket]\nenable_health_check = yes\n",
            "x.ini:2:23: enable_health_check: \"yes\" is not known; write true or false",
        ),
        (
            "[websocket]\nhealth_check_interval = 5s\n",
            "x.ini:2:25: health_check_interval: \"5s\" is not a whole number of seconds",
        ),
        (
            "[http]\nserver1_port = 5\n",
            "x.ini:2:1: server1_port: unknown key; did you mean `server1_addr`?",
        ),
        (
            "[http]\nserver1_max_workers = 5\n",
            "x.ini:2:1: server1_addr: is missing",
        ),
        (
            "[http]\nserver1_addr = h:1\nserver1_max_workers = 0\n",
            "x.ini:3:23: pools.http.connections.max: must be at least 1",
        ),
        (
            "[http]\nserver1_addr = h:1\nserver1_min_workers = 4\n",
            "x.ini:3:23: pools.http.connections.min: 4 is more than max (3); raise max, or write at most 3",
        ),
        (
            "[websocket]\nserver1 = h:x\n",
            "x.ini:2:11: pools.websocket.servers[0].url: \"ws://h:x\" has no valid port; write ws://host:port",
        ),
    ];
    for (text, expected) in table {
        let found = problems(text, "x.ini", &[]);
        assert!(
            found.iter().any(|one| one == expected),
            "{text}: {found:#?}"
        );
    }
    let text = "[frontend]\r\nhost = ::1\r\nport : 7 ; all\r\n[http]\r\nserver1_addr='h:1'\r\n";
    let config = load(&format!("\u{feff}{text}"), "x").config;
    assert_eq!(config.listen[0].address.to_string(), "[::1]:7");
    assert_eq!(config.pools[0].servers[0].url.to_string(), "http://h:1");
}

#[test]
fn no_bytes_panic_the_readers() {
    for (text, name) in [(FULL_YAML, "x.yaml"), (FULL_INI, "x.ini")] {
        for end in (0..text.len()).step_by(3) {
            let _ = sources(&[]).load_text(&text[..end], name);
            let _ = sources(&[]).load_text(&format!("{}]{}", &text[..end], &text[end..]), name);
            let _ = sources(&[]).load_text(&format!("{}é={}", &text[..end], &text[end..]), name);
        }
    }
}

#[test]
fn times_are_gos() {
    let ms = |text: &str| super::go::duration(text).map(|time| time.as_millis() as u64);
    for (text, expected) in [
        ("0", 0),
        ("10s", 10_000),
        ("1h1m1.5s", 3_661_500),
        ("1500us", 2),
        ("1µs", 1),
        ("+3ms", 3),
        (".5s", 500),
    ] {
        assert_eq!(ms(text), Ok(expected), "{text}");
    }
    for text in [
        "",
        "s",
        "1",
        "1x",
        "-1s",
        "1 s",
        "1s ",
        "1d",
        "99999999999999h",
        ".",
        "1..2s",
    ] {
        assert!(ms(text).is_err(), "{text}: {:?}", ms(text));
    }
}

#[test]
fn who_believes_everybody_lets_everybody_push() {
    let text =
        "pools: { a: { kind: bridge, servers: [\"http://h/\"] } }\ntrusted_proxies: [\"::/0\"]\n";
    let loaded = load(text, "w.yaml");
    assert!(
        loaded.warnings[0]
            .to_string()
            .contains("everybody can push")
    );
    let quiet = load(&format!("{text}push: {{ token: x }}\n"), "w.yaml");
    assert_eq!(quiet.warnings, []);
}
