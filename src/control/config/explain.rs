//! A configuration said back: sentences as comments, and YAML that reads back as the same.

use std::fmt::{Display, Write};
#[cfg(feature = "tls")]
use std::path::Path;

use super::parse::MASK;
use super::{
    AdminConfig, Balance, ClusterConfig, Config, Confirm, ConnectionsConfig, Expect, HashBy,
    HealthConfig, ListenConfig, Loops, OnDuplicate, Overflow, PoolConfig, PoolKind, PushConfig,
    RouteConfig, Secret, ServerConfig, SessionConfig, Target, duration_text, size_text,
};
#[cfg(feature = "tls")]
use super::{CertificateConfig, ClientAuth, ListenTlsConfig, PoolTlsConfig};

/// What `wsteady check` prints. The whole text is YAML in which tokens are masked; without tokens
/// it reads back to an equal [`Config`].
pub fn explain(config: &Config) -> String {
    let mut page = Page::default();
    sentences(config, &mut page);
    page.line("");
    globals(config, &mut page);
    routes(&config.routes, &mut page);
    page.line("pools:");
    for config in &config.pools {
        pool(config, &mut page);
    }
    page.text
}

fn sentences(config: &Config, page: &mut Page) {
    let addresses: Vec<String> = config.listen.iter().map(place_of).collect();
    let loops = match config.loops {
        Loops::Auto => "one loop per core".to_owned(),
        Loops::Count(1) => "one loop".to_owned(),
        Loops::Count(count) => format!("{count} loops"),
    };
    page.say(&format!(
        "Clients are taken on {}, by {loops}.",
        addresses.join(", ")
    ));
    let token = if config.admin.token.is_some() {
        ", with a token"
    } else {
        ", without a token"
    };
    let sealed = if admin_is_sealed(config) {
        ", with TLS"
    } else {
        ""
    };
    page.say(&format!(
        "The admin address is {}{sealed}{token}.",
        config.admin.address
    ));
    if !config.routes.is_empty() {
        page.say("The first route that matches decides; a request without one gets 404.");
    } else if config.pools.len() == 1 {
        page.say("Every request goes to the only pool.");
    } else {
        for pool in &config.pools {
            let wanted = match pool.kind.wants_upgrades() {
                true => "Upgrades",
                false => "Requests that are no upgrades",
            };
            page.say(&format!("{wanted} go to pool {}.", pool.name));
        }
    }
    for pool in &config.pools {
        pool_sentences(pool, page);
    }
    if config.pools.iter().any(|pool| pool.kind.is_bridge()) {
        push_sentence(&config.push, page);
        if let Some(cluster) = &config.cluster {
            cluster_sentences(cluster, page);
        }
    }
    page.say(&format!(
        "All journals and queues together hold at most {}; one session at most {}.",
        size_text(config.limits.memory),
        size_text(session_bytes_max(config)),
    ));
    let drain = duration_text(config.drain);
    page.say(&format!(
        "A stop closes the sessions one by one over {drain}."
    ));
}

/// An address, and what is special about it.
fn place_of(listen: &ListenConfig) -> String {
    let mut place = listen.address.to_string();
    #[cfg(feature = "tls")]
    if let Some(tls) = &listen.tls {
        place.push_str(" (TLS");
        place.push_str(match (&tls.client_ca, tls.client_auth) {
            (None, _) => ")",
            (Some(_), ClientAuth::Require) => ", with a certificate of the client)",
            (Some(_), ClientAuth::Optional) => ", with a certificate of the client if it has one)",
        });
    }
    if listen.proxy_protocol {
        place.push_str(" (from trusted_proxies alone, with a PROXY header)");
    }
    place
}

fn admin_is_sealed(config: &Config) -> bool {
    #[cfg(feature = "tls")]
    let sealed = config.admin.tls.is_some();
    #[cfg(not(feature = "tls"))]
    let sealed = {
        let _ = config;
        false
    };
    sealed
}

/// A session begins no message beyond its buffer, and reads one that has begun to its end.
fn session_bytes_max(config: &Config) -> u64 {
    let buffers = config.pools.iter().map(|pool| pool.session.buffer);
    let buffer = buffers.max().unwrap_or(config.session.buffer);
    let both = buffer.saturating_add(config.limits.message);
    both.min(config.limits.memory)
}

