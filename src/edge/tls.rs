//! The engine that is rustls, by its interface without buffers.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, Resumption, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CertificateError, ClientConfig, Error, OtherError};

use super::keys::{Keyring, Keys};
use super::{Engine, Fault, Opened};
use crate::shard::Destination;

/// One loop's TLS.
pub struct Tls {
    keyring: Arc<Keyring>,
    version: u64,
    keys: Arc<Keys>,
    /// The pools' keys, each with tickets that only this loop has.
    pools: HashMap<String, Arc<ClientConfig>>,
}

/// A connection, as rustls has it.
pub enum Session {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

impl Tls {
    /// With the keys of this ring, whatever they become.
    pub fn new(keyring: Arc<Keyring>) -> Tls {
        Tls {
            version: keyring.version(),
            keys: keyring.keys(),
            pools: HashMap::new(),
            keyring,
        }
    }

    /// Two loads, unless the keys were exchanged.
    fn refresh(&mut self) {
        let version = self.keyring.version();
        if version != self.version {
            (self.version, self.keys) = (version, self.keyring.keys());
            self.pools.clear();
        }
    }

    fn config(&mut self, pool: &str) -> Option<Arc<ClientConfig>> {
        if let Some(config) = self.pools.get(pool) {
            return Some(config.clone());
        }
        let mut own = ClientConfig::clone(&self.keys.pools.get(pool)?.config);
        own.resumption = Resumption::in_memory_sessions(TICKETS_MAX);
        let own = Arc::new(own);
        self.pools.insert(pool.to_string(), own.clone());
        Some(own)
    }
}

impl Engine for Tls {
    type Session = Session;

    fn welcome(&mut self, listener: u32) -> Option<Session> {
        self.refresh();
        let config = self.keys.listeners.get(listener as usize)?.as_ref()?;
        let made = UnbufferedServerConnection::new(config.clone());
        // It fails only for a configuration that could not have been made.
        made.ok().map(Session::Server)
    }

    fn call(&mut self, to: &Destination<'_>) -> Result<Option<Session>, Fault> {
        let Some(host) = sealed_host(to.url) else {
            return Ok(None);
        };
        self.refresh();
        let Some(config) = self.config(to.pool) else {
            return Err(Fault(format!("pool {} has no keys", to.pool)));
        };
        let wanted = self.keys.pools.get(to.pool);
        let name = match wanted.and_then(|keys| keys.server_name.clone()) {
            Some(name) => name,
            None => ServerName::try_from(host.to_string())
                .map_err(|error| Fault(format!("{host}: {error}")))?,
        };
        let made = UnbufferedClientConnection::new(config, name);
        made.map(Session::Client)
            .map(Some)
            .map_err(|error| fault(&error))
    }

    fn open(
        &mut self,
        session: &mut Session,
        sealed: &mut [u8],
        words: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Opened, Fault> {
        match session {
            Session::Server(one) => open(one, sealed, words, out),
            Session::Client(one) => open(one, sealed, words, out),
        }
    }

    fn seal(
        &mut self,
        session: &mut Session,
        words: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        match session {
            Session::Server(one) => seal(one, Some(words), out),
            Session::Client(one) => seal(one, Some(words), out),
        }
    }

    fn part(&mut self, session: &mut Session, out: &mut Vec<u8>) {
        // Who can't be told will see the end of the connection.
        let _ = match session {
            Session::Server(one) => seal(one, None, out),
            Session::Client(one) => seal(one, None, out),
        };
    }
}

/// What the two sides have in common, which rustls has no name for.
trait Side {
    type Data;

    fn step<'c, 'i>(&'c mut self, sealed: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn step<'c, 'i>(&'c mut self, sealed: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(sealed)
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn step<'c, 'i>(&'c mut self, sealed: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(sealed)
    }
}

fn open<S: Side>(
    side: &mut S,
    sealed: &mut [u8],
    words: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<Opened, Fault> {
    let mut opened = Opened::default();
    let mut failed = None;
    loop {
        let status = side.step(&mut sealed[opened.used..]);
        let mut used = status.discard;
        let mut rests = false;
        match status.state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(|error| fault(&error))?;
                    used += record.discard;
                    words.extend_from_slice(record.payload);
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(out, |room| data.encode(room)),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => opened.parted = true,
            Ok(ConnectionState::Closed) => (opened.parted, rests) = (true, true),
            Ok(ConnectionState::WriteTraffic(_)) => (opened.ready, rests) = (true, true),
            Ok(ConnectionState::BlockedHandshake) => rests = true,
            Ok(_) => return Err(Fault("early data, which was not offered".into())),
            // The next step is the alert that tells the other side; then the error comes again.
            Err(error) if failed.is_none() => failed = Some(fault(&error)),
            Err(_) => rests = true,
        }
        opened.used += used;
        match failed {
            Some(fault) if rests => return Err(fault),
            None if rests => return Ok(opened),
            _ => {}
        }
    }
}

/// Seals words, or the last one.
fn seal<S: Side>(side: &mut S, words: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), Fault> {
    loop {
        match side.step(&mut []).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let from = out.len();
                out.resize(from + words.map_or(0, <[u8]>::len) + OVERHEAD, 0);
                let room = &mut out[from..];
                let sealed = match words {
                    Some(words) => traffic.encrypt(words, room),
                    None => traffic.queue_close_notify(room),
                };
                let sealed = sealed.map_err(|error| Fault(error.to_string()));
                out.truncate(from + *sealed.as_ref().unwrap_or(&0));
                return sealed.map(drop);
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(out, |room| data.encode(room)),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => {}
            Ok(_) => return Err(Fault("nothing may be said now".into())),
            Err(error) => return Err(fault(&error)),
        }
    }
}

/// Puts a record of the handshake behind `out`.
fn encode(out: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let from = out.len();
    let mut room = 0;
    loop {
        out.resize(from + room, 0);
        match write(&mut out[from..]) {
            Ok(count) => return out.truncate(from + count),
            Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
            Err(EncodeError::AlreadyEncoded) => return out.truncate(from),
        }
    }
}

/// The host of a URL that asks for TLS.
fn sealed_host(url: &str) -> Option<&str> {
    let rest = ["wss://", "https://"]
        .into_iter()
        .find_map(|scheme| url.strip_prefix(scheme))?;
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    Some(match authority.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or(six),
        None => authority.split(':').next().unwrap_or(authority),
    })
}

fn fault(error: &Error) -> Fault {
    Fault(match error {
        // Our own judge's sentence, which needs no more words around it.
        Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => why.to_string(),
        error => error.to_string(),
    })
}

/// What sealing adds to 16 KiB of words, at most: a header, a type and a tag, in two records if keys
/// are changed before.
const OVERHEAD: usize = 1_024;

/// Servers of one pool whose tickets are kept.
const TICKETS_MAX: usize = 256;
