//! The engine alone: puts, point reads, scans, counts and the rate at which entries are applied.
//!
//! One idea: keys as Kubernetes names them, put in random order, values of 256 B; throughput is in
//! entries, so that runs of different sizes compare. Reads come twice: from a memtable that holds
//! everything, and from tables.
//!
//! `VARVE_BENCH_KEYS` sets the number of keys that are read (200,000).

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main,
};
use tempfile::TempDir;
use varve_benches::workload::{kubernetes_key, mix};
use varve_disk::os::OsDisk;
use varve_lsm::{
    Commit, Db, Delta, Direction, KeyRange, Keyspace, Meta, Options, Revision, Snapshot, Values,
    Work, Writer,
};

/// Bytes of a value: longer than what is stored beside the key.
const VALUE_BYTES: usize = 256;
/// Bytes beside the key: three numbers, as etcd's.
const META_BYTES: usize = 24;
/// Puts of one batch.
const BATCH: u64 = 64;
/// Puts of one measured run into a memtable.
const MEMTABLE_PUTS: u64 = 20_000;
/// Puts of one measured run with background work.
const APPLIED_PUTS: u64 = 200_000;
/// Room for everything in one memtable.
const MEMTABLE_BYTES: usize = 1 << 30;

fn keys() -> u64 {
    let keys = std::env::var("VARVE_BENCH_KEYS").ok();
    keys.map_or(200_000, |keys| keys.parse().expect("VARVE_BENCH_KEYS is a number"))
}

fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("target/tmp is writable")
}

fn open(directory: &Path, options: Options) -> (Db, Writer) {
    Db::open(Arc::new(OsDisk::new()), directory, options).expect("the engine opens")
}

/// Puts distinct keys, a revision each, and calls `between` after each batch.
fn put_all(writer: &mut Writer, keys: &[String], mut between: impl FnMut()) {
    let value = [7; VALUE_BYTES];
    let meta = Meta::new(&[5; META_BYTES]).expect("it is short");
    let mut main = 0;
    for batch in keys.chunks(BATCH as usize) {
        for key in batch {
            main += 1;
            let revision = Revision { main, sub: 0 };
            writer.put(Keyspace::Kv, key.as_bytes(), revision, Delta::Plus, meta, &value);
        }
        let mark = Bytes::copy_from_slice(&main.to_le_bytes());
        let commit = Commit { mark, kv_visible: main, compacted: 0 };
        writer.commit(commit).expect("the engine commits");
        between();
    }
}

/// Names in an order that is not theirs.
fn names(count: u64) -> Vec<String> {
    (0..count).map(kubernetes_key).collect()
}

fn work_until_idle(db: &Db) {
    while db.work().expect("background work succeeds") != Work::Idle {}
}

/// An engine whose keys all are in its memtable.
fn in_memtable(directory: &Path, names: &[String]) -> (Db, Writer) {
    let options = Options { memtable_bytes: MEMTABLE_BYTES, ..Options::default() };
    let (db, mut writer) = open(directory, options);
    put_all(&mut writer, names, || {});
    (db, writer)
}

/// An engine whose keys all are in tables.
fn in_tables(directory: &Path, names: &[String]) -> (Db, Writer) {
    let (db, mut writer) = open(directory, Options::default());
    let waiting = db.clone();
    put_all(&mut writer, names, || {
        if waiting.is_writer_ahead() {
            work_until_idle(&waiting);
        }
    });
    writer.freeze().expect("a memtable freezes");
    work_until_idle(&db);
    (db, writer)
}

fn memtable_put(criterion: &mut Criterion) {
    let names = names(MEMTABLE_PUTS);
    let mut group = criterion.benchmark_group("lsm/memtable");
    group.throughput(Throughput::Elements(MEMTABLE_PUTS));
    group.bench_function("put", |bencher| {
        let fresh = || {
            let directory = directory();
            let options = Options { memtable_bytes: MEMTABLE_BYTES, ..Options::default() };
            let engine = open(directory.path(), options);
            (directory, engine)
        };
        let put = |(_, (_, writer)): &mut (TempDir, (Db, Writer))| put_all(writer, &names, || {});
        bencher.iter_batched_ref(fresh, put, BatchSize::PerIteration);
    });
    group.finish();
}

/// Puts while a thread flushes and merges, as the server does it.
fn apply(criterion: &mut Criterion) {
    let names = names(APPLIED_PUTS);
    let mut group = criterion.benchmark_group("lsm/apply");
    group.throughput(Throughput::Elements(APPLIED_PUTS));
    group.bench_function("with background work", |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| apply_once(&names)).sum());
    });
    group.finish();
}

