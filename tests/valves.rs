//! Verdicts of valves, and valves that do what they must not, in proxies inside this process. A test
//! binary of its own, since some of its valves panic and sleep on purpose.

#[allow(dead_code)]
#[path = "e2e/support/mod.rs"]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::api::{Api, Reply};
use support::frames::{BINARY, CLOSE, CONTINUE, Frame, TEXT};
use support::raw::{Origin, Raw, echo_origin, handshake};
use support::{SOON, turn, until_true};
use wsteady::{Arrival, Config, Direction, Happened, Message, Proxy, Valve, Verdict, Wants};

fn quiet(mut config: Config) -> Config {
    config.listen[0].address = "127.0.0.1:0".parse().unwrap();
    config.admin.address = "127.0.0.1:0".parse().unwrap();
    // One loop: whoever harms it would harm all.
    config.loops = wsteady::control::config::Loops::Count(1);
    config
}

/// A proxy in this process whose valve is `make`'s.
fn proxy<F>(url: String, make: F) -> Proxy
where
    F: Fn(&Arrival<'_>) -> Option<Box<dyn Valve>> + Send + Sync + 'static,
{
    let config = quiet(Config::with_backends(&[url]).unwrap());
    Proxy::builder(config)
        .valve("default", make)
        .start()
        .unwrap()
}

/// What text commands: the word before the colon says what is done with the rest.
fn obey(message: &Message<'_>) -> Verdict {
    let text = std::str::from_utf8(message.payload).unwrap_or_default();
    let up = message.direction == Direction::Up;
    let (order, rest) = text.split_once(':').unwrap_or_default();
    match order {
        "drop" => Verdict::Drop,
        "change" if up => Verdict::Change(format!("changed {rest}").into_bytes()),
        "answer" if up => Verdict::Answer {
            text: false,
            payload: rest.into(),
        },
        "ask" if !up => Verdict::Answer {
            text: true,
            payload: format!("asked:{rest}").into_bytes(),
        },
        "close" => Verdict::Close(4001, rest.to_string()),
        "panic" => panic!("as it was told: {rest}"),
        "sleep" => {
            std::thread::sleep(Duration::from_millis(1_200));
            Verdict::Pass
        }
        "bad" => Verdict::Change(vec![0xff]),
        _ => Verdict::Pass,
    }
}

fn say(raw: &mut Raw, text: &str) {
    raw.send_frame(&Frame::masked(TEXT, text.as_bytes()));
}

fn hear(raw: &mut Raw) -> (u8, String) {
    let frame = raw.frame(SOON);
    (
        frame.opcode,
        String::from_utf8_lossy(&frame.payload).into_owned(),
    )
}

#[test]
fn verdicts_are_done_and_a_failure_ends_its_own_session_alone() {
    let _turn = turn();
    let server = echo_origin();
    let told = Arc::<Mutex<Vec<Happened>>>::default();
    let theirs = told.clone();
    let config = quiet(Config::with_backends(&[server.url()]).unwrap());
    let proxy = Proxy::builder(config)
        .valve("default", |_| Some(Box::new(obey)))
        .watch(move |notice| theirs.lock().unwrap().push(notice.what.clone()))
        .watch(|_| panic!("a watcher that panics"))
        .start()
        .unwrap();
    let address = proxy.listen_addresses()[0];
    let mut other = Raw::open(address, "/", "");
    let mut raw = Raw::open(address, "/", "");
    let text = |text: &str| (TEXT, text.to_string());
    for (said, heard) in [
        ("plain", text("plain")),
        ("change:it", text("changed it")),
        ("answer:no", (BINARY, "no".to_string())),
        // The echo's own message is answered to it, and it echoes that.
        ("ask:why", text("asked:why")),
    ] {
        say(&mut raw, said);
        assert_eq!(hear(&mut raw), heard, "{said}");
    }
    // In pieces, with a Ping between; then one that is dropped, and one behind it.
    raw.send_frame(&Frame::masked(TEXT, b"cha").unfinished());
    raw.send_frame(&Frame::masked(CONTINUE, b"nge:").unfinished());
    raw.send_frame(&Frame::masked(9, b"ping"));
    raw.send_frame(&Frame::masked(CONTINUE, b"pieces"));
    say(&mut raw, "drop:this");
    say(&mut raw, "last");
    assert_eq!(hear(&mut raw), text("changed pieces"));
    assert_eq!(hear(&mut raw), text("last"));
    for (said, code, reason) in [
        ("close:enough", 4001, "enough"),
        ("panic:now", 1011, "valve failed"),
        ("sleep:long", 1011, "valve failed"),
        ("bad:text", 1011, "valve failed"),
    ] {
        let mut raw = Raw::open(address, "/", "");
        say(&mut raw, "before");
        assert_eq!(hear(&mut raw), text("before"), "{said}");
        say(&mut raw, said);
        say(&mut raw, "behind");
        let close = raw.frame(SOON);
        assert_eq!(close.opcode, CLOSE, "{said}");
        assert_eq!(close.close_code(), (code, reason.to_string()), "{said}");
        raw.send_frame(&Frame::masked(CLOSE, &code.to_be_bytes()));
        raw.end(SOON);
        say(&mut other, "still here");
        assert_eq!(hear(&mut other), text("still here"), "beside {said}");
    }
    until_true(SOON, "all confirmed", || {
        proxy.handle().totals().unwrap().journaled == 0
    });
    proxy.stop(Duration::from_millis(300));
    let told = told.lock().unwrap();
    let ended = |wanted: &str| {
        let is = |one: &&Happened| matches!(one, Happened::Ended { reason, unconfirmed: 0 } if *reason == wanted);
        told.iter().filter(is).count()
    };
    assert_eq!((ended("valve"), ended("valve_failed")), (1, 3), "{told:?}");
    assert_eq!(ended("shutdown"), 2, "{told:?}");
}

#[test]
fn a_message_too_long_for_its_valves_and_valves_that_are_not_made() {
    let _turn = turn();
    let server = echo_origin();
    let mut config = quiet(Config::with_backends(&[server.url()]).unwrap());
    config.limits.message = 1_000;
    let proxy = Proxy::builder(config)
        .valve_everywhere(|session| {
            assert_ne!(session.header("x-bad"), Some(&b"1"[..]), "as it was told");
            let wants = session.target() == "/valve";
            wants.then(|| Box::new(Doubles) as Box<dyn Valve>)
        })
        .start()
        .unwrap();
    let address = proxy.listen_addresses()[0];
    let code = |path: &str, length: usize| {
        let mut raw = Raw::open(address, path, "");
        say(&mut raw, &"x".repeat(length));
        let frame = raw.frame(SOON);
        (frame.opcode == CLOSE).then(|| frame.close_code().0)
    };
    assert_eq!((code("/", 1_000), code("/", 1_001)), (None, Some(1009)));
    assert_eq!(
        (code("/valve", 500), code("/valve", 501)),
        (None, Some(1011))
    );
    let mut raw = Raw::open(address, "/", "X-Bad: 1\r\n");
    assert_eq!(raw.close_code(SOON), 1011);
    proxy.stop(Duration::ZERO);
}

struct Doubles;

impl Valve for Doubles {
    fn wants(&self) -> Wants {
        Wants::DOWN
    }

    fn on(&mut self, message: &Message<'_>) -> Verdict {
        Verdict::Change(message.payload.repeat(2))
    }
}

#[test]
fn an_answer_waits_for_the_end_of_a_message_that_streams() {
    let _turn = turn();
    // A message of 200 KiB, longer than `session.atomic`: its second half waits for a word.
    let origin = Origin::bind();
    let url = origin.url();
    let up = |_: &Arrival<'_>| Some(Box::new(UpOnly) as Box<dyn Valve>);
    let proxy = proxy(url, up);
    let mut raw = Raw::connect(proxy.listen_addresses()[0]);
    raw.send(handshake("/", "").as_bytes());
    let (mut server, _) = origin.adopt("");
    assert_eq!(raw.head(SOON).status(), 101);
    let half = vec![b'h'; 100 << 10];
    server.send_frame(&Frame::new(BINARY, &half).unfinished());
    assert_eq!(raw.frame(SOON).payload, half);
    say(&mut raw, "answer:now");
    say(&mut raw, "go");
    assert_eq!(hear(&mut server), (TEXT, "go".to_string()));
    server.send_frame(&Frame::new(CONTINUE, &half));
    let rest = raw.frame(SOON);
    assert_eq!((rest.opcode, rest.payload), (CONTINUE, half));
    assert_eq!(hear(&mut raw), (BINARY, "now".to_string()));
    drop((raw, server));
    proxy.stop(Duration::ZERO);
}

struct UpOnly;

impl Valve for UpOnly {
    fn wants(&self) -> Wants {
        Wants::UP
    }

    fn on(&mut self, message: &Message<'_>) -> Verdict {
        obey(message)
    }
}

#[test]
fn on_a_bridge_calls_answers_and_pushes_pass_valves() {
    let _turn = turn();
    let api = Api::welcome(|call| match call.text().as_str() {
        "give" => Reply::text("drop:nothing"),
        "question" => Reply::text("ask:again"),
        _ => Reply::text(format!("heard {}", call.text())),
    });
    let config = quiet(Config::with_apis(&[api.url()]).unwrap());
    let proxy = Proxy::builder(config)
        .valve("api", |session| {
            assert_eq!(session.target(), "/anna");
            Some(Box::new(obey))
        })
        .start()
        .unwrap();
    let address = proxy.listen_addresses()[0];
    let mut raw = Raw::open(address, "/anna", "");
    for said in ["drop:x", "give", "question", "change:y", "answer:z", "end"] {
        say(&mut raw, said);
    }
    let heard: Vec<String> = (0..4).map(|_| hear(&mut raw).1).collect();
    let mut sorted = heard.clone();
    sorted.sort();
    let wanted = ["heard asked:again", "heard changed y", "heard end", "z"];
    assert_eq!(sorted, wanted, "{heard:?}");
    let posts: Vec<String> = api
        .calls_by("POST")
        .iter()
        .map(|call| call.text())
        .collect();
    let mut sorted = posts.clone();
    sorted.sort();
    let wanted = ["asked:again", "changed y", "end", "give", "question"];
    assert_eq!(sorted, wanted, "{posts:?}");
    let mut pushing = Raw::connect(address);
    let push = |body: &str| {
        format!(
            "POST /anna HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    for body in ["drop:a", "plain b"] {
        pushing.send(push(body).as_bytes());
        let head = pushing.head(SOON);
        assert_eq!(head.status(), 200);
        assert_eq!(pushing.body(&head, SOON), b"ok");
    }
    assert_eq!(hear(&mut raw).1, "plain b");
    drop((raw, pushing));
    proxy.stop(Duration::from_millis(200));
}
