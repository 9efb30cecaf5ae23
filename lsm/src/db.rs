//! The open engine: one writer, many readers, background work one bounded step at a time.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::Disk;

use crate::{Delta, Entry, KeyRange, Keyspace, Meta, Result, Revision};

/// Limits and identity of an engine directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// Identity (cluster and node); a directory with another identity is refused.
    pub identity: [u8; 16],
    /// Makes file ids of this directory unlike those of other nodes, so that a received file can
    /// keep its id. Random per new directory (a seed in simulation); ignored for an existing one.
    pub origin: u32,
    /// A memtable is frozen when it holds this many bytes.
    pub memtable_bytes: usize,
    /// Frozen memtables waiting for their flush; the writer must wait beyond it.
    pub frozen_memtables_max: usize,
    /// Level-0 tables that start a merge.
    pub level0_tables: usize,
    /// Bytes of one value segment.
    pub segment_bytes: u64,
    /// Bytes of one table of the bottom level.
    pub table_bytes: u64,
    /// Values up to this length are stored beside their key.
    pub inline_value_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            identity: [0; 16],
            origin: 1,
            memtable_bytes: 32 << 20,
            frozen_memtables_max: 2,
            level0_tables: 4,
            segment_bytes: 64 << 20,
            table_bytes: 8 << 20,
            inline_value_bytes_max: 128,
        }
    }
}

/// An open engine; cheap to clone, used from any thread.
#[derive(Clone)]
pub struct Db {
    // owner's choice
}

/// The only writer of an engine; owned by the apply thread.
pub struct Writer {
    // owner's choice
}

/// What becomes visible, together, at the end of a batch.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Opaque: where the caller's log stands (etcd: consistent index). Recovered with the data.
    pub mark: Bytes,
    /// Newest `kv` revision that readers see from now on.
    pub kv_visible: u64,
    /// `kv` versions whose successor is at or below this may be dropped; never goes back.
    pub compacted: u64,
}

/// An immutable view: pins what it needs, holds no lock, blocks nobody.
#[derive(Clone)]
pub struct Snapshot {
    // owner's choice
}

/// What one call of [`Db::work`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// There was nothing to do.
    Idle,
    /// A frozen memtable became files; the log may be cut up to [`Db::flushed_mark`].
    Flushed,
    /// Tables were merged, or values relocated.
    Merged,
    /// Files that nobody needs were removed.
    Removed,
}

/// Sizes for metrics and quotas.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// Bytes of all files that the newest version needs.
    pub disk_bytes: u64,
    /// Of these, bytes that a read at some readable revision can reach (estimate).
    pub live_bytes: u64,
    /// Bytes in memtables.
    pub memtable_bytes: u64,
}

/// A pinned, complete, durable state that can be sent elsewhere.
pub struct Checkpoint {
    /// A manifest that describes exactly `files`.
    pub manifest: Bytes,
    /// The mark of the newest commit that the files contain.
    pub mark: Bytes,
    /// The files, each complete and immutable.
    pub files: Vec<CheckpointFile>,
}

/// One file of a checkpoint.
#[derive(Clone)]
pub struct CheckpointFile {
    /// Its name in an engine directory.
    pub name: String,
    /// xxh3-128 of its content.
    pub digest: u128,
    /// Its content, mapped.
    pub content: Bytes,
}

impl Db {
    /// Opens or creates the engine in `dir`.
    ///
    /// # Errors
    /// Damage, another identity or an unknown version are refused with file, offset, expected and
    /// found.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<(Self, Writer)> {
        let _ = (disk, dir, options);
        todo!()
    }

    /// A view of everything committed so far.
    pub fn snapshot(&self) -> Snapshot {
        todo!()
    }

    /// Mark of the newest commit that is durable in files; `None` when nothing was ever flushed.
    pub fn flushed_mark(&self) -> Option<Bytes> {
        todo!()
    }

    /// Does one bounded step of background work: flush first, then merge, then removal.
    /// One caller at a time (a second one waits).
    pub fn work(&self) -> Result<Work> {
        todo!()
    }

    /// Whether the writer should wait for [`Db::work`] before the next batch.
    pub fn is_writer_ahead(&self) -> bool {
        todo!()
    }

    /// Pins the newest durable state for a transfer.
    pub fn checkpoint(&self) -> Checkpoint {
        todo!()
    }

    /// Which of a checkpoint's files are already here: by digest.
    pub fn has_file(&self, name: &str, digest: u128) -> bool {
        let _ = (name, digest);
        todo!()
    }

    /// Sizes for metrics and quotas.
    pub fn sizes(&self) -> Sizes {
        todo!()
    }
}

