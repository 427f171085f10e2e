//! The configuration as plain data: one struct per section of the file, every default resolved.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
#[cfg(feature = "tls")]
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::ServerUrl;
use crate::shard;

/// All that the operator chose. `Config::default()` has no pool, and is therefore the one value
/// here that the checks would not let pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses for clients, at least one.
    pub listen: Vec<ListenConfig>,
    pub admin: AdminConfig,
    pub loops: Loops,
    /// First match wins. Empty: every request goes to the pool whose kind wants it.
    pub routes: Vec<RouteConfig>,
    /// In the file's order; names and server ids are unique.
    pub pools: Vec<PoolConfig>,
    /// The global session settings. What counts for a session is its pool's own copy.
    pub session: SessionConfig,
    /// Peers whose `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Allowed values of `Origin`, in lower case. Empty: all.
    pub origins: Vec<String>,
    pub limits: LimitsConfig,
    pub push: PushConfig,
    /// `None`: this node is alone.
    pub cluster: Option<ClusterConfig>,
    /// Time over which a stop spreads the closing of its sessions.
    pub drain: Duration,
    pub log: LogConfig,
    pub metrics: MetricsConfig,
}

/// One address on which clients are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// Port 0 takes any free one.
    pub address: SocketAddr,
    /// `None`: in the clear.
    #[cfg(feature = "tls")]
    pub tls: Option<ListenTlsConfig>,
    /// Connections begin with a PROXY header, and only `trusted_proxies` may connect.
    pub proxy_protocol: bool,
}

/// How clients of an address are met under TLS.
#[cfg(feature = "tls")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTlsConfig {
    /// At least one. The first is for clients who ask for no name that another has.
    pub certificates: Vec<CertificateConfig>,
    /// Authorities of clients' certificates. `None`: clients are asked for none.
    pub client_ca: Option<PathBuf>,
    pub client_auth: ClientAuth,
    pub min_version: TlsVersion,
}

/// A certificate and its private key, in PEM files.
#[cfg(feature = "tls")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateConfig {
    /// With those behind it that lead to its authority.
    pub cert: PathBuf,
    /// May be the same file.
    pub key: PathBuf,
}

/// Whether a client needs a certificate, where there is a `client_ca`.
#[cfg(feature = "tls")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    #[default]
    Require,
    /// Without one it is let in, too; with a wrong one it is not.
    Optional,
}

/// The oldest version of TLS that is spoken.
#[cfg(feature = "tls")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    #[default]
    Tls12,
    Tls13,
}

/// How servers are dialled whose URL asks for TLS.
#[cfg(feature = "tls")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolTlsConfig {
    /// Authorities of servers. `None`: those that this machine believes.
    pub ca: Option<PathBuf>,
    /// What servers are shown.
    pub client: Option<CertificateConfig>,
    /// In the place of the URL's host, as a name to ask for and to be found in the certificate.
    pub server_name: Option<String>,
    /// Whatever a server shows is believed.
    pub insecure_skip_verify: bool,
    pub min_version: TlsVersion,
}

/// The operator's own address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    pub address: SocketAddr,
    /// Asked of every request if set; never absent for an address that is not loopback.
    pub token: Option<Secret>,
    /// `None`: in the clear.
    #[cfg(feature = "tls")]
    pub tls: Option<ListenTlsConfig>,
}

/// A value that no log, no `check` and no debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// How many loops (threads that carry sessions) run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loops {
    /// One per core.
    #[default]
    Auto,
    Count(usize),
}

/// Which requests go to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteConfig {
    /// A prefix of whole segments, without a slash at its end but for `/` itself.
    pub path: String,
    /// The `Host` header's name, in lower case and without port. `None`: any.
    pub host: Option<String>,
    /// `Some(true)`: upgrades alone. `Some(false)`: plain requests alone. `None`: both.
    pub upgrade: Option<bool>,
    pub pool: String,
}

