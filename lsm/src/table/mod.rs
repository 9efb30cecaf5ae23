//! Key tables: immutable, mapped, sorted files of key entries. See docs/FORMAT.md section 2.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::Disk;

use crate::{Delta, KeyRange, Kind, Meta, Result, Revision};

/// Where a value lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueRef {
    /// No value: a tombstone.
    None,
    /// In the table itself.
    Inline(Bytes),
    /// In a value segment.
    Stored(ValueHandle),
}

/// Address of a value in a value segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueHandle {
    /// File id of the segment.
    pub segment: u64,
    /// Offset of the value's header in the segment.
    pub offset: u32,
    /// Length of the value in bytes.
    pub length: u32,
}

/// One row of a key table; rows are ordered by key ascending, then revision descending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The user key.
    pub key: Bytes,
    /// Version number.
    pub revision: Revision,
    /// Put or delete.
    pub kind: Kind,
    /// Change in the number of live keys (folded deltas included).
    pub delta: Delta,
    /// Opaque bytes.
    pub meta: Meta,
    /// Where the value lies.
    pub value: ValueRef,
}

/// What is known about a table without opening it; kept in the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// File id; the name is `<id as 16 hex digits>.kt`.
    pub id: u64,
    /// Length of the file.
    pub bytes: u64,
    /// xxh3-128 of the file.
    pub digest: u128,
    /// Smallest key.
    pub first_key: Bytes,
    /// Largest key.
    pub last_key: Bytes,
    /// Number of rows.
    pub rows: u64,
    /// Smallest revision of a row.
    pub revision_min: Revision,
    /// Largest revision of a row.
    pub revision_max: Revision,
    /// Sum of all deltas.
    pub delta_sum: i64,
    /// Rows, by value bytes, of each segment referred to: (segment id, rows, value bytes).
    pub segments: Vec<(u64, u64, u64)>,
}

/// Writes one key table, rows in order.
pub struct TableBuilder {
    // owner's choice
}

impl TableBuilder {
    /// Starts the table file `id` in `dir`.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, id: u64) -> Result<Self> {
        let _ = (disk, dir, id);
        todo!()
    }

    /// Adds the next row.
    pub fn add(&mut self, row: &Row) -> Result<()> {
        let _ = row;
        todo!()
    }

    /// Bytes so far (estimate), to decide when to begin the next table.
    pub fn bytes(&self) -> u64 {
        todo!()
    }

    /// Completes the file. Its content is durable on return; its name is not until the caller
    /// syncs the directory.
    pub fn finish(self) -> Result<TableInfo> {
        todo!()
    }
}

/// An open key table.
pub struct Table {
    // owner's choice
}

impl Table {
    /// Maps and verifies a table: header, footer, sections, every block.
    pub fn open(disk: &dyn Disk, dir: &Path, info: TableInfo) -> Result<Arc<Self>> {
        let _ = (disk, dir, info);
        todo!()
    }

    /// What the manifest says about it.
    pub fn info(&self) -> &TableInfo {
        todo!()
    }

    /// The newest row of `key` with a revision at or below `at`.
    pub fn get(&self, key: &[u8], at: Revision) -> Result<Option<Row>> {
        let _ = (key, at);
        todo!()
    }

    /// Sum of the deltas of rows in `range` with revision.main <= `at`, from the sums in the index
    /// where whole blocks qualify.
    pub fn delta_sum(&self, range: &KeyRange, at: u64) -> Result<i64> {
        let _ = (range, at);
        todo!()
    }

    /// A cursor before the first row.
    pub fn cursor(self: &Arc<Self>) -> TableCursor {
        todo!()
    }

    /// Row numbers with `from <= revision.main <= to`, in revision order.
    pub fn by_revision(self: &Arc<Self>, from: u64, to: u64) -> TableHistory {
        let _ = (from, to);
        todo!()
    }
}

/// Walks the rows of a table in order: `while let Some(row) = cursor.row() { cursor.advance()? }`.
pub struct TableCursor {
    // owner's choice
}

impl TableCursor {
    /// Moves to the newest version of the first key at or above `key`.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        let _ = key;
        todo!()
    }

    /// The current key, without copying; `None` past the end.
    pub fn key(&self) -> Option<&[u8]> {
        todo!()
    }

    /// The current revision; only while [`TableCursor::key`] is `Some`.
    pub fn revision(&self) -> Revision {
        todo!()
    }

    /// The current row; only while [`TableCursor::key`] is `Some`.
    pub fn row(&self) -> Result<Row> {
        todo!()
    }

    /// Moves to the next row (the next older version, or the next key).
    pub fn advance(&mut self) -> Result<()> {
        todo!()
    }
}

/// Rows of a table in revision order.
pub struct TableHistory {
    // owner's choice
}

impl Iterator for TableHistory {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
