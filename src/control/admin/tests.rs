//! A real server on port 0 before shards that are a thread with a script.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::control::config::{PoolConfig, PoolKind};
use crate::control::recruiter::Recruit;
use crate::control::resolver::{Lookup, Names};
use crate::fleet::{Pool, Server, ServerState};
use crate::session::Phase;
use crate::shard::mail::Filter;
use crate::shard::news::News;
use crate::shard::stats::{SessionRow, Stats};

mod balancer;
#[cfg(feature = "tls")]
mod sealed_tests;

/// Two shards: a thread that answers mail, and remembers what came.
struct Stand {
    desk: Arc<Desk>,
    server: Option<AdminServer>,
    address: SocketAddr,
    scene: Arc<Mutex<Scene>>,
}

#[derive(Default)]
struct Scene {
    told: Vec<String>,
    tripped: [bool; 3],
    unhealthy: [bool; 3],
    /// This one answers nothing.
    silent: Option<usize>,
    /// Questions for all counters.
    counted: usize,
}

fn fleet() -> Fleet {
    let pool = |name: &str, members: &[u16]| Pool {
        members: members.to_vec(),
        ..Pool::new(name, Default::default())
    };
    let server = |id: &str, port: u16, pool| {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Server::new(id.to_string(), format!("ws://{address}"), address, pool, 1)
    };
    Fleet {
        pools: vec![pool("chat", &[0, 1]), pool("game", &[2])],
        servers: vec![
            server("a", 9001, 0),
            server("b@::1", 9002, 0),
            server("c", 9003, 1),
        ],
        routes: Vec::new(),
    }
}

/// Of the pools above. `twins` has two addresses, other names have none.
fn recruiter(pools: &[&str]) -> Recruiter {
    let pool = |name: &&str| PoolConfig::new(*name, PoolKind::Websocket, Default::default());
    let lookup: Lookup = Arc::new(|host, port| match host {
        "twins" => Ok([1, 2]
            .map(|n| SocketAddr::from(([10, 0, 0, n], port)))
            .to_vec()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    });
    Recruiter::new(pools.iter().map(pool).collect(), lookup, Names::new().0)
}

/// Shard n has the sessions n0 to n4, in slots 0, 10, 20..; the odd ones are held.
fn rows(shard: usize) -> Vec<(u32, SessionRow)> {
    let row = |n: u32| SessionRow {
        id: u128::from(n) + 16 * shard as u128,
        client: SocketAddr::from(([127, 0, 0, 1], 40_000 + n as u16)),
        path: "/<script>\"&".to_string(),
        pool: Some(0),
        server: Some((n % 2) as u16),
        phase: if n % 2 == 1 { Phase::Held } else { Phase::Open },
        age: 1_000,
        failovers: n,
        messages_up: 3,
        messages_down: 4,
        journal_bytes: 5,
        confirmed: 3,
        has_client: true,
        waiting: None,
    };
    (0..5).map(|n| (10 * n, row(n))).collect()
}

/// As a shard lists: some slots at a time, so that a page may be short.
fn page(shard: usize, filter: &Filter) -> Answer {
    let (mut found, mut next) = (Vec::new(), None);
    for (looked, (slot, row)) in rows(shard).into_iter().enumerate() {
        if slot < filter.from {
            continue;
        }
        if found.len() >= filter.limit || (slot > filter.from && looked % 3 == 0) {
            next = Some(slot);
            break;
        }
        let state = filter.state.as_deref();
        if filter
            .server
            .is_none_or(|server| row.server == Some(server))
            && state.is_none_or(|state| state == row.phase.name())
            && filter.id.is_none_or(|id| row.id == id)
        {
            found.push(row);
        }
    }
    Answer::Sessions { rows: found, next }
}

fn snapshot(shard: usize, scene: &Scene) -> Snapshot {
    let mut stats = Stats::new(2, 3);
    (stats.opened, stats.closed) = (10, 3);
    stats.denied.insert(503, 2);
    stats.servers[0].sessions = 3;
    stats.servers[0].sessions_total = 7;
    let tally = stats.tally(Some(0));
    (tally.messages_up, tally.messages_down) = (9, 4);
    (tally.confirmed, tally.journaled) = (6, 1);
    tally.unconfirmed[2] = 2;
    stats.hold.record(250).unwrap();
    Snapshot {
        shard,
        stats,
        clients: 7,
        upstreams: 7,
        timers: 1,
        buffer_bytes: 4096,
        kept_bytes: 100,
        tripped: scene.tripped.to_vec(),
        healthy: scene.unhealthy.map(|one| !one || shard == 0).to_vec(),
    }
}

fn reply(scene: &Mutex<Scene>, shard: usize, mail: Mail) -> Option<(u64, Answer)> {
    let mut scene = scene.lock().unwrap();
    if scene.silent == Some(shard) {
        return None;
    }
    let has = |id: u128| rows(shard).iter().any(|(_, row)| row.id == id);
    match mail {
        Mail::Count { ticket } => {
            scene.counted += 1;
            let snapshot = snapshot(shard, &scene);
            Some((ticket, Answer::Snapshot(Box::new(snapshot))))
        }
        Mail::List { ticket, filter } => Some((ticket, page(shard, &filter))),
        Mail::MoveSession { ticket, id, .. } | Mail::AbortSession { ticket, id, .. } => {
            scene.told.push(format!("{shard} session {id}"));
            Some((ticket, Answer::Done(has(id))))
        }
        Mail::Reset { server } => {
            scene.tripped[usize::from(server)] = false;
            scene.told.push(format!("{shard} reset {server}"));
            None
        }
        other => {
            scene.told.push(format!("{shard} {other:?}"));
            None
        }
    }
}

impl Stand {
    fn new(token: Option<&str>, annex: Option<Arc<dyn Annex>>) -> Stand {
        Stand::built(token, annex, |_| {})
    }

    fn built(
        token: Option<&str>,
        annex: Option<Arc<dyn Annex>>,
        change: impl FnOnce(&mut Desk),
    ) -> Stand {
        let (post, mails) = mpsc::channel::<(usize, Mail)>();
        let post = Mutex::new(post);
        let send = move |shard, mail| drop(post.lock().unwrap().send((shard, mail)));
        let board = Arc::new(Switchboard::new(2, Box::new(send)).unwrap());
        let scene = Arc::<Mutex<Scene>>::default();
        let (theirs, shards) = (Arc::clone(&scene), Arc::downgrade(&board));
        thread::spawn(move || {
            for (shard, mail) in mails {
                if let Some((ticket, answer)) = reply(&theirs, shard, mail)
                    && let Some(board) = shards.upgrade()
                {
                    board.answer(ticket, answer);
                }
            }
        });
        let mut desk = Desk::new(board, fleet(), 1 << 20, recruiter(&["chat", "game"]));
        change(&mut desk);
        let desk = Arc::new(desk);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = serve(listener, Arc::clone(&desk), token.map(String::from), annex).unwrap();
        Stand {
            address: server.address().unwrap(),
            desk,
            server: Some(server),
            scene,
        }
    }

    fn told(&self) -> Vec<String> {
        // Changes are mailed and not waited for; a question stands behind them in the same box.
        self.get("/metrics");
        std::mem::take(&mut self.scene.lock().unwrap().told)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(8)))
            .unwrap();
        stream
    }

    /// One request with a right Host unless the lines name one.
    fn ask(&self, line: &str, lines: &[&str], body: &str) -> Got {
        let mut stream = self.connect();
        stream
            .write_all(self.text(line, lines, body).as_bytes())
            .unwrap();
        Got::read(&mut stream, line.starts_with("HEAD")).unwrap()
    }

    fn text(&self, line: &str, lines: &[&str], body: &str) -> String {
        let mut text = format!("{line} HTTP/1.1\r\n");
        let starts = |name: &str| lines.iter().any(|line| line.starts_with(name));
        if !starts("Host:") {
            text += &format!("Host: {}\r\n", self.address);
        }
        if !body.is_empty() {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        for line in lines {
            text += &format!("{line}\r\n");
        }
        text + "\r\n" + body
    }

    fn get(&self, path: &str) -> Got {
        self.ask(&format!("GET {path}"), &[], "")
    }

    fn change(&self, line: &str, body: &str) -> Got {
        let lines: &[&str] = if body.is_empty() { &[] } else { &[JSON] };
        self.ask(line, lines, body)
    }
}

