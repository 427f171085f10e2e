//! The `pools:` section.

use super::keys;
use super::read::{Fields, Findings, LATER, read_session};
use super::tree::{Node, Value};
use super::{
    BreakerConfig, PoolConfig, Scheme, ServerConfig, ServerUrl, SessionConfig, Target,
    TimeoutsConfig, parse,
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
        let new = PoolConfig::new(entry.key.as_str(), session.clone());
        pools.extend(read_pool(&entry.node, &path, new, findings));
    }
    pools
}

/// `None`: a kind that this version can't read. Its other keys would only raise more complaints.
fn read_pool(
    node: &Node,
    path: &str,
    mut pool: PoolConfig,
    findings: &mut Findings,
) -> Option<PoolConfig> {
    if later_kind(node) {
        let kind = format!("{path}.kind");
        findings.problem(&kind, &kind_place(node), LATER);
        return None;
    }
    let fields = findings.section(node, path, &keys::POOL);
    findings.fill(&fields, "kind", &mut pool.kind, parse::word);
    findings.fill(&fields, "balance", &mut pool.balance, |text| match text {
        "hash" | "adaptive" => Err(LATER.into()),
        _ => parse::word(text),
    });
    findings.fill(&fields, "target", &mut pool.target, parse::word);
    let target = pool.target;
    let server = |node: &Node, path: &str, findings: &mut Findings| {
        read_server(node, path, target, findings)
    };
    pool.servers = findings
        .list(&fields, "servers", server)
        .unwrap_or_default();
    read_breaker(&fields, &mut pool.breaker, findings);
    let rate = parse::number_within(1, u32::MAX);
    findings.fill(&fields, "connect_rate", &mut pool.connect_rate, rate);
    let codes = &mut pool.abnormal_close_codes;
    findings.fill_list(&fields, "abnormal_close_codes", codes, parse::close_code);
    codes.sort_unstable();
    codes.dedup();
    let (pass, block) = (&mut pool.pass_headers, &mut pool.block_headers);
    findings.fill_list(&fields, "pass_headers", pass, parse::free_header_name);
    findings.fill_list(
        &fields,
        "block_headers",
        block,
        parse::blockable_header_name,
    );
    read_timeouts(&fields, &mut pool.timeouts, findings);
    findings.fill_list(
        &fields,
        "source_addresses",
        &mut pool.source_addresses,
        parse::ip,
    );
    findings.only(&fields, "dns", "30s");
    read_session(&fields, &mut pool.session, findings);
    Some(pool)
}

fn later_kind(pool: &Node) -> bool {
    let kind = kind_node(pool).map(|node| &node.value);
    matches!(kind, Some(Value::Scalar(kind)) if kind == "bridge" || kind == "http")
}

fn kind_place(pool: &Node) -> super::Place {
    kind_node(pool).unwrap_or(pool).place.clone()
}

fn kind_node(pool: &Node) -> Option<&Node> {
    let Value::Map(entries) = &pool.value else {
        return None;
    };
    entries
        .iter()
        .find(|entry| entry.key == "kind")
        .map(|entry| &entry.node)
}

/// `{ url: …, id: …, weight: … }`, or the URL alone. Ids that are not given are made by the checks.
fn read_server(
    node: &Node,
    path: &str,
    target: Target,
    findings: &mut Findings,
) -> Option<ServerConfig> {
    if let Value::Scalar(text) = &node.value {
        let url = findings.note(path, &node.place, websocket_url(text, target))?;
        return Some(ServerConfig {
            url,
            id: String::new(),
            weight: 1,
        });
    }
    let fields = findings.section(node, path, &keys::SERVER);
    let (mut url, mut id, mut weight) = (None, String::new(), 1);
    findings.fill(&fields, "url", &mut url, |text| {
        websocket_url(text, target).map(Some)
    });
    findings.need(&fields, "url", &node.place, "write ws://host:port");
    findings.fill(&fields, "id", &mut id, parse::name);
    // As many steps as a 16-bit share has; beyond it the exact round would take hours.
    findings.fill(
        &fields,
        "weight",
        &mut weight,
        parse::number_within(0, 65535),
    );
    Some(ServerConfig {
        url: url?,
        id,
        weight,
    })
}

/// A server's URL in the form that its pool's target needs.
fn websocket_url(text: &str, target: Target) -> Result<ServerUrl, String> {
    let mut url = ServerUrl::parse(text)?;
    match url.scheme {
        Scheme::Ws => {}
        Scheme::Wss => return Err(format!("{text:?}: this build has no TLS; write ws://")),
        Scheme::Http | Scheme::Https => {
            return Err(format!(
                "{text:?} does not fit a pool of kind websocket; write ws://"
            ));
        }
    }
    match target {
        Target::Append if url.path.contains('?') => {
            Err(format!("{text:?} has a query; that needs `target: fixed`"))
        }
        // The client's path follows, and it begins with a slash.
        Target::Append => {
            url.path.truncate(url.path.trim_end_matches('/').len());
            Ok(url)
        }
        Target::Fixed if url.path.is_empty() => Ok(ServerUrl {
            path: "/".into(),
            ..url
        }),
        Target::Fixed => Ok(url),
    }
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
    findings.only(&fields, "response", "60s");
    findings.fill(&fields, "ping", &mut timeouts.ping, parse::some_time);
    findings.fill(&fields, "pong", &mut timeouts.pong, parse::some_time);
    findings.fill(&fields, "close", &mut timeouts.close, parse::some_time);
}
