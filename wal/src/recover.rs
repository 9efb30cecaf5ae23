//! Recovery: what a log's files say after a crash, decided by a table.
//!
//! Segments are walked oldest first. Each walk stops at the first place where the next frame is
//! not. What that means depends on three things: what is there, whether a frame verifies further
//! on in the same segment, and where the next segment begins. [`RULES`] maps every combination to
//! one of three verdicts:
//!
//! - *End*: this segment ends here, as it was meant to.
//! - *Cut*: here the log ends. What follows can only be a frame whose write never completed, so it
//!   was never acknowledged; it is overwritten with zeros.
//! - *Refuse*: something that was acknowledged is gone. The files are left alone.
//!
//! The argument is always the same: one write is in flight at a time, so whatever was submitted
//! after a frame proves that the frame was durable. A frame proves it by its `durable_sequence`, a
//! segment by its `first_sequence`. Without such proof the frame may be torn.
//!
//! What it does not do: it cannot tell rot of the very last frame from a torn write of it, because
//! nothing was submitted after it; that frame is cut. See the caveats in the crate's head.

use std::path::Path;

use varve_disk::{File, trial};

use crate::compress::Decompressor;
use crate::directory::{Directory, Segment};
use crate::error::{Error, Result};
use crate::frame::{self, Coding, Frame};
use crate::image::{FramePlace, Image};
use crate::record::Malformed;
use crate::scan::{self, Chain, Found, LaterFrame, Stop};
use crate::segment::SegmentHeader;

/// Reads are split into pieces of this size, to stay below what one call can do.
const READ_STEP_BYTES: usize = 8 << 20;

/// Whether a frame verifies further on in the segment, seen from the missing frame `q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Later {
    /// None.
    Nothing,
    /// One that was submitted before `q`, or is `q`.
    Older,
    /// One newer than `q` that does not say that `q` was durable.
    Newer,
    /// One that says that `q` was durable.
    Covering,
}

/// Where the next segment begins, seen from the missing frame `q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// There is no next segment.
    Nothing,
    /// With a frame before `q`.
    BeforeMissing,
    /// With `q`.
    AtMissing,
    /// With a frame after `q`.
    BeyondMissing,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The segment ends here; go on with the next one.
    End,
    /// The log ends here; overwrite the rest with zeros.
    Cut,
    /// Acknowledged data is damaged.
    Refuse,
}

/// One row of the table: it matches when each condition is in its list.
pub(crate) struct Rule {
    found: &'static [Found],
    later: &'static [Later],
    next: &'static [Next],
    verdict: Verdict,
    because: &'static str,
}

#[cfg(test)]
const ANY_FOUND: &[Found] = &[Found::Full, Found::Blank, Found::Unverifiable, Found::Misplaced];
const NO_FRAME: &[Found] = &[Found::Full, Found::Blank, Found::Unverifiable];
const ANY_LATER: &[Later] = &[Later::Nothing, Later::Older, Later::Newer, Later::Covering];
const NO_LATER: &[Later] = &[Later::Nothing];
const ANY_NEXT: &[Next] =
    &[Next::Nothing, Next::BeforeMissing, Next::AtMissing, Next::BeyondMissing];

/// The table. Every combination is matched by exactly one row (tested below).
pub(crate) const RULES: &[Rule] = &[
    Rule {
        found: &[Found::Misplaced],
        later: ANY_LATER,
        next: ANY_NEXT,
        verdict: Verdict::Refuse,
        because: "a whole frame is where another one belongs, which no crash does",
    },
    Rule {
        found: NO_FRAME,
        later: &[Later::Covering],
        next: ANY_NEXT,
        verdict: Verdict::Refuse,
        because: "a later frame says that the missing one was durable",
    },
    Rule {
        found: NO_FRAME,
        later: &[Later::Newer],
        next: ANY_NEXT,
        verdict: Verdict::Refuse,
        because: "a later frame was written, and one write is in flight at a time",
    },
    Rule {
        found: NO_FRAME,
        later: &[Later::Older],
        next: ANY_NEXT,
        verdict: Verdict::Refuse,
        because: "an older frame is behind the missing one, which no crash does",
    },
    Rule {
        found: NO_FRAME,
        later: NO_LATER,
        next: &[Next::AtMissing],
        verdict: Verdict::End,
        because: "the next segment goes on with the frame that is not here",
    },
    Rule {
        found: NO_FRAME,
        later: NO_LATER,
        next: &[Next::BeyondMissing],
        verdict: Verdict::Refuse,
        because: "the next segment was begun when the missing frame was durable",
    },
    Rule {
        found: NO_FRAME,
        later: NO_LATER,
        next: &[Next::BeforeMissing],
        verdict: Verdict::Refuse,
        because: "the next segment begins with a frame that is here too, which no crash does",
    },
    Rule {
        found: &[Found::Blank, Found::Unverifiable],
        later: NO_LATER,
        next: &[Next::Nothing],
        verdict: Verdict::Cut,
        because: "nothing was submitted later, so the missing frame was never acknowledged",
    },
    Rule {
        found: &[Found::Full],
        later: NO_LATER,
        next: &[Next::Nothing],
        verdict: Verdict::End,
        because: "the segment is full and the next one was not begun",
    },
];

