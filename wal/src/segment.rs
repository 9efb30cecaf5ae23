//! Segment files: their names, their header, and what a log's directory holds.
//!
//! A segment is one file. Its first block is the header (`docs/FORMAT.md`, section 1.2), written and
//! synced before the file gets its name: so a file named as a segment whose header does not verify is
//! damaged, never half made. Frames follow from the second block on.
//!
//! | name | what it is |
//! | --- | --- |
//! | `<id, 16 hexadecimal digits>.wal` | a segment; ids have no gaps |
//! | `spare-<0 to 7>.wal` | a used segment, waiting to be recycled; its bytes mean nothing |
//! | `fresh.tmp` | a file that is being filled with zeros; means nothing after a restart |
//! | `probe.tmp` | what the probe of backends writes to; means nothing after a restart |
//!
//! Other names are left alone.

use std::fmt;
use std::path::{Path, PathBuf};

use varve_disk::{Disk, File};

use crate::error::{Error, Result};
use crate::record::{u32_at, u64_at};

/// Bytes of the header that mean something: one sector, which a disk writes whole.
pub(crate) const HEADER_BYTES: usize = 512;

/// The version that is written, and the newest that can be read.
pub(crate) const VERSION: u32 = 1;

/// Used segments that are kept to be recycled; more are removed. A log that is cut rarely and far
/// gives many back at once, and needs them all before it is cut again.
pub(crate) const SPARES_MAX: usize = 8;

/// Name of the file that is being filled with zeros.
pub(crate) const FRESH_NAME: &str = "fresh.tmp";

/// Name of the file that backends are tried on.
pub(crate) const PROBE_NAME: &str = "probe.tmp";

/// Bound of every number read from a disk (ids, sequences, indexes), so that adding to one cannot
/// overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

const MAGIC: [u8; 8] = *b"VARVEWAL";
const VERSION_AT: usize = 8;
const BLOCK_BYTES_AT: usize = 12;
const IDENTITY_AT: usize = 16;
const ID_AT: usize = 32;
const GENERATION_AT: usize = 40;
const FIRST_SEQUENCE_AT: usize = 48;
const SEGMENT_BYTES_AT: usize = 56;
const CRC_AT: usize = HEADER_BYTES - 4;

const SUFFIX: &str = ".wal";
const ID_DIGITS: usize = 16;

/// Number of a segment in its log, from 1, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentId(pub u64);

impl SegmentId {
    /// The segment after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The file's name.
    pub fn file_name(self) -> String {
        format!("{:016x}{SUFFIX}", self.0)
    }

    fn from_file_name(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(SUFFIX)?;
        let id = Self(u64::from_str_radix(digits, 16).ok()?);
        // Only the one spelling that we write, so that no two names mean the same segment.
        let is_ours = digits.len() == ID_DIGITS && id.file_name() == name;
        (is_ours && (1..=NUMBER_MAX).contains(&id.0)).then_some(id)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a segment says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The log that it belongs to.
    pub identity: [u8; 16],
    /// Its number in the log.
    pub id: SegmentId,
    /// How often the file was used, from 1; grows with every recycling.
    pub generation: u64,
    /// Sequence of its first frame: all frames before it were durable when it was made.
    pub first_sequence: u64,
    /// Length of the file.
    pub segment_bytes: u64,
    /// Frames begin on multiples of this: 512 or 4096.
    pub block_bytes: u32,
}

impl SegmentHeader {
    /// Offset of the first frame.
    pub fn frames_start(&self) -> u64 {
        u64::from(self.block_bytes)
    }

