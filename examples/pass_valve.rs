//! The least valve there is: it is shown every message, and lets it pass. `scripts/count-instructions`
//! measures by it what a valve costs.
//! `cargo run --example pass_valve -- ws://127.0.0.1:9001`. The end of its input stops it.

use std::{error::Error, io, time::Duration};
use wsteady::{Config, Message, Proxy, Verdict};

fn main() -> Result<(), Box<dyn Error>> {
    let urls: Vec<String> = std::env::args().skip(1).collect();
    let mut config = Config::with_backends(&urls)?;
    config.listen[0].address = "127.0.0.1:0".parse()?;
    config.admin.address = "127.0.0.1:0".parse()?;
    let proxy = Proxy::builder(config)
        .valve_everywhere(|_session| Some(Box::new(|_: &Message<'_>| Verdict::Pass)))
        .start()?;
    println!("listening on {}", proxy.listen_addresses()[0]);
    io::copy(&mut io::stdin(), &mut io::sink())?;
    proxy.stop(Duration::from_secs(2));
    Ok(())
}
