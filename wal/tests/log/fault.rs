//! The disk fails at every operation of several runs, once: nothing is acknowledged after it, and
//! neither a restart nor a crash loses what was acknowledged before.
//!
//! One idea: that nothing is acknowledged any more is asserted where the operations are applied
//! (`model.rs`); here, that what was acknowledged is there. The canonical runs are exhausted and
//! counted, random ones are added.

use std::io;

use crate::crash::survive;
use crate::model::{Operation, Outcome, Shape, next_batch, operations, run, to_batch};
use crate::workload::workloads;
use varve_disk::sim::{CrashStyle, Fault, FaultRule, OperationKind, Random, SimDisk};
use varve_wal::Error;

const SHAPE: Shape = Shape { segment_bytes: 16 << 10, block_bytes: 512, compress_bytes_min: None };

#[test]
fn every_call_of_every_workload_fails_once_with_either_error() {
    let (mut calls, mut failures, mut reopened) = (0, 0, 0);
    for workload in workloads() {
        let clean = SimDisk::new(0);
        assert!(run(&clean, workload.shape, &workload.operations).1.is_none());
        for failing in 0..clean.operations() {
            calls += 1;
            for fault in [Fault::Io, Fault::StorageFull] {
                failures += 1;
                let context = format!("{}, call {failing}, {fault:?}", workload.name);
                let fail =
                    || fail_at(failing, workload.shape, &workload.operations, fault, &context);
                // Another process goes on with the same disk,
                let (disk, outcome) = fail();
                let disk = mounted(disk, workload.shape, failing, &context);
                survive(&disk, workload.shape, &outcome, &context);
                // or the power is lost as well.
                let (disk, outcome) = fail();
                let styles = [CrashStyle::LoseAll, CrashStyle::KeepAll];
                for style in styles.into_iter().chain([CrashStyle::Random(failing)]) {
                    survive(&disk.crash_with(style), workload.shape, &outcome, &context);
                }
                reopened += 4;
            }
        }
    }
    println!("{calls} calls, {failures} failures, {reopened} logs opened afterwards");
    assert!(calls > 500 && failures == 2 * calls && reopened == 4 * failures);
}

#[test]
fn a_failure_at_any_operation_ends_the_log_and_loses_nothing() {
    for seed in 1..=6 {
        let run_of = operations(&mut Random::new(seed), 30);
        let clean = SimDisk::new(seed);
        assert!(run(&clean, SHAPE, &run_of).1.is_none());
        for failing in 0..clean.operations() {
            for fault in [Fault::Io, Fault::StorageFull] {
                let context = format!("seed {seed} operation {failing} {fault:?}");
                let (disk, outcome) = fail_at(failing, SHAPE, &run_of, fault, &context);
                let crashed = disk.crash_with(CrashStyle::Random(failing));
                let wal = SHAPE.open(&crashed).unwrap_or_else(|error| panic!("{context}: {error}"));
                outcome.assert_holds(&wal, &context);
            }
        }
    }
}

#[test]
fn after_a_failure_the_log_goes_on_in_a_new_process() {
    for seed in 21..=24 {
        let run_of = operations(&mut Random::new(seed), 30);
        let clean = SimDisk::new(seed);
        assert!(run(&clean, SHAPE, &run_of).1.is_none());
        for failing in 0..clean.operations() {
            let context = format!("seed {seed} operation {failing}");
            let (disk, outcome) = fail_at(failing, SHAPE, &run_of, Fault::Io, &context);
            let disk = mounted(disk, SHAPE, failing, &context);
            survive(&disk, SHAPE, &outcome, &context);
        }
    }
}

#[test]
fn a_frame_whose_sync_failed_is_durable_once_it_was_believed() {
    let disk = SimDisk::new(1);
    let mut wal = SHAPE.open(&disk).unwrap();
    wal.append(&to_batch(&next_batch(&wal))).unwrap();
    disk.inject(FaultRule::new(Fault::Io).on(OperationKind::Sync));
    wal.append(&to_batch(&next_batch(&wal))).unwrap_err();
    drop(wal);

    // A new process finds the frame in the cache of the kernel, and builds on it.
    let mut wal = SHAPE.open(&disk).unwrap();
    assert_eq!(wal.last_index(), 2);
    wal.append(&to_batch(&next_batch(&wal))).unwrap();
    let crashed = disk.crash_with(CrashStyle::LoseAll);
    assert_eq!(SHAPE.open(&crashed).unwrap().last_index(), 3);
}

