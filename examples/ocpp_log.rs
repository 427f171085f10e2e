//! A log of what charge points and their central system say to each other (OCPP-J, 1.6 and later):
//! one line for each call, result and error, and for what happens to each session.
//! `cargo run --example ocpp_log -- ws://127.0.0.1:9001`. The end of its input stops it.

use serde_json::Value;
use std::collections::HashMap;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use std::{error::Error, io, thread};
use wsteady::{Config, Direction, Message, Proxy, Valve, Verdict};

/// The log of one charge point.
struct OcppLog {
    point: String,
    /// Calls without an answer: their action, and when they came. Ids are the caller's own.
    open: HashMap<(bool, String), (String, Instant)>,
    /// To a thread that may wait for the disk: a loop must not.
    lines: Sender<String>,
}

impl Valve for OcppLog {
    fn on(&mut self, message: &Message<'_>) -> Verdict {
        let up = message.direction == Direction::Up;
        let said = self.read(up, message.payload);
        let arrow = if up { "->" } else { "<-" };
        let said = said.unwrap_or_else(|| format!("not OCPP: {} bytes", message.payload.len()));
        let _ = self.lines.send(format!("{} {arrow} {said}", self.point));
        Verdict::Pass
    }
}

impl OcppLog {
    /// `[2, id, action, {}]` is a call, `[3, id, {}]` its result, `[4, id, code, …]` its error.
    fn read(&mut self, up: bool, payload: &[u8]) -> Option<String> {
        let json: Value = serde_json::from_slice(payload).ok()?;
        let id = json.get(1)?.as_str()?.to_string();
        match json.get(0)?.as_u64()? {
            2 => {
                let action = json.get(2)?.as_str()?.to_string();
                if self.open.len() < OPEN_MAX {
                    let begun = (action.clone(), Instant::now());
                    self.open.insert((up, id.clone()), begun);
                }
                Some(format!("{action} {id}"))
            }
            kind @ (3 | 4) => {
                // An answer goes the other way than its call.
                let Some((action, begun)) = self.open.remove(&(!up, id.clone())) else {
                    return Some(format!("an answer that nobody waits for: {id}"));
                };
                let end = match kind {
                    3 => "done",
                    _ => json.get(2)?.as_str()?,
                };
                let ms = begun.elapsed().as_millis();
                Some(format!("{action} {id}: {end} after {ms} ms"))
            }
            _ => None,
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let urls: Vec<String> = std::env::args().skip(1).collect();
    let mut config = Config::with_backends(&urls)?;
    config.listen[0].address = "127.0.0.1:0".parse()?;
    config.admin.address = "127.0.0.1:0".parse()?;
    let (lines, log) = channel::<String>();
    let printer = thread::spawn(move || log.iter().for_each(|line| println!("{line}")));
    let events = lines.clone();
    let proxy = Proxy::builder(config)
        .valve_everywhere(move |session| {
            // The last segment of the path names the charge point.
            let target = session.target();
            let path = target.split('?').next().unwrap_or_default();
            let point = path.rsplit('/').next().unwrap_or_default().to_string();
            let (lines, open) = (lines.clone(), HashMap::new());
            Some(Box::new(OcppLog { point, open, lines }))
        })
        .watch(move |seen| {
            let _ = events.send(format!("{:032x} {:?}", seen.session, seen.what));
        })
        .start()?;
    println!("listening on {}", proxy.listen_addresses()[0]);
    io::copy(&mut io::stdin(), &mut io::sink())?;
    proxy.stop(Duration::from_secs(2));
    // Loops and watcher are gone, and with them all that could still send a line.
    printer.join().map_err(|_| "the printer panicked")?;
    Ok(())
}

/// OCPP allows one open call each way; somebody who never answers must not fill the memory.
const OPEN_MAX: usize = 100;
