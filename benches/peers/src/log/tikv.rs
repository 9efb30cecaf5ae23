//! TiKV's raft-engine as a contestant, in two ways of use.
//!
//! [`Groups`] is how TiKV uses it: each appender is a Raft group of its own, all of them write at
//! once, and the engine makes groups of writers whose leader writes and syncs for all. [`OneGroup`]
//! is how a store with one Raft group would use it: a queue in front, one batch at a time.
//!
//! Its options are its defaults (files of 128 MiB, `fdatasync` after each group of writers, LZ4 for
//! batches above 8 KiB, recovery in 4 threads, recycling) but for two, which show it as it is after
//! hours instead of in its first seconds: files are filled before (`prefill_for_recycle`), and old
//! ones are used again from 256 MiB on instead of 10 GiB. Entries are compacted and files purged
//! once a second; TiKV does it every ten. What it does beyond a log, and pays for: an index in
//! memory of the entries of many groups, and rewriting entries of groups that lag.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use raft_proto::eraftpb::Entry;

use super::queue::Batches;
use super::{APPENDERS_MAX, Log};

/// Where old files begin to be used again.
const PURGE_BYTES: u64 = 256 << 20;
/// How often old entries are given up.
const PURGE_EVERY: Duration = Duration::from_secs(1);
/// Entries of a group that are kept.
const ENTRIES_KEPT: u64 = 1000;

/// Entries as the engine wants them.
pub struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// The engine, its groups, and a thread that purges.
struct Shared {
    engine: Arc<Engine>,
    /// The last index of each group.
    lasts: Arc<Vec<AtomicU64>>,
    is_over: Arc<AtomicBool>,
    purger: Option<JoinHandle<()>>,
}

impl Shared {
    fn open(directory: &Path, groups: usize) -> Result<Self, String> {
        let engine = Arc::new(open_engine(directory)?);
        let last = |group| engine.last_index(group as u64 + 1).unwrap_or(0);
        let lasts: Vec<AtomicU64> = (0..groups).map(|group| AtomicU64::new(last(group))).collect();
        let lasts = Arc::new(lasts);
        let is_over = Arc::new(AtomicBool::new(false));
        let purger = std::thread::spawn({
            let (engine, lasts, is_over) = (engine.clone(), lasts.clone(), is_over.clone());
            move || {
                while !is_over.load(Ordering::Acquire) {
                    std::thread::park_timeout(PURGE_EVERY);
                    purge(&engine, &lasts);
                }
            }
        });
        Ok(Self { engine, lasts, is_over, purger: Some(purger) })
    }

    /// Appends records to a group; durable on return.
    fn append(&self, group: usize, records: &[Bytes], batch: &mut LogBatch) {
        let last = self.lasts[group].load(Ordering::Relaxed);
        let entries: Vec<Entry> = (last + 1..)
            .zip(records)
            .map(|(index, record)| Entry { index, data: record.clone(), ..Entry::default() })
            .collect();
        let added = batch.add_entries::<Entries>(group as u64 + 1, &entries);
        added.expect("entries are consecutive");
        // After this, the entries are durable: `true` asks for a sync.
        self.engine.write(batch, true).expect("the disk works");
        self.lasts[group].store(last + entries.len() as u64, Ordering::Relaxed);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(purger) = self.purger.take() {
            purger.thread().unpark();
            // A purger that panicked has said so.
            _ = purger.join();
        }
    }
}

/// Opens or creates the engine in `directory`.
///
/// # Errors
/// What the engine says.
pub fn open_engine(directory: &Path) -> Result<Engine, String> {
    let config = Config {
        dir: directory.to_str().ok_or("a directory whose name is UTF-8")?.to_owned(),
        purge_threshold: ReadableSize(PURGE_BYTES),
        prefill_for_recycle: true,
        ..Config::default()
    };
    Engine::open(config).map_err(|error| error.to_string())
}

fn purge(engine: &Engine, lasts: &[AtomicU64]) {
    for (group, last) in lasts.iter().enumerate() {
        let last = last.load(Ordering::Relaxed);
        if last > 2 * ENTRIES_KEPT {
            engine.compact_to(group as u64 + 1, last - ENTRIES_KEPT);
        }
    }
    engine.purge_expired_files().expect("the disk works");
}

/// A group for each appender.
pub struct Groups {
    shared: Shared,
    batches: Vec<Mutex<LogBatch>>,
}

impl Groups {
    /// Creates or opens it.
    ///
    /// # Errors
    /// What the engine says.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let batches = (0..APPENDERS_MAX).map(|_| Mutex::default()).collect();
        Ok(Self { shared: Shared::open(directory, APPENDERS_MAX)?, batches })
    }
}

impl Log for Groups {
    fn append(&self, appender: usize, record: &Bytes) {
        let mut batch = self.batches[appender].lock().expect("no appender panics");
        self.shared.append(appender, std::slice::from_ref(record), &mut batch);
    }

    fn append_batch(&self, records: &[Bytes]) {
        let mut batch = self.batches[0].lock().expect("no appender panics");
        self.shared.append(0, records, &mut batch);
    }
}

/// One group.
pub struct OneGroup {
    shared: Shared,
    batch: LogBatch,
}

impl OneGroup {
    /// Creates or opens it.
    ///
    /// # Errors
    /// What the engine says.
    pub fn open(directory: &Path) -> Result<Self, String> {
        Ok(Self { shared: Shared::open(directory, 1)?, batch: LogBatch::default() })
    }
}

impl Batches for OneGroup {
    fn append_batch(&mut self, records: &[Bytes]) {
        self.shared.append(0, records, &mut self.batch);
    }
}
