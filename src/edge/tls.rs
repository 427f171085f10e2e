//! The engine that is rustls, by its interface without buffers.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, Resumption, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CertificateError, ClientConfig, Error, HandshakeKind, OtherError};

use super::keys::{Keyring, Keys};
use super::{Engine, Fault, Opened};
use crate::shard::Destination;

/// One loop's TLS.
pub struct Tls {
    keyring: Arc<Keyring>,
    version: u64,
    keys: Arc<Keys>,
    /// The pools' keys, each with tickets that only this loop has.
    pools: HashMap<String, Arc<ClientConfig>>,
}

/// A connection, as rustls has it.
pub enum Session {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

impl Tls {
    /// With the keys of this ring, whatever they become.
    pub fn new(keyring: Arc<Keyring>) -> Tls {
        Tls {
            version: keyring.version(),
            keys: keyring.keys(),
            pools: HashMap::new(),
            keyring,
        }
    }

    /// Two loads, unless the keys were exchanged.
    fn refresh(&mut self) {
        let version = self.keyring.version();
        if version != self.version {
            (self.version, self.keys) = (version, self.keyring.keys());
            self.pools.clear();
        }
    }

    fn config(&mut self, pool: &str) -> Option<Arc<ClientConfig>> {
        if let Some(config) = self.pools.get(pool) {
            return Some(config.clone());
        }
        let mut own = ClientConfig::clone(&self.keys.pools.get(pool)?.config);
        own.resumption = Resumption::in_memory_sessions(TICKETS_MAX);
        let own = Arc::new(own);
        self.pools.insert(pool.to_string(), own.clone());
        Some(own)
    }
}

impl Engine for Tls {
    type Session = Session;

    fn welcome(&mut self, listener: u32) -> Result<Option<Session>, Fault> {
        self.refresh();
        let config = self.keys.listeners.get(listener as usize);
        let Some(config) = config.and_then(Option::as_ref) else {
            return Ok(None);
        };
        let made = UnbufferedServerConnection::new(config.clone());
        let made = made.map(|one| Some(Session::Server(one)));
        made.map_err(|error| fault(&error))
    }

    fn call(&mut self, to: &Destination<'_>) -> Result<Option<Session>, Fault> {
        let Some(host) = sealed_host(to.url) else {
            return Ok(None);
        };
        self.refresh();
        let Some(config) = self.config(to.pool) else {
            return Err(Fault(format!("pool {} has no keys", to.pool)));
        };
        let wanted = self.keys.pools.get(to.pool);
        let name = match wanted.and_then(|keys| keys.server_name.clone()) {
            Some(name) => name,
            None => ServerName::try_from(host.to_string())
                .map_err(|error| Fault(format!("{host}: {error}")))?,
        };
        let made = UnbufferedClientConnection::new(config, name);
        made.map(Session::Client)
            .map(Some)
            .map_err(|error| fault(&error))
    }

    fn open(
        &mut self,
        session: &mut Session,
        sealed: &mut [u8],
        words: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Opened, Fault> {
        match session {
            Session::Server(one) => open(one, sealed, words, out),
            Session::Client(one) => open(one, sealed, words, out),
        }
    }

    fn seal(
        &mut self,
        session: &mut Session,
        kept: &mut [u8],
        words: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        match session {
            Session::Server(one) => seal(one, kept, Some(words), out),
            Session::Client(one) => seal(one, kept, Some(words), out),
        }
    }

    fn is_resumed(&self, session: &Session) -> bool {
        let kind = match session {
            Session::Server(one) => one.handshake_kind(),
            Session::Client(one) => one.handshake_kind(),
        };
        kind == Some(HandshakeKind::Resumed)
    }

    fn part(&mut self, session: &mut Session, kept: &mut [u8], out: &mut Vec<u8>) {
        // Who can't be told will see the end of the connection.
        let _ = match session {
            Session::Server(one) => seal(one, kept, None, out),
            Session::Client(one) => seal(one, kept, None, out),
        };
    }
}

/// What the two sides have in common, which rustls has no name for.
trait Side {
    type Data;

