//! Record keys that take little room. What AES and GCM expand a key to is half a KiB, for each way of each
//! connection, and most connections are idle: here it is made when a record is sealed or opened.

use std::sync::LazyLock;

use ring::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305};
use ring::aead::{Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm,
    UnsupportedOperationError, make_tls13_aad,
};
use rustls::crypto::{CryptoProvider, cipher};
use rustls::{
    CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion,
    SupportedCipherSuite, Tls13CipherSuite,
};

/// What rustls does with ring, with keys of this kind in TLS 1.3.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: SUITES.clone(),
        ..rustls::crypto::ring::default_provider()
    }
}

static SUITES: LazyLock<Vec<SupportedCipherSuite>> = LazyLock::new(|| {
    let suites = rustls::crypto::ring::default_provider().cipher_suites;
    suites.into_iter().map(lean).collect()
});

/// Made once, so that it may be `'static`.
fn lean(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let SupportedCipherSuite::Tls13(full) = suite else {
        return suite;
    };
    let algorithm = match full.common.suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => &AES_128_GCM,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => &AES_256_GCM,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => &CHACHA20_POLY1305,
        _ => return suite,
    };
    let common = CipherSuiteCommon {
        suite: full.common.suite,
        hash_provider: full.common.hash_provider,
        confidentiality_limit: full.common.confidentiality_limit,
    };
    SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
        common,
        hkdf_provider: full.hkdf_provider,
        aead_alg: Box::leak(Box::new(Lean(algorithm))),
        quic: None,
    })))
}

struct Lean(&'static Algorithm);

impl Tls13AeadAlgorithm for Lean {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Key(self.0, key, iv))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(Key(self.0, key, iv))
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        _: AeadKey,
        _: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Err(UnsupportedOperationError)
    }
}

/// One way's key and its nonces' base; overwritten when they are dropped.
struct Key(&'static Algorithm, AeadKey, Iv);

impl Key {
    fn expand(&self) -> Result<LessSafeKey, ring::error::Unspecified> {
        UnboundKey::new(self.0, self.1.as_ref()).map(LessSafeKey::new)
    }

    /// RFC 8446, section 5.3; rustls counts the records, and changes keys before a number comes twice.
    fn nonce(&self, number: u64) -> Nonce {
        Nonce::assume_unique_for_key(cipher::Nonce::new(&self.2, number).0)
    }
}

impl MessageEncrypter for Key {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        number: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let length = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(length);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&message.typ.to_array());
        let aad = Aad::from(make_tls13_aad(length));
        self.expand()
            .and_then(|key| key.seal_in_place_append_tag(self.nonce(number), aad, &mut payload))
            .map_err(|_| Error::EncryptError)?;
        // What a record says of its kind and version is for old middleboxes (RFC 8446, section 5.2).
        let (kind, version) = (ContentType::ApplicationData, ProtocolVersion::TLSv1_2);
        Ok(OutboundOpaqueMessage::new(kind, version, payload))
    }

    fn encrypted_payload_len(&self, length: usize) -> usize {
        length + 1 + self.0.tag_len()
    }
}

impl MessageDecrypter for Key {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        number: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let payload = &mut message.payload;
        let aad = Aad::from(make_tls13_aad(payload.len()));
        let key = self.expand().map_err(|_| Error::DecryptError)?;
        // What is shorter than a tag is refused there.
        let opened = key.open_in_place(self.nonce(number), aad, payload);
        let length = opened.map_err(|_| Error::DecryptError)?.len();
        payload.truncate(length);
        message.into_tls13_unpadded_message()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::Arc;

    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::*;

    /// A server and a client with these suites, who know each other.
    fn pair(
        server: CryptoProvider,
        client: CryptoProvider,
    ) -> (ServerConnection, ClientConnection) {
        let made = rcgen::generate_simple_self_signed(["h".to_string()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::new(server))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(client))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "h".try_into().unwrap();
        (
            ServerConnection::new(Arc::new(server)).unwrap(),
            ClientConnection::new(Arc::new(client), name).unwrap(),
        )
    }