const JSON: &str = "Content-Type: application/json";

#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    fn read(stream: &mut impl Read, bodiless: bool) -> std::io::Result<Got> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut got = Got {
            status: head[9..12].parse().unwrap(),
            head,
            body: String::new(),
        };
        if got.header("Transfer-Encoding") == Some("chunked") {
            while !bodiless && got.read_chunk(stream)? {}
            return Ok(got);
        }
        let length = got.header("Content-Length").unwrap().parse().unwrap();
        let mut body = vec![0; if bodiless { 0 } else { length }];
        stream.read_exact(&mut body)?;
        got.body = String::from_utf8(body).unwrap();
        Ok(got)
    }

    /// False: it was the last.
    fn read_chunk(&mut self, stream: &mut impl Read) -> std::io::Result<bool> {
        let mut size = Vec::new();
        while !size.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            size.push(byte[0]);
        }
        let size = std::str::from_utf8(&size[..size.len() - 2]).unwrap();
        let mut chunk = vec![0; usize::from_str_radix(size, 16).unwrap() + 2];
        stream.read_exact(&mut chunk)?;
        let text = std::str::from_utf8(&chunk).unwrap();
        self.body += text.strip_suffix("\r\n").unwrap();
        Ok(chunk.len() > 2)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let start = format!("{name}: ");
        self.head
            .split("\r\n")
            .find_map(|line| line.strip_prefix(&start))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_string()
    }
}

#[test]
fn reading_routes_answer() {
    let stand = Stand::new(None, None);
    let rows = [
        ("/healthz", 200, "text/plain; charset=utf-8", "ok"),
        ("/readyz", 200, "text/plain; charset=utf-8", "ready"),
        (
            "/metrics",
            200,
            "text/plain; version=0.0.4; charset=utf-8",
            "wsteady_",
        ),
        ("/", 200, "text/html; charset=utf-8", "<!doctype html>"),
        ("/v1/stats", 200, "application/json", "\"active\":14"),
        ("/v1/pools", 200, "application/json", "\"name\":\"chat\""),
        ("/v1/servers", 200, "application/json", "\"id\":\"b@::1\""),
        ("/v1/servers/a", 200, "application/json", "\"sessions\":6"),
        (
            "/v1/servers/b%40%3A%3a1",
            200,
            "application/json",
            "\"id\":\"b@::1\"",
        ),
        ("/v1/servers/zz", 404, "application/json", "no server"),
        ("/v1/servers/", 404, "application/json", "no such route"),
        ("/v1/sessions", 200, "application/json", "\"next\":null"),
        (
            "/dashboard",
            200,
            "text/html; charset=utf-8",
            "<!doctype html>",
        ),
        ("/dashboard.css", 200, "text/css; charset=utf-8", ":root"),
        (
            "/dashboard.js",
            200,
            "text/javascript; charset=utf-8",
            "\"use strict\"",
        ),
        ("/v1/openapi.json", 200, "application/json", "\"openapi\""),
        (
            "/debug/pprof/heap",
            404,
            "application/json",
            "allocator is not wsteady's",
        ),
        ("/backend/list", 200, "application/json", "\"tripped\""),
        ("/backend/lists", 404, "application/json", "\"failed\""),
        ("/nothing", 404, "application/json", "no such route"),
    ];
    for (path, status, kind, part) in rows {
        let got = stand.get(path);
        assert_eq!(got.status, status, "{path}: {got:?}");
        assert_eq!(got.header("Content-Type"), Some(kind), "{path}");
        assert!(got.body.contains(part), "{path}: {got:?}");
        let head = stand.ask(&format!("HEAD {path}"), &[], "");
        assert_eq!((head.status, head.body.as_str()), (status, ""), "{path}");
    }
    assert!(stand.told().is_empty(), "reading changes nothing");
}

