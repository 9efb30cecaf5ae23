//! An open key table: opening, point reads, sums of deltas.
//!
//! One idea: everything is checked once, at [`Table::open`]; after that a read is a filter line,
//! a search in the index, a search in one block, and some loads from columns. Nothing is cached,
//! locked or counted.

use std::ops::{Bound, Range};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::Disk;

use super::block::{Block, BlockValue, Version};
use super::cursor::TableCursor;
use super::filter::{self, Filter};
use super::frame::{Flaw, Parsed, Section, check_digest, expect_equal, parse_frame};
use super::history::TableHistory;
use super::index::{BlockRecord, Index};
use super::layout::Layout;
use super::properties::{check_dictionary, check_properties};
use super::row::{RowValue, TableRow};
use super::{FORMAT, Row, TableInfo, ValueHandle, ValueRef, file_path, frame, section};
use crate::{KeyRange, Result, Revision};

/// An open key table. Immutable; shared by all threads.
///
/// Invariants: `map` has the digest in `info`; blocks, filter and permutation lie inside of `map`;
/// the header of each block is sound and says what the index says.
pub struct Table {
    pub(super) info: TableInfo,
    pub(super) file: String,
    pub(super) map: Bytes,
    pub(super) index: Index,
    pub(super) filter: Filter,
    /// Where the permutation by revision is: u32 row numbers.
    pub(super) revisions: Range<usize>,
    /// Number of distinct keys.
    pub(super) keys: u64,
}

impl Table {
    /// Maps and verifies a table: header, footer, sections, every block.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if the file is not the one that `info` describes, or not sound;
    /// the disk's.
    pub fn open(disk: &dyn Disk, dir: &Path, info: TableInfo) -> Result<Arc<Self>> {
        let path = file_path(dir, info.id);
        let file = path.display().to_string();
        let map = disk.map(&path)?;
        let in_file = |flaw: Box<Flaw>| flaw.in_file(&file, 0);
        expect_equal(0, "file length", info.bytes, map.len() as u64).map_err(in_file)?;
        let sections = parse_frame(&FORMAT, info.id, &map).map_err(in_file)?;
        check_digest(&file, &map, &sections, info.digest)?;

        let find = |kind, name| frame::section(&sections, kind, name).map_err(in_file);
        let blocks = find(section::BLOCKS, "blocks")?;
        let index = find(section::INDEX, "index")?;
        let revisions = find(section::REVISIONS, "revisions")?;
        let filter = find(section::FILTER, "filter")?;
        let segments = find(section::SEGMENTS, "segments")?;
        let properties = find(section::PROPERTIES, "properties")?;
        let within = |section: Section| {
            let base = section.range().start;
            let file = file.clone();
            move |flaw: Box<Flaw>| flaw.in_file(&file, base)
        };

        check_dictionary(&map[segments.range()], &info).map_err(within(segments))?;
        let keys = check_properties(&map[properties.range()], &info).map_err(within(properties))?;
        let permutation_bytes = u64::from(u32::MAX).min(info.rows) * 4;
        expect_equal(0, "bytes of revisions", permutation_bytes, revisions.length)
            .map_err(within(revisions))?;
        let filter = Filter::parse(&map, filter.range()).map_err(within(filter))?;
        let parsed = Index::parse(&map[index.range()], blocks.range()).map_err(within(index))?;
        check_totals(&parsed, &info).map_err(within(index))?;
        let index = parsed;
        let revisions = revisions.range();
        let table = Self { info, file, map, index, filter, revisions, keys };
        table.index.records().iter().try_for_each(|record| table.check_block(record))?;
        Ok(Arc::new(table))
    }

    /// What the manifest says about it.
    pub fn info(&self) -> &TableInfo {
        &self.info
    }

    /// The whole file, mapped; for transfers.
    pub fn content(&self) -> Bytes {
        self.map.clone()
    }

    /// Number of distinct keys.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// The newest row of `key` with a revision at or below `at`.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] only for a forged file.
    pub fn get(&self, key: &[u8], at: Revision) -> Result<Option<Row>> {
        let row = self.get_with(filter::hash(key), key, at, |_, number, block, row| {
            self.row(number, &block, row, Bytes::copy_from_slice(key))
        })?;
        row.transpose()
    }

