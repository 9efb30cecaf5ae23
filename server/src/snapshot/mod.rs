//! Backups in etcd's format, both ways: the `Snapshot` call, and the commands `varve snapshot
//! restore` and `varve snapshot status`.
//!
//! ```text
//! save      lsm snapshot -> store::Export -> bolt::Builder -> pieces + SHA-256 -> client
//! restore   file -> hash -> bolt::Reader -> store::Import -> engine, empty log, identity
//! ```
//!
//! One idea: `store` knows etcd's rows, `bolt` knows the file, and this puts one behind the other.
//! Both ways stream: memory does not grow with the database.
//!
//! What it does not do: read an etcd's log. A database that etcd was killed over lacks what was only
//! in its log; of a running etcd one asks for a snapshot.

pub mod command;
mod file;
mod restore;
pub mod save;
mod status;
