//! The rules of "What we assume of a disk", each shown on the simulated disk.
//!
//! One idea: a rule has two sides. What may happen must happen for some seed, and what may not
//! happen must happen for none; so most tests collect what they find over many seeds.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use varve_disk::durable::Backend;
use varve_disk::sim::{CrashStyle, Fault, FaultRule, OperationKind, Random, SimDisk};
use varve_disk::{Disk, File};

const SEEDS: u64 = 300;
const ROOT: &str = "/";
const SECTOR: usize = varve_disk::SECTOR_BYTES as usize;

fn path(path: &str) -> &Path {
    Path::new(path)
}

/// A disk with the durable file `/a` of so many sectors of ones, open.
fn disk_with_ones(sectors: usize) -> (SimDisk, Arc<dyn File>) {
    let files = BTreeMap::from([(PathBuf::from("/a"), vec![1; sectors * SECTOR])]);
    let disk = SimDisk::from_files(7, &files).unwrap();
    let file = disk.open(path("/a")).unwrap();
    (disk, file)
}

/// What random crashes find, by `look`.
fn outcomes<T: Ord>(disk: &SimDisk, look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    (0..SEEDS).map(|seed| look(&disk.crash_image(CrashStyle::Random(seed)))).collect()
}

fn names(disk: &SimDisk) -> Vec<String> {
    disk.list(path(ROOT)).unwrap()
}

/// The first byte of each sector of `/a`.
fn sectors(disk: &SimDisk) -> Vec<u8> {
    content(disk).chunks(SECTOR).map(|sector| sector[0]).collect()
}

fn content(disk: &SimDisk) -> Vec<u8> {
    disk.map(path("/a")).unwrap().to_vec()
}

#[test]
fn unsynced_bytes_may_be_kept_or_lost_by_sector_and_in_any_order() {
    let (disk, file) = disk_with_ones(3);
    file.write_at(0, &[2; SECTOR]).unwrap();
    file.write_at(SECTOR as u64, &[2; 2 * SECTOR]).unwrap();
    let found = outcomes(&disk, |disk| {
        let bytes = content(disk);
        assert_eq!(bytes.len(), 3 * SECTOR);
        let sectors: Vec<u8> = bytes.chunks(SECTOR).map(|sector| sector[0]).collect();
        assert!(bytes.chunks(SECTOR).all(|sector| sector.iter().all(|&byte| byte == sector[0])));
        sectors
    });
    assert_eq!(found.len(), 8, "every subset of three sectors is legal, found {found:?}");
}

#[test]
fn a_sector_is_found_as_it_was_after_one_of_its_writes() {
    let (disk, file) = disk_with_ones(1);
    file.write_at(0, &[2; 100]).unwrap();
    file.write_at(50, &[3; 100]).unwrap();
    let found = outcomes(&disk, |disk| {
        let bytes = content(disk);
        (bytes[0], bytes[75], bytes[149], bytes[150])
    });
    assert_eq!(found, BTreeSet::from([(1, 1, 1, 1), (2, 2, 1, 1), (2, 3, 3, 1)]));
}

#[test]
fn synced_bytes_and_lengths_are_never_lost() {
    let (disk, file) = disk_with_ones(2);
    file.write_at(0, &[2; SECTOR]).unwrap();
    file.write_at(2 * SECTOR as u64, &[2; 700]).unwrap();
    file.sync().unwrap();
    let synced = disk.durable_files();
    assert_eq!(outcomes(&disk, SimDisk::durable_files), BTreeSet::from([synced.clone()]));
    assert_eq!(disk.crash_with(CrashStyle::LoseAll).current_files(), synced);
}

