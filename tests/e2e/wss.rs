//! TLS on both legs as others speak it: browsers, libraries, `openssl` and `curl` before wsteady, good
//! and bad certificates on either side. docs/tls.md says what is promised.

use crate::real;
use crate::support::api::{Api, Reply};
use crate::support::client::{Crowd, Habit};
use crate::support::field::Field;
use crate::support::frames::{Frame, TEXT};
use crate::support::peer::{Kind, Peer};
use crate::support::proxy::Proxy;
use crate::support::raw::{Origin, Raw, echo_frames, handshake};
use crate::support::tls::{self, Authority, Pair, our_pair, self_signed};
use crate::support::{Scratch, until, until_true};
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(15);

/// Files change and are read again in this time, on a busy machine, too.
const READ_AGAIN: Duration = Duration::from_secs(20);

#[test]
fn chromium() {
    let dir = Scratch::new("spki");
    let [cert, _] = our_pair().files(&dir, "leaf");
    // A browser believes the key whose digest it is given.
    let script = "openssl x509 -pubkey -noout -in \"$0\" | openssl pkey -pubin -outform der \
                  | openssl dgst -sha256 -binary | base64";
    let digest = Command::new("sh").args(["-c", script]).arg(cert).output();
    let digest = String::from_utf8(digest.unwrap().stdout).unwrap();
    let flag = format!("--ignore-certificate-errors-spki-list={}", digest.trim());
    real::browser(true, &[flag]);
}

#[test]
fn node_ws() {
    real::library_client(Kind::Node, true);
}

#[test]
fn python_websockets() {
    real::library_client(Kind::Python, true);
}

/// An http pool whose server says what it was told, before clients who speak TLS; `front` is what the
/// listener has beside its certificate.
fn mirror(front: Value) -> (Api, Proxy, Scratch) {
    let api = Api::start_sealed(None, |call| {
        let told = ["x-forwarded-proto", "x-forwarded-for"].map(|name| call.header(name));
        Reply::text(format!("{} {}", told.join(" "), call.target))
    });
    let dir = Scratch::new("front");
    let mut listen = json!({ "tls": our_pair().write(&dir, "front") });
    for (key, value) in front.as_object().expect("a map") {
        listen["tls"][key] = value.clone();
    }
    let changes = json!({
        "listen": listen,
        "pools": { "main": { "kind": "http", "connections": { "min": 0, "idle": "300ms" } } },
    });
    let url = api.url().trim_end_matches('/').to_owned();
    (api, Proxy::start(&[url], changes), dir)
}

