//! A k-way merge in key order.
//!
//! One idea: sources are numbered newest first, and versions in newer sources are newer, so the
//! order (key, source) is the order (key ascending, revision descending), without a look at a
//! revision. The sources stand in a short list sorted by that order. After a step the front one
//! sinks to its place: as long as one source is far ahead of the others (the bottom level, nearly
//! always), that is one comparison a row.

use crate::iter::level::LevelCursor;
use crate::memtable::MemtableCursor;
use crate::{Result, Revision};

/// Something that walks rows in order.
pub(crate) trait Source {
    /// Moves to the newest version of the first key at or above `key`.
    fn seek(&mut self, key: &[u8]) -> Result<()>;
    /// The current key; `None` past the end.
    fn key(&self) -> Option<&[u8]>;
    /// The current revision; only while there is a key.
    fn revision(&self) -> Revision;
    /// Moves to the next row.
    fn advance(&mut self) -> Result<()>;
}

impl Source for LevelCursor {
    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.seek(key)
    }

    fn key(&self) -> Option<&[u8]> {
        self.key()
    }

    fn revision(&self) -> Revision {
        self.revision()
    }

    fn advance(&mut self) -> Result<()> {
        self.advance()
    }
}

/// A memtable or a level.
#[expect(clippy::large_enum_variant, reason = "a handful for each read, most of them levels")]
pub(crate) enum AnySource {
    Memtable(MemtableCursor),
    Level(LevelCursor),
}

impl Source for AnySource {
    fn seek(&mut self, key: &[u8]) -> Result<()> {
        match self {
            Self::Memtable(cursor) => {
                cursor.seek(key);
                Ok(())
            }
            Self::Level(cursor) => cursor.seek(key),
        }
    }

    fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Memtable(cursor) => cursor.record().map(|record| record.key()),
            Self::Level(cursor) => cursor.key(),
        }
    }

    fn revision(&self) -> Revision {
        match self {
            Self::Memtable(cursor) => cursor.record().expect("there is a key").revision(),
            Self::Level(cursor) => cursor.revision(),
        }
    }

    fn advance(&mut self) -> Result<()> {
        match self {
            Self::Memtable(cursor) => {
                cursor.advance();
                Ok(())
            }
            Self::Level(cursor) => cursor.advance(),
        }
    }
}

/// Sources in one order.
///
/// Invariants: `order` has the numbers of all sources that are not at their end, sorted by
/// (current key, number); number 0 is the newest source.
pub(crate) struct Merge<S> {
    sources: Vec<S>,
    order: Vec<usize>,
}

impl<S: Source> Merge<S> {
    /// Merges `sources`, newest first, from the first key at or above `start` on.
    pub(crate) fn new(mut sources: Vec<S>, start: &[u8]) -> Result<Self> {
        for source in &mut sources {
            source.seek(start)?;
        }
        let mut order: Vec<usize> =
            (0..sources.len()).filter(|&number| sources[number].key().is_some()).collect();
        order.sort_by(|&a, &b| sources[a].key().cmp(&sources[b].key()).then(a.cmp(&b)));
        Ok(Self { sources, order })
    }

    /// The source with the current row; `None` past the end.
    pub(crate) fn front(&self) -> Option<&S> {
        self.order.first().map(|&number| &self.sources[number])
    }

    /// Moves to the next row.
    pub(crate) fn advance(&mut self) -> Result<()> {
        let Some(&front) = self.order.first() else { return Ok(()) };
        self.sources[front].advance()?;
        let Some(key) = self.sources[front].key() else {
            self.order.remove(0);
            return Ok(());
        };
        let mut place = 0;
        while let Some(&next) = self.order.get(place + 1) {
            let next_key = self.sources[next].key().expect("sources at their end are not listed");
            if (key, front) < (next_key, next) {
                break;
            }
            self.order[place] = next;
            place += 1;
        }
        self.order[place] = front;
        Ok(())
    }
}
