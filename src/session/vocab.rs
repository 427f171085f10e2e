//! The words in which the world talks to a session and a session talks back: the story of the proxy
//! on one page.

use std::borrow::Cow;
use std::net::IpAddr;

use super::dialect::Heard;
use super::valve::Failure;
use crate::kit::Tick;

/// What happened to a session. Everything that it ever learns comes through here.
pub enum Event<'a> {
    // The client leg.
    /// Bytes from the client: first `kept` bytes of earlier reads, then what is new.
    ClientBytes { bytes: &'a [u8], kept: usize },
    /// The client's connection is gone.
    ClientLost(Loss),
    /// The kernel took all that was queued for the client.
    ClientDrained,

    // Finding an upstream.
    /// The session has a pool (see [`Session::join`](super::Session::join)); it waits for a server.
    Routed,
    /// The client is sent away before any server is asked.
    Denied { status: u16, reason: &'static str },
    /// A server was picked and is being dialled.
    Dialling { server: u16 },
    /// There is nobody to dial now.
    NoServer(Nobody),
    /// The pool's connect rate is used up: the shard dials when it is this session's turn.
    Queued,
    /// The connection to the server stands; its handshake is out.
    Connected,

    // The upstream leg.
    /// The dialect understood something of what the server sent: `bytes`, that begin `at` in the
    /// scratch buffer.
    Heard {
        heard: Heard,
        bytes: &'a [u8],
        at: usize,
    },
    /// The kernel took `count` bytes of the journal.
    Sent { count: usize },
    /// A Ping with this number has left completely.
    Pinged { number: u64 },
    /// Our Close to the server has left completely.
    Farewelled,
    /// The connection to the server is gone, or could not be had.
    UpstreamLost(Loss),

    // Clients of a bridge, and what the API pushes to them.
    /// The ClientId is this session's.
    Reserved,
    /// Somebody else has it.
    Taken,
    /// Somebody else gets it.
    Evicted,
    /// What became of the push that this connection has brought.
    Pushed(Pushed),
    /// Something of a request has left for the server: all that was handed on?
    Uploaded { all: bool },

    // Time and the operator.
    /// The alarm that the session asked for.
    Due,
    /// Leave this server as soon as another is usable.
    Move(Mover),
    /// Close the client with this code: wsteady stops, or an operator wants it.
    Stop(End),
}

/// What a session wants done. The shard does it when the session's borrow is over.
#[derive(Debug)]
pub enum Action {
    /// Find the pool for this request; answer with `Routed` or `Denied`.
    Route(Box<Asking>),
    /// Pick a server and dial it; answer with `Dialling`, `NoServer` or `Queued`.
    Dial,
    /// There is something to write to the client.
    FlushClient,
    /// There is something to write to the upstream.
    FlushUpstream,
    /// The client may be read again.
    ReadClient,
    /// Let go of the upstream.
    HangUpUpstream {
        /// The code of a Close that is tried once, where the frame boundary allows it.
        say: Option<u16>,
    },
    /// Send FIN to the client when all is written, and read no message from it any more.
    ShutClient,
    /// Let go of the client's connection; what is unwritten is lost.
    HangUpClient {
        /// By RST: without the rest, what it has got would seem to be all.
        cut: bool,
    },
    /// Come back with `Due` at this moment, or earlier.
    Alarm(Tick),
    /// Reserve the ClientId; answer with `Reserved` or `Taken`.
    Reserve,
    /// The ClientId is about to become free: who wants it waits.
    Leaving,
    /// The ClientId is free.
    Free,
    /// The call is over; its connection may be kept for others.
    Release { keep: bool },
    /// What the session has collected of a request's body goes to the server.
    Upload,
    /// Find the client of this id and push to it; answer with `Pushed`.
    Ask(Box<Push>),
    /// What the present server deserves: its breaker wants to know.
    Report(Verdict),
    /// For the log and the counters.
    Tell(Life),
    /// Both legs are gone, nothing is held: bury it.
    Bury,
}

/// What a client asked for, as far as a route needs to know.
#[derive(Debug)]
pub struct Asking {
    /// Path of the request target, without its query.
    pub path: String,
    /// `Host`, without its port, in lower case.
    pub host: String,
    /// It wants a WebSocket.
    pub upgrade: bool,
    /// Who sent it, where a trusted proxy says so and it matters.
    pub client: Option<IpAddr>,
}

/// Something from the API for one client.
#[derive(Clone, Debug)]
pub struct Push {
    /// The ClientId.
    pub id: Box<str>,
    pub verb: PushVerb,
    /// Another node asks: it is for a client of this one, or for nobody.
    pub is_hop: bool,
    /// The message, or the reason of the Close.
    pub body: Vec<u8>,
}

/// What the API wants of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushVerb {
    Message {
        binary: bool,
    },
    Close {
        code: u16,
    },
    /// A message for all whose id begins like this.
    Broadcast {
        binary: bool,
    },
    /// Whether it is there, and since when.
    Look,
}

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the client's queue.
    Done,
    /// Nobody of that name is connected.
    Unknown,
    /// The client's queue is full.
    Slow,
    /// It was no single client.
    Reached(Reached),
    /// What another node has answered, or why none could be asked.
    Elsewhere {
        /// 200 to 599.
        status: u16,
        /// `application/json`, or else text.
        json: bool,
        body: Box<str>,
    },
    Seen {
        session: u128,
        address: std::net::SocketAddr,
        connected_ms: u32,
        silent_ms: u32,
        messages_up: u64,
        messages_down: u64,
    },
}

