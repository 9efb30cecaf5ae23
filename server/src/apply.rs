//! The apply thread: the only writer of the state machine.
//!
//! It takes committed entries in order, applies each, and hands out what came of it: replies to
//! the socket thread where the request waits, events to every socket thread (each owns its
//! watchers), lease changes to the lessor (`apply/outbox.rs`).
//!
//! Invariants:
//! - An entry's events are posted before its replies are: who has a reply in hand and then asks
//!   its own socket thread finds the events there.
//! - `Cluster::applied` moves only after the entry is visible to readers.
//! - When a socket thread's mailbox has no room for events, none are queued elsewhere: it is told
//!   to read the history instead.
//!
//! Its queue is bounded by `limits::APPLY_QUEUE_MAX`; the Raft thread keeps what has no room.

mod outbox;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use varve_api::mvccpb::Event;
use varve_disk::trial;
use varve_raftnode::{Applied, Committed, Index, MemberChange};
use varve_store::{AlarmChange, LeaseChange, LeaseId, Member, Reply, Store, VoteChange};

use self::outbox::WaitingRead;
pub use self::outbox::{Outbox, ToWorker};
use crate::auth::Authenticator;
use crate::background::Background;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::lease::{Known, Lessor};
use crate::limits;
use crate::mailbox::Mailbox;
use crate::metrics::{Held, Metrics};
use crate::peer::snapshot::Staged;
use crate::peer::{Peers, others};
use crate::queue::{Receiver, RecvError, Sender};
use crate::raft::RaftInput;
use crate::request::BootNonce;
use crate::watch::batch::EventBatch;

/// What the apply thread is asked to do.
pub enum ApplyInput {
    /// Apply these, in order.
    Committed(Vec<Committed>),
    /// These reads may be answered once the index is applied; those must be tried again.
    Reads {
        /// Token and index.
        ready: Vec<(u64, Index)>,
        /// Tokens.
        failed: Vec<u64>,
    },
    /// The lessor's clock runs in this term, or not at all. What the term's leader must know is
    /// in the inputs before this one.
    Lead {
        /// The term in which this member leads.
        term: Option<u64>,
    },
    /// Replace the state by a received snapshot.
    Install {
        /// What the group says it contains.
        applied: Applied,
        /// Its files.
        staged: Staged,
    },
}

/// How the apply thread is made.
pub struct ApplyThread {
    /// The state machine.
    pub store: Store,
    /// Its input.
    pub queue: Receiver<ApplyInput>,
    /// Where installs are confirmed.
    pub raft: Sender<RaftInput>,
    /// The socket threads.
    pub workers: Vec<Mailbox<ToWorker>>,
    /// Marks the requests of this process.
    pub boot_nonce: BootNonce,
    /// Where progress is published.
    pub cluster: Arc<Cluster>,
    /// Where leases are timed.
    pub lessor: Arc<Lessor>,
    /// Where tokens are kept.
    pub auth: Arc<Authenticator>,
    /// Wakes and awaits flushes.
    pub background: Arc<Background>,
    /// Whom to connect to as members come and go.
    pub peers: Peers,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Entries after which the memtable is made durable even if it is not full.
    pub snapshot_count: u64,
    /// An entry that takes longer is logged.
    pub warning_duration: Duration,
}

impl ApplyThread {
    /// Runs until the Raft thread hangs up. An error is final: replicas must not diverge.
    pub fn run(mut self) -> Result<(), Error> {
        let mut outbox = self.begin();
        while let Some(input) = self.next(&mut outbox) {
            self.take(&mut outbox, input)?;
        }
        Ok(())
    }

    /// Publishes where the state machine stands; to be called before [`ApplyThread::take`].
    pub fn begin(&self) -> Outbox {
        self.cluster.publish_applied(self.store.applied().index);
        self.note_own(&self.store.members());
        Outbox::new(self)
    }

    /// Carries out one input; waits for nothing but flushes, so that a simulation can be the thread.
    ///
    /// # Errors
    /// Final: replicas must not diverge.
    pub fn take(&mut self, outbox: &mut Outbox, input: ApplyInput) -> Result<(), Error> {
        match input {
            ApplyInput::Committed(entries) => self.apply(outbox, &entries)?,
            ApplyInput::Reads { ready, failed } => {
                for (token, index) in ready {
                    outbox.reads.push(WaitingRead { index, token });
                }
                for token in failed {
                    self.reply(outbox, token, ToWorker::ReadFailed(token));
                }
            }
            ApplyInput::Lead { term } => self.lessor.lead(term),
            ApplyInput::Install { applied, staged } => self.install(outbox, &applied, staged)?,
        }
        self.release_reads(outbox);
        self.post_replies(outbox);
        Ok(())
    }

