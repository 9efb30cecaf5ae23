//! A log driven by a tape: appends, truncation at both ends, restarts, crashes and failures of the
//! disk, against the naive model of the log's own tests.
//!
//! What must hold: the log equals the model after every step; after a crash or a failure it equals
//! the model with or without the one step that was not acknowledged; its checker finds nothing.

use std::path::Path;

use bytes::Bytes;
use varve_disk::Disk;
use varve_disk::sim::{CrashStyle, Fault, SimDisk};
use varve_wal::{Wal, check};

use super::input::Input;
use super::log_model::{DIR, IDENTITY, Model, Operation, Outcome, Shape, to_batch};

/// Most steps of one tape.
const STEPS_MAX: usize = 64;

/// Runs one input.
pub fn operations(data: &[u8]) {
    let mut input = Input::new(data);
    let layout = input.byte();
    let block_bytes = if layout & 1 == 0 { 512 } else { 4096 };
    let compress_bytes_min = (layout & 2 != 0).then_some(600);
    let shape = Shape { segment_bytes: 16 << 10, block_bytes, compress_bytes_min };
    let mut disk = SimDisk::new(u64::from(input.byte()));
    let mut wal = shape.open(&disk).expect("an empty disk takes a log");
    let mut model = Model::new();
    for step in 0..STEPS_MAX {
        if input.is_over() {
            break;
        }
        match input.below(16) {
            // The power goes out within the next calls, or the disk fails there, once.
            0 => disk.stop_at_operation(disk.operations() + input.below(24) as u64),
            1 => {
                let fault = if input.byte() & 1 == 0 { Fault::Io } else { Fault::StorageFull };
                disk.fail_after(input.below(24) as u64, fault);
            }
            2 => {
                let before = Outcome { acknowledged: model, attempted: None };
                (disk, wal, model) = crash(&disk, shape, &before, &mut input, step);
            }
            _ => {
                let operation = operation(&mut input, &model);
                let mut attempted = model.clone();
                attempted.apply(&operation);
                match carry_out(&disk, shape, &mut wal, &operation) {
                    Ok(()) => model = attempted,
                    Err(_) => {
                        let outcome = Outcome { acknowledged: model, attempted: Some(attempted) };
                        (disk, wal, model) = crash(&disk, shape, &outcome, &mut input, step);
                    }
                }
            }
        }
        assert_eq!(model.difference(&wal), None, "after step {step}");
    }
    drop(wal);
    let disk = disk.crash_with(CrashStyle::KeepAll);
    let wal = shape.open(&disk).expect("it was open just now");
    assert_eq!(model.difference(&wal), None, "reopened");
    let report = check(&disk, Path::new(DIR), &IDENTITY).expect("the disk works");
    assert!(report.violations.is_empty(), "{:#?}", report.violations);
}

/// What is found after a loss of power, or by a new process when the disk only failed.
fn crash(
    disk: &SimDisk,
    shape: Shape,
    outcome: &Outcome,
    input: &mut Input,
    step: usize,
) -> (SimDisk, Wal, Model) {
    let seed = u64::from(input.byte());
    let style = match input.below(8) {
        0 => CrashStyle::KeepAll,
        1 => CrashStyle::KeepData,
        2 => CrashStyle::KeepNames,
        3 => CrashStyle::LoseAll,
        4 => CrashStyle::Prefix(disk.operations().saturating_sub(seed % 4)),
        5 => CrashStyle::Torn { operation: disk.operations().saturating_sub(1), seed },
        _ => CrashStyle::Random(seed),
    };
    disk.clear_faults();
    let context = format!("step {step}, {style:?}");
    let is_new_process = !disk.is_stopped() && input.byte() & 1 == 1;
    let reopened = if is_new_process { shape.open(disk).ok() } else { None };
    let (found, wal) = match reopened {
        Some(wal) => (disk.clone(), wal),
        None => {
            // A new process fails only when the power goes out under it, or when the file system
            // takes no names any more since it failed to sync some.
            let is_mounted = disk.sync_dir(Path::new(DIR)).is_ok();
            assert!(!is_new_process || disk.is_stopped() || !is_mounted, "{context}");
            let found = disk.crash_with(style);
            let wal = shape.open(&found).unwrap_or_else(|error| panic!("{context}: {error}"));
            (found, wal)
        }
    };
    let mut model = outcome.assert_holds(&wal, &context);
    // What was forgotten and came back is promised from now on.
    model.first = wal.first_index();
    (found, wal, model)
}

fn carry_out(
    disk: &SimDisk,
    shape: Shape,
    wal: &mut Wal,
    operation: &Operation,
) -> varve_wal::Result<()> {
    match operation {
        Operation::Append { .. } => wal.append(&to_batch(operation)),
        Operation::Truncate(through) => wal.truncate_front(*through),
        Operation::Reopen => {
            *wal = shape.open(disk)?;
            Ok(())
        }
    }
}

fn operation(input: &mut Input, model: &Model) -> Operation {
    let kind = input.below(16);
    match kind {
        0 => Operation::Reopen,
        1 | 2 => {
            let length = usize::try_from(model.next - model.first).expect("a short log");
            Operation::Truncate(model.first + input.below(length.min(255) + 1) as u64)
        }
        _ => {
            let reset = (kind == 3).then(|| model.next + input.byte() as u64);
            let (first, next) = (reset.unwrap_or(model.first), reset.unwrap_or(model.next));
            let back = if kind == 4 { u64::from(input.byte()).min(next - first) } else { 0 };
            let first = next - back;
            let count = input.below(6) as u64;
            let entries = (first..first + count).map(|index| (index, payload(input))).collect();
            let state = (count == 0 || kind & 1 == 0).then(|| payload(input));
            Operation::Append { reset, entries, state }
        }
    }
}

/// Short or long, and all of one byte (which compresses) or not.
fn payload(input: &mut Input) -> Bytes {
    let (shape, fill) = (input.byte(), input.byte());
    let length = match shape % 8 {
        0 => 0,
        // Longer than a segment.
        1 => 20 << 10,
        2 | 3 => usize::from(fill) * 32,
        _ => usize::from(fill),
    };
    let step = if shape & 128 == 0 { 0 } else { 31 };
    Bytes::from((0..length).map(|at| (at * at * step) as u8 ^ fill).collect::<Vec<_>>())
}

/// Tapes of some length, from plain to wild.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let tape = |name: &str, bytes: Vec<u8>| (name.to_owned(), bytes);
    let append = [9, 5, 2, 4, 200, 4, 100];
    let long = [9, 5, 1, 2, 255];
    let truncate = [9, 1, 40];
    let stop = [0, 7];
    let mut wild = vec![1, 3];
    for (number, style) in (0..8_u8).enumerate() {
        wild.extend(append.repeat(2));
        wild.extend(long);
        wild.extend(truncate);
        wild.extend([number as u8 & 1, 2 + style]);
        wild.extend(append);
        wild.extend([7, style, 1]);
    }
    let mut stopped = vec![0, 1];
    stopped.extend(stop);
    stopped.extend(append.repeat(8));
    vec![
        tape("appends", [&[0, 0], append.repeat(9).as_slice()].concat()),
        tape("large", [&[0, 0, 9, 5, 1, 1, 7, 9, 5, 1, 129, 7], long.as_slice()].concat()),
        tape("power-cut", stopped),
        tape("wild", wild),
    ]
}
