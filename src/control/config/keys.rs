//! Every key of every section. The reader, the "did you mean" and the documentation's test use it.

/// One section of the file: the keys that may stand in it.
pub(super) struct Section {
    pub keys: &'static [&'static str],
    /// Keys that another build fills. They are known, so that they are refused by name.
    pub later: &'static [&'static str],
}

pub(super) const ROOT: Section = Section {
    keys: &[
        "listen",
        "admin",
        "loops",
        "routes",
        "pools",
        "session",
        "trusted_proxies",
        "origins",
        "limits",
        "push",
        "cluster",
        "drain",
        "log",
        "metrics",
    ],
    later: &[],
};

pub(super) const LISTEN: Section = Section {
    keys: &[
        "address",
        #[cfg(feature = "tls")]
        "tls",
        "proxy_protocol",
    ],
    later: &[
        #[cfg(not(feature = "tls"))]
        "tls",
    ],
};

#[cfg(feature = "tls")]
pub(super) const LISTEN_TLS: Section = Section {
    keys: &[
        "cert",
        "key",
        "certificates",
        "client_ca",
        "client_auth",
        "min_version",
    ],
    later: &[],
};

#[cfg(feature = "tls")]
pub(super) const CERTIFICATE: Section = Section {
    keys: &["cert", "key"],
    later: &[],
};

pub(super) const ADMIN: Section = Section {
    keys: &[
        "address",
        "token",
        #[cfg(feature = "tls")]
        "tls",
    ],
    later: &[
        #[cfg(not(feature = "tls"))]
        "tls",
    ],
};

#[cfg(feature = "tls")]
pub(super) const ADMIN_TLS: Section = Section {
    keys: &["cert", "key", "client_ca", "min_version"],
    later: &[],
};

pub(super) const ROUTE: Section = Section {
    keys: &["path", "host", "upgrade", "pool"],
    later: &[],
};

pub(super) const POOL: Section = Section {
    keys: &[
        "kind",
        "servers",
        "balance",
        "hash",
        "target",
        "health",
        "breaker",
        "connect_rate",
        "abnormal_close_codes",
        "pass_headers",
        "block_headers",
        "timeouts",
        "source_addresses",
        #[cfg(feature = "tls")]
        "tls",
        "proxy_protocol",
        "dns",
        "connections",
        #[cfg(feature = "nats")]
        "nats",
        "session",
    ],
    later: &[
        #[cfg(not(feature = "tls"))]
        "tls",
        #[cfg(not(feature = "nats"))]
        "nats",
    ],
};

#[cfg(feature = "tls")]
pub(super) const POOL_TLS: Section = Section {
    keys: &[
        "ca",
        "client_cert",
        "client_key",
        "server_name",
        "insecure_skip_verify",
        "min_version",
    ],
    later: &[],
};

#[cfg(feature = "nats")]
pub(super) const NATS: Section = Section {
    keys: &["prefix", "jetstream", "user", "password", "token"],
    later: &[],
};

pub(super) const SERVER: Section = Section {
    keys: &["url", "id", "weight"],
    later: &[],
};

pub(super) const HEALTH: Section = Section {
    keys: &["path", "interval", "timeout", "rise", "fall", "expect"],
    later: &[],
};

pub(super) const BREAKER: Section = Section {
    keys: &["threshold", "cooldown"],
    later: &[],
};

pub(super) const TIMEOUTS: Section = Section {
    keys: &["connect", "handshake", "response", "ping", "pong", "close"],
    later: &[],
};

pub(super) const CONNECTIONS: Section = Section {
    keys: &["min", "max", "idle", "queue", "full_status"],
    later: &[],
};

pub(super) const SESSION: Section = Section {
    keys: &[
        "buffer",
        "hold",
        "admit",
        "confirm",
        "overflow",
        "atomic",
        "replay_attempts",
        "barrier",
        "on_duplicate",
        "reconnect_header",
    ],
    later: &[],
};

pub(super) const BARRIER: Section = Section {
    keys: &["delay", "bytes"],
    later: &[],
};

pub(super) const LIMITS: Section = Section {
    keys: &[
        "memory",
        "connections",
        "per_address",
        "header",
        "message",
        "handshake",
        "socket_buffer",
        "fragments",
        "message_time",
        "pings",
        "min_rate",
    ],
    later: &[],
};

pub(super) const PUSH: Section = Section {
    keys: &["path", "allow", "token"],
    later: &[],
};

pub(super) const CLUSTER: Section = Section {
    keys: &[
        "peers",
        #[cfg(feature = "nats")]
        "bus",
        "token",
        "timeout",
        "dns",
    ],
    later: &[
        #[cfg(not(feature = "nats"))]
        "bus",
    ],
};

#[cfg(feature = "nats")]
pub(super) const BUS: Section = Section {
    keys: &["nats", "prefix", "user", "password", "token"],
    later: &[],
};

pub(super) const LOG: Section = Section {
    keys: &["level", "format"],
    later: &[],
};

pub(super) const METRICS: Section = Section {
    keys: &["legacy_names"],
    later: &[],
};

/// All sections with their paths, for tests that walk over every key; `*` stands for a name, `[]`
/// for the items of a list.
#[cfg(test)]
pub(super) const SECTIONS: &[(&str, &Section)] = &[
    ("", &ROOT),
    ("listen[]", &LISTEN),
    #[cfg(feature = "tls")]
    ("listen[].tls", &LISTEN_TLS),
    #[cfg(feature = "tls")]
    ("listen[].tls.certificates[]", &CERTIFICATE),
    ("admin", &ADMIN),
    #[cfg(feature = "tls")]
    ("admin.tls", &ADMIN_TLS),
    ("routes[]", &ROUTE),
    ("pools.*", &POOL),
    ("pools.*.servers[]", &SERVER),
    ("pools.*.health", &HEALTH),
    ("pools.*.breaker", &BREAKER),
    ("pools.*.timeouts", &TIMEOUTS),
    ("pools.*.connections", &CONNECTIONS),
    #[cfg(feature = "tls")]
    ("pools.*.tls", &POOL_TLS),
    #[cfg(feature = "nats")]
    ("pools.*.nats", &NATS),
    ("session", &SESSION),
    ("session.barrier", &BARRIER),
    ("limits", &LIMITS),
    ("push", &PUSH),
    ("cluster", &CLUSTER),
    #[cfg(feature = "nats")]
    ("cluster.bus", &BUS),
    ("log", &LOG),
    ("metrics", &METRICS),
];

/// The word of `known` that is nearest to `word`, if any is near enough to be what was meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let scored = known
        .into_iter()
        .map(|one| (strsim::jaro_winkler(&word, &one.to_ascii_lowercase()), one));
    let best = scored.max_by(|one, other| one.0.total_cmp(&other.0))?;
    // Below this, suggestions are noise: `upstream` would propose `routes`.
    (best.0 >= 0.75).then_some(best.1)
}
