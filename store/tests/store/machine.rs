//! A state machine over a simulated disk, with the log that a real one would replay.
//!
//! One idea: a restart loses power. What was not flushed is replayed from the log, and every
//! replayed entry must do exactly what it did the first time; so each test is also a test of
//! determinism.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::sim::SimDisk;
use varve_lsm::db::Work;
use varve_lsm::{Db, Options, Writer};
use varve_store::{
    Applied, Command, CommandKind, Founding, Mark, Member, MemberChange, Store, View, VoteChange,
    check, decode_batch, encode_batch,
};

const DIRECTORY: &str = "/varve/engine";
const TERM: u64 = 2;

/// Steps of background work that cannot all be needed.
const WORK_STEPS_MAX: usize = 10_000;

pub struct Machine {
    disk: SimDisk,
    options: Options,
    pub db: Db,
    pub store: Store,
    /// Payload of each entry from index 2 on, and what it did.
    log: Vec<(Bytes, String)>,
}

pub fn founding() -> Founding {
    let member = |id: u64, name: &str| Member {
        id,
        name: name.into(),
        peer_urls: vec![format!("http://{name}:2380")],
        client_urls: Vec::new(),
        is_learner: false,
    };
    Founding { cluster_id: 0xc1, members: vec![member(1, "one"), member(2, "two")] }
}

impl Machine {
    pub fn new(seed: u64, options: Options) -> Self {
        let disk = SimDisk::new(seed);
        let (db, writer) = open(&disk, &options);
        let store = Store::open(db.clone(), writer, &founding()).unwrap();
        Self { disk, options, db, store, log: Vec::new() }
    }

    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    pub fn view(&self) -> View {
        self.store.view()
    }

    /// Appends an entry to the log and applies it.
    pub fn apply(&mut self, commands: &[Command]) -> Applied {
        self.apply_payload(encode_batch(commands))
    }

    pub fn apply_payload(&mut self, payload: Bytes) -> Applied {
        let applied = self.apply_next(&payload);
        self.log.push((payload, format!("{applied:?}")));
        applied
    }

    /// Makes all that was applied so far durable.
    pub fn flush(&mut self) {
        self.store.freeze().unwrap();
        self.work();
        assert_eq!(
            self.db.flushed_mark().map(|mark| Mark::decode(&mark).unwrap()),
            Some(self.store.applied())
        );
    }

    /// Background work until there is none.
    pub fn work(&mut self) {
        for _ in 0..WORK_STEPS_MAX {
            if self.db.work().unwrap() == Work::Idle {
                return;
            }
        }
        panic!("background work does not end");
    }

    /// Loses power, starts again, and replays what was not flushed.
    pub fn restart(&mut self) {
        self.disk = self.disk.crash();
        let (db, writer) = open(&self.disk, &self.options);
        self.db = db.clone();
        self.store = Store::open(db, writer, &founding()).unwrap();
        let applied = self.store.applied().index;
        assert!(applied >= 1 && applied <= self.log.len() as u64 + 1, "applied {applied}");
        let log = std::mem::take(&mut self.log);
        for (payload, first) in &log[applied as usize - 1..] {
            let again = format!("{:?}", self.apply_next(payload));
            assert_eq!(&again, first, "an entry does something else when it is replayed");
        }
        self.log = log;
        self.check();
    }

    /// Everything that is kept twice is the same.
    pub fn check(&self) {
        let violations = check::check_store(&self.store, &self.db).unwrap();
        assert!(violations.is_empty(), "{violations:#?}");
    }

    fn apply_next(&mut self, payload: &Bytes) -> Applied {
        if self.store.is_writer_ahead() {
            self.work();
        }
        let index = self.store.applied().index + 1;
        let applied = match vote_change(payload) {
            Some(voted) => self.store.apply_change(index, TERM, payload, voted).unwrap(),
            None => self.store.apply(index, TERM, payload).unwrap(),
        };
        assert_eq!(self.store.applied(), Mark { index, term: TERM });
        applied
    }
}

/// What the server would have told Raft with this entry.
fn vote_change(payload: &Bytes) -> Option<VoteChange> {
    match decode_batch(payload).as_deref() {
        Ok([command]) if command.kind == CommandKind::MemberChange => {
            MemberChange::decode(&command.body).ok()?.vote_change()
        }
        _ => None,
    }
}

fn open(disk: &SimDisk, options: &Options) -> (Db, Writer) {
    Db::open(Arc::new(disk.clone()), Path::new(DIRECTORY), options.clone()).unwrap()
}
