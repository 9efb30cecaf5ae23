//! RocksDB as an ordered map: the C library of the system, as a service would set it up.
//!
//! Options: two background threads, a block cache of 256 MiB, filters of 10 bits a key, LZ4, values
//! from 1 KiB on in blob files with their garbage collected (they are kept apart in varve, too).
//! Reads verify checksums, which is its default. A durable batch is a write with `sync`; others go
//! to its log without a sync.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::composite::{Ordered, RowChange};

const CACHE_BYTES: usize = 256 << 20;
const BLOB_BYTES_MIN: u64 = 1 << 10;
/// How often a wait for background work looks.
const NAP: std::time::Duration = std::time::Duration::from_millis(10);

/// An open database.
pub struct Rocks {
    db: DB,
}

impl Rocks {
    /// Opens or creates it.
    ///
    /// # Errors
    /// What RocksDB says.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let cache = Cache::new_lru_cache(CACHE_BYTES).map_err(|error| error.to_string())?;
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&cache);
        blocks.set_bloom_filter(10.0, false);
        blocks.set_format_version(5);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.increase_parallelism(2);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_block_based_table_factory(&blocks);
        options.set_enable_blob_files(true);
        options.set_min_blob_size(BLOB_BYTES_MIN);
        options.set_enable_blob_gc(true);
        let db = DB::open(&options, directory).map_err(|error| error.to_string())?;
        Ok(Self { db })
    }

    fn number(&self, property: &str) -> u64 {
        self.db.property_int_value(property).ok().flatten().unwrap_or(0)
    }
}

impl Ordered for Rocks {
    const VERIFIES: bool = true;

    fn write(&self, rows: Vec<RowChange>, is_durable: bool) {
        let mut batch = WriteBatch::default();
        for (key, value) in rows {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let mut options = WriteOptions::default();
        // After a write with sync, its log is durable up to here.
        options.set_sync(is_durable);
        self.db.write_opt(batch, &options).expect("RocksDB writes");
    }

    fn walk(
        &self,
        start: &[u8],
        end: &[u8],
        _wants_values: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        let mut options = ReadOptions::default();
        options.set_verify_checksums(true);
        options.set_iterate_upper_bound(end);
        let mut rows = self.db.raw_iterator_opt(options);
        rows.seek(start);
        while let (Some(key), Some(value)) = (rows.key(), rows.value()) {
            if !visit(key, value) {
                return;
            }
            rows.next();
        }
        rows.status().expect("RocksDB reads");
    }

    fn settle(&self) {
        self.db.flush().expect("RocksDB flushes");
        let properties = ["rocksdb.num-running-compactions", "rocksdb.compaction-pending"];
        while properties.iter().any(|property| self.number(property) > 0) {
            std::thread::sleep(NAP);
        }
    }
}
