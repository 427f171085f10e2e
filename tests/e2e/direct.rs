//! Tries the rig itself, without the proxy: clients straight to the recording servers.
//! What fails here is no fault of wsteady.

use crate::real::{browse, program, serve_page};
use crate::support::client::{Crowd, Habit};
use crate::support::ledger::{Checker, History, Struck};
use crate::support::peer::{KINDS, Peer};
use crate::support::until_true;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

fn address(peer: &Peer) -> SocketAddr {
    peer.url().trim_start_matches("ws://").parse().unwrap()
}

#[test]
fn both_servers_log_echo_and_push_by_the_ledger() {
    for kind in KINDS {
        let mut peer = Peer::start(kind, "direct", &[]);
        let crowd = Crowd::start(address(&peer), 5, &Habit::default());
        crowd.send_more(200);
        peer.command("push 3 5000");
        crowd.hush();
        until_true(Duration::from_secs(5), "all to be logged", || {
            peer.messages() == crowd.sent()
        });
        std::thread::sleep(Duration::from_millis(200));
        let run = crowd.run;
        let histories = crowd.leave();
        let got: u64 = histories
            .iter()
            .flat_map(|one| &one.received)
            .map(|(_, count)| count)
            .sum();
        let sent: u64 = histories.iter().map(|one| one.accepted).sum();
        assert_eq!(
            got,
            sent + 15,
            "{kind:?}: each message's echo and three pushes to each"
        );
        let mut checker = Checker::new(run);
        checker.read(&peer.log());
        checker.judge(&histories, Vec::new(), 0).must_be_clean();
    }
}

#[test]
fn a_server_killed_without_a_proxy_loses_messages_and_the_ledger_says_so() {
    for kind in KINDS {
        let mut peer = Peer::start(kind, "direct", &[]);
        let crowd = Crowd::start(address(&peer), 3, &Habit::default());
        crowd.send_more(50);
        // What is sent from here to the kill lies in the kernel, unread.
        peer.stop();
        crowd.send_more(50);
        peer.kill();
        let run = crowd.run;
        std::thread::sleep(Duration::from_millis(200));
        let histories: Vec<History> = crowd.leave();
        let mut checker = Checker::new(run);
        checker.read(&peer.log());
        let struck = vec![Struck {
            what: "kill -9".to_owned(),
            unconfirmed: true,
        }];
        let verdict = checker.judge(&histories, struck, 0);
        assert!(verdict.lost >= 50, "{kind:?}: {verdict}");
        assert!(
            histories.iter().all(|one| one.closed == Some(1006)),
            "{histories:?}"
        );
        assert_eq!(
            verdict.unexpected + verdict.inversions + verdict.cross_talk,
            0,
            "{verdict}"
        );
    }
}

#[test]
fn each_way_to_end_a_connection_is_what_it_says() {
    for kind in KINDS {
        for (command, closed) in [("close 1012 bye", 1012), ("rst", 1006), ("fin", 1006)] {
            let mut peer = Peer::start(kind, "direct", &[]);
            let crowd = Crowd::start(address(&peer), 1, &Habit::default());
            crowd.send_more(20);
            peer.command(command);
            std::thread::sleep(Duration::from_millis(300));
            let histories = crowd.leave();
            assert_eq!(
                histories[0].closed,
                Some(closed),
                "{kind:?} {command}: {histories:?}"
            );
        }
    }
}

#[test]
fn the_clients_that_people_use_report_what_they_saw() {
    for kind in KINDS {
        let peer = Peer::start(kind, "direct", &["--deflate", "--subprotocol", "chat"]);
        let url = peer.url();
        for client in KINDS {
            let mut command = client.program("client");
            command.args([
                &url,
                "--deflate",
                "--subprotocol",
                "other,chat",
                "--every",
                "5",
            ]);
            let (reports, end) = program(command);
            must_be_whole(&reports);
            end();
        }
        let (page, reports) = serve_page();
        let mut browser = browse(&format!("{page}?url={url}/x&sub=other,chat&every=5"));
        must_be_whole(&reports);
        browser.close();
    }
}

fn must_be_whole(reports: &crate::real::Reports) {
    let limit = Duration::from_secs(60);
    assert_eq!(reports.recv_timeout(limit).unwrap(), "half");
    let result: Value = serde_json::from_str(&reports.recv_timeout(limit).unwrap()).unwrap();
    assert_eq!(
        (&result["missing"], &result["wrong"]),
        (&json!([]), &0.into()),
        "{result}"
    );
    assert_eq!(result["sub"], "chat", "{result}");
    assert!(
        result["ext"]
            .as_str()
            .unwrap()
            .contains("permessage-deflate"),
        "{result}"
    );
}
