//! What a reader at one revision sees of a range: the newest version of each key, if it is a put.
//!
//! One idea: sources are numbered newest first, and a version in a newer source is newer, so the
//! sources stand in a short list sorted by (current key, number), and of those at the front key the
//! first one that has a version at the revision decides. Then all that are at this key step.
//!
//! Nearly always one source, the bottom level, is far ahead of the others. So when the front one
//! enters a block, the whole block is compared with the others and with the end of the range: a
//! block that is *alone* is walked without a comparison of keys; and if all its rows are old enough
//! for the reader, by its control bytes only.

use std::cell::RefCell;
use std::cmp::Ordering;

use crate::iter::source::{Direction, Source, is_past};
use crate::row::RowRef;
use crate::segment::Ahead;
use crate::snapshot::{Snapshot, Values};
use crate::{Entry, KeyRange, Kind, Result};

/// Walk of [`Snapshot::rows`]: the live keys of a range, in key order or against it, each shown
/// where it lies. [`Rows::next_row`] copies and allocates nothing. After an error it is at its end.
///
/// Invariants: `order` has the numbers of all sources that are not at their end, sorted by
/// (current key in this direction, number); number 0 is the newest source. The first `same` of them
/// are at the front key.
pub struct Rows {
    /// Keeps files and memtables alive.
    snapshot: Snapshot,
    sources: Vec<Source>,
    order: Vec<usize>,
    same: usize,
    range: KeyRange,
    at: u64,
    direction: Direction,
    /// The block of the front source whose keys all are in the range and before those of others.
    alone: Option<(usize, usize)>,
    /// That source, if besides all rows of the block are visible at `at` and the walk goes forward.
    plain: Option<usize>,
    /// The block of the front source for which was last looked whether it is alone.
    looked_at: Option<(usize, usize)>,
    /// Whether the front key was shown: the next step leaves it.
    is_shown: bool,
    /// An error on the way to the first row, not reported yet.
    failed: Option<crate::Error>,
    ahead: RefCell<Ahead>,
}