    fn step<'c, 'i>(&'c mut self, sealed: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Whether something waits to be encoded.
    fn has_more(&self) -> bool;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn step<'c, 'i>(&'c mut self, sealed: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(sealed)
    }

    fn has_more(&self) -> bool {
        self.wants_write()
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn step<'c, 'i>(&'c mut self, sealed: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(sealed)
    }

    fn has_more(&self) -> bool {
        self.wants_write()
    }
}

fn open<S: Side>(
    side: &mut S,
    sealed: &mut [u8],
    words: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<Opened, Fault> {
    let mut opened = Opened::default();
    loop {
        let status = side.step(&mut sealed[opened.used..]);
        let mut used = status.discard;
        let mut rests = false;
        let mut failed = None;
        match status.state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(|error| fault(&error))?;
                    used += record.discard;
                    words.extend_from_slice(record.payload);
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(out, |room| data.encode(room)),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => opened.parted = true,
            Ok(ConnectionState::Closed) => (opened.parted, rests) = (true, true),
            Ok(ConnectionState::WriteTraffic(_)) => (opened.ready, rests) = (true, true),
            Ok(ConnectionState::BlockedHandshake) => rests = true,
            Ok(_) => failed = Some(Fault("early data, which was not offered".into())),
            Err(error) => failed = Some(fault(&error)),
        }
        opened.used += used;
        if let Some(fault) = failed {
            // The other side is told by an alert, which waits. Behind that nothing may be asked: the
            // record that was wrong would be looked at again.
            while side.has_more()
                && let Ok(ConnectionState::EncodeTlsData(mut data)) =
                    side.step(&mut sealed[opened.used..]).state
            {
                encode(out, |room| data.encode(room));
            }
            return Err(fault);
        }
        if rests {
            return Ok(opened);
        }
    }
}

/// Seals words, or the last one.
fn seal<S: Side>(
    side: &mut S,
    kept: &mut [u8],
    words: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    loop {
        // rustls remembers where in these bytes a message has begun, and panics for others.
        match side.step(kept).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let from = out.len();
                out.resize(from + words.map_or(0, <[u8]>::len) + OVERHEAD, 0);
                let room = &mut out[from..];
                let sealed = match words {
                    Some(words) => traffic.encrypt(words, room),
                    None => traffic.queue_close_notify(room),
                };
                let sealed = sealed.map_err(|error| Fault(error.to_string()));
                out.truncate(from + *sealed.as_ref().unwrap_or(&0));
                return sealed.map(drop);
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(out, |room| data.encode(room)),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => {}
            Ok(_) => return Err(Fault("nothing may be said now".into())),
            Err(error) => return Err(fault(&error)),
        }
    }
}

/// Puts a record of the handshake behind `out`.
fn encode(out: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let from = out.len();
    let mut room = 0;
    loop {
        out.resize(from + room, 0);
        match write(&mut out[from..]) {
            Ok(count) => return out.truncate(from + count),
            Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
            Err(EncodeError::AlreadyEncoded) => return out.truncate(from),
        }
    }
}

/// The host of a URL that asks for TLS.
fn sealed_host(url: &str) -> Option<&str> {
    let rest = ["wss://", "https://"]
        .into_iter()
        .find_map(|scheme| url.strip_prefix(scheme))?;
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    Some(match authority.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or(six),
        None => authority.split(':').next().unwrap_or(authority),
    })
}

fn fault(error: &Error) -> Fault {
    Fault(match error {
        // Our own judge's sentence, which needs no more words around it.
        Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => why.to_string(),
        error => error.to_string(),
    })
}

/// What sealing adds to 16 KiB of words, at most: a header, a type and a tag, in two records if keys
/// are changed before.
const OVERHEAD: usize = 1_024;

/// Servers of one pool whose tickets are kept.
const TICKETS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{RootCertStore, ServerConfig};

    use super::*;
    use crate::edge::cipher;
    use crate::edge::keys::PoolKeys;

    /// Two engines, of a server that is `h` and of a client that believes it.
    fn engines() -> (Tls, Tls) {
        let made = rcgen::generate_simple_self_signed(["h".to_string()]).unwrap();
        let cert = made.cert.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(cipher::provider());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let pool = PoolKeys {
            config: Arc::new(client),
            server_name: None,
        };
        let ring = Keyring::new(Keys {
            listeners: vec![Some(Arc::new(server)), None],
            pools: HashMap::from([("p".to_string(), pool)]),
            ..Keys::default()
        });
        let ring = Arc::new(ring);
        (Tls::new(ring.clone()), Tls::new(ring))
    }

    fn to(url: &str) -> Destination<'_> {
        Destination {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            server: "a",
            url,
            pool: "p",
            announce: None,
        }
    }

