//! Which tables to merge next: a pure choice from what the manifest knows.
//!
//! Lazy leveling (Dostoevsky, SIGMOD 2018), in its simplest form: level 0 collects flushed tables
//! and is merged as a whole into the bottom, which is one sorted run. In order of need:
//!
//! 1. level 0 has as many tables as permitted (reads look into each);
//! 2. a merge of level 0 would drop a quarter of what it has to read;
//! 3. a quarter of a bottom table can be dropped;
//! 4. values nobody refers to, in segments worth rewriting, are an eighth of those referred to.
//!
//! A quarter is one of the rows, or one of the bytes that they hold, values included: a few large
//! values among many small rows are no reason for reads, but one for space.
//!
//! What can be dropped is known from [`Garbage`](crate::garbage::Garbage) before a byte is read, so
//! no table is ever rewritten for nothing, and the sequence of choices ends.

use std::collections::{BTreeMap, BTreeSet};

use crate::Keyspace;
use crate::garbage;
use crate::manifest::TableRecord;
use crate::segment::SegmentInfo;

/// Garbage is worth a merge when it is at least one in this many rows, or bytes.
const GARBAGE_SHARE: u64 = 4;
/// A segment is poor when less than this share of its bytes is referred to. Chosen by
/// `tests/amplification.rs`: with less of it files take more than 1.5 times what can be read, with
/// more of it uniform overwrites write each value more than twice.
const POOR_PERCENT: u64 = 54;
/// Relocation begins when dead bytes in poor segments are one in this many referred-to bytes.
const DEAD_SHARE: u64 = 8;

/// Tables to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// All of level 0, and the bottom tables that it touches.
    Level0(Keyspace),
    /// Neighbouring bottom tables, by position.
    Bottom(Keyspace, std::ops::Range<usize>),
}

/// The tables of one keyspace as the manifest knows them.
pub(crate) struct Shape<'a> {
    pub keyspace: Keyspace,
    /// Newest first.
    pub level0: Vec<&'a TableRecord>,
    /// Sorted by key.
    pub bottom: Vec<&'a TableRecord>,
}

/// What else the choice depends on.
pub(crate) struct Pressure<'a> {
    /// Level-0 tables that start a merge.
    pub level0_tables: usize,
    /// The durable compacted revision.
    pub compacted: u64,
    /// Segments and the bytes referred to in each.
    pub segments: &'a BTreeMap<u64, SegmentInfo>,
    pub references: &'a BTreeMap<u64, u64>,
}

/// The next merge, if one is worth it.
pub(crate) fn pick(shapes: &[Shape<'_>], pressure: &Pressure<'_>) -> Option<Choice> {
    let is_full = |shape: &&Shape<'_>| shape.level0.len() >= pressure.level0_tables.max(1);
    let level0 = |shape: &Shape<'_>| Choice::Level0(shape.keyspace);
    shapes
        .iter()
        .find(is_full)
        .map(level0)
        .or_else(|| {
            let frees = |shape: &&Shape<'_>| level0_frees_enough(shape, pressure.compacted);
            shapes.iter().find(frees).map(level0)
        })
        .or_else(|| shapes.iter().find_map(|shape| bottom_with_garbage(shape, pressure.compacted)))
        .or_else(|| bottom_with_poor_values(shapes, pressure))
}

/// Segments of which so little is referred to that their values are copied when met in a merge.
pub(crate) fn poor_segments(
    segments: &BTreeMap<u64, SegmentInfo>,
    references: &BTreeMap<u64, u64>,
) -> BTreeSet<u64> {
    let is_poor = |info: &&SegmentInfo| {
        let referred = references.get(&info.id).copied().unwrap_or(0);
        referred * 100 < info.value_bytes * POOR_PERCENT
    };
    segments.values().filter(is_poor).map(|info| info.id).collect()
}

/// Whether a merge that drops what `garbage` tables have too much, and rewrites `all`, is worth it.
fn is_worth<'a>(
    floor: u64,
    garbage: impl Iterator<Item = &'a TableRecord> + Clone,
    all: impl Iterator<Item = &'a TableRecord> + Clone,
) -> bool {
    let is_share = |garbage: u64, all: u64| garbage > 0 && garbage * GARBAGE_SHARE >= all;
    let garbage_rows = garbage.clone().map(|table| table.garbage.rows(floor)).sum();
    let garbage_bytes = garbage.map(|table| table.garbage.value_bytes(floor)).sum();
    let rows = all.clone().map(|table| table.info.rows).sum();
    is_share(garbage_rows, rows) || is_share(garbage_bytes, all.map(held_bytes).sum())
}

