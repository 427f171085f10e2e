//! Resolves server names again and again: each address is a server, and one that leaves DNS drains.
//!
//! The system's resolver blocks, for half a minute if its own servers are silent. So every question
//! has a thread of its own, and one more keeps the time and brings the answers to the loops.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use log::{error, info, warn};

use super::admin::{Desk, NoPlace};
use super::config::ServerUrl;
use crate::fleet::{Fleet, Server, ServerState};

/// The addresses of a host, with this port. May block for as long as it likes.
pub type Lookup = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// The system's own: `/etc/hosts`, DNS and whatever else it is told to ask.
pub fn system() -> Lookup {
    Arc::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
}

/// Where names can be handed in while the resolver runs, and before.
#[derive(Clone)]
pub struct Names(Sender<News>);

/// The other end, for the resolver.
pub struct Inbox(Receiver<News>);

impl Names {
    /// Both ends.
    pub fn new() -> (Names, Inbox) {
        let (sender, news) = unbounded();
        (Names(sender), Inbox(news))
    }

    /// Resolves this one, too, from now on.
    pub fn follow(&self, name: Name) {
        // Without a resolver wsteady stops, and nobody needs its addresses.
        let _ = self.0.send(News::Name(Box::new(name)));
    }

    /// Resolves this server of the configuration no more; what came of its name stays.
    pub fn unfollow(&self, pool: u16, entry: &str) {
        self.forget(pool, entry, false);
    }

    /// As [`unfollow`](Names::unfollow), and whatever came of its name is gone.
    pub fn dismiss(&self, pool: u16, entry: &str) {
        self.forget(pool, entry, true);
    }

    fn forget(&self, pool: u16, entry: &str, dismissed: bool) {
        let entry = entry.to_owned();
        let _ = self.0.send(News::Forget {
            pool,
            entry,
            dismissed,
        });
    }

    /// Resolves all names of this pool so often.
    pub fn set_pace(&self, pool: u16, every: Duration) {
        let _ = self.0.send(News::Pace { pool, every });
    }
}

/// Runs until it is dropped.
pub struct Resolver {
    names: Names,
    keeper: Option<JoinHandle<()>>,
}

