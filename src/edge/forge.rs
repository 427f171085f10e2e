//! From the contents of files to what TLS is spoken with.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoClientAuth, NoServerSessionStorage, ProducesTickets, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig, SupportedProtocolVersion,
};

use super::cert::{self, Certificate};
use super::cipher;
use super::judge::{Anybody, Judge};

/// A certificate with those that lead to its authority, and its key.
#[derive(Clone)]
pub struct Identity {
    own: Arc<CertifiedKey>,
    /// What can be read of its certificates; its own is the first.
    pub chain: Vec<Certificate>,
}

/// Why two files are no [`Identity`].
#[derive(Debug)]
pub enum Unfit {
    /// It is the certificate's file.
    Cert(String),
    /// It is the key's.
    Key(String),
}

/// Authorities that are believed.
#[derive(Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    /// In a sentence: `the authorities of ca.pem`.
    name: String,
}

/// Whose certificates are asked for.
pub struct Clients {
    pub roots: Roots,
    /// Who has none is not let in.
    pub required: bool,
}

/// The least that both sides must speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Oldest {
    #[default]
    Tls12,
    Tls13,
}

/// What seals tickets, for each way in which clients are asked for certificates.
///
/// A ticket stands for a whole handshake. Were those of a listener that asks for nothing good at one
/// that asks for certificates, nobody there would need one.
#[derive(Default)]
pub struct Tickets {
    sealers: Vec<(Asked, Arc<dyn ProducesTickets>)>,
}

/// What clients are asked for: the authorities' file, and whether they need a certificate.
type Asked = Option<(Vec<u8>, bool)>;

impl Identity {
    /// Of two PEM files; they may be the same.
    ///
    /// # Errors
    /// What is wrong with one of them, to be read behind its name.
    pub fn read(cert: &[u8], key: &[u8]) -> Result<Identity, Unfit> {
        let chain = cert::certificates(cert).map_err(Unfit::Cert)?;
        let read = chain.iter().filter_map(|one| Certificate::read(one));
        let read: Vec<Certificate> = read.collect();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            Unfit::Key(match error {
                PemError::NoItemsFound => "has no private key that can be read; write the path of \
                    a PEM file (-----BEGIN PRIVATE KEY-----) without a password"
                    .into(),
                error => cert::broken(&error),
            })
        })?;
        let key = ring::default_provider()
            .key_provider
            .load_private_key(key)
            .map_err(|_| {
                Unfit::Key(
                    "has a key that can't be used; RSA from 2048 bits, ECDSA P-256 or P-384, \
                    or Ed25519 can"
                        .into(),
                )
            })?;
        let own = CertifiedKey::new(chain, key);
        match own.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                let whose = read
                    .first()
                    .map_or(String::new(), |one| format!(" ({one})"));
                let why = format!(
                    "has another key than the certificate{whose}; the certificate's own must stand first in \
                     its file"
                );
                return Err(Unfit::Key(why));
            }
            Err(error) => {
                return Err(Unfit::Cert(format!(
                    "has a first certificate that can't be read: {error}"
                )));
            }
        }
        Ok(Identity {
            own: Arc::new(own),
            chain: read,
        })
    }

    /// When the first of its certificates is over, in seconds since 1970.
    pub fn not_after(&self) -> Option<u64> {
        self.chain.iter().map(|one| one.not_after).min()
    }
}

impl Roots {
    /// Those of a PEM file.
    ///
    /// # Errors
    /// What is wrong with it, to be read behind its name.
    pub fn read(name: &str, pem: &[u8]) -> Result<Roots, String> {
        let mut store = RootCertStore::empty();
        for one in cert::certificates(pem)? {
            let said = Certificate::read(&one);
            store.add(one).map_err(|error| {
                let said = said.map_or(String::new(), |said| format!(" ({said})"));
                format!("has a certificate{said} that can't be an authority's: {error}")
            })?;
        }
        Ok(Roots {
            store: Arc::new(store),
            name: format!("the authorities of {name}"),
        })
    }

    /// Those that this machine believes.
    ///
    /// # Errors
    /// It has none.
    pub fn of_system() -> Result<Roots, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.certs);
        if store.is_empty() {
            let why = found.errors.first();
            let why = why.map_or(String::new(), |error| format!(" ({error})"));
            return Err(format!(
                "this machine has no certificates of authorities{why}"
            ));
        }
        Ok(Roots {
            store: Arc::new(store),
            name: "this machine's authorities".into(),
        })
    }
}

