//! The open engine: one writer, many readers, background work one bounded step at a time.
//!
//! [`Db`] is the handle for readers and for background work; the [`Writer`] beside it is the only
//! way to change something. What they share is `Shared`: the current `SuperVersion` behind an
//! `ArcSwap`, and the `Worker` behind a lock that no reader and no commit takes.
//!
//! Lock order: worker, then publish. The publish lock is held for a few instructions only.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use varve_disk::{DirLock, Disk};

use crate::files::{
    FileGuard, FileIds, FileOpener, Removals, is_data_name, is_removable_name, segment_name,
    table_name,
};
use crate::garbage;
use crate::manifest::{Identity, Level, Manifest, State, manifest_name};
use crate::memtable::MemtableWriter;
use crate::output::Place;
use crate::scrub::Scrub;
use crate::segment::FrameCache;
use crate::version::{SuperVersion, Version};
use crate::worker::{LEVEL0_EXCESS, STEP_BYTES, Worker};
use crate::writer::committed_of;
use crate::{Error, Keyspace, Result};

#[cfg(test)]
mod tests;

pub use crate::checkpoint::{Checkpoint, CheckpointFile};
pub use crate::iter::history::History;
pub use crate::iter::source::Direction;
pub use crate::iter::visible::{Range, Rows};
pub use crate::segment::Compression;
pub use crate::snapshot::{Snapshot, Values};
pub use crate::writer::{Commit, Writer};

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
    /// Frozen memtables waiting for their flush. Beyond it the active one grows, and the writer must
    /// wait once so many and one more are to be written, or nine times as many small ones.
    pub frozen_memtables_max: usize,
    /// Level-0 tables that start a merge.
    pub level0_tables: usize,
    /// Tables above the bottom are merged into it when what they touch there is at most so many
    /// times as large as they are, and among themselves until then. More of it: fewer tables to
    /// look into, and more bytes written.
    pub bottom_factor: u64,
    /// Bytes of one value segment, before they are compressed; at most 2 GiB.
    pub segment_bytes: u64,
    /// Bytes of one table of the bottom level.
    pub table_bytes: u64,
    /// Values up to this length are stored beside their key.
    pub inline_value_bytes_max: usize,
    /// Bytes that one step of a flush or a merge handles, about.
    pub step_bytes: u64,
    /// How values are stored that a merge has to move: they have outlived most of their neighbours,
    /// so they are cold. `None`: as they are, which is the fastest to read. May change at each
    /// opening; both kinds are always read.
    pub compression: Option<Compression>,
    /// Bytes of decompressed values that are kept in memory, at most. A value of more than a
    /// sixteenth of that is not kept.
    pub frame_cache_bytes: usize,
}

/// With this many times the frozen memtables permitted beyond those, the writer must wait whatever
/// their size.
const FROZEN_EXCESS: usize = 8;
/// Offsets in segments are `u32`, and the last value may reach beyond the limit.
const SEGMENT_BYTES_MAX: u64 = 2 << 30;

impl Default for Options {
    fn default() -> Self {
        Self {
            identity: [0; 16],
            origin: 1,
            memtable_bytes: 32 << 20,
            frozen_memtables_max: 2,
            level0_tables: 4,
            bottom_factor: 8,
            segment_bytes: 64 << 20,
            table_bytes: 8 << 20,
            inline_value_bytes_max: 128,
            step_bytes: STEP_BYTES,
            compression: None,
            frame_cache_bytes: 64 << 20,
        }
    }
}

/// What one call of [`Db::work`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// There was nothing to do.
    Idle,
    /// A part of a frozen memtable was written.
    Flushing,
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
    /// Of these, bytes that a read at some readable revision can reach (estimate). Values count as
    /// they are stored.
    pub live_bytes: u64,
    /// Bytes in memtables.
    pub memtable_bytes: u64,
    /// Tables that a point read of `kv` looks into at most, beside the memtables.
    pub runs: usize,
}

impl Sizes {
    /// Bytes of what can still be read, wherever it lies: what a quota is about.
    pub fn logical_bytes(&self) -> u64 {
        self.live_bytes + self.memtable_bytes
    }
}

/// An open engine; cheap to clone, used from any thread.
#[derive(Clone)]
pub struct Db {
    pub(crate) shared: Arc<Shared>,
}

/// What the handles share.
pub(crate) struct Shared {
    pub place: Place,
    pub options: Options,
    pub identity: Identity,
    pub current: ArcSwap<SuperVersion>,
    /// Held while `current` is replaced: the writer and the worker both do.
    publish: Mutex<()>,
    pub worker: Mutex<Worker>,
    pub removals: Arc<Removals>,
    pub cache: Arc<FrameCache>,
    /// Files promised to a sender by [`Db::has_file`].
    pub pins: Mutex<Vec<Arc<FileGuard>>>,
    _lock: Box<dyn DirLock>,
}

impl Shared {
    /// Replaces the current super version by what `next` makes of it.
    pub(crate) fn publish(&self, next: impl FnOnce(&SuperVersion) -> SuperVersion) {
        let _guard = self.publish.lock().unwrap_or_else(PoisonError::into_inner);
        let next = next(&self.current.load());
        self.current.store(Arc::new(next));
    }
}

