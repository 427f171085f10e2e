//! Sessions that outlive their connections, over Unix sockets: a shard on an [`Io`] of one's own, in one
//! thread and with nothing of `wsteady::net`.
//! `cargo run --example unix -- /tmp/front.sock /tmp/a.sock /tmp/b.sock`
//! listens on the first; servers listen on the others. The end of its input stops it.

use std::error::Error;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use slab::Slab;
use wsteady::fleet::{Fleet, Kind, Pool, Server};
use wsteady::kit::Tick;
use wsteady::session::dialect::ws::Ws;
use wsteady::shard::news::News;
use wsteady::shard::{
    Accept, Answer, Destination, Dialled, Got, Io, Mail, Now, Plan, Put, Ready, Shard, Token,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let front = paths.next().ok_or("unix FRONT SERVER…: paths of sockets")?;
    let servers: Vec<PathBuf> = paths.collect();

    let mut fleet = Fleet {
        pools: vec![Pool::new("default", Kind::WebSocket)],
        ..Fleet::default()
    };
    for (place, path) in servers.iter().enumerate() {
        let (name, address) = (path.display().to_string(), address_of(place));
        fleet.join(Server::new(name.clone(), name, address, 0, 1));
    }
    let mut seed = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    let mut plan = Plan::alone(fleet, Vec::new(), seed);
    // Whoever may open the socket's file may say whom it speaks for.
    plan.house.trusted = vec![CLIENT.into()];

    let io = Unix::listen(&front, servers)?;
    let mut shard: Shard<Unix, Ws> = Shard::new(plan, io);
    shard.watch(Arc::new(|news| match news {
        News::Held(session) => println!("{:032x} has lost its server", session.id),
        News::Resumed {
            session, replayed, ..
        } => {
            println!(
                "{:032x} goes on, {replayed} messages sent again",
                session.id
            );
        }
        _ => {}
    }));
    println!("listening on {}", front.display());
    while shard.turn() {}
    println!("stopped");
    Ok(())
}

/// The kernel, as this program needs it.
struct Unix {
    path: PathBuf,
    listener: Option<UnixListener>,
    /// Nobody waited when the listener was asked last: it is to be watched.
    is_empty: bool,
    servers: Vec<PathBuf>,
    lines: Slab<Line>,
    began: Instant,
    /// The end of the input was not read yet.
    has_input: bool,
    mails: Vec<Mail>,
}

/// A connection.
struct Line {
    stream: UnixStream,
    token: Token,
    /// What the shard has to be told of.
    awaited: PollFlags,
}

/// What poll(2) tells of.
enum Source {
    Line(usize),
    Listener,
    Input,
}

impl Unix {
    fn listen(path: &Path, servers: Vec<PathBuf>) -> io::Result<Unix> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Unix {
            path: path.to_owned(),
            listener: Some(listener),
            is_empty: false,
            servers,
            lines: Slab::new(),
            began: Instant::now(),
            has_input: true,
            mails: Vec::new(),
        })
    }

    /// What happened to one source.
    fn on_told(&mut self, source: &Source, told: PollFlags, ready: &mut Vec<Ready>) {
        match source {
            Source::Line(place) => {
                let line = &mut self.lines[*place];
                let over = told.intersects(PollFlags::HUP | PollFlags::ERR);
                let ended = over || told.contains(PollFlags::RDHUP);
                // poll(2) says what is so, a shard wants to hear what changes: once. The end of both
                // directions is told whatever was asked for.
                line.awaited.remove(if over { ALL } else { told });
                ready.push(Ready {
                    token: line.token,
                    readable: ended || told.contains(PollFlags::IN),
                    writable: told.contains(PollFlags::OUT),
                    ended,
                });
            }
            Source::Listener => {
                self.is_empty = false;
                ready.push(Ready {
                    token: Token::listener(0),
                    readable: true,
                    writable: false,
                    ended: false,
                });
            }
            Source::Input => {
                self.has_input = matches!(io::stdin().read(&mut [0; 512]), Ok(1..));
                if !self.has_input {
                    self.mails.push(Mail::Drain { ms: 2_000 });
                }
            }
        }
    }
}

impl Io for Unix {
    /// Its place among the lines.
    type Socket = usize;

