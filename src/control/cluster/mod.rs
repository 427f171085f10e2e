//! More than one machine: a push for a client who is not here goes to the node that has him.
//!
//! Loops hand over what they can't deliver ([`Cluster::elsewhere`]) and go on; a thread of our own
//! asks the other nodes and mails the answer back. Nothing here is on the way of a message that finds
//! its client at once.

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
use super::config::{ClusterConfig, PeerConfig};
use super::resolver::Lookup;
use super::switchboard::Switchboard;
use crate::net::{Clock, Elsewhere, Inbox, Net, Outside, Post};
use crate::session::Hop;
use crate::shard::Mail;

pub use self::node::State;
pub use self::quest::Outcome;
pub use self::standing::{Row, Standing, View};

/// The cluster before its thread runs: what loops need of it is made before they start, for a waker
/// that is made later is something else in their descriptor tables.
pub struct Cluster {
    config: ClusterConfig,
    path: String,
    clock: Clock,
    inbox: Inbox,
    post: Arc<Post>,
    standing: Arc<Standing>,
}

/// Its thread.
pub struct Running {
    post: Arc<Post>,
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
        let (post, inbox) = Post::alone(clock)?;
        let standing = Arc::new(Standing::new(mark, "peers", shards, board));
        Ok(Cluster {
            config,
            path,
            clock,
            inbox,
            post,
            standing,
        })
    }

    /// Where loops hand pushes over.
    pub fn elsewhere(&self) -> Elsewhere {
        let (post, standing) = (self.post.clone(), self.standing.clone());
        Arc::new(move |push, from| match standing.enter(push.body.len()) {
            true => post.send(0, Mail::Push { push, from }),
            false => standing.turn_away(from),
        })
    }

    /// What can be seen of it.
    pub fn standing(&self) -> Arc<Standing> {
        self.standing.clone()
    }

    /// Starts its thread.
    ///
    /// # Errors
    /// It could not be started, or has no descriptors.
    pub fn start(self, lookup: &Lookup) -> io::Result<Running> {
        let Cluster {
            config,
            path,
            clock,
            inbox,
            post,
            standing,
        } = self;
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
        Ok(Running { post, thread })
    }
}

impl Running {
    /// Ends it: nobody is left who could push.
    pub fn stop(self) {
        self.post.send(0, Mail::Stop);
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
