//! One NATS connection that outlives its servers: it is made again, to the next of them, and all
//! subscriptions are said again. What is published meanwhile is not kept: who needs more than core
//! NATS promises must ask for an answer.
//!
//! A thread writes, another one reads. Neither is a loop's: a loop may call what is here, for all it
//! does is to send to a channel.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use log::{debug, info, warn};

use crate::wire::nats::{self, Delivery, Login, Said};

/// Whom to connect to, and as whom.
#[derive(Clone, Default)]
pub struct Terms {
    /// What servers and logs call it.
    pub name: String,
    /// Names or addresses, with their ports; tried in turn. At least one.
    pub servers: Vec<(String, u16)>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
}

/// A message for a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Msg {
    /// As [`Link::subscribe`] gave it.
    pub sid: u64,
    pub subject: Vec<u8>,
    /// Where an answer is waited for.
    pub reply: Option<Vec<u8>>,
    /// The block of headers; empty without any.
    pub headers: Vec<u8>,
    pub payload: Vec<u8>,
}

/// Is given each message, in the order of the server; while it does not return, none is read.
pub type OnMessage = Box<dyn FnMut(Msg) + Send>;

/// The connection, for any thread. Dropped, it ends when what was published before is written.
pub struct Link {
    orders: Sender<Order>,
    state: Arc<State>,
    next_sid: AtomicU64,
    threads: Vec<JoinHandle<()>>,
}

/// What both threads and those who ask see of each other.
#[derive(Default)]
struct State {
    up: AtomicBool,
    /// How often a server has taken us.
    stood: AtomicU64,
    /// Bytes published that are not written yet.
    pending: AtomicUsize,
    /// Messages that were published and never written.
    dropped: AtomicU64,
    /// A message is being dealt with: the server's silence is our own.
    busy: AtomicBool,
}

enum Order {
    Subscribe(u64, Interest),
    Unsubscribe(u64),
    Publish(Vec<u8>),
    /// From the reader of the connection of this number.
    Heard(u64, Heard),
    Stop,
}

struct Interest {
    subject: String,
    group: Option<String>,
}

enum Heard {
    Ping,
    Pong,
    /// Something else; the connection lives.
    Life,
    /// It will stop soon, and takes nobody new.
    Leaves,
    Lost(String),
}

impl Link {
    /// Starts its threads; it connects as soon as it can.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(terms: Terms, on_message: OnMessage) -> io::Result<Link> {
        debug_assert!(!terms.servers.is_empty(), "nobody to connect to");
        let (orders, inbox) = unbounded();
        let (streams, given) = unbounded();
        let state = Arc::<State>::default();
        let reader = Reader {
            on_message,
            orders: orders.clone(),
            state: state.clone(),
        };
        let name = |part: &str| format!("nats-{part}");
        let reading = thread::Builder::new()
            .name(name("read"))
            .spawn(move || reader.run(&given))?;
        let writer = Writer {
            terms,
            inbox,
            streams,
            state: state.clone(),
            interests: BTreeMap::new(),
            number: 0,
            silent: false,
        };
        let writing = thread::Builder::new()
            .name(name("write"))
            .spawn(move || writer.run())?;
        Ok(Link {
            orders,
            state,
            next_sid: AtomicU64::new(1),
            threads: vec![writing, reading],
        })
    }

    /// Asks for what is published to a subject, now and after each reconnect. In a queue group one
    /// member gets it.
    pub fn subscribe(&self, subject: &str, group: Option<&str>) -> u64 {
        let sid = self.next_sid.fetch_add(1, Relaxed);
        let interest = Interest {
            subject: subject.to_string(),
            group: group.map(str::to_string),
        };
        self.order(Order::Subscribe(sid, interest));
        sid
    }

    /// Asks no longer. What is on its way still comes.
    pub fn unsubscribe(&self, sid: u64) {
        self.order(Order::Unsubscribe(sid));
    }

    /// Publishes; `headers` is a block of [`nats::Headers`], or empty. False: there is no connection,
    /// or it takes too little; the message is not sent.
    pub fn publish(
        &self,
        subject: &[u8],
        reply: Option<&[u8]>,
        headers: &[u8],
        payload: &[u8],
    ) -> bool {
        let lawful = nats::is_subject(subject) && reply.is_none_or(nats::is_subject);
        let waiting = self.state.pending.load(Relaxed);
        if !lawful || !self.is_up() || waiting > PENDING_MAX {
            self.state.dropped.fetch_add(1, Relaxed);
            return false;
        }
        let mut bytes = Vec::with_capacity(subject.len() + headers.len() + payload.len() + 64);
        nats::publish(subject, reply, headers, payload, &mut bytes);
        self.state.pending.fetch_add(bytes.len(), Relaxed);
        self.order(Order::Publish(bytes));
        true
    }

    /// Whether a server has taken us, as far as is known.
    pub fn is_up(&self) -> bool {
        self.state.up.load(Relaxed)
    }

    /// How often a server has taken us: another number is another connection.
    pub fn stood(&self) -> u64 {
        self.state.stood.load(Relaxed)
    }

    /// Messages that were to be published and could not be.
    pub fn dropped(&self) -> u64 {
        self.state.dropped.load(Relaxed)
    }

    /// Writes what was published before, and waits for the end of the threads: a server that takes
    /// nothing keeps it up for 10 s at most, and so does whoever is given messages.
    pub fn stop(mut self) {
        self.order(Order::Stop);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }

    fn order(&self, order: Order) {
        // An error: it has stopped.
        let _ = self.orders.send(order);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.order(Order::Stop);
    }
}

