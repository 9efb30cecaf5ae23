//! Collects rows and encodes them as one key block. The layout is explained in `layout.rs` and
//! docs/FORMAT.md section 2.1, "Block".
//!
//! One idea: rows are kept as columns from the start, so that encoding is a copy of each column
//! at the least width that holds its largest element.

use std::ops::Range;

use super::block::head;
use super::column::{SLACK_BYTES, append, width_of};
use super::control::{Control, ValuePlace};
use super::layout::{BUNDLE_ROWS, FLAG_CONTINUED, HEADER_BYTES};
use super::{Row, ValueRef};

/// A block is closed when its key part (all but inline values) reaches this many bytes.
const KEY_BYTES_TARGET: usize = 16 << 10;
/// A block is closed when its inline values reach this many bytes.
const VALUE_BYTES_TARGET: usize = 256 << 10;
/// Typical bytes of a row in all columns without key and meta; only to decide when to close.
const ROW_BYTES_TYPICAL: usize = 14;

/// Rows of one block, as columns.
///
/// Invariants: all columns have one element per row; `key_ranges` lie in
/// `keys`.
#[derive(Default)]
pub(super) struct BlockBuilder {
    is_continued: bool,
    controls: Vec<u8>,
    mains: Vec<u64>,
    subs: Vec<u32>,
    segments: Vec<u32>,
    value_offsets: Vec<u32>,
    value_lengths: Vec<u32>,
    meta_ends: Vec<u32>,
    metas: Vec<u8>,
    /// Full keys, one after the other; a row with the key of the row before it adds nothing.
    keys: Vec<u8>,
    key_ranges: Vec<Range<u32>>,
    values: Vec<u8>,
    delta_sum: i64,
    /// Key bytes that are not shared with the key before: about what the suffixes will take.
    new_key_bytes: usize,
}

/// What the index keeps about an encoded block.
pub(super) struct Summary {
    /// Checksum in the block's header.
    pub checksum: u32,
    /// Number of rows.
    pub rows: u32,
    /// Smallest `revision.main`.
    pub main_min: u64,
    /// Largest `revision.main`.
    pub main_max: u64,
    /// Sum of the deltas.
    pub delta_sum: i64,
}

impl BlockBuilder {
    /// Bytes that the block takes so far, about.
    pub fn bytes(&self) -> usize {
        self.key_part_bytes() + self.values.len()
    }

    /// Whether the block should be encoded before another row is added.
    pub fn is_full(&self) -> bool {
        self.key_part_bytes() >= KEY_BYTES_TARGET || self.values.len() >= VALUE_BYTES_TARGET
    }

    fn key_part_bytes(&self) -> usize {
        self.controls.len() * ROW_BYTES_TYPICAL + self.metas.len() + self.new_key_bytes
    }

    /// The key of the first row.
    pub fn first_key(&self) -> &[u8] {
        self.key(0)
    }

    /// Adds a row. `is_same_key`: it has the key of the row before it (be that in this block or
    /// the one before). `segment`: number in the dictionary, for a stored value.
    pub fn add(&mut self, row: &Row, is_same_key: bool, segment: u32) {
        let is_first = self.controls.is_empty();
        let (place, offset, length) = match &row.value {
            ValueRef::None => (ValuePlace::None, 0, 0),
            ValueRef::Inline(value) => {
                let offset = self.values.len() as u32;
                self.values.extend_from_slice(value);
                (ValuePlace::Inline, offset, value.len() as u32)
            }
            ValueRef::Stored(handle) => (ValuePlace::Stored, handle.offset, handle.length),
        };
        if is_first {
            self.is_continued = is_same_key;
        }
        if is_first || !is_same_key {
            let shared = if is_first { 0 } else { shared_prefix(self.last_key(), &row.key) };
            self.new_key_bytes += row.key.len() - shared;
            let start = self.keys.len() as u32;
            self.keys.extend_from_slice(&row.key);
            self.key_ranges.push(start..self.keys.len() as u32);
        } else {
            self.key_ranges.extend(self.key_ranges.last().cloned());
        }
        let is_same_key = is_same_key && !is_first;
        self.controls.push(Control::new(row.kind, row.delta, place, is_same_key).0);
        self.mains.push(row.revision.main);
        self.subs.push(row.revision.sub);
        self.segments.push(segment);
        self.value_offsets.push(offset);
        self.value_lengths.push(length);
        self.metas.extend_from_slice(row.meta.as_slice());
        self.meta_ends.push(self.metas.len() as u32);
        self.delta_sum += i64::from(row.delta as i8);
    }

    /// The key of the last row.
    pub fn last_key(&self) -> &[u8] {
        self.key(self.key_ranges.len() - 1)
    }

    /// The key of a row.
    fn key(&self, row: usize) -> &[u8] {
        let range = &self.key_ranges[row];
        &self.keys[range.start as usize..range.end as usize]
    }

