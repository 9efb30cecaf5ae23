//! The files of an engine directory: their names and ids, and when they may be removed.
//!
//! ```text
//! CURRENT             names the manifest
//! MANIFEST-<number>   the log of edits
//! <id>.kt             key table
//! <id>.vs             value segment
//! ```
//!
//! A file is *obsolete* once a durable manifest edit dropped it. It is unlinked when the last
//! reader of a version that has it is gone: its [`FileGuard`] then puts the name on the list of
//! [`Removals`], which background work empties. What a crash leaves behind is removed at the next
//! start, because the manifest does not name it.
//!
//! An id is the directory's origin (high half) and a sequence number, so files of different nodes
//! never share a name and a received file keeps its own.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use varve_disk::Disk;

use crate::manifest::{CURRENT_NEW_NAME, MANIFEST_PREFIX, TableRecord};
use crate::segment::{FrameCache, Segment, SegmentInfo};
use crate::table::Table;
use crate::{Error, Result};

const TABLE_SUFFIX: &str = ".kt";
const SEGMENT_SUFFIX: &str = ".vs";
const ID_DIGITS: usize = 16;

/// Name of a key table.
pub(crate) fn table_name(id: u64) -> String {
    format!("{id:016x}{TABLE_SUFFIX}")
}

/// Name of a value segment.
pub(crate) fn segment_name(id: u64) -> String {
    format!("{id:016x}{SEGMENT_SUFFIX}")
}

/// Whether a file of this name holds data: a table or a segment.
pub(crate) fn is_data_name(name: &str) -> bool {
    let id = name.strip_suffix(TABLE_SUFFIX).or_else(|| name.strip_suffix(SEGMENT_SUFFIX));
    id.is_some_and(|id| id.len() == ID_DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether this crate makes files of this name and removes those that the manifest does not name.
pub(crate) fn is_removable_name(name: &str) -> bool {
    is_data_name(name) || name.starts_with(MANIFEST_PREFIX) || name == CURRENT_NEW_NAME
}

/// Gives out ids for new files. The manifest remembers `next` with each edit, so an id that was
/// ever in a manifest is not given twice.
#[derive(Debug)]
pub(crate) struct FileIds {
    origin: u32,
    next: u32,
}

impl FileIds {
    pub(crate) fn new(origin: u32, next: u32) -> Self {
        Self { origin, next }
    }

    /// A fresh id.
    pub(crate) fn take(&mut self) -> u64 {
        let sequence = self.next;
        self.next = sequence.checked_add(1).expect("a directory makes fewer than 2^32 files");
        u64::from(self.origin) << 32 | u64::from(sequence)
    }

    /// Sequence numbers below this one were given out.
    pub(crate) fn next_sequence(&self) -> u32 {
        self.next
    }

    /// Skips `id` if it is one of this directory's own.
    pub(crate) fn skip(&mut self, id: u64) {
        if (id >> 32) as u32 == self.origin {
            self.next = self.next.max((id as u32).saturating_add(1));
        }
    }
}

/// Names of files that nobody needs any more.
#[derive(Default)]
pub(crate) struct Removals {
    names: Mutex<VecDeque<String>>,
}

impl Removals {
    /// Puts a name on the list.
    pub(crate) fn add(&self, name: String) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).push_back(name);
    }

    /// Takes the oldest names, at most so many.
    pub(crate) fn take(&self, names_max: usize) -> BTreeSet<String> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let count = names.len().min(names_max);
        names.drain(..count).collect()
    }
}

/// Holds a data file in the directory; shared by all versions that have the file.
pub(crate) struct FileGuard {
    name: String,
    digest: u128,
    is_obsolete: AtomicBool,
    removals: Arc<Removals>,
}

impl FileGuard {
    fn new(name: String, digest: u128, removals: &Arc<Removals>) -> Arc<Self> {
        let removals = Arc::clone(removals);
        Arc::new(Self { name, digest, is_obsolete: AtomicBool::new(false), removals })
    }

    /// The file's name in its directory.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// xxh3-128 of its content.
    pub(crate) fn digest(&self) -> u128 {
        self.digest
    }

    /// No durable version has the file any more: remove it after the last reader.
    pub(crate) fn set_obsolete(&self) {
        self.is_obsolete.store(true, Ordering::Release);
    }
}

impl Drop for FileGuard {
    fn drop(&mut self) {
        if self.is_obsolete.load(Ordering::Acquire) {
            self.removals.add(std::mem::take(&mut self.name));
        }
    }
}

/// An open key table and what the manifest knows of it.
pub(crate) struct TableFile {
    pub record: TableRecord,
    pub table: Arc<Table>,
    pub guard: Arc<FileGuard>,
}

/// An open value segment.
pub(crate) struct SegmentFile {
    pub segment: Arc<Segment>,
    pub guard: Arc<FileGuard>,
}

/// Opens the files that a manifest names.
pub(crate) struct FileOpener<'a> {
    pub disk: &'a Arc<dyn Disk>,
    pub dir: &'a Path,
    pub removals: &'a Arc<Removals>,
    /// Of what compressed segments hold.
    pub cache: &'a Arc<FrameCache>,
}

impl FileOpener<'_> {
    /// Opens and verifies a table.
    pub(crate) fn table(&self, record: &TableRecord) -> Result<Arc<TableFile>> {
        let table = Table::open(&**self.disk, self.dir, record.info.clone())?;
        let name = table_name(record.info.id);
        let guard = FileGuard::new(name, record.info.digest, self.removals);
        Ok(Arc::new(TableFile { record: record.clone(), table, guard }))
    }

    /// Opens a segment.
    pub(crate) fn segment(&self, info: &SegmentInfo) -> Result<Arc<SegmentFile>> {
        let segment = Segment::open(self.disk, self.dir, info.clone(), self.cache)?;
        let guard = FileGuard::new(segment_name(info.id), info.digest, self.removals);
        Ok(Arc::new(SegmentFile { segment, guard }))
    }
}

/// Maps a complete file and checks its digest.
pub(crate) fn map_verified(
    disk: &dyn Disk,
    path: &Path,
    bytes: u64,
    digest: u128,
) -> Result<Bytes> {
    let content = disk.map(path)?;
    let found = xxhash_rust::xxh3::xxh3_128(&content);
    if content.len() as u64 != bytes || found != digest {
        let expected = format!("{bytes} bytes with digest {digest:032x}");
        let found = format!("{} bytes with digest {found:032x}", content.len());
        return Err(Error::corrupt(path, 0, expected, found));
    }
    Ok(content)
}
