//! Compressed frames: they hold what plain ones hold, in fewer blocks, and what cannot be decoded
//! is refused.
//!
//! Crashes with compressed frames are in `crash.rs`, golden files in `golden.rs`.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::Disk;
use varve_disk::sim::SimDisk;
use varve_wal::{Batch, Error, Options, Wal, check};

use crate::model::{DIR, IDENTITY};

const SEGMENT: &str = "/data/wal/0000000000000001.wal";
/// Where the first frame begins, and in it the fields of its header.
const FRAME: usize = 512;
const CODING_AT: usize = 6;
const PLAIN_BYTES_AT: usize = 48;

fn open(disk: &SimDisk, compress_bytes_min: Option<u32>) -> varve_wal::Result<Wal> {
    let options = Options {
        identity: IDENTITY,
        segment_bytes: 256 << 10,
        // What is read comes from the files.
        cache_bytes_max: 0,
        compress_bytes_min,
        ..Options::default()
    };
    Wal::open_with_block_bytes(Arc::new(disk.clone()), Path::new(DIR), options, 512)
}

/// Entries that compress well, of several sizes.
fn batch(first: u64, count: u64) -> Batch {
    let mut batch = Batch::default();
    for index in first..first + count {
        batch.entry(index, payload(index));
    }
    batch.state(Bytes::from(format!("state {first}")));
    batch
}

fn payload(index: u64) -> Bytes {
    let text = format!("{{\"kind\":\"Pod\",\"name\":\"pod-{index}\"}},");
    Bytes::from(text.repeat(1 + index as usize % 50))
}

fn assert_holds(wal: &Wal, count: u64) {
    assert_eq!((wal.first_index(), wal.last_index()), (1, count));
    for low in 1..=count {
        for high in [low + 1, (low + 7).min(count + 1), count + 1] {
            let found = wal.entries(low, high, u64::MAX).unwrap();
            assert_eq!(found.len() as u64, high - low);
            assert!((low..).zip(found).all(|(index, found)| found == payload(index)));
        }
    }
}

#[test]
fn plain_and_compressed_frames_stand_in_one_log() {
    let disk = SimDisk::new(1);
    let mut next = 1;
    for compress_bytes_min in [None, Some(2000), Some(0), None] {
        let mut wal = open(&disk, compress_bytes_min).unwrap();
        for count in [1, 9, 1, 20] {
            wal.append(&batch(next, count)).unwrap();
            next += count;
        }
        let compressed = wal.counters().compressed_frames;
        assert_eq!(compressed > 0, compress_bytes_min.is_some(), "{compress_bytes_min:?}");
        assert_holds(&wal, next - 1);
        drop(wal);
        assert_holds(&open(&disk, None).unwrap(), next - 1);
        let report = check(&disk, Path::new(DIR), &IDENTITY).unwrap();
        assert_eq!((report.violations, report.last_index), (Vec::new(), next - 1));
    }
}

#[test]
fn compression_saves_blocks_and_is_not_used_where_it_does_not() {
    let written = |compress_bytes_min, batch: &Batch| {
        let mut wal = open(&SimDisk::new(1), compress_bytes_min).unwrap();
        wal.append(batch).unwrap();
        (wal.counters().compressed_frames, wal.counters().written_bytes)
    };
    let large = batch(1, 40);
    let (frames, plain) = written(None, &large);
    assert_eq!(frames, 0);
    let (frames, compressed) = written(Some(0), &large);
    assert_eq!(frames, 1);
    assert!(compressed * 5 < plain, "{compressed} of {plain}");
    assert_eq!(written(Some(1 << 20), &large), (0, plain), "below the bound");
    // One block cannot become less.
    assert_eq!(written(Some(0), &batch(1, 1)), (0, 512));
    let mut noise = Batch::default();
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    noise.entry(1, (0..50_000).map(|_| next()).collect::<Vec<u8>>().into());
    assert_eq!(written(Some(0), &noise).0, 0);
}