impl Tickets {
    /// The same for the same question, as long as it is asked.
    fn sealer(&mut self, asked: Asked) -> Result<Arc<dyn ProducesTickets>, String> {
        let known = self.sealers.iter().find(|(known, _)| *known == asked);
        if let Some((_, sealer)) = known {
            return Ok(sealer.clone());
        }
        let sealer = ring::Ticketer::new().map_err(|error| error.to_string())?;
        self.sealers.push((asked, sealer.clone()));
        Ok(sealer)
    }

    /// Those of questions that are no more asked are forgotten, but for some that may come back.
    pub fn trim(&mut self) {
        let over = self.sealers.len().saturating_sub(SEALERS_MAX);
        self.sealers.drain(..over);
    }
}

/// How clients are met. `asked` is the file of `clients`.
///
/// # Errors
/// Why not so.
pub fn front(
    identities: Vec<Identity>,
    clients: Option<(&Clients, &[u8])>,
    oldest: Oldest,
    tickets: &mut Tickets,
) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(cipher::provider());
    let asked = clients.map(|(clients, file)| (file.to_vec(), clients.required));
    let judge = match clients {
        Some((clients, _)) => judge_of_clients(clients, &provider)?,
        None => Arc::new(NoClientAuth) as Arc<dyn ClientCertVerifier>,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(oldest.versions())
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(judge)
        .with_cert_resolver(Arc::new(Shown(identities)));
    config.alpn_protocols = vec![HTTP.to_vec()];
    config.ticketer = tickets.sealer(asked)?;
    // One is enough for a client that comes back; each costs bytes in every handshake.
    config.send_tls13_tickets = 1;
    // What a loop would share with others under a lock.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn judge_of_clients(
    clients: &Clients,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let store = clients.roots.store.clone();
    let mut builder = WebPkiClientVerifier::builder_with_provider(store, provider.clone());
    if !clients.required {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| error.to_string())
}

/// How servers are dialled. Without `roots`, whatever they show is believed.
///
/// # Errors
/// Why not so.
pub fn back(
    roots: Option<&Roots>,
    identity: Option<Identity>,
    oldest: Oldest,
) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(cipher::provider());
    let judge: Arc<dyn ServerCertVerifier> = match roots {
        Some(roots) => {
            let store = roots.store.clone();
            let inner = WebPkiServerVerifier::builder_with_provider(store, provider.clone());
            Arc::new(Judge {
                inner: inner.build().map_err(|error| error.to_string())?,
                roots: roots.name.clone(),
            })
        }
        None => Arc::new(Anybody(provider.signature_verification_algorithms)),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(oldest.versions())
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(judge);
    let mut config = match identity {
        Some(identity) => {
            let own = SingleCertAndKey::from(identity.own);
            builder.with_client_cert_resolver(Arc::new(own))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![HTTP.to_vec()];
    Ok(Arc::new(config))
}

/// All certificates of a listener, the first of which is for everybody else.
#[derive(Debug)]
struct Shown(Vec<Identity>);

impl ResolvesServerCert for Shown {
    /// The first for that name whose key the client can use; else the first that it can use.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let fits = |one: &&Identity| one.own.key.choose_scheme(schemes).is_some();
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let named = name.and_then(|name| {
            let named = |one: &&Identity| one.chain.first().is_some_and(|cert| cert.is_for(&name));
            self.0.iter().filter(named).find(fits)
        });
        let one = named.or_else(|| self.0.iter().find(fits))?;
        Some(one.own.clone())
    }
}

impl Oldest {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Oldest::Tls12 => rustls::ALL_VERSIONS,
            Oldest::Tls13 => ONLY_13,
        }
    }
}

/// Without the key.
impl fmt::Debug for Identity {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chain.first() {
            Some(own) => write!(to, "Identity({own})"),
            None => to.write_str("Identity"),
        }
    }
}

static ONLY_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// What is spoken inside (RFC 7301, section 6).
const HTTP: &[u8] = b"http/1.1";

/// Questions whose tickets stay good: those of all listeners there may be, and some of before.
const SEALERS_MAX: usize = 64;

#[cfg(test)]
mod tests;
