//! Every bit of an engine's directory, flipped, one at a time: what is answered is what was written,
//! or the answer is an error. There is no third answer.
//!
//! The reference directory has key tables on both levels, value segments with live and dead values,
//! compressed ones too, and a manifest of several edits. What must come of a flip depends on the file:
//!
//! | file | a flip is |
//! | --- | --- |
//! | key table, `CURRENT` | refused at the opening: their digests are looked at then |
//! | value segment | refused at the opening (frame), or when the value is read, or it is in nothing that can be read (padding, a dead value); `check` finds it in any case |
//! | manifest | refused at the opening, but for the receipts, which mean nothing where the edit is sound |
//!
//! The short run flips a sample. All of it is
//!
//! ```sh
//! VARVE_LONG=1 cargo test --release -p varve-lsm --test flips -- --nocapture
//! ```

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use support::{
    Batch, Change, KEYSPACES, Model, commit, compressed_segments, compressing_options, dir,
    random_batch, settle, write,
};
use varve_disk::sim::{Random, SimDisk};
use varve_lsm::{
    Db, Delta, Entry, Error, KeyRange, Keyspace, Options, Result, Revision, Snapshot, Values,
    Writer,
};

const REFERENCE_BYTES_MIN: usize = 256 << 10;
/// The short run flips one bit of one in so many bytes.
const SAMPLE_BYTES: usize = 331;
/// Bytes of a receipt: docs/FORMAT.md section 2.3.
const RECEIPT_BYTES: u64 = 24;

/// What a flip did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    RefusedAtOpening,
    RefusedWhenRead,
    FoundByCheck,
    Nothing,
}

type Files = BTreeMap<PathBuf, Vec<u8>>;
type Tally = BTreeMap<(String, Effect), u64>;

#[test]
fn every_flipped_bit_is_refused_or_provably_means_nothing() {
    let is_long = std::env::var_os("VARVE_LONG").is_some();
    let (files, answers) = reference();
    let total: usize = files.values().map(Vec::len).sum();
    assert!(total >= REFERENCE_BYTES_MIN, "{total} bytes");
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let halves = [0, 1].map(|half| {
            let (files, answers) = (&files, &answers);
            scope.spawn(move || flip_all(files, answers, half, is_long))
        });
        halves.into_iter().map(|half| half.join().unwrap()).collect()
    });
    let mut tally = Tally::new();
    for (what, count) in tallies.into_iter().flatten() {
        *tally.entry(what).or_default() += count;
    }
    let flips: u64 = tally.values().sum();
    println!("{flips} bits of {total} bytes flipped, 0 wrong answers:");
    for ((kind, effect), count) in &tally {
        println!("{count:>9} {kind}: {effect:?}");
    }
    for kind in ["kt", "vs", "MANIFEST", "CURRENT"] {
        let is_met = tally.contains_key(&(kind.to_owned(), Effect::RefusedAtOpening));
        assert!(is_met, "{kind}: {tally:?}");
    }
    assert!(tally.contains_key(&("vs".to_owned(), Effect::RefusedWhenRead)), "{tally:?}");
    assert!(tally.contains_key(&("vs".to_owned(), Effect::FoundByCheck)), "{tally:?}");
    if is_long {
        assert_eq!(flips, 8 * total as u64);
        // Those of the edits after the first.
        let receipts = tally[&("MANIFEST".to_owned(), Effect::Nothing)];
        assert!(receipts.is_multiple_of(8 * RECEIPT_BYTES), "{receipts}");
    }
}

fn flip_all(files: &Files, answers: &Answers, half: usize, is_long: bool) -> Tally {
    let mut tally = Tally::new();
    let mut disk = SimDisk::from_files(1, files).unwrap();
    for (path, bytes) in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let kind = name.rsplit('.').next().unwrap().split('-').next().unwrap().to_owned();
        let stride = if bytes.len() < 1_000 { 16 } else { SAMPLE_BYTES };
        for byte in (half..bytes.len()).step_by(2) {
            let is_sampled = byte / 2 % stride == 0;
            let bits = if is_long { 0..8 } else { byte as u32 * 7 % 8..byte as u32 * 7 % 8 + 1 };
            for bit in bits.filter(|_| is_long || is_sampled) {
                let context = format!("bit {bit} of byte {byte} of {name}");
                disk.flip_bit(path, byte as u64, bit).unwrap();
                let effect = look(&disk, answers, &context);
                let is_expected = match kind.as_str() {
                    "vs" => effect != Effect::Nothing,
                    "MANIFEST" => matches!(effect, Effect::RefusedAtOpening | Effect::Nothing),
                    _ => effect == Effect::RefusedAtOpening,
                };
                assert!(is_expected, "{context}: {effect:?}");
                *tally.entry((kind.clone(), effect)).or_default() += 1;
                if effect == Effect::Nothing {
                    // The opening has mended it.
                    disk = SimDisk::from_files(1, files).unwrap();
                } else {
                    disk.flip_bit(path, byte as u64, bit).unwrap();
                }
            }
            // Whoever refuses, and whoever reads, leaves everything as it was.
            assert!(!is_sampled || disk.current_files() == *files, "byte {byte} of {name}");
        }
    }
    tally
}

