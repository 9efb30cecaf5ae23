//! A frozen memtable becomes files: value segments, and one level-0 key table for each keyspace.
//!
//! Values longer than the inline limit are written to segments in key order, so that a range read
//! later walks them forward. Versions that nobody may read any more are not written at all: for
//! `kv` those whose successor is at or below the compacted revision *of this memtable's last
//! commit*, which becomes durable in the same manifest edit; for `sys` all but the newest.
//!
//! A [`FlushJob`] goes in bounded steps, as merges do, and tells the memtable how far it is: that
//! is what the writer's brake goes by (`brake.rs`).
//!
//! What it does not do: it makes no name durable and edits no manifest; see `worker.rs`.

use std::sync::Arc;

use bytes::Bytes;

use crate::files::{FileIds, segment_name, table_name};
use crate::garbage::{self, Fold};
use crate::manifest::{Level, TableRecord};
use crate::memtable::{ALL_RECORDS, Memtable, MemtableCursor, RecordRef};
use crate::output::{Place, SegmentOutput, TableOutput, end_fold};
use crate::segment::SegmentInfo;
use crate::table::{Row, ValueRef};
use crate::{Keyspace, Kind, Options, Result};

/// What a record takes in a memtable beside its key and its value, about.
const RECORD_BYTES: u64 = 100;

/// The files that came out of a memtable.
pub(crate) struct Flushed {
    pub tables: Vec<TableRecord>,
    pub segments: Vec<SegmentInfo>,
}

/// A flush under way.
///
/// Invariants: `cursor` walks `keyspace`, whose rows go to `tables`; `key` is the cursor's key from
/// its first row to its last, and `fold` is empty between keys.
pub(crate) struct FlushJob {
    memtable: Arc<Memtable>,
    place: Place,
    inline_value_bytes_max: usize,
    keyspace: Keyspace,
    cursor: MemtableCursor,
    key: Option<Bytes>,
    fold: Fold<Row>,
    tables: TableOutput,
    segments: SegmentOutput,
    /// Tables of the keyspace that is through.
    finished: Vec<TableRecord>,
}

impl FlushJob {
    /// Begins to write a frozen memtable.
    pub(crate) fn new(memtable: &Arc<Memtable>, place: &Place, options: &Options) -> Self {
        let keyspace = Keyspace::Kv;
        Self {
            memtable: Arc::clone(memtable),
            place: place.clone(),
            inline_value_bytes_max: options.inline_value_bytes_max,
            keyspace,
            cursor: cursor_of(memtable, keyspace),
            key: None,
            fold: fold_of(memtable, keyspace),
            tables: tables_of(place, keyspace),
            // What was just written is read soon: never compressed.
            segments: SegmentOutput::new(place.clone(), options.segment_bytes, None),
            finished: Vec::new(),
        }
    }

    /// The memtable that is written.
    pub(crate) fn memtable(&self) -> &Arc<Memtable> {
        &self.memtable
    }

    /// Goes on for about `budget_bytes`. Returns whether all records are through.
    pub(crate) fn step(&mut self, ids: &mut FileIds, budget_bytes: u64) -> Result<bool> {
        let mut spent_bytes = 0;
        while spent_bytes < budget_bytes {
            let Some(record) = self.cursor.record() else {
                if self.keyspace == Keyspace::Sys {
                    return Ok(true);
                }
                self.begin_sys()?;
                continue;
            };
            let (revision, kind, delta) = (record.revision(), record.kind(), record.delta());
            let mut record_bytes = RECORD_BYTES + record.value().len() as u64;
            let key = self.key.get_or_insert_with(|| {
                record_bytes += record.key().len() as u64;
                Bytes::copy_from_slice(record.key())
            });
            spent_bytes += record_bytes;
            self.memtable.add_flushed_bytes(record_bytes as usize);
            if !self.fold.shadow(revision, delta) {
                // Its value may go to a segment now: a put that is not shadowed stays.
                let value = value_of(record, self.inline_value_bytes_max, &mut self.segments, ids)?;
                let (key, meta) = (key.clone(), record.meta());
                let row = Row { key, revision, kind, delta, meta, value };
                if let Some(row) = self.fold.push(revision, kind, delta, row) {
                    self.tables.add(ids, &row)?;
                }
            }
            if !self.cursor.advance_version() {
                self.end_key(ids)?;
                self.cursor.advance_key();
            }
        }
        Ok(false)
    }

    fn end_key(&mut self, ids: &mut FileIds) -> Result<()> {
        let key = self.key.take();
        if let Some(row) = end_fold(&mut self.fold, key.as_deref(), &self.place)? {
            self.tables.add(ids, &row)?;
        }
        self.tables.end_key()
    }

    /// The first keyspace is through.
    fn begin_sys(&mut self) -> Result<()> {
        self.keyspace = Keyspace::Sys;
        self.cursor = cursor_of(&self.memtable, self.keyspace);
        self.fold = fold_of(&self.memtable, self.keyspace);
        let tables =
            std::mem::replace(&mut self.tables, tables_of(&self.place, self.keyspace)).finish()?;
        self.finished.extend(tables);
        Ok(())
    }

    /// The result, after the last step. Contents of the files are durable on return.
    pub(crate) fn finish(mut self) -> Result<Flushed> {
        assert!(self.cursor.record().is_none() && self.key.is_none(), "the flush is through");
        self.finished.extend(self.tables.finish()?);
        Ok(Flushed { tables: self.finished, segments: self.segments.finish()? })
    }

    /// Gives up: the names of the files that were begun.
    pub(crate) fn abandon(self) -> Vec<String> {
        let finished = self.finished.iter().map(|table| table_name(table.info.id));
        let tables = self.tables.started().iter().map(|id| table_name(*id));
        let segments = self.segments.started().iter().map(|id| segment_name(*id));
        finished.chain(tables).chain(segments).collect()
    }
}

/// A cursor at the newest record of the first key.
fn cursor_of(memtable: &Arc<Memtable>, keyspace: Keyspace) -> MemtableCursor {
    let mut cursor = memtable.cursor(keyspace, ALL_RECORDS);
    cursor.seek(b"");
    cursor
}

fn fold_of(memtable: &Memtable, keyspace: Keyspace) -> Fold<Row> {
    Fold::new(garbage::floor(keyspace, memtable.committed().compacted))
}

/// One table, however large: level 0 is ordered by age, not by key.
fn tables_of(place: &Place, keyspace: Keyspace) -> TableOutput {
    TableOutput::new(place.clone(), keyspace, Level::ZERO, u64::MAX)
}

fn value_of(
    record: RecordRef<'_>,
    inline_bytes_max: usize,
    segments: &mut SegmentOutput,
    ids: &mut FileIds,
) -> Result<ValueRef> {
    let value = record.value();
    Ok(match record.kind() {
        Kind::Delete => ValueRef::None,
        Kind::Put if value.len() <= inline_bytes_max => {
            ValueRef::Inline(Bytes::copy_from_slice(value))
        }
        Kind::Put => ValueRef::Stored(segments.add(ids, value)?),
    })
}
