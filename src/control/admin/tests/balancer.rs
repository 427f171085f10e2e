//! wsbalancer's routes before the same two shards.

use super::*;

impl Stand {
    fn result(&self, line: &str) -> Value {
        let got = self.change(line, "");
        assert_eq!(got.status, 200, "{line}: {got:?}");
        got.json()
    }

    fn with_frontend() -> Stand {
        Stand::built(None, None, |desk| desk.frontend = Some("-8080".to_string()))
    }

    fn of_one_pool() -> Stand {
        Stand::built(None, None, |desk| desk.recruiter = recruiter(&["chat"]))
    }
}

fn success() -> Value {
    json!({ "result": "success" })
}

fn needless() -> Value {
    json!({ "result": "success", "reason": "NoActionRequired" })
}

fn failed(reason: &str) -> Value {
    json!({ "result": "failed", "reason": reason })
}

#[test]
fn servers_are_listed_with_the_disabled_ones_last() {
    let stand = Stand::with_frontend();
    stand.scene.lock().unwrap().tripped[2] = true;
    assert_eq!(stand.result("POST /backend/disable/a"), success());
    let list = stand.get("/backend/list").json();
    let ids = list.as_array().unwrap().iter().map(|row| &row["id"]);
    assert_eq!(ids.collect::<Vec<_>>(), ["b@::1", "c", "a"]);
    let wanted = json!({
        "url": "ws://127.0.0.1:9001",
        "id": "a",
        "activeConnections": 6,
        "enabled": false,
        "tripped": false,
        "totalConnections": 14,
        "totalFailures": 0,
    });
    assert_eq!(list[2], wanted);
    assert_eq!(list[1]["tripped"], true);
}

#[test]
fn actions_say_whether_anything_was_to_be_done() {
    let stand = Stand::with_frontend();
    stand.scene.lock().unwrap().tripped[2] = true;
    let (there, nobody) = (
        "00000000000000000000000000000012",
        "000000000000000000000000000000ff",
    );
    let rows: &[(String, Value, &[&str])] = &[
        (
            "disable/a".into(),
            success(),
            &["State { server: 0, state: Disabled }"],
        ),
        ("disable/a".into(), needless(), &[]),
        ("disable/zz".into(), needless(), &[]),
        (
            "enable/a".into(),
            success(),
            &["State { server: 0, state: Enabled }"],
        ),
        ("enable/a".into(), needless(), &[]),
        ("enable/zz".into(), failed(NO_ZZ), &[]),
        ("reset/c".into(), success(), &["reset 2"]),
        ("reset/c".into(), needless(), &[]),
        ("reset/zz".into(), failed(NO_ZZ), &[]),
        ("failover/a".into(), success(), &["FailOver { server: 0 }"]),
        ("failover/c".into(), needless(), &[]),
        ("failover/zz".into(), needless(), &[]),
        (
            "delete/b%40%3A%3a1".into(),
            success(),
            &["State { server: 1, state: Gone }"],
        ),
        ("delete/b%40%3A%3a1".into(), needless(), &[]),
    ];
    for (action, wanted, told) in rows {
        let line = format!("POST /backend/{action}");
        assert_eq!(stand.result(&line), *wanted, "{line}");
        let mut mails = stand.told();
        mails.sort();
        let both = ["0", "1"].iter();
        let told = both.flat_map(|shard| told.iter().map(move |mail| format!("{shard} {mail}")));
        assert_eq!(mails, told.collect::<Vec<_>>(), "{line}");
    }
    let rows = [
        (format!("POST /session/abort/{there}"), success()),
        (format!("POST /session/abort/{nobody}"), needless()),
        ("POST /session/abort/0xc000".to_string(), needless()),
        (format!("POST /session/failover/{there}"), success()),
        (
            format!("POST /session/failover/{nobody}"),
            failed(&format!("no session \"{nobody}\"")),
        ),
        ("POST /frontend/pause/-8080".to_string(), success()),
        ("POST /frontend/pause/-8080".to_string(), needless()),
        ("POST /frontend/resume/-8080".to_string(), success()),
        ("POST /frontend/resume/-8080".to_string(), needless()),
        (
            "POST /frontend/pause/-9".to_string(),
            failed("no frontend \"-9\"; there is -8080"),
        ),
    ];
    for (line, wanted) in rows {
        assert_eq!(stand.result(&line), wanted, "{line}");
    }
    assert_eq!(
        stand.get("/frontend/list").json(),
        json!([{ "id": "-8080" }])
    );
}

