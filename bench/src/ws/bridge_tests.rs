//! Bridged clients and pushes through the smallest bridge there can be, to a real `api`.

use super::push;
use super::*;
use crate::frame::{Header, Reader, Sender, Step};
use crate::{api, http, upgrade};
use clap::Parser;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

#[derive(Parser)]
struct PushLine {
    #[command(flatten)]
    args: push::Args,
}

/// What the bridge does with pushes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trick {
    None,
    /// The tenth of each client is taken and never delivered.
    Lose,
    /// The tenth of each client is refused.
    Refuse,
    /// The tenth of each client is delivered twice.
    Repeat,
}

/// A client's socket, and how many pushes there were for it.
type Clients = Arc<Mutex<HashMap<String, (TcpStream, u32)>>>;

/// Where it listens, and the paths of those who upgraded.
fn bridge(trick: Trick) -> (SocketAddr, Clients) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let api = api::spawn(api::Manners::default());
    let clients = Clients::default();
    let shared = clients.clone();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (socket, clients) = (socket.unwrap(), shared.clone());
            std::thread::spawn(move || drop(greet(socket, api, &clients, trick)));
        }
    });
    (address, clients)
}

/// Reads one request after the other; an upgrade is the last.
fn greet(
    mut socket: TcpStream,
    api: SocketAddr,
    clients: &Clients,
    trick: Trick,
) -> io::Result<()> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 65_536]);
    loop {
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&buffer[..count]);
        let Some(request) = http::request(&bytes).map_err(io::Error::other)? else {
            continue;
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let path = text.split(' ').nth(1).unwrap().to_string();
        if let upgrade::Request::Upgrade { response, .. } = upgrade::answer(&bytes) {
            let server = TcpStream::connect(api)?;
            assert_eq!(
                call(&server, "GET", &path, "", b"")?,
                (b"ok".to_vec(), true)
            );
            let taken = (socket.try_clone()?, 0);
            assert!(
                clients
                    .lock()
                    .unwrap()
                    .insert(path.clone(), taken)
                    .is_none()
            );
            socket.write_all(response.as_bytes())?;
            return converse(socket, &server, &path);
        }
        assert_eq!(request.method, "POST");
        let opcode = match request.content_type.unwrap() {
            b"application/octet-stream" => frame::BINARY,
            _ => frame::TEXT,
        };
        let refused = push_to(clients, &path, opcode, &request.body, trick)?;
        let answer = if refused { "503 Busy" } else { "200 OK" };
        let used = request.bytes;
        let mut out = Vec::new();
        http::answer(&mut out, answer, b"text/plain", b"ok", false);
        bytes.drain(..used);
        socket.write_all(&out)?;
    }
}

fn push_to(
    clients: &Clients,
    path: &str,
    opcode: u8,
    body: &[u8],
    trick: Trick,
) -> io::Result<bool> {
    let mut clients = clients.lock().unwrap();
    let (socket, number) = clients.get_mut(path).unwrap();
    *number += 1;
    let trick = if *number == 10 { trick } else { Trick::None };
    let times = match trick {
        Trick::None => 1,
        Trick::Lose | Trick::Refuse => 0,
        Trick::Repeat => 2,
    };
    for _ in 0..times {
        say(socket, opcode, body)?;
    }
    Ok(trick == Trick::Refuse)
}

/// Each message becomes a POST, its answer a message.
fn converse(mut socket: TcpStream, api: &TcpStream, path: &str) -> io::Result<()> {
    let (mut reader, mut message) = (Reader::new(Sender::Client), Vec::new());
    let mut buffer = [0; 65_536];
    loop {
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let mut at = 0;
        loop {
            match reader.step(&buffer[..count], &mut at).unwrap() {
                Step::NeedMore => break,
                Step::Begin(_) => {}
                Step::Payload { range, phase, last } => {
                    let header = *reader.header();
                    frame::mask(&mut buffer[range.clone()], header.mask.unwrap(), phase);
                    message.extend_from_slice(&buffer[range]);
                    if !last {
                        continue;
                    }
                    let body = std::mem::take(&mut message);
                    let content_type = match header.opcode {
                        frame::CLOSE => {
                            call(api, "DELETE", path, "text/plain", b"")?;
                            say(&mut socket, frame::CLOSE, &body)?;
                            // The map's clone would keep it open.
                            return socket.shutdown(std::net::Shutdown::Write);
                        }
                        frame::TEXT => "text/plain; charset=utf-8",
                        _ => "application/octet-stream",
                    };
                    let (answer, same_type) = call(api, "POST", path, content_type, &body)?;
                    assert!(same_type);
                    say(&mut socket, header.opcode, &answer)?;
                }
            }
        }
    }
}

/// Asks the API: the body, and whether it has the type of the question (if that has one).
fn call(
    mut api: &TcpStream,
    method: &str,
    path: &str,
    content_type: &str,
    body: &[u8],
) -> io::Result<(Vec<u8>, bool)> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: api\r\nContent-Type: {content_type}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    api.write_all(&[head.as_bytes(), body].concat())?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 65_536]);
    loop {
        let count = api.read(&mut buffer)?;
        assert!(count > 0);
        bytes.extend_from_slice(&buffer[..count]);
        if let Some(answer) = http::response(&bytes).unwrap() {
            assert_eq!(answer.status, 200);
            let header = format!("\r\nContent-Type: {content_type}");
            let same_type = String::from_utf8_lossy(&bytes).contains(&header);
            return Ok((answer.body.to_vec(), same_type));
        }
    }
}

