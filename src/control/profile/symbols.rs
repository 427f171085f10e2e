//! What stands at an address.

use std::collections::BTreeMap;
use std::ffi::c_void;

/// A function, and a line in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) function: String,
    pub(super) file: String,
    pub(super) number: u32,
}

/// Lines by address, the innermost of inlined functions first. What has no name has no lines.
#[derive(Default)]
pub(super) struct Symbols(BTreeMap<usize, Vec<Line>>);

impl Symbols {
    pub(super) fn at(&mut self, place: usize) -> &[Line] {
        self.0.entry(place).or_insert_with(|| resolve(place))
    }
}

impl Drop for Symbols {
    fn drop(&mut self) {
        // The debug information of the whole program is not kept for the next profile.
        backtrace::clear_symbol_cache();
    }
}

fn resolve(place: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    backtrace::resolve(place as *mut c_void, |symbol| {
        let Some(name) = symbol.name() else { return };
        let file = symbol.filename().map(|file| file.to_string_lossy());
        lines.push(Line {
            function: format!("{name:#}"),
            file: file.unwrap_or_default().into_owned(),
            number: symbol.lineno().unwrap_or(0),
        });
    });
    lines
}
