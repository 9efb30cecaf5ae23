//! Bits rot: one bit of every byte of a log, then the log is opened. It is refused, or the log is
//! the same as before, or it lacks its last batch and nothing else - for rot of the newest frame
//! cannot be told from a torn write of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::{DIR, Model, Operation, Shape, to_batch};
use bytes::Bytes;
use varve_disk::sim::{Random, SimDisk};
use varve_wal::Error;

const SHAPE: Shape = Shape { segment_bytes: 8 << 10, block_bytes: 512, compress_bytes_min: None };

/// What happened to a log with a flipped bit.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    refused: u64,
    unchanged: u64,
    cut: u64,
}

#[test]
fn a_flipped_bit_anywhere_is_refused_or_harmless() {
    let (files, before, after) = reference_log();
    let mut random = Random::new(7);
    let mut tally = Tally::default();
    let whole = SimDisk::from_files(1, &files).unwrap();
    assert_eq!(after.difference(&SHAPE.open(&whole).unwrap()), None);
    for (path, bytes) in &files {
        for byte in 0..bytes.len() as u64 {
            let bit = random.below(8) as u32;
            let disk = SimDisk::from_files(1, &files).unwrap();
            disk.flip_bit(path, byte, bit).unwrap();
            let context = format!("bit {bit} of byte {byte} of {}", path.display());
            open_flipped(&disk, &before, &after, &context, &mut tally);
        }
    }
    // The sizes of the reference log's parts: headers and all frames but the last are refused, the
    // last frame is cut, padding and unused blocks are harmless.
    assert_eq!(tally.refused, refused_bytes(), "{tally:?}");
    assert_eq!(tally.cut, 64 + 20 + 10 + 25, "the last frame: {tally:?}");
    assert!(tally.unchanged > 0, "{tally:?}");
}

/// Somebody else's bytes, or a bug: what the checksums do not catch must not panic either.
#[test]
fn garbage_of_any_kind_is_opened_or_refused_but_never_panics() {
    let (files, _, _) = reference_log();
    let seeds = std::env::var("VARVE_SEEDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(1500) {
        let mut random = Random::new(seed);
        let mut files = files.clone();
        for bytes in files.values_mut() {
            damage(&mut random, bytes);
        }
        let disk = SimDisk::from_files(seed, &files).unwrap();
        let report = varve_wal::check(&disk, DIR.as_ref(), &crate::model::IDENTITY).unwrap();
        match SHAPE.open(&disk) {
            Ok(wal) => {
                let (first, next) = (wal.first_index(), wal.last_index() + 1);
                let _ = wal.entries(first, next, u64::MAX);
            }
            Err(error) => assert!(!report.violations.is_empty(), "seed {seed}: {error}"),
        }
    }
}

#[test]
fn rot_of_a_record_is_found_when_it_is_read_back() {
    let disk = SimDisk::new(1);
    let mut wal = SHAPE.open(&disk).unwrap();
    let mut model = Model::new();
    for index in 1..=8 {
        let operation = append(index, 600, None);
        wal.append(&to_batch(&operation)).unwrap();
        model.apply(&operation);
    }
    let path = PathBuf::from("/data/wal/0000000000000001.wal");
    disk.flip_bit(&path, 512 + 64 + 28 + 20 + 100, 3).unwrap();
    let error = wal.entries(1, 2, u64::MAX).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(wal.entries(2, 9, u64::MAX).unwrap().len(), 7);
}

fn open_flipped(disk: &SimDisk, before: &Model, after: &Model, context: &str, tally: &mut Tally) {
    let files = disk.current_files();
    match SHAPE.open(disk) {
        Err(Error::Damaged { path, found, expected, .. }) => {
            assert!(files.contains_key(&path), "{context}: {}", path.display());
            assert!(!found.is_empty() && !expected.is_empty(), "{context}");
            assert_eq!(disk.current_files(), files, "{context}: a refusal changes nothing");
            tally.refused += 1;
        }
        Err(error) => panic!("{context}: {error}"),
        Ok(wal) if after.difference(&wal).is_none() => tally.unchanged += 1,
        Ok(wal) => {
            assert_eq!(before.difference(&wal), None, "{context}");
            tally.cut += 1;
        }
    }
}

/// Changes a few bytes, mostly where there is structure, and half of the time mends the checksum of
/// the frame around them.
fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    let block = 512 * (1 + random.below(4) as usize);
    for _ in 0..random.below(3) {
        let at = if random.one_in(2) { random.below(130) } else { random.below(4000) } as usize;
        let value = if random.one_in(2) { random.below(4) as u8 } else { random.next_u64() as u8 };
        bytes[block + at] = value;
    }
    if random.one_in(2) {
        mend(bytes, block);
    }
    if random.one_in(50) {
        bytes.truncate(random.below(bytes.len() as u64) as usize);
    }
}

/// Gives the frame at `offset` the checksum that its bytes ask for.
fn mend(bytes: &mut [u8], offset: usize) {
    let length = [40, 41, 42, 43].map(|at| bytes[offset + at]);
    let end = offset + 64 + u32::from_le_bytes(length) as usize;
    if end > bytes.len() {
        return;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[16..48]);
    hasher.update(&bytes[offset..offset + 60]);
    hasher.update(&bytes[offset + 64..end]);
    let crc = hasher.finalize().to_le_bytes();
    bytes[offset + 60..offset + 64].copy_from_slice(&crc);
}

/// Files of a log of three segments and a spare, the model without its last batch, and with it.
fn reference_log() -> (BTreeMap<PathBuf, Vec<u8>>, Model, Model) {
    let disk = SimDisk::new(1);
    let mut wal = SHAPE.open(&disk).expect("a new log opens");
    let mut model = Model::new();
    let mut before = model.clone();
    for (index, length) in FRAMES {
        let state = (index % 3 == 0).then(|| Bytes::from_static(b"state"));
        let operation = append(index, length, state);
        wal.append(&to_batch(&operation)).expect("the disk works");
        before = model.clone();
        model.apply(&operation);
        if index == TRUNCATE_AT {
            wal.truncate_front(3).expect("the disk works");
            model.apply(&Operation::Truncate(3));
        }
    }
    (disk.durable_files(), before, model)
}

/// Index and payload bytes of each frame. With blocks of 512 bytes in segments of 8 KiB, frames
/// 1 to 3 fill a segment, and frames 4 and 5, and 6 and 7; frame 8 begins the fourth.
const FRAMES: [(u64, usize); 9] = [
    (1, 3000),
    (2, 1000),
    (3, 2000),
    (4, 3000),
    (5, 3000),
    (6, 2900),
    (7, 3000),
    (8, 3000),
    (9, 10),
];

const TRUNCATE_AT: u64 = 7;

/// Bytes of segment headers and of the frames 4 to 8, without padding: every bit of them counts.
fn refused_bytes() -> u64 {
    let frame = 64 + 20;
    let base = 20 + 8 + 20 + 5;
    let state = 20 + 5;
    let headers = 3 * 512;
    let frames_4_and_5 = (base + frame + 3000) + (frame + 3000);
    let frames_6_and_7 = (base + frame + 2900 + state) + (frame + 3000);
    let frame_8 = base + frame + 3000;
    headers + frames_4_and_5 + frames_6_and_7 + frame_8
}

fn append(index: u64, length: usize, state: Option<Bytes>) -> Operation {
    let payload = (0..length).map(|at| (at as u64 * 31 + index) as u8).collect::<Vec<_>>();
    Operation::Append { reset: None, entries: vec![(index, Bytes::from(payload))], state }
}
