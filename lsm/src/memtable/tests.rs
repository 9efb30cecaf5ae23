//! The memtable against a sorted map, alone and with readers on other threads.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use varve_disk::sim::Random;

use super::*;
use crate::{Delta, Kind, Meta, Revision};

thread_local! {
    /// How many states this thread has looked at in chains.
    pub(super) static LOOKS: Cell<u32> = const { Cell::new(0) };
}

fn put(writer: &mut MemtableWriter, key: &[u8], main: u64, delta: Delta, value: &[u8]) {
    let revision = Revision { main, sub: 0 };
    writer.add(Keyspace::Kv, key, revision, Kind::Put, delta, Meta::EMPTY, value);
}

fn publish(writer: &mut MemtableWriter, visible: u64) {
    let ordinal = writer.ordinal();
    writer.commit(Committed { kv_visible: visible, ordinal, ..Committed::default() });
}

#[test]
fn reads_agree_with_a_sorted_map() {
    // Miri runs this too, a thousand times slower.
    let writes = if cfg!(miri) { 300 } else { 20_000 };
    let mut random = Random::new(7);
    let mut writer = MemtableWriter::new(Committed::default());
    let mut expected: BTreeMap<Vec<u8>, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    for main in 1..=writes {
        // Runs of rising keys between random ones exercise the splice.
        let number = if main % 50 < 20 { main } else { random.below(writes) };
        let key = format!("key/{number:06}").into_bytes();
        let value = vec![main as u8; random.below(40) as usize];
        let versions = expected.entry(key.clone()).or_default();
        let delta = if versions.is_empty() { Delta::Plus } else { Delta::Zero };
        put(&mut writer, &key, main, delta, &value);
        versions.push((main, value));
    }
    let memtable = writer.memtable();
    let mut cursor = memtable.cursor(Keyspace::Kv, ALL_RECORDS);
    cursor.seek(b"");
    for (key, versions) in &expected {
        let mut next = cursor.record();
        for (main, value) in versions.iter().rev() {
            let record = next.expect("the cursor ended early");
            assert_eq!((record.key(), record.revision().main), (key.as_slice(), *main));
            assert_eq!(record.value(), value);
            next = record.previous();
        }
        assert!(next.is_none());
        cursor.advance_key();
        let at = versions[versions.len() / 2].0;
        let found = memtable.get(Keyspace::Kv, hash(key), key, at, ALL_RECORDS).unwrap();
        assert_eq!(found.revision().main, at);
        assert!(memtable.get(Keyspace::Sys, hash(key), key, at, ALL_RECORDS).is_none());
    }
    assert!(cursor.record().is_none());
    let all = KeyRange::all();
    let sum = memtable.delta_sum(Keyspace::Kv, &all, u64::MAX, ALL_RECORDS);
    assert_eq!(sum, expected.len() as i64);
}

#[test]
fn a_version_of_long_ago_is_found_in_logarithmic_steps() {
    let (versions, reads) = if cfg!(miri) { (1_000, 100) } else { (100_000, 10_000) };
    let mut random = Random::new(5);
    let mut writer = MemtableWriter::new(Committed::default());
    let memtable = Arc::clone(writer.memtable());
    // Version n has the revision 2 n, so that reads fall between them too, and ordinal n - 1.
    let look = |written: u64, at: u64, ordinal: u64| {
        LOOKS.set(0);
        let found = memtable.get(Keyspace::Kv, hash(b"hot"), b"hot", at, ordinal);
        let expected = written.min(at / 2).min(ordinal);
        assert_eq!(found.map_or(0, |record| record.revision().main / 2), expected);
        if let Some(record) = found {
            assert_eq!(record.value(), expected.to_le_bytes());
        }
        let looks_max = 3 * written.ilog2() + 8;
        assert!(LOOKS.get() <= looks_max, "{} looks for {at} of {written}", LOOKS.get());
    };
    for version in 1..=versions {
        let delta = if version == 1 { Delta::Plus } else { Delta::Zero };
        put(&mut writer, b"hot", 2 * version, delta, &version.to_le_bytes());
        if version <= 70 {
            (0..=2 * version + 1).for_each(|at| look(version, at, ALL_RECORDS));
        }
    }
    for _ in 0..reads {
        let at = random.below(2 * versions + 2);
        look(versions, at, ALL_RECORDS);
        look(versions, u64::MAX, at / 2);
        look(versions, at, random.below(versions + 1));
    }
}

#[test]
fn the_history_is_in_the_order_of_writing_and_begins_anywhere() {
    let writes = if cfg!(miri) { 1_100 } else { 3_000 };
    let mut writer = MemtableWriter::new(Committed::default());
    for main in 1..=writes {
        // Two records in each revision; blocks of 510 end within one.
        let first = Revision { main, sub: 0 };
        let second = Revision { main, sub: 1 };
        let key = format!("{:03}", main % 7);
        writer.add(Keyspace::Kv, key.as_bytes(), first, Kind::Put, Delta::Plus, Meta::EMPTY, b"");
        writer.add(Keyspace::Kv, b"x", second, Kind::Put, Delta::Zero, Meta::EMPTY, b"");
    }
    for from in [0, 1, 2, 255, 256, 257, 511, writes, writes + 1] {
        let mut history = writer.memtable().history(from, ALL_RECORDS);
        for main in from.max(1)..=writes {
            for sub in 0..2 {
                assert_eq!(history.record().unwrap().revision(), Revision { main, sub });
                history.advance();
            }
        }
        assert!(history.record().is_none());
    }
    let cut = writer.memtable().history(writes - 1, 2 * writes - 1);
    assert_eq!(cut.record().unwrap().revision().main, writes - 1);
}

