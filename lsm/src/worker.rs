//! Background work, one bounded step at a time: flush, merge, removal.
//!
//! The order of a change of files, and what a crash leaves at each point:
//!
//! 1. new data files are written and synced, then the directory: files that no manifest names;
//! 2. the manifest edit is appended and synced: from here on a restart finds the new state;
//! 3. the new version is swapped in; readers of the old one keep it;
//! 4. files that the edit dropped are unlinked when their last reader is gone.
//!
//! What is most urgent goes first, and nothing for long: flushes release memory, so they go before
//! merges; when level 0 (not the tiers between it and the bottom) has grown all the same, the two
//! take turns; far beyond that, merges go first, and the writer is slowed down by the memory that
//! fills up (`brake.rs`).
//!
//! Removal waits for none of them: after each other step, if files were let go, a few of them go. So
//! what a series of merges drops is gone soon, not when the last one is through, and a disk that is
//! nearly full has the room that merges give back.
//!
//! Invariants: one thread at a time works (the lock around [`Worker`]); the published version is
//! never ahead of the manifest; a flush under way is that of the oldest frozen memtable.

use std::collections::BTreeMap;
use std::sync::Arc;

use varve_disk::trial;

use crate::checkpoint::guards;
use crate::db::{Shared, Work};
use crate::files::{FileIds, FileOpener, is_data_name};
use crate::flush::{FlushJob, Flushed};
use crate::manifest::{Edit, Manifest, TableRecord};
use crate::memtable::Memtable;
use crate::merge::{MergeJob, Merged};
use crate::pick::{Pressure, Shape, pick, segments_to_leave};
use crate::scrub::Scrub;
use crate::segment::SegmentInfo;
use crate::version::{SuperVersion, Version};
use crate::{Keyspace, Result};

/// Bytes that one step of a flush or merge handles at most, about: some milliseconds.
pub const STEP_BYTES: u64 = 1 << 20;
/// With this many times the tables that start a merge, merging and flushing take turns.
const LEVEL0_TURNS: usize = 4;
/// With this many times the tables that start a merge, merging goes before flushing.
pub(crate) const LEVEL0_EXCESS: usize = 8;

/// Files that one step removes at most, and unmaps.
const REMOVED_FILES_MAX: usize = 4;

/// The state of background work.
pub(crate) struct Worker {
    pub manifest: Manifest,
    pub ids: FileIds,
    pub flush: Option<FlushJob>,
    pub job: Option<MergeJob>,
    /// Whether the last step was one of a merge.
    pub was_merge: bool,
    /// Whether it was one of removal.
    pub was_removal: bool,
    pub scrub: Scrub,
}

impl Worker {
    /// Does the most urgent step; merges that can wait only `with_merges`.
    pub(crate) fn work(&mut self, shared: &Shared, with_merges: bool) -> Result<Work> {
        let is_removals_turn = !self.was_removal;
        self.was_removal = is_removals_turn && self.remove(shared)?;
        if self.was_removal {
            return Ok(Work::Removed);
        }
        let current = shared.current.load_full();
        let level0 = current.version.level0_tables_max() / shared.options.level0_tables.max(1);
        let is_turn = level0 >= LEVEL0_TURNS && !self.was_merge;
        if (is_turn || level0 >= LEVEL0_EXCESS) && self.merge(shared, &current.version)? {
            trial::reach("merge before a flush");
            self.was_merge = true;
            return Ok(Work::Merged);
        }
        self.was_merge = false;
        if let Some(oldest) = current.frozen.last() {
            let is_through = self.flush(shared, oldest)?;
            return Ok(if is_through { Work::Flushed } else { Work::Flushing });
        }
        if with_merges && self.merge(shared, &current.version)? {
            self.was_merge = true;
            return Ok(Work::Merged);
        }
        if !is_removals_turn && self.remove(shared)? {
            self.was_removal = true;
            return Ok(Work::Removed);
        }
        Ok(Work::Idle)
    }

    /// Goes on with the flush of `memtable`, the oldest one. Returns whether it is in files.
    fn flush(&mut self, shared: &Shared, memtable: &Arc<Memtable>) -> Result<bool> {
        let begin = || FlushJob::new(memtable, &shared.place, &shared.options);
        let mut job = self.flush.take().unwrap_or_else(begin);
        assert!(Arc::ptr_eq(job.memtable(), memtable), "memtables are flushed oldest first");
        if !job.step(&mut self.ids, shared.options.step_bytes)? {
            trial::reach("flush in several steps");
            self.flush = Some(job);
            return Ok(false);
        }
        let Flushed { tables, segments } = job.finish()?;
        let mut committed = memtable.committed();
        if trial::has_bug("mark-ahead") {
            committed = shared.current.load().active.committed();
        }
        let edit = Edit {
            mark: Some(committed.mark.clone()),
            kv_visible: committed.kv_visible,
            compacted: committed.compacted,
            ..Edit::default()
        };
        let next = self.commit(shared, edit, tables, segments)?;
        shared.publish(|current| {
            let mut frozen = current.frozen.clone();
            let oldest = frozen.pop().expect("only a flush takes frozen memtables away");
            assert!(Arc::ptr_eq(&oldest, memtable), "memtables are flushed oldest first");
            SuperVersion { active: Arc::clone(&current.active), frozen, version: next }
        });
        self.rotate_if_long(shared)?;
        Ok(true)
    }

