//! What Linux must be asked for beside sockets: cores, descriptor tables, limits, listeners.

use mio::net::{TcpListener, TcpStream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

/// Pins the calling thread, and what it starts from now on, to one core.
///
/// # Errors
/// The core does not exist or may not be used.
pub fn pin(cpu: Option<usize>) -> io::Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such core"));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(io::Error::from)
}

/// Gives the calling thread a descriptor table of its own, so that `RLIMIT_NOFILE` counts for
/// this thread alone and no lock is shared. `false` where the kernel refuses (containers).
///
/// The caller must open all its descriptors afterwards, in this thread.
#[allow(unsafe_code)]
pub fn own_descriptor_table() -> bool {
    // SAFETY: each loop opens its poller, listener and sockets after this call and shares none
    // of them; of the copied descriptors it uses only standard output and error, which no
    // thread ever closes.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES) }.is_ok()
}

/// Raises the soft limit of open descriptors to the hard one and returns it.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let limit = setrlimit(Resource::Nofile, raised).map_or(limit.current, |()| limit.maximum);
    limit.unwrap_or(u64::MAX)
}

/// Opens a non-blocking listener that others may share (SO_REUSEPORT). TCP_NODELAY is set on it
/// because Linux hands it down to accepted sockets, which saves a call for each.
///
/// # Errors
/// Whatever the kernel says, "address in use" above all.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Lets the kernel choose the port only at `connect`, when it knows the target. A plain `bind`
/// must find one that is free towards every target, and takes milliseconds once many are used.
///
/// # Errors
/// A kernel before Linux 4.2.
#[allow(unsafe_code)]
fn bind_address_only(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the descriptor is open while `socket` is borrowed, and the kernel reads `length`
    // bytes from `on`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Begins to connect, from `source` if one is given; the poller says when it is done.
///
/// # Errors
/// Those of the kernel that come at once.
pub fn connect(target: SocketAddr, source: Option<Ipv4Addr>) -> io::Result<TcpStream> {
    let Some(source) = source else {
        let socket = TcpStream::connect(target)?;
        socket.set_nodelay(true)?;
        return Ok(socket);
    };
    let socket = Socket::new(
        Domain::for_address(target),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    bind_address_only(&socket)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

const EINPROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();
/// The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_with_its_own_table_hides_its_descriptors() {
        let number = std::thread::spawn(|| {
            assert!(
                own_descriptor_table(),
                "refused here; run outside a restricted container"
            );
            let file = std::fs::File::open("/proc/self/stat").unwrap();
            let number = file.as_raw_fd();
            std::mem::forget(file);
            number
        });
        let number = number.join().unwrap();
        let target = std::fs::read_link(format!("/proc/self/fd/{number}"));
        assert!(!target.is_ok_and(|path| path.ends_with("stat")));
    }

    #[test]
    fn two_listeners_share_an_address() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let second = listen(first.local_addr().unwrap()).unwrap();
        assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
    }
}
