//! What can go wrong with a node.

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a node cannot start, go on, or take a message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log failed. Final: the process stops.
    #[error(transparent)]
    Wal(#[from] varve_wal::Error),
}
