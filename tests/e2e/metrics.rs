//! What Prometheus and Grafana make of `/metrics`: their own tools read scrapes of a proxy at
//! work, and every name that the dashboard and the alerts use is looked for in one.

use crate::support::client::Habit;
use crate::support::field::Field;
use crate::support::metrics::Metrics;
use crate::support::peer::{Kind, Peer};
use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, echo_origin};
use crate::support::tls::our_pair;
use crate::support::{SOON, Scratch, free_port, http, root, until};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

type Deed = fn(&mut Peer);

/// A scrape as OpenMetrics.
fn openmetrics(admin: SocketAddr) -> String {
    let mut raw = Raw::plain(admin);
    let accept = "Accept: application/openmetrics-text; version=1.0.0";
    raw.send(format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\n{accept}\r\n\r\n").as_bytes());
    let head = raw.head(SOON);
    let kind = head.header("content-type").unwrap_or_default();
    assert!(
        kind.starts_with("application/openmetrics-text; version=1.0.0"),
        "{kind}"
    );
    String::from_utf8(raw.body(&head, SOON)).unwrap()
}

/// What a program says to a text.
fn piped(command: &mut Command, text: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("scripts/setup-tests installs promtool and Python");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

/// Prometheus's linter has not a word to say.
fn must_be_lintless(text: &str) {
    let output = piped(Command::new("promtool").args(["check", "metrics"]), text);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

/// Each family's type and how many samples it has, as Prometheus's Python library reads them.
fn families(format: &str, text: &str) -> BTreeMap<String, (String, u64)> {
    let mut python = Command::new(root().join(".venv/bin/python"));
    python
        .arg(root().join("tests/peers/openmetrics.py"))
        .arg(format);
    let output = piped(&mut python, text);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn prometheus_tools_read_every_scrape_under_load_and_failovers() {
    let habit = Habit {
        every: Duration::from_millis(5),
        ..Habit::default()
    };
    let kinds = [Kind::Node, Kind::Node, Kind::Python];
    let changes = json!({ "session": { "hold": "30s" }, "metrics": { "legacy_names": true } });
    let mut field = Field::start(&kinds, &[], changes, 30, &habit);
    let faults: [(&str, Deed); 4] = [
        ("kill -9", Peer::kill),
        ("RST", |peer| drop(peer.command("rst"))),
        ("Close 1012", |peer| {
            drop(peer.command("close 1012 restart"))
        }),
        ("kill -9", Peer::kill),
    ];
    for (count, (what, fault)) in faults.into_iter().enumerate() {
        let index = count % kinds.len();
        field.crowd.send_more(200);
        field.strike(what, |peers| fault(&mut peers[index]));
        for _ in 0..5 {
            let text = field.proxy.admin("GET", "/metrics", None).body;
            Metrics::parse(&text).check_laws().unwrap();
            // The older proxies' counters have no `_total`: what the linter says of them is true.
            let own = text.split("# HELP wsbalancer_new_session").next().unwrap();
            must_be_lintless(own);
            let plain = families("text", &text);
            let strict = families("openmetrics", &openmetrics(field.proxy.admin));
            let counts = |families: &BTreeMap<String, (String, u64)>| -> BTreeMap<String, u64> {
                let own = families
                    .iter()
                    .filter(|(name, _)| !name.starts_with("wsbalancer"));
                own.map(|(name, (_, samples))| (name.clone(), *samples))
                    .collect()
            };
            assert_eq!(counts(&plain), counts(&strict), "the same in both formats");
            assert_eq!(strict["wsteady_relay_seconds"].0, "histogram");
            assert_eq!(strict["wsteady_failovers"].0, "counter");
        }
        if !field.peers[index].is_running() {
            field.peers[index].revive();
        }
    }
    one_hold_for_each_failover(&field.proxy);
    field.conclude();
}

fn one_hold_for_each_failover(proxy: &Proxy) {
    until(SOON, "nobody to be held", || {
        let metrics = proxy.metrics();
        let count = |name: &str| metrics.sum(name, &[]);
        let failovers = count("wsteady_failovers_total");
        let observed = metrics.samples("wsteady_hold_seconds_count");
        assert!(failovers > 0, "there were faults");
        assert_eq!(failovers, observed + count("wsteady_sessions_held"));
        (count("wsteady_sessions_held") == 0).then_some(())
    });
}

/// A pool of each kind.
fn varied(keys: &Scratch) -> Proxy {
    let [cert, key] = our_pair().files(keys, "own");
    let nobody = format!("http://127.0.0.1:{}/", free_port());
    let server = |id: &str| json!([{ "url": nobody, "id": id }]);
    let changes = json!({
        "pools": {
            "api": { "kind": "bridge", "servers": server("api") },
            "web": {
                "kind": "http", "servers": server("web"),
                "tls": { "client_cert": cert, "client_key": key },
            },
        },
        "routes": [
            { "path": "/api", "pool": "api" }, { "path": "/web", "pool": "web" },
            { "path": "/", "pool": "main" },
        ],
    });
    Proxy::start(&[echo_origin().url()], changes)
}

/// An expression and the labels that are used of its result.
struct Use {
    place: String,
    expr: String,
    labels: BTreeSet<String>,
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The names that stand between `{{` and `}}`, without what is before the last point.
fn shown(text: &str) -> impl Iterator<Item = String> {
    let parts = text.split("{{").skip(1);
    let words = parts.filter_map(|part| part.split("}}").next()?.split('|').next());
    let names = words.map(|word| {
        word.trim()
            .rsplit('.')
            .next()
            .unwrap_or_default()
            .to_owned()
    });
    names.filter(|name| !name.starts_with('$') && name != "value")
}

fn dashboard() -> Value {
    let path = root().join("docs/grafana/wsteady.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).expect("JSON")
}

fn uses_of_dashboard() -> Vec<Use> {
    let dashboard = dashboard();
    let mut uses = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap_or(&Vec::new()) {
            uses.push(Use {
                place: text(&panel["title"]).to_owned(),
                expr: text(&target["expr"]).to_owned(),
                labels: shown(text(&target["legendFormat"])).collect(),
            });
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let query = text(&variable["definition"]);
        let Some(query) = query.strip_prefix("label_values(") else {
            continue;
        };
        let (expr, label) = query.trim_end_matches(')').rsplit_once(", ").unwrap();
        uses.push(Use {
            place: text(&variable["name"]).to_owned(),
            expr: expr.to_owned(),
            labels: [label.to_owned()].into(),
        });
    }
    for note in dashboard["annotations"]["list"].as_array().unwrap() {
        uses.extend(note["expr"].as_str().map(|expr| Use {
            place: text(&note["name"]).to_owned(),
            expr: expr.to_owned(),
            labels: shown(text(&note["titleFormat"])).collect(),
        }));
    }
    uses
}

/// One field to a line, as the file is written.
fn uses_of_alerts() -> Vec<Use> {
    let file = std::fs::read_to_string(root().join("docs/prometheus/alerts.yaml")).unwrap();
    let mut uses: Vec<Use> = Vec::new();
    for line in file.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            uses.push(Use {
                place: name.to_owned(),
                expr: String::new(),
                labels: BTreeSet::new(),
            });
        } else if let Some(now) = uses.last_mut() {
            match line.strip_prefix("expr: ") {
                Some(expr) => now.expr = expr.to_owned(),
                None => now.labels.extend(shown(line)),
            }
        }
    }
    uses
}

/// The metrics of an expression, each with the labels that its selector names, and the labels that
/// stand in `by`, `without`, `on`.
fn names_in(expr: &str) -> (Vec<(String, Vec<String>)>, Vec<String>) {
    let is_word = |one: char| one.is_ascii_alphanumeric() || one == '_';
    let (mut metrics, mut grouped) = (Vec::new(), Vec::new());
    let mut rest = expr;
    while let Some(start) = rest.find(is_word) {
        let end = rest[start..].find(|one| !is_word(one));
        let end = end.map_or(rest.len(), |end| start + end);
        let (word, behind) = (&rest[start..end], &rest[end..]);
        rest = behind;
        let list = |open: char, close: char| {
            let inner = behind.trim_start().strip_prefix(open)?;
            inner.split_once(close)
        };
        if ["by", "without", "on"].contains(&word) {
            let (inner, after) = list('(', ')').expect("a list of labels");
            grouped.extend(inner.split(',').map(|label| label.trim().to_owned()));
            rest = after;
        } else if word.starts_with("wsteady_") || word.starts_with("process_") || word == "up" {
            let mut labels = Vec::new();
            if let Some((inner, after)) = list('{', '}') {
                let pairs = inner.split("\",");
                let names = pairs.filter_map(|pair| pair.split(['=', '!']).next());
                labels.extend(names.map(|name| name.trim().to_owned()));
                rest = after;
            }
            metrics.push((word.to_owned(), labels));
        }
    }
    (metrics, grouped)
}

#[test]
fn the_reader_of_expressions_finds_names_and_labels() {
    let expr = "sum by (le, pool) (rate(wsteady_a_bucket{pool=~\"x,y\", le!=\"1\"}[5m])) \
        / on (job) up unless process_b > 0.5";
    let (metrics, grouped) = names_in(expr);
    let names: Vec<_> = metrics
        .iter()
        .map(|(name, labels)| (name.as_str(), labels.len()))
        .collect();
    assert_eq!(
        names,
        [("wsteady_a_bucket", 2), ("up", 0), ("process_b", 0)]
    );
    assert_eq!(metrics[0].1, ["pool", "le"]);
    assert_eq!(grouped, ["le", "pool", "job"]);
    let labels: Vec<_> = shown("{{pool}} {{ $labels.server }}: {{ $value | humanize }}").collect();
    assert_eq!(labels, ["pool", "server"]);
}

/// What Prometheus itself adds to each series.
const ADDED: [&str; 2] = ["job", "instance"];

#[test]
#[cfg_attr(
    not(feature = "tls"),
    ignore = "a build without TLS has no certificates to show"
)]
fn the_dashboard_and_the_alerts_use_what_there_is() {
    let keys = Scratch::new("varied");
    let proxy = varied(&keys);
    #[cfg(feature = "tls")]
    let files = crate::tls::Files::new(2090);
    #[cfg(feature = "tls")]
    proxy.reload(|config| config["listen"][0]["tls"] = files.section());
    let metrics = Metrics::parse(&proxy.admin("GET", "/metrics", None).body);
    let uses: Vec<Use> = uses_of_dashboard()
        .into_iter()
        .chain(uses_of_alerts())
        .collect();
    assert!(uses.len() > 60, "{} expressions", uses.len());
    let mut used = BTreeSet::new();
    for one in &uses {
        let (names, grouped) = names_in(&one.expr);
        assert!(
            !names.is_empty(),
            "{}: no metric in {}",
            one.place,
            one.expr
        );
        let mut known: BTreeSet<&str> = ADDED.into();
        for (name, selected) in &names {
            used.insert(name.clone());
            // Prometheus's own.
            if name == "up" {
                continue;
            }
            let labels = metrics.labels(name);
            let labels = labels.unwrap_or_else(|| panic!("{}: no series {name}", one.place));
            for label in selected {
                let is_there = labels.contains(label.as_str()) || ADDED.contains(&label.as_str());
                assert!(is_there, "{}: {name} has no label {label}", one.place);
            }
            known.extend(labels);
        }
        for label in grouped.iter().chain(&one.labels) {
            let is_there = known.contains(label.as_str());
            assert!(
                is_there,
                "{}: nothing in {} has {label}",
                one.place, one.expr
            );
        }
    }
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let told = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `wsteady_")?.split('`').next());
    let shown = |name: &str| {
        used.iter()
            .any(|used| used.starts_with(&format!("wsteady_{name}")))
    };
    let unused: Vec<&str> = told.filter(|name| !shown(name)).collect();
    // Normal, and of no use to anybody but wsteady's authors.
    assert_eq!(
        unused,
        ["stale_events_total"],
        "on no panel and in no alert"
    );
    proxy.finish();
}

#[test]
fn panels_stand_side_by_side_and_say_what_they_show() {
    let dashboard = dashboard();
    let mut cells = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = text(&panel["title"]);
        assert!(
            !title.is_empty() && ids.insert(panel["id"].as_u64()),
            "{title}"
        );
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            assert!(x < 24, "{title} is beyond the right edge");
            for y in place("y")..place("y") + place("h") {
                assert!(cells.insert((x, y)), "{title} lies on another panel");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(!text(&panel["description"]).is_empty(), "{title}");
        assert!(
            panel["fieldConfig"]["defaults"]["unit"].is_string()
                || panel["type"] == "state-timeline"
        );
    }
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(root().join("docs/prometheus"))
        .output()
        .expect("scripts/setup-tests installs promtool");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(
        output.status.success() && said.contains("SUCCESS"),
        "{said}"
    );
}

#[test]
fn the_alerts_fire_when_they_should() {
    promtool(&["check", "rules", "--lint-fatal", "alerts.yaml"]);
    promtool(&["test", "rules", "alerts_test.yaml"]);
    let tests = root().join("docs/prometheus/alerts_test.yaml");
    let tests = std::fs::read_to_string(tests).unwrap();
    for alert in uses_of_alerts() {
        let is_tested = tests.contains(&format!("alertname: {}\n", alert.place))
            || tests.contains(&format!("alertname=\"{}\"", alert.place));
        assert!(is_tested, "{} has no test", alert.place);
    }
}

/// A Prometheus that scrapes one proxy each second, with the alerts loaded.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _dir: Scratch,
}

impl Prometheus {
    fn start(admin: SocketAddr) -> Prometheus {
        let dir = Scratch::new("prometheus");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let config = json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": [root().join("docs/prometheus/alerts.yaml")],
            "scrape_configs": [{
                "job_name": "wsteady",
                "static_configs": [{ "targets": [admin.to_string()] }],
            }],
        });
        std::fs::write(dir.file("prometheus.yml"), config.to_string()).unwrap();
        let option = |name: &str, value: &str| format!("--{name}={value}");
        let child = Command::new("prometheus")
            .arg(option(
                "config.file",
                dir.file("prometheus.yml").to_str().unwrap(),
            ))
            .arg(option(
                "storage.tsdb.path",
                dir.file("data").to_str().unwrap(),
            ))
            .arg(option("web.listen-address", &address.to_string()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(dir.file("log")).unwrap())
            .spawn()
            .expect("scripts/setup-tests installs prometheus");
        Prometheus {
            child,
            address,
            _dir: dir,
        }
    }

    /// The series of an expression; `Err` says what is wrong with it.
    fn query(&self, expr: &str) -> Result<Vec<Value>, String> {
        let encoded: String = expr.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        let answer = http::get(self.address, &path).map_err(|why| why.to_string())?;
        match answer.status {
            200 => Ok(answer.json()["data"]["result"]
                .as_array()
                .expect("series")
                .clone()),
            _ => Err(answer.body),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_prometheus_answers_every_panel() {
    let keys = Scratch::new("varied");
    let proxy = varied(&keys);
    let prometheus = Prometheus::start(proxy.admin);
    let scraped = r#"count_over_time(wsteady_build_info{job="wsteady"}[1m]) >= 4"#;
    until(Duration::from_secs(60), "a few scrapes", || {
        let series = prometheus.query(scraped).ok()?;
        (!series.is_empty()).then_some(())
    });
    for one in uses_of_dashboard() {
        let expr = one
            .expr
            .replace("$job", "wsteady")
            .replace("$instance", ".*")
            .replace("$pool", ".*")
            .replace("$__rate_interval", "10s")
            .replace("$__range", "1m");
        let series = prometheus.query(&expr);
        let series = series.unwrap_or_else(|why| panic!("{}: {expr}: {why}", one.place));
        // What is only shown when it is above zero may be empty now.
        assert!(
            !series.is_empty() || expr.ends_with("> 0"),
            "{}: no data for {expr}",
            one.place
        );
    }
    let rules = http::get(prometheus.address, "/api/v1/rules")
        .unwrap()
        .json();
    let rules = rules["data"]["groups"][0]["rules"]
        .as_array()
        .expect("rules")
        .clone();
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_eq!(rule["state"], "inactive", "nothing is wrong: {rule}");
    }
    assert_eq!(rules.len(), uses_of_alerts().len());
    drop(prometheus);
    proxy.finish();
}
