//! One cell of the table: a log, a size of records, and a number of appenders.
//!
//! One idea: threads append in a closed loop, for a while that does not count and then for one that
//! does. What began and ended within that one is counted; CPU time and bytes are read at its ends.

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use varve_benches::latency::Latencies;
use varve_benches::workload::mix;

use super::Log;
use crate::resources::{Resources, Used};

/// The share of the time that comes before and does not count.
const WARM_UP: f64 = 0.15;

/// Who appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// So many, one record each, each waiting for its own.
    Appenders(usize),
    /// One, with so many records at once.
    Batch(usize),
}

impl Load {
    /// Records that can be in one sync.
    pub fn records(self) -> usize {
        match self {
            Load::Appenders(count) | Load::Batch(count) => count,
        }
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Load::Appenders(1) => f.write_str("1 appender"),
            Load::Appenders(count) => write!(f, "{count} appenders"),
            Load::Batch(count) => write!(f, "batches of {count}"),
        }
    }
}

/// What came of it.
#[derive(Clone, Default)]
pub struct Measured {
    /// Records that became durable.
    pub records: u64,
    /// From the call until the record is durable, of each record; of each batch in batches.
    pub latencies: Latencies,
    /// What it took.
    pub used: Used,
}

/// Fills and uses again what a log makes files of, as it has after hours: some of a contestant's
/// cost is that of the first minute only.
pub fn age(log: &dyn Log) {
    let records = records(4096, 256, 0);
    for _ in 0..AGE_BYTES >> 20 {
        log.append_batch(&records);
    }
}

/// Bytes that are written before anything is measured: three files of most contestants.
const AGE_BYTES: u64 = 200 << 20;

const WARMING_UP: u8 = 0;
const COUNTING: u8 = 1;
const OVER: u8 = 2;

/// Lets `load` go on `log` for `time`. `directory` is where it lies.
pub fn measure(
    log: &dyn Log,
    directory: &Path,
    record_bytes: usize,
    load: Load,
    time: Duration,
) -> Measured {
    let (threads, records_at_once) = match load {
        Load::Appenders(count) if log.is_floor() => (1, count),
        Load::Appenders(count) => (count, 1),
        Load::Batch(count) => (1, count),
    };
    let phase = AtomicU8::new(WARMING_UP);
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let appenders: Vec<_> = (0..threads)
            .map(|appender| {
                let records = records(record_bytes, records_at_once, appender as u64);
                let (phase, barrier) = (&phase, &barrier);
                let append = move || {
                    let latencies = Latencies::default();
                    barrier.wait();
                    append_until_over(log, appender, &records, phase, latencies)
                };
                let builder = std::thread::Builder::new().stack_size(256 << 10);
                builder.spawn_scoped(scope, append).expect("a thread can be had")
            })
            .collect();
        barrier.wait();
        std::thread::sleep(time.mul_f64(WARM_UP));
        let before = Resources::now(directory).expect("the kernel tells what is used");
        phase.store(COUNTING, Ordering::Relaxed);
        std::thread::sleep(time.mul_f64(1.0 - WARM_UP));
        phase.store(OVER, Ordering::Relaxed);
        let used = before.used(directory).expect("the kernel tells what is used");
        let mut latencies = Latencies::default();
        for appender in appenders {
            latencies.add(&appender.join().expect("no appender panics"));
        }
        Measured { records: latencies.count() * records_at_once as u64, latencies, used }
    })
}

fn append_until_over(
    log: &dyn Log,
    appender: usize,
    records: &[Bytes],
    phase: &AtomicU8,
    mut latencies: Latencies,
) -> Latencies {
    loop {
        let before = phase.load(Ordering::Relaxed);
        if before == OVER {
            return latencies;
        }
        let begun = Instant::now();
        match records {
            [record] => log.append(appender, record),
            records => log.append_batch(records),
        }
        let latency = begun.elapsed();
        if before == COUNTING && phase.load(Ordering::Relaxed) == COUNTING {
            latencies.record(latency);
        }
    }
}

/// Random bytes: a log that compresses gains nothing.
fn records(record_bytes: usize, count: usize, seed: u64) -> Vec<Bytes> {
    let words = (0..record_bytes.div_ceil(8) as u64 * count as u64)
        .flat_map(|at| mix(mix(seed) ^ at).to_le_bytes());
    let all = Bytes::from(words.collect::<Vec<u8>>());
    (0..count).map(|at| all.slice(at * record_bytes..(at + 1) * record_bytes)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    struct Nothing(AtomicU64);

    impl Log for Nothing {
        fn append(&self, _appender: usize, record: &Bytes) {
            self.append_batch(std::slice::from_ref(record));
        }

        fn append_batch(&self, records: &[Bytes]) {
            std::thread::sleep(Duration::from_micros(100));
            self.0.fetch_add(records.len() as u64, Ordering::Relaxed);
        }
    }

    #[test]
    fn no_more_is_counted_than_was_appended() {
        for load in [Load::Appenders(1), Load::Appenders(4), Load::Batch(8)] {
            let log = Nothing(AtomicU64::new(0));
            let time = Duration::from_millis(200);
            let measured = measure(&log, Path::new("."), 64, load, time);
            assert!(measured.records > 0, "{load}");
            assert!(measured.records <= log.0.into_inner(), "{load}");
        }
    }

    #[test]
    fn records_differ() {
        let records = records(256, 3, 0);
        assert!(records.iter().all(|record| record.len() == 256));
        assert_ne!(records[0], records[1]);
        assert_ne!(records[0], super::records(256, 1, 1)[0]);
    }
}
