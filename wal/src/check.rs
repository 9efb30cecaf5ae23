//! Checking a log without opening it: every byte that means something, every rule of the format.
//!
//! Recovery stops at the first thing that is wrong; the checker goes on and reports all of it. It
//! reads only, and can tell what it comes by. Used by tests after every scenario, by debug builds
//! when a log is opened, and by the program `varve-wal`.
//!
//! What it does not do: it cannot say whether the newest entries that once were appended are still
//! there; only a peer knows.

use std::path::Path;

use varve_disk::Disk;

use crate::compress::Decompressor;
use crate::directory::Segment;
use crate::error::{Error, Result};
use crate::frame::{self, Coding, Frame};
use crate::image::Image;
use crate::record::{Kind, Malformed, Record, u64_at};
use crate::recover;
use crate::scan::{self, Chain, Found};
use crate::segment::{self, SegmentHeader, SegmentId};

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// Identity of the log: the one that was asked for, or the one that was found.
    pub identity: [u8; 16],
    /// Segment files.
    pub segments: u64,
    /// Frames that verify.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Index of the oldest entry.
    pub first_index: u64,
    /// Index of the newest entry; `first_index - 1` when there is none.
    pub last_index: u64,
    /// Whether there are bytes behind the last frame: a torn write, or what a recycled file held.
    /// Opening the log overwrites them. Not a violation.
    pub stale_tail: bool,
    /// Whether a newer program wrote some of it, which is among the violations and no damage.
    pub is_newer: bool,
    /// All that is wrong, in words that name file and offset.
    pub violations: Vec<String>,
}

/// What a walk through a log comes by, from the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A segment file begins.
    Segment {
        /// The file.
        path: &'a Path,
        /// How often the file was used.
        generation: u64,
        /// Sequence of its first frame.
        first_sequence: u64,
        /// Length of the file.
        segment_bytes: u64,
        /// Alignment of frames.
        block_bytes: u32,
    },
    /// A frame that verifies begins: one batch.
    Frame {
        /// Where in the file.
        offset: u64,
        /// Its number in the log.
        sequence: u64,
        /// Records in it.
        records: u32,
        /// Bytes of the records as they are stored.
        stored_bytes: u64,
        /// Whether they are compressed.
        is_compressed: bool,
    },
    /// An entry. One with the same index further on replaces it and all behind it.
    Entry {
        /// Its index.
        index: u64,
        /// What the caller appended.
        payload: &'a [u8],
    },
    /// The latest state from here on.
    State {
        /// What the caller appended.
        payload: &'a [u8],
    },
    /// All entries are forgotten here.
    Reset {
        /// Index of the next entry.
        next_index: u64,
    },
    /// What the log was when the segment began.
    Base {
        /// Index of the oldest entry.
        first_index: u64,
        /// Index of the next entry.
        next_index: u64,
    },
}

/// Checks the log in `dir` that belongs to `identity`.
///
/// # Errors
/// Only when the disk fails; what is wrong with the log is in the report.
pub fn check(disk: &dyn Disk, dir: &Path, identity: &[u8; 16]) -> Result<Report> {
    inspect(disk, dir, Some(identity), &mut |_| {})
}

/// As [`check`], and tells `see` what it comes by. Without an identity, the log's is that of its
/// oldest segment that can be read.
///
/// # Errors
/// As [`check`].
pub fn inspect(
    disk: &dyn Disk,
    dir: &Path,
    identity: Option<&[u8; 16]>,
    see: &mut dyn FnMut(Item<'_>),
) -> Result<Report> {
    let mut checker = Checker {
        decompressor: Decompressor::default(),
        segments: Vec::new(),
        report: Report::default(),
        see,
    };
    let listing = match segment::list(disk, dir) {
        Ok(listing) => listing,
        Err(error) => {
            checker.note(error)?;
            return Ok(checker.report);
        }
    };
    if listing.segments.is_empty() {
        checker.report.violations.push(format!("{}: no segment", dir.display()));
    }
    let mut identity = identity.copied();
    for id in &listing.segments {
        if let Some(segment) = checker.open(disk, dir, *id, &mut identity)? {
            checker.segments.push(segment);
        }
    }
    checker.report.identity = identity.unwrap_or_default();
    checker.walk_all()?;
    Ok(checker.report)
}

struct Checker<'a> {
    decompressor: Decompressor,
    segments: Vec<Segment>,
    report: Report,
    see: &'a mut dyn FnMut(Item<'_>),
}

