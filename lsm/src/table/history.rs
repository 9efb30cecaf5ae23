//! Rows of a table in revision order, for watchers that catch up.
//!
//! One idea: the table keeps the numbers of its rows sorted by revision (and by row number where
//! revisions are equal). A range of revisions is then a range of that permutation, found by binary
//! search; each row is read where it stands, in constant time.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Row;
use super::frame::Flaw;
use super::little_endian::u32_at;
use super::reader::Table;
use crate::Result;

/// Bytes of a row number.
const NUMBER_BYTES: usize = 4;

/// Rows of a table in revision order, as an iterator.
///
/// Invariant: `positions` lies inside of the permutation.
pub struct TableHistory {
    table: Arc<Table>,
    from: u64,
    to: u64,
    /// Positions in the permutation that are still to come; `None` before the first row.
    positions: Option<Range<usize>>,
}

impl TableHistory {
    pub(super) fn new(table: Arc<Table>, from: u64, to: u64) -> Self {
        Self { table, from, to, positions: None }
    }

    /// Finds the range of the permutation.
    fn search(&self) -> Result<Range<usize>> {
        let info = self.table.info();
        if self.from > self.to
            || self.from > info.revision_max.main
            || self.to < info.revision_min.main
        {
            return Ok(0..0);
        }
        let start = self.table.positions_before(|main| main < self.from)?;
        let end = self.table.positions_before(|main| main <= self.to)?;
        Ok(start..end.max(start))
    }
}

impl Iterator for TableHistory {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut positions = match self.positions.take() {
            Some(positions) => positions,
            None => match self.search() {
                Ok(positions) => positions,
                Err(error) => {
                    self.positions = Some(0..0);
                    return Some(Err(error));
                }
            },
        };
        let position = positions.next();
        self.positions = Some(positions);
        position.map(|position| self.table.row_at(position))
    }
}

impl Table {
    /// Number of positions of the permutation whose revision fulfils `is_before`.
    fn positions_before(&self, is_before: impl Fn(u64) -> bool) -> Result<usize> {
        let (mut start, mut end) = (0, self.revisions.len() / NUMBER_BYTES);
        while start < end {
            let middle = start + (end - start) / 2;
            let (number, row) = self.locate(middle)?;
            let layout = self.layout(number)?;
            if is_before(self.block(number, &layout).main(row)) {
                start = middle + 1;
            } else {
                end = middle;
            }
        }
        Ok(start)
    }

    /// The row at a position of the permutation.
    fn row_at(&self, position: usize) -> Result<Row> {
        let (number, row) = self.locate(position)?;
        let layout = self.layout(number)?;
        let block = self.block(number, &layout);
        let mut key = Vec::new();
        self.in_block(number, || block.append_key(row, &mut key))?;
        self.row(number, &block, row, Bytes::from(key))
    }

    /// The block and row at a position of the permutation.
    pub(super) fn locate(&self, position: usize) -> Result<(usize, u32)> {
        let row = self.row_number(position);
        self.index.locate(u64::from(row)).ok_or_else(|| {
            let expected = format!("a row number below {}", self.info().rows);
            let at = self.revisions.start + position * NUMBER_BYTES;
            Flaw::new(at, expected, row).in_file(&self.file, 0)
        })
    }

    /// The row number at a position of the permutation.
    pub(super) fn row_number(&self, position: usize) -> u32 {
        u32_at(&self.map[self.revisions.clone()], position * NUMBER_BYTES)
    }
}
