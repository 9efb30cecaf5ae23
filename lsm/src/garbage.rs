//! What may be dropped, and how the counts survive it. Pure: no file is touched here.
//!
//! **The rule** (etcd's compaction at C): of each key, all versions above C stay, and the newest at
//! or below C stays, except a tombstone strictly below C. So among the versions of a key, newest
//! first, there is one *pivot*, the first with `main <= C`; all behind it go.
//!
//! **The counts.** The number of live keys at R is the sum of the deltas of all versions at or
//! below R, and must be the same after dropping, for each R >= C. The pivot is at or below every
//! such R, so its delta takes up the deltas of all that is dropped behind it ([`Fold`]). For a
//! contiguous piece of a key's history the sum is (live after) - (live before), so it stays in
//! -1..=1. A tombstone with a folded delta of 0 says that the key was dead before that piece too:
//! dropping the tombstone changes neither a sum nor what a read finds. With a folded delta of -1
//! it hides a put in an older table, and stays until a merge brings the two together.
//!
//! The `sys` keyspace keeps no history: it behaves as if compacted at infinity.
//!
//! [`Garbage`] remembers, for each table, at which compacted revision how many rows become
//! droppable, and how many bytes of values with them, so that merges are started only where they are
//! known to free something.

use varve_disk::trial;

use crate::{Delta, Keyspace, Kind, Revision};

/// The revision up to which history of `keyspace` is dropped.
pub(crate) fn floor(keyspace: Keyspace, compacted: u64) -> u64 {
    match keyspace {
        Keyspace::Kv => compacted + u64::from(trial::has_bug("compacted-too-far")),
        Keyspace::Sys => u64::MAX,
    }
}

/// Applies the rule to the versions of one key after another, newest first.
///
/// Invariants: between [`Fold::push`] and [`Fold::end_key`] all rows are of one key; at most one
/// row, the pivot, is held back.
pub(crate) struct Fold<R> {
    floor: u64,
    pivot: Option<Pivot<R>>,
}

struct Pivot<R> {
    row: R,
    revision: Revision,
    kind: Kind,
    delta_sum: i64,
}

impl<R> Fold<R> {
    /// Drops what is garbage when history up to `floor` is.
    pub(crate) fn new(floor: u64) -> Self {
        Self { floor, pivot: None }
    }

    /// Takes the next older version of the current key. Returns it back if it stays as it is;
    /// otherwise it is dropped, or may come out of [`Fold::end_key`].
    pub(crate) fn push(
        &mut self,
        revision: Revision,
        kind: Kind,
        delta: Delta,
        row: R,
    ) -> Option<R> {
        if self.shadow(revision, delta) {
            return None;
        }
        if revision.main > self.floor {
            return Some(row);
        }
        self.pivot = Some(Pivot { row, revision, kind, delta_sum: delta as i64 });
        None
    }

    /// Whether the next older version of the current key is dropped for certain; then it was taken.
    /// Otherwise it is for [`Fold::push`], and if it is a put it comes out of there or of
    /// [`Fold::end_key`].
    pub(crate) fn shadow(&mut self, revision: Revision, delta: Delta) -> bool {
        let Some(pivot) = &mut self.pivot else { return false };
        assert!(
            revision < pivot.revision,
            "versions come newest first: {revision:?} after {:?}",
            pivot.revision
        );
        if !trial::has_bug("delta-misfolded") {
            pivot.delta_sum += delta as i64;
        }
        true
    }

    /// Ends the key: the oldest version that stays, with the delta that it has from now on.
    /// Fails with a sum that no contiguous history has: then the rows are not what was written.
    pub(crate) fn end_key(&mut self) -> Result<Option<(R, Delta)>, i64> {
        let Some(pivot) = self.pivot.take() else { return Ok(None) };
        let delta = match pivot.delta_sum {
            -1 => Delta::Minus,
            0 => Delta::Zero,
            1 => Delta::Plus,
            impossible => return Err(impossible),
        };
        let hides_nothing = delta == Delta::Zero || trial::has_bug("tombstone-early");
        let is_dead = pivot.kind == Kind::Delete && hides_nothing;
        let is_dropped = is_dead && pivot.revision.main < self.floor;
        Ok((!is_dropped).then_some((pivot.row, delta)))
    }
}

/// Buckets of [`Garbage`] in one table.
pub(crate) const GARBAGE_BUCKETS_MAX: usize = 16;

/// At which compacted revision how much is droppable, for one table: (revision, rows, bytes of
/// their values) ascending, where what a bucket counts is droppable at or above its revision.
/// Rounded up, so never more than can be proven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Garbage {
    pub buckets: Vec<(u64, u64, u64)>,
}

impl Garbage {
    /// Rows that a merge would drop for certain when compacted at `floor`.
    pub(crate) fn rows(&self, floor: u64) -> u64 {
        self.droppable(floor).map(|(_, rows, _)| rows).sum()
    }

    /// Bytes of their values, as far as those are in the table's own rows.
    pub(crate) fn value_bytes(&self, floor: u64) -> u64 {
        self.droppable(floor).map(|(_, _, value_bytes)| value_bytes).sum()
    }

    fn droppable(&self, floor: u64) -> impl Iterator<Item = &(u64, u64, u64)> {
        self.buckets.iter().filter(move |(revision, _, _)| *revision <= floor)
    }
}

