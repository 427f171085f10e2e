//! Bodies that are larger than what may be held of them.

use super::*;
use std::io::Read;

/// 200 MiB, or as many MiB as `E2E_BIG_MIB` says.
fn big() -> usize {
    let given = std::env::var("E2E_BIG_MIB").ok();
    given.map_or(200, |mib| mib.parse().expect("a number")) << 20
}

/// The most that the proxy holds while `run` runs, KiB.
fn peak_kib(proxy: &Proxy, run: impl FnOnce() + Send) -> u64 {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            run();
            done.store(true, SeqCst);
        });
        let mut peak = 0;
        let deadline = Instant::now() + Duration::from_secs(100);
        while !done.load(SeqCst) && Instant::now() < deadline {
            peak = peak.max(proxy.memory_kib());
            std::thread::sleep(Duration::from_millis(5));
        }
        peak
    })
}

/// Reads so many bytes behind a head, and waits in between now and then.
fn read_slowly(raw: &mut Raw, mut left: usize) -> u64 {
    let mut sum = 0_u64;
    let mut buffer = vec![0; 1 << 16];
    let early = raw.pending.len();
    sum += raw.pending.drain(..).map(u64::from).sum::<u64>();
    left -= early;
    std::thread::sleep(Duration::from_secs(1));
    raw.stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut count = 0;
    while left > 0 {
        let got = std::io::Read::read(&mut raw.stream, &mut buffer).unwrap();
        assert!(got > 0, "cut with {left} bytes to come");
        left -= got;
        sum += buffer[..got].iter().map(|one| u64::from(*one)).sum::<u64>();
        count += 1;
        if count % 512 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    sum
}

#[test]
fn h20_a_slow_reader_of_200_mb_holds_little_and_slows_the_server() {
    for framing in ["length", "chunks"] {
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        let web = Web::start(move |raw, _| {
            let piece: Vec<u8> = (0..1 << 16).map(|n| n as u8).collect();
            if framing == "length" {
                let length = big();
                raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes());
            } else {
                raw.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            }
            for _ in 0..big() / piece.len() {
                let ok = if framing == "length" {
                    raw.send(&piece)
                } else {
                    raw.send(&[b"10000\r\n", &piece[..], b"\r\n"].concat())
                };
                counted.fetch_add(piece.len() as u64, SeqCst);
                if !ok {
                    return false;
                }
            }
            framing == "length" || raw.send(b"0\r\n\r\n")
        });
        let proxy = proxy_with(
            &[&web],
            json!({ "timeouts": { "response": "20s" } }),
            json!({}),
        );
        let peak = peak_kib(&proxy, || {
            let mut client = Raw::connect(proxy.address);
            client.send(get("/").as_bytes());
            client.head(WAIT);
            std::thread::sleep(Duration::from_millis(1_500));
            let ahead = sent.load(SeqCst);
            assert!(ahead < 40 << 20, "the server was let to send {ahead} bytes");
            if framing == "length" {
                let want = (big() >> 16) as u64 * (0..1_u64 << 16).map(|n| n & 0xFF).sum::<u64>();
                assert_eq!(read_slowly(&mut client, big()), want);
            } else {
                // Chunk for chunk, without keeping the whole.
                let mut left = big();
                while left > 0 {
                    let line = client
                        .wait(WAIT, |bytes| {
                            bytes.windows(2).position(|two| two == b"\r\n")
                        })
                        .expect("a chunk");
                    let size = std::str::from_utf8(&client.pending[..line])
                        .unwrap()
                        .to_owned();
                    let size = usize::from_str_radix(&size, 16).unwrap();
                    assert!(size > 0, "{left} bytes are missing");
                    client
                        .wait(WAIT, |bytes| (bytes.len() >= line + size + 4).then_some(()))
                        .unwrap();
                    client.pending.drain(..line + size + 4);
                    left -= size;
                }
            }
        });
        eprintln!("{framing}: at most {peak} KiB");
        assert!(peak < 32 << 10, "{framing}: {peak} KiB");
        proxy.finish();
    }
}

