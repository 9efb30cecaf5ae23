//! Engines beside one another: what an etcd asks of its storage, with the same batches, the same
//! revisions and the same answers.
//!
//! One idea: an [`Engine`] is a store of versions as etcd needs it. varve's engine is one as it is.
//! The others are ordered maps; [`composite::Composite`] makes of each what an etcd on it would:
//! rows `(key, inverted revision)`, so that a read at any revision is one seek, and a list is one
//! walk that skips older versions. Keys never contain a zero byte, so rows sort as their keys.
//!
//! Every put first reads what the key had, because etcd must (create revision and version).
//!
//! | contestant | durable batch | checksums that reads verify |
//! | --- | --- | --- |
//! | `varve` | its log, one sync; then the engine | all |
//! | `rocksdb` | write-ahead log, one sync | all |
//! | `fjall` | journal, one sync | all |
//! | `redb` | one commit, two syncs | of values, by `composite.rs`: its own serve repairs only |
//! | `lmdb` | one commit, two syncs | of values, by `composite.rs`: it has none |

use std::path::Path;

use bytes::Bytes;
use varve_benches::workload::{Workload, kubernetes_key};

pub mod agree;
pub mod composite;
pub mod fjall;
pub mod ingest;
pub mod larger;
pub mod lmdb;
pub mod redb;
pub mod report;
pub mod rocks;
pub mod rows;
pub mod trace;
pub mod varve;

/// As in etcd, where 1 is an empty store.
const FIRST_REVISION: u64 = 2;

/// One change of a batch; each has a revision of its own.
#[derive(Clone, Debug)]
pub enum Change {
    /// Key and value.
    Put(Bytes, Bytes),
    /// A key; nothing happens when it is not there.
    Delete(Bytes),
}

impl Change {
    /// Bytes of key and value.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Put(key, value) => (key.len() + value.len()) as u64,
            Self::Delete(key) => key.len() as u64,
        }
    }
}

/// Bytes that etcd keeps beside a value: create revision, version, lease.
pub const META_BYTES: usize = 24;

/// A store of versions; one writer, many readers.
pub trait Engine: Send + Sync {
    /// Applies changes with revisions from `first` on. If `is_durable`, it survives any crash on
    /// return; readers see all of it on return.
    fn apply(&self, first: u64, changes: &[Change], is_durable: bool);

    /// The value of a key at a revision.
    fn get(&self, key: &[u8], at: u64) -> Option<Bytes>;

    /// As [`Engine::get`], or `None` if that would have to wait for a disk. Who cannot tell waits.
    fn get_resident(&self, key: &[u8], at: u64) -> Option<Option<Bytes>> {
        Some(self.get(key, at))
    }

    /// Up to `limit` live keys of `start..end` at a revision, in key order, to `visit`; returns how
    /// many. Without `wants_values` the values that `visit` gets may be empty.
    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        at: u64,
        limit: u64,
        wants_values: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> u64;

    /// The number of live keys of `start..end` at a revision.
    fn count(&self, start: &[u8], end: &[u8], at: u64) -> u64;

    /// Gives up versions that no read at `revision` or later can see.
    fn compact(&self, revision: u64);

    /// Holds a view of all that is there until it is dropped; `None` if that is not measured.
    fn hold(&self) -> Option<Box<dyn std::any::Any>> {
        None
    }

    /// Brings what is in memory to files and waits until background work is done.
    fn settle(&self);
}

/// Puts `keys`, the `n`th with value `n`, in an order that is not theirs, `batch` at a time, and lets
/// background work end. Returns the next revision.
pub fn fill(engine: &dyn Engine, workload: &Workload, keys: u64, batch: u64) -> u64 {
    let mut next = FIRST_REVISION;
    for first in (0..keys).step_by(batch as usize) {
        let numbers = first..keys.min(first + batch);
        let put = |n| Change::Put(kubernetes_key(n).into(), workload.value(n));
        let changes: Vec<Change> = numbers.map(put).collect();
        engine.apply(next, &changes, false);
        next += changes.len() as u64;
    }
    engine.settle();
    next
}

/// Names of all contestants, ours first.
pub const NAMES: [&str; 5] = ["varve", "rocksdb", "fjall", "redb", "lmdb"];

/// Opens or creates the engine of a name in `directory`. Where durability is chosen at open, it is
/// by `is_durable`.
///
/// # Errors
/// There is none of this name, or what the engine says.
pub fn open(name: &str, directory: &Path, is_durable: bool) -> Result<Box<dyn Engine>, String> {
    std::fs::create_dir_all(directory).map_err(|error| format!("{directory:?}: {error}"))?;
    Ok(match name {
        "varve" => Box::new(varve::Varve::open(directory)?),
        "rocksdb" => Box::new(composite::Composite::new(rocks::Rocks::open(directory)?)),
        "fjall" => Box::new(composite::Composite::new(fjall::Fjall::open(directory)?)),
        "redb" => Box::new(composite::Composite::new(redb::Redb::open(directory)?)),
        "lmdb" => Box::new(composite::Composite::new(lmdb::Lmdb::open(directory, is_durable)?)),
        _ => return Err(format!("no engine {name}; there are {}", NAMES.join(", "))),
    })
}
