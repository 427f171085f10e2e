//! TLS on a link: what its sessions are made from, and how they turn words into records and back.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    UnbufferedClientConnection,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, Error, HandshakeKind, RootCertStore};
use rustls::{NamedGroup, ServerConfig, SignatureScheme, SupportedProtocolVersion};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How clients speak TLS.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ClientArgs {
    /// Connect with TLS, as wss:// and https:// do; any certificate is believed
    #[arg(long)]
    tls: bool,
    /// Believe these certificates and those they signed, and no others (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The name that is asked for and must be in the certificate [default: the URL's host]
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Offer this version alone [default: both]
    #[arg(long, value_name = "VERSION")]
    tls_version: Option<Version>,
    /// Resume sessions by the tickets of earlier ones [default: all handshakes are full ones]
    #[arg(long)]
    resume: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Version {
    #[value(name = "1.2")]
    Tls12,
    #[value(name = "1.3")]
    Tls13,
}

impl ClientArgs {
    /// What these say of a URL: the scheme that it has to have, and its clients' TLS, if any.
    ///
    /// # Errors
    /// A file with certificates that can't be read, or a name that is none.
    pub fn plan(&self, url: &str, plain: &'static str) -> Result<Plan, String> {
        let sealed = if plain == "ws" { "wss" } else { "https" };
        let asked = url.strip_prefix(sealed).unwrap_or_default();
        let has_sealed = asked.starts_with("://");
        let scheme = if has_sealed { sealed } else { plain };
        if !self.tls && !has_sealed {
            let options = [
                (self.ca.is_some(), "--ca"),
                (self.server_name.is_some(), "--server-name"),
                (self.tls_version.is_some(), "--tls-version"),
                (self.resume, "--resume"),
            ];
            return match options.iter().find(|(given, _)| *given) {
                Some((_, name)) => Err(format!("{name} needs --tls or {sealed}://")),
                None => Ok(Plan { scheme, tls: None }),
            };
        }
        let name = match &self.server_name {
            Some(name) => name,
            None => host(url),
        };
        let wrong = |_| format!("{name} is not a server's name");
        let name = ServerName::try_from(name.to_string()).map_err(wrong)?;
        let config = Arc::new(self.config()?);
        let tls = Some(Caller { config, name });
        Ok(Plan { scheme, tls })
    }

    /// The same, with TLS whatever the URL says.
    pub fn with_tls(&self) -> Self {
        Self {
            tls: true,
            ..self.clone()
        }
    }

    fn config(&self) -> Result<ClientConfig, String> {
        let versions: &[&'static SupportedProtocolVersion] = match self.tls_version {
            Some(Version::Tls12) => &[&TLS12],
            Some(Version::Tls13) => &[&TLS13],
            None => &[&TLS13, &TLS12],
        };
        let provider = Arc::new(ring::default_provider());
        let schemes = provider
            .signature_verification_algorithms
            .supported_schemes();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let builder = match &self.ca {
            Some(file) => builder.with_root_certificates(roots(file)?),
            None => {
                let anybody = Arc::new(Anybody(schemes));
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(anybody)
            }
        };
        let mut config = builder.with_no_client_auth();
        config.resumption = if self.resume {
            Resumption::store(Arc::new(Tickets::default()))
        } else {
            Resumption::disabled()
        };
        Ok(config)
    }
}

/// What a URL and the options make together.
pub struct Plan {
    pub scheme: &'static str,
    pub tls: Option<Caller>,
}

/// What every client's session is made from.
#[derive(Clone)]
pub struct Caller {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Caller {
    /// # Errors
    /// None that the plan would not have met.
    pub fn session(&self) -> io::Result<Session> {
        let made = UnbufferedClientConnection::new(self.config.clone(), self.name.clone());
        Ok(Session::new(Side::Client(made.map_err(told)?), false))
    }
}

/// How a server speaks TLS.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ServerArgs {
    /// Listen with TLS; without --cert with a certificate that is made at the start (ECDSA, P-256)
    #[arg(long)]
    tls: bool,
    /// Certificates to show, the server's own first (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["tls", "key"])]
    cert: Option<PathBuf>,
    /// The first one's key, ECDSA or RSA (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl ServerArgs {
    /// What sessions are made from, if there are to be any.
    ///
    /// # Errors
    /// Files that can't be read or don't belong together.
    pub fn plan(&self) -> io::Result<Option<Host>> {
        if !self.tls {
            return Ok(None);
        }
        let (chain, key) = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let shown = key.display();
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| io::Error::other(format!("{shown}: {error}")))?;
                (certificates(cert).map_err(io::Error::other)?, key)
            }
            _ => {
                let made = made_now()?;
                let key = PrivateKeyDer::try_from(made.signing_key.serialize_der());
                let chain = vec![made.cert.der().clone()];
                (chain, key.map_err(io::Error::other)?)
            }
        };
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config = builder
            .with_protocol_versions(&[&TLS13, &TLS12])
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(told)?;
        config.ticketer = ring::Ticketer::new().map_err(told)?;
        Ok(Some(Host(Arc::new(config))))
    }
}

