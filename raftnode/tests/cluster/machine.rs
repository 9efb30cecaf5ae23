//! A state machine that is the list of all commands, with a durable part.

use bytes::Bytes;
use varve_raftnode::{Applied, Index, MemberChange, NodeId, Term};

/// Invariants: `entries` are those of indexes 2 and up, without a gap, and reach at least to
/// `flushed`; only what `flushed` covers survives a crash.
#[derive(Clone)]
pub struct Machine {
    /// (index, term, payload).
    pub entries: Vec<(u64, u64, Bytes)>,
    pub flushed: Applied,
    /// Voters and learners as of the last entry.
    pub members: (Vec<NodeId>, Vec<NodeId>),
}

impl Machine {
    pub fn new(founders: Applied) -> Self {
        let members = (founders.voters.clone(), founders.learners.clone());
        Self { entries: Vec::new(), flushed: founders, members }
    }

    pub fn applied(&self) -> u64 {
        self.entries.last().map_or(self.flushed.index.0.min(1), |entry| entry.0)
    }

    pub fn apply(&mut self, index: u64, term: u64, payload: Bytes) {
        assert_eq!(index, self.applied() + 1, "applied out of order");
        self.entries.push((index, term, payload));
    }

    /// Carries a change of the membership out, unless it makes no sense; says which.
    pub fn change(&mut self, change: MemberChange) -> bool {
        let (voters, learners) = &mut self.members;
        let accepts = match change {
            MemberChange::AddVoter(id) => !voters.contains(&id),
            MemberChange::AddLearner(id) => !voters.contains(&id) && !learners.contains(&id),
            MemberChange::Remove(id) => {
                learners.contains(&id) || voters.contains(&id) && voters.len() > 1
            }
        };
        if !accepts {
            return false;
        }
        let (MemberChange::AddVoter(id) | MemberChange::AddLearner(id) | MemberChange::Remove(id)) =
            change;
        voters.retain(|other| *other != id);
        learners.retain(|other| *other != id);
        match change {
            MemberChange::AddVoter(id) => voters.push(id),
            MemberChange::AddLearner(id) => learners.push(id),
            MemberChange::Remove(_) => {}
        }
        // As in a mark that has travelled.
        voters.sort_unstable();
        learners.sort_unstable();
        true
    }

    pub fn flush(&mut self) {
        if let Some((index, term, _)) = self.entries.last() {
            self.flushed.index = Index(*index);
            self.flushed.term = Term(*term);
            (self.flushed.voters, self.flushed.learners) = self.members.clone();
        }
    }

    pub fn lose_volatile(&mut self) {
        let flushed = self.flushed.index.0;
        self.entries.retain(|entry| entry.0 <= flushed);
        self.members = (self.flushed.voters.clone(), self.flushed.learners.clone());
    }

    /// All commands, without the leaders' own empty ones.
    pub fn commands(&self) -> Vec<String> {
        let texts = self.entries.iter().map(|entry| text_of(&entry.2));
        texts.filter(|text| !text.is_empty()).collect()
    }
}

/// What a trace says of a payload.
pub fn text_of(payload: &[u8]) -> String {
    if payload.len() > 64 {
        return format!("<{} bytes>", payload.len());
    }
    String::from_utf8_lossy(payload).into_owned()
}
