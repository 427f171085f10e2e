//! An `.ini` file as sections of pairs that know their places.

use std::sync::Arc;

use super::super::{Place, Problem};

/// `[name]` and what stands below it. One that comes again goes on with the first.
pub(super) struct Section {
    pub name: String,
    pub place: Place,
    pub pairs: Vec<Pair>,
}

/// `key = value`.
pub(super) struct Pair {
    pub key: String,
    pub place: Place,
    pub value: String,
    pub value_place: Place,
}

/// Whether the first line that says anything is a section's name.
pub(super) fn looks_like(text: &str) -> bool {
    let mut lines = text.trim_start_matches(BOM).lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !is_comment(line));
    let inner = first.and_then(|line| line.strip_prefix('[')?.strip_suffix(']'));
    inner.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase()))
}

/// Reads all sections; problems are lines that are none of an `.ini` file's, and repeated keys.
pub(super) fn parse(text: &str, name: &Arc<str>) -> (Vec<Section>, Vec<Problem>) {
    let mut reader = Reader {
        name,
        sections: Vec::new(),
        open: None,
        problems: Vec::new(),
    };
    for (line, number) in text.trim_start_matches(BOM).lines().zip(1..) {
        reader.line(line, number);
    }
    (reader.sections, reader.problems)
}

impl Section {
    pub fn find(&self, key: &str) -> Option<&Pair> {
        self.pairs.iter().find(|pair| pair.key == key)
    }
}

struct Reader<'a> {
    name: &'a Arc<str>,
    sections: Vec<Section>,
    /// The section that the next pair belongs to.
    open: Option<usize>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn line(&mut self, line: &str, number: u64) {
        let text = line.trim();
        if text.is_empty() || is_comment(text) {
            return;
        }
        let place = self.place(line, line.len() - line.trim_start().len(), number);
        if let Some(rest) = text.strip_prefix('[') {
            return match rest.split_once(']') {
                Some((name, behind)) if behind.trim().is_empty() || is_comment(behind.trim()) => {
                    self.begin(name.trim(), place);
                }
                _ => self.problem(place, "a section's name ends with ]"),
            };
        }
        let Some(open) = self.open else {
            return self.problem(place, "stands before the first [section]");
        };
        let Some(end) = line.find('=').or_else(|| line.find(':')) else {
            return self.problem(place, "is no key = value");
        };
        let (key, value) = (line[..end].trim(), &line[end + 1..]);
        let start = end + 1 + (value.len() - value.trim_start().len());
        let value_place = self.place(line, start, number);
        let pair = Pair {
            key: key.to_owned(),
            place,
            value: bare(value.trim()).to_owned(),
            value_place,
        };
        match self.sections[open].find(key) {
            Some(first) => {
                let line = first.place.line();
                let message = format!("`{key}` stands here twice, first in line {line}");
                self.problem(pair.place, &message);
            }
            None => self.sections[open].pairs.push(pair),
        }
    }

    fn begin(&mut self, name: &str, place: Place) {
        let known = self.sections.iter().position(|one| one.name == name);
        self.open = Some(known.unwrap_or_else(|| {
            self.sections.push(Section {
                name: name.to_owned(),
                place,
                pairs: Vec::new(),
            });
            self.sections.len() - 1
        }));
    }

    fn place(&self, line: &str, byte: usize, number: u64) -> Place {
        Place::in_file(self.name, number, line[..byte].chars().count() as u64 + 1)
    }

    fn problem(&mut self, place: Place, message: &str) {
        let message = message.to_owned();
        self.problems.push(Problem { place, message });
    }
}

fn is_comment(text: &str) -> bool {
    text.starts_with(['#', ';'])
}

/// Without its quotes, or without the comment behind it.
fn bare(value: &str) -> &str {
    for quote in ['"', '\''] {
        let inner = value.strip_prefix(quote);
        if let Some((inner, _)) = inner.and_then(|inner| inner.split_once(quote)) {
            return inner;
        }
    }
    value[..value.find(['#', ';']).unwrap_or(value.len())].trim_end()
}

const BOM: char = '\u{feff}';
