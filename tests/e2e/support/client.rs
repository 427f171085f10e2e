//! Clients that keep a ledger: one thread each, on tungstenite's protocol.

use super::ledger::{History, Stamp, compose, verify};
use super::rng::Rng;
use super::tls::{self, Pipe};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

/// What the clients of one crowd do.
#[derive(Clone)]
pub struct Habit {
    /// Between two messages of one client.
    pub every: Duration,
    /// Messages without their echo beyond which a client waits: a slow machine then slows the
    /// load instead of queueing it.
    pub ahead: u64,
    /// Largest filling of a message; sizes are random, their magnitude uniform.
    pub size_max: usize,
    /// After so many messages a client only listens.
    pub count: u64,
    /// Between two Pings; zero for none.
    pub ping: Duration,
}

impl Default for Habit {
    fn default() -> Habit {
        Habit {
            every: Duration::from_millis(10),
            ahead: u64::MAX,
            size_max: 2000,
            count: u64::MAX,
            ping: Duration::from_secs(1),
        }
    }
}

/// An answer to a Ping may take that long on a busy machine, with or without a server (I6).
const PONG_MAX: Duration = Duration::from_secs(10);

/// A client looks for orders at least so often.
const WAIT_MAX: Duration = Duration::from_millis(200);

pub struct Crowd {
    pub run: u32,
    orders: Arc<Orders>,
    clients: Vec<JoinHandle<History>>,
}

#[derive(Default)]
struct Orders {
    quiet: AtomicBool,
    leave: AtomicBool,
    /// Messages accepted by all clients.
    sent: AtomicU64,
}

impl Crowd {
    /// Connects `count` clients, one after the other, and lets them send.
    pub fn start(proxy: SocketAddr, count: u32, habit: &Habit) -> Crowd {
        Crowd::start_as(tls::on(), proxy, count, habit)
    }

    /// With TLS or without it, whatever the run.
    pub fn start_as(sealed: bool, proxy: SocketAddr, count: u32, habit: &Habit) -> Crowd {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = (std::process::id() << 8) | RUNS.fetch_add(1, Ordering::Relaxed) as u32;
        let orders = Arc::new(Orders::default());
        let clients = (0..count)
            .map(|session| {
                let client = Client::connect(
                    (proxy, sealed),
                    Stamp {
                        run,
                        session,
                        sequence: 0,
                    },
                );
                let (orders, habit) = (Arc::clone(&orders), habit.clone());
                std::thread::spawn(move || client.live(&habit, &orders))
            })
            .collect();
        Crowd {
            run,
            orders,
            clients,
        }
    }

    pub fn sent(&self) -> u64 {
        self.orders.sent.load(Ordering::Relaxed)
    }

    /// Waits until all clients together have sent `count` more messages.
    pub fn send_more(&self, count: u64) {
        let goal = self.sent() + count;
        super::until_true(Duration::from_secs(30), "clients to send", || {
            self.sent() >= goal
        });
    }

    /// From now on the clients only listen.
    pub fn hush(&self) {
        self.orders.quiet.store(true, Ordering::Relaxed);
    }

    /// All clients close with 1000 and tell what they saw.
    pub fn leave(self) -> Vec<History> {
        self.orders.leave.store(true, Ordering::Relaxed);
        self.clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .collect()
    }
}

/// One client.
struct Client {
    socket: WebSocket<Pipe>,
    stamp: Stamp,
    rng: Rng,
    history: History,
    /// One more than the highest number whose echo has come.
    echoed: u64,
    /// A Ping under way, and when it went.
    pinged: Option<Instant>,
    /// What the kernel did not take yet waits in the library.
    unflushed: bool,
}

