//! Value segments: append-only files of values, each with its checksum. Format: docs/FORMAT.md
//! section 2.2.
//!
//! One idea: a value is written once, found by its offset, and handed out as a slice of the mapped
//! file, so that it goes to the socket without a copy. Its checksum is compared the first time it
//! is touched and remembered in a bitmap; small values are compared each time, which is cheaper
//! than remembering.
//!
//! A segment of cold values may be compressed, in frames (`frames.rs`). Offsets are the same as if
//! it were not; a value is then a slice of its decompressed frame, which `cache.rs` keeps.
//!
//! The map is for reads here and there: who walks says so (`ahead.rs`).
//!
//! What it does not do: know keys, know which values are dead, choose what is compressed.

use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use varve_disk::{Access, Disk, trial};
use xxhash_rust::xxh3::Xxh3;

use crate::table::ValueHandle;
use crate::table::frame::{
    self, Flaw, Format, HEADER_BYTES, Parsed, expect_equal, parse_frame, section,
};
use crate::table::little_endian::{u32_at, u64_at};
use crate::{Error, Result};

mod ahead;
mod builder;
mod cache;
mod frames;
mod walk;

#[cfg(test)]
mod tests;

pub(crate) use ahead::Ahead;
pub use builder::SegmentBuilder;
pub(crate) use cache::FrameCache;
pub use frames::Compression;
use frames::{Frame, Frames};
pub use walk::Walk;

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

/// So much of a file is digested while the disk reads as much again.
const DIGESTED_BYTES: usize = 1 << 20;
/// Of a longer value the disk is asked for all pages at once when it is first touched.
const PAGE_BYTES: usize = 4096;
/// Of a value at least this long each time: its pages may have left memory since, and the map would
/// read them one by one. The call costs 0.3 us, about what a copy of so many bytes does.
const ASKED_BYTES_MIN: usize = 16 << 10;

/// Longer frames are not decompressed by who must not wait: so many bytes take 50 us, about.
const QUICK_FRAME_BYTES_MAX: usize = 64 << 10;

static FORMAT: Format =
    Format { magic: *b"varve.vs", version: 1, features_incompatible: FEATURE_FRAMES };

/// The section of values holds them in frames, which the section of frames lists.
const FEATURE_FRAMES: u32 = 1;

/// Numbers of the sections of a segment.
const SECTION_VALUES: u32 = 1;
const SECTION_PROPERTIES: u32 = 2;
const SECTION_FRAMES: u32 = 3;

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
/// Invariants: all values lie between the header and `values_end`, in `map` if it is plain, in its
/// frames otherwise; a bit of `verified` is set only after the checksum of the long value that
/// begins in its granule held.
pub struct Segment {
    info: SegmentInfo,
    file: String,
    map: Bytes,
    values_end: usize,
    /// Of a compressed segment.
    frames: Option<Frames>,
    cache: Arc<FrameCache>,
    verified: Box<[AtomicU64]>,
    disk: Arc<dyn Disk>,
}

