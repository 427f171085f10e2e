//! Whose turn it is.

use super::pools::{Server, ServerState};
use crate::kit::{Prng, Tick};

/// How a server is chosen among those that may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// In turn, by weight; exact per loop.
    #[default]
    RoundRobin,
    /// By chance, by weight.
    Random,
    /// The fewest connections for its weight, over all loops.
    LeastConnections,
    /// The same for the same client, as long as it is there ([`Spread`]).
    Hash,
    /// In turn, by weight and by what a server's health answer says it has free.
    Adaptive,
}

/// What tells clients apart under `hash`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// The first segment of the path; the ClientId of a bridge.
    #[default]
    Id,
    /// The client's address.
    Address,
    /// A request header.
    Header(String),
}

/// Why nobody was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChoice {
    /// All that may be used were tried.
    AllTried,
    /// There are servers, but none may be used.
    NoneUsable,
    /// There is no server.
    Empty,
}

/// What a session may say about the choice.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Not these: they were tried in this round.
    pub tried: &'a [u16],
    /// This one only if there is no other.
    pub last: Option<u16>,
    /// What `hash` goes by.
    pub hash: u64,
    /// Tripped servers too, if no other is usable: the last hope of a session that has waited.
    pub desperate: bool,
}

/// Chooses among the servers of one pool and takes its turn. Who dials takes the trial, too.
pub fn choose(
    balance: Balance,
    members: &[u16],
    servers: &mut [Server],
    wish: Wish<'_>,
    now: Tick,
    rng: &mut Prng,
) -> Result<u16, NoChoice> {
    let enabled = |server: &Server| server.state == ServerState::Enabled && server.weight > 0;
    if !members
        .iter()
        .any(|id| servers[*id as usize].state != ServerState::Gone)
    {
        return Err(NoChoice::Empty);
    }
    let usable: Vec<u16> = members
        .iter()
        .copied()
        .filter(|id| enabled(&servers[*id as usize]) && servers[*id as usize].is_closed(now))
        .collect();
    let hope = usable.is_empty() && wish.desperate && !planted!(LastHopeForbidden);
    let candidates: Vec<u16> = if hope {
        members
            .iter()
            .copied()
            .filter(|id| enabled(&servers[*id as usize]))
            .collect()
    } else {
        usable
    };
    if candidates.is_empty() {
        return Err(NoChoice::NoneUsable);
    }
    let mut fresh: Vec<u16> = candidates
        .iter()
        .copied()
        .filter(|id| !wish.tried.contains(id))
        .collect();
    if fresh.len() > 1 {
        fresh.retain(|id| wish.last != Some(*id));
    }
    if fresh.is_empty() {
        return Err(NoChoice::AllTried);
    }
    let chosen = match balance {
        Balance::RoundRobin => in_turn(&fresh, servers, |server| server.weight),
        Balance::Random => by_chance(&fresh, servers, rng),
        Balance::LeastConnections => least_loaded(&fresh, servers),
        Balance::Hash => by_hash(&fresh, servers, wish.hash),
        Balance::Adaptive => in_turn(&fresh, servers, |server| {
            server.weight.saturating_mul(server.share)
        }),
    };
    Ok(chosen)
}

/// Smooth weighted round-robin: everybody gains its weight, the richest is chosen and pays for all.
fn in_turn(fresh: &[u16], servers: &mut [Server], weight: fn(&Server) -> u32) -> u16 {
    let mut total = 0;
    let mut best = fresh[0];
    for id in fresh {
        let server = &mut servers[*id as usize];
        let weight = i64::from(weight(server));
        server.credit += weight;
        total += weight;
        if servers[*id as usize].credit > servers[best as usize].credit {
            best = *id;
        }
    }
    servers[best as usize].credit -= total;
    best
}

