use super::super::{ClientAuth, Loaded, Problems, Sources, TlsVersion, explain};
use crate::edge::test_papers::{Authority, Folder};

/// Files for every key, and a configuration that names them in FOLDER.
fn desk() -> (Folder, Authority) {
    let (folder, authority) = (Folder::new(), Authority::new("the authority"));
    folder.put("ca.crt", &authority.pem);
    folder.put_papers("a", &authority.issue(&["a.example", "*.wild.example"]));
    folder.put_papers("b", &authority.issue(&["b.example"]));
    (folder, authority)
}

const FULL: &str = r#"
listen:
  - address: ":8443"
    proxy_protocol: true
    tls: { cert: FOLDER/a.crt, key: FOLDER/a.key, certificates: [{ cert: FOLDER/b.crt, key: FOLDER/b.key }],
           client_ca: FOLDER/ca.crt, client_auth: optional, min_version: 1.3 }
  - ":8080"
admin: { address: ":8081", tls: { cert: FOLDER/a.crt, key: FOLDER/a.key, client_ca: FOLDER/ca.crt } }
trusted_proxies: [10.0.0.1]
pools:
  a:
    servers: ["wss://a.example", "ws://10.0.0.1:80"]
    tls: { ca: FOLDER/ca.crt, client_cert: FOLDER/b.crt, client_key: FOLDER/b.key, server_name: A.example,
           insecure_skip_verify: false, min_version: 1.2 }
"#;

fn load(folder: &Folder, text: &str) -> Result<Loaded, Problems> {
    let text = text.replace("FOLDER", folder.path().to_str().unwrap());
    Sources::default().load_text(&text, "w.yaml")
}

/// What `check` prints of a configuration with all keys.
pub(in super::super) fn explained() -> String {
    let (folder, _) = desk();
    explain(&load(&folder, FULL).unwrap().config)
}

#[test]
fn all_keys_are_read_and_read_back() {
    let (folder, _) = desk();
    let loaded = load(&folder, FULL).unwrap();
    assert_eq!(loaded.warnings, vec![]);
    let config = loaded.config;
    let tls = config.listen[0].tls.as_ref().unwrap();
    assert_eq!(tls.certificates.len(), 2);
    assert_eq!(
        (tls.client_auth, tls.min_version),
        (ClientAuth::Optional, TlsVersion::Tls13)
    );
    assert!(config.listen[1].tls.is_none() && !config.listen[1].proxy_protocol);
    assert!(config.admin.asks_for_certificates());
    let pool = &config.pools[0];
    assert_eq!(pool.servers[0].url.port, 443);
    let tls = pool.tls.as_ref().unwrap();
    assert_eq!(tls.server_name.as_deref(), Some("a.example"));
    let page = explain(&config);
    let again = Sources::default().load_text(&page, "again.yaml").unwrap();
    assert_eq!(again.config, config, "{page}");
}

