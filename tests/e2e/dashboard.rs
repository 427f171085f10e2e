//! The dashboard as a person uses it: in a browser, by keyboard, on a telephone, in an outage.

use crate::cli::Running;
use crate::support::client::{Crowd, Habit};
use crate::support::frames::{Frame, TEXT};
use crate::support::peer::{Kind, Peer};
use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, echo_origin};
use crate::support::window::Window;
use crate::support::{SOON, root, until_true};
use serde_json::{Value, json};
use std::time::Duration;

const DESK: (u32, u32) = (1280, 900);
const TELEPHONE: (u32, u32) = (360, 780);

/// A browser that starts cold on a busy machine.
const COLD: Duration = Duration::from_secs(30);

/// Clients that answer no Ping stay that long: browsers may start slowly.
fn patient() -> Value {
    json!({ "pools": { "main": { "timeouts": { "ping": "10m" } } } })
}

/// What an operator may wait for the sight of an outage.
const SEEN: Duration = Duration::from_secs(2);

const VERDICT: &str = "document.getElementById('verdict')";

fn base(proxy: &Proxy) -> String {
    format!("http://{}/", proxy.admin)
}

/// The dashboard, once it has numbers.
fn open(proxy: &Proxy, size: (u32, u32)) -> Window {
    let mut window = Window::open(&base(proxy), size);
    window.until(
        COLD,
        "document.querySelectorAll('#numbers dd').length >= 10",
    );
    window
}

/// A number of the page, by its name.
fn number(window: &mut Window, name: &str) -> f64 {
    let script = format!(
        "[...document.querySelectorAll('#numbers div')].find((one) => one.querySelector('dt').textContent \
         === {name:?}).querySelector('dd').firstChild.data"
    );
    let text = window.run(&script);
    let text = text.as_str().expect("a number").replace(',', "");
    text.parse().unwrap_or_else(|_| panic!("{name}: {text}"))
}

fn state_of(proxy: &Proxy, server: &str) -> String {
    let answer = proxy.admin("GET", &format!("/v1/servers/{server}"), None);
    answer.json()["state"]
        .as_str()
        .expect("a state")
        .to_string()
}

fn wait_state(proxy: &Proxy, server: &str, state: &str) {
    until_true(SOON, state, || state_of(proxy, server) == state);
}