impl Checker<'_> {
    /// Files an error away as a violation, unless it is the disk that failed.
    fn note(&mut self, error: Error) -> Result<()> {
        match error {
            Error::Disk(_) => Err(error),
            error => {
                let is_newer =
                    matches!(error, Error::UnknownVersion { .. } | Error::UnknownCoding { .. });
                self.report.is_newer |= is_newer;
                self.report.violations.push(error.to_string());
                Ok(())
            }
        }
    }

    fn open(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        id: SegmentId,
        identity: &mut Option<[u8; 16]>,
    ) -> Result<Option<Segment>> {
        let path = dir.join(id.file_name());
        let file = disk.open_to_read(&path)?;
        let segment = SegmentHeader::read(&path, &*file).and_then(|header| {
            Segment::verified(file, path, id, identity.get_or_insert(header.identity))
        });
        match segment {
            Ok(segment) => Ok(Some(segment)),
            Err(error) => self.note(error).map(|()| None),
        }
    }

    fn walk_all(&mut self) -> Result<()> {
        let segments = std::mem::take(&mut self.segments);
        let mut image = Image::new();
        let mut bytes = Vec::new();
        let mut chain = Chain { next_sequence: 1, previous_crc: Some(0) };
        for (position, segment) in segments.iter().enumerate() {
            recover::read_whole(&*segment.file, segment.header.segment_bytes, &mut bytes)?;
            if position == 0 {
                // The oldest segment that is left; what was before it is not here to compare.
                chain.next_sequence = segment.header.first_sequence;
                chain.previous_crc = (chain.next_sequence == 1).then_some(0);
            }
            let next = segments.get(position + 1).map(|next| next.header.first_sequence);
            self.walk(segment, &bytes, &mut chain, &mut image, next)?;
            if let Some(first) = next {
                // Go on where the next segment says it begins, to see what is wrong there.
                if first != chain.next_sequence {
                    chain = Chain { next_sequence: first, previous_crc: None };
                }
            }
        }
        self.report.segments = segments.len() as u64;
        self.report.first_index = image.index.first();
        self.report.last_index = image.index.next() - 1;
        Ok(())
    }

    fn walk(
        &mut self,
        segment: &Segment,
        bytes: &[u8],
        chain: &mut Chain,
        image: &mut Image,
        next: Option<u64>,
    ) -> Result<()> {
        let (header, path) = (&segment.header, &segment.path);
        let (decompressor, see) = (&mut self.decompressor, &mut *self.see);
        see(Item::Segment {
            path,
            generation: header.generation,
            first_sequence: header.first_sequence,
            segment_bytes: header.segment_bytes,
            block_bytes: header.block_bytes,
        });
        let mut wrong = Vec::new();
        let walked = scan::walk(bytes, header, path, chain, |offset, frame| {
            self.report.frames += 1;
            self.report.records += u64::from(frame.header.records);
            see(Item::Frame {
                offset,
                sequence: frame.header.sequence,
                records: frame.header.records,
                stored_bytes: frame.payload.len() as u64,
                is_compressed: frame.coding() != Some(Coding::Plain),
            });
            wrong.extend(check_durable(path, offset, frame));
            wrong.extend(check_padding(path, offset, frame, bytes, header.block_bytes));
            let applied =
                recover::records_of(decompressor, path, offset, frame).and_then(|records| {
                    wrong.extend(check_records(path, offset, frame, records, see));
                    recover::apply(image, header, path, offset, frame, records)
                });
            wrong.extend(applied.err().map(|error| error.to_string()));
            Ok(())
        });
        self.report.violations.append(&mut wrong);
        let stop = match walked {
            Ok(stop) => stop,
            Err(error) => return self.note(error),
        };
        let later = scan::later_frame(bytes, header, stop.offset);
        match recover::judge(path, &stop, later, chain.next_sequence, next) {
            Ok(recover::Verdict::Cut) => {
                self.report.stale_tail = stop.found == Found::Unverifiable;
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => self.note(error),
        }
    }
}

/// One frame is in flight at a time, so each says that all before it were durable.
fn check_durable(path: &Path, offset: u64, frame: &Frame<'_>) -> Option<String> {
    let header = frame.header;
    if header.durable_sequence == header.sequence - 1 {
        return None;
    }
    let expected = format!("durable sequence {}", header.sequence - 1);
    let found = format!("{}", header.durable_sequence);
    Some(Error::damaged(path, offset, expected, found).to_string())
}

/// The checksum of every record, which recovery does not look at.
fn check_records(
    path: &Path,
    offset: u64,
    frame: &Frame<'_>,
    records: &[u8],
    see: &mut dyn FnMut(Item<'_>),
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut at = 0;
    while at < records.len() {
        let Ok(record) = Record::decode(&records[at..]) else {
            // Applying the frame reports it.
            break;
        };
        if let Err(Malformed { expected, found }) = record.verify() {
            let error = recover::frame_damage(path, offset, frame, at, expected, found);
            wrong.push(error.to_string());
        }
        see(item_of(&record));
        at += record.encoded_bytes();
    }
    wrong
}

fn item_of<'a>(record: &Record<'a>) -> Item<'a> {
    let (index, payload) = (record.index, record.payload);
    match record.kind {
        Kind::Entry => Item::Entry { index, payload },
        Kind::State => Item::State { payload },
        Kind::Reset => Item::Reset { next_index: index },
        // One of another length is refused when it is applied.
        Kind::Base if payload.len() != 8 => Item::Base { first_index: index, next_index: 0 },
        Kind::Base => Item::Base { first_index: index, next_index: u64_at(payload, 0) },
    }
}

/// The padding behind a frame, which no checksum covers.
fn check_padding(
    path: &Path,
    offset: u64,
    frame: &Frame<'_>,
    bytes: &[u8],
    block_bytes: u32,
) -> Option<String> {
    let start = offset as usize + frame::HEADER_BYTES + frame.payload.len();
    let end = (offset + frame.padded_bytes(block_bytes)) as usize;
    let padding = bytes.get(start..end.min(bytes.len()))?;
    let at = padding.iter().position(|byte| *byte != 0)?;
    let found = format!("{:#04x}", padding[at]);
    Some(Error::damaged(path, (start + at) as u64, "zeros as padding", found).to_string())
}
