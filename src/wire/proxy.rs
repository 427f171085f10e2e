//! The PROXY protocol, versions 1 and 2: for whom a connection is, in its first bytes (HAProxy's
//! `proxy-protocol.txt`, sections 2.1 and 2.2).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The two ends of the connection that a header speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub from: SocketAddr,
    pub to: SocketAddr,
}

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its bytes: what is behind them is the connection's own.
    pub len: usize,
    /// `None`: the connection is its sender's own (a health check), or of a kind that has no addresses.
    pub ends: Option<Ends>,
}

/// What is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHeader {
    /// The first bytes are not those of either version.
    Other,
    /// Version 1, whose line is wrong or too long.
    Line,
    /// Version 2, of a kind that is not defined.
    Kind(u8),
    /// Version 2, with fewer bytes than its addresses have, or more than 4 KiB.
    Length(usize),
}

impl Header {
    /// Reads what a connection begins with; `None` if that is not all yet.
    ///
    /// # Errors
    /// What is no header can't become one.
    pub fn parse(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
        if begins(bytes, SIGNATURE) {
            binary(bytes)
        } else if begins(bytes, WORD) {
            text(bytes)
        } else {
            Err(NoHeader::Other)
        }
    }
}

/// Writes the line of version 1; without ends, for a connection of our own.
pub fn write_line(ends: Option<Ends>, into: &mut Vec<u8>) {
    let line = match ends.map(canonical) {
        None => "PROXY UNKNOWN\r\n".to_string(),
        Some(Ends { from, to }) => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let ([from, to], ports) = ([from.ip(), to.ip()], [from.port(), to.port()]);
            format!("PROXY {family} {from} {to} {} {}\r\n", ports[0], ports[1])
        }
    };
    into.extend_from_slice(line.as_bytes());
}

/// Writes version 2; without ends, for a connection of our own.
pub fn write_binary(ends: Option<Ends>, into: &mut Vec<u8>) {
    into.extend_from_slice(SIGNATURE);
    let Some(Ends { from, to }) = ends.map(canonical) else {
        return into.extend_from_slice(&[VERSION_2 | LOCAL, 0, 0, 0]);
    };
    let family = if from.is_ipv4() { TCP4 } else { TCP6 };
    into.extend_from_slice(&[VERSION_2 | PROXIED, family]);
    let size = addresses_len(family) as u16;
    into.extend_from_slice(&size.to_be_bytes());
    for end in [from, to] {
        match end.ip() {
            IpAddr::V4(ip) => into.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => into.extend_from_slice(&ip.octets()),
        }
    }
    for end in [from, to] {
        into.extend_from_slice(&end.port().to_be_bytes());
    }
}

/// Both of one family, as a header wants it: IPv4 if both are.
fn canonical(ends: Ends) -> Ends {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (from, to) = (plain(ends.from), plain(ends.to));
    if from.is_ipv4() == to.is_ipv4() {
        return Ends { from, to };
    }
    let mapped = |end: SocketAddr| match end.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    Ends {
        from: mapped(from),
        to: mapped(to),
    }
}

/// Whether these can be the first bytes of something that begins so.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    bytes.iter().zip(with).all(|(one, other)| one == other)
}

fn text(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    let seen = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = memchr::memmem::find(seen, b"\r\n") else {
        return if bytes.len() < LINE_MAX {
            Ok(None)
        } else {
            Err(NoHeader::Line)
        };
    };
    let line = std::str::from_utf8(&seen[..end]).map_err(|_| NoHeader::Line)?;
    let mut words = line.split(' ').skip(1);
    let mut word = || words.next().ok_or(NoHeader::Line);
    let ends = match word()? {
        "UNKNOWN" => None,
        family @ ("TCP4" | "TCP6") => {
            let (from, to) = (address(family, word()?)?, address(family, word()?)?);
            let (from_port, to_port) = (port(word()?)?, port(word()?)?);
            if words.next().is_some() {
                return Err(NoHeader::Line);
            }
            Some(Ends {
                from: SocketAddr::new(from, from_port),
                to: SocketAddr::new(to, to_port),
            })
        }
        _ => return Err(NoHeader::Line),
    };
    Ok(Some(Header { len: end + 2, ends }))
}

fn address(family: &str, word: &str) -> Result<IpAddr, NoHeader> {
    let ip = match family {
        "TCP4" => word.parse::<Ipv4Addr>().map(IpAddr::V4),
        _ => word.parse::<Ipv6Addr>().map(IpAddr::V6),
    };
    ip.map_err(|_| NoHeader::Line)
}

/// Digits alone, without zeros before them.
fn port(word: &str) -> Result<u16, NoHeader> {
    let number: u16 = word.parse().map_err(|_| NoHeader::Line)?;
    if number.to_string() == word {
        Ok(number)
    } else {
        Err(NoHeader::Line)
    }
}

fn binary(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    let Some(&[kind, family, high, low]) = bytes.get(SIGNATURE.len()..FIXED) else {
        return Ok(None);
    };
    if kind != VERSION_2 | LOCAL && kind != VERSION_2 | PROXIED {
        return Err(NoHeader::Kind(kind));
    }
    let size = usize::from(u16::from_be_bytes([high, low]));
    if size > SIZE_MAX {
        return Err(NoHeader::Length(size));
    }
    let wanted = addresses_len(family);
    if kind == VERSION_2 | PROXIED && size < wanted {
        return Err(NoHeader::Length(size));
    }
    let Some(block) = bytes.get(FIXED..FIXED + size) else {
        return Ok(None);
    };
    let len = FIXED + size;
    if kind == VERSION_2 | LOCAL || wanted == 0 {
        return Ok(Some(Header { len, ends: None }));
    }
    // What stands behind the addresses are words that we have no use for.
    let (ips, ports) = block[..wanted].split_at(wanted - 4);
    let (from, to) = ips.split_at(ips.len() / 2);
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    let ends = Ends {
        from: SocketAddr::new(ip_of(from), port(0)),
        to: SocketAddr::new(ip_of(to), port(2)),
    };
    let ends = Some(ends);
    Ok(Some(Header { len, ends }))
}

