//! Profiles, as `go tool pprof` reads them: of a process under load, by request and by flag.

use crate::support::client::{Crowd, Habit};
use crate::support::frames::{BINARY, Frame};
use crate::support::ledger::Checker;
use crate::support::peer::{Kind, Peer};
use crate::support::proxy::{Proxy, binary};
use crate::support::raw::{Origin, Raw, echo_origin, handshake};
use crate::support::{SOON, Scratch, free_port, http, until_true};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What `go tool pprof -top` says, every function in full.
fn top(more: &[&str], profile: &str) -> String {
    let dir = Scratch::new("pprof");
    let output = Command::new("go")
        .args(["tool", "pprof", "-top", "-nodefraction=0", "-nodecount=0"])
        .args(more)
        .arg(profile)
        // Where it keeps what it has fetched.
        .env("PPROF_TMPDIR", dir.file("fetched"))
        .env("HOME", dir.file("home"))
        .stdin(Stdio::null())
        .output()
        .expect("scripts/setup-tests was run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

fn top_of_file(more: &[&str], file: &Path) -> String {
    top(more, file.to_str().unwrap())
}

/// What the functions with these words in their names and all that they call come to, at most: in
/// MiB or in seconds.
fn cumulated(page: &str, words: &str) -> f64 {
    let lines = page.lines().filter(|line| line.contains(words));
    let numbers = lines.map(|line| number(line.split_whitespace().nth(3).unwrap()));
    numbers
        .reduce(f64::max)
        .unwrap_or_else(|| panic!("no {words} in\n{page}"))
}

fn number(text: &str) -> f64 {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let scale = match &text[digits.len()..] {
        "" | "MB" | "s" => 1.0,
        "kB" => 1.0 / 1024.0,
        "ms" => 1.0 / 1000.0,
        "B" => 1.0 / f64::from(1 << 20),
        other => panic!("{other:?} in {text}"),
    };
    digits.parse::<f64>().unwrap() * scale
}

/// As much as a recording server can follow on a busy machine.
fn busy() -> Habit {
    Habit {
        every: Duration::from_millis(4),
        size_max: 500,
        ..Habit::default()
    }
}

/// Asks and does not wait for the answer.
fn ask(proxy: &Proxy, path: &str) -> Raw {
    let mut asking = Raw::plain(proxy.admin);
    asking.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    asking
}

#[test]
fn a_load_beside_profiles_loses_nothing_and_is_what_they_show() {
    let mut peer = Peer::start(Kind::Node, "profiled", &[]);
    let proxy = Proxy::start(&[peer.url()], json!({}));
    let crowd = Crowd::start(proxy.address, 20, &busy());
    crowd.send_more(500);

    let page = top(
        &[],
        &format!("http://{}/debug/pprof/profile?seconds=4", proxy.admin),
    );
    assert!(page.contains("Type: cpu\n"), "{page}");
    assert!(page.contains("Duration: 4"), "{page}");
    // The loop's turn carries everything.
    let turn = cumulated(&page, "wsteady::shard::Shard");
    // What is waited for in libc counts for who called it.
    let all = page
        .lines()
        .find_map(|line| line.split("samples = ").nth(1));
    let all = number(all.and_then(|rest| rest.split(' ').next()).expect("a sum"));
    assert!(
        turn > 0.1 && turn > 0.7 * all,
        "{turn} of {all} s in\n{page}"
    );

    let answer = proxy.admin("GET", "/debug/flame?seconds=2", None);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.head.contains("image/svg+xml"), "{}", answer.head);
    assert!(answer.body.contains("wsteady::shard::"), "{}", answer.body);
    must_be_xml(&answer.body);

    crowd.hush();
    until_true(3 * SOON, "all to be logged", || {
        peer.messages() == crowd.sent()
    });
    until_true(SOON, "all to be confirmed", || {
        proxy.count("wsteady_messages_journaled", &[]) == 0
    });
    let run = crowd.run;
    let histories = crowd.leave();
    let mut checker = Checker::new(run);
    checker.read(&peer.log());
    let replayed = proxy.count("wsteady_messages_replayed_total", &[]);
    assert_eq!(replayed, 0, "nothing was lost on the way to the server");
    checker.judge(&histories, Vec::new(), 0).must_be_clean();
    proxy.finish();
}

fn must_be_xml(text: &str) {
    let dir = Scratch::new("xml");
    let file = dir.file("flame.svg");
    std::fs::write(&file, text).unwrap();
    let script = "import sys, xml.dom.minidom as dom\n\
                  assert dom.parse(sys.argv[1]).documentElement.tagName == 'svg'";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_heap_profile_shows_who_holds_the_memory() {
    let dir = Scratch::new("heap");
    let file = dir.file("heap.pb.gz");
    let origin = Origin::bind();
    let wish = format!("WSTEADY_MEMPROFILE={}", file.display());
    let through = ["env".to_string(), wish];
    // The servers are silent, and still nobody gives them up.
    let timeouts = json!({ "ping": "60s", "pong": "60s" });
    let patient = json!({ "pools": { "main": { "timeouts": timeouts } } });
    let mut proxy = Proxy::start_through(&through, &[origin.url()], patient);
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 0, "not yet");

    // Messages that no server confirms stay in the journals: 27 MiB.
    let message = vec![7; 900 << 10];
    let mut sessions = Vec::new();
    for _ in 0..10 {
        let mut client = Raw::connect(proxy.address);
        client.send(handshake("/", "").as_bytes());
        let (server, _) = origin.adopt("");
        assert_eq!(client.head(SOON).status(), 101);
        for _ in 0..3 {
            client.send_frame(&Frame::masked(BINARY, &message));
        }
        sessions.push((client, server));
    }
    until_true(SOON, "all to be journaled", || {
        proxy.count("wsteady_messages_journaled", &[]) == 30
    });
    let held = proxy.count("wsteady_buffer_bytes", &[]) as f64 / f64::from(1 << 20);
    assert!(held > 25.0, "{held} MiB");

    proxy.signal(Signal::USR1);
    until_true(SOON, "a heap profile", || {
        proxy.log().contains("heap profile written")
    });
    let url = format!("http://{}/debug/pprof/heap", proxy.admin);
    for page in [top_of_file(&[], &file), top(&[], &url)] {
        assert!(page.contains("Type: inuse_space\n"), "{page}");
        // Some 55 samples: their number strays by a seventh.
        let found = cumulated(&page, "wsteady::kit::chain::");
        assert!(
            (held * 0.4..held * 1.8).contains(&found),
            "{found} of {held} MiB in\n{page}"
        );
        assert!(
            !page.contains("profile::heap"),
            "the profiler does not show itself:\n{page}"
        );
    }

    drop(sessions);
    until_true(SOON, "nothing to be held", || {
        proxy.count("wsteady_buffer_bytes", &[]) == 0
    });
    // A loop may keep a block or two.
    until_true(SOON, "the profile to forget them", || {
        let page = top(&[], &url);
        let name = "wsteady::kit::chain::";
        !page.contains(name) || cumulated(&page, name) < held / 4.0
    });
    // At the end it is written once more, with all that was ever taken.
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit(SOON).code(), Some(0));
    let page = top_of_file(&["-sample_index=alloc_space"], &file);
    let taken = cumulated(&page, "wsteady::kit::chain::");
    assert!(taken > held * 0.4, "{taken} MiB in\n{page}");
}