fn push_sentence(push: &PushConfig, page: &mut Page) {
    let token = if push.token.is_some() {
        "with the token"
    } else {
        "without a token"
    };
    let allowed: Vec<String> = push.allow.iter().map(ToString::to_string).collect();
    let others = match allowed.is_empty() {
        true => String::new(),
        false => format!(", and from {}", allowed.join(", ")),
    };
    page.say(&format!(
        "Pushes are taken at {}<ClientId>, {token}, from loopback and the bridges' servers{others}.",
        push.path
    ));
}

fn cluster_sentences(cluster: &ClusterConfig, page: &mut Page) {
    #[cfg(feature = "nats")]
    if let Some(bus) = &cluster.bus {
        let servers: Vec<String> = bus.nats.iter().map(ToString::to_string).collect();
        return page.say(&format!(
            "A push for a client who is not here is asked of the other nodes over NATS ({}), within {}.",
            servers.join(", "),
            duration_text(cluster.timeout)
        ));
    }
    let peers: Vec<String> = cluster.peers.iter().map(ToString::to_string).collect();
    let token = match &cluster.token {
        Some(_) => "with the token",
        None => "without a token, by where they are",
    };
    page.say(&format!(
        "A push for a client who is not here is passed on to {}, within {}; theirs are taken {token}.",
        peers.join(", "),
        duration_text(cluster.timeout)
    ));
    let named = cluster.peers.iter().any(|peer| peer.literal().is_none());
    if named {
        page.say(&match cluster.dns.is_zero() {
            true => "Names of peers are resolved once, at the start.".to_owned(),
            false => format!(
                "Names of peers are resolved again every {}; each address is a peer.",
                duration_text(cluster.dns)
            ),
        });
    }
}

fn pool_sentences(pool: &PoolConfig, page: &mut Page) {
    let servers = match pool.servers.len() {
        1 => "one server".to_owned(),
        count => format!("{count} servers"),
    };
    page.say(&format!(
        "Pool {} ({}): {servers}, chosen by {}.",
        pool.name, pool.kind, pool.balance
    ));
    balance_sentence(pool, page);
    dns_sentence(pool, page);
    health_sentences(pool.health.as_ref(), page);
    match pool.kind {
        PoolKind::Websocket => confirm_sentence(pool.session.confirm, page),
        PoolKind::Bridge => bridge_sentences(pool, page),
        PoolKind::Http => {}
        #[cfg(feature = "nats")]
        PoolKind::Nats => nats_sentences(pool, page),
    }
    if pool.kind != PoolKind::Http {
        session_sentences(&pool.session, page);
    }
    if let Some(connections) = &pool.connections {
        connections_sentence(connections, page);
    }
    if pool.target == Target::Fixed {
        page.say("  Servers are asked for their own URL, whatever the client asked for.");
    }
}

fn balance_sentence(pool: &PoolConfig, page: &mut Page) {
    let same = |what: &str| format!("  Clients with the same {what} get the same server.");
    match (pool.balance, &pool.hash) {
        (Balance::Hash, HashBy::Id) => page.say(&same("first segment of their path")),
        (Balance::Hash, HashBy::Address) => page.say(&same("address")),
        (Balance::Hash, HashBy::Header(name)) => page.say(&same(&format!("header {name}"))),
        (Balance::Adaptive, _) => page
            .say("  A server's share follows what cpu and memory in its health answer leave free."),
        (Balance::RoundRobin | Balance::Random | Balance::LeastConnections, _) => {}
    }
}

fn dns_sentence(pool: &PoolConfig, page: &mut Page) {
    if !pool.servers.iter().any(|server| server.url.is_named()) {
        return;
    }
    page.say(&match pool.dns.is_zero() {
        true => "  Server names are resolved once, at the start.".to_owned(),
        false => format!(
            "  Server names are resolved again every {}; each address is a server.",
            duration_text(pool.dns)
        ),
    });
}

