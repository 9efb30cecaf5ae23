//! Which tables to merge next: a pure choice from what the manifest knows.
//!
//! Lazy leveling (Dostoevsky, SIGMOD 2018): the bottom is one sorted run; above it tiers collect
//! runs that overlap, level 0 (tier 0) the flushed tables. In order of need:
//!
//! 1. level 0 has as many tables as permitted (reads look into each). All above the bottom is merged
//!    into it if that is large enough beside what it touches there. Otherwise level 0 becomes one run
//!    of tier 1; or, if that has all but one of the runs permitted, the two become one of tier 2; and
//!    so on, as a counter carries;
//! 2. a merge of all above the bottom into it would drop a quarter of what it has to read;
//! 3. a quarter of a bottom table can be dropped;
//! 4. values nobody refers to, in segments worth rewriting, are an eighth of those referred to.
//!
//! A quarter is one of the rows, or one of the bytes that they hold, values included: a few large
//! values among many small rows are no reason for reads, but one for space.
//!
//! What can be dropped is known from [`Garbage`](crate::garbage::Garbage) before a byte is read, so
//! no table is ever rewritten for nothing. The sequence of choices ends: a merge among tiers makes
//! one run of several and takes all its rows to a higher tier.

use std::collections::{BTreeMap, BTreeSet};

use crate::Keyspace;
use crate::garbage;
use crate::manifest::{Level, TIER_MAX, TableRecord};
use crate::segment::SegmentInfo;
use crate::version::depth;

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
    /// The tiers up to this one, into a run of the next.
    Tiers(Keyspace, u8),
    /// All above the bottom, and the bottom tables that it touches.
    Upper(Keyspace),
    /// Neighbouring bottom tables, by position.
    Bottom(Keyspace, std::ops::Range<usize>),
}

/// The tables of one keyspace as the manifest knows them.
pub(crate) struct Shape<'a> {
    pub keyspace: Keyspace,
    /// Above the bottom, newest first.
    pub upper: Vec<&'a TableRecord>,
    /// Sorted by key.
    pub bottom: Vec<&'a TableRecord>,
}

/// What else the choice depends on.
pub(crate) struct Pressure<'a> {
    /// As in [`Options`](crate::Options).
    pub level0_tables: usize,
    pub bottom_factor: u64,
    /// The durable compacted revision.
    pub compacted: u64,
    /// Segments and the bytes referred to in each.
    pub segments: &'a BTreeMap<u64, SegmentInfo>,
    pub references: &'a BTreeMap<u64, u64>,
}

