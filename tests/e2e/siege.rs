//! What a hostile client can do to TLS (V44, S06 of the threat model): handshakes that stall, end or
//! are nonsense, records of one byte, ends without a last word, readers that don't read.

use crate::support::frames::{BINARY, Frame, TEXT};
use crate::support::proxy::Proxy;
use crate::support::raw::{Origin, Raw, Served, echo_origin, handshake};
use crate::support::rng::Rng;
use crate::support::tls::{self, our_client};
use crate::support::{turn, until, until_true};
use rustls::{ClientConfig, ClientConnection};
use serde_json::{Value, json};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(15);

/// `limits.handshake` of these tests, and as much again for a busy machine, and the last word.
const REAPED: Duration = Duration::from_secs(8);

fn guarded(server: &Served, changes: Value) -> Proxy {
    // Whoever does not read answers no Ping, which is not what is tried here.
    let mut all = json!({
        "listen": { "tls": true }, "pools": { "main": { "timeouts": { "ping": "5m" } } },
    });
    for (key, value) in changes.as_object().expect("a map") {
        all[key] = value.clone();
    }
    Proxy::start(&[server.url()], all)
}

fn open(proxy: &Proxy) -> Raw {
    let mut client = Raw::sealed(proxy.address, &our_client(), "localhost");
    client.upgrade("/", "");
    client
}

fn must_echo(client: &mut Raw) {
    client.send_frame(&Frame::masked(TEXT, b"hello"));
    assert_eq!(client.frame(WAIT).payload, b"hello");
}