#[test]
fn a_failing_read_fails_the_call_and_nothing_else() {
    let disk = SimDisk::new(1);
    let mut wal = SHAPE.open(&disk).unwrap();
    for _ in 0..100 {
        wal.append(&to_batch(&next_batch(&wal))).unwrap();
    }
    disk.inject(FaultRule::new(Fault::Io).on(OperationKind::Read));
    let error = wal.entries(1, 2, u64::MAX).unwrap_err();
    assert!(matches!(error, Error::Disk(_)), "{error}");
    assert_eq!(wal.entries(1, 101, u64::MAX).unwrap().len(), 100);
    wal.append(&to_batch(&next_batch(&wal))).unwrap();
    drop(wal);

    for failing in 0.. {
        disk.clear_faults();
        disk.inject(FaultRule::new(Fault::Io).on(OperationKind::Read).after(failing));
        match SHAPE.open(&disk) {
            Ok(wal) => {
                assert_eq!(wal.last_index(), 101);
                assert!(failing > 2, "opening reads");
                break;
            }
            Err(error) => assert!(matches!(error, Error::Disk(_)), "{error}"),
        }
    }
}

#[test]
fn a_full_disk_ends_the_log_and_leaves_it_whole() {
    let disk = SimDisk::new(1);
    disk.set_capacity(40 << 10);
    let mut wal = SHAPE.open(&disk).unwrap();
    let error = loop {
        if let Err(error) = wal.append(&to_batch(&next_batch(&wal))) {
            break error;
        }
    };
    let Error::Disk(source) = error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    let last = wal.last_index();
    drop(wal);
    assert_eq!(SHAPE.open(&disk.crash()).unwrap().last_index(), last);
}

/// The disk as the next process finds it. After a directory could not be synced, its file system
/// takes no changes any more and must be mounted anew, and what was not synced may be gone.
fn mounted(disk: SimDisk, shape: Shape, seed: u64, context: &str) -> SimDisk {
    match shape.open(&disk) {
        Ok(_) => disk,
        Err(error) => {
            assert_stopped(&error, context);
            disk.crash_with(CrashStyle::Random(seed))
        }
    }
}

fn assert_stopped(error: &Error, context: &str) {
    let Error::Disk(source) = error else { panic!("{context}: {error}") };
    assert_eq!(source.kind(), io::ErrorKind::ReadOnlyFilesystem, "{context}: {error}");
}

#[test]
fn names_that_could_not_be_synced_are_not_built_upon() {
    let disk = SimDisk::new(1);
    let mut wal = SHAPE.open(&disk).unwrap();
    disk.inject(FaultRule::new(Fault::Io).on(OperationKind::SyncDir));
    // Until the second segment is begun, whose name is then not durable.
    while wal.append(&to_batch(&next_batch(&wal))).is_ok() {}
    let last = wal.last_index();
    drop(wal);

    assert_stopped(&SHAPE.open(&disk).err().unwrap(), "a new process");
    let wal = SHAPE.open(&disk.crash_with(CrashStyle::LoseAll)).unwrap();
    assert_eq!(wal.last_index(), last);
}

/// Runs until the operation that fails, then repairs the disk.
fn fail_at(
    failing: u64,
    shape: Shape,
    run_of: &[Operation],
    fault: Fault,
    context: &str,
) -> (SimDisk, Outcome) {
    let disk = SimDisk::new(failing);
    disk.fail_after(failing, fault);
    let (outcome, error) = run(&disk, shape, run_of);
    let error = error.unwrap_or_else(|| panic!("{context}: nothing failed"));
    assert!(matches!(error, Error::Disk(_)), "{context}: {error}");
    disk.clear_faults();
    (disk, outcome)
}