/// The next merge, if one is worth it.
pub(crate) fn pick(shapes: &[Shape<'_>], pressure: &Pressure<'_>) -> Option<Choice> {
    shapes
        .iter()
        .find_map(|shape| full_level0(shape, pressure))
        .or_else(|| {
            let frees = |shape: &&Shape<'_>| upper_frees_enough(shape, pressure.compacted);
            shapes.iter().find(frees).map(|shape| Choice::Upper(shape.keyspace))
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

fn full_level0(shape: &Shape<'_>, pressure: &Pressure<'_>) -> Option<Choice> {
    let of_tier = |tier| {
        let tables = shape.upper.iter().copied();
        tables.filter(move |table| table.level == Level::Tier(tier))
    };
    let level0 = of_tier(0).count();
    if level0 < pressure.level0_tables.max(1) {
        return None;
    }
    // A single table has none to become one with.
    if level0 == 1 || is_large_for_bottom(shape, pressure.bottom_factor) {
        return Some(Choice::Upper(shape.keyspace));
    }
    let has_room = |tier: &u8| depth(of_tier(*tier)) + 1 < pressure.level0_tables.max(2);
    let tier = (1..=TIER_MAX).find(has_room);
    Some(tier.map_or(Choice::Upper(shape.keyspace), |tier| Choice::Tiers(shape.keyspace, tier - 1)))
}

/// Whether all above the bottom is large beside what it touches there: by what a merge would write,
/// or by what runs that overlap hold, each its own versions of a few keys with large values.
fn is_large_for_bottom(shape: &Shape<'_>, bottom_factor: u64) -> bool {
    let is_large = |bytes: fn(&TableRecord) -> u64| {
        let upper: u64 = shape.upper.iter().copied().map(bytes).sum();
        upper.saturating_mul(bottom_factor) >= touched(shape).map(bytes).sum()
    };
    is_large(|table| table.info.bytes) || is_large(held_bytes)
}

/// Bottom tables in whose stretch one above may have a key.
fn touched<'a>(shape: &Shape<'a>) -> impl Iterator<Item = &'a TableRecord> + Clone {
    shape.bottom.iter().copied().filter(|bottom| {
        let meets = |upper: &&TableRecord| {
            upper.info.first_key <= bottom.info.last_key
                && upper.info.last_key >= bottom.info.first_key
        };
        shape.upper.iter().any(meets)
    })
}

fn upper_frees_enough(shape: &Shape<'_>, compacted: u64) -> bool {
    let floor = garbage::floor(shape.keyspace, compacted);
    let upper = shape.upper.iter().copied();
    is_worth(floor, upper.clone(), upper.chain(touched(shape)))
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
    // What only tables above the bottom refer to is not for this merge to free.
    let of_bottom: BTreeSet<u64> = shapes
        .iter()
        .flat_map(|shape| shape.bottom.iter().flat_map(|table| &table.info.segments))
        .map(|(id, _, _)| *id)
        .collect();
    let dead: u64 = poor
        .intersection(&of_bottom)
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

    fn run(tier: u8, id: u64, keys: &str, rows: u64) -> TableRecord {
        TableRecord { level: Level::Tier(tier), ..table(id, keys, rows, &[]) }
    }

    fn choose(
        upper: &[TableRecord],
        bottom: &[TableRecord],
        compacted: u64,
        value_bytes: u64,
    ) -> Option<Choice> {
        let shape = Shape {
            keyspace: Keyspace::Kv,
            upper: upper.iter().collect(),
            bottom: bottom.iter().collect(),
        };
        let referred = upper.iter().chain(bottom).map(|table| table.info.rows * 100).sum();
        let info = SegmentInfo { id: 7, bytes: value_bytes, digest: 0, values: 1, value_bytes };
        let pressure = Pressure {
            level0_tables: 4,
            bottom_factor: 8,
            compacted,
            segments: &BTreeMap::from([(7, info)]),
            references: &BTreeMap::from([(7, referred)]),
        };
        pick(&[shape], &pressure)
    }

    #[test]
    fn level_0_is_merged_when_it_is_full() {
        let tables: Vec<_> = (0..4).map(|id| run(0, id, "a-z", 10)).collect();
        assert_eq!(choose(&tables[..3], &[], 9, 0), None);
        assert_eq!(choose(&tables, &[], 9, 0), Some(Choice::Upper(Keyspace::Kv)));
    }

    #[test]
    fn a_few_large_values_above_many_small_rows_go_to_the_bottom() {
        let large = |id| {
            let mut run = run(0, id, "a-z", 10);
            run.info.segments = vec![(7, 10, 10 << 20)];
            run
        };
        let bottom = [table(9, "a-z", 1_000_000, &[])];
        let small: Vec<_> = (0..4).map(|id| run(0, id, "a-z", 10)).collect();
        assert_eq!(choose(&small, &bottom, 9, 0), Some(Choice::Tiers(Keyspace::Kv, 0)));
        let large: Vec<_> = (0..4).map(large).collect();
        assert_eq!(choose(&large, &bottom, 9, 0), Some(Choice::Upper(Keyspace::Kv)));
    }

    #[test]
    fn level_0_goes_to_the_bottom_when_it_is_an_eighth_of_what_it_touches_there() {
        let tables: Vec<_> = (0..4).map(|id| run(0, id, "c-f", 10)).collect();
        let beside = table(8, "a-b", 1_000, &[]);
        let large = [beside.clone(), table(9, "f-z", 321, &[])];
        assert_eq!(choose(&tables, &large, 9, 0), Some(Choice::Tiers(Keyspace::Kv, 0)));
        let small = [beside, table(9, "f-z", 320, &[])];
        assert_eq!(choose(&tables, &small, 9, 0), Some(Choice::Upper(Keyspace::Kv)));
    }

    #[test]
    fn a_full_tier_is_merged_along_with_those_before_it() {
        let bottom = [table(99, "a-z", 100_000, &[])];
        let mut upper: Vec<_> = (0..4).map(|id| run(0, id, "c-f", 10)).collect();
        let mut choices = Vec::new();
        for tier in [1, 1, 1, 3, 2, 2, 2] {
            upper.push(run(tier, upper.len() as u64, "c-f", 40));
            upper.sort_by_key(|table| table.level);
            choices.push(choose(&upper, &bottom, 9, 0));
        }
        let expected = [0, 0, 1, 1, 1, 1, 2].map(|tier| Some(Choice::Tiers(Keyspace::Kv, tier)));
        assert_eq!(choices, expected);
    }

    #[test]
    fn tables_of_a_tier_that_do_not_overlap_are_one_run() {
        let bottom = [table(99, "a-z", 100_000, &[])];
        let mut upper: Vec<_> = (0..4).map(|id| run(0, id, "c-f", 10)).collect();
        upper.extend(["a-b", "c-d", "e-f", "g-h"].map(|keys| run(1, 50, keys, 40)));
        assert_eq!(choose(&upper, &bottom, 9, 0), Some(Choice::Tiers(Keyspace::Kv, 0)));
        upper.extend(["b-c", "d-e"].map(|keys| run(1, 60, keys, 40)));
        assert_eq!(choose(&upper, &bottom, 9, 0), Some(Choice::Tiers(Keyspace::Kv, 0)));
        upper.push(run(1, 70, "c-c", 40));
        assert_eq!(choose(&upper, &bottom, 9, 0), Some(Choice::Tiers(Keyspace::Kv, 1)));
    }

    /// Ten thousand flushes of tables that touch all of the bottom, without garbage.
    #[test]
    fn runs_stay_few_and_rows_are_written_seldom_whatever_the_size_of_the_bottom() {
        for bottom_rows in [0, 1_000, 50_000, 1_000_000] {
            let (mut upper, mut bottom) = (Vec::new(), vec![table(0, "a-z", bottom_rows, &[])]);
            let (mut written, mut most) = (0, 0);
            for flush in 0..10_000 {
                upper.insert(0, run(0, flush, "a-z", 10));
                while let Some(choice) = choose(&upper, &bottom, 9, 0) {
                    let (level, count) = match choice {
                        Choice::Tiers(_, last) => {
                            let count =
                                upper.partition_point(|table| table.level <= Level::Tier(last));
                            (Level::Tier(last + 1), count)
                        }
                        Choice::Upper(_) => (Level::Bottom, upper.len()),
                        Choice::Bottom(..) => panic!("the bottom has no garbage"),
                    };
                    let merged: Vec<_> = upper.drain(..count).collect();
                    assert!(merged.len() >= 4, "{} tables", merged.len());
                    let mut rows = merged.iter().map(|table| table.info.rows).sum::<u64>();
                    if level == Level::Bottom {
                        // All keys are there already.
                        rows = rows.max(bottom[0].info.rows);
                        bottom = vec![table(0, "a-z", rows, &[])];
                    } else {
                        upper.insert(0, TableRecord { level, ..table(flush, "a-z", rows, &[]) });
                    }
                    written += rows;
                }
                most = most.max(upper.len());
            }
            let times = written / 100_000;
            assert!(times <= 14 && most <= 20, "{bottom_rows}: {times} times, {most} runs");
        }
    }

    #[test]
    fn level_0_is_merged_when_that_frees_a_quarter_of_what_is_read() {
        let upper = [table(1, "c-d", 100, &[(50, 30), (60, 20)])];
        let bottom = [table(2, "a-b", 900, &[]), table(3, "c-e", 100, &[])];
        assert_eq!(choose(&upper, &bottom, 59, 0), None, "30 of 200");
        let merged = choose(&upper, &bottom, 60, 0);
        assert_eq!(merged, Some(Choice::Upper(Keyspace::Kv)), "50 of 200");
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
        let upper = [with(7_500)[1].clone()];
        assert_eq!(choose(&upper, &[], 5, 0), Some(Choice::Upper(Keyspace::Kv)));
        let bottom = [table(3, "c-e", 101, &[])];
        assert_eq!(choose(&upper, &bottom, 5, 0), None, "it has to read twice as much");
    }

    #[test]
    fn values_are_relocated_when_much_of_a_segment_is_dead() {
        let bottom = [table(1, "a-b", 10, &[]), table(2, "c-d", 20, &[])];
        assert_eq!(choose(&[], &bottom, 4, 5_555), None, "54 % of it is referred to");
        assert_eq!(choose(&[], &bottom, 4, 5_556), Some(Choice::Bottom(Keyspace::Kv, 1..2)));
    }
}