#[test]
fn servers_and_stats_have_the_documented_fields() {
    let stand = Stand::new(None, None);
    stand.scene.lock().unwrap().tripped[2] = true;
    let servers = stand.get("/v1/servers").json();
    let [a, c] = [&servers["servers"][0], &servers["servers"][2]];
    let fields = [
        "id",
        "pool",
        "url",
        "state",
        "weight",
        "healthy",
        "breaker",
        "sessions",
        "sessions_total",
    ];
    assert!(fields.iter().all(|field| !a[field].is_null()), "{a}");
    assert_eq!(
        (&a["healthy"], &a["breaker"]),
        (&json!(true), &json!("closed"))
    );
    assert_eq!(
        (&c["healthy"], &c["breaker"]),
        (&json!(true), &json!("open")),
        "nothing was probed"
    );
    let stats = stand.get("/v1/stats").json();
    assert_eq!(stats["messages"]["up"], 18);
    assert_eq!(stats["messages"]["unconfirmed"], 4);
    assert_eq!(stats["connections"]["denied"]["503"], 4);
    assert_eq!(stats["hold_seconds"]["count"], 2);
    assert_eq!(stats["loops"].as_array().unwrap().len(), 2);
    assert_eq!(stand.get("/v1/pools").json()["pools"][1]["usable"], 0);
}

