//! Frames: the unit that is written, synced, and survives whole or not at all.
//!
//! A frame is a 64-byte header, a payload of records, and zeros up to the next block boundary. It
//! begins on a block boundary, so writing it never rewrites a block that holds acknowledged bytes.
//! The layout is in `docs/FORMAT.md`, section 1.3.
//!
//! A frame *verifies* in a segment when its magic is right, it lies within the segment and its
//! checksum matches. The checksum is seeded with the log's identity and the segment's id and
//! generation: bytes that an earlier use of a recycled file left behind, or that a client stored
//! as a value in another log, never verify. A frame that verifies is *next* when its sequence is
//! the expected one and it names the checksum of the frame before it.
//!
//! What it does not do: it does not decide what a frame that is missing means (`recover.rs`), and
//! it does not look into payloads, compressed or not (`compress.rs`, `record.rs`).

use varve_disk::trial;

use crate::record::{u32_at, u64_at};
use crate::segment::SegmentHeader;

/// Bytes of a frame's header.
pub(crate) const HEADER_BYTES: usize = 64;

/// Largest frame, header and padding included: 1 GiB, so that offsets fit in 32 bits.
pub(crate) const FRAME_BYTES_MAX: u64 = 1 << 30;

/// The version that is written, and the only one that is read: version 1 was never released.
pub(crate) const VERSION: u16 = 2;

/// The newest coding that can be read.
pub(crate) const CODING_MAX: u16 = CODING_ZSTD;

const CODING_PLAIN: u16 = 0;
const CODING_ZSTD: u16 = 1;

const MAGIC: [u8; 4] = *b"VWLF";
const VERSION_AT: usize = 4;
const CODING_AT: usize = 6;
const SEGMENT_AT: usize = 8;
const GENERATION_AT: usize = 16;
const SEQUENCE_AT: usize = 24;
const DURABLE_AT: usize = 32;
/// Offset of the payload's length in a header.
pub(crate) const PAYLOAD_BYTES_AT: usize = 40;
const RECORDS_AT: usize = 44;
const PLAIN_BYTES_AT: usize = 48;
const RESERVED_AT: usize = 52;
const PREVIOUS_AT: usize = 56;
const CRC_AT: usize = 60;

/// The fields of a frame's header that vary; the rest follows from the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// Number of the frame in the log, from 1, without gaps.
    pub sequence: u64,
    /// All frames up to this one were durable when this one was submitted.
    pub durable_sequence: u64,
    /// Bytes of the payload, as it is stored.
    pub payload_bytes: u32,
    /// Records in the payload.
    pub records: u32,
    /// Checksum of the frame before it, 0 for the first of the log.
    pub previous_crc: u32,
}

/// How a payload is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// As records.
    Plain,
    /// As one zstd frame.
    Zstd {
        /// Bytes of the records.
        plain_bytes: u32,
    },
}

/// A frame that verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    /// Its header.
    pub header: FrameHeader,
    /// Its records, as they are stored.
    pub payload: &'a [u8],
    /// Its own checksum.
    pub crc: u32,
    /// Format version.
    pub version: u16,
    /// Coding of the payload, which may be unknown.
    pub coding_number: u16,
    plain_bytes: u32,
}

impl Frame<'_> {
    /// How the payload is stored, if this program knows it.
    pub fn coding(&self) -> Option<Coding> {
        match self.coding_number {
            CODING_PLAIN => Some(Coding::Plain),
            CODING_ZSTD => Some(Coding::Zstd { plain_bytes: self.plain_bytes }),
            _ => None,
        }
    }

    /// Bytes from its start to the start of the next one.
    pub fn padded_bytes(&self, block_bytes: u32) -> u64 {
        padded(HEADER_BYTES as u64 + self.payload.len() as u64, block_bytes)
    }
}

/// `bytes` rounded up to whole blocks.
pub(crate) fn padded(bytes: u64, block_bytes: u32) -> u64 {
    bytes.next_multiple_of(u64::from(block_bytes))
}