#[test]
fn flags_write_profiles_of_the_whole_run() {
    for stop in [Signal::TERM, Signal::INT] {
        let dir = Scratch::new("flags");
        let (cpu, heap) = (dir.file("cpu"), dir.file("heap"));
        let origin = echo_origin();
        let address = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (listen, admin) = (address(), address());
        let mut child = binary()
            .arg(format!("-cpuprofile={}", cpu.display()))
            .arg(format!("-memprofile={}", heap.display()))
            .args([
                "--listen",
                &listen.to_string(),
                "--admin",
                &admin.to_string(),
            ])
            .args(["--backend", &origin.url()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until_true(SOON, "a ready proxy", || {
            http::get(admin, "/readyz").is_ok_and(|answer| answer.status == 200)
        });
        let mut client = Raw::open(listen, "/", "");
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            let frames = [b"one", b"two"].map(|text| Frame::masked(BINARY, text).bytes());
            client.send(&frames.concat().repeat(50));
            for count in 0..100 {
                let text: &[u8] = if count % 2 == 0 { b"one" } else { b"two" };
                assert_eq!(client.frame(SOON).payload, text);
            }
        }
        let refused = http::get(admin, "/debug/pprof/profile?seconds=1").unwrap();
        assert_eq!(refused.status, 409, "{}", refused.body);
        assert!(refused.body.contains("--cpuprofile"), "{}", refused.body);
        drop(client);
        kill_process(Pid::from_child(&child), stop).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{stop:?}");
        let page = top_of_file(&[], &cpu);
        let turn = cumulated(&page, "wsteady::shard::Shard");
        assert!(turn > 0.03, "{page}");
        let page = top_of_file(&["-sample_index=alloc_space"], &heap);
        assert!(page.contains("wsteady::"), "{page}");
    }
}

#[test]
fn a_profile_that_cannot_be_written_is_said_at_the_start() {
    for (flag, name) in [
        ("--cpuprofile", "cpuprofile"),
        ("--memprofile", "memprofile"),
    ] {
        let listen = format!("127.0.0.1:{}", free_port());
        let admin = format!("127.0.0.1:{}", free_port());
        let output: Output = binary()
            .args([flag, "/nowhere/file", "--backend", "ws://127.0.0.1:9"])
            .args(["--listen", &listen, "--admin", &admin])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let why = format!("--{name}: /nowhere/file: No such file or directory");
        assert!(said.contains(&why), "{said}");
    }
}

#[test]
fn a_wrong_question_is_told_what_is_right() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    let range = "must be from 1 to 60";
    let rows = [
        ("pprof/profile?seconds=0", range),
        ("pprof/profile?seconds=61", range),
        ("pprof/profile?seconds=-1", range),
        ("pprof/profile?seconds=1.5", range),
        ("pprof/profile?seconds=", range),
        ("flame?seconds=61", range),
        ("flame?seconds=ten", range),
        ("pprof/profile?seconds=1&seconds=2", "stands twice"),
        ("pprof/profile?second=1", "known: seconds"),
        ("pprof/heap?seconds=1", "unknown parameter"),
    ];
    for (question, reason) in rows {
        let answer = proxy.admin("GET", &format!("/debug/{question}"), None);
        assert_eq!(answer.status, 400, "{question}: {}", answer.body);
        let said = answer.json()["error"].as_str().unwrap().to_string();
        assert!(said.contains(reason), "{question}: {said}");
    }
    for path in ["pprof/profile", "pprof/heap", "flame"] {
        let answer = proxy.admin("POST", &format!("/debug/{path}"), None);
        assert_eq!(answer.status, 405, "{path}");
    }
    assert_eq!(
        proxy.admin("GET", "/debug/pprof/goroutine", None).status,
        404
    );
    // None of these has begun a profile.
    let answer = proxy.admin("GET", "/debug/pprof/profile?seconds=1", None);
    assert_eq!(answer.status, 200, "{}", answer.body);
    proxy.signal(Signal::USR1);
    until_true(SOON, "a word on USR1", || {
        proxy.log().contains("--memprofile FILE")
    });
    proxy.finish();
}

