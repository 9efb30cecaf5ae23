//! The log over the operating system's files.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::os::OsDisk;
use varve_wal::{Batch, Options, Wal, check};

use crate::model::IDENTITY;

#[test]
fn a_log_on_real_files_is_appended_truncated_recycled_and_reopened() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = home.path().join("wal");
    let mut wal = open(&dir, 64 << 10);
    for index in 1..=200 {
        wal.append(&batch(index, 1, 1000)).unwrap();
        if index % 20 == 0 {
            wal.truncate_front(index - 10).unwrap();
        }
    }
    assert!(wal.disk_bytes() <= 6 * (64 << 10), "{}", wal.disk_bytes());
    assert_eq!(wal.counters().frames, 200);
    drop(wal);

    let wal = open(&dir, 64 << 10);
    assert_eq!(wal.last_index(), 200);
    assert!(wal.first_index() <= 191, "{}", wal.first_index());
    let found = wal.entries(191, 201, u64::MAX).unwrap();
    assert!((191..).zip(found).all(|(index, found)| found == payload(index, 1000)));
    assert_eq!(wal.state(), Some(&Bytes::from("state 200")));
    drop(wal);
    let disk = OsDisk::new();
    let report = check(&disk, &dir, &IDENTITY).unwrap();
    assert_eq!(report.violations, Vec::<String>::new());
}

fn open(dir: &Path, segment_bytes: u64) -> Wal {
    let options = Options { identity: IDENTITY, segment_bytes, ..Options::default() };
    Wal::open(Arc::new(OsDisk::new()), dir, options).expect("a healthy log opens")
}

fn batch(first: u64, count: u64, length: usize) -> Batch {
    let mut batch = Batch::default();
    for index in first..first + count {
        batch.entry(index, payload(index, length));
    }
    batch.state(Bytes::from(format!("state {first}")));
    batch
}

fn payload(index: u64, length: usize) -> Bytes {
    let mut bytes = vec![index as u8; length];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    Bytes::from(bytes)
}
