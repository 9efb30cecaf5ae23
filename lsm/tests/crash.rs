//! Power fails at every change of the disk, and what is found is a state that was promised.
//!
//! One canonical run is counted once; then it is run again for each of its mutating disk calls,
//! up to that call, and reopened after a crash of each style; for some styles power fails again at
//! every change that the reopening makes. The promise: the state is that after some batch, at or after
//! the last one acknowledged as flushed, and it can be written on.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod support;

use std::path::Path;
use std::sync::Arc;

use support::{
    Batch, Model, batches_of, commit, compare, compressed_segments, compressing_options, dir, open,
    open_with, random_batch, settle, small_options, write,
};
use varve_disk::Disk;
use varve_disk::sim::{CrashStyle, Random, SimDisk};
use varve_lsm::{Checkpoint, Db, Error, Options, Result, Work};

fn styles(operation: u64) -> Vec<CrashStyle> {
    let mut styles = vec![CrashStyle::LoseAll, CrashStyle::KeepAll];
    let seeds = if std::env::var_os("VARVE_LONG").is_some() { 32 } else { 1 };
    for seed in 0..seeds {
        styles.push(CrashStyle::Random(operation * 31 + seed));
        let operation = operation.saturating_sub(1);
        styles.push(CrashStyle::Torn { operation, seed: operation * 17 + seed });
    }
    styles
}

/// Batches that make flushes, merges, relocations and removals.
fn batches() -> Vec<Batch> {
    let mut random = Random::new(2024);
    let mut model = Model::default();
    for _ in 0..220 {
        let batch = random_batch(&model, &mut random);
        model.push(batch);
    }
    model.batches
}

/// Writes all batches, with background work as it comes. `flushed` follows what is acknowledged.
fn run(disk: &SimDisk, options: &Options, batches: &[Batch], flushed: &mut usize) -> Result<()> {
    let (db, mut writer) = open_with(disk, options.clone())?;
    for (number, batch) in batches.iter().enumerate() {
        write(&mut writer, &batch.changes);
        commit(&mut writer, batch, number + 1)?;
        if number % 20 == 19 {
            writer.freeze()?;
        }
        if number % 3 == 2 {
            db.work()?;
            *flushed = db.flushed_mark().map_or(0, |mark| batches_of(&mark));
        }
    }
    writer.freeze()?;
    for _ in 0..1_000 {
        if db.work()? == Work::Idle {
            return Ok(());
        }
        *flushed = db.flushed_mark().map_or(0, |mark| batches_of(&mark));
    }
    panic!("background work finds no end");
}

fn look(found: &SimDisk, options: &Options, model: &Model, flushed: usize, what: &str) {
    let mut random = Random::new(flushed as u64);
    let opened = open_with(found, options.clone());
    let (db, mut writer) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    let recovered = batches_of(db.snapshot().mark());
    assert!(recovered >= flushed, "{what}: {recovered} batches, {flushed} were flushed");
    let mut state = model.truncated(recovered);
    compare(&db.snapshot(), &state, &mut random, 0);
    let report = db.check().unwrap();
    assert!(report.violations.is_empty(), "{what}: {report:#?}");
    // The log is replayed.
    for batch in &model.batches[recovered..] {
        write(&mut writer, &batch.changes);
        state.push(batch.clone());
        commit(&mut writer, batch, state.batches.len()).unwrap();
    }
    writer.freeze().unwrap();
    settle(&db).unwrap();
    compare(&db.snapshot(), model, &mut random, 0);
}

/// Power fails again while what `image` gives is opened, at each change that this makes. Returns how
/// many images that were.
fn crash_again(
    image: impl Fn() -> SimDisk,
    options: &Options,
    look: impl Fn(&SimDisk, &str),
) -> u64 {
    let disk = image();
    let first = disk.operations();
    drop(open_with(&disk, options.clone()).unwrap());
    let mut images = 0;
    for operation in first..disk.operations() {
        let disk = image();
        disk.stop_at_operation(operation);
        // It may open: a receipt that cannot be written is no reason to refuse.
        drop(open_with(&disk, options.clone()));
        for style in [CrashStyle::LoseAll, CrashStyle::Random(operation)] {
            look(&disk.crash_image(style), &format!("again at operation {operation}, {style:?}"));
            images += 1;
        }
    }
    images
}

