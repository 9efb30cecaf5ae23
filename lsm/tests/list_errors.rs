//! A list that meets a damaged value says so once, and is at its end.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod support;

use bytes::Bytes;
use support::{dir, open, settle};
use varve_disk::Disk;
use varve_disk::sim::SimDisk;
use varve_lsm::{Commit, Delta, Error, KeyRange, Keyspace, Meta, Revision, Values};

const KEYS: u64 = 40;
const DAMAGED: usize = 17;

#[test]
fn a_list_ends_at_the_first_damaged_value() {
    let disk = SimDisk::new(1);
    let (db, mut writer) = open(&disk).unwrap();
    for main in 1..=KEYS {
        let key = format!("key/{main:03}");
        let revision = Revision { main, sub: 0 };
        let value = [main as u8; 100];
        writer.put(Keyspace::Kv, key.as_bytes(), revision, Delta::Plus, Meta::EMPTY, &value);
        let mark = Bytes::copy_from_slice(&main.to_le_bytes());
        writer.commit(Commit { mark, kv_visible: main, compacted: 0 }).unwrap();
    }
    writer.freeze().unwrap();
    settle(&db).unwrap();
    drop((db, writer));
    let names = disk.list(dir()).unwrap();
    let segment = names.iter().find(|name| name.ends_with(".vs")).unwrap();
    let path = dir().join(segment);
    let content = disk.map(&path).unwrap();
    let value = [DAMAGED as u8 + 1; 100];
    let at = content.windows(value.len()).position(|bytes| bytes == value).unwrap();
    disk.flip_bit(&path, at as u64 + 50, 1).unwrap();

    let (db, _writer) = open(&disk).unwrap();
    let snapshot = db.snapshot();
    let (all, at) = (KeyRange::all(), u64::MAX);
    let mut forward = snapshot.range(Keyspace::Kv, all.clone(), at, Values::Load);
    let mut backward = snapshot.range_backward(Keyspace::Kv, all, at, Values::Load);
    let sides = [(&mut forward, DAMAGED), (&mut backward, KEYS as usize - DAMAGED - 1)];
    for (list, sound) in sides {
        assert_eq!(list.take(sound).filter(|entry| entry.is_ok()).count(), sound);
        assert!(matches!(list.next(), Some(Err(Error::Corrupt { .. }))));
        assert!(list.next().is_none() && list.next().is_none());
    }
}
