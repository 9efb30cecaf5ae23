//! Writes one value segment.
//!
//! One idea: a value is appended once, in the order given (key order, so that neighbours in a
//! range are neighbours on the disk), and its handle is known at once.

use std::path::Path;
use std::sync::Arc;

use varve_disk::Disk;

use super::{
    FORMAT, SECTION_PROPERTIES, SECTION_VALUES, SegmentInfo, VALUE_ALIGNMENT, checksum_of,
    file_path,
};
use crate::Result;
use crate::table::ValueHandle;
use crate::table::output::Output;

/// Writes one value segment.
///
/// Invariant: the next value begins at a multiple of `VALUE_ALIGNMENT`.
pub struct SegmentBuilder {
    output: Output,
    info: SegmentInfo,
}

impl SegmentBuilder {
    /// Starts the segment file `id` in `dir`.
    ///
    /// # Errors
    /// The disk's, among others when the file exists.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, id: u64) -> Result<Self> {
        Ok(Self {
            output: Output::create(disk.as_ref(), &file_path(dir, id), &FORMAT, id)?,
            info: SegmentInfo { id, bytes: 0, digest: 0, values: 0, value_bytes: 0 },
        })
    }

    /// Appends a value.
    ///
    /// # Panics
    /// If the segment holds 4 GiB already, or the value is that long: callers begin the next
    /// segment long before.
    pub fn add(&mut self, value: &[u8]) -> Result<ValueHandle> {
        let position = self.output.position();
        let offset = u32::try_from(position).expect("a segment is ended before it has 4 GiB");
        let length = u32::try_from(value.len()).expect("a value has less than 4 GiB");
        self.output.append(&length.to_le_bytes())?;
        self.output.append(&checksum_of(length, value).to_le_bytes())?;
        self.output.append(value)?;
        self.output.align(VALUE_ALIGNMENT)?;
        self.info.values += 1;
        self.info.value_bytes += u64::from(length);
        Ok(ValueHandle { segment: self.info.id, offset, length })
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.output.position()
    }

    /// Completes the file; content durable on return, name after the caller's directory sync.
    pub fn finish(mut self) -> Result<SegmentInfo> {
        self.output.end_section(SECTION_VALUES);
        self.output.start_section()?;
        self.output.append(&self.info.values.to_le_bytes())?;
        self.output.append(&self.info.value_bytes.to_le_bytes())?;
        self.output.end_section(SECTION_PROPERTIES);
        let (bytes, digest) = self.output.finish()?;
        Ok(SegmentInfo { bytes, digest, ..self.info })
    }
}
