//! One non-blocking socket under edge-triggered epoll, and what it has not taken yet.

use mio::event::Event;
use mio::net::TcpStream;
use std::io::{self, ErrorKind, Read, Write};

/// A socket with its readiness and its backlog. 16 bytes at rest.
pub struct Link {
    socket: TcpStream,
    readable: bool,
    /// The poller saw RDHUP, HUP or ERR: a short read is no longer the last one.
    ending: bool,
    /// What the kernel refused. Boxed, so that a link at rest owns one empty pointer.
    backlog: Option<Box<Backlog>>,
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Filled {
    Bytes(usize),
    /// Nothing now; the next edge will say when.
    Blocked,
    /// The peer's FIN.
    Ended,
}

impl Link {
    pub fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            readable: true,
            ending: false,
            backlog: None,
        }
    }

    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    pub fn is_readable(&self) -> bool {
        self.readable
    }

    pub fn is_clogged(&self) -> bool {
        self.backlog.is_some()
    }

    pub fn backlog_bytes(&self) -> usize {
        self.backlog
            .as_ref()
            .map_or(0, |backlog| backlog.bytes.len() - backlog.sent)
    }

    /// Remembers what an event says. The edge is not repeated, so none may be dropped.
    pub fn on_event(&mut self, event: &Event) {
        let ending = event.is_read_closed() || event.is_error();
        self.ending |= ending;
        self.readable |= event.is_readable() || ending;
    }

    /// Reads once. After a short read nothing is left, so the `recv` that would only return
    /// EAGAIN is spared, unless the end of the stream waits behind it.
    ///
    /// # Errors
    /// Those of the socket, less the ones that mean "later".
    pub fn fill(&mut self, buffer: &mut [u8]) -> io::Result<Filled> {
        debug_assert!(!buffer.is_empty());
        if !self.readable {
            return Ok(Filled::Blocked);
        }
        loop {
            match self.socket.read(buffer) {
                Ok(0) => {
                    self.readable = false;
                    return Ok(Filled::Ended);
                }
                Ok(count) => {
                    self.readable = count == buffer.len() || self.ending;
                    return Ok(Filled::Bytes(count));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(Filled::Blocked);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends what the kernel takes and keeps the rest, in order.
    ///
    /// # Errors
    /// Those of the socket, less the ones that mean "later".
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = if self.is_clogged() {
            0
        } else {
            write_some(&mut self.socket, bytes)?
        };
        if sent < bytes.len() {
            let backlog = self.backlog.get_or_insert_default();
            backlog.bytes.extend_from_slice(&bytes[sent..]);
        }
        Ok(())
    }

    /// Sends from the backlog; an emptied one is freed.
    ///
    /// # Errors
    /// Those of the socket, less the ones that mean "later".
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(backlog) = &mut self.backlog else {
            return Ok(());
        };
        backlog.sent += write_some(&mut self.socket, &backlog.bytes[backlog.sent..])?;
        if backlog.sent == backlog.bytes.len() {
            self.backlog = None;
        }
        Ok(())
    }
}

/// Writes until all is gone (`Ok(bytes.len())`) or the kernel takes no more.
fn write_some(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match socket.write(&bytes[sent..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

#[derive(Default)]
struct Backlog {
    bytes: Vec<u8>,
    sent: usize,
}

// mio remembers the poller as well in builds with debug assertions.
const _: () = assert!(cfg!(debug_assertions) || size_of::<Link>() == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener as StdListener, TcpStream as StdStream};

    fn pair() -> (Link, StdStream) {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let far = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        (Link::new(TcpStream::from_std(near)), far)
    }

    #[test]
    fn what_the_kernel_refuses_is_kept_in_order() {
        let (mut link, mut far) = pair();
        let sent: Vec<u8> = (0..12_000_000_u32).map(|n| (n % 251) as u8).collect();
        for chunk in sent.chunks(1_000_000) {
            link.send(chunk).unwrap();
        }
        assert!(link.is_clogged(), "12 MB should not fit into the kernel");
        let expected = sent.len();
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; expected];
            far.read_exact(&mut got).unwrap();
            got
        });
        while link.is_clogged() {
            link.flush().unwrap();
            std::thread::yield_now();
        }
        assert!(reader.join().unwrap() == sent);
        assert_eq!(link.backlog_bytes(), 0);
    }

    #[test]
    fn a_short_read_is_the_last_one_until_the_next_edge() {
        let (mut link, mut far) = pair();
        far.write_all(b"hello").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut buffer = [0; 64];
        assert_eq!(link.fill(&mut buffer).unwrap(), Filled::Bytes(5));
        assert!(!link.is_readable());
        far.write_all(b"more").unwrap();
        // No edge was noted, so the socket is not touched.
        assert_eq!(link.fill(&mut buffer).unwrap(), Filled::Blocked);
    }

    #[test]
    fn a_full_buffer_and_an_ending_stream_are_read_on() {
        let (mut link, mut far) = pair();
        far.write_all(b"12345678").unwrap();
        drop(far);
        std::thread::sleep(std::time::Duration::from_millis(20));
        link.ending = true;
        let mut buffer = [0; 6];
        assert_eq!(link.fill(&mut buffer).unwrap(), Filled::Bytes(6));
        assert_eq!(link.fill(&mut buffer).unwrap(), Filled::Bytes(2));
        assert_eq!(link.fill(&mut buffer).unwrap(), Filled::Ended);
    }
}
