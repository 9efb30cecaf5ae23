//! How a leader that was removed ends its leadership: when those who stay know of it.
//!
//! One idea: until the removal takes effect here, this node leads the group of before, its heartbeats
//! tell the commit index, and the answers say who has it, durably (`cycle.rs`, `must_find_again`). With
//! it, a majority of those who stay can elect without this node; without it they would ask for its
//! vote, and it may be gone for good.
//!
//! To lead for a moment by the membership of before is what every leader does whose state machine is
//! slow: any majority of before and any majority of after share a member. Meanwhile it proposes no
//! change, offers its leadership to nobody and holds no lease.
//!
//! Bounded by an election timeout, as etcd's leader stays for a second: who can reach nobody ends all
//! the same.

use raft::{INVALID_ID, StateRole};
use varve_wal::trial;

use crate::MemberChange;
use crate::change::crate_form;
use crate::node::Node;

/// The removal of this node, agreed upon and not in effect yet.
pub(crate) struct Leaving {
    /// Where it stands in the log.
    index: u64,
    change: MemberChange,
    ticks_left: usize,
}

impl Node {
    /// Whether this node was removed and leads on until others know: its process should stay as long.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// A change was accepted at `index`: it takes effect, at once unless it is this leader's removal.
    pub(crate) fn follow_change(&mut self, index: u64, change: MemberChange) {
        let is_own_end = matches!(change, MemberChange::Remove(member) if member.0 == self.id);
        let leads = self.raw.raft.state == StateRole::Leader;
        if is_own_end && leads {
            let ticks_left = self.raw.raft.election_timeout();
            self.leaving = Some(Leaving { index, change, ticks_left });
            self.leave_when_told();
        } else {
            self.take_effect(change);
        }
    }

    /// A tick passed.
    pub(crate) fn tick_leaving(&mut self) {
        if let Some(leaving) = &mut self.leaving {
            leaving.ticks_left = leaving.ticks_left.saturating_sub(1);
        }
        self.leave_when_told();
    }

    /// Ends it if enough know of the removal, if another leads, or if it took too long.
    pub(crate) fn leave_when_told(&mut self) {
        let Some(leaving) = &self.leaving else { return };
        let leads = self.raw.raft.state == StateRole::Leader;
        if leads && !self.majority_of_others_knows(leaving.index) {
            if leaving.ticks_left > 0 {
                return;
            }
            trial::reach("a removed leader that told too few");
        }
        let change = leaving.change;
        self.leaving = None;
        self.take_effect(change);
        self.settle();
    }

    fn take_effect(&mut self, change: MemberChange) {
        self.raw
            .apply_conf_change(&crate_form(change))
            .expect("the state machine keeps at least one voter");
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader && !raft.prs().conf().voters().contains(self.id) {
            trial::reach("a leader that is no voter any more");
            // It would go on leading a group of others, without a vote of its own.
            raft.become_follower(raft.term, INVALID_ID);
        }
    }

    /// Whether most of the other voters are known to know that everything up to `index` is committed.
    fn majority_of_others_knows(&self, index: u64) -> bool {
        let members = self.members();
        let voters = members.conf().voters().ids();
        let others = members.iter().filter(|(id, _)| **id != self.id && voters.contains(**id));
        let knows: Vec<bool> = others.map(|(_, other)| other.committed_index >= index).collect();
        2 * knows.iter().filter(|knows| **knows).count() > knows.len()
    }
}
