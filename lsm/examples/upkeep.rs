//! What keeping order costs: bytes written and runs looked into for each overwrite at random.
//!
//! ```sh
//! cargo run --release -p varve-lsm --example upkeep -- KEYS VALUE_BYTES BOTTOM_FACTOR MEMTABLE_BYTES...
//! ```
//!
//! What counts is how many memtables the data are. So 200,000 keys with a memtable of 640 KiB stand
//! for 10 million with one of 32 MiB: all limits of [`Options`] are divided by the same number.
//!
//! All keys are put once; then twice as many are overwritten, a twentieth of that between two
//! compactions, with background work keeping pace. The second half of that is what is shown.
//! Bytes and runs do not depend on the machine; in memory (`/dev/shm`) it is soon through.

#![allow(clippy::print_stdout, reason = "it shows what it finds")]
#![allow(dead_code, reason = "of the counting disk a part is used")]
#![allow(clippy::unwrap_used, reason = "what fails here ends it")]

#[path = "../tests/support/counting.rs"]
mod counting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use counting::CountingDisk;
use varve_disk::os::OsDisk;
use varve_disk::sim::Random;
use varve_lsm::{
    Commit, Db, Delta, Direction, KeyRange, Keyspace, Meta, Options, Revision, Work, Writer,
};

/// Puts of one commit.
const BATCH: u64 = 16;
/// Points at which reads are measured.
const SAMPLES: u64 = 20;
/// Point reads at each of them.
const GETS: u64 = 5_000;

struct Load {
    disk: CountingDisk,
    db: Db,
    writer: Writer,
    random: Random,
    keys: u64,
    value_bytes: usize,
    main: u64,
    compacted: u64,
}

/// Sums over all samples.
#[derive(Default)]
struct Reads {
    runs: usize,
    runs_max: usize,
    disk_bytes: u64,
    get: Duration,
    count: Duration,
    walk: Duration,
}

