//! Files that belong to somebody else: certificates and keys that the operator replaces when he
//! likes, by rename, through a symbolic link or in place.
//!
//! One idea: they are copied with `read`, never mapped (a file that is cut while it is mapped ends
//! the process), and a [`Stamp`] tells cheaply whether there is anything new to read.
//!
//! What it does not do: write; that is for files of our own.

use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// No certificate, key or list of revoked certificates is as large.
const FOREIGN_BYTES_MAX: u64 = 64 << 20;
/// A file can change twice within one tick of the clock that stamps it; after this time it cannot.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// Which file a path led to, and when that was last changed.
///
/// Invariants: equal stamps that are [`Stamp::is_settled`] mean equal content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size_bytes: u64,
    changed_nanos: i128,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            changed_nanos: i128::from(metadata.ctime()) * 1_000_000_000
                + i128::from(metadata.ctime_nsec()),
        }
    }

    /// Whether the change is so long ago that another one would have another stamp.
    pub fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let settled = self.changed_nanos + SETTLED_AFTER.as_nanos() as i128;
        settled < now.as_nanos() as i128
    }
}

/// The stamp of the file at `path`.
///
/// # Errors
/// There is none, or it may not be looked at.
pub fn stamp(path: &Path) -> Result<Stamp> {
    let metadata = std::fs::metadata(path).map_err(|error| Error::new("open", path, error))?;
    Ok(Stamp::of(&metadata))
}

/// A copy of the file at `path`.
///
/// # Errors
/// There is none, it may not be read, is no regular file or absurdly large.
pub fn read_foreign(path: &Path) -> Result<Vec<u8>> {
    let read = || {
        // Opening a pipe would wait for its other end.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("expected a file, found something else"));
        }
        let size_bytes = metadata.len();
        if size_bytes > FOREIGN_BYTES_MAX {
            let text = format!("expected at most {FOREIGN_BYTES_MAX} bytes, found {size_bytes}");
            return Err(io::Error::other(text));
        }
        let mut bytes = Vec::with_capacity(size_bytes as usize);
        file.take(FOREIGN_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error| Error::new("open", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_tells_another_file_from_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&path, "one").unwrap();
        std::fs::write(&other, "two").unwrap();
        let first = stamp(&path).unwrap();
        assert_eq!(stamp(&path).unwrap(), first);
        assert!(!first.is_settled());
        assert!(Stamp { changed_nanos: 0, ..first }.is_settled());
        std::fs::rename(&other, &path).unwrap();
        assert_ne!(stamp(&path).unwrap(), first);
        assert_eq!(read_foreign(&path).unwrap(), b"two");
    }

    #[test]
    fn what_is_no_file_is_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = read_foreign(dir.path()).unwrap_err().to_string();
        assert!(error.contains("expected a file"), "{error}");
        let missing = dir.path().join("missing");
        for error in [read_foreign(&missing).unwrap_err(), stamp(&missing).unwrap_err()] {
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            assert!(error.to_string().contains("missing"), "{error}");
        }
    }
}