#[test]
fn changes_reach_all_shards_and_are_idempotent() {
    let stand = Stand::new(None, None);
    let id = "00000000000000000000000000000012";
    let (end, back) = (
        format!("/v1/sessions/{id}"),
        format!("/v1/sessions/{id}/failover"),
    );
    let (end, back) = (format!("DELETE {end}"), format!("POST {back}"));
    let rows: &[(&str, &str, &str, &[&str])] = &[
        (
            "PATCH /v1/servers/a",
            r#"{"state":"draining"}"#,
            r#""state":"draining""#,
            &["State { server: 0, state: Draining }"],
        ),
        (
            "PATCH /v1/servers/a",
            r#"{"weight":7.0,"state":"enabled"}"#,
            r#""weight":7,"#,
            &[
                "Weight { server: 0, weight: 7 }",
                "State { server: 0, state: Enabled }",
            ],
        ),
        (
            "POST /v1/servers/c/failover",
            "",
            r#""id":"c""#,
            &["FailOver { server: 2 }"],
        ),
        (
            "POST /v1/servers/c/failover",
            "{}",
            r#""id":"c""#,
            &["FailOver { server: 2 }"],
        ),
        (
            "POST /v1/servers/c/reset",
            "",
            r#""breaker":"closed""#,
            &["reset 2"],
        ),
        (
            "POST /v1/accept",
            r#"{"paused":true}"#,
            r#""paused":true"#,
            &["Accepting(false)"],
        ),
        (
            "POST /v1/accept",
            r#"{"paused":false}"#,
            r#""paused":false"#,
            &["Accepting(true)"],
        ),
        (&end, "", r#""aborted":true"#, &["session 18"]),
        (&back, "", r#""moving":true"#, &["session 18"]),
    ];
    stand.scene.lock().unwrap().tripped[2] = true;
    for (line, body, part, told) in rows {
        // Twice, with the same outcome: a script may repeat what it is not sure of.
        for _ in 0..2 {
            let got = stand.change(line, body);
            assert_eq!(got.status, 200, "{line}: {got:?}");
            assert!(got.body.contains(part), "{line}: {got:?}");
            let mut mails = stand.told();
            mails.sort_by_key(|mail| mail.as_bytes()[0]);
            let wanted = ["0", "1"]
                .iter()
                .flat_map(|shard| told.iter().map(move |mail| format!("{shard} {mail}")));
            assert_eq!(mails, wanted.collect::<Vec<_>>(), "{line}");
        }
    }
    let fleet = stand.desk.fleet();
    assert_eq!(fleet.servers[0].weight, 7);
    assert_eq!(fleet.servers[0].state, ServerState::Enabled);
}

#[test]
fn what_is_wrong_is_named_and_changes_nothing() {
    let stand = Stand::new(None, None);
    let rows = [
        (
            "PATCH /v1/servers/a",
            r#"{"stat":"enabled"}"#,
            400,
            "\"stat\"",
        ),
        (
            "PATCH /v1/servers/a",
            r#"{"state":"gone"}"#,
            400,
            "\"state\"",
        ),
        (
            "PATCH /v1/servers/a",
            r#"{"state":3,"weight":1}"#,
            400,
            "\"state\"",
        ),
        (
            "PATCH /v1/servers/a",
            r#"{"state":"disabled","weight":-1}"#,
            400,
            "\"weight\"",
        ),
        (
            "PATCH /v1/servers/a",
            r#"{"state":"disabled","weight":1.5}"#,
            400,
            "\"weight\"",
        ),
        (
            "PATCH /v1/servers/a",
            r#"{"weight":65536}"#,
            400,
            "\"weight\"",
        ),
        ("PATCH /v1/servers/a", "{}", 400, "needed"),
        ("PATCH /v1/servers/a", "", 400, "needed"),
        ("PATCH /v1/servers/a", "[1]", 400, "object"),
        ("PATCH /v1/servers/a", "{", 400, "not JSON"),
        ("PATCH /v1/servers/zz", r#"{"weight":1}"#, 404, "\"zz\""),
        ("POST /v1/servers/zz/failover", "", 404, "\"zz\""),
        ("POST /v1/servers/a/reset", r#"{"now":1}"#, 400, "\"now\""),
        ("POST /v1/accept", r#"{"paused":1}"#, 400, "\"paused\""),
        ("POST /v1/accept", "", 400, "\"paused\""),
        ("POST /v1/accept", r#"{"paused":true,"x":1}"#, 400, "\"x\""),
        ("DELETE /v1/sessions/7", "", 404, "\"7\""),
        (
            "DELETE /v1/sessions/+0000000000000000000000000000012",
            "",
            404,
            "no session",
        ),
        ("POST /v1/servers", "", 400, "\"pool\" is needed"),
        ("POST /v1/servers", r#"{"url":"ws://h"}"#, 400, "\"pool\""),
        (
            "POST /v1/servers",
            r#"{"pool":"chat","url":""}"#,
            400,
            "\"url\"",
        ),
        (
            "POST /v1/servers",
            r#"{"pool":"chat","url":"ws://10.0.0.1","id":7}"#,
            400,
            "\"id\"",
        ),
        (
            "POST /v1/servers",
            r#"{"pool":"x","url":"ws://10.0.0.1"}"#,
            400,
            "chat, game",
        ),
        (
            "POST /v1/servers",
            r#"{"pool":"chat","url":"http://10.0.0.1"}"#,
            400,
            "ws://",
        ),
        (
            "POST /v1/servers",
            r#"{"pool":"chat","url":"ws://10.0.0.1","id":"a b"}"#,
            400,
            "a b",
        ),
        (
            "POST /v1/servers",
            r#"{"pool":"chat","url":"ws://10.0.0.1","weight":65536}"#,
            400,
            "weight",
        ),
        (
            "POST /v1/servers",
            r#"{"pool":"chat","url":"ws://10.0.0.1","id":"a"}"#,
            409,
            "id a",
        ),
        (
            "POST /v1/servers",
            r#"{"pool":"game","url":"ws://127.0.0.1:9001","id":"a"}"#,
            409,
            "id a",
        ),
        (
            "POST /v1/servers",
            r#"{"pool":"chat","url":"ws://127.0.0.1:9001","id":"a","weight":2}"#,
            409,
            "weight 1",
        ),
        (
            "POST /v1/servers",
            r#"{"pool":"chat","url":"ws://nowhere:1"}"#,
            422,
            "nowhere",
        ),
        ("DELETE /v1/servers/zz", "", 404, "\"zz\""),
        ("DELETE /v1/servers/a", r#"{"now":1}"#, 400, "\"now\""),
        ("GET /v1/sessions?limit=0", "", 400, "limit"),
        ("GET /v1/sessions?limit=1001", "", 400, "limit"),
        ("GET /v1/sessions?state=asleep", "", 400, "asleep"),
        ("GET /v1/sessions?after=9.0", "", 400, "cursor"),
        ("GET /v1/sessions?after=x", "", 400, "cursor"),
        ("GET /v1/sessions?server=zz", "", 404, "zz"),
        ("GET /v1/sessions?limits=1", "", 400, "limits"),
        ("GET /v1/sessions?limit=1&limit=2", "", 400, "twice"),
        ("GET /v1/sessions?state=%ff", "", 400, "UTF-8"),
        ("GET /v1/servers?state=enabled", "", 400, "\"state\""),
        ("DELETE /v1/servers/a?force=1", "", 400, "\"force\""),
    ];
    for (line, body, status, part) in rows {
        let got = stand.change(line, body);
        assert_eq!(got.status, status, "{line} {body}: {got:?}");
        assert!(got.error().contains(part), "{line} {body}: {got:?}");
    }
    // Nobody has it: all are asked, none acts.
    let got = stand.change("DELETE /v1/sessions/000000000000000000000000000000ff", "");
    assert_eq!(got.status, 404, "{got:?}");
    assert_eq!(stand.told(), ["0 session 255", "1 session 255"]);
    let fleet = stand.desk.fleet();
    assert_eq!(fleet.servers[0].state, ServerState::Enabled);
    assert_eq!(fleet.servers[0].weight, 1);
}

#[test]
fn a_wrong_method_is_405_and_says_which_are_right() {
    let stand = Stand::new(None, None);
    let rows = [
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/metrics", "GET, HEAD"),
        ("PUT", "/v1/servers/a", "GET, HEAD, PATCH, DELETE"),
        ("POST", "/v1/sessions", "GET, HEAD"),
        ("PATCH", "/v1/sessions/0", "GET, HEAD, DELETE"),
        // Changes never by GET: an image in a page could send it.
        ("GET", "/v1/servers/a/failover", "POST"),
        ("GET", "/v1/servers/a/reset", "POST"),
        ("GET", "/v1/sessions/0/failover", "POST"),
        ("GET", "/v1/accept", "POST"),
        ("OPTIONS", "/v1/accept", "POST"),
        ("get", "/healthz", "GET, HEAD"),
        ("TRACE", "/", "GET, HEAD"),
    ];
    for (method, path, allow) in rows {
        let got = stand.ask(&format!("{method} {path}"), &[], "");
        assert_eq!(got.status, 405, "{method} {path}: {got:?}");
        assert_eq!(got.header("Allow"), Some(allow), "{method} {path}");
    }
    assert!(stand.told().is_empty());
}

#[test]
fn s01_v41_what_a_foreign_page_can_send_is_refused_and_changes_nothing() {
    let stand = Stand::new(None, None);
    let own = format!("Origin: http://{}", stand.address);
    let port = stand.address.port();
    let own_name = [
        format!("Host: localhost:{port}"),
        format!("Origin: http://LOCALHOST:{port}"),
    ];
    let other_port = format!("Origin: http://127.0.0.1:{}", port.wrapping_add(1));
    let rows: &[(&[&str], u16)] = &[
        // The page's own name led to us: DNS rebinding.
        (&["Host: evil.example", JSON], 421),
        (
            &["Host: evil.example:80", "Origin: http://evil.example", JSON],
            421,
        ),
        (&["Host: 127.0.0.1.evil.example", JSON], 421),
        (&["Host: localhost.evil.example", JSON], 421),
        (&["Host: 0x7f000001", JSON], 421),
        (&["Origin: http://evil.example", JSON], 403),
        (&["Origin: null", JSON], 403),
        (&[&other_port, JSON], 403),
        (&[&own, "Origin: http://evil.example", JSON], 403),
        (&["Origin: ftp://127.0.0.1", JSON], 403),
        // What a form may send without asking first.
        (&["Content-Type: text/plain"], 415),
        (&["Content-Type: application/x-www-form-urlencoded"], 415),
        (&["Content-Type: multipart/form-data; boundary=x"], 415),
        (&["Content-Type: text/plain; application/json"], 415),
        (&["Content-Type: text/plain", JSON], 415),
        (&[], 415),
        // And what its own pages and an operator's tools send.
        (&[&own, JSON], 200),
        (&["Host: [::1]:8081", JSON], 200),
        (&[&own_name[0], &own_name[1], JSON], 200),
        (&["Content-Type: Application/JSON ; charset=utf-8"], 200),
    ];
    for (lines, status) in rows {
        let got = stand.ask("POST /v1/accept", lines, r#"{"paused":true}"#);
        assert_eq!(got.status, *status, "{lines:?}: {got:?}");
        let told = stand.told();
        assert_eq!(
            told.len(),
            if *status == 200 { 2 } else { 0 },
            "{lines:?}: {told:?}"
        );
        if *status != 200 {
            assert!(!got.error().is_empty());
            // A foreign page must not read either.
            assert_eq!(got.header("Access-Control-Allow-Origin"), None);
        }
    }
    let lines = ["Host: evil.example"];
    assert_eq!(stand.ask("GET /v1/sessions", &lines, "").status, 421);
    let lines = ["Origin: http://evil.example"];
    assert_eq!(
        stand.ask("POST /v1/servers/a/failover", &lines, "").status,
        403
    );
    // A chunked body has no length, but is one.
    let lines = ["Transfer-Encoding: chunked"];
    let got = stand.ask("POST /v1/servers/a/failover", &lines, "");
    assert_eq!(got.status, 415);
    assert!(stand.told().is_empty());
    let page = stand.get("/");
    let policy = page.header("Content-Security-Policy").unwrap();
    assert!(policy.contains("frame-ancestors 'none'"));
    assert!(!policy.contains("unsafe"), "{policy}");
}

#[test]
fn s02_the_token_is_needed_by_all_but_the_checks_of_health() {
    let stand = Stand::new(Some("sesame-1"), None);
    let right = "Authorization: Bearer sesame-1";
    let rows: &[(&str, &[&str], u16)] = &[
        ("/v1/stats", &[], 401),
        // The dashboard asks for the token itself; its files are no secret.
        ("/", &[], 200),
        ("/dashboard.js", &[], 200),
        ("/v1/events", &[], 401),
        ("/metrics", &[], 401),
        ("/nothing", &[], 401),
        ("//healthz", &[], 401),
        ("/v1/stats", &["Authorization: Bearer sesame-2"], 401),
        ("/v1/stats", &["Authorization: Bearer sesame-11"], 401),
        ("/v1/stats", &["Authorization: Bearer sesame-"], 401),
        ("/v1/stats", &["Authorization: Bearer "], 401),
        ("/v1/stats", &["Authorization: Bearersesame-1"], 401),
        ("/v1/stats", &["Authorization: Basic sesame-1"], 401),
        ("/v1/stats", &["Authorization: sesame-1"], 401),
        ("/v1/stats", &[right, right], 401),
        ("/v1/stats", &[right], 200),
        ("/v1/stats", &["authorization: bearer  sesame-1"], 200),
        // In a URL it would stay in histories and logs.
        ("/v1/stats?token=sesame-1", &[], 401),
        ("/v1/stats?token=sesame-1", &[right], 400),
        ("/v1/stats?a=1&access_token=sesame-1", &[right], 400),
        ("/v1/stats?%74oken=sesame-1", &[right], 400),
        ("/healthz", &[], 200),
        ("/readyz", &[], 200),
    ];
    for (path, lines, status) in rows {
        let got = stand.ask(&format!("GET {path}"), lines, "");
        assert_eq!(got.status, *status, "{path} {lines:?}: {got:?}");
        assert!(!got.body.contains("sesame"), "{got:?}");
        let challenge = got.header("WWW-Authenticate");
        assert_eq!(challenge, (*status == 401).then_some("Bearer"));
    }
    // The token goes first: who hasn't got it learns nothing of what is wrong else.
    let got = stand.ask("POST /v1/accept", &["Content-Type: text/plain"], "x");
    assert_eq!(got.status, 401);
}

#[test]
fn s02_comparing_takes_as_long_for_an_early_difference_as_for_a_late_one() {
    let wanted = vec![b'x'; 16 * 1024];
    let differing = |at: usize| {
        let mut given = wanted.clone();
        given[at] = b'y';
        given
    };
    let time = |given: &[u8]| {
        let mut times: Vec<Duration> = (0..1_000)
            .map(|_| {
                let begun = Instant::now();
                assert!(!guard::is_same_secret(std::hint::black_box(given), &wanted));
                begun.elapsed()
            })
            .collect();
        times.sort();
        times[500]
    };
    let (early, late) = (time(&differing(0)), time(&differing(16 * 1024 - 1)));
    // One that stops at the first difference is a thousand times faster there.
    assert!(late < early * 4 && early < late * 4, "{early:?} {late:?}");
    assert!(guard::is_same_secret(&wanted, &wanted));
    assert!(
        !guard::is_same_secret(b"", b""),
        "an empty token lets nobody in"
    );
}

#[test]
fn s03_a_path_that_only_looks_like_a_route_is_none() {
    let stand = Stand::new(None, None);
    for path in [
        "/admin",
        "//metrics",
        "/%6detrics",
        "/metrics/",
        "/./metrics",
        "/v1//stats",
        "//",
        "/v1/../metrics",
        "/METRICS",
    ] {
        let got = stand.get(path);
        assert_eq!(got.status, 404, "{path}: {got:?}");
    }
}

#[test]
fn sessions_come_in_pages_over_all_shards_each_once() {
    let stand = Stand::new(None, None);
    let all = |query: &str| {
        let (mut ids, mut after, mut pages) = (Vec::new(), None::<String>, 0);
        loop {
            let cursor = after.map_or(String::new(), |after| format!("&after={after}"));
            let page = stand.get(&format!("/v1/sessions?{query}{cursor}")).json();
            for session in page["sessions"].as_array().unwrap() {
                ids.push(session["id"].as_str().unwrap().to_string());
            }
            pages += 1;
            assert!(pages < 20);
            match page["next"].as_str() {
                Some(next) => after = Some(next.to_string()),
                None => return (ids, pages),
            }
        }
    };
    let ids = |numbers: &[u128]| -> Vec<String> {
        numbers
            .iter()
            .map(|number| format!("{number:032x}"))
            .collect()
    };
    let every = ids(&[0, 1, 2, 3, 4, 16, 17, 18, 19, 20]);
    for limit in [1, 2, 3, 4, 5, 7, 9] {
        let (found, pages) = all(&format!("limit={limit}"));
        assert_eq!(found, every, "limit {limit}");
        assert!(pages >= 10 / limit, "limit {limit}: {pages} pages");
    }
    assert_eq!(all("limit=1000"), (every, 1));
    assert_eq!(all("state=held").0, ids(&[1, 3, 17, 19]));
    assert_eq!(all("server=b%40::1&limit=1").0, ids(&[1, 3, 17, 19]));
    assert_eq!(all("server=c").0, ids(&[]));

    let one = stand
        .get("/v1/sessions/00000000000000000000000000000013")
        .json();
    assert_eq!(one["id"], "00000000000000000000000000000013");
    assert_eq!(one["state"], "held");
    assert_eq!(
        (&one["pool"], &one["server"]),
        (&json!("chat"), &json!("b@::1"))
    );
    assert_eq!(one["path"], "/<script>\"&");
    assert_eq!(one["client"], "127.0.0.1:40003");
    assert!(one["opened"].as_str().unwrap().ends_with('Z'), "{one}");
    for (field, number) in [("failovers", 3), ("messages_up", 3), ("messages_down", 4)] {
        assert_eq!(one[field], number);
    }
    assert_eq!(one["journal_bytes"], 5);
    assert_eq!(
        stand
            .get("/v1/sessions/00000000000000000000000000000099")
            .status,
        404
    );
}

#[test]
fn ready_only_while_each_pool_has_a_usable_server() {
    let stand = Stand::new(None, None);
    let patch = |id: &str, body: &str| {
        assert_eq!(
            stand
                .change(&format!("PATCH /v1/servers/{id}"), body)
                .status,
            200
        );
    };
    let ready = || {
        let got = stand.get("/readyz");
        (got.status, got.body)
    };
    let no = |pool: &str| (503, format!("pool {pool} has no usable server\n"));
    assert_eq!(ready(), (200, "ready\n".to_string()));
    patch("a", r#"{"state":"disabled"}"#);
    assert_eq!(ready().0, 200);
    patch("b@::1", r#"{"weight":0}"#);
    assert_eq!(ready(), no("chat"));
    patch("a", r#"{"state":"enabled"}"#);
    stand.scene.lock().unwrap().tripped[2] = true;
    assert_eq!(ready(), no("game"));
    stand.scene.lock().unwrap().tripped[2] = false;
    assert_eq!(ready().0, 200);
    // The second loop has learnt it already.
    stand.scene.lock().unwrap().unhealthy[2] = true;
    assert_eq!(ready(), no("game"));
    let rows = stand.get("/v1/servers").json();
    let healthy = [0, 2].map(|row| rows["servers"][row]["healthy"].clone());
    assert_eq!(healthy, [true, false]);
    assert_eq!(rows["servers"][2]["breaker"], "closed");
    let up = "wsteady_server_up{pool=\"game\",server=\"c\"} 0\n";
    assert!(stand.get("/metrics").body.contains(up));
    stand.scene.lock().unwrap().unhealthy[2] = false;
    assert_eq!(ready().0, 200);
    stand.desk.set_draining();
    assert_eq!(ready(), (503, "draining\n".to_string()));
    assert_eq!(stand.get("/healthz").status, 200, "alive all the same");
}

#[test]
fn a_silent_shard_makes_an_error_not_half_a_sum() {
    let stand = Stand::new(None, None);
    stand.scene.lock().unwrap().silent = Some(1);
    thread::scope(|scope| {
        for (path, status) in [
            ("GET /metrics", 503),
            ("GET /v1/stats", 503),
            ("GET /readyz", 503),
            ("GET /healthz", 200),
            ("GET /v1/sessions", 503),
            ("GET /v1/sessions/00000000000000000000000000000002", 200),
            // It may be there or not: "no such session" would be a guess.
            ("DELETE /v1/sessions/00000000000000000000000000000012", 503),
            ("DELETE /v1/sessions/00000000000000000000000000000002", 200),
            // A change is made in any case, and shown without numbers.
            ("POST /v1/servers/a/failover", 200),
        ] {
            let stand = &stand;
            scope.spawn(move || {
                let got = stand.ask(path, &[], "");
                assert_eq!(got.status, status, "{path}: {got:?}");
                if path.ends_with("failover") {
                    assert!(got.json()["sessions"].is_null(), "{got:?}");
                }
            });
        }
    });
}

#[test]
fn a_connection_takes_one_request_after_another_however_it_is_cut() {
    let stand = Stand::new(None, None);
    let mut stream = stand.connect();
    let patch = stand.text("PATCH /v1/servers/a", &[JSON], r#"{"weight":3}"#);
    let chunked = stand.text(
        "PATCH /v1/servers/a",
        &[JSON, "Transfer-Encoding: chunked"],
        "",
    );
    let chunked = format!("{chunked}4\r\n{{\"we\r\n9\r\night\":5 }}\r\n0\r\n\r\n");
    let get = stand.text("GET /healthz", &["Connection: close"], "");
    let all = format!("{patch}{chunked}{get}");
    for piece in all.as_bytes().chunks(37) {
        stream.write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(Got::read(&mut stream, false).unwrap().json()["weight"], 3);
    let second = Got::read(&mut stream, false).unwrap();
    assert_eq!(second.json()["weight"], 5);
    assert_eq!(second.header("Connection"), Some("keep-alive"));
    let third = Got::read(&mut stream, false).unwrap();
    assert_eq!(
        (third.body.as_str(), third.header("Connection")),
        ("ok\n", Some("close"))
    );
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "closed as asked");
}

#[test]
fn limits_hold() {
    let stand = Stand::new(None, None);
    let long = format!("X: {}", "x".repeat(20 << 10));
    assert_eq!(stand.ask("GET /healthz", &[&long], "").status, 431);
    let body = "x".repeat((1 << 20) + 1);
    assert_eq!(stand.ask("POST /v1/accept", &[JSON], &body).status, 413);
    let mut stream = stand.connect();
    let text = stand.text("POST /v1/accept", &[JSON, "Transfer-Encoding: chunked"], "");
    stream.write_all(text.as_bytes()).unwrap();
    stream
        .write_all(format!("{:x}\r\n{body}\r\n", body.len()).as_bytes())
        .unwrap();
    assert_eq!(Got::read(&mut stream, false).unwrap().status, 413);
    for text in [
        "GARBAGE\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
    ] {
        let mut stream = stand.connect();
        stream.write_all(text.as_bytes()).unwrap();
        assert_eq!(
            Got::read(&mut stream, false).unwrap().status,
            400,
            "{text:?}"
        );
    }
    // Who asks before sending is told to go on.
    let mut stream = stand.connect();
    let lines = [JSON, "Content-Length: 2", "Expect: 100-continue"];
    let text = stand.text("POST /v1/accept", &lines, "");
    stream.write_all(text.as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").unwrap();
    assert_eq!(Got::read(&mut stream, false).unwrap().status, 400);
}

#[test]
fn beyond_64_connections_there_is_503_until_one_ends() {
    let stand = Stand::new(None, None);
    let mut guests: Vec<TcpStream> = (0..server::CONNECTIONS_MAX)
        .map(|_| {
            let mut stream = stand.connect();
            let text = stand.text("GET /healthz", &[], "");
            stream.write_all(text.as_bytes()).unwrap();
            assert_eq!(Got::read(&mut stream, false).unwrap().status, 200);
            stream
        })
        .collect();
    let mut excess = stand.connect();
    assert_eq!(Got::read(&mut excess, false).unwrap().status, 503);
    drop((guests.pop(), excess));
    let deadline = Instant::now() + Duration::from_secs(5);
    while stand.get("/healthz").status != 200 {
        assert!(Instant::now() < deadline, "the place is not given back");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn stopping_ends_connections_and_frees_the_port() {
    let mut stand = Stand::new(None, None);
    let mut idle = stand.connect();
    idle.write_all(stand.text("GET /healthz", &[], "").as_bytes())
        .unwrap();
    assert_eq!(Got::read(&mut idle, false).unwrap().status, 200);
    let begun = Instant::now();
    stand.server.take().unwrap().stop();
    assert!(
        begun.elapsed() < Duration::from_millis(2_500),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(idle.read(&mut [0; 8]).unwrap(), 0);
    let refused = TcpStream::connect(stand.address).is_err();
    assert!(refused || TcpListener::bind(stand.address).is_ok());
}

struct Greeter;

impl Annex for Greeter {
    fn handle(&self, request: &Request) -> Option<Response> {
        match request.path.as_str() {
            "/" => Some(Response::html("<p>mine".to_string())),
            "/demo/echo" => Some(Response::json(
                200,
                json!({
                    "method": request.method,
                    "query": request.query,
                    "agent": request.header("user-agent"),
                    "body": String::from_utf8_lossy(&request.body),
                }),
            )),
            _ => None,
        }
    }
}

#[test]
fn an_annex_is_asked_first_and_behind_the_same_guard() {
    let stand = Stand::new(None, Some(Arc::new(Greeter)));
    assert_eq!(stand.get("/").body, "<p>mine");
    assert_eq!(stand.get("/healthz").body, "ok\n");
    let lines = [JSON, "User-Agent: t"];
    let got = stand.ask("POST /demo/echo?a=b", &lines, "[1]").json();
    let wanted = json!({ "method": "POST", "query": "a=b", "agent": "t", "body": "[1]" });
    assert_eq!(got, wanted);
    let lines = ["Origin: http://evil.example"];
    assert_eq!(stand.ask("POST /demo/echo", &lines, "").status, 403);
}

#[test]
fn openmetrics_comes_if_asked_for() {
    let stand = Stand::new(None, None);
    let lines = ["Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5"];
    let got = stand.ask("GET /metrics", &lines, "");
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(got.header("Content-Type"), Some(kind));
    assert!(got.body.ends_with("# EOF\n"));
    assert!(!stand.get("/metrics").body.contains("# EOF"));
}

#[test]
fn servers_are_added_and_removed() {
    let stand = Stand::new(None, None);
    let add = |body: &str| stand.change("POST /v1/servers", body);
    let ids = |got: &Got| -> Vec<String> {
        let rows = got.json()["servers"].as_array().unwrap().clone();
        rows.iter()
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let body = r#"{"pool":"game","url":"ws://10.0.0.9:80/x","weight":3}"#;
    let got = add(body);
    assert_eq!(
        (got.status, ids(&got)),
        (201, vec!["10-0-0-9-80".to_owned()])
    );
    let row = &got.json()["servers"][0];
    assert_eq!(
        (row["pool"].as_str(), row["weight"].as_u64()),
        (Some("game"), Some(3))
    );
    assert_eq!(row["state"], "enabled");
    // Its home is the last to hear of it: number 3 of two shards.
    let joined = |told: Vec<String>| -> Vec<String> {
        let joined = told.into_iter().filter(|one| one.contains("Join"));
        joined.map(|one| one.chars().take(20).collect()).collect()
    };
    assert_eq!(
        joined(stand.told()),
        ["0 Join { server: 3, ", "1 Join { server: 3, "]
    );
    // Once more is no mistake, and nothing happens.
    let got = add(body);
    assert_eq!(
        (got.status, ids(&got)),
        (200, vec!["10-0-0-9-80".to_owned()])
    );
    assert!(joined(stand.told()).is_empty());
    // The same host in another pool: the id says which.
    let got = add(r#"{"pool":"chat","url":"ws://10.0.0.9:80/x"}"#);
    assert_eq!(
        (got.status, ids(&got)),
        (201, vec!["chat.10-0-0-9-80".to_owned()])
    );
    let got = add(r#"{"pool":"chat","url":"ws://twins:80","id":"t"}"#);
    assert_eq!(
        (got.status, ids(&got)),
        (201, vec!["t@10.0.0.1".to_owned(), "t@10.0.0.2".to_owned()])
    );
    let got = add(r#"{"pool":"chat","url":"ws://twins:80","id":"t"}"#);
    assert_eq!((got.status, ids(&got).len()), (200, 2));
    stand.told();
    let got = stand.change("DELETE /v1/servers/10-0-0-9-80", "");
    assert_eq!(
        (got.status, got.json()["state"].as_str()),
        (200, Some("gone"))
    );
    let gone = [
        "0 State { server: 3, state: Gone }",
        "1 State { server: 3, state: Gone }",
    ];
    assert_eq!(stand.told(), gone);
    assert_eq!(
        stand.change("DELETE /v1/servers/10-0-0-9-80", "").status,
        404
    );
    assert_eq!(stand.get("/v1/servers/10-0-0-9-80").status, 404);
    // Its id is free again, and means another server.
    assert_eq!(add(body).status, 201);
    assert_eq!(
        joined(stand.told()),
        ["0 Join { server: 7, ", "1 Join { server: 7, "]
    );
}

#[test]
fn a_program_gets_what_the_api_answers() {
    let stand = Stand::new(None, None);
    let desk = &stand.desk;
    let all = || Sessions::new(Arc::clone(desk));
    let ids: Vec<String> = all().map(|one| one.unwrap().id).collect();
    let listed = stand.get("/v1/sessions?limit=1000").json();
    let listed = listed["sessions"].as_array().unwrap().iter();
    let listed: Vec<String> = listed
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!((ids.len(), &ids), (10, &listed));
    let first = all().next().unwrap().unwrap();
    let names = (first.pool.as_deref(), first.server.as_deref());
    assert_eq!(
        (names, first.state),
        ((Some("chat"), Some("a")), Phase::Open)
    );
    let totals = desk.totals().unwrap();
    assert_eq!((totals.opened, totals.closed, totals.live), (20, 6, 14));
    assert_eq!((totals.messages_up, totals.messages_down), (18, 8));
    assert_eq!(
        totals.messages_up,
        totals.confirmed + totals.unconfirmed + totals.journaled
    );
    let server = &desk.servers().unwrap()[0];
    assert_eq!((&*server.id, server.sessions), ("a", 6));
    let heavy = Change {
        weight: Some(65_536),
        ..Change::default()
    };
    assert!(matches!(desk.change("a", heavy), Err(Refusal::Wrong(_))));
    // Many ids are not all named.
    let many = (10..20).map(|port| Recruit {
        pool: "chat".to_string(),
        url: format!("ws://10.0.0.1:{port}"),
        ..Recruit::default()
    });
    many.for_each(|wanted| drop(desk.add(&wanted).unwrap()));
    let missing = desk.remove("zz").unwrap_err().to_string();
    assert!(missing.starts_with("no server \"zz\"; there is a, b@::1, c, "));
    assert!(missing.ends_with(" and 5 more"), "{missing}");
    stand.scene.lock().unwrap().silent = Some(1);
    let cut: Vec<_> = all().collect();
    assert_eq!((cut.len(), cut.last()), (6, Some(&Err(Refusal::Silent))));
    assert_eq!(desk.servers(), Err(Refusal::Silent));
    assert_eq!(desk.totals(), Err(Refusal::Silent));
}

/// The events of a stream: names and data, as they come.
struct Stream {
    stream: TcpStream,
    text: String,
}

impl Stream {
    fn open(stand: &Stand, lines: &[&str]) -> Stream {
        let mut stream = stand.connect();
        let request = stand.text("GET /v1/events", lines, "");
        stream.write_all(request.as_bytes()).unwrap();
        let mut stream = Stream {
            stream,
            text: String::new(),
        };
        let head = stream.part("\r\n\r\n").to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        assert!(!head.contains("content-length"), "{head}");
        assert!(stream.part("\n\n").starts_with("retry: "));
        stream
    }

    fn part(&mut self, end: &str) -> String {
        loop {
            if let Some((part, rest)) = self.text.split_once(end) {
                let (part, rest) = (part.to_string(), rest.to_string());
                self.text = rest;
                return part;
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the stream has ended: {}", self.text);
            self.text += std::str::from_utf8(&buffer[..count]).unwrap();
        }
    }

    /// The next event of that name, with its id.
    fn next(&mut self, name: &str) -> (Option<String>, Value) {
        loop {
            let event = self.part("\n\n");
            let field = |name: &str| {
                let mut lines = event.lines();
                lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            };
            if field("event") == Some(name) {
                let data = serde_json::from_str(field("data").unwrap()).unwrap();
                return (field("id").map(str::to_string), data);
            }
        }
    }
}

fn breaker(server: u16) -> News {
    News::Breaker { server, open: true }
}

#[test]
fn a_stream_has_the_numbers_once_a_second_and_news_at_once() {
    let stand = Stand::new(None, None);
    let mut stream = Stream::open(&stand, &[]);
    let (_, history) = stream.next("history");
    assert_eq!(history["columns"][0], "time");
    let (id, stats) = stream.next("stats");
    assert_eq!(id, None, "nothing to go on from");
    assert_eq!(stats["messages"]["up"], 18);
    assert_eq!(stats["recent"]["up_per_second"], 0.0);
    assert_eq!(stats["recent"]["loops_busy"], json!([0.0, 0.0]));
    let (_, servers) = stream.next("servers");
    assert_eq!(servers, stand.get("/v1/servers").json());
    stand.desk.newsroom.tell(breaker(1));
    let (id, news) = stream.next("server");
    assert_eq!(news["server"], "b@::1");
    assert_eq!(
        (&news["change"], &news["to"]),
        (&json!("breaker"), &json!("open"))
    );
    // Who was cut off gets what came behind the last that it knows, and nothing twice.
    stand.desk.newsroom.tell(breaker(2));
    let (last, _) = stream.next("server");
    let header = format!("Last-Event-ID: {}", id.unwrap());
    let mut again = Stream::open(&stand, &[&header]);
    assert!(
        !again.next("history").1["rows"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let (id, news) = again.next("server");
    assert_eq!((id, &news["server"]), (last, &json!("c")));
    // One of another process gets all that there is.
    let mut other = Stream::open(&stand, &["Last-Event-ID: 12-1"]);
    assert_eq!(other.next("server").1["server"], "b@::1");
}

#[test]
fn fifty_viewers_cost_the_loops_no_more_than_one() {
    let stand = Stand::new(None, None);
    let mut streams: Vec<Stream> = (0..50).map(|_| Stream::open(&stand, &[])).collect();
    let counted = || stand.scene.lock().unwrap().counted;
    let before = counted();
    for _ in 0..2 {
        streams
            .iter_mut()
            .for_each(|stream| drop(stream.next("stats")));
    }
    // Two shards, and a look more at most while this test was slow to read.
    let asked = counted() - before;
    assert!((2..=6).contains(&asked), "{asked}");
}

#[test]
fn a_loop_that_is_silent_is_told() {
    let stand = Stand::new(None, None);
    stand.scene.lock().unwrap().silent = Some(1);
    let (_, data) = Stream::open(&stand, &[]).next("silent");
    assert_eq!(data["error"], "a loop does not answer");
}

#[test]
fn viewers_are_bounded_and_take_no_place_of_the_checks() {
    let stand = Stand::new(None, None);
    let streams: Vec<Stream> = (0..events::VIEWERS_MAX)
        .map(|_| Stream::open(&stand, &[]))
        .collect();
    assert!(streams.len() > server::CONNECTIONS_MAX);
    assert_eq!(stand.desk.newsroom.viewers(), streams.len());
    let refused = stand.get("/v1/events");
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("Retry-After"), Some("10"));
    assert!(refused.error().contains("100 viewers"), "{refused:?}");
    assert_eq!(stand.get("/healthz").status, 200);
    drop(streams);
    let deadline = Instant::now() + Duration::from_secs(5);
    while stand.desk.newsroom.viewers() > 0 {
        assert!(Instant::now() < deadline, "their places are not given back");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn streams_end_when_the_server_stops() {
    let mut stand = Stand::new(None, None);
    let mut stream = Stream::open(&stand, &[]);
    stream.next("history");
    // Also while a loop hangs, which must not hold up the end.
    stand.scene.lock().unwrap().silent = Some(0);
    let begun = Instant::now();
    stand.server.take().unwrap().stop();
    assert!(begun.elapsed() < Duration::from_millis(1_500));
    let mut rest = String::new();
    stream.stream.read_to_string(&mut rest).unwrap();
}
