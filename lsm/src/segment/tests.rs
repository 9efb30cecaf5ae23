//! Tests of value segments.

use std::path::PathBuf;

use varve_disk::sim::{CrashStyle, Random, SimDisk};

use super::*;

mod compressed;

const DIR: &str = "/";
const ID: u64 = 0x99aa_bbcc_ddee_ff00;

fn write(disk: &SimDisk, values: &[Vec<u8>]) -> (SegmentInfo, Vec<ValueHandle>) {
    let (info, handles, bytes) = write_as(disk, values, None);
    assert!(bytes <= info.bytes && info.bytes < bytes + 300);
    (info, handles)
}

/// Also how many bytes the builder counted.
fn write_as(
    disk: &SimDisk,
    values: &[Vec<u8>],
    compression: Option<Compression>,
) -> (SegmentInfo, Vec<ValueHandle>, u64) {
    let disk = Arc::new(disk.clone());
    let builder = SegmentBuilder::new(disk, Path::new(DIR), ID, compression);
    let mut builder = builder.expect("a free name");
    let handles = values.iter().map(|value| builder.add(value).expect("the disk works")).collect();
    let bytes = builder.bytes();
    (builder.finish().expect("the disk works"), handles, bytes)
}

fn open(disk: &SimDisk, info: &SegmentInfo) -> Result<Arc<Segment>> {
    let cache = Arc::new(FrameCache::new(1 << 20));
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Segment::open(&disk, Path::new(DIR), info.clone(), &cache)
}

/// A value as readers get it.
fn read(segment: &Segment, handle: ValueHandle) -> Result<Bytes> {
    segment.value(handle, None).map(Value::into_bytes)
}

/// Whether the file has the digest that the manifest knows, as the scrubber asks.
fn is_intact(segment: &Segment) -> bool {
    xxhash_rust::xxh3::xxh3_128(&segment.content()) == segment.info().digest
}

fn path() -> PathBuf {
    Path::new(DIR).join(file_name(ID))
}

fn disk_with(bytes: &[u8]) -> SimDisk {
    SimDisk::from_files(0, &[(path(), bytes.to_vec())].into()).expect("a plain path")
}

/// Values of many lengths, among them those around every limit.
fn random_values(seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    let mut lengths = vec![0, 1, 7, 8, 9, 247, 248, 249, 255, 256, 257, 4095, 4096, 4097, 300_000];
    for _ in 0..200 {
        let bits = random.below(13);
        lengths.push(random.below(1 << bits) as usize);
    }
    let mut values = Vec::new();
    for length in lengths {
        let mut value = vec![0; length];
        value.fill_with(|| random.next_u64() as u8);
        values.push(value);
    }
    values
}

#[test]
fn values_come_back() {
    for seed in 0..4 {
        let values = random_values(seed);
        let disk = SimDisk::new(seed);
        let (info, handles) = write(&disk, &values);
        assert_eq!(info.values, values.len() as u64);
        assert_eq!(info.value_bytes, values.iter().map(|value| value.len() as u64).sum::<u64>());
        let segment = open(&disk, &info).expect("a segment just written");
        for _ in 0..2 {
            for (value, handle) in values.iter().zip(&handles) {
                assert_eq!(read(&segment, *handle).expect("a sound value"), value);
            }
        }
        assert!(is_intact(&segment));
    }
}

#[test]
fn long_values_are_slices_of_the_map_and_short_ones_are_copies() {
    let disk = SimDisk::new(1);
    let (info, handles) = write(&disk, &[vec![1; 4096], vec![2; 4097]]);
    let segment = open(&disk, &info).unwrap();
    let map = segment.map.as_ptr_range();
    assert!(!map.contains(&read(&segment, handles[0]).unwrap().as_ptr()));
    assert!(map.contains(&read(&segment, handles[1]).unwrap().as_ptr()));
}

#[test]
fn an_empty_segment_opens() {
    let disk = SimDisk::new(1);
    let (info, _) = write(&disk, &[]);
    assert!(is_intact(&open(&disk, &info).unwrap()));
}

#[test]
fn the_content_is_durable_when_the_builder_finished() {
    let disk = SimDisk::new(1);
    let (info, _) = write(&disk, &random_values(1));
    disk.sync_dir(Path::new(DIR)).unwrap();
    let disk = disk.crash_with(CrashStyle::LoseAll);
    assert!(is_intact(&open(&disk, &info).unwrap()));
}

