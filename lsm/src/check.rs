//! The verifier: walks everything that the newest version has, and says what is wrong.
//!
//! What `open` checks is not repeated as such; this looks at the rows themselves, reads every
//! value, and holds the tables against one another and against what the manifest says of them.
//! Reads the whole data set: for tests, for the offline tool, and for a slow scrub.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::Disk;

use crate::files::{FileOpener, TableFile, is_data_name};
use crate::manifest::{CURRENT_NAME, Manifest};
use crate::memtable::MemtableWriter;
use crate::segment::{FrameCache, Walk};
use crate::table::ValueRef;
use crate::version::{SuperVersion, Version};
use crate::writer::committed_of;
use crate::{Db, Error, KeyRange, Keyspace, Kind, Result, Revision, Snapshot, Values};

/// What [`Db::check`] saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Key tables.
    pub tables: u64,
    /// Value segments.
    pub segments: u64,
    /// Rows of all tables.
    pub rows: u64,
    /// Bytes of values that rows refer to, inline ones included.
    pub value_bytes: u64,
    /// What is wrong, in words; empty for a sound engine.
    pub violations: Vec<String>,
}

impl Db {
    /// Checks the newest durable version, row by row and value by value.
    ///
    /// # Errors
    /// Only those of the disk; damage is reported as a violation.
    pub fn check(&self) -> Result<Report> {
        check(&self.snapshot())
    }
}

