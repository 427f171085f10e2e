//! Servers that fail as processes do, and clients that must not notice: every test ends with the
//! ledger. Numbers F are the cases of the threat model.

use crate::support::client::Habit;
use crate::support::field::{Field, HEALED};
use crate::support::ledger::{Record, Verdict, header, records};
use crate::support::netns::Cable;
use crate::support::peer::{KINDS, Kind, Peer};
use crate::support::{until, until_true};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A message every 5 ms and a barrier after 200 ms: some 40 are unconfirmed at any moment.
fn brisk() -> Habit {
    Habit {
        every: Duration::from_millis(5),
        ..Habit::default()
    }
}

fn lazy_barrier() -> Value {
    json!({ "session": { "barrier": { "delay": "200ms", "bytes": "64KiB" } } })
}

/// Six clients on two servers; the fault strikes the first server, then the second.
fn survive(what: &str, fault: impl Fn(&mut Peer), heal: impl Fn(&mut Peer)) {
    for kind in KINDS {
        let mut field = Field::start(&[kind, kind], &[], lazy_barrier(), 6, &brisk());
        field.crowd.send_more(200);
        let mut before = 0;
        for index in 0..2 {
            field.strike(&format!("{kind:?}: {what}"), |peers| {
                fault(&mut peers[index])
            });
            field.crowd.send_more(200);
            heal(&mut field.peers[index]);
            let failovers = field.proxy.count("wsteady_failovers_total", &[]);
            assert!(failovers > before, "{kind:?}: {what}: it moved nobody");
            before = failovers;

            // Back in service before the other one fails.
            field.crowd.send_more(300);
        }
        let verdict = field.conclude();
        assert!(verdict.telling_faults_percent() >= 30, "{verdict}");
    }
}

#[test]
fn kill_9() {
    survive("kill -9", Peer::kill, Peer::revive);
}

#[test]
fn a_reset() {
    survive("RST", |peer| drop(peer.command("rst")), |_| {});
}

#[test]
fn f11_a_half_close() {
    // The server has ended its direction and goes on reading.
    survive("FIN", |peer| drop(peer.command("fin")), |_| {});
}

#[test]
fn a_server_that_stops_for_longer_than_the_pong_deadline() {
    let heal = |peer: &mut Peer| {
        // Ping after 1 s of silence, dead after 1 s more; the stopped kernel takes all we write.
        std::thread::sleep(Duration::from_millis(3500));
        peer.cont();
        // Revived, it reads what lay in its kernel; I8: no more than that.
        until(HEALED, "its stale sessions to end", || {
            (peer.live() <= 6).then_some(())
        });
    };
    survive("SIGSTOP", |peer| peer.stop(), heal);
}

#[test]
fn a_server_that_reads_nothing_more() {
    survive(
        "reads nothing",
        |peer| drop(peer.command("mute")),
        |_| {
            std::thread::sleep(Duration::from_millis(3500));
        },
    );
}

#[test]
fn closes_whose_codes_are_abnormal() {
    // W, step 2: the list was never consulted, and 1012 closed the client.
    for code in [1001, 1011, 1012, 1013] {
        for kind in KINDS {
            let mut field = Field::start(&[kind, kind], &[], lazy_barrier(), 4, &brisk());
            field.crowd.send_more(100);
            for index in 0..2 {
                field.strike(&format!("{kind:?}: Close {code}"), |peers| {
                    peers[index].command(&format!("close {code} going"));
                });
                field.crowd.send_more(100);
            }
            field.conclude();
        }
    }
}

#[test]
fn f15_a_black_hole() {
    let Some(cable) = Cable::lay() else {
        eprintln!("SKIPPED: network namespaces need root");
        return;
    };
    let there = Peer::start_at(Kind::Node, "b1", &cable.inside, &cable.enter(), &[]);
    let here = Peer::start(Kind::Node, "b2", &[]);
    let mut field = Field::over(vec![there, here], lazy_barrier(), 6, &brisk());
    field.crowd.send_more(200);
    assert!(
        field
            .proxy
            .count("wsteady_sessions_active", &[("server", "b1")])
            > 0
    );
    field.strike("black hole", |_| cable.pull());

    // Nobody says a word: only the deadline tells.
    until_true(HEALED, "sessions on the black hole to move", || {
        field
            .proxy
            .count("wsteady_sessions_active", &[("server", "b1")])
            == 0
    });
    field.crowd.send_more(300);
    assert!(field.proxy.count("wsteady_failovers_total", &[]) > 0);
    cable.plug();

    field.conclude();
}

