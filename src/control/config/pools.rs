//! The `pools:` section.

use super::keys;
use super::read::{Fields, Findings, read_session};
#[cfg(feature = "tls")]
use super::tls;
use super::tree::{Node, Value};
use super::{
    Balance, BreakerConfig, Expect, PoolConfig, PoolKind, Scheme, ServerConfig, ServerUrl,
    SessionConfig, Target, TimeoutsConfig, parse,
};

/// Reads all pools; each starts from the global session settings.
pub(super) fn read_pools(
    root: &Fields<'_>,
    session: &SessionConfig,
    findings: &mut Findings,
) -> Vec<PoolConfig> {
    let Some(node) = root.find("pools") else {
        return Vec::new();
    };
    let entries = match &node.value {
        Value::Map(entries) => entries,
        Value::Null => return Vec::new(),
        Value::Scalar(_) | Value::List(_) => {
            findings.pools_unreadable = true;
            findings.problem(
                "pools",
                &node.place,
                "must be a map of pools by their names",
            );
            return Vec::new();
        }
    };
    let mut pools = Vec::new();
    for entry in entries {
        let path = format!("pools.{}", entry.key);
        findings.pool_names.push(entry.key.clone());
        findings.note(&path, &entry.place, parse::name(&entry.key));
        let fields = findings.section(&entry.node, &path, &keys::POOL);
        // Under a wrong kind all other keys would only raise more complaints.
        if let Some(kind) = read_kind(&fields, findings) {
            let mut pool = PoolConfig::new(entry.key.as_str(), kind, session.clone());
            read_pool(&fields, &mut pool, findings);
            pools.push(pool);
        }
    }
    pools
}

/// `None`: the kind that is given is none.
fn read_kind(fields: &Fields<'_>, findings: &mut Findings) -> Option<PoolKind> {
    let mut kind = match fields.find("kind") {
        Some(_) => None,
        None => Some(PoolKind::default()),
    };
    findings.fill(fields, "kind", &mut kind, |text| match text {
        "nats" if cfg!(not(feature = "nats")) => {
            Err("this build has no NATS; take one that was built with `--features nats`".into())
        }
        text => parse::word(text).map(Some),
    });
    kind
}

/// Reads all but the kind.
fn read_pool(fields: &Fields<'_>, pool: &mut PoolConfig, findings: &mut Findings) {
    let kind = pool.kind;
    read_balance(fields, pool, findings);
    findings.fill(fields, "target", &mut pool.target, |text| {
        match (kind, parse::word(text)?) {
            (PoolKind::Websocket, target) | (_, target @ Target::Append) => Ok(target),
            (_, Target::Fixed) => Err(format!(
                "\"fixed\" is for pools of kind websocket, not {kind}; write append"
            )),
        }
    });
    let target = pool.target;
    let server = |node: &Node, path: &str, findings: &mut Findings| {
        read_server(node, path, (kind, target), findings)
    };
    pool.servers = findings.list(fields, "servers", server).unwrap_or_default();
    read_health(fields, pool, findings);
    read_breaker(fields, &mut pool.breaker, findings);
    let rate = parse::number_within(1, u32::MAX);
    findings.fill(fields, "connect_rate", &mut pool.connect_rate, rate);
    let codes = &mut pool.abnormal_close_codes;
    findings.fill_list(fields, "abnormal_close_codes", codes, parse::close_code);
    codes.sort_unstable();
    codes.dedup();
    let (pass, block) = (&mut pool.pass_headers, &mut pool.block_headers);
    findings.fill_list(fields, "pass_headers", pass, parse::free_header_name);
    findings.fill_list(fields, "block_headers", block, parse::blockable_header_name);
    read_timeouts(fields, &mut pool.timeouts, findings);
    findings.fill_list(
        fields,
        "source_addresses",
        &mut pool.source_addresses,
        parse::ip,
    );
    #[cfg(feature = "tls")]
    tls::read_pool(fields, pool, findings);
    findings.fill(
        fields,
        "proxy_protocol",
        &mut pool.proxy_protocol,
        |text| match kind {
            #[cfg(feature = "nats")]
            PoolKind::Nats => Err("NATS servers know no such header; leave the key out".into()),
            _ => parse::word(text).map(Some),
        },
    );
    findings.fill(fields, "dns", &mut pool.dns, parse::pause);
    read_connections(fields, pool, findings);
    #[cfg(feature = "nats")]
    read_nats(fields, pool, findings);
    read_session(fields, &mut pool.session, findings);
}

fn read_balance(fields: &Fields<'_>, pool: &mut PoolConfig, findings: &mut Findings) {
    let mut balance = match fields.find("balance") {
        Some(_) => None,
        None => Some(Balance::default()),
    };
    findings.fill(fields, "balance", &mut balance, |text| {
        parse::word(text).map(Some)
    });
    pool.balance = balance.unwrap_or_default();
    // Beside a balance that is none, there is nothing more to say.
    findings.fill(fields, "hash", &mut pool.hash, |text| match balance {
        Some(Balance::Hash) | None => parse::hash_by(text),
        Some(other) => Err(format!(
            "only balance: hash looks at it, not {other}; write balance: hash, or leave the key out"
        )),
    });
}

