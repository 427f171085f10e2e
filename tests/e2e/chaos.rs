//! F27: many sessions, random sizes, a fault every half second.
//!
//! `E2E_CHAOS_SECONDS` says how long (10 if it is not set; `scripts/test` says 60), `E2E_SEED`
//! repeats the order of faults.

use crate::support::client::Habit;
use crate::support::field::Field;
use crate::support::peer::{Kind, Peer};
use crate::support::rng::Rng;
use crate::support::turn;
use serde_json::json;
use std::time::{Duration, Instant};

const SESSIONS: u32 = 200;
const BETWEEN_FAULTS: Duration = Duration::from_millis(500);

/// What is owed to a server that was struck, and when. Without a deed it is only left in peace:
/// one that was stopped must first notice which of its connections have ended meanwhile.
type Healing = (Instant, usize, Option<Deed>);

type Deed = fn(&mut Peer);

#[test]
fn f27_f38_two_hundred_sessions_under_a_fault_every_half_second() {
    let _turn = turn();
    let seconds = std::env::var("E2E_CHAOS_SECONDS").map_or(10, |word| word.parse().unwrap());
    let mut rng = Rng::from_environment();
    let habit = Habit {
        every: Duration::from_millis(400),
        ahead: 16,
        size_max: 64 << 10,
        ..Habit::default()
    };
    // The poison guard has tests of its own: on a slow machine three faults may strike in a row
    // before one Pong is back.
    // All three may be struck at once, again and again: `hold` is not what ends a session here.
    let changes = json!({
        "session": { "barrier": { "delay": "100ms" }, "replay_attempts": 100, "hold": "5m" },
        "limits": { "memory": "256MiB" },
    });
    let kinds = [Kind::Node, Kind::Python, Kind::Node];
    let mut field = Field::start(&kinds, &[], changes, SESSIONS, &habit);
    let started = Instant::now();
    let mut healings: Vec<Healing> = Vec::new();
    // One a second at least; a slow machine takes longer for them.
    let enough = |field: &Field| field.faults.len() as u64 >= seconds;
    let elapsed = |limit| started.elapsed() >= Duration::from_secs(limit);
    while !elapsed(seconds) || !(enough(&field) || elapsed(3 * seconds)) {
        let next = Instant::now() + BETWEEN_FAULTS;
        heal(&mut field, &mut healings, Instant::now());
        // A server that is down or stopped already gets no second fault.
        let idle = |index: &usize| healings.iter().all(|(_, struck, _)| struck != index);
        let idle: Vec<usize> = (0..kinds.len()).filter(idle).collect();
        if !idle.is_empty() {
            let index = idle[rng.below(idle.len() as u64) as usize];
            healings.extend(strike(&mut field, index, &mut rng));
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    heal(
        &mut field,
        &mut healings,
        Instant::now() + Duration::from_secs(60),
    );
    let verdict = field.conclude();
    assert!(verdict.telling_faults_percent() >= 30, "{verdict}");
    assert!(
        verdict.faults.len() as u64 >= seconds,
        "too few faults: {verdict}"
    );
}

fn strike(field: &mut Field, index: usize, rng: &mut Rng) -> Option<Healing> {
    let soon = Instant::now() + Duration::from_millis(300 + rng.below(2700));
    let kinds: [(&str, Deed, Option<Deed>); 6] = [
        ("kill -9", Peer::kill, Some(Peer::revive)),
        ("RST", |peer| drop(peer.command("rst")), None),
        ("FIN", |peer| drop(peer.command("fin")), None),
        (
            "Close 1012",
            |peer| drop(peer.command("close 1012 restart")),
            None,
        ),
        ("SIGSTOP", |peer| peer.stop(), Some(|peer| peer.cont())),
        (
            "SIGSTOP, then SIGKILL",
            |peer| peer.stop(),
            Some(|peer| {
                peer.kill();
                peer.revive();
            }),
        ),
    ];
    let (what, fault, healing) = kinds[rng.below(kinds.len() as u64) as usize];
    field.strike(&format!("{what} at b{}", index + 1), |peers| {
        fault(&mut peers[index])
    });
    healing.map(|healing| (soon, index, Some(healing)))
}

fn heal(field: &mut Field, healings: &mut Vec<Healing>, now: Instant) {
    for (due, index, healing) in healings.iter_mut() {
        if *due <= now
            && let Some(healing) = healing.take()
        {
            healing(&mut field.peers[*index]);
            *due = now + Duration::from_secs(1);
        }
    }
    healings.retain(|(due, _, _)| *due > now);
}
