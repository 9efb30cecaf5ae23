//! A version of a key where it lies, in a memtable or a table, without a copy.

use std::cell::RefCell;

use bytes::Bytes;

use crate::memtable::RecordRef;
use crate::segment::{Ahead, Value};
use crate::snapshot::{Snapshot, Values};
use crate::table::{RowValue, TableRow, ValueHandle, ValueRef};
use crate::{Entry, Kind, Meta, Result, Revision};

/// One version of one key, borrowed from the read that found it. What it says is read from where
/// it lies when it is asked for: who needs the key only pays for nothing else.
#[derive(Clone, Copy)]
pub struct RowRef<'a> {
    key: &'a [u8],
    place: Place<'a>,
    /// The view that knows where stored values are, and whether they may be touched.
    snapshot: &'a Snapshot,
    /// Of the walk that found it.
    ahead: Option<&'a RefCell<Ahead>>,
}

#[derive(Clone, Copy)]
enum Place<'a> {
    Memtable(RecordRef<'a>),
    Table(TableRow<'a>),
}

impl<'a> RowRef<'a> {
    #[inline]
    pub(crate) fn of_record(key: &'a [u8], record: RecordRef<'a>, snapshot: &'a Snapshot) -> Self {
        Self { key, place: Place::Memtable(record), snapshot, ahead: None }
    }

    #[inline]
    pub(crate) fn of_table(key: &'a [u8], row: TableRow<'a>, snapshot: &'a Snapshot) -> Self {
        Self { key, place: Place::Table(row), snapshot, ahead: None }
    }

    /// The same, found by a walk.
    #[inline]
    pub(crate) fn of_walk(self, ahead: &'a RefCell<Ahead>) -> Self {
        Self { ahead: Some(ahead), ..self }
    }

    fn stored(&self, handle: ValueHandle) -> Result<Value<'a>> {
        match self.ahead {
            Some(ahead) => self.snapshot.value_ahead(handle, ahead),
            None => self.snapshot.value(handle),
        }
    }

    /// The key.
    #[inline]
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// Its version number.
    #[inline]
    pub fn revision(&self) -> Revision {
        match &self.place {
            Place::Memtable(record) => record.revision(),
            Place::Table(row) => row.revision(),
        }
    }

    /// Put or delete.
    #[inline]
    pub fn kind(&self) -> Kind {
        match &self.place {
            Place::Memtable(record) => record.kind(),
            Place::Table(row) => row.kind(),
        }
    }

    /// The caller's bytes beside the key.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] only for a forged file.
    #[inline]
    pub fn meta(&self) -> Result<&'a [u8]> {
        match &self.place {
            Place::Memtable(record) => Ok(record.meta_bytes()),
            Place::Table(row) => row.meta(),
        }
    }

    /// Length of the value in bytes; 0 for a tombstone. Touches no value.
    #[inline]
    pub fn value_bytes(&self) -> u32 {
        match &self.place {
            Place::Memtable(record) => record.value().len() as u32,
            Place::Table(row) => row.value_bytes(),
        }
    }

    /// The value; empty for a tombstone. A long one in a file is a slice of the mapped file, or of
    /// what was decompressed of it; all others are copied.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if its checksum is wrong, or if it is not there;
    /// [`crate::Error::NotResident`] if the view refuses values that are not in memory.
    pub fn value(&self) -> Result<Bytes> {
        match &self.place {
            Place::Memtable(record) => Ok(Bytes::copy_from_slice(record.value())),
            Place::Table(row) => match row.value_ref()? {
                ValueRef::None => Ok(Bytes::new()),
                ValueRef::Inline(value) => Ok(value),
                ValueRef::Stored(handle) => Ok(self.stored(handle)?.into_bytes()),
            },
        }
    }

    /// As [`RowRef::value`], shown where it lies, without a copy (a compressed one lies in what was
    /// decompressed).
    ///
    /// # Errors
    /// Those of [`RowRef::value`].
    #[inline]
    pub fn value_with<T>(&self, show: impl FnOnce(&[u8]) -> T) -> Result<T> {
        match &self.place {
            Place::Memtable(record) => Ok(show(record.value())),
            Place::Table(row) => match row.value()? {
                RowValue::Here(value) => Ok(show(value)),
                RowValue::Stored(handle) => Ok(show(&self.stored(handle)?)),
            },
        }
    }

    /// A copy that outlives the read.
    ///
    /// # Errors
    /// Those of [`RowRef::value`], which is not read with [`Values::Skip`].
    pub fn to_entry(&self, values: Values) -> Result<Entry> {
        let value = match values {
            Values::Load => self.value()?,
            Values::Skip => Bytes::new(),
        };
        Ok(Entry {
            key: Bytes::copy_from_slice(self.key),
            revision: self.revision(),
            kind: self.kind(),
            meta: Meta::new(self.meta()?).expect("no place has a longer one"),
            value,
            value_bytes: self.value_bytes(),
        })
    }
}