/// What every session of a listener is made from.
#[derive(Clone)]
pub struct Host(Arc<ServerConfig>);

impl Host {
    /// # Errors
    /// None: the configuration was seen to be good.
    pub fn session(&self) -> io::Result<Session> {
        let made = UnbufferedServerConnection::new(self.0.clone());
        Ok(Session::new(Side::Server(made.map_err(told)?), true))
    }
}

/// One side of one connection, without its socket.
pub struct Session {
    side: Side,
    /// The beginning of a record whose rest has not come.
    sealed: Vec<u8>,
    /// Words that came and nobody has read yet.
    words: Vec<u8>,
    /// Words that were to be sent before the handshake was over.
    early: Vec<u8>,
    begun: bool,
    open: bool,
    parted: bool,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl Session {
    fn new(side: Side, begun: bool) -> Self {
        Self {
            side,
            sealed: Vec::new(),
            words: Vec::new(),
            early: Vec::new(),
            begun,
            open: false,
            parted: false,
        }
    }

    /// The handshake is over.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The peer has said that nothing follows.
    pub fn is_parted(&self) -> bool {
        self.parted
    }

    pub fn has_words(&self) -> bool {
        !self.words.is_empty()
    }

    /// Whether it goes on from an earlier one; known once it is open.
    pub fn is_resumed(&self) -> bool {
        let kind = match &self.side {
            Side::Client(one) => one.handshake_kind(),
            Side::Server(one) => one.handshake_kind(),
        };
        kind == Some(HandshakeKind::Resumed)
    }

    /// The first record of a client, once; it goes behind `out`.
    ///
    /// # Errors
    /// What rustls finds wrong.
    pub fn begin(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        self.step_on(&mut [], &mut Words::none(), out).map(drop)
    }

    /// Bytes of a record that has begun.
    pub fn kept(&self) -> &[u8] {
        &self.sealed
    }

    /// Takes words that came earlier.
    pub fn take(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.words.len());
        into[..count].copy_from_slice(&self.words[..count]);
        self.words.drain(..count);
        if self.words.is_empty() {
            self.words = Vec::new();
        }
        count
    }