#[test]
fn servers_are_added_to_the_only_websocket_pool_or_the_one_named_default() {
    let stand = Stand::with_frontend();
    let add = |body: &str| {
        let got = stand.change("POST /backend/add", body);
        assert_eq!(got.status, 200, "{body}: {got:?}");
        got.json()
    };
    let several = add(r#"{"url":"ws://10.0.0.9:80"}"#);
    let reason = several["reason"].as_str().unwrap();
    assert!(reason.contains("POST /v1/servers"), "{reason}");
    assert_eq!(add("{}"), failed("no url present in request"));
    assert_eq!(add(r#"{"url":null}"#), failed("no url present in request"));
    assert_eq!(add(r#"{"url":""}"#), failed("no url present in request"));
    let stand = Stand::of_one_pool();
    let add = |body: &str| stand.change("POST /backend/add", body).json();
    let whole = r#"{"url":"ws://10.0.0.9:80","id":"new","ping-time":"1m","pass-headers":[]}"#;
    let told = "left out, as a server has the settings of its pool: ping-time, pass-headers";
    assert_eq!(add(whole), json!({ "result": "success", "reason": told }));
    assert_eq!(add(whole), failed("url already exists"));
    assert_eq!(
        add(r#"{"url":"ws://10.0.0.9:80"}"#),
        failed("url already exists")
    );
    assert_eq!(add(r#"{"url":"ws://10.0.0.8:80"}"#), success());
    for (body, part) in [
        ("{", "not JSON"),
        (r#"{"url":7}"#, "\"url\""),
        (r#"{"url":"ws://10.0.0.7:80","id":"new"}"#, "id new"),
        (r#"{"uri":"ws://10.0.0.7:80"}"#, "known: url, id, ping-time"),
        (r#"{"url":"10.0.0.7:80"}"#, "ws://"),
    ] {
        let got = add(body);
        assert_eq!(got["result"], "failed", "{body}");
        let reason = got["reason"].as_str().unwrap();
        assert!(reason.contains(part), "{body}: {reason}");
    }
    let config = json!({
        "url": "ws://10.0.0.9:80",
        "id": "new",
        "ping-time": "30s",
        "read-buffer-size": 0,
        "write-buffer-size": 0,
        "breaker-threshold": 10,
        "handshake-timeout": "10s",
        "pass-headers": null,
        "abnormal-close-codes": [1001, 1005, 1006, 1011, 1012, 1013],
    });
    assert_eq!(stand.get("/backend/config/new").json(), config);
    assert_eq!(stand.get("/backend/config/zz").json(), json!({}));
}

#[test]
fn all_sessions_of_all_loops_are_in_one_list() {
    let stand = Stand::new(None, None);
    let got = stand.get("/session/list");
    assert_eq!(got.header("Transfer-Encoding"), Some("chunked"));
    assert_eq!(got.header("Content-Length"), None);
    let list = got.json();
    let ids = list
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["id"].as_str().unwrap());
    let wanted = (0..2).flat_map(|shard| (0..5).map(move |n| format!("{:032x}", 16 * shard + n)));
    assert_eq!(ids.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
    let second = json!({
        "id": format!("{:032x}", 1),
        "uri": "/<script>\"&",
        "backendId": "b@::1",
        "reconnects": 1,
        "msgsReceived": 3,
        "msgsSent": 4,
    });
    assert_eq!(list[1], second);
    // The connection goes on behind it, and HTTP/1.0 gets the same up to the connection's end.
    let mut stream = stand.connect();
    for _ in 0..2 {
        let text = stand.text("GET /session/list", &[], "");
        stream.write_all(text.as_bytes()).unwrap();
        assert_eq!(Got::read(&mut stream, false).unwrap().json(), list);
    }
    let mut stream = stand.connect();
    stream
        .write_all(b"GET /session/list HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        .unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap();
    assert!(
        !head.contains("chunked") && !head.contains("keep-alive"),
        "{head}"
    );
    assert_eq!(serde_json::from_str::<Value>(body).unwrap(), list);
}

#[test]
fn a_list_that_can_not_be_whole_does_not_seem_so() {
    let stand = Stand::new(None, None);
    stand.scene.lock().unwrap().silent = Some(1);
    let mut stream = stand.connect();
    let text = stand.text("GET /session/list", &[], "");
    stream.write_all(text.as_bytes()).unwrap();
    let cut = Got::read(&mut stream, false).unwrap_err();
    assert_eq!(cut.kind(), std::io::ErrorKind::UnexpectedEof);
    stand.scene.lock().unwrap().silent = Some(0);
    let got = stand.get("/session/list");
    assert_eq!(
        (got.status, got.json()),
        (503, failed("a loop does not answer"))
    );
}

#[test]
fn nothing_is_changed_by_get_and_what_is_refused_is_refused_in_its_words() {
    let stand = Stand::with_frontend();
    for path in [
        "/backend/add",
        "/backend/disable/a",
        "/backend/delete/a",
        "/session/abort/0",
        "/frontend/pause/-8080",
    ] {
        let got = stand.get(path);
        assert_eq!(
            (got.status, got.json()),
            (405, failed("OnlyPostAllowed")),
            "{path}"
        );
        assert_eq!(got.header("Allow"), Some("POST"), "{path}");
    }
    let form = ["Content-Type: application/x-www-form-urlencoded"];
    let got = stand.ask("POST /backend/add", &form, "url=ws://h");
    assert_eq!((got.status, &got.json()["result"]), (415, &json!("failed")));
    let foreign = ["Origin: http://evil.example"];
    let got = stand.ask("POST /backend/disable/a", &foreign, "");
    assert_eq!((got.status, got.json()), (403, failed("foreign Origin")));
    let got = stand.change("POST /backend/disable/", "");
    assert_eq!((got.status, got.json()), (404, failed("no such route")));
    let got = stand.change("POST /backend/list", "");
    assert_eq!(got.status, 405);
    assert_eq!(got.header("Allow"), Some("GET, HEAD"));
    assert!(stand.told().is_empty());
}

/// As the API says it.
const NO_ZZ: &str = "no server \"zz\"; there is a, b@::1, c";
