//! `examples/redis.rs`: an embedder's own dialect, before a real Redis that is killed, is full, and
//! whose answers are lost. Its parser at every cut.

use crate::support::example::example;
use crate::support::frames::{BINARY, Frame, TEXT};
use crate::support::raw::{Raw, handshake};
use crate::support::{Scratch, free_port, until, until_true};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use wsteady::session::dialect::{Asks, Call, CallTo, Dialect, Heard, Terms};
use wsteady::session::{Api, Loss};

// What only the program needs is unused here.
#[allow(dead_code)]
#[path = "../../examples/redis.rs"]
mod program;

const WAIT: Duration = Duration::from_secs(30);

/// Ends with its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Redis that has on disk whatever it has acknowledged.
struct Store {
    process: Process,
    port: u16,
    dir: Scratch,
}

impl Store {
    fn start() -> Store {
        let (port, dir) = (free_port(), Scratch::new("redis"));
        let process = begin(port, &dir);
        let store = Store { process, port, dir };
        store.await_up();
        store
    }

    fn await_up(&self) {
        until_true(WAIT, "Redis", || self.ask(&["PING"]) == "PONG");
    }

    /// kill -9.
    fn kill(&mut self) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
    }

    fn revive(&mut self) {
        self.process = begin(self.port, &self.dir);
        self.await_up();
    }

    fn ask(&self, words: &[&str]) -> String {
        self.ask_with(words, b"")
    }

    /// With the last word from here.
    fn ask_with(&self, words: &[&str], last: &[u8]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]);
        if !last.is_empty() {
            command.arg("-x");
        }
        let mut client = command
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("scripts/setup-tests was run");
        let mut input = client.stdin.take().expect("a pipe");
        input.write_all(last).expect("it reads");
        drop(input);
        let output = client.wait_with_output().expect("it ends").stdout;
        String::from_utf8_lossy(&output).trim_end().to_owned()
    }

    fn length(&self, id: &str) -> usize {
        let key = format!("chat:{id}:in");
        self.ask(&["XLEN", &key]).parse().unwrap_or_default()
    }

    /// How often it has refused with this word.
    fn refusals(&self, word: &str) -> usize {
        let stats = self.ask(&["INFO", "errorstats"]);
        let begin = format!("errorstat_{word}:count=");
        let count = |line: &str| line.trim_end().strip_prefix(&begin)?.parse().ok();
        stats.lines().find_map(count).unwrap_or_default()
    }

    /// The fields and values of a client's entries.
    fn entries(&self, id: &str) -> Vec<Vec<String>> {
        let text = self.ask(&["--json", "XRANGE", &format!("chat:{id}:in"), "-", "+"]);
        let entries: Vec<(String, Vec<String>)> = serde_json::from_str(&text).expect(&text);
        entries.into_iter().map(|(_, fields)| fields).collect()
    }

    /// Behind so many entries, the client has said these texts, each is one entry and in order, and
    /// it has left.
    fn must_have(&self, id: &str, behind: usize, texts: &[String]) {
        let entries = until(WAIT, "the farewell", || {
            let entries = self.entries(id).split_off(behind);
            let last = entries.last()?;
            (last[3] == "end").then_some(entries)
        });
        let said = texts.iter().enumerate();
        let said = said.map(|(number, text)| vec![number.to_string(), "text".into(), text.clone()]);
        let end = ["end", "close", "1000", "reason", "bye"].map(str::to_owned);
        let wanted = said.chain([end.to_vec()]).map(|rest| {
            let first = ["session", &entries[0][1], "number"].map(str::to_owned);
            [&first[..], &rest].concat()
        });
        assert_eq!(entries, wanted.collect::<Vec<_>>(), "{id}");
    }
}

fn begin(port: u16, dir: &Scratch) -> Process {
    let words = "--bind 127.0.0.1 --appendonly yes --appendfsync always";
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--save", ""])
        .args(words.split(' '))
        .arg("--dir")
        .arg(dir.file(""))
        .stdout(Stdio::null())
        .spawn();
    Process(child.expect("scripts/setup-tests was run"))
}