fn look(disk: &SimDisk, answers: &Answers, context: &str) -> Effect {
    let (db, writer) = match open(disk) {
        Ok(opened) => opened,
        Err(Error::Corrupt { .. }) => return Effect::RefusedAtOpening,
        Err(error) => panic!("{context}: {error}"),
    };
    let effect = match Answers::of(&db.snapshot()) {
        Ok(found) => {
            assert!(found == *answers, "{context}: wrong answers");
            match db.check().unwrap().violations.is_empty() {
                true => Effect::Nothing,
                false => Effect::FoundByCheck,
            }
        }
        Err(Error::Corrupt { .. }) => Effect::RefusedWhenRead,
        Err(error) => panic!("{context}: {error}"),
    };
    drop((writer, db));
    effect
}

/// All that can be asked.
#[derive(PartialEq)]
struct Answers {
    mark: Vec<u8>,
    visible: u64,
    compacted: u64,
    entries: Vec<Entry>,
    counts: Vec<u64>,
}

impl Answers {
    fn of(snapshot: &Snapshot) -> Result<Self> {
        let (compacted, visible) = (snapshot.compacted(), snapshot.visible());
        let history = snapshot.history(KeyRange::all(), compacted + 1, visible);
        let mut entries = history.collect::<Result<Vec<_>>>()?;
        let mut counts = Vec::new();
        for keyspace in KEYSPACES {
            for at in [compacted, visible] {
                let found = snapshot.range(keyspace, KeyRange::all(), at, Values::Load);
                entries.extend(found.collect::<Result<Vec<_>>>()?);
                counts.push(snapshot.count(keyspace, &KeyRange::all(), at)?);
            }
        }
        Ok(Self { mark: snapshot.mark().to_vec(), visible, compacted, entries, counts })
    }
}

/// A few large files rather than many small ones: every flip opens all of them.
fn open(disk: &SimDisk) -> Result<(Db, Writer)> {
    let options = Options {
        memtable_bytes: 160 << 10,
        segment_bytes: 64 << 10,
        table_bytes: 16 << 10,
        step_bytes: 1 << 20,
        ..compressing_options()
    };
    Db::open(Arc::new(disk.clone()), dir(), options)
}

/// A directory of at least 256 KiB, and what it answers.
fn reference() -> (Files, Answers) {
    let disk = SimDisk::new(1);
    let (db, mut writer) = open(&disk).unwrap();
    let mut model = Model::default();
    let mut random = Random::new(5);
    for round in 0..5 {
        for _ in 0..60 {
            let batch = random_batch(&model, &mut random);
            add(&mut writer, &mut model, batch);
        }
        // Objects that stay, so that there is something to flip.
        let main = model.visible() + 1;
        let object = |round: u32, sub: u32, delta: Delta| {
            let key = format!("/registry/objects/{round}/{sub:04}").into_bytes();
            let value = vec![sub as u8 ^ 0x55; 200 + (sub as usize * 37) % 500];
            let (keyspace, revision) = (Keyspace::Kv, Revision { main, sub });
            Change { keyspace, key, revision, value: Some(value), delta }
        };
        let mut changes: Vec<Change> =
            (0..110).map(|sub| object(round, sub, Delta::Plus)).collect();
        let mut compacted = model.compacted();
        if round == 3 {
            // Most of the first ones change once more and their first values go, so that those
            // that are left in their segments are moved, and compressed.
            changes.extend((0..80).map(|number| {
                let revision = Revision { main, sub: 110 + number };
                Change { revision, ..object(0, number, Delta::Zero) }
            }));
            compacted = main;
        }
        let batch = Batch { changes, visible: main, compacted };
        add(&mut writer, &mut model, batch);
        writer.freeze().unwrap();
        settle(&db).unwrap();
    }
    let answers = Answers::of(&db.snapshot()).unwrap();
    assert!(db.check().unwrap().violations.is_empty());
    assert!(compressed_segments(&disk) > 0);
    drop((writer, db));
    let files = disk.current_files();
    let is_in = |path: &Path| path.starts_with(dir());
    (files.into_iter().filter(|(path, _)| is_in(path)).collect(), answers)
}

fn add(writer: &mut Writer, model: &mut Model, batch: Batch) {
    write(writer, &batch.changes);
    model.push(batch.clone());
    commit(writer, &batch, model.batches.len()).unwrap();
}
