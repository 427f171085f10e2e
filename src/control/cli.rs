//! The command line and the environment: from words to a [`Command`].
//!
//! Nothing here reads the process's own arguments or variables: both are handed in, so that every
//! combination can be tested. The one thing touched is the configuration file they name.

mod env;

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use env::Env;

use super::config::{
    BALANCER_VARIABLES, Config, FlagPool, LogConfig, PoolKind, Problem, Problems, Sources,
    WS2API_API, WS2API_LISTEN, WS2API_VARIABLES, Ws2api, explain, parse_duration,
};
use super::demo::Speech;
use super::generate;
use super::preflight;
use super::profile::files::Files;

/// What the process shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Proxy, until told to stop.
    Run(Box<Run>),
    /// Print `text`, and `warnings` to stderr; exit 0.
    Check {
        config: Box<Config>,
        text: String,
        warnings: Vec<Problem>,
    },
    /// Everything in one process, for a first look.
    Demo(DemoOptions),
    /// Compare this machine's limits with what so many connections need.
    Preflight(preflight::Options),
}

/// A checked configuration, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub config: Config,
    /// For the log, once there is one.
    pub warnings: Vec<Problem>,
    /// For SIGHUP: [`Sources::load`] reads the file again under the same flags and environment.
    pub sources: Sources,
    /// `--cpuprofile` and `--memprofile`.
    pub profiles: Files,
}

/// What `wsteady demo` was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// What its servers speak: `--bridge` makes them an API.
    pub speech: Speech,
    /// End by itself after this time. `None`: when told to.
    pub length: Option<Duration>,
    /// Address for clients; loopback unless asked for otherwise.
    pub listen: SocketAddr,
    /// Address of the page. Always loopback: the demo has no token.
    pub admin: SocketAddr,
    pub log: LogConfig,
}

/// The process ends here: print `text` and leave with `code`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0: help, version or what was generated, to stdout. 2: a wrong command line or configuration, to stderr.
    pub code: u8,
    /// Ends in a newline.
    pub text: String,
}

impl Exit {
    /// Prints the text where it belongs, and gives the code for the process.
    pub fn report(&self) -> std::process::ExitCode {
        // Not `print!`, which panics when the reader (`| head`) has gone.
        let _ = match self.code {
            0 => std::io::stdout().write_all(self.text.as_bytes()),
            _ => std::io::stderr().write_all(self.text.as_bytes()),
        };
        self.code.into()
    }

    fn wrong(text: impl fmt::Display) -> Exit {
        Exit {
            code: WRONG_USE,
            text: format!("wsteady: {text}\n"),
        }
    }
}

impl From<Problems> for Exit {
    fn from(problems: Problems) -> Exit {
        let lines = problems
            .iter()
            .map(|problem| format!("wsteady: {problem}\n"));
        Exit {
            code: WRONG_USE,
            text: lines.collect(),
        }
    }
}

/// Reads `args` (the program's name first) and `env`.
///
/// # Errors
/// An [`Exit`] for wrong words and wrong configurations, but also for `--help`, `--version` and what
/// `generate` makes.
pub fn parse_from(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Command, Exit> {
    let words = Words::try_parse_from(normal_args(args)).map_err(|error| usage_exit(&error))?;
    let mut env = Env::new(env)?;
    match words.command {
        None => run(&words.flags, &mut env),
        Some(Sub::Run(flags)) => run(&flags, &mut env),
        Some(Sub::Check(flags)) => check(&flags, &mut env),
        Some(Sub::Demo(flags)) => demo(&flags, &mut env),
        Some(Sub::Preflight(flags)) => preflight(&flags, &mut env),
        Some(Sub::Generate { what }) => Err(generated(&what)),
    }
}

/// The command line as clap has it, for the man page and the completions.
pub fn command() -> clap::Command {
    Words::command()
}

/// The words as clap reads them. Values stay text: the configuration's reader checks them, so that
/// a flag and a file's key can't differ in what they take.
#[derive(Parser)]
#[command(
    name = "wsteady",
    version,
    about = "A proxy whose WebSocket sessions outlive their connections",
    args_conflicts_with_subcommands = true,
    after_help = "Every flag has an environment variable: --listen is WSTEADY_LISTEN, and so on; \
                  lists by comma. A flag wins over its variable, that over those of wsbalancer and \
                  ws2api, those over the file."
)]
struct Words {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Sub>,
}

