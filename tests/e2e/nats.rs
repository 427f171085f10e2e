//! Pools of kind nats, before a real nats-server; the backend is a Python client.

use crate::support::frames::{BINARY, Frame, TEXT};
use crate::support::proxy::{Proxy, patient};
use crate::support::raw::Raw;
use crate::support::{Scratch, free_port, root, until, until_true};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);

/// A nats-server with JetStream, whose store outlives it.
pub(crate) struct Server {
    child: Child,
    dir: Scratch,
    port: u16,
}

impl Server {
    pub(crate) fn start(more: &str) -> Server {
        let (dir, port) = (Scratch::new("nats"), free_port());
        let store = dir.file("store");
        let config =
            format!("listen: 127.0.0.1:{port}\njetstream: {{ store_dir: {store:?} }}\n{more}\n");
        std::fs::write(dir.file("nats.conf"), config).unwrap();
        let child = Server::spawn(&dir);
        let server = Server { child, dir, port };
        server.wait_ready();
        server
    }

    fn spawn(dir: &Scratch) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.file("log"));
        let log = log.unwrap();
        Command::new("/usr/sbin/nats-server")
            .arg("-c")
            .arg(dir.file("nats.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("scripts/setup-tests installs nats-server")
    }

    fn wait_ready(&self) {
        until_true(WAIT, "nats-server to listen", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// Without a word, and at once again.
    pub(crate) fn kill_and_start(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Without a word.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// At the same address.
    pub(crate) fn start_again(&mut self) {
        self.child = Server::spawn(&self.dir);
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that uses the same NATS.
struct Backend {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Backend {
    fn start(url: &str) -> Backend {
        let mut child = Command::new(root().join(".venv/bin/python"))
            .arg(root().join("tests/peers/nats_backend.py"))
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/setup-tests installs Python");
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut backend = Backend {
            child,
            orders,
            answers,
        };
        assert_eq!(backend.answer(), json!({ "ok": true }));
        backend
    }

    fn tell(&mut self, order: Value) -> Value {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// What became of a message that asked.
    fn request(&mut self, subject: &str, payload: &[u8], headers: Value) -> Option<String> {
        let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        let order = json!({ "request": subject, "hex": hex, "headers": headers });
        self.tell(order)["status"].as_str().map(str::to_owned)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}

fn proxy(server: &Server, changes: Value) -> Proxy {
    let mut changes = changes;
    let pool = &mut changes["pools"]["main"];
    pool["kind"] = json!("nats");
    pool["connections"] = json!({ "min": 0, "idle": "300ms" });
    let proxy = Proxy::start(&[server.url()], changes);
    until_true(WAIT, "the way down to stand", || {
        proxy.log().contains("NATS server connected")
    });
    proxy
}

fn say(client: &mut Raw, opcode: u8, payload: &[u8]) {
    assert!(client.send_frame(&Frame::masked(opcode, payload)));
}

/// A client is there for NATS when its subscription is.
fn wait_connected(backend: &mut Backend, subject: &str) {
    until_true(WAIT, "the client to be subscribed", || {
        // An empty name of no code: refused, but by somebody.
        let headers = json!({ "X-Wsteady-Close": "0" });
        backend.request(subject, b"", headers).is_some()
    });
}

fn payloads(messages: &Value) -> Vec<Vec<u8>> {
    let byte = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits).unwrap();
        u8::from_str_radix(digits, 16).unwrap()
    };
    let messages = messages.as_array().unwrap().iter();
    let hex = messages.map(|message| message["hex"].as_str().unwrap());
    hex.map(|hex| hex.as_bytes().chunks(2).map(byte).collect())
        .collect()
}

#[test]
fn messages_go_up_and_down_and_who_asks_is_told() {
    let server = Server::start("");
    let mut backend = Backend::start(&server.url());
    for subject in ["app.*.open", "app.*.in", "app.*.close"] {
        backend.tell(json!({ "listen": subject }));
    }
    let pool = json!({ "pools": { "main": { "nats": { "prefix": "app" } } } });
    let proxy = proxy(&server, pool);
    let mut client = Raw::open(proxy.address, "/a.b=*?x=1", "X-Own: yes\r\n");
    say(&mut client, TEXT, "grüß".as_bytes());
    say(&mut client, BINARY, b"\x00\xff\r\n");
    let heard = backend.tell(json!({ "heard": 3 }));
    // Of two subscriptions the client library says nothing about which is first.
    let mut heard = heard["heard"].as_array().unwrap().clone();
    heard.sort_by_key(|one| one["subject"].as_str().unwrap().ends_with("in"));
    let subjects: Vec<_> = heard
        .iter()
        .map(|one| one["subject"].as_str().unwrap())
        .collect();
    let own = |word: &str| format!("app.a=2Eb=3D=2A.{word}");
    assert_eq!(subjects, [own("open"), own("in"), own("in")]);
    let header = |at: usize, name: &str| heard[at]["headers"][name].as_str().unwrap_or("none");
    assert_eq!(header(0, "X-Wsteady-Target"), "a.b=*?x=1");
    assert_eq!(header(0, "X-Own"), "yes");
    let session = header(1, "X-Wsteady-Session");
    assert_eq!(header(1, "Nats-Msg-Id"), format!("{session}-0"));
    assert_eq!(header(2, "Nats-Msg-Id"), format!("{session}-1"));
    assert_eq!(header(1, "X-Forwarded-For"), "127.0.0.1");
    assert_eq!(header(2, "Content-Type"), "application/octet-stream");
    assert_eq!(
        payloads(&json!(heard))[1..],
        ["grüß".as_bytes().to_vec(), b"\x00\xff\r\n".to_vec()]
    );

    let out = own("out");
    wait_connected(&mut backend, &out);
    let asked = |backend: &mut Backend, payload: &[u8], headers: Value| {
        backend.request(&out, payload, headers)
    };
    let some = |status: &str| Some(status.to_owned());
    assert_eq!(asked(&mut backend, b"hello", json!({})), some("ok"));
    assert_eq!(client.frame(WAIT).payload, b"hello");
    let binary = json!({ "Content-Type": "application/octet-stream" });
    assert_eq!(asked(&mut backend, b"\xff", binary), some("ok"));
    let frame = client.frame(WAIT);
    assert_eq!((frame.opcode, &frame.payload[..]), (BINARY, &b"\xff"[..]));
    assert_eq!(asked(&mut backend, b"\xff", json!({})), some("refused"));
    // In order, however many.
    let texts: Vec<String> = (0..2_000).map(|number| number.to_string()).collect();
    backend.tell(json!({ "publish": out, "texts": texts }));
    for text in &texts {
        assert_eq!(client.frame(WAIT).payload, text.as_bytes());
    }
    // The ordinary push is taken, too.
    let pushed = push(&proxy, "a.b=*", "by HTTP");
    assert!(pushed.starts_with("HTTP/1.1 200"), "{pushed}");
    assert_eq!(client.frame(WAIT).payload, b"by HTTP");

    let close = json!({ "X-Wsteady-Close": "4001" });
    assert_eq!(asked(&mut backend, b"go", close), some("ok"));
    assert_eq!(client.close_code(WAIT), 4001);
    drop(client);
    let heard = backend.tell(json!({ "heard": 4 }));
    let last = &heard["heard"][3];
    assert_eq!(last["subject"], own("close"));
    assert_eq!(last["headers"]["X-Wsteady-Close"], "4001");
    assert_eq!(payloads(&heard["heard"])[3], b"go");
    until_true(WAIT, "nobody to be subscribed", || {
        backend.request(&out, b"x", json!({})).is_none()
    });
    proxy.finish();
}

fn push(proxy: &Proxy, id: &str, text: &str) -> String {
    let mut raw = Raw::connect(proxy.address);
    let length = text.len();
    let request =
        format!("POST /{id} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{text}");
    assert!(raw.send(request.as_bytes()));
    let status = raw.head(WAIT).status();
    format!("HTTP/1.1 {status}")
}

#[test]
fn a_stream_has_each_message_once_though_its_server_is_killed_again_and_again() {
    const CLIENTS: usize = 6;
    const MESSAGES: usize = 400;
    const KILLS: usize = 4;
    let mut server = Server::start("");
    let mut backend = Backend::start(&server.url());
    backend.tell(json!({ "stream": "S", "subjects": ["wsteady.*.in"] }));
    let nats = json!({ "nats": { "jetstream": true } });
    let proxy = proxy(&server, patient(json!({ "pools": { "main": nats } })));
    let address = proxy.address;
    let talk = move |client: usize| {
        let mut raw = Raw::open(address, &format!("/c{client}"), "");
        for number in 0..MESSAGES {
            say(&mut raw, TEXT, format!("{client}:{number}").as_bytes());
            // As long as the server is killed and started: some of each client's meet that.
            std::thread::sleep(Duration::from_millis(5));
        }
        raw
    };
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| std::thread::spawn(move || talk(client)))
        .collect();
    for kill in 1..=KILLS {
        let goal = (kill * MESSAGES * CLIENTS / (KILLS + 2)) as u64;
        until_true(WAIT, "some to be confirmed", || {
            proxy.count("wsteady_messages_confirmed_total", &[]) >= goal
        });
        server.kill_and_start();
    }
    let mut clients: Vec<Raw> = clients.into_iter().map(|one| one.join().unwrap()).collect();
    until_true(WAIT, "all to be confirmed", || {
        proxy.count("wsteady_messages_confirmed_total", &[]) == (CLIENTS * MESSAGES) as u64
    });
    let read = backend.tell(json!({ "read": "S" }));
    let mut next = [0; CLIENTS];
    for payload in payloads(&read["read"]) {
        let text = String::from_utf8(payload).unwrap();
        let (client, number) = text.split_once(':').unwrap();
        let (client, number): (usize, usize) = (client.parse().unwrap(), number.parse().unwrap());
        assert_eq!(
            number, next[client],
            "of client {client}: in order, each once"
        );
        next[client] += 1;
    }
    assert_eq!(next, [MESSAGES; CLIENTS]);
    assert_eq!(proxy.count("wsteady_messages_unconfirmed_total", &[]), 0);
    // The way down has found its server again, too.
    for (number, client) in clients.iter_mut().enumerate() {
        let out = format!("wsteady.c{number}.out");
        wait_connected(&mut backend, &out);
        let status = backend.request(&out, b"still there", json!({}));
        assert_eq!(status.as_deref(), Some("ok"));
        assert_eq!(client.frame(WAIT).payload, b"still there");
    }
    drop(clients);
    proxy.finish();
}

#[test]
fn without_a_stream_a_message_waits_for_one() {
    let server = Server::start("");
    let mut backend = Backend::start(&server.url());
    let nats = json!({ "nats": { "jetstream": true } });
    let proxy = proxy(&server, patient(json!({ "pools": { "main": nats } })));
    let mut client = Raw::open(proxy.address, "/a", "");
    say(&mut client, TEXT, b"early");
    until_true(WAIT, "a word on it", || {
        proxy.log().contains("none listens")
    });
    backend.tell(json!({ "stream": "S", "subjects": ["wsteady.*.in"] }));
    until_true(WAIT, "it to be confirmed", || {
        proxy.count("wsteady_messages_confirmed_total", &[]) == 1
    });
    let read = backend.tell(json!({ "read": "S" }));
    assert_eq!(payloads(&read["read"]), [b"early"]);
    drop(client);
    proxy.finish();
}

#[test]
fn a_message_longer_than_the_server_takes_is_failed_and_the_next_goes_on() {
    let server = Server::start("max_payload: 10000");
    let mut backend = Backend::start(&server.url());
    backend.tell(json!({ "listen": "wsteady.a.in" }));
    let proxy = proxy(&server, json!({}));
    let mut client = Raw::open(proxy.address, "/a", "");
    for text in ["before", &"x".repeat(20_000), "behind"] {
        say(&mut client, TEXT, text.as_bytes());
    }
    let heard = backend.tell(json!({ "heard": 2 }));
    assert_eq!(payloads(&heard["heard"]), [b"before", b"behind"]);
    let failed = || proxy.count("wsteady_requests_failed_total", &[]);
    until_true(WAIT, "one to be failed", || failed() == 1);
    drop(client);
    proxy.finish();
}

#[test]
fn who_is_not_let_in_says_so_and_a_password_is_sent() {
    let server = Server::start("authorization: { user: me, password: \"s3\\\"cret\" }");
    let proxy = Proxy::start(
        &[server.url()],
        json!({ "session": { "admit": "500ms" }, "pools": { "main": { "kind": "nats" } } }),
    );
    let mut stranger = Raw::connect(proxy.address);
    assert!(stranger.send(crate::support::raw::handshake("/a", "").as_bytes()));
    assert_eq!(stranger.head(WAIT).status(), 502);
    until(WAIT, "the server's words", || {
        let log = proxy.log();
        let told = ["does not take a message", "the NATS server complains"];
        let all = told.iter().all(|words| {
            let mut lines = log.lines().filter(|line| line.contains(words));
            lines.any(|line| line.contains("Authorization Violation"))
        });
        all.then_some(())
    });
    drop(stranger);
    proxy.finish();
    let login = json!({ "user": "me", "password": "s3\"cret" });
    let proxy = self::proxy(&server, json!({ "pools": { "main": { "nats": login } } }));
    drop(Raw::open(proxy.address, "/a", ""));
    assert!(!proxy.log().contains("s3"), "a secret in the log");
    proxy.finish();
}
