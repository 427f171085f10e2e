//! The clients against servers that behave, and against one that does not.

use super::*;
use crate::frame::{Header, Reader, Sender, Step};
use crate::upgrade;
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

/// What a bad server does with the echoes of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trick {
    None,
    Lose,
    Repeat,
    Swap,
    Damage,
    Cross,
    CloseEarly,
    Reset,
    Refuse,
    /// A Ping before each echo, which comes in two fragments with the Ping between them.
    Interrupt,
}

/// Serves connections, one thread each, and plays its trick on the tenth message of each.
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
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = socket.read(&mut buffer)?;
        head.extend_from_slice(&buffer[..count]);
        match upgrade::answer(&head) {
            upgrade::Request::Partial if count > 0 => {}
            upgrade::Request::Upgrade { response, .. } if trick != Trick::Refuse => {
                socket.write_all(response.as_bytes())?;
                break;
            }
            _ => return socket.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"),
        }
    }
    let (mut reader, mut message) = (Reader::new(Sender::Client), Vec::new());
    let (mut number, mut kept) = (0, Vec::new());
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
                    let payload = std::mem::take(&mut message);
                    match header.opcode {
                        frame::BINARY if number == 9 => {
                            play(&mut socket, trick, payload, &mut kept)?;
                        }
                        frame::BINARY => reply(&mut socket, trick, &payload, &mut kept)?,
                        frame::CLOSE => return say(&mut socket, true, frame::CLOSE, &payload),
                        _ => {}
                    }
                    number += u32::from(header.opcode == frame::BINARY);
                }
            }
        }
    }
}

fn play(
    socket: &mut TcpStream,
    trick: Trick,
    mut payload: Vec<u8>,
    kept: &mut Vec<u8>,
) -> io::Result<()> {
    match trick {
        Trick::Lose => Ok(()),
        Trick::Swap => {
            *kept = payload;
            Ok(())
        }
        Trick::CloseEarly => say(socket, true, frame::CLOSE, b"\x03\xf5gone"),
        Trick::Reset => Err(io::ErrorKind::ConnectionReset.into()),
        Trick::Damage => {
            payload[50] ^= 1;
            reply(socket, trick, &payload, kept)
        }
        // The name of another connection, with the body that this one would have.
        Trick::Cross => {
            let mut other = vec![0; payload.len()];
            check::Label {
                connection: 99,
                sequence: 9,
                due: 5,
            }
            .write(&mut other);
            reply(socket, trick, &other, kept)
        }
        Trick::Repeat => {
            reply(socket, trick, &payload, kept)?;
            reply(socket, trick, &payload, kept)
        }
        Trick::None | Trick::Refuse | Trick::Interrupt => reply(socket, trick, &payload, kept),
    }
}

fn reply(
    socket: &mut TcpStream,
    trick: Trick,
    payload: &[u8],
    kept: &mut Vec<u8>,
) -> io::Result<()> {
    if trick == Trick::Interrupt {
        say(socket, true, frame::PING, b"one")?;
        say(socket, false, frame::BINARY, &payload[..7])?;
        say(socket, true, frame::PING, b"two")?;
        return say(socket, true, frame::CONTINUATION, &payload[7..]);
    }
    say(socket, true, frame::BINARY, payload)?;
    match std::mem::take(kept) {
        late if late.is_empty() => Ok(()),
        late => say(socket, true, frame::BINARY, &late),
    }
}

fn say(socket: &mut TcpStream, fin: bool, opcode: u8, payload: &[u8]) -> io::Result<()> {
    let header = Header {
        fin,
        opcode,
        mask: None,
        payload_bytes: payload.len() as u64,
    };
    let mut out = vec![0; header.encoded_bytes()];
    header.write(&mut out);
    out.extend_from_slice(payload);
    socket.write_all(&out)
}

/// A run of a second or less; its JSON.
fn result(trick: Trick, line: &str) -> serde_json::Value {
    result_of(&format!("ws://{}", server(trick)), line)
}

fn result_of(server: &str, line: &str) -> serde_json::Value {
    static RUNS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = RUNS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("wsteady-bench-{}-{number}.json", std::process::id());
    let path = std::env::temp_dir().join(name);
    let url = format!("--url {server}/x?y=z --quiet --json {}", path.display());
    let passed = run(&args(&format!("{url} {line}"))).unwrap();
    let json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    std::fs::remove_file(path).unwrap();
    let json: serde_json::Value = json;
    assert_eq!(
        passed,
        json["faults"].as_array().unwrap().is_empty(),
        "{json:#}"
    );
    json
}

/// Three connections with several messages under way on each.
const MANY: &str = "--connections 3 --rate 300 --size 100 --warmup 0s --duration 400ms \
    --grace 500ms";

fn faults(json: &serde_json::Value) -> Vec<&str> {
    json["faults"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault.as_str().unwrap())
        .collect()
}

