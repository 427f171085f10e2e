//! Values as programs in Go read them.

use std::time::Duration;

/// `1h30m`, `1.5s`, `300ms` or `0`: numbers with units, one behind the other. What is finer than a
/// millisecond is rounded up to one.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time; write 10s, 500ms or 1m30s");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.starts_with('-') {
        return Err(format!("{text:?} is less than 0; write 10s or 500ms"));
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    if rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{text:?} has no unit; write {text}s or {text}ms"));
    }
    let mut nanos: f64 = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|one: char| !one.is_ascii_digit() && one != '.');
        let (number, behind) = rest.split_at(end.ok_or_else(wrong)?);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let unit = UNITS.iter().find(|(name, _)| behind.starts_with(name));
        let (name, scale) = unit.ok_or_else(wrong)?;
        nanos += number * scale;
        rest = &behind[name.len()..];
    }
    let ms = (nanos / 1e6).ceil();
    match ms <= MS_MAX {
        true => Ok(Duration::from_millis(ms as u64)),
        false => Err(format!("{text:?} is too long")),
    }
}

/// A whole number, maybe negative.
pub(super) fn int(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a whole number"))
}

/// `true`, `1`, `f` and so on.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is not known; write true or false")),
    }
}

/// The longer names first, where one begins like another.
const UNITS: &[(&str, f64)] = &[
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Some 290 years, as in Go.
const MS_MAX: f64 = 9.2e12;
