//! What exists at one moment: files ([`Version`]), and files with memtables ([`SuperVersion`]).
//!
//! Both are immutable and shared by `Arc`. A change makes a new one and swaps it in; whoever holds
//! the old one goes on reading it. That is all the synchronisation that readers take part in.
//!
//! Invariants of a version:
//! - Tables above the bottom stand newest first. Every version of a key in a newer source (memtable,
//!   then those in order, then bottom) has a higher revision than all its versions in older sources.
//! - Bottom tables of a keyspace are sorted by key and do not overlap; no key is in two of them.
//! - Every segment that a table refers to is there, and every segment is referred to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::files::{FileOpener, SegmentFile, TableFile};
use crate::manifest::{Edit, Level, State, TableRecord};
use crate::memtable::Memtable;
use crate::segment::{Segment, SegmentInfo};
use crate::table::ValueHandle;
use crate::{Error, Keyspace, Result};

/// A set of files, durable as a whole.
#[derive(Default)]
pub(crate) struct Version {
    /// Mark of the newest commit that the files contain.
    pub mark: Option<Bytes>,
    /// Newest `kv` revision that the files contain.
    pub kv_visible: u64,
    /// Durable compacted revision: only what it permits is dropped from files. (A newer one that
    /// is not durable yet could be lost in a crash, and with it the reason why rows are missing.)
    pub compacted: u64,
    levels: [Levels; 2],
    segments: Segments,
    /// Computed when first asked for, like the next two: a quota asks at each put.
    pub live_bytes: OnceLock<u64>,
    bytes: OnceLock<u64>,
    pub runs: OnceLock<usize>,
}

/// The tables of one keyspace.
#[derive(Clone, Default)]
pub(crate) struct Levels {
    /// Newest first: lower tiers before higher ones, and in a tier those added later first.
    pub upper: Vec<Arc<TableFile>>,
    /// Sorted by key.
    pub bottom: Vec<Arc<TableFile>>,
}

/// Segments sorted by id.
pub(crate) type Segments = Vec<(u64, Arc<SegmentFile>)>;

/// All that a reader needs.
pub(crate) struct SuperVersion {
    /// Takes the writes.
    pub active: Arc<Memtable>,
    /// Full ones that wait to be flushed, newest first; all their records are committed.
    pub frozen: Vec<Arc<Memtable>>,
    /// The files.
    pub version: Arc<Version>,
}

impl Levels {
    /// All tables, newest first.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<TableFile>> {
        self.upper.iter().chain(&self.bottom)
    }

    /// The most tables that may have one and the same key.
    pub(crate) fn runs(&self) -> usize {
        depth(self.tables().map(|file| &file.record))
    }

    /// Takes in a table that is newer than the others of its level.
    fn add(&mut self, file: Arc<TableFile>) {
        match file.record.level {
            Level::Tier(tier) => {
                let is_lower = |other: &Arc<TableFile>| other.record.level < Level::Tier(tier);
                let place = self.upper.partition_point(is_lower);
                self.upper.insert(place, file);
            }
            Level::Bottom => self.bottom.push(file),
        }
    }

    /// The bottom table that may have `key`.
    pub(crate) fn bottom_of(&self, key: &[u8]) -> Option<&Arc<TableFile>> {
        let position = self.bottom.partition_point(|file| file.record.info.last_key.as_ref() < key);
        self.bottom.get(position).filter(|file| file.record.info.first_key.as_ref() <= key)
    }
}

impl Version {
    /// Opens all files of a recovered state.
    pub(crate) fn open(state: &State, opener: &FileOpener<'_>) -> Result<Self> {
        let mut tables = Vec::with_capacity(state.tables.len());
        for record in &state.tables {
            tables.push(opener.table(record)?);
        }
        let mut segments = Vec::with_capacity(state.segments.len());
        for info in state.segments.values() {
            segments.push(opener.segment(info)?);
        }
        Self::default().apply(&state.to_edit(), tables, segments, opener.dir)
    }

    /// The version after `edit`, whose added files were opened as `tables` and `segments`.
    ///
    /// # Errors
    /// If the edit breaks an invariant; `dir` is for the message.
    pub(crate) fn apply(
        &self,
        edit: &Edit,
        tables: Vec<Arc<TableFile>>,
        segments: Vec<Arc<SegmentFile>>,
        dir: &Path,
    ) -> Result<Self> {
        let mut levels = self.levels.clone();
        for of_keyspace in &mut levels {
            let stays = |file: &Arc<TableFile>| !edit.removed_tables.contains(&file.record.info.id);
            of_keyspace.upper.retain(stays);
            of_keyspace.bottom.retain(stays);
        }
        for file in tables {
            levels[file.record.keyspace as usize].add(file);
        }
        for of_keyspace in &mut levels {
            of_keyspace
                .bottom
                .sort_by(|a, b| a.record.info.first_key.cmp(&b.record.info.first_key));
        }
        let mut all: BTreeMap<u64, Arc<SegmentFile>> = self.segments.iter().cloned().collect();
        edit.removed_segments.iter().for_each(|id| drop(all.remove(id)));
        all.extend(segments.into_iter().map(|file| (file.segment.info().id, file)));
        let version = Self {
            mark: edit.mark.clone(),
            kv_visible: edit.kv_visible,
            compacted: edit.compacted,
            levels,
            segments: all.into_iter().collect(),
            live_bytes: OnceLock::new(),
            bytes: OnceLock::new(),
            runs: OnceLock::new(),
        };
        version.validate(dir)?;
        Ok(version)
    }

