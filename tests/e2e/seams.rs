//! The seams of the architecture, each with a program on it: `examples/unix.rs` is a shard on another
//! kernel, `examples/session.rs` a session without any.

use crate::support::example::{NAMES, example};
use crate::support::{SOON, Scratch, root, until, until_true};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use tungstenite::{Message, WebSocket};

/// A process that ends with its test.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Process {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Process(child.expect("it is built, or installed by scripts/setup-tests"))
    }

    fn output(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.0.stdout.take().expect("a pipe"))
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Echoes each message behind its name.
const SERVER: &str = r#"
import asyncio, sys
from websockets.asyncio.server import unix_serve

async def serve():
    async def echo(socket):
        async for message in socket:
            await socket.send(sys.argv[2] + " " + message)
    async with unix_serve(echo, sys.argv[1]):
        print("up", flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(serve())
"#;

fn server(path: &Path, name: &str) -> Process {
    let mut server = Process::start(
        Command::new(root().join(".venv/bin/python"))
            .args(["-c", SERVER])
            .args([path.as_os_str(), name.as_ref()]),
    );
    let mut line = String::new();
    server.output().read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    server
}

/// A client's words, and who has answered what.
struct Talk {
    socket: WebSocket<UnixStream>,
    heard: Vec<(String, u32)>,
}

impl Talk {
    fn begin(path: &Path) -> Talk {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let (socket, _) = tungstenite::client("ws://chat.test/room/7", stream).unwrap();
        let heard = Vec::new();
        Talk { socket, heard }
    }

    fn say(&mut self, number: u32) {
        let message = Message::text(number.to_string());
        self.socket.send(message).unwrap();
    }

    /// Reads until this one was answered.
    fn hear(&mut self, number: u32) {
        while self.heard.last().is_none_or(|(_, last)| *last != number) {
            let answer = self.socket.read().expect("an answer");
            if let Message::Text(text) = answer {
                let (name, number) = text.split_once(' ').expect("a name");
                self.heard.push((name.to_owned(), number.parse().unwrap()));
            }
        }
    }
}

#[test]
fn over_unix_sockets_a_session_outlives_its_server() {
    let dir = Scratch::new("unix");
    let front = dir.file("front");
    let names = ["a", "b"];
    let paths: Vec<PathBuf> = names.iter().map(|name| dir.file(name)).collect();
    let mut servers: Vec<Process> = paths
        .iter()
        .zip(names)
        .map(|(path, name)| server(path, name))
        .collect();
    let mut program = Process::start(Command::new(example("unix")).arg(&front).args(&paths));
    let mut lines = program.output().lines().map(Result::unwrap);
    let mut line = move || lines.next().expect("another line");
    assert_eq!(line(), format!("listening on {}", front.display()));

    let mut talks: Vec<Talk> = (0..4).map(|_| Talk::begin(&front)).collect();
    for number in 1..=50 {
        talks.iter_mut().for_each(|talk| talk.say(number));
    }
    talks.iter_mut().for_each(|talk| talk.hear(50));
    // One server dies while more is said: its sessions go on at the other one.
    servers[0].kill();
    for number in 51..=100 {
        talks.iter_mut().for_each(|talk| talk.say(number));
    }
    talks.iter_mut().for_each(|talk| talk.hear(100));
    let mut moved = 0;
    for talk in &talks {
        assert_eq!(talk.heard.last().unwrap().0, "b");
        let mut answered = 0;
        for (_, number) in &talk.heard {
            assert!(*number <= answered + 1, "{:?}", talk.heard);
            answered = answered.max(*number);
        }
        moved += usize::from(talk.heard.iter().any(|(name, _)| name == "a"));
    }
    assert_eq!(moved, 2, "they were shared out");
    let told: Vec<String> = (0..2 * moved).map(|_| line()).collect();
    let count = |words: &str| told.iter().filter(|line| line.contains(words)).count();
    assert_eq!(count("has lost its server"), moved, "{told:?}");
    assert_eq!(count("goes on"), moved, "{told:?}");

    // The end of its input: it drains, and leaves no file.
    drop(program.0.stdin.take());
    for talk in &mut talks {
        let close = until(SOON, "a Close", || match talk.socket.read() {
            Ok(Message::Close(close)) => Some(close.expect("a code")),
            _ => None,
        });
        assert_eq!(u16::from(close.code), 1001);
        let _ = talk.socket.flush();
    }
    assert_eq!(line(), "stopped");
    until_true(SOON, "its end", || program.0.try_wait().unwrap().is_some());
    assert!(!front.exists());
}

#[test]
fn a_large_message_passes_through_a_slow_unix_socket_whole() {
    let dir = Scratch::new("unix-large");
    let (front, path) = (dir.file("front"), dir.file("a"));
    let _server = server(&path, "a");
    let mut program = Process::start(Command::new(example("unix")).arg(&front).arg(&path));
    let mut line = String::new();
    program.output().read_line(&mut line).unwrap();
    let mut talk = Talk::begin(&front);
    // More than all buffers of the kernel, so that reads and writes have to wait for each other.
    let large = "x".repeat(900_000);
    for _ in 0..4 {
        talk.socket.send(Message::text(large.clone())).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let answer = talk.socket.read().unwrap().into_text().unwrap();
        assert_eq!(answer.len(), 2 + large.len());
    }
}

/// The tutorial ends as it promises, and says the same each time.
#[test]
fn a_session_is_moved_by_hand() {
    let told = || {
        let mut program = Process::start(&mut Command::new(example("session")));
        let mut text = String::new();
        program.output().read_to_string(&mut text).unwrap();
        assert!(program.0.wait().unwrap().success(), "{text}");
        text
    };
    let text = told();
    assert_eq!(text, told());
    let page = std::fs::read_to_string(root().join("docs/embedding.md")).unwrap();
    let (_, shown) = page.split_once("```text\n").expect("what it prints");
    let (shown, _) = shown.split_once("```").expect("a block ends");
    assert!(
        text.contains(shown),
        "the page shows {shown}; printed is {text}"
    );
    assert!(text.ends_with("4 messages, 4 confirmed, 0 bytes in the journal\n"));
}

/// The page says nothing that the examples do not do.
#[test]
fn the_code_of_the_page_is_that_of_the_examples() {
    let read = |file: String| std::fs::read_to_string(root().join(file)).unwrap();
    let examples = NAMES.map(|name| read(format!("examples/{name}.rs")));
    let lines: Vec<&str> = examples
        .iter()
        .flat_map(|text| text.lines().map(str::trim))
        .collect();
    let page = read("docs/embedding.md".to_owned());
    let mut blocks = 0;
    for block in page.split("```rust\n").skip(1) {
        let (code, _) = block.split_once("```").expect("a block ends");
        blocks += 1;
        for line in code.lines().map(str::trim) {
            assert!(lines.contains(&line), "in no example: {line}");
        }
    }
    assert!(blocks >= 5, "{blocks} blocks");
    for name in NAMES {
        assert!(page.contains(&format!("examples/{name}.rs")), "{name}");
    }
}

/// Who begins wants to read it in one go.
#[test]
fn the_first_examples_are_short() {
    for (name, lines) in [("embed", 60), ("redact", 60), ("redis", 300)] {
        let file = root().join("examples").join(name).with_extension("rs");
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.lines().count() < lines, "{name}");
    }
}
