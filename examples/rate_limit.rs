//! A limit of messages per second for each session: what is beyond it is answered, and goes nowhere.
//! `cargo run --example rate_limit -- 10 ws://127.0.0.1:9001`. The end of its input stops it.

use std::time::{Duration, Instant};
use std::{error::Error, io};
use wsteady::{Config, Message, Proxy, Valve, Verdict, Wants};

/// A bucket that is full at twice the rate: a burst of two seconds' messages may come at once.
struct RateLimit {
    rate: f64,
    left: f64,
    seen: Instant,
}

impl Valve for RateLimit {
    /// Neither what servers say nor what is in a message matters: nothing is inflated for this.
    fn wants(&self) -> Wants {
        Wants::UP
    }

    fn on(&mut self, _message: &Message<'_>) -> Verdict {
        let now = Instant::now();
        let earned = (now - self.seen).as_secs_f64() * self.rate;
        self.left = (self.left + earned).min(2.0 * self.rate);
        self.seen = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Verdict::Pass;
        }
        Verdict::Answer {
            text: true,
            payload: br#"{"error": "too many messages"}"#.to_vec(),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let rate = std::env::args().nth(1).ok_or("rate_limit RATE URL...")?;
    let rate: f64 = rate.parse()?;
    let urls: Vec<String> = std::env::args().skip(2).collect();
    let mut config = Config::with_backends(&urls)?;
    config.listen[0].address = "127.0.0.1:0".parse()?;
    config.admin.address = "127.0.0.1:0".parse()?;
    let proxy = Proxy::builder(config)
        .valve_everywhere(move |_session| {
            Some(Box::new(RateLimit {
                rate,
                left: 2.0 * rate,
                seen: Instant::now(),
            }))
        })
        .start()?;
    println!("listening on {}", proxy.listen_addresses()[0]);
    io::copy(&mut io::stdin(), &mut io::sink())?;
    proxy.stop(Duration::from_secs(2));
    Ok(())
}
