//! The only code that touches files.
//!
//! Everything durable in varve goes through [`Disk`] and [`File`]: once over the operating system
//! ([`os::OsDisk`]) and once over memory ([`sim::SimDisk`]), where a crash keeps any legal subset
//! of what was not synced. No other crate names `std::fs`, which is what makes it possible to
//! enumerate crashes, tear writes and run a whole cluster from one seed.
//!
//! # What we assume of a disk
//!
//! - A write is durable only after [`File::sync`] on that file returned. Until then a crash may
//!   keep all of it, none of it, or any subset of its 512-byte sectors, in any order with other
//!   unsynced writes. A sector is either old or new, never a mixture.
//! - A created, renamed or removed name is durable only after [`Disk::sync_dir`] on its directory
//!   returned. Syncing a file does not make its name durable.
//! - A failed sync says nothing about what reached the disk, and repeating it proves nothing
//!   (the kernel may have marked the pages clean). It is final: callers stop.
//! - A directory whose sync failed with names to write is not synced again, by no process, until
//!   the file system has been mounted anew: journaled file systems stop for good (ext4 aborts its
//!   journal, XFS shuts down, Btrfs aborts the transaction). So names that are listed, and whose
//!   directory is then synced, are durable.
//! - Bits rot and reads may be misdirected: callers checksum all that they write.
//!
//! What it does not do: it knows nothing of what is stored, does not retry, and does not log.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

pub mod durable;
pub mod os;
pub mod sim;
pub mod trial;

use durable::{Backend, DurableWriter};

/// How mapped bytes will be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Here and there: only pages that are touched are worth reading.
    Random,
    /// All of it, soon: the device may begin.
    Soon,
}

/// A sector is the unit that a disk writes whole: 512 bytes everywhere.
pub const SECTOR_BYTES: u64 = 512;

/// The file in a directory that [`Disk::lock`] creates there and locks; it stays afterwards.
pub const LOCK_FILE_NAME: &str = "LOCK";

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A place where files live. Used as `Arc<dyn Disk>`: a virtual call in front of a system call
/// costs nothing, and signatures stay plain.
pub trait Disk: Send + Sync + 'static {
    /// Creates a file for reading and writing; fails if the name is taken.
    ///
    /// The name is durable after [`Disk::sync_dir`] on the parent.
    fn create(&self, path: &Path) -> Result<Arc<dyn File>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> Result<Arc<dyn File>>;

    /// Opens an existing file for reading only, as it also works on a disk that cannot be written
    /// to. Writing to it fails.
    fn open_to_read(&self, path: &Path) -> Result<Arc<dyn File>> {
        self.open(path)
    }

    /// Opens an existing file, beside other handles on it, for writes that are durable at once.
    ///
    /// # Errors
    /// Those of [`Disk::open`]; and when this disk cannot have `backend` for this file, with the
    /// system's error number. Some of them can be told only by the first write.
    fn open_durable(&self, path: &Path, backend: Backend) -> Result<Box<dyn DurableWriter>>;

    /// The backends among which there is something to choose on this disk, most wanted first. The
    /// last one, [`Backend::Fdatasync`], works always.
    fn backends(&self) -> &'static [Backend];

    /// Maps an existing, complete, never again changed file read-only.
    ///
    /// The mapping stays valid after the file was removed. Mapping a file that is still written
    /// to is a caller's bug.
    fn map(&self, path: &Path) -> Result<Bytes>;

    /// Unmaps mappings of which the last byte was let go, the oldest `files_max` of them; how many
    /// those were. Unmapping is slow and disturbs all threads, so a background thread calls this now
    /// and then. Without it they are unmapped in the end where they are let go.
    fn unmap_let_go(&self, _files_max: usize) -> usize {
        0
    }

    /// Whether all of `bytes`, a part of what [`Disk::map`] gave, is in memory now, so that touching
    /// it does not wait for the device. Costs a system call.
    fn is_resident(&self, _bytes: &[u8]) -> bool {
        true
    }

    /// Says how `bytes`, a part of what [`Disk::map`] gave, will be read. It changes no answer, only
    /// when and how much the device reads. May cost a system call.
    fn advise(&self, _bytes: &[u8], _access: Access) {}

    /// Gives a complete, never again changed file a second name, in this or another directory of
    /// the same file system; fails if the name is taken. Each name lives until it is removed.
    /// Durable after [`Disk::sync_dir`] on the parent of `to`.
    fn link(&self, from: &Path, to: &Path) -> Result<()>;

    /// Atomically renames a file or directory, replacing a file of the new name.
    /// Durable after [`Disk::sync_dir`] on both parents.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file. Durable after [`Disk::sync_dir`] on the parent.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Removes a directory and all below it; a missing directory is not an error.
    fn remove_dir_all(&self, dir: &Path) -> Result<()>;

    /// The names (not paths) in a directory, sorted. Files and directories alike.
    fn list(&self, dir: &Path) -> Result<Vec<String>>;

    /// Whether the path exists, as a file or a directory.
    fn exists(&self, path: &Path) -> Result<bool>;

    /// Creates a directory and its missing parents, mode 0700; an existing one is not an error.
    ///
    /// Each created name is durable after [`Disk::sync_dir`] on *its* parent: for a new `a/b/c`
    /// that is `a/b`, `a`, and the directory that holds `a`.
    fn create_dir_all(&self, dir: &Path) -> Result<()>;

    /// Makes the names in a directory durable: every create, rename and remove that happened in
    /// it before the call survives a crash after the call.
    fn sync_dir(&self, dir: &Path) -> Result<()>;

    /// Bytes that can still be written below a directory.
    fn space_left(&self, dir: &Path) -> Result<u64>;

    /// Takes the exclusive lock of a directory (a file `LOCK` in it); held until dropped.
    /// Fails with [`io::ErrorKind::WouldBlock`] when another process or handle holds it.
    fn lock(&self, dir: &Path) -> Result<Box<dyn DirLock>>;
}

