use super::super::frame::tests::hex;
use super::super::frame::{control, encode_header};
use super::*;

const LIMITS: Limits = Limits {
    message_max: 1000,
    fragments_max: 5,
    utf8: true,
};

/// A frame as a peer sends it; masked for a client.
fn frame(from: Sender, fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let key = (from == Sender::Client).then_some([0xA5, 0x01, 0x80, 0x7F]);
    let mut bytes = encode_header(fin, false, opcode, payload.len() as u64, key).to_vec();
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    mask::apply(&mut bytes[start..], key.unwrap_or_default());
    bytes
}

/// What a scanner said about a stream, so written that it can't depend on the segments.
#[derive(Debug, Default, PartialEq)]
struct Said {
    passed: Vec<u8>,
    /// Where in `passed` frames begin, messages begin (with their kind) and end.
    frames: Vec<usize>,
    begins: Vec<(usize, bool)>,
    ends: Vec<usize>,
    controls: Vec<(usize, Opcode, Vec<u8>)>,
    error: Option<ProtocolError>,
}

/// Feeds `stream` in segments whose lengths `next` chooses, keeping what `More` leaves.
fn run(mut scanner: Scanner, stream: &[u8], mut next: impl FnMut() -> usize) -> Said {
    let mut said = Said::default();
    let mut kept = Vec::new();
    let mut at = 0;
    while at < stream.len() {
        let end = stream.len().min(at + next().max(1));
        kept.extend_from_slice(&stream[at..end]);
        at = end;
        loop {
            let before = kept.clone();
            let step = scanner.step(&kept, &LIMITS);
            assert_eq!(kept, before, "the input is read only");
            match step {
                Err(error) => {
                    said.error = Some(error);
                    return said;
                }
                Ok(Step::More) => break,
                Ok(step) => note(&mut said, &mut kept, step),
            }
        }
        assert!(kept.len() <= 131, "More keeps {} bytes", kept.len());
    }
    said
}

fn note(said: &mut Said, kept: &mut Vec<u8>, step: Step) {
    let at = said.passed.len();
    match step {
        Step::More => unreachable!("handled by the caller"),
        Step::Control {
            len,
            opcode,
            payload,
        } => {
            said.controls.push((at, opcode, payload.to_vec()));
            kept.drain(..len);
        }
        Step::Data {
            len,
            begins_message,
            begins_frame,
            ends_message,
            text,
        } => {
            assert!(len > 0, "a step moves");
            if begins_frame {
                said.frames.push(at);
            }
            if begins_message {
                said.begins.push((at, text));
            }
            said.passed.extend(kept.drain(..len));
            if ends_message {
                said.ends.push(said.passed.len());
            }
        }
    }
}

fn conversation(from: Sender) -> Vec<u8> {
    let long: String = "stra\u{df}e \u{1f980} ".repeat(30);
    let (first, second) = long.as_bytes().split_at(11);
    let key = (from == Sender::Client).then_some([1, 2, 3, 4]);
    [
        frame(from, true, Opcode::Text, b"hello"),
        frame(from, true, Opcode::Binary, b""),
        frame(from, false, Opcode::Text, first),
        control(Opcode::Ping, &[b'i'; 125], key).to_vec(),
        frame(from, false, Opcode::Continuation, b""),
        control(Opcode::Pong, b"", key).to_vec(),
        frame(from, true, Opcode::Continuation, second),
        frame(from, true, Opcode::Binary, &[0xFF; 300]),
        frame(from, true, Opcode::Text, b""),
        control(Opcode::Close, b"\x03\xe8bye", key).to_vec(),
    ]
    .concat()
}

