//! The chats of `examples/`, behind the bridge, with three clients. Each runs where its interpreter is.

use crate::bridge::bridge_to;
use crate::support::frames::{CLOSE, Frame, TEXT};
use crate::support::proxy::Proxy;
use crate::support::raw::Raw;
use crate::support::{free_port, root, until_true};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(10);

/// Ends with its test.
struct Api(Child);

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An API of `examples/`, and the proxy before it.
struct Chat {
    api: Api,
    proxy: Proxy,
    host: String,
    arguments: Vec<String>,
    program: &'static str,
    state: PathBuf,
}

impl Chat {
    /// `None` where the interpreter is not there.
    fn start(program: &'static str, arguments: &[&str]) -> Option<Chat> {
        if Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_err()
        {
            println!("no {program} here: not tried");
            return None;
        }
        let port = free_port();
        let host = format!("127.0.0.1:{port}");
        let proxy = bridge_to(vec![format!("http://{host}/")], json!({ "loops": 2 }));
        let state = std::env::temp_dir().join(format!("wsteady-chat-{port}.json"));
        let port = port.to_string();
        let arguments = arguments
            .iter()
            .map(|word| word.replace("HOST", &host).replace("PORT", &port));
        let arguments: Vec<String> = arguments.collect();
        let api = begin(program, &arguments, &proxy, &state, &host);
        Some(Chat {
            api,
            proxy,
            host,
            arguments,
            program,
            state,
        })
    }

    /// Ends the API.
    fn kill(&mut self) {
        let _ = self.api.0.kill();
        let _ = self.api.0.wait();
    }

    /// Starts it again, where it was.
    fn revive(&mut self) {
        self.api = begin(
            self.program,
            &self.arguments,
            &self.proxy,
            &self.state,
            &self.host,
        );
    }

    fn finish(self) {
        self.proxy.finish();
        drop(self.api);
        let _ = std::fs::remove_file(self.state);
    }
}

fn begin(program: &str, arguments: &[String], proxy: &Proxy, state: &Path, host: &str) -> Api {
    let api = Command::new(program)
        .args(arguments)
        .current_dir(root().join("examples/chat"))
        .env("WSTEADY", format!("http://{}", proxy.address))
        .env("CHAT_STATE", state)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let api = Api(api);
    until_true(WAIT, "the API to listen", || {
        TcpStream::connect(host).is_ok()
    });
    api
}

fn chat(program: &'static str, arguments: &[&str]) {
    let Some(chat) = Chat::start(program, arguments) else {
        return;
    };
    let proxy = &chat.proxy;
    let mut clients: Vec<Raw> = ["anna", "bob", "cleo"]
        .iter()
        .map(|name| Raw::open(proxy.address, &format!("/{name}"), ""))
        .collect();
    for (speaker, name) in ["anna", "bob", "cleo"].iter().enumerate() {
        for word in ["hello", "\u{1f980} again"] {
            clients[speaker].send_frame(&Frame::masked(TEXT, word.as_bytes()));
            for (listener, client) in clients.iter_mut().enumerate() {
                if listener != speaker {
                    let heard = client.frame(WAIT);
                    let want = format!("{name}: {word}");
                    assert_eq!(heard, Frame::new(TEXT, want.as_bytes()), "{program}");
                }
            }
        }
    }
    // Who has left is told nothing more, and disturbs nobody.
    let gone = clients.pop().expect("three");
    drop(gone);
    std::thread::sleep(Duration::from_millis(300));
    clients[0].send_frame(&Frame::masked(TEXT, b"who is left?"));
    assert_eq!(
        clients[1].frame(WAIT),
        Frame::new(TEXT, b"anna: who is left?")
    );
    for mut client in clients {
        client.send_frame(&Frame::masked(CLOSE, &1000u16.to_be_bytes()));
        assert_eq!(client.close_code(WAIT), 1000);
    }
    chat.finish();
}

/// What a person would try, in three browsers.
#[test]
fn three_browsers_chat_and_the_api_restarts() {
    let Some(mut chat) = Chat::start("php", &["-S", "HOST", "chat.php"]) else {
        return;
    };
    let page = format!(
        "file://{}?at={}",
        root().join("examples/chat/chat.html").display(),
        chat.proxy.address
    );
    let mut windows = Windows::open(3, &page);
    for (number, name) in ["anna", "bob", "cleo"].iter().enumerate() {
        windows.tell(&format!("join {number} {name}"));
        windows.tell(&format!("see {number} (you are here)"));
    }
    windows.tell("say 0 hello <b>all</b>");
    for listener in 1..3 {
        windows.tell(&format!("see {listener} anna: hello <b>all</b>"));
    }
    chat.kill();
    windows.tell("say 1 is anybody there?");
    windows.tell("see 1 bob: is anybody there?");
    chat.revive();
    for listener in [0, 2] {
        windows.tell(&format!("see {listener} bob: is anybody there?"));
    }
    windows.tell("say 2 always \u{1f980}");
    for listener in 0..2 {
        windows.tell(&format!("see {listener} cleo: always \u{1f980}"));
    }
    drop(windows);
    chat.finish();
}

/// Browsers that do as they are told (`tests/peers/browsers.py`).
struct Windows {
    program: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Windows {
    fn open(count: usize, page: &str) -> Windows {
        let mut program = Command::new(root().join(".venv/bin/python"))
            .arg(root().join("tests/peers/browsers.py"))
            .args([&count.to_string(), page])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/setup-tests installs .venv");
        Windows {
            orders: program.stdin.take(),
            answers: BufReader::new(program.stdout.take().expect("piped")),
            program,
        }
    }

    fn tell(&mut self, order: &str) {
        let mut orders = self.orders.as_ref().expect("open");
        writeln!(orders, "{order}").expect("the browsers are there");
        let mut answer = String::new();
        let _ = self.answers.read_line(&mut answer);
        assert_eq!(answer, "ok\n", "{order}");
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        // It closes its browsers when there are no more orders.
        self.orders = None;
        let _ = self.program.wait();
    }
}

#[test]
fn the_chat_in_python() {
    chat("python3", &["chat.py", "PORT"]);
}

#[test]
fn the_chat_in_node() {
    chat("node", &["chat.mjs", "PORT"]);
}

#[test]
fn the_chat_in_php() {
    chat("php", &["-S", "HOST", "chat.php"]);
}
