//! The environment's part of the command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::CommandFactory;

use super::{Exit, Words};
use crate::control::config::{BALANCER_VARIABLES, Place, Problem, nearest};

/// The variables that begin with `WSTEADY_`, and those of the older proxies.
pub(super) struct Env {
    values: Vec<(String, OsString)>,
    /// Those that some flag asked for.
    known: Vec<String>,
}

impl Env {
    pub(super) fn new(env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Env, Exit> {
        let name = |name: OsString| {
            name.into_string().ok().filter(|name| {
                name.starts_with(PREFIX)
                    || name.starts_with(WS2API_PREFIX)
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
    pub(super) fn pick(
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
    pub(super) fn pick_list(
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

    pub(super) fn take(&mut self, variable: &str) -> Result<Option<String>, Exit> {
        let Some(value) = self.find(variable) else {
            return Ok(None);
        };
        let text = value.to_str().map(str::to_owned);
        text.map(Some)
            .ok_or_else(|| Exit::wrong(format!("{variable}: is not UTF-8")))
    }

    /// Those of a list of variables that are set, with their values.
    pub(super) fn take_all(&mut self, names: &[&str]) -> Result<Vec<(String, String)>, Exit> {
        let mut all = Vec::new();
        for name in names {
            if let Some(value) = self.take(name)? {
                all.push(((*name).to_owned(), value));
            }
        }
        Ok(all)
    }

    pub(super) fn has(&self, variable: &str) -> bool {
        self.values.iter().any(|(name, _)| name == variable)
    }

    pub(super) fn take_path(&mut self, variable: &str) -> Option<PathBuf> {
        self.find(variable).map(PathBuf::from)
    }

    fn find(&mut self, variable: &str) -> Option<OsString> {
        self.known.push(variable.to_owned());
        let found = self.values.iter().find(|(name, _)| name == variable);
        found.map(|(_, value)| value.clone())
    }

    /// One warning for each variable that nothing asked for. A typo would else go unseen, but an
    /// error would let a container's stray variable keep a proxy from starting.
    pub(super) fn unknown(&self) -> Vec<Problem> {
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
pub(super) fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_ascii_uppercase().replace('-', "_"))
}

const PREFIX: &str = "WSTEADY_";
const WS2API_PREFIX: &str = "WS2API_";

/// Variables of flags that only subcommands have.
const OTHER_VARIABLES: &[&str] = &["WSTEADY_SECONDS", "WSTEADY_CONNECTIONS", "WSTEADY_BRIDGE"];
