//! Reading entries back from their files.
//!
//! A follower that is far behind asks for entries in order, and consecutive entries nearly always
//! lie one behind the other: one read fetches many, and each of the results is a slice of what was
//! read. Every record is verified again, because the disk had time to rot since recovery. Entries
//! of a compressed frame have no place of their own in the file: the frame is read and decoded.
//!
//! What it does not do: it keeps nothing of what it read; the cache is for the newest entries.

use bytes::Bytes;

use crate::compress::Decompressor;
use crate::directory::{Directory, Segment};
use crate::error::{Error, Result};
use crate::frame;
use crate::index::{Index, Place, Position};
use crate::record::{HEADER_BYTES, Kind, Malformed, Record, u32_at};

/// One read fetches at most this much, unless a single entry or compressed frame is larger.
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
        match run.places[0].position() {
            Position::Record(start) => run.read(segment, start, at, out)?,
            Position::Compressed(frame) => run.decode(segment, frame, at, out)?,
        }
        at += run.places.len() as u64;
    }
    Ok(())
}

/// Consecutive entries that one read fetches: plain records, or parts of one compressed frame.
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
            let follows = match (first.position(), place.position()) {
                (Position::Record(start), Position::Record(offset)) => {
                    offset > start && end(offset, &place) - start <= READ_BYTES_MAX
                }
                (Position::Compressed(frame), Position::Compressed(other)) => frame == other,
                _ => false,
            };
            if other != segment || !follows {
                break;
            }
            places.push(place);
        }
        Self { segment, places }
    }

    /// Plain records, the first of which is at `start`.
    fn read(&self, segment: &Segment, start: u64, low: u64, out: &mut Vec<Bytes>) -> Result<()> {
        let offset_of = |place: &Place| match place.position() {
            Position::Record(offset) => offset,
            Position::Compressed(_) => unreachable!("a run is of one sort"),
        };
        let last = self.places.last().expect("a run has an entry");
        let mut bytes = vec![0; (end(offset_of(last), last) - start) as usize];
        segment.file.read_exact_at(start, &mut bytes)?;
        let bytes = Bytes::from(bytes);
        for (index, place) in (low..).zip(&self.places) {
            let offset = offset_of(place);
            let payload = verify(&bytes[(offset - start) as usize..], index, place)
                .map_err(|malformed| damaged(segment, offset, malformed))?;
            out.push(bytes.slice_ref(payload));
        }
        Ok(())
    }

    /// Parts of the compressed frame at `start`.
    fn decode(&self, segment: &Segment, start: u64, low: u64, out: &mut Vec<Bytes>) -> Result<()> {
        let bytes = read_frame(segment, start)?;
        let fail = |malformed| damaged(segment, start, malformed);
        let frame = frame::verify(&bytes, 0, &segment.header)
            .ok_or_else(|| fail(Malformed::new("a frame", "bytes that do not verify")))?;
        let mut decompressor = Decompressor::default();
        let records = decompressor.records(&frame).map_err(fail)?;
        let records = Bytes::copy_from_slice(records);
        let mut offset = 0;
        let mut wanted = (low..).zip(&self.places).peekable();
        while let Some((index, place)) = wanted.peek().copied() {
            let record = Record::decode(&records[offset..]).map_err(fail)?;
            // A batch has its entries in the order of their indexes, each of them once.
            if record.kind == Kind::Entry && record.index >= index {
                let payload = verify(&records[offset..], index, place).map_err(fail)?;
                out.push(records.slice_ref(payload));
                wanted.next();
            }
            offset += record.encoded_bytes();
        }
        Ok(())
    }
}

/// The header and the payload of the frame at `start`, as far as its length can be believed.
fn read_frame(segment: &Segment, start: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; frame::HEADER_BYTES];
    segment.file.read_exact_at(start, &mut bytes)?;
    let payload_bytes = u32_at(&bytes, frame::PAYLOAD_BYTES_AT);
    let room = segment.header.segment_bytes - start - frame::HEADER_BYTES as u64;
    if u64::from(payload_bytes) > room {
        let expected = format!("a frame of at most {room} bytes");
        let malformed = Malformed::new(expected, format!("{payload_bytes}"));
        return Err(damaged(segment, start, malformed));
    }
    bytes.resize(frame::HEADER_BYTES + payload_bytes as usize, 0);
    let payload = &mut bytes[frame::HEADER_BYTES..];
    segment.file.read_exact_at(start + frame::HEADER_BYTES as u64, payload)?;
    Ok(bytes)
}

fn damaged(segment: &Segment, offset: u64, malformed: Malformed) -> Error {
    Error::damaged(&segment.path, offset, malformed.expected, malformed.found)
}

fn end(offset: u64, place: &Place) -> u64 {
    offset + HEADER_BYTES as u64 + u64::from(place.payload_bytes)
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
