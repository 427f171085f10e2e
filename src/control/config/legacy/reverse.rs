//! WebsocketReverseProxy's `.ini`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::tree::Node;
use super::super::{Place, duration_text};
use super::ini::{self, Pair, Section};
use super::{Draft, Program};

/// What its file means.
pub(super) fn translate(text: &str, name: &Arc<str>) -> Draft {
    let (sections, problems) = ini::parse(text, name);
    let top = Place::in_file(name, 1, 1);
    let mut draft = Draft::over(Node::empty(top.clone()), problems);
    draft.program = Some(Program::WebsocketReverseProxy);
    for section in &sections {
        match section.name.as_str() {
            "frontend" => frontend(section, &mut draft),
            "websocket" => websocket(section, &mut draft),
            "http" => http(section, &mut draft),
            other => {
                let message =
                    super::unknown(other, SECTIONS).replace("unknown key", "unknown section");
                draft.problem(&section.place, message);
            }
        }
    }
    if !sections.iter().any(|section| section.name == "frontend") {
        draft.problem(&top, "[frontend] is missing; write it, with host and port");
    }
    draft
}

fn frontend(section: &Section, draft: &mut Draft) {
    let known = ["host", "port"];
    for pair in &section.pairs {
        if !known.contains(&pair.key.as_str()) {
            draft.unknown(&pair.key, &pair.place, &known);
        }
    }
    let [host, port] = known.map(|key| section.find(key).filter(|pair| !pair.value.is_empty()));
    for (key, pair) in known.iter().zip([host, port]) {
        if pair.is_none() {
            draft.problem(&section.place, format!("{key}: is missing in [frontend]"));
        }
    }
    if let (Some(host), Some(port)) = (host, port) {
        let bare_v6 = host.value.contains(':') && !host.value.starts_with('[');
        let address = match bare_v6 {
            true => format!("[{}]:{}", host.value, port.value),
            false => format!("{}:{}", host.value, port.value),
        };
        draft.put_list(&["listen"], &[address], &port.value_place);
    }
}

fn websocket(section: &Section, draft: &mut Draft) {
    let mut servers = Vec::new();
    for pair in &section.pairs {
        if OPTIONS.contains(&pair.key.as_str()) {
            continue;
        }
        match pair.key.starts_with("server") {
            true => servers.push(server(section, &pair.key, "ws", pair)),
            false => draft.unknown(&pair.key, &pair.place, &[OPTIONS, &["server1"]].concat()),
        }
    }
    pool(section, "websocket", servers, draft);
    draft.note(
        &section.place,
        "[websocket]: a foreign Origin is not turned away; list yours in `origins`",
    );
}

fn http(section: &Section, draft: &mut Draft) {
    let mut numbered: BTreeMap<u64, Vec<(&str, &Pair)>> = BTreeMap::new();
    for pair in &section.pairs {
        if OPTIONS.contains(&pair.key.as_str()) {
            continue;
        }
        match split_key(&pair.key) {
            Some((number, part)) => numbered.entry(number).or_default().push((part, pair)),
            None => {
                let all: Vec<String> = PARTS
                    .iter()
                    .map(|(part, ..)| format!("server1_{part}"))
                    .collect();
                let mut known: Vec<&str> = all.iter().map(String::as_str).collect();
                known.extend(OPTIONS);
                draft.unknown(&pair.key, &pair.place, &known);
            }
        }
    }
    let mut servers = Vec::new();
    for (number, parts) in &numbered {
        match parts
            .iter()
            .find(|(part, pair)| *part == "addr" && !pair.value.is_empty())
        {
            Some((_, pair)) => {
                servers.push(server(section, &format!("server{number}"), "http", pair))
            }
            None => draft.problem(
                &parts[0].1.place,
                format!("server{number}_addr: is missing"),
            ),
        }
    }
    pool(section, "http", servers, draft);
    let own: Vec<_> = numbered.values().collect();
    for (part, key, default) in &PARTS[1..] {
        connections(section, (part, key, default), &own, draft);
    }
    draft.put(
        &["pools", "http", "connections", "full_status"],
        "429",
        &section.place,
    );
}

