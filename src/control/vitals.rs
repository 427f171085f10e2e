//! What a health answer says, as JSON.

use serde_json::Value;

use crate::fleet::Vitals;

/// Reads a body; `None` if it is no JSON object.
pub fn read(body: &[u8]) -> Option<Vitals> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
        return None;
    };
    let ok = match fields.get("status") {
        Some(Value::Number(number)) => number.as_u64() == Some(200),
        Some(Value::String(text)) => text == "200",
        _ => false,
    };
    let part = |name: &str| {
        let part = fields.get(name)?.as_f64()?;
        part.is_finite().then_some(part as f32)
    };
    Some(Vitals {
        ok,
        cpu: part("cpu"),
        memory: part("memory"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_200_is_a_number_or_a_string() {
        let rows = [
            (r#"{"status": 200}"#, Some(true)),
            (r#"{"status": "200", "x": [1]}"#, Some(true)),
            (r#"{"status": 503}"#, Some(false)),
            (r#"{"status": "ok"}"#, Some(false)),
            (r#"{"cpu": 0.5}"#, Some(false)),
            ("[200]", None),
            ("ok", None),
            ("", None),
        ];
        for (body, want) in rows {
            assert_eq!(
                read(body.as_bytes()).map(|vitals| vitals.ok),
                want,
                "{body}"
            );
        }
        let vitals = read(br#"{"status":200,"cpu":0.25,"memory":"much"}"#).expect("JSON");
        assert_eq!((vitals.cpu, vitals.memory), (Some(0.25), None));
    }
}
