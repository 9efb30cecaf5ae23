//! An engine driven by a tape: batches, steps of background work, restarts, crashes and held views,
//! against the naive model of the engine's own tests. The first byte says whether what merges
//! relocate is compressed, and what goes to the bottom at once.
//!
//! What must hold: every read answers as the model, also in views that were taken earlier; after a
//! crash the state is that after some batch, at or behind the last one that was flushed; the
//! engine's checker finds nothing.

use varve_disk::sim::{CrashStyle, Random, SimDisk};
use varve_lsm::{Db, Options, Snapshot, Writer};

use super::input::Input;
use super::lsm_support::{
    Batch, Model, batches_of, commit, compare, compressing_options, open_with, random_batch,
    settle, small_options, write,
};

/// Most steps of one tape.
const STEPS_MAX: usize = 200;
/// Most views that are held.
const HELD_MAX: usize = 3;
/// Tapes that begin with this byte or a higher one compress what merges relocate.
const COMPRESSING: u8 = 0x80;
/// In the first byte: most tables go to the bottom, few to the tiers before it.
const DIRECT: u8 = 0x40;

struct Run {
    disk: SimDisk,
    options: Options,
    handles: Option<(Db, Writer)>,
    model: Model,
    held: Vec<(Snapshot, Model)>,
    flushed: usize,
}

/// Runs one input.
pub fn operations(data: &[u8]) {
    let mut input = Input::new(data);
    let first = input.byte();
    let disk = SimDisk::new(u64::from(first));
    let options = if first < COMPRESSING { small_options() } else { compressing_options() };
    let bottom_factor = if first & DIRECT == 0 { options.bottom_factor } else { 8 };
    let options = Options { bottom_factor, ..options };
    let handles = Some(open_with(&disk, options.clone()).expect("an empty disk takes an engine"));
    let (model, held) = (Model::default(), Vec::new());
    let mut run = Run { disk, options, handles, model, held, flushed: 0 };
    for _ in 0..STEPS_MAX {
        if input.is_over() {
            break;
        }
        let (kind, choice) = (input.below(16), Random::new(u64::from(input.u16())));
        run.step(kind, choice);
    }
    run.end();
}

impl Run {
    fn db(&self) -> &Db {
        &self.handles.as_ref().expect("the engine is open").0
    }

    fn writer(&mut self) -> &mut Writer {
        &mut self.handles.as_mut().expect("the engine is open").1
    }

    fn step(&mut self, kind: usize, mut random: Random) {
        match kind {
            0..6 => {
                let batch = random_batch(&self.model, &mut random);
                self.push(&batch);
            }
            // Many at once, so that a short tape makes several tables.
            6 => {
                for _ in 0..20 {
                    let batch = random_batch(&self.model, &mut random);
                    self.push(&batch);
                }
            }
            7..10 => {
                for _ in 0..=random.below(4) {
                    self.db().work().expect("the simulated disk works");
                }
                self.flushed = self.db().flushed_mark().map_or(0, |mark| batches_of(&mark));
            }
            10 => self.writer().freeze().expect("a memtable freezes"),
            11 => {
                if self.held.len() == HELD_MAX {
                    self.held.remove(0);
                }
                let view = self.db().snapshot();
                self.held.push((view, self.model.clone()));
            }
            12 | 13 => {
                compare(&self.db().snapshot(), &self.model, &mut random, 1);
                for (view, model) in &self.held {
                    compare(view, model, &mut random, 0);
                }
            }
            14 => {
                self.handles = None;
                self.reopen(&mut random);
            }
            _ => {
                let style = match random.below(4) {
                    0 => CrashStyle::KeepAll,
                    1 => CrashStyle::LoseAll,
                    2 => CrashStyle::Prefix(self.disk.operations().saturating_sub(random.below(8))),
                    _ => CrashStyle::Random(random.next_u64()),
                };
                let found = self.disk.crash_with(style);
                self.handles = None;
                self.held.clear();
                self.disk = found;
                self.reopen(&mut random);
            }
        }
    }

    fn push(&mut self, batch: &Batch) {
        self.model.push(batch.clone());
        let number = self.model.batches.len();
        let writer = self.writer();
        write(writer, &batch.changes);
        commit(writer, batch, number).expect("a commit needs no disk");
    }

    /// What was flushed is there; what comes after it may be lost.
    fn reopen(&mut self, random: &mut Random) {
        let handles =
            open_with(&self.disk, self.options.clone()).expect("what a crash leaves is opened");
        let recovered = batches_of(handles.0.snapshot().mark());
        assert!(recovered >= self.flushed, "{recovered} batches of {} flushed", self.flushed);
        self.model = self.model.truncated(recovered);
        self.flushed = recovered;
        compare(&handles.0.snapshot(), &self.model, random, 1);
        self.handles = Some(handles);
        self.check();
    }

    fn check(&self) {
        let report = self.db().check().expect("the simulated disk works");
        assert!(report.violations.is_empty(), "{report:#?}");
    }

    fn end(mut self) {
        self.writer().freeze().expect("a memtable freezes");
        settle(self.db()).expect("the simulated disk works");
        compare(&self.db().snapshot(), &self.model, &mut Random::new(1), 1);
        self.check();
    }
}

/// Tapes that reach each kind of step: writes with work between them, and all steps in turn.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let tape_from = |first: u8, kinds: &[u8]| -> Vec<u8> {
        let step = |(at, kind): (usize, &u8)| [*kind, at as u8, kind.wrapping_mul(37)];
        std::iter::once(first).chain(kinds.iter().enumerate().flat_map(step)).collect()
    };
    let tape = |kinds: &[u8]| tape_from(1, kinds);
    // Many overwrites, and work until values are relocated.
    let relocations: Vec<u8> = (0..70).map(|at| [6, 6, 10, 7, 8, 9, 12][at % 7]).collect();
    let grow = [6, 10, 7, 6, 10, 8, 11, 6, 10, 9, 12, 7, 8, 9, 13, 14, 6, 15, 12];
    let turns: Vec<u8> = (0..64).map(|at| at % 16).collect();
    let crashes: Vec<u8> = (0..60).map(|at| [6, 10, 7, 8, 15][at % 5]).collect();
    vec![
        ("empty".to_owned(), Vec::new()),
        ("files-and-a-view".to_owned(), tape(&grow)),
        ("all-kinds".to_owned(), tape(&turns)),
        ("crashes-between-flushes".to_owned(), tape(&crashes)),
        ("compressed-relocations".to_owned(), tape_from(COMPRESSING, &relocations)),
        ("compressed-crashes".to_owned(), tape_from(COMPRESSING, &crashes)),
    ]
}
