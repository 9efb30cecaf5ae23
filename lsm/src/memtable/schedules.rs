//! One writer and one reader in every order that their threads may run in, and with every value
//! that the memory model lets a load see.
//!
//! ```sh
//! RUSTFLAGS="--cfg varve_loom" cargo test --target-dir target/loom -p varve-lsm --lib schedules
//! ```
//!
//! Stories are short, since the orders of long ones are too many; the tables and blocks that grow
//! are so small here that they grow in them.

use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;

use loom::thread;

use super::{Committed, Memtable, MemtableWriter, hash};
use crate::{Delta, KeyRange, Keyspace, Kind, Meta, Revision};

fn put(writer: &mut MemtableWriter, key: &str, main: u64, delta: Delta) {
    let revision = Revision { main, sub: 0 };
    let value = main.to_le_bytes();
    writer.add(Keyspace::Kv, key.as_bytes(), revision, Kind::Put, delta, Meta::EMPTY, &value);
}

fn commit(writer: &mut MemtableWriter, kv_visible: u64) {
    let ordinal = writer.ordinal();
    writer.commit(Committed { kv_visible, ordinal, ..Committed::default() });
}

/// Plays a writer that begins with `before` committed and then does `during`, beside a reader that
/// looks at what is committed when it comes.
fn play(
    before: fn(&mut MemtableWriter),
    during: fn(&mut MemtableWriter),
    look: fn(&Arc<Memtable>, &Committed),
) {
    loom::model(move || {
        let mut writer = MemtableWriter::new(Committed::default());
        before(&mut writer);
        let memtable = Arc::clone(writer.memtable());
        let reader = thread::spawn(move || {
            let committed = memtable.committed();
            look(&memtable, &committed);
        });
        during(&mut writer);
        reader.join().expect("the reader found what it should");
    });
}

/// The revision of a key as its index leads to it.
fn get(memtable: &Memtable, committed: &Committed, key: &str) -> Option<u64> {
    get_at(memtable, committed, key, u64::MAX)
}

fn get_at(memtable: &Memtable, committed: &Committed, key: &str, at: u64) -> Option<u64> {
    let key = key.as_bytes();
    let found = memtable.get(Keyspace::Kv, hash(key), key, at, committed.ordinal);
    found.map(|record| {
        let main = record.revision().main;
        assert_eq!(record.value(), main.to_le_bytes());
        main
    })
}

#[test]
fn a_commit_is_seen_as_a_whole_or_not_at_all() {
    let before = |writer: &mut MemtableWriter| {
        put(writer, "a", 1, Delta::Plus);
        commit(writer, 1);
    };
    let during = |writer: &mut MemtableWriter| {
        put(writer, "a", 2, Delta::Zero);
        put(writer, "b", 2, Delta::Plus);
        commit(writer, 2);
    };
    play(before, during, |memtable, committed| {
        let found = (get(memtable, committed, "a"), get(memtable, committed, "b"));
        match committed.kv_visible {
            1 => assert_eq!(found, (Some(1), None)),
            _ => assert_eq!(found, (Some(2), Some(2))),
        }
    });
}

#[test]
fn a_version_of_long_ago_is_found_while_newer_ones_come() {
    fn put_all(writer: &mut MemtableWriter, revisions: RangeInclusive<u64>) {
        let newest = *revisions.end();
        for main in revisions {
            put(writer, "a", main, if main == 1 { Delta::Plus } else { Delta::Zero });
        }
        commit(writer, newest);
    }
    // The jumps of 7 and 8 lead to 4 and 1.
    play(
        |writer| put_all(writer, 1..=6),
        |writer| put_all(writer, 7..=8),
        |memtable, committed| {
            for main in 1..=committed.kv_visible {
                assert_eq!(get_at(memtable, committed, "a", main), Some(main));
            }
            assert_eq!(get(memtable, committed, "a"), Some(committed.kv_visible));
        },
    );
}

#[test]
fn a_key_is_found_while_the_index_grows() {
    let before = |writer: &mut MemtableWriter| {
        put(writer, "a", 1, Delta::Plus);
        commit(writer, 1);
    };
    let during = |writer: &mut MemtableWriter| {
        for (key, main) in [("b", 2), ("c", 3)] {
            put(writer, key, main, Delta::Plus);
        }
        commit(writer, 3);
    };
    play(before, during, |memtable, committed| {
        assert_eq!(get(memtable, committed, "a"), Some(1));
        assert_eq!(get(memtable, committed, "c"), (committed.kv_visible == 3).then_some(3));
    });
}

/// The keys that a cursor meets, forwards or backwards.
fn walk(memtable: &Arc<Memtable>, committed: &Committed, is_backward: bool) -> Vec<u8> {
    let mut cursor = memtable.cursor(Keyspace::Kv, committed.ordinal);
    match is_backward {
        true => cursor.seek_last(Bound::Unbounded),
        false => cursor.seek(b""),
    }
    let mut keys = Vec::new();
    while let Some(key) = cursor.key() {
        keys.extend_from_slice(key);
        match is_backward {
            true => cursor.retreat_key(),
            false => cursor.advance_key(),
        }
    }
    keys
}

fn two_keys(writer: &mut MemtableWriter) {
    put(writer, "b", 1, Delta::Plus);
    put(writer, "d", 1, Delta::Plus);
    commit(writer, 1);
}

fn keys_around_them(writer: &mut MemtableWriter) {
    put(writer, "c", 2, Delta::Plus);
    put(writer, "e", 2, Delta::Plus);
    commit(writer, 2);
}

#[test]
fn a_walk_meets_every_committed_key_while_others_are_linked() {
    play(two_keys, keys_around_them, |memtable, committed| {
        let expected: &[u8] = if committed.kv_visible == 1 { b"bd" } else { b"bcde" };
        assert_eq!(walk(memtable, committed, false), expected);
    });
}

#[test]
fn a_walk_backwards_does_too() {
    play(two_keys, keys_around_them, |memtable, committed| {
        let expected: &[u8] = if committed.kv_visible == 1 { b"db" } else { b"edcb" };
        assert_eq!(walk(memtable, committed, true), expected);
    });
}

#[test]
fn a_count_is_that_of_its_moment() {
    play(two_keys, keys_around_them, |memtable, committed| {
        let (all, ordinal) = (KeyRange::all(), committed.ordinal);
        let count = memtable.delta_sum(Keyspace::Kv, &all, u64::MAX, ordinal);
        assert_eq!(count, if committed.kv_visible == 1 { 2 } else { 4 });
    });
}

#[test]
fn history_is_whole_while_its_blocks_fill() {
    // One block is full, the next half full.
    let before = |writer: &mut MemtableWriter| {
        two_keys(writer);
        put(writer, "f", 1, Delta::Plus);
        commit(writer, 1);
    };
    play(before, keys_around_them, |memtable, committed| {
        let mut history = memtable.history(1, committed.ordinal);
        let mut revisions = Vec::new();
        while let Some(record) = history.record() {
            revisions.push(record.revision().main);
            history.advance();
        }
        let expected: &[u64] =
            if committed.kv_visible == 1 { &[1, 1, 1] } else { &[1, 1, 1, 2, 2] };
        assert_eq!(revisions, expected);
    });
}