#[test]
fn a_crash_at_any_disk_call_leaves_a_state_at_or_after_the_last_flush() {
    crash_at_any_disk_call(&small_options(), 0);
}

#[test]
fn a_crash_at_any_disk_call_leaves_such_a_state_of_compressed_values_too() {
    crash_at_any_disk_call(&compressing_options(), 3);
}

/// In the short run at every seventh call, from `first` on.
fn crash_at_any_disk_call(options: &Options, first: u64) {
    let batches = batches();
    let mut model = Model::default();
    batches.iter().for_each(|batch| model.push(batch.clone()));
    let disk = SimDisk::new(1);
    run(&disk, options, &batches, &mut 0).unwrap();
    assert_eq!(compressed_segments(&disk) > 0, options.compression.is_some());
    let operations = disk.operations();
    assert!(operations > 200, "{operations} operations are too few to prove something");
    let is_long = std::env::var_os("VARVE_LONG").is_some();
    let (first, step, again_step) = if is_long { (0, 1, 1) } else { (first, 7_u64, 105) };
    let (mut images, mut again) = (0, 0);
    for operation in (first..=operations).step_by(step as usize) {
        let disk = SimDisk::new(1);
        disk.stop_at_operation(operation);
        let mut flushed = 0;
        let result = run(&disk, options, &batches, &mut flushed);
        assert_eq!(result.is_err(), operation < operations);
        for (number, style) in styles(operation).into_iter().enumerate() {
            let what = format!("operation {operation}, {style:?}");
            look(&disk.crash_image(style), options, &model, flushed, &what);
            images += 1;
            if (1..3).contains(&number) && (operation - first).is_multiple_of(again_step) {
                let image = || disk.crash_image(style);
                again += crash_again(image, options, |found, then| {
                    look(found, options, &model, flushed, &format!("{what}, {then}"));
                });
            }
        }
    }
    assert!(again > 0, "reopening changes the disk");
    println!(
        "flush, merge, relocation, manifest: {operations} disk calls, {images} images, and {again} \
         of a second crash, 0 violations"
    );
}

fn stage(disk: &SimDisk, db: &Db, checkpoint: &Checkpoint, staged: &Path) -> Result<()> {
    disk.remove_dir_all(staged)?;
    disk.create_dir_all(staged)?;
    for file in &checkpoint.files {
        if !db.has_file(&file.name, file.digest) {
            disk.create(&staged.join(&file.name))?.write_at(0, &file.content)?;
        }
    }
    Ok(())
}

