use super::env::variable;
use super::*;

fn parse(line: &str, env: &[(&str, &str)]) -> Result<Command, Exit> {
    let args = std::iter::once("wsteady")
        .chain(line.split_whitespace())
        .map(OsString::from);
    parse_from(
        args,
        env.iter().map(|(name, value)| (name.into(), value.into())),
    )
}

fn config(line: &str, env: &[(&str, &str)]) -> Config {
    match parse(line, env) {
        Ok(Command::Run(run)) => run.config,
        other => panic!("{line}: {other:?}"),
    }
}

fn exit(line: &str, env: &[(&str, &str)]) -> (u8, String) {
    match parse(line, env) {
        Err(exit) => (exit.code, exit.text),
        Ok(command) => panic!("{line}: {command:?}"),
    }
}

/// A file that is gone when the test is over.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: &str) -> TempFile {
        let name = format!("wsteady-cli-{}-{name}.yaml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        TempFile(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const POOL: &str = "pools: { chat: { servers: [ws://h:1] } }\n";

#[test]
fn backends_make_one_pool() {
    for line in [
        "--backend ws://a:1 --backend ws://b:2",
        "run --backend ws://a:1 --backend=ws://b:2",
    ] {
        let config = config(line, &[]);
        assert_eq!(config.pools.len(), 1);
        assert_eq!(config.pools[0].name, "default");
        let ids = config.pools[0]
            .servers
            .iter()
            .map(|server| server.id.as_str());
        assert_eq!(ids.collect::<Vec<_>>(), ["a-1", "b-2"]);
    }
}

#[test]
fn each_kind_of_server_makes_its_pool() {
    let (backend, api, http) = (
        ("default", PoolKind::Websocket),
        ("api", PoolKind::Bridge),
        ("http", PoolKind::Http),
    );
    let table: &[(&str, &[(&str, PoolKind)])] = &[
        ("--api http://a/ --api http://b/", &[api]),
        ("--http http://a --http http://b", &[http]),
        ("--http http://a --backend ws://b", &[backend, http]),
        ("--http http://a --api http://b/", &[api, http]),
    ];
    for (line, expected) in table {
        let config = config(line, &[]);
        let pools = config
            .pools
            .iter()
            .map(|pool| (pool.name.as_str(), pool.kind));
        assert_eq!(pools.collect::<Vec<_>>(), *expected, "{line}");
        let servers = config.pools.iter().map(|pool| pool.servers.len());
        assert_eq!(servers.sum::<usize>(), 2, "{line}");
    }
}

#[test]
fn flag_wins_over_variable_over_file_over_default() {
    let text =
        format!("{POOL}session: {{ hold: 3s, buffer: 3MiB, confirm: written }}\ndrain: 3s\n");
    let file = TempFile::new("order", &text);
    let env = [
        ("WSTEADY_HOLD", "2s"),
        ("WSTEADY_BUFFER", "2MiB"),
        ("WSTEADY_CONFIG", file.path()),
    ];
    let config = config("--hold 1s", &env);
    let session = &config.pools[0].session;
    assert_eq!(session.hold, Duration::from_secs(1));
    assert_eq!(session.buffer, 2 << 20);
    assert_eq!(session.confirm, super::super::config::Confirm::Written);
    assert_eq!(session.admit, Duration::from_secs(5));
    assert_eq!(config.drain, Duration::from_secs(3));
}

#[test]
fn every_flag_reaches_its_key_as_flag_and_as_variable() {
    type Check = fn(&Config) -> bool;
    let table: &[(&str, &str, Check)] = &[
        ("listen", "127.0.0.1:1", |config| {
            config.listen[0].address.port() == 1
        }),
        ("admin", "127.0.0.1:2", |config| {
            config.admin.address.port() == 2
        }),
        ("backend", "ws://z:3", |config| {
            config.pools[0].servers[0].url.host == "z"
        }),
        ("api", "http://z:3/", |config| {
            config.pools[0].kind == PoolKind::Bridge
        }),
        ("http", "http://z:3", |config| {
            config.pools[0].kind == PoolKind::Http
        }),
        ("loops", "7", |config| config.loops.count() == 7),
        ("memory", "2MiB", |config| config.limits.memory == 2 << 20),
        ("buffer", "2MiB", |config| {
            config.pools[0].session.buffer == 2 << 20
        }),
        ("hold", "7s", |config| config.session.hold.as_secs() == 7),
        ("confirm", "written", |config| {
            config.pools[0].session.confirm.to_string() == "written"
        }),
        ("log-level", "debug", |config| {
            config.log.level.to_string() == "debug"
        }),
        ("log-format", "json", |config| {
            config.log.format.to_string() == "json"
        }),
    ];
    let file = TempFile::new("flags", POOL);
    for (name, value, holds) in table {
        let line = format!("--config {}", file.path());
        assert!(
            !holds(&config(&line, &[])),
            "{name}: the value must differ from the default"
        );
        assert!(
            holds(&config(&format!("{line} --{name} {value}"), &[])),
            "--{name}"
        );
        assert!(
            holds(&config(&line, &[(&variable(name), value)])),
            "{}",
            variable(name)
        );
    }
    let lists = [
        ("WSTEADY_BACKEND", "ws://a:1, ws://b:2"),
        ("WSTEADY_HTTP", "http://a:1, http://b:2"),
        ("WSTEADY_LISTEN", ":1,:2"),
    ];
    let config = config("", &lists);
    let servers = config.pools.iter().map(|pool| pool.servers.len());
    assert_eq!(servers.collect::<Vec<_>>(), [2, 2]);
    assert_eq!(config.listen.len(), 2);
}

#[test]
fn a_certificate_is_the_first_listeners() {
    let line = "--backend ws://a --tls-cert /none/a.crt";
    let says = |line: &str, env: &[(&str, &str)], says: &str| {
        let (code, text) = exit(line, env);
        assert!(code == 2 && text.contains(says), "{line}: {text}");
    };
    if cfg!(not(feature = "tls")) {
        return says(
            line,
            &[],
            "--tls-cert: listen[0].tls: this build has no TLS",
        );
    }
    let both = format!("{line} --tls-key /none/a.key");
    says(line, &[], "listen[0].tls.key: is missing");
    for line in [&*both, &format!("{both} --listen :1 --listen :2")] {
        says(
            line,
            &[],
            "wsteady: --tls-cert: listen[0].tls.cert: /none/a.crt can't be read",
        );
    }
    let env = [("WSTEADY_TLS_KEY", "/none/b.key")];
    says(
        line,
        &env,
        "wsteady: WSTEADY_TLS_KEY: listen[0].tls.key: /none/b.key can't be read",
    );
    let text = "listen: [{ address: \":1\", tls: { cert: /none/c.crt, key: /none/c.key } }]\n\
                pools: { chat: { servers: [ws://h:1] } }\n";
    let file = TempFile::new("certificate", text);
    let line = format!("-c {} --tls-cert /none/d.crt", file.path());
    says(
        &line,
        &[],
        "--tls-cert: listen[0].tls.cert: /none/d.crt can't be read",
    );
    says(&line, &[], "listen[0].tls.key: /none/c.key can't be read");
}

#[test]
fn backends_replace_the_files_pools_and_routes() {
    let text = format!("{POOL}routes: [{{ path: /x, pool: chat }}]\ndrain: 9s\n");
    let file = TempFile::new("replace", &text);
    let config = config(&format!("-c {} --backend ws://a:1", file.path()), &[]);
    assert_eq!(config.pools.len(), 1);
    assert_eq!(
        (config.pools[0].name.as_str(), config.routes.len()),
        ("default", 0)
    );
    assert_eq!(config.drain, Duration::from_secs(9));
}

#[test]
fn wrong_use_is_2_and_says_where() {
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let table: &[Row<'_>] = &[
        (
            "",
            &[],
            "wsteady: no pool: give --backend, --api, --http or a pools section\n",
        ),
        (
            "check",
            &[],
            "wsteady: no pool: give --backend, --api, --http or a pools section\n",
        ),
        (
            "--backend ws://a --hold 5",
            &[],
            "wsteady: --hold: session.hold: \"5\" has no unit; write 5s or 5ms\n",
        ),
        (
            "--backend ws://a",
            &[("WSTEADY_HOLD", "x")],
            "wsteady: WSTEADY_HOLD: session.hold: \"x\" is not a time; write 30s, 50ms or 1m 30s\n",
        ),
        #[cfg(not(feature = "tls"))]
        (
            "--backend wss://a",
            &[],
            "wsteady: --backend: pools.default.servers[0].url: \"wss://a\": this build has no TLS; write ws://\n",
        ),
        (
            "--backend ws://a --admin :8081",
            &[],
            "wsteady: --admin: admin.address: 0.0.0.0:8081 is not loopback; write 127.0.0.1:8081, or give admin.token (WSTEADY_ADMIN_TOKEN)\n",
        ),
        (
            "--api http://a --http ws://b",
            &[],
            "wsteady: --api: pools.api.servers[0].url: \"http://a\" does not end in `/`, and the ClientId goes behind it; write http://a/\n\
             wsteady: --http: pools.http.servers[0].url: \"ws://b\" does not fit a pool of kind http; write http://\n",
        ),
        (
            "--backend ws://a --http http://c",
            &[("WSTEADY_API", "http://a/")],
            "wsteady: --backend and WSTEADY_API and --http: pools: pools default and api want the same requests; add routes\n",
        ),
        (
            "demo --seconds 0",
            &[],
            "wsteady: --seconds: must be more than 0\n",
        ),
        (
            "demo --seconds x",
            &[],
            "wsteady: --seconds: \"x\" is not a time; write 30s, 50ms or 1m 30s\n",
        ),
        (
            "preflight --connections 0",
            &[],
            "wsteady: --connections: \"0\" is not a number from 1 to 1000000000\n",
        ),
        (
            "preflight",
            &[("WSTEADY_CONNECTIONS", "many")],
            "wsteady: WSTEADY_CONNECTIONS: \"many\" is not a number from 1 to 1000000000\n",
        ),
        #[cfg(not(feature = "tls"))]
        (
            "preflight --backend wss://a",
            &[],
            "wsteady: --backend: pools.default.servers[0].url: \"wss://a\": this build has no TLS; write ws://\n",
        ),
        (
            "-config /nonexistent/w.ini",
            &[],
            "wsteady: /nonexistent/w.ini: can't be read: No such file or directory (os error 2)\n",
        ),
    ];
    for (line, env, expected) in table {
        assert_eq!(exit(line, env), (2, (*expected).to_owned()), "{line}");
    }
    let (code, text) = exit("--bakcend ws://a", &[]);
    assert_eq!(code, 2);
    assert!(
        text.contains("--backend"),
        "clap names the nearest flag: {text}"
    );
}

#[test]
fn help_and_version_are_0() {
    let (code, text) = exit("--version", &[]);
    assert_eq!(
        (code, text),
        (0, format!("wsteady {}\n", env!("CARGO_PKG_VERSION")))
    );
    let (code, text) = exit("--help", &[]);
    assert_eq!(code, 0);
    for flag in ["--backend", "--hold", "demo", "check"] {
        assert!(text.contains(flag), "{flag}");
    }
}

#[test]
fn the_admin_token_comes_from_its_variable() {
    let config = config(
        "--backend ws://a --admin :8081",
        &[("WSTEADY_ADMIN_TOKEN", "secret")],
    );
    assert_eq!(config.admin.token.unwrap().reveal(), "secret");
    let command = parse("--backend ws://a", &[("WSTEADY_ADMIN_TOKEN", "secret")]);
    let shown = format!("{command:?}");
    assert!(
        shown.contains("admin.token from WSTEADY_ADMIN_TOKEN"),
        "{shown}"
    );
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn unknown_variables_warn_and_empty_ones_are_unset() {
    let env = [
        ("WSTEADY_HOLDD", "1s"),
        ("WSTEADY_HOLD", ""),
        ("WSTEADY_SECONDS", "3"),
        ("HOLD", "x"),
    ];
    let Ok(Command::Run(run)) = parse("--backend ws://a", &env) else {
        panic!()
    };
    let warnings: Vec<String> = run.warnings.iter().map(Problem::to_string).collect();
    assert_eq!(
        warnings,
        ["WSTEADY_HOLDD: unknown variable; did you mean WSTEADY_HOLD?"]
    );
    assert_eq!(run.config.session.hold, Duration::from_secs(30));
}

#[test]
fn ws2apis_flags_and_variables_are_taken() {
    let whole = [
        ("WS2API_LISTEN", "127.0.0.1:7007"),
        ("WS2API_URL", "http://api:8000/ws/"),
        ("WS2API_MAX_BODY", "2048"),
        ("WS2API_TIMEOUT", "1m30s"),
        ("WS2API_STATS_INTERVAL", "5s"),
    ];
    let flags = "-listen 127.0.0.1:7007 -api=http://api:8000/ws/ -max-body 2048 \
                 -api-timeout=1m30s --stats-interval 5s";
    let both: [(&str, &[(&str, &str)]); 2] = [("", &whole), (flags, &[])];
    for (line, env) in both {
        let Ok(Command::Check { config, text, .. }) = parse(&format!("check {line}"), env) else {
            panic!("{line}")
        };
        assert_eq!(config.listen[0].address.port(), 7007, "{line}");
        assert_eq!(config.limits.message, 2048, "{line}");
        let pool = &config.pools[0];
        assert_eq!(pool.kind, PoolKind::Bridge, "{line}");
        assert_eq!(pool.servers[0].url.to_string(), "http://api:8000/ws/");
        assert_eq!(pool.timeouts.response, Duration::from_secs(90));
        assert_eq!(pool.connections.unwrap().max, 10_000);
        for told in [
            "configuration of ws2api",
            "stats-interval: no numbers",
            "push.allow",
        ] {
            assert!(text.contains(told), "{told} in {text}");
        }
        let file = TempFile::new("ws2api", &text);
        let again = self::config(&format!("--config {}", file.path()), &[]);
        assert_eq!(again, *config);
    }
    // What it has built in.
    let config = config("-max-body 1", &[]);
    assert_eq!(config.listen[0].address.port(), 7001);
    let url = config.pools[0].servers[0].url.to_string();
    assert_eq!(url, "http://localhost:8000/wsoverhttp/");
    // A flag, then wsteady's own variable, then ws2api's.
    let own = [("WSTEADY_LISTEN", ":1"), whole[0], whole[1]];
    assert_eq!(self::config("", &own).listen[0].address.port(), 1);
    assert_eq!(
        self::config("--listen :2", &own).listen[0].address.port(),
        2
    );
    let api = self::config("--api http://b/", &own);
    assert_eq!(api.pools[0].servers[0].url.host, "b");
    // Without a word that it alone has, `-api` is wsteady's.
    let plain = self::config("-api http://b/", &[]);
    assert_eq!(plain.listen[0].address.port(), 8080);
    assert_eq!(plain.pools[0].connections.unwrap().max, 1000);
}

#[test]
fn ws2apis_words_lie_over_a_file() {
    let text = "listen: [\":5\"]\npools: { a: { kind: bridge, servers: [\"http://h/\"] }, \
                b: { kind: http, servers: [\"http://h\"] } }\n";
    let file = TempFile::new("over", text);
    let env = [("WS2API_TIMEOUT", "7s"), ("WS2API_MAX_BODDY", "1")];
    let line = format!("-config {} --api-timeout 9s", file.path());
    let Ok(Command::Run(run)) = parse(&line, &env) else {
        panic!()
    };
    assert_eq!(run.config.listen[0].address.port(), 5);
    let response = |pool: usize| run.config.pools[pool].timeouts.response.as_secs();
    assert_eq!((response(0), response(1)), (9, 60));
    let warnings: Vec<String> = run.warnings.iter().map(Problem::to_string).collect();
    let told = "WS2API_MAX_BODDY: unknown variable; did you mean WS2API_MAX_BODY?";
    assert_eq!(warnings, [told]);
    for (line, told) in [
        (
            "-max-body big",
            "--max-body: max-body: \"big\" is not a whole number",
        ),
        (
            "-max-body 0",
            "--max-body: limits.message: must be at least 1",
        ),
        (
            "-api-timeout 5",
            "--api-timeout: api-timeout: \"5\" has no unit; write 5s or 5ms",
        ),
        (
            "-stats-interval x",
            "--stats-interval: stats-interval: \"x\" is not a time; write 10s, 500ms or 1m30s",
        ),
    ] {
        assert_eq!(exit(line, &[]), (2, format!("wsteady: {told}\n")), "{line}");
    }
    // A flag's API and a variable's servers want the same.
    let (code, _) = exit("--backend ws://a", &[("WS2API_URL", "http://a/")]);
    assert_eq!(code, 2);
}

#[test]
fn wsbalancers_variables_reach_the_configuration() {
    let env = [
        ("BE_URLS", "ws://a:1,ws://b:2"),
        ("FE_ADDR", ":9"),
        ("WSTEADY_LISTEN", ""),
    ];
    let Ok(Command::Run(run)) = parse("", &env) else {
        panic!()
    };
    assert_eq!(run.config.listen[0].address.port(), 9);
    assert_eq!(run.config.pools[0].servers.len(), 2);
    assert!(
        run.warnings
            .iter()
            .any(|one| one.message.contains("WSTEADY_ADMIN_TOKEN"))
    );
    // And again at a SIGHUP.
    assert_eq!(run.sources.load().unwrap().config, run.config);
    let over = [env[0], env[1], ("WSTEADY_LISTEN", ":10")];
    assert_eq!(config("", &over).listen[0].address.port(), 10);
    assert_eq!(config("--backend ws://c", &env).pools[0].servers.len(), 1);
}

#[test]
fn check_explains() {
    let file = TempFile::new("check", POOL);
    let Ok(Command::Check {
        config,
        text,
        warnings,
    }) = parse(&format!("check --config {}", file.path()), &[])
    else {
        panic!()
    };
    assert_eq!(config.pools[0].name, "chat");
    assert!(
        text.starts_with("# Clients are taken on 0.0.0.0:8080, by one loop per core.\n"),
        "{text}"
    );
    assert_eq!(warnings, []);
}

#[test]
fn preflight_takes_the_pools_or_stands_one_in() {
    let options = |line: &str| match parse(line, &[]) {
        Ok(Command::Preflight(options)) => options,
        other => panic!("{line}: {other:?}"),
    };
    let alone = options("preflight");
    assert!(alone.is_assumed && !alone.json);
    assert_eq!(alone.connections, 250_000);
    assert_eq!(alone.config.pools[0].kind, PoolKind::Websocket);
    let file = TempFile::new("preflight", POOL);
    let line = format!(
        "preflight --connections 7 --config {} --loops 3 --json",
        file.path()
    );
    let own = options(&line);
    assert!(!own.is_assumed && own.json);
    assert_eq!((own.connections, own.config.loops.count()), (7, 3));
    assert_eq!(own.config.pools[0].name, "chat");
    assert!(!options("preflight --api http://a/").is_assumed);
}

#[test]
fn what_is_generated_goes_to_stdout() {
    for (what, word) in [
        ("man", ".TH wsteady 1"),
        ("completions bash", "complete -F"),
        ("completions zsh", "#compdef wsteady"),
        ("completions fish", "complete -c wsteady"),
        ("config", "pools:"),
        ("unit", "Type=notify"),
        ("sysctl", "net.core.somaxconn = "),
        ("openapi", "\"openapi\": \"3.1.0\""),
    ] {
        let (code, text) = exit(&format!("generate {what}"), &[]);
        assert_eq!(code, 0, "{what}");
        assert!(text.contains(word), "{what}: {text}");
        assert!(text.ends_with('\n'), "{what}");
    }
    assert_eq!(exit("generate", &[]).0, 2);
    assert_eq!(exit("generate completions", &[]).0, 2);
    assert_eq!(exit("generate completions tcsh", &[]).0, 2);
}

#[test]
fn sources_read_the_file_again_under_the_same_flags() {
    let file = TempFile::new("again", POOL);
    let line = format!("--config {} --hold 1s", file.path());
    let Ok(Command::Run(run)) = parse(&line, &[]) else {
        panic!()
    };
    std::fs::write(
        &file.0,
        format!("{POOL}drain: 7s\nsession: {{ hold: 9s }}\n"),
    )
    .unwrap();
    let again = run.sources.load().unwrap().config;
    assert_eq!(
        (again.drain.as_secs(), again.session.hold.as_secs()),
        (7, 1)
    );
    std::fs::write(&file.0, "drain: 7s\npools: 3\n").unwrap();
    assert!(run.sources.load().is_err());
}

#[test]
fn the_demo_stays_at_home() {
    let Ok(Command::Demo(demo)) = parse("demo", &[]) else {
        panic!()
    };
    assert_eq!(demo.length, None);
    assert!(demo.listen.ip().is_loopback() && demo.admin.ip().is_loopback());
    let line = "demo --seconds 10 --listen 127.0.0.1:0 --admin 127.0.0.1:0 --log-level warn";
    let Ok(Command::Demo(demo)) = parse(line, &[]) else {
        panic!()
    };
    assert_eq!(demo.length, Some(Duration::from_secs(10)));
    assert_eq!((demo.listen.port(), demo.admin.port()), (0, 0));
    assert_eq!(demo.log.level.to_string(), "warn");
}
