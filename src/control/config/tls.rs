//! The `tls:` sections, and what the files that they name have in them.

use std::path::PathBuf;

use super::keys::{self, Section};
use super::read::{Fields, Findings};
use super::tree::Node;
use super::{CertificateConfig, Config, ListenTlsConfig, PoolConfig, PoolTlsConfig, parse};
use crate::control::locksmith;

/// Reads the `tls:` of a listener, or that of the admin address, which has fewer keys.
pub(super) fn read_listener(
    above: &Fields<'_>,
    section: &Section,
    findings: &mut Findings,
) -> Option<ListenTlsConfig> {
    let node = above.find("tls")?;
    let fields = findings.subsection(above, "tls", section);
    let first = read_certificate(&fields, node, findings);
    let read = |node: &Node, path: &str, findings: &mut Findings| {
        let fields = findings.section(node, path, &keys::CERTIFICATE);
        read_certificate(&fields, node, findings)
    };
    let more = findings.list(&fields, "certificates", read);
    let mut tls = ListenTlsConfig::new(first?);
    tls.certificates.extend(more.unwrap_or_default());
    findings.fill(&fields, "client_ca", &mut tls.client_ca, some_file);
    findings.fill(&fields, "client_auth", &mut tls.client_auth, parse::word);
    findings.fill(&fields, "min_version", &mut tls.min_version, parse::word);
    if tls.client_ca.is_none()
        && let Some(node) = fields.find("client_auth")
    {
        findings.problem(
            &fields.path_of("client_auth"),
            &node.place,
            "nobody's certificates are believed; add client_ca, or leave the key out",
        );
    }
    Some(tls)
}

fn read_certificate(
    fields: &Fields<'_>,
    node: &Node,
    findings: &mut Findings,
) -> Option<CertificateConfig> {
    let (mut cert, mut key) = (None, None);
    findings.fill(fields, "cert", &mut cert, some_file);
    findings.fill(fields, "key", &mut key, some_file);
    let needs = [
        ("cert", "write the path of a PEM file with the certificate"),
        ("key", "write the path of a PEM file with the private key"),
    ];
    for (key, advice) in needs {
        findings.need(fields, key, &node.place, advice);
    }
    Some(CertificateConfig {
        cert: cert?,
        key: key?,
    })
}

/// Reads the `tls:` of a pool.
pub(super) fn read_pool(above: &Fields<'_>, pool: &mut PoolConfig, findings: &mut Findings) {
    let Some(node) = above.find("tls") else {
        return;
    };
    #[cfg(feature = "nats")]
    if pool.kind == super::PoolKind::Nats {
        let message = "NATS servers are not dialled with TLS; leave the key out";
        return findings.problem(&above.path_of("tls"), &node.place, message);
    }
    let fields = findings.subsection(above, "tls", &keys::POOL_TLS);
    let mut tls = PoolTlsConfig::default();
    findings.fill(&fields, "ca", &mut tls.ca, some_file);
    let (mut cert, mut key) = (None, None);
    findings.fill(&fields, "client_cert", &mut cert, some_file);
    findings.fill(&fields, "client_key", &mut key, some_file);
    for (one, other) in [("client_cert", "client_key"), ("client_key", "client_cert")] {
        if fields.find(one).is_some() {
            let advice = format!("{one} is of no use without it");
            findings.need(&fields, other, &node.place, &advice);
        }
    }
    tls.client = cert
        .zip(key)
        .map(|(cert, key)| CertificateConfig { cert, key });
    findings.fill(&fields, "server_name", &mut tls.server_name, |text| {
        parse::server_name(text).map(Some)
    });
    let skip = &mut tls.insecure_skip_verify;
    findings.fill(&fields, "insecure_skip_verify", skip, parse::boolean);
    findings.fill(&fields, "min_version", &mut tls.min_version, parse::word);
    pool.tls = Some(tls);
}

fn some_file(text: &str) -> Result<Option<PathBuf>, String> {
    parse::file(text).map(Some)
}

/// Looks into all files that are named.
pub(super) fn check_files(config: &Config, findings: &mut Findings) {
    let item = |list: &str, nth: usize| findings.item_path(list, nth);
    for trouble in locksmith::troubles(config, &item) {
        match trouble.grave {
            true => findings.problem_at(&trouble.path, &trouble.message),
            false => findings.warn_at(&trouble.path, &trouble.message),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
