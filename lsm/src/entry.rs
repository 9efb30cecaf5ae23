//! The words of the engine: revision, kind, delta, meta, entry, range.

use std::ops::Bound;

use bytes::Bytes;

/// The version number of an entry, given by the caller (for the `kv` keyspace: etcd's revision).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Grows with every transaction.
    pub main: u64,
    /// Orders the changes within one transaction, from 0.
    pub sub: u32,
}

impl Revision {
    /// Above every revision in use.
    pub const MAX: Self = Self { main: u64::MAX, sub: u32::MAX };
}

/// What an entry says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The key has this value from this revision on.
    Put,
    /// The key is gone from this revision on (a tombstone). Only ever written for a live key.
    Delete,
}

/// What an entry changes in the number of live keys: +1 it created the key, 0 it changed it,
/// -1 it deleted it. The number of live keys in a range at revision R is the sum of the deltas of
/// its entries with revision <= R.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Delta {
    /// Deleted a live key.
    Minus = -1,
    /// Changed a live key (or, after folding, created and deleted it).
    Zero = 0,
    /// Created the key.
    Plus = 1,
}

/// Longest meta, in bytes.
pub const META_BYTES_MAX: usize = 39;

/// A few bytes that belong to an entry and are kept beside its key, so that they can be read
/// without touching the value. Opaque here (etcd: create revision, version, lease).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    length: u8,
    bytes: [u8; META_BYTES_MAX],
}

impl Meta {
    /// No bytes.
    pub const EMPTY: Self = Self { length: 0, bytes: [0; META_BYTES_MAX] };

    /// The bytes given, at most [`META_BYTES_MAX`]; `None` if there are more.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut meta = Self::EMPTY;
        meta.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        meta.length = bytes.len() as u8;
        Some(meta)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl std::fmt::Debug for Meta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Meta({:02x?})", self.as_slice())
    }
}

/// One version of one key, as reads return it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its version number.
    pub revision: Revision,
    /// Put or delete.
    pub kind: Kind,
    /// The caller's bytes beside the key.
    pub meta: Meta,
    /// The value; empty for deletes and for reads of keys only.
    pub value: Bytes,
    /// Length of the value in bytes, known for reads of keys only too.
    pub value_bytes: u32,
}

/// A contiguous range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key of the range.
    pub start: Bytes,
    /// Where the range ends.
    pub end: Bound<Bytes>,
}

impl KeyRange {
    /// Exactly one key.
    pub fn one(key: Bytes) -> Self {
        Self { end: Bound::Included(key.clone()), start: key }
    }

    /// From `start` (included) to `end` (excluded).
    pub fn between(start: Bytes, end: Bytes) -> Self {
        Self { start, end: Bound::Excluded(end) }
    }

    /// From `start` (included) to the last key there is.
    pub fn from(start: Bytes) -> Self {
        Self { start, end: Bound::Unbounded }
    }

    /// All keys.
    pub fn all() -> Self {
        Self::from(Bytes::new())
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_ref() && !self.is_past(key)
    }

    /// Whether `key` lies behind the end of the range.
    pub fn is_past(&self, key: &[u8]) -> bool {
        match &self.end {
            Bound::Included(end) => key > end.as_ref(),
            Bound::Excluded(end) => key >= end.as_ref(),
            Bound::Unbounded => false,
        }
    }
}
