//! Three nodes of a bridge behind HAProxy, nginx and Envoy, each with the file of `docs/balancers` but for its
//! addresses: a ClientId is always at the same node, a dead node's clients come to the others, and nobody else moves.

use crate::bridge::bridge_to;
use crate::support::api::{Api, echo};
use crate::support::frames::{Frame, TEXT};
use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, handshake};
use crate::support::{Scratch, free_port, root, until, until_true};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[test]
fn haproxy() {
    through_a_loss("haproxy.cfg", |file, dir| {
        let mut command = program("haproxy");
        command.arg("-db").arg("-f").arg(file).current_dir(dir);
        command
    });
}

#[test]
fn nginx() {
    through_a_loss("nginx.conf", |file, dir| {
        let mut command = program("nginx");
        // What a distribution's own file says beside it, and a test's user may not write.
        let prefix = dir.display();
        let globals = format!("daemon off; pid {prefix}/nginx.pid;");
        command
            .arg("-p")
            .arg(dir)
            .arg("-e")
            .arg(dir.join("error.log"));
        command.arg("-c").arg(file).args(["-g", &globals]);
        command
    });
}

#[test]
fn envoy() {
    through_a_loss("envoy.yaml", |file, _| {
        // `scripts/setup-tests` puts it there; it stands in no package of Debian's.
        let mut command = Command::new(root().join(".venv/bin/envoy"));
        command.arg("-c").arg(file);
        command.args([
            "--use-dynamic-base-id",
            "--concurrency",
            "1",
            "--log-level",
            "warning",
        ]);
        command
    });
}

/// Long enough for health checks, on a busy machine, too.
const WAIT: Duration = Duration::from_secs(20);
const IDS: usize = 60;
/// Not an address of any proxy, so that it can be told from theirs.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 9);

fn through_a_loss(name: &str, start: impl Fn(&Path, &Path) -> Command) {
    let api = Api::welcome(echo);
    let changes = json!({ "trusted_proxies": ["127.0.0.1"], "loops": 1 });
    let mut nodes: Vec<Proxy> = (0..3)
        .map(|_| bridge_to(vec![api.url()], changes.clone()))
        .collect();
    let front = Front::start(name, &nodes, start);
    let mut clients: Vec<(String, Raw)> = (0..IDS)
        .map(|number| {
            let id = format!("c{number}");
            let client = front.join(&id, "?n=1&x=/y").expect("all nodes are there");
            (id, client)
        })
        .collect();
    let before: Vec<usize> = clients.iter().map(|(id, _)| node_of(&nodes, id)).collect();
    for node in 0..3 {
        let share = before.iter().filter(|one| **one == node).count();
        assert!(share > IDS / 10, "node {node} has {share} of {IDS} clients");
    }

    // A push has the same path and no query.
    for (id, client) in &mut clients {
        assert_eq!(front.push(id, "hello"), 200, "{id}");
        assert_eq!(hear(client), "hello");
        assert!(client.send_frame(&Frame::masked(TEXT, b"and back")));
        assert_eq!(hear(client), "and back");
    }
    assert_eq!(front.push("nobody", "?"), 404);
    for call in api.calls_by("GET") {
        // wsteady's own peer stands behind it; what the client wrote is gone.
        assert_eq!(
            call.header("x-forwarded-for"),
            format!("{CLIENT}, 127.0.0.1")
        );
        assert!(call.target.ends_with("?n=1&x=/y"), "{}", call.target);
    }

    // Another connection, another query: the same node.
    for (place, (id, client)) in clients.iter_mut().enumerate() {
        leave(client);
        until_true(WAIT, "the node to forget it", || {
            !is_at(&nodes[before[place]], id)
        });
        *client = front.join(id, "?n=2").expect("all nodes are there");
        assert_eq!(node_of(&nodes, id), before[place], "{id} has moved");
    }

    let dead = 1;
    nodes[dead].signal(Signal::KILL);
    for (place, (id, client)) in clients.iter_mut().enumerate() {
        if before[place] == dead {
            // However its proxy says so.
            client.end(WAIT);
            *client = until(WAIT, "another node", || front.join(id, "?n=3"));
        } else {
            assert_eq!(client.ended(), None, "{id} was at another node");
        }
    }
    // Whoever comes anew now: only those of the dead node are elsewhere.
    for (place, (id, client)) in clients.iter_mut().enumerate() {
        let now = node_of_living(&nodes, dead, id);
        if before[place] != dead {
            assert_eq!(now, before[place], "{id} has moved");
            leave(client);
            until_true(WAIT, "the node to forget it", || !is_at(&nodes[now], id));
            *client = front.join(id, "").expect("its node is there");
            assert_eq!(node_of_living(&nodes, dead, id), now, "{id} has moved");
        }
        assert_eq!(front.push(id, "still there"), 200, "{id}");
        assert_eq!(hear(client), "still there");
    }

    // The node is back, its clients are not: a push goes where they should be. (docs/cluster.md: this is what
    // a hash alone cannot do.) Whoever comes anew finds his old node.
    nodes[dead].restart();
    for (place, (id, client)) in clients.iter_mut().enumerate() {
        if before[place] == dead {
            until_true(WAIT, "the node to have its share", || {
                front.push(id, "x") == 404
            });
            let now = node_of(&nodes, id);
            leave(client);
            until_true(WAIT, "the node to forget it", || !is_at(&nodes[now], id));
            *client = front.join(id, "").expect("all nodes are there");
            assert_eq!(node_of(&nodes, id), dead, "{id} is not where it was");
        }
        leave(client);
    }
    drop(front);
    for node in nodes {
        node.finish();
    }
}

