//! Meaning: the replicated, deterministic state machine. Keys, transactions, leases and members
//! over the engine's multi-version map, with etcd's rules.
//!
//! # Shape
//!
//! [`Store::apply`] is the only writer. It takes one committed entry of the log, which is a batch
//! of commands (`command.rs`), and ends with exactly one commit of the engine, which carries the
//! entry's index and term as its mark: state and position are one write, and an entry is in the
//! engine whole or not at all. [`View`] is the reading side: any number of threads, no lock.
//!
//! ```text
//! entry -> command -> apply -> { kv, txn, compact, lease, member, alarm, auth } -> lsm::Writer, one commit
//!                       |
//!                       +-> Applied { replies, events, leases, compacted }
//! range, stream, history <- View <- lsm::Snapshot
//! ```
//!
//! # Determinism
//!
//! Members that apply the same entries give the same replies and hold the same state. So nothing
//! here sees a clock, a random number, a thread, or the order of a hash map (`clippy.toml` bans
//! them). Time-to-live is data here; who lets a lease expire proposes a command. An error is either
//! a reply, then it follows from the log alone, or an [`Error`], then the member stops.
//!
//! # Revisions
//!
//! The store starts at revision 1. A command that changes a key makes one new revision, however
//! many keys it changes; they are numbered from 0 within it. A command that changes no key makes
//! none.
//!
//! # Who owns which rows
//!
//! `schema` has the layout of all rows: `cluster`, `member/` and `removed/` belong to `member`,
//! `lease/` and `lease_key/` to `lease`, `alarm/` to `alarm`, `downgrade` to `version`, `auth`,
//! `user/` and `role/` to `auth`. Keys of users have the engine's other keyspace to themselves.
//!
//! # Caveats
//!
//! - Ranges within a transaction that writes are read by every member, also by those whose client
//!   did not ask (etcd skips them there).
//! - A first compaction at revision 0 is accepted, as in etcd, but as often as one likes.
//! - The scenarios were compared with etcd 3.7.1, command by command. Where etcd stops its process
//!   (`ignore_value` of a key that the same transaction deletes), this answers.

mod alarm;
mod apply;
mod auth;
mod command;
mod compact;
mod crc32c;
mod error;
mod etcd_rows;
mod export;
mod hash;
mod history;
mod import;
mod kv;
mod lease;
mod mark;
mod member;
mod member_change;
mod range;
mod schema;
mod state;
mod stream;
mod txn;
mod version;
mod view;
mod wire;

pub mod check;
pub mod quota;
pub mod validate;

pub use alarm::{Alarm, AlarmChange};
pub use apply::{Applied, Reply, Store};
pub use auth::{Auth, AuthChange, AuthCommand, AuthReply, Author, PasswordHash, ROOT};
pub use command::{Command, CommandKind, RequestId, decode_batch, encode_batch};
pub use crc32c::Crc32c;
pub use error::{Error, Result};
pub use export::{Export, RowSink};
pub use hash::KvHash;
pub use history::Events;
pub use import::{Import, ImportOutcome, Imported};
pub use lease::{LeaseChange, LeaseId, LeaseInfo};
pub use mark::{Configuration, Mark};
pub use member::{Founding, Member, MemberPublish};
pub use member_change::{MemberChange, VoteChange};
pub use stream::RangeStream;
pub use txn::{LEVELS_MAX as TXN_LEVELS_MAX, TxnDecodeError, decode as decode_txn};
pub use version::{Downgrade, Release};
pub use view::View;
