//! Tests of compressed segments: as plain ones, and frames on top.

use super::*;
use crate::segment::frames::FRAME_BYTES_MAX;

/// Small frames, so that a few values make several.
const SMALL: Compression = Compression { level: 3, frame_bytes: 600 };

/// Text of which much repeats, and which says whose it is.
fn text(number: usize, length: usize) -> Vec<u8> {
    let words = format!("{{\"name\":\"thing-{number}\",\"state\":\"as it was\"}}");
    words.bytes().cycle().take(length).collect()
}

/// Texts of many lengths, with some that no zstd makes shorter.
fn mixed_values(seed: u64) -> Vec<Vec<u8>> {
    let noise = random_values(seed);
    let lengths = noise.iter().map(Vec::len).collect::<Vec<_>>();
    let texts = lengths.iter().enumerate().map(|(number, length)| text(number, *length));
    texts.zip(noise).flat_map(|(text, noise)| [text, noise]).collect()
}

#[test]
fn values_come_back_and_take_less_space_under_the_same_handles() {
    for (seed, frame_bytes) in [(0, 1), (1, 600), (2, 16 << 10), (3, FRAME_BYTES_MAX)] {
        let compression = Some(Compression { level: 1, frame_bytes });
        let values = mixed_values(seed);
        let (disk, plain_disk) = (SimDisk::new(seed), SimDisk::new(seed));
        let (info, handles, bytes) = write_as(&disk, &values, compression);
        let (plain_info, plain_handles, plain_bytes) = write_as(&plain_disk, &values, None);
        assert_eq!((&handles, bytes), (&plain_handles, plain_bytes));
        assert_eq!((info.values, info.value_bytes), (plain_info.values, plain_info.value_bytes));
        assert!(info.bytes < plain_info.bytes, "{} of {}", info.bytes, plain_info.bytes);
        let segment = open(&disk, &info).expect("a segment just written");
        assert!(is_intact(&segment));
        let mut walk = Walk::default();
        for _ in 0..2 {
            for (value, handle) in values.iter().zip(&handles) {
                assert_eq!(read(&segment, *handle).expect("a sound value"), value);
                let walked = walk.value(&segment, *handle).expect("a sound value");
                assert_eq!(&*walked, value.as_slice());
                assert!(walk.kept_bytes() <= frame_bytes, "a long value is not kept");
            }
        }
        // In no order at all, and from several threads.
        std::thread::scope(|scope| {
            for seed in 0..3 {
                let (segment, values, handles) = (&segment, &values, &handles);
                scope.spawn(move || {
                    let mut random = Random::new(seed);
                    for _ in 0..300 {
                        let at = random.below(values.len() as u64) as usize;
                        assert_eq!(read(segment, handles[at]).expect("sound"), values[at]);
                    }
                });
            }
        });
        assert!(segment.cache.bytes() <= 1 << 20);
    }
}

#[test]
fn long_values_are_slices_of_their_frame_and_short_ones_are_copies() {
    let disk = SimDisk::new(1);
    let values = [text(1, 4096), text(2, 4097), random_bytes(5_000)];
    let compression = Some(Compression { level: 3, frame_bytes: 16 << 10 });
    let (info, handles, _) = write_as(&disk, &values, compression);
    let segment = open(&disk, &info).unwrap();
    // The frame of the first two is kept in the cache, so what is no copy is at one place.
    let kept = [read(&segment, handles[0]).unwrap(), read(&segment, handles[1]).unwrap()];
    assert_ne!(kept[0].as_ptr(), read(&segment, handles[0]).unwrap().as_ptr());
    assert_eq!(kept[1].as_ptr(), read(&segment, handles[1]).unwrap().as_ptr());
    // What zstd cannot make smaller is stored as it is, and read in place.
    let last = Some(Compression { level: 3, frame_bytes: 1 });
    let disk = SimDisk::new(2);
    let (info, handles, _) = write_as(&disk, &values, last);
    let segment = open(&disk, &info).unwrap();
    let map = segment.map.as_ptr_range();
    assert!(map.contains(&read(&segment, handles[2]).unwrap().as_ptr()));
    assert!(!map.contains(&read(&segment, handles[1]).unwrap().as_ptr()));
}

fn random_bytes(length: usize) -> Vec<u8> {
    let mut random = Random::new(9);
    std::iter::repeat_with(|| random.next_u64() as u8).take(length).collect()
}

#[test]
fn an_empty_segment_opens() {
    let disk = SimDisk::new(1);
    let (info, _, _) = write_as(&disk, &[], Some(SMALL));
    let segment = open(&disk, &info).unwrap();
    assert!(is_intact(&segment));
    let nothing = ValueHandle { segment: ID, offset: HEADER_BYTES as u32, length: 0 };
    assert!(read(&segment, nothing).is_err());
}