/// Servers that can stand in for each other, and how sessions are kept on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    pub name: String,
    pub kind: PoolKind,
    /// May be empty: servers can be added while wsteady runs.
    pub servers: Vec<ServerConfig>,
    pub balance: Balance,
    /// What `balance: hash` goes by.
    pub hash: HashBy,
    pub target: Target,
    /// `None`: nothing is probed.
    pub health: Option<HealthConfig>,
    pub breaker: BreakerConfig,
    /// Reconnects a second, for the whole process.
    pub connect_rate: u32,
    /// Close codes of a server that mean failover, ascending.
    pub abnormal_close_codes: Vec<u16>,
    /// Response headers of the server that the client gets.
    pub pass_headers: Vec<String>,
    /// Request headers of the client that the server doesn't get.
    pub block_headers: Vec<String>,
    pub timeouts: TimeoutsConfig,
    /// Local addresses to dial from. Empty: the kernel chooses.
    pub source_addresses: Vec<IpAddr>,
    /// For servers whose URL asks for TLS. `None`: all at its default.
    #[cfg(feature = "tls")]
    pub tls: Option<PoolTlsConfig>,
    /// With this header connections to servers begin.
    pub proxy_protocol: Option<ProxyHeader>,
    /// How often server names are resolved again. Zero: never.
    pub dns: Duration,
    /// `None` in a WebSocket pool, where each session has a connection of its own.
    pub connections: Option<ConnectionsConfig>,
    /// What only a pool of kind nats has.
    #[cfg(feature = "nats")]
    pub nats: NatsConfig,
    /// The global settings with this pool's own keys laid over them.
    pub session: SessionConfig,
}

/// How NATS servers are spoken to.
#[cfg(feature = "nats")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsConfig {
    /// What stands before the ClientId in subjects.
    pub prefix: String,
    /// A message counts when a stream has acknowledged it.
    pub jetstream: bool,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub token: Option<Secret>,
}

/// What the servers of a pool are, and so which requests they want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolKind {
    /// They speak WebSocket and take upgrades.
    #[default]
    Websocket,
    /// An HTTP API behind WebSocket clients: takes upgrades, which become calls.
    Bridge,
    /// HTTP servers: take what is no upgrade.
    Http,
    /// A bridge whose calls are messages of NATS.
    #[cfg(feature = "nats")]
    Nats,
}

/// How a server is told for whom a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// One upstream URL, not yet resolved to addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    pub url: ServerUrl,
    /// Unique over all pools.
    pub id: String,
    /// Its share relative to the others'. 0: no new sessions.
    pub weight: u32,
}

/// How a server is chosen for a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    #[default]
    RoundRobin,
    Random,
    LeastConnections,
    /// The same for the same client, by [`HashBy`].
    Hash,
    /// In turn, by what health answers say is free.
    Adaptive,
}

/// What tells clients apart under `balance: hash`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashBy {
    /// The path's first segment.
    #[default]
    Id,
    Address,
    /// A request header.
    Header(String),
}

/// How servers are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// What is asked for, as it is.
    pub path: String,
    /// From the end of one probe to the next.
    pub interval: Duration,
    /// For a whole probe; not longer than `interval`.
    pub timeout: Duration,
    /// Good probes in a row that make a server healthy, …
    pub rise: u8,
    /// … and bad ones that make it unhealthy.
    pub fall: u8,
    pub expect: Expect,
}

/// What a good probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// A 2xx.
    Status,
    /// A 2xx with JSON whose `status` is 200.
    JsonStatus,
    /// A connection.
    Tcp,
    /// A correct upgrade; only in a WebSocket pool.
    Websocket,
}

/// What a server is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// The server's URL with the client's path and query behind it.
    #[default]
    Append,
    /// The server's URL as it is.
    Fixed,
}

/// When a server that keeps failing is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open it.
    pub threshold: u32,
    /// Time until one trial is let through.
    pub cooldown: Duration,
}

