//! Names over a board whose shards only remember what they are told.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};

use super::*;
use crate::control::assemble::assemble;
use crate::control::config::Sources;
use crate::control::recruiter::Recruiter;
use crate::control::switchboard::Switchboard;
use crate::shard::Mail;

/// What each host has now; hosts that are not here can't be resolved.
type Zone = Arc<Mutex<BTreeMap<String, Vec<&'static str>>>>;

struct Scene {
    desk: Arc<Desk>,
    names: Vec<Name>,
    zone: Zone,
    lookup: Lookup,
    told: Arc<Mutex<Vec<(usize, Mail)>>>,
    more: (Names, Inbox),
}

impl Scene {
    /// A proxy of three loops, as it stands before these pools.
    fn new(pools: &str, zone: &[(&str, &[&'static str])]) -> Scene {
        let zone = zone
            .iter()
            .map(|(host, ips)| (host.to_string(), ips.to_vec()));
        let zone: Zone = Arc::new(Mutex::new(zone.collect()));
        let theirs = Arc::clone(&zone);
        let lookup: Lookup = Arc::new(move |host, port| {
            let zone = theirs.lock().unwrap();
            let ips = zone.get(host).ok_or(ErrorKind::NotFound)?;
            let address = |ip: &&str| SocketAddr::new(ip.parse().unwrap(), port);
            Ok(ips.iter().map(address).collect())
        });
        let loaded = Sources::default().load_text(pools, "w.yaml").unwrap();
        let assembly = assemble(&loaded.config, &lookup).unwrap();
        let told = Arc::<Mutex<Vec<(usize, Mail)>>>::default();
        let post = Arc::clone(&told);
        let send = move |shard, mail| post.lock().unwrap().push((shard, mail));
        let board = Arc::new(Switchboard::new(3, Box::new(send)).unwrap());
        let (more, inbox) = Names::new();
        let recruiter = Recruiter::new(loaded.config.pools, Arc::clone(&lookup), more.clone());
        Scene {
            desk: Arc::new(Desk::new(board, assembly.fleet, 1 << 20, recruiter)),
            more: (more, inbox),
            names: assembly.names,
            zone,
            lookup,
            told,
        }
    }

    fn set(&self, host: &str, ips: &[&'static str]) {
        let mut zone = self.zone.lock().unwrap();
        zone.insert(host.to_string(), ips.to_vec());
    }

    fn remove(&self, host: &str) {
        self.zone.lock().unwrap().remove(host);
    }

    /// Resolves the first name once more, and buries who has left it.
    fn resolve(&mut self) {
        let name = &mut self.names[0];
        name.settle(&self.desk, (self.lookup)(&name.host, name.port));
        name.bury(&self.desk);
    }

    /// Ids and states, without those that are gone.
    fn servers(&self) -> Vec<String> {
        let fleet = self.desk.fleet();
        let live = fleet.servers.iter().enumerate();
        let live = live.filter(|(_, place)| place.state != ServerState::Gone);
        live.map(|(number, place)| format!("{number} {} {}", place.id, place.state.name()))
            .collect()
    }

    /// What the shards were told since the last look, in words.
    fn told(&self) -> Vec<String> {
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        let word = |(shard, mail)| match mail {
            Mail::Join { server, place } => format!("{shard}: {server} is {}", place.address),
            Mail::State { server, state } => format!("{shard}: {server} {}", state.name()),
            other => panic!("{other:?}"),
        };
        told.into_iter().map(word).collect()
    }

    /// As `PATCH /v1/servers/…`.
    fn wish(&self, server: u16, state: ServerState) {
        let mut fleet = self.desk.fleet();
        fleet.servers[usize::from(server)].wish = state;
        self.desk.set_state(&mut fleet, server, state);
    }

    fn connect(&self, server: u16) {
        self.desk.fleet().servers[usize::from(server)]
            .shared
            .connected();
    }

    fn disconnect(&self, server: u16) {
        self.desk.fleet().servers[usize::from(server)]
            .shared
            .disconnected();
    }
}

fn one_name(ips: &[&'static str]) -> Scene {
    let pools = "pools: { a: { servers: [{ url: \"ws://h:1\", id: x, weight: 3 }] } }";
    Scene::new(pools, &[("h", ips)])
}

#[test]
fn an_address_joins_drains_and_goes() {
    let mut scene = one_name(&["10.0.0.1"]);
    scene.connect(0);
    scene.resolve();
    assert_eq!(scene.told(), [""; 0], "nothing has changed");
    assert_eq!(scene.servers(), ["0 x enabled"]);

    scene.set("h", &["10.0.0.2", "10.0.0.1"]);
    scene.resolve();
    assert_eq!(scene.servers(), ["0 x enabled", "1 x@10.0.0.2 enabled"]);
    // Its home, shard 1, is told last.
    let joined = [
        "0: 1 is 10.0.0.2:1",
        "2: 1 is 10.0.0.2:1",
        "1: 1 is 10.0.0.2:1",
    ];
    assert_eq!(scene.told(), joined);
    assert_eq!(scene.desk.fleet().servers[1].weight, 3);
    assert_eq!(scene.desk.fleet().pools[0].members, [0, 1]);

    scene.set("h", &["10.0.0.2"]);
    scene.resolve();
    scene.resolve();
    assert_eq!(scene.servers(), ["0 x draining", "1 x@10.0.0.2 enabled"]);
    let draining = ["0: 0 draining", "1: 0 draining", "2: 0 draining"];
    assert_eq!(scene.told(), draining, "once");

    scene.disconnect(0);
    scene.resolve();
    assert_eq!(scene.servers(), ["1 x@10.0.0.2 enabled"]);
    assert_eq!(scene.told(), ["0: 0 gone", "1: 0 gone", "2: 0 gone"]);
    assert_eq!(scene.desk.fleet().pools[0].members, [1]);

    // Back after that: another server of the same name.
    scene.set("h", &["10.0.0.2", "10.0.0.1"]);
    scene.resolve();
    assert_eq!(scene.servers(), ["1 x@10.0.0.2 enabled", "2 x enabled"]);
}

#[test]
fn several_addresses_from_the_start_all_have_theirs_in_their_ids() {
    let mut scene = one_name(&["10.0.0.1", "::1"]);
    let both = ["0 x@10.0.0.1 enabled", "1 x@::1 enabled"];
    assert_eq!(scene.servers(), both);
    scene.set("h", &["::1"]);
    scene.resolve();
    assert_eq!(scene.servers(), ["1 x@::1 enabled"]);
}

#[test]
fn what_the_operator_said_stays() {
    let mut scene = one_name(&["10.0.0.1", "10.0.0.2"]);
    let state = |scene: &Scene| scene.desk.fleet().servers[0].state;
    scene.connect(0);
    scene.wish(0, ServerState::Disabled);
    scene.set("h", &["10.0.0.2"]);
    scene.resolve();
    assert_eq!(state(&scene), ServerState::Draining);
    scene.set("h", &["10.0.0.1", "10.0.0.2"]);
    scene.resolve();
    assert_eq!(state(&scene), ServerState::Disabled, "back, as it was");

    // Said while it is away.
    scene.set("h", &["10.0.0.2"]);
    scene.resolve();
    scene.wish(0, ServerState::Enabled);
    scene.disconnect(0);
    scene.resolve();
    assert_eq!(state(&scene), ServerState::Enabled, "it is not sent away");
    scene.wish(0, ServerState::Draining);
    scene.resolve();
    assert_eq!(state(&scene), ServerState::Gone);
}

#[test]
fn what_was_deleted_comes_back_when_it_has_left_dns_in_between() {
    let mut scene = one_name(&["10.0.0.1", "10.0.0.2"]);
    scene.wish(0, ServerState::Gone);
    scene.resolve();
    assert_eq!(scene.servers(), ["1 x@10.0.0.2 enabled"]);
    scene.set("h", &["10.0.0.2"]);
    scene.resolve();
    scene.set("h", &["10.0.0.1", "10.0.0.2"]);
    scene.resolve();
    let both = ["1 x@10.0.0.2 enabled", "2 x@10.0.0.1 enabled"];
    assert_eq!(scene.servers(), both);
}

#[test]
fn no_answer_and_an_empty_one_change_nothing_and_are_told_once() {
    let mut scene = one_name(&["10.0.0.1"]);
    scene.remove("h");
    for _ in 0..2 {
        scene.resolve();
        assert!(scene.names[0].troubled);
    }
    scene.set("h", &[]);
    scene.resolve();
    assert!(scene.names[0].troubled);
    assert_eq!(scene.servers(), ["0 x enabled"]);
    assert_eq!(scene.told(), [""; 0]);
    scene.set("h", &["10.0.0.1"]);
    scene.resolve();
    assert!(!scene.names[0].troubled);
    let mut said = 0;
    for _ in 0..3 {
        scene.names[0].complain(|| said += 1);
    }
    assert_eq!(said, 1);
}

#[test]
fn without_a_place_for_all_nothing_changes() {
    let pools = "pools: { a: { servers: [{ url: \"ws://h:1\", id: x }] },\n\
                 b: { kind: http, servers: [{ url: \"http://10.0.0.9\", id: \"x@10.0.0.3\" }] } }";
    let mut scene = Scene::new(pools, &[("h", &["10.0.0.1"])]);
    let before = scene.servers();
    scene.set("h", &["10.0.0.2", "10.0.0.3"]);
    scene.resolve();
    assert_eq!(scene.servers(), before, "the id is taken");
    assert!(scene.names[0].troubled);

    let mut scene = one_name(&["10.0.0.1"]);
    {
        let mut fleet = scene.desk.fleet();
        let address = SocketAddr::from(([10, 9, 9, 9], 1));
        while fleet.servers.len() < super::super::admin::SERVERS_MAX {
            let other = fleet.servers[0].another("gone".to_string(), address);
            fleet.servers.push(other);
        }
    }
    scene.set("h", &["10.0.0.2"]);
    scene.resolve();
    assert!(scene.names[0].troubled);
    assert_eq!(scene.desk.fleet().servers[0].state, ServerState::Enabled);
    assert_eq!(scene.told(), [""; 0]);
}

#[test]
fn only_names_are_resolved_again_and_only_where_that_is_wanted() {
    let pools = "pools: { a: { servers: [\"ws://h:1\", \"ws://10.0.0.1:1\", \"ws://[::1]:1\"], dns: 5s },\n\
                 b: { kind: http, servers: [\"http://i\"], dns: 0 } }";
    let scene = Scene::new(pools, &[("h", &["10.0.0.2"]), ("i", &["10.0.0.3"])]);
    let names = scene.names.iter().map(|name| (&*name.host, name.every));
    assert_eq!(names.collect::<Vec<_>>(), [("h", Duration::from_secs(5))]);
}

#[test]
fn a_name_that_is_slow_keeps_no_other_waiting() {
    let pools = "pools: { a: { servers: [\"ws://slow:1\", \"ws://quick:1\"], dns: 100ms } }";
    let zone: [(&str, &[&'static str]); 2] = [("slow", &["10.0.0.1"]), ("quick", &["10.0.0.2"])];
    let scene = Scene::new(pools, &zone);
    let (gate, asked) = (
        Arc::new((Mutex::new(false), Condvar::new())),
        AtomicUsize::new(0),
    );
    let (held, asked) = (Arc::clone(&gate), Arc::new(asked));
    let (real, counted) = (Arc::clone(&scene.lookup), Arc::clone(&asked));
    let lookup: Lookup = Arc::new(move |host, port| {
        if host == "slow" {
            let open = held.0.lock().unwrap();
            drop(held.1.wait_while(open, |open| !*open));
        } else {
            counted.fetch_add(1, SeqCst);
        }
        real(host, port)
    });
    scene.set("slow", &["10.0.0.3"]);
    let Scene {
        desk, names, more, ..
    } = scene;
    let resolver = Resolver::start(names, lookup, Arc::clone(&desk), more).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let until = |done: &dyn Fn() -> bool| {
        while !done() {
            assert!(Instant::now() < deadline, "in time");
            thread::sleep(Duration::from_millis(5));
        }
    };
    until(&|| asked.load(SeqCst) >= 4);
    assert_eq!(desk.fleet().servers.len(), 2, "slow has not answered yet");
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    until(&|| {
        let fleet = desk.fleet();
        fleet.servers.len() == 3 && fleet.servers[0].state == ServerState::Gone
    });
    let begun = Instant::now();
    drop(resolver);
    assert!(begun.elapsed() < Duration::from_secs(5), "it stops at once");
}
