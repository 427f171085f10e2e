//! The proxies that scenarios are played against, and how each is started.

use crate::tls::Pair;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Proxy {
    Wsteady,
    Nginx,
    Haproxy,
    /// The cheapest one there can be: it copies bytes.
    Relay,
}

/// Where proxies are started, and from what.
pub struct Stage<'a> {
    pub wsteady: &'a Path,
    pub bench: &'a Path,
    /// For configurations and logs.
    pub work: &'a Path,
    pub core: Option<usize>,
    /// Where echo servers listen.
    pub servers: [SocketAddr; 2],
    /// What it shows clients, if it is to speak TLS with them.
    pub pair: Option<&'a Pair>,
}

/// A process that ends with its owner.
pub struct Running {
    child: Child,
    /// The process that does the work.
    pub pid: u32,
    pub address: SocketAddr,
    /// Where its metrics are, if it has any.
    pub metrics: Option<SocketAddr>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // nginx's master would leave its worker behind if it were killed.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(PACE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    pub fn name(self) -> &'static str {
        match self {
            Self::Wsteady => "wsteady",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Relay => "relay",
        }
    }

    pub fn has_tls(self) -> bool {
        self != Self::Relay
    }

    /// Where its program is, if it is here.
    pub fn program(self, wsteady: &Path, bench: &Path) -> Option<PathBuf> {
        match self {
            Self::Wsteady => found(wsteady),
            Self::Nginx => found(Path::new("nginx")),
            Self::Haproxy => found(Path::new("haproxy")),
            Self::Relay => Some(bench.to_path_buf()),
        }
    }

    /// Starts it in front of the servers.
    ///
    /// # Errors
    /// It is not installed, or does not accept anybody within ten seconds.
    pub fn start(self, stage: &Stage) -> io::Result<Running> {
        let missing = || io::Error::other(format!("{} is not installed", self.name()));
        let program = self
            .program(stage.wsteady, stage.bench)
            .ok_or_else(missing)?;
        let address = free_address()?;
        let metrics = (self == Self::Wsteady).then(free_address).transpose()?;
        let mut command = on_core(&program, stage.core);
        self.arguments(&mut command, address, metrics, stage)?;
        let log = fs::File::create(stage.work.join(format!("{}.log", self.name())))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn()?;
        let mut running = Running {
            pid: child.id(),
            child,
            address,
            metrics,
        };
        running.wait(self.name())?;
        if self == Self::Nginx {
            // It listens before it has its worker.
            let deadline = Instant::now() + START;
            running.pid = loop {
                match only_child(running.child.id()) {
                    Err(_) if Instant::now() < deadline => std::thread::sleep(PACE),
                    found => break found?,
                }
            };
        }
        Ok(running)
    }

    fn arguments(
        self,
        command: &mut Command,
        address: SocketAddr,
        metrics: Option<SocketAddr>,
        stage: &Stage,
    ) -> io::Result<()> {
        match self {
            Self::Wsteady => {
                command.args(["--loops", "1", "--log-level", "warn"]);
                if let Some(pair) = stage.pair {
                    let file = stage.work.join("wsteady.yaml");
                    fs::write(&file, wsteady_config(address, stage, pair))?;
                    command.arg("--config").arg(file);
                } else {
                    command.args(["--listen", &address.to_string()]);
                    for server in stage.servers {
                        command.args(["--backend", &format!("ws://{server}")]);
                    }
                }
                if let Some(metrics) = metrics {
                    command.args(["--admin", &metrics.to_string()]);
                }
            }
            Self::Nginx => {
                let file = stage.work.join("nginx.conf");
                fs::write(&file, nginx_config(address, stage))?;
                let log = stage.work.join("nginx.log");
                command.arg("-e").arg(log).arg("-c").arg(file);
            }
            Self::Haproxy => {
                let file = stage.work.join("haproxy.cfg");
                fs::write(&file, haproxy_config(address, stage))?;
                command.arg("-db").arg("-f").arg(file);
            }
            Self::Relay => {
                let (address, first) = (address.to_string(), stage.servers[0].to_string());
                command.args(["relay", "--listen", &address, "--to", &first]);
            }
        }
        Ok(())
    }
}

impl Running {
    /// Starts an echo server of this program; the kernel chooses its port.
    ///
    /// # Errors
    /// It ended at its start.
    pub fn echo(bench: &Path, core: Option<usize>) -> io::Result<Self> {
        let mut command = on_core(bench, core);
        command.args(["echo", "--listen", "127.0.0.1:0", "--threads", "2"]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take();
        let mut running = Self {
            pid: child.id(),
            child,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            metrics: None,
        };
        let mut line = String::new();
        if let Some(out) = out {
            BufReader::new(out).read_line(&mut line)?;
        }
        let address = line.trim().rsplit(' ').next().unwrap_or_default();
        let wrong = |_| io::Error::other("the echo server did not start");
        running.address = address.parse().map_err(wrong)?;
        Ok(running)
    }

    fn wait(&mut self, name: &str) -> io::Result<()> {
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                let what = format!("{name} ended at its start with {status}; see {name}.log");
                return Err(io::Error::other(what));
            }
            std::thread::sleep(PACE);
        }
        Err(io::Error::other(format!("{name} takes nobody after 10 s")))
    }
}

