//! What systemd is told of a unit of `Type=notify` (sd_notify(3)): one datagram per piece of news.
//!
//! Nobody waits for it and nothing depends on it: who can't be told is not told.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Clients can connect.
pub fn ready() {
    tell("READY=1");
}

/// The configuration is being read again; [`ready`] follows. Systemd wants to know the moment, by
/// the monotonic clock.
pub fn reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// A drain of this length begins. The unit's `TimeoutStopSec` may be shorter than the configured
/// drain, so the time that it takes is asked for.
pub fn stopping(drain: Duration) {
    let micros = (drain + AFTER_DRAIN).as_micros();
    tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}"));
}

/// Sends news to whoever started this process and waits for some.
fn tell(news: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(&socket, news)
    {
        log::warn!("telling NOTIFY_SOCKET: {error}");
    }
}

fn send(socket: &OsStr, news: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(socket)?,
        _ => return Err(io::Error::other("neither a path nor an abstract name")),
    };
    let from = UnixDatagram::unbound()?;
    // A full queue must not hold up the start or the end.
    from.set_nonblocking(true)?;
    from.send_to_addr(news.as_bytes(), &address).map(drop)
}

/// For the last Closes and the process's end.
const AFTER_DRAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn receive(socket: &UnixDatagram) -> String {
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut bytes = [0; 256];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[test]
    fn news_reach_a_path_and_an_abstract_name() {
        let name = format!("wsteady-notify-{}", std::process::id());
        let path: PathBuf = std::env::temp_dir().join(&name);
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(receive(&socket), "READY=1");
        std::fs::remove_file(&path).unwrap();
        assert!(send(path.as_os_str(), "READY=1").is_err());

        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        send(format!("@{name}").as_ref(), "STOPPING=1").unwrap();
        assert_eq!(receive(&socket), "STOPPING=1");
        assert!(send("vsock:2:1".as_ref(), "READY=1").is_err());
    }
}
