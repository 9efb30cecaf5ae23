//! Frames of a compressed segment: where they lie, and how they are written and decoded.
//!
//! One idea: offsets of values are those that a plain segment would have, so that nothing outside
//! of a segment knows whether it is compressed. A directory, in memory while the segment is open,
//! leads from such an offset to the frame that it lies in. Format: docs/FORMAT.md section 2.2.
//!
//! A frame holds whole values with their headers, and is compressed by itself or stored as it is;
//! the latter if and only if both lengths are the same.
//!
//! Invariants: starts and stored starts ascend, from the first byte behind the header on and without
//! gaps; a frame is stored in as many bytes as it has or in fewer; one in fewer has at most
//! `FRAME_BYTES_MAX`, so that decoding it takes so much memory and no more, whoever wrote the file.

use std::cell::RefCell;
use std::ops::Range;

use varve_disk::trial;
use zstd_safe::{CCtx, DCtx};

use super::VALUE_ALIGNMENT;
use crate::Result;
use crate::table::frame::{Flaw, HEADER_BYTES, Parsed, expect_equal};
use crate::table::little_endian::{u32_at, u64_at};
use crate::table::output::Output;

/// Longer frames, of one value each, are stored as they are.
pub(crate) const FRAME_BYTES_MAX: usize = 16 << 20;
/// A frame is stored compressed if that saves one in so many of its bytes.
const SAVED_SHARE: usize = 8;
/// Bytes of the directory before its records, and of a record.
const PREAMBLE_BYTES: usize = 16;
const RECORD_BYTES: usize = 12;

/// How values are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// zstd's level: 1 is fast, 3 is its default, 19 is slow. Reading is as fast after any of them.
    pub level: i32,
    /// Values are compressed together in frames of about so many bytes, of which each is read as a
    /// whole; a longer value is alone. At most 16 MiB.
    pub frame_bytes: usize,
}

impl Default for Compression {
    fn default() -> Self {
        Self { level: 1, frame_bytes: 16 << 10 }
    }
}

impl Compression {
    /// # Panics
    /// If a limit is out of its bounds.
    pub(crate) fn check(self) {
        let levels = zstd_safe::min_c_level()..=zstd_safe::max_c_level();
        assert!(levels.contains(&self.level), "level {} is none of {levels:?}", self.level);
        let bytes = 1..=FRAME_BYTES_MAX;
        assert!(bytes.contains(&self.frame_bytes), "frames of {} bytes", self.frame_bytes);
    }
}

/// A frame as the directory has it.
struct Record {
    start: u32,
    stored_start: u32,
    checksum: u32,
}

/// The directory.
pub(super) struct Frames {
    records: Box<[Record]>,
    end: usize,
    stored_end: usize,
}

/// One frame.
pub(super) struct Frame {
    pub number: usize,
    /// What it holds, as offsets of a plain segment.
    pub plain: Range<usize>,
    /// Where it is stored in the file.
    pub stored: Range<usize>,
    checksum: u32,
}

impl Frames {
    /// Takes the directory `bytes` of a file whose frames lie in front of `stored_end`. Offsets of
    /// flaws are into `bytes`.
    pub fn parse(bytes: &[u8], stored_end: usize) -> Parsed<Self> {
        if bytes.len() < PREAMBLE_BYTES {
            return Err(Flaw::new(0, "a directory of frames", format!("{} bytes", bytes.len())));
        }
        let end = u64_at(bytes, 0);
        let count = u32_at(bytes, 8) as usize;
        let length = PREAMBLE_BYTES + count * RECORD_BYTES;
        expect_equal(8, "bytes of the frames' directory", length, bytes.len())?;
        if !end.is_multiple_of(VALUE_ALIGNMENT) || usize::try_from(end).is_err() {
            return Err(Flaw::new(0, "an aligned end of all values", end));
        }
        let records = bytes[PREAMBLE_BYTES..].chunks_exact(RECORD_BYTES).map(|record| Record {
            start: u32_at(record, 0),
            stored_start: u32_at(record, 4),
            checksum: u32_at(record, 8),
        });
        let frames = Self { records: records.collect(), end: end as usize, stored_end };
        frames.check()?;
        Ok(frames)
    }

    /// Checks what the head of this file says of all frames.
    fn check(&self) -> Parsed<()> {
        let (mut next, mut stored_next) = (HEADER_BYTES, HEADER_BYTES);
        for number in 0..self.records.len() {
            let at = PREAMBLE_BYTES + number * RECORD_BYTES;
            let frame = self.frame(number);
            expect_equal(at, "start of a frame", next, frame.plain.start)?;
            expect_equal(at + 4, "place of a frame", stored_next, frame.stored.start)?;
            let bytes = frame.plain.end.saturating_sub(frame.plain.start);
            let stored_bytes = frame.stored.end.saturating_sub(frame.stored.start);
            let is_aligned = (bytes as u64).is_multiple_of(VALUE_ALIGNMENT);
            let is_bounded = stored_bytes == bytes || bytes <= FRAME_BYTES_MAX;
            if bytes == 0 || stored_bytes == 0 || stored_bytes > bytes || !is_aligned || !is_bounded
            {
                let expected = "a frame of a sound length that is stored in no more bytes";
                return Err(Flaw::new(at, expected, format!("{bytes} bytes in {stored_bytes}")));
            }
            (next, stored_next) = (frame.plain.end, frame.stored.end);
        }
        expect_equal(0, "end of all values", next, self.end)?;
        expect_equal(0, "end of all frames", stored_next, self.stored_end)
    }

