//! The block index: where each block lies, which keys it holds and what its rows sum up to.
//!
//! One idea: the index is read into memory once, checked, and then answers "which block" with one
//! binary search over *last* rows: the first block whose last row is not before the target holds
//! the target, also where the versions of one key straddle blocks. The first 16 bytes behind what
//! all last keys share are kept side by side, so that the search touches few cache lines.
//! Layout: docs/FORMAT.md section 2.1, "Index".

use std::ops::Range;

use super::block::Version;
use super::block_builder::{Summary, shared_prefix};
use super::frame::{Flaw, Parsed, expect_equal};
use super::little_endian::{i64_at, u32_at, u64_at};
use crate::Revision;

/// Bytes of one record.
const RECORD_BYTES: usize = 88;
/// Bytes in front of the records: their number and the bytes of keys behind them.
const PREAMBLE_BYTES: usize = 16;

/// What the index says about one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockRecord {
    /// Where in the file the block is.
    pub offset: u64,
    /// How long it is, without the zeros behind it.
    pub length: u32,
    /// The checksum in its header.
    pub checksum: u32,
    /// Number of its first row in the table.
    pub first_row: u64,
    /// Number of its rows.
    pub rows: u32,
    /// Revision of its last row.
    pub last_revision: Revision,
    /// Smallest `revision.main` in it.
    pub main_min: u64,
    /// Largest `revision.main` in it.
    pub main_max: u64,
    /// Sum of the deltas of all rows in earlier blocks.
    pub delta_before: i64,
    /// Sum of the deltas of its rows.
    pub delta_sum: i64,
    /// Where in the index's key bytes its first key is.
    first_key: Range<u32>,
    /// Where in the index's key bytes its last key is.
    last_key: Range<u32>,
}

impl BlockRecord {
    /// Where the block lies in the file.
    pub fn range(&self) -> Range<usize> {
        self.offset as usize..self.offset as usize + self.length as usize
    }
}

/// Collects the records while blocks are written.
#[derive(Default)]
pub(super) struct IndexBuilder {
    records: Vec<u8>,
    keys: Vec<u8>,
    blocks: u32,
    rows: u64,
    delta_sum: i64,
}

impl IndexBuilder {
    /// Bytes of the encoded index so far.
    pub fn bytes(&self) -> usize {
        PREAMBLE_BYTES + self.records.len() + self.keys.len()
    }

    /// Adds the block that was written at `offset`.
    pub fn add(
        &mut self,
        offset: u64,
        length: u32,
        keys: (&[u8], &[u8]),
        last_revision: Revision,
        block: &Summary,
    ) {
        let key_start = u32::try_from(self.keys.len()).expect("an index has less than 4 GiB");
        let out = &mut self.records;
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&block.checksum.to_le_bytes());
        out.extend_from_slice(&self.rows.to_le_bytes());
        out.extend_from_slice(&block.rows.to_le_bytes());
        out.extend_from_slice(&last_revision.sub.to_le_bytes());
        out.extend_from_slice(&last_revision.main.to_le_bytes());
        out.extend_from_slice(&block.main_min.to_le_bytes());
        out.extend_from_slice(&block.main_max.to_le_bytes());
        out.extend_from_slice(&self.delta_sum.to_le_bytes());
        out.extend_from_slice(&block.delta_sum.to_le_bytes());
        out.extend_from_slice(&key_start.to_le_bytes());
        out.extend_from_slice(&(keys.0.len() as u32).to_le_bytes());
        out.extend_from_slice(&(keys.1.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        self.keys.extend_from_slice(keys.0);
        self.keys.extend_from_slice(keys.1);
        self.blocks += 1;
        self.rows += u64::from(block.rows);
        self.delta_sum += block.delta_sum;
    }

    /// The section's content.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes());
        out.extend_from_slice(&self.blocks.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(self.keys.len() as u64).to_le_bytes());
        out.extend_from_slice(&self.records);
        out.extend_from_slice(&self.keys);
        out
    }
}

/// The index of an open table.
///
/// Invariants: at least one block; blocks lie one behind the other inside of the block section;
/// `first_row` and `delta_before` are the sums of what is before.
pub(super) struct Index {
    records: Vec<BlockRecord>,
    keys: Vec<u8>,
    /// Length of what all last keys begin with.
    shared: usize,
    /// Per block: head of its last key behind the first `shared` bytes.
    heads: Vec<u128>,
}

