//! The engine's memtable beside `crossbeam-skiplist`, for what an apply thread and its readers do.
//!
//! One idea: the same work on both, through what each offers. The memtable is reached through the
//! engine with room for everything in memory, so that its figures contain the snapshot, the commit
//! of each batch, its hash index, its sums and its list in revision order; the skip list is asked
//! for the bare map, as an etcd on it would lay it out: (key, revision descending) to value. So the
//! memtable does more for each figure, and the comparison is against it.
//!
//! `VARVE_BENCH_KEYS` sets the number of keys (50,000).

use std::cmp::Reverse;
use std::hint::black_box;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use crossbeam_skiplist::SkipMap;
use tempfile::TempDir;
use varve_benches::workload::{kubernetes_key, mix};
use varve_disk::os::OsDisk;
use varve_lsm::{
    Commit, Db, Delta, Direction, KeyRange, Keyspace, Meta, Options, Revision, Snapshot, Writer,
};

const VALUE: [u8; 256] = [7; 256];
/// Versions of each key in the map of hot keys.
const VERSIONS: u64 = 60;
/// Writes between two commits.
const BATCH: usize = 64;

fn keys() -> u64 {
    let keys = std::env::var("VARVE_BENCH_KEYS").ok();
    keys.map_or(50_000, |keys| keys.parse().expect("VARVE_BENCH_KEYS is a number"))
}

/// A write: the key, and whether it is its first.
type Write = (Bytes, bool);

/// Each key once, in random order.
fn random_writes() -> Vec<Write> {
    (0..keys()).map(|number| (kubernetes_key(number).into(), true)).collect()
}

/// Each key once, in its order.
fn sorted_writes() -> Vec<Write> {
    let mut writes = random_writes();
    writes.sort();
    writes
}

/// As many writes, but of few keys, as leases are renewed.
fn renewals() -> Vec<Write> {
    let hot = keys() / VERSIONS;
    (0..hot * VERSIONS).map(|number| (kubernetes_key(number % hot).into(), number < hot)).collect()
}

fn open() -> (TempDir, Db, Writer) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("it is writable");
    let options = Options { memtable_bytes: 1 << 30, ..Options::default() };
    let (db, writer) =
        Db::open(Arc::new(OsDisk::new()), directory.path(), options).expect("the engine opens");
    (directory, db, writer)
}

fn fill_memtable(writer: &mut Writer, writes: &[Write]) {
    let mut main = 0;
    for batch in writes.chunks(BATCH) {
        for (key, is_new) in batch {
            main += 1;
            let delta = if *is_new { Delta::Plus } else { Delta::Zero };
            let revision = Revision { main, sub: 0 };
            writer.put(Keyspace::Kv, key, revision, delta, Meta::EMPTY, &VALUE);
        }
        let mark = Bytes::copy_from_slice(&main.to_le_bytes());
        writer.commit(Commit { mark, kv_visible: main, compacted: 0 }).expect("it commits");
    }
}

type Map = SkipMap<(Bytes, Reverse<u64>), Bytes>;

fn fill_map(map: &Map, writes: &[Write]) {
    for (number, (key, _)) in writes.iter().enumerate() {
        let revision = Reverse(number as u64 + 1);
        map.insert((key.clone(), revision), Bytes::copy_from_slice(&VALUE));
    }
}

fn inserts(criterion: &mut Criterion) {
    for (name, writes) in
        [("random", random_writes()), ("sorted", sorted_writes()), ("renewals", renewals())]
    {
        let mut group = criterion.benchmark_group(format!("memtable/insert {name}"));
        group.throughput(Throughput::Elements(writes.len() as u64));
        group.bench_function("varve", |bencher| {
            bencher.iter_batched_ref(
                open,
                |(_, _, writer)| fill_memtable(writer, &writes),
                BatchSize::PerIteration,
            );
        });
        group.bench_function("crossbeam-skiplist", |bencher| {
            bencher.iter_batched_ref(
                Map::new,
                |map| fill_map(map, &writes),
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
}

/// The newest version of a key.
fn get_in_map(map: &Map, key: &Bytes) -> u64 {
    let from = (key.clone(), Reverse(u64::MAX));
    let found = map.lower_bound(Bound::Included(&from)).expect("it is there");
    assert_eq!(found.key().0, key);
    found.key().1.0
}

fn get_in_memtable(snapshot: &Snapshot, key: &[u8]) -> u64 {
    let found = snapshot.get_with(Keyspace::Kv, key, u64::MAX, |row| row.revision().main);
    found.expect("a read succeeds").expect("it is there")
}

/// The newest version of every key.
fn scan_map(map: &Map) -> usize {
    let mut keys = 0;
    let mut last = Bytes::new();
    for entry in map {
        if entry.key().0 != last {
            last = entry.key().0.clone();
            black_box((&entry.key().0, entry.key().1, entry.value()));
            keys += 1;
        }
    }
    keys
}

fn scan_memtable(snapshot: &Snapshot) -> usize {
    let mut rows = snapshot.rows(Keyspace::Kv, KeyRange::all(), u64::MAX, Direction::Forward);
    let mut keys = 0;
    while let Some(row) = rows.next_row().expect("a scan succeeds") {
        black_box((row.key(), row.revision(), row.value_bytes()));
        keys += 1;
    }
    keys
}

fn reads(criterion: &mut Criterion) {
    for (name, writes) in [("one version", random_writes()), ("60 versions", renewals())] {
        let (_directory, db, mut writer) = open();
        fill_memtable(&mut writer, &writes);
        let snapshot = db.snapshot();
        let map = Map::new();
        fill_map(&map, &writes);
        let asked: Vec<Bytes> = (0..writes.len() as u64)
            .map(|number| writes[(mix(number) % writes.len() as u64) as usize].0.to_vec().into())
            .collect();
        let mut next = asked.iter().cycle();

        let mut group = criterion.benchmark_group(format!("memtable/get {name}"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("varve", |bencher| {
            bencher.iter(|| black_box(get_in_memtable(&snapshot, next.next().expect("it cycles"))));
        });
        group.bench_function("crossbeam-skiplist", |bencher| {
            bencher.iter(|| black_box(get_in_map(&map, next.next().expect("it cycles"))));
        });
        group.finish();

        let keys = scan_memtable(&snapshot);
        let mut group = criterion.benchmark_group(format!("memtable/scan {name}"));
        group.throughput(Throughput::Elements(keys as u64));
        group.bench_function("varve", |bencher| {
            bencher.iter(|| assert_eq!(scan_memtable(&snapshot), keys));
        });
        group.bench_function("crossbeam-skiplist", |bencher| {
            bencher.iter(|| assert_eq!(scan_map(&map), keys));
        });
        group.finish();
    }
}

/// Short: a run of all of it takes about half a minute.
fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args()
}

criterion_group! { name = benches; config = quick(); targets = inserts, reads }
criterion_main!(benches);
