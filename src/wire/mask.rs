//! Masking (RFC 6455 section 5.3): exclusive or with a four byte key.

/// Masks or unmasks `bytes` in place. `key[0]` belongs to `bytes[0]`; use [`rotate`] when the
/// bytes begin in the middle of a frame.
#[inline]
pub fn apply(bytes: &mut [u8], key: [u8; 4]) {
    let wide = widen(key);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    // A plain loop over words: the compiler turns it into vector instructions by itself.
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (at, byte) in rest.iter_mut().enumerate() {
        *byte ^= key[at & 3];
    }
}

/// The key for a payload whose first `by` bytes have already gone.
#[inline]
pub fn rotate(mut key: [u8; 4], by: usize) -> [u8; 4] {
    key.rotate_left(by & 3);
    key
}

/// Whether `masked` is pure ASCII once unmasked. It reads only, because a client's frame keeps its
/// mask on the way through and must not change.
#[inline]
pub fn is_ascii(masked: &[u8], key: [u8; 4]) -> bool {
    let wide = widen(key);
    let (blocks, rest) = masked.as_chunks::<64>();
    // One test per 64 bytes keeps the inner loop free of branches, and so vectorised.
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        let high = words
            .iter()
            .fold(0, |high, word| high | (u64::from_ne_bytes(*word) ^ wide));
        if high & HIGH_BITS != 0 {
            return false;
        }
    }
    let (words, tail) = rest.as_chunks::<8>();
    let high = words
        .iter()
        .fold(0, |high, word| high | (u64::from_ne_bytes(*word) ^ wide));
    let tail_high = tail
        .iter()
        .enumerate()
        .fold(0, |high, (at, byte)| high | (byte ^ key[at & 3]));
    high & HIGH_BITS == 0 && tail_high & 0x80 == 0
}

/// The key twice: eight is a multiple of four, so each word starts in the same phase.
#[inline]
fn widen(key: [u8; 4]) -> u64 {
    let [a, b, c, d] = key;
    u64::from_ne_bytes([a, b, c, d, a, b, c, d])
}

/// The bit that no ASCII byte has, in each byte of a word.
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x9a, 0x01, 0xff, 0x40];

    #[test]
    fn applies_like_the_formula_of_the_rfc_at_every_length() {
        for len in 0..200 {
            let plain: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let wanted: Vec<u8> = plain
                .iter()
                .enumerate()
                .map(|(i, b)| b ^ KEY[i % 4])
                .collect();
            let mut bytes = plain.clone();
            apply(&mut bytes, KEY);
            assert_eq!(bytes, wanted, "length {len}");
            apply(&mut bytes, KEY);
            assert_eq!(bytes, plain, "twice is nothing, length {len}");
        }
    }

    #[test]
    fn a_rotated_key_continues_at_every_split() {
        let mut whole: Vec<u8> = (0..100).collect();
        apply(&mut whole, KEY);
        for split in 0..=100 {
            let mut parts: Vec<u8> = (0..100).collect();
            let (left, right) = parts.split_at_mut(split);
            apply(left, KEY);
            apply(right, rotate(KEY, split));
            assert_eq!(parts, whole, "split at {split}");
        }
    }

    #[test]
    fn one_high_byte_anywhere_is_seen() {
        for len in 1..150 {
            let mut bytes = vec![b'a'; len];
            apply(&mut bytes, KEY);
            assert!(is_ascii(&bytes, KEY), "length {len}");
            for at in 0..len {
                bytes[at] ^= 0x80;
                assert!(!is_ascii(&bytes, KEY), "length {len}, byte {at}");
                bytes[at] ^= 0x80;
            }
        }
        assert!(is_ascii(&[], KEY));
    }
}
