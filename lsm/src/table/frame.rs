//! The frame that key tables and value segments share: header, section table, footer.
//!
//! One idea: a complete file says at both ends what it is and how long it is, and its footer lists
//! the sections between, each with its checksum. The digest of the whole file is kept *outside* of
//! it (in the manifest), so that a file in the wrong place is found out too. Layout:
//! docs/FORMAT.md section 2.1, "Frame".
//!
//! What it does not do: it knows nothing of what the sections hold.

use varve_disk::trial;
use xxhash_rust::xxh3::xxh3_64;

use super::little_endian::{u32_at, u64_at};
use crate::{Error, Result};

/// Bytes of the header.
pub(crate) const HEADER_BYTES: usize = 64;
/// Bytes of one record of the section table.
const SECTION_RECORD_BYTES: usize = 32;
/// Bytes of the fixed end of the file.
const TAIL_BYTES: usize = 40;
/// More sections than any version will have; bounds what a damaged count can make us read.
const SECTIONS_MAX: usize = 64;

/// What tells one kind of file from another.
pub(crate) struct Format {
    /// First and last eight bytes of the file.
    pub magic: [u8; 8],
    /// The version that is written and read.
    pub version: u32,
    /// Feature bits that this code can read although they change the meaning of the file.
    pub features_incompatible: u32,
}

/// A place in a file that is not as it must be; becomes [`Error::Corrupt`] once the file is known.
#[derive(Debug)]
pub(crate) struct Flaw {
    /// Bytes from the start of what was parsed.
    pub offset: u64,
    /// What a sound file has there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// A result of parsing; the error is boxed, because it is rare and hot paths return this.
pub(crate) type Parsed<T> = std::result::Result<T, Box<Flaw>>;

impl Flaw {
    /// A flaw at `offset`.
    #[cold]
    pub fn new(offset: usize, expected: impl ToString, found: impl ToString) -> Box<Self> {
        let (expected, found) = (expected.to_string(), found.to_string());
        Box::new(Self { offset: offset as u64, expected, found })
    }

    /// The flaw, for a part that starts at `base` of what is parsed.
    #[cold]
    pub fn moved(mut self: Box<Self>, base: usize) -> Box<Self> {
        self.offset = self.offset.saturating_add(base as u64);
        self
    }

    /// The error, for a part that starts at `base` in `file`.
    #[cold]
    pub fn in_file(self, file: &str, base: usize) -> Error {
        Error::Corrupt {
            file: file.to_string(),
            offset: self.offset.saturating_add(base as u64),
            expected: self.expected,
            found: self.found,
        }
    }
}

/// Err unless `found` is `expected`; `what` names the field.
pub(crate) fn expect_equal<T: PartialEq + std::fmt::Debug>(
    offset: usize,
    what: &str,
    expected: T,
    found: T,
) -> Parsed<()> {
    if expected == found {
        return Ok(());
    }
    Err(Flaw::new(offset, format!("{what} {expected:?}"), format!("{found:?}")))
}

/// One section of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    /// What it holds; numbers are per kind of file.
    pub kind: u32,
    /// Where it starts.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
    /// xxh3-64 of it.
    pub checksum: u64,
}

impl Section {
    /// Where it lies in the file.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset as usize..(self.offset + self.length) as usize
    }
}

