//! The command line and the configuration from outside: exit codes, messages, environment.

use crate::support::proxy::binary;
use crate::support::raw::{Raw, echo_origin};
use crate::support::{Scratch, free_port, http, until_true};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn run(arguments: &[&str]) -> Output {
    binary()
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs to the end and gives its exit code and all that it said.
fn outcome(arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(arguments);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

fn with_config(yaml: &str, verb: &str) -> (Option<i32>, String) {
    let dir = Scratch::new("config");
    let path = dir.file("wsteady.yaml");
    std::fs::write(&path, yaml).unwrap();
    outcome(&[verb, "--config", path.to_str().unwrap()])
}

const GOOD: &str = "listen: [{ address: \"127.0.0.1:0\" }]\n\
    admin: { address: \"127.0.0.1:0\" }\n\
    pools:\n  chat:\n    kind: websocket\n    servers: [{ url: \"ws://127.0.0.1:9\" }]\n";

#[test]
fn check_says_what_a_configuration_means() {
    let (code, said) = with_config(GOOD, "check");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("chat") && said.contains("127.0.0.1:9"),
        "{said}"
    );
}

#[test]
fn a_wrong_configuration_is_exit_2_with_file_line_and_reason() {
    let rows = [
        (
            "an unknown key",
            GOOD.replace("servers:", "serverz:"),
            &["serverz", "servers", ":6"][..],
        ),
        (
            "another",
            format!("{GOOD}session: {{ bufer: 1MiB }}\n"),
            &["bufer", "buffer", ":7"],
        ),
        (
            "no YAML",
            format!("{GOOD}session: {{ hold: 3s\n"),
            &["wsteady.yaml:"],
        ),
        (
            "a bad size",
            format!("{GOOD}session: {{ buffer: lots }}\n"),
            &["buffer", ":7"],
        ),
        (
            "a bad time",
            format!("{GOOD}session: {{ hold: soon }}\n"),
            &["hold", ":7"],
        ),
        (
            "a bad choice",
            format!("{GOOD}session: {{ confirm: maybe }}\n"),
            &["confirm", "received"],
        ),
        (
            "a bad kind",
            GOOD.replace("kind: websocket", "kind: telepathy"),
            &["kind", ":5"],
        ),
        (
            "a bad URL",
            GOOD.replace("ws://127.0.0.1:9", "gopher://x"),
            &["gopher"],
        ),
        (
            "a key twice",
            format!("{GOOD}drain: 1s\ndrain: 2s\n"),
            &["drain", ":8"],
        ),
        (
            "no pool at all",
            GOOD.split("pools:").next().unwrap().to_owned(),
            &["pool"],
        ),
        (
            "an open admin address without a token",
            GOOD.replace(
                "admin: { address: \"127.0.0.1:0\" }",
                "admin: { address: \"0.0.0.0:0\" }",
            ),
            &["token"],
        ),
        (
            "a certificate that is not there, or TLS that this build has not",
            GOOD.replace(
                "admin: { address: \"127.0.0.1:0\" }",
                "admin: { address: \"127.0.0.1:0\", tls: { cert: /none.pem, key: /none.pem } }",
            ),
            &["admin.tls"],
        ),
    ];
    for (name, yaml, words) in rows {
        for verb in ["check", "run"] {
            let (code, said) = with_config(&yaml, verb);
            assert_eq!(code, Some(2), "{name}, {verb}: {said}");
            for word in words {
                assert!(
                    said.contains(word),
                    "{name}, {verb}: no {word:?} in: {said}"
                );
            }
        }
    }
}

#[test]
fn a_wrong_command_line_is_exit_2() {
    for arguments in [
        &["--no-such-flag"][..],
        &["frobnicate"],
        &["run"],
        &["check"],
        &["run", "--config", "/nonexistent/wsteady.yaml"],
        &["run", "--backend", "ws://127.0.0.1:9", "--hold", "soon"],
        &["run", "--backend", "not a url"],
        &["run", "--backend", "ws://127.0.0.1:9", "--confirm", "maybe"],
    ] {
        let (code, said) = outcome(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(!said.trim().is_empty(), "{arguments:?}: not a word");
    }
    let (code, said) = outcome(&["--help"]);
    assert_eq!(code, Some(0), "{said}");
    for word in ["--backend", "--config", "check", "demo"] {
        assert!(said.contains(word), "no {word} in: {said}");
    }
    let (code, said) = outcome(&["--version"]);
    assert_eq!(code, Some(0));
    assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
}

#[test]
fn a_taken_address_is_exit_1_and_never_shared() {
    // With SO_REUSEPORT on both it would be shared in silence, and take half of the clients.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let admin = format!("127.0.0.1:{}", free_port());
    let backend = ["--backend", "ws://127.0.0.1:9"];
    let run = |listen: &str, admin: &str| {
        outcome(&[&["run", "--listen", listen, "--admin", admin][..], &backend].concat())
    };
    let (code, said) = run(&address, &admin);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&address), "{said}");
    let (code, said) = run(&format!("127.0.0.1:{}", free_port()), &address);
    assert_eq!(code, Some(1), "the admin address: {said}");
    let first = Running::start(&[], |command, listen, admin| {
        command
            .args(["--listen", listen, "--admin", admin])
            .args(backend);
    });
    let (code, said) = run(&first.listen.to_string(), &admin);
    assert_eq!(code, Some(1), "two of its own: {said}");
}