#[test]
fn any_segmentation_gives_the_same_steps() {
    for from in [Sender::Client, Sender::Server] {
        let stream = conversation(from);
        let whole = run(Scanner::new(from, false), &stream, || usize::MAX >> 1);
        assert_eq!(whole.error, None);
        assert_eq!(
            (whole.frames.len(), whole.begins.len(), whole.ends.len()),
            (7, 5, 5)
        );
        assert_eq!(whole.controls[0].2, [b'i'; 125]);
        assert_eq!(whole.controls[2].2, b"\x03\xe8bye");
        // R18, then chance.
        for len in [1, 2, 3, 7] {
            assert_eq!(
                run(Scanner::new(from, false), &stream, || len),
                whole,
                "by {len}"
            );
        }
        for split in 1..stream.len() {
            let mut lens = [split, usize::MAX >> 1].into_iter();
            let said = run(Scanner::new(from, false), &stream, || lens.next().unwrap());
            assert_eq!(said, whole, "split at {split}");
        }
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        for round in 0..300 {
            let said = run(Scanner::new(from, false), &stream, || {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                (seed % 97) as usize
            });
            assert_eq!(said, whole, "round {round}");
        }
    }
}

#[test]
fn what_is_passed_on_is_what_a_library_reads() {
    use tungstenite::protocol::{Role, WebSocket};
    let stream = conversation(Sender::Client);
    let said = run(Scanner::new(Sender::Client, false), &stream, || 5);
    let read = |bytes: Vec<u8>| {
        let socket = std::io::Cursor::new(bytes);
        let mut peer = WebSocket::from_raw_socket(socket, Role::Server, None);
        let mut messages = Vec::new();
        while let Ok(message) = peer.read() {
            if message.is_text() || message.is_binary() {
                messages.push(message);
            }
        }
        messages
    };
    let messages = read(said.passed.clone());
    assert_eq!(messages.len(), 5);
    for (at, (begin, end)) in said.begins.iter().zip(&said.ends).enumerate() {
        let alone = read(said.passed[begin.0..*end].to_vec());
        assert_eq!(alone, messages[at..=at], "message {at} stands alone");
    }
}

/// Streams of a client, the code, and after how many bytes it must be known.
const BAD: &[(&str, &str, u16, usize)] = &[
    ("R11 continuation of nothing", "80 80 00000000", 1002, 1),
    (
        "R11 text inside text",
        "01 81 00000000 61 81 80 00000000",
        1002,
        8,
    ),
    (
        "R11 binary inside text",
        "01 80 00000000 82 80 00000000",
        1002,
        7,
    ),
    ("V26", "81 05 68656c6c6f", 1002, 2),
    ("V28", "89 FE 007E 00000000", 1002, 2),
    ("V29 huge", "82 FF 7FFFFFFFFFFFFFFF 00000000", 1009, 10),
    ("R05 cap + 1", "82 FE 03E9 00000000", 1009, 4),
    (
        "R05 cap + 1 in fragments",
        "02 FE 03E8 00000000 {1000} 80 81 00000000 61",
        1009,
        1010,
    ),
    (
        "V30 sixth frame",
        "01 80 00000000 {V30} 00 80 00000000",
        1009,
        31,
    ),
    (
        "V30 sixth frame, which lacks its mask, too",
        "01 80 00000000 {V30} 00 00",
        1009,
        31,
    ),
    (
        "V32 cut at the end",
        "01 81 00000000 CE 80 80 00000000",
        1007,
        13,
    ),
    (
        "V32 cut by another",
        "01 81 00000000 CE 80 81 00000000 20",
        1007,
        14,
    ),
    (
        "V32 cut, more behind",
        "01 81 00000000 CE 80 82 00000000 20 B1",
        1007,
        14,
    ),
    ("V32 cut, whole frame", "81 82 00000000 61 CE", 1007, 8),
    ("V32 too high", "81 84 00000000 F4908080", 1007, 8),
    ("V32 surrogate", "81 83 00000000 EDA080", 1007, 8),
    (
        "V32 after ascii",
        "81 90 00000000 61616161616161616161 FF",
        1007,
        17,
    ),
];

fn expand(text: &str) -> Vec<u8> {
    let zeros = "00".repeat(1000);
    let empty = "00 80 00000000 ".repeat(4);
    hex(&text.replace("{1000}", &zeros).replace("{V30}", &empty))
}

