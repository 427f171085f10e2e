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
