//! From the tree to a [`Config`]: section by section, all problems at once.

use std::collections::HashMap;

#[cfg(feature = "nats")]
use super::BusConfig;
use super::keys::{self, Section, nearest};
#[cfg(feature = "tls")]
use super::tls;
use super::tree::{Entry, Node, Value};
use super::{
    AdminConfig, BarrierConfig, ClusterConfig, Config, LimitsConfig, ListenConfig, LogConfig,
    Place, PoolKind, Problem, PushConfig, RouteConfig, SessionConfig, parse, pools,
};

/// What reading and checking brought to light beside the values.
#[derive(Default)]
pub(super) struct Findings {
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
    /// Where each value stands, by its path, such as `pools.chat.servers[0].url`.
    pub places: HashMap<String, Place>,
    /// All pools of the file, those that could not be read, too: a route to one is no mistake.
    pub pool_names: Vec<String>,
    /// `pools` is there, but no map.
    pub pools_unreadable: bool,
    /// Of each list, the indices of the items that could be read.
    kept: HashMap<String, Vec<usize>>,
}

/// The entries of one map that is being read.
pub(super) struct Fields<'n> {
    path: String,
    entries: &'n [Entry],
}

/// Reads what the tree has over the defaults.
pub(super) fn read(root: &Node, findings: &mut Findings) -> Config {
    let mut config = Config::default();
    let fields = findings.section(root, "", &keys::ROOT);
    if let Some(listen) = findings.list(&fields, "listen", read_listener) {
        config.listen = listen;
    }
    read_admin(&fields, &mut config.admin, findings);
    findings.fill(&fields, "loops", &mut config.loops, parse::loops);
    read_session(&fields, &mut config.session, findings);
    config.pools = pools::read_pools(&fields, &config.session, findings);
    if let Some(routes) = findings.list(&fields, "routes", read_route) {
        config.routes = routes;
    }
    findings.fill_list(
        &fields,
        "trusted_proxies",
        &mut config.trusted_proxies,
        parse::network,
    );
    findings.fill_list(&fields, "origins", &mut config.origins, parse::origin);
    read_limits(&fields, &mut config.limits, findings);
    if config.pools.iter().any(|pool| pool.kind == PoolKind::Http) {
        // The paths of an HTTP pool's requests are its own; `/` would take them all.
        config.push.path = HTTP_PUSH_PATH.into();
    }
    read_push(&fields, &mut config.push, findings);
    read_cluster(&fields, &mut config.cluster, findings);
    findings.fill(&fields, "drain", &mut config.drain, parse::parse_duration);
    read_log(&fields, &mut config.log, findings);
    let metrics = findings.subsection(&fields, "metrics", &keys::METRICS);
    let names = &mut config.metrics.legacy_names;
    findings.fill(&metrics, "legacy_names", names, parse::boolean);
    config
}

/// `{ address: … }`, or the address alone.
fn read_listener(node: &Node, path: &str, findings: &mut Findings) -> Option<ListenConfig> {
    if let Value::Scalar(text) = &node.value {
        let address = findings.note(path, &node.place, parse::address(text))?;
        return Some(ListenConfig::new(address));
    }
    let fields = findings.section(node, path, &keys::LISTEN);
    let mut address = None;
    findings.fill(&fields, "address", &mut address, |text| {
        parse::address(text).map(Some)
    });
    findings.need(
        &fields,
        "address",
        &node.place,
        "write the address to listen on",
    );
    #[cfg(feature = "tls")]
    let tls = tls::read_listener(&fields, &keys::LISTEN_TLS, findings);
    let mut proxy_protocol = false;
    findings.fill(
        &fields,
        "proxy_protocol",
        &mut proxy_protocol,
        parse::boolean,
    );
    Some(ListenConfig {
        address: address?,
        #[cfg(feature = "tls")]
        tls,
        proxy_protocol,
    })
}

fn read_admin(root: &Fields<'_>, admin: &mut AdminConfig, findings: &mut Findings) {
    let fields = findings.subsection(root, "admin", &keys::ADMIN);
    findings.fill(&fields, "address", &mut admin.address, parse::address);
    findings.fill(&fields, "token", &mut admin.token, parse::token);
    #[cfg(feature = "tls")]
    {
        admin.tls = tls::read_listener(&fields, &keys::ADMIN_TLS, findings);
    }
}