fn health_sentences(health: Option<&HealthConfig>, page: &mut Page) {
    let Some(health) = health else {
        return page.say("  Servers are not probed.");
    };
    let (interval, timeout) = (
        duration_text(health.interval),
        duration_text(health.timeout),
    );
    let path = &health.path;
    let good = match health.expect {
        Expect::Status => format!("GET {path} must be answered with 2xx"),
        Expect::JsonStatus => {
            format!("GET {path} must be answered with 2xx and JSON whose status is 200")
        }
        Expect::Tcp => "it must take a connection".into(),
        Expect::Websocket => format!("an upgrade of {path} must succeed"),
    };
    page.say(&format!(
        "  Each server is probed every {interval}: {good} within {timeout}."
    ));
    let times = |count: u8| match count {
        1 => "one".to_owned(),
        count => format!("{count} in a row"),
    };
    page.say(&format!(
        "  Of failed probes, {} and it gets no new sessions; of good ones, {} and it gets them again.",
        times(health.fall),
        times(health.rise)
    ));
}

fn confirm_sentence(confirm: Confirm, page: &mut Page) {
    page.say(match confirm {
        Confirm::Written => {
            "  A message counts as delivered when it was written to a server: at most once."
        }
        Confirm::Received => {
            "  A message counts as delivered when a server answered a Ping behind it: at least once."
        }
        Confirm::Processed => {
            "  A message counts as delivered when a server's application said so: at least once."
        }
    });
}

fn bridge_sentences(pool: &PoolConfig, page: &mut Page) {
    let response = duration_text(pool.timeouts.response);
    page.say(&format!(
        "  A message is a POST, and counts as delivered when it was answered within {response}."
    ));
    page.say(match pool.session.confirm {
        Confirm::Written => "  It is sent to one server alone: at most once.",
        Confirm::Received | Confirm::Processed => {
            "  Without an answer it is sent to another server: at least once."
        }
    });
    duplicate_sentence(&pool.session, page);
}

#[cfg(feature = "nats")]
fn nats_sentences(pool: &PoolConfig, page: &mut Page) {
    let prefix = &pool.nats.prefix;
    let response = duration_text(pool.timeouts.response);
    let who = match pool.nats.jetstream {
        true => "a stream",
        false => "a NATS server",
    };
    page.say(&format!(
        "  A message is published to {prefix}.<ClientId>.in, and counts as delivered when {who} has \
         acknowledged it within {response}."
    ));
    page.say(match (pool.session.confirm, pool.nats.jetstream) {
        (Confirm::Written, _) => "  It is published once: at most once.",
        (_, true) => {
            "  Without that it is published again, with the same Nats-Msg-Id: once, as far as the \
             stream's duplicate window reaches."
        }
        (_, false) => {
            "  Without that it is published again; what nobody has subscribed to is lost."
        }
    });
    page.say(&format!(
        "  What is published to {prefix}.<ClientId>.out goes to the client."
    ));
    duplicate_sentence(&pool.session, page);
}

fn duplicate_sentence(session: &SessionConfig, page: &mut Page) {
    page.say(match session.on_duplicate {
        OnDuplicate::Reject => "  A client whose ClientId is connected is closed with 1008.",
        OnDuplicate::Replace => "  A client whose ClientId comes again is closed with 4409.",
    });
}

fn session_sentences(session: &SessionConfig, page: &mut Page) {
    let hold = duration_text(session.hold);
    page.say(&format!(
        "  A session that loses its server waits up to {hold} for another."
    ));
    let buffer = size_text(session.buffer);
    page.say(&match session.overflow {
        Overflow::Pause => format!("  A client is not read while its session holds {buffer}."),
        Overflow::Close => format!("  A client whose session holds {buffer} is closed with 1013."),
    });
}

fn connections_sentence(connections: &ConnectionsConfig, page: &mut Page) {
    let max = connections.max;
    let waiting = match connections.queue {
        Some(queue) => format!(
            "; {queue} requests may wait for one, others get {}",
            connections.full_status
        ),
        None => String::new(),
    };
    page.say(&format!(
        "  A server gets at most {max} connections{waiting}."
    ));
}

