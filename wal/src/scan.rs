//! Walking the frames of one segment, in memory.
//!
//! What it does not do: it reads no file and decides nothing; where and how the walk stopped is
//! judged in `recover.rs`.

use crate::error::{Error, Result};
use crate::frame::{self, Frame};
use crate::record::Malformed;
use crate::segment::{NUMBER_MAX, SegmentHeader};

/// The thread that runs through all frames of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Sequence of the next frame.
    pub next_sequence: u64,
    /// Checksum of the frame before it; unknown at the start of the oldest segment.
    pub previous_crc: Option<u32>,
}

/// What is at the place where the next frame would begin, when that is not the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No room for a frame.
    Full,
    /// A block of zeros.
    Blank,
    /// Bytes that do not verify as a frame of this segment.
    Unverifiable,
    /// A frame of this segment that verifies, but is not the next one.
    Misplaced,
}

/// A frame that verifies behind the place where the walk stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaterFrame {
    /// Where it begins.
    pub offset: u64,
    /// Its sequence.
    pub sequence: u64,
    /// What was durable when it was submitted.
    pub durable_sequence: u64,
}

/// Where and how a walk stopped.
#[derive(Debug)]
pub(crate) struct Stop {
    /// Offset of the first byte behind the last frame.
    pub offset: u64,
    /// What is there.
    pub found: Found,
    /// What is there and what should be, in words.
    pub detail: Malformed,
    /// Frames walked.
    pub frames: u64,
}