fn ip_of(bytes: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(bytes) {
        Ok(four) => Ipv4Addr::from(four).into(),
        Err(_) => {
            let mut all = [0; 16];
            all.copy_from_slice(bytes);
            Ipv6Addr::from(all).into()
        }
    }
}

/// Bytes of two addresses and ports; 0 for what has none that we know.
fn addresses_len(family: u8) -> usize {
    match family {
        TCP4 => 12,
        TCP6 => 36,
        _ => 0,
    }
}

impl fmt::Display for NoHeader {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoHeader::Other => to.write_str("it begins with no PROXY header"),
            NoHeader::Line => to.write_str(
                "its PROXY line is wrong; right would be \"PROXY TCP4 <from> <to> <port> <port>\"",
            ),
            NoHeader::Kind(kind) => {
                write!(to, "its PROXY header has version and command {kind:#04x}")
            }
            NoHeader::Length(size) => write!(to, "its PROXY header says a length of {size}"),
        }
    }
}

impl std::error::Error for NoHeader {}

const WORD: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Up to the addresses.
const FIXED: usize = 16;

/// Of a line of version 1, its end included (section 2.1).
const LINE_MAX: usize = 107;

/// Of what stands behind the fixed part; more is nothing that a proxy sends.
const SIZE_MAX: usize = 4_096;

const VERSION_2: u8 = 0x20;
const LOCAL: u8 = 0;
const PROXIED: u8 = 1;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use super::*;

    type Write = fn(Option<Ends>, &mut Vec<u8>);

    fn ends(from: &str, to: &str) -> Option<Ends> {
        Some(Ends {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
        })
    }

    #[test]
    fn what_is_written_is_read_and_every_beginning_of_it_waits() {
        let rows = [
            (None, None),
            (
                ends("10.0.0.1:5", "10.0.0.2:443"),
                ends("10.0.0.1:5", "10.0.0.2:443"),
            ),
            (
                ends("[2001:db8::1]:65535", "[::1]:1"),
                ends("[2001:db8::1]:65535", "[::1]:1"),
            ),
            (
                ends("[::ffff:10.0.0.1]:5", "10.0.0.2:443"),
                ends("10.0.0.1:5", "10.0.0.2:443"),
            ),
            (
                ends("10.0.0.1:5", "[2001:db8::1]:443"),
                ends("[::ffff:10.0.0.1]:5", "[2001:db8::1]:443"),
            ),
        ];
        for (told, want) in rows {
            for (version, write) in [(1, write_line as Write), (2, write_binary)] {
                let mut bytes = Vec::new();
                write(told, &mut bytes);
                let len = bytes.len();
                bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
                let header = Header { len, ends: want };
                assert_eq!(
                    Header::parse(&bytes),
                    Ok(Some(header)),
                    "{version} {told:?}"
                );
                for cut in 0..len {
                    assert_eq!(
                        Header::parse(&bytes[..cut]),
                        Ok(None),
                        "{version} {told:?} {cut}"
                    );
                }
            }
        }
    }

    #[test]
    fn lines() {
        let good = [
            "PROXY UNKNOWN\r\n",
            "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
            "PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n",
            "PROXY TCP6 ::1 2001:db8::2 1 2\r\n",
        ];
        for line in good {
            let parsed = Header::parse(line.as_bytes());
            assert!(
                matches!(parsed, Ok(Some(header)) if header.len == line.len()),
                "{line:?}: {parsed:?}"
            );
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(100));
        let bad = [
            "PROXY\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
            "PROXY TCP4 ::1 2.2.2.2 1 2\r\n",
            "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
            "PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n",
            "PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
            "PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
            "proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
            "GET / HTTP/1.1\r\n",
            "\r\n\r\nQUIT",
            long.as_str(),
        ];
        for line in bad {
            assert!(Header::parse(line.as_bytes()).is_err(), "{line:?}");
        }
    }

    #[test]
    fn binary_headers() {
        let header = |kind: u8, family: u8, size: u16, block: &[u8]| {
            let size = size.to_be_bytes();
            Header::parse(&[SIGNATURE, &[kind, family], &size, block].concat())
        };
        let none = |len| Ok(Some(Header { len, ends: None }));
        assert_eq!(
            header(0x20, 0x11, 12, &[7; 12]),
            none(28),
            "LOCAL has addresses that are not read"
        );
        assert_eq!(
            header(0x21, 0x31, 216, &[0; 216]),
            none(232),
            "a Unix socket"
        );
        assert_eq!(header(0x21, 0x00, 0, &[]), none(16), "unspecified");
        let block: Vec<u8> = [1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 1, 0]
            .into_iter()
            .chain([4, 0, 1, 0])
            .collect();
        let want = Header {
            len: 32,
            ends: ends("1.2.3.4:9", "5.6.7.8:256"),
        };
        assert_eq!(
            header(0x21, 0x11, 16, &block),
            Ok(Some(want)),
            "with a word behind"
        );
        assert_eq!(header(0x22, 0x11, 12, &[0; 12]), Err(NoHeader::Kind(0x22)));
        assert_eq!(header(0x11, 0x11, 12, &[0; 12]), Err(NoHeader::Kind(0x11)));
        assert_eq!(header(0x21, 0x11, 11, &[0; 11]), Err(NoHeader::Length(11)));
        assert_eq!(header(0x21, 0x11, 5_000, &[]), Err(NoHeader::Length(5_000)));
    }
}
