//! How a line looks, for people and for machines, and what a stranger's text may do to it: nothing.

use std::fmt::Write as _;
use std::time::SystemTime;

use log::kv::{self, VisitSource, VisitValue};
use log::{Level, Record};

use crate::control::config::LogFormat;

/// A record as a line, with its end.
pub(super) fn of(format: LogFormat, record: &Record<'_>, now: SystemTime) -> String {
    match format {
        LogFormat::Text => text_line(record, now),
        LogFormat::Json => json_line(record, now),
    }
}

/// `2026-01-02T03:04:05.678Z INFO wsteady::net taken address=127.0.0.1:8080`
fn text_line(record: &Record<'_>, now: SystemTime) -> String {
    let mut line = format!(
        "{} {:<5} ",
        humantime::format_rfc3339_millis(now),
        record.level().as_str()
    );
    escape(record.target(), &mut line);
    line.push(' ');
    escape(&record.args().to_string(), &mut line);
    visit(record, |key, value| {
        line.push(' ');
        escape(key, &mut line);
        line.push('=');
        let text = value.text();
        match text.bytes().all(is_bare) && !text.is_empty() {
            true => line.push_str(text),
            false => {
                line.push('"');
                escape(text, &mut line);
                line.push('"');
            }
        }
    });
    line.push('\n');
    line
}

/// One JSON object; the fields of the event stand beside `ts`, `level`, `target` and `msg`.
fn json_line(record: &Record<'_>, now: SystemTime) -> String {
    let mut line = format!(
        "{{\"ts\":\"{}\",\"level\":\"{}\",\"target\":",
        humantime::format_rfc3339_millis(now),
        json_level(record.level())
    );
    json_string(record.target(), &mut line);
    line.push_str(",\"msg\":");
    json_string(&record.args().to_string(), &mut line);
    visit(record, |key, value| {
        line.push(',');
        // A field may not stand in for one of the line's own.
        let own = ["ts", "level", "target", "msg"].contains(&key);
        json_string(
            &if own {
                format!("{key}_")
            } else {
                key.to_owned()
            },
            &mut line,
        );
        line.push(':');
        match value {
            Field::Number(text) => line.push_str(&text),
            Field::Text(text) => json_string(&text, &mut line),
        }
    });
    line.push_str("}\n");
    line
}

fn json_level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// A field's value: bare in JSON, or a string.
enum Field {
    Number(String),
    Text(String),
}

impl Field {
    fn text(&self) -> &str {
        match self {
            Field::Number(text) | Field::Text(text) => text,
        }
    }
}

impl<'v> VisitValue<'v> for Field {
    fn visit_any(&mut self, value: kv::Value<'_>) -> Result<(), kv::Error> {
        *self = Field::Text(value.to_string());
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        *self = Field::Number(value.to_string());
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        *self = Field::Number(value.to_string());
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        // JSON has no word for these.
        *self = match value.is_finite() {
            true => Field::Number(value.to_string()),
            false => Field::Text(value.to_string()),
        };
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        *self = Field::Number(value.to_string());
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        *self = Field::Text(value.to_owned());
        Ok(())
    }
}

fn visit(record: &Record<'_>, each: impl FnMut(&str, Field)) {
    struct Walk<F>(F);
    impl<'kvs, F: FnMut(&str, Field)> VisitSource<'kvs> for Walk<F> {
        fn visit_pair(
            &mut self,
            key: kv::Key<'kvs>,
            value: kv::Value<'kvs>,
        ) -> Result<(), kv::Error> {
            let mut field = Field::Text(String::new());
            value.visit(&mut field)?;
            (self.0)(key.as_str(), field);
            Ok(())
        }
    }
    // A value whose Display fails leaves out the fields behind it, not the line.
    let _ = record.key_values().visit(&mut Walk(each));
}

/// Writes `text` so that it can neither end the line nor steer a terminal, and so that no two
/// texts look the same: a backslash and a quote are escaped, too.
fn escape(text: &str, line: &mut String) {
    for one in clipped(text) {
        let wrote = match one {
            '\\' => line.write_str("\\\\"),
            '"' => line.write_str("\\\""),
            _ if !is_unsafe(one) => line.write_char(one),
            _ if (one as u32) < 0x100 => write!(line, "\\x{:02X}", one as u32),
            _ => write!(line, "\\u{{{:X}}}", one as u32),
        };
        wrote.expect("a String takes everything");
    }
    if text.len() > TEXT_BYTES_MAX {
        line.push_str(CLIP_MARK);
    }
}

/// A JSON string (RFC 8259, 7). More is escaped than JSON needs: it may end up on a terminal.
fn json_string(text: &str, line: &mut String) {
    line.push('"');
    for one in clipped(text) {
        let wrote = match one {
            '\\' => line.write_str("\\\\"),
            '"' => line.write_str("\\\""),
            _ if is_unsafe(one) => one
                .encode_utf16(&mut [0; 2])
                .iter()
                .try_for_each(|unit| write!(line, "\\u{unit:04x}")),
            _ => line.write_char(one),
        };
        wrote.expect("a String takes everything");
    }
    if text.len() > TEXT_BYTES_MAX {
        line.push_str(CLIP_MARK);
    }
    line.push('"');
}