#[test]
fn f14_a_hundred_messages_that_a_stopped_server_never_read() {
    for kind in KINDS {
        let habit = Habit {
            every: Duration::from_millis(4),
            ..Habit::default()
        };
        let mut second = Peer::start(kind, "b2", &[]);
        // Down while the session is opened, so that it lands on the first.
        second.kill();
        let first = Peer::start(kind, "b1", &[]);
        let mut field = Field::over(vec![first, second], lazy_barrier(), 1, &habit);
        field.crowd.send_more(50);
        field.peers[0].stop();
        field.crowd.send_more(100);
        field.peers[1].revive();
        field.strike("SIGKILL of a stopped server", |peers| peers[0].kill());
        let verdict = field.conclude();
        assert_eq!(verdict.telling_faults_percent(), 100, "{verdict}");
    }
}

#[test]
fn f16_the_only_server_is_down_for_twenty_seconds() {
    let habit = Habit {
        every: Duration::from_millis(50),
        size_max: 800,
        ..Habit::default()
    };
    let mut field = Field::start(
        &[Kind::Node],
        &[],
        json!({ "session": { "hold": "60s" } }),
        2,
        &habit,
    );
    field.crowd.send_more(40);
    field.strike("kill -9 of the only server", |peers| peers[0].kill());
    let down = Instant::now();
    until_true(HEALED, "both to be held", || {
        field.proxy.count("wsteady_sessions_held", &[]) == 2
    });
    while down.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(500));
        field.proxy.metrics();
    }
    assert!(field.journaled() > 600, "{} are kept", field.journaled());
    field.peers[0].revive();
    field.conclude();
}

#[test]
fn f20_a_server_that_comes_and_goes() {
    // On a slow machine no Pong may come back between two of its deaths: that is not poison.
    let patient = json!({ "session": { "hold": "30s", "replay_attempts": 100 } });
    let mut field = Field::start(&[Kind::Node], &[], patient, 3, &brisk());
    for _ in 0..4 {
        field.crowd.send_more(100);
        field.strike("flap", |peers| peers[0].kill());
        std::thread::sleep(Duration::from_secs(1));
        field.peers[0].revive();
    }
    let dials = records(&field.peers[0].log()).filter(is_dial).count();
    field.conclude();
    assert!(dials < 100, "back-off bounds the dials: {dials}");
}

fn is_dial(record: &Record) -> bool {
    matches!(record, Record::Other(entry) if entry["t"] == "dial")
}

/// Floods a proxy whose only server is down, buffer 256 KiB.
fn flooded(overflow: &str, count: u32) -> Field {
    let changes = json!({ "session": { "buffer": "256KiB", "overflow": overflow, "hold": "30s" } });
    let habit = Habit {
        every: Duration::from_millis(1),
        size_max: 60_000,
        ..Habit::default()
    };
    let mut field = Field::start(&[Kind::Node], &[], changes, count, &habit);
    field.crowd.send_more(50);
    field.strike("down under a flood", |peers| peers[0].kill());
    field
}

#[test]
fn f17_at_the_bound_pause_stops_reading_and_loses_nothing() {
    let mut field = flooded("pause", 2);
    // Until TCP pushes back on both.
    let mut before = 0;
    until_true(Duration::from_secs(30), "the flood to stand still", || {
        std::thread::sleep(Duration::from_millis(700));
        let stands = field.crowd.sent() == before;
        before = field.crowd.sent();
        stands
    });
    let held = field.proxy.count("wsteady_buffer_bytes", &[]);
    // At most the bound and one message above it, for each of the two.
    assert!(
        held > 256 << 10 && held < 2 * (256 << 10) + (400 << 10),
        "{held} bytes"
    );
    field.crowd.hush();
    field.peers[0].revive();
    field.conclude();
}

#[test]
fn f18_at_the_bound_close_drops_the_client_and_counts() {
    // I, step 7: it stayed open and was never read again.
    let mut field = flooded("close", 1);
    until_true(HEALED, "the client to be closed", || {
        field.proxy.count("wsteady_messages_unconfirmed_total", &[]) > 0
            || field.proxy.count("wsteady_connections_active", &[]) == 0
    });
    field.peers[0].revive();
    field.settle(HEALED);
    let unconfirmed = field.proxy.count("wsteady_messages_unconfirmed_total", &[]);
    let (verdict, histories) = field.close_up();
    assert!(
        matches!(histories[0].closed, Some(1013 | 1006)),
        "{histories:?}"
    );
    // What the kernels had and the proxy had not is lost as well, and nobody can count it; some
    // of what it counts was delivered just before the kill.
    assert!(
        verdict.lost > 0 && unconfirmed > 0,
        "{verdict} {unconfirmed}"
    );
    assert_eq!(
        verdict.unexpected + verdict.inversions + verdict.cross_talk,
        0,
        "{verdict}"
    );
}

