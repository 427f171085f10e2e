//! How the connections of a run are wrapped: who speaks in records, who comes through a proxy that says
//! for whom, and what goes wrong with either.

use std::net::{IpAddr, SocketAddr};

use super::end::{Doom, End};
use super::herald;
use super::pipe::Conn;
use super::toy::Fashion;
use crate::fleet::ProxyProtocol;
use crate::fleet::health::Health;
use crate::kit::Prng;

/// The wrapping of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guise {
    pub seed: u64,
    pub fashion: Fashion,
    /// Clients come through a proxy.
    pub announced: bool,
    /// Faults are over.
    pub calm: bool,
}

impl Guise {
    /// That of a seed; most runs have none.
    pub fn of(seed: u64) -> Guise {
        Guise {
            seed,
            fashion: Fashion::of(seed),
            announced: Prng::from_u64(seed ^ 0x6865_7261).chance(1, 4),
            calm: false,
        }
    }

    /// Which header the servers of a pool want, if any.
    pub fn announces(seed: u64, pool: usize) -> Option<ProxyProtocol> {
        let mut rng = Prng::from_u64(seed.wrapping_mul(19) ^ 0x706f_6f6c ^ pool as u64);
        let versions = [ProxyProtocol::V1, ProxyProtocol::V2];
        let version = versions[rng.below(2) as usize];
        rng.chance(1, 4).then_some(version)
    }

    /// A client's connection begins; what is special about it, for who counts that.
    pub fn wrap_client(
        &self,
        conn: &mut Conn,
        home: SocketAddr,
        now: u64,
        rng: &mut Prng,
    ) -> Option<&'static str> {
        conn.from = Some(home);
        if !(self.announced || self.fashion.clients) {
            return None;
        }
        let (mut wrong, mut late, mut seen) = (false, 0, None);
        let mut preface = Vec::new();
        if self.announced {
            conn.from = Some(SocketAddr::new(IpAddr::from(BALANCER), home.port()));
            preface = herald::write(home, LOCAL, rng);
            match rng.below(24) {
                _ if self.calm => {}
                0 => {
                    conn.from = Some(SocketAddr::new(IpAddr::from(STRANGER), home.port()));
                    seen = Some("edge: stranger");
                }
                1 => {
                    (preface, wrong) = (herald::wrong(rng), true);
                    seen = Some("edge: wrong header");
                }
                2 | 3 => {
                    late = now + u64::from(rng.below(5_000));
                    seen = Some("edge: late header");
                }
                _ => {}
            }
        }
        let doom = self.doom(&DOOMS, rng);
        let mut end = End::of_client(self.fashion.clients, preface, rng).doomed(doom);
        end.wrong = wrong;
        end.late_until(late);
        self.finish(end, conn, rng);
        seen
    }

    /// A connection to a server begins; whether it is one that can't come to be.
    pub fn wrap_line(&self, conn: &mut Conn, server: u16, announced: bool, rng: &mut Prng) -> bool {
        let sealed = self.fashion.seals(server);
        if !(sealed || announced) {
            return false;
        }
        let doom = self.doom(&SERVERS_DOOMS, rng).filter(|_| sealed);
        let end = End::of_server(sealed, announced, doom, rng);
        self.finish(end, conn, rng);
        doom.is_some()
    }

    fn doom(&self, dooms: &[Doom], rng: &mut Prng) -> Option<Doom> {
        if self.calm || !rng.chance(1, 12) {
            return None;
        }
        dooms.get(rng.below(dooms.len() as u32) as usize).copied()
    }

    fn finish(&self, mut end: End, conn: &mut Conn, rng: &mut Prng) {
        end.calm = self.calm;
        end.rude = !self.calm && rng.chance(1, 8);
        conn.wrap(end);
    }
}

const DOOMS: [Doom; 5] = [
    Doom::Stalls,
    Doom::Ends,
    Doom::Resets,
    Doom::Garbage,
    Doom::Refuses,
];

const SERVERS_DOOMS: [Doom; 6] = [
    Doom::Stalls,
    Doom::Ends,
    Doom::Resets,
    Doom::Garbage,
    Doom::Refuses,
    Doom::Shady,
];

/// Where all clients have connected to.
pub const LOCAL: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9)), 443);

/// The proxy before the proxy, who may speak for others, and somebody who may not.
pub const BALANCER: [u8; 4] = [10, 9, 0, 1];
pub const STRANGER: [u8; 4] = [10, 8, 0, 1];

/// How long a dial may take, in ms: a handshake is many steps of the network.
pub fn connect(seed: u64) -> u32 {
    match Fashion::of(seed).seals_servers() {
        true => 1_200,
        false => 500,
    }
}

/// Probes that wait for handshakes, too.
pub fn patient(seed: u64, health: Health) -> Health {
    let more = connect(seed) - 500;
    Health {
        timeout: health.timeout + more,
        ..health
    }
}

/// Who may.
pub fn trusted() -> Vec<ipnet::IpNet> {
    vec![ipnet::IpNet::from(IpAddr::from(BALANCER))]
}
