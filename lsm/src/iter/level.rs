//! One cursor over tables that follow one another in key order: the bottom level, or one table.

use std::sync::Arc;

use crate::table::{Table, TableCursor};
use crate::{Result, Revision};

/// Walks the rows of sorted tables that do not overlap.
pub(crate) struct LevelCursor {
    tables: Vec<Arc<Table>>,
    /// The next table to open when the current one is through.
    next: usize,
    current: Option<TableCursor>,
}

impl LevelCursor {
    /// Before the first row; [`LevelCursor::seek`] it first.
    pub(crate) fn new(tables: Vec<Arc<Table>>) -> Self {
        Self { tables, next: 0, current: None }
    }

    /// Moves to the newest version of the first key at or above `key`.
    pub(crate) fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.next = self.tables.partition_point(|table| table.info().last_key.as_ref() < key);
        self.current = None;
        self.open_next(key)
    }

    /// Opens tables until one has a row at or above `key`.
    fn open_next(&mut self, key: &[u8]) -> Result<()> {
        while self.current.as_ref().is_none_or(|cursor| cursor.key().is_none()) {
            let Some(table) = self.tables.get(self.next) else {
                self.current = None;
                return Ok(());
            };
            self.next += 1;
            let mut cursor = table.cursor();
            cursor.seek(key)?;
            self.current = Some(cursor);
        }
        Ok(())
    }

    /// The current key; `None` past the end.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.current.as_ref()?.key()
    }

    /// The current revision; only while there is a key.
    pub(crate) fn revision(&self) -> Revision {
        self.cursor().revision()
    }

    /// Moves to the next row; only while there is a key.
    pub(crate) fn advance(&mut self) -> Result<()> {
        if let Some(cursor) = &mut self.current {
            cursor.advance()?;
            if cursor.key().is_none() {
                self.open_next(b"")?;
            }
        }
        Ok(())
    }

    /// The cursor of the table at the current row; only while there is a key.
    pub(crate) fn cursor(&self) -> &TableCursor {
        self.current.as_ref().expect("the cursor is at a row")
    }
}
