//! `examples/embed.rs`: a proxy inside another program. What its handle says is what is true.

use crate::support::api::Api;
use crate::support::client::{Crowd, Habit};
use crate::support::example::example;
use crate::support::frames::{BINARY, CLOSE, Frame, TEXT};
use crate::support::ledger::Checker;
use crate::support::peer::{Kind, Peer};
use crate::support::raw::{Raw, echo_origin};
use crate::support::{SOON, free_port, until, until_true};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use wsteady::control::config::Loops;
use wsteady::{Config, Proxy, Refusal};

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
        let mut child = Command::new(example("embed"))
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
    for order in [
        "remove zz",
        "drain zz",
        "move zz",
        "reset zz",
        "weight zz 1",
    ] {
        assert_eq!(program.order(order).as_ref(), Err(&missing));
    }
    let missing = "no session \"zz\"".to_string();
    for order in ["session zz", "session zz move", "session zz close"] {
        assert_eq!(program.order(order).as_ref(), Err(&missing));
    }
    for weight in ["65536", "-1"] {
        let order = format!("weight {} {weight}", ids[0].id);
        program.order(&order).expect_err("no weight");
    }
    let why = program.order("add http://10.0.0.1:9").unwrap_err();
    assert!(why.contains("write ws://"), "{why}");
    assert!(program.order("help").unwrap().starts_with("add URL, "));
    assert_eq!(program.servers(), ids);
    program.finish();
}

#[test]
fn a_server_is_weighed_and_its_breaker_closed() {
    let (one, other) = (echo_origin(), echo_origin());
    let mut program = Program::start(&[one.url(), other.url()]);
    let ids = program.servers();
    program.order(&format!("weight {} 0", ids[0].id)).unwrap();
    let clients: Vec<Raw> = (0..4)
        .map(|_| Raw::open(program.address, "/", ""))
        .collect();
    assert_eq!(program.sessions_of(&ids[0].id), 0, "it takes none");
    assert_eq!(program.sessions_of(&ids[1].id), 4);
    drop(clients);

    // A server that has gone trips its breaker, and an order closes it.
    let gone = format!("ws://127.0.0.1:{}", free_port());
    let added = program.order(&format!("add {gone}")).unwrap();
    let id = added.trim().trim_matches(['[', ']', '"']).to_owned();
    let is_open = |program: &mut Program| {
        let text = program.order("servers").unwrap();
        let (_, of_it) = text.split_once(&format!("id: {id:?}")).expect(&text);
        of_it.contains("breaker_open: true")
    };
    until_true(SOON, "an open breaker", || {
        drop(Raw::open(program.address, "/", ""));
        is_open(&mut program)
    });
    program.order(&format!("reset {id}")).unwrap();
    until_true(SOON, "a closed breaker", || !is_open(&mut program));
    program.finish();
}

#[test]
fn one_session_is_looked_up_moved_and_closed() {
    let (one, other) = (echo_origin(), echo_origin());
    let mut program = Program::start(&[one.url(), other.url()]);
    let mut client = Raw::open(program.address, "/room/7", "");
    let mut bystander = Raw::open(program.address, "/", "");
    let listed = program.sessions();
    let listed = listed.iter().find(|line| line.contains("/room/7"));
    let (_, id) = listed.unwrap().split_once("id: \"").unwrap();
    let id = &id[..32];
    let server = |program: &mut Program| {
        let line = program.order(&format!("session {id}")).unwrap();
        assert!(line.contains("path: \"/room/7\""), "{line}");
        let (_, name) = line.split_once("server: Some(\"").expect(&line);
        name.split('"').next().unwrap().to_owned()
    };
    let before = server(&mut program);
    program.order(&format!("session {id} move")).unwrap();
    until_true(SOON, "another server", || server(&mut program) != before);
    client.send_frame(&Frame::masked(TEXT, b"there?"));
    assert_eq!(client.frame(SOON).payload, b"there?");

    program.order(&format!("session {id} close")).unwrap();
    assert_eq!(client.close_code(SOON), 1000);
    client.send_frame(&Frame::masked(CLOSE, &1000u16.to_be_bytes()));
    client.end(SOON);
    until_true(SOON, "the session to be forgotten", || {
        program.order(&format!("session {id}")).is_err()
    });
    bystander.send_frame(&Frame::masked(TEXT, b"I am"));
    assert_eq!(bystander.frame(SOON).payload, b"I am");
    drop(bystander);
    program.finish();
}

