//! The rows of the table, for one engine and one size of values, in a process of their own.
//!
//! One idea: one data set lives through all of it: loaded, overwritten, read while its history is
//! there, written to durably, deleted from, compacted, closed, and opened again by another process.
//! Only calls of the engine are timed; names and values are made outside. Each engine has processes
//! of its own, so that memory and bytes written are its alone.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use varve_benches::latency::Latencies;
use varve_benches::process::{Figures, disk_bytes};
use varve_benches::workload::{
    Order, PREFIX, PREFIX_END, ValueSizes, Workload, kubernetes_key, mix,
};

use super::{Change, Engine, open};
use crate::resources::Resources;

/// Changes of a batch that is not synced.
const BATCH: u64 = 256;
/// Changes of a durable batch.
const DURABLE_BATCH: u64 = 64;
/// Keys that point reads choose from, so that their names need not be made while time is taken.
const SAMPLE: u64 = 100_000;
/// Puts a second of the writer beside readers.
const BESIDE_RATE: f64 = 20_000.0;
/// Calls that are timed together.
const STRETCH: u64 = 50;
/// How often memory is looked at.
const MEMORY_PERIOD: Duration = Duration::from_millis(20);
/// A large resource.
const PODS: (&[u8], &[u8]) = (b"/registry/pods/", b"/registry/pods0");
const ALL: (&[u8], &[u8]) = (PREFIX.as_bytes(), PREFIX_END.as_bytes());

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// The figure.
    pub value: f64,
    /// Whether more is better.
    pub is_higher_better: bool,
}

impl Row {
    /// A figure of which more is better.
    pub fn higher(name: &str, unit: &str, value: f64) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned(), value, is_higher_better: true }
    }

    /// A time in microseconds.
    pub fn micros(name: &str, time: Duration) -> Self {
        Self::lower(name, "us", time.as_secs_f64() * 1e6)
    }

    /// A time in milliseconds.
    pub fn millis(name: &str, time: Duration) -> Self {
        Self::lower(name, "ms", time.as_secs_f64() * 1e3)
    }

    /// An amount of memory.
    pub fn mebibytes(name: &str, bytes: u64) -> Self {
        Self::lower(name, "MiB", bytes as f64 / f64::from(1 << 20))
    }

    /// A figure of which less is better.
    pub fn lower(name: &str, unit: &str, value: f64) -> Self {
        Self { is_higher_better: false, ..Self::higher(name, unit, value) }
    }
}

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Keys that are loaded.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Time of each row that goes on for a while.
    pub time: Duration,
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Bytes of an engine's files. varve's log is left out: it has its segments of 64 MiB however many
/// data there are, and what is in tables is no longer needed in it.
pub fn data_bytes(home: &Path) -> Result<f64, String> {
    let of_engine = home.join("lsm");
    let directory = if of_engine.exists() { &of_engine } else { home };
    disk_bytes(directory).map(|bytes| bytes as f64).map_err(|error| error.to_string())
}

/// One engine, its data and the next revision.
struct Run<'a> {
    name: &'a str,
    directory: &'a Path,
    plan: Plan,
    workload: Workload,
    next: u64,
    sample: Vec<String>,
}

/// Runs all rows of one engine below `directory`, which is its own, but for those of
/// [`reopen`].
///
/// # Errors
/// What the engine or the disk says.
pub fn run(name: &str, directory: &Path, plan: Plan) -> Result<Vec<Row>, String> {
    let (is_over, heap_bytes_max) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let bytes = figures().map_or(0, |figures| figures.anonymous_bytes);
                heap_bytes_max.fetch_max(bytes, Ordering::Relaxed);
                std::thread::sleep(MEMORY_PERIOD);
            }
        });
        let rows = run_rows(name, directory, plan);
        is_over.store(true, Ordering::Relaxed);
        let mut rows = rows?;
        let resident_bytes_max = figures()?.resident_bytes_max;
        rows.push(Row::mebibytes("most resident memory", resident_bytes_max));
        let heap_bytes_max = heap_bytes_max.load(Ordering::Relaxed);
        rows.push(Row::mebibytes("most of it that is no file", heap_bytes_max));
        Ok(rows)
    })
}

