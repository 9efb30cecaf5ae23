//! The canonical runs: what a log goes through in production, each in a few dozen operations.
//!
//! One idea: a crash or a failure is placed at *every* disk call of every one of these, so each is
//! as short as it can be and still takes the path that it is named after; that it does is asserted
//! by the test below.

use bytes::Bytes;
use varve_disk::sim::{Random, SimDisk};

use crate::model::{Model, Operation, Shape, run};

/// A named run.
pub struct Workload {
    pub name: &'static str,
    pub shape: Shape,
    pub operations: Vec<Operation>,
}

const SMALL: Shape = Shape { segment_bytes: 16 << 10, block_bytes: 512, compress_bytes_min: None };
const PACKED: Shape = Shape { compress_bytes_min: Some(600), ..SMALL };
const BLOCKS: Shape =
    Shape { segment_bytes: 16 << 10, block_bytes: 4096, compress_bytes_min: None };

/// All of them.
pub fn workloads() -> Vec<Workload> {
    let named = |name, shape, operations| Workload { name, shape, operations };
    vec![
        named("appends", SMALL, appends(24, 100)),
        named("appends in blocks of 4096", BLOCKS, appends(12, 100)),
        named("rotation", SMALL, appends(20, 3000)),
        named("truncation in front, recycling", SMALL, recycling()),
        named("truncation at the end", SMALL, overwriting()),
        named("batches of many appenders", SMALL, batches()),
        named("large frames, compressible and not", PACKED, large()),
        named("snapshots installed", SMALL, resets()),
        named("restarts", BLOCKS, restarts()),
        named("all of it", SMALL, crate::model::operations(&mut Random::new(4711), 40)),
    ]
}

/// One entry a batch, now and then with a state.
fn appends(count: u64, length: usize) -> Vec<Operation> {
    (1..=count).map(|index| entries(index, 1, length, index.is_multiple_of(4))).collect()
}

/// Segments are given up behind the appends and come back as the next ones, twice each.
fn recycling() -> Vec<Operation> {
    let step = |index: u64| {
        let append = entries(index, 1, 3500, true);
        let truncate =
            index.is_multiple_of(3).then(|| Operation::Truncate(index.saturating_sub(2)));
        std::iter::once(append).chain(truncate)
    };
    (1..=30).flat_map(step).collect()
}

/// A follower whose newest entries another leader replaces, within and across segments.
fn overwriting() -> Vec<Operation> {
    let mut run = Vec::new();
    let mut next = 1;
    for round in 0..8 {
        run.push(entries(next, 3, 900, round % 2 == 0));
        next += 3;
        let back = [1, 2, 5, 0][round % 4].min(next - 1);
        next -= back;
        run.push(entries(next, 1, 40, false));
        next += 1;
    }
    run
}

/// What many appenders leave in a frame when they queue up behind a sync.
fn batches() -> Vec<Operation> {
    let mut next = 1;
    let mut run = Vec::new();
    for count in [1, 16, 64, 3, 40, 64, 2, 33] {
        run.push(entries(next, count, 60, true));
        next += count;
    }
    run
}

/// Frames that fill a segment, that need one of their own size, and that compress to a block.
fn large() -> Vec<Operation> {
    let mut run = Vec::new();
    for (index, (length, is_compressible)) in
        [(50, false), (20_000, true), (14_000, false), (9_000, true), (40_000, false), (100, false)]
            .into_iter()
            .chain([(12_000, true), (12_000, true), (12_000, true), (5_000, false)])
            .enumerate()
    {
        let index = index as u64 + 1;
        let payload = if is_compressible { text(index, length) } else { noise(index, length) };
        run.push(Operation::Append { reset: None, entries: vec![(index, payload)], state: None });
        if index == 7 {
            run.push(Operation::Truncate(3));
        }
    }
    run
}

/// A follower that gets the state machine from its leader: the log begins anew, further on.
fn resets() -> Vec<Operation> {
    let mut run = Vec::new();
    let mut next = 1;
    for round in 0..5 {
        for _ in 0..3 {
            run.push(entries(next, 2, 1500, false));
            next += 2;
        }
        next += 100;
        let first = (next, noise(next, 20));
        let entries = if round % 2 == 0 { vec![first] } else { Vec::new() };
        let state = Some(Bytes::from(format!("snapshot at {next}")));
        run.push(Operation::Append { reset: Some(next), entries, state });
        next += u64::from(round % 2 == 0);
    }
    run
}

/// Opened, written a little, opened: every start repairs, settles and goes on.
fn restarts() -> Vec<Operation> {
    let mut run = Vec::new();
    for index in 1..=9 {
        run.push(entries(index, 1, 2000, index % 3 == 0));
        run.push(Operation::Reopen);
        if index == 6 {
            run.push(Operation::Truncate(4));
        }
    }
    run
}

fn entries(first: u64, count: u64, length: usize, has_state: bool) -> Operation {
    let entries = (first..first + count).map(|index| (index, noise(index, length))).collect();
    let state = has_state.then(|| Bytes::from(format!("state {first}")));
    Operation::Append { reset: None, entries, state }
}

fn noise(seed: u64, length: usize) -> Bytes {
    let mut random = Random::new(seed);
    Bytes::from((0..length).map(|_| random.next_u64() as u8).collect::<Vec<_>>())
}

fn text(number: u64, length: usize) -> Bytes {
    let line = format!("entry {number} says the same again and again; ");
    Bytes::from(line.repeat(length / line.len() + 1)).slice(..length)
}

#[test]
fn every_workload_takes_the_path_that_it_is_named_after() {
    let mut names = Vec::new();
    for workload in workloads() {
        let disk = SimDisk::new(1);
        let (outcome, error) = run(&disk, workload.shape, &workload.operations);
        assert!(error.is_none(), "{}: {error:?}", workload.name);
        assert_ne!(outcome.acknowledged, Model::new(), "{}", workload.name);
        let files = disk.durable_files();
        let paths = || files.keys().map(|path| path.to_string_lossy().into_owned());
        let mut segments = paths().filter(|path| path.ends_with(".wal") && !path.contains("spare"));
        let (count, newest) = (segments.clone().count(), segments.next_back().unwrap());
        match workload.name {
            "rotation" => assert!(count >= 4, "{count}"),
            "truncation in front, recycling" => {
                // The generation of a segment that was used before: offset 40 of its header.
                let bytes = files.get(std::path::Path::new(&newest)).unwrap();
                assert!(bytes[40] >= 2, "{newest} is of generation {}", bytes[40]);
                assert!(paths().any(|path| path.contains("spare")));
            }
            "large frames, compressible and not" => {
                assert!(files.values().any(|bytes| bytes.len() > 16 << 10));
            }
            _ => {}
        }
        names.push(workload.name);
    }
    names.dedup();
    assert!(names.len() >= 5, "{names:?}");
}