impl Pushed {
    /// What whoever pushes is told, as HTTP has it: the status, whether the body is JSON, the body.
    pub fn spoken(&self) -> (u16, bool, Cow<'_, str>) {
        match self {
            Pushed::Done => (200, false, "ok".into()),
            Pushed::Unknown => (404, false, "not connected\n".into()),
            Pushed::Slow => (503, false, "the client is too slow\n".into()),
            Pushed::Elsewhere { status, json, body } => (*status, *json, Cow::Borrowed(body)),
            Pushed::Reached(Reached {
                clients,
                slow,
                unasked,
            }) => {
                let json = format!(
                    "{{\"clients\":{clients},\"slow\":{slow},\"unasked_nodes\":{unasked}}}\n"
                );
                (200, true, json.into())
            }
            Pushed::Seen {
                session,
                address,
                connected_ms,
                silent_ms,
                messages_up,
                messages_down,
            } => {
                // Numbers and an address: nothing here needs escaping.
                let json = format!(
                    "{{\"session\":\"{session:032x}\",\"address\":\"{address}\",\"connected_seconds\":{:.3},\
                     \"last_message_seconds\":{:.3},\"messages_up\":{messages_up},\"messages_down\":{messages_down}}}\n",
                    f64::from(*connected_ms) / 1e3,
                    f64::from(*silent_ms) / 1e3,
                );
                (200, true, json.into())
            }
        }
    }
}

/// Whom a broadcast has reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// It is in the queues of so many.
    pub clients: u64,
    /// So many have a full queue, and don't get it.
    pub slow: u64,
    /// Other nodes that could not be asked.
    pub unasked: u64,
}

impl Reached {
    /// And those.
    pub fn add(&mut self, more: Reached) {
        self.clients += more.clients;
        self.slow += more.slow;
        self.unasked += more.unasked;
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// FIN without a Close.
    Fin,
    /// RST, or any error of the socket.
    Reset,
    /// The peer broke the protocol.
    Protocol,
    /// The server's Close with an abnormal code.
    Close(u16),
    /// Nothing was heard within the deadline.
    Silent,
    /// The connection could not be made.
    Refused,
    /// It was not made in time.
    TimedOut,
    /// No local port or descriptor was left: nobody's fault but ours.
    Exhausted,
    /// The operator moved the session.
    Moved,
}

impl Loss {
    /// The `reason` label of `wsteady_failovers_total`.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Fin => "fin",
            Loss::Reset => "reset",
            Loss::Protocol => "protocol",
            Loss::Close(_) => "close",
            Loss::Silent => "silent",
            Loss::Refused => "refused",
            Loss::TimedOut => "timeout",
            Loss::Exhausted => "exhausted",
            Loss::Moved => "moved",
        }
    }

    /// Whether the first unconfirmed message may be to blame (CONTRACT 2, poison).
    pub(crate) fn may_be_poison(self) -> bool {
        matches!(
            self,
            Loss::Fin | Loss::Reset | Loss::Protocol | Loss::Close(1011)
        )
    }
}

/// Why nobody was dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// Every server that may be used was tried in this round.
    AllTried,
    /// There are servers, but none may be used now.
    NoneUsable,
    /// The pool has no server, or takes no new clients.
    Empty,
    /// All connections are taken, and enough wait for one.
    Busy,
}

/// Who wants a session to leave its server, and how much patience there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mover {
    /// Its server is draining or was deleted.
    Drain,
    /// An operator's `failover`: a second, then it is cut.
    Failover,
}

/// What a server showed of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A correct handshake.
    Success,
    /// 5xx, a failed handshake, a reset, a time-out.
    Failure,
    /// A connection that stood was lost: counts once a second, however many sessions it carried.
    LostConnection,
}

