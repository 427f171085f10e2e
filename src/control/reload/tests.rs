//! Configurations over a board whose shards only remember what they are told.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;

use super::*;
use crate::control::assemble::assemble;
use crate::control::recruiter::{Recruit, Recruiter};
use crate::control::resolver::{self, Inbox};
use crate::control::switchboard::Switchboard;

struct Scene {
    reloader: Reloader,
    told: Arc<Mutex<Vec<Mail>>>,
    _inbox: Inbox,
}

/// `servers.test` has two addresses, other names none.
fn lookup() -> Lookup {
    let zone = BTreeMap::from([("servers.test", [[10, 0, 0, 1], [10, 0, 0, 2]])]);
    Arc::new(move |host, port| {
        let ips = zone.get(host).ok_or(ErrorKind::NotFound)?;
        Ok(ips.iter().map(|ip| SocketAddr::from((*ip, port))).collect())
    })
}

fn load(text: &str) -> Config {
    Sources::default().load_text(text, "w.yaml").unwrap().config
}

impl Scene {
    /// One loop under this configuration.
    fn new(text: &str) -> Scene {
        let (config, lookup) = (load(text), lookup());
        let assembly = assemble(&config, &lookup).unwrap();
        let told = Arc::<Mutex<Vec<Mail>>>::default();
        let post = told.clone();
        let send = move |_, mail| post.lock().unwrap().push(mail);
        let board = Arc::new(Switchboard::new(1, Box::new(send)).unwrap());
        let (names, inbox) = Names::new();
        let recruiter = Recruiter::new(config.pools.clone(), lookup.clone(), names.clone());
        let desk = Desk::new(board, assembly.fleet, config.limits.memory, recruiter);
        let chunks = config.limits.memory / CHUNK as u64;
        let budgets = (Arc::new(Budget::new(chunks)), Arc::new(Budget::new(1_000)));
        let settings = assembly.settings;
        Scene {
            reloader: Reloader::new(
                Arc::new(desk),
                (lookup, names),
                budgets,
                config,
                (settings, None),
            ),
            told,
            _inbox: inbox,
        }
    }

    fn apply(&self, text: &str) -> Result<Reloaded, String> {
        self.reloader.apply(load(text))
    }

    /// What changed, as it is told.
    fn changed(&self, text: &str) -> Vec<String> {
        self.apply(text).unwrap().changed
    }

    fn told(&self) -> Vec<Mail> {
        std::mem::take(&mut self.told.lock().unwrap())
    }

    /// The last rules that were told.
    fn rules(&self) -> Arc<Rules> {
        let rules = |mail: Mail| match mail {
            Mail::Rules(rules) => Some(rules),
            _ => None,
        };
        self.told().into_iter().filter_map(rules).last().unwrap()
    }

    /// Ids, weights and states of all that ever were.
    fn servers(&self) -> Vec<(String, u32, &'static str)> {
        let fleet = self.reloader.desk.fleet();
        let row = |place: &Server| (place.id.clone(), place.weight, place.state.name());
        fleet.servers.iter().map(row).collect()
    }

    fn live(&self) -> Vec<String> {
        let live = self.servers().into_iter();
        live.filter(|(_, _, state)| *state != "gone")
            .map(|(id, _, _)| id)
            .collect()
    }

    fn recruit(&self, pool: &str, url: &str, id: &str) {
        let desk = &self.reloader.desk;
        let wanted = Recruit {
            pool: pool.into(),
            url: url.into(),
            id: Some(id.into()),
            weight: None,
        };
        desk.recruiter.recruit(desk, &wanted).unwrap();
    }
}

const AB: &str = "pools: { a: { servers: [{ url: \"ws://127.0.0.1:1\", id: x }, { url: \"ws://127.0.0.1:2\", id: y }] } }";

#[test]
fn nothing_new_is_told_to_nobody() {
    let scene = Scene::new(AB);
    assert_eq!(scene.apply(AB), Ok(Reloaded::default()));
    assert!(scene.told().is_empty());
}