#[derive(Subcommand)]
enum Sub {
    /// Proxy until told to stop (this is the default)
    Run(Flags),
    /// Two servers, the proxy and a page in one process
    Demo(DemoFlags),
    /// Read a configuration and say what it means
    Check(Flags),
    /// Say which limits of this machine are too small for so many connections
    Preflight(PreflightFlags),
    /// Print a man page, completions, a configuration, a unit, kernel settings
    Generate {
        #[command(subcommand)]
        what: What,
    },
}

#[derive(Subcommand)]
enum What {
    /// The man page
    Man,
    /// Completions for a shell
    Completions { shell: Shell },
    /// The default configuration, with comments
    Config,
    /// The systemd unit
    Unit,
    /// Kernel settings for many connections, for /etc/sysctl.d
    Sysctl,
    /// The description of the admin API (OpenAPI)
    Openapi,
}

#[derive(Args)]
struct PreflightFlags {
    /// Client connections to prepare for [default: 250000]
    #[arg(long, value_name = "N")]
    connections: Option<String>,
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Args, Default)]
struct Flags {
    /// The YAML file, or an older proxy's own
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address for clients; may be given several times [default: :8080]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// PEM file with a certificate, for the first address for clients
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// PEM file with its key
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// The operator's address [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// A WebSocket server; several make one pool
    #[arg(long, value_name = "ws://HOST:PORT")]
    backend: Vec<String>,
    /// An HTTP API, bridged to WebSocket clients; several make one pool
    #[arg(long, value_name = "http://HOST:PORT/")]
    api: Vec<String>,
    /// An HTTP server for what is no upgrade; several make one pool
    #[arg(long, value_name = "http://HOST:PORT")]
    http: Vec<String>,
    /// Threads that carry sessions [default: auto]
    #[arg(long, value_name = "auto|N")]
    loops: Option<String>,
    /// Bound on all journals and queues together [default: 4GiB]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Bound on what one session keeps [default: 5MiB]
    #[arg(long, value_name = "SIZE")]
    buffer: Option<String>,
    /// How long a session waits for another server [default: 30s]
    #[arg(long, value_name = "TIME")]
    hold: Option<String>,
    /// What counts as delivered: written, received or processed [default: received]
    #[arg(long, value_name = "LEVEL")]
    confirm: Option<String>,
    /// Write a CPU profile of the run there, at its end, for `go tool pprof`
    #[arg(long, value_name = "FILE")]
    cpuprofile: Option<PathBuf>,
    /// Write a heap profile there, at the end and at USR1
    #[arg(long, value_name = "FILE")]
    memprofile: Option<PathBuf>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// As ws2api has it: bound on messages, pushes and answers of an API
    #[arg(long, value_name = "BYTES", help_heading = WS2API_HEADING)]
    max_body: Option<String>,
    /// As ws2api has it: time for an answer of an API
    #[arg(long, value_name = "TIME", help_heading = WS2API_HEADING)]
    api_timeout: Option<String>,
    /// As ws2api has it; taken, but nothing comes of it
    #[arg(long, value_name = "TIME", help_heading = WS2API_HEADING)]
    stats_interval: Option<String>,
}

