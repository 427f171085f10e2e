//! UTF-8 checked as it arrives (RFC 6455 section 8.1, RFC 3629).

/// The check of one text message between two reads: at most three bytes of a code point that was
/// cut by a segment or a fragment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utf8 {
    carry: [u8; 3],
    len: u8,
}

/// These bytes are not UTF-8 and no further byte can make them so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

impl Utf8 {
    /// A message of which nothing was seen yet.
    #[inline]
    pub const fn new() -> Utf8 {
        Utf8 {
            carry: [0; 3],
            len: 0,
        }
    }

    /// Looks at the next bytes. Errors at the earliest byte that can't become valid.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Invalid> {
        let bytes = self.finish_carried(bytes)?;
        let Err(error) = simdutf8::compat::from_utf8(bytes) else {
            return Ok(());
        };
        if error.error_len().is_some() {
            return Err(Invalid);
        }
        // Cut, but valid so far: an incomplete code point is at most three bytes long.
        let cut = &bytes[error.valid_up_to()..];
        debug_assert!(cut.len() <= 3 && self.len == 0);
        self.carry[..cut.len()].copy_from_slice(cut);
        self.len = cut.len() as u8;
        Ok(())
    }

    /// The message ends here. Errors if it ends inside a code point.
    #[inline]
    pub fn finish(&self) -> Result<(), Invalid> {
        if self.len == 0 { Ok(()) } else { Err(Invalid) }
    }

    /// Whether the bytes so far end with a whole code point.
    #[inline]
    pub fn is_whole(&self) -> bool {
        self.len == 0
    }

    /// Takes bytes until the carried code point is whole, and returns those behind it.
    fn finish_carried<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], Invalid> {
        while self.len > 0 {
            let Some((&next, rest)) = bytes.split_first() else {
                return Ok(bytes);
            };
            bytes = rest;
            let len = usize::from(self.len);
            let [a, b, c] = self.carry;
            let mut point = [a, b, c, 0];
            point[len] = next;
            match std::str::from_utf8(&point[..=len]) {
                Ok(_) => *self = Utf8::new(),
                Err(error) if error.error_len().is_some() => return Err(Invalid),
                Err(_) => {
                    debug_assert!(len < 3, "four bytes are a code point or no UTF-8");
                    self.carry[len] = next;
                    self.len += 1;
                }
            }
        }
        Ok(bytes)
    }
}

const _: () = assert!(size_of::<Utf8>() == 4);

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes, and how many of them can be read before the text is known to be wrong; `None` if it
    /// is right. V32 and R14 are rows of the threat list.
    const SAMPLES: &[(&str, &[u8], Option<usize>)] = &[
        ("empty", b"", None),
        ("ascii", b"hello", None),
        (
            "R14 all widths",
            "a\u{e9}\u{20ac}\u{1f980}z".as_bytes(),
            None,
        ),
        ("highest", b"\xF4\x8F\xBF\xBF", None),
        ("around the surrogates", b"\xED\x9F\xBF\xEE\x80\x80", None),
        ("V32 above the highest", b"ab\xF4\x90\x80\x80", Some(3)),
        ("V32 surrogate", b"\xED\xA0\x80", Some(1)),
        ("lone continuation", b"a\x80", Some(1)),
        ("overlong two", b"\xC0\xAF", Some(0)),
        ("overlong three", b"\xE0\x80\xAF", Some(1)),
        ("overlong four", b"\xF0\x80\x80\xAF", Some(1)),
        ("five bytes", b"\xF8\x88\x80\x80\x80", Some(0)),
        ("cut by ascii", b"\xCE ", Some(1)),
        ("cut in the third", b"\xE2\x82a", Some(2)),
        ("FF", b"\xFF", Some(0)),
    ];

    #[test]
    fn every_sample_at_every_pair_of_splits() {
        for &(name, bytes, bad) in SAMPLES {
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    let mut utf8 = Utf8::new();
                    let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    let done = parts.iter().try_for_each(|part| utf8.push(part));
                    let done = done.and_then(|()| utf8.finish());
                    assert_eq!(done.is_err(), bad.is_some(), "{name} {first} {second}");
                }
            }
        }
    }

    #[test]
    fn fails_at_the_earliest_byte() {
        for &(name, bytes, bad) in SAMPLES {
            let mut utf8 = Utf8::new();
            let failed = bytes.iter().position(|byte| utf8.push(&[*byte]).is_err());
            assert_eq!(failed, bad, "{name}");
        }
    }

    #[test]
    fn a_cut_code_point_is_wrong_only_at_the_end() {
        for bytes in [&b"\xCE"[..], b"\xE2\x82", b"a\xF0\x9F\xA6"] {
            let mut utf8 = Utf8::new();
            assert_eq!(utf8.push(bytes), Ok(()));
            assert!(!utf8.is_whole());
            assert_eq!(utf8.finish(), Err(Invalid));
        }
    }

    #[test]
    fn agrees_with_the_standard_library_on_noise() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let pieces: [&[u8]; 7] = [
            b"a",
            b"\xCE",
            b"\xB1",
            b"\xE2\x82",
            b"\xAC",
            b"\xF0\x9F",
            b"xyz",
        ];
        for _ in 0..20_000 {
            let mut bytes = Vec::new();
            for _ in 0..6 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                bytes.extend_from_slice(pieces[(seed % 7) as usize]);
            }
            let split = (seed >> 32) as usize % (bytes.len() + 1);
            let mut utf8 = Utf8::new();
            let parts = [&bytes[..split], &bytes[split..]];
            let done = parts.iter().try_for_each(|part| utf8.push(part));
            let done = done.and_then(|()| utf8.finish());
            assert_eq!(
                done.is_ok(),
                std::str::from_utf8(&bytes).is_ok(),
                "{bytes:x?} {split}"
            );
        }
    }
}