    /// Opens `sealed`, which begins with what was kept. Words go to `into` (how many, is returned) as
    /// far as it reaches, what is to be sent goes behind `out`.
    ///
    /// # Errors
    /// What the peer has done wrong.
    pub fn open(
        &mut self,
        sealed: &mut [u8],
        into: &mut [u8],
        out: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let mut words = Words {
            into,
            at: 0,
            rest: std::mem::take(&mut self.words),
        };
        let used = self.step_on(sealed, &mut words, out);
        let count = words.at;
        self.words = words.rest;
        let rest = &sealed[used?..];
        self.sealed.clear();
        if rest.is_empty() {
            self.sealed = Vec::new();
        } else {
            self.sealed.extend_from_slice(rest);
        }
        if self.open && !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            self.seal(&early, out)?;
        }
        Ok(count)
    }

    /// Seals words behind `out`, or keeps them until the handshake is over.
    ///
    /// # Errors
    /// The connection has carried all that its keys may.
    pub fn seal(&mut self, words: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        if !self.open {
            self.early.extend_from_slice(words);
            return Ok(());
        }
        let records = words.chunks(RECORD_MAX);
        records.map(Some).try_for_each(|one| self.say(one, out))
    }

    /// Says behind `out` that nothing follows.
    ///
    /// # Errors
    /// The same.
    pub fn part(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if self.open {
            self.say(None, out)?;
        }
        Ok(())
    }

    fn step_on(
        &mut self,
        sealed: &mut [u8],
        words: &mut Words<'_>,
        out: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let rest = &mut sealed[used..];
            let (count, step) = match &mut self.side {
                Side::Client(one) => step(one.process_tls_records(rest), words, out),
                Side::Server(one) => step(one.process_tls_records(rest), words, out),
            }?;
            used += count;
            match step {
                Step::More => {}
                Step::Wait => return Ok(used),
                Step::Open => {
                    self.open = true;
                    return Ok(used);
                }
                Step::Parted => self.parted = true,
                Step::Over => {
                    self.parted = true;
                    return Ok(used);
                }
            }
        }
    }

    /// One record of words, or the last one of all.
    fn say(&mut self, words: Option<&[u8]>, out: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let done = match &mut self.side {
                Side::Client(one) => put(one.process_tls_records(&mut []), words, out),
                Side::Server(one) => put(one.process_tls_records(&mut []), words, out),
            }?;
            if done {
                return Ok(());
            }
        }
    }
}

/// Where words go: to the reader, and what it has no room for behind them.
struct Words<'a> {
    into: &'a mut [u8],
    at: usize,
    rest: Vec<u8>,
}

impl Words<'_> {
    fn none() -> Self {
        Self {
            into: &mut [],
            at: 0,
            rest: Vec::new(),
        }
    }

    fn add(&mut self, words: &[u8]) {
        let (now, later) = words.split_at(words.len().min(self.into.len() - self.at));
        self.into[self.at..][..now.len()].copy_from_slice(now);
        self.at += now.len();
        self.rest.extend_from_slice(later);
    }
}

enum Step {
    More,
    /// More bytes are needed.
    Wait,
    Open,
    Parted,
    Over,
}

/// One step through what came: bytes used, and how it stands.
fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    words: &mut Words<'_>,
    out: &mut Vec<u8>,
) -> io::Result<(usize, Step)> {
    let mut used = status.discard;
    let step = match status.state.map_err(told)? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record.map_err(told)?;
                used += record.discard;
                words.add(record.payload);
            }
            Step::More
        }
        ConnectionState::EncodeTlsData(mut data) => {
            add(out, |room| data.encode(room))?;
            Step::More
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Step::More
        }
        ConnectionState::WriteTraffic(_) => Step::Open,
        ConnectionState::BlockedHandshake => Step::Wait,
        ConnectionState::PeerClosed => Step::Parted,
        ConnectionState::Closed => Step::Over,
        _ => return Err(io::Error::other("TLS: early data that nobody offered")),
    };
    Ok((used, step))
}

