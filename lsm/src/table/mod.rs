//! Key tables: immutable, mapped, sorted files of key entries. Format: docs/FORMAT.md section 2.1.
//!
//! One idea: a table holds *keys*, with all that is known about them except long values, in
//! columns that are read in place. So a table is small, stays resident, needs no block cache, and
//! answers four questions without looking at a value: the newest version of a key at a revision
//! ([`Table::get`]), all rows in key order ([`TableCursor`]), how many keys live in a range
//! ([`Table::delta_sum`]), and what changed between two revisions ([`Table::by_revision`]).
//!
//! ```text
//! header | key blocks ... | index | revisions | filter | segments | properties | footer
//! ```
//!
//! | file               | what it holds                                            |
//! | ------------------ | -------------------------------------------------------- |
//! | `builder.rs`       | [`TableBuilder`]: rows in, one file out                  |
//! | `reader.rs`        | [`Table`]: open, get, delta sums                         |
//! | `cursor.rs`        | [`TableCursor`]                                          |
//! | `row.rs`           | one row where it lies                                    |
//! | `history.rs`       | [`TableHistory`], the permutation by revision            |
//! | `block.rs`         | one key block, read in place; `block_builder.rs` writes  |
//! | `layout.rs`        | where the parts of a block lie                           |
//! | `column.rs`        | integers of a block                                      |
//! | `control.rs`       | the control byte of a row                                |
//! | `index.rs`         | which block holds a key                                  |
//! | `filter.rs`        | which keys are surely absent                             |
//! | `properties.rs`    | what the table says about itself                         |
//! | `frame.rs`         | header, section table and footer, shared with segments   |
//! | `output.rs`        | a file while it is written, shared with segments         |
//! | `verify.rs`        | the deep check of every row                              |
//!
//! Damage: [`Table::open`] compares the digest of the whole file with the manifest's and checks
//! all structures, so that every later read is in bounds. What a forged file with a right digest
//! can still do is give wrong answers or [`crate::Error::Corrupt`], never a panic;
//! [`Table::verify`] finds the wrong answers too.
//!
//! What it does not do: merge, decide what may be dropped, fetch stored values.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::{Delta, Kind, Meta, Revision};

mod block;
mod block_builder;
mod builder;
mod column;
mod control;
mod cursor;
mod filter;
pub(crate) mod frame;
mod history;
mod index;
mod layout;
pub(crate) mod little_endian;
pub(crate) mod output;
mod properties;
mod reader;
mod row;
mod verify;

#[cfg(test)]
mod tests;

pub use builder::TableBuilder;
pub use cursor::TableCursor;
pub(crate) use filter::hash;
pub use history::TableHistory;
pub use reader::Table;
pub(crate) use row::{RowValue, TableRow};

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

/// The name of the table file `id`.
pub fn file_name(id: u64) -> String {
    format!("{id:016x}.kt")
}

fn file_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(file_name(id))
}

/// Longest key, and longest inline value, that a table takes. Far above etcd's request limit; it
/// keeps every offset in a block within 32 bits.
pub const ROW_PART_BYTES_MAX: usize = 256 << 20;

/// How table files are told from others.
static FORMAT: frame::Format =
    frame::Format { magic: *b"varve.kt", version: 1, features_incompatible: 0 };

/// Numbers of the sections of a table.
mod section {
    pub const BLOCKS: u32 = 1;
    pub const INDEX: u32 = 2;
    pub const REVISIONS: u32 = 3;
    pub const FILTER: u32 = 4;
    pub const SEGMENTS: u32 = 5;
    pub const PROPERTIES: u32 = 6;
}
