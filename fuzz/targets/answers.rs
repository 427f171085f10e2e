//! Answers of HTTP servers, collected for a bridge or passed on to a client: any segmentation gives
//! the same answers, none is longer than allowed, and no line of a head that is passed on was made
//! up by the server's framing.
//!
//! Input: one byte of flags, one that seeds the cuts, then what a server sends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wsteady::session::dialect::http::Http;
use wsteady::session::{Api, Dialect, Heard, Terms};

fuzz_target!(|input: &[u8]| {
    let [flags, seed, bytes @ ..] = input else {
        return;
    };
    let (streams, head_only, ends) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
    let run = |seed| hear(bytes, streams, head_only, ends, seed);
    let whole = run(u32::MAX);
    assert_eq!(run(0), whole, "answers depend on the segments");
    assert_eq!(
        run(u32::from(*seed) + 1),
        whole,
        "answers depend on the segments"
    );
});

/// All that was understood, as text. Seed 0: byte by byte; the largest: in one piece.
fn hear(bytes: &[u8], streams: bool, head_only: bool, ends: bool, mut seed: u32) -> Vec<String> {
    let mut http = Http::for_calls(&Terms {
        head_max: HEAD_MAX,
        body_max: BODY_MAX,
        streams,
        api: &Api::Http,
        pool: "api",
    })
    .expect("it makes calls");
    http.asked(head_only);
    let (mut told, mut kept, mut rest) = (Vec::new(), Vec::new(), bytes);
    let mut body = Vec::new();
    while !rest.is_empty() {
        let step = match seed {
            0 => 1,
            u32::MAX => rest.len(),
            _ => {
                seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345) | 1;
                1 + (seed >> 16) as usize % 60
            }
        };
        let (piece, more) = rest.split_at(step.min(rest.len()));
        kept.extend_from_slice(piece);
        rest = more;
        while !kept.is_empty() {
            let (used, heard) = http.hear(&kept);
            if matches!(heard, Heard::More) {
                assert_eq!(used, 0);
                break;
            }
            assert!(used <= kept.len());
            let bytes: Vec<u8> = kept.drain(..used).collect();
            if tell(heard, &bytes, &mut body, &mut told) {
                return told;
            }
        }
    }
    if ends {
        tell(http.hear_end(), &[], &mut body, &mut told);
    }
    // A body under way is told as far as it came.
    told.push(format!("rest {body:?}"));
    told
}

/// Whether nothing more is asked of this connection.
fn tell(heard: Heard, bytes: &[u8], body: &mut Vec<u8>, told: &mut Vec<String>) -> bool {
    match heard {
        Heard::Nothing => false,
        Heard::Reply(reply) => {
            assert!(reply.body.len() as u64 <= BODY_MAX && (200..600).contains(&reply.status));
            told.push(format!("{reply:?}"));
            !reply.keep
        }
        Heard::Head(head) => {
            for line in head.lines.split_inclusive(|byte| *byte == b'\n') {
                assert!(line.ends_with(b"\r\n") && line.contains(&b':'), "{head:?}");
                let name = line.to_ascii_lowercase();
                assert!(
                    !name.starts_with(b"transfer-encoding:") && !name.starts_with(b"connection:")
                );
                assert!(head.bodiless || !name.starts_with(b"content-length:"));
            }
            told.push(format!("{head:?}"));
            head.ends && !head.keep
        }
        Heard::Flow { ends } => {
            body.extend_from_slice(bytes);
            if ends {
                told.push(format!("body {:?}", std::mem::take(body)));
            }
            false
        }
        Heard::FlowEnd => {
            told.push(format!("body {:?}", std::mem::take(body)));
            false
        }
        Heard::Broken(loss) => {
            told.push(format!("{loss:?}"));
            true
        }
        other => panic!("an HTTP server says no {other:?}"),
    }
}

const HEAD_MAX: usize = 1_000;
const BODY_MAX: u64 = 300;