    /// The header block: a sector of fields, then zeros.
    pub fn encode(&self) -> Vec<u8> {
        assert!(is_block_size(self.block_bytes), "block of {} bytes", self.block_bytes);
        let mut block = vec![0; self.block_bytes as usize];
        block[..VERSION_AT].copy_from_slice(&MAGIC);
        block[VERSION_AT..BLOCK_BYTES_AT].copy_from_slice(&VERSION.to_le_bytes());
        block[BLOCK_BYTES_AT..IDENTITY_AT].copy_from_slice(&self.block_bytes.to_le_bytes());
        block[IDENTITY_AT..ID_AT].copy_from_slice(&self.identity);
        block[ID_AT..GENERATION_AT].copy_from_slice(&self.id.0.to_le_bytes());
        block[GENERATION_AT..FIRST_SEQUENCE_AT].copy_from_slice(&self.generation.to_le_bytes());
        block[FIRST_SEQUENCE_AT..SEGMENT_BYTES_AT]
            .copy_from_slice(&self.first_sequence.to_le_bytes());
        block[SEGMENT_BYTES_AT..SEGMENT_BYTES_AT + 8]
            .copy_from_slice(&self.segment_bytes.to_le_bytes());
        let crc = crc32fast::hash(&block[..CRC_AT]);
        block[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Reads the header of the file `path` from its first sector. The checksum is at the same place
    /// in every version, so that a newer version is told from damage.
    ///
    /// # Errors
    /// [`Error::Damaged`] or [`Error::UnknownVersion`].
    pub fn decode(path: &Path, sector: &[u8]) -> Result<Self> {
        if sector.len() < HEADER_BYTES {
            let expected = format!("a segment header of {HEADER_BYTES} bytes");
            return Err(Error::damaged(path, 0, expected, format!("{} bytes", sector.len())));
        }
        let expected_crc = crc32fast::hash(&sector[..CRC_AT]);
        let found_crc = u32_at(sector, CRC_AT);
        if expected_crc != found_crc || sector[..VERSION_AT] != MAGIC {
            return Err(Error::damaged(
                path,
                0,
                format!("a segment header that verifies (checksum {expected_crc:08x})"),
                format!("checksum {found_crc:08x}, magic {:02x?}", &sector[..VERSION_AT]),
            ));
        }
        let version = u32_at(sector, VERSION_AT);
        if version != VERSION {
            let path = path.to_path_buf();
            return Err(Error::UnknownVersion { path, expected: VERSION, found: version });
        }
        let mut identity = [0; 16];
        identity.copy_from_slice(&sector[IDENTITY_AT..ID_AT]);
        let header = Self {
            identity,
            id: SegmentId(u64_at(sector, ID_AT)),
            generation: u64_at(sector, GENERATION_AT),
            first_sequence: u64_at(sector, FIRST_SEQUENCE_AT),
            segment_bytes: u64_at(sector, SEGMENT_BYTES_AT),
            block_bytes: u32_at(sector, BLOCK_BYTES_AT),
        };
        header.validate(path)?;
        Ok(header)
    }

    /// Reads the header from a file.
    pub fn read(path: &Path, file: &dyn File) -> Result<Self> {
        let mut sector = [0; HEADER_BYTES];
        let read = file.read_at(0, &mut sector)?;
        Self::decode(path, &sector[..read])
    }

    /// A header that verifies was written by a varve; what it says is still bounded here, because
    /// offsets are computed from it.
    fn validate(&self, path: &Path) -> Result<()> {
        if !is_block_size(self.block_bytes) {
            let found = format!("{}", self.block_bytes);
            return Err(Error::damaged(path, 12, "a block of 512 or 4096 bytes", found));
        }
        if !is_segment_size(self.segment_bytes) {
            let found = format!("{}", self.segment_bytes);
            return Err(Error::damaged(path, 56, "a segment of at most 2 GiB", found));
        }
        if !(1..=NUMBER_MAX).contains(&self.first_sequence) || self.generation > NUMBER_MAX {
            let found = format!("{} and {}", self.first_sequence, self.generation);
            return Err(Error::damaged(path, 40, "a generation and a sequence in range", found));
        }
        Ok(())
    }
}

/// Whether frames can be aligned to this.
pub(crate) fn is_block_size(block_bytes: u32) -> bool {
    block_bytes == 512 || block_bytes == 4096
}

/// Whether offsets in a segment of this size fit in 32 bits.
pub(crate) fn is_segment_size(segment_bytes: u64) -> bool {
    segment_bytes <= 2 << 30
}

/// Name of the spare in a slot.
pub(crate) fn spare_name(slot: usize) -> String {
    assert!(slot < SPARES_MAX, "spare slot {slot}");
    format!("spare-{slot}{SUFFIX}")
}

/// What a log's directory holds.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Segments, ascending, without gaps.
    pub segments: Vec<SegmentId>,
    /// Slots of spares.
    pub spares: Vec<usize>,
    /// Whether a half-made file was left behind.
    pub fresh: bool,
    /// Whether a file for trying backends was left behind.
    pub probe: bool,
}

/// Lists a log's directory.
///
/// # Errors
/// [`Error::MissingSegment`] when ids have a gap, or when there are spares but no segment: a spare
/// is made only while a segment exists.
pub(crate) fn list(disk: &dyn Disk, dir: &Path) -> Result<Listing> {
    let mut listing = Listing::default();
    for name in disk.list(dir)? {
        if let Some(id) = SegmentId::from_file_name(&name) {
            listing.segments.push(id);
        } else if let Some(slot) = (0..SPARES_MAX).find(|slot| spare_name(*slot) == name) {
            listing.spares.push(slot);
        } else if name == FRESH_NAME {
            listing.fresh = true;
        } else if name == PROBE_NAME {
            listing.probe = true;
        }
    }
    listing.segments.sort_unstable();
    for pair in listing.segments.windows(2) {
        if pair[0].next() != pair[1] {
            return Err(missing(dir, pair[0].next(), format!("next is segment {}", pair[1])));
        }
    }
    if listing.segments.is_empty() && !listing.spares.is_empty() {
        let found = format!("no segment, but {}", spare_name(listing.spares[0]));
        return Err(missing(dir, SegmentId(1), found));
    }
    Ok(listing)
}

fn missing(dir: &Path, id: SegmentId, found: String) -> Error {
    let path: PathBuf = dir.join(id.file_name());
    Error::MissingSegment { path, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            identity: *b"0123456789abcdef",
            id: SegmentId(0x1f),
            generation: 3,
            first_sequence: 99,
            segment_bytes: 1 << 20,
            block_bytes: 4096,
        }
    }

