//! Writes one value segment.
//!
//! One idea: a value is appended once, in the order given (key order, so that neighbours in a
//! range are neighbours on the disk), and its handle is known at once. A handle does not tell
//! whether the segment is compressed.

use std::path::Path;
use std::sync::Arc;

use varve_disk::Disk;

use super::frames::{Compression, FrameWriter};
use super::{
    FEATURE_FRAMES, FORMAT, SECTION_FRAMES, SECTION_PROPERTIES, SECTION_VALUES, SegmentInfo,
    VALUE_ALIGNMENT, checksum_of, file_path,
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
    /// Of a compressed segment.
    frames: Option<FrameWriter>,
}

impl SegmentBuilder {
    /// Starts the segment file `id` in `dir`, compressed or not.
    ///
    /// # Errors
    /// The disk's, among others when the file exists.
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        id: u64,
        compression: Option<Compression>,
    ) -> Result<Self> {
        let features = if compression.is_some() { FEATURE_FRAMES } else { 0 };
        Ok(Self {
            output: Output::create(&*disk, &file_path(dir, id), &FORMAT, features, id)?,
            info: SegmentInfo { id, bytes: 0, digest: 0, values: 0, value_bytes: 0 },
            frames: compression.map(FrameWriter::new),
        })
    }

    /// Appends a value.
    ///
    /// # Panics
    /// If the segment holds 4 GiB already, or the value is that long: callers begin the next
    /// segment long before.
    pub fn add(&mut self, value: &[u8]) -> Result<ValueHandle> {
        let offset = u32::try_from(self.bytes()).expect("a segment is ended before it has 4 GiB");
        let length = u32::try_from(value.len()).expect("a value has less than 4 GiB");
        let mut header = [0; 8];
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..].copy_from_slice(&checksum_of(length, value).to_le_bytes());
        match &mut self.frames {
            None => {
                self.output.append(&header)?;
                self.output.append(value)?;
                self.output.align(VALUE_ALIGNMENT)?;
            }
            Some(frames) => frames.add(&mut self.output, header, value)?,
        }
        self.info.values += 1;
        self.info.value_bytes += u64::from(length);
        Ok(ValueHandle { segment: self.info.id, offset, length })
    }

    /// Bytes so far, as if they were not compressed: a segment is ended by what it holds.
    pub fn bytes(&self) -> u64 {
        self.frames.as_ref().map_or(self.output.position(), FrameWriter::position)
    }

    /// Completes the file; content durable on return, name after the caller's directory sync.
    pub fn finish(mut self) -> Result<SegmentInfo> {
        let output = &mut self.output;
        let directory = self.frames.map(|frames| frames.finish(output)).transpose()?;
        output.end_section(SECTION_VALUES);
        output.start_section()?;
        output.append(&self.info.values.to_le_bytes())?;
        output.append(&self.info.value_bytes.to_le_bytes())?;
        output.end_section(SECTION_PROPERTIES);
        if let Some(directory) = directory {
            output.start_section()?;
            output.append(&directory)?;
            output.end_section(SECTION_FRAMES);
        }
        let (bytes, digest) = self.output.finish()?;
        Ok(SegmentInfo { bytes, digest, ..self.info })
    }
}