    /// Where values would end in a plain segment.
    pub fn end(&self) -> usize {
        self.end
    }

    /// The frame that has the byte `offset`, which is behind the header and before the end.
    pub fn at(&self, offset: usize) -> Frame {
        let behind = self.records.partition_point(|record| record.start as usize <= offset);
        self.frame(behind - 1)
    }

    fn frame(&self, number: usize) -> Frame {
        let record = &self.records[number];
        let next = self.records.get(number + 1);
        let end = next.map_or(self.end, |next| next.start as usize);
        let stored_end = next.map_or(self.stored_end, |next| next.stored_start as usize);
        Frame {
            number,
            plain: record.start as usize..end,
            stored: record.stored_start as usize..stored_end,
            checksum: record.checksum,
        }
    }
}

thread_local! {
    /// Some 100 KiB for each thread that reads compressed values.
    static DECODER: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

impl Frame {
    /// Whether it is stored as it is.
    pub fn is_stored_plain(&self) -> bool {
        self.stored.len() == self.plain.len()
    }

    /// The values of a compressed frame that is stored as `stored`, verified.
    pub fn decode(&self, stored: &[u8]) -> Parsed<Vec<u8>> {
        if !trial::has_bug("value-unchecked") {
            expect_equal(0, "checksum of a frame", self.checksum, crc32fast::hash(stored))?;
        }
        let length = self.plain.len();
        let mut plain = Vec::with_capacity(length);
        // Never writes beyond the capacity, whatever the stored bytes say that they hold.
        let found = match DECODER.with_borrow_mut(|decoder| decoder.decompress(&mut plain, stored))
        {
            Ok(count) if count == length => return Ok(plain),
            Ok(count) => format!("{count} bytes"),
            Err(code) => zstd_safe::get_error_name(code).to_owned(),
        };
        Err(Flaw::new(0, format!("{length} bytes, compressed by zstd"), found))
    }
}

/// Writes values as frames.
///
/// Invariant: `start` and the bytes of `values` are where a plain segment would stand.
pub(super) struct FrameWriter {
    compression: Compression,
    context: CCtx<'static>,
    /// The frame under way.
    values: Vec<u8>,
    /// Where it begins.
    start: u64,
    /// Room for what comes out of it.
    stored: Vec<u8>,
    records: Vec<Record>,
}

impl FrameWriter {
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            context: CCtx::create(),
            values: Vec::new(),
            start: HEADER_BYTES as u64,
            stored: Vec::new(),
            records: Vec::new(),
        }
    }

    /// Where the next value begins.
    pub fn position(&self) -> u64 {
        self.start + self.values.len() as u64
    }

    /// Appends a value behind its header.
    pub fn add(&mut self, output: &mut Output, header: [u8; 8], value: &[u8]) -> Result<()> {
        let bytes = header.len() + value.len();
        if self.values.len() + bytes > self.compression.frame_bytes {
            self.end_frame(output)?;
        }
        self.values.extend_from_slice(&header);
        self.values.extend_from_slice(value);
        self.values.resize(self.values.len().next_multiple_of(VALUE_ALIGNMENT as usize), 0);
        Ok(())
    }

    /// Writes the last frame; returns the directory.
    pub fn finish(mut self, output: &mut Output) -> Result<Vec<u8>> {
        self.end_frame(output)?;
        let mut directory = Vec::with_capacity(PREAMBLE_BYTES + self.records.len() * RECORD_BYTES);
        directory.extend_from_slice(&self.start.to_le_bytes());
        directory.extend_from_slice(&(self.records.len() as u32).to_le_bytes());
        directory.extend_from_slice(&[0; 4]);
        for record in &self.records {
            for field in [record.start, record.stored_start, record.checksum] {
                directory.extend_from_slice(&field.to_le_bytes());
            }
        }
        Ok(directory)
    }

    /// Writes the frame under way, if there is one.
    fn end_frame(&mut self, output: &mut Output) -> Result<()> {
        if self.values.is_empty() {
            return Ok(());
        }
        let fits = |position: u64| u32::try_from(position).expect("frames begin below 4 GiB");
        let (start, stored_start) = (fits(self.start), fits(output.position()));
        let stored = compress(&mut self.context, self.compression, &self.values, &mut self.stored);
        let stored = if stored { &self.stored } else { &self.values };
        let checksum = crc32fast::hash(stored);
        output.append(stored)?;
        self.records.push(Record { start, stored_start, checksum });
        self.start += self.values.len() as u64;
        self.values.clear();
        Ok(())
    }
}

/// Fills `stored` with `values`, compressed; false if that is not worth it.
fn compress(
    context: &mut CCtx<'_>,
    compression: Compression,
    values: &[u8],
    stored: &mut Vec<u8>,
) -> bool {
    if values.len() > FRAME_BYTES_MAX {
        return false;
    }
    stored.clear();
    let room = values.len() - values.len().div_ceil(SAVED_SHARE);
    stored.resize(room, 0);
    match context.compress(&mut stored[..], values, compression.level) {
        Ok(count) => {
            stored.truncate(count);
            true
        }
        // It does not fit.
        Err(_) => false,
    }
}
