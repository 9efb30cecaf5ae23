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
    let mut report = check.report;
    for keyspace in [Keyspace::Kv, Keyspace::Sys] {
        check_counts(snapshot, keyspace, &mut report)?;
    }
    Ok(report)
}

/// The sums of deltas against a walk, at revisions from the compacted one to the newest.
fn check_counts(snapshot: &Snapshot, keyspace: Keyspace, report: &mut Report) -> Result<()> {
    let (low, high) = (snapshot.compacted(), snapshot.visible());
    let mut revisions = vec![low, low + (high - low) / 2, high];
    revisions.dedup();
    for at in revisions {
        let mut live = 0;
        for entry in snapshot.range(keyspace, KeyRange::all(), at, Values::Skip) {
            entry?;
            live += 1;
        }
        let counted = snapshot.count(keyspace, &KeyRange::all(), at)?;
        if counted != live {
            let what = format!("{keyspace:?} at {at}: {live} live keys, deltas say {counted}");
            report.violations.push(what);
        }
    }
    Ok(())
}

struct Check {
    version: Arc<Version>,
    values: Walk,
    report: Report,
}

/// What a table's rows add up to.
struct Totals {
    rows: u64,
    delta_sum: i64,
    revisions: Option<(Revision, Revision)>,
    keys: Option<(Bytes, Bytes)>,
    segments: BTreeMap<u64, (u64, u64)>,
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

    fn tables(&mut self, keyspace: Keyspace) -> Result<()> {
        let version = Arc::clone(&self.version);
        for file in version.levels(keyspace).tables() {
            let checked = self.table(file);
            let Some(totals) = self.note(checked)? else { continue };
            let info = &file.record.info;
            let segments: BTreeMap<u64, (u64, u64)> =
                info.segments.iter().map(|(id, rows, bytes)| (*id, (*rows, *bytes))).collect();
            let is_same = totals.rows == info.rows
                && totals.delta_sum == info.delta_sum
                && totals.revisions == Some((info.revision_min, info.revision_max))
                && totals.keys == Some((info.first_key.clone(), info.last_key.clone()))
                && totals.segments == segments;
            if !is_same {
                self.violation(format!("{}: the rows are not as {info:?}", file.guard.name()));
            }
        }
        Ok(())
    }

    fn table(&mut self, file: &TableFile) -> Result<Totals> {
        let mut totals = Totals {
            rows: 0,
            delta_sum: 0,
            revisions: None,
            keys: None,
            segments: BTreeMap::new(),
        };
        let mut previous: Option<(Bytes, Revision)> = None;
        let mut cursor = file.table.cursor();
        cursor.seek(b"")?;
        while cursor.key().is_some() {
            let row = cursor.row()?;
            cursor.advance()?;
            if let Some((key, revision)) = &previous {
                let is_ordered = *key < row.key || (*key == row.key && *revision > row.revision);
                if !is_ordered {
                    let name = file.guard.name();
                    self.violation(format!("{name}: {:?} is out of order", row.key));
                }
            }
            totals.rows += 1;
            totals.delta_sum += row.delta as i64;
            let (low, high) = totals.revisions.unwrap_or((row.revision, row.revision));
            totals.revisions = Some((low.min(row.revision), high.max(row.revision)));
            let first = totals.keys.take().map_or(row.key.clone(), |(first, _)| first);
            totals.keys = Some((first, row.key.clone()));
            if let ValueRef::Stored(handle) = &row.value {
                let of_segment = totals.segments.entry(handle.segment).or_default();
                *of_segment = (of_segment.0 + 1, of_segment.1 + u64::from(handle.length));
            }
            self.value(&row.value, row.kind, file)?;
            previous = Some((row.key, row.revision));
        }
        self.report.rows += totals.rows;
        Ok(totals)
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
        // Of each key, oldest table first: newest revision so far, live or not.
        let mut keys: BTreeMap<Bytes, (Revision, i64)> = BTreeMap::new();
        let levels = version.levels(keyspace);
        for file in levels.bottom.iter().chain(levels.upper.iter().rev()) {
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
                let name = file.guard.name();
                let state = keys.entry(row.key.clone()).or_insert((Revision::default(), 0));
                for (revision, kind, delta) in rows.drain(..).rev() {
                    let live = i64::from(kind == Kind::Put);
                    let is_newer = revision > state.0 || *state == (Revision::default(), 0);
                    let fits = state.1 + delta as i64 == live;
                    if !is_newer || !fits {
                        let what = format!("{kind:?} {delta:?} after {state:?}");
                        self.report
                            .violations
                            .push(format!("{name}: key {:?} at {revision:?}: {what}", row.key));
                    }
                    *state = (revision, live);
                }
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
