use super::*;

/// The frames of one message: its payload cut in two, masked or not.
fn frames(sender: Sender, payload: &[u8], compressed: bool) -> Vec<u8> {
    let key = (sender == Sender::Client).then_some([9, 8, 7, 6]);
    let (one, other) = payload.split_at(payload.len() / 2);
    let mut frames = Vec::new();
    for (part, first) in [(one, true), (other, false)] {
        let opcode = if first {
            Opcode::Text
        } else {
            Opcode::Continuation
        };
        let length = part.len() as u64;
        frames.extend_from_slice(&encode_header(
            !first,
            first && compressed,
            opcode,
            length,
            key,
        ));
        let begin = frames.len();
        frames.extend_from_slice(part);
        mask::apply(&mut frames[begin..], key.unwrap_or_default());
    }
    frames
}

#[test]
fn frames_are_taken_apart_and_cut_ones_are_none() {
    for sender in [Sender::Client, Sender::Server] {
        for (payload, compressed) in [(&b""[..], false), (b"a", true), (&[b'x'; 300], false)] {
            let frames = frames(sender, payload, compressed);
            let mut found = Vec::new();
            let first = unframe(&frames, sender, &mut found);
            assert_eq!(first, Some((Opcode::Text, compressed)));
            assert_eq!(found, payload);
            for cut in 1..frames.len() {
                let whole = unframe(&frames[..cut], sender, &mut Vec::new()).is_some();
                // The first frame alone is whole, too.
                let ends = unframe(&frames[cut..], sender, &mut Vec::new()).is_some();
                assert!(!whole || ends, "{cut} of {}", frames.len());
            }
        }
    }
}

#[test]
fn a_large_buffer_is_not_kept() {
    assert!(emptied(Vec::with_capacity(1 << 20)).capacity() <= KEPT_MAX);
    assert!(emptied(vec![1; 10]).is_empty());
}
