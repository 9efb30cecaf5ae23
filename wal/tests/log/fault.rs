//! The disk fails at every operation of several runs, once: nothing is acknowledged after it, and
//! neither a restart nor a crash loses what was acknowledged before.

use std::io;

use crate::model::{Operation, Outcome, Shape, next_batch, operations, run, to_batch};
use varve_disk::sim::{CrashStyle, Fault, FaultRule, OperationKind, Random, SimDisk};
use varve_wal::Error;

const SHAPE: Shape = Shape { segment_bytes: 16 << 10, block_bytes: 512, compress_bytes_min: None };

#[test]
fn a_failure_at_any_operation_ends_the_log_and_loses_nothing() {
    for seed in 1..=6 {
        let run_of = operations(&mut Random::new(seed), 30);
        let clean = SimDisk::new(seed);
        assert!(run(&clean, SHAPE, &run_of).1.is_none());
        for failing in 0..clean.operations() {
            for fault in [Fault::Io, Fault::StorageFull] {
                let context = format!("seed {seed} operation {failing} {fault:?}");
                let (disk, outcome) = fail_at(seed, &run_of, failing, fault, &context);
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
            let (disk, outcome) = fail_at(seed, &run_of, failing, Fault::Io, &context);
            let mut wal = SHAPE.open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
            let mut model = outcome.assert_holds(&wal, &context);
            let next = next_batch(&wal);
            wal.append(&to_batch(&next)).unwrap_or_else(|error| panic!("{context}: {error}"));
            model.apply(&next);
            let wal = SHAPE.open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(model.difference(&wal), None, "{context}");
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

/// Runs until the operation that fails, then repairs the disk.
fn fail_at(
    seed: u64,
    run_of: &[Operation],
    failing: u64,
    fault: Fault,
    context: &str,
) -> (SimDisk, Outcome) {
    let disk = SimDisk::new(seed);
    disk.fail_after(failing, fault);
    let (outcome, error) = run(&disk, SHAPE, run_of);
    let error = error.unwrap_or_else(|| panic!("{context}: nothing failed"));
    assert!(matches!(error, Error::Disk(_)), "{context}: {error}");
    disk.clear_faults();
    (disk, outcome)
}