/// Why a session is over, for the log, the counters and the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client closed.
    ClientClosed,
    /// The client's connection broke.
    ClientLost,
    /// The client broke the protocol; the code says how.
    ClientFault(u16),
    /// The client was silent past its deadline.
    ClientSilent,
    /// The server closed, and meant it.
    ServerClosed,
    /// The server died inside a message that was already on its way to the client.
    ServerCut,
    /// No server within `session.hold`.
    Hold,
    /// Every server refused on reconnect.
    Refused,
    /// A message that killed `replay_attempts` servers.
    Poison,
    /// More than ten protocol errors of servers in a minute.
    ServerFaults,
    /// `session.overflow: close`.
    Overflow,
    /// `processed`: nothing confirmed for `hold` while the journal was full.
    Unprocessed,
    /// The bound of all memory was reached and this session was the largest.
    Memory,
    /// The API has closed this client.
    Dismissed,
    /// Another client has come with this ClientId.
    Replaced,
    /// A valve has closed it.
    Valve,
    /// A valve did what it must not.
    ValveFailed,
    /// wsteady stops.
    Shutdown,
    /// An operator ended it.
    Aborted,
    /// The client was refused before a server was asked, or by the servers: no session began.
    Denied,
    /// A mistake of ours.
    Fault,
}

impl End {
    /// The `reason` of `wsteady_messages_unconfirmed_total` and of the log line.
    pub fn name(self) -> &'static str {
        match self {
            End::ClientClosed => "client_closed",
            End::ClientLost => "client_lost",
            End::ClientFault(_) => "client_fault",
            End::ClientSilent => "client_silent",
            End::ServerClosed => "server_closed",
            End::ServerCut => "server_cut",
            End::Hold => "hold",
            End::Refused => "refused",
            End::Poison => "poison",
            End::ServerFaults => "server_faults",
            End::Overflow => "overflow",
            End::Unprocessed => "unprocessed",
            End::Memory => "memory",
            End::Dismissed => "dismissed",
            End::Replaced => "replaced",
            End::Valve => "valve",
            End::ValveFailed => "valve_failed",
            End::Shutdown => "shutdown",
            End::Aborted => "aborted",
            End::Denied => "denied",
            End::Fault => "fault",
        }
    }

    /// All reasons, so that each is in the metrics from the start.
    pub const ALL: [End; 21] = [
        End::ClientClosed,
        End::ClientLost,
        End::ClientFault(1002),
        End::ClientSilent,
        End::ServerClosed,
        End::ServerCut,
        End::Hold,
        End::Refused,
        End::Poison,
        End::ServerFaults,
        End::Overflow,
        End::Unprocessed,
        End::Memory,
        End::Dismissed,
        End::Replaced,
        End::Valve,
        End::ValveFailed,
        End::Shutdown,
        End::Aborted,
        End::Denied,
        End::Fault,
    ];

    /// Place in [`End::ALL`].
    pub fn index(self) -> usize {
        End::ALL
            .iter()
            .position(|end| end.name() == self.name())
            .unwrap_or(0)
    }

    /// What the client is told; empty where there is nothing to add to the code.
    pub fn says(self) -> &'static str {
        self.close().1
    }

    /// The Close that tells the client (RFC 6455 7.4.1), where there is one to send.
    pub(crate) fn close(self) -> (u16, &'static str) {
        match self {
            End::ClientClosed | End::ServerClosed | End::Aborted | End::Dismissed => (1000, ""),
            End::Replaced => (4409, "replaced"),
            End::ClientLost | End::ClientSilent | End::Denied => (1001, ""),
            End::ClientFault(code) => (code, ""),
            End::ServerCut => (1011, "server lost inside a message"),
            End::Hold => (1013, "no server within hold time"),
            End::Refused => (1008, "refused on reconnect"),
            End::Poison => (1011, "message not accepted by any server"),
            End::ServerFaults => (1011, "servers break the protocol"),
            End::Overflow => (1013, "buffer full"),
            End::Unprocessed => (1013, "nothing processed within hold time"),
            End::Memory => (1013, "memory"),
            // The valve's own words stand in its verdict.
            End::Valve => (1000, ""),
            End::ValveFailed => (1011, "valve failed"),
            End::Shutdown => (1001, "shutting down"),
            End::Fault => (1011, "internal error"),
        }
    }
}

