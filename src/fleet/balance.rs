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
        Balance::RoundRobin => in_turn(&fresh, servers),
        Balance::Random => by_chance(&fresh, servers, rng),
        Balance::LeastConnections => least_loaded(&fresh, servers),
    };
    Ok(chosen)
}

/// Smooth weighted round-robin: everybody gains its weight, the richest is chosen and pays for all.
fn in_turn(fresh: &[u16], servers: &mut [Server]) -> u16 {
    let mut total = 0;
    let mut best = fresh[0];
    for id in fresh {
        let server = &mut servers[*id as usize];
        server.credit += i64::from(server.weight);
        total += i64::from(server.weight);
        if servers[*id as usize].credit > servers[best as usize].credit {
            best = *id;
        }
    }
    servers[best as usize].credit -= total;
    best
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
    in_turn(&equal, servers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::pools::tests::server;

    const ANY: Wish<'_> = Wish {
        tried: &[],
        last: None,
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
    fn least_connections_fills_up_by_weight() {
        assert_eq!(count(Balance::LeastConnections, &[1, 3], 400), [100, 300]);
    }

    #[test]
    fn the_lost_server_comes_last_and_a_tried_one_not_at_all() {
        let mut servers = vec![server(1), server(1)];
        let mut rng = Prng::from_u64(1);
        let mut pick = |servers: &mut Vec<Server>, tried: &[u16], desperate| {
            let wish = Wish {
                tried,
                last: Some(0),
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