#[test]
fn every_flipped_byte_is_found() {
    let values: Vec<Vec<u8>> = [0, 5, 16, 300, 700].map(|length| vec![7; length]).into();
    let disk = SimDisk::new(1);
    let (info, handles) = write(&disk, &values);
    let bytes = disk.current_files().remove(&path()).unwrap();
    for offset in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 0x10;
        let Ok(segment) = open(&disk_with(&damaged), &info) else { continue };
        assert!(!is_intact(&segment), "byte {offset} is damaged");
        // Reading finds all damage but that of bytes that are not used: zeros between values, and
        // what open takes from the manifest.
        let wrong = handles.iter().zip(&values).filter(|(handle, value)| {
            read(&segment, **handle).is_ok_and(|found| found != value.as_slice())
        });
        assert_eq!(wrong.count(), 0, "byte {offset} is damaged and not found");
        let holder = handles.iter().find(|handle| {
            let start = handle.offset as usize;
            (start..start + VALUE_HEADER_BYTES + handle.length as usize).contains(&offset)
        });
        if let Some(handle) = holder {
            let Err(Error::Corrupt { file, offset: at, .. }) = read(&segment, *handle) else {
                panic!("byte {offset} is damaged and not found")
            };
            assert_eq!(file, "/99aabbccddeeff00.vs");
            assert!(at as usize >= handle.offset as usize && at <= offset as u64);
        }
    }
}

#[test]
fn truncated_files_are_refused() {
    let disk = SimDisk::new(1);
    let (info, _) = write(&disk, &[vec![1; 100]]);
    let bytes = disk.current_files().remove(&path()).unwrap();
    for length in 0..bytes.len() {
        assert!(open(&disk_with(&bytes[..length]), &info).is_err());
        let shorter = SegmentInfo { bytes: length as u64, ..info.clone() };
        assert!(open(&disk_with(&bytes[..length]), &shorter).is_err());
    }
}

#[test]
fn a_manifest_that_says_otherwise_is_refused() {
    let disk = SimDisk::new(1);
    let (info, _) = write(&disk, &[vec![1; 100]]);
    for other in [
        SegmentInfo { values: 2, ..info.clone() },
        SegmentInfo { value_bytes: 99, ..info.clone() },
        SegmentInfo { bytes: info.bytes + 1, ..info.clone() },
    ] {
        assert!(open(&disk, &other).is_err());
    }
    let other = SegmentInfo { digest: info.digest ^ 1, ..info };
    assert!(!is_intact(&open(&disk, &other).unwrap()));
}

#[test]
fn handles_to_nowhere_are_errors() {
    let disk = SimDisk::new(1);
    let (info, handles) = write(&disk, &random_values(2));
    let segment = open(&disk, &info).unwrap();
    let mut random = Random::new(5);
    for _ in 0..20_000 {
        let handle = ValueHandle {
            segment: ID,
            offset: (random.next_u64() as u32) >> random.below(32),
            length: (random.next_u64() as u32) >> random.below(32),
        };
        assert!(read(&segment, handle).is_err() || handles.contains(&handle), "{handle:?}");
    }
    for handle in handles {
        let longer = ValueHandle { length: handle.length + 1, ..handle };
        read(&segment, longer).expect_err("another length than the value's");
    }
}

#[test]
fn forged_frames_do_not_panic() {
    let disk = SimDisk::new(1);
    let (info, handles) = write(&disk, &random_values(3)[..14]);
    let bytes = disk.current_files().remove(&path()).unwrap();
    let tail = bytes.len() - 40;
    let footer = tail - 2 * 32;
    for seed in 0..2000 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut forged = bytes.clone();
        let at = footer + random.below(100) as usize;
        let word = random.next_u64() >> random.below(64);
        let length = 8.min(bytes.len() - at);
        forged[at..at + length].copy_from_slice(&word.to_le_bytes()[..length]);
        let checksum = crc32fast::hash(&forged[footer..tail + 28]);
        forged[tail + 28..tail + 32].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(segment) = open(&disk_with(&forged), &info) {
            handles.iter().for_each(|handle| drop(read(&segment, *handle)));
        }
    }
}

/// The bytes of a segment of version 1, which opens forever; see `table/tests/golden.rs`.
#[test]
fn golden_segment_of_four_values() {
    let golden_path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/segment_v1_plain.vs");
    let values: Vec<Vec<u8>> = vec![b"value".to_vec(), vec![], vec![0xee; 8], vec![0x77; 300]];
    let disk = SimDisk::new(0);
    let (info, handles) = write(&disk, &values);
    let written = disk.current_files().remove(&path()).unwrap();
    if std::env::var_os("VARVE_BLESS").is_some() {
        std::fs::create_dir_all(golden_path.parent().unwrap()).expect("a writable tree");
        std::fs::write(&golden_path, &written).expect("a writable tree");
    }
    let golden = std::fs::read(&golden_path).expect("VARVE_BLESS=1 writes it");
    assert_eq!(golden, written);
    let segment = open(&disk_with(&golden), &info).expect("a file of version 1");
    assert!(is_intact(&segment));
    for (value, handle) in values.iter().zip(&handles) {
        assert_eq!(read(&segment, *handle).expect("a sound value"), value);
    }
}
