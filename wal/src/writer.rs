//! The write path: one batch, one frame, one durable write.
//!
//! 1. Does the frame fit behind the last one? Otherwise begin the next segment, whose first frame
//!    repeats what a log without its older segments would lack: first and next index, and state.
//! 2. Build the frame in a buffer that is kept, aligned as direct writes need it. If it is large,
//!    and the options say so, compress its payload into a second one; take that if it saves a block.
//! 3. Write it at a block boundary and wait until it is durable. Only now is any of it believed.
//!
//! What it does not do: it does not know which entries exist (`image.rs`), and it does not
//! remember that it failed (`Wal`).

use crate::batch::Batch;
use crate::compress::{Compressor, PLAIN_BYTES_MAX};
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::frame::{self, Coding, FRAME_BYTES_MAX, FrameHeader, padded};
use crate::image::{FramePlace, Image};
use crate::record::{self, Kind};
use crate::scan::Chain;

/// Memory is aligned to this, enough for any direct write.
const ALIGNMENT_BYTES: usize = 4096;

/// A buffer that grew beyond this is given back after the frame that needed it.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// What was written since the log was opened. All of it is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames, which is also the number of durable writes that appends waited for.
    pub frames: u64,
    /// Those of them whose payload was compressed.
    pub compressed_frames: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of the payloads that the caller gave.
    pub payload_bytes: u64,
    /// Bytes of the frames, with headers and padding.
    pub written_bytes: u64,
}

/// Appends frames to the active segment.
///
/// Invariants:
/// - `offset` is a multiple of the active segment's block size, behind its last frame.
/// - All frames before `chain.next_sequence` are durable.
pub(crate) struct Writer {
    chain: Chain,
    offset: u64,
    plain: Buffer,
    compression: Option<Compression>,
    counters: Counters,
}

/// What compressing takes.
struct Compression {
    /// Smaller payloads are not tried.
    bytes_min: usize,
    compressor: Compressor,
    buffer: Buffer,
}

/// A frame that is durable and waits to be believed.
pub(crate) struct Written<'a> {
    /// Where it lies.
    pub place: FramePlace,
    /// Its records, as they were before they were compressed.
    pub records: &'a [u8],
    /// How many there are.
    pub count: u32,
}

impl Writer {
    /// A writer that continues at `offset` of the active segment, and compresses payloads of at
    /// least `compress_bytes_min` bytes.
    pub fn new(chain: Chain, offset: u64, compress_bytes_min: Option<u32>) -> Self {
        let compression = compress_bytes_min.map(|bytes_min| Compression {
            bytes_min: bytes_min as usize,
            compressor: Compressor::new(),
            buffer: Buffer::default(),
        });
        let (plain, counters) = (Buffer::default(), Counters::default());
        Self { chain, offset, plain, compression, counters }
    }

    /// What was written so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Refuses a batch that no frame can hold, before anything is written.
    pub fn check_size(batch: &Batch, image: &Image) -> Result<()> {
        let bytes = first_frame_bytes(batch, image);
        let limit = FRAME_BYTES_MAX - ALIGNMENT_BYTES as u64;
        if bytes > limit { Err(Error::TooLarge { found: bytes, limit }) } else { Ok(()) }
    }

    /// Writes a batch as the next frame. Durable on return.
    pub fn append(
        &mut self,
        directory: &mut Directory,
        batch: &Batch,
        image: &Image,
    ) -> Result<Written<'_>> {
        self.make_room(directory, batch, image)?;
        let segment = directory.active();
        let block_bytes = segment.header.block_bytes;
        let count = self.build(batch, (!segment.has_frames).then_some(image));
        let compression = self.compression.as_mut();
        let (buffer, coding) =
            match compression.and_then(|some| some.compress(&self.plain, block_bytes)) {
                Some((buffer, coding)) => (buffer, coding),
                None => (&mut self.plain, Coding::Plain),
            };
        let header = FrameHeader {
            sequence: self.chain.next_sequence,
            // One write is in flight at a time, so all before this one are durable.
            durable_sequence: self.chain.next_sequence - 1,
            payload_bytes: (buffer.frame().len() - frame::HEADER_BYTES) as u32,
            records: count,
            previous_crc: self.chain.previous_crc.unwrap_or(0),
        };
        let crc = frame::seal(buffer.frame(), &segment.header, &header, coding);
        let written = buffer.padded(block_bytes);
        let end = self.offset + written.len() as u64;
        assert!(self.offset.is_multiple_of(u64::from(block_bytes)), "offset {}", self.offset);
        assert!(end <= segment.header.segment_bytes, "frame ends at {end}");
        let id = segment.header.id;
        // The frame, and with it the whole batch, survives any crash once this returns. All else
        // in the file was synced when it was written, so the frame's bytes are all there is.
        directory.write_durable_at(self.offset, written)?;

