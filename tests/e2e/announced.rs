//! The PROXY protocol, both versions: who connects for somebody else says so in the first bytes. Before
//! wsteady stand HAProxy, nginx and curl, behind it nginx and a server that writes down what comes.

use crate::support::frames::{Frame, TEXT};
use crate::support::peer::{Kind, Peer};
use crate::support::proxy::Proxy;
use crate::support::raw::{Origin, Raw, Served, echo_frames, handshake};
use crate::support::tls::{self, Authority, Pipe, our_pair};
use crate::support::{Scratch, free_port, until, until_true};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(15);

/// Not an address of any proxy, so that it can be told from theirs.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 9);

/// Another program of the test.
struct Program {
    child: Child,
    dir: Scratch,
}

impl Program {
    /// Runs it with this file; ready when `port` listens.
    fn start(name: &str, file: &str, port: u16, arguments: &[&str]) -> Program {
        let dir = Scratch::new(name);
        let path = dir.file("conf");
        let home = dir.file("").display().to_string();
        std::fs::write(&path, file.replace("DIR", &home)).unwrap();
        let log = std::fs::File::create(dir.file("log")).unwrap();
        let place = Path::new("/usr/sbin").join(name);
        let program: PathBuf = if place.exists() { place } else { name.into() };
        let child = Command::new(program)
            .args(arguments)
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("scripts/setup-tests installs it");
        let mut program = Program { child, dir };
        until_true(WAIT, "it to listen", || {
            let gone = program.child.try_wait().unwrap();
            assert_eq!(gone, None, "{name} has ended: {}", program.log());
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        program
    }

    fn haproxy(port: u16, server: SocketAddr, how: &str) -> Program {
        let file = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             listen front\n bind 127.0.0.1:{port}\n server w {server} {how}\n"
        );
        Program::start("haproxy", &file, port, &["-db", "-f"])
    }

    /// `main` stands beside `events`.
    fn nginx(port: u16, main: &str) -> Program {
        let file = format!(
            "daemon off; pid DIR/nginx.pid; error_log DIR/error.log; worker_processes 1;\n\
             {main}\n"
        );
        Program::start("nginx", &file, port, &["-e", "/dev/null", "-c"])
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.file("log")).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // nginx has children, which its end by KILL would leave behind.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        until_true(WAIT, "it to end", || {
            self.child.try_wait().unwrap().is_some()
        });
    }
}

/// A server that remembers heads, and wsteady before it; `changes` say what is special.
fn announced(changes: Value) -> (Served, Proxy) {
    let server = crate::support::raw::echo_origin();
    let mut all = json!({
        "listen": { "proxy_protocol": true }, "trusted_proxies": ["127.0.0.1"],
    });
    for (key, value) in changes.as_object().expect("a map") {
        all[key] = value.clone();
    }
    let proxy = Proxy::start(&[server.url()], all);
    (server, proxy)
}

fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

fn must_echo(client: &mut Raw) {
    client.send_frame(&Frame::masked(TEXT, b"hello"));
    assert_eq!(client.frame(WAIT).payload, b"hello");
}

/// What the server heard of the newest client, and what wsteady says of its sessions.
fn must_know(proxy: &Proxy, server: &Served, whom: &str) {
    let heads = server.heads();
    let head = heads.last().expect("a head");
    assert_eq!(head.header("x-forwarded-for"), Some(whom), "{head:?}");
    let sessions = proxy.sessions();
    let clients: Vec<&str> = sessions
        .iter()
        .filter_map(|one| one["client"].as_str())
        .collect();
    let starts = |one: &&str| one.starts_with(whom) || one.starts_with(&format!("[{whom}"));
    assert!(clients.iter().any(starts), "{clients:?}");
    until_true(WAIT, "a line of the log", || proxy.log().contains(whom));
}

#[test]
fn haproxy_before_wsteady() {
    for how in ["send-proxy", "send-proxy-v2"] {
        for sealed in [false, true] {
            let listen = match sealed {
                true => json!({ "proxy_protocol": true, "tls": true }),
                false => json!({ "proxy_protocol": true }),
            };
            let (server, proxy) = announced(json!({ "listen": listen }));
            let port = free_port();
            let front = Program::haproxy(port, proxy.address, how);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let tcp = connect_from(CLIENT, address);
            let mut client = Raw::on(match sealed {
                true => Pipe::connect(tcp, &tls::our_client(), "localhost"),
                false => tcp.into(),
            });
            client.upgrade("/", "");
            must_echo(&mut client);
            must_know(&proxy, &server, &CLIENT.to_string());
            let proto = if sealed { "https" } else { "http" };
            let head = server.heads().pop().expect("a head");
            assert_eq!(head.header("x-forwarded-proto"), Some(proto));
            drop(client);
            drop(front);
            proxy.finish();
        }
    }
}