/// One number that each server may have and wsteady has once for all of a pool.
fn connections(
    section: &Section,
    (part, key, default): (&str, &str, &str),
    servers: &[&Vec<(&str, &Pair)>],
    draft: &mut Draft,
) {
    let given = |parts: &&Vec<(&str, &Pair)>| {
        let found = parts.iter().find(|(name, _)| *name == part);
        found.map(|(_, pair)| (pair.value.clone(), pair.value_place.clone()))
    };
    let all = servers
        .iter()
        .map(|parts| given(parts).unwrap_or_else(|| (default.to_owned(), section.place.clone())));
    let all: Vec<(String, Place)> = all.collect();
    let Some((first, place)) = all.first() else {
        return;
    };
    for (value, place) in all.iter().filter(|(value, _)| value != first) {
        let message = format!(
            "{part}: {value} is not {first}, which the first server has and wsteady takes for all \
             servers of a pool"
        );
        draft.note(place, message);
    }
    let text = match key {
        "idle" => draft.take(part, place, seconds(first)).map(duration_text),
        _ => Some(first.clone()),
    };
    if let Some(text) = text {
        draft.put(&["pools", "http", "connections", key], &text, place);
    }
}

/// What both kinds of pool have: its servers, the way of choosing, health checks.
fn pool(section: &Section, kind: &str, servers: Vec<Node>, draft: &mut Draft) {
    let place = &section.place;
    draft.put(&["pools", kind, "kind"], kind, place);
    let list = Node::list(servers, place.clone());
    draft.root.graft(&["pools", kind, "servers"], list);
    let given = |key: &str| section.find(key).filter(|pair| !pair.value.is_empty());
    let balance = given("algorithm");
    let at = balance.map_or(place, |pair| &pair.value_place);
    let word = balance.map_or("random", |pair| pair.value.as_str());
    let known = match word {
        "random" | "round-robin" => Ok(word),
        _ => Err(format!(
            "{word:?} is not known; write round-robin or random"
        )),
    };
    if let Some(word) = draft.take("algorithm", at, known) {
        draft.put(&["pools", kind, "balance"], word, at);
    }
    let interval = given("health_check_interval");
    let at = interval.map_or(place, |pair| &pair.value_place);
    let time = seconds(interval.map_or("10", |pair| &pair.value));
    let interval = draft.take("health_check_interval", at, time);
    let Some(switch) = given("enable_health_check") else {
        return;
    };
    let on = match switch.value.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("{other:?} is not known; write true or false")),
    };
    let on = draft.take("enable_health_check", &switch.value_place, on);
    if let (Some(true), Some(interval)) = (on, interval) {
        let text = duration_text(interval);
        let timeout = duration_text(interval.min(Duration::from_secs(2)));
        for (key, value, place) in [
            ("path", "/healthCheck", &switch.value_place),
            ("interval", &text, at),
            ("timeout", &timeout, at),
            ("rise", "1", &switch.value_place),
            ("fall", "1", &switch.value_place),
            ("expect", "json-status", &switch.value_place),
        ] {
            draft.put(&["pools", kind, "health", key], value, place);
        }
    }
}

/// The ids of both pools' servers must differ, so the section's name stands before the key's.
fn server(section: &Section, key: &str, scheme: &str, pair: &Pair) -> Node {
    let url = format!("{scheme}://{}", pair.value);
    let id = format!("{}.{key}", section.name);
    let fields = vec![
        ("url", Node::scalar(&url, pair.value_place.clone())),
        ("id", Node::scalar(&id, pair.place.clone())),
    ];
    Node::map(fields, pair.value_place.clone())
}

/// `server7_addr` is 7 and `addr`.
fn split_key(key: &str) -> Option<(u64, &str)> {
    let (number, part) = key.strip_prefix("server")?.split_once('_')?;
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let known = PARTS.iter().any(|(name, ..)| *name == part);
    let number = number.parse().ok().filter(|_| digits && known)?;
    Some((number, part))
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(0) => Err("must be more than 0".into()),
        Ok(count) => Ok(Duration::from_secs(count.into())),
        Err(_) => Err(format!("{text:?} is not a whole number of seconds")),
    }
}

const SECTIONS: &[&str] = &["frontend", "websocket", "http"];

/// What [websocket] and [http] have beside servers.
const OPTIONS: &[&str] = &["enable_health_check", "health_check_interval", "algorithm"];

/// What a server in [http] has, the key of `connections` that means it, and its default.
const PARTS: &[(&str, &str, &str)] = &[
    ("addr", "", ""),
    ("max_workers", "max", "3"),
    ("min_workers", "min", "1"),
    ("worker_timeout", "idle", "3"),
    ("buffer_size", "queue", "10"),
];
