//! A connection of the admin server, sealed or in the clear.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
#[cfg(feature = "tls")]
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::Desk;
#[cfg(feature = "tls")]
use crate::edge::blocking::Sealed;

/// What a guest and then, maybe, the newsroom has. The server itself only shuts it.
pub(super) struct Stream {
    tcp: TcpStream,
    /// Never waited for: there is one who reads and writes.
    #[cfg(feature = "tls")]
    sealed: Option<Mutex<Sealed>>,
}

impl Stream {
    /// Sealed, if the desk has keys for it.
    #[cfg(feature = "tls")]
    pub fn new(tcp: TcpStream, desk: &Desk) -> Option<Stream> {
        let keys = desk
            .keyring
            .as_ref()
            .and_then(|ring| ring.keys().admin.clone());
        let sealed = match keys {
            Some(keys) => Some(Mutex::new(Sealed::new(&keys)?)),
            None => None,
        };
        Some(Stream { tcp, sealed })
    }

    #[cfg(not(feature = "tls"))]
    pub fn new(tcp: TcpStream, _: &Desk) -> Option<Stream> {
        Some(Stream { tcp })
    }

    #[cfg(test)]
    pub fn plain(tcp: TcpStream) -> Stream {
        Stream {
            tcp,
            #[cfg(feature = "tls")]
            sealed: None,
        }
    }

    #[cfg(feature = "tls")]
    fn sealed(&self) -> Option<MutexGuard<'_, Sealed>> {
        let sealed = self.sealed.as_ref()?;
        Some(sealed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn is_sealed(&self) -> bool {
        #[cfg(feature = "tls")]
        let is_sealed = self.sealed.is_some();
        #[cfg(not(feature = "tls"))]
        let is_sealed = false;
        is_sealed
    }

    /// So long it waits for each write.
    pub fn prepare(&self, write_max: Duration) {
        let _ = self.tcp.set_nodelay(true);
        let _ = self.tcp.set_write_timeout(Some(write_max));
    }

    /// Never waits any more.
    pub fn hurry(&self) -> io::Result<()> {
        self.tcp.set_nonblocking(true)
    }

    /// Reads what comes up to this time from now.
    pub fn read_within(&self, time: Duration, into: &mut [u8]) -> io::Result<usize> {
        self.tcp.set_read_timeout(Some(time))?;
        self.read(into)
    }

    pub fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(mut sealed) = self.sealed() {
            return sealed.read(&mut &self.tcp, into);
        }
        (&self.tcp).read(into)
    }

    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "tls")]
        if let Some(mut sealed) = self.sealed() {
            return sealed.write(&mut &self.tcp, bytes);
        }
        (&self.tcp).write(bytes)
    }

    pub fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.flush()
    }

    /// Sends what was sealed and not taken.
    pub fn flush(&self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Some(mut sealed) = self.sealed() {
            return sealed.flush(&mut &self.tcp);
        }
        Ok(())
    }

    /// Whether somebody still waits for an answer. Who has shut his side is taken as gone.
    pub fn is_awaited(&self) -> bool {
        #[cfg(feature = "tls")]
        if let Some(mut sealed) = self.sealed() {
            return sealed.is_open(&mut Here(&self.tcp));
        }
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recv(&self.tcp, &mut [0; 1], flags) {
            Ok((length, _)) => length > 0,
            Err(error) => error == Errno::AGAIN || error == Errno::INTR,
        }
    }

    /// The end of what we say.
    pub fn part(&self) -> io::Result<()> {
        #[cfg(feature = "tls")]
        if let Some(mut sealed) = self.sealed() {
            sealed.part(&mut &self.tcp)?;
        }
        self.tcp.shutdown(Shutdown::Write)
    }

    /// The end of what we listen to.
    pub fn end_reading(&self) {
        let _ = self.tcp.shutdown(Shutdown::Read);
    }
}

/// Reads what is there and never waits, whatever the stream does else.
#[cfg(feature = "tls")]
struct Here<'a>(&'a TcpStream);

#[cfg(feature = "tls")]
impl Read for Here<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (length, _) = rustix::net::recv(self.0, into, RecvFlags::DONTWAIT)?;
        Ok(length)
    }
}