/// How many connections to one server the whole process keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionsConfig {
    /// So many stay, however idle.
    pub min: u32,
    /// At least 1, and at least `min`.
    pub max: u32,
    /// The others are closed after so much rest.
    pub idle: Duration,
    /// Requests that may wait for one. `None` in a bridge, whose messages wait in journals.
    pub queue: Option<u32>,
    /// What a request gets that may not wait: 503, or 429 as older proxies have it.
    pub full_status: u16,
}

/// How long each step may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutsConfig {
    /// Until a server's TCP connection stands.
    pub connect: Duration,
    /// From then until its 101.
    pub handshake: Duration,
    /// Until a bridge's or an HTTP server's answer is complete.
    pub response: Duration,
    /// Silence of a leg before it gets a Ping.
    pub ping: Duration,
    /// Silence after that before the leg is dead.
    pub pong: Duration,
    /// Until a closing connection is cut off.
    pub close: Duration,
}

/// How a session survives its servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Bytes a session may hold before it begins no new message.
    pub buffer: u64,
    /// Time a session waits for a server after it lost one.
    pub hold: Duration,
    /// Time a client waits for its first server.
    pub admit: Duration,
    pub confirm: Confirm,
    pub overflow: Overflow,
    /// Bytes up to which a server's message is collected before the client sees any of it.
    pub atomic: u64,
    /// Servers that one message may take down before it is not sent again.
    pub replay_attempts: u32,
    pub barrier: BarrierConfig,
    pub on_duplicate: OnDuplicate,
    /// The header that tells a server of a reconnect; always sent with value `1`.
    pub reconnect_header: String,
}

/// When a server is asked how far it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierConfig {
    /// This long after the first unconfirmed message, …
    pub delay: Duration,
    /// … or after so many unconfirmed bytes.
    pub bytes: u64,
}

/// What counts as delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confirm {
    /// Handed to the server's connection: at most once.
    Written,
    /// The server's WebSocket layer answered a Ping behind it: at least once.
    #[default]
    Received,
    /// The server's application said so: at least once.
    Processed,
}

/// What happens to a client whose session or wsteady is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Its connection is not read until there is room.
    #[default]
    Pause,
    /// It is closed with 1013.
    Close,
}

/// What happens when a client comes to a bridge with a ClientId that is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDuplicate {
    /// The new client is closed with 1008.
    #[default]
    Reject,
    /// The old client is closed with 4409.
    Replace,
}

/// Bounds on what clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Bytes of all journals and queues together.
    pub memory: u64,
    /// Client connections.
    pub connections: u32,
    /// Client connections from one address. 0: no limit.
    pub per_address: u32,
    /// Bytes of a request's head.
    pub header: u64,
    /// Bytes of a client's message.
    pub message: u64,
    /// Time until a client's request head is complete.
    pub handshake: Duration,
    /// Bytes of each socket's kernel buffers. 0: the kernel tunes them.
    pub socket_buffer: u64,
    /// Fragments of one message.
    pub fragments: u32,
    /// Time for one message from its first byte to its last.
    pub message_time: Duration,
    /// Pings a second from a client, after a burst of 200.
    pub pings: u32,
    /// Bytes a second that the client of a plain request must send of its body. 0: any.
    pub min_rate: u32,
}

/// How the APIs behind bridges reach their clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushConfig {
    /// What stands before the ClientId; begins and ends with a slash.
    pub path: String,
    /// Who may push, beside loopback and the servers of bridges.
    pub allow: Vec<IpNet>,
    /// Asked of every push if set.
    pub token: Option<Secret>,
}

/// The other nodes, which may have clients that pushes are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Where they take pushes; this node may be among them.
    pub peers: Vec<PeerConfig>,
    /// In their place: where all of them meet.
    #[cfg(feature = "nats")]
    pub bus: Option<BusConfig>,
    /// Shown to them, and asked of them. `None` only if no peer is a name.
    pub token: Option<Secret>,
    /// For an answer of a node.
    pub timeout: Duration,
    /// How often names of peers are resolved again. Zero: never.
    pub dns: Duration,
}

