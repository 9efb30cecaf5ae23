//! What a read at an old revision leaves out: everything that began after it.

use bytes::Bytes;
use varve_disk::sim::SimDisk;

use super::*;
use crate::{Commit, Db, Delta, Meta, Options, Work};

/// An engine whose revisions 1 to 10 lie at the bottom, above it, in a frozen memtable (7 and 8),
/// and in the active one.
fn engine() -> (Db, crate::Writer) {
    let options = Options { level0_tables: 2, ..Options::default() };
    let disk = Arc::new(SimDisk::new(1));
    let (db, mut writer) = Db::open(disk, Path::new("/node"), options).expect("a new engine");
    for main in 1..=10 {
        let revision = Revision { main, sub: 0 };
        for keyspace in [Keyspace::Kv, Keyspace::Sys] {
            let key = format!("key/{main}");
            writer.put(keyspace, key.as_bytes(), revision, Delta::Plus, Meta::EMPTY, b"value");
        }
        let mark = Bytes::copy_from_slice(&main.to_le_bytes());
        writer.commit(Commit { mark, kv_visible: main, compacted: 0 }).expect("a commit");
        if main % 2 == 0 && main < 10 {
            writer.freeze().expect("a freeze");
        }
        while main < 8 && db.work().expect("work") != Work::Idle {}
    }
    (db, writer)
}

#[test]
fn sources_that_began_after_a_revision_are_left_out_of_reads_at_it() {
    let (db, _writer) = engine();
    let snapshot = db.snapshot();
    let levels = snapshot.super_version.version.levels(Keyspace::Kv);
    let tables = levels.upper.len() + usize::from(!levels.bottom.is_empty());
    let of_upper = levels.upper.iter().map(|file| file.record.info.revision_min.main);
    let mut begins: Vec<u64> = of_upper.chain([7, 9]).collect();
    begins.sort_unstable();
    assert!(tables > 1 && snapshot.super_version.frozen.len() == 1, "{tables}");
    let sources = |keyspace, at| snapshot.sources(keyspace, &KeyRange::all(), at).len();
    for at in 0..=10 {
        let memtables = snapshot.memtables(at).count();
        assert_eq!(memtables, [9, 7].into_iter().filter(|begin| *begin <= at).count(), "at {at}");
        let above = begins.iter().filter(|begin| **begin <= at).count();
        assert_eq!(sources(Keyspace::Kv, at), above + 1, "at {at}");
        assert_eq!(snapshot.count(Keyspace::Kv, &KeyRange::all(), at).expect("a count"), at);
        let rows = snapshot.range(Keyspace::Kv, KeyRange::all(), at, Values::Skip);
        assert_eq!(rows.count() as u64, at);
        assert_eq!(snapshot.history(KeyRange::all(), 1, at).count() as u64, at);
        let newest = format!("key/{at}");
        let found = snapshot.get(Keyspace::Kv, newest.as_bytes(), at).expect("a read");
        assert_eq!(found.is_some(), at > 0);
    }
    // The keyspace without revisions leaves nothing out.
    assert_eq!(sources(Keyspace::Sys, snapshot.cap(Keyspace::Sys, 1)), tables + 2);
    assert_eq!(snapshot.count(Keyspace::Sys, &KeyRange::all(), 1).expect("a count"), 10);
}