#[derive(Args)]
struct DemoFlags {
    /// The bridge: the servers are an HTTP API, each message a call
    #[arg(long)]
    bridge: bool,
    /// End after so many seconds
    #[arg(long, value_name = "N")]
    seconds: Option<String>,
    /// Address for clients [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address of the page, on loopback [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

fn run(flags: &Flags, env: &mut Env) -> Result<Command, Exit> {
    let profiles = profiles(flags, env)?;
    let sources = sources(flags, env)?;
    let mut loaded = sources.load()?;
    if let Some(older) = loaded.older {
        loaded.warnings.extend(older.notes);
    }
    Ok(Command::Run(Box::new(Run {
        config: loaded.config,
        warnings: loaded.warnings,
        sources,
        profiles,
    })))
}

fn check(flags: &Flags, env: &mut Env) -> Result<Command, Exit> {
    profiles(flags, env)?;
    let loaded = sources(flags, env)?.load()?;
    let mut text = explain(&loaded.config);
    if let Some(older) = &loaded.older {
        text.push_str(&older.page());
    }
    Ok(Command::Check {
        config: Box::new(loaded.config),
        text,
        warnings: loaded.warnings,
    })
}

fn preflight(flags: &PreflightFlags, env: &mut Env) -> Result<Command, Exit> {
    let connections = match env.pick(&flags.connections, "connections")? {
        None => PREFLIGHT_CONNECTIONS,
        Some((text, origin)) => match text.parse() {
            Ok(count) if (1..=PREFLIGHT_CONNECTIONS_MAX).contains(&count) => count,
            _ => {
                return Err(Exit::wrong(format!(
                    "{origin}: {text:?} is not a number from 1 to {PREFLIGHT_CONNECTIONS_MAX}"
                )));
            }
        },
    };
    profiles(&flags.flags, env)?;
    let mut sources = sources(&flags.flags, env)?;
    let is_assumed = !sources.names_pools();
    if is_assumed {
        sources.put_pools(&[FlagPool {
            kind: PoolKind::Websocket,
            urls: vec!["ws://127.0.0.1:1".into()],
            origin: "preflight".into(),
        }]);
    }
    let loaded = sources.load()?;
    Ok(Command::Preflight(preflight::Options {
        connections,
        config: Box::new(loaded.config),
        is_assumed,
        json: flags.json,
        warnings: loaded.warnings,
    }))
}

fn generated(what: &What) -> Exit {
    let text = match what {
        What::Man => generate::man(command()),
        What::Completions { shell } => generate::completions(*shell, command()),
        What::Config => generate::config().to_owned(),
        What::Unit => generate::unit().to_owned(),
        What::Sysctl => generate::sysctl(),
        What::Openapi => generate::openapi(),
    };
    Exit { code: 0, text }
}

/// Lays flags over variables over the file that one of them names.
fn sources(flags: &Flags, env: &mut Env) -> Result<Sources, Exit> {
    let file = flags
        .config
        .clone()
        .or_else(|| env.take_path("WSTEADY_CONFIG"));
    let mut sources = file.map_or_else(Sources::default, Sources::from_file);
    sources.put_variables(env.take_all(BALANCER_VARIABLES)?);
    let mut ws2api = ws2api(flags, env)?;
    let listen = env.pick_list(&flags.listen, "listen")?;
    let older = env.take("WS2API_LISTEN")?;
    let older = older.map(|address| (vec![address], "WS2API_LISTEN".to_owned()));
    let usual = || (vec![WS2API_LISTEN.to_owned()], WS2API_DEFAULT.to_owned());
    let usual = (ws2api.is_some() && sources.file.is_none()).then(usual);
    if let Some((addresses, origin)) = listen.or(older).or(usual) {
        sources.put_listeners(&addresses, &origin);
    }
    let mut pools = Vec::new();
    for (flags, name, kind) in [
        (&flags.backend, "backend", PoolKind::Websocket),
        (&flags.api, "api", PoolKind::Bridge),
        (&flags.http, "http", PoolKind::Http),
    ] {
        let mut given = env.pick_list(flags, name)?;
        if kind == PoolKind::Bridge {
            let older = env.take("WS2API_URL")?;
            given = given.or(older.map(|url| (vec![url], "WS2API_URL".to_owned())));
        }
        if let Some((urls, origin)) = given {
            pools.push(FlagPool { kind, urls, origin });
        }
    }
    if let Some(ws2api) = &mut ws2api {
        if pools.is_empty() && sources.file.is_none() && !env.has("BE_URLS") {
            pools.push(FlagPool {
                kind: PoolKind::Bridge,
                urls: vec![WS2API_API.to_owned()],
                origin: WS2API_DEFAULT.to_owned(),
            });
        }
        ws2api.has_pool = pools.iter().any(|pool| pool.kind == PoolKind::Bridge);
    }
    sources.put_pools(&pools);
    if let Some(ws2api) = ws2api {
        ws2api
            .lay(&mut sources)
            .map_err(|problem| Problems::from(vec![problem]))?;
    }
    let table: [(&Option<String>, &str, &'static [&'static str]); 8] = [
        (&flags.admin, "admin", &["admin", "address"]),
        (&flags.loops, "loops", &["loops"]),
        (&flags.memory, "memory", &["limits", "memory"]),
        (&flags.buffer, "buffer", &["session", "buffer"]),
        (&flags.hold, "hold", &["session", "hold"]),
        (&flags.confirm, "confirm", &["session", "confirm"]),
        (&flags.log_level, "log-level", &["log", "level"]),
        (&flags.log_format, "log-format", &["log", "format"]),
    ];
    for (flag, name, path) in table {
        if let Some((value, origin)) = env.pick(flag, name)? {
            sources.put(path, &value, &origin);
        }
    }
    let table = [
        (&flags.tls_cert, "tls-cert", "cert"),
        (&flags.tls_key, "tls-key", "key"),
    ];
    for (flag, name, key) in table {
        if let Some((value, origin)) = env.pick(flag, name)? {
            sources.put_tls(key, &value, &origin);
        }
    }
    // A variable alone: whoever may list processes would read it from a command line.
    if let Some(token) = env.take("WSTEADY_ADMIN_TOKEN")? {
        sources.put(&["admin", "token"], &token, "WSTEADY_ADMIN_TOKEN");
    }
    env.unknown()
        .into_iter()
        .for_each(|note| sources.note(note));
    Ok(sources)
}

