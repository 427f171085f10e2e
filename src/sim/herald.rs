//! The peers' own PROXY headers: written apart from the proxy's, so that they can't err together.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use crate::kit::Prng;

/// From where to where, as a header says; or that it speaks of nobody.
pub type Herald = Option<(SocketAddr, SocketAddr)>;

/// A header for this client.
pub fn write(from: SocketAddr, to: SocketAddr, rng: &mut Prng) -> Vec<u8> {
    let [SocketAddr::V4(from), SocketAddr::V4(to)] = [from, to] else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    if rng.chance(1, 2) {
        let (ips, ports) = ([from.ip(), to.ip()], [from.port(), to.port()]);
        let [from, to] = ips;
        return format!("PROXY TCP4 {from} {to} {} {}\r\n", ports[0], ports[1]).into_bytes();
    }
    // Now and then with a few words more than are asked for.
    let extra = [0, 0, 7][rng.below(3) as usize];
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend_from_slice(&[0x21, 0x11, 0, 12 + extra]);
    bytes.extend_from_slice(&from.ip().octets());
    bytes.extend_from_slice(&to.ip().octets());
    bytes.extend_from_slice(&from.port().to_be_bytes());
    bytes.extend_from_slice(&to.port().to_be_bytes());
    bytes.resize(bytes.len() + usize::from(extra), 4);
    bytes
}

/// What is no header, and can't become one.
pub fn wrong(rng: &mut Prng) -> Vec<u8> {
    let long = format!("PROXY TCP4 {}", "1".repeat(200));
    let texts: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 99999 1\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c............",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04....",
        long.as_bytes(),
    ];
    texts[rng.below(5) as usize].to_vec()
}

/// Reads the proxy's header: its length, and what it says. `None`: more has to come.
pub fn read(bytes: &[u8]) -> Option<(usize, Herald)> {
    if bytes.starts_with(b"P") {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let line = std::str::from_utf8(&bytes[..end]).expect("law: a PROXY line is text");
        let words: Vec<&str> = line.split(' ').collect();
        let ends = match words[..] {
            ["PROXY", "UNKNOWN"] => None,
            ["PROXY", "TCP4", from, to, from_port, to_port] => {
                let end = |ip: &str, port: &str| format!("{ip}:{port}").parse::<SocketAddr>();
                let ends = (end(from, from_port), end(to, to_port));
                let (Ok(from), Ok(to)) = ends else {
                    panic!("law: a PROXY line of addresses: {line:?}");
                };
                Some((from, to))
            }
            _ => panic!("law: a PROXY line: {line:?}"),
        };
        return Some((end + 2, ends));
    }
    let fixed = bytes.get(..16)?;
    assert_eq!(fixed[..12], *SIGNATURE, "law: a PROXY header comes first");
    let size = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let block = bytes.get(16..16 + size)?;
    let ends = match (fixed[12], fixed[13], size) {
        (0x20, 0, 0) => None,
        (0x21, 0x11, 12) => {
            let end = |ip: usize, port: usize| {
                let four: [u8; 4] = block[ip..ip + 4].try_into().expect("four bytes");
                let port = u16::from_be_bytes([block[port], block[port + 1]]);
                SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(four), port))
            };
            Some((end(0, 8), end(4, 10)))
        }
        other => panic!("law: a PROXY header of {other:?}"),
    };
    Some((16 + size, ends))
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
