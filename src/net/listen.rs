//! Listeners: one per shard and address, and the kernel spreads the clients.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Binds and closes a socket that shares with nobody: a taken address is an error, and not silently
/// shared with whoever has it.
pub fn probe(address: SocketAddr) -> io::Result<()> {
    bind(address, false).map(drop)
}

/// Opens a listener that shares its address with those of the other shards.
pub fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bind(address, true)?;
    // Accepted sockets inherit it: one system call less per client.
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
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

/// Clients that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;
