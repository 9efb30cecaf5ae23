//! A backup: a second directory with the same files under second names.
//!
//! Data files never change, so a backup links them and writes a manifest of its own: no value is
//! read, and it takes as much time as it has files. Later merges remove names from the first
//! directory only; what the backup names stays. It is an engine directory like any other, and can
//! be opened, checked, or copied elsewhere.
//!
//! **Crashes.** All is made in `<dir>.partial` and renamed at the end: a directory of the wanted
//! name is complete, and a partial one is removed by the next backup to the same place.
//!
//! What it does not do: copy. The backup must be on the same file system, and shares the fate of
//! its device; copy it elsewhere.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use crate::db::create_dir;
use crate::manifest::Manifest;
use crate::version::Version;
use crate::{Db, Result};

impl Db {
    /// Makes a backup of the newest durable state in `dir`, a new directory on the same file
    /// system, and returns the mark of the newest commit in it (empty if there is none). Call
    /// [`Writer::freeze`](crate::Writer::freeze) and [`Db::work`] first to have everything in it.
    ///
    /// Readers, the writer and background work go on. Durable on return.
    ///
    /// # Errors
    /// `dir` exists, or is on another file system; those of the disk. None concerns the engine
    /// itself, which goes on.
    pub fn backup(&self, dir: &Path) -> Result<Bytes> {
        let disk = &self.shared.place.disk;
        if disk.exists(dir)? {
            let error = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(varve_disk::Error::new("make a backup in", dir, error).into());
        }
        let (version, next_sequence) = self.pinned();
        let partial = partial_of(dir);
        disk.remove_dir_all(&partial)?;
        // After this, the directories above are durable under their names, and so is `partial`.
        create_dir(&**disk, &partial)?;
        let tables = version.tables().map(|file| file.guard.name());
        for name in tables.chain(version.segments().map(|file| file.guard.name())) {
            disk.link(&self.shared.place.dir.join(name), &partial.join(name))?;
        }
        // After this, the names of the data files are durable in `partial`, as their contents are
        // anyway; and so are those of the manifest and of CURRENT, which come last.
        disk.sync_dir(&partial)?;
        Manifest::create(disk, &partial, self.shared.identity, 1, &version.state(next_sequence))?;
        disk.rename(&partial, dir)?;
        // After this, the backup has its name.
        disk.sync_dir(dir.parent().unwrap_or(Path::new("")))?;
        Ok(version.mark.clone().unwrap_or_default())
    }

    /// The newest version, whose files stay while it is held, and the next file's number.
    fn pinned(&self) -> (Arc<Version>, u32) {
        let worker = self.shared.worker.lock().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&self.shared.current.load().version), worker.ids.next_sequence())
    }
}

fn partial_of(dir: &Path) -> PathBuf {
    let mut name = OsString::from(dir);
    name.push(".partial");
    name.into()
}