/// The row for a combination.
pub(crate) fn decide(found: Found, later: Later, next: Next) -> &'static Rule {
    RULES
        .iter()
        .find(|rule| rule.matches(found, later, next))
        .expect("the table is complete, which is tested")
}

impl Rule {
    fn matches(&self, found: Found, later: Later, next: Next) -> bool {
        self.found.contains(&found) && self.later.contains(&later) && self.next.contains(&next)
    }
}

/// What recovery found out, beside the image.
pub(crate) struct Recovered {
    /// What the log says.
    pub image: Image,
    /// Where its frames continue.
    pub chain: Chain,
    /// Offset of the next frame in the last segment.
    pub offset: u64,
}

/// Reads all segments, repairs the tail, and returns what the log says.
///
/// # Errors
/// [`Error::Damaged`] when acknowledged data is gone; then nothing was changed.
pub(crate) fn recover(directory: &mut Directory) -> Result<Recovered> {
    let mut image = Image::new();
    let mut decompressor = Decompressor::default();
    let mut bytes = Vec::new();
    let mut chain = first_chain(directory);
    let mut stopped = 0;
    let mut last_frame = Extent::default();
    let count = directory.segments().len();
    for position in 0..count {
        let next = directory.segments().nth(position + 1).map(|s| s.header.first_sequence);
        let segment = directory.at(position);
        read_whole(&*segment.file, segment.header.segment_bytes, &mut bytes)?;
        let (header, path) = (&segment.header, &segment.path);
        if trial::has_bug("tail-cut-too-far") && position + 1 == count {
            let mut newest = None;
            scan::walk(&bytes, header, path, &mut { chain }, |at, _| {
                newest = Some(at as usize);
                Ok(())
            })?;
            newest.into_iter().for_each(|at| bytes[at..].fill(0));
        }
        last_frame = Extent::default();
        let stop = scan::walk(&bytes, header, path, &mut chain, |at, frame| {
            last_frame = Extent::of(at, frame, header.block_bytes);
            let records = records_of(&mut decompressor, path, at, frame)?;
            apply(&mut image, header, path, at, frame, records)
        })?;
        let later = scan::later_frame(&bytes, header, stop.offset);
        // The verdict is End or Cut here; both leave nothing behind the last frame of the log.
        judge(path, &stop, later, chain.next_sequence, next)?;
        segment.has_frames = stop.frames > 0;
        stopped = stop.offset;
    }
    let active = directory.active();
    settle(active, last_frame, &mut bytes)?;
    directory.zero_tail(active, stopped, &bytes)?;
    Ok(Recovered { image, chain, offset: stopped })
}

/// Where the newest frame of a segment lies; all 0 when there is none.
#[derive(Clone, Copy, Default)]
struct Extent {
    start: usize,
    payload_end: usize,
    padded_end: usize,
}

impl Extent {
    fn of(offset: u64, frame: &Frame<'_>, block_bytes: u32) -> Self {
        let start = offset as usize;
        let payload_end = start + frame::HEADER_BYTES + frame.payload.len();
        let padded_end = start + frame.padded_bytes(block_bytes) as usize;
        Self { start, payload_end, padded_end }
    }
}

/// Writes the newest frame of the log once more, as it is but for its padding, and syncs.
///
/// It may be in the kernel's cache only: when its sync failed, the process stopped, and the kernel
/// then took the pages for clean, no later sync writes them (Rebello et al., "Can Applications
/// Recover from fsync Failures?", ATC 2020). All older frames are known to be durable. Its padding
/// may be what a recycled file held, when the write was torn there; it becomes zeros. Sectors are
/// written whole, and with the bytes that they have, so a crash here changes nothing.
fn settle(segment: &Segment, newest: Extent, bytes: &mut [u8]) -> Result<()> {
    if newest.padded_end == 0 {
        return Ok(());
    }
    let end = newest.padded_end.min(bytes.len());
    bytes[newest.payload_end..end].fill(0);
    segment.file.write_at(newest.start as u64, &bytes[newest.start..end])?;
    // All frames that were read are durable from here on.
    segment.file.sync()?;
    Ok(())
}

/// Where the frames of the oldest segment must begin. What was before it is not known, except
/// before the first of all.
fn first_chain(directory: &Directory) -> Chain {
    let next_sequence = directory.segments().next().map_or(1, |s| s.header.first_sequence);
    Chain { next_sequence, previous_crc: (next_sequence == 1).then_some(0) }
}

