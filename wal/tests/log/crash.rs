//! Power is lost at every disk operation of several runs, and each time several of the states that
//! a disk may be found in are opened and compared with the model.

use std::path::Path;

use crate::model::{
    DIR, IDENTITY, Model, Operation, Outcome, Shape, next_batch, operations, run, to_batch,
};
use varve_disk::Disk;
use varve_disk::sim::{CrashStyle, Random, SimDisk};
use varve_wal::check;

const SHAPES: [Shape; 4] = [
    Shape { segment_bytes: 16 << 10, block_bytes: 4096, compress_bytes_min: None },
    Shape { segment_bytes: 16 << 10, block_bytes: 512, compress_bytes_min: None },
    Shape { segment_bytes: 64 << 10, block_bytes: 512, compress_bytes_min: None },
    Shape { segment_bytes: 16 << 10, block_bytes: 512, compress_bytes_min: Some(0) },
];

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged() {
    for seed in 1..=seeds(4) {
        for shape in SHAPES {
            let run_of = operations(&mut Random::new(seed), 25);
            let operations = count_operations(shape, &run_of);
            for stop in 0..operations {
                let disk = SimDisk::new(seed);
                disk.stop_at_operation(stop);
                let (outcome, error) = run(&disk, shape, &run_of);
                assert!(error.is_some(), "the power went out at operation {stop}");
                for style in styles(stop, seed) {
                    let context = format!("seed {seed} {shape:?} stop {stop} {style:?}");
                    survive(&disk.crash_with(style), shape, &outcome, &context);
                }
            }
        }
    }
}

#[test]
fn a_crash_during_recovery_loses_nothing_either() {
    for seed in 11..11 + seeds(3) {
        let shape = SHAPES[seed as usize % SHAPES.len()];
        let run_of = operations(&mut Random::new(seed), 20);
        let operations = count_operations(shape, &run_of);
        for stop in (0..operations).step_by(3) {
            let disk = SimDisk::new(seed);
            disk.stop_at_operation(stop);
            let (outcome, _) = run(&disk, shape, &run_of);
            let found = disk.crash_with(CrashStyle::Torn { operation: stop, seed });
            let files = found.durable_files();
            let again = || SimDisk::from_files(seed, &files).unwrap();
            let counted = again();
            drop(shape.open(&counted).unwrap());
            for second in 0..counted.operations() {
                let disk = again();
                disk.stop_at_operation(second);
                assert!(shape.open(&disk).is_err());
                for style in styles(second, seed) {
                    let context =
                        format!("seed {seed} {shape:?} stop {stop} then {second} {style:?}");
                    survive(&disk.crash_with(style), shape, &outcome, &context);
                }
            }
        }
    }
}

#[test]
fn random_runs_survive_random_crashes_one_after_the_other() {
    for seed in 100..100 + 10 * seeds(6) {
        let mut random = Random::new(seed);
        let shape = SHAPES[random.below(SHAPES.len() as u64) as usize];
        let mut disk = SimDisk::new(seed);
        let mut model = Model::new();
        for round in 0..8 {
            let stop = disk.operations() + random.below(60);
            disk.stop_at_operation(stop);
            let outcome = resume(&disk, shape, &mut random, model);
            disk = disk.crash();
            let context = format!("seed {seed} round {round} stop {stop} {shape:?}");
            let wal = shape.open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
            model = outcome.assert_holds(&wal, &context);
            // What the log says now is what it promises from now on.
            model.first = wal.first_index();
            assert_checked(&disk, &context);
        }
    }
}

#[test]
fn what_a_process_left_unsynced_is_durable_once_the_log_is_open() {
    // A whole log of several segments, not a byte of it synced, nor a name, nor its directory's: as
    // after a kill.
    let append = |index: u64| Operation::Append {
        reset: None,
        entries: vec![(index, vec![index as u8; 3000].into())],
        state: None,
    };
    let run_of = (1..=20).map(append).collect::<Vec<_>>();
    let source = SimDisk::new(3);
    let (outcome, _) = run(&source, SHAPES[1], &run_of);
    assert!(source.current_files().len() > 3, "{:?}", source.current_files().keys());
    let disk = SimDisk::new(3);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    for (path, bytes) in source.current_files() {
        disk.create(&path).unwrap().write_at(0, &bytes).unwrap();
    }
    outcome.assert_holds(&SHAPES[1].open(&disk).unwrap(), "opened");
    let crashed = disk.crash_with(CrashStyle::LoseAll);
    outcome.assert_holds(&SHAPES[1].open(&crashed).unwrap(), "after a crash");
}

