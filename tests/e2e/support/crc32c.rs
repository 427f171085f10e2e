//! CRC-32C (Castagnoli, RFC 3720 appendix B.4), by table.

/// The checksum of all `parts` in a row.
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut crc = !0u32;
    for byte in parts.iter().copied().flatten() {
        crc = (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)];
    }
    !crc
}

const POLYNOMIAL: u32 = 0x82F6_3B78;

static TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[test]
fn agrees_with_the_rfc() {
    // RFC 3720 B.4: 32 bytes of zeroes, and of ones; the last is the usual check word.
    assert_eq!(crc32c(&[&[0; 32]]), 0x8A91_36AA);
    assert_eq!(crc32c(&[&[0xFF; 32]]), 0x62A8_AB43);
    assert_eq!(crc32c(&[b"1234", b"56789"]), 0xE306_9283);
}
