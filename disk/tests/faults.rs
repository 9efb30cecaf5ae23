//! Injected faults, limits and bit rot of the simulated disk.
//!
//! One idea: a fault meets exactly the operations that were asked for, and what it leaves behind
//! is what a real failure may leave.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use varve_disk::sim::{CrashStyle, Fault, FaultRule, OperationKind, SimDisk};
use varve_disk::{Disk, SECTOR_BYTES};

fn path(path: &str) -> &Path {
    Path::new(path)
}

#[track_caller]
fn expect_error<T>(result: varve_disk::Result<T>, kind: ErrorKind) {
    match result {
        Ok(_) => panic!("expected {kind:?}, found success"),
        Err(error) => assert_eq!(error.kind(), kind, "{error}"),
    }
}

fn eio() -> ErrorKind {
    Fault::Io.to_io_error().kind()
}

#[test]
fn the_operation_after_so_many_fails_once() {
    let disk = SimDisk::new(1);
    disk.fail_after(2, Fault::Io);
    let file = disk.create(path("/a")).unwrap();
    file.write_at(0, b"x").unwrap();
    file.read_at(0, &mut [0; 1]).unwrap(); // Changes nothing, does not count.
    expect_error(file.sync(), eio());
    file.sync().unwrap();
    assert_eq!(disk.operations(), 4);
}

#[test]
fn every_kind_of_operation_can_be_made_to_fail() {
    let disk = SimDisk::new(1);
    disk.create_dir_all(path("/d")).unwrap();
    let file = disk.create(path("/a")).unwrap();
    let calls: [(OperationKind, &dyn Fn() -> varve_disk::Result<()>); 12] = [
        (OperationKind::Create, &|| disk.create(path("/b")).map(drop)),
        (OperationKind::CreateDir, &|| disk.create_dir_all(path("/e"))),
        (OperationKind::List, &|| disk.list(path("/")).map(drop)),
        (OperationKind::Open, &|| disk.open(path("/a")).map(drop)),
        (OperationKind::Preallocate, &|| file.preallocate(1000)),
        (OperationKind::Read, &|| disk.map(path("/a")).map(drop)),
        (OperationKind::SetLen, &|| file.set_len(10)),
        (OperationKind::Sync, &|| file.sync()),
        // In a directory without a change: what could not be synced stays so.
        (OperationKind::SyncDir, &|| disk.sync_dir(path("/d"))),
        (OperationKind::Write, &|| file.write_at(0, b"x")),
        (OperationKind::Rename, &|| disk.rename(path("/a"), path("/c"))),
        (OperationKind::Remove, &|| disk.remove(path("/c"))),
    ];
    for (kind, call) in calls {
        let operations = disk.operations();
        disk.inject(FaultRule::new(Fault::StorageFull).on(kind));
        expect_error(call(), ErrorKind::StorageFull);
        call().unwrap_or_else(|error| panic!("{kind:?} failed twice: {error}"));
        let counted = if kind.is_mutating() { 2 } else { 0 };
        assert_eq!(disk.operations(), operations + counted, "{kind:?}");
    }
}

#[test]
fn a_rule_meets_only_its_kind_and_path() {
    let disk = SimDisk::new(1);
    let log = disk.create(path("/1.log")).unwrap();
    let table = disk.create(path("/2.table")).unwrap();
    disk.inject(FaultRule::new(Fault::Io).on(OperationKind::Sync).path(".log").after(1).always());
    log.sync().unwrap();
    for _ in 0..3 {
        table.sync().unwrap();
        log.write_at(0, b"x").unwrap();
        expect_error(log.sync(), eio());
    }
    disk.clear_faults();
    log.sync().unwrap();
}

#[test]
fn a_failed_write_leaves_some_of_its_first_sectors() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let file = disk.create(path("/a")).unwrap();
        disk.fail_after(0, Fault::StorageFull);
        expect_error(file.write_at(0, &[1; 1600]), ErrorKind::StorageFull);
        let bytes = disk.map(path("/a")).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 1));
        lengths.insert(bytes.len());
    }
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [0, 512, 1024, 1536]);
}

