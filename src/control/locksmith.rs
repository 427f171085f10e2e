//! Makes the keys of what stands in the files that a configuration names, and again when that has
//! changed: an order of the operator may come with it, or not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};
use std::{fmt, fs};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use log::{error, info, warn};

use super::config::{
    CertificateConfig, ClientAuth, Config, ListenTlsConfig, PoolConfig, PoolTlsConfig, TlsVersion,
};
use crate::edge::cert::{Certificate, date};
use crate::edge::forge::{self, Clients, Identity, Oldest, Roots, Tickets, Unfit};
use crate::edge::keys::{Dated, Keyring, Keys, PoolKeys, ServerKeys, is_server_name};

/// Fills a [`Keyring`], from the start to the end.
pub struct Locksmith {
    ring: Arc<Keyring>,
    state: Mutex<State>,
}

struct State {
    hasher: RandomState,
    /// What was ordered last.
    config: Config,
    /// Pools that have got servers with TLS since.
    called: BTreeSet<String>,
    /// What the files had in them that the keys were made of.
    marks: Marks,
    /// What they had in them when that was no good, and whether that was told.
    refused: Option<(Marks, bool)>,
    tickets: Tickets,
    /// What was warned of, so that it is not each time.
    warned: BTreeSet<String>,
}

/// A file's contents, in a number that tells whether they are others; `None`: it can't be read.
/// Keys themselves need not lie about.
type Marks = BTreeMap<PathBuf, Option<u64>>;

/// Something about a file, or what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The configuration's key, such as `listen[0].tls.cert`.
    pub path: String,
    pub message: String,
    /// No keys can be made.
    pub grave: bool,
}

/// New keys, which nobody has yet.
pub(super) struct Cut {
    keys: Keys,
    marks: Marks,
    called: BTreeSet<String>,
}

/// The path of the `nth` item of a list of the configuration.
type ItemPath<'a> = &'a dyn Fn(&str, usize) -> String;

/// All that is wrong with a configuration's files.
pub fn troubles(config: &Config, item: ItemPath<'_>) -> Vec<Trouble> {
    let mut bench = Bench::new(RandomState::new(), item);
    bench.cut(config, &BTreeSet::new(), &mut Tickets::default());
    bench.troubles
}

impl Locksmith {
    /// With keys for this configuration.
    ///
    /// # Errors
    /// What is wrong with its files.
    pub fn new(config: &Config) -> Result<Locksmith, String> {
        let mut state = State {
            hasher: RandomState::new(),
            config: config.clone(),
            called: BTreeSet::new(),
            marks: Marks::new(),
            refused: None,
            tickets: Tickets::default(),
            warned: BTreeSet::new(),
        };
        let (cut, troubles) = state.cut(config, &BTreeSet::new());
        let cut = cut?;
        // The configuration's check has told of them.
        state.warned = lesser(&troubles).collect();
        state.marks = cut.marks;
        Ok(Locksmith {
            ring: Arc::new(Keyring::new(cut.keys)),
            state: Mutex::new(state),
        })
    }

    /// What it fills.
    pub fn ring(&self) -> Arc<Keyring> {
        self.ring.clone()
    }

    /// New keys for a new configuration.
    ///
    /// # Errors
    /// What is wrong with its files; nothing has changed.
    pub(super) fn cut(&self, config: &Config) -> Result<Cut, String> {
        let mut state = self.state();
        let pools: BTreeSet<&str> = config.pools.iter().map(|pool| &*pool.name).collect();
        let called = state.called.iter().filter(|name| pools.contains(&***name));
        let called = called.cloned().collect();
        state.cut(config, &called).0
    }

    /// From now on these are the keys. Whether any file has other contents than before.
    pub(super) fn hand_out(&self, config: &Config, mut cut: Cut) -> bool {
        let mut state = self.state();
        let before = self.ring.keys();
        for pool in config.pools.iter().map(|pool| &pool.name) {
            // Servers may have come while this was cut.
            if state.called.contains(pool)
                && cut.called.insert(pool.clone())
                && let Some(keys) = before.pools.get(pool)
            {
                cut.keys.pools.insert(pool.clone(), keys.clone());
            }
        }
        self.exchange(&mut state, config, cut)
    }

