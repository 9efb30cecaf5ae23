//! Choices, each from a few tables that are made up.

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
    let (segments, references) = (BTreeMap::from([(7, info)]), BTreeMap::from([(7, referred)]));
    pick(&[shape], &Pressure { compacted, ..pressure(&segments, &references) })
}

/// No table here and no segment is small.
fn pressure<'a>(
    segments: &'a BTreeMap<u64, SegmentInfo>,
    references: &'a BTreeMap<u64, u64>,
) -> Pressure<'a> {
    Pressure {
        level0_tables: 4,
        bottom_factor: 8,
        table_bytes: 0,
        segment_bytes: 0,
        compacted: 0,
        segments,
        references,
    }
}

#[test]
fn level_0_is_merged_when_it_is_full() {
    let tables: Vec<_> = (0..4).map(|id| run(0, id, "a-z", 10)).collect();
    assert_eq!(choose(&tables[..3], &[], 9, 0), None);
    assert_eq!(choose(&tables, &[], 9, 0), Some(Choice::Upper(Keyspace::Kv)));
}

#[test]
fn the_fuller_level_0_goes_first_and_of_equals_that_of_keys() {
    let choice = |kv: usize, sys: usize| {
        let table = |id| TableRecord {
            info: TableInfo { segments: Vec::new(), ..run(0, id, "a-z", 10).info },
            ..run(0, id, "a-z", 10)
        };
        let tables: Vec<_> = (0..9).map(table).collect();
        let shape = |keyspace, count| {
            let upper = tables.iter().take(count).collect();
            Shape { keyspace, upper, bottom: Vec::new() }
        };
        let shapes = [shape(Keyspace::Kv, kv), shape(Keyspace::Sys, sys)];
        pick(&shapes, &pressure(&BTreeMap::new(), &BTreeMap::new()))
    };
    assert_eq!(choice(4, 9), Some(Choice::Upper(Keyspace::Sys)));
    assert_eq!(choice(9, 4), Some(Choice::Upper(Keyspace::Kv)));
    assert_eq!(choice(4, 4), Some(Choice::Upper(Keyspace::Kv)));
    assert_eq!(choice(4, 3), Some(Choice::Upper(Keyspace::Kv)));
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
fn when_all_tiers_are_full_everything_goes_to_the_bottom() {
    let bottom = [table(999, "a-z", 100_000, &[])];
    let mut upper: Vec<_> = (0..4).map(|id| run(0, id, "c-f", 10)).collect();
    let three_of = |tier: u8| (0..3).map(move |id| run(tier, 10 * u64::from(tier) + id, "c-f", 1));
    upper.extend((1..=TIER_MAX).flat_map(three_of));
    assert_eq!(choose(&upper, &bottom, 9, 0), Some(Choice::Upper(Keyspace::Kv)));
    upper.pop();
    let last = Choice::Tiers(Keyspace::Kv, TIER_MAX - 1);
    assert_eq!(choose(&upper, &bottom, 9, 0), Some(last));
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
                        let count = upper.partition_point(|table| table.level <= Level::Tier(last));
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

/// What is chosen where segment 7 holds `value_bytes`, of which two tables refer to 3000, and
/// segment 8 holds `whole`, all of them referred to elsewhere.
fn choose_by_values(value_bytes: u64, whole: u64) -> Option<Choice> {
    let bottom = [table(1, "a-b", 10, &[]), table(2, "c-d", 20, &[])];
    let shape =
        Shape { keyspace: Keyspace::Kv, upper: Vec::new(), bottom: bottom.iter().collect() };
    let info = |id, value_bytes| SegmentInfo { id, bytes: 0, digest: 0, values: 1, value_bytes };
    let segments = BTreeMap::from([(7, info(7, value_bytes)), (8, info(8, whole))]);
    pick(&[shape], &pressure(&segments, &BTreeMap::from([(7, 3_000), (8, whole)])))
}

#[test]
fn values_are_relocated_when_much_of_a_segment_is_dead() {
    assert_eq!(choose_by_values(5_555, 10_000), None, "54 % of it is referred to");
    let second = Some(Choice::Bottom(Keyspace::Kv, 1..2));
    assert_eq!(choose_by_values(5_556, 10_000), second);
    assert_eq!(choose_by_values(5_556, 30_000), None, "it is little beside the rest");
}

#[test]
fn values_are_relocated_when_all_segments_together_are_half_as_large_again() {
    assert_eq!(choose_by_values(4_500, 0), None);
    let second = Some(Choice::Bottom(Keyspace::Kv, 1..2));
    assert_eq!(choose_by_values(4_501, 0), second, "though 66 % of it is referred to");
}

#[test]
fn of_many_bottom_tables_with_garbage_a_few_are_merged_at_a_time() {
    let garbage = |at: u64| 25 + u64::from(at == 12) * 10;
    let of = |at: u64| table(at, &format!("{at:02}a-{at:02}z"), 100, &[(5, garbage(at))]);
    let bottom: Vec<_> = (0..20).map(of).collect();
    assert_eq!(choose(&[], &bottom, 5, 0), Some(Choice::Bottom(Keyspace::Kv, 9..17)));
    assert_eq!(choose(&[], &bottom[12..], 5, 0), Some(Choice::Bottom(Keyspace::Kv, 0..8)));
    assert_eq!(choose(&[], &bottom[..13], 5, 0), Some(Choice::Bottom(Keyspace::Kv, 9..13)));
}

#[test]
fn a_tier_of_many_small_tables_side_by_side_is_full() {
    let of = |tier: u8, id: u64| run(tier, id, &format!("{id:03}a-{id:03}z"), 10);
    let mut upper: Vec<_> = (0..4).map(|id| of(0, 900 + id)).collect();
    upper.extend((0..31).map(|id| of(1, id)));
    let bottom = [table(99, "000-999", 1_000_000, &[])];
    let shape = |upper: &[TableRecord]| {
        let shape = Shape {
            keyspace: Keyspace::Kv,
            upper: upper.iter().collect(),
            bottom: bottom.iter().collect(),
        };
        pick(
            &[shape],
            &Pressure { table_bytes: 8 << 20, ..pressure(&BTreeMap::new(), &BTreeMap::new()) },
        )
    };
    assert_eq!(shape(&upper), Some(Choice::Tiers(Keyspace::Kv, 0)));
    upper.push(of(1, 31));
    assert_eq!(shape(&upper), Some(Choice::Tiers(Keyspace::Kv, 1)));
}

#[test]
fn small_segments_are_joined_where_most_are_met_when_there_are_hundreds() {
    let segment = |id| (id, SegmentInfo { id, bytes: 100, digest: 0, values: 1, value_bytes: 100 });
    let segments: BTreeMap<u64, SegmentInfo> = (0..513).map(segment).collect();
    let references: BTreeMap<u64, u64> = (0..513).map(|id| (id, 100)).collect();
    let with = |id: u64, keys: &str, of: std::ops::Range<u64>| {
        let mut table = table(id, keys, 10, &[]);
        table.info.segments = of.map(|id| (id, 1, 100)).collect();
        table
    };
    let bottom = [with(1, "a-b", 0..200), with(2, "c-d", 200..512), with(3, "e-f", 512..513)];
    let pick_of = |bottom: &[TableRecord], upper: &[TableRecord], count: u64| {
        let some: BTreeMap<u64, SegmentInfo> =
            segments.iter().take(count as usize).map(|(id, info)| (*id, info.clone())).collect();
        let pressure = Pressure { segment_bytes: 3_232, ..pressure(&some, &references) };
        let (upper, bottom) = (upper.iter().collect(), bottom.iter().collect());
        let shape = Shape { keyspace: Keyspace::Kv, upper, bottom };
        (pick(&[shape], &pressure), segments_to_leave(&pressure).len())
    };
    assert_eq!(pick_of(&bottom, &[], 512), (None, 0));
    assert_eq!(pick_of(&bottom, &[], 513), (Some(Choice::Bottom(Keyspace::Kv, 1..2)), 513));
    // With one small segment each there is nothing to join.
    assert_eq!(pick_of(&bottom[2..], &[], 513).0, None);
    // Above the bottom they are joined when they go there, if there are many.
    let above = |of| TableRecord { level: Level::Tier(1), ..with(9, "a-z", of) };
    assert_eq!(pick_of(&bottom[2..], &[above(0..256)], 513).0, None);
    let all = Some(Choice::Upper(Keyspace::Kv));
    assert_eq!(pick_of(&bottom[2..], &[above(0..257)], 513).0, all);
}
