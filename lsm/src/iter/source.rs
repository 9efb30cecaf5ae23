//! One place that has keys, for readers: a memtable, a run above the bottom, or the bottom level.

use std::ops::Bound;

use crate::iter::level::LevelCursor;
use crate::memtable::MemtableCursor;
use crate::row::RowRef;
use crate::snapshot::Snapshot;
use crate::{KeyRange, Kind, Result};

/// Which way a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Keys ascend.
    Forward,
    /// Keys descend.
    Backward,
}

/// A memtable or a level, walked key by key.
#[expect(clippy::large_enum_variant, reason = "a handful for each read, most of them levels")]
pub(crate) enum Source {
    Memtable(MemtableCursor),
    Level(LevelCursor),
}

impl Source {
    /// Moves to the newest version of the first key of `range` in this direction, or past it.
    pub(crate) fn seek(&mut self, range: &KeyRange, direction: Direction) -> Result<()> {
        let end = range.end.as_ref().map(|end| end.as_ref());
        match (self, direction) {
            (Self::Memtable(cursor), Direction::Forward) => cursor.seek(&range.start),
            (Self::Memtable(cursor), Direction::Backward) => cursor.seek_last(end),
            (Self::Level(cursor), Direction::Forward) => cursor.seek(&range.start)?,
            (Self::Level(cursor), Direction::Backward) => cursor.seek_last(end)?,
        }
        Ok(())
    }

    /// The current key; `None` past the end.
    #[inline]
    pub(crate) fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Memtable(cursor) => cursor.key(),
            Self::Level(cursor) => cursor.key(),
        }
    }

    /// Moves to the newest version of the next key in this direction; only while there is a key.
    #[inline]
    pub(crate) fn step(&mut self, direction: Direction) -> Result<()> {
        match (self, direction) {
            (Self::Level(cursor), Direction::Forward) => cursor.advance_key()?,
            (Self::Level(cursor), Direction::Backward) => cursor.retreat_key()?,
            (Self::Memtable(cursor), Direction::Forward) => cursor.advance_key(),
            (Self::Memtable(cursor), Direction::Backward) => cursor.retreat_key(),
        }
        Ok(())
    }

    /// Moves to the newest version of the current key with `revision.main <= at`. Without one it
    /// returns false and stays at the key.
    #[inline]
    pub(crate) fn select(&mut self, at: u64) -> Result<bool> {
        match self {
            Self::Memtable(cursor) => Ok(cursor.select(at)),
            Self::Level(cursor) => cursor.cursor_mut().select(at),
        }
    }

    /// Put or delete; only while there is a key, like all below.
    #[inline]
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Memtable(cursor) => cursor.record().expect("there is a key").kind(),
            Self::Level(cursor) => cursor.cursor().kind(),
        }
    }

    /// The current row where it lies.
    #[inline]
    pub(crate) fn row<'a>(&'a self, snapshot: &'a Snapshot) -> RowRef<'a> {
        let key = self.key().expect("there is a key");
        match self {
            Self::Memtable(cursor) => {
                RowRef::of_record(key, cursor.record().expect("there is a key"), snapshot)
            }
            Self::Level(cursor) => RowRef::of_table(key, cursor.cursor().row_ref(), snapshot),
        }
    }

    /// Whether all rows of the current block have `revision.main <= at`; false in a memtable.
    pub(crate) fn is_block_up_to(&self, at: u64) -> bool {
        match self {
            Self::Memtable(_) => false,
            Self::Level(cursor) => cursor.cursor().is_block_up_to(at),
        }
    }

    /// As [`TableCursor::advance_put_in_block`]; only for a level that is at a row.
    ///
    /// [`TableCursor::advance_put_in_block`]: crate::table::TableCursor::advance_put_in_block
    #[inline]
    pub(crate) fn advance_put_in_block(&mut self, limit: u32) -> Result<bool> {
        match self {
            Self::Memtable(_) => Ok(false),
            Self::Level(cursor) => cursor.cursor_mut().advance_put_in_block(limit),
        }
    }

    /// The name of the block that the current row is in; `None` in a memtable.
    #[inline]
    pub(crate) fn block_name(&self) -> Option<(usize, usize)> {
        match self {
            Self::Memtable(_) => None,
            Self::Level(cursor) => Some(cursor.block_name()),
        }
    }

    /// The rows from the current one on, in this direction, that are in its block, in the range, and
    /// before the key `next`. Backwards all rows of the block or none.
    pub(crate) fn stretch(
        &self,
        next: Option<&[u8]>,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<Option<Stretch>> {
        let Self::Level(level) = self else { return Ok(None) };
        let cursor = level.cursor();
        let next = next.filter(|next| !is_past(range, direction, next));
        let limit = match (direction, next) {
            (Direction::Forward, Some(next)) => cursor.rows_within(Bound::Excluded(next))?,
            (Direction::Forward, None) => {
                cursor.rows_within(range.end.as_ref().map(|end| end.as_ref()))?
            }
            (Direction::Backward, next) => {
                let first = cursor.first_key_of_block();
                let is_whole = next.map_or(first >= range.start, |next| first > next);
                if is_whole { u32::MAX } else { 0 }
            }
        };
        let is_here = cursor.row_number() < limit;
        Ok(is_here.then(|| Stretch { block: level.block_name(), limit }))
    }

    /// Whether the current row, if there is one, belongs to `stretch`, which began at a row before.
    #[inline]
    pub(crate) fn is_in(&self, stretch: Stretch) -> bool {
        match self {
            Self::Memtable(_) => false,
            Self::Level(level) => {
                level.key().is_some()
                    && level.block_name() == stretch.block
                    && level.cursor().row_number() < stretch.limit
            }
        }
    }
}

/// Rows of one block of a level that nothing comes between.
#[derive(Clone, Copy)]
pub(crate) struct Stretch {
    block: (usize, usize),
    /// They are below this row.
    pub limit: u32,
}

/// Whether `key` lies behind the range in this direction.
pub(crate) fn is_past(range: &KeyRange, direction: Direction, key: &[u8]) -> bool {
    match direction {
        Direction::Forward => range.is_past(key),
        Direction::Backward => key < range.start.as_ref(),
    }
}
