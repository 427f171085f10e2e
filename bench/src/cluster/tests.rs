//! The tool before nodes that do what nodes must not do: it must notice, and say what.

use super::report::Report;
use super::{Args, Plan, conduct};
use crate::{frame, http, upgrade};
use clap::Parser;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// What two nodes do with each tenth push to a client that they know.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Right,
    Lose,
    Repeat,
    /// Says 404, and delivers all the same.
    Deny,
    /// Says 404 and means it.
    Forget,
    /// Gives it to another client.
    Swap,
    /// Says 200 to whoever is asked for.
    Flatter,
}

struct Nodes {
    manner: Manner,
    clients: Mutex<HashMap<String, TcpStream>>,
    pushes: AtomicU32,
}

impl Nodes {
    /// Two addresses that share their clients, as if they found them at each other.
    fn start(manner: Manner) -> [SocketAddr; 2] {
        let nodes = Arc::new(Self {
            manner,
            clients: Mutex::default(),
            pushes: AtomicU32::new(0),
        });
        [(); 2].map(|()| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let (address, nodes) = (listener.local_addr().unwrap(), Arc::clone(&nodes));
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let nodes = Arc::clone(&nodes);
                    std::thread::spawn(move || nodes.serve(stream));
                }
            });
            address
        })
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        let mut input = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut input) {
            bytes.extend_from_slice(&input[..count]);
            if let upgrade::Request::Upgrade { response, .. } = upgrade::answer(&bytes) {
                let id = target(&bytes);
                let twin = stream.try_clone().unwrap();
                self.clients.lock().unwrap().insert(id, twin);
                stream.write_all(response.as_bytes()).unwrap();
                // What it says from now on is a Close, and needs no answer.
                while let Ok(1..) = stream.read(&mut input) {}
                return;
            }
            while let Ok(Some(request)) = http::request(&bytes) {
                let (status, body) = self.push(&request.target[1..], &request.body);
                let used = request.bytes;
                let mut answer = Vec::new();
                http::answer(&mut answer, status, b"text/plain", body, false);
                if stream.write_all(&answer).is_err() {
                    return;
                }
                bytes.drain(..used);
            }
        }
    }

    fn push(&self, id: &str, body: &[u8]) -> (&'static str, &'static [u8]) {
        let mut message = vec![0x80 | frame::BINARY, body.len() as u8];
        message.extend_from_slice(body);
        let mut clients = self.clients.lock().unwrap();
        let (ok, absent) = (("200 OK", &b"ok"[..]), ("404 Not Found", &b""[..]));
        if !clients.contains_key(id) {
            return if self.manner == Manner::Flatter {
                ok
            } else {
                absent
            };
        }
        let number = self.pushes.fetch_add(1, Ordering::Relaxed);
        let manner = if number % 10 == 9 {
            self.manner
        } else {
            Manner::Right
        };
        let other = clients.keys().find(|other| *other != id).cloned();
        let (to, times, answer) = match manner {
            Manner::Right | Manner::Flatter => (id, 1, ok),
            Manner::Lose => (id, 0, ok),
            Manner::Repeat => (id, 2, ok),
            Manner::Deny => (id, 1, absent),
            Manner::Forget => (id, 0, absent),
            Manner::Swap => (other.as_deref().expect("there are several"), 1, ok),
        };
        let client = clients.get_mut(to).expect("all of them are known");
        for _ in 0..times {
            client.write_all(&message).unwrap();
        }
        answer
    }
}

/// The path of a request, without slash and query.
fn target(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let target = text.split(' ').nth(1).expect("a request line");
    target[1..]
        .split('?')
        .next()
        .unwrap_or_default()
        .to_string()
}

/// What was missed before such nodes, by its name.
fn missed(manner: Manner) -> Vec<String> {
    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        args: Args,
    }
    let [first, second] = Nodes::start(manner);
    let urls = [
        format!("--url=ws://{first}/"),
        format!("--url=ws://{second}/"),
    ];
    let nodes = format!("--nodes={first},{second}");
    let fixed = [
        "--clients=20",
        "--rate=400",
        "--unknown=0.1",
        "--quiet",
        "--p99=5s",
    ];
    let times = [
        "--duration=400ms",
        "--warmup=100ms",
        "--margin=1ms",
        "--grace=500ms",
    ];
    let words = ["test"].into_iter().chain(urls.iter().map(String::as_str));
    let words = words.chain([nodes.as_str()]).chain(fixed).chain(times);
    let args = Words::parse_from(words).args;
    let plan = Plan::new(&args, 1000).unwrap();
    let (parts, measured) = conduct(&plan, true).unwrap();
    let report = Report::new(&plan, parts, &measured);
    let missed = report.checks.iter().filter(|check| !check.met);
    missed.map(|check| check.what.clone()).collect()
}

#[test]
fn nodes_that_do_wrong_are_found_out() {
    for (manner, what) in [
        (Manner::Right, &[][..]),
        (Manner::Lose, &["200, but never came (lost)"]),
        (Manner::Repeat, &["came more than once"]),
        (Manner::Deny, &["came, though the answer was 404 or 503"]),
        (Manner::Forget, &["404 for a client that was there"]),
        (Manner::Swap, &["came to another client"]),
        (Manner::Flatter, &["200 for an id that is nowhere"]),
    ] {
        assert_eq!(missed(manner), what, "{manner:?}");
    }
}