#[test]
fn an_upload_of_200_mb_holds_little_and_waits_for_the_server() {
    for in_chunks in [false, true] {
        let taken = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&taken);
        let web = Web::raw(move |raw, _, _| {
            let Some(head) = raw.try_head(WAIT) else {
                return;
            };
            std::thread::sleep(Duration::from_secs(1));
            let mut left = big() as u64;
            if head.header("content-length").is_some() {
                read_slowly(raw, big());
                left = 0;
            }
            while left > 0 {
                let line = raw
                    .wait(WAIT, |bytes| {
                        bytes.windows(2).position(|two| two == b"\r\n")
                    })
                    .expect("a chunk");
                let size = std::str::from_utf8(&raw.pending[..line])
                    .unwrap()
                    .to_owned();
                let size = usize::from_str_radix(&size, 16).unwrap();
                raw.wait(WAIT, |bytes| (bytes.len() >= line + size + 4).then_some(()))
                    .unwrap();
                raw.pending.drain(..line + size + 4);
                left -= size as u64;
            }
            counted.store(big() as u64, SeqCst);
            raw.send(&ok("all"));
            raw.wait(WAIT, |_| None::<()>);
        });
        let proxy = proxy_with(
            &[&web],
            json!({ "timeouts": { "response": "20s" } }),
            json!({}),
        );
        let peak = peak_kib(&proxy, || {
            let mut client = Raw::connect(proxy.address);
            let piece = noise(1 << 16);
            let framing = if in_chunks {
                "Transfer-Encoding: chunked".to_owned()
            } else {
                format!("Content-Length: {}", big())
            };
            client.send(format!("POST /up HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n").as_bytes());
            for _ in 0..big() / piece.len() {
                let bytes = if in_chunks {
                    [b"10000\r\n", &piece[..], b"\r\n"].concat()
                } else {
                    piece.clone()
                };
                assert!(client.send(&bytes), "the upload was cut");
            }
            if in_chunks {
                client.send(b"0\r\n\r\n");
            }
            assert_eq!(answer(&mut client).body, b"all");
        });
        assert_eq!(taken.load(SeqCst), big() as u64);
        eprintln!("in chunks: {in_chunks}, at most {peak} KiB");
        assert!(peak < 32 << 10, "in chunks: {in_chunks}, {peak} KiB");
        proxy.finish();
    }
}

/// The kernel's buffers hold megabytes: that a client empties them slowly must be seen, too.
#[test]
fn a_client_that_reads_slowly_is_not_one_that_reads_nothing() {
    let web = Web::start(|raw, _| {
        let piece = vec![7; 1 << 16];
        let length = big();
        raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes());
        (0..length / piece.len()).all(|_| raw.send(&piece))
    });
    let times = json!({ "timeouts": { "response": "3s" } });
    let proxy = proxy_with(&[&web], times, json!({}));
    let mut client = Raw::connect(proxy.address);
    // A large buffer of its own would tell of its room in large steps, too.
    let small = socket2::SockRef::from(&client.stream).set_recv_buffer_size(64 << 10);
    small.unwrap();
    client.send(get("/slow").as_bytes());
    client.head(WAIT);
    client.stream.set_read_timeout(Some(2 * WAIT)).unwrap();
    let mut piece = vec![0; 50_000];
    for second in 0..10 {
        client.stream.read_exact(&mut piece).expect("the answer");
        std::thread::sleep(Duration::from_millis(500));
        client.stream.read_exact(&mut piece).expect("the answer");
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(proxy.sessions().len(), 1, "after {second} s");
    }
    // And one that takes nothing is given up.
    until_true(WAIT, "the end of a request", || proxy.sessions().is_empty());
    drop(client);
    proxy.finish();
}