/// Walks the frames in a segment's `bytes`, giving each to `each` with its offset, and advancing
/// `chain`.
///
/// # Errors
/// What `each` returned, or a format version or coding that this program does not know.
pub(crate) fn walk(
    bytes: &[u8],
    segment: &SegmentHeader,
    path: &std::path::Path,
    chain: &mut Chain,
    mut each: impl FnMut(u64, &Frame<'_>) -> Result<()>,
) -> Result<Stop> {
    let mut offset = segment.frames_start();
    let mut frames = 0;
    loop {
        let Some(frame) = frame::verify(bytes, offset, segment) else {
            let found = describe_unverifiable(bytes, offset, segment);
            let detail = Malformed::new(
                format!("frame {}", chain.next_sequence),
                match found {
                    Found::Full => "the end of the segment",
                    Found::Blank => "zeros",
                    _ => "bytes that do not verify",
                },
            );
            return Ok(Stop { offset, found, detail, frames });
        };
        if let Some(detail) = misplaced(&frame, chain) {
            return Ok(Stop { offset, found: Found::Misplaced, detail, frames });
        }
        if frame.version != frame::VERSION {
            let (expected, found) = (u32::from(frame::VERSION), u32::from(frame.version));
            return Err(Error::UnknownVersion { path: path.to_path_buf(), expected, found });
        }
        if frame.coding().is_none() {
            let (expected, found) = (frame::CODING_MAX, frame.coding_number);
            return Err(Error::UnknownCoding { path: path.to_path_buf(), offset, expected, found });
        }
        each(offset, &frame)?;
        chain.next_sequence += 1;
        chain.previous_crc = Some(frame.crc);
        frames += 1;
        offset += frame.padded_bytes(segment.block_bytes);
    }
}

/// The first frame that verifies on a block boundary behind `offset`. Every block is looked at,
/// because the length of the frame at `offset` cannot be believed.
pub(crate) fn later_frame(
    bytes: &[u8],
    segment: &SegmentHeader,
    offset: u64,
) -> Option<LaterFrame> {
    let block = u64::from(segment.block_bytes);
    let mut at = offset + block;
    while at < bytes.len() as u64 {
        if let Some(frame) = frame::verify(bytes, at, segment) {
            return Some(LaterFrame {
                offset: at,
                sequence: frame.header.sequence,
                durable_sequence: frame.header.durable_sequence,
            });
        }
        at += block;
    }
    None
}

fn describe_unverifiable(bytes: &[u8], offset: u64, segment: &SegmentHeader) -> Found {
    let start = bytes.len().min(offset as usize);
    let end = bytes.len().min(start + segment.block_bytes as usize);
    if end - start < frame::HEADER_BYTES {
        Found::Full
    } else if bytes[start..end].iter().all(|byte| *byte == 0) {
        Found::Blank
    } else {
        Found::Unverifiable
    }
}

fn misplaced(frame: &Frame<'_>, chain: &Chain) -> Option<Malformed> {
    let sequence = frame.header.sequence;
    if sequence != chain.next_sequence || sequence > NUMBER_MAX {
        let expected = format!("frame {}", chain.next_sequence);
        return Some(Malformed::new(expected, format!("frame {sequence}")));
    }
    let previous = frame.header.previous_crc;
    match chain.previous_crc {
        Some(crc) if crc != previous => Some(Malformed::new(
            format!("frame {sequence} behind a frame with checksum {crc:08x}"),
            format!("frame {sequence} behind a frame with checksum {previous:08x}"),
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::frame::{Coding, FrameHeader, HEADER_BYTES, seal};
    use crate::segment::SegmentId;

    const SEGMENT_BYTES: u64 = 8192;

    fn segment() -> SegmentHeader {
        SegmentHeader {
            identity: [1; 16],
            id: SegmentId(1),
            generation: 1,
            first_sequence: 1,
            segment_bytes: SEGMENT_BYTES,
            block_bytes: 512,
        }
    }

    /// A segment whose frames have these sequences and previous checksums, in consecutive blocks;
    /// `None` names the checksum of the frame before.
    fn built(frames: &[(u64, Option<u32>)]) -> Vec<u8> {
        let mut bytes = segment().encode();
        let mut crc = 0;
        for (sequence, previous_crc) in frames {
            let mut frame = vec![0; HEADER_BYTES + 5];
            let header = FrameHeader {
                sequence: *sequence,
                durable_sequence: sequence - 1,
                payload_bytes: 5,
                records: 0,
                previous_crc: previous_crc.unwrap_or(crc),
            };
            crc = seal(&mut frame, &segment(), &header, Coding::Plain);
            frame.resize(512, 0);
            bytes.extend_from_slice(&frame);
        }
        bytes.resize(SEGMENT_BYTES as usize, 0);
        bytes
    }

    fn walk_all(bytes: &[u8]) -> (Stop, Chain) {
        let mut chain = Chain { next_sequence: 1, previous_crc: Some(0) };
        let stop = walk(bytes, &segment(), Path::new("x"), &mut chain, |_, _| Ok(())).unwrap();
        (stop, chain)
    }

    #[test]
    fn a_walk_ends_behind_the_last_frame() {
        let (stop, chain) = walk_all(&built(&[(1, None), (2, None)]));
        assert_eq!((stop.offset, stop.found, stop.frames), (1536, Found::Blank, 2));
        assert_eq!(chain.next_sequence, 3);
        let full = (1..=15).map(|sequence| (sequence, None)).collect::<Vec<_>>();
        let (stop, _) = walk_all(&built(&full));
        assert_eq!((stop.offset, stop.found), (SEGMENT_BYTES, Found::Full));
    }

    #[test]
    fn a_frame_that_names_another_predecessor_is_misplaced() {
        let (stop, _) = walk_all(&built(&[(1, None), (2, Some(7)), (3, None)]));
        assert_eq!((stop.offset, stop.found), (1024, Found::Misplaced));
        assert!(stop.detail.found.contains("00000007"), "{:?}", stop.detail);
    }

    #[test]
    fn a_frame_out_of_sequence_is_misplaced() {
        for sequence in [1, 3] {
            let (stop, _) = walk_all(&built(&[(1, None), (sequence, None)]));
            assert_eq!((stop.offset, stop.found), (1024, Found::Misplaced), "{sequence}");
        }
    }

    #[test]
    fn the_first_frame_behind_a_damaged_one_is_found() {
        let mut bytes = built(&[(1, None), (2, None), (3, None), (4, None)]);
        bytes[1024 + 64] ^= 1;
        let (stop, _) = walk_all(&bytes);
        assert_eq!((stop.offset, stop.found), (1024, Found::Unverifiable));
        let later = later_frame(&bytes, &segment(), stop.offset);
        let expected = LaterFrame { offset: 1536, sequence: 3, durable_sequence: 2 };
        assert_eq!(later, Some(expected));
        assert_eq!(later_frame(&bytes, &segment(), 2048), None);
    }

    #[test]
    fn an_unknown_version_or_coding_is_told_from_damage() {
        for field in [4, 6] {
            let mut bytes = built(&[(1, None)]);
            bytes[512 + field] = 9;
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&bytes[16..48]);
            hasher.update(&bytes[512..512 + 60]);
            hasher.update(&bytes[512 + 64..512 + 69]);
            let crc = hasher.finalize().to_le_bytes();
            bytes[512 + 60..512 + 64].copy_from_slice(&crc);
            let mut chain = Chain { next_sequence: 1, previous_crc: Some(0) };
            let walked = walk(&bytes, &segment(), Path::new("x"), &mut chain, |_, _| Ok(()));
            let error = walked.unwrap_err();
            let is_told = match field {
                4 => matches!(error, Error::UnknownVersion { expected: 2, found: 9, .. }),
                _ => matches!(error, Error::UnknownCoding { offset: 512, found: 9, .. }),
            };
            assert!(is_told, "{error}");
        }
    }
}
