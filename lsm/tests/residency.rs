//! Values that are not in memory: a reader that must not wait is told so and reads nothing.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use support::counting::CountingDisk;
use support::{compressed_segments, compressing_options, dir, settle, small_options};
use varve_disk::sim::SimDisk;
use varve_lsm::{
    Commit, Db, Delta, Error, KeyRange, Keyspace, Meta, Revision, Snapshot, Values, Writer,
};

#[test]
fn a_snapshot_of_residents_refuses_values_that_are_elsewhere_and_nothing_else() {
    let evicted = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let (says, counts) = (Arc::clone(&evicted), Arc::clone(&asked));
    let disk = CountingDisk::new(Arc::new(SimDisk::new(1))).with_residency(move |bytes| {
        // A value of 500 bytes behind its header.
        assert_eq!(bytes.len(), 508);
        counts.fetch_add(1, Ordering::Relaxed);
        !says.load(Ordering::Relaxed)
    });
    let (db, mut writer) = Db::open(Arc::new(disk), dir(), small_options()).unwrap();
    put(&mut writer, 1, b"long", &[7; 500]);
    put(&mut writer, 2, b"short", &[8; 10]);
    let all = |snapshot: &Snapshot, values| {
        let range = snapshot.range(Keyspace::Kv, KeyRange::all(), 9, values);
        range.map(|entry| entry.map(|entry| entry.value.len())).collect::<Result<Vec<_>, _>>()
    };
    evicted.store(true, Ordering::Relaxed);
    // In the memtable everything is in memory.
    assert_eq!(all(&db.snapshot_of_residents(), Values::Load).unwrap(), [500, 10]);
    writer.freeze().unwrap();
    settle(&db).unwrap();
    let residents = db.snapshot_of_residents();
    let refused = residents.get(Keyspace::Kv, b"long", 9);
    assert!(matches!(refused, Err(Error::NotResident)), "{refused:?}");
    assert!(matches!(all(&residents, Values::Load), Err(Error::NotResident)));
    let history: Result<Vec<_>, _> = residents.history(KeyRange::all(), 1, 9).collect();
    assert!(matches!(history, Err(Error::NotResident)));
    // Inline values, lengths and counts need no value page.
    assert_eq!(residents.get(Keyspace::Kv, b"short", 9).unwrap().unwrap().value.len(), 10);
    assert_eq!(residents.get_meta(Keyspace::Kv, b"long", 9).unwrap().unwrap().value_bytes, 500);
    assert_eq!(all(&residents, Values::Skip).unwrap(), [0, 0]);
    assert_eq!(residents.count(Keyspace::Kv, &KeyRange::all(), 9).unwrap(), 2);
    let before = asked.load(Ordering::Relaxed);
    assert_eq!(all(&db.snapshot(), Values::Load).unwrap(), [500, 10]);
    assert_eq!(asked.load(Ordering::Relaxed), before, "an ordinary read asks nobody");
    evicted.store(false, Ordering::Relaxed);
    assert_eq!(all(&residents, Values::Load).unwrap(), [500, 10]);
}

#[test]
fn a_compressed_value_is_resident_once_its_frame_was_decompressed() {
    let evicted = Arc::new(AtomicBool::new(false));
    let says = Arc::clone(&evicted);
    let simulated = SimDisk::new(1);
    let disk = CountingDisk::new(Arc::new(simulated.clone()))
        .with_residency(move |_| !says.load(Ordering::Relaxed));
    let (db, mut writer) = Db::open(Arc::new(disk), dir(), compressing_options()).unwrap();
    // Of each pair one is written again, so the other is moved.
    let key = |number: u64| format!("key/{number:03}").into_bytes();
    let writes = (0..60).chain((0..60).filter(|number| number % 2 == 1));
    for (number, main) in writes.zip(1..) {
        let delta = if main <= 60 { Delta::Plus } else { Delta::Zero };
        put_as(&mut writer, main, delta, &key(number), &[number as u8; 500]);
    }
    let mark = Bytes::from_static(&[9; 8]);
    writer.commit(Commit { mark, kv_visible: 91, compacted: 91 }).unwrap();
    writer.freeze().unwrap();
    settle(&db).unwrap();
    assert!(compressed_segments(&simulated) > 0);
    let get = |snapshot: &Snapshot, number: u64| {
        let entry = snapshot.get(Keyspace::Kv, &key(number), u64::MAX)?;
        Ok::<_, Error>(entry.unwrap().value)
    };
    evicted.store(true, Ordering::Relaxed);
    let residents = db.snapshot_of_residents();
    assert!(matches!(get(&residents, 0), Err(Error::NotResident)));
    assert_eq!(get(&db.snapshot(), 0).unwrap(), vec![0; 500]);
    assert_eq!(get(&residents, 0).unwrap(), vec![0; 500]);
    let refused = |number: &u64| matches!(get(&residents, *number), Err(Error::NotResident));
    assert!((0..60).filter(refused).count() > 50);
    evicted.store(false, Ordering::Relaxed);
    for number in 0..60 {
        assert_eq!(get(&residents, number).unwrap(), vec![number as u8; 500]);
    }
}

#[test]
fn a_large_value_is_asked_for_as_a_whole_each_time_and_a_shorter_one_once() {
    let disk = CountingDisk::new(Arc::new(SimDisk::new(1)));
    let (db, mut writer) = Db::open(Arc::new(disk.clone()), dir(), small_options()).unwrap();
    put(&mut writer, 1, b"large", &[7; 100_000]);
    put(&mut writer, 2, b"long", &[8; 10_000]);
    put(&mut writer, 3, b"short", &[9; 1_000]);
    writer.freeze().unwrap();
    settle(&db).unwrap();
    disk.take_asked();
    let snapshot = db.snapshot();
    // What was verified once may have left memory since.
    for expected in [&[100_008, 10_008][..], &[100_008], &[100_008]] {
        for key in [&b"large"[..], b"long", b"short"] {
            snapshot.get(Keyspace::Kv, key, 9).unwrap().unwrap();
        }
        assert_eq!(disk.take_asked(), expected);
    }
}

fn put(writer: &mut Writer, main: u64, key: &[u8], value: &[u8]) {
    put_as(writer, main, Delta::Plus, key, value);
}

fn put_as(writer: &mut Writer, main: u64, delta: Delta, key: &[u8], value: &[u8]) {
    let revision = Revision { main, sub: 0 };
    writer.put(Keyspace::Kv, key, revision, delta, Meta::EMPTY, value);
    let mark = Bytes::copy_from_slice(&main.to_le_bytes());
    writer.commit(Commit { mark, kv_visible: main, compacted: 0 }).unwrap();
}

#[test]
fn mappings_are_let_go_by_background_work() {
    let disk = CountingDisk::new(Arc::new(SimDisk::new(1)));
    let (db, _writer) =
        Db::open(Arc::new(disk.clone()), Path::new("/engine"), small_options()).unwrap();
    let before = disk.unmappings();
    settle(&db).unwrap();
    assert!(disk.unmappings() > before);
}