/// The header of file `id`, which uses the incompatible `features`.
pub(crate) fn encode_header(format: &Format, features: u32, id: u64) -> [u8; HEADER_BYTES] {
    assert_eq!(features & !format.features_incompatible, 0, "features that are not read");
    let mut header = [0; HEADER_BYTES];
    header[0..8].copy_from_slice(&format.magic);
    header[8..12].copy_from_slice(&format.version.to_le_bytes());
    header[12..16].copy_from_slice(&features.to_le_bytes());
    // 16..20: compatible features, none yet.
    header[24..32].copy_from_slice(&id.to_le_bytes());
    let checksum = crc32fast::hash(&header[..60]);
    header[60..64].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// The section table and tail of file `id`, which begin at `offset`.
pub(crate) fn encode_footer(
    format: &Format,
    id: u64,
    offset: u64,
    sections: &[Section],
) -> Vec<u8> {
    assert!(sections.len() <= SECTIONS_MAX, "{} sections", sections.len());
    let mut footer = Vec::with_capacity(sections.len() * SECTION_RECORD_BYTES + TAIL_BYTES);
    for section in sections {
        footer.extend_from_slice(&section.kind.to_le_bytes());
        footer.extend_from_slice(&[0; 4]);
        footer.extend_from_slice(&section.offset.to_le_bytes());
        footer.extend_from_slice(&section.length.to_le_bytes());
        footer.extend_from_slice(&section.checksum.to_le_bytes());
    }
    let file_bytes = offset + (footer.len() + TAIL_BYTES) as u64;
    footer.extend_from_slice(&(sections.len() as u32).to_le_bytes());
    footer.extend_from_slice(&[0; 4]);
    footer.extend_from_slice(&id.to_le_bytes());
    footer.extend_from_slice(&file_bytes.to_le_bytes());
    footer.extend_from_slice(&[0; 4]);
    let checksum = crc32fast::hash(&footer);
    footer.extend_from_slice(&checksum.to_le_bytes());
    footer.extend_from_slice(&format.magic);
    footer
}

/// Checks the header of file `id` and returns its sections, each inside of the file.
pub(crate) fn parse_frame(format: &Format, id: u64, bytes: &[u8]) -> Parsed<Vec<Section>> {
    let least = HEADER_BYTES + TAIL_BYTES;
    if bytes.len() < least {
        return Err(Flaw::new(0, format!("a file of at least {least} bytes"), bytes.len()));
    }
    check_header(format, id, &bytes[..HEADER_BYTES])?;

    let tail_start = bytes.len() - TAIL_BYTES;
    let tail = &bytes[tail_start..];
    if tail[32..40] != format.magic {
        let expected = format!("magic {:02x?} at the end", format.magic);
        return Err(Flaw::new(tail_start + 32, expected, format!("{:02x?}", &tail[32..40])));
    }
    let count = u32_at(tail, 0) as usize;
    let table_start = (count <= SECTIONS_MAX)
        .then(|| tail_start.checked_sub(count * SECTION_RECORD_BYTES))
        .flatten()
        .filter(|start| *start >= HEADER_BYTES)
        .ok_or_else(|| Flaw::new(tail_start, "a number of sections that fits", count))?;
    let checksum = crc32fast::hash(&bytes[table_start..tail_start + 28]);
    expect_equal(tail_start + 28, "footer checksum", checksum, u32_at(tail, 28))?;
    expect_equal(tail_start + 8, "file id", id, u64_at(tail, 8))?;
    expect_equal(tail_start + 16, "file length", bytes.len() as u64, u64_at(tail, 16))?;

    let records = bytes[table_start..tail_start].chunks_exact(SECTION_RECORD_BYTES);
    let mut sections = Vec::with_capacity(count);
    for (number, record) in records.enumerate() {
        let section = Section {
            kind: u32_at(record, 0),
            offset: u64_at(record, 8),
            length: u64_at(record, 16),
            checksum: u64_at(record, 24),
        };
        let end = section.offset.checked_add(section.length);
        if section.offset < HEADER_BYTES as u64 || end.is_none_or(|end| end > table_start as u64) {
            let expected = format!("a section between {HEADER_BYTES} and {table_start}");
            let at = table_start + number * SECTION_RECORD_BYTES;
            return Err(Flaw::new(at, expected, format!("{section:?}")));
        }
        sections.push(section);
    }
    Ok(sections)
}

fn check_header(format: &Format, id: u64, header: &[u8]) -> Parsed<()> {
    if header[..8] != format.magic {
        let expected = format!("magic {:02x?}", format.magic);
        return Err(Flaw::new(0, expected, format!("{:02x?}", &header[..8])));
    }
    expect_equal(60, "header checksum", crc32fast::hash(&header[..60]), u32_at(header, 60))?;
    expect_equal(8, "version", format.version, u32_at(header, 8))?;
    let unknown = u32_at(header, 12) & !format.features_incompatible;
    if unknown != 0 {
        let expected = format!("only features in {:#x}", format.features_incompatible);
        return Err(Flaw::new(12, expected, format!("unknown features {unknown:#x}")));
    }
    expect_equal(24, "file id", id, u64_at(header, 24))
}

/// The incompatible features of a file that [`parse_frame`] found sound.
pub(crate) fn features(bytes: &[u8]) -> u32 {
    u32_at(bytes, 12)
}

/// The only section of `kind`.
pub(crate) fn section(sections: &[Section], kind: u32, name: &str) -> Parsed<Section> {
    let mut found = sections.iter().filter(|section| section.kind == kind);
    match (found.next(), found.next()) {
        (Some(section), None) => Ok(*section),
        (first, _) => {
            let count = if first.is_none() { "none" } else { "several" };
            Err(Flaw::new(0, format!("one section {kind} ({name}) in the footer"), count))
        }
    }
}

/// For a file whose digest is wrong: the first section whose checksum is wrong as well.
pub(crate) fn first_damaged(bytes: &[u8], sections: &[Section]) -> Option<Section> {
    sections.iter().find(|section| xxh3_64(&bytes[section.range()]) != section.checksum).copied()
}

/// Err unless the digest of `bytes` is `expected`; names the damaged section if there is one.
pub(crate) fn check_digest(
    file: &str,
    bytes: &[u8],
    sections: &[Section],
    expected: u128,
) -> Result<()> {
    let found = xxhash_rust::xxh3::xxh3_128(bytes);
    if found == expected || trial::has_bug("table-unchecked") {
        return Ok(());
    }
    let (offset, place) = match first_damaged(bytes, sections) {
        Some(section) => (section.offset as usize, format!("damage in section {}", section.kind)),
        None => (0, "damage outside of all sections, or another file".to_string()),
    };
    let flaw = Flaw::new(
        offset,
        format!("a file with digest {expected:032x}"),
        format!("{found:032x} ({place})"),
    );
    Err(flaw.in_file(file, 0))
}
