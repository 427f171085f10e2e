//! One non-blocking socket under edge-triggered epoll, and what it has not taken yet; with TLS or
//! without.

use crate::tls::{RECORD_MAX, Session};
use mio::event::Event;
use mio::net::TcpStream;
use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

/// A socket with its readiness and its backlog. 24 bytes at rest, in the clear.
pub struct Link {
    socket: TcpStream,
    readable: bool,
    /// The poller saw RDHUP, HUP or ERR: a short read is no longer the last one.
    ending: bool,
    /// What the kernel refused. Boxed, so that a link at rest owns one empty pointer.
    backlog: Option<Box<Backlog>>,
    tls: Option<Box<Session>>,
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
            tls: None,
        }
    }

    /// The same with TLS, if there is to be any.
    ///
    /// # Errors
    /// There is to be, and its session could not be made.
    pub fn with(socket: TcpStream, session: Option<io::Result<Session>>) -> io::Result<Self> {
        let mut link = Self::new(socket);
        link.tls = session.transpose()?.map(Box::new);
        Ok(link)
    }

    /// Words reach the peer: the handshake is over, if there is one.
    pub fn is_open(&self) -> bool {
        self.tls.as_ref().is_none_or(|session| session.is_open())
    }

    /// Its session goes on from an earlier one.
    pub fn is_resumed(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|session| session.is_resumed())
    }

    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    pub fn is_readable(&self) -> bool {
        self.readable || self.tls.as_ref().is_some_and(|tls| tls.has_words())
    }

    pub fn is_clogged(&self) -> bool {
        self.backlog.is_some()
    }

    pub fn backlog_bytes(&self) -> usize {
        self.backlog
            .as_ref()
            .map_or(0, |backlog| backlog.bytes.len() - backlog.sent)
    }

    /// Looks at the socket as if the poller had told to.
    #[cfg(test)]
    pub fn wake(&mut self) {
        self.readable = true;
    }

    /// Remembers what an event says. The edge is not repeated, so none may be dropped.
    pub fn on_event(&mut self, event: &Event) {
        let ending = event.is_read_closed() || event.is_error();
        self.ending |= ending;
        self.readable |= event.is_readable() || ending;
    }

    /// Reads once, or until records say something.
    ///
    /// # Errors
    /// Those of the socket, less the ones that mean "later", and of TLS.
    pub fn fill(&mut self, buffer: &mut [u8]) -> io::Result<Filled> {
        debug_assert!(!buffer.is_empty());
        let Some(mut session) = self.tls.take() else {
            return self.read(buffer);
        };
        let most = buffer.len().min(INBOX_BYTES);
        let filled = DESK.with_borrow_mut(|desk| self.open(&mut session, buffer, most, desk));
        self.tls = Some(session);
        filled
    }

    fn open(
        &mut self,
        session: &mut Session,
        buffer: &mut [u8],
        most: usize,
        desk: &mut Desk,
    ) -> io::Result<Filled> {
        loop {
            if session.has_words() {
                return Ok(Filled::Bytes(session.take(buffer)));
            }
            if session.is_parted() {
                return Ok(Filled::Ended);
            }
            let kept = session.kept().len();
            let until = kept + most;
            desk.inbox.resize(desk.inbox.len().max(until), 0);
            let count = match self.read(&mut desk.inbox[kept..until])? {
                Filled::Bytes(count) => count,
                none => return Ok(none),
            };
            desk.inbox[..kept].copy_from_slice(session.kept());
            desk.out.clear();
            let opened = session.open(&mut desk.inbox[..kept + count], buffer, &mut desk.out);
            self.write(&desk.out)?;
            let count = opened?;
            if count > 0 {
                return Ok(Filled::Bytes(count));
            }
        }
    }

    /// Reads once. After a short read nothing is left, so the `recv` that would only return
    /// EAGAIN is spared, unless the end of the stream waits behind it.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Filled> {
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
    /// Those of the socket, less the ones that mean "later", and of TLS.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.tls.is_none() {
            return self.write(bytes);
        }
        self.say(|session, out| session.seal(bytes, out))
    }

    /// Ends our direction: nothing is sent any more.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn shut(&mut self) -> io::Result<()> {
        self.say(Session::part)?;
        self.socket.shutdown(Shutdown::Write)
    }

    /// Goes on with the handshake; whether it is over. In the clear there is none.
    ///
    /// # Errors
    /// Those of the socket and of TLS; `UnexpectedEof` if the peer has ended it.
    pub fn shake(&mut self) -> io::Result<bool> {
        if !self.is_open() {
            // What comes behind the handshake stays with the session.
            let Some(mut session) = self.tls.take() else {
                return Ok(true);
            };
            let most = INBOX_BYTES;
            let filled = DESK.with_borrow_mut(|desk| self.open(&mut session, &mut [], most, desk));
            self.tls = Some(session);
            if filled? == Filled::Ended && !self.is_open() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.is_open())
    }

    /// Lets the session say something, if there is one.
    fn say(
        &mut self,
        what: impl FnOnce(&mut Session, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(mut session) = self.tls.take() else {
            return Ok(());
        };
        let said = DESK.with_borrow_mut(|desk| {
            desk.out.clear();
            what(&mut session, &mut desk.out)?;
            self.write(&desk.out)
        });
        self.tls = Some(session);
        said
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
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

    /// Sends from the backlog; an emptied one is freed. A client's handshake begins here, when its
    /// socket is first writable.
    ///
    /// # Errors
    /// Those of the socket, less the ones that mean "later".
    pub fn flush(&mut self) -> io::Result<()> {
        self.say(Session::begin)?;
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

/// What all links of a thread use, one at a time.
#[derive(Default)]
struct Desk {
    inbox: Vec<u8>,
    out: Vec<u8>,
}

thread_local! {
    static DESK: RefCell<Desk> = RefCell::default();
}

/// One read with TLS: as much as one without, and the last record's rest.
const INBOX_BYTES: usize = (64 << 10) + RECORD_MAX;

// mio remembers the poller as well in builds with debug assertions.
const _: () = assert!(cfg!(debug_assertions) || size_of::<Link>() == 24);

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
