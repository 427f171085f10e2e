//! wsteady under the configurations of the older proxies: each does what it did there.

use crate::cli::Running;
use crate::http::{Web, get, ok};
use crate::support::api::Api;
use crate::support::frames::{Frame, TEXT};
use crate::support::proxy::binary;
use crate::support::raw::{Origin, Raw, echo_frames, echo_origin, handshake};
use crate::support::{Scratch, http, root, until_true};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(10);

/// One of `tests/legacy`, with words replaced.
fn example(name: &str, words: &[(&str, &str)]) -> String {
    let mut text = std::fs::read_to_string(root().join("tests/legacy").join(name)).unwrap();
    for (old, new) in words {
        assert!(text.contains(old), "no {old} in {name}");
        text = text.replace(old, new);
    }
    text
}

fn written(dir: &Scratch, name: &str, text: &str) -> PathBuf {
    let path = dir.file(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn echoes(client: &mut Raw, text: &[u8]) {
    client.send_frame(&Frame::masked(TEXT, text));
    assert_eq!(client.frame(WAIT).payload, text);
}

fn metrics(running: &Running) -> String {
    http::get(running.admin, "/metrics").unwrap().body
}

#[test]
fn wsbalancers_file_balances() {
    let origin = Origin::bind();
    let dir = Scratch::new("wsbalancer");
    let running = Running::start(&[], |command: &mut Command, listen, admin| {
        let url = origin.url();
        let words = [
            (":9080", listen),
            (":9081", admin),
            ("ws://10.1.0.1:9000", url.as_str()),
            ("ws://chat.internal:9000", &format!("{url}/chat")),
        ];
        let text = example("wsbalancer.yaml", &words);
        command
            .arg("--config")
            .arg(written(&dir, "old.yaml", &text));
    });
    let mut client = Raw::connect(running.listen);
    client.send(handshake("/room?x=1", "X-Debug: 1\r\nX-Kept: 1\r\n").as_bytes());
    let (server, head) = origin.adopt("Set-Cookie: a=b\r\n");
    assert_eq!(head.first, "GET /chat/room?x=1 HTTP/1.1");
    assert_eq!(
        (head.header("x-debug"), head.header("x-kept")),
        (None, Some("1"))
    );
    let answer = client.head(WAIT);
    assert_eq!(
        (answer.status(), answer.header("set-cookie")),
        (101, Some("a=b"))
    );
    server.reset();
    let (mut server, head) = origin.adopt("");
    assert_eq!(head.header("x-again"), Some("1"), "{head:?}");
    let sent = Frame::masked(TEXT, b"still here");
    client.send_frame(&sent);
    assert_eq!(server.frame(WAIT).payload, sent.payload);
    // `enable-instrumentation` is there for its names.
    let frontend = running.listen.to_string().replace(['.', ':'], "-");
    let scrape = metrics(&running);
    let sums = |name: &str| -> f64 {
        let start = format!("{name}{{frontend=\"{frontend}\",backend=");
        let lines = scrape.lines().filter(|line| line.starts_with(&start));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    };
    assert_eq!(sums("wsbalancer_new_session"), 2.0, "{scrape}");
    assert_eq!(sums("wsbalancer_active_sessions"), 1.0, "{scrape}");
}

#[test]
fn wsbalancers_environment_balances() {
    let (one, two) = (echo_origin(), echo_origin());
    let urls = format!("{},{}", one.url(), two.url());
    let environment = [
        ("FE_ADDR", "LISTEN"),
        ("ADM_ADDR", "ADMIN"),
        ("BE_URLS", urls.as_str()),
        ("BE_URL_IDS", "one,two"),
        ("LOG_LEVEL", "DEBUG"),
    ];
    let running = Running::start(&environment, |_, _, _| {});
    for _ in 0..4 {
        echoes(&mut Raw::open(running.listen, "/", ""), b"hello");
    }
    until_true(WAIT, "both servers to be used", || {
        one.connections() > 0 && two.connections() > 0
    });
    let servers = http::get(running.admin, "/v1/servers").unwrap().json();
    assert_eq!(servers["servers"][1]["id"], "two");
    assert!(!metrics(&running).contains("wsbalancer_"));
}

#[test]
fn the_ini_proxies_both() {
    let slow = Arc::new(AtomicBool::new(true));
    let waits = Arc::clone(&slow);
    let web = Web::start(move |raw, request| {
        let line = &request.head.first;
        if line.contains("/healthCheck") {
            return raw.send(&ok("{\"status\": 200}"));
        }
        if request.head.header("upgrade").is_some() {
            raw.accept(&request.head, "");
            echo_frames(raw);
            return false;
        }
        while line.contains("/slow") && waits.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        raw.send(&ok(line))
    });
    let dir = Scratch::new("ini");
    let running = Running::start(&[], |command: &mut Command, listen, admin| {
        let (_, port) = listen.split_once(':').unwrap();
        let server = web.address.to_string();
        let words = [
            ("9080", port),
            ("10.2.0.1:9000", server.as_str()),
            ("10.2.0.2:9000", server.as_str()),
            ("10.2.0.1:8000", server.as_str()),
            (
                "server10_addr = 10.2.0.3:8000\nserver10_max_workers = 2\n",
                "",
            ),
            ("max_workers = 6", "max_workers = 1"),
            ("min_workers = 2", "min_workers = 1"),
            ("buffer_size = 20", "buffer_size = 0"),
        ];
        let text = example("reverse-proxy.ini", &words);
        command.args(["--admin", admin, "--config"]);
        command.arg(written(&dir, "reverse-proxy-config.ini", &text));
    });
    let mut client = Raw::open(running.listen, "/room?x=1", "");
    echoes(&mut client, b"over the proxy");
    let answer = http::get(running.listen, "/page?y=2").unwrap();
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "GET /page?y=2 HTTP/1.1")
    );
    let mut first = Raw::connect(running.listen);
    first.send(get("/slow").as_bytes());
    until_true(WAIT, "the only worker to be busy", || {
        let seen = web.requests();
        seen.iter().any(|one| one.head.first.contains("/slow"))
    });
    let refused = http::get(running.listen, "/more").unwrap();
    assert_eq!(refused.status, 429);
    slow.store(false, SeqCst);
    assert_eq!(first.head(WAIT).status(), 200);
}

