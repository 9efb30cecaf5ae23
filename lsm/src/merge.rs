//! Several key tables become fewer, without what nobody may read any more.
//!
//! A [`MergeJob`] reads its inputs once, in order, and writes tables of the bottom, or of the tier
//! behind those that it took. It goes in bounded steps, with flushes between them: new level-0
//! tables are newer than all its inputs, so they do not concern it. Nothing of it is visible before
//! the manifest edit at its end; a crash leaves files that the next start removes.
//!
//! On the way to the bottom, values that lie in segments worth leaving (`pick/values.rs`) are copied
//! to new ones, in key order, and compressed if the options say so: most have outlived their
//! neighbours, so they are cold. A segment that no table refers to any more leaves the version with the same edit.
//!
//! Invariants: the inputs hold, of each key in them, a contiguous stretch of versions (tiers are
//! taken whole from 0 on, and the bottom has a key in one table only), which is what `garbage.rs`
//! asks for. Outputs never reach over a bottom table that is not an input.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::trial;

use crate::files::{FileIds, TableFile, segment_name, table_name};
use crate::garbage::{self, Fold};
use crate::iter::level::LevelCursor;
use crate::iter::merge::Merge;
use crate::manifest::{Level, TableRecord};
use crate::output::{Place, SegmentOutput, TableOutput, end_fold};
use crate::pick::Choice;
use crate::segment::{Ahead, SegmentInfo, Walk};
use crate::table::{Row, ValueRef};
use crate::version::{Levels, Version};
use crate::{Options, Result};

/// A bottom table below this share of the wanted size is merged with a neighbour that is.
const SMALL_SHARE: u64 = 4;
/// So many times as large as those of the bottom, tables above it may be: a point read compares its
/// key with those of each.
const UPPER_TABLE_FACTOR: u64 = 8;
/// What a row costs of a step's budget, beside its key and the value it moves.
const ROW_COST_BYTES: u64 = 32;

/// A merge under way.
pub(crate) struct MergeJob {
    place: Place,
    /// Holds the inputs and the segments their values are in.
    version: Arc<Version>,
    inputs: Vec<Arc<TableFile>>,
    merge: Merge,
    fold: Fold<Row>,
    /// The key whose rows are being folded.
    key: Option<Bytes>,
    tables: TableOutput,
    segments: SegmentOutput,
    to_leave: BTreeSet<u64>,
    values: Walk,
    ahead: Ahead,
    /// First keys of bottom tables that stay: outputs end before them.
    cuts: VecDeque<Bytes>,
}

/// What a merge replaces by what.
pub(crate) struct Merged {
    pub removed: Vec<u64>,
    pub tables: Vec<TableRecord>,
    pub segments: Vec<SegmentInfo>,
}

impl MergeJob {
    /// Begins the merge of `choice` in `version`, moving values out of the segments `to_leave`.
    pub(crate) fn new(
        choice: &Choice,
        version: &Arc<Version>,
        to_leave: BTreeSet<u64>,
        place: &Place,
        options: &Options,
    ) -> Result<Self> {
        let (Choice::Tiers(keyspace, _) | Choice::Upper(keyspace) | Choice::Bottom(keyspace, _)) =
            *choice;
        let levels = version.levels(keyspace);
        let bottom = &levels.bottom;
        let (upper, mut is_input) = match choice {
            Choice::Tiers(_, last) => {
                let is_taken = |file: &Arc<TableFile>| file.record.level <= Level::Tier(*last);
                let count = levels.upper.partition_point(is_taken);
                (&levels.upper[..count], vec![false; bottom.len()])
            }
            Choice::Upper(_) => (levels.upper.as_slice(), touched(levels)?),
            Choice::Bottom(_, positions) => {
                (&[][..], (0..bottom.len()).map(|at| positions.contains(&at)).collect())
            }
        };
        join_small(bottom, &mut is_input, options.table_bytes);
        let pairs = || bottom.iter().zip(&is_input);
        let chosen: Vec<_> =
            pairs().filter(|(_, is_input)| **is_input).map(|(file, _)| Arc::clone(file)).collect();
        let stay = pairs().filter(|(_, is_input)| !**is_input).map(|(file, _)| &file.record.info);
        let (tables, to_leave, cuts) = match choice {
            // Values stay where they are: many of them will not be needed at the bottom any more.
            Choice::Tiers(_, last) => {
                let (level, bytes_max) =
                    (Level::Tier(last + 1), options.table_bytes * UPPER_TABLE_FACTOR);
                let tables = TableOutput::new(place.clone(), keyspace, level, bytes_max);
                (tables, BTreeSet::new(), VecDeque::new())
            }
            Choice::Upper(_) | Choice::Bottom(..) => {
                let bytes_max = options.table_bytes;
                let tables = TableOutput::new(place.clone(), keyspace, Level::Bottom, bytes_max);
                (tables, to_leave, stay.map(|info| info.first_key.clone()).collect())
            }
        };
        let mut sources: Vec<LevelCursor> =
            upper.iter().map(|file| LevelCursor::new(vec![Arc::clone(&file.table)])).collect();
        sources.push(LevelCursor::new(chosen.iter().map(|file| file.table.clone()).collect()));
        Ok(Self {
            place: place.clone(),
            version: Arc::clone(version),
            inputs: upper.iter().cloned().chain(chosen).collect(),
            merge: Merge::new(sources, b"")?,
            fold: Fold::new(garbage::floor(keyspace, version.compacted)),
            key: None,
            tables,
            segments: SegmentOutput::new(place.clone(), options.segment_bytes, options.compression),
            to_leave,
            values: Walk::default(),
            ahead: Ahead::default(),
            cuts,
        })
    }