#[test]
fn an_unsynced_extension_may_be_lost_or_be_found_without_its_bytes() {
    let (disk, file) = disk_with_ones(1);
    file.write_at(SECTOR as u64, &[2; 4 * SECTOR]).unwrap();
    let found = outcomes(&disk, |disk| {
        let bytes = content(disk);
        assert!(bytes[..SECTOR].iter().all(|&byte| byte == 1));
        (bytes.len(), bytes[SECTOR..].contains(&0), bytes[SECTOR..].contains(&2))
    });
    let whole = 5 * SECTOR;
    for expected in
        [(SECTOR, false, false), (whole, true, false), (whole, true, true), (whole, false, true)]
    {
        assert!(found.contains(&expected), "{expected:?} is legal, found {found:?}");
    }
    assert!(found.iter().any(|&(length, ..)| SECTOR < length && length < whole), "{found:?}");
}

#[test]
fn an_unsynced_cut_never_harms_what_lies_before_it() {
    let (disk, file) = disk_with_ones(3);
    file.set_len(700).unwrap();
    let lengths = outcomes(&disk, |disk| {
        let bytes = content(disk);
        assert!(bytes[..700].iter().all(|&byte| byte == 1));
        bytes.len()
    });
    assert_eq!(lengths, BTreeSet::from([700, 3 * SECTOR]));
}

#[test]
fn a_synced_file_whose_name_was_not_synced_may_be_gone() {
    let disk = SimDisk::new(1);
    let file = disk.create(path("/a")).unwrap();
    file.write_at(0, b"hello").unwrap();
    file.sync().unwrap();
    let found = outcomes(&disk, SimDisk::current_files);
    let kept = BTreeMap::from([(PathBuf::from("/a"), b"hello".to_vec())]);
    assert_eq!(found, BTreeSet::from([BTreeMap::new(), kept]));
}

#[test]
fn a_synced_name_is_never_lost_but_its_bytes_may_be() {
    let disk = SimDisk::new(1);
    let file = disk.create(path("/a")).unwrap();
    file.write_at(0, b"hello").unwrap();
    disk.sync_dir(path(ROOT)).unwrap();
    let found = outcomes(&disk, content);
    let zeros = vec![0; 5];
    assert_eq!(found, BTreeSet::from([Vec::new(), zeros, b"hello".to_vec()]));
}

#[test]
fn a_file_in_a_directory_whose_name_was_not_synced_may_be_gone() {
    let disk = SimDisk::new(1);
    disk.create_dir_all(path("/d/e")).unwrap();
    disk.create(path("/d/e/a")).unwrap();
    disk.sync_dir(path("/d/e")).unwrap();
    disk.sync_dir(path("/d")).unwrap();
    assert!(names(&disk.crash_image(CrashStyle::LoseAll)).is_empty());
    disk.sync_dir(path(ROOT)).unwrap();
    assert!(disk.crash_with(CrashStyle::LoseAll).exists(path("/d/e/a")).unwrap());
}

#[test]
fn a_rename_is_found_whole_or_not_at_all() {
    let disk = SimDisk::new(1);
    for (name, bytes) in [("/a", b"old"), ("/b", b"new")] {
        let file = disk.create(path(name)).unwrap();
        file.write_at(0, bytes).unwrap();
        file.sync().unwrap();
    }
    disk.sync_dir(path(ROOT)).unwrap();
    disk.rename(path("/b"), path("/a")).unwrap();
    let found = outcomes(&disk, |disk| (names(disk).join(" "), content(disk)));
    let before = ("a b".to_owned(), b"old".to_vec());
    let after = ("a".to_owned(), b"new".to_vec());
    assert_eq!(found, BTreeSet::from([before, after.clone()]));
    disk.sync_dir(path(ROOT)).unwrap();
    let found = outcomes(&disk, |disk| (names(disk).join(" "), content(disk)));
    assert_eq!(found, BTreeSet::from([after]));
}