    /// Shows the newest row of `key` with a revision at or below `at`, whose key hashes to `hash`.
    ///
    /// # Errors
    /// As [`Table::get`].
    #[inline]
    pub(crate) fn find<T>(
        &self,
        hash: u64,
        key: &[u8],
        at: Revision,
        show: impl FnOnce(TableRow<'_>) -> T,
    ) -> Result<Option<T>> {
        self.get_with(hash, key, at, |table, number, block, row| {
            show(TableRow::new(table, number, block, row))
        })
    }

    #[inline]
    fn get_with<T>(
        &self,
        hash: u64,
        key: &[u8],
        at: Revision,
        show: impl FnOnce(&Self, usize, Block<'_>, u32) -> T,
    ) -> Result<Option<T>> {
        if !self.filter.may_contain(&self.map, hash) {
            return Ok(None);
        }
        let Some(number) = self.index.find(key, Version::At(at)) else { return Ok(None) };
        let layout = self.layout(number)?;
        let block = self.block(number, &layout);
        let row = self.in_block(number, || block.find(key, Version::At(at)))?;
        Ok(row.map(|row| show(self, number, block, row)))
    }

    /// Whether the table may hold versions of `key`: false for about 99 % of the keys that it does
    /// not hold, true for all that it does.
    pub fn may_contain(&self, key: &[u8]) -> bool {
        self.filter.may_contain(&self.map, filter::hash(key))
    }

    /// Sum of the deltas of rows in `range` with revision.main <= `at`, from the sums in the index
    /// where whole blocks qualify.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] only for a forged file.
    pub fn delta_sum(&self, range: &KeyRange, at: u64) -> Result<i64> {
        if at < self.info.revision_min.main {
            return Ok(0);
        }
        let start = self.lower_bound(&range.start, Version::At(Revision::MAX))?;
        let end = match &range.end {
            Bound::Excluded(key) => self.lower_bound(key, Version::At(Revision::MAX))?,
            Bound::Included(key) => self.lower_bound(key, Version::Past)?,
            Bound::Unbounded => (self.index.records().len(), 0),
        };
        if start >= end {
            return Ok(0);
        }
        if start.0 == end.0 {
            return self.block_sum(start.0, start.1..end.1, at);
        }
        let first = self.block_sum(start.0, start.1..u32::MAX, at)?;
        let last = if end.1 == 0 { 0 } else { self.block_sum(end.0, 0..end.1, at)? };
        let between = self.blocks_sum(start.0 + 1..end.0, at)?;
        Ok(first.wrapping_add(between).wrapping_add(last))
    }

    /// A cursor before the first row: it has no key until [`TableCursor::seek`] or
    /// [`TableCursor::advance`], which moves it to the first row.
    pub fn cursor(self: &Arc<Self>) -> TableCursor {
        TableCursor::new(self.clone())
    }

    /// Rows with `from <= revision.main <= to`, in revision order.
    pub fn by_revision(self: &Arc<Self>, from: u64, to: u64) -> TableHistory {
        TableHistory::new(self.clone(), from, to)
    }

    /// The block and row of the first row that is not before the target; (number of blocks, 0) if
    /// there is none.
    pub(super) fn lower_bound(&self, key: &[u8], version: Version) -> Result<(usize, u32)> {
        let Some(number) = self.index.find(key, version) else {
            return Ok((self.index.records().len(), 0));
        };
        let layout = self.layout(number)?;
        let block = self.block(number, &layout);
        Ok((number, self.in_block(number, || block.lower_bound(key, version))?))
    }

    /// Sum over rows of one block; `rows` may reach past its end.
    fn block_sum(&self, number: usize, rows: Range<u32>, at: u64) -> Result<i64> {
        let record = &self.index.records()[number];
        if at < record.main_min {
            return Ok(0);
        }
        let rows = rows.start..rows.end.min(record.rows);
        if rows == (0..record.rows) && record.main_max <= at {
            return Ok(record.delta_sum);
        }
        let layout = self.layout(number)?;
        Ok(self.block(number, &layout).delta_sum(rows, at))
    }

    /// Sum over whole blocks.
    fn blocks_sum(&self, blocks: Range<usize>, at: u64) -> Result<i64> {
        if blocks.is_empty() {
            return Ok(0);
        }
        if self.info.revision_max.main <= at {
            let (first, last) = (&self.index.records()[blocks.start], blocks.end - 1);
            let last = &self.index.records()[last];
            let up_to = last.delta_before.wrapping_add(last.delta_sum);
            return Ok(up_to.wrapping_sub(first.delta_before));
        }
        blocks
            .map(|number| self.block_sum(number, 0..u32::MAX, at))
            .try_fold(0i64, |sum, block| Ok(sum.wrapping_add(block?)))
    }

    /// The layout of a block. Cheap: some additions.
    pub(super) fn layout(&self, number: usize) -> Result<Layout> {
        let bytes = &self.map[self.index.records()[number].range()];
        Layout::parse(bytes).map_err(|flaw| self.in_block_flaw(number, *flaw))
    }

    /// The block with this number, whose layout is `layout`.
    #[inline]
    pub(super) fn block<'a>(&'a self, number: usize, layout: &'a Layout) -> Block<'a> {
        Block::new(&self.map[self.index.records()[number].range()], layout)
    }

    /// Row `row` of `block`, which has this number; its key is `key`.
    pub(super) fn row(
        &self,
        number: usize,
        block: &Block<'_>,
        row: u32,
        key: Bytes,
    ) -> Result<Row> {
        let control = block.control(row);
        Ok(Row {
            key,
            revision: block.revision(row),
            kind: control.kind(),
            delta: control.delta(),
            meta: self.in_block(number, || block.meta(row))?,
            value: self.value_ref(number, block, row)?,
        })
    }

    /// Where the value of a row lies.
    pub(super) fn value_ref(&self, number: usize, block: &Block<'_>, row: u32) -> Result<ValueRef> {
        match self.in_block(number, || block.value(row))? {
            BlockValue::None => Ok(ValueRef::None),
            BlockValue::Inline { start, length } => {
                let start = self.index.records()[number].offset as usize + start as usize;
                Ok(ValueRef::Inline(self.map.slice(start..start + length as usize)))
            }
            BlockValue::Stored { segment, offset, length } => {
                self.handle(number, segment, offset, length).map(ValueRef::Stored)
            }
        }
    }

    /// The value of a row, or where it is stored.
    #[inline]
    pub(super) fn row_value<'a>(
        &'a self,
        number: usize,
        block: &Block<'a>,
        row: u32,
    ) -> Result<RowValue<'a>> {
        match self.in_block(number, || block.value(row))? {
            BlockValue::None => Ok(RowValue::Here(&[])),
            BlockValue::Inline { start, length } => {
                let start = self.index.records()[number].offset as usize + start as usize;
                Ok(RowValue::Here(&self.map[start..start + length as usize]))
            }
            BlockValue::Stored { segment, offset, length } => {
                self.handle(number, segment, offset, length).map(RowValue::Stored)
            }
        }
    }

