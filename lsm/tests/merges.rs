//! What merges leave alone, what they give back, and when files go.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod support;

use std::collections::BTreeSet;

use bytes::Bytes;
use support::{dir, open, open_with, settle, small_options};
use varve_disk::Disk;
use varve_disk::sim::SimDisk;
use varve_lsm::{
    Commit, Db, Delta, KeyRange, Keyspace, Kind, Meta, Options, Revision, Snapshot, Values, Work,
    Writer,
};

/// A simple user: one change a commit.
struct User {
    disk: SimDisk,
    db: Db,
    writer: Writer,
    main: u64,
    compacted: u64,
}

impl User {
    fn new() -> Self {
        Self::with(small_options())
    }

    fn with(options: Options) -> Self {
        let disk = SimDisk::new(1);
        let (db, writer) = open_with(&disk, options).unwrap();
        Self { disk, db, writer, main: 0, compacted: 0 }
    }

    fn commit(&mut self) {
        let mark = Bytes::copy_from_slice(&self.main.to_le_bytes());
        let (kv_visible, compacted) = (self.main, self.compacted);
        self.writer.commit(Commit { mark, kv_visible, compacted }).unwrap();
        while self.db.is_writer_ahead() {
            self.db.work().unwrap();
        }
    }

    fn put(&mut self, number: u32, delta: Delta, value_bytes: usize) {
        self.main += 1;
        let revision = Revision { main: self.main, sub: 0 };
        let value = vec![number as u8; value_bytes];
        self.writer.put(Keyspace::Kv, &key(number), revision, delta, Meta::EMPTY, &value);
        self.commit();
    }

    fn delete(&mut self, number: u32) {
        self.main += 1;
        let revision = Revision { main: self.main, sub: 0 };
        self.writer.delete(Keyspace::Kv, &key(number), revision);
        self.commit();
    }

    /// Compacts at the newest revision, and lets background work come to rest.
    fn compact_and_settle(&mut self) {
        self.compacted = self.main;
        self.main += 1;
        self.commit();
        self.settle();
    }

    fn settle(&mut self) {
        self.writer.freeze().unwrap();
        settle(&self.db).unwrap();
    }

    fn names(&self, suffix: &str) -> BTreeSet<String> {
        let names = self.disk.list(dir()).unwrap().into_iter();
        names.filter(|name| name.ends_with(suffix)).collect()
    }

    fn assert_sound(&self) {
        let report = self.db.check().unwrap();
        assert!(report.violations.is_empty(), "{report:#?}");
    }
}

fn key(number: u32) -> Vec<u8> {
    format!("/registry/things/{number:06}").into_bytes()
}

fn live(snapshot: &Snapshot) -> usize {
    snapshot.range(Keyspace::Kv, KeyRange::all(), u64::MAX, Values::Load).count()
}

#[test]
fn bottom_tables_that_level_0_does_not_touch_stay_as_they_are() {
    let mut user = User::new();
    (0..4_000).for_each(|number| user.put(number * 10, Delta::Plus, 30));
    user.compact_and_settle();
    let before = user.names(".kt");
    assert!(before.len() > 20, "{} tables are too few to tell", before.len());
    // New keys and changed ones in three small places, with much untouched between them.
    for round in 0..4 {
        for place in [500, 17_000, 39_990] {
            for number in 0..10 {
                let is_new = round == 0 && number > 0;
                let delta = if is_new { Delta::Plus } else { Delta::Zero };
                user.put(place + number, delta, 30);
            }
        }
        user.settle();
    }
    user.compact_and_settle();
    let after = user.names(".kt");
    let kept = before.intersection(&after).count();
    assert!(kept + 8 >= before.len(), "{kept} of {} tables stayed", before.len());
    assert_eq!(live(&user.db.snapshot()), 4_000 + 27);
    user.assert_sound();
}