/// Bytes of a table and of the values that it refers to.
fn held_bytes(table: &TableRecord) -> u64 {
    table.info.bytes + table.info.segments.iter().map(|(_, _, bytes)| bytes).sum::<u64>()
}

fn level0_frees_enough(shape: &Shape<'_>, compacted: u64) -> bool {
    let floor = garbage::floor(shape.keyspace, compacted);
    let level0 = shape.level0.iter().copied();
    let first = level0.clone().map(|table| &table.info.first_key).min();
    let last = level0.clone().map(|table| &table.info.last_key).max();
    let (Some(first), Some(last)) = (first, last) else { return false };
    let is_touched =
        |table: &&TableRecord| table.info.first_key <= *last && table.info.last_key >= *first;
    let touched = shape.bottom.iter().copied().filter(is_touched);
    is_worth(floor, level0.clone(), level0.chain(touched))
}

/// The bottom table with the most garbage, and its neighbours that have as large a share of it.
fn bottom_with_garbage(shape: &Shape<'_>, compacted: u64) -> Option<Choice> {
    let floor = garbage::floor(shape.keyspace, compacted);
    let table = |position: usize| std::iter::once(shape.bottom[position]);
    let is_worth = |position: &usize| is_worth(floor, table(*position), table(*position));
    let garbage = |position: &usize| {
        let garbage = &shape.bottom[*position].garbage;
        (garbage.value_bytes(floor), garbage.rows(floor))
    };
    let worst = (0..shape.bottom.len()).filter(is_worth).max_by_key(garbage)?;
    let start = (0..worst).rev().take_while(is_worth).last().unwrap_or(worst);
    let end = (worst..shape.bottom.len()).take_while(is_worth).last().unwrap_or(worst) + 1;
    Some(Choice::Bottom(shape.keyspace, start..end))
}