impl Db {
    /// Opens or creates the engine in `dir`, and locks the directory until all handles are gone.
    ///
    /// # Errors
    /// Damage, another identity or an unknown version are refused with file, offset, expected and
    /// found. A directory in use by another process or handle is refused by its lock.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<(Self, Writer)> {
        assert!(
            (1..=SEGMENT_BYTES_MAX).contains(&options.segment_bytes),
            "segments of {} bytes",
            options.segment_bytes
        );
        options.compression.iter().for_each(|compression| compression.check());
        create_dir(&*disk, dir)?;
        let lock = disk.lock(dir)?;
        let (mut manifest, state) = match Manifest::open(&disk, dir)? {
            Some((manifest, state)) => {
                check_identity(dir, manifest.identity(), options.identity)?;
                (manifest, state)
            }
            None => create(&disk, dir, &options)?,
        };
        let removals = Arc::new(Removals::default());
        let cache = Arc::new(FrameCache::new(options.frame_cache_bytes));
        let opener = FileOpener { disk: &disk, dir, removals: &removals, cache: &cache };
        let version = Version::open(&state, &opener)?;
        // Only now that nothing is refused any more: a refused directory is left as it is.
        remove_strays(&*disk, dir, manifest.number(), &state)?;
        if manifest.is_outdated() {
            manifest.rotate(&state)?;
        } else {
            manifest.restore_receipt();
        }
        let memtable = MemtableWriter::new(committed_of(&version));
        let identity = manifest.identity();
        let ids = FileIds::new(identity.origin, state.next_sequence);
        let current = SuperVersion {
            active: Arc::clone(memtable.memtable()),
            frozen: Vec::new(),
            version: Arc::new(version),
        };
        let shared = Arc::new(Shared {
            place: Place { disk, dir: dir.to_path_buf() },
            options,
            identity,
            current: ArcSwap::from_pointee(current),
            publish: Mutex::new(()),
            worker: Mutex::new(Worker {
                manifest,
                ids,
                flush: None,
                job: None,
                was_merge: false,
                was_removal: false,
                scrub: Scrub::default(),
            }),
            removals,
            cache,
            pins: Mutex::default(),
            _lock: lock,
        });
        Ok((Self { shared: Arc::clone(&shared) }, Writer::new(shared, memtable)))
    }

    /// A view of everything committed so far.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of_committed(self.shared.current.load_full())
    }

    /// As [`Db::snapshot`], for a thread that must not wait for the disk: a read that would touch a
    /// value which is not in memory fails with [`Error::NotResident`]. Keys always are in memory as
    /// far as the machine has enough of it. Costs a system call a value.
    pub fn snapshot_of_residents(&self) -> Snapshot {
        self.snapshot().residents_of(Arc::clone(&self.shared.place.disk))
    }

    /// Mark of the newest commit that is durable in files; `None` when nothing was ever flushed.
    pub fn flushed_mark(&self) -> Option<Bytes> {
        self.shared.current.load().version.mark.clone()
    }

    /// Does one bounded step of background work: flush first, then merge; and every other step
    /// removes a few files if there are some that nobody needs, so that these are gone soon, however
    /// much there is to flush and merge ([`Options::step_bytes`]; the last step of a flush or merge
    /// also syncs). One caller at a time (a second one waits).
    ///
    /// # Errors
    /// All are final: the process stops. Nothing is written after a failed sync.
    pub fn work(&self) -> Result<Work> {
        let mut worker = self.shared.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.work(&self.shared, true)
    }

    /// As [`Db::work`] without merges that can wait: for a caller that paces them (see
    /// [`Pace`](crate::Pace)). Flushes and removals never wait, nor do merges without which reads
    /// would have to look into ever more tables.
    ///
    /// # Errors
    /// As [`Db::work`].
    pub fn work_urgent(&self) -> Result<Work> {
        let mut worker = self.shared.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.work(&self.shared, false)
    }

    /// Whether the writer must wait for [`Db::work`] before the next batch. A writer with a
    /// [`Brake`](crate::Brake) gets here only if background work stands still.
    pub fn is_writer_ahead(&self) -> bool {
        let current = self.shared.current.load();
        current.frozen.len() >= self.shared.options.frozen_memtables_max
            && self.memory_pressure(&current) >= 1.0
    }

    /// How far the writer is ahead of background work, for its [`Brake`](crate::Brake): the fuller
    /// one of memory (1: [`Db::is_writer_ahead`]) and level 0 (1: nothing is flushed any more until
    /// it is merged).
    pub fn pressure(&self) -> f64 {
        let current = self.shared.current.load();
        let level0_max = self.shared.options.level0_tables.max(1) * LEVEL0_EXCESS;
        let level0 = current.version.level0_tables_max() as f64 / level0_max as f64;
        self.memory_pressure(&current).max(level0)
    }

    fn memory_pressure(&self, current: &SuperVersion) -> f64 {
        let options = &self.shared.options;
        let capacity = options.memtable_bytes * (options.frozen_memtables_max + 1);
        let memtables = std::iter::once(&current.active).chain(&current.frozen);
        let bytes: usize = memtables.map(|memtable| memtable.unflushed_bytes()).sum();
        // Reads look into each of them, however small: the caller may freeze as often as it likes.
        let more = current.frozen.len().saturating_sub(options.frozen_memtables_max);
        let more_max = options.frozen_memtables_max * FROZEN_EXCESS;
        (bytes as f64 / capacity as f64).max(more as f64 / more_max as f64)
    }

    /// Sizes for metrics and quotas.
    pub fn sizes(&self) -> Sizes {
        let current = self.shared.current.load();
        let memtables = std::iter::once(&current.active).chain(&current.frozen);
        let memtable_bytes = memtables.map(|memtable| memtable.used_bytes() as u64).sum();
        let version = &current.version;
        let disk_bytes = version.bytes();
        let live_bytes = *version.live_bytes.get_or_init(|| live_bytes(version));
        let runs = *version.runs.get_or_init(|| version.levels(Keyspace::Kv).runs());
        Sizes { disk_bytes, live_bytes, memtable_bytes, runs }
    }
}