/// Opens what [`run`] left in `directory`, in another process.
///
/// # Errors
/// What the engine or the disk says.
pub fn reopen(name: &str, directory: &Path, plan: Plan) -> Result<Vec<Row>, String> {
    let begun = Instant::now();
    let engine = open(name, &directory.join("data"), true)?;
    let count = engine.count(b"/registry/minions/", b"/registry/minions0", u64::MAX - 1);
    let took = begun.elapsed();
    assert!(count > 0 || plan.keys < 1000, "there are nodes");
    Ok(vec![
        Row::millis("open and a first answer", took),
        Row::mebibytes("heap after opening", figures()?.anonymous_bytes),
    ])
}

fn figures() -> Result<Figures, String> {
    Figures::of(std::process::id()).map_err(|error| error.to_string())
}

fn run_rows(name: &str, directory: &Path, plan: Plan) -> Result<Vec<Row>, String> {
    let sizes = ValueSizes::Fixed(plan.value_bytes);
    let workload = Workload::new(plan.keys, Order::Random, sizes, 1);
    let (sample, next) = (Vec::new(), 2);
    let mut run = Run { name, directory, plan, workload, next, sample };
    let mut rows = Vec::new();
    run.sorted_load(&mut rows)?;
    run.next = 2;
    let home = directory.join("data");
    let engine = run.random_load(&home, &mut rows)?;
    let count = plan.keys.min(SAMPLE);
    run.sample = (0..count).map(|at| kubernetes_key(mix(at) % plan.keys)).collect();
    run.reads(&*engine, &mut rows);
    run.beside(&*engine, &mut rows);
    drop(engine);
    let engine = run.durable(&home, &mut rows)?;
    run.deletes(&*engine, &mut rows)?;
    Ok(rows)
}