#[test]
fn reading_goes_on_without_a_cache_and_while_others_hold_it() {
    let disk = SimDisk::new(1);
    let values: Vec<_> = (0..50).map(|number| text(number, 100 + number)).collect();
    let (info, handles, _) = write_as(&disk, &values, Some(SMALL));
    let segment = open(&disk, &info).unwrap();
    let held = segment.cache.hold_shards();
    for (value, handle) in values.iter().zip(&handles) {
        assert_eq!(read(&segment, *handle).unwrap(), value);
    }
    drop(held);
    assert_eq!(segment.cache.bytes(), 0);
    let cache = Arc::new(FrameCache::new(0));
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let segment = Segment::open(&disk, Path::new(DIR), info, &cache).unwrap();
    for (value, handle) in values.iter().zip(&handles) {
        assert_eq!(read(&segment, *handle).unwrap(), value);
    }
}

/// All single bits of a small file: what opens says of each value what it is, or that it is damaged.
#[test]
fn every_flipped_bit_is_found() {
    let values = [text(0, 40), text(1, 0), text(2, 700), text(3, 300), random_bytes(200)];
    let compression = Some(Compression { level: 3, frame_bytes: 400 });
    let disk = SimDisk::new(1);
    let (info, handles, _) = write_as(&disk, &values, compression);
    let bytes = disk.current_files().remove(&path()).unwrap();
    let sound = open(&disk, &info).unwrap();
    let frames = sound.frames.as_ref().expect("it is compressed");
    let (mut refused, mut read_as_damaged, mut unused) = (0, 0, 0);
    for bit in 0..bytes.len() * 8 {
        let (at, mask) = (bit / 8, 1 << (bit % 8));
        let mut damaged = bytes.clone();
        damaged[at] ^= mask;
        let segment = match open(&disk_with(&damaged), &info) {
            Ok(segment) => segment,
            Err(Error::Corrupt { .. }) => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("bit {bit}: {error}"),
        };
        assert!(!is_intact(&segment), "bit {bit}");
        let mut is_found = false;
        for (handle, value) in handles.iter().zip(&values) {
            let frame = frames.at(handle.offset as usize);
            match read(&segment, *handle) {
                Ok(found) => assert_eq!(found, value, "bit {bit} makes another value"),
                Err(Error::Corrupt { file, offset, .. }) => {
                    assert_eq!(file, "/99aabbccddeeff00.vs");
                    assert!(frame.stored.contains(&(offset as usize)), "bit {bit}: {offset}");
                    assert!(frame.stored.contains(&at), "bit {bit} is of another frame");
                    is_found = true;
                }
                Err(error) => panic!("bit {bit}: {error}"),
            }
            let must_be_found = frame.stored.contains(&at) && !frame.is_stored_plain();
            assert!(!must_be_found || is_found, "bit {bit} is damaged and not found");
        }
        if is_found {
            read_as_damaged += 1;
        } else {
            unused += 1;
        }
    }
    println!(
        "{} bits: {refused} refused at open, {read_as_damaged} when a value is read, {unused} unused",
        bytes.len() * 8
    );
    assert!(refused > 0 && read_as_damaged > 0);
    // Zeros between sections and values, and checksums of sections that open does not compare.
    assert!(unused < 8 * 150, "{unused}");
}

#[test]
fn truncated_files_are_refused_with_and_without_frames() {
    let disk = SimDisk::new(1);
    let values: Vec<_> = (0..20).map(|number| text(number, 90)).collect();
    let (info, _, _) = write_as(&disk, &values, Some(SMALL));
    let bytes = disk.current_files().remove(&path()).unwrap();
    for length in 0..bytes.len() {
        let error = open(&disk_with(&bytes[..length]), &info).err().expect("a shorter file");
        assert!(matches!(error, Error::Corrupt { .. }));
    }
}

/// Recomputes the checksums that the frame of a file has.
fn seal(bytes: &mut [u8], info: &mut SegmentInfo) {
    let tail = bytes.len() - 40;
    let footer = tail - 3 * 32;
    for record in (footer..tail).step_by(32) {
        let range = |at: usize| u64_at(bytes, record + at) as usize;
        let (start, length) = (range(8), range(16));
        if let Some(section) = bytes.get(start..start.saturating_add(length)) {
            let checksum = xxhash_rust::xxh3::xxh3_64(section);
            bytes[record + 24..record + 32].copy_from_slice(&checksum.to_le_bytes());
        }
    }
    let checksum = crc32fast::hash(&bytes[footer..tail + 28]);
    bytes[tail + 28..tail + 32].copy_from_slice(&checksum.to_le_bytes());
    info.digest = xxhash_rust::xxh3::xxh3_128(bytes);
}

