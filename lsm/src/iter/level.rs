//! One cursor over tables that follow one another in key order: the bottom level, or one table.

use std::ops::Bound;
use std::sync::Arc;

use crate::Result;
use crate::table::{Table, TableCursor};

/// Walks the rows of sorted tables that do not overlap, by row forwards, by key both ways.
///
/// Invariant: `current`, where there is one, is a cursor of table `number`.
pub(crate) struct LevelCursor {
    tables: Vec<Arc<Table>>,
    number: usize,
    current: Option<TableCursor>,
}

impl LevelCursor {
    /// Before the first row; [`LevelCursor::seek`] it first.
    pub(crate) fn new(tables: Vec<Arc<Table>>) -> Self {
        Self { tables, number: 0, current: None }
    }

    /// Moves to the newest version of the first key at or above `key`.
    pub(crate) fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.number = self.tables.partition_point(|table| table.info().last_key.as_ref() < key);
        self.open_from(key)
    }

    /// Opens tables from `number` on until one has a row at or above `key`.
    fn open_from(&mut self, key: &[u8]) -> Result<()> {
        self.current = None;
        while let Some(table) = self.tables.get(self.number) {
            let mut cursor = table.cursor();
            cursor.seek(key)?;
            if cursor.key().is_some() {
                self.current = Some(cursor);
                break;
            }
            self.number += 1;
        }
        Ok(())
    }

    /// Moves to the newest version of the last key within `end`.
    pub(crate) fn seek_last(&mut self, end: Bound<&[u8]>) -> Result<()> {
        let begins_within = |table: &Arc<Table>| match end {
            Bound::Included(end) => table.info().first_key.as_ref() <= end,
            Bound::Excluded(end) => table.info().first_key.as_ref() < end,
            Bound::Unbounded => true,
        };
        let tables = self.tables.partition_point(begins_within);
        self.open_before(tables, end)
    }

    /// Opens tables below `tables` downwards until one has a row within `end`.
    fn open_before(&mut self, tables: usize, end: Bound<&[u8]>) -> Result<()> {
        self.current = None;
        for number in (0..tables).rev() {
            let mut cursor = self.tables[number].cursor();
            cursor.seek_last(end)?;
            if cursor.key().is_some() {
                (self.number, self.current) = (number, Some(cursor));
                break;
            }
        }
        Ok(())
    }

    /// The current key; `None` past the end.
    #[inline]
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.current.as_ref()?.key()
    }

    /// Moves to the next row; only while there is a key.
    pub(crate) fn advance(&mut self) -> Result<()> {
        self.cursor_mut().advance()?;
        self.leave_table()
    }

    /// Moves to the newest version of the next key; only while there is a key.
    #[inline]
    pub(crate) fn advance_key(&mut self) -> Result<()> {
        let cursor = self.cursor_mut();
        cursor.advance_key()?;
        if cursor.key().is_some() { Ok(()) } else { self.leave_table() }
    }

    /// Goes to the next table if this one is through.
    fn leave_table(&mut self) -> Result<()> {
        if self.key().is_some() {
            return Ok(());
        }
        self.number += 1;
        self.open_from(b"")
    }

    /// Moves to the newest version of the key before; only while there is a key.
    pub(crate) fn retreat_key(&mut self) -> Result<()> {
        self.cursor_mut().retreat_key()?;
        if self.key().is_some() {
            return Ok(());
        }
        self.open_before(self.number, Bound::Unbounded)
    }

    /// The cursor of the table at the current row; only while there is a key.
    #[inline]
    pub(crate) fn cursor(&self) -> &TableCursor {
        self.current.as_ref().expect("the cursor is at a row")
    }

    /// As [`LevelCursor::cursor`], to move it within its table.
    #[inline]
    pub(crate) fn cursor_mut(&mut self) -> &mut TableCursor {
        self.current.as_mut().expect("the cursor is at a row")
    }

    /// Names the current block: another block of this level has another name.
    #[inline]
    pub(crate) fn block_name(&self) -> (usize, usize) {
        (self.number, self.cursor().block_number())
    }
}
