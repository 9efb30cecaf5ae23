//! All versions of a range of keys between two revisions, in revision order.
//!
//! `kv` revisions never fall along the order of writing, so memtables, which keep that order, come
//! after all tables and one after another. Tables keep a permutation by revision; those above the
//! bottom cover longer and longer stretches of revisions, those of the bottom all, so tables are
//! merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::VecDeque;

use crate::memtable::MemtableHistory;
use crate::snapshot::{Snapshot, Values, entry_of_record, entry_of_row};
use crate::table::{Row, TableHistory};
use crate::{Entry, KeyRange, Result, Revision};

/// Iterator of [`Snapshot::history`]: puts and tombstones with their values, in revision order.
/// After an error it is at its end.
pub struct History {
    /// Keeps files alive.
    snapshot: Snapshot,
    tables: Vec<TableHistory>,
    /// The next row of each table, and an order of them by revision.
    rows: Vec<Option<Row>>,
    heap: BinaryHeap<Reverse<(Revision, usize)>>,
    /// Oldest first.
    memtables: VecDeque<MemtableHistory>,
    range: KeyRange,
    to: u64,
    is_started: bool,
    is_done: bool,
}

impl History {
    /// Merges `tables` and then reads `memtables`, oldest first, up to `to`.
    pub(crate) fn new(
        snapshot: Snapshot,
        tables: Vec<TableHistory>,
        memtables: VecDeque<MemtableHistory>,
        range: KeyRange,
        to: u64,
    ) -> Self {
        let rows = tables.iter().map(|_| None).collect();
        let heap = BinaryHeap::new();
        let (is_started, is_done) = (false, false);
        Self { snapshot, tables, rows, heap, memtables, range, to, is_started, is_done }
    }

    /// Loads the next row in the range of a table.
    fn fill(&mut self, number: usize) -> Result<()> {
        for row in &mut self.tables[number] {
            let row = row?;
            if self.range.contains(&row.key) {
                self.heap.push(Reverse((row.revision, number)));
                self.rows[number] = Some(row);
                break;
            }
        }
        Ok(())
    }

    fn find_next(&mut self) -> Result<Option<Entry>> {
        if !self.is_started {
            self.is_started = true;
            (0..self.tables.len()).try_for_each(|number| self.fill(number))?;
        }
        if let Some(Reverse((_, number))) = self.heap.pop() {
            let row = self.rows[number].take().expect("the heap lists tables with a row");
            self.fill(number)?;
            return Ok(Some(entry_of_row(&self.snapshot, row, Values::Load)?));
        }
        while let Some(memtable) = self.memtables.front_mut() {
            let Some(record) = memtable.record().filter(|record| record.revision().main <= self.to)
            else {
                self.memtables.pop_front();
                continue;
            };
            let is_wanted = self.range.contains(record.key());
            let entry = is_wanted.then(|| entry_of_record(record, Values::Load));
            memtable.advance();
            if entry.is_some() {
                return Ok(entry);
            }
        }
        Ok(None)
    }
}

impl Iterator for History {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let found = self.find_next();
        self.is_done = !matches!(found, Ok(Some(_)));
        found.transpose()
    }
}