    /// One side, and what it was sent and told.
    struct End {
        tls: Tls,
        session: Session,
        inbox: Vec<u8>,
        heard: Vec<u8>,
        out: Vec<u8>,
        ready: bool,
        parted: bool,
    }

    impl End {
        fn new(tls: Tls, session: Session) -> End {
            End {
                tls,
                session,
                inbox: Vec::new(),
                heard: Vec::new(),
                out: Vec::new(),
                ready: false,
                parted: false,
            }
        }

        /// Takes so many bytes at once of what the other one has sent.
        fn take(&mut self, from: &mut Vec<u8>, step: usize) -> Result<(), Fault> {
            for part in std::mem::take(from).chunks(step.max(1)) {
                self.inbox.extend_from_slice(part);
                self.look()?;
            }
            Ok(())
        }

        fn look(&mut self) -> Result<(), Fault> {
            let opened = self.tls.open(
                &mut self.session,
                &mut self.inbox,
                &mut self.heard,
                &mut self.out,
            )?;
            self.inbox.drain(..opened.used);
            self.ready |= opened.ready;
            self.parted |= opened.parted;
            Ok(())
        }

        fn say(&mut self, words: &[u8]) {
            self.tls
                .seal(&mut self.session, &mut self.inbox, words, &mut self.out)
                .unwrap();
        }
    }

    fn pair() -> (End, End) {
        let (mut client, mut server) = engines();
        let session = client.call(&to("wss://h:1/x")).unwrap().unwrap();
        let client = End::new(client, session);
        let session = server.welcome(0).unwrap().unwrap();
        (client, End::new(server, session))
    }

    fn greet(client: &mut End, server: &mut End, step: usize) {
        client.look().unwrap();
        while !(client.ready && server.ready) {
            let before = (client.out.len(), server.out.len());
            server.take(&mut client.out, step).unwrap();
            client.take(&mut server.out, step).unwrap();
            assert_ne!(before, (0, 0), "both wait");
        }
    }

    #[test]
    fn words_go_both_ways_however_they_are_cut() {
        for step in [1, 2, 3, 5, 100, 1 << 20] {
            let (mut client, mut server) = pair();
            greet(&mut client, &mut server, step);
            let long: Vec<u8> = (0..16 << 10).map(|at| at as u8).collect();
            for words in [&b"x"[..], b"more", &long] {
                client.say(words);
                server.say(words);
            }
            server.take(&mut client.out, step).unwrap();
            client.take(&mut server.out, step).unwrap();
            let all = [&b"xmore"[..], &long].concat();
            assert!(client.heard == all && server.heard == all, "step {step}");
            assert!(client.inbox.is_empty() && server.inbox.is_empty());
            let End {
                tls, session, out, ..
            } = &mut client;
            tls.part(session, &mut [], out);
            server.take(&mut client.out, step).unwrap();
            assert!(server.parted && !client.parted, "step {step}");
            server.say(b"still");
            client.take(&mut server.out, step).unwrap();
            assert!(client.heard.ends_with(b"still"));
        }
    }

    #[test]
    fn the_second_time_a_ticket_is_shown() {
        let (mut client, mut server) = engines();
        let mut lengths = Vec::new();
        for _ in 0..2 {
            let session = client.call(&to("https://h/")).unwrap().unwrap();
            let mut one = End::new(client, session);
            let session = server.welcome(0).unwrap().unwrap();
            let mut other = End::new(server, session);
            greet(&mut one, &mut other, 1 << 20);
            one.look().unwrap();
            lengths.push(match &other.session {
                Session::Server(side) => side.handshake_kind(),
                Session::Client(_) => None,
            });
            (client, server) = (one.tls, other.tls);
        }
        use rustls::HandshakeKind::{Full, Resumed};
        assert_eq!(lengths, [Some(Full), Some(Resumed)]);
    }

    #[test]
    fn who_asks_for_none_gets_none() {
        let (mut client, mut server) = engines();
        assert!(client.call(&to("ws://h:1/")).unwrap().is_none());
        assert!(client.call(&to("http://h:1/")).unwrap().is_none());
        assert!(server.welcome(1).unwrap().is_none() && server.welcome(7).unwrap().is_none());
        let elsewhere = Destination {
            pool: "q",
            ..to("wss://h/")
        };
        assert!(client.call(&elsewhere).is_err(), "a pool without keys");
    }

