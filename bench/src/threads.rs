//! Servers that serve one address with several threads, each by itself.

use crate::sys;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// What one thread does: a listener, its connections and a poller of its own.
pub trait Server {
    /// Where it listens.
    ///
    /// # Errors
    /// Those of the socket.
    fn address(&mut self) -> io::Result<SocketAddr>;

    /// Waits for something to do and does it.
    ///
    /// # Errors
    /// Only what keeps all of it from working; a connection's error is its own end.
    fn turn(&mut self) -> io::Result<()>;
}

/// Serves until the process is ended; says `listening on ADDR` once it does.
///
/// # Errors
/// The address is taken, the core does not exist.
pub fn serve<S: Server>(
    listen: SocketAddr,
    threads: u16,
    cpu: Option<usize>,
    start: impl Fn(SocketAddr) -> io::Result<S> + Send + Sync + 'static,
) -> io::Result<()> {
    sys::pin(cpu)?;
    sys::raise_descriptor_limit();
    let (up, started) = std::sync::mpsc::channel();
    let start = Arc::new(start);
    let mut listen = listen;
    let mut handles = Vec::new();
    for _ in 0..threads {
        let (up, start) = (up.clone(), Arc::clone(&start));
        handles.push(std::thread::spawn(move || one(listen, &*start, &up)));
        // For port 0 the first thread's number is everyone's.
        match started.recv() {
            Ok(result) => listen = result?,
            Err(_) => return Err(io::Error::other("a thread died at its start")),
        }
    }
    println!("listening on {listen}");
    for handle in handles {
        handle
            .join()
            .map_err(|_| io::Error::other("a thread died"))??;
    }
    Ok(())
}

fn one<S: Server>(
    listen: SocketAddr,
    start: &impl Fn(SocketAddr) -> io::Result<S>,
    up: &Sender<io::Result<SocketAddr>>,
) -> io::Result<()> {
    sys::own_descriptor_table();
    let started = start(listen).and_then(|mut server| Ok((server.address()?, server)));
    let (address, server) = started.map_or_else(
        |error| (Err(error), None),
        |(address, server)| (Ok(address), Some(server)),
    );
    let _ = up.send(address);
    let Some(mut server) = server else {
        return Ok(());
    };
    loop {
        server.turn()?;
    }
}