    /// Appends the block to `out` and empties the builder.
    pub fn encode(&mut self, out: &mut Vec<u8>) -> Summary {
        let rows = self.controls.len();
        assert!(rows > 0, "a block has at least one row");
        let prefix = shared_prefix(self.key(0), self.key(rows - 1));
        let (heads, key_ends, key_bytes) = self.encode_keys(prefix);
        let main_min = self.mains.iter().copied().min().unwrap_or(0);
        let main_max = self.mains.iter().copied().max().unwrap_or(0);
        let offset_min = self.rebase_stored_offsets();
        let widths = [
            width_of(main_max - main_min),
            width_of_all(&self.subs),
            width_of_all(&self.segments),
            width_of_all(&self.value_offsets),
            width_of_all(&self.value_lengths),
            width_of(self.metas.len() as u64),
            width_of(key_bytes.len() as u64),
        ];

        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        out.extend_from_slice(&self.key(0)[..prefix]);
        heads.iter().for_each(|head| out.extend_from_slice(&head.to_be_bytes()));
        out.extend_from_slice(&self.controls);
        key_ends.iter().for_each(|end| append(out, widths[6], u64::from(*end)));
        for row in 0..rows {
            append(out, widths[0], self.mains[row] - main_min);
            append(out, widths[1], u64::from(self.subs[row]));
            append(out, widths[2], u64::from(self.segments[row]));
            append(out, widths[3], u64::from(self.value_offsets[row]));
            append(out, widths[4], u64::from(self.value_lengths[row]));
            append(out, widths[5], u64::from(self.meta_ends[row]));
        }
        out.extend_from_slice(&key_bytes);
        out.extend_from_slice(&self.metas);
        out.extend_from_slice(&self.values);
        out.extend_from_slice(&[0; SLACK_BYTES]);

        let block = &mut out[start..];
        let length = u32::try_from(block.len()).expect("row sizes are limited, so blocks are too");
        block[4..8].copy_from_slice(&length.to_le_bytes());
        block[8..12].copy_from_slice(&(rows as u32).to_le_bytes());
        let flags = if self.is_continued { FLAG_CONTINUED } else { 0 };
        block[12..14].copy_from_slice(&flags.to_le_bytes());
        block[14..21].copy_from_slice(&widths);
        block[24..32].copy_from_slice(&main_min.to_le_bytes());
        block[32..40].copy_from_slice(&main_max.to_le_bytes());
        block[40..48].copy_from_slice(&self.delta_sum.to_le_bytes());
        block[48..52].copy_from_slice(&offset_min.to_le_bytes());
        block[52..56].copy_from_slice(&(prefix as u32).to_le_bytes());
        block[56..60].copy_from_slice(&(key_bytes.len() as u32).to_le_bytes());
        block[60..64].copy_from_slice(&(self.metas.len() as u32).to_le_bytes());
        block[64..68].copy_from_slice(&(self.values.len() as u32).to_le_bytes());
        let checksum = crc32fast::hash(&block[4..]);
        block[0..4].copy_from_slice(&checksum.to_le_bytes());

        let delta_sum = self.delta_sum;
        self.clear();
        Summary { checksum, rows: rows as u32, main_min, main_max, delta_sum }
    }

    /// The bundles' heads, the ends of all key parts, and the key bytes, without `prefix` bytes
    /// in front of each key.
    fn encode_keys(&self, prefix: usize) -> (Vec<u64>, Vec<u32>, Vec<u8>) {
        let rows = self.controls.len();
        let (mut heads, mut ends, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..rows).step_by(BUNDLE_ROWS as usize) {
            let end = rows.min(first + BUNDLE_ROWS as usize);
            let first_key = &self.key(first)[prefix..];
            let shared = shared_prefix(first_key, &self.key(end - 1)[prefix..]);
            heads.push(head(first_key));
            bytes.extend_from_slice(&first_key[..shared]);
            ends.push(bytes.len() as u32);
            for row in first..end {
                if row == first || !Control(self.controls[row]).is_same_key() {
                    bytes.extend_from_slice(&self.key(row)[prefix + shared..]);
                }
                ends.push(bytes.len() as u32);
            }
        }
        (heads, ends, bytes)
    }

    /// Makes the offsets of stored values relative to the smallest one, and returns that.
    fn rebase_stored_offsets(&mut self) -> u32 {
        let rows = self.controls.iter().zip(&mut self.value_offsets);
        let mut stored: Vec<&mut u32> = rows
            .filter(|(control, _)| Control(**control).place() == ValuePlace::Stored)
            .map(|(_, offset)| offset)
            .collect();
        let offset_min = stored.iter().map(|offset| **offset).min().unwrap_or(0);
        stored.iter_mut().for_each(|offset| **offset -= offset_min);
        offset_min
    }

    /// Empties the builder but keeps its memory.
    fn clear(&mut self) {
        self.is_continued = false;
        self.controls.clear();
        self.mains.clear();
        self.subs.clear();
        self.segments.clear();
        self.value_offsets.clear();
        self.value_lengths.clear();
        self.meta_ends.clear();
        self.metas.clear();
        self.keys.clear();
        self.key_ranges.clear();
        self.values.clear();
        self.delta_sum = 0;
        self.new_key_bytes = 0;
    }
}

fn width_of_all(column: &[u32]) -> u8 {
    width_of(u64::from(column.iter().copied().max().unwrap_or(0)))
}

/// Number of bytes that both begin with.
pub(super) fn shared_prefix(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}
