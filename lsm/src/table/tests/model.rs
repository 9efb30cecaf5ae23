//! A table answers as a plain sorted list of its rows does.

use std::ops::Bound;

use super::*;
use crate::KeyRange;

/// Runs `check` on a table of each shape.
fn for_each_shape(check: impl Fn(&mut Random, Shape, &[Row], &Arc<Table>)) {
    for (number, shape) in SHAPES.into_iter().enumerate() {
        for round in 0..2 {
            let seed = number as u64 * 1000 + round;
            println!("seed {seed} {shape:?}");
            let mut random = Random::new(seed);
            let rows = random_rows(&mut random, shape);
            let disk = SimDisk::new(seed);
            let info = write(&disk, &rows);
            let table = open(&disk, &info).expect("a table just written");
            check(&mut random, shape, &rows, &table);
        }
    }
}

/// The newest row of `key` at or below `at`.
fn model_get<'r>(rows: &'r [Row], key: &[u8], at: Revision) -> Option<&'r Row> {
    let start = rows.partition_point(|row| row.key < key);
    rows[start..].iter().take_while(|row| row.key == key).find(|row| row.revision <= at)
}

#[test]
fn a_table_knows_what_it_holds() {
    for_each_shape(|_, _, rows, table| {
        table.verify().expect("a sound table");
        let info = table.info();
        assert_eq!(info.rows, rows.len() as u64);
        assert_eq!(info.first_key, rows[0].key);
        assert_eq!(info.last_key, rows[rows.len() - 1].key);
        assert_eq!(Some(info.revision_min), rows.iter().map(|row| row.revision).min());
        assert_eq!(Some(info.revision_max), rows.iter().map(|row| row.revision).max());
        assert_eq!(info.delta_sum, rows.iter().map(|row| row.delta as i64).sum::<i64>());
        let mut segments = std::collections::BTreeMap::<u64, (u64, u64)>::new();
        for row in rows {
            if let ValueRef::Stored(handle) = row.value {
                let counts = segments.entry(handle.segment).or_default();
                *counts = (counts.0 + 1, counts.1 + u64::from(handle.length));
            }
        }
        let mut found = info.segments.clone();
        found.sort_unstable();
        let expected: Vec<_> = segments.into_iter().map(|(id, (r, b))| (id, r, b)).collect();
        assert_eq!(found, expected);
    });
}

#[test]
fn get_finds_the_newest_version_at_every_revision() {
    for_each_shape(|random, shape, rows, table| {
        for row in rows {
            assert_eq!(table.get(&row.key, row.revision).unwrap().as_ref(), Some(row));
            let at = Revision { main: row.revision.main - 1, sub: u32::MAX };
            assert_eq!(table.get(&row.key, at).unwrap().as_ref(), model_get(rows, &row.key, at));
            let newest = table.get(&row.key, Revision::MAX).unwrap();
            assert_eq!(newest.as_ref(), model_get(rows, &row.key, Revision::MAX));
        }
        for _ in 0..2000 {
            let key = random_key(random, shape);
            let at = Revision { main: random.below(shape.revisions), sub: random.below(9) as u32 };
            assert_eq!(table.get(&key, at).unwrap().as_ref(), model_get(rows, &key, at));
        }
        assert_eq!(table.get(&rows[0].key, Revision::default()).unwrap(), None);
    });
}

#[test]
fn the_filter_knows_absent_keys() {
    let mut random = Random::new(7);
    let rows = random_rows(&mut random, SHAPES[2]);
    let disk = SimDisk::new(7);
    let info = write(&disk, &rows);
    let table = open(&disk, &info).unwrap();
    let absent = (0..10_000).filter(|n| table.may_contain(format!("absent{n}").as_bytes())).count();
    assert!(absent < 250, "{absent} of 10000 absent keys pass the filter");
}