#[test]
fn a_torn_tail_is_gone_for_good_once_the_log_is_open() {
    let shape = SHAPES[1];
    let disk = SimDisk::new(5);
    let mut wal = shape.open(&disk).unwrap();
    for _ in 0..3 {
        wal.append(&to_batch(&next_batch(&wal))).unwrap();
    }
    let path = Path::new(DIR).join("0000000000000001.wal");
    // The fourth frame was longer than a sector, and only its second one was written.
    disk.open(&path).unwrap().write_at(512 * 5, &[9; 512]).unwrap();
    assert_eq!(shape.open(&disk).unwrap().last_index(), 3);
    let found = disk.crash_with(CrashStyle::LoseAll).durable_files();
    assert!(found[&path][512 * 4..].iter().all(|byte| *byte == 0));
}

/// Opens the log of a crashed disk, compares it, and sees that it goes on.
pub fn survive(disk: &SimDisk, shape: Shape, outcome: &Outcome, context: &str) {
    let mut wal = shape.open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let mut model = outcome.assert_holds(&wal, context);
    let next = next_batch(&wal);
    wal.append(&to_batch(&next)).unwrap_or_else(|error| panic!("{context}: {error}"));
    model.apply(&next);
    let disk = disk.crash_with(CrashStyle::LoseAll);
    let wal = shape.open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(model.difference(&wal), None, "{context}: reopened");
    assert_checked(&disk, context);
}

/// Continues a model's log with random operations until the power goes out.
fn resume(disk: &SimDisk, shape: Shape, random: &mut Random, mut model: Model) -> Outcome {
    let Ok(mut wal) = shape.open(disk) else {
        return Outcome { acknowledged: model, attempted: None };
    };
    loop {
        let operation = match random.below(6) {
            0 => Operation::Truncate(model.first + random.below(model.next - model.first + 1)),
            _ => next_batch(&wal),
        };
        let mut attempted = model.clone();
        attempted.apply(&operation);
        let result = match &operation {
            Operation::Truncate(through) => wal.truncate_front(*through),
            _ => wal.append(&to_batch(&operation)),
        };
        if result.is_err() {
            return Outcome { acknowledged: model, attempted: Some(attempted) };
        }
        model = attempted;
    }
}

fn count_operations(shape: Shape, run_of: &[Operation]) -> u64 {
    let disk = SimDisk::new(0);
    let (outcome, error) = run(&disk, shape, run_of);
    assert!(error.is_none(), "{error:?}");
    let operations = disk.operations();
    let wal = shape.open(&disk).expect("a log without a crash opens");
    outcome.assert_holds(&wal, "without a crash");
    operations
}

/// How many seeds are tried: as many as `VARVE_SEEDS` says, for a long run, or a few.
fn seeds(few: u64) -> u64 {
    std::env::var("VARVE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

fn styles(stop: u64, seed: u64) -> [CrashStyle; 8] {
    let random = seed.wrapping_mul(1000).wrapping_add(stop);
    [
        CrashStyle::KeepAll,
        CrashStyle::KeepData,
        CrashStyle::KeepNames,
        CrashStyle::LoseAll,
        CrashStyle::Torn { operation: stop.saturating_sub(1), seed: random },
        CrashStyle::Random(random),
        CrashStyle::Random(!random),
        CrashStyle::Random(random << 20),
    ]
}

fn assert_checked(disk: &SimDisk, context: &str) {
    let report = check(disk, Path::new(DIR), &IDENTITY).expect("the disk works");
    assert!(report.violations.is_empty(), "{context}: {:#?}", report.violations);
}
