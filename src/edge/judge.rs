//! Whether a server is who it says, and why not: in words that name its certificate.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::cert::Certificate;

/// Name, dates and issuer, as browsers look at them.
#[derive(Debug)]
pub(super) struct Judge {
    pub inner: Arc<WebPkiServerVerifier>,
    /// Where the authorities are from.
    pub roots: String,
}

/// Whoever has the key of the certificate that it shows, whatever that says.
#[derive(Debug)]
pub(super) struct Anybody(pub WebPkiSupportedAlgorithms);

/// A sentence for the operator.
#[derive(Debug)]
struct Reason(String);

impl Judge {
    fn reason(
        &self,
        error: &Error,
        shown: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> String {
        let certificate = Certificate::read(shown);
        let what = match error {
            Error::InvalidCertificate(why) => match why {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "it has expired".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "it is not valid yet".to_owned()
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => {
                    format!("it is not for {}", name.to_str())
                }
                CertificateError::UnknownIssuer => self.stranger(certificate.as_ref(), others),
                other => other.to_string(),
            },
            other => other.to_string(),
        };
        match certificate {
            Some(certificate) => format!("its certificate ({certificate}): {what}"),
            None => format!("its certificate, which can't be read: {what}"),
        }
    }

    fn stranger(&self, certificate: Option<&Certificate>, others: &[CertificateDer<'_>]) -> String {
        let roots = &self.roots;
        let Some(certificate) = certificate else {
            return format!("{roots} don't know its issuer");
        };
        if certificate.subject == certificate.issuer {
            return format!("it is signed by itself, and {roots} don't have it");
        }
        let issuer = &certificate.issuer;
        match others.is_empty() {
            true => {
                format!("{roots} don't know its issuer {issuer}, and the server sends no other")
            }
            false => format!("{roots} don't lead to its issuer {issuer}"),
        }
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        status: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self
            .inner
            .verify_server_cert(shown, others, name, status, now);
        verified.map_err(|error| {
            let reason = Reason(self.reason(&error, shown, others, name));
            CertificateError::Other(OtherError(Arc::new(reason))).into()
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, shown, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, shown, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, shown, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for Reason {}