    fn exchange(&self, state: &mut State, config: &Config, cut: Cut) -> bool {
        state.config.clone_from(config);
        let same = |(file, mark): (&PathBuf, &Option<u64>)| {
            state.marks.get(file).is_none_or(|before| before == mark)
        };
        let changed = !cut.marks.iter().all(same);
        (state.marks, state.called) = (cut.marks, cut.called);
        state.refused = None;
        self.ring.replace(cut.keys);
        changed
    }

    /// Somebody adds a server with TLS to this pool, which may have had none.
    ///
    /// # Errors
    /// It can't be dialled so.
    pub(super) fn call_for(&self, pool: &str) -> Result<(), String> {
        if self.ring.keys().pools.contains_key(pool) {
            return Ok(());
        }
        let mut state = self.state();
        let config = state.config.clone();
        let mut called = state.called.clone();
        called.insert(pool.to_owned());
        let cut = state.cut(&config, &called).0?;
        self.exchange(&mut state, &config, cut);
        Ok(())
    }

    /// Looks whether files have changed, and makes new keys if they have.
    pub fn look(&self) {
        let mut state = self.state();
        let marks = state.marks_now();
        if marks == state.marks {
            return state.refused = None;
        }
        let (config, called) = (state.config.clone(), state.called.clone());
        let (cut, troubles) = state.cut(&config, &called);
        match cut {
            Ok(cut) => {
                self.exchange(&mut state, &config, cut);
                info!("certificates and keys read again: their files have changed");
                state.warn_of(&troubles);
            }
            // What is written in two steps is no good between them: told of only if it stays so.
            Err(why) => match &mut state.refused {
                Some((refused, told)) if *refused == marks => {
                    if !std::mem::replace(told, true) {
                        error!("{why}: certificates and keys stay as they were");
                    }
                }
                _ => state.refused = Some((marks, false)),
            },
        }
    }

    /// Says again what is over, or will be soon: a process may outlive its certificates.
    fn remind(&self) {
        let mut state = self.state();
        let (config, called) = (state.config.clone(), state.called.clone());
        let (_, troubles) = state.cut(&config, &called);
        state.warn_of(&troubles);
    }

    /// Looks from now on, until what it gives is dropped.
    ///
    /// # Errors
    /// There is no thread for it.
    pub fn start(self: &Arc<Self>) -> std::io::Result<Watching> {
        let (end, ended) = bounded::<()>(0);
        let own = Arc::clone(self);
        thread::Builder::new()
            .name("locksmith".to_string())
            .spawn(move || {
                let mut looks = 0;
                while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    own.look();
                    looks = (looks + 1) % LOOKS_OF_REMINDER;
                    if looks == 0 {
                        own.remind();
                    }
                }
            })?;
        Ok(Watching { _end: end })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that looks; dropping it ends it.
pub struct Watching {
    _end: Sender<()>,
}

impl State {
    /// Tells of what will be wrong some day.
    fn warn_of(&mut self, troubles: &[Trouble]) {
        let now: BTreeSet<String> = lesser(troubles).collect();
        for new in now.difference(&self.warned) {
            warn!("{new}");
        }
        self.warned = now;
    }

    fn cut(
        &mut self,
        config: &Config,
        called: &BTreeSet<String>,
    ) -> (Result<Cut, String>, Vec<Trouble>) {
        let item = |list: &str, nth: usize| format!("{list}[{nth}]");
        let mut bench = Bench::new(self.hasher.clone(), &item);
        let keys = bench.cut(config, called, &mut self.tickets);
        self.tickets.trim();
        let Bench {
            troubles, files, ..
        } = bench;
        let mut grave = troubles.iter().filter(|trouble| trouble.grave);
        let cut = match grave.next() {
            Some(trouble) => Err(trouble.to_string()),
            None => Ok(Cut {
                keys,
                marks: files.marks(),
                called: called.clone(),
            }),
        };
        (cut, troubles)
    }

