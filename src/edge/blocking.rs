//! TLS on a connection that one thread reads and writes by itself, as the admin server's do.

use std::io::{self, ErrorKind, Read, Write};

use rustls::ServerConnection;

use super::keys::ServerKeys;

/// A client's connection. What is below it, of whatever kind, is handed in each time.
pub struct Sealed(ServerConnection);

impl Sealed {
    /// Before the first byte. `None`: such keys can't be used.
    pub fn new(keys: &ServerKeys) -> Option<Sealed> {
        ServerConnection::new(keys.clone()).ok().map(Sealed)
    }

    /// Reads words, as [`Read`] does. It reads from below once at most: what has brought none is
    /// `Interrupted`, so that whoever waits can look at the time.
    ///
    /// # Errors
    /// Those from below; `InvalidData` if the other side has done something wrong, and was told.
    pub fn read<B: Read + Write>(&mut self, below: &mut B, into: &mut [u8]) -> io::Result<usize> {
        if let Some(count) = self.words(into)? {
            return Ok(count);
        }
        let count = self.0.read_tls(below)?;
        let opened = self.0.process_new_packets();
        // The handshake's answer, or what was wrong.
        let sent = self.flush(below);
        opened.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        sent.or_else(|error| match is_wait(&error) {
            true => Ok(()),
            false => Err(error),
        })?;
        match self.words(into)? {
            Some(count) => Ok(count),
            None if count == 0 => Ok(0),
            None => Err(ErrorKind::Interrupted.into()),
        }
    }

    /// Words that are here already; `Some(0)`: none will follow.
    fn words(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0.reader().read(into) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            // An end that nobody has signed: what came before it was whole requests, or is none.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Some(0)),
            Err(error) => Err(error),
        }
    }

    /// Writes words, as [`Write`] does: none before all earlier ones have gone.
    ///
    /// # Errors
    /// Those from below.
    pub fn write<B: Write>(&mut self, below: &mut B, words: &[u8]) -> io::Result<usize> {
        self.flush(below)?;
        let count = self.0.writer().write(words)?;
        match self.flush(below) {
            // They are taken; the next write, or flush, sends what is left of them.
            Err(error) if is_wait(&error) => Ok(count),
            sent => sent.map(|()| count),
        }
    }

    /// Sends all that waits.
    ///
    /// # Errors
    /// Those from below; `WouldBlock` if it takes no more.
    pub fn flush<B: Write>(&mut self, below: &mut B) -> io::Result<()> {
        while self.0.wants_write() {
            match self.0.write_tls(below) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says the last word.
    ///
    /// # Errors
    /// Those from below.
    pub fn part<B: Write>(&mut self, below: &mut B) -> io::Result<()> {
        self.0.send_close_notify();
        self.flush(below)
    }

    /// Whether the other side may still listen. `below` must not wait.
    pub fn is_open<B: Read>(&mut self, below: &mut B) -> bool {
        match self.0.read_tls(below) {
            Ok(0) => false,
            Ok(_) => {
                let state = self.0.process_new_packets();
                state.is_ok_and(|state| !state.peer_has_closed())
            }
            // Beside that: more words are here than are read ahead.
            Err(error) => is_wait(&error) || error.kind() == ErrorKind::Other,
        }
    }
}

fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
