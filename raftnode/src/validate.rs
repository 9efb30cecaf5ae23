//! Judges a message before the `raft` crate sees it.
//!
//! The crate was written for messages from itself: about forty places panic on one that cannot
//! be. A peer with a bug, a wiped disk or ill will must not stop this process, so that every
//! such place that a message can reach has a rule here. The rules never refuse what a correct
//! peer sends; what they refuse, Raft repeats anyway.

use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use crate::change::change_of;
use crate::read::CONTEXT_BYTES;
use crate::{Error, NodeId, Result};

/// Above every index and term that can come about; leaves room for arithmetic.
const NUMBER_MAX: u64 = 1 << 62;

/// What the `raft` crate puts into vote requests of a hand-over.
pub(crate) const TRANSFER_CONTEXT: &[u8] = b"CampaignTransfer";

/// What the rules need to know about the node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// This node.
    pub(crate) id: u64,
    /// Its term.
    pub(crate) term: u64,
    /// Whether it leads.
    pub(crate) is_leader: bool,
    /// Highest index of its log, durable or not.
    pub(crate) last: u64,
    /// Whether entries or a snapshot wait to become durable.
    pub(crate) has_unpersisted: bool,
    /// What the sender is known to have, if it is a member and this node leads.
    pub(crate) matched: Option<u64>,
}

/// Whether `message`, which came from `from`, may be stepped.
pub(crate) fn check(from: NodeId, message: &Message, view: &View) -> Result<()> {
    let refused = |reason: String| Error::Refused { from, reason };
    check_envelope(from.0, message, view).map_err(refused)?;
    check_contents(message).map_err(refused)?;
    for entry in message.entries.iter() {
        change_of(entry)?;
    }
    // Forwarded proposals end at a leader: two nodes that hold each other for it would otherwise
    // pass them to and fro.
    if message.get_msg_type() == MessageType::MsgPropose && !view.is_leader {
        let reason = "a proposal, but this node does not lead".to_string();
        return Err(Error::NotNow { from, reason });
    }
    use MessageType as Type;
    match message.get_msg_type() {
        Type::MsgPropose => check_proposal(message),
        Type::MsgAppend => check_append(message),
        Type::MsgAppendResponse => check_append_response(message, view),
        Type::MsgHeartbeat => check_heartbeat(message, view),
        Type::MsgSnapshot => check_snapshot(message, view),
        Type::MsgReadIndex => check_read(message, view),
        Type::MsgReadIndexResp => check_read_response(message),
        Type::MsgRequestVoteResponse | Type::MsgRequestPreVoteResponse | Type::MsgTimeoutNow => {
            check_election(message, view)
        }
        _ => Ok(()),
    }
    .map_err(refused)
}

type Verdict = std::result::Result<(), String>;

/// The rule, or the reason for refusing.
fn require(rule: bool, reason: impl FnOnce() -> String) -> Verdict {
    if rule { Ok(()) } else { Err(reason()) }
}

/// Sender, receiver and the range of all numbers.
fn check_envelope(from: u64, message: &Message, view: &View) -> Verdict {
    require(from != 0 && from != view.id, || format!("{from} cannot be a peer's id"))?;
    require(message.from == from, || format!("it says that it is from {}", message.from))?;
    require(message.to == view.id, || format!("it is for {}, this is {}", message.to, view.id))?;
    let forwarded =
        matches!(message.get_msg_type(), MessageType::MsgPropose | MessageType::MsgReadIndex);
    // The crate takes a message of term 0 for one of its own and skips the check of the term.
    require(forwarded == (message.term == 0), || format!("term {}", message.term))?;
    for number in [
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
    ] {
        require(number < NUMBER_MAX, || format!("the number {number} is out of range"))?;
    }
    require(message.request_snapshot == 0, || "nobody requests snapshots here".to_string())
}

/// Which type may carry entries, a snapshot and a context.
fn check_contents(message: &Message) -> Verdict {
    use MessageType as Type;
    let kind = message.get_msg_type();
    let entries = message.entries.len();
    let fits = match kind {
        Type::MsgAppend => true,
        Type::MsgPropose => entries >= 1,
        Type::MsgReadIndex | Type::MsgReadIndexResp => entries == 1,
        _ => entries == 0,
    };
    require(fits, || format!("{entries} entries in {kind:?}"))?;
    let has_mark = message.snapshot.is_some();
    require(has_mark == (kind == Type::MsgSnapshot), || {
        format!("{} mark in {kind:?}", if has_mark { "a" } else { "no" })
    })?;
    let context = &message.context;
    let fits = match kind {
        Type::MsgHeartbeat | Type::MsgHeartbeatResponse => {
            [0, CONTEXT_BYTES, 2 * CONTEXT_BYTES].contains(&context.len())
        }
        Type::MsgRequestVote => context.is_empty() || &context[..] == TRANSFER_CONTEXT,
        _ => context.is_empty(),
    };
    require(fits, || format!("a context of {} bytes in {kind:?}", context.len()))
}

