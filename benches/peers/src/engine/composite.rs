//! Versions over an ordered map: rows `key 0x00 inverted-revision kind`, newest version first.
//!
//! One idea: the kind (put or tombstone) is the last byte of the row's key, so that a list of keys
//! needs no values, which matters to maps that keep values apart.
//!
//! A map that does not verify what it reads gets a checksum behind each value, compared whenever a
//! value is read: all contestants hand out values that are what was written.
//!
//! What a compaction may drop is remembered when it is superseded, since every write reads the
//! version before it anyway; so it needs no walk. That list is in memory and does not survive a
//! restart, as etcd's index does not.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::{Change, Engine, META_BYTES};

/// A row that is written, or removed if it has no value.
pub type RowChange = (Vec<u8>, Option<Vec<u8>>);

/// An ordered map from bytes to bytes.
pub trait Ordered: Send + Sync {
    /// Whether it compares what it reads with checksums of its own.
    const VERIFIES: bool;

    /// Applies all or nothing; survives any crash on return if `is_durable`.
    fn write(&self, rows: Vec<RowChange>, is_durable: bool);

    /// Shows rows of `start..end` to `visit` in order until it says `false`. Without `wants_values`
    /// values may be empty.
    fn walk(
        &self,
        start: &[u8],
        end: &[u8],
        wants_values: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    );

    /// As [`Engine::settle`].
    fn settle(&self);
}

/// Behind the user's key: a zero, the revision, the kind.
const TAIL_BYTES: usize = 10;
const DELETE: u8 = 0;
const PUT: u8 = 1;
/// xxh3-64, the fastest there is for long and short values.
const CHECKSUM_BYTES: usize = 8;
/// Rows that a compaction removes at once.
const COMPACTION_BATCH: usize = 1000;

/// Versions over an ordered map.
pub struct Composite<O> {
    rows: O,
    /// Rows with the revision that superseded them, in its order.
    superseded: Mutex<Vec<(u64, Vec<u8>)>>,
    newest: AtomicU64,
}

fn row_key(key: &[u8], revision: u64, kind: u8) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.len() + TAIL_BYTES);
    row.extend_from_slice(key);
    row.push(0);
    row.extend_from_slice(&(!revision).to_be_bytes());
    row.push(kind);
    row
}

/// The user's key, the revision and the kind of a row.
fn parts(row: &[u8]) -> (&[u8], u64, u8) {
    let (key, tail) = row.split_at(row.len() - TAIL_BYTES);
    let revision = !u64::from_be_bytes(tail[1..9].try_into().expect("eight bytes"));
    (key, revision, tail[9])
}

impl<O: Ordered> Composite<O> {
    /// Over `rows`.
    pub fn new(rows: O) -> Self {
        Self { rows, superseded: Mutex::default(), newest: AtomicU64::new(0) }
    }

    /// What is stored of a value.
    fn stored(&self, value: &[u8]) -> Vec<u8> {
        let mut stored = Vec::with_capacity(META_BYTES + value.len() + CHECKSUM_BYTES);
        stored.extend_from_slice(&[5; META_BYTES]);
        stored.extend_from_slice(value);
        if !O::VERIFIES {
            let checksum = xxh3_64(&stored);
            stored.extend_from_slice(&checksum.to_le_bytes());
        }
        stored
    }

    /// The value in what is stored of it.
    fn payload<'a>(&self, stored: &'a [u8]) -> &'a [u8] {
        if O::VERIFIES {
            return &stored[META_BYTES..];
        }
        let (content, checksum) = stored.split_at(stored.len() - CHECKSUM_BYTES);
        assert_eq!(xxh3_64(content).to_le_bytes(), checksum, "the checksum of a value");
        &content[META_BYTES..]
    }

    /// The newest row of a key at or below a revision, and what is stored of its value.
    fn find(&self, key: &[u8], at: u64, wants_value: bool) -> Option<(Vec<u8>, Bytes)> {
        let start = row_key(key, at, DELETE);
        let end = [key, &[1]].concat();
        let mut found = None;
        self.rows.walk(&start, &end, wants_value, &mut |row, value| {
            found = Some((row.to_vec(), Bytes::copy_from_slice(value)));
            false
        });
        found
    }
}

impl<O: Ordered> Engine for Composite<O> {
    fn apply(&self, first: u64, changes: &[Change], is_durable: bool) {
        let mut rows = Vec::with_capacity(changes.len());
        let mut superseded = self.superseded.lock().expect("no writer panics");
        for (revision, change) in (first..).zip(changes) {
            let (key, value) = match change {
                Change::Put(key, value) => (key, Some(value)),
                Change::Delete(key) => (key, None),
            };
            debug_assert!(!key.contains(&0), "keys have no zero byte");
            let before = self.find(key, u64::MAX, false).map(|(row, _)| row);
            let is_live = before.as_ref().is_some_and(|row| parts(row).2 == PUT);
            let Some(value) = value else {
                if is_live {
                    superseded.extend(before.map(|row| (revision, row)));
                    let tombstone = row_key(key, revision, DELETE);
                    // Still there at its own revision, as etcd keeps it.
                    superseded.push((revision + 1, tombstone.clone()));
                    rows.push((tombstone, Some(Vec::new())));
                }
                continue;
            };
            if is_live {
                superseded.extend(before.map(|row| (revision, row)));
            }
            rows.push((row_key(key, revision, PUT), Some(self.stored(value))));
        }
        self.rows.write(rows, is_durable);
        self.newest.store(first + changes.len() as u64 - 1, Ordering::Release);
    }

    fn get(&self, key: &[u8], at: u64) -> Option<Bytes> {
        let (row, value) = self.find(key, at, true)?;
        (parts(&row).2 == PUT).then(|| value.slice_ref(self.payload(&value)))
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
        let (mut count, mut decided) = (0, Vec::new());
        self.rows.walk(start, end, wants_values, &mut |row, value| {
            let (key, revision, kind) = parts(row);
            if revision > at || key == decided {
                return true;
            }
            decided.clear();
            decided.extend_from_slice(key);
            if kind == PUT {
                visit(key, if wants_values { self.payload(value) } else { &[] });
                count += 1;
            }
            count < limit
        });
        count
    }

    fn count(&self, start: &[u8], end: &[u8], at: u64) -> u64 {
        self.scan(start, end, at, u64::MAX, false, &mut |_, _| {})
    }

    fn compact(&self, revision: u64) {
        let mut superseded = self.superseded.lock().expect("no writer panics");
        let (drop, keep): (Vec<_>, Vec<_>) =
            superseded.drain(..).partition(|(successor, _)| *successor <= revision);
        *superseded = keep;
        for batch in drop.chunks(COMPACTION_BATCH) {
            let rows = batch.iter().map(|(_, row)| (row.clone(), None)).collect();
            self.rows.write(rows, false);
        }
    }

    fn settle(&self) {
        self.rows.settle();
    }
}
