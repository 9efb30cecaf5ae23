//! Changes of the membership: who is a member, who was one, and who may be gone, by what nodes have
//! applied so far.
//!
//! One idea: a change counts where it is first applied by anybody; what it did is the same everywhere.

use std::collections::BTreeSet;

use bytes::Bytes;
use varve_raftnode::{Index, MemberChange, NodeId, ProposeError};

use super::Cluster;

impl Cluster {
    /// The highest id that anybody has had.
    pub fn highest_id(&self) -> u64 {
        self.highest_id
    }

    /// Whether it was a member as of any entry.
    pub fn was_member(&self, id: u64) -> bool {
        self.ever_members.contains(&id)
    }

    /// The members as of the newest entry that was applied anywhere.
    pub fn configuration(&self) -> BTreeSet<u64> {
        let (voters, learners) = self.newest_members();
        voters.iter().chain(learners).map(|id| id.0).collect()
    }

    fn newest_members(&self) -> &(Vec<NodeId>, Vec<NodeId>) {
        let machines = self.members.values().map(|member| &member.machine);
        let newest = machines.max_by_key(|machine| machine.applied()).expect("a member");
        &newest.members
    }

    /// Whether a voter that stays has applied the removal of this one: then it may be gone for
    /// good, as it may be when whoever asked for its removal has the answer.
    pub fn may_be_gone(&self, id: u64) -> bool {
        let Some(removed_at) = self.removed_at.get(&id) else { return false };
        let knows = |one: &NodeId| self.members[&one.0].machine.applied() >= *removed_at;
        self.newest_members().0.iter().any(knows)
    }

    pub fn change(&mut self, id: u64, change: MemberChange) -> Result<(), ProposeError> {
        let result = self.node(id).propose_change(change, Bytes::from(format!("{change:?}")));
        self.look(id);
        result
    }

    /// Confirms what the machine of a node has judged so far.
    pub fn confirm_changes(&mut self, id: u64) {
        while let Some((index, is_accepted)) = self.member(id).unconfirmed.pop_front() {
            self.node(id).changed(Index(index), is_accepted);
        }
        let applied = Index(self.members[&id].machine.applied());
        self.node(id).applied(applied);
        self.look(id);
    }

    /// A change was applied for the first time.
    pub(super) fn note_change(
        &mut self,
        index: u64,
        change: MemberChange,
        is_accepted: bool,
        was_learner: bool,
    ) {
        let kind = match change {
            _ if !is_accepted => 3,
            MemberChange::Remove(_) => 2,
            MemberChange::AddVoter(_) if was_learner => 1,
            MemberChange::AddVoter(_) | MemberChange::AddLearner(_) => 0,
        };
        self.changes[kind] += 1;
        self.ever_members.insert(change.member().0);
        if is_accepted && matches!(change, MemberChange::Remove(_)) {
            self.removed_at.insert(change.member().0, index);
        }
    }
}
