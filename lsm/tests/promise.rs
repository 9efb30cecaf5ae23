//! What a receiver says it has, it has until the next installation or until it gives that up,
//! whatever merges do meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod support;

use std::path::Path;
use std::sync::Arc;

use support::{Model, compare, dir, go_on, open, settle, small_options};
use varve_disk::Disk;
use varve_disk::sim::{Random, SimDisk};
use varve_lsm::{Checkpoint, Db, Writer};

const STAGED: &str = "/node/staged";

/// Asks for all files of the checkpoint, as a receiver does; stages and counts those that lack.
fn stage(disk: &SimDisk, db: &Db, checkpoint: &Checkpoint) -> usize {
    let staged = Path::new(STAGED);
    disk.remove_dir_all(staged).unwrap();
    disk.create_dir_all(staged).unwrap();
    let lacking = checkpoint.files.iter().filter(|file| !db.has_file(&file.name, file.digest));
    let write = |file: &varve_lsm::CheckpointFile| {
        disk.create(&staged.join(&file.name)).unwrap().write_at(0, &file.content).unwrap();
    };
    lacking.map(write).count()
}

#[test]
fn a_file_that_is_promised_again_outlives_what_was_promised_before() {
    let sender = SimDisk::new(9);
    let (sender_db, mut sender_writer) = open(&sender).unwrap();
    let mut then = Model::default();
    go_on(&sender_db, &mut sender_writer, &mut then, 100);
    let checkpoint = sender_db.checkpoint();
    let options = varve_lsm::Options { origin: 8, ..small_options() };
    let disk = SimDisk::new(2);
    let (db, mut writer) = Db::open(Arc::new(disk.clone()), dir(), options).unwrap();
    assert_eq!(stage(&disk, &db, &checkpoint), checkpoint.files.len());
    writer.install(&checkpoint.manifest, Path::new(STAGED)).unwrap();
    for round in 0..3 {
        assert_eq!(stage(&disk, &db, &checkpoint), 0, "round {round}: it has all of them");
        // Merges drop files that were promised; the installation lets go of the promise, and what
        // it opens are the same files.
        go_on(&db, &mut writer, &mut then.clone(), 150);
        let now = db.checkpoint();
        let is_here = |name: &str| now.files.iter().any(|file| file.name == name);
        assert!(checkpoint.files.iter().any(|file| !is_here(&file.name)), "merges drop files");
        writer.install(&checkpoint.manifest, Path::new(STAGED)).unwrap();
        compare(&db.snapshot(), &then, &mut Random::new(round), 1);
    }
}

/// A receiver that has all files of `checkpoint`, which has just been installed.
fn receiver(checkpoint: &Checkpoint) -> (SimDisk, Db, Writer) {
    let options = varve_lsm::Options { origin: 8, ..small_options() };
    let disk = SimDisk::new(2);
    let (db, mut writer) = Db::open(Arc::new(disk.clone()), dir(), options).unwrap();
    stage(&disk, &db, checkpoint);
    writer.install(&checkpoint.manifest, Path::new(STAGED)).unwrap();
    (disk, db, writer)
}

fn sent() -> (Checkpoint, Model) {
    let (db, mut writer) = open(&SimDisk::new(9)).unwrap();
    let mut model = Model::default();
    go_on(&db, &mut writer, &mut model, 100);
    (db.checkpoint(), model)
}

#[test]
fn what_was_promised_for_nothing_goes_when_it_is_given_up() {
    let (checkpoint, mut model) = sent();
    let (disk, db, mut writer) = receiver(&checkpoint);
    assert_eq!(stage(&disk, &db, &checkpoint), 0);
    go_on(&db, &mut writer, &mut model, 150);
    let gone = |disk: &SimDisk| {
        let is_gone = |name: &str| !disk.exists(&dir().join(name)).unwrap();
        checkpoint.files.iter().filter(|file| is_gone(&file.name)).count()
    };
    assert_eq!(gone(&disk), 0, "all of them are promised");
    db.forget_promises();
    settle(&db).unwrap();
    assert!(gone(&disk) > 0, "merges have dropped some");
}

#[test]
fn a_pass_of_the_scrubber_goes_on_over_an_installation_of_the_same_files() {
    let (checkpoint, mut model) = sent();
    let (disk, db, mut writer) = receiver(&checkpoint);
    db.scrub(1).unwrap();
    assert_eq!(stage(&disk, &db, &checkpoint), 0);
    writer.install(&checkpoint.manifest, Path::new(STAGED)).unwrap();
    // Merges drop and remove files that were there when the pass began.
    go_on(&db, &mut writer, &mut model, 150);
    let mut is_done = false;
    for _ in 0..10_000 {
        is_done |= db.scrub(1_000).unwrap().is_pass_done;
    }
    assert!(is_done);
}
