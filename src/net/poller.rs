//! The real world: `mio` under the shard's `Io`.

use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll};

use super::clock::Clock;
use super::host::Post;
use super::socket;
use super::table::Table;
use crate::shard::{
    Accept, Answer, Asker, Destination, Dialled, Got, Io, Mail, Now, Push, Put, Ready, Token,
};

/// One shard's kernel.
pub struct Net {
    index: usize,
    poll: Poll,
    events: Events,
    listeners: Vec<TcpListener>,
    clock: Clock,
    inbox: Receiver<Mail>,
    post: Arc<Post>,
    outside: Outside,
    socket_buffer: usize,
    table: Table,
}

/// What loops tell the rest of the program; must not block.
#[derive(Clone)]
pub struct Outside {
    /// The answer to the question with this ticket.
    pub answers: Arc<dyn Fn(u64, Answer) + Send + Sync>,
    /// A push for somebody who is not here, if he may be elsewhere.
    pub elsewhere: Option<Elsewhere>,
}

/// Passes a push on.
pub type Elsewhere = Arc<dyn Fn(Box<Push>, Asker) + Send + Sync>;

impl Net {
    /// The kernel of the shard of this number, for the thread that runs it: what is opened here is in
    /// that thread's descriptor table. Mail wakes it.
    ///
    /// Errors: those of epoll_create(2) and epoll_ctl(2).
    pub fn new(
        index: usize,
        clock: Clock,
        inbox: Receiver<Mail>,
        post: Arc<Post>,
        outside: Outside,
    ) -> io::Result<Net> {
        let poll = Poll::new()?;
        if let Some(waker) = post.waker(index) {
            waker.watch(poll.registry(), to_mio(Token::MAIL))?;
        }
        let events = Events::with_capacity(EVENTS_MAX);
        Ok(Net {
            index,
            poll,
            events,
            listeners: Vec::new(),
            clock,
            inbox,
            post,
            outside,
            socket_buffer: 0,
            table: Table::of_this_thread(),
        })
    }

    /// Bounds the kernel's buffers of every socket, in bytes; 0 leaves them to the kernel.
    pub fn set_socket_buffer(&mut self, bytes: u64) {
        self.socket_buffer = bytes as usize;
    }

    /// As [`Io::dial`], for who has to know why it fails.
    ///
    /// Errors: those of connect(2) and epoll_ctl(2).
    pub fn call_on(&mut self, to: SocketAddr, token: Token) -> io::Result<TcpStream> {
        let mut stream = socket::connect(to, None)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream, to_mio(token), both)?;
        Ok(stream)
    }

    /// As [`Io::is_connected`], with the reason.
    ///
    /// Errors: those of connect(2); `NotConnected` while it is being tried.
    pub fn fate(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        match socket.take_error()? {
            Some(why) => Err(why),
            None => socket.peer_addr().map(drop),
        }
    }

    /// Takes a listener; its number is its place.
    pub fn listen(&mut self, listener: std::net::TcpListener) -> io::Result<()> {
        let mut listener = TcpListener::from_std(listener);
        let token = Token::listener(self.listeners.len() as u32);
        self.poll
            .registry()
            .register(&mut listener, to_mio(token), Interest::READABLE)?;
        self.listeners.push(listener);
        Ok(())
    }
}

impl Io for Net {
    type Socket = TcpStream;

    fn poll(&mut self, wait: Option<u32>, ready: &mut Vec<Ready>) {
        let wait = wait.map(|ms| Duration::from_millis(u64::from(ms)));
        if let Err(error) = self.poll.poll(&mut self.events, wait)
            && error.kind() != ErrorKind::Interrupted
        {
            log::error!("poll: {error}");
        }
        ready.extend(self.events.iter().map(|event| Ready {
            token: Token(event.token().0 as u64),
            readable: event.is_readable(),
            writable: event.is_writable(),
            ended: event.is_read_closed() || event.is_error() || event.is_write_closed(),
        }));
    }

    fn now(&mut self) -> Now {
        self.clock.read()
    }

    fn take_mail(&mut self, into: &mut Vec<Mail>) {
        self.post.looks(self.index);
        into.extend(self.inbox.try_iter().take(MAILS_MAX));
        if !self.inbox.is_empty() {
            self.post.wake(self.index);
        }
    }

    fn send(&mut self, shard: usize, mail: Mail) {
        self.post.send(shard, mail);
    }

    fn answer(&mut self, ticket: u64, answer: Answer) {
        (self.outside.answers)(ticket, answer);
    }

    fn elsewhere(&mut self, push: Box<Push>, from: Asker) -> Option<(Box<Push>, Asker)> {
        match &self.outside.elsewhere {
            Some(pass) => pass(push, from),
            None => return Some((push, from)),
        }
        None
    }

    fn accept(&mut self, listener: u32) -> Accept<TcpStream> {
        let Some(listener) = self.listeners.get(listener as usize) else {
            return Accept::None;
        };
        if !self.table.has_room(listener) {
            return Accept::Exhausted;
        }
        match listener.accept() {
            Ok((stream, peer)) => {
                self.table.took(&stream);
                Accept::Socket(stream, peer)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Accept::None,
            Err(error) if socket::is_exhausted(&error) => Accept::Exhausted,
            Err(_) => Accept::Failed,
        }
    }

    fn watch(&mut self, socket: &mut TcpStream, token: Token) -> bool {
        let both = Interest::READABLE | Interest::WRITABLE;
        if self.socket_buffer > 0 {
            socket::bound_buffers(socket, self.socket_buffer);
        }
        let registry = self.poll.registry();
        match registry.register(socket, to_mio(token), both) {
            Ok(()) => true,
            // It was watched before, as a guest of the layer between: from now on as the shard's. That
            // tells of its edges once more.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                registry.reregister(socket, to_mio(token), both).is_ok()
            }
            Err(_) => false,
        }
    }

    fn close_listeners(&mut self) {
        self.listeners.clear();
    }

    fn dial(
        &mut self,
        to: &Destination<'_>,
        from: Option<IpAddr>,
        token: Token,
    ) -> Dialled<TcpStream> {
        match socket::dial(to.address, from) {
            Dialled::Socket(mut stream) => {
                if self.watch(&mut stream, token) {
                    Dialled::Socket(stream)
                } else {
                    Dialled::Exhausted
                }
            }
            failed => failed,
        }
    }

    fn is_scarce(&self, socket: &TcpStream) -> bool {
        self.table.is_scarce(socket)
    }

    fn local_address(&self, socket: &TcpStream) -> Option<SocketAddr> {
        socket.local_addr().ok()
    }

    fn is_connected(&mut self, socket: &mut TcpStream) -> bool {
        socket::is_connected(socket)
    }

    fn read(&mut self, socket: &mut TcpStream, into: &mut [u8]) -> Got {
        socket::read(socket, into)
    }

    fn write(&mut self, socket: &mut TcpStream, from: &[IoSlice<'_>]) -> Put {
        socket::write(socket, from)
    }

    fn shut(&mut self, socket: &mut TcpStream) {
        // An error means that the connection is gone already.
        let _ = socket.shutdown(std::net::Shutdown::Write);
    }

    fn close(&mut self, socket: TcpStream) {
        drop(socket);
    }

    fn reset(&mut self, socket: TcpStream) {
        socket::reset(socket);
    }
}

fn to_mio(token: Token) -> mio::Token {
    mio::Token(token.0 as usize)
}

/// Events of one poll; the kernel rotates its list, so those that did not fit come first next time.
const EVENTS_MAX: usize = 1_024;

/// Mails of one turn.
const MAILS_MAX: usize = 1_024;
