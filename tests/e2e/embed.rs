//! `examples/embed.rs`: a proxy inside another program. What its handle says is what is true.

use crate::support::client::{Crowd, Habit};
use crate::support::frames::{CLOSE, Frame};
use crate::support::ledger::Checker;
use crate::support::peer::{Kind, Peer};
use crate::support::raw::{Raw, echo_origin};
use crate::support::{SOON, root, until, until_true};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

const CLIENTS: u32 = 30;

/// Sessions leave a server when they are clean, and a busy machine takes its time.
const EMPTY: Duration = Duration::from_secs(30);

/// The example, running.
struct Program {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    address: SocketAddr,
}

/// A server as the program prints it.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    id: String,
    sessions: u32,
}

impl Program {
    fn start(urls: &[String]) -> Program {
        let mut child = Command::new(example())
            .args(urls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example is built");
        let mut answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ");
        Program {
            orders: child.stdin.take(),
            child,
            answers,
            address: address.and_then(|text| text.parse().ok()).expect(&line),
        }
    }

    /// What it prints to an order, or why it refuses.
    fn order(&mut self, order: &str) -> Result<String, String> {
        let orders = self.orders.as_mut().expect("not stopped");
        writeln!(orders, "{order}").unwrap();
        let mut answer = String::new();
        loop {
            let mut line = String::new();
            let length = self.answers.read_line(&mut line).unwrap();
            assert!(length > 0, "it ended at {order}: {answer}");
            if line == "ok\n" {
                return Ok(answer);
            }
            if let Some(why) = line.strip_prefix("refused: ") {
                return Err(why.trim_end().to_owned());
            }
            answer.push_str(&line);
        }
    }

    fn servers(&mut self) -> Vec<Listed> {
        let text = self.order("servers").unwrap();
        let field = |line: &str, name: &str| {
            let value = line.trim().strip_prefix(name)?.strip_prefix(": ")?;
            Some(value.trim_end_matches(',').trim_matches('"').to_owned())
        };
        let mut servers = Vec::new();
        for line in text.lines() {
            if let Some(id) = field(line, "id") {
                servers.push(Listed { id, sessions: 0 });
            } else if let Some(sessions) = field(line, "sessions") {
                servers.last_mut().expect("an id stands before").sessions =
                    sessions.parse().unwrap();
            }
        }
        servers
    }

    fn sessions_of(&mut self, id: &str) -> u32 {
        let servers = self.servers();
        let server = servers.iter().find(|server| server.id == id);
        server.expect("it is listed").sessions
    }

    /// Sessions that are listed, one a line.
    fn sessions(&mut self) -> Vec<String> {
        let text = self.order("sessions").unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn total(&mut self, name: &str) -> u64 {
        let text = self.order("totals").unwrap();
        let (_, value) = text.split_once(&format!(" {name}: ")).expect(&text);
        let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }

    /// The end of its input: it drains, says so and ends with 0.
    fn finish(mut self) {
        drop(self.orders.take());
        let code = until(SOON, "the program to end", || {
            self.child.try_wait().unwrap()
        });
        let mut last = String::new();
        self.answers.read_line(&mut last).unwrap();
        assert_eq!((&*last, code.code()), ("stopped\n", Some(0)));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The example's program. `cargo test` builds it; `cargo test --test e2e` does not.
fn example() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).expect("target/debug/deps/e2e");
        let program = profile.join("examples/embed");
        let sources = newest(&root().join("src")).max(newest(&root().join("examples")));
        if changed(&program).is_none_or(|built| built < sources) {
            let release = profile.ends_with("release").then_some("--release");
            let built = Command::new(env!("CARGO"))
                .args(["build", "--quiet", "--offline", "--example", "embed"])
                .args(release)
                .arg("--target-dir")
                .arg(profile.parent().expect("target/debug"))
                .current_dir(root())
                .status();
            assert!(built.is_ok_and(|status| status.success()), "it builds");
        }
        program
    })
}

fn changed(file: &Path) -> Option<SystemTime> {
    file.metadata().and_then(|data| data.modified()).ok()
}