#[test]
fn bad_streams_fail_at_the_earliest_byte() {
    for &(name, text, code, known) in BAD {
        let stream = expand(text);
        for len in 0..=stream.len() {
            let said = run(Scanner::new(Sender::Client, false), &stream[..len], || 1);
            let wanted = (len >= known).then_some(code);
            assert_eq!(
                said.error.map(|error| error.code),
                wanted,
                "{name}, {len} bytes"
            );
            let said = run(Scanner::new(Sender::Client, false), &stream[..len], || 9999);
            assert_eq!(
                said.error.map(|error| error.code),
                wanted,
                "{name}, {len} at once"
            );
        }
    }
}

#[test]
fn servers_stream_at_any_length_in_any_text() {
    for text in ["82 7F 7FFFFFFFFFFFFFFF", "81 02 FFFF", "01 01 CE 80 01 20"] {
        let said = run(Scanner::new(Sender::Server, false), &hex(text), || 1);
        assert_eq!(said.error, None, "{text}");
    }
    let many = [hex("01 00"), hex("00 00").repeat(1000), hex("80 00")].concat();
    let said = run(Scanner::new(Sender::Server, false), &many, || 3);
    assert_eq!(
        (said.error, said.frames.len(), said.ends.len()),
        (None, 1002, 1)
    );
    for text in ["80 00", "01 00 81 00", "81 80 00000000"] {
        let said = run(Scanner::new(Sender::Server, false), &hex(text), || 1);
        assert_eq!(said.error.expect("R11").code, 1002, "{text}");
    }
}

#[test]
fn compressed_text_passes_unchecked() {
    let stream = hex("41 82 00000000 FFFF 80 81 00000000 FF");
    let said = run(Scanner::new(Sender::Client, true), &stream, || 1);
    assert_eq!((said.error, said.begins), (None, vec![(0, true)]));
    let unchecked = Limits {
        utf8: false,
        ..LIMITS
    };
    let mut scanner = Scanner::new(Sender::Client, false);
    assert!(scanner.step(&hex("81 81 00000000 FF"), &unchecked).is_ok());
}

#[test]
fn it_knows_where_it_stands() {
    let mut scanner = Scanner::new(Sender::Client, false);
    assert!(scanner.at_frame_boundary() && scanner.at_message_boundary());
    let step = scanner.step(&hex("02 83 00000000 61"), &LIMITS).unwrap();
    let wanted = Step::Data {
        len: 7,
        begins_message: true,
        begins_frame: true,
        ends_message: false,
        text: false,
    };
    assert_eq!(step, wanted);
    assert_eq!((scanner.frame_left(), scanner.message_len()), (2, 3));
    assert!(!scanner.at_frame_boundary() && !scanner.at_message_boundary());
    scanner.step(b"aaXX", &LIMITS).unwrap();
    assert!(scanner.at_frame_boundary() && !scanner.at_message_boundary());
    scanner.step(&hex("80 84 00000000"), &LIMITS).unwrap();
    assert_eq!((scanner.frame_left(), scanner.message_len()), (4, 7));
    scanner.step(b"aaaa", &LIMITS).unwrap();
    assert!(scanner.at_frame_boundary() && scanner.at_message_boundary());
    assert_eq!(scanner.message_len(), 7);
}

#[test]
fn text_of_several_blocks_is_checked_at_every_phase() {
    let limits = Limits {
        message_max: u64::MAX,
        ..LIMITS
    };
    for pad in 0..5 {
        let text = format!(
            "{}{}",
            "a".repeat(TEXT_BLOCK - 3 + pad),
            "\u{1f980}".repeat(600)
        );
        let good = frame(Sender::Client, true, Opcode::Text, text.as_bytes());
        for cut in [1030, 1031, 1032, 1033, 2000] {
            let mut scanner = Scanner::new(Sender::Client, false);
            for part in [&good[..cut], &good[cut..]] {
                scanner.step(part, &limits).expect("valid at every split");
            }
            assert!(scanner.at_message_boundary());
        }
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 0x40;
        let error = Scanner::new(Sender::Client, false).step(&bad, &limits);
        assert_eq!(error.expect_err("no longer a continuation byte").code, 1007);
    }
}
