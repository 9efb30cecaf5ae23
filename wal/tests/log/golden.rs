//! The format, pinned: a log that is written today is equal to the golden one byte for byte, and
//! the golden logs of all versions open and hold what they held; but version 1, which was never
//! released, is refused by its number.
//!
//! `VARVE_BLESS=1 cargo test -p varve-wal golden` writes the current version's files anew. Only for
//! a format that was never released: a released one gets a new version and a new directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use varve_disk::sim::SimDisk;
use varve_wal::{Error, check};

use crate::model::{DIR, IDENTITY, Model, Operation, Shape, to_batch};

const CURRENT: &str = "v2";

/// Smallest segments, so that the files stay small; both block sizes.
const SHAPES: [(&str, Shape); 2] = [
    ("block-4096", Shape { segment_bytes: 16 << 10, block_bytes: 4096, compress_bytes_min: None }),
    ("block-512", Shape { segment_bytes: 8 << 10, block_bytes: 512, compress_bytes_min: None }),
];

/// With compressed frames. Which bytes zstd makes of a payload is its own affair and may change
/// with its version; that they are read is ours.
const COMPRESSED: (&str, Shape) = (
    "compressed-512",
    Shape { segment_bytes: 8 << 10, block_bytes: 512, compress_bytes_min: Some(0) },
);

#[test]
fn golden_a_log_is_written_byte_for_byte_as_specified() {
    for (name, shape) in SHAPES {
        let (files, _) = written(shape);
        let golden = golden_dir(CURRENT, name);
        if std::env::var_os("VARVE_BLESS").is_some() {
            bless(&golden, &files);
        }
        let expected = read_golden(&golden);
        let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&files), names(&expected), "{name}");
        for (path, bytes) in &files {
            let differing = bytes.iter().zip(&expected[path]).position(|(now, then)| now != then);
            assert_eq!(differing, None, "{name}: first differing byte of {}", path.display());
            assert_eq!(bytes.len(), expected[path].len(), "{name}: {}", path.display());
        }
    }
}

#[test]
fn golden_logs_open_and_hold_what_they_held() {
    let (name, shape) = COMPRESSED;
    if std::env::var_os("VARVE_BLESS").is_some() {
        bless(&golden_dir(CURRENT, name), &written(shape).0);
    }
    for (name, shape) in SHAPES.into_iter().chain([COMPRESSED]) {
        let (_, model) = written(shape);
        let files = read_golden(&golden_dir(CURRENT, name));
        let disk = SimDisk::from_files(1, &files).unwrap();
        let report = check(&disk, Path::new(DIR), &IDENTITY).unwrap();
        assert_eq!(report.violations, Vec::<String>::new());
        let wal = shape.open(&disk).unwrap();
        assert_eq!(model.difference(&wal), None, "{name}");
    }
}

#[test]
fn golden_logs_of_version_1_are_refused_by_their_number() {
    let (name, shape) = SHAPES[1];
    let files = read_golden(&golden_dir("v1", name));
    let disk = SimDisk::from_files(1, &files).unwrap();
    let error = shape.open(&disk).err().unwrap();
    assert!(matches!(error, Error::UnknownVersion { expected: 2, found: 1, .. }), "{error}");
    assert_eq!(disk.current_files(), files);
}

#[test]
fn golden_compressed_frames_are_of_coding_1() {
    let files = read_golden(&golden_dir(CURRENT, COMPRESSED.0));
    let mut codings = [0, 0];
    for bytes in files.values() {
        for block in bytes.chunks(512).filter(|block| block.starts_with(b"VWLF")) {
            let coding = usize::from(u16::from_le_bytes([block[6], block[7]]));
            let plain_bytes = u32::from_le_bytes([block[48], block[49], block[50], block[51]]);
            assert_eq!(plain_bytes > 0, coding == 1);
            codings[coding] += 1;
        }
    }
    assert!(codings[0] > 0 && codings[1] > 0, "{codings:?}");
}

/// Every kind of record, a segment that was recycled, an overwrite and a reset.
fn written(shape: Shape) -> (BTreeMap<PathBuf, Vec<u8>>, Model) {
    let disk = SimDisk::new(1);
    let mut wal = shape.open(&disk).expect("a new log opens");
    let mut model = Model::new();
    let append = |reset, first: u64, lengths: &[usize], state: &'static [u8]| {
        let payload = |index: u64, length: usize| {
            Bytes::from((0..length).map(|at| (index as usize + at) as u8).collect::<Vec<_>>())
        };
        let entries =
            (first..).zip(lengths).map(|(index, length)| (index, payload(index, *length)));
        let state = (!state.is_empty()).then_some(Bytes::from_static(state));
        Operation::Append { reset, entries: entries.collect(), state }
    };
    let operations = [
        append(None, 1, &[0, 1, 2, 3], b"term 1"),
        append(None, 5, &[3000], b""),
        append(None, 6, &[4000], b"term 2"),
        append(None, 7, &[3000, 10], b""),
        Operation::Truncate(6),
        append(None, 8, &[7, 7], b"term 3"),
        append(None, 10, &[5000], b""),
        Operation::Truncate(7),
        append(Some(100), 100, &[5], b"term 4"),
        append(None, 101, &[6000], b""),
    ];
    for operation in &operations {
        match operation {
            Operation::Append { .. } => wal.append(&to_batch(operation)),
            Operation::Truncate(through) => wal.truncate_front(*through),
            Operation::Reopen => unreachable!("the golden run does not reopen"),
        }
        .expect("the disk works");
        model.apply(operation);
    }
    (disk.durable_files(), model)
}

fn golden_dir(version: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version).join(name)
}

fn read_golden(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| {
        panic!("{}: {error}; run with VARVE_BLESS=1 to write the files", dir.display())
    });
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("the directory can be read");
        let bytes = std::fs::read(entry.path()).expect("the file can be read");
        (Path::new(DIR).join(entry.file_name()), bytes)
    };
    entries.map(read).collect()
}

fn bless(dir: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).expect("the golden directory can be made");
    for (path, bytes) in files {
        let name = path.file_name().expect("a file has a name");
        std::fs::write(dir.join(name), bytes).expect("the golden file can be written");
    }
}