/// An open file. Positioned reads and writes only, so that it can be shared between threads.
pub trait File: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// Writes all of `data` at `offset`, extending the file where needed.
    /// Durable after [`File::sync`].
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Makes all earlier writes to this file, and its length, durable (`fdatasync`).
    fn sync(&self) -> Result<()>;

    /// Hints that what was written below `end` will not be read soon: the system begins to write it
    /// out, waits for nothing, and need not keep it in memory. Says nothing of durability; a later
    /// [`File::sync`] has less to do.
    fn write_out(&self, _end: u64) {}

    /// Hints that what was written in this range is final: the system begins to write it out, so
    /// that a later [`File::sync`] has less to do, and keeps it in memory. Says nothing of durability.
    fn begin_write_out(&self, _offset: u64, _length_bytes: u64) {}

    /// The length in bytes.
    fn len(&self) -> Result<u64>;

    /// Whether the file holds no byte.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends (with zeros) to `length_bytes`. Never called on a file that is mapped.
    fn set_len(&self, length_bytes: u64) -> Result<()>;

    /// Reserves space for `length_bytes` and extends the file to that length; the new bytes read
    /// as zero. Fails with [`io::ErrorKind::StorageFull`] when there is not enough.
    fn preallocate(&self, length_bytes: u64) -> Result<()>;

    /// Reads exactly `buffer.len()` bytes at `offset`, or fails with
    /// [`io::ErrorKind::UnexpectedEof`].
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

/// Holds the exclusive lock of a directory until it is dropped.
pub trait DirLock: Send + Sync {}

/// What a disk was asked to do when it failed, and on which file.
#[derive(Debug)]
pub struct Error {
    /// The operation, as a verb: "read", "sync", "rename".
    pub operation: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl Error {
    /// An error of `operation` on `path`.
    pub fn new(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self { operation, path: path.to_path_buf(), source }
    }

    /// The kind of the underlying error.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether the system said that it does not have what was asked for, or not for us; as
    /// opposed to having it and failing. Then there may be another way.
    pub fn is_refusal(&self) -> bool {
        let refusals =
            [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::EINVAL, libc::EOPNOTSUPP, libc::ENOMEM];
        self.source.raw_os_error().is_some_and(|errno| refusals.contains(&errno))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.operation, self.path.display(), self.source)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
