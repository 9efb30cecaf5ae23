//! What a reader at one revision sees of a range: the newest version of each key, if it is a put.

use crate::iter::merge::{AnySource, Merge, Source};
use crate::snapshot::{Snapshot, Values, entry_at_cursor, entry_of_record};
use crate::{Entry, KeyRange, Kind, Result};

/// Iterator of [`Snapshot::range`]: live keys in key order. After an error it is at its end.
pub struct Range {
    /// Keeps files and memtables alive.
    snapshot: Snapshot,
    /// `None` at the end.
    merge: Option<Merge<AnySource>>,
    /// An error on the way to the first row, not reported yet.
    failed: Option<crate::Error>,
    range: KeyRange,
    at: u64,
    values: Values,
    /// The newest key that was decided: its older versions are skipped.
    decided: Vec<u8>,
    has_decided: bool,
}

impl Range {
    /// The part of `merge` in `range` that is visible at `at`.
    pub(crate) fn new(
        snapshot: Snapshot,
        merge: Result<Merge<AnySource>>,
        range: KeyRange,
        at: u64,
        values: Values,
    ) -> Self {
        let (merge, failed) = match merge {
            Ok(merge) => (Some(merge), None),
            Err(error) => (None, Some(error)),
        };
        let decided = Vec::new();
        Self { snapshot, merge, failed, range, at, values, decided, has_decided: false }
    }

    fn find_next(&mut self) -> Result<Option<Entry>> {
        let Some(merge) = &mut self.merge else { return Ok(None) };
        loop {
            let Some(front) = merge.front() else { return Ok(None) };
            let key = front.key().expect("the front source is at a row");
            if self.range.is_past(key) {
                return Ok(None);
            }
            let is_decided = self.has_decided && key == self.decided;
            if is_decided || front.revision().main > self.at {
                merge.advance()?;
                continue;
            }
            self.decided.clear();
            self.decided.extend_from_slice(key);
            self.has_decided = true;
            let found = match front {
                AnySource::Memtable(cursor) => {
                    let record = cursor.record().expect("the front source is at a row");
                    let is_put = record.kind() == Kind::Put;
                    is_put.then(|| entry_of_record(record, self.values))
                }
                AnySource::Level(level) => {
                    let cursor = level.cursor();
                    let is_put = cursor.kind() == Kind::Put;
                    is_put
                        .then(|| entry_at_cursor(&self.snapshot, cursor, self.values))
                        .transpose()?
                }
            };
            merge.advance()?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
}

impl Iterator for Range {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        let found = self.find_next();
        if !matches!(found, Ok(Some(_))) {
            self.merge = None;
        }
        found.transpose()
    }
}
