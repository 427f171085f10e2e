//! UTF-8 checked as it arrives (RFC 6455, 8.1), wherever the pieces were cut.

/// What is known of a text so far.
#[derive(Clone, Copy, Default)]
pub struct Utf8 {
    /// The beginning of a character whose rest has not come: 3 bytes at most.
    tail: [u8; 4],
    tail_len: u8,
}

/// The text can never become valid.
#[derive(Debug, PartialEq, Eq)]
pub struct Invalid;

impl Utf8 {
    /// Takes the next piece.
    ///
    /// # Errors
    /// As soon as the text is beyond repair, not only at its end.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Invalid> {
        while self.tail_len > 0 {
            let Some((&first, rest)) = bytes.split_first() else {
                return Ok(());
            };
            self.tail[usize::from(self.tail_len)] = first;
            self.tail_len += 1;
            bytes = rest;
            match std::str::from_utf8(&self.tail[..usize::from(self.tail_len)]) {
                Ok(_) => self.tail_len = 0,
                Err(error) if error.error_len().is_some() => return Err(Invalid),
                Err(_) => debug_assert!(self.tail_len < 4, "four bytes are valid or not"),
            }
        }
        if let Err(error) = std::str::from_utf8(bytes) {
            if error.error_len().is_some() {
                return Err(Invalid);
            }
            let tail = &bytes[error.valid_up_to()..];
            self.tail[..tail.len()].copy_from_slice(tail);
            self.tail_len = tail.len() as u8;
        }
        Ok(())
    }

    /// The text ends here; the next one may begin.
    ///
    /// # Errors
    /// A character was cut off.
    pub fn finish(&mut self) -> Result<(), Invalid> {
        let whole = self.tail_len == 0;
        self.tail_len = 0;
        if whole { Ok(()) } else { Err(Invalid) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &[u8], split: usize) -> Result<(), Invalid> {
        let mut utf8 = Utf8::default();
        utf8.feed(&text[..split])?;
        utf8.feed(&text[split..])?;
        utf8.finish()
    }

    #[test]
    fn every_split_gives_the_verdict_of_the_whole() {
        let samples: [&[u8]; 9] = [
            "plain".as_bytes(),
            "κόσμε 🦀 ß".as_bytes(),
            b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
            b"\xf4\x90\x80\x80",
            b"\xc0\xaf",
            b"\xf0\x9f\xa6",
            b"\x80",
            b"",
            b"a\xff",
        ];
        for text in samples {
            let whole = std::str::from_utf8(text).map(|_| ()).map_err(|_| Invalid);
            for split in 0..=text.len() {
                assert_eq!(check(text, split), whole, "{text:02x?} at {split}");
            }
            let mut utf8 = Utf8::default();
            let bytewise = text.iter().try_for_each(|byte| utf8.feed(&[*byte]));
            assert_eq!(
                bytewise.and_then(|()| utf8.finish()),
                whole,
                "{text:02x?} bytewise"
            );
        }
    }

    #[test]
    fn a_lost_text_is_seen_before_its_end() {
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.feed(b"\xf4"), Ok(()));
        assert_eq!(utf8.feed(b"\x90"), Err(Invalid));
    }
}
