//! The newest data, in memory: one writer, readers without locks.
//!
//! A memtable is an arena with five ways through it: per keyspace a skiplist in key order, a hash
//! index, and sums over spans of keys; per key a chain of versions, newest first, with jumps into the
//! past; and for `kv` a list in the order of writing. Readers use `Acquire` loads only: no
//! compare-and-swap, no epochs, no counts per entry; why it is our own is told in
//! docs/decisions/0018-own-memtable.md. Memory is freed all at once when the last `Arc<Memtable>` goes.
//!
//! **What a reader sees** is decided by one number. Every record has an ordinal, its position in
//! the order of writing, across both keyspaces. A commit publishes a [`Committed`] with the number
//! of records it covers; a reader that loaded it ignores records at or above that number. So `kv`
//! and `sys` change together, and a reader can never see a revision whose memtable it lacks:
//! the number belongs to *its* memtable, and stops moving when that is frozen.
//!
//! Invariants:
//! - Only the [`MemtableWriter`] made together with a memtable changes it, through `&mut`.
//! - Revisions of one key grow along the order of writing; those of all `kv` records do not fall,
//!   and are above what was visible when the memtable began.
//! - `Committed::ordinal` never goes back and never exceeds the number of records.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::table::hash;
use crate::{KeyRange, Keyspace};

mod arena;
mod chain;
mod cursor;
#[cfg(all(test, not(any(miri, varve_loom))))]
mod differential;
mod index;
mod order;
mod record;
#[cfg(all(test, varve_loom))]
mod schedules;
mod skiplist;
mod spans;
mod sync;
#[cfg(all(test, not(varve_loom)))]
mod tests;
mod writer;

pub(crate) use cursor::{MemtableCursor, MemtableHistory};
pub(crate) use record::RecordRef;
pub(crate) use writer::MemtableWriter;

use record::{Node, NodeRef};
use sync::ArcSwap;

/// Bound on ordinals of a view that sees every record: the writer's own, or of a frozen memtable.
pub(crate) const ALL_RECORDS: u64 = u64::MAX;

/// The state after a commit, as far as one memtable is concerned.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// Where the caller's log stands.
    pub mark: Bytes,
    /// Newest `kv` revision that readers see.
    pub kv_visible: u64,
    /// The compacted revision.
    pub compacted: u64,
    /// Records of this memtable with a lower ordinal are committed.
    pub ordinal: u64,
}

/// The shared half of a memtable: what readers hold.
pub(crate) struct Memtable {
    lists: [List; 2],
    /// First block of the `kv` records in the order of writing.
    order: NonNull<order::Block>,
    committed: ArcSwap<Committed>,
    /// Newest `kv` revision that was visible when it was made.
    begin: u64,
    used_bytes: AtomicUsize,
    /// Of these, bytes whose records a flush under way has written already, about.
    flushed_bytes: AtomicUsize,
    chunks: arena::Chunks,
}

/// The keys of one keyspace.
struct List {
    head: NonNull<Node>,
    index: index::Index,
}

// SAFETY: the raw pointers lead into `chunks`, which the memtable owns. Readers load them with
// Acquire from atomics that the single writer stores with Release; everything behind them is
// written before and does not change, or is atomic itself.
unsafe impl Send for Memtable {}
// SAFETY: as above.
unsafe impl Sync for Memtable {}

impl Memtable {
    fn list(&self, keyspace: Keyspace) -> &List {
        &self.lists[keyspace as usize]
    }

    fn head(&self, keyspace: Keyspace) -> NodeRef<'_> {
        // SAFETY: the head was written when the memtable was made and lives as long.
        unsafe { NodeRef::from_ptr(self.list(keyspace).head.as_ptr()) }
            .expect("a pointer that is not null")
    }

    /// The state after the newest commit into this memtable.
    pub(crate) fn committed(&self) -> Arc<Committed> {
        self.committed.load_full()
    }

    /// All its `kv` records have a revision above this one.
    pub(crate) fn begin(&self) -> u64 {
        self.begin
    }

    /// Holds the lock that the writer takes to get more memory.
    #[cfg(test)]
    pub(crate) fn hold_chunks(&self) -> impl Sized + '_ {
        self.chunks.hold()
    }

    /// Bytes that it takes.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that a flush has still to write, about.
    pub(crate) fn unflushed_bytes(&self) -> usize {
        self.used_bytes().saturating_sub(self.flushed_bytes.load(Ordering::Relaxed))
    }

    /// A flush has written records of so many bytes more.
    pub(crate) fn add_flushed_bytes(&self, bytes: usize) {
        self.flushed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The newest version of `key` with `revision.main <= at` among records below `ordinal`.
    /// `hash` is [`hash`] of the key.
    pub(crate) fn get(
        &self,
        keyspace: Keyspace,
        hash: u64,
        key: &[u8],
        at: u64,
        ordinal: u64,
    ) -> Option<RecordRef<'_>> {
        // SAFETY: nodes live as long as the memtable.
        let node = unsafe { self.list(keyspace).index.get(hash, key) }?;
        newest_at(node, at, ordinal)
    }

    /// Sum of the deltas of the records in `range` with `revision.main <= at` and below `ordinal`.
    /// Adds up spans, and walks keys only at the two ends of the range.
    pub(crate) fn delta_sum(
        &self,
        keyspace: Keyspace,
        range: &KeyRange,
        at: u64,
        ordinal: u64,
    ) -> i64 {
        spans::delta_sum(self.head(keyspace), range, at, ordinal)
    }

    /// A cursor over the records below `ordinal`; [`MemtableCursor::seek`] it first.
    pub(crate) fn cursor(self: &Arc<Self>, keyspace: Keyspace, ordinal: u64) -> MemtableCursor {
        MemtableCursor::new(Arc::clone(self), keyspace, ordinal)
    }

    /// The `kv` records below `ordinal` with `revision.main >= from`, in revision order.
    pub(crate) fn history(self: &Arc<Self>, from: u64, ordinal: u64) -> MemtableHistory {
        MemtableHistory::new(Arc::clone(self), from, ordinal)
    }
}

fn newest_at(node: NodeRef<'_>, at: u64, ordinal: u64) -> Option<RecordRef<'_>> {
    chain::state_at(node.newest(), at, ordinal)
}

/// Ties what is stored behind raw pointers to the memtable that it lives in.
type InMemtable = PhantomData<Arc<Memtable>>;
