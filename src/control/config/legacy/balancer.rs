//! wsbalancer's YAML and its environment.

use std::time::Duration;

use super::super::tree::{Entry, Node, Value};
use super::super::{LogLevel, Place, duration_text, keys, parse};
use super::{Draft, Program, go};

/// Whether a file is wsbalancer's: it has one of its two sections.
pub(super) fn is_file(root: &Node) -> bool {
    FILE.iter().any(|key| root.find(key).is_some())
}

/// Whether the environment is wsbalancer's. Names that any program may use don't tell.
pub(super) fn speaks(variables: &[(String, String)]) -> bool {
    let own = |name: &str| {
        ["FE_", "BE_", "ADM_"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    variables.iter().any(|(name, _)| own(name))
}

/// Lays what a file of wsbalancer's and its variables mean over a draft. Without such a file, only
/// what the variables say counts, unless they are all there is.
pub(super) fn translate(
    draft: Draft,
    file: Option<&Node>,
    variables: &[(String, String)],
    own_pools: bool,
) -> Draft {
    let alone = file.is_none() && draft.program.is_none() && draft.root.value == Value::Null;
    let urls = variables.iter().any(|(name, _)| name == "BE_URLS");
    let mut reader = Reader {
        file,
        variables,
        draft,
        complete: file.is_some() || (alone && urls),
        own_pools,
    };
    if let Some(file) = file {
        reader.check_keys(file, FILE, "");
    }
    if file.is_some() || reader.draft.program.is_none() {
        reader.draft.program = Some(Program::Wsbalancer);
    }
    reader.frontend();
    reader.admin();
    reader.server();
    reader.upstream(urls);
    reader.draft
}

struct Reader<'a> {
    file: Option<&'a Node>,
    variables: &'a [(String, String)],
    draft: Draft,
    /// wsbalancer's defaults count, too.
    complete: bool,
    /// Flags have pools that replace those here.
    own_pools: bool,
}

/// A value and where it stands.
#[derive(Clone)]
struct Given {
    text: String,
    place: Place,
}

/// A list and where it stands.
#[derive(Clone)]
struct GivenList {
    items: Vec<String>,
    place: Place,
}

/// One server with what wsbalancer lets differ between servers.
struct Backend<'a> {
    url: Given,
    id: Option<Given>,
    /// Its part of the file, if it has one.
    node: Option<&'a Node>,
}

impl<'a> Reader<'a> {
    fn frontend(&mut self) {
        let node = self.section(&["server", "frontend"], FRONTEND);
        if let Some(address) = self.pick(node, "address", "FE_ADDR", ":8080") {
            self.draft
                .put_list(&["listen"], &[address.text], &address.place);
        }
        if let Some(time) = self.pick(node, "read-timeout", "FE_READ_TIMEOUT", "10s") {
            self.put_time(&["limits", "handshake"], "read-timeout", &time);
        }
        for (key, variable) in [
            ("wite-timeout", "FE_WRITE_TIMEOUT"),
            ("write-timeout", "FE_WRITE_TIMEOUT"),
        ] {
            if let Some(given) = self.given(node, key, variable) {
                let message =
                    format!("{key}: bounds no WebSocket, in wsbalancer neither; left out");
                self.draft.note(&given.place, message);
                break;
            }
        }
        let header = self.pick(node, "max-header-bytes", "FE_MAX_HDR_BYTES", "524288");
        if let Some((bytes, place)) = self.int("max-header-bytes", header) {
            let fitting = bytes.clamp(1 << 10, 1 << 20);
            if fitting != bytes {
                let message = format!("max-header-bytes: {bytes} is taken as {fitting}");
                self.draft.note(&place, message);
            }
            self.draft
                .put(&["limits", "header"], &fitting.to_string(), &place);
        }
    }

    fn admin(&mut self) {
        let node = self.section(&["server", "admin"], ADMIN);
        if let Some(address) = self.pick(node, "address", "ADM_ADDR", ":8081") {
            self.draft
                .put(&["admin", "address"], &address.text, &address.place);
            self.draft.admin = Some(address.place);
        }
        for (key, variable) in [
            ("read-timeout", "ADM_READ_TIMEOUT"),
            ("wite-timeout", "ADM_WRITE_TIMEOUT"),
            ("write-timeout", "ADM_WRITE_TIMEOUT"),
            ("max-header-bytes", "ADM_MAX_HDR_BYTES"),
        ] {
            if let Some(given) = self.given(node, key, variable) {
                let message = format!("admin.{key}: the admin address has fixed bounds; left out");
                self.draft.note(&given.place, message);
            }
        }
    }

