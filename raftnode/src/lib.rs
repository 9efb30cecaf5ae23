//! Agreed order: drives the `raft` crate over the log.
//!
//! (chapter follows)

use bytes::Bytes;

mod codec;
mod cycle;
mod entry;
mod error;
mod node;
mod read;
mod snapshot;
mod storage;
mod terms;
mod timer;
mod validate;
mod wire;

pub use error::{Error, Result};
pub use node::Node;

/// Identity of a member, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// Position in the log, from 1; 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Index(pub u64);

/// A Raft term; 0 before the first election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// How a node is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// Ticks without a leader's message before a node campaigns (randomised up to twice this).
    pub election_ticks: usize,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: usize,
    /// Ask before campaigning, so that a node that was cut off does not disturb.
    pub pre_vote: bool,
    /// Seed of the election timeouts: equal seeds and inputs give equal outputs.
    pub seed: u64,
    /// Distinguishes this start of the process from earlier ones in read contexts.
    pub boot_nonce: u64,
    /// Upper bound of entry bytes in one append message.
    pub message_bytes_max: u64,
    /// Append messages under way to one follower.
    pub inflight_messages_max: usize,
    /// Bytes proposed and not yet committed; beyond it proposals are refused.
    pub uncommitted_bytes_max: u64,
}

/// Where the state machine stands: what it has applied durably, and who votes as of there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Everything up to here is durable in the state machine.
    pub index: Index,
    /// The term of the entry at `index`.
    pub term: Term,
    /// Voting members as of `index`.
    pub voters: Vec<NodeId>,
    /// Non-voting members as of `index`.
    pub learners: Vec<NodeId>,
}

/// A committed log entry, in order, handed out exactly once per start of the process.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its position.
    pub index: Index,
    /// Its term.
    pub term: Term,
    /// What was proposed; empty for the entry with which a leader opens its term.
    pub payload: Bytes,
}

/// A message for another node, framed in our own format.
#[derive(Clone, Debug)]
pub struct Message {
    /// The receiver.
    pub to: NodeId,
    /// Small messages overtake bulk ones on streams of their own.
    pub class: MessageClass,
    /// The frame to be carried, opaque to the carrier; what [`Node::step`] takes.
    pub bytes: Bytes,
}

/// How a message wants to travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageClass {
    /// Heartbeats, votes, acknowledgements.
    Small,
    /// Appends with entries.
    Bulk,
    /// Announces a snapshot at or above this index: the carrier sends the state machine's files
    /// first, then this message with [`Node::snapshot_message`]'s mark filled in.
    Snapshot,
}

/// What the caller must carry out, in field order. See the crate documentation for the cycle.
#[derive(Debug, Default)]
pub struct Output {
    /// To be sent now.
    pub messages: Vec<Message>,
    /// To be applied, in order.
    pub committed: Vec<Committed>,
    /// Reads that may be answered once `Index` is applied: (read token, index).
    pub reads: Vec<(u64, Index)>,
    /// Reads that must be retried or failed: leadership moved.
    pub reads_failed: Vec<u64>,
    /// A received snapshot that the state machine must install now and confirm with
    /// [`Node::snapshot_installed`] before anything else is persisted.
    pub install: Option<Applied>,
}

/// What is known about the group; compare for changes after every cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Current term.
    pub term: Term,
    /// Leader of the term, if known.
    pub leader: Option<NodeId>,
    /// Whether this node leads.
    pub is_leader: bool,
    /// Highest committed index known here.
    pub commit: Index,
    /// Highest index in the log here.
    pub last: Index,
    /// This node is the only voter and leads: what it has applied is all that was acknowledged,
    /// so local reads are linearizable.
    pub is_sole_leader: bool,
    /// A leader that has committed in its term: only then it may serve reads.
    pub has_committed_in_term: bool,
}

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// There is no leader to take it.
    NoLeader,
    /// Too many uncommitted bytes, or leadership is being handed over.
    Dropped,
}
