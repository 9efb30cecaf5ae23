//! A naive engine: a list of batches. Everything the real one answers is derived from it by the
//! words of the documentation, without an index, a file or a thought about speed.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

pub mod counting;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use varve_disk::Disk;
use varve_disk::sim::{Random, SimDisk};
use varve_lsm::{
    Commit, Compression, Db, Delta, Direction, Entry, KeyRange, Keyspace, Kind, Meta, Options,
    Result, Revision, Snapshot, Values, Work, Writer,
};

/// What was done and compared so far, by all threads: each change, each read held against the model,
/// each step of background work.
static OPERATIONS: AtomicU64 = AtomicU64::new(0);

/// Counts operations.
pub fn count_operations(count: usize) {
    OPERATIONS.fetch_add(count as u64, Ordering::Relaxed);
}

/// Operations so far.
pub fn operations() -> u64 {
    OPERATIONS.load(Ordering::Relaxed)
}

/// Both keyspaces.
pub const KEYSPACES: [Keyspace; 2] = [Keyspace::Kv, Keyspace::Sys];

/// One change.
#[derive(Clone, Debug)]
pub struct Change {
    pub keyspace: Keyspace,
    pub key: Vec<u8>,
    pub revision: Revision,
    /// `None`: a tombstone.
    pub value: Option<Vec<u8>>,
    pub delta: Delta,
}

/// What one commit made visible.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub changes: Vec<Change>,
    pub visible: u64,
    pub compacted: u64,
}

/// All batches, and the versions of each key in order.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub batches: Vec<Batch>,
    versions: BTreeMap<(Keyspace, Vec<u8>), Vec<Change>>,
}

/// Limits so small that a few hundred changes make many files.
pub fn small_options() -> Options {
    Options {
        identity: *b"model of an LSM.",
        origin: 3,
        memtable_bytes: 12 << 10,
        frozen_memtables_max: 2,
        level0_tables: 3,
        // Among themselves, unless that leaves garbage: so all kinds of merges are made.
        bottom_factor: 0,
        segment_bytes: 8 << 10,
        table_bytes: 6 << 10,
        inline_value_bytes_max: 40,
        step_bytes: 3 << 10,
        compression: None,
        frame_cache_bytes: 8 << 10,
    }
}

/// The same, with relocated values compressed, in several frames a segment.
pub fn compressing_options() -> Options {
    let compression = Some(Compression { level: 1, frame_bytes: 700 });
    Options { compression, ..small_options() }
}

/// How many segments of an engine on `disk` are compressed.
pub fn compressed_segments(disk: &SimDisk) -> usize {
    let names = disk.list(dir()).unwrap().into_iter().filter(|name| name.ends_with(".vs"));
    // The first of the feature bits, docs/FORMAT.md section 2.1.
    names.filter(|name| disk.map(&dir().join(name)).unwrap().get(12) == Some(&1)).count()
}

/// The directory of the engine on a simulated disk.
pub fn dir() -> &'static Path {
    Path::new("/node/engine")
}

/// Opens the engine on `disk`.
pub fn open(disk: &SimDisk) -> Result<(Db, Writer)> {
    open_with(disk, small_options())
}

/// As [`open`], with other options.
pub fn open_with(disk: &SimDisk, options: Options) -> Result<(Db, Writer)> {
    Db::open(Arc::new(disk.clone()), dir(), options)
}

/// The meta of a change: something that depends on its revision and varies in length.
pub fn meta(revision: Revision) -> Meta {
    let bytes = revision.main.to_le_bytes();
    Meta::new(&bytes[..(revision.main % 9) as usize]).unwrap()
}

impl Model {
    /// The state after the first `count` batches.
    pub fn truncated(&self, count: usize) -> Self {
        let mut model = Self::default();
        self.batches[..count].iter().for_each(|batch| model.push(batch.clone()));
        model
    }

    pub fn push(&mut self, batch: Batch) {
        for change in &batch.changes {
            let key = (change.keyspace, change.key.clone());
            self.versions.entry(key).or_default().push(change.clone());
        }
        self.batches.push(batch);
    }

    pub fn visible(&self) -> u64 {
        self.batches.last().map_or(0, |batch| batch.visible)
    }

    pub fn compacted(&self) -> u64 {
        self.batches.last().map_or(0, |batch| batch.compacted)
    }

    pub fn is_live(&self, keyspace: Keyspace, key: &[u8]) -> bool {
        self.get(keyspace, key, u64::MAX).is_some_and(|change| change.value.is_some())
    }

    pub fn get(&self, keyspace: Keyspace, key: &[u8], at: u64) -> Option<&Change> {
        let at = if keyspace == Keyspace::Sys { u64::MAX } else { at };
        let versions = self.versions.get(&(keyspace, key.to_vec()))?;
        versions.iter().rev().find(|change| change.revision.main <= at)
    }

    pub fn range(&self, keyspace: Keyspace, range: &KeyRange, at: u64) -> Vec<&Change> {
        let keys = self.versions.keys().filter(|(of, key)| *of == keyspace && range.contains(key));
        let found = keys.filter_map(|(_, key)| self.get(keyspace, key, at));
        found.filter(|change| change.value.is_some()).collect()
    }