fn globals(config: &Config, page: &mut Page) {
    listen(&config.listen, page);
    admin(&config.admin, page);
    match config.loops {
        Loops::Auto => page.line("loops: auto"),
        Loops::Count(count) => page.line(&format!("loops: {count}")),
    }
    session(&config.session, "", page);
    page.line(&format!(
        "trusted_proxies: {}",
        flow_list(config.trusted_proxies.iter().map(quoted))
    ));
    page.line(&format!(
        "origins: {}",
        flow_list(config.origins.iter().map(quoted))
    ));
    limits(config, page);
    push(&config.push, page);
    if let Some(own) = &config.cluster {
        cluster(own, page);
    }
    page.line(&format!("drain: {}", duration_text(config.drain)));
    page.line(&format!(
        "log: {{ level: {}, format: {} }}",
        config.log.level, config.log.format
    ));
    let names = config.metrics.legacy_names;
    page.line(&format!("metrics: {{ legacy_names: {names} }}"));
}

fn listen(all: &[ListenConfig], page: &mut Page) {
    page.line("listen:");
    for one in all {
        page.line(&format!("  - address: \"{}\"", one.address));
        #[cfg(feature = "tls")]
        if let Some(tls) = &one.tls {
            listen_tls(tls, "    ", page);
        }
        page.pair("    ", "proxy_protocol", one.proxy_protocol);
    }
}

#[cfg(feature = "tls")]
fn listen_tls(tls: &ListenTlsConfig, indent: &str, page: &mut Page) {
    let inner = format!("{indent}  ");
    page.line(&format!("{indent}tls:"));
    let mut all = tls.certificates.iter();
    if let Some(first) = all.next() {
        page.pair(&inner, "cert", file(&first.cert));
        page.pair(&inner, "key", file(&first.key));
    }
    let pair = |one: &CertificateConfig| {
        let (cert, key) = (file(&one.cert), file(&one.key));
        format!("{{ cert: {cert}, key: {key} }}")
    };
    if all.len() > 0 {
        page.pair(&inner, "certificates", flow_list(all.map(pair)));
    }
    if let Some(ca) = &tls.client_ca {
        page.pair(&inner, "client_ca", file(ca));
        // The admin address has no such key; there it is the default.
        if tls.client_auth != ClientAuth::default() {
            page.pair(&inner, "client_auth", tls.client_auth);
        }
    }
    page.pair(&inner, "min_version", format!("\"{}\"", tls.min_version));
}

#[cfg(feature = "tls")]
fn pool_tls(tls: &PoolTlsConfig, page: &mut Page) {
    const INNER: &str = "      ";
    page.line("    tls:");
    if let Some(ca) = &tls.ca {
        page.pair(INNER, "ca", file(ca));
    }
    if let Some(own) = &tls.client {
        page.pair(INNER, "client_cert", file(&own.cert));
        page.pair(INNER, "client_key", file(&own.key));
    }
    if let Some(name) = &tls.server_name {
        page.pair(INNER, "server_name", quoted(name));
    }
    page.pair(INNER, "insecure_skip_verify", tls.insecure_skip_verify);
    page.pair(INNER, "min_version", format!("\"{}\"", tls.min_version));
}

fn admin(admin: &AdminConfig, page: &mut Page) {
    let token = admin.token.as_ref().map_or("", masked);
    page.line("admin:");
    page.pair("  ", "address", format!("\"{}\"", admin.address));
    page.pair("  ", "token", format!("\"{token}\""));
    #[cfg(feature = "tls")]
    if let Some(tls) = &admin.tls {
        listen_tls(tls, "  ", page);
    }
}

fn limits(config: &Config, page: &mut Page) {
    let limits = &config.limits;
    page.line("limits:");
    page.pair("  ", "memory", size_text(limits.memory));
    page.pair("  ", "connections", limits.connections);
    page.pair("  ", "per_address", limits.per_address);
    page.pair("  ", "header", size_text(limits.header));
    page.pair("  ", "message", size_text(limits.message));
    page.pair("  ", "handshake", duration_text(limits.handshake));
    page.pair("  ", "socket_buffer", size_text(limits.socket_buffer));
    page.pair("  ", "fragments", limits.fragments);
    page.pair("  ", "message_time", duration_text(limits.message_time));
    page.pair("  ", "pings", limits.pings);
    page.pair("  ", "min_rate", limits.min_rate);
}

