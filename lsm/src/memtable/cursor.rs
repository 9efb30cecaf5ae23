//! Walks through a memtable: in key order, and in the order of writing.
//!
//! Both keep the memtable alive and remember raw positions in it, so that they can be stored in an
//! iterator without a lifetime. Records at or above their ordinal do not exist for them.

use std::sync::Arc;

use super::order::Position;
use super::record::{NodeRef, Record, RecordRef};
use super::{Memtable, newest_at, skiplist};
use crate::Keyspace;

/// Walks the records of one keyspace, key ascending, then revision descending.
pub(crate) struct MemtableCursor {
    memtable: Arc<Memtable>,
    keyspace: Keyspace,
    ordinal: u64,
    /// The current record; null before the first seek and past the end.
    record: *const Record,
    node: *const super::Node,
}

// SAFETY: the pointers lead into the memtable, which is Sync and which the cursor keeps alive.
unsafe impl Send for MemtableCursor {}
// SAFETY: as above; `&self` only reads.
unsafe impl Sync for MemtableCursor {}

impl MemtableCursor {
    pub(super) fn new(memtable: Arc<Memtable>, keyspace: Keyspace, ordinal: u64) -> Self {
        Self { memtable, keyspace, ordinal, record: std::ptr::null(), node: std::ptr::null() }
    }

    /// Moves to the newest version of the first key at or above `key`.
    pub(crate) fn seek(&mut self, key: &[u8]) {
        let node = skiplist::seek(self.memtable.head(self.keyspace), key);
        let position = first_from(node, self.ordinal);
        self.set(position.map(|(node, record)| (node.as_ptr(), record.as_ptr())));
    }

    fn set(&mut self, position: Option<(*const super::Node, *const Record)>) {
        (self.node, self.record) = position.unwrap_or((std::ptr::null(), std::ptr::null()));
    }

    /// The current record; `None` past the end.
    pub(crate) fn record(&self) -> Option<RecordRef<'_>> {
        // SAFETY: null, or found in this memtable, which lives as long as `self`.
        unsafe { RecordRef::from_ptr(self.record) }
    }

    /// Moves to the next older version of the key, or to the next key.
    pub(crate) fn advance(&mut self) {
        let previous = self.record().and_then(RecordRef::previous).map(RecordRef::as_ptr);
        if let Some(previous) = previous {
            // Older records of a key have lower ordinals: visible if the current one is.
            self.record = previous;
            return;
        }
        // SAFETY: null, or found in this memtable, which lives as long as `self`.
        let node = unsafe { NodeRef::from_ptr(self.node) };
        let position = first_from(node.and_then(|node| node.next(0)), self.ordinal);
        self.set(position.map(|(node, record)| (node.as_ptr(), record.as_ptr())));
    }
}

/// The first node from `next` on that has a record below `ordinal`, and its newest such record.
fn first_from(mut next: Option<NodeRef<'_>>, ordinal: u64) -> Option<(NodeRef<'_>, RecordRef<'_>)> {
    while let Some(node) = next {
        if let Some(record) = newest_at(node, u64::MAX, ordinal) {
            return Some((node, record));
        }
        next = node.next(0);
    }
    None
}

/// Walks the `kv` records in the order of writing, which is revision order.
pub(crate) struct MemtableHistory {
    /// Keeps the records alive.
    memtable: Arc<Memtable>,
    ordinal: u64,
    position: Position,
}

// SAFETY: the position leads into the memtable, which is Sync and which this keeps alive.
unsafe impl Send for MemtableHistory {}
// SAFETY: as above; `&self` only reads.
unsafe impl Sync for MemtableHistory {}

impl MemtableHistory {
    pub(super) fn new(memtable: Arc<Memtable>, from: u64, ordinal: u64) -> Self {
        // SAFETY: the list lives in the memtable, which this keeps alive.
        let position = unsafe { Position::seek(memtable.order, from) };
        Self { memtable, ordinal, position }
    }

    /// The current record; `None` at the end of what this view sees.
    pub(crate) fn record(&self) -> Option<RecordRef<'_>> {
        // SAFETY: the list lives in the memtable, which `self` keeps alive.
        let (record, _) = unsafe { self.position.next() }?;
        (record.ordinal() < self.ordinal).then_some(record)
    }

    /// Moves to the next record.
    pub(crate) fn advance(&mut self) {
        debug_assert!(Arc::strong_count(&self.memtable) > 0);
        // SAFETY: as in `record`.
        if let Some((_, behind)) = unsafe { self.position.next() } {
            self.position = behind;
        }
    }
}