    #[test]
    fn the_host_of_a_url() {
        let rows = [
            ("wss://h", Some("h")),
            ("wss://h:1/x?y", Some("h")),
            ("https://h?y", Some("h")),
            ("wss://[::1]:9/", Some("::1")),
            ("ws://h", None),
            ("http://wss://h", None),
        ];
        for (url, want) in rows {
            assert_eq!(sealed_host(url), want, "{url}");
        }
    }

    #[test]
    fn a_server_of_another_name_is_refused_and_told() {
        let (mut client, mut server) = engines();
        let session = client.call(&to("wss://other/")).unwrap().unwrap();
        let mut client = End::new(client, session);
        let session = server.welcome(0).unwrap().unwrap();
        let mut server = End::new(server, session);
        client.look().unwrap();
        server.take(&mut client.out, 1 << 20).unwrap();
        let why = client.take(&mut server.out, 1 << 20).unwrap_err();
        assert!(why.to_string().contains("other"), "{why}");
        let told = server.take(&mut client.out, 1 << 20).unwrap_err();
        assert!(told.to_string().contains("alert"), "{told}");
    }

    /// THREATS V44.
    #[test]
    fn oddities_of_a_handshake_end_it_and_never_loop() {
        // An alert in the clear: level warning, close_notify.
        const GOODBYE: &[u8] = &[21, 3, 3, 0, 2, 1, 0];
        let (mut client, mut server) = pair();
        client.look().unwrap();
        let hello = std::mem::take(&mut client.out);
        for inside in [0, hello.len()] {
            let session = server.tls.welcome(0).unwrap().unwrap();
            let mut one = End::new(server.tls, session);
            let many = GOODBYE.repeat(50);
            let mut bytes = [&hello[..inside], &many, &hello[inside..]].concat();
            assert!(one.take(&mut bytes, 1 << 20).is_err() && !one.ready);
            server.tls = one.tls;
        }
        // Each byte of the ClientHello in a record of its own.
        let session = server.tls.welcome(0).unwrap().unwrap();
        let mut one = End::new(server.tls, session);
        let mut split: Vec<u8> = hello[5..]
            .iter()
            .flat_map(|byte| [22, 3, 1, 0, 1, *byte])
            .collect();
        let result = one.take(&mut split, 1);
        assert!(
            result.is_err() || !one.out.is_empty(),
            "refused or answered: {result:?}"
        );
        // What is no record at all.
        let session = one.tls.welcome(0).unwrap().unwrap();
        let mut one = End::new(one.tls, session);
        let mut garbage = b"GET / HTTP/1.1\r\n\r\n".to_vec();
        assert!(one.take(&mut garbage, 1 << 20).is_err());
        assert!(!one.out.is_empty(), "an alert");
    }

    /// Words may go out while a record is half here.
    #[test]
    fn half_a_record_harms_nobody() {
        let (mut client, mut server) = pair();
        greet(&mut client, &mut server, 1 << 20);
        server.say(b"first");
        for part in std::mem::take(&mut server.out).chunks(1) {
            client.inbox.extend_from_slice(part);
            client.look().unwrap();
            client.say(b"a");
        }
        server.take(&mut client.out, 1 << 20).unwrap();
        assert_eq!(client.heard, b"first");
        assert!(!server.heard.is_empty());
    }

    /// A server says HelloRequest, a client asks once more: nobody changes keys by that.
    #[test]
    fn nothing_is_renegotiated() {
        let (mut client, mut server) = pair();
        greet(&mut client, &mut server, 1 << 20);
        let (mut again, _) = pair();
        again.look().unwrap();
        assert!(server.take(&mut again.out, 1 << 20).is_err());
    }

    #[test]
    fn exchanged_keys_count_for_who_comes_then() {
        let (mut client, mut server) = pair();
        greet(&mut client, &mut server, 1 << 20);
        let (_, other) = engines();
        let old = server.tls.keyring.clone();
        old.replace(Keys {
            listeners: other.keys.listeners.clone(),
            ..Keys::default()
        });
        client.say(b"still here");
        server.take(&mut client.out, 1 << 20).unwrap();
        assert_eq!(server.heard, b"still here");
        assert!(server.tls.welcome(0).unwrap().is_some());
        assert!(
            client.tls.call(&to("wss://h/")).is_err(),
            "no keys any more"
        );
    }
}
