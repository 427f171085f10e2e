//! A proxy inside a program of one's own, over the servers that it is given:
//! `cargo run --example embed -- ws://127.0.0.1:9001 ws://127.0.0.1:9002`
//! Each line of its input is an order, and the end of the input stops it.

use std::{error::Error, io, thread, time::Duration};
use wsteady::{Config, Handle, Proxy, Recruit, ServerState};

fn main() -> Result<(), Box<dyn Error>> {
    let urls: Vec<String> = std::env::args().skip(1).collect();
    let mut config = Config::with_backends(&urls)?;
    // Port 0 takes any free one.
    config.listen[0].address = "127.0.0.1:0".parse()?;
    config.admin.address = "127.0.0.1:0".parse()?;
    let proxy = Proxy::start(config)?;
    println!("listening on {}", proxy.listen_addresses()[0]);

    let handle = proxy.handle();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            match obey(&handle, &line) {
                Ok(()) => println!("ok"),
                Err(why) => println!("refused: {why}"),
            }
        }
        handle.drain(Duration::from_secs(2));
    });

    proxy.wait();
    println!("stopped");
    Ok(())
}

fn obey(handle: &Handle, line: &str) -> Result<(), Box<dyn Error>> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["add", url] => println!("{:?}", handle.add(&Recruit::new("default", url))?),
        ["remove", id] => handle.remove(id)?,
        ["drain", id] => handle.set_state(id, ServerState::Draining)?,
        ["weight", id, weight] => handle.set_weight(id, weight.parse()?)?,
        ["reset", id] => handle.reset(id)?,
        ["move", id] => handle.fail_over(id)?,
        ["servers"] => println!("{:#?}", handle.servers()?),
        ["sessions"] => {
            for session in handle.sessions()? {
                println!("{:?}", session?);
            }
        }
        ["session", id] => println!("{:?}", handle.session(id)?),
        ["session", id, "move"] => handle.fail_over_session(id)?,
        ["session", id, "close"] => handle.close_session(id)?,
        ["totals"] => println!("{:?}", handle.totals()?),
        _ => println!("{HELP}"),
    }
    Ok(())
}

const HELP: &str = "\
    add URL, remove ID, drain ID, weight ID NUMBER, reset ID, move ID, servers, sessions, \
    session ID, session ID move, session ID close, totals";
