//! The background thread: makes the engine's bounded steps, one after the other, and tells the
//! Raft thread how far the state machine is durable.
//!
//! It sleeps until it is woken or a tenth of a second passed; looking for work costs next to nothing.
//! The apply thread waits here when flushing cannot keep up: that is the engine's back-pressure.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;
use varve_lsm::{Db, Work};
use varve_raftnode::{Applied, Index, Term};
use varve_store::{Mark, View};

use crate::error::Error;
use crate::raft::RaftInput;

/// Where the background thread and those who wake or await it meet.
#[derive(Default)]
pub struct Background {
    state: Mutex<State>,
    wake: Condvar,
    flushed: Condvar,
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
    /// There is something to do.
    pub fn wake(&self) {
        self.lock().due = true;
        self.wake.notify_one();
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

    /// Blocks while `is_ahead` holds; looks again after every step of the background thread.
    pub fn wait_for_flush(&self, is_ahead: impl Fn() -> bool) {
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
    pub fn run(&self, db: &Db, view: &View, raft: &Sender<RaftInput>) -> Result<(), Error> {
        loop {
            {
                let mut state = self.lock();
                if !state.due && !state.stopped {
                    state = self
                        .wake
                        .wait_timeout(state, PERIOD)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
                if state.stopped {
                    return Ok(());
                }
                state.due = false;
                state.busy = true;
            }
            loop {
                let work = db.work()?;
                self.flushed.notify_all();
                match work {
                    Work::Idle => break,
                    Work::Flushed => report_flushed(db, view, raft)?,
                    Work::Merged | Work::Removed => {}
                }
                if self.lock().stopped {
                    return Ok(());
                }
            }
            self.lock().busy = false;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the Raft thread what is durable, so that it can cut the log and offer snapshots.
fn report_flushed(db: &Db, view: &View, raft: &Sender<RaftInput>) -> Result<(), Error> {
    let Some(bytes) = db.flushed_mark() else { return Ok(()) };
    let mark = Mark::decode(&bytes)?;
    tracing::info!(index = mark.index, term = mark.term, "saved snapshot");
    let _ = raft.send(RaftInput::Flushed(applied_at(mark, view)?));
    Ok(())
}

/// The mark in Raft's words, with the members that vote as of there.
pub fn applied_at(mark: Mark, view: &View) -> Result<Applied, Error> {
    let (learners, voters): (Vec<_>, Vec<_>) =
        view.members()?.into_iter().partition(|member| member.is_learner);
    let ids = |members: Vec<varve_store::Member>| {
        members.iter().map(|member| varve_raftnode::NodeId(member.id)).collect()
    };
    Ok(Applied {
        index: Index(mark.index),
        term: Term(mark.term),
        voters: ids(voters),
        learners: ids(learners),
    })
}
