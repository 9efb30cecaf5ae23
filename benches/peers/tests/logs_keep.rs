//! What the logs acknowledge is in them: appended by several threads and in batches, closed, opened
//! again and read back, each record once and those of one appender in order.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use okaywal::{Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};
use varve_disk::durable::Backend;
use varve_peers::log::okay::OkayLog;
use varve_peers::log::queue::Queue;
use varve_peers::log::tikv::{Entries, Groups, OneGroup, open_engine};
use varve_peers::log::varve::VarveLog;
use varve_peers::log::{self, Log};

const APPENDERS: usize = 4;
const RECORDS: u64 = 40;

fn record(appender: usize, number: u64) -> Bytes {
    Bytes::from(format!("{appender} {number} {}", "x".repeat(number as usize)))
}

/// Each appender one by one, then the first one all of a batch.
fn append(log: &dyn Log) {
    std::thread::scope(|scope| {
        for appender in 0..APPENDERS {
            scope.spawn(move || {
                (0..RECORDS).for_each(|number| log.append(appender, &record(appender, number)));
            });
        }
    });
    let batch: Vec<Bytes> = (RECORDS..2 * RECORDS).map(|number| record(0, number)).collect();
    log.append_batch(&batch);
}

fn assert_all(found: impl IntoIterator<Item = Bytes>) {
    let mut of_appender = BTreeMap::<usize, Vec<Bytes>>::new();
    for record in found {
        let appender = (record[0] - b'0') as usize;
        of_appender.entry(appender).or_default().push(record);
    }
    for appender in 0..APPENDERS {
        let count = if appender == 0 { 2 * RECORDS } else { RECORDS };
        let expected: Vec<Bytes> = (0..count).map(|number| record(appender, number)).collect();
        assert_eq!(of_appender.remove(&appender), Some(expected), "appender {appender}");
    }
    assert_eq!(of_appender, BTreeMap::new());
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn varve_keeps_all() {
    for backend in Backend::ALL {
        let home = directory();
        let log = match VarveLog::open(home.path(), backend) {
            Ok(log) => Queue::new(log),
            Err(message) => {
                println!("SKIPPED: {backend}: {message}");
                continue;
            }
        };
        append(&log);
        drop(log);
        let log = VarveLog::open(home.path(), backend).unwrap();
        let wal = log.wal();
        assert_all(wal.entries(wal.first_index(), wal.last_index() + 1, u64::MAX).unwrap());
    }
}

/// All entries of the first groups.
fn raft_engine_entries(home: &Path, groups: u64) -> Vec<Bytes> {
    let engine = open_engine(home).unwrap();
    let mut found = Vec::new();
    for group in 1..=groups {
        let (first, last) = (engine.first_index(group), engine.last_index(group));
        let (first, last) = (first.unwrap(), last.unwrap());
        engine.fetch_entries_to::<Entries>(group, first, last + 1, None, &mut found).unwrap();
    }
    found.into_iter().map(|entry| entry.data).collect()
}

#[test]
fn raft_engine_keeps_all_of_many_groups() {
    let home = directory();
    let log = Groups::open(home.path()).unwrap();
    append(&log);
    drop(log);
    assert_all(raft_engine_entries(home.path(), APPENDERS as u64));
}

#[test]
fn raft_engine_keeps_all_of_one_group() {
    let home = directory();
    let log = Queue::new(OneGroup::open(home.path()).unwrap());
    append(&log);
    drop(log);
    assert_all(raft_engine_entries(home.path(), 1));
}

/// Collects what is recovered.
#[derive(Clone, Debug, Default)]
struct Recovered(Arc<Mutex<Vec<Bytes>>>);

impl LogManager for Recovered {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let chunks = entry.read_all_chunks()?.unwrap_or_default();
        self.0.lock().unwrap().extend(chunks.into_iter().map(Bytes::from));
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _last: EntryId,
        _entries: &mut SegmentReader,
        _log: &WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn okaywal_keeps_all() {
    let home = directory();
    let log = OkayLog::open(home.path()).unwrap();
    append(&log);
    log.close().unwrap();
    let recovered = Recovered::default();
    OkayLog::open_with(home.path(), recovered.clone()).unwrap().close().unwrap();
    assert_all(recovered.0.lock().unwrap().clone());
}

#[test]
fn every_name_opens_and_others_do_not() {
    let home = directory();
    for name in log::names() {
        match log::open(&name, &home.path().join(&name)) {
            Ok(log) => log.append_batch(&[record(0, 1)]),
            Err(message) => println!("SKIPPED: {name}: {message}"),
        }
    }
    let message = log::open("etcd", &home.path().join("etcd")).err().unwrap();
    assert!(message.starts_with("no contestant etcd; there are floor, "), "{message}");
}
