//! The filter over a table's distinct keys: says "surely not here" for most absent keys.
//!
//! One idea: a Bloom filter whose probes for one key all fall in one 64-byte line (Putze, Sanders,
//! Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", 2007, "blocked"), so that a question
//! costs one cache miss. 10 bits a key and 6 probes: about 1 % false positives.
//! Layout: docs/FORMAT.md section 2.1, "Filter".

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64;

use super::frame::{Flaw, Parsed, expect_equal};
use super::little_endian::{u32_at, u64_at};

/// Number of the only kind of filter.
const KIND_BLOCKED_BLOOM: u32 = 1;
const BITS_PER_KEY: u64 = 10;
const PROBES: u32 = 6;
const LINE_BYTES: usize = 64;
/// Bits of a probe: a position in a line of 512 bits.
const PROBE_BITS: u32 = 9;
/// One line, so that lines stay aligned.
const PREAMBLE_BYTES: usize = LINE_BYTES;
/// Spreads the hash before bits are cut off it: 2^64 divided by the golden ratio, made odd.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of a key that the filter is made of, and so part of the format. Memtables use it, too: a read
/// computes it once for all that it looks into.
#[inline]
pub(crate) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Bytes of a filter over this many keys.
pub(super) fn encoded_bytes(keys: u64) -> u64 {
    PREAMBLE_BYTES as u64 + lines_for(keys) * LINE_BYTES as u64
}

fn lines_for(keys: u64) -> u64 {
    (keys * BITS_PER_KEY).div_ceil(8 * LINE_BYTES as u64).max(1)
}

/// The line of a hash, and the bits of its probes from the lowest on.
#[inline]
fn place(hash: u64, lines: u64) -> (usize, u64) {
    let line = ((hash >> 32) * lines) >> 32;
    (line as usize, (hash ^ hash >> 32).wrapping_mul(SPREAD) >> (64 - PROBES * PROBE_BITS))
}

/// The section's content for keys with these hashes.
pub(super) fn encode(hashes: &[u64]) -> Vec<u8> {
    let lines = lines_for(hashes.len() as u64);
    let mut out = vec![0; PREAMBLE_BYTES + lines as usize * LINE_BYTES];
    out[0..4].copy_from_slice(&KIND_BLOCKED_BLOOM.to_le_bytes());
    out[4..8].copy_from_slice(&PROBES.to_le_bytes());
    out[8..16].copy_from_slice(&(hashes.len() as u64).to_le_bytes());
    for hash in hashes {
        let (line, mut bits) = place(*hash, lines);
        let line = &mut out[PREAMBLE_BYTES + line * LINE_BYTES..][..LINE_BYTES];
        for _ in 0..PROBES {
            line[(bits >> 3 & 63) as usize] |= 1 << (bits & 7);
            bits >>= PROBE_BITS;
        }
    }
    out
}

/// Where the lines of an open table's filter are.
///
/// Invariants: `lines` is between 1 and 2^32; the section holds exactly that many.
pub(super) struct Filter {
    start: usize,
    lines: u64,
}

impl Filter {
    /// Reads the section that lies at `range` of the file.
    pub fn parse(file: &[u8], range: Range<usize>) -> Parsed<Self> {
        let bytes = &file[range.clone()];
        if bytes.len() < PREAMBLE_BYTES + LINE_BYTES {
            let expected = format!("at least {} bytes", PREAMBLE_BYTES + LINE_BYTES);
            return Err(Flaw::new(0, expected, bytes.len()));
        }
        expect_equal(0, "filter kind", KIND_BLOCKED_BLOOM, u32_at(bytes, 0))?;
        expect_equal(4, "probes", PROBES, u32_at(bytes, 4))?;
        let keys = u64_at(bytes, 8);
        if keys > u64::from(u32::MAX) || encoded_bytes(keys) != bytes.len() as u64 {
            return Err(Flaw::new(8, format!("keys for {} bytes of filter", bytes.len()), keys));
        }
        Ok(Self { start: range.start + PREAMBLE_BYTES, lines: lines_for(keys) })
    }

    /// Whether a key with this hash may be in the table; never false for one that is.
    #[inline]
    pub fn may_contain(&self, file: &[u8], hash: u64) -> bool {
        let (line, mut bits) = place(hash, self.lines);
        let line = &file[self.start + line * LINE_BYTES..][..LINE_BYTES];
        let mut all = 1;
        for _ in 0..PROBES {
            all &= line[(bits >> 3 & 63) as usize] >> (bits & 7);
            bits >>= PROBE_BITS;
        }
        all != 0
    }
}
