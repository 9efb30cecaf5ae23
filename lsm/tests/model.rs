//! The engine against the naive one: random batches, flushes, merges, restarts, crashes, and
//! checkpoints moved between nodes, from one seed. Odd seeds compress what merges relocate.
//!
//! `VARVE_OPERATIONS=<n>` runs seed after seed, each three times as long, until so many operations
//! were made (changes, reads held against the model, steps of background work); `VARVE_LONG=1` is
//! ten million. `VARVE_SEED=<n>` runs one seed again, with `VARVE_OPERATIONS` a long one.

#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod support;

use std::path::Path;
use std::sync::Arc;

use support::{
    Model, batches_of, commit, compare, compressed_segments, compressing_options, dir, mark,
    open_with, random_batch, settle, small_options, write,
};
use varve_disk::Disk;
use varve_disk::sim::{Random, SimDisk};
use varve_lsm::{Db, Options, Snapshot, Writer};

#[test]
fn the_engine_answers_like_the_model_through_flushes_merges_restarts_and_crashes() {
    let number = |name| {
        let value = std::env::var(name).ok();
        value.map(|value| value.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let is_long = std::env::var_os("VARVE_LONG").is_some();
    let operations_min = number("VARVE_OPERATIONS").or(is_long.then_some(10_000_000));
    let steps = if operations_min.is_some() { 1_500 } else { 500 };
    let (first, mut changes, mut compressed) = (number("VARVE_SEED"), 0, 0);
    for seed in first.unwrap_or(0).. {
        println!("VARVE_SEED={seed}");
        let run = Run::new(seed).run(steps);
        changes += run.model.batches.iter().map(|batch| batch.changes.len()).sum::<usize>();
        compressed += run.compressed;
        let is_enough = match operations_min {
            _ if first.is_some() => true,
            Some(operations_min) => support::operations() >= operations_min,
            None => seed == 11,
        };
        if is_enough {
            println!(
                "{} operations, {changes} changes of them, last seed {seed}; {compressed} times a \
                 compressed segment was read",
                support::operations()
            );
            assert!(compressed > 0 || first.is_some_and(|seed| seed % 2 == 0));
            break;
        }
    }
}

struct Run {
    random: Random,
    options: Options,
    disk: SimDisk,
    db: Option<(Db, Writer)>,
    model: Model,
    /// Views taken earlier, with what they must go on to answer.
    held: Vec<(Snapshot, Model)>,
    /// Batches that were acknowledged as flushed.
    flushed: usize,
    /// Compressed segments, summed over comparisons.
    compressed: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        let options = if seed % 2 == 1 { compressing_options() } else { small_options() };
        // Some merge into the bottom by size, as the default does.
        let options = Options { bottom_factor: [0, 8][(seed / 2 % 2) as usize], ..options };
        let db = Some(open_with(&disk, options.clone()).unwrap());
        let (random, model, held) = (Random::new(seed), Model::default(), Vec::new());
        Self { random, options, disk, db, model, held, flushed: 0, compressed: 0 }
    }

    fn run(mut self, steps: usize) -> Self {
        for _ in 0..steps {
            match self.random.below(200) {
                0..120 => self.batch(),
                120..165 => self.work(),
                165..172 => self.handles().1.freeze().unwrap(),
                172..180 => self.hold(),
                180..192 => self.compare(),
                192..195 => self.restart(),
                195..198 => self.crash(),
                _ => self.transfer(),
            }
        }
        self.compare();
        self.handles().1.freeze().unwrap();
        settle(&self.handles().0).unwrap();
        self.compare();
        self.check();
        self
    }

    fn handles(&mut self) -> &mut (Db, Writer) {
        self.db.as_mut().unwrap()
    }

    fn batch(&mut self) {
        let batch = random_batch(&self.model, &mut self.random);
        let number = self.model.batches.len() + 1;
        let before = self.random.one_in(10).then(|| self.model.clone());
        self.model.push(batch.clone());
        let db = self.db.as_mut().unwrap();
        write(&mut db.1, &batch.changes);
        if let Some(before) = before {
            // Not visible to readers, visible to the writer.
            compare(&db.0.snapshot(), &before, &mut self.random, 1);
            let view = db.1.view();
            for change in &batch.changes {
                let newest = self.model.get(change.keyspace, &change.key, u64::MAX).unwrap();
                let found = view.get(change.keyspace, &change.key, u64::MAX).unwrap().unwrap();
                assert_eq!(found.revision, newest.revision);
            }
        }
        commit(&mut db.1, &batch, number).unwrap();
        assert_eq!(db.0.snapshot().mark(), &mark(number));
    }

    fn work(&mut self) {
        let db = &self.db.as_ref().unwrap().0;
        for _ in 0..=self.random.below(3) {
            support::count_operations(1);
            db.work().unwrap();
        }
        self.flushed = db.flushed_mark().map_or(0, |mark| batches_of(&mark));
    }

    fn hold(&mut self) {
        if self.held.len() == 3 {
            let (snapshot, model) = self.held.remove(0);
            compare(&snapshot, &model, &mut self.random, 1);
        }
        let snapshot = self.handles().0.snapshot();
        self.held.push((snapshot, self.model.clone()));
    }

    fn compare(&mut self) {
        let snapshot = self.db.as_ref().unwrap().0.snapshot();
        self.compressed += compressed_segments(&self.disk);
        compare(&snapshot, &self.model, &mut self.random, 3);
        for (snapshot, model) in &self.held {
            compare(snapshot, model, &mut self.random, 1);
        }
    }

    fn check(&mut self) {
        let report = self.handles().0.check().unwrap();
        assert!(report.violations.is_empty(), "{report:#?}");
    }

    /// Closes and opens; the held views stay usable.
    fn restart(&mut self) {
        self.db = None;
        self.reopen();
    }

    fn crash(&mut self) {
        let found = self.disk.crash();
        self.db = None;
        self.held.clear();
        self.disk = found;
        self.reopen();
    }

    /// What was flushed is there; the rest is replayed, or was never decided.
    fn reopen(&mut self) {
        // Whatever was compressed is read whether or not more will be.
        if self.random.one_in(4) {
            self.options.compression =
                self.options.compression.xor(compressing_options().compression);
        }
        let mut db = open_with(&self.disk, self.options.clone()).unwrap();
        let recovered = batches_of(db.0.snapshot().mark());
        let flushed = self.flushed;
        assert!(recovered >= flushed, "{recovered} batches of {flushed} flushed ones");
        let all = std::mem::take(&mut self.model);
        self.model = all.truncated(recovered);
        compare(&db.0.snapshot(), &self.model, &mut self.random, 2);
        if !self.random.one_in(3) {
            for batch in &all.batches[recovered..] {
                write(&mut db.1, &batch.changes);
                self.model.push(batch.clone());
                commit(&mut db.1, batch, self.model.batches.len()).unwrap();
            }
        }
        self.flushed = recovered;
        self.db = Some(db);
        self.check();
    }

    /// Another node receives a checkpoint, on top of an older one, and takes over.
    fn transfer(&mut self) {
        let older = self.handles().0.checkpoint();
        for _ in 0..self.random.below(20) {
            self.batch();
            self.work();
        }
        let newer = self.handles().0.checkpoint();
        let disk = SimDisk::new(self.random.next_u64());
        let origin = self.random.next_u64() as u32;
        self.options.origin = origin;
        let options = self.options.clone();
        let (db, mut writer) = Db::open(Arc::new(disk.clone()), dir(), options).unwrap();
        for checkpoint in [&older, &newer] {
            let staged = Path::new("/node/staged");
            disk.create_dir_all(staged).unwrap();
            for file in &checkpoint.files {
                if !db.has_file(&file.name, file.digest) {
                    let copy = disk.create(&staged.join(&file.name)).unwrap();
                    copy.write_at(0, &file.content).unwrap();
                }
            }
            writer.install(&checkpoint.manifest, staged).unwrap();
            let model = self.model.truncated(batches_of(&checkpoint.mark));
            compare(&db.snapshot(), &model, &mut self.random, 2);
        }
        self.held.clear();
        self.flushed = batches_of(&newer.mark);
        self.model = self.model.truncated(self.flushed);
        (self.disk, self.db) = (disk, Some((db, writer)));
        self.check();
    }
}