    fn server(&mut self) {
        let node = self.section(&["server"], SERVER);
        for (key, variable) in [
            ("read-buffer-size", "FE_RB_SIZE"),
            ("write-buffer-size", "FE_WB_SIZE"),
        ] {
            self.no_buffer(node, key, variable);
        }
        self.trust(node);
        if let Some(header) = self.pick(node, "reconnect-header", "RECONNECT_HDR", RECONNECT) {
            self.draft.put(
                &["session", "reconnect_header"],
                &header.text,
                &header.place,
            );
        }
        if let Some(switch) = self.pick(node, "enable-instrumentation", "ENABLE_INST", "false")
            && let Some(on) = self.boolean("enable-instrumentation", &switch)
        {
            self.draft
                .put(&["metrics", "legacy_names"], &on.to_string(), &switch.place);
        }
        if let Some(level) = self.pick(node, "logging-level", "LOG_LEVEL", "WARN") {
            let upper = level.text.to_ascii_uppercase();
            let known = LEVELS.iter().find(|(name, _)| *name == upper);
            if known.is_none() {
                let message = format!("logging-level: {:?} is taken as PANIC", level.text);
                self.draft.note(&level.place, message);
            }
            let own = known.map_or(LogLevel::Error, |(_, own)| *own);
            self.draft
                .put(&["log", "level"], &own.to_string(), &level.place);
        }
    }

    /// Whose word counts for where a client is. wsbalancer believes everybody unless its variable
    /// forbids it; who did not ask for that gets what is safe on a private network.
    fn trust(&mut self, node: Option<&Node>) {
        let place = match self.given(node, "trust-received-xff", "FE_TRUST_XFF") {
            Some(given) => {
                let Some(trusts) = self.boolean("trust-received-xff", &given) else {
                    return;
                };
                if !trusts {
                    return self.draft.put_list(&["trusted_proxies"], &[], &given.place);
                }
                let all = EVERYBODY.map(str::to_owned);
                self.draft
                    .put_list(&["trusted_proxies"], &all, &given.place);
                let message = "trust-received-xff: any client may say where it is; list your \
                               proxies in `trusted_proxies`";
                return self.draft.note(&given.place, message);
            }
            None if self.complete && !self.own_pools => default_place(),
            None => return,
        };
        let private = PRIVATE.map(str::to_owned);
        self.draft.put_list(&["trusted_proxies"], &private, &place);
        let message = "trust-received-xff: proxies on private networks are believed, not everybody; \
                       list yours in `trusted_proxies`";
        self.draft.note(&place, message);
    }

    fn upstream(&mut self, urls: bool) {
        self.section(&["upstream"], &["backends"]);
        let backends = self.backends();
        let mut pools = vec!["default".to_owned()];
        if !backends.is_empty() {
            let place = backends[0].url.place.clone();
            if urls && self.file.is_none() {
                // A layer above the file: its servers are meant, and no others.
                self.draft
                    .root
                    .graft(&["pools"], Node::empty(place.clone()));
                self.draft
                    .root
                    .graft(&["routes"], Node::list(vec![], place.clone()));
            }
            self.draft
                .put(&["pools", "default", "kind"], "websocket", &place);
            let servers = self.servers(&backends);
            self.draft.root.graft(
                &["pools", "default", "servers"],
                Node::list(servers, place.clone()),
            );
            self.draft.note(
                &place,
                "a foreign Origin is not turned away; list yours in `origins`",
            );
        } else if self.file.is_some() {
            return;
        } else {
            pools = websocket_pools(&self.draft.root);
        }
        self.settings(&backends, &pools);
        let node = self.file.and_then(|file| file.find("server"));
        if let Some(list) = self.list(node, "block-headers", "BLOCK_HEADERS") {
            let names = self.only(list, "block-headers", |name| {
                is_own(name).then_some("wsteady writes it anew in any case")
            });
            for pool in &pools {
                self.draft.put_list(
                    &["pools", pool, "block_headers"],
                    &names.items,
                    &names.place,
                );
            }
        }
    }