/// Reads a `session:` over `session`, the global one as well as a pool's.
pub(super) fn read_session(
    above: &Fields<'_>,
    session: &mut SessionConfig,
    findings: &mut Findings,
) {
    let fields = findings.subsection(above, "session", &keys::SESSION);
    // Below this, the head of a single frame would stop its session.
    findings.fill(
        &fields,
        "buffer",
        &mut session.buffer,
        parse::size_within(1 << 10, u64::MAX),
    );
    findings.fill(&fields, "hold", &mut session.hold, parse::parse_duration);
    findings.fill(&fields, "admit", &mut session.admit, parse::parse_duration);
    findings.fill(&fields, "confirm", &mut session.confirm, parse::word);
    findings.fill(&fields, "overflow", &mut session.overflow, parse::word);
    findings.fill(&fields, "atomic", &mut session.atomic, parse::parse_size);
    let attempts = parse::number_within(1, u32::MAX);
    findings.fill(
        &fields,
        "replay_attempts",
        &mut session.replay_attempts,
        attempts,
    );
    read_barrier(&fields, &mut session.barrier, findings);
    findings.fill(
        &fields,
        "on_duplicate",
        &mut session.on_duplicate,
        parse::word,
    );
    let header = &mut session.reconnect_header;
    findings.fill(&fields, "reconnect_header", header, parse::free_header_name);
}

fn read_barrier(session: &Fields<'_>, barrier: &mut BarrierConfig, findings: &mut Findings) {
    let fields = findings.subsection(session, "barrier", &keys::BARRIER);
    findings.fill(&fields, "delay", &mut barrier.delay, parse::parse_duration);
    findings.fill(
        &fields,
        "bytes",
        &mut barrier.bytes,
        parse::size_within(1, u64::MAX),
    );
}

fn read_route(node: &Node, path: &str, findings: &mut Findings) -> Option<RouteConfig> {
    let fields = findings.section(node, path, &keys::ROUTE);
    let mut route = RouteConfig {
        path: "/".into(),
        host: None,
        upgrade: None,
        pool: String::new(),
    };
    findings.fill(&fields, "path", &mut route.path, parse::route_path);
    findings.fill(&fields, "host", &mut route.host, |text| {
        parse::host(text).map(Some)
    });
    findings.fill(&fields, "upgrade", &mut route.upgrade, |text| {
        parse::boolean(text).map(Some)
    });
    findings.fill(&fields, "pool", &mut route.pool, |text| Ok(text.into()));
    findings.need(
        &fields,
        "pool",
        &node.place,
        "write the pool that takes these requests",
    );
    Some(route)
}

fn read_limits(root: &Fields<'_>, limits: &mut LimitsConfig, findings: &mut Findings) {
    let fields = findings.subsection(root, "limits", &keys::LIMITS);
    findings.fill(
        &fields,
        "memory",
        &mut limits.memory,
        parse::size_within(1 << 20, u64::MAX),
    );
    let some = || parse::number_within(1, u32::MAX);
    findings.fill(&fields, "connections", &mut limits.connections, some());
    let any = || parse::number_within(0, u32::MAX);
    findings.fill(&fields, "per_address", &mut limits.per_address, any());
    // No browser gets by with less than 1 KiB; a longer head than 1 MiB is an attack.
    findings.fill(
        &fields,
        "header",
        &mut limits.header,
        parse::size_within(1 << 10, 1 << 20),
    );
    findings.fill(
        &fields,
        "message",
        &mut limits.message,
        parse::size_within(1, u64::MAX),
    );
    findings.fill(
        &fields,
        "handshake",
        &mut limits.handshake,
        parse::some_time,
    );
    // The kernel takes an int.
    let buffer = parse::size_within(0, 1 << 30);
    findings.fill(&fields, "socket_buffer", &mut limits.socket_buffer, buffer);
    findings.fill(&fields, "fragments", &mut limits.fragments, some());
    findings.fill(
        &fields,
        "message_time",
        &mut limits.message_time,
        parse::some_time,
    );
    findings.fill(&fields, "pings", &mut limits.pings, some());
    findings.fill(&fields, "min_rate", &mut limits.min_rate, any());
}

fn read_push(root: &Fields<'_>, push: &mut PushConfig, findings: &mut Findings) {
    let fields = findings.subsection(root, "push", &keys::PUSH);
    findings.fill(&fields, "path", &mut push.path, parse::push_path);
    findings.fill_list(&fields, "allow", &mut push.allow, parse::network);
    findings.fill(&fields, "token", &mut push.token, parse::token);
}