#[test]
fn a_full_disk_refuses_to_grow_until_something_is_removed() {
    let disk = SimDisk::new(1);
    disk.set_capacity(4 * SECTOR_BYTES);
    let file = disk.create(path("/a")).unwrap();
    file.write_at(0, &[1; 1100]).unwrap();
    assert_eq!(disk.space_left(path("/")).unwrap(), SECTOR_BYTES);
    let other = disk.create(path("/b")).unwrap();
    expect_error(other.preallocate(600), ErrorKind::StorageFull);
    expect_error(other.set_len(600), ErrorKind::StorageFull);
    expect_error(other.write_at(0, &[2; 600]), ErrorKind::StorageFull);
    other.write_at(0, &[2; 512]).unwrap();
    file.write_at(1100, &[1; 100]).unwrap(); // Still in its last sector.
    assert_eq!(disk.space_left(path("/")).unwrap(), 0);
    disk.remove(path("/a")).unwrap();
    assert_eq!(disk.space_left(path("/")).unwrap(), 3 * SECTOR_BYTES);
    // The removal was not synced: the crash brings the file back, still with its space.
    let found = disk.crash_with(CrashStyle::KeepData);
    assert_eq!(found.space_left(path("/")).unwrap(), 4 * SECTOR_BYTES);
}

#[test]
fn replacing_a_file_gives_its_space_back_once() {
    let files = ["/a", "/b"].map(|name| (PathBuf::from(name), vec![1; 600]));
    let disk = SimDisk::from_files(1, &BTreeMap::from(files)).unwrap();
    disk.set_capacity(10 * SECTOR_BYTES);
    assert_eq!(disk.space_left(path("/")).unwrap(), 6 * SECTOR_BYTES);
    disk.rename(path("/a"), path("/b")).unwrap();
    assert_eq!(disk.space_left(path("/")).unwrap(), 8 * SECTOR_BYTES);
    let back = disk.crash_with(CrashStyle::LoseAll);
    assert_eq!(back.space_left(path("/")).unwrap(), 6 * SECTOR_BYTES);
}

#[test]
fn a_flipped_bit_is_found_in_every_state_of_the_file() {
    let files = BTreeMap::from([(PathBuf::from("/a"), vec![0; 1000])]);
    let disk = SimDisk::from_files(1, &files).unwrap();
    let file = disk.open(path("/a")).unwrap();
    file.write_at(500, &[0xff; 500]).unwrap();
    disk.flip_bit(path("/a"), 700, 3).unwrap();
    let byte = |disk: &SimDisk| disk.map(path("/a")).unwrap()[700];
    assert_eq!(byte(&disk), 0xf7);
    assert_eq!(byte(&disk.crash_with(CrashStyle::KeepAll)), 0xf7);
    assert_eq!(byte(&disk.crash_with(CrashStyle::LoseAll)), 0x08);
    expect_error(disk.flip_bit(path("/a"), 1000, 0), ErrorKind::InvalidInput);
    expect_error(disk.flip_bit(path("/a"), 0, 8), ErrorKind::InvalidInput);
    expect_error(disk.flip_bit(path("/b"), 0, 0), ErrorKind::NotFound);
}

#[test]
fn a_disk_made_from_files_holds_them_durably() {
    let files = BTreeMap::from([
        (PathBuf::from("/a"), b"one".to_vec()),
        (PathBuf::from("/d/e/b"), vec![0; 1300]),
        (PathBuf::from("/d/empty"), Vec::new()),
    ]);
    let disk = SimDisk::from_files(1, &files).unwrap();
    assert_eq!(disk.durable_files(), files);
    assert_eq!(disk.crash().current_files(), files);
    assert_eq!(disk.operations(), 0);
    let clash = BTreeMap::from([("/a".into(), vec![]), ("/a/b".into(), vec![])]);
    expect_error(SimDisk::from_files(1, &clash), ErrorKind::AlreadyExists);
}

#[test]
fn paths_begin_at_the_root_and_never_climb() {
    let disk = SimDisk::new(1);
    disk.create_dir_all(path("d")).unwrap();
    disk.create(path("d/./a")).unwrap();
    assert!(disk.exists(path("/d/a")).unwrap());
    assert_eq!(disk.list(path("")).unwrap(), ["d"]);
    expect_error(disk.open(path("/d/../d/a")), ErrorKind::InvalidInput);
}

#[test]
fn a_sparse_file_of_a_terabyte_costs_nothing() {
    let disk = SimDisk::new(1);
    let file = disk.create(path("/a")).unwrap();
    file.preallocate(1 << 40).unwrap();
    file.write_at((1 << 40) - 3, b"end").unwrap();
    file.sync().unwrap();
    disk.sync_dir(path("/")).unwrap();
    let found = disk.crash();
    let mut end = [0; 3];
    found.open(path("/a")).unwrap().read_exact_at((1 << 40) - 3, &mut end).unwrap();
    assert_eq!(&end, b"end");
}