/// The characters that begin within the first [`TEXT_BYTES_MAX`] bytes.
fn clipped(text: &str) -> impl Iterator<Item = char> {
    text.char_indices()
        .take_while(|(at, _)| *at < TEXT_BYTES_MAX)
        .map(|(_, one)| one)
}

/// Controls (C0, DEL, C1), line and paragraph separators, marks that reorder what a reader sees
/// ("Trojan Source", CVE-2021-42574), and characters that nobody sees.
fn is_unsafe(one: char) -> bool {
    let reorders = matches!(
        one,
        '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}'
    );
    let is_hidden = matches!(one,
        '\u{00AD}' | '\u{180E}' | '\u{200B}'..='\u{200D}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}'
        | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}');
    one.is_control() || reorders || is_hidden || matches!(one, '\u{2028}' | '\u{2029}')
}

/// A byte of a value that needs no quotes.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=')
}

/// Of each text in a line. A Close reason has 123 bytes, a useful path rarely more than this.
const TEXT_BYTES_MAX: usize = 2048;

/// Stands where a text was cut.
const CLIP_MARK: &str = "[…]";

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn line_of(format: LogFormat, message: &str, fields: &[(&str, kv::Value<'_>)]) -> String {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_678);
        let args = format_args!("{message}").to_string();
        let fields: Vec<(kv::Key<'_>, kv::Value<'_>)> = fields
            .iter()
            .map(|(key, value)| (kv::Key::from(*key), value.clone()))
            .collect();
        let build = |args: std::fmt::Arguments<'_>| {
            let mut builder = Record::builder();
            let builder = builder
                .level(Level::Warn)
                .target("wsteady::net")
                .key_values(&fields);
            let record = builder.args(args).build();
            of(format, &record, moment)
        };
        build(format_args!("{args}"))
    }

    #[test]
    fn a_line_has_time_level_target_message_and_fields() {
        let fields = [
            ("session", "0a1b".into()),
            ("moved", 3.into()),
            ("ok", true.into()),
        ];
        assert_eq!(
            line_of(LogFormat::Text, "server lost", &fields),
            "2026-01-02T03:04:05.678Z WARN  wsteady::net server lost session=0a1b moved=3 ok=true\n"
        );
        assert_eq!(
            line_of(LogFormat::Json, "server lost", &fields),
            "{\"ts\":\"2026-01-02T03:04:05.678Z\",\"level\":\"warn\",\"target\":\"wsteady::net\",\
             \"msg\":\"server lost\",\"session\":\"0a1b\",\"moved\":3,\"ok\":true}\n"
        );
    }

    #[test]
    fn nothing_a_client_sends_ends_or_forges_a_line() {
        let table = [
            ("a\nb", "\"a\\x0Ab\""),
            (
                "a\r\n2026-01-01T00:00:00.000Z INFO x y",
                "\"a\\x0D\\x0A2026-01-01T00:00:00.000Z INFO x y\"",
            ),
            ("\u{1b}[2J", "\"\\x1B[2J\""),
            ("\u{9b}2J", "\"\\x9B2J\""),
            ("x\" level=error", "\"x\\\" level=error\""),
            ("back\\slash", "\"back\\\\slash\""),
            ("a=b", "\"a=b\""),
            ("", "\"\""),
            ("\u{2028}", "\"\\u{2028}\""),
            ("\u{202e}txt", "\"\\u{202E}txt\""),
            ("a\u{200b}b", "\"a\\u{200B}b\""),
            ("\u{e0041}", "\"\\u{E0041}\""),
            ("\0\u{7f}\t", "\"\\x00\\x7F\\x09\""),
            ("\u{1b}]0;t\u{7}", "\"\\x1B]0;t\\x07\""),
            ("\u{fffd}", "\"\u{fffd}\""),
            ("\",\"level\":\"info", "\"\\\",\\\"level\\\":\\\"info\""),
            ("grün", "\"grün\""),
            ("/chat/1", "/chat/1"),
        ];
        for (value, expected) in table {
            let line = line_of(LogFormat::Text, "m", &[("reason", value.into())]);
            let tail = line.strip_prefix("2026-01-02T03:04:05.678Z WARN  wsteady::net m reason=");
            assert_eq!(tail, Some(format!("{expected}\n").as_str()), "{value:?}");
            let line = line_of(LogFormat::Json, value, &[("reason", value.into())]);
            assert_eq!(line.lines().count(), 1, "{value:?}");
            assert!(!line.trim_end().chars().any(is_unsafe), "{line:?}");
            let json: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(json["reason"], value);
            assert_eq!(json["msg"], value);
        }
    }

    #[test]
    fn a_field_can_not_replace_the_lines_own() {
        let line = line_of(LogFormat::Json, "m", &[("level", "info".into())]);
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["level"], "warn");
        assert_eq!(json["level_"], "info");
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let long = "é".repeat(3000);
        let line = line_of(LogFormat::Text, &long, &[]);
        assert!(line.ends_with("é[…]\n"), "{}", &line[line.len() - 20..]);
        assert!(line.len() < TEXT_BYTES_MAX + 100);
    }
}
