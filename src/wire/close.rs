//! The payload of a Close frame (RFC 6455 sections 5.5.1 and 7.4).

use super::frame::{CONTROL_PAYLOAD_MAX, ControlPayload, ProtocolError};

/// A Close frame's payload, ready to be framed by [`super::frame::control`].
pub type ClosePayload = ControlPayload;

/// Reads the payload of a Close frame. `None` is a Close without a code, which the API of the
/// WebSocket calls 1005.
///
/// Errors: 1002 for a payload of one byte or a code that must not be sent, 1007 for a reason that
/// is not UTF-8.
pub fn parse(payload: &[u8]) -> Result<Option<(u16, &str)>, ProtocolError> {
    if payload.is_empty() {
        return Ok(None);
    }
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return Err(ProtocolError::new(1002, "close payload of one byte"));
    };
    let code = u16::from_be_bytes(*code);
    if !is_sendable(code) {
        return Err(ProtocolError::new(1002, "illegal close code"));
    }
    let reason = std::str::from_utf8(reason)
        .map_err(|_| ProtocolError::new(1007, "close reason is not UTF-8"))?;
    Ok(Some((code, reason)))
}

/// Whether a code may stand in a Close frame: registered ones (RFC 6455 section 7.4.1 and the IANA
/// registry, which added 1012 to 1014), libraries' (3000) and applications' (4000) ranges. 1004,
/// 1005, 1006 and 1015 are reserved.
#[inline]
pub fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Makes a payload. The reason is cut at a character to what a control frame can hold, 123 bytes.
/// A code that must not be written (1005, say) makes the empty payload, a Close without a code.
pub fn payload(code: u16, reason: &str) -> ClosePayload {
    if !is_sendable(code) {
        return ControlPayload::default();
    }
    let mut len = REASON_MAX.min(reason.len());
    while !reason.is_char_boundary(len) {
        len -= 1;
    }
    let cut = &reason[..len];
    let mut bytes = [0; CONTROL_PAYLOAD_MAX];
    bytes[..2].copy_from_slice(&code.to_be_bytes());
    bytes[2..2 + cut.len()].copy_from_slice(cut.as_bytes());
    ControlPayload::new(&bytes[..2 + cut.len()])
}

/// A control frame holds 125 bytes; the code takes two.
const REASON_MAX: usize = CONTROL_PAYLOAD_MAX - 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_v33_and_r15() {
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            let error = parse(&u16::to_be_bytes(code)).expect_err("illegal");
            assert_eq!(error.code, 1002, "{code}");
            assert!(payload(code, "never on the wire").is_empty(), "{code}");
        }
        for code in (1000..=1003)
            .chain(1007..=1014)
            .chain([3000, 3999, 4000, 4999])
        {
            let bytes = payload(code, "ok");
            assert_eq!(parse(&bytes), Ok(Some((code, "ok"))));
        }
    }

    #[test]
    fn agrees_with_tungstenite_on_all_codes_but_the_registered_1012_to_1014() {
        use tungstenite::protocol::frame::coding::CloseCode;
        for code in 0..=u16::MAX {
            let theirs = CloseCode::from(code).is_allowed();
            if !(1012..=1014).contains(&code) {
                assert_eq!(is_sendable(code), theirs, "{code}");
            }
        }
    }

    #[test]
    fn odd_payloads() {
        assert_eq!(parse(b""), Ok(None));
        assert_eq!(parse(b"\x03").expect_err("V28").code, 1002);
        assert_eq!(parse(b"\x03\xe8\xff").expect_err("V32").code, 1007);
        assert_eq!(parse(b"\x03\xe8"), Ok(Some((1000, ""))));
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        for pad in 0..4 {
            let long = format!("{}{}", "x".repeat(pad), "\u{1f980}".repeat(40));
            let bytes = payload(1000, &long);
            assert!(bytes.len() <= 125 && bytes.len() > 120);
            let (_, reason) = parse(&bytes).expect("legal").expect("has a code");
            assert!(long.starts_with(reason));
        }
        assert_eq!(payload(1000, &"x".repeat(123)).len(), 125);
    }
}