    /// The settings of servers become those of their pool.
    fn settings(&mut self, backends: &[Backend<'a>], pools: &[String]) {
        let none = Backend {
            url: Given {
                text: String::new(),
                place: Place::default(),
            },
            id: None,
            node: None,
        };
        let all: Vec<&Backend<'a>> = match backends {
            [] => vec![&none],
            some => some.iter().collect(),
        };
        let mut put = Vec::new();
        for (key, variable, default) in TIMES {
            if let Some(given) = self.common(&all, key, variable, default)
                && let Some(time) = self
                    .draft
                    .take(key, &given.place, go::duration(&given.text))
            {
                put.push((
                    TIME_KEYS[usize::from(*key == "handshake-timeout")],
                    duration_text(time),
                    given.place.clone(),
                ));
                if *key == "handshake-timeout" && time < CONNECT {
                    put.push((&["timeouts", "connect"], duration_text(time), given.place));
                }
            }
        }
        let threshold = self.common(&all, "breaker-threshold", "BE_BREAKER_THRESHOLD", "10");
        if let Some((count, place)) = self.int("breaker-threshold", threshold) {
            // Below 0 it never opens.
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            put.push((&["breaker", "threshold"], count.to_string(), place));
        }
        for (key, value, place) in put {
            for pool in pools {
                let path = [&["pools", pool.as_str()][..], &key[..]].concat();
                self.draft.put(&path, &value, &place);
            }
        }
        for (key, variable) in [
            ("read-buffer-size", "BE_RB_SIZE"),
            ("write-buffer-size", "BE_WB_SIZE"),
        ] {
            if self.variable(variable).is_some() {
                self.no_buffer(None, key, variable);
            } else {
                all.iter()
                    .for_each(|backend| self.no_buffer(backend.node, key, ""));
            }
        }
        self.codes_and_headers(&all, pools);
    }

    fn codes_and_headers(&mut self, all: &[&Backend<'a>], pools: &[String]) {
        let codes = self.common_list(all, "abnormal-close-codes", |reader, backend| {
            reader.list(
                backend.node,
                "abnormal-close-codes",
                "BE_ABNORMAL_CLOSE_CODES",
            )
        });
        let default = || GivenList {
            items: CODES.map(str::to_owned).to_vec(),
            place: default_place(),
        };
        let codes = codes.or_else(|| self.complete.then(default));
        let headers = self.common_list(all, "pass-headers", |reader, backend| {
            let own = reader.list(backend.node, "pass-headers", "");
            let added = reader.list(None, "", "BE_PASS_HEADERS");
            match (own, added) {
                (Some(mut own), Some(added)) => {
                    own.items.extend(added.items);
                    Some(own)
                }
                (own, added) => own.or(added),
            }
        });
        let headers = headers.map(|list| {
            self.only(list, "pass-headers", |name| {
                is_own(name).then_some("wsteady writes it itself")
            })
        });
        for pool in pools {
            for (key, list) in [("abnormal_close_codes", &codes), ("pass_headers", &headers)] {
                if let Some(list) = list {
                    self.draft
                        .put_list(&["pools", pool, key], &list.items, &list.place);
                }
            }
        }
    }

    /// The servers of the file, and behind them those of the environment.
    fn backends(&mut self) -> Vec<Backend<'a>> {
        let mut backends = Vec::new();
        let list = self
            .file
            .and_then(|file| file.find("upstream")?.find("backends"));
        match list.map(|node| (&node.value, node)) {
            None | Some((Value::Null, _)) => {}
            Some((Value::List(items), _)) => {
                for node in items {
                    self.check_keys(node, BACKEND, "upstream.backends[].");
                    match self.given(Some(node), "url", "") {
                        Some(url) => backends.push(Backend {
                            url,
                            id: self.given(Some(node), "id", ""),
                            node: Some(node),
                        }),
                        None => self
                            .draft
                            .problem(&node.place, "url: is missing; write ws://host:port"),
                    }
                }
            }
            Some((_, node)) => self
                .draft
                .problem(&node.place, "upstream.backends: must be a list"),
        }
        let urls = self.list(None, "", "BE_URLS");
        let ids = self.list(None, "", "BE_URL_IDS");
        let counts = [&urls, &ids].map(|list| list.as_ref().map_or(0, |list| list.items.len()));
        if let Some(ids) = ids.as_ref().filter(|_| counts[0] != counts[1]) {
            let message = format!("has {} ids for {} URLs in BE_URLS", counts[1], counts[0]);
            self.draft.problem(&ids.place, message);
        }
        let Some(urls) = urls else { return backends };
        for (index, url) in urls.items.into_iter().enumerate() {
            let id = ids
                .as_ref()
                .and_then(|ids| Some((ids.items.get(index)?, &ids.place)));
            backends.push(Backend {
                url: Given {
                    text: url,
                    place: urls.place.clone(),
                },
                id: id.map(|(id, place)| Given {
                    text: id.clone(),
                    place: place.clone(),
                }),
                node: None,
            });
        }
        backends
    }

