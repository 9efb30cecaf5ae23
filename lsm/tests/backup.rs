//! Backups and the scrubber: what is linked stays, what is damaged is found, power may fail.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod support;

use std::path::Path;
use std::sync::Arc;

use support::{
    Batch, Model, batches_of, commit, compare, compressed_segments, compressing_options, dir,
    go_on, open, open_with, random_batch, settle, small_options, write,
};
use varve_disk::Disk;
use varve_disk::sim::{CrashStyle, Random, SimDisk};
use varve_lsm::{Db, Error, Result, Scrubbed, Writer};

const BACKUP: &str = "/node/backups/monday";

/// An engine with files of all kinds, and what is in it.
fn engine(disk: &SimDisk, count: usize) -> Result<(Db, Writer, Model)> {
    let (db, mut writer) = open_with(disk, compressing_options())?;
    let (mut random, mut model) = (Random::new(77), Model::default());
    for number in 1..=count {
        let batch: Batch = random_batch(&model, &mut random);
        write(&mut writer, &batch.changes);
        commit(&mut writer, &batch, number)?;
        model.push(batch);
    }
    writer.freeze()?;
    settle(&db)?;
    Ok((db, writer, model))
}

fn open_at(disk: &SimDisk, dir: &Path) -> (Db, Writer) {
    Db::open(Arc::new(disk.clone()), dir, small_options()).unwrap()
}

#[test]
fn a_backup_keeps_its_state_while_the_engine_goes_on_and_can_go_on_itself() {
    let disk = SimDisk::new(1);
    let (db, mut writer, mut model) = engine(&disk, 100).unwrap();
    let mark = db.backup(Path::new(BACKUP)).unwrap();
    assert_eq!(batches_of(&mark), 100);
    let then = model.clone();
    go_on(&db, &mut writer, &mut model, 150);
    let (copy, mut copy_writer) = open_at(&disk, Path::new(BACKUP));
    compare(&copy.snapshot(), &then, &mut Random::new(1), 1);
    assert!(copy.check().unwrap().violations.is_empty());
    // New files of the copy do not clash with those that it has.
    let mut other = then.clone();
    go_on(&copy, &mut copy_writer, &mut other, 120);
    compare(&copy.snapshot(), &other, &mut Random::new(1), 0);
    compare(&db.snapshot(), &model, &mut Random::new(1), 0);
    let taken = db.backup(Path::new(BACKUP)).unwrap_err().to_string();
    assert!(taken.contains(BACKUP), "{taken}");
}

#[test]
fn a_crash_during_a_backup_leaves_a_whole_one_or_none_and_the_engine_as_it_was() {
    let disk = SimDisk::new(1);
    let (db, _writer, model) = engine(&disk, 60).unwrap();
    let first = disk.operations();
    db.backup(Path::new(BACKUP)).unwrap();
    let last = disk.operations();
    assert!(last - first > 10, "{first} to {last}");
    for operation in first..=last {
        let disk = SimDisk::new(1);
        let (db, _writer, _) = engine(&disk, 60).unwrap();
        disk.stop_at_operation(operation);
        let result = db.backup(Path::new(BACKUP));
        assert_eq!(result.is_err(), operation < last);
        for style in [CrashStyle::LoseAll, CrashStyle::KeepAll, CrashStyle::Random(operation)] {
            let found = disk.crash_image(style);
            let what = format!("operation {operation} of {first}..{last}, {style:?}");
            let is_there = found.exists(Path::new(BACKUP)).unwrap();
            assert!(is_there || result.is_err(), "{what}: an acknowledged backup is gone");
            if is_there {
                let (copy, _) = open_at(&found, Path::new(BACKUP));
                compare(&copy.snapshot(), &model, &mut Random::new(1), 0);
            }
            let (db, _writer) = open_at(&found, dir());
            compare(&db.snapshot(), &model, &mut Random::new(1), 0);
            // What is left of the interrupted one is in nobody's way.
            if !is_there {
                db.backup(Path::new(BACKUP)).unwrap_or_else(|error| panic!("{what}: {error}"));
                let (copy, _) = open_at(&found, Path::new(BACKUP));
                compare(&copy.snapshot(), &model, &mut Random::new(1), 0);
            }
        }
    }
}

/// Scrubs in steps of `budget` to the end of a pass.
fn pass(db: &Db, budget: u64) -> Result<Scrubbed> {
    let mut sum = Scrubbed::default();
    for _ in 0..100_000 {
        let step = db.scrub(budget)?;
        assert!(step.bytes <= budget, "{step:?} with {budget}");
        sum.bytes += step.bytes;
        sum.files += step.files;
        if step.is_pass_done {
            return Ok(Scrubbed { is_pass_done: true, ..sum });
        }
    }
    panic!("the pass finds no end");
}

#[test]
fn a_pass_of_the_scrubber_reads_each_byte_once_in_bounded_steps() {
    let disk = SimDisk::new(1);
    let (db, mut writer, mut model) = engine(&disk, 100).unwrap();
    let sizes = db.sizes();
    let report = db.check().unwrap();
    for budget in [1_000, 1 << 20] {
        let done = pass(&db, budget).unwrap();
        assert_eq!(done.bytes, sizes.disk_bytes);
        assert_eq!(done.files, report.tables + report.segments);
    }
    // In the middle of a pass all files may be replaced: the one under way stays, the others go.
    db.scrub(1_000).unwrap();
    go_on(&db, &mut writer, &mut model, 200);
    let names = disk.list(dir()).unwrap().into_iter();
    let kept = names.filter(|name| name.ends_with("s") || name.ends_with("t")).count() as u64;
    let report = db.check().unwrap();
    assert!(kept <= report.tables + report.segments + 1, "{kept} files, {report:?}");
    pass(&db, 1_000).unwrap();
    pass(&db, 1_000).unwrap();
    settle(&db).unwrap();
    assert_eq!(pass(&db, 1 << 20).unwrap().bytes, db.sizes().disk_bytes);
}

#[test]
fn an_empty_engine_is_scrubbed_at_once() {
    let (db, _writer) = open(&SimDisk::new(1)).unwrap();
    assert_eq!(db.scrub(1).unwrap(), Scrubbed { is_pass_done: true, ..Scrubbed::default() });
}

#[test]
fn the_scrubber_finds_a_flipped_bit_in_any_file_and_names_it() {
    let disk = SimDisk::new(1);
    let (db, _writer, _) = engine(&disk, 120).unwrap();
    assert!(compressed_segments(&disk) > 0);
    let names = disk.list(dir()).unwrap().into_iter();
    let names: Vec<_> = names.filter(|name| name.ends_with("s") || name.ends_with("t")).collect();
    assert!(names.len() >= 2, "{names:?}");
    let mut random = Random::new(3);
    for name in names {
        let path = dir().join(&name);
        let at = random.below(disk.open(&path).unwrap().len().unwrap());
        disk.flip_bit(&path, at, 5).unwrap();
        let error = (0..2).find_map(|_| pass(&db, 4_096).err()).expect("it is found");
        assert!(matches!(&error, Error::Corrupt { file, .. } if file.contains(&name)), "{error}");
        disk.flip_bit(&path, at, 5).unwrap();
        // The next call goes on with the next file.
        pass(&db, 4_096).unwrap();
    }
}