#[test]
fn ws2apis_flags_and_environment_bridge() {
    let api = Api::echo();
    let url = api.url();
    let environment = [
        ("WS2API_LISTEN", "LISTEN"),
        ("WS2API_URL", url.as_str()),
        ("WS2API_MAX_BODY", "1000"),
    ];
    let by_environment = Running::start(&environment, |command, _, admin| {
        command.args(["--admin", admin]);
    });
    let by_flags = Running::start(&[], |command, listen, admin| {
        command.args(["-listen", listen, "-api", &url, "-max-body", "1000"]);
        command.args(["-api-timeout=5s", "-stats-interval", "1s", "-admin", admin]);
    });
    for (running, name) in [(by_environment, "alice"), (by_flags, "bob")] {
        let mut client = Raw::open(running.listen, &format!("/{name}"), "");
        client.send_frame(&Frame::masked(TEXT, b"hello"));
        let answer = client.frame(WAIT).payload;
        assert!(answer.ends_with(b"hello"), "{}", answer.escape_ascii());
        let mut push = Raw::connect(running.listen);
        let text = format!("POST /{name} HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\npushed");
        push.send(text.as_bytes());
        assert_eq!(push.head(WAIT).status(), 200);
        assert_eq!(client.frame(WAIT).payload, b"pushed");
        // A message over the bound.
        client.send_frame(&Frame::masked(TEXT, &[b'x'; 1001]));
        assert_eq!(client.close_code(WAIT), 1009);
    }
    let ids: Vec<String> = api
        .wait("GET", 2)
        .iter()
        .map(|call| call.id().to_owned())
        .collect();
    assert_eq!(ids, ["alice", "bob"]);
}

#[test]
fn check_converts() {
    let dir = Scratch::new("convert");
    let check = |file: &Path| {
        let output = binary()
            .args(["check", "--config"])
            .arg(file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}{wrong}", file.display());
        said
    };
    for (name, program) in [
        ("wsbalancer.yaml", "wsbalancer"),
        ("wsbalancer-small.yaml", "wsbalancer"),
        ("reverse-proxy.ini", "WebsocketReverseProxy"),
        ("reverse-proxy-small.ini", "WebsocketReverseProxy"),
    ] {
        let page = check(&root().join("tests/legacy").join(name));
        let told = format!("\n# This was read as a configuration of {program}.");
        let (own, _) = page.split_once(&told).unwrap_or_else(|| panic!("{page}"));
        let again = check(&written(&dir, "new.yaml", &page));
        assert_eq!(again, own, "{name}");
    }
}
