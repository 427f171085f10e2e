//! What the operator chose: every key resolved, checked, and explained.
//!
//! A configuration is made in layers. The file becomes a tree of nodes that know their places (that
//! of an older proxy is said in wsteady's keys first);
//! environment variables and flags are grafted onto that tree; one reader walks the result. So a
//! bad `--hold` and a bad `session: {hold: …}` meet the same check and differ only in the place
//! that the message names.
//!
//! **Invariant:** a [`Config`] that was handed out has passed every check here. What is not here:
//! name resolution, sockets, and whatever depends on the machine.

mod check;
mod explain;
mod keys;
mod legacy;
mod model;
mod parse;
mod place;
mod pools;
mod read;
#[cfg(feature = "tls")]
mod tls;
mod tree;
mod url;

#[cfg(test)]
mod tests;

pub use explain::explain;
pub(crate) use keys::nearest;
pub(crate) use legacy::{
    BALANCER_BACKEND, BALANCER_VARIABLES, WS2API_API, WS2API_LISTEN, WS2API_VARIABLES, Ws2api,
};
pub use legacy::{Older, Program};
#[cfg(feature = "nats")]
pub use model::BusConfig;
pub use model::{
    AdminConfig, Balance, BarrierConfig, BreakerConfig, ClusterConfig, Config, Confirm,
    ConnectionsConfig, Expect, HashBy, HealthConfig, LimitsConfig, ListenConfig, LogConfig,
    LogFormat, LogLevel, Loops, MetricsConfig, OnDuplicate, Overflow, PeerConfig, PoolConfig,
    PoolKind, ProxyHeader, PushConfig, RouteConfig, Secret, ServerConfig, SessionConfig, Target,
    TimeoutsConfig,
};
#[cfg(feature = "tls")]
pub use model::{CertificateConfig, ClientAuth, ListenTlsConfig, PoolTlsConfig, TlsVersion};
pub use parse::{duration_text, parse_duration, parse_size, size_text};
pub use place::{Place, Problem, Problems};
pub use pools::WEIGHT_MAX;
pub use url::{Scheme, ServerUrl};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use legacy::{BridgeTimeout, Draft};
use read::Findings;
use tree::{Node, Value};

/// Where a configuration comes from. Kept by the process, so that SIGHUP can [`Sources::load`]
/// the file again under the same flags and environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The file, wsteady's own or an older proxy's. `None`: defaults, environment and flags alone.
    pub file: Option<PathBuf>,
    overlays: Vec<Overlay>,
    notes: Vec<Problem>,
    /// wsbalancer's variables, which lie between the file and the overlays.
    variables: Vec<(String, String)>,
    /// What was given in ws2api's words and has become overlays.
    ws2api: Option<Older>,
    bridge_timeout: Option<BridgeTimeout>,
    /// Keys of the first listener's `tls`, which lie over all else.
    first_tls: Vec<(&'static str, Node)>,
}

/// A configuration that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    pub config: Config,
    /// What is allowed but hardly meant, for the log.
    pub warnings: Vec<Problem>,
    /// The older proxy that this was written for.
    pub older: Option<Older>,
}

/// A value that replaces one key of the file, whatever stood there.
#[derive(Clone, PartialEq, Eq)]
struct Overlay {
    path: &'static [&'static str],
    node: Node,
}

/// A pool that `--backend`, `--api` or `--http` makes.
pub(crate) struct FlagPool {
    pub kind: PoolKind,
    pub urls: Vec<String>,
    /// The flag or variable that has the URLs.
    pub origin: String,
}

/// Without the value, which may be a token.
impl std::fmt::Debug for Overlay {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} from {}", self.path.join("."), self.node.place)
    }
}

impl Sources {
    /// Sources with a file and nothing above it.
    pub fn from_file(file: impl Into<PathBuf>) -> Sources {
        Sources {
            file: Some(file.into()),
            ..Sources::default()
        }
    }

