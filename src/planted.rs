//! Bugs planted on purpose, behind a feature: each must be found by a sweep of the simulator. A law
//! that finds none of them proves nothing.

use std::cell::Cell;

/// A planted bug; see where each is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A key finds its slot's next tenant.
    StaleKeyHits,
}

impl Bug {
    /// All of them.
    pub const ALL: &'static [Bug] = &[Bug::StaleKeyHits];
}

thread_local! {
    static ACTIVE: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug in this thread, or none.
pub fn plant(bug: Option<Bug>) {
    ACTIVE.set(bug);
}

/// Whether this bug is planted here.
pub fn on(bug: Bug) -> bool {
    ACTIVE.get() == Some(bug)
}
