//! Whose certificates are shown, and whose are believed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

/// The keys of all loops; may be exchanged at any time, for connections that come afterwards.
#[derive(Default)]
pub struct Keyring {
    version: AtomicU64,
    keys: Mutex<Arc<Keys>>,
}

/// How clients of one address are met.
pub type ServerKeys = Arc<ServerConfig>;

/// All keys.
#[derive(Default)]
pub struct Keys {
    /// Of listeners, in their order; `None`: in the clear.
    pub listeners: Vec<Option<ServerKeys>>,
    /// Of the admin address; `None`: in the clear.
    pub admin: Option<ServerKeys>,
    /// Of pools, by name. One that is missing here can dial no server with TLS.
    pub pools: HashMap<String, PoolKeys>,
    /// Files with certificates of ours.
    pub dates: Vec<Dated>,
}

/// A file with a certificate that some day is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated {
    pub file: String,
    /// In seconds since 1970, of the first in it that is.
    pub not_after: u64,
}

/// How the servers of a pool are dialled, where their URL asks for TLS.
#[derive(Clone)]
pub struct PoolKeys {
    pub config: Arc<ClientConfig>,
    /// In the place of what the URL says.
    pub server_name: Option<ServerName<'static>>,
}

impl PoolKeys {
    /// For servers of this name, or of those that their URLs have.
    ///
    /// # Errors
    /// It is no name.
    pub fn new(config: Arc<ClientConfig>, name: Option<&str>) -> Result<PoolKeys, String> {
        let wrong = |name: &str| format!("{name:?} is no name of a server");
        let name = name.map(|name| name_of(name).ok_or_else(|| wrong(name)));
        Ok(PoolKeys {
            config,
            server_name: name.transpose()?,
        })
    }
}

/// Whether a certificate can be for this host.
pub fn is_server_name(host: &str) -> bool {
    name_of(host).is_some()
}

fn name_of(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).ok()
}

impl Keyring {
    /// With these keys.
    pub fn new(keys: Keys) -> Keyring {
        Keyring {
            version: AtomicU64::new(1),
            keys: Mutex::new(Arc::new(keys)),
        }
    }

    /// From now on, connections that begin get these.
    pub fn replace(&self, keys: Keys) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        self.version.fetch_add(1, AcqRel);
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// Files with certificates of ours, and when those are over, in seconds since 1970.
    pub fn expiries(&self) -> Vec<(String, u64)> {
        let keys = self.keys();
        let dated = keys.dates.iter();
        dated.map(|one| (one.file.clone(), one.not_after)).collect()
    }

    /// What is in it now.
    pub fn keys(&self) -> Arc<Keys> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&keys)
    }
}
