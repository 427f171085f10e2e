//! More than one machine: a push for a client who is not here goes to the node that has him.
//!
//! Loops hand over what they can't deliver ([`Cluster::elsewhere`]) and go on; a thread of our own
//! asks the other nodes and mails the answer back. Nothing here is on the way of a message that finds
//! its client at once.

#[cfg(feature = "nats")]
mod bus;
mod line;
mod names;
mod node;
mod owners;
mod quest;
mod ring;
mod standing;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use self::names::Names;
use self::ring::{Ring, Terms};
use super::admin::Desk;
#[cfg(feature = "nats")]
use super::config::BusConfig;
use super::config::{ClusterConfig, PeerConfig};
use super::resolver::Lookup;
use super::switchboard::Switchboard;
use crate::net::{Clock, Elsewhere, Inbox, Net, Outside, Post};
use crate::session::Hop;
use crate::shard::news::Notify;
use crate::shard::{Answer, Mail};

pub use self::node::State;
pub use self::quest::Outcome;
pub use self::standing::{Row, Standing, View};

/// The cluster before its thread runs: what loops need of it is made before they start, for a waker
/// that is made later is something else in their descriptor tables.
pub struct Cluster {
    config: ClusterConfig,
    road: Road,
    standing: Arc<Standing>,
}

/// How nodes reach each other.
enum Road {
    /// They ask each other.
    Peers {
        path: String,
        clock: Clock,
        inbox: Inbox,
        post: Arc<Post>,
    },
    /// They meet.
    #[cfg(feature = "nats")]
    Bus {
        config: BusConfig,
        way: bus::Way,
        orders: bus::Orders,
    },
}

/// Its thread.
pub struct Running {
    stop: Box<dyn FnOnce() + Send>,
    thread: JoinHandle<()>,
}

impl Cluster {
    /// For a node whose loops get their mail by `shards`. `mark` is what others know it by.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub fn new(
        config: ClusterConfig,
        path: String,
        mark: String,
        clock: Clock,
        (shards, board): (Arc<Post>, Arc<Switchboard>),
    ) -> io::Result<Cluster> {
        #[cfg(feature = "nats")]
        if let Some(bus) = config.bus.clone() {
            let standing = Arc::new(Standing::new(mark, "bus", shards, board));
            let (way, orders) = bus::way();
            let road = Road::Bus {
                config: bus,
                way,
                orders,
            };
            return Ok(Cluster {
                config,
                road,
                standing,
            });
        }
        let (post, inbox) = Post::alone(clock)?;
        let standing = Arc::new(Standing::new(mark, "peers", shards, board));
        let road = Road::Peers {
            path,
            clock,
            inbox,
            post,
        };
        Ok(Cluster {
            config,
            road,
            standing,
        })
    }

    /// Where loops hand pushes over.
    pub fn elsewhere(&self) -> Elsewhere {
        let standing = self.standing.clone();
        let pass: Elsewhere = match &self.road {
            Road::Peers { post, .. } => {
                let post = post.clone();
                Arc::new(move |push, from| post.send(0, Mail::Push { push, from }))
            }
            #[cfg(feature = "nats")]
            Road::Bus { way, .. } => way.elsewhere(),
        };
        Arc::new(move |push, from| match standing.enter(push.body.len()) {
            true => pass(push, from),
            false => standing.turn_away(from),
        })
    }

    /// What it has to be told of sessions.
    pub fn notify(&self) -> Option<Notify> {
        match &self.road {
            Road::Peers { .. } => None,
            #[cfg(feature = "nats")]
            Road::Bus { way, .. } => Some(way.notify()),
        }
    }

    /// Takes what became of a push, if it was another node's; gives back any other answer.
    pub fn answers(&self) -> impl Fn(u64, Answer) -> Option<Answer> + Send + Sync + 'static {
        #[cfg(feature = "nats")]
        let way = match &self.road {
            Road::Peers { .. } => None,
            Road::Bus { way, .. } => Some(way.clone()),
        };
        move |_ticket, answer| {
            #[cfg(feature = "nats")]
            if let Some(way) = &way {
                return way.take(_ticket, answer);
            }
            Some(answer)
        }
    }

    /// What can be seen of it.
    pub fn standing(&self) -> Arc<Standing> {
        self.standing.clone()
    }

    /// Starts its thread.
    ///
    /// # Errors
    /// It could not be started, or has no descriptors.
    pub fn start(self, lookup: &Lookup, _desk: &Arc<Desk>) -> io::Result<Running> {
        let Cluster {
            config,
            road,
            standing,
        } = self;
        match road {
            Road::Peers {
                path,
                clock,
                inbox,
                post,
            } => start_ring(&config, path, clock, (inbox, post), standing, lookup),
            #[cfg(feature = "nats")]
            Road::Bus {
                config: bus,
                way,
                orders,
            } => {
                let thread = bus::start(&bus, config.timeout, orders, standing, _desk.clone())?;
                let stop = Box::new(move || way.stop());
                Ok(Running { stop, thread })
            }
        }
    }
}

fn start_ring(
    config: &ClusterConfig,
    path: String,
    clock: Clock,
    (inbox, post): (Inbox, Arc<Post>),
    standing: Arc<Standing>,
    lookup: &Lookup,
) -> io::Result<Running> {
    let (mut listed, mut named): (Vec<SocketAddr>, Vec<&PeerConfig>) = (vec![], vec![]);
    for peer in &config.peers {
        match peer.literal() {
            Some(address) => listed.push(address),
            None => named.push(peer),
        }
    }
    let names = Names::start(&named, config.dns, lookup, &post)?;
    let outside = Outside {
        answers: Arc::new(|_, _| {}),
        elsewhere: None,
    };
    let net = Net::new(0, clock, inbox, post.clone(), outside)?;
    let token = config.token.as_ref();
    let terms = Terms {
        path,
        mark: standing.mark.clone(),
        authorization: token.map(|token| format!("Bearer {}", token.reveal())),
        timeout: config.timeout.as_millis() as u32,
    };
    let mut ring = Ring::new(net, terms, standing, &listed, names);
    let thread = thread::Builder::new()
        .name("cluster".to_string())
        .spawn(move || while ring.turn() {})?;
    let stop = Box::new(move || post.send(0, Mail::Stop));
    Ok(Running { stop, thread })
}

impl Running {
    /// Ends it: nobody is left who could push.
    pub fn stop(self) {
        (self.stop)();
        // One that panicked has said so.
        let _ = self.thread.join();
    }
}

/// What loops need to know of the others: whose pushes are passed on.
pub fn hop_of(config: &ClusterConfig, mark: &str) -> Hop {
    let peers = config.peers.iter().filter_map(PeerConfig::literal);
    let peers: Vec<IpAddr> = peers.map(|peer| peer.ip().to_canonical()).collect();
    Hop {
        mark: mark.to_owned(),
        token: config.token.as_ref().map(|token| token.reveal().to_owned()),
        peers,
    }
}