/// NATS servers over which the nodes of a cluster ask each other.
#[cfg(feature = "nats")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusConfig {
    /// Tried in turn.
    pub nats: Vec<PeerConfig>,
    /// What stands before all subjects; the same on all nodes.
    pub prefix: String,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub token: Option<Secret>,
}

/// One address, or all that a name has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// A name in lower case, or an address; an IPv6 address stands without its brackets.
    pub host: String,
    pub port: u16,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    pub level: LogLevel,
    pub format: LogFormat,
}

/// What a scrape shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsConfig {
    /// The names of wsbalancer's and ws2api's metrics beside wsteady's own.
    pub legacy_names: bool,
}

/// The least important line that is still written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    /// Compiled out of release builds.
    Trace,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The value itself, for comparing.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(***)")
    }
}

impl ListenConfig {
    /// Clients in the clear, who come by themselves.
    pub fn new(address: SocketAddr) -> ListenConfig {
        ListenConfig {
            address,
            #[cfg(feature = "tls")]
            tls: None,
            proxy_protocol: false,
        }
    }

    /// Whether connections begin with a request.
    pub(super) fn is_plain(&self) -> bool {
        #[cfg(feature = "tls")]
        let sealed = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let sealed = false;
        !sealed && !self.proxy_protocol
    }
}

#[cfg(feature = "tls")]
impl ListenTlsConfig {
    /// With this certificate alone, and clients without any.
    pub fn new(certificate: CertificateConfig) -> ListenTlsConfig {
        ListenTlsConfig {
            certificates: vec![certificate],
            client_ca: None,
            client_auth: ClientAuth::default(),
            min_version: TlsVersion::default(),
        }
    }
}

impl AdminConfig {
    /// Whether nobody gets in without a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        #[cfg(feature = "tls")]
        let asks = |tls: &ListenTlsConfig| {
            tls.client_ca.is_some() && tls.client_auth == ClientAuth::Require
        };
        #[cfg(feature = "tls")]
        let asks = self.tls.as_ref().is_some_and(asks);
        #[cfg(not(feature = "tls"))]
        let asks = false;
        asks
    }
}

impl Loops {
    /// The number of loops on this machine, at least one.
    pub fn count(self) -> usize {
        match self {
            Loops::Auto => std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            Loops::Count(count) => count,
        }
    }
}

impl Config {
    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<&PoolConfig> {
        self.pools.iter().find(|pool| pool.name == name)
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: vec![ListenConfig::new((Ipv4Addr::UNSPECIFIED, 8080).into())],
            admin: AdminConfig {
                address: (Ipv4Addr::LOCALHOST, 8081).into(),
                token: None,
                #[cfg(feature = "tls")]
                tls: None,
            },
            loops: Loops::Auto,
            routes: Vec::new(),
            pools: Vec::new(),
            session: SessionConfig::default(),
            trusted_proxies: Vec::new(),
            origins: Vec::new(),
            limits: LimitsConfig::default(),
            push: PushConfig::default(),
            cluster: None,
            drain: Duration::from_secs(30),
            log: LogConfig::default(),
            metrics: MetricsConfig::default(),
        }
    }
}

impl PeerConfig {
    /// The address, if it is no name.
    pub fn literal(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }
}

impl Default for ClusterConfig {
    fn default() -> ClusterConfig {
        ClusterConfig {
            peers: Vec::new(),
            #[cfg(feature = "nats")]
            bus: None,
            token: None,
            timeout: Duration::from_secs(1),
            dns: Duration::from_secs(5),
        }
    }
}

#[cfg(feature = "nats")]
impl Default for BusConfig {
    fn default() -> BusConfig {
        BusConfig {
            nats: Vec::new(),
            prefix: "wsteady".to_string(),
            user: None,
            password: None,
            token: None,
        }
    }
}

