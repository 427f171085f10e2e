//! One wsteady process under test.

use super::metrics::Metrics;
use super::tls::{self, Authority};
use super::{Scratch, free_port, http, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

pub struct Proxy {
    child: Child,
    dir: Scratch,
    sealed: bool,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    descriptors_at_start: u64,
}

/// How long the proxy may take to forget sessions that are over (THREATS: "within 5 s").
const SETTLE: Duration = Duration::from_secs(5);

impl Proxy {
    /// One pool `main` over `servers` (URLs), times short enough for tests, and `changes` merged
    /// over that, object by object; `listen`, if given, is the one address, or what is said of it
    /// beside that; there `tls: true` is the certificate of the tests. Gives it when it is ready.
    pub fn start(servers: &[String], changes: Value) -> Proxy {
        Proxy::start_through(&[], servers, changes)
    }

    /// As [`Proxy::start`], by way of another program: `unshare -m`, say. It must become wsteady.
    pub fn start_through(through: &[String], servers: &[String], changes: Value) -> Proxy {
        let servers: Vec<Value> = servers
            .iter()
            .zip(["b1", "b2", "b3", "b4", "b5", "b6"])
            .map(|(url, id)| json!({ "url": url, "id": id }))
            .collect();
        let mut config = defaults(servers);
        merge(&mut config, changes);
        // Another process can take a port between the look and the bind: then exit code 1.
        for _ in 0..3 {
            if let Some(proxy) = Proxy::attempt(through, &config) {
                return proxy;
            }
        }
        panic!("wsteady did not start");
    }

    fn attempt(through: &[String], config: &Value) -> Option<Proxy> {
        let (listen, admin) = (free_port(), free_port());
        let mut config = config.clone();
        let address = match config["listen"].as_str() {
            Some(given) => given.parse().unwrap(),
            None => SocketAddr::from(([127, 0, 0, 1], listen)),
        };
        let mut port = match &config["listen"] {
            given @ Value::Object(_) => given.clone(),
            _ => json!({}),
        };
        let dir = Scratch::new("proxy");
        if tls::on() || port["tls"] == true {
            seal(&dir, &mut port, &mut config);
        }
        let sealed = port["tls"].is_object();
        port["address"] = json!(address.to_string());
        config["listen"] = json!([port]);
        config["admin"] = json!({ "address": format!("127.0.0.1:{admin}") });
        // JSON is YAML, too.
        std::fs::write(dir.file("wsteady.yaml"), config.to_string()).unwrap();
        let child = spawn(through, &dir);
        let admin = SocketAddr::from(([127, 0, 0, 1], admin));
        let mut proxy = Proxy {
            child,
            dir,
            sealed,
            address,
            admin,
            descriptors_at_start: 0,
        };
        if !proxy.gets_ready() {
            eprintln!("wsteady ended at once:\n{}", proxy.log());
            return None;
        }
        proxy.descriptors_at_start = proxy.metrics().sum("process_open_fds", &[]);
        Some(proxy)
    }

    fn gets_ready(&mut self) -> bool {
        let limit = Duration::from_secs(20);
        until(limit, "wsteady to be ready or gone", || {
            if self.child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let answer = http::get(self.admin, "/readyz").ok()?;
            (answer.status == 200).then_some(true)
        })
    }

    /// Ends it without a word, as a crash does, and starts it again at the same addresses.
    pub fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&[], &self.dir);
        assert!(self.gets_ready(), "{}", self.log());
    }

    /// Whether clients speak TLS with it.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    pub fn url(&self, path: &str) -> String {
        let scheme = if self.sealed { "wss" } else { "ws" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// Has a client's program believe this proxy, where that has the certificate of the tests.
    pub fn is_believed_by<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if self.sealed {
            let ca = self.dir.file("ca.pem");
            command
                .env("SSL_CERT_FILE", &ca)
                .env("NODE_EXTRA_CA_CERTS", &ca);
        }
        command
    }

    /// A scrape; its laws are checked each time.
    pub fn metrics(&self) -> Metrics {
        let answer = self.admin("GET", "/metrics", None);
        assert_eq!(answer.status, 200);
        let metrics = Metrics::parse(&answer.body);
        metrics.check_laws().unwrap();
        metrics
    }

    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.metrics().sum(name, labels)
    }

    pub fn admin(&self, method: &str, path: &str, json: Option<&str>) -> http::Answer {
        http::request(self.admin, method, path, json).expect("the admin address answers")
    }

    /// All sessions that `/v1/sessions` lists.
    pub fn sessions(&self) -> Vec<Value> {
        let answer = self.admin("GET", "/v1/sessions?limit=1000", None);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["sessions"]
            .as_array()
            .expect("a list")
            .clone()
    }

    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.dir.file("log")).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Resident memory, KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Changes the configuration file, has it read again, and gives the line that says what has
    /// become of it.
    pub fn reload(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut config = self.config();
        change(&mut config);
        self.reload_text(&config.to_string())
    }

    pub fn reload_text(&self, text: &str) -> String {
        // In one step, as editors do it: half a file would be a wrong one.
        std::fs::write(self.dir.file("new.yaml"), text).unwrap();
        std::fs::rename(self.dir.file("new.yaml"), self.dir.file("wsteady.yaml")).unwrap();
        let before = self.log().len();
        self.signal(Signal::HUP);
        until(Duration::from_secs(10), "a word of the reload", || {
            let log = self.log();
            let mut new = log[before..].lines();
            let said = |line: &&str| {
                line.contains("configuration read again") || line.contains("nothing has changed")
            };
            new.find(said).map(str::to_owned)
        })
    }

    /// The configuration file, as it stands.
    pub fn config(&self) -> Value {
        let text = std::fs::read_to_string(self.dir.file("wsteady.yaml")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        until(limit, "wsteady to end", || self.child.try_wait().unwrap())
    }

    /// The end of each test: every session is forgotten and nothing leaked, nothing panicked, the
    /// laws hold, and TERM ends an idle proxy with code 0.
    pub fn finish(self) {
        self.finish_within(SETTLE);
    }

    /// [`Proxy::finish`] where sessions may be held that long after their clients left.
    pub fn finish_within(mut self, settle: Duration) {
        let mut left = String::new();
        // Two other nodes at most keep a connection to this one, and this one to each of them.
        let others = match self.config()["cluster"]["peers"].is_array() {
            true => 2,
            false => 0,
        };
        until(settle + SETTLE, "all to be forgotten", || {
            let metrics = self.metrics();
            let counts = [
                (
                    "connections",
                    metrics
                        .sum("wsteady_connections_active", &[])
                        .saturating_sub(others),
                ),
                ("sessions", metrics.sum("wsteady_sessions_active", &[])),
                ("journaled", metrics.sum("wsteady_messages_journaled", &[])),
                ("buffer bytes", metrics.sum("wsteady_buffer_bytes", &[])),
                (
                    "descriptors",
                    self.descriptors_more(&metrics).saturating_sub(2 * others),
                ),
            ];
            let now: Vec<_> = counts.iter().filter(|(_, count)| *count != 0).collect();
            let now = format!("{now:?}");
            if now != left {
                // The last such line is the one that explains a failure.
                eprintln!("settling: {now}");
                left = now;
            }
            counts.iter().all(|(_, count)| *count == 0).then_some(())
        });
        self.must_be_sane();
        self.signal(Signal::TERM);
        assert_eq!(
            self.wait_exit(Duration::from_secs(10)).code(),
            Some(0),
            "{}",
            self.log()
        );
    }

    /// Descriptors above those at the start. The scrape's own connection and one that is just
    /// being closed are not a leak.
    fn descriptors_more(&self, metrics: &Metrics) -> u64 {
        metrics
            .sum("process_open_fds", &[])
            .saturating_sub(self.descriptors_at_start + 1)
    }

    pub fn must_be_sane(&mut self) {
        let log = self.log();
        assert!(
            self.child.try_wait().unwrap().is_none(),
            "wsteady died:\n{log}"
        );
        assert!(!log.contains("panicked"), "{log}");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(4000);
            let tail = log
                .char_indices()
                .map(|(at, _)| at)
                .find(|at| *at >= tail)
                .unwrap_or(0);
            eprintln!("wsteady's log ends:\n{}", &log[tail..]);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program under test; `WSTEADY_BIN` names another build of it.
pub fn binary() -> Command {
    let built = env!("CARGO_BIN_EXE_wsteady");
    let mut command = Command::new(std::env::var_os("WSTEADY_BIN").unwrap_or(built.into()));
    // What the caller has set for his own proxy must not reach this one.
    for (name, _) in std::env::vars_os() {
        let own = ["WSTEADY_", "WS2API_", "FE_", "BE_", "ADM_"];
        if own
            .iter()
            .any(|start| name.to_string_lossy().starts_with(start))
        {
            command.env_remove(name);
        }
    }
    command
}

/// A wsteady with the files of this directory.
fn spawn(through: &[String], dir: &Scratch) -> Child {
    let log = File::create(dir.file("log")).unwrap();
    behind(through, &binary())
        .args(["run", "--config"])
        .arg(dir.file("wsteady.yaml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The same program with these words before it.
fn behind(through: &[String], program: &Command) -> Command {
    let mut words: Vec<OsString> = through.iter().map(Into::into).collect();
    words.push(program.get_program().to_owned());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// TLS on both legs, where nothing is said of it.
fn seal(dir: &Scratch, port: &mut Value, config: &mut Value) {
    if !port["tls"].is_object() {
        port["tls"] = tls::our_pair().write(dir, "tls");
    }
    let ca = json!({ "ca": Authority::ours().file(dir, "ca") });
    for (_, pool) in config["pools"].as_object_mut().expect("pools") {
        if pool["tls"].is_null() {
            pool["tls"] = ca.clone();
        }
    }
}

fn defaults(servers: Vec<Value>) -> Value {
    json!({
        "loops": 2,
        "pools": { "main": {
            "kind": "websocket",
            "servers": servers,
            "timeouts": {
                "connect": "1s", "handshake": "2s", "ping": "1s", "pong": "1s", "close": "1s",
            },
        } },
        "session": { "hold": "5s", "admit": "2s" },
        "limits": { "memory": "64MiB", "message": "1MiB", "handshake": "2s" },
        "drain": "2s",
    })
}

/// `changes` over wsteady's own times, for tests in which nothing may be given up: on a busy
/// machine a peer may take a second to answer, and one that is given up in haste gets messages
/// repeated elsewhere.
pub fn patient(changes: Value) -> Value {
    let mut config = json!({
        "pools": { "main": { "timeouts": {
            "connect": "10s", "handshake": "10s", "ping": "30s", "pong": "10s", "close": "10s",
        } } },
        "session": { "admit": "20s", "hold": "30s" },
        "limits": { "handshake": "10s" },
    });
    merge(&mut config, changes);
    config
}

/// Objects are merged, all else is replaced; null takes a key away.
fn merge(base: &mut Value, changes: Value) {
    match (base, changes) {
        (Value::Object(base), Value::Object(changes)) => {
            for (key, change) in changes {
                if change.is_null() {
                    base.remove(&key);
                } else {
                    merge(base.entry(key).or_insert(json!({})), change);
                }
            }
        }
        (base, changes) => *base = changes,
    }
}
