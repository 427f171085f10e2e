//! What a certificate says of itself, for people.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{Error, PemObject};
use x509_cert::Certificate as Parsed;
use x509_cert::der::Decode;
use x509_cert::der::asn1::OctetString;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Whose it is, for which names, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub subject: String,
    pub issuer: String,
    /// Names in lower case, and addresses.
    pub names: Vec<String>,
    /// Seconds since 1970.
    pub not_before: u64,
    /// Seconds since 1970.
    pub not_after: u64,
}

impl Certificate {
    /// `None`: it can't be read. It may still be good for those who verify it.
    pub fn read(der: &[u8]) -> Option<Certificate> {
        let parsed = Parsed::from_der(der).ok()?;
        let inner = parsed.tbs_certificate();
        let others = inner.get_extension::<SubjectAltName>().ok().flatten();
        let others = others.map(|(_, names)| names.0).unwrap_or_default();
        let validity = inner.validity();
        Some(Certificate {
            subject: inner.subject().to_string(),
            issuer: inner.issuer().to_string(),
            names: others.iter().filter_map(name_of).collect(),
            not_before: validity.not_before.to_unix_duration().as_secs(),
            not_after: validity.not_after.to_unix_duration().as_secs(),
        })
    }

    /// Whether it is for this host; `*.` stands for one label (RFC 6125, section 6.4.3).
    pub fn is_for(&self, host: &str) -> bool {
        let is_same = |name: &String| match name.strip_prefix("*.") {
            Some(rest) => host.split_once('.').is_some_and(|(_, own)| own == rest),
            None => name == host,
        };
        self.names.iter().any(is_same)
    }

    /// Seconds that are left of it; less than 0 when it is over.
    pub fn left(&self, now: SystemTime) -> i64 {
        self.not_after as i64 - seconds(now) as i64
    }

    /// Whether it is not yet valid.
    pub fn is_early(&self, now: SystemTime) -> bool {
        self.not_before > seconds(now)
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject.is_empty() {
            true => write!(to, "without a subject")?,
            false => write!(to, "{}", self.subject)?,
        }
        if !self.names.is_empty() {
            let some = self.names.iter().take(NAMES_SHOWN);
            let some: Vec<&str> = some.map(String::as_str).collect();
            write!(to, " for {}", some.join(", "))?;
            let more = self.names.len() - some.len();
            if more > 0 {
                write!(to, " and {more} more")?;
            }
        }
        write!(to, ", until {}", date(self.not_after))
    }
}

/// All certificates of a PEM file, in its order.
///
/// # Errors
/// What is wrong with it, to be read behind the file's name.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, Error> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(
            "has no certificate; write the path of a PEM file (-----BEGIN CERTIFICATE-----)".into(),
        ),
        Ok(all) => Ok(all),
        Err(error) => Err(broken(&error)),
    }
}

/// What is said of a file that is no PEM.
pub(super) fn broken(error: &Error) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match error {
        Error::MissingSectionEnd { end_marker } => {
            format!("ends before \"-----END {}-----\"", text(end_marker))
        }
        Error::IllegalSectionStart { line } => format!("has a line {:?}", text(line)),
        Error::Base64Decode(why) => format!("is no valid PEM: {why}"),
        other => format!("is no valid PEM: {other}"),
    }
}

/// A moment in seconds since 1970, as people have it.
pub fn date(seconds: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds.min(FAR)));
    humantime::format_rfc3339_seconds(time.unwrap_or(UNIX_EPOCH)).to_string()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

fn name_of(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string().to_ascii_lowercase()),
        GeneralName::IpAddress(bytes) => address_of(bytes).map(|address| address.to_string()),
        _ => None,
    }
}

fn address_of(bytes: &OctetString) -> Option<IpAddr> {
    let bytes = bytes.as_bytes();
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// Of those with hundreds, as content networks have them.
const NAMES_SHOWN: usize = 4;

/// The end of the year 9999, behind which nothing can be written.
const FAR: u64 = 253_402_300_799;