        let is_plain = coding == Coding::Plain;
        let place = FramePlace { segment: id, offset: self.offset, is_plain };
        self.counters.frames += 1;
        self.counters.compressed_frames += u64::from(!is_plain);
        self.counters.records += batch.records() as u64;
        self.counters.payload_bytes += batch.payload_bytes() as u64;
        self.counters.written_bytes += end - self.offset;
        self.chain = Chain { next_sequence: self.chain.next_sequence + 1, previous_crc: Some(crc) };
        self.offset = end;
        directory.active_mut().has_frames = true;
        Ok(Written { place, records: self.plain.payload(), count })
    }

    /// Gives memory back that only a very large frame needed.
    pub fn release(&mut self) {
        self.plain.release();
        if let Some(compression) = &mut self.compression {
            compression.buffer.release();
        }
    }

    fn make_room(&mut self, directory: &mut Directory, batch: &Batch, image: &Image) -> Result<()> {
        let active = directory.active();
        let (has_frames, block_bytes) = (active.has_frames, active.header.block_bytes);
        let first_bytes = first_frame_bytes(batch, image);
        let bytes = if has_frames { frame_bytes(batch) } else { first_bytes };
        if self.offset + padded(bytes, block_bytes) <= active.header.segment_bytes {
            return directory.prepare(self.offset);
        }
        directory.begin_segment(self.chain.next_sequence, first_bytes)?;
        self.offset = directory.active().header.frames_start();
        Ok(())
    }

    /// Builds header room and payload, returns the number of records. `image` is given when the
    /// frame is the first of its segment.
    fn build(&mut self, batch: &Batch, image: Option<&Image>) -> u32 {
        let bytes = match image {
            Some(image) => first_frame_bytes(batch, image),
            None => frame_bytes(batch),
        };
        let out = self.plain.begin(bytes as usize);
        let mut records = batch.records();
        if let Some(image) = image {
            let next = image.index.next().to_le_bytes();
            record::encode(out, Kind::Base, image.index.first(), &next);
            records += 1;
            if let Some(state) = &image.state {
                record::encode(out, Kind::State, 0, state);
                records += 1;
            }
        }
        batch.encode(out);
        assert_eq!(self.plain.frame().len() as u64, bytes, "frame length as computed");
        u32::try_from(records).expect("a frame of 1 GiB holds fewer records")
    }
}

impl Compression {
    /// The frame in `plain` with its payload compressed, if it is large and that saves a block.
    fn compress(&mut self, plain: &Buffer, block_bytes: u32) -> Option<(&mut Buffer, Coding)> {
        let bytes = plain.payload().len();
        if bytes < self.bytes_min || bytes > PLAIN_BYTES_MAX {
            return None;
        }
        let blocks_bytes = padded((frame::HEADER_BYTES + bytes) as u64, block_bytes) as usize;
        let room = blocks_bytes.checked_sub(block_bytes as usize + frame::HEADER_BYTES)?;
        let out = self.buffer.begin(frame::HEADER_BYTES + room);
        let start = out.len();
        out.resize(start + room, 0);
        let length = self.compressor.compress(plain.payload(), &mut out[start..])?;
        out.truncate(start + length);
        self.buffer.frame_bytes = frame::HEADER_BYTES + length;
        Some((&mut self.buffer, Coding::Zstd { plain_bytes: bytes as u32 }))
    }
}

/// Bytes of a batch's frame, without padding.
fn frame_bytes(batch: &Batch) -> u64 {
    (frame::HEADER_BYTES + batch.encoded_bytes()) as u64
}

/// Bytes of a batch's frame when it is the first of its segment.
fn first_frame_bytes(batch: &Batch, image: &Image) -> u64 {
    let base = record::HEADER_BYTES + size_of::<u64>();
    let state = image.state.as_ref().map_or(0, |state| record::HEADER_BYTES + state.len());
    frame_bytes(batch) + (base + state) as u64
}

/// Memory for one frame, beginning at an aligned address.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    /// Header and payload, once both are there; what follows is padding.
    frame_bytes: usize,
}

impl Buffer {
    /// Empties the buffer, makes room for `frame_bytes` and the padding, and leaves the header's
    /// bytes zero. What is pushed to the result is the payload.
    fn begin(&mut self, frame_bytes: usize) -> &mut Vec<u8> {
        self.bytes.clear();
        self.frame_bytes = frame_bytes;
        // Reserved in full: growing later would move the bytes to another alignment.
        self.bytes.reserve(frame_bytes + 2 * ALIGNMENT_BYTES);
        self.start = self.bytes.as_ptr().align_offset(ALIGNMENT_BYTES);
        assert!(self.start < ALIGNMENT_BYTES, "bytes can be aligned by skipping {}", self.start);
        self.bytes.resize(self.start + frame::HEADER_BYTES, 0);
        &mut self.bytes
    }

    fn frame(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    fn payload(&self) -> &[u8] {
        &self.bytes[self.start + frame::HEADER_BYTES..self.start + self.frame_bytes]
    }

    /// The frame with zeros up to the block boundary.
    fn padded(&mut self, block_bytes: u32) -> &[u8] {
        let length = self.bytes.len() - self.start;
        let padded = padded(length as u64, block_bytes) as usize;
        self.bytes.resize(self.start + padded, 0);
        &self.bytes[self.start..]
    }

    fn release(&mut self) {
        if self.bytes.capacity() > BUFFER_BYTES_KEPT {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_is_aligned_and_padded_with_zeros() {
        let mut buffer = Buffer::default();
        for payload in [0usize, 1, 448, 449, 5000, 100_000] {
            buffer.begin(frame::HEADER_BYTES + payload).extend(std::iter::repeat_n(7, payload));
            assert_eq!(buffer.frame().len(), frame::HEADER_BYTES + payload);
            let padded = buffer.padded(512);
            assert_eq!(padded.as_ptr().align_offset(ALIGNMENT_BYTES), 0);
            assert!(padded.len().is_multiple_of(512));
            assert!(padded[frame::HEADER_BYTES + payload..].iter().all(|byte| *byte == 0));
        }
        buffer.release();
        assert!(buffer.bytes.capacity() > 0);
    }
}
