//! The API's description of itself against what it does: schemathesis makes requests of it, right
//! and wrong ones, and looks at what is answered.

use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, echo_origin};
use crate::support::{Scratch, root};
use serde_json::{Value, json};
use std::process::Command;

/// Long enough for some thousand requests, on a busy machine, too.
const SECONDS: &str = "40";

/// Operations that measure.
const LEFT_OUT: usize = 2;

#[test]
fn answers_are_as_described_and_wrong_input_is_refused() {
    let (one, two) = (echo_origin(), echo_origin());
    // These clients answer no Ping.
    let patience = json!({ "pools": { "main": { "timeouts": { "ping": "10m" } } } });
    let proxy = Proxy::start(&[one.url(), two.url()], patience);
    let clients: Vec<Raw> = (0..40)
        .map(|_| Raw::open(proxy.address, "/room?x=1", ""))
        .collect();
    let dir = Scratch::new("schemathesis");
    let description = proxy.admin("GET", "/v1/openapi.json", None);
    std::fs::write(dir.file("openapi.json"), &description.body).unwrap();
    let output = Command::new(root().join(".venv/bin/st"))
        .arg("--config-file")
        .arg(root().join("tests/peers/schemathesis.toml"))
        .args(["run", "openapi.json", "--url"])
        .arg(format!("http://{}", proxy.admin))
        .args(["--phases", "coverage,fuzzing", "--max-time", SECONDS])
        .args([
            "--no-color",
            "--report",
            "json",
            "--report-json-path",
            "report.json",
        ])
        // It keeps what it learns beside itself.
        .current_dir(dir.file(""))
        .output()
        .expect("scripts/setup-tests installs schemathesis");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    // It was busy, and with all operations but those that schemathesis.toml leaves out.
    let report = std::fs::read(dir.file("report.json")).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    let paths = &description.json()["paths"];
    let methods = |path: &Value| path.as_object().expect("methods").len();
    let operations: usize = paths
        .as_object()
        .expect("paths")
        .values()
        .map(methods)
        .sum();
    assert_eq!(
        report["operations"]["tested"],
        operations - LEFT_OUT,
        "{said}"
    );
    // How often each was asked is a matter of the machine.
    let requests = report["test_cases"]["generated"].as_u64();
    assert!(requests >= Some(operations as u64), "{said}");
    drop(clients);
    proxy.finish();
}