/// A proxy that was started from the command line alone.
pub(crate) struct Running {
    child: std::process::Child,
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Running {
    pub(crate) fn start(
        environment: &[(&str, &str)],
        arguments: impl Fn(&mut Command, &str, &str),
    ) -> Running {
        let address = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (listen, admin) = (address(), address());
        let mut command = binary();
        arguments(&mut command, &listen.to_string(), &admin.to_string());
        for (name, value) in environment {
            let value = value.replace("LISTEN", &listen.to_string());
            command.env(name, value.replace("ADMIN", &admin.to_string()));
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let running = Running {
            child: command.spawn().unwrap(),
            listen,
            admin,
        };
        until_true(Duration::from_secs(20), "a ready proxy", || {
            http::get(admin, "/readyz").is_ok_and(|answer| answer.status == 200)
        });
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn flags_are_enough_and_one_dash_is_as_good_as_two() {
    let origin = echo_origin();
    let url = origin.url();
    for dashes in ["--", "-"] {
        let running = Running::start(&[], |command, listen, admin| {
            for (name, value) in [("listen", listen), ("admin", admin), ("backend", &url)] {
                command.arg(format!("{dashes}{name}={value}"));
            }
        });
        drop(Raw::open(running.listen, "/", ""));
        assert_eq!(http::get(running.admin, "/healthz").unwrap().status, 200);
    }
}

#[test]
fn the_environment_serves_where_no_flag_does() {
    let origin = echo_origin();
    let url = origin.url();
    let environment = [
        ("WSTEADY_LISTEN", "LISTEN"),
        ("WSTEADY_ADMIN", "127.0.0.1:1"),
        ("WSTEADY_BACKEND", url.as_str()),
    ];
    // The flag wins over the variable: port 1 would not be ours.
    let running = Running::start(&environment, |command, _, admin| {
        command.args(["--admin", admin]);
    });
    drop(Raw::open(running.listen, "/", ""));
}

#[test]
fn the_public_port_serves_nothing_of_the_admins() {
    // S03.
    let origin = echo_origin();
    let url = origin.url();
    let running = Running::start(&[], |command, listen, admin| {
        command.args(["--listen", listen, "--admin", admin, "--backend", &url]);
    });
    for path in [
        "/metrics",
        "/v1/servers",
        "//metrics",
        "/%6detrics",
        "/healthz",
    ] {
        let answer = http::get(running.listen, path).unwrap();
        assert!(answer.status >= 400, "{path}: {}", answer.status);
        assert!(!answer.body.contains("wsteady_"), "{path}");
    }
}
