//! Which tables to merge next: a pure choice from what the manifest knows.
//!
//! Lazy leveling (Dostoevsky, SIGMOD 2018): the bottom is one sorted run; above it tiers collect
//! runs that overlap, level 0 (tier 0) the flushed tables. In order of need:
//!
//! 1. level 0 has as many tables as permitted (reads look into each); of two such, the fuller one
//!    first. All above the bottom is merged into it if that is large enough beside what it touches
//!    there. Otherwise level 0 becomes one run of tier 1; or, if that has all but one of the runs
//!    permitted, or many small tables side by side, the two become one of tier 2; and so on, as a
//!    counter carries;
//! 2. a merge of all above the bottom into it would drop a quarter of what it has to read;
//! 3. a quarter of a bottom table can be dropped;
//! 4. values nobody refers to, in segments worth rewriting, are an eighth of those referred to;
//! 5. there are hundreds of small segments (both: `values.rs`).
//!
//! A quarter is one of the rows, or one of the bytes that they hold, values included: a few large
//! values among many small rows are no reason for reads, but one for space.
//!
//! What can be dropped is known from [`Garbage`](crate::garbage::Garbage) before a byte is read, so
//! no table is ever rewritten for nothing. The sequence of choices ends: a merge among tiers makes
//! one run of several and takes all its rows to a higher tier.
//!
//! A merge is the whole of what it replaces, and others wait for it: so of the bottom it takes a few
//! tables at a time where it may choose.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use varve_disk::trial;

use crate::Keyspace;
use crate::garbage;
use crate::manifest::{Level, TIER_MAX, TableRecord};
use crate::segment::SegmentInfo;
use crate::version::depth;

#[cfg(test)]
mod tests;
mod values;

pub(crate) use values::segments_to_leave;

/// Garbage is worth a merge when it is at least one in this many rows, or bytes.
const GARBAGE_SHARE: u64 = 4;
/// Bottom tables that are merged together for their garbage, at most.
const BOTTOM_TABLES_MAX: usize = 8;
/// So many times as many small tables as level 0 may have, a tier may: side by side they are one run,
/// but a read compares its key with those of each.
const SMALL_TABLES_FACTOR: usize = 8;

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
    pub table_bytes: u64,
    pub segment_bytes: u64,
    /// The durable compacted revision.
    pub compacted: u64,
    /// Segments and the bytes referred to in each.
    pub segments: &'a BTreeMap<u64, SegmentInfo>,
    pub references: &'a BTreeMap<u64, u64>,
}

/// The next merge, if one is worth it.
pub(crate) fn pick(shapes: &[Shape<'_>], pressure: &Pressure<'_>) -> Option<Choice> {
    // The fuller level 0 first: each grows by a table a flush, whichever is merged meanwhile.
    let mut by_level0: Vec<_> = shapes.iter().collect();
    by_level0.sort_by_key(|shape| Reverse(of_tier(shape, 0).count()));
    by_level0
        .into_iter()
        .find_map(|shape| full_level0(shape, pressure))
        .or_else(|| {
            let frees = |shape: &&Shape<'_>| upper_frees_enough(shape, pressure.compacted);
            shapes.iter().find(frees).map(|shape| {
                trial::reach("merge of upper tables for their garbage");
                Choice::Upper(shape.keyspace)
            })
        })
        .or_else(|| shapes.iter().find_map(|shape| bottom_with_garbage(shape, pressure.compacted)))
        .or_else(|| values::bottom_with_poor_values(shapes, pressure))
        .or_else(|| values::tables_with_small_segments(shapes, pressure))
}

fn of_tier<'a>(shape: &Shape<'a>, tier: u8) -> impl Iterator<Item = &'a TableRecord> {
    shape.upper.iter().copied().filter(move |table| table.level == Level::Tier(tier))
}

fn full_level0(shape: &Shape<'_>, pressure: &Pressure<'_>) -> Option<Choice> {
    let level0 = of_tier(shape, 0).count();
    if level0 < pressure.level0_tables.max(1) {
        return None;
    }
    // A single table has none to become one with.
    if level0 == 1 || is_large_for_bottom(shape, pressure.bottom_factor) {
        return Some(Choice::Upper(shape.keyspace));
    }
    let has_room = |tier: &u8| {
        let small = of_tier(shape, *tier).filter(|table| table.info.bytes < pressure.table_bytes);
        depth(of_tier(shape, *tier)) + 1 < pressure.level0_tables.max(2)
            && small.count() < pressure.level0_tables.max(2) * SMALL_TABLES_FACTOR
    };
    let tier = (1..=TIER_MAX).find(has_room);
    if let Some(tier) = tier {
        trial::reach(if tier == 1 { "merge of level 0 alone" } else { "merge of tiers" });
    }
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

/// The bottom table with the most garbage, and neighbours that have as large a share of it.
fn bottom_with_garbage(shape: &Shape<'_>, compacted: u64) -> Option<Choice> {
    let floor = garbage::floor(shape.keyspace, compacted);
    let table = |position: usize| std::iter::once(shape.bottom[position]);
    let is_worth = |position: &usize| is_worth(floor, table(*position), table(*position));
    let garbage = |position: &usize| {
        let garbage = &shape.bottom[*position].garbage;
        (garbage.value_bytes(floor), garbage.rows(floor))
    };
    let worst = (0..shape.bottom.len()).filter(is_worth).max_by_key(garbage)?;
    let first = (worst + 1).saturating_sub(BOTTOM_TABLES_MAX / 2);
    let start = (first..worst).rev().take_while(is_worth).last().unwrap_or(worst);
    let end = (worst..shape.bottom.len()).take_while(is_worth).last().unwrap_or(worst) + 1;
    trial::reach("merge of bottom tables for their garbage");
    Some(Choice::Bottom(shape.keyspace, start..end.min(start + BOTTOM_TABLES_MAX)))
}
