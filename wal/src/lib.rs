//! Durable order: an append-only log of indexed entries and a latest state.
//!
//! (chapter to be written by the owner of this crate)

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::Disk;

mod error;

pub use error::{Error, Result};

/// Limits and identity of a log.
#[derive(Clone, Debug)]
pub struct Options {
    /// Identity of the log (cluster and node); a directory with another identity is refused.
    pub identity: [u8; 16],
    /// Size of one segment file.
    pub segment_bytes: u64,
    /// Upper bound of the recent entries kept in memory for read-back.
    pub cache_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { identity: [0; 16], segment_bytes: 64 << 20, cache_bytes_max: 64 << 20 }
    }
}

/// What is appended together: becomes one frame, one write, one sync. All of it survives a crash
/// or none of it does.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    // owner's choice
}

impl Batch {
    /// Adds an entry. Indexes within a batch are consecutive. An index at or below the last one
    /// of the log cuts the log there first (a Raft follower replacing a conflicting tail).
    pub fn entry(&mut self, index: u64, payload: Bytes) {
        let _ = (index, payload);
        todo!()
    }

    /// Sets the latest state, an opaque value (for Raft: term, vote, commit).
    pub fn state(&mut self, payload: Bytes) {
        let _ = payload;
        todo!()
    }

    /// Empties the log: all entries are forgotten and the next index is `next_index`. What follows
    /// a snapshot that was installed. Comes first in its batch.
    pub fn reset(&mut self, next_index: u64) {
        let _ = next_index;
        todo!()
    }

    /// Whether there is nothing to append.
    pub fn is_empty(&self) -> bool {
        todo!()
    }
}

/// An open log. One owner, one thread: the Raft thread.
pub struct Wal {
    // owner's choice
}

impl Wal {
    /// Opens or creates the log in `dir` and recovers it. A fresh log has first index 1.
    ///
    /// # Errors
    /// Damage of acknowledged data, another identity or an unknown version refuse the start and
    /// name the file, the offset, what was expected and what was found.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<Self> {
        let _ = (disk, dir, options);
        todo!()
    }

    /// Appends a batch; on return all of it is durable. An error is final.
    pub fn append(&mut self, batch: &Batch) -> Result<()> {
        let _ = batch;
        todo!()
    }

    /// The latest state.
    pub fn state(&self) -> Option<&Bytes> {
        todo!()
    }

    /// Index of the oldest entry that can be read; `last_index() + 1` when there is none.
    pub fn first_index(&self) -> u64 {
        todo!()
    }

    /// Index of the newest entry; `first_index() - 1` when there is none.
    pub fn last_index(&self) -> u64 {
        todo!()
    }

    /// Entries `low..high` (at least one, then as many as fit `bytes_max`), from the cache or the
    /// files.
    pub fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Bytes>> {
        let _ = (low, high, bytes_max);
        todo!()
    }

    /// Forgets entries up to and including `through`; files are recycled or removed when all of
    /// their entries are forgotten. Nothing is lost when a crash undoes it.
    pub fn truncate_front(&mut self, through: u64) -> Result<()> {
        let _ = through;
        todo!()
    }

    /// Bytes of the log's files on disk.
    pub fn disk_bytes(&self) -> u64 {
        todo!()
    }
}
