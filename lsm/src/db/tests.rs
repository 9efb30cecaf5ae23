//! Readers never wait: every read goes through while every lock of the engine is held.
//!
//! One idea: a thread that is parked inside a critical section is, for all others, a held lock. So
//! the test takes each lock that the writer or the worker ever holds, and then reads, in all ways,
//! on another thread. A read that took one of them would never end; the deadline only turns that
//! into a failure.

use std::sync::mpsc;
use std::time::Duration;

use varve_disk::sim::SimDisk;

use super::*;
use crate::{Delta, KeyRange, Keyspace, Meta, Revision};

/// Far beyond what a busy machine needs for a hundred reads.
const DEADLINE: Duration = Duration::from_secs(120);
const KEYS: u64 = 60;

fn put_batch(writer: &mut Writer, main: u64, delta: Delta) {
    for sub in 0..KEYS {
        let revision = Revision { main, sub: sub as u32 };
        let key = format!("key/{sub:03}");
        writer.put(Keyspace::Kv, key.as_bytes(), revision, delta, Meta::EMPTY, &[7; 200]);
    }
    let mark = Bytes::copy_from_slice(&main.to_le_bytes());
    writer.commit(Commit { mark, kv_visible: main, compacted: 0 }).expect("a commit");
}

/// An engine with something in every place: bottom, level 0, a frozen memtable, the active one.
fn engine() -> (Db, Writer) {
    let options = Options { level0_tables: 2, ..Options::default() };
    let disk = Arc::new(SimDisk::new(1));
    let (db, mut writer) = Db::open(disk, Path::new("/node"), options).expect("a new engine");
    for main in 1..=3 {
        put_batch(&mut writer, main, if main == 1 { Delta::Plus } else { Delta::Zero });
        writer.freeze().expect("a freeze");
        while db.work().expect("work") != Work::Idle {}
    }
    put_batch(&mut writer, 4, Delta::Zero);
    writer.freeze().expect("a freeze");
    put_batch(&mut writer, 5, Delta::Zero);
    let current = db.shared.current.load();
    let levels = current.version.levels(Keyspace::Kv);
    assert!(!levels.bottom.is_empty() && !levels.upper.is_empty() && current.frozen.len() == 1);
    drop(current);
    (db, writer)
}

/// Every way to read, on a view taken now; returns the newest revision seen.
fn read_everything(db: &Db) -> u64 {
    let snapshot = db.snapshot();
    let all = KeyRange::all();
    for at in 1..=snapshot.visible() {
        let entry =
            snapshot.get(Keyspace::Kv, b"key/007", at).expect("a get").expect("it is there");
        assert_eq!(entry.revision.main, at);
        assert_eq!(snapshot.count(Keyspace::Kv, &all, at).expect("a count"), KEYS);
        for direction in [Direction::Forward, Direction::Backward] {
            let mut rows = snapshot.rows(Keyspace::Kv, all.clone(), at, direction);
            let mut found = 0;
            while let Some(row) = rows.next_row().expect("a scan") {
                assert_eq!(row.value().expect("a value").len(), 200);
                found += 1;
            }
            assert_eq!(found, KEYS);
        }
    }
    let changes = snapshot.history(all, 1, u64::MAX).count() as u64;
    assert_eq!(changes, KEYS * snapshot.visible());
    assert!(db.sizes().memtable_bytes > 0 && db.flushed_mark().is_some());
    db.is_writer_ahead();
    snapshot.visible()
}

/// Reads on another thread, which must come to an end.
fn reads_go_through(db: &Db, held: &str) -> u64 {
    let (done, is_done) = mpsc::sync_channel(1);
    let db = db.clone();
    std::thread::spawn(move || done.send(read_everything(&db)).expect("the test waits"));
    is_done.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("reads wait for {held}"))
}

#[test]
fn reads_go_through_while_each_lock_is_held() {
    let (db, _writer) = engine();
    let shared = Arc::clone(&db.shared);
    let lock = |mutex| Mutex::lock(mutex).expect("not poisoned");
    {
        let _publish = lock(&shared.publish);
        assert_eq!(reads_go_through(&db, "a publication"), 5);
    }
    {
        let _worker = shared.worker.lock().expect("not poisoned");
        assert_eq!(reads_go_through(&db, "background work"), 5);
    }
    {
        let _pins = shared.pins.lock().expect("not poisoned");
        assert_eq!(reads_go_through(&db, "pins of a transfer"), 5);
    }
    let current = shared.current.load_full();
    let _chunks = current.active.hold_chunks();
    assert_eq!(reads_go_through(&db, "growth of the memtable"), 5);
}

#[test]
fn reads_and_commits_go_through_while_background_work_stands_still() {
    let (db, mut writer) = engine();
    let shared = Arc::clone(&db.shared);
    let _worker = shared.worker.lock().expect("not poisoned");
    let (done, is_done) = mpsc::sync_channel(1);
    let reader = db.clone();
    std::thread::spawn(move || {
        for main in 6..30 {
            put_batch(&mut writer, main, Delta::Zero);
            assert_eq!(read_everything(&reader), main);
        }
        writer.freeze().expect("a freeze needs no worker");
        done.send(read_everything(&reader)).expect("the test waits");
    });
    let visible = is_done.recv_timeout(DEADLINE).expect("commits wait for background work");
    assert_eq!(visible, 29);
    drop(db);
}

/// What the flush has written so far counts as written, so it must go on.
#[test]
fn a_refused_installation_gives_up_no_flush_under_way() {
    let options = Options { step_bytes: 1_000, ..Options::default() };
    let disk = Arc::new(SimDisk::new(1));
    let (db, mut writer) = Db::open(disk, Path::new("/node"), options).expect("a new engine");
    put_batch(&mut writer, 1, Delta::Plus);
    writer.freeze().expect("a freeze");
    while db.work().expect("work") != Work::Idle {}
    put_batch(&mut writer, 2, Delta::Zero);
    writer.freeze().expect("a freeze");
    assert_eq!(db.work().expect("work"), Work::Flushing);
    // All its files are here, and it lacks those that its tables refer to.
    let mut state = db.shared.current.load().version.state(0);
    state.segments.clear();
    let (manifest, _) = crate::manifest::image(db.shared.identity, 1, &state);
    let refused = writer.install(&manifest.into(), Path::new("/node/staged"));
    let refused = refused.expect_err("a segment is missing").to_string();
    assert!(refused.contains("which a table refers to"), "{refused}");
    assert!(db.shared.worker.lock().expect("not poisoned").flush.is_some());
    while db.work().expect("work") != Work::Idle {}
    assert_eq!(db.flushed_mark(), Some(Bytes::copy_from_slice(&2_u64.to_le_bytes())));
}