/// The example before whatever listens on this port, and where it listens itself.
fn run(port: u16) -> (Process, SocketAddr) {
    let mut command = Command::new(example("redis"));
    let mut child = command
        .args(["chat", &format!("127.0.0.1:{port}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it is built");
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    output.read_line(&mut line).expect("a line");
    let address = line.trim_end().strip_prefix("listening on ").expect(&line);
    (Process(child), address.parse().expect("an address"))
}

fn join(address: SocketAddr, id: &str) -> Raw {
    Raw::open(address, &format!("/{id}"), "")
}

fn say(client: &mut Raw, text: &str) {
    assert!(client.send_frame(&Frame::masked(TEXT, text.as_bytes())));
}

fn leave(mut client: Raw) {
    client.send_frame(&Frame::close(1000, "bye").with_key([9, 8, 7, 6]));
    assert_eq!(client.close_code(WAIT), 1000);
}

fn texts(id: &str, count: usize) -> Vec<String> {
    let text = |number| format!("{id} says\r\n$3 \u{1f980} {number}");
    (0..count).map(text).collect()
}

#[test]
fn what_clients_say_outlives_redis_and_what_is_published_reaches_them() {
    const SAID: usize = 2_000;
    let ids = ["anna", "bob", "c:1", "d*"];
    let mut store = Store::start();
    let (_program, address) = run(store.port);
    let mut clients: Vec<Raw> = ids.iter().map(|id| join(address, id)).collect();
    let mut say_some = |from: usize, to: usize| {
        for (client, id) in clients.iter_mut().zip(ids) {
            let texts = texts(id, to);
            texts[from..].iter().for_each(|text| say(client, text));
        }
    };
    // Killed twice in the midst of it, and more is said while it is away.
    for begin in [0, SAID / 2] {
        let (middle, end) = (begin + SAID / 4, begin + SAID / 2);
        say_some(begin, middle);
        let some = || store.length("anna") > begin;
        until_true(WAIT, "messages", some);
        store.kill();
        say_some(middle, end);
        store.revive();
    }
    for id in ids {
        until_true(WAIT, "all messages", || store.length(id) >= SAID);
    }

    // The example has come back to listen.
    until_true(WAIT, "it subscribes", || {
        store.ask(&["PUBSUB", "NUMPAT"]) == "1"
    });
    for (client, id) in clients.iter_mut().zip(ids) {
        let channel = format!("chat:{id}:out");
        store.ask(&["PUBLISH", "chat:nobody:out", "is lost"]);
        store.ask(&["PUBLISH", &channel, "hello\r\n\u{1f980}"]);
        let heard = client.frame(WAIT);
        assert_eq!(heard, Frame::new(TEXT, "hello\r\n\u{1f980}".as_bytes()));
        store.ask_with(&["PUBLISH", &channel], b"\xff\x00");
        assert_eq!(client.frame(WAIT), Frame::new(BINARY, b"\xff\x00"));
    }
    for (client, id) in clients.into_iter().zip(ids) {
        leave(client);
        store.must_have(id, 0, &texts(id, SAID));
    }
}

/// Between the proxy and Redis: it loses every third answer, and its connection with it. Where it
/// listens, and how many it has lost.
fn forgetful(store: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (answers, lost) = (Arc::new(AtomicUsize::new(0)), Arc::default());
    let counted: Arc<AtomicUsize> = Arc::clone(&lost);
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let far = TcpStream::connect(("127.0.0.1", store)).unwrap();
            let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
            let (answers, lost) = (answers.clone(), counted.clone());
            std::thread::spawn(move || forget(far, near, &answers, &lost));
        }
    });
    (port, lost)
}

