//! Clients that people use: Chromium, Node `ws`, Python `websockets`, each with and without
//! permessage-deflate and a subprotocol, each through the death of its server. Those servers that
//! speak the subprotocol confirm what they have dealt with, the others what they have received.

use crate::support::peer::{KINDS, Kind, Peer};
use crate::support::proxy::Proxy;
use crate::support::tls::our_pair;
use crate::support::{Scratch, root};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// What a client says: `half`, then its result.
pub type Reports = Receiver<String>;

/// A page with Chromium starting cold on a busy machine.
const REPORT: Duration = Duration::from_secs(60);

/// Two servers, one client; the server it uses is killed when half of the echoes are in.
fn through_a_failover(
    sealed: bool,
    deflate: bool,
    subprotocol: bool,
    server: Kind,
    start: impl Fn(&Proxy) -> (Reports, Box<dyn FnOnce()>),
) -> Value {
    let mut options = vec!["--subprotocol", "chat"];
    if deflate {
        options.push("--deflate");
    }
    if subprotocol {
        options.push("--processed");
    }
    let peer = |name| match sealed {
        true => Peer::sealed(server, name, our_pair(), &options),
        false => Peer::start(server, name, &options),
    };
    let (mut first, second) = (peer("b1"), peer("b2"));
    let mut changes = match sealed {
        true => json!({ "listen": { "tls": true } }),
        false => json!({}),
    };
    if subprotocol {
        changes["session"] = json!({ "confirm": "processed" });
    }
    let proxy = Proxy::start(&[first.url(), second.url()], changes);
    // Whichever the proxy chooses: the first is the one to be killed.
    proxy.admin("PATCH", "/v1/servers/b2", Some(r#"{"state": "disabled"}"#));
    let (reports, end) = start(&proxy);
    assert_eq!(
        reports.recv_timeout(REPORT).expect("half of the echoes"),
        "half"
    );
    proxy.admin("PATCH", "/v1/servers/b2", Some(r#"{"state": "enabled"}"#));
    first.kill();
    let result = reports.recv_timeout(REPORT).expect("a result");
    end();
    let result: Value = serde_json::from_str(&result).unwrap();
    let what = format!("{server:?}, deflate {deflate}, subprotocol {subprotocol}: {result}");
    let dealt_with = subprotocol;
    for number in result["missing"].as_array().expect("numbers") {
        // The library answers a Ping before its application has echoed what came ahead of it.
        let received = !dealt_with && has_received(&first, number);
        assert!(received, "{what}: {number} is lost");
    }
    assert_eq!(result["wrong"], 0, "{what}");
    assert_eq!(result["closed"], Value::Null, "{what}");
    assert_eq!(
        result["servers"].as_array().map(Vec::len),
        Some(2),
        "{what}"
    );
    let chosen = if subprotocol {
        json!("chat")
    } else {
        Value::Null
    };
    assert_eq!(result["sub"], chosen, "{what}");
    let extension = result["ext"].as_str().unwrap_or_default();
    assert_eq!(extension.contains("permessage-deflate"), deflate, "{what}");
    proxy.finish();
    result
}

/// Whether that message of a client stands in the server's log.
fn has_received(server: &Peer, number: &Value) -> bool {
    let log = std::fs::read(server.log()).unwrap();
    let body = format!("\n{number} ");
    log.windows(body.len())
        .any(|bytes| bytes == body.as_bytes())
}

/// Runs a client program and gives the lines that it prints.
pub fn program(mut command: Command) -> (Reports, Box<dyn FnOnce()>) {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("scripts/setup-tests was run");
    let lines: BufReader<ChildStdout> = BufReader::new(child.stdout.take().unwrap());
    let (say, reports) = channel();
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let _ = say.send(line);
        }
    });
    (
        reports,
        Box::new(move || assert!(child.wait().unwrap().success())),
    )
}

/// In the clear or with TLS on both legs.
pub fn library_client(client: Kind, sealed: bool) {
    for deflate in [false, true] {
        for (subprotocol, server) in [(false, KINDS[0]), (true, KINDS[1])] {
            through_a_failover(sealed, deflate, subprotocol, server, |proxy| {
                let mut command = client.program("client");
                proxy.is_believed_by(command.arg(proxy.url("/room?x=1")));
                if deflate {
                    command.arg("--deflate");
                }
                if subprotocol {
                    command.args(["--subprotocol", "other,chat"]);
                }
                program(command)
            });
        }
    }
}

#[test]
fn python_websockets() {
    library_client(Kind::Python, false);
}

#[test]
fn node_ws() {
    library_client(Kind::Node, false);
}

#[test]
fn chromium() {
    browser(false, &[]);
}

/// In the clear or with TLS on both legs; `flags` are the browser's.
pub fn browser(sealed: bool, flags: &[String]) {
    // A browser always offers deflate; the server decides (W-D1: such clients were refused).
    for deflate in [false, true] {
        for (subprotocol, server) in [(false, KINDS[1]), (true, KINDS[0])] {
            through_a_failover(sealed, deflate, subprotocol, server, |proxy| {
                let (page, reports) = serve_page();
                let sub = if subprotocol { "&sub=other,chat" } else { "" };
                let mut browser =
                    browse_with(flags, &format!("{page}?url={}{sub}", proxy.url("/room")));
                (reports, Box::new(move || browser.close()))
            });
        }
    }
}

/// A headless Chromium and its profile.
pub struct Browser {
    child: Child,
    _profile: Scratch,
}

pub fn browse(url: &str) -> Browser {
    browse_with(&[], url)
}

fn browse_with(flags: &[String], url: &str) -> Browser {
    let profile = Scratch::new("chromium");
    let child = Command::new("chromium")
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args(["--disable-background-networking", "--disable-dev-shm-usage"])
        .arg(format!(
            "--user-data-dir={}",
            profile.file("profile").display()
        ))
        .args(flags)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("scripts/setup-tests installs chromium");
    Browser {
        child,
        _profile: profile,
    }
}

impl Browser {
    pub fn close(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.close();
    }
}

/// Serves `browser.html` on a port of its own; what it posts comes out of the channel.
pub fn serve_page() -> (String, Reports) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (say, reports) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A browser opens connections ahead of need; one that says nothing must not block.
            let say = say.clone();
            std::thread::spawn(move || {
                if let Some(report) = answer(stream).filter(|report| !report.is_empty()) {
                    let _ = say.send(report);
                }
            });
        }
    });
    (url, reports)
}

/// Answers one request with the page; gives the request's body.
fn answer(stream: TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let page = std::fs::read(root().join("tests/peers/browser.html")).unwrap();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        page.len()
    );
    let mut stream = reader.into_inner();
    stream.write_all(&[head.as_bytes(), &page].concat()).ok()?;
    String::from_utf8(body).ok()
}
