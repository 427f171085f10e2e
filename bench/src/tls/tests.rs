//! Two links with TLS between them, and whole runs.

use super::*;
use crate::link::{Filled, Link};
use clap::Parser;
use mio::net::TcpStream;
use std::net::{TcpListener, TcpStream as StdStream};

#[derive(Parser)]
struct Asked {
    #[command(flatten)]
    args: ClientArgs,
}

#[derive(Parser)]
struct Offered {
    #[command(flatten)]
    args: ServerArgs,
}

fn asked(line: &str) -> ClientArgs {
    Asked::parse_from(["test"].into_iter().chain(line.split_whitespace())).args
}

fn caller(line: &str) -> Caller {
    let plan = asked(line).plan("wss://localhost:1/", "ws").unwrap();
    plan.tls.unwrap()
}

/// Of a server with a certificate of its own making.
pub fn host() -> Host {
    let args = Offered::parse_from(["test", "--tls"]).args;
    args.plan().unwrap().unwrap()
}

/// A client's link and a server's, connected.
fn pair(caller: &Caller, host: &Host) -> [Link; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    let sessions = [caller.session(), host.session()];
    let mut sessions = sessions.into_iter();
    [near, far].map(|socket| {
        socket.set_nonblocking(true).unwrap();
        Link::with(TcpStream::from_std(socket), sessions.next()).unwrap()
    })
}

/// What one link has said is heard by the other, `step` bytes at a time.
fn hear(links: &mut [Link; 2], from: usize, expected: usize, step: usize) -> Vec<u8> {
    let (mut heard, mut buffer) = (Vec::new(), vec![0; step]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while heard.len() < expected {
        assert!(std::time::Instant::now() < deadline, "{}", heard.len());
        for link in links.iter_mut() {
            link.wake();
            link.flush().unwrap();
        }
        // The other side hears what the handshake needs.
        if !links[from].is_open() {
            links[from].shake().unwrap();
        }
        if let Filled::Bytes(count) = links[1 - from].fill(&mut buffer).unwrap() {
            heard.extend_from_slice(&buffer[..count]);
        }
    }
    heard
}

#[test]
fn words_of_any_size_reach_the_other_side_whole() {
    let host = host();
    for version in ["1.2", "1.3"] {
        let caller = caller(&format!("--tls-version {version}"));
        let mut links = pair(&caller, &host);
        let words: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        // Before the handshake, too.
        for (from, count, step) in [(0, 5, 64), (1, 3_000_000, 65_536), (0, 100_000, 777)] {
            links[from].send(&words[..count]).unwrap();
            assert!(hear(&mut links, from, count, step) == words[..count]);
        }
        assert!(links[0].is_open() && !links[0].is_resumed());
        links[1].shut().unwrap();
        links[0].wake();
        assert_eq!(links[0].fill(&mut [0; 9]).unwrap(), Filled::Ended);
    }
}

#[test]
fn tickets_make_later_sessions_short() {
    let host = host();
    for (line, expected) in [("--resume", true), ("", false)] {
        for version in ["1.2", "1.3"] {
            let caller = caller(&format!("{line} --tls-version {version}"));
            for number in 0..3 {
                let mut links = pair(&caller, &host);
                links[0].send(b"hello").unwrap();
                hear(&mut links, 0, 5, 99);
                // Tickets of TLS 1.3 come with the first words.
                links[1].send(b"hello").unwrap();
                hear(&mut links, 1, 5, 99);
                let resumed = [links[0].is_resumed(), links[1].is_resumed()];
                assert_eq!(resumed, [expected && number > 0; 2], "{line} {version}");
            }
        }
    }
}

#[test]
fn a_stranger_is_believed_only_without_a_file() {
    let (known, caller) = written("stranger");
    // Who shows what the file has is believed.
    let mut links = pair(&caller, &known);
    links[0].send(b"hello").unwrap();
    hear(&mut links, 0, 5, 99);
    let mut links = pair(&caller, &host());
    links[0].send(b"hello").unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let refused = loop {
        assert!(std::time::Instant::now() < deadline);
        for link in &mut links {
            link.wake();
            link.flush().unwrap();
        }
        let _ = links[1].shake();
        if let Err(error) = links[0].shake() {
            break error.to_string();
        }
    };
    assert!(refused.contains("certificate"), "{refused}");
}

/// A server whose certificate stands in a file, and a client that believes it alone.
fn written(name: &str) -> (Host, Caller) {
    let name = format!("wsteady-bench-{name}-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    let pair = Pair::write(&directory).unwrap();
    let (cert, key) = (pair.cert.display(), pair.both.display());
    let line = format!("test --tls --cert {cert} --key {key}");
    let args = Offered::parse_from(line.split(' ')).args;
    let host = args.plan().unwrap().unwrap();
    let caller = caller(&format!("--ca {cert}"));
    std::fs::remove_dir_all(directory).unwrap();
    (host, caller)
}

#[test]
fn options_and_urls_say_the_same() {
    let plan = |line: &str, url: &str, plain| {
        let plan = asked(line).plan(url, plain)?;
        Ok::<_, String>((plan.scheme, plan.tls.map(|tls| tls.name)))
    };
    let name = |name: &str| Some(ServerName::try_from(name.to_string()).unwrap());
    assert_eq!(plan("", "ws://a:1/", "ws"), Ok(("ws", None)));
    assert_eq!(plan("--tls", "ws://a:1/", "ws"), Ok(("ws", name("a"))));
    assert_eq!(plan("", "wss://[::1]:1", "ws"), Ok(("wss", name("::1"))));
    let named = plan("--server-name b.c", "https://127.0.0.1:1/x", "http");
    assert_eq!(named, Ok(("https", name("b.c"))));
    let wrong = plan("--resume", "http://a:1/", "http").unwrap_err();
    assert_eq!(wrong, "--resume needs --tls or https://");
    assert!(plan("--tls --ca /no/such/file", "ws://a:1/", "ws").is_err());
    assert!(plan("--tls --server-name a_b..c", "ws://a:1/", "ws").is_err());
}
