use rustls::pki_types::ServerName;
use rustls::{ClientConnection, HandshakeKind, ProtocolVersion, ServerConnection};

use super::*;
use crate::edge::test_papers::{Authority, Papers};

fn identity(papers: &Papers) -> Identity {
    Identity::read(papers.cert.as_bytes(), papers.key.as_bytes()).unwrap()
}

fn roots(authority: &Authority) -> Roots {
    Roots::read("ca.crt", authority.pem.as_bytes()).unwrap()
}

fn asks(authority: &Authority, required: bool) -> (Clients, Vec<u8>) {
    let clients = Clients {
        roots: roots(authority),
        required,
    };
    (clients, authority.pem.clone().into_bytes())
}

/// What both sides say of a handshake, and what else comes behind it.
struct Met {
    client: ClientConnection,
    server: ServerConnection,
    /// The client's complaint before the server's.
    error: Option<String>,
}

fn meet(front: &Arc<ServerConfig>, back: &Arc<ClientConfig>, name: &'static str) -> Met {
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(back.clone(), name).unwrap();
    let mut server = ServerConnection::new(front.clone()).unwrap();
    let (mut ours, mut theirs) = (None, None);
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut read = &wire[..];
        while theirs.is_none() && !read.is_empty() {
            server.read_tls(&mut read).unwrap();
            theirs = server.process_new_packets().err();
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut read = &wire[..];
        while ours.is_none() && !read.is_empty() {
            client.read_tls(&mut read).unwrap();
            ours = client.process_new_packets().err();
        }
    }
    let error = ours.or(theirs).map(|error| match error {
        Error::InvalidCertificate(rustls::CertificateError::Other(why)) => why.to_string(),
        other => other.to_string(),
    });
    Met {
        client,
        server,
        error,
    }
}

impl Met {
    /// The certificate that the client was shown.
    fn shown(&self) -> Certificate {
        assert_eq!(self.error, None);
        let chain = self.client.peer_certificates().unwrap();
        Certificate::read(&chain[0]).unwrap()
    }
}

