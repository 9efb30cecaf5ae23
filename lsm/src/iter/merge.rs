//! A k-way merge of rows in key order, for merges of tables.
//!
//! One idea: sources are numbered newest first, and versions in newer sources are newer, so the
//! order (key, source) is the order (key ascending, revision descending), without a look at a
//! revision. The sources stand in a short list sorted by that order. After a step the front one
//! sinks to its place: as long as one source is far ahead of the others (the bottom level, nearly
//! always), that is one comparison a row.

use crate::Result;
use crate::iter::level::LevelCursor;

/// Sources in one order.
///
/// Invariants: `order` has the numbers of all sources that are not at their end, sorted by
/// (current key, number); number 0 is the newest source.
pub(crate) struct Merge {
    sources: Vec<LevelCursor>,
    order: Vec<usize>,
}

impl Merge {
    /// Merges `sources`, newest first, from the first key at or above `start` on.
    pub(crate) fn new(mut sources: Vec<LevelCursor>, start: &[u8]) -> Result<Self> {
        for source in &mut sources {
            source.seek(start)?;
        }
        let mut order: Vec<usize> =
            (0..sources.len()).filter(|&number| sources[number].key().is_some()).collect();
        order.sort_by(|&a, &b| sources[a].key().cmp(&sources[b].key()).then(a.cmp(&b)));
        Ok(Self { sources, order })
    }

    /// The source with the current row; `None` past the end.
    pub(crate) fn front(&self) -> Option<&LevelCursor> {
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
