//! What is under way when wsteady is told to stop.

use super::*;
use rustix::process::Signal;

/// An answer in pieces, one each 100 ms.
fn slow(pieces: usize, framing: &'static str) -> Web {
    Web::start(move |raw, request| {
        if request.head.first.contains("/quick") {
            return raw.send(&ok("quick"));
        }
        raw.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").as_bytes());
        for _ in 0..pieces {
            std::thread::sleep(Duration::from_millis(100));
            let piece = if framing.contains("chunked") {
                &b"5\r\nxxxxx\r\n"[..]
            } else {
                &b"xxxxx"[..]
            };
            if !raw.send(piece) {
                return false;
            }
        }
        framing.contains("Length") || raw.send(b"0\r\n\r\n")
    })
}

#[test]
fn answers_under_way_are_finished_and_connections_that_rest_are_closed_without_a_word() {
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let web = slow(20, framing);
        let limits = json!({ "handshake": "10s" });
        let rest = json!({ "drain": "6s", "loops": 1, "limits": limits });
        let mut proxy = proxy_with(&[&web], json!({}), rest);
        let (mut busy, mut resting) = (Raw::connect(proxy.address), Raw::connect(proxy.address));
        let mut half = Raw::connect(proxy.address);
        resting.send(get("/quick").as_bytes());
        assert_eq!(answer(&mut resting).body, b"quick");
        half.send(b"GET /quick HTTP/1.1\r\n");
        busy.send(get("/slow").as_bytes());
        busy.wait(WAIT, |bytes| (!bytes.is_empty()).then_some(()));
        proxy.signal(Signal::TERM);
        assert_eq!(resting.end(WAIT), End::Fin);
        assert!(resting.pending.is_empty(), "nobody asked");
        half.send(b"Host: h\r\n\r\n");
        let last = answer(&mut half);
        assert_eq!(last.body, b"quick");
        assert_eq!(last.head.header("connection"), Some("close"));
        assert_eq!(half.end(WAIT), End::Fin);
        assert_eq!(answer(&mut busy).body, [b'x'; 100]);
        assert_eq!(busy.end(WAIT), End::Fin);
        let exit = proxy.wait_exit(Duration::from_secs(15));
        assert_eq!(exit.code(), Some(0), "{}", proxy.log());
    }
}

#[test]
fn an_answer_that_outlasts_the_drain_is_cut_and_nothing_of_ours_stands_in_it() {
    for framing in ["Content-Length: 5000", "Transfer-Encoding: chunked"] {
        let web = slow(1_000, framing);
        let mut proxy = proxy_with(&[&web], json!({}), json!({ "drain": "2s", "loops": 1 }));
        let mut client = Raw::connect(proxy.address);
        client.send(get("/slow").as_bytes());
        client.wait(WAIT, |bytes| (!bytes.is_empty()).then_some(()));
        proxy.signal(Signal::TERM);
        match read(&mut client, ANSWER, WAIT) {
            Err(Lack::Cut(Some(_), seen)) => {
                let head = seen.windows(4).position(|four| four == b"\r\n\r\n");
                let body = &seen[head.expect("a head") + 4..];
                let known = |byte: &u8| b"x5\r\n".contains(byte);
                assert!(body.iter().all(known), "{}", body.escape_ascii());
            }
            other => panic!("{framing}: {other:?}"),
        }
        assert_eq!(proxy.wait_exit(WAIT).code(), Some(0), "{}", proxy.log());
    }
}

#[test]
fn an_upload_that_stalls_behind_an_early_answer_adds_nothing_to_it() {
    let web = Web::raw(|raw, _, _| {
        raw.wait(WAIT, |bytes| {
            bytes
                .windows(4)
                .any(|four| four == b"\r\n\r\n")
                .then_some(())
        });
        raw.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun");
        raw.wait(WAIT, |_| None::<()>);
    });
    let proxy = proxy_with(
        &[&web],
        json!({}),
        json!({ "limits": { "handshake": "500ms" } }),
    );
    let mut client = Raw::connect(proxy.address);
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc");
    match read(&mut client, ANSWER, WAIT) {
        Err(Lack::Cut(Some(_), seen)) => {
            assert!(seen.ends_with(b"\r\n\r\nbegun"), "{}", seen.escape_ascii());
        }
        other => panic!("{other:?}"),
    }
    proxy.finish();
}