    /// Puts one value over the file's key `path`; `origin` names the flag or variable it came from.
    pub(crate) fn put(&mut self, path: &'static [&'static str], value: &str, origin: &str) {
        let node = Node::scalar(value, Place::named(origin));
        self.overlays.push(Overlay { path, node });
    }

    /// Puts `listen` over the file's listeners.
    pub(crate) fn put_listeners(&mut self, addresses: &[String], origin: &str) {
        let place = Place::named(origin);
        let nodes = addresses
            .iter()
            .map(|address| Node::scalar(address, place.clone()));
        let node = Node::list(nodes.collect(), place);
        self.overlays.push(Overlay {
            path: &["listen"],
            node,
        });
    }

    /// Puts one value into the `tls` of the first listener, whatever says where that is.
    pub(crate) fn put_tls(&mut self, key: &'static str, value: &str, origin: &str) {
        let node = Node::scalar(value, Place::named(origin));
        self.first_tls.push((key, node));
    }

    /// Puts `pools` over the file's pools and routes; no pools change nothing.
    pub(crate) fn put_pools(&mut self, pools: &[FlagPool]) {
        if pools.is_empty() {
            return;
        }
        let origins: Vec<&str> = pools.iter().map(|pool| pool.origin.as_str()).collect();
        let place = Place::named(&origins.join(" and "));
        let nodes = pools.iter().map(|pool| (pool.name(), pool.node()));
        self.overlays.push(Overlay {
            path: &["pools"],
            node: Node::map(nodes.collect(), place.clone()),
        });
        self.overlays.push(Overlay {
            path: &["routes"],
            node: Node::list(vec![], place),
        });
    }

    /// Whether a file or a flag may have named pools.
    pub(crate) fn names_pools(&self) -> bool {
        let is_pools = |overlay: &Overlay| overlay.path == ["pools"];
        self.file.is_some() || self.overlays.iter().any(is_pools)
    }

    /// Takes wsbalancer's variables. They go below everything that is put.
    pub(crate) fn put_variables(&mut self, variables: Vec<(String, String)>) {
        self.variables = variables;
    }

    /// Adds a warning that every [`Sources::load`] hands on.
    pub(crate) fn note(&mut self, note: Problem) {
        self.notes.push(note);
    }

    /// Reads the file, lays environment and flags over it, checks everything.
    ///
    /// # Errors
    /// Every problem that was found, each with its place, in the file's order.
    pub fn load(&self) -> Result<Loaded, Problems> {
        match &self.file {
            Some(file) => self.load_text(&read_file(file)?, &file.to_string_lossy()),
            None => self.load_text("", ""),
        }
    }

    /// As [`Sources::load`], with the file given as `text`; `name` stands in messages for it.
    ///
    /// # Errors
    /// As [`Sources::load`].
    pub fn load_text(&self, text: &str, name: &str) -> Result<Loaded, Problems> {
        let name: Arc<str> = name.into();
        let own_pools = self
            .overlays
            .iter()
            .any(|overlay| overlay.path == ["pools"]);
        let mut draft = legacy::read(text, &name, &self.variables, own_pools)
            .map_err(|problem| Problems::from(vec![problem]))?;
        for overlay in &self.overlays {
            draft.root.graft(overlay.path, overlay.node.clone());
        }
        for (key, node) in &self.first_tls {
            lay_tls(&mut draft.root, key, node);
        }
        if let Some(timeout) = &self.bridge_timeout {
            timeout.lay(&mut draft.root);
        }
        let problems = std::mem::take(&mut draft.problems);
        // Where an older file is wrong, what it lacks in our words says nothing new.
        let unreadable = draft.program.is_some() && !problems.is_empty();
        let mut findings = Findings::new(problems, self.notes.clone());
        findings.pools_unreadable = unreadable;
        let mut config = read::read(&draft.root, &mut findings);
        let older = self.older(draft, &mut config, &findings);
        check::check(&mut config, &mut findings);
        match findings.problems.is_empty() {
            true => Ok(Loaded {
                config,
                warnings: findings.warnings,
                older,
            }),
            false => Err(Problems::from(findings.problems)),
        }
    }

    /// What was said in an older proxy's words, if anything was.
    fn older(&self, draft: Draft, config: &mut Config, findings: &Findings) -> Option<Older> {
        let spoken = draft
            .program
            .or(self.ws2api.as_ref().map(|older| older.program))?;
        let tamed = legacy::tame_admin(draft.admin(), config, findings);
        let flags = self.ws2api.iter().flat_map(|older| older.notes.clone());
        let notes = draft.notes.into_iter().chain(flags).chain(tamed);
        Some(Older {
            program: spoken,
            notes: notes.collect(),
        })
    }
}

