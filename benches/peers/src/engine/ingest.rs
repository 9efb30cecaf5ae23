//! Stalls: what a writer at a steady 50 MB/s and readers beside it feel of background work.
//!
//! One idea: a batch is due every so often, whatever the one before took, and its time counts from
//! when it was due: a stall then costs all batches that it delays, as it costs clients. Values of
//! 1 KiB, half of the puts to a twentieth of the keys; history is given up twice a second, so flushes,
//! merges and the rewriting of values go on all the time.
//!
//! Gets and pages of 500 are timed three times: nothing else going on; beside the writer; and beside
//! the writer while an old view is held. Writer, background work and readers are a thread each, so
//! with fewer than three processors (four for engines with more threads) the rows also measure the
//! scheduler.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use varve_benches::latency::Latencies;
use varve_benches::process::Figures;
use varve_benches::workload::{Order, PREFIX_END, ValueSizes, Workload, kubernetes_key, mix};

use super::rows::Row;
use super::{Change, Engine, fill, open};
use crate::resources::Resources;

/// Bytes of keys and values a second.
const BYTES_A_SECOND: f64 = 50e6;
const VALUE_BYTES: usize = 1024;
/// Changes of a batch: what one entry of the log has under load.
const BATCH: u64 = 16;
/// How often history is given up, and how much of it stays.
const COMPACT_EVERY: Duration = Duration::from_millis(500);
/// Gets between two pages.
const GETS_A_PAGE: u64 = 50;
const PAGE: u64 = 500;

/// Runs on one engine: `keys` are loaded; then each part takes `time`.
///
/// # Errors
/// What the engine or the disk says.
pub fn run(name: &str, directory: &Path, keys: u64, time: Duration) -> Result<Vec<Row>, String> {
    let fail = |error: std::io::Error| error.to_string();
    let home = directory.join("ingest");
    let engine = open(name, &home, false)?;
    let engine = &*engine;
    let workload = workload(keys);
    let next = fill(engine, &workload, keys, BATCH);
    let mut load = Load { engine, keys, next, horizon: 1, workload };
    let mut rows = Vec::new();

    let before = Resources::now(&home).map_err(fail)?;
    let Written { batches: alone, calls, wakes, bytes } = load.write(time);
    let used = before.used(&home).map_err(fail)?;
    rows.push(Row::millis("apply at 50 MB/s, p99.9", alone.quantile(0.999)));
    rows.push(Row::millis("apply at 50 MB/s, longest", alone.longest()));
    rows.push(Row::millis("apply at 50 MB/s, longest call", calls.longest()));
    rows.push(Row::millis("its writer wakes too late, longest", wakes.longest()));
    let written = used.charged_bytes as f64 / bytes as f64;
    rows.push(Row::lower("50 MB/s: written bytes a byte", "x", written));

    engine.settle();
    let idle = read_for(engine, keys, time);
    let (beside, with_readers) = load.write_beside_readers(time);
    idle.rows("nothing beside", &mut rows);
    beside.rows("beside 50 MB/s", &mut rows);
    beside.ratios(&idle, &mut rows);
    let p99 = with_readers.quantile(0.99);
    rows.push(Row::millis("apply at 50 MB/s beside readers, p99", p99));
    if let Some(held) = engine.hold() {
        let heap_before = heap_bytes()?;
        let (_, writes) = load.write_beside_readers(time);
        let heap_after = heap_bytes()?;
        drop(held);
        let p99 = writes.quantile(0.99);
        rows.push(Row::millis("the same while a view is held, p99", p99));
        let ratio = p99.as_secs_f64() / with_readers.quantile(0.99).as_secs_f64();
        rows.push(Row::lower("the same: held to not held", "x", ratio));
        rows.push(Row::mebibytes("heap before a view is held", heap_before));
        rows.push(Row::mebibytes("heap at the end, view still held", heap_after));
    }
    Ok(rows)
}

/// Memory of this process that is no file.
fn heap_bytes() -> Result<u64, String> {
    let figures = Figures::of(std::process::id()).map_err(|error| error.to_string())?;
    Ok(figures.anonymous_bytes)
}

fn workload(keys: u64) -> Workload {
    Workload::new(keys, Order::Random, ValueSizes::Fixed(VALUE_BYTES), 1)
}

/// What a writer felt.
#[derive(Default)]
struct Written {
    /// From when a batch was due to when it was in.
    batches: Latencies,
    /// In calls alone.
    calls: Latencies,
    /// From when the writer wanted to be woken to when it was: the machine's part, for nobody is called.
    wakes: Latencies,
    bytes: u64,
}