    /// Goes on with a merge, or begins one if that is worth it. False: there is nothing to merge.
    fn merge(&mut self, shared: &Shared, version: &Arc<Version>) -> Result<bool> {
        let mut job = match self.job.take() {
            Some(job) => job,
            None => match begin_merge(shared, version)? {
                Some(job) => job,
                None => return Ok(false),
            },
        };
        if !job.step(&mut self.ids, shared.options.step_bytes)? {
            trial::reach("merge in several steps");
            self.job = Some(job);
            return Ok(true);
        }
        let Merged { removed, tables, segments } = job.finish()?;
        let edit = Edit {
            mark: version.mark.clone(),
            kv_visible: version.kv_visible,
            compacted: version.compacted,
            removed_tables: removed,
            ..Edit::default()
        };
        let next = self.commit(shared, edit, tables, segments)?;
        shared.publish(|current| SuperVersion {
            active: Arc::clone(&current.active),
            frozen: current.frozen.clone(),
            version: next,
        });
        self.rotate_if_long(shared)?;
        Ok(true)
    }

    /// Makes new files and `edit` durable; returns the version to publish.
    fn commit(
        &mut self,
        shared: &Shared,
        mut edit: Edit,
        tables: Vec<TableRecord>,
        segments: Vec<SegmentInfo>,
    ) -> Result<Arc<Version>> {
        let version = Arc::clone(&shared.current.load().version);
        if !(tables.is_empty() && segments.is_empty()) {
            // After this, the names of the new files are durable; their contents were before.
            shared.place.disk.sync_dir(&shared.place.dir)?;
        }
        edit.added_tables = tables;
        edit.added_segments = segments;
        edit.next_sequence = self.ids.next_sequence();
        edit.removed_segments = unreferenced(&version, &edit);
        let opener = shared.opener();
        let opened_tables: Result<Vec<_>> =
            edit.added_tables.iter().map(|record| opener.table(record)).collect();
        let opened_segments: Result<Vec<_>> =
            edit.added_segments.iter().map(|info| opener.segment(info)).collect();
        let next = version.apply(&edit, opened_tables?, opened_segments?, &shared.place.dir)?;
        self.manifest.append(&edit)?;
        // The edit is durable: what it drops may go once the last reader is gone.
        for file in version.tables() {
            if edit.removed_tables.contains(&file.record.info.id) {
                file.guard.set_obsolete();
            }
        }
        for file in version.segments() {
            if edit.removed_segments.contains(&file.segment.info().id) {
                file.guard.set_obsolete();
            }
        }
        Ok(Arc::new(next))
    }

    fn rotate_if_long(&mut self, shared: &Shared) -> Result<()> {
        if !self.manifest.is_long() {
            return Ok(());
        }
        let state = shared.current.load().version.state(self.ids.next_sequence());
        trial::reach("manifest rotated");
        self.manifest.rotate(&state)
    }

    /// Removes some of the files whose last reader is gone; false if there were none.
    fn remove(&mut self, shared: &Shared) -> Result<bool> {
        // Off the threads of readers: see `Disk::unmap_let_go`.
        let unmapped = shared.place.disk.unmap_let_go(REMOVED_FILES_MAX);
        let mut names = shared.removals.take(REMOVED_FILES_MAX);
        let has_some = unmapped > 0 || !names.is_empty();
        if !names.is_empty() {
            // An installed checkpoint may have brought the file back under the same name, and it
            // may have been promised for the next one. Neither can happen from here on: the version
            // changes under the worker's lock only, and what it does not have is not promised.
            shared.pins().iter().for_each(|pin| _ = names.remove(pin.name()));
            let version = Arc::clone(&shared.current.load().version);
            guards(&version).for_each(|guard| _ = names.remove(guard.name()));
        }
        for name in names {
            assert!(is_data_name(&name), "{name} is no data file");
            let path = shared.place.dir.join(&name);
            if shared.place.disk.exists(&path)? {
                // Needs no sync: if a crash brings the file back, the next start removes it.
                shared.place.disk.remove(&path)?;
            }
        }
        Ok(has_some)
    }
}

fn begin_merge(shared: &Shared, version: &Arc<Version>) -> Result<Option<MergeJob>> {
    let references = version.references();
    let segments = version.segment_infos();
    let shapes = [Keyspace::Kv, Keyspace::Sys].map(|keyspace| {
        let levels = version.levels(keyspace);
        Shape {
            keyspace,
            upper: levels.upper.iter().map(|file| &file.record).collect(),
            bottom: levels.bottom.iter().map(|file| &file.record).collect(),
        }
    });
    let pressure = Pressure {
        level0_tables: shared.options.level0_tables,
        bottom_factor: shared.options.bottom_factor,
        table_bytes: shared.options.table_bytes,
        segment_bytes: shared.options.segment_bytes,
        compacted: version.compacted,
        segments: &segments,
        references: &references,
    };
    let Some(choice) = pick(&shapes, &pressure) else { return Ok(None) };
    let poor = segments_to_leave(&pressure);
    MergeJob::new(&choice, version, poor, &shared.place, &shared.options).map(Some)
}

/// Segments that nothing refers to after `edit`.
fn unreferenced(version: &Version, edit: &Edit) -> Vec<u64> {
    let mut referred: BTreeMap<u64, bool> =
        version.segments().map(|file| (file.segment.info().id, false)).collect();
    let stays = |record: &&TableRecord| !edit.removed_tables.contains(&record.info.id);
    let kept = version.tables().map(|file| &file.record).filter(stays);
    for record in kept.chain(&edit.added_tables) {
        for (id, _, _) in &record.info.segments {
            referred.entry(*id).and_modify(|is_referred| *is_referred = true);
        }
    }
    referred.into_iter().filter(|(_, is_referred)| !is_referred).map(|(id, _)| id).collect()
}

impl Shared {
    /// Opens files of this directory.
    pub(crate) fn opener(&self) -> FileOpener<'_> {
        FileOpener {
            disk: &self.place.disk,
            dir: &self.place.dir,
            removals: &self.removals,
            cache: &self.cache,
        }
    }
}
