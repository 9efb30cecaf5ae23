//! A trace as Kubernetes makes it: names below `/registry/`, log-normal values, 5 % of the keys take
//! 80 % of the updates, a twentieth of the changes deletes or creates short-lived objects, and every
//! "five minutes" (a tenth of the trace) versions older than one such time are compacted.
//!
//! One idea: writer and compaction go on as fast as they can while a reader gets keys, so the rows
//! tell what an etcd on this engine would feel in a busy cluster.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use varve_benches::latency::Latencies;
use varve_benches::process::Figures;
use varve_benches::workload::{Order, ValueSizes, Workload, kubernetes_key, mix};

use super::rows::{Row, data_bytes};
use super::{Change, Engine, open};
use crate::resources::Resources;

/// Changes of a batch: what one entry of the log has under load.
const BATCH: u64 = 16;
/// Times at which is compacted.
const PERIODS: u64 = 10;

/// Runs the trace on one engine: `keys` objects, then `updates` changes.
///
/// # Errors
/// What the engine or the disk says.
pub fn run(name: &str, directory: &Path, keys: u64, updates: u64) -> Result<Vec<Row>, String> {
    let fail = |error: std::io::Error| error.to_string();
    let home = directory.join("trace");
    let engine = open(name, &home, false)?;
    let workload = Workload::new(keys, Order::Random, ValueSizes::LogNormal, 1);
    let mut next = 2;
    let mut live_bytes = 0u64;
    for first in (0..keys).step_by(BATCH as usize) {
        let put = |number: u64| Change::Put(kubernetes_key(number).into(), workload.value(number));
        let changes: Vec<Change> = (first..keys.min(first + BATCH)).map(put).collect();
        live_bytes += changes.iter().map(Change::bytes).sum::<u64>();
        engine.apply(next, &changes, false);
        next += changes.len() as u64;
    }
    engine.settle();
    let before = Resources::now(&home).map_err(fail)?;
    let is_over = AtomicBool::new(false);
    let ((written, history), latencies, applied) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&*engine, keys, &is_over));
        let begun = Instant::now();
        let written_and_history = update(&*engine, &workload, keys, updates, next);
        let applied = begun.elapsed();
        is_over.store(true, Ordering::Relaxed);
        (written_and_history, reader.join().expect("the reader does not panic"), applied)
    });
    engine.settle();
    let used = before.used(&home).map_err(fail)?;
    let figures = Figures::of(std::process::id()).map_err(fail)?;
    let disk = data_bytes(&home)?;
    let resident = figures.resident_bytes_max as f64 / f64::from(1 << 20);
    // At the horizon there was about as much as in the beginning.
    let readable = live_bytes + history;
    Ok(vec![
        Row::higher("trace: changes", "puts/s", updates as f64 / applied.as_secs_f64()),
        Row::micros("trace: get beside them, p50", latencies.quantile(0.5)),
        Row::micros("trace: get beside them, p99", latencies.quantile(0.99)),
        Row::micros("trace: get beside them, p99.9", latencies.quantile(0.999)),
        Row::lower("trace: written bytes a byte", "x", used.charged_bytes as f64 / written as f64),
        Row::lower("trace: bytes on disk a live byte", "x", disk / live_bytes as f64),
        Row::lower("trace: bytes on disk a readable byte", "x", disk / readable as f64),
        Row::lower("trace: most resident memory", "MiB", resident),
    ])
}

/// The change of a number. Updates of living objects mostly go to the first twentieth of the keys;
/// short-lived objects have numbers behind all of them and are deleted ten thousand changes later.
fn change(workload: &Workload, keys: u64, number: u64) -> Change {
    let bits = mix(number ^ 0x7ace);
    let short_lived = |number: u64| kubernetes_key(keys + number).into();
    match bits % 40 {
        0 => Change::Put(short_lived(number), workload.value(number)),
        1 => Change::Delete(short_lived(number.saturating_sub(10_000))),
        _ => {
            let is_hot = bits >> 8 & 0xff < 205;
            let among = if is_hot { keys.div_ceil(20) } else { keys };
            let key = kubernetes_key((bits >> 16) % among);
            Change::Put(key.into(), workload.value(number))
        }
    }
}

/// Applies the changes; returns the bytes of their keys and values, of all and of those that are
/// still readable because they are younger than what was compacted.
fn update(
    engine: &dyn Engine,
    workload: &Workload,
    keys: u64,
    updates: u64,
    first: u64,
) -> (u64, u64) {
    let period = (updates / PERIODS).max(1);
    let (mut next, mut bytes, mut due, mut horizon) = (first, 0, period, first);
    let (mut bytes_at_horizon, mut bytes_compacted) = (0, 0);
    for number in (0..updates).step_by(BATCH as usize) {
        let numbers = number..updates.min(number + BATCH);
        let changes: Vec<Change> = numbers.map(|n| change(workload, keys, n)).collect();
        bytes += changes.iter().map(Change::bytes).sum::<u64>();
        engine.apply(next, &changes, false);
        next += changes.len() as u64;
        if number >= due {
            // What was current one period ago stays readable.
            engine.compact(horizon);
            bytes_compacted = bytes_at_horizon;
            (horizon, bytes_at_horizon) = (next - 1, bytes);
            due += period;
        }
    }
    (bytes, bytes - bytes_compacted)
}

fn read(engine: &dyn Engine, keys: u64, is_over: &AtomicBool) -> Latencies {
    let (mut latencies, mut number) = (Latencies::default(), 0u64);
    while !is_over.load(Ordering::Relaxed) {
        let key = kubernetes_key(mix(number) % keys);
        let begun = Instant::now();
        assert!(engine.get(key.as_bytes(), u64::MAX - 1).is_some(), "{key} is never deleted");
        latencies.record(begun.elapsed());
        number += 1;
    }
    latencies
}
