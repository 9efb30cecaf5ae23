//! Durable state: an ordered map from key to versions, newest first; no log of its own.
//!
//! (chapter to be written by the owner of this crate)

mod error;
pub mod db;
pub mod entry;
mod segment;
pub mod table;

pub use db::{Commit, Db, Options, Snapshot, Writer};
pub use entry::{Delta, Entry, KeyRange, Kind, Meta, Revision};
pub use error::{Error, Result};

/// Two ordered maps that share one manifest and one atomic batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keyspace {
    /// User keys: every version is kept down to the compacted revision.
    Kv,
    /// The state machine's own rows: only the newest version is kept.
    Sys,
}