fn read_cluster(root: &Fields<'_>, cluster: &mut Option<ClusterConfig>, findings: &mut Findings) {
    let Some(node) = root.find("cluster") else {
        return;
    };
    let mut own = ClusterConfig::default();
    let fields = findings.subsection(root, "cluster", &keys::CLUSTER);
    findings.fill_list(&fields, "peers", &mut own.peers, parse::peer);
    #[cfg(feature = "nats")]
    read_bus(&fields, &mut own.bus, findings);
    if fields.find("bus").is_none() {
        let list = "write the push addresses of the other nodes: [\"10.0.0.2:8080\"]";
        findings.need(&fields, "peers", &node.place, list);
    }
    findings.fill(&fields, "token", &mut own.token, parse::token);
    findings.fill(&fields, "timeout", &mut own.timeout, parse::some_time);
    findings.fill(&fields, "dns", &mut own.dns, parse::pause);
    *cluster = Some(own);
}

#[cfg(feature = "nats")]
fn read_bus(cluster: &Fields<'_>, bus: &mut Option<BusConfig>, findings: &mut Findings) {
    let Some(node) = cluster.find("bus") else {
        return;
    };
    let mut own = BusConfig::default();
    let fields = findings.subsection(cluster, "bus", &keys::BUS);
    findings.fill_list(&fields, "nats", &mut own.nats, parse::nats_server);
    let list = "write at least one server: [\"nats://10.0.0.5:4222\"]";
    findings.need(&fields, "nats", &node.place, list);
    findings.fill(&fields, "prefix", &mut own.prefix, parse::nats_prefix);
    findings.fill(&fields, "user", &mut own.user, |text| {
        parse::visible(text).map(Some)
    });
    findings.fill(&fields, "password", &mut own.password, parse::token);
    findings.fill(&fields, "token", &mut own.token, parse::token);
    *bus = Some(own);
}

fn read_log(root: &Fields<'_>, log: &mut LogConfig, findings: &mut Findings) {
    let fields = findings.subsection(root, "log", &keys::LOG);
    findings.fill(&fields, "level", &mut log.level, parse::word);
    findings.fill(&fields, "format", &mut log.format, parse::word);
}

impl Findings {
    /// Starts with what was found before the reading.
    pub fn new(problems: Vec<Problem>, warnings: Vec<Problem>) -> Findings {
        Findings {
            problems,
            warnings,
            ..Findings::default()
        }
    }

