//! Where each entry lies: log index -> segment, offset, length.
//!
//! Eight bytes an entry, so a million entries cost 8 MB: offset and length in an array, and the
//! segments apart as runs, because consecutive entries nearly always lie in the same one.
//!
//! What it does not do: it does not read files and does not know of frames.

use std::collections::VecDeque;

use crate::segment::SegmentId;

/// Where an entry's record lies in its segment.
///
/// Invariants: the lowest 31 bits of `bits` are an offset, for a segment is at most 2 GiB; the
/// highest is set when that is the offset of a compressed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    bits: u32,
    /// Bytes of the payload, header not included.
    pub payload_bytes: u32,
}

/// How to come by a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// Its header is at this offset of the file.
    Record(u64),
    /// It is somewhere in the compressed frame at this offset.
    Compressed(u64),
}

const COMPRESSED_BIT: u32 = 1 << 31;

impl Place {
    /// The place of a record with a payload of so many bytes.
    pub fn new(position: Position, payload_bytes: u32) -> Self {
        let (offset, bit) = match position {
            Position::Record(offset) => (offset, 0),
            Position::Compressed(offset) => (offset, COMPRESSED_BIT),
        };
        let offset = u32::try_from(offset).ok().filter(|offset| offset & COMPRESSED_BIT == 0);
        Self { bits: offset.expect("a segment is at most 2 GiB") | bit, payload_bytes }
    }

    /// How to come by it.
    pub fn position(&self) -> Position {
        let offset = u64::from(self.bits & !COMPRESSED_BIT);
        match self.bits & COMPRESSED_BIT {
            0 => Position::Record(offset),
            _ => Position::Compressed(offset),
        }
    }
}

/// Entries from `first_index` on, up to the next run, lie in `segment`.
#[derive(Clone, Copy, Debug)]
struct Run {
    first_index: u64,
    segment: SegmentId,
}

/// Places of the entries `first()..next()`.
///
/// Invariants:
/// - `runs` is empty if and only if `places` is.
/// - Runs ascend strictly in `first_index` and in `segment`; the first one begins at `first`.
#[derive(Debug)]
pub(crate) struct Index {
    first: u64,
    places: VecDeque<Place>,
    runs: VecDeque<Run>,
}

impl Index {
    /// An empty index whose next entry is `next`.
    pub fn new(next: u64) -> Self {
        Self { first: next, places: VecDeque::new(), runs: VecDeque::new() }
    }

    /// Index of the oldest entry; `next()` when there is none.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Index after the newest entry.
    pub fn next(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// The oldest segment that holds an entry.
    pub fn oldest_segment(&self) -> Option<SegmentId> {
        self.runs.front().map(|run| run.segment)
    }

    /// Where the entry `index` is, if it is in the log.
    pub fn locate(&self, index: u64) -> Option<(SegmentId, Place)> {
        let position = index.checked_sub(self.first)?;
        let place = *self.places.get(usize::try_from(position).ok()?)?;
        let after = self.runs.partition_point(|run| run.first_index <= index);
        assert!(
            after > 0,
            "entry {index} lies before the first run, the log begins {}",
            self.first
        );
        Some((self.runs[after - 1].segment, place))
    }

    /// Sets the place of entry `index`; what was at or after it is cut off.
    pub fn push(&mut self, index: u64, segment: SegmentId, place: Place) {
        assert!(
            (self.first..=self.next()).contains(&index),
            "entry {index} does not continue {}..{}",
            self.first,
            self.next()
        );
        self.cut(index);
        let newest = self.runs.back().map(|run| run.segment);
        assert!(newest <= Some(segment), "entry {index} in {segment}, older than {newest:?}");
        if newest != Some(segment) {
            self.runs.push_back(Run { first_index: index, segment });
        }
        self.places.push_back(place);
    }

    /// Forgets the entries before `first`, at most all.
    pub fn forget_before(&mut self, first: u64) {
        let first = first.clamp(self.first, self.next());
        self.places.drain(..(first - self.first) as usize);
        self.first = first;
        if self.places.is_empty() {
            self.runs.clear();
            return;
        }
        while self.runs.get(1).is_some_and(|run| run.first_index <= first) {
            self.runs.pop_front();
        }
        self.runs[0].first_index = first;
    }

    /// Forgets all; the next entry is `next`.
    pub fn reset(&mut self, next: u64) {
        self.first = next;
        self.places.clear();
        self.runs.clear();
    }

    fn cut(&mut self, from: u64) {
        self.places.truncate((from - self.first) as usize);
        while self.runs.back().is_some_and(|run| run.first_index >= from) {
            self.runs.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u32) -> Place {
        Place::new(Position::Record(u64::from(offset)), 1)
    }

    fn filled() -> Index {
        let mut index = Index::new(1);
        for entry in 1..=10 {
            index.push(entry, SegmentId(1 + entry / 4), place(entry as u32));
        }
        index
    }

    #[test]
    fn a_place_says_how_to_come_by_the_record() {
        for position in [Position::Record(5), Position::Compressed((1 << 31) - 512)] {
            let place = Place::new(position, 7);
            assert_eq!((place.position(), place.payload_bytes), (position, 7));
        }
        assert_eq!(size_of::<Place>(), 8);
    }

    #[test]
    fn entries_are_found_in_their_segments() {
        let index = filled();
        assert_eq!((index.first(), index.next()), (1, 11));
        for entry in 1..=10 {
            let found = index.locate(entry);
            assert_eq!(found, Some((SegmentId(1 + entry / 4), place(entry as u32))));
        }
        assert_eq!(index.locate(0), None);
        assert_eq!(index.locate(11), None);
    }

    #[test]
    fn an_overwrite_cuts_the_tail() {
        let mut index = filled();
        index.push(4, SegmentId(9), place(100));
        assert_eq!((index.first(), index.next()), (1, 5));
        assert_eq!(index.locate(3), Some((SegmentId(1), place(3))));
        assert_eq!(index.locate(4), Some((SegmentId(9), place(100))));
    }

    #[test]
    fn an_overwrite_within_a_run_keeps_the_run() {
        let mut index = filled();
        index.push(10, SegmentId(3), place(7));
        assert_eq!(index.locate(9), Some((SegmentId(3), place(9))));
        assert_eq!(index.locate(10), Some((SegmentId(3), place(7))));
    }

    #[test]
    fn the_oldest_segment_moves_when_its_entries_are_forgotten() {
        let mut index = filled();
        index.forget_before(3);
        assert_eq!(index.oldest_segment(), Some(SegmentId(1)));
        index.forget_before(4);
        assert_eq!(index.oldest_segment(), Some(SegmentId(2)));
        assert_eq!(index.locate(4), Some((SegmentId(2), place(4))));
        index.forget_before(100);
        assert_eq!((index.first(), index.next(), index.oldest_segment()), (11, 11, None));
    }

    #[test]
    #[should_panic(expected = "does not continue")]
    fn a_gap_is_a_bug() {
        filled().push(12, SegmentId(9), place(0));
    }
}
