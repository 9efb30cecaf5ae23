//! What every thread may know about this member and its group: ids, and a few numbers that the
//! Raft and apply threads publish. Readers take no lock.
//!
//! Invariants: each number has one writer (named at the field); `applied` never exceeds
//! `committed` as seen by the apply thread, and neither goes back.
//!
//! It decides nothing: whoever reads a number here must be fine with it being a moment old,
//! except `has_all_acknowledged`, see there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;
use varve_api::etcdserverpb::ResponseHeader;
use varve_raftnode::Status;

use crate::peer::frame::REMOVED;

/// Shared, immutable ids and published numbers of this member.
pub struct Cluster {
    /// Id of the cluster, computed as etcd computes it.
    pub cluster_id: u64,
    /// Id of this member.
    pub member_id: u64,
    /// Written by the Raft thread.
    term: AtomicU64,
    /// Written by the Raft thread; 0 when unknown.
    leader: watch::Sender<u64>,
    /// Written by the Raft thread. True only while this member is the only one and leads: of what is
    /// proposed then nobody else can acknowledge or show anything.
    is_sole_leader: AtomicBool,
    /// Written by the Raft thread before `is_sole_leader` becomes true: the newest entry at that time.
    /// Up to there who was a member before may have acknowledged what is not applied here yet.
    shared_until: AtomicU64,
    /// Written by the Raft thread.
    committed: AtomicU64,
    /// Written by the apply thread.
    applied: AtomicU64,
    /// Written by the Raft thread.
    last: AtomicU64,
    /// Written by the Raft thread.
    leader_changes: AtomicU64,
    /// Written by the apply thread: this member has no vote.
    is_learner: AtomicBool,
    /// Written by the apply and peer threads: this member was removed from the cluster.
    is_removed: watch::Sender<bool>,
    /// Written by the Raft thread. So many bytes of committed entries wait for the apply thread
    /// that requests are refused.
    is_behind: AtomicBool,
}

impl Cluster {
    /// Nothing is known but the ids.
    pub fn new(cluster_id: u64, member_id: u64) -> Self {
        Self {
            cluster_id,
            member_id,
            term: AtomicU64::new(0),
            leader: watch::Sender::new(0),
            is_sole_leader: AtomicBool::new(false),
            shared_until: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            last: AtomicU64::new(0),
            leader_changes: AtomicU64::new(0),
            is_learner: AtomicBool::new(false),
            is_removed: watch::Sender::new(false),
            is_behind: AtomicBool::new(false),
        }
    }

    /// Publishes the group's status; the Raft thread's call. Returns whether the leader changed.
    pub fn publish(&self, status: &Status) -> bool {
        self.term.store(status.term.0, Ordering::Relaxed);
        self.committed.store(status.commit.0, Ordering::Relaxed);
        self.last.store(status.last.0, Ordering::Relaxed);
        let is_sole_leader = status.is_sole_leader && status.has_committed_in_term;
        if is_sole_leader && !self.is_sole_leader() {
            self.shared_until.store(status.last.0, Ordering::Relaxed);
        }
        self.is_sole_leader.store(is_sole_leader, Ordering::Release);
        let leader = status.leader.map_or(0, |leader| leader.0);
        let changed = self.leader.send_if_modified(|known| {
            let changed = *known != leader;
            *known = leader;
            changed
        });
        if changed && leader != 0 {
            self.leader_changes.fetch_add(1, Ordering::Relaxed);
        }
        changed
    }

    /// Publishes whether the apply thread is too far behind; the Raft thread's call.
    pub fn publish_behind(&self, is_behind: bool) {
        self.is_behind.store(is_behind, Ordering::Relaxed);
    }

    /// Publishes whether this member is a learner; the apply thread's call.
    pub fn publish_learner(&self, is_learner: bool) {
        self.is_learner.store(is_learner, Ordering::Relaxed);
    }

    /// See the field.
    pub fn is_learner(&self) -> bool {
        self.is_learner.load(Ordering::Relaxed)
    }

    /// This member was removed: the process is going to end.
    pub fn publish_removed(&self) {
        if !self.is_removed.send_replace(true) {
            tracing::warn!(error = REMOVED, "server error");
            tracing::warn!("data-dir used by this member must be removed");
        }
    }

    /// Whether this member was removed, and when it is.
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.is_removed.subscribe()
    }

    /// See the field.
    pub fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }

    /// Publishes how far the state machine is; the apply thread's call.
    pub fn publish_applied(&self, index: u64) {
        self.applied.store(index, Ordering::Release);
    }

    /// Current term.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Relaxed)
    }

    /// Member id of the leader; 0 when unknown.
    pub fn leader(&self) -> u64 {
        *self.leader.borrow()
    }

    /// Notified at every change of the leader.
    pub fn leader_changed(&self) -> watch::Receiver<u64> {
        self.leader.subscribe()
    }

    /// Whether this member leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.leader() == self.member_id
    }

    /// See the field.
    pub fn is_sole_leader(&self) -> bool {
        self.is_sole_leader.load(Ordering::Acquire)
    }

    /// Whether everything that was acknowledged or shown anywhere is applied here, so that a local read
    /// is linearizable. Says so only of the only member.
    pub fn has_all_acknowledged(&self) -> bool {
        self.is_sole_leader() && self.applied() >= self.shared_until.load(Ordering::Relaxed)
    }

    /// Highest committed index known here.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Highest applied index.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Highest index in the log.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// Leaders seen since the start.
    pub fn leader_changes(&self) -> u64 {
        self.leader_changes.load(Ordering::Relaxed)
    }

    /// A response header at `revision`.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision,
            raft_term: self.term(),
        }
    }
}

#[cfg(test)]
mod tests {
    use varve_raftnode::{Index, NodeId, Term};

    use super::*;

    #[test]
    fn the_last_member_reads_alone_when_it_has_applied_what_others_may_have_acknowledged() {
        let cluster = Cluster::new(7, 3);
        let status = |last, is_sole_leader| Status {
            term: Term(8),
            leader: Some(NodeId(3)),
            is_leader: true,
            commit: Index(88),
            last: Index(last),
            is_sole_leader,
            has_committed_in_term: true,
        };
        cluster.publish_applied(87);
        cluster.publish(&status(88, false));
        assert!(!cluster.has_all_acknowledged());
        // The other one was removed at 86, and has acknowledged 88.
        cluster.publish(&status(88, true));
        assert!(!cluster.has_all_acknowledged());
        cluster.publish_applied(88);
        assert!(cluster.has_all_acknowledged());
        // From here on nobody but this member acknowledges anything.
        cluster.publish(&status(90, true));
        assert!(cluster.has_all_acknowledged());
        cluster.publish(&status(91, false));
        assert!(!cluster.has_all_acknowledged());
    }
}
