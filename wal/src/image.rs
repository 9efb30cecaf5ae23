//! What the log says: the result of applying its frames in order.
//!
//! There is one way to apply a frame, and it is used for a frame that was just written, for one
//! that is recovered, and by the checker. So what a running log believes and what it will believe
//! after a restart cannot differ.
//!
//! What it does not do: it holds no payload of an entry (`cache.rs`, `reader.rs`).

use bytes::Bytes;

use crate::frame;
use crate::index::{Index, Place, Position};
use crate::record::{Kind, Malformed, Record, u64_at};
use crate::segment::{NUMBER_MAX, SegmentId};

/// Where a frame's records lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FramePlace {
    /// The segment.
    pub segment: SegmentId,
    /// Offset of the frame in the file.
    pub offset: u64,
    /// Whether its payload is its records, byte for byte.
    pub is_plain: bool,
}

impl FramePlace {
    /// Position of the record at an offset of the records.
    fn of_record(&self, offset: usize) -> Position {
        if self.is_plain {
            Position::Record(self.offset + (frame::HEADER_BYTES + offset) as u64)
        } else {
            Position::Compressed(self.offset)
        }
    }
}

/// The log as its frames say it is.
///
/// Invariants:
/// - `floor <= index.next()`: the entries before `floor` were forgotten and never come back.
/// - Until the first frame was applied (`begun`), the index is empty.
#[derive(Debug)]
pub(crate) struct Image {
    /// Where the entries are.
    pub index: Index,
    /// The latest state.
    pub state: Option<Bytes>,
    /// Lowest first index that any frame has recorded.
    floor: u64,
    begun: bool,
}

/// A record that contradicts what came before it.
#[derive(Debug)]
pub(crate) struct Contradiction {
    /// Offset in the records.
    pub offset: usize,
    /// What is wrong.
    pub malformed: Malformed,
}

impl Image {
    /// The image of a log without frames.
    pub fn new() -> Self {
        Self { index: Index::new(1), state: None, floor: 1, begun: false }
    }

    /// Applies the records of a frame, of which there are `count`.
    ///
    /// # Errors
    /// The first record that cannot follow what came before it. No crash makes one.
    pub fn apply(
        &mut self,
        place: FramePlace,
        records: &[u8],
        count: u32,
    ) -> Result<(), Contradiction> {
        let mut offset = 0;
        let mut found = 0;
        while offset < records.len() {
            let record = Record::decode(&records[offset..])
                .and_then(|record| self.apply_record(place, offset, &record).map(|()| record))
                .map_err(|malformed| Contradiction { offset, malformed })?;
            offset += record.encoded_bytes();
            found += 1;
        }
        if found == 0 {
            // Nobody writes one; as the first frame of all it would leave out the base.
            let malformed = Malformed::new("at least one record", "none");
            return Err(Contradiction { offset, malformed });
        }
        if found != count {
            let malformed = Malformed::new(format!("{count} records"), format!("{found}"));
            return Err(Contradiction { offset, malformed });
        }
        assert!(self.floor <= self.index.next(), "floor {} in {:?}", self.floor, self.index);
        Ok(())
    }

    /// Forgets the entries before `first`, at most all.
    pub fn forget_before(&mut self, first: u64) {
        self.index.forget_before(first);
        self.floor = self.floor.max(self.index.first());
    }

    fn apply_record(
        &mut self,
        place: FramePlace,
        offset: usize,
        record: &Record<'_>,
    ) -> Result<(), Malformed> {
        if !self.begun && record.kind != Kind::Base {
            let expected = "a base as the first record of the oldest segment";
            return Err(Malformed::new(expected, format!("{:?}", record.kind)));
        }
        match record.kind {
            Kind::Entry => self.apply_entry(place, offset, record),
            Kind::State => {
                self.state = Some(Bytes::copy_from_slice(record.payload));
                Ok(())
            }
            Kind::Reset => self.apply_reset(record),
            Kind::Base => self.apply_base(record),
        }
    }

    fn apply_entry(
        &mut self,
        place: FramePlace,
        offset: usize,
        record: &Record<'_>,
    ) -> Result<(), Malformed> {
        let next = self.index.next();
        if !(self.floor..=next).contains(&record.index) {
            let expected = format!("an entry with an index of {} to {next}", self.floor);
            return Err(Malformed::new(expected, format!("{}", record.index)));
        }
        if record.index < self.index.first() {
            // The entries before it went with a removed segment, which is removed only when they
            // were forgotten: the log begins here.
            self.index.reset(record.index);
        }
        let place_of_record = Place::new(place.of_record(offset), record.payload.len() as u32);
        self.index.push(record.index, place.segment, place_of_record);
        Ok(())
    }