    /// What the files have in them now.
    fn marks_now(&self) -> Marks {
        let mut files = Files::new(self.hasher.clone());
        for path in self.marks.keys() {
            // What can't be read has a mark, too.
            let _ = files.read(path);
        }
        files.marks()
    }
}

fn lesser(troubles: &[Trouble]) -> impl Iterator<Item = String> {
    let lesser = troubles.iter().filter(|trouble| !trouble.grave);
    lesser.map(ToString::to_string)
}

/// Where keys are cut.
struct Bench<'a> {
    files: Files,
    item: ItemPath<'a>,
    troubles: Vec<Trouble>,
    dates: Vec<Dated>,
    /// The machine's, once they are needed.
    roots: Option<Result<Roots, String>>,
    now: SystemTime,
}

impl<'a> Bench<'a> {
    fn new(hasher: RandomState, item: ItemPath<'a>) -> Bench<'a> {
        Bench {
            files: Files::new(hasher),
            item,
            troubles: Vec::new(),
            dates: Vec::new(),
            roots: None,
            now: SystemTime::now(),
        }
    }

    /// What can be made of a configuration, which is worth nothing beside grave trouble.
    fn cut(&mut self, config: &Config, called: &BTreeSet<String>, tickets: &mut Tickets) -> Keys {
        let mut listeners = Vec::new();
        for (nth, listen) in config.listen.iter().enumerate() {
            let path = format!("{}.tls", (self.item)("listen", nth));
            let tls = listen.tls.as_ref();
            listeners.push(tls.and_then(|tls| self.front(&path, tls, tickets)));
        }
        let admin = config.admin.tls.as_ref();
        let admin = admin.and_then(|tls| self.front("admin.tls", tls, tickets));
        let mut pools = HashMap::new();
        for pool in &config.pools {
            if let Some(keys) = self.back(pool, called.contains(&pool.name)) {
                pools.insert(pool.name.clone(), keys);
            }
        }
        let mut dates = std::mem::take(&mut self.dates);
        dates.sort_by(|one, other| one.file.cmp(&other.file));
        dates.dedup_by(|one, other| one.file == other.file);
        Keys {
            listeners,
            admin,
            pools,
            dates,
        }
    }

    fn front(
        &mut self,
        path: &str,
        tls: &ListenTlsConfig,
        tickets: &mut Tickets,
    ) -> Option<ServerKeys> {
        let mut identities = Vec::new();
        for (nth, one) in tls.certificates.iter().enumerate() {
            let path = match nth {
                0 => path.to_owned(),
                nth => (self.item)(&format!("{path}.certificates"), nth - 1),
            };
            let own = self.identity(one, (&format!("{path}.cert"), &format!("{path}.key")));
            let nameless =
                |own: &Identity| own.chain.first().is_some_and(|own| own.names.is_empty());
            if own.as_ref().is_some_and(nameless) {
                let message = format!(
                    "{} is for no name: clients won't believe it",
                    show(&one.cert)
                );
                self.warn(&format!("{path}.cert"), message);
            }
            identities.push(own);
        }
        let clients = match &tls.client_ca {
            Some(file) => {
                Some(self.clients(&format!("{path}.client_ca"), file, tls.client_auth)?)
            }
            None => None,
        };
        // All are looked at before the first that is wrong ends it.
        let identities = identities.into_iter().collect::<Option<Vec<_>>>()?;
        let clients = clients
            .as_ref()
            .map(|(clients, file)| (clients, file.as_slice()));
        let made = forge::front(identities, clients, oldest(tls.min_version), tickets);
        self.note(path, made)
    }

    fn clients(
        &mut self,
        path: &str,
        file: &Path,
        auth: ClientAuth,
    ) -> Option<(Clients, Arc<Vec<u8>>)> {
        let roots = self.roots_of(path, file)?;
        let bytes = self.files.read(file).ok()?;
        let required = auth == ClientAuth::Require;
        Some((Clients { roots, required }, bytes))
    }

    fn back(&mut self, pool: &PoolConfig, called: bool) -> Option<PoolKeys> {
        let path = format!("pools.{}.tls", pool.name);
        let none = PoolTlsConfig::default();
        let tls = pool.tls.as_ref().unwrap_or(&none);
        let identity = match &tls.client {
            Some(own) => {
                let keys = (format!("{path}.client_cert"), format!("{path}.client_key"));
                Some(self.identity(own, (&keys.0, &keys.1)))
            }
            None => None,
        };
        let sealed = self.check_servers(pool, tls);
        let roots = match &tls.ca {
            Some(file) => Some(self.roots_of(&format!("{path}.ca"), file)?),
            None if tls.insecure_skip_verify => None,
            None if sealed || called => Some(self.roots_of_system(&path)?),
            None => return None,
        };
        let roots = roots.filter(|_| !tls.insecure_skip_verify);
        if tls.insecure_skip_verify {
            let message = "servers may show any certificate: whoever stands between can read and \
                           change everything; name their authority in ca";
            self.warn(&format!("{path}.insecure_skip_verify"), message.into());
        }
        let identity = match identity {
            Some(identity) => Some(identity?),
            None => None,
        };
        let made = forge::back(roots.as_ref(), identity, oldest(tls.min_version));
        let made = made.and_then(|config| PoolKeys::new(config, tls.server_name.as_deref()));
        self.note(&path, made)
    }

    /// Whether a server of the pool is dialled with TLS.
    fn check_servers(&mut self, pool: &PoolConfig, tls: &PoolTlsConfig) -> bool {
        let list = format!("pools.{}.servers", pool.name);
        let mut sealed = false;
        for (nth, server) in pool.servers.iter().enumerate() {
            if !server.url.scheme.is_secure() {
                continue;
            }
            sealed = true;
            let host = &server.url.host;
            if tls.server_name.is_none() && !is_server_name(host) {
                let path = (self.item)(&list, nth);
                let message = format!("no certificate can be for {host:?}; add tls.server_name");
                self.trouble(&path, message, true);
            }
        }
        if pool.tls.is_some() && !sealed && !pool.servers.is_empty() {
            let message =
                "no server's URL begins with wss:// or https://: all are dialled in the clear";
            self.warn(&format!("pools.{}.tls", pool.name), message.into());
        }
        sealed
    }

    fn roots_of(&mut self, path: &str, file: &Path) -> Option<Roots> {
        let name = show(file);
        let read = self.files.read(file);
        let read = read.and_then(|bytes| Roots::read(&name, &bytes));
        self.note(path, read.map_err(|why| format!("{name} {why}")))
    }

    fn roots_of_system(&mut self, path: &str) -> Option<Roots> {
        let roots = self.roots.get_or_insert_with(Roots::of_system).clone();
        let roots = roots.map_err(|why| {
            format!("{why}; install them (ca-certificates), or name a file with your own in tls.ca")
        });
        self.note(path, roots)
    }

    /// A certificate and its key, whose keys in the configuration are `paths`.
    fn identity(
        &mut self,
        files: &CertificateConfig,
        (of_cert, of_key): (&str, &str),
    ) -> Option<Identity> {
        let cert = self.contents(of_cert, &files.cert);
        let key = self.contents(of_key, &files.key);
        let own = match Identity::read(&cert?, &key?) {
            Ok(own) => own,
            Err(Unfit::Cert(why)) => {
                self.trouble(of_cert, format!("{} {why}", show(&files.cert)), true);
                return None;
            }
            Err(Unfit::Key(why)) => {
                self.trouble(of_key, format!("{} {why}", show(&files.key)), true);
                return None;
            }
        };
        self.check_chain(of_cert, &files.cert, &own.chain);
        if let Some(not_after) = own.not_after() {
            let file = show(&files.cert);
            self.dates.push(Dated { file, not_after });
        }
        Some(own)
    }

    fn check_chain(&mut self, path: &str, file: &Path, chain: &[Certificate]) {
        let file = show(file);
        for one in chain {
            let (left, day) = (one.left(self.now), date(one.not_after));
            let message = match left / DAY {
                _ if left <= 0 => format!(
                    "{file}: the certificate of {} is over since {day}",
                    one.subject
                ),
                days if days < DAYS_MIN => format!(
                    "{file}: the certificate of {} is over in {days} days ({day})",
                    one.subject
                ),
                _ if one.is_early(self.now) => format!(
                    "{file}: the certificate of {} begins on {}",
                    one.subject,
                    date(one.not_before)
                ),
                _ => continue,
            };
            self.warn(path, message);
        }
        let loose = chain.windows(2).find(|two| two[0].issuer != two[1].subject);
        if let Some([one, other]) = loose {
            let message = format!(
                "{file}: behind the certificate of {} stands that of {}, which has not issued it",
                one.subject, other.subject
            );
            self.warn(path, message);
        }
    }

    fn contents(&mut self, path: &str, file: &Path) -> Option<Arc<Vec<u8>>> {
        let read = self.files.read(file);
        self.note(path, read.map_err(|why| format!("{} {why}", show(file))))
    }

    fn note<T>(&mut self, path: &str, made: Result<T, String>) -> Option<T> {
        made.map_err(|message| self.trouble(path, message, true))
            .ok()
    }

    fn warn(&mut self, path: &str, message: String) {
        self.trouble(path, message, false);
    }

    fn trouble(&mut self, path: &str, message: String, grave: bool) {
        self.troubles.push(Trouble {
            path: path.to_owned(),
            message,
            grave,
        });
    }
}

/// Each file, read once.
struct Files {
    hasher: RandomState,
    read: BTreeMap<PathBuf, Result<Arc<Vec<u8>>, String>>,
}

impl Files {
    fn new(hasher: RandomState) -> Files {
        Files {
            hasher,
            read: BTreeMap::new(),
        }
    }

