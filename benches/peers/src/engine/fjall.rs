//! fjall as an ordered map.
//!
//! Options: its defaults (LZ4, filters, two workers here), a cache of 256 MiB, and values from its
//! own threshold on apart (they are kept apart in varve, too). Reads verify checksums always. A
//! durable batch persists its journal with `fdatasync`.

use std::path::Path;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};

use super::composite::{Ordered, RowChange};

const CACHE_BYTES: u64 = 256 << 20;
/// How often a wait for background work looks.
const NAP: Duration = Duration::from_millis(10);
/// Nothing was going on for so many looks: it is over.
const LOOKS: usize = 5;

/// An open database with one keyspace.
pub struct Fjall {
    db: Database,
    rows: Keyspace,
}

impl Fjall {
    /// Opens or creates it.
    ///
    /// # Errors
    /// What fjall says.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let builder = Database::builder(directory).cache_size(CACHE_BYTES).worker_threads(2);
        let db = builder.open().map_err(|error| error.to_string())?;
        let apart = KvSeparationOptions::default();
        let options = || KeyspaceCreateOptions::default().with_kv_separation(Some(apart));
        let rows = db.keyspace("rows", options).map_err(|error| error.to_string())?;
        Ok(Self { db, rows })
    }
}

impl Ordered for Fjall {
    const VERIFIES: bool = true;

    fn write(&self, rows: Vec<RowChange>, is_durable: bool) {
        let mode = is_durable.then_some(PersistMode::SyncData);
        let mut batch = self.db.batch().durability(mode);
        for (key, value) in rows {
            match value {
                Some(value) => batch.insert(&self.rows, key, value),
                None => batch.remove(&self.rows, key),
            }
        }
        batch.commit().expect("fjall writes");
    }

    fn walk(
        &self,
        start: &[u8],
        end: &[u8],
        wants_values: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        for row in self.rows.range(start..end) {
            let goes_on = if wants_values {
                let (key, value) = row.into_inner().expect("fjall reads");
                visit(&key, &value)
            } else {
                visit(&row.key().expect("fjall reads"), &[])
            };
            if !goes_on {
                return;
            }
        }
    }

    fn settle(&self) {
        self.rows.rotate_memtable_and_wait().expect("fjall flushes");
        let mut quiet = 0;
        while quiet < LOOKS {
            let is_busy = self.db.outstanding_flushes() > 0 || self.db.active_compactions() > 0;
            quiet = if is_busy { 0 } else { quiet + 1 };
            std::thread::sleep(NAP);
        }
    }
}
