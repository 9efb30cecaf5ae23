//! The log alone: appends beside the floor that the disk sets, and recovery.
//!
//! One idea: an append is a write and a sync, so `floor` measures just those, of as many bytes, in
//! the same run and directory; the difference is what the log adds. The directory is cargo's for
//! benches, below `target/`, which must be on a disk.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;
use varve_disk::os::OsDisk;
use varve_wal::{BLOCK_BYTES, Batch, Options, Wal};

/// Bytes of one record's payload.
const RECORD_BYTES: [usize; 2] = [256, 4096];
/// Records of one append.
const BATCHES: [usize; 3] = [1, 16, 64];
/// Bytes that a frame and its records have beside the payloads, roughly.
const FRAME_OVERHEAD_BYTES: usize = 64;
/// Overhead of one record, roughly.
const RECORD_OVERHEAD_BYTES: usize = 16;
/// Entries kept in the log while appends are measured; what is older is forgotten.
const ENTRIES_KEPT: u64 = 10_000;
/// The file that the floor writes, again and again.
const FLOOR_BYTES: u64 = 64 << 20;
/// Payload of the log that is recovered.
const RECOVERED_BYTES: usize = 48 << 20;

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("target/tmp is writable")
}

fn open(directory: &Path) -> Wal {
    Wal::open(Arc::new(OsDisk::new()), directory, Options::default()).expect("the log opens")
}

fn fill(batch: &mut Batch, next: u64, records: usize, payload: &Bytes) {
    batch.clear();
    for at in 0..records as u64 {
        batch.entry(next + at, payload.clone());
    }
}

/// For each size an append, and right after it the floor.
fn append(criterion: &mut Criterion) {
    let directory = directory();
    let file = written_file(&directory.path().join("floor"));
    for record_bytes in RECORD_BYTES {
        for records in BATCHES {
            let mut group =
                criterion.benchmark_group(format!("wal/{records} records of {record_bytes} B"));
            group.throughput(Throughput::Elements(records as u64));
            group.bench_function("append", |bencher| append_some(bencher, records, record_bytes));
            let bytes = FRAME_OVERHEAD_BYTES + records * (record_bytes + RECORD_OVERHEAD_BYTES);
            let frame = vec![7; bytes.next_multiple_of(BLOCK_BYTES as usize)];
            group.bench_function("floor", |bencher| write_and_sync(bencher, &file, &frame));
            group.finish();
        }
    }
}

fn append_some(bencher: &mut Bencher<'_>, records: usize, record_bytes: usize) {
    let directory = directory();
    let mut wal = open(directory.path());
    let payload = Bytes::from(vec![7; record_bytes]);
    let mut batch = Batch::default();
    bencher.iter(|| {
        let next = wal.last_index() + 1;
        fill(&mut batch, next, records, &payload);
        wal.append(&batch).expect("the log appends");
        if next - wal.first_index() > 2 * ENTRIES_KEPT {
            wal.truncate_front(next - ENTRIES_KEPT).expect("the log forgets");
        }
    });
}

/// A file all of whose blocks were written.
fn written_file(path: &Path) -> File {
    let file = OpenOptions::new().write(true).create_new(true).open(path).expect("a new file");
    let zeros = vec![0; 1 << 20];
    for at in 0..FLOOR_BYTES >> 20 {
        file.write_all_at(&zeros, at << 20).expect("the disk has room");
    }
    file.sync_all().expect("the disk syncs");
    file
}

/// Writes a frame behind the last one, from the front again at the end, and syncs.
fn write_and_sync(bencher: &mut Bencher<'_>, file: &File, frame: &[u8]) {
    let mut offset = 0;
    bencher.iter(|| {
        if offset + frame.len() as u64 > FLOOR_BYTES {
            offset = 0;
        }
        file.write_all_at(frame, offset).expect("the disk writes");
        file.sync_data().expect("the disk syncs");
        offset += frame.len() as u64;
    });
}

fn recovery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal/recovery");
    group.throughput(Throughput::Bytes(RECOVERED_BYTES as u64));
    for record_bytes in RECORD_BYTES {
        let directory = directory();
        let payload = Bytes::from(vec![7; record_bytes]);
        let records = (64 << 10) / record_bytes;
        let mut wal = open(directory.path());
        let mut batch = Batch::default();
        for _ in 0..RECOVERED_BYTES / (64 << 10) {
            let next = wal.last_index() + 1;
            fill(&mut batch, next, records, &payload);
            wal.append(&batch).expect("the log appends");
        }
        drop(wal);
        group.bench_function(format!("{} MiB of {record_bytes} B", RECOVERED_BYTES >> 20), |b| {
            // Closing is not measured.
            b.iter_custom(|times| {
                let mut total = Duration::ZERO;
                for _ in 0..times {
                    let begun = Instant::now();
                    let wal = black_box(open(directory.path()));
                    total += begun.elapsed();
                    drop(wal);
                }
                total
            });
        });
    }
    group.finish();
}

/// Short: a run of all of it takes about half a minute.
fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args()
}

criterion_group! { name = benches; config = quick(); targets = append, recovery }
criterion_main!(benches);