impl fmt::Display for PeerConfig {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.literal() {
            Some(address) => write!(to, "{address}"),
            None => write!(to, "{}:{}", self.host, self.port),
        }
    }
}

impl PoolConfig {
    /// An empty pool with every other key at its default.
    pub fn new(name: impl Into<String>, kind: PoolKind, session: SessionConfig) -> PoolConfig {
        PoolConfig {
            name: name.into(),
            kind,
            servers: Vec::new(),
            balance: Balance::RoundRobin,
            hash: HashBy::Id,
            target: Target::Append,
            health: None,
            breaker: BreakerConfig::default(),
            connect_rate: 5000,
            abnormal_close_codes: vec![1001, 1005, 1006, 1011, 1012, 1013],
            pass_headers: Vec::new(),
            block_headers: Vec::new(),
            timeouts: TimeoutsConfig::default(),
            source_addresses: Vec::new(),
            #[cfg(feature = "tls")]
            tls: None,
            proxy_protocol: None,
            dns: Duration::from_secs(30),
            connections: kind.connections(),
            #[cfg(feature = "nats")]
            nats: NatsConfig::default(),
            session,
        }
    }
}

impl PoolKind {
    /// Whether upgrades without a route come here; else plain requests do.
    pub fn wants_upgrades(self) -> bool {
        match self {
            PoolKind::Websocket => true,
            PoolKind::Http => false,
            _ => self.is_bridge(),
        }
    }

    /// Whether a client's messages become calls, and others may push to it.
    pub fn is_bridge(self) -> bool {
        match self {
            PoolKind::Websocket | PoolKind::Http => false,
            PoolKind::Bridge => true,
            #[cfg(feature = "nats")]
            PoolKind::Nats => true,
        }
    }

    /// What `health` is but for the keys that are given.
    pub(super) fn health(self) -> HealthConfig {
        HealthConfig {
            path: "/healthCheck".into(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            rise: 1,
            fall: 2,
            expect: match self {
                PoolKind::Websocket => Expect::Websocket,
                PoolKind::Bridge | PoolKind::Http => Expect::Status,
                #[cfg(feature = "nats")]
                PoolKind::Nats => Expect::Tcp,
            },
        }
    }

    /// What `connections` is unless it is given.
    fn connections(self) -> Option<ConnectionsConfig> {
        let shared = |max, idle, queue| ConnectionsConfig {
            min: 1,
            max,
            idle: Duration::from_secs(idle),
            queue,
            full_status: 503,
        };
        match self {
            PoolKind::Websocket => None,
            PoolKind::Bridge => Some(shared(1000, 30, None)),
            PoolKind::Http => Some(shared(3, 3, Some(10))),
            #[cfg(feature = "nats")]
            PoolKind::Nats => Some(shared(1000, 30, None)),
        }
    }
}

#[cfg(feature = "nats")]
impl Default for NatsConfig {
    fn default() -> NatsConfig {
        NatsConfig {
            prefix: "wsteady".into(),
            jetstream: false,
            user: None,
            password: None,
            token: None,
        }
    }
}

impl Default for BreakerConfig {
    fn default() -> BreakerConfig {
        BreakerConfig {
            threshold: 10,
            cooldown: Duration::from_secs(10),
        }
    }
}

impl Default for TimeoutsConfig {
    fn default() -> TimeoutsConfig {
        TimeoutsConfig {
            connect: Duration::from_secs(2),
            handshake: Duration::from_secs(10),
            response: Duration::from_secs(60),
            ping: Duration::from_secs(30),
            pong: Duration::from_secs(10),
            close: Duration::from_secs(5),
        }
    }
}

impl Default for SessionConfig {
    fn default() -> SessionConfig {
        SessionConfig {
            buffer: 5 << 20,
            hold: Duration::from_secs(30),
            admit: Duration::from_secs(5),
            confirm: Confirm::Received,
            overflow: Overflow::Pause,
            atomic: 64 << 10,
            replay_attempts: 3,
            barrier: BarrierConfig::default(),
            on_duplicate: OnDuplicate::Reject,
            reconnect_header: "X-Balancer-Reconnect".into(),
        }
    }
}

impl Default for BarrierConfig {
    fn default() -> BarrierConfig {
        BarrierConfig {
            delay: Duration::from_millis(50),
            bytes: 64 << 10,
        }
    }
}

impl Default for PushConfig {
    fn default() -> PushConfig {
        PushConfig {
            path: "/".into(),
            allow: Vec::new(),
            token: None,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> LimitsConfig {
        LimitsConfig {
            memory: shard::MEMORY,
            connections: shard::CONNECTIONS,
            per_address: 0,
            header: 16 << 10,
            message: 16 << 20,
            handshake: Duration::from_secs(10),
            socket_buffer: 0,
            fragments: 100_000,
            message_time: Duration::from_secs(60),
            pings: 100,
            min_rate: 500,
        }
    }
}

/// A choice by word: the words as the file has them, so that reading, explaining and the error
/// that lists them can't disagree.
pub(super) trait Words: Copy + PartialEq + 'static {
    const WORDS: &'static [(&'static str, Self)];

