//! Listeners: one per shard and address, and the kernel spreads the clients.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::RawFd;

use super::sys;
use super::table::scarce_from;
use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Protocol, Socket, Type};

/// Binds and closes a socket that shares with nobody: a taken address is an error, and not silently
/// shared with whoever has it.
pub fn probe(address: SocketAddr) -> io::Result<()> {
    bind(address, false).map(drop)
}

/// Opens a listener that shares its address with those of the other shards.
pub fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bind(address, true)?;
    // Accepted sockets inherit both: two system calls less per client.
    socket.set_tcp_nodelay(true)?;
    sys::set_unsent_max(&socket, UNSENT_MAX)?;
    socket.listen(BACKLOG)?;
    Ok(on_top(socket.into()))
}

/// The same socket under a number above those of most clients. The kernel takes a killed process's
/// descriptors from the highest down, some 40 us for each client: a listener below them would go on
/// taking clients for nobody until the last of them is gone.
fn on_top(listener: TcpListener) -> TcpListener {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(TOP_MAX);
    let number = scarce_from(limit.min(TOP_MAX));
    match rustix::io::fcntl_dupfd_cloexec(&listener, number as RawFd) {
        Ok(above) => above.into(),
        Err(_) => listener,
    }
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        // `[::]` takes IPv4, too.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// What a client reads is noticed in steps of half of it, so that one who reads 1 kB a second counts as
/// reading within `timeouts.response` (60 s). Fast ones have less than that unsent.
const UNSENT_MAX: u32 = 128 << 10;

/// A table of so many numbers takes 512 KiB of the kernel's memory.
const TOP_MAX: u64 = 1 << 16;

/// Clients that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;