/// Completes a frame: `bytes` holds room for a header and then the payload; the header is written
/// into that room. Returns the frame's checksum.
pub(crate) fn seal(
    bytes: &mut [u8],
    segment: &SegmentHeader,
    header: &FrameHeader,
    coding: Coding,
) -> u32 {
    let (coding, plain_bytes) = match coding {
        Coding::Plain => (CODING_PLAIN, 0),
        Coding::Zstd { plain_bytes } => (CODING_ZSTD, plain_bytes),
    };
    assert_eq!(bytes.len(), HEADER_BYTES + header.payload_bytes as usize, "frame length");
    assert!(header.durable_sequence < header.sequence, "a frame is not durable before itself");
    bytes[..VERSION_AT].copy_from_slice(&MAGIC);
    bytes[VERSION_AT..CODING_AT].copy_from_slice(&VERSION.to_le_bytes());
    bytes[CODING_AT..SEGMENT_AT].copy_from_slice(&coding.to_le_bytes());
    bytes[SEGMENT_AT..GENERATION_AT].copy_from_slice(&segment.id.0.to_le_bytes());
    bytes[GENERATION_AT..SEQUENCE_AT].copy_from_slice(&segment.generation.to_le_bytes());
    bytes[SEQUENCE_AT..DURABLE_AT].copy_from_slice(&header.sequence.to_le_bytes());
    bytes[DURABLE_AT..PAYLOAD_BYTES_AT].copy_from_slice(&header.durable_sequence.to_le_bytes());
    bytes[PAYLOAD_BYTES_AT..RECORDS_AT].copy_from_slice(&header.payload_bytes.to_le_bytes());
    bytes[RECORDS_AT..PLAIN_BYTES_AT].copy_from_slice(&header.records.to_le_bytes());
    bytes[PLAIN_BYTES_AT..RESERVED_AT].copy_from_slice(&plain_bytes.to_le_bytes());
    bytes[RESERVED_AT..PREVIOUS_AT].fill(0);
    bytes[PREVIOUS_AT..CRC_AT].copy_from_slice(&header.previous_crc.to_le_bytes());
    let crc = checksum(segment, bytes);
    bytes[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// The frame at `offset` of a segment's bytes, if one verifies there.
pub(crate) fn verify<'a>(
    bytes: &'a [u8],
    offset: u64,
    segment: &SegmentHeader,
) -> Option<Frame<'a>> {
    let bytes = bytes.get(usize::try_from(offset).ok()?..)?;
    if bytes.len() < HEADER_BYTES || bytes[..VERSION_AT] != MAGIC {
        return None;
    }
    let mine = u64_at(bytes, SEGMENT_AT) == segment.id.0
        && u64_at(bytes, GENERATION_AT) == segment.generation;
    if !mine && !trial::has_bug("recycled-believed") {
        return None;
    }
    let payload_bytes = u32_at(bytes, PAYLOAD_BYTES_AT);
    let whole = bytes.get(..HEADER_BYTES.checked_add(payload_bytes as usize)?)?;
    let crc = u32_at(bytes, CRC_AT);
    if checksum(segment, whole) != crc && !trial::has_bug("frame-unchecked") {
        return None;
    }
    let header = FrameHeader {
        sequence: u64_at(bytes, SEQUENCE_AT),
        durable_sequence: u64_at(bytes, DURABLE_AT),
        payload_bytes,
        records: u32_at(bytes, RECORDS_AT),
        previous_crc: u32_at(bytes, PREVIOUS_AT),
    };
    let version = u16::from_le_bytes([bytes[VERSION_AT], bytes[VERSION_AT + 1]]);
    let coding_number = u16::from_le_bytes([bytes[CODING_AT], bytes[CODING_AT + 1]]);
    let plain_bytes = u32_at(bytes, PLAIN_BYTES_AT);
    Some(Frame {
        header,
        payload: &whole[HEADER_BYTES..],
        crc,
        version,
        coding_number,
        plain_bytes,
    })
}

/// Covers all of the frame but the checksum itself and the padding.
fn checksum(segment: &SegmentHeader, frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&segment.identity);
    if !trial::has_bug("recycled-believed") {
        hasher.update(&segment.id.0.to_le_bytes());
        hasher.update(&segment.generation.to_le_bytes());
    }
    hasher.update(&frame[..CRC_AT]);
    hasher.update(&frame[HEADER_BYTES..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{self, Kind, encode};
    use crate::segment::SegmentId;

    fn segment() -> SegmentHeader {
        SegmentHeader {
            identity: [7; 16],
            id: SegmentId(3),
            generation: 2,
            first_sequence: 10,
            segment_bytes: 65536,
            block_bytes: 4096,
        }
    }

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(payload);
        let header = FrameHeader {
            sequence: 12,
            durable_sequence: 11,
            payload_bytes: payload.len() as u32,
            records: 1,
            previous_crc: 0xdead_beef,
        };
        seal(&mut bytes, &segment(), &header, Coding::Plain);
        bytes
    }

    #[test]
    fn a_sealed_frame_verifies_where_it_was_written() {
        let bytes = frame(b"payload");
        let read = verify(&bytes, 0, &segment()).unwrap();
        assert_eq!(read.header.sequence, 12);
        assert_eq!(read.header.durable_sequence, 11);
        assert_eq!(read.header.previous_crc, 0xdead_beef);
        assert_eq!(read.payload, b"payload");
        assert_eq!(read.padded_bytes(512), 512);
        assert_eq!((read.version, read.coding()), (VERSION, Some(Coding::Plain)));
    }

    #[test]
    fn a_frame_of_another_segment_generation_or_log_does_not_verify() {
        let bytes = frame(b"payload");
        let others = [
            SegmentHeader { id: SegmentId(4), ..segment() },
            SegmentHeader { generation: 3, ..segment() },
            SegmentHeader { identity: [8; 16], ..segment() },
        ];
        for other in others {
            assert!(verify(&bytes, 0, &other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn a_whole_record_of_other_content_is_noticed() {
        let of = |kind, index| {
            let mut payload = Vec::new();
            encode(&mut payload, Kind::State, 0, b"what a recycled segment held, too");
            encode(&mut payload, kind, index, b"");
            frame(&payload)
        };
        let (new, old) = (of(Kind::State, 0), of(Kind::Entry, 2));
        let mut torn = new.clone();
        let last = new.len() - record::HEADER_BYTES;
        torn[last..].copy_from_slice(&old[last..]);
        assert!(verify(&new, 0, &segment()).is_some());
        assert!(verify(&torn, 0, &segment()).is_none());
    }

    #[test]
    fn every_flipped_bit_and_every_missing_byte_is_noticed() {
        let bytes = frame(b"payload");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&flipped, 0, &segment()).is_none(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(verify(&bytes[..length], 0, &segment()).is_none(), "length {length}");
        }
    }
}