    fn read(&mut self, path: &Path) -> Result<Arc<Vec<u8>>, String> {
        let contents = || contents(path).map(Arc::new);
        let known = self.read.entry(path.to_owned());
        known.or_insert_with(contents).clone()
    }

    fn marks(&self) -> Marks {
        let mark = |bytes: &Arc<Vec<u8>>| self.hasher.hash_one(bytes);
        let all = self.read.iter();
        all.map(|(path, read)| (path.clone(), read.as_ref().ok().map(mark)))
            .collect()
    }
}

/// What is in a file. Only plain ones are opened: another kind could keep the reader waiting.
fn contents(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("can't be read: {error}");
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err("is no plain file".into());
    }
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    match bytes.len() as u64 > FILE_MAX {
        true => Err("is longer than 4 MiB".into()),
        false => Ok(bytes),
    }
}

fn show(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn oldest(version: TlsVersion) -> Oldest {
    match version {
        TlsVersion::Tls12 => Oldest::Tls12,
        TlsVersion::Tls13 => Oldest::Tls13,
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}: {}", self.path, self.message)
    }
}

/// From one look at the files to the next: two of them are short of what a person waits for.
const LOOK: Duration = Duration::from_secs(2);

/// An hour. What is told has the days in it, and so is told once a day.
const LOOKS_OF_REMINDER: u32 = 1_800;

/// Of one file. Bundles of all the world's authorities have some 250 KiB.
const FILE_MAX: u64 = 4 << 20;

const DAY: i64 = 24 * 60 * 60;

/// Who renews by itself has done so long before: a month is usual.
const DAYS_MIN: i64 = 14;

#[cfg(test)]
mod tests;
