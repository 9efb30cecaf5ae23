//! Reading entries back from their files.
//!
//! A follower that is far behind asks for entries in order, and consecutive entries nearly always
//! lie one behind the other: one read fetches many, and each of the results is a slice of what was
//! read. Every record is verified again, because the disk had time to rot since recovery.
//!
//! What it does not do: it keeps nothing of what it read; the cache is for the newest entries.

use bytes::Bytes;

use crate::directory::{Directory, Segment};
use crate::error::{Error, Result};
use crate::index::{Index, Place};
use crate::record::{HEADER_BYTES, Kind, Malformed, Record};

/// One read fetches at most this much, unless a single entry is larger.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Appends the entries `low..high`, all of which are in the log, to `out`.
pub(crate) fn read_entries(
    directory: &Directory,
    index: &Index,
    low: u64,
    high: u64,
    out: &mut Vec<Bytes>,
) -> Result<()> {
    let mut at = low;
    while at < high {
        let run = Run::gather(index, at, high);
        let segment = directory
            .segment(run.segment)
            .expect("segments are retired only when no entry lies in them");
        run.read(segment, at, out)?;
        at += run.places.len() as u64;
    }
    Ok(())
}

/// Consecutive entries that one read fetches.
struct Run {
    segment: crate::segment::SegmentId,
    places: Vec<Place>,
}

impl Run {
    fn gather(index: &Index, low: u64, high: u64) -> Self {
        let (segment, first) = index.locate(low).expect("the caller checked the range");
        let mut places = vec![first];
        for at in low + 1..high {
            let (other, place) = index.locate(at).expect("the caller checked the range");
            let follows = other == segment && place.offset > first.offset;
            if !follows || end(&place) - u64::from(first.offset) > READ_BYTES_MAX {
                break;
            }
            places.push(place);
        }
        Self { segment, places }
    }

    fn read(&self, segment: &Segment, low: u64, out: &mut Vec<Bytes>) -> Result<()> {
        let start = u64::from(self.places[0].offset);
        let last = self.places.last().expect("a run has an entry");
        let mut bytes = vec![0; (end(last) - start) as usize];
        segment.file.read_exact_at(start, &mut bytes)?;
        let bytes = Bytes::from(bytes);
        for (index, place) in (low..).zip(&self.places) {
            let offset = (u64::from(place.offset) - start) as usize;
            let payload = verify(&bytes[offset..], index, place).map_err(|malformed| {
                let offset = u64::from(place.offset);
                Error::damaged(&segment.path, offset, malformed.expected, malformed.found)
            })?;
            out.push(bytes.slice_ref(payload));
        }
        Ok(())
    }
}

fn end(place: &Place) -> u64 {
    u64::from(place.offset) + HEADER_BYTES as u64 + u64::from(place.payload_bytes)
}

/// The payload of the record at the start of `bytes`, if it is the one that was appended.
fn verify<'a>(
    bytes: &'a [u8],
    index: u64,
    place: &Place,
) -> std::result::Result<&'a [u8], Malformed> {
    let record = Record::decode(bytes)?;
    record.verify()?;
    let is_ours = record.kind == Kind::Entry
        && record.index == index
        && record.payload.len() == place.payload_bytes as usize;
    if is_ours {
        return Ok(record.payload);
    }
    Err(Malformed::new(
        format!("entry {index} of {} bytes", place.payload_bytes),
        format!("{:?} {} of {} bytes", record.kind, record.index, record.payload.len()),
    ))
}
