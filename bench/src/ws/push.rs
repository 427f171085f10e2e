//! Messages from the other side of a bridge: POSTed to the proxy, checked at its WebSockets.

use super::Plan;
use super::tally::Tally;
use crate::check::Label;
use crate::link::{Filled, Link};
use crate::run::Clock;
use crate::{frame, http};
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Poll, Registry, Token};
use std::collections::VecDeque;
use std::io;

/// Push messages to bridged clients over HTTP, check that each arrives, and measure.
///
/// It opens the WebSockets itself, each with a ClientId of its own, and POSTs every message to
/// `http://host:port/<ClientId>` of the same proxy. Each answer must be 200 `ok`, and each
/// message must arrive once, whole and in order. All else is as with `ws`: here an echo is an
/// arrival, and its latency counts from when the POST was due.
#[derive(clap::Args)]
// Both this and the clients' are called Args, and clap wants its groups' names to differ.
#[group(skip)]
pub struct Args {
    #[command(flatten)]
    clients: super::Args,
    /// Path under which the proxy takes pushes (its push.path)
    #[arg(long, value_name = "PATH", default_value = "/", value_parser = push_path)]
    push_path: String,
    /// Keep-alive connections per thread, each with one POST under way
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    push_connections: u16,
}

fn push_path(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !plain || !text.starts_with('/') || !text.ends_with('/') {
        return Err("it must begin and end with /".to_string());
    }
    Ok(text.to_string())
}

/// Runs clients and pushes, and reports; `false` if a check failed.
///
/// # Errors
/// What kept the run from taking place.
pub fn run(args: &Args) -> io::Result<bool> {
    let how = How {
        path: args.push_path.clone(),
        connections: args.push_connections.into(),
    };
    super::run_with(&args.clients, Some(how))
}

/// What pushes are like; the same for all threads.
#[derive(Clone)]
pub struct How {
    path: String,
    pub connections: usize,
}

/// One thread's connections to the proxy's HTTP side. An id always uses the same one, and one
/// request is under way on each, so that pushes of one id cannot overtake each other.
pub struct Pushers {
    how: How,
    each: Vec<Pusher>,
    registry: Registry,
    /// The request that is being sent.
    request: Vec<u8>,
}

#[derive(Default)]
struct Pusher {
    link: Option<Link>,
    /// The first one is under way if `busy`.
    waiting: VecDeque<Label>,
    busy: bool,
    /// The start of an answer whose rest has not come.
    answer: Vec<u8>,
}

/// What a thread lends for one call.
pub struct Lent<'a> {
    pub plan: &'a Plan,
    pub clock: Clock,
    pub tally: &'a mut Tally,
}

impl Pushers {
    /// Opens the connections.
    ///
    /// # Errors
    /// The proxy does not listen.
    pub fn new(how: How, plan: &Plan, poll: &Poll) -> io::Result<Self> {
        let mut pushers = Self {
            each: (0..how.connections).map(|_| Pusher::default()).collect(),
            how,
            registry: poll.registry().try_clone()?,
            request: Vec::new(),
        };
        for index in 0..pushers.each.len() {
            pushers.dial(index, plan)?;
        }
        Ok(pushers)
    }

    /// Which of them a token of the poller means.
    pub fn place(token: Token) -> Option<usize> {
        token.0.checked_sub(FIRST_TOKEN)
    }

    /// All that was pushed is answered.
    pub fn is_idle(&self) -> bool {
        self.each.iter().all(|pusher| pusher.waiting.is_empty())
    }

    /// Sends the message, or lets it wait for its turn.
    pub fn push(&mut self, label: Label, lent: &mut Lent<'_>) {
        // Neighbours of one thread are `threads` apart.
        let index = label.connection as usize / lent.plan.shape.threads % self.each.len();
        self.each[index].waiting.push_back(label);
        self.go_on(index, lent);
    }

    /// Takes an event of the poller.
    pub fn on_event(&mut self, index: usize, event: &Event, lent: &mut Lent<'_>) {
        if let Err(reason) = self.listen(index, event, lent) {
            let pusher = &mut self.each[index];
            pusher.link = None;
            // Not sent again: it may have arrived. One that rested may end as it likes.
            if std::mem::take(&mut pusher.busy) {
                pusher.waiting.pop_front();
                lent.tally.push_failed(&reason);
            }
        }
        self.go_on(index, lent);
    }