/// The bottom table that refers to the most bytes in poor segments, if enough there is dead.
fn bottom_with_poor_values(shapes: &[Shape<'_>], pressure: &Pressure<'_>) -> Option<Choice> {
    let poor = poor_segments(pressure.segments, pressure.references);
    let referred: u64 = pressure.references.values().sum();
    let dead: u64 = poor
        .iter()
        .map(|id| {
            let referred = pressure.references.get(id).copied().unwrap_or(0);
            pressure.segments[id].value_bytes.saturating_sub(referred)
        })
        .sum();
    if dead == 0 || dead * DEAD_SHARE < referred {
        return None;
    }
    let poor_bytes = |table: &TableRecord| -> u64 {
        let in_poor = table.info.segments.iter().filter(|(id, _, _)| poor.contains(id));
        in_poor.map(|(_, _, value_bytes)| value_bytes).sum()
    };
    let candidates = shapes.iter().flat_map(|shape| {
        shape.bottom.iter().enumerate().map(|(position, table)| {
            (poor_bytes(table), Choice::Bottom(shape.keyspace, position..position + 1))
        })
    });
    let worst = candidates.max_by_key(|(bytes, _)| *bytes)?;
    (worst.0 > 0).then_some(worst.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Revision;
    use crate::garbage::Garbage;
    use crate::manifest::Level;
    use crate::table::TableInfo;

    fn table(id: u64, keys: &str, rows: u64, garbage: &[(u64, u64)]) -> TableRecord {
        let (first, last) = keys.split_once('-').unwrap();
        TableRecord {
            keyspace: Keyspace::Kv,
            level: Level::Bottom,
            info: TableInfo {
                id,
                bytes: rows * 50,
                digest: 0,
                first_key: first.to_owned().into(),
                last_key: last.to_owned().into(),
                rows,
                revision_min: Revision::default(),
                revision_max: Revision::MAX,
                delta_sum: 0,
                segments: vec![(7, rows, rows * 100)],
            },
            // Values of no bytes: only rows count.
            garbage: Garbage {
                buckets: garbage.iter().map(|(revision, rows)| (*revision, *rows, 0)).collect(),
            },
        }
    }

    fn choose(
        level0: &[TableRecord],
        bottom: &[TableRecord],
        compacted: u64,
        value_bytes: u64,
    ) -> Option<Choice> {
        let shape = Shape {
            keyspace: Keyspace::Kv,
            level0: level0.iter().collect(),
            bottom: bottom.iter().collect(),
        };
        let referred = level0.iter().chain(bottom).map(|table| table.info.rows * 100).sum();
        let info = SegmentInfo { id: 7, bytes: value_bytes, digest: 0, values: 1, value_bytes };
        let pressure = Pressure {
            level0_tables: 4,
            compacted,
            segments: &BTreeMap::from([(7, info)]),
            references: &BTreeMap::from([(7, referred)]),
        };
        pick(&[shape], &pressure)
    }

    #[test]
    fn level_0_is_merged_when_it_is_full() {
        let tables: Vec<_> = (0..4).map(|id| table(id, "a-z", 10, &[])).collect();
        assert_eq!(choose(&tables[..3], &[], 9, 0), None);
        assert_eq!(choose(&tables, &[], 9, 0), Some(Choice::Level0(Keyspace::Kv)));
    }

    #[test]
    fn level_0_is_merged_when_that_frees_a_quarter_of_what_is_read() {
        let level0 = [table(1, "c-d", 100, &[(50, 30), (60, 20)])];
        let bottom = [table(2, "a-b", 900, &[]), table(3, "c-e", 100, &[])];
        assert_eq!(choose(&level0, &bottom, 59, 0), None, "30 of 200");
        let merged = choose(&level0, &bottom, 60, 0);
        assert_eq!(merged, Some(Choice::Level0(Keyspace::Kv)), "50 of 200");
    }

    #[test]
    fn neighbouring_bottom_tables_with_garbage_are_merged_together() {
        let bottom = [
            table(1, "a-b", 100, &[(5, 25)]),
            table(2, "c-d", 100, &[(5, 10)]),
            table(3, "e-f", 100, &[(5, 30)]),
            table(4, "g-h", 100, &[(5, 90)]),
        ];
        assert_eq!(choose(&[], &bottom, 4, 0), None);
        assert_eq!(choose(&[], &bottom, 5, 0), Some(Choice::Bottom(Keyspace::Kv, 2..4)));
    }

    #[test]
    fn a_few_large_values_are_worth_a_merge_when_they_hold_a_quarter_of_the_bytes() {
        // It holds 100 * 50 bytes of rows and 100 * 100 of values, so a quarter is 3750.
        let with = |garbage_bytes| {
            let mut bottom = [table(1, "a-b", 100, &[]), table(2, "c-d", 100, &[])];
            bottom[1].garbage.buckets = vec![(5, 1, garbage_bytes), (9, 1, 10_000)];
            bottom
        };
        assert_eq!(choose(&[], &with(3_749), 5, 0), None);
        let second = Some(Choice::Bottom(Keyspace::Kv, 1..2));
        assert_eq!(choose(&[], &with(3_750), 5, 0), second);
        assert_eq!(choose(&[], &with(3_750), 4, 0), None);
        let level0 = [with(7_500)[1].clone()];
        assert_eq!(choose(&level0, &[], 5, 0), Some(Choice::Level0(Keyspace::Kv)));
        let bottom = [table(3, "c-e", 101, &[])];
        assert_eq!(choose(&level0, &bottom, 5, 0), None, "it has to read twice as much");
    }

    #[test]
    fn values_are_relocated_when_much_of_a_segment_is_dead() {
        let bottom = [table(1, "a-b", 10, &[]), table(2, "c-d", 20, &[])];
        assert_eq!(choose(&[], &bottom, 4, 5_555), None, "54 % of it is referred to");
        assert_eq!(choose(&[], &bottom, 4, 5_556), Some(Choice::Bottom(Keyspace::Kv, 1..2)));
    }
}