#[test]
fn nginx_before_wsteady() {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let (server, proxy) = announced(json!({}));
    let port = free_port();
    let front = Program::nginx(
        port,
        &format!(
            "load_module {module}; events {{}}\n\
             stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass {}; proxy_protocol on; }} }}",
            proxy.address
        ),
    );
    let mut client = Raw::over(connect_from(CLIENT, ([127, 0, 0, 1], port).into()));
    client.upgrade("/", "");
    must_echo(&mut client);
    must_know(&proxy, &server, &CLIENT.to_string());
    drop((client, front));
    proxy.finish();
}

#[test]
fn curl_tells_of_itself() {
    let server = Origin::bind().serve(|raw, _| {
        raw.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell");
    });
    let changes = json!({
        "listen": { "proxy_protocol": true, "tls": true }, "trusted_proxies": [CLIENT.to_string()],
        "pools": { "main": { "kind": "http", "connections": { "min": 0, "idle": "300ms" } } },
    });
    let url = server.url().replace("ws:", "http:");
    let proxy = Proxy::start(&[url], changes);
    let url = format!("https://127.0.0.1:{}/", proxy.address.port());
    let options = [
        "-sk",
        "--haproxy-protocol",
        "--interface",
        "127.0.9.9",
        &url,
    ];
    let output = Command::new("curl").args(options).output().unwrap();
    assert_eq!(output.stdout, b"well", "{output:?}");
    let head = server.heads().pop().expect("a head");
    assert_eq!(head.header("x-forwarded-for"), Some("127.0.9.9"));
    proxy.finish();
}

fn line(from: &str) -> Vec<u8> {
    format!("PROXY TCP4 {from} 192.0.2.1 4711 443\r\n").into()
}

fn binary(from: [u8; 4]) -> Vec<u8> {
    let ports = [0x12, 0x67, 0x01, 0xbb];
    [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
        &from[..],
        &[192, 0, 2, 1],
        &ports,
    ]
    .concat()
}

