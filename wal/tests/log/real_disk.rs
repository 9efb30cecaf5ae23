//! The log over the operating system's files.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

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

/// Prints how long it takes to open a log of 1 GiB of entries of 256 bytes, 64 to a batch.
/// `cargo test --release -p varve-wal -- --ignored --nocapture measure`
#[test]
#[ignore = "writes 1 GiB; a measurement, not a test"]
fn measure_recovery_of_one_gibibyte() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = home.path().join("wal");
    let mut wal = open(&dir, 64 << 20);
    let started = Instant::now();
    let batches = (1 << 30) / (256 * 64);
    for batch_number in 0..batches {
        wal.append(&batch(1 + batch_number * 64, 64, 256)).unwrap();
    }
    let appended = started.elapsed();
    let written = wal.counters().written_bytes;
    drop(wal);
    let started = Instant::now();
    let wal = open(&dir, 64 << 20);
    let opened = started.elapsed();
    let started = Instant::now();
    let mut low = 1;
    while low <= wal.last_index() {
        low += wal.entries(low, wal.last_index() + 1, 1 << 20).unwrap().len() as u64;
    }
    let read = started.elapsed();
    println!("{batches} appends of {written} bytes: {appended:?}");
    println!("opened {} entries: {opened:?}; read them: {read:?}", wal.last_index());
}

/// Prints how long an append of one small entry takes, with its sync.
#[test]
#[ignore = "a measurement, not a test"]
fn measure_small_appends() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut wal = open(&home.path().join("wal"), 64 << 20);
    let mut micros = Vec::new();
    for index in 1..=20_000 {
        let batch = batch(index, 1, 256);
        let started = Instant::now();
        wal.append(&batch).unwrap();
        micros.push(started.elapsed().as_micros());
    }
    micros.sort_unstable();
    let at = |permille: usize| micros[micros.len() * permille / 1000];
    println!("p50 {} us, p99 {} us, p99.9 {} us", at(500), at(990), at(999));
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