/// When the last of the files below was changed.
fn newest(folder: &Path) -> SystemTime {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let times = entries.filter_map(|entry| match entry.path() {
        path if path.is_dir() => Some(newest(&path)),
        path => changed(&path),
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

#[test]
fn a_server_comes_another_goes_and_a_third_is_left_and_nothing_is_lost() {
    let mut peers: Vec<Peer> = ["b1", "b2", "b3"]
        .map(|name| Peer::start(Kind::Python, name, &[]))
        .into();
    let mut program = Program::start(&[peers[0].url(), peers[1].url()]);
    let habit = Habit {
        every: Duration::from_millis(50),
        ahead: 8,
        ..Habit::default()
    };
    let crowd = Crowd::start(program.address, CLIENTS, &habit);
    crowd.send_more(200);
    assert_eq!(program.sessions().len(), CLIENTS as usize);
    assert_eq!(program.total("live"), u64::from(CLIENTS));
    assert!(program.total("messages_up") >= 100, "most have come");
    let first = program.servers();
    assert_eq!(first.len(), 2);
    assert_eq!(first[0].sessions + first[1].sessions, CLIENTS, "{first:?}");

    // One comes, and gets what another is relieved of.
    let added = program.order(&format!("add {}", peers[2].url())).unwrap();
    let third = added.trim().trim_matches(['[', ']', '"']).to_owned();
    assert_eq!(program.servers()[2].id, third);
    program.order(&format!("remove {}", first[0].id)).unwrap();
    let left = program.servers();
    let ids: Vec<&str> = left.iter().map(|server| &*server.id).collect();
    assert_eq!(ids, [&first[1].id, &third]);
    until_true(EMPTY, "all sessions at the two others", || {
        program
            .servers()
            .iter()
            .map(|one| one.sessions)
            .sum::<u32>()
            == CLIENTS
    });
    until_true(EMPTY, "an empty server", || peers[0].live() == 0);
    peers[0].kill();
    assert!(program.sessions_of(&third) > 0 && peers[2].live() > 0);
    crowd.send_more(200);

    // The second is left, too: all are at the one that came.
    program.order(&format!("drain {}", first[1].id)).unwrap();
    until_true(EMPTY, "all sessions at the third", || {
        program.sessions_of(&third) == CLIENTS
    });
    let named = format!("server: Some({third:?})");
    let sessions = program.sessions();
    let there = sessions.iter().filter(|line| line.contains(&named));
    assert_eq!(there.count(), CLIENTS as usize, "{sessions:?}");
    assert_eq!(u64::from(CLIENTS), peers[2].live());
    crowd.send_more(200);

    // What it has counted is what the clients and the servers know.
    crowd.hush();
    std::thread::sleep(Duration::from_millis(300));
    until_true(EMPTY, "all messages confirmed", || {
        program.total("journaled") == 0
    });
    let run = crowd.run;
    let histories = crowd.leave();
    let accepted: u64 = histories.iter().map(|one| one.accepted).sum();
    assert_eq!(program.total("messages_up"), accepted);
    assert_eq!(program.total("confirmed"), accepted);
    assert!(
        program.total("failovers") >= u64::from(CLIENTS),
        "each moved"
    );
    let replayed = program.total("replayed");
    until_true(SOON, "all to be forgotten", || program.total("live") == 0);
    assert_eq!(program.total("closed"), program.total("opened"));
    assert!(program.sessions().is_empty());
    program.finish();
    for history in &histories {
        assert_eq!(history.closed, None, "session {}", history.session);
    }
    let mut checker = Checker::new(run);
    for peer in &mut peers {
        if peer.is_running() {
            peer.kill();
        }
        checker.read(&peer.log());
    }
    checker
        .judge(&histories, Vec::new(), replayed)
        .must_be_clean();
}

#[test]
fn its_end_closes_each_session_with_1001() {
    let (one, other) = (echo_origin(), echo_origin());
    let program = Program::start(&[one.url(), other.url()]);
    let clients: Vec<Raw> = (0..6)
        .map(|_| Raw::open(program.address, "/", ""))
        .collect();
    let closing = std::thread::spawn(move || {
        clients.into_iter().for_each(|mut client| {
            assert_eq!(client.close_code(SOON), 1001);
            client.send_frame(&Frame::masked(CLOSE, &1001u16.to_be_bytes()));
            client.end(SOON);
        });
    });
    program.finish();
    closing.join().unwrap();
}

#[test]
fn what_is_refused_says_why() {
    let mut program = Program::start(&[echo_origin().url(), echo_origin().url()]);
    let ids = program.servers();
    let missing = format!("no server \"zz\"; there is {}, {}", ids[0].id, ids[1].id);
    for order in ["remove zz", "drain zz", "move zz"] {
        assert_eq!(program.order(order).as_ref(), Err(&missing));
    }
    let why = program.order("add http://10.0.0.1:9").unwrap_err();
    assert!(why.contains("write ws://"), "{why}");
    assert!(program.order("help").unwrap().starts_with("add URL, "));
    assert_eq!(program.servers(), ids);
    program.finish();
}

/// The page says nothing that the example does not do.
#[test]
fn the_code_of_the_page_is_the_example() {
    let example = std::fs::read_to_string(root().join("examples/embed.rs")).unwrap();
    let example: Vec<&str> = example.lines().map(str::trim).collect();
    let page = std::fs::read_to_string(root().join("docs/embedding.md")).unwrap();
    let mut blocks = 0;
    for block in page.split("```rust\n").skip(1) {
        let (code, _) = block.split_once("```").expect("a block ends");
        blocks += 1;
        for line in code.lines().map(str::trim) {
            assert!(example.contains(&line), "not in examples/embed.rs: {line}");
        }
    }
    assert!(blocks >= 2, "{blocks} blocks");
}