impl Client {
    fn connect((proxy, sealed): (SocketAddr, bool), stamp: Stamp) -> Client {
        let stream = TcpStream::connect_timeout(&proxy, Duration::from_secs(10)).expect("a proxy");
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let config = WebSocketConfig::default()
            .read_buffer_size(8192)
            .max_write_buffer_size(4 << 20);
        let stream = if sealed {
            Pipe::connect(stream, &tls::our_client(), "localhost")
        } else {
            stream.into()
        };
        let url = format!("ws://{proxy}/ledger/{}?run={}", stamp.session, stamp.run);
        let (socket, _) = tungstenite::client::client_with_config(url, stream, Some(config))
            .unwrap_or_else(|why| panic!("client {}: {why}", stamp.session));
        // A proxy that pauses blocks the write for that long; what is left waits in the library.
        let stream = socket.get_ref();
        stream
            .set_write_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        Client {
            socket,
            stamp,
            rng: Rng::new(u64::from(stamp.run) << 32 | u64::from(stamp.session)),
            history: History {
                session: stamp.session,
                ..History::default()
            },
            echoed: 0,
            pinged: None,
            unflushed: false,
        }
    }

    fn live(mut self, habit: &Habit, orders: &Orders) -> History {
        // Clients that started together must not send together.
        let mut send_at = Instant::now() + habit.every.mul_f64(self.rng.below(100) as f64 / 100.0);
        let mut ping_at = Instant::now() + habit.ping;
        while self.history.closed.is_none() && !orders.leave.load(Ordering::Relaxed) {
            let now = Instant::now();
            let may = !orders.quiet.load(Ordering::Relaxed)
                && self.stamp.sequence < habit.count
                && self.stamp.sequence - self.echoed < habit.ahead;
            if now >= send_at && may && !self.unflushed {
                self.send(habit.size_max, orders);
                send_at = (send_at + habit.every).max(now);
            }
            if now >= ping_at && !habit.ping.is_zero() && !self.unflushed {
                self.ping();
                ping_at = now + habit.ping;
            }
            self.flush();
            let next = if may { send_at } else { now + WAIT_MAX };
            let wait = next.saturating_duration_since(Instant::now());
            self.listen(wait.clamp(Duration::from_millis(1), self.wait_max()));
        }
        if self.history.closed.is_none() {
            self.leave();
        }
        self.history
    }

    /// Each turn costs a system call or two, and there may be a thousand clients.
    fn wait_max(&self) -> Duration {
        if self.unflushed {
            WAIT_MAX / 4
        } else {
            WAIT_MAX
        }
    }

    fn send(&mut self, size_max: usize, orders: &Orders) {
        let text = self.rng.below(2) == 0;
        let bytes = compose(self.stamp, text, self.rng.size(size_max));
        let message = if text {
            Message::text(String::from_utf8(bytes).expect("the filling is ASCII"))
        } else {
            Message::binary(bytes)
        };
        match self.socket.write(message) {
            Ok(()) => {}
            Err(Error::Io(why)) if would_block(&why) => {}
            Err(why) => return self.over(&why),
        }
        self.stamp.sequence += 1;
        self.history.accepted += 1;
        self.unflushed = true;
        orders.sent.fetch_add(1, Ordering::Relaxed);
    }

    fn ping(&mut self) {
        if let Some(since) = self.pinged {
            if since.elapsed() > PONG_MAX {
                self.fault(format!("no Pong for {:?}", since.elapsed()));
                self.pinged = None;
            }
        } else if self
            .socket
            .write(Message::Ping(b"are you there"[..].into()))
            .is_ok()
        {
            self.pinged = Some(Instant::now());
            self.unflushed = true;
        }
    }

    fn flush(&mut self) {
        match self.socket.flush() {
            Ok(()) => self.unflushed = false,
            Err(Error::Io(why)) if would_block(&why) => self.unflushed = true,
            Err(why) => self.over(&why),
        }
    }

