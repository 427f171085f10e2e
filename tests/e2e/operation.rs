//! What systemd, installers and operators use: readiness by datagram, preflight, generated texts.

use crate::support::proxy::binary;
use crate::support::raw::{Raw, echo_origin};
use crate::support::{SOON, Scratch, free_port, http, root};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::process::{Child, Output, Stdio};

/// One piece of news, without waiting for ever.
fn news(socket: &UnixDatagram) -> String {
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut bytes = [0; 512];
    let count = socket.recv(&mut bytes).expect("news in time");
    String::from_utf8(bytes[..count].to_vec()).unwrap()
}

fn start(notify: &OsStr, dir: &Scratch, url: &str) -> (Child, SocketAddr, SocketAddr) {
    let address = || SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (listen, admin) = (address(), address());
    let config = dir.file("wsteady.yaml");
    std::fs::write(&config, "drain: 2s\n").unwrap();
    let child = binary()
        .args(["run", "--listen", &listen.to_string()])
        .args(["--admin", &admin.to_string(), "--backend", url])
        .arg("--config")
        .arg(config)
        .env("NOTIFY_SOCKET", notify)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (child, listen, admin)
}

#[test]
fn systemd_hears_that_it_listens_and_that_it_stops() {
    let origin = echo_origin();
    let dir = Scratch::new("notify");
    let path = dir.file("notify");
    let name = format!("wsteady-e2e-notify-{}", std::process::id());
    let by_name = UnixAddress::from_abstract_name(&name).unwrap();
    let rows: [(OsString, UnixDatagram); 2] = [
        (path.clone().into(), UnixDatagram::bind(&path).unwrap()),
        (
            format!("@{name}").into(),
            UnixDatagram::bind_addr(&by_name).unwrap(),
        ),
    ];
    for (notify, socket) in rows {
        let (mut child, listen, admin) = start(&notify, &dir, &origin.url());
        assert_eq!(news(&socket), "READY=1");
        // No second look: ready is ready.
        let mut client = Raw::open(listen, "/", "");
        assert_eq!(http::get(admin, "/readyz").unwrap().status, 200);
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        // The drain, and some time for the end.
        assert_eq!(
            news(&socket),
            "STOPPING=1\nEXTEND_TIMEOUT_USEC=12000000",
            "{notify:?}"
        );
        assert_eq!(client.close_code(SOON), 1001);
        drop(client);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_socket_of_nobody_keeps_no_proxy_from_running() {
    let origin = echo_origin();
    let dir = Scratch::new("notify");
    let (mut child, _, admin) = start(dir.file("nobody").as_os_str(), &dir, &origin.url());
    crate::support::until_true(SOON, "a ready proxy", || {
        http::get(admin, "/readyz").is_ok_and(|answer| answer.status == 200)
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn output(arguments: &[&str]) -> Output {
    binary()
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn printed(arguments: &[&str]) -> String {
    let output = output(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn preflight_ends_with_1_exactly_if_something_is_too_small() {
    // What this machine is like isn't known; that both forms agree can be.
    for connections in ["1", "250000", "1000000000"] {
        let table = output(&["preflight", "--connections", connections]);
        let json = output(&["preflight", "--connections", connections, "--json"]);
        let json_text = String::from_utf8(json.stdout).unwrap();
        let report: serde_json::Value = serde_json::from_str(&json_text).unwrap();
        let enough = report["enough"].as_bool().unwrap();
        let text = String::from_utf8(table.stdout).unwrap();
        assert_eq!(text.contains("\ntoo small "), !enough, "{text}");
        for status in [table.status, json.status] {
            assert_eq!(status.code(), Some(i32::from(!enough)), "{text}");
        }
        for check in report["checks"].as_array().unwrap() {
            assert!(text.contains(check["limit"].as_str().unwrap()), "{text}");
            let mends = !check["mend"].as_str().unwrap().is_empty();
            assert!(mends || check["verdict"] != "too small", "{check}");
        }
        if connections == "1000000000" {
            assert!(!enough, "no machine has the memory for it");
        }
    }
}

#[test]
fn the_generated_configuration_is_one() {
    let dir = Scratch::new("generate");
    let path = dir.file("wsteady.yaml");
    std::fs::write(&path, printed(&["generate", "config"])).unwrap();
    let said = printed(&["check", "--config", path.to_str().unwrap()]);
    assert!(said.contains("ws://127.0.0.1:9000"), "{said}");
}

#[test]
fn what_is_generated_is_what_the_repository_has() {
    let file = root().join("sysctl/60-wsteady.conf");
    assert_eq!(
        printed(&["generate", "sysctl"]),
        std::fs::read_to_string(file).unwrap()
    );
    assert!(printed(&["generate", "unit"]).contains("\nType=notify\n"));
    assert!(printed(&["generate", "man"]).contains(".SH NAME\n"));
}

#[test]
fn shells_can_read_their_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let text = printed(&["generate", "completions", shell]);
        assert!(text.contains("preflight"), "{shell}");
        let dir = Scratch::new("completions");
        let path = dir.file("wsteady");
        std::fs::write(&path, text).unwrap();
        // Only where that shell is.
        let checked = std::process::Command::new(shell)
            .arg("-n")
            .arg(&path)
            .output();
        if let Ok(output) = checked {
            assert!(output.status.success(), "{shell}: {output:?}");
        }
    }
}