/// Looks up the verdict for a stop; a refusal becomes an error that says why.
pub(crate) fn judge(
    path: &Path,
    stop: &Stop,
    later: Option<LaterFrame>,
    missing: u64,
    next_first: Option<u64>,
) -> Result<Verdict> {
    let next = match next_first {
        None => Next::Nothing,
        Some(first) if first < missing => Next::BeforeMissing,
        Some(first) if first == missing => Next::AtMissing,
        Some(_) => Next::BeyondMissing,
    };
    let rule = decide(stop.found, classify(later, missing), next);
    if rule.verdict != Verdict::Refuse || trial::has_bug("middle-cut") {
        return Ok(rule.verdict);
    }
    let mut found = format!("{} ({}", stop.detail.found, rule.because);
    if let Some(later) = later {
        found += &format!("; frame {} at offset {}", later.sequence, later.offset);
    }
    if let Some(first) = next_first {
        found += &format!("; the next segment begins with frame {first}");
    }
    Err(Error::damaged(path, stop.offset, stop.detail.expected.clone(), found + ")"))
}

/// The records of a frame that verified; a payload that cannot be decoded is damage.
pub(crate) fn records_of<'a>(
    decompressor: &'a mut Decompressor,
    path: &Path,
    offset: u64,
    frame: &Frame<'a>,
) -> Result<&'a [u8]> {
    decompressor.records(frame).map_err(|malformed| {
        let offset = offset + frame::HEADER_BYTES as u64;
        Error::damaged(path, offset, malformed.expected, malformed.found)
    })
}

/// Applies the records of a frame; what contradicts the frames before it is damage.
pub(crate) fn apply(
    image: &mut Image,
    segment: &SegmentHeader,
    path: &Path,
    offset: u64,
    frame: &Frame<'_>,
    records: &[u8],
) -> Result<()> {
    let is_plain = frame.coding() == Some(Coding::Plain);
    let place = FramePlace { segment: segment.id, offset, is_plain };
    image.apply(place, records, frame.header.records).map_err(|contradiction| {
        let Malformed { expected, found } = contradiction.malformed;
        frame_damage(path, offset, frame, contradiction.offset, expected, found)
    })
}

/// Damage of a record, named by where it is in the file, or in what a compressed frame holds.
pub(crate) fn frame_damage(
    path: &Path,
    offset: u64,
    frame: &Frame<'_>,
    in_records: usize,
    expected: String,
    found: String,
) -> Error {
    match frame.coding() {
        Some(Coding::Plain) => {
            let offset = offset + (frame::HEADER_BYTES + in_records) as u64;
            Error::damaged(path, offset, expected, found)
        }
        _ => {
            let found = format!("{found} (at byte {in_records} of the decompressed records)");
            Error::damaged(path, offset, expected, found)
        }
    }
}

/// Reads a whole segment into `bytes`, whose memory is used again for the next one.
pub(crate) fn read_whole(file: &dyn File, length_bytes: u64, bytes: &mut Vec<u8>) -> Result<()> {
    bytes.resize(usize::try_from(length_bytes).expect("a segment is at most 2 GiB"), 0);
    let mut offset = 0;
    for step in bytes.chunks_mut(READ_STEP_BYTES) {
        file.read_exact_at(offset, step)?;
        offset += step.len() as u64;
    }
    Ok(())
}

fn classify(later: Option<LaterFrame>, missing: u64) -> Later {
    match later {
        None => Later::Nothing,
        Some(frame) if frame.durable_sequence >= missing => Later::Covering,
        Some(frame) if frame.sequence > missing => Later::Newer,
        Some(_) => Later::Older,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same decisions, written as a program: what the table must say.
    fn expected(found: Found, later: Later, next: Next) -> Verdict {
        if found == Found::Misplaced || later != Later::Nothing {
            return Verdict::Refuse;
        }
        match next {
            Next::AtMissing => Verdict::End,
            Next::BeforeMissing | Next::BeyondMissing => Verdict::Refuse,
            Next::Nothing if found == Found::Full => Verdict::End,
            Next::Nothing => Verdict::Cut,
        }
    }

    #[test]
    fn every_combination_is_decided_by_exactly_one_row() {
        let mut combinations = 0;
        for found in ANY_FOUND.iter().copied() {
            for later in ANY_LATER.iter().copied() {
                for next in ANY_NEXT.iter().copied() {
                    let rows = RULES.iter().filter(|rule| rule.matches(found, later, next));
                    assert_eq!(rows.count(), 1, "{found:?} {later:?} {next:?}");
                    let verdict = decide(found, later, next).verdict;
                    assert_eq!(
                        verdict,
                        expected(found, later, next),
                        "{found:?} {later:?} {next:?}"
                    );
                    combinations += 1;
                }
            }
        }
        assert_eq!(combinations, 64);
    }

    #[test]
    fn only_the_newest_segment_is_ever_cut() {
        for rule in RULES.iter().filter(|rule| rule.verdict == Verdict::Cut) {
            assert_eq!(rule.next, [Next::Nothing]);
            assert_eq!(rule.later, [Later::Nothing]);
        }
    }

    #[test]
    fn a_later_frame_is_classified_by_what_it_proves() {
        let frame =
            |sequence, durable_sequence| Some(LaterFrame { offset: 0, sequence, durable_sequence });
        assert_eq!(classify(None, 5), Later::Nothing);
        assert_eq!(classify(frame(6, 5), 5), Later::Covering);
        assert_eq!(classify(frame(6, 4), 5), Later::Newer);
        assert_eq!(classify(frame(5, 4), 5), Later::Older);
    }
}