/// The events in a session's life that an operator reads in the log. One line each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The client got its 101.
    Opened,
    /// The upstream is gone; the session waits for the next.
    Lost(Loss),
    /// An attempt at a server failed.
    Failed(Loss),
    /// The next server has it: after so long, with so many messages sent again.
    Resumed { held_ms: u32, replayed: u32 },
    /// No server has it any more: it waited so long for the next one, or could not wait.
    GivenUp { held_ms: u32 },
    /// A valve did what it must not: the session is being closed.
    ValveFailed(Failure),
    /// The client was turned away with this HTTP status.
    Denied { status: u16 },
    /// It is over; so many messages were never confirmed.
    Ended { end: End, unconfirmed: u32 },
}

/// What confirms a message (CONTRACT 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirm {
    /// The kernel took it.
    Written,
    /// The Pong of a barrier.
    #[default]
    Received,
    /// The application said so.
    Processed,
}

/// What the servers of a pool are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// They speak WebSocket: one leg for a session.
    #[default]
    WebSocket,
    /// An HTTP API: one call for a message.
    Bridge,
    /// They serve plain HTTP requests.
    Http,
}

/// What the servers of a pool speak, where calls are made.
#[derive(Clone, Debug, Default)]
pub enum Api {
    #[default]
    Http,
    #[cfg(feature = "nats")]
    Nats(std::sync::Arc<super::dialect::nats::NatsTerms>),
}

/// How sessions of one pool behave. Times in milliseconds, sizes in bytes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the servers are.
    pub kind: Kind,
    /// What its servers speak, where calls are made.
    pub api: Api,
    /// For the complete answer to a call, once its connection stands.
    pub response: u32,
    /// What a request gets for which there is no connection and no place in the queue: 503, or 429.
    pub full_status: u16,
    /// A second client with an id that is connected takes its place, and is not sent away.
    pub replace: bool,
    /// A new message is begun only below this.
    pub buffer: usize,
    /// How long a session may be without a server.
    pub hold: u32,
    /// How long a first connect may take.
    pub admit: u32,
    /// What confirms a message.
    pub confirm: Confirm,
    /// At a bound: close with 1013 instead of reading no more.
    pub overflow_close: bool,
    /// Downward messages up to this are delivered whole or not at all.
    pub atomic: usize,
    /// So many losses one message may cost.
    pub replay_attempts: u8,
    /// A barrier goes out this long after the first unconfirmed message,
    pub barrier_delay: u32,
    /// or when so much is unconfirmed.
    pub barrier_bytes: usize,
    /// Tells a server that this client had another one before.
    pub reconnect_header: String,
    /// Close codes of a server that mean failover.
    pub abnormal: Vec<u16>,
    /// Response headers of the server that the client gets with its 101.
    pub pass_headers: Vec<String>,
    /// Request headers that no server gets.
    pub block_headers: Vec<String>,
    /// For the TCP connection to a server.
    pub connect: u32,
    /// For its 101.
    pub handshake: u32,
    /// After so much silence a leg gets a Ping,
    pub ping: u32,
    /// and after so much more it is dead.
    pub pong: u32,
    /// For the other side's Close.
    pub close: u32,
}

impl Default for Settings {
    /// The defaults of the configuration.
    fn default() -> Settings {
        Settings {
            kind: Kind::WebSocket,
            api: Api::Http,
            response: 60_000,
            full_status: 503,
            replace: false,
            buffer: 5 << 20,
            hold: 30_000,
            admit: 5_000,
            confirm: Confirm::Received,
            overflow_close: false,
            atomic: 64 << 10,
            replay_attempts: 3,
            barrier_delay: 50,
            barrier_bytes: 64 << 10,
            reconnect_header: "X-Balancer-Reconnect".to_string(),
            abnormal: vec![1001, 1005, 1006, 1011, 1012, 1013],
            pass_headers: vec!["Set-Cookie".to_string()],
            block_headers: Vec::new(),
            connect: 2_000,
            handshake: 10_000,
            ping: 30_000,
            pong: 10_000,
            close: 5_000,
        }
    }
}

/// What holds for all clients, whatever their pool.
// No Debug: it holds a secret.
#[derive(Clone)]
pub struct House {
    /// Bytes of a request head.
    pub header_max: usize,
    /// Bytes of one message.
    pub message_max: u64,
    /// Frames of one message.
    pub fragments_max: u32,
    /// For the request head, in ms.
    pub handshake: u32,
    /// For one message, in ms.
    pub message_time: u32,
    /// Pings a second and client, after a burst of twice as many.
    pub pings: u32,
    /// Connections of one client address. 0: any number.
    pub per_address: u32,
    /// Bytes a second that a plain request's client must send of its body on average. 0: any.
    pub min_rate: u32,
    /// If not empty: only these Origins may come in.
    pub origins: Vec<String>,
    /// Peers whose forwarding headers are believed.
    pub trusted: Vec<ipnet::IpNet>,
    /// What stands before the ClientId in a push; begins and ends with a slash.
    pub push_path: String,
    /// Who may push, beside loopback and the APIs.
    pub push_allow: Vec<ipnet::IpNet>,
    /// Where the APIs are now; the shard's own, as its fleet has them.
    pub push_apis: Vec<IpAddr>,
    /// Asked of every push, if set.
    pub push_token: Option<String>,
    /// Whose pushes are another node's, passed on. `None`: nobody's.
    pub hop: Option<Hop>,
}

