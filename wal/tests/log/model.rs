//! A model of the log, and runs of random operations on both.
//!
//! The model is what the crate promises, without files: a map of entries and a state. A run applies
//! the same operations to a log and to the model until the disk fails, and then says which models a
//! reopened log may equal: the one of all acknowledged operations, or the one that also has the
//! batch that was being appended.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::sim::{Random, SimDisk};
use varve_wal::{Batch, Error, Options, Result, Wal};

pub const DIR: &str = "/data/wal";
pub const IDENTITY: [u8; 16] = *b"varve wal tests!";

/// How the logs of a run are laid out: small, so that segments change often.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub segment_bytes: u64,
    pub block_bytes: u32,
    pub compress_bytes_min: Option<u32>,
}

impl Shape {
    pub fn open(&self, disk: &SimDisk) -> Result<Wal> {
        let options = Options {
            identity: IDENTITY,
            segment_bytes: self.segment_bytes,
            cache_bytes_max: 2000,
            compress_bytes_min: self.compress_bytes_min,
            ..Options::default()
        };
        Wal::open_with_block_bytes(
            Arc::new(disk.clone()),
            Path::new(DIR),
            options,
            self.block_bytes,
        )
    }
}

/// One step of a run.
#[derive(Clone, Debug)]
pub enum Operation {
    Append { reset: Option<u64>, entries: Vec<(u64, Bytes)>, state: Option<Bytes> },
    Truncate(u64),
    Reopen,
}

/// What a log holds.
///
/// Invariants: `first <= next`; `entries` has all of `first..next`, and perhaps some before it that
/// were forgotten and may come back.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub first: u64,
    pub next: u64,
    pub entries: BTreeMap<u64, Bytes>,
    pub state: Option<Bytes>,
}

impl Model {
    pub fn new() -> Self {
        Self { first: 1, next: 1, entries: BTreeMap::new(), state: None }
    }

    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Append { reset, entries, state } => {
                if let Some(next) = reset {
                    self.entries.clear();
                    (self.first, self.next) = (*next, *next);
                }
                for (index, payload) in entries {
                    self.entries.split_off(index);
                    self.entries.insert(*index, payload.clone());
                    self.next = index + 1;
                }
                self.state = state.clone().or(self.state.take());
            }
            Operation::Truncate(through) => {
                self.first = (through + 1).clamp(self.first, self.next);
            }
            Operation::Reopen => {}
        }
    }

    /// Why the log is not this model, or nothing. What was forgotten may have come back.
    pub fn difference(&self, wal: &Wal) -> Option<String> {
        let (first, next) = (wal.first_index(), wal.last_index() + 1);
        if next != self.next || first > self.first {
            return Some(format!("{first}..{next}, not {}..{}", self.first, self.next));
        }
        if wal.state() != self.state.as_ref() {
            return Some(format!("state {:?}, not {:?}", wal.state(), self.state));
        }
        let found = match wal.entries(first, next, u64::MAX) {
            Ok(found) => found,
            Err(error) => return Some(error.to_string()),
        };
        if found.len() as u64 != next - first {
            return Some(format!("{} entries of {first}..{next}", found.len()));
        }
        (first..).zip(&found).find_map(|(index, payload)| {
            (self.entries.get(&index) != Some(payload)).then(|| format!("entry {index} differs"))
        })
    }
}

/// The models that a log may equal after a failure.
pub struct Outcome {
    /// All that was acknowledged.
    pub acknowledged: Model,
    /// And the operation that was not.
    pub attempted: Option<Model>,
}

impl Outcome {
    /// Asserts that the log is one of the models, and returns that one.
    pub fn assert_holds(&self, wal: &Wal, context: &str) -> Model {
        let Some(why) = self.acknowledged.difference(wal) else {
            return self.acknowledged.clone();
        };
        match &self.attempted {
            Some(attempted) => match attempted.difference(wal) {
                None => attempted.clone(),
                Some(other) => panic!(
                    "{context}: neither what was acknowledged ({why}) nor what \
                                       was attempted ({other})"
                ),
            },
            None => panic!("{context}: {why}"),
        }
    }
}