fn main() {
    let numbers: Vec<u64> =
        std::env::args().skip(1).map(|word| word.parse().expect("a number")).collect();
    let [keys, value_bytes, bottom_factor, memtables @ ..] = &numbers[..] else {
        panic!("expected KEYS VALUE_BYTES BOTTOM_FACTOR MEMTABLE_BYTES..., found {numbers:?}")
    };
    println!("{keys} keys, values of {value_bytes} B, overwritten at random\n");
    println!(
        "| memtable | key bytes a put | value bytes a put | runs, most | files / readable | get | \
         count of all | walk over all keys |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    );
    for memtable_bytes in memtables {
        let home = tempfile::tempdir_in(".").expect("a directory here");
        let options = Options { bottom_factor: *bottom_factor, ..scaled(*memtable_bytes) };
        let disk = CountingDisk::new(Arc::new(OsDisk::new()));
        let dir = home.path().join("engine");
        let (db, writer) = Db::open(Arc::new(disk.clone()), &dir, options).unwrap();
        let random = Random::new(5);
        let (keys, value_bytes) = (*keys, *value_bytes as usize);
        let load = Load { disk, db, writer, random, keys, value_bytes, main: 0, compacted: 0 };
        println!("| {} KiB | {} |", memtable_bytes >> 10, load.run());
    }
}

/// The default limits, each divided by the same number.
fn scaled(memtable_bytes: u64) -> Options {
    let options = Options::default();
    let scale = |bytes: u64| bytes * memtable_bytes / options.memtable_bytes as u64;
    Options {
        memtable_bytes: memtable_bytes as usize,
        segment_bytes: scale(options.segment_bytes),
        table_bytes: scale(options.table_bytes),
        step_bytes: scale(options.step_bytes).max(16 << 10),
        ..options
    }
}

fn name(key: u64) -> String {
    format!("/registry/things/{key:012}")
}

impl Load {
    fn run(mut self) -> String {
        // In an order that is none.
        let step = (self.keys / 2..).find(|step| greatest_divisor(*step, self.keys) == 1).unwrap();
        (0..self.keys).for_each(|at| self.put(at * step % self.keys, Delta::Plus));
        self.overwrite(self.keys, |_| ());
        let before = (self.disk.written("kt"), self.disk.written("vs"));
        let mut reads = Reads::default();
        let every = self.keys / SAMPLES;
        self.overwrite(self.keys, |load| {
            if load.main.is_multiple_of(every) {
                load.measure(&mut reads);
            }
        });
        let report = self.db.check().unwrap();
        assert!(report.violations.is_empty(), "{:#?}", report.violations);
        let a_put = |bytes: u64| bytes / self.keys;
        let samples = SAMPLES as u32;
        let history = self.keys / 20;
        let readable = (self.keys + history) * (self.value_bytes as u64 + 50) * SAMPLES;
        format!(
            "{} | {} | {:.1}, {} | {:.2} | {:.2} us | {:.0} us | {:.1} ms",
            a_put(self.disk.written("kt") - before.0),
            a_put(self.disk.written("vs") - before.1),
            reads.runs as f64 / SAMPLES as f64,
            reads.runs_max,
            reads.disk_bytes as f64 / readable as f64,
            reads.get.as_secs_f64() * 1e6 / (SAMPLES * GETS) as f64,
            (reads.count / samples).as_secs_f64() * 1e6,
            (reads.walk / samples).as_secs_f64() * 1e3,
        )
    }

    fn overwrite(&mut self, puts: u64, mut look: impl FnMut(&mut Self)) {
        let history = self.keys / 20;
        for put in 0..puts {
            let key = self.random.below(self.keys);
            self.put(key, Delta::Zero);
            if put % history == history - 1 {
                self.compacted = self.main - history;
            }
            look(self);
        }
    }

    fn put(&mut self, key: u64, delta: Delta) {
        self.main += 1;
        let revision = Revision { main: self.main, sub: 0 };
        let mut value = vec![0; self.value_bytes];
        value.iter_mut().for_each(|byte| *byte = self.random.next_u64() as u8);
        self.writer.put(Keyspace::Kv, name(key).as_bytes(), revision, delta, Meta::EMPTY, &value);
        if !self.main.is_multiple_of(BATCH) {
            return;
        }
        let mark = Bytes::copy_from_slice(&self.main.to_le_bytes());
        let (kv_visible, compacted) = (self.main, self.compacted);
        self.writer.commit(Commit { mark, kv_visible, compacted }).unwrap();
        while self.db.work().unwrap() != Work::Idle {}
    }

    fn measure(&mut self, reads: &mut Reads) {
        let sizes = self.db.sizes();
        reads.runs += sizes.runs;
        reads.runs_max = reads.runs_max.max(sizes.runs);
        reads.disk_bytes += sizes.disk_bytes;
        let snapshot = self.db.snapshot();
        let names: Vec<String> = (0..GETS).map(|_| name(self.random.below(self.keys))).collect();
        let start = Instant::now();
        for name in &names {
            let found = snapshot.get_meta(Keyspace::Kv, name.as_bytes(), u64::MAX).unwrap();
            assert!(found.is_some(), "{name} was put");
        }
        reads.get += start.elapsed();
        let start = Instant::now();
        let count = snapshot.count(Keyspace::Kv, &KeyRange::all(), u64::MAX).unwrap();
        reads.count += start.elapsed();
        assert_eq!(count, self.keys);
        let start = Instant::now();
        let mut rows = snapshot.rows(Keyspace::Kv, KeyRange::all(), u64::MAX, Direction::Forward);
        let mut walked = 0;
        while rows.next_row().unwrap().is_some() {
            walked += 1;
        }
        reads.walk += start.elapsed();
        assert_eq!(walked, self.keys);
    }
}

fn greatest_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_divisor(b, a % b) }
}