impl Resolver {
    /// Begins to resolve all names, each for the first time after a part of its own pause, so that
    /// they are not asked for in one moment.
    ///
    /// # Errors
    /// Its thread could not be started.
    pub fn start(
        names: Vec<Name>,
        lookup: Lookup,
        desk: Arc<Desk>,
        (more, inbox): (Names, Inbox),
    ) -> io::Result<Resolver> {
        let keeper = Keeper::new(names, lookup, desk, more.0.clone());
        let keeper = thread::Builder::new()
            .name("resolver".to_string())
            .spawn(move || keeper.run(&inbox.0))?;
        Ok(Resolver {
            names: more,
            keeper: Some(keeper),
        })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.names.0.send(News::Stop);
        // Who still asks finds nobody to tell, and goes down with the process.
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// A server of the configuration: one host, and a server of the fleet for each of its addresses.
pub struct Name {
    host: String,
    port: u16,
    every: Duration,
    /// A server of this name but for its id and address; its id is the configuration's.
    mould: Server,
    /// The address that had the plain id, as the only one at the start. All others have `@<ip>`
    /// behind it, so that an id is the same address's for as long as the process lives.
    pub plain: Option<IpAddr>,
    /// An address that has left and whose server is gone is not among them any more.
    members: BTreeMap<SocketAddr, Member>,
    /// It could not be resolved, or not be followed, and that was said.
    troubled: bool,
    /// The configuration has it no more. Its place stays, for an answer may be under way.
    forgotten: bool,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    server: u16,
    /// It has left DNS.
    absent: bool,
}

impl Name {
    /// A name without addresses yet, to be resolved so often.
    pub fn new(mould: Server, url: &ServerUrl, every: Duration) -> Name {
        Name {
            host: url.host.clone(),
            port: url.port,
            every,
            mould,
            plain: None,
            members: BTreeMap::new(),
            troubled: false,
            forgotten: false,
        }
    }

    /// A name whose servers are in the fleet already.
    pub fn of(mould: Server, url: &ServerUrl, every: Duration, fleet: &Fleet) -> Name {
        let mut name = Name::new(mould, url, every);
        for (number, place) in fleet.servers.iter().enumerate() {
            let own = place.entry == name.mould.id && place.pool == name.mould.pool;
            if own && place.state != ServerState::Gone {
                name.enter(place.address, number as u16);
                if place.id == place.entry {
                    name.plain = Some(place.address.ip());
                }
            }
        }
        name
    }

    fn is_of(&self, pool: u16, entry: &str) -> bool {
        !self.forgotten && self.mould.pool == pool && self.mould.id == entry
    }

    fn forget(&mut self, desk: &Desk, dismissed: bool) {
        self.forgotten = true;
        let members = std::mem::take(&mut self.members);
        if dismissed {
            let mut fleet = desk.fleet();
            // An answer that came just before may have brought a server that nobody wants.
            for member in members.into_values() {
                desk.set_state(&mut fleet, member.server, ServerState::Gone);
            }
        }
    }

    /// Its server at this address, which the fleet does not know yet.
    pub fn server_at(&self, address: SocketAddr) -> Server {
        self.mould.another(self.id_of(address), address)
    }

    /// That server has this number.
    pub fn enter(&mut self, address: SocketAddr, server: u16) {
        let absent = false;
        self.members.insert(address, Member { server, absent });
    }

    fn id_of(&self, address: SocketAddr) -> String {
        let (id, ip) = (&self.mould.id, address.ip());
        match self.plain == Some(ip) {
            true => id.clone(),
            false => format!("{id}@{ip}"),
        }
    }

    /// What was found, or why not.
    fn settle(&mut self, desk: &Desk, found: io::Result<Vec<SocketAddr>>) {
        let (server, host) = (self.mould.id.clone(), self.host.clone());
        let addresses = match found {
            Ok(found) => BTreeSet::from_iter(found),
            Err(why) => return self.complain(|| warn!(server, host; "not resolved: {why}")),
        };
        if addresses.is_empty() {
            // Nobody takes all servers away in earnest, but name servers may be wrong.
            return self
                .complain(|| warn!(server, host; "resolved to no address: nothing changes"));
        }
        match self.follow(desk, &addresses) {
            Ok(()) if self.troubled => info!(server, host; "resolved again"),
            Ok(()) => {}
            Err(why) => {
                return self
                    .complain(|| error!(server, host; "not followed to its addresses: {why}"));
            }
        }
        self.troubled = false;
    }

    /// Once, until it works again.
    fn complain(&mut self, say: impl FnOnce()) {
        if !std::mem::replace(&mut self.troubled, true) {
            say();
        }
    }

    /// Takes in who is new, lets go who has left. If not all can come, nothing changes.
    fn follow(&mut self, desk: &Desk, addresses: &BTreeSet<SocketAddr>) -> Result<(), NoPlace> {
        let mut fleet = desk.fleet();
        let new = addresses.iter().copied();
        let new = new.filter(|address| !self.members.contains_key(address));
        let new: Vec<SocketAddr> = new.collect();
        let ids: Vec<String> = new.iter().map(|address| self.id_of(*address)).collect();
        desk.has_place(&fleet, &ids)?;
        // Before anybody leaves: its sessions have somewhere to go.
        for address in new {
            let server = desk.join(&mut fleet, self.server_at(address))?;
            info!(server = fleet.servers[usize::from(server)].id.as_str(); "new in DNS");
            self.enter(address, server);
        }
        // One that was deleted while DNS has it does not come back before it has left there.
        let is_gone = |member: &Member| place_of(member, &fleet).state == ServerState::Gone;
        self.members
            .retain(|address, member| addresses.contains(address) || !is_gone(member));
        for (address, member) in &mut self.members {
            let absent = !addresses.contains(address);
            if absent != member.absent {
                member.absent = absent;
                come_or_go(desk, &mut fleet, *member);
            }
        }
        Ok(())
    }

    /// Those that have left and have no connection any more are gone.
    fn bury(&mut self, desk: &Desk) {
        if !self.has_absent() {
            return;
        }
        let mut fleet = desk.fleet();
        self.members.retain(|_, member| {
            let place = place_of(member, &fleet);
            // Another state is the operator's word, given after it had left.
            let leaving = member.absent && place.state == ServerState::Draining;
            let over = leaving && place.shared.connections() == 0;
            if over {
                info!(server = place.id.as_str(); "gone");
                desk.set_state(&mut fleet, member.server, ServerState::Gone);
            }
            !over
        });
    }

    fn has_absent(&self) -> bool {
        self.members.values().any(|member| member.absent)
    }
}

fn place_of<'a>(member: &Member, fleet: &'a Fleet) -> &'a Server {
    &fleet.servers[usize::from(member.server)]
}

/// One has left DNS and drains; or it is back, and what the operator last said of it counts.
fn come_or_go(desk: &Desk, fleet: &mut Fleet, member: Member) {
    let place = place_of(&member, fleet);
    let (id, wish) = (place.id.as_str(), place.wish);
    let state = if member.absent {
        info!(server = id; "left DNS: draining");
        ServerState::Draining
    } else {
        info!(server = id; "back in DNS: {}", wish.name());
        wish
    };
    desk.set_state(fleet, member.server, state);
}

