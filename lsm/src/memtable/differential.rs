//! The memtable against `BTreeMap`: sequences that proptest finds, and shrinks when they fail.
//!
//! Every read is asked at a revision and below an ordinal of its own, as readers of different ages
//! ask it. Proptest forks and reads files, which Miri does not know; `tests.rs` is for Miri.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{Delta, Kind, Meta, Revision};

/// One change: a key out of few, and whether to delete it if it lives.
#[derive(Clone, Debug)]
struct Change {
    key: Vec<u8>,
    is_delete: bool,
}

/// What a reader asks.
#[derive(Clone, Debug)]
struct Question {
    start: Vec<u8>,
    end: Vec<u8>,
    kind: u8,
    at_share: f64,
    ordinal_share: f64,
}

/// A version, as the model keeps it.
#[derive(Clone, Debug, PartialEq)]
struct Version {
    main: u64,
    ordinal: u64,
    kind: Kind,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (0u16..40).prop_map(|number| format!("/registry/pods/{number:03}").into_bytes()),
        // One with a long chain of versions.
        3 => Just(b"hot".to_vec()),
        1 => proptest::collection::vec(0u8..4, 0..4),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    (key(), any::<bool>()).prop_map(|(key, is_delete)| Change { key, is_delete })
}

fn question() -> impl Strategy<Value = Question> {
    (key(), key(), 0u8..5, 0.0..1.2f64, 0.0..1.2f64).prop_map(
        |(start, end, kind, at_share, ordinal_share)| Question {
            start,
            end,
            kind,
            at_share,
            ordinal_share,
        },
    )
}

fn range(question: &Question) -> KeyRange {
    let (start, end) = (Bytes::from(question.start.clone()), Bytes::from(question.end.clone()));
    match question.kind {
        0 => KeyRange::all(),
        1 => KeyRange::one(start),
        2 => KeyRange::from(start),
        3 => KeyRange { start, end: Bound::Included(end) },
        _ => KeyRange::between(start, end),
    }
}

type Model = BTreeMap<Vec<u8>, Vec<Version>>;

/// Writes all changes, a revision for every two of them.
fn write(changes: &[Change]) -> (MemtableWriter, Model) {
    let mut writer = MemtableWriter::new(Committed::default());
    let mut model = Model::new();
    for (ordinal, change) in changes.iter().enumerate() {
        let (main, sub) = (1 + ordinal as u64 / 2, ordinal as u32 % 2);
        let versions = model.entry(change.key.clone()).or_default();
        let is_live = versions.last().is_some_and(|version| version.kind == Kind::Put);
        let (kind, delta) = match (is_live, change.is_delete) {
            (true, true) => (Kind::Delete, Delta::Minus),
            (true, false) => (Kind::Put, Delta::Zero),
            (false, _) => (Kind::Put, Delta::Plus),
        };
        let value = (ordinal as u64).to_le_bytes();
        let revision = Revision { main, sub };
        writer.add(Keyspace::Kv, &change.key, revision, kind, delta, Meta::EMPTY, &value);
        versions.push(Version { main, ordinal: ordinal as u64, kind });
    }
    (writer, model)
}

/// The newest version of each key in the range at a revision and below an ordinal.
fn visible<'a>(
    model: &'a Model,
    range: &'a KeyRange,
    at: u64,
    ordinal: u64,
) -> Vec<(&'a [u8], &'a Version)> {
    let in_range = model.iter().filter(|(key, _)| range.contains(key));
    let newest = in_range.filter_map(|(key, versions)| {
        let mut covered =
            versions.iter().rev().filter(|version| version.main <= at && version.ordinal < ordinal);
        covered.next().map(|version| (key.as_slice(), version))
    });
    newest.collect()
}

/// Walks a cursor over the range in one direction, as readers do.
fn walk(
    memtable: &Arc<Memtable>,
    range: &KeyRange,
    at: u64,
    ordinal: u64,
    is_back: bool,
) -> Vec<(Vec<u8>, Version)> {
    let mut cursor = memtable.cursor(Keyspace::Kv, ordinal);
    match is_back {
        false => cursor.seek(&range.start),
        true => cursor.seek_last(range.end.as_ref().map(|end| end.as_ref())),
    }
    let mut found = Vec::new();
    while let Some(key) = cursor.key().map(<[u8]>::to_vec) {
        if !range.contains(&key) {
            break;
        }
        if cursor.select(at) {
            let record = cursor.record().expect("a version was selected");
            assert_eq!(record.value(), record.ordinal().to_le_bytes());
            let (main, kind) = (record.revision().main, record.kind());
            found.push((key, Version { main, ordinal: record.ordinal(), kind }));
        }
        if is_back { cursor.retreat_key() } else { cursor.advance_key() }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_of_every_age_agree_with_a_sorted_map(
        changes in proptest::collection::vec(change(), 0..400),
        questions in proptest::collection::vec(question(), 1..40),
    ) {
        let (writer, model) = write(&changes);
        let memtable = writer.memtable();
        for question in &questions {
            let range = range(question);
            let at = (changes.len() as f64 / 2.0 * question.at_share) as u64;
            let ordinal = (changes.len() as f64 * question.ordinal_share) as u64;
            let expected = visible(&model, &range, at, ordinal);
            let owned = |(key, version): &(&[u8], &Version)| (key.to_vec(), (*version).clone());
            let mut owned: Vec<_> = expected.iter().map(owned).collect();
            prop_assert_eq!(&walk(memtable, &range, at, ordinal, false), &owned);
            owned.reverse();
            prop_assert_eq!(&walk(memtable, &range, at, ordinal, true), &owned);
            let live = expected.iter().filter(|(_, version)| version.kind == Kind::Put).count();
            let sum = memtable.delta_sum(Keyspace::Kv, &range, at, ordinal);
            prop_assert_eq!(sum, live as i64);
            let key = &question.start;
            let one = KeyRange::one(Bytes::from(key.clone()));
            let newest = visible(&model, &one, at, ordinal).first().map(|(_, version)| version.main);
            let found = memtable.get(Keyspace::Kv, hash(key), key, at, ordinal);
            prop_assert_eq!(found.map(|record| record.revision().main), newest);
        }
    }
}
