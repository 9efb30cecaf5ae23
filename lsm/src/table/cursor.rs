//! Walks the rows of a table in key order, both ways.
//!
//! One idea: the cursor keeps the current key in one buffer and on each step replaces only the
//! part behind the bundle's prefix; everything else about a row stays in its columns until asked
//! for. A step costs one control byte, one key end and one short copy, and allocates nothing.
//!
//! Rows of one key stand newest first, so a walk goes by row ([`TableCursor::advance`]) or by key
//! ([`TableCursor::advance_key`], [`TableCursor::retreat_key`]), and within a key to the version
//! of a revision ([`TableCursor::select`]).

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::block::{Block, Version, split};
use super::control::Control;
use super::layout::{BUNDLE_ROWS, Layout};
use super::reader::Table;
use super::row::TableRow;
use super::{Row, ValueRef};
use crate::{Delta, Kind, Meta, Result, Revision};

/// Where a cursor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    BeforeFirst,
    OnRow,
    PastLast,
}

/// Walks the rows of a table in order, beginning before the first one:
/// `cursor.seek(start)?; while let Some(key) = cursor.key() { ...; cursor.advance()?; }`.
///
/// Invariants: while on a row, `layout` is that of block `number`, whose bytes are `bytes`,
/// `row < layout.rows`, `key` is the row's key and its first `shared` bytes are the prefixes of
/// block and bundle.
pub struct TableCursor {
    table: Arc<Table>,
    place: Place,
    number: usize,
    bytes: Bytes,
    layout: Layout,
    row: u32,
    key: Vec<u8>,
    shared: usize,
}

impl TableCursor {
    pub(super) fn new(table: Arc<Table>) -> Self {
        Self {
            table,
            place: Place::BeforeFirst,
            number: 0,
            bytes: Bytes::new(),
            layout: Layout::default(),
            row: 0,
            key: Vec::new(),
            shared: 0,
        }
    }