/// What `openssl s_client` says until it has said `until`, or ends. Each word of `lines` is sent when
/// the text before it has come.
fn s_client(proxy: &Proxy, options: &[&str], lines: &[(&str, &str)], last: &str) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &proxy.address.to_string()])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (say, heard) = std::sync::mpsc::channel();
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    for mut pipe in [Box::new(out) as Box<dyn Read + Send>, Box::new(err)] {
        let say = say.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                let _ = say.send(buffer[..count].to_vec());
            }
        });
    }
    drop(say);
    let mut input = child.stdin.take().unwrap();
    let (mut all, mut ended) = (String::new(), false);
    let mut lines = lines.iter().peekable();
    let deadline = std::time::Instant::now() + WAIT;
    while !ended && (lines.peek().is_some() || !all.contains(last)) {
        if let Some((_, line)) = lines.next_if(|(after, _)| all.contains(after)) {
            let _ = input.write_all(line.as_bytes());
        }
        match heard.recv_timeout(Duration::from_millis(200)) {
            Ok(bytes) => all += &String::from_utf8_lossy(&bytes),
            Err(why) => ended = why == std::sync::mpsc::RecvTimeoutError::Disconnected,
        }
        if std::time::Instant::now() > deadline {
            break;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    all
}

/// What it says last of a handshake.
const VERIFIED: &str = "Verify return code";

#[test]
fn openssl_gets_the_versions_and_the_certificate_that_it_asks_for() {
    let other = Scratch::new("other");
    let pair = Authority::ours().issue(&["other.test", "*.wild.test"]);
    let (_api, proxy, dir) = mirror(json!({
        "certificates": [pair.write(&other, "other")],
    }));
    let rows = [
        (["-tls1_2", "-servername", "localhost"], "CN = localhost"),
        (["-tls1_3", "-servername", "localhost"], "CN = localhost"),
        (["-tls1_3", "-servername", "other.test"], "CN = other.test"),
        (["-tls1_2", "-servername", "OTHER.test"], "CN = other.test"),
        (["-tls1_3", "-servername", "a.wild.test"], "CN = other.test"),
        (["-tls1_3", "-servername", "nobody.test"], "CN = localhost"),
        (["-tls1_3", "-noservername", "-4"], "CN = localhost"),
    ];
    let ca = Authority::ours().file(&dir, "ca");
    for (options, subject) in rows {
        let options = [&options[..], &["-CAfile", ca.to_str().unwrap()]].concat();
        let said = s_client(&proxy, &options, &[], VERIFIED);
        assert!(
            said.contains(&format!("subject={subject}")),
            "{options:?} {said}"
        );
        assert!(
            said.contains("Verify return code: 0 (ok)"),
            "{options:?} {said}"
        );
    }
    for old in ["-tls1", "-tls1_1"] {
        let options = [old, "-cipher", "DEFAULT@SECLEVEL=0"];
        let said = s_client(&proxy, &options, &[], "SSL alert number");
        assert!(said.contains("SSL alert number"), "{old} {said}");
    }
    proxy.finish();
    let (_api, proxy, _dir) = mirror(json!({ "min_version": "1.3" }));
    let said = s_client(&proxy, &["-tls1_2"], &[], "alert protocol");
    assert!(said.contains("alert protocol version"), "{said}");
    let said = s_client(&proxy, &["-tls1_3"], &[], VERIFIED);
    assert!(said.contains("New, TLSv1.3"), "{said}");
    proxy.finish();
}

#[test]
fn openssl_comes_back_with_its_ticket_and_may_send_nothing_early() {
    let (_api, proxy, dir) = mirror(json!({}));
    let ticket = dir.file("ticket").display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let request = "GET /first HTTP/1.1\r\nHost: h\r\n\r\n";
        let lines = [(VERIFIED, request)];
        let said = s_client(
            &proxy,
            &[version, "-crlf", "-sess_out", &ticket],
            &lines,
            " /first",
        );
        assert!(said.contains("New, TLSv1."), "{said}");
        let said = s_client(&proxy, &[version, "-sess_in", &ticket], &[], VERIFIED);
        assert!(said.contains("Reused, TLSv1."), "{version}: {said}");
    }
    // Whoever sends early sends what another one may send again.
    let early = dir.file("early");
    std::fs::write(&early, "GET /early HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let options = [
        "-tls1_3",
        "-sess_in",
        &ticket,
        "-early_data",
        early.to_str().unwrap(),
    ];
    let said = s_client(&proxy, &options, &[], VERIFIED);
    assert!(
        !said.contains("Early data was accepted") && !said.contains("/early\n"),
        "{said}"
    );
    assert!(said.contains("Early data was "), "{said}");
    proxy.finish();
}

#[test]
fn a_client_that_wants_new_keys_gets_them_without_a_new_handshake() {
    let (_api, proxy, _dir) = mirror(json!({}));
    // TLS 1.2: `R` asks for a handshake inside the connection. It is declined.
    let said = s_client(&proxy, &["-tls1_2"], &[(VERIFIED, "R\n")], "renegotiation");
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(said.to_lowercase().contains("no renegotiation"), "{said}");
    // TLS 1.3: `K` changes the keys of both sides.
    let request = "GET /new-keys HTTP/1.1\r\nHost: h\r\n\r\n";
    let lines = [(VERIFIED, "K\n"), ("KEYUPDATE", request)];
    let said = s_client(&proxy, &["-tls1_3"], &lines, " /new-keys");
    assert!(said.contains("https 127.0.0.1 /new-keys"), "{said}");
    proxy.finish();
}

/// The status, or 0; and all that curl has to say.
fn curl(options: &[&str]) -> (u16, String) {
    let output = Command::new("curl")
        .args([
            "-sv",
            "--max-time",
            "10",
            "-w",
            "\n%{http_code} %{http_version}",
        ])
        .args(options)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let out = text(&output.stdout);
    let status = out
        .lines()
        .last()
        .and_then(|line| line.split(' ').next()?.parse().ok());
    (status.unwrap_or(0), out + &text(&output.stderr))
}

