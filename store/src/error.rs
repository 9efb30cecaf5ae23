//! What stops a state machine.
//!
//! There are two classes of failure, and they never mix. A *deterministic* one is the same on every
//! member, because it follows from the log alone: it is a reply, a [`varve_api::Status`], and the
//! machine goes on. Everything in [`Error`] is the other class: it may be true on this member only
//! (a failing disk, damaged bytes, the wrong directory), so going on would let this member's state
//! drift from its peers. Who receives an `Error` from [`crate::Store::apply`] stops the process.
//!
//! Inside the crate a [`Failure`] carries either class, so that one `?` serves both and the borders
//! decide: `apply` makes replies of the first and returns the second, a reader answers both.

use varve_api::{ApiError, Code, Status};

use crate::wire::Malformed;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why this member cannot go on. Never a reply to a client; see the head of the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory belongs to another cluster.
    #[error("the data belongs to cluster {found:016x}, this member to cluster {expected:016x}")]
    Cluster {
        /// The cluster this member was started for.
        expected: u64,
        /// The cluster whose data is on the disk.
        found: u64,
    },
    /// A committed entry is not a batch of commands.
    #[error("a batch of commands, at byte {offset}: expected {expected}, found {found}")]
    Command {
        /// Where in the batch, in bytes.
        offset: u64,
        /// What a sound batch has there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The engine failed or refused.
    #[error(transparent)]
    Engine(#[from] varve_lsm::Error),
    /// A row of the state machine cannot be understood.
    #[error("row {row}: expected {expected}, found {found}")]
    Row {
        /// The row's key, escaped.
        row: String,
        /// What a sound row has.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl Error {
    /// What is wrong with a command of the log.
    pub(crate) fn in_command(malformed: Malformed) -> Self {
        let Malformed { offset, expected, found } = malformed;
        Self::Command { offset, expected: expected.to_owned(), found }
    }

    /// A damaged row, for the cold path.
    #[cold]
    pub(crate) fn row(key: &[u8], expected: &str, found: impl std::fmt::Debug) -> Self {
        Self::Row {
            row: key.escape_ascii().to_string(),
            expected: expected.to_owned(),
            found: format!("{found:?}"),
        }
    }
}

/// Why a command or a read has no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The same on every member: the client hears it.
    Refused(Status),
    /// Perhaps true here only: the member stops.
    Fatal(Error),
}

/// A result inside the crate, see [`Failure`].
pub(crate) type Outcome<T> = std::result::Result<T, Failure>;

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl From<varve_lsm::Error> for Failure {
    fn from(error: varve_lsm::Error) -> Self {
        Self::Fatal(error.into())
    }
}

/// What a reader's client hears: data that cannot be read is lost as far as this member knows.
impl From<Error> for Status {
    #[cold]
    fn from(error: Error) -> Self {
        Status::new(Code::DataLoss, error.to_string())
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(status) => status,
            Failure::Fatal(error) => error.into(),
        }
    }
}