/// An empty payload means the leader's own entry and cannot be proposed. A change of the
/// membership is for the leader itself to propose: it knows who is ready.
fn check_proposal(message: &Message) -> Verdict {
    for entry in message.entries.iter() {
        require(entry.get_entry_type() == EntryType::EntryNormal, || {
            "a membership change proposed by another than the leader".to_string()
        })?;
        require(!entry.data.is_empty(), || "an empty proposal".to_string())?;
    }
    Ok(())
}

/// Entries follow each other, and their terms never fall. The crate compares terms of indexes
/// beyond its log as zeros: a zero term would pass there for a match.
fn check_append(message: &Message) -> Verdict {
    require(message.index > 0, || "an append at index 0, logs begin at 2".to_string())?;
    let mut index = message.index;
    let mut term = message.log_term;
    require(term > 0, || format!("no term for index {index}"))?;
    for entry in message.entries.iter() {
        require(entry.index == index + 1, || format!("entry {} after {index}", entry.index))?;
        require(entry.term >= term, || {
            format!("entry {} has term {} after {term}", entry.index, entry.term)
        })?;
        require(is_plain(entry), || format!("entry {} carries a context", entry.index))?;
        index = entry.index;
        term = entry.term;
    }
    require(term <= message.term, || format!("entries of term {term} in term {}", message.term))
}

/// A follower cannot have more than the leader. A rejection below what the follower has
/// acknowledged is late; raft 0.7.0 would move back behind that (fixed after it, pull 557).
fn check_append_response(message: &Message, view: &View) -> Verdict {
    if !view.is_leader || message.term != view.term {
        return Ok(());
    }
    if !message.reject {
        return require(message.index <= view.last, || {
            format!("it has index {}, the leader ends at {}", message.index, view.last)
        });
    }
    let matched = view.matched.unwrap_or(0);
    require(message.index > matched, || {
        format!("a late rejection of index {}, {matched} was acknowledged", message.index)
    })
}

/// The leader commits only what the follower has acknowledged. If it is not here, this node lost
/// what it acknowledged, and must not go on as if it had not.
fn check_heartbeat(message: &Message, view: &View) -> Verdict {
    require(message.term < view.term || message.commit <= view.last, || {
        format!("commit {} is above the end of the log {}", message.commit, view.last)
    })
}

fn check_snapshot(message: &Message, view: &View) -> Verdict {
    let metadata = message.get_snapshot().get_metadata();
    require(metadata.index < NUMBER_MAX, || format!("index {}", metadata.index))?;
    require(metadata.term <= message.term, || {
        format!("a snapshot of term {} in term {}", metadata.term, message.term)
    })?;
    let members = metadata.get_conf_state();
    let here = members.voters.contains(&view.id) || members.learners.contains(&view.id);
    require(here, || format!("{} is not among the snapshot's members", view.id))
}

/// A question goes to the leader. A node that stopped leading does not pass it on: the asker
/// learns of the new leader and asks again.
fn check_read(message: &Message, view: &View) -> Verdict {
    require(view.is_leader, || "a read, but this node does not lead".to_string())?;
    let length = message.entries[0].data.len();
    require(length == CONTEXT_BYTES, || format!("a read context of {length} bytes"))
}

fn check_read_response(message: &Message) -> Verdict {
    let length = message.entries[0].data.len();
    require(length == 2 * CONTEXT_BYTES, || format!("a read context of {length} bytes"))
}

/// A node stands for election only with a durable log (the crate asserts it). Votes that are
/// asked for only after the sync cannot be answered before it.
fn check_election(message: &Message, view: &View) -> Verdict {
    require(!view.has_unpersisted, || {
        format!("{:?} before the log is durable", message.get_msg_type())
    })
}

fn is_plain(entry: &Entry) -> bool {
    entry.get_entry_type() != EntryType::EntryNormal || entry.context.is_empty()
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