/// A client's first words, and the one that has said them.
fn hello(config: &Arc<ClientConfig>) -> (ClientConnection, Vec<u8>) {
    let name = "localhost".try_into().expect("a name");
    let mut client = ClientConnection::new(config.clone(), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    (client, bytes)
}

/// Processor time of the whole process.
fn worked(proxy: &Proxy) -> Duration {
    let path = format!("/proc/{}/stat", proxy.pid().as_raw_nonzero());
    let stat = std::fs::read_to_string(path).unwrap();
    // The name, in parentheses, may have spaces.
    let (_, rest) = stat.rsplit_once(") ").expect("a name");
    let words: Vec<&str> = rest.split(' ').collect();
    let ticks: u64 = [words[11], words[12]]
        .iter()
        .map(|word| word.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}

/// It rests: what a loop would take in this time is more.
fn must_rest(proxy: &Proxy, what: &str) {
    let before = worked(proxy);
    std::thread::sleep(Duration::from_secs(1));
    let took = worked(proxy) - before;
    assert!(
        took < Duration::from_millis(300),
        "{what}: {took:?} of a second"
    );
}

#[test]
fn s06_a_thousand_stalled_handshakes_are_gone_by_the_deadline() {
    let _turn = turn();
    let server = echo_origin();
    let proxy = guarded(&server, json!({}));
    let mut good = open(&proxy);
    let (_, hello) = hello(&our_client());
    let begun = Instant::now();
    let mut stalled: Vec<Raw> = (0..1_000)
        .map(|number| {
            let mut raw = Raw::plain(proxy.address);
            // Nothing, a part of the first words, or all of them and no answer to the answer.
            let cut = [0, 1, 5, hello.len() / 2, hello.len() - 1, hello.len()][number % 6];
            raw.send(&hello[..cut]);
            raw
        })
        .collect();
    must_echo(&mut good);
    let another = open(&proxy);
    must_rest(&proxy, "with 1,000 handshakes under way");
    assert!(begun.elapsed() < REAPED / 2, "too slow to tell");
    for raw in &mut stalled {
        raw.end(REAPED);
    }
    let took = begun.elapsed();
    assert!(took < REAPED, "{took:?} for 2 s");
    must_echo(&mut good);
    drop((good, another, stalled));
    // Its descriptors and buffers are counted.
    proxy.finish();
}

#[test]
fn a_handshake_that_its_client_ends_is_over_at_once() {
    let server = echo_origin();
    let proxy = guarded(&server, json!({ "limits": { "handshake": "60s" } }));
    let (_, hello) = hello(&our_client());
    let close_notify = [21, 3, 3, 0, 2, 1, 0];
    let fatal = [21, 3, 3, 0, 2, 2, 40];
    for (what, alert) in [("a last word", close_notify), ("an alert", fatal)] {
        for cut in [0, hello.len()] {
            let mut raws: Vec<Raw> = (0..20).map(|_| Raw::plain(proxy.address)).collect();
            for raw in &mut raws {
                raw.send(&hello[..cut]);
                if cut > 0 {
                    // The server has spoken.
                    raw.wait(WAIT, |bytes| (bytes.len() > 500).then_some(()))
                        .expect("an answer");
                }
                raw.send(&alert);
            }
            must_rest(&proxy, what);
            // Before anything was agreed a last word is nobody's: it changes nothing.
            if cut > 0 || alert == fatal {
                for raw in &mut raws {
                    raw.end(WAIT);
                }
            }
        }
    }
    // The half-closed ones, with nothing said or all of it.
    for cut in [0, 3, hello.len()] {
        let mut raw = Raw::plain(proxy.address);
        raw.send(&hello[..cut]);
        raw.half_close();
        raw.end(WAIT);
    }
    proxy.finish();
}

#[test]
fn first_words_in_records_of_one_byte_are_answered_or_refused() {
    let server = echo_origin();
    let proxy = guarded(&server, json!({}));
    let (_, hello) = hello(&our_client());
    // Each byte in a record of its own (RFC 8446, section 5.1), the whole in one segment or in many.
    let split: Vec<u8> = hello[5..]
        .iter()
        .flat_map(|byte| [22, 3, 1, 0, 1, *byte])
        .collect();
    for step in [split.len(), 6, 1] {
        let mut raw = Raw::plain(proxy.address);
        for piece in split.chunks(step) {
            raw.send(piece);
        }
        let begun = Instant::now();
        let answer = raw.wait(WAIT, |bytes| bytes.first().copied());
        assert!(
            matches!(answer, Some(21 | 22)),
            "{answer:?} {:?}",
            raw.ended()
        );
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
    // Records of nothing, for ever.
    let mut raw = Raw::plain(proxy.address);
    let empty: Vec<u8> = [22, 3, 1, 0, 0].repeat(10_000);
    raw.send(&empty);
    raw.end(WAIT);
    // A message that says it is 16 MiB long, and comes.
    let mut raw = Raw::plain(proxy.address);
    let mut record = vec![22, 3, 1, 0x40, 0];
    record.resize(5 + 0x4000, 0);
    record[5..9].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
    for _ in 0..64 {
        if !raw.send(&record) {
            break;
        }
        record[5..9].fill(0);
    }
    raw.end(WAIT);
    proxy.finish();
}

#[test]
fn garbage_is_refused_and_costs_nobody_else() {
    let server = echo_origin();
    let proxy = guarded(&server, json!({}));
    let mut good = open(&proxy);
    let mut rng = Rng::from_environment();
    let (_, hello) = hello(&our_client());
    for round in 0..300 {
        let mut bytes = match round % 3 {
            0 => (0..rng.size(600)).map(|_| rng.below(256) as u8).collect(),
            1 => handshake("/", "").into_bytes(),
            _ => hello.clone(),
        };
        if round % 3 == 2 {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << rng.below(8);
        }
        let mut raw = Raw::plain(proxy.address);
        raw.send(&bytes);
        if round % 50 == 0 {
            must_echo(&mut good);
        }
        if round % 2 == 0 {
            raw.half_close();
        }
    }
    // A good one's record that is wrong ends that one alone.
    let mut bad = open(&proxy);
    must_echo(&mut bad);
    std::io::Write::write_all(&mut bad.stream.tcp(), &[23, 3, 3, 0, 30].repeat(20)).unwrap();
    bad.end(WAIT);
    must_echo(&mut good);
    must_rest(&proxy, "after garbage");
    drop((good, bad));
    proxy.finish();
}

/// What the server heard at the end of its one session.
fn last_word(end: impl FnOnce(Raw) -> Option<Raw>) -> (u16, Option<Raw>) {
    let origin = Origin::bind();
    let proxy = Proxy::start(&[origin.url()], json!({ "listen": { "tls": true } }));
    let mut client = Raw::sealed(proxy.address, &our_client(), "localhost");
    client.send(handshake("/", "").as_bytes());
    let (mut server, _) = origin.adopt("");
    assert_eq!(client.head(WAIT).status(), 101);
    client.send_frame(&Frame::masked(TEXT, b"the last message"));
    assert_eq!(server.frame(WAIT).payload, b"the last message");
    let left = end(client);
    let code = server.close_code(WAIT);
    drop(server);
    proxy.finish();
    (code, left)
}

#[test]
fn a_client_that_ends_without_a_word_has_left_all_the_same() {
    // FIN alone: what came whole was delivered, and nothing else can be missing of it.
    let cut = |mut client: Raw| {
        client.stream.break_off();
        drop(client);
        None
    };
    assert_eq!(last_word(cut).0, 1001);
    // The last word, and FIN behind it.
    assert_eq!(
        last_word(|client| {
            drop(client);
            None
        })
        .0,
        1001
    );
    // RST.
    assert_eq!(
        last_word(|client| {
            client.reset();
            None
        })
        .0,
        1001
    );
    // The last word alone, its connection open.
    let half = |mut client: Raw| {
        client.half_close();
        client.end(WAIT);
        Some(client)
    };
    let (code, client) = last_word(half);
    assert_eq!(code, 1001);
    drop(client);
    // FIN below, no last word, its reading end open.
    let half = |client: Raw| {
        client.stream.tcp().shutdown(Shutdown::Write).unwrap();
        let mut client = client;
        client.end(WAIT);
        Some(client)
    };
    assert_eq!(last_word(half).0, 1001);
}

#[test]
fn half_a_message_before_the_end_is_none() {
    let origin = Origin::bind();
    let proxy = Proxy::start(&[origin.url()], json!({ "listen": { "tls": true } }));
    let mut client = Raw::sealed(proxy.address, &our_client(), "localhost");
    client.send(handshake("/", "").as_bytes());
    let (mut server, _) = origin.adopt("");
    assert_eq!(client.head(WAIT).status(), 101);
    let whole = Frame::masked(BINARY, &[7; 10_000]).bytes();
    client.send(&whole[..5_000]);
    std::thread::sleep(Duration::from_millis(100));
    client.stream.break_off();
    drop(client);
    // What was streamed already can't be taken back: a Close, or an end, and never a whole message.
    until(WAIT, "the end", || {
        server.wait(Duration::from_millis(100), |_| None::<()>);
        server
            .ended()
            .map(drop)
            .or_else(|| (server.pending.len() > 5_000).then_some(()))
    });
    drop(server);
    proxy.finish();
}

#[test]
fn readers_that_do_not_read_cost_no_more_memory_than_is_allowed() {
    const MESSAGE: usize = 900_000;
    const CLIENTS: usize = 20;
    let _turn = turn();
    let server = Origin::bind().serve(|raw, head| {
        raw.accept(head, "");
        raw.frame(WAIT);
        let body: Vec<u8> = (0..MESSAGE).map(|at| at as u8).collect();
        for _ in 0..10 {
            if !raw.send_frame(&Frame::new(BINARY, &body)) {
                return;
            }
        }
        raw.wait(Duration::from_secs(60), |_| None::<()>);
    });
    let limit = 32 << 20;
    let proxy = guarded(
        &server,
        json!({
            "limits": { "memory": "32MiB", "message": "1MiB", "handshake": "10s" },
            // The server answers no barrier.
            "session": { "confirm": "written" },
        }),
    );
    let resident = proxy.memory_kib();
    let mut deaf: Vec<Raw> = (0..CLIENTS).map(|_| open(&proxy)).collect();
    for client in &mut deaf {
        client.send_frame(&Frame::masked(TEXT, b"go"));
    }
    let begun = Instant::now();
    let mut most = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        let held = proxy.count("wsteady_buffer_bytes", &[]);
        most = most.max(held);
        assert!(held <= limit, "{held} of {limit}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let grown = proxy.memory_kib().saturating_sub(resident);
    assert!(grown < 64 << 10, "{grown} KiB more for {most} bytes held");
    must_rest(&proxy, "while nobody reads");
    // Whoever reads now gets all of it, as it was sent.
    let readers: Vec<_> = deaf
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                for _ in 0..10 {
                    let frame = client.frame(2 * WAIT);
                    assert_eq!(frame.payload.len(), MESSAGE);
                    let good = frame
                        .payload
                        .iter()
                        .zip(0..)
                        .all(|(byte, at)| *byte == at as u8);
                    assert!(good, "a changed message");
                }
            })
        })
        .collect();
    readers
        .into_iter()
        .for_each(|reader| reader.join().unwrap());
    proxy.finish();
}