/// What was given in ws2api's words. `None`: none of its variables, and no flag that it alone has.
fn ws2api(flags: &Flags, env: &mut Env) -> Result<Option<Ws2api>, Exit> {
    let mut pick = |flag: &Option<String>, name: &str, older: &str| -> Result<_, Exit> {
        let own = env.pick(flag, name)?;
        let older = env.take(older)?.map(|value| (value, older.to_owned()));
        Ok(own.or(older))
    };
    let given = Ws2api {
        max_body: pick(&flags.max_body, "max-body", "WS2API_MAX_BODY")?,
        api_timeout: pick(&flags.api_timeout, "api-timeout", "WS2API_TIMEOUT")?,
        stats_interval: pick(
            &flags.stats_interval,
            "stats-interval",
            "WS2API_STATS_INTERVAL",
        )?,
        has_pool: false,
    };
    let flagged = [&given.max_body, &given.api_timeout, &given.stats_interval];
    let spoken = WS2API_VARIABLES.iter().any(|name| env.has(name));
    Ok((spoken || flagged.iter().any(|flag| flag.is_some())).then_some(given))
}

/// The profiles that were asked for. A command that runs nothing knows the words, too.
fn profiles(flags: &Flags, env: &mut Env) -> Result<Files, Exit> {
    let mut pick = |flag: &Option<PathBuf>, name: &str| -> Result<_, Exit> {
        let flag = flag
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned());
        Ok(env.pick(&flag, name)?.map(|(path, _)| path.into()))
    };
    Ok(Files {
        cpu: pick(&flags.cpuprofile, "cpuprofile")?,
        heap: pick(&flags.memprofile, "memprofile")?,
    })
}