    fn apply_reset(&mut self, record: &Record<'_>) -> Result<(), Malformed> {
        if !(1..=NUMBER_MAX).contains(&record.index) || !record.payload.is_empty() {
            let found = format!("{} and {} bytes", record.index, record.payload.len());
            return Err(Malformed::new("a reset to an index in range", found));
        }
        self.index.reset(record.index);
        self.floor = record.index;
        Ok(())
    }

    /// A base tells the oldest segment where it begins, and is checked in all others.
    fn apply_base(&mut self, record: &Record<'_>) -> Result<(), Malformed> {
        if record.payload.len() != 8 {
            let found = format!("{} bytes", record.payload.len());
            return Err(Malformed::new("a base of 8 bytes", found));
        }
        let (first, next) = (record.index, u64_at(record.payload, 0));
        if first == 0 || first > next || next > NUMBER_MAX {
            let found = format!("{first} and {next}");
            return Err(Malformed::new("a first and a next index in order", found));
        }
        if !self.begun {
            self.begun = true;
            self.index.reset(next);
            self.floor = first;
            return Ok(());
        }
        if next != self.index.next() || first < self.floor {
            let expected =
                format!("next index {}, first at least {}", self.index.next(), self.floor);
            return Err(Malformed::new(expected, format!("next {next}, first {first}")));
        }
        self.floor = first;
        self.index.forget_before(first);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::encode;

    const PLACE: FramePlace = FramePlace { segment: SegmentId(1), offset: 4096, is_plain: true };

    fn apply(image: &mut Image, records: &[(Kind, u64, &[u8])]) -> Result<(), Contradiction> {
        let mut payload = Vec::new();
        for (kind, index, bytes) in records {
            encode(&mut payload, *kind, *index, bytes);
        }
        image.apply(PLACE, &payload, records.len() as u32)
    }

    fn range(image: &Image) -> (u64, u64) {
        (image.index.first(), image.index.next())
    }

    fn begun(first: u64, next: u64) -> Image {
        let mut image = Image::new();
        apply(&mut image, &[(Kind::Base, first, &next.to_le_bytes())]).unwrap();
        image
    }

    #[test]
    fn a_frame_without_records_is_refused() {
        for mut image in [Image::new(), begun(1, 1)] {
            let contradiction = apply(&mut image, &[]).unwrap_err();
            assert_eq!(contradiction.malformed.expected, "at least one record");
        }
    }

    #[test]
    fn the_oldest_segment_begins_where_its_base_ends() {
        let image = begun(5, 9);
        assert_eq!(range(&image), (9, 9));
    }

    #[test]
    fn an_entry_below_the_first_known_restarts_the_log_there() {
        let mut image = begun(5, 9);
        apply(&mut image, &[(Kind::Entry, 6, b"six"), (Kind::Entry, 7, b"seven")]).unwrap();
        assert_eq!(range(&image), (6, 8));
        assert!(apply(&mut image, &[(Kind::Entry, 4, b"")]).is_err(), "below the floor");
        assert!(apply(&mut image, &[(Kind::Entry, 9, b"")]).is_err(), "a gap");
    }

    #[test]
    fn a_later_base_must_agree() {
        let mut image = begun(1, 1);
        apply(&mut image, &[(Kind::Entry, 1, b""), (Kind::Entry, 2, b"")]).unwrap();
        assert!(apply(&mut image, &[(Kind::Base, 1, &2u64.to_le_bytes())]).is_err());
        apply(&mut image, &[(Kind::Base, 2, &3u64.to_le_bytes())]).unwrap();
        assert_eq!(range(&image), (2, 3));
    }

    #[test]
    fn a_reset_forgets_all_and_state_is_the_latest() {
        let mut image = begun(1, 1);
        apply(&mut image, &[(Kind::Entry, 1, b""), (Kind::State, 0, b"old")]).unwrap();
        apply(&mut image, &[(Kind::Reset, 50, b""), (Kind::State, 0, b"new")]).unwrap();
        assert_eq!(range(&image), (50, 50));
        assert_eq!(image.state.as_deref(), Some(&b"new"[..]));
    }

    #[test]
    fn a_log_that_does_not_begin_with_a_base_is_refused() {
        let mut image = Image::new();
        let error = apply(&mut image, &[(Kind::State, 0, b"")]).unwrap_err();
        assert!(error.malformed.expected.contains("base"), "{error:?}");
    }

    #[test]
    fn a_wrong_record_count_is_refused() {
        let mut image = Image::new();
        let mut payload = Vec::new();
        encode(&mut payload, Kind::Base, 1, &1u64.to_le_bytes());
        assert!(image.apply(PLACE, &payload, 2).is_err());
    }
}
