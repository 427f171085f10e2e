//! Valves and watchers: the examples, with clients and servers that people use. Verdicts and failures
//! of all kinds are in `tests/valves.rs`.

use crate::support::example::example;
use crate::support::root;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A program that is told and tells by lines.
struct Lines {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Lines {
    fn start(command: &mut Command) -> Lines {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/setup-tests was run");
        Lines {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().expect("a pipe")),
            child,
        }
    }

    fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it was not ended");
        writeln!(input, "{line}").unwrap();
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended");
        line.trim_end().to_owned()
    }

    fn json(&mut self) -> Value {
        serde_json::from_str(&self.next()).unwrap()
    }

    /// Its input ends; what it still says, and it ends well.
    fn finish(mut self) -> Vec<String> {
        drop(self.input.take());
        let rest = self.output.by_ref().lines().map_while(Result::ok).collect();
        assert!(self.child.wait().unwrap().success());
        rest
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An echo server on npm ws, with permessage-deflate, and where it is.
fn node_echo() -> (Lines, String) {
    let mut command = Command::new("node");
    command.arg(root().join("tests/peers/node/echo.mjs"));
    let mut server = Lines::start(command.arg("--deflate"));
    let url = format!("ws://127.0.0.1:{}", server.next());
    (server, url)
}

/// An example, and where it listens.
fn run(name: &str, arguments: &[&str]) -> (Lines, String) {
    let mut program = Lines::start(Command::new(example(name)).args(arguments));
    let line = program.next();
    let address = line.strip_prefix("listening on ").expect(&line);
    (program, address.to_string())
}

/// A client on Python's websockets.
fn client(address: &str, path: &str, options: &[&str]) -> Lines {
    let mut command = Command::new(root().join(".venv/bin/python"));
    command.arg(root().join("tests/peers/say.py"));
    Lines::start(command.args(options).arg(format!("ws://{address}{path}")))
}

#[test]
fn the_redaction_hides_a_field_with_and_without_compression() {
    let (server, url) = node_echo();
    let (program, address) = run("redact", &["pin", &url]);
    for options in [&["--deflate"][..], &[]] {
        let mut client = client(&address, "/", options);
        let open = client.json()["open"].to_string();
        assert_eq!(open.contains("permessage-deflate"), !options.is_empty());
        let long = format!(r#"{{"pad":"{}","pin":7}}"#, "abc ".repeat(20_000));
        let rows = [
            (r#"{"pin":"1234","n":1}"#, r#"{"pin":"***","n":1}"#),
            (r#"[{"a":{"pin":[1,2]}}]"#, r#"[{"a":{"pin":"***"}}]"#),
            (r#"{ "n" : 1 }"#, r#"{ "n" : 1 }"#),
            ("the pin is 1234", "the pin is 1234"),
            (&long, &long.replace("7}", r#""***"}"#)),
        ];
        for (said, heard) in rows {
            client.say(said);
            assert_eq!(client.json(), json!({ "got": heard }));
        }
        assert!(client.finish()[0].contains(r#""closed": 1000"#));
    }
    program.finish();
    server.finish();
    let source = std::fs::read_to_string(root().join("examples/redact.rs")).unwrap();
    assert!(source.lines().count() < 60);
}

#[test]
fn the_rate_limit_answers_what_is_beyond_it() {
    let (server, url) = node_echo();
    let (program, address) = run("rate_limit", &["0.5", &url]);
    let mut client = client(&address, "/", &[]);
    client.json();
    (0..5).for_each(|n| client.say(&format!("n{n}")));
    let mut got: Vec<String> = (0..5).map(|_| client.json()["got"].to_string()).collect();
    got.sort();
    let refused = json!(r#"{"error": "too many messages"}"#).to_string();
    assert_eq!(got[0], json!("n0").to_string());
    assert_eq!(got[1..], [&refused[..]; 4]);
    client.finish();
    program.finish();
    server.finish();
}

#[test]
fn the_ocpp_log_knows_calls_by_their_answers_and_sessions_by_their_lives() {
    let (server, url) = node_echo();
    let (program, address) = run("ocpp_log", &[&url]);
    let mut client = client(&address, "/ocpp/CP-7?token=x", &[]);
    client.json();
    let said = [
        r#"[2,"19","BootNotification",{}]"#,
        r#"[3,"19",{"status":"Accepted"}]"#,
        r#"[4,"20","NotImplemented","",{}]"#,
        "no JSON",
    ];
    for line in said {
        client.say(line);
        assert_eq!(client.json()["got"], line);
    }
    client.finish();
    let log = program.finish();
    server.finish();
    let wanted = [
        "Opened { target: \"/ocpp/CP-7?token=x\" }",
        "Bound { held_ms: 0 }",
        "CP-7 -> BootNotification 19",
        "CP-7 <- BootNotification 19",
        // The echo called it, too.
        "CP-7 -> BootNotification 19: done after ",
        "CP-7 <- BootNotification 19: done after ",
        "CP-7 -> an answer that nobody waits for: 20",
        "CP-7 <- not OCPP: 7 bytes",
        "Ended { reason: \"client_closed\", unconfirmed: 0 }",
    ];
    for wanted in wanted {
        let seen = log.iter().any(|line| line.contains(wanted));
        assert!(seen, "no {wanted:?} in {log:#?}");
    }
}
