//! The URL of a server: only what a proxy can dial, so no user, no fragment, no odd bytes.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::parse::is_host_name;

/// `ws://10.0.0.1:9000/base`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerUrl {
    pub scheme: Scheme,
    /// A name in lower case, or an address; an IPv6 address stands without its brackets.
    pub host: String,
    /// Given, or the scheme's own.
    pub port: u16,
    /// Empty, or a path from `/` on, with the query if there is one. A bridge's ends in `/`, so
    /// that a ClientId can follow directly; where the client's path follows, in an HTTP pool and
    /// with `target: append`, it does not.
    pub path: String,
}

/// What is spoken behind a server's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Ws,
    Wss,
    Http,
    Https,
    #[cfg(feature = "nats")]
    Nats,
}

impl Scheme {
    /// Whether the connection is encrypted.
    pub fn is_secure(self) -> bool {
        matches!(self, Scheme::Wss | Scheme::Https)
    }

    /// What is spoken inside.
    pub(super) fn in_the_clear(self) -> Scheme {
        match self {
            Scheme::Wss => Scheme::Ws,
            Scheme::Https => Scheme::Http,
            other => other,
        }
    }

    /// The same inside TLS, if there is such a thing.
    pub(super) fn secured(self) -> Scheme {
        match self {
            Scheme::Ws => Scheme::Wss,
            Scheme::Http => Scheme::Https,
            other => other,
        }
    }

    /// As it stands before `://`.
    pub(super) fn text(self) -> &'static str {
        match self {
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
            Scheme::Http => "http",
            Scheme::Https => "https",
            #[cfg(feature = "nats")]
            Scheme::Nats => "nats",
        }
    }

    /// The port of a URL without one.
    fn port(self) -> u16 {
        match self {
            Scheme::Ws | Scheme::Http => 80,
            Scheme::Wss | Scheme::Https => 443,
            #[cfg(feature = "nats")]
            Scheme::Nats => 4222,
        }
    }

    const ALL: &[Scheme] = &[
        Scheme::Ws,
        Scheme::Wss,
        Scheme::Http,
        Scheme::Https,
        #[cfg(feature = "nats")]
        Scheme::Nats,
    ];
}

impl ServerUrl {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong, for the operator; what would be right depends on the pool.
    pub fn parse(text: &str) -> Result<ServerUrl, String> {
        let wrong = |why: &str| format!("{text:?} {why}");
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("has a space or another byte that no URL has"));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| wrong("is not a URL"))?;
        let scheme = *Scheme::ALL
            .iter()
            .find(|known| known.text().eq_ignore_ascii_case(scheme))
            .ok_or_else(|| wrong("has an unknown scheme"))?;
        if rest.contains('#') {
            return Err(wrong("has a fragment, which servers never see"));
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(wrong("has a user, which is not sent"));
        }
        let (host, port) = split_authority(authority).ok_or_else(|| wrong("has no valid host"))?;
        let port = match port {
            Some(port) => parse_port(port).ok_or_else(|| wrong("has no valid port"))?,
            None => scheme.port(),
        };
        let path = if path.starts_with('?') {
            format!("/{path}")
        } else {
            path.to_owned()
        };
        Ok(ServerUrl {
            scheme,
            host: host.to_ascii_lowercase(),
            port,
            path,
        })
    }

    /// Whether the host is a name, whose addresses may change.
    pub fn is_named(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }

    /// Host and port as `Host` and an address parser want them: an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// `<host>-<port>` with dots, and an IPv6 address's colons, as dashes.
    pub fn default_id(&self) -> String {
        format!("{}-{}", self.host.replace(['.', ':'], "-"), self.port)
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}://{}{}",
            self.scheme.text(),
            self.authority(),
            self.path
        )
    }
}

/// Host without brackets, and the port's text if there is one.
fn split_authority(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        let port = if port.is_empty() {
            None
        } else {
            Some(port.strip_prefix(':')?)
        };
        return Some((host, port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    is_host_name(host).then_some((host, port))
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}
