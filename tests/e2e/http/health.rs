//! Servers that fail and recover.

use super::*;

/// A server whose health can be set; it says its own name.
struct Patient {
    web: Web,
    /// 0: well; 1: an error; 2: silence; 3: nonsense.
    state: Arc<AtomicUsize>,
    probes: Arc<AtomicUsize>,
}

impl Patient {
    fn start(name: &'static str, answer_when_well: &'static str) -> Patient {
        let state = Arc::new(AtomicUsize::new(0));
        let probes = Arc::new(AtomicUsize::new(0));
        let (is, count) = (Arc::clone(&state), Arc::clone(&probes));
        let web = Web::start(move |raw, request| {
            let probe = request.head.first.contains("/healthCheck");
            let upgrade = request.head.header("upgrade").is_some();
            if !probe && upgrade {
                raw.accept(&request.head, &format!("X-Name: {name}\r\n"));
                raw.wait(Duration::from_secs(60), |_| None::<()>);
                return false;
            }
            if !probe {
                return raw.send(&ok(name));
            }
            count.fetch_add(1, SeqCst);
            match is.load(SeqCst) {
                0 if upgrade => {
                    raw.accept(&request.head, "");
                    raw.wait(Duration::from_secs(2), |_| None::<()>);
                    false
                }
                0 => raw.send(&ok(answer_when_well)),
                1 => raw.send(b"HTTP/1.1 503 Ill\r\nContent-Length: 14\r\n\r\n{\"status\":200}"),
                2 => {
                    std::thread::sleep(Duration::from_secs(1));
                    false
                }
                _ => raw.send(&ok("{\"status\":500}")),
            }
        });
        Patient { web, state, probes }
    }
}

fn health(expect: &str) -> Value {
    json!({ "interval": "200ms", "timeout": "150ms", "rise": 1, "fall": 2, "expect": expect })
}

fn healthy(proxy: &Proxy, id: &str) -> bool {
    let row = proxy
        .admin("GET", &format!("/v1/servers/{id}"), None)
        .json();
    row["healthy"].as_bool().expect("a verdict")
}

/// Who answers a number of new clients, enough for all loops to have some.
fn answering(proxy: &Proxy) -> HashSet<String> {
    let names = (0..24).map(|_| {
        let got = ask(proxy.address, get("/who"));
        assert_eq!(got.head.status(), 200, "{got:?}");
        String::from_utf8(got.body).unwrap()
    });
    names.collect()
}

fn set_of(names: &[&str]) -> HashSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn an_unhealthy_http_server_is_left_alone_until_it_recovers() {
    // What is expected, what a well server says, and all that is ill.
    let rows = [
        ("status", "anything", &[1, 2][..]),
        ("json-status", "{\"status\":\"200\"}", &[1, 2, 3]),
    ];
    for (expect, well, ills) in rows {
        let (one, two) = (Patient::start("one", well), Patient::start("two", well));
        let proxy = proxy_with(
            &[&one.web, &two.web],
            json!({ "health": health(expect) }),
            json!({}),
        );
        assert_eq!(answering(&proxy), set_of(&["one", "two"]), "{expect}");
        for ill in ills {
            one.state.store(*ill, SeqCst);
            until_true(WAIT, "an unhealthy server", || !healthy(&proxy, "b1"));
            assert!(healthy(&proxy, "b2"));
            assert_eq!(answering(&proxy), set_of(&["two"]), "{expect} {ill}");
            let up = |id| proxy.count("wsteady_server_up", &[("server", id)]);
            assert_eq!((up("b1"), up("b2")), (0, 1));
            assert_eq!(http::get(proxy.admin, "/readyz").unwrap().status, 200);
            one.state.store(0, SeqCst);
            until_true(WAIT, "a healthy server", || healthy(&proxy, "b1"));
            assert_eq!(answering(&proxy), set_of(&["one", "two"]), "{expect} {ill}");
        }
        // Without any healthy one, requests still find somebody, and /readyz says so.
        for patient in [&one, &two] {
            patient.state.store(1, SeqCst);
        }
        until_true(WAIT, "nobody healthy", || {
            !healthy(&proxy, "b1") && !healthy(&proxy, "b2")
        });
        assert_eq!(http::get(proxy.admin, "/readyz").unwrap().status, 503);
        assert_eq!(answering(&proxy), set_of(&["one", "two"]), "{expect}");
        let probes = one
            .web
            .requests()
            .into_iter()
            .find(|one| one.head.first.contains("healthCheck"));
        let probe = probes.expect("a probe");
        assert_eq!(probe.head.first, "GET /healthCheck HTTP/1.1");
        assert_eq!(
            probe.head.header("host"),
            Some(&*one.web.address.to_string())
        );
        // One loop probes, not each.
        let (before, since) = (two.probes.load(SeqCst), Instant::now());
        std::thread::sleep(Duration::from_secs(1));
        let probes = two.probes.load(SeqCst) - before;
        assert!(
            probes as u128 <= since.elapsed().as_millis() / 200 + 1,
            "{probes} probes in a second"
        );
        proxy.finish();
    }
}

