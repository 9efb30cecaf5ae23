//! What a table says about itself as a whole: segment dictionary and properties.
//!
//! One idea: the manifest knows all this already ([`TableInfo`]); the table repeats it so that a
//! table and a manifest that do not belong together are found out, and so that a table can be
//! understood without a manifest. Layout: docs/FORMAT.md section 2.1, "Segment dictionary" and
//! "Properties".

use super::TableInfo;
use super::frame::{Flaw, Parsed, expect_equal};
use super::little_endian::{i64_at, u32_at, u64_at};
use crate::Revision;

const DICTIONARY_PREAMBLE_BYTES: usize = 8;
const DICTIONARY_RECORD_BYTES: usize = 24;
const PROPERTIES_BYTES: usize = 56;

/// The content of the section of segments referred to, in the order of their numbers.
pub(super) fn encode_dictionary(segments: &[(u64, u64, u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&(segments.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for (segment, rows, value_bytes) in segments {
        out.extend_from_slice(&segment.to_le_bytes());
        out.extend_from_slice(&rows.to_le_bytes());
        out.extend_from_slice(&value_bytes.to_le_bytes());
    }
    out
}

/// Err unless the section says what the manifest says.
pub(super) fn check_dictionary(bytes: &[u8], info: &TableInfo) -> Parsed<()> {
    let count = info.segments.len();
    let length = DICTIONARY_PREAMBLE_BYTES + count * DICTIONARY_RECORD_BYTES;
    expect_equal(0, "bytes of segments", length, bytes.len())?;
    expect_equal(0, "number of segments", count as u32, u32_at(bytes, 0))?;
    let records = bytes[DICTIONARY_PREAMBLE_BYTES..].chunks_exact(DICTIONARY_RECORD_BYTES);
    for (number, (record, expected)) in records.zip(&info.segments).enumerate() {
        let found = (u64_at(record, 0), u64_at(record, 8), u64_at(record, 16));
        let at = DICTIONARY_PREAMBLE_BYTES + number * DICTIONARY_RECORD_BYTES;
        expect_equal(at, "segment, rows, value bytes", *expected, found)?;
    }
    Ok(())
}

/// The content of the section of properties.
pub(super) fn encode_properties(info: &TableInfo, keys: u64) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&info.rows.to_le_bytes());
    out.extend_from_slice(&keys.to_le_bytes());
    out.extend_from_slice(&info.revision_min.main.to_le_bytes());
    out.extend_from_slice(&info.revision_max.main.to_le_bytes());
    out.extend_from_slice(&info.revision_min.sub.to_le_bytes());
    out.extend_from_slice(&info.revision_max.sub.to_le_bytes());
    out.extend_from_slice(&info.delta_sum.to_le_bytes());
    out.extend_from_slice(&(info.first_key.len() as u32).to_le_bytes());
    out.extend_from_slice(&(info.last_key.len() as u32).to_le_bytes());
    out.extend_from_slice(&info.first_key);
    out.extend_from_slice(&info.last_key);
    out
}

/// Err unless the section says what the manifest says. Returns the number of distinct keys.
pub(super) fn check_properties(bytes: &[u8], info: &TableInfo) -> Parsed<u64> {
    let length = PROPERTIES_BYTES + info.first_key.len() + info.last_key.len();
    expect_equal(0, "bytes of properties", length, bytes.len())?;
    let revision_min = Revision { main: u64_at(bytes, 16), sub: u32_at(bytes, 32) };
    let revision_max = Revision { main: u64_at(bytes, 24), sub: u32_at(bytes, 36) };
    expect_equal(0, "number of rows", info.rows, u64_at(bytes, 0))?;
    expect_equal(16, "smallest revision", info.revision_min, revision_min)?;
    expect_equal(24, "largest revision", info.revision_max, revision_max)?;
    expect_equal(40, "sum of deltas", info.delta_sum, i64_at(bytes, 40))?;
    expect_equal(48, "length of first key", info.first_key.len() as u32, u32_at(bytes, 48))?;
    expect_equal(52, "length of last key", info.last_key.len() as u32, u32_at(bytes, 52))?;
    let (first, last) = bytes[PROPERTIES_BYTES..].split_at(info.first_key.len());
    expect_equal(PROPERTIES_BYTES, "first key", info.first_key.as_ref(), first)?;
    expect_equal(PROPERTIES_BYTES + first.len(), "last key", info.last_key.as_ref(), last)?;
    let keys = u64_at(bytes, 8);
    if keys == 0 || keys > info.rows {
        return Err(Flaw::new(8, format!("1 to {} distinct keys", info.rows), keys));
    }
    Ok(keys)
}