fn on_core(program: &Path, core: Option<usize>) -> Command {
    let Some(core) = core else {
        return Command::new(program);
    };
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// A program by its path, or by its name in `PATH` and where daemons live.
fn found(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_path_buf());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = std::env::split_paths(&path).collect();
    places.push(PathBuf::from("/usr/sbin"));
    let mut files = places.into_iter().map(|place| place.join(program));
    files.find(|file| file.is_file())
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// nginx's master only waits; its one child is the worker.
fn only_child(pid: u32) -> io::Result<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let mut children = text.split_whitespace().map(str::parse);
    match (children.next(), children.next()) {
        (Some(Ok(child)), None) => Ok(child),
        _ => Err(io::Error::other("nginx has not one worker")),
    }
}

fn nginx_config(address: SocketAddr, stage: &Stage) -> String {
    let work = stage.work.display();
    let [first, second] = stage.servers;
    let descriptors = crate::sys::raise_descriptor_limit().min(1_000_000);
    let connections = descriptors.saturating_sub(100);
    let (ssl, keys) = stage.pair.map_or((" ", String::new()), |pair| {
        let (cert, key) = (pair.cert.display(), pair.key.display());
        let lines = format!(
            "    ssl_certificate {cert};\n    ssl_certificate_key {key};\n\
             \x20   ssl_protocols TLSv1.2 TLSv1.3;\n"
        );
        (" ssl ", lines)
    });
    format!(
        "worker_processes 1;\ndaemon off;\npid {work}/nginx.pid;\n\
         worker_rlimit_nofile {descriptors};\n\
         events {{ worker_connections {connections}; }}\n\
         http {{\n  access_log off;\n\
           client_body_temp_path {work}/nginx; proxy_temp_path {work}/nginx;\n\
           fastcgi_temp_path {work}/nginx; uwsgi_temp_path {work}/nginx; scgi_temp_path {work}/nginx;\n\
           map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}\n\
           upstream servers {{ server {first}; server {second}; }}\n\
           server {{\n    listen {address}{ssl}backlog=65535;\n{keys}    location / {{\n\
               proxy_pass http://servers;\n      proxy_http_version 1.1;\n\
               proxy_set_header Host $host;\n      proxy_set_header Upgrade $http_upgrade;\n\
               proxy_set_header Connection $connection_upgrade;\n\
               proxy_read_timeout 1h;\n      proxy_send_timeout 1h;\n    }}\n  }}\n}}\n"
    )
}

fn wsteady_config(address: SocketAddr, stage: &Stage, pair: &Pair) -> String {
    let (cert, key) = (pair.cert.display(), pair.key.display());
    let [first, second] = stage.servers;
    format!(
        "listen: [{{ address: \"{address}\", tls: {{ cert: \"{cert}\", key: \"{key}\" }} }}]\n\
         pools: {{ echo: {{ servers: [\"ws://{first}\", \"ws://{second}\"] }} }}\n"
    )
}

fn haproxy_config(address: SocketAddr, stage: &Stage) -> String {
    let [first, second] = stage.servers;
    let tls = stage.pair.map_or(String::new(), |pair| {
        format!(" ssl crt {} alpn http/1.1", pair.both.display())
    });
    let descriptors = crate::sys::raise_descriptor_limit().min(1_000_000);
    let connections = (descriptors / 2).saturating_sub(100);
    format!(
        "global\n  nbthread 1\n  maxconn {connections}\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n\
         \x20 timeout server 1h\n  timeout tunnel 1h\n\
         frontend clients\n  bind {address} backlog 65535{tls}\n  default_backend servers\n\
         backend servers\n  option redispatch\n\
         \x20 server first {first} check inter 1s\n  server second {second} check inter 1s\n"
    )
}

const START: Duration = Duration::from_secs(10);
const END: Duration = Duration::from_secs(5);
const PACE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        assert!(found(Path::new("sh")).is_some_and(|path| path.is_absolute()));
        assert_eq!(found(Path::new("no-such-program-here")), None);
        assert_eq!(found(Path::new("/no/such/file")), None);
    }

    #[test]
    fn what_was_started_ends_with_its_owner() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        drop(Running {
            child,
            pid,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            metrics: None,
        });
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
