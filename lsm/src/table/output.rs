//! A file while it is written: buffered, hashed on the way, synced once at the end.
//!
//! One idea: bytes pass through here exactly once and in order, so the digest of the whole file
//! and the checksum of the current section are ready when the last byte is.
//!
//! What it does not do: sync the directory. A file whose name was lost in a crash is not missed,
//! because nothing names it before the manifest does.

use std::path::Path;
use std::sync::Arc;

use varve_disk::{Disk, File};
use xxhash_rust::xxh3::Xxh3;

use super::frame::{Format, Section, encode_footer, encode_header};
use crate::Result;

/// How much is collected for one write to the disk.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that is being written.
///
/// Invariants: `written + buffer.len()` is the number of bytes appended; `digest` covers exactly
/// the first `written` bytes; `section` covers what was appended since `section_start`.
pub(crate) struct Output {
    format: &'static Format,
    id: u64,
    file: Arc<dyn File>,
    buffer: Vec<u8>,
    written: u64,
    digest: Xxh3,
    section: Xxh3,
    section_start: u64,
    sections: Vec<Section>,
}

impl Output {
    /// Creates the file and appends its header, which says that it uses `features`.
    pub fn create(
        disk: &dyn Disk,
        path: &Path,
        format: &'static Format,
        features: u32,
        id: u64,
    ) -> Result<Self> {
        let mut output = Self {
            format,
            id,
            file: disk.create(path)?,
            buffer: Vec::new(),
            written: 0,
            digest: Xxh3::new(),
            section: Xxh3::new(),
            section_start: 0,
            sections: Vec::new(),
        };
        output.append(&encode_header(format, features, id))?;
        output.begin_section();
        Ok(output)
    }

    /// Bytes appended so far.
    pub fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Appends bytes.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.section.update(bytes);
        while self.buffer.len() + bytes.len() >= BUFFER_BYTES {
            let (now, later) = bytes.split_at(BUFFER_BYTES - self.buffer.len());
            self.buffer.extend_from_slice(now);
            self.flush()?;
            bytes = later;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Appends zeros up to a multiple of `alignment`, which is at most 64.
    pub fn align(&mut self, alignment: u64) -> Result<()> {
        const ZEROS: [u8; 64] = [0; 64];
        let missing = self.position().next_multiple_of(alignment) - self.position();
        self.append(&ZEROS[..missing as usize])
    }

    /// Begins a section at the next multiple of 64.
    pub fn start_section(&mut self) -> Result<()> {
        self.align(64)?;
        self.begin_section();
        Ok(())
    }

    /// Ends the section that was begun last.
    pub fn end_section(&mut self, kind: u32) {
        self.sections.push(Section {
            kind,
            offset: self.section_start,
            length: self.position() - self.section_start,
            checksum: self.section.digest(),
        });
    }

    /// Appends the footer and makes the content durable. Returns the file's length and digest.
    pub fn finish(mut self) -> Result<(u64, u128)> {
        self.align(64)?;
        let footer = encode_footer(self.format, self.id, self.position(), &self.sections);
        self.append(&footer)?;
        self.flush()?;
        // After this the content is durable, so that a manifest edit may name the file once the
        // directory is synced too.
        self.file.sync()?;
        Ok((self.written, self.digest.digest128()))
    }

    fn begin_section(&mut self) {
        self.section_start = self.position();
        self.section.reset();
    }

    fn flush(&mut self) -> Result<()> {
        self.digest.update(&self.buffer);
        self.file.write_at(self.written, &self.buffer)?;
        // Or all of it would be written by the sync at the end, and whoever syncs something else on
        // this disk at that time would wait for it.
        self.file.begin_write_out(self.written, self.buffer.len() as u64);
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