impl Writer {
    /// Adds a version that puts a value. Revisions of one key must grow. Not visible to readers
    /// until [`Writer::commit`]; visible at once through [`Writer::view`].
    pub fn put(
        &mut self,
        keyspace: Keyspace,
        key: &[u8],
        revision: Revision,
        delta: Delta,
        meta: Meta,
        value: &[u8],
    ) {
        let _ = (keyspace, key, revision, delta, meta, value);
        todo!()
    }

    /// Adds a tombstone for a live key.
    pub fn delete(&mut self, keyspace: Keyspace, key: &[u8], revision: Revision) {
        let _ = (keyspace, key, revision);
        todo!()
    }

    /// A view of everything including what is not committed yet. For the writer's thread.
    pub fn view(&self) -> Snapshot {
        todo!()
    }

    /// Ends a batch: publishes it to readers, and freezes the memtable if it is full.
    /// Nothing is durable by this: the caller's log is.
    pub fn commit(&mut self, commit: Commit) -> Result<()> {
        let _ = commit;
        todo!()
    }

    /// Freezes the memtable at the end of the last batch even if it is not full, so that
    /// [`Db::work`] makes it durable.
    pub fn freeze(&mut self) -> Result<()> {
        todo!()
    }

    /// Replaces the whole state by a received checkpoint whose files lie in `staged` (those that
    /// [`Db::has_file`] already knew may be absent there). Durable on return; old readers keep
    /// what they pinned.
    pub fn install(&mut self, manifest: &Bytes, staged: &Path) -> Result<()> {
        let _ = (manifest, staged);
        todo!()
    }
}

impl Snapshot {
    /// Newest visible `kv` revision.
    pub fn visible(&self) -> u64 {
        todo!()
    }

    /// The compacted revision: reads below it have no answer. 0 when never compacted.
    pub fn compacted(&self) -> u64 {
        todo!()
    }

    /// The mark of the newest commit in this view (empty for a new engine).
    pub fn mark(&self) -> &Bytes {
        todo!()
    }

    /// The newest version of `key` at or below `at` (capped at what is visible), be it a put or
    /// a tombstone.
    pub fn get(&self, keyspace: Keyspace, key: &[u8], at: u64) -> Result<Option<Entry>> {
        let _ = (keyspace, key, at);
        todo!()
    }

    /// As [`Snapshot::get`] without the value.
    pub fn get_meta(&self, keyspace: Keyspace, key: &[u8], at: u64) -> Result<Option<Entry>> {
        let _ = (keyspace, key, at);
        todo!()
    }

    /// Live keys of a range at revision `at`, in key order.
    pub fn range(&self, keyspace: Keyspace, range: KeyRange, at: u64, values: Values) -> Range {
        let _ = (keyspace, range, at, values);
        todo!()
    }

    /// The number of live keys in a range at revision `at`: a sum of deltas, no walk over tables.
    pub fn count(&self, keyspace: Keyspace, range: &KeyRange, at: u64) -> Result<u64> {
        let _ = (keyspace, range, at);
        todo!()
    }

    /// All `kv` versions (puts and tombstones) with `from <= revision.main <= to`, in revision
    /// order, of the keys in `range`. Complete only above the compacted revision.
    pub fn history(&self, range: KeyRange, from: u64, to: u64) -> History {
        let _ = (range, from, to);
        todo!()
    }
}

/// Whether a read wants values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Entries carry their values.
    Load,
    /// Entries carry only the length of their values; no value byte is touched.
    Skip,
}

/// Iterator of [`Snapshot::range`].
pub struct Range {
    // owner's choice
}

impl Iterator for Range {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}

/// Iterator of [`Snapshot::history`].
pub struct History {
    // owner's choice
}

impl Iterator for History {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}