fn read_health(pool: &Fields<'_>, into: &mut PoolConfig, findings: &mut Findings) {
    if pool.find("health").is_none() {
        return;
    }
    let kind = into.kind;
    let mut health = kind.health();
    let fields = findings.subsection(pool, "health", &keys::HEALTH);
    findings.fill(&fields, "path", &mut health.path, parse::probe_path);
    let times = [&mut health.interval, &mut health.timeout];
    for (key, time) in ["interval", "timeout"].into_iter().zip(times) {
        findings.fill(&fields, key, time, parse::some_time);
    }
    findings.fill(&fields, "rise", &mut health.rise, parse::count);
    findings.fill(&fields, "fall", &mut health.fall, parse::count);
    findings.fill(&fields, "expect", &mut health.expect, |text| {
        match (parse::word(text)?, kind) {
            #[cfg(feature = "nats")]
            (Expect::Status | Expect::JsonStatus | Expect::Websocket, PoolKind::Nats) => {
                Err(format!("{text:?} asks for HTTP, which NATS servers don't speak; write tcp"))
            }
            (Expect::Websocket, PoolKind::Bridge | PoolKind::Http) => Err(format!(
                "\"websocket\" is for pools of kind websocket, not {kind}; write status, json-status or tcp"
            )),
            (expect, _) => Ok(expect),
        }
    });
    into.health = Some(health);
}

/// `{ url: …, id: …, weight: … }`, or the URL alone. Ids that are not given are made by the checks.
fn read_server(
    node: &Node,
    path: &str,
    (kind, target): (PoolKind, Target),
    findings: &mut Findings,
) -> Option<ServerConfig> {
    let parse_url = |text: &str| server_url(text, kind, target);
    if let Value::Scalar(text) = &node.value {
        let url = findings.note(path, &node.place, parse_url(text))?;
        return Some(ServerConfig {
            url,
            id: String::new(),
            weight: 1,
        });
    }
    let fields = findings.section(node, path, &keys::SERVER);
    let (mut url, mut id, mut weight) = (None, String::new(), 1);
    findings.fill(&fields, "url", &mut url, |text| parse_url(text).map(Some));
    let (_, form) = url_form(kind);
    findings.need(&fields, "url", &node.place, &format!("write {form}"));
    findings.fill(&fields, "id", &mut id, parse::name);
    findings.fill(
        &fields,
        "weight",
        &mut weight,
        parse::number_within(0, WEIGHT_MAX),
    );
    Some(ServerConfig {
        url: url?,
        id,
        weight,
    })
}

impl PoolConfig {
    /// A server of this pool, as the file would have it.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn server(&self, url: &str, id: Option<&str>, weight: u32) -> Result<ServerConfig, String> {
        let url = server_url(url, self.kind, self.target)?;
        let id = match id {
            Some(id) => parse::name(id)?,
            None => url.default_id(),
        };
        Ok(ServerConfig { url, id, weight })
    }
}

/// As many steps as a 16-bit share has; beyond it the exact round would take hours.
pub const WEIGHT_MAX: u32 = 65_535;

/// A server's URL in the form that its pool's kind and target need.
fn server_url(text: &str, kind: PoolKind, target: Target) -> Result<ServerUrl, String> {
    let (scheme, form) = url_form(kind);
    let url = ServerUrl::parse(text).map_err(|why| format!("{why}; write {form}"))?;
    let short = scheme.text();
    let secure = url.scheme.is_secure();
    if secure && cfg!(not(feature = "tls")) {
        return Err(format!("{text:?}: this build has no TLS; write {short}://"));
    }
    if url.scheme.in_the_clear() != scheme {
        let short = if secure {
            scheme.secured().text()
        } else {
            short
        };
        return Err(format!(
            "{text:?} does not fit a pool of kind {kind}; write {short}://"
        ));
    }
    let query = url.path.contains('?');
    match (kind, target) {
        (PoolKind::Bridge, _) if query => Err(format!(
            "{text:?} has a query, but the ClientId goes behind it; write {form}"
        )),
        (PoolKind::Bridge, _) if !url.path.ends_with('/') => Err(format!(
            "{text:?} does not end in `/`, and the ClientId goes behind it; write {text}/"
        )),
        (PoolKind::Bridge, _) => Ok(url),
        (PoolKind::Http, _) if query => Err(format!(
            "{text:?} has a query, but the client's target goes behind it; write {form}"
        )),
        (PoolKind::Websocket, Target::Append) if query => {
            Err(format!("{text:?} has a query; that needs `target: fixed`"))
        }
        // The client's path follows, and it begins with a slash.
        (PoolKind::Http, _) | (PoolKind::Websocket, Target::Append) => Ok(ServerUrl {
            path: url.path.trim_end_matches('/').into(),
            ..url
        }),
        (PoolKind::Websocket, Target::Fixed) if url.path.is_empty() => Ok(ServerUrl {
            path: "/".into(),
            ..url
        }),
        (PoolKind::Websocket, Target::Fixed) => Ok(url),
        #[cfg(feature = "nats")]
        (PoolKind::Nats, _) if !matches!(&*url.path, "" | "/") => Err(format!(
            "{text:?} has a path, but subjects begin with nats.prefix; write {form}"
        )),
        #[cfg(feature = "nats")]
        (PoolKind::Nats, _) => Ok(ServerUrl {
            path: String::new(),
            ..url
        }),
    }
}