    /// Opens a map: remembers its places, reports keys that it can't have.
    pub fn section<'n>(&mut self, node: &'n Node, path: &str, section: &Section) -> Fields<'n> {
        self.places.insert(path.into(), node.place.clone());
        let entries: &[Entry] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            Value::Scalar(_) | Value::List(_) => {
                let known = section.keys.join(", ");
                let message = format!("must be a map of these keys: {known}");
                self.problem(path, &node.place, &message);
                &[]
            }
        };
        let fields = Fields {
            path: path.into(),
            entries,
        };
        for entry in entries {
            self.places
                .insert(fields.path_of(&entry.key), entry.node.place.clone());
            self.known(&fields, entry, section);
        }
        fields
    }

    fn known(&mut self, fields: &Fields<'_>, entry: &Entry, section: &Section) {
        let key = entry.key.as_str();
        if section.keys.contains(&key) {
            return;
        }
        let path = fields.path_of(key);
        if section.later.contains(&key) {
            let message = match key {
                "tls" => WITHOUT_TLS,
                _ => LATER,
            };
            return self.problem(&path, &entry.place, message);
        }
        // Keys of other builds are no help to somebody who looks for a key of this one.
        let message = match nearest(key, section.keys.iter().copied()) {
            Some(near) => format!("unknown key; did you mean `{near}`?"),
            None => format!("unknown key; known here: {}", section.keys.join(", ")),
        };
        self.problem(&path, &entry.place, &message);
    }

    /// Opens the map under `key`; a missing one has no fields.
    pub fn subsection<'n>(
        &mut self,
        above: &Fields<'n>,
        key: &str,
        section: &Section,
    ) -> Fields<'n> {
        let path = above.path_of(key);
        match above.find(key) {
            Some(node) => self.section(node, &path, section),
            None => Fields { path, entries: &[] },
        }
    }

    /// Reads one scalar into `into`, if it is given.
    pub fn fill<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        into: &mut T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) {
        let Some(node) = fields.find(key) else { return };
        let path = fields.path_of(key);
        if let Some(value) = self.note(&path, &node.place, scalar(node).and_then(parse)) {
            *into = value;
        }
    }

    /// Reads a list of scalars into `into`, if it is given.
    pub fn fill_list<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        into: &mut Vec<T>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) {
        let read = |node: &Node, path: &str, findings: &mut Findings| {
            findings.note(path, &node.place, scalar(node).and_then(&parse))
        };
        if let Some(list) = self.list(fields, key, read) {
            *into = list;
        }
    }

    /// Reads each item of a list; those with problems are left out. `None`: no list was given.
    pub fn list<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        mut read: impl FnMut(&Node, &str, &mut Findings) -> Option<T>,
    ) -> Option<Vec<T>> {
        let node = fields.find(key)?;
        let path = fields.path_of(key);
        let items = match &node.value {
            Value::List(items) => items,
            Value::Null => return None,
            Value::Scalar(_) | Value::Map(_) => {
                self.problem(&path, &node.place, "must be a list; write [ … ]");
                return None;
            }
        };
        let mut list = Vec::with_capacity(items.len());
        let mut kept = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.places.insert(path.clone(), item.place.clone());
            if let Some(value) = read(item, &path, self) {
                list.push(value);
                kept.push(index);
            }
        }
        self.kept.insert(path, kept);
        Some(list)
    }

    /// The path in the file of the `nth` value that [`Findings::list`] gave for `list`.
    pub fn item_path(&self, list: &str, nth: usize) -> String {
        let index = self
            .kept
            .get(list)
            .and_then(|kept| kept.get(nth))
            .unwrap_or(&nth);
        format!("{list}[{index}]")
    }

    /// Reports a key that is missing from a map that stands at `place`.
    pub fn need(&mut self, fields: &Fields<'_>, key: &str, place: &Place, advice: &str) {
        if fields.find(key).is_none() {
            self.problem(
                &fields.path_of(key),
                place,
                &format!("is missing; {advice}"),
            );
        }
    }

    /// Takes a value, or notes why there is none.
    pub fn note<T>(&mut self, path: &str, place: &Place, read: Result<T, String>) -> Option<T> {
        read.map_err(|message| self.problem(path, place, &message))
            .ok()
    }

    pub fn problem(&mut self, path: &str, place: &Place, message: &str) {
        self.problems.push(problem(path, place, message));
    }

    /// The place of a value, or of the nearest thing around it.
    pub fn place_of(&self, path: &str) -> Place {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return place.clone();
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.places.get("").cloned().unwrap_or_default(),
            }
        }
    }

    /// As [`Findings::problem`], at the place of `path` itself.
    pub fn problem_at(&mut self, path: &str, message: &str) {
        let place = self.place_of(path);
        self.problem(path, &place, message);
    }

    pub fn warn_at(&mut self, path: &str, message: &str) {
        let warning = problem(path, &self.place_of(path), message);
        self.warnings.push(warning);
    }
}

impl<'n> Fields<'n> {
    pub fn find(&self, key: &str) -> Option<&'n Node> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.node)
    }

    pub fn path_of(&self, key: &str) -> String {
        match self.path.is_empty() {
            true => key.into(),
            false => format!("{}.{key}", self.path),
        }
    }
}

fn problem(path: &str, place: &Place, message: &str) -> Problem {
    let message = match path {
        "" => message.into(),
        path => format!("{path}: {message}"),
    };
    Problem {
        place: place.clone(),
        message,
    }
}

fn scalar(node: &Node) -> Result<&str, String> {
    match &node.value {
        Value::Scalar(text) => Ok(text),
        Value::Null => Err("has no value; write one, or leave the key out".into()),
        Value::List(_) => Err("is a list; write one value".into()),
        Value::Map(_) => Err("is a map; write one value".into()),
    }
}

/// Where pushes go beside an HTTP pool, unless `push.path` says.
const HTTP_PUSH_PATH: &str = "/_push/";

/// What is said of everything that another build fills.
const LATER: &str = "this build does not have it; one with `--features nats` does";
const WITHOUT_TLS: &str = "this build has no TLS; one with the feature `tls` has";
