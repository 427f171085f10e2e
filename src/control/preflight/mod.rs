//! `wsteady preflight`: which limits of this machine are too small for so many connections, and the
//! command that mends each.
//!
//! **Invariant:** nothing is changed, and nothing guessed: what can't be read is said.

mod checks;
mod machine;
mod need;
mod sysctls;

#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::io::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::config::{Config, Problem};
pub use machine::Machine;
pub use sysctls::{SYSCTLS, Sysctl, drop_in};

/// What `wsteady preflight` was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub connections: u64,
    pub config: Box<Config>,
    /// No configuration named a pool: what `config` has is one that stands for any.
    pub is_assumed: bool,
    pub json: bool,
    pub warnings: Vec<Problem>,
}

/// Looks at this machine and says what it found: 0 if nothing is too small, else 1. `own_tables`
/// tries, on a thread that ends then, whether the kernel gives a thread its own descriptor table.
pub fn run(options: &Options, own_tables: fn() -> bool) -> ExitCode {
    for warning in &options.warnings {
        eprintln!("warning: {warning}");
    }
    let own_tables = std::thread::spawn(own_tables).join().unwrap_or(false);
    let report = examine(options, &Machine::this(own_tables));
    let text = match options.json {
        true => format!("{:#}\n", report.json()),
        false => report.table(),
    };
    // Not `print!`, which panics when the reader (`| head`) has gone.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(u8::from(report.too_small() > 0))
}

/// Compares a machine with what the connections need.
pub fn examine(options: &Options, machine: &Machine) -> Report {
    Report {
        title: need::title(options),
        connections: options.connections,
        checks: checks::all(options, machine),
    }
}

/// Everything that was looked at.
pub struct Report {
    title: String,
    connections: u64,
    checks: Vec<Check>,
}

/// One limit.
#[derive(Debug)]
pub struct Check {
    /// As the kernel or the configuration calls it.
    pub name: String,
    pub found: String,
    pub wanted: String,
    pub verdict: Verdict,
    /// What the number is for.
    pub why: String,
    /// What mends it; empty if nothing is to be mended.
    pub mend: String,
}

/// How a limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Enough,
    /// So many connections will not fit.
    TooSmall,
    /// They will fit; it could be better.
    Advice,
    Unreadable,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Enough => "ok",
            Verdict::TooSmall => "too small",
            Verdict::Advice => "advice",
            Verdict::Unreadable => "unreadable",
        }
    }
}

impl Report {
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// Limits that are too small.
    pub fn too_small(&self) -> usize {
        self.count(Verdict::TooSmall)
    }

    fn count(&self, verdict: Verdict) -> usize {
        let such = |check: &&Check| check.verdict == verdict;
        self.checks.iter().filter(such).count()
    }

    /// For people.
    pub fn table(&self) -> String {
        let width = |of: fn(&Check) -> &str, head: &str| {
            let widths = self.checks.iter().map(|check| of(check).len());
            widths.max().unwrap_or(0).max(head.len())
        };
        let name = width(|check| &check.name, "limit");
        let found = width(|check| &check.found, "found");
        let mut text = format!("{}\n\n", self.title);
        let mut line = |cells: [&str; 4]| {
            let [verdict, limit, is, wanted] = cells;
            let row = format!("{verdict:10}  {limit:name$}  {is:found$}  {wanted}");
            writeln!(text, "{}", row.trim_end()).expect("a String takes everything");
        };
        line(["", "limit", "found", "wanted"]);
        for check in &self.checks {
            line([
                check.verdict.word(),
                &check.name,
                &check.found,
                &check.wanted,
            ]);
            if matches!(check.verdict, Verdict::TooSmall | Verdict::Advice) {
                line(["", &format!("  {}", check.why), "", ""]);
                line(["", &format!("  > {}", check.mend), "", ""]);
            }
        }
        text.push('\n');
        text.push_str(&self.sum());
        text
    }

    fn sum(&self) -> String {
        let unread = match self.count(Verdict::Unreadable) {
            0 => String::new(),
            1 => " One could not be read.".to_owned(),
            count => format!(" {count} could not be read."),
        };
        let sum = match self.too_small() {
            0 => "No limit is too small.".to_owned(),
            1 => "One limit is too small.".to_owned(),
            count => format!("{count} limits are too small."),
        };
        let last = match self.too_small() {
            0 => "",
            _ => {
                "\n`sysctl -w` lasts until the next boot; \
                  `wsteady generate sysctl` makes a file for /etc/sysctl.d."
            }
        };
        format!("{sum}{unread}{last}\n")
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let check = |check: &Check| {
            json!({
                "limit": check.name,
                "verdict": check.verdict.word(),
                "found": check.found,
                "wanted": check.wanted,
                "why": check.why,
                "mend": check.mend,
            })
        };
        json!({
            "connections": self.connections,
            "enough": self.too_small() == 0,
            "checks": self.checks.iter().map(check).collect::<Vec<_>>(),
        })
    }
}