/// The scheme of a kind's URLs, and one to write.
fn url_form(kind: PoolKind) -> (Scheme, &'static str) {
    match kind {
        PoolKind::Websocket => (Scheme::Ws, "ws://host:port"),
        PoolKind::Bridge => (Scheme::Http, "http://host:port/"),
        PoolKind::Http => (Scheme::Http, "http://host:port"),
        #[cfg(feature = "nats")]
        PoolKind::Nats => (Scheme::Nats, "nats://host:port"),
    }
}

#[cfg(feature = "nats")]
fn read_nats(pool: &Fields<'_>, into: &mut PoolConfig, findings: &mut Findings) {
    let kind = into.kind;
    if kind != PoolKind::Nats {
        if let Some(node) = pool.find("nats") {
            let message = format!("is for pools of kind nats, not {kind}; leave the key out");
            findings.problem(&pool.path_of("nats"), &node.place, &message);
        }
        return;
    }
    let nats = &mut into.nats;
    let fields = findings.subsection(pool, "nats", &keys::NATS);
    findings.fill(&fields, "prefix", &mut nats.prefix, parse::nats_prefix);
    findings.fill(&fields, "jetstream", &mut nats.jetstream, parse::boolean);
    findings.fill(&fields, "user", &mut nats.user, |text| {
        parse::visible(text).map(Some)
    });
    findings.fill(&fields, "password", &mut nats.password, parse::token);
    findings.fill(&fields, "token", &mut nats.token, parse::token);
}

fn read_connections(pool: &Fields<'_>, into: &mut PoolConfig, findings: &mut Findings) {
    let kind = into.kind;
    let Some(connections) = &mut into.connections else {
        let path = pool.path_of("connections");
        let message = format!(
            "a pool of kind {kind} shares none: each session has its own; leave the key out"
        );
        if let Some(node) = pool.find("connections") {
            findings.problem(&path, &node.place, &message);
        }
        return;
    };
    let fields = findings.subsection(pool, "connections", &keys::CONNECTIONS);
    let any = || parse::number_within(0, u32::MAX);
    let some = parse::number_within(1, u32::MAX);
    findings.fill(&fields, "min", &mut connections.min, any());
    findings.fill(&fields, "max", &mut connections.max, some);
    findings.fill(&fields, "idle", &mut connections.idle, parse::some_time);
    let waits =
        || Err("a message waits in its journal; there is no queue; leave the key out".to_owned());
    let queue = |text: &str| match kind.is_bridge() {
        true => waits(),
        false => any()(text).map(Some),
    };
    findings.fill(&fields, "queue", &mut connections.queue, queue);
    let status = &mut connections.full_status;
    findings.fill(&fields, "full_status", status, |text| {
        match kind.is_bridge() {
            true => waits().map(|_: Option<u32>| 0),
            false => parse::full_status(text),
        }
    });
}

fn read_breaker(pool: &Fields<'_>, breaker: &mut BreakerConfig, findings: &mut Findings) {
    let fields = findings.subsection(pool, "breaker", &keys::BREAKER);
    let threshold = parse::number_within(1, u32::MAX);
    findings.fill(&fields, "threshold", &mut breaker.threshold, threshold);
    findings.fill(&fields, "cooldown", &mut breaker.cooldown, parse::some_time);
}

fn read_timeouts(pool: &Fields<'_>, timeouts: &mut TimeoutsConfig, findings: &mut Findings) {
    let fields = findings.subsection(pool, "timeouts", &keys::TIMEOUTS);
    findings.fill(&fields, "connect", &mut timeouts.connect, parse::some_time);
    findings.fill(
        &fields,
        "handshake",
        &mut timeouts.handshake,
        parse::some_time,
    );
    findings.fill(
        &fields,
        "response",
        &mut timeouts.response,
        parse::some_time,
    );
    findings.fill(&fields, "ping", &mut timeouts.ping, parse::some_time);
    findings.fill(&fields, "pong", &mut timeouts.pong, parse::some_time);
    findings.fill(&fields, "close", &mut timeouts.close, parse::some_time);
}
