use super::*;
use std::io::Cursor;
use tungstenite::protocol::frame::FrameHeader;

/// Turns hex, spaces allowed, into bytes.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Illegal headers, and after how many bytes that must be known.
const BAD: &[(&str, &str, Sender, bool, usize)] = &[
    (
        "V26 unmasked client",
        "81 05 68656c6c6f",
        Sender::Client,
        false,
        2,
    ),
    (
        "V26 masked server",
        "81 85 00000000 68656c6c6f",
        Sender::Server,
        false,
        2,
    ),
    (
        "V27 RSV1 without deflate",
        "C1 80 00000000",
        Sender::Client,
        false,
        1,
    ),
    (
        "V27 RSV1 on a continuation",
        "C0 80 00000000",
        Sender::Client,
        true,
        1,
    ),
    (
        "V27 RSV1 on a ping",
        "C9 80 00000000",
        Sender::Client,
        true,
        1,
    ),
    ("V27 RSV2", "A1 80 00000000", Sender::Client, true, 1),
    ("V27 RSV3", "91 80 00000000", Sender::Client, true, 1),
    ("V27 opcode 3", "83 80 00000000", Sender::Client, false, 1),
    ("V27 opcode 7", "87 80 00000000", Sender::Client, false, 1),
    ("V27 opcode B", "8B 80 00000000", Sender::Client, false, 1),
    ("V27 opcode F", "8F 00", Sender::Server, false, 1),
    (
        "V28 long ping",
        "89 FE 007E 00000000",
        Sender::Client,
        false,
        2,
    ),
    (
        "V28 longer ping",
        "89 7F 0000000000010000",
        Sender::Server,
        false,
        2,
    ),
    (
        "V28 fragmented ping",
        "09 80 00000000",
        Sender::Client,
        false,
        1,
    ),
    (
        "V29 top bit",
        "82 FF 8000000000000000 00000000",
        Sender::Client,
        false,
        3,
    ),
    (
        "V29 5 in 16 bits",
        "82 FE 0005 00000000",
        Sender::Client,
        false,
        4,
    ),
    ("V29 125 in 16 bits", "82 7E 007D", Sender::Server, false, 4),
    (
        "V29 5 in 64 bits",
        "82 FF 0000000000000005 00000000",
        Sender::Client,
        false,
        8,
    ),
    (
        "V29 65535 in 64 bits",
        "82 7F 000000000000FFFF",
        Sender::Server,
        false,
        8,
    ),
    (
        "V5 draft 75 length",
        "80 FF FF FF FF FF FF FF FF FF",
        Sender::Client,
        false,
        3,
    ),
];

#[test]
fn bad_headers_fail_at_the_earliest_byte() {
    for &(name, text, from, deflate, known) in BAD {
        let bytes = hex(text);
        for len in 0..=bytes.len() {
            let parsed = parse(&bytes[..len], from, deflate);
            if len < known {
                assert_eq!(parsed, Ok(None), "{name}, {len} bytes");
            } else {
                assert_eq!(parsed.expect_err(name).code, 1002, "{name}, {len} bytes");
            }
        }
    }
}

const OPCODES: [Opcode; 6] = [
    Opcode::Continuation,
    Opcode::Text,
    Opcode::Binary,
    Opcode::Close,
    Opcode::Ping,
    Opcode::Pong,
];

#[test]
fn legal_headers_round_trip_and_agree_with_tungstenite() {
    let lens = [
        0,
        1,
        125,
        126,
        127,
        0xFFFF,
        0x1_0000,
        u64::from(u32::MAX) + 1,
        (1 << 63) - 1,
    ];
    for opcode in OPCODES {
        for len in lens
            .into_iter()
            .filter(|len| !opcode.is_control() || *len <= 125)
        {
            for mask in [None, Some([1, 2, 3, 4])] {
                for fin in [true, opcode.is_control()] {
                    check_one(fin, opcode, len, mask);
                }
            }
        }
    }
}

fn check_one(fin: bool, opcode: Opcode, payload_len: u64, mask: Option<[u8; 4]>) {
    let from = if mask.is_some() {
        Sender::Client
    } else {
        Sender::Server
    };
    let rsv1 = matches!(opcode, Opcode::Text | Opcode::Binary);
    let head = encode_header(fin, rsv1, opcode, payload_len, mask);
    for len in 0..head.len() {
        assert_eq!(
            parse(&head[..len], from, true),
            Ok(None),
            "a prefix of {head:?}"
        );
    }
    let header_len = head.len() as u8;
    let wanted = Header {
        fin,
        rsv1,
        opcode,
        mask,
        payload_len,
        header_len,
    };
    assert_eq!(parse(&head, from, true), Ok(Some(wanted)));
    assert_eq!(
        peek_len(&head),
        Some((head.len(), payload_len, fin, opcode))
    );

    let (theirs, len) = FrameHeader::parse(&mut Cursor::new(&*head))
        .unwrap()
        .expect("whole");
    assert_eq!(len, payload_len);
    assert_eq!(
        (theirs.is_final, theirs.rsv1, theirs.mask),
        (fin, rsv1, mask)
    );
    let mut out = Vec::new();
    theirs.format(payload_len, &mut out).unwrap();
    assert_eq!(out, &*head);
}

#[test]
fn whatever_both_accept_they_read_alike() {
    for first in 0..=u8::MAX {
        for second in 0..=u8::MAX {
            let bytes = [first, second, 0x01, 0x02, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
            for from in [Sender::Client, Sender::Server] {
                let Ok(Some(ours)) = parse(&bytes, from, true) else {
                    continue;
                };
                let mut cursor = Cursor::new(&bytes[..]);
                let (theirs, len) = FrameHeader::parse(&mut cursor).unwrap().expect("whole");
                assert_eq!(ours.payload_len, len);
                assert_eq!(u64::from(ours.header_len), cursor.position());
                assert_eq!((ours.fin, ours.mask), (theirs.is_final, theirs.mask));
                assert_eq!(ours.opcode as u8, u8::from(theirs.opcode));
            }
        }
    }
}

#[test]
fn peek_needs_no_more_than_the_length() {
    let head = encode_header(true, false, Opcode::Binary, 70_000, Some([9; 4]));
    for len in 0..10 {
        assert_eq!(peek_len(&head[..len]), None);
    }
    assert_eq!(
        peek_len(&head[..10]),
        Some((14, 70_000, true, Opcode::Binary))
    );
}

#[test]
fn control_frames_are_what_a_client_library_reads() {
    use tungstenite::protocol::{Role, WebSocket};
    for (mask, role) in [(Some([7, 0, 255, 3]), Role::Server), (None, Role::Client)] {
        for len in [0, 1, 7, 8, 125] {
            let payload = vec![b'p'; len];
            let frame = control(Opcode::Ping, &payload, mask);
            let mut peer = WebSocket::from_raw_socket(Cursor::new(frame.to_vec()), role, None);
            let message = peer.read().unwrap();
            assert_eq!(message, tungstenite::Message::Ping(payload.into()));
        }
    }
}