    fn go_on(&mut self, index: usize, lent: &mut Lent<'_>) {
        while !self.each[index].busy
            && let Some(label) = self.each[index].waiting.front().copied()
        {
            if let Err(error) = self.send(index, label, lent.plan) {
                self.each[index].link = None;
                self.each[index].waiting.pop_front();
                lent.tally.push_failed(&error.to_string());
            }
        }
    }

    fn send(&mut self, index: usize, label: Label, plan: &Plan) -> io::Result<()> {
        if self.each[index].link.is_none() {
            self.dial(index, plan)?;
        }
        write_request(&mut self.request, &self.how.path, label, plan);
        let pusher = &mut self.each[index];
        pusher.answer.clear();
        pusher.busy = true;
        let link = pusher.link.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let sent = link.send(&self.request);
        pusher.busy = sent.is_ok();
        sent
    }

    /// Connects and waits for it, which a proxy on the same machine makes short.
    fn dial(&mut self, index: usize, plan: &Plan) -> io::Result<()> {
        let socket = std::net::TcpStream::connect_timeout(&plan.target, plan.connect_timeout)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        let both = Interest::READABLE | Interest::WRITABLE;
        self.registry
            .register(&mut socket, Token(FIRST_TOKEN + index), both)?;
        self.each[index].link = Some(Link::new(socket));
        Ok(())
    }

    /// Reads the answer; an error, in words, is the end of the connection.
    fn listen(&mut self, index: usize, event: &Event, lent: &mut Lent<'_>) -> Result<(), String> {
        let pusher = &mut self.each[index];
        let Some(link) = &mut pusher.link else {
            return Ok(());
        };
        let told = |error: io::Error| error.to_string();
        link.on_event(event);
        if event.is_writable() {
            link.flush().map_err(told)?;
        }
        let mut input = [0; 4096];
        loop {
            match link.fill(&mut input).map_err(told)? {
                Filled::Blocked => return Ok(()),
                Filled::Ended => return Err("the connection ended without an answer".to_string()),
                Filled::Bytes(_) if !pusher.busy => return Err("an answer to nothing".to_string()),
                Filled::Bytes(count) => pusher.answer.extend_from_slice(&input[..count]),
            }
            let Some(answer) = http::response(&pusher.answer)? else {
                continue;
            };
            if answer.bytes < pusher.answer.len() {
                return Err("more than one answer".to_string());
            }
            pusher.busy = false;
            let label = pusher.waiting.pop_front().expect("it is under way");
            match (answer.status, answer.body) {
                (200, b"ok") => lent.tally.pushed(label.due, lent.clock.now()),
                (200, _) => lent.tally.push_failed("status 200 without ok"),
                (status, _) => lent.tally.push_failed(&format!("status {status}")),
            }
            if answer.close {
                pusher.link = None;
            }
            return Ok(());
        }
    }
}

fn write_request(out: &mut Vec<u8>, path: &str, label: Label, plan: &Plan) {
    let content_type = if plan.opcode == frame::TEXT {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    };
    let (host, size) = (&plan.host, plan.size);
    let id = plan.client_id(label.connection);
    let head = format!(
        "POST {path}{id} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n\
         Content-Length: {size}\r\n\r\n"
    );
    out.clear();
    out.extend_from_slice(head.as_bytes());
    out.resize(head.len() + size, 0);
    label.write(&mut out[head.len()..]);
}

/// Above all connections' tokens and below the timer's.
const FIRST_TOKEN: usize = usize::MAX - 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_paths_are_told_apart() {
        assert_eq!(Pushers::place(Token(FIRST_TOKEN + 3)), Some(3));
        assert_eq!(Pushers::place(Token(1_000_000)), None);
        for (text, good) in [
            ("/", true),
            ("/_push/", true),
            ("_push/", false),
            ("/push", false),
            ("/a b/", false),
        ] {
            assert_eq!(push_path(text).is_ok(), good, "{text}");
        }
    }
}
