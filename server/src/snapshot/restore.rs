//! Makes the data directory of a new member from a backup.
//!
//! One idea: a restored member is a founder that begins with data: its engine holds the backup and
//! the members that the flags name, its log is empty, and its identity is written last. A directory
//! that was left half made has no identity and is refused; what failed is removed again.
//!
//! Every member of the new cluster restores the same file with its own name.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use varve_bolt::Reader;
use varve_disk::Disk;
use varve_lsm::{Db, Revision};
use varve_store::{Founding, Import, ImportOutcome, Imported};

use super::file::Backup;
use crate::data_dir::DataDir;
use crate::limits;
use crate::random;
use crate::setup::Setup;

/// Restores `file` as the member of `setup`, with revisions raised by `bump`.
///
/// # Errors
/// The directory is not empty, the file is damaged, or the disk fails.
pub fn restore(
    disk: &Arc<dyn Disk>,
    file: &Backup,
    setup: &Setup,
    bump: u64,
) -> Result<Imported, String> {
    let root = &setup.data_dir;
    let was_there = is_there_and_empty(disk.as_ref(), root, "data-dir")?;
    if let Some(wal_dir) = &setup.wal_dir
        && disk.exists(wal_dir).map_err(|error| error.to_string())?
    {
        return Err(format!("wal-dir {wal_dir:?} exists"));
    }
    let outcome = fill(disk, file, setup, bump);
    if outcome.is_err() {
        // Nothing was there before; what cannot be removed is refused at the next attempt.
        let made = if was_there { root.join("member") } else { root.clone() };
        for dir in std::iter::once(&made).chain(&setup.wal_dir) {
            let _refused_later = disk.remove_dir_all(dir);
        }
        let _refused_later = disk.remove(&root.join("LOCK"));
    }
    outcome
}

/// Whether an empty directory is there; one with something in it is an error.
fn is_there_and_empty(disk: &dyn Disk, dir: &Path, what: &str) -> Result<bool, String> {
    let refused = |error: varve_disk::Error| format!("{what} {dir:?}: {error}");
    if !disk.exists(dir).map_err(refused)? {
        return Ok(false);
    }
    match disk.list(dir).map_err(refused)?.is_empty() {
        true => Ok(true),
        false => Err(format!("{what} {dir:?} not empty or could not be read")),
    }
}

fn fill(disk: &Arc<dyn Disk>, file: &Backup, setup: &Setup, bump: u64) -> Result<Imported, String> {
    let data_dir = DataDir::open(Arc::clone(disk), setup).map_err(|error| error.to_string())?;
    let mut unleased = BTreeSet::new();
    let imported = loop {
        match import(disk, file, setup, &data_dir, bump, unleased)? {
            ImportOutcome::Done(imported) => break imported,
            ImportOutcome::Again(versions) => {
                tracing::warn!(
                    keys = versions.len(),
                    "keys name leases that are not in the snapshot; they are restored without"
                );
                unleased = versions;
                disk.remove_dir_all(&data_dir.engine).map_err(|error| error.to_string())?;
            }
        }
    };
    let log = varve_wal::Options { identity: data_dir.identity.bytes(), ..setup.log.clone() };
    // Its first segment is durable on return; the node begins it behind the engine's mark.
    varve_wal::Wal::open(Arc::clone(disk), &data_dir.log, log)
        .map_err(|error| error.to_string())?;
    data_dir.founded().map_err(|error| error.to_string())?;
    Ok(imported)
}

fn import(
    disk: &Arc<dyn Disk>,
    file: &Backup,
    setup: &Setup,
    data_dir: &DataDir,
    bump: u64,
    unleased: BTreeSet<Revision>,
) -> Result<ImportOutcome, String> {
    let in_file = |error: &dyn std::fmt::Display| format!("{}: {error}", file.path().display());
    let reader = Reader::open(file).map_err(|error| in_file(&error))?;
    let buckets = reader.buckets().map_err(|error| in_file(&error))?;
    let identity = &data_dir.identity;
    let engine = varve_lsm::Options {
        identity: identity.bytes(),
        origin: random::u64() as u32,
        ..setup.engine.clone()
    };
    let opened = Db::open(Arc::clone(disk), &data_dir.engine, engine);
    let (db, writer) = opened.map_err(|error| error.to_string())?;
    let founding = Founding { cluster_id: identity.cluster_id, members: identity.founders() };
    let import = Import::begin(db, writer, &founding, unleased);
    let mut import = import.map_err(|error| error.to_string())?;
    for name in Import::BUCKETS {
        // Older releases do not have all of them; without keys it is no database of etcd.
        let Some(bucket) = buckets.iter().find(|bucket| bucket.name == name.as_bytes()) else {
            if matches!(name, "key" | "meta") {
                return Err(in_file(&format!("expected etcd's bucket {name}, found none")));
            }
            continue;
        };
        let mut rows = reader.rows(bucket).map_err(|error| in_file(&error))?;
        let mut count = 0_u64;
        while let Some((key, value)) = rows.next_row().map_err(|error| in_file(&error))? {
            import.row(name, key, value).map_err(|error| in_file(&error))?;
            count += 1;
            if count.is_multiple_of(limits::RESTORE_PROGRESS_ROWS) {
                tracing::info!(bucket = name, rows = count, "restoring snapshot");
            }
        }
    }
    import.finish(bump).map_err(|error| in_file(&error))
}