fn push(push: &PushConfig, page: &mut Page) {
    let token = push.token.as_ref().map_or("", masked);
    page.line("push:");
    page.pair("  ", "path", quoted(&push.path));
    page.pair("  ", "allow", flow_list(push.allow.iter().map(quoted)));
    page.pair("  ", "token", format!("\"{token}\""));
}

fn cluster(cluster: &ClusterConfig, page: &mut Page) {
    let token = cluster.token.as_ref().map_or("", masked);
    page.line("cluster:");
    #[cfg(feature = "nats")]
    if let Some(bus) = &cluster.bus {
        let user = bus.user.as_deref().unwrap_or_default();
        let nats = bus.nats.iter().map(|one| quoted(&format!("nats://{one}")));
        page.line("  bus:");
        page.pair("    ", "nats", flow_list(nats));
        page.pair("    ", "prefix", quoted(&bus.prefix));
        page.pair("    ", "user", quoted(&user));
        page.pair(
            "    ",
            "password",
            format!("\"{}\"", bus.password.as_ref().map_or("", masked)),
        );
        page.pair(
            "    ",
            "token",
            format!("\"{}\"", bus.token.as_ref().map_or("", masked)),
        );
        page.pair("  ", "timeout", duration_text(cluster.timeout));
        return;
    }
    page.pair("  ", "peers", flow_list(cluster.peers.iter().map(quoted)));
    page.pair("  ", "token", format!("\"{token}\""));
    page.pair("  ", "timeout", duration_text(cluster.timeout));
    page.pair("  ", "dns", duration_text(cluster.dns));
}

fn session(session: &SessionConfig, indent: &str, page: &mut Page) {
    page.line(&format!("{indent}session:"));
    let inner = format!("{indent}  ");
    page.pair(&inner, "buffer", size_text(session.buffer));
    page.pair(&inner, "hold", duration_text(session.hold));
    page.pair(&inner, "admit", duration_text(session.admit));
    page.pair(&inner, "confirm", session.confirm);
    page.pair(&inner, "overflow", session.overflow);
    page.pair(&inner, "atomic", size_text(session.atomic));
    page.pair(&inner, "replay_attempts", session.replay_attempts);
    let (delay, bytes) = (session.barrier.delay, session.barrier.bytes);
    let barrier = format!(
        "{{ delay: {}, bytes: {} }}",
        duration_text(delay),
        size_text(bytes)
    );
    page.pair(&inner, "barrier", barrier);
    page.pair(&inner, "on_duplicate", session.on_duplicate);
    page.pair(
        &inner,
        "reconnect_header",
        quoted(&session.reconnect_header),
    );
}

fn routes(routes: &[RouteConfig], page: &mut Page) {
    if routes.is_empty() {
        return page.line("routes: []");
    }
    page.line("routes:");
    for route in routes {
        let mut pairs = vec![format!("path: {}", quoted(&route.path))];
        pairs.extend(
            route
                .host
                .as_ref()
                .map(|host| format!("host: {}", quoted(host))),
        );
        pairs.extend(route.upgrade.map(|upgrade| format!("upgrade: {upgrade}")));
        pairs.push(format!("pool: {}", quoted(&route.pool)));
        page.line(&format!("  - {{ {} }}", pairs.join(", ")));
    }
}

