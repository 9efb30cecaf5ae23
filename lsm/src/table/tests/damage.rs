//! Damaged files are refused; forged files (damaged, with all checksums made right again) give
//! errors or wrong answers, never a panic.

use super::super::frame::{Section, encode_footer, parse_frame};
use super::super::{FORMAT, section};
use super::*;
use crate::manifest::{Identity, Manifest};
use crate::{Error, KeyRange};
use varve_disk::Disk;

fn small_table(seed: u64, shape: Shape) -> (TableInfo, Vec<u8>, Vec<Row>) {
    let rows = random_rows(&mut Random::new(seed), shape);
    let disk = SimDisk::new(seed);
    let info = write(&disk, &rows);
    (info, file_of(&disk), rows)
}

fn error_of(bytes: Vec<u8>, info: &TableInfo) -> String {
    match open(&disk_with(bytes), info) {
        Ok(_) => panic!("a damaged table was opened"),
        Err(Error::Corrupt { file, offset, expected, found }) => {
            assert!(file.ends_with("1122334455667788.kt"), "{file}");
            format!("at {offset}: expected {expected}, found {found}")
        }
        Err(error) => panic!("another error: {error}"),
    }
}

#[test]
fn every_flipped_byte_is_refused() {
    let (info, bytes, _) = small_table(1, SHAPES[1]);
    let mut random = Random::new(1);
    for offset in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 1 << random.below(8);
        error_of(damaged, &info);
    }
}

#[test]
fn a_damaged_section_is_named() {
    let (info, mut bytes, _) = small_table(1, SHAPES[1]);
    let sections = parse_frame(&FORMAT, ID, &bytes).unwrap();
    let index = sections.iter().find(|section| section.kind == section::INDEX).unwrap();
    bytes[index.range().start + 20] ^= 1;
    let error = error_of(bytes, &info);
    assert!(error.starts_with(&format!("at {}: expected a file with digest", index.offset)));
    assert!(error.ends_with("(damage in section 2)"), "{error}");
}

#[test]
fn truncated_and_extended_files_are_refused() {
    let (info, bytes, _) = small_table(2, SHAPES[1]);
    for length in 0..bytes.len() {
        let error = error_of(bytes[..length].to_vec(), &info);
        assert!(error.contains("expected file length"), "{error}");
        // Also if the manifest agrees with the length.
        let shorter = TableInfo { bytes: length as u64, ..info.clone() };
        error_of(bytes[..length].to_vec(), &shorter);
    }
    error_of([bytes.as_slice(), b"\0"].concat(), &info);
}

#[test]
fn another_tables_file_is_refused() {
    let (info, bytes, _) = small_table(3, SHAPES[1]);
    let (other, ..) = small_table(4, SHAPES[1]);
    error_of(bytes.clone(), &TableInfo { bytes: info.bytes, ..other });
    let path = Path::new(DIR).join(super::super::file_name(9));
    let disk = SimDisk::from_files(0, &[(path, bytes)].into()).unwrap();
    let error = open(&disk, &TableInfo { id: 9, ..info }).err().expect("refused").to_string();
    assert!(error.contains("expected file id 9"), "{error}");
}

#[test]
fn unknown_versions_and_features_are_refused() {
    let (mut info, bytes, _) = small_table(3, SHAPES[1]);
    for (offset, expected) in [(8, "expected version 1, found 3"), (12, "unknown features 0x2")] {
        let mut forged = bytes.clone();
        forged[offset] ^= 2;
        fix_checksums(&mut forged, &mut info);
        let error = error_of(forged, &info);
        assert!(error.contains(expected), "{error}");
    }
    // A compatible feature, on the other hand, changes nothing for old code.
    let mut forged = bytes.clone();
    forged[16] ^= 2;
    fix_checksums(&mut forged, &mut info);
    open(&disk_with(forged), &info).expect("a compatible feature").verify().expect("sound");
}

#[test]
fn a_manifest_that_says_otherwise_is_refused() {
    let (info, bytes, _) = small_table(5, SHAPES[2]);
    let mut segments = info.segments.clone();
    segments[1].1 += 1;
    for other in [
        TableInfo { rows: info.rows + 1, ..info.clone() },
        TableInfo { delta_sum: info.delta_sum - 1, ..info.clone() },
        TableInfo { first_key: Bytes::from("0"), ..info.clone() },
        TableInfo { last_key: Bytes::from("0"), ..info.clone() },
        TableInfo { revision_min: Revision::default(), ..info.clone() },
        TableInfo { revision_max: Revision::MAX, ..info.clone() },
        TableInfo { digest: info.digest ^ 1, ..info.clone() },
        TableInfo { segments, ..info.clone() },
        TableInfo { segments: Vec::new(), ..info.clone() },
    ] {
        error_of(bytes.clone(), &other);
    }
}