/// Checks the engine in `dir` without opening it: nothing there is changed, but for its lock file.
/// `None`: there is no engine.
///
/// # Errors
/// Damage that keeps the engine from being opened; other damage is in the report. A directory in
/// use is refused by its lock.
pub fn check_directory(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Option<Report>> {
    if !disk.exists(&dir.join(CURRENT_NAME))?
        && !disk.list(dir)?.iter().any(|name| is_data_name(name))
    {
        return Ok(None);
    }
    let _lock = disk.lock(dir)?;
    let Some(state) = Manifest::read(&**disk, dir)? else {
        let path = dir.join(CURRENT_NAME);
        return Err(Error::corrupt(&path, 0, "the name of a manifest", "none, but data files"));
    };
    let removals = Arc::default();
    // What is read once needs no cache.
    let cache = Arc::new(FrameCache::new(0));
    let opener = FileOpener { disk, dir, removals: &removals, cache: &cache };
    let version = Version::open(&state, &opener)?;
    let memtable = MemtableWriter::new(committed_of(&version));
    let active = Arc::clone(memtable.memtable());
    let super_version = SuperVersion { active, frozen: Vec::new(), version: Arc::new(version) };
    check(&Snapshot::of_committed(Arc::new(super_version))).map(Some)
}

fn check(snapshot: &Snapshot) -> Result<Report> {
    let version = Arc::clone(&snapshot.super_version.version);
    let mut check = Check { version, values: Walk::default(), report: Report::default() };
    check.digests();
    for keyspace in [Keyspace::Kv, Keyspace::Sys] {
        check.tables(keyspace)?;
        check.versions_between_tables(keyspace)?;
    }
    check.references();
    for keyspace in [Keyspace::Kv, Keyspace::Sys] {
        check.counts(snapshot, keyspace)?;
    }
    Ok(check.report)
}

struct Check {
    version: Arc<Version>,
    values: Walk,
    report: Report,
}

impl Check {
    fn violation(&mut self, what: String) {
        self.report.violations.push(what);
    }

    /// Damage becomes a violation; errors of the disk stay errors.
    fn note<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error @ Error::Corrupt { .. }) => {
                self.violation(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn digests(&mut self) {
        let version = Arc::clone(&self.version);
        let of_table = |content: Bytes| xxhash_rust::xxh3::xxh3_128(&content);
        let tables = version.tables().map(|file| (&file.guard, of_table(file.table.content())));
        let segments = version.segments().map(|file| (&file.guard, file.segment.digest()));
        for (guard, found) in tables.chain(segments) {
            if found != guard.digest() {
                let (name, digest) = (guard.name(), guard.digest());
                self.violation(format!("{name}: digest {found:032x}, expected {digest:032x}"));
            }
        }
        self.report.tables = version.tables().count() as u64;
        self.report.segments = version.segments().count() as u64;
    }

    /// Each table for itself: what it says of its rows, and the values that they refer to.
    fn tables(&mut self, keyspace: Keyspace) -> Result<()> {
        let version = Arc::clone(&self.version);
        for file in version.levels(keyspace).tables() {
            let verified = file.table.verify();
            self.note(verified)?;
            let read = self.rows(file);
            self.note(read)?;
        }
        Ok(())
    }

    fn rows(&mut self, file: &TableFile) -> Result<()> {
        let mut cursor = file.table.cursor();
        cursor.seek(b"")?;
        while cursor.key().is_some() {
            self.report.rows += 1;
            self.value(&cursor.value_ref()?, cursor.kind(), file)?;
            cursor.advance()?;
        }
        Ok(())
    }

    fn value(&mut self, value: &ValueRef, kind: Kind, file: &TableFile) -> Result<()> {
        if (*value == ValueRef::None) != (kind == Kind::Delete) {
            self.violation(format!("{}: {kind:?} with value {value:?}", file.guard.name()));
        }
        match value {
            ValueRef::None => {}
            ValueRef::Inline(value) => self.report.value_bytes += value.len() as u64,
            ValueRef::Stored(handle) => {
                let version = Arc::clone(&self.version);
                let value = version.segment_of(*handle);
                let value = value.and_then(|segment| self.values.value(segment, *handle));
                if let Some(value) = self.note(value)? {
                    self.report.value_bytes += value.len() as u64;
                }
            }
        }
        Ok(())
    }

    /// Newer tables have newer versions, and the deltas of each key follow its history.
    fn versions_between_tables(&mut self, keyspace: Keyspace) -> Result<()> {
        let version = Arc::clone(&self.version);
        let mut keys = BTreeMap::new();
        let levels = version.levels(keyspace);
        for file in levels.bottom.iter().chain(levels.upper.iter().rev()) {
            let followed = self.versions(file, &mut keys);
            self.note(followed)?;
        }
        Ok(())
    }

    /// Adds the versions of a table to the newest revision so far, and whether that is live, of
    /// each key.
    fn versions(
        &mut self,
        file: &TableFile,
        keys: &mut BTreeMap<Bytes, (Revision, i64)>,
    ) -> Result<()> {
        let mut rows = Vec::new();
        let mut cursor = file.table.cursor();
        cursor.seek(b"")?;
        while cursor.key().is_some() {
            let row = cursor.row()?;
            cursor.advance()?;
            let is_next = cursor.key() == Some(&row.key);
            rows.push((row.revision, row.kind, row.delta));
            if is_next {
                continue;
            }
            let state = keys.entry(row.key.clone()).or_insert((Revision::default(), 0));
            for (revision, kind, delta) in rows.drain(..).rev() {
                let live = i64::from(kind == Kind::Put);
                let is_newer = revision > state.0 || *state == (Revision::default(), 0);
                let fits = state.1 + delta as i64 == live;
                if !is_newer || !fits {
                    let (name, key) = (file.guard.name(), &row.key);
                    let what = format!("{kind:?} {delta:?} after {state:?}");
                    self.violation(format!("{name}: key {key:?} at {revision:?}: {what}"));
                }
                *state = (revision, live);
            }
        }
        Ok(())
    }

    /// The sums of deltas against a walk, at revisions from the compacted one to the newest.
    fn counts(&mut self, snapshot: &Snapshot, keyspace: Keyspace) -> Result<()> {
        let (low, high) = (snapshot.compacted(), snapshot.visible());
        let mut revisions = vec![low, low + (high - low) / 2, high];
        revisions.dedup();
        for at in revisions {
            let mut all = snapshot.range(keyspace, KeyRange::all(), at, Values::Skip);
            let walked = all.try_fold(0, |live, entry| entry.map(|_| live + 1));
            let counted = snapshot.count(keyspace, &KeyRange::all(), at);
            if let (Some(live), Some(counted)) = (self.note(walked)?, self.note(counted)?)
                && counted != live
            {
                let what = format!("{keyspace:?} at {at}: {live} live keys, deltas say {counted}");
                self.violation(what);
            }
        }
        Ok(())
    }

    /// Every segment is referred to, and by no more bytes than it has.
    fn references(&mut self) {
        let references = self.version.references();
        for (id, info) in self.version.segment_infos() {
            let referred = references.get(&id).copied().unwrap_or(0);
            let is_empty = info.value_bytes == 0;
            if (referred == 0 && !is_empty) || referred > info.value_bytes {
                let has = info.value_bytes;
                self.violation(format!("segment {id:016x}: {referred} of {has} bytes referred to"));
            }
        }
    }
}