#[test]
fn a_rename_between_directories_is_durable_when_both_are_synced() {
    let disk = SimDisk::new(1);
    disk.create_dir_all(path("/x")).unwrap();
    disk.create_dir_all(path("/y")).unwrap();
    disk.create(path("/x/f")).unwrap();
    for dir in ["/x", "/y", ROOT] {
        disk.sync_dir(path(dir)).unwrap();
    }
    disk.rename(path("/x/f"), path("/y/g")).unwrap();
    let places =
        |disk: &SimDisk| (disk.exists(path("/x/f")).unwrap(), disk.exists(path("/y/g")).unwrap());
    disk.sync_dir(path("/x")).unwrap();
    assert_eq!(outcomes(&disk, places), BTreeSet::from([(true, false), (false, true)]));
    disk.sync_dir(path("/y")).unwrap();
    assert_eq!(outcomes(&disk, places), BTreeSet::from([(false, true)]));
}

#[test]
fn names_are_lost_independently_but_each_in_the_order_of_its_states() {
    let disk = SimDisk::new(1);
    disk.create(path("/a")).unwrap();
    disk.create(path("/b")).unwrap();
    disk.rename(path("/a"), path("/c")).unwrap();
    let found = outcomes(&disk, |disk| names(disk).join(" "));
    let legal = ["", "a", "a b", "b", "b c", "c"];
    assert_eq!(found, legal.iter().map(|names| (*names).to_owned()).collect());
}

#[test]
fn a_removal_that_was_not_synced_may_be_undone_with_the_synced_bytes() {
    let (disk, file) = disk_with_ones(1);
    file.write_at(0, b"never synced").unwrap();
    disk.remove(path("/a")).unwrap();
    drop(file);
    let back = disk.crash_image(CrashStyle::LoseAll);
    assert_eq!(content(&back), [1; SECTOR]);
    assert_eq!(outcomes(&disk, |disk| names(disk).len()), BTreeSet::from([0, 1]));
    disk.sync_dir(path(ROOT)).unwrap();
    assert_eq!(outcomes(&disk, |disk| names(disk).len()), BTreeSet::from([0]));
}

#[test]
fn an_unsynced_removal_of_a_directory_may_be_found_half_done() {
    let files = ["/d/a", "/d/b"].map(|name| (PathBuf::from(name), vec![1]));
    let disk = SimDisk::from_files(1, &BTreeMap::from(files)).unwrap();
    disk.remove_dir_all(path("/d")).unwrap();
    let found = outcomes(&disk, |disk| disk.current_files().len());
    assert_eq!(found, BTreeSet::from([0, 1, 2]));
}

#[test]
fn a_file_that_was_moved_out_of_a_removed_directory_is_never_lost() {
    let files = BTreeMap::from([(PathBuf::from("/d/a"), vec![1])]);
    let disk = SimDisk::from_files(1, &files).unwrap();
    disk.rename(path("/d/a"), path("/a")).unwrap();
    disk.remove_dir_all(path("/d")).unwrap();
    let found = outcomes(&disk, |disk| {
        (disk.exists(path("/a")).unwrap(), disk.exists(path("/d")).unwrap(), names(disk).len())
    });
    let (before, between, after) = ((false, true, 1), (true, true, 2), (true, false, 1));
    assert_eq!(found, BTreeSet::from([before, between, after]));
    disk.sync_dir(path(ROOT)).unwrap();
    assert_eq!(names(&disk.crash_with(CrashStyle::LoseAll)), ["a"]);
}

/// Writes, fails the sync with EIO, and writes again before a sync that succeeds.
fn disk_after_a_failed_sync(second_write: Option<u64>) -> SimDisk {
    let (disk, file) = disk_with_ones(3);
    file.write_at(0, &[2; 3 * SECTOR]).unwrap();
    disk.inject(FaultRule::new(Fault::Io).on(OperationKind::Sync));
    file.sync().unwrap_err();
    if let Some(offset) = second_write {
        file.write_at(offset, &[3; SECTOR]).unwrap();
    }
    file.sync().unwrap();
    disk
}