impl Msg {
    /// The value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.as_delivery().header(name)
    }

    /// What the server says of a request instead of an answer: 503 if nobody listens.
    pub fn status(&self) -> Option<u16> {
        self.as_delivery().status()
    }

    fn as_delivery(&self) -> Delivery<'_> {
        Delivery {
            subject: &self.subject,
            sid: self.sid,
            reply: self.reply.as_deref(),
            headers: &self.headers,
            payload: &self.payload,
        }
    }

    fn of(message: &Delivery<'_>) -> Msg {
        Msg {
            sid: message.sid,
            subject: message.subject.to_vec(),
            reply: message.reply.map(<[u8]>::to_vec),
            headers: message.headers.to_vec(),
            payload: message.payload.to_vec(),
        }
    }
}

/// The thread that connects and writes.
struct Writer {
    terms: Terms,
    inbox: Receiver<Order>,
    streams: Sender<(u64, String, TcpStream)>,
    state: Arc<State>,
    interests: BTreeMap<u64, Interest>,
    /// Of the present connection: what earlier ones still say is not heard.
    number: u64,
    /// This outage has been told of.
    silent: bool,
}

/// How a connection ended.
enum End {
    Stop,
    Lost { why: String, stood: bool },
}

impl Writer {
    fn run(mut self) {
        let mut pause = PAUSE_MIN;
        for turn in 0.. {
            let (host, port) = &self.terms.servers[turn % self.terms.servers.len()];
            let server = format!("{host}:{port}");
            let why = match dial(host, *port) {
                Ok(stream) => match self.serve(&server, stream) {
                    End::Stop => return,
                    End::Lost { why, stood } => {
                        if stood {
                            pause = PAUSE_MIN;
                        }
                        why
                    }
                },
                Err(error) => error.to_string(),
            };
            self.state.up.store(false, Relaxed);
            let link = self.terms.name.as_str();
            if self.silent {
                debug!(link = link, server = server.as_str(), reason = why.as_str(); "no NATS server yet");
            } else {
                warn!(link = link, server = server.as_str(), reason = why.as_str(); "NATS server lost, trying again");
            }
            self.silent = true;
            if self.sit_out(Instant::now() + pause) {
                return;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Deals with orders while there is no connection. True: stop.
    fn sit_out(&mut self, until: Instant) -> bool {
        loop {
            match self.inbox.recv_deadline(until) {
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return true,
                Ok(order) => {
                    let written = self.take(order, &mut Vec::new());
                    self.state.dropped.fetch_add(written, Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }

    /// A connection's life.
    fn serve(&mut self, server: &str, stream: TcpStream) -> End {
        self.number += 1;
        let lost = |why: String, stood| End::Lost { why, stood };
        let theirs = match stream.try_clone() {
            Ok(theirs) => theirs,
            Err(error) => return lost(error.to_string(), false),
        };
        // An error: the reader has ended, and with it the link.
        let _ = self.streams.send((self.number, server.to_string(), theirs));
        let end = self.write(server, &stream);
        self.state.up.store(false, Relaxed);
        // The reader's end of it ends, too. An error: it is gone already.
        let _ = stream.shutdown(Shutdown::Both);
        end
    }

    fn write(&mut self, server: &str, mut stream: &TcpStream) -> End {
        let mut stood = false;
        let mut bytes = Vec::new();
        let terms = &self.terms;
        let login = Login {
            name: &terms.name,
            user: terms.user.as_deref(),
            password: terms.password.as_deref(),
            token: terms.token.as_deref(),
        };
        nats::connect(&login, &mut bytes);
        for (sid, one) in &self.interests {
            nats::subscribe(&one.subject, one.group.as_deref(), *sid, &mut bytes);
        }
        // Its answer says that the server took all this.
        bytes.extend_from_slice(nats::PING.as_bytes());
        let mut asked = true;
        let mut due = Instant::now() + STAND_MAX;
        loop {
            if let Err(error) = stream.write_all(&bytes) {
                let why = error.to_string();
                return End::Lost { why, stood };
            }
            bytes.clear();
            let mut order = match self.inbox.recv_deadline(due) {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Disconnected) => return End::Stop,
                Err(RecvTimeoutError::Timeout) => None,
            };
            if order.is_none() {
                due = Instant::now() + PING_PAUSE;
                if asked && !self.state.busy.load(Relaxed) {
                    let why = "it does not answer".to_string();
                    return End::Lost { why, stood };
                }
                asked = true;
                bytes.extend_from_slice(nats::PING.as_bytes());
            }
            // Whatever waits goes out in one write.
            while let Some(one) = order.take() {
                match one {
                    Order::Stop => {
                        let _ = stream.write_all(&bytes);
                        return End::Stop;
                    }
                    Order::Heard(number, _) if number != self.number => {}
                    Order::Heard(_, Heard::Lost(why)) => return End::Lost { why, stood },
                    Order::Heard(_, Heard::Leaves) if self.terms.servers.len() > 1 => {
                        let why = "it is about to stop".to_string();
                        return End::Lost { why, stood };
                    }
                    Order::Heard(_, Heard::Pong) => {
                        asked = false;
                        if !stood {
                            stood = true;
                            self.silent = false;
                            due = Instant::now() + PING_PAUSE;
                            self.state.stood.fetch_add(1, Relaxed);
                            self.state.up.store(true, Relaxed);
                            info!(link = self.terms.name.as_str(), server = server; "NATS server connected");
                        }
                    }
                    Order::Heard(_, Heard::Life | Heard::Leaves) => asked &= !stood,
                    Order::Heard(_, Heard::Ping) => {
                        bytes.extend_from_slice(nats::PONG.as_bytes());
                    }
                    order @ (Order::Subscribe(..) | Order::Unsubscribe(_) | Order::Publish(_)) => {
                        self.take(order, &mut bytes);
                    }
                }
                if bytes.len() < BATCH_MAX {
                    order = self.inbox.try_recv().ok();
                }
            }
        }
    }

    /// Remembers a subscription, and writes what is to be said to a server. Returns how many messages
    /// that were.
    fn take(&mut self, order: Order, out: &mut Vec<u8>) -> u64 {
        match order {
            Order::Subscribe(sid, one) => {
                nats::subscribe(&one.subject, one.group.as_deref(), sid, out);
                self.interests.insert(sid, one);
            }
            Order::Unsubscribe(sid) => {
                if self.interests.remove(&sid).is_some() {
                    nats::unsubscribe(sid, out);
                }
            }
            Order::Publish(bytes) => {
                self.state.pending.fetch_sub(bytes.len(), Relaxed);
                out.extend_from_slice(&bytes);
                return 1;
            }
            Order::Heard(..) | Order::Stop => {}
        }
        0
    }
}

fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_MAX) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(WRITE_MAX))?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The thread that reads.
struct Reader {
    on_message: OnMessage,
    orders: Sender<Order>,
    state: Arc<State>,
}

impl Reader {
    /// One connection after the other, until the writer has ended.
    fn run(mut self, streams: &Receiver<(u64, String, TcpStream)>) {
        for (number, server, mut stream) in streams {
            let why = self.read(number, &server, &mut stream);
            let _ = self.orders.send(Order::Heard(number, Heard::Lost(why)));
        }
    }

    /// Reads until it is over, and says why.
    fn read(&mut self, number: u64, server: &str, stream: &mut TcpStream) -> String {
        let mut last_words = None;
        let mut kept = Vec::new();
        let mut scratch = vec![0; READ_MAX];
        loop {
            let new = match stream.read(&mut scratch) {
                Ok(0) => return last_words.unwrap_or_else(|| "it has closed".to_string()),
                Ok(new) => new,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return last_words.unwrap_or_else(|| error.to_string()),
            };
            kept.extend_from_slice(&scratch[..new]);
            let mut at = 0;
            let mut heard = Heard::Life;
            loop {
                let (used, said) = match nats::parse(&kept[at..], MESSAGE_MAX) {
                    Ok(Some(said)) => said,
                    Ok(None) => break,
                    Err(broken) => return broken.0.to_string(),
                };
                at += used;
                heard = match said {
                    Said::Message(message) => {
                        self.state.busy.store(true, Relaxed);
                        (self.on_message)(Msg::of(&message));
                        self.state.busy.store(false, Relaxed);
                        continue;
                    }
                    Said::Err(text) => {
                        warn!(server = server, reason = text; "the NATS server complains");
                        last_words = Some(text.to_string());
                        continue;
                    }
                    Said::Info(json) if nats::json_field(json, "ldm") == Some(b"true") => {
                        Heard::Leaves
                    }
                    Said::Info(_) | Said::Ok => continue,
                    Said::Ping => Heard::Ping,
                    Said::Pong => Heard::Pong,
                };
                let _ = self.orders.send(Order::Heard(number, heard));
                heard = Heard::Life;
            }
            let _ = self.orders.send(Order::Heard(number, heard));
            kept.drain(..at);
            if kept.capacity() > KEPT_MAX && kept.len() < KEPT_MAX {
                kept.shrink_to(KEPT_MAX);
            }
        }
    }
}

/// For a server's TCP connection, and for its first PONG.
const CONNECT_MAX: Duration = Duration::from_secs(2);
const STAND_MAX: Duration = Duration::from_secs(5);

/// A server that takes nothing for so long is lost.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// How often a server is asked whether it lives.
const PING_PAUSE: Duration = Duration::from_secs(10);

/// Between attempts: doubled each time, so that a server that restarts is found soon and one that is
/// gone is not pestered.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Bytes that may wait to be written: a server that is so far behind gets no more.
const PENDING_MAX: usize = 16 << 20;

/// One write.
const BATCH_MAX: usize = 64 << 10;

/// One read; and the buffer that is kept behind a large message.
const READ_MAX: usize = 64 << 10;
const KEPT_MAX: usize = 4 * READ_MAX;

/// No server may be told to take larger ones.
const MESSAGE_MAX: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    /// A server that a test plays.
    struct Played {
        stream: TcpStream,
        lines: BufReader<TcpStream>,
    }

    impl Played {
        fn accept(listener: &TcpListener) -> Played {
            let (stream, _) = listener.accept().unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap());
            let mut played = Played { stream, lines };
            played.say("INFO {\"headers\":true}\r\n");
            assert!(played.line().starts_with("CONNECT {"));
            played
        }

        fn say(&mut self, text: &str) {
            self.stream.write_all(text.as_bytes()).unwrap();
        }

        fn line(&mut self) -> String {
            let mut line = String::new();
            self.lines.read_line(&mut line).unwrap();
            assert!(line.ends_with("\r\n"), "{line:?}");
            line.trim_end().to_string()
        }

        fn expect(&mut self, lines: &[&str]) {
            for line in lines {
                assert_eq!(self.line(), *line);
            }
        }
    }

    fn link(listeners: &[&TcpListener]) -> (Link, Receiver<Msg>) {
        let (sender, messages) = unbounded();
        let server = |one: &&TcpListener| ("127.0.0.1".into(), one.local_addr().unwrap().port());
        let terms = Terms {
            name: "test".into(),
            servers: listeners.iter().map(server).collect(),
            ..Terms::default()
        };
        let on_message = Box::new(move |message| drop(sender.send(message)));
        (Link::start(terms, on_message).unwrap(), messages)
    }

    /// Until the writer has seen what the server said.
    fn until(what: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !what() {
            assert!(Instant::now() < end, "in vain");
            thread::yield_now();
        }
    }

    const WAIT: Duration = Duration::from_secs(20);

    #[test]
    fn what_was_subscribed_is_said_again_to_the_next_server() {
        let [one, other] = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let (link, messages) = link(&[&one, &other]);
        let mut first = Played::accept(&one);
        first.expect(&["PING"]);
        assert!(!link.is_up() && !link.publish(b"a", None, b"", b"lost"));
        first.say("PONG\r\n");
        until(|| link.is_up());
        let [a, b, c] = [("a.*", None), ("b", Some("g")), ("c", None)]
            .map(|(subject, group)| link.subscribe(subject, group));
        link.unsubscribe(b);
        assert!(link.publish(b"up", Some(b"r"), b"", b"x"));
        assert!(!link.publish(b"no subject", None, b"", b"x"));
        first.expect(&[
            "SUB a.* 1",
            "SUB b g 2",
            "SUB c 3",
            "UNSUB 2",
            "PUB up r 1",
            "x",
        ]);
        first.say("PING\r\nMSG a.b 1 r.1 2\r\nhi\r\nHMSG c 3 12 13\r\nNATS/1.0\r\n\r\n!\r\n");
        first.expect(&["PONG"]);
        let message = messages.recv_timeout(WAIT).unwrap();
        assert_eq!((message.sid, &message.subject[..]), (a, &b"a.b"[..]));
        assert_eq!(
            (message.reply, &message.payload[..]),
            (Some(b"r.1".to_vec()), &b"hi"[..])
        );
        assert_eq!(messages.recv_timeout(WAIT).unwrap().sid, c);
        drop(first);
        let mut second = Played::accept(&other);
        second.expect(&["SUB a.* 1", "SUB c 3", "PING"]);
        second.say("PONG\r\n");
        until(|| link.is_up());
        assert!(link.publish(b"again", None, b"", b""));
        assert_eq!(link.dropped(), 2);
        link.stop();
        second.expect(&["PUB again 0", ""]);
    }

    #[test]
    fn a_server_that_refuses_or_babbles_is_left_for_the_next() {
        let [one, other] = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let (link, _messages) = link(&[&one, &other]);
        Played::accept(&one).say("-ERR 'Authorization Violation'\r\n");
        let mut second = Played::accept(&other);
        second.say("220 mail.example.com ESMTP\r\n");
        let mut third = Played::accept(&one);
        assert!(!link.is_up());
        third.expect(&["PING"]);
        third.say("PONG\r\nINFO {\"ldm\":true}\r\n");
        let mut fourth = Played::accept(&other);
        fourth.say("PONG\r\n");
        until(|| link.is_up());
        link.stop();
    }

    #[test]
    fn what_one_thread_publishes_arrives_in_its_order() {
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        let (link, _messages) = link(&[&one]);
        let mut server = Played::accept(&one);
        server.expect(&["PING"]);
        server.say("PONG\r\n");
        until(|| link.is_up());
        let numbers: Vec<String> = (0..2_000).map(|number| number.to_string()).collect();
        for number in &numbers {
            assert!(link.publish(b"n", None, b"", number.as_bytes()));
        }
        for number in &numbers {
            server.expect(&[&format!("PUB n {}", number.len()), number]);
        }
        drop(link);
        assert_eq!(server.lines.read_line(&mut String::new()).unwrap(), 0);
    }
}