    #[test]
    fn a_header_reads_back_as_written() {
        let block = header().encode();
        assert_eq!(block.len(), 4096);
        assert_eq!(SegmentHeader::decode(Path::new("x"), &block).unwrap(), header());
    }

    #[test]
    fn every_flipped_bit_of_the_header_is_noticed() {
        let block = header().encode();
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = SegmentHeader::decode(Path::new("x"), &flipped).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "bit {bit}: {error}");
        }
    }

    #[test]
    fn a_newer_version_is_not_taken_for_damage() {
        let mut block = header().encode();
        block[VERSION_AT] = 2;
        let crc = crc32fast::hash(&block[..CRC_AT]);
        block[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        let error = SegmentHeader::decode(Path::new("x"), &block).unwrap_err();
        assert!(matches!(error, Error::UnknownVersion { expected: 1, found: 2, .. }), "{error}");
    }

    #[test]
    fn only_the_spelling_that_we_write_names_a_segment() {
        let name = SegmentId(0xab).file_name();
        assert_eq!(name, "00000000000000ab.wal");
        assert_eq!(SegmentId::from_file_name(&name), Some(SegmentId(0xab)));
        for other in ["00000000000000AB.wal", "ab.wal", "00000000000000ab", "+0000000000000ab.wal"]
        {
            assert_eq!(SegmentId::from_file_name(other), None, "{other}");
        }
    }
}
