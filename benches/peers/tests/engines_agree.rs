//! All engines answer alike, and as a naive map of versions.

use varve_peers::engine::{NAMES, agree, open};

fn check(name: &str) {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    agree::check(name, home.path()).unwrap();
}

#[test]
fn all_answer_as_the_model() {
    NAMES.into_iter().for_each(check);
}

#[test]
fn others_are_refused() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let message = open("etcd", home.path(), true).err().unwrap();
    assert_eq!(message, "no engine etcd; there are varve, rocksdb, fjall, redb, lmdb");
}