#[test]
fn one_byte_at_a_time_is_slow_and_right() {
    let server = echo_origin();
    let proxy = guarded(&server, json!({ "limits": { "handshake": "30s" } }));
    // All that both sides say, cut by a relay into single bytes.
    let relay = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (near, far) = (relay.local_addr().unwrap(), proxy.address);
    std::thread::spawn(move || {
        let (client, _) = relay.accept().unwrap();
        let server = TcpStream::connect(far).unwrap();
        server.set_nodelay(true).unwrap();
        let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || trickle(back.0, back.1));
        trickle(client, server);
    });
    let tcp = TcpStream::connect(near).unwrap();
    tcp.set_read_timeout(Some(WAIT)).unwrap();
    let mut client = Raw::on(tls::Pipe::connect(tcp, &our_client(), "localhost"));
    client.upgrade("/", "");
    let body = vec![3; 3_000];
    client.send_frame(&Frame::masked(BINARY, &body));
    assert_eq!(client.frame(WAIT).payload, body);
    drop(client);
    proxy.finish();
}

fn trickle(mut from: TcpStream, mut to: TcpStream) {
    use std::io::{Read, Write};
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        for byte in &buffer[..count] {
            if to.write_all(&[*byte]).is_err() {
                return;
            }
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn clients_of_plain_text_and_of_tls_may_be_mixed_up_and_nobody_waits() {
    let server = echo_origin();
    let proxy = Proxy::start(&[server.url()], json!({}));
    // TLS at a port without it: an answer in the clear, or an end, and soon.
    let (_, hello) = hello(&our_client());
    let mut raw = Raw::plain(proxy.address);
    raw.send(&hello);
    until_true(WAIT, "an end", || {
        raw.wait(Duration::from_millis(100), |_| None::<()>);
        raw.ended().is_some()
    });
    proxy.finish();
}
