//! Readers and background work on other threads while the writer writes.
//!
//! The writer keeps an invariant that each view can check by itself: every batch moves one unit
//! from one account to another (so the sum never changes), and puts and deletes "sessions" so that
//! as many live as the batch's entry in `sys` says. A view that mixed two moments, missed a
//! memtable in the middle of its flush, or lost a table in a merge would show another sum.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use support::{dir, settle, small_options};
use varve_disk::sim::{Random, SimDisk};
use varve_lsm::{
    Commit, Db, Delta, Entry, KeyRange, Keyspace, Kind, Meta, Revision, Snapshot, Values, Work,
    Writer,
};

const ACCOUNTS: u64 = 40;
const UNITS_EACH: u64 = 1_000;

fn account(number: u64) -> Vec<u8> {
    format!("account/{number:02}").into_bytes()
}

fn session(number: u64) -> Vec<u8> {
    format!("session/{number:06}").into_bytes()
}

fn prefix(name: &'static str) -> KeyRange {
    let end = format!("{name}0");
    KeyRange::between(Bytes::from(format!("{name}/")), end.into())
}

fn number_in(entry: &Entry) -> u64 {
    u64::from_le_bytes(entry.value[..8].try_into().unwrap())
}

struct Bank {
    writer: Writer,
    units: Vec<u64>,
    live_sessions: Vec<u64>,
    next_session: u64,
    main: u64,
}

impl Bank {
    fn open(writer: Writer) -> Self {
        let units = vec![UNITS_EACH; ACCOUNTS as usize];
        let mut bank = Self { writer, units, live_sessions: Vec::new(), next_session: 0, main: 1 };
        for number in 0..ACCOUNTS {
            bank.put_account(number, number as u32, Delta::Plus);
        }
        bank.commit(Delta::Plus, 0);
        bank
    }

    fn put_account(&mut self, number: u64, sub: u32, delta: Delta) {
        let revision = Revision { main: self.main, sub };
        // Long enough for a segment now and then.
        let mut value = self.units[number as usize].to_le_bytes().to_vec();
        value.resize(8 + (self.main % 90) as usize, 7);
        self.writer.put(Keyspace::Kv, &account(number), revision, delta, Meta::EMPTY, &value);
    }

    fn commit(&mut self, delta: Delta, compacted: u64) {
        let revision = Revision { main: self.main, sub: 0 };
        let sessions = (self.live_sessions.len() as u64).to_le_bytes();
        self.writer.put(Keyspace::Sys, b"sessions", revision, delta, Meta::EMPTY, &sessions);
        let mark = Bytes::copy_from_slice(&self.main.to_le_bytes());
        self.writer.commit(Commit { mark, kv_visible: self.main, compacted }).unwrap();
    }

    fn batch(&mut self, random: &mut Random, compacted: u64) {
        self.main += 1;
        let (from, to) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
        if from != to && self.units[from as usize] > 0 {
            self.units[from as usize] -= 1;
            self.units[to as usize] += 1;
            self.put_account(from, 0, Delta::Zero);
            self.put_account(to, 1, Delta::Zero);
        }
        for sub in 2..5 {
            let revision = Revision { main: self.main, sub };
            if random.one_in(2) && self.live_sessions.len() > 50 {
                let position = random.below(self.live_sessions.len() as u64) as usize;
                let number = self.live_sessions.swap_remove(position);
                self.writer.delete(Keyspace::Kv, &session(number), revision);
            } else {
                let (number, value) = (self.next_session, [3; 60]);
                self.next_session += 1;
                self.live_sessions.push(number);
                let key = session(number);
                self.writer.put(Keyspace::Kv, &key, revision, Delta::Plus, Meta::EMPTY, &value);
            }
        }
        self.commit(Delta::Zero, compacted);
    }
}

/// Ends the other threads when one of them has failed, so that the test fails and does not hang.
struct EndAll<'a>(&'a AtomicBool);

impl Drop for EndAll<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Release);
        }
    }
}

/// Checks all that one view can know.
fn audit(snapshot: &Snapshot, random: &mut Random) {
    let visible = snapshot.visible();
    let mark = u64::from_le_bytes(snapshot.mark()[..].try_into().unwrap());
    assert_eq!(mark, visible);
    let sessions = snapshot.get(Keyspace::Sys, b"sessions", u64::MAX).unwrap().unwrap();
    assert_eq!(sessions.revision.main, visible);
    let live = snapshot.count(Keyspace::Kv, &prefix("session"), u64::MAX).unwrap();
    assert_eq!(live, number_in(&sessions), "sessions at {visible}");
    let low = snapshot.compacted().max(1);
    let at = low + random.below(visible - low + 1);
    for at in [at, visible] {
        let accounts = snapshot.range(Keyspace::Kv, prefix("account"), at, Values::Load);
        let sum: u64 = accounts.map(|entry| number_in(&entry.unwrap())).sum();
        assert_eq!(sum, ACCOUNTS * UNITS_EACH, "units at {at} of {visible}");
        let walked = snapshot.range(Keyspace::Kv, prefix("session"), at, Values::Skip);
        let counted = snapshot.count(Keyspace::Kv, &prefix("session"), at).unwrap();
        assert_eq!(walked.count() as u64, counted, "sessions at {at} of {visible}");
    }
    let mut last = Revision { main: at, sub: u32::MAX };
    for entry in snapshot.history(prefix("session"), at + 1, visible) {
        let entry = entry.unwrap();
        assert!(entry.revision > last, "{:?} after {last:?}", entry.revision);
        assert!(entry.kind == Kind::Delete || entry.value.len() == 60);
        last = entry.revision;
    }
}

#[test]
fn views_are_whole_while_memtables_are_flushed_and_tables_merged() {
    let batches = if std::env::var_os("VARVE_LONG").is_some() { 200_000 } else { 6_000 };
    let disk = SimDisk::new(1);
    let (db, writer) = Db::open(Arc::new(disk), dir(), small_options()).unwrap();
    let mut bank = Bank::open(writer);
    let is_done = AtomicBool::new(false);
    let (audits, merges) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (db, is_done, audits) = (db.clone(), &is_done, &audits);
            scope.spawn(move || {
                let _end_all = EndAll(is_done);
                let mut random = Random::new(seed);
                let mut held = db.snapshot();
                while !is_done.load(Ordering::Acquire) {
                    audit(&db.snapshot(), &mut random);
                    if random.one_in(10) {
                        held = db.snapshot();
                    }
                    audit(&held, &mut random);
                    audits.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            let _end_all = EndAll(&is_done);
            while !is_done.load(Ordering::Acquire) {
                match db.work().unwrap() {
                    Work::Idle => std::thread::yield_now(),
                    Work::Merged => drop(merges.fetch_add(1, Ordering::Relaxed)),
                    _ => {}
                }
            }
        });
        let _end_all = EndAll(&is_done);
        let mut random = Random::new(99);
        let mut compacted = 0;
        for _ in 0..batches {
            while db.is_writer_ahead() && !is_done.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            if random.one_in(200) {
                compacted = bank.main.saturating_sub(random.below(300)).max(compacted);
            }
            bank.batch(&mut random, compacted);
        }
        is_done.store(true, Ordering::Release);
    });
    settle(&db).unwrap();
    audit(&db.snapshot(), &mut Random::new(5));
    let report = db.check().unwrap();
    assert!(report.violations.is_empty(), "{report:#?}");
    assert!(audits.into_inner() > 0 && merges.into_inner() > 0);
}
