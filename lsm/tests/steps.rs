//! Flushes and merges go in small steps, the writer sees how far they are, and what was begun and
//! is not wanted any more leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use support::counting::CountingDisk;
use support::{dir, settle, small_options};
use varve_disk::Disk;
use varve_disk::sim::SimDisk;
use varve_lsm::{Brake, Commit, Db, Delta, Keyspace, Meta, Options, Revision, Work, Writer};

const STEP_BYTES: u64 = 16 << 10;
const VALUE_BYTES: usize = 1_000;

fn options() -> Options {
    Options {
        memtable_bytes: 512 << 10,
        segment_bytes: 256 << 10,
        step_bytes: STEP_BYTES,
        ..small_options()
    }
}

fn put(writer: &mut Writer, main: u64, delta: Delta) {
    let key = format!("key/{:05}", main % 2_000);
    let value = [main as u8; VALUE_BYTES];
    let revision = Revision { main, sub: 0 };
    writer.put(Keyspace::Kv, key.as_bytes(), revision, delta, Meta::EMPTY, &value);
    let mark = Bytes::copy_from_slice(&main.to_le_bytes());
    writer.commit(Commit { mark, kv_visible: main, compacted: 0 }).unwrap();
}

#[test]
fn each_step_of_a_flush_writes_a_little_and_lowers_the_pressure() {
    let disk = CountingDisk::new(Arc::new(SimDisk::new(1)));
    let (db, mut writer) = Db::open(Arc::new(disk.clone()), dir(), options()).unwrap();
    for main in 1..=400 {
        put(&mut writer, main, Delta::Plus);
    }
    writer.freeze().unwrap();
    let (mut pressure, mut steps) = (db.pressure(), 0);
    assert!(pressure > 0.1, "{pressure}");
    loop {
        let work = db.work().unwrap();
        if work == Work::Flushed {
            break;
        }
        assert_eq!(work, Work::Flushing);
        assert!(db.pressure() < pressure, "{} after {pressure}", db.pressure());
        assert!(pressure - db.pressure() < 0.02, "{} after {pressure}", db.pressure());
        (pressure, steps) = (db.pressure(), steps + 1);
        // What is not through is not there.
        assert_eq!(db.flushed_mark(), None);
    }
    assert!(steps >= 20, "{steps} steps for 400 KB");
    assert!(disk.written("vs") >= 400 * VALUE_BYTES as u64);
    assert!(db.pressure() < 0.07, "{}: one table of level 0", db.pressure());
}

/// Long keys are a part of a step like long values.
#[test]
fn each_step_writes_a_little_of_long_keys_too() {
    let disk = CountingDisk::new(Arc::new(SimDisk::new(1)));
    let (db, mut writer) = Db::open(Arc::new(disk.clone()), dir(), options()).unwrap();
    for round in 0..3 {
        for number in 0_u64..100 {
            let main = round * 100 + number + 1;
            // Keys of different beginnings, so that no prefix is shared.
            let key = [&number.to_be_bytes()[7..], &[b'k'; 4_000]].concat();
            let delta = if round == 0 { Delta::Plus } else { Delta::Zero };
            let revision = Revision { main, sub: 0 };
            writer.put(Keyspace::Kv, &key, revision, delta, Meta::EMPTY, b"");
            let commit = Commit { mark: Bytes::new(), kv_visible: main, compacted: 0 };
            writer.commit(commit).unwrap();
        }
        writer.freeze().unwrap();
    }
    let (mut flushing, mut merging) = (0, 0);
    loop {
        match db.work().unwrap() {
            Work::Idle => break,
            Work::Flushing => flushing += 1,
            Work::Merged => merging += 1,
            Work::Flushed | Work::Removed => {}
        }
    }
    // Of 16 KiB each.
    assert!(flushing >= 60 && merging >= 60, "{flushing} and {merging} steps for 1.2 MB of keys");
}

/// A caller that freezes again and again makes memtables of nothing, and reads look into each.
#[test]
fn a_writer_that_freezes_ahead_of_background_work_is_slowed_down_and_has_to_wait() {
    let (db, mut writer) = Db::open(Arc::new(SimDisk::new(1)), dir(), options()).unwrap();
    let (mut freezes, mut pressure) = (0, 0.0);
    while !db.is_writer_ahead() {
        assert!(db.pressure() >= pressure, "{} after {pressure}", db.pressure());
        pressure = db.pressure();
        freezes += 1;
        assert!(freezes <= 20, "{freezes} memtables wait");
        put(&mut writer, freezes, Delta::Plus);
        writer.freeze().unwrap();
    }
    assert!(pressure > 0.9, "{pressure}");
    assert_eq!(db.work().unwrap(), Work::Flushed);
    assert!(!db.is_writer_ahead());
}

