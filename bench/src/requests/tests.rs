//! The clients against servers that behave, and against some that do not.

use super::*;
use crate::{api, http};
use clap::Parser;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn args(line: &str) -> Args {
    Line::parse_from(["test"].into_iter().chain(line.split_whitespace())).args
}

/// What a bad server does with the tenth request of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trick {
    None,
    /// Another status.
    Refuse,
    /// A changed byte.
    Damage,
    /// A byte too few, by the head's own count.
    Short,
    /// What another connection has asked for.
    Cross,
    /// The answer before once more.
    Stale,
    /// Two answers at once.
    Twice,
    /// The end, in the middle of the answer.
    Cut,
    /// A good answer, and the end behind it.
    Close,
    /// No answer.
    Mute,
}

/// Echoes POSTs, one thread for each connection, and plays its trick on the tenth of each.
fn server(trick: Trick) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let socket = socket.unwrap();
            std::thread::spawn(move || drop(converse(socket, trick)));
        }
    });
    address
}

fn converse(mut socket: TcpStream, trick: Trick) -> io::Result<()> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    let (mut number, mut last) = (0, Vec::new());
    loop {
        let count = socket.read(&mut buffer)?;
        kept.extend_from_slice(&buffer[..count]);
        if count == 0 {
            return Ok(());
        }
        let Some(request) = http::request(&kept).unwrap() else {
            continue;
        };
        number += 1;
        let trick = if number == 10 { trick } else { Trick::None };
        let (body, used) = (request.body.to_vec(), request.bytes);
        socket.write_all(&reply(trick, &body, &last))?;
        if matches!(trick, Trick::Cut | Trick::Close) {
            return Ok(());
        }
        kept.drain(..used);
        last = body;
    }
}

fn reply(trick: Trick, body: &[u8], last: &[u8]) -> Vec<u8> {
    let (mut out, mut body) = (Vec::new(), body.to_vec());
    let (mut status, mut close) = ("200 OK", false);
    match trick {
        Trick::Refuse => status = "503 Service Unavailable",
        Trick::Damage => body[40] ^= 1,
        Trick::Short => drop(body.pop()),
        Trick::Cross => {
            let other = crate::check::Label {
                connection: 99,
                sequence: 9,
                due: 1,
            };
            other.write(&mut body);
        }
        Trick::Stale => body = last.to_vec(),
        Trick::Close => close = true,
        Trick::Mute => return out,
        Trick::None | Trick::Twice | Trick::Cut => {}
    }
    http::answer(&mut out, status, b"x/y", &body, close);
    match trick {
        Trick::Twice => out.extend_from_within(..),
        Trick::Cut => out.truncate(out.len() - 1),
        _ => {}
    }
    out
}

/// A run of a second or less; its JSON.
fn result(server: SocketAddr, line: &str) -> serde_json::Value {
    let name = format!(
        "wsteady-bench-{}-{}.json",
        std::process::id(),
        server.port()
    );
    let path = std::env::temp_dir().join(name);
    let url = format!("--url http://{server}/x --quiet --json {}", path.display());
    let passed = run(&args(&format!("{url} {line}"))).unwrap();
    let json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    std::fs::remove_file(path).unwrap();
    let json: serde_json::Value = json;
    let faults = json["faults"].as_array().unwrap();
    assert_eq!(passed, faults.is_empty(), "{json:#}");
    json
}

fn faults(json: &serde_json::Value) -> Vec<&str> {
    let faults = json["faults"].as_array().unwrap();
    faults.iter().map(|fault| fault.as_str().unwrap()).collect()
}

fn api(body: usize) -> SocketAddr {
    api::spawn(api::Manners::with_body(body))
}

