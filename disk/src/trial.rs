//! What a simulation asks of code that knows nothing of it: whether a rare place was reached, and
//! whether a known bug is to be there.
//!
//! One idea: both are a name in the code. Without the feature `trial`, which only the simulator's
//! own builds enable, [`reach`] is nothing and [`has_bug`] is `false` before the optimiser sees it, so
//! that no bug is in any other program. With it, both look into what the thread was told: a simulated
//! cluster is one thread.
//!
//! It is here because every crate that touches durable state stands on this one. The names are listed
//! in `sim/src/marks.rs` and `sim/src/plant.rs`, which are held against the code.

#[cfg(feature = "trial")]
pub use armed::{begin, has_bug, reach, reached};

/// A rare place of this name is reached.
#[cfg(not(feature = "trial"))]
#[inline(always)]
pub fn reach(_place: &'static str) {}

/// Whether the bug of this name is planted.
#[cfg(not(feature = "trial"))]
#[inline(always)]
pub const fn has_bug(_name: &str) -> bool {
    false
}

#[cfg(feature = "trial")]
mod armed {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    thread_local! {
        static BUG: Cell<Option<&'static str>> = const { Cell::new(None) };
        static REACHED: RefCell<BTreeMap<&'static str, u64>> =
            const { RefCell::new(BTreeMap::new()) };
    }

    /// From now on this thread's bug is this one, and no place was reached.
    pub fn begin(bug: Option<&'static str>) {
        BUG.set(bug);
        REACHED.take();
    }

    /// A rare place of this name is reached.
    pub fn reach(place: &'static str) {
        REACHED.with_borrow_mut(|reached| *reached.entry(place).or_default() += 1);
    }

    /// Whether the bug of this name is planted.
    pub fn has_bug(name: &str) -> bool {
        BUG.get() == Some(name)
    }

    /// Which places this thread has reached since it began, and how often.
    pub fn reached() -> BTreeMap<&'static str, u64> {
        REACHED.with_borrow(Clone::clone)
    }
}
