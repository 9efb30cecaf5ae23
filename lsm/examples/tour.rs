//! The engine used alone: a small configuration store with history.
//!
//! ```sh
//! cargo run -p varve-lsm --example tour
//! ```
//!
//! The engine has no log of its own. Here the "log" is the list of batches in `BATCHES`, and the
//! mark of a commit says how many of them are in the engine. After a start, what the files lack is
//! put in again from the log; that is all the recovery there is.

#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::Disk;
use varve_disk::os::OsDisk;
use varve_lsm::{
    Commit, Db, Delta, Direction, KeyRange, Keyspace, Kind, Meta, Options, Result, Revision,
    Snapshot, Values, Work, Writer,
};

/// What happened, in order: each batch is a list of (key, new value or `None` to delete).
const BATCHES: [&[(&str, Option<&str>)]; 4] = [
    &[("/app/color", Some("red")), ("/app/size", Some("7")), ("/db/host", Some("a"))],
    &[("/app/color", Some("blue"))],
    &[("/app/size", None), ("/db/port", Some("5432"))],
    &[("/app/color", Some("green")), ("/app/name", Some("tour"))],
];

fn main() -> Result<()> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let dir = directory.path().join("engine");
    // Everything the engine does to files goes through a `Disk`; tests give it a simulated one.
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
    // The identity is checked at each open, so that directories cannot be mixed up.
    let options = Options { identity: *b"tour of varvelsm", ..Options::default() };

    let (db, mut writer) = Db::open(Arc::clone(&disk), &dir, options.clone())?;
    replay(&db, &mut writer)?;
    let early = db.snapshot();
    reads(&early)?;

    // Old versions may go: what revision 3 still shows stays readable, what only older ones show
    // does not. A snapshot that is already held keeps what it pinned.
    let mark = Bytes::from(vec![BATCHES.len() as u8]);
    writer.commit(Commit { mark, kv_visible: BATCHES.len() as u64, compacted: 3 })?;
    // Memory becomes files when it is full, or now. A server calls `work` from one thread of its
    // own, a simulation whenever it likes; one call is one bounded step.
    writer.freeze()?;
    while db.work()? != Work::Idle {}
    let flushed = db.flushed_mark().expect("something was flushed");
    println!("files hold {} batches in {} bytes", flushed[0], db.sizes().disk_bytes);
    assert_eq!(early.get(Keyspace::Kv, b"/app/color", 1)?.expect("pinned").value, "red");
    drop(early);

    // A checkpoint is a list of immutable files and the manifest that names them. To give it to
    // another engine: stage the files that it does not have, and install.
    let copy_dir = directory.path().join("copy");
    let copy = Options { origin: 2, ..options.clone() };
    let (copy, mut copy_writer) = Db::open(Arc::clone(&disk), &copy_dir, copy)?;
    install(&*disk, &db, &copy, &mut copy_writer, &directory.path().join("staged"))?;
    assert_eq!(copy.snapshot().count(Keyspace::Kv, &KeyRange::all(), u64::MAX)?, 4);

    // Closing is dropping: nothing is lost that the log does not have. The lock of the directory
    // is free when all handles are gone.
    drop((db, writer));
    let (db, mut writer) = Db::open(disk, &dir, options)?;
    replay(&db, &mut writer)?;
    let report = db.check()?;
    assert!(report.violations.is_empty(), "{report:#?}");
    println!("reopened at revision {}", db.snapshot().visible());
    Ok(())
}

/// Puts the batches of the log that the engine lacks into it.
fn replay(db: &Db, writer: &mut Writer) -> Result<()> {
    let have = db.snapshot().mark().first().map_or(0, |mark| usize::from(*mark));
    for (number, batch) in BATCHES.iter().enumerate().skip(have) {
        let main = number as u64 + 1;
        for (sub, (key, value)) in batch.iter().enumerate() {
            let revision = Revision { main, sub: sub as u32 };
            match value {
                Some(value) => {
                    // The writer says whether a put makes a key: counts are sums of these.
                    let view = writer.view();
                    let newest = view.get_meta(Keyspace::Kv, key.as_bytes(), u64::MAX)?;
                    let is_live = newest.is_some_and(|entry| entry.kind == Kind::Put);
                    let delta = if is_live { Delta::Zero } else { Delta::Plus };
                    let meta = Meta::new(b"tour").expect("a few bytes");
                    let (key, value) = (key.as_bytes(), value.as_bytes());
                    writer.put(Keyspace::Kv, key, revision, delta, meta, value);
                }
                None => writer.delete(Keyspace::Kv, key.as_bytes(), revision),
            }
        }
        // Until here only `writer.view()` shows the batch; now all readers see all of it.
        let mark = Bytes::from(vec![number as u8 + 1]);
        writer.commit(Commit { mark, kv_visible: main, compacted: 0 })?;
    }
    Ok(())
}

/// All ways to read. None of them waits for anything.
fn reads(snapshot: &Snapshot) -> Result<()> {
    // A point read, at the newest revision and at an old one.
    let color = |at| -> Result<Bytes> {
        Ok(snapshot.get(Keyspace::Kv, b"/app/color", at)?.expect("it is there").value)
    };
    println!("color is {:?}, was {:?}", color(u64::MAX)?, color(1)?);
    // The same without a copy: the row is shown where it lies.
    let length = snapshot.get_with(Keyspace::Kv, b"/app/color", 1, |row| row.value_bytes())?;
    assert_eq!(length, Some(3));

    // A scan as copies, with a limit.
    let app = KeyRange::between("/app/".into(), "/app0".into());
    for entry in snapshot.range(Keyspace::Kv, app.clone(), u64::MAX, Values::Load).take(10) {
        let entry = entry?;
        println!("{:?} = {:?} since {}", entry.key, entry.value, entry.revision.main);
    }
    // From the end, only keys, without a copy.
    let mut rows = snapshot.rows(Keyspace::Kv, KeyRange::all(), u64::MAX, Direction::Backward);
    while let Some(row) = rows.next_row()? {
        println!("backward: {}", row.key().escape_ascii());
    }
    // Counts are sums: no scan, however large the range.
    assert_eq!(snapshot.count(Keyspace::Kv, &app, 1)?, 2);

    // What changed after revision 1, in order, with the tombstones.
    for change in snapshot.history(KeyRange::all(), 2, u64::MAX) {
        let change = change?;
        println!("at {}: {:?} {:?}", change.revision.main, change.kind, change.key);
    }
    Ok(())
}

/// Moves a checkpoint of `db` into `copy`.
fn install(
    disk: &dyn Disk,
    db: &Db,
    copy: &Db,
    copy_writer: &mut Writer,
    staged: &Path,
) -> Result<()> {
    let checkpoint = db.checkpoint();
    disk.create_dir_all(staged)?;
    for file in &checkpoint.files {
        if !copy.has_file(&file.name, file.digest) {
            disk.create(&staged.join(&file.name))?.write_at(0, &file.content)?;
        }
    }
    copy_writer.install(&checkpoint.manifest, staged)
}
