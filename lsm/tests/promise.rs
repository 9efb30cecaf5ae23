//! What a receiver says it has, it has until the next installation, whatever merges do meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod support;

use std::path::Path;
use std::sync::Arc;

use support::{Model, compare, dir, go_on, open, small_options};
use varve_disk::Disk;
use varve_disk::sim::{Random, SimDisk};
use varve_lsm::{Checkpoint, Db};

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
