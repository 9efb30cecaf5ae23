//! Frames that a tape describes, sealed with the right checksums: what a reader makes of fields
//! that no writer writes.
//!
//! What must hold: the checker and recovery agree; what opens without a violation can be read to
//! its last entry and continued; frames without a twist say what was put into them; nothing panics.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::Disk;
use varve_disk::sim::SimDisk;
use varve_wal::{Batch, Options, Wal, check};

use super::damage::Files;
use super::input::Input;
use super::seal::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, record, seal_frame, seal_segment};

const DIRECTORY: &str = "/log";
const IDENTITY: [u8; 16] = [7; 16];
const SEGMENT_BYTES: u64 = 16 << 10;
const FRAMES_MAX: usize = 12;
const RECORDS_MAX: usize = 8;

/// Runs one input.
pub fn decode(data: &[u8]) {
    let mut input = Input::new(data);
    let mut builder = Builder::new(&mut input);
    for _ in 0..FRAMES_MAX {
        if input.is_over() || !builder.frame(&mut input) {
            break;
        }
    }
    let path = PathBuf::from(DIRECTORY).join("0000000000000001.wal");
    let files = Files::from([(path, builder.bytes.clone())]);
    let disk = SimDisk::from_files(1, &files).expect("one file");
    let report = check(&disk, Path::new(DIRECTORY), &IDENTITY).expect("the disk works");
    let mut wal = match open(&disk) {
        Ok(wal) => wal,
        Err(error) => {
            assert!(!report.violations.is_empty(), "refused without a violation: {error}");
            assert!(builder.is_twisted, "refused without a twist: {error}");
            assert_eq!(disk.current_files(), files, "a refusal changes nothing");
            return;
        }
    };
    let (first, next) = (wal.first_index(), wal.last_index() + 1);
    let read = wal.entries(first, next, u64::MAX);
    if report.violations.is_empty() {
        assert_eq!((report.first_index, report.last_index + 1), (first, next));
        let read = read.expect("the checker found nothing");
        assert_eq!(read.len() as u64, next - first);
        if !builder.is_twisted {
            assert_eq!(read, builder.entries, "frames without a twist");
        }
    }
    let mut batch = Batch::default();
    batch.entry(next, Bytes::from_static(b"after"));
    wal.append(&batch).expect("a log that was opened can be continued");
    drop(wal);
    let wal = open(&disk).expect("a log that was continued can be opened");
    assert_eq!(wal.last_index(), next);
}

fn open(disk: &SimDisk) -> varve_wal::Result<Wal> {
    let options = Options {
        identity: IDENTITY,
        segment_bytes: SEGMENT_BYTES,
        cache_bytes_max: 0,
        ..Options::default()
    };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Wal::open_with_block_bytes(disk, Path::new(DIRECTORY), options, 512)
}

/// One segment in the making.
struct Builder {
    bytes: Vec<u8>,
    block: usize,
    offset: usize,
    sequence: u64,
    previous_crc: u32,
    /// What the frames say, as long as none is twisted.
    entries: Vec<Bytes>,
    is_twisted: bool,
}

impl Builder {
    fn new(input: &mut Input) -> Self {
        let flags = input.byte();
        let block = if flags & 1 == 0 { 512 } else { 4096 };
        let mut bytes = vec![0; SEGMENT_BYTES as usize];
        bytes[..8].copy_from_slice(b"VARVEWAL");
        bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
        bytes[12..16].copy_from_slice(&(block as u32).to_le_bytes());
        bytes[16..32].copy_from_slice(&IDENTITY);
        bytes[32..40].copy_from_slice(&1_u64.to_le_bytes());
        bytes[40..48].copy_from_slice(&1_u64.to_le_bytes());
        bytes[48..56].copy_from_slice(&1_u64.to_le_bytes());
        bytes[56..64].copy_from_slice(&SEGMENT_BYTES.to_le_bytes());
        let is_twisted = flags & 2 != 0;
        if is_twisted {
            let at = 8 + input.below(SEGMENT_HEADER_BYTES - 260);
            bytes[at] = input.byte();
        }
        seal_segment(&mut bytes);
        let (entries, previous_crc) = (Vec::new(), 0);
        Self { bytes, block, offset: block, sequence: 1, previous_crc, entries, is_twisted }
    }