fn demo(flags: &DemoFlags, env: &mut Env) -> Result<Command, Exit> {
    // The configuration's reader checks the few keys that the demo shares with it. The server is
    // a stand-in: the demo starts its own.
    let mut sources = Sources::default();
    sources.put_pools(&[FlagPool {
        kind: PoolKind::Websocket,
        urls: vec!["ws://127.0.0.1:1".into()],
        origin: "demo".into(),
    }]);
    let table: [(&Option<String>, &str, &'static [&'static str], &str); 2] = [
        (&flags.log_level, "log-level", &["log", "level"], "warn"),
        (&flags.log_format, "log-format", &["log", "format"], "text"),
    ];
    for (flag, name, path, default) in table {
        let (value, origin) = env
            .pick(flag, name)?
            .unwrap_or((default.into(), "demo".into()));
        sources.put(path, &value, &origin);
    }
    let (listen, origin) = env
        .pick(&flags.listen, "listen")?
        .unwrap_or((DEMO_LISTEN.into(), "demo".into()));
    sources.put_listeners(&[listen], &origin);
    if let Some((admin, origin)) = env.pick(&flags.admin, "admin")? {
        sources.put(&["admin", "address"], &admin, &origin);
    }
    let config = sources.load()?.config;
    let listen = config.listen[0].address;
    let length = demo_length(env.pick(&flags.seconds, "seconds")?)?;
    let speech = if flags.bridge {
        Speech::Api
    } else {
        Speech::WebSocket
    };
    Ok(Command::Demo(DemoOptions {
        speech,
        length,
        listen,
        admin: config.admin.address,
        log: config.log,
    }))
}

/// Whole seconds, or any time with its unit.
fn demo_length(picked: Option<(String, String)>) -> Result<Option<Duration>, Exit> {
    let Some((text, origin)) = picked else {
        return Ok(None);
    };
    let bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let time = if bare { format!("{text}s") } else { text };
    match parse_duration(&time) {
        Ok(Duration::ZERO) => Err(Exit::wrong(format!("{origin}: must be more than 0"))),
        Ok(time) => Ok(Some(time)),
        Err(message) => Err(Exit::wrong(format!("{origin}: {message}"))),
    }
}

/// Go's way to write a flag, `-cpuprofile=F`, becomes clap's: one dash before a long name turns
/// into two. Users of older proxies have such lines in their units.
fn normal_args(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let command = Words::command();
    let longs: Vec<&str> = command
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .collect();
    let mut literal = false;
    let normal = |arg: OsString| {
        literal |= arg == "--";
        let Some(text) = arg.to_str().filter(|_| !literal) else {
            return arg;
        };
        let name = text
            .strip_prefix('-')
            .map(|rest| rest.split('=').next().unwrap_or(rest));
        match name.is_some_and(|name| longs.contains(&name)) {
            true => format!("-{text}").into(),
            false => arg,
        }
    };
    args.into_iter().map(normal).collect()
}

fn usage_exit(error: &clap::Error) -> Exit {
    let code = if error.use_stderr() { WRONG_USE } else { 0 };
    let text = error.render().to_string();
    Exit {
        code,
        text: format!("{}\n", text.trim_end()),
    }
}

/// What clap itself uses, and `RestartPreventExitStatus=2` in a unit waits for.
const WRONG_USE: u8 = 2;

/// The contract's target for one host.
const PREFLIGHT_CONNECTIONS: u64 = 250_000;

/// More than a host has memory for.
const PREFLIGHT_CONNECTIONS_MAX: u64 = 1_000_000_000;

/// Where values stand that ws2api has built in.
const WS2API_DEFAULT: &str = "ws2api's default";

const WS2API_HEADING: &str = "Of ws2api";

/// The demo shows itself to this machine alone.
const DEMO_LISTEN: &str = "127.0.0.1:8080";

#[cfg(test)]
mod tests;
