//! varve's log as a contestant: one owner, one batch at a time.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::durable::Backend;
use varve_disk::os::OsDisk;
use varve_wal::{BackendChoice, Batch, Options, Wal};

use super::queue::Batches;

/// Entries that stay in the log; what is older is forgotten, so that files are used again.
const ENTRIES_KEPT: u64 = 10_000;

/// An open log and the batch whose memory is kept.
pub struct VarveLog {
    wal: Wal,
    batch: Batch,
}

impl VarveLog {
    /// Creates or opens it.
    ///
    /// # Errors
    /// When the disk does not have the backend.
    pub fn open(directory: &Path, backend: Backend) -> Result<Self, String> {
        let options = Options { backend: BackendChoice::Only(backend), ..Options::default() };
        let wal = Wal::open(Arc::new(OsDisk::new()), directory, options);
        Ok(Self { wal: wal.map_err(|error| error.to_string())?, batch: Batch::default() })
    }

    /// The log itself.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }
}

impl Batches for VarveLog {
    fn append_batch(&mut self, records: &[Bytes]) {
        self.batch.clear();
        let mut next = self.wal.last_index() + 1;
        for record in records {
            self.batch.entry(next, record.clone());
            next += 1;
        }
        self.wal.append(&self.batch).expect("the disk works");
        if next > self.wal.first_index() + 2 * ENTRIES_KEPT {
            self.wal.truncate_front(next - ENTRIES_KEPT).expect("the disk works");
        }
    }
}