#[test]
fn servers_come_go_and_change_their_weight_and_the_others_stay() {
    let scene = Scene::new(AB);
    let text = "pools: { a: { servers: [{ url: \"ws://127.0.0.1:2\", id: y, weight: 4 }, { url: \"ws://127.0.0.1:3\", id: z }] } }";
    let changed = scene.changed(text);
    let words = ["server y: weight 4", "server z joins", "server x leaves"];
    assert_eq!(changed, words);
    let rows = [("x", 1, "gone"), ("y", 4, "enabled"), ("z", 1, "enabled")];
    let rows = rows.map(|(id, weight, state)| (id.to_owned(), weight, state));
    assert_eq!(scene.servers(), rows);
    // Who leaves does so when there is somewhere to go.
    let told: Vec<String> = scene.told().iter().map(|one| format!("{one:?}")).collect();
    let place = |word: &str| told.iter().position(|one| one.contains(word)).unwrap();
    assert!(place("Rules") < place("Join") && place("Join") < place("Gone"));
    assert_eq!(told.len(), 4, "{told:?}");
}

#[test]
fn another_url_is_another_server_under_the_same_id() {
    let scene = Scene::new(AB);
    let text = AB.replace(":1\"", ":9\"");
    assert_eq!(scene.changed(&text), ["server x joins", "server x leaves"]);
    let rows = scene.servers();
    assert_eq!(
        (rows[0].2, rows[2].0.as_str(), rows[2].2),
        ("gone", "x", "enabled")
    );
    // And back.
    scene.changed(AB);
    assert_eq!(scene.live(), ["y", "x"]);
}

#[test]
fn what_the_operator_did_stays() {
    let scene = Scene::new(AB);
    let desk = &scene.reloader.desk;
    scene.recruit("a", "ws://127.0.0.1:7", "mine");
    desk.set_state(&mut desk.fleet(), 0, ServerState::Gone);
    desk.set_state(&mut desk.fleet(), 1, ServerState::Disabled);
    desk.fleet().servers[1].weight = 9;
    let text = AB.replace("{ servers", "{ balance: random, servers");
    assert_eq!(scene.changed(&text), ["pool a: balance"]);
    let rows = [
        ("x", 1, "gone"),
        ("y", 9, "disabled"),
        ("mine", 1, "enabled"),
    ];
    let rows = rows.map(|(id, weight, state)| (id.to_owned(), weight, state));
    assert_eq!(scene.servers(), rows);
    // The file now says what the operator had done, or something else under the same id.
    let with = |port: u16| {
        let entry = format!("servers: [{{ url: \"ws://127.0.0.1:{port}\", id: mine }}, ");
        text.replace("servers: [", &entry)
    };
    let refused = scene.apply(&with(8)).unwrap_err();
    assert!(refused.contains("has this id"), "{refused}");
    assert_eq!(scene.changed(&with(7)), Vec::<String>::new());
    assert_eq!(scene.live(), ["y", "mine"]);
}

#[test]
fn settings_limits_and_terms_reach_the_loops() {
    let scene = Scene::new(AB);
    let text = AB.replace(
        "{ servers",
        "{ target: fixed, breaker: { threshold: 3, cooldown: 4s }, timeouts: { ping: 7s }, session: { hold: 9s }, servers",
    ) + "\nlimits: { message: 5KiB, memory: 64MiB, connections: 500 }\ndrain: 3s\norigins: [\"https://a.example\"]";
    let words = [
        "pool a: target, breaker, timeouts, session",
        "origins",
        "limits",
        "drain",
    ];
    assert_eq!(scene.changed(&text), words);
    let rules = scene.rules();
    assert_eq!(
        (rules.settings[0].ping, rules.settings[0].hold),
        (7_000, 9_000)
    );
    assert_eq!(rules.house.message_max, 5 << 10);
    assert_eq!(rules.house.origins, ["https://a.example"]);
    let terms = Terms {
        prefix: "/".into(),
        threshold: 3,
        cooldown: 4_000,
    };
    assert_eq!(rules.charter.terms, [terms.clone(), terms]);
    assert!(rules.charter.pools[0].fixed);
    let reloader = &scene.reloader;
    assert_eq!(reloader.memory.total(), (64 << 20) / CHUNK as u64);
    assert_eq!(reloader.connections.total(), 500);
    assert_eq!(reloader.desk.memory_limit.load(Relaxed), 64 << 20);
    assert_eq!(reloader.drain(), Duration::from_secs(3));
    // A server that comes later is one of the new configuration.
    scene.recruit("a", "ws://127.0.0.1:5", "late");
    let fleet = reloader.desk.fleet();
    assert_eq!(fleet.servers[2].prefix, "/");
    assert_eq!(fleet.servers[2].breaker.threshold(), 3);
}