/// Rendezvous hashing: each server draws a number for this client, and the highest wins. Who comes or
/// goes moves only its own share. Weights by Schindelhauer and Schomaker's logarithmic method.
fn by_hash(fresh: &[u16], servers: &[Server], hash: u64) -> u16 {
    let score = |id: &u16| {
        let server = &servers[*id as usize];
        let name = fingerprint(server.id.as_bytes());
        let drawn = scramble(hash ^ name) >> 11;
        let unit = (drawn as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(server.weight) / unit.ln()
    };
    let best = fresh
        .iter()
        .max_by(|one, other| score(one).total_cmp(&score(other)));
    best.copied().unwrap_or(fresh[0])
}

/// FNV-1a, then scrambled: spreads clients, and keeps no secrets.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    scramble(sum)
}

/// SplitMix64's finaliser.
fn scramble(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

fn by_chance(fresh: &[u16], servers: &[Server], rng: &mut Prng) -> u16 {
    let total: u32 = fresh.iter().map(|id| servers[*id as usize].weight).sum();
    let mut at = rng.below(total);
    for id in fresh {
        let weight = servers[*id as usize].weight;
        if at < weight {
            return *id;
        }
        at -= weight;
    }
    fresh[0]
}

fn least_loaded(fresh: &[u16], servers: &mut [Server]) -> u16 {
    let load = |server: &Server| {
        // Compared as fractions connections/weight, one connection ahead.
        (u64::from(server.shared.connections()) + 1) * 1_000_000 / u64::from(server.weight)
    };
    let least = fresh
        .iter()
        .map(|id| load(&servers[*id as usize]))
        .min()
        .unwrap_or(0);
    let equal: Vec<u16> = fresh
        .iter()
        .copied()
        .filter(|id| load(&servers[*id as usize]) == least)
        .collect();
    in_turn(&equal, servers, |server| server.weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::pools::tests::server;

    const ANY: Wish<'_> = Wish {
        tried: &[],
        last: None,
        hash: 0,
        desperate: false,
    };

    fn count(balance: Balance, weights: &[u32], picks: usize) -> Vec<usize> {
        let mut servers: Vec<Server> = weights.iter().map(|weight| server(*weight)).collect();
        let members: Vec<u16> = (0..weights.len() as u16).collect();
        let mut rng = Prng::from_u64(3);
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            let id = choose(balance, &members, &mut servers, ANY, Tick(0), &mut rng).unwrap();
            servers[id as usize].shared.connected();
            counts[id as usize] += 1;
        }
        counts
    }

    #[test]
    fn round_robin_is_exact_by_weight() {
        assert_eq!(count(Balance::RoundRobin, &[1, 1, 1], 9), [3, 3, 3]);
        assert_eq!(count(Balance::RoundRobin, &[5, 1, 2], 80), [50, 10, 20]);
        assert_eq!(count(Balance::RoundRobin, &[1, 0], 7), [7, 0]);
    }

    #[test]
    fn random_keeps_to_the_weights() {
        let counts = count(Balance::Random, &[3, 1], 8_000);
        assert!((5_700..6_300).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn a_server_that_goes_moves_only_its_own_share() {
        let mut servers: Vec<Server> = (0..4).map(|_| server(1)).collect();
        for (at, server) in servers.iter_mut().enumerate() {
            server.id = format!("s{at}");
        }
        servers[3].weight = 3;
        let all: Vec<u16> = vec![0, 1, 2, 3];
        let before: Vec<u16> = (0..6_000_u64)
            .map(|n| by_hash(&all, &servers, fingerprint(&n.to_le_bytes())))
            .collect();
        let shares: Vec<usize> = all
            .iter()
            .map(|id| before.iter().filter(|chosen| *chosen == id).count())
            .collect();
        assert!((800..1_200).contains(&shares[0]), "{shares:?}");
        assert!((2_700..3_300).contains(&shares[3]), "{shares:?}");
        let after =
            (0..6_000_u64).map(|n| by_hash(&all[1..], &servers, fingerprint(&n.to_le_bytes())));
        for (before, after) in before.iter().zip(after) {
            assert!(*before == 0 || *before == after);
        }
    }

    #[test]
    fn least_connections_fills_up_by_weight() {
        assert_eq!(count(Balance::LeastConnections, &[1, 3], 400), [100, 300]);
    }

    #[test]
    fn who_joins_takes_its_turns_at_once_and_who_is_gone_none() {
        let pool = crate::fleet::pools::tests::pool("p");
        let mut fleet = crate::fleet::Fleet {
            pools: vec![pool],
            ..Default::default()
        };
        for _ in 0..2 {
            fleet.join(server(1));
        }
        let mut rng = Prng::from_u64(5);
        let mut picks = |fleet: &mut crate::fleet::Fleet, count: usize| {
            let mut counts = [0_u32; 4];
            for _ in 0..count {
                let chosen = fleet.choose(0, ANY, Tick(0), &mut rng).unwrap();
                counts[usize::from(chosen)] += 1;
            }
            counts
        };
        assert_eq!(picks(&mut fleet, 4), [2, 2, 0, 0]);
        assert_eq!(fleet.join(server(2)), 2);
        assert_eq!(picks(&mut fleet, 8), [2, 2, 4, 0]);
        assert!(fleet.set_state(0, ServerState::Gone));
        assert!(!fleet.set_state(0, ServerState::Enabled), "for ever");
        assert!(!fleet.set_state(3, ServerState::Enabled), "nobody");
        let counts = picks(&mut fleet, 30);
        assert_eq!(counts[0], 0);
        assert!(counts[2].abs_diff(20) <= 1, "{counts:?}");
        // The same id again, under a number of its own.
        assert_eq!(fleet.join(server(1)), 3);
        assert_eq!(fleet.pools[0].members, [1, 2, 3]);
    }

    #[test]
    fn the_lost_server_comes_last_and_a_tried_one_not_at_all() {
        let mut servers = vec![server(1), server(1)];
        let mut rng = Prng::from_u64(1);
        let mut pick = |servers: &mut Vec<Server>, tried: &[u16], desperate| {
            let wish = Wish {
                tried,
                last: Some(0),
                hash: 0,
                desperate,
            };
            choose(
                Balance::RoundRobin,
                &[0, 1],
                servers,
                wish,
                Tick(0),
                &mut rng,
            )
        };
        assert_eq!(pick(&mut servers, &[], false), Ok(1));
        assert_eq!(pick(&mut servers, &[], false), Ok(1));
        assert_eq!(pick(&mut servers, &[1], false), Ok(0));
        assert_eq!(pick(&mut servers, &[0, 1], false), Err(NoChoice::AllTried));
        servers[1].state = ServerState::Draining;
        assert_eq!(pick(&mut servers, &[], false), Ok(0));
        servers[0].tripped = Some(Tick(0));
        assert_eq!(pick(&mut servers, &[], false), Err(NoChoice::NoneUsable));
        assert_eq!(
            pick(&mut servers, &[], true),
            Ok(0),
            "the last hope is never forbidden"
        );
        servers[0].state = ServerState::Gone;
        servers[1].state = ServerState::Gone;
        assert_eq!(pick(&mut servers, &[], true), Err(NoChoice::Empty));
    }

    #[test]
    fn after_the_cooldown_one_trial() {
        let mut servers = vec![server(1)];
        let mut rng = Prng::from_u64(1);
        servers[0].tripped = Some(Tick(1_000));
        servers[0].cooldown = 10_000;
        let mut pick = |servers: &mut Vec<Server>, now| {
            let chosen = choose(Balance::RoundRobin, &[0], servers, ANY, Tick(now), &mut rng)?;
            servers[chosen as usize].take_trial(Tick(now));
            Ok(chosen)
        };
        assert_eq!(pick(&mut servers, 10_999), Err(NoChoice::NoneUsable));
        assert_eq!(pick(&mut servers, 11_000), Ok(0));
        assert_eq!(
            pick(&mut servers, 11_001),
            Err(NoChoice::NoneUsable),
            "one trial"
        );
    }
}
