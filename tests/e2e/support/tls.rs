//! Certificates that a test makes, and connections sealed with them.
//!
//! With `WSTEADY_TESTS_TLS=1` all that a test starts speaks TLS on both legs, where the test does not
//! say otherwise. `scripts/test` runs the tests of failovers once more in this way.

use super::Scratch;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Whether this run of the tests is the one with TLS.
pub fn on() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| std::env::var_os("WSTEADY_TESTS_TLS").is_some_and(|word| word == "1"))
}

/// A certificate or a chain, and the key to it, both PEM.
#[derive(Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Pair {
    /// Writes both files; gives what a configuration says of them.
    pub fn write(&self, dir: &Scratch, name: &str) -> Value {
        let files = self.files(dir, name);
        json!({ "cert": files[0], "key": files[1] })
    }

    pub fn files(&self, dir: &Scratch, name: &str) -> [PathBuf; 2] {
        let files = [".crt", ".key"].map(|end| dir.file(&format!("{name}{end}")));
        for (file, text) in files.iter().zip([&self.cert, &self.key]) {
            // In one step: whoever watches must not find half of it.
            let half = file.with_extension("half");
            std::fs::write(&half, text).unwrap();
            std::fs::rename(half, file).unwrap();
        }
        files
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.cert.as_bytes())
            .map(|one| one.unwrap())
            .collect()
    }

    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// Who signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap());
        Authority {
            issuer: issuer.unwrap(),
        }
    }

    /// The one that everything in the run with TLS believes.
    pub fn ours() -> &'static Authority {
        static OURS: OnceLock<Authority> = OnceLock::new();
        OURS.get_or_init(|| Authority::new("wsteady tests"))
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn file(&self, dir: &Scratch, name: &str) -> PathBuf {
        let file = dir.file(&format!("{name}.pem"));
        std::fs::write(&file, self.pem()).unwrap();
        file
    }

    /// For these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_but(names, |_| {})
    }

    /// With something special about it.
    pub fn issue_but(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let (params, key) = draft(names, change);
        Pair {
            cert: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// One that nobody has signed but itself.
pub fn self_signed(names: &[&str]) -> Pair {
    let (params, key) = draft(names, |_| {});
    Pair {
        cert: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

fn draft(
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> (CertificateParams, KeyPair) {
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let mut params = CertificateParams::new(names.clone()).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, &names[0]);
    change(&mut params);
    (params, KeyPair::generate().unwrap())
}

/// What everything on loopback shows in the run with TLS.
pub fn our_pair() -> &'static Pair {
    static OURS: OnceLock<Pair> = OnceLock::new();
    OURS.get_or_init(|| {
        let names = [
            "localhost",
            "127.0.0.1",
            "127.0.0.2",
            "127.0.0.3",
            "127.0.0.4",
            "::1",
        ];
        Authority::ours().issue(&names)
    })
}

fn provider() -> Arc<CryptoProvider> {
    static OURS: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    OURS.get_or_init(|| Arc::new(ring::default_provider()))
        .clone()
}

/// A server that shows this.
pub fn server(pair: &Pair) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(pair.chain(), pair.private());
    Arc::new(config.unwrap())
}

/// A server that lets nobody in but those whom this authority knows.
pub fn server_asking(pair: &Pair, whom: &Authority) -> Arc<ServerConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(whom.issuer.der().clone()).unwrap();
    let judge = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(judge.build().unwrap())
        .with_single_cert(pair.chain(), pair.private());
    Arc::new(config.unwrap())
}

/// A client that believes this authority, and shows a certificate of its own if it is asked.
pub fn client(believes: &Authority, shows: Option<&Pair>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(believes.issuer.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match shows {
        None => config.with_no_client_auth(),
        Some(pair) => config
            .with_client_auth_cert(pair.chain(), pair.private())
            .unwrap(),
    })
}

/// The server's side in the run with TLS.
pub fn our_server() -> Arc<ServerConfig> {
    static OURS: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    OURS.get_or_init(|| server(our_pair())).clone()
}

/// The client's side in the run with TLS.
pub fn our_client() -> Arc<ClientConfig> {
    static OURS: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    OURS.get_or_init(|| client(Authority::ours(), None)).clone()
}

/// A connection in the clear, or a sealed one.
///
/// Unlike what rustls has for this, it reads also while the other side takes nothing more: clients
/// and servers of the tests do both in one thread.
pub struct Pipe {
    tcp: Arc<TcpStream>,
    seal: Option<Box<Connection>>,
}

impl From<TcpStream> for Pipe {
    fn from(tcp: TcpStream) -> Pipe {
        Pipe {
            tcp: Arc::new(tcp),
            seal: None,
        }
    }
}

impl Pipe {
    /// A server's end; the handshake comes with what is read first.
    pub fn accept(tcp: impl Into<Arc<TcpStream>>, config: Option<&Arc<ServerConfig>>) -> Pipe {
        let make = |config: &Arc<ServerConfig>| {
            rustls::ServerConnection::new(config.clone())
                .unwrap()
                .into()
        };
        Pipe {
            tcp: tcp.into(),
            seal: config.map(|config| Box::new(make(config))),
        }
    }

    /// A client's end. The handshake is made at once; where it fails, a read says so.
    pub fn connect(tcp: TcpStream, config: &Arc<ClientConfig>, name: &str) -> Pipe {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let seal = ClientConnection::new(config.clone(), name).unwrap();
        let mut pipe = Pipe {
            tcp: Arc::new(tcp),
            seal: Some(Box::new(seal.into())),
        };
        let _ = pipe.greet();
        pipe
    }

    fn greet(&mut self) -> Result<()> {
        while let Some(seal) = &mut self.seal
            && seal.is_handshaking()
        {
            push(seal, &self.tcp)?;
            if pull(seal, &self.tcp)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        self.flush()
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// What was agreed.
    pub fn seal(&self) -> &Connection {
        self.seal.as_ref().expect("TLS")
    }

    pub fn set_read_timeout(&self, limit: Option<Duration>) -> Result<()> {
        self.tcp.set_read_timeout(limit)
    }

    pub fn set_write_timeout(&self, limit: Option<Duration>) -> Result<()> {
        self.tcp.set_write_timeout(limit)
    }

    pub fn set_nodelay(&self, wanted: bool) -> Result<()> {
        self.tcp.set_nodelay(wanted)
    }

    pub fn peer_addr(&self) -> Result<SocketAddr> {
        self.tcp.peer_addr()
    }

    pub fn try_clone(&self) -> Result<TcpStream> {
        assert!(self.seal.is_none(), "a sealed connection has one owner");
        self.tcp.try_clone()
    }

    /// Ends our direction, by the last word where there is one.
    pub fn shutdown(&mut self, how: Shutdown) -> Result<()> {
        self.part();
        self.tcp.shutdown(how)
    }

    fn part(&mut self) {
        if let Some(seal) = &mut self.seal
            && !seal.is_handshaking()
        {
            seal.send_close_notify();
            let _ = push(seal, &self.tcp);
        }
    }

    /// From now on the connection ends without a last word.
    pub fn break_off(&mut self) {
        self.seal = None;
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.seal.is_some() {
            let _ = self.tcp.set_write_timeout(Some(Duration::from_millis(1)));
            self.part();
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let Some(seal) = &mut self.seal else {
            return (&*self.tcp).read(into);
        };
        loop {
            match seal.reader().read(into) {
                Err(why) if why.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            // What can't go now goes later.
            let _ = push(seal, &self.tcp);
            pull(seal, &self.tcp)?;
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, from: &[u8]) -> Result<usize> {
        let Some(seal) = &mut self.seal else {
            return (&*self.tcp).write(from);
        };
        push(seal, &self.tcp)?;
        let taken = seal.writer().write(from)?;
        match push(seal, &self.tcp) {
            Err(why) if !is_pause(&why) => Err(why),
            _ => Ok(taken),
        }
    }

    fn flush(&mut self) -> Result<()> {
        match &mut self.seal {
            Some(seal) => push(seal, &self.tcp),
            None => Ok(()),
        }
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

fn is_pause(why: &std::io::Error) -> bool {
    matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Sends all that waits.
fn push(seal: &mut Connection, mut tcp: &TcpStream) -> Result<()> {
    while seal.wants_write() {
        seal.write_tls(&mut tcp)?;
    }
    Ok(())
}

/// Reads once; 0 at the end.
fn pull(seal: &mut Connection, mut tcp: &TcpStream) -> Result<usize> {
    let count = seal.read_tls(&mut tcp)?;
    if let Err(why) = seal.process_new_packets() {
        // The other side is told.
        let _ = push(seal, tcp);
        return Err(std::io::Error::other(why));
    }
    Ok(count)
}
