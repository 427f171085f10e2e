//! A flame graph: each function as wide as its share of the samples, callers below.

use inferno::flamegraph::{self, Options};

use super::Profile;
use super::symbols::Symbols;

/// An SVG; `None` if there is no sample.
pub(super) fn draw(profile: &Profile) -> Option<Vec<u8>> {
    let mut symbols = Symbols::default();
    let lines: Vec<String> = profile
        .stacks
        .iter()
        .map(|(stack, numbers)| folded(profile, stack, numbers[0], &mut symbols))
        .collect();
    if lines.is_empty() {
        return None;
    }
    let mut options = Options::default();
    options.title = "wsteady: CPU time".to_string();
    options.count_name = profile.kinds[0].name.to_string();
    let mut svg = Vec::new();
    let lines = lines.iter().map(String::as_str);
    flamegraph::from_lines(&mut options, lines, &mut svg).ok()?;
    Some(svg)
}

/// Names from the outermost to the innermost, and how many samples: `main;work;hash 7`.
fn folded(profile: &Profile, stack: &[usize], count: u64, symbols: &mut Symbols) -> String {
    let mut names = Vec::new();
    for place in profile.places(stack) {
        match symbols.at(place) {
            [] => names.push("[unknown]".to_string()),
            lines => names.extend(lines.iter().map(|line| line.function.replace(';', ":"))),
        }
    }
    if names.is_empty() {
        names.push("[lost]".to_string());
    }
    names.reverse();
    format!("{} {count}", names.join(";"))
}
