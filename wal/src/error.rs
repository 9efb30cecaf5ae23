//! What can go wrong with a log.

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a log cannot be opened, read or appended to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed. Final: the process stops.
    #[error(transparent)]
    Disk(#[from] varve_disk::Error),
}
