//! What can go wrong with the engine.
//!
//! Two kinds are final for the process: the disk failed, or it gave back something else than was
//! written; that one names the place, so that an operator can look at it. The third is the answer
//! to a reader who asked not to wait. A breach of this crate's contract by its caller is no error
//! but a panic.

use std::path::Path;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the engine cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bytes on the disk are not what was written.
    #[error("{file} at offset {offset}: expected {expected}, found {found}")]
    Corrupt {
        /// The file's path.
        file: String,
        /// Where in the file, in bytes.
        offset: u64,
        /// What a sound file has there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A value is not in memory, and the snapshot is one that does not wait for the disk (see
    /// [`Db::snapshot_of_residents`](crate::Db::snapshot_of_residents)). Nothing is wrong: read it
    /// with an ordinary snapshot, on a thread that may wait.
    #[error("the value is not in memory, and the read was not to wait for it")]
    NotResident,
    /// The disk failed. Final: the process stops.
    #[error(transparent)]
    Disk(#[from] varve_disk::Error),
}

impl Error {
    /// The file at `path` has `found` at `offset`, where a sound one has `expected`.
    #[cold]
    pub(crate) fn corrupt(
        path: &Path,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        let file = path.display().to_string();
        Self::Corrupt { file, offset, expected: expected.into(), found: found.into() }
    }
}
