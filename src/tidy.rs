//! Holds the rooms to their laws: reads each room's `Imports:` and `Never:` lines and every file in
//! it, and fails the build's tests where a file breaks them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms, and what they may use of each other (STYLE 1): only what stands before them.
const ROOMS: [&str; 9] = [
    "kit", "wire", "session", "fleet", "shard", "net", "edge", "sim", "control",
];

/// Rooms whose data there is one of per session or per loop: nothing in them is shared or locked.
const DATA_PATH: [&str; 7] = ["kit", "wire", "session", "fleet", "shard", "net", "edge"];

/// Where unsafe code may stand.
const UNSAFE: [&str; 2] = ["net/sys.rs", "net/sys/trace.rs"];

#[test]
fn every_room_keeps_its_law() {
    let mut broken = Vec::new();
    for room in ROOMS {
        let law = Law::read(room);
        for file in files(room) {
            let code = code_of(&file);
            for path in paths_in(&code) {
                if law.never.iter().any(|never| begins(&path, never)) {
                    broken.push(format!("{}: {path} is forbidden", file.display()));
                }
                let root = path.split("::").next().unwrap_or_default();
                let known = match root {
                    "crate" => {
                        law.imports.iter().any(|import| begins(&path, import))
                            || is_own(&path, room)
                    }
                    "self" | "super" | "core" | "alloc" => true,
                    _ => !is_crate(root) || law.imports.contains(root),
                };
                if !known {
                    broken.push(format!(
                        "{}: {path} is not in the room's imports",
                        file.display()
                    ));
                }
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn unsafe_code_stands_in_one_place() {
    for room in ROOMS {
        for file in files(room)
            .into_iter()
            .filter(|file| !UNSAFE.iter().any(|place| file.ends_with(place)))
        {
            let code = code_of(&file);
            assert!(
                !has_word(&code, "unsafe"),
                "{} has unsafe code",
                file.display()
            );
        }
    }
    for place in UNSAFE {
        let text = fs::read_to_string(root().join(place)).expect("the file is there");
        let claims = ["unsafe {", "unsafe impl", "unsafe extern"];
        let blocks: usize = claims.iter().map(|claim| text.matches(claim).count()).sum();
        assert_eq!(
            text.matches("// SAFETY:").count(),
            blocks,
            "{place}: each block says why it is sound"
        );
    }
}

#[test]
fn nothing_on_the_data_path_is_shared_locked_or_unwrapped() {
    for room in DATA_PATH {
        for file in files(room) {
            let code = code_of(&file);
            // Rule: its locks are taken when a client comes or goes, and never for a message.
            let quota = file.ends_with("kit/quota.rs");
            // Rule: its lock is taken when keys are exchanged, and then once by each loop.
            let ring = file.ends_with("edge/keys.rs");
            for word in ["Rc", "RefCell", "Mutex", "RwLock", "unwrap"] {
                let hits = has_word(&code, word) && !((quota || ring) && word == "Mutex");
                assert!(!hits, "{} uses {word}", file.display());
            }
        }
    }
}

#[test]
fn the_reader_of_paths_sees_nested_groups() {
    let code = "use a::{b, c::{d, e as f}};\nfn g() { mio::Poll::new(); x.h::<u8>(); }";
    let found = paths_in(code);
    for path in ["a::b", "a::c::d", "a::c::e", "mio::Poll::new"] {
        assert!(found.contains(path), "{path} in {found:?}");
    }
    assert_eq!(bare("a(\"b // \\\" c\") // d\ne"), "a(\"\") \ne");
    assert!(has_word("let x = unsafe { y };", "unsafe") && !has_word("unsafely", "unsafe"));
}

struct Law {
    imports: BTreeSet<String>,
    never: BTreeSet<String>,
}

impl Law {
    fn read(room: &str) -> Law {
        let text = fs::read_to_string(root().join(room).join("mod.rs"))
            .unwrap_or_else(|error| panic!("room {room}: {error}"));
        let list = |head: &str| -> BTreeSet<String> {
            let line = text.lines().find_map(|line| line.strip_prefix(head));
            let line = line.unwrap_or_else(|| panic!("{room}/mod.rs has no line `{head}`"));
            line.trim()
                .trim_end_matches('.')
                .split(", ")
                .map(|name| name.replace('-', "_"))
                .collect()
        };
        Law {
            imports: list("//! Imports:"),
            never: list("//! Never:"),
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(room: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(room)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !name.contains("test") {
                found.push(path);
            }
        }
    }
    found
}

/// The file without comments, strings' contents and tests.
fn code_of(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a readable file");
    bare(text.split("#[cfg(test)]").next().unwrap_or_default())
}

/// Drops line comments and what stands between quotes. A quote in a char literal is stepped over;
/// raw strings with quotes inside do not occur in the rooms.
fn bare(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => {
                rest.find(|c| *c == '\n');
                code.push('\n');
            }
            '"' => {
                while let Some(inner) = rest.next() {
                    match inner {
                        '\\' => drop(rest.next()),
                        '"' => break,
                        _ => {}
                    }
                }
                code.push_str("\"\"");
            }
            '\'' if rest.peek() == Some(&'"') => drop(rest.next()),
            _ => code.push(c),
        }
    }
    code
}

/// All paths of two or more segments, `use` groups spread out.
fn paths_in(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    for statement in code.split(';') {
        if let Some(tree) = statement
            .trim()
            .split("use ")
            .nth(1)
            .filter(|tree| tree.contains("::{"))
        {
            spread("", &tree.replace(char::is_whitespace, " "), &mut found);
        }
    }
    for word in code.split(|c| !is_path(c)) {
        if word.contains("::") {
            found.insert(word.trim_matches(':').to_string());
        }
    }
    found
}

fn spread(prefix: &str, tree: &str, found: &mut BTreeSet<String>) {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once("::{") else {
        let name = tree.split(" as ").next().unwrap_or_default().trim();
        found.insert(format!("{prefix}{name}"));
        return;
    };
    let inner = group.rsplit_once('}').map_or(group, |(inner, _)| inner);
    let prefix = format!("{prefix}{}::", head.trim());
    let (mut depth, mut from) = (0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                spread(&prefix, &inner[from..at], found);
                from = at + 1;
            }
            _ => {}
        }
    }
    if !inner[from..].trim().is_empty() {
        spread(&prefix, &inner[from..], found);
    }
}

/// Whether a path lies under a name; the last part of the name may be a beginning (`Tcp`).
fn begins(path: &str, name: &str) -> bool {
    let whole = path == name || path.starts_with(&format!("{name}::"));
    whole || (name.ends_with("Tcp") && path.starts_with(name))
}

fn is_own(path: &str, room: &str) -> bool {
    begins(path, &format!("crate::{room}")) || begins(path, "crate::planted")
}

/// Whether the first segment of a path names a crate: those of the workspace, or std.
fn is_crate(root: &str) -> bool {
    let manifest = include_str!("../Cargo.toml");
    let from = manifest.find("[dependencies]").expect("the section");
    let manifest = manifest[from + 1..].split("\n[").next();
    let manifest = manifest.expect("what stands before the next section");
    let depends = manifest.lines().any(|line| {
        let name = line
            .split(" =")
            .next()
            .unwrap_or_default()
            .replace('-', "_");
        !name.is_empty() && name == root
    });
    depends || root == "std"
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .any(|found| found == word)
}