#[test]
fn an_overwrite_leaves_parts_of_a_compressed_frame() {
    let disk = SimDisk::new(1);
    let mut wal = open(&disk, Some(0)).unwrap();
    wal.append(&batch(1, 30)).unwrap();
    wal.append(&batch(20, 30)).unwrap();
    assert_eq!(wal.counters().compressed_frames, 2);
    assert_holds(&wal, 49);
    drop(wal);
    assert_holds(&open(&disk, Some(0)).unwrap(), 49);
}

#[test]
fn a_payload_that_cannot_be_decoded_is_refused_with_file_and_offset() {
    type Damage = fn(&mut [u8]);
    let bomb: Damage = |bytes| {
        bytes[FRAME + PLAIN_BYTES_AT..][..4].copy_from_slice(&(17u32 << 20).to_le_bytes());
    };
    let short: Damage = |bytes| bytes[FRAME + PLAIN_BYTES_AT] ^= 1;
    let garbage: Damage = |bytes| bytes[FRAME + 64..][..4].fill(0);
    let newer: Damage = |bytes| bytes[FRAME + CODING_AT] = 2;
    let cases = [
        ("at most 16777216 bytes, found 17825792", bomb),
        ("compressed by zstd, found", short),
        ("compressed by zstd, found", garbage),
        ("has a frame of coding 2 at offset 512, this program knows up to 1", newer),
    ];
    for (text, damage) in cases {
        let disk = SimDisk::new(1);
        let mut wal = open(&disk, Some(0)).unwrap();
        wal.append(&batch(1, 30)).unwrap();
        wal.append(&batch(31, 30)).unwrap();
        drop(wal);
        let mut files = disk.durable_files();
        let bytes = files.get_mut(&PathBuf::from(SEGMENT)).unwrap();
        assert_eq!(bytes[FRAME + CODING_AT], 1);
        damage(bytes);
        mend(bytes);
        let disk = SimDisk::from_files(1, &files).unwrap();
        let Err(error) = open(&disk, Some(0)) else { panic!("{text}: it was opened") };
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.to_string().contains(SEGMENT), "{error}");
        assert_eq!(disk.durable_files(), files, "a refusal changes nothing");
        let report = check(&disk, Path::new(DIR), &IDENTITY).unwrap();
        assert!(report.violations[0].contains(text), "{:?}", report.violations);
    }
}

#[test]
fn every_flipped_bit_of_a_compressed_frame_is_found_when_it_is_read_back() {
    let disk = SimDisk::new(1);
    let mut wal = open(&disk, Some(0)).unwrap();
    wal.append(&batch(1, 10)).unwrap();
    let path = PathBuf::from(SEGMENT);
    let stored = disk.durable_files()[&path].clone();
    let length = stored[FRAME + 40..][..4].try_into().map(u32::from_le_bytes).unwrap();
    for byte in 0..64 + u64::from(length) {
        let at = FRAME as u64 + byte;
        let bit = (byte % 8) as u32;
        disk.flip_bit(&path, at, bit).unwrap();
        let error = wal.entries(1, 11, u64::MAX).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "byte {byte}: {error}");
        disk.flip_bit(&path, at, bit).unwrap();
    }
    assert_holds(&wal, 10);
    assert!(disk.exists(&path).unwrap());
}

/// Gives the first frame the checksum that its bytes ask for.
fn mend(bytes: &mut [u8]) {
    let length = bytes[FRAME + 40..][..4].try_into().map(u32::from_le_bytes).unwrap();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[16..48]);
    hasher.update(&bytes[FRAME..FRAME + 60]);
    hasher.update(&bytes[FRAME + 64..FRAME + 64 + length as usize]);
    let crc = hasher.finalize().to_le_bytes();
    bytes[FRAME + 60..FRAME + 64].copy_from_slice(&crc);
}