/// Makes the checksums of header, blocks, sections and footer, and the digest, those of the bytes
/// as they are now, as far as the structure still allows to find them.
fn fix_checksums(bytes: &mut [u8], info: &mut TableInfo) {
    let header = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&header.to_le_bytes());
    let tail = bytes.len() - 40;
    let count = u32::from_le_bytes(bytes[tail..tail + 4].try_into().unwrap()) as usize;
    if let Some(table) = tail.checked_sub(count.saturating_mul(32)) {
        let word =
            |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        for at in (table..tail).step_by(32) {
            let (offset, length) = (word(bytes, at + 8) as usize, word(bytes, at + 16) as usize);
            let content = offset.checked_add(length).and_then(|end| bytes.get(offset..end));
            let checksum = content.map_or(0, xxhash_rust::xxh3::xxh3_64);
            bytes[at + 24..at + 32].copy_from_slice(&checksum.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes[table..tail + 28]);
        bytes[tail + 28..tail + 32].copy_from_slice(&checksum.to_le_bytes());
    }
    info.bytes = bytes.len() as u64;
    info.digest = xxhash_rust::xxh3::xxh3_128(bytes);
}

/// Asks a table everything that can be asked.
fn exercise(random: &mut Random, table: &Arc<Table>, rows: &[Row]) {
    let _ = table.verify();
    for row in rows {
        let _ = table.get(&row.key, row.revision);
    }
    for _ in 0..20 {
        let mut row = || &rows[random.below(rows.len() as u64) as usize];
        let (start, end) = (row(), row());
        let range = KeyRange::between(start.key.clone(), end.key.clone());
        let _ = table.delta_sum(&range, start.revision.main);
        let _ = table.delta_sum(&range, u64::MAX);
        let _ = table.by_revision(start.revision.main, end.revision.main).take(1000).count();
        let mut cursor = table.cursor();
        let _ = cursor.seek_version(&start.key, end.revision);
        for _ in 0..100 {
            if cursor.key().is_some() {
                let _ = (cursor.row(), cursor.meta(), cursor.value_ref());
                let _ = (cursor.kind(), cursor.delta(), cursor.revision(), cursor.value_bytes());
            }
            let _ = if random.one_in(8) { cursor.advance_key() } else { cursor.advance() };
        }
    }
}

/// Puts a number that is likely to confuse at a random place.
fn mutate(random: &mut Random, bytes: &mut [u8], range: std::ops::Range<usize>) {
    let at = range.start + random.below(range.len().max(1) as u64) as usize;
    let word = match random.below(6) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << random.below(64),
        3 => random.next_u64(),
        4 => bytes.len() as u64 - random.below(100),
        _ => random.below(300),
    };
    let length = [1, 1, 2, 4, 8][random.below(5) as usize].min(bytes.len() - at);
    bytes[at..at + length].copy_from_slice(&word.to_le_bytes()[..length]);
}

#[test]
fn forged_files_do_not_panic() {
    let shapes = [SHAPES[1], Shape { keys: 60, ..SHAPES[7] }, Shape { keys: 900, ..SHAPES[2] }];
    for (number, shape) in shapes.into_iter().enumerate() {
        let (info, bytes, rows) = small_table(number as u64, shape);
        let sections = parse_frame(&FORMAT, ID, &bytes).unwrap();
        let mut opened = 0;
        for seed in 0..400 {
            let mut random = Random::new(seed);
            let (mut forged, mut info) = (bytes.clone(), info.clone());
            for _ in 0..=random.below(3) {
                let section = sections[random.below(sections.len() as u64) as usize];
                let range = match random.below(4) {
                    0 => 0..bytes.len(),
                    // The first block's header: what all its columns hang on.
                    1 => 64..64 + 72,
                    _ => section.range(),
                };
                mutate(&mut random, &mut forged, range);
            }
            fix_block_checksums(&mut forged, &sections);
            fix_checksums(&mut forged, &mut info);
            if let Ok(table) = open(&disk_with(forged), &info) {
                println!("shape {number} seed {seed}");
                exercise(&mut random, &table, &rows[..rows.len().min(200)]);
                opened += 1;
            }
        }
        assert!(opened > 40, "only {opened} forged files got past open: the test tests too little");
    }
}

/// Makes the checksums in block headers and in the index right.
fn fix_block_checksums(bytes: &mut [u8], sections: &[Section]) {
    let index = sections.iter().find(|section| section.kind == section::INDEX).unwrap().range();
    let count = u32::from_le_bytes(bytes[index.start..][..4].try_into().unwrap()) as usize;
    for number in 0..count.min(index.len() / 88) {
        let record = index.start + 16 + number * 88;
        if record + 88 > index.end {
            return;
        }
        let offset = u64::from_le_bytes(bytes[record..record + 8].try_into().unwrap()) as usize;
        let length =
            u32::from_le_bytes(bytes[record + 8..record + 12].try_into().unwrap()) as usize;
        let end = offset.saturating_add(length);
        if length < 4 || end > bytes.len() {
            continue;
        }
        let checksum = crc32fast::hash(&bytes[offset + 4..end]).to_le_bytes();
        bytes[offset..offset + 4].copy_from_slice(&checksum);
        bytes[record + 12..record + 16].copy_from_slice(&checksum);
    }
}