/// A random but valid run of operations.
pub fn operations(random: &mut Random, count: usize) -> Vec<Operation> {
    let mut model = Model::new();
    let mut run = Vec::with_capacity(count);
    for _ in 0..count {
        let operation = match random.below(20) {
            0 => Operation::Reopen,
            1 | 2 => Operation::Truncate(model.first + random.below(model.next - model.first + 1)),
            3 => {
                let reset = model.next + random.below(50);
                append(random, &model, Some(reset))
            }
            _ => append(random, &model, None),
        };
        model.apply(&operation);
        run.push(operation);
    }
    run
}

/// Applies operations until one fails. Reopening after a failure is the caller's.
pub fn run(disk: &SimDisk, shape: Shape, run: &[Operation]) -> (Outcome, Option<Error>) {
    let mut model = Model::new();
    let mut wal = match shape.open(disk) {
        Ok(wal) => wal,
        Err(error) => return (Outcome { acknowledged: model, attempted: None }, Some(error)),
    };
    for operation in run {
        let mut attempted = model.clone();
        attempted.apply(operation);
        if let Err(error) = step(disk, shape, &mut wal, operation) {
            assert!(
                matches!(operation, Operation::Reopen) || is_closed(&mut wal),
                "appended after {error}"
            );
            return (Outcome { acknowledged: model, attempted: Some(attempted) }, Some(error));
        }
        model = attempted;
        assert!(
            model.difference(&wal).is_none(),
            "{:?} after {operation:?}",
            model.difference(&wal)
        );
    }
    (Outcome { acknowledged: model, attempted: None }, None)
}

/// A batch that any log takes next.
pub fn next_batch(wal: &Wal) -> Operation {
    let index = wal.last_index() + 1;
    let entries = vec![(index, Bytes::from_static(b"after all"))];
    Operation::Append { reset: None, entries, state: Some(Bytes::from_static(b"new")) }
}

pub fn to_batch(operation: &Operation) -> Batch {
    let Operation::Append { reset, entries, state } = operation else {
        panic!("{operation:?} is not an append");
    };
    let mut batch = Batch::default();
    if let Some(next) = reset {
        batch.reset(*next);
    }
    for (index, payload) in entries {
        batch.entry(*index, payload.clone());
    }
    if let Some(state) = state {
        batch.state(state.clone());
    }
    batch
}

fn step(disk: &SimDisk, shape: Shape, wal: &mut Wal, operation: &Operation) -> Result<()> {
    match operation {
        Operation::Append { .. } => wal.append(&to_batch(operation)),
        Operation::Truncate(through) => wal.truncate_front(*through),
        Operation::Reopen => {
            *wal = shape.open(disk)?;
            Ok(())
        }
    }
}

fn is_closed(wal: &mut Wal) -> bool {
    let batch = to_batch(&next_batch(wal));
    matches!(wal.append(&batch), Err(Error::Poisoned))
        && matches!(wal.truncate_front(1), Err(Error::Poisoned))
}

fn append(random: &mut Random, model: &Model, reset: Option<u64>) -> Operation {
    let next = reset.unwrap_or(model.next);
    let overwritable = if reset.is_some() { 0 } else { next - model.first };
    let first = if random.one_in(6) { next - random.below(overwritable + 1) } else { next };
    let count = random.below(4);
    let entries = (first..first + count).map(|index| (index, payload(random))).collect::<Vec<_>>();
    let state = (entries.is_empty() || random.one_in(3)).then(|| payload(random).slice(..0));
    let state = state.map(|_| Bytes::from(format!("state {}", random.next_u64())));
    Operation::Append { reset, entries, state }
}

/// Mostly short, some long, some of zeros: a torn write of zeros over zeros is not to be seen. Some
/// compress well, some not at all.
fn payload(random: &mut Random) -> Bytes {
    let length = match random.below(8) {
        0 => random.below(6000),
        1 => 0,
        _ => random.below(300),
    } as usize;
    if random.one_in(4) {
        return Bytes::from(vec![0; length]);
    }
    if random.one_in(3) {
        let start = random.below(256);
        return Bytes::from((0..length as u64).map(|at| (start + at) as u8).collect::<Vec<_>>());
    }
    Bytes::from((0..length).map(|_| random.next_u64() as u8).collect::<Vec<_>>())
}
