//! Keeps a field of JSON messages from everybody: `{"pin": "1234"}` goes on as `{"pin": "***"}`.
//! `cargo run --example redact -- pin ws://127.0.0.1:9001`. The end of its input stops it.

use serde_json::Value;
use std::{error::Error, io, time::Duration};
use wsteady::{Config, Message, Proxy, Valve, Verdict};

struct Redact {
    field: String,
}

impl Valve for Redact {
    fn on(&mut self, message: &Message<'_>) -> Verdict {
        if let Ok(mut json) = serde_json::from_slice(message.payload)
            && redact(&mut json, &self.field)
        {
            return Verdict::Change(json.to_string().into_bytes());
        }
        // No JSON, or nothing to hide: it goes on byte for byte.
        Verdict::Pass
    }
}

/// Puts stars in place of the field, however deep it stands; whether there was one.
fn redact(json: &mut Value, field: &str) -> bool {
    match json {
        Value::Object(object) => object.iter_mut().fold(false, |found, (name, value)| {
            if name == field {
                *value = "***".into();
                return true;
            }
            redact(value, field) | found
        }),
        Value::Array(all) => all
            .iter_mut()
            .fold(false, |found, value| redact(value, field) | found),
        _ => false,
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let field = std::env::args().nth(1).ok_or("redact FIELD URL...")?;
    let urls: Vec<String> = std::env::args().skip(2).collect();
    let mut config = Config::with_backends(&urls)?;
    config.listen[0].address = "127.0.0.1:0".parse()?;
    config.admin.address = "127.0.0.1:0".parse()?;
    let proxy = Proxy::builder(config)
        .valve_everywhere(move |_session| {
            let field = field.clone();
            Some(Box::new(Redact { field }))
        })
        .start()?;
    println!("listening on {}", proxy.listen_addresses()[0]);
    io::copy(&mut io::stdin(), &mut io::sink())?;
    proxy.stop(Duration::from_secs(2));
    Ok(())
}