#[test]
fn a_server_that_takes_no_connection_is_left_alone_until_it_does() {
    let port = free_port();
    let other = Web::start(|raw, _| raw.send(&ok("two")));
    let urls = [format!("http://127.0.0.1:{port}"), other.url()];
    let proxy = proxy_of("http", &urls, json!({ "health": health("tcp") }), json!({}));
    until_true(WAIT, "an unhealthy server", || !healthy(&proxy, "b1"));
    assert_eq!(answering(&proxy), set_of(&["two"]));
    let one = Web::over(
        TcpListener::bind(("127.0.0.1", port)).unwrap(),
        |raw, seen, number| {
            serve(raw, seen, number, &|raw: &mut Raw, _: &Message| {
                raw.send(&ok("one"))
            })
        },
    );
    until_true(WAIT, "a healthy server", || healthy(&proxy, "b1"));
    assert_eq!(answering(&proxy), set_of(&["one", "two"]));
    // A probe by TCP says nothing.
    assert!(
        one.requests()
            .iter()
            .all(|request| !request.head.first.contains("healthCheck"))
    );
    one.must_be_clean();
    proxy.finish();
}

#[test]
fn an_unhealthy_websocket_server_gets_no_new_sessions_and_keeps_its_old_ones() {
    let (one, two) = (Patient::start("one", ""), Patient::start("two", ""));
    let urls = [&one, &two].map(|one| one.web.url().replace("http://", "ws://"));
    // Pings would find a slow server out, too: it is not they that are tried.
    let changes = json!({ "health": { "interval": "200ms", "timeout": "150ms" },
        "timeouts": { "ping": "30s", "pong": "10s" }, "pass_headers": ["X-Name"] });
    let proxy = proxy_of("websocket", &urls, changes, json!({}));
    let open = || {
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/who", "").as_bytes());
        let head = client.head(WAIT);
        assert_eq!(head.status(), 101, "{head:?}");
        (head.header("x-name").unwrap().to_owned(), client)
    };
    let mut old: Vec<(String, Raw)> = (0..24).map(|_| open()).collect();
    let loops = proxy.admin("GET", "/v1/stats", None).json()["loops"].clone();
    let busy = loops
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["clients"] != 0)
        .count();
    assert_eq!(busy, 2, "both loops have clients: {loops}");
    let names = |clients: &[(String, Raw)]| {
        clients
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<HashSet<_>>()
    };
    assert_eq!(names(&old), set_of(&["one", "two"]));
    for ill in [1, 2] {
        one.state.store(ill, SeqCst);
        until_true(WAIT, "an unhealthy server", || !healthy(&proxy, "b1"));
        let new: Vec<(String, Raw)> = (0..24).map(|_| open()).collect();
        assert_eq!(names(&new), set_of(&["two"]), "{ill}");
        one.state.store(0, SeqCst);
        until_true(WAIT, "a healthy server", || healthy(&proxy, "b1"));
        let new: Vec<(String, Raw)> = (0..24).map(|_| open()).collect();
        assert_eq!(names(&new), set_of(&["one", "two"]), "{ill}");
    }
    let served = proxy.count("wsteady_failovers_total", &[]);
    assert_eq!(served, 0, "old sessions stay");
    assert!(old.iter_mut().all(|(_, client)| client.ended().is_none()));
    drop(old);
    proxy.finish();
}

