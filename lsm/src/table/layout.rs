//! Where the parts of a key block lie, and the check that they do.
//!
//! One idea: the header of a block says widths and lengths, and everything else follows by adding
//! up in a fixed order; the sum must be the length of the block. After [`Layout::parse`] every
//! column can be read in place without further checks of bounds.
//! Layout: docs/FORMAT.md section 2.1, "Block".

use super::column::{Column, SLACK_BYTES};
use super::frame::{Flaw, Parsed, expect_equal};
use super::little_endian::{i64_at, u32_at, u64_at};

/// Bytes of the block's header.
pub(super) const HEADER_BYTES: usize = 72;
/// Rows that share a bundle prefix.
pub(super) const BUNDLE_ROWS: u32 = 16;
/// Bytes of a bundle's head.
pub(super) const HEAD_BYTES: usize = 8;
/// Block flag: the first row's key is that of the last row of the block before.
pub(super) const FLAG_CONTINUED: u16 = 1;

/// A part of a block, by position.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Area {
    pub start: u32,
    pub length: u32,
}

impl Area {
    #[inline]
    pub fn of<'a>(&self, block: &'a [u8]) -> &'a [u8] {
        &block[self.start as usize..][..self.length as usize]
    }
}

/// Where the parts of one block lie. Small and without lifetime, so that cursors can keep it.
///
/// Invariants: all columns and areas lie inside of the block that was parsed, each column with
/// `SLACK_BYTES` behind it; `rows >= 1`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Layout {
    /// Number of rows.
    pub rows: u32,
    /// Whether the first key is the last key of the block before.
    pub is_continued: bool,
    /// Smallest `revision.main`.
    pub main_min: u64,
    /// Largest `revision.main`.
    pub main_max: u64,
    /// Sum of the rows' deltas.
    pub delta_sum: i64,
    /// What the offsets of stored values are relative to.
    pub stored_offset_min: u32,
    pub main: Column,
    pub sub: Column,
    pub segment: Column,
    pub value_offset: Column,
    pub value_length: Column,
    pub meta_end: Column,
    pub key_end: Column,
    pub heads: Area,
    pub controls: Area,
    pub prefix: Area,
    pub keys: Area,
    pub metas: Area,
    pub values: Area,
}

/// Adds up positions while a layout is parsed.
struct Position(u64);

impl Position {
    fn area(&mut self, length: u64) -> Area {
        let start = self.0;
        self.0 = self.0.saturating_add(length);
        // Out of range only if the whole is too long, which is refused at the end.
        Area { start: start as u32, length: length as u32 }
    }
}

impl Layout {
    /// Reads the header of a block and places its columns. `bytes` is exactly the block.
    pub fn parse(bytes: &[u8]) -> Parsed<Self> {
        if bytes.len() < HEADER_BYTES + SLACK_BYTES || bytes.len() > u32::MAX as usize {
            return Err(Flaw::new(4, "a block longer than its header", bytes.len()));
        }
        expect_equal(4, "block length", bytes.len() as u64, u64::from(u32_at(bytes, 4)))?;
        let rows = u32_at(bytes, 8);
        if rows == 0 {
            return Err(Flaw::new(8, "at least one row", rows));
        }
        let widths = &bytes[14..21];
        for (number, width) in widths.iter().enumerate() {
            let width_max = if number == 0 { 8 } else { 4 };
            if *width > width_max {
                return Err(Flaw::new(14 + number, format!("a width up to {width_max}"), width));
            }
        }

        let elements = u64::from(rows);
        let bundles = u64::from(rows.div_ceil(BUNDLE_ROWS));
        let mut position = Position(HEADER_BYTES as u64);
        let prefix = position.area(u64::from(u32_at(bytes, 52)));
        let heads = position.area(bundles * HEAD_BYTES as u64);
        let controls = position.area(elements);
        let key_ends = position.area((elements + bundles) * u64::from(widths[6]));
        let stride = widths[..6].iter().map(|width| u32::from(*width)).sum();
        let mut field = position.area(elements * u64::from(stride)).start;
        let mut record = |width: u8| {
            let column = Column::new(field, width, stride);
            field = field.saturating_add(u32::from(width));
            column
        };
        let layout = Self {
            rows,
            is_continued: bytes[12] & FLAG_CONTINUED as u8 != 0,
            main_min: u64_at(bytes, 24),
            main_max: u64_at(bytes, 32),
            delta_sum: i64_at(bytes, 40),
            stored_offset_min: u32_at(bytes, 48),
            prefix,
            heads,
            controls,
            key_end: Column::new(key_ends.start, widths[6], u32::from(widths[6])),
            main: record(widths[0]),
            sub: record(widths[1]),
            segment: record(widths[2]),
            value_offset: record(widths[3]),
            value_length: record(widths[4]),
            meta_end: record(widths[5]),
            keys: position.area(u64::from(u32_at(bytes, 56))),
            metas: position.area(u64::from(u32_at(bytes, 60))),
            values: position.area(u64::from(u32_at(bytes, 64))),
        };
        let end = position.0.saturating_add(SLACK_BYTES as u64);
        if end != bytes.len() as u64 {
            return Err(Flaw::new(8, format!("columns of {} bytes in all", bytes.len()), end));
        }
        Ok(layout)
    }
}
