use super::super::head::{HeadLimits, tests::lines};
use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const HS: &str = "GET /room/7?x=1 HTTP/1.1|Host: a:80|Upgrade: websocket|Connection: Upgrade|\
                  Sec-WebSocket-Version: 13|Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

fn with<T>(text: &str, run: impl FnOnce(&Request<'_>) -> T) -> T {
    let head = lines(text);
    run(&Request::parse(&head, &HeadLimits::default()).unwrap())
}

/// 101 for an upgrade, 200 for a plain request, or the status of the refusal.
fn status_of(text: &str) -> u16 {
    with(text, |request| match read(request) {
        Ok(Asked::Upgrade(_)) => 101,
        Ok(Asked::Plain) => 200,
        Err(error) => error.status,
    })
}

#[test]
fn a_handshake_changed_in_one_place() {
    let cases = [
        (
            "K05",
            "Connection: Upgrade",
            "Connection: keep-alive, Upgrade",
            101,
        ),
        ("K05", "Upgrade: websocket", "UPGRADE: WebSocket", 101),
        (
            "K05",
            "Connection: Upgrade",
            "Connection: keep-alive|Connection: UPGRADE",
            101,
        ),
        ("K14", "Host: a:80", "Host: a|Content-Length: 0", 101),
        ("V1", "Version: 13", "Version: 777", 426),
        ("K03", "Version: 13", "Version: 12", 426),
        ("K03", "Version: 13", "Version: 14", 426),
        ("V5", "Version: 13", "Version: 7", 426),
        ("V5", "Version: 13", "Version: 0", 426),
        ("K03", "Version: 13", "Version: 13, 8", 400),
        (
            "K03",
            "Version: 13",
            "Version: 13|Sec-WebSocket-Version: 13",
            400,
        ),
        (
            "K03",
            "Version: 13",
            "Version: 13|Sec-WebSocket-Version: 8",
            400,
        ),
        ("K03", "Version: 13", "Version: 013", 400),
        ("K03", "Version: 13", "Version: +13", 400),
        ("K03", "Sec-WebSocket-Version: 13", "X: y", 400),
        ("V2", "GET", "POST", 200),
        ("V3", "Host: a:80", "Host: a|Content-Length: 43", 400),
        (
            "V3",
            "Host: a:80",
            "Host: a|Transfer-Encoding: chunked",
            400,
        ),
        ("V4", "Upgrade: websocket", "Upgrade: h2c", 200),
        ("V4", "Upgrade: websocket", "Upgrade: foo", 200),
        ("V4", "Upgrade: websocket", "X: y", 200),
        (
            "upgrade",
            "Connection: Upgrade",
            "Connection: keep-alive",
            400,
        ),
        ("upgrade", "HTTP/1.1", "HTTP/1.0", 400),
        ("key", KEY, "", 400),
        ("key", KEY, "dGhlIHNhbXBsZSBub25jZQ", 400),
        ("key", KEY, "dGhlIHNhbXBsZSBub25jZQ==A", 400),
        ("key", KEY, "dGhlIHNhbXBsZSBub25j", 400),
        ("key", KEY, "dGhlIHNhbXBsZSBub25jZ_==", 400),
        ("key", "Sec-WebSocket-Key", "X", 400),
        (
            "key",
            "Host: a:80",
            "Host: a|Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            400,
        ),
        ("V23", "Host: a:80", "Host: a|Origin: null", 101),
        (
            "V23",
            "Host: a:80",
            "Host: a|Origin: http://a|Origin: http://a",
            400,
        ),
        (
            "protocol",
            "Host: a:80",
            "Host: a|Sec-WebSocket-Protocol: a, b",
            101,
        ),
        (
            "protocol",
            "Host: a:80",
            "Host: a|Sec-WebSocket-Protocol: a, b, a",
            400,
        ),
        (
            "protocol",
            "Host: a:80",
            "Host: a|Sec-WebSocket-Protocol: a|Sec-WebSocket-Protocol: a",
            400,
        ),
        (
            "protocol",
            "Host: a:80",
            "Host: a|Sec-WebSocket-Protocol: a b",
            400,
        ),
    ];
    assert_eq!(status_of(HS), 101);
    for (row, old, new, status) in cases {
        assert!(HS.contains(old), "{row}: {old}");
        assert_eq!(status_of(&HS.replacen(old, new, 1)), status, "{row}: {new}");
    }
}

#[test]
fn an_upgrade_says_what_was_asked() {
    let more = "|Origin: https://x|Sec-WebSocket-Protocol: b ,a|Sec-WebSocket-Protocol: c|\
                Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits";
    with(&format!("{HS}{more}"), |request| {
        let Ok(Asked::Upgrade(upgrade)) = read(request) else {
            panic!("an upgrade");
        };
        assert_eq!((upgrade.key, upgrade.origin), (KEY, Some("https://x")));
        assert_eq!(upgrade.protocols, "b, a, c");
        assert_eq!(upgrade.deflate.unwrap().client_max_window_bits, Some(None));
    });
}

#[test]
fn v1_the_refusal_names_our_version() {
    let made = refusal(&OTHER_VERSION);
    let response = Response::parse(
        &made[..made.len() - OTHER_VERSION.reason.len()],
        &HeadLimits::default(),
    );
    let response = response.unwrap();
    assert_eq!(response.status, 426);
    assert_eq!(
        response.headers.get("sec-websocket-version"),
        Some(&b"13"[..])
    );
    assert!(response.headers.has_token("connection", "close"));
    assert!(
        !refusal(&HeadError::new(400, "x"))
            .windows(7)
            .any(|at| at == b"Version")
    );
}

#[test]
fn v23_origins() {
    let allowed = ["https://a.example".to_owned()];
    assert!(origin_allowed(Some("https://A.example"), &allowed));
    assert!(origin_allowed(None, &allowed));
    for foreign in [
        "https://b.example",
        "null",
        "https://a.example.evil",
        "http://a.example",
        "",
    ] {
        assert!(!origin_allowed(Some(foreign), &allowed), "{foreign}");
        assert!(origin_allowed(Some(foreign), &[]));
    }
}

fn kept(more: &str, trusted: bool) -> String {
    let block = ["X-Secret".to_owned()];
    let forward = Forward {
        peer: "10.0.0.9".parse().unwrap(),
        trusted,
        https: false,
        block: &block,
        reconnect_header: "X-Balancer-Reconnect",
    };
    let lines = with(&format!("{HS}{more}"), |request| {
        kept_lines(request, &forward)
    });
    String::from_utf8(lines).unwrap().replace("\r\n", "|")
}

const OURS: &str = "X-Forwarded-For: 10.0.0.9|X-Forwarded-Proto: http|X-Forwarded-Host: a:80|";

#[test]
fn a_server_gets_the_clients_own_lines_and_ours() {
    let own = "Cookie: a=b|Origin: null|Cookie: c|User-Agent: \"x\"|";
    let more = format!("|{}", own.trim_end_matches('|'));
    assert_eq!(kept(&more, false), format!("Host: a:80|{own}{OURS}"));
}

#[test]
fn what_is_removed() {
    for line in [
        "X-Wsteady-Session: 1",
        "x-wsteady-anything: 1",
        "X_Wsteady_Next: 1",
        "X-BALANCER-reconnect: 1",
        "X-Secret: 1",
        "Keep-Alive: 5",
        "TE: trailers",
        "Trailer: x",
        "Proxy-Authorization: x",
        "HTTP2-Settings: x",
        "Content-Length: 0",
        "Sec-WebSocket-Extensions: x",
        "Sec-WebSocket-Protocol: x",
        "X-Forwarded-For: 127.0.0.1",
        "X_Forwarded_For: 127.0.0.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil",
        "Forwarded: for=127.0.0.1",
        "X-Real-IP: 127.0.0.1",
    ] {
        assert_eq!(
            kept(&format!("|{line}"), false),
            format!("Host: a:80|{OURS}"),
            "{line}"
        );
    }
}

#[test]
fn v21_a_trusted_peer_is_believed() {
    let more = "|X-Forwarded-For: 1.1.1.1|x-forwarded-for: 2.2.2.2, 3.3.3.3|\
                X-Forwarded-Proto: https|X-Forwarded-Host: public|Forwarded: for=1.1.1.1|\
                X-Real-IP: 1.1.1.1|X-Wsteady-Next: 9";
    let wanted = "Host: a:80|Forwarded: for=1.1.1.1|X-Real-IP: 1.1.1.1|\
                  X-Forwarded-For: 1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.9|\
                  X-Forwarded-Proto: https|X-Forwarded-Host: public|";
    assert_eq!(kept(more, true), wanted);
}

#[test]
fn v20_nominated_headers_go_before_ours_come() {
    let more = "|Connection: X-Forwarded-For, x-real-ip, COOKIE, Host, X-Forwarded-Host|Cookie: a|\
                X-Real-IP: 1.1.1.1|X-Forwarded-For: 1.1.1.1|X-Forwarded-Host: evil";
    for trusted in [false, true] {
        assert_eq!(
            kept(more, trusted),
            format!("Host: a:80|{OURS}"),
            "{trusted}"
        );
    }
}

#[test]
fn a_dual_stack_peer_is_its_ipv4_address() {
    let peer = "::ffff:10.1.2.3".parse().unwrap();
    let forward = Forward {
        peer,
        trusted: false,
        https: true,
        block: &[],
        reconnect_header: "R",
    };
    let lines = with(HS, |request| kept_lines(request, &forward));
    let lines = String::from_utf8(lines).unwrap();
    assert!(
        lines.contains("X-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: https\r\n"),
        "{lines}"
    );
}

#[test]
fn the_dialled_request_is_an_upgrade_by_our_own_rules() {
    let deflate = Deflate::default();
    let extra = [("X-Wsteady-Next", "0")];
    let kept = b"Host: a\r\nCookie: b\r\n";
    let made = dial_request(
        "/base",
        "/r?x",
        kept,
        KEY,
        Some("p, q"),
        Some(&deflate),
        &extra,
    )
    .unwrap();
    let request = Request::parse(&made, &HeadLimits::default()).unwrap();
    assert_eq!((request.method, request.target), ("GET", "/base/r?x"));
    assert_eq!(request.headers.get("cookie"), Some(&b"b"[..]));
    assert_eq!(request.headers.get("x-wsteady-next"), Some(&b"0"[..]));
    let Ok(Asked::Upgrade(upgrade)) = read(&request) else {
        panic!("an upgrade");
    };
    assert_eq!((upgrade.key, &*upgrade.protocols), (KEY, "p, q"));
    assert!(upgrade.deflate.unwrap().server_no_context_takeover);
    for (prefix, target, extra) in [
        ("/a b", "/", ("X", "y")),
        ("", "/\r\nX: y", ("X", "y")),
        ("", "/", ("X", "y\r\nZ: 1")),
    ] {
        assert_eq!(
            dial_request(prefix, target, kept, KEY, None, None, &[extra]),
            Err(Refused)
        );
    }
}

#[test]
fn keys_are_base64_and_answered_as_the_rfc_says() {
    assert_eq!(key(*b"the sample nonce"), KEY);
    assert_eq!(key([0xFF; 16]), "/////////////////////w==");
    assert_eq!(key([0; 16]), "AAAAAAAAAAAAAAAAAAAAAA==");
    assert_eq!(accept(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

const SWITCH: &str = "HTTP/1.1 101 x|Upgrade: websocket|Connection: Upgrade|\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn check(text: &str) -> Result<Accepted, &'static str> {
    let head = lines(text);
    let response = Response::parse(&head, &HeadLimits::default()).unwrap();
    check_101(&response, KEY, "chat, super")
}

#[test]
fn k08_a_101_changed_in_one_place() {
    let plain = Accepted {
        protocol: None,
        confirm_processed: false,
    };
    assert_eq!(check(SWITCH), Ok(plain));
    let chat = Accepted {
        protocol: Some("super".into()),
        confirm_processed: true,
    };
    let more = "|Sec-WebSocket-Protocol: super|X-Wsteady-Confirm: processed|Content-Length: 0";
    assert_eq!(check(&format!("{SWITCH}{more}")), Ok(chat));
    for (old, new) in [
        ("101", "200"),
        ("101", "426"),
        ("HTTP/1.1", "HTTP/1.0"),
        ("Upgrade: websocket", "X: y"),
        ("Upgrade: websocket", "Upgrade: h2c"),
        ("Connection: Upgrade", "Connection: close"),
        ("Sec-WebSocket-Accept", "X"),
        ("s3pP", "S3pP"),
        (
            "xOo=",
            "xOo=|Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        ),
        ("xOo=", "xOo=|Transfer-Encoding: chunked"),
        ("xOo=", "xOo=|Content-Length: 1"),
        ("xOo=", "xOo=|Sec-WebSocket-Protocol: other"),
        ("xOo=", "xOo=|Sec-WebSocket-Protocol: Chat"),
        ("xOo=", "xOo=|Sec-WebSocket-Protocol: chat, super"),
        ("xOo=", "xOo=|Sec-WebSocket-Protocol:"),
        (
            "xOo=",
            "xOo=|Sec-WebSocket-Protocol: chat|Sec-WebSocket-Protocol: chat",
        ),
    ] {
        assert!(SWITCH.contains(old), "{old}");
        assert!(check(&SWITCH.replacen(old, new, 1)).is_err(), "{new}");
    }
}

#[test]
fn our_101_is_correct_by_our_own_rules() {
    let pass: [(&str, &[u8]); 6] = [
        ("Set-Cookie", b"a=b"),
        ("Sec-WebSocket-Accept", b"evil"),
        ("Connection", b"close"),
        ("Content-Length", b"5"),
        ("X", b"a\r\nY: z"),
        ("Set-Cookie", b"c=d"),
    ];
    let made = switching(KEY, Some("chat"), Some(&Deflate::default()), &pass);
    let response = Response::parse(&made, &HeadLimits::default()).unwrap();
    let accepted = check_101(&response, KEY, "chat").unwrap();
    assert_eq!(accepted.protocol.as_deref(), Some("chat"));
    assert_eq!(response.headers.all("set-cookie").count(), 2);
    assert_eq!(response.headers.iter().count(), 7);
    let agreed = deflate::answer(&response.headers, &Deflate::default());
    assert!(agreed.unwrap().unwrap().client_no_context_takeover);
}

#[test]
fn tungstenite_takes_our_101_and_we_its_request() {
    use tungstenite::handshake::{HandshakeError, client::ClientHandshake};
    let made = dial_request("", "/", b"Host: a\r\n", KEY, None, None, &[]).unwrap();
    // Its server side is the judge of our request, its client side of our 101.
    let stream = Pipe {
        input: std::io::Cursor::new(made),
        output: Vec::new(),
    };
    let socket = tungstenite::accept(stream).expect("a correct request");
    let answer = socket.get_ref().output.clone();
    let response = Response::parse(&answer, &HeadLimits::default()).unwrap();
    assert!(check_101(&response, KEY, "").is_ok());

    use tungstenite::client::IntoClientRequest;
    let mut request = "ws://a/x?y".into_client_request().unwrap();
    request
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", "p, q".parse().unwrap());
    let stream = Pipe {
        input: std::io::Cursor::new(Vec::new()),
        output: Vec::new(),
    };
    let started = ClientHandshake::start(stream, request, None).unwrap();
    let Err(HandshakeError::Interrupted(mut waiting)) = started.handshake() else {
        panic!("there is no answer yet");
    };
    let asked = waiting.get_ref().get_ref().output.clone();
    let asked = Request::parse(&asked, &HeadLimits::default()).unwrap();
    let Ok(Asked::Upgrade(upgrade)) = read(&asked) else {
        panic!("an upgrade");
    };
    assert_eq!((asked.target, &*upgrade.protocols), ("/x?y", "p, q"));
    let answer = switching(upgrade.key, Some("q"), None, &[]);
    waiting.get_mut().get_mut().input = std::io::Cursor::new(answer);
    assert!(waiting.handshake().is_ok(), "a correct 101");
}

#[derive(Debug)]
struct Pipe {
    input: std::io::Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl std::io::Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self.input.read(into)? {
            0 => Err(std::io::ErrorKind::WouldBlock.into()),
            len => Ok(len),
        }
    }
}

impl std::io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
