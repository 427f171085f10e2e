//! What is done to the nodes meanwhile, as somebody else says line by line in a file.

use std::path::{Path, PathBuf};

/// A line, and when it was seen.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Mark {
    /// Nanoseconds since the start of the run.
    pub at: u64,
    pub text: String,
}

/// Watches the file; one that is not there yet has no lines.
pub struct Marks {
    path: PathBuf,
    read: usize,
    next_look: u64,
    pub seen: Vec<Mark>,
}

impl Marks {
    pub fn new(path: &Path) -> Self {
        let mut marks = Self {
            path: path.to_path_buf(),
            read: 0,
            next_look: 0,
            seen: Vec::new(),
        };
        // What an earlier run was told is no news.
        marks.read = marks.bytes().len();
        marks
    }

    /// Looks whether there is a new line, if it is time to.
    pub fn look(&mut self, now: u64) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK;
        let length = std::fs::metadata(&self.path).map_or(0, |meta| meta.len());
        if length <= self.read as u64 {
            return;
        }
        let bytes = self.bytes();
        let new = bytes.get(self.read..).unwrap_or_default();
        // A line without its end is still being written.
        let whole = new
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        for line in String::from_utf8_lossy(&new[..whole]).lines() {
            self.seen.push(Mark {
                at: now,
                text: line.to_string(),
            });
        }
        self.read += whole;
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap_or_default()
    }
}

/// Often enough that a mark is not later than what it explains is noticed; nanoseconds.
const LOOK: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_seen_once_and_old_ones_never() {
        let path = std::env::temp_dir().join(format!("wsteady-marks-{}", std::process::id()));
        std::fs::write(&path, "old\n").unwrap();
        let mut marks = Marks::new(&path);
        marks.look(0);
        std::fs::write(&path, "old\nkilled b\nback").unwrap();
        marks.look(LOOK);
        marks.look(2 * LOOK);
        std::fs::write(&path, "old\nkilled b\nback\n").unwrap();
        marks.look(2 * LOOK + 1);
        marks.look(3 * LOOK);
        std::fs::remove_file(&path).unwrap();
        let seen: Vec<_> = marks.seen.iter().map(|m| (m.at, m.text.as_str())).collect();
        assert_eq!(seen, [(LOOK, "killed b"), (3 * LOOK, "back")]);
    }
}
