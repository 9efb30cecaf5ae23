//! Walks through a memtable: in key order, both ways, and in the order of writing.
//!
//! Both keep the memtable alive and remember raw positions in it, so that they can be stored in an
//! iterator without a lifetime. Records at or above their ordinal do not exist for them.

use std::ops::Bound;
use std::ptr;
use std::sync::Arc;

use super::order::Position;
use super::record::{Node, NodeRef, Record, RecordRef};
use super::skiplist::Back;
use super::{Memtable, newest_at, skiplist};
use crate::Keyspace;

/// Walks the keys of one keyspace, both ways, and within a key to one version.
pub(crate) struct MemtableCursor {
    memtable: Arc<Memtable>,
    keyspace: Keyspace,
    ordinal: u64,
    /// The current record; null before the first seek and past the end.
    record: *const Record,
    /// The node that the record belongs to.
    node: *const Node,
    /// While the walk goes backwards: the nodes up to the current one. They live in `memtable`.
    back: Option<Box<Back<'static>>>,
}

// SAFETY: the pointers lead into the memtable, which is Sync and which the cursor keeps alive.
unsafe impl Send for MemtableCursor {}
// SAFETY: as above; `&self` only reads.
unsafe impl Sync for MemtableCursor {}

impl MemtableCursor {
    pub(super) fn new(memtable: Arc<Memtable>, keyspace: Keyspace, ordinal: u64) -> Self {
        let (record, node) = (ptr::null(), ptr::null());
        Self { memtable, keyspace, ordinal, record, node, back: None }
    }

    /// Moves to the newest version of the first key at or above `key`.
    pub(crate) fn seek(&mut self, key: &[u8]) {
        let node = skiplist::seek(self.memtable.head(self.keyspace), key);
        let position = first_from(node, self.ordinal);
        self.set(position.map(|(node, record)| (node.as_ptr(), record.as_ptr())));
    }

    /// Moves to the newest version of the last key within `end`.
    pub(crate) fn seek_last(&mut self, end: Bound<&[u8]>) {
        // SAFETY: the nodes live in the memtable, which `self` keeps alive longer than `back`.
        let head = unsafe { NodeRef::from_ptr(self.memtable.head(self.keyspace).as_ptr()) };
        let mut back = Box::new(Back::seek(head.expect("not null"), end));
        self.set(last_of(&mut back, self.ordinal));
        self.back = Some(back);
    }

    fn set(&mut self, position: Option<(*const Node, *const Record)>) {
        (self.node, self.record) = position.unwrap_or((ptr::null(), ptr::null()));
    }

    /// The current record; `None` past the end.
    #[inline]
    pub(crate) fn record(&self) -> Option<RecordRef<'_>> {
        // SAFETY: null, or found in this memtable, which lives as long as `self`.
        unsafe { RecordRef::from_ptr(self.record) }
    }

    /// The current key; `None` past the end.
    #[inline]
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.node().map(NodeRef::key)
    }

    fn node(&self) -> Option<NodeRef<'_>> {
        // SAFETY: null, or found in this memtable, which lives as long as `self`.
        unsafe { NodeRef::from_ptr(self.node) }
    }

    /// Moves to the newest version of the next key.
    pub(crate) fn advance_key(&mut self) {
        let position = first_from(self.node().and_then(|node| node.next(0)), self.ordinal);
        self.set(position.map(|(node, record)| (node.as_ptr(), record.as_ptr())));
    }

    /// Moves to the next older version of the current key. Without one it returns false and stays.
    pub(crate) fn advance_version(&mut self) -> bool {
        let previous = self.record().and_then(RecordRef::previous).map(RecordRef::as_ptr);
        self.record = previous.unwrap_or(self.record);
        previous.is_some()
    }

    /// Moves to the newest version of the key before, after [`MemtableCursor::seek_last`].
    pub(crate) fn retreat_key(&mut self) {
        let back = self.back.as_mut().expect("a walk backwards begins with seek_last");
        back.step();
        let position = last_of(back, self.ordinal);
        self.set(position);
    }

    /// Moves to the newest version of the current key with `revision.main <= at`. Without one it
    /// returns false and stays.
    #[inline]
    pub(crate) fn select(&mut self, at: u64) -> bool {
        let found = self.node().and_then(|node| newest_at(node, at, self.ordinal));
        let found = found.map(RecordRef::as_ptr);
        self.record = found.unwrap_or(self.record);
        found.is_some()
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

/// The last node from `back` downwards that has a record below `ordinal`, and its newest such
/// record.
fn last_of(back: &mut Back<'_>, ordinal: u64) -> Option<(*const Node, *const Record)> {
    while let Some(node) = back.node() {
        if let Some(record) = newest_at(node, u64::MAX, ordinal) {
            return Some((node.as_ptr(), record.as_ptr()));
        }
        back.step();
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