#[test]
fn a_cursor_walks_all_rows() {
    for_each_shape(|_, _, rows, table| {
        let mut cursor = table.cursor();
        assert_eq!(cursor.key(), None, "before the first row");
        for row in rows {
            cursor.advance().unwrap();
            assert_eq!(cursor.key(), Some(row.key.as_ref()));
            assert_eq!(cursor.revision(), row.revision);
            assert_eq!(cursor.kind(), row.kind);
            assert_eq!(cursor.delta(), row.delta);
            assert_eq!(cursor.meta().unwrap(), row.meta);
            assert_eq!(cursor.value_ref().unwrap(), row.value);
            let value_bytes = match &row.value {
                ValueRef::None => 0,
                ValueRef::Inline(value) => value.len() as u32,
                ValueRef::Stored(handle) => handle.length,
            };
            assert_eq!(cursor.value_bytes(), value_bytes);
            assert_eq!(&cursor.row().unwrap(), row);
        }
        for _ in 0..2 {
            cursor.advance().unwrap();
            assert_eq!(cursor.key(), None);
        }
    });
}

#[test]
fn a_cursor_skips_older_versions() {
    for_each_shape(|_, _, rows, table| {
        let mut cursor = table.cursor();
        cursor.advance_key().unwrap();
        let mut rows = rows.chunk_by(|left, right| left.key == right.key);
        while let Some(key) = cursor.key() {
            let versions = rows.next().expect("as many keys as there are");
            assert_eq!(key, versions[0].key);
            assert_eq!(cursor.row().unwrap(), versions[0]);
            // From the middle of the versions as well as from the newest.
            if versions.len() > 20 {
                (0..versions.len() / 2).for_each(|_| cursor.advance().unwrap());
            }
            cursor.advance_key().unwrap();
        }
        assert_eq!(rows.next(), None);
    });
}

#[test]
fn a_cursor_seeks() {
    for_each_shape(|random, shape, rows, table| {
        let mut cursor = table.cursor();
        for _ in 0..2000 {
            let key = random_key(random, shape);
            let start = rows.partition_point(|row| row.key < key);
            cursor.seek(&key).unwrap();
            for row in rows[start..].iter().take(random.below(40) as usize) {
                assert_eq!(&cursor.row().unwrap(), row);
                cursor.advance().unwrap();
            }
            let row = &rows[random.below(rows.len() as u64) as usize];
            let at = Revision { main: random.below(shape.revisions), sub: 5 };
            let start = rows.partition_point(|other| {
                other.key < row.key || other.key == row.key && other.revision > at
            });
            cursor.seek_version(&row.key, at).unwrap();
            assert_eq!(cursor.key(), rows.get(start).map(|row| row.key.as_ref()));
            if let Some(row) = rows.get(start) {
                assert_eq!(&cursor.row().unwrap(), row);
            }
        }
        cursor.seek(&[rows[rows.len() - 1].key.as_ref(), b"\0"].concat()).unwrap();
        assert_eq!(cursor.key(), None);
        cursor.seek(b"").unwrap();
        assert_eq!(&cursor.row().unwrap(), &rows[0]);
    });
}

#[test]
fn delta_sums_are_those_of_the_rows() {
    for_each_shape(|random, shape, rows, table| {
        for _ in 0..300 {
            let mut key = || match random.below(3) {
                0 => Bytes::from(random_key(random, shape)),
                _ => rows[random.below(rows.len() as u64) as usize].key.clone(),
            };
            let (start, end) = (key(), key());
            let end = match random.below(3) {
                0 => Bound::Unbounded,
                1 => Bound::Included(end),
                _ => Bound::Excluded(end),
            };
            let range = KeyRange { start, end };
            let at = match random.below(3) {
                0 => u64::MAX,
                _ => random.below(shape.revisions + 2),
            };
            let expected: i64 = rows
                .iter()
                .filter(|row| range.contains(&row.key) && row.revision.main <= at)
                .map(|row| row.delta as i64)
                .sum();
            assert_eq!(table.delta_sum(&range, at).unwrap(), expected, "{range:?} at {at}");
        }
        assert_eq!(table.delta_sum(&KeyRange::all(), u64::MAX).unwrap(), table.info().delta_sum);
    });
}