fn forget(mut far: TcpStream, mut near: TcpStream, answers: &AtomicUsize, lost: &AtomicUsize) {
    let mut answer = [0; 4_096];
    while let Ok(length @ 1..) = far.read(&mut answer) {
        if answers.fetch_add(1, SeqCst) % 3 == 2 {
            // Ids are bulk strings; what else is said changes nothing.
            lost.fetch_add(usize::from(answer[0] == b'$'), SeqCst);
            break;
        }
        if near.write_all(&answer[..length]).is_err() {
            break;
        }
    }
    let _ = near.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_message_whose_answer_was_lost_is_not_said_twice() {
    let store = Store::start();
    let (port, lost) = forgetful(store.port);
    let (_program, address) = run(port);
    let said = texts("anna", 30);
    // The second session of a client counts anew.
    for behind in [0, said.len() + 1] {
        let mut client = join(address, "anna");
        said.iter().for_each(|text| say(&mut client, text));
        leave(client);
        store.must_have("anna", behind, &said);
    }
    assert!(lost.load(SeqCst) > 10, "{lost:?} answers were lost");
}

#[test]
fn what_redis_refuses_for_now_is_said_again_and_what_it_refuses_for_good_is_not() {
    let store = Store::start();
    let (_program, address) = run(store.port);
    let mut client = join(address, "anna");
    let said = texts("anna", 3);
    let order = |command: &str| {
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(store.ask(&words), "OK", "{command}");
    };
    let rows = [
        ("OOM", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("READONLY", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    ];
    for ((word, on, off), text) in rows.into_iter().zip(&said) {
        order(on);
        say(&mut client, text);
        until_true(WAIT, word, || store.refusals(word) >= 3);
        order(off);
    }
    say(&mut client, &said[2]);
    leave(client);
    store.must_have("anna", 0, &said);

    // Another has its key: that message has failed, and the next finds its way.
    store.ask(&["SET", "chat:bob:in", "mine"]);
    let mut client = join(address, "bob");
    say(&mut client, "to nobody");
    until_true(WAIT, "a refusal", || store.refusals("WRONGTYPE") == 1);
    store.ask(&["DEL", "chat:bob:in"]);
    say(&mut client, "to bob");
    until_true(WAIT, "a message", || store.length("bob") == 1);
    let entry = &store.entries("bob")[0];
    assert_eq!(entry[2..], ["number", "1", "text", "to bob"]);
    assert_eq!(store.refusals("WRONGTYPE"), 1);
    drop(client);
    until_true(WAIT, "a farewell", || store.length("bob") == 2);
    let entry = &store.entries("bob")[1];
    assert_eq!(entry[2..], ["number", "end", "close", "1006", "reason", ""]);

    store.ask(&["CONFIG", "SET", "requirepass", "secret"]);
    // Who was in before is still trusted.
    store.ask(&["-a", "secret", "CLIENT", "KILL", "TYPE", "normal"]);
    let mut stranger = Raw::connect(address);
    stranger.send(handshake("/cleo", "").as_bytes());
    assert_eq!(stranger.head(WAIT).status(), 401);
}

#[test]
fn replies_are_read_the_same_however_they_are_cut() {
    let terms = Terms {
        head_max: 16_384,
        body_max: 1 << 20,
        streams: false,
        api: &Api::Http,
        pool: "api",
    };
    let call = Call {
        to: &CallTo {
            prefix: "/chat/",
            authority: "redis.test",
        },
        client_id: "anna",
        session: 7,
        peer: [127, 0, 0, 1].into(),
        lines: b"",
        asks: Asks::Admission {
            target: "anna",
            protocol: None,
        },
    };
    // What is behind the last byte that it takes is none of it.
    let read = |input: &[u8]| {
        let mut redis = program::Redis::for_calls(&terms).expect("it makes calls");
        let mut out = Vec::new();
        redis.call(&call, &mut |_| {}, &mut out).expect("words");
        assert_eq!(out, b"*1\r\n$4\r\nPING\r\n");
        assert!(!redis.is_whole());
        let (used, heard) = redis.hear(input);
        match heard {
            Heard::More => {
                assert_eq!(used, 0);
                None
            }
            Heard::Reply(reply) => {
                assert!(reply.keep && redis.is_whole());
                assert_eq!(
                    reply.body,
                    if reply.status == 200 { "ok" } else { "" }.as_bytes()
                );
                Some(Ok((used, reply.status)))
            }
            Heard::Broken(Loss::Protocol) => Some(Err(())),
            other => panic!("{other:?}"),
        }
    };
    let long_line = format!("-ERR {}\r\n", "x".repeat(5_000));
    let long_id = format!("$5000\r\n{}\r\n", "1".repeat(5_000));
    let rows: [(&str, Result<u16, ()>); 24] = [
        ("+PONG\r\n", Ok(200)),
        ("$15\r\n1763800000000-0\r\n", Ok(200)),
        ("$4\r\n\r\n\r\n\r\n", Ok(200)),
        (
            "-LOADING Redis is loading the dataset in memory\r\n",
            Ok(503),
        ),
        ("-BUSY Redis is busy running a script.\r\n", Ok(503)),
        ("-MASTERDOWN Link with MASTER is down\r\n", Ok(503)),
        ("-TRYAGAIN Multiple keys request\r\n", Ok(503)),
        ("-CLUSTERDOWN Hash slot not served\r\n", Ok(503)),
        ("-OOM command not allowed\r\n", Ok(503)),
        ("-MISCONF Errors writing to the AOF file\r\n", Ok(503)),
        ("-READONLY You can't write\r\n", Ok(503)),
        ("-NOREPLICAS Not enough good replicas\r\n", Ok(503)),
        ("-NOAUTH Authentication required.\r\n", Ok(401)),
        ("-NOPERM No permissions\r\n", Ok(401)),
        ("-WRONGPASS\r\n", Ok(401)),
        ("-WRONGTYPE Operation against a key\r\n", Ok(400)),
        ("-OOMPH\r\n", Ok(400)),
        ("-\r\n", Ok(400)),
        (&long_line, Err(())),
        (&long_id, Err(())),
        ("$-1\r\n", Err(())),
        ("$2\r\n12345", Err(())),
        ("*1\r\n$1\r\nx\r\n", Err(())),
        ("HTTP/1.1 400 Bad Request\r\n", Err(())),
    ];
    for (text, wanted) in rows {
        let whole = read(text.as_bytes()).expect(text);
        assert_eq!(whole.map(|(_, status)| status), wanted, "{text}");
        let mut seen = None;
        for end in 1..=text.len() {
            let now = read(&text.as_bytes()[..end]);
            // Once it is sure, it stays so.
            assert!(seen.is_none() || now == seen, "{text} at {end}");
            assert!(now.is_none() || now == Some(whole), "{text} at {end}");
            assert!(
                now.is_none() || wanted.is_err() || end == text.len(),
                "{text}"
            );
            seen = now;
        }
        if let Ok((used, status)) = whole {
            assert_eq!(used, text.len());
            let more = [text, "+PONG\r\n"].concat();
            assert_eq!(read(more.as_bytes()), Some(Ok((used, status))));
        }
    }
    let mut unasked = program::Redis::for_calls(&terms).expect("it makes calls");
    let heard = unasked.hear(b"+PONG\r\n");
    assert!(
        matches!(heard, (7, Heard::Broken(Loss::Protocol))),
        "{heard:?}"
    );
}