fn say(socket: &mut TcpStream, opcode: u8, payload: &[u8]) -> io::Result<()> {
    let header = Header {
        fin: true,
        opcode,
        mask: None,
        payload_bytes: payload.len() as u64,
    };
    let mut out = vec![0; header.encoded_bytes()];
    header.write(&mut out);
    out.extend_from_slice(payload);
    socket.write_all(&out)
}

/// A run through such a bridge: its JSON, and the paths that were asked for.
fn result(name: &str, line: &str, trick: Trick) -> (serde_json::Value, Vec<String>) {
    let (address, clients) = bridge(trick);
    let file = format!("wsteady-bench-bridge-{}-{name}.json", std::process::id());
    let path = std::env::temp_dir().join(file);
    let url = format!("--url ws://{address} --quiet --json {}", path.display());
    let line = format!("test {url} {line}");
    let words = line.split_whitespace();
    let passed = if name.starts_with("push") {
        push::run(&PushLine::parse_from(words).args).unwrap()
    } else {
        run(&Line::parse_from(words).args).unwrap()
    };
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let faults = json["faults"].as_array().unwrap();
    assert_eq!(passed, faults.is_empty(), "{json:#}");
    let paths = clients.lock().unwrap().keys().cloned().collect();
    (json, paths)
}

#[test]
fn bridged_clients_get_their_messages_back_from_the_api() {
    for (name, kind) in [("text", "--text"), ("binary", "")] {
        let line = format!("--bridge --connections 5 --threads 2 --messages 20 --size 5000 {kind}");
        let (json, mut paths) = result(name, &line, Trick::None);
        assert_eq!(json["faults"], serde_json::json!([]), "{json:#}");
        assert_eq!(json["echoes_total"], 100);
        assert_eq!(json["push_p50_us"], serde_json::Value::Null);
        paths.sort();
        assert_eq!(paths.len(), 5);
        for (number, path) in paths.iter().enumerate() {
            let nonce = path.strip_prefix(&format!("/c{number}-")).unwrap();
            assert!(nonce.len() == 16 && paths[0].ends_with(nonce), "{path}");
        }
    }
    let line = "--bridge --connections 20 --idle --at-once 3 --warmup 0s --duration 300ms";
    let (json, _) = result("idle", line, Trick::None);
    assert_eq!(json["faults"], serde_json::json!([]), "{json:#}");
    assert_eq!(json["echoes_total"], 20);
}

#[test]
fn pushes_arrive_once_and_in_order() {
    for (name, line) in [
        ("push-loop", "--messages 30 --size 5000 --threads 2"),
        ("push-text", "--messages 30 --text --at-once 2"),
        ("push-rate", "--rate 750 --warmup 0s --duration 200ms"),
    ] {
        let line = format!("--connections 5 --push-connections 3 {line}");
        let (json, paths) = result(name, &line, Trick::None);
        assert_eq!(json["faults"], serde_json::json!([]), "{json:#}");
        let counts = (&json["echoes_total"], &json["pushes_answered"]);
        assert_eq!(counts, (&150.into(), &150.into()), "{name}");
        assert!(json["push_p99_us"].as_f64().unwrap() > 0.0);
        assert!(json["pushes_per_second"].as_f64().unwrap() > 0.0);
        assert_eq!(paths.len(), 5);
    }
}

#[test]
fn bad_pushes_are_seen() {
    let line = "--connections 3 --rate 300 --warmup 0s --duration 400ms --grace 500ms";
    let (json, _) = result("push-lose", line, Trick::Lose);
    assert_eq!(json["faults"], serde_json::json!(["3 messages were lost"]));
    let (json, _) = result("push-repeat", line, Trick::Repeat);
    let expected = serde_json::json!(["3 messages came more than once"]);
    assert_eq!(json["faults"], expected);
    let (json, _) = result("push-refuse", line, Trick::Refuse);
    assert_eq!(
        (&json["pushes_failed"], &json["lost"]),
        (&3.into(), &3.into())
    );
    assert_eq!(json["reasons"]["push: status 503"], 3, "{json:#}");
}

#[test]
fn an_id_goes_behind_the_path_and_before_the_query() {
    let plan = |url: &str| {
        let line = ["test", "--bridge", "--url", url];
        let mut plan = Plan::new(&Line::parse_from(line).args, None, 1000).unwrap();
        plan.nonce = Some(0xab);
        plan
    };
    for (url, path) in [
        ("ws://127.0.0.1:1", "/c7-00000000000000ab"),
        ("ws://127.0.0.1:1/", "/c7-00000000000000ab"),
        ("ws://127.0.0.1:1/a/?b=/c", "/a/c7-00000000000000ab?b=/c"),
        ("ws://127.0.0.1:1/a?b", "/a/c7-00000000000000ab?b"),
    ] {
        assert_eq!(plan(url).path(7), path);
    }
    let mut plain = plan("ws://127.0.0.1:1/a?b");
    plain.nonce = None;
    assert_eq!(plain.path(7), "/a?b");
    // One in 2^64 runs may fail here.
    assert_ne!(nonce(), nonce());
}