#[test]
fn runs_that_are_small_beside_the_bottom_are_merged_among_themselves() {
    const KEYS: u32 = 4_000;
    let mut user = User::new();
    (0..KEYS).for_each(|number| user.put(number, Delta::Plus, 30));
    user.compact_and_settle();
    let (bottom, loaded) = (user.names(".kt"), user.main);
    // All over the keys, each at most once: deleted, or put again.
    let deleted: BTreeSet<u32> = (0..1_000).step_by(4).map(|at| at * 1_237 % KEYS).collect();
    let is_live = |number: u32| !deleted.contains(&number);
    let (mut runs_max, mut tables_made) = (0, 0);
    for change in 0..1_000 {
        let number = change * 1_237 % KEYS;
        if is_live(number) {
            user.put(number, Delta::Zero, 30);
        } else {
            user.delete(number);
        }
        if change % 25 == 24 {
            user.settle();
            tables_made += 1;
            runs_max = runs_max.max(user.db.sizes().runs);
        }
    }
    // Level 0 is full with 3, each tier above it with 2, and 40 flushes need three of these.
    assert!((4..=2 + 3 * 2 + 1).contains(&runs_max), "{runs_max} of {tables_made} tables");
    assert!(bottom.is_subset(&user.names(".kt")), "the bottom was not worth a merge");
    for is_reopened in [false, true] {
        if is_reopened {
            let disk = user.disk.clone();
            drop((user.db, user.writer));
            (user.db, user.writer) = open(&disk).unwrap();
        }
        let snapshot = user.db.snapshot();
        let count = |at| snapshot.count(Keyspace::Kv, &KeyRange::all(), at).unwrap();
        assert_eq!((count(loaded), count(loaded + 500), count(u64::MAX)), (4_000, 3_875, 3_750));
        assert_eq!(live(&snapshot), 3_750);
        for change in 0..1_000 {
            let number = change * 1_237 % KEYS;
            let entry = snapshot.get(Keyspace::Kv, &key(number), u64::MAX).unwrap();
            let entry = entry.expect("a tombstone above the compacted revision stays");
            let kind = if is_live(number) { Kind::Put } else { Kind::Delete };
            assert_eq!((entry.kind, entry.revision.main), (kind, loaded + 1 + u64::from(change)));
        }
        user.assert_sound();
    }
    // What is not needed any more goes, from all places.
    (0..KEYS).filter(|number| is_live(*number)).for_each(|number| user.delete(number));
    user.compact_and_settle();
    user.compact_and_settle();
    assert_eq!(user.names(".kt").len(), 0);
}

#[test]
fn overwritten_values_give_their_space_back_after_a_compaction() {
    let mut user = User::new();
    (0..300).for_each(|number| user.put(number, Delta::Plus, 500));
    for round in 0..20 {
        // Some are never touched again: their values must be moved out of the way.
        (0..300).filter(|number| number % 7 != 0).for_each(|number| {
            user.put(number, Delta::Zero, 500 + round);
        });
        user.compact_and_settle();
    }
    let live_bytes = 300 * 520;
    let sizes = user.db.sizes();
    assert!(sizes.disk_bytes < 3 * live_bytes, "{sizes:?} for {live_bytes} bytes");
    assert!(sizes.live_bytes <= sizes.disk_bytes && sizes.live_bytes > live_bytes / 2, "{sizes:?}");
    assert_eq!(live(&user.db.snapshot()), 300);
    user.assert_sound();
}

#[test]
fn a_few_large_dead_values_among_many_small_rows_give_their_space_back() {
    let mut user = User::new();
    (0..4_000).for_each(|number| user.put(number, Delta::Plus, 20));
    // A hundredth of the rows, and most of the bytes: twenty versions of two keys.
    for _ in 0..20 {
        (0..2).for_each(|number| user.put(number * 2_000, Delta::Zero, 50_000));
    }
    user.settle();
    let before = user.db.sizes().disk_bytes;
    assert!(before > 2_000_000, "{before}");
    user.compact_and_settle();
    let after = user.db.sizes().disk_bytes;
    assert!(after < 600_000, "{after} bytes for 100 KB of live values and 4,000 small rows");
    assert_eq!(live(&user.db.snapshot()), 4_000);
    user.assert_sound();
}

#[test]
fn nothing_is_left_of_keys_that_were_deleted_and_compacted() {
    let mut user = User::new();
    (0..500).for_each(|number| user.put(number, Delta::Plus, 200));
    user.settle();
    (0..500).for_each(|number| user.delete(number));
    user.settle();
    assert_eq!(user.db.snapshot().count(Keyspace::Kv, &KeyRange::all(), u64::MAX).unwrap(), 0);
    let at_500 = user.db.snapshot().count(Keyspace::Kv, &KeyRange::all(), 500).unwrap();
    assert_eq!(at_500, 500);
    // The last tombstone is at the compacted revision, and stays.
    user.compact_and_settle();
    let tombstone = user.db.snapshot().get(Keyspace::Kv, &key(499), u64::MAX).unwrap().unwrap();
    assert_eq!((tombstone.kind, tombstone.revision.main), (Kind::Delete, 1_000));
    user.compact_and_settle();
    assert!(user.db.snapshot().get(Keyspace::Kv, &key(499), u64::MAX).unwrap().is_none());
    assert_eq!((user.names(".kt").len(), user.names(".vs").len()), (0, 0));
    user.assert_sound();
}

#[test]
fn dropped_files_are_removed_when_their_last_reader_is_gone() {
    let mut user = User::new();
    (0..200).for_each(|number| user.put(number, Delta::Plus, 300));
    user.settle();
    let pinned = user.db.snapshot();
    let before: BTreeSet<String> = [user.names(".kt"), user.names(".vs")].concat_all();
    for _ in 0..5 {
        (0..200).for_each(|number| user.put(number, Delta::Zero, 300));
        user.compact_and_settle();
    }
    let during: BTreeSet<String> = [user.names(".kt"), user.names(".vs")].concat_all();
    assert!(before.is_subset(&during), "a pinned file was removed");
    assert_eq!(live(&pinned), 200);
    assert_eq!(pinned.visible(), 200);
    drop(pinned);
    user.settle();
    let after: BTreeSet<String> = [user.names(".kt"), user.names(".vs")].concat_all();
    assert!(before.is_disjoint(&after), "{:?}", before.intersection(&after));
    user.assert_sound();
}

