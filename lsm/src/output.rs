//! Writes sorted rows into new key tables, and values into new value segments.
//!
//! The common end of flush and merge: rows come in order, files come out, cut at their sizes.
//! Tables are cut between keys only, so all versions of a key that a run has are in one
//! of its tables.
//!
//! What it does not do: it does not decide which rows stay, and the names of the files are not
//! durable before the caller synced the directory.

use std::path::PathBuf;
use std::sync::Arc;

use varve_disk::Disk;

use crate::files::FileIds;
use crate::garbage::{Fold, GarbageBuilder};
use crate::manifest::{Level, TableRecord};
use crate::segment::{Compression, SegmentBuilder, SegmentInfo};
use crate::table::{Row, TableBuilder, ValueHandle, ValueRef};
use crate::{Error, Keyspace, Result};

/// Where new files go.
#[derive(Clone)]
pub(crate) struct Place {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
}

/// Ends `key` in `fold`: the row that it held back, if that stays, as it is from now on.
///
/// # Errors
/// The rows are not what was written.
pub(crate) fn end_fold(
    fold: &mut Fold<Row>,
    key: Option<&[u8]>,
    place: &Place,
) -> Result<Option<Row>> {
    let oldest = fold.end_key().map_err(|sum| {
        let found = format!("{sum} for key {key:02x?}");
        Error::corrupt(&place.dir, 0, "deltas of a key within -1..=1", found)
    })?;
    Ok(oldest.map(|(row, delta)| Row { delta, ..row }))
}

/// New value segments, one after another.
pub(crate) struct SegmentOutput {
    place: Place,
    bytes_max: u64,
    compression: Option<Compression>,
    open: Option<SegmentBuilder>,
    finished: Vec<SegmentInfo>,
    started: Vec<u64>,
}

impl SegmentOutput {
    /// No segment yet; each is finished when it holds `bytes_max`, as if it were not compressed.
    pub(crate) fn new(place: Place, bytes_max: u64, compression: Option<Compression>) -> Self {
        let (finished, started) = (Vec::new(), Vec::new());
        Self { place, bytes_max, compression, open: None, finished, started }
    }

    /// Stores a value.
    pub(crate) fn add(&mut self, ids: &mut FileIds, value: &[u8]) -> Result<ValueHandle> {
        let mut builder = match self.open.take() {
            Some(builder) => builder,
            None => {
                let id = ids.take();
                self.started.push(id);
                let disk = Arc::clone(&self.place.disk);
                SegmentBuilder::new(disk, &self.place.dir, id, self.compression)?
            }
        };
        let handle = builder.add(value)?;
        if builder.bytes() >= self.bytes_max {
            self.finished.push(builder.finish()?);
        } else {
            self.open = Some(builder);
        }
        Ok(handle)
    }

    /// Ids of all segments begun.
    pub(crate) fn started(&self) -> &[u64] {
        &self.started
    }

    /// Completes the last segment; contents of all are durable on return.
    pub(crate) fn finish(mut self) -> Result<Vec<SegmentInfo>> {
        if let Some(builder) = self.open.take() {
            self.finished.push(builder.finish()?);
        }
        Ok(self.finished)
    }
}

/// New key tables of one keyspace and level, one after another.
///
/// Invariants: rows come in order; [`TableOutput::end_key`] stands between two keys.
pub(crate) struct TableOutput {
    place: Place,
    keyspace: Keyspace,
    level: Level,
    bytes_max: u64,
    open: Option<TableBuilder>,
    garbage: GarbageBuilder,
    finished: Vec<TableRecord>,
    started: Vec<u64>,
}

impl TableOutput {
    /// No table yet; each is finished at the first end of a key after `bytes_max`.
    pub(crate) fn new(place: Place, keyspace: Keyspace, level: Level, bytes_max: u64) -> Self {
        let garbage = GarbageBuilder::new(level != Level::Bottom);
        let (finished, started) = (Vec::new(), Vec::new());
        Self { place, keyspace, level, bytes_max, open: None, garbage, finished, started }
    }

    /// Adds the next row.
    pub(crate) fn add(&mut self, ids: &mut FileIds, row: &Row) -> Result<()> {
        let mut builder = match self.open.take() {
            Some(builder) => builder,
            None => {
                let id = ids.take();
                self.started.push(id);
                TableBuilder::new(Arc::clone(&self.place.disk), &self.place.dir, id)?
            }
        };
        builder.add(row)?;
        let value_bytes = match &row.value {
            ValueRef::None => 0,
            ValueRef::Inline(value) => value.len() as u64,
            ValueRef::Stored(handle) => u64::from(handle.length),
        };
        self.garbage.add(row.revision.main, row.kind, row.delta, value_bytes);
        self.open = Some(builder);
        Ok(())
    }

    /// All rows of the current key were added.
    pub(crate) fn end_key(&mut self) -> Result<()> {
        self.garbage.end_key();
        if self.open.as_ref().is_some_and(|builder| builder.bytes() >= self.bytes_max) {
            self.cut()?;
        }
        Ok(())
    }

    /// Ends the current table, if one is open: the next row begins another.
    pub(crate) fn cut(&mut self) -> Result<()> {
        if let Some(builder) = self.open.take() {
            let info = builder.finish()?;
            let garbage = self.garbage.finish();
            let (keyspace, level) = (self.keyspace, self.level);
            self.finished.push(TableRecord { keyspace, level, info, garbage });
        }
        Ok(())
    }

    /// Ids of all tables begun.
    pub(crate) fn started(&self) -> &[u64] {
        &self.started
    }

    /// Completes the last table; contents of all are durable on return.
    pub(crate) fn finish(mut self) -> Result<Vec<TableRecord>> {
        self.cut()?;
        Ok(self.finished)
    }
}
