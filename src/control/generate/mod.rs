//! `wsteady generate`: texts for those who install wsteady, made from the program itself.

mod man;

use clap::Command;
use clap_complete::{Generator, Shell};

use super::admin::openapi;
use super::preflight;
pub use man::man;

/// A shell's completions.
pub fn completions(shell: Shell, mut command: Command) -> String {
    command.set_bin_name(command.get_name().to_owned());
    command.build();
    let mut text = Vec::new();
    shell.generate(&command, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The default configuration, each key with a word on it.
pub fn config() -> &'static str {
    include_str!("wsteady.yaml")
}

/// The systemd unit.
pub fn unit() -> &'static str {
    include_str!("wsteady.service")
}

/// The file for `/etc/sysctl.d`.
pub fn sysctl() -> String {
    preflight::drop_in()
}

/// The admin API's description, as `GET /v1/openapi.json` has it.
pub fn openapi() -> String {
    format!("{:#}\n", openapi::document())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::{Config, Sources, parse_duration};
    use std::time::Duration;

    fn value<'a>(text: &'a str, key: &str) -> &'a str {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(['=', ':']));
        line.unwrap_or_else(|| panic!("no {key}")).trim()
    }

    #[test]
    fn the_configuration_is_the_default() {
        let loaded = Sources::default()
            .load_text(config(), "generated")
            .unwrap_or_else(|problems| panic!("{problems}"));
        let default = Config::with_backends(&["ws://127.0.0.1:9000".to_owned()]).unwrap();
        assert_eq!(loaded.config, default);
        assert_eq!(loaded.warnings, []);
    }

    #[test]
    fn examples_in_comments_are_right() {
        // Each comment that is YAML replaces the line of its key, one after the other.
        let rows = [
            ("# hash: id", "balance: round-robin", "balance: hash"),
            ("# health:", "", ""),
            ("# session: { hold", "", ""),
            ("# connections: {", "kind: websocket", "kind: http"),
            #[cfg(feature = "nats")]
            ("# nats: {", "kind: websocket", "kind: nats"),
        ];
        for (comment, from, to) in rows {
            let found = config().matches(comment).count();
            assert_eq!(found, 1, "{comment}");
            let mut text = config().replace(comment, comment.trim_start_matches("# "));
            if !from.is_empty() {
                text = text.replace(from, to);
            }
            if to == "kind: http" {
                text = text
                    .replace("ws://127", "http://127")
                    .replace("path: /, allow", "allow");
            }
            if to == "kind: nats" {
                text = text.replace("ws://127", "nats://127");
            }
            let loaded = Sources::default().load_text(&text, "generated");
            assert!(loaded.is_ok(), "{comment}: {}", loaded.unwrap_err());
        }
    }

    #[test]
    fn the_unit_leaves_time_for_the_drain_and_says_how_it_is_told() {
        let stop = value(unit(), "TimeoutStopSec")
            .parse()
            .map(Duration::from_secs);
        assert!(stop.unwrap() > Config::default().drain + Duration::from_secs(10));
        assert_eq!(value(unit(), "Type"), "notify");
        let files: u64 = value(unit(), "LimitNOFILE").parse().unwrap();
        let bound = preflight::SYSCTLS
            .iter()
            .find(|one| one.name == "fs.nr_open");
        assert!(files <= bound.unwrap().value.parse().unwrap());
    }

    #[test]
    fn the_kubernetes_manifest_leaves_time_for_the_drain_and_asks_the_right_paths() {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/scripts/packaging/kubernetes.yaml"
        );
        let text = std::fs::read_to_string(file).unwrap();
        // Its ConfigMap holds a configuration of ours.
        let (_, config) = text.split_once("  wsteady.yaml: |\n").unwrap();
        let (config, _) = config.split_once("---\n").unwrap();
        let mut sources = Sources::default();
        sources.put(&["admin", "token"], "secret", "the Secret");
        let config = sources
            .load_text(config, "the ConfigMap")
            .unwrap_or_else(|problems| panic!("{problems}"))
            .config;
        let grace: u64 = value(&text, "terminationGracePeriodSeconds")
            .parse()
            .unwrap();
        let sleep = value(&text, "preStop");
        let sleep = sleep
            .split("seconds: ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap();
        let sleep = parse_duration(&format!("{sleep}s")).unwrap();
        assert!(Duration::from_secs(grace) >= sleep + config.drain + Duration::from_secs(10));
        assert!(value(&text, "livenessProbe").contains("path: /healthz, port: admin"));
        assert!(value(&text, "readinessProbe").contains("path: /readyz, port: admin"));
        let ports = [config.listen[0].address.port(), config.admin.address.port()];
        for (name, port) in ["clients", "admin"].iter().zip(ports) {
            let line = format!("{{ name: {name}, containerPort: {port} }}");
            assert!(text.contains(&line), "{line}");
        }
    }
}