    /// The handle of a stored value, whose segment has this number in the dictionary.
    #[inline]
    fn handle(&self, number: usize, segment: u32, offset: u32, length: u32) -> Result<ValueHandle> {
        match self.info.segments.get(segment as usize) {
            Some((segment, ..)) => Ok(ValueHandle { segment: *segment, offset, length }),
            None => {
                let expected = format!("one of {} segments", self.info.segments.len());
                Err(self.in_block_flaw(number, *Flaw::new(0, expected, segment)))
            }
        }
    }

    /// Runs `read`, which reads in the block with this number.
    #[inline]
    pub(super) fn in_block<T>(&self, number: usize, read: impl FnOnce() -> Parsed<T>) -> Result<T> {
        read().map_err(|flaw| self.in_block_flaw(number, *flaw))
    }

    #[cold]
    pub(super) fn in_block_flaw(&self, number: usize, flaw: Flaw) -> crate::Error {
        flaw.in_file(&self.file, self.index.records()[number].offset as usize)
    }

    /// Err unless the header of a block is sound and says what the index says.
    fn check_block(&self, record: &BlockRecord) -> Result<()> {
        let check = || {
            let bytes = &self.map[record.range()];
            let layout = Layout::parse(bytes)?;
            let checksum = super::little_endian::u32_at(bytes, 0);
            expect_equal(0, "block checksum", record.checksum, checksum)?;
            expect_equal(8, "rows", record.rows, layout.rows)?;
            expect_equal(24, "smallest revision", record.main_min, layout.main_min)?;
            expect_equal(32, "largest revision", record.main_max, layout.main_max)?;
            expect_equal(40, "sum of deltas", record.delta_sum, layout.delta_sum)
        };
        check().map_err(|flaw| flaw.in_file(&self.file, record.range().start))
    }
}

/// Err unless the sums of the index are those of the manifest.
fn check_totals(index: &Index, info: &TableInfo) -> Parsed<()> {
    let records = index.records();
    let last = &records[records.len() - 1];
    expect_equal(0, "rows in all", info.rows, last.first_row + u64::from(last.rows))?;
    let delta_sum = last.delta_before.wrapping_add(last.delta_sum);
    expect_equal(0, "sum of deltas in all", info.delta_sum, delta_sum)?;
    expect_equal(0, "first key", info.first_key.as_ref(), index.first_key(0))?;
    expect_equal(0, "last key", info.last_key.as_ref(), index.last_key(records.len() - 1))
}