#[test]
fn a_failed_sync_is_final() {
    let disk = disk_after_a_failed_sync(None);
    // The cache reads as if nothing had happened, and the second sync succeeded; yet:
    let found = outcomes(&disk, sectors);
    assert!(found.contains(&vec![1, 1, 1]) && found.contains(&vec![2, 2, 2]), "{found:?}");
}

#[test]
fn after_a_failed_sync_only_later_writes_are_synced() {
    let disk = disk_after_a_failed_sync(Some(SECTOR as u64));
    let found = outcomes(&disk, sectors);
    assert!(found.contains(&vec![1, 3, 1]) && found.contains(&vec![2, 3, 2]), "{found:?}");
    assert!(found.iter().all(|sectors| sectors[1] == 3), "{found:?}");
}

#[test]
fn a_failed_sync_of_a_directory_is_final() {
    let disk = SimDisk::new(1);
    disk.create(path("/a")).unwrap();
    disk.inject(FaultRule::new(Fault::Io).on(OperationKind::SyncDir));
    disk.sync_dir(path(ROOT)).unwrap_err();
    disk.create(path("/b")).unwrap();
    let error = disk.sync_dir(path(ROOT)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{error}");
    let found = outcomes(&disk, |disk| names(disk).join(" "));
    assert_eq!(found, ["", "a", "a b", "b"].map(str::to_owned).into());
    // Mounted anew, it works again.
    disk.crash().sync_dir(path(ROOT)).unwrap();
}

#[test]
fn each_style_keeps_what_it_says() {
    let disk = SimDisk::new(1);
    let file = disk.create(path("/a")).unwrap(); // Operation 0.
    disk.sync_dir(path(ROOT)).unwrap(); // 1
    file.write_at(0, &[1; SECTOR]).unwrap(); // 2
    file.write_at(SECTOR as u64, &[2; SECTOR]).unwrap(); // 3
    disk.rename(path("/a"), path("/b")).unwrap(); // 4
    assert_eq!(disk.operations(), 5);
    let found = |style| -> Vec<(PathBuf, usize)> {
        let files = disk.crash_with(style).current_files().into_iter();
        files.map(|(path, bytes)| (path, bytes.len())).collect()
    };
    let one = |name: &str, length| vec![(PathBuf::from(name), length)];
    assert_eq!(found(CrashStyle::LoseAll), one("/a", 0));
    assert_eq!(found(CrashStyle::KeepAll), one("/b", 2 * SECTOR));
    assert_eq!(found(CrashStyle::KeepNames), one("/b", 0));
    assert_eq!(found(CrashStyle::KeepData), one("/a", 2 * SECTOR));
    assert_eq!(found(CrashStyle::Prefix(2)), one("/a", 0));
    assert_eq!(found(CrashStyle::Prefix(3)), one("/a", SECTOR));
    assert_eq!(found(CrashStyle::Prefix(4)), one("/a", 2 * SECTOR));
    assert_eq!(found(CrashStyle::Prefix(5)), one("/b", 2 * SECTOR));
    let torn = |seed| found(CrashStyle::Torn { operation: 3, seed });
    let lengths: BTreeSet<_> = (0..SEEDS).map(torn).collect();
    assert_eq!(lengths, BTreeSet::from([one("/a", SECTOR), one("/a", 2 * SECTOR)]));
}

#[test]
fn after_a_crash_the_old_disk_is_dead_and_the_new_one_lives() {
    let (disk, file) = disk_with_ones(1);
    let lock = disk.lock(path(ROOT)).unwrap();
    let found = disk.crash();
    assert!(disk.is_stopped() && !found.is_stopped());
    assert!(file.read_at(0, &mut [0; 1]).is_err() && file.write_at(0, b"x").is_err());
    assert!(file.sync().is_err() && file.len().is_err());
    assert!(disk.open(path("/a")).is_err() && disk.exists(path("/a")).is_err());
    assert!(disk.list(path(ROOT)).is_err() && disk.create_dir_all(path(ROOT)).is_err());
    let _lock = found.lock(path(ROOT)).unwrap();
    drop(lock);
    assert_eq!(content(&found), [1; SECTOR]);
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    let run = |seed| {
        let mut random = Random::new(seed);
        let mut disk = SimDisk::new(seed);
        for round in 0..20u64 {
            let name = format!("/{round}");
            let file = disk.create(path(&name)).unwrap();
            file.write_at(random.below(2000), &vec![round as u8 + 1; 3000]).unwrap();
            if random.one_in(2) {
                disk.sync_dir(path(ROOT)).unwrap();
            }
            disk = disk.crash();
        }
        disk.durable_files()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn every_operation_can_be_the_one_before_which_power_is_lost() {
    let run = |disk: &SimDisk| -> varve_disk::Result<()> {
        let file = disk.create(path("/tmp"))?;
        file.write_at(0, &[9; 2000])?;
        file.sync()?;
        disk.rename(path("/tmp"), path("/a"))?;
        disk.sync_dir(path(ROOT))
    };
    let whole = SimDisk::new(1);
    run(&whole).unwrap();
    assert_eq!(whole.operations(), 5);
    for operation in 0..5 {
        let disk = SimDisk::new(1);
        disk.stop_at_operation(operation);
        run(&disk).unwrap_err();
        assert!(disk.is_stopped());
        for seed in 0..SEEDS {
            // The recipe for replacing a file: under its final name it is never incomplete.
            let found = disk.crash_with(CrashStyle::Random(seed));
            if found.exists(path("/a")).unwrap() {
                assert_eq!(content(&found), [9; 2000], "operation {operation}, seed {seed}");
            }
        }
    }
}

#[test]
fn a_durable_write_is_never_lost_and_vouches_for_nothing_else() {
    let (disk, file) = disk_with_ones(4);
    let mut writer = disk.open_durable(path("/a"), Backend::Fdatasync).unwrap();
    file.write_at(0, &[2; SECTOR]).unwrap();
    writer.write_durable_at(SECTOR as u64, &[3; 2 * SECTOR]).unwrap();
    file.write_at(3 * SECTOR as u64, &[4; SECTOR]).unwrap();
    let found = outcomes(&disk, sectors);
    let expected = [[1, 3, 3, 1], [2, 3, 3, 1], [1, 3, 3, 4], [2, 3, 3, 4]];
    assert_eq!(found, BTreeSet::from(expected.map(Vec::from)));
    file.sync().unwrap();
    assert_eq!(sectors(&disk.crash_with(CrashStyle::LoseAll)), [2, 3, 3, 4]);
}

#[test]
fn a_durable_write_that_lost_its_power_leaves_any_subset() {
    let (disk, _file) = disk_with_ones(2);
    let mut writer = disk.open_durable(path("/a"), Backend::Fdatasync).unwrap();
    // Its first operation is the write, its second one the sync.
    disk.stop_at_operation(1);
    assert!(writer.write_durable_at(0, &[2; 2 * SECTOR]).is_err());
    let found = outcomes(&disk, sectors);
    let expected = [[1, 1], [1, 2], [2, 1], [2, 2]];
    assert_eq!(found, BTreeSet::from(expected.map(Vec::from)));
}

#[test]
fn a_durable_write_that_failed_is_not_made_good_by_another() {
    for kind in [OperationKind::Write, OperationKind::Sync] {
        let (disk, _file) = disk_with_ones(2);
        let mut writer = disk.open_durable(path("/a"), Backend::Fdatasync).unwrap();
        disk.inject(FaultRule::new(Fault::Io).on(kind));
        assert!(writer.write_durable_at(0, &[2; 2 * SECTOR]).is_err());
        writer.write_durable_at(SECTOR as u64, &[3; SECTOR]).unwrap();
        let found = outcomes(&disk, sectors);
        assert!(found.contains(&vec![1, 3]), "{kind:?}: {found:?}");
    }
}
