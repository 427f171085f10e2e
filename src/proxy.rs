//! The front door: a configuration becomes running loops.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::info;

use crate::builder::Builder;
use crate::control::admin::{self, AdminServer, Annex, Desk};
use crate::control::assemble::{Assembly, assemble};
use crate::control::cluster::{self, Cluster};
use crate::control::config::{Config, ListenConfig};
#[cfg(feature = "tls")]
use crate::control::locksmith::{self, Locksmith};
#[cfg(feature = "nats")]
use crate::control::nats::Couriers;
use crate::control::recruiter::Recruiter;
use crate::control::reload::Reloader;
use crate::control::report;
use crate::control::resolver::{Lookup, Names, Resolver};
use crate::control::switchboard::Switchboard;
use crate::control::watch::Watching;
#[cfg(not(feature = "tls"))]
use crate::edge::Clear;
#[cfg(feature = "tls")]
use crate::edge::keys::Keyring;
#[cfg(feature = "tls")]
use crate::edge::tls::Tls;
use crate::edge::{Layer, Port};
use crate::handle::Handle;
use crate::kit::chain::CHUNK;
use crate::kit::{Budget, Quota};
use crate::net::{Clock, Host, Net, Outside, Post, clock as clock_of_loops, sys};
use crate::session::valve::Fitting;
use crate::session::{Dialect, Hop};
use crate::shard::news::{Notify, Watcher};
use crate::shard::{Plan, Shard, memory_step};

/// A running proxy.
pub struct Proxy {
    shards: Vec<JoinHandle<()>>,
    listening: Vec<SocketAddr>,
    admin_address: SocketAddr,
    admin: AdminServer,
    resolver: Resolver,
    desk: Arc<Desk>,
    reloader: Arc<Reloader>,
    watching: Vec<Watching>,
    /// Looks at files of certificates.
    #[cfg(feature = "tls")]
    _locksmith: locksmith::Watching,
    #[cfg(feature = "nats")]
    couriers: Couriers,
    cluster: Option<cluster::Running>,
    busy: Arc<AtomicUsize>,
}

/// Why a proxy did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration can't be carried out: a name without an address, say.
    Config(String),
    /// The system refused: an address is taken, say.
    System(String),
}

impl Proxy {
    /// Starts all loops and the admin server on threads of their own; returns once clients can
    /// connect. It goes on when the `Proxy` is dropped, but without its admin server and with the
    /// addresses that names have then: keep it, and [`wait`](Proxy::wait) in the end.
    ///
    /// # Errors
    /// `Config` for a server name without an address, `System` for an address that is taken. Then
    /// nothing runs.
    pub fn start(config: Config) -> Result<Proxy, StartError> {
        Proxy::builder(config).start()
    }

    /// Starts it, and waits until it has stopped: for a program that does nothing else. There is no
    /// [`Handle`], so that it ends with the process; who wants more takes [`start`](Proxy::start).
    ///
    /// # Errors
    /// As there.
    pub fn run(config: Config) -> Result<(), StartError> {
        Proxy::start(config).map(Proxy::wait)
    }

