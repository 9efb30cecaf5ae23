//! Columns of unsigned integers, all of one width between 0 and 8 bytes.
//!
//! One idea: an element is read by one 8-byte load and a mask, whatever its width, without a
//! branch. So a column must be followed by at least 8 more bytes; a block ends in 8 zeros for that.
//! A width of 0 means that all elements are 0 and nothing is stored.

use super::little_endian::u64_at;

/// Bytes that must follow a column.
pub(super) const SLACK_BYTES: usize = 8;

/// Where a column lies in a block.
///
/// Invariant (checked where layouts are parsed): `start + elements * width + SLACK_BYTES` is
/// inside of the block.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Column {
    start: u32,
    width: u32,
    mask: u64,
}

impl Column {
    /// A column of elements of `width` bytes, at most 8, that begins at `start`.
    pub fn new(start: u32, width: u8) -> Self {
        assert!(width <= 8, "a column of {width} bytes");
        let mask = if width == 0 { 0 } else { u64::MAX >> (64 - 8 * u32::from(width)) };
        Self { start, width: u32::from(width), mask }
    }

    /// The element `row` of this column in `block`.
    #[inline]
    pub fn get(&self, block: &[u8], row: u32) -> u64 {
        u64_at(block, self.start as usize + row as usize * self.width as usize) & self.mask
    }
}

/// The least width in bytes that holds `largest`.
pub(super) fn width_of(largest: u64) -> u8 {
    (64 - largest.leading_zeros()).div_ceil(8) as u8
}

/// Appends a column of `width`.
pub(super) fn append(out: &mut Vec<u8>, width: u8, elements: impl Iterator<Item = u64>) {
    for element in elements {
        assert!(width_of(element) <= width, "{element} in a column of {width} bytes");
        out.extend_from_slice(&element.to_le_bytes()[..usize::from(width)]);
    }
}