#[test]
fn curl_speaks_http_1_1_and_the_server_hears_https() {
    let (_api, proxy, dir) = mirror(json!({}));
    let ca = Authority::ours().file(&dir, "ca").display().to_string();
    let url = format!("https://localhost:{}/a?b", proxy.address.port());
    for version in ["--http1.1", "--http2"] {
        let (status, said) = curl(&["--cacert", &ca, version, "-4", &url]);
        assert_eq!(status, 200, "{said}");
        assert!(said.contains("https 127.0.0.1 /a?b"), "{said}");
        assert!(said.contains("\n200 1.1"), "{said}");
        assert!(said.contains("ALPN: server accepted http/1.1"), "{said}");
    }
    let said = s_client(&proxy, &["-alpn", "h2"], &[], "alert no");
    assert!(said.contains("no application protocol"), "{said}");
    let (status, said) = curl(&["-4", &url]);
    assert_eq!(status, 0, "nobody has told curl of the authority: {said}");
    let (status, said) = curl(&[&url.replace("https", "http")]);
    assert_ne!(status, 200, "in the clear: {said}");
    proxy.finish();
}

#[test]
fn clients_are_asked_for_certificates() {
    let (right, wrong) = (Authority::new("clients"), Authority::new("others"));
    let dir = Scratch::new("clients");
    let file = |pair: Pair, name: &str| {
        pair.files(&dir, name)
            .map(|file| file.display().to_string())
    };
    let good = file(right.issue(&["me"]), "good");
    let bad = file(wrong.issue(&["me"]), "bad");
    let own = file(self_signed(&["me"]), "own");
    let old = right.issue_but(&["me"], |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let old = file(old, "old");
    let ca = right.file(&dir, "clients");
    for (auth, without) in [("require", 0), ("optional", 200)] {
        let (api, proxy, place) = mirror(json!({ "client_ca": ca, "client_auth": auth }));
        let believed = Authority::ours().file(&place, "ca").display().to_string();
        let url = format!("https://localhost:{}/", proxy.address.port());
        let ask = |more: &[&str]| curl(&[&["-4", "--cacert", &believed], more, &[&url]].concat());
        let (status, said) = ask(&[]);
        assert_eq!(status, without, "none, {auth}: {said}");
        let with = |[cert, key]: &[String; 2]| ask(&["--cert", cert, "--key", key]);
        for (name, pair) in [("another's", &bad), ("its own", &own), ("an old one", &old)] {
            let (status, said) = with(pair);
            assert_eq!(status, 0, "{name}, {auth}: {said}");
        }
        let (status, said) = with(&good);
        assert_eq!(status, 200, "{auth}: {said}");
        assert_eq!(api.calls().len(), 1 + usize::from(without == 200));
        proxy.finish();
    }
}

/// The certificate that a new client is shown.
fn shown(proxy: &Proxy) -> CertificateDer<'static> {
    let raw = Raw::sealed(proxy.address, &tls::our_client(), "localhost");
    raw.stream.seal().peer_certificates().expect("one")[0]
        .clone()
        .into_owned()
}

#[test]
fn certificates_are_exchanged_under_a_thousand_sessions() {
    let _turn = crate::support::turn();
    let der = |pair: &Pair| CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap();
    let names = ["localhost", "127.0.0.1"];
    let pairs = [(); 3].map(|()| Authority::ours().issue(&names));
    let dir = Scratch::new("exchange");
    let peers = vec![Peer::start(Kind::Node, "b1", &[])];
    let changes = crate::support::proxy::patient(json!({
        "listen": { "tls": pairs[0].write(&dir, "front") },
    }));
    let proxy = Proxy::start(&[peers[0].url()], changes);
    let habit = Habit {
        every: Duration::from_secs(1),
        ahead: 8,
        ..Habit::default()
    };
    let field = Field::behind(proxy, peers, 1_000, &habit);
    assert_eq!(shown(&field.proxy), der(&pairs[0]));
    field.crowd.send_more(500);
    // By order.
    pairs[1].write(&dir, "front");
    field.proxy.signal(Signal::HUP);
    until_true(READ_AGAIN, "the second certificate", || {
        shown(&field.proxy) == der(&pairs[1])
    });
    field.crowd.send_more(500);
    // What is no certificate changes nothing.
    std::fs::write(dir.file("front.crt"), "-----BEGIN CERTIFICATE-----\nnone").unwrap();
    field.proxy.signal(Signal::HUP);
    until_true(READ_AGAIN, "a word of it", || {
        field.proxy.log().contains("front.crt")
    });
    assert_eq!(shown(&field.proxy), der(&pairs[1]));
    // By the files alone.
    pairs[2].write(&dir, "front");
    until_true(READ_AGAIN, "the third certificate", || {
        shown(&field.proxy) == der(&pairs[2])
    });
    field.crowd.send_more(500);
    assert_eq!(field.proxy.count("wsteady_failovers_total", &[]), 0);
    let verdict = field.conclude();
    assert_eq!(verdict.duplicated, 0, "{verdict}");
}

