//! Snapshots: the mark that travels, and the order of installing one.
//!
//! A snapshot's content is the state machine's; Raft sees only the mark: index, term, members.
//! A follower that installs one changes two durable things, its state machine and its log. They
//! cannot change in one step, so that the order is fixed: **state machine first, then the log**
//! (one frame: empty the log, then the hard state), then the acknowledgement.
//!
//! | crash | state machine | log | on opening |
//! | --- | --- | --- | --- |
//! | before the state machine's install is durable | old | old | as if it never came |
//! | after it, before the log's frame | new | old, behind | reset the log to follow it |
//! | after it, before the log's frame, log longer | new | old, another term there | reset the log |
//! | after the log's frame | new | new | nothing to do |
//!
//! The other order would leave a log that begins after what the state machine has: a gap that
//! nothing on this node can fill. Such a log is refused. [`opening`] is the rule, as a function.

use raft::eraftpb::Snapshot;

use crate::{Applied, Error, Index, NodeId, Result, Term};

/// What a log looks like when it is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogView {
    /// Oldest index that can be read.
    pub(crate) first: u64,
    /// Newest index; `first - 1` if there is none.
    pub(crate) last: u64,
    /// Commit index of the durable hard state.
    pub(crate) commit: u64,
    /// Term of the entry at the state machine's applied index, if the log has it.
    pub(crate) term_at_applied: Option<u64>,
}

/// What to do with a log that is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// It continues the state machine.
    Keep,
    /// A snapshot was installed and the log was not reset before the crash (or it is a founder's
    /// first start): forget the log and go on after the state machine.
    Reset,
}

/// Judges a log by what its state machine has applied. First row that fits:
///
/// | the log | decision |
/// | --- | --- |
/// | ends before the applied index | reset |
/// | begins after the applied index + 1 | refuse: gap |
/// | begins at the applied index + 1 | keep |
/// | has the applied index with the same term | keep |
/// | has it with another term, not known to be committed | reset |
/// | has it with another term, known to be committed | refuse: two histories |
pub(crate) fn opening(log: LogView, applied: &Applied) -> Result<Opening> {
    let index = applied.index.0;
    if log.last < index {
        return Ok(Opening::Reset);
    }
    if log.first > index + 1 {
        return Err(Error::Gap { first: Index(log.first), applied: applied.index });
    }
    if log.first == index + 1 {
        return Ok(Opening::Keep);
    }
    let log_term = log.term_at_applied.expect("the log has first..=last, the index is in it");
    if log_term == applied.term.0 {
        return Ok(Opening::Keep);
    }
    if log.commit < index {
        return Ok(Opening::Reset);
    }
    Err(Error::Disagreement {
        index: applied.index,
        log_term: Term(log_term),
        applied_term: applied.term,
    })
}

/// The crate's form of a mark; its members in rising order.
pub(crate) fn snapshot_of(mark: &Applied) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = mark.index.0;
    metadata.term = mark.term.0;
    let members = metadata.mut_conf_state();
    members.set_voters(sorted(&mark.voters));
    members.set_learners(sorted(&mark.learners));
    snapshot
}

/// The mark of a snapshot.
pub(crate) fn mark_of(snapshot: &Snapshot) -> Applied {
    let metadata = snapshot.get_metadata();
    let members = metadata.get_conf_state();
    Applied {
        index: Index(metadata.index),
        term: Term(metadata.term),
        voters: members.voters.iter().map(|id| NodeId(*id)).collect(),
        learners: members.learners.iter().map(|id| NodeId(*id)).collect(),
    }
}

/// Whether two marks name the same state, whatever the order of their members.
pub(crate) fn same_mark(left: &Applied, right: &Applied) -> bool {
    snapshot_of(left) == snapshot_of(right)
}

fn sorted(members: &[NodeId]) -> Vec<u64> {
    let mut ids: Vec<u64> = members.iter().map(|member| member.0).collect();
    ids.sort_unstable();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(index: u64, term: u64) -> Applied {
        Applied {
            index: Index(index),
            term: Term(term),
            voters: vec![NodeId(1)],
            learners: Vec::new(),
        }
    }

    fn log(first: u64, last: u64, commit: u64, term_at_applied: Option<u64>) -> LogView {
        LogView { first, last, commit, term_at_applied }
    }

    #[test]
    fn every_row_of_the_opening_table() {
        let at = applied(10, 3);
        assert_eq!(opening(log(1, 0, 0, None), &at).unwrap(), Opening::Reset);
        assert_eq!(opening(log(2, 9, 8, None), &at).unwrap(), Opening::Reset);
        assert_eq!(opening(log(11, 10, 10, None), &at).unwrap(), Opening::Keep);
        assert_eq!(opening(log(11, 15, 10, None), &at).unwrap(), Opening::Keep);
        assert_eq!(opening(log(10, 12, 10, Some(3)), &at).unwrap(), Opening::Keep);
        assert_eq!(opening(log(2, 10, 2, Some(3)), &at).unwrap(), Opening::Keep);
        assert_eq!(opening(log(2, 10, 9, Some(2)), &at).unwrap(), Opening::Reset);
        assert_eq!(opening(log(2, 12, 9, Some(4)), &at).unwrap(), Opening::Reset);

        let gap = opening(log(12, 15, 12, None), &at).unwrap_err().to_string();
        assert!(gap.contains("Index(12)") && gap.contains("Index(10)"), "{gap}");
        assert!(matches!(opening(log(12, 11, 11, None), &at), Err(Error::Gap { .. })));
        let two = opening(log(2, 12, 10, Some(2)), &at).unwrap_err();
        assert!(matches!(two, Error::Disagreement { index: Index(10), .. }), "{two}");
    }

    #[test]
    fn marks_are_the_same_in_any_order_of_members() {
        let mut left = applied(4, 2);
        left.voters = vec![NodeId(3), NodeId(1)];
        let mut right = left.clone();
        right.voters.reverse();
        assert!(same_mark(&left, &right));
        right.term = Term(3);
        assert!(!same_mark(&left, &right));
        assert_eq!(mark_of(&snapshot_of(&left)).voters, [NodeId(1), NodeId(3)]);
    }
}
