//! The program `varve-check`, as an operator runs it: exit codes and what it says.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::os::OsDisk;
use varve_lsm::{Commit, Db, Delta, Keyspace, Meta, Options, Revision, Work};

/// Exit code and what is said on stdout and stderr.
fn check(arguments: &[&Path]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_varve-check")).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

fn engine(dir: &Path) -> Db {
    let (db, mut writer) = Db::open(Arc::new(OsDisk::new()), dir, Options::default()).unwrap();
    for main in 1..=200_u64 {
        let key = format!("key {main}");
        let revision = Revision { main, sub: 0 };
        writer.put(Keyspace::Kv, key.as_bytes(), revision, Delta::Plus, Meta::EMPTY, &[7; 300]);
        let mark = Bytes::copy_from_slice(&main.to_le_bytes());
        writer.commit(Commit { mark, kv_visible: main, compacted: 0 }).unwrap();
    }
    writer.freeze().unwrap();
    while db.work().unwrap() != Work::Idle {}
    db
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_sound_engine_is_told_from_a_damaged_one_and_from_none() {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = data.path().join("member").join("engine");
    let db = engine(&dir);
    let (code, said) = check(&[&dir]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("LOCK"), "in use: {said}");
    drop(db);
    let before = files(&dir);
    for path in [data.path(), &dir] {
        let (code, said) = check(&[path]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("1 tables, 1 segments, 200 rows, 60000 bytes of values"), "{said}");
    }
    for (suffix, at) in [("vs", 5_000), ("kt", 200)] {
        let path = before.iter().find(|path| path.extension().is_some_and(|end| end == suffix));
        let path = path.unwrap();
        let sound = std::fs::read(path).unwrap();
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        std::fs::write(path, &damaged).unwrap();
        let (code, said) = check(&[&dir]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(path.file_name().unwrap().to_str().unwrap()), "{said}");
        std::fs::write(path, &sound).unwrap();
    }
    assert_eq!(check(&[&dir]).0, Some(0));
    assert_eq!(files(&dir), before, "it made or removed something");
    let empty = data.path().join("nothing");
    std::fs::create_dir(&empty).unwrap();
    for arguments in [&[][..], &[&empty], &[&data.path().join("missing")], &[&dir, &dir]] {
        let arguments: Vec<&Path> = arguments.iter().map(|path| path.as_ref()).collect();
        let (code, said) = check(&arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
    }
}