fn pool(pool: &PoolConfig, page: &mut Page) {
    const INDENT: &str = "    ";
    page.line(&format!("  {}:", quoted(&pool.name)));
    page.pair(INDENT, "kind", pool.kind);
    servers(&pool.servers, page);
    page.pair(INDENT, "balance", pool.balance);
    if pool.balance == Balance::Hash {
        page.pair(INDENT, "hash", quoted(&pool.hash));
    }
    page.pair(INDENT, "target", pool.target);
    if let Some(own) = &pool.health {
        health(own, page);
    }
    let (threshold, cooldown) = (pool.breaker.threshold, duration_text(pool.breaker.cooldown));
    let breaker = format!("{{ threshold: {threshold}, cooldown: {cooldown} }}");
    page.pair(INDENT, "breaker", breaker);
    page.pair(INDENT, "connect_rate", pool.connect_rate);
    page.pair(
        INDENT,
        "abnormal_close_codes",
        flow_list(pool.abnormal_close_codes.iter()),
    );
    page.pair(
        INDENT,
        "pass_headers",
        flow_list(pool.pass_headers.iter().map(quoted)),
    );
    page.pair(
        INDENT,
        "block_headers",
        flow_list(pool.block_headers.iter().map(quoted)),
    );
    let times = &pool.timeouts;
    page.line(&format!("{INDENT}timeouts:"));
    page.pair("      ", "connect", duration_text(times.connect));
    page.pair("      ", "handshake", duration_text(times.handshake));
    page.pair("      ", "response", duration_text(times.response));
    page.pair("      ", "ping", duration_text(times.ping));
    page.pair("      ", "pong", duration_text(times.pong));
    page.pair("      ", "close", duration_text(times.close));
    let sources = flow_list(pool.source_addresses.iter().map(quoted));
    page.pair(INDENT, "source_addresses", sources);
    #[cfg(feature = "tls")]
    if let Some(own) = &pool.tls {
        pool_tls(own, page);
    }
    if let Some(header) = pool.proxy_protocol {
        page.pair(INDENT, "proxy_protocol", header);
    }
    page.pair(INDENT, "dns", duration_text(pool.dns));
    if let Some(own) = &pool.connections {
        let (min, max, idle) = (own.min, own.max, duration_text(own.idle));
        let queue = own
            .queue
            .map(|queue| format!(", queue: {queue}, full_status: {}", own.full_status));
        let queue = queue.unwrap_or_default();
        let all = format!("{{ min: {min}, max: {max}, idle: {idle}{queue} }}");
        page.pair(INDENT, "connections", all);
    }
    #[cfg(feature = "nats")]
    nats(pool, page);
    session(&pool.session, INDENT, page);
}

#[cfg(feature = "nats")]
fn nats(pool: &PoolConfig, page: &mut Page) {
    if pool.kind != PoolKind::Nats {
        return;
    }
    let own = &pool.nats;
    page.line("    nats:");
    page.pair("      ", "prefix", quoted(&own.prefix));
    page.pair("      ", "jetstream", own.jetstream);
    if let Some(user) = &own.user {
        page.pair("      ", "user", quoted(user));
    }
    for (key, secret) in [("password", &own.password), ("token", &own.token)] {
        let masked = secret.as_ref().map_or("", masked);
        page.pair("      ", key, format!("\"{masked}\""));
    }
}

fn health(health: &HealthConfig, page: &mut Page) {
    const INNER: &str = "      ";
    page.line("    health:");
    page.pair(INNER, "path", quoted(&health.path));
    page.pair(INNER, "interval", duration_text(health.interval));
    page.pair(INNER, "timeout", duration_text(health.timeout));
    page.pair(INNER, "rise", health.rise);
    page.pair(INNER, "fall", health.fall);
    page.pair(INNER, "expect", health.expect);
}

fn servers(servers: &[ServerConfig], page: &mut Page) {
    if servers.is_empty() {
        return page.line("    servers: []");
    }
    page.line("    servers:");
    for server in servers {
        let (url, id) = (quoted(&server.url), quoted(&server.id));
        page.line(&format!(
            "      - {{ url: {url}, id: {id}, weight: {} }}",
            server.weight
        ));
    }
}

fn masked(_: &Secret) -> &'static str {
    MASK
}

/// A YAML double-quoted scalar. What gets here is printable ASCII, checked when it was read.
fn quoted(text: &impl Display) -> String {
    let text = text.to_string();
    debug_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A path, which may have spaces and letters of all languages.
#[cfg(feature = "tls")]
fn file(path: &Path) -> String {
    let text = path.to_string_lossy();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn flow_list(items: impl Iterator<Item = impl Display>) -> String {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    match items.is_empty() {
        true => "[]".into(),
        false => format!("[{}]", items.join(", ")),
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn say(&mut self, sentence: &str) {
        self.line(&format!("# {sentence}"));
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn pair(&mut self, indent: &str, key: &str, value: impl Display) {
        writeln!(self.text, "{indent}{key}: {value}").expect("a String takes everything");
    }
}
