//! The real disk: files of the operating system.
//!
//! One idea: each trait call is one system call, with nothing cached and nothing retried except
//! after `EINTR`. Data is synced with `fdatasync`, names with `fsync` on the directory, as the
//! crate's "What we assume of a disk" asks for; nothing is synced implicitly.
//!
//! Durable writes, which may go past the page cache, are in `os/durable.rs`; mapped files, and what
//! happens when a page of one is lost, in `os/mapping.rs`.
//! Files of others are read in `os/foreign.rs`.
//!
//! What it does not do: no removal of stale locks (the kernel
//! releases a `flock` when its process dies, so there are none).

mod durable;
mod foreign;
mod mapping;
mod ring;

use std::ffi::CString;
use std::fs::{DirBuilder, OpenOptions, TryLockError};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::durable::{Backend, DurableWriter};
use crate::{Access, DirLock, Disk, Error, File, LOCK_FILE_NAME, Result};

pub use foreign::{Stamp, read_foreign, stamp};
pub use mapping::stop_on_lost_pages;

/// Directories are the owner's only: they hold password hashes and private data.
const DIRECTORY_MODE: u32 = 0o700;
/// Files likewise.
const FILE_MODE: u32 = 0o600;

/// The file system of this machine. Has no state: all instances are the same disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl OsDisk {
    /// The file system of this machine.
    pub fn new() -> Self {
        Self
    }
}

impl Disk for OsDisk {
    fn create(&self, path: &Path) -> Result<Arc<dyn File>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)
            .map_err(|error| Error::new("create", path, error))?;
        Ok(Arc::new(OsFile { file, path: path.to_path_buf() }))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| Error::new("open", path, error))?;
        Ok(Arc::new(OsFile { file, path: path.to_path_buf() }))
    }

    fn open_to_read(&self, path: &Path) -> Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).open(path);
        let file = file.map_err(|error| Error::new("open", path, error))?;
        Ok(Arc::new(OsFile { file, path: path.to_path_buf() }))
    }

    fn open_durable(&self, path: &Path, backend: Backend) -> Result<Box<dyn DurableWriter>> {
        durable::open(path, backend)
    }

    fn backends(&self) -> &'static [Backend] {
        &Backend::ALL
    }

    fn map(&self, path: &Path) -> Result<Bytes> {
        let fail = |error| Error::new("map", path, error);
        let file = OpenOptions::new().read(true).open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if metadata.is_dir() {
            return Err(fail(io::ErrorKind::IsADirectory.into()));
        }
        // mmap refuses a length of zero.
        if metadata.len() == 0 {
            return Ok(Bytes::new());
        }
        mapping::map(&file, path).map_err(fail)
    }

    fn unmap_let_go(&self, files_max: usize) -> usize {
        mapping::unmap_let_go(files_max)
    }

    fn is_resident(&self, bytes: &[u8]) -> bool {
        mapping::is_resident(bytes)
    }

    fn advise(&self, bytes: &[u8], access: Access) {
        mapping::advise(bytes, access);
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        std::fs::hard_link(from, to).map_err(|error| Error::new("link", from, error))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        std::fs::rename(from, to).map_err(|error| Error::new("rename", from, error))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        std::fs::remove_file(path).map_err(|error| Error::new("remove", path, error))
    }

    fn remove_dir_all(&self, dir: &Path) -> Result<()> {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|error| Error::new("remove", dir, error)),
        }
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let fail = |error| Error::new("list", dir, error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(here_if_empty(dir)).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name().into_string().map_err(|name| {
                let what = format!("expected a name in UTF-8, found {name:?}");
                fail(io::Error::new(io::ErrorKind::InvalidData, what))
            })?;
            names.push(name);
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        here_if_empty(path).try_exists().map_err(|error| Error::new("look up", path, error))
    }

    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(here_if_empty(dir))
            .map_err(|error| Error::new("create directory", dir, error))
    }

    #[expect(clippy::disallowed_methods, reason = "this is varve_disk::Disk")]
    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let fail = |error| Error::new("sync directory", dir, error);
        let directory = std::fs::File::open(here_if_empty(dir)).map_err(fail)?;
        if !directory.metadata().map_err(fail)?.is_dir() {
            return Err(fail(io::ErrorKind::NotADirectory.into()));
        }
        // After this, the names in `dir` are durable.
        directory.sync_all().map_err(fail)
    }

    fn space_left(&self, dir: &Path) -> Result<u64> {
        let fail = |error| Error::new("measure the space of", dir, error);
        let path = CString::new(here_if_empty(dir).as_os_str().as_bytes())
            .map_err(|error| fail(error.into()))?;
        let mut statistics = MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: `path` ends in NUL and outlives the call; `statistics` has room for the answer.
        let result = unsafe { libc::statvfs(path.as_ptr(), statistics.as_mut_ptr()) };
        if result != 0 {
            return Err(fail(io::Error::last_os_error()));
        }
        // SAFETY: statvfs returned 0, so it filled in the whole structure.
        let statistics = unsafe { statistics.assume_init() };
        // Blocks free for users without privilege (`f_bavail`), counted in fragments (`f_frsize`).
        Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
    }

    fn lock(&self, dir: &Path) -> Result<Box<dyn DirLock>> {
        let path = dir.join(LOCK_FILE_NAME);
        let fail = |error| Error::new("lock", &path, error);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(fail)?;
        // flock(LOCK_EX | LOCK_NB): owned by the open file, so a second handle in this very
        // process is kept out as well.
        match file.try_lock() {
            Ok(()) => Ok(Box::new(OsDirLock { _file: file })),
            Err(TryLockError::WouldBlock) => Err(fail(io::ErrorKind::WouldBlock.into())),
            Err(TryLockError::Error(error)) => Err(fail(error)),
        }
    }
}