fn apply_once(names: &[String]) -> Duration {
    let directory = directory();
    let (db, mut writer) = open(directory.path(), Options::default());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                if db.work().expect("background work succeeds") == Work::Idle {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        let begun = Instant::now();
        put_all(&mut writer, names, || {
            while db.is_writer_ahead() {
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        let elapsed = begun.elapsed();
        is_over.store(true, Ordering::Relaxed);
        elapsed
    })
}

/// The same names in another order, one behind the other in memory: what a reader asks for is in
/// its cache, what it finds need not be.
fn asked(names: &[String]) -> Vec<String> {
    (0..names.len() as u64).map(|n| names[(mix(n) % names.len() as u64) as usize].clone()).collect()
}

/// Point reads, scans and counts of one engine.
fn reads_of(criterion: &mut Criterion, place: &str, snapshot: &Snapshot, names: &[String]) {
    let mut group = criterion.benchmark_group(format!("lsm/{place}"));
    points(&mut group, snapshot, names);
    counts(&mut group, snapshot);
    lists(&mut group, snapshot);
    scans(&mut group, snapshot, names.len());
    group.finish();
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn points(group: &mut Group<'_>, snapshot: &Snapshot, names: &[String]) {
    let at = snapshot.visible();
    let asked = asked(names);
    let mut keys = asked.iter().map(String::as_bytes).cycle();
    group.throughput(Throughput::Elements(1));
    group.bench_function("get", |bencher| {
        bencher.iter(|| {
            let key = keys.next().expect("it cycles");
            let found = snapshot.get(Keyspace::Kv, key, at);
            assert!(black_box(found.expect("a read succeeds")).is_some());
        });
    });
    group.bench_function("get in place", |bencher| {
        bencher.iter(|| {
            let key = keys.next().expect("it cycles");
            let found = snapshot.get_with(Keyspace::Kv, key, at, |row| {
                let value = row.value().expect("a value is read");
                (row.revision(), row.meta().expect("it has a meta")[0], value)
            });
            assert!(black_box(found.expect("a read succeeds")).is_some());
        });
    });
    group.bench_function("get meta in place", |bencher| {
        bencher.iter(|| {
            let key = keys.next().expect("it cycles");
            let found = snapshot.get_with(Keyspace::Kv, key, at, |row| {
                (row.revision(), row.meta().expect("it has a meta")[0], row.value_bytes())
            });
            assert!(black_box(found.expect("a read succeeds")).is_some());
        });
    });
}

fn pods() -> KeyRange {
    KeyRange::between("/registry/pods/".into(), "/registry/pods0".into())
}

fn counts(group: &mut Group<'_>, snapshot: &Snapshot) {
    let at = snapshot.visible();
    for (name, range, at) in [
        ("count all", KeyRange::all(), at),
        ("count all, half as old", KeyRange::all(), at / 2),
        ("count pods", pods(), at),
    ] {
        group.bench_function(name, |bencher| {
            bencher
                .iter(|| black_box(snapshot.count(Keyspace::Kv, &range, at).expect("it counts")));
        });
    }
}

fn lists(group: &mut Group<'_>, snapshot: &Snapshot) {
    let at = snapshot.visible();
    group.bench_function("list 500", |bencher| {
        bencher.iter(|| {
            let range = snapshot.range(Keyspace::Kv, pods(), at, Values::Load);
            assert_eq!(black_box(range.take(500).count()), 500);
        });
    });
    group.bench_function("list last 500", |bencher| {
        bencher.iter(|| {
            let range = snapshot.range_backward(Keyspace::Kv, pods(), at, Values::Load);
            assert_eq!(black_box(range.take(500).count()), 500);
        });
    });
}

fn scans(group: &mut Group<'_>, snapshot: &Snapshot, keys: usize) {
    let at = snapshot.visible();
    group.throughput(Throughput::Elements(keys as u64));
    for (name, direction) in [
        ("scan keys in place", Direction::Forward),
        ("scan keys in place backward", Direction::Backward),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert_eq!(scan_keys(snapshot, at, direction), keys));
        });
    }
    for (name, values) in [("scan keys", Values::Skip), ("scan all", Values::Load)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let range = snapshot.range(Keyspace::Kv, KeyRange::all(), at, values);
                assert_eq!(black_box(range.count()), keys);
            });
        });
    }
}

/// Looks at all that a list of keys needs: key, revision, meta.
fn scan_keys(snapshot: &Snapshot, at: u64, direction: Direction) -> usize {
    let mut rows = snapshot.rows(Keyspace::Kv, KeyRange::all(), at, direction);
    let mut found = 0;
    while let Some(row) = rows.next_row().expect("a scan succeeds") {
        black_box((row.key(), row.revision(), row.meta().expect("it has a meta")));
        found += 1;
    }
    found
}

fn reads(criterion: &mut Criterion) {
    let names = names(keys());
    let memtable = directory();
    let (db, writer) = in_memtable(memtable.path(), &names);
    reads_of(criterion, "memtable", &db.snapshot(), &names);
    drop((db, writer));
    let tables = directory();
    let (db, _writer) = in_tables(tables.path(), &names);
    reads_of(criterion, "tables", &db.snapshot(), &names);
}

/// Short: a run of all of it takes about half a minute.
fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args()
}

criterion_group! { name = benches; config = quick(); targets = memtable_put, apply, reads }
criterion_main!(benches);
