//! A field of servers, the proxy before them, clients before it; faults are struck, the ledger
//! is checked at the end.

use super::client::{Crowd, Habit};
use super::ledger::{Checker, History, Struck, Verdict};
use super::peer::{Kind, Peer};
use super::proxy::Proxy;
use serde_json::Value;
use std::time::{Duration, Instant};

pub struct Field {
    pub peers: Vec<Peer>,
    pub proxy: Proxy,
    pub crowd: Crowd,
    pub faults: Vec<Struck>,
}

/// I1: what was sent must have arrived within that time after the last fault has healed.
pub const HEALED: Duration = Duration::from_secs(10);

impl Field {
    /// `count` clients before one server per entry of `kinds`; `options` are the servers'.
    pub fn start(
        kinds: &[Kind],
        options: &[&str],
        changes: Value,
        count: u32,
        habit: &Habit,
    ) -> Field {
        let names = ["b1", "b2", "b3", "b4"];
        let peers: Vec<Peer> = kinds
            .iter()
            .zip(names)
            .map(|(kind, name)| Peer::start(*kind, name, options))
            .collect();
        Field::over(peers, changes, count, habit)
    }

    pub fn over(peers: Vec<Peer>, changes: Value, count: u32, habit: &Habit) -> Field {
        let urls: Vec<String> = peers.iter().map(Peer::url).collect();
        let proxy = Proxy::start(&urls, changes);
        Field::behind(proxy, peers, count, habit)
    }

    /// Clients before a proxy that has started already.
    pub fn behind(proxy: Proxy, peers: Vec<Peer>, count: u32, habit: &Habit) -> Field {
        let crowd = Crowd::start_as(proxy.is_sealed(), proxy.address, count, habit);
        Field {
            peers,
            proxy,
            crowd,
            faults: Vec::new(),
        }
    }

    /// Strikes a fault, and notes whether anything was unconfirmed at that moment.
    pub fn strike(&mut self, what: &str, fault: impl FnOnce(&mut [Peer])) {
        let unconfirmed = self.journaled() > 0;
        fault(&mut self.peers);
        self.faults.push(Struck {
            what: what.to_owned(),
            unconfirmed,
        });
    }

    pub fn journaled(&self) -> u64 {
        self.proxy.count("wsteady_messages_journaled", &[])
    }

    /// No more messages; waits until all are confirmed, or for `limit`.
    pub fn settle(&self, limit: Duration) {
        self.crowd.hush();
        // A message that a client was just about to send counts, too.
        std::thread::sleep(Duration::from_millis(100));
        let deadline = Instant::now() + limit;
        while self.journaled() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        // The last echoes are on their way down.
        std::thread::sleep(Duration::from_millis(200));
    }

    /// The end of a test that may lose nothing: no client was closed, the ledger is clean.
    pub fn conclude(self) -> Verdict {
        self.settle(HEALED);
        let log = self.proxy.log();
        let (verdict, histories) = self.close_up();
        for history in &histories {
            assert_eq!(
                history.closed, None,
                "session {} was closed; wsteady's log: {log}",
                history.session
            );
        }
        verdict.must_be_clean();
        verdict
    }

    /// Lets the clients leave, reads all logs, lets the proxy end.
    pub fn close_up(self) -> (Verdict, Vec<History>) {
        let Field {
            mut peers,
            proxy,
            crowd,
            faults,
        } = self;
        let run = crowd.run;
        let histories = crowd.leave();
        let replayed = proxy.count("wsteady_messages_replayed_total", &[]);
        proxy.finish();
        // Killed, so that no log is written while it is read.
        peers
            .iter_mut()
            .filter(|peer| peer.is_running())
            .for_each(Peer::kill);
        let mut checker = Checker::new(run);
        peers.iter().for_each(|peer| checker.read(&peer.log()));
        (checker.judge(&histories, faults, replayed), histories)
    }
}
