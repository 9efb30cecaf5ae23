//! What can go wrong with a node.
//!
//! Bytes from disks and peers that are not what they should be become an [`Error`] that says what
//! was expected and what was found. A broken rule of our own is an `assert!` instead.

use crate::{Applied, Index, NodeId, Term};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a node cannot start, go on, or take a message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration or the membership it is given cannot work.
    #[error("raft configuration: {reason}")]
    Config {
        /// What does not fit.
        reason: String,
    },
    /// The log and the state machine hold different histories: one of them was damaged or comes
    /// from another node. The node must be rebuilt from its peers.
    #[error(
        "the log has term {log_term:?} at {index:?} and calls it committed, \
         the state machine has term {applied_term:?}"
    )]
    Disagreement {
        /// What both have.
        index: Index,
        /// The term in the log.
        log_term: Term,
        /// The term in the state machine.
        applied_term: Term,
    },
    /// The log begins after what the state machine has applied: entries in between are missing.
    #[error("the log begins at {first:?}, the state machine ends at {applied:?}: a gap")]
    Gap {
        /// First index that the log has.
        first: Index,
        /// Last index that the state machine has.
        applied: Index,
    },
    /// An entry of the log cannot be read. Final: the process stops.
    #[error("log entry {index:?}: {source}")]
    LogEntry {
        /// Its position.
        index: Index,
        /// What is wrong with its bytes.
        source: Box<Error>,
    },
    /// Bytes that do not follow the format.
    #[error("{what}: expected {expected}, found {found}")]
    Malformed {
        /// Which record or message.
        what: &'static str,
        /// What the format asks for.
        expected: String,
        /// What was there.
        found: String,
    },
    /// A sound proposal that cannot be taken at this moment: this node does not lead, hands
    /// leadership over, or has too much uncommitted. Nothing has changed; it may be tried again.
    #[error("message from {from:?} refused: {reason}")]
    NotNow {
        /// The carrier's peer.
        from: NodeId,
        /// What is in the way.
        reason: String,
    },
    /// A message that is well formed but must not be taken; nothing has changed.
    #[error("message from {from:?} refused: {reason}")]
    Refused {
        /// The carrier's peer.
        from: NodeId,
        /// Which rule it breaks.
        reason: String,
    },
    /// The log failed. Final: the process stops.
    #[error(transparent)]
    Wal(#[from] varve_wal::Error),
    /// Another snapshot was confirmed than the one that was announced.
    #[error("snapshot {announced:?} was announced for installation, {confirmed:?} was confirmed")]
    WrongSnapshot {
        /// What [`crate::Output::install`] asked for; none if nothing was asked for.
        announced: Option<Box<Applied>>,
        /// What [`crate::Node::snapshot_installed`] was told.
        confirmed: Box<Applied>,
    },
}
