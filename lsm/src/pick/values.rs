//! Which values a merge moves, and which bottom table to merge for their sake.
//!
//! One idea: a segment is rewritten for one of two reasons. It is *poor*: little of it is referred
//! to, so moving that little frees much. Or it is *small* and there are many of those: each costs a
//! mapping and an entry in every list of files, however little is in it, and none of them would ever
//! be poor if all of it stays.
//!
//! Small segments of tables above the bottom are joined on the way into it, which a merge among tiers
//! is not; so when no bottom table refers to several, all above the bottom goes there.
//!
//! The sequence of choices ends: a merged table refers to no poor segment any more, and to one small
//! one at most; and nothing is left above the bottom that could be chosen again.

use std::collections::BTreeSet;

use super::{Choice, Pressure, Shape};
use crate::manifest::TableRecord;
use crate::segment::SegmentInfo;

/// A segment is poor when less than this share of its bytes is referred to. Chosen by
/// `tests/amplification.rs`: with less of it files take more than 1.5 times what can be read, with
/// more of it uniform overwrites write each value more than twice.
const POOR_PERCENT: u64 = 54;
/// The same while all segments together take more than 1.5 times what is referred to: when all are
/// just not poor, as after keys were overwritten once in no order.
const POOR_PERCENT_WHEN_FULL: u64 = 67;
/// Relocation begins when dead bytes in poor segments are one in this many referred-to bytes.
const DEAD_SHARE: u64 = 8;
/// A segment is small when it holds less than one in so many of the bytes that one may hold. One of
/// values of a byte each, 16 with what surrounds them, is not when it is full.
const SMALL_SHARE: u64 = 32;
/// So many small segments may there be before they are joined. A process can map some 65,000 files.
const SMALL_SEGMENTS_MAX: usize = 512;

/// Segments whose values are copied when a merge meets them.
pub(crate) fn segments_to_leave(pressure: &Pressure<'_>) -> BTreeSet<u64> {
    let mut segments = poor_segments(pressure);
    segments.extend(too_many_small(pressure));
    segments
}

/// Segments of which little is referred to.
fn poor_segments(pressure: &Pressure<'_>) -> BTreeSet<u64> {
    let held: u64 = pressure.segments.values().map(|info| info.value_bytes).sum();
    let referred: u64 = pressure.references.values().sum();
    let percent = if held * 2 > referred * 3 { POOR_PERCENT_WHEN_FULL } else { POOR_PERCENT };
    let is_poor = |info: &&SegmentInfo| {
        let referred = pressure.references.get(&info.id).copied().unwrap_or(0);
        referred * 100 < info.value_bytes * percent
    };
    pressure.segments.values().filter(is_poor).map(|info| info.id).collect()
}

/// The small segments if there are too many of them.
fn too_many_small(pressure: &Pressure<'_>) -> BTreeSet<u64> {
    let is_small = |info: &&SegmentInfo| info.value_bytes < pressure.segment_bytes / SMALL_SHARE;
    let small = pressure.segments.values().filter(is_small).map(|info| info.id);
    let small: BTreeSet<u64> = small.collect();
    if small.len() > SMALL_SEGMENTS_MAX { small } else { BTreeSet::new() }
}

/// The bottom table that refers to the most bytes in poor segments, if enough there is dead.
pub(super) fn bottom_with_poor_values(
    shapes: &[Shape<'_>],
    pressure: &Pressure<'_>,
) -> Option<Choice> {
    let poor = poor_segments(pressure);
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
    let bytes = |table: &TableRecord| of_segments(table, &poor).map(|(_, bytes)| bytes).sum();
    bottom_with_most(shapes, 1, bytes)
}

/// The bottom table that refers to the most small segments, if there are too many of them; or all
/// above the bottom, if that is where too many of them are.
pub(super) fn tables_with_small_segments(
    shapes: &[Shape<'_>],
    pressure: &Pressure<'_>,
) -> Option<Choice> {
    let small = too_many_small(pressure);
    // One of them would become one.
    let bottom = bottom_with_most(shapes, 2, |table| of_segments(table, &small).count() as u64);
    bottom.or_else(|| {
        let has_too_many = |shape: &&Shape<'_>| {
            let of_upper = shape.upper.iter().flat_map(|table| of_segments(table, &small));
            of_upper.map(|(id, _)| id).collect::<BTreeSet<_>>().len() > SMALL_SEGMENTS_MAX / 2
        };
        shapes.iter().find(has_too_many).map(|shape| Choice::Upper(shape.keyspace))
    })
}

/// Those of `segments` that a table refers to, and how many bytes of values in each.
fn of_segments(table: &TableRecord, segments: &BTreeSet<u64>) -> impl Iterator<Item = (u64, u64)> {
    let entries = table.info.segments.iter().map(|(id, _, value_bytes)| (*id, *value_bytes));
    entries.filter(|(id, _)| segments.contains(id))
}

/// The bottom table of which there is the most, and at least `least`.
fn bottom_with_most(
    shapes: &[Shape<'_>],
    least: u64,
    measure: impl Fn(&TableRecord) -> u64,
) -> Option<Choice> {
    let candidates = shapes.iter().flat_map(|shape| {
        let of_table = |(position, table): (usize, &&TableRecord)| {
            (measure(table), Choice::Bottom(shape.keyspace, position..position + 1))
        };
        shape.bottom.iter().enumerate().map(of_table)
    });
    let (most, choice) = candidates.max_by_key(|(measure, _)| *measure)?;
    (most >= least).then_some(choice)
}