/// The parent of a relative path of one component is the empty path, which means here.
fn here_if_empty(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() { Path::new(".") } else { dir }
}

/// An open file of the operating system.
#[derive(Debug)]
pub struct OsFile {
    file: std::fs::File,
    /// The path that it was opened by; only for errors, a rename does not change it.
    path: PathBuf,
}

impl OsFile {
    fn fail(&self, operation: &'static str, error: io::Error) -> Error {
        Error::new(operation, &self.path, error)
    }
}

impl File for OsFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fail("read", error)),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.file.write_all_at(data, offset).map_err(|error| self.fail("write", error))
    }

    fn sync(&self) -> Result<()> {
        // After this, the bytes and the length of this file are durable; its name is not.
        self.file.sync_data().map_err(|error| self.fail("sync", error))
    }

    fn write_out(&self, end: u64) {
        let end = libc::off64_t::try_from(end).unwrap_or(0);
        // Begins to write what is dirty and drops what is clean: each call drops what the calls
        // before it had written. A hint, so whatever it answers is fine.
        // SAFETY: the descriptor is open for as long as `self.file` lives; no memory is passed.
        let _ = unsafe {
            libc::posix_fadvise64(self.file.as_raw_fd(), 0, end, libc::POSIX_FADV_DONTNEED)
        };
    }

    fn begin_write_out(&self, offset: u64, length_bytes: u64) {
        let to_off = |number: u64| libc::off64_t::try_from(number).unwrap_or(0);
        // A hint, so whatever it answers is fine; a failed write shows at the sync.
        // SAFETY: the descriptor is open for as long as `self.file` lives; no memory is passed.
        let _ = unsafe {
            libc::sync_file_range(
                self.file.as_raw_fd(),
                to_off(offset),
                to_off(length_bytes),
                libc::SYNC_FILE_RANGE_WRITE,
            )
        };
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(|error| self.fail("measure", error))?.len())
    }

    fn set_len(&self, length_bytes: u64) -> Result<()> {
        self.file.set_len(length_bytes).map_err(|error| self.fail("set the length of", error))
    }

    fn preallocate(&self, length_bytes: u64) -> Result<()> {
        let length = libc::off_t::try_from(length_bytes)
            .map_err(|_| self.fail("preallocate", io::ErrorKind::FileTooLarge.into()))?;
        // posix_fallocate refuses a length of zero, which asks for nothing.
        if length == 0 {
            return Ok(());
        }
        loop {
            // SAFETY: the descriptor is open for as long as `self.file` lives; no memory is passed.
            let code = unsafe { libc::posix_fallocate(self.file.as_raw_fd(), 0, length) };
            match code {
                0 => return Ok(()),
                libc::EINTR => {}
                // A file system without reservations: the length is all that can be had, and
                // running out of space shows at the write instead.
                libc::EOPNOTSUPP if self.len()? < length_bytes => {
                    return self.set_len(length_bytes);
                }
                libc::EOPNOTSUPP => return Ok(()),
                _ => return Err(self.fail("preallocate", io::Error::from_raw_os_error(code))),
            }
        }
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|error| self.fail("read", error))
    }
}

/// Holds the `flock` for as long as the file is open.
struct OsDirLock {
    _file: std::fs::File,
}

impl DirLock for OsDirLock {}
