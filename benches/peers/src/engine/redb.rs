//! redb as an ordered map: a copy-on-write B-tree.
//!
//! Options: a cache of 1 GiB, which is its default. A durable batch is a commit with
//! `Durability::Immediate`; others are commits with `Durability::None`, and every thousandth one is
//! durable, for until then no page that was given up can be used again.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::composite::{Ordered, RowChange};

const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
const CACHE_BYTES: usize = 1 << 30;
const COMMITS_PER_SYNC: u64 = 1000;

/// An open database with one table.
pub struct Redb {
    db: Database,
    commits: AtomicU64,
}

impl Redb {
    /// Opens or creates it.
    ///
    /// # Errors
    /// What redb says.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let created =
            Database::builder().set_cache_size(CACHE_BYTES).create(directory.join("redb"));
        let db = created.map_err(|error| error.to_string())?;
        let opened = Self { db, commits: AtomicU64::new(0) };
        // So that the table exists.
        opened.write(Vec::new(), true);
        Ok(opened)
    }
}

impl Ordered for Redb {
    const VERIFIES: bool = false;

    fn write(&self, rows: Vec<RowChange>, is_durable: bool) {
        let mut transaction = self.db.begin_write().expect("redb begins");
        let commits = self.commits.fetch_add(1, Ordering::Relaxed);
        let is_due = commits.is_multiple_of(COMMITS_PER_SYNC);
        let is_durable = is_durable || is_due;
        let durability = if is_durable { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).expect("there is no savepoint");
        {
            let mut table = transaction.open_table(ROWS).expect("redb opens the table");
            for (key, value) in &rows {
                match value {
                    Some(value) => table.insert(key.as_slice(), value.as_slice()),
                    None => table.remove(key.as_slice()),
                }
                .expect("redb writes");
            }
        }
        transaction.commit().expect("redb commits");
    }

    fn walk(
        &self,
        start: &[u8],
        end: &[u8],
        wants_values: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        let transaction = self.db.begin_read().expect("redb begins");
        let table = transaction.open_table(ROWS).expect("redb opens the table");
        for row in table.range(start..end).expect("redb reads") {
            let (key, value) = row.expect("redb reads");
            let value = if wants_values { value.value() } else { &[] };
            if !visit(key.value(), value) {
                return;
            }
        }
    }

    fn settle(&self) {
        self.write(Vec::new(), true);
    }
}