impl Index {
    /// Reads the section; `blocks` is where the block section lies.
    pub fn parse(bytes: &[u8], blocks: Range<usize>) -> Parsed<Self> {
        if bytes.len() < PREAMBLE_BYTES {
            return Err(Flaw::new(0, format!("at least {PREAMBLE_BYTES} bytes"), bytes.len()));
        }
        let count = u32_at(bytes, 0) as usize;
        let records_end = PREAMBLE_BYTES + count * RECORD_BYTES;
        let key_bytes = u64_at(bytes, 8);
        if count == 0 || (records_end as u64).checked_add(key_bytes) != Some(bytes.len() as u64) {
            let found = format!("{count} records and {key_bytes} bytes of keys");
            return Err(Flaw::new(0, format!("{} bytes in all", bytes.len()), found));
        }
        let keys = bytes[records_end..].to_vec();
        let mut records: Vec<BlockRecord> = Vec::with_capacity(count);
        for (number, record) in bytes[PREAMBLE_BYTES..records_end].chunks(RECORD_BYTES).enumerate()
        {
            let at = PREAMBLE_BYTES + number * RECORD_BYTES;
            records.push(parse_record(record, at, records.last(), &keys, &blocks)?);
        }

        let last_key = |record: &BlockRecord| slice(&keys, &record.last_key);
        let shared = shared_prefix(last_key(&records[0]), last_key(&records[count - 1]));
        // Of damaged keys some may be shorter; any head does then, as long as nothing panics.
        let heads =
            records.iter().map(|r| head(last_key(r).get(shared..).unwrap_or(&[]))).collect();
        Ok(Self { records, keys, shared, heads })
    }

    /// The records of all blocks, in order.
    pub fn records(&self) -> &[BlockRecord] {
        &self.records
    }

    /// The first key of a block.
    pub fn first_key(&self, block: usize) -> &[u8] {
        slice(&self.keys, &self.records[block].first_key)
    }

    /// The last key of a block.
    pub fn last_key(&self, block: usize) -> &[u8] {
        slice(&self.keys, &self.records[block].last_key)
    }

    /// The block that holds the first row that is not before the target; `None` past the end.
    pub fn find(&self, key: &[u8], version: Version) -> Option<usize> {
        let prefix = &self.last_key(0)[..self.shared];
        let found = match key.strip_prefix(prefix) {
            Some(rest) => {
                let target = head(rest);
                let less = self.heads.partition_point(|head| *head < target);
                let equal = self.heads[less..].partition_point(|head| *head == target);
                less + self.records[less..less + equal].partition_point(|record| {
                    match slice(&self.keys, &record.last_key).cmp(key) {
                        std::cmp::Ordering::Less => true,
                        std::cmp::Ordering::Equal => version.is_after(record.last_revision),
                        std::cmp::Ordering::Greater => false,
                    }
                })
            }
            None if key < prefix => 0,
            None => self.records.len(),
        };
        (found < self.records.len()).then_some(found)
    }

    /// The block and the row in it of the row with this number in the table.
    pub fn locate(&self, row: u64) -> Option<(usize, u32)> {
        let block =
            self.records.partition_point(|record| record.first_row <= row).checked_sub(1)?;
        let record = &self.records[block];
        let row = row - record.first_row;
        (row < u64::from(record.rows)).then_some((block, row as u32))
    }
}

/// The first bytes of a key as a number that orders like the keys do, where it differs.
#[inline]
fn head(key: &[u8]) -> u128 {
    let mut word = [0; 16];
    let length = key.len().min(word.len());
    word[..length].copy_from_slice(&key[..length]);
    u128::from_be_bytes(word)
}

#[inline]
fn slice<'a>(keys: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    &keys[range.start as usize..range.end as usize]
}

fn parse_record(
    record: &[u8],
    at: usize,
    before: Option<&BlockRecord>,
    keys: &[u8],
    blocks: &Range<usize>,
) -> Parsed<BlockRecord> {
    let key_start = u32_at(record, 72);
    let key_middle = u64::from(key_start) + u64::from(u32_at(record, 76));
    let key_end = key_middle + u64::from(u32_at(record, 80));
    if key_end > keys.len().min(u32::MAX as usize) as u64 {
        return Err(Flaw::new(at + 72, format!("keys within {} bytes", keys.len()), key_end));
    }
    let parsed = BlockRecord {
        offset: u64_at(record, 0),
        length: u32_at(record, 8),
        checksum: u32_at(record, 12),
        first_row: u64_at(record, 16),
        rows: u32_at(record, 24),
        last_revision: Revision { sub: u32_at(record, 28), main: u64_at(record, 32) },
        main_min: u64_at(record, 40),
        main_max: u64_at(record, 48),
        delta_before: i64_at(record, 56),
        delta_sum: i64_at(record, 64),
        first_key: key_start..key_middle as u32,
        last_key: key_middle as u32..key_end as u32,
    };
    let (start, first_row, delta_before) = match before {
        None => (blocks.start as u64, 0, 0),
        Some(before) => (
            before.offset + u64::from(before.length),
            before.first_row + u64::from(before.rows),
            before.delta_before.wrapping_add(before.delta_sum),
        ),
    };
    let end = parsed.offset.checked_add(u64::from(parsed.length));
    if parsed.offset < start || end.is_none_or(|end| end > blocks.end as u64) {
        let expected = format!("a block between {start} and {}", blocks.end);
        return Err(Flaw::new(at, expected, format!("{} + {}", parsed.offset, parsed.length)));
    }
    expect_equal(at + 16, "first row", first_row, parsed.first_row)?;
    expect_equal(at + 56, "sum of deltas before", delta_before, parsed.delta_before)?;
    Ok(parsed)
}
