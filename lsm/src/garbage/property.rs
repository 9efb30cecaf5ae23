//! The delta rule, proven on its own: no files, no memtable, no merge iterator.
//!
//! One key has a history, cut into contiguous pieces as flushes do. Then compactions and merges of
//! neighbouring pieces come in any order, each with any floor up to the compacted revision (an old
//! floor is what a merge has that began before a compaction). After every step, at every revision
//! that can be read, the deltas must add up to whether the key is live, and the newest row must say
//! the same. The compacted revision is often exactly that of a tombstone.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    main: u64,
    kind: Kind,
    delta: Delta,
}

/// Puts (`true`) and deletes, as a user may do them: a delete of a dead key is no change.
fn history(wishes: &[(bool, u64)]) -> Vec<Row> {
    let (mut rows, mut main, mut is_live) = (Vec::new(), 0, false);
    for (is_put, gap) in wishes {
        main += gap;
        let (kind, delta) = match (is_put, is_live) {
            (true, true) => (Kind::Put, Delta::Zero),
            (true, false) => (Kind::Put, Delta::Plus),
            (false, true) => (Kind::Delete, Delta::Minus),
            (false, false) => continue,
        };
        is_live = *is_put;
        rows.push(Row { main, kind, delta });
    }
    rows
}

/// Merges a contiguous stretch of the history (oldest first) at `floor`.
fn merged(rows: &[Row], floor: u64) -> Vec<Row> {
    let mut fold = Fold::new(floor);
    let mut kept = Vec::new();
    for row in rows.iter().rev() {
        let revision = Revision { main: row.main, sub: 0 };
        kept.extend(fold.push(revision, row.kind, row.delta, *row));
    }
    let oldest = fold.end_key().expect("a contiguous stretch has a sum within -1..=1");
    kept.extend(oldest.map(|(row, delta)| Row { delta, ..row }));
    kept.reverse();
    kept
}

fn assert_rule(original: &[Row], pieces: &[Vec<Row>], compacted: u64, newest: u64) {
    for at in compacted..=newest {
        let expected = original.iter().rev().find(|row| row.main <= at);
        let is_live = expected.is_some_and(|row| row.kind == Kind::Put);
        let rows = || pieces.iter().flatten().filter(|row| row.main <= at);
        let sum: i64 = rows().map(|row| row.delta as i64).sum();
        assert_eq!(sum, i64::from(is_live), "sum at {at}, compacted {compacted}: {pieces:?}");
        let found = rows().next_back();
        let may_be_gone =
            expected.is_some_and(|row| row.kind == Kind::Delete && row.main < compacted);
        if may_be_gone {
            assert!(found.is_none_or(|row| row.kind == Kind::Delete), "at {at}: {pieces:?}");
        } else {
            // etcd keeps a tombstone that is exactly at the compacted revision.
            let found = found.map(|row| (row.main, row.kind));
            assert_eq!(found, expected.map(|row| (row.main, row.kind)), "at {at}: {pieces:?}");
        }
    }
}

/// What is left when all is merged: etcd's rule, in the words of its documentation.
fn kept_by_etcd(original: &[Row], compacted: u64) -> Vec<(u64, Kind)> {
    let at_or_below = original.iter().rev().find(|row| row.main <= compacted);
    let pivot = at_or_below.filter(|row| row.kind == Kind::Put || row.main == compacted);
    let above = original.iter().filter(|row| row.main > compacted);
    pivot.into_iter().chain(above).map(|row| (row.main, row.kind)).collect()
}

#[derive(Clone, Debug)]
enum Step {
    /// Compacts at the revision of this row (by share of the history), or one below or above.
    Compact(prop::sample::Index, i8),
    /// Merges neighbouring pieces: the first, how many more, how old the floor is (0: current).
    Merge(prop::sample::Index, usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any::<prop::sample::Index>(), -1..=1_i8).prop_map(|(row, by)| Step::Compact(row, by)),
        (any::<prop::sample::Index>(), 0..3_usize, prop_oneof![3 => Just(0), 1 => 0..6_u64])
            .prop_map(|(first, more, age)| Step::Merge(first, more, age)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("VARVE_LONG").is_some() { 1_000_000 } else { 4_000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn folded_deltas_add_up_to_what_is_live_whatever_is_merged_when(
        wishes in prop::collection::vec((any::<bool>(), 1..3_u64), 1..20),
        cuts in prop::collection::vec(any::<bool>(), 20),
        steps in prop::collection::vec(step(), 0..30),
    ) {
        let original = history(&wishes);
        prop_assume!(!original.is_empty());
        let newest = original.last().map_or(0, |row| row.main) + 1;
        let mut pieces: Vec<Vec<Row>> = vec![Vec::new()];
        for (row, cut) in original.iter().zip(&cuts) {
            pieces.last_mut().expect("there is one").push(*row);
            if *cut {
                pieces.push(Vec::new());
            }
        }
        let mut compacted = 0_u64;
        for step in steps {
            match step {
                Step::Compact(row, by) => {
                    let main = row.get(&original).main.saturating_add_signed(i64::from(by));
                    compacted = compacted.max(main.min(newest));
                }
                Step::Merge(first, more, age) => {
                    let first = first.index(pieces.len());
                    let end = (first + 1 + more).min(pieces.len());
                    let rows: Vec<Row> = pieces[first..end].concat();
                    let floor = compacted.saturating_sub(age);
                    pieces.splice(first..end, [merged(&rows, floor)]);
                }
            }
            assert_rule(&original, &pieces, compacted, newest);
        }
        let all = merged(&pieces.concat(), compacted);
        let left: Vec<(u64, Kind)> = all.iter().map(|row| (row.main, row.kind)).collect();
        prop_assert_eq!(left, kept_by_etcd(&original, compacted), "compacted at {}", compacted);
    }
}

#[test]
fn each_history_of_six_changes_obeys_the_rule_at_each_floor_and_cut() {
    let mut at_a_tombstone = 0;
    for bits in 0..64_u32 {
        let wishes: Vec<(bool, u64)> = (0..6).map(|bit| (bits >> bit & 1 == 1, 1)).collect();
        let original = history(&wishes);
        for (compacted, cut) in
            (0..=7_u64).flat_map(|floor| (0..=original.len()).map(move |cut| (floor, cut)))
        {
            let (old, new) = original.split_at(cut);
            let apart = [merged(old, compacted), merged(new, compacted)];
            assert_rule(&original, &apart, compacted, 7);
            let together = merged(&apart.concat(), compacted);
            let left: Vec<(u64, Kind)> = together.iter().map(|row| (row.main, row.kind)).collect();
            assert_eq!(left, kept_by_etcd(&original, compacted), "{original:?} at {compacted}");
            let is_tombstone = |row: &&Row| row.main == compacted && row.kind == Kind::Delete;
            at_a_tombstone += original.iter().filter(is_tombstone).count();
        }
    }
    assert!(at_a_tombstone > 100, "{at_a_tombstone} compactions exactly at a tombstone");
}
