//! What a node tells about itself and the group, as far as it knows.
//!
//! Nothing here changes anything. What only a leader knows is `None` elsewhere.

use raft::StateRole;

use crate::node::Node;
use crate::{Index, NodeId, Progress, Status, Term};

impl Node {
    /// The follower that is furthest along, for a hand-over before stopping; none unless this
    /// node leads, stays a member, and has heard from another voter lately.
    pub fn best_transferee(&self) -> Option<NodeId> {
        if self.raw.raft.state != StateRole::Leader || self.is_leaving() {
            return None;
        }
        let members = self.members();
        let voters = members.conf().voters().ids();
        let candidates = members.iter().filter(|(id, progress)| {
            **id != self.id && voters.contains(**id) && progress.recent_active
        });
        // Of equals the one with the lowest id, so that equal inputs give equal outputs.
        let best = candidates.max_by_key(|(id, progress)| (progress.matched, u64::MAX - **id));
        best.map(|(id, _)| NodeId(*id))
    }

    /// How far every member is, if this node leads; itself included.
    pub fn progress(&self) -> Option<Vec<Progress>> {
        if self.raw.raft.state != StateRole::Leader {
            return None;
        }
        let members = self.members();
        let voters = members.conf().voters().ids();
        let progress = members.iter().map(|(id, progress)| Progress {
            id: NodeId(*id),
            matched: Index(progress.matched),
            is_voter: voters.contains(*id),
            is_active: *id == self.id || progress.recent_active,
        });
        Some(progress.collect())
    }

    /// Whether this node belongs to the group's voters, as far as it knows.
    pub fn is_voter(&self) -> bool {
        self.members().conf().voters().contains(self.id)
    }

    /// Who votes and who learns, by the changes that have taken effect here; in rising order.
    pub fn members_known(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let known = self.members().conf().to_conf_state();
        let sorted = |ids: &[u64]| {
            let mut ids: Vec<NodeId> = ids.iter().map(|id| NodeId(*id)).collect();
            ids.sort_unstable();
            ids
        };
        (sorted(&known.voters), sorted(&known.learners))
    }

    /// What is known about the group now.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let is_leader = raft.state == StateRole::Leader;
        let leader = (raft.leader_id != raft::INVALID_ID).then_some(NodeId(raft.leader_id));
        let is_alone = self.members().is_singleton() && self.members().conf().learners().is_empty();
        // After a restart a sole leader first applies what it acknowledged before.
        let is_sole = is_alone && raft.apply_to_current_term();
        Status {
            term: Term(raft.term),
            leader,
            is_leader,
            commit: Index(raft.raft_log.committed),
            last: Index(raft.raft_log.last_index()),
            is_sole_leader: is_leader && is_sole,
            has_committed_in_term: is_leader && raft.commit_to_current_term(),
        }
    }

    /// Bytes of the log on disk.
    pub fn log_bytes(&self) -> u64 {
        self.raw.store().disk_bytes()
    }

    /// Bytes written to the log since it was opened.
    pub fn log_written_bytes(&self) -> u64 {
        self.raw.store().written_bytes()
    }
}