/// What a node has to know of the others of its cluster.
#[derive(Clone)]
pub struct Hop {
    /// What the others know this node by.
    pub mark: String,
    /// Asked of every push that is passed on, if set.
    pub token: Option<String>,
    /// Without a token: where the others are.
    pub peers: Vec<IpAddr>,
}

impl House {
    /// Whether forwarding headers of this peer are believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&peer))
    }

    /// Whether pushes are taken from there.
    pub fn takes_pushes_from(&self, source: IpAddr) -> bool {
        source.is_loopback()
            || self.push_apis.contains(&source)
            || self.push_allow.iter().any(|net| net.contains(&source))
    }
}

impl Default for House {
    /// The defaults of the configuration.
    fn default() -> House {
        House {
            header_max: 16 << 10,
            message_max: 16 << 20,
            fragments_max: 100_000,
            handshake: 10_000,
            message_time: 60_000,
            pings: 100,
            per_address: 0,
            min_rate: 500,
            origins: Vec::new(),
            trusted: Vec::new(),
            push_path: "/".to_string(),
            push_allow: Vec::new(),
            push_apis: Vec::new(),
            push_token: None,
            hop: None,
        }
    }
}

/// Counts of one pool on one loop. Plain numbers: they leave the loop as one copy.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Complete messages from clients, and to clients.
    pub messages_up: u64,
    /// Complete messages delivered downwards.
    pub messages_down: u64,
    /// Messages that servers confirmed.
    pub confirmed: u64,
    /// Messages now held; a gauge.
    pub journaled: u64,
    /// Messages sent once more to another server.
    pub replayed: u64,
    /// Messages that ended unconfirmed, by [`End::index`].
    pub unconfirmed: [u64; End::ALL.len()],
    /// Sessions that wait for a server now; a gauge.
    pub held: u64,
    /// Sizes of messages from clients and to them, in bytes of payload.
    pub sizes_up: Sizes,
    pub sizes_down: Sizes,
    /// Sessions of a bridge now, a gauge; and all that there have been.
    pub bridged: u64,
    pub bridged_total: u64,
    /// Calls begun, and how they ended; and how long they took.
    pub requests_started: u64,
    pub requests_failed: u64,
    pub requests_succeeded: u64,
    pub request_times: Times,
    /// Messages shown to valves, by what came of it, as in [`VERDICTS`](super::valve::VERDICTS).
    pub verdicts: [u64; super::valve::VERDICTS.len()],
    /// Lost upstreams, by reason.
    pub failovers: std::collections::BTreeMap<&'static str, u64>,
}

/// A histogram of times: bucket n counts those of at most 2^n ms, the last one all others.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// 1 ms to 65 s, and beyond.
    pub buckets: [u64; 18],
    /// Sum of all, in ms.
    pub sum: u64,
}

impl Times {
    /// Counts one, in ms.
    #[inline]
    pub fn record(&mut self, ms: u64) {
        let bits = 64 - ms.saturating_sub(1).leading_zeros() as usize;
        self.buckets[bits.min(17)] += 1;
        self.sum += ms;
    }

    /// The upper bounds of all buckets but the last, in ms.
    pub fn bounds() -> impl Iterator<Item = u64> {
        (0..17).map(|bits| 1 << bits)
    }
}

/// A histogram of sizes: bucket n counts messages of at most 2^(n+4) bytes, the last one all others.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    /// 16 bytes to 1 MiB, and beyond.
    pub buckets: [u64; 18],
    /// Sum of all sizes.
    pub sum: u64,
}

impl Sizes {
    /// Counts one message.
    #[inline]
    pub fn record(&mut self, bytes: u64) {
        let bits = 64 - bytes.saturating_sub(1).leading_zeros() as usize;
        self.buckets[bits.saturating_sub(4).min(17)] += 1;
        self.sum += bytes;
    }

    /// The upper bounds of all buckets but the last.
    pub fn bounds() -> impl Iterator<Item = u64> {
        (4..21).map(|bits| 1 << bits)
    }
}