#[test]
fn the_same_client_gets_the_same_server_under_hash() {
    let webs = ["one", "two", "three"].map(|name| Web::start(move |raw, _| raw.send(&ok(name))));
    let all: Vec<&Web> = webs.iter().collect();
    for hash in ["id", "header:X-Key"] {
        let proxy = proxy_with(&all, json!({ "balance": "hash", "hash": hash }), json!({}));
        let mut met = HashSet::new();
        for key in 0..12 {
            let names: HashSet<Vec<u8>> = (0..6)
                .map(|n| {
                    let (path, header) = if hash == "id" {
                        (format!("/{key}/{n}"), n)
                    } else {
                        (format!("/{n}"), key)
                    };
                    ask(
                        proxy.address,
                        format!("GET {path} HTTP/1.1\r\nHost: h\r\nx-KEY: {header}\r\n\r\n"),
                    )
                    .body
                })
                .collect();
            assert_eq!(names.len(), 1, "{hash} {key}");
            met.extend(names);
        }
        assert!(met.len() > 1, "{hash}: all went to one server");
        proxy.finish();
    }
}

#[test]
fn adaptive_follows_what_health_answers_say_is_free() {
    let busy = Patient::start("one", "{\"status\":200,\"cpu\":0.95,\"memory\":0.1}");
    let idle = Patient::start("two", "{\"status\":200,\"cpu\":0.05,\"memory\":0.1}");
    let changes = json!({ "health": health("json-status"), "balance": "adaptive" });
    let proxy = proxy_with(&[&busy.web, &idle.web], changes, json!({}));
    until_true(WAIT, "two probes each", || {
        busy.probes.load(SeqCst) > 1 && idle.probes.load(SeqCst) > 1
    });
    let count = |name: &str| {
        let names = (0..60).map(|_| ask(proxy.address, get("/who")).body);
        names.filter(|one| one == name.as_bytes()).count()
    };
    let to_busy = count("one");
    assert!(
        (1..=10).contains(&to_busy),
        "{to_busy} of 60 to the busy one"
    );
    proxy.finish();
}

#[test]
fn http_beside_backend_upgrades_go_to_one_and_the_rest_to_the_other() {
    let sockets = Patient::start("sockets", "");
    let web = Web::echo();
    let (listen, admin) = (free_port(), free_port());
    let mut child = binary()
        .args([
            "--listen",
            &format!("127.0.0.1:{listen}"),
            "--admin",
            &format!("127.0.0.1:{admin}"),
        ])
        .args(["--backend", &sockets.web.url().replace("http://", "ws://")])
        .args(["--http", &web.url()])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], listen));
    let admin = SocketAddr::from(([127, 0, 0, 1], admin));
    until(WAIT, "a ready proxy", || {
        http::get(admin, "/readyz")
            .ok()
            .filter(|answer| answer.status == 200)
    });
    let client = Raw::open(address, "/ws", "");
    let mut other = Raw::connect(address);
    for path in ["/1", "/2"] {
        other.send(get(path).as_bytes());
        assert_eq!(
            answer(&mut other).body,
            format!("GET {path} HTTP/1.1\n").as_bytes()
        );
    }
    // The connection of plain requests may still become a session.
    other.send(handshake("/later", "").as_bytes());
    assert_eq!(other.head(WAIT).status(), 101);
    let firsts = |web: &Web| {
        web.requests()
            .into_iter()
            .map(|one| one.head.first)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        firsts(&sockets.web),
        ["GET /ws HTTP/1.1", "GET /later HTTP/1.1"]
    );
    assert_eq!(firsts(&web), ["GET /1 HTTP/1.1", "GET /2 HTTP/1.1"]);
    let pools = http::get(admin, "/v1/pools").unwrap().json();
    let kinds: HashSet<&str> = pools["pools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, HashSet::from(["websocket", "http"]));
    drop((client, other));
    child.kill().unwrap();
    child.wait().unwrap();
}