    /// As [`start`](Proxy::start), with pages of one's own at the admin address, and another way to
    /// the addresses of server names.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(
        config: Config,
        annex: Option<Arc<dyn Annex>>,
        lookup: Lookup,
    ) -> Result<Proxy, StartError> {
        let mut builder = Proxy::builder(config).lookup(lookup);
        builder.annex = annex;
        builder.start()
    }

    /// A proxy that is to have more: valves in the way of messages, watchers of sessions.
    pub fn builder(config: Config) -> Builder {
        Builder::new(config)
    }

    pub(crate) fn build(builder: Builder) -> Result<Proxy, StartError> {
        let Builder {
            config,
            annex,
            lookup,
            fittings,
            watches,
            run,
        } = builder;
        let mut assembly = assemble(&config, &lookup).map_err(StartError::Config)?;
        #[cfg(feature = "tls")]
        let locksmith = Arc::new(Locksmith::new(&config).map_err(StartError::Config)?);
        let names = std::mem::take(&mut assembly.names);
        sys::raise_descriptor_limit();
        sys::fix_mapping_threshold();
        let count = config.loops.count();
        let clock = Clock::start();
        let host = Host::new(count, clock).map_err(system)?;
        let to_shards = host.post();
        let admin_address = config.admin.address;
        let admin_listener = TcpListener::bind(admin_address)
            .map_err(|error| StartError::System(format!("admin {admin_address}: {error}")))?;
        let admin_address = admin_listener.local_addr().map_err(system)?;

        let mail_to_shards = to_shards.clone();
        let mailer = Box::new(move |shard, mail| to_shards.send(shard, mail));
        let board = Arc::new(Switchboard::new(count, mailer).map_err(system)?);
        let cluster = cluster_of(&config, &mail_to_shards, &board, clock)?;
        assembly.house.hop = cluster.as_ref().map(|(_, hop)| hop.clone());
        let hop = assembly.house.hop.clone();
        let (more, inbox) = Names::new();
        let recruiter = Recruiter::new(config.pools.clone(), lookup.clone(), more.clone());
        #[cfg(feature = "tls")]
        let recruiter = recruiter.with_locksmith(locksmith.clone());
        let fleet = assembly.fleet.clone();
        let mut desk = Desk::new(board.clone(), fleet, config.limits.memory, recruiter);
        let first = config.listen.first().map(|one| one.address);
        desk.frontend = first.map(report::frontend_of);
        desk.legacy_names = config.metrics.legacy_names;
        desk.cluster = cluster.as_ref().map(|(cluster, _)| cluster.standing());
        #[cfg(feature = "tls")]
        desk.keyring.replace(locksmith.ring());
        let desk = Arc::new(desk);

        let addresses: Vec<SocketAddr> = config.listen.iter().map(|entry| entry.address).collect();
        #[cfg(feature = "nats")]
        let couriers = {
            let board = board.clone();
            let post = Arc::new(move |mail| board.tell(0, mail)) as Arc<dyn Fn(_) + Send + Sync>;
            Couriers::start(&config, &post).map_err(system)?
        };
        #[cfg(feature = "nats")]
        let pushed = couriers.answers();
        let of_cluster = cluster.as_ref().map(|(cluster, _)| cluster.answers());
        let outside = Outside {
            answers: Arc::new(move |ticket, answer| {
                let answer = match &of_cluster {
                    Some(take) => take(ticket, answer),
                    None => Some(answer),
                };
                let Some(answer) = answer else { return };
                #[cfg(feature = "nats")]
                let Some(answer) = pushed(ticket, answer) else {
                    return;
                };
                board.answer(ticket, answer);
            }),
            elsewhere: cluster.as_ref().map(|(cluster, _)| cluster.elsewhere()),
        };
        let newsroom = desk.clone();
        let watcher: Watcher = Arc::new(move |news| newsroom.newsroom.tell(news));
        let settings = assembly.settings.clone();
        let (notifies, watching) = watches
            .into_iter()
            .map(Watching::start)
            .collect::<Result<(Vec<_>, Vec<_>), _>>()
            .map_err(system)?;
        #[cfg(feature = "nats")]
        let notifies: Vec<Notify> = notifies.into_iter().chain(couriers.notify()).collect();
        let told = cluster.as_ref().and_then(|(cluster, _)| cluster.notify());
        let notifies = notifies.into_iter().chain(told).collect();
        let extras = Extras {
            watcher,
            notifies,
            fittings: fittings.into(),
        };
        let runner = Runner::new(&config, assembly, count, extras)?;
        #[cfg(feature = "tls")]
        let runner = Runner {
            keyring: locksmith.ring(),
            ..runner
        };
        let budgets = (runner.memory.clone(), runner.connections.clone());
        let busy = runner.busy.clone();
        let (shards, listening) = host
            .start(&addresses, outside, move |index, net| {
                run(&runner, index, net)
            })
            .map_err(system)?;
        let cluster = cluster.map(|(cluster, _)| cluster.start(&lookup, &desk));
        let cluster = cluster.transpose().map_err(system)?;
        let token = config
            .admin
            .token
            .as_ref()
            .map(|token| token.reveal().to_string());
        let admin = admin::serve(admin_listener, desk.clone(), token, annex).map_err(system)?;
        let reloader = Reloader::new(
            desk.clone(),
            (lookup.clone(), more.clone()),
            budgets,
            config,
            (settings, hop),
        );
        #[cfg(feature = "tls")]
        let (reloader, locksmith) = {
            let reloader = reloader.with_locksmith(locksmith.clone());
            (reloader, locksmith.start().map_err(system)?)
        };
        let resolver =
            Resolver::start(names, lookup, desk.clone(), (more, inbox)).map_err(system)?;
        for address in &listening {
            info!(address:% = address, loops = count; "listening");
        }
        info!(address:% = admin_address; "admin listening");
        Ok(Proxy {
            shards,
            listening,
            admin_address,
            admin,
            resolver,
            desk,
            reloader: Arc::new(reloader),
            watching,
            #[cfg(feature = "tls")]
            _locksmith: locksmith,
            #[cfg(feature = "nats")]
            couriers,
            cluster,
            busy,
        })
    }

    /// Addresses for clients, with their real ports.
    pub fn listen_addresses(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// The admin address, with its real port.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// What the admin API does, for the same process.
    pub fn desk(&self) -> Arc<Desk> {
        self.desk.clone()
    }

    /// What applies another configuration while it runs.
    pub fn reloader(&self) -> Arc<Reloader> {
        self.reloader.clone()
    }

    /// What any other thread needs: it shows servers and sessions, changes them, and stops it all.
    pub fn handle(&self) -> Handle {
        Handle::new(self.desk.clone(), self.busy.clone())
    }

    /// Begins to close all sessions over this time; [`wait`](Proxy::wait) then returns.
    pub fn drain(&self, time: Duration) {
        self.handle().drain(time);
    }

    /// Drains and waits.
    pub fn stop(self, time: Duration) {
        self.drain(time);
        self.wait();
    }

    /// Waits until all loops have stopped, and watchers have been told: 2 s at most for each.
    pub fn wait(self) {
        for shard in self.shards {
            // A loop that panicked has said so; the others still close their sessions.
            let _ = shard.join();
        }
        self.cluster.into_iter().for_each(cluster::Running::stop);
        drop(self.resolver);
        self.admin.stop();
        #[cfg(feature = "nats")]
        self.couriers.finish();
        self.watching.into_iter().for_each(Watching::finish);
    }

    /// Waits until all loops have stopped, or this long. True: they have.
    pub fn wait_for(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            if self.shards.iter().all(JoinHandle::is_finished) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// What this node needs for the others, before any loop starts.
fn cluster_of(
    config: &Config,
    shards: &Arc<Post>,
    board: &Arc<Switchboard>,
    clock: Clock,
) -> Result<Option<(Cluster, Hop)>, StartError> {
    let Some(own) = &config.cluster else {
        return Ok(None);
    };
    let mut mark = [0; 16];
    sys::random(&mut mark).map_err(system)?;
    let mark = format!("{:032x}", u128::from_ne_bytes(mark));
    let hop = cluster::hop_of(own, &mark);
    let path = config.push.path.clone();
    let ways = (shards.clone(), board.clone());
    let cluster = Cluster::new(own.clone(), path, mark, clock, ways).map_err(system)?;
    Ok(Some((cluster, hop)))
}

/// What each loop's thread does.
#[derive(Clone)]
pub(crate) struct Runner {
    assembly: Arc<Assembly>,
    memory: Arc<Budget>,
    memory_step: usize,
    connections: Arc<Budget>,
    quota: Arc<Quota>,
    busy: Arc<AtomicUsize>,
    seed: [u8; 32],
    listeners: u32,
    shards: usize,
    socket_buffer: u64,
    ports: Vec<Port>,
    #[cfg(feature = "tls")]
    keyring: Arc<Keyring>,
    extras: Extras,
}

/// What others have added.
#[derive(Clone)]
struct Extras {
    watcher: Watcher,
    notifies: Vec<Notify>,
    fittings: Arc<[Fitting]>,
}

impl Runner {
    fn new(
        config: &Config,
        assembly: Assembly,
        shards: usize,
        extras: Extras,
    ) -> Result<Runner, StartError> {
        let chunks = config.limits.memory / CHUNK as u64;
        let mut seed = [0; 32];
        sys::random(&mut seed).map_err(system)?;
        Ok(Runner {
            assembly: Arc::new(assembly),
            memory: Arc::new(Budget::new(chunks)),
            memory_step: memory_step(chunks, shards),
            connections: Arc::new(Budget::new(u64::from(config.limits.connections))),
            quota: Arc::default(),
            busy: Arc::new(AtomicUsize::new(shards)),
            seed,
            listeners: config.listen.len() as u32,
            shards,
            socket_buffer: config.limits.socket_buffer,
            ports: config.listen.iter().map(port_of).collect(),
            #[cfg(feature = "tls")]
            keyring: Arc::default(),
            extras,
        })
    }

    /// A loop whose servers speak this, until it stops.
    pub(crate) fn run<D: Dialect>(&self, index: usize, mut net: Net) {
        net.set_socket_buffer(self.socket_buffer);
        let mut seed = self.seed;
        for (byte, own) in seed.iter_mut().zip(index.to_le_bytes()) {
            *byte ^= own;
        }
        let (fleet, settings) = (self.assembly.fleet.clone(), self.assembly.settings.clone());
        let plan = Plan {
            index,
            shards: self.shards,
            listeners: self.listeners,
            house: self.assembly.house.clone(),
            memory: self.memory.clone(),
            memory_step: self.memory_step,
            connections: self.connections.clone(),
            quota: self.quota.clone(),
            busy: self.busy.clone(),
            secret: secret_of(&self.seed),
            read_vitals: crate::control::vitals::read,
            ..Plan::alone(fleet, settings, seed)
        };
        let house = plan.house.clone();
        let memory = (self.memory.clone(), CHUNK);
        let layer = Layer::new(net, self.engine(), self.ports.clone(), house, memory);
        let mut shard: Shard<Layer<Net, _>, D> = Shard::new(plan, layer);
        let Extras {
            watcher,
            notifies,
            fittings,
        } = &self.extras;
        shard.watch(watcher.clone());
        notifies.iter().for_each(|one| shard.notify(one.clone()));
        shard.fit(fittings.clone(), clock_of_loops::micros);
        while shard.turn() {}
        // Last words that the kernel has yet to take.
        while shard.io.linger(LINGER) {}
    }
}

#[cfg(feature = "tls")]
impl Runner {
    fn engine(&self) -> Tls {
        Tls::new(self.keyring.clone())
    }
}

#[cfg(not(feature = "tls"))]
impl Runner {
    fn engine(&self) -> Clear {
        Clear
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Config(why) | StartError::System(why) => to.write_str(why),
        }
    }
}

impl std::error::Error for StartError {}

fn system(error: std::io::Error) -> StartError {
    StartError::System(error.to_string())
}

fn port_of(listen: &ListenConfig) -> Port {
    Port {
        announced: listen.proxy_protocol,
    }
}

/// What ClientIds are hashed with, for all loops.
fn secret_of(seed: &[u8; 32]) -> (u64, u64) {
    let part = |from: usize| {
        let bytes = seed[from..from + 8].try_into().expect("eight bytes");
        u64::from_le_bytes(bytes)
    };
    (part(16), part(24))
}

/// Between two looks at what is still owed when a loop has stopped, in ms.
const LINGER: u32 = 1_000;