/// Keeps the time.
struct Keeper {
    names: Vec<Name>,
    lookup: Lookup,
    desk: Arc<Desk>,
    news: Sender<News>,
    /// Names by when they are to be resolved; those under way are not among them.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    under_way: usize,
    bury_at: Instant,
}

/// What the keeper hears.
enum News {
    Found {
        name: usize,
        found: io::Result<Vec<SocketAddr>>,
    },
    Name(Box<Name>),
    Forget {
        pool: u16,
        entry: String,
        dismissed: bool,
    },
    Pace {
        pool: u16,
        every: Duration,
    },
    Stop,
}

impl Keeper {
    fn new(names: Vec<Name>, lookup: Lookup, desk: Arc<Desk>, news: Sender<News>) -> Keeper {
        let (now, count) = (Instant::now(), names.len() as f64);
        let first = |(at, name): (usize, &Name)| {
            let part = name.every.mul_f64((at + 1) as f64 / count);
            Reverse((now + part, at))
        };
        Keeper {
            due: names.iter().enumerate().map(first).collect(),
            names,
            lookup,
            desk,
            news,
            under_way: 0,
            bury_at: now,
        }
    }

    fn run(mut self, news: &Receiver<News>) {
        loop {
            self.ask();
            let heard = match self.next_look() {
                Some(at) => news.recv_deadline(at),
                None => news.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match heard {
                Ok(News::Found { name, found }) => {
                    self.under_way -= 1;
                    self.settle(name, found);
                }
                Ok(News::Name(name)) => {
                    self.due
                        .push(Reverse((Instant::now() + name.every, self.names.len())));
                    self.names.push(*name);
                }
                Ok(News::Forget {
                    pool,
                    entry,
                    dismissed,
                }) => {
                    let mut names = self.names.iter_mut();
                    if let Some(name) = names.find(|name| name.is_of(pool, &entry)) {
                        name.forget(&self.desk, dismissed);
                    }
                }
                Ok(News::Pace { pool, every }) => self.set_pace(pool, every),
                Ok(News::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.bury_at <= Instant::now() {
                self.bury_at = Instant::now() + BURY_PAUSE;
                self.names.iter_mut().for_each(|name| name.bury(&self.desk));
            }
        }
    }

    /// Asks for all that are due, but not for more than so many at a time.
    fn ask(&mut self) {
        let now = Instant::now();
        while self.under_way < LOOKUPS_MAX {
            let Some(Reverse((at, name))) = self.due.peek().copied() else {
                return;
            };
            if at > now {
                return;
            }
            self.due.pop();
            if self.names[name].forgotten {
                continue;
            }
            let (lookup, news) = (Arc::clone(&self.lookup), self.news.clone());
            let (host, port) = (self.names[name].host.clone(), self.names[name].port);
            let asked = thread::Builder::new()
                .name("lookup".to_string())
                .spawn(move || {
                    let found = lookup(&host, port);
                    let _ = news.send(News::Found { name, found });
                });
            match asked {
                Ok(_) => self.under_way += 1,
                Err(why) => self.settle(name, Err(why)),
            }
        }
    }

    fn settle(&mut self, name: usize, found: io::Result<Vec<SocketAddr>>) {
        let place = &mut self.names[name];
        if place.forgotten {
            return;
        }
        place.settle(&self.desk, found);
        self.due.push(Reverse((Instant::now() + place.every, name)));
    }

    /// Each is asked for once more within its new pause; its old one is dropped when it comes.
    fn set_pace(&mut self, pool: u16, every: Duration) {
        let now = Instant::now();
        let names = &mut self.names;
        let of_pool = |name: usize| !names[name].forgotten && names[name].mould.pool == pool;
        let due = std::mem::take(&mut self.due).into_iter();
        self.due = due
            .map(|Reverse((at, name))| match of_pool(name) {
                true => Reverse((at.min(now + every), name)),
                false => Reverse((at, name)),
            })
            .collect();
        for name in names.iter_mut().filter(|name| name.mould.pool == pool) {
            name.every = every;
        }
    }

    /// When there is something to do, whatever is heard.
    fn next_look(&self) -> Option<Instant> {
        let free = self.under_way < LOOKUPS_MAX;
        let due = self.due.peek().filter(|_| free);
        let due = due.map(|Reverse((at, _))| *at);
        let leaving = self.names.iter().any(Name::has_absent);
        let bury = leaving.then_some(self.bury_at);
        due.into_iter().chain(bury).min()
    }
}

/// Questions at a time: so many names may be slow before others have to wait.
const LOOKUPS_MAX: usize = 16;

/// How often it is looked whether a server that has left has connections.
const BURY_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