#[test]
fn the_name_that_is_asked_for_decides() {
    let authority = Authority::new("ca");
    let all = [
        &["first.example"][..],
        &["*.wild.example", "second.example"],
        &["exact.wild.example"],
        &["10.0.0.1"],
    ];
    let all = all.map(|names| identity(&authority.issue(names)));
    let mut tickets = Tickets::default();
    let front = front(all.into(), None, Oldest::Tls12, &mut tickets).unwrap();
    let believes_all = back(None, None, Oldest::Tls12).unwrap();
    let rows = [
        ("first.example", "CN=first.example"),
        ("Second.Example", "CN=*.wild.example"),
        ("a.wild.example", "CN=*.wild.example"),
        ("exact.wild.example", "CN=*.wild.example"),
        ("a.b.wild.example", "CN=first.example"),
        ("wild.example", "CN=first.example"),
        ("10.0.0.1", "CN=first.example"),
    ];
    for (name, subject) in rows {
        let met = meet(&front, &believes_all, name);
        assert_eq!(met.shown().subject, subject, "{name}");
        assert_eq!(met.client.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
}

#[test]
fn a_server_is_refused_in_words_that_name_its_certificate() {
    let (authority, other) = (Authority::new("ca"), Authority::new("another"));
    let wrong = |papers: Papers, name: &'static str| {
        let own = vec![identity(&papers)];
        let front = front(own, None, Oldest::Tls12, &mut Tickets::default()).unwrap();
        let back = back(Some(&roots(&authority)), None, Oldest::Tls12).unwrap();
        meet(&front, &back, name).error
    };
    let good = wrong(authority.issue(&["a.example", "10.0.0.1"]), "10.0.0.1");
    assert_eq!(good, None);
    let until = "until 2090-12-31T00:00:00Z";
    let rows = [
        (
            wrong(authority.issue(&["a.example"]), "b.example"),
            format!("its certificate (CN=a.example for a.example, {until}): it is not for b.example"),
        ),
        (
            wrong(authority.issue_until(&["a.example"], 2020), "a.example"),
            "its certificate (CN=a.example for a.example, until 2020-12-31T00:00:00Z): it has expired".into(),
        ),
        (
            wrong(other.issue(&["a.example"]), "a.example"),
            format!("its certificate (CN=a.example for a.example, {until}): the authorities of ca.crt \
                     don't know its issuer CN=another, and the server sends no other"),
        ),
    ];
    for (said, expected) in rows {
        assert_eq!(said.as_deref(), Some(&*expected));
    }
}

#[test]
fn clients_are_asked_as_it_was_ordered() {
    let (authority, other) = (Authority::new("ca"), Authority::new("another"));
    let own = || vec![identity(&authority.issue(&["a.example"]))];
    let (yes, no) = (authority.issue(&["client"]), other.issue(&["client"]));
    for (required, papers, is_let_in) in [
        (true, Some(&yes), true),
        (true, Some(&no), false),
        (true, None, false),
        (false, Some(&yes), true),
        (false, Some(&no), false),
        (false, None, true),
    ] {
        let (clients, file) = asks(&authority, required);
        let asked = Some((&clients, &file[..]));
        let front = front(own(), asked, Oldest::Tls12, &mut Tickets::default()).unwrap();
        let shown = papers.map(identity);
        let back = back(Some(&roots(&authority)), shown, Oldest::Tls12).unwrap();
        let met = meet(&front, &back, "a.example");
        let row = (required, papers.is_some(), is_let_in);
        assert_eq!(met.error.is_none(), is_let_in, "{row:?}: {:?}", met.error);
    }
}

#[test]
fn tickets_outlive_keys_but_not_what_was_asked() {
    let authority = Authority::new("ca");
    let mut tickets = Tickets::default();
    let papers = authority.issue(&["a.example"]);
    let own = || vec![identity(&papers)];
    let (clients, file) = asks(&authority, true);
    let (open, again) = (
        front(own(), None, Oldest::Tls12, &mut tickets).unwrap(),
        front(own(), None, Oldest::Tls12, &mut tickets).unwrap(),
    );
    let asked = Some((&clients, &file[..]));
    let closed = front(own(), asked, Oldest::Tls12, &mut tickets).unwrap();
    for oldest in [Oldest::Tls12, Oldest::Tls13] {
        let back = back(Some(&roots(&authority)), None, oldest).unwrap();
        let first = meet(&open, &back, "a.example");
        assert_eq!(first.server.handshake_kind(), Some(HandshakeKind::Full));
        // Made anew, as by HUP.
        let second = meet(&again, &back, "a.example");
        assert_eq!(second.server.handshake_kind(), Some(HandshakeKind::Resumed));
        // A ticket of those who need no certificate opens nothing here.
        let met = meet(&closed, &back, "a.example");
        assert!(met.error.is_some());
    }
}

#[test]
fn who_speaks_only_what_is_too_old_is_refused() {
    let authority = Authority::new("ca");
    let own = vec![identity(&authority.issue(&["a.example"]))];
    let new = front(own.clone(), None, Oldest::Tls13, &mut Tickets::default()).unwrap();
    let both = front(own, None, Oldest::Tls12, &mut Tickets::default()).unwrap();
    let mut old = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots(&authority).store)
        .with_no_client_auth();
    old.alpn_protocols = vec![HTTP.to_vec()];
    let old = Arc::new(old);
    assert!(meet(&new, &old, "a.example").error.is_some());
    let met = meet(&both, &old, "a.example");
    assert_eq!(
        met.client.protocol_version(),
        Some(ProtocolVersion::TLSv1_2)
    );
    let newest = back(Some(&roots(&authority)), None, Oldest::Tls13).unwrap();
    let met = meet(&both, &newest, "a.example");
    assert_eq!(
        met.client.protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
}
