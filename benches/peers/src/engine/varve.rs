//! varve's engine as a contestant: its log in front of it for durable batches, as in the server, and
//! a thread that does the background work.
//!
//! One idea: the engine has no log of its own, so a durable batch is one record of varve's log, and
//! then the batch goes into the memtable. After [`Engine::settle`] all of it is in tables.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use varve_disk::os::OsDisk;
use varve_lsm::{
    Brake, Commit, Db, Delta, Direction, Error, KeyRange, Keyspace, Kind, Meta, Options, Revision,
    RowRef, Work, Writer,
};
use varve_wal::{BackendChoice, Batch, Wal};

use super::{Change, Engine, META_BYTES};

/// How long who waits for the other looks away.
const NAP: Duration = Duration::from_micros(200);
/// Records that stay in the log.
const RECORDS_KEPT: u64 = 1000;

/// An open engine.
pub struct Varve {
    db: Db,
    writing: Mutex<Writing>,
    started: Instant,
    is_over: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

struct Writing {
    writer: Writer,
    directory: PathBuf,
    /// Opened by the first durable batch.
    log: Option<Wal>,
    brake: Brake,
    visible: u64,
    compacted: u64,
}

impl Varve {
    /// Opens or creates it.
    ///
    /// # Errors
    /// What the engine says.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let disk = Arc::new(OsDisk::new());
        let (db, writer) = Db::open(disk, &directory.join("lsm"), Options::default())
            .map_err(|error| error.to_string())?;
        let is_over = Arc::new(AtomicBool::new(false));
        let worker = std::thread::spawn({
            let (db, is_over) = (db.clone(), Arc::clone(&is_over));
            move || {
                while !is_over.load(Ordering::Acquire) {
                    if db.work().expect("background work succeeds") == Work::Idle {
                        std::thread::park_timeout(Duration::from_millis(1));
                    }
                }
            }
        });
        let (visible, compacted) = (db.snapshot().visible(), db.snapshot().compacted());
        let writing = Mutex::new(Writing {
            writer,
            directory: directory.join("wal"),
            log: None,
            brake: Brake::default(),
            visible,
            compacted,
        });
        Ok(Self { db, writing, started: Instant::now(), is_over, worker: Some(worker) })
    }

    fn wait_for_room(&self) {
        while self.db.is_writer_ahead() {
            std::thread::sleep(NAP);
        }
    }
}

impl Writing {
    /// One record; durable on return.
    fn log(&mut self, changes: &[Change]) {
        let mut record = BytesMut::new();
        for change in changes {
            let (key, value) = match change {
                Change::Put(key, value) => (key, value.as_ref()),
                Change::Delete(key) => (key, &b""[..]),
            };
            record.put_u32_le(key.len() as u32);
            record.put_u32_le(value.len() as u32);
            record.put_slice(key);
            record.put_slice(value);
        }
        let log = self.log.get_or_insert_with(|| {
            let options = varve_wal::Options { backend: BackendChoice::Auto, ..Default::default() };
            let opened = Wal::open(Arc::new(OsDisk::new()), &self.directory, options);
            opened.expect("the log opens")
        });
        let next = log.last_index() + 1;
        let mut batch = Batch::default();
        batch.entry(next, record.freeze());
        // Durable on return.
        log.append(&batch).expect("the disk works");
        if next > log.first_index() + 2 * RECORDS_KEPT {
            log.truncate_front(next - RECORDS_KEPT).expect("the disk works");
        }
    }