#[test]
fn a_header_may_come_in_pieces_and_with_what_is_behind_it() {
    let (server, proxy) = announced(json!({}));
    let headers = [line("203.0.113.5"), binary([203, 0, 113, 5])];
    for header in &headers {
        let request = handshake("/", "");
        let all = [header, request.as_bytes()].concat();
        for step in [1, 7, all.len()] {
            let mut client = Raw::plain(proxy.address);
            for piece in all.chunks(step) {
                assert!(client.send(piece));
                if step < all.len() {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            assert_eq!(client.head(WAIT).status(), 101);
            must_echo(&mut client);
            must_know(&proxy, &server, "203.0.113.5");
        }
    }
    // A proxy that speaks for itself: its own address counts.
    let own = [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"];
    for header in own {
        let mut client = Raw::plain(proxy.address);
        client.send(header);
        client.upgrade("/", "");
        must_know(&proxy, &server, "127.0.0.1");
    }
    // IPv6 behind IPv4.
    let mut client = Raw::plain(proxy.address);
    client.send(b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n");
    client.upgrade("/", "");
    must_know(&proxy, &server, "2001:db8::7");
    drop(client);
    proxy.finish();
}

#[test]
fn what_is_no_header_is_closed_without_a_word() {
    let (_server, proxy) = announced(json!({}));
    let long = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
    let kinds = [
        handshake("/", "").into_bytes(),
        b"PROXY TCP4 1.1.1.1\r\n".to_vec(),
        b"PROXY TCP4 1.1.1.1 2.2.2.2 99999 1\r\n".to_vec(),
        long.into_bytes(),
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c............".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(),
        vec![0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5],
    ];
    for bytes in kinds {
        let mut client = Raw::plain(proxy.address);
        client.send(&bytes);
        client.end(WAIT);
        assert!(
            client.pending.is_empty(),
            "{:?}",
            bytes.escape_ascii().to_string()
        );
    }
    // Nothing, or not all of it: gone within `limits.handshake`, which is 2 s here.
    let begun = Instant::now();
    let mut silent: Vec<Raw> = (0..200).map(|_| Raw::plain(proxy.address)).collect();
    for (client, cut) in silent.iter_mut().zip(0..) {
        client.send(&line("203.0.113.5")[..cut % 40]);
    }
    for client in &mut silent {
        client.end(WAIT);
    }
    let took = begun.elapsed();
    assert!(
        took > Duration::from_millis(1_500) && took < Duration::from_secs(6),
        "{took:?}"
    );
    drop(silent);
    proxy.finish();
}

#[test]
fn strangers_may_not_connect() {
    let changes = json!({ "trusted_proxies": ["127.0.0.2"] });
    let (server, proxy) = announced(changes);
    let begun = Instant::now();
    let mut stranger = Raw::plain(proxy.address);
    stranger.send(&line("203.0.113.5"));
    stranger.end(WAIT);
    assert!(begun.elapsed() < Duration::from_secs(1), "at once");
    until_true(WAIT, "a word of it", || {
        proxy.log().contains("trusted_proxies")
    });
    let mut client = Raw::over(connect_from(Ipv4Addr::new(127, 0, 0, 2), proxy.address));
    client.send(&line("203.0.113.5"));
    client.upgrade("/", "");
    must_know(&proxy, &server, "203.0.113.5");
    drop(client);
    proxy.finish();
}

#[test]
fn each_address_that_is_told_has_its_own_limit() {
    let (_server, proxy) = announced(json!({ "limits": { "per_address": 2, "handshake": "2s" } }));
    let come = |from: &str| {
        let mut client = Raw::plain(proxy.address);
        client.send(&line(from));
        client.send(handshake("/", "").as_bytes());
        (client.head(WAIT).status(), client)
    };
    let rows = [
        ("203.0.113.5", 101),
        ("203.0.113.5", 101),
        ("203.0.113.5", 429),
    ];
    let inside: Vec<Raw> = rows
        .into_iter()
        .chain([("203.0.113.6", 101)])
        .map(|(from, due)| {
            let (status, client) = come(from);
            assert_eq!(status, due, "{from}");
            client
        })
        .collect();
    drop(inside);
    until_true(WAIT, "the places to be free again", || {
        come("203.0.113.5").0 == 101
    });
    proxy.finish();
}

#[test]
fn the_header_stands_before_tls() {
    let (server, proxy) = announced(json!({ "listen": { "proxy_protocol": true, "tls": true } }));
    for header in [line("203.0.113.5"), binary([203, 0, 113, 5])] {
        for step in [1, header.len()] {
            let mut tcp = TcpStream::connect(proxy.address).unwrap();
            tcp.set_nodelay(true).unwrap();
            for piece in header.chunks(step) {
                tcp.write_all(piece).unwrap();
            }
            let mut client = Raw::on(Pipe::connect(tcp, &tls::our_client(), "localhost"));
            client.upgrade("/", "");
            must_echo(&mut client);
            must_know(&proxy, &server, "203.0.113.5");
        }
    }
    proxy.finish();
}

/// What came first on a connection to a server.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// Whose it is.
    For(SocketAddr),
    /// wsteady's own.
    Own,
}

/// Takes the header away, and gives what it says.
fn take_header(raw: &mut Raw, version: &str) -> Told {
    let told = raw.wait(WAIT, |bytes| match version {
        "v1" => {
            let end = bytes.windows(2).position(|two| two == b"\r\n")?;
            let line = std::str::from_utf8(&bytes[..end]).expect("ASCII");
            let words: Vec<&str> = line.split(' ').collect();
            let told = match words[..] {
                ["PROXY", "UNKNOWN"] => Told::Own,
                ["PROXY", "TCP4", from, to, port, _] => {
                    assert_eq!(to, "127.0.0.1");
                    Told::For(format!("{from}:{port}").parse().expect("an address"))
                }
                _ => panic!("{line:?}"),
            };
            Some((told, end + 2))
        }
        _ => {
            let length = 16 + usize::from(u16::from_be_bytes([*bytes.get(14)?, *bytes.get(15)?]));
            let block = bytes.get(16..length)?;
            assert_eq!(bytes[..12], *b"\r\n\r\n\0\r\nQUIT\n");
            let told = match (bytes[12], bytes[13]) {
                (0x20, _) => Told::Own,
                (0x21, 0x11) => {
                    let ip: [u8; 4] = block[..4].try_into().expect("four");
                    assert_eq!(block[4..8], [127, 0, 0, 1]);
                    Told::For((ip, u16::from_be_bytes([block[8], block[9]])).into())
                }
                kind => panic!("{kind:?}"),
            };
            Some((told, length))
        }
    });
    let (told, length) = told.expect("a header");
    raw.pending.drain(..length);
    told
}

#[test]
fn servers_are_told_for_whom_a_connection_is() {
    for version in ["v1", "v2"] {
        let origin = Origin::bind();
        let pool = json!({ "main": {
            "proxy_protocol": version,
            "health": { "interval": "500ms", "timeout": "400ms", "fall": 255, "rise": 1 },
        } });
        let proxy = Proxy::start(&[origin.url()], json!({ "pools": pool }));
        let tcp = connect_from(CLIENT, proxy.address);
        let client_address = tcp.local_addr().unwrap();
        let mut client = Raw::over(tcp);
        client.send(handshake("/", "").as_bytes());
        let (mut probes, mut server) = (0, None);
        while probes < 2 || server.is_none() {
            let mut raw = origin.try_next(WAIT).expect("a dial");
            match take_header(&mut raw, version) {
                Told::Own => {
                    probes += 1;
                    if raw.try_head(WAIT).is_some() {
                        raw.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                    }
                }
                told => {
                    assert_eq!(told, Told::For(client_address), "{version}");
                    let head = raw.head(WAIT);
                    assert_eq!(head.header("x-forwarded-for"), Some("127.0.9.9"));
                    raw.accept(&head, "");
                    server = Some(raw);
                }
            }
        }
        let mut server = server.expect("accepted");
        assert_eq!(client.head(WAIT).status(), 101);
        // A failover tells it once more.
        server.send_frame(&Frame::new(TEXT, b"down"));
        assert_eq!(client.frame(WAIT).payload, b"down");
        server.reset();
        let again = until(WAIT, "another dial for the client", || {
            let mut raw = origin.try_next(WAIT).expect("a dial");
            let told = take_header(&mut raw, version);
            (told == Told::For(client_address)).then_some(raw)
        });
        drop((client, again));
        proxy.finish_within(Duration::from_secs(10));
    }
}

#[test]
fn the_header_stands_before_the_tls_of_servers() {
    let dir = Scratch::new("announced");
    let ca = Authority::ours().file(&dir, "ca");
    for version in ["v1", "v2"] {
        let origin = Origin::bind();
        let url = origin.url().replace("ws:", "wss:");
        let pool = json!({ "main": { "proxy_protocol": version, "tls": { "ca": ca } } });
        let proxy = Proxy::start(&[url], json!({ "pools": pool }));
        let tcp = connect_from(CLIENT, proxy.address);
        let address = tcp.local_addr().unwrap();
        let mut client = Raw::over(tcp);
        client.send(handshake("/", "").as_bytes());
        let mut raw = origin.try_next(WAIT).expect("a dial");
        // Byte by byte, so that nothing of the handshake is taken along.
        let told = read_exactly(&mut raw, version);
        assert_eq!(told, Told::For(address));
        let tcp = raw.stream.try_clone().unwrap();
        drop(raw);
        let mut server = Raw::on(Pipe::accept(tcp, Some(&tls::our_server())));
        let head = server.head(WAIT);
        server.accept(&head, "");
        let echo = std::thread::spawn(move || echo_frames(&mut server));
        assert_eq!(client.head(WAIT).status(), 101);
        must_echo(&mut client);
        drop(client);
        echo.join().unwrap();
        proxy.finish();
    }
}

/// The same from the socket, no byte too much.
fn read_exactly(raw: &mut Raw, version: &str) -> Told {
    let length = match version {
        "v1" => None,
        _ => Some(28),
    };
    while length.is_none_or(|length| raw.pending.len() < length) {
        let mut byte = [0];
        std::io::Read::read_exact(&mut raw.stream, &mut byte).expect("a header");
        raw.pending.push(byte[0]);
        if length.is_none() && raw.pending.ends_with(b"\r\n") {
            break;
        }
    }
    let told = take_header(raw, version);
    assert!(raw.pending.is_empty());
    told
}

/// nginx takes the header, and tells the server behind it what that says.
fn nginx_that_tells(sealed: bool, to: SocketAddr, files: &Scratch) -> (Program, u16) {
    let port = free_port();
    let [cert, key] = our_pair()
        .files(files, "leaf")
        .map(|file| file.display().to_string());
    let (ssl, seal) = match sealed {
        false => ("", String::new()),
        true => (
            "ssl ",
            format!("ssl_certificate {cert}; ssl_certificate_key {key};"),
        ),
    };
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path DIR/{name};"))
        .concat();
    let file = format!(
        "events {{}} http {{ {paths} access_log off; server {{\n\
         listen 127.0.0.1:{port} {ssl}proxy_protocol; {seal}\n\
         location / {{ proxy_pass http://{to}; proxy_http_version 1.1;\n\
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;\n\
         proxy_set_header X-Told $proxy_protocol_addr; }} }} }}"
    );
    (Program::nginx(port, &file), port)
}

#[test]
fn nginx_behind_wsteady() {
    for sealed in [false, true] {
        let files = Scratch::new("nginx-tls");
        let server = crate::support::raw::echo_origin();
        let (_nginx, port) = nginx_that_tells(sealed, server.address, &files);
        let tls = match sealed {
            false => Value::Null,
            true => json!({ "ca": Authority::ours().file(&files, "ca") }),
        };
        for version in ["v1", "v2"] {
            let pool = json!({ "main": { "proxy_protocol": version, "tls": tls } });
            let scheme = if sealed { "wss" } else { "ws" };
            let url = format!("{scheme}://127.0.0.1:{port}");
            let proxy = Proxy::start(&[url], json!({ "pools": pool }));
            for from in [CLIENT, Ipv4Addr::new(127, 0, 9, 10), CLIENT] {
                let mut client = Raw::over(connect_from(from, proxy.address));
                client.upgrade("/", "");
                must_echo(&mut client);
                let head = server.heads().pop().expect("a head");
                let told = head.header("x-told").map(str::to_owned);
                assert_eq!(told, Some(from.to_string()), "{version}, TLS {sealed}");
            }
            proxy.finish();
        }
    }
}

/// One connection to an API serves many: the header names nobody, each request does.
#[test]
fn connections_that_serve_many_are_nobodys() {
    let files = Scratch::new("nginx-tls");
    let server = Origin::bind().serve(|raw, _| {
        raw.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwell");
    });
    let (_nginx, port) = nginx_that_tells(true, server.address, &files);
    for version in ["v1", "v2"] {
        let pool = json!({ "main": {
            "kind": "http", "proxy_protocol": version,
            "connections": { "min": 0, "idle": "300ms" },
            "tls": { "ca": Authority::ours().file(&files, "ca") },
        } });
        let url = format!("https://127.0.0.1:{port}");
        let proxy = Proxy::start(&[url], json!({ "pools": pool }));
        let mut client = Raw::over(connect_from(CLIENT, proxy.address));
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.head(WAIT).status(), 200, "{version}");
        let head = server.heads().pop().expect("a head");
        assert_eq!(head.header("x-told"), None, "{version}");
        assert_eq!(head.header("x-forwarded-for"), Some("127.0.9.9"));
        drop(client);
        proxy.finish();
    }
}

/// Failovers where all of it stands before and behind: a header, then TLS, on either side.
#[test]
fn sessions_are_told_of_again_after_a_failover() {
    let mut peers = [
        Peer::start(Kind::Node, "b1", &[]),
        Peer::start(Kind::Python, "b2", &[]),
    ];
    let ports = [free_port(), free_port()];
    // HAProxy takes the header and passes on what is behind it.
    let fronts: Vec<Program> = peers
        .iter()
        .zip(ports)
        .map(|(peer, port)| {
            let to = peer.url().replace("ws://", "");
            let file = format!(
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
                 listen front\n bind 127.0.0.1:{port} accept-proxy\n server w {to}\n"
            );
            Program::start("haproxy", &file, port, &["-db", "-f"])
        })
        .collect();
    let urls = ports.map(|port| format!("ws://127.0.0.1:{port}"));
    let pool = json!({ "main": { "proxy_protocol": "v2" } });
    // Each server dies with a message that it may not have confirmed: no poison.
    let session = json!({ "replay_attempts": 100 });
    let changes = json!({ "pools": pool, "listen": { "tls": true }, "session": session });
    let proxy = Proxy::start(&urls, changes);
    let mut client = Raw::sealed(proxy.address, &tls::our_client(), "localhost");
    client.upgrade("/", "");
    for round in 0..4 {
        client.send_frame(&Frame::masked(TEXT, format!("{round}").as_bytes()));
        // What its server had not confirmed is repeated, and so are the echoes.
        let text = until(WAIT, "its echo", || {
            let text = String::from_utf8(client.frame(WAIT).payload).expect("text");
            text.ends_with(&format!(" {round}")).then_some(text)
        });
        let at = usize::from(text.starts_with("b2"));
        peers[at].command("rst");
    }
    drop((client, fronts));
    proxy.finish_within(Duration::from_secs(10));
}