impl FlagPool {
    fn name(&self) -> &'static str {
        match self.kind {
            PoolKind::Websocket => "default",
            PoolKind::Bridge => "api",
            PoolKind::Http => "http",
            #[cfg(feature = "nats")]
            PoolKind::Nats => "nats",
        }
    }

    fn node(&self) -> Node {
        let place = Place::named(&self.origin);
        let server = |url: &String| {
            let url = Node::scalar(url, place.clone());
            Node::map(vec![("url", url)], place.clone())
        };
        let servers = Node::list(self.urls.iter().map(server).collect(), place.clone());
        let kind = Node::scalar(&self.kind.to_string(), place.clone());
        Node::map(vec![("kind", kind), ("servers", servers)], place)
    }
}

impl Config {
    /// Everything at its default, with one WebSocket pool of these URLs.
    ///
    /// # Errors
    /// A URL that is not `ws://host:port/…`.
    pub fn with_backends(urls: &[String]) -> Result<Config, Problems> {
        let mut sources = Sources::default();
        sources.put_pools(&[FlagPool {
            kind: PoolKind::Websocket,
            urls: urls.to_vec(),
            origin: "backend".into(),
        }]);
        sources.load().map(|loaded| loaded.config)
    }

    /// As [`with_backends`](Config::with_backends), for the API of a bridge.
    ///
    /// # Errors
    /// A URL that is not `http://host:port/…/`.
    pub fn with_apis(urls: &[String]) -> Result<Config, Problems> {
        let mut sources = Sources::default();
        sources.put_pools(&[FlagPool {
            kind: PoolKind::Bridge,
            urls: urls.to_vec(),
            origin: "api".into(),
        }]);
        sources.load().map(|loaded| loaded.config)
    }
}

/// Puts a value into the `tls` of the first listener, which may stand there as an address alone, or
/// not at all.
fn lay_tls(root: &mut Node, key: &str, node: &Node) {
    let address = Config::default().listen[0].address.to_string();
    let item = Node::scalar(&address, node.place.clone());
    let default = Node::list(vec![item], node.place.clone());
    let Some(listen) = root.entry("listen", default) else {
        return;
    };
    let Value::List(items) = &mut listen.value else {
        return;
    };
    let Some(first) = items.first_mut() else {
        return;
    };
    if let Value::Scalar(_) = first.value {
        let place = first.place.clone();
        *first = Node::map(vec![("address", first.clone())], place);
    }
    first.graft(&["tls", key], node.clone());
}

fn read_file(file: &Path) -> Result<String, Problems> {
    let name: Arc<str> = file.to_string_lossy().into();
    let wrong = |message: String| {
        Problems::from(vec![Problem {
            place: Place::named(name.as_ref()),
            message,
        }])
    };
    let size = std::fs::metadata(file).map_err(|error| wrong(format!("can't be read: {error}")))?;
    if size.len() > FILE_BYTES_MAX {
        return Err(wrong(format!(
            "is longer than {}",
            size_text(FILE_BYTES_MAX)
        )));
    }
    std::fs::read_to_string(file).map_err(|error| wrong(format!("can't be read: {error}")))
}

/// A thousand pools of a hundred servers take some 600 kB; what is longer is another kind of file.
const FILE_BYTES_MAX: u64 = 4 << 20;