impl Run<'_> {
    fn value(&self, call: u64) -> Bytes {
        self.workload.value(call)
    }

    fn payload_bytes(&self) -> f64 {
        let name_bytes = kubernetes_key(0).len();
        self.plan.keys as f64 * (name_bytes + self.plan.value_bytes) as f64
    }

    /// Applies changes in batches and says how long the engine took.
    fn apply(
        &mut self,
        engine: &dyn Engine,
        keys: impl IntoIterator<Item = Bytes>,
        is_delete: bool,
    ) -> Duration {
        let (mut took, mut changes) = (Duration::ZERO, Vec::new());
        let mut keys = keys.into_iter().peekable();
        while let Some(key) = keys.next() {
            let value = self.value(self.next + changes.len() as u64);
            changes.push(if is_delete { Change::Delete(key) } else { Change::Put(key, value) });
            if changes.len() as u64 == BATCH || keys.peek().is_none() {
                let begun = Instant::now();
                engine.apply(self.next, &changes, false);
                took += begun.elapsed();
                self.next += changes.len() as u64;
                changes.clear();
            }
        }
        took
    }

    fn rate(&self, count: u64, took: Duration) -> f64 {
        count as f64 / took.as_secs_f64()
    }

    fn sorted_load(&mut self, rows: &mut Vec<Row>) -> Result<(), String> {
        let home = self.directory.join("sorted");
        let engine = open(self.name, &home, false)?;
        let mut keys: Vec<Bytes> =
            (0..self.plan.keys).map(|number| Bytes::from(kubernetes_key(number))).collect();
        keys.sort_unstable();
        let took = self.apply(&*engine, keys, false);
        rows.push(Row::higher("load, sorted", "puts/s", self.rate(self.plan.keys, took)));
        drop(engine);
        std::fs::remove_dir_all(&home).map_err(|error| error.to_string())
    }

    fn random_load(&mut self, home: &Path, rows: &mut Vec<Row>) -> Result<Box<dyn Engine>, String> {
        let (keys, payload) = (self.plan.keys, self.payload_bytes());
        let engine = open(self.name, home, false)?;
        let before = Resources::now(home).map_err(|error| error.to_string())?;
        let took = self.apply(&*engine, (0..keys).map(|n| kubernetes_key(n).into()), false);
        let begun = Instant::now();
        engine.settle();
        let all = took + begun.elapsed();
        let used = before.used(home).map_err(|error| error.to_string())?;
        rows.push(Row::higher("load, random", "puts/s", self.rate(keys, took)));
        rows.push(Row::higher(
            "load, random, to the end of background work",
            "puts/s",
            self.rate(keys, all),
        ));
        let written = used.charged_bytes as f64 / payload;
        rows.push(Row::lower("load: written bytes a byte", "x", written));
        let disk = data_bytes(home)? / payload;
        rows.push(Row::lower("load: bytes on disk a byte", "x", disk));
        rows.push(Row::lower("loaded: scan, keys only", "ms", self.scan_millis(&*engine, false)));
        let again = (0..keys / 4).map(|at| kubernetes_key(mix(at ^ 0xabcd) % keys).into());
        let again: Vec<Bytes> = again.collect();
        let took = self.apply(&*engine, again, false);
        rows.push(Row::higher("overwrite", "puts/s", self.rate(keys / 4, took)));
        Ok(engine)
    }

    /// Time of `call` in microseconds: the median of stretches of calls, over a while, so that what
    /// else the machine does matters little. It is given numbers from 0.
    fn micros(&self, mut call: impl FnMut(u64)) -> f64 {
        for number in 0..STRETCH * 10 {
            call(number);
        }
        let (begun, mut calls, mut stretches) = (Instant::now(), 0, Vec::new());
        while stretches.len() < 3 || begun.elapsed() < self.plan.time {
            let stretch = Instant::now();
            for _ in 0..STRETCH {
                call(calls);
                calls += 1;
            }
            stretches.push(stretch.elapsed());
        }
        median(stretches).as_secs_f64() * 1e6 / STRETCH as f64
    }

    /// As [`Run::micros`], for what takes long: the median of calls.
    fn millis(&self, mut call: impl FnMut()) -> f64 {
        call();
        let (begun, mut calls) = (Instant::now(), Vec::new());
        while calls.len() < 3 || begun.elapsed() < self.plan.time {
            let called = Instant::now();
            call();
            calls.push(called.elapsed());
        }
        median(calls).as_secs_f64() * 1e3
    }

    /// Time of a scan of all keys.
    fn scan_millis(&self, engine: &dyn Engine, wants_values: bool) -> f64 {
        let (now, keys) = (self.next - 1, self.plan.keys);
        self.millis(|| {
            let mut bytes = 0;
            let count = engine.scan(ALL.0, ALL.1, now, u64::MAX, wants_values, &mut |k, v| {
                bytes += k.len() + v.len();
            });
            assert!(count == keys && bytes > 0, "{count} of {keys} keys");
        })
    }

    fn key(&self, number: u64) -> &[u8] {
        self.sample[(number % self.sample.len() as u64) as usize].as_bytes()
    }

    fn reads(&self, engine: &dyn Engine, rows: &mut Vec<Row>) {
        let (now, keys) = (self.next - 1, self.plan.keys);
        // What the load wrote last: overwritten keys are read as they were before.
        let old = keys + 1;
        for (name, at) in [("get, warm", now), ("get at an old revision", old)] {
            let micros = self.micros(|number| {
                let found = engine.get(self.key(number), at).expect("the key was loaded");
                assert_eq!(found.len(), self.plan.value_bytes);
            });
            rows.push(Row::lower(name, "us", micros));
        }
        for (name, wants_values) in [("scan, keys and values", true), ("scan, keys only", false)] {
            rows.push(Row::lower(name, "ms", self.scan_millis(engine, wants_values)));
        }
        let pods = engine.count(PODS.0, PODS.1, now);
        for (name, (start, end), count) in [("count, all", ALL, keys), ("count, pods", PODS, pods)]
        {
            let millis = self.millis(|| assert_eq!(engine.count(start, end, now), count));
            rows.push(Row::lower(name, "ms", millis));
        }
        let micros = self.micros(|number| {
            let key = self.key(number);
            engine.scan(key, ALL.1, now, 500, true, &mut |_, _| {});
        });
        rows.push(Row::lower("page of 500", "us", micros));
    }

    /// Gets while a writer puts at a rate that all can keep.
    fn beside(&mut self, engine: &dyn Engine, rows: &mut Vec<Row>) {
        let (is_over, first, keys) = (AtomicBool::new(false), self.next, self.plan.keys);
        let workload = self.workload.clone();
        let pause = Duration::from_secs_f64(16.0 / BESIDE_RATE);
        let mut latencies = Latencies::default();
        self.next = std::thread::scope(|scope| {
            let is_over = &is_over;
            let writer = scope.spawn(move || {
                let (begun, mut next, mut batches) = (Instant::now(), first, 0);
                while !is_over.load(Ordering::Relaxed) {
                    let put = |at: u64| {
                        let key = kubernetes_key(mix(next + at) % keys);
                        Change::Put(key.into(), workload.value(next + at))
                    };
                    let changes: Vec<Change> = (0..16).map(put).collect();
                    engine.apply(next, &changes, false);
                    next += 16;
                    batches += 1;
                    let due = begun + pause * batches;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                next
            });
            let begun = Instant::now();
            let mut number = 0;
            while begun.elapsed() < self.plan.time {
                let called = Instant::now();
                assert!(engine.get(self.key(number), u64::MAX - 1).is_some());
                latencies.record(called.elapsed());
                number += 1;
            }
            is_over.store(true, Ordering::Relaxed);
            writer.join().expect("the writer does not panic")
        });
        rows.push(Row::micros("get beside 20 k puts/s, p50", latencies.quantile(0.5)));
        rows.push(Row::micros("get beside 20 k puts/s, p99", latencies.quantile(0.99)));
    }

    fn durable(&mut self, home: &Path, rows: &mut Vec<Row>) -> Result<Box<dyn Engine>, String> {
        let engine = open(self.name, home, true)?;
        // The first durable batch makes files.
        engine.apply(self.next, &[Change::Put("/registry/first".into(), self.value(0))], true);
        self.next += 1;
        let (begun, first) = (Instant::now(), self.next);
        while begun.elapsed() < self.plan.time {
            let put = |at: u64| {
                let key = kubernetes_key(mix(self.next + at) % self.plan.keys);
                Change::Put(key.into(), self.value(self.next + at))
            };
            let changes: Vec<Change> = (0..DURABLE_BATCH).map(put).collect();
            engine.apply(self.next, &changes, true);
            self.next += DURABLE_BATCH;
        }
        let rate = self.rate(self.next - first, begun.elapsed());
        rows.push(Row::higher("durable batches of 64", "puts/s", rate));
        Ok(engine)
    }

    fn deletes(&mut self, engine: &dyn Engine, rows: &mut Vec<Row>) -> Result<(), String> {
        let count = self.plan.keys / 10;
        let took = self.apply(engine, (0..count).map(|n| kubernetes_key(n).into()), true);
        rows.push(Row::higher("delete", "deletes/s", self.rate(count, took)));
        let begun = Instant::now();
        engine.compact(self.next - 1);
        engine.settle();
        rows.push(Row::millis("compaction, to the end of background work", begun.elapsed()));
        let home = self.directory.join("data");
        let disk = data_bytes(&home)?;
        let live = self.payload_bytes() * 0.9;
        rows.push(Row::lower("compacted: bytes on disk a byte", "x", disk / live));
        Ok(())
    }
}
