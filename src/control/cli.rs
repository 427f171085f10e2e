//! The command line and the environment: from words to a [`Command`].
//!
//! Nothing here reads the process's own arguments or variables: both are handed in, so that every
//! combination can be tested. The one thing touched is the configuration file they name.

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use super::config::{
    BALANCER_VARIABLES, Config, FlagPool, LogConfig, Place, PoolKind, Problem, Problems, Sources,
    WS2API_API, WS2API_LISTEN, WS2API_VARIABLES, Ws2api, explain, nearest, parse_duration,
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

/// The variables that begin with `WSTEADY_`, and those of the older proxies.
struct Env {
    values: Vec<(String, OsString)>,
    /// Those that some flag asked for.
    known: Vec<String>,
}

impl Env {
    fn new(env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Env, Exit> {
        let name = |name: OsString| {
            name.into_string().ok().filter(|name| {
                name.starts_with(PREFIX)
                    || name.starts_with("WS2API_")
                    || BALANCER_VARIABLES.contains(&name.as_str())
            })
        };
        let own = env
            .into_iter()
            .filter_map(|(key, value)| Some((name(key)?, value)));
        // An empty variable is how a unit file or a compose file unsets one.
        let mut values: Vec<_> = own.filter(|(_, value)| !value.is_empty()).collect();
        values.sort();
        Ok(Env {
            values,
            known: Vec::new(),
        })
    }

    /// The flag's value if it was given, else its variable's; with the name of what gave it.
    fn pick(
        &mut self,
        flag: &Option<String>,
        name: &str,
    ) -> Result<Option<(String, String)>, Exit> {
        let variable = variable(name);
        let found = self.take(&variable)?;
        Ok(match flag {
            Some(value) => Some((value.clone(), format!("--{name}"))),
            None => found.map(|value| (value, variable)),
        })
    }

    /// As [`Env::pick`] for a flag that may be given several times; a variable lists by comma.
    fn pick_list(
        &mut self,
        flags: &[String],
        name: &str,
    ) -> Result<Option<(Vec<String>, String)>, Exit> {
        let variable = variable(name);
        let found = self.take(&variable)?;
        if !flags.is_empty() {
            return Ok(Some((flags.to_vec(), format!("--{name}"))));
        }
        let items = |list: String| list.split(',').map(|item| item.trim().to_owned()).collect();
        Ok(found.map(|list| (items(list), variable)))
    }

    fn take(&mut self, variable: &str) -> Result<Option<String>, Exit> {
        let Some(value) = self.find(variable) else {
            return Ok(None);
        };
        let text = value.to_str().map(str::to_owned);
        text.map(Some)
            .ok_or_else(|| Exit::wrong(format!("{variable}: is not UTF-8")))
    }

    /// Those of a list of variables that are set, with their values.
    fn take_all(&mut self, names: &[&str]) -> Result<Vec<(String, String)>, Exit> {
        let mut all = Vec::new();
        for name in names {
            if let Some(value) = self.take(name)? {
                all.push(((*name).to_owned(), value));
            }
        }
        Ok(all)
    }

    fn has(&self, variable: &str) -> bool {
        self.values.iter().any(|(name, _)| name == variable)
    }

    fn take_path(&mut self, variable: &str) -> Option<PathBuf> {
        self.find(variable).map(PathBuf::from)
    }

    fn find(&mut self, variable: &str) -> Option<OsString> {
        self.known.push(variable.to_owned());
        let found = self.values.iter().find(|(name, _)| name == variable);
        found.map(|(_, value)| value.clone())
    }

    /// One warning for each variable that nothing asked for. A typo would else go unseen, but an
    /// error would let a container's stray variable keep a proxy from starting.
    fn unknown(&self) -> Vec<Problem> {
        let flags = Words::command();
        let of_flags = flags
            .get_arguments()
            .filter_map(|arg| arg.get_long())
            .map(variable);
        let mut known: Vec<String> = of_flags.chain(self.known.iter().cloned()).collect();
        known.extend(OTHER_VARIABLES.iter().map(|name| (*name).to_owned()));
        let mut notes = Vec::new();
        for prefix in [PREFIX, WS2API_PREFIX] {
            // Without the prefix that all have, which would make each near to every other.
            let bare = |name: &String| name.strip_prefix(prefix).map(str::to_owned);
            let bare_known: Vec<String> = known.iter().filter_map(bare).collect();
            let given = self.values.iter().map(|(name, _)| name);
            for name in given.filter(|name| !known.contains(name)) {
                let Some(bare) = bare(name) else { continue };
                let near = nearest(&bare, bare_known.iter().map(String::as_str));
                let message = match near {
                    Some(near) => format!("unknown variable; did you mean {prefix}{near}?"),
                    None => "unknown variable".to_owned(),
                };
                let place = Place::named(name);
                notes.push(Problem { place, message });
            }
        }
        notes
    }
}

/// `log-level` is `WSTEADY_LOG_LEVEL`.
fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_ascii_uppercase().replace('-', "_"))
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

const PREFIX: &str = "WSTEADY_";

/// The contract's target for one host.
const PREFLIGHT_CONNECTIONS: u64 = 250_000;

/// More than a host has memory for.
const PREFLIGHT_CONNECTIONS_MAX: u64 = 1_000_000_000;
const WS2API_PREFIX: &str = "WS2API_";

/// Where values stand that ws2api has built in.
const WS2API_DEFAULT: &str = "ws2api's default";

const WS2API_HEADING: &str = "Of ws2api";

/// Variables of flags that only subcommands have.
const OTHER_VARIABLES: &[&str] = &["WSTEADY_SECONDS", "WSTEADY_CONNECTIONS", "WSTEADY_BRIDGE"];

/// The demo shows itself to this machine alone.
const DEMO_LISTEN: &str = "127.0.0.1:8080";

#[cfg(test)]
mod tests {
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
            let Ok(Command::Check { config, text, .. }) = parse(&format!("check {line}"), env)
            else {
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
}