#[test]
fn verify_finds_what_open_does_not() {
    let (info, bytes, _) = small_table(8, SHAPES[2]);
    let sections = parse_frame(&FORMAT, ID, &bytes).unwrap();
    let filter = sections.iter().find(|section| section.kind == section::FILTER).unwrap();
    let revisions = sections.iter().find(|section| section.kind == section::REVISIONS).unwrap();
    // A control byte of the first block (behind its header, prefix and heads), an empty filter, a
    // permutation that names a row twice.
    let word = |at: usize| u32::from_le_bytes(bytes[64 + at..][..4].try_into().unwrap()) as usize;
    let controls = 64 + 72 + word(52) + word(8).div_ceil(16) * 8;
    let lines = filter.range().start + 64..filter.range().end;
    let first = revisions.range().start;
    for (range, value) in [(controls + 3..controls + 4, 0xff), (lines, 0), (first..first + 4, 7)] {
        let (mut forged, mut info) = (bytes.clone(), info.clone());
        forged[range.clone()].fill(value);
        if value == 7 {
            let next: [u8; 4] = forged[first + 4..first + 8].try_into().unwrap();
            forged[range].copy_from_slice(&next);
        }
        fix_block_checksums(&mut forged, &sections);
        fix_checksums(&mut forged, &mut info);
        let table = open(&disk_with(forged), &info).expect("forged well enough for open");
        table.verify().expect_err("found by the deep check");
    }
}

#[test]
fn the_offline_check_reports_what_verify_finds() {
    let (dir, written) = (Path::new("/engine"), SimDisk::new(1));
    let options = crate::Options::default();
    let (db, mut writer) = crate::Db::open(Arc::new(written.clone()), dir, options).unwrap();
    for main in 1..=20 {
        let (key, revision) = ([main as u8], Revision { main, sub: 0 });
        writer.put(crate::Keyspace::Kv, &key, revision, Delta::Plus, Meta::EMPTY, b"value");
    }
    let mark = Bytes::from_static(b"mark");
    writer.commit(crate::Commit { mark, kv_visible: 20, compacted: 0 }).unwrap();
    writer.freeze().unwrap();
    while db.work().unwrap() != crate::Work::Idle {}
    drop((writer, db));
    // Its permutation names the first row twice, and all digests say that this is as it was meant.
    let mut state = Manifest::read(&written, dir).unwrap().unwrap();
    let info = &mut state.tables[0].info;
    let path = dir.join(super::super::file_name(info.id));
    let mut files = written.current_files();
    let bytes = files.get_mut(&path).unwrap();
    let sections = parse_frame(&FORMAT, info.id, bytes).unwrap();
    let revisions = sections.iter().find(|section| section.kind == section::REVISIONS).unwrap();
    let first = revisions.range().start;
    bytes.copy_within(first..first + 4, first + 4);
    fix_checksums(bytes, info);
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::from_files(2, &files).unwrap());
    let identity = Identity { identity: [0; 16], origin: 0 };
    Manifest::create(&disk, dir, identity, 9, &state).unwrap();
    let report = crate::check_directory(&disk, dir).unwrap().unwrap();
    let [violation] = &report.violations[..] else { panic!("{report:?}") };
    assert!(violation.contains("expected revisions in order"), "{violation}");
    assert_eq!(report.rows, 20);
}

#[test]
fn missing_and_repeated_sections_are_refused() {
    let (mut info, bytes, _) = small_table(1, SHAPES[1]);
    let sections = parse_frame(&FORMAT, ID, &bytes).unwrap();
    let footer = bytes.len() - 40 - sections.len() * 32;
    let mut reframe = |sections: &[Section]| {
        let mut forged = bytes[..footer].to_vec();
        forged.extend_from_slice(&encode_footer(&FORMAT, ID, footer as u64, sections));
        fix_checksums(&mut forged, &mut info);
        open(&disk_with(forged), &info).map(|_| ())
    };
    for missing in 0..sections.len() {
        let mut fewer = sections.clone();
        fewer.remove(missing);
        assert!(reframe(&fewer).is_err(), "section {missing} is missing");
    }
    let twice = [sections.as_slice(), &sections[..1]].concat();
    assert!(reframe(&twice).is_err());
    // A section of an unknown kind is what a later, compatible version may add.
    let unknown = Section { kind: 99, ..sections[0] };
    reframe(&[sections.as_slice(), &[unknown]].concat()).expect("more than needed");
}
