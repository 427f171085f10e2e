//! A file as a tree of nodes that know their places. The only file that names the YAML crate.

use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, Options, Spanned};

use super::{Place, Problem};

/// One YAML node. Scalars stay text: only the reader knows whether `007` is an id or a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub value: Value,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One pair of a map, in the file's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub key: String,
    pub place: Place,
    pub node: Node,
}

impl Node {
    pub fn scalar(text: &str, place: Place) -> Node {
        Node {
            value: Value::Scalar(text.into()),
            place,
        }
    }

    pub fn list(nodes: Vec<Node>, place: Place) -> Node {
        Node {
            value: Value::List(nodes),
            place,
        }
    }

    pub fn map(pairs: Vec<(&str, Node)>, place: Place) -> Node {
        let entry = |(key, node): (&str, Node)| Entry {
            key: key.into(),
            place: place.clone(),
            node,
        };
        Node {
            value: Value::Map(pairs.into_iter().map(entry).collect()),
            place: place.clone(),
        }
    }

    /// What stands under a key of a map, put there if nothing does. `None`: this is no map.
    pub fn entry(&mut self, key: &str, node: Node) -> Option<&mut Node> {
        if self.value == Value::Null {
            self.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut self.value else {
            return None;
        };
        let known = entries.iter().position(|entry| entry.key == key);
        let at = known.unwrap_or_else(|| {
            entries.push(Entry {
                key: key.into(),
                place: node.place.clone(),
                node: node.clone(),
            });
            entries.len() - 1
        });
        let own = &mut entries[at].node;
        if own.value == Value::Null {
            *own = node;
        }
        Some(own)
    }

    /// Puts `node` at `path`, making the maps on the way. Where something else than a map stands
    /// on the way nothing is done: the reader will complain about that anyway.
    pub fn graft(&mut self, path: &[&str], node: Node) {
        let Some((first, rest)) = path.split_first() else {
            *self = node;
            return;
        };
        if self.value == Value::Null {
            self.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut self.value else {
            return;
        };
        let index = entries
            .iter()
            .position(|entry| entry.key == *first)
            .unwrap_or_else(|| {
                let place = node.place.clone();
                let empty = Node {
                    value: Value::Null,
                    place: place.clone(),
                };
                entries.push(Entry {
                    key: (*first).into(),
                    place,
                    node: empty,
                });
                entries.len() - 1
            });
        entries[index].node.graft(rest, node);
    }
}

/// Reads one YAML document. The problems beside the tree are keys that stand twice.
///
/// # Errors
/// What is no YAML at all: the first such place, because nothing behind it can be understood.
pub(super) fn parse(text: &str, name: &Arc<str>) -> Result<(Node, Vec<Problem>), Problem> {
    let mut options = Options::default();
    options.with_snippet = false;
    // Our own check finds all repeated keys; the crate's would stop at the first.
    options.duplicate_keys = DuplicateKeyPolicy::LastWins;
    let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| syntax_problem(&error, name))?;
    let mut planter = Planter {
        text,
        name,
        problems: Vec::new(),
    };
    let root = planter.plant(raw);
    Ok((root, planter.problems))
}

fn syntax_problem(error: &serde_saphyr::Error, name: &Arc<str>) -> Problem {
    let mut message = error.to_string();
    let Some(at) = error.location() else {
        return Problem {
            place: Place::named(name),
            message,
        };
    };
    // The crate ends its message with the place, which stands in front of ours.
    let suffix = format!(" at line {}, column {}", at.line(), at.column());
    if let Some(short) = message.strip_suffix(&suffix) {
        message.truncate(short.len());
    }
    Problem {
        place: place_of(&at, name),
        message: format!("not valid YAML: {message}"),
    }
}

fn place_of(at: &Location, name: &Arc<str>) -> Place {
    Place::in_file(name, at.line(), at.column())
}

/// Turns what serde saw into nodes with places and the scalars' own spelling.
struct Planter<'a> {
    text: &'a str,
    name: &'a Arc<str>,
    problems: Vec<Problem>,
}

impl Planter<'_> {
    fn plant(&mut self, raw: Spanned<Raw>) -> Node {
        let place = place_of(&raw.referenced, self.name);
        let value = match raw.value {
            Raw::Null => Value::Null,
            Raw::Text(text) => Value::Scalar(text),
            Raw::Typed(shown) => Value::Scalar(self.spelling(&raw.defined).unwrap_or(shown)),
            Raw::List(items) => {
                Value::List(items.into_iter().map(|item| self.plant(item)).collect())
            }
            Raw::Map(pairs) => self.plant_map(pairs),
        };
        Node { value, place }
    }

    fn plant_map(&mut self, pairs: Vec<(Spanned<String>, Spanned<Raw>)>) -> Value {
        let mut entries: Vec<Entry> = Vec::with_capacity(pairs.len());
        for (key, node) in pairs {
            let place = place_of(&key.referenced, self.name);
            let node = self.plant(node);
            if let Some(first) = entries.iter().find(|entry| entry.key == key.value) {
                let line = first.place.line();
                let message = format!("`{}` stands here twice, first in line {line}", key.value);
                self.problems.push(Problem { place, message });
                continue;
            }
            entries.push(Entry {
                key: key.value,
                place,
                node,
            });
        }
        Value::Map(entries)
    }

    /// `no`, `007` and `1e3` as they were written, not as YAML's types would have them.
    fn spelling(&self, at: &Location) -> Option<String> {
        let start = usize::try_from(at.span().byte_offset()?).ok()?;
        let length = usize::try_from(at.span().byte_len()?).ok()?;
        self.text
            .get(start..start.checked_add(length)?)
            .map(str::to_owned)
    }
}

/// What serde hands over. `Typed` holds a scalar that YAML took for a number or a boolean.
enum Raw {
    Null,
    Text(String),
    Typed(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Typed(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(pair) = pairs.next_entry()? {
            map.push(pair);
        }
        Ok(Raw::Map(map))
    }
}