impl Segment {
    /// Maps a segment and checks its header, length and frames; values are checked when first read.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if the file is not the one that `info` describes; the disk's.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        info: SegmentInfo,
        cache: &Arc<FrameCache>,
    ) -> Result<Arc<Self>> {
        let path = file_path(dir, info.id);
        let file = path.display().to_string();
        let map = disk.map(&path)?;
        let (values_end, frames) =
            check_structure(&map, &info).map_err(|flaw| flaw.in_file(&file, 0))?;
        let words = values_end.div_ceil(GRANULE_BYTES * 64);
        let verified = (0..words).map(|_| AtomicU64::new(0)).collect();
        disk.advise(&map, Access::Random);
        let (cache, disk) = (Arc::clone(cache), Arc::clone(disk));
        Ok(Arc::new(Self { info, file, map, values_end, frames, cache, verified, disk }))
    }

    /// What the manifest says about it.
    pub fn info(&self) -> &SegmentInfo {
        &self.info
    }

    /// The whole file, mapped; for transfers.
    pub fn content(&self) -> Bytes {
        self.map.clone()
    }

    /// xxh3-128 of the file, read from its beginning to its end.
    pub(crate) fn digest(&self) -> u128 {
        let mut digest = Xxh3::new();
        self.advise_soon(0..DIGESTED_BYTES);
        let mut position = 0;
        for piece in self.map.chunks(DIGESTED_BYTES) {
            position += piece.len();
            self.advise_soon(position..position + DIGESTED_BYTES);
            digest.update(piece);
        }
        digest.digest128()
    }

    /// A walk touches `handle`: lets the disk begin to read what comes next.
    #[inline]
    pub(crate) fn read_ahead(&self, ahead: &mut Ahead, position: usize, handle: ValueHandle) {
        // A frame is read as a whole, and holds what comes next.
        if self.frames.is_none() {
            let start = handle.offset as usize;
            let end = start + VALUE_HEADER_BYTES + handle.length as usize;
            if let Some(next) = ahead.step(position, start..end) {
                self.advise_soon(next);
            }
        }
    }

    fn advise_soon(&self, range: Range<usize>) {
        let end = range.end.min(self.map.len());
        if range.start < end {
            self.disk.advise(&self.map[range.start..end], Access::Soon);
        }
    }

    /// The value at `handle`, verified at first touch; with `residents_of`, only if it can be had
    /// without waiting for that disk.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if there is no such value or its checksum is wrong;
    /// [`crate::Error::NotResident`].
    pub fn value(&self, handle: ValueHandle, residents_of: Option<&dyn Disk>) -> Result<Value<'_>> {
        self.value_by(handle, residents_of, |frame| {
            let key = (self.info.digest, frame.number as u32);
            if let Some(content) = self.cache.get(key) {
                return Ok(content);
            }
            if let Some(disk) = residents_of
                && (frame.plain.len() > QUICK_FRAME_BYTES_MAX
                    || !disk.is_resident(&self.map[frame.stored.clone()]))
            {
                return Err(Error::NotResident);
            }
            if residents_of.is_none() {
                self.advise_soon(frame.stored.clone());
            }
            let content = self.decode(frame)?;
            self.cache.insert(key, &content);
            Ok(content)
        })
    }

    /// As [`Segment::value`], with another way to get what a compressed frame holds.
    fn value_by(
        &self,
        handle: ValueHandle,
        residents_of: Option<&dyn Disk>,
        content_of: impl FnOnce(&Frame) -> Result<Bytes>,
    ) -> Result<Value<'_>> {
        debug_assert_eq!(handle.segment, self.info.id, "a handle into another segment");
        let start = handle.offset as usize;
        let plain = self.place(handle).map_err(|flaw| flaw.in_file(&self.file, start))?;
        let mut stored = plain.clone();
        if let Some(frames) = &self.frames {
            let frame = frames.at(start);
            let at = frame.stored.start;
            let in_frame = start - frame.plain.start..plain.end - frame.plain.start;
            if plain.end > frame.plain.end {
                let expected = format!("a value that ends in its frame, by {}", frame.plain.end);
                return Err(Flaw::new(0, expected, plain.end).in_file(&self.file, at));
            }
            if !frame.is_stored_plain() {
                let content = content_of(&frame)?;
                self.verify(handle, &content[in_frame.clone()], at)?;
                let value = content.slice(in_frame.start + VALUE_HEADER_BYTES..in_frame.end);
                return Ok(Value::OfFrame(value));
            }
            stored = at + in_frame.start..at + in_frame.end;
        }
        let bytes = &self.map[stored.clone()];
        match residents_of {
            Some(disk) if !disk.is_resident(bytes) => return Err(Error::NotResident),
            // Its pages at once, not one after another.
            None if bytes.len() >= ASKED_BYTES_MIN
                || (bytes.len() > PAGE_BYTES && !self.is_verified(handle)) =>
            {
                self.advise_soon(stored.clone());
            }
            _ => {}
        }
        let value = self.verify(handle, bytes, stored.start)?;
        Ok(Value::OfMap { map: &self.map, value })
    }

    /// Decompresses a frame.
    fn decode(&self, frame: &Frame) -> Result<Bytes> {
        let content = frame.decode(&self.map[frame.stored.clone()]);
        Ok(content.map_err(|flaw| flaw.in_file(&self.file, frame.stored.start))?.into())
    }

    /// Where the value of `handle` and its header are, in a plain segment: inside of the values.
    #[inline]
    fn place(&self, handle: ValueHandle) -> Parsed<Range<usize>> {
        let start = handle.offset as usize;
        let end = start + VALUE_HEADER_BYTES + handle.length as usize;
        let is_aligned = u64::from(handle.offset).is_multiple_of(VALUE_ALIGNMENT);
        if start < HEADER_BYTES || !is_aligned || end > self.values_end {
            let (limit, length) = (self.values_end, handle.length);
            let expected = format!("an aligned value between {HEADER_BYTES} and {limit}");
            return Err(Flaw::new(0, expected, format!("one of {length} bytes here")));
        }
        Ok(start..end)
    }

    #[inline]
    fn verified_bit(&self, handle: ValueHandle) -> (&AtomicU64, u64) {
        let granule = handle.offset as usize / GRANULE_BYTES;
        (&self.verified[granule / 64], 1 << (granule % 64))
    }

    fn is_verified(&self, handle: ValueHandle) -> bool {
        let (word, bit) = self.verified_bit(handle);
        word.load(Ordering::Relaxed) & bit != 0
    }

    /// The value behind its header, which together are `bytes`, stored at `at` or in a frame there.
    #[inline]
    fn verify<'a>(&self, handle: ValueHandle, bytes: &'a [u8], at: usize) -> Result<&'a [u8]> {
        let (header, value) = bytes.split_at(VALUE_HEADER_BYTES);
        expect_equal(0, "value length", handle.length, u32_at(header, 0))
            .map_err(|flaw| flaw.in_file(&self.file, at))?;
        let is_long = value.len() >= GRANULE_BYTES;
        let (word, bit) = self.verified_bit(handle);
        // Relaxed: the bit guards no other memory; the mapped bytes never change, and those of a
        // frame are verified when it is decompressed.
        if !is_long || word.load(Ordering::Relaxed) & bit == 0 {
            if trial::has_bug("value-unchecked") {
                return Ok(value);
            }
            let checksum = checksum_of(handle.length, value);
            expect_equal(4, "value checksum", checksum, u32_at(header, 4))
                .map_err(|flaw| flaw.in_file(&self.file, at))?;
            if is_long {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(value)
    }
}

