//! What a reader at one revision sees of a range: the newest version of each key, if it is a put.
//!
//! One idea: sources are numbered newest first, and a version in a newer source is newer, so the
//! sources stand in a short list sorted by (current key, number), and of those at the front key the
//! first one that has a version at the revision decides. Then all that are at this key step.
//!
//! Nearly always one source, the bottom level, has most of the keys. So where the front one stays
//! in front, a search says up to which row of its block it is *alone*: in the range, and before the
//! keys of the others. These rows are walked without a comparison of keys; and if all rows of the
//! block are old enough for the reader, by its control bytes only.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::ops::Bound;

use crate::iter::source::{Direction, Source, Stretch, is_past};
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
    /// Whether there may be keys behind the range in this direction.
    is_bounded: bool,
    /// The rows of the front source that are in the range and before those of others.
    alone: Option<Stretch>,
    /// That source and the end of the rows, if all of them are visible at `at` and the walk goes
    /// forward.
    plain: Option<(usize, u32)>,
    /// The block of the front source that was found not to be alone, since it is in front.
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
        let is_bounded = match direction {
            Direction::Forward => range.end != Bound::Unbounded,
            Direction::Backward => !range.start.is_empty(),
        };
        let failed = sources.iter_mut().try_for_each(|source| source.seek(&range, direction)).err();
        let mut rows = Self {
            snapshot,
            sources,
            order: Vec::new(),
            same: 0,
            range,
            at,
            direction,
            is_bounded,
            alone: None,
            plain: None,
            looked_at: None,
            is_shown: false,
            failed,
            ahead: RefCell::default(),
        };
        if rows.failed.is_none() {
            rows.sort();
        }
        rows
    }

    /// Lists the sources, in order.
    fn sort(&mut self) {
        let Self { sources, direction, .. } = self;
        let is_listed = |number: &usize| sources[*number].key().is_some();
        self.order = (0..sources.len()).filter(is_listed).collect();
        // Stable: where keys are equal the newer source stays in front.
        let key = |number: usize| sources[number].key().unwrap_or_default();
        self.order.sort_by(|&a, &b| compare(*direction, key(a), key(b)));
        self.count_same(1);
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
            if let Some((front, limit)) = self.plain
                && self.sources[front].advance_put_in_block(limit)?
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
            if self.alone.is_none()
                && self.is_bounded
                && let Some(key) = self.sources[front].key()
                && is_past(&self.range, self.direction, key)
            {
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

    /// Leaves the front key.
    #[inline]
    fn step(&mut self) -> Result<()> {
        let (front, was_shared) = (self.order[0], self.same > 1);
        if let Some(alone) = self.alone {
            let source = &mut self.sources[front];
            source.step(self.direction)?;
            if source.is_in(alone) {
                return Ok(());
            }
            (self.alone, self.plain) = (None, None);
            self.sink(0);
        } else {
            // The last of them first, so that what is behind each is in order.
            for place in (0..self.same).rev() {
                self.sources[self.order[place]].step(self.direction)?;
                self.sink(place);
            }
        }
        // Where sources take turns, to look at each turn would be in vain.
        let stays = self.order.first() == Some(&front);
        if was_shared || !stays {
            self.looked_at = None;
        }
        if self.same == 1 && (was_shared || stays) { self.look_ahead() } else { Ok(()) }
    }

    /// Puts the source at place `from`, which has moved, where it belongs behind that.
    fn sink(&mut self, from: usize) {
        let number = self.order[from];
        let Some(key) = self.sources[number].key() else {
            self.order.remove(from);
            self.count_same(1);
            return;
        };
        let (mut place, mut greater, mut equal) = (from, 0, 0);
        while let Some(&next) = self.order.get(place + 1) {
            let next_key = self.sources[next].key().expect("sources at their end are not listed");
            let keys = compare(self.direction, key, next_key);
            match keys {
                Ordering::Greater => greater += 1,
                Ordering::Equal => equal += 1,
                Ordering::Less => {}
            }
            if keys.then(number.cmp(&next)) == Ordering::Less {
                break;
            }
            self.order[place] = next;
            place += 1;
        }
        self.order[place] = number;
        // Of the front key, what was compared is not compared again.
        match (greater, equal) {
            _ if from > 0 => {}
            (0, 0) | (1, _) => self.same = 1,
            (0, _) => self.count_same(1 + equal),
            _ => self.count_same(1),
        }
    }

    /// Counts the sources at the front key, which `known` are.
    fn count_same(&mut self, known: usize) {
        let Some(front) = self.order.first() else { return };
        let key = self.sources[*front].key();
        let others = self.order[known..].iter();
        self.same = known + others.take_while(|number| self.sources[**number].key() == key).count();
    }

    /// Looks how far the front source is alone.
    fn look_ahead(&mut self) -> Result<()> {
        let Some(&number) = self.order.first() else { return Ok(()) };
        let front = &self.sources[number];
        let block = front.block_name();
        if block == self.looked_at {
            return Ok(());
        }
        let next = self.order.get(1).and_then(|number| self.sources[*number].key());
        self.alone = front.stretch(next, &self.range, self.direction)?;
        match self.alone {
            None => self.looked_at = block,
            Some(alone) => {
                let is_plain =
                    self.direction == Direction::Forward && front.is_block_up_to(self.at);
                self.plain = is_plain.then_some((number, alone.limit));
            }
        }
        Ok(())
    }
}

fn compare(direction: Direction, left: &[u8], right: &[u8]) -> Ordering {
    match direction {
        Direction::Forward => left.cmp(right),
        Direction::Backward => right.cmp(left),
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