/// Of each table, the share of rows that is no garbage, and the share of value bytes that is none.
/// What a table above the bottom makes garbage may be rows of others, so its own rows all count.
fn live_bytes(version: &Version) -> u64 {
    let segments = version.segment_infos();
    // A compressed segment takes less than what it holds.
    let stored = |id: &u64, bytes: u64| {
        let info = &segments[id];
        let share = u128::from(info.bytes.min(info.value_bytes));
        (u128::from(bytes) * share / u128::from(info.value_bytes.max(1))) as u64
    };
    let mut live_bytes = 0;
    for file in version.tables() {
        let info = &file.record.info;
        let floor = garbage::floor(file.record.keyspace, version.compacted);
        let garbage = &file.record.garbage;
        let is_bottom = file.record.level == Level::Bottom;
        let garbage_rows = if is_bottom { garbage.rows(floor) } else { 0 };
        let values = info.segments.iter();
        let value_bytes = values.clone().map(|(id, _, bytes)| stored(id, *bytes)).sum();
        // Garbage counts inline values, too: its share is one of all that the table holds.
        let held_bytes = info.bytes + values.map(|(_, _, bytes)| bytes).sum::<u64>();
        live_bytes += without(info.bytes, garbage_rows, info.rows);
        live_bytes += without(value_bytes, garbage.value_bytes(floor), held_bytes);
    }
    live_bytes
}

/// `bytes` without the share that `garbage` is of `all`.
fn without(bytes: u64, garbage: u64, all: u64) -> u64 {
    let live = u128::from(all - garbage.min(all));
    (u128::from(bytes) * live / u128::from(all.max(1))) as u64
}

/// Creates `dir` and its missing parents, durably.
pub(crate) fn create_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let mut missing = Vec::new();
    let mut next = Some(dir);
    while let Some(path) = next.filter(|path| !path.as_os_str().is_empty()) {
        if disk.exists(path)? {
            break;
        }
        missing.push(path);
        next = path.parent();
    }
    if missing.is_empty() {
        return Ok(());
    }
    disk.create_dir_all(dir)?;
    for path in missing {
        // After this, the name of a new directory is durable.
        disk.sync_dir(path.parent().unwrap_or(Path::new("")))?;
    }
    Ok(())
}

/// Makes the first manifest of a new directory.
fn create(disk: &Arc<dyn Disk>, dir: &Path, options: &Options) -> Result<(Manifest, State)> {
    // Data files are made only after CURRENT is durable, so with some of them it was lost.
    if let Some(name) = disk.list(dir)?.into_iter().find(|name| is_data_name(name)) {
        let found = format!("none, but the data file {name}");
        return Err(Error::corrupt(&dir.join("CURRENT"), 0, "the name of a manifest", found));
    }
    let identity = Identity { identity: options.identity, origin: options.origin };
    let state = State::default();
    Ok((Manifest::create(disk, dir, identity, 1, &state)?, state))
}

fn check_identity(dir: &Path, found: Identity, expected: [u8; 16]) -> Result<()> {
    if found.identity == expected {
        return Ok(());
    }
    let hexadecimal =
        |identity: [u8; 16]| identity.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let expected = format!("identity {}", hexadecimal(expected));
    Err(Error::corrupt(dir, 0, expected, hexadecimal(found.identity)))
}

/// Removes what a crash left: files that the manifest does not name.
fn remove_strays(disk: &dyn Disk, dir: &Path, number: u64, state: &State) -> Result<()> {
    let tables = state.tables.iter().map(|table| table_name(table.info.id));
    let segments = state.segments.keys().map(|id| segment_name(*id));
    let mut needed: Vec<String> = tables.chain(segments).collect();
    needed.push(manifest_name(number));
    needed.sort_unstable();
    for name in disk.list(dir)? {
        if is_removable_name(&name) && needed.binary_search(&name).is_err() {
            disk.remove(&dir.join(&name))?;
        }
    }
    Ok(())
}