/// One step towards a record of ours; whether it is written.
fn put<D>(
    status: UnbufferedStatus<'_, '_, D>,
    words: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> io::Result<bool> {
    match status.state.map_err(told)? {
        ConnectionState::WriteTraffic(mut traffic) => {
            let from = out.len();
            out.resize(from + words.map_or(0, <[u8]>::len) + OVERHEAD, 0);
            let count = match words {
                Some(words) => traffic.encrypt(words, &mut out[from..]),
                None => traffic.queue_close_notify(&mut out[from..]),
            };
            let count = count.map_err(|error| io::Error::other(format!("TLS: {error}")))?;
            out.truncate(from + count);
            return Ok(true);
        }
        ConnectionState::EncodeTlsData(mut data) => add(out, |room| data.encode(room))?,
        ConnectionState::TransmitTlsData(data) => data.done(),
        ConnectionState::PeerClosed => {}
        // After the peer's last word there is nobody to say it to.
        ConnectionState::Closed => return Ok(true),
        _ => return Err(io::Error::other("TLS: nothing may be said now")),
    }
    Ok(false)
}

/// Puts a record of the handshake behind `out`; the first try may be told how long it is.
fn add(
    out: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> io::Result<()> {
    let from = out.len();
    let mut room = 2 * OVERHEAD;
    loop {
        out.resize(from + room, 0);
        match encode(&mut out[from..]) {
            Ok(count) => {
                out.truncate(from + count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
            Err(error) => return Err(io::Error::other(format!("TLS: {error}"))),
        }
    }
}

/// A certificate for this machine, with a new key.
fn made_now() -> io::Result<rcgen::CertifiedKey<rcgen::KeyPair>> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_string);
    rcgen::generate_simple_self_signed(names).map_err(io::Error::other)
}

/// Files of a certificate made now that programs of all kinds can read.
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Both in one.
    pub both: PathBuf,
}

impl Pair {
    /// Makes one and writes it into this directory.
    ///
    /// # Errors
    /// Nothing can be written there.
    pub fn write(directory: &Path) -> io::Result<Self> {
        let made = made_now()?;
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let [cert, key, both] = [
            ("cert.pem", &cert),
            ("key.pem", &key),
            ("both.pem", &format!("{cert}{key}")),
        ]
        .map(|(name, text)| {
            let path = directory.join(name);
            std::fs::write(&path, text).map(|()| path)
        });
        Ok(Self {
            cert: cert?,
            key: key?,
            both: both?,
        })
    }
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error| format!("{}: {error}", file.display());
    let found = CertificateDer::pem_file_iter(file).map_err(wrong)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(wrong)?;
    if found.is_empty() {
        return Err(format!("{}: no certificate is in it", file.display()));
    }
    Ok(found)
}

/// The host of a URL, without its port.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['/', '?']).next().unwrap_or(rest);
    match rest.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or(six),
        None => rest.split(':').next().unwrap_or(rest),
    }
}

fn told(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {error}"))
}

/// Believes everybody: load is measured here, not trust, and the load's core has no time for it.
#[derive(Debug)]
struct Anybody(Vec<SignatureScheme>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// What sessions go on from. A run has one server, and more clients at the same time than rustls's own
/// store has tickets for.
#[derive(Debug, Default)]
struct Tickets(Mutex<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    group: Option<NamedGroup>,
    /// Of TLS 1.2: any number of sessions may go on from one.
    session: Option<Tls12ClientSessionValue>,
    /// Of TLS 1.3: each is for one session.
    tickets: Vec<Tls13ClientSessionValue>,
}

impl Tickets {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.shelf().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.shelf().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.shelf().session = Some(session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.shelf().session.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.shelf().session = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut shelf = self.shelf();
        if shelf.tickets.len() < TICKETS_MAX {
            shelf.tickets.push(ticket);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.shelf().tickets.pop()
    }
}

/// Words of one record (RFC 8446, 5.1).
pub const RECORD_MAX: usize = 16 << 10;
/// More than sealing adds to a record's words.
const OVERHEAD: usize = 512;
/// Tickets that are kept: a wave of clients may come before the first of another brings new ones.
const TICKETS_MAX: usize = 8_192;

#[cfg(test)]
pub mod tests;