#[test]
fn forged_directories_and_frames_do_not_panic_and_make_no_other_value() {
    let disk = SimDisk::new(1);
    let values: Vec<_> = (0..30).map(|number| text(number, 20 + 13 * number)).collect();
    let (info, handles, _) = write_as(&disk, &values, Some(SMALL));
    let bytes = disk.current_files().remove(&path()).unwrap();
    let segment = open(&disk, &info).unwrap();
    let frames = segment.frames.as_ref().unwrap();
    let stored_end = frames.at(frames.end() - 1).stored.end;
    let (mut refused, mut damaged, mut sound) = (0, 0, 0);
    for seed in 0..4_000 {
        let mut random = Random::new(seed);
        let (mut forged, mut info) = (bytes.clone(), info.clone());
        for _ in 0..=random.below(3) {
            // Mostly in the directory.
            let at = match random.below(4) {
                0 => HEADER_BYTES + random.below((stored_end - HEADER_BYTES) as u64) as usize,
                _ => stored_end + random.below((bytes.len() - stored_end) as u64) as usize,
            };
            let word = random.next_u64() >> random.below(64);
            let length = random.below(9).min((bytes.len() - at) as u64) as usize;
            forged[at..at + length].copy_from_slice(&word.to_le_bytes()[..length]);
        }
        seal(&mut forged, &mut info);
        let Ok(segment) = open(&disk_with(&forged), &info) else {
            refused += 1;
            continue;
        };
        for (handle, value) in handles.iter().zip(&values) {
            match read(&segment, *handle) {
                Ok(found) => {
                    assert_eq!(found, value, "seed {seed}");
                    sound += 1;
                }
                Err(error) => {
                    assert!(matches!(error, Error::Corrupt { .. }), "seed {seed}: {error}");
                    damaged += 1;
                }
            }
        }
    }
    println!("{refused} files refused; of the others {damaged} values damaged, {sound} sound");
    assert!(refused > 0 && damaged > 0 && sound > 0);
}

#[test]
fn a_frame_that_claims_too_much_is_refused_before_it_is_decoded() {
    let zeros = vec![0; FRAME_BYTES_MAX - 64];
    let disk = SimDisk::new(1);
    let (mut info, _, _) = write_as(&disk, &[zeros, vec![1; 8]], Some(SMALL));
    assert!(info.bytes < 10_000, "{} bytes", info.bytes);
    let mut bytes = disk.current_files().remove(&path()).unwrap();
    let sections = parse_frame(&FORMAT, ID, &bytes).unwrap();
    let at = section(&sections, SECTION_FRAMES, "frames").unwrap().range().start;
    // The second frame, and the end of all, a mebibyte further on.
    for (at, width) in [(at, 8), (at + 16 + 12, 4)] {
        let moved = u64::from(u32_at(&bytes, at)) + (1 << 20);
        bytes[at..at + width].copy_from_slice(&moved.to_le_bytes()[..width]);
    }
    seal(&mut bytes, &mut info);
    let error = open(&disk_with(&bytes), &info).err().expect("17 MiB").to_string();
    assert!(error.contains("expected a frame of a sound length"), "{error}");
}

#[test]
fn a_program_that_knows_no_frames_refuses_them() {
    let disk = SimDisk::new(1);
    write_as(&disk, &[text(1, 900)], Some(SMALL));
    let bytes = disk.current_files().remove(&path()).unwrap();
    let older = Format { features_incompatible: 0, ..FORMAT };
    let flaw = parse_frame(&older, ID, &bytes).unwrap_err();
    assert_eq!((flaw.offset, flaw.found.as_str()), (12, "unknown features 0x1"));
}

/// The golden file as it was blessed; another one has another.
const GOLDEN_DIGEST: u128 = 0x6146_48c7_6ee4_051a_c028_1ca9_a82a_6025;

/// A compressed segment of version 1, which opens forever. What zstd makes of values may change with
/// its release; that what it made is read does not. See `table/tests/golden.rs`.
#[test]
fn golden_segment_of_three_frames() {
    let golden_path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/segment_v1_frames.vs");
    let values = [text(1, 200), text(2, 350), vec![], random_bytes(90), text(3, 5_000)];
    let disk = SimDisk::new(0);
    let (info, handles, _) = write_as(&disk, &values, Some(SMALL));
    if std::env::var_os("VARVE_BLESS").is_some() {
        let written = disk.current_files().remove(&path()).unwrap();
        std::fs::write(&golden_path, written).expect("a writable tree");
    }
    let golden = std::fs::read(&golden_path).expect("VARVE_BLESS=1 writes it");
    let (bytes, digest) = (golden.len() as u64, xxhash_rust::xxh3::xxh3_128(&golden));
    assert_eq!(digest, GOLDEN_DIGEST, "{digest:#x}");
    let segment = open(&disk_with(&golden), &SegmentInfo { bytes, digest, ..info }).unwrap();
    let frames = segment.frames.as_ref().expect("it is compressed");
    for (value, handle) in values.iter().zip(&handles) {
        assert_eq!(read(&segment, *handle).expect("a sound value"), value);
    }
    let numbers = handles.iter().map(|handle| frames.at(handle.offset as usize).number);
    assert_eq!(numbers.collect::<Vec<_>>(), [0, 0, 0, 1, 2]);
    assert!(frames.at(handles[3].offset as usize).is_stored_plain());
}
