//! Logs beside one another: the same records, the same file system, one run.
//!
//! One idea: what a log is for is that many wait for one sync. So [`measure`] lets a number of
//! threads append, each waiting until its record is durable before it appends the next one, and
//! what differs between logs is how many records a sync takes and what happens between two syncs.
//!
//! | contestant | who gathers the records of one sync |
//! | --- | --- |
//! | `floor`, `floor-buffered` | nobody: one thread writes as many bytes as all appenders have |
//! | `varve-...` | [`queue::Queue`], as varve's Raft thread does |
//! | `raft-engine` | raft-engine: each appender is a Raft group of its own, as in TiKV |
//! | `raft-engine-queue` | [`queue::Queue`]: one group, as varve has it |
//! | `okaywal` | okaywal |

use std::path::Path;

use bytes::Bytes;
use varve_disk::durable::Backend;

pub mod floor;
pub mod measure;
pub mod okay;
pub mod queue;
pub mod report;
pub mod tikv;
pub mod varve;

/// A log that is open, used from many threads.
pub trait Log: Sync {
    /// Appends one record; durable on return. Appenders are numbered from 0, and one appends from
    /// one thread at a time.
    fn append(&self, appender: usize, record: &Bytes);

    /// Appends records at once; all of them are durable on return.
    fn append_batch(&self, records: &[Bytes]);

    /// Whether one thread writes for all appenders, because there is nothing that gathers.
    fn is_floor(&self) -> bool {
        false
    }
}

/// The most appenders of a run.
pub const APPENDERS_MAX: usize = 1024;

/// Names of all contestants, floors first.
pub fn names() -> Vec<String> {
    let mut names = vec!["floor".to_owned(), "floor-buffered".to_owned()];
    names.extend(Backend::ALL.map(|backend| format!("varve-{backend}")));
    names.extend(["raft-engine", "raft-engine-queue", "okaywal"].map(str::to_owned));
    names
}

/// Opens the contestant of a name in `directory`, which is its own.
///
/// # Errors
/// There is none of this name, or the machine does not have what it needs.
pub fn open(name: &str, directory: &Path) -> Result<Box<dyn Log>, String> {
    std::fs::create_dir_all(directory).map_err(|error| format!("{directory:?}: {error}"))?;
    if let Some(backend) = name.strip_prefix("varve-").and_then(Backend::from_name) {
        return Ok(Box::new(queue::Queue::new(varve::VarveLog::open(directory, backend)?)));
    }
    Ok(match name {
        "floor" => Box::new(floor::Floor::open(directory, true)?),
        "floor-buffered" => Box::new(floor::Floor::open(directory, false)?),
        "raft-engine" => Box::new(tikv::Groups::open(directory)?),
        "raft-engine-queue" => Box::new(queue::Queue::new(tikv::OneGroup::open(directory)?)),
        "okaywal" => Box::new(okay::OkayLog::open(directory)?),
        _ => return Err(format!("no contestant {name}; there are {}", names().join(", "))),
    })
}