    /// Adds a frame; whether there was room.
    fn frame(&mut self, input: &mut Input) -> bool {
        let twists = input.byte();
        let (payload, mut records) = self.payload(input, twists);
        let end = self.offset + FRAME_HEADER_BYTES + payload.len();
        if end > self.bytes.len() {
            // What was gathered for it is not in the log.
            self.is_twisted = true;
            return false;
        }
        if twists & 1 != 0 {
            records = u32::from(input.byte());
        }
        let frame = &mut self.bytes[self.offset..end];
        frame[..4].copy_from_slice(b"VWLF");
        frame[4..6].copy_from_slice(&2_u16.to_le_bytes());
        frame[8..16].copy_from_slice(&1_u64.to_le_bytes());
        frame[16..24].copy_from_slice(&1_u64.to_le_bytes());
        frame[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        frame[32..40].copy_from_slice(&(self.sequence - 1).to_le_bytes());
        frame[40..44].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        frame[44..48].copy_from_slice(&records.to_le_bytes());
        frame[56..60].copy_from_slice(&self.previous_crc.to_le_bytes());
        frame[FRAME_HEADER_BYTES..].copy_from_slice(&payload);
        if twists & 2 != 0 {
            // Any byte of the header or the payload.
            let at = 4 + (usize::from(input.u16()) % (frame.len() - 4));
            frame[at] = input.byte();
        }
        self.is_twisted |= twists & 0x0f != 0;
        let crc = if twists & 4 != 0 { None } else { seal_frame(&mut self.bytes, self.offset) };
        self.previous_crc = crc.unwrap_or(0);
        self.sequence += 1;
        self.offset = end.next_multiple_of(self.block);
        if twists & 8 != 0 {
            self.offset += self.block * input.below(4);
        }
        true
    }

    /// The records of a frame and their number. The first frame begins with a base.
    fn payload(&mut self, input: &mut Input, twists: u8) -> (Vec<u8>, u32) {
        let mut payload = Vec::new();
        let mut records = 0;
        if self.sequence == 1 {
            payload.extend(record(4, 1, &1_u64.to_le_bytes()));
            records += 1;
        }
        for _ in 0..1 + input.below(RECORDS_MAX) {
            let kind = input.byte();
            let length = usize::from(input.byte()) * if kind & 64 == 0 { 1 } else { 8 };
            let content = vec![input.byte(); length];
            let next = self.entries.len() as u64 + 1;
            let added = match kind & 31 {
                0 => record(2, 0, &content),
                // Wild: any kind, any index, any place of the log.
                1 => {
                    self.is_twisted = true;
                    let index = u64::from(input.u16()).rotate_right(u32::from(input.byte()));
                    record(input.byte(), index, &content)
                }
                2 => {
                    self.is_twisted = true;
                    record(3, u64::from(input.byte()), &[])
                }
                3 if next > 1 => {
                    let index = next - 1;
                    self.entries.pop();
                    self.entries.push(Bytes::from(content.clone()));
                    record(1, index, &content)
                }
                _ => {
                    self.entries.push(Bytes::from(content.clone()));
                    record(1, next, &content)
                }
            };
            payload.extend(added);
            records += 1;
        }
        if twists & 16 != 0 {
            // A record whose own checksum is wrong in a frame whose checksum is right.
            self.is_twisted = true;
            let at = usize::from(input.u16()) % payload.len();
            payload[at] ^= 1 << input.below(8);
        }
        (payload, records)
    }
}

/// Frames without a twist, and one of each twist.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let plain = [0, 1, 9, 40, 7, 9, 200, 1];
    let mut seeds = vec![("plain".to_owned(), [&[0], plain.repeat(4).as_slice()].concat())];
    seeds.push(("blocks-of-4096".to_owned(), [&[1], plain.repeat(3).as_slice()].concat()));
    seeds.push(("segment-header".to_owned(), [&[2, 30, 9], plain.as_slice()].concat()));
    for twist in 0..5 {
        let mut tape = [&[0], plain.repeat(2).as_slice()].concat();
        tape.extend([1 << twist, 1, 9, 40, 7, 9, 200, 1, 3, 3, 3]);
        tape.extend(plain);
        seeds.push((format!("twist-{twist}"), tape));
    }
    seeds.push(("wild-record".to_owned(), vec![0, 0, 1, 1, 9, 5, 7, 7, 3, 4, 3, 9, 9]));
    seeds.push(("overwritten".to_owned(), vec![0, 0, 2, 9, 9, 1, 3, 8, 2, 3, 7, 3, 0, 0]));
    seeds
}
