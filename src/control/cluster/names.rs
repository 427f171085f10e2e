//! Names of nodes, resolved again and again. The system's resolver blocks, so each has a thread.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use crate::control::config::PeerConfig;
use crate::control::resolver::Lookup;
use crate::net::Post;

/// What a name was resolved to.
pub(super) struct Found {
    /// Its place in the list.
    pub name: usize,
    pub addresses: io::Result<Vec<SocketAddr>>,
}

/// Asks for all names until it is dropped.
pub(super) struct Names {
    pub hosts: Vec<String>,
    pub found: Receiver<Found>,
    _stop: Sender<()>,
}

impl Names {
    /// Begins to resolve these, each so often; `post` is woken by what is found.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(
        names: &[&PeerConfig],
        every: Duration,
        lookup: &Lookup,
        post: &Arc<Post>,
    ) -> io::Result<Names> {
        let (sender, found) = unbounded();
        let (stop, stopped) = bounded::<()>(0);
        for (number, name) in names.iter().enumerate() {
            let (host, port) = (name.host.clone(), name.port);
            let (lookup, post) = (lookup.clone(), post.clone());
            let (sender, stopped) = (sender.clone(), stopped.clone());
            let ask = move || {
                loop {
                    let addresses = lookup(&host, port);
                    let found = Found {
                        name: number,
                        addresses,
                    };
                    if sender.send(found).is_err() {
                        return;
                    }
                    post.wake(0);
                    let pause = match every.is_zero() {
                        true => FOREVER,
                        false => every,
                    };
                    if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            };
            thread::Builder::new()
                .name("cluster-names".to_string())
                .spawn(ask)?;
        }
        let hosts = names.iter().map(|name| name.host.clone()).collect();
        Ok(Names {
            hosts,
            found,
            _stop: stop,
        })
    }
}

/// Longer than any process runs.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
