//! Certificates that are exchanged while wsteady runs, and its admin address under TLS. What clients
//! and servers say inside is in `wss`.

use crate::support::frames::{Frame, TEXT};
use crate::support::proxy::{Proxy, binary, patient};
use crate::support::raw::{echo_origin, handshake};
use crate::support::{SOON, Scratch, free_port, until, until_true};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::Arc;

/// A certificate that is its own authority, and its key, in PEM.
struct Papers {
    cert: String,
    key: String,
}

/// For 127.0.0.1, until the end of that year.
fn papers(year: i32) -> Papers {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2001, 1, 1);
    params.not_after = date_time_ymd(year, 12, 31);
    let key = KeyPair::generate().unwrap();
    Papers {
        cert: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

/// Files for a listener.
pub struct Files(Scratch);

impl Files {
    pub fn new(year: i32) -> Files {
        let files = Files(Scratch::new("papers"));
        files.put(&papers(year));
        files
    }

    fn put(&self, papers: &Papers) {
        // In two steps, with a wrong pair between them.
        std::fs::write(self.0.file("tls.crt"), &papers.cert).unwrap();
        std::fs::write(self.0.file("tls.key"), &papers.key).unwrap();
    }

    pub fn section(&self) -> serde_json::Value {
        json!({ "cert": self.0.file("tls.crt"), "key": self.0.file("tls.key") })
    }
}

type Sealed = StreamOwned<ClientConnection, TcpStream>;

/// A connection that believes this certificate alone, and shows that one.
fn dial(address: SocketAddr, believed: &str, shown: Option<&Papers>) -> std::io::Result<Sealed> {
    let mut roots = RootCertStore::empty();
    let pem = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
    roots.add(pem(believed)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        Some(own) => {
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(vec![pem(&own.cert)], key)
                .unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut sealed = StreamOwned::new(session, stream);
    sealed.conn.complete_io(&mut sealed.sock)?;
    Ok(sealed)
}

/// Reads until that stands there.
fn read_until(sealed: &mut Sealed, end: &str) -> String {
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains(end) {
        let mut bytes = [0; 1024];
        let count = sealed.read(&mut bytes).unwrap();
        assert!(count > 0, "it ended: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&bytes[..count]);
    }
    String::from_utf8_lossy(&said).into_owned()
}

fn open(address: SocketAddr, believed: &str) -> std::io::Result<Sealed> {
    let mut client = dial(address, believed, None)?;
    client.write_all(handshake("/", "").as_bytes())?;
    assert!(read_until(&mut client, "\r\n\r\n").starts_with("HTTP/1.1 101"));
    Ok(client)
}

fn echoes(client: &mut Sealed, word: &str) {
    let frame = Frame::masked(TEXT, word.as_bytes());
    client.write_all(&frame.bytes()).unwrap();
    read_until(client, word);
}

#[test]
fn certificates_are_exchanged_and_nobody_notices() {
    let origin = echo_origin();
    // These clients answer no Ping.
    let proxy = Proxy::start(&[origin.url()], patient(json!({})));
    let files = Files(Scratch::new("papers"));
    let (first, second, third) = (papers(2081), papers(2082), papers(2083));
    files.put(&first);
    // A listener gets its TLS by HUP, too.
    let said = proxy.reload(|config| config["listen"][0]["tls"] = files.section());
    assert!(said.contains("listen"), "{said}");
    let mut old = open(proxy.address, &first.cert).unwrap();
    echoes(&mut old, "under the first");
    let over = |proxy: &Proxy| proxy.count("wsteady_tls_certificate_expiry_seconds", &[]);
    let before = over(&proxy);

    files.put(&second);
    let mut new = until(SOON, "the second certificate", || {
        open(proxy.address, &second.cert).ok()
    });
    echoes(&mut new, "under the second");
    echoes(&mut old, "still there");
    let year = 365 * 86_400;
    assert_eq!(over(&proxy), before + year);

    // What is no certificate changes nothing, by itself or by HUP.
    std::fs::write(files.0.file("tls.key"), "oops").unwrap();
    until_true(SOON, "a complaint", || {
        let log = proxy.log();
        log.contains("tls.key has no private key") && log.contains("stay as they were")
    });
    let said = proxy.reload(|_| {});
    assert!(said.contains("nothing has changed"), "{said}");
    open(proxy.address, &second.cert).unwrap();

    files.put(&third);
    proxy.signal(Signal::HUP);
    until(SOON, "the third certificate", || {
        open(proxy.address, &third.cert).ok()
    });
    let said = proxy.reload(|config| {
        config["listen"][0].as_object_mut().unwrap().remove("tls");
    });
    assert!(said.contains("listen"), "{said}");
    let mut clear = crate::support::raw::Raw::open(proxy.address, "/", "");
    clear.send_frame(&Frame::masked(TEXT, b"in the clear"));
    for one in [&mut old, &mut new] {
        echoes(one, "and to the end");
    }
    drop((old, new, clear));
    proxy.finish();
}

#[test]
fn the_admin_address_asks_for_a_certificate_and_needs_no_token() {
    let dir = Scratch::new("admin-tls");
    let (own, admin, stranger) = (papers(2081), papers(2081), papers(2081));
    for (name, text) in [
        ("own.crt", &own.cert),
        ("own.key", &own.key),
        ("admins.crt", &admin.cert),
    ] {
        std::fs::write(dir.file(name), text).unwrap();
    }
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = json!({
        "listen": ["127.0.0.1:0"],
        "admin": {
            "address": format!("0.0.0.0:{}", address.port()),
            "tls": { "cert": dir.file("own.crt"), "key": dir.file("own.key"), "client_ca": dir.file("admins.crt") },
        },
        "pools": { "a": { "servers": ["ws://127.0.0.1:9"] } },
    });
    std::fs::write(dir.file("wsteady.yaml"), config.to_string()).unwrap();
    let mut child = binary()
        .args(["run", "--config"])
        .arg(dir.file("wsteady.yaml"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut client = until(SOON, "the admin address", || {
        dial(address, &own.cert, Some(&admin)).ok()
    });
    for path in ["/healthz", "/metrics", "/v1/servers"] {
        let text = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        client.write_all(text.as_bytes()).unwrap();
        let said = read_until(&mut client, "\r\n\r\n");
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        if path == "/metrics" {
            read_until(&mut client, "wsteady_tls_certificate_expiry_seconds{file=");
            client = dial(address, &own.cert, Some(&admin)).unwrap();
        }
    }
    for shown in [None, Some(&stranger)] {
        // Since TLS 1.3 a client hears of it when it reads.
        let refused = dial(address, &own.cert, shown).and_then(|mut client| {
            client.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")?;
            client.read(&mut [0; 16])
        });
        assert!(!refused.is_ok_and(|count| count > 0), "{}", shown.is_some());
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
