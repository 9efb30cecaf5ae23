//! Do all engines answer alike? Checked before anything is measured, and as a test.
//!
//! One idea: the same random batches go to every engine and to a naive map of versions, and every
//! kind of read is compared with the map, at revisions old and new, before and after a compaction,
//! and once more after a restart. A contestant that answers something else is not measured.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use varve_benches::workload::{PREFIX, PREFIX_END, kubernetes_key, mix};

use super::{Change, Engine, open};

const KEYS: u64 = 150;
const BATCHES: u64 = 120;
const BATCH_MAX: u64 = 12;

/// Versions of each key, oldest first; `None` is a tombstone.
#[derive(Default)]
struct Model(BTreeMap<Bytes, Vec<(u64, Option<Bytes>)>>);

impl Model {
    fn apply(&mut self, first: u64, changes: &[Change]) {
        for (revision, change) in (first..).zip(changes) {
            let (key, value) = match change {
                Change::Put(key, value) => (key, Some(value.clone())),
                Change::Delete(key) => (key, None),
            };
            let versions = self.0.entry(key.clone()).or_default();
            let is_live = versions.last().is_some_and(|(_, value)| value.is_some());
            if value.is_some() || is_live {
                versions.push((revision, value));
            }
        }
    }

    fn get(&self, key: &[u8], at: u64) -> Option<&Bytes> {
        let versions = self.0.get(key)?;
        versions.iter().rev().find(|(revision, _)| *revision <= at)?.1.as_ref()
    }

    fn range(&self, start: &[u8], end: &[u8], at: u64) -> Vec<(Bytes, Bytes)> {
        let keys = self.0.keys().filter(|key| key.as_ref() >= start && key.as_ref() < end);
        keys.filter_map(|key| Some((key.clone(), self.get(key, at)?.clone()))).collect()
    }
}

/// A batch that depends on nothing but its number: no key twice, as one transaction of etcd.
fn batch(number: u64) -> Vec<Change> {
    let count = 1 + mix(number) % BATCH_MAX;
    let mut changes = BTreeMap::new();
    for at in 0..count {
        let bits = mix(number << 8 | at);
        let key = Bytes::from(kubernetes_key(bits % KEYS));
        let change = if bits >> 20 & 3 == 0 {
            Change::Delete(key.clone())
        } else {
            // Some are kept beside their keys and some apart.
            let bytes = [8, 200, 3000][(bits >> 30) as usize % 3];
            let word = bits.to_le_bytes();
            let value: Vec<u8> = word.iter().copied().cycle().take(bytes).collect();
            Change::Put(key.clone(), Bytes::from(value))
        };
        changes.insert(key, change);
    }
    changes.into_values().collect()
}

/// Checks the engine of a name, in a directory of its own.
///
/// # Errors
/// Names the first answer that is another one than expected.
pub fn check(name: &str, directory: &Path) -> Result<(), String> {
    let mut model = Model::default();
    let engine = open(name, directory, true)?;
    let mut next = 2;
    let mut revisions = vec![1];
    for number in 0..BATCHES {
        let changes = batch(number);
        engine.apply(next, &changes, number % 3 == 0);
        model.apply(next, &changes);
        next += changes.len() as u64;
        revisions.push(next - 1);
        if number % 50 == 49 {
            engine.settle();
        }
    }
    let fail = |when: &str, message| format!("{name}, {when}: {message}");
    compare(&*engine, &model, &revisions).map_err(|message| fail("first", message))?;
    engine.settle();
    compare(&*engine, &model, &revisions).map_err(|message| fail("settled", message))?;
    let (_, readable) = revisions.split_at(revisions.len() / 2);
    engine.compact(readable[0]);
    compare(&*engine, &model, readable).map_err(|message| fail("compacted", message))?;
    engine.settle();
    drop(engine);
    let engine = open(name, directory, true)?;
    compare(&*engine, &model, readable).map_err(|message| fail("opened again", message))
}

fn compare(engine: &dyn Engine, model: &Model, revisions: &[u64]) -> Result<(), String> {
    let newest = revisions.last().copied().unwrap_or(0);
    for &at in revisions.iter().step_by(7).chain([&newest]) {
        for number in 0..KEYS + 5 {
            let key = kubernetes_key(number);
            let (found, expected) = (engine.get(key.as_bytes(), at), model.get(key.as_bytes(), at));
            if found.as_ref() != expected {
                let lengths = (found.map(|f| f.len()), expected.map(|e| e.len()));
                return Err(format!("{key} at {at}: lengths (found, expected) {lengths:?}"));
            }
        }
        let ranges = [(PREFIX, PREFIX_END), ("/registry/pods/", "/registry/pods0"), ("/a", "/b")];
        for (start, end) in ranges.map(|(start, end)| (start.as_bytes(), end.as_bytes())) {
            let expected = model.range(start, end, at);
            let limits = [1, 7, u64::MAX];
            for (limit, wants_values) in limits.into_iter().flat_map(|l| [(l, true), (l, false)]) {
                let mut found = Vec::new();
                let count = engine.scan(start, end, at, limit, wants_values, &mut |key, value| {
                    let value = if wants_values { value } else { &[] };
                    found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                });
                let wanted = expected.iter().take(limit.min(1 << 30) as usize).cloned();
                let strip = |(key, value)| (key, if wants_values { value } else { Bytes::new() });
                let wanted: Vec<_> = wanted.map(strip).collect();
                if count != found.len() as u64 || found != wanted {
                    let (start, found) = (String::from_utf8_lossy(start), found.len());
                    let wanted = wanted.len();
                    return Err(format!(
                        "range from {start} at {at}, limit {limit}, values {wants_values}: \
                         found {found} of {wanted} or others"
                    ));
                }
            }
            let count = engine.count(start, end, at);
            if count != expected.len() as u64 {
                return Err(format!("count at {at}: {count}, expected {}", expected.len()));
            }
        }
    }
    Ok(())
}
