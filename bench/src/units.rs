//! Sizes and times as people write them.

use std::time::Duration;

/// Reads `64`, `64KiB`, `1MiB` (powers of 1,024) or `16k` (the same, short).
///
/// # Errors
/// A sentence that says what was expected.
pub fn size(text: &str) -> Result<usize, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "k" | "K" | "KiB" => 10,
        "m" | "M" | "MiB" => 20,
        "g" | "G" | "GiB" => 30,
        other => return Err(format!("unknown unit {other:?}; use KiB, MiB or GiB")),
    };
    let number: usize = number
        .parse()
        .map_err(|_| "expected a number, say 16KiB".to_string())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".to_string())
}

/// Reads `10s`, `500ms`, `2m`.
///
/// # Errors
/// A sentence that says what was expected.
pub fn time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write 10s or 500ms"))
}

/// A duration in whole nanoseconds; those of a benchmark fit 584 years into 64 bits.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes with the unit that keeps the number short: `41 B`, `4.7 KiB`.
pub fn bytes(number: f64) -> String {
    let mut scaled = number;
    for unit in ["B", "KiB", "MiB"] {
        if scaled.abs() < 1024.0 {
            let places = usize::from(unit != "B");
            return format!("{scaled:.places$} {unit}");
        }
        scaled /= 1024.0;
    }
    format!("{scaled:.1} GiB")
}

/// Nanoseconds with the unit that keeps the number short: `87.4 µs`, `1.20 ms`.
pub fn latency(nanos: u64) -> String {
    let nanos = nanos as f64;
    if nanos < 1e6 {
        format!("{:.1} µs", nanos / 1e3)
    } else if nanos < 1e9 {
        format!("{:.2} ms", nanos / 1e6)
    } else {
        format!("{:.2} s", nanos / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("64", 64),
            ("1KiB", 1024),
            ("16k", 16_384),
            ("2 MiB", 2 << 20),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "KiB",
            "1.5k",
            "-1",
            "12 parsecs",
            "99999999999999999999",
            "99999999999G",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(bytes(41.0), "41 B");
        assert_eq!(bytes(4812.8), "4.7 KiB");
        assert_eq!(latency(87_400), "87.4 µs");
        assert_eq!(latency(1_200_000), "1.20 ms");
    }
}
