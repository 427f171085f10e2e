//! Where a value stands, and what is wrong with it.

use std::fmt;
use std::sync::Arc;

/// The place of a value: a file's line and column, a flag, or an environment variable.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file's name, the flag (`--hold`) or the variable (`WSTEADY_HOLD`).
    name: Arc<str>,
    /// From 1; 0 where there are no lines.
    line: u32,
    /// In characters, from 1.
    column: u32,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// All that is wrong, ordered by place; displayed one line each. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Place {
    /// A place without lines.
    pub(crate) fn named(name: &str) -> Place {
        Place {
            name: name.into(),
            line: 0,
            column: 0,
        }
    }

    pub(super) fn in_file(name: &Arc<str>, line: u64, column: u64) -> Place {
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Place {
            name: name.clone(),
            line: number(line),
            column: number(column),
        }
    }

    /// The line, from 1; 0 for a flag or a variable.
    pub fn line(&self) -> u32 {
        self.line
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(out, "{}", self.name),
            line => write!(out, "{}:{line}:{}", self.name, self.column),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.name.is_empty() {
            true => write!(out, "{}", self.message),
            false => write!(out, "{}: {}", self.place, self.message),
        }
    }
}

impl Problems {
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl From<Vec<Problem>> for Problems {
    fn from(mut problems: Vec<Problem>) -> Problems {
        debug_assert!(!problems.is_empty());
        // A stable sort: two problems of one place stay in the order they were found.
        problems.sort_by(|one, other| one.place.cmp(&other.place));
        Problems(problems)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                out.write_str("\n")?;
            }
            write!(out, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
