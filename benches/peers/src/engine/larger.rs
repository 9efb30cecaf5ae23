//! More data than memory: the whole process, its page cache included, has half of the data's size.
//!
//! One idea: every value is compared, so that what is measured is also right; and a thread that may
//! not wait, as a socket's thread may not, asks for values beside. An engine that can tell that a
//! value is elsewhere tells it, and another thread fetches it; one that cannot lets the first thread
//! wait. What such a turn takes is what all other clients of that thread feel.

use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use varve_benches::latency::Latencies;
use varve_benches::workload::{
    Order, PREFIX, PREFIX_END, ValueSizes, Workload, kubernetes_key, mix,
};

use super::rows::{Row, data_bytes};
use super::{Engine, fill, open};
use crate::limit::Limit;

/// Changes of a batch.
const BATCH: u64 = 256;
const VALUE_BYTES: usize = 1024;
/// Rows of a page.
const PAGE: u64 = 500;
/// Gets between two pages.
const GETS_A_PAGE: u64 = 20;
/// Values that wait to be fetched for the thread that may not wait.
const FETCHES_MAX: usize = 64;
/// A turn as long as this has waited for a disk or a lock.
const LONG: Duration = Duration::from_millis(1);

/// The engines that are measured: ours, and the one that is built for it.
pub const NAMES: [&str; 2] = ["varve", "rocksdb"];

/// Runs on one engine with `keys`; each part takes `time`.
///
/// # Errors
/// What the engine or the disk says, or that memory cannot be limited here.
pub fn run(name: &str, directory: &Path, keys: u64, time: Duration) -> Result<Vec<Row>, String> {
    let limit_bytes = keys * VALUE_BYTES as u64 / 2;
    let limit = Limit::new(limit_bytes)?;
    let home = directory.join("larger");
    let engine = open(name, &home, false)?;
    let engine = &*engine;
    let sizes = ValueSizes::Fixed(VALUE_BYTES);
    let data = Data { engine, keys, workload: Workload::new(keys, Order::Random, sizes, 1) };
    fill(engine, &data.workload, keys, BATCH);
    let mut rows = Vec::new();
    rows.push(Row::lower("files to memory", "x", data_bytes(&home)? / limit_bytes as f64));
    let (gets, pages) = data.read(time);
    rows.push(Row::higher("gets", "1/s", gets.count() as f64 / time.as_secs_f64()));
    rows.push(Row::micros("get, p50", gets.quantile(0.5)));
    rows.push(Row::micros("get, p99", gets.quantile(0.99)));
    rows.push(Row::micros("page of 500, p99", pages.quantile(0.99)));
    let begun = Instant::now();
    data.scan();
    let bytes = keys as f64 * VALUE_BYTES as f64;
    rows.push(Row::higher(
        "scan of everything",
        "MB/s",
        bytes / 1e6 / begun.elapsed().as_secs_f64(),
    ));
    let turns = data.turns(time);
    rows.push(Row::micros("turn of a thread that may not wait, p99", turns.p99));
    rows.push(Row::lower("turns above 1 ms, of a million", "", turns.long_of_a_million));
    rows.push(Row::millis("longest turn", turns.longest));
    drop(limit);
    Ok(rows)
}

struct Data<'a> {
    engine: &'a dyn Engine,
    keys: u64,
    workload: Workload,
}

/// What the turns of a thread took.
struct Turns {
    p99: Duration,
    longest: Duration,
    long_of_a_million: f64,
}

impl Data<'_> {
    fn read(&self, time: Duration) -> (Latencies, Latencies) {
        let (mut gets, mut pages) = (Latencies::default(), Latencies::default());
        let (begun, mut number) = (Instant::now(), 0);
        while begun.elapsed() < time {
            for _ in 0..GETS_A_PAGE {
                number += 1;
                let wanted = mix(number) % self.keys;
                let key = kubernetes_key(wanted);
                let called = Instant::now();
                let found = self.engine.get(key.as_bytes(), u64::MAX - 1);
                gets.record(called.elapsed());
                assert_eq!(found, Some(self.workload.value(wanted)), "the value of {key}");
            }
            let key = kubernetes_key(mix(!number) % self.keys);
            let (called, mut bytes) = (Instant::now(), 0);
            let mut sum = |_: &[u8], value: &[u8]| bytes += value.len();
            let end = PREFIX_END.as_bytes();
            let count = self.engine.scan(key.as_bytes(), end, u64::MAX - 1, PAGE, true, &mut sum);
            pages.record(called.elapsed());
            assert_eq!(bytes, count as usize * VALUE_BYTES, "values from {key} on");
        }
        (gets, pages)
    }

    fn scan(&self) {
        let (start, end) = (PREFIX.as_bytes(), PREFIX_END.as_bytes());
        let mut bytes = 0;
        let mut sum = |_: &[u8], value: &[u8]| bytes += value.len();
        let count = self.engine.scan(start, end, u64::MAX - 1, u64::MAX, true, &mut sum);
        assert_eq!((count, bytes), (self.keys, self.keys as usize * VALUE_BYTES));
    }

    /// Turns of a thread that hands over what it would have to wait for. The one that fetches is as
    /// fast as the disk; when too much waits for it, the turns wait, outside of their time, as
    /// clients do.
    fn turns(&self, time: Duration) -> Turns {
        let (fetch, fetched) = sync_channel::<u64>(FETCHES_MAX);
        let (mut turns, mut long) = (Latencies::default(), 0_u64);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for wanted in fetched {
                    let key = kubernetes_key(wanted);
                    let found = self.engine.get(key.as_bytes(), u64::MAX - 1);
                    assert_eq!(found, Some(self.workload.value(wanted)), "the value of {key}");
                }
            });
            let (begun, mut number) = (Instant::now(), 1 << 40);
            while begun.elapsed() < time {
                number += 1;
                let wanted = mix(number) % self.keys;
                let key = kubernetes_key(wanted);
                let called = Instant::now();
                let found = self.engine.get_resident(key.as_bytes(), u64::MAX - 1);
                let took = called.elapsed();
                turns.record(took);
                long += u64::from(took > LONG);
                match found {
                    Some(found) => {
                        assert_eq!(found, Some(self.workload.value(wanted)), "the value of {key}");
                    }
                    None => fetch.send(wanted).expect("the other thread goes on"),
                }
            }
            drop(fetch);
        });
        let long_of_a_million = long as f64 * 1e6 / turns.count() as f64;
        Turns { p99: turns.quantile(0.99), longest: turns.longest(), long_of_a_million }
    }
}