#[test]
fn the_state_rows_keep_their_newest_version_only() {
    let mut user = User::new();
    for round in 1..=30 {
        for row in 0..50_u32 {
            let delta = if round == 1 { Delta::Plus } else { Delta::Zero };
            let revision = Revision { main: round, sub: row };
            let value = vec![round as u8; 200];
            user.writer.put(Keyspace::Sys, &key(row), revision, delta, Meta::EMPTY, &value);
        }
        user.commit();
        user.settle();
    }
    let report = user.db.check().unwrap();
    assert!(report.violations.is_empty(), "{report:#?}");
    assert!(report.rows <= 50 * 3, "{report:?}");
    let snapshot = user.db.snapshot();
    assert_eq!(snapshot.count(Keyspace::Sys, &KeyRange::all(), 0).unwrap(), 50);
    assert_eq!(snapshot.get(Keyspace::Sys, &key(9), 0).unwrap().unwrap().value[0], 30);
}

#[test]
fn a_freeze_without_changes_still_records_the_mark() {
    let mut user = User::new();
    user.put(1, Delta::Plus, 10);
    user.settle();
    assert_eq!(user.db.flushed_mark().unwrap()[..], 1_u64.to_le_bytes());
    // An entry of the log that changes nothing, such as an empty one of a new leader.
    user.main = 9;
    user.commit();
    user.settle();
    assert_eq!(user.db.flushed_mark().unwrap()[..], 9_u64.to_le_bytes());
    let tables = user.names(".kt");
    user.settle();
    assert_eq!(user.names(".kt"), tables);
}

#[test]
fn a_directory_of_another_node_is_refused() {
    let user = User::new();
    let disk = user.disk.clone();
    let second = open(&disk).err().unwrap().to_string();
    assert!(second.contains("LOCK"), "{second}");
    drop(user);
    let mut options = support::small_options();
    options.identity[3] ^= 1;
    let error = Db::open(std::sync::Arc::new(disk.clone()), dir(), options).err().unwrap();
    assert!(error.to_string().contains("expected identity"), "{error}");
    open(&disk).unwrap();
}

#[test]
fn rows_that_make_garbage_of_others_count_as_live() {
    let mut user = User::new();
    (1..=8).for_each(|number| user.put(number, Delta::Plus, 10));
    user.settle();
    (1..=8).for_each(|number| user.put(number, Delta::Zero, 500));
    // What is below is garbage now. The flush is made, the merge that it makes worth it is not.
    user.compacted = user.main;
    user.main += 1;
    user.commit();
    user.writer.freeze().unwrap();
    let flushed = (0..1_000).find(|_| user.db.work().unwrap() == Work::Flushed);
    assert!(flushed.is_some());
    let live_bytes = user.db.sizes().live_bytes;
    assert!(live_bytes >= 8 * 500, "{live_bytes}");
}

#[test]
fn garbage_among_short_values_is_not_taken_from_long_ones() {
    let options = Options { memtable_bytes: 1 << 20, ..small_options() };
    let mut user = User::with(options);
    // One table, with long values that all live, and short ones, beside their keys, mostly dead.
    (0..20).for_each(|number| user.put(number, Delta::Plus, 1_000));
    for round in 0..10 {
        let delta = if round == 0 { Delta::Plus } else { Delta::Zero };
        (100..200).for_each(|number| user.put(number, delta, 30));
    }
    user.writer.freeze().unwrap();
    user.compacted = user.main;
    user.main += 1;
    user.commit();
    user.writer.freeze().unwrap();
    for _ in 0..2 {
        while user.db.work().unwrap() != Work::Flushed {}
    }
    let sizes = user.db.sizes();
    assert!(sizes.disk_bytes - sizes.live_bytes < 20_000 / 2, "{sizes:?}: are long ones dead?");
}

#[test]
fn small_segments_become_few() {
    let mut user = User::new();
    // Each compaction makes what was written durable, and so a segment for one long value.
    for number in 0..1_500 {
        // Not in their order, so that tables above the bottom meet all of it.
        user.put(number * 7_919 % 1_500, Delta::Plus, 100);
        user.settle();
    }
    let segments = user.names(".vs").len();
    assert!(segments <= 600, "{segments} segments for 150 KB of values");
    assert_eq!(live(&user.db.snapshot()), 1_500);
    user.assert_sound();
}

#[test]
fn data_files_without_a_manifest_are_refused() {
    let mut user = User::new();
    user.put(1, Delta::Plus, 10);
    user.settle();
    let disk = user.disk.clone();
    drop(user);
    disk.remove(&dir().join("CURRENT")).unwrap();
    let error = open(&disk).err().unwrap().to_string();
    assert!(error.contains("CURRENT") && error.contains(".kt"), "{error}");
}

trait ConcatAll {
    fn concat_all(self) -> BTreeSet<String>;
}

impl ConcatAll for [BTreeSet<String>; 2] {
    fn concat_all(self) -> BTreeSet<String> {
        self.into_iter().flatten().collect()
    }
}
