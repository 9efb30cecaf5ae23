//! Unsigned integers of one width between 0 and 8 bytes, at a fixed distance from each other.
//!
//! One idea: an element is read by one 8-byte load and a mask, whatever its width, without a
//! branch. So the last element must be followed by at least 8 more bytes; a block ends in 8 zeros
//! for that. A width of 0 means that all elements are 0 and nothing is stored.
//!
//! The integers that belong to a row stand side by side in a record (a point read then touches one
//! cache line instead of six); the ends of keys stand alone (a search reads sixteen of them).

use super::little_endian::u64_at;

/// Bytes that must follow a column.
pub(super) const SLACK_BYTES: usize = 8;

/// Where the elements of a column lie in a block.
///
/// Invariant (checked where layouts are parsed): `start + elements * stride + SLACK_BYTES` is
/// inside of the block.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Column {
    start: u32,
    stride: u32,
    mask: u64,
}

impl Column {
    /// Elements of `width` bytes, at most 8, the first of which is at `start` and each other one
    /// `stride` bytes behind the one before.
    pub fn new(start: u32, width: u8, stride: u32) -> Self {
        assert!(width <= 8, "a column of {width} bytes");
        let mask = if width == 0 { 0 } else { u64::MAX >> (64 - 8 * u32::from(width)) };
        Self { start, stride, mask }
    }

    /// The element `row` of this column in `block`.
    #[inline]
    pub fn get(&self, block: &[u8], row: u32) -> u64 {
        u64_at(block, self.start as usize + row as usize * self.stride as usize) & self.mask
    }
}

/// The least width in bytes that holds `largest`.
pub(super) fn width_of(largest: u64) -> u8 {
    (64 - largest.leading_zeros()).div_ceil(8) as u8
}

/// Appends one element of `width` bytes.
#[inline]
pub(super) fn append(out: &mut Vec<u8>, width: u8, element: u64) {
    assert!(width_of(element) <= width, "{element} in a column of {width} bytes");
    out.extend_from_slice(&element.to_le_bytes()[..usize::from(width)]);
}