    fn poll(&mut self, wait: Option<u32>, ready: &mut Vec<Ready>) {
        let input = io::stdin();
        let (mut sources, mut asked) = (Vec::new(), Vec::new());
        for (place, line) in self
            .lines
            .iter()
            .filter(|(_, line)| !line.awaited.is_empty())
        {
            sources.push(Source::Line(place));
            asked.push(PollFd::new(&line.stream, line.awaited));
        }
        if let Some(listener) = self.listener.as_ref().filter(|_| self.is_empty) {
            sources.push(Source::Listener);
            asked.push(PollFd::new(listener, PollFlags::IN));
        }
        if self.has_input {
            sources.push(Source::Input);
            asked.push(PollFd::new(&input, PollFlags::IN));
        }
        let wait = wait.map(|ms| Timespec {
            tv_sec: i64::from(ms / 1_000),
            tv_nsec: i64::from(ms % 1_000) * 1_000_000,
        });
        // Interrupted by a signal: nothing has happened.
        let told = match poll(&mut asked, wait.as_ref()) {
            Ok(_) => asked.iter().map(PollFd::revents).collect(),
            Err(_) => Vec::new(),
        };
        for (source, told) in sources
            .iter()
            .zip(told)
            .filter(|(_, told)| !told.is_empty())
        {
            self.on_told(source, told, ready);
        }
    }

    fn now(&mut self) -> Now {
        let micros = self.began.elapsed().as_micros() as u64;
        Now {
            tick: Tick((micros / 1_000) as u32),
            micros,
        }
    }

    fn take_mail(&mut self, into: &mut Vec<Mail>) {
        into.append(&mut self.mails);
    }

    // Mail comes from the input alone, and there is nobody to send any to.
    fn send(&mut self, _shard: usize, _mail: Mail) {}
    fn answer(&mut self, _ticket: u64, _answer: Answer) {}

    fn accept(&mut self, _listener: u32) -> Accept<usize> {
        let Some(listener) = &self.listener else {
            return Accept::None;
        };
        match listener.accept() {
            Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => Accept::Socket(
                self.lines.insert(Line::new(stream, Token(0))),
                SocketAddr::new(CLIENT, 0),
            ),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_empty = true;
                Accept::None
            }
            Err(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
                Accept::Exhausted
            }
            _ => Accept::Failed,
        }
    }

    fn watch(&mut self, socket: &mut usize, token: Token) -> bool {
        self.lines[*socket].token = token;
        true
    }

    fn close_listeners(&mut self) {
        if self.listener.take().is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn dial(
        &mut self,
        to: &Destination<'_>,
        _from: Option<IpAddr>,
        token: Token,
    ) -> Dialled<usize> {
        match dial(&self.servers[usize::from(to.address.port())]) {
            Ok(stream) => Dialled::Socket(self.lines.insert(Line::new(stream, token))),
            Err(Errno::MFILE | Errno::NFILE) => Dialled::Exhausted,
            Err(_) => Dialled::Refused,
        }
    }

    fn is_connected(&mut self, socket: &mut usize) -> bool {
        let stream = &self.lines[*socket].stream;
        matches!(stream.take_error(), Ok(None)) && stream.peer_addr().is_ok()
    }

    fn read(&mut self, socket: &mut usize, into: &mut [u8]) -> Got {
        let line = &mut self.lines[*socket];
        line.awaited |= PollFlags::IN | PollFlags::RDHUP;
        match line.stream.read(into) {
            Ok(0) => Got::End,
            Ok(count) => Got::Bytes(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Got::Wait,
            Err(_) => Got::Broken,
        }
    }

    fn write(&mut self, socket: &mut usize, from: &[IoSlice<'_>]) -> Put {
        let line = &mut self.lines[*socket];
        let taken = line.stream.write_vectored(from);
        let all: usize = from.iter().map(|slice| slice.len()).sum();
        if !matches!(taken, Ok(taken) if taken == all) {
            line.awaited |= PollFlags::OUT;
        }
        match taken {
            Ok(count) => Put::Bytes(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Put::Wait,
            Err(_) => Put::Broken,
        }
    }

    fn shut(&mut self, socket: &mut usize) {
        // An error: the other side has gone already.
        let _ = self.lines[*socket].stream.shutdown(Shutdown::Write);
    }

    fn close(&mut self, socket: usize) {
        self.lines.remove(socket);
    }

    fn reset(&mut self, socket: usize) {
        // There is no RST here. The other side sees an ordinary end.
        self.close(socket);
    }
}

impl Line {
    fn new(stream: UnixStream, token: Token) -> Line {
        Line {
            stream,
            token,
            awaited: ALL,
        }
    }
}

/// Connects without waiting for a server that does not accept.
fn dial(path: &Path) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// A server's address is a name for its `Io`: here the port is its place in the list.
fn address_of(place: usize) -> SocketAddr {
    SocketAddr::new(CLIENT, place as u16)
}

/// Unix sockets have no address that would tell clients apart.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Everything that a shard wants to know of a connection.
const ALL: PollFlags = PollFlags::IN.union(PollFlags::OUT).union(PollFlags::RDHUP);