#[test]
fn f19_beyond_hold_clients_are_closed_with_1013_and_counted() {
    let changes = json!({ "session": { "hold": "2s" } });
    let mut field = Field::start(&[Kind::Node], &[], changes, 3, &brisk());
    field.crowd.send_more(60);
    field.strike("down for good", |peers| peers[0].kill());
    std::thread::sleep(Duration::from_millis(500));
    field.crowd.hush();
    until_true(HEALED, "all to be closed", || {
        field.proxy.count("wsteady_sessions_held", &[]) == 0
            && field.proxy.count("wsteady_connections_active", &[]) == 0
    });
    let unconfirmed = field
        .proxy
        .count("wsteady_messages_unconfirmed_total", &[("pool", "main")]);
    assert!(
        field.proxy.log().contains("no server within hold time"),
        "{}",
        field.proxy.log()
    );
    let (verdict, histories) = field.close_up();
    assert!(
        histories.iter().all(|one| one.closed == Some(1013)),
        "{histories:?}"
    );
    // I1: exactly what was counted, and some of that may have been delivered and not confirmed.
    assert!(
        verdict.lost <= unconfirmed && verdict.lost > 0,
        "{verdict} counted {unconfirmed}"
    );
    verdict.must_be_clean_but_for_loss();
}

#[test]
fn f28_processed_messages_are_repeated_from_the_servers_own_count_on() {
    for kind in KINDS {
        let changes = json!({ "session": { "confirm": "processed" } });
        let habit = Habit {
            every: Duration::from_millis(4),
            count: 100,
            ..Habit::default()
        };
        let options = ["--processed", "--ack-upto", "50"];
        let mut second = Peer::start(kind, "b2", &["--processed"]);
        second.kill();
        let first = Peer::start(kind, "b1", &options);
        let mut field = Field::over(vec![first, second], changes, 1, &habit);
        field.peers[0].wait_messages(60);
        field.peers[1].revive();
        field.strike("kill -9 after 60 of which 50 were dealt with", |peers| {
            peers[0].kill()
        });
        let verdict = field.conclude();
        // It logged 60 or a few more when it was killed; 50 of them never come again.
        assert!(
            (10..=50).contains(&verdict.overlap_max),
            "{kind:?}: {verdict}"
        );
    }
}

#[test]
fn processed_is_asked_of_the_server_and_received_serves_where_it_has_no_answer() {
    let changes = json!({ "session": { "confirm": "processed" } });
    let mut field = Field::start(&[Kind::Python, Kind::Node], &[], changes, 4, &brisk());
    field.crowd.send_more(100);
    field.strike("kill -9", |peers| peers[0].kill());
    field.crowd.send_more(100);
    field.conclude();
}

/// Moves by the operator: no loss and no repeat.
fn moved(what: &str, order: impl Fn(&Field)) -> Verdict {
    let mut field = Field::start(&[Kind::Python, Kind::Node], &[], json!({}), 6, &brisk());
    field.crowd.send_more(100);
    field.strike(what, |_| {});
    order(&field);
    until_true(HEALED, "its sessions to move", || {
        field
            .proxy
            .count("wsteady_sessions_active", &[("server", "b1")])
            == 0
    });
    field.crowd.send_more(100);
    let logs: Vec<_> = records(&field.peers[0].log()).collect();
    let closes = logs.iter().filter_map(|record| match record {
        Record::Other(entry) if entry["t"] == "closed" => Some(entry),
        _ => None,
    });
    for close in closes {
        assert_eq!(
            (&close["code"], &close["reason"]),
            (&json!(1000), &json!("moved")),
            "{what}"
        );
    }
    let verdict = field.conclude();
    assert_eq!(verdict.duplicated, 0, "{what}: {verdict}");
    verdict
}

