//! The background thread: makes the engine's bounded steps, one after the other, and tells the
//! Raft thread how far the state machine is durable.
//!
//! It sleeps until it is woken or a tenth of a second passed; looking for work costs next to nothing.
//! Merges go at the pace that the log leaves them (`varve_lsm::Pace`; this thread brings clock and
//! latency). When there is nothing else to do, files are compared with their digests, slowly: damage
//! ends the process while other members still have the data.
//!
//! When it cannot keep up, the apply thread makes short pauses (`varve_lsm::Brake`); only should
//! background work stand still does the apply thread wait here.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use varve_lsm::{Db, Pace, STEP_BYTES, Work};
use varve_raftnode::{Applied, Index, NodeId, Term};
use varve_store::{Configuration, Mark, Member, View};

use crate::error::Error;
use crate::limits;
use crate::metrics::Metrics;
use crate::queue::Sender;
use crate::raft::RaftInput;

/// Where the background thread and those who wake or await it meet.
#[derive(Default)]
pub struct Background {
    state: Mutex<State>,
    wake: Condvar,
    flushed: Condvar,
    /// Without a thread, who waits flushes; false if that failed.
    flush: Option<Box<dyn Fn() -> bool + Send + Sync>>,
}

/// How often it looks for work without being woken. A memtable takes longer to fill.
const PERIOD: Duration = Duration::from_millis(100);

#[derive(Default)]
struct State {
    due: bool,
    /// Steps are being made.
    busy: bool,
    stopped: bool,
}

impl Background {
    /// One without a thread: somebody calls [`step`], and who must wait calls `flush`, which says
    /// whether there is any sense in waiting on.
    pub fn without_thread(flush: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { flush: Some(Box::new(flush)), ..Self::default() }
    }

    /// There is something to do.
    pub fn wake(&self) {
        self.lock().due = true;
        self.wake.notify_one();
    }

    /// Nothing was left to do; for who makes the steps of one without a thread.
    pub fn rest(&self) {
        self.lock().due = false;
    }

