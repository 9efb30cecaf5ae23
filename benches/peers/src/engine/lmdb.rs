//! LMDB as an ordered map, through heed: a copy-on-write B-tree in a memory map.
//!
//! Options: its defaults. Where batches are durable a commit syncs; where they are not the
//! environment is opened with `NO_SYNC`, since that is chosen at open. It has no checksums:
//! `composite.rs` adds those of values, and nothing verifies keys.

use std::ops::Bound;
use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, WithTls};

use super::composite::{Ordered, RowChange};

/// Address space, not memory or disk.
const MAP_BYTES: usize = 256 << 30;

/// An open environment with one database.
pub struct Lmdb {
    environment: Env<WithTls>,
    rows: Database<'static, Bytes, Bytes>,
    is_durable: bool,
}

impl Lmdb {
    /// Opens or creates it. Only if `is_durable` can batches be.
    ///
    /// # Errors
    /// What LMDB says.
    pub fn open(directory: &Path, is_durable: bool) -> Result<Self, String> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES).max_dbs(1);
        if !is_durable {
            // SAFETY: without syncs a crash of the machine may damage the file, and nobody opens
            // it after one: the directory is of this run.
            unsafe { options.flags(EnvFlags::NO_SYNC) };
        }
        // SAFETY: the directory is of this process, and nobody else opens or changes the file.
        let environment = unsafe { options.open(directory) }.map_err(|error| error.to_string())?;
        let fail = |error: heed::Error| error.to_string();
        let transaction = environment.write_txn().map_err(fail)?;
        let created =
            environment.create_databases_and_commit(transaction, |opener, transaction| {
                let rows = opener.create_database(transaction, Some("rows"))?;
                Ok(CommitOrAbort::<_, ()>::Commit(rows))
            });
        let rows = created.map_err(fail)?.unwrap_commit();
        Ok(Self { environment, rows, is_durable })
    }
}

impl Ordered for Lmdb {
    const VERIFIES: bool = false;

    fn write(&self, rows: Vec<RowChange>, is_durable: bool) {
        assert!(self.is_durable || !is_durable, "opened without syncs");
        let mut transaction = self.environment.write_txn().expect("LMDB begins");
        for (key, value) in &rows {
            match value {
                Some(value) => {
                    self.rows.put(&mut transaction, key, value).expect("LMDB writes");
                }
                None => {
                    self.rows.delete(&mut transaction, key).expect("LMDB writes");
                }
            }
        }
        transaction.commit().expect("LMDB commits");
    }

    fn walk(
        &self,
        start: &[u8],
        end: &[u8],
        _wants_values: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        let transaction = self.environment.read_txn().expect("LMDB begins");
        let range = (Bound::Included(start), Bound::Excluded(end));
        for row in self.rows.range(&transaction, &range).expect("LMDB reads") {
            let (key, value) = row.expect("LMDB reads");
            if !visit(key, value) {
                return;
            }
        }
    }

    fn settle(&self) {
        self.environment.force_sync().expect("LMDB syncs");
    }
}