#[test]
fn a_crash_during_an_installation_leaves_the_old_state_or_the_new_one() {
    let batches = batches();
    let mut model = Model::default();
    batches.iter().for_each(|batch| model.push(batch.clone()));
    let sender = SimDisk::new(9);
    let (sender_db, mut sender_writer) = open_with(&sender, compressing_options()).unwrap();
    let mut checkpoints = Vec::new();
    for (number, batch) in batches.iter().enumerate() {
        write(&mut sender_writer, &batch.changes);
        commit(&mut sender_writer, batch, number + 1).unwrap();
        if number == 90 {
            sender_writer.freeze().unwrap();
            settle(&sender_db).unwrap();
        }
        if number == 120 || number == 219 {
            sender_writer.freeze().unwrap();
            while matches!(sender_db.work().unwrap(), Work::Flushing | Work::Flushed) {}
            checkpoints.push(sender_db.checkpoint());
        }
    }
    assert!(compressed_segments(&sender) > 0);
    let staged = Path::new("/node/staged");
    let options = Options { origin: 8, ..compressing_options() };
    // Installs both checkpoints; returns the marks that were acknowledged.
    let run = |disk: &SimDisk, installed: &mut usize| -> Result<()> {
        let (db, mut writer) = Db::open(Arc::new(disk.clone()), dir(), options.clone())?;
        for checkpoint in &checkpoints {
            stage(disk, &db, checkpoint, staged)?;
            writer.install(&checkpoint.manifest, staged)?;
            *installed = batches_of(&checkpoint.mark);
            settle(&db)?;
        }
        Ok(())
    };
    let disk = SimDisk::new(2);
    run(&disk, &mut 0).unwrap();
    let (operations, mut images) = (disk.operations(), 0);
    for operation in 0..=operations {
        let disk = SimDisk::new(2);
        disk.stop_at_operation(operation);
        let mut installed = 0;
        let _ = run(&disk, &mut installed);
        for style in styles(operation) {
            let found = disk.crash_image(style);
            let (db, _) = Db::open(Arc::new(found), dir(), options.clone()).unwrap();
            let recovered = batches_of(db.snapshot().mark());
            assert!(recovered >= installed, "{recovered} after {installed} at {operation}");
            let state = model.truncated(recovered);
            compare(&db.snapshot(), &state, &mut Random::new(operation), 0);
            images += 1;
        }
    }
    println!("installation: {operations} disk calls, {images} images, 0 violations");
}

#[test]
fn a_damaged_or_missing_file_of_a_checkpoint_changes_nothing() {
    let batches = batches();
    let sender = SimDisk::new(9);
    run(&sender, &compressing_options(), &batches, &mut 0).unwrap();
    assert!(compressed_segments(&sender) > 0);
    let (sender_db, _writer) = open(&sender).unwrap();
    let checkpoint = sender_db.checkpoint();
    let staged = Path::new("/node/staged");
    let disk = SimDisk::new(2);
    let (db, mut writer) = open(&disk).unwrap();
    let mut model = Model::default();
    model.push(batches[0].clone());
    write(&mut writer, &batches[0].changes);
    commit(&mut writer, &batches[0], 1).unwrap();
    for (number, file) in checkpoint.files.iter().enumerate() {
        stage(&disk, &db, &checkpoint, staged).unwrap();
        let path = staged.join(&file.name);
        if number % 2 == 0 {
            disk.remove(&path).unwrap();
        } else {
            disk.flip_bit(&path, file.content.len() as u64 / 2, 3).unwrap();
        }
        assert!(db.check_checkpoint(&checkpoint.manifest, staged).is_err());
        let error = writer.install(&checkpoint.manifest, staged).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { file: name, .. } if name.contains(&file.name)));
        compare(&db.snapshot(), &model, &mut Random::new(1), 1);
    }
    stage(&disk, &db, &checkpoint, staged).unwrap();
    let mut damaged = checkpoint.manifest.to_vec();
    damaged[100] ^= 1;
    assert!(db.check_checkpoint(&damaged, staged).is_err());
    assert!(writer.install(&damaged.into(), staged).is_err());
    let mark = db.check_checkpoint(&checkpoint.manifest, staged).unwrap();
    assert_eq!(mark.as_ref(), Some(&checkpoint.mark));
    writer.install(&checkpoint.manifest, staged).unwrap();
    assert_eq!(batches_of(db.snapshot().mark()), batches.len());
}

#[test]
fn a_disk_error_during_background_work_is_reported_and_costs_nothing_that_was_flushed() {
    let batches = batches();
    let mut model = Model::default();
    batches.iter().for_each(|batch| model.push(batch.clone()));
    let (disk, options) = (SimDisk::new(1), compressing_options());
    run(&disk, &options, &batches, &mut 0).unwrap();
    for operation in (0..disk.operations()).step_by(11) {
        let disk = SimDisk::new(1);
        disk.fail_after(operation, varve_disk::sim::Fault::Io);
        let mut flushed = 0;
        assert!(matches!(run(&disk, &options, &batches, &mut flushed), Err(Error::Disk(_))));
        look(&disk.crash(), &options, &model, flushed, &format!("failed operation {operation}"));
    }
}