    /// Ends the thread after its current step.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.wake.notify_one();
    }

    /// Whether nothing was left to do when it last looked, and nobody has woken it since.
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        !state.due && !state.busy
    }

    /// Sleeps for as long as `pause` says, again and again until it says zero. Without a thread
    /// nobody would get ahead meanwhile.
    pub fn pause(&self, mut pause: impl FnMut() -> Duration) {
        if self.flush.is_some() {
            return;
        }
        let mut next = pause();
        while !next.is_zero() && !self.lock().stopped {
            self.wake();
            std::thread::sleep(next);
            next = pause();
        }
    }

    /// Blocks while `is_ahead` holds; looks again after every step of the background thread.
    pub fn wait_for_flush(&self, is_ahead: impl Fn() -> bool) {
        if let Some(flush) = &self.flush {
            while is_ahead() && flush() {}
            return;
        }
        let mut state = self.lock();
        while is_ahead() {
            state.due = true;
            self.wake.notify_one();
            let (next, _) = self
                .flushed
                .wait_timeout(state, Duration::from_millis(50))
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
    }

    /// The thread's body. An error is final.
    pub fn run(
        &self,
        db: &Db,
        view: &View,
        raft: &Sender<RaftInput>,
        metrics: &Metrics,
    ) -> Result<(), Error> {
        let started = Instant::now();
        let mut pace = Pace::default();
        let mut scrubber = Scrubber::new();
        while self.sleep(PERIOD) {
            loop {
                let pause = pace.wait(started.elapsed(), || metrics.log_latency.take_p99());
                metrics.merge_rate.set(pace.rate() as i64);
                let work = if pause.is_zero() { db.work()? } else { db.work_urgent()? };
                self.flushed.notify_all();
                match work {
                    Work::Idle if pause.is_zero() => break,
                    Work::Idle => _ = self.sleep(pause.min(PERIOD)),
                    Work::Flushed => report_flushed(db, view, raft)?,
                    Work::Merged => pace.spend(STEP_BYTES),
                    Work::Flushing | Work::Removed => {}
                }
                if self.lock().stopped {
                    return Ok(());
                }
            }
            self.lock().busy = false;
            scrubber.step(db, started.elapsed(), metrics)?;
        }
        Ok(())
    }

    /// Sleeps until woken, but not longer than `most`, and is busy then. False: the thread is to end.
    fn sleep(&self, most: Duration) -> bool {
        let mut state = self.lock();
        if !state.due && !state.stopped {
            state = self.wake.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.due = false;
        // In the same moment, or it would look idle in between.
        state.busy = !state.stopped;
        state.busy
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compares files with their digests: a little each period, then nothing for a while.
struct Scrubber {
    next_at: Duration,
    bytes: u64,
    files: u64,
}

impl Scrubber {
    fn new() -> Self {
        Self { next_at: limits::SCRUB_FIRST_AFTER, bytes: 0, files: 0 }
    }

    fn step(&mut self, db: &Db, now: Duration, metrics: &Metrics) -> Result<(), Error> {
        if now < self.next_at {
            return Ok(());
        }
        let done = db.scrub(limits::SCRUB_STEP_BYTES)?;
        metrics.scrubbed_bytes.inc_by(done.bytes);
        self.bytes += done.bytes;
        self.files += done.files;
        self.next_at = now + PERIOD;
        if done.is_pass_done {
            metrics.scrubbed_passes.inc();
            let (files, bytes) = (self.files, self.bytes);
            tracing::info!(files, bytes, "all files of the engine are as they were written");
            *self = Self { next_at: now + limits::SCRUB_PAUSE, bytes: 0, files: 0 };
        }
        Ok(())
    }
}

/// One bounded step of the engine, with all that follows from it.
///
/// # Errors
/// Final.
pub fn step(db: &Db, view: &View, raft: &Sender<RaftInput>) -> Result<Work, Error> {
    let work = db.work()?;
    if work == Work::Flushed {
        report_flushed(db, view, raft)?;
    }
    Ok(work)
}

/// Tells the Raft thread what is durable, so that it can cut the log and offer snapshots.
fn report_flushed(db: &Db, view: &View, raft: &Sender<RaftInput>) -> Result<(), Error> {
    let Some(bytes) = db.flushed_mark() else { return Ok(()) };
    let mark = applied_at(&bytes, view)?;
    tracing::info!(index = mark.index.0, term = mark.term.0, "saved snapshot");
    let _ = raft.send(RaftInput::Flushed(mark));
    Ok(())
}

/// A commit's mark in Raft's words, with the members that vote as of there.
///
/// # Errors
/// The bytes are no mark.
pub fn applied_at(bytes: &[u8], view: &View) -> Result<Applied, Error> {
    let configuration = match Configuration::decode(bytes)? {
        Some(configuration) => configuration,
        // Written when nobody could change who votes.
        None => configuration_of(&view.members()?),
    };
    Ok(standing(Mark::decode(bytes)?, &configuration))
}

/// A mark and who votes as of it, in Raft's words.
pub fn standing(mark: Mark, configuration: &Configuration) -> Applied {
    let ids = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect();
    Applied {
        index: Index(mark.index),
        term: Term(mark.term),
        voters: ids(&configuration.voters),
        learners: ids(&configuration.learners),
    }
}

/// Who votes, of these members.
pub fn configuration_of(members: &[Member]) -> Configuration {
    let ids = |is_learner: bool| {
        let of_kind = members.iter().filter(move |member| member.is_learner == is_learner);
        of_kind.map(|member| member.id).collect()
    };
    Configuration { voters: ids(false), learners: ids(true) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use bytes::Bytes;
    use varve_disk::Disk;
    use varve_disk::sim::SimDisk;
    use varve_lsm::{Commit, Delta, Keyspace, Meta, Options, Revision};

    use super::*;

    #[test]
    fn files_are_compared_slowly_and_again_after_a_pause_until_one_is_damaged() {
        let disk = SimDisk::new(1);
        let dir = Path::new("/engine");
        let (db, mut writer) =
            Db::open(Arc::new(disk.clone()), dir, Options::default()).expect("a new engine");
        let revision = Revision { main: 1, sub: 0 };
        let value = vec![1; 2 * limits::SCRUB_STEP_BYTES as usize];
        writer.put(Keyspace::Kv, b"key", revision, Delta::Plus, Meta::EMPTY, &value);
        writer.commit(Commit { mark: Bytes::new(), kv_visible: 1, compacted: 0 }).expect("commits");
        writer.freeze().expect("freezes");
        while db.work().expect("works") != Work::Idle {}
        let metrics = Metrics::new(crate::metrics::Detail::Basic);
        let mut scrubber = Scrubber::new();
        let first = limits::SCRUB_FIRST_AFTER;
        scrubber.step(&db, first - PERIOD, &metrics).expect("sound");
        assert_eq!(metrics.scrubbed_bytes.get(), 0);
        // The second call of a period does nothing.
        for step in 0..3 {
            for _ in 0..2 {
                scrubber.step(&db, first + step * PERIOD, &metrics).expect("sound");
            }
            let most = u64::from(step + 1) * limits::SCRUB_STEP_BYTES;
            assert!(metrics.scrubbed_bytes.get() <= most);
        }
        assert_eq!(metrics.scrubbed_bytes.get(), db.sizes().disk_bytes);
        assert_eq!(metrics.scrubbed_passes.get(), 1);
        let again = first + limits::SCRUB_PAUSE;
        scrubber.step(&db, again, &metrics).expect("sound");
        assert_eq!(metrics.scrubbed_passes.get(), 1);
        let names = disk.list(dir).expect("the directory");
        let segment = names.iter().find(|name| name.ends_with(".vs")).expect("a segment");
        disk.flip_bit(&dir.join(segment), 100_000, 1).expect("it is that long");
        let again = again + limits::SCRUB_PAUSE;
        let found =
            (0..8).find_map(|step| scrubber.step(&db, again + step * PERIOD, &metrics).err());
        assert!(found.expect("it is found").to_string().contains(segment.as_str()));
    }
}