#[test]
fn each_mistake_has_its_message_and_place() {
    let (folder, authority) = desk();
    folder.put("empty.pem", "");
    folder.put("torn.pem", &authority.pem[..300]);
    let rows = [
        (
            "cert: FOLDER/a.crt, key: FOLDER/a.key, certificates",
            "key: FOLDER/a.key, certificates",
            "w.yaml:5:10: listen[0].tls.cert: is missing; write the path of a PEM file with the certificate",
        ),
        (
            "client_auth: optional",
            "client_auth: maybe",
            "listen[0].tls.client_auth: \"maybe\" is not known; write require or optional",
        ),
        (
            "client_ca: FOLDER/ca.crt, client_auth",
            "client_auth",
            "listen[0].tls.client_auth: nobody's certificates are believed; add client_ca, or leave the key out",
        ),
        (
            "min_version: 1.3",
            "min_version: 1.1",
            "listen[0].tls.min_version: \"1.1\" is not known; write 1.2 or 1.3",
        ),
        (
            "key: FOLDER/a.key, certificates",
            "key: FOLDER/none.key, certificates",
            "none.key can't be read: No such file or directory",
        ),
        (
            "key: FOLDER/a.key, certificates",
            "key: FOLDER, certificates",
            " is no plain file",
        ),
        (
            "key: FOLDER/a.key, certificates",
            "key: FOLDER/b.key, certificates",
            "b.key has another key than the certificate (CN=a.example for a.example, *.wild.example, until 2090-12-31",
        ),
        (
            "cert: FOLDER/b.crt",
            "cert: FOLDER/empty.pem",
            "listen[0].tls.certificates[0].cert: ",
        ),
        (
            "cert: FOLDER/b.crt",
            "cert: FOLDER/empty.pem",
            "empty.pem has no certificate",
        ),
        (
            "client_ca: FOLDER/ca.crt, client_auth",
            "client_ca: FOLDER/torn.pem, client_auth",
            "torn.pem ends before \"-----END CERTIFICATE-----\"",
        ),
        (
            "key: FOLDER/b.key }]",
            "key: FOLDER/b.crt }]",
            "b.crt has no private key that can be read",
        ),
        (
            "key: FOLDER/a.key, client_ca",
            "key: FOLDER/a.key, client_auth: require, client_ca",
            "admin.tls.client_auth: unknown key",
        ),
        (
            "tls: { cert: FOLDER/a.crt, key: FOLDER/a.key, client_ca: FOLDER/ca.crt }",
            "tls: { cert: FOLDER/a.crt, key: FOLDER/a.key }",
            "admin.address: 0.0.0.0:8081 is not loopback",
        ),
        (
            "client_key: FOLDER/b.key, ",
            "",
            "pools.a.tls.client_key: is missing; client_cert is of no use without it",
        ),
        (
            "server_name: A.example",
            "server_name: \"a:1\"",
            "pools.a.tls.server_name: \"a:1\" is not a name",
        ),
        (
            "server_name: A.example,",
            "server_name:  a b,",
            "is not a name",
        ),
        (
            "wss://a.example",
            "https://a.example",
            "does not fit a pool of kind websocket; write wss://",
        ),
        (
            "ca: FOLDER/ca.crt, client_cert",
            "ca: FOLDER/a.key, client_cert",
            "pools.a.tls.ca: ",
        ),
        ("tls: { ca", "tls: { cas", "did you mean `ca`?"),
    ];
    for (right, wrong, says) in rows {
        assert!(FULL.contains(right), "{right}");
        let why = load(&folder, &FULL.replacen(right, wrong, 1));
        let why = why.expect_err(wrong).to_string();
        assert!(why.contains(says), "{why}\ndoes not say {says}");
    }
}

#[test]
fn what_is_doubtful_is_told() {
    let (folder, authority) = desk();
    let soon = authority.issue_until(&["old.example"], 2020);
    folder.put_papers("old", &soon);
    folder.put_papers("bare", &authority.issue(&[]));
    let other = Authority::new("another");
    let mut loose = authority.issue(&["a.example"]);
    loose.cert.push_str(&other.pem);
    folder.put_papers("loose", &loose);
    let rows = [
        (
            "FOLDER/b",
            "FOLDER/old",
            "old.crt: the certificate of CN=old.example is over since 2020-12-31T00:00:00Z",
        ),
        (
            "FOLDER/b",
            "FOLDER/bare",
            "bare.crt is for no name: clients won't believe it",
        ),
        (
            "FOLDER/b",
            "FOLDER/loose",
            "behind the certificate of CN=a.example stands that of CN=another, which has not issued it",
        ),
        (
            "insecure_skip_verify: false",
            "insecure_skip_verify: true",
            "w.yaml:14:34: pools.a.tls.insecure_skip_verify: servers may show any",
        ),
        (
            "wss://a.example",
            "ws://a.example",
            "no server's URL begins with wss:// or https://",
        ),
    ];
    for (right, doubtful, says) in rows {
        let loaded = load(&folder, &FULL.replace(right, doubtful)).expect(doubtful);
        let all: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert!(all.concat().contains(says), "{all:?}\ndon't say {says}");
    }
}