    /// etcd's line for a request; here it is an entry with all requests in it.
    fn warn_if_slow(&self, index: Index, requests: usize, took: Duration) {
        if took > self.warning_duration {
            self.metrics.slow_apply.inc();
            let request = format!("entry {} with {requests} requests", index.0);
            let expected_duration = self.warning_duration;
            tracing::warn!(?took, ?expected_duration, %request, "apply request took too long");
        }
    }

    /// The next input; `None` when the Raft thread has hung up. While a socket thread has events
    /// to catch up with and does not know it yet, it is told as soon as it has room.
    fn next(&self, outbox: &mut Outbox) -> Option<ApplyInput> {
        while outbox.lost.contains(&true) {
            match self.queue.recv_timeout(limits::RESYNC_RETRY) {
                Err(RecvError::Timeout) => self.post_resync(outbox),
                next => return next.ok(),
            }
        }
        self.queue.recv().ok()
    }

    /// Slows down when background work cannot keep up, by pauses too short to be felt.
    fn keep_pace(&self, outbox: &mut Outbox, entry: &Committed) {
        let Outbox { brake, started, .. } = outbox;
        self.background.pause(|| brake.pause(started.elapsed(), self.store.pressure()));
        brake.spend(entry.payload.len() as u64);
        if self.store.is_writer_ahead() {
            self.background.wait_for_flush(|| self.store.is_writer_ahead());
        }
    }

    fn apply(&mut self, outbox: &mut Outbox, entries: &[Committed]) -> Result<(), Error> {
        let (mut events, mut is_compacted) = (Vec::new(), false);
        for entry in entries {
            self.keep_pace(outbox, entry);
            let started = Instant::now();
            let applied = self.apply_entry(entry)?;
            let took = started.elapsed();
            self.metrics.backend_commit_seconds.observe(took.as_secs_f64());
            self.warn_if_slow(entry.index, applied.replies.len(), took);
            if !applied.auth.is_empty() {
                let auth_revision = self.store.view().auth().revision();
                self.auth.changed(applied.auth, auth_revision);
            }
            self.count(&applied.events);
            events.extend(applied.events);
            for (id, reply) in applied.replies {
                if matches!(&reply, Ok(Reply::Txn(txn)) if txn.responses.len() > 1) {
                    self.metrics.txns.inc();
                }
                self.reply(outbox, id.0, ToWorker::Reply(id, reply));
            }
            for change in applied.leases {
                match change {
                    LeaseChange::Granted { id, ttl_seconds } => {
                        self.metrics.lease_granted.inc();
                        self.metrics.lease_ttl_seconds.observe(ttl_seconds as f64);
                        self.lessor.granted(id.0, ttl_seconds);
                    }
                    LeaseChange::Checkpointed { id, left_seconds } => {
                        self.lessor.checkpointed(id.0, left_seconds);
                    }
                    LeaseChange::Revoked { id } => {
                        self.metrics.lease_revoked.inc();
                        self.lessor.revoked(id.0);
                    }
                }
            }
            for change in applied.alarms {
                self.tell_alarm(change);
            }
            if let Some(revision) = applied.compacted {
                tracing::info!(revision, "finished scheduled compaction");
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.metrics.compaction_last.set(now.as_secs() as i64);
                is_compacted = true;
            }
        }
        let Some(last) = entries.last() else { return Ok(()) };
        self.cluster.publish_applied(last.index.0);
        self.metrics.proposals_applied.set(last.index.0 as i64);
        // Merges drop history only below a compacted revision that is durable.
        if is_compacted || last.index.0 - outbox.frozen_at >= self.snapshot_count {
            outbox.frozen_at = last.index.0;
            self.store.freeze()?;
            self.background.wake();
        }
        if !events.is_empty() {
            self.post_events(outbox, EventBatch::new(events));
        }
        Ok(())
    }

