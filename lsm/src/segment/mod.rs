//! Value segments: append-only files of values, each with its checksum. Format: docs/FORMAT.md
//! section 2.2.
//!
//! One idea: a value is written once, found by its offset, and handed out as a slice of the mapped
//! file, so that it goes to the socket without a copy. Its checksum is compared the first time it
//! is touched and remembered in a bitmap; small values are compared each time, which is cheaper
//! than remembering.
//!
//! What it does not do: know keys, know which values are dead, compress.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use varve_disk::Disk;

use crate::Result;
use crate::table::ValueHandle;
use crate::table::frame::{Flaw, Format, HEADER_BYTES, Parsed, expect_equal, parse_frame, section};
use crate::table::little_endian::{u32_at, u64_at};

mod builder;

#[cfg(test)]
mod tests;

pub use builder::SegmentBuilder;

/// Bytes in front of each value: length and checksum.
const VALUE_HEADER_BYTES: usize = 8;
/// Values begin at multiples of this.
const VALUE_ALIGNMENT: u64 = 8;
/// Values up to this length are copied out of the map: a copy costs less than what a slice of the
/// map keeps alive, and is in memory for sure when it is sent.
const COPIED_BYTES_MAX: usize = 4096;
/// The bitmap has one bit for each so many bytes of file. Values at least this long share no bit,
/// because no two of them can begin within so many bytes.
const GRANULE_BYTES: usize = 256;

static FORMAT: Format = Format { magic: *b"varve.vs", version: 1, features_incompatible: 0 };

/// Numbers of the sections of a segment.
const SECTION_VALUES: u32 = 1;
const SECTION_PROPERTIES: u32 = 2;

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

/// The name of the segment file `id`.
pub fn file_name(id: u64) -> String {
    format!("{id:016x}.vs")
}

fn file_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(file_name(id))
}

/// The checksum of a value: over its length, then its bytes.
fn checksum_of(length: u32, value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(value);
    hasher.finalize()
}

/// An open value segment. Shared by all threads.
///
/// Invariants: all values lie in `values_end` bytes of `map`, behind the header; a bit of
/// `verified` is set only after the checksum of the long value that begins in its granule held.
pub struct Segment {
    info: SegmentInfo,
    file: String,
    map: Bytes,
    values_end: usize,
    verified: Box<[AtomicU64]>,
}

impl Segment {
    /// Maps a segment and checks its header and length; values are checked when first read.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if the file is not the one that `info` describes; the disk's.
    pub fn open(disk: &dyn Disk, dir: &Path, info: SegmentInfo) -> Result<Arc<Self>> {
        let path = file_path(dir, info.id);
        let file = path.display().to_string();
        let map = disk.map(&path)?;
        let values_end = check_structure(&map, &info).map_err(|flaw| flaw.in_file(&file, 0))?;
        let words = map.len().div_ceil(GRANULE_BYTES * 64);
        let verified = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok(Arc::new(Self { info, file, map, values_end, verified }))
    }

    /// What the manifest says about it.
    pub fn info(&self) -> &SegmentInfo {
        &self.info
    }

    /// The whole file, mapped; for transfers.
    pub fn content(&self) -> Bytes {
        self.map.clone()
    }

    /// The value at `handle`, a slice of the map (small values are copied), verified at first touch.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if there is no such value or its checksum is wrong.
    pub fn value(&self, handle: ValueHandle) -> Result<Bytes> {
        let value = self.value_in_place(handle)?;
        if value.len() <= COPIED_BYTES_MAX {
            return Ok(Bytes::copy_from_slice(value));
        }
        Ok(self.map.slice_ref(value))
    }

    /// As [`Segment::value`], where it lies.
    ///
    /// # Errors
    /// As [`Segment::value`].
    pub fn value_in_place(&self, handle: ValueHandle) -> Result<&[u8]> {
        debug_assert_eq!(handle.segment, self.info.id, "a handle into another segment");
        let start = handle.offset as usize;
        let end = self.check_bounds(handle).map_err(|flaw| flaw.in_file(&self.file, start))?;
        let value = &self.map[start + VALUE_HEADER_BYTES..end];
        let is_long = value.len() >= GRANULE_BYTES;
        let bit = 1u64 << (start / GRANULE_BYTES % 64);
        let word = &self.verified[start / GRANULE_BYTES / 64];
        // Relaxed: the bit guards no other memory; the mapped bytes never change.
        if !is_long || word.load(Ordering::Relaxed) & bit == 0 {
            let checksum = checksum_of(handle.length, value);
            expect_equal(4, "value checksum", checksum, u32_at(&self.map[start..], 4))
                .map_err(|flaw| flaw.in_file(&self.file, start))?;
            if is_long {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(value)
    }

    /// The bytes that [`Segment::value`] will touch, untouched; empty for a handle that is wrong.
    pub fn untouched(&self, handle: ValueHandle) -> &[u8] {
        let start = handle.offset as usize;
        let end = start.saturating_add(VALUE_HEADER_BYTES).saturating_add(handle.length as usize);
        self.map.get(start..end).unwrap_or_default()
    }

    /// Where the value of `handle` ends; its header, length and end are inside of the values.
    #[inline]
    fn check_bounds(&self, handle: ValueHandle) -> Parsed<usize> {
        let start = handle.offset as usize;
        let end = start + VALUE_HEADER_BYTES + handle.length as usize;
        let is_aligned = u64::from(handle.offset).is_multiple_of(VALUE_ALIGNMENT);
        if start < HEADER_BYTES || !is_aligned || end > self.values_end {
            let (limit, length) = (self.values_end, handle.length);
            let expected = format!("an aligned value between {HEADER_BYTES} and {limit}");
            return Err(Flaw::new(0, expected, format!("one of {length} bytes here")));
        }
        expect_equal(0, "value length", handle.length, u32_at(&self.map, start))?;
        Ok(end)
    }
}

/// Checks all but the values; returns where those end.
fn check_structure(map: &Bytes, info: &SegmentInfo) -> Parsed<usize> {
    expect_equal(0, "file length", info.bytes, map.len() as u64)?;
    let sections = parse_frame(&FORMAT, info.id, map)?;
    let values = section(&sections, SECTION_VALUES, "values")?;
    let properties = section(&sections, SECTION_PROPERTIES, "properties")?;
    let at = properties.range().start;
    expect_equal(at, "bytes of properties", 16, properties.length)?;
    expect_equal(at, "number of values", info.values, u64_at(map, at))?;
    expect_equal(at + 8, "bytes of values", info.value_bytes, u64_at(map, at + 8))?;
    expect_equal(0, "start of values", HEADER_BYTES as u64, values.offset)?;
    // Each value ends at a multiple of the alignment, so that a value header is never cut.
    expect_equal(0, "rest of values", 0, values.length % VALUE_ALIGNMENT)?;
    Ok(values.range().end)
}