#[test]
fn a_good_server_has_no_faults() {
    let json = result(
        Trick::None,
        "--connections 5 --threads 2 --messages 50 --size 5000",
    );
    assert!(faults(&json).is_empty(), "{json:#}");
    assert_eq!(
        (json["echoes_total"].as_u64(), json["closed_clean"].as_u64()),
        (Some(250), Some(5))
    );
    assert!(json["latency_p50_us"].as_f64().unwrap() > 0.0);
    let json = result(Trick::None, MANY);
    assert_eq!(json["sent_total"], 120, "300 a second for 0.4 s: {json:#}");
}

#[test]
fn echoes_come_back_through_tls() {
    let server = crate::echo::spawn(Some(crate::tls::tests::host()));
    for version in ["1.2", "1.3"] {
        for size in [64, 16_384, 1_000_000] {
            let line = format!(
                "--connections 5 --threads 2 --messages 5 --size {size} --tls-version {version}"
            );
            let json = result_of(&format!("wss://{server}"), &line);
            assert!(faults(&json).is_empty(), "{json:#}");
            let counts = (&json["echoes_total"], &json["closed_clean"]);
            assert_eq!(counts, (&25.into(), &5.into()));
            assert_eq!((&json["tls"], &json["resumed"]), (&true.into(), &0.into()));
        }
    }
}

#[test]
fn pings_within_fragmented_messages_are_answered() {
    let line = "--connections 3 --messages 10 --size 100 --ping-every 1ms --idle \
                --warmup 0s --duration 100ms";
    let json = result(Trick::Interrupt, line);
    assert!(faults(&json).is_empty(), "{json:#}");
    assert_eq!(json["echoes_total"], 30);
    assert_eq!(json["pings_answered"], 60);
    assert!(json["pings_sent"].as_u64().unwrap() > 100, "{json:#}");
    assert_eq!(json["pongs_received"], 0, "this server answers no Ping");
}

#[test]
fn every_trick_is_seen() {
    // The tenth message of each of the three connections is the one that is played with.
    let cases = [
        (Trick::Repeat, vec!["3 messages came more than once"]),
        (Trick::Swap, vec!["3 messages came after later ones"]),
    ];
    for (trick, expected) in cases {
        assert_eq!(faults(&result(trick, MANY)), expected, "{trick:?}");
    }
    let json = result(Trick::CloseEarly, MANY);
    assert_eq!(json["closed_early"], 3, "{json:#}");
    assert_eq!(json["reasons"]["Close 1013 \"gone\""], 3, "{json:#}");
    assert!(json["lost"].as_u64().unwrap() >= 3, "{json:#}");
    let json = result(Trick::Reset, MANY);
    assert_eq!(json["closed_early"], 3, "{json:#}");
    let json = result(Trick::Refuse, MANY);
    assert_eq!(faults(&json), ["3 connections could not be opened"]);
    assert_eq!(json["reasons"]["connect: status 503"], 3, "{json:#}");
}

#[test]
fn what_never_comes_back_is_lost() {
    for (trick, field) in [
        (Trick::Lose, "lost"),
        (Trick::Damage, "damaged"),
        (Trick::Cross, "crossed"),
    ] {
        let json = result(trick, &format!("{MANY} --allow-loss"));
        assert_eq!(
            (&json["lost"], &json[field]),
            (&3.into(), &3.into()),
            "{trick:?} {json:#}"
        );
        assert_eq!(
            faults(&json).is_empty(),
            trick == Trick::Lose,
            "{trick:?} {json:#}"
        );
    }
}

#[test]
fn what_was_due_in_time_is_sent_even_late() {
    // Far more than one loop of a test build can do in a tenth of a second.
    let line = "--connections 3 --rate 3000000 --size 100 --warmup 0s --duration 100ms";
    let json = result(Trick::None, line);
    assert!(faults(&json).is_empty(), "{json:#}");
    assert_eq!(json["sent_total"], 300_000, "{json:#}");
    assert!(
        json["latency_max_us"].as_f64().unwrap() > 100_000.0,
        "{json:#}"
    );
}

#[test]
fn connections_are_shared_out_without_gaps() {
    let line = "--url ws://127.0.0.1:1 --connections 10 --threads 3 --ramp 1s --source-addresses 4";
    let plan = Plan::new(&args(line), None, 20_000).unwrap();
    let mut numbers: Vec<u32> = (0..3)
        .flat_map(|index| (0..plan.shape.share(index)).map(move |local| (local, index)))
        .map(|(local, index)| plan.shape.number(local, index))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..10).collect::<Vec<u32>>());
    assert_eq!(plan.opening(2, 1), 700_000_000);
    assert_eq!(plan.source(0), Some(Ipv4Addr::new(127, 0, 0, 2)));
    assert_eq!(plan.source(7), Some(Ipv4Addr::new(127, 0, 0, 5)));
    let many = args("--url ws://127.0.0.1:1 --connections 100000");
    assert_eq!(Plan::new(&many, None, 20_000).unwrap().shape.threads, 6);
}
