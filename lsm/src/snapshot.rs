//! An immutable view of the engine, and the reads it answers.
//!
//! A snapshot is three things: the [`SuperVersion`], the state after the newest commit into *its*
//! active memtable, and a bound on that memtable's ordinals. Taking one is two atomic loads. It
//! pins files and memtables, holds no lock, and blocks nobody.
//!
//! **Point reads** go through the sources newest first. All versions of a key in a newer source are
//! newer, so the first source that has one at or below the wanted revision has the answer.
//!
//! **Counts** add up deltas over all sources, see `garbage.rs`: no merge, and no walk over tables.
//!
//! **Old revisions**: sources that began after the wanted revision are left out, of every read.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::Disk;

use crate::iter::history::History;
use crate::iter::level::LevelCursor;
use crate::iter::source::{Direction, Source};
use crate::iter::visible::{Range, Rows};
use crate::manifest::CURRENT_NAME;
use crate::memtable::{Committed, Memtable, RecordRef};
use crate::row::RowRef;
use crate::segment::{Ahead, Value};
use crate::table::{Row, ValueHandle, ValueRef, hash};
use crate::version::SuperVersion;
use crate::{Entry, Error, KeyRange, Keyspace, Kind, Result, Revision};

#[cfg(test)]
mod tests;

/// Whether a read wants values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Entries carry their values.
    Load,
    /// Entries carry only the length of their values; no value byte is touched.
    Skip,
}

/// An immutable view: pins what it needs, holds no lock, blocks nobody.
///
/// Reads of `kv` take a revision `at`, capped at [`Snapshot::visible`]; below
/// [`Snapshot::compacted`] they have no defined answer. The `sys` keyspace keeps no history: its
/// reads ignore `at` and answer with the newest version in the view.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) super_version: Arc<SuperVersion>,
    committed: Arc<Committed>,
    /// Records of the active memtable below this one are in the view.
    ordinal: u64,
    visible: u64,
    /// Values that are not in memory on this disk are refused.
    residents_of: Option<Arc<dyn Disk>>,
}

impl Snapshot {
    /// What is committed.
    pub(crate) fn of_committed(super_version: Arc<SuperVersion>) -> Self {
        // The super version first: its memtable's state can only be newer than the swap, and both
        // belong together because the state is the memtable's own.
        let committed = super_version.active.committed();
        let (ordinal, visible) = (committed.ordinal, committed.kv_visible);
        Self { super_version, committed, ordinal, visible, residents_of: None }
    }

    /// What is committed and what is not yet, up to `kv` revision `visible`.
    pub(crate) fn of_writer(super_version: Arc<SuperVersion>, visible: u64) -> Self {
        let committed = super_version.active.committed();
        let ordinal = crate::memtable::ALL_RECORDS;
        Self { super_version, committed, ordinal, visible, residents_of: None }
    }

    /// This view, which from now on refuses values that are not in memory.
    pub(crate) fn residents_of(self, disk: Arc<dyn Disk>) -> Self {
        Self { residents_of: Some(disk), ..self }
    }