impl Rows {
    /// The part of `sources`, newest first, that is in `range` and visible at `at`.
    pub(crate) fn new(
        snapshot: Snapshot,
        mut sources: Vec<Source>,
        range: KeyRange,
        at: u64,
        direction: Direction,
    ) -> Self {
        let failed = sources.iter_mut().try_for_each(|source| source.seek(&range, direction)).err();
        let mut rows = Self {
            snapshot,
            sources,
            order: Vec::new(),
            same: 0,
            range,
            at,
            direction,
            alone: None,
            plain: None,
            looked_at: None,
            is_shown: false,
            failed,
            ahead: RefCell::default(),
        };
        if rows.failed.is_none() {
            rows.order = (0..rows.sources.len()).collect();
            rows.sort();
        }
        rows
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] only for a forged file.
    #[inline]
    pub fn next_row(&mut self) -> Result<Option<RowRef<'_>>> {
        match self.find() {
            Ok(Some(number)) => {
                Ok(Some(self.sources[number].row(&self.snapshot).of_walk(&self.ahead)))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                self.end();
                Err(error)
            }
        }
    }

    /// There is no next row.
    fn end(&mut self) {
        self.order.clear();
        (self.alone, self.plain, self.is_shown) = (None, None, false);
    }

    /// Moves to the next visible row and returns the source that has it.
    #[inline]
    fn find(&mut self) -> Result<Option<usize>> {
        if self.is_shown {
            if let Some(front) = self.plain
                && self.sources[front].advance_put_in_block()?
            {
                return Ok(Some(front));
            }
            self.is_shown = false;
            self.step()?;
        }
        loop {
            let Some(&front) = self.order.first() else {
                return self.failed.take().map_or(Ok(None), Err);
            };
            if self.alone.is_none() && self.is_at_end(front) {
                self.order.clear();
                return Ok(None);
            }
            let decided = match self.sources[front].select(self.at)? {
                true => Some(front),
                false => self.select_older()?,
            };
            if let Some(number) = decided
                && self.sources[number].kind() == Kind::Put
            {
                self.is_shown = true;
                return Ok(Some(number));
            }
            self.step()?;
        }
    }

    fn is_at_end(&self, front: usize) -> bool {
        let key = self.sources[front].key().expect("sources at their end are not listed");
        is_past(&self.range, self.direction, key)
    }

    /// Of the sources at the front key behind the front one, the first that has a version at `at`.
    fn select_older(&mut self) -> Result<Option<usize>> {
        for place in 1..self.same {
            let number = self.order[place];
            if self.sources[number].select(self.at)? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Counts the sources at the front key.
    fn count_same(&mut self) {
        let Some(front) = self.order.first() else { return };
        let key = self.sources[*front].key();
        let others = self.order[1..].iter();
        self.same = 1 + others.take_while(|number| self.sources[**number].key() == key).count();
    }

    /// Leaves the front key.
    #[inline]
    fn step(&mut self) -> Result<()> {
        let front = self.order[0];
        if self.alone.is_some() {
            let source = &mut self.sources[front];
            source.step(self.direction)?;
            if source.key().is_some() && source.block_name() == self.alone {
                return Ok(());
            }
            (self.alone, self.plain) = (None, None);
            self.sink();
            return Ok(());
        }
        for &number in &self.order[..self.same] {
            self.sources[number].step(self.direction)?;
        }
        if self.same == 1 {
            self.sink()
        } else {
            self.sort()
        }
        Ok(())
    }

    /// Puts the sources into order.
    fn sort(&mut self) {
        let Self { sources, order, direction, .. } = self;
        order.retain(|number| sources[*number].key().is_some());
        order.sort_by(|&a, &b| {
            let keys = sources[a].key().cmp(&sources[b].key());
            let keys = if *direction == Direction::Forward { keys } else { keys.reverse() };
            keys.then(a.cmp(&b))
        });
        self.count_same();
        self.look_ahead();
    }

    /// Puts the front source, which has moved, to its place.
    fn sink(&mut self) {
        let front = self.order[0];
        let Some(key) = self.sources[front].key() else {
            self.order.remove(0);
            self.count_same();
            self.look_ahead();
            return;
        };
        let (mut place, mut is_equal) = (0, false);
        while let Some(&next) = self.order.get(place + 1) {
            let next_key = self.sources[next].key().expect("sources at their end are not listed");
            let keys = match self.direction {
                Direction::Forward => key.cmp(next_key),
                Direction::Backward => next_key.cmp(key),
            };
            is_equal = keys == Ordering::Equal;
            if keys.then(front.cmp(&next)) == Ordering::Less {
                break;
            }
            self.order[place] = next;
            place += 1;
        }
        self.order[place] = front;
        if place > 0 || is_equal {
            self.count_same();
        } else {
            self.same = 1;
        }
        // Within its block the front source meets the same others as when it was looked at last.
        if place > 0 || self.looked_at != self.sources[front].block_name() {
            self.look_ahead();
        }
    }

    /// Looks whether the block of the front source is alone.
    fn look_ahead(&mut self) {
        let Some(front) = self.order.first().map(|number| &self.sources[*number]) else { return };
        self.looked_at = front.block_name();
        let Some(block_end) = front.block_end(self.direction) else { return };
        let next = self.order.get(1).and_then(|number| self.sources[*number].key());
        let is_before_next = next.is_none_or(|next| match self.direction {
            Direction::Forward => block_end < next,
            Direction::Backward => block_end > next,
        });
        if is_before_next && !is_past(&self.range, self.direction, block_end) {
            self.alone = front.block_name();
            let is_plain = self.direction == Direction::Forward && front.is_block_up_to(self.at);
            self.plain = self.order.first().copied().filter(|_| is_plain);
        }
    }
}

/// Iterator of [`Snapshot::range`]: as [`Rows`], with a copy of each row.
pub struct Range {
    rows: Rows,
    values: Values,
}

impl Range {
    pub(crate) fn new(rows: Rows, values: Values) -> Self {
        Self { rows, values }
    }
}

impl Iterator for Range {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = match self.rows.next_row() {
            Ok(row) => row?.to_entry(self.values),
            Err(error) => Err(error),
        };
        if entry.is_err() {
            self.rows.end();
        }
        Some(entry)
    }
}