#[test]
fn sums_over_spans_equal_a_walk_at_every_moment() {
    let (writes, checks) = if cfg!(miri) { (700, 20) } else { (12_000, 3_000) };
    let mut random = Random::new(11);
    let mut writer = MemtableWriter::new(Committed::default());
    let mut is_live = vec![false; 6_000];
    let check = |writer: &MemtableWriter, random: &mut Random, main: u64| {
        let memtable = writer.memtable();
        let (mut a, mut b) = (random.below(6_500), random.below(6_500));
        (a, b) = (a.min(b), a.max(b));
        let key = |number: u64| Bytes::from(format!("{number:05}"));
        let range = match random.below(5) {
            0 => KeyRange::all(),
            1 => KeyRange::from(key(a)),
            2 => KeyRange::between(Bytes::new(), key(b)),
            3 => KeyRange::one(key(a)),
            _ => KeyRange::between(key(a), key(b)),
        };
        let at = if random.one_in(2) { u64::MAX } else { random.below(main + 1) };
        let ordinal = if random.one_in(2) { ALL_RECORDS } else { random.below(main + 1) };
        let head = memtable.head(Keyspace::Kv);
        assert_eq!(
            spans::delta_sum(head, &range, at, ordinal),
            spans::delta_sum_by_walk(head, &range, at, ordinal),
            "{range:?} at {at} below {ordinal}"
        );
    };
    for main in 1..=writes {
        let number = random.below(6_000) as usize;
        let revision = Revision { main, sub: 0 };
        let (kind, delta) = match (is_live[number], random.one_in(3)) {
            (true, true) => (Kind::Delete, Delta::Minus),
            (true, false) => (Kind::Put, Delta::Zero),
            (false, _) => (Kind::Put, Delta::Plus),
        };
        is_live[number] = kind == Kind::Put;
        let key = format!("{number:05}");
        writer.add(Keyspace::Kv, key.as_bytes(), revision, kind, delta, Meta::EMPTY, b"");
        if random.below(writes) < checks {
            check(&writer, &mut random, main);
        }
    }
    (0..checks).for_each(|_| check(&writer, &mut random, writes));
}

#[test]
fn what_is_not_committed_is_hidden() {
    let mut writer = MemtableWriter::new(Committed::default());
    put(&mut writer, b"a", 1, Delta::Plus, b"one");
    publish(&mut writer, 1);
    let bound = writer.memtable().committed().ordinal;
    put(&mut writer, b"a", 2, Delta::Zero, b"two");
    put(&mut writer, b"b", 2, Delta::Plus, b"two");
    let memtable = writer.memtable();
    let get = |key: &[u8], ordinal| {
        memtable.get(Keyspace::Kv, hash(key), key, u64::MAX, ordinal).map(|found| found.value())
    };
    assert_eq!(get(b"a", bound), Some(&b"one"[..]));
    assert_eq!(get(b"b", bound), None);
    assert_eq!(get(b"a", ALL_RECORDS), Some(&b"two"[..]));
    assert_eq!(memtable.delta_sum(Keyspace::Kv, &KeyRange::all(), u64::MAX, bound), 1);
    let mut cursor = memtable.cursor(Keyspace::Kv, bound);
    cursor.seek(b"");
    assert_eq!(cursor.record().unwrap().value(), b"one");
    cursor.advance_key();
    assert!(cursor.record().is_none());
}

#[test]
#[should_panic(expected = "follows")]
fn a_revision_that_does_not_grow_is_refused() {
    let mut writer = MemtableWriter::new(Committed::default());
    put(&mut writer, b"a", 2, Delta::Plus, b"");
    put(&mut writer, b"a", 2, Delta::Zero, b"");
}

#[test]
fn readers_on_other_threads_see_whole_batches() {
    // Each batch writes one value under a few keys; a reader must see one batch, in full.
    let batches: u64 = if cfg!(miri) { 60 } else { 20_000 };
    const KEYS: u64 = 5;
    let mut writer = MemtableWriter::new(Committed::default());
    let memtable = Arc::clone(writer.memtable());
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_done.load(Ordering::Acquire) {
                    let committed = memtable.committed();
                    look(&memtable, &committed, KEYS);
                }
                assert_eq!(memtable.committed().kv_visible, batches);
            });
        }
        for main in 1..=batches {
            for key in 0..KEYS {
                // The same few keys, and ever new ones between them.
                let delta = if main == 1 { Delta::Plus } else { Delta::Zero };
                put(&mut writer, format!("same/{key}").as_bytes(), main, delta, b"");
            }
            let new = Bytes::from(format!("new/{:08}", main.reverse_bits() >> 40));
            put(&mut writer, &new, main, Delta::Plus, b"");
            publish(&mut writer, main);
        }
        is_done.store(true, Ordering::Release);
    });
}

fn look(memtable: &Arc<Memtable>, committed: &Committed, keys: u64) {
    let (visible, ordinal) = (committed.kv_visible, committed.ordinal);
    for key in 0..keys {
        let key = format!("same/{key}").into_bytes();
        let found = memtable.get(Keyspace::Kv, hash(&key), &key, u64::MAX, ordinal);
        assert_eq!(found.map_or(0, |found| found.revision().main), visible);
    }
    if visible % 64 == 0 {
        let sum = memtable.delta_sum(Keyspace::Kv, &KeyRange::all(), u64::MAX, ordinal);
        assert_eq!(sum as u64, if visible == 0 { 0 } else { visible + keys });
    }
}
