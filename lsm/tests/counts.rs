//! Counts survive garbage collection: a property over schedules, shrunk when it fails.
//!
//! A few keys, one change a revision, and any schedule of flush, merge and compaction: at every
//! revision from the compacted one to the newest, the sum of deltas is the number of live keys. The
//! big model test does the same among much else; this one shrinks to the few steps that matter.

mod support;

use proptest::prelude::*;
use support::{Batch, Change, Model, commit, open, settle, write};
use varve_disk::sim::SimDisk;
use varve_lsm::{Delta, Error, KeyRange, Keyspace, Revision};

#[derive(Clone, Debug)]
enum Step {
    /// Puts the key, or deletes it if it is live and `true`.
    Change(u8, bool),
    /// Compacts at this share (in 256ths) of what is visible.
    Compact(u8),
    Flush,
    /// Works until nothing is left to do.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4u8, any::<bool>()).prop_map(|(key, delete)| Step::Change(key, delete)),
        1 => any::<u8>().prop_map(Step::Compact),
        2 => Just(Step::Flush),
        1 => Just(Step::Settle),
    ]
}

fn batch_of(model: &Model, step: &Step) -> Option<Batch> {
    let (visible, compacted) = (model.visible(), model.compacted());
    match step {
        Step::Change(key, delete) => {
            let key = vec![b'a' + key];
            let is_live = model.is_live(Keyspace::Kv, &key);
            let (value, delta) = match (is_live, delete) {
                (true, true) => (None, Delta::Minus),
                (true, false) => (Some(vec![1; 60]), Delta::Zero),
                (false, _) => (Some(vec![1; 60]), Delta::Plus),
            };
            let revision = Revision { main: visible + 1, sub: 0 };
            let change = Change { keyspace: Keyspace::Kv, key, revision, value, delta };
            Some(Batch { changes: vec![change], visible: visible + 1, compacted })
        }
        Step::Compact(share) => {
            let wanted = visible * u64::from(*share) / 255;
            Some(Batch { changes: Vec::new(), visible, compacted: compacted.max(wanted) })
        }
        Step::Flush | Step::Settle => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("VARVE_LONG").is_some() { 20_000 } else { 300 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_sum_of_deltas_is_the_number_of_live_keys_at_every_readable_revision(
        steps in prop::collection::vec(step(), 1..80)
    ) {
        let disk = SimDisk::new(1);
        let (db, mut writer) = open(&disk).expect("a new engine opens");
        let mut model = Model::default();
        for step in &steps {
            if let Some(batch) = batch_of(&model, step) {
                write(&mut writer, &batch.changes);
                model.push(batch.clone());
                commit(&mut writer, &batch, model.batches.len()).expect("commits");
            } else {
                writer.freeze().expect("freezes");
                db.work().expect("flushes");
                if matches!(step, Step::Settle) {
                    settle(&db).expect("settles");
                }
            }
            let snapshot = db.snapshot();
            for at in model.compacted()..=model.visible() {
                for range in [KeyRange::all(), KeyRange::one("b".into()), KeyRange::from("c".into())] {
                    let live = model.range(Keyspace::Kv, &range, at).len() as u64;
                    let counted = snapshot.count(Keyspace::Kv, &range, at).expect("counts");
                    prop_assert_eq!(counted, live, "{:?} at {}", range, at);
                    let walked = snapshot.range(Keyspace::Kv, range, at, varve_lsm::Values::Skip);
                    prop_assert_eq!(walked.count() as u64, live);
                }
            }
        }
        let report = db.check().expect("reads");
        prop_assert!(report.violations.is_empty(), "{:?}", report);
    }
}

#[test]
fn deltas_that_cannot_be_are_an_error_and_a_finding() {
    let (db, mut writer) = open(&SimDisk::new(1)).unwrap();
    // A tombstone of a key that is not there.
    let revision = Revision { main: 1, sub: 0 };
    writer.delete(Keyspace::Kv, b"nothing", revision);
    let batch = Batch { changes: Vec::new(), visible: 1, compacted: 0 };
    commit(&mut writer, &batch, 1).unwrap();
    for _ in 0..2 {
        let counted = db.snapshot().count(Keyspace::Kv, &KeyRange::all(), 1);
        let Err(Error::Corrupt { expected, found, .. }) = &counted else { panic!("{counted:?}") };
        assert!(expected.contains("0 or more keys") && found == "-1", "{counted:?}");
        writer.freeze().unwrap();
        settle(&db).unwrap();
    }
    let report = db.check().unwrap();
    assert!(report.violations.iter().any(|what| what.contains("0 or more keys")), "{report:?}");
}
