//! okaywal as a contestant.
//!
//! Why it: of the other logs on crates.io it is one that is meant for a database, takes entries
//! from many threads, and syncs. [`okaywal::EntryWriter::commit`] returns after `fdatasync` of the
//! file (one thread syncs for all that wrote before it) and `fsync` of the directory when the file
//! is new. Others that were looked at buffer in memory and sync when asked, for one thread
//! (`commitlog`), or sync on a schedule (`walcraft`).
//!
//! Its options are its defaults but for the size of files, 64 MiB as varve's instead of 1 MiB, which
//! spares it a directory sync every 768 KiB. Its files are sparse when they are new and used again
//! once a checkpoint, which has nothing to do here, has gone over them.

use std::io;
use std::path::Path;

use bytes::Bytes;
use okaywal::{Configuration, Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};

use super::Log;

const FILE_BYTES: u32 = 64 << 20;

/// An open log.
pub struct OkayLog {
    log: WriteAheadLog,
}

impl OkayLog {
    /// Creates or opens it; entries that it has are not looked at.
    ///
    /// # Errors
    /// What the log says.
    pub fn open(directory: &Path) -> Result<Self, String> {
        Self::open_with(directory, Ignore)
    }

    /// Creates or opens it; entries that it has go to `manager`.
    ///
    /// # Errors
    /// What the log says.
    pub fn open_with(directory: &Path, manager: impl LogManager) -> Result<Self, String> {
        let configuration = Configuration::default_for(directory)
            .preallocate_bytes(FILE_BYTES)
            .checkpoint_after_bytes(u64::from(FILE_BYTES) * 3 / 4);
        let log = configuration.open(manager).map_err(|error| error.to_string())?;
        Ok(Self { log })
    }

    /// Waits for its thread and closes it.
    ///
    /// # Errors
    /// What the log says.
    pub fn close(self) -> io::Result<()> {
        self.log.shutdown()
    }
}

impl Log for OkayLog {
    fn append(&self, _appender: usize, record: &Bytes) {
        self.append_batch(std::slice::from_ref(record));
    }

    fn append_batch(&self, records: &[Bytes]) {
        let mut entry = self.log.begin_entry().expect("the disk works");
        for record in records {
            entry.write_chunk(record).expect("the disk works");
        }
        // Durable on return.
        entry.commit().expect("the disk works");
    }
}

/// Recovers nothing and has nothing to write at a checkpoint.
#[derive(Debug)]
struct Ignore;

impl LogManager for Ignore {
    fn recover(&mut self, _entry: &mut Entry<'_>) -> io::Result<()> {
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _last: EntryId,
        _entries: &mut SegmentReader,
        _log: &WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}
