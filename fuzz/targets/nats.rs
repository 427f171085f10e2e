//! What a NATS server says: any segmentation says the same, nothing is used that is not there, and what
//! it names is bounded.
//!
//! Input: one byte that seeds the cuts, then what a server sends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wsteady::wire::nats::{INFO_MAX, LINE_MAX, Said, json_field, parse, put_token, read_token};

fuzz_target!(|input: &[u8]| {
    let [seed, bytes @ ..] = input else {
        return;
    };
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, 1), whole, "it depends on the segments");
    let step = usize::from(*seed) + 1;
    assert_eq!(read(bytes, step), whole, "it depends on the segments");
    for name in ["max_payload", "error", ""] {
        let _ = json_field(bytes, name);
    }
    if let Some(id) = read_token(bytes) {
        let mut token = Vec::new();
        put_token(&id, &mut token);
        assert_eq!(token, bytes, "one token is one id");
    }
});

/// All that was said, as text.
fn read(bytes: &[u8], step: usize) -> Vec<String> {
    let (mut told, mut kept) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(step) {
        kept.extend_from_slice(piece);
        loop {
            match parse(&kept, PAYLOAD_MAX) {
                Ok(Some((used, said))) => {
                    assert!(used <= kept.len());
                    if let Said::Message(message) = &said {
                        assert!(message.headers.len() + message.payload.len() <= PAYLOAD_MAX);
                        let _ = (message.header("Status"), message.status());
                    }
                    told.push(format!("{said:?}"));
                    kept.drain(..used);
                }
                Ok(None) => break,
                Err(_) => {
                    told.push("broken".to_string());
                    return told;
                }
            }
        }
        assert!(kept.len() <= INFO_MAX.max(LINE_MAX + PAYLOAD_MAX + 2));
    }
    told
}

const PAYLOAD_MAX: usize = 300;
