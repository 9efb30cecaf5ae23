//! The program `varve-wal`, as an operator runs it: exit codes, what it says, that it changes
//! nothing.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::os::OsDisk;
use varve_disk::{Disk, File};
use varve_wal::{Batch, Options, Wal};

const IDENTITY: [u8; 16] = *b"0123456789abcdef";
const SEGMENT_BYTES: u64 = 32 << 10;

/// Exit code, and what is said on both outputs.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_varve-wal")).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

fn check(dir: &Path) -> (Option<i32>, String) {
    run(&["check", dir.to_str().unwrap()])
}

/// A data directory with a log of entries 1 to 20, one to a frame of a block, and where the log is.
fn log() -> (tempfile::TempDir, PathBuf) {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = data.path().join("member").join("log");
    let options =
        Options { identity: IDENTITY, segment_bytes: SEGMENT_BYTES, ..Options::default() };
    let mut wal = Wal::open(Arc::new(OsDisk::new()), &dir, options).unwrap();
    for index in 1..=20 {
        let mut batch = Batch::default();
        batch.entry(index, Bytes::from(format!("entry\n{index}")));
        batch.state(Bytes::from(format!("state {index}")));
        wal.append(&batch).unwrap();
    }
    (data, dir)
}

/// Every file below a log's directory.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let disk = OsDisk::new();
    let read = |name: String| (name.clone(), disk.map(&dir.join(name)).unwrap().to_vec());
    disk.list(dir).unwrap().into_iter().map(read).collect()
}

fn segment(dir: &Path, id: u64) -> Arc<dyn File> {
    OsDisk::new().open(&dir.join(format!("{id:016x}.wal"))).unwrap()
}

#[test]
fn a_sound_log_is_sound_and_stays_as_it_is() {
    let (data, dir) = log();
    let before = contents(&dir);
    for path in [data.path(), &dir] {
        let (code, said) = check(path);
        assert_eq!(code, Some(0), "{said}");
        // Each of the three segments begins with a base, and the later two repeat the state.
        let expected = "log 30313233343536373839616263646566: 3 segments, 20 frames, 45 records, \
                        entries 1 to 20\nsound\n";
        assert_eq!(said, expected);
    }
    assert_eq!(contents(&dir), before);
}

#[test]
fn a_dump_shows_what_is_asked_for() {
    let (_data, dir) = log();
    let (code, all) = run(&["dump", dir.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{all}");
    assert!(all.contains("  frame 1 at 4096: 3 records, 82 bytes\n    base: first 1, next 1\n"));
    assert!(
        all.contains("    entry 20: 8 bytes \"entry\\n20\"\n    state: 8 bytes \"state 20\"\n")
    );
    assert_eq!(all.matches("    entry ").count(), 20);
    assert_eq!(all.matches(".wal: 32768 bytes, blocks of 4096, generation 1,").count(), 3);

    let (code, part) = run(&["dump", dir.to_str().unwrap(), "--from", "9", "--limit", "2"]);
    assert_eq!(code, Some(0), "{part}");
    let frames: Vec<&str> = part.lines().filter(|line| line.starts_with("  frame")).collect();
    assert_eq!(frames.len(), 2, "{part}");
    assert!(part.contains("    entry 9: ") && part.contains("    entry 10: "), "{part}");
    assert!(!part.contains("entry 8") && !part.contains("entry 11"), "{part}");
    // All of the log is checked, whatever is printed.
    assert!(part.ends_with("entries 1 to 20\nsound\n"), "{part}");
}

#[test]
fn damage_is_named_and_left_alone() {
    let (_data, dir) = log();
    let sound = contents(&dir);
    // A byte of frame 3, of padding, of a header; then a file that is gone, and one cut short.
    for (id, offset, place) in [(1, 3 * 4096 + 70, 3 * 4096), (2, 2 * 4096 - 1, 8191), (3, 20, 0)] {
        let file = segment(&dir, id);
        file.write_at(offset, b"?").unwrap();
        let before = contents(&dir);
        for command in ["check", "dump"] {
            let (code, said) = run(&[command, dir.to_str().unwrap()]);
            assert_eq!(code, Some(1), "{said}");
            let where_it_is = format!("{id:016x}.wal at offset {place}: expected ");
            assert!(said.contains(&where_it_is) && said.contains("; do not delete"), "{said}");
            assert!(said.contains(", found ") && !said.contains("\nsound"), "{said}");
        }
        assert_eq!(contents(&dir), before);
        let name = format!("{id:016x}.wal");
        file.write_at(offset, &sound[&name][offset as usize..][..1]).unwrap();
        assert_eq!(check(&dir).0, Some(0));
    }
    segment(&dir, 3).set_len(SEGMENT_BYTES - 4096).unwrap();
    let (code, said) = check(&dir);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("expected 32768 bytes in the file, found 28672"), "{said}");
    OsDisk::new().remove(&dir.join(format!("{:016x}.wal", 2))).unwrap();
    let (code, said) = check(&dir);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("0000000000000002.wal is missing"), "{said}");
}

#[test]
fn a_torn_tail_is_no_damage_and_is_not_cut() {
    let (_data, dir) = log();
    // The second half of the newest frame, the sixth of its segment, never came to the disk.
    segment(&dir, 3).write_at(6 * 4096 + 80, &[0; 100]).unwrap();
    let before = contents(&dir);
    let (code, said) = check(&dir);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("entries 1 to 19\nbytes behind the last frame: "), "{said}");
    assert_eq!(contents(&dir), before);
}

#[test]
fn what_a_newer_program_wrote_is_not_called_damaged() {
    let (_data, dir) = log();
    let mut sector = contents(&dir)["0000000000000001.wal"][..512].to_vec();
    sector[8] = 2;
    let crc = crc32fast::hash(&sector[..508]);
    sector[508..].copy_from_slice(&crc.to_le_bytes());
    segment(&dir, 1).write_at(0, &sector).unwrap();
    let (code, said) = check(&dir);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("format version 2, this program reads version 1"), "{said}");
}

#[test]
fn what_is_not_a_log_or_in_use_is_not_looked_at() {
    let (data, dir) = log();
    let empty = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (empty, dir) = (empty.path().to_str().unwrap(), dir.to_str().unwrap());
    let missing = format!("{empty}/missing");
    for (arguments, expected) in [
        (&["check", empty][..], "is not a log: expected segments (*.wal), found none"),
        (&["dump", empty], "is not a log"),
        (&["check", &missing], "could not look: cannot list"),
        (&[], "usage: varve-wal check DIR"),
        (&["check"], "usage: "),
        (&["repair", dir], "found \"repair\""),
        (&["check", dir, "--from"], "found \"--from\""),
        (&["dump", dir, "--from"], "expected a number behind --from, found \"\""),
        (&["dump", dir, "--limit", "-1"], "expected a number behind --limit, found \"-1\""),
        (&["dump", dir, "--to", "5"], "found \"--to\""),
    ] {
        let (code, said) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    let lock = OsDisk::new().lock(data.path()).unwrap();
    for path in [data.path().to_str().unwrap(), dir] {
        let (code, said) = run(&["check", path]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("is in use; stop the server first"), "{said}");
    }
    drop(lock);
    assert_eq!(run(&["check", dir]).0, Some(0));
}