    /// Goes on for about `budget_bytes`. Returns whether all rows are through.
    pub(crate) fn step(&mut self, ids: &mut FileIds, budget_bytes: u64) -> Result<bool> {
        let mut spent_bytes = 0;
        while spent_bytes < budget_bytes {
            let Some(source) = self.merge.front() else {
                self.end_key(ids)?;
                return Ok(true);
            };
            if source.key() != self.key.as_deref() {
                self.end_key(ids)?;
            }
            let row = self.merge.front().expect("checked above").cursor().row()?;
            self.merge.advance()?;
            if self.key.is_none() {
                self.begin_key(&row.key)?;
            }
            let (revision, kind, delta) = (row.revision, row.kind, row.delta);
            spent_bytes += ROW_COST_BYTES + row.key.len() as u64;
            if let Some(row) = self.fold.push(revision, kind, delta, row) {
                spent_bytes += self.write(ids, row)?;
            }
        }
        Ok(false)
    }

    fn begin_key(&mut self, key: &Bytes) -> Result<()> {
        while self.cuts.front().is_some_and(|cut| cut <= key) {
            self.cuts.pop_front();
            trial::reach("bottom table cut where another begins");
            self.tables.cut()?;
        }
        self.key = Some(key.clone());
        Ok(())
    }

    fn end_key(&mut self, ids: &mut FileIds) -> Result<()> {
        let Some(key) = self.key.take() else { return Ok(()) };
        if let Some(row) = end_fold(&mut self.fold, Some(&key), &self.place)? {
            self.write(ids, row)?;
        }
        self.tables.end_key()
    }

    /// Writes a row that stays; returns the value bytes that were moved for it.
    fn write(&mut self, ids: &mut FileIds, mut row: Row) -> Result<u64> {
        let mut moved_bytes = 0;
        if let ValueRef::Stored(handle) = row.value
            && self.to_leave.contains(&handle.segment)
        {
            trial::reach("value moved to another segment");
            let (position, segment) = self.version.segment_at(handle)?;
            segment.read_ahead(&mut self.ahead, position, handle);
            let value = self.values.value(segment, handle)?;
            moved_bytes = value.len() as u64;
            row.value = ValueRef::Stored(self.segments.add(ids, &value)?);
        }
        self.tables.add(ids, &row)?;
        Ok(moved_bytes)
    }

    /// The result, after the last step. Contents of the files are durable on return.
    pub(crate) fn finish(self) -> Result<Merged> {
        assert!(self.merge.front().is_none() && self.key.is_none(), "the merge is through");
        let removed = self.inputs.iter().map(|file| file.record.info.id).collect();
        let (tables, segments) = (self.tables.finish()?, self.segments.finish()?);
        Ok(Merged { removed, tables, segments })
    }

    /// Gives up: the names of the files that were begun.
    pub(crate) fn abandon(self) -> Vec<String> {
        let tables = self.tables.started().iter().map(|id| table_name(*id));
        tables.chain(self.segments.started().iter().map(|id| segment_name(*id))).collect()
    }
}

/// For each bottom table, whether one above has a key in the stretch up to the next bottom table.
/// The first one's stretch begins at the first key there is, so each key belongs to one table.
fn touched(levels: &Levels) -> Result<Vec<bool>> {
    let mut is_touched = Vec::with_capacity(levels.bottom.len());
    for (position, file) in levels.bottom.iter().enumerate() {
        let start = if position == 0 { &b""[..] } else { &file.record.info.first_key };
        let end = levels.bottom.get(position + 1).map(|next| &next.record.info.first_key);
        let mut has_key = false;
        for newer in &levels.upper {
            let info = &newer.record.info;
            if has_key || info.last_key < start || end.is_some_and(|end| info.first_key >= end) {
                continue;
            }
            let mut cursor = newer.table.cursor();
            cursor.seek(start)?;
            has_key = cursor.key().is_some_and(|key| end.is_none_or(|end| key < end.as_ref()));
        }
        is_touched.push(has_key);
    }
    Ok(is_touched)
}

/// Takes in tables that are small and stand beside one that is taken.
fn join_small(bottom: &[Arc<TableFile>], is_input: &mut [bool], table_bytes: u64) {
    let is_small = |position: usize| bottom[position].record.info.bytes < table_bytes / SMALL_SHARE;
    for position in 1..bottom.len() {
        is_input[position] |= is_input[position - 1] && is_small(position);
    }
    for position in (1..bottom.len()).rev() {
        is_input[position - 1] |= is_input[position] && is_small(position - 1);
    }
}