    fn change(&mut self, main: u64, change: &Change) {
        let key = match change {
            Change::Put(key, _) | Change::Delete(key) => key,
        };
        let before = self.writer.view().get_meta(Keyspace::Kv, key, u64::MAX);
        let before = before.expect("a read succeeds");
        let is_live = before.is_some_and(|entry| entry.kind == Kind::Put);
        let revision = Revision { main, sub: 0 };
        match change {
            Change::Put(key, value) => {
                let delta = if is_live { Delta::Zero } else { Delta::Plus };
                let meta = Meta::new(&[5; META_BYTES]).expect("it is short");
                self.writer.put(Keyspace::Kv, key, revision, delta, meta, value);
            }
            Change::Delete(key) if is_live => self.writer.delete(Keyspace::Kv, key, revision),
            Change::Delete(_) => {}
        }
    }

    fn commit(&mut self) {
        let mark = Bytes::copy_from_slice(&self.visible.to_le_bytes());
        let commit = Commit { mark, kv_visible: self.visible, compacted: self.compacted };
        self.writer.commit(commit).expect("the engine commits");
    }
}

impl Engine for Varve {
    fn apply(&self, first: u64, changes: &[Change], is_durable: bool) {
        self.wait_for_room();
        let mut writing = self.writing.lock().expect("no writer panics");
        let bytes = changes.iter().map(Change::bytes).sum();
        loop {
            let pause = writing.brake.pause(self.started.elapsed(), self.db.pressure());
            if pause.is_zero() {
                break;
            }
            std::thread::sleep(pause);
        }
        writing.brake.spend(bytes);
        if is_durable {
            writing.log(changes);
        }
        for (main, change) in (first..).zip(changes) {
            writing.change(main, change);
        }
        writing.visible = first + changes.len() as u64 - 1;
        writing.commit();
    }

    fn get(&self, key: &[u8], at: u64) -> Option<Bytes> {
        let snapshot = self.db.snapshot();
        let show = |row: RowRef<'_>| (row.kind() == Kind::Put).then(|| row.value());
        let found = snapshot.get_with(Keyspace::Kv, key, at, show).expect("a read succeeds");
        found.flatten().map(|value| value.expect("a read succeeds"))
    }

    fn get_resident(&self, key: &[u8], at: u64) -> Option<Option<Bytes>> {
        let snapshot = self.db.snapshot_of_residents();
        let show = |row: RowRef<'_>| (row.kind() == Kind::Put).then(|| row.value());
        let found = snapshot.get_with(Keyspace::Kv, key, at, show).expect("a read succeeds");
        match found.flatten() {
            None => Some(None),
            Some(Ok(value)) => Some(Some(value)),
            Some(Err(Error::NotResident)) => None,
            Some(Err(error)) => panic!("a read fails: {error}"),
        }
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        at: u64,
        limit: u64,
        wants_values: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> u64 {
        let range = KeyRange::between(Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
        let mut rows = self.db.snapshot().rows(Keyspace::Kv, range, at, Direction::Forward);
        let mut count = 0;
        while count < limit
            && let Some(row) = rows.next_row().expect("a read succeeds")
        {
            if wants_values {
                row.value_with(|value| visit(row.key(), value)).expect("a read succeeds");
            } else {
                visit(row.key(), &[]);
            }
            count += 1;
        }
        count
    }

    fn count(&self, start: &[u8], end: &[u8], at: u64) -> u64 {
        let range = KeyRange::between(Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
        self.db.snapshot().count(Keyspace::Kv, &range, at).expect("a count succeeds")
    }

    fn compact(&self, revision: u64) {
        let mut writing = self.writing.lock().expect("no writer panics");
        writing.compacted = revision;
        writing.commit();
    }

    fn hold(&self) -> Option<Box<dyn std::any::Any>> {
        Some(Box::new(self.db.snapshot()))
    }

    fn settle(&self) {
        self.wait_for_room();
        let mut writing = self.writing.lock().expect("no writer panics");
        writing.writer.freeze().expect("a memtable freezes");
        drop(writing);
        while self.db.work().expect("background work succeeds") != Work::Idle {}
    }
}

impl Drop for Varve {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(worker) = self.worker.take() {
            worker.thread().unpark();
            // A worker that panicked has said so.
            _ = worker.join();
        }
    }
}