    pub fn history(&self, range: &KeyRange, from: u64, to: u64) -> Vec<&Change> {
        let changes = self.batches.iter().flat_map(|batch| &batch.changes);
        changes
            .filter(|change| {
                change.keyspace == Keyspace::Kv
                    && (from..=to).contains(&change.revision.main)
                    && range.contains(&change.key)
            })
            .collect()
    }
}

/// What a reader gets for a change.
pub fn entry(change: &Change, values: Values) -> Entry {
    let value = change.value.clone().unwrap_or_default();
    Entry {
        key: change.key.clone().into(),
        revision: change.revision,
        kind: if change.value.is_some() { Kind::Put } else { Kind::Delete },
        meta: if change.value.is_some() { meta(change.revision) } else { Meta::EMPTY },
        value_bytes: value.len() as u32,
        value: if values == Values::Load { value.into() } else { Bytes::new() },
    }
}

/// The mark after so many batches.
pub fn mark(batches: usize) -> Bytes {
    Bytes::copy_from_slice(&(batches as u64).to_le_bytes())
}

/// How many batches a mark stands for.
pub fn batches_of(mark: &[u8]) -> usize {
    if mark.is_empty() { 0 } else { u64::from_le_bytes(mark.try_into().unwrap()) as usize }
}

/// Writes the changes of a batch without committing them.
pub fn write(writer: &mut Writer, changes: &[Change]) {
    count_operations(changes.len());
    for change in changes {
        let (keyspace, key, revision) = (change.keyspace, &change.key, change.revision);
        match &change.value {
            Some(value) => {
                writer.put(keyspace, key, revision, change.delta, meta(revision), value);
            }
            None => writer.delete(keyspace, key, revision),
        }
    }
}

/// Works until nothing is left to do, which must not take for ever. Returns the steps taken.
pub fn settle(db: &Db) -> Result<usize> {
    for step in 0..10_000 {
        count_operations(1);
        if db.work()? == Work::Idle {
            return Ok(step);
        }
    }
    panic!("background work finds no end");
}

/// Commits `batch` as the `number`th.
pub fn commit(writer: &mut Writer, batch: &Batch, number: usize) -> Result<()> {
    let (kv_visible, compacted) = (batch.visible, batch.compacted);
    writer.commit(Commit { mark: mark(number), kv_visible, compacted })
}

/// Commits `count` random batches more, to engine and model alike, and settles.
pub fn go_on(db: &Db, writer: &mut Writer, model: &mut Model, count: usize) {
    let mut random = Random::new(78);
    for _ in 0..count {
        let batch = random_batch(model, &mut random);
        write(writer, &batch.changes);
        model.push(batch.clone());
        commit(writer, &batch, model.batches.len()).unwrap();
    }
    writer.freeze().unwrap();
    settle(db).unwrap();
}

/// Keys that share prefixes, with some odd ones.
pub fn key(random: &mut Random) -> Vec<u8> {
    match random.below(40) {
        0 => Vec::new(),
        1 => vec![0],
        2 => vec![0xff; 3],
        3 => vec![b'k'; 700],
        _ => {
            let kind = ["pods", "leases", "events"][random.below(3) as usize];
            format!("/registry/{kind}/{:03}", random.below(30)).into_bytes()
        }
    }
}

fn value(random: &mut Random) -> Vec<u8> {
    let length = match random.below(30) {
        0 => random.below(4_000),
        1..10 => random.below(30),
        _ => random.below(150),
    };
    let first = random.next_u64();
    (0..length).map(|at| (first.wrapping_add(at * 7)) as u8).collect()
}

/// A batch that may follow `model`. Deletes are of live keys only, as the engine asks.
pub fn random_batch(model: &Model, random: &mut Random) -> Batch {
    let mut batch = Batch { visible: model.visible(), ..Batch::default() };
    // Which keys this batch has made or deleted.
    let mut changed = BTreeMap::new();
    let number = model.batches.len() as u64 + 1;
    for transaction in 0..random.below(4) {
        let main = batch.visible + 1;
        let mut has_kv = false;
        for sub in 0..=random.below(4) as u32 {
            let keyspace = if random.one_in(5) { Keyspace::Sys } else { Keyspace::Kv };
            let key = key(random);
            let revision = match keyspace {
                Keyspace::Kv => Revision { main, sub },
                Keyspace::Sys => Revision { main: number, sub: transaction as u32 * 8 + sub },
            };
            let is_live = changed.get(&(keyspace, key.clone())).copied();
            let is_live = is_live.unwrap_or_else(|| model.is_live(keyspace, &key));
            let is_delete = is_live && random.one_in(3);
            let (value, delta) = match (is_delete, is_live) {
                (true, _) => (None, Delta::Minus),
                (false, true) => (Some(value(random)), Delta::Zero),
                (false, false) => (Some(value(random)), Delta::Plus),
            };
            has_kv |= keyspace == Keyspace::Kv;
            changed.insert((keyspace, key.clone()), value.is_some());
            batch.changes.push(Change { keyspace, key, revision, value, delta });
        }
        batch.visible += u64::from(has_kv);
    }
    batch.compacted = model.compacted();
    if random.one_in(8) {
        batch.compacted += random.below(batch.visible - batch.compacted + 1);
    }
    batch
}

