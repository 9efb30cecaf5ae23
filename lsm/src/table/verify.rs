//! The deep check of a table: every row against everything that is said about it.
//!
//! One idea: [`Table::open`] makes a table safe to read; this makes sure that its answers are
//! right. For the check of a whole engine (`check.rs`) and for tests; some 50 ns a row.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::block::{Block, Version};
use super::frame::{Flaw, Parsed, expect_equal};
use super::reader::Table;
use super::{ValueRef, filter};
use crate::{Result, Revision};

/// What the walk over all rows adds up.
struct Totals {
    rows: u64,
    keys: u64,
    delta_sum: i64,
    revision_min: Revision,
    revision_max: Revision,
    segments: BTreeMap<u64, (u64, u64)>,
}

impl Table {
    /// Walks all rows and compares them with order, filter, index, permutation and totals.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] for the first thing that is not as it must be.
    pub fn verify(self: &Arc<Self>) -> Result<()> {
        for number in 0..self.index.records().len() {
            self.verify_block(number)?;
        }
        self.verify_rows()?;
        self.verify_revisions()
    }

    /// Checksum, bounds and sums of one block.
    fn verify_block(&self, number: usize) -> Result<()> {
        let record = &self.index.records()[number];
        let layout = self.layout(number)?;
        let block = self.block(number, &layout);
        self.in_block(number, || {
            let checksum = crc32fast::hash(&self.map[record.range()][4..]);
            expect_equal(0, "block checksum", checksum, record.checksum)?;
            let (mut main_min, mut main_max) = (u64::MAX, 0);
            for row in 0..layout.rows {
                main_min = main_min.min(block.main(row));
                main_max = main_max.max(block.main(row));
                if !block.control(row).is_valid() {
                    let found = format!("{:#04x} in row {row}", block.control(row).0);
                    return Err(Flaw::new(0, "a valid control byte", found));
                }
                verify_suffix(&block, row)?;
            }
            expect_equal(24, "smallest revision", main_min, layout.main_min)?;
            expect_equal(32, "largest revision", main_max, layout.main_max)?;
            expect_equal(
                40,
                "delta sum",
                block.delta_sum(0..layout.rows, u64::MAX),
                layout.delta_sum,
            )?;
            let mut key = Vec::new();
            block.append_key(0, &mut key)?;
            expect_equal(0, "first key", self.index.first_key(number), &key)?;
            key.clear();
            block.append_key(layout.rows - 1, &mut key)?;
            expect_equal(0, "last key", self.index.last_key(number), &key)?;
            let last = block.revision(layout.rows - 1);
            expect_equal(0, "revision of the last row", record.last_revision, last)?;
            let is_continued =
                number > 0 && self.index.first_key(number) == self.index.last_key(number - 1);
            expect_equal(12, "continuation of a key", is_continued, layout.is_continued)
        })
    }

    /// Order, filter and totals of all rows.
    fn verify_rows(self: &Arc<Self>) -> Result<()> {
        let mut totals = Totals {
            rows: 0,
            keys: 0,
            delta_sum: 0,
            revision_min: Revision::MAX,
            revision_max: Revision::default(),
            segments: BTreeMap::new(),
        };
        let mut cursor = self.cursor();
        cursor.advance()?;
        let mut last: Option<(Vec<u8>, Revision)> = None;
        while let Some(key) = cursor.key() {
            let revision = cursor.revision();
            let is_same_key = last.as_ref().is_some_and(|(last, _)| last == key);
            let is_behind = last.as_ref().is_none_or(|(last_key, last_revision)| {
                if is_same_key { revision < *last_revision } else { key > last_key.as_slice() }
            });
            let wrong = |expected: &str| {
                let found = format!("row {} {key:02x?} {revision:?}", totals.rows);
                Flaw::new(0, expected, found).in_file(&self.file, 0)
            };
            if !is_behind {
                return Err(wrong("rows in order"));
            }
            if !is_same_key && !self.filter.may_contain(&self.map, filter::hash(key)) {
                return Err(wrong("a filter that holds all keys"));
            }
            if self.lower_bound_number(key, revision)? != totals.rows {
                return Err(wrong("a search that finds the row"));
            }
            if let ValueRef::Stored(handle) = cursor.value_ref()? {
                let counts = totals.segments.entry(handle.segment).or_default();
                counts.0 += 1;
                counts.1 += u64::from(handle.length);
            }
            cursor.meta()?;
            totals.rows += 1;
            totals.keys += u64::from(!is_same_key);
            totals.delta_sum += i64::from(cursor.delta() as i8);
            totals.revision_min = totals.revision_min.min(revision);
            totals.revision_max = totals.revision_max.max(revision);
            last = Some((key.to_vec(), revision));
            cursor.advance()?;
        }
        self.verify_totals(&totals)
    }

    fn verify_totals(&self, totals: &Totals) -> Result<()> {
        let info = self.info();
        let mut segments = info.segments.clone();
        segments.sort_unstable();
        let counted: Vec<_> =
            totals.segments.iter().map(|(id, (rows, bytes))| (*id, *rows, *bytes)).collect();
        let check = || {
            expect_equal(0, "number of rows", info.rows, totals.rows)?;
            expect_equal(0, "number of keys", self.keys(), totals.keys)?;
            expect_equal(0, "sum of deltas", info.delta_sum, totals.delta_sum)?;
            expect_equal(0, "smallest revision", info.revision_min, totals.revision_min)?;
            expect_equal(0, "largest revision", info.revision_max, totals.revision_max)?;
            expect_equal(0, "segments referred to", segments, counted)
        };
        check().map_err(|flaw| flaw.in_file(&self.file, 0))
    }

    /// Whether the permutation is strictly ascending by revision and row number. As many such
    /// elements as there are rows, all of them rows, are a permutation.
    fn verify_revisions(&self) -> Result<()> {
        let mut last = None;
        for position in 0..self.info().rows as usize {
            let (number, row) = self.locate(position)?;
            let layout = self.layout(number)?;
            let revision = self.block(number, &layout).revision(row);
            let this = Some((revision, self.row_number(position)));
            if this <= last {
                let found = format!("{this:?} behind {last:?}");
                let at = self.revisions.start + position * 4;
                return Err(Flaw::new(at, "revisions in order", found).in_file(&self.file, 0));
            }
            last = this;
        }
        Ok(())
    }

    /// The number of the row that a search for this key and revision stops at.
    fn lower_bound_number(&self, key: &[u8], revision: Revision) -> Result<u64> {
        let (number, row) = self.lower_bound(key, Version::At(revision))?;
        let record = self.index.records().get(number);
        Ok(record.map_or(self.info().rows, |record| record.first_row + u64::from(row)))
    }
}

/// A row with the key of the row before it has no suffix of its own, unless it begins a bundle.
fn verify_suffix(block: &Block<'_>, row: u32) -> Parsed<()> {
    let suffix = block.stored_suffix(row)?;
    let begins_bundle = row.is_multiple_of(super::layout::BUNDLE_ROWS);
    if !begins_bundle && block.control(row).is_same_key() && !suffix.is_empty() {
        let found = format!("{} bytes in row {row}", suffix.len());
        return Err(Flaw::new(0, "no suffix for a repeated key", found));
    }
    Ok(())
}