/// What a loop copies with the descriptor table at its start, it lets go of: the other side of what
/// the program closes hears of it while the proxy runs.
#[test]
fn what_the_program_closes_has_ended_while_the_proxy_runs() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = door.local_addr().unwrap();
    let mut visitor = TcpStream::connect(address).unwrap();
    let (guest, _) = door.accept().unwrap();

    let origin = echo_origin();
    let mut config = Config::with_backends(&[origin.url()]).unwrap();
    config.listen[0].address = "127.0.0.1:0".parse().unwrap();
    config.admin.address = "127.0.0.1:0".parse().unwrap();
    config.loops = Loops::Count(2);
    let proxy = Proxy::start(config).unwrap();
    drop((ours, writer, guest, door));

    theirs.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(theirs.read(&mut [0]).expect("a Unix socket's end"), 0);
    visitor.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(visitor.read(&mut [0]).expect("a connection's end"), 0);
    // A pipe knows no time-out.
    let end = std::thread::spawn(move || reader.read(&mut [0]).expect("a pipe's end"));
    until_true(SOON, "the pipe's end", || end.is_finished());
    assert_eq!(end.join().unwrap(), 0);
    until_true(SOON, "a listener that is closed", || {
        TcpStream::connect(address).is_err()
    });

    // The proxy does what it did.
    let mut client = Raw::open(proxy.listen_addresses()[0], "/", "");
    client.send_frame(&Frame::masked(TEXT, b"on"));
    assert_eq!(client.frame(SOON).payload, b"on");
    drop(client);
    proxy.stop(Duration::ZERO);
}

/// A handler writes to a pipe by its number, which is nothing of the kind in a loop's own table.
#[test]
fn signals_for_the_program_are_left_to_its_own_threads() {
    let mut program = Program::start(&[echo_origin().url()]);
    let tasks = format!("/proc/{}/task", program.child.id());
    // A thread that is just being made has all signals blocked, and no name of its own.
    until_true(SOON, "loops, and they alone, without signals", || {
        let mut loops = 0;
        let as_it_should = std::fs::read_dir(&tasks).unwrap().all(|task| {
            let Ok(status) = std::fs::read_to_string(task.unwrap().path().join("status")) else {
                return true;
            };
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.expect(&status).trim().to_owned()
            };
            let blocked = u64::from_str_radix(&field("SigBlk:"), 16).unwrap();
            let is_blocked = |signal: i32| blocked >> (signal - 1) & 1 == 1;
            let is_loop = field("Name:").starts_with("shard-");
            loops += usize::from(is_loop);
            let others = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD];
            let own = [libc::SIGPROF, libc::SIGSEGV, libc::SIGABRT];
            others.iter().all(|signal| is_blocked(*signal) == is_loop)
                && !own.iter().any(|signal| is_blocked(*signal))
        });
        as_it_should && loops > 0
    });
    program.order("totals").unwrap();
    program.finish();
}

#[test]
fn a_program_pushes_to_the_clients_of_its_bridge() {
    let api = Api::echo();
    let mut config = Config::with_apis(&[api.url()]).unwrap();
    config.listen[0].address = "127.0.0.1:0".parse().unwrap();
    config.admin.address = "127.0.0.1:0".parse().unwrap();
    config.loops = Loops::Count(2);
    let proxy = Proxy::start(config).unwrap();
    let (handle, address) = (proxy.handle(), proxy.listen_addresses()[0]);
    let names = ["red-1", "red-2", "blue-1"];
    let mut clients = names.map(|id| Raw::open(address, &format!("/{id}"), ""));
    let mut hear = |at: usize| {
        let frame = clients[at].frame(SOON);
        (frame.opcode, String::from_utf8(frame.payload).unwrap())
    };
    for (at, id) in names.iter().enumerate() {
        handle.push_text(id, &format!("for {id}")).unwrap();
        assert_eq!(hear(at), (TEXT, format!("for {id}")));
        handle.push_binary(id, b"bytes").unwrap();
        assert_eq!(hear(at), (BINARY, "bytes".to_string()));
    }
    let missing = handle.push_text("green-1", "?").unwrap_err().to_string();
    assert_eq!(missing, "\"green-1\" is not connected");
    assert_eq!(handle.broadcast_text("red-", "all").unwrap().clients, 2);
    assert_eq!(handle.broadcast_binary("", b"most").unwrap().clients, 3);
    for (at, id) in names.iter().enumerate() {
        if id.starts_with("red-") {
            assert_eq!(hear(at), (TEXT, "all".to_string()));
        }
        assert_eq!(hear(at), (BINARY, "most".to_string()));
    }
    drop(clients);
    proxy.stop(Duration::from_millis(200));
    assert_eq!(handle.push_text("red-1", "?"), Err(Refusal::Stopped));
}