#[test]
fn there_is_one_cpu_profile_at_a_time_for_as_long_as_somebody_waits() {
    let origin = echo_origin();
    let proxy = Proxy::start(&[origin.url()], json!({}));
    let refused = "for another request";
    // Of two that ask at once either may come first; who asks again finds the place taken.
    let mut asking = Vec::new();
    until_true(SOON, "a second one to be refused", || {
        asking.push(ask(&proxy, "/debug/pprof/profile?seconds=60"));
        let answer = proxy.admin("GET", "/debug/flame?seconds=1", None);
        answer.status == 409 && answer.body.contains(refused)
    });
    // More askers than there are places leave places for checks: they are answered at once.
    let askers: Vec<Raw> = (0..100)
        .map(|_| ask(&proxy, "/debug/pprof/profile?seconds=60"))
        .collect();
    drop(askers);
    until_true(SOON, "a healthy answer", || {
        http::get(proxy.admin, "/healthz").is_ok_and(|answer| answer.status == 200)
    });
    assert_eq!(proxy.admin("GET", "/debug/pprof/heap", None).status, 200);
    // Who waited has gone: his profile ends long before its minute.
    drop(asking);
    until_true(SOON, "the next one to begin", || {
        proxy
            .admin("GET", "/debug/pprof/profile?seconds=1", None)
            .status
            == 200
    });
    // And wsteady ends without waiting for one.
    let _asking = ask(&proxy, "/debug/pprof/profile?seconds=60");
    let began = Instant::now();
    proxy.finish();
    assert!(began.elapsed() < Duration::from_secs(20));
}
