//! The same server, sealed.

use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::*;
use crate::control::admin::server;
use crate::edge::forge::{self, Clients, Identity, Oldest, Roots, Tickets};
use crate::edge::keys::{Keyring, Keys};
use crate::edge::test_papers::{Authority, Papers};

type Sealed = StreamOwned<ClientConnection, TcpStream>;

/// A stand whose address asks for certificates of this authority.
fn stand(authority: &Authority) -> Stand {
    let papers = authority.issue(&["127.0.0.1"]);
    let own = Identity::read(papers.cert.as_bytes(), papers.key.as_bytes()).unwrap();
    let ca = authority.pem.as_bytes();
    let clients = Clients {
        roots: Roots::read("ca", ca).unwrap(),
        required: true,
    };
    let mut tickets = Tickets::default();
    let keys = forge::front(vec![own], Some((&clients, ca)), Oldest::Tls12, &mut tickets);
    let keys = Keys {
        admin: Some(keys.unwrap()),
        ..Keys::default()
    };
    let ring = Arc::new(Keyring::new(keys));
    Stand::built(None, None, |desk| desk.keyring = Some(ring))
}

fn connect(stand: &Stand, authority: &Authority, papers: Option<&Papers>) -> Sealed {
    let roots = Roots::read("ca", authority.pem.as_bytes()).unwrap();
    let own = papers.map(|own| Identity::read(own.cert.as_bytes(), own.key.as_bytes()).unwrap());
    let config = forge::back(Some(&roots), own, Oldest::Tls12).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let session = ClientConnection::new(config, name).unwrap();
    StreamOwned::new(session, stand.connect())
}

#[test]
fn a_sealed_address_answers_who_has_a_certificate() {
    let authority = Authority::new("admins");
    let stand = stand(&authority);
    let papers = authority.issue(&["an admin"]);
    let mut stream = connect(&stand, &authority, Some(&papers));
    for _ in 0..2 {
        let text = stand.text("GET /v1/servers", &[], "");
        stream.write_all(text.as_bytes()).unwrap();
        let got = Got::read(&mut stream, false).unwrap();
        assert_eq!(got.status, 200);
        assert!(got.json()["servers"].is_array());
    }
    // A page of many records.
    stream
        .write_all(stand.text("GET /metrics", &[], "").as_bytes())
        .unwrap();
    assert!(Got::read(&mut stream, false).unwrap().body.len() > 16 << 10);

    let mut nobody = connect(&stand, &authority, None);
    let text = stand.text("GET /healthz", &[], "");
    let asked = nobody.write_all(text.as_bytes());
    assert!(asked.is_err() || Got::read(&mut nobody, false).is_err());
    let mut plain = stand.connect();
    plain.write_all(text.as_bytes()).unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP/"), "{said:?}");
}

#[test]
fn a_sealed_stream_has_news_and_ends_with_the_server() {
    let authority = Authority::new("admins");
    let mut stand = stand(&authority);
    let papers = authority.issue(&["an admin"]);
    let mut stream = connect(&stand, &authority, Some(&papers));
    let text = stand.text("GET /v1/events", &[], "");
    stream.write_all(text.as_bytes()).unwrap();
    let mut said = String::new();
    let mut until = |word: &str| {
        let end = Instant::now() + Duration::from_secs(8);
        while !said.contains(word) {
            assert!(Instant::now() < end, "no {word} in {said}");
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "it has ended: {said}");
            said.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
    };
    until("event: stats");
    stand.desk.newsroom.tell(breaker(1));
    until("event: server\n");
    drop(stand.server.take());
    // With a last word, and not by a cut.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
}

#[test]
fn who_begins_no_handshake_keeps_no_place_for_ever() {
    let authority = Authority::new("admins");
    let stand = stand(&authority);
    let guests: Vec<TcpStream> = (0..server::CONNECTIONS_MAX)
        .map(|_| stand.connect())
        .collect();
    thread::sleep(Duration::from_millis(300));
    let mut late = stand.connect();
    assert_eq!(late.read(&mut [0]).unwrap_or(0), 0, "there is no place");
    drop(guests);
}