#[test]
fn pools_come_and_go_and_come_back_under_their_number() {
    let scene = Scene::new(AB);
    let both = AB.replace(
        "pools: {",
        "routes: [{ path: /b, pool: b }, { pool: a }]\npools: { b: { servers: [\"ws://127.0.0.1:4\"] },",
    );
    let words = ["pool b joins", "routes", "server 127-0-0-1-4 joins"];
    assert_eq!(scene.changed(&both), words);
    let rules = scene.rules();
    let numbers: Vec<u16> = rules
        .charter
        .routes
        .iter()
        .map(|route| route.pool)
        .collect();
    assert_eq!((numbers, rules.settings.len()), (vec![1, 0], 2));
    scene.recruit("b", "ws://127.0.0.1:5", "mine");
    // It leaves, with whoever is in it.
    let words = [
        "pool b leaves",
        "routes",
        "server 127-0-0-1-4 leaves",
        "server mine leaves",
    ];
    assert_eq!(scene.changed(AB), words);
    assert_eq!(scene.live(), ["x", "y"]);
    assert!(scene.reloader.desk.fleet().pools[1].retired);
    assert_eq!(scene.rules().settings.len(), 2);
    let desk = &scene.reloader.desk;
    let wanted = Recruit {
        pool: "b".into(),
        url: "ws://127.0.0.1:5".into(),
        id: None,
        weight: None,
    };
    assert!(desk.recruiter.recruit(desk, &wanted).is_err());
    scene.changed(&both);
    let fleet = desk.fleet();
    assert!(fleet.pools.len() == 2 && !fleet.pools[1].retired);
    assert_eq!(fleet.pools[1].members, [4]);
}

#[test]
fn what_can_not_be_changes_nothing() {
    let scene = Scene::new(AB);
    let rows = [
        (
            "pools: { a: { kind: bridge, servers: [\"http://127.0.0.1:1/\"] } }".to_string(),
            "kind can't change",
        ),
        (AB.replace("127.0.0.1:2", "nowhere.test:2"), "nowhere.test"),
    ];
    for (text, reason) in rows {
        let why = scene.apply(&text).unwrap_err();
        assert!(why.contains(reason), "{why}");
    }
    scene.reloader.desk.set_draining();
    assert!(
        scene
            .apply(&AB.replace(":1\"", ":9\""))
            .unwrap_err()
            .contains("stopped")
    );
    assert_eq!(scene.live(), ["x", "y"]);
    assert!(scene.told().is_empty());
}

#[test]
fn what_needs_a_restart_is_named_each_time_and_the_rest_is_applied() {
    let scene = Scene::new(AB);
    let text = AB.to_string()
        + "\nlisten: [{ address: \"127.0.0.1:1\" }]\nloops: 3\nlimits: { socket_buffer: 64KiB, message: 1KiB }\nmetrics: { legacy_names: true }\nadmin: { address: \"127.0.0.1:2\" }";
    let waiting = [
        "listen",
        "admin",
        "loops",
        "limits.socket_buffer",
        "metrics",
    ];
    for changed in [vec!["limits".to_string()], vec![]] {
        let reloaded = scene.apply(&text).unwrap();
        assert_eq!(
            (reloaded.changed, &reloaded.waiting[..]),
            (changed, &waiting[..])
        );
    }
}

#[test]
fn a_name_brings_all_its_addresses_and_takes_them_along() {
    let scene = Scene::new(AB);
    let text = AB.replace("ws://127.0.0.1:2", "ws://servers.test:2");
    let words = ["server y joins", "server y leaves"];
    assert_eq!(scene.changed(&text), words);
    assert_eq!(scene.live(), ["x", "y@10.0.0.1", "y@10.0.0.2"]);
    // Its weight is that of each address.
    let heavier = text.replace("id: y", "id: y, weight: 5");
    assert_eq!(scene.changed(&heavier), ["server y: weight 5"]);
    let weights: Vec<u32> = scene.servers().iter().map(|row| row.1).collect();
    assert_eq!(weights, [1, 1, 5, 5]);
    let words = [
        "server y joins",
        "server y@10.0.0.1 leaves",
        "server y@10.0.0.2 leaves",
    ];
    assert_eq!(scene.changed(AB), words);
    assert_eq!(scene.live(), ["x", "y"]);
}

