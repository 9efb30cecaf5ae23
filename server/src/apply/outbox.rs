//! What socket threads are told, and what waits to be told between two inputs of the apply thread.
//!
//! One idea: what belongs to one socket thread goes over in one piece. Replies wait here for the end of
//! an input, reads for their index. Events wait nowhere: a mailbox without room loses them, and its
//! owner is told to read the history from where each watcher stands.
//!
//! Invariants: a socket thread that has lost events gets no more of them before it is told so; events
//! on their way to one take no more than `limits::MAILBOX_EVENT_BYTES_MAX`.

use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Instant;

use varve_api::error::Status;
use varve_lsm::Brake;
use varve_raftnode::Index;
use varve_store::{Reply, RequestId};

use super::ApplyThread;
use crate::limits;
use crate::peer::call::{Call, CallAnswer};
use crate::peer::frame::LeaseAnswer;
use crate::peer::hash::HashAnswer;
use crate::request::{self, Budget, Share};
use crate::watch::batch::EventBatch;

/// What a socket thread is told.
pub enum ToWorker {
    /// A request was applied.
    Reply(RequestId, Result<Reply, Status>),
    /// A read may go ahead.
    ReadReady(u64),
    /// A read must be tried again: leadership moved.
    ReadFailed(u64),
    /// Something changed. The share of what may wait for this thread goes back with it.
    Events(Arc<EventBatch>, Share),
    /// Events were skipped (no room, or a snapshot was installed): read the history from where
    /// each watcher stands. Carries the current revision.
    Resync(i64),
    /// The leader's word on a lease.
    Lease(LeaseAnswer),
    /// A member's hash.
    Hash(HashAnswer),
    /// A member asks this one, as the leader, to change the membership.
    Call {
        /// Who asks.
        from: u64,
        /// What.
        call: Call,
    },
    /// The leader's word on a change of the membership.
    CallAnswer(CallAnswer),
}

/// A read that waits for an index. Ordered so that the heap's top is the smallest index.
#[derive(PartialEq, Eq)]
pub(super) struct WaitingRead {
    pub(super) index: Index,
    pub(super) token: u64,
}

impl Ord for WaitingRead {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.index, other.token).cmp(&(self.index, self.token))
    }
}

impl PartialOrd for WaitingRead {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What waits to be handed out, between two inputs.
pub struct Outbox {
    replies: Vec<Vec<ToWorker>>,
    pub(super) reads: BinaryHeap<WaitingRead>,
    /// Workers that must be told to resync before they get events again.
    pub(super) lost: Vec<bool>,
    /// What events that wait for each worker may take of the memory.
    pub(super) event_room: Vec<Budget>,
    pub(super) frozen_at: u64,
    pub(super) brake: Brake,
    /// From when on the brake's time counts.
    pub(super) started: Instant,
}

impl Outbox {
    pub(super) fn new(thread: &ApplyThread) -> Self {
        let workers = &thread.workers;
        Self {
            replies: workers.iter().map(|_| Vec::new()).collect(),
            reads: BinaryHeap::new(),
            lost: vec![false; workers.len()],
            event_room: workers
                .iter()
                .map(|_| Budget::new(limits::MAILBOX_EVENT_BYTES_MAX))
                .collect(),
            frozen_at: thread.store.applied().index,
            brake: Brake::default(),
            started: Instant::now(),
        }
    }
}

impl ApplyThread {
    /// Puts an answer into the bundle of the socket thread that waits for it; answers to requests
    /// of other members, or of an earlier start, belong to nobody here.
    pub(super) fn reply(&self, outbox: &mut Outbox, id: u64, answer: ToWorker) {
        if let Some(worker) = request::worker_of(id, self.boot_nonce, self.workers.len()) {
            outbox.replies[worker].push(answer);
        }
    }

    pub(super) fn release_reads(&self, outbox: &mut Outbox) {
        let applied = Index(self.cluster.applied());
        while outbox.reads.peek().is_some_and(|read| read.index <= applied) {
            let Some(read) = outbox.reads.pop() else { break };
            self.reply(outbox, read.token, ToWorker::ReadReady(read.token));
        }
    }

    pub(super) fn post_replies(&self, outbox: &mut Outbox) {
        for (worker, replies) in self.workers.iter().zip(&mut outbox.replies) {
            if !replies.is_empty() {
                // Requests in flight are bounded below the mailbox's size: see `limits`.
                if let Err(rejected) = worker.post(std::mem::take(replies)) {
                    tracing::error!(count = rejected.0.len(), "a socket thread's mailbox is full");
                }
            }
        }
    }

    pub(super) fn post_events(&self, outbox: &mut Outbox, batch: EventBatch) {
        let (revision, bytes) = (batch.revision(), batch.bytes());
        let batch = Arc::new(batch);
        for (number, worker) in self.workers.iter().enumerate() {
            let lost = &mut outbox.lost[number];
            if *lost {
                *lost = worker.post_one(ToWorker::Resync(revision)).is_err();
                continue;
            }
            let share = outbox.event_room[number].take(bytes);
            *lost = match share.filter(|_| worker.len() < limits::MAILBOX_EVENT_BATCHES_MAX) {
                Some(share) => {
                    worker.post_one(ToWorker::Events(Arc::clone(&batch), share)).is_err()
                }
                None => true,
            };
        }
    }

    pub(super) fn post_resync(&self, outbox: &mut Outbox) {
        let revision = self.store.view().revision();
        for (worker, lost) in self.workers.iter().zip(&mut outbox.lost) {
            *lost = *lost && worker.post_one(ToWorker::Resync(revision)).is_err();
        }
    }
}