    /// Reads for at most `wait`, then what is there already.
    fn listen(&mut self, wait: Duration) {
        self.socket.get_ref().set_read_timeout(Some(wait)).unwrap();
        let deadline = Instant::now() + wait;
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => self.hear(text.as_bytes(), true),
                Ok(Message::Binary(bytes)) => self.hear(&bytes, false),
                Ok(Message::Pong(_)) => {
                    if let Some(since) = self.pinged.take() {
                        self.history.pong_ms =
                            self.history.pong_ms.max(since.elapsed().as_millis());
                    }
                }
                Ok(Message::Close(frame)) => {
                    let code = frame.map_or(1005, |frame| frame.code.into());
                    self.history.closed = Some(code);
                }
                Ok(_) => {}
                Err(Error::Io(why)) if would_block(&why) => return,
                Err(why) => return self.over(&why),
            }
            if Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Checks one message: `<connection> <number> ` and an echo of ours or a push.
    fn hear(&mut self, bytes: &[u8], text: bool) {
        let mut words = bytes.splitn(3, |byte| *byte == b' ');
        let mut word = || words.next().unwrap_or_default();
        let (id, number, rest) = (word(), word(), word());
        let id = String::from_utf8_lossy(id).into_owned();
        let number: u64 = String::from_utf8_lossy(number).parse().unwrap_or(u64::MAX);
        match self.check(rest, text) {
            Ok(Some(echo)) => self.echoed = self.echoed.max(echo.sequence + 1),
            Ok(None) => {}
            Err(why) => self.fault(format!("{id} {number}: {why}")),
        }
        if self
            .history
            .received
            .last()
            .is_none_or(|(last, _)| *last != id)
        {
            if self.history.received.iter().any(|(known, _)| *known == id) {
                self.fault(format!("{id} spoke again after another server"));
            }
            self.history.received.push((id.clone(), 0));
        }
        let due = &mut self.history.received.last_mut().expect("just pushed").1;
        let expected = *due;
        *due = number.wrapping_add(1);
        if number != expected {
            self.fault(format!("{id}: message {number} came, {expected} was due"));
        }
    }

    /// The stamp of an echo; none for a push.
    fn check(&self, rest: &[u8], text: bool) -> Result<Option<Stamp>, String> {
        if let Some(push) = rest.strip_prefix(b"push ") {
            return if is_push(push) {
                Ok(None)
            } else {
                Err("a push was changed".to_owned())
            };
        }
        let stamp = verify(rest, text)?;
        let ours = stamp.run == self.stamp.run
            && stamp.session == self.stamp.session
            && stamp.sequence < self.stamp.sequence;
        if ours {
            Ok(Some(stamp))
        } else {
            Err(format!("not ours: {stamp:?}"))
        }
    }

    fn fault(&mut self, what: String) {
        // The first few say it all.
        if self.history.faults.len() < 5 {
            self.history.faults.push(what);
        }
    }

    fn over(&mut self, why: &Error) {
        if self.history.closed.is_none() {
            if !matches!(why, Error::ConnectionClosed) {
                self.fault(format!("ended: {why}"));
            }
            self.history.closed = Some(1006);
        }
    }

    /// Closes with 1000 and waits for the answer.
    fn leave(&mut self) {
        let frame = tungstenite::protocol::CloseFrame {
            code: 1000.into(),
            reason: "done".into(),
        };
        let _ = self.socket.close(Some(frame));
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.history.closed.is_none() {
            if Instant::now() > deadline {
                return self.fault("no answer to Close".to_owned());
            }
            self.flush();
            self.listen(Duration::from_millis(50));
        }
        if self.history.closed == Some(1000) {
            // Ours, answered: the proxy has closed nothing.
            self.history.closed = None;
        }
    }
}

fn would_block(why: &std::io::Error) -> bool {
    matches!(
        why.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// `<length> ` and so many bytes of the servers' pattern.
fn is_push(push: &[u8]) -> bool {
    let mut parts = push.splitn(2, |byte| *byte == b' ');
    let length = parts
        .next()
        .and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
    let body = parts.next().unwrap_or_default();
    let pattern = b"0123456789abcdefghijklmnopqrstuvwxyz".iter().cycle();
    length == Some(body.len()) && body.iter().zip(pattern).all(|(byte, due)| byte == due)
}