    fn count(&self, events: &[Event]) {
        for kv in events.iter().filter_map(|event| event.kv.as_ref()) {
            // After a deletion a key has no version.
            if kv.version == 0 {
                self.metrics.deletes.inc();
            } else {
                self.metrics.puts.inc();
                self.metrics.put_bytes.add((kv.key.len() + kv.value.len()) as i64);
            }
        }
    }

    fn tell_alarm(&self, change: AlarmChange) {
        let AlarmChange { alarm, is_raised } = change;
        let (name, member) = (alarm.name(), format!("{:x}", alarm.member_id));
        let count = self.metrics.alarms.with_label_values(&[&member, &name]);
        if is_raised {
            count.set(1);
            tracing::warn!(alarm = %name, from = %member, "alarm raised");
        } else {
            count.set(0);
            tracing::warn!(alarm = %name, from = %member, "alarm disarmed");
        }
    }

    /// Applies one entry. Raft hears of a change of its own before anybody hears of the entry.
    fn apply_entry(&mut self, entry: &Committed) -> Result<varve_store::Applied, Error> {
        let (index, term, payload) = (entry.index.0, entry.term.0, &entry.payload);
        let applied = match entry.change {
            None => self.store.apply(index, term, payload)?,
            Some(change) => {
                let applied = self.store.apply_change(index, term, payload, vote_change(change))?;
                let is_accepted = applied.is_vote_changed;
                tracing::info!(?change, index, is_accepted, "applied a membership change");
                // The Raft thread never waits for this one.
                let _ = self.raft.send(RaftInput::Changed { index: entry.index, is_accepted });
                // A new member needs a snapshot in which it is one.
                self.store.freeze()?;
                self.background.wake();
                applied
            }
        };
        if let Some(members) = &applied.members {
            self.follow_members(members);
        }
        Ok(applied)
    }

    /// Connects to who is a member now, and ends if this one is none any more.
    fn follow_members(&self, members: &[Member]) {
        let applied = self.store.applied().index;
        self.peers.set_members(others(members, self.cluster.member_id), applied);
        self.note_own(members);
    }

    /// What this member is itself. One that has joined is nothing until its snapshot is there.
    fn note_own(&self, members: &[Member]) {
        let own = members.iter().find(|member| member.id == self.cluster.member_id);
        self.cluster.publish_learner(own.is_some_and(|member| member.is_learner));
        let goes_on = trial::has_bug("removed-goes-on");
        if own.is_none() && !members.is_empty() && !goes_on {
            self.cluster.publish_removed();
        }
    }

    fn install(
        &mut self,
        outbox: &mut Outbox,
        applied: &Applied,
        staged: Staged,
    ) -> Result<(), Error> {
        let _under_way = Held::new(&self.metrics.snapshot_apply_in_progress);
        self.store.install(&staged.manifest, &staged.dir)?;
        self.auth.replaced(self.store.view().auth().revision());
        let mark = self.store.applied();
        assert!(
            mark.index >= applied.index.0,
            "the snapshot that arrived ({}) is behind what was announced ({})",
            mark.index,
            applied.index.0
        );
        tracing::info!(index = mark.index, term = mark.term, "applied snapshot");
        outbox.frozen_at = mark.index;
        self.follow_members(&self.store.members());
        self.cluster.publish_applied(mark.index);
        self.lessor.reset(&leases(&self.store)?);
        outbox.lost.fill(true);
        self.post_resync(outbox);
        // The Raft thread reads its inbox while it waits for this.
        let _ = self.raft.send(RaftInput::Installed(Applied {
            index: Index(mark.index),
            term: varve_raftnode::Term(mark.term),
            ..applied.clone()
        }));
        Ok(())
    }
}

/// A change of who votes in the state machine's words.
fn vote_change(change: MemberChange) -> VoteChange {
    match change {
        MemberChange::AddVoter(id) => VoteChange::AddVoter(id.0),
        MemberChange::AddLearner(id) => VoteChange::AddLearner(id.0),
        MemberChange::Remove(id) => VoteChange::Remove(id.0),
    }
}

/// The state machine's leases, for the lessor.
pub fn leases(store: &Store) -> Result<Vec<Known>, Error> {
    let view = store.view();
    let left: HashMap<_, _> = view.lease_checkpoints()?.into_iter().collect();
    let known = |(id, ttl): (LeaseId, i64)| {
        let left = left.get(&id).copied().unwrap_or(ttl);
        Known { id: id.0, ttl, left }
    };
    Ok(view.leases()?.into_iter().map(known).collect())
}