#[test]
fn an_operators_failover_loses_and_repeats_nothing() {
    moved("POST failover", |field| {
        let answer = field.proxy.admin("POST", "/v1/servers/b1/failover", None);
        assert!(answer.status < 300, "{} {}", answer.status, answer.body);
        // It may return there, so it is kept out of the choice.
        let off = Some(r#"{"state": "disabled"}"#);
        field.proxy.admin("PATCH", "/v1/servers/b1", off);
        field.proxy.admin("POST", "/v1/servers/b1/failover", None);
    });
}

#[test]
fn draining_moves_sessions_and_disabling_does_not() {
    moved("PATCH draining", |field| {
        let sessions = || {
            field
                .proxy
                .count("wsteady_sessions_active", &[("server", "b1")])
        };
        let before = sessions();
        assert!(before > 0);
        let answer = field
            .proxy
            .admin("PATCH", "/v1/servers/b1", Some(r#"{"state": "disabled"}"#));
        assert_eq!(answer.status, 200, "{}", answer.body);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(sessions(), before, "disabled: the old ones stay");
        let answer = field
            .proxy
            .admin("PATCH", "/v1/servers/b1", Some(r#"{"state": "draining"}"#));
        assert_eq!(answer.status, 200, "{}", answer.body);
    });
}

#[test]
fn one_session_can_be_moved_and_the_last_server_is_never_left() {
    let mut field = Field::start(&[Kind::Node], &[], json!({}), 2, &brisk());
    field.crowd.send_more(50);
    // Nowhere to go: it stays and is listed.
    let answer = field
        .proxy
        .admin("PATCH", "/v1/servers/b1", Some(r#"{"state": "draining"}"#));
    assert_eq!(answer.status, 200, "{}", answer.body);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(
        field
            .proxy
            .count("wsteady_sessions_active", &[("server", "b1")]),
        2
    );
    field
        .proxy
        .admin("PATCH", "/v1/servers/b1", Some(r#"{"state": "enabled"}"#));
    let id = field.proxy.sessions()[0]["id"].as_str().unwrap().to_owned();
    field.strike("session failover", |_| {});
    let answer = field
        .proxy
        .admin("POST", &format!("/v1/sessions/{id}/failover"), None);
    assert!(answer.status < 300, "{} {}", answer.status, answer.body);
    until_true(HEALED, "it to come back to the only server", || {
        let connections = records(&field.peers[0].log());
        let names = |record: &Record| matches!(record, Record::Connection { session, reconnect: true, .. } if *session == id);
        connections.filter(names).count() == 1
    });
    field.crowd.send_more(50);
    let verdict = field.conclude();
    assert_eq!(verdict.duplicated, 0, "{verdict}");
}

#[test]
fn w_d4_servers_that_stall_and_then_reset_under_load_leave_no_session_stuck() {
    // W-D4: sessions stood still for ever when a stalled server was reset while clients sent.
    let habit = Habit {
        every: Duration::from_millis(20),
        ..Habit::default()
    };
    // Nor is any poison here, though on a slow machine no Pong may be back between two resets.
    let patient = json!({ "session": { "replay_attempts": 100 } });
    let mut field = Field::start(&[Kind::Node, Kind::Node], &[], patient, 40, &habit);
    for round in 0..4 {
        field.crowd.send_more(400);
        let index = round % 2;
        field.strike("stall, then RST", |peers| {
            peers[index].command("mute");
            std::thread::sleep(Duration::from_millis(300));
            peers[index].command("rst");
        });
    }
    field.crowd.send_more(400);
    let held = || field.proxy.count("wsteady_sessions_held", &[]);
    until_true(HEALED, "all to have a server", || held() == 0);
    field.conclude();
}

#[test]
fn a_redial_says_so_and_repeats_the_clients_request() {
    // I-F9: path, query and headers were lost.
    let mut field = Field::start(&[Kind::Node], &[], json!({}), 1, &brisk());
    field.crowd.send_more(20);
    field.strike("RST", |peers| drop(peers[0].command("rst")));
    field.crowd.send_more(20);
    let log = field.peers[0].log();
    let dials: Vec<Value> = records(&log)
        .filter_map(|record| match record {
            Record::Other(entry) if entry["t"] == "dial" => Some(entry),
            _ => None,
        })
        .collect();
    assert_eq!(dials.len(), 2);
    let told = |name: &str| {
        dials
            .iter()
            .map(|dial| header(dial, name))
            .collect::<Vec<_>>()
    };
    assert_eq!(dials[0]["path"], dials[1]["path"]);
    assert_eq!(told("x-balancer-reconnect"), [None, Some("1".to_owned())]);
    assert_eq!(told("x-wsteady-session")[0], told("x-wsteady-session")[1]);
    assert_ne!(told("sec-websocket-key")[0], told("sec-websocket-key")[1]);
    assert_eq!(told("host")[0], told("host")[1]);
    field.conclude();
}
