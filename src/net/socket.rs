//! One socket: the calls of a stream, as the shard understands their results.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::sys;
use crate::shard::{Dialled, Got, Put};

/// Begins to connect, from a given local address if there is one.
pub fn dial(to: SocketAddr, from: Option<IpAddr>) -> Dialled<TcpStream> {
    match connect(to, from) {
        Ok(stream) => Dialled::Socket(stream),
        Err(error) if error.raw_os_error() == Some(EADDRNOTAVAIL) => Dialled::NoPort,
        Err(error) if is_exhausted(&error) => Dialled::Exhausted,
        Err(_) => Dialled::Refused,
    }
}

/// Begins to connect.
///
/// Errors: those of connect(2).
pub(super) fn connect(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(from) = from {
        // The port is chosen by connect, which knows the destination: 64,000 per server and not
        // 64,000 in all.
        sys::bind_address_no_port(&socket)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// Whether a dialled socket stands.
pub fn is_connected(stream: &TcpStream) -> bool {
    matches!(stream.take_error(), Ok(None)) && stream.peer_addr().is_ok()
}

/// Bounds what the kernel holds for one socket, each way.
pub fn bound_buffers(stream: &TcpStream, bytes: usize) {
    let socket = socket2::SockRef::from(stream);
    // A hint: the kernel has limits of its own.
    let _ = socket.set_recv_buffer_size(bytes);
    let _ = socket.set_send_buffer_size(bytes);
}

/// Reads what is there.
#[inline]
pub fn read(stream: &mut TcpStream, into: &mut [u8]) -> Got {
    loop {
        return match stream.read(into) {
            Ok(0) => Got::End,
            Ok(count) => Got::Bytes(count),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Got::Wait,
                ErrorKind::Interrupted => continue,
                _ => Got::Broken,
            },
        };
    }
}

/// Ends a connection by RST. Where that can't be had, the end is an ordinary one.
pub fn reset(socket: TcpStream) {
    // To linger for no time is to throw away what is queued, and say so (tcp(7), socket(7)).
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    drop(socket);
}

/// Writes what the kernel takes.
#[inline]
pub fn write(stream: &mut TcpStream, from: &[IoSlice<'_>]) -> Put {
    loop {
        let written = match from {
            [one] => stream.write(one),
            many => stream.write_vectored(many),
        };
        return match written {
            Ok(count) => Put::Bytes(count),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Put::Wait,
                ErrorKind::Interrupted => continue,
                _ => Put::Broken,
            },
        };
    }
}

/// Whether a call failed because this process or host has run out of something.
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(EMFILE | ENFILE | ENOBUFS | ENOMEM | EAGAIN)
    )
}

// Linux numbers (errno(3)).
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const EADDRNOTAVAIL: i32 = 99;
const ENOBUFS: i32 = 105;
const EINPROGRESS: i32 = 115;