    /// Moves to the newest version of the first key at or above `key`.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] only for a forged file; so for all that move.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.seek_version(key, Revision::MAX)
    }

    /// Moves to the newest version of `key` at or below `at`, or, when there is none, to the
    /// newest version of the next key.
    pub fn seek_version(&mut self, key: &[u8], at: Revision) -> Result<()> {
        let Some(number) = self.table.index.find(key, Version::At(at)) else {
            self.place = Place::PastLast;
            return Ok(());
        };
        // Seeks often fall into the block where the cursor already is.
        if self.place != Place::OnRow || self.number != number {
            self.open(number)?;
        }
        let row = self.table.in_block(number, || self.block().lower_bound(key, Version::At(at)))?;
        if row < self.layout.rows { self.land(row) } else { self.enter(number + 1) }
    }

    /// Moves to the newest version of the last key within `end`, or before the first row.
    pub fn seek_last(&mut self, end: Bound<&[u8]>) -> Result<()> {
        let (number, row) = match end {
            Bound::Excluded(key) => self.table.lower_bound(key, Version::At(Revision::MAX))?,
            Bound::Included(key) => self.table.lower_bound(key, Version::Past)?,
            Bound::Unbounded => (self.table.index.records().len(), 0),
        };
        self.land_before(number, row)
    }

    /// The current key, without copying; `None` past the end and before the first move.
    #[inline]
    pub fn key(&self) -> Option<&[u8]> {
        (self.place == Place::OnRow).then_some(self.key.as_slice())
    }

    /// The current revision; only while [`TableCursor::key`] is `Some`, like all below.
    #[inline]
    pub fn revision(&self) -> Revision {
        self.current().revision(self.row)
    }

    /// Put or delete.
    #[inline]
    pub fn kind(&self) -> Kind {
        self.current().control(self.row).kind()
    }

    /// Change in the number of live keys.
    #[inline]
    pub fn delta(&self) -> Delta {
        self.current().control(self.row).delta()
    }

    /// The bytes beside the key.
    pub fn meta(&self) -> Result<Meta> {
        self.table.in_block(self.number, || self.current().meta(self.row))
    }

    /// Length of the value in bytes, be it inline or stored; 0 without a value.
    #[inline]
    pub fn value_bytes(&self) -> u32 {
        self.current().value_length(self.row)
    }

    /// Where the value lies; an inline value is a slice of the mapped file.
    pub fn value_ref(&self) -> Result<ValueRef> {
        self.table.value_ref(self.number, &self.current(), self.row)
    }

    /// The current row; copies the key.
    pub fn row(&self) -> Result<Row> {
        let key = Bytes::copy_from_slice(&self.key);
        self.table.row(self.number, &self.current(), self.row, key)
    }

    /// The current row where it lies.
    #[inline]
    pub(crate) fn row_ref(&self) -> TableRow<'_> {
        TableRow::new(&self.table, self.number, self.current(), self.row)
    }

    /// Number of the current block in the table.
    #[inline]
    pub(crate) fn block_number(&self) -> usize {
        self.number
    }

    /// Number of the current row in the block.
    #[inline]
    pub(crate) fn row_number(&self) -> u32 {
        self.row
    }

    /// The first key of the current block, as the index knows it.
    pub(crate) fn first_key_of_block(&self) -> &[u8] {
        self.table.index.first_key(self.number)
    }

    /// The number of rows of the current block with keys within `end`, or at least of those of the
    /// current bundle: so the search is short. They are those that the block begins with.
    pub(crate) fn rows_within(&self, end: Bound<&[u8]>) -> Result<u32> {
        let (key, version) = match end {
            Bound::Excluded(key) => (key, Version::At(Revision::MAX)),
            Bound::Included(key) => (key, Version::Past),
            Bound::Unbounded => return Ok(self.layout.rows),
        };
        match split(key, &self.key[..self.shared]) {
            Ok(rest) => self.table.in_block(self.number, || {
                self.block().lower_bound_in_bundle(self.row, rest, version)
            }),
            Err(Ordering::Less) => Ok(self.row),
            Err(_) if self.table.index.last_key(self.number) < key => Ok(self.layout.rows),
            Err(_) => Ok(self.block().bundle_end(self.row)),
        }
    }

    /// Moves to the next row (the next older version, or the next key). Past the end it stays.
    pub fn advance(&mut self) -> Result<()> {
        match self.place {
            Place::PastLast => return Ok(()),
            Place::BeforeFirst => return self.enter(0),
            Place::OnRow => {}
        }
        let row = self.row + 1;
        if row == self.layout.rows { self.enter(self.number + 1) } else { self.step_to(row) }
    }

    /// Moves to the newest version of the next key, over all older versions of the current one.
    #[inline]
    pub fn advance_key(&mut self) -> Result<()> {
        if self.place != Place::OnRow {
            return self.advance();
        }
        loop {
            let block = self.block();
            let mut row = self.row + 1;
            while row < self.layout.rows && block.control(row).is_same_key() {
                row += 1;
            }
            if row < self.layout.rows {
                return self.step_to(row);
            }
            self.enter(self.number + 1)?;
            if self.place != Place::OnRow || !self.layout.is_continued {
                return Ok(());
            }
        }
    }

    /// Whether every row of the current block has `revision.main <= at`.
    #[inline]
    pub(crate) fn is_block_up_to(&self, at: u64) -> bool {
        self.layout.main_max <= at
    }

    /// Moves to the next row of the current block that is the newest version of its key and a put,
    /// below row `limit`. Without one it returns false and is at the last newest version there.
    #[inline]
    pub(crate) fn advance_put_in_block(&mut self, limit: u32) -> Result<bool> {
        let block = Block::new(&self.bytes, &self.layout);
        let controls = block.controls();
        let (mut row, mut last) = (self.row + 1, self.row);
        while row < limit
            && let Some(control) = controls.get(row as usize)
        {
            let control = Control(*control);
            if !control.is_same_key() {
                last = row;
                if control.kind() == Kind::Put {
                    return self.step_to(last).map(|()| true);
                }
            }
            row += 1;
        }
        if last != self.row {
            self.step_to(last)?;
        }
        Ok(false)
    }

    /// Moves to the newest version of the key before the current one; before the first key there
    /// is no row. Only while on a row.
    pub fn retreat_key(&mut self) -> Result<()> {
        assert!(self.place == Place::OnRow, "a cursor {:?} has no row", self.place);
        let (number, row) = self.newest_of(self.number, self.row)?;
        self.land_before(number, row)
    }

    /// From the newest version of a key, or a later one, moves to the newest with
    /// `revision.main <= at`. Without one it returns false and stays at some version of the key.
    #[inline]
    pub fn select(&mut self, at: u64) -> Result<bool> {
        if self.layout.main_max <= at || self.current().main(self.row) <= at {
            return Ok(true);
        }
        self.select_older(at)
    }

    fn select_older(&mut self, at: u64) -> Result<bool> {
        loop {
            let block = self.current();
            let mut row = self.row + 1;
            while row < self.layout.rows && block.control(row).is_same_key() {
                if block.main(row) <= at {
                    self.step_to(row)?;
                    return Ok(true);
                }
                row += 1;
            }
            let next = self.number + 1;
            if row < self.layout.rows || next == self.table.index.records().len() {
                return Ok(false);
            }
            if !self.table.layout(next)?.is_continued {
                return Ok(false);
            }
            self.enter(next)?;
            if self.current().main(self.row) <= at {
                return Ok(true);
            }
        }
    }

    /// Moves to the newest version of the key that the row before this place has.
    fn land_before(&mut self, number: usize, row: u32) -> Result<()> {
        let (number, row) = match row.checked_sub(1) {
            Some(row) => (number, row),
            None if number == 0 => {
                self.place = Place::BeforeFirst;
                return Ok(());
            }
            None => (number - 1, self.table.index.records()[number - 1].rows - 1),
        };
        let (number, row) = self.newest_of(number, row)?;
        let is_here = self.place == Place::OnRow && self.number == number;
        if is_here && row / BUNDLE_ROWS == self.row / BUNDLE_ROWS {
            return self.step_to(row);
        }
        if !is_here {
            self.open(number)?;
        }
        self.land(row)
    }

    /// The newest version of the key that a row has: its first row, perhaps in an earlier block.
    fn newest_of(&mut self, mut number: usize, mut row: u32) -> Result<(usize, u32)> {
        loop {
            if self.place != Place::OnRow || self.number != number {
                self.place = Place::PastLast;
                self.open(number)?;
            }
            let block = self.block();
            while row > 0 && block.control(row).is_same_key() {
                row -= 1;
            }
            if row > 0 || number == 0 || !self.layout.is_continued {
                return Ok((number, row));
            }
            number -= 1;
            row = self.table.index.records()[number].rows - 1;
        }
    }

    /// Moves to another row of the same block.
    #[inline]
    fn step_to(&mut self, row: u32) -> Result<()> {
        if row / BUNDLE_ROWS != self.row / BUNDLE_ROWS {
            return self.land(row);
        }
        let block = Block::new(&self.bytes, &self.layout);
        if row < self.row || !block.control(row).is_same_key() {
            let suffix = match block.stored_suffix(row) {
                Ok(suffix) => suffix,
                Err(flaw) => return Err(self.table.in_block_flaw(self.number, *flaw)),
            };
            self.key.truncate(self.shared);
            self.key.extend_from_slice(suffix);
        }
        self.row = row;
        Ok(())
    }

    /// Moves to the first row of a block, or past the end.
    fn enter(&mut self, number: usize) -> Result<()> {
        if number >= self.table.index.records().len() {
            self.place = Place::PastLast;
            return Ok(());
        }
        self.open(number)?;
        self.land(0)
    }

    /// Makes another block the current one; [`TableCursor::land`] in it next.
    fn open(&mut self, number: usize) -> Result<()> {
        self.layout = self.table.layout(number)?;
        self.bytes = self.table.map.slice(self.table.index.records()[number].range());
        self.number = number;
        Ok(())
    }

    /// Moves to a row of the block `number` and puts its whole key together.
    fn land(&mut self, row: u32) -> Result<()> {
        // Until the key is complete there is no current row, should the block be damaged.
        self.place = Place::PastLast;
        let block = Block::new(&self.bytes, &self.layout);
        self.key.clear();
        self.shared = self.table.in_block(self.number, || {
            self.key.extend_from_slice(block.prefix());
            self.key.extend_from_slice(block.bundle_prefix(row)?);
            let shared = self.key.len();
            self.key.extend_from_slice(block.suffix(row)?);
            Ok(shared)
        })?;
        self.row = row;
        self.place = Place::OnRow;
        Ok(())
    }

    #[inline]
    fn block(&self) -> Block<'_> {
        Block::new(&self.bytes, &self.layout)
    }

    /// The block, for reading the current row.
    #[inline]
    fn current(&self) -> Block<'_> {
        assert!(self.place == Place::OnRow, "a cursor {:?} has no row", self.place);
        self.block()
    }
}
