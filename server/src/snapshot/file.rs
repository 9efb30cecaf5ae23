//! A backup file, or the database in the data directory of a stopped etcd, opened to be read.
//!
//! One idea: a backup is a database, whose length is a multiple of 512, and 32 bytes with its
//! SHA-256; what has no such tail is a database that somebody copied, and is believed only when
//! asked to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use varve_bolt::Source;
use varve_disk::{Disk, File};

/// Bytes of the hash behind the database.
const HASH_BYTES: u64 = 32;
/// The database's length is a multiple of it.
const SECTOR_BYTES: u64 = 512;
/// Bytes hashed at a time.
const HASHED_BYTES: u64 = 1 << 20;

/// An open file.
pub struct Backup {
    path: PathBuf,
    file: Arc<dyn File>,
    /// Of the database, without the hash.
    database_bytes: u64,
    has_hash: bool,
    is_data_dir: bool,
}

impl Backup {
    /// Opens a backup, or `member/snap/db` in a data directory of etcd.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self, String> {
        let in_data_dir = path.join("member").join("snap").join("db");
        let is_data_dir = disk.exists(&in_data_dir).unwrap_or(false);
        let path = if is_data_dir { in_data_dir } else { path.to_path_buf() };
        let name = |error: varve_disk::Error| format!("cannot open {}: {error}", path.display());
        let file = disk.open_to_read(&path).map_err(name)?;
        let length = file.len().map_err(name)?;
        let has_hash = !is_data_dir && length % SECTOR_BYTES == HASH_BYTES;
        let database_bytes = if has_hash { length - HASH_BYTES } else { length };
        Ok(Self { path, file, database_bytes, has_hash, is_data_dir })
    }

    /// The file that is read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the database is as it was when it was saved. Reads everything.
    ///
    /// # Errors
    /// There is no hash to tell, or another one.
    pub fn check_hash(&self) -> Result<(), String> {
        if self.is_data_dir {
            return Ok(());
        }
        if !self.has_hash {
            return Err(format!(
                "{}: snapshot missing hash but --skip-hash-check=false: expected {HASH_BYTES} \
                 bytes behind a multiple of {SECTOR_BYTES}, found {} bytes; it is truncated, or a \
                 copy of a database",
                self.path.display(),
                self.database_bytes
            ));
        }
        let failed = |error: io::Error| format!("cannot read {}: {error}", self.path.display());
        let mut hash = Context::new(&SHA256);
        let mut buffer = vec![0; HASHED_BYTES as usize];
        let mut offset = 0;
        while offset < self.database_bytes {
            let length = HASHED_BYTES.min(self.database_bytes - offset);
            let part = &mut buffer[..length as usize];
            self.read_at(offset, part).map_err(failed)?;
            hash.update(part);
            offset += length;
        }
        let mut expected = [0; HASH_BYTES as usize];
        self.read_at(self.database_bytes, &mut expected).map_err(failed)?;
        let found = hash.finish();
        if found.as_ref() != expected {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let (expected, found): (String, String) = (hex(&expected), hex(found.as_ref()));
            return Err(format!(
                "{}: expected sha256 {expected}, got {found}: the file is damaged",
                self.path.display()
            ));
        }
        Ok(())
    }
}

impl Source for &Backup {
    fn len(&self) -> u64 {
        self.database_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (*self).read_at(offset, buffer)
    }
}

impl Backup {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let read = self.file.read_exact_at(offset, buffer);
        read.map_err(|error| io::Error::new(error.kind(), error.to_string()))
    }
}