#[test]
fn numbers_move_under_traffic_and_nothing_comes_from_elsewhere() {
    let servers = [echo_origin(), echo_origin()];
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    let proxy = Proxy::start(&urls, json!({}));
    let mut window = open(&proxy, DESK);
    assert_eq!(number(&mut window, "Sessions"), 0.0);
    assert!(
        window
            .text("#verdict-title")
            .starts_with("All well: 2 of 2")
    );
    let mut clients: Vec<Raw> = (0..3).map(|_| Raw::open(proxy.address, "/", "")).collect();
    for _ in 0..40 {
        for client in &mut clients {
            client.send_frame(&Frame::masked(TEXT, b"hello"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(number(&mut window, "Sessions"), 3.0);
    let lines = "document.querySelectorAll('#charts polyline').length";
    assert!(
        window.run(lines).as_u64() >= Some(3),
        "messages and latency"
    );
    let up = "state.rows.some((row) => row.up_per_second > 10)";
    window.until(SOON, up);
    window.must_be_clean(&base(&proxy));
    drop((clients, window));
    proxy.finish();
}

#[test]
fn a_killed_server_is_seen_within_two_seconds_and_so_is_its_return() {
    let mut server = Peer::start(Kind::Python, "b1", &[]);
    let proxy = Proxy::start(&[server.url()], json!({ "session": { "hold": "60s" } }));
    let crowd = Crowd::start(proxy.address, 5, &Habit::default());
    let mut window = open(&proxy, DESK);
    window.until(SOON, &format!("{VERDICT}.dataset.mood === 'good'"));
    server.kill();
    let took = window.until(
        SEEN,
        "document.querySelector('#news li')?.innerText.includes('b1 lost') \
         && document.querySelector('#servers tbody tr').dataset.mood === 'bad'",
    );
    println!("seen after {took:?}");
    window.until(
        SOON,
        &format!("{VERDICT}.innerText.includes('5 sessions are held')"),
    );
    assert_eq!(window.run(&format!("{VERDICT}.dataset.mood")), "bad");
    server.revive();
    window.until(SOON, &format!("{VERDICT}.innerText.includes('All well')"));
    window.until(
        SOON,
        "document.getElementById('news').innerText.includes('resumed at b1')",
    );
    window.must_be_clean(&base(&proxy));
    crowd.leave();
    drop(window);
    proxy.finish();
}

#[test]
fn a_failing_server_is_not_said_to_be_in_service() {
    let mut servers = ["b1", "b2"].map(|name| Peer::start(Kind::Python, name, &[]));
    let urls = servers.each_ref().map(Peer::url);
    let proxy = Proxy::start(&urls, json!({}));
    let crowd = Crowd::start(proxy.address, 6, &Habit::default());
    let mut window = open(&proxy, DESK);
    window.until(SOON, &format!("{VERDICT}.dataset.mood === 'good'"));
    servers[0].kill();
    let failing = format!("{VERDICT}.innerText.includes('Server b1: failing')");
    window.until(SOON, &failing);
    let title = "document.getElementById('verdict-title').innerText";
    // Both in one look: the page is drawn anew each second.
    let seen = window.run(&format!("{failing} ? {title} : 'it is over'"));
    assert_eq!(
        seen,
        "Every session has a server; 1 of 2 servers in service"
    );
    crowd.leave();
    drop(window);
    proxy.finish();
}

#[test]
fn disable_drain_and_enable_by_keyboard_alone() {
    let servers = [echo_origin(), echo_origin()];
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    let proxy = Proxy::start(&urls, json!({}));
    let mut window = open(&proxy, DESK);
    window.tab_to("Disable b1");
    window.act("press Enter");
    wait_state(&proxy, "b1", "disabled");
    let told = "document.getElementById('news').innerText.includes('Server b1 is disabled.')";
    window.until(SOON, told);
    // What happened is told at once, the servers are drawn a second later at most.
    window.until(
        SOON,
        "!!document.querySelector('[aria-label=\"Enable b1\"]')",
    );
    // The focus stays where it was, on what is now the way back.
    window.tab_to("Enable b1");
    window.tab_to("Drain… b1");
    window.act("press Enter");
    window.until(SOON, "document.getElementById('confirm').open");
    window.tab_to("Cancel");
    window.act("press Escape");
    window.until(SOON, "!document.getElementById('confirm').open");
    assert_eq!(state_of(&proxy, "b1"), "disabled", "nothing without a yes");
    window.act("press Enter");
    window.until(SOON, "document.getElementById('confirm').open");
    window.tab_to("Drain");
    window.act("press Enter");
    wait_state(&proxy, "b1", "draining");
    let told = format!("{VERDICT}.innerText.includes('b1: draining')");
    window.until(SOON, &told);
    window.act("press Shift+Tab");
    window.tab_to("Enable b1");
    window.act("press Space");
    wait_state(&proxy, "b1", "enabled");
    // A weight is typed and sent by Enter.
    window.tab_to("Weight of b1");
    window.act("press 7");
    window.act("press Enter");
    until_true(SOON, "the weight", || {
        let answer = proxy.admin("GET", "/v1/servers/b1", None);
        answer.json()["weight"] != 1
    });
    // What is refused is said.
    proxy.admin("POST", "/v1/accept", Some(r#"{"paused": true}"#));
    window.until(SOON, &format!("{VERDICT}.innerText.includes('paused')"));
    window.run("act('Weight of b1', 'PATCH', '/v1/servers/b1', { weight: -1 }).then(() => true)");
    assert!(window.text("#failure").contains("whole number from 0"));
    drop(window);
    proxy.finish();
}

#[test]
fn what_a_client_chose_is_text_and_can_be_searched_for() {
    let server = echo_origin();
    let proxy = Proxy::start(&[server.url()], patient());
    let path = "/<script>alert(1)</script><img/src=x/onerror=alert(2)>";
    let mut client = Raw::open(proxy.address, path, "");
    let _other = Raw::open(proxy.address, "/other", "");
    let mut window = Window::open(&format!("{}#sessions", base(&proxy)), DESK);
    window.until(
        COLD,
        "document.querySelectorAll('#sessions tbody tr').length === 2",
    );
    window.run("document.getElementById('search-text').focus()");
    for key in "<scr".chars() {
        window.act(&format!("press {key}"));
    }
    window.act("press Enter");
    window.until(
        SOON,
        "document.querySelectorAll('#sessions tbody tr').length === 1",
    );
    assert!(window.text("#sessions tbody").contains(path));
    assert_eq!(
        window.run("document.querySelectorAll('#sessions script, #sessions img').length"),
        0
    );
    // One session's page, and its end.
    window.run("document.querySelector('#sessions tbody a').click()");
    window.until(
        SOON,
        "document.getElementById('session-facts').innerText.includes('<img')",
    );
    window.until(
        SOON,
        "document.getElementById('session-legs').innerText.includes('b1')",
    );
    window.tab_to("Abort… this session");
    window.act("press Enter");
    window.tab_to("Abort");
    window.act("press Enter");
    client.end(SOON);
    window.until(
        SOON,
        "document.getElementById('session-note').innerText.includes('No such session')",
    );
    drop((window, client, _other));
    proxy.finish();
}

#[test]
fn every_view_fits_a_telephone_follows_the_scheme_and_has_no_barrier() {
    let server = echo_origin();
    let proxy = Proxy::start(&[server.url()], patient());
    let _client = Raw::open(proxy.address, &format!("/{}", "long".repeat(100)), "");
    let id = proxy.sessions()[0]["id"].as_str().unwrap().to_string();
    let mut window = open(&proxy, TELEPHONE);
    window.act("lenient");
    let mut papers = Vec::new();
    for (scheme, size) in [
        ("light", TELEPHONE),
        ("dark", TELEPHONE),
        ("light", DESK),
        ("dark", DESK),
    ] {
        window.act(&format!("scheme {scheme}"));
        window.size(size.0, size.1);
        for (view, ready) in [
            (
                "",
                "document.querySelectorAll('#servers tbody tr').length === 1",
            ),
            (
                "#sessions",
                "document.querySelectorAll('#sessions tbody tr').length === 1",
            ),
            (
                &format!("#session/{id}"),
                "document.querySelectorAll('#session-facts div').length > 5",
            ),
        ] {
            // Another document, so that a tool can be put into it.
            window.act("open about:blank");
            window.act(&format!("open {}{view}", base(&proxy)));
            window.until(COLD, ready);
            let wide = window.run("document.documentElement.scrollWidth");
            assert!(
                wide.as_u64() <= Some(size.0.into()),
                "{view} is {wide} wide at {size:?}"
            );
            let found = barriers(&mut window);
            assert_eq!(found, json!([]), "{view} {scheme} {size:?}");
        }
        papers.push(window.run("getComputedStyle(document.body).backgroundColor"));
    }
    assert_eq!(papers[0], papers[2]);
    assert_ne!(papers[0], papers[1]);
    drop((window, _client));
    proxy.finish();
}

/// What axe finds against WCAG 2.2, levels A and AA.
fn barriers(window: &mut Window) -> Value {
    let axe = root().join("tests/peers/node/node_modules/axe-core/axe.min.js");
    window.act(&format!("load {}", axe.display()));
    window.run(
        "axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }) \
         .then(({ violations }) => violations.map((one) => \
           [one.id, one.nodes.map((node) => node.html + ' ' + node.failureSummary)]))",
    )
}

#[test]
fn a_token_is_asked_for_and_kept_in_this_tab_alone() {
    let server = echo_origin();
    let token = [("WSTEADY_ADMIN_TOKEN", "open-sesame-42")];
    let running = Running::start(&token, |command, listen, admin| {
        command.args([
            "--listen",
            listen,
            "--admin",
            admin,
            "--backend",
            &server.url(),
        ]);
    });
    let base = format!("http://{}/", running.admin);
    let mut window = Window::open(&base, DESK);
    window.until(COLD, "!document.getElementById('token-form').hidden");
    let give = |window: &mut Window, token: &str| {
        window.until(SOON, "document.activeElement.id === 'token'");
        token
            .chars()
            .for_each(|key| drop(window.act(&format!("press {key}"))));
        window.act("press Enter");
    };
    give(&mut window, "sesame");
    window.until(
        SOON,
        "document.getElementById('token-error')?.innerText.includes('not accepted')",
    );
    give(&mut window, "open-sesame-42");
    window.until(
        SOON,
        "document.querySelectorAll('#servers tbody tr').length === 1",
    );
    assert_eq!(window.run("localStorage.length"), 0);
    assert_eq!(window.run("document.cookie"), "");
    let requests = window.act("seen")["requests"].to_string();
    assert!(!requests.contains("sesame"), "{requests}");
    drop((window, running));
}
