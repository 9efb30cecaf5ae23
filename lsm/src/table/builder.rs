//! Writes one key table, rows in order.
//!
//! One idea: blocks stream to the disk as they fill; what must be known about all rows (hashes of
//! keys, revisions, sums) is collected in some 25 bytes a row and written behind the blocks.
//!
//! What it does not do: sync the directory, remove the file of a builder that was given up.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::Disk;

use super::block_builder::BlockBuilder;
use super::index::IndexBuilder;
use super::output::Output;
use super::properties::{encode_dictionary, encode_properties};
use super::{FORMAT, ROW_PART_BYTES_MAX, Row, TableInfo, ValueRef, file_path, filter, section};
use crate::{Result, Revision};

/// Blocks begin at multiples of this, so that their columns fall into as few cache lines as can be.
const BLOCK_ALIGNMENT: u64 = 64;

/// Writes one key table, rows in order.
///
/// Invariants: rows in `block` come behind all rows in the file; `last_key` and `last_revision`
/// are those of the row added last; `revisions` has one element per row.
pub struct TableBuilder {
    output: Output,
    block: BlockBuilder,
    index: IndexBuilder,
    /// Memory for encoded blocks, used again and again.
    encoded: Vec<u8>,
    /// Hashes of distinct keys, for the filter.
    hashes: Vec<u64>,
    /// All revisions, for the permutation.
    revisions: Vec<(Revision, u32)>,
    /// Number of each segment in `info.segments`.
    segment_numbers: HashMap<u64, u32>,
    last_key: Vec<u8>,
    last_revision: Revision,
    info: TableInfo,
}

impl TableBuilder {
    /// Starts the table file `id` in `dir`.
    ///
    /// # Errors
    /// The disk's, among others when the file exists.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, id: u64) -> Result<Self> {
        Ok(Self {
            output: Output::create(disk.as_ref(), &file_path(dir, id), &FORMAT, 0, id)?,
            block: BlockBuilder::default(),
            index: IndexBuilder::default(),
            encoded: Vec::new(),
            hashes: Vec::new(),
            revisions: Vec::new(),
            segment_numbers: HashMap::new(),
            last_key: Vec::new(),
            last_revision: Revision::MAX,
            info: TableInfo {
                id,
                bytes: 0,
                digest: 0,
                first_key: Bytes::new(),
                last_key: Bytes::new(),
                rows: 0,
                revision_min: Revision::MAX,
                revision_max: Revision::default(),
                delta_sum: 0,
                segments: Vec::new(),
            },
        })
    }

    /// Adds the next row.
    ///
    /// # Panics
    /// If the row does not come behind the one before (key ascending, then revision descending),
    /// or its key or inline value is longer than [`ROW_PART_BYTES_MAX`].
    pub fn add(&mut self, row: &Row) -> Result<()> {
        let is_first = self.info.rows == 0;
        let is_same_key = !is_first && row.key == self.last_key;
        self.assert_order(row, is_first, is_same_key);
        if self.block.is_full() {
            self.write_block()?;
        }
        if !is_same_key {
            self.hashes.push(filter::hash(&row.key));
            self.last_key.clear();
            self.last_key.extend_from_slice(&row.key);
        }
        if is_first {
            self.info.first_key = Bytes::copy_from_slice(&row.key);
        }
        let segment = self.count_value(row);
        self.block.add(row, is_same_key, segment);
        let number = u32::try_from(self.info.rows).expect("a table has less than 2^32 rows");
        self.revisions.push((row.revision, number));
        self.last_revision = row.revision;
        self.info.rows += 1;
        self.info.revision_min = self.info.revision_min.min(row.revision);
        self.info.revision_max = self.info.revision_max.max(row.revision);
        self.info.delta_sum += i64::from(row.delta as i8);
        Ok(())
    }

    /// Bytes so far (estimate), to decide when to begin the next table.
    pub fn bytes(&self) -> u64 {
        let sections = self.index.bytes() + 4 * self.revisions.len();
        self.output.position()
            + (self.block.bytes() + sections) as u64
            + filter::encoded_bytes(self.hashes.len() as u64)
    }

    /// Completes the file. Its content is durable on return; its name is not until the caller
    /// syncs the directory.
    ///
    /// # Panics
    /// If no row was added: a table has at least one.
    pub fn finish(mut self) -> Result<TableInfo> {
        assert!(self.info.rows > 0, "table {:016x} is finished without a row", self.info.id);
        self.write_block()?;
        self.info.last_key = Bytes::from(std::mem::take(&mut self.last_key));
        self.output.end_section(section::BLOCKS);
        self.write_section(section::INDEX, &self.index.encode())?;
        self.revisions.sort_unstable();
        let rows = self.revisions.iter().flat_map(|(_, row)| row.to_le_bytes()).collect::<Vec<_>>();
        self.write_section(section::REVISIONS, &rows)?;
        self.write_section(section::FILTER, &filter::encode(&self.hashes))?;
        self.write_section(section::SEGMENTS, &encode_dictionary(&self.info.segments))?;
        let properties = encode_properties(&self.info, self.hashes.len() as u64);
        self.write_section(section::PROPERTIES, &properties)?;
        let (bytes, digest) = self.output.finish()?;
        Ok(TableInfo { bytes, digest, ..self.info })
    }

    fn assert_order(&self, row: &Row, is_first: bool, is_same_key: bool) {
        let is_behind = is_first
            || if is_same_key {
                row.revision < self.last_revision
            } else {
                row.key.as_ref() > self.last_key.as_slice()
            };
        assert!(
            is_behind,
            "row {:?} {:?} does not come behind {:?} {:?}",
            row.key, row.revision, self.last_key, self.last_revision
        );
        let value_bytes = if let ValueRef::Inline(value) = &row.value { value.len() } else { 0 };
        assert!(
            row.key.len() <= ROW_PART_BYTES_MAX && value_bytes <= ROW_PART_BYTES_MAX,
            "a key of {} bytes with an inline value of {value_bytes} bytes",
            row.key.len()
        );
    }

    /// Counts a stored value and returns the number of its segment.
    fn count_value(&mut self, row: &Row) -> u32 {
        let ValueRef::Stored(handle) = row.value else { return 0 };
        let segments = &mut self.info.segments;
        let number = *self.segment_numbers.entry(handle.segment).or_insert_with(|| {
            segments.push((handle.segment, 0, 0));
            segments.len() as u32 - 1
        });
        let counts = &mut segments[number as usize];
        counts.1 += 1;
        counts.2 += u64::from(handle.length);
        number
    }

    fn write_block(&mut self) -> Result<()> {
        self.output.align(BLOCK_ALIGNMENT)?;
        let first_key = self.block.first_key().to_vec();
        self.encoded.clear();
        let summary = self.block.encode(&mut self.encoded);
        let length = self.encoded.len() as u32;
        let keys = (first_key.as_slice(), self.last_key.as_slice());
        self.index.add(self.output.position(), length, keys, self.last_revision, &summary);
        self.output.append(&self.encoded)
    }

    fn write_section(&mut self, kind: u32, content: &[u8]) -> Result<()> {
        self.output.start_section()?;
        self.output.append(content)?;
        self.output.end_section(kind);
        Ok(())
    }
}