/// A pool whose servers are believed as `tls` says.
fn believing(url: String, tls: Value, more: Value) -> Proxy {
    let mut changes = json!({ "pools": { "main": { "tls": tls } } });
    for (key, value) in more.as_object().expect("a map") {
        changes["pools"]["main"][key] = value.clone();
    }
    Proxy::start(&[url], changes)
}

fn must_echo(proxy: &Proxy) {
    let mut client = Raw::plain(proxy.address);
    client.upgrade("/", "");
    client.send_frame(&Frame::masked(TEXT, b"hello"));
    assert_eq!(client.frame(WAIT).payload, b"hello");
}

fn echo_behind(seal: std::sync::Arc<rustls::ServerConfig>) -> String {
    let served = Origin::sealed(seal).serve(|raw, head| {
        raw.accept(head, "");
        echo_frames(raw);
    });
    served.url()
}

#[test]
fn a_server_that_cannot_be_believed_gets_no_session_and_the_log_says_why() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let dir = Scratch::new("servers");
    let ca = ours.file(&dir, "ca");
    let old = ours.issue_but(&["127.0.0.1"], |params| {
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let rows = [
        (self_signed(&["127.0.0.1"]), "it is signed by itself"),
        (old, "it has expired"),
        (ours.issue(&["elsewhere.test"]), "it is not for 127.0.0.1"),
        (
            others.issue(&["127.0.0.1"]),
            "don't know its issuer CN=others",
        ),
    ];
    for (pair, says) in rows {
        let url = echo_behind(tls::server(&pair));
        let more = json!({ "breaker": { "threshold": 2, "cooldown": "1m" } });
        let proxy = believing(url.clone(), json!({ "ca": ca }), more);
        let mut client = Raw::plain(proxy.address);
        client.send(handshake("/", "").as_bytes());
        assert!(client.head(WAIT).status() >= 500, "{says}");
        let log = proxy.log();
        let line = log.lines().find(|line| line.contains(says));
        let line = line.unwrap_or_else(|| panic!("no word of {says:?} in {log}"));
        assert!(
            line.contains("server=b1") && line.contains("certificate (CN="),
            "{line}"
        );
        assert!(log.contains("breaker opened"), "{log}");
        proxy.finish();
        // Who wants it so believes anybody.
        let proxy = believing(url, json!({ "insecure_skip_verify": true }), json!({}));
        must_echo(&proxy);
        proxy.finish();
    }
}

#[test]
fn a_session_is_held_until_its_server_can_be_believed_again() {
    let ours = Authority::ours();
    let bad = [self_signed(&["127.0.0.1"]), ours.issue(&["elsewhere.test"])];
    let peer = Peer::sealed(Kind::Python, "b1", our_pair(), &[]);
    let changes = json!({
        "listen": { "tls": true }, "session": { "hold": "60s" },
        "pools": { "main": { "breaker": { "threshold": 3, "cooldown": "300ms" } } },
    });
    let proxy = Proxy::start(&[peer.url()], changes);
    let mut field = Field::behind(proxy, vec![peer], 5, &Habit::default());
    field.crowd.send_more(100);
    for pair in &bad {
        field.strike("another certificate", |peers| {
            peers[0].kill();
            peers[0].show(pair);
            peers[0].revive();
        });
        let held = || field.proxy.count("wsteady_sessions_held", &[]) == 5;
        until_true(WAIT, "all to be held", held);
        std::thread::sleep(Duration::from_secs(1));
        assert!(held());
        field.strike("the right one", |peers| {
            peers[0].kill();
            peers[0].show(our_pair());
            peers[0].revive();
        });
        let held = || field.proxy.count("wsteady_sessions_held", &[]) == 0;
        until_true(WAIT, "all to go on", held);
        field.crowd.send_more(100);
    }
    let log = field.proxy.log();
    for says in ["it is signed by itself", "it is not for 127.0.0.1"] {
        assert!(log.contains(says), "{log}");
    }
    field.conclude();
}

#[test]
fn a_server_is_asked_for_by_another_name_and_shown_a_certificate() {
    let (ours, clients) = (Authority::new("ours"), Authority::new("clients"));
    let dir = Scratch::new("shown");
    let ca = ours.file(&dir, "ca");
    let url = echo_behind(tls::server(&ours.issue(&["inner.test"])));
    let proxy = believing(
        url,
        json!({ "ca": ca, "server_name": "inner.test" }),
        json!({}),
    );
    must_echo(&proxy);
    proxy.finish();

    let asking = tls::server_asking(&ours.issue(&["127.0.0.1"]), &clients);
    let url = echo_behind(asking);
    let [cert, key] = clients.issue(&["wsteady"]).files(&dir, "own");
    let tls = json!({ "ca": ca, "client_cert": cert, "client_key": key });
    let proxy = believing(url.clone(), tls, json!({}));
    must_echo(&proxy);
    proxy.finish();

    let proxy = believing(url, json!({ "ca": ca }), json!({}));
    let mut client = Raw::plain(proxy.address);
    client.send(handshake("/", "").as_bytes());
    assert!(client.head(WAIT).status() >= 500);
    until_true(WAIT, "a word of it", || {
        proxy.log().to_lowercase().contains("certificate")
    });
    proxy.finish();
}

#[test]
fn https_servers_and_their_health() {
    let api = Api::start_sealed(Some(tls::our_server()), |call| {
        Reply::text(format!("{} {}", call.target, call.header("host")))
    });
    let dir = Scratch::new("https");
    let ca = Authority::ours().file(&dir, "ca");
    let url = api.url().trim_end_matches('/').to_owned();
    let health =
        json!({ "path": "/well", "interval": "500ms", "timeout": "400ms", "fall": 1, "rise": 1 });
    let more = json!({
        "kind": "http", "health": health, "connections": { "min": 0, "idle": "300ms" },
    });
    let proxy = believing(url, json!({ "ca": ca }), more);
    let healthy = |proxy: &Proxy| {
        let row = proxy.admin("GET", "/v1/servers/b1", None).json();
        row["healthy"].as_bool().expect("a verdict")
    };
    until_true(WAIT, "probes", || {
        api.calls()
            .iter()
            .filter(|call| call.target == "/well")
            .count()
            >= 3
    });
    assert!(healthy(&proxy));
    let (status, said) = curl(&[&format!("http://{}/x", proxy.address)]);
    assert_eq!(status, 200, "{said}");
    assert!(said.contains("/x "), "{said}");
    // Another authority: the probes fail, and the log says why.
    let other = Authority::new("another").file(&dir, "other");
    std::fs::rename(other, &ca).unwrap();
    proxy.signal(Signal::HUP);
    until_true(READ_AGAIN, "a bad verdict", || !healthy(&proxy));
    assert!(proxy.log().contains("don't"), "{}", proxy.log());
    Authority::ours().file(&dir, "ca");
    proxy.signal(Signal::HUP);
    until_true(READ_AGAIN, "a good verdict", || healthy(&proxy));
    proxy.finish();
}

#[test]
fn thousands_of_handshakes_at_once_hold_nobody_up() {
    let peer = Peer::start(Kind::Node, "b1", &[]);
    let proxy = Proxy::start(&[peer.url()], json!({ "listen": { "tls": true } }));
    let crowd = Crowd::start_as(true, proxy.address, 20, &Habit::default());
    let visitors: Vec<_> = (0..8)
        .map(|_| {
            let address = proxy.address;
            std::thread::spawn(move || {
                for _ in 0..100 {
                    let mut raw = Raw::sealed(address, &tls::our_client(), "localhost");
                    raw.upgrade("/", "");
                }
            })
        })
        .collect();
    visitors.into_iter().for_each(|one| one.join().unwrap());
    crowd.send_more(100);
    let slowest = crowd.leave().iter().map(|one| one.pong_ms).max();
    assert!(slowest < Some(3_000), "{slowest:?} ms for a Pong");
    until(WAIT, "them to be gone", || {
        (proxy.count("wsteady_sessions_active", &[]) == 0).then_some(())
    });
    proxy.finish();
}
