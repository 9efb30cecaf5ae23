//! What ends the server: at start with a clear sentence, later as a fatal error.

/// Why the server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory holds something else, or something newer.
    #[error("{0}")]
    DataDir(String),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] varve_disk::Error),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] varve_lsm::Error),
    /// An address cannot be listened on, a thread cannot be started.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] varve_wal::Error),
    /// Raft failed.
    #[error(transparent)]
    Raft(#[from] varve_raftnode::Error),
    /// A read of the state machine failed.
    #[error("cannot read the state machine: {0}")]
    Read(varve_api::Status),
    /// This member was removed from its cluster.
    #[error("{}", crate::peer::frame::REMOVED)]
    Removed,
    /// The state machine failed.
    #[error(transparent)]
    Store(#[from] varve_store::Error),
}

impl From<varve_api::Status> for Error {
    fn from(status: varve_api::Status) -> Self {
        Self::Read(status)
    }
}

/// Ends the process: what must not go on after an error. Nothing is acknowledged afterwards, and a
/// restart recovers from what is durable.
pub fn fatal(what: &str, error: &dyn std::error::Error) -> ! {
    tracing::error!(error = %error, "{what}; stopping");
    // The log line must be out before the process is gone.
    std::process::exit(1);
}