    fn validate(&self, dir: &Path) -> Result<()> {
        for pair in self.levels.iter().flat_map(|levels| levels.bottom.windows(2)) {
            let (left, right) = (&pair[0].record.info, &pair[1].record.info);
            if left.last_key >= right.first_key {
                let expected = "bottom tables that do not overlap";
                let found = format!("{:016x} overlaps {:016x}", left.id, right.id);
                return Err(Error::corrupt(dir, 0, expected, found));
            }
        }
        for (id, _) in self.references() {
            if self.segment_file(id).is_none() {
                let expected = format!("segment {id:016x}, which a table refers to");
                return Err(Error::corrupt(dir, 0, expected, "no such segment"));
            }
        }
        Ok(())
    }

    /// The tables of a keyspace.
    pub(crate) fn levels(&self, keyspace: Keyspace) -> &Levels {
        &self.levels[keyspace as usize]
    }

    /// Level-0 tables of the keyspace that has more of them.
    pub(crate) fn level0_tables_max(&self) -> usize {
        let is_level0 = |file: &&Arc<TableFile>| file.record.level == Level::ZERO;
        let level0 = |levels: &Levels| levels.upper.iter().take_while(is_level0).count();
        self.levels.iter().map(level0).max().unwrap_or(0)
    }

    /// All tables of both keyspaces.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<TableFile>> {
        self.levels.iter().flat_map(Levels::tables)
    }

    /// All segments.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Arc<SegmentFile>> {
        self.segments.iter().map(|(_, file)| file)
    }

    fn segment_file(&self, id: u64) -> Option<&Arc<SegmentFile>> {
        self.position_of(id).map(|position| &self.segments[position].1)
    }

    fn position_of(&self, id: u64) -> Option<usize> {
        self.segments.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    /// The segment that `handle` leads into.
    pub(crate) fn segment_of(&self, handle: ValueHandle) -> Result<&Segment> {
        self.segment_at(handle).map(|(_, segment)| segment)
    }

    /// That segment, behind its position among all.
    pub(crate) fn segment_at(&self, handle: ValueHandle) -> Result<(usize, &Segment)> {
        let Some(position) = self.position_of(handle.segment) else {
            let expected = format!("segment {:016x}, which a row refers to", handle.segment);
            return Err(Error::corrupt(Path::new("CURRENT"), 0, expected, "no such segment"));
        };
        Ok((position, &self.segments[position].1.segment))
    }

    /// Value bytes that tables refer to, by segment.
    pub(crate) fn references(&self) -> BTreeMap<u64, u64> {
        let mut references = BTreeMap::new();
        for file in self.tables() {
            for (id, _, value_bytes) in &file.record.info.segments {
                *references.entry(*id).or_insert(0) += value_bytes;
            }
        }
        references
    }

    /// Descriptions of all segments.
    pub(crate) fn segment_infos(&self) -> BTreeMap<u64, SegmentInfo> {
        self.segments().map(|file| (file.segment.info().id, file.segment.info().clone())).collect()
    }

    /// This version as the manifest knows it.
    pub(crate) fn state(&self, next_sequence: u32) -> State {
        let mut tables = Vec::new();
        for levels in &self.levels {
            // Tables of a tier oldest first: the order in which edits added them.
            let files = levels.bottom.iter().chain(levels.upper.iter().rev());
            tables.extend(files.map(|file| file.record.clone()));
        }
        State {
            mark: self.mark.clone(),
            kv_visible: self.kv_visible,
            compacted: self.compacted,
            next_sequence,
            tables,
            segments: self.segment_infos(),
        }
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        *self.bytes.get_or_init(|| {
            let tables: u64 = self.tables().map(|file| file.record.info.bytes).sum();
            let segments: u64 = self.segments().map(|file| file.segment.info().bytes).sum();
            tables + segments
        })
    }
}

/// The most of these tables that have one and the same key within their first and last.
pub(crate) fn depth<'a>(tables: impl Iterator<Item = &'a TableRecord>) -> usize {
    let mut tables: Vec<_> = tables.map(|table| &table.info).collect();
    tables.sort_unstable_by(|a, b| a.first_key.cmp(&b.first_key));
    let (mut open, mut depth) = (BinaryHeap::new(), 0);
    for info in tables {
        while open.peek().is_some_and(|Reverse(last_key)| *last_key < &info.first_key) {
            open.pop();
        }
        open.push(Reverse(&info.last_key));
        depth = depth.max(open.len());
    }
    depth
}

impl SuperVersion {
    /// The memtables, newest first, each with the bound on its ordinals for a reader whose bound
    /// in the active one is `ordinal`.
    pub(crate) fn memtables(
        &self,
        ordinal: u64,
    ) -> impl DoubleEndedIterator<Item = (&Arc<Memtable>, u64)> {
        let frozen = self.frozen.iter().map(|memtable| (memtable, crate::memtable::ALL_RECORDS));
        std::iter::once((&self.active, ordinal)).chain(frozen)
    }
}