    /// The value at `handle`, if it may be touched.
    pub(crate) fn value(&self, handle: ValueHandle) -> Result<Value<'_>> {
        let segment = self.super_version.version.segment_of(handle)?;
        segment.value(handle, self.residents_of.as_deref())
    }

    /// As [`Snapshot::value`], on a walk.
    pub(crate) fn value_ahead(
        &self,
        handle: ValueHandle,
        ahead: &RefCell<Ahead>,
    ) -> Result<Value<'_>> {
        let (position, segment) = self.super_version.version.segment_at(handle)?;
        // Who must not wait does not begin what may make it wait.
        if self.residents_of.is_none() {
            segment.read_ahead(&mut ahead.borrow_mut(), position, handle);
        }
        segment.value(handle, self.residents_of.as_deref())
    }

    /// Newest visible `kv` revision.
    pub fn visible(&self) -> u64 {
        self.visible
    }

    /// The compacted revision: reads below it have no answer. 0 when never compacted.
    pub fn compacted(&self) -> u64 {
        self.committed.compacted
    }

    /// The mark of the newest commit in this view (empty for a new engine).
    pub fn mark(&self) -> &Bytes {
        &self.committed.mark
    }

    /// The newest version of `key` at or below `at` (capped at what is visible), be it a put or
    /// a tombstone. A tombstone strictly below the compacted revision may have been dropped; then
    /// the answer is `None` or an older tombstone, both of which mean that the key is not there.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if the value is damaged; so for all reads.
    pub fn get(&self, keyspace: Keyspace, key: &[u8], at: u64) -> Result<Option<Entry>> {
        self.get_with(keyspace, key, at, |row| row.to_entry(Values::Load))?.transpose()
    }

    /// As [`Snapshot::get`] without the value.
    pub fn get_meta(&self, keyspace: Keyspace, key: &[u8], at: u64) -> Result<Option<Entry>> {
        self.get_with(keyspace, key, at, |row| row.to_entry(Values::Skip))?.transpose()
    }

    /// As [`Snapshot::get`], but shows the version where it lies, without a copy.
    pub fn get_with<T>(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        at: u64,
        show: impl FnOnce(RowRef<'_>) -> T,
    ) -> Result<Option<T>> {
        let at = self.cap(keyspace, at);
        let hash = hash(key);
        for (memtable, ordinal) in self.memtables(at) {
            if let Some(record) = memtable.get(keyspace, hash, key, at, ordinal) {
                return Ok(Some(show(RowRef::of_record(key, record, self))));
            }
        }
        let levels = self.super_version.version.levels(keyspace);
        let newest = Revision { main: at, sub: u32::MAX };
        // Shows at most once: what is found ends the search.
        let mut show = Some(show);
        for file in levels.upper.iter().chain(levels.bottom_of(key)) {
            let info = &file.record.info;
            if info.revision_min > newest || key < info.first_key || key > info.last_key {
                continue;
            }
            let found = file.table.find(hash, key, newest, |row| {
                let show = show.take().expect("the search ends with the first row");
                show(RowRef::of_table(key, row, self))
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The memtables that may have versions at or below `at`, newest first, each with the bound on
    /// its ordinals.
    fn memtables(&self, at: u64) -> impl DoubleEndedIterator<Item = (&Arc<Memtable>, u64)> {
        // The `sys` keyspace is read at the highest revision, which no memtable begins after.
        let memtables = self.super_version.memtables(self.ordinal);
        memtables.filter(move |(memtable, _)| memtable.begin() < at)
    }

    fn cap(&self, keyspace: Keyspace, at: u64) -> u64 {
        match keyspace {
            Keyspace::Kv => at.min(self.visible),
            Keyspace::Sys => u64::MAX,
        }
    }

    /// Live keys of a range at revision `at`, in key order, as copies. For a limit, take so many.
    pub fn range(&self, keyspace: Keyspace, range: KeyRange, at: u64, values: Values) -> Range {
        Range::new(self.rows(keyspace, range, at, Direction::Forward), values)
    }

    /// As [`Snapshot::range`], from the last key of the range to the first.
    pub fn range_backward(
        &self,
        keyspace: Keyspace,
        range: KeyRange,
        at: u64,
        values: Values,
    ) -> Range {
        Range::new(self.rows(keyspace, range, at, Direction::Backward), values)
    }

    /// Live keys of a range at revision `at`, shown where they lie, without a copy.
    pub fn rows(&self, keyspace: Keyspace, range: KeyRange, at: u64, direction: Direction) -> Rows {
        let at = self.cap(keyspace, at);
        Rows::new(self.clone(), self.sources(keyspace, &range, at), range, at, direction)
    }

    /// Cursors over all sources that may have keys of `range` at or below `at`, newest first. The
    /// bottom is one source, whatever the revisions of its tables.
    fn sources(&self, keyspace: Keyspace, range: &KeyRange, at: u64) -> Vec<Source> {
        let mut sources: Vec<Source> = self
            .memtables(at)
            .map(|(memtable, ordinal)| Source::Memtable(memtable.cursor(keyspace, ordinal)))
            .collect();
        let levels = self.super_version.version.levels(keyspace);
        for file in &levels.upper {
            let info = &file.record.info;
            let is_inside = !range.is_past(&info.first_key) && range.start <= info.last_key;
            if is_inside && info.revision_min.main <= at {
                sources.push(Source::Level(LevelCursor::new(vec![Arc::clone(&file.table)])));
            }
        }
        // Only those that the range touches: a short list needs no walk over a large bottom.
        let first = levels.bottom.partition_point(|file| file.record.info.last_key < range.start);
        let count = levels.bottom[first..]
            .partition_point(|file| !range.is_past(&file.record.info.first_key));
        let bottom = &levels.bottom[first..first + count];
        if !bottom.is_empty() {
            let tables = bottom.iter().map(|file| Arc::clone(&file.table)).collect();
            sources.push(Source::Level(LevelCursor::new(tables)));
        }
        sources
    }

    /// The number of live keys in a range at revision `at`: a sum of deltas, no walk over tables.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the deltas cannot be right.
    pub fn count(&self, keyspace: Keyspace, range: &KeyRange, at: u64) -> Result<u64> {
        let at = self.cap(keyspace, at);
        let mut sum = 0_i64;
        for (memtable, ordinal) in self.memtables(at) {
            sum += memtable.delta_sum(keyspace, range, at, ordinal);
        }
        for file in self.super_version.version.levels(keyspace).tables() {
            let info = &file.record.info;
            let is_outside = range.is_past(&info.first_key) || range.start > info.last_key;
            if is_outside || info.revision_min.main > at {
                continue;
            }
            // A forged file may say anything.
            sum = sum.wrapping_add(file.table.delta_sum(range, at)?);
        }
        u64::try_from(sum).map_err(|_| {
            let expected = format!("deltas of {range:?} at {at} that add up to 0 or more keys");
            Error::corrupt(Path::new(CURRENT_NAME), 0, expected, sum.to_string())
        })
    }

    /// All `kv` versions (puts and tombstones) with `from <= revision.main <= to`, in revision
    /// order, of the keys in `range`. Complete only above the compacted revision.
    pub fn history(&self, range: KeyRange, from: u64, to: u64) -> History {
        let to = to.min(self.visible);
        let mut tables = Vec::new();
        for file in self.super_version.version.levels(Keyspace::Kv).tables() {
            let info = &file.record.info;
            let is_outside = range.is_past(&info.first_key) || range.start > info.last_key;
            if !is_outside && info.revision_min.main <= to && info.revision_max.main >= from {
                tables.push(file.table.by_revision(from, to));
            }
        }
        let memtables = self.memtables(to).rev();
        let memtables = memtables.map(|(memtable, ordinal)| memtable.history(from, ordinal));
        History::new(self.clone(), tables, memtables.collect(), range, to)
    }
}

/// A memtable's record as reads return it.
pub(crate) fn entry_of_record(record: RecordRef<'_>, values: Values) -> Entry {
    let value = match values {
        Values::Load => Bytes::copy_from_slice(record.value()),
        Values::Skip => Bytes::new(),
    };
    Entry {
        key: Bytes::copy_from_slice(record.key()),
        revision: record.revision(),
        kind: record.kind(),
        meta: record.meta(),
        value,
        value_bytes: record.value().len() as u32,
    }
}

/// A table's row as reads return it.
pub(crate) fn entry_of_row(snapshot: &Snapshot, row: Row, values: Values) -> Result<Entry> {
    let (value, value_bytes) = match (row.value, values) {
        (ValueRef::None, _) => (Bytes::new(), 0),
        (ValueRef::Inline(value), Values::Load) => {
            let length = value.len() as u32;
            (value, length)
        }
        (ValueRef::Inline(value), Values::Skip) => (Bytes::new(), value.len() as u32),
        (ValueRef::Stored(handle), Values::Load) => {
            (snapshot.value(handle)?.into_bytes(), handle.length)
        }
        (ValueRef::Stored(handle), Values::Skip) => (Bytes::new(), handle.length),
    };
    let (key, revision, kind, meta) = (row.key, row.revision, row.kind, row.meta);
    debug_assert!(kind == Kind::Put || value_bytes == 0, "a tombstone has no value");
    Ok(Entry { key, revision, kind, meta, value, value_bytes })
}
