//! Durable state: an ordered map from key to versions, newest first; no log of its own.
//!
//! # The way of a version
//!
//! ```text
//!  Writer::put -> active memtable -> frozen memtable -> level-0 table -> bottom table
//!                 |---- memory: the caller's log has it ----|---- files ----|
//!                                                  Db::work: flush     merge
//! ```
//!
//! Above a bottom that is large, level-0 tables are first merged among themselves (`pick.rs`).
//!
//! The version number *is* the revision that the caller gives, so no sequence numbers exist beside
//! it, and newer places hold newer versions: a point read stops at the first place that answers.
//! Keys and values live apart (WiscKey, FAST 2016): key tables are small, sorted and resident;
//! values longer than a line are written once into segments and referred to by handle. A merge moves
//! those whose neighbours are dead, and may compress them ([`Options::compression`]).
//!
//! # Three ideas
//!
//! - **Readers pin, nobody waits.** A [`Snapshot`] holds the set of files and memtables of one
//!   moment (`version.rs`) and a bound on what of the youngest memtable it sees (`memtable/`).
//! - **Counts are sums.** Each version carries what it changed in the number of live keys, so a
//!   count adds up index entries of all places without merging them. Dropping versions keeps the
//!   sums (`garbage.rs`).
//! - **A manifest edit is the only commit point** of files (`manifest/`, `worker.rs`). It carries
//!   the caller's mark, so after a crash the caller knows from where to replay its log.
//!
//! # Who waits for whom
//!
//! No read takes a lock that the writer or background work ever holds: a view is an `ArcSwap` load,
//! and behind it everything is immutable or grows by single `Release` stores. `db/tests.rs` reads
//! in all ways while each lock is held.
//!
//! | lock | held by | for |
//! | --- | --- | --- |
//! | worker | [`Db::work`], [`Writer::install`] | a step of background work, disk included |
//! | publish | [`Writer::commit`] when it freezes, `work` | the swap of one pointer |
//! | chunks of a memtable | the writer | getting a chunk of memory, about once a MiB |
//! | pins | [`Db::has_file`], `install`, `work` | transfers, and a look at what is promised before files are removed |
//! | frame cache, 16 parts | a reader of compressed values | a look-up; who finds it taken does without |
//! | removals | `work`; whoever drops the last view of an obsolete file | putting its name on a list |
//! | spare chunks | the writer; whoever drops the last view of a memtable | moving pointers; both only try it |
//!
//! A commit waits for none of the first four but publish. What background work cannot keep up with
//! shows as [`Db::pressure`], and a [`Brake`] makes short pauses of it, long before the writer would
//! have to stop ([`Db::is_writer_ahead`]).
//!
//! # Reading
//!
//! | question | answer |
//! | --- | --- |
//! | one key, now or at a revision | [`Snapshot::get`]; [`Snapshot::get_with`] copies nothing |
//! | a range, either way, with a limit | [`Snapshot::range`], [`Snapshot::range_backward`] |
//! | a range without copies | [`Snapshot::rows`] |
//! | how many keys | [`Snapshot::count`] |
//! | what changed between two revisions | [`Snapshot::history`] |
//!
//! `lsm/examples/tour.rs` uses all of it, from opening to a checkpoint and a reopening.
//!
//! # What it does not do
//!
//! It has no log: what was not flushed is gone after a crash, and the caller replays it. It starts
//! no threads: [`Db::work`] is called by one, or by a simulator. It knows neither Raft nor leases.
//!
//! # Where to start reading
//!
//! [`Snapshot::get`], `Memtable::get`, `Worker::work`, `MergeJob::step`, `Fold::push`,
//! `Manifest::append`.

pub mod db;
pub mod entry;

mod backup;
mod brake;
mod check;
mod checkpoint;
mod error;
mod files;
mod flush;
mod garbage;
mod iter;
mod manifest;
mod memtable;
mod merge;
mod output;
mod pace;
mod pick;
mod row;
mod scrub;
mod segment;
mod snapshot;
pub mod table;
mod version;
mod worker;
mod writer;

pub use brake::Brake;
pub use check::{Report, check_directory};
pub use db::{
    Checkpoint, CheckpointFile, Commit, Compression, Db, Direction, History, Options, Range, Rows,
    Sizes, Snapshot, Values, Work, Writer,
};
pub use entry::{Delta, Entry, KeyRange, Kind, Meta, Revision};
pub use error::{Error, Result};
pub use pace::Pace;
pub use row::RowRef;
pub use scrub::Scrubbed;
pub use varve_disk::trial;
pub use worker::STEP_BYTES;

/// Two ordered maps that share one manifest and one atomic batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keyspace {
    /// User keys: every version is kept down to the compacted revision.
    Kv,
    /// The state machine's own rows: only the newest version is kept.
    Sys,
}