/// A range between two keys, or one of the special ones.
pub fn random_range(random: &mut Random) -> KeyRange {
    let (a, b) = (Bytes::from(key(random)), Bytes::from(key(random)));
    match random.below(6) {
        0 => KeyRange::all(),
        1 => KeyRange::one(a),
        2 => KeyRange::from(a),
        3 => KeyRange { start: a.clone().min(b.clone()), end: Bound::Included(a.max(b)) },
        _ => KeyRange::between(a.clone().min(b.clone()), a.max(b)),
    }
}

/// Compares what `snapshot` answers with the model: everything at every readable revision if
/// `effort` is high, a sample otherwise.
pub fn compare(snapshot: &Snapshot, model: &Model, random: &mut Random, effort: u64) {
    let (compacted, visible) = (model.compacted(), model.visible());
    assert_eq!(snapshot.visible(), visible);
    assert_eq!(snapshot.compacted(), compacted);
    let mut revisions = vec![compacted, visible, u64::MAX];
    revisions.extend((0..effort).map(|_| compacted + random.below(visible - compacted + 1)));
    for at in revisions {
        for keyspace in KEYSPACES {
            compare_range(snapshot, model, keyspace, &KeyRange::all(), at);
            for _ in 0..effort {
                compare_range(snapshot, model, keyspace, &random_range(random), at);
                compare_get(snapshot, model, keyspace, &key(random), at);
            }
        }
    }
    for _ in 0..=effort {
        let range = random_range(random);
        // Above the compacted revision the history is complete.
        let from = compacted + 1 + random.below(visible - compacted + 1);
        let to = from + random.below(visible + 2);
        let found: Vec<Entry> =
            snapshot.history(range.clone(), from, to).map(|entry| entry.unwrap()).collect();
        count_operations(1);
        let expected: Vec<Entry> = model
            .history(&range, from, to)
            .into_iter()
            .map(|change| entry(change, Values::Load))
            .collect();
        assert_eq!(found, expected, "history of {range:?} from {from} to {to}");
    }
}

fn compare_range(
    snapshot: &Snapshot,
    model: &Model,
    keyspace: Keyspace,
    range: &KeyRange,
    at: u64,
) {
    // Four lists, the beginning of one in place, a count.
    count_operations(6);
    let expected = model.range(keyspace, range, at);
    for values in [Values::Load, Values::Skip] {
        let collect =
            |range: varve_lsm::Range| -> Vec<Entry> { range.collect::<Result<_>>().unwrap() };
        let mut expected: Vec<Entry> =
            expected.iter().map(|change| entry(change, values)).collect();
        let found = collect(snapshot.range(keyspace, range.clone(), at, values));
        assert_eq!(found, expected, "{keyspace:?} {range:?} at {at}");
        expected.reverse();
        let found = collect(snapshot.range_backward(keyspace, range.clone(), at, values));
        assert_eq!(found, expected, "{keyspace:?} {range:?} at {at} backward");
    }
    // What is shown without a copy, and only the beginning.
    let limit = expected.len().div_ceil(2);
    let mut rows = snapshot.rows(keyspace, range.clone(), at, Direction::Forward);
    for change in expected.iter().take(limit) {
        let row = rows.next_row().unwrap().expect("the rows ended early");
        assert_eq!(row.to_entry(Values::Load).unwrap(), entry(change, Values::Load));
    }
    let count = snapshot.count(keyspace, range, at).unwrap();
    assert_eq!(count, expected.len() as u64, "count of {keyspace:?} {range:?} at {at}");
}

fn compare_get(snapshot: &Snapshot, model: &Model, keyspace: Keyspace, key: &[u8], at: u64) {
    count_operations(2);
    let expected = model.get(keyspace, key, at);
    let found = snapshot.get(keyspace, key, at).unwrap();
    let without_value = snapshot.get_meta(keyspace, key, at).unwrap();
    assert_eq!(
        without_value,
        found.clone().map(|entry| Entry { value: Bytes::new(), ..entry }),
        "get_meta of {key:?} at {at}"
    );
    // A tombstone may be dropped once it is strictly below the compacted revision.
    let floor = if keyspace == Keyspace::Sys { u64::MAX } else { model.compacted() };
    let may_be_dropped =
        expected.is_some_and(|change| change.value.is_none() && change.revision.main < floor);
    // An older one, in a table that no merge has come to, may then show instead.
    if may_be_dropped {
        assert!(found.is_none_or(|found| found.kind == Kind::Delete), "{key:?} at {at} is dead");
        return;
    }
    let expected = expected.map(|change| entry(change, Values::Load));
    assert_eq!(found, expected, "{keyspace:?} {key:?} at {at}");
}
