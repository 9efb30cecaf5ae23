//! Value segments: append-only files of values, each with its checksum. See docs/FORMAT.md.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::Disk;

use crate::Result;
use crate::table::ValueHandle;

/// What is known about a segment without opening it; kept in the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// File id; the name is `<id as 16 hex digits>.vs`.
    pub id: u64,
    /// Length of the file.
    pub bytes: u64,
    /// xxh3-128 of the file.
    pub digest: u128,
    /// Number of values.
    pub values: u64,
    /// Sum of the values' lengths.
    pub value_bytes: u64,
}

/// Writes one value segment.
pub struct SegmentBuilder {
    // owner's choice
}

impl SegmentBuilder {
    /// Starts the segment file `id` in `dir`.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, id: u64) -> Result<Self> {
        let _ = (disk, dir, id);
        todo!()
    }

    /// Appends a value.
    pub fn add(&mut self, value: &[u8]) -> Result<ValueHandle> {
        let _ = value;
        todo!()
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        todo!()
    }

    /// Completes the file; content durable on return, name after the caller's directory sync.
    pub fn finish(self) -> Result<SegmentInfo> {
        todo!()
    }
}

/// An open value segment.
pub struct Segment {
    // owner's choice
}

impl Segment {
    /// Maps a segment and checks its header and length; values are checked when first read.
    pub fn open(disk: &dyn Disk, dir: &Path, info: SegmentInfo) -> Result<Arc<Self>> {
        let _ = (disk, dir, info);
        todo!()
    }

    /// What the manifest says about it.
    pub fn info(&self) -> &SegmentInfo {
        todo!()
    }

    /// The value at `handle`, a slice of the map (small values are copied), verified at first touch.
    pub fn value(&self, handle: ValueHandle) -> Result<Bytes> {
        let _ = handle;
        todo!()
    }
}