/// The writer.
struct Load<'a> {
    engine: &'a dyn Engine,
    keys: u64,
    next: u64,
    /// Where history is given up next.
    horizon: u64,
    workload: Workload,
}

impl Load<'_> {
    fn batch(&self) -> Vec<Change> {
        let put = |number: u64| {
            let bits = mix(number);
            let among = if bits & 1 == 0 { self.keys.div_ceil(20) } else { self.keys };
            let key = kubernetes_key((bits >> 8) % among);
            Change::Put(key.into(), self.workload.value(number))
        };
        (self.next..self.next + BATCH).map(put).collect()
    }

    /// Writes at the rate for so long.
    fn write(&mut self, time: Duration) -> Written {
        let mut written = Written::default();
        let (begun, mut due, mut compact_at) = (Instant::now(), Duration::ZERO, COMPACT_EVERY);
        while due < time {
            let changes = self.batch();
            if let Some(pause) = due.checked_sub(begun.elapsed()) {
                std::thread::sleep(pause);
                written.wakes.record(begun.elapsed().saturating_sub(due));
            }
            let called = Instant::now();
            self.engine.apply(self.next, &changes, false);
            written.calls.record(called.elapsed());
            written.batches.record(begun.elapsed().saturating_sub(due));
            self.next += BATCH;
            let batch_bytes: u64 = changes.iter().map(Change::bytes).sum();
            written.bytes += batch_bytes;
            due += Duration::from_secs_f64(batch_bytes as f64 / BYTES_A_SECOND);
            if due > compact_at {
                let called = Instant::now();
                self.engine.compact(self.horizon);
                written.calls.record(called.elapsed());
                self.horizon = self.next - 1;
                compact_at += COMPACT_EVERY;
            }
        }
        written
    }

    fn write_beside_readers(&mut self, time: Duration) -> (Reads, Latencies) {
        let (is_over, engine, keys) = (AtomicBool::new(false), self.engine, self.keys);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = Reads::default();
                while !is_over.load(Ordering::Relaxed) {
                    reads.round(engine, keys);
                }
                reads
            });
            let written = self.write(time);
            is_over.store(true, Ordering::Relaxed);
            (reader.join().expect("the reader does not panic"), written.batches)
        })
    }
}

fn read_for(engine: &dyn Engine, keys: u64, time: Duration) -> Reads {
    let (mut reads, begun) = (Reads::default(), Instant::now());
    while begun.elapsed() < time {
        reads.round(engine, keys);
    }
    reads
}

/// Times of reads.
#[derive(Default)]
struct Reads {
    gets: Latencies,
    pages: Latencies,
    number: u64,
}

impl Reads {
    /// Some gets and a page.
    fn round(&mut self, engine: &dyn Engine, keys: u64) {
        for _ in 0..GETS_A_PAGE {
            let key = self.key(keys);
            let begun = Instant::now();
            assert!(engine.get(key.as_bytes(), u64::MAX - 1).is_some(), "{key} is never deleted");
            self.gets.record(begun.elapsed());
        }
        let key = self.key(keys);
        let (at, begun) = (u64::MAX - 1, Instant::now());
        engine.scan(key.as_bytes(), PREFIX_END.as_bytes(), at, PAGE, true, &mut |_, _| {});
        self.pages.record(begun.elapsed());
    }

    fn key(&mut self, keys: u64) -> String {
        self.number += 1;
        kubernetes_key(mix(self.number) % keys)
    }

    fn rows(&self, when: &str, rows: &mut Vec<Row>) {
        rows.push(Row::micros(&format!("get, {when}, p99"), self.gets.quantile(0.99)));
        rows.push(Row::micros(&format!("page of 500, {when}, p99"), self.pages.quantile(0.99)));
    }

    /// How many times longer than with nothing beside.
    fn ratios(&self, idle: &Self, rows: &mut Vec<Row>) {
        let ratio = |now: &Latencies, idle: &Latencies| {
            now.quantile(0.99).as_secs_f64() / idle.quantile(0.99).as_secs_f64()
        };
        rows.push(Row::lower("get p99: beside to nothing", "x", ratio(&self.gets, &idle.gets)));
        rows.push(Row::lower("page p99: beside to nothing", "x", ratio(&self.pages, &idle.pages)));
    }
}