    fn word(self) -> &'static str {
        let found = Self::WORDS.iter().find(|(_, value)| *value == self);
        found.expect("every variant stands in WORDS").0
    }
}

impl Words for PoolKind {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("websocket", PoolKind::Websocket),
        ("bridge", PoolKind::Bridge),
        ("http", PoolKind::Http),
        #[cfg(feature = "nats")]
        ("nats", PoolKind::Nats),
    ];
}

impl Words for Balance {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round-robin", Balance::RoundRobin),
        ("random", Balance::Random),
        ("least-connections", Balance::LeastConnections),
        ("hash", Balance::Hash),
        ("adaptive", Balance::Adaptive),
    ];
}

impl Words for Expect {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("status", Expect::Status),
        ("json-status", Expect::JsonStatus),
        ("tcp", Expect::Tcp),
        ("websocket", Expect::Websocket),
    ];
}

impl fmt::Display for HashBy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HashBy::Id => out.write_str("id"),
            HashBy::Address => out.write_str("address"),
            HashBy::Header(name) => write!(out, "header:{name}"),
        }
    }
}

impl Words for Target {
    const WORDS: &'static [(&'static str, Self)] =
        &[("append", Target::Append), ("fixed", Target::Fixed)];
}

impl Words for ProxyHeader {
    const WORDS: &'static [(&'static str, Self)] =
        &[("v1", ProxyHeader::V1), ("v2", ProxyHeader::V2)];
}

#[cfg(feature = "tls")]
impl Words for ClientAuth {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("require", ClientAuth::Require),
        ("optional", ClientAuth::Optional),
    ];
}

#[cfg(feature = "tls")]
impl Words for TlsVersion {
    const WORDS: &'static [(&'static str, Self)] =
        &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
}

impl Words for Confirm {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("written", Confirm::Written),
        ("received", Confirm::Received),
        ("processed", Confirm::Processed),
    ];
}

impl Words for Overflow {
    const WORDS: &'static [(&'static str, Self)] =
        &[("pause", Overflow::Pause), ("close", Overflow::Close)];
}

impl Words for OnDuplicate {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("reject", OnDuplicate::Reject),
        ("replace", OnDuplicate::Replace),
    ];
}

impl Words for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
}

impl Words for LogFormat {
    const WORDS: &'static [(&'static str, Self)] =
        &[("text", LogFormat::Text), ("json", LogFormat::Json)];
}

macro_rules! display_as_word {
    ($($kind:ty),*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.word())
            }
        }
    )*};
}

display_as_word!(
    PoolKind,
    Balance,
    Expect,
    Target,
    ProxyHeader,
    Confirm,
    Overflow,
    OnDuplicate,
    LogLevel,
    LogFormat
);

#[cfg(feature = "tls")]
display_as_word!(ClientAuth, TlsVersion);