    /// Everything that one has to say to the other.
    fn carry<A, B>(
        from: &mut rustls::ConnectionCommon<A>,
        to: &mut rustls::ConnectionCommon<B>,
    ) -> usize
    where
        A: rustls::SideData,
        B: rustls::SideData,
    {
        let mut wire = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut wire).unwrap();
        }
        let length = wire.len();
        let mut wire = &wire[..];
        while !wire.is_empty() {
            to.read_tls(&mut wire).unwrap();
            to.process_new_packets().unwrap();
        }
        length
    }

    fn said<D: rustls::SideData>(by: &mut rustls::ConnectionCommon<D>, length: usize) -> Vec<u8> {
        let mut words = vec![0; length];
        by.reader().read_exact(&mut words).unwrap();
        words
    }

    fn with(suite: SupportedCipherSuite, of: &CryptoProvider) -> CryptoProvider {
        let same = |one: &&SupportedCipherSuite| one.suite() == suite.suite();
        let cipher_suites = of.cipher_suites.iter().filter(same).copied().collect();
        CryptoProvider {
            cipher_suites,
            ..of.clone()
        }
    }

    #[test]
    fn each_suite_is_what_ring_makes_of_it() {
        let (ours, theirs) = (provider(), rustls::crypto::ring::default_provider());
        assert_eq!(ours.cipher_suites.len(), theirs.cipher_suites.len());
        let mut tried = 0;
        for suite in theirs
            .cipher_suites
            .iter()
            .filter(|one| one.tls13().is_some())
        {
            for (server, client) in [(&ours, &theirs), (&theirs, &ours), (&ours, &ours)] {
                let (mut server, mut client) = pair(with(*suite, server), with(*suite, client));
                while server.is_handshaking() || client.is_handshaking() {
                    carry(&mut client, &mut server);
                    carry(&mut server, &mut client);
                }
                for length in [1, 64, 16_384] {
                    let words: Vec<u8> = (0..length).map(|at| at as u8).collect();
                    client.writer().write_all(&words).unwrap();
                    assert!(carry(&mut client, &mut server) > length);
                    assert_eq!(said(&mut server, length), words);
                    server.writer().write_all(&words).unwrap();
                    carry(&mut server, &mut client);
                    assert_eq!(said(&mut client, length), words);
                    client.refresh_traffic_keys().unwrap();
                    server.refresh_traffic_keys().unwrap();
                }
                tried += 1;
            }
        }
        assert_eq!(tried, 9);
    }

    #[test]
    fn what_was_changed_on_its_way_is_refused() {
        for at in [5, 20, 60] {
            let (mut server, mut client) = pair(provider(), provider());
            while server.is_handshaking() || client.is_handshaking() {
                carry(&mut client, &mut server);
                carry(&mut server, &mut client);
            }
            client.writer().write_all(&[7; 64]).unwrap();
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            wire[at] ^= 1;
            server.read_tls(&mut &wire[..]).unwrap();
            assert_eq!(
                server.process_new_packets().unwrap_err(),
                Error::DecryptError
            );
        }
        // A record that has no room for a tag.
        let (mut server, mut client) = pair(provider(), provider());
        while server.is_handshaking() || client.is_handshaking() {
            carry(&mut client, &mut server);
            carry(&mut server, &mut client);
        }
        server.read_tls(&mut &[23, 3, 3, 0, 2, 1, 2][..]).unwrap();
        assert_eq!(
            server.process_new_packets().unwrap_err(),
            Error::DecryptError
        );
    }

    #[test]
    fn an_idle_key_is_small() {
        let expanded = size_of::<LessSafeKey>();
        assert!(size_of::<Key>() <= 64 && expanded > 500, "{expanded}");
    }
}
