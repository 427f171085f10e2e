use super::*;
use crate::control::config::Sources;
use crate::edge::test_papers::{Authority, Folder};

fn config(folder: &Folder, text: &str) -> Config {
    let text = text.replace("FOLDER", folder.path().to_str().unwrap());
    Sources::default()
        .load_text(&text, "w.yaml")
        .unwrap()
        .config
}

const TEXT: &str = "listen: [{ address: \":1\", tls: { cert: FOLDER/a.crt, key: FOLDER/a.key } }, \":2\"]\n\
                    pools:\n  a: { servers: [\"wss://h\"], tls: { ca: FOLDER/ca.crt } }\n  \
                    b: { kind: http, servers: [\"http://h\"], tls: { ca: FOLDER/ca.crt } }\n  \
                    c: { kind: http, servers: [\"http://h\"] }\n\
                    routes: [{ pool: a }]\n";

#[test]
fn files_that_change_are_read_again_and_wrong_ones_change_nothing() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    folder.put("ca.crt", &authority.pem);
    folder.put_papers("a", &authority.issue_until(&["a.example"], 2080));
    let smith = Locksmith::new(&config(&folder, TEXT)).unwrap();
    let ring = smith.ring();
    let year = |ring: &Keyring| date(ring.keys().dates[0].not_after)[..4].to_owned();
    assert_eq!(year(&ring), "2080");
    let keys = ring.keys();
    assert!(keys.listeners[0].is_some() && keys.listeners[1].is_none() && keys.admin.is_none());
    let mut pools: Vec<&str> = keys.pools.keys().map(String::as_str).collect();
    pools.sort_unstable();
    assert_eq!(pools, ["a", "b"]);
    let before = ring.version();
    smith.look();
    assert_eq!(ring.version(), before, "nothing has changed");

    // The certificate comes before its key.
    let next = authority.issue_until(&["a.example"], 2085);
    folder.put("a.crt", &next.cert);
    for _ in 0..3 {
        smith.look();
        assert_eq!((ring.version(), &*year(&ring)), (before, "2080"));
    }
    folder.put("a.key", &next.key);
    smith.look();
    assert_eq!((ring.version(), &*year(&ring)), (before + 1, "2085"));

    // As Kubernetes does it: another folder comes under the same name.
    std::fs::remove_file(folder.path().join("a.crt")).unwrap();
    smith.look();
    assert_eq!(&*year(&ring), "2085", "what is gone changes nothing");
    let last = authority.issue_until(&["a.example"], 2089);
    folder.put_papers("new", &last);
    std::fs::remove_file(folder.path().join("a.key")).unwrap();
    for end in ["crt", "key"] {
        let names = [format!("new.{end}"), format!("a.{end}")];
        let [from, to] = names.map(|name| folder.path().join(name));
        std::os::unix::fs::symlink(from, to).unwrap();
    }
    smith.look();
    assert_eq!(&*year(&ring), "2089");
}

#[test]
fn another_configuration_brings_other_keys_or_none() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    folder.put("ca.crt", &authority.pem);
    folder.put_papers("a", &authority.issue(&["a.example"]));
    let first = config(&folder, TEXT);
    let smith = Locksmith::new(&first).unwrap();
    let cut = smith.cut(&first).unwrap();
    assert!(!smith.hand_out(&first, cut), "no file has changed");
    folder.put_papers("a", &authority.issue(&["a.example"]));
    let cut = smith.cut(&first).unwrap();
    assert!(smith.hand_out(&first, cut), "a file has changed");
    let mut open = first.clone();
    open.listen[0].tls = None;
    let cut = smith.cut(&open).unwrap();
    smith.hand_out(&open, cut);
    assert!(smith.ring().keys().listeners[0].is_none());
    folder.put("a.key", "nothing");
    let why = smith.cut(&first).err().unwrap();
    assert!(
        why.contains("listen[0].tls.key") && why.contains("a.key has no private key"),
        "{why}"
    );
}

#[test]
fn a_pool_gets_keys_when_its_first_server_with_tls_comes() {
    let (folder, authority) = (Folder::new(), Authority::new("ca"));
    folder.put("ca.crt", &authority.pem);
    folder.put_papers("a", &authority.issue(&["a.example"]));
    let mut first = config(&folder, TEXT);
    // So that this machine's authorities don't matter.
    first.pools[2].tls = Some(PoolTlsConfig {
        ca: None,
        insecure_skip_verify: true,
        ..PoolTlsConfig::default()
    });
    first.pools[0].tls = None;
    first.pools[0].servers.clear();
    let smith = Locksmith::new(&first).unwrap();
    let ring = smith.ring();
    assert!(!ring.keys().pools.contains_key("a"));
    let called = smith.call_for("a");
    let is_there = ring.keys().pools.contains_key("a");
    assert_eq!(called.is_ok(), is_there);
    if let Err(why) = called {
        assert!(why.contains("ca-certificates"), "{why}");
        return;
    }
    // It stays so when files change, and when the configuration does.
    smith.hand_out(&first, smith.cut(&first).unwrap());
    assert!(ring.keys().pools.contains_key("a"));
}
