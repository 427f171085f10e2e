use super::super::head::{HeadLimits, Response, tests::lines};
use super::*;

fn with<T>(values: &[&str], run: impl FnOnce(&Headers<'_>) -> T) -> T {
    let mut text = String::from("HTTP/1.1 101 x");
    for value in values {
        text.push_str(&format!("|Sec-WebSocket-Extensions: {value}"));
    }
    let head = lines(&text);
    run(&Response::parse(&head, &HeadLimits::new(1 << 20))
        .unwrap()
        .headers)
}

fn offer(values: &[&str]) -> Option<Deflate> {
    with(values, first_offer)
}

const PLAIN: Deflate = Deflate {
    server_no_context_takeover: false,
    client_no_context_takeover: false,
    server_max_window_bits: None,
    client_max_window_bits: None,
};

#[test]
fn offers_that_are_taken() {
    let any_client = Deflate {
        client_max_window_bits: Some(None),
        ..PLAIN
    };
    assert_eq!(offer(&["permessage-deflate"]), Some(PLAIN));
    assert_eq!(
        offer(&["permessage-deflate; client_max_window_bits"]),
        Some(any_client)
    );
    assert_eq!(
        offer(&[" Permessage-Deflate ;client_max_window_bits ,x"]),
        Some(any_client)
    );
    let all = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
               server_max_window_bits=8; client_max_window_bits=\"15\"";
    let wanted = Deflate {
        server_no_context_takeover: true,
        client_no_context_takeover: true,
        server_max_window_bits: Some(8),
        client_max_window_bits: Some(Some(15)),
    };
    assert_eq!(offer(&[all]), Some(wanted));
}

#[test]
fn v34_bad_offers_are_declined_and_the_next_is_taken() {
    let bad = [
        "permessage-deflate; server_max_window_bits=99",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=08",
        "permessage-deflate; server_max_window_bits=\"\\8\"",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_max_window_bits=0",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; unknown",
        "permessage-deflate; client_max_window_bits; client_max_window_bits",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
        "x-webkit-deflate-frame; a=\"b, permessage-deflate\"",
        "permessage-deflatex",
    ];
    for text in bad {
        assert_eq!(offer(&[text]), None, "{text}");
        assert_eq!(
            offer(&[&format!("{text}, permessage-deflate")]),
            Some(PLAIN),
            "{text}"
        );
        assert_eq!(offer(&[text, "permessage-deflate"]), Some(PLAIN), "{text}");
    }
}

#[test]
fn broken_grammar_ends_its_line() {
    for text in [
        "a b",
        "a;",
        "a; =b",
        "a; b=",
        "a; b=\"c",
        "@",
        "a; b=\"c\"d",
        "permessage-deflate x",
    ] {
        assert_eq!(
            offer(&[&format!("{text}, permessage-deflate")]),
            None,
            "{text}"
        );
        assert_eq!(
            offer(&[&format!("permessage-deflate, {text}")]),
            Some(PLAIN),
            "{text}"
        );
    }
    assert_eq!(offer(&[]), None);
    assert_eq!(offer(&["", ", ,"]), None);
}

#[test]
fn v25_hostile_lines_cost_linear_time() {
    // A quadratic reader would need 10^10 steps here and the test run would hang.
    let slashes = format!("a; b=\"{}", "\\c".repeat(4000));
    let commas = ",".repeat(8000);
    let params = format!("permessage-deflate{}", "; a=\"\\\"\"".repeat(900));
    for text in [slashes, commas, params] {
        for _ in 0..100 {
            assert_eq!(offer(&[&text]), None);
        }
    }
}

#[test]
fn answers_are_checked_against_the_offer() {
    let base = "permessage-deflate; server_no_context_takeover";
    let asked = |server, client| Deflate {
        server_max_window_bits: server,
        client_max_window_bits: client,
        ..PLAIN
    };
    let check = |text: &str, offered: Deflate| with(&[text], |headers| answer(headers, &offered));
    let any = asked(None, Some(None));
    for (rest, offered) in [
        ("", PLAIN),
        ("; client_no_context_takeover", PLAIN),
        ("; server_max_window_bits=10", PLAIN),
        ("; server_max_window_bits=10", asked(Some(12), None)),
        ("; client_max_window_bits=9", any),
        ("; client_max_window_bits=9", asked(None, Some(Some(9)))),
        ("", any),
    ] {
        let agreed = check(&format!("{base}{rest}"), offered);
        assert!(
            matches!(agreed, Ok(Some(_))),
            "{rest} to {offered:?}: {agreed:?}"
        );
    }
    for (text, offered) in [
        ("; client_max_window_bits=9", PLAIN),
        ("; client_max_window_bits", any),
        ("; client_max_window_bits=10", asked(None, Some(Some(9)))),
        ("; server_max_window_bits=13", asked(Some(12), None)),
        ("", asked(Some(12), None)),
        ("; server_max_window_bits=99", PLAIN),
        ("; unknown", PLAIN),
        (", permessage-deflate", PLAIN),
        (", other", PLAIN),
        ("; x=\"", PLAIN),
    ] {
        let agreed = check(&format!("{base}{text}"), offered);
        assert_eq!(agreed, Err(Refusal::Illegal), "{text} to {offered:?}");
    }
    assert_eq!(check("other", PLAIN), Err(Refusal::Illegal));
    let kept = check("permessage-deflate; client_no_context_takeover", PLAIN);
    assert_eq!(kept, Err(Refusal::ContextTakeover));
    with(&[], |headers| {
        assert_eq!(answer(headers, &PLAIN), Ok(None));
        assert!(!is_answered(headers));
    });
    with(&[base, base], |headers| {
        assert_eq!(answer(headers, &PLAIN), Err(Refusal::Illegal))
    });
}

#[test]
fn lines_round_trip_with_both_flags() {
    for server in [None, Some(8), Some(15)] {
        for client in [None, Some(None), Some(Some(12))] {
            let deflate = Deflate {
                server_max_window_bits: server,
                client_max_window_bits: client,
                ..PLAIN
            };
            let wanted = Deflate {
                server_no_context_takeover: true,
                client_no_context_takeover: true,
                ..deflate
            };
            assert_eq!(offer(&[&deflate.offer_line()]), Some(wanted));
            assert_eq!(offer(&[&deflate.answer_line()]), Some(wanted));
        }
    }
}

#[test]
fn another_server_may_stand_in() {
    let bits = |server, client: Option<u8>| Deflate {
        server_max_window_bits: server,
        client_max_window_bits: client.map(Some),
        ..PLAIN
    };
    assert!(PLAIN.stands_for(&PLAIN));
    assert!(bits(Some(10), None).stands_for(&PLAIN), "smaller");
    assert!(
        bits(Some(15), Some(15)).stands_for(&PLAIN),
        "the default, named"
    );
    assert!(bits(Some(9), Some(12)).stands_for(&bits(Some(10), Some(12))));
    assert!(!PLAIN.stands_for(&bits(Some(10), None)), "larger");
    assert!(!bits(Some(11), None).stands_for(&bits(Some(10), None)));
    assert!(!bits(None, Some(12)).stands_for(&PLAIN));
    assert!(!PLAIN.stands_for(&bits(None, Some(12))));
}

/// As a sender compresses a message (RFC 7692 section 7.2.1).
fn deflated(plain: &[u8]) -> Vec<u8> {
    let mut deflater = flate2::Compress::new(flate2::Compression::default(), false);
    let mut out = Vec::with_capacity(plain.len() + 64);
    deflater
        .compress_vec(plain, &mut out, flate2::FlushCompress::Sync)
        .unwrap();
    assert!(out.ends_with(TAIL));
    out.truncate(out.len() - TAIL.len());
    out
}

#[test]
fn what_was_compressed_is_inflated_up_to_the_limit() {
    // The examples of RFC 7692 7.2.3: one block, a block without compression, a last block.
    let hello: [&[u8]; 3] = [
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
        &[
            0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
        ],
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
    ];
    for payload in hello {
        assert_eq!(inflate(payload, 5).as_deref(), Ok(&b"Hello"[..]));
        assert_eq!(inflate(payload, 4), Err(TOO_BIG));
    }
    assert_eq!(
        inflate(&[0], 10).as_deref(),
        Ok(&b""[..]),
        "an empty message"
    );
    for length in [0, 1, 1_023, 1_024, 1_025, 100_000] {
        let plain: Vec<u8> = (0..length)
            .map(|n: u32| (n.wrapping_mul(n) >> 7) as u8)
            .collect();
        let payload = deflated(&plain);
        assert_eq!(
            inflate(&payload, plain.len()),
            Ok(plain.clone()),
            "{length}"
        );
        if let Some(less) = plain.len().checked_sub(1) {
            assert_eq!(inflate(&payload, less), Err(TOO_BIG), "{length}");
        }
    }
}

#[test]
fn a_bomb_is_stopped_at_the_limit_and_garbage_is_refused() {
    let bomb = deflated(&vec![0; 16 << 20]);
    assert!(bomb.len() < 20_000);
    assert_eq!(inflate(&bomb, 1 << 20), Err(TOO_BIG));
    for garbage in [&[0xff; 20][..], &[7], b"not deflated at all"] {
        assert_eq!(inflate(garbage, 1 << 20), Err(NOT_DEFLATED), "{garbage:?}");
    }
}
