//! Where the writer and its readers meet: atomics, and the promise that what is found is written.
//!
//! One idea: under `--cfg varve_loom` these are [loom](https://docs.rs/loom)'s, which plays all
//! orders in which threads may run and all values that a load may see by the memory model, and
//! `schedules.rs` runs on them. Otherwise they are those of the standard library, and [`Written`]
//! is nothing.

#[cfg(not(all(test, varve_loom)))]
mod system {
    pub(in crate::memtable) use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize};

    pub(in crate::memtable) use arc_swap::ArcSwap;

    /// Part of what is written once, before others can find it.
    pub(in crate::memtable) struct Written;

    impl Written {
        #[inline(always)]
        pub(in crate::memtable) fn new() -> Self {
            Self
        }

        /// Called by who found it.
        #[inline(always)]
        pub(in crate::memtable) fn assert_visible(&self) {}
    }
}

#[cfg(all(test, varve_loom))]
mod system {
    use std::sync::atomic::Ordering;
    use std::sync::{Arc, Mutex};

    use loom::cell::UnsafeCell;
    pub(in crate::memtable) use loom::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize};

    /// Memory that loom watches: it complains when the read is not ordered behind the write.
    pub(in crate::memtable) struct Written(UnsafeCell<()>);

    impl Written {
        pub(in crate::memtable) fn new() -> Self {
            let cell = UnsafeCell::new(());
            cell.with_mut(|_| ());
            Self(cell)
        }

        pub(in crate::memtable) fn assert_visible(&self) {
            self.0.with(|_| ());
        }
    }

    /// What the crate of that name promises, no more: who loads finds what was stored, and all that
    /// was written before.
    pub(in crate::memtable) struct ArcSwap<T> {
        stored: Mutex<Vec<Arc<T>>>,
        newest: AtomicUsize,
    }

    impl<T> ArcSwap<T> {
        pub(in crate::memtable) fn from_pointee(state: T) -> Self {
            Self { stored: Mutex::new(vec![Arc::new(state)]), newest: AtomicUsize::new(0) }
        }

        pub(in crate::memtable) fn store(&self, state: Arc<T>) {
            let newest = {
                let mut stored = self.stored.lock().expect("not poisoned");
                stored.push(state);
                stored.len() - 1
            };
            // Not within the lock: loom may let the other thread run here.
            self.newest.store(newest, Ordering::Release);
        }

        pub(in crate::memtable) fn load_full(&self) -> Arc<T> {
            let newest = self.newest.load(Ordering::Acquire);
            Arc::clone(&self.stored.lock().expect("not poisoned")[newest])
        }
    }
}

pub(super) use system::{ArcSwap, AtomicPtr, AtomicU64, AtomicUsize, Written};