#[test]
fn a_good_server_has_no_faults() {
    for (method, size) in [("GET", 64), ("GET", 200_000), ("POST", 1000)] {
        let line =
            format!("--connections 5 --threads 2 --requests 20 --method {method} --size {size}");
        let json = result(api(size), &line);
        assert!(faults(&json).is_empty(), "{json:#}");
        assert_eq!(
            (&json["sent_total"], &json["answers_total"]),
            (&100.into(), &100.into())
        );
        assert_eq!(json["opened"], 5);
        assert!(json["latency_p50_us"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn requests_pass_through_tls() {
    let host = crate::tls::tests::host();
    let server = api::spawn_with(api::Manners::with_body(40_000), Some(host));
    let line = "--tls --connections 5 --threads 2 --requests 20 --size 40000";
    let json = result(server, line);
    assert!(faults(&json).is_empty(), "{json:#}");
    assert_eq!(
        (&json["opened"], &json["answers_total"]),
        (&5.into(), &100.into())
    );
    let json = result(
        server,
        "--connections 2 --connect-timeout 200ms --requests 1 --grace 1s",
    );
    assert!(!faults(&json).is_empty(), "in the clear: {json:#}");
}

#[test]
fn a_closed_loop_ends_with_its_time() {
    let line = "--connections 3 --warmup 50ms --duration 200ms";
    let json = result(api(64), line);
    assert!(faults(&json).is_empty(), "{json:#}");
    let in_window = json["window_answers"].as_u64().unwrap();
    assert!(in_window > 10 && in_window < json["sent_total"].as_u64().unwrap());
    assert_eq!(json["sent_total"], json["answers_total"]);
}

#[test]
fn a_rate_sends_what_is_due_even_late() {
    let line = "--connections 3 --rate 300 --warmup 0s --duration 400ms";
    let json = result(api(64), line);
    assert_eq!(
        (&json["sent_total"], json["mode"].as_str()),
        (&120.into(), Some("rate"))
    );
    // More than one connection can ask in that time: it waits for its answers.
    let line = "--connections 1 --rate 500000 --warmup 0s --duration 100ms";
    let json = result(api(64), line);
    assert!(faults(&json).is_empty(), "{json:#}");
    assert_eq!(json["sent_total"], 50_000);
    assert!(
        json["latency_max_us"].as_f64().unwrap() > 100_000.0,
        "{json:#}"
    );
}

#[test]
fn every_trick_is_seen() {
    let line = "--connections 3 --requests 15 --method POST --size 100 --grace 300ms";
    let cases = [
        (
            Trick::Refuse,
            "refused",
            "3 answers had another status than 200",
        ),
        (
            Trick::Damage,
            "damaged",
            "3 answers were not what was asked for",
        ),
        (
            Trick::Short,
            "damaged",
            "3 answers were not what was asked for",
        ),
        (
            Trick::Twice,
            "damaged",
            "3 answers were not what was asked for",
        ),
        (
            Trick::Cross,
            "crossed",
            "3 answers were another connection's",
        ),
        (Trick::Stale, "stale", "3 answers were an earlier request's"),
        (Trick::Cut, "cut", "3 requests lost their connection"),
        (Trick::Mute, "unanswered", "3 requests were not answered"),
    ];
    for (trick, field, expected) in cases {
        let duration = if trick == Trick::Mute {
            "--duration 200ms"
        } else {
            ""
        };
        let json = result(server(trick), &format!("{line} {duration}"));
        assert_eq!(faults(&json), [expected], "{trick:?} {json:#}");
        assert_eq!(json[field], 3, "{trick:?} {json:#}");
        // Those behind it are still asked, if need be on another connection.
        let answered = if trick == Trick::Mute { 27 } else { 42 };
        assert_eq!(json["answers_total"], answered, "{trick:?} {json:#}");
    }
    let json = result(server(Trick::Refuse), &format!("{line} --allow-statuses"));
    assert_eq!(
        (faults(&json).len(), &json["reasons"]["status 503"]),
        (0, &3.into())
    );
}

#[test]
fn a_closed_connection_is_opened_again() {
    let line = "--connections 3 --requests 15 --method POST --size 100";
    let json = result(server(Trick::Close), line);
    assert!(faults(&json).is_empty(), "{json:#}");
    assert_eq!(
        (&json["reopened"], &json["answers_total"]),
        (&3.into(), &45.into())
    );
    let unused = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let json = result(unused, "--connections 3 --requests 1");
    assert_eq!(faults(&json), ["3 connections could not be opened"]);
}

#[test]
fn a_foreign_server_is_asked_for_the_url_as_it_is() {
    let address = api::spawn(api::Manners::default());
    let json = result(address, "--connections 2 --requests 3 --foreign");
    assert!(faults(&json).is_empty(), "{json:#}");
    let json = result(address, "--connections 2 --requests 3 --foreign --size 2");
    assert!(faults(&json).is_empty(), "{json:#}");
    let json = result(address, "--connections 2 --requests 3 --foreign --size 3");
    assert_eq!(json["reasons"]["2 bytes, not 3"], 6, "{json:#}");
    let refused = [
        "--url ws://127.0.0.1:1/",
        "--url http://127.0.0.1:1/ --size 31",
        "--url http://127.0.0.1:1/ --foreign --method POST",
        "--url http://127.0.0.1:1/ --rate 0",
    ];
    for line in refused {
        assert!(Plan::new(&args(line), 1000).is_err(), "{line}");
    }
}