#[test]
fn history_comes_in_revision_order() {
    for_each_shape(|random, shape, rows, table| {
        let mut sorted: Vec<&Row> = rows.iter().collect();
        sorted.sort_by_key(|row| row.revision);
        for round in 0..20 {
            let (from, to) = match round {
                0 => (0, u64::MAX),
                1 => (9, 8),
                _ => {
                    let from = random.below(shape.revisions + 2);
                    (from, from.saturating_add(random.below(shape.revisions / 4 + 2)))
                }
            };
            let start = sorted.partition_point(|row| row.revision.main < from);
            let end = sorted.partition_point(|row| row.revision.main <= to).max(start);
            let found: Vec<Row> = table.by_revision(from, to).map(Result::unwrap).collect();
            assert!(found.iter().eq(sorted[start..end].iter().copied()), "from {from} to {to}");
        }
    });
}

#[test]
fn inline_values_are_slices_of_the_map() {
    let mut random = Random::new(3);
    let rows = random_rows(&mut random, SHAPES[5]);
    let disk = SimDisk::new(3);
    let info = write(&disk, &rows);
    let table = open(&disk, &info).unwrap();
    let map = table.map.as_ptr_range();
    let row = rows.iter().find(|row| matches!(&row.value, ValueRef::Inline(v) if v.len() > 1000));
    let row = row.expect("there are long values");
    let found = table.get(&row.key, row.revision).unwrap().expect("a row that is there");
    let ValueRef::Inline(value) = found.value else { panic!("an inline value") };
    assert!(map.contains(&value.as_ptr()));
}

#[test]
#[should_panic(expected = "does not come behind")]
fn rows_out_of_order_are_a_bug_of_the_caller() {
    let row = |key: &'static str| Row {
        key: Bytes::from(key),
        revision: Revision { main: 1, sub: 0 },
        kind: Kind::Delete,
        delta: Delta::Zero,
        meta: Meta::EMPTY,
        value: ValueRef::None,
    };
    write(&SimDisk::new(0), &[row("b"), row("a")]);
}

#[test]
fn the_content_is_durable_when_the_builder_finished() {
    let rows = random_rows(&mut Random::new(1), SHAPES[1]);
    let disk = SimDisk::new(1);
    let info = write(&disk, &rows);
    varve_disk::Disk::sync_dir(&disk, Path::new(DIR)).unwrap();
    let disk = disk.crash_with(varve_disk::sim::CrashStyle::LoseAll);
    open(&disk, &info).expect("a durable table").verify().expect("a sound table");
}

#[test]
fn a_cursor_walks_backwards_by_key_and_selects_versions() {
    for_each_shape(|random, shape, rows, table| {
        let keys: Vec<&[Row]> = rows.chunk_by(|left, right| left.key == right.key).collect();
        let mut cursor = table.cursor();
        for round in 0..300 {
            let key = random_key(random, shape);
            let (end, mut left) = match round % 3 {
                0 => (Bound::Unbounded, keys.len()),
                1 => (Bound::Excluded(key.as_ref()), keys.partition_point(|of| of[0].key < key)),
                _ => (Bound::Included(key.as_ref()), keys.partition_point(|of| of[0].key <= key)),
            };
            let steps = if round == 0 { usize::MAX } else { random.below(60) as usize };
            cursor.seek_last(end).unwrap();
            for _ in 0..steps {
                let Some(number) = left.checked_sub(1) else {
                    assert_eq!(cursor.key(), None, "before the first key");
                    break;
                };
                let versions = keys[number];
                assert_eq!(&cursor.row().unwrap(), &versions[0]);
                let at = random.below(shape.revisions);
                let found = versions.iter().find(|row| row.revision.main <= at);
                assert_eq!(cursor.select(at).unwrap(), found.is_some());
                assert_eq!(cursor.key(), Some(versions[0].key.as_ref()));
                if let Some(found) = found {
                    assert_eq!(&cursor.row().unwrap(), found);
                }
                // Mostly back; sometimes forth, from wherever among the versions it stands.
                if random.one_in(10) && number + 1 < keys.len() {
                    cursor.advance_key().unwrap();
                    left += 1;
                } else {
                    cursor.retreat_key().unwrap();
                    left -= 1;
                }
            }
        }
    });
}
