//! What can go wrong with the engine.

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the engine cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed. Final: the process stops.
    #[error(transparent)]
    Disk(#[from] varve_disk::Error),
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
}