/// Collects the [`Garbage`] of a table while it is written.
pub(crate) struct GarbageBuilder {
    /// Whether older versions of the keys may lie in other tables, as under all above the bottom.
    has_older: bool,
    /// The rows of the current key, newest first, with the bytes of their values.
    key: Vec<(u64, Kind, Delta, u64)>,
    /// For each droppable row, the compacted revision from which it is, and the bytes of its value.
    droppable_from: Vec<(u64, u64)>,
}

impl GarbageBuilder {
    /// For a table of the bottom level, or (`has_older`) for one above it.
    pub(crate) fn new(has_older: bool) -> Self {
        Self { has_older, key: Vec::new(), droppable_from: Vec::new() }
    }

    /// Takes the next row of the current key, newest first.
    pub(crate) fn add(&mut self, main: u64, kind: Kind, delta: Delta, value_bytes: u64) {
        self.key.push((main, kind, delta, value_bytes));
    }

    /// Ends the current key.
    pub(crate) fn end_key(&mut self) {
        let mut delta_sum = 0;
        for (position, (main, kind, delta, value_bytes)) in self.key.iter().enumerate().rev() {
            delta_sum += *delta as i64;
            if position > 0 {
                // Shadowed: droppable once its successor is at or below the compacted revision.
                self.droppable_from.push((self.key[position - 1].0, *value_bytes));
            } else if *kind == Kind::Delete && delta_sum == 0 {
                // A tombstone that hides nothing goes when it is strictly below.
                self.droppable_from.push((main.saturating_add(1), 0));
            }
        }
        if self.has_older
            && let (Some((_, newest, ..)), Some((oldest, ..))) = (self.key.first(), self.key.last())
        {
            // The key was live before the oldest row here, so that row shadows one elsewhere.
            let was_live = i64::from(*newest == Kind::Put) - delta_sum == 1;
            if was_live {
                self.droppable_from.push((*oldest, 0));
            }
        }
        self.key.clear();
    }

    /// What was collected since the last call.
    pub(crate) fn finish(&mut self) -> Garbage {
        assert!(self.key.is_empty(), "the last key was ended");
        self.droppable_from.sort_unstable();
        let rows_per_bucket = self.droppable_from.len().div_ceil(GARBAGE_BUCKETS_MAX).max(1);
        let buckets = self
            .droppable_from
            .chunks(rows_per_bucket)
            .map(|rows| {
                let (revision, _) = rows.last().expect("chunks are not empty");
                let value_bytes = rows.iter().map(|(_, value_bytes)| value_bytes).sum();
                (*revision, rows.len() as u64, value_bytes)
            })
            .collect();
        self.droppable_from.clear();
        Garbage { buckets }
    }
}

#[cfg(test)]
mod property;

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(floor: u64, rows: &[(u64, Kind, Delta)]) -> Vec<(u64, Delta)> {
        let mut fold = Fold::new(floor);
        let mut kept = Vec::new();
        for (main, kind, delta) in rows {
            let revision = Revision { main: *main, sub: 0 };
            kept.extend(fold.push(revision, *kind, *delta, (*main, *delta)));
        }
        kept.extend(fold.end_key().unwrap().map(|((main, _), delta)| (main, delta)));
        kept
    }

    use Delta::{Minus, Plus, Zero};
    use Kind::{Delete, Put};

    #[test]
    fn the_newest_version_at_or_below_the_floor_stays_and_takes_up_the_deltas() {
        let rows = [(9, Put, Zero), (5, Put, Zero), (3, Put, Plus)];
        assert_eq!(fold(2, &rows), [(9, Zero), (5, Zero), (3, Plus)]);
        assert_eq!(fold(5, &rows), [(9, Zero), (5, Plus)]);
        assert_eq!(fold(8, &rows), [(9, Zero), (5, Plus)]);
        assert_eq!(fold(9, &rows), [(9, Plus)]);
    }

    #[test]
    fn a_tombstone_at_the_floor_stays_and_one_below_it_goes() {
        let rows = [(5, Delete, Minus), (3, Put, Plus)];
        assert_eq!(fold(4, &rows), [(5, Minus), (3, Plus)]);
        assert_eq!(fold(5, &rows), [(5, Zero)]);
        assert_eq!(fold(6, &rows), []);
    }

    #[test]
    fn a_tombstone_over_an_older_table_stays() {
        assert_eq!(fold(6, &[(5, Delete, Minus)]), [(5, Minus)]);
        assert_eq!(fold(6, &[(5, Delete, Minus), (3, Put, Zero)]), [(5, Minus)]);
    }

    #[test]
    fn garbage_is_counted_from_the_revision_at_which_it_can_go() {
        let mut builder = GarbageBuilder::new(false);
        for row in [(9, Put, Plus), (7, Delete, Minus), (4, Put, Zero), (2, Put, Plus)] {
            builder.add(row.0, row.1, row.2, row.0 * 100);
        }
        builder.end_key();
        let garbage = builder.finish();
        let droppable: Vec<u64> = (0..12).map(|floor| garbage.rows(floor)).collect();
        assert_eq!(droppable, [0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3]);
        let bytes: Vec<u64> = [3, 4, 7, 9].map(|floor| garbage.value_bytes(floor)).into();
        assert_eq!(bytes, [0, 200, 600, 1_300]);
    }

    #[test]
    fn a_row_above_an_older_live_one_makes_garbage_elsewhere() {
        let mut builder = GarbageBuilder::new(true);
        builder.add(9, Put, Zero, 10);
        builder.end_key();
        builder.add(6, Put, Plus, 10);
        builder.end_key();
        builder.add(7, Delete, Minus, 0);
        builder.end_key();
        assert_eq!(builder.finish().buckets, [(7, 1, 0), (9, 1, 0)]);
    }
}