/// A balancer before the nodes.
struct Front {
    child: Child,
    address: SocketAddr,
    dir: Scratch,
}

impl Front {
    fn start(name: &str, nodes: &[Proxy], start: impl Fn(&Path, &Path) -> Command) -> Front {
        let dir = Scratch::new(name);
        let port = free_port();
        let file = dir.file(name);
        std::fs::write(&file, configuration(name, nodes, port)).unwrap();
        let log = std::fs::File::create(dir.file("log")).unwrap();
        let folder: PathBuf = dir.file("");
        let mut command = start(&file, &folder);
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("scripts/setup-tests installs it");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut front = Front {
            child,
            address,
            dir,
        };
        // Ready once it answers for a node: 404 comes from wsteady, 503 from itself.
        until_true(WAIT, "the balancer to see its nodes", || {
            let gone = front.child.try_wait().unwrap();
            assert_eq!(gone, None, "{name} has ended:\n{}", front.log());
            front.try_push("nobody", "?") == Some(404)
        });
        front
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.file("log")).unwrap_or_default()
    }

    /// A client of that id, if it is let in.
    fn join(&self, id: &str, query: &str) -> Option<Raw> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((CLIENT, 0)).into()).unwrap();
        socket.connect(&self.address.into()).unwrap();
        let mut raw = Raw::over(socket.into());
        // What a client says of its own address counts for nothing.
        let more = "X-Forwarded-For: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\n";
        raw.send(handshake(&format!("/{id}{query}"), more).as_bytes());
        (raw.head(WAIT).status() == 101).then_some(raw)
    }

    fn push(&self, id: &str, text: &str) -> u16 {
        self.try_push(id, text).expect("an answer")
    }

    fn try_push(&self, id: &str, text: &str) -> Option<u16> {
        let stream = std::net::TcpStream::connect(self.address).ok()?;
        let mut raw = Raw::over(stream);
        let length = text.len();
        let head =
            format!("POST /{id} HTTP/1.1\r\nHost: proxy.test\r\nContent-Length: {length}\r\n\r\n");
        raw.send(format!("{head}{text}").as_bytes());
        Some(raw.try_head(WAIT)?.status())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // nginx has children, which its end by KILL would leave behind.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        until_true(WAIT, "the balancer to end", || {
            self.child.try_wait().unwrap().is_some()
        });
    }
}

/// The file of the documentation with addresses of this test.
fn configuration(name: &str, nodes: &[Proxy], port: u16) -> String {
    let text = std::fs::read_to_string(root().join("docs/balancers").join(name)).unwrap();
    let text = replaced(&text, "8000", &port.to_string());
    let mut out = String::new();
    for line in text.lines() {
        let place = (0..nodes.len()).find(|place| line.contains(&format!("10.0.1.{}", place + 1)));
        let line = match place {
            Some(place) => {
                let (address, admin) = (nodes[place].address, nodes[place].admin);
                let own = format!("10.0.1.{}", place + 1);
                // In one go: a port may look like another one's digits.
                let line = replaced(line, &own, "<ip>");
                let line = replaced(&line, "8080", "<port>");
                // nginx has no checks of its own.
                line.replace("8081", &admin.port().to_string())
                    .replace("<ip>", &address.ip().to_string())
                    .replace("<port>", &address.port().to_string())
            }
            None => line.to_owned(),
        };
        out += &line;
        out.push('\n');
    }
    // A test has few clients, and perhaps few descriptors.
    out.replace("worker_rlimit_nofile 130000;", "")
        .replace("60000", "500")
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} stands no more in {text}");
    text.replace(from, to)
}

fn program(name: &str) -> Command {
    // Debian's servers stand where a plain user's PATH does not look.
    let place = Path::new("/usr/sbin").join(name);
    Command::new(if place.exists() { place } else { name.into() })
}

/// At which node that client is: exactly one knows it.
fn node_of(nodes: &[Proxy], id: &str) -> usize {
    let found: Vec<usize> = (0..nodes.len())
        .filter(|node| is_at(&nodes[*node], id))
        .collect();
    assert_eq!(found.len(), 1, "{id} is at {found:?}");
    found[0]
}

fn node_of_living(nodes: &[Proxy], dead: usize, id: &str) -> usize {
    let living = |node: &usize| *node != dead && is_at(&nodes[*node], id);
    let found: Vec<usize> = (0..nodes.len()).filter(living).collect();
    assert_eq!(found.len(), 1, "{id} is at {found:?}");
    found[0]
}

fn is_at(node: &Proxy, id: &str) -> bool {
    let mut raw = Raw::connect(node.address);
    let head =
        format!("GET /{id} HTTP/1.1\r\nHost: proxy.test\r\nAccept: application/json\r\n\r\n");
    raw.send(head.as_bytes());
    match raw.head(WAIT).status() {
        200 => true,
        404 => false,
        status => panic!("{status} of {id}"),
    }
}

fn hear(client: &mut Raw) -> String {
    let frame = client.frame(WAIT);
    assert_eq!(frame.opcode, TEXT, "{frame:?}");
    String::from_utf8(frame.payload).unwrap()
}

/// Closes, and hears the answer; Envoy keeps the connection for a second longer.
fn leave(client: &mut Raw) {
    client.send_frame(&Frame::close(1000, "").with_key([9, 8, 7, 6]));
    assert_eq!(client.close_code(WAIT), 1000);
}
