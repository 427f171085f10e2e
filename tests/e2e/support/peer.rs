//! The recording servers of `tests/peers`, as processes that can be killed, stopped and revived.

use super::ledger::cut_torn;
use super::tls::{self, Authority, Pair};
use super::{SOON, Scratch, free_port, root, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Python,
    Node,
}

/// Both, for tests that hold for any server.
pub const KINDS: [Kind; 2] = [Kind::Python, Kind::Node];

impl Kind {
    /// The command of one of this kind's programs: `server` or `client`.
    pub fn program(self, what: &str) -> Command {
        let peers = root().join("tests/peers");
        match self {
            Kind::Python => {
                let mut command = Command::new(root().join(".venv/bin/python"));
                command.arg(peers.join(format!("{what}.py")));
                command
            }
            Kind::Node => {
                let mut command = Command::new("node");
                command.arg(peers.join(format!("node/{what}.mjs")));
                command
            }
        }
    }
}

pub struct Peer {
    kind: Kind,
    host: String,
    port: u16,
    options: Vec<String>,
    /// Before the program: `ip netns exec`, say.
    through: Vec<String>,
    dir: Scratch,
    sealed: bool,
    running: Option<Running>,
}

struct Running {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// A server with a log of its own, listening. `options` are those of `server.py`.
    pub fn start(kind: Kind, name: &str, options: &[&str]) -> Peer {
        Peer::start_at(kind, name, "127.0.0.1", &[], options)
    }

    pub fn start_at(
        kind: Kind,
        name: &str,
        host: &str,
        through: &[&str],
        options: &[&str],
    ) -> Peer {
        Peer::listen(kind, name, (host, free_port()), through, options)
    }

    /// A server on this one's port, at another address.
    pub fn start_beside(&self, name: &str, host: &str) -> Peer {
        Peer::listen(self.kind, name, (host, self.port), &[], &[])
    }

    fn listen(
        kind: Kind,
        name: &str,
        (host, port): (&str, u16),
        through: &[&str],
        options: &[&str],
    ) -> Peer {
        let seal = tls::on().then(|| Authority::ours().issue(&["localhost", host]));
        Peer::listen_sealed(kind, name, (host, port), through, options, seal.as_ref())
    }

    /// A server that shows this certificate, whatever the run.
    pub fn sealed(kind: Kind, name: &str, seal: &Pair, options: &[&str]) -> Peer {
        let place = ("127.0.0.1", free_port());
        Peer::listen_sealed(kind, name, place, &[], options, Some(seal))
    }

    fn listen_sealed(
        kind: Kind,
        name: &str,
        (host, port): (&str, u16),
        through: &[&str],
        options: &[&str],
        seal: Option<&Pair>,
    ) -> Peer {
        let mut peer = Peer {
            kind,
            host: host.to_owned(),
            port,
            options: ["--name", name]
                .iter()
                .chain(options)
                .map(|word| word.to_string())
                .collect(),
            through: through.iter().map(|word| word.to_string()).collect(),
            dir: Scratch::new(name),
            sealed: seal.is_some(),
            running: None,
        };
        if let Some(seal) = seal {
            peer.show(seal);
            for (option, file) in [("--cert", "tls.crt"), ("--key", "tls.key")] {
                let file = peer.dir.file(file).display().to_string();
                peer.options.extend([option.to_owned(), file]);
            }
        }
        peer.revive();
        peer
    }

    /// Shows another certificate from its next start on.
    pub fn show(&self, seal: &Pair) {
        seal.files(&self.dir, "tls");
    }

    pub fn url(&self) -> String {
        self.url_at(&self.host)
    }

    /// Its URL under another name of its host.
    pub fn url_at(&self, host: &str) -> String {
        let scheme = if self.sealed { "wss" } else { "ws" };
        format!("{scheme}://{host}:{}", self.port)
    }

    pub fn log(&self) -> PathBuf {
        self.dir.file("log")
    }

    /// Starts it on its port; its log goes on.
    pub fn revive(&mut self) {
        assert!(self.running.is_none());
        if self.log().exists() {
            cut_torn(&self.log());
        }
        let program = self.kind.program("server");
        let mut words = self
            .through
            .iter()
            .map(Into::into)
            .collect::<Vec<std::ffi::OsString>>();
        words.push(program.get_program().to_owned());
        words.extend(program.get_args().map(ToOwned::to_owned));
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .args([
                "--host",
                &self.host,
                "--port",
                &self.port.to_string(),
                "--log",
            ])
            .arg(self.log())
            .args(&self.options)
            // A server whose test has died reads the end of its commands and ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(self.dir.file("stderr")).unwrap())
            .spawn()
            .expect("the peers are installed by scripts/setup-tests");
        let commands = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let mut port = String::new();
        answers.read_line(&mut port).unwrap();
        assert_eq!(port.trim(), self.port.to_string(), "{}", self.complaint());
        self.running = Some(Running {
            child,
            commands,
            answers,
        });
    }

    fn complaint(&self) -> String {
        std::fs::read_to_string(self.dir.file("stderr")).unwrap_or_default()
    }

    /// Gives a command and waits until it is done. The process must not be stopped.
    pub fn command(&mut self, line: &str) -> Value {
        let running = self.running.as_mut().expect("the server runs");
        writeln!(running.commands, "{line}").unwrap();
        let mut answer = String::new();
        running.answers.read_line(&mut answer).unwrap();
        let why = self.complaint();
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{line}: {answer:?} {why}"))
    }

    /// Messages logged since the process was started.
    pub fn messages(&mut self) -> u64 {
        self.command("count")["messages"].as_u64().unwrap()
    }

    /// Connections open now.
    pub fn live(&mut self) -> u64 {
        self.command("count")["live"].as_u64().unwrap()
    }

    pub fn wait_messages(&mut self, count: u64) {
        until(SOON, &format!("{count} messages at {}", self.url()), || {
            (self.messages() >= count).then_some(())
        });
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut running = self.running.take().expect("the server runs");
        running.child.kill().unwrap();
        running.child.wait().unwrap();
    }

    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("the server runs");
        kill_process(Pid::from_child(&running.child), signal).unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process, too.
        if self.running.is_some() {
            self.kill();
        }
    }
}