    /// Servers with the ids that wsbalancer gives them, which may not be ids for wsteady yet.
    fn servers(&mut self, backends: &[Backend<'_>]) -> Vec<Node> {
        let mut taken: Vec<String> = Vec::new();
        let mut nodes = Vec::new();
        for Backend { url, id, .. } in backends {
            let given = id.as_ref().filter(|id| !id.text.is_empty());
            let wish = given.map_or_else(|| default_id(&url.text), |id| id.text.clone());
            let place = given.map_or(&url.place, |id| &id.place);
            let plain: String = wish
                .chars()
                .map(|one| if in_id(one) { one } else { '-' })
                .collect();
            let mut own = plain.clone();
            for number in 2.. {
                if !taken.contains(&own) {
                    break;
                }
                own = format!("{plain}-{number}");
            }
            if own != wish {
                self.draft
                    .note(place, format!("id: {wish:?} is {own:?} here"));
            }
            let fields = vec![
                ("url", Node::scalar(&url.text, url.place.clone())),
                ("id", Node::scalar(&own, place.clone())),
            ];
            nodes.push(Node::map(fields, url.place.clone()));
            taken.push(own);
        }
        nodes
    }

    /// The setting that all servers get: the first one's. Others that differ are told of.
    fn common(
        &mut self,
        all: &[&Backend<'a>],
        key: &str,
        variable: &str,
        default: &str,
    ) -> Option<Given> {
        let values: Vec<Option<Given>> = all
            .iter()
            .map(|backend| self.pick(backend.node, key, variable, default))
            .collect();
        let first = values.first().cloned().flatten();
        for (other, backend) in values.iter().zip(all).skip(1) {
            let Some(other) = other else { continue };
            let text = first.as_ref().map_or("", |first| first.text.as_str());
            if other.text != text {
                // A default has no place of its own.
                let place = match other.place == default_place() {
                    true => &backend.url.place,
                    false => &other.place,
                };
                self.one_for_all(key, &other.text, text, place);
            }
        }
        first
    }

    fn common_list(
        &mut self,
        all: &[&Backend<'a>],
        key: &str,
        list: impl Fn(&mut Self, &Backend<'a>) -> Option<GivenList>,
    ) -> Option<GivenList> {
        let values: Vec<_> = all.iter().map(|backend| list(self, backend)).collect();
        let items = |list: &Option<GivenList>| {
            list.as_ref()
                .map_or_else(String::new, |list| list.items.join(", "))
        };
        let first = values.first().cloned().flatten();
        for (other, backend) in values.iter().zip(all).skip(1) {
            if items(other) != items(&first) {
                let place = other
                    .as_ref()
                    .map_or(&backend.url.place, |list| &list.place)
                    .clone();
                self.one_for_all(key, &items(other), &items(&first), &place);
            }
        }
        first
    }

    fn one_for_all(&mut self, key: &str, other: &str, first: &str, place: &Place) {
        let message = format!(
            "{key}: [{other}] is not [{first}], which the first server has and wsteady takes for \
             all servers of a pool"
        );
        self.draft.note(place, message);
    }

    /// Leaves out names that need not, or must not, be said.
    fn only(
        &mut self,
        list: GivenList,
        key: &str,
        needless: impl Fn(&str) -> Option<&'static str>,
    ) -> GivenList {
        let mut kept = GivenList {
            items: Vec::new(),
            place: list.place,
        };
        for name in list.items {
            match needless(&name) {
                Some(why) => self
                    .draft
                    .note(&kept.place, format!("{key}: {name} is left out: {why}")),
                None => kept.items.push(name),
            }
        }
        kept
    }

    fn no_buffer(&mut self, node: Option<&Node>, key: &str, variable: &str) {
        if let Some(given) = self.given(node, key, variable) {
            let message = format!("{key}: a loop's sessions share one buffer; left out");
            self.draft.note(&given.place, message);
        }
    }

    fn put_time(&mut self, path: &[&str], key: &str, given: &Given) {
        let time = self
            .draft
            .take(key, &given.place, go::duration(&given.text));
        if let Some(time) = time {
            self.draft.put(path, &duration_text(time), &given.place);
        }
    }

    fn boolean(&mut self, key: &str, given: &Given) -> Option<bool> {
        self.draft.take(key, &given.place, go::boolean(&given.text))
    }

    fn int(&mut self, key: &str, given: Option<Given>) -> Option<(i64, Place)> {
        let given = given?;
        let number = self.draft.take(key, &given.place, go::int(&given.text))?;
        Some((number, given.place))
    }

    /// A value if there is one, else its default, where that counts.
    fn pick(
        &mut self,
        node: Option<&Node>,
        key: &str,
        variable: &str,
        default: &str,
    ) -> Option<Given> {
        let zero = |given: &Given| matches!(given.text.as_str(), "" | "0" | "0s");
        // wsbalancer takes a zero for nothing.
        let given = self.given(node, key, variable).filter(|given| !zero(given));
        let usual = || Given {
            text: default.to_owned(),
            place: default_place(),
        };
        given.or_else(|| self.complete.then(usual))
    }

    /// The variable's value if it is set, else the file's.
    fn given(&mut self, node: Option<&Node>, key: &str, variable: &str) -> Option<Given> {
        if let Some(text) = self.variable(variable) {
            let place = Place::named(variable);
            return Some(Given {
                text: text.to_owned(),
                place,
            });
        }
        let node = node?.find(key)?;
        match &node.value {
            Value::Scalar(text) => Some(Given {
                text: text.clone(),
                place: node.place.clone(),
            }),
            Value::Null => None,
            Value::List(_) | Value::Map(_) => {
                self.draft
                    .problem(&node.place, format!("{key}: must be one value"));
                None
            }
        }
    }

    /// As [`Reader::given`], for lists; a variable lists by comma. An empty one is none.
    fn list(&mut self, node: Option<&Node>, key: &str, variable: &str) -> Option<GivenList> {
        if let Some(text) = self.variable(variable) {
            let items = text.split(',').map(|item| item.trim().to_owned()).collect();
            return Some(GivenList {
                items,
                place: Place::named(variable),
            });
        }
        let node = node?.find(key)?;
        let Value::List(nodes) = &node.value else {
            if node.value != Value::Null {
                self.draft
                    .problem(&node.place, format!("{key}: must be a list; write [ … ]"));
            }
            return None;
        };
        let mut items = Vec::new();
        for item in nodes {
            match &item.value {
                Value::Scalar(text) => items.push(text.clone()),
                _ => self
                    .draft
                    .problem(&item.place, format!("{key}: must be a list of values")),
            }
        }
        (!items.is_empty()).then(|| GivenList {
            items,
            place: node.place.clone(),
        })
    }

    fn variable(&self, name: &str) -> Option<&'a str> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A section of the file, its keys checked.
    fn section(&mut self, path: &[&str], known: &[&str]) -> Option<&'a Node> {
        let mut node = self.file?;
        for key in path {
            node = node.find(key)?;
        }
        self.check_keys(node, known, &format!("{}.", path.join(".")));
        Some(node)
    }

    /// wsbalancer runs with keys that it doesn't know, and so do files in the wild. wsteady's own
    /// beside its sections are another matter: they would be thought to count.
    fn check_keys(&mut self, node: &Node, known: &[&str], path: &str) {
        let entries: &[Entry] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            Value::Scalar(_) | Value::List(_) => {
                let message = format!("{path}: must be a map of these keys: {}", known.join(", "));
                self.draft.problem(&node.place, message.replace(".:", ":"));
                &[]
            }
        };
        for entry in entries {
            let key = entry.key.as_str();
            if known.contains(&key) {
                continue;
            }
            if path.is_empty() && keys::ROOT.keys.contains(&key) {
                let message = format!(
                    "{key}: is wsteady's own; a file with `server` or `upstream` is wsbalancer's alone"
                );
                self.draft.problem(&entry.place, message);
                continue;
            }
            let message =
                super::unknown(key, known).replacen("unknown key", "unknown key, left out", 1);
            self.draft.note(&entry.place, format!("{path}{message}"));
        }
    }
}

/// What the file calls host and port, as wsbalancer makes an id of it.
fn default_id(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let plain = |one: char| {
        if one.is_ascii_alphanumeric() {
            one
        } else {
            '-'
        }
    };
    rest[..end].chars().map(plain).collect()
}

/// Whether wsteady writes a header itself, whatever its lists say.
fn is_own(name: &str) -> bool {
    parse::header_name(name).is_ok() && parse::free_header_name(name).is_err()
}

fn in_id(one: char) -> bool {
    one.is_ascii_alphanumeric() || "-._~:@".contains(one)
}

/// The pools of wsteady's own file that wsbalancer's variables can mean.
fn websocket_pools(root: &Node) -> Vec<String> {
    let Some(Node {
        value: Value::Map(entries),
        ..
    }) = root.find("pools")
    else {
        return Vec::new();
    };
    let speaks = |entry: &&Entry| match entry.node.find("kind").map(|node| &node.value) {
        None => matches!(entry.node.value, Value::Map(_)),
        Some(kind) => *kind == Value::Scalar("websocket".into()),
    };
    entries
        .iter()
        .filter(speaks)
        .map(|entry| entry.key.clone())
        .collect()
}

fn default_place() -> Place {
    Place::named("wsbalancer's default")
}

const FILE: &[&str] = &["server", "upstream"];

const SERVER: &[&str] = &[
    "frontend",
    "admin",
    "read-buffer-size",
    "write-buffer-size",
    "trust-received-xff",
    "block-headers",
    "reconnect-header",
    "enable-instrumentation",
    "logging-level",
];

/// wsbalancer's own spelling, and the one that people correct it to.
const FRONTEND: &[&str] = &[
    "address",
    "read-timeout",
    "wite-timeout",
    "write-timeout",
    "max-header-bytes",
];

const ADMIN: &[&str] = FRONTEND;

/// Of one backend: in the file, and in a request for another one.
pub(crate) const BACKEND: &[&str] = &[
    "url",
    "id",
    "ping-time",
    "read-buffer-size",
    "write-buffer-size",
    "breaker-threshold",
    "handshake-timeout",
    "pass-headers",
    "abnormal-close-codes",
];

/// All that wsbalancer reads.
pub(crate) const VARIABLES: &[&str] = &[
    "FE_ADDR",
    "FE_READ_TIMEOUT",
    "FE_WRITE_TIMEOUT",
    "FE_MAX_HDR_BYTES",
    "FE_RB_SIZE",
    "FE_WB_SIZE",
    "FE_TRUST_XFF",
    "ADM_ADDR",
    "ADM_READ_TIMEOUT",
    "ADM_WRITE_TIMEOUT",
    "ADM_MAX_HDR_BYTES",
    "BLOCK_HEADERS",
    "RECONNECT_HDR",
    "ENABLE_INST",
    "LOG_LEVEL",
    "BE_URLS",
    "BE_URL_IDS",
    "BE_PING_TIME",
    "BE_RB_SIZE",
    "BE_WB_SIZE",
    "BE_BREAKER_THRESHOLD",
    "BE_HANDSHAKE_TIMEOUT",
    "BE_PASS_HEADERS",
    "BE_ABNORMAL_CLOSE_CODES",
];

const TIMES: &[(&str, &str, &str)] = &[
    ("ping-time", "BE_PING_TIME", "10m"),
    ("handshake-timeout", "BE_HANDSHAKE_TIMEOUT", "10s"),
];

/// The keys of a pool for [`TIMES`].
const TIME_KEYS: [&[&str; 2]; 2] = [&["timeouts", "ping"], &["timeouts", "handshake"]];

/// `timeouts.connect`, which has no key of its own in wsbalancer: less, if the whole has less.
const CONNECT: Duration = Duration::from_secs(2);

const RECONNECT: &str = "X-Balancer-Reconnect";

/// wsbalancer's list, which has no 1012.
const CODES: [&str; 5] = ["1001", "1005", "1006", "1011", "1013"];

const LEVELS: &[(&str, LogLevel)] = &[
    ("TRACE", LogLevel::Trace),
    ("DEBUG", LogLevel::Debug),
    ("INFO", LogLevel::Info),
    ("WARN", LogLevel::Warn),
    ("PANIC", LogLevel::Error),
    ("FATAL", LogLevel::Error),
];

const EVERYBODY: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// Loopback, RFC 1918 and RFC 4193.
const PRIVATE: [&str; 6] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "::1/128",
    "fc00::/7",
];
