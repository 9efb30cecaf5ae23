//! Fixed-width little-endian integers at an offset: the only integers that files hold.
//!
//! One idea: these index plainly, so a caller must have checked the bounds of what it parses; a
//! panic here is a missing check, not a damaged file.

/// The u32 at `offset`.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let slice = &bytes[offset..offset + 4];
    u32::from_le_bytes([slice[0], slice[1], slice[2], slice[3]])
}

/// The u64 at `offset`.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

/// The i64 at `offset`.
#[inline]
pub(crate) fn i64_at(bytes: &[u8], offset: usize) -> i64 {
    u64_at(bytes, offset) as i64
}
