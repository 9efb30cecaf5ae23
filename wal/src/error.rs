//! What can go wrong with a log, and whose fault it is.
//!
//! Three sorts: the disk failed ([`Error::Disk`]), what the disk holds is not what was written
//! ([`Error::Damaged`], [`Error::MissingSegment`]) or not for us ([`Error::IdentityMismatch`],
//! [`Error::UnknownVersion`], [`Error::UnknownCoding`]), and the caller asked for what cannot be had
//! ([`Error::NotInLog`], [`Error::Poisoned`], [`Error::TooLarge`]). Errors of the first two sorts
//! stop the process.

use std::path::{Path, PathBuf};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a log cannot be opened, read or appended to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bytes that were acknowledged as durable are not there any more. The log is left as it is.
    #[error(
        "log damaged: {} at offset {offset}: expected {expected}, found {found}; nothing was \
         changed; `varve-wal check` lists all damage; do not delete or edit the log: remove this member from its cluster and add it \
         again with an empty data directory, or restore a backup if it is the only member",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What an undamaged log has there.
        expected: String,
        /// What was read.
        found: String,
    },

    /// The disk failed. Final: the process stops.
    #[error(transparent)]
    Disk(#[from] varve_disk::Error),

    /// The directory holds the log of somebody else.
    #[error(
        "{} belongs to another log: expected identity {}, found {}; check the data directory",
        path.display(), hexadecimal(expected), hexadecimal(found)
    )]
    IdentityMismatch {
        /// The file.
        path: PathBuf,
        /// The identity that was asked for.
        expected: [u8; 16],
        /// The identity in the file.
        found: [u8; 16],
    },

    /// A segment file between two others, or all of them, is gone.
    #[error(
        "log incomplete: {} is missing ({found}); put the file back, or rebuild this member from \
         its peers",
        path.display()
    )]
    MissingSegment {
        /// The file that should be there.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },

    /// Entries were asked for that were forgotten already or were never appended.
    #[error("entries {low}..{high} are not in the log, which holds {first}..{next}")]
    NotInLog {
        /// First index asked for.
        low: u64,
        /// Index after the last one asked for.
        high: u64,
        /// First index of the log.
        first: u64,
        /// Index after the last one of the log.
        next: u64,
    },

    /// An earlier call failed, so nobody knows what is on the disk: the log takes no more.
    #[error("the log failed earlier and takes no more; restart the process")]
    Poisoned,

    /// A batch is larger than a frame can be. Nothing was written, the log goes on.
    #[error("batch of {found} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Bytes of the batch's frame.
        found: u64,
        /// Bytes that a frame may have.
        limit: u64,
    },

    /// A frame was stored in a way that only a newer varve knows.
    #[error(
        "{} has a frame of coding {found} at offset {offset}, this program knows up to \
         {expected}; run the newer program",
        path.display()
    )]
    UnknownCoding {
        /// The file.
        path: PathBuf,
        /// Where the frame begins, in bytes.
        offset: u64,
        /// The newest coding that this program knows.
        expected: u16,
        /// The coding of the frame.
        found: u16,
    },

    /// The file was written by a newer varve, or by one from before the first release.
    #[error(
        "{} has format version {found}, this program reads version {expected}; run the program \
         that wrote it",
        path.display()
    )]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version that this program reads.
        expected: u32,
        /// The version in the file.
        found: u32,
    },
}

impl Error {
    /// Damage of `path` at `offset`.
    #[cold]
    pub(crate) fn damaged(
        path: &Path,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Damaged {
            path: path.to_path_buf(),
            offset,
            expected: expected.into(),
            found: found.into(),
        }
    }
}

fn hexadecimal(identity: &[u8; 16]) -> String {
    identity.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_names_file_offset_expected_and_found() {
        let error = Error::damaged(Path::new("/log/1.wal"), 4096, "a frame", "zeros");
        let text = error.to_string();
        for part in ["/log/1.wal", "4096", "a frame", "zeros", "add it again"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }

    #[test]
    fn a_wrong_identity_names_both() {
        let error = Error::IdentityMismatch {
            path: PathBuf::from("x"),
            expected: [0x11; 16],
            found: [0xab; 16],
        };
        let text = error.to_string();
        assert!(text.contains(&"11".repeat(16)) && text.contains(&"ab".repeat(16)), "{text}");
    }
}