/// A verified value where it lies.
pub enum Value<'a> {
    /// In the mapped file.
    OfMap {
        /// The whole file.
        map: &'a Bytes,
        /// The value, a slice of it.
        value: &'a [u8],
    },
    /// In a decompressed frame.
    OfFrame(Bytes),
}

impl Deref for Value<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Value::OfMap { value, .. } => value,
            Value::OfFrame(value) => value,
        }
    }
}

impl Value<'_> {
    /// The value for whoever keeps it: a copy if it is short, a slice of where it lies otherwise.
    pub fn into_bytes(self) -> Bytes {
        match self {
            _ if self.len() <= COPIED_BYTES_MAX => Bytes::copy_from_slice(&self),
            Value::OfMap { map, value } => map.slice_ref(value),
            Value::OfFrame(value) => value,
        }
    }
}

/// Checks all but the values; returns where those end, as if they were not compressed, and their
/// frames if they are.
fn check_structure(map: &Bytes, info: &SegmentInfo) -> Parsed<(usize, Option<Frames>)> {
    expect_equal(0, "file length", info.bytes, map.len() as u64)?;
    let sections = parse_frame(&FORMAT, info.id, map)?;
    let values = section(&sections, SECTION_VALUES, "values")?;
    let properties = section(&sections, SECTION_PROPERTIES, "properties")?;
    let at = properties.range().start;
    expect_equal(at, "bytes of properties", 16, properties.length)?;
    expect_equal(at, "number of values", info.values, u64_at(map, at))?;
    expect_equal(at + 8, "bytes of values", info.value_bytes, u64_at(map, at + 8))?;
    expect_equal(0, "start of values", HEADER_BYTES as u64, values.offset)?;
    if frame::features(map) & FEATURE_FRAMES != 0 {
        let directory = section(&sections, SECTION_FRAMES, "frames")?;
        let (at, bytes) = (directory.range().start, &map[directory.range()]);
        let found = xxhash_rust::xxh3::xxh3_64(bytes);
        expect_equal(at, "checksum of the frames' directory", directory.checksum, found)?;
        let frames = Frames::parse(bytes, values.range().end).map_err(|flaw| flaw.moved(at))?;
        return Ok((frames.end(), Some(frames)));
    }
    // Each value ends at a multiple of the alignment, so that a value header is never cut.
    expect_equal(0, "rest of values", 0, values.length % VALUE_ALIGNMENT)?;
    Ok((values.range().end, None))
}