#[test]
fn ids_that_clash_by_an_address_change_nothing() {
    let scene = Scene::new(AB);
    scene.recruit("a", "ws://127.0.0.1:7", "z@10.0.0.2");
    scene.told();
    let entry = "servers: [{ url: \"ws://servers.test:2\", id: z }, ";
    let named = AB.replace("servers: [", entry);
    let why = scene.apply(&named).unwrap_err();
    assert!(why.contains("z@10.0.0.2 at ws://127.0.0.1:7"), "{why}");
    // Also if both come at once.
    let both = named.replace(
        entry,
        &format!("{entry}{{ url: \"ws://127.0.0.1:8\", id: \"z@10.0.0.1\" }}, "),
    );
    let desk = &scene.reloader.desk;
    desk.set_state(&mut desk.fleet(), 2, ServerState::Gone);
    scene.told();
    let why = scene.apply(&both).unwrap_err();
    assert!(
        why.contains("two servers would have the id z@10.0.0.1"),
        "{why}"
    );
    assert!(scene.told().is_empty());
    assert_eq!(scene.live(), ["x", "y"]);
    scene.changed(&named);
    assert_eq!(scene.live().len(), 4);
}

#[test]
fn names_are_followed_as_the_configuration_has_it_now() {
    let named = |dns: &str| {
        format!(
            "pools: {{ a: {{ dns: {dns}, servers: [{{ url: \"ws://servers.test:2\", id: y }}] }} }}"
        )
    };
    let scene = Scene::new(&named("0s"));
    let (more, inbox) = Names::new();
    let reloader = Reloader {
        names: more.clone(),
        ..scene.reloader
    };
    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    let lookup: Lookup = Arc::new(move |_, port| {
        count.fetch_add(1, Relaxed);
        Ok(vec![SocketAddr::from(([10, 0, 0, 2], port))])
    });
    let desk = reloader.desk.clone();
    let _resolver = resolver::Resolver::start(vec![], lookup, desk.clone(), (more, inbox)).unwrap();
    assert_eq!(
        reloader.apply(load(&named("100ms"))).unwrap().changed,
        ["pool a: dns"]
    );
    let until = |is: &dyn Fn() -> bool| {
        let end = std::time::Instant::now() + Duration::from_secs(5);
        while !is() {
            assert!(std::time::Instant::now() < end, "in vain");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    // It knows those who are there: one has left DNS, nobody has come.
    until(&|| desk.fleet().servers[0].state == ServerState::Gone);
    assert_eq!(desk.fleet().servers.len(), 2);
    reloader.apply(load(&named("1h"))).unwrap();
    reloader.apply(load(&named("100ms"))).unwrap();
    let so_far = asked.load(Relaxed);
    until(&|| asked.load(Relaxed) > so_far + 2);
    reloader.apply(load(&named("0s"))).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let so_far = asked.load(Relaxed);
    std::thread::sleep(Duration::from_millis(250));
    assert_eq!(asked.load(Relaxed), so_far);
    assert_eq!(desk.fleet().servers[1].state, ServerState::Enabled);
}

#[cfg(feature = "nats")]
#[test]
fn how_nats_is_spoken_to_stays_until_a_restart() {
    let text = "pools: { a: { kind: nats, servers: [nats://10.0.0.9], nats: { prefix: p } } }";
    let scene = Scene::new(text);
    for other in [
        text.replace("prefix: p", "prefix: q"),
        text.replace("a:", "b:"),
        "pools: { a: { servers: [ws://10.0.0.9] } }".to_string(),
    ] {
        let why = scene.apply(&other).unwrap_err();
        assert!(why.ends_with("need a restart"), "{why}");
    }
    let changed = scene.changed(&text.replace("10.0.0.9]", "10.0.0.9, nats://10.0.0.8]"));
    assert!(!changed.is_empty(), "servers may come");
}
