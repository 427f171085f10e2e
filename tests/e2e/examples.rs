//! The chats of `examples/`, behind the bridge, with three clients. Each runs where its interpreter is.

use crate::bridge::bridge_to;
use crate::support::frames::{CLOSE, Frame, TEXT};
use crate::support::free_port;
use crate::support::raw::Raw;
use crate::support::until_true;
use serde_json::json;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
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

fn chat(program: &str, arguments: &[&str]) {
    if Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_err()
    {
        return println!("no {program} here: not tried");
    }
    let port = free_port();
    let proxy = bridge_to(
        vec![format!("http://127.0.0.1:{port}/")],
        json!({ "loops": 2 }),
    );
    let state = std::env::temp_dir().join(format!("wsteady-chat-{port}.json"));
    let (host, port) = (format!("127.0.0.1:{port}"), port.to_string());
    let arguments = arguments
        .iter()
        .map(|word| word.replace("HOST", &host).replace("PORT", &port));
    let api = Command::new(program)
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/chat"))
        .env("WSTEADY", format!("http://{}", proxy.address))
        .env("CHAT_STATE", &state)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let api = Api(api);
    until_true(WAIT, "the API to listen", || {
        TcpStream::connect(&host).is_ok()
    });
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
    proxy.finish();
    drop(api);
    let _ = std::fs::remove_file(state);
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