/// A writer that is ten times as fast as background work comes down to its rate, and is not stopped.
#[test]
fn a_writer_with_a_brake_is_slowed_down_and_never_has_to_wait() {
    let disk = Arc::new(SimDisk::new(1));
    let (db, mut writer) = Db::open(disk, dir(), options()).unwrap();
    let (mut brake, mut clock, mut due) = (Brake::default(), Duration::ZERO, Duration::ZERO);
    let (work_takes, put_takes) = (Duration::from_millis(2), Duration::from_micros(20));
    let (mut paused, mut steps) = (Duration::ZERO, 0);
    for main in 1..=12_000 {
        let mut work_until = |clock: Duration| {
            while due <= clock {
                due = due.max(clock.saturating_sub(work_takes)) + work_takes;
                steps += u64::from(db.work().unwrap() != Work::Idle);
            }
        };
        loop {
            let pause = brake.pause(clock, db.pressure());
            if pause.is_zero() {
                break;
            }
            paused += pause;
            clock += pause;
            work_until(clock);
        }
        brake.spend(VALUE_BYTES as u64);
        clock += put_takes;
        assert!(!db.is_writer_ahead(), "put {main}: pressure {}", db.pressure());
        put(&mut writer, main, if main <= 2_000 { Delta::Plus } else { Delta::Zero });
        work_until(clock);
    }
    assert!(paused > Duration::from_millis(100), "{paused:?} in {steps} steps");
}

/// A compaction with much garbage is a series of merges. What one of them drops goes while the next
/// ones are under way, a few files a step: else the disk had to have room for all, twice.
#[test]
fn what_a_merge_drops_goes_soon_and_by_little_though_there_is_more_to_merge() {
    const KEYS: u64 = 2_000;
    let disk = SimDisk::new(1);
    let options = Options { step_bytes: STEP_BYTES / 8, ..options() };
    let (db, mut writer) = Db::open(Arc::new(disk.clone()), dir(), options).unwrap();
    for main in 1..=4 * KEYS {
        put(&mut writer, main, if main <= KEYS { Delta::Plus } else { Delta::Zero });
        while db.is_writer_ahead() {
            db.work().unwrap();
        }
    }
    writer.freeze().unwrap();
    settle(&db).unwrap();
    let (mark, main) = (Bytes::from_static(b"compacts"), 4 * KEYS);
    writer.commit(Commit { mark, kv_visible: main, compacted: main }).unwrap();
    writer.freeze().unwrap();

    let live = || -> BTreeSet<String> {
        db.checkpoint().files.into_iter().map(|file| file.name).collect()
    };
    let (mut before, mut known) = (live(), live());
    let mut dropped_at = BTreeMap::new();
    let (mut merges, mut removed, mut step) = (0, 0, 0);
    loop {
        let work = db.work().unwrap();
        if work == Work::Idle {
            break;
        }
        step += 1;
        assert!(step < 100_000, "background work finds no end");
        let now = live();
        merges += u32::from(work == Work::Merged && now != before);
        known.extend(now.iter().cloned());
        for name in before.difference(&now) {
            dropped_at.insert(name.clone(), step);
        }
        let count = dropped_at.len();
        dropped_at.retain(|name, _| disk.exists(&dir().join(name)).unwrap());
        let gone = count - dropped_at.len();
        assert!(gone <= 4, "{gone} files in one step");
        removed += gone;
        for (name, at) in &dropped_at {
            assert!(
                step - at <= 20,
                "{name} is there {} steps after a merge dropped it",
                step - at
            );
        }
        before = now;
    }
    assert!(merges >= 5 && step >= 150 && removed >= 50, "{merges}, {step} steps, {removed} files");
    let names = disk.list(dir()).unwrap();
    assert!(known.difference(&before).all(|name| !names.contains(name)), "all are gone");
}

#[test]
fn an_installation_gives_up_a_flush_and_a_merge_under_way() {
    let sender = Arc::new(SimDisk::new(7));
    let (sender_db, mut sender_writer) =
        Db::open(sender, dir(), Options { origin: 9, ..options() }).unwrap();
    put(&mut sender_writer, 1, Delta::Plus);
    sender_writer.freeze().unwrap();
    settle(&sender_db).unwrap();
    let checkpoint = sender_db.checkpoint();

    let disk = SimDisk::new(8);
    let (db, mut writer) = Db::open(Arc::new(disk.clone()), dir(), options()).unwrap();
    for main in 1..=1_600 {
        put(&mut writer, main, if main <= 2_000 { Delta::Plus } else { Delta::Zero });
        if main % 400 == 0 {
            writer.freeze().unwrap();
            while main < 1_600 && db.work().unwrap() != Work::Flushed {}
        }
        if main == 1_200 {
            // Three tables start a merge; before it is through, the fourth memtable's flush begins.
            assert_eq!(db.work().unwrap(), Work::Merged);
        }
    }
    assert_eq!(db.work().unwrap(), Work::Flushing);
    let staged = Path::new("/node/staged");
    disk.create_dir_all(staged).unwrap();
    for file in &checkpoint.files {
        disk.create(&staged.join(&file.name)).unwrap().write_at(0, &file.content).unwrap();
    }
    writer.install(&checkpoint.manifest, staged).unwrap();
    settle(&db).unwrap();
    let names = disk.list(dir()).unwrap().into_iter();
    let data: Vec<_> = names.filter(|name| name.ends_with("s") || name.ends_with("t")).collect();
    assert_eq!(data.len(), checkpoint.files.len(), "{data:?}");
    // And it goes on.
    for main in 2..=900 {
        put(&mut writer, main, Delta::Plus);
    }
    writer.freeze().unwrap();
    settle(&db).unwrap();
    assert!(db.check().unwrap().violations.is_empty());
}
